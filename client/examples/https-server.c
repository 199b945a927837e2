/*
 * https-server.c: an HTTPS server that never sees its private key. An example to copy from.
 *
 *   https-server --context www --listen 127.0.0.1:8443      we accept, the agent does the handshake
 *   https-server --context www --agent-listener www         the agent accepts too
 *
 * Role: a parent that opens the listening socket, starts the workers and restarts dead ones, and
 * workers that give up root and serve, each with one epoll loop and one handle to the agent.
 * Trust: every byte from a client is hostile; a head has a size limit, a body is never collected,
 * and each phase has a time limit, so that a slow client costs nobody but itself.
 *
 *   GET /            facts about this connection, as text
 *   GET /bytes/N     N bytes; byte i is (k * k >> 5) & 255 with k = i mod 65521
 *   POST /echo       the body back, while it is still coming in
 *
 * Where to look first: worker_accept(), worker_take_finished() and client_step().
 */
#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client/tlsagent.h"

#define BUFFER_SIZE   16384 /* a request's head must fit; bodies pass through it in pieces */
#define PATTERN_SIZE  65521 /* a prime: no record or buffer size divides it */
#define WORKERS_MAX   256
#define EVENTS        64
#define STEPS         32 /* reads and writes for one client before it is another one's turn */
#define IDLE_SECONDS  75 /* between requests, and without any progress in a response */
#define HEAD_SECONDS  30 /* from a head's first byte to its last */
#define CLOSE_SECONDS 5  /* for the peer to answer our close_notify */
#define PULL          16 /* connections accepted by the agent that may wait here, per cell */

struct options {
    const char *context;
    const char *listen; /* NULL: the agent accepts */
    const char *socket; /* of the agent; NULL: the default */
    const char *greet;  /* a line to send right after the handshake, or NULL */
    const char *user;
    unsigned workers;
    unsigned forms;
};

enum phase {
    PHASE_HANDSHAKE,
    PHASE_HEAD,    /* waiting for a request */
    PHASE_RESPOND, /* sending the answer; for /echo also receiving the body */
    PHASE_CLOSE,   /* close_notify both ways */
};

enum body {
    BODY_NONE,
    BODY_PATTERN,
    BODY_ECHO,
};

struct client {
    struct tlsagent_conn *conn;
    int fd; /* ours if we accepted it, else it belongs to conn */
    bool owns_fd;
    bool polled; /* fd is in the epoll set */
    bool keep_alive;
    enum phase phase;
    enum body body;
    uint32_t events;    /* that epoll watches fd for */
    time_t deadline;    /* monotonic seconds; 0: none (the agent has its own for handshakes) */
    uint64_t body_size; /* of the response */
    uint64_t body_sent;
    char *in; /* BUFFER_SIZE bytes, only while there is something in it */
    size_t in_start, in_end;
    char *out; /* head, and the whole of a short answer */
    size_t out_size, out_sent;
    struct client *next, **link; /* all clients of this worker */
};

struct worker {
    const struct options *options;
    struct tlsagent *agent;
    int epoll;
    int listener; /* -1: the agent accepts */
    bool listening;
    bool pulling;
    bool pull_complained;
    struct client *clients;
};

static uint8_t pattern[PATTERN_SIZE];

/* What epoll_event.data.ptr says, besides a client. */
static char agent_mark, listener_mark;

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

static void
say_list(const char *format, va_list list)
{
    char line[1024];

    vsnprintf(line, sizeof(line), format, list);
    fprintf(stderr, "https-server[%ld]: %s\n", (long)getpid(), line);
}

static void
say(const char *format, ...)
{
    va_list list;

    va_start(list, format);
    say_list(format, list);
    va_end(list);
}

static void
die(const char *format, ...)
{
    va_list list;

    va_start(list, format);
    say_list(format, list);
    va_end(list);
    exit(1);
}

static time_t
now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
    return time.tv_sec;
}

/* ---- one client ---- */

