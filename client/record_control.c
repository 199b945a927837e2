/*
 * record_control.c: see record_control.h.
 *
 * After the hand-off there is no handshake to continue: TLS 1.3 keeps KeyUpdate (and, to a client,
 * NewSessionTicket), TLS 1.2 keeps the polite refusal of a renegotiation; anything else is an
 * error.
 */
#include "client/record_control.h"

#include <string.h>

#define HEADER_SIZE 4 /* of a handshake message: type, length */

#define TICKET_MAX 65536 /* bytes of a NewSessionTicket message, passed over */
#define HELLO_MAX  65536 /* ... of a ClientHello that is refused */

enum message_type {
    HELLO_REQUEST = 0,
    CLIENT_HELLO = 1,
    NEW_SESSION_TICKET = 4,
    KEY_UPDATE = 24,
};

static enum record_event
fail(struct record_failure *failure, enum record_alert alert, const char *text)
{
    *failure = (struct record_failure){.text = text, .alert = (int16_t)alert};
    return RECORD_FAILED;
}

static enum record_event
receive_alert(const struct record *record, const uint8_t *content, size_t size,
              struct record_failure *failure)
{
    bool tls13 = record->suite->version == TRAFFIC_TLS_1_3;

    if (size != 2)
        return fail(failure, RECORD_DECODE_ERROR, "the peer sent a malformed alert");
    if (content[1] == RECORD_CLOSE_NOTIFY)
        return RECORD_CLOSED;
    /* TLS 1.3 knows no levels (RFC 8446 section 6): every other alert but this one is an error. */
    if (tls13 ? content[1] == RECORD_USER_CANCELED : content[0] == 1)
        return RECORD_NOTHING;
    *failure = (struct record_failure){
        .text = "the peer ended the connection", .alert = content[1], .received = true};
    return RECORD_FAILED;
}

/* A whole KeyUpdate is in record->message; rest: bytes behind it in the same record. */
static enum record_event
receive_key_update(struct record *record, size_t rest, struct record_failure *failure)
{
    if (rest != 0)
        return fail(failure, RECORD_UNEXPECTED_MESSAGE,
                    "the peer sent something behind KeyUpdate in the same record");
    if (record->message[HEADER_SIZE] > 1)
        return fail(failure, RECORD_ILLEGAL_PARAMETER, "the peer sent a malformed KeyUpdate");
    if (!record->in_kernel && traffic_keys_update(record->suite, &record->state.receive) == -1)
        return fail(failure, RECORD_INTERNAL_ERROR, "libcrypto could not derive a key");
    record->receive_epoch++;
    record->request_made = false;
    /* One answer is enough for several requests (RFC 8446 section 4.6.3). */
    if (record->message[HEADER_SIZE] == 1)
        record->update_owed = true;
    return RECORD_NOTHING;
}

/* The header of a handshake message is complete: may it come, and how much of it do we want? */
static enum record_event
judge_message(struct record *record, struct record_failure *failure)
{
    const uint8_t *message = record->message;
    bool tls13 = record->suite->version == TRAFFIC_TLS_1_3;
    size_t length = (size_t)message[1] << 16 | (size_t)message[2] << 8 | message[3];

    if (tls13 && message[0] == KEY_UPDATE) {
        if (length != 1)
            return fail(failure, RECORD_DECODE_ERROR, "the peer sent a malformed KeyUpdate");
        return RECORD_NOTHING;
    }
    if (tls13 && message[0] == NEW_SESSION_TICKET && !record->is_server) {
        if (length > TICKET_MAX)
            return fail(failure, RECORD_DECODE_ERROR, "the peer sent a malformed ticket");
    } else if (!tls13 && message[0] == (record->is_server ? CLIENT_HELLO : HELLO_REQUEST)) {
        if (length > HELLO_MAX || (message[0] == HELLO_REQUEST && length != 0))
            return fail(failure, RECORD_DECODE_ERROR, "the peer sent a malformed hello");
        record->refusal_owed = true;
    } else {
        return fail(failure, RECORD_UNEXPECTED_MESSAGE,
                    "the peer sent a handshake message that has no place here");
    }
    record->skip = (uint32_t)length;
    record->message_size = 0;
    return RECORD_NOTHING;
}

static enum record_event
receive_handshake(struct record *record, const uint8_t *content, size_t size,
                  struct record_failure *failure)
{
    enum record_event event = RECORD_NOTHING;
    size_t piece;

    if (size == 0)
        return fail(failure, RECORD_UNEXPECTED_MESSAGE, "the peer sent an empty handshake record");
    while (size > 0 && event == RECORD_NOTHING) {
        if (record->skip > 0) {
            piece = size < record->skip ? size : record->skip;
            record->skip -= (uint32_t)piece;
            content += piece;
            size -= piece;
            continue;
        }
        record->message[record->message_size++] = *content++;
        size--;
        if (record->message_size == HEADER_SIZE) {
            event = judge_message(record, failure);
        } else if (record->message_size > HEADER_SIZE) {
            record->message_size = 0;
            event = receive_key_update(record, size, failure);
        }
    }
    return event;
}

enum record_event
record_receive_control(struct record *record, uint8_t type, const uint8_t *content, size_t size,
                       struct record_failure *failure)
{
    if (++record->idle > RECORD_IDLE_MAX)
        return fail(failure, RECORD_UNEXPECTED_MESSAGE,
                    "the peer sent too many records without data");
    if (type != RECORD_HANDSHAKE && (record->message_size > 0 || record->skip > 0))
        return fail(failure, RECORD_UNEXPECTED_MESSAGE, "the peer interrupted a handshake message");
    switch (type) {
    case RECORD_APPLICATION_DATA: /* empty */
        return RECORD_NOTHING;
    case RECORD_ALERT:
        return receive_alert(record, content, size, failure);
    case RECORD_HANDSHAKE:
        return receive_handshake(record, content, size, failure);
    default:
        return fail(failure, RECORD_UNEXPECTED_MESSAGE,
                    "the peer sent a record of a type that has no place here");
    }
}

const char *
record_alert_name(int alert)
{
    static const struct {
        int alert;
        const char *name;
    } names[] = {
        {0, "close_notify"},
        {10, "unexpected_message"},
        {20, "bad_record_mac"},
        {22, "record_overflow"},
        {40, "handshake_failure"},
        {42, "bad_certificate"},
        {43, "unsupported_certificate"},
        {44, "certificate_revoked"},
        {45, "certificate_expired"},
        {46, "certificate_unknown"},
        {47, "illegal_parameter"},
        {48, "unknown_ca"},
        {49, "access_denied"},
        {50, "decode_error"},
        {51, "decrypt_error"},
        {70, "protocol_version"},
        {71, "insufficient_security"},
        {80, "internal_error"},
        {86, "inappropriate_fallback"},
        {90, "user_canceled"},
        {100, "no_renegotiation"},
        {109, "missing_extension"},
        {110, "unsupported_extension"},
        {112, "unrecognized_name"},
        {113, "bad_certificate_status_response"},
        {115, "unknown_psk_identity"},
        {116, "certificate_required"},
        {120, "no_application_protocol"},
    };
    size_t i;

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (names[i].alert == alert)
            return names[i].name;
    return "unknown";
}
