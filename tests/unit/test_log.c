/* test_log.c: lines, levels, hostile bytes, and a log that nobody reads. */
#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent/log.h"

static int ends[2];
static int saved;

/* fd 2 is a pipe that the test reads. */
static void
setup(void)
{
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    saved = dup(STDERR_FILENO);
    ck_assert_int_ge(saved, 0);
    ck_assert_int_eq(dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
    ck_assert_int_eq(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
}

static void
teardown(void)
{
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(ends[0]);
    close(ends[1]);
}

static size_t
collect(char *text, size_t size)
{
    ssize_t got = read(ends[0], text, size - 1);

    text[got > 0 ? got : 0] = '\0';
    return got > 0 ? (size_t)got : 0;
}

START_TEST(line_has_time_pid_role_level)
{
    char text[4096], expected[128], when[32];
    time_t before = time(NULL), now;
    struct tm parts;
    int seen = 0;

    log_init("keeper 0.1", LOG_LEVEL_INFO, 0);
    log_warning("context %s has %d", "www", 7);
    collect(text, sizeof(text));
    for (now = before; now <= time(NULL); now++) {
        gmtime_r(&now, &parts);
        strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &parts);
        snprintf(expected, sizeof(expected),
                 "%s tlsagentd[%ld]: keeper 0.1: warning: context www has 7\n", when,
                 (long)getpid());
        seen |= strcmp(text, expected) == 0;
    }
    ck_assert_msg(seen, "line: %s", text);
}
END_TEST

static const struct {
    void (*log)(const char *, ...);
    const char *start;
    enum log_level level;
} syslog_cases[] = {
    {log_error, "<27>tlsagentd[", LOG_LEVEL_ERROR},
    {log_warning, "<28>tlsagentd[", LOG_LEVEL_WARNING},
    {log_info, "<30>tlsagentd[", LOG_LEVEL_INFO},
    {log_debug, "<31>tlsagentd[", LOG_LEVEL_DEBUG},
};

START_TEST(syslog_priority_and_level_filter)
{
    for (int level = LOG_LEVEL_ERROR; level <= LOG_LEVEL_DEBUG; level++) {
        char text[4096];

        log_init("r", (enum log_level)level, 1);
        syslog_cases[_i].log("text");
        collect(text, sizeof(text));
        if (syslog_cases[_i].level <= (enum log_level)level)
            ck_assert_msg(strncmp(text, syslog_cases[_i].start, strlen(syslog_cases[_i].start)) ==
                              0,
                          "%s", text);
        else
            ck_assert_str_eq(text, "");
    }
}
END_TEST

START_TEST(hostile_text_stays_one_line)
{
    char text[4096];
    char longer[3000];
    size_t size;

    log_init("r", LOG_LEVEL_INFO, 1);
    log_info("%s", "a\nb\r\x1b[31m\x7f<0>");
    size = collect(text, sizeof(text));
    ck_assert_ptr_nonnull(strstr(text, "a?b??[31m?<0>\n"));
    ck_assert_ptr_eq(strchr(text, '\n'), text + size - 1);
    memset(longer, 'x', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    log_info("%s", longer);
    size = collect(text, sizeof(text));
    ck_assert_uint_eq(size, 1024);
    ck_assert_ptr_eq(strchr(text, '\n'), text + size - 1);
}
END_TEST

START_TEST(full_log_drops_and_counts)
{
    char text[70000], expected[64];
    unsigned written = 0;
    size_t size;

    log_init("r", LOG_LEVEL_INFO, 1);
    ck_assert_int_ge(fcntl(ends[1], F_SETPIPE_SZ, 16384), 0);
    for (unsigned i = 0; i < 500; i++) /* returns: a blocking write would hang the test */
        log_info("line %u", i);
    size = collect(text, sizeof(text));
    for (size_t i = 0; i < size; i++)
        written += text[i] == '\n';
    ck_assert_uint_gt(written, 0);
    ck_assert_uint_lt(written, 500);
    log_info("after");
    collect(text, sizeof(text));
    snprintf(expected, sizeof(expected), "warning: %u lines were lost here", 500 - written);
    ck_assert_msg(strstr(text, expected) != NULL, "%s instead of %s", text, expected);
    ck_assert_ptr_nonnull(strstr(text, "info: after\n"));
    log_info("again");
    collect(text, sizeof(text));
    ck_assert_ptr_null(strstr(text, "lost"));
}
END_TEST

/* The reader is gone, or fd 2 is not open: no SIGPIPE, no error. */
START_TEST(log_without_reader)
{
    pid_t child = fork();
    int status;

    if (child == 0) {
        signal(SIGPIPE, SIG_DFL);
        close(ends[0]);
        log_error("nobody reads");
        close(STDERR_FILENO);
        log_error("nowhere");
        _exit(7);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    /* This process still has the read end; what counts is the second child, which has none. */
    ck_assert_int_eq(status, 7 << 8);
    close(ends[0]);
    child = fork();
    if (child == 0) {
        signal(SIGPIPE, SIG_DFL);
        log_error("nobody reads");
        _exit(7);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 7 << 8);
}
END_TEST

static void
say_last_word(void)
{
    ck_assert_int_eq((int)write(ends[1], "last word\n", 10), 10);
    log_die("dies twice");
}

/* What must not be lost is done before the end, once, even if it fails. */
START_TEST(last_act_comes_before_the_end)
{
    char text[4096];
    int status;
    pid_t child = fork();

    if (child == 0) {
        log_init("handshaker", LOG_LEVEL_INFO, 0);
        log_at_death(say_last_word);
        log_die("the keeper is gone");
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    collect(text, sizeof(text));
    ck_assert_ptr_nonnull(strstr(text, "the keeper is gone\nlast word\n"));
    ck_assert_ptr_nonnull(strstr(text, "dies twice\n"));
    ck_assert_ptr_eq(strstr(strstr(text, "last word") + 1, "last word"), NULL);
}
END_TEST

START_TEST(die_and_bug)
{
    char text[4096];
    int status;
    pid_t child = fork();

    if (child == 0)
        log_die("no such %s", "file");
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    collect(text, sizeof(text));
    ck_assert_ptr_nonnull(strstr(text, "error: no such file\n"));
    child = fork();
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        log_bug("count is %d", -1);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    collect(text, sizeof(text));
    ck_assert_ptr_nonnull(strstr(text, "error: bug, please report: count is -1\n"));
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("log");
    TCase *lines = tcase_create("lines");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(lines, setup, teardown);
    tcase_add_test(lines, line_has_time_pid_role_level);
    tcase_add_loop_test(lines, syslog_priority_and_level_filter, 0, 4);
    tcase_add_test(lines, hostile_text_stays_one_line);
    tcase_add_test(lines, full_log_drops_and_counts);
    tcase_add_test(lines, log_without_reader);
    tcase_add_test(lines, die_and_bug);
    tcase_add_test(lines, last_act_comes_before_the_end);
    suite_add_tcase(suite, lines);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
