/*
 * relay.h: the relay: carries many connections between TLS and plain sockets, in one process with
 * one epoll set.
 *
 * Role: a helper on the worker's side (design: the stream form). main.c is the program; the engine
 * here knows nothing of how it was started, so that tests drive it too.
 * Trust: what comes from a connection is the peer's and hostile (client/stream.h deals with it);
 * what comes by the channel and from the plain side is the user's own.
 *
 * What holds, for every connection:
 *  - Memory is bounded: while one side does not read, at most a window of each direction waits
 *    here; the window is 16 KB for a side that has lately been full, up to 112 KB (from the peer)
 * or 64 KB (to it) for one that takes all. An idle connection holds its keys and no buffer.
 *  - close_notify becomes shutdown(SHUT_WR) on the plain side, and the other way round; the other
 *    direction goes on.
 *  - Whatever one side had sent is delivered before the other learns of its end.
 *  - An end of the peer's data that is not a close_notify is never told as a clean end: read() on
 *    the plain side gives all data and then ECONNRESET. That holds if the relay is killed, too.
 *    (A plain side that is a Unix socket of somebody else's just ends: it knows no reset.)
 *  - A turn of one connection is bounded (one window each way), then the others have theirs.
 *  - A peer that stalls when the plain side is gone is given up after a while; a plain side that
 *    stalls is waited for.
 */
#ifndef CLIENT_RELAY_RELAY_H
#define CLIENT_RELAY_RELAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/error.h"
#include "protocol/relay.h"

struct relay;

struct relay_counts {
    size_t connections;
    uint64_t taken;
    uint64_t wakeups; /* returns of epoll_wait() with an event */
    uint64_t turns;   /* of connections */
};

/* How long things are waited for when nobody is left to ask, milliseconds. */
struct relay_patience {
    int stall;  /* the peer takes nothing of the last data of a plain side that is gone */
    int linger; /* for the peer's end, when all is said */
};

/* channel: owned; -1: none. connections_max: more stay in the channel until some end. */
struct relay *relay_new(int channel, size_t connections_max, struct error *error);
void relay_set_patience(struct relay *relay, const struct relay_patience *patience);

/* Carry one more connection. fds are taken over, also on failure: then the plain side sees a cut
 * connection. */
int relay_take(struct relay *relay, const struct relay_take *take, int fd, int plain,
               struct error *error);

/* Wait up to timeout_ms (-1: for ever) for something to do, and do it: a turn for each
 * connection that has something to do. False: the channel is closed and no connection is left. */
bool relay_run(struct relay *relay, int timeout_ms);

void relay_get_counts(const struct relay *relay, struct relay_counts *counts);
void relay_free(struct relay *relay); /* cuts what is left. NULL-safe */

#endif
