/*
 * load.c: many clients at once, in one epoll loop. For the load, lifecycle and idle tests.
 *
 *   load PORT CA handshakes N CONCURRENCY   N mixed connections: TLS 1.2 and 1.3, RSA and ECDSA,
 *                                           half of them resumed; each fetches 100 bytes
 *   load PORT CA all N CONCURRENCY          the same with ECDSA P-384 and Ed25519 identities too
 *   load PORT CA stream N                   N connections that POST to /echo and compare, until
 *                                           stdin ends; "running" after the first round of each
 *   load PORT CA rekey N                    stream; with TLS 1.3 both sides change keys each round
 *   load PORT CA idle N                     N connections that do nothing until stdin ends, then
 *                                           one request on each; "idle" when all are open
 *
 * SSLKEYLOGFILE in the environment: the secrets of all connections go there in the usual format,
 * and lines "SERVER_RANDOM client-random server-random" (TLS 1.2) and "SESSION secret"
 * (resumption).
 *
 * The last line counts; the exit status is 1 if any connection failed.
 */
#include "tests/peers/many.h"

#define KINDS     8 /* version and key type; the first four in every mode */
#define ECHO_SIZE 50000
#define HEAD_MAX  1024

enum mode {
    MODE_HANDSHAKES,
    MODE_STREAM,
    MODE_IDLE,
};

enum phase {
    PHASE_CONNECT,
    PHASE_HANDSHAKE,
    PHASE_REST, /* idle: wait for the signal */
    PHASE_WRITE,
    PHASE_READ_HEAD,
    PHASE_READ_BODY,
    PHASE_CLOSE,
};

struct connection {
    struct many many;
    enum phase phase;
    int kind;
    bool wants_resumption;
    char head[HEAD_MAX];
    size_t head_size;
    size_t done; /* of the request while writing, of the body while reading */
    unsigned round;
    struct connection **slot; /* in load.all */
};

static struct {
    enum mode mode;
    int port, kinds;
    FILE *keylog;
    SSL_CTX *ctx[KINDS];
    SSL_SESSION *sessions[KINDS];
    bool stop;                            /* stdin has ended */
    bool rekey;                           /* MODE_STREAM with KeyUpdates */
    uint64_t target, started, open, over; /* connections */
    uint64_t failed, full, resumed, missed, bytes, rounds;
    uint64_t ready; /* connections that have done their first round, or are idle */
    char request[ECHO_SIZE + 256];
    size_t request_head, request_size;
    struct connection **all; /* target slots; NULL: over, or not yet begun */
} load;

static void
log_hex(const char *before, const uint8_t *bytes, size_t size, const char *after)
{
    fputs(before, load.keylog);
    for (size_t i = 0; i < size; i++)
        fprintf(load.keylog, "%02x", bytes[i]);
    fputs(after, load.keylog);
}

static void
log_keys(const SSL *ssl, const char *line)
{
    uint8_t random[SSL3_RANDOM_SIZE];

    fprintf(load.keylog, "%s\n", line);
    if (strncmp(line, "CLIENT_RANDOM ", 14) != 0)
        return;
    SSL_get_client_random(ssl, random, sizeof(random));
    log_hex("SERVER_RANDOM ", random, sizeof(random), " ");
    SSL_get_server_random(ssl, random, sizeof(random));
    log_hex("", random, sizeof(random), "\n");
}

static int
remember_session(SSL *ssl, SSL_SESSION *session)
{
    int kind = (int)(intptr_t)SSL_get_app_data(ssl);
    uint8_t secret[SSL_MAX_MASTER_KEY_LENGTH];

    if (load.keylog != NULL)
        log_hex("SESSION ", secret, SSL_SESSION_get_master_key(session, secret, sizeof(secret)),
                "\n");
    SSL_SESSION_free(load.sessions[kind]);
    load.sessions[kind] = session;
    return 1;
}

