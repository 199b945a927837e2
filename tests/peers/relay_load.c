/*
 * relay_load.c: many TLS connections through `tlsagent serve --to`, with an echo server behind it.
 *
 *   relay_load echo                       an echo server: prints "port N", echoes until killed
 *   relay_load run PORT CA COUNT SEED     COUNT connections at once, each with a fate of its own
 *
 * Fates: to send bytes, end with close_notify and get all of them back behind which the end is
 * clean; the same with stalls; to go away in the middle by a reset, or by a plain FIN. Prints
 * "running" when all have had a byte back, and at the end one line of counts. Exit status 0 if
 * nothing was lost.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#define PATTERN 65521
#define STACK   (96 * 1024)

enum fate { WHOLE, STALLS, RESET, CUT, FATES };

struct line {
    pthread_t thread;
    unsigned seed;
    enum fate fate;
    size_t size; /* bytes to send */
    size_t stop; /* RESET, CUT: after so many */
};

static uint8_t pattern[PATTERN * 2];
static int port;
static SSL_CTX *context;
static atomic_size_t connected, whole, lost, gone;
static atomic_ullong echoed;

static void
nap(unsigned *seed, unsigned most_ms)
{
    struct timespec time = {.tv_nsec = (long)((unsigned)rand_r(seed) % most_ms) * 1000000};

    nanosleep(&time, NULL);
}

static int
start(pthread_t *thread, void *(*run)(void *), void *argument)
{
    pthread_attr_t attributes;
    int rc;

    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    rc = pthread_create(thread, &attributes, run, argument);
    pthread_attr_destroy(&attributes);
    return rc;
}

/* ---- the server ---- */

static void *
echo_one(void *argument)
{
    int fd = (int)(intptr_t)argument;
    unsigned seed = (unsigned)fd * 77U;
    char data[16384];
    ssize_t size, sent, n;

    while ((size = recv(fd, data, sizeof(data), 0)) > 0) {
        if (rand_r(&seed) % 200 == 0)
            nap(&seed, 300);
        for (sent = 0; sent < size; sent += n) {
            n = send(fd, data + sent, (size_t)(size - sent), MSG_NOSIGNAL);
            if (n <= 0)
                break;
        }
        if (sent < size)
            break;
    }
    close(fd);
    return NULL;
}

static int
echo(void)
{
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(here);
    int fd, listener = socket(AF_INET, SOCK_STREAM, 0);
    pthread_t thread;

    if (bind(listener, (struct sockaddr *)&here, sizeof(here)) == -1 ||
        listen(listener, 4096) == -1 ||
        getsockname(listener, (struct sockaddr *)&here, &size) == -1)
        return 1;
    printf("port %d\n", ntohs(here.sin_port));
    fflush(stdout);
    while ((fd = accept(listener, NULL, NULL)) != -1) {
        if (start(&thread, echo_one, (void *)(intptr_t)fd) != 0)
            close(fd);
        else
            pthread_detach(thread);
    }
    return 1;
}

/* ---- the clients ---- */

