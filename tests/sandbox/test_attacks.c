/*
 * test_attacks.c: a role that was taken over attacks from inside its sandbox, one attack at a time.
 *
 * Each attack is tried three ways: without a sandbox (it must succeed, or it proves nothing), with
 * all layers (seccomp kills, or as the table says), and with all layers but seccomp (what the
 * others hold by themselves). All of it runs in mount, pid, net, ipc and uts namespaces of its own,
 * and the program has verified that they are: some attacks would do real harm. Both tables are
 * printed.
 *
 * The sandbox is the real sandbox_enter(); linked with --wrap, so that this program alone can leave
 * seccomp, or the core limit, out.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/bpf.h>
#include <linux/userfaultfd.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sandbox/policy.h"
#include "sandbox/sandbox.h"
#include "sandbox/secret.h"

#define SOME_UID 12345
#define SOME_GID 12346

/* ---- what --wrap puts in between ---- */

static bool without_seccomp, without_limits;

int __real_seccomp_enter(const struct policy_row *row, struct error *error);
int __wrap_seccomp_enter(const struct policy_row *row, struct error *error);
int __real_limits_set(const struct policy_row *row, struct error *error);
int __wrap_limits_set(const struct policy_row *row, struct error *error);

int
__wrap_seccomp_enter(const struct policy_row *row, struct error *error)
{
    return without_seccomp ? 0 : __real_seccomp_enter(row, error);
}

int
__wrap_limits_set(const struct policy_row *row, struct error *error)
{
    return without_limits ? 0 : __real_limits_set(row, error);
}

/* ---- the scene: other processes and fds that the roles have ---- */

static pid_t victim;                /* a worker: same uid as the role, dumpable, holds a secret */
static pid_t keeper;                /* another role, in its sandbox */
static char *victim_memory;         /* in both: made before the fork */
static int directory_fd, device_fd; /* passed by a worker */
static struct sockaddr_in tcp_target;
static struct sockaddr_un abstract_target, named_target;
static socklen_t abstract_size;

static int
result(long value)
{
    return value == -1 ? errno : 0;
}

/* Each attack returns 0 if it succeeded, or the errno that it met. */

static int
open_file(void)
{
    return result(open("/etc/passwd", O_RDONLY));
}

static int
open_proc(void)
{
    return result(open("/proc/self/status", O_RDONLY));
}

static int
list_root(void)
{
    int fd = open("/", O_RDONLY | O_DIRECTORY);
    char entries[4096];

    if (fd == -1)
        return errno;
    /* More than "." and "..". */
    return syscall(SYS_getdents64, fd, entries, sizeof(entries)) > 64 ? 0 : ENOENT;
}

static int
make_file(void)
{
    return result(open("/tmp/tlsagent-attack", O_WRONLY | O_CREAT, 0600));
}

static int
open_through_directory(void)
{
    return result(openat(directory_fd, "passwd", O_RDONLY));
}

static int
read_device(void)
{
    char byte;

    return result(read(device_fd, &byte, 1));
}

/* Not FIONREAD: the relay may ask how many bytes wait. */
static int
ioctl_device(void)
{
    return result(ioctl(device_fd, FIOCLEX));
}

static int
connect_out(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd == -1)
        return errno;
    return result(connect(fd, (const struct sockaddr *)&tcp_target, sizeof(tcp_target)));
}

static int
bind_port(void)
{
    struct sockaddr_in any = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    any.sin_port = htons(2345);
    if (fd == -1)
        return errno;
    return result(bind(fd, (const struct sockaddr *)&any, sizeof(any)));
}

static int
send_datagram(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    if (fd == -1)
        return errno;
    return result(sendto(fd, "x", 1, 0, (const struct sockaddr *)&tcp_target, sizeof(tcp_target)));
}

static int
connect_abstract(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    if (fd == -1)
        return errno;
    return result(connect(fd, (const struct sockaddr *)&abstract_target, abstract_size));
}

static int
connect_named(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    if (fd == -1)
        return errno;
    return result(connect(fd, (const struct sockaddr *)&named_target, sizeof(named_target)));
}

static int
socket_inet6(void)
{
    return result(socket(AF_INET6, SOCK_STREAM, 0));
}

static int
socket_netlink(void)
{
    return result(socket(AF_NETLINK, SOCK_RAW, 0));
}

static int
socket_vsock(void)
{
    return result(socket(AF_ALG, SOCK_SEQPACKET, 0)) == EAFNOSUPPORT ? 0 : errno;
}

