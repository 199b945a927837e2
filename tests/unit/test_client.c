/* test_client.c: libtlsagent against an agent that the test plays. */
#include <sys/stat.h>

#include "tests/unit/fake_agent.h"

#include <malloc.h>
#include <pthread.h>
#include <sys/wait.h>

static struct fake fake;
static int fds_before;

static void
setup(void)
{
    fds_before = count_fds();
    fake_start(&fake);
}

static void
teardown(void)
{
    fake_stop(&fake);
    ck_assert_int_eq(count_fds(), fds_before);
}

/* ---- reaching the agent ---- */

START_TEST(no_agent_is_a_clear_error_at_once)
{
    struct tlsagent_conn *conn;
    struct tlsagent *agent;
    int pair[2];
    long start = now_ms();

    fake_die(&fake);
    agent = tlsagent_open(fake.path);
    ck_assert_ptr_nonnull(agent);
    ck_assert_int_eq(tlsagent_check(agent), -1);
    ck_assert_int_eq(tlsagent_agent_error_code(agent), TLSAGENT_E_AGENT);
    ck_assert_contains(tlsagent_agent_error(agent), fake.path);
    ck_assert_contains(tlsagent_agent_error(agent), "Connection refused");
    ck_assert_contains(tlsagent_agent_error(agent), "is tlsagentd running?");
    tcp_pair(pair);
    conn = tlsagent_accept_fd(agent, "www", pair[0]);
    ck_assert_int_eq(tlsagent_agent_error_code(agent), TLSAGENT_OK); /* success clears */
    ck_assert_int_eq(tlsagent_handshake(conn), -1);
    ck_assert_int_eq(tlsagent_error_code(conn), TLSAGENT_E_AGENT);
    ck_assert_contains(tlsagent_error(conn), "is tlsagentd running?");
    ck_assert_int_eq(tlsagent_handshake(conn), -1); /* and again */
    ck_assert_ptr_null(tlsagent_next(agent));       /* it was told */
    ck_assert_int_lt(now_ms() - start, 500);
    tlsagent_close(conn);
    tlsagent_free(agent);
    close(pair[0]);
    close(pair[1]);
}
END_TEST

START_TEST(impossible_path_is_an_error)
{
    char path[200];
    struct tlsagent *agent;

    memset(path, 'x', sizeof(path));
    path[sizeof(path) - 1] = '\0';
    agent = tlsagent_open(path);
    ck_assert_int_eq(tlsagent_check(agent), -1);
    ck_assert_int_eq(tlsagent_agent_error_code(agent), TLSAGENT_E_ARGUMENT);
    tlsagent_free(agent);
}
END_TEST

START_TEST(path_comes_from_the_environment)
{
    struct tlsagent *agent;

    setenv("TLSAGENT_SOCK", fake.path, 1);
    agent = tlsagent_open(NULL);
    fake_greet(&fake, 1);
    ck_assert_int_eq(tlsagent_check(agent), 0);
    tlsagent_free(agent);
}
END_TEST

START_TEST(denied_says_who_and_why)
{
    struct tlsagent *agent = tlsagent_open(fake.path);
    struct service_denied denied = {"add this user to a \"workers\" section"};
    uint8_t body[300];

    wait_readable(fake.listener);
    fake.greeting = accept4(fake.listener, NULL, NULL, SOCK_CLOEXEC);
    channel_send(fake.greeting, SERVICE_DENIED, body,
                 service_put_denied(&denied, body, sizeof(body)), NULL, 0);
    close_fd(&fake.greeting);
    ck_assert_int_eq(tlsagent_check(agent), -1);
    ck_assert_int_eq(tlsagent_agent_error_code(agent), TLSAGENT_E_NOT_PERMITTED);
    ck_assert_contains(tlsagent_agent_error(agent), denied.text);
    ck_assert_contains(tlsagent_agent_error(agent), "uid ");
    ck_assert_int_eq(tlsagent_check(agent), -1); /* still, without asking again at once */
    ck_assert_int_eq(tlsagent_agent_error_code(agent), TLSAGENT_E_NOT_PERMITTED);
    ck_assert_int_eq(is_readable(fake.listener, 0), 0);
    tlsagent_free(agent);
}
END_TEST

START_TEST(silent_agent_costs_a_second)
{
    struct tlsagent *agent = tlsagent_open(fake.path);
    long start = now_ms();

    ck_assert_int_eq(tlsagent_check(agent), -1);
    ck_assert_int_eq(tlsagent_agent_error_code(agent), TLSAGENT_E_AGENT);
    ck_assert_contains(tlsagent_agent_error(agent), "does not answer");
    ck_assert_int_ge(now_ms() - start, 900);
    ck_assert_int_lt(now_ms() - start, 3000);
    tlsagent_free(agent);
}
END_TEST

/* ---- the handshake ---- */

START_TEST(finished_connection_has_facts_and_carries_data)
{
    static const uint8_t chain[] = {0, 0, 3, 'a', 'b', 'c', 0, 0, 1, 'z'};
    struct tlsagent *agent = open_greeted(&fake, 1);
    struct service_finished said = fake_facts("www");
    struct tlsagent_conn *conn;
    struct fake_request request;
    struct stream peer;
    int pair[2], data, rc;
    const uint8_t *der;
    size_t size;
    char buffer[16];

    tcp_pair(pair);
    conn = tlsagent_accept_fd(agent, "www", pair[0]);
    ck_assert_int_eq(tlsagent_set_deadline(conn, 7000), 0);
    ck_assert_int_eq(tlsagent_set_forms(conn, TLSAGENT_FORM_RECORDS), 0);
    tlsagent_set_data(conn, &data);
    ck_assert_ptr_eq(tlsagent_data(conn), &data);
    ck_assert_str_eq(tlsagent_conn_context(conn), "www");
    ck_assert_ptr_null(tlsagent_conn_version(conn));
    ck_assert_int_eq((int)tlsagent_read(conn, buffer, sizeof(buffer)), -1); /* too early */
    ck_assert_int_eq(tlsagent_error_code(conn), TLSAGENT_E_ARGUMENT);
    set_nonblocking(pair[0]);
    ck_assert_int_eq(tlsagent_handshake(conn), TLSAGENT_WANT_POLLIN);
    ck_assert_int_eq(tlsagent_set_deadline(conn, 1), -1); /* too late */
    request = fake_expect(&fake, 0, SERVICE_ACCEPT);
    ck_assert_str_eq(request.accept.context, "www");
    ck_assert_uint_eq(request.accept.forms, SERVICE_FORM_RECORDS);
    ck_assert_uint_le(request.accept.deadline_ms, 7000);
    ck_assert_uint_gt(request.accept.deadline_ms, 6000);
    close(request.fd);
    ck_assert_ptr_null(tlsagent_next(agent));
    ck_assert_int_eq(is_readable(tlsagent_fd(agent), 0), 0);

    said.id = request.accept.id;
    said.resumed = 1;
    said.chain = chain;
    said.chain_size = sizeof(chain);
    ck_assert_int_eq(fake_send_facts(&fake, 0, SERVICE_FINISHED, &said, -1), CHANNEL_OK);
    wait_readable(tlsagent_fd(agent));
    ck_assert_ptr_eq(tlsagent_next(agent), conn);
    ck_assert_int_eq(tlsagent_handshake(conn), 0);
    ck_assert_ptr_null(tlsagent_next(agent));
    tlsagent_free(agent); /* finished connections live on */

    ck_assert_int_eq(tlsagent_error_code(conn), TLSAGENT_OK);
    ck_assert_str_eq(tlsagent_error(conn), "");
    ck_assert_int_eq(tlsagent_conn_fd(conn), pair[0]);
    ck_assert_str_eq(tlsagent_conn_version(conn), "TLSv1.3");
    ck_assert_int_eq(tlsagent_conn_version_number(conn), 0x0304);
    ck_assert_str_eq(tlsagent_conn_cipher(conn), "TLS_AES_128_GCM_SHA256");
    ck_assert_str_eq(tlsagent_conn_servername(conn), "example.org");
    ck_assert_str_eq(tlsagent_conn_alpn(conn), "h2");
    ck_assert_str_eq(tlsagent_conn_form(conn), "records");
    ck_assert_str_eq(tlsagent_conn_context(conn), "www");
    ck_assert_int_eq(tlsagent_conn_resumed(conn), 1);
    ck_assert_int_eq(tlsagent_conn_agent_pid(conn), 4711);
    ck_assert_uint_eq(tlsagent_conn_peer_count(conn), 2);
    der = tlsagent_conn_peer_der(conn, 1, &size);
    ck_assert_uint_eq(size, 1);
    ck_assert_int_eq(der[0], 'z');
    ck_assert_ptr_nonnull(tlsagent_conn_peer_der(conn, 0, &size));
    ck_assert_uint_eq(size, 3);
    ck_assert_ptr_null(tlsagent_conn_peer_der(conn, 2, &size));

    peer_start(&peer, pair[1]);
    ck_assert_int_eq((int)tlsagent_read(conn, buffer, sizeof(buffer)), TLSAGENT_WANT_POLLIN);
    ck_assert_int_eq((int)stream_write(&peer, "hello", 5, NULL), 5);
    wait_readable(pair[0]);
    ck_assert_int_eq((int)tlsagent_peek(conn, buffer, 2), 2);
    ck_assert_uint_ge(tlsagent_pending(conn), 5);
    ck_assert_int_eq((int)tlsagent_read(conn, buffer, sizeof(buffer)), 5);
    ck_assert_mem_eq(buffer, "hello", 5);
    ck_assert_int_eq((int)tlsagent_write(conn, "world", 5), 5);
    ck_assert_int_eq(tlsagent_flush(conn), 0);
    ck_assert_int_eq((int)stream_read(&peer, buffer, sizeof(buffer), NULL), 5);
    ck_assert_mem_eq(buffer, "world", 5);
    ck_assert_int_eq(tlsagent_shutdown(conn), TLSAGENT_WANT_POLLIN);
    ck_assert_int_eq((int)stream_read(&peer, buffer, sizeof(buffer), NULL), 0);
    ck_assert_int_eq(stream_shutdown_send(&peer, NULL), 0);
    wait_readable(pair[0]);
    while ((rc = tlsagent_shutdown(conn)) == TLSAGENT_WANT_POLLIN)
        wait_readable(pair[0]);
    ck_assert_int_eq(rc, 0);
    ck_assert_int_eq(tlsagent_close(conn), 0);
    stream_clear(&peer);
    ck_assert_int_ne(fcntl(pair[0], F_GETFL), -1); /* the fd stays the caller's */
    close(pair[0]);
    close(pair[1]);
}
END_TEST

