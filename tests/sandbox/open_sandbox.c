/*
 * open_sandbox.c: the agent without any sandbox, for one measurement (tests/e2e/sandbox_cost.py).
 *
 * Linked with --wrap into a tlsagentd of its own under build/tests. The product has no such switch.
 */
#include "sandbox/sandbox.h"

int __wrap_sandbox_enter(enum sandbox_role role, uid_t uid, gid_t gid, pid_t parent,
                         struct error *error);

int
__wrap_sandbox_enter(enum sandbox_role role, uid_t uid, gid_t gid, pid_t parent,
                     struct error *error)
{
    (void)role;
    (void)uid;
    (void)gid;
    (void)parent;
    (void)error;
    return 0;
}
