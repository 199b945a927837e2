/*
 * fake_agent.h: an agent played by the test, with the encoders of protocol/service.h: it listens on
 * a well-known socket, greets, and holds the other ends of the channels to its cells. Included by
 * the tests of libtlsagent; each of them is one program.
 */
#ifndef TESTS_FAKE_AGENT_H
#define TESTS_FAKE_AGENT_H

#include <arpa/inet.h>
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "client/stream.h"
#include "client/tlsagent.h"
#include "protocol/service.h"

#define FAKE_CELLS   4
#define FAKE_PATIENT 5000 /* ms until a test gives up */

struct fake {
    char directory[64];
    char path[96]; /* directory + "/sock" */
    int listener;
    int greeting; /* -1: none */
    int cells[FAKE_CELLS];
};

/* One request that a cell has got. */
struct fake_request {
    uint16_t type;
    int fd; /* of an ACCEPT; the test closes it */
    struct service_accept accept;
    struct service_pull pull;
    struct service_cancel cancel;
};

static inline long
now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static inline void
sleep_ms(long ms)
{
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};

    nanosleep(&time, NULL);
}

static inline int
count_fds(void)
{
    DIR *directory = opendir("/proc/self/fd");
    int count = 0;

    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count;
}

static inline void
fake_listen(struct fake *fake)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    memcpy(address.sun_path, fake->path, strlen(fake->path) + 1);
    unlink(fake->path);
    fake->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(fake->listener, (struct sockaddr *)&address, sizeof(address)), 0);
    ck_assert_int_eq(listen(fake->listener, 64), 0);
}

