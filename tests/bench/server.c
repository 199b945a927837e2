/*
 * server.c: the benchmark's floor, and the peers' backend.
 *
 *   server PORT --tls PEM [--tickets N]   an epoll server with OpenSSL and the private key in it:
 * what a program costs that keeps its keys itself server PORT                           the same
 * without TLS: what hitch, stunnel and haproxy pass to
 *
 * --workers N processes share one listening socket. GET /bytes/N answers N bytes (zeros), written
 * in pieces of 16 KB; POST takes a body and answers 2 bytes. No more HTTP than the load program
 * speaks.
 */
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "tests/peers/peer.h"

#define PIECE 16384

struct client {
    SSL *ssl; /* NULL: plain */
    int fd;
    uint32_t events;
    bool ready; /* the handshake is done */
    bool answering;
    uint64_t body_left; /* of a request, to be read */
    uint64_t left;      /* of the answer's body */
    char in[2048];
    size_t in_size;
    char out[256];
    size_t out_size, out_sent;
};

static struct {
    int epoll, listener;
    SSL_CTX *ctx;
} server;

static const uint8_t zeros[PIECE];

static void
client_end(struct client *client)
{
    if (client->ssl != NULL) {
        if (client->ready)
            SSL_shutdown(client->ssl);
        SSL_free(client->ssl);
    }
    ERR_clear_error();
    close(client->fd);
    free(client);
}

static void
watch(struct client *client, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = client};

    if (client->events == events)
        return;
    epoll_ctl(server.epoll, client->events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, client->fd,
              &event);
    client->events = events;
}

/* The result of a call: more than 0, or 0 when the client is over (and freed) or waits. */
static size_t
outcome(struct client *client, ssize_t result, bool writing)
{
    if (result > 0)
        return (size_t)result;
    if (client->ssl != NULL) {
        int error = SSL_get_error(client->ssl, (int)result);

        if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
            watch(client, error == SSL_ERROR_WANT_READ ? EPOLLIN : EPOLLOUT);
            return 0;
        }
    } else if (result == -1 && errno == EAGAIN) {
        watch(client, writing ? EPOLLOUT : EPOLLIN);
        return 0;
    }
    client_end(client);
    return 0;
}

static size_t
get(struct client *client, void *bytes, size_t size)
{
    return outcome(client,
                   client->ssl != NULL ? SSL_read(client->ssl, bytes, (int)size)
                                       : recv(client->fd, bytes, size, 0),
                   false);
}

static size_t
put(struct client *client, const void *bytes, size_t size)
{
    return outcome(client,
                   client->ssl != NULL ? SSL_write(client->ssl, bytes, (int)size)
                                       : send(client->fd, bytes, size, MSG_NOSIGNAL),
                   true);
}

/* A whole head is there: prepare its answer. */
static void
take_head(struct client *client, char *end)
{
    char *length;

    end[2] = '\0';
    length = strcasestr(client->in, "\r\ncontent-length:");
    client->body_left = length != NULL ? strtoull(length + 17, NULL, 10) : 0;
    client->left =
        strncmp(client->in, "GET /bytes/", 11) == 0 ? strtoull(client->in + 11, NULL, 10) : 2;
    client->in_size -= (size_t)(end + 4 - client->in);
    client->body_left -= client->in_size < client->body_left ? client->in_size : client->body_left;
    client->in_size = 0; /* the load program does not pipeline */
    client->out_size = (size_t)snprintf(client->out, sizeof(client->out),
                                        "HTTP/1.1 200 OK\r\nContent-Length: %llu\r\n\r\n",
                                        (unsigned long long)client->left);
    client->out_sent = 0;
    client->answering = true;
}

