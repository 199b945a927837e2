/*
 * test_filters.c: each rule of each role's seccomp filter is left out in turn, and something must
 * change.
 *
 * The calls are made from the table itself (sandbox/policy.c), with arguments that mean nothing to
 * the kernel and that one rule alone decides about:
 *
 *   a call of an allow-list      goes through; without the rule it kills
 *   a condition on an argument   with a value that it refuses it kills; without it, it goes through
 *   a call of the deny-list      kills; without the rule it goes through
 *   a harmless call              is ENOSYS
 *
 * A rule that decides nothing is superfluous, or another is too wide: the test fails.
 */
#include <errno.h>
#include <grp.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sandbox/policy.h"

#define ARGUMENTS  6
#define CALLS_MAX  300
#define ANOTHER_ID 12345

static struct policy_call calls[CALLS_MAX]; /* of the role that is tested, in one list */
static size_t call_count;
static unsigned tried, wrong;

static void
need(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "test_filters: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void
load_row(const struct policy_row *row)
{
    call_count = 0;
    for (size_t list = 0; list < POLICY_LIST_MAX; list++) {
        need(call_count + row->call_counts[list] <= CALLS_MAX, "too many calls for the test");
        for (size_t i = 0; i < row->call_counts[list]; i++)
            calls[call_count++] = row->calls[list][i];
    }
}

/* ---- what a rule decides about ---- */

static bool
check_holds(const struct policy_check *check, const uint64_t *arguments)
{
    uint64_t value = arguments[check->argument];

    return check->mask == 0 || value == check->value || (value & check->mask) == check->value;
}

static bool
call_matches(const struct policy_call *call, const uint64_t *arguments)
{
    for (size_t i = 0; i < POLICY_CHECKS_MAX; i++) {
        if (!check_holds(&call->checks[i], arguments))
            return false;
    }
    return true;
}

/* How many rules are there for this call with these arguments? */
static unsigned
count_matches(int number, const uint64_t *arguments)
{
    unsigned count = 0;

    for (size_t i = 0; i < call_count; i++)
        count += calls[i].number == number && call_matches(&calls[i], arguments);
    return count;
}

/* No descriptor, no address, no flag, but what the rule asks for. */
static void
make_arguments(const struct policy_call *call, uint64_t *arguments)
{
    memset(arguments, 0xff, ARGUMENTS * sizeof(*arguments));
    for (size_t i = 0; i < POLICY_CHECKS_MAX; i++) {
        if (call->checks[i].mask != 0)
            arguments[call->checks[i].argument] = call->checks[i].value;
    }
}

/* Arguments that nothing but this one condition refuses. */
static bool
make_refused(const struct policy_call *call, const struct policy_check *check, uint64_t *arguments)
{
    make_arguments(call, arguments);
    for (unsigned bit = 0; bit < 64; bit++) {
        arguments[check->argument] = check->value ^ UINT64_C(1) << bit;
        if ((check->mask >> bit & 1) != 0 && count_matches(call->number, arguments) == 0)
            return true;
    }
    return false;
}

/* ---- one try ---- */

enum outcome { PASSES, LACKS, KILLS };

static enum outcome
try_call(const struct policy_row *row, int number, const uint64_t *arguments)
{
    struct policy_row now = *row;
    int status = 0;
    pid_t pid;

    memset(now.calls, 0, sizeof(now.calls));
    memset(now.call_counts, 0, sizeof(now.call_counts));
    now.calls[0] = calls;
    now.call_counts[0] = call_count;
    pid = fork();
    need(pid != -1, "fork");
    if (pid == 0) {
        struct error error = {""};
        uint64_t a[ARGUMENTS];

        for (size_t i = 0; i < ARGUMENTS; i++)
            a[i] = arguments[i] == POLICY_OWN_PID ? (uint64_t)getpid() : arguments[i];
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == -1 || seccomp_enter(&now, &error) == -1) {
            fprintf(stderr, "test_filters: %s\n", error.text);
            _exit(98);
        }
        errno = 0;
        (void)syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
        syscall(SYS_exit_group, errno == ENOSYS ? 97 : 0);
    }
    need(waitpid(pid, &status, 0) == pid, "waitpid");
    need(!WIFEXITED(status) || WEXITSTATUS(status) != 98, "the filter cannot be loaded");
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
        return KILLS;
    return WIFEXITED(status) && WEXITSTATUS(status) == 97 ? LACKS : PASSES;
}

