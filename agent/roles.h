/*
 * roles.h: the entry point of each process, and what every one of them inherits.
 *
 * Each role is a fresh exec of the running binary with an explicit list of fds at fixed numbers.
 * spawn.c is the only place that starts them; main.c the only one that dispatches to them.
 */
#ifndef AGENT_ROLES_H
#define AGENT_ROLES_H

#include <stdbool.h>
#include <sys/types.h>

#include "agent/config.h"

/* What fd is what, in every role's process. 0 and 1 are /dev/null. */
enum role_fd {
    ROLE_FD_LOG = 2,
    ROLE_FD_CONTROL = 3, /* the channel to the supervisor */
    ROLE_FD_PEER =
        4, /* handshaker: its keeper. keeper: its handshaker. loader and fetcher: not open */
};

/* Given to each role on its command line by spawn.c (no secret, no policy). */
struct role_args {
    char name[32]; /* for logs, e.g. "handshaker 0.1" (group.cell) */
    int log_level;
    int log_syslog;
    uid_t uid; /* to become, if started as root */
    gid_t gid;
    pid_t parent;     /* the supervisor: for sandbox_enter() */
    unsigned require; /* layers of the sandbox that are mandatory: enum sandbox_layer, or-ed */
    int cpu;          /* pinned to it by spawn.c; -1: not pinned */
    unsigned cell;
    uint16_t kernel; /* what kernel TLS can do here: bits of protocol/kernel_tls.h */
};

/* Run the agent: in the foreground, or in the background once everything is up. */
void supervisor_main(struct config *config, bool foreground) __attribute__((noreturn));
/* Check what a start would: keys and certificates too. The exit status of `tlsagentd -t`. */
int supervisor_check(struct config *config);
void loader_main(const struct role_args *args) __attribute__((noreturn));
void keeper_main(const struct role_args *args) __attribute__((noreturn));
void handshaker_main(const struct role_args *args) __attribute__((noreturn));
void fetcher_main(const struct role_args *args) __attribute__((noreturn));

/* The build id that must be the same in all processes: version and a digest of the sources. */
extern const char role_build_id[];

#endif
