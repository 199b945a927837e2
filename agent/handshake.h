/*
 * handshake.h: one TLS handshake with one peer, from the accepted socket to the exported state.
 *
 * Role: handshaker. Trust: the peer is hostile; whoever brought the fd may be too (it shares the
 * open file and can race on it: the worst it gets is its own broken handshake).
 *
 * States: RUNNING -> FINISHED or FAILED; then the owner's done() is called, once. A handshake that
 * is no longer wanted is freed in any state. The fd is closed by whoever takes it or by free.
 */
#ifndef AGENT_HANDSHAKE_H
#define AGENT_HANDSHAKE_H

#include <stdint.h>

#include "agent/cell.h"
#include "agent/export.h"
#include "agent/newticket.h"
#include "agent/store.h"
#include "agent/transport.h"
#include "protocol/service.h"

enum handshake_state {
    HANDSHAKE_RUNNING,
    HANDSHAKE_FINISHED, /* record state exported, OpenSSL's objects gone */
    HANDSHAKE_FAILED,   /* failed says why */
};

struct handshake {
    struct loop_watch watch;
    struct loop_timer deadline;
    struct cell *cell; /* does not own */
    size_t context;    /* position in the generation */
    enum handshake_state state;
    int fd; /* owned */
    uint32_t deadline_ms;
    uint8_t forms; /* enum service_form, or-ed: how it may be handed back */
    uint8_t form;  /* handed back: the one chosen */
    void (*done)(struct handshake *handshake);

    /* The owner's part: who asked, and lists. */
    struct worker *worker; /* NULL: we accepted the connection ourselves */
    uint64_t blame;        /* who brought the fd (serving.h); 0: nobody, it is ours */
    uint32_t id;
    struct handshake *next;
    struct handshake *previous;

    /* RUNNING */
    SSL *ssl;
    struct transport transport;
    struct export_state collected;
    struct store_lookup lookup; /* of a session id, in the fleet's store */
    struct newticket tickets;   /* that we make ourselves */
    bool exported;              /* OpenSSL is done: traffic is filled in */
    uint64_t started;           /* loop_now() */

    /* FINISHED */
    struct traffic_state traffic;
    uint8_t resumed;
    uint8_t *chain; /* owned; as in struct service_finished */
    size_t chain_size;
    char sni[SERVICE_HOST_MAX];
    char alpn[SERVICE_ALPN_MAX];

    struct service_failed failed;
};

/* What identity.c needs to know about handshakes. */
extern const struct identity_hooks handshake_hooks;

/* A connection's question to the fleet's store, and what happens when it is answered (sessions.h).
 */
struct store_lookup *handshake_lookup(const SSL *ssl);
void handshake_answered(struct store_lookup *lookup);

/* One that waited for its ticket: it has been opened, or not (proxyticket_open_waiting()). */
void handshake_go_on(SSL *ssl);

/* Can kernel TLS follow on this socket at all? */
bool handshake_kernel_possible(const struct cell *cell, int fd);

/* forms: how it may be handed back, as far as is known. Start on fd, whose ownership passes (also
 * on failure). done() is not called before this function has returned unless the handshake ends at
 * once, so it may free the handshake. Returns NULL if memory is short (then fd is closed and done()
 * never called). */
struct handshake *handshake_new(struct cell *cell, size_t context, int fd, uint8_t forms,
                                uint32_t deadline_ms, void (*done)(struct handshake *handshake));

/* Wait for the peer's first bytes. They are seldom there when a connection is accepted, and must be
 * waited for a second time anyhow: to ask for them at once costs a system call, and libssl's
 * buffers for peers who never send anything. May end it. */
void handshake_start(struct handshake *handshake);

/* Go on with what the peer has sent. May end it. */
void handshake_run(struct handshake *handshake);

/* Free, close the fd, wipe. Sends nothing. */
void handshake_free(struct handshake *handshake);

/* FINISHED: decide on the form, one that the worker takes too, and put the keys into the kernel if
 * it is that one; then the keys are not ours to give any more. -1: it is FAILED now (done() is not
 * called again), and the connection must be closed. */
int handshake_hand_back(struct handshake *handshake, uint8_t forms);

/* Handed back: fill in a message; its pointers are into the handshake. */
void handshake_describe(const struct handshake *handshake, struct service_finished *finished);

#endif
