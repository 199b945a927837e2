/* keyops.c: see keyops.h; the layout in prose is in PROTOCOL.md. */
#include "protocol/keyops.h"

#include <string.h>

#include "protocol/wire.h"

const struct channel_rule keyops_keeper_rules[] = {
    {KEYOPS_SIGN_TLS13, 0, 12 + 32, 12 + KEYOPS_HASH_MAX},
    {KEYOPS_SIGN_TLS12_SERVER, 0, 76, 76 + KEYOPS_PARAMETERS_MAX},
    {KEYOPS_SEAL_TICKET, 0, 40, 40 + KEYOPS_TICKET_MAX},
    {KEYOPS_OPEN_TICKET, 0, 40 + KEYOPS_TICKET_EXTRA, 40 + KEYOPS_TICKET_MAX + KEYOPS_TICKET_EXTRA},
    {KEYOPS_FILTERS, 0, 4, 4},
};
const size_t keyops_keeper_rule_count = sizeof(keyops_keeper_rules) / sizeof(struct channel_rule);

const struct channel_rule keyops_handshaker_rules[] = {
    {KEYOPS_HELLO, 0, 1, KEYOPS_BUILD_MAX},
    {KEYOPS_ANSWER, 0, 8, 8 + KEYOPS_TICKET_MAX + KEYOPS_TICKET_EXTRA},
    {KEYOPS_REFUSAL, 0, 5, 5},
};
const size_t keyops_handshaker_rule_count =
    sizeof(keyops_handshaker_rules) / sizeof(struct channel_rule);

/* Copy a string of at most max bytes into dst. */
static void
get_array(struct wire_reader *reader, unsigned prefix, uint8_t *dst, size_t max, size_t *size)
{
    const uint8_t *bytes = wire_get_string(reader, prefix, max, size);

    if (bytes != NULL)
        memcpy(dst, bytes, *size);
}

size_t
keyops_put_hello(const struct keyops_hello *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_text(&writer, m->build);
    return wire_size(&writer);
}

bool
keyops_get_hello(struct keyops_hello *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    wire_get_text(&reader, m->build, sizeof(m->build));
    return wire_done(&reader);
}

size_t
keyops_put_sign_tls13(const struct keyops_sign_tls13 *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->number);
    wire_put_u32(&writer, m->key);
    wire_put_u16(&writer, m->scheme);
    wire_put_u8(&writer, m->role);
    wire_put_string(&writer, 1, m->hash, m->hash_size);
    return wire_size(&writer);
}

bool
keyops_get_sign_tls13(struct keyops_sign_tls13 *m, const void *body, size_t size)
{
    struct wire_reader reader;

    memset(m, 0, sizeof(*m));
    wire_reader_init(&reader, body, size);
    m->number = wire_get_u32(&reader);
    m->key = wire_get_u32(&reader);
    m->scheme = wire_get_u16(&reader);
    m->role = wire_get_u8(&reader);
    get_array(&reader, 1, m->hash, sizeof(m->hash), &m->hash_size);
    return wire_done(&reader);
}

size_t
keyops_put_sign_tls12_server(const struct keyops_sign_tls12_server *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->number);
    wire_put_u32(&writer, m->key);
    wire_put_u16(&writer, m->scheme);
    wire_put_bytes(&writer, m->client_random, sizeof(m->client_random));
    wire_put_bytes(&writer, m->server_random, sizeof(m->server_random));
    wire_put_string(&writer, 2, m->parameters, m->parameters_size);
    return wire_size(&writer);
}

bool
keyops_get_sign_tls12_server(struct keyops_sign_tls12_server *m, const void *body, size_t size)
{
    struct wire_reader reader;

    memset(m, 0, sizeof(*m));
    wire_reader_init(&reader, body, size);
    m->number = wire_get_u32(&reader);
    m->key = wire_get_u32(&reader);
    m->scheme = wire_get_u16(&reader);
    wire_get_bytes(&reader, m->client_random, sizeof(m->client_random));
    wire_get_bytes(&reader, m->server_random, sizeof(m->server_random));
    get_array(&reader, 2, m->parameters, sizeof(m->parameters), &m->parameters_size);
    return wire_done(&reader);
}

size_t
keyops_put_ticket(const struct keyops_ticket *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->number);
    wire_put_bytes(&writer, m->scope, sizeof(m->scope));
    wire_put_string(&writer, 4, m->data, m->data_size);
    return wire_size(&writer);
}

bool
keyops_get_ticket(struct keyops_ticket *m, const void *body, size_t size)
{
    struct wire_reader reader;

    memset(m, 0, sizeof(*m));
    wire_reader_init(&reader, body, size);
    m->number = wire_get_u32(&reader);
    wire_get_bytes(&reader, m->scope, sizeof(m->scope));
    m->data = wire_get_string(&reader, 4, KEYOPS_TICKET_MAX + KEYOPS_TICKET_EXTRA, &m->data_size);
    return wire_done(&reader);
}

size_t
keyops_put_filters(const struct keyops_filters *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->number);
    return wire_size(&writer);
}

bool
keyops_get_filters(struct keyops_filters *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->number = wire_get_u32(&reader);
    return wire_done(&reader);
}

size_t
keyops_put_answer(const struct keyops_answer *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->number);
    wire_put_string(&writer, 4, m->data, m->size);
    return wire_size(&writer);
}

bool
keyops_get_answer(struct keyops_answer *m, const void *body, size_t size)
{
    struct wire_reader reader;

    memset(m, 0, sizeof(*m));
    wire_reader_init(&reader, body, size);
    m->number = wire_get_u32(&reader);
    m->data = wire_get_string(&reader, 4, CHANNEL_BODY_MAX, &m->size);
    return wire_done(&reader);
}

size_t
keyops_put_refused(const struct keyops_refused *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->number);
    wire_put_u8(&writer, m->reason);
    return wire_size(&writer);
}

bool
keyops_get_refused(struct keyops_refused *m, const void *body, size_t size)
{
    struct wire_reader reader;

    memset(m, 0, sizeof(*m));
    wire_reader_init(&reader, body, size);
    m->number = wire_get_u32(&reader);
    m->reason = wire_get_u8(&reader);
    return wire_done(&reader);
}
