/*
 * requests.h: what a worker asks for: handshakes, connections that we accept, and to forget it.
 *
 * Role: handshaker. Trust: everything in a request is the worker's choice, the descriptor too. Here
 * it is decided what it may have; workers.c keeps the channel.
 */
#ifndef AGENT_REQUESTS_H
#define AGENT_REQUESTS_H

#include "agent/handshake.h"
#include "agent/outbox.h"
#include "agent/users.h"
#include "agent/workers.h"

/* A channel to a worker. */
struct worker {
    struct loop_watch watch;
    struct cell *cell;
    struct user *user;
    int channel;
    struct control_worker credentials;
    struct handshake *handshakes; /* in progress for this worker */
    struct pull *pulls;
    struct outbox outbox;
    struct worker *next_due;
    struct worker *next;
    struct worker *previous;
    bool paused;  /* not read now: too many refused requests */
    bool due;     /* has answers of this round */
    bool blocked; /* the channel has no room */
    bool crowded; /* answers wait for room for their fd, not for room in the channel */
    bool closed;  /* its memory goes at the end of the round */
};

/* Do what the message asks for. The channel may be closed by this. */
void requests_serve(struct worker *worker, struct channel_message *message);

/* ---- what workers.c does for it ---- */

/* The worker's mark while we touch what is its (serving.h). */
uint64_t worker_mark(const struct control_worker *who);

/* The worker broke the protocol. */
void worker_refuse(struct worker *worker, const char *why);

/* The worker made us do something for nothing. */
void worker_bother(struct worker *worker, bool retryable);

/* Take a handshake out of its worker's list: it is over, or no longer wanted. */
void worker_forget(struct handshake *handshake);

/* Answer, in order: it goes with the others of this round. */
void worker_answer_failed(struct worker *worker, const struct service_failed *failed);

/* FINISHED, or DELIVERED with fd, which it takes (-1: none). */
void worker_answer_finished(struct worker *worker, uint16_t type, const struct handshake *handshake,
                            int fd);

#endif
