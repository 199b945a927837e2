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
    uint64_t owed; /* us of loop_now(): until then what was done is more than per_second */
};

/* Once more? now: ms, as loop_now(). False: not now. */
static inline bool
pace_take(struct pace *pace, uint64_t now, unsigned per_second, unsigned burst)
{
    uint64_t step = 1000000 / per_second, start = now * 1000;
    uint64_t owed = pace->owed > start ? pace->owed : start;

    if (owed - start >= step * burst)
        return false;
    pace->owed = owed + step;
    return true;
}

#endif
