/*
 * hkdf.h: HMAC and HKDF (RFC 2104, RFC 5869) with SHA-256 and SHA-384, as TLS uses them (RFC 8446
 * section 7.1, RFC 5246 section 5).
 *
 * libcrypto's own HMAC and HKDF make and free a dozen objects for each secret; a handshake derives
 * twenty. Here all state is the caller's or on the stack, cleared.
 *
 * Used on both sides: by traffic.c, and by the handshaker's key schedules.
 */
#ifndef PROTOCOL_HKDF_H
#define PROTOCOL_HKDF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/sha.h>

#define HKDF_HASH_MAX 48 /* SHA-384; the other one is SHA-256, of 32 bytes */

/* The size of the digest that libcrypto calls so, or 0: not one of the two. */
size_t hkdf_digest_size(const char *name);

/* An HMAC in pieces. Plain memory: to be copied as it is, and cleared by its owner. */
struct hkdf_hmac {
    size_t hash_size;
    union hkdf_hash {
        SHA256_CTX sha256;
        SHA512_CTX sha512;
    } inner, outer, running; /* the first two: with the padded key, and nothing else */
};

/* Set a key of any size, and begin. False: no such digest. */
bool hkdf_hmac_key(struct hkdf_hmac *hmac, size_t hash_size, const uint8_t *key, size_t key_size);
void hkdf_hmac_begin(struct hkdf_hmac *hmac); /* again, with the same key */
void hkdf_hmac_add(struct hkdf_hmac *hmac, const uint8_t *bytes, size_t size);
void hkdf_hmac_end(struct hkdf_hmac *hmac, uint8_t *out); /* hash_size bytes */

/* In one go. */
bool hkdf_hmac(size_t hash_size, const uint8_t *key, size_t key_size, const uint8_t *message,
               size_t size, uint8_t *out);

/* The digest of no bytes at all. */
bool hkdf_empty_digest(size_t hash_size, uint8_t *out);

/* HKDF-Expand-Label from a secret of hash_size bytes: prefix and label together at most 255 bytes,
 * context at most 255, out_size at most hash_size (which is all that TLS asks for). False: a size
 * is not possible. */
struct hkdf_label {
    const uint8_t *prefix; /* "tls13 " */
    size_t prefix_size;
    const uint8_t *label;
    size_t label_size;
    const uint8_t *context;
    size_t context_size;
};
bool hkdf_expand_label(size_t hash_size, const uint8_t *secret, const struct hkdf_label *label,
                       uint8_t *out, size_t out_size);

#endif
