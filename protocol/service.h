/*
 * service.h: worker <-> supervisor (the well-known socket) and worker <-> handshaker.
 *
 * The worker connects to the well-known socket and says nothing there, ever: its credentials
 * speak for it. It gets either SERVICE_DENIED, or SERVICE_WELCOME, the contexts that it may use,
 * and a SERVICE_CHANNEL with one fd for each cell. The connection stays open: when a cell is
 * replaced, a SERVICE_CHANNEL for it comes again and replaces the old one.
 *
 * On a channel to a handshaker the worker asks (ACCEPT, PULL, CANCEL) and the handshaker answers
 * each ACCEPT exactly once (FINISHED or FAILED, by id), and each credit of a PULL at most once
 * (DELIVERED). What has become ready at the same time may come together, as a BATCH.
 */
#ifndef PROTOCOL_SERVICE_H
#define PROTOCOL_SERVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/channel.h"
#include "protocol/traffic.h"

#define SERVICE_PROTOCOL 2 /* changes when old libraries no longer understand us */

#define SERVICE_NAME_MAX     64    /* of a context, bytes with the NUL */
#define SERVICE_HOST_MAX     256   /* an SNI name, bytes with the NUL (RFC 1035: 255) */
#define SERVICE_ALPN_MAX     256   /* a protocol name, bytes with the NUL (RFC 7301: 255) */
#define SERVICE_TEXT_MAX     256   /* an error text, bytes with the NUL */
#define SERVICE_CHAIN_MAX    32768 /* peer chain, bytes in all */
#define SERVICE_CHAIN_LENGTH 16    /* certificates in it */
#define SERVICE_EARLY_MAX    17408 /* received and not yet decrypted bytes */
#define SERVICE_CREDIT_MAX   16    /* undelivered connections per channel and context */
#define SERVICE_BUILD_MAX    64    /* build id, bytes with the NUL */
#define SERVICE_BATCH_MAX    16    /* answers in one message; as many fds may come with it */
#define SERVICE_BATCH_HEAD   1     /* bytes of a BATCH before its parts, */
#define SERVICE_PART_HEAD    6     /* and of a part before its body */

enum service_type {
    /* supervisor -> worker, on the first connection */
    SERVICE_WELCOME = 1, /* protocol version, build id */
    SERVICE_CONTEXT,     /* one context that this worker may use */
    SERVICE_CHANNEL,     /* one fd: a channel to a cell */
    SERVICE_DENIED,      /* this worker is in no context: text */
    /* worker -> handshaker */
    SERVICE_ACCEPT = 32, /* one fd: a connected stream socket; do a server handshake on it */
    SERVICE_PULL,        /* the worker is ready for connections that the agent accepted */
    SERVICE_CANCEL,      /* no longer interested in this id */
    /* handshaker -> worker */
    SERVICE_FINISHED = 64, /* answer to ACCEPT */
    SERVICE_FAILED,        /* answer to ACCEPT or PULL */
    SERVICE_DELIVERED,     /* one fd: a connection that the agent accepted; else as FINISHED */
    SERVICE_BATCH,         /* several of these three in one message; the fds in their order */
};

enum service_form {
    SERVICE_FORM_RECORDS = 1,
    SERVICE_FORM_KERNEL = 2,
    SERVICE_FORM_STREAM = 4, /* made on the worker's side out of RECORDS */
};

enum service_failure {
    SERVICE_NOT_PERMITTED = 1, /* no such context, or not for this worker */
    SERVICE_BAD_REQUEST, /* well-formed but impossible: wrong kind of fd, form not permitted */
    SERVICE_BUSY,        /* a limit was reached: try again later */
    SERVICE_DEADLINE,    /* the peer was too slow */
    SERVICE_PEER_CLOSED, /* the peer closed or reset the connection */
    SERVICE_PEER_ALERT,  /* the peer sent a fatal alert; see alert */
    SERVICE_HANDSHAKE,   /* we refused the peer with an alert; see alert */
    SERVICE_INTERNAL,    /* the agent failed; the log says more */
};

struct service_welcome {
    uint16_t protocol;
    char build[SERVICE_BUILD_MAX];
};

struct service_context {
    char name[SERVICE_NAME_MAX];
    uint16_t group;  /* cells of this group serve it */
    uint8_t listens; /* 1: the agent accepts connections for it (PULL makes sense) */
};

struct service_channel {
    uint16_t group;
    uint16_t cell; /* unique number; the same again replaces the old channel */
};

