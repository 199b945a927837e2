/* client.c: see client.h. Where to look first: client_step(). */
#include "client/examples/https/client.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "client/examples/https/prefork.h"

#define BUFFER_SIZE   16384  /* a request's head must fit; bodies pass through it in pieces */
#define PATTERN_SIZE  65521  /* a prime: no record or buffer size divides it */
#define RECORD_SIZE   16384  /* of plaintext in a record, at most */
#define WAKE_SIZE     246090 /* of a long body: fifteen records, all that is taken at once */
#define STEPS         32     /* reads and writes for one client before it is another one's turn */
#define IDLE_SECONDS  75     /* between requests, and without any progress in a response */
#define HEAD_SECONDS  30     /* from a head's first byte to its last */
#define CLOSE_SECONDS 5      /* for the peer to answer our close_notify */

static uint8_t pattern[PATTERN_SIZE];

void
client_make_pattern(void)
{
    for (uint64_t k = 0; k < PATTERN_SIZE; k++)
        pattern[k] = (uint8_t)(k * k >> 5);
}

static time_t
now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
    return time.tv_sec;
}

struct client *
client_new(struct client_set *set, int fd, bool owns_fd)
{
    struct client *client = calloc(1, sizeof(*client));

    if (client == NULL)
        return NULL;
    client->fd = fd;
    client->owns_fd = owns_fd;
    client->wake_at = 1;
    client->next = set->first;
    client->link = &set->first;
    if (client->next != NULL)
        client->next->link = &client->next;
    set->first = client;
    return client;
}

/* Before the fd is closed: epoll watches the open file, and the agent may still hold it for a
 * moment after we closed ours. */
static void
client_unpoll(struct client_set *set, struct client *client)
{
    if (client->polled)
        epoll_ctl(set->epoll, EPOLL_CTL_DEL, client->fd, NULL);
    client->polled = false;
}

void
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

void
client_drop(struct client_set *set, struct client *client)
{
    client_unpoll(set, client);
    tlsagent_abandon(client->conn);
    client_free(client);
}

static void
client_enter(struct client *client, enum client_phase phase, unsigned seconds)
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
    if (is_post && strcmp(target, "/discard") == 0) {
        char text[32];

        snprintf(text, sizeof(text), "%" PRIu64 "\n", size);
        client->body = BODY_DISCARD;
        client->body_left = size;
        return client_answer(client, "", "200 OK", text, 0, true);
    }
    if (size > 0)
        return client_refuse(client, "413 Content Too Large",
                             "Only POST /echo and POST /discard take a body.\n");
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

/* Read if there may be something: epoll said so, or the library has it already. Otherwise epoll
 * will tell, as it is level-triggered: a read that only finds nothing is saved for each request. */
static ssize_t
client_read(struct client *client, size_t size)
{
    if (!client->readable && tlsagent_pending(client->conn) == 0)
        return TLSAGENT_WANT_POLLIN;
    client->readable = false;
    return tlsagent_read(client->conn, client->in + client->in_end, size);
}

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
    size = client_read(client, BUFFER_SIZE - client->in_end);
    if (size > 0) {
        if (client->in_end == 0)
            client->deadline = now() + HEAD_SECONDS;
        client->in_end += (size_t)size;
        return STEP_ON;
    }
    if (size == 0) {
        client->ended = true;
        client_enter(client, PHASE_CLOSE, CLOSE_SECONDS);
        return STEP_ON;
    }
    if (client->in_end == 0) { /* an idle client needs no buffer */
        free(client->in);
        client->in = NULL;
    }
    return (int)size;
}

/* Read a piece of the request's body into the buffer, which is empty. */
static int
client_read_body(struct client *client, uint64_t left)
{
    ssize_t size;

    client->in_start = client->in_end = 0;
    size = client_read(client, left < BUFFER_SIZE ? (size_t)left : BUFFER_SIZE);
    if (size < 0)
        return (int)size;
    if (size == 0)
        return -1; /* the client closed before its body was complete */
    client->in_end = (size_t)size;
    client->deadline = now() + IDLE_SECONDS;
    return STEP_ON;
}

/* BODY_DISCARD: read the body and forget it, before the answer goes out. */
static int
client_discard(struct client *client)
{
    int result = STEP_ON;
    size_t there;

    if (client->in_start == client->in_end)
        result = client_read_body(client, client->body_left);
    there = client->in_end - client->in_start;
    if (there > client->body_left)
        there = (size_t)client->body_left;
    client->in_start += there;
    client->body_left -= there;
    return result;
}

/* As much of the answer's body as there is now. */
static struct iovec
client_body(struct client *client)
{
    uint64_t left = client->body_size - client->body_sent;
    size_t at = client->body_sent % PATTERN_SIZE;
    struct iovec there = {0};

    if (client->body == BODY_PATTERN)
        there = (struct iovec){pattern + at, PATTERN_SIZE - at};
    else if (client->body == BODY_ECHO)
        there = (struct iovec){client->in + client->in_start, client->in_end - client->in_start};
    if (there.iov_len > left)
        there.iov_len = (size_t)left;
    return there;
}

