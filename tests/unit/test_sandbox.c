/*
 * test_sandbox.c: each role's sandbox, tried out in children: what it needs works, what it must not
 * do kills it with SIGSYS, and the kernel confirms what is in force.
 *
 * Each forbidden call is first made without a sandbox, to see that the call itself would not kill.
 * Built with a sanitizer there is no filter, and these tests are skipped.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "protocol/channel.h"
#include "sandbox/sandbox.h"

#define SOME_UID 12345 /* need not exist */
#define SOME_GID 12346

static const enum sandbox_role small_roles[] = {SANDBOX_LOADER, SANDBOX_KEEPER, SANDBOX_HANDSHAKER,
                                                SANDBOX_RELAY, SANDBOX_FETCHER};
static const char *const role_names[] = {"supervisor", "loader", "keeper",
                                         "handshaker", "relay",  "fetcher"};

#define SMALL_ROLES (sizeof(small_roles) / sizeof(small_roles[0]))

/* The child's way into the sandbox; it exits with 99 if that fails. */
static void
enter(enum sandbox_role role)
{
    struct error error = {""};

    if (sandbox_enter(role, SOME_UID, SOME_GID, getppid(), &error) == -1) {
        dprintf(STDERR_FILENO, "sandbox_enter(%s): %s\n", role_names[role], error.text);
        _exit(99);
    }
}

