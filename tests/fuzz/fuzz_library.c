/*
 * fuzz_library.c: the library against an agent that was taken over: everything that can come on the
 * first connection and on the channels to the cells, while handshakes are in progress and
 * connections are wanted. It can fail handshakes; nothing else.
 *
 * First byte: 1 to 3 cells have been given; 0x10: connections are pulled, 0x20: a handshake is
 * cancelled, 0x40: nothing has been said yet. Then packets: a byte of where to (0: the first
 * connection, 1 to 3: a cell) and which fd goes with it (0x10: a stream socket, 0x20: a new
 * channel, 0x30: two; 0x40: none, and the channel ends), two bytes of size, the packet: type and
 * body.
 */
#include "tests/fuzz/fuzz.h"

#include <stdarg.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/internal.h"
#include "protocol/service.h"

#define FUZZ_LIBRARY_CELLS      3
#define FUZZ_LIBRARY_HANDSHAKES 4 /* their ids are 1 and 2 on each channel, or so */

struct fuzz_agent {
    int greeting;
    int cells[FUZZ_LIBRARY_CELLS];
};

static char fuzz_library_path[64];

static void
fuzz_library_remove(void)
{
    unlink(fuzz_library_path);
}

/* The listener is made once. */
static int
fuzz_library_listener(void)
{
    static int listener = -1;
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (listener != -1)
        return listener;
    snprintf(fuzz_library_path, sizeof(fuzz_library_path), "/tmp/tlsagent-fuzz-%d", getpid());
    memcpy(address.sun_path, fuzz_library_path, sizeof(fuzz_library_path));
    unlink(fuzz_library_path);
    listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    FUZZ_REQUIRE(bind(listener, (struct sockaddr *)&address, sizeof(address)) == 0 &&
                 listen(listener, 8) == 0);
    atexit(fuzz_library_remove);
    return listener;
}

/* WELCOME, two contexts of which the agent listens for one, and the channels. */
static void
fuzz_library_greet(struct fuzz_agent *agent, int cells)
{
    const struct service_welcome welcome = {SERVICE_PROTOCOL, "fuzz"};
    const struct service_context contexts[] = {{"www", 0, 1}, {"smtp", 1, 0}};
    uint8_t body[128];

    channel_send(agent->greeting, SERVICE_WELCOME, body,
                 service_put_welcome(&welcome, body, sizeof(body)), NULL, 0);
    for (size_t i = 0; i < 2; i++)
        channel_send(agent->greeting, SERVICE_CONTEXT, body,
                     service_put_context(&contexts[i], body, sizeof(body)), NULL, 0);
    for (int i = 0; i < cells; i++) {
        const struct service_channel channel = {0, (uint16_t)i};
        int pair[2];

        FUZZ_REQUIRE(channel_pair(pair) == 0);
        channel_send(agent->greeting, SERVICE_CHANNEL, body,
                     service_put_channel(&channel, body, sizeof(body)), &pair[1], 1);
        agent->cells[i] = pair[0];
        close(pair[1]);
    }
}

/* One packet of the agent; returns what it took of the input. */
static size_t
fuzz_library_packet(struct fuzz_agent *agent, const uint8_t *data, size_t size)
{
    size_t wanted = (size_t)(data[1] << 8 | data[2]), to = data[0] % 4, count = 0;
    int *channel = to == 0 ? &agent->greeting : &agent->cells[to - 1], pair[2];
    uint8_t kind = data[0] >> 4 & 7;

    wanted = wanted < size - 3 ? wanted : size - 3;
    if (*channel == -1)
        return 3 + wanted;
    if (kind == 4) {
        close(*channel);
        *channel = -1;
        return 3 + wanted;
    }
    if (kind >= 1 && kind <= 3) {
        FUZZ_REQUIRE(kind == 2 ? channel_pair(pair) == 0
                               : socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
                                            pair) == 0);
        count = kind == 3 ? 2 : 1;
    }
    if (wanted >= 2)
        (void)channel_send(*channel, (uint16_t)(data[3] << 8 | data[4]), data + 5, wanted - 2, pair,
                           count);
    else
        (void)send(*channel, data + 3, wanted, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count > 0) {
        close(pair[0]);
        close(pair[1]);
    }
    return 3 + wanted;
}

