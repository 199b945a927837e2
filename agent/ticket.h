/*
 * ticket.h: sealing and opening of session tickets, and of sessions for the cache.
 *
 * Role: the keeper. A ticket is sealed with AES-256-GCM under a key of its period (3 hours if the
 * configuration says nothing else), which follows from the secret that all keepers of a cell group
 * share (ticket_state.h), so every cell has the same key at the same moment without a word between
 * them:
 *
 *     key = HKDF-SHA256(secret of the period, info = "tlsagent ticket key")
 *
 * The nonce is random and ours: a requester that chose it could forge. The scope (a digest of all
 * that the ticket is bound to) and the period are associated data. A ticket can be opened during
 * its own period and the ones after it that cover its life (12 hours). Tickets from the future are
 * refused, but for those from a host of the fleet whose clock is a little ahead of ours.
 *
 * Trust: plaintext, tickets and scopes come from a handshaker that may have been taken over. It can
 * seal what it likes and open what it is shown; it learns no key.
 */
#ifndef AGENT_TICKET_H
#define AGENT_TICKET_H

#include <stddef.h>
#include <stdint.h>

#include "agent/ticket_state.h"
#include "protocol/error.h"
#include "protocol/keyops.h"

#define TICKET_SKEW 600 /* seconds, and one period at most, that another host may be ahead */

/* Tickets opened per second, and at once. No cell can do so many honest handshakes. */
#define TICKET_OPENS_PER_SECOND 20000

struct ticket_box;

/* Seconds since 1970: time() in the keeper, a test's own clock in tests. */
typedef uint64_t ticket_clock(void);

/* state must outlive the box, which forgets in it what has expired. Returns NULL with an error. */
struct ticket_box *ticket_box_new(struct ticket_state *state, ticket_clock *clock,
                                  struct error *error);
void ticket_box_free(struct ticket_box *box); /* wipes keys; NULL-safe */

/* Forget what has expired. Each call below does so too; this is for a keeper without work. */
void ticket_tick(struct ticket_box *box);

/* Both return 0 and the body of the answer in out (see struct keyops_ticket), *size bytes long, or
 * the reason of the refusal. out must have room for KEYOPS_TICKET_MAX + KEYOPS_TICKET_EXTRA. */
int ticket_seal(struct ticket_box *box, const struct keyops_ticket *request, uint8_t *out,
                size_t *size);
int ticket_open(struct ticket_box *box, const struct keyops_ticket *request, uint8_t *out,
                size_t *size);

/* How handshakers recognize our tickets: *size bytes, at most
 * KEYOPS_FILTERS_MAX * KEYOPS_FILTER_SIZE. */
void ticket_filters(const struct ticket_box *box, uint8_t *out, size_t *size);

#endif