/* The server's choice of an identity follows from what the client can verify. */
static void
make_contexts(const char *ca)
{
    static const struct {
        int version;
        const char *algorithms, *ciphers; /* ciphers: of TLS 1.2 */
    } kinds[KINDS] = {
        {12, "RSA-PSS+SHA256:ECDSA+SHA384", "aRSA+ECDHE+AESGCM"},
        {12, "ECDSA+SHA256:ECDSA+SHA384", "aECDSA+ECDHE+AESGCM"},
        {13, "RSA-PSS+SHA256:ECDSA+SHA384", NULL},
        {13, "ECDSA+SHA256:ECDSA+SHA384", NULL},
        {12, "ed25519:ECDSA+SHA256", "aECDSA+ECDHE+CHACHA20"},
        {12, "ECDSA+SHA384:ECDSA+SHA256", "aECDSA+ECDHE+AESGCM"},
        {13, "ed25519:ECDSA+SHA256", NULL},
        {13, "ECDSA+SHA384:ECDSA+SHA256", NULL},
    };
    const char *keylog = getenv("SSLKEYLOGFILE");

    if (keylog != NULL)
        CHECK((load.keylog = fopen(keylog, "we")) != NULL, "%s: %s", keylog, strerror(errno));
    for (int kind = 0; kind < load.kinds; kind++) {
        SSL_CTX *ctx = peer_ctx(kinds[kind].version, ca);

        CHECK(SSL_CTX_set1_sigalgs_list(ctx, kinds[kind].algorithms) == 1, "sigalgs");
        CHECK(kinds[kind].ciphers == NULL || SSL_CTX_set_cipher_list(ctx, kinds[kind].ciphers) == 1,
              "ciphers");
        SSL_CTX_sess_set_new_cb(ctx, remember_session);
        SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
        if (load.keylog != NULL)
            SSL_CTX_set_keylog_callback(ctx, log_keys);
        load.ctx[kind] = ctx;
    }
}

static void
connection_start(void)
{
    struct connection *connection = calloc(1, sizeof(*connection));

    CHECK(connection != NULL, "no memory");
    connection->kind = (int)(load.started % (unsigned)load.kinds);
    connection->wants_resumption =
        load.mode == MODE_HANDSHAKES && load.started / (unsigned)load.kinds % 2 == 1;
    many_connect(&connection->many, load.ctx[connection->kind], load.port);
    SSL_set_app_data(connection->many.ssl, (void *)(intptr_t)connection->kind);
    SSL_set1_host(connection->many.ssl, "localhost");
    if (connection->wants_resumption) {
        /* A copy: OpenSSL uses a TLS 1.3 session once, and others may be using this one now. */
        SSL_SESSION *session = load.sessions[connection->kind];

        session = session != NULL ? SSL_SESSION_dup(session) : NULL;
        connection->wants_resumption = session != NULL;
        SSL_set_session(connection->many.ssl, session);
        SSL_SESSION_free(session);
    }
    connection->slot = &load.all[load.started];
    *connection->slot = connection;
    load.started++;
    load.open++;
}

static void
connection_end(struct connection *connection, const char *failure)
{
    if (failure != NULL) {
        load.failed++;
        fprintf(stderr, "connection %s in phase %d, round %u: ", failure, connection->phase,
                connection->round);
        ERR_print_errors_fp(stderr);
        fputc('\n', stderr);
    }
    ERR_clear_error();
    SSL_free(connection->many.ssl);
    close(connection->many.fd);
    *connection->slot = NULL;
    free(connection);
    load.open--;
    load.over++;
}

/* Count a first round; say so when it was the last one. */
static void
count_ready(const char *word)
{
    if (++load.ready == load.target) {
        printf("%s\n", word);
        fflush(stdout);
    }
}

static void
begin_request(struct connection *connection)
{
    connection->phase = PHASE_WRITE;
    connection->done = 0;
    connection->head_size = 0;
}

static size_t
body_size(void)
{
    return load.mode == MODE_STREAM ? ECHO_SIZE : 100;
}

