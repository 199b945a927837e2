/*
 * handover.h: what outlives the supervisor: the memory files of ticket keys and of the session
 * cache, and over an upgrade also the listening sockets.
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

#include <sys/socket.h>

#include "protocol/error.h"

#define HANDOVER_MAX      1024 /* files: one per cell group and one more; listening sockets */
#define HANDOVER_NAME_MAX 96

/* Before anything else touches fds: note what was handed to us, close every other fd above 2. */
void handover_init(void);

/* The fd that came under this name, -1 if none did. It is the caller's from now on. */
int handover_take(const char *name);

/* The TCP socket that came and listens on exactly this address, whatever its name (so that one of a
 * service manager's socket unit is found as well); -1 if none did. It is the caller's. */
int handover_take_listener(const struct sockaddr *address, socklen_t size);

/* Close what came and nobody took, and have the service manager forget it. */
void handover_close_rest(void);

/* Have fd (which stays the caller's, and must stay open) handed on under this name, in place of
 * what was there. */
void handover_put(const char *name, int fd);

/* The same for a listening socket, but only handover_exec() hands it on: in the fd store it would
 * take connections that nobody serves while no agent runs. */
void handover_put_listener(unsigned number, int fd);

/* Tell the service manager, if there is one: "READY=1", "STOPPING=1". */
void handover_notify(const char *state);

/* Become the program at path, in this process, with all that was put. Returns only on failure, with
 * an error. */
int handover_exec(const char *path, char *const argv[], struct error *error);

#endif
