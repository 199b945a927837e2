/*
 * forms.c: the cases of Linux's own kernel TLS selftest (tools/testing/selftests/net/tls.c) and the
 * traps of a hand-back, over connections that a real agent has handed back, in one form:
 *
 *   forms kernel|records [WORD]      only cases with the word in their names
 *   forms table                      Linux's selftest, name by name (forms_table.c)
 *
 * $TLSAGENT_SOCK is the agent's socket, $FORMS_CA the CA of its contexts "www" and "fixed"
 * (prefer_rekey). One line per case, "ok NAME (SECONDS)" or "FAIL NAME". Cases of forms_data.c,
 * forms_socket.c, forms_ends.c and forms_choice.c, each in a child process, in TLS 1.2 and 1.3.
 */
#include "tests/vm/forms.h"

#include <sys/mman.h>
#include <sys/un.h>

#include "protocol/traffic.h"

#define CASE_SECONDS 90 /* an emulated machine on a busy one */

struct setup setup;

/* ---- the client's secrets ---- */

static uint8_t client_secret[TRAFFIC_SECRET_MAX];
static uint64_t client_sequence;

static void
keep_secret(const SSL *ssl, const char *line)
{
    static const char label[] = "CLIENT_TRAFFIC_SECRET_0 ";
    const char *hex = strrchr(line, ' ');

    (void)ssl;
    if (strncmp(line, label, sizeof(label) - 1) != 0)
        return;
    client_sequence = 0;
    for (size_t i = 0;
         i < sizeof(client_secret) && sscanf(hex + 1 + 2 * i, "%2hhx", &client_secret[i]) == 1;)
        i++;
}

size_t
craft(struct pair *pair, uint8_t type, const void *content, size_t size, uint8_t *record)
{
    const struct traffic_suite *suite = traffic_suite_find(0x1301);
    struct traffic_keys keys = {0};
    EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
    size_t length = size + 1 + TRAFFIC_TAG_SIZE;
    int n;

    (void)pair;
    memcpy(keys.secret, client_secret, sizeof(keys.secret));
    CHECK(traffic_keys_derive(suite, &keys) == 0, "derive");
    for (int i = 0; i < 8; i++)
        keys.iv[4 + i] ^= (uint8_t)(client_sequence >> (56 - 8 * i));
    client_sequence++;
    memcpy(record, (uint8_t[]){23, 3, 3, (uint8_t)(length >> 8), (uint8_t)length}, 5);
    CHECK(EVP_EncryptInit_ex(cipher, EVP_aes_128_gcm(), NULL, keys.key, keys.iv) == 1 &&
              EVP_EncryptUpdate(cipher, NULL, &n, record, 5) == 1 &&
              EVP_EncryptUpdate(cipher, record + 5, &n, content, (int)size) == 1 &&
              EVP_EncryptUpdate(cipher, record + 5 + size, &n, &type, 1) == 1 &&
              EVP_EncryptFinal_ex(cipher, record + 6 + size, &n) == 1 &&
              EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_AEAD_GET_TAG, TRAFFIC_TAG_SIZE,
                                  record + 6 + size) == 1,
          "sealing a record");
    EVP_CIPHER_CTX_free(cipher);
    return 5 + length;
}

void
client_craft(struct pair *pair, uint8_t type, const void *content, size_t size)
{
    uint8_t *record = malloc(size + 64);

    CHECK(record != NULL, "no memory");
    CHECK(peer_send(&pair->peer, record, craft(pair, type, content, size, record)), "send");
    free(record);
}

/* ---- the pattern ---- */

/* The pattern from offset on, and how much of it is there in one piece (up to size): from a table,
 * since an emulated machine would take its time to compute it. */
static const uint8_t *
pattern_piece(uint64_t offset, size_t *size)
{
    static uint8_t table[PEER_PATTERN];
    static bool made;
    size_t start = offset % PEER_PATTERN;

    for (size_t i = 0; i < PEER_PATTERN && !made; i++)
        table[i] = peer_pattern(i);
    made = true;
    if (*size > PEER_PATTERN - start)
        *size = PEER_PATTERN - start;
    return table + start;
}

