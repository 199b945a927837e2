/*
 * test_move_plain.c: connections in the stream form change hands: a plain descriptor with its
 * facts, and a real relay (of this build) behind it.
 */
#include <libgen.h>
#include <netinet/in.h>

#include "tests/unit/move_fixture.h"

static int plain; /* the caller's descriptor */

/* The relay that was built with this program. */
static void
find_relay(void)
{
    char self[4096], path[4200];
    ssize_t size = readlink("/proc/self/exe", self, sizeof(self) - 1);

    ck_assert_int_gt(size, 0);
    self[size] = '\0';
    snprintf(path, sizeof(path), "%s/../../tlsagent-relay", dirname(self));
    ck_assert_msg(access(path, X_OK) == 0, "%s is not built", path);
    setenv("TLSAGENT_RELAY", path, 1);
}

static void
begin(uint16_t suite)
{
    find_relay();
    move_begin(suite, NULL);
    fcntl(fds[1], F_SETFL, 0); /* OpenSSL waits for the relay */
    plain = tlsagent_stream_fd(conn);
    ck_assert_msg(plain != -1, "%s", tlsagent_error(conn));
    ck_assert_int_eq(tlsagent_conn_fd(conn), plain);
    fds[0] = -1; /* gone with the connection */
}

static void
prove_alive(int fd)
{
    static unsigned round;
    char said[32], heard[32];
    int size = snprintf(said, sizeof(said), "round %u", round++);
    size_t n;

    ck_assert_int_eq(send(fd, said, (size_t)size, MSG_NOSIGNAL), size);
    ck_assert_int_eq(SSL_read_ex(peer, heard, sizeof(heard), &n), 1);
    ck_assert_uint_eq(n, (size_t)size);
    ck_assert_mem_eq(heard, said, n);
    ck_assert_int_eq(SSL_write_ex(peer, said, (size_t)size, &n), 1);
    ck_assert_int_eq(recv(fd, heard, sizeof(heard), 0), size);
    ck_assert_mem_eq(heard, said, (size_t)size);
}

/* close_notify from the relay, and nothing else. */
static void
assert_clean_end(void)
{
    uint8_t byte;
    size_t n;

    ck_assert_int_eq(SSL_read_ex(peer, &byte, 1, &n), 0);
    ck_assert_int_eq(SSL_get_error(peer, 0), SSL_ERROR_ZERO_RETURN);
    SSL_shutdown(peer);
}

/* One descriptor more than at the beginning: the channel to the relay, which the process keeps. */
static void
end(void)
{
    tlsagent_abandon(conn);
    conn = NULL;
    assert_clean_end();
    SSL_free(peer);
    peer = NULL;
    close(fds[1]);
    close(ends[0]);
    close(ends[1]);
    ck_assert_uint_eq(slot_count(), slots_before);
    ck_assert_uint_eq(count_fds(), fds_before + 1);
}

START_TEST(ten_moves_in_the_middle_of_traffic)
{
    struct tlsagent_conn *old;
    char heard[64];
    size_t n;

    begin(fixture_suites[_i]);
    prove_alive(plain);
    for (int i = 0; i < 10; i++) {
        old = conn;
        ck_assert_int_eq(SSL_write_ex(peer, "under way", 9, &n), 1);
        ck_assert_msg(tlsagent_conn_send(old, ends[0]) == 0, "%s", tlsagent_error(old));
        ck_assert_int_eq(tlsagent_error_code(old), TLSAGENT_E_MOVED);
        ck_assert_int_eq(tlsagent_conn_send(old, ends[0]), -1);
        ck_assert_int_eq(tlsagent_stream_fd(old), -1);
        tlsagent_close(old);
        if (i == 0)
            close(plain); /* the caller's own; later ones went with their object */
        conn = move_receive();
        ck_assert_int_eq(recv(tlsagent_conn_fd(conn), heard, 9, MSG_WAITALL), 9);
        prove_alive(tlsagent_conn_fd(conn));
    }
    end();
}
END_TEST

START_TEST(facts_and_the_descriptor_go_along)
{
    size_t size;

    begin(0x1302);
    ck_assert_int_eq(tlsagent_conn_send(conn, ends[0]), 0);
    tlsagent_abandon(conn);
    close(plain);
    conn = move_receive();
    ck_assert_str_eq(tlsagent_conn_form(conn), "stream");
    ck_assert_str_eq(tlsagent_conn_version(conn), "TLSv1.3");
    ck_assert_str_eq(tlsagent_conn_cipher(conn), "TLS_AES_256_GCM_SHA384");
    ck_assert_str_eq(tlsagent_conn_servername(conn), MOVE_SNI);
    ck_assert_str_eq(tlsagent_conn_alpn(conn), MOVE_ALPN);
    ck_assert_str_eq(tlsagent_conn_context(conn), MOVE_CONTEXT);
    ck_assert_int_eq(tlsagent_conn_resumed(conn), 1);
    ck_assert_int_eq(tlsagent_conn_agent_pid(conn), MOVE_PID);
    ck_assert_uint_eq(tlsagent_conn_peer_count(conn), 2);
    ck_assert_mem_eq(tlsagent_conn_peer_der(conn, 0, &size), "chain", 5);
    plain = tlsagent_stream_fd(conn); /* now it is ours again */
    ck_assert_int_ne(plain, -1);
    ck_assert_int_eq(tlsagent_stream_fd(conn), -1);
    ck_assert_int_eq(tlsagent_write(conn, "x", 1), -1);
    ck_assert_int_eq(tlsagent_error_code(conn), TLSAGENT_E_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(tlsagent_error(conn), "is a plain descriptor"));
    tlsagent_abandon(conn);
    conn = NULL;
    prove_alive(plain);
    close(plain);
    end();
}
END_TEST

