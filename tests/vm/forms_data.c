/* forms_data.c: data in both directions, in every way in which programs move it. Names as in
 * Linux's selftest where a case of that list is meant. */
#include <pthread.h>
#include <sys/epoll.h>

#include "tests/vm/forms.h"

#define RECORD 16384

static void
handshake_and_echo(void)
{
    struct pair pair;

    pair_open(&pair);
    pair_echo(&pair);
    pair_close(&pair);
}

/* ---- sending ---- */

static void
send_file(struct pair *pair, int file, size_t size, size_t chunk, uint64_t offset)
{
    off_t at = 0;

    while ((size_t)at < size) {
        size_t left = size - (size_t)at;
        ssize_t n = tlsagent_sendfile(pair->conn, file, &at, left < chunk ? left : chunk);

        CHECK(n > 0, "sendfile: %zd %s", n, tlsagent_error(pair->conn));
    }
    CHECK(at == (off_t)size && tlsagent_sendfile(pair->conn, file, &at, 1) == 0, "at the end");
    (void)offset;
}

static void
sendfile_one_record(void)
{
    struct pair pair;
    int file = file_make(RECORD);

    pair_open(&pair);
    send_file(&pair, file, RECORD, RECORD, 0);
    client_read(&pair, RECORD, 0);
    pair_close(&pair);
}

static void
send_then_sendfile(void)
{
    struct pair pair;
    int file = file_make(RECORD);

    pair_open(&pair);
    worker_write(&pair, 15, 3);
    send_file(&pair, file, RECORD, RECORD, 0);
    client_read(&pair, 15, 3);
    client_read(&pair, RECORD, 0);
    pair_close(&pair);
}

static void
multi_chunk_sendfile(void)
{
    static const size_t sizes[][2] = {{4096, 4096},  {4096, 1},      {4096, 1000},   {8192, 4096},
                                      {8193, 4097},  {16384, 16384}, {16385, 16385}, {40000, 13},
                                      {4097, 1},     {10240, 2048},  {15460, 100},   {15460, 15360},
                                      {65537, 4096}, {65537, 20000}};
    struct pair pair;

    pair_open(&pair);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        int file = file_make(sizes[i][0]);

        send_file(&pair, file, sizes[i][0], sizes[i][1], 0);
        client_read(&pair, sizes[i][0], 0);
        close(file);
    }
    pair_close(&pair);
}

/* The client reads in a thread of its own what the worker sends. */
struct reader {
    struct pair *pair;
    size_t size;
    pthread_t thread;
};

static void *
read_all(void *argument)
{
    struct reader *reader = argument;

    client_read(reader->pair, reader->size, 0);
    return NULL;
}

static void
sendfile_of(size_t size)
{
    struct pair pair;
    struct reader reader = {.pair = &pair, .size = size};
    int file = file_make(size);
    double started;

    pair_open(&pair);
    started = peer_seconds();
    pthread_create(&reader.thread, NULL, read_all, &reader);
    send_file(&pair, file, reader.size, SIZE_MAX, 0);
    pthread_join(reader.thread, NULL);
    printf("# %zu MB by sendfile, every byte checked, %.1f s\n", reader.size / 1048576,
           peer_seconds() - started);
    pair_close(&pair);
}

static void
sendfile_bulk(void)
{
    sendfile_of(bulk_size());
}

static void
sendfile_large(void)
{
    alarm(300); /* much for an emulated machine */
    sendfile_of(16 * bulk_size());
}

static void
writev_parts(size_t parts, size_t size)
{
    struct pair pair;
    uint8_t *bytes = malloc(parts * size);
    struct iovec *list = calloc(parts, sizeof(*list));
    struct reader reader = {.pair = &pair, .size = parts * size};

    pair_open(&pair);
    pattern_fill(bytes, parts * size, 0);
    for (size_t i = 0; i < parts; i++)
        list[i] = (struct iovec){bytes + i * size, size};
    pthread_create(&reader.thread, NULL, read_all, &reader);
    CHECK(tlsagent_writev(pair.conn, list, (int)parts) == (ssize_t)(parts * size), "writev: %s",
          tlsagent_error(pair.conn));
    pthread_join(reader.thread, NULL);
    pair_close(&pair);
}

static void
sendmsg_single(void)
{
    writev_parts(1, 13);
}