/* What the library says is over: used as a worker would. */
static void
fuzz_library_take(struct tlsagent *handle)
{
    static uint8_t plain[1000];
    struct tlsagent_conn *conn;

    while ((conn = tlsagent_next(handle)) != NULL) {
        int result = tlsagent_handshake(conn), fd = tlsagent_conn_fd(conn);
        struct tlsagent_conn **begun = tlsagent_data(conn); /* we began it, and the fd is ours */

        FUZZ_REQUIRE(result == 0 || result == -1);
        if (result == -1) {
            FUZZ_REQUIRE(tlsagent_error(conn)[0] != '\0');
        } else {
            FUZZ_REQUIRE(strcmp(tlsagent_conn_context(conn), "www") == 0);
            FUZZ_REQUIRE(strcmp(tlsagent_conn_form(conn), "records") == 0);
            (void)tlsagent_read(conn, plain, sizeof(plain));
            (void)tlsagent_write(conn, "hello", 5);
            for (size_t i = 0, size; i < tlsagent_conn_peer_count(conn); i++)
                FUZZ_REQUIRE(tlsagent_conn_peer_der(conn, i, &size) != NULL && size > 0);
        }
        tlsagent_abandon(conn);
        if (begun != NULL) {
            *begun = NULL;
            close(fd);
        }
    }
}

static void
fuzz_library(const uint8_t *data, size_t size)
{
    struct fuzz_agent agent = {-1, {-1, -1, -1}};
    struct tlsagent_conn *conns[FUZZ_LIBRARY_HANDSHAKES];
    struct tlsagent *handle;
    int listener, lowest, pairs[FUZZ_LIBRARY_HANDSHAKES][2];

    if (size < 1)
        return;
    listener = fuzz_library_listener();
    lowest = fuzz_lowest_fd();
    handle = tlsagent_open(fuzz_library_path);
    FUZZ_REQUIRE(handle != NULL);
    agent.greeting = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    FUZZ_REQUIRE(agent.greeting != -1);
    if ((data[0] & 0x40) == 0)
        fuzz_library_greet(&agent, 1 + data[0] % FUZZ_LIBRARY_CELLS);
    if ((data[0] & 0x50) == 0x10) /* who pulls waits for the greeting */
        (void)tlsagent_pull(handle, "www", 2);
    for (size_t i = 0; i < FUZZ_LIBRARY_HANDSHAKES; i++) {
        FUZZ_REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pairs[i]) ==
                     0);
        conns[i] = tlsagent_accept_fd(handle, "www", pairs[i][0]);
        FUZZ_REQUIRE(conns[i] != NULL);
        tlsagent_set_data(conns[i], &conns[i]);
        FUZZ_REQUIRE(tlsagent_set_forms(conns[i], TLSAGENT_FORM_RECORDS) == 0);
        FUZZ_REQUIRE(tlsagent_handshake(conns[i]) == TLSAGENT_WANT_POLLIN);
    }
    if ((data[0] & 0x20) != 0) {
        tlsagent_abandon(conns[1]);
        conns[1] = NULL;
        close(pairs[1][0]);
    }
    data++;
    size--;
    for (int packets = 0; packets < 40 && size >= 3; packets++) {
        size_t taken = fuzz_library_packet(&agent, data, size);

        data += taken;
        size -= taken;
        fuzz_library_take(handle);
    }
    close(agent.greeting);
    fuzz_library_take(handle);
    tlsagent_free(handle);
    for (size_t i = 0; i < FUZZ_LIBRARY_CELLS; i++)
        if (agent.cells[i] != -1)
            close(agent.cells[i]);
    for (size_t i = 0; i < FUZZ_LIBRARY_HANDSHAKES; i++) {
        if (conns[i] != NULL) { /* it would have waited for the next agent */
            FUZZ_REQUIRE(tlsagent_handshake(conns[i]) == -1 && tlsagent_error(conns[i])[0] != '\0');
            tlsagent_abandon(conns[i]);
            close(pairs[i][0]);
        }
        close(pairs[i][1]);
    }
    while ((agent.greeting = accept(listener, NULL, NULL)) != -1)
        close(agent.greeting);                /* it has tried again */
    FUZZ_REQUIRE(fuzz_lowest_fd() == lowest); /* nothing that came is kept */
}

FUZZ_TARGET(fuzz_library)
