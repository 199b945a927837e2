/*
 * proxykey.c: see proxykey.h.
 *
 * The first half is the provider's KEYMGMT (a public key of the default provider plus a number),
 * the second its SIGNATURE (collects what libssl signs, takes it apart, calls the keeper).
 */
#include "agent/proxykey.h"

#include <string.h>
#include <strings.h>

#include <openssl/core.h>
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/params.h>
#include <openssl/provider.h>
#include <openssl/rsa.h>

#include "agent/generation.h"
#include "agent/proxycipher.h"
#include "agent/shape.h"

#define PROVIDER_NAME "tlsagent"

/* Our own import parameter: a struct reference of the caller, by address. In-process only. */
#define PARAM_REFERENCE "tlsagent-reference"

#define PAD_SIZE 64 /* RFC 8446 section 4.4.3 */

static OSSL_LIB_CTX *context; /* set once by proxykey_load() */

enum kind {
    KIND_RSA,
    KIND_EC,
    KIND_ED25519,
};

static const char *const kind_names[] = {"RSA", "EC", "ED25519"};

struct reference {
    struct keycall *keeper;
    uint32_t number;
    EVP_PKEY *public_key;
};

struct proxy {
    enum kind kind;
    EVP_PKEY *public_key;   /* of the default provider; owned */
    struct keycall *keeper; /* NULL: only a public key */
    uint32_t number;
};

static int
fail(const char *text)
{
    ERR_raise_data(ERR_LIB_USER, ERR_R_OPERATION_FAIL, "%s", text);
    return 0;
}

/* ---- KEYMGMT ---- */

static void *
key_new(enum kind kind)
{
    struct proxy *key = OPENSSL_zalloc(sizeof(*key));

    if (key != NULL)
        key->kind = kind;
    return key;
}

static void *
key_new_rsa(void *provider)
{
    (void)provider;
    return key_new(KIND_RSA);
}

static void *
key_new_ec(void *provider)
{
    (void)provider;
    return key_new(KIND_EC);
}

static void *
key_new_ed25519(void *provider)
{
    (void)provider;
    return key_new(KIND_ED25519);
}

static void
key_free(void *data)
{
    struct proxy *key = data;

    if (key == NULL)
        return;
    EVP_PKEY_free(key->public_key);
    OPENSSL_free(key);
}

static int
key_has(const void *data, int selection)
{
    const struct proxy *key = data;

    if (key == NULL || key->public_key == NULL)
        return 0;
    return (selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY) == 0 || key->keeper != NULL;
}

static int
key_match(const void *data1, const void *data2, int selection)
{
    const struct proxy *key1 = data1, *key2 = data2;

    if (key1->public_key == NULL || key2->public_key == NULL)
        return 0;
    if ((selection & OSSL_KEYMGMT_SELECT_KEYPAIR) != 0)
        return EVP_PKEY_eq(key1->public_key, key2->public_key) == 1;
    return EVP_PKEY_parameters_eq(key1->public_key, key2->public_key) == 1;
}

static int
import_public(struct proxy *key, const OSSL_PARAM params[])
{
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, kind_names[key->kind], NULL);
    int done = ctx != NULL && EVP_PKEY_fromdata_init(ctx) == 1 &&
               EVP_PKEY_fromdata(ctx, &key->public_key, EVP_PKEY_PUBLIC_KEY,
                                 (OSSL_PARAM *)(uintptr_t)params) == 1;

    EVP_PKEY_CTX_free(ctx);
    return done;
}

static int
key_import(void *data, int selection, const OSSL_PARAM params[])
{
    const OSSL_PARAM *param = OSSL_PARAM_locate_const(params, PARAM_REFERENCE);
    struct proxy *key = data;
    const struct reference *reference;

    if (key->public_key != NULL)
        return 0;
    if (param == NULL) {
        if ((selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY) != 0)
            return fail("private keys do not belong here");
        return import_public(key, params);
    }
    if (param->data_type != OSSL_PARAM_OCTET_PTR || param->data_size != sizeof(*reference))
        return 0;
    memcpy(&reference, param->data, sizeof(reference));
    if (EVP_PKEY_up_ref(reference->public_key) != 1)
        return 0;
    key->public_key = reference->public_key;
    key->keeper = reference->keeper;
    key->number = reference->number;
    return 1;
}

