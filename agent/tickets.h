/*
 * tickets.h: the supervisor's part in ticket keys and the session cache: their memory files.
 *
 * Role: supervisor. It has the pages of ticket keys made by the loader, gives them to keepers and
 * has them handed on to the next instance; it maps none of them. A fleet's secret file is watched:
 * another one means other keys, without a restart (the supervisor waits for the loader meanwhile,
 * some tens of milliseconds).
 */
#ifndef AGENT_TICKETS_H
#define AGENT_TICKETS_H

#include <sys/stat.h>

#include "agent/cells.h"
#include "agent/config.h"
#include "agent/load.h"
#include "agent/loop.h"
#include "protocol/error.h"

#define TICKETS_WATCH_MS 1000 /* a new secret must look the same twice */

struct tickets {
    struct loop_timer timer;     /* first */
    const struct config *config; /* does not own this and the next three */
    struct load_result *generations;
    struct loop *loop;
    struct cells *cells;
    int session_cache;  /* owned; -1: none */
    struct stat loaded; /* of the secret file whose keys are in use, or that failed */
    struct stat seen;   /* of the last look */
};

/* Have the pages (tickets_fd of each generation) and the session cache made, or go on with those of
 * the instance before us. Returns 0, or -1 with an error. */
int tickets_load(struct tickets *tickets, const struct config *config,
                 struct load_result *generations, struct error *error);

/* Begin to watch a fleet's secret file, if there is one. tickets must stay where it is. */
void tickets_watch(struct tickets *tickets, struct loop *loop, struct cells *cells);

#endif
