/*
 * control.h: the supervisor's channels to the roles that stay: keepers, handshakers, the fetcher.
 * One enum for all of them, and a table for each receiver: what is not in it cannot be said to it.
 *
 * Trust: the supervisor believes no role. It takes only messages of fixed size from them, after
 * HELLO, and checks every value.
 */
#ifndef PROTOCOL_CONTROL_H
#define PROTOCOL_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/channel.h"
#include "protocol/service.h"
#include "protocol/wire.h"

enum control_type {
    /* role -> supervisor */
    CONTROL_HELLO = 1,        /* first message of each role: build id, role */
    CONTROL_READY,            /* sandboxed, generation mapped, self-test passed */
    CONTROL_PONG,             /* answer to PING: totals */
    CONTROL_CONTEXT_COUNTERS, /* handshaker, one per context, before its PONG */
    CONTROL_TICKETS_TAKEN,    /* keeper: it seals under the new ticket keys from now on */
    CONTROL_CONNECT,          /* fetcher: it wants a connection to the store; one at a time */
    /* supervisor -> role */
    CONTROL_PING = 32,     /* twice a second; no PONG in time: the role is dead */
    CONTROL_SECRET,        /* to a keeper: one fd, the secret part of a generation */
    CONTROL_PUBLIC,        /* to a handshaker: one fd, the public part of a generation */
    CONTROL_LISTENER,      /* to a handshaker: one fd, a listening socket of a context */
    CONTROL_WORKER,        /* to a handshaker: one fd, a worker's channel */
    CONTROL_TICKETS,       /* to a keeper: one fd, the page of ticket keys; again when it changed */
    CONTROL_NEW_TICKETS,   /* to a handshaker: its keeper has taken a changed page */
    CONTROL_SESSION_CACHE, /* to a handshaker: one fd, the cache of session ids */
    CONTROL_SERVING,       /* to a handshaker: one fd, where it says whom it serves just now */
    CONTROL_DISMISS,       /* to a handshaker: a user that loses its channels */
    CONTROL_FETCHER_CHANNEL, /* to a handshaker: one fd, to the fetcher; again if it is another */
    CONTROL_STORE,           /* to the fetcher: two fds, the files of password and CAs */
    CONTROL_CLIENT,          /* to the fetcher: one fd, a handshaker's channel */
    CONTROL_CONNECTION,      /* to the fetcher: one fd, a socket that connects to the store */
    CONTROL_NO_CONNECTION,   /* to the fetcher: there is none, and why */
};

enum control_role {
    CONTROL_SUPERVISOR = 0,
    CONTROL_LOADER,
    CONTROL_KEEPER,
    CONTROL_HANDSHAKER,
    CONTROL_FETCHER,
    CONTROL_ROLES, /* how many there are */
};

#define CONTROL_GROUPS_MAX   64  /* supplementary groups of a worker that are looked at */
#define CONTROL_CONTEXTS_MAX 256 /* contexts in one configuration */
#define CONTROL_FAILURES     (SERVICE_INTERNAL + 1)

/* Why a session that a client offered was not resumed (the handshake went on as a full one). */
enum control_not_resumed {
    CONTROL_TICKET_UNKNOWN,   /* under a key name that is not ours */
    CONTROL_TICKET_BAD,       /* tampered with, cut off, or of another context or policy */
    CONTROL_TICKET_EXPIRED,   /* too old */
    CONTROL_TICKET_FUTURE,    /* sealed in a time to come */
    CONTROL_TICKET_TOO_MANY,  /* more than one ClientHello may have opened, or a cell in a second */
    CONTROL_TICKET_PEER,      /* the client's certificate has expired since */
    CONTROL_SESSION_UNKNOWN,  /* a session id that is not in the cache (any more) */
    CONTROL_SESSION_BAD,      /* its entry does not open here, or has expired */
    CONTROL_SESSION_TOO_LONG, /* not stored: too long for the cache */
    CONTROL_SESSION_STORE,    /* the fleet's store could not be asked, or was not in time */
    CONTROL_NOT_RESUMED,      /* how many of these there are */
};

struct control_hello {
    char build[SERVICE_BUILD_MAX]; /* must equal ours */
    uint8_t role;                  /* enum control_role */
};

struct control_ready {
    uint32_t generation;
    uint32_t layers; /* of the sandbox, in force (enum sandbox_layer), as the role has probed */
};

struct control_ping {
    uint32_t number;
};

/* What a handshaker had from the fetcher, or the fetcher from the fleet's store. */
struct control_store_use {
    uint8_t usable;   /* now; handshaker: it has a channel and asks; fetcher: it is connected */
    uint32_t changes; /* handshaker: times it ceased to ask; fetcher: times it was connected */
    uint64_t lookups;
    uint64_t found;
    uint64_t failed;  /* no answer, or that of a store that cannot */
    uint64_t late;    /* no answer in time */
    uint64_t skipped; /* not even asked */
    uint64_t stored;  /* handshaker: sent; fetcher: the store has it */
    uint64_t dropped; /* not stored: no room, no connection, or refused */
};

/* Totals since the role's start. A keeper fills signatures..refusals, a handshaker the rest, the
 * fetcher workers (the handshakers that it serves) and store. */
