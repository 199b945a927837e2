/*
 * test_relay.c: the relay's engine over socket pairs and loopback TCP: order and completeness of
 * both directions, ends and cuts of either side, stalls, fairness, idleness, memory. (The program
 * around it, its sandbox and its death: tests/e2e/serve.py.)
 */
#include "tests/unit/record_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "client/helper.h"
#include "client/relay/pump.h"
#include "client/relay/relay.h"
#include "client/slot.h"
#include "client/stream.h"

#define BULK (3 * 1024 * 1024)

enum kind { PAIR, TCP };

/* One relayed connection, seen from both of its ends. */
struct line {
    struct stream peer;
    int fd;    /* the peer's */
    int plain; /* the worker's */
    size_t sent, received, plain_sent, plain_received;
};

static struct relay *relay;
static int channel; /* the worker's end, -1: none */
static uint8_t pattern[65521];

static void
tcp_pair(int pair[2])
{
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(here);
    int listener = socket(AF_INET, SOCK_STREAM, 0);

    ck_assert_int_eq(bind(listener, (struct sockaddr *)&here, sizeof(here)), 0);
    ck_assert_int_eq(listen(listener, 1), 0);
    ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&here, &size), 0);
    pair[0] = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert_int_eq(connect(pair[0], (struct sockaddr *)&here, sizeof(here)), 0);
    pair[1] = accept(listener, NULL, NULL);
    ck_assert_int_ne(pair[1], -1);
    close(listener);
    for (int i = 0; i < 2; i++) {
        fcntl(pair[i], F_SETFL, O_NONBLOCK);
        setsockopt(pair[i], IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    }
}

static void
begin(void)
{
    struct error error = {""};
    int pair[2];

    fixture_fill(pattern, sizeof(pattern), 5);
    ck_assert_int_eq(channel_pair(pair), 0);
    relay = relay_new(pair[0], 1000, &error);
    ck_assert_msg(relay != NULL, "%s", error.text);
    channel = pair[1];
}

static void
finish(void)
{
    relay_free(relay);
    close(channel);
    ck_assert_uint_eq(slot_count(), 0);
}

static struct relay_counts
counts(void)
{
    struct relay_counts now;

    relay_get_counts(relay, &now);
    return now;
}

/* Until the relay has nothing to do. */
static void
settle(void)
{
    uint64_t turns, wakeups;

    do {
        turns = counts().turns;
        wakeups = counts().wakeups;
        relay_run(relay, 15);
    } while (counts().turns != turns || counts().wakeups != wakeups);
}

static struct line
open_line(uint16_t suite, enum kind kind, bool tell)
{
    struct traffic_state server, client;
    struct relay_take take = {.id = 7, .is_server = 1, .tell = tell};
    struct line line = {0};
    struct error error = {""};
    int outer[2], inner[2];

    fixture_states(suite, TRAFFIC_PLAINTEXT_MAX, &server, &client);
    tcp_pair(outer);
    if (kind == PAIR) {
        ck_assert_int_eq(helper_make_pair(inner), 0);
        fcntl(inner[0], F_SETFL, O_NONBLOCK);
    } else
        tcp_pair(inner);
    /* Somebody else who has them may have made them so. */
    fcntl(outer[1], F_SETFL, 0);
    fcntl(inner[1], F_SETFL, 0);
    take.plain = kind == PAIR ? RELAY_PAIR : RELAY_SOCKET;
    take.state = server;
    ck_assert_int_eq(relay_take(relay, &take, outer[1], inner[1], &error), 0);
    ck_assert_int_eq(stream_start(&line.peer, outer[0], &client, false, NULL, 0, &error), 0);
    line.fd = outer[0];
    line.plain = inner[0];
    return line;
}

static void
close_line(struct line *line)
{
    stream_clear(&line->peer);
    if (line->fd != -1)
        close(line->fd);
    if (line->plain != -1)
        close(line->plain);
    line->fd = line->plain = -1;
}