/* Run in a child: with the sandbox of a role, or without any (role -1). Returns its wait status. */
static int
run_child(int role, void (*what)(void))
{
    pid_t pid = fork();
    int status;

    ck_assert_int_ne(pid, -1);
    if (pid == 0) {
        if (role != -1)
            enter((enum sandbox_role)role);
        what();
        _exit(0);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    return status;
}

/* Where a role has its channels: those of the keeper may be nowhere else. */
#define FD_CONTROL 3
#define FD_PEER    4

/* Inside: tell somebody, then wait until the other channel is closed. */
static void
say_and_wait(int until)
{
    struct iovec byte = {(void *)(uintptr_t) "x", 1};
    const struct msghdr message = {.msg_iov = &byte, .msg_iovlen = 1};
    struct pollfd wait = {.fd = until, .events = POLLIN};

    if (sendmsg(FD_CONTROL, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == 1)
        (void)poll(&wait, 1, -1);
}

/* ---- forbidden ---- */

static void
do_fork(void)
{
    pid_t pid = (pid_t)syscall(SYS_fork);

    if (pid == 0)
        _exit(0);
    if (pid > 0)
        waitpid(pid, NULL, 0);
}

static void
do_execve(void)
{
    char name[] = "true";
    char *const argv[] = {name, NULL};

    execve("/bin/true", argv, argv + 1);
}

static void
do_socket(void)
{
    (void)socket(AF_INET, SOCK_STREAM, 0);
}

static void
do_connect(void)
{
    const struct sockaddr address = {.sa_family = AF_UNSPEC};

    (void)connect(0, &address, sizeof(address));
}

static void
do_open(void)
{
    (void)syscall(SYS_open, "/etc/passwd", O_RDONLY);
}

static void
do_openat(void)
{
    (void)open("/etc/passwd", O_RDONLY);
}

static void
do_stat(void)
{
    struct stat facts;

    (void)syscall(SYS_newfstatat, AT_FDCWD, "/etc/passwd", &facts, 0);
}

static void
do_ptrace(void)
{
    (void)ptrace(PTRACE_ATTACH, 1, NULL, NULL);
}

static void
do_read_memory(void)
{
    char byte;
    struct iovec local = {&byte, 1};

    (void)process_vm_readv(getppid(), &local, 1, &local, 1, 0);
}

static void
do_map_executable(void)
{
    (void)mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void
do_make_executable(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    (void)mprotect(page, 4096, PROT_READ | PROT_EXEC);
}

static void
do_kill(void)
{
    (void)kill(getppid(), 0);
}

static void
do_write_elsewhere(void)
{
    (void)syscall(SYS_write, STDOUT_FILENO, "", 0);
}

static void
do_set_blocking(void)
{
    (void)fcntl(STDIN_FILENO, F_SETFL, 0);
}

static void
do_prctl(void)
{
    (void)prctl(PR_GET_DUMPABLE);
}

static void
do_raise_limit(void)
{
    struct rlimit limit = {16, 16};

    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

static void
do_io_uring(void)
{
    (void)syscall(SYS_io_uring_setup, 1, NULL);
}

static void
do_memfd(void)
{
    (void)memfd_create("x", 0);
}

static void
do_unlink(void)
{
    (void)unlink("/nonexistent/file");
}

static void
do_setuid(void)
{
    (void)syscall(SYS_setuid, getuid());
}

#define ALL                                                                                        \
    (1U << SANDBOX_LOADER | 1U << SANDBOX_KEEPER | 1U << SANDBOX_HANDSHAKER |                      \
     1U << SANDBOX_RELAY | 1U << SANDBOX_FETCHER)
#define EVERY (ALL | 1U << SANDBOX_SUPERVISOR)

static const struct {
    const char *name;
    void (*call)(void);
    unsigned roles; /* for which it is deadly */
} forbidden[] = {
    {"fork", do_fork, ALL},
    {"execve", do_execve, ALL},
    {"socket", do_socket, ALL},
    {"connect", do_connect, ALL},
    {"open", do_open, ALL},
    {"openat", do_openat, ALL},
    {"stat by name", do_stat, ALL},
    {"ptrace", do_ptrace, EVERY},
    {"process_vm_readv", do_read_memory, EVERY},
    {"mmap executable", do_map_executable, ALL},
    {"mprotect executable", do_make_executable, ALL},
    {"kill another", do_kill, ALL},
    {"write but to the log", do_write_elsewhere, ALL},
    {"fcntl F_SETFL", do_set_blocking, ALL},
    {"prctl", do_prctl, ALL},
    {"setrlimit", do_raise_limit, ALL},
    {"io_uring_setup", do_io_uring, EVERY},
    {"memfd_create", do_memfd, ALL},
    {"unlink", do_unlink, ALL},
    {"setuid", do_setuid, ALL},
};

START_TEST(forbidden_calls_kill)
{
    int status = run_child(-1, forbidden[_i].call);

    ck_assert_msg(WIFEXITED(status), "%s kills without a sandbox, too", forbidden[_i].name);
    for (unsigned role = SANDBOX_SUPERVISOR; role <= SANDBOX_FETCHER; role++) {
        if ((forbidden[_i].roles & 1U << role) == 0)
            continue;
        status = run_child((int)role, forbidden[_i].call);
        ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS,
                      "%s in the %s: wait status %#x instead of SIGSYS", forbidden[_i].name,
                      role_names[role], status);
    }
}
END_TEST

/* ---- allowed ---- */

static void
expect(bool good, int code)
{
    if (!good)
        _exit(code);
}

/* What every role lives on. */
static void
do_common_work(void)
{
    struct channel_message message;
    static uint8_t buffer[CHANNEL_BUFFER_SIZE];
    static const struct channel_rule rule = {1, 0, 0, 16};
    struct error error = {""};
    struct timespec now;

    expect(channel_send(FD_PEER, 1, "hello", 5, NULL, 0) == CHANNEL_OK, 10);
    expect(channel_receive_wait(FD_CONTROL, &rule, 1, buffer, sizeof(buffer), &message, &error,
                                100) == CHANNEL_OK,
           11);
    expect(syscall(SYS_getrandom, buffer, 16, 0) == 16, 14);
    expect(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now) == 0, 16);
    expect(write(STDERR_FILENO, "", 0) != -1 || errno == EBADF, 18);
    channel_close_fd(FD_PEER);
}

static int
compare_bytes(const void *a, const void *b)
{
    return memcmp(a, b, 1);
}

/* A heap, and libc's functions that take more of it than one thinks. */
static void
do_parsers_work(void)
{
    static uint8_t bytes[4096];

    do_common_work();
    for (size_t size = 16; size < (64U << 20); size *= 4) { /* brk, mmap, mremap, munmap */
        char *memory = malloc(size);

        expect(memory != NULL, 12);
        memset(memory, 1, size);
        memory = realloc(memory, 2 * size);
        expect(memory != NULL, 13);
        free(memory);
    }
    qsort(bytes, sizeof(bytes), 1, compare_bytes);
}

/* The handshaker waits for its keeper, the keeper for its handshaker. */
static void
do_cell_work(void)
{
    struct channel_message message;
    static uint8_t buffer[CHANNEL_BUFFER_SIZE];
    static const struct channel_rule rule = {1, 0, 0, 16};
    struct error error = {""};

    expect(channel_send(FD_CONTROL, 1, "hello", 5, NULL, 0) == CHANNEL_OK, 20);
    expect(channel_receive_timed(FD_PEER, &rule, 1, buffer, sizeof(buffer), &message, &error) ==
               CHANNEL_OK,
           21);
}

static void
do_keepers_work(void)
{
    do_cell_work();
    do_common_work();
}

static void
do_handshakers_work(void)
{
    do_cell_work();
    do_parsers_work();
}

/* A child with a channel between its two channels. */
static int
run_with_channels(int role, void (*what)(void))
{
    int pair[2], status;
    pid_t pid = fork();

    ck_assert_int_ne(pid, -1);
    if (pid == 0) {
        expect(channel_pair(pair) == 0 && dup2(pair[0], 11) == 11 && dup2(pair[1], 12) == 12 &&
                   dup2(11, FD_CONTROL) == FD_CONTROL && dup2(12, FD_PEER) == FD_PEER,
               98);
        enter((enum sandbox_role)role);
        what();
        _exit(0);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    return status;
}

START_TEST(needed_calls_work)
{
    for (size_t i = 0; i < SMALL_ROLES; i++) {
        enum sandbox_role role = small_roles[i];
        int status = run_with_channels((int)role, role == SANDBOX_KEEPER       ? do_keepers_work
                                                  : role == SANDBOX_HANDSHAKER ? do_handshakers_work
                                                                               : do_parsers_work);

        ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: wait status %#x",
                      role_names[role], status);
    }
}
END_TEST

/* On a third channel, which somebody has passed to it. */
static void
do_send_elsewhere(void)
{
    (void)channel_send(12, 1, "hello", 5, NULL, 0);
}

static void
do_receive_elsewhere(void)
{
    struct channel_message message;
    static uint8_t buffer[CHANNEL_BUFFER_SIZE];

    (void)channel_receive(11, NULL, 0, buffer, sizeof(buffer), &message, NULL);
}

static void
do_grow(void)
{
    (void)sbrk(65536);
}

static void
do_map(void)
{
    (void)mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

START_TEST(keeper_has_two_channels_and_no_heap)
{
    static void (*const calls[])(void) = {do_send_elsewhere, do_receive_elsewhere, do_grow, do_map};
    int status = run_with_channels(SANDBOX_KEEPER, calls[_i]);

    ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS, "wait status %#x", status);
    status = run_with_channels(SANDBOX_LOADER, calls[_i]);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "wait status %#x", status);
}
END_TEST

/* A crash must look like one, not like a forbidden call. */
START_TEST(abort_is_seen_as_abort)
{
    for (size_t i = 0; i < SMALL_ROLES; i++) {
        int status = run_child((int)small_roles[i], abort);

        ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "%s: wait status %#x",
                      role_names[small_roles[i]], status);
    }
}
END_TEST

