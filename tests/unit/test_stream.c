/*
 * test_stream.c: the TLS data stream over sockets, against itself and against records that no
 * honest peer would send; fork, threads, memory. (OpenSSL as the peer: test_stream_openssl.c.)
 */
#include "tests/unit/record_fixture.h"

#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/pool.h"
#include "client/slot.h"
#include "client/stream.h"

static struct error error;
static struct traffic_state server_state, client_state;
static int fds[2]; /* ours, the peer's */
static struct stream ours, theirs;
static uint8_t wire[20000];

static void
open_fds(bool nonblocking)
{
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | (nonblocking ? SOCK_NONBLOCK : 0), 0, fds),
                     0);
}

/* Only our side; the peer's is the test's. */
static void
begin_alone(uint16_t suite, bool nonblocking)
{
    open_fds(nonblocking);
    fixture_states(suite, TRAFFIC_PLAINTEXT_MAX, &server_state, &client_state);
    ck_assert_int_eq(stream_start(&ours, fds[0], &server_state, true, NULL, 0, &error), 0);
}

static void
begin_pair(uint16_t suite, bool nonblocking)
{
    begin_alone(suite, nonblocking);
    ck_assert_int_eq(stream_start(&theirs, fds[1], &client_state, false, NULL, 0, &error), 0);
}

static void
finish(void)
{
    stream_clear(&ours);
    stream_clear(&theirs);
    close(fds[0]);
    close(fds[1]);
    ck_assert_uint_eq(slot_count(), 0);
}

/* The peer makes a record with this type inside. Returns its size in wire. */
static size_t
forge(uint8_t type, const void *content, size_t size)
{
    const struct traffic_suite *suite = traffic_suite_find(server_state.suite);
    bool tls13 = suite->version == TRAFFIC_TLS_1_3;
    uint8_t inner[17000];

    memcpy(inner, content, size);
    inner[size] = type;
    return fixture_forge(suite, &client_state.send, tls13 ? 23 : type, inner, size + tls13, wire);
}

static void
send_forged(uint8_t type, const void *content, size_t size)
{
    size_t total = forge(type, content, size);

    ck_assert_int_eq(send(fds[1], wire, total, 0), (ssize_t)total);
}

/* The alert that we have sent: the fixture knows our keys. -1: none. */
static int
sent_alert(void)
{
    struct record peer;
    struct record_failure failure;
    uint8_t bytes[20000], out[20000];
    size_t total, size, at = 0;
    ssize_t n = recv(fds[1], bytes, sizeof(bytes), MSG_DONTWAIT);

    memset(&peer, 0, sizeof(peer));
    ck_assert_int_eq(record_init(&peer, &client_state, false, NULL), 0);
    while (n > 0 && at < (size_t)n) {
        ck_assert_int_eq(record_measure(&peer, bytes + at, (size_t)n - at, &total, &failure), 1);
        if (record_open(&peer, bytes + at, total, out, &size, &failure) == RECORD_FAILED) {
            ck_assert(failure.received);
            return failure.alert;
        }
        at += total;
    }
    return -1;
}

/* ---- against itself ---- */

struct writer {
    struct stream *stream;
    const uint8_t *data;
    size_t size;
    size_t piece;
};

static void *
write_all(void *argument)
{
    struct writer *writer = argument;
    size_t at, n;

    for (at = 0; at < writer->size; at += n) {
        n = writer->size - at < writer->piece ? writer->size - at : writer->piece;
        ck_assert_int_eq(stream_write(writer->stream, writer->data + at, n, NULL), (ssize_t)n);
    }
    ck_assert_int_eq(stream_shutdown_send(writer->stream, NULL), 0);
    return NULL;
}

