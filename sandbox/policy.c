/*
 * policy.c: what each role may do: the whole truth, in one table.
 *
 * Read it from the bottom: one row per role, then the lists of system calls that the rows name.
 * What a role does before sandbox_enter() (map its generation's carrier, warm OpenSSL up, make its
 * epoll instance) is not in its row.
 *
 * RLIMIT_FSIZE stays: the log (fd 2) may be a regular file, and a write beyond that limit is a
 * SIGXFSZ. What it would prevent is prevented by write() being allowed on fd 2 only.
 *
 * A call is here because a role makes it: seen by strace over the tests, or with its reason beside
 * it.
 */
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <linux/sockios.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sandbox/policy.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define GIB          (UINT64_C(1) << 30)

/* Of newer headers than we are built with. */
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif
#ifndef SOL_TLS
#define SOL_TLS 282
#endif
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

/* The names of these calls differ from one architecture to the next; libc makes the one that is. */
#ifdef __NR_poll
#define CALL_POLL SCMP_SYS(poll)
#else
#define CALL_POLL SCMP_SYS(ppoll)
#endif
#ifdef __NR_epoll_wait
#define CALL_EPOLL SCMP_SYS(epoll_wait)
#else
#define CALL_EPOLL SCMP_SYS(epoll_pwait)
#endif

/* Descriptors at fixed numbers: = agent/roles.h's */
#define FD_CONTROL 3
#define FD_PEER    4

/* What every process needs that answers on a channel: time, random numbers, its end. */
static const struct policy_call base_calls[] = {
    {CALL_POLL, {{0}}},
    /* an fd that arrives and is refused, and must not linger when it is closed */
    {SCMP_SYS(close), {{0}}},
    {SCMP_SYS(setsockopt), {POLICY_IS(1, SOL_SOCKET), POLICY_IS(2, SO_LINGER)}},
    {SCMP_SYS(munmap), {{0}}},
    /* the end of what is done only once; one thread has nobody to wait for */
    {SCMP_SYS(futex), {POLICY_IS(1, FUTEX_WAKE_PRIVATE)}},
    /* libcrypto's random numbers; it looks each time whether it has been forked */
    {SCMP_SYS(getrandom), {{0}}},
    {SCMP_SYS(getpid), {{0}}},
    /* where the machine's clock cannot be read without the kernel */
    {SCMP_SYS(clock_gettime), {{0}}},
    {SCMP_SYS(time), {{0}}},
    /* the log, the end, and abort() */
    {SCMP_SYS(write), {POLICY_IS(0, STDERR_FILENO)}},
    {SCMP_SYS(exit_group), {{0}}},
    {SCMP_SYS(rt_sigprocmask), {{0}}},
    {SCMP_SYS(gettid), {{0}}},
    {SCMP_SYS(tgkill), {POLICY_IS(0, POLICY_OWN_PID)}},
    /* poll() goes on after somebody has stopped us */
    {SCMP_SYS(restart_syscall), {{0}}},
};

/* What those need beside it who parse: messages on whatever channel they were given, which raise no
 * SIGPIPE and go to whom the socket is connected to, and a heap without execution. */
static const struct policy_call parser_calls[] = {
    {SCMP_SYS(recvmsg), {POLICY_IS(2, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)}},
    {SCMP_SYS(sendmsg), {POLICY_IS(2, MSG_DONTWAIT | MSG_NOSIGNAL)}},
    {SCMP_SYS(brk), {{0}}},
    {SCMP_SYS(mmap),
     {POLICY_ONLY(2, PROT_READ | PROT_WRITE), POLICY_IS(3, MAP_PRIVATE | MAP_ANONYMOUS)}},
    /* how a newer libc keeps random numbers */
    {SCMP_SYS(mmap),
     {POLICY_ONLY(2, PROT_READ | PROT_WRITE), POLICY_IS(3, MAP_DROPPABLE | MAP_ANONYMOUS)}},
    {SCMP_SYS(mremap), {{0}}},
    /* qsort() asks for the size of memory; libcrypto 3.2 takes the time so */
    {SCMP_SYS(sysinfo), {{0}}},
    {SCMP_SYS(gettimeofday), {{0}}},
};