/* One packet for close_notify and FIN; a caller who keeps the descriptor only delays it. */
START_TEST(close_notify_goes_with_the_end)
{
    struct tlsagent *agent = open_greeted(&fake, 1);
    struct service_finished said = fake_facts("www");
    struct fake_request request;
    struct tlsagent_conn *conn;
    struct stream peer;
    char buffer[16];
    int pair[2];

    for (int keeps = 0; keeps < 2; keeps++) {
        tcp_pair(pair);
        peer_start(&peer, pair[1]);
        conn = begin(agent, "www", pair[0]);
        request = fake_expect(&fake, 0, SERVICE_ACCEPT);
        close(request.fd);
        said.id = request.accept.id;
        fake_send_facts(&fake, 0, SERVICE_FINISHED, &said, -1);
        ck_assert_ptr_eq(next_finished(agent), conn);
        ck_assert_int_eq(tlsagent_close(conn), 0);
        ck_assert_int_eq(is_readable(pair[1], 0), 0);
        if (!keeps)
            close(pair[0]);
        ck_assert_int_eq((int)stream_read(&peer, buffer, sizeof(buffer), NULL), 0);
        if (keeps)
            close(pair[0]);
        ck_assert_int_eq((int)recv(pair[1], buffer, 1, 0), 0);
        stream_clear(&peer);
        close(pair[1]);
    }
    tlsagent_free(agent);
}
END_TEST

START_TEST(truncation_is_told_and_data_before_it_is_not_lost)
{
    struct tlsagent *agent = open_greeted(&fake, 1);
    struct service_finished said = fake_facts("www");
    struct fake_request request;
    struct tlsagent_conn *conn;
    struct stream peer;
    uint8_t early[100];
    ssize_t early_size;
    char buffer[16];
    int pair[2];

    /* The handshaker has read what came glued to the handshake: it travels as early bytes. */
    tcp_pair(pair);
    peer_start(&peer, pair[1]);
    ck_assert_int_eq((int)stream_write(&peer, "early", 5, NULL), 5);
    wait_readable(pair[0]);
    early_size = recv(pair[0], early, sizeof(early), 0);
    ck_assert_int_gt((int)early_size, 5);
    conn = begin(agent, "www", pair[0]);
    request = fake_expect(&fake, 0, SERVICE_ACCEPT);
    close(request.fd);
    said.id = request.accept.id;
    said.early = early;
    said.early_size = (size_t)early_size;
    fake_send_facts(&fake, 0, SERVICE_FINISHED, &said, -1);
    ck_assert_ptr_eq(next_finished(agent), conn);
    ck_assert_uint_ge(tlsagent_pending(conn), 5);
    ck_assert_int_eq((int)tlsagent_read(conn, buffer, sizeof(buffer)), 5);
    close(pair[1]);
    wait_readable(pair[0]);
    ck_assert_int_eq((int)tlsagent_read(conn, buffer, sizeof(buffer)), -1);
    ck_assert_int_eq(tlsagent_error_code(conn), TLSAGENT_E_TRUNCATED);
    ck_assert_str_ne(tlsagent_error(conn), "");
    tlsagent_close(conn);
    tlsagent_free(agent);
    stream_clear(&peer);
    close(pair[0]);
}
END_TEST

START_TEST(handshake_may_begin_before_the_greeting)
{
    struct tlsagent *agent = tlsagent_open(fake.path);
    struct fake_request request;
    struct tlsagent_conn *conn;
    int pair[2];

    unix_pair(pair);
    conn = begin(agent, "smtp", pair[0]);
    fake_welcome(&fake);
    ck_assert_ptr_null(tlsagent_next(agent));
    fake_permit(&fake, "smtp", 3, 0);
    fake_push_cell(&fake, 2, 0); /* not of its group */
    wait_readable(tlsagent_fd(agent));
    ck_assert_ptr_null(tlsagent_next(agent));
    fake_push_cell(&fake, 3, 1);
    wait_readable(tlsagent_fd(agent));
    ck_assert_ptr_null(tlsagent_next(agent));
    request = fake_expect(&fake, 1, SERVICE_ACCEPT);
    close(request.fd);
    fake_finish(&fake, 1, request.accept.id, "smtp");
    ck_assert_ptr_eq(next_finished(agent), conn);
    ck_assert_int_eq(tlsagent_handshake(conn), 0);
    tlsagent_abandon(conn);
    tlsagent_free(agent);
    close(pair[0]);
    close(pair[1]);
}
END_TEST

/* Connections to the agent until its queue has no room. */
static int
fill_queue(int *fds, int most)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int count = 0, result = 0;

    memcpy(address.sun_path, fake.path, strlen(fake.path) + 1);
    while (result == 0) {
        ck_assert_int_lt(count, most);
        fds[count] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        result = connect(fds[count++], (struct sockaddr *)&address, sizeof(address));
    }
    ck_assert_int_eq(errno, EAGAIN);
    return count;
}

/* 0: there is room again in time. 1: there is none for a second. 2: the agent dies meanwhile. 3:
 * the handshake's own deadline is shorter. */
START_TEST(full_queue_is_waited_for_without_blocking)
{
    struct tlsagent *agent;
    struct fake_request request;
    struct tlsagent_conn *conn;
    int fds[200], pair[2], count = fill_queue(fds, 200);
    long start = now_ms();

    agent = tlsagent_open(fake.path);
    unix_pair(pair);
    conn = tlsagent_accept_fd(agent, "smtp", pair[0]);
    ck_assert_int_ne(fcntl(pair[0], F_SETFL, O_NONBLOCK), -1);
    ck_assert_int_eq(tlsagent_set_deadline(conn, _i == 3 ? 300 : 0), 0);
    ck_assert_int_eq(tlsagent_handshake(conn), TLSAGENT_WANT_POLLIN);
    ck_assert_int_lt(now_ms() - start, 200);
    for (start = now_ms(); now_ms() - start < 150;) {
        (void)is_readable(tlsagent_fd(agent), 150);
        ck_assert_ptr_null(tlsagent_next(agent));
    }
    if (_i == 2)
        fake_die(&fake);
    for (int i = 0; _i == 0 && i < count - 1; i++)
        close(accept4(fake.listener, NULL, NULL, SOCK_CLOEXEC));
    if (_i == 0) {
        while (!is_readable(fake.listener, 10))
            ck_assert_ptr_null(tlsagent_next(agent));
        fake_greet(&fake, 1);
        wait_readable(tlsagent_fd(agent));
        ck_assert_ptr_null(tlsagent_next(agent));
        request = fake_expect(&fake, 0, SERVICE_ACCEPT);
        close(request.fd);
        fake_finish(&fake, 0, request.accept.id, "smtp");
    }
    ck_assert_ptr_eq(next_finished(agent), conn);
    ck_assert_int_eq(tlsagent_handshake(conn), _i == 0 ? 0 : -1);
    ck_assert_int_eq(tlsagent_error_code(conn), _i == 0   ? TLSAGENT_OK
                                                : _i == 3 ? TLSAGENT_E_DEADLINE
                                                          : TLSAGENT_E_AGENT);
    if (_i == 1) {
        ck_assert_contains(tlsagent_error(conn), "too many programs");
        ck_assert_int_ge(now_ms() - start, 700);
    } else if (_i == 2) {
        ck_assert_contains(tlsagent_error(conn), "Connection refused");
    }
    ck_assert_int_lt(now_ms() - start, _i == 1 ? 3000 : 900);
    tlsagent_abandon(conn);
    tlsagent_free(agent);
    for (int i = 0; i < count; i++)
        close(fds[i]);
    close(pair[0]);
    close(pair[1]);
}
END_TEST

