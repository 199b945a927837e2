/* move.c: see move.h; the layout in prose is in PROTOCOL.md. */
#include "protocol/move.h"

#include <string.h>

#include "protocol/wire.h"

#define NO_ALERT     UINT8_MAX
#define CLOSE_NOTIFY 0

/* The one handshake message that may be kept in pieces to the end of its header. */
#define KEY_UPDATE 24

/* Bytes of a body without texts, chain and waiting bytes. */
#define FIXED_SIZE (2 + 2 + 1 + 4 + TRAFFIC_STATE_SIZE + 4 + 1 + 1 + MOVE_MESSAGE_MAX + 1 + 2 * 4)
#define BODY_MIN   (FIXED_SIZE + 3 + 3 * 4)
#define LARGE_MAX                                                                                  \
    (BODY_MIN + 4 + SERVICE_NAME_MAX + SERVICE_HOST_MAX + SERVICE_ALPN_MAX + SERVICE_CHAIN_MAX +   \
     MOVE_PLAIN_MAX)

_Static_assert(LARGE_MAX <= CHANNEL_BODY_MAX, "all but the ciphertext fits in one message");

const struct channel_rule move_rules[] = {
    {MOVE_CONNECTION, 1, BODY_MIN, CHANNEL_BODY_MAX},
    {MOVE_CONNECTION_LARGE, 2, BODY_MIN, LARGE_MAX},
};
const size_t move_rule_count = sizeof(move_rules) / sizeof(struct channel_rule);

bool
move_is_format(const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    return wire_get_u16(&reader) == MOVE_FORMAT;
}

static void
put_failure(struct wire_writer *writer, const struct move_failure *failure)
{
    wire_put_u8(writer, failure->kind);
    wire_put_u8(writer, failure->alert);
    wire_put_u16(writer, failure->number);
}

static void
get_failure(struct wire_reader *reader, struct move_failure *failure)
{
    failure->kind = wire_get_u8(reader);
    failure->alert = wire_get_u8(reader);
    failure->number = wire_get_u16(reader);
}

size_t
move_put_connection(const struct move_connection *m, bool large, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u16(&writer, MOVE_FORMAT);
    wire_put_u16(&writer, m->flags);
    wire_put_u8(&writer, m->form);
    wire_put_u32(&writer, m->agent_pid);
    traffic_put_state(&writer, &m->state);
    wire_put_u32(&writer, m->skip);
    wire_put_u8(&writer, m->idle);
    wire_put_u8(&writer, m->message_size);
    wire_put_bytes(&writer, m->message, sizeof(m->message));
    wire_put_u8(&writer, m->owed_alert);
    put_failure(&writer, &m->read_failure);
    put_failure(&writer, &m->write_failure);
    wire_put_text(&writer, m->context);
    wire_put_text(&writer, m->sni);
    wire_put_text(&writer, m->alpn);
    wire_put_string(&writer, 4, m->chain, m->chain_size);
    wire_put_string(&writer, 4, m->plain, m->plain_size);
    if (large) {
        wire_put_u32(&writer, (uint32_t)m->received_size);
        wire_put_u32(&writer, (uint32_t)m->unsent_size);
    } else {
        wire_put_string(&writer, 4, m->received, m->received_size);
        wire_put_string(&writer, 4, m->unsent, m->unsent_size);
    }
    return wire_size(&writer);
}

static bool
is_failure(const struct move_failure *failure)
{
    if (failure->kind == MOVE_NO_FAILURE)
        return failure->alert == NO_ALERT && failure->number == 0;
    return failure->kind <= MOVE_REKEY && failure->number < 4096;
}

static bool
is_zero(const void *data, size_t size)
{
    const uint8_t *bytes = data;
    uint8_t all = 0;

    for (size_t i = 0; i < size; i++)
        all |= bytes[i];
    return all == 0;
}

static bool
has_no_keys(const struct traffic_keys *keys)
{
    return is_zero(keys->key, sizeof(keys->key)) && is_zero(keys->iv, sizeof(keys->iv));
}

/* Form STREAM: a descriptor and the facts. The relay behind it has the records. */
static bool
is_descriptor_only(const struct move_connection *m)
{
    const struct traffic_keys *keys[] = {&m->state.send, &m->state.receive};

    for (size_t i = 0; i < 2; i++) {
        if (!has_no_keys(keys[i]) || !is_zero(keys[i]->secret, sizeof(keys[i]->secret)) ||
            keys[i]->sequence != 0 || keys[i]->explicit_nonce != 0)
            return false;
    }
    return m->state.max_fragment == TRAFFIC_PLAINTEXT_MAX && (m->flags & ~MOVE_RESUMED) == 0 &&
           m->skip == 0 && m->idle == 0 && m->message_size == 0 && m->owed_alert == NO_ALERT &&
           m->read_failure.kind == MOVE_NO_FAILURE && m->write_failure.kind == MOVE_NO_FAILURE &&
           m->plain_size == 0 && m->received_size == 0 && m->unsent_size == 0;
}

