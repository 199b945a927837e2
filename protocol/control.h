/*
 * control.h: the supervisor's own channels: to keepers and handshakers (CONTROL_*), to the loader
 * (LOAD_*), and to the command `tlsagent` (ADMIN_*). Each has an enum and tables of its own: what
 * is not in a receiver's table cannot be said to it.
 *
 * Trust: the supervisor believes no role. It takes only fixed-size messages from handshakers and
 * keepers, and checks every value.
 */
#ifndef PROTOCOL_CONTROL_H
#define PROTOCOL_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/channel.h"
#include "protocol/service.h"

/* ---- supervisor <-> keeper, supervisor <-> handshaker ---- */

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

extern const struct channel_rule control_keeper_rules[]; /* what a keeper takes */
extern const size_t control_keeper_rule_count;
extern const struct channel_rule control_handshaker_rules[]; /* what a handshaker takes */
extern const size_t control_handshaker_rule_count;
extern const struct channel_rule control_fetcher_rules[];
extern const size_t control_fetcher_rule_count;
extern const struct channel_rule control_supervisor_rules[]; /* ... the supervisor from them */
extern const size_t control_supervisor_rule_count;

/* ---- supervisor <-> loader ---- */

enum load_type {
    /* loader -> supervisor */
    LOAD_HELLO = 1, /* struct control_hello */
    LOAD_NEXT,      /* the last message was digested: send another (one at a time: few fds) */
    LOAD_WARNING,   /* text for the log; loading goes on */
    LOAD_FAILED,    /* text; the loader exits */
    LOAD_DONE,      /* both parts are written; the loader exits */
    /* supervisor -> loader */
    LOAD_BEGIN = 32, /* two fds: public part, secret part, both empty and writable */
    LOAD_CONTEXT,    /* starts a context; files and identities that follow belong to it */
    LOAD_FILE,       /* one fd: a file, for the identity or the context that follows/precedes */
    LOAD_IDENTITY,   /* makes an identity of the files since the last one */
    LOAD_END,        /* that was all */
    LOAD_TICKETS,    /* instead of a BEGIN; three fds: an empty page for ticket keys, the one
                        before it (may be empty), the fleet's secret file. Then DONE comes */
};

enum load_file {
    LOAD_CERTIFICATE = 1, /* PEM, DER, PKCS#12 or combined; may hold the key too */
    LOAD_KEY,
    LOAD_PASSPHRASE, /* first line, without its newline */
    LOAD_CLIENT_CA,  /* belongs to the context, not to an identity; PEM */
};

#define LOAD_PATH_MAX  1024
#define LOAD_NAMES_MAX 32   /* explicit SNI names of one identity */
#define LOAD_BLOB_MAX  8192 /* a context's parameters, encoded by generation.h */

struct load_begin {
    uint32_t generation;
};

struct load_tickets {
    uint32_t period; /* seconds */
    uint32_t life;
    uint8_t fleet;                /* 0: there is none, and the third fd is of no meaning */
    char group[SERVICE_NAME_MAX]; /* of cells: each has keys of its own */
};

struct load_context {
    const uint8_t *blob; /* generation_put_context(); the loader copies it through */
    size_t blob_size;
};

struct load_file_message {
    uint8_t kind;     /* enum load_file */
    const char *path; /* for messages only; decoded: path_buffer */
    char path_buffer[LOAD_PATH_MAX];
};

struct load_identity {
    char label[SERVICE_HOST_MAX]; /* for messages: the block's title or the directory's name */
    uint8_t is_default;
    uint16_t name_count;
    char names[LOAD_NAMES_MAX][SERVICE_HOST_MAX]; /* explicit; the loader adds the SANs */
};

struct load_text { /* WARNING, FAILED */
    char text[ERROR_TEXT_MAX];
};

struct load_done {
    uint32_t identities;
    uint32_t keys;
    uint64_t public_size;
    uint64_t secret_size;
};

