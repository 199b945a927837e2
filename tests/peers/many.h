/*
 * many.h: many TLS clients in one epoll loop, with OpenSSL on non-blocking sockets. What the load
 * programs of tests/peers and tests/bench share: connecting, waiting, the limit of descriptors.
 */
#ifndef TESTS_MANY_H
#define TESTS_MANY_H

#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>

#include "tests/peers/peer.h"

/* The first member of a program's own connection, which is what epoll_event.data.ptr says. */
struct many {
    SSL *ssl;
    int fd;
    uint32_t events; /* that epoll watches for */
};

static int many_epoll;

/* First of all: as many descriptors as there may be, and the epoll set. */
static void
many_begin(void)
{
    struct rlimit files;

    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    many_epoll = epoll_create1(EPOLL_CLOEXEC);
    CHECK(many_epoll != -1, "epoll: %s", strerror(errno));
}

static void
many_watch(struct many *many, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = many};

    if (many->events == events)
        return;
    CHECK(epoll_ctl(many_epoll, many->events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, many->fd,
                    &event) == 0,
          "epoll_ctl: %s", strerror(errno));
    many->events = events;
}

/* Begin to connect to 127.0.0.1; SSL_do_handshake() is next. */
static void
many_connect(struct many *many, SSL_CTX *ctx, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    many->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK(many->fd != -1, "socket: %s", strerror(errno));
    setsockopt(many->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (connect(many->fd, (struct sockaddr *)&address, sizeof(address)) == -1)
        CHECK(errno == EINPROGRESS, "connect: %s", strerror(errno));
    many->ssl = SSL_new(ctx);
    CHECK(many->ssl != NULL, "no memory");
    SSL_set_fd(many->ssl, many->fd);
    SSL_set_tlsext_host_name(many->ssl, "localhost");
    SSL_set_connect_state(many->ssl);
    many_watch(many, EPOLLOUT);
}

/* The result of an SSL call: true if it is to be repeated when the socket is ready. */
static bool
many_waits(struct many *many, int result)
{
    switch (SSL_get_error(many->ssl, result)) {
    case SSL_ERROR_WANT_READ:
        many_watch(many, EPOLLIN);
        return true;
    case SSL_ERROR_WANT_WRITE:
        many_watch(many, EPOLLOUT);
        return true;
    default:
        return false;
    }
}

#endif