/* Blocking: writes of one size are read in another, byte-exact, then a clean end. */
START_TEST(blocking_round_trips)
{
    static const size_t sizes[] = {0, 1, 15, 16, 17, 16383, 16384, 16385, 100000, 1000000};
    static const size_t pieces[] = {100, 16384, 16385, 1000000};
    static const uint16_t fragments[] = {512, 16384};
    static uint8_t data[1000000], back[1001001];
    size_t i, j, k, got;
    ssize_t n;

    fixture_fill(data, sizeof(data), 3);
    for (i = 0; i < 10; i++)
        for (j = 0; j < 4; j++)
            for (k = 0; k < 2; k++) {
                struct writer writer = {&theirs, data, sizes[i], pieces[j]};
                pthread_t thread;

                if (i == 9 && (j == 0 || k == 0))
                    continue;
                open_fds(false);
                fixture_states(fixture_suites[_i], fragments[k], &server_state, &client_state);
                ck_assert_int_eq(stream_start(&ours, fds[0], &server_state, true, NULL, 0, &error),
                                 0);
                ck_assert_int_eq(
                    stream_start(&theirs, fds[1], &client_state, false, NULL, 0, &error), 0);
                pthread_create(&thread, NULL, write_all, &writer);
                got = 0;
                while ((n = stream_read(&ours, back + got,
                                        (i + j) % 2 == 0 ? sizeof(back) - got : 1000, &error)) > 0)
                    got += (size_t)n;
                pthread_join(thread, NULL);
                ck_assert_int_eq(n, 0);
                ck_assert_int_eq(stream_read(&ours, back, 1, &error), 0);
                ck_assert_uint_eq(got, sizes[i]);
                ck_assert_mem_eq(back, data, got);
                finish();
            }
}
END_TEST

/* A tiny send buffer, nothing blocks, both directions at once, key changes in between. */
START_TEST(nonblocking_partial_writes_are_byte_exact)
{
    enum { SIZE = 700000 };
    static uint8_t data[SIZE], back[2][SIZE];
    struct stream *streams[] = {&ours, &theirs};
    size_t sent[2] = {0, 0}, got[2] = {0, 0}, want, turns = 0;
    bool tls13 = fixture_suites[_i] < 0x1400;
    int small = 4096, i, waits = 0, result[2] = {1, 1};
    ssize_t n;

    fixture_fill(data, sizeof(data), 8);
    begin_pair(fixture_suites[_i], true);
    for (i = 0; i < 2; i++)
        setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
    while (got[0] < SIZE || got[1] < SIZE || result[0] != 0 || result[1] != 0) {
        for (i = 0; i < 2; i++) {
            ck_assert_uint_lt(++turns, 10000000);
            if (sent[i] < SIZE) {
                struct iovec parts[3];

                want = 1 + (turns * 7919) % 60000;
                want = want < SIZE - sent[i] ? want : SIZE - sent[i];
                parts[0] = (struct iovec){data + sent[i], want / 2};
                parts[1] = (struct iovec){NULL, 0};
                parts[2] = (struct iovec){data + sent[i] + want / 2, want - want / 2};
                n = stream_writev(streams[i], parts, 3, &error);
                ck_assert_msg(n > 0 || n == STREAM_WANT_POLLOUT, "%s", error.text);
                waits += n == STREAM_WANT_POLLOUT;
                sent[i] += n > 0 ? (size_t)n : 0;
                if (tls13 && turns % 5 == 0)
                    ck_assert_int_ne(stream_update_keys(streams[i], turns % 3 == 0, &error), -1);
            } else {
                result[i] = stream_flush(streams[i], &error);
                ck_assert_int_ne(result[i], -1);
            }
            if (got[i] < SIZE) {
                want = 1 + (turns * 31) % 5000;
                want = want < SIZE - got[i] ? want : SIZE - got[i];
                n = stream_read(streams[i], back[i] + got[i], want, &error);
                ck_assert_msg(n > 0 || n == STREAM_WANT_POLLIN, "%s", error.text);
                got[i] += n > 0 ? (size_t)n : 0;
            }
        }
    }
    ck_assert_int_gt(waits, 10);
    ck_assert_mem_eq(back[0], data, SIZE);
    ck_assert_mem_eq(back[1], data, SIZE);
    ck_assert_int_eq(stream_shutdown_send(&ours, &error), 0);
    ck_assert_int_eq(stream_shutdown(&theirs, &error), 0);
    ck_assert_int_eq(stream_shutdown(&ours, &error), 0);
    finish();
}
END_TEST

