/*
 * watchdog.h: is each process of the cells still there?
 *
 * Role: supervisor. Each is asked twice a second. One that is silent costs its cell: after
 * CELLS_SILENCE_MS; sooner if it is blocked in what a worker gave it, which then is to blame.
 */
#ifndef AGENT_WATCHDOG_H
#define AGENT_WATCHDOG_H

#include <stdbool.h>

#include "agent/cells.h"

/* Once, before watchdog_start(). */
void watchdog_init(struct cells *cells);
void watchdog_start(struct cells *cells);

/* Ask every running process now; cells->hooks.answered follows, or never if one does not answer. */
void watchdog_ping(struct cells *cells);
bool watchdog_answered(const struct cells *cells);

#endif
