/*
 * tls12prf.h: the pseudorandom function of TLS 1.2 (RFC 5246 section 5), from which it derives
 * everything: master secret, key block, Finished messages.
 *
 * libcrypto's is built on its HMAC objects, which it copies for each block. Role: handshaker; part
 * of keyschedule.c's provider for libssl.
 */
#ifndef AGENT_TLS12PRF_H
#define AGENT_TLS12PRF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/core.h>

#define TLS12PRF_PARTS 8 /* libssl gives five, of which some are empty */

struct tls12prf_part {
    const uint8_t *bytes;
    size_t size;
};

/* Fill out, any size. The parts one after the other are label and seed. False: no such digest (32:
 * SHA-256, 48: SHA-384). */
bool tls12prf(size_t hash_size, const uint8_t *secret, size_t secret_size,
              const struct tls12prf_part *parts, size_t count, uint8_t *out, size_t size);

/* From now on, call this with each key block (RFC 5246 section 6.3) that libssl derives. One per
 * process. */
void tls12prf_observe(void (*derived)(const uint8_t *block, size_t size));

/* The same as libssl asks for it. */
extern const OSSL_DISPATCH tls12prf_functions[];

#endif