START_TEST(peek_and_pending)
{
    uint8_t data[40000], back[40000];
    size_t pending;

    fixture_fill(data, sizeof(data), 1);
    begin_pair(fixture_suites[_i], true);
    ck_assert_uint_eq(stream_pending(&ours), 0);
    ck_assert_int_eq(stream_peek(&ours, back, 10, &error), STREAM_WANT_POLLIN);
    ck_assert_int_eq(stream_write(&theirs, data, 40000, &error), 40000);
    ck_assert_int_eq(stream_peek(&ours, back, 10, &error), 10);
    ck_assert_mem_eq(back, data, 10);
    pending = stream_pending(&ours);
    ck_assert_uint_eq(pending, 40000);
    ck_assert_int_eq(stream_peek(&ours, back, sizeof(back), &error), 16384);
    ck_assert_mem_eq(back, data, 16384);
    ck_assert_int_eq(stream_read(&ours, back, 5, &error), 5);
    ck_assert_mem_eq(back, data, 5);
    ck_assert_uint_eq(stream_pending(&ours), 40000 - 5);
    ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), 40000 - 5);
    ck_assert_mem_eq(back, data + 5, 40000 - 5);
    ck_assert_uint_eq(stream_pending(&ours), 0);
    ck_assert_int_eq(stream_read(&ours, back, 0, &error), 0);
    ck_assert_int_eq(stream_write(&ours, back, 0, &error), 0);
    finish();
}
END_TEST

/* An event loop that asks stream_pending() before it polls must not sleep on an end that has come.
 */
START_TEST(an_end_behind_data_is_pending)
{
    uint8_t back[100];

    begin_pair(0x1301, true);
    ck_assert_int_eq(stream_write(&theirs, "data", 4, &error), 4);
    ck_assert_int_eq(stream_shutdown_send(&theirs, &error), 0);
    ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), 4);
    ck_assert_uint_ge(stream_pending(&ours), 1);
    ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), 0);
    ck_assert_uint_eq(stream_pending(&ours), 0);
    finish();
}
END_TEST

/* ---- ends ---- */

START_TEST(closing_ends_one_direction)
{
    uint8_t back[10];

    begin_pair(fixture_suites[_i], true);
    ck_assert_int_eq(stream_shutdown_send(&ours, &error), 0);
    ck_assert_int_eq(stream_shutdown_send(&ours, &error), 0); /* one close_notify only */
    ck_assert_int_eq(stream_write(&ours, "x", 1, &error), -1);
    ck_assert_int_eq(ours.code, TLSAGENT_E_ARGUMENT);
    ck_assert_int_eq(stream_read(&theirs, back, sizeof(back), &error), 0);
    ck_assert_int_eq(stream_write(&theirs, "later", 5, &error), 5);
    ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), 5);
    ck_assert_int_eq(stream_shutdown(&ours, &error), STREAM_WANT_POLLIN);
    ck_assert_int_eq(stream_shutdown(&theirs, &error), 0);
    ck_assert_int_eq(stream_shutdown(&ours, &error), 0);
    ck_assert_int_eq(recv(fds[0], back, sizeof(back), MSG_DONTWAIT), -1);
    ck_assert_int_eq(recv(fds[1], back, sizeof(back), MSG_DONTWAIT), -1);
    finish();
}
END_TEST

/* After our close_notify not even an answer to KeyUpdate is written. */
START_TEST(nothing_follows_our_close_notify)
{
    uint8_t back[10];

    begin_alone(0x1301, true);
    ck_assert_int_eq(stream_shutdown_send(&ours, &error), 0);
    ck_assert_int_gt(recv(fds[1], wire, sizeof(wire), 0), 0);
    send_forged(22, "\x18\x00\x00\x01\x01", 5);
    ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), STREAM_WANT_POLLIN);
    ck_assert_int_eq(stream_flush(&ours, &error), 0);
    send_forged(99, "?", 1);
    ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), -1);
    ck_assert_int_eq(recv(fds[1], wire, sizeof(wire), MSG_DONTWAIT), -1);
    finish();
}
END_TEST

