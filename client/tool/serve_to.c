/*
 * serve_to.c: `tlsagent serve --to`: in front of a plaintext server, that is reached by TCP or by a
 * Unix socket; with --proxy-protocol it is told who the client is (PROXY protocol, version 2: the
 * specification is haproxy's doc/proxy-protocol.txt).
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "client/tool/serve.h"
#include "protocol/wire.h"

#define COMPLAIN_MS 1000  /* a server that is down is told of once in so long */
#define BUSY_MS     10000 /* so long it may be too busy to accept */
#define HEADER_MAX  1024

enum {
    PROXY_VERSION_2 = 0x21, /* and the command PROXY */
    PROXY_UNSPEC = 0x00,
    PROXY_TCP4 = 0x11,
    PROXY_TCP6 = 0x21,
    TLV_ALPN = 0x01,
    TLV_AUTHORITY = 0x02,
    TLV_SSL = 0x20,
    TLV_SSL_VERSION = 0x21,
    TLV_SSL_CIPHER = 0x23,
    CLIENT_SSL = 0x01,
    CLIENT_CERT_CONN = 0x02,
    CLIENT_CERT_SESS = 0x04,
};

int
serve_to_resolve(struct serve *serve, const char *to, struct error *error)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct sockaddr_un *local = (struct sockaddr_un *)&serve->to;
    const char *colon = strrchr(to, ':');
    struct addrinfo *found;
    char host[256];
    size_t size;
    int rc;

    if (to[0] == '/') {
        if (strlen(to) >= sizeof(local->sun_path))
            return error_set(error, "--to %s: the path is longer than %zu bytes", to,
                             sizeof(local->sun_path) - 1);
        local->sun_family = AF_UNIX;
        memcpy(local->sun_path, to, strlen(to) + 1);
        serve->to_size = sizeof(*local);
        return 0;
    }
    size = colon != NULL ? (size_t)(colon - to) : 0;
    if (size == 0 || size >= sizeof(host) || colon[1] == '\0')
        return error_set(error, "--to %s: must be HOST:PORT, [ADDRESS]:PORT or /PATH", to);
    if (size > 2 && to[0] == '[' && to[size - 1] == ']') {
        to++;
        size -= 2;
    }
    memcpy(host, to, size);
    host[size] = '\0';
    rc = getaddrinfo(host, colon + 1, &hints, &found);
    if (rc != 0)
        return error_set(error, "--to %s: %s", serve->options->to, gai_strerror(rc));
    memcpy(&serve->to, found->ai_addr, found->ai_addrlen);
    serve->to_size = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

static void
complain(struct serve *serve, int number)
{
    int64_t now = serve_now();

    if (serve->complained != 0 && now - serve->complained < COMPLAIN_MS)
        return;
    serve->complained = now;
    serve_say("--to %s: %s", serve->options->to, strerror(number));
}

/* A Unix socket whose queue is full says EAGAIN, and never when there is room again. */
static bool
is_worth_waiting(const struct serve_conn *conn, int number)
{
    return number == EAGAIN && (conn->busy_until == 0 || serve_now() < conn->busy_until);
}

static void
try_to_connect(struct serve *serve, struct serve_conn *conn)
{
    int number = 0;

    if (connect(conn->event.fd, (struct sockaddr *)&serve->to, serve->to_size) == -1)
        number = errno;
    if (is_worth_waiting(conn, number)) {
        if (conn->busy_until == 0) {
            conn->busy_until = serve_now() + BUSY_MS;
            serve->busy++;
        }
        return;
    }
    if (conn->busy_until != 0)
        serve->busy--;
    conn->busy_until = 0;
    if (number == 0) {
        serve_to_connected(serve, conn);
    } else if (number == EINPROGRESS) {
        if (serve_watch(serve, &conn->event, EPOLLOUT) == -1)
            serve_drop(serve, conn);
    } else {
        complain(serve, number);
        serve_drop(serve, conn);
    }
}