static int accepting_fd;

static void
do_accept(void)
{
    const struct linger off = {0, 0};
    int type;
    socklen_t size = sizeof(type);
    int fd = accept4(accepting_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    expect(fd != -1, 20);
    expect(getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0, 21);
    expect(setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof(off)) == 0, 22);
    expect(close(fd) == 0, 23);
}

START_TEST(only_the_handshaker_accepts)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof(address);
    sa_family_t family = AF_UNIX; /* autobind: an abstract name of the kernel's choice */
    int client, status;

    accepting_fd = socket(AF_UNIX, SOCK_STREAM, 0);
    ck_assert_int_eq(bind(accepting_fd, (const struct sockaddr *)&family, sizeof(family)), 0);
    ck_assert_int_eq(listen(accepting_fd, 8), 0);
    ck_assert_int_eq(getsockname(accepting_fd, (struct sockaddr *)&address, &size), 0);
    client = socket(AF_UNIX, SOCK_STREAM, 0);
    ck_assert_int_eq(connect(client, (const struct sockaddr *)&address, size), 0);
    status = run_child(SANDBOX_KEEPER, do_accept);
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
    status = run_child(SANDBOX_HANDSHAKER, do_accept);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "wait status %#x", status);
    close(client);
    close(accepting_fd);
}
END_TEST

