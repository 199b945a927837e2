/*
 * load.c: the benchmark's client: many TLS connections in one epoll loop. Its own CPU is not
 * measured.
 *
 *   load PORT[,PORT...] [options]   connections take turns at the ports
 *     --mode handshake   connect, handshake, no request, close (default)
 *            latency     the same, one after another, with a request and its answer in between
 *            request     on connections that stay: GET /bytes/SIZE, again and again
 *            upload      on connections that stay: POST of SIZE bytes
 *            idle        open connections and let them be
 *     --version 12|13    --suite NAME    --group NAME    (default: whatever comes out)
 *     --resume           each connection resumes a session that another one was given
 *     --tickets N        a full TLS 1.3 handshake must bring N of them (default: not checked)
 *     --size BYTES       of a body
 *     --concurrency N    connections at a time
 *
 * It warms up (one round of connections), says "ready", and then does one batch for each line "N"
 * on stdin: N handshakes or requests; one JSON object per batch. It ends with stdin. Every
 * connection is checked: version, suite, group, resumed or not, number of tickets, every byte of a
 * body counted, and that the server closes when we have closed. What is not as it was asked for
 * counts as failed.
 */
#include "tests/peers/many.h"

#define SESSIONS_MAX 4096
#define PORTS_MAX    4
#define PIECE        16384
#define QUIET_MS     20000 /* nothing at all for so long: give up */

enum mode {
    MODE_HANDSHAKE,
    MODE_LATENCY,
    MODE_REQUEST,
    MODE_UPLOAD,
    MODE_IDLE,
};

enum phase {
    PHASE_HANDSHAKE,
    PHASE_TICKETS, /* TLS 1.3: they come behind the handshake */
    PHASE_REST,
    PHASE_WRITE,
    PHASE_READ,
    PHASE_CLOSE, /* our close_notify is out; wait for the server's end */
};

struct connection {
    struct many many;
    enum phase phase;
    unsigned tickets;
    bool resumes;
    double started, request_started;
    uint64_t left;  /* bytes to write */
    bool head_read; /* the answer's head is behind us */
    uint64_t body_left;
    char head[2048];
    size_t head_size;
    struct connection *next; /* MODE_IDLE: all of them */
};

static struct {
    enum mode mode;
    int ports[PORTS_MAX], port_count, version;
    const char *suite, *group;
    bool resume, measured;
    int tickets; /* -1: not checked */
    uint64_t size;
    unsigned concurrency;
    SSL_CTX *ctx;
    SSL_SESSION *sessions[SESSIONS_MAX];
    unsigned session_count;
    uint64_t target, started, over, failed, full, resumed, bytes, tickets_seen; /* of the batch */
    uint64_t open;
    char got_version[16], got_suite[64], got_group[32], failure[256];
    double *times, *answers;
    size_t time_count, answer_count;
    char request[256];
    size_t request_size;
    struct connection *all;
} load;

static const uint8_t zeros[PIECE];

static int
keep_session(SSL *ssl, SSL_SESSION *session)
{
    struct connection *connection = SSL_get_app_data(ssl);

    connection->tickets++;
    load.tickets_seen++;
    if (!load.resume || load.session_count == SESSIONS_MAX)
        return 0;
    load.sessions[load.session_count++] = session;
    return 1;
}

static void
connection_start(void)
{
    struct connection *connection = calloc(1, sizeof(*connection));

    CHECK(connection != NULL, "no memory");
    connection->started = peer_seconds();
    many_connect(&connection->many, load.ctx, load.ports[load.started % (unsigned)load.port_count]);
    SSL_set_app_data(connection->many.ssl, connection);
    if (load.resume && load.session_count > 0) {
        SSL_SESSION *session = load.sessions[--load.session_count];

        connection->resumes = true;
        SSL_set_session(connection->many.ssl, session);
        /* A TLS 1.2 server need not send a new ticket: the old one is good again. */
        if (load.version == 12)
            load.sessions[load.session_count++] = session;
        else
            SSL_SESSION_free(session);
    }
    load.started++;
    load.open++;
}

