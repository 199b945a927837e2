/*
 * test_move.c: connections that change hands, with OpenSSL as the peer: in the middle of traffic
 * and in every state; what a sender's object still does (nothing), and what a failed send leaves
 * (all). Malformed messages: test_move_garbage.c.
 */
#include "client/stream_parts.h"
#include "tests/unit/move_fixture.h"

#include <poll.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define A_FEW 5 /* of the suites: all of TLS 1.3, two of TLS 1.2; no RSA key has to be made */

static uint8_t data[200000];

/* ---- traffic, checked byte for byte ---- */

struct flow {
    size_t sent, got; /* of data, around and around */
};

static struct flow to_peer, from_peer;

/* The next bytes at a position, and how many at most before the end of data. */
static size_t
next_piece(size_t position, size_t wanted, const uint8_t **bytes)
{
    size_t at = position % sizeof(data);

    *bytes = data + at;
    return wanted < sizeof(data) - at ? wanted : sizeof(data) - at;
}

static void
expect_bytes(struct flow *flow, const uint8_t *bytes, size_t size)
{
    const uint8_t *expected;

    while (size > 0) {
        size_t n = next_piece(flow->got, size, &expected);

        ck_assert_mem_eq(bytes, expected, n);
        flow->got += n;
        bytes += n;
        size -= n;
    }
    ck_assert_uint_le(flow->got, flow->sent);
}

static void
write_ours(size_t size)
{
    const uint8_t *bytes;
    ssize_t n;

    size = next_piece(to_peer.sent, size, &bytes);
    n = tlsagent_write(conn, bytes, size);
    ck_assert_msg(n > 0 || n == TLSAGENT_WANT_POLLOUT, "%s", tlsagent_error(conn));
    to_peer.sent += n > 0 ? (size_t)n : 0;
}

static void
read_ours(size_t size)
{
    static uint8_t buffer[40000];
    ssize_t n = tlsagent_read(conn, buffer, size);

    ck_assert_msg(n > 0 || n == TLSAGENT_WANT_POLLIN, "%s", tlsagent_error(conn));
    if (n > 0)
        expect_bytes(&from_peer, buffer, (size_t)n);
}

static void
write_peer(size_t size)
{
    const uint8_t *bytes;
    size_t n;

    size = next_piece(from_peer.sent, size, &bytes);
    if (SSL_write_ex(peer, bytes, size, &n) == 1)
        from_peer.sent += n;
}

static void
read_peer(void)
{
    static uint8_t buffer[40000];
    size_t n;

    while (SSL_read_ex(peer, buffer, sizeof(buffer), &n) == 1)
        expect_bytes(&to_peer, buffer, n);
    ck_assert_int_eq(SSL_get_error(peer, 0), SSL_ERROR_WANT_READ);
}

/* Our close_notify has arrived there, and nothing else. */
static void
read_peer_end(void)
{
    size_t n;

    ck_assert_int_eq(SSL_read_ex(peer, &(char){0}, 1, &n), 0);
    ck_assert_int_eq(SSL_get_error(peer, 0), SSL_ERROR_ZERO_RETURN);
}

/* Whatever is under way arrives. */
static void
drain(void)
{
    for (int i = 0; to_peer.got != to_peer.sent || from_peer.got != from_peer.sent; i++) {
        ck_assert_int_lt(i, 10000);
        ck_assert_int_ne(tlsagent_flush(conn), -1);
        read_peer();
        read_ours(40000);
        if (from_peer.got == from_peer.sent && to_peer.got == to_peer.sent)
            break;
        SSL_write_ex(peer, "", 0, &(size_t){0}); /* what OpenSSL has not yet sent */
    }
}

/* Both directions still work. */
static void
prove_alive(void)
{
    drain();
    for (int i = 0; i < 3; i++) {
        write_ours(5000);
        write_peer(5000);
        drain();
    }
}

static void
begin(uint16_t suite)
{
    fixture_fill(data, sizeof(data), 11);
    to_peer = from_peer = (struct flow){0};
    move_begin(suite, NULL);
}

/* ---- tests ---- */

