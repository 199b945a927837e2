/*
 * acceptor.h: the agent's own listening sockets, and finished connections that wait for a worker.
 *
 * Role: handshaker. All cells share one listening socket (EPOLLEXCLUSIVE): a dead cell leaves no
 * queue behind. Slow and broken clients never reach a worker: it gets only finished connections, as
 * many as it gave credit for. Nothing is accepted for which no worker is there; a connection that
 * nobody takes in time expires.
 */
#ifndef AGENT_ACCEPTOR_H
#define AGENT_ACCEPTOR_H

#include "agent/cell.h"
#include "agent/workers.h"

/* Accept on this socket for the context from now on, whenever there is credit. Takes fd. */
void acceptor_add_listener(struct cell *cell, size_t context, int fd);

/* A worker's readiness appears and goes. */
void acceptor_add_pull(struct cell *cell, struct pull *pull);
void acceptor_remove_pull(struct cell *cell, struct pull *pull);

/* Credits, waiting connections or capacity have changed: deliver and watch accordingly. */
void acceptor_update(struct cell *cell, size_t context);

/* Finished connections that wait for a worker, in all contexts. */
uint32_t acceptor_waiting(const struct cell *cell);

#endif