/* Memory that came by fd, and its size: generations, ticket keys, the cache of sessions. fstat() is
 * one call in some versions of libc and the other in others. */
static const struct policy_call shared_calls[] = {
    {SCMP_SYS(mmap), {POLICY_ONLY(2, PROT_READ | PROT_WRITE), POLICY_IS(3, MAP_SHARED)}},
    {SCMP_SYS(fstat), {{0}}},
    {SCMP_SYS(newfstatat), {POLICY_IS(3, AT_EMPTY_PATH)}},
};

/* The keeper talks on its two channels and on nothing else, whatever fd it may be passed. It waits
 * in recvmsg() for its handshaker (a time limit is set before), has no heap that grows (what
 * libcrypto allocates comes from memory for keys), and maps the page of ticket keys anew when a
 * fleet's secret is replaced: ending the cell for that would break off its handshakes. */
static const struct policy_call keeper_calls[] = {
    {SCMP_SYS(recvmsg), {POLICY_IS(0, FD_PEER), POLICY_IS(2, MSG_CMSG_CLOEXEC)}},
    {SCMP_SYS(recvmsg), {POLICY_IS(0, FD_CONTROL), POLICY_IS(2, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)}},
    {SCMP_SYS(sendmsg), {POLICY_IS(0, FD_PEER), POLICY_IS(2, MSG_DONTWAIT | MSG_NOSIGNAL)}},
    {SCMP_SYS(sendmsg), {POLICY_IS(0, FD_CONTROL), POLICY_IS(2, MSG_DONTWAIT | MSG_NOSIGNAL)}},
    {SCMP_SYS(madvise), {POLICY_IS(2, MADV_DONTDUMP)}},
    {SCMP_SYS(madvise), {POLICY_IS(2, MADV_DONTFORK)}},
};

/* Facts about the machine that a later libc or libcrypto may ask for, and does without. */
const int policy_harmless[] = {
    SCMP_SYS(uname),
    SCMP_SYS(getcpu),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(getrusage),
    SCMP_SYS(times),
    SCMP_SYS(clock_getres),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),
    SCMP_SYS(membarrier),
    SCMP_SYS(rseq),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(mincore),
    SCMP_SYS(sched_getparam),
    SCMP_SYS(sched_getscheduler),
    SCMP_SYS(get_mempolicy),
    SCMP_SYS(getcwd),
};
const size_t policy_harmless_count = COUNT(policy_harmless);

/* The loader reads files that were opened for it and writes two memfds, through mappings. */
static const struct policy_call loader_calls[] = {
    {SCMP_SYS(read), {{0}}},
    {SCMP_SYS(ftruncate), {{0}}},
    {SCMP_SYS(madvise), {POLICY_IS(2, MADV_DONTDUMP)}},
    {SCMP_SYS(madvise), {POLICY_IS(2, MADV_DONTFORK)}},
};

/* The bytes of a connection. */
static const struct policy_call stream_calls[] = {
    {SCMP_SYS(recvfrom), {POLICY_IS(3, MSG_DONTWAIT), POLICY_NULL(4)}},
    {SCMP_SYS(recvfrom), {POLICY_IS(3, MSG_DONTWAIT | MSG_PEEK), POLICY_NULL(4)}},
    {SCMP_SYS(sendto), {POLICY_IS(3, MSG_DONTWAIT | MSG_NOSIGNAL), POLICY_NULL(4)}},
    {CALL_EPOLL, {{0}}},
    {SCMP_SYS(epoll_ctl), {{0}}},
    {SCMP_SYS(shutdown), {{0}}},
};

/* The handshaker talks on sockets that it was given, and accepts. It makes no socket, connects
 * nowhere, opens nothing. */