/* Loop number: suite. Moved a hundred times in the middle of traffic, keys changing in TLS 1.3. */
START_TEST(a_hundred_moves_in_the_middle_of_traffic)
{
    uint16_t suite = fixture_suites[_i];
    bool tls13 = traffic_suite_find(suite)->version == TRAFFIC_TLS_1_3;

    begin(suite);
    for (int i = 0; i < 100; i++) {
        write_ours(1 + (size_t)(i * 7919) % 40000);
        if (tls13 && i % 5 == 0)
            ck_assert_int_eq(SSL_key_update(peer, i % 2 == 0 ? SSL_KEY_UPDATE_REQUESTED
                                                             : SSL_KEY_UPDATE_NOT_REQUESTED),
                             1);
        write_peer(1 + (size_t)(i * 104729) % 20000);
        if (i % 3 != 0)
            read_ours(1 + (size_t)(i * 31) % 3000);
        if (tls13 && i % 7 == 0)
            ck_assert_int_ne(stream_update_keys(&conn->stream, i % 2 == 0, NULL), -1);
        move();
        if (i % 4 == 0)
            read_peer();
        if (i % 10 == 9)
            drain();
    }
    prove_alive();
    move_end();
}
END_TEST

START_TEST(facts_go_along)
{
    size_t size;

    begin(0x1302);
    move();
    ck_assert_int_eq(tlsagent_conn_version_number(conn), 0x0304);
    ck_assert_str_eq(tlsagent_conn_cipher(conn), "TLS_AES_256_GCM_SHA384");
    ck_assert_str_eq(tlsagent_conn_servername(conn), MOVE_SNI);
    ck_assert_str_eq(tlsagent_conn_alpn(conn), MOVE_ALPN);
    ck_assert_str_eq(tlsagent_conn_context(conn), MOVE_CONTEXT);
    ck_assert_str_eq(tlsagent_conn_form(conn), "records");
    ck_assert_int_eq(tlsagent_conn_resumed(conn), 1);
    ck_assert_int_eq(tlsagent_conn_agent_pid(conn), MOVE_PID);
    ck_assert_uint_eq(tlsagent_conn_peer_count(conn), 2);
    ck_assert_mem_eq(tlsagent_conn_peer_der(conn, 0, &size), move_chain + 3, 5);
    ck_assert_uint_eq(size, 5);
    ck_assert_mem_eq(tlsagent_conn_peer_der(conn, 1, &size), move_chain + 11, 2);
    ck_assert_uint_eq(size, 2);
    move_end();
}
END_TEST

/* Decrypted bytes, whole records and a piece of one wait in the sender's buffer. */
START_TEST(half_read_records_go_along)
{
    uint8_t peeked[10];

    for (size_t cut = 0; cut < 4; cut++) {
        begin(fixture_suites[_i]);
        for (int i = 0; i < 3; i++)
            write_peer(9000);
        read_ours(1 + cut * 3000);
        ck_assert_uint_gt(tlsagent_pending(conn), 10000);
        ck_assert_int_eq(tlsagent_peek(conn, peeked, sizeof(peeked)), 10);
        move();
        ck_assert_uint_gt(tlsagent_pending(conn), 10000);
        prove_alive();
        move_end();
    }
}
END_TEST

/* A record arrives in pieces, and the connection moves after each. */
START_TEST(a_record_in_pieces)
{
    uint8_t wire[3000];
    ssize_t size;
    int through[2];

    begin(fixture_suites[_i]);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, through), 0);
    SSL_set_wfd(peer, through[0]);
    write_peer(600);
    size = recv(through[1], wire, sizeof(wire), 0);
    ck_assert_int_gt(size, 600);
    for (ssize_t i = 0; i < size; i++) {
        if (i > 0)
            ck_assert_uint_eq(from_peer.got, 0);
        ck_assert_int_eq(send(fds[1], wire + i, 1, 0), 1);
        read_ours(1000);
        if (i % 9 == 0 || i < 30 || i > size - 30)
            move();
    }
    ck_assert_uint_eq(from_peer.got, 600);
    SSL_set_wfd(peer, fds[1]);
    prove_alive();
    close(through[0]);
    close(through[1]);
    move_end();
}
END_TEST

/* Sealed bytes that the kernel has not taken: a few, and more than one message can carry. */
START_TEST(unsent_records_go_along)
{
    begin(fixture_suites[_i]);
    setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &(int){1}, sizeof(int));
    for (int round = 0; round < 20; round++) {
        size_t before = to_peer.sent;

        while (conn->stream.out.end == conn->stream.out.start)
            write_ours(round % 2 == 0 ? 100000 : 3000);
        ck_assert_uint_gt(to_peer.sent, before);
        write_peer(2000);
        move();
        ck_assert_uint_gt(conn->stream.out.end, conn->stream.out.start);
        move();
        drain();
    }
    prove_alive();
    move_end();
}
END_TEST

/* More waits than one message takes: it travels in a memory file. */
START_TEST(more_waiting_than_a_message_takes)
{
    begin(fixture_suites[_i]);
    setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &(int){1000000}, sizeof(int));
    for (int i = 0; i < 6; i++)
        write_peer(16384);
    read_ours(10);
    ck_assert_uint_gt(conn->stream.in.end - conn->stream.in.start, 65536);
    setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &(int){1}, sizeof(int));
    conn->stream.burst = 8;
    write_ours(130000);
    ck_assert_uint_gt(conn->stream.out.end - conn->stream.out.start, 65536);
    for (int i = 0; i < 5; i++)
        move();
    prove_alive();
    move_end();
}
END_TEST

