/*
 * test_early.c: tickets that are opened several in one call of a real keeper, before libssl asks
 * for them; what a keeper may not answer to that; and tickets that are written behind libssl.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/newticket.h"
#include "agent/proxykey.h"
#include "agent/proxyticket.h"
#include "agent/roles.h"
#include "agent/sessions.h"
#include "tests/unit/keeper_fixture.h"

#define PAIRS 20 /* more than go into one call */

static const uint8_t scope[KEYOPS_SCOPE_SIZE] = "context www";
static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};

static struct keeper_run run;
static struct keycall *keeper;
static struct proxyticket *tickets;
static SSL_CTX *server_ctx, *client_ctx;
static SSL_SESSION *ticket; /* the last that the client was given */
static unsigned gone_on;
static SSL *victim;  /* freed by whoever goes on first */
static bool writing; /* tickets are not libssl's */
static struct newticket due;

static int
client_hello(SSL *ssl, int *alert, void *argument)
{
    (void)alert;
    (void)argument;
    if (proxyticket_has_waited(ssl))
        return SSL_CLIENT_HELLO_SUCCESS;
    if (writing)
        newticket_take_over(ssl, &due);
    return sessions_must_wait(ssl) ? SSL_CLIENT_HELLO_RETRY : SSL_CLIENT_HELLO_SUCCESS;
}

static int
keep_ticket(SSL *ssl, SSL_SESSION *session)
{
    (void)ssl;
    SSL_SESSION_free(ticket);
    ticket = session;
    return 1;
}

static void
step(SSL *server)
{
    proxyticket_enter(tickets, server);
    (void)SSL_do_handshake(server);
    proxyticket_leave(tickets);
}

static void
go_on(SSL *server)
{
    gone_on++;
    SSL_free(victim);
    victim = NULL;
    step(server);
}

