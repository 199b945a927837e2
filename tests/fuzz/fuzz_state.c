/* fuzz_state.c: the state of a finished handshake as a library takes it, from an agent that need
 * not be ours (FINISHED): whatever was understood can be used. */
#include "tests/fuzz/fuzz.h"

#include <sys/socket.h>
#include <unistd.h>

#include "client/internal.h"
#include "client/stream.h"
#include "protocol/service.h"

static void
fuzz_use_state(const struct traffic_state *state, const uint8_t *early, size_t early_size)
{
    static uint8_t plain[20000];
    struct stream stream;
    struct error error = {""};
    int pair[2];

    memset(&stream, 0, sizeof(stream));
    FUZZ_REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    if (stream_start(&stream, pair[0], state, true, early, early_size, &error) == 0) {
        (void)stream_write(&stream, "hello", 5, &error);
        (void)stream_read(&stream, plain, sizeof(plain), &error);
        (void)stream_shutdown_send(&stream, &error);
    }
    stream_clear(&stream);
    close(pair[0]);
    close(pair[1]);
}

static void
fuzz_state(const uint8_t *data, size_t size)
{
    struct service_finished finished;
    uint8_t *body;

    if (size > CHANNEL_BODY_MAX)
        return;
    body = fuzz_copy(data, size);
    if (service_get_finished(&finished, body, size)) {
        if (facts_chain_valid(finished.chain, finished.chain_size))
            free(facts_new(&finished));
        fuzz_use_state(&finished.state, finished.early, finished.early_size);
    }
    free(body);
}

FUZZ_TARGET(fuzz_state)