static int
key_export(void *data, int selection, OSSL_CALLBACK *callback, void *argument)
{
    const struct proxy *key = data;
    OSSL_PARAM *params = NULL;
    int done;

    /* This is also what keeps EVP from moving the key to another provider to sign there. */
    if ((selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY) != 0 || key->public_key == NULL)
        return 0;
    done =
        EVP_PKEY_todata(key->public_key,
                        (selection & OSSL_KEYMGMT_SELECT_PUBLIC_KEY) != 0 ? EVP_PKEY_PUBLIC_KEY
                                                                          : EVP_PKEY_KEY_PARAMETERS,
                        &params) == 1 &&
        callback(params, argument) == 1;
    OSSL_PARAM_free(params);
    return done;
}

static const OSSL_PARAM public_params[] = {
    OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_N, NULL, 0),
    OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_E, NULL, 0),
    OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, NULL, 0),
    OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, NULL, 0),
    OSSL_PARAM_END,
};

static const OSSL_PARAM *
key_public_types(int selection)
{
    return (selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY) != 0 ? NULL : public_params;
}

static const OSSL_PARAM gettable_params[] = {
    OSSL_PARAM_int(OSSL_PKEY_PARAM_BITS, NULL),
    OSSL_PARAM_int(OSSL_PKEY_PARAM_SECURITY_BITS, NULL),
    OSSL_PARAM_int(OSSL_PKEY_PARAM_MAX_SIZE, NULL),
    OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_DEFAULT_DIGEST, NULL, 0),
    OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_MANDATORY_DIGEST, NULL, 0),
    OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_N, NULL, 0),
    OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_E, NULL, 0),
    OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, NULL, 0),
    OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, NULL, 0),
    OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY, NULL, 0),
    OSSL_PARAM_END,
};

/* Only what the table names: a caller's "public" key may have a private half all the same. */
static int
key_get_params(void *data, OSSL_PARAM params[])
{
    const struct proxy *key = data;

    if (key->public_key == NULL)
        return 0;
    for (OSSL_PARAM *param = params; param->key != NULL; param++) {
        OSSL_PARAM one[2] = {*param, OSSL_PARAM_construct_end()};

        if (OSSL_PARAM_locate_const(gettable_params, param->key) == NULL)
            continue;
        if (EVP_PKEY_get_params(key->public_key, one) != 1)
            return 0;
        *param = one[0];
    }
    return 1;
}

static const OSSL_PARAM *
key_gettable_params(void *provider)
{
    (void)provider;
    return gettable_params;
}

static const char *
key_operation_ec(int operation)
{
    return operation == OSSL_OP_SIGNATURE ? "ECDSA" : NULL;
}

#define FUNCTION(id, f)                                                                            \
    {                                                                                              \
        (id), (void (*)(void))(f)                                                                  \
    }

#define KEYMGMT_FUNCTIONS(new)                                                                     \
    FUNCTION(OSSL_FUNC_KEYMGMT_NEW, new), FUNCTION(OSSL_FUNC_KEYMGMT_FREE, key_free),              \
        FUNCTION(OSSL_FUNC_KEYMGMT_HAS, key_has), FUNCTION(OSSL_FUNC_KEYMGMT_MATCH, key_match),    \
        FUNCTION(OSSL_FUNC_KEYMGMT_IMPORT, key_import),                                            \
        FUNCTION(OSSL_FUNC_KEYMGMT_IMPORT_TYPES, key_public_types),                                \
        FUNCTION(OSSL_FUNC_KEYMGMT_EXPORT, key_export),                                            \
        FUNCTION(OSSL_FUNC_KEYMGMT_EXPORT_TYPES, key_public_types),                                \
        FUNCTION(OSSL_FUNC_KEYMGMT_GET_PARAMS, key_get_params),                                    \
        FUNCTION(OSSL_FUNC_KEYMGMT_GETTABLE_PARAMS, key_gettable_params)