void
serve_to_finished(struct serve *serve, struct serve_conn *conn)
{
    int fd = socket(serve->to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    conn->event = (struct serve_event){SERVE_BACKEND, fd};
    if (fd == -1) {
        complain(serve, errno);
        serve_drop(serve, conn);
        return;
    }
    if (serve->to.ss_family != AF_UNIX)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    try_to_connect(serve, conn);
}

void
serve_to_retry(struct serve *serve)
{
    struct serve_conn *conn, *next;
    bool full = false;

    for (conn = TAILQ_FIRST(&serve->conns); conn != NULL && !full; conn = next) {
        next = TAILQ_NEXT(conn, link);
        if (conn->busy_until == 0)
            continue;
        try_to_connect(serve, conn);
        full = conn->busy_until != 0;
    }
}

/* ---- the PROXY header ---- */

static void
put_tlv(struct wire_writer *writer, uint8_t type, const char *value)
{
    if (value == NULL)
        return;
    wire_put_u8(writer, type);
    wire_put_string(writer, 2, value, strlen(value));
}

/* The addresses as the protocol wants them. Returns their family's byte. */
static uint8_t
put_addresses(struct wire_writer *writer, const struct serve_conn *conn)
{
    const struct sockaddr_storage *ends[] = {&conn->peer, &conn->local};
    const struct sockaddr_in6 *six[] = {(const struct sockaddr_in6 *)ends[0],
                                        (const struct sockaddr_in6 *)ends[1]};
    const struct sockaddr_in *four[] = {(const struct sockaddr_in *)ends[0],
                                        (const struct sockaddr_in *)ends[1]};
    uint8_t family = PROXY_UNSPEC;

    if (ends[0]->ss_family == AF_INET && ends[1]->ss_family == AF_INET) {
        family = PROXY_TCP4;
        for (int i = 0; i < 2; i++)
            wire_put_bytes(writer, &four[i]->sin_addr, 4);
    } else if (ends[0]->ss_family == AF_INET6 && ends[1]->ss_family == AF_INET6) {
        bool mapped = IN6_IS_ADDR_V4MAPPED(&six[0]->sin6_addr);

        family = mapped ? PROXY_TCP4 : PROXY_TCP6;
        for (int i = 0; i < 2; i++)
            wire_put_bytes(writer, six[i]->sin6_addr.s6_addr + (mapped ? 12 : 0), mapped ? 4 : 16);
    }
    if (family != PROXY_UNSPEC) {
        for (int i = 0; i < 2; i++) /* the port is at one place in both */
            wire_put_bytes(writer, &four[i]->sin_port, 2);
    }
    return family;
}

/* Bytes of the header, 0: they do not fit, which cannot be. */
static size_t
make_header(const struct serve_conn *conn, uint8_t *header, size_t room)
{
    static const uint8_t signature[] = {0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d,
                                        0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a};
    const struct tlsagent_conn *tls = conn->conn;
    bool certified = tlsagent_conn_peer_count(tls) > 0;
    uint8_t rest[HEADER_MAX], ssl[256], family, client = CLIENT_SSL;
    struct wire_writer writer, body, sub;

    wire_writer_init(&sub, ssl, sizeof(ssl));
    if (certified)
        client |= CLIENT_CERT_SESS | (tlsagent_conn_resumed(tls) == 1 ? 0 : CLIENT_CERT_CONN);
    wire_put_u8(&sub, client);
    wire_put_u32(&sub, certified ? 0 : 1); /* 0: verified */
    put_tlv(&sub, TLV_SSL_VERSION, tlsagent_conn_version(tls));
    put_tlv(&sub, TLV_SSL_CIPHER, tlsagent_conn_cipher(tls));

    wire_writer_init(&body, rest, sizeof(rest));
    family = put_addresses(&body, conn);
    put_tlv(&body, TLV_ALPN, tlsagent_conn_alpn(tls));
    put_tlv(&body, TLV_AUTHORITY, tlsagent_conn_servername(tls));
    wire_put_u8(&body, TLV_SSL);
    wire_put_string(&body, 2, ssl, wire_size(&sub));

    wire_writer_init(&writer, header, room);
    wire_put_bytes(&writer, signature, sizeof(signature));
    wire_put_u8(&writer, PROXY_VERSION_2);
    wire_put_u8(&writer, family);
    wire_put_string(&writer, 2, rest, wire_size(&body));
    return wire_size(&writer);
}

void
serve_to_connected(struct serve *serve, struct serve_conn *conn)
{
    uint8_t header[HEADER_MAX];
    socklen_t length = sizeof(int);
    int fd = conn->event.fd, number = 0;
    size_t size;

    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &number, &length) == -1)
        number = errno;
    if (number == 0 && serve->options->proxy_protocol) {
        size = make_header(conn, header, sizeof(header));
        /* The first bytes on a new connection: there is room. */
        if (size == 0 || send(fd, header, size, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)size)
            number = EPIPE;
    }
    if (number != 0)
        complain(serve, number);
    else
        (void)serve_give(serve, conn, fd, RELAY_SOCKET, true);
    serve_drop(serve, conn);
}
