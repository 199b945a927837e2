/*
 * test_client_garbage.c: an agent that has lost its mind, or was taken over, can fail a worker's
 * handshakes but nothing else: no crash, no fd left open, a clear error; and the same handle goes
 * on when the agent is sane again.
 */
#include "tests/unit/fake_agent.h"

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

/* ---- on a cell's channel; each gets the id of the one handshake in progress ---- */

static void
send_raw(int channel, uint16_t type, const void *body, size_t size, const int *fds, size_t count)
{
    ck_assert_int_eq(channel_send(channel, type, body, size, fds, count), CHANNEL_OK);
}

static void
unknown_type(uint32_t id)
{
    send_raw(fake.cells[0], 99, &id, sizeof(id), NULL, 0);
}

static void
type_of_another_channel(uint32_t id)
{
    struct service_cancel cancel = {id};
    uint8_t body[8];

    send_raw(fake.cells[0], SERVICE_CANCEL, body, service_put_cancel(&cancel, body, sizeof(body)),
             NULL, 0);
}

static void
no_type(uint32_t id)
{
    ck_assert_int_eq((int)send(fake.cells[0], &id, 1, MSG_NOSIGNAL), 1);
}

static void
fd_with_finished(uint32_t id)
{
    struct service_finished said = fake_facts("www");

    said.id = id;
    fake_send_facts(&fake, 0, SERVICE_FINISHED, &said, fake.listener);
}

static void
many_fds_with_failed(uint32_t id)
{
    struct service_failed failed = {.id = id, .reason = SERVICE_BUSY, .alert = 255};
    int fds[4] = {fake.listener, fake.listener, fake.listener, fake.listener};
    uint8_t body[300];

    send_raw(fake.cells[0], SERVICE_FAILED, body, service_put_failed(&failed, body, sizeof(body)),
             fds, 4);
}

static void
unknown_id(uint32_t id)
{
    fake_finish(&fake, 0, id + 1, "www");
}

static void
failed_unknown_id(uint32_t id)
{
    fake_fail(&fake, 0, id + 1, SERVICE_BUSY, 0, 255, "busy");
}

static void
form_not_asked_for(uint32_t id)
{
    struct service_finished said = fake_facts("www");

    said.id = id;
    said.form = SERVICE_FORM_KERNEL;
    fake_send_facts(&fake, 0, SERVICE_FINISHED, &said, -1);
}

static void
another_context(uint32_t id)
{
    fake_finish(&fake, 0, id, "smtp");
}

static void
send_chain(uint32_t id, const void *chain, size_t size)
{
    struct service_finished said = fake_facts("www");

    said.id = id;
    said.chain = chain;
    said.chain_size = size;
    fake_send_facts(&fake, 0, SERVICE_FINISHED, &said, -1);
}

static void
chain_too_short(uint32_t id)
{
    send_chain(id, "\0\0\5abc", 6);
}

static void
chain_with_empty_certificate(uint32_t id)
{
    send_chain(id, "\0\0\1a\0\0\0", 7);
}

static void
chain_with_rest(uint32_t id)
{
    send_chain(id, "\0\0\1a\0\0", 6);
}

static void
chain_too_long(uint32_t id)
{
    uint8_t chain[4 * (SERVICE_CHAIN_LENGTH + 1)] = {0};

    for (size_t i = 0; i < sizeof(chain); i += 4)
        chain[i + 2] = 1;
    send_chain(id, chain, sizeof(chain));
}

static void
truncated(uint32_t id)
{
    static uint8_t body[CHANNEL_BODY_MAX];
    struct service_finished said = fake_facts("www");
    size_t size;

    said.id = id;
    size = service_put_finished(&said, body, sizeof(body));
    send_raw(fake.cells[0], SERVICE_FINISHED, body, size - 1, NULL, 0);
}

static void
overlong(uint32_t id)
{
    static uint8_t body[CHANNEL_BODY_MAX];

    memcpy(body, &id, sizeof(id));
    send_raw(fake.cells[0], SERVICE_FINISHED, body, sizeof(body), NULL, 0);
}

