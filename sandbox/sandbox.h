/*
 * sandbox.h: give up everything that a role does not need.
 *
 * Called by each role after it has its fds and before it handles the first byte from outside. What
 * is given up is a table, one row per role, in policy.c. It cannot be undone, and nothing in the
 * environment or the configuration can leave it out.
 */
#ifndef SANDBOX_SANDBOX_H
#define SANDBOX_SANDBOX_H

#include <sys/types.h>

#include "protocol/error.h"

enum sandbox_role {
    SANDBOX_SUPERVISOR,
    SANDBOX_LOADER,
    SANDBOX_KEEPER,
    SANDBOX_HANDSHAKER,
    SANDBOX_RELAY,
};

/* Enter the role's sandbox, in one fixed order: no capabilities to be had, uid and gid (only if
 * started as root), no capabilities, rlimits, not dumpable, parent-death signal, no_new_privs,
 * seccomp last. The mandatory layers that cannot be had are an error. parent: the pid that must
 * still be our parent (checked after the parent-death signal is set), 0: do not check, and ask for
 * no such signal. The supervisor keeps its uid and its capabilities: it starts the others.
 *
 * Built with a sanitizer, what its runtime cannot live with is left out (seccomp, not dumpable,
 * limits of processes and of address space), and the supervisor prints "SANDBOX OFF" to stderr.
 * Returns 0, or -1 with an error. */
int sandbox_enter(enum sandbox_role role, uid_t uid, gid_t gid, pid_t parent, struct error *error);

#endif
