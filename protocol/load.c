/* load.c: see load.h; the layout in prose is in PROTOCOL.md. */
#include "protocol/load.h"

#include "protocol/wire.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

const struct channel_rule load_loader_rules[] = {
    {LOAD_BEGIN, 2, 4, 4},
    {LOAD_CONTEXT, 0, 2, 2 + LOAD_BLOB_MAX},
    {LOAD_FILE, 1, 3, 3 + LOAD_PATH_MAX},
    {LOAD_IDENTITY, 0, 4, 4 + SERVICE_HOST_MAX *(1 + LOAD_NAMES_MAX)},
    {LOAD_END, 0, 0, 0},
    {LOAD_TICKETS, 3, 10, 10 + SERVICE_NAME_MAX},
};
const size_t load_loader_rule_count = COUNT(load_loader_rules);

const struct channel_rule load_supervisor_rules[] = {
    {LOAD_HELLO, 0, 2, CONTROL_HELLO_MAX},
    {LOAD_NEXT, 0, 0, 0},
    {LOAD_WARNING, 0, 2, LOAD_TEXT_MAX},
    {LOAD_FAILED, 0, 2, LOAD_TEXT_MAX},
    {LOAD_DONE, 0, 24, 24},
};
const size_t load_supervisor_rule_count = COUNT(load_supervisor_rules);

size_t
load_put_begin(const struct load_begin *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->generation);
    return wire_size(&writer);
}

bool
load_get_begin(struct load_begin *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->generation = wire_get_u32(&reader);
    return wire_done(&reader);
}

size_t
load_put_tickets(const struct load_tickets *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->period);
    wire_put_u32(&writer, m->life);
    wire_put_u8(&writer, m->fleet);
    wire_put_text(&writer, m->group);
    return wire_size(&writer);
}

bool
load_get_tickets(struct load_tickets *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->period = wire_get_u32(&reader);
    m->life = wire_get_u32(&reader);
    m->fleet = wire_get_u8(&reader);
    wire_get_text(&reader, m->group, sizeof(m->group));
    return wire_done(&reader) && m->period > 0 && m->life > 0;
}

size_t
load_put_context(const struct load_context *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_string(&writer, 2, m->blob, m->blob_size);
    return wire_size(&writer);
}

bool
load_get_context(struct load_context *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->blob = wire_get_string(&reader, 2, LOAD_BLOB_MAX, &m->blob_size);
    return wire_done(&reader);
}

size_t
load_put_file_message(const struct load_file_message *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u8(&writer, m->kind);
    wire_put_long_text(&writer, m->path);
    return wire_size(&writer);
}

bool
load_get_file_message(struct load_file_message *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->kind = wire_get_u8(&reader);
    wire_get_long_text(&reader, m->path_buffer, sizeof(m->path_buffer));
    m->path = m->path_buffer;
    return wire_done(&reader);
}

size_t
load_put_identity(const struct load_identity *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_text(&writer, m->label);
    wire_put_u8(&writer, m->is_default);
    wire_put_u16(&writer, m->name_count);
    for (size_t i = 0; i < m->name_count && i < LOAD_NAMES_MAX; i++)
        wire_put_text(&writer, m->names[i]);
    return wire_size(&writer);
}

bool
load_get_identity(struct load_identity *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    wire_get_text(&reader, m->label, sizeof(m->label));
    m->is_default = wire_get_u8(&reader);
    m->name_count = wire_get_u16(&reader);
    if (m->name_count > LOAD_NAMES_MAX)
        return false;
    for (size_t i = 0; i < m->name_count; i++)
        wire_get_text(&reader, m->names[i], sizeof(m->names[i]));
    return wire_done(&reader);
}

size_t
load_put_text(const struct load_text *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_long_text(&writer, m->text);
    return wire_size(&writer);
}

bool
load_get_text(struct load_text *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    wire_get_long_text(&reader, m->text, sizeof(m->text));
    return wire_done(&reader);
}

size_t
load_put_done(const struct load_done *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->identities);
    wire_put_u32(&writer, m->keys);
    wire_put_u64(&writer, m->public_size);
    wire_put_u64(&writer, m->secret_size);
    return wire_size(&writer);
}

bool
load_get_done(struct load_done *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->identities = wire_get_u32(&reader);
    m->keys = wire_get_u32(&reader);
    m->public_size = wire_get_u64(&reader);
    m->secret_size = wire_get_u64(&reader);
    return wire_done(&reader);
}
