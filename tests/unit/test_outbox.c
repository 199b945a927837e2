/*
 * test_outbox.c: answers to a worker go in order, as few messages as possible, each with its
 * descriptors; and nothing stays open, counted or readable of what is not sent.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/outbox.h"
#include "protocol/service.h"

static uint8_t work[CHANNEL_BODY_MAX], received[CHANNEL_BUFFER_SIZE], bytes[50000];
static struct outbox outbox;
static struct user user;
static int pair[2];

static void
setup(void)
{
    memset(&user, 0, sizeof(user));
    ck_assert_int_eq(channel_pair(pair), 0);
    outbox_init(&outbox, pair[0], &user);
}

static void
teardown(void)
{
    outbox_clear(&outbox);
    ck_assert_uint_eq(user.unread, 0);
    close(pair[0]);
    close(pair[1]);
}

static int
some_fd(void)
{
    int fd = dup(pair[0]);

    ck_assert_int_ne(fd, -1);
    return fd;
}

static void
put(uint16_t type, uint8_t mark, size_t size)
{
    memset(bytes, mark, size);
    ck_assert(outbox_put(&outbox, type, bytes, size, type == SERVICE_DELIVERED ? some_fd() : -1));
}

/* DELIVERED's least body, as the rules have it. */
static void
put_connections(size_t count)
{
    for (size_t i = 0; i < count; i++)
        put(SERVICE_DELIVERED, (uint8_t)i, 241);
}

static enum channel_result
receive(struct channel_message *message)
{
    struct error error = {""};

    return channel_receive(pair[1], service_worker_rules, service_worker_rule_count, received,
                           sizeof(received), message, &error);
}

START_TEST(one_answer_is_a_message_of_its_own)
{
    struct channel_message message;

    put(SERVICE_FAILED, 7, 100);
    ck_assert_int_eq(outbox_send(&outbox, work), CHANNEL_OK);
    ck_assert_int_eq(receive(&message), CHANNEL_OK);
    ck_assert_uint_eq(message.type, SERVICE_FAILED);
    ck_assert_uint_eq(message.size, 100);
    ck_assert_uint_eq(message.body[99], 7);
    ck_assert_int_eq(receive(&message), CHANNEL_AGAIN);
}
END_TEST

START_TEST(several_answers_are_one_message_in_order)
{
    static const uint16_t types[] = {SERVICE_FAILED, SERVICE_DELIVERED, SERVICE_FINISHED,
                                     SERVICE_DELIVERED, SERVICE_DELIVERED};
    struct channel_message message;
    struct service_batch batch;

    for (uint8_t i = 0; i < 5; i++)
        put(types[i], i, 242U + i);
    ck_assert_uint_eq(user.unread, 3);
    ck_assert(!outbox_full(&outbox));
    ck_assert_int_eq(outbox_send(&outbox, work), CHANNEL_OK);
    ck_assert_int_eq(receive(&message), CHANNEL_OK);
    ck_assert_uint_eq(message.type, SERVICE_BATCH);
    ck_assert(service_get_batch(&batch, message.body, message.size));
    ck_assert_uint_eq(batch.count, 5);
    ck_assert_uint_eq(message.fd_count, 3);
    for (uint8_t i = 0; i < 5; i++) {
        ck_assert_uint_eq(batch.parts[i].type, types[i]);
        ck_assert_uint_eq(batch.parts[i].size, 242U + i);
        ck_assert_uint_eq(batch.parts[i].body[0], i);
    }
    channel_message_clear(&message);
    ck_assert_int_eq(receive(&message), CHANNEL_AGAIN);
    for (size_t i = 0; i < sizeof(work); i++) /* traffic keys were in it */
        ck_assert_uint_eq(work[i], 0);
}
END_TEST