extern const struct channel_rule load_loader_rules[];
extern const size_t load_loader_rule_count;
extern const struct channel_rule load_supervisor_rules[];
extern const size_t load_supervisor_rule_count;

/* ---- the command `tlsagent` <-> supervisor ---- */

#define ADMIN_DEFAULT_SOCKET "/run/tlsagent/control.sock"

enum admin_type {
    ADMIN_STATUS = 1, /* request */
    ADMIN_UPGRADE,    /* request: become the program that is installed now; END, then it happens */
    ADMIN_AGENT = 32, /* answer: one */
    ADMIN_PROCESS,    /* answer: one per process */
    ADMIN_CONTEXT,    /* answer: one per context */
    ADMIN_END,        /* answer: complete */
    ADMIN_DENIED,     /* answer: struct load_text */
    ADMIN_BAN,        /* answer: one per user that is kept out */
};

struct admin_agent {
    char build[SERVICE_BUILD_MAX];
    uint32_t generation;
    uint64_t uptime; /* seconds */
    uint32_t identities;
    uint32_t keys;
    uint32_t workers_denied;  /* connections refused because the worker is in no context */
    uint32_t layers_required; /* of the sandbox, by the configuration (enum sandbox_layer) */
    uint16_t kernel;          /* what kernel TLS can do: bits of protocol/kernel_tls.h */
    char configuration[LOAD_PATH_MAX];
};

struct admin_process {
    uint8_t role; /* enum control_role */
    uint16_t group;
    uint16_t cell;
    uint32_t pid;
    uint32_t restarts; /* of this role in this cell */
    uint64_t age;      /* seconds since it started */
    uint32_t layers;   /* of its sandbox, as it said in READY */
    struct control_pong pong;
};

struct admin_context {
    char name[SERVICE_NAME_MAX];
    uint16_t group;
    uint16_t listeners;
    struct control_context_counters counters; /* summed over cells, also over dead ones */
};

struct admin_ban {
    uint32_t uid;
    uint32_t pid;   /* of the worker that was to blame the last time */
    uint32_t times; /* that it has frozen a cell */
    uint32_t seconds;
};

extern const struct channel_rule admin_supervisor_rules[];
extern const size_t admin_supervisor_rule_count;
extern const struct channel_rule admin_command_rules[];
extern const size_t admin_command_rule_count;

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
size_t load_put_begin(const struct load_begin *m, void *buffer, size_t size);
bool load_get_begin(struct load_begin *m, const void *body, size_t size);
size_t load_put_tickets(const struct load_tickets *m, void *buffer, size_t size);
bool load_get_tickets(struct load_tickets *m, const void *body, size_t size);
size_t load_put_context(const struct load_context *m, void *buffer, size_t size);
bool load_get_context(struct load_context *m, const void *body, size_t size);
size_t load_put_file_message(const struct load_file_message *m, void *buffer, size_t size);
bool load_get_file_message(struct load_file_message *m, const void *body, size_t size);
size_t load_put_identity(const struct load_identity *m, void *buffer, size_t size);
bool load_get_identity(struct load_identity *m, const void *body, size_t size);
size_t load_put_text(const struct load_text *m, void *buffer, size_t size);
bool load_get_text(struct load_text *m, const void *body, size_t size);
size_t load_put_done(const struct load_done *m, void *buffer, size_t size);
bool load_get_done(struct load_done *m, const void *body, size_t size);
size_t admin_put_agent(const struct admin_agent *m, void *buffer, size_t size);
bool admin_get_agent(struct admin_agent *m, const void *body, size_t size);
size_t admin_put_process(const struct admin_process *m, void *buffer, size_t size);
bool admin_get_process(struct admin_process *m, const void *body, size_t size);
size_t admin_put_context(const struct admin_context *m, void *buffer, size_t size);
bool admin_get_context(struct admin_context *m, const void *body, size_t size);
size_t admin_put_ban(const struct admin_ban *m, void *buffer, size_t size);
bool admin_get_ban(struct admin_ban *m, const void *body, size_t size);

#endif
