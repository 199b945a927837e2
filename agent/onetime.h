/*
 * onetime.h: how a session is sealed, and keys that seal one session each.
 *
 * Role: the handshaker seals with what the keeper gave it; the keeper, who alone can make these
 * keys again (ticket.h), opens. AES-256-GCM; the key is good for one session, so the nonce of the
 * cipher is fixed. Associated data: the period, the scope, and the id of a session in the cache
 * (empty for a ticket: neither passes for the other).
 *
 * A handshaker holds a key from the keeper's answer to the end of the handshake at most. No
 * function gives a key away: onetime_seal() takes one, uses it and wipes it, whatever happens; that
 * is what keeps one from being used twice.
 */
#ifndef AGENT_ONETIME_H
#define AGENT_ONETIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/evp.h>

#include "protocol/keyops.h"

#define ONETIME_TAIL (KEYOPS_PERIOD_SIZE + KEYOPS_TAG_SIZE)

_Static_assert(KEYOPS_NONCE_SIZE + ONETIME_TAIL == KEYOPS_TICKET_EXTRA, "see keyops.h");

/* The cipher, fetched once. */
struct onetime_cipher {
    EVP_CIPHER *algorithm;
    EVP_CIPHER_CTX *ctx; /* without a key between two calls */
};

/* The keys in hand of one connection. */
struct onetime_keys {
    uint8_t scope[KEYOPS_SCOPE_SIZE]; /* that they are for */
    uint32_t period;
    size_t count;
    struct keyops_ticket_key keys[KEYOPS_KEYS_MAX];
};

/* Returns false if libcrypto has no such cipher or no memory. Free in any case. */
bool onetime_cipher_init(struct onetime_cipher *cipher);
void onetime_cipher_free(struct onetime_cipher *cipher);

/* Instead of those in hand: what an answer brought, for this scope. */
void onetime_take(struct onetime_keys *keys, const struct keyops_answer *answer,
                  const uint8_t scope[KEYOPS_SCOPE_SIZE]);

void onetime_wipe(struct onetime_keys *keys);

/* The nonce of the key that the next onetime_seal() will use. At least one must be in hand. */
const uint8_t *onetime_nonce(const struct onetime_keys *keys);

/* Use one key up. Writes the ciphertext (size bytes, may not overlap the session) and what goes
 * behind it: period and tag. False: none in hand, or libcrypto failed. */
bool onetime_seal(struct onetime_cipher *cipher, struct onetime_keys *keys, const uint8_t *id,
                  size_t id_size, const uint8_t *session, size_t size, uint8_t *ciphertext,
                  uint8_t tail[ONETIME_TAIL]);

/* The keeper: open the sealed session of a request with its key. plain has room for it less
 * KEYOPS_TICKET_EXTRA; on failure it is wiped. */
bool onetime_open(struct onetime_cipher *cipher, const uint8_t key[KEYOPS_KEY_SIZE],
                  const struct keyops_open_ticket *request, uint8_t *plain);

#endif
