/*
 * ticket.h: sealing and opening of session tickets.
 *
 * Role: the keeper. A ticket is sealed with AES-256-GCM under a key of its period (3 hours), which
 * follows from the generation's ticket secret and the period's number, so every cell has the same
 * key at the same moment without a word between them:
 *
 *     key = HKDF-SHA256(secret, info = "tlsagent ticket key" || period (64 bits))
 *
 * The nonce is random and ours: a requester that chose it could forge. The scope (a digest of all
 * that the ticket is bound to) and the period are associated data. A ticket can be opened during
 * its own period and the four after it: 12 hours at least, 15 at most. Tickets from the future are
 * refused.
 *
 * Trust: plaintext, tickets and scopes come from a handshaker that may have been taken over. It can
 * seal what it likes and open what it is shown; it learns no key.
 */
#ifndef AGENT_TICKET_H
#define AGENT_TICKET_H

#include <stddef.h>
#include <stdint.h>

#include "agent/generation.h"
#include "protocol/error.h"
#include "protocol/keyops.h"

#define TICKET_PERIOD      10800 /* seconds of one key */
#define TICKET_PERIODS_OLD 4     /* older periods whose tickets are still opened */

/* Tickets opened per second, and at once. No cell can do so many honest handshakes. */
#define TICKET_OPENS_PER_SECOND 20000

struct ticket_box;

/* Seconds since 1970: time() in the keeper, a test's own clock in tests. */
typedef uint64_t ticket_clock(void);

/* Copies secret into libcrypto's memory. Returns NULL with an error. */
struct ticket_box *ticket_box_new(const uint8_t secret[GENERATION_TICKET_SECRET],
                                  ticket_clock *clock, struct error *error);
void ticket_box_free(struct ticket_box *box); /* wipes; NULL-safe */

/* Both return 0 and the body of the answer in out (see struct keyops_ticket), *size bytes long, or
 * the reason of the refusal. out must have room for KEYOPS_TICKET_MAX + KEYOPS_TICKET_EXTRA. */
int ticket_seal(struct ticket_box *box, const struct keyops_ticket *request, uint8_t *out,
                size_t *size);
int ticket_open(struct ticket_box *box, const struct keyops_ticket *request, uint8_t *out,
                size_t *size);

#endif