static struct client *
client_new(struct worker *worker, int fd, bool owns_fd)
{
    struct client *client = calloc(1, sizeof(*client));

    if (client == NULL)
        return NULL;
    client->fd = fd;
    client->owns_fd = owns_fd;
    client->next = worker->clients;
    client->link = &worker->clients;
    if (client->next != NULL)
        client->next->link = &client->next;
    worker->clients = client;
    return client;
}

/* Before the fd is closed: epoll watches the open file, and the agent may still hold it for a
 * moment after we closed ours. */
static void
client_unpoll(struct worker *worker, struct client *client)
{
    if (client->polled)
        epoll_ctl(worker->epoll, EPOLL_CTL_DEL, client->fd, NULL);
    client->polled = false;
}

/* Forget a client whose connection object is already gone. */
static void
client_free(struct client *client)
{
    *client->link = client->next;
    if (client->next != NULL)
        client->next->link = client->link;
    if (client->owns_fd)
        close(client->fd);
    free(client->in);
    free(client->out);
    free(client);
}

static void
client_drop(struct worker *worker, struct client *client)
{
    client_unpoll(worker, client);
    tlsagent_abandon(client->conn);
    client_free(client);
}

static void
client_enter(struct client *client, enum phase phase, unsigned seconds)
{
    client->phase = phase;
    client->deadline = now() + (time_t)seconds;
}

/* Set the head of an answer, and its body if that is a short text. */
static int
client_answer(struct client *client, const char *before, const char *status, const char *text,
              uint64_t body_size, bool send_text)
{
    int size = asprintf(
        &client->out,
        "%sHTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %" PRIu64
        "\r\nConnection: %s\r\n\r\n%s",
        before, status, text != NULL ? "text/plain; charset=utf-8" : "application/octet-stream",
        text != NULL ? (uint64_t)strlen(text) : body_size,
        client->keep_alive ? "keep-alive" : "close", text != NULL && send_text ? text : "");

    if (size == -1) {
        client->out = NULL;
        return -1;
    }
    client->out_size = (size_t)size;
    client->out_sent = 0;
    client->body_size = text != NULL ? 0 : body_size;
    client->body_sent = 0;
    client_enter(client, PHASE_RESPOND, IDLE_SECONDS);
    return 0;
}

/* An error answer ends the connection: what follows may not be a request at all. */
static int
client_refuse(struct client *client, const char *status, const char *text)
{
    client->keep_alive = false;
    client->body = BODY_NONE;
    return client_answer(client, "", status, text, 0, true);
}

static const char *
or_none(const char *text)
{
    return text != NULL ? text : "none";
}

static int
client_answer_facts(struct client *client, bool send_text)
{
    const struct tlsagent_conn *conn = client->conn;
    char facts[2048];

    snprintf(facts, sizeof(facts),
             "This page came through libtlsagent %s.\n\n"
             "TLS version:    %s\n"
             "cipher:         %s\n"
             "SNI:            %s\n"
             "ALPN:           %s\n"
             "hand-back form: %s\n"
             "resumed:        %s\n"
             "context:        %s\n"
             "worker pid:     %ld (uid %ld; holds no private key)\n"
             "agent pid:      %ld (did the handshake)\n",
             tlsagent_version(), tlsagent_conn_version(conn), tlsagent_conn_cipher(conn),
             or_none(tlsagent_conn_servername(conn)), or_none(tlsagent_conn_alpn(conn)),
             tlsagent_conn_form(conn), tlsagent_conn_resumed(conn) ? "yes" : "no",
             tlsagent_conn_context(conn), (long)getpid(), (long)getuid(),
             (long)tlsagent_conn_agent_pid(conn));
    client->body = BODY_NONE;
    return client_answer(client, "", "200 OK", facts, 0, send_text);
}

/* The value of a header in a head that ends in an empty line, NUL-terminated there. NULL: absent.
 * Leaves the head as it was but for value, a copy. */
static const char *
head_find(const char *head, const char *name, char *value, size_t value_size)
{
    size_t name_size = strlen(name);

    for (const char *line = strstr(head, "\r\n"); line != NULL; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, name_size) == 0 && line[name_size] == ':') {
            const char *start = line + name_size + 1 + strspn(line + name_size + 1, " \t");
            size_t size = strcspn(start, "\r\n");

            if (size >= value_size)
                size = value_size - 1;
            memcpy(value, start, size);
            value[size] = '\0';
            return value;
        }
    }
    return NULL;
}

