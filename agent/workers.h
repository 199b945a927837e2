/*
 * workers.h: the channels to workers: their requests, our answers.
 *
 * Role: handshaker. Trust: a worker is hostile. A message that breaks the protocol costs it its
 * channel (closed, logged, counted) and nobody else anything. Who it is was told by the
 * supervisor, never by itself.
 */
#ifndef AGENT_WORKERS_H
#define AGENT_WORKERS_H

#include <stdbool.h>

#include "agent/cell.h"
#include "agent/handshake.h"

/* A worker's readiness for connections of one context that we accepted. */
struct pull {
    struct worker *worker;
    size_t context;
    uint16_t credits;
    uint8_t forms;                /* as its last message said: how the worker takes connections */
    struct pull *next_of_context; /* turn order; see cell_context */
    struct pull *next_of_worker;
};

/* A user that loses all its channels. */
void workers_dismiss(struct cell *cell, uint32_t uid);

/* Serve a new channel, whose ownership passes. */
void workers_add(struct cell *cell, int channel, const struct control_worker *credentials);

/* May the worker get one more descriptor now? Not if its uid has left too many unread. */
bool workers_may_deliver(const struct pull *pull);

/* Look again in a moment, at what could not be delivered for that reason. */
void workers_look_again(struct cell *cell);
void workers_init(struct cell *cell);

/* Send the answers of this round. Done at its end; and before this process ends. */
void workers_send_answers(struct cell *cell);

/* Give a finished handshake to the worker of this pull: takes one credit, frees the handshake. The
 * channel may be closed by this. */
void workers_deliver(struct pull *pull, struct handshake *handshake);

#endif