static inline void
fake_start(struct fake *fake)
{
    memset(fake, 0, sizeof(*fake));
    fake->greeting = -1;
    for (int i = 0; i < FAKE_CELLS; i++)
        fake->cells[i] = -1;
    snprintf(fake->directory, sizeof(fake->directory), "/tmp/tlsagent-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(fake->directory));
    memcpy(fake->path, fake->directory, sizeof(fake->directory));
    memcpy(fake->path + strlen(fake->path), "/sock", sizeof("/sock"));
    fake_listen(fake);
}

static inline void
close_fd(int *fd)
{
    if (*fd != -1)
        close(*fd);
    *fd = -1;
}

/* kill -9 of everything: the first connection ends before the cells do. */
static inline void
fake_die(struct fake *fake)
{
    close_fd(&fake->listener);
    close_fd(&fake->greeting);
    for (int i = 0; i < FAKE_CELLS; i++)
        close_fd(&fake->cells[i]);
}

static inline void
fake_stop(struct fake *fake)
{
    fake_die(fake);
    unlink(fake->path);
    rmdir(fake->directory);
}

static inline void
wait_readable(int fd)
{
    struct pollfd entry = {.fd = fd, .events = POLLIN};

    ck_assert_int_eq(poll(&entry, 1, FAKE_PATIENT), 1);
}

static inline int
is_readable(int fd, int timeout_ms)
{
    struct pollfd entry = {.fd = fd, .events = POLLIN};

    return poll(&entry, 1, timeout_ms) == 1;
}

static inline void
fake_welcome(struct fake *fake)
{
    struct service_welcome welcome = {SERVICE_PROTOCOL, "test"};
    uint8_t body[128];

    wait_readable(fake->listener);
    close_fd(&fake->greeting);
    fake->greeting = accept4(fake->listener, NULL, NULL, SOCK_CLOEXEC);
    ck_assert_int_ne(fake->greeting, -1);
    ck_assert_int_eq(channel_send(fake->greeting, SERVICE_WELCOME, body,
                                  service_put_welcome(&welcome, body, sizeof(body)), NULL, 0),
                     CHANNEL_OK);
}

static inline void
fake_permit(struct fake *fake, const char *name, uint16_t group, uint8_t listens)
{
    struct service_context context = {.group = group, .listens = listens};
    uint8_t body[128];

    snprintf(context.name, sizeof(context.name), "%s", name);
    ck_assert_int_eq(channel_send(fake->greeting, SERVICE_CONTEXT, body,
                                  service_put_context(&context, body, sizeof(body)), NULL, 0),
                     CHANNEL_OK);
}

/* A new channel to a cell; the old one, if there is one, ends. */
static inline void
fake_push_cell(struct fake *fake, uint16_t group, uint16_t number)
{
    struct service_channel channel = {group, number};
    uint8_t body[8];
    int pair[2];

    ck_assert_int_eq(channel_pair(pair), 0);
    ck_assert_int_eq(channel_send(fake->greeting, SERVICE_CHANNEL, body,
                                  service_put_channel(&channel, body, sizeof(body)), &pair[1], 1),
                     CHANNEL_OK);
    close(pair[1]);
    close_fd(&fake->cells[number]);
    fake->cells[number] = pair[0];
}

/* Contexts "www" (the agent listens for it) and "smtp" (it does not) in group 0. */
static inline void
fake_greet(struct fake *fake, int cells)
{
    fake_welcome(fake);
    fake_permit(fake, "www", 0, 1);
    fake_permit(fake, "smtp", 0, 0);
    for (int i = 0; i < cells; i++)
        fake_push_cell(fake, 0, (uint16_t)i);
}

static inline struct fake_request
fake_expect(const struct fake *fake, int cell, uint16_t type)
{
    uint8_t buffer[CHANNEL_BUFFER_SIZE];
    struct channel_message message;
    struct error error = {""};
    struct fake_request request = {.fd = -1};
    bool good;

    ck_assert_int_eq(channel_receive_wait(fake->cells[cell], service_handshaker_rules,
                                          service_handshaker_rule_count, buffer, sizeof(buffer),
                                          &message, &error, FAKE_PATIENT),
                     CHANNEL_OK);
    ck_assert_int_eq(message.type, type);
    request.type = message.type;
    if (type == SERVICE_ACCEPT) {
        good = service_get_accept(&request.accept, message.body, message.size);
        request.fd = channel_take_fd(&message, 0);
    } else if (type == SERVICE_PULL)
        good = service_get_pull(&request.pull, message.body, message.size);
    else
        good = service_get_cancel(&request.cancel, message.body, message.size);
    ck_assert(good);
    return request;
}

/* A TLS 1.3 state with fixed keys, as the server's side has it. */
static inline struct traffic_state
fake_state(void)
{
    struct traffic_state state = {.suite = 0x1301, .max_fragment = TRAFFIC_PLAINTEXT_MAX};
    const struct traffic_suite *suite = traffic_suite_find(state.suite);

    memset(state.send.secret, 0x11, suite->hash_size);
    memset(state.receive.secret, 0x22, suite->hash_size);
    ck_assert_int_eq(traffic_keys_derive(suite, &state.send), 0);
    ck_assert_int_eq(traffic_keys_derive(suite, &state.receive), 0);
    return state;
}

static inline struct service_finished
fake_facts(const char *context)
{
    struct service_finished said = {.form = SERVICE_FORM_RECORDS, .agent_pid = 4711};

    said.state = fake_state();
    snprintf(said.context, sizeof(said.context), "%s", context);
    snprintf(said.sni, sizeof(said.sni), "example.org");
    snprintf(said.alpn, sizeof(said.alpn), "h2");
    return said;
}

static inline enum channel_result
fake_send_facts(const struct fake *fake, int cell, uint16_t type,
                const struct service_finished *said, int fd)
{
    static _Thread_local uint8_t body[CHANNEL_BODY_MAX];
    size_t size = service_put_finished(said, body, sizeof(body));

    ck_assert_uint_gt(size, 0);
    return channel_send_wait(fake->cells[cell], type, body, size, &fd, fd != -1, FAKE_PATIENT);
}

static inline void
fake_finish(const struct fake *fake, int cell, uint32_t id, const char *context)
{
    struct service_finished said = fake_facts(context);

    said.id = id;
    ck_assert_int_eq(fake_send_facts(fake, cell, SERVICE_FINISHED, &said, -1), CHANNEL_OK);
}

static inline void
fake_fail(const struct fake *fake, int cell, uint32_t id, uint8_t reason, uint8_t retryable,
          uint8_t alert, const char *text)
{
    struct service_failed failed = {
        .id = id, .reason = reason, .retryable = retryable, .alert = alert};
    uint8_t body[512];

    snprintf(failed.text, sizeof(failed.text), "%s", text);
    ck_assert_int_eq(channel_send(fake->cells[cell], SERVICE_FAILED, body,
                                  service_put_failed(&failed, body, sizeof(body)), NULL, 0),
                     CHANNEL_OK);
}

/* Several answers in one message, with fd so many times. A part with an id is FINISHED. */
static inline enum channel_result
fake_send_batch(const struct fake *fake, int cell, const uint32_t *ids, size_t count, int fd,
                size_t fds_sent)
{
    static _Thread_local uint8_t bodies[SERVICE_BATCH_MAX][512], body[CHANNEL_BODY_MAX];
    struct service_batch batch = {.count = (uint8_t)count};
    int fds[CHANNEL_FDS_MAX];

    for (size_t i = 0; i < count; i++) {
        struct service_finished said = fake_facts("www");

        said.id = ids[i];
        batch.parts[i].type = ids[i] != 0 ? SERVICE_FINISHED : SERVICE_DELIVERED;
        batch.parts[i].body = bodies[i];
        batch.parts[i].size = service_put_finished(&said, bodies[i], sizeof(bodies[i]));
        ck_assert_uint_gt(batch.parts[i].size, 0);
    }
    for (size_t i = 0; i < fds_sent; i++)
        fds[i] = fd;
    return channel_send(fake->cells[cell], SERVICE_BATCH, body,
                        service_put_batch(&batch, body, sizeof(body)), fds, fds_sent);
}

/* A connected TCP pair: [0] is the server's end. */
static inline void
tcp_pair(int pair[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, size), 0);
    ck_assert_int_eq(listen(listener, 1), 0);
    ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&address, &size), 0);
    pair[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(connect(pair[1], (struct sockaddr *)&address, size), 0);
    pair[0] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    ck_assert_int_ne(pair[0], -1);
    close(listener);
}