/* Check a piece of the body: for /echo against what was sent. */
static bool
check_body(const uint8_t *bytes, size_t size, size_t offset)
{
    if (load.mode == MODE_STREAM)
        return memcmp(load.request + load.request_head + offset, bytes, size) == 0;
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != peer_pattern(offset + i))
            return false;
    return true;
}

/* A response is complete. */
static void
round_over(struct connection *connection)
{
    load.rounds++;
    if (connection->round++ == 0 && load.mode == MODE_STREAM)
        count_ready("running");
    if (load.mode == MODE_STREAM && !load.stop)
        begin_request(connection);
    else
        connection->phase = PHASE_CLOSE;
    if (load.rekey && !load.stop && SSL_version(connection->many.ssl) == TLS1_3_VERSION)
        CHECK(SSL_key_update(connection->many.ssl, SSL_KEY_UPDATE_REQUESTED) == 1,
              "SSL_key_update");
}

static void
connection_step(struct connection *connection)
{
    uint8_t buffer[16384];
    size_t left;
    int result;

    for (;;) {
        ERR_clear_error();
        switch (connection->phase) {
        case PHASE_CONNECT:
        case PHASE_HANDSHAKE:
            connection->phase = PHASE_HANDSHAKE;
            result = SSL_do_handshake(connection->many.ssl);
            if (result != 1) {
                if (!many_waits(&connection->many, result))
                    connection_end(connection, "handshake failed");
                return;
            }
            if (SSL_session_reused(connection->many.ssl))
                load.resumed++;
            else
                load.full++;
            if (connection->wants_resumption && !SSL_session_reused(connection->many.ssl))
                load.missed++;
            if (load.mode == MODE_IDLE && !load.stop) {
                connection->phase = PHASE_REST;
                count_ready("idle");
                many_watch(&connection->many, EPOLLIN);
                return;
            }
            begin_request(connection);
            break;
        case PHASE_REST:
            if (!load.stop) { /* tickets arrive; anything else is wrong */
                result = SSL_read(connection->many.ssl, buffer, sizeof(buffer));
                if (!many_waits(&connection->many, result))
                    connection_end(connection, "spoken to, or closed, while idle");
                return;
            }
            begin_request(connection);
            break;
        case PHASE_WRITE:
            left = load.request_size - connection->done;
            result = SSL_write(connection->many.ssl, load.request + connection->done,
                               (int)(left < 16384 ? left : 16384));
            if (result <= 0) {
                if (!many_waits(&connection->many, result))
                    connection_end(connection, "write failed");
                return;
            }
            connection->done += (size_t)result;
            if (connection->done == load.request_size) {
                connection->phase = PHASE_READ_HEAD;
                connection->done = 0;
            }
            break;
        case PHASE_READ_HEAD:
            if (connection->head_size == HEAD_MAX - 1) {
                connection_end(connection, "got no head");
                return;
            }
            result = SSL_read(connection->many.ssl, connection->head + connection->head_size, 1);
            if (result <= 0) {
                if (!many_waits(&connection->many, result))
                    connection_end(connection, "read of the head failed");
                return;
            }
            connection->head[++connection->head_size] = '\0';
            if (connection->head_size >= 4 &&
                strcmp(connection->head + connection->head_size - 4, "\r\n\r\n") == 0) {
                if (strncmp(connection->head, "HTTP/1.1 200 ", 13) != 0) {
                    connection_end(connection, connection->head);
                    return;
                }
                connection->phase = PHASE_READ_BODY;
            }
            break;
        case PHASE_READ_BODY:
            left = body_size() - connection->done;
            result = SSL_read(connection->many.ssl, buffer,
                              (int)(left < sizeof(buffer) ? left : sizeof(buffer)));
            if (result <= 0) {
                if (!many_waits(&connection->many, result))
                    connection_end(connection, "read of the body failed");
                return;
            }
            if (!check_body(buffer, (size_t)result, connection->done)) {
                connection_end(connection, "got wrong bytes");
                return;
            }
            load.bytes += (uint64_t)result;
            connection->done += (size_t)result;
            if (connection->done == body_size())
                round_over(connection);
            break;
        case PHASE_CLOSE: /* ours, then the server's */
            result = SSL_shutdown(connection->many.ssl);
            if (result == 0)
                result = SSL_shutdown(connection->many.ssl);
            if (result != 1 && many_waits(&connection->many, result))
                return;
            connection_end(connection, result == 1 ? NULL : "not closed cleanly by the server");
            return;
        }
    }
}

