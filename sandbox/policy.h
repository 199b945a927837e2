/*
 * policy.h: the form of the table in policy.c; private to sandbox/.
 */
#ifndef SANDBOX_POLICY_H
#define SANDBOX_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sandbox/sandbox.h"

#define POLICY_CHECKS_MAX 2

/* What must be true of one argument of a call: (argument & mask) == value. libseccomp compares 64
 * bits; only masked equality is used (other comparisons were once miscompiled). mask 0: no check.
 */
struct policy_check {
    uint8_t argument;
    uint64_t mask;
    uint64_t value;
};

#define POLICY_OWN_PID UINT64_C(0x6f776e20706964) /* as a value: our own pid */

/* An int: the kernel looks at its lower half only, and so do we. */
#define POLICY_IS(argument, value)                                                                 \
    {                                                                                              \
        (argument), 0xffffffffu, (uint64_t)(value)                                                 \
    }
/* A pointer that must be NULL. */
#define POLICY_NULL(argument)                                                                      \
    {                                                                                              \
        (argument), UINT64_MAX, 0                                                                  \
    }
/* Flags, of which only these may be set; and one flag that is set. */
#define POLICY_ONLY(argument, flags)                                                               \
    {                                                                                              \
        (argument), ~(uint64_t)(flags), 0                                                          \
    }
#define POLICY_HAS(argument, flag)                                                                 \
    {                                                                                              \
        (argument), (uint64_t)(flag), (uint64_t)(flag)                                             \
    }

struct policy_call {
    int number;                                    /* SCMP_SYS(name) */
    struct policy_check checks[POLICY_CHECKS_MAX]; /* all must hold */
};

enum policy_filter {
    POLICY_ALLOW_LIST, /* the calls are allowed, all others kill the process */
    POLICY_DENY_LIST,  /* the calls kill the process, all others are allowed */
};

/* What landlock denies, beyond the mandatory layers. */
enum policy_landlock {
    POLICY_LANDLOCK_FILES = 1,    /* every file by name */
    POLICY_LANDLOCK_NETWORK = 2,  /* bind and connect of TCP */
    POLICY_LANDLOCK_SIGNALS = 4,  /* to processes outside */
    POLICY_LANDLOCK_ABSTRACT = 8, /* connecting to abstract sockets made outside */
};

#define POLICY_KEEP      UINT64_MAX /* leave the limit as it is */
#define POLICY_LIST_MAX  5
#define POLICY_UNLIMITED (UINT64_MAX - 1)

struct policy_row {
    const char *name;
    bool drops_root;       /* another uid when started as root */
    uint64_t capabilities; /* that may be kept, a bit each; also the bounding set */
    bool isolated;         /* namespaces of its own, with an empty root */
    unsigned landlock;     /* enum policy_landlock, or-ed */
    bool no_new_code;      /* memory-deny-write-execute */
    bool no_speculation;   /* the CPU's speculation is held back where that can be asked for */
    uint64_t files;        /* RLIMIT_NOFILE: at most this many */
    uint64_t children;     /* RLIMIT_NPROC */
    uint64_t memory;       /* RLIMIT_AS, bytes */
    uint64_t locked;       /* RLIMIT_MEMLOCK, bytes: raised to this where we may */
    enum policy_filter filter;
    const struct policy_call *calls[POLICY_LIST_MAX]; /* lists; NULL: none */
    size_t call_counts[POLICY_LIST_MAX];
};

/* Calls that a newer library may make and can live without: ENOSYS instead of death, for the roles
 * with an allow-list. */
extern const int policy_harmless[];
extern const size_t policy_harmless_count;

/* The row of a role, NULL if there is no such role. */
const struct policy_row *policy_find(enum sandbox_role role);

/* Each layer returns 0, or -1 with an error. */

/* limits.c: set the row's rlimits; core dumps are off for all. Must come before the uid is given
 * up (limits are raised) for the first, after it for the second (a limit of processes does
 * not bind root). */
int limits_raise(const struct policy_row *row, struct error *error);
int limits_set(const struct policy_row *row, struct error *error);

/* privilege.c: capabilities, securebits, uid. The bounding set first, as it takes a capability. */
int privilege_bound(const struct policy_row *row, struct error *error);
int privilege_lock(struct error *error); /* securebits; only where we may: see there */
int privilege_become(const struct policy_row *row, uid_t uid, gid_t gid, struct error *error);
int privilege_drop(const struct policy_row *row, struct error *error);

/* namespace.c: mount, net, ipc, uts and (if the kernel has it) cgroup namespaces of our own, in a
 * user namespace if we may not otherwise, and an empty read-only root. In one try: what was begun
 * and failed is no layer, and does no harm. */
int namespace_enter(struct error *error);

/* landlock.c: deny what the row says, as far as this kernel knows it. *in_force: enum
 * policy_landlock, or-ed. An error if the kernel has no landlock, or the probe that follows shows
 * that it does not hold. */
int landlock_enter(unsigned denied, unsigned *in_force, struct error *error);

/* hardening.c */
int hardening_no_new_code(struct error *error);    /* PR_SET_MDWE */
int hardening_no_speculation(struct error *error); /* PR_SET_SPECULATION_CTRL */

/* seccomp.c: build the row's filter and load it. */
int seccomp_enter(const struct policy_row *row, struct error *error);

#endif
