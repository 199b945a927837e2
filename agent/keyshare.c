/* keyshare.c: see keyshare.h. */
#include "agent/keyshare.h"

#include <stdint.h>
#include <string.h>

#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/provider.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>

#define SIZE     32
#define BITS     253
#define STRENGTH 128

/* ---- libcrypto's ---- */

/* Set once; roles are single-threaded. */
static struct {
    void *provider;
    OSSL_FUNC_keymgmt_new_fn *key_new;
    OSSL_FUNC_keymgmt_free_fn *key_free;
    OSSL_FUNC_keymgmt_import_fn *key_import;
    OSSL_FUNC_keyexch_newctx_fn *exchange_new;
    OSSL_FUNC_keyexch_freectx_fn *exchange_free;
    OSSL_FUNC_keyexch_init_fn *init;
    OSSL_FUNC_keyexch_set_peer_fn *set_peer;
    OSSL_FUNC_keyexch_derive_fn *derive;
} curve;

static const OSSL_DISPATCH *
find_functions(const OSSL_PROVIDER *provider, int operation)
{
    static const char name[] = "X25519:";
    int no_cache;
    const OSSL_ALGORITHM *algorithm = OSSL_PROVIDER_query_operation(provider, operation, &no_cache);

    while (algorithm != NULL && algorithm->algorithm_names != NULL &&
           strncmp(algorithm->algorithm_names, name, sizeof(name) - 1) != 0)
        algorithm++;
    return algorithm != NULL && algorithm->algorithm_names != NULL ? algorithm->implementation
                                                                   : NULL;
}

static bool
find_all(const OSSL_PROVIDER *provider)
{
    const OSSL_DISPATCH *keys = find_functions(provider, OSSL_OP_KEYMGMT);
    const OSSL_DISPATCH *exchange = find_functions(provider, OSSL_OP_KEYEXCH);

    memset(&curve, 0, sizeof(curve));
    for (; keys != NULL && keys->function_id != 0; keys++) {
        if (keys->function_id == OSSL_FUNC_KEYMGMT_NEW)
            curve.key_new = OSSL_FUNC_keymgmt_new(keys);
        else if (keys->function_id == OSSL_FUNC_KEYMGMT_FREE)
            curve.key_free = OSSL_FUNC_keymgmt_free(keys);
        else if (keys->function_id == OSSL_FUNC_KEYMGMT_IMPORT)
            curve.key_import = OSSL_FUNC_keymgmt_import(keys);
    }
    for (; exchange != NULL && exchange->function_id != 0; exchange++) {
        if (exchange->function_id == OSSL_FUNC_KEYEXCH_NEWCTX)
            curve.exchange_new = OSSL_FUNC_keyexch_newctx(exchange);
        else if (exchange->function_id == OSSL_FUNC_KEYEXCH_FREECTX)
            curve.exchange_free = OSSL_FUNC_keyexch_freectx(exchange);
        else if (exchange->function_id == OSSL_FUNC_KEYEXCH_INIT)
            curve.init = OSSL_FUNC_keyexch_init(exchange);
        else if (exchange->function_id == OSSL_FUNC_KEYEXCH_SET_PEER)
            curve.set_peer = OSSL_FUNC_keyexch_set_peer(exchange);
        else if (exchange->function_id == OSSL_FUNC_KEYEXCH_DERIVE)
            curve.derive = OSSL_FUNC_keyexch_derive(exchange);
    }
    curve.provider = OSSL_PROVIDER_get0_provider_ctx(provider);
    return curve.key_new != NULL && curve.key_free != NULL && curve.key_import != NULL &&
           curve.exchange_new != NULL && curve.exchange_free != NULL && curve.init != NULL &&
           curve.set_peer != NULL && curve.derive != NULL;
}

/* Scalar times point. libcrypto's "key" is a pair of both here, and its own peer. Returns false if
 * there is no memory, or the product is zero: the point is one of small order (RFC 8446 section
 * 7.4.2). */
static bool
multiply(const uint8_t scalar[SIZE], const uint8_t point[SIZE], uint8_t out[SIZE])
{
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PRIV_KEY, (void *)(uintptr_t)scalar,
                                          SIZE),
        OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, (void *)(uintptr_t)point, SIZE),
        OSSL_PARAM_construct_end(),
    };
    void *pair = curve.key_new(curve.provider), *exchange = curve.exchange_new(curve.provider);
    size_t size = 0;
    bool done = pair != NULL && exchange != NULL &&
                curve.key_import(pair, OSSL_KEYMGMT_SELECT_KEYPAIR, params) == 1 &&
                curve.init(exchange, pair, NULL) == 1 && curve.set_peer(exchange, pair) == 1 &&
                curve.derive(exchange, out, &size, SIZE) == 1 && size == SIZE;

    if (exchange != NULL)
        curve.exchange_free(exchange);
    if (pair != NULL)
        curve.key_free(pair);
    return done;
}

