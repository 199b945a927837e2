/*
 * callers.h: the users that come in at the well-known socket, and how often each may.
 *
 * Role: supervisor. A user that the configuration names (`workers { users }`) has a place of its
 * own. All others, who come by a group and may be many (a user with subordinate ids is as many as
 * it likes), share CALLERS_PLACES: a newcomer gets the place that has been quiet longest, with what
 * is owed there. So many together have no more than so few.
 */
#ifndef AGENT_CALLERS_H
#define AGENT_CALLERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/config.h"
#include "agent/pace.h"

#define CALLERS_PLACES 64

struct caller {
    uint32_t uid;
    bool taken;
    struct pace pace;
};

struct callers {
    struct caller *list; /* owned; those that are named first */
    size_t named, count;
};

/* Dies if memory is short. */
void callers_init(struct callers *callers, const struct config *config);

bool callers_is_named(const struct callers *callers, uint32_t uid);

/* The user's allowance, until the next call. */
struct pace *callers_pace(struct callers *callers, uint32_t uid);

#endif
