/*
 * test_layers.c: each layer of each role's sandbox is left out in turn, and something must get
 * through that did not before.
 *
 * seccomp is left out of all layers; each other layer is left out of all but seccomp, which would
 * hide what they hold. If no attack gets through without a layer, other layers hold the same. The
 * table below then names them, and is not believed: with those left out as well an attack gets
 * through that does not with those alone. A layer that holds nothing by this measure fails the
 * test.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sandbox/policy.h"
#include "tests/sandbox/attacks.h"

#define OUTCOMES_MAX 80
#define PATIENCE_MS  2000 /* for a process that is to die */

#define ROLE(name)   (1U << (name))
#define ALL_ROLES    ((1U << ROLES) - 1)
#define ROOTS_ROLES  (ROLE(LOADER) | ROLE(KEEPER) | ROLE(HANDSHAKER) | ROLE(FETCHER))
#define EXEC_HOLDERS (LAYER_FILES | LAYER_NAMESPACES)
#define EXEC_AS_ROOT (EXEC_HOLDERS | LAYER_USER)

static const struct {
    enum layer layer;
    const char *name;
} layers[] = {
    {LAYER_SECCOMP, "seccomp"},
    {LAYER_FILES, "landlock, files"},
    {LAYER_NETWORK, "landlock, network"},
    {LAYER_SIGNALS, "landlock, signals"},
    {LAYER_ABSTRACT, "landlock, abstract sockets"},
    {LAYER_NAMESPACES, "namespaces"},
    {LAYER_USER, "another user"},
    {LAYER_BOUNDING, "bounding set"},
    {LAYER_CAPABILITIES, "no capabilities"},
    {LAYER_SECUREBITS, "securebits"},
    {LAYER_NO_NEW_PRIVS, "no_new_privs"},
    {LAYER_NOT_DUMPABLE, "not dumpable"},
    {LAYER_PARENT_DEATH, "parent-death signal"},
    {LAYER_LIMIT_CORE, "limit of cores"},
    {LAYER_LIMIT_FILES, "limit of files"},
    {LAYER_LIMIT_PROCESSES, "limit of processes"},
    {LAYER_LIMIT_MEMORY, "limit of memory"},
    {LAYER_MDWE, "mdwe"},
    {LAYER_SPECULATION, "speculation"},
};

#define LAYERS (sizeof(layers) / sizeof(layers[0]))

/* Who else holds what a layer holds, if no attack gets through without it alone. also 0: nobody
 * does, and it cannot be seen. */
static const struct {
    enum layer layer;
    unsigned roles;
    unsigned also;
    const char *why;
} held[] = {
    {LAYER_ABSTRACT, ALL_ROLES, LAYER_NAMESPACES, "the network namespace has its own names"},
    {LAYER_BOUNDING, ROLE(SUPERVISOR), LAYER_NO_NEW_PRIVS, "exec gives nothing"},
    {LAYER_BOUNDING, ROOTS_ROLES, EXEC_AS_ROOT | LAYER_NO_NEW_PRIVS | LAYER_SECUREBITS,
     "nothing to exec, nobody who is root, exec gives nothing, nor does root"},
    {LAYER_BOUNDING, ROLE(RELAY), 0, "who is root in its user namespace is nobody outside"},
    {LAYER_SECUREBITS, ROOTS_ROLES, EXEC_AS_ROOT | LAYER_NO_NEW_PRIVS | LAYER_BOUNDING,
     "nothing to exec, nobody who is root, exec gives nothing, no capability to be had"},
    {LAYER_NO_NEW_PRIVS, ROLE(SUPERVISOR), LAYER_BOUNDING, "no capability to be had by exec"},
    {LAYER_NO_NEW_PRIVS, ROOTS_ROLES, EXEC_HOLDERS, "nothing to exec"},
    {LAYER_NOT_DUMPABLE, ROLE(SUPERVISOR), LAYER_LIMIT_CORE, "the limit of cores"},
    {LAYER_LIMIT_CORE, ALL_ROLES, LAYER_NOT_DUMPABLE, "who is not dumpable leaves none"},
};

/* ---- attacks that are not made from inside ---- */

static void
wait_for_ever(void)
{
    struct pollfd nothing = {.fd = -1};

    for (;;)
        (void)poll(&nothing, 1, -1);
}

/* A role in its sandbox, which waits. The last write end of *ready goes when it dies. */
static pid_t
start_role(int role, pid_t parent, const int *ready)
{
    pid_t pid = fork();

    if (pid == 0) {
        (void)dup2(ready[1], STDERR_FILENO);
        close(ready[0]);
        close(ready[1]);
        if (role == -1)
            enter_control(false);
        else
            enter_role(role, parent);
        (void)!write(STDERR_FILENO, "x", 1);
        wait_for_ever();
    }
    return pid;
}