static bool
multiply_base(const uint8_t scalar[SIZE], uint8_t out[SIZE])
{
    static const uint8_t base[SIZE] = {9};

    return multiply(scalar, base, out);
}

bool
keyshare_prepare(const OSSL_PROVIDER *libcryptos)
{
    /* RFC 7748 section 6.1: of Alice and of Bob, and what they share. */
    static const uint8_t alice[SIZE] = {0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d,
                                        0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2, 0x66, 0x45,
                                        0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a,
                                        0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9, 0x2c, 0x2a};
    static const uint8_t bob[SIZE] = {0x5d, 0xab, 0x08, 0x7e, 0x62, 0x4a, 0x8a, 0x4b,
                                      0x79, 0xe1, 0x7f, 0x8b, 0x83, 0x80, 0x0e, 0xe6,
                                      0x6f, 0x3b, 0xb1, 0x29, 0x26, 0x18, 0xb6, 0xfd,
                                      0x1c, 0x2f, 0x8b, 0x27, 0xff, 0x88, 0xe0, 0xeb};
    static const uint8_t shared[SIZE] = {0x4a, 0x5d, 0x9d, 0x5b, 0xa4, 0xce, 0x2d, 0xe1,
                                         0x72, 0x8e, 0x3b, 0xf4, 0x80, 0x35, 0x0f, 0x25,
                                         0xe0, 0x7e, 0x21, 0xc9, 0x47, 0xd1, 0x9e, 0x33,
                                         0x76, 0xf0, 0x9b, 0x3c, 0x1e, 0x16, 0x17, 0x42};
    uint8_t bobs[SIZE], product[SIZE];
    bool works = find_all(libcryptos) && multiply_base(bob, bobs) &&
                 multiply(alice, bobs, product) && memcmp(product, shared, SIZE) == 0;

    ERR_clear_error();
    return works;
}

/* ---- keys ---- */

struct share {
    bool has_point, has_scalar;
    uint8_t point[SIZE];
    uint8_t scalar[SIZE];
};

static void *
share_new(void *provider)
{
    (void)provider;
    return OPENSSL_zalloc(sizeof(struct share));
}

static void
share_free(void *share)
{
    OPENSSL_clear_free(share, sizeof(struct share));
}

static int
share_has(const void *data, int selection)
{
    const struct share *share = data;

    return share != NULL &&
           ((selection & OSSL_KEYMGMT_SELECT_PUBLIC_KEY) == 0 || share->has_point) &&
           ((selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY) == 0 || share->has_scalar);
}

static int
share_match(const void *data1, const void *data2, int selection)
{
    const struct share *share1 = data1, *share2 = data2;

    return (selection & OSSL_KEYMGMT_SELECT_KEYPAIR) == 0 ||
           (share1->has_point && share2->has_point &&
            memcmp(share1->point, share2->point, SIZE) == 0);
}

/* libssl wants an empty one by it, to put the peer's share in. */
static void *
share_dup(const void *data, int selection)
{
    const struct share *share = data;
    struct share *copy = share_new(NULL);

    if (copy == NULL)
        return NULL;
    if ((selection & OSSL_KEYMGMT_SELECT_PUBLIC_KEY) != 0 && share->has_point) {
        memcpy(copy->point, share->point, SIZE);
        copy->has_point = true;
    }
    if ((selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY) != 0 && share->has_scalar) {
        memcpy(copy->scalar, share->scalar, SIZE);
        copy->has_scalar = true;
    }
    return copy;
}

/* Any 32 bytes are a point; what must not be one shows when it is multiplied. */
static int
share_validate(const void *share, int selection, int type)
{
    (void)type;
    return share_has(share, selection);
}

