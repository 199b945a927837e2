/* test_random.c: libcrypto's random numbers are the kernel's. */
#include <check.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include "agent/random.h"

ssize_t __real_getrandom(void *buffer, size_t size, unsigned flags);
ssize_t __wrap_getrandom(void *buffer, size_t size, unsigned flags);

static struct {
    unsigned calls;
    bool counts; /* gives 1, 2, 3 ... instead of random bytes */
    bool fails;
    uint8_t next;
} kernel;

ssize_t
__wrap_getrandom(void *buffer, size_t size, unsigned flags)
{
    uint8_t *bytes = buffer;

    ck_assert_uint_eq(flags, 0);
    ck_assert_uint_le(size, 256); /* a longer request may be cut short */
    kernel.calls++;
    if (kernel.fails) {
        errno = ENOSYS;
        return -1;
    }
    if (!kernel.counts)
        return __real_getrandom(buffer, size, flags);
    for (size_t i = 0; i < size; i++)
        bytes[i] = ++kernel.next;
    return (ssize_t)size;
}

static void
load(void)
{
    struct error error = {""};

    ck_assert_int_eq(random_load(&error), 0);
    ck_assert_int_eq(random_load(&error), 0);
}

/* Until the next request asks the kernel. */
static void
drain(EVP_RAND_CTX *generator)
{
    uint8_t byte;
    unsigned calls = kernel.calls;

    while (kernel.calls == calls)
        ck_assert_int_eq(EVP_RAND_generate(generator, &byte, 1, 0, 0, NULL, 0), 1);
    for (size_t i = 0; i < 255; i++)
        ck_assert_int_eq(EVP_RAND_generate(generator, &byte, 1, 0, 0, NULL, 0), 1);
}

START_TEST(all_of_libcrypto_uses_it)
{
    EVP_RAND_CTX *all[] = {RAND_get0_primary(NULL), RAND_get0_public(NULL),
                           RAND_get0_private(NULL)};
    uint8_t one[32], two[32];
    unsigned calls = kernel.calls;

    for (size_t i = 0; i < 3; i++)
        ck_assert_int_eq(EVP_RAND_is_a(EVP_RAND_CTX_get0_rand(all[i]), "TLSAGENT-RANDOM"), 1);
    ck_assert_int_eq(RAND_status(), 1);
    for (size_t i = 0; i < 100; i++) {
        ck_assert_int_eq(RAND_bytes(one, sizeof(one)), 1);
        ck_assert_int_eq(RAND_priv_bytes(two, sizeof(two)), 1);
        ck_assert_mem_ne(one, two, sizeof(one));
    }
    /* 3200 bytes each, 256 at a time */
    ck_assert_uint_ge(kernel.calls - calls, 24);
    ck_assert_uint_le(kernel.calls - calls, 27);
}
END_TEST

START_TEST(no_byte_is_given_twice)
{
    EVP_RAND_CTX *generator = RAND_get0_public(NULL);
    uint8_t out[1000];
    bool seen[256] = {false};

    drain(generator);
    kernel.counts = true;
    kernel.next = 0;
    for (size_t size = 1, given = 0; given + size <= 256; given += size, size++) {
        ck_assert_int_eq(RAND_bytes(out, (int)size), 1);
        for (size_t i = 0; i < size; i++) {
            ck_assert(!seen[out[i]]);
            seen[out[i]] = true;
        }
    }
    /* larger than the store: all of it new, nothing of the store */
    kernel.next = 0;
    ck_assert_int_eq(RAND_bytes(out, sizeof(out)), 1);
    for (size_t i = 0; i < sizeof(out); i++)
        ck_assert_uint_eq(out[i], (uint8_t)(i + 1));
    kernel.counts = false;
    drain(generator);
}
END_TEST

START_TEST(without_the_kernel_there_are_none)
{
    EVP_RAND_CTX *generator = RAND_get0_public(NULL);
    uint8_t out[300];

    drain(generator);
    kernel.fails = true;
    for (size_t i = 0; i < 3; i++) {
        ck_assert_int_eq(RAND_bytes(out, 32), 0);
        ck_assert_int_eq(RAND_bytes(out, sizeof(out)), 0);
    }
    kernel.fails = false;
    ck_assert_int_eq(RAND_bytes(out, 32), 1);
}
END_TEST

START_TEST(more_than_it_can_is_refused)
{
    EVP_RAND_CTX *generator = RAND_get0_public(NULL);
    uint8_t out[32];

    ck_assert_int_eq(EVP_RAND_generate(generator, out, sizeof(out), 256, 0, NULL, 0), 1);
    ck_assert_int_eq(EVP_RAND_generate(generator, out, sizeof(out), 257, 0, NULL, 0), 0);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("random");
    TCase *all = tcase_create("all");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(all, load, NULL);
    tcase_add_test(all, all_of_libcrypto_uses_it);
    tcase_add_test(all, no_byte_is_given_twice);
    tcase_add_test(all, without_the_kernel_there_are_none);
    tcase_add_test(all, more_than_it_can_is_refused);
    suite_add_tcase(suite, all);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