/* The peer's bytes end after `cut` bytes of a second record. */
START_TEST(truncation_is_told_from_a_clean_close)
{
    static const size_t cuts[] = {0, 1, 4, 5, 6, 20, 100};
    uint8_t data[200] = {0}, back[300];
    size_t i;

    for (i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
        begin_alone(fixture_suites[_i], i % 2 == 0);
        send_forged(23, "first", 5);
        forge(23, data, sizeof(data));
        if (cuts[i] > 0)
            ck_assert_int_gt(send(fds[1], wire, cuts[i], 0), 0);
        shutdown(fds[1], SHUT_WR);
        ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), 5);
        ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), -1);
        ck_assert_int_eq(ours.code, TLSAGENT_E_TRUNCATED);
        ck_assert_int_eq(ours.alert, STREAM_NO_ALERT);
        ck_assert_ptr_nonnull(strstr(error.text, cuts[i] > 0 ? "middle of a record" : "close_not"));
        ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), -1);
        ck_assert_int_eq(stream_shutdown(&ours, &error), -1);
        ck_assert_int_eq(ours.code, TLSAGENT_E_TRUNCATED);
        finish();
    }
}
END_TEST

START_TEST(a_reset_is_an_error_and_no_signal)
{
    uint8_t back[10];

    signal(SIGPIPE, SIG_DFL);
    begin_alone(0xc02f, true);
    send_forged(23, "said before", 11);
    close(fds[1]);
    fds[1] = -1;
    ck_assert_int_eq(stream_write(&ours, "x", 1, &error), -1);
    ck_assert_int_eq(ours.code, TLSAGENT_E_CLOSED);
    ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), 10); /* still readable */
    finish();
}
END_TEST

/* ---- what a hostile peer may send ---- */

static const struct {
    const char *name;
    uint16_t suite;
    uint8_t type;
    const char *content;
    size_t size;
    int alert;
    enum tlsagent_error_code code;
} attacks[] = {
    {"shared KeyUpdate", 0x1301, 22, "\x18\x00\x00\x01\x00\x18\x00\x00\x01\x00", 10, 10,
     TLSAGENT_E_RECORD},
    {"two alerts", 0x1302, 21, "\x01\x00\x01\x00", 4, 50, TLSAGENT_E_RECORD},
    {"unknown type", 0x1303, 77, "?", 1, 10, TLSAGENT_E_RECORD},
    {"Finished again", 0xc02f, 22, "\x14\x00\x00\x00", 4, 10, TLSAGENT_E_RECORD},
    {"fatal alert", 0xc030, 21, "\x02\x32", 2, 50, TLSAGENT_E_ALERT},
    {"fatal alert", 0x1301, 21, "\x02\x32", 2, 50, TLSAGENT_E_ALERT},
};

START_TEST(attacks_are_answered_behind_the_data)
{
    uint8_t back[100];

    begin_alone(attacks[_i].suite, true);
    send_forged(23, "good", 4);
    send_forged(attacks[_i].type, attacks[_i].content, attacks[_i].size);
    ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), 4);
    ck_assert_uint_ge(stream_pending(&ours), 1);
    ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), -1);
    ck_assert_int_eq(ours.code, attacks[_i].code);
    ck_assert_int_eq(ours.alert, attacks[_i].alert);
    ck_assert_str_ne(error.text, "");
    ck_assert_int_eq(sent_alert(), attacks[_i].code == TLSAGENT_E_ALERT ? -1 : attacks[_i].alert);
    ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), -1);
    ck_assert_int_eq(stream_write(&ours, "x", 1, &error), -1);
    ck_assert_int_eq(ours.code, attacks[_i].code);
    ck_assert_int_eq(stream_shutdown_send(&ours, &error), -1);
    ck_assert_int_eq(sent_alert(), -1);
    finish();
}
END_TEST

