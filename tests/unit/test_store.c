/*
 * test_store.c: the handshaker's way to the fleet's store: the messages, the bounded wait, the
 * breaker. The test plays the fetcher.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent/log.h"
#include "agent/loop.h"
#include "agent/store.h"
#include "protocol/store.h"

#define WAIT_MS 30

static struct loop *loop;
static struct store *store;
static int fetcher; /* its end of the channel */
static uint8_t buffer[CHANNEL_BUFFER_SIZE];
static const uint8_t name[STORE_NAME_SIZE] = "the name of an entry";
static unsigned answered;

static uint64_t
now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void
count(struct store_lookup *lookup)
{
    ck_assert_int_ne(lookup->answer, STORE_WAITS);
    answered++;
}

static void
use_channel(void)
{
    int pair[2];

    ck_assert_int_eq(channel_pair(pair), 0);
    store_use(store, pair[0], WAIT_MS);
    fetcher = pair[1];
}

static void
set_up(void)
{
    log_init("test", LOG_LEVEL_ERROR, 0);
    loop = loop_new();
    store = store_new(loop);
    answered = 0;
    use_channel();
}

static void
tear_down(void)
{
    store_use(store, -1, WAIT_MS);
    free(store);
    close(fetcher);
}

/* Rounds of the loop until so many are answered. */
static void
run_until(unsigned wanted)
{
    while (answered < wanted)
        loop_round(loop);
    ck_assert_uint_eq(answered, wanted);
}

static uint32_t
hear_get(void)
{
    struct channel_message message;
    struct store_get request;

    ck_assert_int_eq(channel_receive_wait(fetcher, store_fetcher_rules, store_fetcher_rule_count,
                                          buffer, sizeof(buffer), &message, NULL, 5000),
                     CHANNEL_OK);
    ck_assert_uint_eq(message.type, STORE_GET);
    ck_assert(store_get_get(&request, message.body, message.size));
    ck_assert_mem_eq(request.name, name, sizeof(name));
    return request.number;
}

static void
say(uint16_t type, uint32_t number)
{
    const struct store_found found = {number, (const uint8_t *)"entry", 5};
    const struct store_number other = {number};
    uint8_t body[64];
    size_t size = type == STORE_FOUND ? store_put_found(&found, body, sizeof(body))
                                      : store_put_number(&other, body, sizeof(body));

    ck_assert_int_eq(channel_send(fetcher, type, body, size, NULL, 0), CHANNEL_OK);
}

static struct control_store_use
use(void)
{
    struct control_store_use result;

    store_count(store, &result);
    return result;
}

START_TEST(answers_in_any_order)
{
    struct store_lookup lookups[3] = {{0}};
    uint32_t numbers[3];

    for (int i = 0; i < 3; i++) {
        store_look_up(store, &lookups[i], name, count);
        ck_assert_int_eq(lookups[i].answer, STORE_WAITS);
        numbers[i] = hear_get();
    }
    say(STORE_FOUND, numbers[2]);
    say(STORE_MISSING, numbers[0]);
    say(STORE_FOUND, numbers[2]); /* once more: nobody waits for it */
    say(STORE_FOUND, numbers[2] + 1000);
    say(STORE_FAILED, numbers[1]);
    run_until(3);
    ck_assert_int_eq(lookups[0].answer, STORE_HAS_NOT);
    ck_assert_int_eq(lookups[1].answer, STORE_CANNOT);
    ck_assert_int_eq(lookups[2].answer, STORE_HAS_IT);
    ck_assert_uint_eq(lookups[2].size, 5);
    ck_assert_mem_eq(lookups[2].entry, "entry", 5);
    store_cancel(store, &lookups[2]);
    ck_assert_ptr_null(lookups[2].entry);
    ck_assert(use().usable == 1 && use().lookups == 3 && use().found == 1 && use().failed == 1);
}
END_TEST

START_TEST(the_wait_is_bounded)
{
    struct store_lookup lookup = {0};
    uint64_t start = now_ms();

    say(STORE_MISSING, 0);
    loop_round(loop); /* so that its clock is ours */
    store_look_up(store, &lookup, name, count);
    run_until(1);
    ck_assert_int_eq(lookup.answer, STORE_CANNOT);
    printf("waited %u ms of %d\n", (unsigned)(now_ms() - start), WAIT_MS);
    ck_assert_uint_ge(now_ms() - start, WAIT_MS - 1);
    ck_assert_uint_le(now_ms() - start, WAIT_MS + 90); /* timers of the wheel may be 128 late */
    ck_assert_uint_eq(use().late, 1);
    say(STORE_FOUND, hear_get()); /* too late */
    store_look_up(store, &lookup, name, count);
    say(STORE_MISSING, hear_get());
    run_until(2);
    ck_assert_int_eq(lookup.answer, STORE_HAS_NOT);
}
END_TEST

START_TEST(after_failures_nobody_waits_until_one_succeeds)
{
    struct store_lookup lookup = {0}, other = {0};
    struct timespec pause = {.tv_sec = 2, .tv_nsec = 50000000};

    for (unsigned i = 1; i <= STORE_FAILURES; i++) {
        store_look_up(store, &lookup, name, count);
        ck_assert_int_eq(lookup.answer, STORE_WAITS);
        say(STORE_FAILED, hear_get());
        run_until(i);
    }
    for (int round = 0; round < 2; round++) {
        ck_assert_uint_eq(use().usable, 0);
        store_look_up(store, &lookup, name, count);
        ck_assert_int_eq(lookup.answer, STORE_CANNOT); /* at once */
        nanosleep(&pause, NULL);
        say(STORE_MISSING, 0); /* nobody's; the loop has something to do */
        loop_round(loop);
        store_look_up(store, &lookup, name, count);
        ck_assert_int_eq(lookup.answer, STORE_WAITS); /* one tries */
        store_look_up(store, &other, name, count);
        ck_assert_int_eq(other.answer, STORE_CANNOT); /* the others do not */
        say(round == 0 ? STORE_FAILED : STORE_MISSING, hear_get());
        run_until(STORE_FAILURES + 1 + (unsigned)round);
    }
    ck_assert_uint_eq(use().usable, 1);
    ck_assert_uint_eq(use().changes, 1);
    ck_assert_uint_eq(use().skipped, 4);
}
END_TEST

