/*
 * spawn.c: see spawn.h. Between fork and exec nothing happens but placing fds and signals.
 */
#include "agent/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/log.h"
#include "sandbox/sandbox.h"

#define ROLE_ARGUMENTS 12 /* argv[0], eleven options */
#define ARGUMENT_MAX   64
#define FD_EXE         5  /* in the child until exec */
#define FD_HIGH        16 /* above all numbers that are given */

static int exe = -1;

static const char *const role_names[] = {
    [CONTROL_SUPERVISOR] = "supervisor", [CONTROL_LOADER] = "loader",   [CONTROL_KEEPER] = "keeper",
    [CONTROL_HANDSHAKER] = "handshaker", [CONTROL_FETCHER] = "fetcher",
};

const char *
spawn_role_name(enum control_role role)
{
    return role < CONTROL_ROLES ? role_names[role] : "unknown";
}

int
spawn_init(struct error *error)
{
    exe = open("/proc/self/exe", O_PATH | O_CLOEXEC);
    if (exe == -1)
        return error_set(error, "/proc/self/exe: %s: is /proc mounted?", strerror(errno));
    return 0;
}

int
spawn_cpu_of(unsigned cell)
{
    cpu_set_t allowed;
    int count;

    if (sched_getaffinity(0, sizeof(allowed), &allowed) == -1)
        return -1;
    count = CPU_COUNT(&allowed);
    if (count < 1)
        return -1;
    cell %= (unsigned)count;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &allowed) && cell-- == 0)
            return cpu;
    }
    return -1;
}

/* In the child: say what failed to the log fd and end. */
static void __attribute__((noreturn)) fail_child(const char *what)
{
    dprintf(STDERR_FILENO, "tlsagentd: starting a role: %s: %s\n", what, strerror(errno));
    _exit(127);
}

/* In the child: put fds at the numbers of enum role_fd and close all others. Sources are first
 * moved out of the way, because one may sit on another's number. */
static void
place_fds(int control, int peer)
{
    int null = open("/dev/null", O_RDWR);

    if (null == -1)
        fail_child("/dev/null");
    control = fcntl(control, F_DUPFD, FD_HIGH);
    peer = peer != -1 ? fcntl(peer, F_DUPFD, FD_HIGH) : -1;
    exe = fcntl(exe, F_DUPFD_CLOEXEC, FD_HIGH);
    if (dup2(null, STDIN_FILENO) == -1 || dup2(null, STDOUT_FILENO) == -1 ||
        dup2(control, ROLE_FD_CONTROL) == -1 || dup3(exe, FD_EXE, O_CLOEXEC) == -1)
        fail_child("dup2");
    if (peer != -1 && dup2(peer, ROLE_FD_PEER) == -1)
        fail_child("dup2");
    if (peer == -1)
        close(ROLE_FD_PEER);
    if (syscall(SYS_close_range, FD_EXE + 1, ~0U, 0) == -1)
        fail_child("close_range (Linux 5.9 is needed)");
}

/* In the child: no signal blocked, the cell's CPU, an empty environment. */
static void __attribute__((noreturn))
become_role(const struct role_args *args, char *const *argv, int control, int peer)
{
    static char allocator[] = "GLIBC_TUNABLES=glibc.malloc.tcache_count=1000:"
                              "glibc.malloc.tcache_max=20000:glibc.malloc.trim_threshold=4194304";
    char *environment[5] = {allocator};
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_IGN); /* a log that is a broken pipe must not end a role */
    if (args->cpu >= 0) {
        cpu_set_t one;

        CPU_ZERO(&one);
        CPU_SET(args->cpu, &one);
        (void)sched_setaffinity(0, sizeof(one), &one); /* slower without, not wrong */
    }
#ifdef SANITIZED
    static const char *const passed[] = {"ASAN_OPTIONS=", "UBSAN_OPTIONS=", "LSAN_OPTIONS="};
    size_t count = 0;

    for (char **entry = environ; *entry != NULL; entry++) {
        for (size_t i = 0; i < 3 && count < 3; i++) {
            if (strncmp(*entry, passed[i], strlen(passed[i])) == 0)
                environment[count++] = *entry;
        }
    }
#endif
    place_fds(control, peer);
    syscall(SYS_execveat, FD_EXE, "", argv, environment, AT_EMPTY_PATH);
    fail_child("execveat");
}