/* ---- what the kernel says is in force ---- */

/* The value of a field of /proc/PID/status, trimmed. */
static void
read_status(pid_t pid, const char *field, char *value, size_t size)
{
    char path[64], line[256];
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    file = fopen(path, "r");
    ck_assert_ptr_nonnull(file);
    value[0] = '\0';
    while (fgets(line, sizeof(line), file) != NULL) {
        size_t length = strlen(field);

        if (strncmp(line, field, length) != 0 || line[length] != ':')
            continue;
        snprintf(value, size, "%s", line + length + 1 + strspn(line + length + 1, "\t "));
        value[strcspn(value, "\n")] = '\0';
    }
    fclose(file);
}

static void
check_field(pid_t pid, const char *field, const char *wanted)
{
    char value[256];

    read_status(pid, field, value, sizeof(value));
    ck_assert_msg(strcmp(value, wanted) == 0, "%s is \"%s\", should be \"%s\"", field, value,
                  wanted);
}

/* The hard limit with this name in /proc/PID/limits; the soft one must be the same. (prlimit()
 * would need CAP_SYS_RESOURCE, which root in a container may lack.) */
static unsigned long long
limit_of(pid_t pid, const char *name)
{
    unsigned long long soft = 0, hard = 1;
    char path[64], line[256];
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/limits", (int)pid);
    file = fopen(path, "r");
    ck_assert_ptr_nonnull(file);
    while (fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, name, strlen(name)) == 0)
            ck_assert_int_eq(sscanf(line + strlen(name), "%llu %llu", &soft, &hard), 2);
    }
    fclose(file);
    ck_assert_uint_eq(soft, hard);
    return hard;
}

START_TEST(kernel_confirms_the_layers)
{
    enum sandbox_role role = small_roles[_i];
    int pair[2];
    char byte;
    pid_t pid;

    ck_assert_int_eq(channel_pair(pair), 0);
    pid = fork();
    if (pid == 0) {
        close(pair[0]);
        dup2(pair[1], FD_CONTROL);
        enter(role);
        say_and_wait(FD_CONTROL); /* until the parent is done */
        _exit(0);
    }
    close(pair[1]);
    ck_assert_int_eq(recv(pair[0], &byte, 1, 0), 1);
    check_field(pid, "NoNewPrivs", "1");
    check_field(pid, "Seccomp", "2");
    check_field(pid, "CapEff", "0000000000000000");
    check_field(pid, "CapPrm", "0000000000000000");
    check_field(pid, "CapInh", "0000000000000000");
    check_field(pid, "CapAmb", "0000000000000000");
    if (geteuid() == 0) { /* the relay is never started by root; it runs as its worker */
        if (role != SANDBOX_RELAY) {
            check_field(pid, "CapBnd", "0000000000000000");
            check_field(pid, "Uid", "12345\t12345\t12345\t12345");
            check_field(pid, "Gid", "12346\t12346\t12346\t12346");
            check_field(pid, "Groups", "");
        }
    }
    ck_assert_uint_eq(limit_of(pid, "Max core file size"), 0);
    ck_assert_uint_eq(limit_of(pid, "Max processes"), 0);
    ck_assert_uint_le(limit_of(pid, "Max address space"), 16ULL << 30);
    if (role == SANDBOX_KEEPER)
        ck_assert_uint_eq(limit_of(pid, "Max open files"), 16);
    close(pair[0]);
    waitpid(pid, NULL, 0);
}
END_TEST