/* The peer asks for a KeyUpdate; the connection moves before it can be answered. */
START_TEST(an_owed_key_update_goes_along)
{
    begin(fixture_suites[_i]); /* TLS 1.3 ones come first */
    setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &(int){1}, sizeof(int));
    while (conn->stream.out.end == conn->stream.out.start)
        write_ours(16384);
    ck_assert_int_eq(SSL_key_update(peer, SSL_KEY_UPDATE_REQUESTED), 1);
    write_peer(100);
    read_ours(100);
    ck_assert(conn->stream.record->update_owed);
    move();
    ck_assert(conn->stream.record->update_owed);
    prove_alive();
    ck_assert(!conn->stream.record->update_owed);
    conn->stream.record->update_owed = true; /* ours, with a request to the peer */
    conn->stream.record->request_owed = true;
    move();
    prove_alive();
    ck_assert_uint_gt(conn->stream.record->send_epoch, 0);
    ck_assert_uint_gt(conn->stream.record->receive_epoch, 0);
    move_end();
}
END_TEST

/* KeyUpdate split over records, moved after each piece: the record layer's memory goes along. */
START_TEST(a_key_update_in_pieces)
{
    static const uint8_t message[] = {24, 0, 0, 1, 0};
    struct traffic_keys keys;
    uint8_t wire[100];
    size_t size;

    begin(fixture_suites[_i]);
    keys = conn->stream.record->state.receive;
    for (size_t i = 0; i < sizeof(message); i++) {
        size = fixture_forge(traffic_suite_find(fixture_suites[_i]), &keys, 23,
                             (uint8_t[]){message[i], 22}, 2, wire);
        ck_assert_int_eq(send(fds[1], wire, size, 0), (ssize_t)size);
        read_ours(10);
        move();
        ck_assert_uint_eq(conn->stream.record->message_size, (i + 1) % sizeof(message));
        ck_assert_uint_eq(conn->stream.record->idle, i + 1);
    }
    ck_assert_uint_eq(conn->stream.record->state.receive.sequence, 0);
    ck_assert_int_eq(traffic_keys_update(conn->stream.record->suite, &keys), 0);
    size = fixture_forge(conn->stream.record->suite, &keys, 23, "x\x17", 2, wire);
    ck_assert_int_eq(send(fds[1], wire, size, 0), (ssize_t)size);
    ck_assert_int_eq(tlsagent_read(conn, wire, 10), 1);
    ck_assert_int_eq(wire[0], 'x');
    move_end();
}
END_TEST

/* TLS 1.2: a ClientHello comes in two pieces, and the connection moves between them. */
START_TEST(a_refused_renegotiation_goes_along)
{
    uint8_t wire[500], hello[300] = {1, 0, 1, 44 - 4};
    struct traffic_keys keys;
    size_t size;

    begin(fixture_suites[_i]);
    setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &(int){1}, sizeof(int));
    while (conn->stream.out.end == conn->stream.out.start)
        write_ours(16384);
    keys = conn->stream.record->state.receive;
    keys.explicit_nonce = 1000;
    size = fixture_forge(conn->stream.record->suite, &keys, 22, hello, 100, wire);
    ck_assert_int_eq(send(fds[1], wire, size, 0), (ssize_t)size);
    read_ours(10);
    ck_assert(conn->stream.record->refusal_owed);
    ck_assert_uint_eq(conn->stream.record->skip, 200);
    move();
    ck_assert(conn->stream.record->refusal_owed);
    ck_assert_uint_eq(conn->stream.record->skip, 200);
    size = fixture_forge(conn->stream.record->suite, &keys, 22, hello, 200, wire);
    ck_assert_int_eq(send(fds[1], wire, size, 0), (ssize_t)size);
    size = fixture_forge(conn->stream.record->suite, &keys, 23, "x", 1, wire);
    ck_assert_int_eq(send(fds[1], wire, size, 0), (ssize_t)size);
    ck_assert_int_eq(tlsagent_read(conn, wire, 10), 1);
    ck_assert_int_eq(wire[0], 'x');
    ck_assert_uint_eq(conn->stream.record->skip, 0);
    move_end();
}
END_TEST