static void
unknown_suite(uint32_t id)
{
    static uint8_t body[CHANNEL_BODY_MAX];
    struct service_finished said = fake_facts("www");
    size_t size;

    said.id = id;
    said.state.suite = 0x002f;
    size = service_put_finished(&said, body, sizeof(body));
    send_raw(fake.cells[0], SERVICE_FINISHED, body, size, NULL, 0);
}

static void
failed_for_no_reason(uint32_t id)
{
    fake_fail(&fake, 0, id, 77, 0, 255, "?");
}

static void
delivered_unasked(uint32_t id)
{
    struct service_finished said = fake_facts("www");
    int pair[2];

    (void)id;
    unix_pair(pair);
    fake_send_facts(&fake, 0, SERVICE_DELIVERED, &said, pair[0]);
    close(pair[0]);
    close(pair[1]);
}

static void
delivered_with_an_id(uint32_t id)
{
    struct service_finished said = fake_facts("www");
    int pair[2];

    said.id = id;
    unix_pair(pair);
    fake_send_facts(&fake, 0, SERVICE_DELIVERED, &said, pair[0]);
    close(pair[0]);
    close(pair[1]);
}

static void
delivered_without_fd(uint32_t id)
{
    struct service_finished said = fake_facts("www");

    (void)id;
    fake_send_facts(&fake, 0, SERVICE_DELIVERED, &said, -1);
}

static void
delivered_pipe(uint32_t id)
{
    struct service_finished said = fake_facts("www");
    int pipes[2];

    (void)id;
    ck_assert_int_eq(pipe2(pipes, O_CLOEXEC), 0);
    fake_send_facts(&fake, 0, SERVICE_DELIVERED, &said, pipes[0]);
    close(pipes[0]);
    close(pipes[1]);
}

/* So many DELIVERED in one message, with so many fds; behind them a FINISHED that would be right.
 */
static void
send_batch(uint32_t id, size_t connections, size_t fds)
{
    uint32_t ids[SERVICE_BATCH_MAX] = {0};
    int pair[2];

    ids[connections] = id;
    unix_pair(pair);
    ck_assert_int_eq(fake_send_batch(&fake, 0, ids, connections + 1, pair[0], fds), CHANNEL_OK);
    close(pair[0]);
    close(pair[1]);
}

static void
delivered_too_many(uint32_t id)
{
    send_batch(id, 2, 2);
}

static void
batch_with_fds_missing(uint32_t id)
{
    send_batch(id, 5, 4);
}

static void
batch_with_a_surplus_fd(uint32_t id)
{
    send_batch(id, 5, 6);
}

static void
batch_with_fds_for_none(uint32_t id)
{
    uint32_t ids[2] = {id, id};

    ck_assert_int_eq(fake_send_batch(&fake, 0, ids, 2, fake.listener, 16), CHANNEL_OK);
}

static void
batch_with_seventeen_fds(uint32_t id)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(17 * sizeof(int))];
    } control;
    uint8_t packet[64] = {0, SERVICE_BATCH, 2};
    struct iovec part = {packet, sizeof(packet)};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *rights;

    (void)id;
    memset(&control, 0, sizeof(control));
    rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(17 * sizeof(int));
    for (size_t i = 0; i < 17; i++)
        memcpy(CMSG_DATA(rights) + i * sizeof(int), &fake.listener, sizeof(int));
    ck_assert_int_eq((int)sendmsg(fake.cells[0], &message, MSG_NOSIGNAL), sizeof(packet));
}

/* The body of a batch whose count, or whose first part's size, is a lie. */
static void
send_lying_batch(uint32_t id, size_t at, uint8_t value)
{
    uint8_t body[1 + 2 * (SERVICE_PART_HEAD + 64)];
    struct service_failed failed = {.id = id, .reason = SERVICE_BUSY, .alert = 255};
    struct service_batch batch = {.count = 2};
    uint8_t one[64];
    size_t size = service_put_failed(&failed, one, sizeof(one));

    for (size_t i = 0; i < 2; i++)
        batch.parts[i] = (struct service_part){SERVICE_FAILED, size, one};
    size = service_put_batch(&batch, body, sizeof(body));
    body[at] = value;
    send_raw(fake.cells[0], SERVICE_BATCH, body, size, NULL, 0);
}