/* ---- pattern bytes in and out; each returns what it moved, 0: full or empty, -1: error, -2: end
 * ---- */

static ssize_t
chunk_at(size_t at, size_t want, const uint8_t **data)
{
    size_t offset = at % sizeof(pattern);

    *data = pattern + offset;
    return (ssize_t)(want < sizeof(pattern) - offset ? want : sizeof(pattern) - offset);
}

static void
check_pattern(size_t at, const uint8_t *data, size_t size)
{
    size_t done = 0, n;

    while (done < size) {
        const uint8_t *expected;

        n = (size_t)chunk_at(at + done, size - done, &expected);
        if (memcmp(data + done, expected, n) != 0)
            ck_abort_msg("bytes from %zu on are not what was sent", at + done);
        done += n;
    }
}

static ssize_t
peer_send(struct line *line, size_t want)
{
    const uint8_t *data;
    ssize_t n = chunk_at(line->sent, want, &data);

    n = stream_write(&line->peer, data, (size_t)n, NULL);
    if (n == STREAM_WANT_POLLOUT)
        return 0;
    if (n > 0)
        line->sent += (size_t)n;
    return n;
}

static ssize_t
peer_receive(struct line *line)
{
    static uint8_t data[65536];
    ssize_t n = stream_read(&line->peer, data, sizeof(data), NULL);

    if (n == 0)
        return -2;
    if (n == STREAM_WANT_POLLIN)
        return 0;
    if (n > 0) {
        check_pattern(line->received, data, (size_t)n);
        line->received += (size_t)n;
    }
    return n;
}

static ssize_t
plain_send(struct line *line, size_t want)
{
    const uint8_t *data;
    ssize_t n = chunk_at(line->plain_sent, want, &data);

    n = send(line->plain, data, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n == -1)
        return errno == EAGAIN ? 0 : -1;
    line->plain_sent += (size_t)n;
    return n;
}

static ssize_t
plain_receive(struct line *line)
{
    static uint8_t data[65536];
    ssize_t n = recv(line->plain, data, sizeof(data), MSG_DONTWAIT);

    if (n == 0)
        return -2;
    if (n == -1)
        return errno == EAGAIN ? 0 : -1;
    check_pattern(line->plain_received, data, (size_t)n);
    line->plain_received += (size_t)n;
    return n;
}

/* Run the relay and take what comes until neither end gets more. The results of the last calls are
 * in *peer and *plain. */
static void
drain(struct line *line, ssize_t *peer, ssize_t *plain)
{
    bool moved;

    *peer = *plain = 0;
    do {
        moved = false;
        settle();
        while (*peer >= 0 && (*peer = peer_receive(line)) > 0)
            moved = true;
        while (*plain >= 0 && (*plain = plain_receive(line)) > 0)
            moved = true;
    } while (moved);
}

/* ---- data ---- */

START_TEST(every_byte_arrives_in_order_in_both_directions_at_once)
{
    struct line line;
    uint64_t turns;

    begin();
    for (int kind = PAIR; kind <= TCP; kind++) {
        line = open_line(fixture_suites[_i], (enum kind)kind, false);
        turns = counts().turns;
        while (line.received < BULK || line.plain_received < BULK) {
            if (line.sent < BULK)
                ck_assert_int_ge(peer_send(&line, BULK - line.sent), 0);
            else
                stream_flush(&line.peer, NULL);
            if (line.plain_sent < BULK)
                ck_assert_int_ge(plain_send(&line, BULK - line.plain_sent), 0);
            relay_run(relay, 0);
            while (peer_receive(&line) > 0)
                continue;
            while (plain_receive(&line) > 0)
                continue;
            ck_assert_uint_lt(counts().turns - turns, 100000);
        }
        ck_assert_uint_eq(line.received, BULK);
        ck_assert_uint_eq(line.plain_received, BULK);
        close_line(&line);
        settle();
        ck_assert_uint_eq(counts().connections, 0);
    }
    finish();
}
END_TEST

