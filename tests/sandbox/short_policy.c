/*
 * short_policy.c: an agent whose handshakers may not call getpid(), as if an update of libcrypto
 * had begun to need a call that is not in the table: the self-test must find it at start
 * (tests/e2e/sandbox.py). Linked with --wrap; the product has no such switch.
 */
#include <seccomp.h>

#include "sandbox/policy.h"

const struct policy_row *__real_policy_find(enum sandbox_role role);
const struct policy_row *__wrap_policy_find(enum sandbox_role role);

const struct policy_row *
__wrap_policy_find(enum sandbox_role role)
{
    static struct policy_call shorter[200];
    static struct policy_row row;
    const struct policy_row *real = __real_policy_find(role);

    if (role != SANDBOX_HANDSHAKER)
        return real;
    row = *real;
    row.call_counts[0] = 0;
    for (size_t i = 0; i < real->call_counts[0] && i < 200; i++) {
        if (real->calls[0][i].number != SCMP_SYS(getpid))
            shorter[row.call_counts[0]++] = real->calls[0][i];
    }
    row.calls[0] = shorter;
    return &row;
}
