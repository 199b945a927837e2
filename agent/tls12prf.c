/* tls12prf.c: see tls12prf.h. */
#include "agent/tls12prf.h"

#include <string.h>

#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/params.h>

#include "protocol/hkdf.h"

static void (*observer)(const uint8_t *block, size_t size);

static void
add_parts(struct hkdf_hmac *hmac, const struct tls12prf_part *parts, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (parts[i].size > 0)
            hkdf_hmac_add(hmac, parts[i].bytes, parts[i].size);
}

bool
tls12prf(size_t hash_size, const uint8_t *secret, size_t secret_size,
         const struct tls12prf_part *parts, size_t count, uint8_t *out, size_t size)
{
    struct hkdf_hmac hmac;
    uint8_t chain[HKDF_HASH_MAX], block[HKDF_HASH_MAX]; /* A(i), and what it gives */

    if (!hkdf_hmac_key(&hmac, hash_size, secret, secret_size))
        return false;
    add_parts(&hmac, parts, count);
    hkdf_hmac_end(&hmac, chain);
    for (;;) {
        size_t step = size < hash_size ? size : hash_size;

        hkdf_hmac_begin(&hmac);
        hkdf_hmac_add(&hmac, chain, hash_size);
        add_parts(&hmac, parts, count);
        hkdf_hmac_end(&hmac, block);
        memcpy(out, block, step);
        out += step;
        size -= step;
        if (size == 0)
            break;
        hkdf_hmac_begin(&hmac);
        hkdf_hmac_add(&hmac, chain, hash_size);
        hkdf_hmac_end(&hmac, chain);
    }
    OPENSSL_cleanse(&hmac, sizeof(hmac));
    OPENSSL_cleanse(chain, sizeof(chain));
    OPENSSL_cleanse(block, sizeof(block));
    return true;
}

/* The first seed is the label. */
static void
tell(const struct tls12prf_part *label, const uint8_t *out, size_t size)
{
    static const char key_block[] = "key expansion"; /* RFC 5246 section 6.3 */

    if (observer != NULL && label->size == sizeof(key_block) - 1 &&
        memcmp(label->bytes, key_block, label->size) == 0)
        observer(out, size);
}

/* libssl gives everything in this one call: there is no state. */
static int
prf_derive(void *data, unsigned char *out, size_t size, const OSSL_PARAM params[])
{
    struct tls12prf_part parts[TLS12PRF_PARTS], secret = {NULL, 0};
    size_t hash_size = 0, count = 0;

    (void)data;
    for (const OSSL_PARAM *param = params; param != NULL && param->key != NULL; param++) {
        struct tls12prf_part value = {param->data, param->data_size};

        if (strcmp(param->key, OSSL_KDF_PARAM_DIGEST) == 0) {
            hash_size =
                hkdf_digest_size(param->data_type == OSSL_PARAM_UTF8_STRING ? param->data : "");
            continue;
        }
        if (param->data_type != OSSL_PARAM_OCTET_STRING)
            return 0;
        if (strcmp(param->key, OSSL_KDF_PARAM_SECRET) == 0)
            secret = value;
        else if (strcmp(param->key, OSSL_KDF_PARAM_SEED) == 0 && count < TLS12PRF_PARTS)
            parts[count++] = value;
        else
            return 0; /* nothing that libssl asks for */
    }
    if (secret.bytes == NULL || count == 0 || size == 0 ||
        !tls12prf(hash_size, secret.bytes, secret.size, parts, count, out, size))
        return 0;
    tell(&parts[0], out, size);
    return 1;
}

void
tls12prf_observe(void (*derived)(const uint8_t *block, size_t size))
{
    observer = derived;
}

static void *
prf_new(void *data)
{
    return data; /* anything but NULL */
}

static void
prf_free(void *data)
{
    (void)data;
}

#define FUNCTION(id, f)                                                                            \
    {                                                                                              \
        (id), (void (*)(void))(f)                                                                  \
    }

const OSSL_DISPATCH tls12prf_functions[] = {
    FUNCTION(OSSL_FUNC_KDF_NEWCTX, prf_new),
    FUNCTION(OSSL_FUNC_KDF_FREECTX, prf_free),
    FUNCTION(OSSL_FUNC_KDF_DERIVE, prf_derive),
    {0, NULL},
};