static int
share_get_params(void *data, OSSL_PARAM params[])
{
    const struct share *share = data;

    for (OSSL_PARAM *param = params; param != NULL && param->key != NULL; param++) {
        if ((strcmp(param->key, OSSL_PKEY_PARAM_BITS) == 0 && !OSSL_PARAM_set_int(param, BITS)) ||
            (strcmp(param->key, OSSL_PKEY_PARAM_SECURITY_BITS) == 0 &&
             !OSSL_PARAM_set_int(param, STRENGTH)) ||
            (strcmp(param->key, OSSL_PKEY_PARAM_MAX_SIZE) == 0 &&
             !OSSL_PARAM_set_int(param, SIZE)) ||
            (strcmp(param->key, OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY) == 0 &&
             !(share->has_point && OSSL_PARAM_set_octet_string(param, share->point, SIZE))) ||
            (strcmp(param->key, OSSL_PKEY_PARAM_PUB_KEY) == 0 && share->has_point &&
             !OSSL_PARAM_set_octet_string(param, share->point, SIZE)) ||
            (strcmp(param->key, OSSL_PKEY_PARAM_PRIV_KEY) == 0 && share->has_scalar &&
             !OSSL_PARAM_set_octet_string(param, share->scalar, SIZE)))
            return 0;
    }
    return 1;
}

static const OSSL_PARAM *
share_gettable_params(void *provider)
{
    static const OSSL_PARAM table[] = {
        OSSL_PARAM_int(OSSL_PKEY_PARAM_BITS, NULL),
        OSSL_PARAM_int(OSSL_PKEY_PARAM_SECURITY_BITS, NULL),
        OSSL_PARAM_int(OSSL_PKEY_PARAM_MAX_SIZE, NULL),
        OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY, NULL, 0),
        OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, NULL, 0),
        OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PRIV_KEY, NULL, 0),
        OSSL_PARAM_END,
    };

    (void)provider;
    return table;
}

/* The peer's share. */
static int
share_set_params(void *data, const OSSL_PARAM params[])
{
    const OSSL_PARAM *param =
        params != NULL ? OSSL_PARAM_locate_const(params, OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY) : NULL;
    struct share *share = data;

    if (param == NULL)
        return 1;
    if (param->data_type != OSSL_PARAM_OCTET_STRING || param->data_size != SIZE)
        return 0;
    memcpy(share->point, param->data, SIZE);
    share->has_point = true;
    OPENSSL_cleanse(share->scalar, SIZE);
    share->has_scalar = false;
    return 1;
}

static const OSSL_PARAM *
share_settable_params(void *provider)
{
    static const OSSL_PARAM table[] = {
        OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY, NULL, 0),
        OSSL_PARAM_END,
    };

    (void)provider;
    return table;
}

/* libssl imports and exports nothing; what libcrypto builds upon X25519, hybrid groups, does. */
static const OSSL_PARAM *
share_types(int selection)
{
    static const OSSL_PARAM table[] = {
        OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, NULL, 0),
        OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PRIV_KEY, NULL, 0),
        OSSL_PARAM_END,
    };

    return (selection & OSSL_KEYMGMT_SELECT_KEYPAIR) != 0 ? table : NULL;
}

static bool
take_bytes(const OSSL_PARAM params[], const char *key, uint8_t bytes[SIZE], bool *has)
{
    const OSSL_PARAM *param = OSSL_PARAM_locate_const(params, key);

    if (param == NULL)
        return true;
    if (param->data_type != OSSL_PARAM_OCTET_STRING || param->data_size != SIZE)
        return false;
    memcpy(bytes, param->data, SIZE);
    *has = true;
    return true;
}

static int
share_import(void *data, int selection, const OSSL_PARAM params[])
{
    struct share *share = data;

    if (!take_bytes(params, OSSL_PKEY_PARAM_PUB_KEY, share->point, &share->has_point) ||
        ((selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY) != 0 &&
         !take_bytes(params, OSSL_PKEY_PARAM_PRIV_KEY, share->scalar, &share->has_scalar)))
        return 0;
    if (share->has_scalar && !share->has_point)
        share->has_point = multiply_base(share->scalar, share->point);
    return share->has_point;
}

static int
share_export(void *data, int selection, OSSL_CALLBACK *callback, void *argument)
{
    struct share *share = data;
    OSSL_PARAM params[3], *next = params;

    if (share->has_point && (selection & OSSL_KEYMGMT_SELECT_PUBLIC_KEY) != 0)
        *next++ = OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, share->point, SIZE);
    if (share->has_scalar && (selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY) != 0)
        *next++ = OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PRIV_KEY, share->scalar, SIZE);
    *next = OSSL_PARAM_construct_end();
    return next != params && callback(params, argument) == 1;
}

/* What is to be made: a pair, or an empty one that libssl calls parameters. */
static uint8_t whole, empty;

static void *
generate_init(void *provider, int selection, const OSSL_PARAM params[])
{
    (void)provider;
    (void)params;
    return (selection & OSSL_KEYMGMT_SELECT_KEYPAIR) != 0 ? &whole : &empty;
}

