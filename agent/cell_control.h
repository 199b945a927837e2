/*
 * cell_control.h: the supervisor's ends of the channels to the cells' processes.
 *
 * Role: supervisor. Each process says HELLO, gets what it starts with (its part of the generation,
 * ticket keys, listening sockets), says READY, and then answers PINGs (watchdog.h); a handshaker
 * gets workers' channels meanwhile. Trust: none in what a process says; one that says what it may
 * not, or does not listen, costs its cell (cells_fail()).
 */
#ifndef AGENT_CELL_CONTROL_H
#define AGENT_CELL_CONTROL_H

#include <stdint.h>

#include "agent/cells.h"

/* What a cell_process' watch calls. */
void cell_control_ready(struct loop_watch *watch, uint32_t events);

/* Go on with what the process should have got by now, if it has not got all of it. */
void cell_control_hand_again(struct cell_process *process);

/* Give the cell's handshaker a channel to a worker; the fd stays the caller's. */
enum channel_result cell_control_pass_worker(struct cell *cell, const struct control_worker *worker,
                                             int channel);

/* Have every handshaker close this user's channels. */
void cell_control_dismiss(struct cells *cells, uint32_t uid);

/* A cell group's page of ticket keys is another one now: give it to its keepers. */
void cell_control_pass_tickets(struct cells *cells, unsigned group);

#endif