static int
pair_of_sockets(void)
{
    int pair[2];

    return result(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
}

static int
do_fork(void)
{
    pid_t pid = (pid_t)syscall(SYS_fork);

    if (pid == 0)
        _exit(0);
    return result(pid);
}

static int
do_exec(void)
{
    char name[] = "true";
    char *const argv[] = {name, NULL};

    (void)fcntl(STDOUT_FILENO, F_SETFD, FD_CLOEXEC);
    execve("/bin/true", argv, argv + 1);
    return errno;
}

static int
trace_worker(void)
{
    return result(ptrace(PTRACE_SEIZE, victim, NULL, NULL));
}

static int
trace_keeper(void)
{
    return result(ptrace(PTRACE_SEIZE, keeper, NULL, NULL));
}

static int
read_memory_of(pid_t pid)
{
    char bytes[8];
    struct iovec local = {bytes, sizeof(bytes)}, remote = {victim_memory, sizeof(bytes)};

    return result(process_vm_readv(pid, &local, 1, &remote, 1, 0));
}

static int
read_worker(void)
{
    return read_memory_of(victim);
}

static int
read_keeper(void)
{
    return read_memory_of(keeper);
}

static int
open_memory_of(pid_t pid)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
    return result(open(path, O_RDONLY));
}

static int
mem_of_worker(void)
{
    return open_memory_of(victim);
}

static int
mem_of_keeper(void)
{
    return open_memory_of(keeper);
}

static int
signal_supervisor(void)
{
    return result(kill(getppid(), 0));
}

static int
signal_worker(void)
{
    return result(kill(victim, 0));
}

static int
map_executable(void)
{
    return mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                0) == MAP_FAILED
               ? errno
               : 0;
}

static int
make_executable(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return page == MAP_FAILED ? errno : result(mprotect(page, 4096, PROT_READ | PROT_EXEC));
}

static int
load_bpf(void)
{
    union bpf_attr attributes = {.map_type = BPF_MAP_TYPE_ARRAY};

    attributes.key_size = attributes.value_size = 4;
    attributes.max_entries = 1;
    return result(syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof(attributes)));
}

static int
set_up_io_uring(void)
{
    char parameters[120] = {0};

    return result(syscall(SYS_io_uring_setup, 1, parameters));
}

static int
use_keyring(void)
{
    return result(syscall(SYS_add_key, "user", "attack", "x", 1, -2));
}

static int
handle_page_faults(void)
{
    return result(syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY));
}

static int
watch_with_perf(void)
{
    char attributes[128] = {1, 0, 0, 0, 112}; /* software event, this size */

    attributes[8] = 1;
    attributes[40] = 0x60; /* not the kernel, not the hypervisor */
    return result(syscall(SYS_perf_event_open, attributes, 0, -1, -1, 0));
}

static int
do_mount(void)
{
    return result(mount("none", "/mnt", "tmpfs", 0, NULL));
}

static int
bind_mount(void)
{
    return result(mount("/etc", "/mnt", NULL, MS_BIND, NULL));
}

static int
leave_pid_namespace(void)
{
    return result(unshare(CLONE_NEWPID));
}

static int
do_unshare(void)
{
    return result(unshare(CLONE_NEWUSER));
}

static int
become_root(void)
{
    return setresuid(0, 0, 0) == -1 ? errno : 0;
}

static int
change_host_name(void)
{
    return result(sethostname("attacked", 8));
}

static int
raise_limit(void)
{
    const struct rlimit limit = {1 << 20, 1 << 20};

    return result(setrlimit(RLIMIT_CORE, &limit));
}