/* Form KERNEL: an alert is owed as the last word only: nothing is written behind it. */
static bool
is_last_word(const struct move_connection *m)
{
    return m->owed_alert == NO_ALERT || m->write_failure.kind != MOVE_NO_FAILURE ||
           ((m->flags & MOVE_CLOSED) != 0 && m->owed_alert == CLOSE_NOTIFY);
}

/* What the receiver's record layer may take as given. */
static bool
is_sound(const struct move_connection *m)
{
    const struct traffic_suite *suite = traffic_suite_find(m->state.suite);
    unsigned only_12 = MOVE_REFUSAL_OWED;
    unsigned only_13 = MOVE_UPDATE_OWED | MOVE_REQUEST_OWED | MOVE_REQUEST_MADE;

    if ((m->flags & ~MOVE_FLAGS) != 0 || suite == NULL || m->state.max_fragment == 0 ||
        m->state.max_fragment > TRAFFIC_PLAINTEXT_MAX)
        return false;
    if ((m->flags & (suite->version == TRAFFIC_TLS_1_3 ? only_12 : only_13)) != 0)
        return false;
    switch (m->form) {
    case SERVICE_FORM_RECORDS:
        if (m->owed_alert != NO_ALERT || (m->flags & MOVE_PLAIN) != 0)
            return false;
        break;
    case SERVICE_FORM_KERNEL: /* keys and records are in the socket; the next secrets may be here */
        if (!has_no_keys(&m->state.send) || !has_no_keys(&m->state.receive) || m->plain_size > 0 ||
            m->received_size > 0 || m->unsent_size > 0 || !is_last_word(m))
            return false;
        break;
    case SERVICE_FORM_STREAM:
        if (!is_descriptor_only(m))
            return false;
        break;
    default:
        return false;
    }
    /* A handshake message is either being collected or being passed over. */
    if (m->message_size > MOVE_MESSAGE_MAX || m->skip > MOVE_SKIP_MAX ||
        (m->message_size > 0 && m->skip > 0) || m->idle > MOVE_IDLE_MAX)
        return false;
    if (!is_zero(m->message + m->message_size, sizeof(m->message) - m->message_size))
        return false;
    if (m->message_size == MOVE_MESSAGE_MAX &&
        (suite->version != TRAFFIC_TLS_1_3 ||
         memcmp(m->message, (uint8_t[]){KEY_UPDATE, 0, 0, 1}, MOVE_MESSAGE_MAX) != 0))
        return false;
    if ((m->flags & MOVE_BROKEN) != 0 && m->write_failure.kind == MOVE_NO_FAILURE)
        return false;
    return is_failure(&m->read_failure) && is_failure(&m->write_failure);
}

bool
move_get_connection(struct move_connection *m, bool large, const void *body, size_t size)
{
    struct wire_reader reader;
    bool known;

    memset(m, 0, sizeof(*m));
    wire_reader_init(&reader, body, size);
    known = wire_get_u16(&reader) == MOVE_FORMAT;
    m->flags = wire_get_u16(&reader);
    m->form = wire_get_u8(&reader);
    m->agent_pid = wire_get_u32(&reader);
    traffic_get_state(&reader, &m->state);
    m->skip = wire_get_u32(&reader);
    m->idle = wire_get_u8(&reader);
    m->message_size = wire_get_u8(&reader);
    wire_get_bytes(&reader, m->message, sizeof(m->message));
    m->owed_alert = wire_get_u8(&reader);
    get_failure(&reader, &m->read_failure);
    get_failure(&reader, &m->write_failure);
    wire_get_text(&reader, m->context, sizeof(m->context));
    wire_get_text(&reader, m->sni, sizeof(m->sni));
    wire_get_text(&reader, m->alpn, sizeof(m->alpn));
    m->chain = wire_get_string(&reader, 4, SERVICE_CHAIN_MAX, &m->chain_size);
    m->plain = wire_get_string(&reader, 4, MOVE_PLAIN_MAX, &m->plain_size);
    if (large) {
        m->received_size = wire_get_u32(&reader);
        m->unsent_size = wire_get_u32(&reader);
        known = known && m->received_size <= MOVE_CIPHERTEXT_MAX &&
                m->unsent_size <= MOVE_CIPHERTEXT_MAX;
    } else {
        m->received = wire_get_string(&reader, 4, MOVE_CIPHERTEXT_MAX, &m->received_size);
        m->unsent = wire_get_string(&reader, 4, MOVE_CIPHERTEXT_MAX, &m->unsent_size);
    }
    return wire_done(&reader) && known && is_sound(m);
}
