/*
 * pump.h: one connection of the relay: its state, and what it does in a turn. Private to
 * client/relay/; relay.c has the loop.
 */
#ifndef CLIENT_RELAY_PUMP_H
#define CLIENT_RELAY_PUMP_H

#include <sys/queue.h>

#include "client/relay/relay.h"
#include "client/stream.h"

/* Bytes that a turn carries, in whole records. Towards the plain side every call may wake a
 * process: seven records cost an eighth less CPU than four. Towards the peer more than four save
 * nothing. */
#define PUMP_WINDOW_MIN 16384
#define PUMP_OUT_MAX    65536
#define PUMP_IN_MAX     114688
#define PUMP_BUFFER     (PUMP_IN_MAX + 1) /* the byte that is not data goes first */

/* From the peer to the plain side. */
enum pump_in {
    IN_OPEN,
    IN_ENDED,   /* close_notify has come; not yet told */
    IN_FAILED,  /* cut; to be told when the rest is delivered */
    IN_DISCARD, /* nobody reads it */
    IN_DONE,
};

/* From the plain side to the peer. */
enum pump_out {
    OUT_OPEN,
    OUT_LAST,    /* the peer has failed: what waits is sent, then it is over */
    OUT_CLOSING, /* close_notify is to be sent */
    OUT_DONE,
    OUT_FAILED, /* the peer takes nothing any more */
};

/* Plaintext that the other side did not take. */
struct pump_rest {
    uint8_t *data; /* NULL: none */
    uint32_t start;
    uint32_t end;
};

struct pump;

/* What epoll knows a descriptor by. */
struct pump_side {
    struct pump *pump; /* NULL: the channel */
    int fd;
};

struct pump {
    TAILQ_ENTRY(pump) ready; /* queue of those with something to do */
    TAILQ_ENTRY(pump) timed; /* those with a deadline */
    TAILQ_ENTRY(pump) all;
    struct stream stream;
    struct pump_side peer;
    struct pump_side plain;
    struct pump_rest in_rest;
    struct pump_rest out_rest;
    uint64_t inward;
    uint64_t outward;
    int64_t deadline; /* milliseconds, monotonic; 0: none */
    uint32_t id;
    uint32_t in_window;
    uint32_t out_window;
    enum pump_in in;
    enum pump_out out;
    enum relay_end how;
    uint8_t seen;    /* 1: the first byte in the plain fd has been dealt with and stays */
    bool keeps_byte; /* it stays there on purpose: see RELAY_PAIR */
    bool is_pair;
    bool tell;
    bool is_ready; /* is on that queue */
    bool is_timed;
    bool peer_in; /* readable, as far as we know */
    bool peer_out;
    bool plain_in;
    bool plain_out;
    bool plain_ended; /* the plain side writes no more */
    bool plain_gone;  /* ... and reads no more */
    bool wants_out;   /* epoll watches the plain fd for room */
};

/* What a turn works with. */
struct pump_scene {
    int epoll;
    uint8_t *buffer; /* PUMP_BUFFER bytes, for one call */
    size_t used;     /* bytes of it that are to be wiped when there is time */
    int64_t now;
    struct relay_patience patience;
};

enum pump_turn {
    PUMP_WAIT, /* for an event, or the deadline */
    PUMP_MORE, /* has more to do at once */
    PUMP_OVER, /* call pump_close() */
};

enum pump_turn pump_turn(struct pump *pump, struct pump_scene *scene);

/* The deadline has passed: what is waited for is given up. A turn must follow. */
void pump_expire(struct pump *pump);

/* Shall a plain side that is no pair be reset when it is closed, by whatever? From the beginning,
 * and until the peer has said close_notify. */
void pump_reset_at_close(int plain, bool reset);

/* Close both fds, in the way that tells each side what happened. */
void pump_close(struct pump *pump, int epoll);

#endif
