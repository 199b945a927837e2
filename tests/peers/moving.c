/*
 * moving.c: many clients of an echo server that all talk and listen at once, for the tests of
 * moving connections. Every byte is checked against its connection and its place in it.
 *
 *   moving PORT CA N     N connections, TLS 1.2 and 1.3 in turn, keys changing in 1.3 (not if $FORM
 *                        is "kernel", where Linux 6.1 could not follow); "running" when each has
 *                        heard something; until stdin ends; then each says its close_notify,
 *                        hears the rest and the server's close_notify
 *
 * The last line counts; the exit status is 1 if any connection failed, stalled or got a wrong byte.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>

#include "tests/peers/peer.h"

#define WINDOW     65536 /* bytes under way per connection */
#define CHUNK_MAX  9000
#define STALLED_MS 30000

struct connection {
    SSL *ssl;
    int fd;
    unsigned number, chunks;
    uint64_t sent, got;
    size_t unsent; /* of a chunk that SSL_write wants again */
    bool closing, over, heard;
    uint32_t events;
};

static bool stop, keys_stay;
static unsigned target, heard, over;
static uint64_t bytes, updates;

static uint8_t
expected(const struct connection *c, uint64_t at)
{
    return (uint8_t)(peer_pattern((size_t)(at % 1000003)) + c->number * 37 + (unsigned)(at >> 16));
}

static void
watch(int epoll, struct connection *c, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};

    if (c->events == events)
        return;
    CHECK(epoll_ctl(epoll, c->events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, c->fd, &event) == 0,
          "epoll_ctl: %s", strerror(errno));
    c->events = events;
}

static void
open_connection(struct connection *c, int port, SSL_CTX *ctx)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(c->fd != -1 && connect(c->fd, (struct sockaddr *)&address, sizeof(address)) == 0,
          "connect: %s", strerror(errno));
    c->ssl = SSL_new(ctx);
    CHECK(c->ssl != NULL && SSL_set_fd(c->ssl, c->fd) == 1, "no memory");
    SSL_set_tlsext_host_name(c->ssl, "localhost");
    SSL_set1_host(c->ssl, "localhost");
    CHECK(SSL_connect(c->ssl) == 1, "handshake of connection %u", c->number);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
}

/* Say a piece; false: not now. */
static bool
say_more(struct connection *c)
{
    static uint8_t chunk[CHUNK_MAX];
    size_t size = c->unsent, n;

    if (size == 0) {
        if (stop || c->sent - c->got > WINDOW)
            return false;
        size = 1 + (size_t)(c->number * 131 + c->chunks * 7919) % CHUNK_MAX;
        if (c->chunks++ % 8 == 7 && SSL_version(c->ssl) == TLS1_3_VERSION && !keys_stay) {
            CHECK(SSL_key_update(c->ssl, SSL_KEY_UPDATE_REQUESTED) == 1, "key update");
            updates++;
        }
    }
    for (size_t i = 0; i < size; i++)
        chunk[i] = expected(c, c->sent + i);
    if (SSL_write_ex(c->ssl, chunk, size, &n) != 1) {
        int error = SSL_get_error(c->ssl, 0);

        CHECK(error == SSL_ERROR_WANT_WRITE || error == SSL_ERROR_WANT_READ,
              "connection %u: write failed (%d) after %llu bytes", c->number, error,
              (unsigned long long)c->sent);
        c->unsent = size;
        return false;
    }
    CHECK(n == size, "partial write");
    c->unsent = 0;
    c->sent += size;
    return true;
}

/* Hear a piece; false: not now. */
static bool
hear_more(struct connection *c)
{
    static uint8_t chunk[16384];
    int error;
    size_t n;

    if (SSL_read_ex(c->ssl, chunk, sizeof(chunk), &n) == 1) {
        for (size_t i = 0; i < n; i++)
            CHECK(chunk[i] == expected(c, c->got + i), "connection %u: byte %llu is wrong",
                  c->number, (unsigned long long)(c->got + i));
        c->got += n;
        bytes += n;
        CHECK(c->got <= c->sent + c->unsent, "connection %u: more than was said", c->number);
        if (!c->heard && ++heard == target) {
            printf("running\n");
            fflush(stdout);
        }
        c->heard = true;
        return true;
    }
    error = SSL_get_error(c->ssl, 0);
    if (error == SSL_ERROR_ZERO_RETURN) {
        CHECK(c->closing && c->got == c->sent, "connection %u: closed %llu bytes too early",
              c->number, (unsigned long long)(c->sent - c->got));
        c->over = true;
        over++;
        return false;
    }
    CHECK(error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE,
          "connection %u: read failed (%d) after %llu bytes", c->number, error,
          (unsigned long long)c->got);
    return false;
}

static void
step(int epoll, struct connection *c)
{
    bool more = true;

    for (int i = 0; i < 8 && more && !c->over; i++) {
        ERR_clear_error();
        more = say_more(c);
        more |= hear_more(c);
    }
    if (stop && !c->closing && c->unsent == 0) {
        int rc = SSL_shutdown(c->ssl);

        c->closing = rc >= 0;
        more = true;
    }
    if (c->over)
        epoll_ctl(epoll, EPOLL_CTL_DEL, c->fd, NULL);
    else
        watch(epoll, c,
              more || c->unsent > 0 || (stop && !c->closing) ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

int
main(int argc, char **argv)
{
    struct epoll_event events[256];
    struct connection *all;
    struct rlimit files;
    SSL_CTX *ctx[2];
    int epoll;

    CHECK(argc == 4, "usage: moving PORT CA N");
    keys_stay = getenv("FORM") != NULL && strcmp(getenv("FORM"), "kernel") == 0;
    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    target = (unsigned)atoi(argv[3]);
    all = calloc(target, sizeof(*all));
    epoll = epoll_create1(EPOLL_CLOEXEC);
    CHECK(all != NULL && epoll != -1, "start");
    ctx[0] = peer_ctx(12, argv[2]);
    ctx[1] = peer_ctx(13, argv[2]);
    for (unsigned i = 0; i < target; i++) {
        all[i].number = i;
        open_connection(&all[i], atoi(argv[1]), ctx[i % 2]);
    }
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, 0,
                    &(struct epoll_event){.events = EPOLLIN, .data.ptr = NULL}) == 0,
          "stdin must be a pipe");
    for (unsigned i = 0; i < target; i++)
        step(epoll, &all[i]);
    while (over < target) {
        int count = epoll_wait(epoll, events, 256, STALLED_MS);

        CHECK(count > 0 || errno == EINTR, "stalled: %u of %u are over", over, target);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr != NULL) {
                step(epoll, events[i].data.ptr);
                continue;
            }
            stop = true;
            epoll_ctl(epoll, EPOLL_CTL_DEL, 0, NULL);
            for (unsigned k = 0; k < target; k++)
                if (!all[k].over)
                    step(epoll, &all[k]);
        }
    }
    printf("%u connections, %llu bytes back, %llu key updates, all as they were sent\n", over,
           (unsigned long long)bytes, (unsigned long long)updates);
    for (unsigned i = 0; i < target; i++) {
        SSL_free(all[i].ssl);
        close(all[i].fd);
    }
    SSL_CTX_free(ctx[0]);
    SSL_CTX_free(ctx[1]);
    free(all);
    return 0;
}
