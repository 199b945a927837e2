/*
 * sandbox.c: the one fixed order in which a role gives up what it does not need; see sandbox.h.
 *
 * The order matters: capabilities can be taken out of reach only while one has CAP_SETPCAP, so
 * before the uid changes; setresuid() clears the parent-death signal and execve() makes a process
 * dumpable again, so both are set after; seccomp comes last because everything before needs calls
 * that it forbids.
 */
#include "sandbox/sandbox.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox/policy.h"

/* Take every capability out of the bounding set. Without CAP_SETPCAP (a plain user) that is
 * refused; no_new_privs then sees to it that none can be had by an exec. */
static int
drop_bounding_set(struct error *error)
{
    for (unsigned long cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++) {
        if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == -1) {
            if (errno == EPERM && geteuid() != 0)
                return 0;
            return error_set(error, "cannot drop capability %lu from the bounding set: %s", cap,
                             strerror(errno));
        }
    }
    return 0;
}

/* Become uid and gid for good, if we are root. */
static int
drop_root(const struct policy_row *row, uid_t uid, gid_t gid, struct error *error)
{
    uid_t real, effective, saved;

    if (geteuid() != 0)
        return 0;
    if (uid == 0 || gid == 0)
        return error_set(error,
                         "the %s must not stay root: set `user` to an unprivileged user with a "
                         "group of its own",
                         row->name);
    if (setgroups(0, NULL) == -1)
        return error_set(error, "setgroups: %s", strerror(errno));
    if (setresgid(gid, gid, gid) == -1)
        return error_set(error, "setresgid(%u): %s", (unsigned)gid, strerror(errno));
    if (setresuid(uid, uid, uid) == -1)
        return error_set(error, "setresuid(%u): %s", (unsigned)uid, strerror(errno));
    if (getresuid(&real, &effective, &saved) == -1 || real != uid || effective != uid ||
        saved != uid || setuid(0) == 0)
        return error_set(error, "uid %u could not be taken for good", (unsigned)uid);
    return 0;
}

/* Empty all capability sets and read them back: what counts is what the kernel says. */
static int
drop_capabilities(struct error *error)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];

    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) == -1)
        return error_set(error, "cannot clear ambient capabilities: %s", strerror(errno));
    memset(sets, 0, sizeof(sets));
    if (syscall(SYS_capset, &header, sets) == -1)
        return error_set(error, "capset: %s", strerror(errno));
    memset(sets, 0xff, sizeof(sets));
    if (syscall(SYS_capget, &header, sets) == -1)
        return error_set(error, "capget: %s", strerror(errno));
    for (size_t i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
        if ((sets[i].effective | sets[i].permitted | sets[i].inheritable) != 0)
            return error_set(error, "capabilities are left after capset");
    }
    return 0;
}

/* Nobody of the same uid may look into us, and we do not outlive our parent. */
static int
close_to_others(pid_t parent, struct error *error)
{
#ifndef SANITIZED /* the leak checker traces its own process */
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == -1 || prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0)
        return error_set(error, "cannot become non-dumpable: %s", strerror(errno));
#endif
    if (parent == 0)
        return 0;
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == -1)
        return error_set(error, "cannot set the parent-death signal: %s", strerror(errno));
    if (getppid() != parent)
        return error_set(error, "the supervisor (pid %d) is gone", (int)parent);
    return 0;
}

int
sandbox_enter(enum sandbox_role role, uid_t uid, gid_t gid, pid_t parent, struct error *error)
{
    const struct policy_row *row = policy_find(role);

    if (row == NULL)
        return error_set(error, "no sandbox policy for role %d", (int)role);
    if (limits_raise(row, error) == -1)
        return -1;
    if (row->drops_root &&
        (drop_bounding_set(error) == -1 || drop_root(row, uid, gid, error) == -1))
        return -1;
    if (role != SANDBOX_SUPERVISOR && drop_capabilities(error) == -1)
        return -1;
    if (limits_set(row, error) == -1 || close_to_others(parent, error) == -1)
        return -1;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == -1)
        return error_set(error, "cannot set no_new_privs: %s", strerror(errno));
#ifdef SANITIZED
    if (role == SANDBOX_SUPERVISOR) {
        static const char text[] = "SANDBOX OFF: built with a sanitizer, not for use\n";

        if (write(STDERR_FILENO, text, sizeof(text) - 1) == -1)
            return error_set(error, "cannot write to stderr: %s", strerror(errno));
    }
    return 0;
#else
    return seccomp_enter(row, error);
#endif
}