static const struct policy_call handshaker_calls[] = {
    {SCMP_SYS(accept4), {{0}}},
    /* its keeper's answer is waited for (a time limit is set before) */
    {SCMP_SYS(recvmsg), {POLICY_IS(0, FD_PEER), POLICY_IS(2, MSG_CMSG_CLOEXEC)}},
    /* what was looked at and used is taken out */
    {SCMP_SYS(recvfrom), {POLICY_IS(3, MSG_DONTWAIT | MSG_TRUNC), POLICY_NULL(4)}},
    {SCMP_SYS(getsockopt), {POLICY_IS(1, SOL_SOCKET), POLICY_IS(2, SO_TYPE)}},
    {SCMP_SYS(getsockopt), {POLICY_IS(1, SOL_SOCKET), POLICY_IS(2, SO_PROTOCOL)}},
    {SCMP_SYS(setsockopt), {POLICY_IS(1, IPPROTO_TCP), POLICY_IS(2, TCP_ULP)}},
    {SCMP_SYS(setsockopt), {POLICY_IS(1, SOL_TLS), POLICY_IS(2, TLS_TX)}},
    {SCMP_SYS(setsockopt), {POLICY_IS(1, SOL_TLS), POLICY_IS(2, TLS_RX)}},
    {SCMP_SYS(getpeername), {{0}}},
    /* the seals of a generation and of the cache of sessions */
    {SCMP_SYS(fcntl), {POLICY_IS(1, F_GET_SEALS)}},
    /* how many descriptors there may be; as getrlimit() calls it */
    {SCMP_SYS(prlimit64), {POLICY_IS(1, RLIMIT_NOFILE), POLICY_NULL(2)}},
    /* how much of what went to a worker it has not read */
    {SCMP_SYS(ioctl), {POLICY_IS(1, SIOCOUTQ)}},
};

/* The fetcher talks on connections that the supervisor opens for it: it makes no socket either. */
static const struct policy_call fetcher_calls[] = {
    {SCMP_SYS(recvfrom), {POLICY_IS(3, MSG_DONTWAIT), POLICY_NULL(4)}},
    {SCMP_SYS(sendto), {POLICY_IS(3, MSG_DONTWAIT | MSG_NOSIGNAL), POLICY_NULL(4)}},
    {SCMP_SYS(getsockopt), {POLICY_IS(1, SOL_SOCKET), POLICY_IS(2, SO_ERROR)}},
    {CALL_EPOLL, {{0}}},
    {SCMP_SYS(epoll_ctl), {{0}}},
};

/* The relay. FIONREAD: how many bytes wait in the socket pair; SO_LINGER, as all have it: to end a
 * plain TCP connection with a reset. Record states are in memory that is not reserved
 * (client/slot.c). MADV_DONTNEED: malloc_trim(), after a rush. */
static const struct policy_call relay_calls[] = {
    {SCMP_SYS(ioctl), {POLICY_IS(1, FIONREAD)}},
    {SCMP_SYS(mmap),
     {POLICY_ONLY(2, PROT_READ | PROT_WRITE),
      POLICY_IS(3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)}},
    {SCMP_SYS(madvise), {POLICY_IS(2, MADV_DONTDUMP)}},
    {SCMP_SYS(madvise), {POLICY_IS(2, MADV_WIPEONFORK)}},
    {SCMP_SYS(madvise), {POLICY_IS(2, MADV_DONTNEED)}},
};

/* The supervisor opens files, makes sockets and starts the others (who inherit this filter and
 * whose start needs the dynamic linker's calls), so an allow-list would be nearly everything. What
 * neither it nor they ever have a reason for kills: other processes' memory, the kernel's own
 * set-up, others' namespaces and mounts, io_uring (which seccomp cannot see through), key rings,
 * clocks. Making namespaces and an empty root stays: the roles do it when they start. */
