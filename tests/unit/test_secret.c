/* test_secret.c: the allocator for keys: blocks do not overlap, are aligned, are wiped, and misuse
 * aborts. */
#include <check.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sandbox/secret.h"

#define SIZE ((size_t)1 << 20)

static void
set_up(void)
{
    struct error error = {""};

    ck_assert_msg(secret_init(SIZE, &error) == 0, "%s", error.text);
}

START_TEST(there_is_one_region)
{
    struct error error = {""};

    ck_assert_int_ne(secret_kind(), SECRET_NONE);
    ck_assert_uint_ge(secret_unused(), SIZE);
    ck_assert_int_eq(secret_init(SIZE, &error), -1);
}
END_TEST

static bool
all_are(const uint8_t *bytes, size_t size, size_t value)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != value)
            return false;
    return true;
}

/* Each block is filled with a byte of its own; any overlap destroys somebody's. */
START_TEST(blocks_keep_to_themselves)
{
    enum { BLOCKS = 200 };
    static struct {
        uint8_t *bytes;
        size_t size;
    } blocks[BLOCKS];

    srandom(1);
    for (int round = 0; round < 20000; round++) {
        size_t i = (size_t)random() % BLOCKS, size = (size_t)random() % 3000 >> random() % 8;
        size_t kept = blocks[i].size < size ? blocks[i].size : size;

        ck_assert(all_are(blocks[i].bytes, blocks[i].size, i));
        if (random() % 3 == 0) {
            secret_free(blocks[i].bytes);
            blocks[i].bytes = secret_malloc(size);
            kept = 0;
        } else {
            blocks[i].bytes = secret_realloc(blocks[i].bytes, size);
        }
        ck_assert_ptr_nonnull(blocks[i].bytes);
        ck_assert_uint_eq((uintptr_t)blocks[i].bytes % 16, 0);
        ck_assert(all_are(blocks[i].bytes, kept, i));
        memset(blocks[i].bytes, (int)i, size);
        blocks[i].size = size;
    }
}
END_TEST

START_TEST(every_size_fits)
{
    for (size_t size = 0; size < 40000; size += size < 600 ? 1 : 97) {
        uint8_t *first = secret_malloc(size), *second = secret_malloc(size);

        ck_assert(first != NULL && second != NULL);
        memset(first, 1, size);
        memset(second, 2, size);
        ck_assert(all_are(first, size, 1));
        secret_free(first);
        secret_free(second);
        if (secret_unused() < 100000)
            break;
    }
}
END_TEST

START_TEST(what_is_freed_is_wiped)
{
    uint8_t *bytes = secret_malloc(1000), *moved;

    memset(bytes, 0x55, 1000);
    secret_free(bytes);
    for (size_t i = 8; i < 1000; i++) /* the first eight are the free list's */
        ck_assert_uint_eq(bytes[i], 0);
    bytes = secret_malloc(1000);
    memset(bytes, 0x55, 1000);
    ck_assert_ptr_eq(secret_realloc(bytes, 990), bytes);
    for (size_t i = 990; i < 1000; i++)
        ck_assert_uint_eq(bytes[i], 0);
    moved = secret_realloc(bytes, 5000);
    ck_assert_ptr_ne(moved, bytes);
    for (size_t i = 8; i < 1000; i++)
        ck_assert_uint_eq(bytes[i], 0);
    secret_free(moved);
    secret_free(NULL);
}
END_TEST

START_TEST(when_it_is_full_it_says_so)
{
    void *block;

    ck_assert_ptr_null(secret_malloc(SIZE_MAX));
    ck_assert_ptr_null(secret_malloc(2 * SIZE));
    block = secret_malloc(SIZE / 2);
    ck_assert_ptr_nonnull(block);
    ck_assert_ptr_null(secret_malloc(SIZE / 2));
    ck_assert_ptr_null(secret_realloc(block, SIZE_MAX));
    secret_free(block);
    ck_assert_ptr_nonnull(secret_malloc(SIZE / 2));
}
END_TEST

static void
misuse(int how)
{
    static uint8_t elsewhere[64] __attribute__((aligned(16)));
    uint8_t *bytes = secret_malloc(100);

    switch (how) {
    case 0:
        secret_free(bytes);
        secret_free(bytes);
        break;
    case 1:
        secret_free(elsewhere + 32);
        break;
    case 2:
        secret_free(bytes + 16);
        break;
    case 3:
        secret_free(bytes + 1);
        break;
    }
}

/* Each must end in SIGABRT (see main()). */
START_TEST(misuse_aborts)
{
    misuse(_i);
}
END_TEST

/* A child has no such memory: touching it is a fault. */
START_TEST(children_do_not_inherit_it)
{
    volatile uint8_t *bytes = secret_malloc(100);
    int status;
    pid_t pid;

    bytes[0] = 1;
    pid = fork();
    ck_assert_int_ne(pid, -1);
    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL);
        _exit(bytes[0]);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("secret");
    TCase *tcase = tcase_create("secret");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tcase, set_up, NULL);
    tcase_add_test(tcase, there_is_one_region);
    tcase_add_test(tcase, blocks_keep_to_themselves);
    tcase_add_test(tcase, every_size_fits);
    tcase_add_test(tcase, what_is_freed_is_wiped);
    tcase_add_test(tcase, when_it_is_full_it_says_so);
    tcase_add_loop_test_raise_signal(tcase, misuse_aborts, SIGABRT, 0, 4);
    tcase_add_test(tcase, children_do_not_inherit_it);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
