/*
 * relay.h: a worker (or the library in it) and its relay: connections whose traffic the relay is to
 * carry between TLS and a plain socket.
 *
 * Both ends belong to one user, and the relay holds nothing that the worker did not have. The
 * worker gives (TAKE) and forgets; the relay answers only where it was asked to (ENDED). The relay
 * says READY once, when it is in its sandbox. When the channel closes the relay takes nothing new,
 * carries on with what it has and ends with the last connection.
 */
#ifndef PROTOCOL_RELAY_H
#define PROTOCOL_RELAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/channel.h"
#include "protocol/traffic.h"

#define RELAY_PROTOCOL  1     /* changes when an older library no longer understands the helper */
#define RELAY_EARLY_MAX 61440 /* ciphertext that was received and not yet opened */

enum relay_type {
    RELAY_READY = 1, /* relay ->, once: protocol number */
    RELAY_ENDED,     /* relay ->: a connection is over */
    RELAY_TAKE = 32, /* -> relay, two fds: the connection's, the plain one */
};

/* What the plain fd is: it decides how a cut connection is told to its reader. */
enum relay_plain {
    RELAY_PAIR = 1, /* one end of a Unix socket pair into which one byte was written that is not
                     * data: unread when the relay closes, it makes the reader's read() fail with
                     * ECONNRESET */
    RELAY_SOCKET,   /* a connected stream socket: TCP is reset; others just end */
};

enum relay_end {
    RELAY_CLEAN = 1, /* close_notify both ways */
    RELAY_WORKER,    /* the plain side went first; what it had written was sent */
    RELAY_TRUNCATED, /* the peer's data ended without close_notify */
    RELAY_RESET,     /* the connection broke */
    RELAY_ALERT,     /* the peer sent a fatal alert */
    RELAY_RECORD,    /* the peer broke the record protocol */
    RELAY_FAILED,    /* the relay could not (memory, descriptors) */
};

struct relay_take {
    uint32_t id;       /* the worker's choice, for ENDED */
    uint8_t plain;     /* enum relay_plain */
    uint8_t is_server; /* our role in TLS, 1 or 0 */
    uint8_t tell;      /* 1: say ENDED when it is over */
    struct traffic_state state;
    const uint8_t *early; /* ciphertext, goes first; into the message */
    size_t early_size;
};

struct relay_ended {
    uint32_t id;
    uint8_t how;     /* enum relay_end */
    uint64_t inward; /* plaintext bytes from the peer that reached the plain side */
    uint64_t outward;
};

extern const struct channel_rule relay_rules[]; /* what a relay takes */
extern const size_t relay_rule_count;
extern const struct channel_rule relay_worker_rules[]; /* what a worker takes from it */
extern const size_t relay_worker_rule_count;

/* As in service.h: encoders return the body's size, 0 if it does not fit; decoders return true if
 * it was well-formed to its last byte. */
size_t relay_put_ready(uint16_t protocol, void *buffer, size_t size);
bool relay_get_ready(uint16_t *protocol, const void *body, size_t size);
size_t relay_put_take(const struct relay_take *m, void *buffer, size_t size);
bool relay_get_take(struct relay_take *m, const void *body, size_t size);
size_t relay_put_ended(const struct relay_ended *m, void *buffer, size_t size);
bool relay_get_ended(struct relay_ended *m, const void *body, size_t size);

#endif
