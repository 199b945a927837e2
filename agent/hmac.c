/* hmac.c: see hmac.h. */
#include "agent/hmac.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include "protocol/hkdf.h"

#define BLOCK_MAX  128 /* of SHA-384 */
#define SPARES_MAX 8   /* kept for the next one */

struct hmac {
    struct hmac *next; /* spare */
    EVP_MD_CTX *hash;  /* the inner digest, then the outer one */
    size_t hash_size;  /* 0: not said yet */
    bool keyed;
    uint8_t key[BLOCK_MAX]; /* padded with zeros, or its digest if it was longer */
};

static struct hmac *spares; /* one list per process: roles are single-threaded */
static unsigned spare_count;

static size_t
block_size(const struct hmac *hmac)
{
    return hmac->hash_size == 48 ? 128 : 64;
}

static void *
hmac_new(void *data)
{
    struct hmac *hmac = spares;

    (void)data;
    if (hmac != NULL) {
        spares = hmac->next;
        spare_count--;
        return hmac;
    }
    hmac = OPENSSL_zalloc(sizeof(*hmac));
    if (hmac != NULL)
        hmac->hash = EVP_MD_CTX_new();
    if (hmac != NULL && hmac->hash == NULL) {
        OPENSSL_free(hmac);
        hmac = NULL;
    }
    return hmac;
}

/* What a digest context holds of a key is overwritten by the digest of nothing. */
static bool
forget(struct hmac *hmac)
{
    uint8_t value[HKDF_HASH_MAX];
    EVP_MD_CTX *hash = hmac->hash;
    bool clean = hmac->hash_size == 0 || hkdf_empty_digest(hash, hmac->hash_size, value);

    OPENSSL_cleanse(hmac, sizeof(*hmac));
    hmac->hash = hash;
    return clean;
}

static void
hmac_free(void *data)
{
    struct hmac *hmac = data;

    if (hmac == NULL)
        return;
    if (!forget(hmac) || spare_count >= SPARES_MAX) {
        EVP_MD_CTX_free(hmac->hash);
        OPENSSL_free(hmac);
        return;
    }
    hmac->next = spares;
    spares = hmac;
    spare_count++;
}

static void *
hmac_dup(void *data)
{
    const struct hmac *from = data;
    struct hmac *to = hmac_new(NULL);
    EVP_MD_CTX *hash;

    if (to == NULL)
        return NULL;
    hash = to->hash;
    memcpy(to, from, sizeof(*to));
    to->hash = hash;
    if (EVP_MD_CTX_copy_ex(hash, from->hash) != 1) {
        hmac_free(to);
        return NULL;
    }
    return to;
}

/* Add a block: the key and a byte. */
static bool
add_padded(struct hmac *hmac, uint8_t pad)
{
    uint8_t block[BLOCK_MAX];
    bool done;

    for (size_t i = 0; i < block_size(hmac); i++)
        block[i] = hmac->key[i] ^ pad;
    done = EVP_DigestInit_ex2(hmac->hash, hkdf_digest(hmac->hash_size), NULL) == 1 &&
           EVP_DigestUpdate(hmac->hash, block, block_size(hmac)) == 1;
    OPENSSL_cleanse(block, sizeof(block));
    return done;
}

/* Begin with the key that was given last. */
static int
restart(struct hmac *hmac)
{
    return hmac->hash_size != 0 && hmac->keyed && add_padded(hmac, 0x36);
}

/* A key of any size, none at all too; the digest must have been said. */
static int
set_key(struct hmac *hmac, const unsigned char *key, size_t size)
{
    if (hmac->hash_size == 0)
        return 0;
    memset(hmac->key, 0, sizeof(hmac->key));
    if (size > block_size(hmac)) {
        if (EVP_DigestInit_ex2(hmac->hash, hkdf_digest(hmac->hash_size), NULL) != 1 ||
            EVP_DigestUpdate(hmac->hash, key, size) != 1 ||
            EVP_DigestFinal_ex(hmac->hash, hmac->key, NULL) != 1)
            return 0;
    } else if (size > 0) {
        memcpy(hmac->key, key, size);
    }
    hmac->keyed = true;
    return restart(hmac);
}