/* Each flag alone: it arrives, and no other. */
START_TEST(every_flag_goes_along)
{
    static const char *const names[] = {"ended", "unreported",  "closed",       "broken",
                                        "push",  "update_owed", "request_owed", "request_made",
                                        "exact", "surplus",     "refusal_owed"};
    const size_t count = sizeof(names) / sizeof(names[0]);

    for (size_t set = 0; set < count; set++) {
        begin(set == count - 1 ? 0xc02b : 0x1301);
        for (int turn = 0; turn < 2; turn++) {
            struct stream *stream = &conn->stream;
            bool *flags[] = {&stream->ended,
                             &stream->unreported,
                             &stream->closed,
                             &stream->broken,
                             &stream->push,
                             &stream->record->update_owed,
                             &stream->record->request_owed,
                             &stream->record->request_made,
                             &stream->exact,
                             &stream->surplus,
                             &stream->record->refusal_owed};

            if (turn == 0)
                *flags[set] = true;
            if (stream->broken) /* has a reason */
                stream_set_failure(&stream->write_failure, TLSAGENT_E_CLOSED, "broken", 0);
            for (size_t i = 0; i < count; i++)
                ck_assert_msg(*flags[i] == (i == set), "%s with %s", names[i], names[set]);
            move();
        }
        move_end();
    }
}
END_TEST

START_TEST(after_the_peers_close_notify)
{
    uint8_t byte;

    begin(fixture_suites[_i]);
    write_peer(100);
    ck_assert_int_eq(SSL_shutdown(peer), 0);
    move(); /* unread */
    read_ours(50);
    move();
    read_ours(100);
    ck_assert_uint_eq(from_peer.got, 100);
    ck_assert_uint_eq(tlsagent_pending(conn), 1); /* the end has been seen and waits to be told */
    move();
    ck_assert_uint_eq(tlsagent_pending(conn), 1);
    ck_assert_int_eq(tlsagent_read(conn, &byte, 1), 0);
    ck_assert_uint_eq(tlsagent_pending(conn), 0);
    move(); /* told already */
    ck_assert_uint_eq(tlsagent_pending(conn), 0);
    ck_assert_int_eq(tlsagent_read(conn, &byte, 1), 0);
    write_ours(3000);
    read_peer();
    ck_assert_uint_eq(to_peer.got, 3000);
    move();
    ck_assert_int_eq(tlsagent_shutdown(conn), 0);
    ck_assert_int_eq(SSL_shutdown(peer), 1);
    move_end();
}
END_TEST

/* TLS is being stopped: moved in the middle, not a byte beyond it is read; afterwards there is
 * nothing to move but the descriptor. */
START_TEST(a_stop_goes_along)
{
    char bytes[10];

    begin(fixture_suites[_i]);
    prove_alive();
    ck_assert_int_eq(tlsagent_stop(conn), TLSAGENT_WANT_POLLIN);
    move();
    ck_assert(conn->stream.exact);
    read_peer_end();
    ck_assert_int_eq(SSL_shutdown(peer), 1);
    ck_assert_int_eq(send(fds[1], "plain", 5, 0), 5);
    ck_assert_int_eq(tlsagent_stop(conn), 0);
    ck_assert_int_eq(recv(tlsagent_conn_fd(conn), bytes, sizeof(bytes), 0), 5);
    ck_assert_mem_eq(bytes, "plain", 5);
    ck_assert_int_eq(tlsagent_conn_send(conn, ends[0]), -1);
    ck_assert_int_eq(tlsagent_error_code(conn), TLSAGENT_E_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(tlsagent_error(conn), "TLS was stopped"));
    close(tlsagent_conn_fd(conn)); /* ours since then */
    move_end();
}
END_TEST

START_TEST(after_our_close_notify)
{
    uint8_t byte;
    size_t n;

    begin(fixture_suites[_i]);
    write_ours(100);
    ck_assert_int_eq(tlsagent_shutdown(conn), TLSAGENT_WANT_POLLIN);
    move();
    ck_assert_int_eq(tlsagent_write(conn, "x", 1), -1);
    ck_assert_int_eq(tlsagent_error_code(conn), TLSAGENT_E_ARGUMENT);
    while (SSL_read_ex(peer, &byte, 1, &n) == 1)
        ;
    ck_assert_int_eq(SSL_get_error(peer, 0), SSL_ERROR_ZERO_RETURN);
    write_peer(500);
    read_ours(1000);
    ck_assert_uint_eq(from_peer.got, 500);
    move();
    ck_assert_int_eq(tlsagent_shutdown(conn), TLSAGENT_WANT_POLLIN);
    ck_assert_int_eq(SSL_shutdown(peer), 1);
    ck_assert_int_eq(tlsagent_shutdown(conn), 0);
    move_end();
}
END_TEST