static const OSSL_DISPATCH keymgmt_rsa[] = {KEYMGMT_FUNCTIONS(key_new_rsa), {0, NULL}};
static const OSSL_DISPATCH keymgmt_ec[] = {
    KEYMGMT_FUNCTIONS(key_new_ec),
    FUNCTION(OSSL_FUNC_KEYMGMT_QUERY_OPERATION_NAME, key_operation_ec),
    {0, NULL},
};
static const OSSL_DISPATCH keymgmt_ed25519[] = {KEYMGMT_FUNCTIONS(key_new_ed25519), {0, NULL}};

/* ---- SIGNATURE ---- */

struct signing {
    const struct proxy *key; /* EVP holds it while the operation lasts */
    enum shape_digest digest;
    bool pss;
    bool salt_fits; /* PSS: as long as the digest, as TLS demands */
    bool too_long;  /* more than any shape */
    size_t content_size;
    uint8_t content[SHAPE_CONTENT_MAX]; /* what libssl wants signed, public */
};

static void *
signing_new(void *provider, const char *properties)
{
    (void)provider;
    (void)properties;
    return OPENSSL_zalloc(sizeof(struct signing));
}

static void
signing_free(void *data)
{
    OPENSSL_free(data);
}

static void *
signing_dup(void *data)
{
    return OPENSSL_memdup(data, sizeof(struct signing));
}

static bool
find_digest(const char *name, enum shape_digest *digest)
{
    static const char *const names[SHAPE_DIGESTS][2] = {
        {"SHA2-256", "SHA256"}, {"SHA2-384", "SHA384"}, {"SHA2-512", "SHA512"}};

    for (size_t i = 0; i < SHAPE_DIGESTS; i++) {
        if (strcasecmp(name, names[i][0]) == 0 || strcasecmp(name, names[i][1]) == 0) {
            *digest = (enum shape_digest)i;
            return true;
        }
    }
    return false;
}

static int
set_padding(struct signing *signing, const OSSL_PARAM *param)
{
    const char *name;
    int mode = 0;

    if (OSSL_PARAM_get_utf8_string_ptr(param, &name)) {
        if (strcmp(name, OSSL_PKEY_RSA_PAD_MODE_PSS) == 0)
            mode = RSA_PKCS1_PSS_PADDING;
        else if (strcmp(name, OSSL_PKEY_RSA_PAD_MODE_PKCSV15) == 0)
            mode = RSA_PKCS1_PADDING;
    } else if (!OSSL_PARAM_get_int(param, &mode)) {
        return 0;
    }
    if (mode != RSA_PKCS1_PADDING && mode != RSA_PKCS1_PSS_PADDING)
        return fail("only PKCS#1 v1.5 and PSS signatures are made");
    signing->pss = mode == RSA_PKCS1_PSS_PADDING;
    return 1;
}

static int
set_salt(struct signing *signing, const OSSL_PARAM *param)
{
    static const int digest_sizes[] = {32, 48, 64, 0};
    const char *name;
    int length = 0;

    if (OSSL_PARAM_get_utf8_string_ptr(param, &name))
        signing->salt_fits = strcmp(name, OSSL_PKEY_RSA_PSS_SALT_LEN_DIGEST) == 0;
    else if (OSSL_PARAM_get_int(param, &length))
        signing->salt_fits =
            length == RSA_PSS_SALTLEN_DIGEST || length == digest_sizes[signing->digest];
    else
        return 0;
    return 1;
}

