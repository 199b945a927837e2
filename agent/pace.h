/*
 * pace.h: how often somebody may do something: so many times a second, and a burst of so many at
 * once.
 *
 * Role: supervisor and handshaker, for what a worker can make them do for nothing.
 */
#ifndef AGENT_PACE_H
#define AGENT_PACE_H

#include <stdbool.h>
#include <stdint.h>

struct pace {
    uint64_t owed; /* ms, as loop_now(): until then what was done is more than per_second */
};

/* Once more? per_second: at most 1000. False: not now. */
static inline bool
pace_take(struct pace *pace, uint64_t now, unsigned per_second, unsigned burst)
{
    uint64_t step = 1000 / per_second, owed = pace->owed > now ? pace->owed : now;

    if (owed - now >= step * burst)
        return false;
    pace->owed = owed + step;
    return true;
}

#endif
