/*
 * policy.c: what each role may do: the whole truth, in one table.
 *
 * Read it from the bottom: one row per role, then the lists of system calls that the rows name.
 * What a role does before sandbox_enter() (map its generation's carrier, warm OpenSSL up, make its
 * epoll instance) is not in its row.
 *
 * RLIMIT_FSIZE stays: the log (fd 2) may be a regular file, and a write beyond that limit is a
 * SIGXFSZ. What it would prevent is prevented by write() being allowed on fd 2 only.
 */
#include <seccomp.h>

#include "sandbox/policy.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MIB          (UINT64_C(1) << 20)
#define GIB          (UINT64_C(1) << 30)

/* What every process that only computes and answers needs: memory without execution, time, random
 * numbers, one channel, its end. */
static const struct policy_call common_calls[] = {
    /* messages */
    {SCMP_SYS(recvmsg), POLICY_ALWAYS},
    {SCMP_SYS(sendmsg), POLICY_ALWAYS},
    {SCMP_SYS(recvfrom), POLICY_ALWAYS},
    {SCMP_SYS(sendto), POLICY_ALWAYS},
    {SCMP_SYS(poll), POLICY_ALWAYS},
    {SCMP_SYS(ppoll), POLICY_ALWAYS},
    {SCMP_SYS(close), POLICY_ALWAYS},
    /* memory */
    {SCMP_SYS(mmap), POLICY_NOT_EXECUTABLE},
    {SCMP_SYS(mprotect), POLICY_NOT_EXECUTABLE},
    {SCMP_SYS(munmap), POLICY_ALWAYS},
    {SCMP_SYS(mremap), POLICY_ALWAYS},
    {SCMP_SYS(madvise), POLICY_ALWAYS},
    {SCMP_SYS(brk), POLICY_ALWAYS},
    {SCMP_SYS(futex), POLICY_ALWAYS},
    {SCMP_SYS(sched_yield), POLICY_ALWAYS},
    /* a generation that came by fd: its size, its seals */
    {SCMP_SYS(fstat), POLICY_ALWAYS},
    {SCMP_SYS(newfstatat), POLICY_BY_FD},
    {SCMP_SYS(fcntl), POLICY_FCNTL_READ},
    {SCMP_SYS(lseek), POLICY_ALWAYS},
    /* facts; sysinfo: qsort() asks for the size of memory */
    {SCMP_SYS(getrandom), POLICY_ALWAYS},
    {SCMP_SYS(getpid), POLICY_ALWAYS},
    {SCMP_SYS(gettid), POLICY_ALWAYS},
    {SCMP_SYS(getppid), POLICY_ALWAYS},
    {SCMP_SYS(getuid), POLICY_ALWAYS},
    {SCMP_SYS(geteuid), POLICY_ALWAYS},
    {SCMP_SYS(getgid), POLICY_ALWAYS},
    {SCMP_SYS(getegid), POLICY_ALWAYS},
    {SCMP_SYS(clock_gettime), POLICY_ALWAYS},
    {SCMP_SYS(gettimeofday), POLICY_ALWAYS},
    {SCMP_SYS(time), POLICY_ALWAYS},
    {SCMP_SYS(sysinfo), POLICY_ALWAYS},
    {SCMP_SYS(prlimit64), POLICY_READ_LIMIT},
    /* the log, the end, and abort() */
    {SCMP_SYS(write), POLICY_TO_LOG},
    {SCMP_SYS(exit), POLICY_ALWAYS},
    {SCMP_SYS(exit_group), POLICY_ALWAYS},
    {SCMP_SYS(restart_syscall), POLICY_ALWAYS},
    {SCMP_SYS(rt_sigreturn), POLICY_ALWAYS},
    {SCMP_SYS(rt_sigprocmask), POLICY_ALWAYS},
    {SCMP_SYS(rt_sigaction), POLICY_ALWAYS},
    {SCMP_SYS(tgkill), POLICY_TO_SELF},
};