static int
signing_set_params(void *data, const OSSL_PARAM params[])
{
    struct signing *signing = data;
    const OSSL_PARAM *param;

    if (params == NULL)
        return 1;
    param = OSSL_PARAM_locate_const(params, OSSL_SIGNATURE_PARAM_PAD_MODE);
    if (param != NULL && !set_padding(signing, param))
        return 0;
    param = OSSL_PARAM_locate_const(params, OSSL_SIGNATURE_PARAM_PSS_SALTLEN);
    return param == NULL || set_salt(signing, param);
}

static const OSSL_PARAM *
signing_settable_params(void *data, void *provider)
{
    static const OSSL_PARAM table[] = {
        OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_PAD_MODE, NULL, 0),
        OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_PSS_SALTLEN, NULL, 0),
        OSSL_PARAM_END,
    };

    (void)data;
    (void)provider;
    return table;
}

static int
signing_init(void *data, const char *digest, void *key, const OSSL_PARAM params[])
{
    struct signing *signing = data;

    if (key != NULL) {
        signing->key = key;
        signing->pss = signing->salt_fits = false;
    }
    signing->content_size = 0;
    signing->too_long = false;
    if (signing->key == NULL || signing->key->keeper == NULL)
        return fail("this key cannot sign: it is a public key");
    if (signing->key->kind == KIND_ED25519) {
        if (digest != NULL && digest[0] != '\0')
            return fail("Ed25519 takes no digest");
        signing->digest = SHAPE_NO_DIGEST;
    } else if (!find_digest(digest != NULL && digest[0] != '\0' ? digest : "SHA2-256",
                            &signing->digest)) {
        return fail("only SHA-256, SHA-384 and SHA-512 are signed with");
    }
    return signing_set_params(signing, params);
}

static int
signing_update(void *data, const unsigned char *bytes, size_t size)
{
    struct signing *signing = data;

    if (size > sizeof(signing->content) - signing->content_size) {
        signing->too_long = true;
        return fail("this is not what TLS signs: too long");
    }
    memcpy(signing->content + signing->content_size, bytes, size);
    signing->content_size += size;
    return 1;
}

static uint16_t
signing_scheme(const struct signing *signing)
{
    static const uint16_t pkcs1[] = {0x0401, 0x0501, 0x0601}, pss[] = {0x0804, 0x0805, 0x0806},
                          ecdsa[] = {0x0403, 0x0503, 0x0603};

    switch (signing->key->kind) {
    case KIND_RSA:
        return signing->pss ? pss[signing->digest] : pkcs1[signing->digest];
    case KIND_EC:
        return ecdsa[signing->digest];
    default:
        return 0x0807;
    }
}

/* TLS 1.3: 64 spaces, context string with its NUL, transcript hash. Returns whether it is one. */
static bool
split_tls13(const struct signing *signing, struct keyops_sign_tls13 *request)
{
    static const char server[] = "TLS 1.3, server CertificateVerify";
    static const char client[] = "TLS 1.3, client CertificateVerify";
    const uint8_t *text = signing->content + PAD_SIZE;
    size_t size = signing->content_size;

    if (size <= PAD_SIZE + sizeof(server) ||
        size - PAD_SIZE - sizeof(server) > sizeof(request->hash))
        return false;
    for (size_t i = 0; i < PAD_SIZE; i++)
        if (signing->content[i] != ' ')
            return false;
    if (memcmp(text, server, sizeof(server)) == 0)
        request->role = KEYOPS_ROLE_SERVER;
    else if (memcmp(text, client, sizeof(client)) == 0)
        request->role = KEYOPS_ROLE_CLIENT;
    else
        return false;
    request->hash_size = size - PAD_SIZE - sizeof(server);
    memcpy(request->hash, text + sizeof(server), request->hash_size);
    return request->hash_size == 32 || request->hash_size == 48;
}

