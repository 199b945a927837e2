/*
 * greet.h: the well-known socket, where workers come in.
 *
 * Role: supervisor. Workers are hostile; here they are looked at (credentials by the kernel) and
 * never listened to: one byte from a worker ends its connection. Who is in no context is
 * told so; who is gets WELCOME, its contexts, and a channel to each cell that serves them,
 * now and whenever a cell is replaced.
 */
#ifndef AGENT_GREET_H
#define AGENT_GREET_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/bans.h"
#include "agent/callers.h"
#include "agent/cells.h"
#include "agent/config.h"
#include "agent/loop.h"
#include "agent/pace.h"

#define GREET_LEAVING 128

struct greet_worker;

struct greet {
    struct loop_watch watch; /* first; fd: the listening socket, not owned */
    struct loop_timer retry; /* channels that a busy handshaker had no room for */
    struct loop *loop;       /* does not own this and the next two */
    const struct config *config;
    struct cells *cells;
    struct greet_worker *workers; /* in the order in which they came */
    struct greet_worker *last_worker;
    unsigned worker_count;
    uint32_t denied;        /* connections refused so far */
    uint32_t denied_silent; /* of these, not logged yet */
    uint64_t denied_logged; /* ms: when one was logged last */
    int spare;              /* for listen_accept() */
    struct bans bans;
    struct loop_timer pause; /* of the listening socket */
    struct pace calls;
    struct pace complaints;     /* log lines about what workers did */
    int leaving[GREET_LEAVING]; /* connections to be closed together: each has messages left */
    size_t leaving_count;
    struct loop_timer leave;
    struct callers callers; /* how often each has come */
};

/* Begin to serve the listening socket. greet must stay where it is. Dies if the system refuses. */
void greet_init(struct greet *greet, int listener, struct loop *loop, const struct config *config,
                struct cells *cells);

/* A cell came up: every worker that may use it gets a channel to it. */
void greet_cell_up(struct greet *greet, struct cell *cell);

/* A worker of this user has frozen a cell: it loses all its channels, everywhere, and is kept out
 * for a while. */
void greet_ban(struct greet *greet, uint32_t uid, uint32_t pid);

/* May a worker with these credentials use the context? Uid and gid 65534 (unmapped in our user
 * namespace) never match. */
bool greet_context_allows(const struct config_context *context,
                          const struct control_worker *worker);

#endif
