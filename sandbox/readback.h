/*
 * readback.h: what is in force for a process, as the kernel tells, and how that differs from the
 * table in policy.c.
 *
 * Role: the command `tlsagent sandbox`, run by root or by the user that runs the agent. Trust: the
 * kernel is believed; what a process says about itself only adds to it where the kernel tells
 * nobody (landlock, MDWE).
 */
#ifndef SANDBOX_READBACK_H
#define SANDBOX_READBACK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "sandbox/sandbox.h"

enum readback_answer {
    READBACK_NO,
    READBACK_YES,
    READBACK_UNKNOWN, /* we may not look: only root with CAP_SYS_PTRACE may */
};

/* UINT64_MAX in a number: unlimited, or not told. */
struct readback {
    uint32_t uids[4]; /* real, effective, saved, of the file system */
    uint32_t gids[4];
    char groups[128]; /* supplementary, as the kernel prints them */
    uint64_t inheritable, permitted, effective, bounding, ambient; /* capabilities */
    uint64_t no_new_privs;
    uint64_t seccomp; /* 2: filter */
    uint64_t filters;
    char store_bypass[64], indirect_branch[64];
    uint64_t core, files, processes, memory, locked; /* hard limits */
    enum readback_answer dumpable;
    enum readback_answer namespaces; /* mnt, net, ipc and uts all differ from the reference's */
    bool user_namespace;             /* its uid map is not the reference's */
    char uid_map[64];                /* its first line */
    enum readback_answer empty_root; /* and read-only */
    enum readback_answer memfd_secret;
};

/* Read the facts of process pid; namespaces are compared with those of process reference. Returns
 * 0, or -1 with an error if it is gone. */
int readback_read(pid_t pid, pid_t reference, struct readback *facts, struct error *error);

/* What differs from the role's row, one text each. said: layers that the process says are in
 * force. required: layers that must be. root: the agent was started as root. Calls tell for each
 * difference; returns how many there are. */
unsigned readback_compare(enum sandbox_role role, const struct readback *facts, unsigned said,
                          unsigned required, bool root, void (*tell)(const char *text, void *data),
                          void *data);

/* The layers in force: what the kernel tells, else what the process says. */
unsigned readback_layers(const struct readback *facts, unsigned said);

#endif