pid_t
spawn_role(enum control_role role, const struct role_args *args, int control, int peer,
           struct error *error)
{
    char text[ROLE_ARGUMENTS][ARGUMENT_MAX];
    char *argv[ROLE_ARGUMENTS + 1];
    pid_t pid;

    snprintf(text[0], ARGUMENT_MAX, "tlsagentd");
    snprintf(text[1], ARGUMENT_MAX, "--role=%s", spawn_role_name(role));
    snprintf(text[2], ARGUMENT_MAX, "--name=%s", args->name);
    snprintf(text[3], ARGUMENT_MAX, "--log-level=%d", args->log_level);
    snprintf(text[4], ARGUMENT_MAX, "--log-syslog=%d", args->log_syslog);
    snprintf(text[5], ARGUMENT_MAX, "--uid=%u", (unsigned)args->uid);
    snprintf(text[6], ARGUMENT_MAX, "--gid=%u", (unsigned)args->gid);
    snprintf(text[7], ARGUMENT_MAX, "--parent=%d", (int)getpid());
    snprintf(text[8], ARGUMENT_MAX, "--cpu=%d", args->cpu);
    snprintf(text[9], ARGUMENT_MAX, "--cell=%u", args->cell);
    snprintf(text[10], ARGUMENT_MAX, "--require=%u", args->require);
    snprintf(text[11], ARGUMENT_MAX, "--kernel-tls=%u", args->kernel);
    for (size_t i = 0; i < ROLE_ARGUMENTS; i++)
        argv[i] = text[i];
    argv[ROLE_ARGUMENTS] = NULL;
    pid = fork();
    if (pid == 0)
        become_role(args, argv, control, peer);
    if (pid == -1)
        return error_set(error, "cannot start a %s: fork: %s", spawn_role_name(role),
                         strerror(errno));
    return pid;
}

/* The value of argument "--key=value". */
static const char *
value_of(const char *argument, const char *key)
{
    size_t size = strlen(key);

    if (argument == NULL || strncmp(argument, key, size) != 0 || argument[size] == '\0')
        log_die("roles are started by the supervisor only: expected %s..., got \"%s\"", key,
                argument != NULL ? argument : "nothing");
    return argument + size;
}

static long
number_of(const char *argument, const char *key, long minimum, long maximum)
{
    const char *text = value_of(argument, key);
    char *end;
    long value;

    errno = 0;
    value = strtol(text, &end, 10);
    if (errno != 0 || *end != '\0' || value < minimum || value > maximum)
        log_die("roles are started by the supervisor only: bad number in \"%s\"", argument);
    return value;
}

bool
spawn_parse(int argc, char **argv, enum control_role *role, struct role_args *args)
{
    const char *name;
    bool found = false;

    if (argc < 2 || strncmp(argv[1], "--role=", strlen("--role=")) != 0)
        return false;
    if (argc != ROLE_ARGUMENTS)
        log_die("roles are started by the supervisor only");
    name = value_of(argv[1], "--role=");
    for (size_t i = CONTROL_LOADER; i < CONTROL_ROLES; i++) {
        if (strcmp(name, role_names[i]) == 0) {
            *role = (enum control_role)i;
            found = true;
        }
    }
    if (!found)
        log_die("no such role: \"%s\"", name);
    memset(args, 0, sizeof(*args));
    snprintf(args->name, sizeof(args->name), "%s", value_of(argv[2], "--name="));
    args->log_level = (int)number_of(argv[3], "--log-level=", LOG_LEVEL_ERROR, LOG_LEVEL_DEBUG);
    args->log_syslog = (int)number_of(argv[4], "--log-syslog=", 0, 1);
    args->uid = (uid_t)number_of(argv[5], "--uid=", 0, UINT32_MAX);
    args->gid = (gid_t)number_of(argv[6], "--gid=", 0, UINT32_MAX);
    args->parent = (pid_t)number_of(argv[7], "--parent=", 1, INT32_MAX);
    args->cpu = (int)number_of(argv[8], "--cpu=", -1, CPU_SETSIZE - 1);
    args->cell = (unsigned)number_of(argv[9], "--cell=", 0, UINT16_MAX);
    args->require = (unsigned)number_of(argv[10], "--require=", 0, SANDBOX_LAYERS_ALL);
    args->kernel = (uint16_t)number_of(argv[11], "--kernel-tls=", 0, UINT16_MAX);
    return true;
}