static void
end_role(pid_t pid)
{
    need(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid, "the end of a role");
}

/* A program of the same user reads the role's memory. */
static int
read_from_outside(int role)
{
    char byte;
    int ready[2], status = 0;
    pid_t pid, reader;

    need(pipe(ready) == 0, "pipe");
    pid = start_role(role, 0, ready);
    need(pid != -1 && read(ready[0], &byte, 1) == 1, "a role to read");
    close(ready[0]);
    close(ready[1]);
    reader = fork();
    if (reader == 0) {
        struct iovec local = {&byte, 1}, remote = {scene.victim_memory, 1};

        enter_control(false);
        _exit(process_vm_readv(pid, &local, 1, &remote, 1, 0) == 1 ? 0 : errno);
    }
    need(waitpid(reader, &status, 0) == reader && WIFEXITED(status), "the reader");
    end_role(pid);
    return WEXITSTATUS(status);
}

/* The role lives on when its supervisor is gone. */
static int
outlive_supervisor(int role)
{
    struct pollfd end;
    pid_t middle, pid = 0;
    int ready[2], told[2];
    char byte;

    need(pipe(ready) == 0 && pipe(told) == 0, "pipe");
    middle = fork();
    if (middle == 0) {
        close(told[0]);
        pid = start_role(role, getpid(), ready);
        (void)!write(told[1], &pid, sizeof(pid));
        (void)!read(ready[0], &byte, 1);
        _exit(0);
    }
    close(ready[1]);
    need(read(told[0], &pid, sizeof(pid)) == sizeof(pid) && pid > 0, "a role to leave");
    need(waitpid(middle, NULL, 0) == middle, "the supervisor");
    end = (struct pollfd){ready[0], POLLIN, 0};
    /* The signal was sent before the supervisor could be waited for: a little time to die. */
    if (poll(&end, 1, (left_out & LAYER_PARENT_DEATH) != 0 ? 50 : PATIENCE_MS) == 0)
        (void)kill(pid, SIGKILL);
    else
        pid = -pid;
    /* We are the first of the pid namespace: it is ours now. */
    need(waitpid(abs(pid), NULL, 0) == abs(pid), "the role that was left");
    close(ready[0]);
    close(told[0]);
    close(told[1]);
    return pid > 0 ? 0 : ESRCH;
}

static int
leave_core(int role)
{
    int status = 0;
    pid_t pid = fork();

    need(pid != -1, "fork");
    if (pid == 0) {
        const struct rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};

        if (setrlimit(RLIMIT_CORE, &unlimited) == -1 || chdir("/tmp") == -1)
            _exit(96);
        if (role == -1)
            enter_control(false);
        else
            enter_role(role, 0);
        abort();
    }
    need(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status), "a role that crashes");
    return WCOREDUMP(status) ? 0 : EPERM;
}

/* What speculation is held back where the CPU lets itself be asked? */
static int
speculate(void)
{
    static const unsigned long kinds[] = {PR_SPEC_STORE_BYPASS, PR_SPEC_INDIRECT_BRANCH};

    for (size_t i = 0; i < 2; i++) {
        int state = prctl(PR_GET_SPECULATION_CTRL, kinds[i], 0, 0, 0);

        if (state > 0 && (state & PR_SPEC_PRCTL) != 0 && (state & PR_SPEC_ENABLE) != 0)
            return 0;
    }
    return EPERM;
}

static const struct attack speculation = {"speculate", speculate, MAY, MAY, MAY, MAY,
                                          false,       0,         0,   0,   1};

static const struct {
    const char *name;
    int (*run)(int role);
} outside[] = {
    {"read from outside", read_from_outside},
    {"outlive the supervisor", outlive_supervisor},
    {"leave a core", leave_core},
};

#define OUTSIDE (sizeof(outside) / sizeof(outside[0]))

/* All of them, numbered: the table, from outside, speculation. */
static int
try_number(int role, size_t number)
{
    if (number < attack_count) {
        struct attack once = attacks[number]; /* one part is as good as all */

        once.parts = 1;
        return attempt(role, &once);
    }
    if (number < attack_count + OUTSIDE)
        return outside[number - attack_count].run(role);
    return attempt(role, &speculation);
}

static const char *
name_of(size_t number)
{
    if (number < attack_count)
        return attacks[number].name;
    return number < attack_count + OUTSIDE ? outside[number - attack_count].name : speculation.name;
}

static size_t
count_all(void)
{
    return attack_count + OUTSIDE + 1;
}

/* ---- layers ---- */

