/* service.c: see service.h; the layout in prose is in PROTOCOL.md. */
#include "protocol/service.h"

#include <string.h>

#include "protocol/wire.h"

#define FORMS (SERVICE_FORM_RECORDS | SERVICE_FORM_KERNEL | SERVICE_FORM_STREAM)

#define FAILED_MIN 8 /* bytes of a FAILED body without its text */

/* Bytes of a FINISHED body without its texts, early data and chain, and with all of them. */
#define FINISHED_MIN (4 + 1 + 1 + 4 + TRAFFIC_STATE_SIZE + 3 + 4 + 4)
#define FINISHED_MAX                                                                               \
    (FINISHED_MIN + SERVICE_NAME_MAX + SERVICE_HOST_MAX + SERVICE_ALPN_MAX + SERVICE_EARLY_MAX +   \
     SERVICE_CHAIN_MAX)

const struct channel_rule service_handshaker_rules[] = {
    {SERVICE_ACCEPT, 1, 10, 10 + SERVICE_NAME_MAX},
    {SERVICE_PULL, 0, 4, 4 + SERVICE_NAME_MAX},
    {SERVICE_CANCEL, 0, 4, 4},
};
const size_t service_handshaker_rule_count =
    sizeof(service_handshaker_rules) / sizeof(struct channel_rule);

const struct channel_rule service_worker_rules[] = {
    {SERVICE_FINISHED, 0, FINISHED_MIN, FINISHED_MAX},
    {SERVICE_FAILED, 0, FAILED_MIN, FAILED_MIN + SERVICE_TEXT_MAX},
    {SERVICE_DELIVERED, 1, FINISHED_MIN, FINISHED_MAX},
    {SERVICE_BATCH, CHANNEL_FDS_ANY, SERVICE_BATCH_HEAD + 2 * (SERVICE_PART_HEAD + FAILED_MIN),
     CHANNEL_BODY_MAX},
};
const size_t service_worker_rule_count = sizeof(service_worker_rules) / sizeof(struct channel_rule);

const struct channel_rule service_greeting_rules[] = {
    {SERVICE_WELCOME, 0, 3, 3 + SERVICE_BUILD_MAX},
    {SERVICE_CONTEXT, 0, 4, 4 + SERVICE_NAME_MAX},
    {SERVICE_CHANNEL, 1, 4, 4},
    {SERVICE_DENIED, 0, 1, 1 + SERVICE_TEXT_MAX},
};
const size_t service_greeting_rule_count =
    sizeof(service_greeting_rules) / sizeof(struct channel_rule);

/* At least one form, and none that we do not know. */
static bool
valid_forms(uint8_t forms)
{
    return forms != 0 && (forms & ~FORMS) == 0;
}

size_t
service_put_welcome(const struct service_welcome *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u16(&writer, m->protocol);
    wire_put_text(&writer, m->build);
    return wire_size(&writer);
}

bool
service_get_welcome(struct service_welcome *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->protocol = wire_get_u16(&reader);
    wire_get_text(&reader, m->build, sizeof(m->build));
    return wire_done(&reader);
}

size_t
service_put_context(const struct service_context *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_text(&writer, m->name);
    wire_put_u16(&writer, m->group);
    wire_put_u8(&writer, m->listens);
    return wire_size(&writer);
}

bool
service_get_context(struct service_context *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    wire_get_text(&reader, m->name, sizeof(m->name));
    m->group = wire_get_u16(&reader);
    m->listens = wire_get_u8(&reader);
    return wire_done(&reader) && m->listens <= 1;
}

size_t
service_put_channel(const struct service_channel *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u16(&writer, m->group);
    wire_put_u16(&writer, m->cell);
    return wire_size(&writer);
}

bool
service_get_channel(struct service_channel *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->group = wire_get_u16(&reader);
    m->cell = wire_get_u16(&reader);
    return wire_done(&reader);
}

size_t
service_put_denied(const struct service_denied *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_text(&writer, m->text);
    return wire_size(&writer);
}

bool
service_get_denied(struct service_denied *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    wire_get_text(&reader, m->text, sizeof(m->text));
    return wire_done(&reader);
}

size_t
service_put_accept(const struct service_accept *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->id);
    wire_put_u8(&writer, m->forms);
    wire_put_u32(&writer, m->deadline_ms);
    wire_put_text(&writer, m->context);
    return wire_size(&writer);
}

