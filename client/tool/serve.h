/*
 * serve.h: what the files of `tlsagent serve` share.
 *
 * One process with one epoll loop accepts connections (or lets the agent accept), has the agent do
 * the handshakes and gives every finished connection to a relay (client/helper.h). What is on the
 * other side of the relay is a program (serve_run.c: a process for each connection) or a plaintext
 * server (serve_to.c). serve_facts.c has what these are told about the connection, serve_relay.c
 * the relays, serve_conn.c how a connection begins and ends, serve_start.c and serve_options.c the
 * start, serve.c the loop.
 *
 * Trust: runs as the worker's user and holds no key but those of connections on their way to the
 * relay. Client certificates are the peer's and hostile; the agent has verified them.
 */
#ifndef CLIENT_TOOL_SERVE_H
#define CLIENT_TOOL_SERVE_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/queue.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#include "client/helper.h"
#include "client/tlsagent.h"

#define SERVE_LISTEN_MAX 16
#define SERVE_RELAYS_MAX 64
#define SERVE_RETRY_MS   1000 /* out of descriptors, or the agent is away */
#define SERVE_BUSY_MS    20   /* the plaintext server's queue is full */

/* What an epoll event is about: the first member of what data.ptr points to. */
enum serve_source {
    SERVE_LISTENER,
    SERVE_AGENT,
    SERVE_SIGNALS,
    SERVE_RELAY,
    SERVE_CONTROL, /* a program's SSLCTLFD */
    SERVE_BACKEND, /* being connected to */
};

struct serve_event {
    enum serve_source source;
    int fd; /* -1: closed */
};

struct serve_options {
    const char *context;
    const char *socket; /* of the agent; NULL: the default */
    const char *user;
    const char *listen[SERVE_LISTEN_MAX];
    size_t listen_count;
    bool agent_listener;
    char **program; /* NULL: `to` */
    bool fork;      /* said; a program has a process for each connection anyway */
    bool ucspi;     /* fds 6 and 7 instead of 0 and 1 */
    bool starttls;  /* UCSPI-TLS: in the clear until the program asks */
    const char *to;
    bool proxy_protocol;
    bool verbose;
    unsigned max;
    unsigned relays;
};

struct serve_relay {
    struct serve_event event;
    uint32_t live; /* connections that it has and will tell the end of */
};

/* A connection from its acceptance until nobody counts it any more. */
struct serve_conn {
    struct serve_event event; /* CONTROL or BACKEND */
    TAILQ_ENTRY(serve_conn) link;
    struct tlsagent_conn *conn; /* NULL: not begun, or given to the relay */
    struct serve_relay *relay;  /* NULL: not given, or its end is not told */
    struct sockaddr_storage peer, local;
    int fd;    /* TCP; -1: given away */
    int plain; /* UCSPI-TLS: our end of the pair, until it is given */
    pid_t pid; /* of its program, 0: none (any more) */
    uint32_t id;
    int64_t busy_until; /* the plaintext server's queue is full: tried again until then; 0: no */
    char command;       /* UCSPI-TLS: 'y' or 'Y' once it has come */
};

TAILQ_HEAD(serve_list, serve_conn);

struct serve {
    const struct serve_options *options;
    struct tlsagent *agent;
    struct serve_event agent_event;
    struct serve_event signals;
    struct serve_event listeners[SERVE_LISTEN_MAX];
    size_t listener_count;
    struct serve_relay relays[SERVE_RELAYS_MAX];
    struct serve_list conns;
    struct serve_list dead; /* to be freed when the events of this round are handled */
    unsigned count;
    unsigned turn; /* of the relays */
    unsigned busy; /* connections with a busy_until */
    uint32_t next_id;
    int epoll;
    bool accepts;        /* listeners (or the agent) are watched */
    bool stopping;       /* accept no more, end with the last connection */
    int64_t pause_until; /* nothing is accepted until then, 0: it is */
    int64_t pull_at;     /* when to ask the agent for its connections again, 0: done */
    int64_t complained;  /* when a backend's failure was last told */
    struct sockaddr_storage to;
    socklen_t to_size;
    struct rlimit files; /* what programs get back */
    char *relay_program;
};

/* ---- serve.c ---- */

void serve_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
int64_t serve_now(void); /* milliseconds, monotonic */

int serve_watch(struct serve *serve, struct serve_event *event, uint32_t events);
void serve_unwatch(struct serve *serve, struct serve_event *event);

/* ---- serve_options.c, serve_start.c ---- */

/* TOOL_OK, or how to end: then it was said why. */
int serve_read_options(struct serve_options *options, int argc, char **argv);

/* -1: the error says why, or it was said. */
int serve_start(struct serve *serve, struct error *error);

/* ---- serve_relay.c ---- */

int serve_start_relay(struct serve *serve, struct serve_relay *relay);
void serve_hear_relay(struct serve *serve, struct serve_relay *relay);

/* Give the connection to a relay. kind, plain, tell: as struct helper_gift. -1: it was said why. */
int serve_give(struct serve *serve, struct serve_conn *conn, int plain, enum relay_plain kind,
               bool tell);

/* ---- serve_conn.c ---- */

bool serve_is_full(const struct serve *serve);
void serve_accept(struct serve *serve, int listener);

/* Ask the agent for the connections that it accepts; again later if it is away. */
void serve_pull(struct serve *serve);

/* Handshakes that are over, and what the agent has accepted. */
void serve_take_finished(struct serve *serve);

/* Begin the handshake. The connection may be dropped in here. */
void serve_handshake(struct serve *serve, struct serve_conn *conn);

/* What we still have of it is closed. Freed if no program and no relay is counted for it. */
void serve_drop(struct serve *serve, struct serve_conn *conn);

/* ---- serve_run.c ---- */

void serve_run_finished(struct serve *serve, struct serve_conn *conn);
void serve_run_starttls(struct serve *serve, struct serve_conn *conn);
void serve_run_control(struct serve *serve, struct serve_conn *conn);
void serve_run_starttls_done(struct serve *serve, struct serve_conn *conn);
void serve_run_reap(struct serve *serve);

/* ---- serve_to.c ---- */

int serve_to_resolve(struct serve *serve, const char *to, struct error *error);
void serve_to_finished(struct serve *serve, struct serve_conn *conn);
void serve_to_retry(struct serve *serve); /* those that found its queue full */
void serve_to_connected(struct serve *serve, struct serve_conn *conn);

/* ---- serve_facts.c ---- */

/* "NAME=value" texts about the connection, ended by NULL; with_tls: also what TLS says. NULL: no
 * memory. Freed by serve_facts_free(). */
char **serve_facts_new(const struct serve_conn *conn, bool with_tls, bool with_address);
void serve_facts_free(char **facts);

/* True if the environment variable's name is one that only we may set. */
bool serve_facts_owns(const char *variable);

/* "192.0.2.1" or "2001:db8::1" (an IPv4-mapped address as IPv4), and the port. */
void serve_facts_address(const struct sockaddr_storage *address, char *text, size_t size,
                         unsigned *port);

#endif
