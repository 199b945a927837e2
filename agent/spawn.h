/*
 * spawn.h: start one role: a fresh exec of the running binary with an explicit list of fds.
 *
 * Role: supervisor only. What is on a role's command line is not secret and not policy.
 */
#ifndef AGENT_SPAWN_H
#define AGENT_SPAWN_H

#include <stdbool.h>
#include <sys/types.h>

#include "agent/roles.h"
#include "protocol/control.h"
#include "protocol/error.h"

/* Open the running binary, so that a package upgrade cannot mix versions. Once, before the process
 * becomes non-dumpable (/proc/self is closed to us after that). */
int spawn_init(struct error *error);

/* Start a role. control and peer (-1: none) are duplicated into the child and stay the caller's.
 * Returns its pid, or -1 with an error. The caller reaps it. */
pid_t spawn_role(enum control_role role, const struct role_args *args, int control, int peer,
                 struct error *error);

/* If argv is that of a role started by spawn_role(), read it into role and args and return true.
 * Returns false if it is not, and dies if it is one but not as we write them. */
bool spawn_parse(int argc, char **argv, enum control_role *role, struct role_args *args);

/* The name of a role for people: "keeper". */
const char *spawn_role_name(enum control_role role);

/* The CPU that cell number may be pinned to: one of those that we may run on, in turn; -1: none. */
int spawn_cpu_of(unsigned cell);

#endif
