/* test_wipe.c: libcrypto's memory in handshaker and loader: blocks do not overlap, are clean when
 * they come again, and misuse aborts. */
#include <check.h>
#include <malloc.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "sandbox/wipe.h"

#define ALLOCATE(size)          wipe_malloc(size, __FILE__, __LINE__)
#define REALLOCATE(block, size) wipe_realloc(block, size, __FILE__, __LINE__)
#define FREE(block)             wipe_free(block, __FILE__, __LINE__)

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
        size_t i = (size_t)random() % BLOCKS,
               size = 1 + ((size_t)random() % 60000 >> random() % 12);
        size_t kept = blocks[i].size < size ? blocks[i].size : size;

        ck_assert(all_are(blocks[i].bytes, blocks[i].size, i));
        if (random() % 3 == 0) {
            FREE(blocks[i].bytes);
            blocks[i].bytes = ALLOCATE(size);
            kept = 0;
        } else {
            blocks[i].bytes = REALLOCATE(blocks[i].bytes, size);
        }
        ck_assert_ptr_nonnull(blocks[i].bytes);
        ck_assert_uint_eq((uintptr_t)blocks[i].bytes % 16, 0);
        ck_assert(all_are(blocks[i].bytes, kept, i));
        memset(blocks[i].bytes, (int)i, size);
        blocks[i].size = size;
    }
    for (int i = 0; i < BLOCKS; i++)
        FREE(blocks[i].bytes);
}
END_TEST

#ifndef SANITIZED /* where no block comes again */
/* A block that comes again was cleared: as it is freed, not as it is given out. */
START_TEST(freed_memory_is_clean)
{
    for (size_t size = 1; size < 40000; size += 1 + size / 3) {
        uint8_t *first = ALLOCATE(size), *second;
        const size_t link = size < sizeof(void *) ? size : sizeof(void *); /* to the next one */

        memset(first, 0xa5, size);
        FREE(first);
        ck_assert(all_are(first + link, size - link, 0));
        second = ALLOCATE(size);
        ck_assert_ptr_eq(first, second);
        ck_assert(all_are(second, size, 0));
        FREE(second);
    }
}
END_TEST

START_TEST(what_a_smaller_size_leaves_is_clean)
{
    uint8_t *block = ALLOCATE(30);

    memset(block, 0xa5, 30);
    ck_assert_ptr_eq(REALLOCATE(block, 20), block);
    ck_assert(all_are(block, 20, 0xa5));
    ck_assert(all_are(block + 20, 10, 0));
    FREE(block);
}
END_TEST

/* After a peak the memory is the system's again. */
START_TEST(what_is_kept_is_bounded)
{
    enum { BLOCKS = 5000, SIZE = 17000 };
    static void *blocks[BLOCKS];
    size_t peak;

    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = ALLOCATE(SIZE);
        ck_assert_ptr_nonnull(blocks[i]);
    }
    peak = mallinfo2().uordblks;
    for (int i = 0; i < BLOCKS; i++)
        FREE(blocks[i]);
    ck_assert_uint_gt(peak, (size_t)BLOCKS * SIZE);
    ck_assert_uint_lt(mallinfo2().uordblks, (size_t)20 << 20);
}
END_TEST

START_TEST(a_second_free_aborts)
{
    uint8_t *block = ALLOCATE(100);

    FREE(block);
    FREE(block);
}
END_TEST

START_TEST(a_block_written_beyond_its_end_aborts)
{
    uint8_t *first = ALLOCATE(64);

    memset(first - 16, 0x41, 16); /* as the block before it would */
    FREE(first);
}
END_TEST

/* Two free blocks; who writes beyond the end of the one before them lets the link in the first one
 * lead to where he likes, to what looks like a free block. */
START_TEST(a_forged_link_of_a_free_block_aborts)
{
    _Alignas(16) static uint8_t wanted[128];
    uint8_t *block = ALLOCATE(64), *other = ALLOCATE(64);
    void *target = wanted;

    FREE(other);
    FREE(block);
    memcpy(wanted, block - 16, 16); /* mark and class */
    memcpy(block, &target, sizeof(target));
    (void)ALLOCATE(64);
    (void)ALLOCATE(64);
    ck_assert_ptr_ne(ALLOCATE(64), wanted + 16);
}
END_TEST
#endif

START_TEST(nothing_is_nothing)
{
    FREE(NULL);
    ck_assert_ptr_null(ALLOCATE(0));
    ck_assert_ptr_null(ALLOCATE(SIZE_MAX - 8));
    ck_assert_ptr_null(REALLOCATE(ALLOCATE(10), 0));
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("wipe");
    TCase *tests = tcase_create("wiped memory");
    SRunner *runner;
    int failed;

    tcase_add_test(tests, blocks_keep_to_themselves);
    tcase_add_test(tests, nothing_is_nothing);
#ifndef SANITIZED
    tcase_add_test(tests, freed_memory_is_clean);
    tcase_add_test(tests, what_a_smaller_size_leaves_is_clean);
    tcase_add_test(tests, what_is_kept_is_bounded);
    tcase_add_test_raise_signal(tests, a_second_free_aborts, SIGABRT);
    tcase_add_test_raise_signal(tests, a_block_written_beyond_its_end_aborts, SIGABRT);
    tcase_add_test_raise_signal(tests, a_forged_link_of_a_free_block_aborts, SIGABRT);
#endif
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
