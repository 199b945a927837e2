/* hmac.c: see hmac.h. */
#include "agent/hmac.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/params.h>

#include "protocol/hkdf.h"

struct hmac {
    size_t hash_size; /* 0: not said yet */
    bool keyed;
    struct hkdf_hmac value;
};

static void *
hmac_new(void *data)
{
    (void)data;
    return OPENSSL_zalloc(sizeof(struct hmac));
}

static void
hmac_free(void *hmac)
{
    OPENSSL_clear_free(hmac, sizeof(struct hmac));
}

static void *
hmac_dup(void *hmac)
{
    return OPENSSL_memdup(hmac, sizeof(struct hmac));
}

/* A key of any size, none at all too; the digest must have been said. */
static int
set_key(struct hmac *hmac, const unsigned char *key, size_t size)
{
    hmac->keyed = hkdf_hmac_key(&hmac->value, hmac->hash_size, key, size);
    return hmac->keyed;
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
    return param == NULL ||
           OSSL_PARAM_set_size_t(param, hmac->hash_size == SHA384_DIGEST_LENGTH ? SHA512_CBLOCK
                                                                                : SHA256_CBLOCK);
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
    struct hmac *hmac = data;

    if (!hmac_set_params(data, params))
        return 0;
    if (key != NULL)
        return set_key(hmac, key, size);
    if (hmac->keyed) /* with the key that was given last */
        hkdf_hmac_begin(&hmac->value);
    return hmac->keyed;
}

static int
hmac_update(void *data, const unsigned char *bytes, size_t size)
{
    struct hmac *hmac = data;

    if (hmac->keyed)
        hkdf_hmac_add(&hmac->value, bytes, size);
    return hmac->keyed;
}

static int
hmac_final(void *data, unsigned char *out, size_t *size, size_t room)
{
    struct hmac *hmac = data;

    if (!hmac->keyed || room < hmac->hash_size)
        return 0;
    hkdf_hmac_end(&hmac->value, out);
    *size = hmac->hash_size;
    return 1;
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