static inline void
unix_pair(int pair[2])
{
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
}

static inline void
set_nonblocking(int fd)
{
    ck_assert_int_eq(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK), 0);
}

/* The peer's side of fake_state() on its end of the pair. */
static inline void
peer_start(struct stream *peer, int fd)
{
    struct traffic_state state = fake_state();
    struct traffic_keys keys = state.send;

    state.send = state.receive;
    state.receive = keys;
    ck_assert_int_eq(stream_start(peer, fd, &state, false, NULL, 0, NULL), 0);
}

/* A handle to the fake, and greeted. */
static inline struct tlsagent *
open_greeted(struct fake *fake, int cells)
{
    struct tlsagent *agent = tlsagent_open(fake->path);

    ck_assert_ptr_nonnull(agent);
    fake_greet(fake, cells);
    ck_assert_int_eq(tlsagent_check(agent), 0);
    return agent;
}

/* Begin a non-blocking handshake. */
static inline struct tlsagent_conn *
begin(struct tlsagent *agent, const char *context, int fd)
{
    struct tlsagent_conn *conn = tlsagent_accept_fd(agent, context, fd);

    ck_assert_ptr_nonnull(conn);
    set_nonblocking(fd);
    ck_assert_int_eq(tlsagent_handshake(conn), TLSAGENT_WANT_POLLIN);
    return conn;
}

/* The next finished connection; polls the handle's descriptor as an event loop would. */
static inline struct tlsagent_conn *
next_finished(struct tlsagent *agent)
{
    long until = now_ms() + FAKE_PATIENT;
    struct tlsagent_conn *conn;

    while ((conn = tlsagent_next(agent)) == NULL) {
        ck_assert_int_lt(now_ms(), until);
        is_readable(tlsagent_fd(agent), (int)(until - now_ms()));
    }
    return conn;
}

#define ck_assert_contains(text, part)                                                             \
    ck_assert_msg(strstr((text), (part)) != NULL, "\"%s\" does not say \"%s\"", (text), (part))

#endif