START_TEST(a_byte_at_a_time_passes_at_once)
{
    struct line line;
    ssize_t peer, plain;

    begin();
    line = open_line(0x1301, PAIR, false);
    for (int i = 0; i < 300; i++) {
        ck_assert_int_eq(peer_send(&line, 1), 1);
        ck_assert_int_eq(plain_send(&line, 1 + (size_t)i % 3), 1 + i % 3);
        if (i % 50 != 0)
            continue;
        drain(&line, &peer, &plain);
        ck_assert_uint_eq(line.plain_received, line.sent);
        ck_assert_uint_eq(line.received, line.plain_sent);
    }
    close_line(&line);
    settle();
    finish();
}
END_TEST

/* Descriptors sent along with data must neither stop nor spoil it, nor stay open here. */
START_TEST(data_that_comes_with_descriptors_passes)
{
    struct line line;
    ssize_t peer, plain;

    begin();
    line = open_line(0x1301, PAIR, false);
    for (int i = 0; i < 5; i++) {
        union {
            struct cmsghdr header;
            char bytes[CMSG_SPACE(sizeof(int))];
        } control = {.header = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
        const uint8_t *data;
        struct iovec part;
        struct msghdr message = {.msg_iov = &part,
                                 .msg_iovlen = 1,
                                 .msg_control = control.bytes,
                                 .msg_controllen = sizeof(control.bytes)};

        plain_send(&line, 3);
        memcpy(CMSG_DATA(&control.header), &line.plain, sizeof(int));
        part.iov_len = (size_t)chunk_at(line.plain_sent, 1 + (size_t)i, &data);
        part.iov_base = (void *)data;
        ck_assert_int_eq(sendmsg(line.plain, &message, 0), (ssize_t)part.iov_len);
        line.plain_sent += part.iov_len;
        plain_send(&line, 2);
    }
    drain(&line, &peer, &plain);
    ck_assert_uint_eq(line.received, line.plain_sent);
    close_line(&line);
    settle();
    ck_assert_uint_eq(counts().connections, 0);
    finish();
}
END_TEST

/* ---- ends ---- */

START_TEST(half_close_of_the_peer_is_an_end_and_the_answer_still_goes)
{
    struct line line;
    ssize_t peer, plain;

    begin();
    line = open_line(0x1301, _i == 0 ? PAIR : TCP, false);
    peer_send(&line, 1000);
    ck_assert_int_eq(stream_shutdown_send(&line.peer, NULL), 0);
    drain(&line, &peer, &plain);
    ck_assert_int_eq(plain, -2);
    ck_assert_uint_eq(line.plain_received, 1000);
    ck_assert_int_eq(plain_receive(&line), -2); /* again and again */
    plain_send(&line, 5000);
    drain(&line, &peer, &plain);
    ck_assert_int_eq(peer, 0);
    ck_assert_uint_eq(line.received, 5000);
    shutdown(line.plain, SHUT_WR);
    drain(&line, &peer, &plain);
    ck_assert_int_eq(peer, -2); /* close_notify */
    ck_assert_int_eq(plain, -2);
    ck_assert_uint_eq(counts().connections, 0);
    ck_assert_int_eq(plain_receive(&line), -2);
    close_line(&line);
    finish();
}
END_TEST

START_TEST(half_close_of_the_worker_is_a_close_notify_and_reading_goes_on)
{
    struct line line;
    ssize_t peer, plain;

    begin();
    line = open_line(0xc02f, _i == 0 ? PAIR : TCP, false);
    plain_send(&line, 3000);
    shutdown(line.plain, SHUT_WR);
    drain(&line, &peer, &plain);
    ck_assert_int_eq(peer, -2);
    ck_assert_uint_eq(line.received, 3000);
    ck_assert_int_eq(plain, 0);
    peer_send(&line, 40000);
    drain(&line, &peer, &plain);
    ck_assert_uint_eq(line.plain_received, 40000);
    ck_assert_int_eq(plain, 0);
    ck_assert_int_eq(stream_shutdown_send(&line.peer, NULL), 0);
    drain(&line, &peer, &plain);
    ck_assert_int_eq(plain, -2);
    ck_assert_uint_eq(counts().connections, 0);
    close_line(&line);
    finish();
}
END_TEST

START_TEST(a_worker_that_writes_and_closes_loses_nothing)
{
    struct line line;
    ssize_t peer, plain;

    begin();
    line = open_line(0x1302, PAIR, false);
    if (_i == 1) /* and never reads what is there for it */
        peer_send(&line, 5000);
    settle();
    while (plain_send(&line, 65536) > 0)
        continue;
    ck_assert_uint_gt(line.plain_sent, 100000);
    close(line.plain);
    line.plain = socket(AF_UNIX, SOCK_STREAM, 0); /* so that drain() has something to ask */
    do {
        settle();
        while ((peer = peer_receive(&line)) > 0)
            continue;
    } while (peer == 0 && line.received < line.plain_sent);
    settle();
    ck_assert_int_eq(peer_receive(&line), -2);
    ck_assert_uint_eq(line.received, line.plain_sent);
    (void)plain;
    /* It lingers for the peer's end, whatever the peer still says. */
    peer_send(&line, 65521);
    settle();
    ck_assert_uint_eq(counts().connections, 1);
    ck_assert_int_eq(stream_shutdown_send(&line.peer, NULL), 0);
    settle();
    ck_assert_uint_eq(counts().connections, 0);
    close_line(&line);
    finish();
}
END_TEST

/* What the worker did before the cut decides which byte is the one that stays: none, one, many. */
static const struct {
    enum kind kind;
    size_t from_peer, from_worker;
} cuts[] = {
    {PAIR, 0, 0},    {PAIR, 10, 0},      {PAIR, 10, 1},      {PAIR, 0, 2},
    {PAIR, 777, 50}, {PAIR, 65000, 999}, {PAIR, 30, 100000}, {TCP, 10, 10},
};

START_TEST(a_cut_is_told_as_a_reset_behind_all_data)
{
    struct line line;
    ssize_t peer, plain;

    begin();
    line = open_line(0x1301, cuts[_i].kind, true);
    for (int again = 0; again < 2; again++) {
        if (cuts[_i].from_worker > 0)
            plain_send(&line, cuts[_i].from_worker);
        if (cuts[_i].from_peer > 0)
            peer_send(&line, cuts[_i].from_peer);
        drain(&line, &peer, &plain);
        ck_assert_int_eq(plain, 0);
    }
    if (cuts[_i].from_peer > 0)
        peer_send(&line, cuts[_i].from_peer); /* not yet read when the cut comes */
    shutdown(line.fd, SHUT_WR);
    if (cuts[_i].kind == PAIR) {
        drain(&line, &peer, &plain);
        ck_assert_uint_eq(line.plain_received, line.sent);
    } else { /* a reset of TCP takes what was not yet read along */
        while ((plain = plain_receive(&line)) >= 0)
            settle();
    }
    ck_assert_int_eq(plain, -1);
    ck_assert_uint_eq(line.received, line.plain_sent);
    ck_assert_uint_eq(counts().connections, 0);
    close_line(&line);
    finish();
}
END_TEST

START_TEST(what_the_worker_wrote_before_a_cut_is_still_sent)
{
    struct line line;
    ssize_t peer, plain;

    begin();
    line = open_line(0x1301, PAIR, false);
    plain_send(&line, 60000);
    shutdown(line.fd, SHUT_WR); /* both are there when the relay looks */
    drain(&line, &peer, &plain);
    ck_assert_uint_eq(line.received, 60000);
    ck_assert_int_eq(plain, -1);
    close_line(&line);
    finish();
}
END_TEST

START_TEST(a_broken_record_is_answered_with_an_alert_and_told_as_a_reset)
{
    struct line line;
    struct error error = {""};
    uint8_t record[64] = {23, 3, 3, 0, 59};
    uint8_t buffer[100];
    ssize_t peer, plain;

    begin();
    line = open_line(0x1303, PAIR, false);
    plain_send(&line, 10);
    peer_send(&line, 100);
    drain(&line, &peer, &plain);
    ck_assert_int_eq(send(line.fd, record, sizeof(record), 0), sizeof(record));
    settle();
    ck_assert_int_eq(stream_read(&line.peer, buffer, sizeof(buffer), &error), -1);
    ck_assert_int_eq(line.peer.code, TLSAGENT_E_ALERT);
    ck_assert_int_eq(line.peer.alert, RECORD_BAD_RECORD_MAC);
    ck_assert_int_eq(plain_receive(&line), -1);
    ck_assert_uint_eq(counts().connections, 0);
    close_line(&line);
    finish();
}
END_TEST

START_TEST(a_reset_of_the_peer_is_told_as_a_reset)
{
    struct linger none = {1, 0};
    struct line line;
    ssize_t peer, plain;

    begin();
    line = open_line(0x1301, PAIR, false);
    peer_send(&line, 100);
    drain(&line, &peer, &plain);
    setsockopt(line.fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
    close(line.fd);
    line.fd = -1;
    settle();
    ck_assert_int_eq(plain_receive(&line), -1);
    ck_assert_int_eq(plain_send(&line, 10), -1);
    ck_assert_uint_eq(counts().connections, 0);
    close_line(&line);
    finish();
}
END_TEST

/* ---- stalls ---- */

static size_t
waiting_in(int fd)
{
    int bytes = 0;

    ioctl(fd, FIONREAD, &bytes);
    return (size_t)bytes;
}

START_TEST(a_worker_that_does_not_read_stops_the_peer_and_nothing_is_lost)
{
    struct line line;
    ssize_t peer, plain;
    size_t held, idle = 0;

    begin();
    line = open_line(0x1301, PAIR, false);
    while (idle < 5) {
        idle = peer_send(&line, 65521) > 0 ? 0 : idle + 1;
        settle();
    }
    /* What the relay itself holds: sent, and in no socket's buffer. (What waits in the peer's and
     * the relay's TCP socket is TCP's.) */
    held = line.sent;
    printf("    a stalled worker: %zu bytes sent by the peer, %zu in the pair\n", held,
           waiting_in(line.plain));
    ck_assert_uint_lt(held, 12 << 20);
    ck_assert_uint_gt(waiting_in(line.plain), 0);
    {
        uint64_t wakeups = counts().wakeups, turns = counts().turns;

        for (int i = 0; i < 10; i++)
            relay_run(relay, 20);
        ck_assert_uint_eq(counts().wakeups, wakeups);
        ck_assert_uint_eq(counts().turns, turns);
    }
    for (size_t i = 0; i < 2000 && line.plain_received < line.sent; i++) {
        stream_flush(&line.peer, NULL);
        drain(&line, &peer, &plain);
    }
    ck_assert_uint_eq(line.plain_received, line.sent);
    close_line(&line);
    settle();
    finish();
}
END_TEST

START_TEST(a_peer_that_does_not_read_stops_the_worker_and_nothing_is_lost)
{
    struct line line;
    ssize_t peer, plain;
    size_t idle = 0;
    uint64_t wakeups;

    begin();
    line = open_line(0x1301, PAIR, false);
    while (idle < 5) {
        idle = plain_send(&line, 65521) > 0 ? 0 : idle + 1;
        settle();
    }
    printf("    a stalled peer: %zu bytes taken from the worker\n", line.plain_sent);
    ck_assert_uint_lt(line.plain_sent, 12 << 20);
    wakeups = counts().wakeups;
    for (int i = 0; i < 10; i++)
        relay_run(relay, 20);
    ck_assert_uint_eq(counts().wakeups, wakeups);
    shutdown(line.plain, SHUT_WR);
    do
        drain(&line, &peer, &plain);
    while (peer >= 0 && line.received < line.plain_sent);
    ck_assert_uint_eq(line.received, line.plain_sent);
    ck_assert_int_eq(peer_receive(&line), -2);
    close_line(&line);
    settle();
    finish();
}
END_TEST

/* The byte that the relay leaves unread keeps all of its packet charged to the writer. */
START_TEST(a_worker_that_was_full_is_woken_whatever_it_writes_with)
{
    struct pollfd room = {.events = POLLOUT};
    int file = memfd_create("page", MFD_CLOEXEC);
    ssize_t peer, plain, n;
    struct line line;

    begin();
    ck_assert_int_eq(pwrite(file, pattern, sizeof(pattern), 0), (ssize_t)sizeof(pattern));
    line = open_line(0x1301, PAIR, false);
    room.fd = line.plain;
    for (int i = 0; i < 40; i++) {
        do { /* nobody reads: until it is full */
            off_t at = (off_t)(line.plain_sent % sizeof(pattern));

            n = i % 2 == 0 ? sendfile(line.plain, file, &at, sizeof(pattern) - (size_t)at)
                           : plain_send(&line, sizeof(pattern));
            if (n > 0 && i % 2 == 0)
                line.plain_sent += (size_t)n;
        } while (n > 0);
        drain(&line, &peer, &plain);
        ck_assert_uint_eq(line.received, line.plain_sent);
        ck_assert_msg(poll(&room, 1, 0) == 1, "round %d: all is delivered, and there is no room",
                      i);
    }
    close_line(&line);
    close(file);
    settle();
    finish();
}
END_TEST

START_TEST(a_stalled_peer_of_a_dead_worker_is_given_up_in_time)
{
    struct line line;
    struct timespec nap = {.tv_nsec = 50000000};

    begin();
    relay_set_patience(relay, &(struct relay_patience){.stall = 300, .linger = 300});
    line = open_line(0x1301, PAIR, false);
    for (int idle = 0; idle < 5;) {
        idle = plain_send(&line, 65521) > 0 ? 0 : idle + 1;
        settle();
    }
    close(line.plain);
    line.plain = -1;
    settle();
    ck_assert_uint_eq(counts().connections, 1);
    for (int i = 0; i < 60 && counts().connections > 0; i++) {
        nanosleep(&nap, NULL);
        relay_run(relay, 0);
    }
    ck_assert_uint_eq(counts().connections, 0);
    close_line(&line);
    finish();
}
END_TEST

/* ---- many ---- */

START_TEST(idle_connections_cause_no_work)
{
    struct line lines[100];
    uint64_t wakeups, turns;
    ssize_t peer, plain;
    struct pump size_of;

    begin();
    for (int i = 0; i < 100; i++) {
        lines[i] = open_line(0x1301, PAIR, false);
        peer_send(&lines[i], 2000);
        plain_send(&lines[i], 2000);
        drain(&lines[i], &peer, &plain);
    }
    wakeups = counts().wakeups;
    turns = counts().turns;
    for (int i = 0; i < 20; i++)
        relay_run(relay, 20);
    ck_assert_uint_eq(counts().wakeups, wakeups);
    ck_assert_uint_eq(counts().turns, turns);
    printf("    an idle connection: %zu bytes\n", sizeof(size_of) + SLOT_SIZE);
    for (int i = 0; i < 100; i++)
        close_line(&lines[i]);
    settle();
    finish();
}
END_TEST

/* Ten that always have something, and one small question: it is answered within a few rounds. */
START_TEST(a_busy_connection_does_not_keep_others_waiting)
{
    struct line busy[10], small;
    ssize_t n = 0;
    int rounds;

    begin();
    for (int i = 0; i < 10; i++)
        busy[i] = open_line(0x1301, PAIR, false);
    small = open_line(0x1301, PAIR, false);
    settle();
    for (int round = 0; round < 30; round++) {
        for (int i = 0; i < 10; i++) {
            while (plain_send(&busy[i], 65521) > 0)
                continue;
            while (peer_receive(&busy[i]) > 0)
                continue;
        }
        plain_send(&small, 1);
        for (rounds = 0; rounds < 10; rounds++) {
            relay_run(relay, 0);
            n = peer_receive(&small);
            if (n > 0)
                break;
        }
        ck_assert_int_le(rounds, 2);
    }
    for (int i = 0; i < 10; i++)
        close_line(&busy[i]);
    close_line(&small);
    for (int i = 0; i < 20; i++)
        settle();
    finish();
}
END_TEST

/* ---- the channel ---- */

static size_t
put_take(uint8_t *body, size_t room, uint16_t suite)
{
    struct traffic_state server, client;
    struct relay_take take = {.id = 99, .is_server = 1, .tell = 1, .plain = RELAY_PAIR};

    fixture_states(suite, TRAFFIC_PLAINTEXT_MAX, &server, &client);
    take.state = server;
    return relay_put_take(&take, body, room);
}

START_TEST(a_connection_comes_by_the_channel_and_its_end_is_told)
{
    struct traffic_state server, client;
    static uint8_t body[2048], buffer[CHANNEL_BUFFER_SIZE];
    struct channel_message message;
    struct relay_ended ended;
    struct error error = {""};
    struct line line = {0};
    int outer[2], inner[2], fds[2];
    size_t size = put_take(body, sizeof(body), 0x1301);
    ssize_t peer, plain;

    begin();
    tcp_pair(outer);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, inner), 0);
    ck_assert_int_eq(write(inner[0], "", 1), 1);
    fds[0] = outer[1];
    fds[1] = inner[1];
    ck_assert_int_eq(channel_send(channel, RELAY_TAKE, body, size, fds, 2), CHANNEL_OK);
    close(outer[1]);
    close(inner[1]);
    fixture_states(0x1301, TRAFFIC_PLAINTEXT_MAX, &server, &client);
    ck_assert_int_eq(stream_start(&line.peer, outer[0], &client, false, NULL, 0, &error), 0);
    line.fd = outer[0];
    line.plain = inner[0];
    peer_send(&line, 100);
    plain_send(&line, 50);
    drain(&line, &peer, &plain);
    ck_assert_uint_eq(line.plain_received, 100);
    stream_shutdown_send(&line.peer, NULL);
    shutdown(line.plain, SHUT_WR);
    drain(&line, &peer, &plain);
    ck_assert_int_eq(channel_receive(channel, relay_worker_rules, relay_worker_rule_count, buffer,
                                     sizeof(buffer), &message, &error),
                     CHANNEL_OK);
    ck_assert_uint_eq(message.type, RELAY_ENDED);
    ck_assert(relay_get_ended(&ended, message.body, message.size));
    ck_assert_uint_eq(ended.id, 99);
    ck_assert_uint_eq(ended.how, RELAY_CLEAN);
    ck_assert_uint_eq(ended.inward, 100);
    ck_assert_uint_eq(ended.outward, 50);
    close_line(&line);
    finish();
}
END_TEST