/* A whole decimal number and nothing else. */
static bool
parse_number(const char *text, uint64_t *number)
{
    char *end;

    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    *number = strtoull(text, &end, 10);
    return *end == '\0' && errno == 0;
}

/* Answer the request whose head (NUL-terminated, with the last header's CRLF) is given. */
static int
client_answer_request(struct client *client, char *head)
{
    char method[8], target[1024], minor[2], value[64];
    uint64_t size = 0;
    bool is_get, is_head, is_post;

    if (sscanf(head, "%7s %1023s HTTP/1.%1[01]", method, target, minor) != 3)
        return client_refuse(client, "400 Bad Request", "That is not an HTTP/1 request.\n");
    is_get = strcmp(method, "GET") == 0;
    is_head = strcmp(method, "HEAD") == 0;
    is_post = strcmp(method, "POST") == 0;
    client->keep_alive = minor[0] == '1';
    if (head_find(head, "Connection", value, sizeof(value)) != NULL)
        client->keep_alive = client->keep_alive ? strcasecmp(value, "close") != 0
                                                : strcasecmp(value, "keep-alive") == 0;
    if (head_find(head, "Transfer-Encoding", value, sizeof(value)) != NULL)
        return client_refuse(client, "411 Length Required",
                             "Send the body with a Content-Length.\n");
    if (head_find(head, "Content-Length", value, sizeof(value)) != NULL &&
        !parse_number(value, &size))
        return client_refuse(client, "400 Bad Request", "Content-Length is not a number.\n");

    if (is_post && strcmp(target, "/echo") == 0) {
        bool expects = head_find(head, "Expect", value, sizeof(value)) != NULL;

        client->body = BODY_ECHO;
        return client_answer(client, expects ? "HTTP/1.1 100 Continue\r\n\r\n" : "", "200 OK", NULL,
                             size, false);
    }
    if (size > 0)
        return client_refuse(client, "413 Content Too Large", "Only POST /echo takes a body.\n");
    if (!is_get && !is_head && !is_post)
        return client_refuse(client, "405 Method Not Allowed", "GET, HEAD or POST, please.\n");
    if (strncmp(target, "/bytes/", 7) == 0) {
        if (!parse_number(target + 7, &size))
            return client_refuse(client, "400 Bad Request", "/bytes/N: N is not a number.\n");
        client->body = is_head ? BODY_NONE : BODY_PATTERN;
        return client_answer(client, "", "200 OK", NULL, size, false);
    }
    return client_answer_facts(client, !is_head);
}

/*
 * The steps of a client. Each does one thing and says how to go on: STEP_ON (at once),
 * TLSAGENT_WANT_POLLIN or TLSAGENT_WANT_POLLOUT (when poll says so), -1 (drop it),
 * STEP_GONE (it is freed).
 */
#define STEP_ON   0
#define STEP_GONE 1

/* PHASE_HEAD: read until a whole head is there. */
static int
client_read_head(struct client *client)
{
    ssize_t size;
    char *end;

    if (client->in == NULL && (client->in = malloc(BUFFER_SIZE)) == NULL)
        return -1;
    if (client->in_start > 0) { /* a pipelined request: move it to the front */
        memmove(client->in, client->in + client->in_start, client->in_end - client->in_start);
        client->in_end -= client->in_start;
        client->in_start = 0;
    }
    end = memmem(client->in, client->in_end, "\r\n\r\n", 4);
    if (end != NULL) {
        end[2] = '\0'; /* the second CRLF's place: the head ends in one CRLF and a NUL */
        client->in_start = (size_t)(end + 4 - client->in);
        return client_answer_request(client, client->in);
    }
    if (client->in_end == BUFFER_SIZE)
        return client_refuse(client, "431 Request Header Fields Too Large",
                             "The request's head is longer than 16384 bytes.\n");
    size = tlsagent_read(client->conn, client->in + client->in_end, BUFFER_SIZE - client->in_end);
    if (size > 0) {
        if (client->in_end == 0)
            client->deadline = now() + HEAD_SECONDS;
        client->in_end += (size_t)size;
        return STEP_ON;
    }
    if (size == 0) {
        client_enter(client, PHASE_CLOSE, CLOSE_SECONDS);
        return STEP_ON;
    }
    if (client->in_end == 0) { /* an idle client needs no buffer */
        free(client->in);
        client->in = NULL;
    }
    return (int)size;
}

