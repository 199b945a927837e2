/* stream_move.c: see stream_move.h. */
#include "client/stream_move.h"

#include <errno.h>
#include <string.h>

#include <openssl/crypto.h>

#include "client/ktls.h"
#include "client/pool.h"
#include "client/stream_parts.h"

_Static_assert(POOL_SCRATCH_SIZE + 4 * (size_t)RECORD_CONTROL_MAX <= MOVE_CIPHERTEXT_MAX,
               "what a stream may have waiting can be moved");
_Static_assert(RECORD_IDLE_MAX == MOVE_IDLE_MAX, "the count of a stream is a count of a message");
_Static_assert(sizeof(((struct record *)0)->message) == MOVE_MESSAGE_MAX + 1,
               "a message is judged when one byte more is there");

static const uint8_t no_alert = UINT8_MAX;

static void
describe_failure(const struct stream_failure *failure, struct move_failure *m)
{
    *m = (struct move_failure){.kind = MOVE_NO_FAILURE, .alert = no_alert};
    if (failure->text == NULL)
        return;
    m->number = (uint16_t)failure->number;
    if (failure->alert != STREAM_NO_ALERT)
        m->alert = (uint8_t)failure->alert;
    switch (failure->code) {
    case TLSAGENT_E_CLOSED:
        m->kind = MOVE_PEER_CLOSED;
        break;
    case TLSAGENT_E_TRUNCATED:
        m->kind = MOVE_PEER_TRUNCATED;
        break;
    case TLSAGENT_E_ALERT:
        m->kind = MOVE_PEER_ALERT;
        break;
    case TLSAGENT_E_RECORD:
        m->kind = MOVE_PEER_RECORD;
        break;
    case TLSAGENT_E_REKEY:
        m->kind = MOVE_REKEY;
        break;
    default:
        m->kind = MOVE_SYSTEM;
        break;
    }
}

/* The texts are the usual ones; where there are several for one code, what they have in common. */
static void
restore_failure(const struct move_failure *m, bool reading, struct stream_failure *failure)
{
    static const struct {
        const char *reading, *writing;
        enum tlsagent_error_code code;
    } known[] = {
        [MOVE_PEER_CLOSED] = {"cannot read from the peer", "cannot write to the peer",
                              TLSAGENT_E_CLOSED},
        [MOVE_PEER_TRUNCATED] = {"the peer ended the connection without close_notify: its data may "
                                 "be incomplete",
                                 "the peer ended the connection without close_notify",
                                 TLSAGENT_E_TRUNCATED},
        [MOVE_PEER_ALERT] = {"the peer ended the connection", "the peer ended the connection",
                             TLSAGENT_E_ALERT},
        [MOVE_PEER_RECORD] = {"the peer broke the record protocol",
                              "the peer broke the record protocol", TLSAGENT_E_RECORD},
        [MOVE_SYSTEM] = {"cannot read from the peer", "cannot write to the peer",
                         TLSAGENT_E_SYSTEM},
        [MOVE_REKEY] = {"new keys are due, which this kernel cannot take (Linux 6.14 is needed)",
                        "new keys are due, which this kernel cannot take (Linux 6.14 is needed)",
                        TLSAGENT_E_REKEY},
    };

    if (m->kind == MOVE_NO_FAILURE)
        return;
    *failure = (struct stream_failure){
        .text = reading ? known[m->kind].reading : known[m->kind].writing,
        .number = m->number,
        .alert = m->alert == no_alert ? STREAM_NO_ALERT : m->alert,
        .code = (uint8_t)known[m->kind].code,
    };
}

static uint16_t
flags_of(const struct stream *stream)
{
    const struct record *record = stream->record;
    const struct {
        bool set;
        uint16_t flag;
    } all[] = {
        {record->is_server, MOVE_SERVER},
        {record->update_owed, MOVE_UPDATE_OWED},
        {record->request_owed, MOVE_REQUEST_OWED},
        {record->request_made, MOVE_REQUEST_MADE},
        {record->refusal_owed, MOVE_REFUSAL_OWED},
        {stream->ended, MOVE_ENDED},
        {stream->unreported, MOVE_UNREPORTED},
        {stream->closed, MOVE_CLOSED},
        {stream->broken, MOVE_BROKEN},
        {stream->push, MOVE_ANSWER_WAITS},
        {stream->exact, MOVE_EXACT},
        {stream->surplus, MOVE_SURPLUS},
    };
    uint16_t flags = 0;

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        if (all[i].set)
            flags |= all[i].flag;
    return flags;
}

