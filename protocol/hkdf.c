/*
 * hkdf.c: see hkdf.h.
 *
 * The digests are libcrypto's low-level ones: deprecated in favour of EVP, but EVP's objects cost
 * more than what is digested here, three blocks of 64 bytes; and their state is plain memory, so
 * that the two blocks of a key are digested once and there is nothing that could fail.
 */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "protocol/hkdf.h"

#include <string.h>
#include <strings.h>

#include <openssl/crypto.h>

#include "protocol/wire.h"

#define BLOCK_MAX SHA512_CBLOCK
#define INFO_MAX  (2 + 1 + 255 + 1 + 255 + 1) /* struct HkdfLabel and the block's number */

size_t
hkdf_digest_size(const char *name)
{
    static const struct {
        const char *name;
        size_t size;
    } digests[] = {{"SHA2-256", 32}, {"SHA2-384", 48}, {"SHA256", 32}, {"SHA384", 48}};

    for (size_t i = 0; i < sizeof(digests) / sizeof(digests[0]); i++) {
        if (strcasecmp(name, digests[i].name) == 0)
            return digests[i].size;
    }
    return 0;
}

static void
hash_begin(union hkdf_hash *hash, size_t hash_size)
{
    if (hash_size == SHA256_DIGEST_LENGTH)
        (void)SHA256_Init(&hash->sha256);
    else
        (void)SHA384_Init(&hash->sha512);
}

static void
hash_add(union hkdf_hash *hash, size_t hash_size, const void *bytes, size_t size)
{
    if (hash_size == SHA256_DIGEST_LENGTH)
        (void)SHA256_Update(&hash->sha256, bytes, size);
    else
        (void)SHA384_Update(&hash->sha512, bytes, size);
}

static void
hash_end(union hkdf_hash *hash, size_t hash_size, uint8_t *out)
{
    if (hash_size == SHA256_DIGEST_LENGTH)
        (void)SHA256_Final(out, &hash->sha256);
    else
        (void)SHA384_Final(out, &hash->sha512);
}

bool
hkdf_hmac_key(struct hkdf_hmac *hmac, size_t hash_size, const uint8_t *key, size_t key_size)
{
    size_t block_size = hash_size == SHA256_DIGEST_LENGTH ? SHA256_CBLOCK : SHA512_CBLOCK;
    uint8_t block[BLOCK_MAX] = {0};

    if (hash_size != SHA256_DIGEST_LENGTH && hash_size != SHA384_DIGEST_LENGTH)
        return false;
    hmac->hash_size = hash_size;
    if (key_size > block_size) {
        hash_begin(&hmac->running, hash_size);
        hash_add(&hmac->running, hash_size, key, key_size);
        hash_end(&hmac->running, hash_size, block);
    } else if (key_size > 0) {
        memcpy(block, key, key_size);
    }
    for (size_t i = 0; i < block_size; i++)
        block[i] ^= 0x36;
    hash_begin(&hmac->inner, hash_size);
    hash_add(&hmac->inner, hash_size, block, block_size);
    for (size_t i = 0; i < block_size; i++)
        block[i] ^= 0x36 ^ 0x5c;
    hash_begin(&hmac->outer, hash_size);
    hash_add(&hmac->outer, hash_size, block, block_size);
    OPENSSL_cleanse(block, sizeof(block));
    hkdf_hmac_begin(hmac);
    return true;
}

void
hkdf_hmac_begin(struct hkdf_hmac *hmac)
{
    hmac->running = hmac->inner;
}

void
hkdf_hmac_add(struct hkdf_hmac *hmac, const uint8_t *bytes, size_t size)
{
    hash_add(&hmac->running, hmac->hash_size, bytes, size);
}

void
hkdf_hmac_end(struct hkdf_hmac *hmac, uint8_t *out)
{
    uint8_t inner[HKDF_HASH_MAX];

    hash_end(&hmac->running, hmac->hash_size, inner);
    hmac->running = hmac->outer;
    hash_add(&hmac->running, hmac->hash_size, inner, hmac->hash_size);
    hash_end(&hmac->running, hmac->hash_size, out);
    OPENSSL_cleanse(inner, sizeof(inner));
}

bool
hkdf_hmac(size_t hash_size, const uint8_t *key, size_t key_size, const uint8_t *message,
          size_t size, uint8_t *out)
{
    struct hkdf_hmac hmac;

    if (!hkdf_hmac_key(&hmac, hash_size, key, key_size))
        return false;
    hkdf_hmac_add(&hmac, message, size);
    hkdf_hmac_end(&hmac, out);
    OPENSSL_cleanse(&hmac, sizeof(hmac));
    return true;
}

bool
hkdf_empty_digest(size_t hash_size, uint8_t *out)
{
    union hkdf_hash hash;

    if (hash_size != SHA256_DIGEST_LENGTH && hash_size != SHA384_DIGEST_LENGTH)
        return false;
    hash_begin(&hash, hash_size);
    hash_end(&hash, hash_size, out);
    return true;
}

bool
hkdf_expand_label(size_t hash_size, const uint8_t *secret, const struct hkdf_label *label,
                  uint8_t *out, size_t out_size)
{
    uint8_t info[INFO_MAX], value[HKDF_HASH_MAX];
    struct wire_writer writer;
    bool done;

    if (out_size > hash_size || label->prefix_size > 255 || label->label_size > 255 ||
        label->prefix_size + label->label_size > 255 || label->context_size > 255)
        return false;
    wire_writer_init(&writer, info, sizeof(info));
    wire_put_u16(&writer, (uint16_t)out_size);
    wire_put_u8(&writer, (uint8_t)(label->prefix_size + label->label_size));
    wire_put_bytes(&writer, label->prefix, label->prefix_size);
    wire_put_bytes(&writer, label->label, label->label_size);
    wire_put_string(&writer, 1, label->context, label->context_size);
    wire_put_u8(&writer, 1); /* the first block, and the last */
    done = hkdf_hmac(hash_size, secret, hash_size, info, wire_size(&writer), value);
    if (done)
        memcpy(out, value, out_size);
    OPENSSL_cleanse(value, sizeof(value));
    return done;
}
