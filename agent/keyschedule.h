/*
 * keyschedule.h: the TLS 1.3 key schedule (RFC 8446 section 7.1) as libssl asks for it.
 *
 * libssl derives each secret of a handshake through the algorithm "TLS13-KDF" (in TLS 1.2 through
 * "TLS1-PRF": tls12prf.h), and computes its Finished messages with "HMAC". Ours take their place in
 * the handshaker: the same values (tests/unit/test_keyschedule.c compares them with libcrypto's)
 * for a fraction of the price, and this one can tell export.c the secrets that OpenSSL has no call
 * for.
 *
 * Role: handshaker. Trust: called by our own libssl only.
 */
#ifndef AGENT_KEYSCHEDULE_H
#define AGENT_KEYSCHEDULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/error.h"

/* Make it what the default context's users get. Idempotent; before the first SSL_CTX. Returns 0, or
 * -1 with an error: also if libcrypto would take another one all the same. */
int keyschedule_load(struct error *error);

enum keyschedule_secret {
    KEYSCHEDULE_CLIENT, /* application traffic secrets */
    KEYSCHEDULE_SERVER,
    KEYSCHEDULE_RESUMPTION,
};

/* From now on, call this with each of these secrets that a handshake derives, at the moment when
 * libssl begins to use it. One per process. */
void keyschedule_observe(void (*derived)(enum keyschedule_secret which, const uint8_t *secret,
                                         size_t size));

#endif