/* stdin has ended: wake those that rest. */
static void
begin_stop(void)
{
    load.stop = true;
    epoll_ctl(many_epoll, EPOLL_CTL_DEL, 0, NULL);
    for (uint64_t i = 0; i < load.target; i++)
        if (load.all[i] != NULL && load.all[i]->phase == PHASE_REST)
            connection_step(load.all[i]);
}

static void
make_request(void)
{
    int size;

    if (load.mode != MODE_STREAM) {
        size = snprintf(load.request, sizeof(load.request),
                        "GET /bytes/100 HTTP/1.1\r\nHost: localhost\r\n\r\n");
        load.request_size = (size_t)size;
        return;
    }
    size =
        snprintf(load.request, sizeof(load.request),
                 "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", ECHO_SIZE);
    load.request_head = (size_t)size;
    for (size_t i = 0; i < ECHO_SIZE; i++)
        load.request[load.request_head + i] = (char)peer_pattern(i * 3 + 1);
    load.request_size = load.request_head + ECHO_SIZE;
}

int
main(int argc, char **argv)
{
    uint64_t concurrency;
    struct epoll_event events[256];

    CHECK(argc >= 5, "usage: load PORT CA handshakes|all N CONCURRENCY | stream|rekey|idle N");
    load.port = atoi(argv[1]);
    load.rekey = strcmp(argv[3], "rekey") == 0;
    load.mode = load.rekey || strcmp(argv[3], "stream") == 0 ? MODE_STREAM
                : strcmp(argv[3], "idle") == 0               ? MODE_IDLE
                                                             : MODE_HANDSHAKES;
    load.kinds = strcmp(argv[3], "all") == 0 ? KINDS : 4;
    load.target = strtoull(argv[4], NULL, 10);
    concurrency = argc > 5 ? strtoull(argv[5], NULL, 10) : load.target;
    if (load.mode == MODE_IDLE && concurrency > 50)
        concurrency = 50; /* in the handshake at a time */
    make_contexts(argv[2]);
    make_request();
    many_begin();
    load.all = calloc(load.target, sizeof(struct connection *));
    CHECK(load.all != NULL, "no memory");
    if (load.mode != MODE_HANDSHAKES) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};

        CHECK(epoll_ctl(many_epoll, EPOLL_CTL_ADD, 0, &event) == 0, "stdin must be a pipe");
    }
    while (load.over < load.target) {
        int count;

        while (load.started < load.target &&
               load.open - (load.mode == MODE_IDLE ? load.ready : 0) < concurrency)
            connection_start();
        count = epoll_wait(many_epoll, events, 256, 30000);
        CHECK(count > 0 || (load.mode != MODE_HANDSHAKES && !load.stop),
              "nothing happened for 30 seconds: %llu open, %llu over",
              (unsigned long long)load.open, (unsigned long long)load.over);
        for (int i = 0; i < count; i++) {
            struct connection *connection = events[i].data.ptr;

            if (connection == NULL) {
                begin_stop();
                break; /* the other events come again */
            }
            connection_step(connection);
        }
    }
    if (load.keylog != NULL)
        fclose(load.keylog);
    printf("connections=%llu failed=%llu full=%llu resumed=%llu missed=%llu rounds=%llu "
           "bytes=%llu\n",
           (unsigned long long)load.over, (unsigned long long)load.failed,
           (unsigned long long)load.full, (unsigned long long)load.resumed,
           (unsigned long long)load.missed, (unsigned long long)load.rounds,
           (unsigned long long)load.bytes);
    return load.failed > 0;
}
