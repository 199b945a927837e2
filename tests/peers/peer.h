/*
 * peer.h: a TLS client that keeps the wire in its own hands. For the programs in tests/peers.
 *
 * OpenSSL works on two memory BIOs here; what goes out is sent when and in the pieces that a test
 * wants, and what comes in is kept as it was on the wire. A test that fails says so and exits.
 */
#ifndef TESTS_PEER_H
#define TESTS_PEER_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PEER_TIMEOUT 10000 /* milliseconds */
#define PEER_PATTERN 65521 /* period of the server's pattern */
#define PEER_MAYBE   __attribute__((unused))

#ifdef SANITIZED
/* These programs end with what they have still allocated. */
__attribute__((visibility("default"), weak)) const char *__asan_default_options(void);

PEER_MAYBE const char *
__asan_default_options(void)
{
    return "detect_leaks=0";
}
#endif

#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition))                                                                          \
            peer_fail(__FILE__, __LINE__, #condition, __VA_ARGS__);                                \
    } while (0)

static void peer_fail(const char *file, int line, const char *what, const char *format, ...)
    __attribute__((format(printf, 4, 5), noreturn));

static void
peer_fail(const char *file, int line, const char *what, const char *format, ...)
{
    va_list list;

    fflush(stdout);
    fprintf(stderr, "%s:%d: %s: ", file, line, what);
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fputc('\n', stderr);
    ERR_print_errors_fp(stderr);
    exit(1);
}

struct peer {
    int fd;
    SSL *ssl;
    BIO *in, *out; /* owned by ssl */
    uint8_t *wire; /* everything that came from the server */
    size_t wire_size;
    bool end; /* FIN or reset was seen */
};

static PEER_MAYBE uint8_t
peer_pattern(uint64_t offset)
{
    uint64_t k = offset % PEER_PATTERN;

    return (uint8_t)(k * k >> 5);
}