static const struct policy_call supervisor_denied[] = {
    {SCMP_SYS(ptrace), {{0}}},
    {SCMP_SYS(process_vm_readv), {{0}}},
    {SCMP_SYS(process_vm_writev), {{0}}},
    {SCMP_SYS(process_madvise), {{0}}},
    {SCMP_SYS(pidfd_getfd), {{0}}},
    {SCMP_SYS(kcmp), {{0}}},
    {SCMP_SYS(perf_event_open), {{0}}},
    {SCMP_SYS(bpf), {{0}}},
    {SCMP_SYS(userfaultfd), {{0}}},
    {SCMP_SYS(io_uring_setup), {{0}}},
    {SCMP_SYS(io_uring_enter), {{0}}},
    {SCMP_SYS(io_uring_register), {{0}}},
    {SCMP_SYS(add_key), {{0}}},
    {SCMP_SYS(request_key), {{0}}},
    {SCMP_SYS(keyctl), {{0}}},
    {SCMP_SYS(init_module), {{0}}},
    {SCMP_SYS(finit_module), {{0}}},
    {SCMP_SYS(delete_module), {{0}}},
    {SCMP_SYS(kexec_load), {{0}}},
    {SCMP_SYS(kexec_file_load), {{0}}},
    {SCMP_SYS(reboot), {{0}}},
    {SCMP_SYS(swapon), {{0}}},
    {SCMP_SYS(swapoff), {{0}}},
    {SCMP_SYS(mount), {POLICY_HAS(3, MS_BIND)}},
    {SCMP_SYS(mount), {POLICY_HAS(3, MS_MOVE)}},
    {SCMP_SYS(mount), {POLICY_HAS(3, MS_REMOUNT)}},
    {SCMP_SYS(mount), {POLICY_HAS(3, MS_SHARED)}},
    {SCMP_SYS(move_mount), {{0}}},
    {SCMP_SYS(open_tree), {{0}}},
    {SCMP_SYS(fsopen), {{0}}},
    {SCMP_SYS(fsmount), {{0}}},
    {SCMP_SYS(fsconfig), {{0}}},
    {SCMP_SYS(fspick), {{0}}},
    {SCMP_SYS(mount_setattr), {{0}}},
    {SCMP_SYS(chroot), {{0}}},
    {SCMP_SYS(setns), {{0}}},
    {SCMP_SYS(unshare), {POLICY_HAS(0, CLONE_NEWPID)}},
    {SCMP_SYS(unshare), {POLICY_HAS(0, CLONE_NEWTIME)}},
    {SCMP_SYS(open_by_handle_at), {{0}}},
    {SCMP_SYS(name_to_handle_at), {{0}}},
    {SCMP_SYS(fanotify_init), {{0}}},
    {SCMP_SYS(acct), {{0}}},
    {SCMP_SYS(quotactl), {{0}}},
    {SCMP_SYS(syslog), {{0}}},
    {SCMP_SYS(vhangup), {{0}}},
    {SCMP_SYS(personality), {{0}}},
    {SCMP_SYS(modify_ldt), {{0}}},
    {SCMP_SYS(iopl), {{0}}},
    {SCMP_SYS(ioperm), {{0}}},
    {SCMP_SYS(sethostname), {{0}}},
    {SCMP_SYS(setdomainname), {{0}}},
    {SCMP_SYS(settimeofday), {{0}}},
    {SCMP_SYS(clock_settime), {{0}}},
    {SCMP_SYS(clock_adjtime), {{0}}},
    {SCMP_SYS(adjtimex), {{0}}},
    {SCMP_SYS(mknod), {{0}}},
    {SCMP_SYS(mknodat), {{0}}},
};

#define LIST(n, a)             .calls[n] = (a), .call_counts[n] = COUNT(a)
#define LISTS_1(a)             LIST(0, a)
#define LISTS_3(a, b, c)       LISTS_1(a), LIST(1, b), LIST(2, c)
#define LISTS_4(a, b, c, d)    LISTS_3(a, b, c), LIST(3, d)
#define LISTS_5(a, b, c, d, e) LISTS_4(a, b, c, d), LIST(4, e)