static void
stay_root(void)
{
    struct error error = {""};

    expect(sandbox_enter(SANDBOX_KEEPER, 0, SOME_GID, 0, &error) == -1, 30);
    expect(strstr(error.text, "must not stay root") != NULL, 31);
}

START_TEST(staying_root_is_refused)
{
    int status;

    if (geteuid() != 0)
        return;
    status = run_child(-1, stay_root);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "wait status %#x", status);
}
END_TEST

static void
have_lost_parent(void)
{
    struct error error = {""};

    expect(sandbox_enter(SANDBOX_KEEPER, SOME_UID, SOME_GID, getppid() + 1, &error) == -1, 40);
    expect(strstr(error.text, "is gone") != NULL, 41);
}

START_TEST(lost_parent_is_noticed)
{
    int status = run_child(-1, have_lost_parent);

    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "wait status %#x", status);
}
END_TEST

/* A child whose parent is killed is killed, too, though its channel stays open. */
START_TEST(role_dies_with_its_parent)
{
    int ready[2], hold[2];
    char byte;
    pid_t parent;

    ck_assert_int_eq(channel_pair(ready), 0);
    ck_assert_int_eq(channel_pair(hold), 0);
    parent = fork();
    if (parent == 0) {
        if (fork() == 0) {
            dup2(ready[1], FD_CONTROL);
            enter(SANDBOX_KEEPER);
            say_and_wait(hold[1]);
            _exit(0);
        }
        for (;;)
            pause();
    }
    close(ready[1]);
    ck_assert_int_eq(recv(ready[0], &byte, 1, 0), 1);
    kill(parent, SIGKILL);
    waitpid(parent, NULL, 0);
    ck_assert_int_eq(recv(ready[0], &byte, 1, 0), 0); /* the last holder of the other end is dead */
    close(ready[0]);
    close(hold[0]);
    close(hold[1]);
}
END_TEST

#ifdef SANITIZED
static const bool sanitized = true;
#else
static const bool sanitized = false;
#endif

int
main(void)
{
    Suite *suite;
    TCase *tcase;
    SRunner *runner;
    int failed;

    if (sanitized) {
        printf("built with a sanitizer: there is no sandbox to test\n");
        return 77;
    }
    suite = suite_create("sandbox");
    tcase = tcase_create("sandbox");
    tcase_add_loop_test(tcase, forbidden_calls_kill, 0,
                        (int)(sizeof(forbidden) / sizeof(forbidden[0])));
    tcase_add_test(tcase, needed_calls_work);
    tcase_add_loop_test(tcase, keeper_has_two_channels_and_no_heap, 0, 4);
    tcase_add_test(tcase, abort_is_seen_as_abort);
    tcase_add_test(tcase, only_the_handshaker_accepts);
    tcase_add_loop_test(tcase, kernel_confirms_the_layers, 0, (int)SMALL_ROLES);
    tcase_add_test(tcase, staying_root_is_refused);
    tcase_add_test(tcase, lost_parent_is_noticed);
    tcase_add_test(tcase, role_dies_with_its_parent);
    tcase_set_timeout(tcase, 30);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
