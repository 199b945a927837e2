/* limits.c: a role's rlimits, from its row in policy.c; see policy.h. */
#include <errno.h>
#include <string.h>
#include <sys/resource.h>

#include "sandbox/policy.h"

/* Lower (never raise) both limits to at most value. */
static int
lower(int resource, const char *name, uint64_t value, struct error *error)
{
    struct rlimit limit;

    if (getrlimit(resource, &limit) == -1)
        return error_set(error, "getrlimit(%s): %s", name, strerror(errno));
    if (limit.rlim_max > value)
        limit.rlim_max = (rlim_t)value;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(resource, &limit) == -1)
        return error_set(error, "setrlimit(%s): %s", name, strerror(errno));
    return 0;
}

int
limits_raise(const struct policy_row *row, struct error *error)
{
    struct rlimit limit;

    if (row->locked == POLICY_KEEP)
        return 0;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == -1)
        return error_set(error, "getrlimit(MEMLOCK): %s", strerror(errno));
    if (limit.rlim_max < row->locked) {
        struct rlimit raised = {(rlim_t)row->locked, (rlim_t)row->locked};

        if (setrlimit(RLIMIT_MEMLOCK, &raised) == 0)
            return 0;
    }
    /* A plain user may go up to the hard limit; what does not fit then is told by whoever maps. */
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_MEMLOCK, &limit) == -1)
        return error_set(error, "setrlimit(MEMLOCK): %s", strerror(errno));
    return 0;
}

int
limits_set(const struct policy_row *row, struct error *error)
{
    if (lower(RLIMIT_CORE, "CORE", 0, error) == -1)
        return -1;
    if (row->files != POLICY_KEEP && lower(RLIMIT_NOFILE, "NOFILE", row->files, error) == -1)
        return -1;
#ifndef SANITIZED /* the shadow memory is terabytes; the leak checker starts a process */
    if (row->children != POLICY_KEEP && lower(RLIMIT_NPROC, "NPROC", row->children, error) == -1)
        return -1;
    if (row->memory != POLICY_KEEP && lower(RLIMIT_AS, "AS", row->memory, error) == -1)
        return -1;
#endif
    return 0;
}