void
pattern_fill(uint8_t *bytes, size_t size, uint64_t offset)
{
    for (size_t done = 0, n; done < size; done += n) {
        const uint8_t *piece;

        n = size - done;
        piece = pattern_piece(offset + done, &n);
        memcpy(bytes + done, piece, n);
    }
}

void
pattern_check(const uint8_t *bytes, size_t size, uint64_t offset)
{
    for (size_t done = 0, n; done < size; done += n) {
        const uint8_t *piece;

        n = size - done;
        piece = pattern_piece(offset + done, &n);
        for (size_t i = 0; i < n && memcmp(bytes + done, piece, n) != 0; i++)
            CHECK(bytes[done + i] == piece[i], "byte %llu is wrong",
                  (unsigned long long)(offset + done + i));
    }
}

int
file_make(size_t size)
{
    int fd = memfd_create("pattern", MFD_CLOEXEC);
    uint8_t piece[65536];

    for (size_t done = 0; done < size;) {
        size_t n = size - done < sizeof(piece) ? size - done : sizeof(piece);

        pattern_fill(piece, n, done);
        CHECK(write(fd, piece, n) == (ssize_t)n, "write: %s", strerror(errno));
        done += n;
    }
    return fd;
}

size_t
bulk_size(void)
{
    const char *megabytes = getenv("FORMS_BULK");

    return (megabytes != NULL ? strtoul(megabytes, NULL, 10) : 32) * 1048576;
}

/* ---- the pair ---- */

