/*
 * seccomp.c: a role's filter of system calls, from its row in policy.c; see policy.h.
 *
 * What is not allowed kills the whole process: a role that asks for something outside its row has
 * been taken over or is wrong, and the supervisor replaces it.
 */
#include <errno.h>
#include <seccomp.h>
#include <string.h>
#include <unistd.h>

#include "sandbox/policy.h"

/* The rule of one entry of a list. Returns 0 or a negative errno, as libseccomp does. */
static int
add_call(scmp_filter_ctx filter, uint32_t action, const struct policy_call *call)
{
    struct scmp_arg_cmp conditions[POLICY_CHECKS_MAX];
    unsigned count = 0;

    for (size_t i = 0; i < POLICY_CHECKS_MAX; i++) {
        const struct policy_check *check = &call->checks[i];
        uint64_t value = check->value == POLICY_OWN_PID ? (uint64_t)getpid() : check->value;

        if (check->mask != 0)
            conditions[count++] = (struct scmp_arg_cmp){.arg = check->argument,
                                                        .op = SCMP_CMP_MASKED_EQ,
                                                        .datum_a = check->mask,
                                                        .datum_b = value};
    }
    return seccomp_rule_add_array(filter, action, call->number, count, conditions);
}

/* Calls that this architecture does not have are no error: their numbers are negative. */
static int
add_harmless(scmp_filter_ctx filter)
{
    int result = 0;

    for (size_t i = 0; i < policy_harmless_count && result == 0; i++) {
        if (policy_harmless[i] >= 0)
            result =
                seccomp_rule_add_array(filter, SCMP_ACT_ERRNO(ENOSYS), policy_harmless[i], 0, NULL);
    }
    return result;
}

static int
build(scmp_filter_ctx filter, const struct policy_row *row)
{
    uint32_t action = row->filter == POLICY_ALLOW_LIST ? SCMP_ACT_ALLOW : SCMP_ACT_KILL_PROCESS;
    int result = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);

    /* A binary tree instead of a chain: the handshaker makes many calls. Older libraries lack it.
     */
    (void)seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    for (size_t list = 0; list < POLICY_LIST_MAX && result == 0; list++) {
        for (size_t i = 0; i < row->call_counts[list] && result == 0; i++)
            result = add_call(filter, action, &row->calls[list][i]);
    }
    if (result == 0 && row->filter == POLICY_ALLOW_LIST)
        result = add_harmless(filter);
    return result;
}

int
seccomp_enter(const struct policy_row *row, struct error *error)
{
    scmp_filter_ctx filter =
        seccomp_init(row->filter == POLICY_ALLOW_LIST ? SCMP_ACT_KILL_PROCESS : SCMP_ACT_ALLOW);
    int result = -ENOMEM;

    if (filter != NULL) {
        result = build(filter, row);
        if (result == 0)
            result = seccomp_load(filter);
        seccomp_release(filter);
    }
    if (result != 0)
        return error_set(error,
                         "seccomp filter of the %s: %s (a kernel with CONFIG_SECCOMP_FILTER is "
                         "needed)",
                         row->name, strerror(-result));
    return 0;
}
