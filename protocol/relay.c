/* relay.c: encoders, decoders and tables of relay.h. */
#include "protocol/relay.h"

#include "protocol/wire.h"

#define TAKE_MIN (4 + 1 + 1 + 1 + TRAFFIC_STATE_SIZE + 4)

const struct channel_rule relay_rules[] = {
    {RELAY_TAKE, 2, TAKE_MIN, TAKE_MIN + RELAY_EARLY_MAX},
};
const size_t relay_rule_count = sizeof(relay_rules) / sizeof(relay_rules[0]);

const struct channel_rule relay_worker_rules[] = {
    {RELAY_READY, 0, 2, 2},
    {RELAY_ENDED, 0, 21, 21},
};
const size_t relay_worker_rule_count = sizeof(relay_worker_rules) / sizeof(relay_worker_rules[0]);

size_t
relay_put_ready(uint16_t protocol, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u16(&writer, protocol);
    return wire_size(&writer);
}

bool
relay_get_ready(uint16_t *protocol, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    *protocol = wire_get_u16(&reader);
    return wire_done(&reader);
}

size_t
relay_put_take(const struct relay_take *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->id);
    wire_put_u8(&writer, m->plain);
    wire_put_u8(&writer, m->is_server);
    wire_put_u8(&writer, m->tell);
    traffic_put_state(&writer, &m->state);
    wire_put_string(&writer, 4, m->early, m->early_size);
    return wire_size(&writer);
}

bool
relay_get_take(struct relay_take *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->id = wire_get_u32(&reader);
    m->plain = wire_get_u8(&reader);
    m->is_server = wire_get_u8(&reader);
    m->tell = wire_get_u8(&reader);
    traffic_get_state(&reader, &m->state);
    m->early = wire_get_string(&reader, 4, RELAY_EARLY_MAX, &m->early_size);
    return wire_done(&reader) && m->plain >= RELAY_PAIR && m->plain <= RELAY_SOCKET &&
           m->is_server <= 1 && m->tell <= 1 && traffic_suite_find(m->state.suite) != NULL &&
           m->state.max_fragment > 0 && m->state.max_fragment <= TRAFFIC_PLAINTEXT_MAX;
}

size_t
relay_put_ended(const struct relay_ended *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->id);
    wire_put_u8(&writer, m->how);
    wire_put_u64(&writer, m->inward);
    wire_put_u64(&writer, m->outward);
    return wire_size(&writer);
}

bool
relay_get_ended(struct relay_ended *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->id = wire_get_u32(&reader);
    m->how = wire_get_u8(&reader);
    m->inward = wire_get_u64(&reader);
    m->outward = wire_get_u64(&reader);
    return wire_done(&reader) && m->how >= RELAY_CLEAN && m->how <= RELAY_FAILED;
}
