/* test_ticket.c: tickets open where, when and for whom they should, and nowhere else. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "agent/ticket.h"

#define START 1900000000u /* 2030, somewhere within a period */

static const uint8_t secret[GENERATION_TICKET_SECRET] = "secret of this generation";
static const uint8_t session[] = "a session with its master secret";
static uint64_t now;

static uint64_t
test_clock(void)
{
    return now;
}

static struct ticket_box *
box_new(const uint8_t *of)
{
    struct error error = {""};
    struct ticket_box *box = ticket_box_new(of, test_clock, &error);

    ck_assert_msg(box != NULL, "%s", error.text);
    return box;
}

static int
open_bytes(struct ticket_box *box, uint8_t scope, const uint8_t *data, size_t data_size,
           uint8_t *out, size_t *size)
{
    struct keyops_ticket request = {.scope = {scope}, .data = data, .data_size = data_size};

    return ticket_open(box, &request, out, size);
}

static size_t
seal_session(struct ticket_box *box, uint8_t *out)
{
    struct keyops_ticket request = {.scope = {1}, .data = session, .data_size = sizeof(session)};
    size_t size;

    ck_assert_int_eq(ticket_seal(box, &request, out, &size), 0);
    ck_assert_uint_eq(size, sizeof(session) + KEYOPS_TICKET_EXTRA);
    return size;
}

static uint8_t sealed[KEYOPS_TICKET_MAX + KEYOPS_TICKET_EXTRA];
static uint8_t opened[KEYOPS_TICKET_MAX + KEYOPS_TICKET_EXTRA];

START_TEST(another_cell_opens_it)
{
    struct ticket_box *box = box_new(secret), *other = box_new(secret);
    size_t sealed_size = seal_session(box, sealed), size;

    ck_assert_int_eq(open_bytes(other, 1, sealed, sealed_size, opened, &size), 0);
    ck_assert_uint_eq(size, 1 + sizeof(session));
    ck_assert_uint_eq(opened[0], 0);
    ck_assert_mem_eq(opened + 1, session, sizeof(session));
    ticket_box_free(box);
    ticket_box_free(other);
}
END_TEST

START_TEST(every_bit_counts)
{
    struct ticket_box *box = box_new(secret);
    size_t sealed_size = seal_session(box, sealed), size;

    for (size_t bit = 0; bit < 8 * sealed_size; bit++) {
        sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
        ck_assert_int_eq(open_bytes(box, 1, sealed, sealed_size, opened, &size), KEYOPS_BAD_TICKET);
        ck_assert_uint_eq(size, 0);
        sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t shorter = 0; shorter < sealed_size; shorter++)
        ck_assert_int_eq(open_bytes(box, 1, sealed, shorter, opened, &size), KEYOPS_BAD_TICKET);
    ck_assert_int_eq(open_bytes(box, 1, sealed, sealed_size, opened, &size), 0);
    ticket_box_free(box);
}
END_TEST

START_TEST(another_scope_or_generation_does_not_open_it)
{
    static const uint8_t other_secret[GENERATION_TICKET_SECRET] = "of another generation";
    struct ticket_box *box = box_new(secret), *other = box_new(other_secret);
    size_t sealed_size = seal_session(box, sealed), size;

    ck_assert_int_eq(open_bytes(box, 2, sealed, sealed_size, opened, &size), KEYOPS_BAD_TICKET);
    ck_assert_int_eq(open_bytes(other, 1, sealed, sealed_size, opened, &size), KEYOPS_BAD_TICKET);
    ticket_box_free(box);
    ticket_box_free(other);
}
END_TEST