static int
generate_set_params(void *data, const OSSL_PARAM params[])
{
    const OSSL_PARAM *param = OSSL_PARAM_locate_const(params, OSSL_PKEY_PARAM_GROUP_NAME);

    (void)data;
    return param == NULL || (param->data_type == OSSL_PARAM_UTF8_STRING &&
                             OPENSSL_strcasecmp(param->data, "X25519") == 0);
}

static const OSSL_PARAM *
generate_settable_params(void *data, void *provider)
{
    static const OSSL_PARAM table[] = {
        OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, NULL, 0),
        OSSL_PARAM_END,
    };

    (void)data;
    (void)provider;
    return table;
}

static void *
generate(void *data, OSSL_CALLBACK *callback, void *argument)
{
    struct share *share = share_new(NULL);

    (void)callback;
    (void)argument;
    if (share == NULL || data == &empty)
        return share;
    if (RAND_priv_bytes(share->scalar, SIZE) != 1 || !multiply_base(share->scalar, share->point)) {
        share_free(share);
        return NULL;
    }
    share->has_scalar = share->has_point = true;
    return share;
}

static void
generate_cleanup(void *data)
{
    (void)data;
}

static const char *
share_operation(int operation)
{
    (void)operation;
    return "X25519";
}

#define FUNCTION(id, f)                                                                            \
    {                                                                                              \
        (id), (void (*)(void))(f)                                                                  \
    }

const OSSL_DISPATCH keyshare_keys[] = {
    FUNCTION(OSSL_FUNC_KEYMGMT_NEW, share_new),
    FUNCTION(OSSL_FUNC_KEYMGMT_FREE, share_free),
    FUNCTION(OSSL_FUNC_KEYMGMT_DUP, share_dup),
    FUNCTION(OSSL_FUNC_KEYMGMT_HAS, share_has),
    FUNCTION(OSSL_FUNC_KEYMGMT_MATCH, share_match),
    FUNCTION(OSSL_FUNC_KEYMGMT_VALIDATE, share_validate),
    FUNCTION(OSSL_FUNC_KEYMGMT_GET_PARAMS, share_get_params),
    FUNCTION(OSSL_FUNC_KEYMGMT_GETTABLE_PARAMS, share_gettable_params),
    FUNCTION(OSSL_FUNC_KEYMGMT_SET_PARAMS, share_set_params),
    FUNCTION(OSSL_FUNC_KEYMGMT_SETTABLE_PARAMS, share_settable_params),
    FUNCTION(OSSL_FUNC_KEYMGMT_IMPORT, share_import),
    FUNCTION(OSSL_FUNC_KEYMGMT_IMPORT_TYPES, share_types),
    FUNCTION(OSSL_FUNC_KEYMGMT_EXPORT, share_export),
    FUNCTION(OSSL_FUNC_KEYMGMT_EXPORT_TYPES, share_types),
    FUNCTION(OSSL_FUNC_KEYMGMT_GEN_INIT, generate_init),
    FUNCTION(OSSL_FUNC_KEYMGMT_GEN_SET_PARAMS, generate_set_params),
    FUNCTION(OSSL_FUNC_KEYMGMT_GEN_SETTABLE_PARAMS, generate_settable_params),
    FUNCTION(OSSL_FUNC_KEYMGMT_GEN, generate),
    FUNCTION(OSSL_FUNC_KEYMGMT_GEN_CLEANUP, generate_cleanup),
    FUNCTION(OSSL_FUNC_KEYMGMT_QUERY_OPERATION_NAME, share_operation),
    {0, NULL},
};

/* ---- what is done with them ---- */

/* Neither is owned: EVP holds them while the operation lasts. */
struct operation {
    const struct share *share;
    const struct share *peer;
};

static void *
operation_new(void *provider)
{
    (void)provider;
    return OPENSSL_zalloc(sizeof(struct operation));
}

static void
operation_free(void *operation)
{
    OPENSSL_free(operation);
}

static int
operation_init(void *data, void *share, const OSSL_PARAM params[])
{
    struct operation *operation = data;

    (void)params;
    operation->share = share;
    operation->peer = NULL;
    return share != NULL;
}

static int
operation_set_peer(void *data, void *share)
{
    struct operation *operation = data;

    operation->peer = share;
    return share_has(share, OSSL_KEYMGMT_SELECT_PUBLIC_KEY);
}

static int
derive(void *data, unsigned char *secret, size_t *size, size_t room)
{
    const struct operation *operation = data;

    *size = SIZE;
    if (secret == NULL)
        return 1;
    return room >= SIZE && share_has(operation->share, OSSL_KEYMGMT_SELECT_PRIVATE_KEY) &&
           share_has(operation->peer, OSSL_KEYMGMT_SELECT_PUBLIC_KEY) &&
           multiply(operation->share->scalar, operation->peer->point, secret);
}

