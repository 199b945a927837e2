/*
 * ticket_state.h: the secret from which ticket keys follow: one page that outlives generations,
 * cells and, handed on, the daemon itself.
 *
 * Role: made by the loader, used by keepers; the supervisor holds its fd and never maps it. It is a
 * memory file (memfd_secret where there is one) and never on disk.
 *
 * A *source* is a chain of secrets, one per period, that can only be followed forward:
 *
 *     S[p+1] = SHA-256("tlsagent ticket ratchet" || S[p])     key of p = HKDF(S[p], ...), ticket.c
 *
 * The page holds S of the oldest period whose tickets are still opened; whoever reads the page
 * cannot open anything older. Every keeper that finds the time to go on does so: it writes the
 * next secret into the other slot and then wipes the first. All write the same bytes, and each slot
 * has a check value, so no lock is needed and a keeper killed at any point harms nothing.
 *
 * A chain begins with random bytes, or, for a fleet, with what follows from the shared secret, at
 * a fixed date: hosts that never talk to each other agree. The page has room for two sources: the
 * current one, and the one before it (a fleet secret that was replaced), whose tickets are still
 * opened until they have expired.
 *
 * Limits: if the clock is set back, keys that were already forgotten stay forgotten: tickets are
 * sealed under the oldest one that is left until the time has come again.
 */
#ifndef AGENT_TICKET_STATE_H
#define AGENT_TICKET_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/error.h"
#include "protocol/keyops.h"

#define TICKET_PERIODS_MAX 64 /* life of a ticket, in periods */
#define TICKET_SECRET_SIZE 32
#define TICKET_SOURCES     2
#define TICKET_FLEET_MIN   32 /* bytes of a fleet's secret */
#define TICKET_FLEET_MAX   4096
#define TICKET_FLEET_EPOCH 1704067200 /* 2024-01-01: where a fleet's chain begins */

struct ticket_slot {
    uint64_t period;
    uint8_t secret[TICKET_SECRET_SIZE];
    uint8_t check[TICKET_SECRET_SIZE]; /* SHA-256 of a label and the above */
};

enum ticket_kind {
    TICKET_NONE,
    TICKET_OWN,   /* began with random bytes */
    TICKET_FLEET, /* began with the fleet's secret */
};

struct ticket_source {
    uint32_t kind;        /* enum ticket_kind */
    uint32_t period;      /* seconds */
    uint64_t last_period; /* 0: the current source; else nothing was sealed after this one */
    uint8_t filter[KEYOPS_FILTER_SIZE]; /* key name and HMAC key for handshakers: no secret */
    struct ticket_slot slots[2];
};

struct ticket_state {
    char magic[8];
    uint32_t life; /* seconds */
    struct ticket_source sources[TICKET_SOURCES];
};

/* What a new page is made from. */
struct ticket_plan {
    uint64_t now;
    uint32_t period;
    uint32_t life;
    const char *group;    /* cell groups have keys of their own */
    const uint8_t *fleet; /* NULL: not in a fleet */
    size_t fleet_size;
};

/* Write a page into fd (empty), going on from the one in old_fd if there is one (it may be empty,
 * or of another version or period: then its tickets are lost). For the loader. Returns 0, or -1
 * with an error. */
int ticket_state_make(int fd, int old_fd, const struct ticket_plan *plan, struct error *error);

/* Map a page; takes no ownership of fd. NULL with an error. */
struct ticket_state *ticket_state_map(int fd, struct error *error);
void ticket_state_unmap(struct ticket_state *state); /* NULL-safe */

/* The same without files: for the above, and for tests. */
bool ticket_state_fill(struct ticket_state *state, const struct ticket_state *old,
                       const struct ticket_plan *plan);

/* The secret of a period. False if it is already forgotten, or libcrypto failed. */
bool ticket_source_secret(const struct ticket_source *source, uint64_t period,
                          uint8_t secret[TICKET_SECRET_SIZE]);

/* The oldest period that is not forgotten; false if the source is damaged. */
bool ticket_source_oldest(const struct ticket_source *source, uint64_t *period);

/* Forget all before oldest. */
void ticket_source_advance(struct ticket_source *source, uint64_t oldest);

/* For how many periods after its own a ticket is opened. */
uint64_t ticket_periods(uint32_t life, uint32_t period);

#endif
