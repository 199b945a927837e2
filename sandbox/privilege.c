/*
 * privilege.c: capabilities, securebits and the uid; see policy.h.
 *
 * SECBIT_NO_SETUID_FIXUP is locked before the uid changes, because after it we may not; it makes
 * setresuid() keep every capability, so the sets are emptied by hand and read back.
 */
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox/policy.h"

int
privilege_bound(const struct policy_row *row, struct error *error)
{
    for (unsigned long cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++) {
        if (cap < 64 && (row->capabilities >> cap & 1) != 0)
            continue;
        if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == -1) {
            /* A plain user; no_new_privs then sees to it that none can be had by an exec. */
            if (errno == EPERM && geteuid() != 0)
                return 0;
            return error_set(error, "cannot drop capability %lu from the bounding set: %s", cap,
                             strerror(errno));
        }
    }
    return 0;
}

int
privilege_lock(struct error *error)
{
    const unsigned long bits =
        (SECURE_ALL_BITS & ~issecure_mask(SECURE_KEEP_CAPS)) | SECURE_ALL_LOCKS;

    if (prctl(PR_SET_SECUREBITS, bits, 0, 0, 0) == 0)
        return 0;
    return error_set(error, "securebits: %s", strerror(errno));
}

int
privilege_become(const struct policy_row *row, uid_t uid, gid_t gid, struct error *error)
{
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
    return 0;
}

/* No way back to another uid. */
static int
check_ids(struct error *error)
{
    uid_t uid, effective, saved;
    gid_t gid, effective_group, saved_group;

    if (getresuid(&uid, &effective, &saved) == -1 || effective != uid || saved != uid ||
        getresgid(&gid, &effective_group, &saved_group) == -1 || effective_group != gid ||
        saved_group != gid || (uid != 0 && setuid(0) == 0))
        return error_set(error, "uid %u could not be taken for good", (unsigned)uid);
    return 0;
}

int
privilege_drop(const struct policy_row *row, struct error *error)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];

    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) == -1)
        return error_set(error, "cannot clear ambient capabilities: %s", strerror(errno));
    if (syscall(SYS_capget, &header, sets) == -1)
        return error_set(error, "capget: %s", strerror(errno));
    for (size_t i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
        uint32_t kept = (uint32_t)(row->capabilities >> 32 * i);

        sets[i].permitted &= kept;
        sets[i].effective &= kept;
        sets[i].inheritable = 0;
    }
    if (syscall(SYS_capset, &header, sets) == -1)
        return error_set(error, "capset: %s", strerror(errno));
    /* What counts is what the kernel says. */
    memset(sets, 0xff, sizeof(sets));
    if (syscall(SYS_capget, &header, sets) == -1)
        return error_set(error, "capget: %s", strerror(errno));
    for (size_t i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
        uint32_t kept = (uint32_t)(row->capabilities >> 32 * i);

        if (((sets[i].effective | sets[i].permitted) & ~kept) != 0 || sets[i].inheritable != 0)
            return error_set(error, "capabilities are left after capset");
    }
    return row->drops_root ? check_ids(error) : 0;
}