/* Write some of size bytes. Adds to *sent. */
static int
client_write(struct client *client, const void *bytes, size_t size, uint64_t *sent)
{
    ssize_t written = tlsagent_write(client->conn, bytes, size);

    if (written < 0)
        return (int)written;
    *sent += (uint64_t)written;
    client->deadline = now() + IDLE_SECONDS;
    return STEP_ON;
}

/* BODY_ECHO: write what is in the buffer; when it is empty read more. */
static int
client_echo(struct client *client)
{
    uint64_t left = client->body_size - client->body_sent;
    size_t there = client->in_end - client->in_start;
    ssize_t size;
    int result;

    if (there > 0) {
        uint64_t before = client->body_sent;

        result = client_write(client, client->in + client->in_start,
                              there < left ? there : (size_t)left, &client->body_sent);
        client->in_start += (size_t)(client->body_sent - before);
        return result;
    }
    client->in_start = client->in_end = 0;
    size = tlsagent_read(client->conn, client->in, left < BUFFER_SIZE ? (size_t)left : BUFFER_SIZE);
    if (size > 0) {
        client->in_end = (size_t)size;
        return STEP_ON;
    }
    if (size == 0)
        return -1; /* the client closed before its body was complete */
    /* Before we wait for the client, it must have what it may be waiting for. */
    if (size == TLSAGENT_WANT_POLLIN && (result = tlsagent_flush(client->conn)) != 0)
        return result;
    return (int)size;
}

/* PHASE_RESPOND: head, then body, then flush. */
static int
client_respond(struct client *client)
{
    int result;

    if (client->out_sent < client->out_size) {
        uint64_t sent = client->out_sent;

        result = client_write(client, client->out + sent, client->out_size - sent, &sent);
        client->out_sent = (size_t)sent;
        return result;
    }
    free(client->out);
    client->out = NULL;
    client->out_size = client->out_sent = 0;
    if (client->body != BODY_NONE && client->body_sent < client->body_size) {
        size_t at = client->body_sent % PATTERN_SIZE;
        uint64_t left = client->body_size - client->body_sent;

        if (client->body == BODY_ECHO)
            return client_echo(client);
        return client_write(client, pattern + at,
                            left < PATTERN_SIZE - at ? (size_t)left : PATTERN_SIZE - at,
                            &client->body_sent);
    }
    result = tlsagent_flush(client->conn);
    if (result != 0)
        return result;
    client->body = BODY_NONE;
    client_enter(client, client->keep_alive ? PHASE_HEAD : PHASE_CLOSE,
                 client->keep_alive ? IDLE_SECONDS : CLOSE_SECONDS);
    return STEP_ON;
}

/* PHASE_CLOSE: our close_notify, the peer's, and then the connection goes. Waiting for the peer's
 * matters: closing a socket with unread bytes resets it, and the peer may lose our last answer. */
static int
client_close(struct worker *worker, struct client *client)
{
    int result = tlsagent_shutdown(client->conn);

    if (result == TLSAGENT_WANT_POLLIN || result == TLSAGENT_WANT_POLLOUT)
        return result;
    client_unpoll(worker, client);
    result = tlsagent_close(client->conn);
    if (result == TLSAGENT_WANT_POLLIN || result == TLSAGENT_WANT_POLLOUT)
        return result;
    client_free(client);
    return STEP_GONE;
}

