/* hkdf.c: see hkdf.h. Used by traffic.c on both sides, and by the handshaker's keyschedule.c. */
#include "protocol/hkdf.h"

#include <pthread.h>
#include <string.h>
#include <strings.h>

#include <openssl/crypto.h>

#include "protocol/wire.h"

#define BLOCK_MAX 128                         /* of SHA-384 */
#define INFO_MAX  (2 + 1 + 255 + 1 + 255 + 1) /* struct HkdfLabel and the block's number */

/* Fetched once, kept for the process's life. */
static EVP_MD *sha256, *sha384;
static pthread_once_t digests_once = PTHREAD_ONCE_INIT;

static void
fetch_digests(void)
{
    sha256 = EVP_MD_fetch(NULL, "SHA2-256", NULL);
    sha384 = EVP_MD_fetch(NULL, "SHA2-384", NULL);
}

const EVP_MD *
hkdf_digest(size_t hash_size)
{
    pthread_once(&digests_once, fetch_digests);
    if (hash_size == 32)
        return sha256;
    return hash_size == 48 ? sha384 : NULL;
}

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

static bool
digest_once(EVP_MD_CTX *hash, const EVP_MD *digest, const uint8_t *head, size_t head_size,
            const uint8_t *bytes, size_t size, uint8_t *out)
{
    return EVP_DigestInit_ex2(hash, digest, NULL) == 1 &&
           EVP_DigestUpdate(hash, head, head_size) == 1 &&
           EVP_DigestUpdate(hash, bytes, size) == 1 && EVP_DigestFinal_ex(hash, out, NULL) == 1;
}

bool
hkdf_hmac(EVP_MD_CTX *hash, size_t hash_size, const uint8_t *key, size_t key_size,
          const uint8_t *message, size_t size, uint8_t *out)
{
    const EVP_MD *digest = hkdf_digest(hash_size);
    size_t block_size = hash_size == 48 ? 128 : 64;
    uint8_t block[BLOCK_MAX] = {0}, inner[HKDF_HASH_MAX];
    bool done;

    if (hash == NULL || digest == NULL)
        return false;
    if (key_size > block_size) {
        if (!digest_once(hash, digest, key, key_size, NULL, 0, block))
            return false;
    } else if (key_size > 0) {
        memcpy(block, key, key_size);
    }
    for (size_t i = 0; i < block_size; i++)
        block[i] ^= 0x36;
    done = digest_once(hash, digest, block, block_size, message, size, inner);
    for (size_t i = 0; i < block_size; i++)
        block[i] ^= 0x36 ^ 0x5c;
    done = done && digest_once(hash, digest, block, block_size, inner, hash_size, out);
    OPENSSL_cleanse(block, sizeof(block));
    OPENSSL_cleanse(inner, sizeof(inner));
    return done;
}

bool
hkdf_empty_digest(EVP_MD_CTX *hash, size_t hash_size, uint8_t *out)
{
    const EVP_MD *digest = hkdf_digest(hash_size);

    return hash != NULL && digest != NULL && digest_once(hash, digest, NULL, 0, NULL, 0, out);
}

bool
hkdf_expand_label(EVP_MD_CTX *hash, size_t hash_size, const uint8_t *secret,
                  const struct hkdf_label *label, uint8_t *out, size_t out_size)
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
    done = hkdf_hmac(hash, hash_size, secret, hash_size, info, wire_size(&writer), value);
    if (done)
        memcpy(out, value, out_size);
    OPENSSL_cleanse(value, sizeof(value));
    return done;
}
