/* test_session_cache.c: the shared table of sessions, also when cells die in it or scribble. */
#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/session_cache.h"

#define NOW 1900000000u

static int fd = -1;
static struct session_cache *cache;
static uint8_t found[SESSION_LARGE];
static size_t found_size;

static void
make_cache(unsigned sessions)
{
    struct error error = {""};

    fd = memfd_create("sessions", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    ck_assert_int_eq(ftruncate(fd, (off_t)session_cache_bytes(sessions)), 0);
    ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
    cache = session_cache_map(fd, &error);
    ck_assert_msg(cache != NULL, "%s", error.text);
}

static void
set_up(void)
{
    make_cache(1024);
}

static void
tear_down(void)
{
    session_cache_unmap(cache);
    close(fd);
}

/* Ids are random in life: hash the number. */
static void
make_id(unsigned number, uint8_t id[32])
{
    uint64_t state = number + 1;

    for (size_t i = 0; i < 32; i++) {
        state = state * 6364136223846793005U + 1442695040888963407U;
        id[i] = (uint8_t)(state >> 56);
    }
}

static bool
put(unsigned number, const void *entry, size_t size, uint64_t expires)
{
    uint8_t id[32];

    make_id(number, id);
    return session_cache_put(cache, id, sizeof(id), entry, size, NOW, expires);
}

static bool
get(unsigned number, uint64_t now)
{
    uint8_t id[32];

    make_id(number, id);
    return session_cache_get(cache, id, sizeof(id), now, found, &found_size);
}

START_TEST(what_is_put_is_found_until_it_expires)
{
    static uint8_t large[SESSION_LARGE] = {7, 8, 9};
    uint8_t id[32];

    ck_assert(!get(1, NOW));
    ck_assert(put(1, "entry", 5, NOW + 10));
    ck_assert(put(2, large, sizeof(large), NOW + 10));
    ck_assert(get(1, NOW + 9));
    ck_assert_uint_eq(found_size, 5);
    ck_assert_mem_eq(found, "entry", 5);
    ck_assert(get(2, NOW));
    ck_assert_uint_eq(found_size, sizeof(large));
    ck_assert_mem_eq(found, large, sizeof(large));
    ck_assert(!get(1, NOW + 10));
    ck_assert(put(1, "other", 5, NOW + 20)); /* replaced */
    ck_assert(get(1, NOW + 10));
    ck_assert_mem_eq(found, "other", 5);
    make_id(1, id);
    ck_assert(!session_cache_get(cache, id, 31, NOW, found, &found_size));
    session_cache_remove(cache, id, sizeof(id));
    ck_assert(!get(1, NOW));
    ck_assert(!session_cache_put(cache, id, 33, large, 1, NOW, NOW + 1));
    ck_assert(!session_cache_put(cache, id, 0, large, 1, NOW, NOW + 1));
    ck_assert(!session_cache_put(cache, id, 32, large, sizeof(large) + 1, NOW, NOW + 1));
    ck_assert(!session_cache_put(cache, id, 32, large, 1, NOW, NOW));
}
END_TEST

/* More sessions than there is room for: memory stays what it is, the newest are there. */
START_TEST(the_oldest_make_room)
{
    unsigned present = 0;

    for (unsigned i = 0; i < 10000; i++)
        ck_assert(put(i, &i, sizeof(i), NOW + 1 + i));
    for (unsigned i = 0; i < 10000; i++) {
        if (!get(i, NOW))
            continue;
        ck_assert_mem_eq(found, &i, sizeof(i));
        present++;
    }
    ck_assert_uint_le(present, 1024);
    ck_assert_uint_ge(present, 1000);
    for (unsigned i = 9990; i < 10000; i++)
        ck_assert(get(i, NOW));
}
END_TEST

/* Half of the room is enough for nearly all: sets of four rarely overflow. */
START_TEST(half_full_loses_little)
{
    unsigned present = 0;

    for (unsigned i = 0; i < 512; i++)
        ck_assert(put(i, &i, sizeof(i), NOW + 100));
    for (unsigned i = 0; i < 512; i++)
        present += get(i, NOW);
    printf("512 sessions in 1024 slots: %u are there\n", present);
    ck_assert_uint_ge(present, 480);
}
END_TEST

/* A writer that died has left odd numbers everywhere; others write there, and read. */
START_TEST(a_dead_writer_holds_nobody_up)
{
    uint8_t *bytes =
        mmap(NULL, session_cache_bytes(1024), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    ck_assert(put(1, "one", 3, NOW + 10));
    for (size_t i = 0; i < session_cache_bytes(1024); i += SESSION_SMALL_SLOT)
        bytes[i] |= 1;
    ck_assert(!get(1, NOW));
    ck_assert(put(1, "two", 3, NOW + 10));
    ck_assert(get(1, NOW));
    ck_assert_mem_eq(found, "two", 3);
    munmap(bytes, session_cache_bytes(1024));
}
END_TEST

/* Whatever is in there, no byte outside is read or written (also under AddressSanitizer). */
START_TEST(scribbling_costs_only_entries)
{
    size_t size = session_cache_bytes(1024);
    uint8_t *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    srandom(1);
    for (int round = 0; round < 20; round++) {
        for (unsigned i = 0; i < 300; i++)
            (void)put(i, &i, sizeof(i), NOW + 100);
        if (round == 0)
            memset(bytes, 0xff, size);
        else
            for (int i = 0; i < 20000; i++)
                bytes[(size_t)random() % size] = (uint8_t)random();
        for (unsigned i = 0; i < 300; i++) {
            if (get(i, NOW))
                ck_assert_uint_le(found_size, SESSION_LARGE);
        }
    }
    memset(bytes, 0xff, size);
    ck_assert(put(5, "five", 4, NOW + 100));
    ck_assert(get(5, NOW));
    munmap(bytes, size);
}
END_TEST

/* Processes write the same few ids at once and are killed in the middle of it; what is read is
 * mostly whole, and when everything is over the cache works. (A torn entry is possible by design:
 * its seal does not open.) */
START_TEST(writers_killed_at_any_moment)
{
    unsigned reads = 0, torn = 0;
    pid_t writers[4];

    for (int round = 0; round < 10; round++) {
        for (size_t w = 0; w < 4; w++) {
            writers[w] = fork();
            if (writers[w] == 0) {
                uint8_t entry[400];

                for (unsigned i = 0;; i++) {
                    memset(entry, (int)(i * 4 + w), sizeof(entry));
                    (void)put(i % 4, entry, sizeof(entry), NOW + 100);
                }
            }
        }
        for (unsigned i = 0; i < 20000; i++) {
            if (!get(i % 4, NOW))
                continue;
            if (found_size == 5) /* of the round before */
                continue;
            reads++;
            ck_assert_uint_eq(found_size, 400);
            for (size_t j = 1; j < 400; j++) {
                if (found[j] != found[0]) {
                    torn++;
                    break;
                }
            }
        }
        for (size_t w = 0; w < 4; w++) {
            kill(writers[w], SIGKILL);
            waitpid(writers[w], NULL, 0);
        }
        for (unsigned i = 0; i < 4; i++) {
            ck_assert(put(i, "after", 5, NOW + 100));
            ck_assert(get(i, NOW));
            ck_assert_mem_eq(found, "after", 5);
        }
    }
    printf("%u entries read beside four writers, %u of them torn\n", reads, torn);
    ck_assert_uint_gt(reads, 1000);
    ck_assert_uint_lt(torn, reads / 100 + 10);
}
END_TEST

START_TEST(only_a_sealed_file_of_the_right_size_is_mapped)
{
    struct error error = {""};
    int other = memfd_create("other", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    ck_assert_int_eq(ftruncate(other, (off_t)session_cache_bytes(64)), 0);
    ck_assert_ptr_null(session_cache_map(other, &error)); /* it could shrink */
    ck_assert_int_eq(ftruncate(other, 4097), 0);
    ck_assert_int_eq(fcntl(other, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    ck_assert_ptr_null(session_cache_map(other, &error));
    close(other);
    ck_assert_ptr_null(session_cache_map(0, &error));
    ck_assert_uint_eq(session_cache_bytes(0), 0);
    printf("20480 sessions: %zu KiB\n", session_cache_bytes(20480) / 1024);
    session_cache_unmap(NULL);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("session_cache");
    TCase *tcase = tcase_create("session_cache");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_add_test(tcase, what_is_put_is_found_until_it_expires);
    tcase_add_test(tcase, the_oldest_make_room);
    tcase_add_test(tcase, half_full_loses_little);
    tcase_add_test(tcase, a_dead_writer_holds_nobody_up);
    tcase_add_test(tcase, scribbling_costs_only_entries);
    tcase_add_test(tcase, writers_killed_at_any_moment);
    tcase_add_test(tcase, only_a_sealed_file_of_the_right_size_is_mapped);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
