/*
 * test_attacks.c: a role that was taken over attacks from inside its sandbox, one attack at a time.
 *
 * Each attack is tried three ways: without a sandbox (it must succeed, or it proves nothing), with
 * all layers (seccomp kills, or as the table says), and with all layers but seccomp (what the others
 * hold by themselves). All of it runs in mount, pid, net, ipc and uts namespaces of its own, and the
 * program has verified that they are: some attacks would do real harm. Both tables are printed.
 *
 * The sandbox is the real sandbox_enter(); linked with --wrap, so that this program alone can leave
 * seccomp, or the core limit, out.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/userfaultfd.h>
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

static pid_t victim;        /* a worker: same uid as the role, dumpable, holds a secret */
static pid_t keeper;        /* another role, in its sandbox */
static char *victim_memory; /* in both: made before the fork */
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

static int
ioctl_device(void)
{
    int count;

    return result(ioctl(device_fd, FIONREAD, &count)) == ENOTTY ? 0 : errno;
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
    return result(mount("none", "/tmp", "tmpfs", 0, NULL));
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
    struct rlimit limit = {0, 0};

    (void)getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max = limit.rlim_max + 1;
    return result(setrlimit(RLIMIT_NOFILE, &limit));
}

static int
much_memory(void)
{
    return mmap(NULL, (size_t)20 << 30, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                0) == MAP_FAILED
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

enum { SUPERVISOR, LOADER, KEEPER, HANDSHAKER, RELAY, ROLES };

static const char *const role_names[ROLES] = {"supervisor", "loader", "keeper", "handshaker",
                                              "relay"};
static const enum sandbox_role roles[ROLES] = {SANDBOX_SUPERVISOR, SANDBOX_LOADER, SANDBOX_KEEPER,
                                               SANDBOX_HANDSHAKER, SANDBOX_RELAY};

/* All layers: the supervisor's, the others'. Without seccomp: the same. control_root: the attack
 * needs root to succeed without a sandbox; else it is made as the roles' own user. */
static const struct attack {
    const char *name;
    int (*run)(void);
    int supervisor, others, supervisor_bare, others_bare;
    bool control_root;
    int loader; /* all layers, where the loader differs; 0: it does not */
} attacks[] = {
    {"open a file", open_file, MAY, KILL, MAY, DENIED, false, 0},
    {"open /proc", open_proc, MAY, KILL, MAY, DENIED, false, 0},
    {"list /", list_root, MAY, KILL, MAY, DENIED, false, 0},
    {"make a file", make_file, MAY, KILL, MAY, DENIED, false, 0},
    {"openat(worker's directory)", open_through_directory, MAY, KILL, MAY, DENIED, false, 0},
    {"read(worker's device)", read_device, MAY, KILL, MAY, MAY, false, MAY},
    {"ioctl(worker's device)", ioctl_device, MAY, KILL, MAY, MAY, false, 0},
    {"connect out, TCP", connect_out, MAY, KILL, MAY, DENIED, false, 0},
    {"send out, UDP", send_datagram, MAY, KILL, MAY, DENIED, false, 0},
    {"bind a port", bind_port, MAY, KILL, MAY, DENIED, false, 0},
    {"connect, abstract", connect_abstract, MAY, KILL, MAY, DENIED, false, 0},
    {"connect, by name", connect_named, MAY, KILL, MAY, DENIED, false, 0},
    {"socket, IPv6", socket_inet6, MAY, KILL, MAY, MAY, false, 0},
    {"socket, netlink", socket_netlink, MAY, KILL, MAY, MAY, false, 0},
    {"socket, crypto API", socket_vsock, MAY, KILL, MAY, MAY, false, 0},
    {"socketpair", pair_of_sockets, MAY, KILL, MAY, MAY, false, 0},
    {"fork", do_fork, MAY, KILL, MAY, DENIED, false, 0},
    {"exec", do_exec, MAY, KILL, MAY, DENIED, false, 0},
    {"ptrace a worker", trace_worker, KILL, KILL, MAY, DENIED, false, 0},
    {"ptrace a keeper", trace_keeper, KILL, KILL, MAY, DENIED, true, 0},
    {"process_vm_readv, worker", read_worker, KILL, KILL, MAY, DENIED, false, 0},
    {"process_vm_readv, keeper", read_keeper, KILL, KILL, MAY, DENIED, true, 0},
    {"/proc/PID/mem, worker", mem_of_worker, MAY, KILL, MAY, DENIED, false, 0},
    {"/proc/PID/mem, keeper", mem_of_keeper, MAY, KILL, MAY, DENIED, true, 0},
    {"signal the supervisor", signal_supervisor, MAY, KILL, MAY, DENIED, true, 0},
    {"signal a worker", signal_worker, MAY, KILL, DENIED, DENIED, false, 0},
    {"mmap executable", map_executable, MAY, KILL, MAY, DENIED, false, 0},
    {"mprotect executable", make_executable, MAY, KILL, MAY, DENIED, false, 0},
    {"bpf", load_bpf, KILL, KILL, DENIED, DENIED, true, 0},
    {"io_uring_setup", set_up_io_uring, KILL, KILL, MAY, MAY, false, 0},
    {"add_key", use_keyring, KILL, KILL, MAY, MAY, false, 0},
    {"userfaultfd", handle_page_faults, KILL, KILL, MAY, MAY, false, 0},
    {"perf_event_open", watch_with_perf, KILL, KILL, MAY, MAY, true, 0},
    {"mount", do_mount, MAY, KILL, MAY, DENIED, true, 0},
    {"unshare a user namespace", do_unshare, MAY, KILL, MAY, MAY, false, 0},
    {"setuid(0)", become_root, MAY, KILL, MAY, DENIED, true, 0},
    {"sethostname", change_host_name, KILL, KILL, MAY, DENIED, true, 0},
    {"raise a limit", raise_limit, MAY, KILL, MAY, DENIED, true, 0},
    {"20 GiB of memory", much_memory, MAY, KILL, MAY, DENIED, false, 0},
    {"become dumpable", become_dumpable, MAY, KILL, MAY, MAY, false, 0},
};

#define ATTACKS (sizeof(attacks) / sizeof(attacks[0]))
