/*
 * fetch.h: the supervisor's part in the fleet's store: the fetcher, started, watched, replaced.
 *
 * Role: supervisor. It opens connections to the store when the fetcher asks for one (not more than
 * ten in a second) and passes the socket on; it sends and reads no byte there. Each handshaker gets
 * a channel to the fetcher, and another one when the fetcher is another. Without a fetcher
 * handshakes are full ones, so its death costs nothing but that.
 */
#ifndef AGENT_FETCH_H
#define AGENT_FETCH_H

#include <stdbool.h>
#include <sys/types.h>

#include "agent/cells.h"
#include "agent/config.h"
#include "agent/loop.h"
#include "protocol/control.h"

#define FETCH_CONNECT_MS 100 /* between two connections */

struct fetch_hooks {
    void (*up)(void *data);
    void (*down)(const char *why, void *data);
    void *data;
};

struct fetch {
    struct loop_watch watch; /* first; fd: the control channel, owned, -1: no process */
    struct loop_timer timer; /* starting: the deadline; down: when to start again; up: PING */
    struct loop_timer connect_timer;
    const struct config *config; /* does not own this and the next two */
    struct loop *loop;
    struct cells *cells;
    struct fetch_hooks hooks;
    pid_t pid; /* 0: none */
    bool hello, ready;
    bool wants_connection;
    uint32_t ping, ponged;
    uint64_t unanswered_since; /* ms; 0: nothing is unanswered */
    uint64_t pinged;           /* ms: when the timer last fired */
    uint64_t connected;        /* ms: when the last connection was passed on */
    uint64_t started;          /* ms */
    unsigned wait_ms;          /* before the next start */
    uint32_t restarts;
    uint32_t layers;
    struct control_pong pong;
};

/* cells must have been initialized. fetch must stay where it is. */
void fetch_init(struct fetch *fetch, struct loop *loop, const struct config *config,
                struct cells *cells, const struct fetch_hooks *hooks);

/* Start it, if the configuration has a store. */
void fetch_start(struct fetch *fetch);

/* Is nothing to be waited for any more? True too if there is no store. */
bool fetch_up(const struct fetch *fetch);

/* A cell came up: its handshaker gets a channel. */
void fetch_cell_up(struct fetch *fetch, struct cell *cell);

/* Child pid ended: was it the fetcher? Then it is replaced. */
bool fetch_reaped(struct fetch *fetch, pid_t pid, int status);

/* For the supervisor's end. */
void fetch_stop(struct fetch *fetch);

/* Would a fetcher start? For `tlsagentd -t`; the store itself is not asked. Returns 0, or -1 with
 * an error (its own words are in the log). */
int fetch_check(const struct config *config, struct error *error);

#endif
