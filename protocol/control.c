/* control.c: see control.h; the layout in prose is in PROTOCOL.md. */
#include "protocol/control.h"

#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

const struct channel_rule control_keeper_rules[] = {
    {CONTROL_PING, 0, 4, 4},
    {CONTROL_SECRET, 1, 4, 4},
    {CONTROL_TICKETS, 1, 0, 0},
};
const size_t control_keeper_rule_count = COUNT(control_keeper_rules);

const struct channel_rule control_handshaker_rules[] = {
    {CONTROL_PING, 0, 4, 4},
    {CONTROL_PUBLIC, 1, 4, 4},
    {CONTROL_LISTENER, 1, 2, 2},
    {CONTROL_WORKER, 1, 18, 18 + 4 * CONTROL_GROUPS_MAX},
    {CONTROL_NEW_TICKETS, 0, 0, 0},
    {CONTROL_SESSION_CACHE, 1, 0, 0},
    {CONTROL_SERVING, 1, 0, 0},
    {CONTROL_DISMISS, 0, 4, 4},
    {CONTROL_FETCHER_CHANNEL, 1, 4, 4},
};
const size_t control_handshaker_rule_count = COUNT(control_handshaker_rules);

const struct channel_rule control_fetcher_rules[] = {
    {CONTROL_PING, 0, 4, 4},
    {CONTROL_STORE, 2, 8, 8 + SERVICE_NAME_MAX + SERVICE_HOST_MAX},
    {CONTROL_CLIENT, 1, 0, 0},
    {CONTROL_CONNECTION, 1, 0, 0},
    {CONTROL_NO_CONNECTION, 0, 2, 2},
};
const size_t control_fetcher_rule_count = COUNT(control_fetcher_rules);

const struct channel_rule control_supervisor_rules[] = {
    {CONTROL_HELLO, 0, 2, CONTROL_HELLO_MAX},
    {CONTROL_READY, 0, 8, 8},
    {CONTROL_PONG, 0, CONTROL_PONG_SIZE, CONTROL_PONG_SIZE},
    {CONTROL_CONTEXT_COUNTERS, 0, CONTROL_COUNTERS_SIZE, CONTROL_COUNTERS_SIZE},
    {CONTROL_TICKETS_TAKEN, 0, 0, 0},
    {CONTROL_CONNECT, 0, 0, 0},
};
const size_t control_supervisor_rule_count = COUNT(control_supervisor_rules);

static void
put_store_use(struct wire_writer *writer, const struct control_store_use *m)
{
    wire_put_u8(writer, m->usable);
    wire_put_u32(writer, m->changes);
    wire_put_u64(writer, m->lookups);
    wire_put_u64(writer, m->found);
    wire_put_u64(writer, m->failed);
    wire_put_u64(writer, m->late);
    wire_put_u64(writer, m->skipped);
    wire_put_u64(writer, m->stored);
    wire_put_u64(writer, m->dropped);
}

static void
get_store_use(struct wire_reader *reader, struct control_store_use *m)
{
    m->usable = wire_get_u8(reader);
    m->changes = wire_get_u32(reader);
    m->lookups = wire_get_u64(reader);
    m->found = wire_get_u64(reader);
    m->failed = wire_get_u64(reader);
    m->late = wire_get_u64(reader);
    m->skipped = wire_get_u64(reader);
    m->stored = wire_get_u64(reader);
    m->dropped = wire_get_u64(reader);
}

void
control_write_pong(struct wire_writer *writer, const struct control_pong *m)
{
    wire_put_u32(writer, m->number);
    wire_put_u64(writer, m->signatures);
    wire_put_u64(writer, m->ticket_keys);
    wire_put_u64(writer, m->tickets_opened);
    wire_put_u64(writer, m->refusals);
    wire_put_u32(writer, m->workers);
    wire_put_u32(writer, m->in_flight);
    wire_put_u32(writer, m->waiting);
    wire_put_u64(writer, m->channels_refused);
    put_store_use(writer, &m->store);
}

void
control_read_pong(struct wire_reader *reader, struct control_pong *m)
{
    m->number = wire_get_u32(reader);
    m->signatures = wire_get_u64(reader);
    m->ticket_keys = wire_get_u64(reader);
    m->tickets_opened = wire_get_u64(reader);
    m->refusals = wire_get_u64(reader);
    m->workers = wire_get_u32(reader);
    m->in_flight = wire_get_u32(reader);
    m->waiting = wire_get_u32(reader);
    m->channels_refused = wire_get_u64(reader);
    get_store_use(reader, &m->store);
}

void
control_write_counters(struct wire_writer *writer, const struct control_context_counters *m)
{
    wire_put_u16(writer, m->context);
    wire_put_u64(writer, m->started);
    wire_put_u64(writer, m->full);
    wire_put_u64(writer, m->resumed);
    wire_put_u64(writer, m->expired);
    for (size_t i = 0; i < CONTROL_FAILURES; i++)
        wire_put_u64(writer, m->failed[i]);
    for (size_t i = 0; i < CONTROL_NOT_RESUMED; i++)
        wire_put_u64(writer, m->not_resumed[i]);
}