START_TEST(a_failed_send_revives)
{
    int full[2], rc = 0;

    begin(0x1301);
    ck_assert_int_eq(channel_pair(full), 0);
    fcntl(full[0], F_SETFL, O_NONBLOCK);
    while (send(full[0], "x", 1, MSG_NOSIGNAL) == 1)
        continue;
    ck_assert_int_eq(tlsagent_conn_send(conn, full[0]), TLSAGENT_WANT_POLLOUT);
    prove_alive(plain);
    close(full[1]);
    rc = tlsagent_conn_send(conn, full[0]);
    ck_assert_int_eq(rc, -1);
    ck_assert_int_eq(tlsagent_error_code(conn), TLSAGENT_E_SYSTEM);
    prove_alive(plain);
    close(full[0]);
    close(plain);
    end();
}
END_TEST

/* Bytes that are decrypted and not yet read: no relay, and they are still here; with one they come
 * out of the plain descriptor, once. */
START_TEST(what_was_decrypted_is_read_once_with_a_relay_and_without)
{
    char heard[64];
    size_t n;

    move_begin(fixture_suites[_i], NULL);
    fcntl(fds[1], F_SETFL, 0);
    ck_assert_int_eq(SSL_write_ex(peer, "hello world", 11, &n), 1);
    ck_assert_int_eq(tlsagent_read(conn, heard, 5), 5);
    setenv("TLSAGENT_RELAY", "/nonexistent/relay", 1);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(tlsagent_stream_fd(conn), -1);
        ck_assert_ptr_nonnull(strstr(tlsagent_error(conn), "/nonexistent/relay"));
    }
    ck_assert_uint_eq(tlsagent_pending(conn), 6);
    ck_assert_int_eq(tlsagent_read(conn, heard, 2), 2);
    ck_assert_mem_eq(heard, " w", 2);
    find_relay();
    plain = tlsagent_stream_fd(conn);
    ck_assert_msg(plain != -1, "%s", tlsagent_error(conn));
    fds[0] = -1;
    ck_assert_int_eq(recv(plain, heard, sizeof(heard), 0), 4);
    ck_assert_mem_eq(heard, "orld", 4);
    prove_alive(plain);
    close(plain);
    end();
}
END_TEST

/* The descriptor is the caller's. When it is not there any more, whatever has its number now must
 * not go to another process in its place. */
START_TEST(a_descriptor_that_is_another_one_now_stays_here)
{
    int other;

    begin(0x1301);
    close(plain);
    ck_assert_int_eq(tlsagent_conn_send(conn, ends[0]), -1);
    ck_assert_int_eq(tlsagent_error_code(conn), TLSAGENT_E_ARGUMENT);
    other = dup2(ends[1], plain);
    ck_assert_int_eq(other, plain);
    ck_assert_int_eq(tlsagent_conn_send(conn, ends[0]), -1);
    ck_assert_int_eq(tlsagent_error_code(conn), TLSAGENT_E_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(tlsagent_error(conn), "is not the connection's plain descriptor"));
    fcntl(ends[1], F_SETFL, O_NONBLOCK);
    ck_assert_ptr_null(tlsagent_conn_receive(ends[1]));
    ck_assert_int_eq(errno, EAGAIN);
    close(other);
    end();
}
END_TEST

/* A TCP socket is no plain descriptor: who writes to it would write to the network. */
START_TEST(a_network_socket_in_its_place_is_refused)
{
    struct tlsagent_conn *failed;
    int tcp, kept;

    begin(0x1301);
    tcp = socket(AF_INET, SOCK_STREAM, 0);
    kept = dup(plain);
    close(plain);
    ck_assert_int_eq(dup2(tcp, plain), plain);
    conn_set_plain(conn, plain, false); /* a sender that lies */
    ck_assert_int_eq(tlsagent_conn_send(conn, ends[0]), 0);
    failed = tlsagent_conn_receive(ends[1]);
    ck_assert_int_eq(tlsagent_handshake(failed), -1);
    ck_assert_int_eq(tlsagent_error_code(failed), TLSAGENT_E_MOVED);
    tlsagent_abandon(failed);
    close(plain);
    close(tcp);
    close(kept);
    end();
}
END_TEST

/* Nobody takes it: the queue dies, the relay sees the end, the peer a close_notify. */
START_TEST(a_message_that_nobody_takes_is_the_end)
{
    begin(0x1301);
    ck_assert_int_eq(tlsagent_conn_send(conn, ends[0]), 0);
    close(plain);
    close(ends[0]);
    close(ends[1]);
    ends[0] = ends[1] = -1;
    assert_clean_end();
    ck_assert_int_eq(channel_pair(ends), 0);
    tlsagent_abandon(conn);
    conn = NULL;
    SSL_free(peer);
    peer = NULL;
    close(fds[1]);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("moving a plain descriptor");
    TCase *tests = tcase_create("plain");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, ten_moves_in_the_middle_of_traffic, 0, FIXTURE_SUITES);
    tcase_add_test(tests, facts_and_the_descriptor_go_along);
    tcase_add_test(tests, a_failed_send_revives);
    tcase_add_loop_test(tests, what_was_decrypted_is_read_once_with_a_relay_and_without, 0,
                        FIXTURE_SUITES);
    tcase_add_test(tests, a_descriptor_that_is_another_one_now_stays_here);
    tcase_add_test(tests, a_network_socket_in_its_place_is_refused);
    tcase_add_test(tests, a_message_that_nobody_takes_is_the_end);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