static void
batch_of_fewer_than_it_says(uint32_t id)
{
    send_lying_batch(id, 0, 3);
}

static void
batch_of_more_than_it_says(uint32_t id)
{
    send_lying_batch(id, 0, 1);
}

static void
batch_with_a_part_beyond_its_end(uint32_t id)
{
    send_lying_batch(id, 3, 0x40); /* 1 GB */
}

static void
batch_in_a_batch(uint32_t id)
{
    send_lying_batch(id, 2, SERVICE_BATCH);
}

static void
batch_answers_twice(uint32_t id)
{
    uint32_t ids[3] = {id + 1, id, id};

    ck_assert_int_eq(fake_send_batch(&fake, 0, ids, 3, -1, 0), CHANNEL_OK);
}

static const struct {
    void (*send)(uint32_t id);
    unsigned pull; /* credits that it has */
    const char *error;
} garbage[] = {
    {unknown_type, 0, "not allowed"},
    {type_of_another_channel, 0, "not allowed"},
    {no_type, 0, "has no type"},
    {fd_with_finished, 0, "carries 1 fds"},
    {many_fds_with_failed, 0, "carries 4 fds"},
    {unknown_id, 0, "nobody asked"},
    {failed_unknown_id, 0, "nobody asked"},
    {form_not_asked_for, 0, "form that was not asked for"},
    {another_context, 0, "another context"},
    {chain_too_short, 0, "malformed chain"},
    {chain_with_empty_certificate, 0, "malformed chain"},
    {chain_with_rest, 0, "malformed chain"},
    {chain_too_long, 0, "malformed chain"},
    {truncated, 0, "malformed"},
    {overlong, 0, "bytes long"},
    {unknown_suite, 0, "malformed"},
    {failed_for_no_reason, 0, "malformed"},
    {delivered_unasked, 0, "nobody asked"},
    {delivered_with_an_id, 1, "nobody asked"},
    {delivered_without_fd, 1, "carries 0 fds"},
    {delivered_pipe, 1, "not a stream socket"},
    {delivered_too_many, 1, "nobody asked"},
    {batch_with_fds_missing, 6, "5 connections with 4 fds"},
    {batch_with_a_surplus_fd, 6, "5 connections with 6 fds"},
    {batch_with_fds_for_none, 1, "0 connections with 16 fds"},
    {batch_with_seventeen_fds, 1, "carries 17 fds"},
    {batch_of_fewer_than_it_says, 0, "malformed batch"},
    {batch_of_more_than_it_says, 0, "malformed batch"},
    {batch_with_a_part_beyond_its_end, 0, "malformed batch"},
    {batch_in_a_batch, 0, "malformed batch"},
    {batch_answers_twice, 0, "nobody asked"},
};