/* A direction that is over stays over, for the same reason. */
START_TEST(failures_go_along)
{
    static const struct {
        const char *name;
        int code, alert;
    } cases[] = {
        {"truncated", TLSAGENT_E_TRUNCATED, -1},
        {"alert", TLSAGENT_E_ALERT, 80},
        {"garbage", TLSAGENT_E_RECORD, 20},
        {"reset", TLSAGENT_E_CLOSED, -1},
    };
    uint8_t wire[100] = {23, 3, 3, 0, 40}, byte;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (int told = 0; told < 2; told++) {
            begin(0x1301);
            if (i == 0)
                shutdown(fds[1], SHUT_WR);
            else if (i == 1) {
                struct traffic_keys keys = conn->stream.record->state.receive;
                size_t size =
                    fixture_forge(conn->stream.record->suite, &keys, 23, "\2\x50\x15", 3, wire);
                ck_assert_int_eq(send(fds[1], wire, size, 0), (ssize_t)size);
            } else if (i == 2)
                ck_assert_int_eq(send(fds[1], wire, 45, 0), 45);
            else { /* unread bytes at close: a reset */
                write_ours(10);
                close(fds[1]);
                fds[1] = -1;
            }
            if (told)
                ck_assert_int_eq(tlsagent_read(conn, &byte, 1), -1);
            move();
            ck_assert_int_eq(tlsagent_read(conn, &byte, 1), -1);
            ck_assert_msg(tlsagent_error_code(conn) == cases[i].code, "%s: %s", cases[i].name,
                          tlsagent_error(conn));
            ck_assert_int_eq(tlsagent_error_alert(conn), cases[i].alert);
            move();
            ck_assert_int_eq(tlsagent_read(conn, &byte, 1), -1);
            ck_assert_int_eq(tlsagent_error_code(conn), cases[i].code);
            move_end();
        }
    }
}
END_TEST

/* ---- one owner ---- */

static void
assert_moved(struct tlsagent_conn *dead)
{
    char bytes[10];
    struct iovec part = {bytes, 1};

    ck_assert_int_eq(tlsagent_read(dead, bytes, 1), -1);
    ck_assert_int_eq(tlsagent_peek(dead, bytes, 1), -1);
    ck_assert_int_eq(tlsagent_write(dead, "x", 1), -1);
    ck_assert_int_eq(tlsagent_writev(dead, &part, 1), -1);
    ck_assert_int_eq(tlsagent_flush(dead), -1);
    ck_assert_int_eq(tlsagent_shutdown(dead), -1);
    ck_assert_int_eq(tlsagent_handshake(dead), -1);
    ck_assert_int_eq(tlsagent_set_deadline(dead, 1), -1);
    ck_assert_int_eq(tlsagent_set_forms(dead, 0), -1);
    ck_assert_int_eq(tlsagent_conn_send(dead, ends[0]), -1);
    ck_assert_uint_eq(tlsagent_pending(dead), 0);
    ck_assert_int_eq(tlsagent_error_code(dead), TLSAGENT_E_MOVED);
    ck_assert_str_eq(tlsagent_error(dead), "the connection was moved to another process");
}

START_TEST(the_senders_object_is_dead)
{
    struct tlsagent_conn *dead = NULL;
    int fd;

    begin(0x1301);
    write_peer(100);
    fd = tlsagent_conn_fd(conn);
    ck_assert_int_eq(tlsagent_conn_send(conn, ends[0]), 0);
    dead = conn;
    ck_assert_ptr_null(dead->stream.record); /* no key is left */
    assert_moved(dead);
    ck_assert_int_eq(tlsagent_conn_fd(dead), fd); /* to be taken out of an event loop */
    conn = move_receive();
    assert_moved(dead);
    prove_alive();
    ck_assert_int_eq(tlsagent_close(dead), 0); /* no close_notify from the dead */
    prove_alive();
    ck_assert_int_eq(fcntl(fd, F_GETFD), -1);
    move_end();
}
END_TEST

/* Fill the carrier. Returns how many messages it took. */
static int
fill_carrier(void)
{
    static const uint8_t junk[60000];
    int count = 0;

    while (send(ends[0], junk, sizeof(junk), MSG_DONTWAIT) > 0)
        count++;
    while (send(ends[0], junk, 1, MSG_DONTWAIT) > 0)
        count++;
    return count;
}

static void
empty_carrier(int count)
{
    static uint8_t junk[60000];

    for (; count > 0; count--)
        ck_assert_int_gt(recv(ends[1], junk, sizeof(junk), MSG_DONTWAIT), 0);
}

static void *
send_in_thread(void *argument)
{
    *(int *)argument = tlsagent_conn_send(conn, ends[0]);
    return NULL;
}

