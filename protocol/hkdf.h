/*
 * hkdf.h: HMAC and HKDF (RFC 2104, RFC 5869) on libcrypto's digests, as TLS 1.3 uses them (RFC 8446
 * section 7.1).
 *
 * libcrypto's own HKDF makes and frees a dozen objects for each secret; a handshake derives twenty.
 * Here the caller lends one digest context and everything else is on the stack, cleared.
 */
#ifndef PROTOCOL_HKDF_H
#define PROTOCOL_HKDF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/evp.h>

#define HKDF_HASH_MAX 48 /* SHA-384; the other one is SHA-256, of 32 bytes */

/* The digest of this size, or NULL; and the size of the digest that libcrypto calls so, or 0. */
const EVP_MD *hkdf_digest(size_t hash_size);
size_t hkdf_digest_size(const char *name);

/* All functions: hash is a context of the caller, of any state; hash_size says which digest, 32 or
 * 48. They return false if libcrypto failed or a size is not possible. */

/* HMAC of message (any size) with a key of any size; out holds hash_size bytes. */
bool hkdf_hmac(EVP_MD_CTX *hash, size_t hash_size, const uint8_t *key, size_t key_size,
               const uint8_t *message, size_t size, uint8_t *out);

/* The digest of no bytes at all. */
bool hkdf_empty_digest(EVP_MD_CTX *hash, size_t hash_size, uint8_t *out);

/* HKDF-Expand-Label from a secret of hash_size bytes: prefix and label together at most 255 bytes,
 * context at most 255, out_size at most hash_size (which is all that TLS asks for). */
struct hkdf_label {
    const uint8_t *prefix; /* "tls13 " */
    size_t prefix_size;
    const uint8_t *label;
    size_t label_size;
    const uint8_t *context;
    size_t context_size;
};
bool hkdf_expand_label(EVP_MD_CTX *hash, size_t hash_size, const uint8_t *secret,
                       const struct hkdf_label *label, uint8_t *out, size_t out_size);

#endif
