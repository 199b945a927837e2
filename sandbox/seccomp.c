/*
 * seccomp.c: a role's filter of system calls, from its row in policy.c; see policy.h.
 *
 * What is not allowed kills the whole process: a role that asks for something outside its row has
 * been taken over or is wrong, and the supervisor replaces it.
 */
#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sandbox/policy.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* One rule; count conditions on the arguments, all of which must hold. */
static int
add(scmp_filter_ctx filter, uint32_t action, int call, unsigned count,
    const struct scmp_arg_cmp *conditions)
{
    return seccomp_rule_add_array(filter, action, call, count, conditions);
}

/* The rules of one entry of a list. Returns 0 or a negative errno, as libseccomp does. */
static int
add_call(scmp_filter_ctx filter, uint32_t action, const struct policy_call *call)
{
    static const int fcntl_reads[] = {F_GETFD, F_GETFL, F_GET_SEALS};
    struct scmp_arg_cmp condition;
    int result;

    switch (call->condition) {
    case POLICY_ALWAYS:
        return add(filter, action, call->number, 0, NULL);
    case POLICY_NOT_EXECUTABLE:
        condition = SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0);
        return add(filter, action, call->number, 1, &condition);
    case POLICY_TO_LOG:
        condition = SCMP_A0(SCMP_CMP_EQ, STDERR_FILENO);
        return add(filter, action, call->number, 1, &condition);
    case POLICY_TO_SELF:
        condition = SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid());
        return add(filter, action, call->number, 1, &condition);
    case POLICY_FCNTL_READ:
        for (size_t i = 0; i < COUNT(fcntl_reads); i++) {
            condition = SCMP_A1(SCMP_CMP_EQ, (scmp_datum_t)fcntl_reads[i]);
            result = add(filter, action, call->number, 1, &condition);
            if (result < 0)
                return result;
        }
        return 0;
    case POLICY_BY_FD:
        condition = SCMP_A3(SCMP_CMP_EQ, AT_EMPTY_PATH);
        return add(filter, action, call->number, 1, &condition);
    case POLICY_READ_LIMIT:
        condition = SCMP_A2(SCMP_CMP_EQ, 0);
        return add(filter, action, call->number, 1, &condition);
    }
    return -EINVAL;
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
