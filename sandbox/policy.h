/*
 * policy.h: the form of the table in policy.c; private to sandbox/.
 */
#ifndef SANDBOX_POLICY_H
#define SANDBOX_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sandbox/sandbox.h"

/* What must be true of a call's arguments. libseccomp compares 64 bits; only equality and masked
 * equality are used (others were once miscompiled). */
enum policy_condition {
    POLICY_ALWAYS,
    POLICY_NOT_EXECUTABLE, /* argument 2 has no PROT_EXEC: mmap, mprotect */
    POLICY_TO_LOG,         /* argument 0 is fd 2: write */
    POLICY_TO_SELF,        /* argument 0 is our own pid: tgkill */
    POLICY_FCNTL_READ,     /* argument 1 is F_GETFD, F_GETFL or F_GET_SEALS: fcntl */
    POLICY_BY_FD,          /* argument 3 is AT_EMPTY_PATH: newfstatat, as fstat() calls it */
    POLICY_READ_LIMIT,     /* argument 2 is NULL: prlimit64, as getrlimit() calls it */
};

struct policy_call {
    int number; /* SCMP_SYS(name) */
    enum policy_condition condition;
};

enum policy_filter {
    POLICY_ALLOW_LIST, /* the calls are allowed, all others kill the process */
    POLICY_DENY_LIST,  /* the calls kill the process, all others are allowed */
};

#define POLICY_KEEP      UINT64_MAX /* leave the limit as it is */
#define POLICY_LIST_MAX  3
#define POLICY_UNLIMITED (UINT64_MAX - 1)

struct policy_row {
    const char *name;
    bool drops_root;   /* another uid when started as root; no capabilities */
    uint64_t files;    /* RLIMIT_NOFILE: at most this many */
    uint64_t children; /* RLIMIT_NPROC */
    uint64_t memory;   /* RLIMIT_AS, bytes */
    uint64_t locked;   /* RLIMIT_MEMLOCK, bytes: raised to this where we may */
    enum policy_filter filter;
    const struct policy_call *calls[POLICY_LIST_MAX]; /* lists; NULL: none */
    size_t call_counts[POLICY_LIST_MAX];
};

/* The row of a role, NULL if there is no such role. */
const struct policy_row *policy_find(enum sandbox_role role);

/* limits.c: set the row's rlimits; core dumps are off for all. Must come before the uid is given
 * up (limits are raised) for the first, after it for the second (a limit of processes does
 * not bind root). */
int limits_raise(const struct policy_row *row, struct error *error);
int limits_set(const struct policy_row *row, struct error *error);

/* seccomp.c: build the row's filter and load it. */
int seccomp_enter(const struct policy_row *row, struct error *error);

#endif