START_TEST(garbage_on_a_channel_costs_that_channel)
{
    struct tlsagent *agent = open_greeted(&fake, 1);
    struct tlsagent_conn *conn, *next;
    struct fake_request request;
    int pair[2];
    char byte;

    if (garbage[_i].pull > 0) {
        ck_assert_int_eq(tlsagent_pull(agent, "www", garbage[_i].pull), 0);
        fake_expect(&fake, 0, SERVICE_PULL);
    }
    unix_pair(pair);
    conn = tlsagent_accept_fd(agent, "www", pair[0]);
    set_nonblocking(pair[0]);
    ck_assert_int_eq(tlsagent_set_forms(conn, TLSAGENT_FORM_RECORDS), 0);
    ck_assert_int_eq(tlsagent_handshake(conn), TLSAGENT_WANT_POLLIN);
    request = fake_expect(&fake, 0, SERVICE_ACCEPT);
    close(request.fd);
    garbage[_i].send(request.accept.id);
    while ((next = next_finished(agent)) != conn) /* the one that was delivered rightly */
        tlsagent_close(next);
    ck_assert_int_eq(tlsagent_handshake(conn), -1);
    ck_assert_int_eq(tlsagent_error_code(conn), TLSAGENT_E_RETRY);
    ck_assert_contains(tlsagent_error(conn), "broke the protocol");
    ck_assert_contains(tlsagent_error(conn), garbage[_i].error);
    tlsagent_close(conn);
    ck_assert_int_le((int)recv(fake.cells[0], &byte, 1, MSG_DONTWAIT), 1); /* a PULL, or the end */

    /* The next handshake has the library greeted again: that is how it gets a channel. */
    sleep_ms(110);
    conn = begin(agent, "www", pair[0]);
    fake_greet(&fake, 1);
    while (is_readable(tlsagent_fd(agent), 0) && !is_readable(fake.cells[0], 0))
        ck_assert_ptr_null(tlsagent_next(agent));
    if (garbage[_i].pull > 0)
        fake_expect(&fake, 0, SERVICE_PULL);
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

START_TEST(second_answer_is_garbage)
{
    struct tlsagent *agent = open_greeted(&fake, 1);
    struct fake_request request;
    struct tlsagent_conn *conn;
    int pair[2];
    char byte;

    unix_pair(pair);
    conn = begin(agent, "www", pair[0]);
    request = fake_expect(&fake, 0, SERVICE_ACCEPT);
    close(request.fd);
    fake_finish(&fake, 0, request.accept.id, "www");
    fake_finish(&fake, 0, request.accept.id, "www");
    ck_assert_ptr_eq(next_finished(agent), conn);
    ck_assert_int_eq(tlsagent_handshake(conn), 0); /* the first one stands */
    ck_assert_ptr_null(tlsagent_next(agent));
    ck_assert_int_eq((int)recv(fake.cells[0], &byte, 1, MSG_DONTWAIT), 0); /* closed */
    tlsagent_abandon(conn);
    tlsagent_free(agent);
    close(pair[0]);
    close(pair[1]);
}
END_TEST

/* Other cells' handshakes do not notice. */
START_TEST(garbage_of_one_cell_is_not_the_others)
{
    struct tlsagent *agent = open_greeted(&fake, 2);
    struct tlsagent_conn *conns[2], *conn;
    struct fake_request requests[2];
    int pair[2];

    unix_pair(pair);
    for (int i = 0; i < 2; i++)
        conns[i] = begin(agent, "www", pair[0]);
    for (int i = 0; i < 2; i++) {
        requests[i] = fake_expect(&fake, i, SERVICE_ACCEPT);
        close(requests[i].fd);
    }
    unknown_type(0);
    conn = next_finished(agent);
    ck_assert_int_eq(tlsagent_error_code(conn), TLSAGENT_E_RETRY);
    fake_finish(&fake, 1, requests[1].accept.id, "www");
    conn = next_finished(agent);
    ck_assert_int_eq(tlsagent_handshake(conn), 0);
    for (int i = 0; i < 2; i++)
        tlsagent_abandon(conns[i]);
    tlsagent_free(agent);
    close(pair[0]);
    close(pair[1]);
}
END_TEST

/* ---- on the first connection ---- */

static void
send_welcome(uint16_t protocol)
{
    struct service_welcome welcome = {protocol, "x"};
    uint8_t body[80];

    send_raw(fake.greeting, SERVICE_WELCOME, body,
             service_put_welcome(&welcome, body, sizeof(body)), NULL, 0);
}

static void
another_protocol(void)
{
    send_welcome(SERVICE_PROTOCOL + 1);
}

static void
welcome_twice(void)
{
    send_welcome(SERVICE_PROTOCOL);
    send_welcome(SERVICE_PROTOCOL);
}

static void
context_before_welcome(void)
{
    fake_permit(&fake, "www", 0, 0);
}

static void
channel_before_welcome(void)
{
    fake_push_cell(&fake, 0, 0);
}

static void
channel_is_a_pipe(void)
{
    struct service_channel channel = {0, 0};
    uint8_t body[8];
    int pipes[2];

    send_welcome(SERVICE_PROTOCOL);
    ck_assert_int_eq(pipe2(pipes, O_CLOEXEC), 0);
    send_raw(fake.greeting, SERVICE_CHANNEL, body,
             service_put_channel(&channel, body, sizeof(body)), &pipes[0], 1);
    close(pipes[0]);
    close(pipes[1]);
}

static void
channel_without_fd(void)
{
    send_welcome(SERVICE_PROTOCOL);
    send_raw(fake.greeting, SERVICE_CHANNEL, "\0\0\0\0", 4, NULL, 0);
}

static void
nameless_context(void)
{
    send_welcome(SERVICE_PROTOCOL);
    fake_permit(&fake, "", 0, 0);
}

static void
handshake_message(void)
{
    send_welcome(SERVICE_PROTOCOL);
    send_raw(fake.greeting, SERVICE_FINISHED, "abcd", 4, NULL, 0);
}

static void
malformed_denial(void)
{
    send_raw(fake.greeting, SERVICE_DENIED, "\377", 1, NULL, 0);
}

static const struct {
    void (*send)(void);
    const char *error;
} greetings[] = {
    {another_protocol, "install one release"},      {welcome_twice, "malformed welcome"},
    {context_before_welcome, "before the welcome"}, {channel_before_welcome, "before the welcome"},
    {channel_is_a_pipe, "a channel that is none"},  {channel_without_fd, "carries 0 fds"},
    {nameless_context, "without a name"},           {handshake_message, "not allowed"},
    {malformed_denial, "malformed denial"},
};

START_TEST(garbage_in_the_greeting_is_told)
{
    struct tlsagent *agent = tlsagent_open(fake.path);
    int pair[2];

    wait_readable(fake.listener);
    fake.greeting = accept4(fake.listener, NULL, NULL, SOCK_CLOEXEC);
    greetings[_i].send();
    ck_assert_int_eq(tlsagent_check(agent), -1);
    ck_assert_int_eq(tlsagent_agent_error_code(agent), TLSAGENT_E_AGENT);
    ck_assert_contains(tlsagent_agent_error(agent), "cannot use the agent at ");
    ck_assert_contains(tlsagent_agent_error(agent), greetings[_i].error);
    /* A second attempt is not made at once, and a sane agent is taken as it is. */
    ck_assert_int_eq(tlsagent_check(agent), -1);
    ck_assert_int_eq(is_readable(fake.listener, 0), 0);
    sleep_ms(110);
    unix_pair(pair);
    tlsagent_abandon(begin(agent, "www", pair[0])); /* connects */
    close(pair[0]);
    close(pair[1]);
    fake_greet(&fake, 1);
    ck_assert_int_eq(tlsagent_check(agent), 0);
    tlsagent_free(agent);
}
END_TEST

START_TEST(a_flood_of_contexts_ends)
{
    struct tlsagent *agent = tlsagent_open(fake.path);
    enum channel_result result = CHANNEL_OK;
    int sent;

    fake_welcome(&fake);
    for (sent = 0; sent < 10000 && result != CHANNEL_CLOSED; sent++) {
        struct service_context context = {.group = 0};
        uint8_t body[80];

        snprintf(context.name, sizeof(context.name), "c%d", sent);
        while ((result = channel_send(fake.greeting, SERVICE_CONTEXT, body,
                                      service_put_context(&context, body, sizeof(body)), NULL,
                                      0)) == CHANNEL_AGAIN)
            ck_assert_ptr_null(tlsagent_next(agent));
    }
    ck_assert_int_gt(sent, 4096);
    ck_assert_int_lt(sent, 10000);
    tlsagent_free(agent);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("client garbage");
    TCase *cases = tcase_create("garbage");
    SRunner *runner;
    int failed;

    tcase_set_timeout(cases, 30);
    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_loop_test(cases, garbage_on_a_channel_costs_that_channel, 0,
                        sizeof(garbage) / sizeof(garbage[0]));
    tcase_add_test(cases, second_answer_is_garbage);
    tcase_add_test(cases, garbage_of_one_cell_is_not_the_others);
    tcase_add_loop_test(cases, garbage_in_the_greeting_is_told, 0,
                        sizeof(greetings) / sizeof(greetings[0]));
    tcase_add_test(cases, a_flood_of_contexts_ends);
    suite_add_tcase(suite, cases);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