START_TEST(a_malformed_message_closes_the_channel_and_nothing_else)
{
    static uint8_t body[2048];
    size_t size = put_take(body, sizeof(body), 0x1301);
    struct line line;
    ssize_t peer, plain;
    int fds[2];

    begin();
    line = open_line(0x1301, PAIR, false);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    switch (_i) {
    case 0: /* a kind of plain end that is not one */
        body[4] = 9;
        break;
    case 1: /* no such suite */
        body[7] = 0xff;
        break;
    case 2: /* a byte too many */
        size++;
        break;
    }
    if (_i == 3) /* no descriptors */
        channel_send(channel, RELAY_TAKE, body, size, NULL, 0);
    else
        channel_send(channel, RELAY_TAKE, body, size, fds, 2);
    close(fds[0]);
    close(fds[1]);
    settle();
    ck_assert_int_eq(channel_send(channel, RELAY_TAKE, body, size, NULL, 0), CHANNEL_CLOSED);
    peer_send(&line, 500);
    drain(&line, &peer, &plain);
    ck_assert_uint_eq(line.plain_received, 500);
    ck_assert(relay_run(relay, 0));
    close_line(&line);
    settle();
    ck_assert(!relay_run(relay, 0)); /* the last connection is gone: so may the relay be */
    finish();
}
END_TEST

