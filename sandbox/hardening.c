/* hardening.c: properties of our own memory and of the CPU while it runs us; see policy.h. */
#include <errno.h>
#include <string.h>
#include <sys/prctl.h>

#include "sandbox/policy.h"

/* Of newer headers than we are built with (include/uapi/linux/prctl.h). */
#ifndef PR_SET_MDWE
#define PR_SET_MDWE              65
#define PR_GET_MDWE              66
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#endif

int
hardening_no_new_code(struct error *error)
{
    int set;

    if (prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) == -1)
        return error_set(error, "%s", strerror(errno));
    set = prctl(PR_GET_MDWE, 0, 0, 0, 0);
    return set == PR_MDWE_REFUSE_EXEC_GAIN
               ? 0
               : error_set(error, "is not in force though the kernel accepted it");
}

/* One kind of speculation: good if the CPU has no such fault, or it is switched off for us. */
static int
hold_back(unsigned long kind, const char *name, struct error *error)
{
    int state = prctl(PR_GET_SPECULATION_CTRL, kind, 0, 0, 0);

    if (state == -1)
        return error_set(error, "%s: %s", name, strerror(errno));
    if (state == PR_SPEC_NOT_AFFECTED || (state & (PR_SPEC_DISABLE | PR_SPEC_FORCE_DISABLE)) != 0)
        return 0;
    if ((state & PR_SPEC_PRCTL) == 0)
        return error_set(error, "%s: no control per process", name);
    if (prctl(PR_SET_SPECULATION_CTRL, kind, PR_SPEC_FORCE_DISABLE, 0, 0) == -1)
        return error_set(error, "%s: %s", name, strerror(errno));
    return 0;
}

int
hardening_no_speculation(struct error *error)
{
    struct error second = {""};
    int first = hold_back(PR_SPEC_STORE_BYPASS, "store bypass", error);

    /* One that cannot be had is no reason to leave the other out. */
    if (hold_back(PR_SPEC_INDIRECT_BRANCH, "indirect branch", &second) == -1 && first == 0)
        return error_set(error, "%s", second.text);
    return first;
}
