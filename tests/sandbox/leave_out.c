/*
 * leave_out.c: the sandbox without some of its layers, by --wrap; see attacks.h.
 *
 * The product has no such switch: these functions are in the test programs only.
 */
#include <linux/prctl.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "sandbox/policy.h"
#include "tests/sandbox/attacks.h"

unsigned left_out;
static bool entering; /* the attacks call setrlimit() and prctl() too */

/* A layer that is a function of its row: left out, it says that it succeeded. */
#define WRAP_ROW(function, layer)                                                                  \
    int __real_##function(const struct policy_row *row, struct error *error);                      \
    int __wrap_##function(const struct policy_row *row, struct error *error);                      \
    int __wrap_##function(const struct policy_row *row, struct error *error)                       \
    {                                                                                              \
        return (left_out & (layer)) != 0 ? 0 : __real_##function(row, error);                      \
    }
WRAP_ROW(seccomp_enter, LAYER_SECCOMP)
WRAP_ROW(privilege_bound, LAYER_BOUNDING)
WRAP_ROW(privilege_drop, LAYER_CAPABILITIES)

/* One that the kernel may not offer: left out, it says so. */
#define WRAP_PLAIN(function, layer, result)                                                        \
    int __real_##function(struct error *error);                                                    \
    int __wrap_##function(struct error *error);                                                    \
    int __wrap_##function(struct error *error)                                                     \
    {                                                                                              \
        return (left_out & (layer)) != 0 ? (result) : __real_##function(error);                    \
    }
WRAP_PLAIN(privilege_lock, LAYER_SECUREBITS, 0)
WRAP_PLAIN(namespace_enter, LAYER_NAMESPACES, error_set(error, "left out"))
WRAP_PLAIN(hardening_no_new_code, LAYER_MDWE, error_set(error, "left out"))
WRAP_PLAIN(hardening_no_speculation, LAYER_SPECULATION, error_set(error, "left out"))

int __real_privilege_become(const struct policy_row *row, uid_t uid, gid_t gid,
                            struct error *error);
int __wrap_privilege_become(const struct policy_row *row, uid_t uid, gid_t gid,
                            struct error *error);
int
__wrap_privilege_become(const struct policy_row *row, uid_t uid, gid_t gid, struct error *error)
{
    return (left_out & LAYER_USER) != 0 ? 0 : __real_privilege_become(row, uid, gid, error);
}

int __real_landlock_enter(unsigned denied, unsigned *in_force, struct error *error);
int __wrap_landlock_enter(unsigned denied, unsigned *in_force, struct error *error);
int
__wrap_landlock_enter(unsigned denied, unsigned *in_force, struct error *error)
{
    if ((left_out & LAYER_FILES) != 0)
        denied &= ~(unsigned)POLICY_LANDLOCK_FILES;
    if ((left_out & LAYER_NETWORK) != 0)
        denied &= ~(unsigned)POLICY_LANDLOCK_NETWORK;
    if ((left_out & LAYER_SIGNALS) != 0)
        denied &= ~(unsigned)POLICY_LANDLOCK_SIGNALS;
    if ((left_out & LAYER_ABSTRACT) != 0)
        denied &= ~(unsigned)POLICY_LANDLOCK_ABSTRACT;
    *in_force = 0;
    return denied == 0 ? error_set(error, "left out")
                       : __real_landlock_enter(denied, in_force, error);
}

/* The declarations of libc's own: their types are its. */
int __real_setrlimit(__rlimit_resource_t resource, const struct rlimit *limit);
int __wrap_setrlimit(__rlimit_resource_t resource, const struct rlimit *limit);
int
__wrap_setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
    unsigned layer = resource == RLIMIT_CORE     ? LAYER_LIMIT_CORE
                     : resource == RLIMIT_NOFILE ? LAYER_LIMIT_FILES
                     : resource == RLIMIT_NPROC  ? LAYER_LIMIT_PROCESSES
                     : resource == RLIMIT_AS     ? LAYER_LIMIT_MEMORY
                                                 : 0;

    return entering && (left_out & layer) != 0 ? 0 : __real_setrlimit(resource, limit);
}

int __real_prctl(int option, ...);
int __wrap_prctl(int option, ...);
int
__wrap_prctl(int option, ...)
{
    unsigned long values[4];
    va_list list;

    va_start(list, option);
    for (size_t i = 0; i < 4; i++)
        values[i] = va_arg(list, unsigned long); /* the callers pass all; see prctl(2) */
    va_end(list);
    if (entering && option == PR_SET_NO_NEW_PRIVS && (left_out & LAYER_NO_NEW_PRIVS) != 0)
        return 0;
    if (entering && option == PR_SET_PDEATHSIG && (left_out & LAYER_PARENT_DEATH) != 0)
        return 0;
    if (entering && (left_out & LAYER_NOT_DUMPABLE) != 0) {
        if (option == PR_SET_DUMPABLE)
            values[0] = 1;
        else if (option == PR_GET_DUMPABLE)
            return 0;
    }
    return __real_prctl(option, values[0], values[1], values[2], values[3]);
}

int
leave_out_enter(int role, pid_t parent, struct error *error)
{
    int result;

    entering = true;
    result = sandbox_enter(roles[role], SOME_UID, SOME_GID, parent, error);
    entering = false;
    return result;
}