static void
connect_tcp(int fds[2], bool ipv6)
{
    const struct sockaddr_in loopback = {.sin_family = AF_INET,
                                         .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const struct sockaddr_in6 loopback6 = {.sin6_family = AF_INET6,
                                           .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    struct sockaddr_storage address = {0};
    socklen_t size = ipv6 ? sizeof(loopback6) : sizeof(loopback);
    int family = ipv6 ? AF_INET6 : AF_INET, listener = socket(family, SOCK_STREAM, 0);

    memcpy(&address, ipv6 ? (const void *)&loopback6 : &loopback, size);
    CHECK(bind(listener, (struct sockaddr *)&address, size) == 0 && listen(listener, 1) == 0 &&
              getsockname(listener, (struct sockaddr *)&address, &size) == 0,
          "listen: %s", strerror(errno));
    fds[1] = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(connect(fds[1], (struct sockaddr *)&address, size) == 0, "connect: %s", strerror(errno));
    fds[0] = accept(listener, NULL, NULL);
    CHECK(fds[0] != -1, "accept: %s", strerror(errno));
    for (size_t i = 0; i < 2; i++)
        setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    close(listener);
}

static SSL_CTX *
make_ctx(void)
{
    SSL_CTX *ctx = peer_ctx(setup.version, getenv("FORMS_CA"));

    SSL_CTX_set_keylog_callback(ctx, keep_secret);
    if (setup.version == 13)
        CHECK(SSL_CTX_set_ciphersuites(ctx, setup.cipher != NULL ? setup.cipher
                                                                 : "TLS_AES_128_GCM_SHA256") == 1,
              "ciphersuites");
    else
        CHECK(SSL_CTX_set_cipher_list(ctx, setup.cipher != NULL ? setup.cipher
                                                                : "ECDHE-ECDSA-AES128-GCM-SHA256"),
              "cipher list");
    return ctx;
}

/* Both sides have something to do: libtlsagent may not have had its channel yet. */
static void
shake_hands(struct pair *pair, bool hold)
{
    struct pollfd ready[] = {{.fd = pair->peer.fd, .events = POLLIN},
                             {.fd = tlsagent_fd(pair->agent), .events = POLLIN}};
    int result, over = TLSAGENT_WANT_POLLIN;

    while ((result = SSL_do_handshake(pair->peer.ssl)) != 1) {
        CHECK(SSL_get_error(pair->peer.ssl, result) == SSL_ERROR_WANT_READ, "handshake failed: %s",
              tlsagent_error(pair->conn));
        peer_flush(&pair->peer);
        CHECK(poll(ready, over == TLSAGENT_WANT_POLLIN ? 2 : 1, 6 * PEER_TIMEOUT) > 0,
              "the server says nothing during the handshake");
        if (ready[1].revents != 0 && over == TLSAGENT_WANT_POLLIN)
            over = tlsagent_handshake(pair->conn);
        CHECK(over != -1, "handshake: %s", tlsagent_error(pair->conn));
        if (ready[0].revents != 0)
            CHECK(peer_receive(&pair->peer, 0), "the server closed: %s",
                  tlsagent_error(pair->conn));
    }
    if (!hold)
        peer_flush(&pair->peer);
}

void
pair_begin(struct pair *pair, const struct options *options)
{
    int fds[2], result;

    memset(pair, 0, sizeof(*pair));
    if (options->local)
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0, "socketpair");
    else
        connect_tcp(fds, options->ipv6);
    pair->fd = fds[0];
    if (options->protocol)
        CHECK(setsockopt(fds[0], IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) == 0, "TCP_ULP: %s",
              strerror(errno));
    pair->ctx = options->ctx != NULL ? options->ctx : make_ctx();
    pair->agent = tlsagent_open(NULL);
    pair->conn = tlsagent_accept_fd(pair->agent,
                                    options->context != NULL ? options->context : "www", pair->fd);
    CHECK(pair->conn != NULL, "%s", tlsagent_agent_error(pair->agent));
    CHECK(tlsagent_set_forms(pair->conn, options->forms != 0 ? options->forms
                                         : setup.kernel      ? TLSAGENT_FORM_KERNEL
                                                             : TLSAGENT_FORM_RECORDS) == 0,
          "%s", tlsagent_error(pair->conn));
    fcntl(pair->fd, F_SETFL, O_NONBLOCK);
    result = tlsagent_handshake(pair->conn);
    CHECK(result == TLSAGENT_WANT_POLLIN, "handshake: %s", tlsagent_error(pair->conn));
    peer_start_on(&pair->peer, pair->ctx, fds[1]);
    if (options->fragment != 0)
        SSL_set_tlsext_max_fragment_length(pair->peer.ssl, options->fragment);
    if (options->session != NULL)
        SSL_set_session(pair->peer.ssl, options->session);
    shake_hands(pair, options->hold);
}

void
pair_finish(struct pair *pair)
{
    fcntl(pair->fd, F_SETFL, 0);
    CHECK(tlsagent_handshake(pair->conn) == 0, "handshake: %s", tlsagent_error(pair->conn));
}

void
pair_open_with(struct pair *pair, const struct options *options)
{
    pair_begin(pair, options);
    pair_finish(pair);
    if (options->forms == 0)
        CHECK(strcmp(tlsagent_conn_form(pair->conn), setup.form) == 0, "the form is %s",
              tlsagent_conn_form(pair->conn));
}

void
pair_open(struct pair *pair)
{
    pair_open_with(pair, &(struct options){0});
}

void
pair_close(struct pair *pair)
{
    tlsagent_abandon(pair->conn);
    tlsagent_free(pair->agent);
    peer_free(&pair->peer);
    close(pair->fd);
}

void
worker_write(struct pair *pair, size_t size, uint64_t offset)
{
    uint8_t *bytes = malloc(size + 1);
    ssize_t n;

    pattern_fill(bytes, size, offset);
    n = tlsagent_write(pair->conn, bytes, size);
    CHECK(n == (ssize_t)size, "write %zu: %zd %s", size, n, tlsagent_error(pair->conn));
    free(bytes);
}

void
worker_read(struct pair *pair, size_t size, uint64_t offset)
{
    uint8_t *bytes = malloc(size + 1);

    for (size_t done = 0; done < size;) {
        ssize_t n = tlsagent_read(pair->conn, bytes + done, size - done);

        CHECK(n > 0, "read: %zd after %zu bytes: %s", n, done, tlsagent_error(pair->conn));
        done += (size_t)n;
    }
    pattern_check(bytes, size, offset);
    free(bytes);
}

void
client_write(struct pair *pair, size_t size, uint64_t offset)
{
    uint8_t *bytes = malloc(size + 1);

    pattern_fill(bytes, size, offset);
    if (size > 0)
        peer_write(&pair->peer, bytes, size);
    free(bytes);
}

void
client_read(struct pair *pair, size_t size, uint64_t offset)
{
    uint8_t bytes[16384];

    while (size > 0) {
        size_t n = size < sizeof(bytes) ? size : sizeof(bytes);

        peer_read_exactly(&pair->peer, bytes, n);
        pattern_check(bytes, n, offset);
        pair->peer.wire_size = 0; /* nobody looks at it, and it would be all of a large transfer */
        offset += n;
        size -= n;
    }
}

void
pair_echo(struct pair *pair)
{
    client_write(pair, 100, 0);
    worker_read(pair, 100, 0);
    worker_write(pair, 100, 7);
    client_read(pair, 100, 7);
}

void
expect_read_error(struct pair *pair, int code)
{
    uint8_t bytes[65536];
    ssize_t n;

    for (int again = 0; again < 2; again++) { /* it stays */
        n = tlsagent_read(pair->conn, bytes, sizeof(bytes));
        CHECK(n == -1 && tlsagent_error_code(pair->conn) == code, "read: %zd, code %d: %s", n,
              tlsagent_error_code(pair->conn), tlsagent_error(pair->conn));
    }
}

void
expect_clean_end(struct pair *pair)
{
    uint8_t byte;

    for (int again = 0; again < 2; again++)
        CHECK(tlsagent_read(pair->conn, &byte, 1) == 0, "%s", tlsagent_error(pair->conn));
}

/* ---- running ---- */

/* Returns true if it passed. */
static bool
run_case(const struct test_case *test, const char *name)
{
    double started = peer_seconds();
    pid_t child;
    int status;

    fflush(stdout);
    child = fork();
    if (child == 0) {
        signal(SIGPIPE, SIG_DFL);
        alarm(CASE_SECONDS);
        test->run();
        fflush(stdout);
        _exit(0);
    }
    CHECK(child != -1 && waitpid(child, &status, 0) == child, "fork: %s", strerror(errno));
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        printf("ok %s (%.1f)\n", name, peer_seconds() - started);
        return true;
    }
    printf("FAIL %s\n    (%s %d)\n", name, WIFSIGNALED(status) ? "signal" : "exit status",
           WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    return false;
}

static int
run_table(const struct test_case *cases, const char *word)
{
    int failures = 0;
    char name[128];

    for (const struct test_case *test = cases; test->name != NULL; test++) {
        if ((test->when & KERNEL && !setup.kernel) || (test->when & RECORDS && setup.kernel))
            continue;
        for (int version = 12; version <= 13; version++) {
            if (version == 12 && (test->when & (TLS13 | ONCE)) != 0)
                continue;
            setup.version = version;
            snprintf(name, sizeof(name), "%s_%s%s", setup.form, test->name,
                     (test->when & (TLS13 | ONCE)) != 0 ? ""
                     : version == 12                    ? "_tls12"
                                                        : "_tls13");
            if (word == NULL || strstr(name, word) != NULL)
                failures += !run_case(test, name);
        }
    }
    return failures;
}

int
main(int argc, char **argv)
{
    int failures = 0;

    if (argc == 2 && strcmp(argv[1], "table") == 0) {
        bool good = table_print();

        puts(good ? "ok selftest_table (0.0)" : "FAIL selftest_table");
        return !good;
    }
    if (argc < 2 || getenv("FORMS_CA") == NULL) {
        fputs("usage: FORMS_CA=FILE forms kernel|records [WORD] | forms table\n", stderr);
        return 2;
    }
    setup.form = argv[1];
    setup.kernel = strcmp(argv[1], "kernel") == 0;
    failures += run_table(data_cases, argv[2]);
    failures += run_table(socket_cases, argv[2]);
    failures += run_table(end_cases, argv[2]);
    failures += run_table(form_cases, argv[2]);
    return failures > 0;
}
