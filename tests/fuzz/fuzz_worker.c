/*
 * fuzz_worker.c: the handshaker's own dispatch, in this process: a hostile worker's packets on a
 * real channel, with real handshakes on the sockets that it passes.
 *
 * The input is a row of packets: a byte that says which fd goes with it, two bytes of size, the
 * packet (type and body). fd 1 is one end of a socket pair; a packet with fd kind 3 is not sent on
 * the channel but to the other end of the last pair, as the peer's bytes. A thread plays a keeper
 * that signs nothing and opens no ticket.
 */
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/handshake.h"
#include "agent/keycall.h"
#include "agent/keyschedule.h"
#include "agent/log.h"
#include "agent/loop.h"
#include "agent/proxykey.h"
#include "agent/workers.h"
#include "tests/unit/keeper_fixture.h"

static struct serving fuzz_serving;
static struct cell fuzz_cell = {.serving = &fuzz_serving};

static void *
fuzz_play_keeper(void *argument)
{
    static uint8_t buffer[CHANNEL_BUFFER_SIZE];
    int fd = *(int *)argument;
    struct channel_message message;
    struct error error = {""};
    static const uint8_t filter[KEYOPS_FILTER_SIZE] = "a key name";
    uint8_t body[64 + KEYOPS_FILTER_SIZE];

    while (channel_receive_wait(fd, keyops_keeper_rules, keyops_keeper_rule_count, buffer,
                                sizeof(buffer), &message, &error, -1) != CHANNEL_CLOSED) {
        struct keyops_refused refused = {.reason = KEYOPS_INTERNAL};
        struct keyops_answer answer = {.data = filter, .size = sizeof(filter)};

        if (message.size < 4)
            continue;
        refused.number = (uint32_t)message.body[0] << 24 | (uint32_t)message.body[1] << 16 |
                         (uint32_t)message.body[2] << 8 | message.body[3];
        answer.number = refused.number;
        if (message.type == KEYOPS_FILTERS)
            channel_send(fd, KEYOPS_ANSWER, body, keyops_put_answer(&answer, body, sizeof(body)),
                         NULL, 0);
        else
            channel_send(fd, KEYOPS_REFUSAL, body, keyops_put_refused(&refused, body, sizeof(body)),
                         NULL, 0);
    }
    return NULL;
}

static void
fuzz_worker_start(void)
{
    static int keeper[2];
    struct keyops_hello hello = {""};
    struct error error = {""};
    struct generation_public *part;
    struct keycall *calls;
    pthread_t thread;
    int public_fd, secret_fd;
    uint8_t body[128];

    if (fuzz_cell.loop != NULL)
        return;
    log_init("fuzz", LOG_LEVEL_ERROR, false);
    keeper_parts(&public_fd, &secret_fd);
    close(secret_fd);
    FUZZ_REQUIRE(generation_seal(public_fd, &error) == 0);
    part = fixture_keep(generation_public_map(public_fd, &error));
    FUZZ_REQUIRE(channel_pair(keeper) == 0);
    strncpy(hello.build, role_build_id, sizeof(hello.build) - 1);
    channel_send(keeper[1], KEYOPS_HELLO, body, keyops_put_hello(&hello, body, sizeof(body)), NULL,
                 0);
    FUZZ_REQUIRE(pthread_create(&thread, NULL, fuzz_play_keeper, &keeper[1]) == 0);
    pthread_detach(thread);
    calls = fixture_keep(keycall_open(keeper[0], 1000, &error));
    FUZZ_REQUIRE(keyschedule_load(&error) == 0);
    FUZZ_REQUIRE(proxykey_load(&error) == 0);
    fuzz_cell.tickets = fixture_keep(proxyticket_new(calls, &error));
    fuzz_cell.identities = fixture_keep(identity_table_new(part, calls, &handshake_hooks, &error));
    fuzz_cell.contexts = fixture_keep(calloc(part->context_count, sizeof(*fuzz_cell.contexts)));
    fuzz_cell.buffer = fixture_keep(malloc(CHANNEL_BUFFER_SIZE));
    fuzz_cell.capacity = 64;
    fuzz_cell.worker_limit = 4;
    fuzz_cell.loop = loop_new();
    workers_init(&fuzz_cell);
    fuzz_cell.unread_limit = 64;
}

/* Some rounds of the loop: as long as there is something to do. */
static void
fuzz_settle(void)
{
    for (int i = 0; i < 4; i++) {
        /* A watched pipe with a byte in it: the round does not wait. */
        loop_round(fuzz_cell.loop);
    }
}

static void
fuzz_wake_ready(struct loop_watch *watch, uint32_t events)
{
    (void)watch;
    (void)events;
}

/* Send one packet; *peer is the other end of the last socket pair. */
static void
fuzz_send_packet(int channel, uint8_t kind, const uint8_t *packet, size_t size, int *peer)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control;
    struct iovec part = {(void *)(uintptr_t)packet, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    int fds[2] = {-1, -1};
    size_t count = kind == 0 ? 0 : kind == 2 ? 2 : 1;

    if (kind == 3) {
        (void)send(*peer, packet, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        return;
    }
    if (count > 0) {
        struct cmsghdr *rights;
        int pair[2];

        FUZZ_REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        close(*peer);
        *peer = pair[1];
        fds[0] = pair[0];
        fds[1] = count == 2 ? dup(pair[1]) : -1;
        memset(&control, 0, sizeof(control));
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(rights), fds, sizeof(int) * count);
    }
    (void)sendmsg(channel, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    for (size_t i = 0; i < count; i++)
        close(fds[i]);
}

static void
fuzz_worker(const uint8_t *data, size_t size)
{
    static const struct control_worker credentials = {
        .uid = 4242, .gid = 4242, .pid = 1, .channels_max = 4};
    static struct loop_watch wake;
    static uint8_t junk[65536];
    int channel[2], pipes[2], peer;

    fuzz_worker_start();
    FUZZ_REQUIRE(channel_pair(channel) == 0 && pipe2(pipes, O_CLOEXEC) == 0);
    peer = dup(pipes[0]);
    FUZZ_REQUIRE(write(pipes[1], "x", 1) == 1);
    loop_watch_init(&wake, pipes[0], fuzz_wake_ready);
    loop_watch_set(fuzz_cell.loop, &wake, 1 /* EPOLLIN */);
    workers_add(&fuzz_cell, channel[0], &credentials);
    for (int packets = 0; size >= 3 && packets < 40; packets++) {
        size_t wanted = (size_t)(data[1] << 8 | data[2]);

        wanted = wanted < size - 3 ? wanted : size - 3;
        fuzz_send_packet(channel[1], data[0] % 4, data + 3, wanted, &peer);
        data += wanted + 3;
        size -= wanted + 3;
        fuzz_settle();
        while (recv(channel[1], junk, sizeof(junk), MSG_DONTWAIT) > 0)
            continue;
    }
    close(channel[1]);
    fuzz_settle();
    /* Nothing of this worker is left. */
    FUZZ_REQUIRE(fuzz_cell.worker_count == 0 && fuzz_cell.in_flight == 0);
    FUZZ_REQUIRE(fuzz_serving.whom == 0); /* nobody is to blame for what comes next */
    loop_watch_set(fuzz_cell.loop, &wake, 0);
    close(pipes[0]);
    close(pipes[1]);
    close(peer);
}

FUZZ_TARGET(fuzz_worker)