/* A readable fd that yields no data: WANT_POLLIN, never 0; a record arrives byte by byte. */
START_TEST(readable_without_data)
{
    uint8_t back[100];
    size_t total, i;

    begin_alone(0x1301, true);
    send_forged(22, "\x18\x00\x00\x01\x00", 5);
    ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), STREAM_WANT_POLLIN);
    traffic_keys_update(traffic_suite_find(0x1301), &client_state.send);
    send_forged(23, "", 0);
    ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), STREAM_WANT_POLLIN);
    total = forge(23, "slowly", 6);
    for (i = 0; i < total; i++) {
        ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), STREAM_WANT_POLLIN);
        ck_assert_uint_eq(stream_pending(&ours), 0);
        ck_assert_int_eq(send(fds[1], wire + i, 1, 0), 1);
        ck_assert_uint_le(ours.in.capacity, total); /* no scratch is held for a slow peer */
    }
    ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), 6);
    ck_assert_ptr_null(ours.in.data);
    finish();
}
END_TEST

/* An endless flood of records without data ends a single call of stream_read(). */
START_TEST(a_flood_ends_a_blocking_read)
{
    uint8_t back[10];
    int i;

    begin_alone(0xc02f, false);
    for (i = 0; i < 200; i++)
        send_forged(23, "", 0);
    ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), -1);
    ck_assert_int_eq(ours.code, TLSAGENT_E_RECORD);
    ck_assert_int_eq(sent_alert(), RECORD_UNEXPECTED_MESSAGE);
    finish();
}
END_TEST

/* KeyUpdate asks for an answer while our send buffer is full: nothing is lost, nothing overtakes.
 */
START_TEST(an_answer_waits_behind_a_full_buffer)
{
    enum { SIZE = 300000 };
    static uint8_t data[SIZE], back[SIZE];
    size_t sent = 0, got = 0;
    ssize_t n;
    int small = 4096;

    fixture_fill(data, SIZE, 4);
    begin_pair(0x1302, true);
    setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
    while ((n = stream_write(&ours, data + sent, SIZE - sent, &error)) > 0)
        sent += (size_t)n;
    ck_assert_int_eq(n, STREAM_WANT_POLLOUT);
    ck_assert_int_eq(stream_update_keys(&theirs, true, &error), 0);
    ck_assert_int_eq(stream_update_keys(&theirs, true, &error), 0);
    ck_assert_int_eq(stream_write(&theirs, "go on", 5, &error), 5);
    ck_assert_int_eq(stream_read(&ours, back, SIZE, &error), 5);
    while (got < SIZE) {
        if (sent < SIZE && (n = stream_write(&ours, data + sent, SIZE - sent, &error)) > 0)
            sent += (size_t)n;
        ck_assert_int_ne(stream_flush(&ours, &error), -1);
        n = stream_read(&theirs, back + got, SIZE - got, &error);
        ck_assert_msg(n > 0 || n == STREAM_WANT_POLLIN, "%s", error.text);
        got += n > 0 ? (size_t)n : 0;
    }
    ck_assert_mem_eq(back, data, SIZE);
    ck_assert_int_gt(theirs.record->receive_epoch, 0);
    finish();
}
END_TEST

/* On a blocking fd a read must not hang because the peer, who asks for an answer, does not read. */
START_TEST(an_answer_never_blocks_a_read)
{
    static uint8_t data[100000];
    uint8_t back[10];
    ssize_t n;

    begin_alone(0x1301, true);
    while ((n = stream_write(&ours, data, sizeof(data), &error)) > 0)
        ;
    ck_assert_int_eq(n, STREAM_WANT_POLLOUT);
    ck_assert_int_eq(fcntl(fds[0], F_SETFL, 0), 0);
    send_forged(22, "\x18\x00\x00\x01\x01", 5);
    traffic_keys_update(traffic_suite_find(0x1301), &client_state.send);
    send_forged(23, "data", 4);
    alarm(10); /* it would hang for ever */
    ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), 4);
    alarm(0);
    finish();
}
END_TEST

static bool
holds_run(const uint8_t *memory, size_t size, uint8_t byte)
{
    size_t i, run = 0;

    for (i = 0; i < size && run < 16; i++)
        run = memory[i] == byte ? run + 1 : 0;
    return run == 16;
}

