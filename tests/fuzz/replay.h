/*
 * replay.h: run every input of a corpus through its target. For tests/unit/test_corpus*.c, which
 * define targets[] before they include this.
 */
#ifndef TESTS_FUZZ_REPLAY_H
#define TESTS_FUZZ_REPLAY_H

#include <check.h>
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>

static void
replay(const char *name, void (*run)(const uint8_t *data, size_t size))
{
    static uint8_t data[1 << 20];
    char path[512];
    struct dirent *entry;
    unsigned count = 0;
    DIR *directory;

    snprintf(path, sizeof(path), "tests/fuzz/corpus/%s", name);
    directory = opendir(path);
    ck_assert_msg(directory != NULL, "no corpus %s (run in the top directory)", path);
    while ((entry = readdir(directory)) != NULL) {
        FILE *file;
        size_t size;

        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "tests/fuzz/corpus/%s/%s", name, entry->d_name);
        file = fopen(path, "re");
        ck_assert_msg(file != NULL, "%s", path);
        size = fread(data, 1, sizeof(data), file);
        fclose(file);
        run(data, size);
        count++;
    }
    closedir(directory);
    printf("%s: %u inputs\n", name, count);
    ck_assert_uint_gt(count, 5);
}

START_TEST(every_input_is_survived)
{
    replay(targets[_i].name, targets[_i].run);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("corpus");
    TCase *tests = tcase_create("corpus");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, every_input_is_survived, 0, sizeof(targets) / sizeof(targets[0]));
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed > 0;
}

#endif