static const struct {
    uint8_t reason, alert;
    int code, told_alert;
} failures[] = {
    {SERVICE_NOT_PERMITTED, 255, TLSAGENT_E_NOT_PERMITTED, -1},
    {SERVICE_BAD_REQUEST, 255, TLSAGENT_E_ARGUMENT, -1},
    {SERVICE_BUSY, 255, TLSAGENT_E_BUSY, -1},
    {SERVICE_DEADLINE, 255, TLSAGENT_E_DEADLINE, -1},
    {SERVICE_PEER_CLOSED, 255, TLSAGENT_E_CLOSED, -1},
    {SERVICE_PEER_ALERT, 42, TLSAGENT_E_ALERT, 42},
    {SERVICE_HANDSHAKE, 40, TLSAGENT_E_HANDSHAKE, 40},
    {SERVICE_INTERNAL, 255, TLSAGENT_E_AGENT, -1},
};

START_TEST(failure_is_told_with_its_reason)
{
    struct tlsagent *agent = open_greeted(&fake, 1);
    struct fake_request request;
    struct tlsagent_conn *conn;
    int pair[2];

    unix_pair(pair);
    conn = begin(agent, "www", pair[0]);
    request = fake_expect(&fake, 0, SERVICE_ACCEPT);
    close(request.fd);
    ck_assert_int_eq((int)tlsagent_write(conn, "x", 1), -1); /* must not hide the reason */
    ck_assert_int_eq(tlsagent_error_code(conn), TLSAGENT_E_ARGUMENT);
    fake_fail(&fake, 0, request.accept.id, failures[_i].reason, 0, failures[_i].alert, "thus\033");
    ck_assert_ptr_eq(next_finished(agent), conn);
    ck_assert_int_eq(tlsagent_handshake(conn), -1);
    ck_assert_int_eq(tlsagent_error_code(conn), failures[_i].code);
    ck_assert_int_eq(tlsagent_error_alert(conn), failures[_i].told_alert);
    ck_assert_str_eq(tlsagent_error(conn), "thus?"); /* no terminal escapes from elsewhere */
    ck_assert_str_eq(tlsagent_conn_context(conn), "www");
    tlsagent_close(conn);
    tlsagent_free(agent);
    close(pair[0]);
    close(pair[1]);
}
END_TEST

START_TEST(cells_share_the_load_and_unknown_contexts_are_asked_for)
{
    struct tlsagent *agent = open_greeted(&fake, 3);
    struct tlsagent_conn *conns[6];
    int pair[2], seen[3] = {0, 0, 0};

    unix_pair(pair);
    for (int i = 0; i < 6; i++)
        conns[i] = begin(agent, i % 2 ? "www" : "unknown", pair[0]);
    for (int i = 0; i < 6; i++)
        close(fake_expect(&fake, i % 3, SERVICE_ACCEPT).fd);
    for (int i = 0; i < 3; i++) {
        seen[i] = is_readable(fake.cells[i], 0);
        ck_assert_int_eq(seen[i], 0); /* two each, no more */
    }
    for (int i = 0; i < 6; i++)
        tlsagent_abandon(conns[i]);
    tlsagent_free(agent);
    close(pair[0]);
    close(pair[1]);
}
END_TEST

START_TEST(context_without_any_cell_is_named)
{
    struct tlsagent *agent = tlsagent_open(fake.path);
    struct tlsagent_conn *conn;
    int pair[2];

    fake_welcome(&fake);
    fake_permit(&fake, "www", 0, 0);
    unix_pair(pair);
    conn = tlsagent_accept_fd(agent, "secret", pair[0]);
    ck_assert_int_eq(tlsagent_handshake(conn), -1); /* blocking: waits for the second */
    ck_assert_int_eq(tlsagent_error_code(conn), TLSAGENT_E_NOT_PERMITTED);
    ck_assert_contains(tlsagent_error(conn), "context \"secret\" is not permitted for uid ");
    tlsagent_close(conn);
    tlsagent_free(agent);
    close(pair[0]);
    close(pair[1]);
}
END_TEST

START_TEST(full_channel_queues)
{
    enum { COUNT = 400 };
    struct tlsagent *agent = open_greeted(&fake, 1);
    static struct tlsagent_conn *conns[COUNT];
    static bool told[COUNT];
    uint32_t last = 0;
    int pair[2];

    unix_pair(pair);
    for (int i = 0; i < COUNT; i++) {
        conns[i] = begin(agent, "www", pair[0]);
        tlsagent_set_data(conns[i], &told[i]);
    }
    for (int i = 0; i < 50; i++) /* some of them change their mind */
        tlsagent_abandon(conns[i]);
    for (int i = 0; i < COUNT; i++) {
        struct fake_request request;

        tlsagent_next(agent); /* sends what has room now */
        request = fake_expect(&fake, 0, SERVICE_ACCEPT);
        close(request.fd);
        ck_assert_uint_gt(request.accept.id, last);
        last = request.accept.id;
        if (!is_readable(fake.cells[0], 0))
            break;
        /* Cancellations overtake what was queued. */
        while (is_readable(fake.cells[0], 0)) {
            uint8_t peeked[2];

            ck_assert_int_eq((int)recv(fake.cells[0], peeked, 2, MSG_PEEK | MSG_TRUNC) > 2, 1);
            if (peeked[1] != SERVICE_CANCEL)
                break;
            fake_expect(&fake, 0, SERVICE_CANCEL);
        }
    }
    ck_assert_uint_ge(last, COUNT - 50);
    for (int i = 50; i < COUNT; i++) {
        struct tlsagent_conn *conn;

        fake_finish(&fake, 0, last - (uint32_t)(i - 50), "www"); /* in whatever order */
        conn = next_finished(agent);
        ck_assert_int_eq(tlsagent_handshake(conn), 0);
        ck_assert(!*(bool *)tlsagent_data(conn));
        *(bool *)tlsagent_data(conn) = true;
        tlsagent_abandon(conn);
    }
    ck_assert_ptr_null(tlsagent_next(agent));
    tlsagent_free(agent);
    close(pair[0]);
    close(pair[1]);
}
END_TEST

START_TEST(descriptor_stays_readable_while_connections_wait)
{
    struct tlsagent *agent = open_greeted(&fake, 1);
    struct tlsagent_conn *a, *b, *c;
    uint32_t ids[3];
    int pair[2], flags;

    unix_pair(pair);
    a = begin(agent, "www", pair[0]);
    b = begin(agent, "www", pair[0]);
    c = begin(agent, "www", pair[0]);
    for (int i = 0; i < 3; i++) {
        struct fake_request request = fake_expect(&fake, 0, SERVICE_ACCEPT);

        close(request.fd);
        ids[i] = request.accept.id;
    }
    for (int i = 0; i < 3; i++)
        fake_finish(&fake, 0, ids[i], "www");
    /* A blocking wait for one of them reads the messages of all. */
    flags = fcntl(pair[0], F_GETFL);
    fcntl(pair[0], F_SETFL, flags & ~O_NONBLOCK);
    ck_assert_int_eq(tlsagent_handshake(b), 0);
    ck_assert_int_eq(is_readable(tlsagent_fd(agent), 0), 1);
    ck_assert_ptr_eq(tlsagent_next(agent), a);
    ck_assert_int_eq(is_readable(tlsagent_fd(agent), 0), 1);
    ck_assert_ptr_eq(tlsagent_next(agent), c);
    ck_assert_ptr_null(tlsagent_next(agent));
    ck_assert_int_eq(is_readable(tlsagent_fd(agent), 0), 0);
    tlsagent_abandon(a);
    tlsagent_abandon(b);
    tlsagent_abandon(c);
    tlsagent_free(agent);
    close(pair[0]);
    close(pair[1]);
}
END_TEST