bool
service_get_accept(struct service_accept *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->id = wire_get_u32(&reader);
    m->forms = wire_get_u8(&reader);
    m->deadline_ms = wire_get_u32(&reader);
    wire_get_text(&reader, m->context, sizeof(m->context));
    return wire_done(&reader) && valid_forms(m->forms);
}

size_t
service_put_pull(const struct service_pull *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u16(&writer, m->credits);
    wire_put_u8(&writer, m->forms);
    wire_put_text(&writer, m->context);
    return wire_size(&writer);
}

bool
service_get_pull(struct service_pull *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->credits = wire_get_u16(&reader);
    m->forms = wire_get_u8(&reader);
    wire_get_text(&reader, m->context, sizeof(m->context));
    return wire_done(&reader) && valid_forms(m->forms);
}

size_t
service_put_cancel(const struct service_cancel *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->id);
    return wire_size(&writer);
}

bool
service_get_cancel(struct service_cancel *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->id = wire_get_u32(&reader);
    return wire_done(&reader);
}

size_t
service_put_failed(const struct service_failed *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->id);
    wire_put_u8(&writer, m->reason);
    wire_put_u8(&writer, m->retryable);
    wire_put_u8(&writer, m->alert);
    wire_put_text(&writer, m->text);
    return wire_size(&writer);
}

bool
service_get_failed(struct service_failed *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->id = wire_get_u32(&reader);
    m->reason = wire_get_u8(&reader);
    m->retryable = wire_get_u8(&reader);
    m->alert = wire_get_u8(&reader);
    wire_get_text(&reader, m->text, sizeof(m->text));
    return wire_done(&reader) && m->reason >= SERVICE_NOT_PERMITTED &&
           m->reason <= SERVICE_INTERNAL && m->retryable <= 1;
}

size_t
service_put_finished(const struct service_finished *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->id);
    wire_put_u8(&writer, m->form);
    wire_put_u8(&writer, m->resumed);
    wire_put_u32(&writer, m->agent_pid);
    traffic_put_state(&writer, &m->state);
    wire_put_text(&writer, m->context);
    wire_put_text(&writer, m->sni);
    wire_put_text(&writer, m->alpn);
    wire_put_string(&writer, 4, m->early, m->early_size);
    wire_put_string(&writer, 4, m->chain, m->chain_size);
    return wire_size(&writer);
}

bool
service_get_finished(struct service_finished *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->id = wire_get_u32(&reader);
    m->form = wire_get_u8(&reader);
    m->resumed = wire_get_u8(&reader);
    m->agent_pid = wire_get_u32(&reader);
    traffic_get_state(&reader, &m->state);
    wire_get_text(&reader, m->context, sizeof(m->context));
    wire_get_text(&reader, m->sni, sizeof(m->sni));
    wire_get_text(&reader, m->alpn, sizeof(m->alpn));
    m->early = wire_get_string(&reader, 4, SERVICE_EARLY_MAX, &m->early_size);
    m->chain = wire_get_string(&reader, 4, SERVICE_CHAIN_MAX, &m->chain_size);
    return wire_done(&reader) && m->resumed <= 1 &&
           (m->form == SERVICE_FORM_RECORDS || m->form == SERVICE_FORM_KERNEL) &&
           traffic_suite_find(m->state.suite) != NULL && m->state.max_fragment > 0 &&
           m->state.max_fragment <= TRAFFIC_PLAINTEXT_MAX;
}

size_t
service_put_batch(const struct service_batch *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u8(&writer, m->count);
    for (size_t i = 0; i < m->count; i++) {
        wire_put_u16(&writer, m->parts[i].type);
        wire_put_string(&writer, 4, m->parts[i].body, m->parts[i].size);
    }
    return wire_size(&writer);
}

bool
service_get_batch(struct service_batch *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->count = wire_get_u8(&reader);
    m->fd_count = 0;
    if (m->count < 2 || m->count > SERVICE_BATCH_MAX)
        return false;
    for (size_t i = 0; i < m->count; i++) {
        struct service_part *part = &m->parts[i];

        part->type = wire_get_u16(&reader);
        part->body = wire_get_string(&reader, 4, CHANNEL_BODY_MAX, &part->size);
        if (part->type != SERVICE_FINISHED && part->type != SERVICE_FAILED &&
            part->type != SERVICE_DELIVERED)
            return false;
        m->fd_count = (uint8_t)(m->fd_count + (part->type == SERVICE_DELIVERED));
    }
    return wire_done(&reader);
}