static PEER_MAYBE double
peer_seconds(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static PEER_MAYBE void
peer_sleep(unsigned milliseconds)
{
    nanosleep(&(struct timespec){.tv_sec = milliseconds / 1000,
                                 .tv_nsec = (long)(milliseconds % 1000) * 1000000},
              NULL);
}

/* Connect to 127.0.0.1. receive_buffer: SO_RCVBUF, 0: the system's. */
static int
peer_connect_tcp(int port, int receive_buffer)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    CHECK(fd != -1, "socket: %s", strerror(errno));
    if (receive_buffer > 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
    CHECK(connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0, "connect to port %d: %s",
          port, strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    return fd;
}

/* version: 12 or 13. ca: file of the CA to trust. */
static PEER_MAYBE SSL_CTX *
peer_ctx(int version, const char *ca)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    int number = version == 12 ? TLS1_2_VERSION : TLS1_3_VERSION;

    CHECK(ctx != NULL, "no memory");
    SSL_CTX_set_min_proto_version(ctx, number);
    SSL_CTX_set_max_proto_version(ctx, number);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    CHECK(SSL_CTX_load_verify_locations(ctx, ca, NULL) == 1, "cannot read %s", ca);
    return ctx;
}

static PEER_MAYBE void
peer_start_on(struct peer *peer, SSL_CTX *ctx, int fd)
{
    memset(peer, 0, sizeof(*peer));
    peer->fd = fd;
    peer->ssl = SSL_new(ctx);
    peer->in = BIO_new(BIO_s_mem());
    peer->out = BIO_new(BIO_s_mem());
    CHECK(peer->ssl != NULL && peer->in != NULL && peer->out != NULL, "no memory");
    BIO_set_mem_eof_return(peer->in, -1);
    SSL_set_bio(peer->ssl, peer->in, peer->out);
    SSL_set_tlsext_host_name(peer->ssl, "localhost");
    SSL_set1_host(peer->ssl, "localhost");
    SSL_set_connect_state(peer->ssl);
}

static PEER_MAYBE void
peer_start(struct peer *peer, SSL_CTX *ctx, int port)
{
    peer_start_on(peer, ctx, peer_connect_tcp(port, 0));
}

static PEER_MAYBE void
peer_free(struct peer *peer)
{
    /* Or OpenSSL would declare the session unfit for resumption. */
    SSL_set_shutdown(peer->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(peer->ssl);
    free(peer->wire);
    close(peer->fd);
}

/* Send bytes; false if the server has closed. */
static PEER_MAYBE bool
peer_send(struct peer *peer, const void *bytes, size_t size)
{
    const uint8_t *next = bytes;

    while (size > 0) {
        ssize_t sent = send(peer->fd, next, size, MSG_NOSIGNAL);

        if (sent == -1 && (errno == EPIPE || errno == ECONNRESET))
            return false;
        CHECK(sent > 0, "send: %s", strerror(errno));
        next += sent;
        size -= (size_t)sent;
    }
    return true;
}

/* Take what OpenSSL wants sent, without sending it. Returns a new buffer. */
static PEER_MAYBE uint8_t *
peer_take(struct peer *peer, size_t *size)
{
    char *bytes;
    long there = BIO_get_mem_data(peer->out, &bytes);
    uint8_t *copy = malloc((size_t)there + 1);

    CHECK(copy != NULL && there >= 0, "no memory");
    memcpy(copy, bytes, (size_t)there);
    (void)BIO_reset(peer->out);
    *size = (size_t)there;
    return copy;
}

static PEER_MAYBE bool
peer_flush(struct peer *peer)
{
    size_t size;
    uint8_t *bytes = peer_take(peer, &size);
    bool sent = peer_send(peer, bytes, size);

    free(bytes);
    return sent;
}

/* Receive once from the wire and give it to OpenSSL. False: nothing came in time, or the end. */
static PEER_MAYBE bool
peer_receive_some(struct peer *peer, size_t at_most, int timeout)
{
    uint8_t buffer[65536];
    struct pollfd entry = {.fd = peer->fd, .events = POLLIN};
    ssize_t size;

    if (peer->end || poll(&entry, 1, timeout) != 1)
        return false;
    size = recv(peer->fd, buffer, at_most < sizeof(buffer) ? at_most : sizeof(buffer), 0);
    if (size <= 0) {
        CHECK(size == 0 || errno == ECONNRESET, "recv: %s", strerror(errno));
        peer->end = true;
        return false;
    }
    peer->wire = realloc(peer->wire, peer->wire_size + (size_t)size);
    CHECK(peer->wire != NULL, "no memory");
    memcpy(peer->wire + peer->wire_size, buffer, (size_t)size);
    peer->wire_size += (size_t)size;
    BIO_write(peer->in, buffer, (int)size);
    return true;
}

static PEER_MAYBE bool
peer_receive(struct peer *peer, int timeout)
{
    return peer_receive_some(peer, SIZE_MAX, timeout);
}

/* Handshake, but keep our last flight (hold) in peer->out. */
static PEER_MAYBE void
peer_handshake(struct peer *peer, bool hold)
{
    int result;

    while ((result = SSL_do_handshake(peer->ssl)) != 1) {
        CHECK(SSL_get_error(peer->ssl, result) == SSL_ERROR_WANT_READ, "handshake failed");
        peer_flush(peer);
        CHECK(peer_receive(peer, PEER_TIMEOUT), "server %s during the handshake",
              peer->end ? "closed" : "said nothing");
    }
    if (!hold)
        peer_flush(peer);
}

static PEER_MAYBE void
peer_write(struct peer *peer, const void *bytes, size_t size)
{
    CHECK(SSL_write(peer->ssl, bytes, (int)size) == (int)size, "SSL_write");
    peer_flush(peer);
}

/* Read some plaintext. 0: close_notify; -1: FIN without; other errors fail. */
static PEER_MAYBE int
peer_read(struct peer *peer, void *buffer, size_t size)
{
    for (;;) {
        int result = SSL_read(peer->ssl, buffer, (int)size);
        int error;

        if (result > 0)
            return result;
        error = SSL_get_error(peer->ssl, result);
        if (error == SSL_ERROR_ZERO_RETURN)
            return 0;
        CHECK(error == SSL_ERROR_WANT_READ, "SSL_read: error %d", error);
        peer_flush(peer); /* an answer to a KeyUpdate, perhaps */
        if (!peer_receive(peer, PEER_TIMEOUT)) {
            CHECK(peer->end, "server said nothing for %d ms", PEER_TIMEOUT);
            return -1;
        }
    }
}

static PEER_MAYBE void
peer_read_exactly(struct peer *peer, void *buffer, size_t size)
{
    uint8_t *next = buffer;

    while (size > 0) {
        int got = peer_read(peer, next, size);

        CHECK(got > 0, "connection ended, %zu bytes missing", size);
        next += got;
        size -= (size_t)got;
    }
}

/* Read an HTTP response's head; returns its Content-Length. head: at least 4096 bytes. */
static PEER_MAYBE uint64_t
peer_read_head(struct peer *peer, char *head)
{
    size_t size = 0;
    const char *length;

    do {
        CHECK(size < 4095, "response head is too long");
        peer_read_exactly(peer, head + size, 1);
        head[++size] = '\0';
    } while (size < 4 || strcmp(head + size - 4, "\r\n\r\n") != 0);
    CHECK(strncmp(head, "HTTP/1.1 200 ", 13) == 0, "answer is not 200 but: %s", head);
    length = strstr(head, "Content-Length: ");
    CHECK(length != NULL, "no Content-Length in %s", head);
    return strtoull(length + 16, NULL, 10);
}

/* Read the answer to GET /bytes/N and check every byte of it. */
static PEER_MAYBE void
peer_read_bytes(struct peer *peer, uint64_t expected)
{
    uint8_t buffer[16384];
    char head[4096];
    uint64_t done = 0, length = peer_read_head(peer, head);

    CHECK(length == expected, "Content-Length %llu instead of %llu", (unsigned long long)length,
          (unsigned long long)expected);
    while (done < length) {
        uint64_t left = length - done;
        int got = peer_read(peer, buffer, left < sizeof(buffer) ? (size_t)left : sizeof(buffer));

        CHECK(got > 0, "connection ended after %llu bytes", (unsigned long long)done);
        for (int i = 0; i < got; i++, done++)
            CHECK(buffer[i] == peer_pattern(done), "byte %llu is wrong", (unsigned long long)done);
    }
}

static PEER_MAYBE void
peer_get_bytes(struct peer *peer, uint64_t size)
{
    char request[128];
    int length =
        snprintf(request, sizeof(request), "GET /bytes/%llu HTTP/1.1\r\nHost: localhost\r\n\r\n",
                 (unsigned long long)size);

    peer_write(peer, request, (size_t)length);
    peer_read_bytes(peer, size);
}

/* GET /, and whether the page says that the session was resumed. */
static PEER_MAYBE bool
peer_get_facts(struct peer *peer)
{
    static const char request[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    char head[4096], page[4096];
    uint64_t size;

    peer_write(peer, request, sizeof(request) - 1);
    size = peer_read_head(peer, head);
    CHECK(size < sizeof(page), "page is too long");
    peer_read_exactly(peer, page, (size_t)size);
    page[size] = '\0';
    return strstr(page, "resumed:        yes") != NULL;
}

/* Close cleanly in both directions. */
static PEER_MAYBE void
peer_close(struct peer *peer)
{
    uint8_t byte;

    SSL_shutdown(peer->ssl);
    peer_flush(peer);
    while (peer_read(peer, &byte, 1) > 0)
        continue;
    peer_free(peer);
}

#endif
