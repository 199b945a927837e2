/* fuzz_relay.c: what a worker says to its relay and hears from it. The first byte chooses the
 * decoder. What was understood can be said again, and is then the same to the last byte. */
#include "tests/fuzz/fuzz.h"

#include "protocol/relay.h"

static void
fuzz_relay(const uint8_t *data, size_t size)
{
    static uint8_t out[CHANNEL_BODY_MAX];
    size_t again = 0;
    uint16_t protocol;
    struct relay_take take;
    struct relay_ended ended;
    uint8_t *body;
    bool understood = false;

    if (size == 0 || size > CHANNEL_BODY_MAX)
        return;
    size--;
    body = fuzz_copy(data + 1, size);
    switch (data[0] % 3) {
    case 0:
        understood = relay_get_ready(&protocol, body, size);
        if (understood)
            again = relay_put_ready(protocol, out, sizeof(out));
        break;
    case 1:
        understood = relay_get_ended(&ended, body, size);
        if (understood)
            again = relay_put_ended(&ended, out, sizeof(out));
        break;
    default:
        understood = relay_get_take(&take, body, size);
        if (understood)
            again = relay_put_take(&take, out, sizeof(out));
        break;
    }
    FUZZ_REQUIRE(!understood || (again == size && memcmp(out, body, again) == 0));
    free(body);
}

FUZZ_TARGET(fuzz_relay)