/* Plaintext that waited in a buffer is wiped, whether it was read or the stream was cleared. */
START_TEST(plaintext_is_wiped)
{
    uint8_t data[5000], back[1000], *scratch;
    int i;

    memset(data, 0xa5, sizeof(data));
    begin_pair(fixture_suites[_i], true);
    ck_assert_int_eq(stream_write(&theirs, data, sizeof(data), &error), sizeof(data));
    ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), sizeof(back));
    ck_assert(holds_run(ours.in.data, ours.in.end, 0xa5)); /* the rest waits in the clear */
    for (i = 0; i < 4; i++)
        ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), sizeof(back));
    scratch = pool_take_scratch();
    ck_assert(!holds_run(scratch, 6000, 0xa5));
    pool_give_scratch(scratch);

    ck_assert_int_eq(stream_write(&theirs, data, sizeof(data), &error), sizeof(data));
    ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), sizeof(back));
    scratch = ours.in.data;
    stream_clear(&ours);
    ck_assert_ptr_eq(pool_take_scratch(), scratch); /* the same again */
    ck_assert(!holds_run(scratch, 6000, 0xa5));
    pool_give_scratch(scratch);
    finish();
}
END_TEST

START_TEST(bad_arguments)
{
    static uint8_t early[70000];
    struct stream empty;
    struct iovec parts[2] = {{early, SIZE_MAX / 2}, {early, SIZE_MAX / 2}};

    memset(&empty, 0, sizeof(empty));
    stream_clear(&empty);
    ck_assert_int_eq(stream_read(&empty, early, 1, &error), -1);
    ck_assert_int_eq(empty.code, TLSAGENT_E_ARGUMENT);
    begin_pair(0xc02f, true);
    ck_assert_int_eq(stream_update_keys(&ours, true, &error), -1);
    ck_assert_int_eq(ours.code, TLSAGENT_E_ARGUMENT);
    ck_assert_int_eq(stream_writev(&ours, parts, 2, &error), -1);
    ck_assert_int_eq(stream_writev(&ours, parts, -1, &error), -1);
    ck_assert_int_eq(ours.code, TLSAGENT_E_ARGUMENT);
    finish();
    ck_assert_int_eq(stream_start(&ours, 0, &server_state, true, early, sizeof(early), &error), -1);
    server_state.suite = 1;
    ck_assert_int_eq(stream_start(&ours, 0, &server_state, true, NULL, 0, &error), -1);
    ck_assert_int_eq(ours.code, TLSAGENT_E_ARGUMENT);
    ck_assert_uint_eq(slot_count(), 0);
}
END_TEST

/* ---- fork ---- */

static void
child_has_nothing(void)
{
    struct stream mine[2];
    struct traffic_state a, b;
    int pair[2];
    uint8_t back[10];
    size_t i;

    for (i = 0; i < SLOT_SIZE; i++)
        if (((const uint8_t *)ours.record)[i] != 0)
            _exit(1);
    if (stream_write(&ours, "x", 1, &error) != -1 || ours.code != TLSAGENT_E_FORKED)
        _exit(2);
    if (stream_read(&ours, back, 1, &error) != -1 || ours.code != TLSAGENT_E_FORKED)
        _exit(3);
    if (stream_shutdown_send(&ours, &error) != -1 || stream_flush(&ours, &error) != -1 ||
        stream_update_keys(&ours, true, &error) != -1 || stream_shutdown(&ours, &error) != -1)
        _exit(4);
    if (strstr(error.text, "parent") == NULL || stream_pending(&ours) != 0)
        _exit(5);

    /* Its own connections work, with the parent's still there and after they are cleared. */
    for (i = 0; i < 2; i++) {
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
            _exit(6);
        fixture_states(0x1301, 16384, &a, &b);
        if (stream_start(&mine[0], pair[0], &a, true, NULL, 0, NULL) != 0 ||
            stream_start(&mine[1], pair[1], &b, false, NULL, 0, NULL) != 0)
            _exit(7);
        if (mine[0].record == ours.record || mine[1].record == theirs.record)
            _exit(8);
        if (stream_write(&mine[0], "mine", 4, NULL) != 4 ||
            stream_read(&mine[1], back, 10, NULL) != 4 || memcmp(back, "mine", 4) != 0)
            _exit(9);
        stream_clear(&mine[0]);
        stream_clear(&mine[1]);
        stream_clear(&ours);
        stream_clear(&theirs);
    }
    _exit(slot_count() == 0 ? 0 : 10);
}

