/*
 * test_stream_openssl.c: the TLS data stream with OpenSSL as the peer. OpenSSL does the handshake
 * on both sides (openssl_fixture.h); the stream takes one side over.
 */
#include "tests/unit/openssl_fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>

#include "client/stream.h"

static struct error error;
static struct stream ours;

static void
begin(uint16_t suite_id, bool is_server, const char *early)
{
    fixture_handshake(suite_id, is_server, early);
    ck_assert_int_eq(
        stream_start(&ours, fds[0], &half.state, is_server, half.early, half.early_size, &error),
        0);
    fixture_handed_over();
}

static void
finish(void)
{
    stream_clear(&ours);
    SSL_free(peer);
    close(fds[0]);
    close(fds[1]);
}

/* ---- one side to the other ---- */

static void
send_to_peer(const uint8_t *data, size_t size)
{
    static uint8_t back[200000];
    size_t sent = 0, got = 0, n;

    while (got < size) {
        ssize_t written = sent < size ? stream_write(&ours, data + sent, size - sent, &error) : 0;

        ck_assert_msg(written >= 0 || written == STREAM_WANT_POLLOUT, "%s", error.text);
        sent += written > 0 ? (size_t)written : 0;
        if (sent == size)
            ck_assert_int_ne(stream_flush(&ours, &error), -1);
        if (SSL_read_ex(peer, back + got, sizeof(back) - got, &n) == 1)
            got += n;
        else
            ck_assert_int_eq(SSL_get_error(peer, 0), SSL_ERROR_WANT_READ);
    }
    ck_assert_uint_eq(got, size);
    ck_assert_mem_eq(back, data, size);
}

static void
receive_from_peer(const uint8_t *data, size_t size, size_t piece)
{
    static uint8_t back[200000];
    size_t sent = 0, got = 0, n;
    ssize_t received;

    while (got < size) {
        if (sent < size && SSL_write_ex(peer, data + sent, size - sent, &n) == 1)
            sent += n;
        received = stream_read(&ours, back + got, piece, &error);
        ck_assert_msg(received > 0 || received == STREAM_WANT_POLLIN, "%s", error.text);
        got += received > 0 ? (size_t)received : 0;
    }
    ck_assert_uint_eq(got, size);
    ck_assert_mem_eq(back, data, size);
}

static uint8_t data[100000];

/* Loop number: suite, and which side is ours. */
START_TEST(talks_to_openssl)
{
    static const size_t sizes[] = {1, 16, 16383, 16384, 16385, 100000};
    bool is_server = _i < FIXTURE_SUITES;
    uint8_t back[10];
    size_t i, n;

    fixture_fill(data, sizeof(data), 6);
    begin(fixture_suites[_i % FIXTURE_SUITES], is_server, NULL);
    ck_assert_int_eq(stream_read(&ours, back, 1, &error), STREAM_WANT_POLLIN); /* client: tickets */
    for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        send_to_peer(data, sizes[i]);
        receive_from_peer(data, sizes[i], i % 2 == 0 ? 100000 : 1000);
    }
    ck_assert_int_eq(stream_shutdown_send(&ours, &error), 0);
    ck_assert_int_eq(SSL_read_ex(peer, back, 1, &n), 0);
    ck_assert_int_eq(SSL_get_error(peer, 0), SSL_ERROR_ZERO_RETURN);
    ck_assert_int_eq(stream_shutdown(&ours, &error), STREAM_WANT_POLLIN);
    ck_assert_int_eq(SSL_shutdown(peer), 1);
    ck_assert_int_eq(stream_shutdown(&ours, &error), 0);
    finish();
}
END_TEST

START_TEST(openssl_closes_first)
{
    uint8_t back[10];
    size_t n;

    begin(fixture_suites[_i], true, NULL);
    ck_assert_int_eq(SSL_write(peer, "bye", 3), 3);
    ck_assert_int_eq(SSL_shutdown(peer), 0);
    ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), 3);
    ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), 0);
    ck_assert_int_eq(stream_write(&ours, "more", 4, &error), 4);
    ck_assert_int_eq(SSL_read_ex(peer, back, sizeof(back), &n), 1);
    ck_assert_uint_eq(n, 4);
    ck_assert_int_eq(stream_shutdown_send(&ours, &error), 0);
    ck_assert_int_eq(SSL_shutdown(peer), 1);
    finish();
}
END_TEST