/* TLS 1.2: two randoms, ServerECDHParams. Returns whether it is one. */
static bool
split_tls12(const struct signing *signing, struct keyops_sign_tls12_server *request)
{
    const uint8_t *next = signing->content;

    if (signing->content_size <= 2 * (size_t)KEYOPS_RANDOM_SIZE)
        return false;
    memcpy(request->client_random, next, KEYOPS_RANDOM_SIZE);
    memcpy(request->server_random, next + KEYOPS_RANDOM_SIZE, KEYOPS_RANDOM_SIZE);
    request->parameters_size = signing->content_size - 2 * (size_t)KEYOPS_RANDOM_SIZE;
    memcpy(request->parameters, next + 2 * (size_t)KEYOPS_RANDOM_SIZE, request->parameters_size);
    return shape_parameters_fit(request->parameters, request->parameters_size);
}

static int
signing_final(void *data, unsigned char *signature, size_t *size, size_t room)
{
    struct signing *signing = data;
    struct keyops_sign_tls13 tls13 = {.key = signing->key->number};
    struct keyops_sign_tls12_server tls12 = {.key = signing->key->number};
    uint8_t answer[KEYOPS_SIGNATURE_MAX];
    size_t answer_size;
    int refusal;

    if (signature == NULL) {
        *size = (size_t)EVP_PKEY_get_size(signing->key->public_key);
        return 1;
    }
    if (signing->too_long)
        return fail("this is not what TLS signs: too long");
    if (signing->pss && !signing->salt_fits)
        return fail("the salt of a PSS signature must be as long as its digest");
    if (split_tls13(signing, &tls13)) {
        tls13.scheme = signing_scheme(signing);
        refusal =
            keycall_sign_tls13(signing->key->keeper, &tls13, answer, sizeof(answer), &answer_size);
    } else if (split_tls12(signing, &tls12)) {
        tls12.scheme = signing_scheme(signing);
        refusal = keycall_sign_tls12_server(signing->key->keeper, &tls12, answer, sizeof(answer),
                                            &answer_size);
    } else {
        return fail("this is neither a TLS 1.3 CertificateVerify nor a TLS 1.2 ServerKeyExchange");
    }
    if (refusal != 0) {
        ERR_raise_data(ERR_LIB_USER, ERR_R_OPERATION_FAIL, "the keeper refused key %u: %s",
                       signing->key->number, keycall_refusal_text(refusal));
        return 0;
    }
    if (answer_size > room)
        return fail("the keeper's signature is longer than the key allows");
    memcpy(signature, answer, answer_size);
    *size = answer_size;
    return 1;
}

static int
signing_once(void *data, unsigned char *signature, size_t *size, size_t room,
             const unsigned char *content, size_t content_size)
{
    struct signing *signing = data;

    if (signature != NULL) {
        signing->content_size = 0;
        signing->too_long = false;
        if (!signing_update(data, content, content_size))
            return 0;
    }
    return signing_final(data, signature, size, room);
}

static const OSSL_DISPATCH signature_functions[] = {
    FUNCTION(OSSL_FUNC_SIGNATURE_NEWCTX, signing_new),
    FUNCTION(OSSL_FUNC_SIGNATURE_FREECTX, signing_free),
    FUNCTION(OSSL_FUNC_SIGNATURE_DUPCTX, signing_dup),
    FUNCTION(OSSL_FUNC_SIGNATURE_DIGEST_SIGN_INIT, signing_init),
    FUNCTION(OSSL_FUNC_SIGNATURE_DIGEST_SIGN_UPDATE, signing_update),
    FUNCTION(OSSL_FUNC_SIGNATURE_DIGEST_SIGN_FINAL, signing_final),
    FUNCTION(OSSL_FUNC_SIGNATURE_DIGEST_SIGN, signing_once),
    FUNCTION(OSSL_FUNC_SIGNATURE_SET_CTX_PARAMS, signing_set_params),
    FUNCTION(OSSL_FUNC_SIGNATURE_SETTABLE_CTX_PARAMS, signing_settable_params),
    {0, NULL},
};

/* ---- the provider ---- */

#define PROPERTY "provider=" PROVIDER_NAME