START_TEST(more_than_fit_go_in_several_messages)
{
    struct channel_message message;
    struct service_batch batch;

    put_connections(SERVICE_BATCH_MAX - 1);
    ck_assert(!outbox_full(&outbox));
    put_connections(2);
    ck_assert(outbox_full(&outbox));
    put(SERVICE_FINISHED, 1, 30000);
    put(SERVICE_FINISHED, 2, 30000);
    put(SERVICE_FINISHED, 3, 30000);
    ck_assert_int_eq(outbox_send(&outbox, work), CHANNEL_OK);
    ck_assert_int_eq(receive(&message), CHANNEL_OK);
    ck_assert_uint_eq(message.fd_count, SERVICE_BATCH_MAX);
    channel_message_clear(&message);
    ck_assert_int_eq(receive(&message), CHANNEL_OK);
    ck_assert(service_get_batch(&batch, message.body, message.size));
    ck_assert_uint_eq(batch.count, 3);
    ck_assert_uint_eq(message.fd_count, 1);
    channel_message_clear(&message);
    ck_assert_int_eq(receive(&message), CHANNEL_OK);
    ck_assert_uint_eq(message.type, SERVICE_FINISHED);
    ck_assert_uint_eq(message.body[0], 3);
    ck_assert_int_eq(receive(&message), CHANNEL_AGAIN);
}
END_TEST

START_TEST(what_finds_no_room_waits_and_is_bounded)
{
    struct channel_message message;
    enum channel_result result = CHANNEL_OK;
    size_t there = 0, got = 0;

    while (result == CHANNEL_OK) {
        put_connections(4);
        there += 4;
        result = outbox_send(&outbox, work);
    }
    ck_assert_int_eq(result, CHANNEL_AGAIN);
    ck_assert_uint_eq(outbox.count, 4);
    while (outbox_put(&outbox, SERVICE_FAILED, bytes, 8, -1))
        there++;
    ck_assert_uint_lt(there, 10000);
    while (receive(&message) == CHANNEL_OK) {
        struct service_batch batch = {.count = 1};

        if (message.type == SERVICE_BATCH)
            ck_assert(service_get_batch(&batch, message.body, message.size));
        got += batch.count;
        channel_message_clear(&message);
        (void)outbox_send(&outbox, work);
    }
    ck_assert_uint_eq(got, there);
    ck_assert_uint_eq(outbox.count + outbox.bytes, 0);
    outbox_count_unread(&outbox);
    ck_assert_uint_eq(user.unread, 0);
}
END_TEST

/* Never fewer than there are, however they came. */
START_TEST(unread_descriptors_are_counted)
{
    for (size_t together = 1; together <= SERVICE_BATCH_MAX; together++) {
        struct channel_message message;

        for (size_t sent = 0; sent < 3; sent++) {
            put_connections(together);
            ck_assert_int_eq(outbox_send(&outbox, work), CHANNEL_OK);
        }
        ck_assert_uint_eq(user.unread, 3 * together);
        for (size_t unread = 3; unread-- > 0;) {
            ck_assert_int_eq(receive(&message), CHANNEL_OK);
            channel_message_clear(&message);
            outbox_count_unread(&outbox);
            ck_assert_uint_ge(user.unread, unread * together);
        }
        ck_assert_uint_eq(user.unread, 0);
    }
}
END_TEST

START_TEST(what_is_not_sent_is_closed)
{
    int before = some_fd(), after;

    close(before);
    put_connections(5);
    ck_assert_uint_eq(user.unread, 5);
    outbox_clear(&outbox);
    ck_assert_uint_eq(user.unread + outbox.count + outbox.bytes, 0);
    after = some_fd();
    ck_assert_int_eq(after, before); /* the lowest free number is the same again */
    close(after);
    close(pair[1]);
    put_connections(3);
    ck_assert_int_eq(outbox_send(&outbox, work), CHANNEL_CLOSED);
    pair[1] = some_fd();
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("outbox");
    TCase *cases = tcase_create("outbox");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, one_answer_is_a_message_of_its_own);
    tcase_add_test(cases, several_answers_are_one_message_in_order);
    tcase_add_test(cases, more_than_fit_go_in_several_messages);
    tcase_add_test(cases, what_finds_no_room_waits_and_is_bounded);
    tcase_add_test(cases, unread_descriptors_are_counted);
    tcase_add_test(cases, what_is_not_sent_is_closed);
    suite_add_tcase(suite, cases);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