/* Does the role's row have the layer, and the kernel? */
static bool
has_layer(int role, enum layer layer, unsigned lacking)
{
    const struct policy_row *row = policy_find(roles[role]);
    struct rlimit files;

    switch (layer) {
    case LAYER_FILES:
        return (row->landlock & POLICY_LANDLOCK_FILES) != 0 && (lacking & SANDBOX_LANDLOCK) == 0;
    case LAYER_NETWORK:
        return (row->landlock & POLICY_LANDLOCK_NETWORK) != 0 &&
               (lacking & SANDBOX_LANDLOCK_NETWORK) == 0;
    case LAYER_SIGNALS:
        return (row->landlock & POLICY_LANDLOCK_SIGNALS) != 0 &&
               (lacking & SANDBOX_LANDLOCK_SCOPES) == 0;
    case LAYER_ABSTRACT:
        return (row->landlock & POLICY_LANDLOCK_ABSTRACT) != 0 &&
               (lacking & SANDBOX_LANDLOCK_SCOPES) == 0;
    case LAYER_NAMESPACES:
        return row->isolated && (lacking & SANDBOX_NAMESPACES) == 0;
    case LAYER_USER:
    case LAYER_SECUREBITS:
        return row->drops_root;
    case LAYER_PARENT_DEATH: /* the supervisor's parent, and the relay's, may go */
        return row->drops_root;
    case LAYER_LIMIT_FILES: /* ours may be lower */
        need(getrlimit(RLIMIT_NOFILE, &files) == 0, "getrlimit");
        return row->files < files.rlim_max;
    case LAYER_LIMIT_PROCESSES:
        return row->children != POLICY_KEEP;
    case LAYER_LIMIT_MEMORY:
        return row->memory != POLICY_KEEP;
    case LAYER_MDWE:
        return row->no_new_code && (lacking & SANDBOX_MDWE) == 0;
    case LAYER_SPECULATION:
        return row->no_speculation && (lacking & SANDBOX_SPECULATION) == 0 &&
               attempt(-1, &speculation) == 0;
    case LAYER_SECCOMP:
    case LAYER_BOUNDING:
    case LAYER_CAPABILITIES:
    case LAYER_NO_NEW_PRIVS:
    case LAYER_NOT_DUMPABLE:
    case LAYER_LIMIT_CORE:
        break;
    }
    return true;
}

/* What gets through without these layers and does not without those. */
static unsigned
tell_new(int role, unsigned without, const int *before)
{
    unsigned count = 0;

    left_out = without;
    for (size_t i = 0; i < count_all(); i++) {
        if (before[i] != 0 && try_number(role, i) == 0)
            printf("%s %s", count++ == 0 ? "" : ",", name_of(i));
    }
    return count;
}

static void
try_without(int role, unsigned without, int *outcomes)
{
    left_out = without;
    for (size_t i = 0; i < count_all(); i++)
        outcomes[i] = try_number(role, i);
}

/* Nothing gets through: is there another layer that holds the same? */
static bool
is_held(int role, enum layer layer)
{
    int before[OUTCOMES_MAX];

    for (size_t i = 0; i < sizeof(held) / sizeof(held[0]); i++) {
        if (held[i].layer != layer || (held[i].roles & ROLE(role)) == 0)
            continue;
        if (held[i].also == 0) {
            printf(" (cannot be seen: %s)", held[i].why);
            return true;
        }
        printf(" (held as well: %s; without that)", held[i].why);
        try_without(role, LAYER_SECCOMP | held[i].also, before);
        return tell_new(role, LAYER_SECCOMP | held[i].also | layer, before) > 0;
    }
    return false;
}

static int
drop_layers(int role, unsigned lacking)
{
    int with_all[OUTCOMES_MAX], bare[OUTCOMES_MAX], wrong = 0;

    try_without(role, 0, with_all);
    try_without(role, LAYER_SECCOMP, bare);
    for (size_t i = 0; i < LAYERS; i++) {
        bool seccomp = layers[i].layer == LAYER_SECCOMP;

        if (!has_layer(role, layers[i].layer, lacking)) {
            printf("%-11s %-26s does not have it here\n", role_names[role], layers[i].name);
            continue;
        }
        printf("%-11s %-26s", role_names[role], layers[i].name);
        if (tell_new(role, LAYER_SECCOMP | layers[i].layer, seccomp ? with_all : bare) == 0 &&
            !is_held(role, layers[i].layer)) {
            printf(" <- WRONG: holds nothing");
            wrong++;
        }
        printf("\n");
    }
    return wrong;
}

static int
run(unsigned lacking)
{
    int wrong = 0;

    need(count_all() <= OUTCOMES_MAX, "too many attacks for the test");
    printf("\n%-11s %-26s what gets through without it\n", "role", "layer");
    for (int role = 0; role < ROLES; role++)
        wrong += drop_layers(role, lacking);
    printf("\n%zu layers of %d roles, %d wrong\n", LAYERS, ROLES, wrong);
    return wrong == 0 ? 0 : 1;
}

int
main(int argc, char **argv)
{
    if (argc > 0)
        scene_answer_as_gain(argv[0]);
    return scene_run(run);
}
