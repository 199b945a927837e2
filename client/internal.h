/*
 * internal.h: what the files of libtlsagent share and nobody else sees.
 *
 * A handle (struct tlsagent) holds the first connection to the agent and one channel per cell. A
 * connection (struct tlsagent_conn) is on exactly one list of its handle until its handshake is
 * over and the caller has been told; then it stands alone and outlives the handle.
 *
 *   PREPARED -> WAITING -> QUEUED -> ASKED -> DONE or FAILED; DONE -> MOVED
 *
 * Only three functions move it: conn_move(), conn_finish() and conn_take(). Nothing here sends a
 * request from inside the handling of a message: what must be asked again is put on the waiting
 * list and agent_pump() asks when it has handled all events. So no function re-enters another.
 *
 * Trust: whatever comes from the agent is checked like a stranger's. A channel that breaks the
 * rules is closed and counts as a dead cell.
 */
#ifndef CLIENT_INTERNAL_H
#define CLIENT_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "client/ktls.h"
#include "client/stream.h"
#include "client/tlsagent.h"
#include "protocol/error.h"
#include "protocol/service.h"

#define AGENT_DEFAULT_SOCKET "/run/tlsagent/tlsagent.sock" /* = agent/config.h's */
#define AGENT_CONNECT_MS     100  /* at least so long between two attempts to connect */
#define AGENT_CROWDED_MS     20   /* ... if too many others connect at the same time */
#define AGENT_DENIED_MS      1000 /* ... after the agent said that it does not serve us */
#define AGENT_ANSWER_MS      1000 /* for the greeting, and for a dead cell's replacement */
#define AGENT_CONTEXTS_MAX   4096
#define AGENT_CELLS_MAX      1024
#define AGENT_PULLS_MAX      16 /* contexts that one handle pulls from */
#define CELL_BUCKETS         64 /* of the table of handshakes by id; a power of two */
#define CELL_CANCELS_MAX     64 /* that may wait for room in the channel */
#define CONN_RETRIES_MAX     2
#define CONN_FORMS_AUTO      (SERVICE_FORM_RECORDS | SERVICE_FORM_KERNEL)

enum conn_phase {
    CONN_PREPARED, /* nothing sent */
    CONN_WAITING,  /* there is no channel to a cell at the moment */
    CONN_QUEUED,   /* the cell's channel has no room at the moment */
    CONN_ASKED,    /* the cell has it */
    CONN_DONE,
    CONN_FAILED,
    CONN_MOVED, /* another process has it */
};

TAILQ_HEAD(conn_list, tlsagent_conn);

/* What is needed until the handshake is over. */
struct conn_request {
    struct cell *cell;    /* QUEUED, ASKED: where; does not own */
    uint64_t avoid;       /* serial of the channel that sent it back, 0: none */
    int64_t wait_until;   /* WAITING: then it fails */
    int64_t deadline;     /* 0: none */
    uint32_t deadline_ms; /* as set by the caller, 0: none */
    uint32_t id;          /* ASKED: on that channel */
    uint8_t forms;
    bool plain; /* the kernel form, for plain read() and write() */
    uint8_t retries;
    char context[SERVICE_NAME_MAX];
};

/* Facts of a finished handshake: one allocation, texts and chain behind the struct. */
struct conn_facts {
    const struct traffic_suite *suite;
    uint32_t agent_pid;
    uint32_t chain_size;
    uint16_t sni; /* offsets in text; the context's is 0 */
    uint16_t alpn;
    uint16_t chain;
    uint8_t form;
    bool resumed;
    char text[];
};

struct tlsagent_conn {
    TAILQ_ENTRY(tlsagent_conn) link;
    struct conn_list *list;       /* that it is on, NULL: none */
    struct tlsagent *agent;       /* NULL: it stands alone */
    struct conn_request *request; /* until the handshake is over */
    struct conn_facts *facts;     /* DONE */
    struct stream stream;         /* DONE */
    char *error;                  /* allocated; NULL: none, or no memory for it */
    void *data;                   /* the caller's */
    uint64_t serial;              /* delivered and not yet taken: of the channel that it came by */
    uint64_t plain_inode;         /* form STREAM: of the socket that fd named when we made it */
    int fd;                       /* form STREAM: the plain descriptor */
    int16_t alert;                /* -1: none */
    uint8_t code;                 /* enum tlsagent_error_code */
    uint8_t phase;                /* enum conn_phase */
    bool owns_fd;
    bool delivered; /* accepted by the agent */
    bool plain;     /* the kernel form, for plain read() and write() */
    bool stopped;   /* DONE, and TLS has been stopped since */
};