static int
much_memory(void)
{
    return mmap(NULL, (size_t)20 << 30, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED
               ? errno
               : 0;
}

static int
become_dumpable(void)
{
    return result(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
}

/* ---- the table ---- */

/* What must come out of an attack: KILL, the errno, or that it is not denied. */
#define KILL   (-1)
#define DENIED (-2) /* by some errno */
#define MAY    (-3) /* not denied: the role needs it, or this layer does not see it */

enum { SUPERVISOR, LOADER, KEEPER, HANDSHAKER, RELAY, FETCHER, ROLES };

static const char *const role_names[ROLES] = {"supervisor", "loader", "keeper",
                                              "handshaker", "relay",  "fetcher"};
static const enum sandbox_role roles[ROLES] = {SANDBOX_SUPERVISOR, SANDBOX_LOADER, SANDBOX_KEEPER,
                                               SANDBOX_HANDSHAKER, SANDBOX_RELAY,  SANDBOX_FETCHER};

/* All layers: the supervisor's, the others'. Without seccomp: the same. control_root: the attack
 * needs root to succeed without a sandbox; else it is made as the roles' own user. */
static const struct attack {
    const char *name;
    int (*run)(void);
    int supervisor, others, supervisor_bare, others_bare;
    bool control_root;
    int loader;     /* all layers, where the loader differs; 0: it does not */
    unsigned layer; /* what denies it beside seccomp; where it is lacking DENIED is MAY */
} attacks[] = {
    {"open a file", open_file, MAY, KILL, MAY, DENIED, false, 0, 0},
    {"open /proc", open_proc, MAY, KILL, MAY, DENIED, false, 0, 0},
    {"list /", list_root, MAY, KILL, MAY, DENIED, false, 0, 0},
    {"make a file", make_file, MAY, KILL, MAY, DENIED, false, 0, 0},
    {"openat(worker's directory)", open_through_directory, MAY, KILL, MAY, DENIED, false, 0, 0},
    {"read(worker's device)", read_device, MAY, KILL, MAY, MAY, false, MAY, 0},
    {"ioctl(worker's device)", ioctl_device, MAY, KILL, MAY, MAY, false, 0, 0},
    {"connect out, TCP", connect_out, MAY, KILL, MAY, DENIED, false, 0, 0},
    {"send out, UDP", send_datagram, MAY, KILL, MAY, DENIED, false, 0, 0},
    {"bind a port", bind_port, MAY, KILL, MAY, DENIED, false, 0, SANDBOX_LANDLOCK_NETWORK},
    {"connect, abstract", connect_abstract, MAY, KILL, MAY, DENIED, false, 0, 0},
    {"connect, by name", connect_named, MAY, KILL, MAY, DENIED, false, 0, 0},
    {"socket, IPv6", socket_inet6, MAY, KILL, MAY, MAY, false, 0, 0},
    {"socket, netlink", socket_netlink, MAY, KILL, MAY, MAY, false, 0, 0},
    {"socket, crypto API", socket_vsock, MAY, KILL, MAY, MAY, false, 0, 0},
    {"socketpair", pair_of_sockets, MAY, KILL, MAY, MAY, false, 0, 0},
    {"fork", do_fork, MAY, KILL, MAY, DENIED, false, 0, 0},
    {"exec", do_exec, MAY, KILL, MAY, DENIED, false, 0, 0},
    {"ptrace a worker", trace_worker, KILL, KILL, DENIED, DENIED, false, 0, 0},
    {"ptrace a keeper", trace_keeper, KILL, KILL, DENIED, DENIED, true, 0, 0},
    {"process_vm_readv, worker", read_worker, KILL, KILL, DENIED, DENIED, false, 0, 0},
    {"process_vm_readv, keeper", read_keeper, KILL, KILL, DENIED, DENIED, true, 0, 0},
    {"/proc/PID/mem, worker", mem_of_worker, DENIED, KILL, DENIED, DENIED, false, 0, 0},
    {"/proc/PID/mem, keeper", mem_of_keeper, DENIED, KILL, DENIED, DENIED, true, 0, 0},
    {"signal the supervisor", signal_supervisor, DENIED, KILL, DENIED, DENIED, true, 0,
     SANDBOX_LANDLOCK_SCOPES},
    {"signal a worker", signal_worker, DENIED, KILL, DENIED, DENIED, false, 0,
     SANDBOX_LANDLOCK_SCOPES},
    {"mmap executable", map_executable, MAY, KILL, MAY, DENIED, false, 0, SANDBOX_MDWE},
    {"mprotect executable", make_executable, MAY, KILL, MAY, DENIED, false, 0, SANDBOX_MDWE},
    {"bpf", load_bpf, KILL, KILL, MAY, DENIED, true, 0, 0},
    {"io_uring_setup", set_up_io_uring, KILL, KILL, MAY, MAY, false, 0, 0},
    {"add_key", use_keyring, KILL, KILL, MAY, MAY, false, 0, 0},
    {"userfaultfd", handle_page_faults, KILL, KILL, MAY, MAY, false, 0, 0},
    {"perf_event_open", watch_with_perf, KILL, KILL, MAY, MAY, true, 0, 0},
    {"mount", do_mount, MAY, KILL, MAY, DENIED, true, 0, 0},
    {"bind mount", bind_mount, KILL, KILL, MAY, DENIED, true, 0, 0},
    {"unshare a pid namespace", leave_pid_namespace, KILL, KILL, MAY, DENIED, true, 0, 0},
    {"unshare a user namespace", do_unshare, MAY, KILL, MAY, MAY, false, 0, 0},
    {"setuid(0)", become_root, MAY, KILL, MAY, DENIED, true, 0, 0},
    {"sethostname", change_host_name, KILL, KILL, MAY, DENIED, true, 0, 0},
    {"raise a limit", raise_limit, MAY, KILL, MAY, DENIED, true, 0, 0},
    {"20 GiB of memory", much_memory, MAY, DENIED, MAY, DENIED, false, 0, 0},
    {"become dumpable", become_dumpable, MAY, KILL, MAY, MAY, false, 0, 0},
};

#define ATTACKS (sizeof(attacks) / sizeof(attacks[0]))

/* ---- one attempt ---- */

static void
need(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "test_attacks: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* The role's way in. The relay runs as its worker from the start. */
static void
enter_role(int role)
{
    struct error error = {""};

    if (role == KEEPER)
        (void)secret_init(65536, &error);
    if (role == RELAY &&
        (setresgid(SOME_GID, SOME_GID, SOME_GID) == -1 ||
         setresuid(SOME_UID, SOME_UID, SOME_UID) == -1 || prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == -1))
        _exit(98);
    if (sandbox_enter(roles[role], SOME_UID, SOME_GID, 0, &error) == -1) {
        fprintf(stderr, "sandbox_enter(%s): %s\n", role_names[role], error.text);
        _exit(99);
    }
}

/* As the roles' user, but with nothing taken away. */
static void
enter_control(bool root)
{
    if (!root &&
        (setgroups(0, NULL) == -1 || setresgid(SOME_GID, SOME_GID, SOME_GID) == -1 ||
         setresuid(SOME_UID, SOME_UID, SOME_UID) == -1 || prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == -1))
        _exit(98);
}

/* Run it in a child: role -1 is the control. Returns KILL, 0 or an errno. */
static int
attempt(int role, const struct attack *attack)
{
    int ends[2], met = 0, status = 0;
    ssize_t got;
    pid_t pid;

    need(pipe2(ends, O_CLOEXEC) == 0, "pipe");
    pid = fork();
    need(pid != -1, "fork");
    if (pid == 0) {
        /* Before: dup3() would be what is killed, and every attack would look denied. */
        (void)dup3(ends[1], STDERR_FILENO, O_CLOEXEC);
        if (role == -1)
            enter_control(attack->control_root);
        else
            enter_role(role);
        met = attack->run();
        _exit(write(STDERR_FILENO, &met, sizeof(met)) == sizeof(met) ? 0 : 97);
    }
    close(ends[1]);
    got = read(ends[0], &met, sizeof(met));
    close(ends[0]);
    need(waitpid(pid, &status, 0) == pid, "waitpid");
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
        return KILL;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return got == sizeof(met) ? met : 0; /* no word: it has become another program */
    fprintf(stderr, "test_attacks: %s as %s: wait status %#x\n", attack->name,
            role == -1 ? "control" : role_names[role], (unsigned)status);
    exit(1);
}

static const char *
outcome_text(int outcome)
{
    if (outcome == KILL)
        return "killed";
    return outcome == 0 ? "DONE" : strerrorname_np(outcome);
}

static bool
fits(int outcome, int expected)
{
    if (expected == MAY)
        return outcome != KILL;
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
    return expected == DENIED && (attack->layer & lacking) != 0 ? MAY : expected;
}

static int
try_all(bool bare, unsigned lacking)
{
    int wrong = 0;

    without_seccomp = bare;
    printf("\n%s\n%-28s %-10s", bare ? "all layers but seccomp" : "all layers", "attack",
           "control");
    for (int role = 0; role < ROLES; role++)
        printf(" %-12s", role_names[role]);
    printf("\n");
    for (size_t i = 0; i < ATTACKS; i++) {
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
            enter_role(role);
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
    without_seccomp = false;
    without_limits = true;
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
    without_limits = false;
    return wrong;
}

/* ---- the scene ---- */

static void
loopback_up(void)
{
    struct ifreq request = {.ifr_name = "lo"};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    request.ifr_flags = IFF_UP | IFF_RUNNING;
    need(fd != -1 && ioctl(fd, SIOCSIFFLAGS, &request) == 0, "loopback device");
    close(fd);
}

static void
make_targets(void)
{
    int tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int abstract = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int named = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    tcp_target.sin_family = AF_INET;
    tcp_target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    tcp_target.sin_port = htons(1234);
    need(bind(tcp, (struct sockaddr *)&tcp_target, sizeof(tcp_target)) == 0 &&
             listen(tcp, 128) == 0,
         "TCP target");
    abstract_target.sun_family = named_target.sun_family = AF_UNIX;
    memcpy(abstract_target.sun_path, "\0attack", 7);
    abstract_size = offsetof(struct sockaddr_un, sun_path) + 7;
    need(bind(abstract, (struct sockaddr *)&abstract_target, abstract_size) == 0 &&
             listen(abstract, 128) == 0,
         "abstract target");
    memcpy(named_target.sun_path, "/tmp/target", sizeof("/tmp/target"));
    need(bind(named, (struct sockaddr *)&named_target, sizeof(named_target)) == 0 &&
             listen(named, 128) == 0 && chmod("/tmp/target", 0777) == 0,
         "named target");
    directory_fd = open("/etc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    device_fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    victim_memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    need(directory_fd != -1 && device_fd != -1 && victim_memory != MAP_FAILED, "targets");
}

static void
start_targets(void)
{
    struct pollfd nothing = {.fd = -1};
    char byte;
    int ready[2];

    need(pipe2(ready, O_CLOEXEC) == 0, "pipe");
    victim = fork();
    if (victim == 0) {
        enter_control(false);
        (void)!write(ready[1], "x", 1);
        for (;;)
            (void)poll(&nothing, 1, -1);
    }
    need(read(ready[0], &byte, 1) == 1, "the worker");
    keeper = fork();
    if (keeper == 0) {
        (void)dup2(ready[1], STDERR_FILENO);
        enter_role(KEEPER);
        (void)!write(STDERR_FILENO, "x", 1);
        for (;;)
            (void)poll(&nothing, 1, -1);
    }
    need(read(ready[0], &byte, 1) == 1, "the keeper");
    close(ready[0]);
    close(ready[1]);
}

/* The namespaces that every attack stays in: ours must not be those of whoever started us. */
static const char *const namespace_names[] = {"mnt", "net", "ipc", "uts", "pid"};

#define NAMESPACES 5

static void
read_namespaces(char links[NAMESPACES][64])
{
    for (size_t i = 0; i < NAMESPACES; i++) {
        char path[64];
        ssize_t size;

        snprintf(path, sizeof(path), "/proc/self/ns/%s", namespace_names[i]);
        size = readlink(path, links[i], sizeof(links[i]) - 1);
        need(size > 0, path);
        links[i][size] = '\0';
    }
}

static int
run_inside(char outside[NAMESPACES][64])
{
    char inside[NAMESPACES][64];
    struct sandbox_trial trial = {0};
    struct error error = {""};
    int wrong;

    need(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
             mount("proc", "/proc", "proc", 0, NULL) == 0 &&
             mount("none", "/tmp", "tmpfs", 0, "mode=1777") == 0,
         "private mounts");
    read_namespaces(inside);
    for (size_t i = 0; i < NAMESPACES; i++)
        need(strcmp(inside[i], outside[i]) != 0, "a namespace is not private");
    need(getpid() == 1, "we are not the first process of a pid namespace");
    loopback_up();
    make_targets();
    start_targets();
    if (sandbox_try(SOME_UID, SOME_GID, &trial, &error) == -1) {
        fprintf(stderr, "test_attacks: %s\n", error.text);
        return 1;
    }
    printf("not to be had here: %s\n", trial.missing[0] != '\0' ? trial.missing : "nothing");
    wrong = try_all(false, ~trial.in_force) + try_all(true, ~trial.in_force) + try_cores();
    printf("\n%zu attacks on %d roles, %d wrong outcomes\n", ATTACKS, ROLES, wrong);
    return wrong == 0 ? 0 : 1;
}

int
main(void)
{
    static char outside[NAMESPACES][64];
    int status = 0;
    pid_t pid;

#ifdef SANITIZED
    printf("built with a sanitizer: there is no sandbox to attack\n");
    return 77;
#endif
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (geteuid() != 0) {
        printf("only root can make the namespaces in which the attacks are tried\n");
        return 77;
    }
    read_namespaces(outside);
    need(unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID) == 0,
         "unshare");
    pid = fork();
    need(pid != -1, "fork");
    if (pid == 0)
        _exit(run_inside(outside)); /* the first of the pid namespace: all others die with it */
    need(waitpid(pid, &status, 0) == pid, "waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
