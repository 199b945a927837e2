/*
 * sandbox.h: give up everything that a role does not need.
 *
 * Called by each role after it has its fds and before it handles the first byte from outside. What
 * is given up is a table, one row per role, in policy.c. It cannot be undone.
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

/* Enter the role's sandbox, in one fixed order: uid and gid (only if started as root), no
 * capabilities, rlimits, not dumpable, parent-death signal, no_new_privs, seccomp last. The
 * mandatory layers that cannot be had are an error. parent: the pid that must still be our parent
 * (checked after the parent-death signal is set), 0: do not check.
 * Built with a sanitizer, seccomp and address-space limits are left out and
 * "SANDBOX OFF" is printed once to stderr. Returns 0, or -1 with an error. */
int sandbox_enter(enum sandbox_role role, uid_t uid, gid_t gid, pid_t parent, struct error *error);

#endif