/* The loader reads files that were opened for it and writes two memfds. */
static const struct policy_call loader_calls[] = {
    {SCMP_SYS(read), POLICY_ALWAYS},      {SCMP_SYS(pread64), POLICY_ALWAYS},
    {SCMP_SYS(write), POLICY_ALWAYS},     {SCMP_SYS(pwrite64), POLICY_ALWAYS},
    {SCMP_SYS(ftruncate), POLICY_ALWAYS}, {SCMP_SYS(msync), POLICY_ALWAYS},
};

/* The handshaker talks on sockets that it was given, and accepts. It makes no socket, connects
 * nowhere, opens nothing. */
static const struct policy_call handshaker_calls[] = {
    {SCMP_SYS(epoll_wait), POLICY_ALWAYS},  {SCMP_SYS(epoll_pwait), POLICY_ALWAYS},
    {SCMP_SYS(epoll_ctl), POLICY_ALWAYS},   {SCMP_SYS(epoll_create1), POLICY_ALWAYS},
    {SCMP_SYS(accept4), POLICY_ALWAYS},     {SCMP_SYS(shutdown), POLICY_ALWAYS},
    {SCMP_SYS(getsockopt), POLICY_ALWAYS},  {SCMP_SYS(setsockopt), POLICY_ALWAYS},
    {SCMP_SYS(getsockname), POLICY_ALWAYS}, {SCMP_SYS(getpeername), POLICY_ALWAYS},
};

/* The relay moves bytes between a TCP connection and a socket pair. */
static const struct policy_call relay_calls[] = {
    {SCMP_SYS(epoll_wait), POLICY_ALWAYS}, {SCMP_SYS(epoll_pwait), POLICY_ALWAYS},
    {SCMP_SYS(epoll_ctl), POLICY_ALWAYS},  {SCMP_SYS(epoll_create1), POLICY_ALWAYS},
    {SCMP_SYS(shutdown), POLICY_ALWAYS},
};

/* The supervisor opens files, makes sockets and starts the others (who inherit this filter and
 * whose start needs the dynamic linker's calls), so an allow-list would be nearly everything. What
 * neither it nor they ever have a reason for kills: other processes' memory, the kernel's own
 * set-up, namespaces and mounts, io_uring (which seccomp cannot see through), key rings, clocks. */
