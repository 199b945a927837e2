/*
 * handover.h: memory files that outlive the supervisor: ticket keys and the session cache.
 *
 * Role: supervisor. A new instance gets them in one of two ways, both by the convention of
 * sd_listen_fds(3) (LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES): from the service manager's fd store,
 * where each was put with sd_notify's FDSTORE=1, or from an instance that replaced itself
 * (`tlsagent upgrade`). Nothing is on disk; the files are never mapped here. Who controls our
 * environment controls us anyway; all the same a file is looked at before it is used
 * (ticket_state.c, session_cache.c).
 *
 * libsystemd is not used: the few lines are here, without its five libraries.
 */
#ifndef AGENT_HANDOVER_H
#define AGENT_HANDOVER_H

#include "protocol/error.h"

#define HANDOVER_MAX      320 /* files: one per cell group, and one more */
#define HANDOVER_NAME_MAX 96

/* Before anything else touches fds: note what was handed to us, close every other fd above 2. */
void handover_init(void);

/* The fd that came under this name, -1 if none did. It is the caller's from now on. */
int handover_take(const char *name);

/* Close what came and nobody took, and have the service manager forget it. */
void handover_close_rest(void);

/* Have fd (which stays the caller's, and must stay open) handed on under this name, in place of
 * what was there. */
void handover_put(const char *name, int fd);

/* Tell the service manager, if there is one: "READY=1", "STOPPING=1". */
void handover_notify(const char *state);

/* Become the program at path, in this process, with all that was put. Returns only on failure, with
 * an error. */
int handover_exec(const char *path, char *const argv[], struct error *error);

#endif
