/* control.c: see control.h; the layout in prose is in PROTOCOL.md. */
#include "protocol/control.h"

#include <string.h>

#include "protocol/wire.h"

#define HELLO_MAX     (2 + SERVICE_BUILD_MAX)
#define STORE_SIZE    (1 + 4 + 7 * 8)
#define PONG_SIZE     (4 + 4 * 8 + 3 * 4 + 8 + STORE_SIZE)
#define COUNTERS_SIZE (2 + 4 * 8 + 8 * CONTROL_FAILURES + 8 * CONTROL_NOT_RESUMED)
#define TEXT_MAX      (2 + ERROR_TEXT_MAX)

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
    {CONTROL_HELLO, 0, 2, HELLO_MAX},
    {CONTROL_READY, 0, 8, 8},
    {CONTROL_PONG, 0, PONG_SIZE, PONG_SIZE},
    {CONTROL_CONTEXT_COUNTERS, 0, COUNTERS_SIZE, COUNTERS_SIZE},
    {CONTROL_TICKETS_TAKEN, 0, 0, 0},
    {CONTROL_CONNECT, 0, 0, 0},
};
const size_t control_supervisor_rule_count = COUNT(control_supervisor_rules);

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
    {LOAD_HELLO, 0, 2, HELLO_MAX}, {LOAD_NEXT, 0, 0, 0},   {LOAD_WARNING, 0, 2, TEXT_MAX},
    {LOAD_FAILED, 0, 2, TEXT_MAX}, {LOAD_DONE, 0, 24, 24},
};
const size_t load_supervisor_rule_count = COUNT(load_supervisor_rules);

const struct channel_rule admin_supervisor_rules[] = {
    {ADMIN_STATUS, 0, 0, 0},
    {ADMIN_UPGRADE, 0, 0, 0},
};
const size_t admin_supervisor_rule_count = COUNT(admin_supervisor_rules);

const struct channel_rule admin_command_rules[] = {
    {ADMIN_AGENT, 0, 33, 33 + SERVICE_BUILD_MAX + LOAD_PATH_MAX},
    {ADMIN_PROCESS, 0, 25 + PONG_SIZE, 25 + PONG_SIZE},
    {ADMIN_CONTEXT, 0, 5 + COUNTERS_SIZE, 5 + COUNTERS_SIZE + SERVICE_NAME_MAX},
    {ADMIN_END, 0, 0, 0},
    {ADMIN_DENIED, 0, 2, TEXT_MAX},
    {ADMIN_BAN, 0, 16, 16},
};
const size_t admin_command_rule_count = COUNT(admin_command_rules);

/* A text with a two-byte length, for paths and messages. */
static void
put_long_text(struct wire_writer *writer, const char *text)
{
    wire_put_string(writer, 2, text, strlen(text));
}

static void
get_long_text(struct wire_reader *reader, char *dst, size_t dst_size)
{
    size_t size;
    const uint8_t *bytes = wire_get_string(reader, 2, dst_size - 1, &size);

    dst[0] = '\0';
    if (bytes == NULL)
        return;
    if (memchr(bytes, '\0', size) != NULL) {
        reader->failed = true;
        return;
    }
    memcpy(dst, bytes, size);
    dst[size] = '\0';
}

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

static void
put_pong(struct wire_writer *writer, const struct control_pong *m)
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

static void
get_pong(struct wire_reader *reader, struct control_pong *m)
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

static void
put_counters(struct wire_writer *writer, const struct control_context_counters *m)
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

static void
get_counters(struct wire_reader *reader, struct control_context_counters *m)
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
    put_pong(&writer, m);
    return wire_size(&writer);
}

bool
control_get_pong(struct control_pong *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    get_pong(&reader, m);
    return wire_done(&reader);
}

size_t
control_put_context_counters(const struct control_context_counters *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    put_counters(&writer, m);
    return wire_size(&writer);
}

bool
control_get_context_counters(struct control_context_counters *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    get_counters(&reader, m);
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
    put_long_text(&writer, m->path);
    return wire_size(&writer);
}

bool
load_get_file_message(struct load_file_message *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->kind = wire_get_u8(&reader);
    get_long_text(&reader, m->path_buffer, sizeof(m->path_buffer));
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
    put_long_text(&writer, m->text);
    return wire_size(&writer);
}

bool
load_get_text(struct load_text *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    get_long_text(&reader, m->text, sizeof(m->text));
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

size_t
admin_put_agent(const struct admin_agent *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_text(&writer, m->build);
    wire_put_u32(&writer, m->generation);
    wire_put_u64(&writer, m->uptime);
    wire_put_u32(&writer, m->identities);
    wire_put_u32(&writer, m->keys);
    wire_put_u32(&writer, m->workers_denied);
    wire_put_u32(&writer, m->layers_required);
    wire_put_u16(&writer, m->kernel);
    put_long_text(&writer, m->configuration);
    return wire_size(&writer);
}

bool
admin_get_agent(struct admin_agent *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    wire_get_text(&reader, m->build, sizeof(m->build));
    m->generation = wire_get_u32(&reader);
    m->uptime = wire_get_u64(&reader);
    m->identities = wire_get_u32(&reader);
    m->keys = wire_get_u32(&reader);
    m->workers_denied = wire_get_u32(&reader);
    m->layers_required = wire_get_u32(&reader);
    m->kernel = wire_get_u16(&reader);
    get_long_text(&reader, m->configuration, sizeof(m->configuration));
    return wire_done(&reader);
}

size_t
admin_put_process(const struct admin_process *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u8(&writer, m->role);
    wire_put_u16(&writer, m->group);
    wire_put_u16(&writer, m->cell);
    wire_put_u32(&writer, m->pid);
    wire_put_u32(&writer, m->restarts);
    wire_put_u64(&writer, m->age);
    wire_put_u32(&writer, m->layers);
    put_pong(&writer, &m->pong);
    return wire_size(&writer);
}

bool
admin_get_process(struct admin_process *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->role = wire_get_u8(&reader);
    m->group = wire_get_u16(&reader);
    m->cell = wire_get_u16(&reader);
    m->pid = wire_get_u32(&reader);
    m->restarts = wire_get_u32(&reader);
    m->age = wire_get_u64(&reader);
    m->layers = wire_get_u32(&reader);
    get_pong(&reader, &m->pong);
    return wire_done(&reader);
}

size_t
admin_put_context(const struct admin_context *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_text(&writer, m->name);
    wire_put_u16(&writer, m->group);
    wire_put_u16(&writer, m->listeners);
    put_counters(&writer, &m->counters);
    return wire_size(&writer);
}

bool
admin_get_context(struct admin_context *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    wire_get_text(&reader, m->name, sizeof(m->name));
    m->group = wire_get_u16(&reader);
    m->listeners = wire_get_u16(&reader);
    get_counters(&reader, &m->counters);
    return wire_done(&reader);
}

size_t
admin_put_ban(const struct admin_ban *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->uid);
    wire_put_u32(&writer, m->pid);
    wire_put_u32(&writer, m->times);
    wire_put_u32(&writer, m->seconds);
    return wire_size(&writer);
}

bool
admin_get_ban(struct admin_ban *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->uid = wire_get_u32(&reader);
    m->pid = wire_get_u32(&reader);
    m->times = wire_get_u32(&reader);
    m->seconds = wire_get_u32(&reader);
    return wire_done(&reader);
}