struct control_pong {
    uint32_t number; /* of the PING */
    uint64_t signatures;
    uint64_t ticket_keys;
    uint64_t tickets_opened;
    uint64_t refusals;
    uint32_t workers;          /* channels open now */
    uint32_t in_flight;        /* handshakes in progress now */
    uint32_t waiting;          /* finished, accepted by the agent, not yet taken by a worker */
    uint64_t channels_refused; /* closed because the worker broke the protocol */
    struct control_store_use store;
};

struct control_context_counters {
    uint16_t context; /* index in the configuration (generation_context.index) */
    uint64_t started;
    uint64_t full;                     /* finished with a full handshake */
    uint64_t resumed;                  /* finished with a resumption */
    uint64_t expired;                  /* finished, but no worker took it */
    uint64_t failed[CONTROL_FAILURES]; /* by enum service_failure; [0] unused */
    uint64_t not_resumed[CONTROL_NOT_RESUMED];
};

struct control_generation { /* SECRET, PUBLIC */
    uint32_t generation;
};

struct control_listener {
    uint16_t context; /* index in the configuration (generation_context.index) */
};

struct control_worker {
    uint32_t uid;
    uint32_t gid;
    uint32_t pid;          /* for logs only */
    uint32_t channels_max; /* that its uid may have in one cell */
    uint16_t group_count;
    uint32_t groups[CONTROL_GROUPS_MAX];
};

struct control_dismiss {
    uint32_t uid;
};

struct control_fetcher_channel {
    uint32_t wait_ms; /* for an answer */
};

/* What the fetcher must know about the store besides how to reach it, which it need not. */
struct control_store {
    uint8_t tls;
    uint8_t has_password;        /* 0: the first fd is of no meaning; the second without TLS */
    uint32_t database;           /* number */
    char user[SERVICE_NAME_MAX]; /* "": the default one */
    char name[SERVICE_HOST_MAX]; /* host name or address that its certificate must have */
};

struct control_no_connection {
    uint16_t reason; /* errno */
};

/* Bytes on the wire. */
#define CONTROL_HELLO_MAX     (2 + SERVICE_BUILD_MAX)
#define CONTROL_PONG_SIZE     (4 + 4 * 8 + 3 * 4 + 8 + (1 + 4 + 7 * 8))
#define CONTROL_COUNTERS_SIZE (2 + 4 * 8 + 8 * CONTROL_FAILURES + 8 * CONTROL_NOT_RESUMED)

extern const struct channel_rule control_keeper_rules[]; /* what a keeper takes */
extern const size_t control_keeper_rule_count;
extern const struct channel_rule control_handshaker_rules[]; /* what a handshaker takes */
extern const size_t control_handshaker_rule_count;
extern const struct channel_rule control_fetcher_rules[];
extern const size_t control_fetcher_rule_count;
extern const struct channel_rule control_supervisor_rules[]; /* ... the supervisor from them */
extern const size_t control_supervisor_rule_count;

/* Encoders write a body into buffer and return its size, 0 if it does not fit. Decoders return
 * true if the body was well-formed to its last byte. */
size_t control_put_hello(const struct control_hello *m, void *buffer, size_t size);
bool control_get_hello(struct control_hello *m, const void *body, size_t size);
size_t control_put_ready(const struct control_ready *m, void *buffer, size_t size);
bool control_get_ready(struct control_ready *m, const void *body, size_t size);
size_t control_put_ping(const struct control_ping *m, void *buffer, size_t size);
bool control_get_ping(struct control_ping *m, const void *body, size_t size);
size_t control_put_pong(const struct control_pong *m, void *buffer, size_t size);
bool control_get_pong(struct control_pong *m, const void *body, size_t size);
size_t control_put_context_counters(const struct control_context_counters *m, void *buffer,
                                    size_t size);
bool control_get_context_counters(struct control_context_counters *m, const void *body,
                                  size_t size);
size_t control_put_generation(const struct control_generation *m, void *buffer, size_t size);
bool control_get_generation(struct control_generation *m, const void *body, size_t size);
size_t control_put_listener(const struct control_listener *m, void *buffer, size_t size);
bool control_get_listener(struct control_listener *m, const void *body, size_t size);
size_t control_put_worker(const struct control_worker *m, void *buffer, size_t size);
bool control_get_worker(struct control_worker *m, const void *body, size_t size);
size_t control_put_dismiss(const struct control_dismiss *m, void *buffer, size_t size);
bool control_get_dismiss(struct control_dismiss *m, const void *body, size_t size);
size_t control_put_fetcher_channel(const struct control_fetcher_channel *m, void *buffer,
                                   size_t size);
bool control_get_fetcher_channel(struct control_fetcher_channel *m, const void *body, size_t size);
size_t control_put_store(const struct control_store *m, void *buffer, size_t size);
bool control_get_store(struct control_store *m, const void *body, size_t size);
size_t control_put_no_connection(const struct control_no_connection *m, void *buffer, size_t size);
bool control_get_no_connection(struct control_no_connection *m, const void *body, size_t size);

/* PONG and CONTEXT_COUNTERS as parts of a longer message. */
void control_write_pong(struct wire_writer *writer, const struct control_pong *m);
void control_read_pong(struct wire_reader *reader, struct control_pong *m);
void control_write_counters(struct wire_writer *writer, const struct control_context_counters *m);
void control_read_counters(struct wire_reader *reader, struct control_context_counters *m);

#endif