START_TEST(messages_survive_coding_and_refuse_other_sizes)
{
    uint8_t body[2048];
    struct relay_take take;
    struct relay_ended ended = {5, RELAY_ALERT, 6, 7}, got;
    uint16_t protocol;
    size_t size = put_take(body, sizeof(body), 0xc02c);

    ck_assert_uint_gt(size, 0);
    ck_assert(relay_get_take(&take, body, size));
    ck_assert_uint_eq(take.id, 99);
    ck_assert_uint_eq(take.state.suite, 0xc02c);
    ck_assert_uint_eq(take.early_size, 0);
    for (size_t i = 0; i < size; i++)
        ck_assert(!relay_get_take(&take, body, i));
    ck_assert(!relay_get_take(&take, body, size + 1));
    size = relay_put_ended(&ended, body, sizeof(body));
    ck_assert(relay_get_ended(&got, body, size));
    ck_assert_uint_eq(got.how, RELAY_ALERT);
    ck_assert_uint_eq(got.outward, 7);
    body[4] = RELAY_FAILED + 1;
    ck_assert(!relay_get_ended(&got, body, size));
    size = relay_put_ready(RELAY_PROTOCOL, body, sizeof(body));
    ck_assert(relay_get_ready(&protocol, body, size));
    ck_assert_uint_eq(protocol, RELAY_PROTOCOL);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("relay");
    TCase *tcase = tcase_create("relay");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, every_byte_arrives_in_order_in_both_directions_at_once, 0,
                        FIXTURE_SUITES);
    tcase_add_test(tcase, a_byte_at_a_time_passes_at_once);
    tcase_add_test(tcase, data_that_comes_with_descriptors_passes);
    tcase_add_loop_test(tcase, half_close_of_the_peer_is_an_end_and_the_answer_still_goes, 0, 2);
    tcase_add_loop_test(tcase, half_close_of_the_worker_is_a_close_notify_and_reading_goes_on, 0,
                        2);
    tcase_add_loop_test(tcase, a_worker_that_writes_and_closes_loses_nothing, 0, 2);
    tcase_add_loop_test(tcase, a_cut_is_told_as_a_reset_behind_all_data, 0,
                        sizeof(cuts) / sizeof(cuts[0]));
    tcase_add_test(tcase, what_the_worker_wrote_before_a_cut_is_still_sent);
    tcase_add_test(tcase, a_broken_record_is_answered_with_an_alert_and_told_as_a_reset);
    tcase_add_test(tcase, a_reset_of_the_peer_is_told_as_a_reset);
    tcase_add_test(tcase, a_worker_that_does_not_read_stops_the_peer_and_nothing_is_lost);
    tcase_add_test(tcase, a_peer_that_does_not_read_stops_the_worker_and_nothing_is_lost);
    tcase_add_test(tcase, a_worker_that_was_full_is_woken_whatever_it_writes_with);
    tcase_add_test(tcase, a_stalled_peer_of_a_dead_worker_is_given_up_in_time);
    tcase_add_test(tcase, idle_connections_cause_no_work);
    tcase_add_test(tcase, a_busy_connection_does_not_keep_others_waiting);
    tcase_add_test(tcase, a_connection_comes_by_the_channel_and_its_end_is_told);
    tcase_add_loop_test(tcase, a_malformed_message_closes_the_channel_and_nothing_else, 0, 4);
    tcase_add_test(tcase, messages_survive_coding_and_refuse_other_sizes);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