static void
sendmsg_fragmented(void)
{
    writev_parts(5, 4);
}

static void
sendmsg_large(void)
{
    writev_parts(16, RECORD);
}

static void
sendmsg_multiple(void)
{
    writev_parts(100, 100);
}

static void
sendmsg_multiple_stress(void)
{
    writev_parts(1000, 999);
}

static void
recv_max(void)
{
    struct pair pair;

    pair_open(&pair);
    client_write(&pair, RECORD, 0);
    worker_read(&pair, RECORD, 0);
    worker_write(&pair, RECORD, 0);
    client_read(&pair, RECORD, 0);
    pair_close(&pair);
}

static void
recv_small(void)
{
    struct pair pair;

    pair_open(&pair);
    for (size_t size = 1; size <= 20; size++) {
        client_write(&pair, size, size);
        worker_read(&pair, size, size);
    }
    pair_close(&pair);
}

/* ---- receiving ---- */

static void
single_send_multiple_recv(void)
{
    struct pair pair;

    pair_open(&pair);
    client_write(&pair, 32768, 0);
    worker_read(&pair, RECORD, 0);
    worker_read(&pair, RECORD, RECORD);
    pair_close(&pair);
}

static void
multiple_send_single_recv(void)
{
    struct pair pair;

    pair_open(&pair);
    for (size_t i = 0; i < 10; i++)
        client_write(&pair, 10, i * 10);
    peer_sleep(20);
    worker_read(&pair, 100, 0);
    pair_close(&pair);
}

static void
single_send_multiple_recv_non_align(void)
{
    struct pair pair;

    pair_open(&pair);
    client_write(&pair, 15, 0);
    worker_read(&pair, 8, 0);
    worker_read(&pair, 7, 8);
    for (size_t at = 0; at < 32768; at += at == 0 ? 17 : 1023) {
        size_t size = at == 0 ? 17 : 1023;

        if (at == 0)
            client_write(&pair, 32768, 0);
        worker_read(&pair, at + size < 32768 ? size : 32768 - at, at);
    }
    pair_close(&pair);
}

/* A record in many small pieces; in the kernel form also by one call. */
static void
recvmsg_multiple(void)
{
    enum { PIECES = 1024, SIZE = RECORD / PIECES };
    static uint8_t bytes[RECORD];
    struct iovec parts[PIECES];
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = PIECES};
    struct pair pair;

    pair_open(&pair);
    client_write(&pair, RECORD, 0);
    for (size_t i = 0; i < PIECES; i++) {
        parts[i] = (struct iovec){bytes + i * SIZE, SIZE};
        worker_read(&pair, SIZE, i * SIZE);
    }
    if (setup.kernel) {
        client_write(&pair, RECORD, 0);
        CHECK(recvmsg(pair.fd, &message, MSG_WAITALL) == RECORD, "recvmsg: %s", strerror(errno));
        pattern_check(bytes, RECORD, 0);
    }
    pair_close(&pair);
}

static void
recv_nonblock(void)
{
    struct pair pair;
    uint8_t byte;

    pair_open(&pair);
    fcntl(pair.fd, F_SETFL, O_NONBLOCK);
    CHECK(tlsagent_read(pair.conn, &byte, 1) == TLSAGENT_WANT_POLLIN, "nothing is there");
    CHECK(tlsagent_peek(pair.conn, &byte, 1) == TLSAGENT_WANT_POLLIN, "nothing is there");
    client_write(&pair, 1, 0);
    CHECK(poll(&(struct pollfd){.fd = pair.fd, .events = POLLIN}, 1, 1000) == 1, "poll");
    worker_read(&pair, 1, 0);
    pair_close(&pair);
}

static void
recv_peek(void)
{
    struct pair pair;
    uint8_t bytes[200];

    pair_open(&pair);
    client_write(&pair, 100, 0);
    for (int i = 0; i < 100; i++) {
        ssize_t n = tlsagent_peek(pair.conn, bytes, sizeof(bytes));

        CHECK(n == 100, "peek: %zd %s", n, tlsagent_error(pair.conn));
        pattern_check(bytes, 100, 0);
    }
    worker_read(&pair, 100, 0);
    pair_close(&pair);
}