struct service_denied {
    char text[SERVICE_TEXT_MAX];
};

struct service_accept {
    uint32_t id;          /* chosen by the worker, not in use on this channel */
    uint8_t forms;        /* enum service_form, or-ed: what the worker can take */
    uint32_t deadline_ms; /* 0: the context's; else the smaller one counts */
    char context[SERVICE_NAME_MAX];
};

struct service_pull {
    uint16_t credits; /* this many more connections may be delivered */
    uint8_t forms;
    char context[SERVICE_NAME_MAX];
};

struct service_cancel {
    uint32_t id;
};

/* Facts and record state of a finished handshake. Pointers are into the message. */
struct service_finished {
    uint32_t id;  /* DELIVERED: 0 */
    uint8_t form; /* exactly one */
    uint8_t resumed;
    uint32_t agent_pid;         /* of the handshaker, for people who look */
    struct traffic_state state; /* form RECORDS; else keys are zeros */
    char context[SERVICE_NAME_MAX];
    char sni[SERVICE_HOST_MAX]; /* "" if the peer sent none */
    char alpn[SERVICE_ALPN_MAX];
    const uint8_t *early; /* ciphertext that the handshaker read beyond the handshake: the */
    size_t early_size;    /* first bytes for the record layer */
    const uint8_t *chain; /* peer's certificates: a list of DER, each preceded by its size */
    size_t chain_size;    /* (24 bits), leaf first; RFC 8446 section 4.4.2's cert_data */
};

struct service_failed {
    uint32_t id;       /* PULL: 0 */
    uint8_t reason;    /* enum service_failure */
    uint8_t retryable; /* 1: no byte was exchanged with the peer; another cell may try */
    uint8_t alert;     /* TLS alert sent or received, 255: none */
    char text[SERVICE_TEXT_MAX];
};

/* One answer in a BATCH. */
struct service_part {
    uint16_t type; /* FINISHED, FAILED or DELIVERED */
    size_t size;
    const uint8_t *body; /* not looked into; in the message */
};

struct service_batch {
    uint8_t count;    /* 2 to SERVICE_BATCH_MAX */
    uint8_t fd_count; /* one for each DELIVERED: follows from the types; not in the message */
    struct service_part parts[SERVICE_BATCH_MAX];
};

extern const struct channel_rule service_handshaker_rules[]; /* what a handshaker takes */
extern const size_t service_handshaker_rule_count;
extern const struct channel_rule service_worker_rules[]; /* what a worker takes on a channel */
extern const size_t service_worker_rule_count;
extern const struct channel_rule service_greeting_rules[]; /* ... and on the first connection */
extern const size_t service_greeting_rule_count;

/* Encoders write a body into buffer and return its size, 0 if it does not fit. Decoders return
 * true if the body was well-formed to its last byte and every enum in it is one of ours. */
size_t service_put_welcome(const struct service_welcome *m, void *buffer, size_t size);
bool service_get_welcome(struct service_welcome *m, const void *body, size_t size);
size_t service_put_context(const struct service_context *m, void *buffer, size_t size);
bool service_get_context(struct service_context *m, const void *body, size_t size);
size_t service_put_channel(const struct service_channel *m, void *buffer, size_t size);
bool service_get_channel(struct service_channel *m, const void *body, size_t size);
size_t service_put_denied(const struct service_denied *m, void *buffer, size_t size);
bool service_get_denied(struct service_denied *m, const void *body, size_t size);
size_t service_put_accept(const struct service_accept *m, void *buffer, size_t size);
bool service_get_accept(struct service_accept *m, const void *body, size_t size);
size_t service_put_pull(const struct service_pull *m, void *buffer, size_t size);
bool service_get_pull(struct service_pull *m, const void *body, size_t size);
size_t service_put_cancel(const struct service_cancel *m, void *buffer, size_t size);
bool service_get_cancel(struct service_cancel *m, const void *body, size_t size);
size_t service_put_finished(const struct service_finished *m, void *buffer, size_t size);
bool service_get_finished(struct service_finished *m, const void *body, size_t size);
size_t service_put_failed(const struct service_failed *m, void *buffer, size_t size);
bool service_get_failed(struct service_failed *m, const void *body, size_t size);
size_t service_put_batch(const struct service_batch *m, void *buffer, size_t size);
bool service_get_batch(struct service_batch *m, const void *body, size_t size);

#endif