/* While a sender waits for room its object is dead: the message is not out yet. */
START_TEST(dead_before_the_message_leaves)
{
    pthread_t thread;
    int count, rc = 1, i;

    begin(0x1301);
    count = fill_carrier();
    ck_assert_int_eq(pthread_create(&thread, NULL, send_in_thread, &rc), 0);
    for (i = 0; i < 5000 && __atomic_load_n(&conn->phase, __ATOMIC_SEQ_CST) != CONN_MOVED; i++)
        usleep(1000);
    ck_assert_int_eq(conn->phase, CONN_MOVED);
    ck_assert_int_eq(tlsagent_write(conn, "x", 1), -1);
    ck_assert_int_eq(rc, 1);
    empty_carrier(count);
    pthread_join(thread, NULL);
    ck_assert_int_eq(rc, 0);
    tlsagent_abandon(conn);
    conn = move_receive();
    prove_alive();
    move_end();
}
END_TEST

/* Not sent for want of room: alive, byte for byte; and later it can be. */
START_TEST(a_failed_send_revives)
{
    int count;

    for (int state = 0; state < 3; state++) {
        begin(fixture_suites[_i]);
        fcntl(ends[0], F_SETFL, O_NONBLOCK);
        count = fill_carrier();
        write_peer(9000);
        read_ours(state * 100 + 1);
        if (state == 1) {
            setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &(int){1}, sizeof(int));
            while (conn->stream.out.end == conn->stream.out.start)
                write_ours(100000);
        }
        for (int i = 0; i < 3; i++) {
            ck_assert_int_eq(tlsagent_conn_send(conn, ends[0]), TLSAGENT_WANT_POLLOUT);
            ck_assert_int_eq(tlsagent_error_code(conn), TLSAGENT_OK);
            if (state == 2)
                prove_alive();
        }
        empty_carrier(count);
        move();
        prove_alive();
        move_end();
    }
}
END_TEST

START_TEST(a_receiver_that_is_gone)
{
    begin(0x1303);
    close(ends[1]);
    ck_assert_int_eq(tlsagent_conn_send(conn, ends[0]), -1);
    ck_assert_int_eq(tlsagent_error_code(conn), TLSAGENT_E_SYSTEM);
    ck_assert_ptr_nonnull(strstr(tlsagent_error(conn), "is gone"));
    prove_alive();
    ends[1] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    move_end();
}
END_TEST

/* It took the message and dies: the peer sees an end without close_notify, nothing stays open. */
START_TEST(a_receiver_that_dies_with_the_message)
{
    char byte;
    size_t n;

    begin(0x1301);
    ck_assert_int_eq(tlsagent_conn_send(conn, ends[0]), 0);
    tlsagent_close(conn);
    conn = NULL;
    ck_assert_int_eq(SSL_read_ex(peer, &byte, 1, &n), 0);
    ck_assert_int_eq(SSL_get_error(peer, 0), SSL_ERROR_WANT_READ);
    close(ends[0]);
    close(ends[1]);
    ends[0] = ends[1] = -1;
    ck_assert_int_eq(SSL_read_ex(peer, &byte, 1, &n), 0);
    ck_assert_int_ne(SSL_get_error(peer, 0), SSL_ERROR_WANT_READ);
    move_end();
}
END_TEST

START_TEST(wrong_carriers_are_told)
{
    int wrong[5][2];

    begin(0x1301);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, wrong[0]), 0);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_DGRAM, 0, wrong[1]), 0);
    ck_assert_int_eq(pipe(wrong[2]), 0);
    wrong[3][0] = socket(AF_INET, SOCK_DGRAM, 0);
    wrong[3][1] = -1;
    wrong[4][0] = socket(AF_UNIX, SOCK_SEQPACKET, 0); /* not connected */
    wrong[4][1] = -1;
    for (int i = 0; i < 5; i++) {
        struct tlsagent_conn *failed;

        ck_assert_int_eq(tlsagent_conn_send(conn, wrong[i][0]), -1);
        ck_assert_int_eq(tlsagent_error_code(conn),
                         i < 4 ? TLSAGENT_E_ARGUMENT : TLSAGENT_E_SYSTEM);
        prove_alive();
        if (i == 4)
            break;
        failed = tlsagent_conn_receive(wrong[i][0]);
        ck_assert_int_eq(tlsagent_handshake(failed), -1);
        ck_assert_int_eq(tlsagent_error_code(failed), TLSAGENT_E_ARGUMENT);
        tlsagent_abandon(failed);
    }
    for (int i = 0; i < 5; i++) {
        close(wrong[i][0]);
        close(wrong[i][1]);
    }
    errno = 0;
    ck_assert_int_eq(tlsagent_conn_send(NULL, ends[0]), -1);
    ck_assert_int_eq(errno, EINVAL);
    move_end();
}
END_TEST