/* failure: NULL if all was well. */
static void
connection_end(struct connection *connection, const char *failure)
{
    if (failure != NULL) {
        const char *reason = ERR_reason_error_string(ERR_peek_last_error());

        load.failed++;
        snprintf(load.failure, sizeof(load.failure), "%s (phase %d): %s", failure,
                 connection->phase, reason != NULL ? reason : strerror(errno));
    }
    ERR_clear_error();
    /* Marked as closed, whatever came: else OpenSSL makes the session useless. */
    SSL_set_shutdown(connection->many.ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(connection->many.ssl);
    close(connection->many.fd);
    free(connection);
    load.open--;
    load.over++;
}

/* What was negotiated must be what was asked for. NULL: it is. */
static const char *
check_negotiated(struct connection *connection)
{
    SSL *ssl = connection->many.ssl;
    bool resumed = SSL_session_reused(ssl);
    int nid = (int)SSL_get_negotiated_group(ssl);
    const char *group = nid != 0 ? SSL_group_to_name(ssl, nid) : NULL;

    snprintf(load.got_version, sizeof(load.got_version), "%s", SSL_get_version(ssl));
    snprintf(load.got_suite, sizeof(load.got_suite), "%s", SSL_get_cipher_name(ssl));
    if (!resumed || load.version != 12) /* no key exchange: no group */
        snprintf(load.got_group, sizeof(load.got_group), "%s", group != NULL ? group : "none");
    *(resumed ? &load.resumed : &load.full) += 1;
    if (connection->resumes && !resumed)
        return "not resumed";
    if (load.suite != NULL && strcmp(load.suite, load.got_suite) != 0)
        return "another suite";
    if (load.group != NULL && (!resumed || load.version != 12) && group != NULL &&
        strcasecmp(load.group, group) != 0)
        return "another group";
    return NULL;
}

static void
begin_request(struct connection *connection)
{
    connection->phase = PHASE_WRITE;
    connection->left = load.request_size + (load.mode == MODE_UPLOAD ? load.size : 0);
    connection->head_read = false;
    connection->head_size = 0;
    connection->request_started = peer_seconds();
}

/* The next request on a connection that stays, or its end. */
static void
next_request(struct connection *connection)
{
    load.over++;
    if (load.mode == MODE_LATENCY) {
        load.over--; /* connection_end() counts it */
        connection->phase = PHASE_CLOSE;
        SSL_shutdown(connection->many.ssl);
    } else if (load.started < load.target) {
        load.started++;
        begin_request(connection);
    } else {
        connection->phase = PHASE_REST;
        many_watch(&connection->many, EPOLLIN);
        connection->next = load.all;
        load.all = connection;
    }
}

static void
note_time(double *list, size_t *count, double from)
{
    if (load.measured && *count < load.target)
        list[(*count)++] = peer_seconds() - from;
}

/* Returns false if there is nothing more to do now. */
static bool
step_handshake(struct connection *connection)
{
    int result = SSL_do_handshake(connection->many.ssl);
    const char *fault;

    if (result != 1) {
        if (!many_waits(&connection->many, result))
            connection_end(connection, "handshake failed");
        return false;
    }
    note_time(load.times, &load.time_count, connection->started);
    fault = check_negotiated(connection);
    if (fault != NULL) {
        connection_end(connection, fault);
        return false;
    }
    switch (load.mode) {
    case MODE_HANDSHAKE:
        connection->phase = PHASE_TICKETS;
        break;
    case MODE_IDLE:
        connection->phase = PHASE_REST;
        connection->next = load.all;
        load.all = connection;
        load.over++;
        break;
    default:
        begin_request(connection);
        break;
    }
    return true;
}

/* How many tickets must come before we close. A resumed one brings one (OpenSSL's rule). */
static unsigned
tickets_expected(const struct connection *connection)
{
    if (load.version == 12 || load.tickets <= 0)
        return 0;
    return connection->resumes ? 1 : (unsigned)load.tickets;
}

static bool
step_tickets(struct connection *connection)
{
    char byte;
    int result;

    while (connection->tickets < tickets_expected(connection)) {
        result = SSL_read(connection->many.ssl, &byte, 1);
        if (result > 0 || !many_waits(&connection->many, result)) {
            connection_end(connection, "no ticket came");
            return false;
        }
        if (connection->tickets < tickets_expected(connection))
            return false;
    }
    SSL_shutdown(connection->many.ssl);
    connection->phase = PHASE_CLOSE;
    return true;
}

static bool
step_write(struct connection *connection)
{
    uint64_t body = load.mode == MODE_UPLOAD ? load.size : 0;
    bool in_head = connection->left > body;
    const void *bytes =
        in_head
            ? (const void *)(load.request + load.request_size - (size_t)(connection->left - body))
            : zeros;
    size_t size = (size_t)(in_head ? connection->left - body : connection->left);
    int result = SSL_write(connection->many.ssl, bytes, (int)(size < PIECE ? size : PIECE));

    if (result <= 0) {
        if (!many_waits(&connection->many, result))
            connection_end(connection, "write failed");
        return false;
    }
    connection->left -= (uint64_t)result;
    if (!in_head)
        load.bytes += (uint64_t)result;
    if (connection->left == 0)
        connection->phase = PHASE_READ;
    return true;
}

/* Take the head apart when it is whole. Returns a fault or NULL. */
static const char *
take_head(struct connection *connection)
{
    char *end, *length;
    size_t head;

    connection->head[connection->head_size] = '\0';
    end = strstr(connection->head, "\r\n\r\n");
    if (end == NULL)
        return connection->head_size == sizeof(connection->head) - 1 ? "no head" : NULL;
    head = (size_t)(end + 4 - connection->head);
    length = strcasestr(connection->head, "\r\ncontent-length:");
    if (strncmp(connection->head + 8, " 200", 4) != 0 || length == NULL)
        return "not a 200 answer with a length";
    connection->body_left = strtoull(length + 17, NULL, 10);
    if (load.mode != MODE_UPLOAD && connection->body_left != load.size)
        return "a body of another size";
    if (connection->head_size - head > connection->body_left)
        return "more than the body";
    connection->body_left -= connection->head_size - head;
    load.bytes += connection->head_size - head;
    connection->head_read = true;
    return NULL;
}

static bool
step_read(struct connection *connection)
{
    static uint8_t buffer[PIECE];
    const char *fault;
    int result;

    if (connection->head_read) {
        result = SSL_read(connection->many.ssl, buffer, sizeof(buffer));
    } else {
        result = SSL_read(connection->many.ssl, connection->head + connection->head_size,
                          (int)(sizeof(connection->head) - 1 - connection->head_size));
    }
    if (result <= 0) {
        if (!many_waits(&connection->many, result))
            connection_end(connection, "the answer ended early");
        return false;
    }
    if (connection->head_read) {
        if ((uint64_t)result > connection->body_left) {
            connection_end(connection, "more than the body");
            return false;
        }
        connection->body_left -= (uint64_t)result;
        load.bytes += (uint64_t)result;
    } else {
        connection->head_size += (size_t)result;
        fault = take_head(connection);
        if (fault != NULL) {
            connection_end(connection, fault);
            return false;
        }
    }
    if (connection->head_read && connection->body_left == 0) {
        note_time(load.answers, &load.answer_count,
                  load.mode == MODE_LATENCY ? connection->started : connection->request_started);
        next_request(connection);
        return connection->phase != PHASE_REST;
    }
    return true;
}

/* The server's end: close_notify and FIN, or only one of them. */
static bool
step_close(struct connection *connection)
{
    char bytes[512];
    ssize_t size = recv(connection->many.fd, bytes, sizeof(bytes), 0);

    if (size > 0)
        return true;
    if (size == -1 && errno == EAGAIN) {
        many_watch(&connection->many, EPOLLIN);
        return false;
    }
    connection_end(connection, NULL);
    return false;
}

/* A connection that rests: tickets may come, and the server may end it. */
static bool
step_rest(struct connection *connection)
{
    char byte;
    int result = SSL_read(connection->many.ssl, &byte, 1);

    if (result <= 0 && many_waits(&connection->many, result))
        return false;
    load.failed++;
    snprintf(load.failure, sizeof(load.failure), "closed or spoken to while it rested");
    epoll_ctl(many_epoll, EPOLL_CTL_DEL, connection->many.fd, NULL);
    return false;
}

static void
connection_step(struct connection *connection)
{
    bool (*const steps[])(struct connection * connection) = {
        [PHASE_HANDSHAKE] = step_handshake, [PHASE_TICKETS] = step_tickets,
        [PHASE_REST] = step_rest,           [PHASE_WRITE] = step_write,
        [PHASE_READ] = step_read,           [PHASE_CLOSE] = step_close,
    };

    do
        ERR_clear_error();
    while (steps[connection->phase](connection));
}

static int
compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double
quantile(double *list, size_t count, double q)
{
    if (count == 0)
        return 0;
    qsort(list, count, sizeof(*list), compare_doubles);
    return list[(size_t)((double)(count - 1) * q + 0.5)] * 1e6;
}

static void
report(double seconds)
{
    printf(
        "{\"done\": %llu, \"failed\": %llu, \"full\": %llu, \"resumed\": %llu, \"tickets\": %llu, "
        "\"bytes\": %llu, \"seconds\": %.6f, \"version\": \"%s\", \"suite\": \"%s\", "
        "\"group\": \"%s\", \"handshake_p50_us\": %.1f, \"handshake_p99_us\": %.1f, "
        "\"answer_p50_us\": %.1f, \"answer_p99_us\": %.1f, \"failure\": \"%s\"}\n",
        (unsigned long long)load.over, (unsigned long long)load.failed,
        (unsigned long long)load.full, (unsigned long long)load.resumed,
        (unsigned long long)load.tickets_seen, (unsigned long long)load.bytes, seconds,
        load.got_version, load.got_suite, load.got_group,
        quantile(load.times, load.time_count, 0.5), quantile(load.times, load.time_count, 0.99),
        quantile(load.answers, load.answer_count, 0.5),
        quantile(load.answers, load.answer_count, 0.99), load.failure);
    fflush(stdout);
}

/* Connections that stay are woken for the batch. */
static void
wake_resting(void)
{
    while (load.all != NULL && load.started < load.target) {
        struct connection *connection = load.all;

        load.all = connection->next;
        load.started++;
        begin_request(connection);
        connection_step(connection);
    }
}

static void
batch(uint64_t target)
{
    struct epoll_event events[256];
    bool stays = load.mode == MODE_REQUEST || load.mode == MODE_UPLOAD;
    double start = peer_seconds();

    load.target = target;
    load.started = load.over = load.failed = load.full = load.resumed = 0;
    load.bytes = load.tickets_seen = 0;
    load.time_count = load.answer_count = 0;
    load.failure[0] = '\0';
    free(load.times);
    free(load.answers);
    load.times = calloc(target + 1, sizeof(double));
    load.answers = calloc(target + 1, sizeof(double));
    CHECK(load.times != NULL && load.answers != NULL, "no memory");
    if (stays)
        wake_resting();
    while (load.over < load.target) {
        int count;

        while (load.started < load.target &&
               (load.mode == MODE_IDLE ? load.started - load.over : load.open) < load.concurrency)
            connection_start();
        count = epoll_wait(many_epoll, events, 256, QUIET_MS);
        CHECK(count > 0, "nothing happened for %d ms: %llu open, %llu over", QUIET_MS,
              (unsigned long long)load.open, (unsigned long long)load.over);
        for (int i = 0; i < count; i++)
            connection_step(events[i].data.ptr);
    }
    report(peer_seconds() - start);
}

static void
make_ctx(void)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    int number = load.version == 12 ? TLS1_2_VERSION : TLS1_3_VERSION;

    CHECK(ctx != NULL, "no memory");
    if (load.version != 0) {
        SSL_CTX_set_min_proto_version(ctx, number);
        SSL_CTX_set_max_proto_version(ctx, number);
    }
    if (load.suite != NULL)
        CHECK((load.version == 12 ? SSL_CTX_set_cipher_list(ctx, load.suite)
                                  : SSL_CTX_set_ciphersuites(ctx, load.suite)) == 1,
              "--suite %s", load.suite);
    if (load.group != NULL) {
        char groups[64];

        /* In TLS 1.2 the list also says which curves a certificate may have. */
        snprintf(groups, sizeof(groups), load.version == 12 ? "%s:P-256" : "%s", load.group);
        CHECK(SSL_CTX_set1_groups_list(ctx, groups) == 1, "--group %s", load.group);
    }
    /* The chain is not looked at (the signature is): the client must not be the slower side. */
    SSL_CTX_set_verify(ctx, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(ctx, keep_session);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                              SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    load.ctx = ctx;
}

static void
read_mode(const char *name)
{
    static const char *const names[] = {"handshake", "latency", "request", "upload", "idle"};

    for (int i = 0; i < 5; i++)
        if (strcmp(name, names[i]) == 0) {
            load.mode = (enum mode)i;
            return;
        }
    CHECK(false, "--mode %s", name);
}

static void
read_options(int argc, char **argv)
{
    CHECK(argc >= 2, "usage: load PORT[,PORT...] [options]");
    for (char *word = strtok(argv[1], ","); word != NULL; word = strtok(NULL, ",")) {
        CHECK(load.port_count < PORTS_MAX, "more than %d ports", PORTS_MAX);
        load.ports[load.port_count++] = atoi(word);
    }
    CHECK(load.port_count > 0, "no port");
    load.tickets = -1;
    load.concurrency = 1;
    for (int i = 2; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";

        if (strcmp(argv[i], "--resume") == 0) {
            load.resume = true;
            continue;
        }
        i++;
        if (strcmp(argv[i - 1], "--mode") == 0)
            read_mode(value);
        else if (strcmp(argv[i - 1], "--version") == 0)
            load.version = atoi(value);
        else if (strcmp(argv[i - 1], "--suite") == 0)
            load.suite = value;
        else if (strcmp(argv[i - 1], "--group") == 0)
            load.group = value;
        else if (strcmp(argv[i - 1], "--tickets") == 0)
            load.tickets = atoi(value);
        else if (strcmp(argv[i - 1], "--size") == 0)
            load.size = strtoull(value, NULL, 10);
        else if (strcmp(argv[i - 1], "--concurrency") == 0)
            load.concurrency = (unsigned)atoi(value);
        else
            CHECK(false, "option %s", argv[i - 1]);
    }
}

int
main(int argc, char **argv)
{
    char line[64];

    read_options(argc, argv);
    make_ctx();
    load.request_size =
        (size_t)(load.mode == MODE_UPLOAD
                     ? snprintf(load.request, sizeof(load.request),
                                "POST /discard HTTP/1.1\r\nHost: localhost\r\n"
                                "Content-Length: %llu\r\n\r\n",
                                (unsigned long long)load.size)
                     : snprintf(load.request, sizeof(load.request),
                                "GET /bytes/%llu HTTP/1.1\r\nHost: localhost\r\n\r\n",
                                (unsigned long long)load.size));
    many_begin();
    if (load.mode != MODE_IDLE)
        batch(load.concurrency);
    load.measured = true;
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin) != NULL)
        batch(strtoull(line, NULL, 10));
    return 0;
}