static void
client_step(struct worker *worker, struct client *client)
{
    struct epoll_event event = {.data.ptr = client};
    int result = STEP_ON;

    for (int steps = 0; steps < STEPS && result == STEP_ON; steps++) {
        switch (client->phase) {
        case PHASE_HEAD:
            result = client_read_head(client);
            break;
        case PHASE_RESPOND:
            result = client_respond(client);
            break;
        case PHASE_CLOSE:
            result = client_close(worker, client);
            break;
        case PHASE_HANDSHAKE: /* its descriptor is not polled */
            return;
        }
    }
    if (result == STEP_GONE)
        return;
    if (result == -1) {
        if (tlsagent_error_code(client->conn) != TLSAGENT_OK)
            say("connection: %s", tlsagent_error(client->conn));
        client_drop(worker, client);
        return;
    }
    /* Out of steps: a socket is nearly always writable, so its next turn comes at once. */
    event.events = result == TLSAGENT_WANT_POLLIN ? EPOLLIN : EPOLLOUT;
    if (client->polled && client->events == event.events)
        return;
    if (epoll_ctl(worker->epoll, client->polled ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, client->fd,
                  &event) == -1) {
        say("epoll: %s", strerror(errno));
        client_drop(worker, client);
        return;
    }
    client->polled = true;
    client->events = event.events;
}

/* ---- a worker ---- */

static void
worker_listen(struct worker *worker, bool on)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.ptr = &listener_mark};

    if (worker->listener == -1 || worker->listening == on)
        return;
    if (epoll_ctl(worker->epoll, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, worker->listener, &event) == 0)
        worker->listening = on;
}

/* The handshake is over: done (0) or failed. */
static void
worker_handshake_over(struct worker *worker, struct client *client, int result)
{
    const char *greet = worker->options->greet;

    if (result == -1) {
        say("handshake: %s", tlsagent_error(client->conn));
        client_drop(worker, client);
        return;
    }
    client_enter(client, PHASE_HEAD, IDLE_SECONDS);
    if (greet != NULL) { /* for protocols where the server speaks first */
        int size = asprintf(&client->out, "%s\r\n", greet);

        if (size == -1) {
            client->out = NULL;
            client_drop(worker, client);
            return;
        }
        client->out_size = (size_t)size;
        client->keep_alive = true;
        client_enter(client, PHASE_RESPOND, IDLE_SECONDS);
    }
    client_step(worker, client);
}