/* Credits of one pull with one cell. */
struct grant {
    uint16_t owed;        /* to be sent */
    uint16_t outstanding; /* sent, nothing delivered for them yet */
};

/* A channel to a cell. Lives until the next greeting, also while the channel is closed. */
struct cell {
    struct cell *next;
    int fd; /* -1: closed */
    uint16_t group;
    uint16_t number;
    uint64_t serial; /* of this channel: unique in the handle */
    uint32_t next_id;
    size_t busy;       /* handshakes ASKED and QUEUED */
    size_t unanswered; /* cancelled ones that may still be answered */
    struct conn_list asked[CELL_BUCKETS];
    struct conn_list queued;
    uint32_t cancels[CELL_CANCELS_MAX]; /* to be sent */
    size_t cancel_count;
    struct grant grants[AGENT_PULLS_MAX];
    bool want_out; /* EPOLLOUT is asked for */
};

struct pull {
    uint16_t level; /* connections that may wait here, per cell */
    char context[SERVICE_NAME_MAX];
};

struct context {
    struct context *next;
    struct service_context said;
};

struct tlsagent {
    char *path;
    uint8_t *mine; /* a page that is wiped in a forked child: [0] is 1 in the owner only */
    int epoll;
    int timer;     /* in the epoll set: makes it readable when time wants a call */
    int64_t armed; /* what the timer is set to, 0: not set */
    int bell; /* the same when somebody is finished: a timer that is due costs twenty times as much
               */
    bool rung;
    int greeting; /* first connection, -1: none */
    bool welcomed;
    int64_t greeting_until; /* the welcome must have come */
    int64_t connect_at;     /* not before */
    int trouble_code;       /* why there is no connection */
    bool crowded;           /* ... too many connect at once */
    struct error trouble;
    struct context *contexts;
    size_t context_count;
    struct cell *cells;
    size_t cell_count;
    uint64_t serials;
    size_t turn;       /* round robin among equally busy cells */
    bool dispatch_due; /* something changed for those who wait */
    bool damaged;      /* what we lost comes only with a new greeting */
    struct conn_list prepared;
    struct conn_list waiting;
    struct conn_list finished; /* and not yet told */
    uint8_t pull_forms;        /* that are asked for with pulls */
    bool pull_plain;           /* ... for plain read() and write() */
    struct pull pulls[AGENT_PULLS_MAX];
    size_t pull_count;
    bool pull_failed; /* error says why; tlsagent_accept() has not yet told */
    int code;         /* of error */
    struct error error;
    uint8_t *buffer; /* CHANNEL_BUFFER_SIZE; wiped after every message with keys */
};

/* ---- agent.c ---- */

int64_t agent_now(void); /* milliseconds, monotonic */

/* False in a forked child of the process that opened the handle. */
bool agent_is_ours(const struct tlsagent *agent);

/* -1 with an error on the handle if this process is a forked child of the owner. */
int agent_check_owner(struct tlsagent *agent);