START_TEST(a_forked_child_has_no_connection)
{
    uint8_t back[100];
    int status;
    pid_t pid;

    begin_pair(fixture_suites[_i], true);
    ck_assert_int_eq(stream_write(&ours, "before", 6, &error), 6);
    ck_assert_int_eq(stream_read(&theirs, back, 3, &error), 3); /* the child gets buffers too */
    pid = fork();
    if (pid == 0)
        child_has_nothing();
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "child: status %x", status);
    ck_assert_int_eq(stream_read(&theirs, back, sizeof(back), &error), 3);
    ck_assert_int_eq(recv(fds[1], back, 1, MSG_DONTWAIT), -1); /* not a byte from the child */
    ck_assert_int_eq(stream_write(&ours, "after", 5, &error), 5);
    ck_assert_int_eq(stream_read(&theirs, back, sizeof(back), &error), 5);
    ck_assert_mem_eq(back, "after", 5);
    finish();
}
END_TEST

/* On a SOCK_SEQPACKET pair a packet is a system call: several records go and come with each. */
START_TEST(records_share_system_calls)
{
    static uint8_t data[14 * TRAFFIC_PLAINTEXT_MAX], back[8 * TRAFFIC_PLAINTEXT_MAX];
    int size = 1 << 20, packets;

    fixture_fill(data, sizeof(data), 12);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, fds), 0);
    setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    fixture_states(fixture_suites[_i], TRAFFIC_PLAINTEXT_MAX, &server_state, &client_state);
    ck_assert_int_eq(stream_start(&ours, fds[0], &server_state, true, NULL, 0, &error), 0);
    ck_assert_int_eq(stream_start(&theirs, fds[1], &client_state, false, NULL, 0, &error), 0);
    if (stream_write(&ours, data, 7 * TRAFFIC_PLAINTEXT_MAX, &error) < 0) /* 1 + 2 + 4 records */
        ck_abort_msg("%s", error.text);
    for (packets = 0; recv(fds[1], wire, sizeof(wire), MSG_TRUNC) > 0; packets++)
        ;
    ck_assert_int_eq(packets, 3);
    theirs.record->state.receive.sequence += 7; /* those that we have just thrown away */

    ck_assert_int_eq(stream_write(&ours, data, sizeof(back), &error), sizeof(back));
    ck_assert_int_eq(stream_read(&theirs, back, sizeof(back), &error), sizeof(back));
    ck_assert_mem_eq(back, data, sizeof(back));
    finish();
}
END_TEST

/* ---- threads, memory ---- */

static void *
use_streams(void *argument)
{
    struct traffic_state a, b;
    struct stream pair[2];
    uint8_t back[100];
    int sockets[2], i;

    (void)argument;
    for (i = 0; i < 300; i++) {
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
        fixture_states(fixture_suites[i % FIXTURE_SUITES], 16384, &a, &b);
        ck_assert_int_eq(stream_start(&pair[0], sockets[0], &a, true, NULL, 0, NULL), 0);
        ck_assert_int_eq(stream_start(&pair[1], sockets[1], &b, false, NULL, 0, NULL), 0);
        ck_assert_int_eq(stream_write(&pair[0], "hello", 5, NULL), 5);
        ck_assert_int_eq(stream_read(&pair[1], back, sizeof(back), NULL), 5);
        stream_clear(&pair[0]);
        stream_clear(&pair[1]);
        close(sockets[0]);
        close(sockets[1]);
    }
    return NULL;
}

/* Threads make and end streams while another forks. */
START_TEST(threads_and_forks)
{
    pthread_t threads[4];
    int i, status;
    pid_t pid;

    /* libcrypto looks algorithms up under a lock of its own, which a fork would take along locked:
     * once they are found it is not needed. */
    use_streams(NULL);
    for (i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, use_streams, NULL), 0);