START_TEST(nothing_to_receive)
{
    begin(0x1301);
    fcntl(ends[1], F_SETFL, O_NONBLOCK);
    ck_assert_ptr_null(tlsagent_conn_receive(ends[1]));
    ck_assert_int_eq(errno, EAGAIN);
    close(ends[0]);
    ends[0] = -1;
    ck_assert_ptr_null(tlsagent_conn_receive(ends[1]));
    ck_assert_int_eq(errno, 0);
    move_end();
}
END_TEST

/* A receiver without free descriptors loses nothing: it may come again. */
START_TEST(a_receiver_without_descriptors)
{
    struct rlimit limit, none;

    begin(0x1301);
    ck_assert_int_eq(tlsagent_conn_send(conn, ends[0]), 0);
    getrlimit(RLIMIT_NOFILE, &limit);
    for (rlim_t missing = 1; missing <= 2; missing++) {
        int next = fcntl(0, F_DUPFD, 0);

        close(next);
        none = (struct rlimit){(rlim_t)next + missing - 1, limit.rlim_max};
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
        ck_assert_ptr_null(tlsagent_conn_receive(ends[1]));
        ck_assert_int_eq(errno, EMFILE);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    }
    tlsagent_abandon(conn);
    conn = move_receive();
    prove_alive();
    move_end();
}
END_TEST

/* The kernel counts what is under way per user (root is free of it): a clear error, nothing lost.
 */