static void
tell(const struct policy_row *row, int number, int argument, const char *text, bool good)
{
    char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, number);
    char place[32] = "";

    if (argument >= 0)
        snprintf(place, sizeof(place), ", argument %d", argument);
    printf("%-11s %s%s: %s%s\n", row->name, name != NULL ? name : "?", place, text,
           good ? "" : " <- WRONG");
    free(name);
    tried++;
    wrong += !good;
}

static void
tell_undecided(const struct policy_row *row, int number, int argument)
{
    tell(row, number, argument, "decides nothing: another rule says the same", false);
}

/* ---- the rules ---- */

/* Leave rule number i out, try, and put it back. */
static enum outcome
try_without(const struct policy_row *row, size_t i, const uint64_t *arguments)
{
    struct policy_call rule = calls[i];
    enum outcome outcome;

    calls[i] = calls[--call_count];
    outcome = try_call(row, rule.number, arguments);
    calls[call_count++] = calls[i];
    calls[i] = rule;
    return outcome;
}

static void
drop_call(const struct policy_row *row, size_t i)
{
    bool allows = row->filter == POLICY_ALLOW_LIST;
    uint64_t arguments[ARGUMENTS];
    bool with, without;

    make_arguments(&calls[i], arguments);
    if (count_matches(calls[i].number, arguments) != 1) {
        tell_undecided(row, calls[i].number, -1);
        return;
    }
    with = try_call(row, calls[i].number, arguments) == KILLS;
    without = try_without(row, i, arguments) == KILLS;
    tell(row, calls[i].number, -1,
         allows ? "allowed, and kills without its rule"
                : "kills, and gets through without its rule",
         with == !allows && without == allows);
}

static void
drop_check(const struct policy_row *row, size_t i, size_t number)
{
    struct policy_check check = calls[i].checks[number];
    uint64_t arguments[ARGUMENTS];
    bool with, without;

    if (check.mask == 0)
        return;
    if (!make_refused(&calls[i], &check, arguments)) {
        tell_undecided(row, calls[i].number, check.argument);
        return;
    }
    with = try_call(row, calls[i].number, arguments) == KILLS;
    calls[i].checks[number].mask = 0;
    without = try_call(row, calls[i].number, arguments) == KILLS;
    calls[i].checks[number] = check;
    tell(row, calls[i].number, check.argument, "kills, and gets through without the condition",
         with && !without);
}

static void
try_harmless(const struct policy_row *row)
{
    static const uint64_t arguments[ARGUMENTS];

    for (size_t i = 0; i < policy_harmless_count; i++) {
        if (policy_harmless[i] >= 0)
            tell(row, policy_harmless[i], -1, "not implemented",
                 try_call(row, policy_harmless[i], arguments) == LACKS);
    }
}

int
main(void)
{
    const struct rlimit none = {0, 0};
    const struct policy_row *row;

#ifdef SANITIZED
    printf("built with a sanitizer: there are no filters\n");
    return 77;
#endif
    setvbuf(stdout, NULL, _IOLBF, 0);
    need(setrlimit(RLIMIT_CORE, &none) == 0, "setrlimit");
    /* Some of the calls that get through are root's. */
    if (geteuid() == 0)
        need(setgroups(0, NULL) == 0 && setresgid(ANOTHER_ID, ANOTHER_ID, ANOTHER_ID) == 0 &&
                 setresuid(ANOTHER_ID, ANOTHER_ID, ANOTHER_ID) == 0,
             "another user");
    for (int role = 0; (row = policy_find((enum sandbox_role)role)) != NULL; role++) {
        load_row(row);
        for (size_t i = 0; i < call_count; i++) {
            drop_call(row, i);
            for (size_t number = 0; row->filter == POLICY_ALLOW_LIST && number < POLICY_CHECKS_MAX;
                 number++)
                drop_check(row, i, number);
        }
        if (row->filter == POLICY_ALLOW_LIST)
            try_harmless(row);
    }
    printf("%u rules and conditions, %u wrong\n", tried, wrong);
    return wrong == 0 ? 0 : 1;
}