static void
recv_peek_multiple_records(void)
{
    struct pair pair;
    uint8_t bytes[200];
    ssize_t n;

    pair_open(&pair);
    client_write(&pair, 10, 0);
    client_write(&pair, 10, 10);
    client_write(&pair, 10, 20);
    peer_sleep(20);
    n = tlsagent_peek(pair.conn, bytes, sizeof(bytes)); /* perhaps of one record only */
    CHECK(n >= 10, "peek: %zd %s", n, tlsagent_error(pair.conn));
    pattern_check(bytes, (size_t)n, 0);
    worker_read(&pair, 15, 0);
    n = tlsagent_peek(pair.conn, bytes, sizeof(bytes));
    CHECK(n >= 5, "peek: %zd %s", n, tlsagent_error(pair.conn));
    pattern_check(bytes, (size_t)n, 15);
    worker_read(&pair, 15, 15);
    pair_close(&pair);
}

static void
recv_lowat(void)
{
    struct pair pair;
    uint8_t bytes[20];
    int lowat = 8;
    ssize_t n;

    pair_open(&pair);
    CHECK(setsockopt(pair.fd, SOL_SOCKET, SO_RCVLOWAT, &lowat, sizeof(lowat)) == 0, "SO_RCVLOWAT");
    client_write(&pair, 10, 0);
    client_write(&pair, 10, 10);
    n = tlsagent_read(pair.conn, bytes, 5);
    CHECK(n == 5, "%zd", n);
    pattern_check(bytes, 5, 0);
    worker_read(&pair, 15, 5);
    pair_close(&pair);
}

static void
recv_partial(void)
{
    struct pair pair;

    pair_open(&pair);
    client_write(&pair, 25, 0);
    worker_read(&pair, 5, 0);
    worker_read(&pair, 15, 5);
    client_write(&pair, 5, 25);
    worker_read(&pair, 10, 20);
    pair_close(&pair);
}

static void
recv_efault(void)
{
    uint8_t bytes[12];
    struct iovec parts[] = {{bytes, sizeof(bytes)}, {NULL, 1}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    struct pair pair;
    ssize_t n;

    pair_open(&pair);
    client_write(&pair, 10, 0);
    client_write(&pair, 10, 10);
    n = recvmsg(pair.fd, &message, 0); /* the second part is nowhere */
    CHECK(n >= 10 && n <= 12, "recvmsg: %zd %s", n, strerror(errno));
    pattern_check(bytes, (size_t)n, 0);
    client_write(&pair, 10, 20);
    CHECK(tlsagent_read(pair.conn, NULL, 10) == -1, "read into nothing");
    CHECK(tlsagent_error_code(pair.conn) == TLSAGENT_E_SYSTEM, "%s", tlsagent_error(pair.conn));
    pair_close(&pair);
}

/* ---- waiting ---- */

static void
poll_tells(void)
{
    struct pair pair;
    struct pollfd ready;
    uint8_t byte;

    pair_open(&pair);
    ready = (struct pollfd){.fd = pair.fd, .events = POLLIN};
    CHECK(poll(&ready, 1, 20) == 0, "readable although nothing was sent");
    client_write(&pair, 11, 0);
    CHECK(poll(&ready, 1, 1000) == 1, "not readable although data was sent");
    /* A part of a record is left: pending, or the fd, must say so. */
    worker_read(&pair, 4, 0);
    CHECK(tlsagent_pending(pair.conn) > 0 || poll(&ready, 1, 0) == 1, "the rest is not announced");
    worker_read(&pair, 7, 4);
    CHECK(tlsagent_pending(pair.conn) == 0 && poll(&ready, 1, 20) == 0, "still readable");
    fcntl(pair.fd, F_SETFL, O_NONBLOCK);
    CHECK(tlsagent_read(pair.conn, &byte, 1) == TLSAGENT_WANT_POLLIN, "%s",
          tlsagent_error(pair.conn));
    pair_close(&pair);
}

static void
poll_partial_record(void)
{
    struct pair pair;
    struct pollfd ready;
    uint8_t *wire, bytes[10], byte;
    size_t size;

    pair_open(&pair);
    pattern_fill(bytes, sizeof(bytes), 0);
    SSL_write(pair.peer.ssl, bytes, sizeof(bytes));
    wire = peer_take(&pair.peer, &size);
    peer_send(&pair.peer, wire, 7);
    fcntl(pair.fd, F_SETFL, O_NONBLOCK);
    peer_sleep(20);
    CHECK(tlsagent_read(pair.conn, &byte, 1) == TLSAGENT_WANT_POLLIN, "%s",
          tlsagent_error(pair.conn));
    peer_send(&pair.peer, wire + 7, size - 7);
    ready = (struct pollfd){.fd = pair.fd, .events = POLLIN};
    CHECK(poll(&ready, 1, 1000) == 1, "the rest is not noticed");
    worker_read(&pair, 10, 0);
    free(wire);
    pair_close(&pair);
}

static void
epoll_partial_record(void)
{
    struct epoll_event event = {.events = EPOLLIN};
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    uint8_t *wire, bytes[10];
    struct pair pair;
    size_t size;

    pair_open(&pair);
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, pair.fd, &event) == 0, "epoll_ctl");
    CHECK(epoll_wait(epoll, &event, 1, 20) == 0, "readable although nothing was sent");
    pattern_fill(bytes, sizeof(bytes), 0);
    SSL_write(pair.peer.ssl, bytes, sizeof(bytes));
    wire = peer_take(&pair.peer, &size);
    peer_send(&pair.peer, wire, size - 7);
    peer_sleep(20);
    if (setup.kernel) /* it knows what a record is; in the other form the library has to look */
        CHECK(epoll_wait(epoll, &event, 1, 0) == 0, "readable without a whole record");
    peer_send(&pair.peer, wire + size - 7, 7);
    CHECK(epoll_wait(epoll, &event, 1, 1000) == 1, "the rest is not noticed");
    worker_read(&pair, 10, 0);
    CHECK(epoll_wait(epoll, &event, 1, 20) == 0, "still readable");
    free(wire);
    pair_close(&pair);
}