/* The supervisor, if it is root, opens files whoever owns them, makes sockets and directories for
 * others, binds low ports, and starts processes that give up uid, capabilities and namespaces. */
#define CAP(name) (UINT64_C(1) << CAP_##name)
#define SUPERVISOR_CAPABILITIES                                                                    \
    (CAP(CHOWN) | CAP(DAC_OVERRIDE) | CAP(DAC_READ_SEARCH) | CAP(FOWNER) | CAP(KILL) |             \
     CAP(SETGID) | CAP(SETUID) | CAP(SETPCAP) | CAP(NET_BIND_SERVICE) | CAP(IPC_LOCK) |            \
     CAP(SYS_ADMIN) | CAP(SYS_RESOURCE) | CAP(SYS_NICE))

#define SEALED                                                                                     \
    (POLICY_LANDLOCK_FILES | POLICY_LANDLOCK_NETWORK | POLICY_LANDLOCK_SIGNALS |                   \
     POLICY_LANDLOCK_ABSTRACT)

static const struct policy_row rows[] = {
    [SANDBOX_SUPERVISOR] = {.name = "supervisor",
                            .capabilities = SUPERVISOR_CAPABILITIES,
                            .landlock = POLICY_LANDLOCK_SIGNALS, /* the roles are inside */
                            .files = POLICY_UNLIMITED,
                            .children = POLICY_KEEP,
                            .memory = POLICY_KEEP,
                            .locked = POLICY_KEEP,
                            .filter = POLICY_DENY_LIST,
                            LISTS_1(supervisor_denied)},
    [SANDBOX_LOADER] = {.name = "loader",
                        .drops_root = true,
                        .isolated = true,
                        .landlock = SEALED,
                        .no_new_code = true,
                        .files = 64,
                        .memory = 4 * GIB,
                        .locked = 1 * GIB,
                        .filter = POLICY_ALLOW_LIST,
                        LISTS_4(base_calls, parser_calls, shared_calls, loader_calls)},
    [SANDBOX_KEEPER] = {.name = "keeper",
                        .drops_root = true,
                        .isolated = true,
                        .landlock = SEALED,
                        .no_new_code = true,
                        .no_speculation = true,
                        .files = 16,
                        .memory = 2 * GIB,
                        .locked = 1 * GIB,
                        .filter = POLICY_ALLOW_LIST,
                        LISTS_3(base_calls, shared_calls, keeper_calls)},
    [SANDBOX_HANDSHAKER] = {.name = "handshaker",
                            .drops_root = true,
                            .isolated = true,
                            .landlock = SEALED,
                            .no_new_code = true,
                            .files = 131072,
                            .memory = 16 * GIB,
                            .locked = POLICY_KEEP,
                            .filter = POLICY_ALLOW_LIST,
                            LISTS_5(base_calls, parser_calls, shared_calls, stream_calls,
                                    handshaker_calls)},
    /* One channel to each handshaker. */
    [SANDBOX_FETCHER] = {.name = "fetcher",
                         .drops_root = true,
                         .isolated = true,
                         .landlock = SEALED,
                         .no_new_code = true,
                         .files = 32768,
                         .memory = 1 * GIB,
                         .locked = POLICY_KEEP,
                         .filter = POLICY_ALLOW_LIST,
                         LISTS_3(base_calls, parser_calls, fetcher_calls)},
    /* On the worker's side: never started by root's supervisor, so it keeps its worker's uid. */
    [SANDBOX_RELAY] = {.name = "relay",
                       .isolated = true,
                       .landlock = SEALED,
                       .no_new_code = true,
                       .files = 131072,
                       .memory = 2 * GIB,
                       .locked = POLICY_KEEP,
                       .filter = POLICY_ALLOW_LIST,
                       LISTS_4(base_calls, parser_calls, stream_calls, relay_calls)},
};

const struct policy_row *
policy_find(enum sandbox_role role)
{
    return (size_t)role < COUNT(rows) ? &rows[role] : NULL;
}
