/* admin.c: see admin.h; the layout in prose is in PROTOCOL.md. */
#include "protocol/admin.h"

#include "protocol/wire.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

const struct channel_rule admin_supervisor_rules[] = {
    {ADMIN_STATUS, 0, 0, 0},
    {ADMIN_UPGRADE, 0, 0, 0},
};
const size_t admin_supervisor_rule_count = COUNT(admin_supervisor_rules);

const struct channel_rule admin_command_rules[] = {
    {ADMIN_AGENT, 0, 33, 33 + SERVICE_BUILD_MAX + LOAD_PATH_MAX},
    {ADMIN_PROCESS, 0, 25 + CONTROL_PONG_SIZE, 25 + CONTROL_PONG_SIZE},
    {ADMIN_CONTEXT, 0, 5 + CONTROL_COUNTERS_SIZE, 5 + CONTROL_COUNTERS_SIZE + SERVICE_NAME_MAX},
    {ADMIN_END, 0, 0, 0},
    {ADMIN_DENIED, 0, 2, LOAD_TEXT_MAX},
    {ADMIN_BAN, 0, 16, 16},
};
const size_t admin_command_rule_count = COUNT(admin_command_rules);

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
    wire_put_long_text(&writer, m->configuration);
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
    wire_get_long_text(&reader, m->configuration, sizeof(m->configuration));
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
    control_write_pong(&writer, &m->pong);
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
    control_read_pong(&reader, &m->pong);
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
    control_write_counters(&writer, &m->counters);
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
    control_read_counters(&reader, &m->counters);
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