/* Somebody sleeps in poll() while a record comes in two pieces. */
static void
poll_partial_record_asleep(void)
{
    struct pair pair;
    uint8_t *wire, bytes[10];
    size_t size;
    int status;

    pair_open(&pair);
    pattern_fill(bytes, sizeof(bytes), 0);
    SSL_write(pair.peer.ssl, bytes, sizeof(bytes));
    wire = peer_take(&pair.peer, &size);
    if (fork() == 0) {
        struct pollfd ready = {.fd = pair.fd, .events = POLLIN};

        _exit(poll(&ready, 1, PEER_TIMEOUT) == 1 && (ready.revents & POLLIN) != 0 ? 0 : 1);
    }
    peer_sleep(20);
    peer_send(&pair.peer, wire, 9);
    peer_sleep(20);
    if (setup.kernel)
        CHECK(waitpid(-1, &status, WNOHANG) == 0, "woken without a whole record");
    peer_send(&pair.peer, wire + 9, size - 9);
    CHECK(wait(&status) > 0 && status == 0, "the sleeper was not woken");
    worker_read(&pair, 10, 0);
    free(wire);
    pair_close(&pair);
}

static void
receive_timeout(void)
{
    struct pair pair;
    struct timeval soon = {.tv_usec = 50000};
    uint8_t byte;

    pair_open(&pair);
    setsockopt(pair.fd, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof(soon));
    CHECK(tlsagent_read(pair.conn, &byte, 1) == TLSAGENT_WANT_POLLIN, "%s",
          tlsagent_error(pair.conn));
    client_write(&pair, 10, 0);
    worker_read(&pair, 10, 0);
    pair_close(&pair);
}

/* ---- both directions, many processes ---- */

struct writer {
    struct pair *pair;
    size_t size;
};

static void *
write_nonblocking(void *argument)
{
    struct writer *writer = argument;
    uint8_t bytes[40000];

    for (size_t done = 0; done < writer->size;) {
        size_t n = writer->size - done < sizeof(bytes) ? writer->size - done : sizeof(bytes);
        ssize_t sent;

        pattern_fill(bytes, n, done);
        sent = tlsagent_write(writer->pair->conn, bytes, n);
        if (sent == TLSAGENT_WANT_POLLOUT) {
            poll(&(struct pollfd){.fd = writer->pair->fd, .events = POLLOUT}, 1, 1000);
            continue;
        }
        CHECK(sent > 0, "%s", tlsagent_error(writer->pair->conn));
        done += (size_t)sent;
    }
    while (tlsagent_flush(writer->pair->conn) == TLSAGENT_WANT_POLLOUT)
        poll(&(struct pollfd){.fd = writer->pair->fd, .events = POLLOUT}, 1, 1000);
    return NULL;
}