void
control_read_counters(struct wire_reader *reader, struct control_context_counters *m)
{
    m->context = wire_get_u16(reader);
    m->started = wire_get_u64(reader);
    m->full = wire_get_u64(reader);
    m->resumed = wire_get_u64(reader);
    m->expired = wire_get_u64(reader);
    for (size_t i = 0; i < CONTROL_FAILURES; i++)
        m->failed[i] = wire_get_u64(reader);
    for (size_t i = 0; i < CONTROL_NOT_RESUMED; i++)
        m->not_resumed[i] = wire_get_u64(reader);
}

size_t
control_put_hello(const struct control_hello *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_text(&writer, m->build);
    wire_put_u8(&writer, m->role);
    return wire_size(&writer);
}

bool
control_get_hello(struct control_hello *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    wire_get_text(&reader, m->build, sizeof(m->build));
    m->role = wire_get_u8(&reader);
    return wire_done(&reader);
}

size_t
control_put_ready(const struct control_ready *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->generation);
    wire_put_u32(&writer, m->layers);
    return wire_size(&writer);
}

bool
control_get_ready(struct control_ready *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->generation = wire_get_u32(&reader);
    m->layers = wire_get_u32(&reader);
    return wire_done(&reader);
}

size_t
control_put_ping(const struct control_ping *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->number);
    return wire_size(&writer);
}

bool
control_get_ping(struct control_ping *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->number = wire_get_u32(&reader);
    return wire_done(&reader);
}

size_t
control_put_pong(const struct control_pong *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    control_write_pong(&writer, m);
    return wire_size(&writer);
}

bool
control_get_pong(struct control_pong *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    control_read_pong(&reader, m);
    return wire_done(&reader);
}

size_t
control_put_context_counters(const struct control_context_counters *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    control_write_counters(&writer, m);
    return wire_size(&writer);
}

bool
control_get_context_counters(struct control_context_counters *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    control_read_counters(&reader, m);
    return wire_done(&reader);
}

size_t
control_put_generation(const struct control_generation *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->generation);
    return wire_size(&writer);
}

bool
control_get_generation(struct control_generation *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->generation = wire_get_u32(&reader);
    return wire_done(&reader);
}

size_t
control_put_listener(const struct control_listener *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u16(&writer, m->context);
    return wire_size(&writer);
}

bool
control_get_listener(struct control_listener *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->context = wire_get_u16(&reader);
    return wire_done(&reader);
}

size_t
control_put_worker(const struct control_worker *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->uid);
    wire_put_u32(&writer, m->gid);
    wire_put_u32(&writer, m->pid);
    wire_put_u32(&writer, m->channels_max);
    wire_put_u16(&writer, m->group_count);
    for (size_t i = 0; i < m->group_count && i < CONTROL_GROUPS_MAX; i++)
        wire_put_u32(&writer, m->groups[i]);
    return wire_size(&writer);
}

bool
control_get_worker(struct control_worker *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->uid = wire_get_u32(&reader);
    m->gid = wire_get_u32(&reader);
    m->pid = wire_get_u32(&reader);
    m->channels_max = wire_get_u32(&reader);
    m->group_count = wire_get_u16(&reader);
    if (m->group_count > CONTROL_GROUPS_MAX)
        return false;
    for (size_t i = 0; i < m->group_count; i++)
        m->groups[i] = wire_get_u32(&reader);
    return wire_done(&reader);
}

size_t
control_put_dismiss(const struct control_dismiss *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->uid);
    return wire_size(&writer);
}

bool
control_get_dismiss(struct control_dismiss *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->uid = wire_get_u32(&reader);
    return wire_done(&reader);
}

size_t
control_put_fetcher_channel(const struct control_fetcher_channel *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->wait_ms);
    return wire_size(&writer);
}

bool
control_get_fetcher_channel(struct control_fetcher_channel *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->wait_ms = wire_get_u32(&reader);
    return wire_done(&reader);
}

size_t
control_put_store(const struct control_store *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u8(&writer, m->tls);
    wire_put_u8(&writer, m->has_password);
    wire_put_u32(&writer, m->database);
    wire_put_text(&writer, m->user);
    wire_put_text(&writer, m->name);
    return wire_size(&writer);
}

bool
control_get_store(struct control_store *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->tls = wire_get_u8(&reader);
    m->has_password = wire_get_u8(&reader);
    m->database = wire_get_u32(&reader);
    wire_get_text(&reader, m->user, sizeof(m->user));
    wire_get_text(&reader, m->name, sizeof(m->name));
    return wire_done(&reader) && m->tls <= 1 && m->has_password <= 1;
}

size_t
control_put_no_connection(const struct control_no_connection *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u16(&writer, m->reason);
    return wire_size(&writer);
}

bool
control_get_no_connection(struct control_no_connection *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->reason = wire_get_u16(&reader);
    return wire_done(&reader);
}