START_TEST(too_many_under_way)
{
    int status;
    pid_t child;

    begin(0x1301);
    child = fork();
    ck_assert_int_ne(child, -1);
    if (child == 0) {
        int limit = 20, i;

        conn = NULL; /* the parent's */
        if (geteuid() == 0 && (setgid(54321) == -1 || setuid(54321) == -1))
            _exit(2);
        setrlimit(RLIMIT_NOFILE, &(struct rlimit){(rlim_t)limit, (rlim_t)limit});
        for (i = 0; i < 100; i++) {
            struct traffic_state server, client;
            int sockets[2];

            if (socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == -1)
                _exit(3);
            fixture_states(0x1301, 16384, &server, &client);
            conn = move_make(sockets[0], &server);
            if (tlsagent_conn_send(conn, ends[0]) == -1)
                break;
            tlsagent_close(conn);
            close(sockets[1]);
        }
        if (i == 100 || tlsagent_error_code(conn) != TLSAGENT_E_BUSY ||
            tlsagent_write(conn, "x", 1) != 1)
            _exit(4);
        _exit(0);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", status);
    move_end();
}
END_TEST

/* ---- fork and threads ---- */

/* A child has its parent's connection only if it is given to it; then also as another user (if we
 * are root and can make it one). */
START_TEST(a_child_gets_it_on_purpose)
{
    int status;
    pid_t child;

    begin(fixture_suites[_i]);
    write_ours(1000);
    child = fork();
    ck_assert_int_ne(child, -1);
    if (child == 0) {
        struct tlsagent_conn *given;

        if (tlsagent_write(conn, "x", 1) != -1 || tlsagent_error_code(conn) != TLSAGENT_E_FORKED)
            _exit(1);
        if (tlsagent_conn_send(conn, ends[0]) != -1 ||
            tlsagent_error_code(conn) != TLSAGENT_E_FORKED)
            _exit(2);
        tlsagent_abandon(conn);
        if (geteuid() == 0 && (setgid(54321) == -1 || setuid(54321) == -1))
            _exit(4);
        given = tlsagent_conn_receive(ends[1]);
        if (tlsagent_handshake(given) != 0 || tlsagent_write(given, data + 1000, 2000) != 2000 ||
            tlsagent_close(given) != 0)
            _exit(3);
        _exit(0);
    }
    ck_assert_int_eq(tlsagent_conn_send(conn, ends[0]), 0);
    ck_assert_int_eq(tlsagent_write(conn, "x", 1), -1);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", status);
    to_peer.sent = 3000;
    ck_assert_uint_eq(to_peer.got, 0);
    for (int i = 0; to_peer.got < 3000; i++) {
        uint8_t bytes[4000];
        size_t n;

        ck_assert_int_lt(i, 100);
        if (SSL_read_ex(peer, bytes, sizeof(bytes), &n) == 1)
            expect_bytes(&to_peer, bytes, n);
    }
    ck_assert_int_eq(SSL_read(peer, &(char){0}, 1), 0);
    ck_assert_int_eq(SSL_get_error(peer, 0), SSL_ERROR_ZERO_RETURN); /* the child's close_notify */
    move_end();
}
END_TEST

static void *
receive_in_thread(void *argument)
{
    (void)argument;
    return tlsagent_conn_receive(ends[1]); /* waits: the socket is blocking */
}

START_TEST(from_thread_to_thread)
{
    pthread_t thread;
    void *result;

    begin(fixture_suites[_i]);
    for (int i = 0; i < 10; i++) {
        write_peer(3000);
        read_ours(100);
        ck_assert_int_eq(pthread_create(&thread, NULL, receive_in_thread, NULL), 0);
        ck_assert_int_eq(tlsagent_conn_send(conn, ends[0]), 0);
        pthread_join(thread, &result);
        tlsagent_abandon(conn);
        conn = result;
        ck_assert_int_eq(tlsagent_handshake(conn), 0);
        prove_alive();
    }
    move_end();
}
END_TEST

/* Many wait in one queue; then all go on. */
START_TEST(a_queue_of_connections)
{
    struct traffic_state server, client;
    struct tlsagent_conn *sent;
    struct stream far[50];
    char bytes[20], back[20];
    int sockets[50][2];

    move_open();
    for (int i = 0; i < 50; i++) {
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets[i]), 0);
        fixture_states(0x1303, 16384, &server, &client);
        sent = move_make(sockets[i][0], &server);
        ck_assert_int_eq(stream_start(&far[i], sockets[i][1], &client, false, NULL, 0, NULL), 0);
        ck_assert_int_eq(tlsagent_conn_send(sent, ends[0]), 0);
        tlsagent_close(sent);
    }
    close(ends[0]);
    ends[0] = -1;
    for (int i = 0; i < 50; i++) {
        int size = snprintf(bytes, sizeof(bytes), "number %d", i);

        conn = move_receive();
        ck_assert_int_eq(tlsagent_write(conn, bytes, (size_t)size), size);
        tlsagent_close(conn);
        ck_assert_int_eq(stream_read(&far[i], back, sizeof(back), NULL), size);
        ck_assert_mem_eq(back, bytes, (size_t)size);
        ck_assert_int_eq(stream_read(&far[i], back, sizeof(back), NULL), 0);
        stream_clear(&far[i]);
        close(sockets[i][1]);
    }
    conn = NULL;
    ck_assert_ptr_null(tlsagent_conn_receive(ends[1]));
    ck_assert_int_eq(errno, 0);
    move_end();
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("moving a connection");
    TCase *tests = tcase_create("states"), *owner = tcase_create("one owner");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, a_hundred_moves_in_the_middle_of_traffic, 0, FIXTURE_SUITES);
    tcase_add_test(tests, facts_go_along);
    tcase_add_loop_test(tests, half_read_records_go_along, 0, A_FEW);
    tcase_add_loop_test(tests, a_record_in_pieces, 0, A_FEW);
    tcase_add_loop_test(tests, unsent_records_go_along, 0, A_FEW);
    tcase_add_loop_test(tests, more_waiting_than_a_message_takes, 0, A_FEW);
    tcase_add_loop_test(tests, an_owed_key_update_goes_along, 0, 3);
    tcase_add_loop_test(tests, a_key_update_in_pieces, 0, 3);
    tcase_add_loop_test(tests, after_the_peers_close_notify, 0, A_FEW);
    tcase_add_loop_test(tests, a_stop_goes_along, 0, A_FEW);
    tcase_add_loop_test(tests, after_our_close_notify, 0, A_FEW);
    tcase_add_loop_test(tests, a_refused_renegotiation_goes_along, 3, FIXTURE_SUITES);
    tcase_add_test(tests, every_flag_goes_along);
    tcase_add_test(tests, failures_go_along);
    suite_add_tcase(suite, tests);
    tcase_set_timeout(owner, 60);
    tcase_add_test(owner, the_senders_object_is_dead);
    tcase_add_test(owner, dead_before_the_message_leaves);
    tcase_add_loop_test(owner, a_failed_send_revives, 0, A_FEW);
    tcase_add_test(owner, a_receiver_that_is_gone);
    tcase_add_test(owner, a_receiver_that_dies_with_the_message);
    tcase_add_test(owner, wrong_carriers_are_told);
    tcase_add_test(owner, nothing_to_receive);
    tcase_add_test(owner, a_receiver_without_descriptors);
    tcase_add_test(owner, too_many_under_way);
    tcase_add_loop_test(owner, a_child_gets_it_on_purpose, 0, A_FEW);
    tcase_add_loop_test(owner, from_thread_to_thread, 0, A_FEW);
    tcase_add_test(owner, a_queue_of_connections);
    suite_add_tcase(suite, owner);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