/* Take connections from our own listening socket and give each to the agent. */
static void
worker_accept(struct worker *worker)
{
    for (int count = 0; count < EVENTS; count++) {
        int fd = accept4(worker->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        struct client *client;
        int result;

        if (fd == -1) {
            /* No descriptors: stop listening for a second; others may accept meanwhile. */
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
                worker_listen(worker, false);
            return;
        }
        client = client_new(worker, fd, true);
        if (client == NULL) {
            close(fd);
            return;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        client->conn = tlsagent_accept_fd(worker->agent, worker->options->context, fd);
        if (client->conn == NULL) {
            say("connection: %s", tlsagent_agent_error(worker->agent));
            client_free(client);
            continue;
        }
        tlsagent_set_data(client->conn, client);
        tlsagent_set_forms(client->conn, worker->options->forms);
        result = tlsagent_handshake(client->conn);
        if (result != TLSAGENT_WANT_POLLIN && result != TLSAGENT_WANT_POLLOUT)
            worker_handshake_over(worker, client, result);
    }
}

/* Take what the agent has finished: handshakes that we asked for, and connections it accepted. */
static void
worker_take_finished(struct worker *worker)
{
    struct tlsagent_conn *conn;

    while ((conn = tlsagent_next(worker->agent)) != NULL) {
        struct client *client = tlsagent_data(conn);

        if (client == NULL) {
            client = client_new(worker, tlsagent_conn_fd(conn), false);
            if (client == NULL) {
                tlsagent_abandon(conn);
                continue;
            }
            client->conn = conn;
            tlsagent_set_data(conn, client);
        }
        worker_handshake_over(worker, client, tlsagent_handshake(conn));
    }
}

/* Ask the agent for the connections that it accepts; again until it says yes, once. */
static void
worker_pull(struct worker *worker)
{
    if (worker->listener != -1 || worker->pulling)
        return;
    if (tlsagent_pull(worker->agent, worker->options->context, PULL) == 0) {
        worker->pulling = true;
        return;
    }
    if (!worker->pull_complained)
        say("%s; trying again every second", tlsagent_agent_error(worker->agent));
    worker->pull_complained = true;
}

/* Once a second: let go of those whose time is up. */
static void
worker_expire(struct worker *worker)
{
    time_t time = now();
    struct client *next;

    for (struct client *client = worker->clients; client != NULL; client = next) {
        next = client->next;
        if (client->deadline != 0 && client->deadline < time)
            client_drop(worker, client);
    }
}

static void
worker_give_up_root(const struct options *options)
{
    const struct passwd *user;

    if (geteuid() != 0)
        return;
    user = getpwnam(options->user);
    if (user == NULL)
        die("--user %s: there is no such user", options->user);
    if (initgroups(options->user, user->pw_gid) == -1 || setgid(user->pw_gid) == -1 ||
        setuid(user->pw_uid) == -1)
        die("cannot become user %s: %s", options->user, strerror(errno));
    if (user->pw_uid != 0 && setuid(0) == 0)
        die("root was not given up");
}

static void
worker_main(const struct options *options, int listener)
{
    struct worker worker = {.options = options, .listener = listener};
    struct epoll_event events[EVENTS];
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &agent_mark};
    time_t expired = now();

    worker_give_up_root(options);
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* after setuid(), which clears it */
    worker.epoll = epoll_create1(EPOLL_CLOEXEC);
    worker.agent = tlsagent_open(options->socket);
    if (worker.epoll == -1 || worker.agent == NULL)
        die("cannot start: %s", strerror(errno));
    if (tlsagent_check(worker.agent) == -1)
        say("warning: %s", tlsagent_agent_error(worker.agent));
    if (epoll_ctl(worker.epoll, EPOLL_CTL_ADD, tlsagent_fd(worker.agent), &event) == -1)
        die("epoll: %s", strerror(errno));
    worker_listen(&worker, true);
    worker_pull(&worker);

    for (;;) {
        bool take = false;
        int count;

        count = epoll_wait(worker.epoll, events, EVENTS, 1000);
        if (count == -1 && errno != EINTR)
            die("epoll: %s", strerror(errno));
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == &agent_mark)
                take = true;
            else if (events[i].data.ptr == &listener_mark)
                worker_accept(&worker);
            else
                client_step(&worker, events[i].data.ptr);
        }
        /* Only now: these may free clients that the events above point to. */
        if (take)
            worker_take_finished(&worker);
        if (now() != expired) {
            expired = now();
            worker_expire(&worker);
            worker_listen(&worker, true);
            worker_pull(&worker);
        }
    }
}

/* ---- the parent ---- */

/* A listening socket for "ADDR:PORT" or "[ADDR]:PORT". */
static int
parent_listen(const char *text)
{
    const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
                                   .ai_socktype = SOCK_STREAM};
    const char *colon = strrchr(text, ':');
    struct addrinfo *address;
    char host[64];
    size_t size;
    int fd;

    if (colon == NULL || (size = (size_t)(colon - text)) >= sizeof(host))
        die("--listen %s: must be ADDR:PORT or [ADDR]:PORT", text);
    if (size >= 2 && text[0] == '[' && text[size - 1] == ']')
        snprintf(host, sizeof(host), "%.*s", (int)size - 2, text + 1);
    else
        snprintf(host, sizeof(host), "%.*s", (int)size, text);
    if (getaddrinfo(size == 0 ? NULL : host, colon + 1, &hints, &address) != 0)
        die("--listen %s: must be a numeric address and port", text);
    fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd == -1)
        die("--listen %s: %s", text, strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(fd, address->ai_addr, address->ai_addrlen) == -1 || listen(fd, SOMAXCONN) == -1)
        die("--listen %s: %s; %s", text, strerror(errno),
            errno == EADDRINUSE ? "stop the program that uses it, or choose another port"
                                : "choose another address or port");
    freeaddrinfo(address);
    return fd;
}