START_TEST(a_fetcher_that_dies)
{
    struct store_lookup lookups[2] = {{0}};

    store_look_up(store, &lookups[0], name, count);
    store_look_up(store, &lookups[1], name, count);
    close(fetcher);
    run_until(2);
    ck_assert_int_eq(lookups[0].answer, STORE_CANNOT);
    ck_assert_uint_eq(use().usable, 0);
    store_look_up(store, &lookups[0], name, count);
    ck_assert_int_eq(lookups[0].answer, STORE_CANNOT);
    use_channel();
    store_look_up(store, &lookups[0], name, count);
    say(STORE_MISSING, hear_get());
    run_until(3);
    ck_assert_int_eq(lookups[0].answer, STORE_HAS_NOT);
}
END_TEST

START_TEST(bad_messages_cost_the_channel)
{
    static const uint8_t body[8 + STORE_ENTRY_MAX];
    static const struct {
        uint16_t type;
        size_t size;
    } bad[] = {
        {STORE_GET, 36},    {STORE_FOUND, 6},  {STORE_FOUND, 7 + STORE_ENTRY_MAX},
        {STORE_MISSING, 3}, {STORE_FAILED, 5}, {7, 0},
    };
    struct store_lookup lookup = {0};

    store_look_up(store, &lookup, name, count);
    (void)hear_get();
    ck_assert_int_eq(channel_send(fetcher, bad[_i].type, body, bad[_i].size, NULL, 0), CHANNEL_OK);
    run_until(1);
    ck_assert_int_eq(lookup.answer, STORE_CANNOT);
    ck_assert_uint_eq(use().late, 0);
    ck_assert_int_eq(channel_send(fetcher, STORE_MISSING, body, 4, NULL, 0), CHANNEL_CLOSED);
}
END_TEST

/* A fetcher that does not read: questions fail at once when the channel is full, and entries are
 * dropped; nothing waits. */
START_TEST(a_fetcher_that_does_not_read)
{
    static const uint8_t entry[STORE_ENTRY_MAX];
    static struct store_lookup lookup;
    uint64_t start = now_ms();

    for (int i = 0; i < 1000; i++)
        store_keep(store, name, entry, sizeof(entry), 60);
    ck_assert_uint_gt(use().dropped, 100);
    ck_assert_uint_gt(use().stored, 10);
    store_look_up(store, &lookup, name, count);
    ck_assert_int_eq(lookup.answer, STORE_CANNOT);
    ck_assert_uint_lt(now_ms() - start, 1000);
}
END_TEST

START_TEST(no_more_than_so_many_wait)
{
    static struct store_lookup lookups[STORE_LOOKUPS_MAX + 1];

    for (size_t i = 0; i < STORE_LOOKUPS_MAX; i++) {
        store_look_up(store, &lookups[i], name, count);
        if (lookups[i].answer != STORE_WAITS)
            return; /* the channel's room is less: that bounds it too */
        (void)hear_get();
    }
    store_look_up(store, &lookups[STORE_LOOKUPS_MAX], name, count);
    ck_assert_int_eq(lookups[STORE_LOOKUPS_MAX].answer, STORE_CANNOT);
    for (size_t i = 0; i < STORE_LOOKUPS_MAX; i++)
        store_cancel(store, &lookups[i]);
    store_look_up(store, &lookups[0], name, count);
    ck_assert_int_eq(lookups[0].answer, STORE_WAITS);
    store_cancel(store, &lookups[0]);
}
END_TEST

START_TEST(messages_round_trip)
{
    struct store_put put = {.life = 60, .entry = (const uint8_t *)"e", .entry_size = 1}, got;
    uint8_t body[64];
    size_t size = store_put_put(&put, body, sizeof(body));

    ck_assert_uint_eq(size, STORE_NAME_SIZE + 7);
    ck_assert(store_get_put(&got, body, size) && got.life == 60 && got.entry_size == 1);
    for (size_t cut = 0; cut < size; cut++)
        ck_assert(!store_get_put(&got, body, cut));
    put.life = STORE_LIFE_MAX + 1;
    ck_assert(!store_get_put(&got, body, store_put_put(&put, body, sizeof(body))));
    put.life = 0;
    ck_assert(!store_get_put(&got, body, store_put_put(&put, body, sizeof(body))));
    put.entry_size = STORE_ENTRY_MAX + 1;
    ck_assert_uint_eq(store_put_put(&put, body, sizeof(body)), 0);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("store");
    TCase *tcase = tcase_create("store");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_add_test(tcase, answers_in_any_order);
    tcase_add_test(tcase, the_wait_is_bounded);
    tcase_add_test(tcase, after_failures_nobody_waits_until_one_succeeds);
    tcase_add_test(tcase, a_fetcher_that_dies);
    tcase_add_loop_test(tcase, bad_messages_cost_the_channel, 0, 6);
    tcase_add_test(tcase, a_fetcher_that_does_not_read);
    tcase_add_test(tcase, no_more_than_so_many_wait);
    tcase_add_test(tcase, messages_round_trip);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
