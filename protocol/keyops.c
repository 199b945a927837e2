/* keyops.c: see keyops.h; the layout in prose is in PROTOCOL.md. */
#include "protocol/keyops.h"

#include <string.h>

#include "protocol/wire.h"

_Static_assert(sizeof(struct keyops_ticket_key) == KEYOPS_NONCE_SIZE + KEYOPS_KEY_SIZE &&
                   KEYOPS_KEYS_SIZE <= UINT8_MAX,
               "it lies in a message as it is");

#define ITEM_EXTRA (1 + 4)

/* The longest request of a batch, and its answer with all keys. */
_Static_assert(KEYOPS_BATCH_MAX *(ITEM_EXTRA + 9 + KEYOPS_WISH_SIZE + KEYOPS_ID_MAX +
                                  KEYOPS_BATCH_TICKET) <= KEYOPS_BATCH_SIZE &&
                   KEYOPS_BATCH_MAX *
                           (ITEM_EXTRA + 9 + KEYOPS_BATCH_TICKET + 1 + KEYOPS_KEYS_SIZE) <=
                       KEYOPS_BATCH_SIZE,
               "a whole batch fits");

const struct channel_rule keyops_keeper_rules[] = {
    {KEYOPS_SIGN_TLS13, 0, 12 + 32 + KEYOPS_WISH_SIZE, 12 + KEYOPS_HASH_MAX + KEYOPS_WISH_SIZE},
    {KEYOPS_SIGN_TLS12_SERVER, 0, 76 + KEYOPS_WISH_SIZE,
     76 + KEYOPS_PARAMETERS_MAX + KEYOPS_WISH_SIZE},
    {KEYOPS_TICKET_KEYS, 0, 4 + KEYOPS_WISH_SIZE, 4 + KEYOPS_WISH_SIZE},
    {KEYOPS_OPEN_TICKET, 0, 9 + KEYOPS_WISH_SIZE + KEYOPS_TICKET_EXTRA, KEYOPS_OPEN_MAX},
    {KEYOPS_FILTERS, 0, 4, 4},
    {KEYOPS_OPEN_TICKETS, 0, ITEM_EXTRA + 9 + KEYOPS_WISH_SIZE + KEYOPS_TICKET_EXTRA,
     KEYOPS_BATCH_SIZE},
};
const size_t keyops_keeper_rule_count = sizeof(keyops_keeper_rules) / sizeof(struct channel_rule);

const struct channel_rule keyops_handshaker_rules[] = {
    {KEYOPS_HELLO, 0, 1, KEYOPS_BUILD_MAX},
    {KEYOPS_ANSWER, 0, 9, KEYOPS_ANSWER_MAX},
    {KEYOPS_REFUSAL, 0, 5, 5},
    {KEYOPS_ANSWERS, 0, ITEM_EXTRA + 5, KEYOPS_BATCH_SIZE},
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

static void
put_wish(struct wire_writer *writer, const struct keyops_wish *wish)
{
    wire_put_u8(writer, wish->keys);
    wire_put_bytes(writer, wish->scope, sizeof(wish->scope));
}

static void
get_wish(struct wire_reader *reader, struct keyops_wish *wish)
{
    wish->keys = wire_get_u8(reader);
    wire_get_bytes(reader, wish->scope, sizeof(wish->scope));
    if (wish->keys > KEYOPS_KEYS_MAX)
        reader->failed = true;
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
    put_wish(&writer, &m->wish);
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
    get_wish(&reader, &m->wish);
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
    put_wish(&writer, &m->wish);
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
    get_wish(&reader, &m->wish);
    return wire_done(&reader);
}

size_t
keyops_put_ticket_keys(const struct keyops_ticket_keys *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->number);
    put_wish(&writer, &m->wish);
    return wire_size(&writer);
}

bool
keyops_get_ticket_keys(struct keyops_ticket_keys *m, const void *body, size_t size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, body, size);
    m->number = wire_get_u32(&reader);
    get_wish(&reader, &m->wish);
    return wire_done(&reader);
}

size_t
keyops_put_open_ticket(const struct keyops_open_ticket *m, void *buffer, size_t size)
{
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->number);
    put_wish(&writer, &m->wish);
    wire_put_string(&writer, 1, m->id, m->id_size);
    wire_put_string(&writer, 4, m->data, m->data_size);
    return wire_size(&writer);
}

bool
keyops_get_open_ticket(struct keyops_open_ticket *m, const void *body, size_t size)
{
    struct wire_reader reader;

    memset(m, 0, sizeof(*m));
    wire_reader_init(&reader, body, size);
    m->number = wire_get_u32(&reader);
    get_wish(&reader, &m->wish);
    get_array(&reader, 1, m->id, sizeof(m->id), &m->id_size);
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

/* Keys are a string of the period and the keys, or empty. */
size_t
keyops_put_answer(const struct keyops_answer *m, void *buffer, size_t size)
{
    size_t keys_size = m->key_count * sizeof(m->keys[0]);
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, size);
    wire_put_u32(&writer, m->number);
    wire_put_string(&writer, 4, m->data, m->size);
    if (m->key_count == 0) {
        wire_put_u8(&writer, 0);
    } else {
        wire_put_u8(&writer, (uint8_t)(KEYOPS_PERIOD_SIZE + keys_size));
        wire_put_u32(&writer, m->period);
        wire_put_bytes(&writer, m->keys, keys_size);
    }
    return m->key_count <= KEYOPS_KEYS_MAX ? wire_size(&writer) : 0;
}

bool
keyops_get_answer(struct keyops_answer *m, const void *body, size_t size)
{
    struct wire_reader reader, keys;
    const uint8_t *bytes;
    size_t keys_size;

    memset(m, 0, sizeof(*m));
    wire_reader_init(&reader, body, size);
    m->number = wire_get_u32(&reader);
    m->data = wire_get_string(&reader, 4, 1 + KEYOPS_TICKET_MAX, &m->size);
    bytes = wire_get_string(&reader, 1, KEYOPS_KEYS_SIZE, &keys_size);
    if (!wire_done(&reader) || keys_size == 0)
        return wire_done(&reader);
    wire_reader_init(&keys, bytes, keys_size);
    m->period = wire_get_u32(&keys);
    keys_size = (size_t)(keys.end - keys.next);
    if (keys.failed || keys_size == 0 || keys_size % sizeof(m->keys[0]) != 0)
        return false;
    m->key_count = keys_size / sizeof(m->keys[0]);
    m->keys = (const struct keyops_ticket_key *)keys.next;
    return true;
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

bool
keyops_add_item(const struct keyops_item *m, uint8_t *buffer, size_t room, size_t *used)
{
    struct wire_writer writer;
    size_t size;

    wire_writer_init(&writer, buffer + *used, room - *used);
    wire_put_u8(&writer, m->refused);
    wire_put_string(&writer, 4, m->body, m->size);
    size = wire_size(&writer);
    *used += size;
    return size > 0;
}

bool
keyops_next_item(struct keyops_item *m, const uint8_t **body, size_t *size)
{
    struct wire_reader reader;

    wire_reader_init(&reader, *body, *size);
    m->refused = wire_get_u8(&reader);
    m->body = wire_get_string(&reader, 4, KEYOPS_BATCH_SIZE, &m->size);
    if (reader.failed || m->refused > 1)
        return false;
    *body = reader.next;
    *size = (size_t)(reader.end - reader.next);
    return true;
}