static bool
step_answer(struct client *client)
{
    static uint8_t body[PIECE];
    size_t done;

    if (client->body_left > 0) {
        done = get(client, body, client->body_left < PIECE ? (size_t)client->body_left : PIECE);
        client->body_left -= done;
        return done > 0;
    }
    if (client->out_sent < client->out_size) {
        /* A short body goes with its head. */
        if (client->left + client->out_size <= sizeof(client->out)) {
            memset(client->out + client->out_size, 0, (size_t)client->left);
            client->out_size += (size_t)client->left;
            client->left = 0;
        }
        done = put(client, client->out + client->out_sent, client->out_size - client->out_sent);
        if (done == 0)
            return false;
        client->out_sent += done;
        return true;
    }
    if (client->left > 0) {
        done = put(client, zeros, client->left < PIECE ? (size_t)client->left : PIECE);
        if (done == 0)
            return false;
        client->left -= done;
        return true;
    }
    client->answering = false;
    return true;
}

static bool
step_request(struct client *client)
{
    size_t done =
        get(client, client->in + client->in_size, sizeof(client->in) - 1 - client->in_size);
    char *end;

    if (done == 0)
        return false;
    client->in_size += done;
    client->in[client->in_size] = '\0';
    end = strstr(client->in, "\r\n\r\n");
    if (end != NULL) {
        take_head(client, end);
    } else if (client->in_size == sizeof(client->in) - 1) {
        client_end(client);
        return false;
    }
    return true;
}

static void
client_step(struct client *client)
{
    if (!client->ready) {
        int result = SSL_accept(client->ssl);

        if (outcome(client, result, false) == 0)
            return;
        client->ready = true;
    }
    while (client->answering ? step_answer(client) : step_request(client))
        continue;
}

static void
accept_clients(void)
{
    for (int i = 0; i < 64; i++) {
        int fd = accept4(server.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        struct client *client;

        if (fd == -1)
            return;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        client = calloc(1, sizeof(*client));
        CHECK(client != NULL, "no memory");
        client->fd = fd;
        client->ready = server.ctx == NULL;
        if (server.ctx != NULL) {
            client->ssl = SSL_new(server.ctx);
            CHECK(client->ssl != NULL, "no memory");
            SSL_set_fd(client->ssl, fd);
            SSL_set_accept_state(client->ssl);
        }
        client_step(client);
    }
}

static void
worker(void)
{
    struct epoll_event events[256];
    struct epoll_event event = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.ptr = NULL};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    server.epoll = epoll_create1(EPOLL_CLOEXEC);
    CHECK(epoll_ctl(server.epoll, EPOLL_CTL_ADD, server.listener, &event) == 0, "epoll");
    for (;;) {
        int count = epoll_wait(server.epoll, events, 256, -1);

        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == NULL)
                accept_clients();
            else
                client_step(events[i].data.ptr);
        }
    }
}

static void
make_ctx(const char *pem, int tickets)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());

    CHECK(ctx != NULL, "no memory");
    CHECK(SSL_CTX_use_certificate_chain_file(ctx, pem) == 1 &&
              SSL_CTX_use_PrivateKey_file(ctx, pem, SSL_FILETYPE_PEM) == 1,
          "%s", pem);
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_num_tickets(ctx, (size_t)tickets);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                              SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    server.ctx = ctx;
}

int
main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct rlimit files;
    const char *pem = NULL;
    int workers = 1, tickets = 2;

    CHECK(argc >= 2, "usage: server PORT [--tls PEM] [--tickets N] [--workers N]");
    address.sin_port = htons((uint16_t)atoi(argv[1]));
    for (int i = 2; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--tls") == 0)
            pem = argv[i + 1];
        else if (strcmp(argv[i], "--tickets") == 0)
            tickets = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--workers") == 0)
            workers = atoi(argv[i + 1]);
        else
            CHECK(false, "option %s", argv[i]);
    }
    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (pem != NULL)
        make_ctx(pem, tickets);
    server.listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(server.listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    CHECK(bind(server.listener, (struct sockaddr *)&address, sizeof(address)) == 0 &&
              listen(server.listener, 4096) == 0,
          "port %s: %s", argv[1], strerror(errno));
    for (int i = 0; i < workers; i++) {
        pid_t pid = fork();

        CHECK(pid != -1, "fork");
        if (pid == 0)
            worker();
    }
    while (wait(NULL) > 0)
        continue;
    return 0;
}