static void
nonblocking_against_a_slow_reader(void)
{
    struct pair pair;
    struct writer writer = {&pair, 4 * 1048576};
    pthread_t thread;
    int small = 8192;

    pair_open(&pair);
    setsockopt(pair.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
    fcntl(pair.fd, F_SETFL, O_NONBLOCK);
    pthread_create(&thread, NULL, write_nonblocking, &writer);
    peer_sleep(100);
    client_read(&pair, writer.size, 0);
    pthread_join(thread, NULL);
    pair_close(&pair);
}

static void
bidirectional(void)
{
    struct pair pair;

    pair_open(&pair);
    for (int i = 0; i < 50; i++) {
        client_write(&pair, 5000, (uint64_t)i);
        worker_write(&pair, 7000, (uint64_t)i + 9);
        worker_read(&pair, 5000, (uint64_t)i);
        client_read(&pair, 7000, (uint64_t)i + 9);
    }
    pair_close(&pair);
}

static void
forked_child_gets_an_error(void)
{
    struct pair pair;
    int status;

    pair_open(&pair);
    if (fork() == 0) {
        uint8_t byte = 0;

        CHECK(tlsagent_write(pair.conn, &byte, 1) == -1 &&
                  tlsagent_error_code(pair.conn) == TLSAGENT_E_FORKED,
              "write in a child: %s", tlsagent_error(pair.conn));
        CHECK(tlsagent_close(pair.conn) == -1, "close in a child");
        _exit(0);
    }
    wait(&status);
    CHECK(status == 0, "child");
    worker_write(&pair, 10, 0);
    client_read(&pair, 10, 0);
    pair_close(&pair);
}

const struct test_case data_cases[] = {
    {"handshake_and_echo", handshake_and_echo, ALWAYS},
    {"sendfile", sendfile_one_record, ALWAYS},
    {"send_then_sendfile", send_then_sendfile, ALWAYS},
    {"multi_chunk_sendfile", multi_chunk_sendfile, ALWAYS},
    {"sendfile_bulk", sendfile_bulk, ALWAYS},
    {"sendfile_large", sendfile_large, KERNEL | ONCE},
    {"sendmsg_single", sendmsg_single, ALWAYS},
    {"sendmsg_fragmented", sendmsg_fragmented, ALWAYS},
    {"sendmsg_large", sendmsg_large, ALWAYS},
    {"sendmsg_multiple", sendmsg_multiple, ALWAYS},
    {"sendmsg_multiple_stress", sendmsg_multiple_stress, ALWAYS},
    {"recv_max", recv_max, ALWAYS},
    {"recv_small", recv_small, ALWAYS},
    {"single_send_multiple_recv", single_send_multiple_recv, ALWAYS},
    {"multiple_send_single_recv", multiple_send_single_recv, ALWAYS},
    {"single_send_multiple_recv_non_align", single_send_multiple_recv_non_align, ALWAYS},
    {"recv_partial", recv_partial, ALWAYS},
    {"recvmsg_multiple", recvmsg_multiple, ALWAYS},
    {"recv_nonblock", recv_nonblock, ALWAYS},
    {"recv_peek", recv_peek, ALWAYS},
    {"recv_peek_multiple_records", recv_peek_multiple_records, ALWAYS},
    {"recv_lowat", recv_lowat, ALWAYS},
    {"recv_efault", recv_efault, KERNEL},
    {"poll_tells", poll_tells, ALWAYS},
    {"poll_partial_record", poll_partial_record, ALWAYS},
    {"epoll_partial_record", epoll_partial_record, ALWAYS},
    {"poll_partial_record_asleep", poll_partial_record_asleep, ALWAYS},
    {"receive_timeout", receive_timeout, ALWAYS},
    {"nonblocking_against_a_slow_reader", nonblocking_against_a_slow_reader, ALWAYS},
    {"bidirectional", bidirectional, ALWAYS},
    {"forked_child_gets_an_error", forked_child_gets_an_error, ALWAYS},
    {NULL, NULL, 0},
};