static int
hmac_set_params(void *data, const OSSL_PARAM params[])
{
    struct hmac *hmac = data;
    const OSSL_PARAM *key = NULL;

    for (const OSSL_PARAM *param = params; param != NULL && param->key != NULL; param++) {
        if (strcmp(param->key, OSSL_MAC_PARAM_DIGEST) == 0) {
            size_t size =
                hkdf_digest_size(param->data_type == OSSL_PARAM_UTF8_STRING ? param->data : "");

            if (size == 0)
                return 0;
            hmac->hash_size = size;
            hmac->keyed = false;
        } else if (strcmp(param->key, OSSL_MAC_PARAM_KEY) == 0) {
            key = param;
        } else if (strcmp(param->key, OSSL_MAC_PARAM_TLS_DATA_SIZE) == 0) {
            return 0; /* CBC suites: we have none */
        }
    }
    if (key == NULL)
        return 1;
    return key->data_type == OSSL_PARAM_OCTET_STRING && set_key(hmac, key->data, key->data_size);
}

static const OSSL_PARAM *
hmac_settable_params(void *data, void *provider)
{
    static const OSSL_PARAM table[] = {
        OSSL_PARAM_utf8_string(OSSL_MAC_PARAM_DIGEST, NULL, 0),
        OSSL_PARAM_utf8_string(OSSL_MAC_PARAM_PROPERTIES, NULL, 0),
        OSSL_PARAM_octet_string(OSSL_MAC_PARAM_KEY, NULL, 0),
        OSSL_PARAM_END,
    };

    (void)data;
    (void)provider;
    return table;
}

static int
hmac_get_params(void *data, OSSL_PARAM params[])
{
    const struct hmac *hmac = data;
    OSSL_PARAM *param = OSSL_PARAM_locate(params, OSSL_MAC_PARAM_SIZE);

    if (param != NULL && !OSSL_PARAM_set_size_t(param, hmac->hash_size))
        return 0;
    param = OSSL_PARAM_locate(params, OSSL_MAC_PARAM_BLOCK_SIZE);
    return param == NULL || OSSL_PARAM_set_size_t(param, block_size(hmac));
}

static const OSSL_PARAM *
hmac_gettable_params(void *data, void *provider)
{
    static const OSSL_PARAM table[] = {
        OSSL_PARAM_size_t(OSSL_MAC_PARAM_SIZE, NULL),
        OSSL_PARAM_size_t(OSSL_MAC_PARAM_BLOCK_SIZE, NULL),
        OSSL_PARAM_END,
    };

    (void)data;
    (void)provider;
    return table;
}

static int
hmac_init(void *data, const unsigned char *key, size_t size, const OSSL_PARAM params[])
{
    if (!hmac_set_params(data, params))
        return 0;
    return key != NULL ? set_key(data, key, size) : restart(data);
}

static int
hmac_update(void *data, const unsigned char *bytes, size_t size)
{
    struct hmac *hmac = data;

    return hmac->keyed && EVP_DigestUpdate(hmac->hash, bytes, size) == 1;
}

static int
hmac_final(void *data, unsigned char *out, size_t *size, size_t room)
{
    struct hmac *hmac = data;
    uint8_t inner[HKDF_HASH_MAX];
    int done = hmac->keyed && room >= hmac->hash_size &&
               EVP_DigestFinal_ex(hmac->hash, inner, NULL) == 1 && add_padded(hmac, 0x5c) &&
               EVP_DigestUpdate(hmac->hash, inner, hmac->hash_size) == 1 &&
               EVP_DigestFinal_ex(hmac->hash, out, NULL) == 1;

    OPENSSL_cleanse(inner, sizeof(inner));
    if (done)
        *size = hmac->hash_size;
    return done;
}

#define FUNCTION(id, f)                                                                            \
    {                                                                                              \
        (id), (void (*)(void))(f)                                                                  \
    }

const OSSL_DISPATCH hmac_functions[] = {
    FUNCTION(OSSL_FUNC_MAC_NEWCTX, hmac_new),
    FUNCTION(OSSL_FUNC_MAC_DUPCTX, hmac_dup),
    FUNCTION(OSSL_FUNC_MAC_FREECTX, hmac_free),
    FUNCTION(OSSL_FUNC_MAC_INIT, hmac_init),
    FUNCTION(OSSL_FUNC_MAC_UPDATE, hmac_update),
    FUNCTION(OSSL_FUNC_MAC_FINAL, hmac_final),
    FUNCTION(OSSL_FUNC_MAC_SET_CTX_PARAMS, hmac_set_params),
    FUNCTION(OSSL_FUNC_MAC_SETTABLE_CTX_PARAMS, hmac_settable_params),
    FUNCTION(OSSL_FUNC_MAC_GET_CTX_PARAMS, hmac_get_params),
    FUNCTION(OSSL_FUNC_MAC_GETTABLE_CTX_PARAMS, hmac_gettable_params),
    {0, NULL},
};