static pid_t
parent_start_worker(const struct options *options, int listener, const sigset_t *signals)
{
    pid_t pid = fork();

    if (pid == -1)
        die("fork: %s", strerror(errno));
    if (pid == 0) {
        sigprocmask(SIG_UNBLOCK, signals, NULL);
        worker_main(options, listener);
        _exit(0);
    }
    return pid;
}

static void
parent_main(const struct options *options)
{
    int listener = options->listen != NULL ? parent_listen(options->listen) : -1;
    pid_t workers[WORKERS_MAX];
    sigset_t signals;
    int signal, status;
    pid_t dead;

    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGCHLD);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    for (unsigned i = 0; i < options->workers; i++)
        workers[i] = parent_start_worker(options, listener, &signals);
    for (;;) {
        if (sigwait(&signals, &signal) != 0)
            continue;
        if (signal != SIGCHLD)
            break;
        while ((dead = waitpid(-1, &status, WNOHANG)) > 0) {
            say("worker %ld ended (status 0x%x); starting another", (long)dead, (unsigned)status);
            /* A worker that cannot live must not keep a processor busy. */
            nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
            for (unsigned i = 0; i < options->workers; i++)
                if (workers[i] == dead)
                    workers[i] = parent_start_worker(options, listener, &signals);
        }
    }
    for (unsigned i = 0; i < options->workers; i++)
        kill(workers[i], SIGTERM);
    while (wait(NULL) > 0)
        continue;
}

static void __attribute__((noreturn)) usage(void)
{
    fputs("usage: https-server --context NAME (--listen ADDR:PORT | --agent-listener NAME)\n"
          "                    [--workers N] [--form auto|records] [--socket PATH]\n"
          "                    [--user NAME] [--greet TEXT]\n",
          stderr);
    exit(2);
}

static void
options_read(struct options *options, int argc, char **argv)
{
    static const struct option names[] = {
        {"context", required_argument, NULL, 'c'},
        {"listen", required_argument, NULL, 'l'},
        {"agent-listener", required_argument, NULL, 'a'},
        {"workers", required_argument, NULL, 'w'},
        {"form", required_argument, NULL, 'f'},
        {"socket", required_argument, NULL, 's'},
        {"user", required_argument, NULL, 'u'},
        {"greet", required_argument, NULL, 'g'},
        {NULL, 0, NULL, 0},
    };
    const char *agent_listener = NULL;
    uint64_t workers = 2;
    int option;

    *options = (struct options){.user = "www-data"};
    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (option) {
        case 'c':
            options->context = optarg;
            break;
        case 'l':
            options->listen = optarg;
            break;
        case 'a':
            agent_listener = optarg;
            break;
        case 'w':
            if (!parse_number(optarg, &workers) || workers < 1 || workers > WORKERS_MAX)
                die("--workers %s: must be 1 to %d", optarg, WORKERS_MAX);
            break;
        case 'f':
            if (strcmp(optarg, "auto") != 0 && strcmp(optarg, "records") != 0)
                die("--form %s: must be auto or records", optarg);
            options->forms = strcmp(optarg, "records") == 0 ? TLSAGENT_FORM_RECORDS : 0;
            break;
        case 's':
            options->socket = optarg;
            break;
        case 'u':
            options->user = optarg;
            break;
        case 'g':
            options->greet = optarg;
            break;
        default:
            usage();
        }
    }
    options->workers = (unsigned)workers;
    /* An agent's listening sockets belong to a context: its name names them. */
    if (options->context == NULL)
        options->context = agent_listener;
    if (optind != argc || options->context == NULL ||
        (options->listen == NULL) == (agent_listener == NULL))
        usage();
    if (agent_listener != NULL && strcmp(agent_listener, options->context) != 0)
        die("--agent-listener %s: must be the context's name, %s", agent_listener,
            options->context);
}

int
main(int argc, char **argv)
{
    struct options options;
    struct rlimit files;

    options_read(&options, argc, argv);
    for (uint64_t k = 0; k < PATTERN_SIZE; k++)
        pattern[k] = (uint8_t)(k * k >> 5);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    parent_main(&options);
    return 0;
}