START_TEST(cancelled_handshake_is_forgotten)
{
    struct tlsagent *agent = open_greeted(&fake, 1);
    struct fake_request request;
    struct tlsagent_conn *conn;
    uint32_t id;
    int pair[2];

    unix_pair(pair);
    conn = begin(agent, "www", pair[0]);
    request = fake_expect(&fake, 0, SERVICE_ACCEPT);
    close(request.fd);
    id = request.accept.id;
    ck_assert_int_eq(tlsagent_close(conn), 0);
    ck_assert_uint_eq(fake_expect(&fake, 0, SERVICE_CANCEL).cancel.id, id);
    fake_finish(&fake, 0, id, "www"); /* they crossed: dropped */
    ck_assert_ptr_null(tlsagent_next(agent));
    conn = begin(agent, "www", pair[0]); /* and the channel is as good as before */
    request = fake_expect(&fake, 0, SERVICE_ACCEPT);
    close(request.fd);
    ck_assert_uint_ne(request.accept.id, id);
    fake_finish(&fake, 0, request.accept.id, "www");
    ck_assert_ptr_eq(next_finished(agent), conn);
    tlsagent_abandon(conn);
    tlsagent_free(agent);
    close(pair[0]);
    close(pair[1]);
}
END_TEST

START_TEST(blocking_deadline_is_kept_even_if_the_agent_sleeps)
{
    struct tlsagent *agent = open_greeted(&fake, 1);
    struct fake_request request;
    struct tlsagent_conn *conn;
    long start = now_ms();
    int pair[2];

    unix_pair(pair);
    conn = tlsagent_accept_fd(agent, "www", pair[0]);
    tlsagent_set_deadline(conn, 50);
    ck_assert_int_eq(tlsagent_handshake(conn), -1);
    ck_assert_int_eq(tlsagent_error_code(conn), TLSAGENT_E_DEADLINE);
    ck_assert_int_lt(now_ms() - start, 3000);
    request = fake_expect(&fake, 0, SERVICE_ACCEPT);
    close(request.fd);
    ck_assert_uint_eq(fake_expect(&fake, 0, SERVICE_CANCEL).cancel.id, request.accept.id);
    tlsagent_close(conn);
    tlsagent_free(agent);
    close(pair[0]);
    close(pair[1]);
}
END_TEST

START_TEST(freed_handle_fails_its_handshakes)
{
    struct tlsagent *agent = open_greeted(&fake, 1);
    struct tlsagent_conn *prepared, *asked, *finished;
    struct fake_request request;
    int pair[2];

    unix_pair(pair);
    finished = begin(agent, "www", pair[0]);
    request = fake_expect(&fake, 0, SERVICE_ACCEPT);
    close(request.fd);
    asked = begin(agent, "www", pair[0]);
    prepared = tlsagent_accept_fd(agent, "www", pair[0]);
    fake_finish(&fake, 0, request.accept.id, "www");
    ck_assert_int_eq(tlsagent_handshake(asked), TLSAGENT_WANT_POLLIN); /* reads, does not take */
    tlsagent_free(agent);
    ck_assert_int_eq(tlsagent_handshake(finished), 0);
    ck_assert_int_eq(tlsagent_handshake(asked), -1);
    ck_assert_contains(tlsagent_error(asked), "freed");
    ck_assert_int_eq(tlsagent_handshake(prepared), -1);
    tlsagent_close(finished);
    tlsagent_close(asked);
    tlsagent_abandon(prepared);
    tlsagent_abandon(NULL);
    tlsagent_free(NULL);
    close(pair[0]);
    close(pair[1]);
}
END_TEST

START_TEST(wrong_arguments_are_told)
{
    struct tlsagent *agent = open_greeted(&fake, 1);
    struct tlsagent_conn *conn;
    int pair[2], pipes[2], udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int fresh = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char name[100];

    unix_pair(pair);
    ck_assert_int_eq(pipe2(pipes, O_CLOEXEC), 0);
    memset(name, 'n', sizeof(name));
    name[sizeof(name) - 1] = '\0';
    ck_assert_ptr_null(tlsagent_accept_fd(agent, "www", pipes[0]));
    ck_assert_contains(tlsagent_agent_error(agent), "not a socket");
    ck_assert_ptr_null(tlsagent_accept_fd(agent, "www", -1));
    ck_assert_ptr_null(tlsagent_accept_fd(agent, "www", udp));
    ck_assert_ptr_null(tlsagent_accept_fd(agent, "www", fresh));
    ck_assert_contains(tlsagent_agent_error(agent), "not connected");
    ck_assert_ptr_null(tlsagent_accept_fd(agent, "", pair[0]));
    ck_assert_ptr_null(tlsagent_accept_fd(agent, NULL, pair[0]));
    ck_assert_ptr_null(tlsagent_accept_fd(agent, name, pair[0]));
    ck_assert_int_eq(tlsagent_agent_error_code(agent), TLSAGENT_E_ARGUMENT);
    ck_assert_ptr_null(tlsagent_accept_fd(NULL, "www", pair[0]));
    ck_assert_int_eq(tlsagent_handshake(NULL), -1);
    ck_assert_contains(tlsagent_error(NULL), "tlsagent_agent_error()");
    conn = tlsagent_accept_fd(agent, "www", pair[0]);
    ck_assert_int_eq(tlsagent_set_forms(conn, 0x80), -1);
    ck_assert_int_eq(tlsagent_error_code(conn), TLSAGENT_E_ARGUMENT);
    tlsagent_close(conn);
    tlsagent_free(agent);
    for (int i = 0; i < 2; i++) {
        close(pair[i]);
        close(pipes[i]);
    }
    close(udp);
    close(fresh);
}
END_TEST

/* ---- death and return ---- */

/* Which cell has been asked. */
static int
asked_cell(void)
{
    for (;;) {
        for (int i = 0; i < FAKE_CELLS; i++) {
            if (fake.cells[i] != -1 && is_readable(fake.cells[i], 1))
                return i;
        }
    }
}

START_TEST(dead_agent_fails_handshakes_at_once_and_comes_back)
{
    enum { COUNT = 20 };
    struct tlsagent *agent = open_greeted(&fake, 2);
    struct tlsagent_conn *conns[COUNT], *established, *conn;
    struct fake_request request;
    struct stream peer;
    int pair[2], data[2];
    char buffer[8];
    long start;
    int cell;

    tcp_pair(data);
    established = begin(agent, "www", data[0]);
    cell = asked_cell();
    request = fake_expect(&fake, cell, SERVICE_ACCEPT);
    close(request.fd);
    fake_finish(&fake, cell, request.accept.id, "www");
    ck_assert_ptr_eq(next_finished(agent), established);
    peer_start(&peer, data[1]);

    tcp_pair(pair);
    for (int i = 0; i < COUNT; i++)
        conns[i] = begin(agent, "www", pair[0]);
    sleep_ms(110); /* the attempt to connect at the beginning is past */
    start = now_ms();
    fake_die(&fake);
    for (int i = 0; i < COUNT; i++) {
        conn = next_finished(agent);
        ck_assert_int_eq(tlsagent_handshake(conn), -1);
        ck_assert_int_eq(tlsagent_error_code(conn), TLSAGENT_E_AGENT);
        ck_assert_contains(tlsagent_error(conn), "went away");
    }
    ck_assert_int_lt(now_ms() - start, 500);
    for (int i = 0; i < COUNT; i++)
        tlsagent_close(conns[i]);
    conn = tlsagent_accept_fd(agent, "www", pair[0]);
    ck_assert_int_eq(tlsagent_handshake(conn), -1);
    ck_assert_int_eq(tlsagent_error_code(conn), TLSAGENT_E_AGENT);
    ck_assert_contains(tlsagent_error(conn), "cannot reach the agent");
    tlsagent_close(conn);

    /* The established one has not noticed. */
    ck_assert_int_eq((int)stream_write(&peer, "data", 4, NULL), 4);
    wait_readable(data[0]);
    ck_assert_int_eq((int)tlsagent_read(established, buffer, sizeof(buffer)), 4);

    fake_listen(&fake);
    sleep_ms(110);
    conn = begin(agent, "www", pair[0]);
    fake_greet(&fake, 1);
    ck_assert_ptr_null(tlsagent_next(agent));
    request = fake_expect(&fake, 0, SERVICE_ACCEPT);
    close(request.fd);
    fake_finish(&fake, 0, request.accept.id, "www");
    ck_assert_ptr_eq(next_finished(agent), conn);
    ck_assert_int_eq(tlsagent_handshake(conn), 0);
    tlsagent_abandon(conn);
    tlsagent_close(established);
    tlsagent_free(agent);
    stream_clear(&peer);
    for (int i = 0; i < 2; i++) {
        close(pair[i]);
        close(data[i]);
    }
}
END_TEST

