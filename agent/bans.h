/*
 * bans.h: users whose descriptors froze a cell are kept out for a while.
 *
 * Role: supervisor. The first time for BANS_FIRST_S, each further time twice as long, up to
 * BANS_LONGEST_S; who has kept quiet for BANS_MEMORY_S after a ban starts anew. A uid is what the
 * kernel tells about a worker, and all that its processes cannot change: so all of them share its
 * ban. Established connections do not notice.
 *
 * There is room for BANS_MAX. Whoever is banned when all of them are taken gets the place whose ban
 * ends first, of a user that the configuration does not name if there is one, and what this user
 * had done counts for the next. If it was still kept out, then until its time is over everybody is
 * kept out whom the configuration does not name: who has so many uids is not told from others by
 * them. Those who are named have their own places in the configuration and are not concerned.
 *
 * Trust: who is to blame is a handshaker's word (serving.h). One that was taken over can have
 * users banned whom it served itself, one for each time that it lets itself be killed, for the
 * times above; it gains nothing else by it.
 */
#ifndef AGENT_BANS_H
#define AGENT_BANS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BANS_FIRST_S   10
#define BANS_LONGEST_S 3600
#define BANS_MEMORY_S  3600
#define BANS_MAX       64 /* users */

struct ban {
    uint32_t uid;
    uint32_t pid;   /* of the worker, the last time */
    uint32_t times; /* 0: this place is free */
    bool named;     /* by the configuration */
    uint64_t until; /* ms, as loop_now() */
};

struct bans {
    struct ban list[BANS_MAX];
    uint64_t
        others_until; /* ms: so long users are kept out that are neither named nor in the list */
};

/* The user froze a cell. Returns the ban, or NULL if it is banned already: it did this before it
 * was. */
const struct ban *bans_add(struct bans *bans, uint32_t uid, uint32_t pid, bool named, uint64_t now);

/* Seconds for which the user is still kept out; 0: it may come in. */
uint32_t bans_left(const struct bans *bans, uint32_t uid, bool named, uint64_t now);

/* Has the user frozen a cell, and is that not forgotten yet? */
bool bans_remember(const struct bans *bans, uint32_t uid, uint64_t now);

/* Ban number n of those that are in force, NULL: there are no more. */
const struct ban *bans_get(const struct bans *bans, size_t n, uint64_t now);

#endif
