/*
 * test_attacks.c: a role that was taken over attacks from inside its sandbox, one attack at a time.
 *
 * Each attack is tried three ways: without a sandbox (it must succeed, or it proves nothing), with
 * all layers (seccomp kills, or as the table says), and with all layers but seccomp (what the
 * others hold by themselves). Both tables are printed. What each single layer holds is in
 * test_layers.c, and each rule of the filters in test_filters.c.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/sandbox/attacks.h"

static bool
fits(int outcome, int expected)
{
    if (expected == MAY)
        return outcome != KILL && outcome != MIXED;
    if (expected == DENIED)
        return outcome > 0;
    return outcome == expected;
}

/* What must happen. lacking: layers that this kernel does not have. */
static int
expect(const struct attack *attack, int role, bool bare, unsigned lacking)
{
    int expected = role == SUPERVISOR ? (bare ? attack->supervisor_bare : attack->supervisor)
                                      : (bare ? attack->others_bare : attack->others);

    if (role == LOADER && !bare && attack->loader != 0)
        expected = attack->loader;
    if (role == KEEPER && !bare && attack->keeper != 0)
        expected = attack->keeper;
    return expected == DENIED && (attack->layer & lacking) != 0 ? MAY : expected;
}

static int
try_all(bool bare, unsigned lacking)
{
    int wrong = 0;

    left_out = bare ? LAYER_SECCOMP : 0;
    printf("\n%s\n%-28s %-10s", bare ? "all layers but seccomp" : "all layers", "attack",
           "control");
    for (int role = 0; role < ROLES; role++)
        printf(" %-12s", role_names[role]);
    printf("\n");
    for (size_t i = 0; i < attack_count; i++) {
        const struct attack *attack = &attacks[i];
        int control = attempt(-1, attack);

        printf("%-28s %-10s", attack->name, outcome_text(control));
        if (control != 0) {
            printf(" <- does not succeed without a sandbox: it proves nothing");
            wrong++;
        }
        for (int role = 0; role < ROLES; role++) {
            int outcome = attempt(role, attack);

            printf(" %-12s", outcome_text(outcome));
            if (!fits(outcome, expect(attack, role, bare, lacking))) {
                printf("<- WRONG");
                wrong++;
            }
        }
        printf("\n");
    }
    return wrong;
}

/* ---- cores ---- */

volatile char secret[16]; /* what a core has: tests/vm/init.sh looks for it */

static bool
leaves_core(int role, int signal_number)
{
    static volatile char *volatile nowhere = (volatile char *)8;
    int status = 0;
    pid_t pid = fork();

    need(pid != -1, "fork");
    if (pid == 0) {
        const struct rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};

        (void)setrlimit(RLIMIT_CORE, &unlimited);
        if (chdir("/tmp") == -1)
            _exit(96);
        if (role == -1)
            enter_control(false);
        else
            enter_role(role, 0);
        for (size_t i = 0; i < 6; i++) { /* not as it is in the program */
            secret[i] = "crash-"[i];
            secret[i + 6] = "needle"[i];
        }
        if (signal_number == SIGABRT)
            abort();
        *nowhere = 1;
    }
    need(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) &&
             WTERMSIG(status) == signal_number,
         "a role that crashes dies of its crash");
    return WCOREDUMP(status);
}

/* Nor with the limit of cores left out, which a core_pattern with a pipe does not look at. */
static int
try_cores(void)
{
    static const int signals[] = {SIGSEGV, SIGABRT};
    int wrong = 0;

    printf("\ncores (the limit of cores left out)\n%-28s %-10s", "signal", "control");
    for (int role = 0; role < ROLES; role++)
        printf(" %-12s", role_names[role]);
    left_out = LAYER_LIMIT_CORE;
    for (size_t i = 0; i < 2; i++) {
        bool control = leaves_core(-1, signals[i]);

        printf("\n%-28s %-10s", strsignal(signals[i]), control ? "core" : "no core <- WRONG");
        wrong += !control;
        for (int role = 0; role < ROLES; role++) {
            bool core = leaves_core(role, signals[i]);

            printf(" %-12s", core ? "core<- WRONG" : "no core");
            wrong += core;
        }
    }
    printf("\n");
    left_out = 0;
    return wrong;
}

static int
run(unsigned lacking)
{
    int wrong = try_all(false, lacking) + try_all(true, lacking) + try_cores();

    printf("\n%zu attacks on %d roles, %d wrong outcomes\n", attack_count, ROLES, wrong);
    return wrong == 0 ? 0 : 1;
}

int
main(int argc, char **argv)
{
    if (argc > 0)
        scene_answer_as_gain(argv[0]);
    return scene_run(run);
}
