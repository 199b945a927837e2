/* store.c: see store.h; the layout in prose is in PROTOCOL.md. */
#include "protocol/store.h"

#include "protocol/wire.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

const struct channel_rule store_fetcher_rules[] = {
    {STORE_GET, 0, 4 + STORE_NAME_SIZE, 4 + STORE_NAME_SIZE},
    {STORE_PUT, 0, STORE_NAME_SIZE + 7, STORE_NAME_SIZE + 6 + STORE_ENTRY_MAX},
};
const size_t store_fetcher_rule_count = COUNT(store_fetcher_rules);

const struct channel_rule store_handshaker_rules[] = {
    {STORE_FOUND, 0, 7, 6 + STORE_ENTRY_MAX},
    {STORE_MISSING, 0, 4, 4},
    {STORE_FAILED, 0, 4, 4},
};
const size_t store_handshaker_rule_count = COUNT(store_handshaker_rules);

size_t
store_put_get(const struct store_get *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->number);
    wire_put_bytes(&writer, m->name, sizeof(m->name));
    return wire_size(&writer);
}

bool
store_get_get(struct store_get *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->number = wire_get_u32(&reader);
    wire_get_bytes(&reader, m->name, sizeof(m->name));
    return wire_done(&reader);
}

size_t
store_put_put(const struct store_put *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    if (m->entry_size == 0 || m->entry_size > STORE_ENTRY_MAX)
        return 0;
    wire_writer_init(&writer, buffer, size);
    wire_put_bytes(&writer, m->name, sizeof(m->name));
    wire_put_u32(&writer, m->life);
    wire_put_string(&writer, 2, m->entry, m->entry_size);
    return wire_size(&writer);
}

bool
store_get_put(struct store_put *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    wire_get_bytes(&reader, m->name, sizeof(m->name));
    m->life = wire_get_u32(&reader);
    m->entry = wire_get_string(&reader, 2, STORE_ENTRY_MAX, &m->entry_size);
    return wire_done(&reader) && m->entry_size > 0 && m->life > 0 && m->life <= STORE_LIFE_MAX;
}

size_t
store_put_found(const struct store_found *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    if (m->entry_size == 0 || m->entry_size > STORE_ENTRY_MAX)
        return 0;
    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->number);
    wire_put_string(&writer, 2, m->entry, m->entry_size);
    return wire_size(&writer);
}

bool
store_get_found(struct store_found *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->number = wire_get_u32(&reader);
    m->entry = wire_get_string(&reader, 2, STORE_ENTRY_MAX, &m->entry_size);
    return wire_done(&reader) && m->entry_size > 0;
}

size_t
store_put_number(const struct store_number *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->number);
    return wire_size(&writer);
}

bool
store_get_number(struct store_number *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->number = wire_get_u32(&reader);
    return wire_done(&reader);
}