/* Write some of these parts of an answer: head and body in one call make one record of both. */
static int
client_write(struct client *client, const struct iovec parts[2])
{
    ssize_t written = tlsagent_writev(client->conn, parts, 2);
    size_t of_head, of_body;

    if (written < 0)
        return (int)written;
    of_head = (size_t)written < parts[0].iov_len ? (size_t)written : parts[0].iov_len;
    of_body = (size_t)written - of_head;
    client->out_sent += of_head;
    client->body_sent += of_body;
    if (client->body == BODY_ECHO)
        client->in_start += of_body;
    client->deadline = now() + IDLE_SECONDS;
    return STEP_ON;
}

/* PHASE_RESPOND: head, then body, then flush. */
static int
client_respond(struct client *client)
{
    struct iovec parts[2];
    int result;

    if (client->body == BODY_DISCARD && client->body_left > 0)
        return client_discard(client);

    parts[0] = (struct iovec){client->out + client->out_sent, client->out_size - client->out_sent};
    parts[1] = client_body(client);
    if (parts[0].iov_len + parts[1].iov_len > 0)
        return client_write(client, parts);
    /* Before we wait for the client, it must have what it may be waiting for. */
    result = tlsagent_flush(client->conn);
    if (result != 0)
        return result;
    if (client->body == BODY_ECHO && client->body_sent < client->body_size)
        return client_read_body(client, client->body_size - client->body_sent);
    free(client->out);
    client->out = NULL;
    client->out_size = client->out_sent = 0;
    client->body = BODY_NONE;
    client_enter(client, client->keep_alive ? PHASE_HEAD : PHASE_CLOSE,
                 client->keep_alive ? IDLE_SECONDS : CLOSE_SECONDS);
    return STEP_ON;
}

/* PHASE_CLOSE: our close_notify, the peer's, and then the connection goes. Waiting for the peer's
 * matters: closing a socket with unread bytes resets it, and the peer may lose our last answer. If
 * it has come already, tlsagent_close() sends ours together with the end of the connection. */
static int
client_close(struct client_set *set, struct client *client)
{
    int result = client->ended ? 0 : tlsagent_shutdown(client->conn);

    if (result == TLSAGENT_WANT_POLLIN || result == TLSAGENT_WANT_POLLOUT)
        return result;
    client_unpoll(set, client);
    result = tlsagent_close(client->conn);
    if (result == TLSAGENT_WANT_POLLIN || result == TLSAGENT_WANT_POLLOUT)
        return result;
    client_free(client);
    return STEP_GONE;
}

/* Let epoll tell of so many bytes, or of the end: to wake up costs about half of what it costs to
 * open a record. */
static void
client_wake_at(struct client *client, int bytes)
{
    if (client->wake_at == bytes ||
        setsockopt(client->fd, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof(bytes)) == -1)
        return;
    client->wake_at = bytes;
}

/* As many as are sure to come, whatever we answer: of the body's last record the library may hold
 * all but the end. */
static int
client_bytes_to_come(const struct client *client)
{
    if (client->body_left > RECORD_SIZE + WAKE_SIZE)
        return WAKE_SIZE;
    return client->body_left > RECORD_SIZE ? (int)(client->body_left - RECORD_SIZE) : 1;
}

/* Go on until the client has to be waited for. */
static void
client_run(struct client_set *set, struct client *client)
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
            result = client_close(set, client);
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
        client_drop(set, client);
        return;
    }
    if (result == TLSAGENT_WANT_POLLIN)
        client_wake_at(client, client_bytes_to_come(client));
    /* Out of steps: a socket is nearly always writable, so its next turn comes at once. */
    event.events = result == TLSAGENT_WANT_POLLIN ? EPOLLIN : EPOLLOUT;
    if (client->polled && client->events == event.events)
        return;
    if (epoll_ctl(set->epoll, client->polled ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, client->fd, &event) ==
        -1) {
        say("epoll: %s", strerror(errno));
        client_drop(set, client);
        return;
    }
    client->polled = true;
    client->events = event.events;
}

void
client_step(struct client_set *set, struct client *client)
{
    client->readable = true; /* or writable: then a read finds nothing, which is no harm */
    client_run(set, client);
}

void
client_start(struct client_set *set, struct client *client, const char *greet)
{
    client_enter(client, PHASE_HEAD, IDLE_SECONDS);
    if (greet != NULL) {
        int size = asprintf(&client->out, "%s\r\n", greet);

        if (size == -1) {
            client->out = NULL;
            client_drop(set, client);
            return;
        }
        client->out_size = (size_t)size;
        client->keep_alive = true;
        client_enter(client, PHASE_RESPOND, IDLE_SECONDS);
    }
    client_run(set, client);
}

void
client_expire(struct client_set *set)
{
    time_t time = now();
    struct client *next;

    for (struct client *client = set->first; client != NULL; client = next) {
        next = client->next;
        if (client->deadline == 0 || client->deadline >= time)
            continue;
        if (client->wake_at > 1) { /* less has come, perhaps: if so epoll says it now */
            client_wake_at(client, 1);
            client->wake_at = 1;
            client->deadline = time + 1;
        } else
            client_drop(set, client);
    }
}