static const struct policy_call supervisor_denied[] = {
    {SCMP_SYS(ptrace), POLICY_ALWAYS},
    {SCMP_SYS(process_vm_readv), POLICY_ALWAYS},
    {SCMP_SYS(process_vm_writev), POLICY_ALWAYS},
    {SCMP_SYS(process_madvise), POLICY_ALWAYS},
    {SCMP_SYS(pidfd_getfd), POLICY_ALWAYS},
    {SCMP_SYS(kcmp), POLICY_ALWAYS},
    {SCMP_SYS(perf_event_open), POLICY_ALWAYS},
    {SCMP_SYS(bpf), POLICY_ALWAYS},
    {SCMP_SYS(userfaultfd), POLICY_ALWAYS},
    {SCMP_SYS(io_uring_setup), POLICY_ALWAYS},
    {SCMP_SYS(io_uring_enter), POLICY_ALWAYS},
    {SCMP_SYS(io_uring_register), POLICY_ALWAYS},
    {SCMP_SYS(add_key), POLICY_ALWAYS},
    {SCMP_SYS(request_key), POLICY_ALWAYS},
    {SCMP_SYS(keyctl), POLICY_ALWAYS},
    {SCMP_SYS(init_module), POLICY_ALWAYS},
    {SCMP_SYS(finit_module), POLICY_ALWAYS},
    {SCMP_SYS(delete_module), POLICY_ALWAYS},
    {SCMP_SYS(kexec_load), POLICY_ALWAYS},
    {SCMP_SYS(kexec_file_load), POLICY_ALWAYS},
    {SCMP_SYS(reboot), POLICY_ALWAYS},
    {SCMP_SYS(swapon), POLICY_ALWAYS},
    {SCMP_SYS(swapoff), POLICY_ALWAYS},
    {SCMP_SYS(mount), POLICY_ALWAYS},
    {SCMP_SYS(umount2), POLICY_ALWAYS},
    {SCMP_SYS(move_mount), POLICY_ALWAYS},
    {SCMP_SYS(open_tree), POLICY_ALWAYS},
    {SCMP_SYS(fsopen), POLICY_ALWAYS},
    {SCMP_SYS(fsmount), POLICY_ALWAYS},
    {SCMP_SYS(fsconfig), POLICY_ALWAYS},
    {SCMP_SYS(fspick), POLICY_ALWAYS},
    {SCMP_SYS(mount_setattr), POLICY_ALWAYS},
    {SCMP_SYS(pivot_root), POLICY_ALWAYS},
    {SCMP_SYS(chroot), POLICY_ALWAYS},
    {SCMP_SYS(setns), POLICY_ALWAYS},
    {SCMP_SYS(unshare), POLICY_ALWAYS},
    {SCMP_SYS(open_by_handle_at), POLICY_ALWAYS},
    {SCMP_SYS(name_to_handle_at), POLICY_ALWAYS},
    {SCMP_SYS(fanotify_init), POLICY_ALWAYS},
    {SCMP_SYS(acct), POLICY_ALWAYS},
    {SCMP_SYS(quotactl), POLICY_ALWAYS},
    {SCMP_SYS(syslog), POLICY_ALWAYS},
    {SCMP_SYS(vhangup), POLICY_ALWAYS},
    {SCMP_SYS(personality), POLICY_ALWAYS},
    {SCMP_SYS(modify_ldt), POLICY_ALWAYS},
    {SCMP_SYS(iopl), POLICY_ALWAYS},
    {SCMP_SYS(ioperm), POLICY_ALWAYS},
    {SCMP_SYS(sethostname), POLICY_ALWAYS},
    {SCMP_SYS(setdomainname), POLICY_ALWAYS},
    {SCMP_SYS(settimeofday), POLICY_ALWAYS},
    {SCMP_SYS(clock_settime), POLICY_ALWAYS},
    {SCMP_SYS(clock_adjtime), POLICY_ALWAYS},
    {SCMP_SYS(adjtimex), POLICY_ALWAYS},
    {SCMP_SYS(mknod), POLICY_ALWAYS},
    {SCMP_SYS(mknodat), POLICY_ALWAYS},
};

#define LISTS_1(a)    .calls = {a}, .call_counts = {COUNT(a)}
#define LISTS_2(a, b) .calls = {a, b}, .call_counts = {COUNT(a), COUNT(b)}

/* clang-format off */
static const struct policy_row rows[] = {
    /* role                  name          root?   files          children      memory       locked */
    [SANDBOX_SUPERVISOR] = {"supervisor",  false,  POLICY_UNLIMITED, POLICY_KEEP, POLICY_KEEP, POLICY_KEEP,
                            POLICY_DENY_LIST,  LISTS_1(supervisor_denied)},
    [SANDBOX_LOADER] =     {"loader",      true,   64,            0,            4 * GIB,     1 * GIB,
                            POLICY_ALLOW_LIST, LISTS_2(common_calls, loader_calls)},
    [SANDBOX_KEEPER] =     {"keeper",      true,   16,            0,            2 * GIB,     1 * GIB,
                            POLICY_ALLOW_LIST, LISTS_1(common_calls)},
    [SANDBOX_HANDSHAKER] = {"handshaker",  true,   131072,        0,            16 * GIB,    POLICY_KEEP,
                            POLICY_ALLOW_LIST, LISTS_2(common_calls, handshaker_calls)},
    [SANDBOX_RELAY] =      {"relay",       false,  131072,        0,            2 * GIB,     POLICY_KEEP,
                            POLICY_ALLOW_LIST, LISTS_2(common_calls, relay_calls)},
};
/* clang-format on */

const struct policy_row *
policy_find(enum sandbox_role role)
{
    return (size_t)role < COUNT(rows) ? &rows[role] : NULL;
}
