/*
 * attacks.c: the attacks, and the table of what must come out of each; see attacks.h.
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

#include "tests/sandbox/attacks.h"

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
    return result(openat(scene.directory_fd, "passwd", O_RDONLY));
}

static int
read_device(void)
{
    char byte;

    return result(read(scene.device_fd, &byte, 1));
}

/* Not FIONREAD: the relay may ask how many bytes wait. */
static int
ioctl_device(void)
{
    return result(ioctl(scene.device_fd, FIOCLEX));
}

static int
connect_out(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd == -1)
        return errno;
    return result(
        connect(fd, (const struct sockaddr *)&scene.tcp_target, sizeof(scene.tcp_target)));
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
    return result(sendto(fd, "x", 1, 0, (const struct sockaddr *)&scene.tcp_target,
                         sizeof(scene.tcp_target)));
}

static int
connect_abstract(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    if (fd == -1)
        return errno;
    return result(
        connect(fd, (const struct sockaddr *)&scene.abstract_target, scene.abstract_size));
}

static int
connect_named(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    if (fd == -1)
        return errno;
    return result(
        connect(fd, (const struct sockaddr *)&scene.named_target, sizeof(scene.named_target)));
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
    return result(ptrace(PTRACE_SEIZE, scene.victim, NULL, NULL));
}

static int
trace_keeper(void)
{
    return result(ptrace(PTRACE_SEIZE, scene.keeper, NULL, NULL));
}

static int
read_memory_of(pid_t pid)
{
    char bytes[8];
    struct iovec local = {bytes, sizeof(bytes)}, remote = {scene.victim_memory, sizeof(bytes)};

    return result(process_vm_readv(pid, &local, 1, &remote, 1, 0));
}

static int
read_worker(void)
{
    return read_memory_of(scene.victim);
}

static int
read_keeper(void)
{
    return read_memory_of(scene.keeper);
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
    return open_memory_of(scene.victim);
}

static int
mem_of_keeper(void)
{
    return open_memory_of(scene.keeper);
}

static int
signal_supervisor(void)
{
    return result(kill(getppid(), 0));
}

static int
signal_worker(void)
{
    return result(kill(scene.victim, 0));
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

static int
chroot_away(void)
{
    return result(chroot("/"));
}

/* One more than the role may have; see policy.c. */
static int
one_file_too_many(void)
{
    return result(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, (int)scene.files));
}

/* Become a program that root has made set-uid, and one that as root's would have capabilities. It
 * is ourselves: scene_answer_as_gain(). */
static int
gain_by(const char *path, char *name)
{
    char *const argv[] = {name, NULL};

    (void)fcntl(STDERR_FILENO, F_SETFD, 0);
    execve(path, argv, argv + 1);
    return errno;
}

static int
gain_user(void)
{
    char name[] = GAIN_USER;

    return gain_by("/tmp/gain-suid", name);
}

static int
gain_capability(void)
{
    char name[] = GAIN_CAPABILITY;

    return gain_by("/tmp/gain", name);
}

/* Families of sockets, one at a time. No type has this number: the kernel says so before it looks
 * for a module of the family, and a filter does not look at it. */
static int
each_family(void)
{
    int met = result(socket(scene.part, 11, 0));

    return met == EINVAL ? 0 : met;
}

static int
each_family_pair(void)
{
    int pair[2], met = result(socketpair(scene.part, 11, 0, pair));

    return met == EINVAL ? 0 : met;
}

/* ---- the table ---- */