/* A request in one flight with Finished comes as early bytes. */
START_TEST(early_bytes_are_read_first)
{
    uint8_t back[20];

    begin(fixture_suites[_i], true, "GET / HTTP/1.0");
    ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), 14);
    ck_assert_mem_eq(back, "GET / HTTP/1.0", 14);
    receive_from_peer((const uint8_t *)"Host:", 5, 100);
    finish();
}
END_TEST

/* Keys change a hundred times, asked for by either side, with data both ways in between. */
START_TEST(keys_change_under_way)
{
    bool is_server = _i < 3;
    int i;

    fixture_fill(data, sizeof(data), 2);
    begin(fixture_suites[_i % 3], is_server, NULL);
    for (i = 0; i < 100; i++) {
        if (i % 2 == 0)
            ck_assert_int_eq(SSL_key_update(peer, i % 4 == 0 ? SSL_KEY_UPDATE_REQUESTED
                                                             : SSL_KEY_UPDATE_NOT_REQUESTED),
                             1);
        if (i % 3 == 0)
            ck_assert_int_eq(stream_update_keys(&ours, i % 2 == 1, &error), 0);
        send_to_peer(data, 100 + (size_t)i * 300);
        receive_from_peer(data, 50 + (size_t)i * 500, 20000);
    }
    finish();
}
END_TEST

/* OpenSSL as a TLS 1.2 client tries to renegotiate: refused, the connection is told so. */
START_TEST(renegotiation_is_refused)
{
    uint8_t back[10];
    size_t n;

    begin(0xc02f, true, NULL);
    SSL_clear_options(peer, SSL_OP_NO_RENEGOTIATION);
    ck_assert_int_eq(SSL_renegotiate(peer), 1);
    ck_assert_int_le(SSL_do_handshake(peer), 0);
    ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), STREAM_WANT_POLLIN);
    ck_assert_int_eq(SSL_read_ex(peer, back, sizeof(back), &n), 0);
    ck_assert_int_eq(SSL_get_error(peer, 0), SSL_ERROR_SSL); /* it takes the refusal as final */
    ck_assert_int_eq(stream_read(&ours, back, sizeof(back), &error), -1);
    ck_assert_int_eq(ours.code, TLSAGENT_E_ALERT);
    finish();
}
END_TEST

/* TLS 1.2 GCM: every explicit nonce on the wire, Finished's included, once. */
START_TEST(nonces_on_the_wire_are_unique)
{
    static uint8_t bytes[2000000];
    uint64_t nonce, expected = 0;
    size_t at, size = 0, records = 0;
    ssize_t n;
    int i, j;

    begin(0xc02f, true, NULL);
    expected = half.state.send.explicit_nonce;
    for (i = 0; i < 200; i++) {
        ck_assert_int_eq(stream_write(&ours, data, 1 + (size_t)i * 97, &error), 1 + i * 97);
        while ((n = recv(fds[1], bytes + size, sizeof(bytes) - size, MSG_DONTWAIT)) > 0)
            size += (size_t)n;
    }
    ck_assert_int_eq(stream_shutdown_send(&ours, &error), 0);
    while ((n = recv(fds[1], bytes + size, sizeof(bytes) - size, MSG_DONTWAIT)) > 0)
        size += (size_t)n;
    for (at = 0; at < size; at += 5 + ((size_t)bytes[at + 3] << 8 | bytes[at + 4])) {
        for (nonce = 0, j = 0; j < 8; j++)
            nonce = nonce << 8 | bytes[at + 5 + (size_t)j];
        ck_assert_uint_eq(nonce, expected); /* counting up, from Finished's plus one */
        expected++;
        records++;
    }
    ck_assert_uint_gt(records, 200);
    finish();
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("stream with OpenSSL");
    TCase *tests = tcase_create("peers");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, talks_to_openssl, 0, 2 * FIXTURE_SUITES);
    tcase_add_loop_test(tests, openssl_closes_first, 0, FIXTURE_SUITES);
    tcase_add_loop_test(tests, early_bytes_are_read_first, 0, FIXTURE_SUITES);
    tcase_add_loop_test(tests, keys_change_under_way, 0, 6);
    tcase_add_test(tests, renegotiation_is_refused);
    tcase_add_test(tests, nonces_on_the_wire_are_unique);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