/* To the peer's share: our own, as it goes out, and the product. */
static int
encapsulate(void *data, unsigned char *out, size_t *size, unsigned char *secret,
            size_t *secret_size)
{
    const struct operation *operation = data;
    uint8_t scalar[SIZE];
    bool has_room = size != NULL && *size >= SIZE && secret_size != NULL && *secret_size >= SIZE;
    bool done;

    if (size != NULL)
        *size = SIZE;
    if (secret_size != NULL)
        *secret_size = SIZE;
    if (out == NULL)
        return 1;
    if (!has_room || secret == NULL)
        return 0;
    done = share_has(operation->share, OSSL_KEYMGMT_SELECT_PUBLIC_KEY) &&
           RAND_priv_bytes(scalar, SIZE) == 1 && multiply_base(scalar, out) &&
           multiply(scalar, operation->share->point, secret);
    OPENSSL_cleanse(scalar, sizeof(scalar));
    return done;
}

/* The client's part. */
static int
decapsulate(void *data, unsigned char *secret, size_t *secret_size, const unsigned char *in,
            size_t size)
{
    const struct operation *operation = data;
    bool has_room = *secret_size >= SIZE;

    *secret_size = SIZE;
    if (secret == NULL)
        return 1;
    return has_room && size == SIZE &&
           share_has(operation->share, OSSL_KEYMGMT_SELECT_PRIVATE_KEY) &&
           multiply(operation->share->scalar, in, secret);
}

const OSSL_DISPATCH keyshare_exchange[] = {
    FUNCTION(OSSL_FUNC_KEYEXCH_NEWCTX, operation_new),
    FUNCTION(OSSL_FUNC_KEYEXCH_FREECTX, operation_free),
    FUNCTION(OSSL_FUNC_KEYEXCH_INIT, operation_init),
    FUNCTION(OSSL_FUNC_KEYEXCH_SET_PEER, operation_set_peer),
    FUNCTION(OSSL_FUNC_KEYEXCH_DERIVE, derive),
    {0, NULL},
};

const OSSL_DISPATCH keyshare_kem[] = {
    FUNCTION(OSSL_FUNC_KEM_NEWCTX, operation_new),
    FUNCTION(OSSL_FUNC_KEM_FREECTX, operation_free),
    FUNCTION(OSSL_FUNC_KEM_ENCAPSULATE_INIT, operation_init),
    FUNCTION(OSSL_FUNC_KEM_ENCAPSULATE, encapsulate),
    FUNCTION(OSSL_FUNC_KEM_DECAPSULATE_INIT, operation_init),
    FUNCTION(OSSL_FUNC_KEM_DECAPSULATE, decapsulate),
    {0, NULL},
};

/* ---- the group ---- */

static unsigned group_id = 0x001d /* RFC 8446 section 4.2.7 */, strength = STRENGTH, is_kem = 1;
static int min_tls = TLS1_VERSION, any_later = 0, no_dtls = -1;
static char name[] = "x25519", algorithm[] = "X25519";

const OSSL_PARAM keyshare_group[] = {
    OSSL_PARAM_utf8_string(OSSL_CAPABILITY_TLS_GROUP_NAME, name, sizeof(name)),
    OSSL_PARAM_utf8_string(OSSL_CAPABILITY_TLS_GROUP_NAME_INTERNAL, algorithm, sizeof(algorithm)),
    OSSL_PARAM_utf8_string(OSSL_CAPABILITY_TLS_GROUP_ALG, algorithm, sizeof(algorithm)),
    OSSL_PARAM_uint(OSSL_CAPABILITY_TLS_GROUP_ID, &group_id),
    OSSL_PARAM_uint(OSSL_CAPABILITY_TLS_GROUP_SECURITY_BITS, &strength),
    OSSL_PARAM_uint(OSSL_CAPABILITY_TLS_GROUP_IS_KEM, &is_kem),
    OSSL_PARAM_int(OSSL_CAPABILITY_TLS_GROUP_MIN_TLS, &min_tls),
    OSSL_PARAM_int(OSSL_CAPABILITY_TLS_GROUP_MAX_TLS, &any_later),
    OSSL_PARAM_int(OSSL_CAPABILITY_TLS_GROUP_MIN_DTLS, &no_dtls),
    OSSL_PARAM_int(OSSL_CAPABILITY_TLS_GROUP_MAX_DTLS, &no_dtls),
    OSSL_PARAM_END,
};