START_TEST(it_lives_twelve_hours_and_is_renewed)
{
    struct ticket_box *box = box_new(secret);
    size_t sealed_size, size;

    now = START / TICKET_PERIOD * TICKET_PERIOD + TICKET_PERIOD - 1; /* the worst moment */
    sealed_size = seal_session(box, sealed);
    ck_assert_int_eq(open_bytes(box, 1, sealed, sealed_size, opened, &size), 0);
    ck_assert_uint_eq(opened[0], 0);
    for (unsigned hours = 3; hours <= 12; hours += 3) {
        now += TICKET_PERIOD;
        ck_assert_int_eq(open_bytes(box, 1, sealed, sealed_size, opened, &size), 0);
        ck_assert_uint_eq(opened[0], 1);
    }
    now += 1; /* beyond the fourth old period */
    ck_assert_int_eq(open_bytes(box, 1, sealed, sealed_size, opened, &size), KEYOPS_BAD_TICKET);
    now -= 5 * TICKET_PERIOD + 1; /* before it was made */
    ck_assert_int_eq(open_bytes(box, 1, sealed, sealed_size, opened, &size), KEYOPS_BAD_TICKET);
    ticket_box_free(box);
}
END_TEST

START_TEST(each_seal_has_its_own_nonce_and_each_period_its_key)
{
    struct ticket_box *box = box_new(secret);
    uint8_t first[128], second[128];
    size_t size = seal_session(box, first);

    seal_session(box, second);
    ck_assert_mem_ne(first + size - 28, second + size - 28, 12);
    ck_assert_mem_ne(first, second, sizeof(session));
    /* A ticket moved to another period is a forgery. */
    first[sizeof(session) + 3] ^= 1;
    now ^= TICKET_PERIOD;
    ck_assert_int_eq(open_bytes(box, 1, first, size, opened, &size), KEYOPS_BAD_TICKET);
    ticket_box_free(box);
}
END_TEST

START_TEST(sizes_are_bounded)
{
    static uint8_t big[KEYOPS_TICKET_MAX + KEYOPS_TICKET_EXTRA + 1];
    struct ticket_box *box = box_new(secret);
    struct keyops_ticket request = {.data = big, .data_size = KEYOPS_TICKET_MAX};
    size_t size;

    ck_assert_int_eq(ticket_seal(box, &request, sealed, &size), 0);
    ck_assert_int_eq(open_bytes(box, 0, sealed, size, opened, &size), 0);
    ck_assert_uint_eq(size, 1 + KEYOPS_TICKET_MAX);
    request.data_size++;
    ck_assert_int_eq(ticket_seal(box, &request, sealed, &size), KEYOPS_BAD_SHAPE);
    ck_assert_int_eq(open_bytes(box, 0, big, sizeof(big), opened, &size), KEYOPS_BAD_TICKET);
    request.data_size = 0;
    ck_assert_int_eq(ticket_seal(box, &request, sealed, &size), 0);
    ck_assert_int_eq(open_bytes(box, 0, sealed, size, opened, &size), 0);
    ck_assert_uint_eq(size, 1);
    ticket_box_free(box);
    ticket_box_free(NULL);
}
END_TEST

START_TEST(opens_are_limited_per_second)
{
    struct ticket_box *box = box_new(secret);
    size_t sealed_size = seal_session(box, sealed), size;

    for (unsigned i = 0; i < TICKET_OPENS_PER_SECOND; i++)
        ck_assert_int_eq(open_bytes(box, 1, sealed, sealed_size, opened, &size), 0);
    ck_assert_int_eq(open_bytes(box, 1, sealed, sealed_size, opened, &size), KEYOPS_TOO_OFTEN);
    now++;
    ck_assert_int_eq(open_bytes(box, 1, sealed, sealed_size, opened, &size), 0);
    ticket_box_free(box);
}
END_TEST

static void
set_up(void)
{
    now = START;
}

int
main(void)
{
    Suite *suite = suite_create("ticket");
    TCase *tcase = tcase_create("ticket");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, set_up, NULL);
    tcase_add_test(tcase, another_cell_opens_it);
    tcase_add_test(tcase, every_bit_counts);
    tcase_add_test(tcase, another_scope_or_generation_does_not_open_it);
    tcase_add_test(tcase, it_lives_twelve_hours_and_is_renewed);
    tcase_add_test(tcase, each_seal_has_its_own_nonce_and_each_period_its_key);
    tcase_add_test(tcase, sizes_are_bounded);
    tcase_add_test(tcase, opens_are_limited_per_second);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
