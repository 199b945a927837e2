/*
 * sandbox.h: give up everything that a role does not need.
 *
 * Called by each role after it has its fds and before it handles the first byte from outside. What
 * is given up is a table, one row per role, in policy.c. It cannot be undone, and nothing in the
 * environment or the configuration can leave it out.
 */
#ifndef SANDBOX_SANDBOX_H
#define SANDBOX_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "protocol/error.h"

enum sandbox_role {
    SANDBOX_SUPERVISOR,
    SANDBOX_LOADER,
    SANDBOX_KEEPER,
    SANDBOX_HANDSHAKER,
    SANDBOX_RELAY,
    SANDBOX_FETCHER,
};

/* Layers that are used where the kernel offers them; the configuration may require them. The bits
 * are part of the agent's protocols. */
enum sandbox_layer {
    SANDBOX_NAMESPACES = 1,       /* mount with an empty root, net, ipc, uts */
    SANDBOX_LANDLOCK = 2,         /* files */
    SANDBOX_LANDLOCK_NETWORK = 4, /* bind and connect of TCP (Linux 6.7) */
    SANDBOX_LANDLOCK_SCOPES = 8,  /* signals, abstract sockets (Linux 6.12) */
    SANDBOX_MDWE = 16,            /* no memory becomes executable (Linux 6.3) */
    SANDBOX_SPECULATION = 32,     /* held back by the CPU, or nothing to hold back */
    SANDBOX_MEMFD_SECRET = 64,    /* memory for keys that not even root reads */
    SANDBOX_LAYERS_ALL = 127,
};

#define SANDBOX_LAYER_COUNT 7

/* Enter the role's sandbox, in one fixed order: namespaces, bounding set, uid and gid (only if
 * started as root), no capabilities, rlimits, not dumpable, parent-death signal, no_new_privs,
 * memory-deny-write-execute, speculation, landlock, seccomp last. A mandatory layer that cannot be
 * had is an error, and so is one of those that sandbox_require() named. parent: the pid that must
 * still be our parent (checked after the parent-death signal is set), 0: do not check, and ask for
 * no such signal. The supervisor keeps its uid and those capabilities that it needs to start the
 * others.
 *
 * Built with a sanitizer, what its runtime cannot live with is left out (seccomp, not dumpable,
 * the layers above, limits of processes and of address space), and the supervisor prints
 * "SANDBOX OFF" to stderr. Returns 0, or -1 with an error. */
int sandbox_enter(enum sandbox_role role, uid_t uid, gid_t gid, pid_t parent, struct error *error);

/* Before sandbox_enter(): these layers (enum sandbox_layer, or-ed) are mandatory for this process,
 * as far as its role has them. */
void sandbox_require(unsigned layers);

/* After it: the layers in force, each as its own probe says; and those of the role's row that are
 * not, with their reasons ("landlock (Function not implemented), ..."; "" if there are none). */
unsigned sandbox_in_force(void);
const char *sandbox_missing(void);

/* The layers that a role's row asks for. */
unsigned sandbox_wanted(enum sandbox_role role);

/* The word for a layer, in the order of the bits: "landlock". NULL after the last. And back: the
 * layer, or 0 if there is none of this name. */
const char *sandbox_layer_name(size_t number);
unsigned sandbox_layer_find(const char *name);

/* Try the strictest role's sandbox in a child: what is in force there, and what is missing. For the
 * supervisor, before its own. Returns 0, or -1 with the error that a role would die of. */
struct sandbox_trial {
    unsigned in_force;
    char missing[400];
};
int sandbox_try(uid_t uid, gid_t gid, struct sandbox_trial *trial, struct error *error);

#endif
