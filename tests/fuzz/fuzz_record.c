/*
 * fuzz_record.c: the worker's record layer against its peer, over a socket pair. First byte: which
 * suite, and our role. Then pieces: a byte of kind, two of size, the bytes. Kind: sent as they are,
 * or sealed by a peer who has the keys (a content type in front), so that what lies behind the AEAD
 * is reached.
 */
#include "tests/fuzz/fuzz.h"

#include <check.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/stream.h"

/* Check's own does not work outside of its tests. */
#undef ck_assert_int_eq
#define ck_assert_int_eq(one, other) FUZZ_REQUIRE((one) == (other))
#include "tests/unit/record_fixture.h"

struct fuzz_peer {
    const struct traffic_suite *suite;
    struct traffic_state state;
    int fd;
};

/* Send one piece; returns its size in the input. */
static size_t
fuzz_send_piece(struct fuzz_peer *peer, const uint8_t *data, size_t size)
{
    static uint8_t record[TRAFFIC_PLAINTEXT_MAX + 300];
    size_t wanted = (size_t)(data[1] << 8 | data[2]) % TRAFFIC_PLAINTEXT_MAX;

    wanted = wanted < size - 3 ? wanted : size - 3;
    if (data[0] % 4 == 0 || wanted == 0) {
        (void)send(peer->fd, data + 3, wanted, MSG_DONTWAIT | MSG_NOSIGNAL);
    } else {
        uint8_t type = peer->suite->version == TRAFFIC_TLS_1_3 ? 23 : (uint8_t)(20 + data[0] % 5);
        size_t made = fixture_forge(peer->suite, &peer->state.send, type, data + 3, wanted, record);

        (void)send(peer->fd, record, made, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    return wanted + 3;
}

static void
fuzz_record(const uint8_t *data, size_t size)
{
    struct traffic_state server, client;
    struct fuzz_peer peer;
    struct stream stream;
    struct error error = {""};
    static uint8_t plain[20000];
    int pair[2], rounds = 0;
    ssize_t got;

    if (size < 1)
        return;
    memset(&stream, 0, sizeof(stream));
    fixture_states(fixture_suites[data[0] % FIXTURE_SUITES], 16384, &server, &client);
    peer.suite = traffic_suite_find(server.suite);
    peer.state = data[0] & 0x80 ? client : server;
    FUZZ_REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    peer.fd = pair[1];
    FUZZ_REQUIRE(stream_start(&stream, pair[0], data[0] & 0x80 ? &server : &client,
                              (data[0] & 0x80) != 0, NULL, 0, &error) == 0);
    for (size_t at = 1; at + 3 <= size && rounds < 50; rounds++) {
        at += fuzz_send_piece(&peer, data + at, size - at);
        do
            got = stream_read(&stream, plain, sizeof(plain), &error);
        while (got > 0);
        FUZZ_REQUIRE(got == 0 || got == -1 || got == STREAM_WANT_POLLIN ||
                     got == STREAM_WANT_POLLOUT);
        (void)stream_write(&stream, "x", 1, &error);
        while (recv(pair[1], plain, sizeof(plain), MSG_DONTWAIT) > 0)
            continue;
    }
    (void)stream_shutdown_send(&stream, &error);
    stream_clear(&stream);
    close(pair[0]);
    close(pair[1]);
}

FUZZ_TARGET(fuzz_record)
