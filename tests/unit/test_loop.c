/* test_loop.c: the event loop: watches, removal in the middle of a round, timers, its end. */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "agent/loop.h"

struct side {
    struct loop_watch watch;
    struct loop *loop;
    struct side *victim; /* removed by our callback */
    int calls;
};

static void
side_ready(struct loop_watch *watch, uint32_t events)
{
    struct side *side = (struct side *)watch;

    ck_assert(events & EPOLLIN);
    side->calls++;
    if (side->victim != NULL)
        ck_assert_int_eq(loop_watch_set(side->loop, &side->victim->watch, 0), 0);
}

START_TEST(removed_watch_is_not_called)
{
    static struct loop *loop; /* a role has its loop to its end: no leak */
    struct side *sides[2], last = {0};
    int pairs[2][2];

    loop = loop_new();
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pairs[i]), 0);
        ck_assert_int_eq(write(pairs[i][1], "x", 1), 1);
        sides[i] = calloc(1, sizeof(**sides));
        loop_watch_init(&sides[i]->watch, pairs[i][0], side_ready);
        sides[i]->loop = loop;
        ck_assert_int_eq(loop_watch_set(loop, &sides[i]->watch, EPOLLIN), 0);
    }
    /* Each removes the other: whichever comes first, the other's pending event must be dropped. */
    sides[0]->victim = sides[1];
    sides[1]->victim = sides[0];
    loop_round(loop);
    ck_assert_int_eq(sides[0]->calls + sides[1]->calls, 1);
    for (int i = 0; i < 2; i++) {
        loop_watch_set(loop, &sides[i]->watch, 0);
        loop_free_later(loop, sides[i]);
    }
    ck_assert_int_eq(write(pairs[0][1], "x", 1), 1);
    loop_watch_init(&last.watch, pairs[0][0], side_ready);
    ck_assert_int_eq(loop_watch_set(loop, &last.watch, EPOLLIN), 0);
    loop_round(loop); /* frees the two */
    ck_assert_int_eq(last.calls, 1);
    for (int i = 0; i < 2; i++) {
        close(pairs[i][0]);
        close(pairs[i][1]);
    }
}
END_TEST

static struct loop *timer_loop;
static struct loop_timer timers[4];
static int fired[4];
static uint64_t fired_at[4];

static void
timer_expired(struct loop_timer *timer)
{
    int i = (int)(timer - timers);

    fired[i]++;
    fired_at[i] = loop_now(timer_loop);
    if (i == 0)
        loop_timer_stop(timer_loop, &timers[1]); /* due in the same slot */
}

START_TEST(timers_fire_once_and_never_early)
{
    uint64_t start;

    timer_loop = loop_new();
    start = loop_now(timer_loop);
    for (int i = 0; i < 4; i++)
        loop_timer_init(&timers[i], timer_expired);
    loop_timer_set(timer_loop, &timers[0], 300);
    loop_timer_set(timer_loop, &timers[1], 300);
    loop_timer_set(timer_loop, &timers[2], 100000); /* more than one turn of the wheel */
    loop_timer_set(timer_loop, &timers[3], 0);
    while (fired[0] == 0)
        loop_round(timer_loop);
    for (int i = 0; i < 8; i++)
        loop_round(timer_loop);
    ck_assert_int_eq(fired[0], 1);
    ck_assert_uint_ge(fired_at[0], start + 300);
    ck_assert_int_eq(fired[1], 0);
    ck_assert_int_eq(fired[2], 0);
    ck_assert_int_eq(fired[3], 1);
    loop_timer_stop(timer_loop, &timers[2]);
    loop_timer_stop(timer_loop, &timers[2]); /* twice is harmless */
}
END_TEST

static char order[16], one[] = "1", two[] = "2", alarmed[] = "a";
static struct loop *order_loop;

static void
note(char what)
{
    order[strlen(order)] = what;
}

static void
note_event(struct loop_watch *watch, uint32_t events)
{
    (void)events;
    note('e');
    loop_watch_set(order_loop, watch, 0);
    loop_free_later(order_loop, watch);
}

static void
note_call(void *data)
{
    note(*(const char *)data);
}

START_TEST(end_of_a_round_is_behind_all_else)
{
    struct loop_watch *watch = malloc(sizeof(*watch));
    int pair[2];

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    ck_assert_int_eq(write(pair[1], "x", 1), 1);
    order_loop = loop_new();
    loop_watch_init(watch, pair[0], note_event);
    ck_assert_int_eq(loop_watch_set(order_loop, watch, EPOLLIN), 0);
    loop_at_end_of_round(order_loop, note_call, one);
    loop_at_end_of_round(order_loop, note_call, two);
    loop_alarm_set(order_loop, loop_now(order_loop), note_call, alarmed);
    loop_round(order_loop);
    ck_assert_str_eq(order, "ea12");
    loop_alarm_set(order_loop, loop_now(order_loop) + 5, note_call, alarmed);
    loop_round(order_loop); /* nothing but time */
    ck_assert_str_eq(order, "ea12a12");
    close(pair[0]);
    close(pair[1]);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("loop");
    TCase *tcase = tcase_create("loop");
    SRunner *runner;
    int failed;

    tcase_add_test(tcase, removed_watch_is_not_called);
    tcase_add_test(tcase, timers_fire_once_and_never_early);
    tcase_add_test(tcase, end_of_a_round_is_behind_all_else);
    tcase_set_timeout(tcase, 30);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