/* Set the handle's error and code; always returns -1. */
int agent_fail(struct tlsagent *agent, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void agent_clear_error(struct tlsagent *agent);

/* Wait up to AGENT_ANSWER_MS for a channel to a cell. -1: the handle's error says why not. */
int agent_wait_ready(struct tlsagent *agent);

/* Handle what has come, after waiting for it up to timeout_ms (-1: for ever, or until time wants
 * something done). Bounded work. */
void agent_pump(struct tlsagent *agent, int timeout_ms);

/* Milliseconds until time wants something done, or until `until` (0: no limit). -1: for ever. */
int agent_patience(const struct tlsagent *agent, int64_t until);

/* To be called before a public function returns: tlsagent_fd() becomes readable when it must. */
void agent_leave(struct tlsagent *agent);

/* ---- greeting.c ---- */

/* Make sure that there is a first connection, greeted or not. -1: agent->trouble says why not. */
int agent_connect(struct tlsagent *agent);

/* The same at once, and if too many others connect, wait for our turn among them. */
int agent_connect_wait(struct tlsagent *agent, int wait_ms);

/* The first connection is gone or must go: every handshake that was asked fails. */
void agent_lose(struct tlsagent *agent, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* True if the agent has closed the first connection; then agent_lose() was called. */
bool agent_notice_loss(struct tlsagent *agent);

/* Handle what the supervisor has said. */
void agent_read_greeting(struct tlsagent *agent);

/* Forget what was said, and the cells. No connection may refer to them any more. */
void agent_forget(struct tlsagent *agent);

const struct context *agent_find_context(const struct tlsagent *agent, const char *name);
bool agent_has_cell(const struct tlsagent *agent); /* with an open channel */

/* ---- cell.c ---- */

/* A channel has arrived: takes over fd. Replaces the cell's old one. */
int cell_install(struct tlsagent *agent, const struct service_channel *said, int fd);
void cell_handle_event(struct tlsagent *agent, struct cell *cell, uint32_t events);

/* A channel has come to its end. Drain: handle what was sent before. Lose: close it; the handshakes
 * that it had are asked again elsewhere where that is safe, or fail. why: what it did, NULL: died.
 */
void cell_drain(struct tlsagent *agent, struct cell *cell);
void cell_lose(struct tlsagent *agent, struct cell *cell, const char *why);

/* The least busy cell for the context (any cell if we were not told of it); NULL: none. */
struct cell *cell_choose(struct tlsagent *agent, const char *context, uint64_t avoid);

/* Ask the cell for the connection's handshake: it becomes ASKED or QUEUED, or FAILED. Returns -1
 * if the cell turned out to be dead. */
int cell_ask(struct tlsagent *agent, struct cell *cell, struct tlsagent_conn *conn);
void cell_cancel(struct tlsagent *agent, struct tlsagent_conn *conn);
void cell_flush(struct tlsagent *agent, struct cell *cell);

/* ---- accept.c ---- */

/* A new channel: every credit is owed to it. */
void pull_grant_all(struct tlsagent *agent, struct cell *cell);
bool pull_owed(const struct cell *cell); /* something is to be sent */
/* Send what is owed. CHANNEL_AGAIN: no room now. */
enum channel_result pull_send_owed(struct tlsagent *agent, struct cell *cell);
/* A connection arrived; takes the fd out of the message. -1: the agent broke the rules. */
int pull_handle_delivered(struct tlsagent *agent, struct cell *cell,
                          struct channel_message *message, struct error *error);
/* The caller has taken a delivered connection: another may come. */
void pull_replace_credit(struct tlsagent *agent, uint64_t serial, const char *context);

/* ---- conn.c ---- */

struct tlsagent_conn *conn_new(int fd);
void conn_free(struct tlsagent_conn *conn);
void conn_move(struct tlsagent_conn *conn, struct conn_list *list, enum conn_phase phase);

/* To the waiting ones, in order of time. Somebody must see to it that they are dispatched. */
void conn_wait(struct tlsagent_conn *conn);

/* The agent's answer: keep the facts, start the data stream. An error is left in conn->code. */
void conn_start_stream(struct tlsagent_conn *conn, const struct service_finished *said);

/* The handshake is over: on to the finished ones. */
void conn_finish(struct tlsagent_conn *conn, enum conn_phase phase);
/* The connection stands alone now. */
void conn_detach(struct tlsagent_conn *conn);
/* ... because the caller knows how it went. */
void conn_take(struct tlsagent_conn *conn);

/* Set the error (the first one wins); always returns -1. */
int conn_set_error(struct tlsagent_conn *conn, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void conn_clear_error(struct tlsagent_conn *conn);
/* conn_set_error() and conn_finish(). */
void conn_fail(struct tlsagent_conn *conn, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Was this form asked for? A stream is made out of records. */
/* What a caller's forms mean: those to ask for, and whether plain read() and write() are meant.
 * Returns NULL, or what is wrong with them. */
const char *conn_forms_read(unsigned forms, uint8_t *asked, bool *plain);

bool conn_form_fits(uint8_t form, uint8_t asked);

/* Ask a cell, or wait for one. May fail the connection. */
void conn_dispatch(struct tlsagent_conn *conn);
/* The cell sent it back or died: once more, elsewhere, if that is safe. False: it is not. */
bool conn_retry(struct tlsagent_conn *conn, bool proven);
/* It has waited long enough. */
void conn_expire(struct tlsagent_conn *conn);

/* ---- plain.c ---- */

/* Form STREAM: the plain descriptor is this one. */
void conn_set_plain(struct tlsagent_conn *conn, int fd, bool owns_fd);

/* ... and it still is: it belongs to the caller, who may have closed it. -1: the error says so. */
int conn_check_plain(struct tlsagent_conn *conn);

/* ---- facts.c ---- */

/* One allocation with everything; NULL: no memory. The chain must be valid. */
struct conn_facts *facts_new(const struct service_finished *said);
/* True if it is a list of at most SERVICE_CHAIN_LENGTH certificates, none empty, to the last byte.
 */
bool facts_chain_valid(const uint8_t *chain, size_t size);

#endif