static void
set_up(void)
{
    struct error error = {""};
    int fd = keeper_secret_fd();
    EVP_PKEY *proxy;

    run = keeper_start(fd, -1);
    close(fd);
    keeper = keycall_open(run.peer, KEYCALL_DEADLINE_MS, &error);
    run.peer = -1;
    ck_assert_msg(keeper != NULL, "%s", error.text);
    ck_assert_msg(proxykey_load(&error) == 0, "%s", error.text);
    tickets = proxyticket_new(keeper, &error);
    ck_assert_msg(tickets != NULL, "%s", error.text);
    server_ctx = SSL_CTX_new(TLS_server_method());
    proxy = proxykey_new(keeper, KEY_P256, X509_get0_pubkey(keeper_certificates[KEY_P256]), &error);
    ck_assert_int_eq(
        SSL_CTX_use_cert_and_key(server_ctx, keeper_certificates[KEY_P256], proxy, NULL, 1), 1);
    EVP_PKEY_free(proxy);
    SSL_CTX_set_session_id_context(server_ctx, (const unsigned char *)"test", 4);
    SSL_CTX_set_session_cache_mode(server_ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(server_ctx, 1);
    SSL_CTX_set_max_proto_version(server_ctx, TLS1_3_VERSION); /* as a context's always is */
    SSL_CTX_set_client_hello_cb(server_ctx, client_hello, NULL);
    ck_assert_int_eq(proxyticket_enable(server_ctx), 0);
    client_ctx = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_session_cache_mode(client_ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(client_ctx, keep_ticket);
    ticket = NULL;
    gone_on = 0;
    writing = false;
}

static void
tear_down(void)
{
    SSL_SESSION_free(ticket);
    SSL_CTX_free(server_ctx);
    SSL_CTX_free(client_ctx);
    proxyticket_free(tickets);
    keycall_close(keeper);
    keeper_stop(&run);
}

struct pair {
    SSL *client, *server;
};

static struct pair
new_pair(SSL_SESSION *with, const uint8_t *of, int version)
{
    struct pair pair = {SSL_new(client_ctx), SSL_new(server_ctx)};
    BIO *up = BIO_new(BIO_s_mem()), *down = BIO_new(BIO_s_mem());

    BIO_up_ref(up);
    BIO_up_ref(down);
    SSL_set_bio(pair.client, down, up);
    SSL_set_bio(pair.server, up, down);
    SSL_set_connect_state(pair.client);
    SSL_set_accept_state(pair.server);
    SSL_set_max_proto_version(pair.client, version);
    if (with != NULL)
        ck_assert_int_eq(SSL_set_session(pair.client, with), 1);
    ck_assert_int_eq(proxyticket_bind(pair.server, tickets, of), 0);
    (void)SSL_do_handshake(pair.client);
    step(pair.server);
    return pair;
}

/* Finish it. Returns whether it was resumed. */
static bool
finish_pair(struct pair *pair)
{
    bool resumed;
    char byte;

    for (int i = 0; i < 4; i++) {
        (void)SSL_do_handshake(pair->client);
        step(pair->server);
    }
    ck_assert(SSL_is_init_finished(pair->client) && SSL_is_init_finished(pair->server));
    ck_assert_int_eq(SSL_write(pair->server, "x", 1), 1); /* brings the tickets in front of it */
    ck_assert_int_eq(SSL_read(pair->client, &byte, 1), 1);
    resumed = SSL_session_reused(pair->server) == 1;
    SSL_set_shutdown(pair->client, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_set_shutdown(pair->server, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(pair->client);
    SSL_free(pair->server);
    return resumed;
}

static uint64_t
calls(void)
{
    struct keycall_counters counters;

    keycall_count(keeper, &counters);
    return counters.calls;
}

/* A first ticket, with nobody waiting yet. */
static SSL_SESSION *
get_ticket(int version)
{
    struct pair first = new_pair(NULL, scope, version);
    SSL_SESSION *with;

    ck_assert(!finish_pair(&first));
    with = ticket;
    ck_assert_ptr_nonnull(with);
    ticket = NULL;
    proxyticket_let_wait(tickets, go_on);
    return with;
}

START_TEST(all_that_wait_are_opened_in_as_few_calls_as_can_be)
{
    SSL_SESSION *with = get_ticket(versions[_i]);
    struct pair pairs[PAIRS], other;
    uint64_t before;

    before = calls();
    for (int i = 0; i < PAIRS; i++) {
        pairs[i] = new_pair(with, scope, versions[_i]);
        ck_assert(proxyticket_waits(pairs[i].server));
        ck_assert_int_eq(SSL_get_error(pairs[i].server, -1), SSL_ERROR_WANT_CLIENT_HELLO_CB);
    }
    other = new_pair(NULL, scope, versions[_i]); /* has no ticket: goes on by itself */
    ck_assert(!proxyticket_waits(other.server));
    ck_assert(!finish_pair(&other));
    ck_assert_uint_eq(calls() - before, 1); /* its signature, and no ticket */
    ck_assert_uint_eq(gone_on, 0);
    proxyticket_open_waiting(tickets);
    ck_assert_uint_eq(gone_on, PAIRS);
    for (int i = 0; i < PAIRS; i++) {
        ck_assert(!proxyticket_waits(pairs[i].server));
        ck_assert(finish_pair(&pairs[i]));
    }
    ck_assert_uint_eq(calls() - before, 1 + 2);
    ck_assert_uint_eq(keeper_totals(&run).tickets_opened, PAIRS);
    before = calls();
    proxyticket_open_waiting(tickets); /* nobody: no call */
    ck_assert_uint_eq(calls(), before);
    SSL_SESSION_free(with);
}
END_TEST

/* One that does not open is refused once, and its neighbours do not notice. */
START_TEST(a_refusal_is_for_one_only)
{
    static const uint8_t elsewhere[KEYOPS_SCOPE_SIZE] = "another context";
    SSL_SESSION *with = get_ticket(versions[_i]);
    struct pair pairs[3];
    uint64_t before = calls();

    for (int i = 0; i < 3; i++)
        pairs[i] = new_pair(with, i == 1 ? elsewhere : scope, versions[_i]);
    proxyticket_open_waiting(tickets);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(finish_pair(&pairs[i]), i != 1);
    ck_assert_uint_eq(calls() - before, 2); /* all three, and the signature of the full one */
    ck_assert_uint_eq(keeper_totals(&run).refusals, 1);
    ck_assert_uint_eq(keeper_totals(&run).tickets_opened, 2);
    SSL_SESSION_free(with);
}
END_TEST

/* What was opened is for the scope that it was opened for. */
START_TEST(another_bind_forgets_what_was_opened)
{
    static const uint8_t elsewhere[KEYOPS_SCOPE_SIZE] = "another context";
    SSL_SESSION *with = get_ticket(versions[_i]);
    struct pair pair = new_pair(with, scope, versions[_i]);

    ck_assert(proxyticket_waits(pair.server));
    ck_assert_int_eq(proxyticket_bind(pair.server, tickets, elsewhere), 0);
    ck_assert(!proxyticket_waits(pair.server));
    proxyticket_open_waiting(tickets);
    ck_assert_uint_eq(gone_on, 0);
    ck_assert(!finish_pair(&pair));
    ck_assert_uint_eq(keeper_totals(&run).tickets_opened, 0);
    SSL_SESSION_free(with);
}
END_TEST

/* Connections end while they wait, and while others go on. */
START_TEST(who_ends_while_he_waits_is_not_called)
{
    SSL_SESSION *with = get_ticket(versions[_i]);
    struct pair pairs[4];

    for (int i = 0; i < 4; i++)
        pairs[i] = new_pair(with, scope, versions[_i]);
    SSL_free(pairs[1].server);
    victim = pairs[2].server; /* neither the first nor the last in any order */
    proxyticket_open_waiting(tickets);
    ck_assert_ptr_null(victim);
    ck_assert_uint_eq(gone_on, 2);
    ck_assert(finish_pair(&pairs[0]));
    ck_assert(finish_pair(&pairs[3]));
    SSL_free(pairs[1].client);
    SSL_free(pairs[2].client);
    SSL_SESSION_free(with);
}
END_TEST

/* A stranger's ticket costs the keeper nothing, as ever. */
START_TEST(only_what_passes_the_filter_waits)
{
    SSL_SESSION *with = get_ticket(versions[_i]), *changed;
    const unsigned char *was, *next;
    unsigned char *der = NULL, *found;
    int der_size = i2d_SSL_SESSION(with, &der);
    uint64_t before = calls();
    struct pair pair;
    size_t size;

    SSL_SESSION_get0_ticket(with, &was, &size);
    found = memmem(der, (size_t)der_size, was, size);
    ck_assert_ptr_nonnull(found);
    found[_i == 0 ? size - 1 : 20] ^= 1;
    next = der;
    changed = d2i_SSL_SESSION(NULL, &next, der_size);
    ck_assert_ptr_nonnull(changed);
    pair = new_pair(changed, scope, versions[_i]);
    ck_assert(!proxyticket_waits(pair.server));
    ck_assert(!finish_pair(&pair));
    ck_assert_uint_eq(calls() - before, 1); /* the signature */
    ck_assert_uint_eq(keeper_totals(&run).refusals, 0);
    OPENSSL_free(der);
    SSL_SESSION_free(changed);
    SSL_SESSION_free(with);
}
END_TEST

/* ---- tickets that are written behind libssl ---- */

/* How many bytes of messages are in these records, which are as many as were counted. */
static size_t
plain_in(const uint8_t *next, size_t size, uint64_t counted)
{
    const uint8_t *end = next + size;
    size_t plain = 0;

    for (; next < end; counted--) {
        size_t body = (size_t)next[3] << 8 | next[4];

        ck_assert_uint_ge((size_t)(end - next), 5 + body);
        ck_assert_uint_gt(body, 1 + TRAFFIC_TAG_SIZE);
        ck_assert_uint_le(body, 512 + 1 + TRAFFIC_TAG_SIZE);
        plain += body - 1 - TRAFFIC_TAG_SIZE;
        next += 5 + body;
    }
    ck_assert_uint_eq(counted, 0);
    return plain;
}

static void
fill_socket(int fd)
{
    static const uint8_t bytes[4096];

    while (send(fd, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
        continue;
}

static size_t
read_socket(int fd, uint8_t *bytes, size_t room)
{
    ssize_t got;
    size_t size = 0;

    while ((got = recv(fd, bytes + size, room - size, MSG_DONTWAIT)) > 0)
        size += (size_t)got;
    return size;
}

/* The client takes small records and reads nothing for a while: it gets all tickets, and behind
 * the others' bytes nothing but them. In the middle of a message no other record may come (RFC 8446
 * section 5.1). */
START_TEST(tickets_wait_for_the_client)
{
    static uint8_t bytes[1 << 20];
    static const uint8_t flight[TRANSPORT_BUFFER];
    struct export_state collected = {.have_resumption_secret = true};
    struct transport transport;
    struct pair pair;
    size_t message = 0;
    int sockets[2];

    writing = true;
    pair = new_pair(NULL, scope, TLS1_3_VERSION);
    for (int i = 0; i < 4; i++) {
        (void)SSL_do_handshake(pair.client);
        step(pair.server);
    }
    ck_assert(SSL_is_init_finished(pair.server));
    ck_assert_uint_eq(due.count, 1);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
    for (size_t before = 0; before <= TRANSPORT_BUFFER; before += 256) {
        struct traffic_state state = {.suite = 0x1301, .max_fragment = 512};
        struct newticket some = {.count = before == 0 ? 1 : 8};
        size_t size = 0;

        if (before > 0)
            fill_socket(sockets[0]);
        transport_init(&transport, sockets[0]);
        ck_assert(transport_append(&transport, flight, before));
        newticket_write(pair.server, &some, &collected, &state, &transport);
        if (before > 0) { /* in the way: nothing is made yet */
            ck_assert_uint_eq(some.count - some.next, 8);
            ck_assert_uint_eq(transport.out_end, before);
            ck_assert_uint_gt(read_socket(sockets[1], bytes, sizeof(bytes)), 0);
            newticket_write(pair.server, &some, &collected, &state, &transport);
        }
        ck_assert_uint_eq(some.next, some.count);
        ck_assert_int_eq(transport_flush(&transport), 0);
        size = read_socket(sockets[1], bytes, sizeof(bytes));
        ck_assert_uint_gt(size, before);
        size = plain_in(bytes + before, size - before, state.send.sequence);
        if (before == 0)
            message = size;
        ck_assert_uint_gt(size, 0);
        ck_assert_uint_eq(size, some.count * message);
        ck_assert_uint_gt(some.count * message, some.count == 8 ? 512 : 0); /* several records */
    }
    close(sockets[0]);
    close(sockets[1]);
    SSL_free(pair.client);
    SSL_free(pair.server);
}
END_TEST

/* A ticket is for clients that say how they would use it, and can (RFC 8446 section 4.2.9). */
START_TEST(who_cannot_use_tickets_gets_none)
{
    static const uint8_t extension[] = {0, 45, 0, 2, 1, 1};
    static const uint8_t others[][6] = {
        {0, 45, 0, 2, 1, 1}, /* with Diffie-Hellman */
        {0, 45, 0, 2, 1, 0}, /* only without */
        {0, 45, 0, 2, 2, 1}, /* longer than it is */
        {0x7a, 0x7a, 0, 2, 1, 1},
    };
    struct pair pair = {SSL_new(client_ctx), SSL_new(server_ctx)};
    BIO *up = BIO_new(BIO_s_mem()), *down = BIO_new(BIO_s_mem());
    uint8_t hello[2048], *found;
    int size;

    writing = true;
    SSL_set_bio(pair.client, BIO_new(BIO_s_mem()), up);
    SSL_set_bio(pair.server, down, BIO_new(BIO_s_mem()));
    SSL_set_connect_state(pair.client);
    SSL_set_accept_state(pair.server);
    ck_assert_int_eq(proxyticket_bind(pair.server, tickets, scope), 0);
    (void)SSL_do_handshake(pair.client);
    size = BIO_read(up, hello, sizeof(hello));
    ck_assert_int_gt(size, 0);
    found = memmem(hello, (size_t)size, extension, sizeof(extension));
    ck_assert_ptr_nonnull(found);
    memcpy(found, others[_i], sizeof(others[_i]));
    ck_assert_int_eq(BIO_write(down, hello, size), size);
    due.count = 99;
    step(pair.server);
    ck_assert_uint_eq(due.count, _i == 0);
    ck_assert_uint_eq(SSL_get_num_tickets(pair.server), 0); /* libssl makes none either */
    SSL_free(pair.client);
    SSL_free(pair.server);
}
END_TEST

/* ---- a keeper that answers wrongly ---- */

static size_t
put_answer(uint8_t *body, size_t room, size_t used, uint32_t number, size_t keys, uint8_t refused)
{
    static const struct keyops_ticket_key some[KEYOPS_KEYS_MAX];
    const struct keyops_answer answer = {.number = number,
                                         .data = (const uint8_t *)"\0session",
                                         .size = 8,
                                         .key_count = keys,
                                         .keys = some};
    const struct keyops_refused refusal = {.number = number, .reason = KEYOPS_OLD_TICKET};
    uint8_t one[256];
    struct keyops_item item = {.refused = refused, .body = one};

    item.size = refused == 1 ? keyops_put_refused(&refusal, one, sizeof(one))
                             : keyops_put_answer(&answer, one, sizeof(one));
    ck_assert(keyops_add_item(&item, body, room, &used));
    return used;
}

static void
ask_for_two(int what)
{
    struct keycall_opening openings[2], *both[] = {&openings[0], &openings[1]};
    static uint8_t sealed[KEYOPS_TICKET_EXTRA], result[2][16], body[1024];
    struct onetime_keys keys[2];
    struct keyops_hello hello = {""};
    struct error error = {""};
    struct keycall *call;
    size_t size;
    int pair[2];

    ck_assert_int_eq(channel_pair(pair), 0);
    strncpy(hello.build, role_build_id, sizeof(hello.build) - 1);
    size = keyops_put_hello(&hello, body, sizeof(body));
    ck_assert_int_eq(channel_send(pair[1], KEYOPS_HELLO, body, size, NULL, 0), CHANNEL_OK);
    call = keycall_open(pair[0], 1000, &error);
    ck_assert_ptr_nonnull(call);
    memset(openings, 0, sizeof(openings));
    memset(keys, 0, sizeof(keys));
    for (size_t i = 0; i < 2; i++) {
        openings[i].request.wish.keys = (uint8_t)i;
        openings[i].request.data = sealed;
        openings[i].request.data_size = sizeof(sealed);
        openings[i].keys = &keys[i];
        openings[i].result = result[i];
        openings[i].room = sizeof(result[i]);
    }
    size =
        put_answer(body, sizeof(body), 0, what == 1 ? 2 : 1, what == 2 ? 1 : 0, what == 3 ? 2 : 1);
    if (what != 4)
        size = put_answer(body, sizeof(body), size, 2, what == 5 ? 2 : 1, 0);
    if (what == 6)
        size = put_answer(body, sizeof(body), size, 3, 0, 0);
    if (what == 2) /* a key with the first, which wished none */
        size = put_answer(body, sizeof(body), 0, 1, 1, 0);
    if (what == 7)
        body[size++] = 0;
    ck_assert_int_eq(
        channel_send(pair[1], what == 8 ? KEYOPS_ANSWER : KEYOPS_ANSWERS, body, size, NULL, 0),
        CHANNEL_OK);
    keycall_open_tickets(call, both, 2);
    ck_assert_int_eq(openings[0].refusal, KEYOPS_OLD_TICKET);
    ck_assert_int_eq(openings[1].refusal, 0);
    ck_assert_uint_eq(openings[1].size, 8);
    ck_assert_mem_eq(result[1], "\0session", 8);
    ck_assert_uint_eq(keys[0].count, 0);
    ck_assert_uint_eq(keys[1].count, 1);
    keycall_close(call);
    close(pair[1]);
}

START_TEST(each_has_its_own_answer)
{
    ask_for_two(0);
}
END_TEST

START_TEST(a_wrong_answer_ends_the_handshaker)
{
    ask_for_two(_i);
    exit(0); /* not reached: the test expects status 1 */
}
END_TEST

int
main(int argc, char **argv)
{
    Suite *suite = suite_create("early");
    TCase *opened = tcase_create("opened"), *wrong = tcase_create("wrong answers");
    SRunner *runner;
    int failed;

    keeper_fixture_main(argc, argv);
    keeper_make_keys();
    tcase_add_checked_fixture(opened, set_up, tear_down);
    tcase_add_loop_test(opened, all_that_wait_are_opened_in_as_few_calls_as_can_be, 0, 2);
    tcase_add_loop_test(opened, a_refusal_is_for_one_only, 0, 2);
    tcase_add_loop_test(opened, another_bind_forgets_what_was_opened, 0, 2);
    tcase_add_loop_test(opened, who_ends_while_he_waits_is_not_called, 0, 2);
    tcase_add_loop_test(opened, only_what_passes_the_filter_waits, 0, 2);
    tcase_add_test(opened, tickets_wait_for_the_client);
    tcase_add_loop_test(opened, who_cannot_use_tickets_gets_none, 0, 4);
    suite_add_tcase(suite, opened);
    tcase_add_test(wrong, each_has_its_own_answer);
    tcase_add_loop_exit_test(wrong, a_wrong_answer_ends_the_handshaker, 1, 1, 9);
    suite_add_tcase(suite, wrong);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