static const OSSL_ALGORITHM keymgmts[] = {
    {"RSA:rsaEncryption:1.2.840.113549.1.1.1", PROPERTY, keymgmt_rsa, "RSA key in the keeper"},
    {"EC:id-ecPublicKey:1.2.840.10045.2.1", PROPERTY, keymgmt_ec, "EC key in the keeper"},
    {"ED25519:1.3.101.112", PROPERTY, keymgmt_ed25519, "Ed25519 key in the keeper"},
    {NULL, NULL, NULL, NULL},
};

static const OSSL_ALGORITHM signatures[] = {
    {"RSA:rsaEncryption:1.2.840.113549.1.1.1", PROPERTY, signature_functions, "by the keeper"},
    {"ECDSA", PROPERTY, signature_functions, "by the keeper"},
    {"ED25519:1.3.101.112", PROPERTY, signature_functions, "by the keeper"},
    {NULL, NULL, NULL, NULL},
};

static const OSSL_ALGORITHM ciphers[] = {
    {PROXYCIPHER_NAME, PROPERTY, proxycipher_functions, "tickets with the keeper's keys"},
    {NULL, NULL, NULL, NULL},
};

static const OSSL_ALGORITHM *
provider_query(void *provider, int operation, int *no_cache)
{
    (void)provider;
    *no_cache = 0;
    switch (operation) {
    case OSSL_OP_KEYMGMT:
        return keymgmts;
    case OSSL_OP_SIGNATURE:
        return signatures;
    case OSSL_OP_CIPHER:
        return ciphers;
    default:
        return NULL;
    }
}

static const OSSL_DISPATCH provider_functions[] = {
    FUNCTION(OSSL_FUNC_PROVIDER_QUERY_OPERATION, provider_query),
    {0, NULL},
};

static int
provider_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in, const OSSL_DISPATCH **out,
              void **provider)
{
    (void)in;
    *out = provider_functions;
    *provider = (void *)(uintptr_t)handle;
    return 1;
}

int
proxykey_load(struct error *error)
{
    if (context != NULL)
        return 0;
    /* Ours is in a context of its own; but the public halves of our keys, and all else, need the
     * default provider in the default context, whatever an openssl.cnf says. */
    if (OSSL_PROVIDER_load(NULL, "default") == NULL)
        return error_set(error, "OpenSSL's default provider cannot be loaded");
    context = OSSL_LIB_CTX_new();
    if (context == NULL || OSSL_PROVIDER_add_builtin(context, PROVIDER_NAME, provider_init) != 1 ||
        OSSL_PROVIDER_load(context, PROVIDER_NAME) == NULL) {
        OSSL_LIB_CTX_free(context);
        context = NULL;
        return error_set(error, "the provider for keys in the keeper cannot be loaded");
    }
    return 0;
}

OSSL_LIB_CTX *
proxykey_context(void)
{
    return context;
}

EVP_PKEY *
proxykey_new(struct keycall *keeper, uint32_t number, EVP_PKEY *public_key, struct error *error)
{
    struct reference reference = {keeper, number, public_key}, *address = &reference;
    OSSL_PARAM params[2] = {
        OSSL_PARAM_construct_octet_ptr(PARAM_REFERENCE, (void **)&address, sizeof(reference)),
        OSSL_PARAM_construct_end(),
    };
    EVP_PKEY_CTX *ctx = NULL;
    EVP_PKEY *key = NULL;

    for (size_t i = 0; i < sizeof(kind_names) / sizeof(kind_names[0]); i++) {
        if (!EVP_PKEY_is_a(public_key, kind_names[i]))
            continue;
        ctx = EVP_PKEY_CTX_new_from_name(context, kind_names[i], NULL);
        break;
    }
    if (ctx == NULL || EVP_PKEY_fromdata_init(ctx) != 1 ||
        EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_KEYPAIR, params) != 1) {
        error_set(error, "key %u: its certificate's public key is not RSA, EC or Ed25519", number);
        key = NULL;
    }
    EVP_PKEY_CTX_free(ctx);
    return key;
}
