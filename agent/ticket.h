/*
 * ticket.h: sealing and opening of session tickets, and of sessions for the cache.
 *
 * Role: the keeper. Each session is sealed under a key of its own, which follows from the key of
 * its period (3 hours if the configuration says nothing else), and that from the secret which all
 * keepers of a cell group share (ticket_state.h), so every cell has the same keys at the same
 * moment without a word between them:
 *
 *     period key   = HKDF-SHA256(secret of the period, info = "tlsagent ticket key")
 *     one-time key = HKDF-Expand(period key, info = "tlsagent one-time key" || scope || nonce)
 *
 * One-time keys go to the handshaker, who seals with them (onetime.h): with a signature or an
 * opened ticket, so that a ticket needs no call of its own, or for the asking. The nonce is random
 * and ours: a requester that chose it could open other people's tickets. Opening is done here, and
 * the keys of tickets that exist are never given out. A handshaker holds no key that could open a
 * ticket but those that it seals with in this moment.
 *
 * The scope (a digest of all that the session is bound to) and the period are associated data as
 * well. A ticket can be opened during its own period and the ones after it that cover its life (12
 * hours). Tickets from the future are refused, but for those from a host of the fleet whose clock
 * is a little ahead of ours.
 *
 * Trust: tickets and scopes come from a handshaker that may have been taken over. It can seal what
 * it likes and open what it is shown, within the limit; it learns no key of a period. One-time keys
 * that it hoards are worth as much as tickets sealed in advance, and as long.
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

/* Make one-time keys for a scope, as many as wished, of the current period. Returns how many: none
 * if libcrypto failed. */
size_t ticket_keys(struct ticket_box *box, const struct keyops_wish *wish, uint32_t *period,
                   struct keyops_ticket_key keys[KEYOPS_KEYS_MAX]);

/* Returns 0 and the result in out (see struct keyops_open_ticket), *size bytes long, or the reason
 * of the refusal. out must have room for 1 + KEYOPS_TICKET_MAX. */
int ticket_open(struct ticket_box *box, const struct keyops_open_ticket *request, uint8_t *out,
                size_t *size);

/* How handshakers recognize our tickets: *size bytes, at most
 * KEYOPS_FILTERS_MAX * KEYOPS_FILTER_SIZE. */
void ticket_filters(const struct ticket_box *box, uint8_t *out, size_t *size);

#endif