START_TEST(what_was_finished_before_the_death_is_finished)
{
    struct tlsagent *agent = open_greeted(&fake, 1);
    struct tlsagent_conn *first, *second, *conn;
    struct fake_request request;
    int pair[2];

    unix_pair(pair);
    first = begin(agent, "www", pair[0]);
    second = begin(agent, "www", pair[0]);
    request = fake_expect(&fake, 0, SERVICE_ACCEPT);
    close(request.fd);
    fake_finish(&fake, 0, request.accept.id, "www");
    fake_die(&fake);
    for (int i = 0; i < 2; i++) {
        conn = next_finished(agent);
        ck_assert_int_eq(tlsagent_handshake(conn), conn == first ? 0 : -1);
    }
    ck_assert_int_eq(tlsagent_error_code(second), TLSAGENT_E_AGENT);
    tlsagent_abandon(first);
    tlsagent_abandon(second);
    tlsagent_free(agent);
    close(pair[0]);
    close(pair[1]);
}
END_TEST

/* Only the cell dies, with a request that it has not read: the kernel tells of the end first. */
START_TEST(what_was_finished_before_its_cell_died_is_finished)
{
    struct tlsagent *agent = open_greeted(&fake, 1);
    struct tlsagent_conn *first, *second, *conn;
    struct fake_request request;
    int pair[2];

    unix_pair(pair);
    first = begin(agent, "www", pair[0]);
    second = begin(agent, "www", pair[0]);
    request = fake_expect(&fake, 0, SERVICE_ACCEPT);
    close(request.fd);
    fake_finish(&fake, 0, request.accept.id, "www");
    close_fd(&fake.cells[0]);
    for (int i = 0; i < 2; i++) {
        conn = next_finished(agent);
        ck_assert_int_eq(tlsagent_handshake(conn), conn == first ? 0 : -1);
    }
    ck_assert_int_eq(tlsagent_error_code(second), TLSAGENT_E_RETRY);
    tlsagent_abandon(first);
    tlsagent_abandon(second);
    tlsagent_free(agent);
    close(pair[0]);
    close(pair[1]);
}
END_TEST

START_TEST(untouched_handshake_goes_to_another_cell)
{
    struct tlsagent *agent = open_greeted(&fake, 4);
    struct fake_request request;
    struct tlsagent_conn *conn;
    int pair[2], cell = -1;

    tcp_pair(pair);
    ck_assert_int_eq((int)send(pair[1], "client hello", 12, 0), 12); /* unread bytes are no harm */
    wait_readable(pair[0]);
    conn = begin(agent, "www", pair[0]);
    for (int deaths = 0; deaths < _i; deaths++) {
        cell = asked_cell();
        close(fake_expect(&fake, cell, SERVICE_ACCEPT).fd);
        close_fd(&fake.cells[cell]);
        wait_readable(tlsagent_fd(agent));
        if (deaths < 2)
            ck_assert_ptr_null(tlsagent_next(agent));
    }
    if (_i <= 2) { /* twice at most */
        cell = asked_cell();
        request = fake_expect(&fake, cell, SERVICE_ACCEPT);
        close(request.fd);
        fake_finish(&fake, cell, request.accept.id, "www");
    }
    ck_assert_ptr_eq(next_finished(agent), conn);
    ck_assert_int_eq(tlsagent_handshake(conn), _i <= 2 ? 0 : -1);
    ck_assert_int_eq(tlsagent_error_code(conn), _i <= 2 ? TLSAGENT_OK : TLSAGENT_E_RETRY);
    tlsagent_abandon(conn);
    tlsagent_free(agent);
    close(pair[0]);
    close(pair[1]);
}
END_TEST

START_TEST(touched_handshake_is_not_tried_again)
{
    struct tlsagent *agent = open_greeted(&fake, 2);
    struct fake_request request;
    struct tlsagent_conn *conn;
    char byte;
    int pair[2], cell;

    if (_i == 2)
        unix_pair(pair); /* can never be shown */
    else
        tcp_pair(pair);
    ck_assert_int_eq((int)send(pair[1], "hello", 5, 0), 5);
    wait_readable(pair[0]);
    conn = begin(agent, "www", pair[0]);
    cell = asked_cell();
    request = fake_expect(&fake, cell, SERVICE_ACCEPT);
    if (_i == 0)
        ck_assert_int_eq((int)recv(request.fd, &byte, 1, 0), 1);
    if (_i == 1)
        ck_assert_int_eq((int)send(request.fd, "x", 1, 0), 1);
    close(request.fd);
    close_fd(&fake.cells[cell]);
    ck_assert_ptr_eq(next_finished(agent), conn);
    ck_assert_int_eq(tlsagent_handshake(conn), -1);
    ck_assert_int_eq(tlsagent_error_code(conn), TLSAGENT_E_RETRY);
    ck_assert_contains(tlsagent_error(conn), "died during the handshake");
    ck_assert_int_eq(is_readable(fake.cells[1 - cell], 0), 0);
    tlsagent_abandon(conn);
    tlsagent_free(agent);
    close(pair[0]);
    close(pair[1]);
}
END_TEST

START_TEST(replacement_channel_takes_over)
{
    struct tlsagent *agent = open_greeted(&fake, 1);
    struct fake_request request;
    struct tlsagent_conn *conn;
    int pair[2];

    tcp_pair(pair);
    conn = begin(agent, "www", pair[0]);
    close(fake_expect(&fake, 0, SERVICE_ACCEPT).fd);
    if (_i == 0) { /* the end is seen first; in the other case the replacement */
        close_fd(&fake.cells[0]);
        wait_readable(tlsagent_fd(agent));
        ck_assert_ptr_null(tlsagent_next(agent));
    }
    fake_push_cell(&fake, 0, 0);
    wait_readable(tlsagent_fd(agent));
    ck_assert_ptr_null(tlsagent_next(agent));
    request = fake_expect(&fake, 0, SERVICE_ACCEPT);
    close(request.fd);
    fake_finish(&fake, 0, request.accept.id, "www");
    ck_assert_ptr_eq(next_finished(agent), conn);
    ck_assert_int_eq(tlsagent_handshake(conn), 0);
    tlsagent_abandon(conn);
    tlsagent_free(agent);
    close(pair[0]);
    close(pair[1]);
}
END_TEST

START_TEST(no_replacement_within_a_second_is_an_error)
{
    struct tlsagent *agent = open_greeted(&fake, 1);
    struct tlsagent_conn *conn;
    long start = now_ms();
    int pair[2];

    tcp_pair(pair);
    conn = begin(agent, "www", pair[0]);
    close_fd(&fake.cells[0]);
    ck_assert_ptr_eq(next_finished(agent), conn);
    ck_assert_int_ge(now_ms() - start, 900);
    ck_assert_int_eq(tlsagent_error_code(conn), TLSAGENT_E_AGENT);
    ck_assert_contains(tlsagent_error(conn), "no process running for context \"www\"");
    tlsagent_abandon(conn);
    tlsagent_free(agent);
    close(pair[0]);
    close(pair[1]);
}
END_TEST

START_TEST(retryable_refusal_goes_to_another_cell)
{
    struct tlsagent *agent = open_greeted(&fake, _i);
    struct fake_request request;
    struct tlsagent_conn *conn;
    int pair[2], cell;

    unix_pair(pair);
    conn = begin(agent, "www", pair[0]);
    cell = asked_cell();
    request = fake_expect(&fake, cell, SERVICE_ACCEPT);
    close(request.fd);
    fake_fail(&fake, cell, request.accept.id, SERVICE_BUSY, 1, 255, "full");
    if (_i == 2) {
        wait_readable(tlsagent_fd(agent));
        ck_assert_ptr_null(tlsagent_next(agent));
        request = fake_expect(&fake, 1 - cell, SERVICE_ACCEPT);
        close(request.fd);
        fake_finish(&fake, 1 - cell, request.accept.id, "www");
    }
    ck_assert_ptr_eq(next_finished(agent), conn);
    ck_assert_int_eq(tlsagent_handshake(conn), _i == 2 ? 0 : -1);
    ck_assert_int_eq(tlsagent_error_code(conn), _i == 2 ? TLSAGENT_OK : TLSAGENT_E_BUSY);
    tlsagent_abandon(conn);
    tlsagent_free(agent);
    close(pair[0]);
    close(pair[1]);
}
END_TEST