/* False: it was said why. */
static bool
open_line(struct line *line, SSL *ssl, int *fd)
{
    struct sockaddr_in there = {.sin_family = AF_INET,
                                .sin_port = htons((uint16_t)port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    uint8_t byte;

    *fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(*fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (connect(*fd, (struct sockaddr *)&there, sizeof(there)) == -1) {
        fprintf(stderr, "connect: %s\n", strerror(errno));
        return false;
    }
    SSL_set_fd(ssl, *fd);
    SSL_set_tlsext_host_name(ssl, "localhost");
    if (SSL_connect(ssl) != 1) {
        fprintf(stderr, "handshake of line %u failed\n", line->seed);
        return false;
    }
    /* The first byte comes back: now the connection is with the relay for sure. (A TLS 1.3 client
     * believes that it is connected when the agent may still be at work.) */
    if (SSL_write(ssl, pattern, 1) != 1 || SSL_read(ssl, &byte, 1) != 1 || byte != pattern[0]) {
        fprintf(stderr, "line %u: no first byte\n", line->seed);
        return false;
    }
    fcntl(*fd, F_SETFL, O_NONBLOCK);
    return true;
}

/* Take what comes. -1: the end (*clean says which). */
static int
take(struct line *line, SSL *ssl, size_t *received, bool *clean)
{
    uint8_t data[16384];
    int size = SSL_read(ssl, data, sizeof(data));

    if (size > 0) {
        if (memcmp(data, pattern + *received % PATTERN, (size_t)size) != 0) {
            fprintf(stderr, "line %u: wrong bytes at %zu\n", line->seed, *received);
            return -1;
        }
        *received += (size_t)size;
        return 1;
    }
    if (SSL_get_error(ssl, size) == SSL_ERROR_WANT_READ)
        return 0;
    *clean = SSL_get_error(ssl, size) == SSL_ERROR_ZERO_RETURN;
    return -1;
}

/* Exchange until the fate is fulfilled. True: nothing was lost. */
static bool
exchange(struct line *line, SSL *ssl, int fd)
{
    size_t sent = 1, received = 1; /* open_line() has done the first */
    bool closed = false, clean = false;
    int size, got, idle;

    for (;;) {
        bool moved = false;
        struct pollfd poll_fd = {fd, POLLIN, 0};

        if (line->fate == STALLS && (unsigned)rand_r(&line->seed) % 16 == 0)
            nap(&line->seed, 400);
        if (sent < line->size) {
            size_t want = 1 + (size_t)rand_r(&line->seed) % 20000;

            want = want < line->size - sent ? want : line->size - sent;
            size = SSL_write(ssl, pattern + sent % PATTERN, (int)want);
            if (size > 0) {
                sent += (size_t)size;
                moved = true;
            } else if (SSL_get_error(ssl, size) != SSL_ERROR_WANT_WRITE &&
                       SSL_get_error(ssl, size) != SSL_ERROR_WANT_READ)
                break;
        } else if (!closed) {
            closed = SSL_shutdown(ssl) >= 0;
            moved = closed;
        }
        if ((line->fate == RESET || line->fate == CUT) && sent >= line->stop)
            return true;
        while ((got = take(line, ssl, &received, &clean)) == 1)
            moved = true;
        if (got == -1)
            break;
        if (moved)
            continue;
        poll_fd.events |= sent < line->size ? POLLOUT : 0;
        idle = poll(&poll_fd, 1, 60000);
        if (idle == 0)
            break;
    }
    atomic_fetch_add(&echoed, received);
    if (received == line->size && clean)
        return true;
    fprintf(stderr, "line %u, fate %d: %zu of %zu bytes, %s end\n", line->seed, (int)line->fate,
            received, line->size, clean ? "clean" : "no clean");
    return false;
}

static void *
run_line(void *argument)
{
    struct line *line = argument;
    struct linger none = {1, 0};
    int fd = -1;
    SSL *ssl = SSL_new(context);
    bool good = open_line(line, ssl, &fd);

    atomic_fetch_add(&connected, 1);
    good = good && exchange(line, ssl, fd);
    atomic_fetch_add(!good ? &lost : line->fate >= RESET ? &gone : &whole, 1);
    if (line->fate == RESET)
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
    close(fd);
    SSL_free(ssl);
    return NULL;
}

static int
run(const char *ca, size_t count, unsigned seed)
{
    static struct line *lines; /* live to the end */
    struct timespec nap_time = {.tv_nsec = 10000000};

    lines = calloc(count, sizeof(*lines));
    context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
    if (lines == NULL || SSL_CTX_load_verify_locations(context, ca, NULL) != 1)
        return 2;
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    for (size_t i = 0; i < count; i++) {
        struct line *line = &lines[i];

        line->seed = seed + (unsigned)i;
        line->fate = (enum fate)((unsigned)rand_r(&line->seed) % FATES);
        line->size = 1 + (size_t)rand_r(&line->seed) % 400000;
        line->stop = (size_t)rand_r(&line->seed) % line->size;
        if (start(&line->thread, run_line, line) != 0)
            return 2;
    }
    while (atomic_load(&connected) < count)
        nanosleep(&nap_time, NULL);
    printf("running\n");
    fflush(stdout);
    for (size_t i = 0; i < count; i++)
        pthread_join(lines[i].thread, NULL);
    printf("done: %zu whole, %zu gone on purpose, %zu lost; %llu bytes came back\n",
           atomic_load(&whole), atomic_load(&gone), atomic_load(&lost), atomic_load(&echoed));
    return atomic_load(&lost) == 0 ? 0 : 1;
}

int
main(int argc, char **argv)
{
    struct rlimit files;

    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max; /* a plain user's is too small for two thousand connections */
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < sizeof(pattern); i++)
        pattern[i] = (uint8_t)((i % PATTERN) * (i % PATTERN) >> 5);
    if (argc == 2 && strcmp(argv[1], "echo") == 0)
        return echo();
    if (argc == 6 && strcmp(argv[1], "run") == 0) {
        port = atoi(argv[2]);
        return run(argv[3], (size_t)atoi(argv[4]), (unsigned)atoi(argv[5]));
    }
    fprintf(stderr, "usage: relay_load echo | run PORT CA COUNT SEED\n");
    return 2;
}