int
stream_describe(struct stream *stream, struct move_connection *m, struct error *error)
{
    const struct record *record = stream->record;

    if (stream_enter(stream, error) == -1)
        return -1;
    m->flags |= flags_of(stream);
    m->state = record->state;
    if (record->in_kernel) { /* not looked at, and nobody else's */
        OPENSSL_cleanse(m->state.send.key, sizeof(m->state.send.key));
        OPENSSL_cleanse(m->state.send.iv, sizeof(m->state.send.iv));
        OPENSSL_cleanse(m->state.receive.key, sizeof(m->state.receive.key));
        OPENSSL_cleanse(m->state.receive.iv, sizeof(m->state.receive.iv));
    }
    m->owed_alert = stream->owed_alert == STREAM_NO_ALERT ? no_alert : (uint8_t)stream->owed_alert;
    memset(m->message, 0, sizeof(m->message));
    if (stream->read_failure.text == NULL) { /* else what it failed over does not matter any more */
        m->skip = record->skip;
        m->idle = record->idle;
        m->message_size = record->message_size;
        memcpy(m->message, record->message, record->message_size);
    }
    describe_failure(&stream->read_failure, &m->read_failure);
    describe_failure(&stream->write_failure, &m->write_failure);
    m->plain_size = stream->plain_end - stream->plain_start;
    if (m->plain_size > 0)
        m->plain = stream->in.data + stream->plain_start;
    m->received_size = stream->in.end - stream->in.start;
    if (m->received_size > 0)
        m->received = stream->in.data + stream->in.start;
    m->unsent_size = stream->out.end - stream->out.start;
    if (m->unsent_size > 0)
        m->unsent = stream->out.data + stream->out.start;
    return 0;
}

/* Waiting bytes: what is decrypted lies before what is not. */
static bool
restore_buffers(struct stream *stream, const struct move_connection *m)
{
    struct stream_buffer *in = &stream->in, *out = &stream->out;

    if (m->plain_size + m->received_size > 0) {
        if (!buffer_move(in, m->plain_size + m->received_size))
            return false;
        if (m->plain_size > 0)
            memcpy(in->data, m->plain, m->plain_size);
        if (m->received_size > 0)
            memcpy(in->data + m->plain_size, m->received, m->received_size);
        stream->plain_end = in->start = (uint32_t)m->plain_size;
        in->end = (uint32_t)(m->plain_size + m->received_size);
    }
    if (m->unsent_size > 0) {
        if (!buffer_move(out, m->unsent_size))
            return false;
        memcpy(out->data, m->unsent, m->unsent_size);
        out->end = (uint32_t)m->unsent_size;
    }
    return true;
}

int
stream_restore(struct stream *stream, int fd, const struct move_connection *m, struct error *error)
{
    bool is_server = (m->flags & MOVE_SERVER) != 0;
    struct record *record;

    if (m->form == SERVICE_FORM_KERNEL
            ? ktls_start(stream, fd, &m->state, is_server, error) == -1
            : stream_start(stream, fd, &m->state, is_server, NULL, 0, error) == -1)
        return -1;
    record = stream->record;
    record->skip = m->skip;
    record->idle = m->idle;
    record->message_size = m->message_size;
    memcpy(record->message, m->message, m->message_size);
    record->update_owed = (m->flags & MOVE_UPDATE_OWED) != 0;
    record->request_owed = (m->flags & MOVE_REQUEST_OWED) != 0;
    record->request_made = (m->flags & MOVE_REQUEST_MADE) != 0;
    record->refusal_owed = (m->flags & MOVE_REFUSAL_OWED) != 0;
    stream->ended = (m->flags & MOVE_ENDED) != 0;
    stream->unreported = (m->flags & MOVE_UNREPORTED) != 0;
    stream->closed = (m->flags & MOVE_CLOSED) != 0;
    stream->broken = (m->flags & MOVE_BROKEN) != 0;
    stream->push = (m->flags & MOVE_ANSWER_WAITS) != 0;
    stream->exact = (m->flags & MOVE_EXACT) != 0;
    stream->surplus = (m->flags & MOVE_SURPLUS) != 0;
    stream->owed_alert = m->owed_alert == no_alert ? STREAM_NO_ALERT : m->owed_alert;
    restore_failure(&m->read_failure, true, &stream->read_failure);
    restore_failure(&m->write_failure, false, &stream->write_failure);
    if (!restore_buffers(stream, m)) {
        stream_clear(stream);
        return stream_refuse(stream, TLSAGENT_E_MEMORY, "no memory for a moved connection", error);
    }
    return 0;
}