/* ---- connections that the agent accepts ---- */

static void
deliver(int cell, int fd)
{
    struct service_finished said = fake_facts("www");

    ck_assert_int_eq(fake_send_facts(&fake, cell, SERVICE_DELIVERED, &said, fd), CHANNEL_OK);
}

START_TEST(credits_are_what_the_caller_can_take)
{
    struct tlsagent *agent = open_greeted(&fake, 2);
    struct tlsagent_conn *conns[3];
    struct fake_request request;
    struct stream peer;
    int pairs[3][2];
    char buffer[8];

    ck_assert_int_eq(tlsagent_pull(agent, "www", 3), 0);
    for (int i = 0; i < 2; i++) {
        request = fake_expect(&fake, i, SERVICE_PULL);
        ck_assert_uint_eq(request.pull.credits, 3);
        ck_assert_str_eq(request.pull.context, "www");
    }
    ck_assert_int_eq(tlsagent_pull(agent, "www", 2), 0); /* not lowered, not doubled */
    ck_assert_int_eq(is_readable(fake.cells[0], 0), 0);
    ck_assert_int_eq(tlsagent_pull(agent, "www", 5), 0);
    for (int i = 0; i < 2; i++)
        ck_assert_uint_eq(fake_expect(&fake, i, SERVICE_PULL).pull.credits, 2);

    for (int i = 0; i < 3; i++) {
        tcp_pair(pairs[i]);
        deliver(0, pairs[i][0]);
        close(pairs[i][0]);
    }
    for (int i = 0; i < 3; i++) {
        conns[i] = next_finished(agent);
        /* A new credit for each that was taken; of five, three at a time. */
        if (i == 2)
            ck_assert_uint_eq(fake_expect(&fake, 0, SERVICE_PULL).pull.credits, 3);
        ck_assert_int_eq(is_readable(fake.cells[0], 0), 0);
        ck_assert_int_eq(tlsagent_handshake(conns[i]), 0);
        ck_assert_int_eq(fcntl(tlsagent_conn_fd(conns[i]), F_GETFL) & O_NONBLOCK, 0);
        ck_assert_int_eq(fcntl(tlsagent_conn_fd(conns[i]), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    }
    ck_assert_int_eq(is_readable(fake.cells[1], 0), 0);
    peer_start(&peer, pairs[0][1]);
    ck_assert_int_eq((int)stream_write(&peer, "hi", 2, NULL), 2);
    ck_assert_int_eq((int)tlsagent_read(conns[0], buffer, sizeof(buffer)), 2);
    ck_assert_int_eq(tlsagent_close(conns[0]), 0); /* close_notify, then its fd */
    ck_assert_int_eq((int)stream_read(&peer, buffer, sizeof(buffer), NULL), 0);
    ck_assert_int_eq((int)recv(pairs[0][1], buffer, 1, 0), 0);
    stream_clear(&peer);
    tlsagent_abandon(conns[1]);
    tlsagent_free(agent);
    tlsagent_close(conns[2]);
    for (int i = 0; i < 3; i++)
        close(pairs[i][1]);
}
END_TEST

/* Several in one message: each is what it would have been alone, and the handle's descriptor is
 * readable until the last one has been fetched. */
START_TEST(answers_may_come_together)
{
    struct tlsagent *agent = open_greeted(&fake, 1);
    struct tlsagent_conn *asked, *conn, *delivered[3] = {NULL};
    struct fake_request request;
    uint32_t ids[4] = {0};
    int pair[2], connection[2];
    size_t count = 0;
    struct stat first, other;

    ck_assert_int_eq(tlsagent_pull(agent, "www", 3), 0);
    fake_expect(&fake, 0, SERVICE_PULL);
    unix_pair(pair);
    tcp_pair(connection);
    asked = begin(agent, "www", pair[0]);
    request = fake_expect(&fake, 0, SERVICE_ACCEPT);
    close(request.fd);
    ids[1] = request.accept.id;
    ck_assert_int_eq(fake_send_batch(&fake, 0, ids, 4, connection[0], 3), CHANNEL_OK);
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(is_readable(tlsagent_fd(agent), FAKE_PATIENT), 1);
        conn = tlsagent_next(agent);
        ck_assert_ptr_nonnull(conn);
        ck_assert_int_eq(conn == asked, i == 1);
        ck_assert_int_eq(tlsagent_handshake(conn), 0);
        if (conn != asked)
            delivered[count++] = conn;
    }
    ck_assert_int_eq(is_readable(tlsagent_fd(agent), 0), 0);
    ck_assert_ptr_null(tlsagent_next(agent));
    ck_assert_int_eq(fstat(connection[0], &first), 0);
    for (size_t i = 0; i < count; i++) {
        ck_assert_int_eq(fstat(tlsagent_conn_fd(delivered[i]), &other), 0);
        ck_assert_uint_eq(first.st_ino, other.st_ino);
        tlsagent_abandon(delivered[i]);
    }
    tlsagent_abandon(asked);
    tlsagent_free(agent);
    for (int i = 0; i < 2; i++) {
        close(pair[i]);
        close(connection[i]);
    }
}
END_TEST

/* Those that the caller has not fetched are closed with the handle. */
START_TEST(what_came_together_goes_with_the_handle)
{
    struct tlsagent *agent = open_greeted(&fake, 1);
    uint32_t ids[8] = {0};
    int connection[2], fds = count_fds();

    ck_assert_int_eq(tlsagent_pull(agent, "www", 8), 0);
    fake_expect(&fake, 0, SERVICE_PULL);
    tcp_pair(connection);
    ck_assert_int_eq(fake_send_batch(&fake, 0, ids, 8, connection[0], 8), CHANNEL_OK);
    tlsagent_abandon(next_finished(agent));
    ck_assert_int_eq(count_fds(), fds + 2 + 7);
    tlsagent_free(agent);
    close(connection[0]);
    close(connection[1]);
}
END_TEST

START_TEST(pulled_connections_come_in_the_forms_that_were_named)
{
    struct tlsagent *agent = open_greeted(&fake, 1);
    struct service_finished said = fake_facts("www");
    struct fake_request request;
    char byte;
    int pair[2];

    ck_assert_int_eq(tlsagent_pull_forms(agent, TLSAGENT_FORM_KERNEL_PLAIN | TLSAGENT_FORM_RECORDS),
                     -1);
    ck_assert_contains(tlsagent_agent_error(agent), "cannot be combined");
    ck_assert_int_eq(tlsagent_pull_forms(agent, 0x40), -1);
    ck_assert_int_eq(tlsagent_agent_error_code(agent), TLSAGENT_E_ARGUMENT);
    ck_assert_int_eq(tlsagent_pull_forms(agent, TLSAGENT_FORM_KERNEL_PLAIN), 0);
    ck_assert_int_eq(tlsagent_pull_forms(agent, TLSAGENT_FORM_KERNEL), 0);
    ck_assert_int_eq(tlsagent_pull(agent, "www", 2), 0);
    request = fake_expect(&fake, 0, SERVICE_PULL);
    ck_assert_uint_eq(request.pull.forms, SERVICE_FORM_KERNEL);
    ck_assert_int_eq(tlsagent_pull_forms(agent, TLSAGENT_FORM_RECORDS), -1);
    ck_assert_contains(tlsagent_agent_error(agent), "already");

    tcp_pair(pair); /* in the records form: this cell breaks the rules */
    ck_assert_uint_eq(said.form, SERVICE_FORM_RECORDS);
    deliver(0, pair[0]);
    close(pair[0]);
    ck_assert_ptr_null(tlsagent_accept(agent, "www", 300));
    ck_assert_int_eq((int)recv(pair[1], &byte, 1, 0), 0); /* and the connection is closed */
    close(pair[1]);
    tlsagent_free(agent);
}
END_TEST

START_TEST(unfetched_deliveries_go_with_the_handle)
{
    struct tlsagent *agent = open_greeted(&fake, 1);
    int pair[2];
    char byte;

    ck_assert_int_eq(tlsagent_pull(agent, "www", 2), 0);
    fake_expect(&fake, 0, SERVICE_PULL);
    for (int i = 0; i < 2; i++) {
        unix_pair(pair);
        deliver(0, pair[0]);
        close(pair[0]);
        if (i == 0)
            close(pair[1]);
    }
    tlsagent_abandon(next_finished(agent)); /* the other one was read as well, and waits */
    tlsagent_free(agent);
    ck_assert_int_eq((int)recv(pair[1], &byte, 1, 0), 0);
    close(pair[1]);
}
END_TEST

START_TEST(pull_survives_a_restart_of_the_agent)
{
    struct tlsagent *agent = open_greeted(&fake, 1);
    struct tlsagent_conn *conn;
    long until;
    int pair[2];

    ck_assert_int_eq(tlsagent_pull(agent, "www", 2), 0);
    fake_expect(&fake, 0, SERVICE_PULL);
    fake_die(&fake);
    /* The worker only sleeps on its descriptor, some time without an agent. */
    until = now_ms() + 350;
    while (now_ms() < until) {
        if (is_readable(tlsagent_fd(agent), (int)(until - now_ms())))
            ck_assert_ptr_null(tlsagent_next(agent));
    }
    fake_listen(&fake);
    until = now_ms() + FAKE_PATIENT;
    while (!is_readable(fake.listener, 0)) {
        ck_assert_int_lt(now_ms(), until);
        wait_readable(tlsagent_fd(agent));
        ck_assert_ptr_null(tlsagent_next(agent));
    }
    fake_greet(&fake, 2);
    wait_readable(tlsagent_fd(agent));
    ck_assert_ptr_null(tlsagent_next(agent));
    for (int i = 0; i < 2; i++)
        ck_assert_uint_eq(fake_expect(&fake, i, SERVICE_PULL).pull.credits, 2);
    tcp_pair(pair);
    deliver(1, pair[0]);
    close(pair[0]);
    conn = next_finished(agent);
    ck_assert_int_eq(tlsagent_handshake(conn), 0);
    tlsagent_close(conn);
    tlsagent_free(agent);
    close(pair[1]);
}
END_TEST

START_TEST(waiting_without_an_agent_does_not_spin)
{
    struct tlsagent *agent;
    int wakeups = 0;
    long until;

    fake_die(&fake);
    agent = tlsagent_open(fake.path);
    ck_assert_int_eq(tlsagent_pull(agent, "www", 1), -1);
    ck_assert_int_eq(tlsagent_agent_error_code(agent), TLSAGENT_E_AGENT);
    until = now_ms() + 600;
    while (now_ms() < until) {
        wakeups += is_readable(tlsagent_fd(agent), (int)(until - now_ms()));
        tlsagent_next(agent);
    }
    ck_assert_int_ge(wakeups, 3);
    ck_assert_int_le(wakeups, 8);
    /* Nor does a caller who waits by calling tlsagent_accept() again and again. */
    until = now_ms() + 600;
    for (wakeups = 0; now_ms() < until; wakeups++) {
        ck_assert_ptr_null(tlsagent_accept(agent, "www", -1));
        ck_assert_int_eq(tlsagent_agent_error_code(agent), TLSAGENT_E_AGENT);
    }
    ck_assert_int_ge(wakeups, 3);
    ck_assert_int_le(wakeups, 9);
    tlsagent_free(agent);
}
END_TEST

START_TEST(accept_waits_for_one)
{
    struct tlsagent *agent = open_greeted(&fake, 1);
    struct tlsagent_conn *conn;
    int pair[2];
    long start = now_ms();

    ck_assert_ptr_null(tlsagent_accept(agent, "www", 50));
    ck_assert_int_ge(now_ms() - start, 45);
    ck_assert_int_eq(tlsagent_agent_error_code(agent), TLSAGENT_OK);
    ck_assert_uint_eq(fake_expect(&fake, 0, SERVICE_PULL).pull.credits, 1);
    tcp_pair(pair);
    deliver(0, pair[0]);
    close(pair[0]);
    conn = tlsagent_accept(agent, "www", -1);
    ck_assert_ptr_nonnull(conn);
    ck_assert_int_eq(tlsagent_handshake(conn), 0);
    ck_assert_str_eq(tlsagent_conn_context(conn), "www");
    tlsagent_close(conn);

    ck_assert_ptr_null(tlsagent_accept(agent, "smtp", -1));
    ck_assert_int_eq(tlsagent_agent_error_code(agent), TLSAGENT_E_ARGUMENT);
    ck_assert_contains(tlsagent_agent_error(agent), "\"listen\"");
    ck_assert_ptr_null(tlsagent_accept(agent, "other", -1));
    ck_assert_int_eq(tlsagent_agent_error_code(agent), TLSAGENT_E_NOT_PERMITTED);
    ck_assert_contains(tlsagent_agent_error(agent), "\"other\"");
    ck_assert_int_eq(tlsagent_pull(agent, "www", 0), -1);
    ck_assert_int_eq(tlsagent_pull(agent, "www", 17), -1);
    ck_assert_int_eq(tlsagent_agent_error_code(agent), TLSAGENT_E_ARGUMENT);
    fake_fail(&fake, 0, 0, SERVICE_NOT_PERMITTED, 0, 255, "not any more");
    ck_assert_ptr_null(tlsagent_accept(agent, "www", -1));
    ck_assert_int_eq(tlsagent_agent_error_code(agent), TLSAGENT_E_NOT_PERMITTED);
    ck_assert_str_eq(tlsagent_agent_error(agent), "not any more");
    tlsagent_free(agent);
    close(pair[1]);
}
END_TEST

/* ---- fork ---- */

/* In the child: nothing of the parent's works, nothing reaches the agent or the peer. */
static int
try_everything(struct tlsagent *agent, struct tlsagent_conn *asked, struct tlsagent_conn *done,
               int fd)
{
    char buffer[4];

    if (tlsagent_check(agent) != -1 || tlsagent_agent_error_code(agent) != TLSAGENT_E_FORKED)
        return 1;
    if (tlsagent_accept_fd(agent, "www", fd) != NULL || tlsagent_next(agent) != NULL)
        return 2;
    if (tlsagent_pull(agent, "www", 1) != -1 || tlsagent_accept(agent, "www", 0) != NULL)
        return 3;
    if (tlsagent_handshake(asked) != -1 || tlsagent_error_code(asked) != TLSAGENT_E_FORKED)
        return 4;
    if (tlsagent_read(done, buffer, 1) != -1 || tlsagent_error_code(done) != TLSAGENT_E_FORKED)
        return 5;
    if (tlsagent_write(done, "x", 1) != -1 || tlsagent_error_code(done) != TLSAGENT_E_FORKED)
        return 6;
    tlsagent_abandon(done);
    tlsagent_free(agent);
    if (tlsagent_handshake(asked) != -1 || tlsagent_error_code(asked) != TLSAGENT_E_FORKED)
        return 7;
    tlsagent_abandon(asked);
    agent = tlsagent_open(fake.path); /* one of its own: the parent sees it arrive */
    if (agent == NULL)
        return 8;
    tlsagent_free(agent);
    return 0;
}

START_TEST(forked_child_cannot_use_what_is_its_parents)
{
    struct tlsagent *agent = open_greeted(&fake, 1);
    struct tlsagent_conn *asked, *done;
    struct fake_request request;
    struct stream peer;
    int data[2], pair[2], status;
    char buffer[8];
    pid_t child;

    tcp_pair(data);
    done = begin(agent, "www", data[0]);
    request = fake_expect(&fake, 0, SERVICE_ACCEPT);
    close(request.fd);
    fake_finish(&fake, 0, request.accept.id, "www");
    ck_assert_ptr_eq(next_finished(agent), done);
    peer_start(&peer, data[1]);
    tcp_pair(pair);
    asked = begin(agent, "www", pair[0]);
    request = fake_expect(&fake, 0, SERVICE_ACCEPT);
    close(request.fd);

    child = fork();
    ck_assert_int_ne(child, -1);
    if (child == 0)
        _exit(try_everything(agent, asked, done, pair[0]));
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    wait_readable(fake.listener); /* the child's own connection */
    close(accept4(fake.listener, NULL, NULL, SOCK_CLOEXEC));
    ck_assert_int_eq(is_readable(fake.cells[0], 0), 0); /* no CANCEL */
    ck_assert_int_eq(is_readable(data[1], 0), 0);       /* no byte */

    /* The parent goes on as if nothing had been. */
    fake_finish(&fake, 0, request.accept.id, "www");
    ck_assert_ptr_eq(next_finished(agent), asked);
    ck_assert_int_eq(tlsagent_handshake(asked), 0);
    ck_assert_int_eq((int)tlsagent_write(done, "still", 5), 5);
    ck_assert_int_eq((int)stream_read(&peer, buffer, sizeof(buffer), NULL), 5);
    tlsagent_abandon(asked);
    tlsagent_close(done);
    tlsagent_free(agent);
    stream_clear(&peer);
    for (int i = 0; i < 2; i++) {
        close(pair[i]);
        close(data[i]);
    }
}
END_TEST

/* ---- blocking use, by several threads ---- */

struct honest {
    struct fake fake;
    pthread_t thread;
    int wanted; /* handshakes */
};

/* A thread that greets one worker and finishes what it is asked for. */
static void *
be_honest(void *arg)
{
    struct honest *honest = arg;

    fake_greet(&honest->fake, 2);
    for (int done = 0; done < honest->wanted;) {
        for (int cell = 0; cell < 2 && done < honest->wanted; cell++) {
            struct fake_request request;

            if (!is_readable(honest->fake.cells[cell], 1))
                continue;
            request = fake_expect(&honest->fake, cell, SERVICE_ACCEPT);
            close(request.fd);
            fake_finish(&honest->fake, cell, request.accept.id, request.accept.context);
            done++;
        }
    }
    return NULL;
}

static void *
work(void *arg)
{
    struct honest *honest = arg;
    struct tlsagent *agent = tlsagent_open(honest->fake.path);

    for (int i = 0; i < honest->wanted; i++) {
        struct tlsagent_conn *conn;
        struct stream peer;
        char buffer[8];
        int pair[2];

        unix_pair(pair);
        conn = tlsagent_accept_fd(agent, "www", pair[0]);
        ck_assert_int_eq(tlsagent_handshake(conn), 0);
        peer_start(&peer, pair[1]);
        ck_assert_int_eq((int)tlsagent_write(conn, "ping", 4), 4);
        ck_assert_int_eq((int)stream_read(&peer, buffer, sizeof(buffer), NULL), 4);
        ck_assert_int_eq(tlsagent_close(conn), 0);
        stream_clear(&peer);
        close(pair[0]);
        close(pair[1]);
    }
    tlsagent_free(agent);
    return NULL;
}

START_TEST(threads_have_a_handle_each)
{
    enum { THREADS = 4 };
    static struct honest honest[THREADS];
    pthread_t workers[THREADS];

    for (int i = 0; i < THREADS; i++) {
        fake_start(&honest[i].fake);
        honest[i].wanted = 50;
        ck_assert_int_eq(pthread_create(&honest[i].thread, NULL, be_honest, &honest[i]), 0);
        ck_assert_int_eq(pthread_create(&workers[i], NULL, work, &honest[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(workers[i], NULL);
        pthread_join(honest[i].thread, NULL);
        fake_stop(&honest[i].fake);
    }
}
END_TEST

/* ---- cost and shape ---- */

#ifndef SANITIZED /* which has a heap of its own */
START_TEST(idle_connection_is_small)
{
    enum { COUNT = 200 };
    struct tlsagent *agent = open_greeted(&fake, 1);
    struct tlsagent_conn *conns[COUNT];
    size_t before, each;
    int pair[2];

    unix_pair(pair);
    before = 0;
    for (int i = 0; i < COUNT; i++) {
        struct fake_request request;

        if (i == 1) /* the first one warms libcrypto up */
            before = mallinfo2().uordblks;

        conns[i] = begin(agent, "www", pair[0]);
        request = fake_expect(&fake, 0, SERVICE_ACCEPT);
        close(request.fd);
        fake_finish(&fake, 0, request.accept.id, "www");
        ck_assert_ptr_eq(next_finished(agent), conns[i]);
    }
    each = (mallinfo2().uordblks - before) / (COUNT - 1);
    printf("heap of an idle connection: %zu bytes\n", each);
    ck_assert_uint_lt(each, 640); /* and its slot of 320 outside the heap: under 1 KiB */
    for (int i = 0; i < COUNT; i++)
        tlsagent_abandon(conns[i]);
    tlsagent_free(agent);
    close(pair[0]);
    close(pair[1]);
}
END_TEST
#endif

/* The shared library shows the functions of tlsagent.h, all of them and nothing else. */
START_TEST(exported_symbols_are_those_of_the_header)
{
    static const char script[] =
        "set -e; lib=${BUILD:-build}/libtlsagent.so.0; test -e $lib; "
        "grep -oE '\\btlsagent_[a-z_]+\\(' client/tlsagent.h | tr -d '(' | "
        "sort -u > $0/header; "
        "nm -D --defined-only $lib | awk '$2 == \"T\" { sub(/@.*/, \"\", $3); print $3 }' | "
        "sort -u > $0/library; "
        "nm -D --defined-only $lib | awk '$2 != \"T\" && $2 != \"A\"' > $0/other; "
        "diff $0/header $0/library; test ! -s $0/other; "
        "rm $0/header $0/library $0/other";
    pid_t child = fork();
    int status;

    if (child == 0) {
        execl("/bin/sh", "sh", "-c", script, fake.directory, (char *)NULL);
        _exit(127);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    ck_assert_str_ne(tlsagent_version(), "");
}
END_TEST

/* The example of the manual is compiled as it stands there. */
START_TEST(example_of_the_manual_compiles)
{
    static const char script[] =
        "set -e; sed -n '/^.Bd -literal$/,/^.Ed$/{/^\\./d;p}' client/libtlsagent.3 > $0/example.c; "
        "grep -q tlsagent_handshake $0/example.c; "
        "${CC:-cc} -std=gnu11 -Wall -Wextra -Werror -Iclient -c $0/example.c -o $0/example.o; "
        "rm $0/example.c $0/example.o";
    pid_t child = fork();
    int status;

    if (child == 0) {
        execl("/bin/sh", "sh", "-c", script, fake.directory, (char *)NULL);
        _exit(127);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("client");
    TCase *cases = tcase_create("client");
    SRunner *runner;
    int failed;

    tcase_set_timeout(cases, 30);
    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, no_agent_is_a_clear_error_at_once);
    tcase_add_test(cases, impossible_path_is_an_error);
    tcase_add_test(cases, path_comes_from_the_environment);
    tcase_add_test(cases, denied_says_who_and_why);
    tcase_add_test(cases, silent_agent_costs_a_second);
    tcase_add_test(cases, finished_connection_has_facts_and_carries_data);
    tcase_add_test(cases, close_notify_goes_with_the_end);
    tcase_add_test(cases, truncation_is_told_and_data_before_it_is_not_lost);
    tcase_add_test(cases, handshake_may_begin_before_the_greeting);
    tcase_add_loop_test(cases, full_queue_is_waited_for_without_blocking, 0, 4);
    tcase_add_loop_test(cases, failure_is_told_with_its_reason, 0,
                        sizeof(failures) / sizeof(failures[0]));
    tcase_add_test(cases, cells_share_the_load_and_unknown_contexts_are_asked_for);
    tcase_add_test(cases, context_without_any_cell_is_named);
    tcase_add_test(cases, full_channel_queues);
    tcase_add_test(cases, descriptor_stays_readable_while_connections_wait);
    tcase_add_test(cases, cancelled_handshake_is_forgotten);
    tcase_add_test(cases, blocking_deadline_is_kept_even_if_the_agent_sleeps);
    tcase_add_test(cases, freed_handle_fails_its_handshakes);
    tcase_add_test(cases, wrong_arguments_are_told);
    tcase_add_test(cases, dead_agent_fails_handshakes_at_once_and_comes_back);
    tcase_add_test(cases, what_was_finished_before_the_death_is_finished);
    tcase_add_test(cases, what_was_finished_before_its_cell_died_is_finished);
    tcase_add_test(cases, answers_may_come_together);
    tcase_add_test(cases, what_came_together_goes_with_the_handle);
    tcase_add_loop_test(cases, untouched_handshake_goes_to_another_cell, 0, 4);
    tcase_add_loop_test(cases, touched_handshake_is_not_tried_again, 0, 3);
    tcase_add_loop_test(cases, replacement_channel_takes_over, 0, 2);
    tcase_add_test(cases, no_replacement_within_a_second_is_an_error);
    tcase_add_loop_test(cases, retryable_refusal_goes_to_another_cell, 1, 3);
    tcase_add_test(cases, credits_are_what_the_caller_can_take);
    tcase_add_test(cases, pulled_connections_come_in_the_forms_that_were_named);
    tcase_add_test(cases, unfetched_deliveries_go_with_the_handle);
    tcase_add_test(cases, pull_survives_a_restart_of_the_agent);
    tcase_add_test(cases, waiting_without_an_agent_does_not_spin);
    tcase_add_test(cases, accept_waits_for_one);
    tcase_add_test(cases, forked_child_cannot_use_what_is_its_parents);
    tcase_add_test(cases, threads_have_a_handle_each);
#ifndef SANITIZED
    tcase_add_test(cases, idle_connection_is_small);
#endif
    tcase_add_test(cases, exported_symbols_are_those_of_the_header);
    tcase_add_test(cases, example_of_the_manual_compiles);
    suite_add_tcase(suite, cases);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
