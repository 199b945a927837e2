/* fuzz_store.c: what a fetcher hears: handshakers' and the supervisor's messages, and the replies
 * of a store, in pieces. The first byte chooses the decoder. */
#include "tests/fuzz/fuzz.h"

#include "agent/redis.h"
#include "protocol/control.h"
#include "protocol/store.h"

/* The first byte: the size of the pieces. */
static void
fuzz_replies(const uint8_t *data, size_t size)
{
    struct redis_decoder *decoder = redis_decoder_new();
    size_t piece = size > 0 ? 1 + data[0] % 64U : 1;
    unsigned long sum = 0;
    int more = 0;

    FUZZ_REQUIRE(decoder != NULL);
    for (size_t at = 1; at < size && more == 0; at += piece) {
        size_t length = size - at < piece ? size - at : piece;
        uint8_t *bytes = fuzz_copy(data + at, length);
        struct error error = {""};
        struct redis_reply reply;

        more = redis_decoder_feed(decoder, bytes, length, &error);
        free(bytes);
        while (more != -1 && (more = redis_decoder_next(decoder, &reply, &error)) == 1) {
            FUZZ_REQUIRE(reply.size <= REDIS_REPLY_MAX);
            FUZZ_REQUIRE(reply.type <= REDIS_REFUSAL);
            for (size_t i = 0; i < reply.size && i < REDIS_VALUE_MAX; i++)
                sum += reply.data[i];
        }
        FUZZ_REQUIRE(more != -1 || error.text[0] != '\0');
    }
    FUZZ_REQUIRE(sum <= 255UL * size * 64);
    redis_decoder_free(decoder);
}

static void
fuzz_store(const uint8_t *data, size_t size)
{
    static uint8_t out[CHANNEL_BODY_MAX];
    size_t again = 0, body_size = size > 0 ? size - 1 : 0;
    uint8_t *body;
    bool understood = false;
    union {
        struct store_get get;
        struct store_put put;
        struct store_found found;
        struct store_number number;
        struct control_store store;
        struct control_fetcher_channel channel;
        struct control_no_connection none;
    } m;

    if (size == 0 || body_size > CHANNEL_BODY_MAX)
        return;
    if (data[0] % 8 == 7) {
        fuzz_replies(data + 1, body_size);
        return;
    }
    body = fuzz_copy(data + 1, body_size);
    memset(&m, 0, sizeof(m));
    switch (data[0] % 8) {
    case 0:
        understood = store_get_get(&m.get, body, body_size);
        if (understood)
            again = store_put_get(&m.get, out, sizeof(out));
        break;
    case 1:
        understood = store_get_put(&m.put, body, body_size);
        if (understood)
            again = store_put_put(&m.put, out, sizeof(out));
        break;
    case 2:
        understood = store_get_found(&m.found, body, body_size);
        if (understood)
            again = store_put_found(&m.found, out, sizeof(out));
        break;
    case 3:
        understood = store_get_number(&m.number, body, body_size);
        if (understood)
            again = store_put_number(&m.number, out, sizeof(out));
        break;
    case 4:
        understood = control_get_store(&m.store, body, body_size);
        if (understood)
            again = control_put_store(&m.store, out, sizeof(out));
        break;
    case 5:
        understood = control_get_fetcher_channel(&m.channel, body, body_size);
        if (understood)
            again = control_put_fetcher_channel(&m.channel, out, sizeof(out));
        break;
    case 6:
        understood = control_get_no_connection(&m.none, body, body_size);
        if (understood)
            again = control_put_no_connection(&m.none, out, sizeof(out));
        break;
    default:
        break;
    }
    /* What was understood can be said again, and is then the same to the last byte. */
    FUZZ_REQUIRE(!understood || (again == body_size && memcmp(out, body, again) == 0));
    free(body);
}

FUZZ_TARGET(fuzz_store)