const struct attack attacks[] = {
    {"open a file", open_file, MAY, KILL, MAY, DENIED, false, 0, 0, 0, 1},
    {"open /proc", open_proc, MAY, KILL, MAY, DENIED, false, 0, 0, 0, 1},
    {"list /", list_root, MAY, KILL, MAY, DENIED, false, 0, 0, 0, 1},
    {"make a file", make_file, MAY, KILL, MAY, DENIED, false, 0, 0, 0, 1},
    {"openat(worker's directory)", open_through_directory, MAY, KILL, MAY, DENIED, false, 0, 0, 0,
     1},
    {"read(worker's device)", read_device, MAY, KILL, MAY, MAY, false, MAY, 0, 0, 1},
    {"ioctl(worker's device)", ioctl_device, MAY, KILL, MAY, MAY, false, 0, 0, 0, 1},
    {"connect out, TCP", connect_out, MAY, KILL, MAY, DENIED, false, 0, 0, 0, 1},
    {"send out, UDP", send_datagram, MAY, KILL, MAY, DENIED, false, 0, 0, 0, 1},
    {"bind a port", bind_port, MAY, KILL, MAY, DENIED, false, 0, 0, SANDBOX_LANDLOCK_NETWORK, 1},
    {"connect, abstract", connect_abstract, MAY, KILL, MAY, DENIED, false, 0, 0, 0, 1},
    {"connect, by name", connect_named, MAY, KILL, MAY, DENIED, false, 0, 0, 0, 1},
    {"socket, IPv6", socket_inet6, MAY, KILL, MAY, MAY, false, 0, 0, 0, 1},
    {"socket, netlink", socket_netlink, MAY, KILL, MAY, MAY, false, 0, 0, 0, 1},
    {"socket, crypto API", socket_vsock, MAY, KILL, MAY, MAY, false, 0, 0, 0, 1},
    {"socketpair", pair_of_sockets, MAY, KILL, MAY, MAY, false, 0, 0, 0, 1},
    {"socket, families 0 to 45", each_family, MAY, KILL, MAY, MAY, false, 0, 0, 0, FAMILIES},
    {"socketpair, the same", each_family_pair, MAY, KILL, MAY, MAY, false, 0, 0, 0, FAMILIES},
    {"fork", do_fork, MAY, KILL, MAY, DENIED, false, 0, 0, 0, 1},
    {"exec", do_exec, MAY, KILL, MAY, DENIED, false, 0, 0, 0, 1},
    {"ptrace a worker", trace_worker, KILL, KILL, DENIED, DENIED, false, 0, 0, 0, 1},
    {"ptrace a keeper", trace_keeper, KILL, KILL, DENIED, DENIED, true, 0, 0, 0, 1},
    {"process_vm_readv, worker", read_worker, KILL, KILL, DENIED, DENIED, false, 0, 0, 0, 1},
    {"process_vm_readv, keeper", read_keeper, KILL, KILL, DENIED, DENIED, true, 0, 0, 0, 1},
    {"/proc/PID/mem, worker", mem_of_worker, DENIED, KILL, DENIED, DENIED, false, 0, 0, 0, 1},
    {"/proc/PID/mem, keeper", mem_of_keeper, DENIED, KILL, DENIED, DENIED, true, 0, 0, 0, 1},
    {"signal the supervisor", signal_supervisor, DENIED, KILL, DENIED, DENIED, true, 0, 0,
     SANDBOX_LANDLOCK_SCOPES, 1},
    {"signal a worker", signal_worker, DENIED, KILL, DENIED, DENIED, false, 0, 0,
     SANDBOX_LANDLOCK_SCOPES, 1},
    {"mmap executable", map_executable, MAY, KILL, MAY, DENIED, false, 0, 0, SANDBOX_MDWE, 1},
    {"mprotect executable", make_executable, MAY, KILL, MAY, DENIED, false, 0, 0, SANDBOX_MDWE, 1},
    {"bpf", load_bpf, KILL, KILL, MAY, DENIED, true, 0, 0, 0, 1},
    {"io_uring_setup", set_up_io_uring, KILL, KILL, MAY, MAY, false, 0, 0, 0, 1},
    {"add_key", use_keyring, KILL, KILL, MAY, MAY, false, 0, 0, 0, 1},
    {"userfaultfd", handle_page_faults, KILL, KILL, MAY, MAY, false, 0, 0, 0, 1},
    {"perf_event_open", watch_with_perf, KILL, KILL, MAY, MAY, true, 0, 0, 0, 1},
    {"mount", do_mount, MAY, KILL, MAY, DENIED, true, 0, 0, 0, 1},
    {"bind mount", bind_mount, KILL, KILL, MAY, DENIED, true, 0, 0, 0, 1},
    {"unshare a pid namespace", leave_pid_namespace, KILL, KILL, MAY, DENIED, true, 0, 0, 0, 1},
    {"unshare a user namespace", do_unshare, MAY, KILL, MAY, MAY, false, 0, 0, 0, 1},
    {"setuid(0)", become_root, MAY, KILL, MAY, DENIED, true, 0, 0, 0, 1},
    {"sethostname", change_host_name, KILL, KILL, MAY, DENIED, true, 0, 0, 0, 1},
    {"raise a limit", raise_limit, MAY, KILL, MAY, DENIED, true, 0, 0, 0, 1},
    {"20 GiB of memory", much_memory, MAY, DENIED, MAY, DENIED, false, 0, KILL, 0, 1},
    {"become dumpable", become_dumpable, MAY, KILL, MAY, MAY, false, 0, 0, 0, 1},
    {"chroot", chroot_away, KILL, KILL, DENIED, DENIED, true, 0, 0, 0, 1},
    {"one file too many", one_file_too_many, MAY, KILL, MAY, DENIED, false, 0, 0, 0, 1},
    {"exec of a set-uid program", gain_user, MAY, KILL, MAY, DENIED, false, 0, 0, 0, 1},
    {"exec for CAP_SYS_CHROOT", gain_capability, DENIED, KILL, DENIED, DENIED, true, 0, 0, 0, 1},
};
const size_t attack_count = sizeof(attacks) / sizeof(attacks[0]);
