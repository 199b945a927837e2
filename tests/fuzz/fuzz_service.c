/* fuzz_service.c: the messages between worker, supervisor and handshaker. The first byte chooses
 * the decoder. */
#include "tests/fuzz/fuzz.h"

#include "protocol/service.h"

static void
fuzz_service(const uint8_t *data, size_t size)
{
    static uint8_t out[CHANNEL_BODY_MAX];
    size_t again = 0, body_size = size > 0 ? size - 1 : 0;
    uint8_t *body;
    bool understood = false;
    union {
        struct service_accept accept;
        struct service_pull pull;
        struct service_cancel cancel;
        struct service_finished finished;
        struct service_failed failed;
        struct service_welcome welcome;
        struct service_context context;
        struct service_channel channel;
        struct service_denied denied;
        struct service_batch batch;
    } m;

    if (size == 0 || body_size > CHANNEL_BODY_MAX)
        return;
    body = fuzz_copy(data + 1, body_size);
    memset(&m, 0, sizeof(m));
    switch (data[0] % 10) {
    case 0:
        understood = service_get_accept(&m.accept, body, body_size);
        if (understood)
            again = service_put_accept(&m.accept, out, sizeof(out));
        break;
    case 1:
        understood = service_get_pull(&m.pull, body, body_size);
        if (understood)
            again = service_put_pull(&m.pull, out, sizeof(out));
        break;
    case 2:
        understood = service_get_cancel(&m.cancel, body, body_size);
        if (understood)
            again = service_put_cancel(&m.cancel, out, sizeof(out));
        break;
    case 3:
        understood = service_get_finished(&m.finished, body, body_size);
        if (understood)
            again = service_put_finished(&m.finished, out, sizeof(out));
        break;
    case 4:
        understood = service_get_failed(&m.failed, body, body_size);
        if (understood)
            again = service_put_failed(&m.failed, out, sizeof(out));
        break;
    case 5:
        understood = service_get_welcome(&m.welcome, body, body_size);
        if (understood)
            again = service_put_welcome(&m.welcome, out, sizeof(out));
        break;
    case 6:
        understood = service_get_context(&m.context, body, body_size);
        if (understood)
            again = service_put_context(&m.context, out, sizeof(out));
        break;
    case 7:
        understood = service_get_channel(&m.channel, body, body_size);
        if (understood)
            again = service_put_channel(&m.channel, out, sizeof(out));
        break;
    case 8:
        understood = service_get_denied(&m.denied, body, body_size);
        if (understood)
            again = service_put_denied(&m.denied, out, sizeof(out));
        break;
    case 9:
        understood = service_get_batch(&m.batch, body, body_size);
        if (understood)
            again = service_put_batch(&m.batch, out, sizeof(out));
        break;
    default:
        break;
    }
    /* What was understood can be said again, and is then the same to the last byte. */
    FUZZ_REQUIRE(!understood || (again == body_size && memcmp(out, body, again) == 0));
    free(body);
}

FUZZ_TARGET(fuzz_service)