#ifdef SANITIZED /* its allocator has locks of its own, which a fork takes along locked */
    for (i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
#endif
    for (i = 0; i < 20; i++) {
        pid = fork();
        if (pid == 0) {
            use_streams(NULL);
            _exit(0);
        }
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert_int_eq(status, 0);
    }
#ifndef SANITIZED
    for (i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
#endif
    ck_assert_uint_eq(slot_count(), 0);
}
END_TEST

/* Each has carried data both ways; then nothing but slot and object is left. */
START_TEST(idle_streams_are_small)
{
    enum { STREAMS = 10000 };
    static struct stream idle[STREAMS];
    size_t heap, slots, mapped = slot_mapped();
    struct mallinfo2 before;
    uint8_t back[100];
    int i;

    begin_pair(0x1302, false); /* warm up: pool, libcrypto */
    ck_assert_int_eq(stream_write(&theirs, "x", 1, &error), 1);
    ck_assert_int_eq(stream_read(&ours, back, 1, &error), 1);
    finish();
    open_fds(false);
    before = mallinfo2();
    for (i = 0; i < STREAMS; i++) {
        fixture_states(fixture_suites[i % FIXTURE_SUITES], 16384, &server_state, &client_state);
        ck_assert_int_eq(stream_start(&idle[i], fds[0], &server_state, true, NULL, 0, &error), 0);
        send_forged(23, "hello", 5);
        ck_assert_int_eq(stream_read(&idle[i], back, sizeof(back), &error), 5);
        ck_assert_int_eq(stream_write(&idle[i], "hello", 5, &error), 5);
        ck_assert_int_gt(recv(fds[1], back, sizeof(back), 0), 0);
    }
    heap = mallinfo2().uordblks - before.uordblks + mallinfo2().hblkhd - before.hblkhd;
    slots = slot_mapped() - mapped;
    printf("idle stream: heap %zu, slot %zu, object %zu, together %zu bytes\n", heap / STREAMS,
           slots / STREAMS, sizeof(idle[0]), heap / STREAMS + slots / STREAMS + sizeof(idle[0]));
#ifndef SANITIZED
    ck_assert_uint_lt(heap / STREAMS + slots / STREAMS + sizeof(idle[0]), 1024);
#endif
    for (i = 0; i < STREAMS; i++)
        stream_clear(&idle[i]);
    ck_assert_uint_le(slot_mapped(), 131072); /* empty chunks went back */
    close(fds[0]);
    close(fds[1]);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("stream");
    TCase *tests = tcase_create("streams");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, blocking_round_trips, 0, FIXTURE_SUITES);
    tcase_add_loop_test(tests, nonblocking_partial_writes_are_byte_exact, 0, FIXTURE_SUITES);
    tcase_add_loop_test(tests, peek_and_pending, 0, FIXTURE_SUITES);
    tcase_add_test(tests, an_end_behind_data_is_pending);
    tcase_add_loop_test(tests, closing_ends_one_direction, 0, FIXTURE_SUITES);
    tcase_add_test(tests, nothing_follows_our_close_notify);
    tcase_add_loop_test(tests, truncation_is_told_from_a_clean_close, 0, FIXTURE_SUITES);
    tcase_add_test(tests, a_reset_is_an_error_and_no_signal);
    tcase_add_loop_test(tests, attacks_are_answered_behind_the_data, 0, 6);
    tcase_add_test(tests, readable_without_data);
    tcase_add_test(tests, a_flood_ends_a_blocking_read);
    tcase_add_test(tests, an_answer_waits_behind_a_full_buffer);
    tcase_add_test(tests, an_answer_never_blocks_a_read);
    tcase_add_loop_test(tests, plaintext_is_wiped, 0, FIXTURE_SUITES);
    tcase_add_test(tests, bad_arguments);
    tcase_add_loop_test(tests, a_forked_child_has_no_connection, 0, FIXTURE_SUITES);
    tcase_add_loop_test(tests, records_share_system_calls, 0, FIXTURE_SUITES);
    tcase_add_test(tests, threads_and_forks);
    tcase_add_test(tests, idle_streams_are_small);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
