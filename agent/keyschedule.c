/* keyschedule.c: see keyschedule.h. */
#include "agent/keyschedule.h"

#include <string.h>

#include <openssl/core.h>
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/provider.h>

#include "agent/hmac.h"
#include "agent/keyshare.h"
#include "agent/tls12prf.h"
#include "protocol/hkdf.h"

#define PROVIDER_NAME "tlsagent-schedule"
#define PROPERTY      "tlsagent.schedule=yes"

/* One per process: roles are single-threaded. */
static struct {
    OSSL_PROVIDER *libcryptos, *ours; /* held as long as the process lives */
    bool has_keyshare;
} loaded;
static void (*observer)(enum keyschedule_secret which, const uint8_t *secret, size_t size);

/* What libssl asks for, its values not copied. */
struct request {
    int mode;
    size_t hash_size; /* 0: no digest that a suite of TLS 1.3 has */
    const uint8_t *key, *salt;
    size_t key_size, salt_size;
    struct hkdf_label label;
};

/* Returns false if there is something that a TLS 1.3 handshake does not ask for. */
static bool
read_request(const OSSL_PARAM *param, struct request *request)
{
    memset(request, 0, sizeof(*request));
    request->mode = -1;
    for (; param != NULL && param->key != NULL; param++) {
        const struct {
            const char *key;
            const uint8_t **bytes;
            size_t *size;
        } strings[] = {
            {OSSL_KDF_PARAM_KEY, &request->key, &request->key_size},
            {OSSL_KDF_PARAM_SALT, &request->salt, &request->salt_size},
            {OSSL_KDF_PARAM_PREFIX, &request->label.prefix, &request->label.prefix_size},
            {OSSL_KDF_PARAM_LABEL, &request->label.label, &request->label.label_size},
            {OSSL_KDF_PARAM_DATA, &request->label.context, &request->label.context_size},
        };
        bool known = false;

        if (strcmp(param->key, OSSL_KDF_PARAM_MODE) == 0) {
            known = OSSL_PARAM_get_int(param, &request->mode) == 1;
        } else if (strcmp(param->key, OSSL_KDF_PARAM_DIGEST) == 0) {
            request->hash_size =
                hkdf_digest_size(param->data_type == OSSL_PARAM_UTF8_STRING ? param->data : "");
            known = true;
        }
        for (size_t i = 0; !known && i < sizeof(strings) / sizeof(strings[0]); i++) {
            if (param->key[0] != strings[i].key[0] || strcmp(param->key, strings[i].key) != 0 ||
                param->data_type != OSSL_PARAM_OCTET_STRING)
                continue;
            *strings[i].bytes = param->data;
            *strings[i].size = param->data_size;
            known = true;
        }
        if (!known)
            return false;
    }
    return request->hash_size != 0;
}

/* The next one of the chain of secrets: HKDF-Extract of the new input, salted with what
 * Derive-Secret(previous, "derived", "") gives. Without a previous one or an input: zeros. */
static bool
extract(const struct request *request, uint8_t *out)
{
    static const uint8_t zeros[HKDF_HASH_MAX];
    uint8_t empty[HKDF_HASH_MAX], salt[HKDF_HASH_MAX];
    struct hkdf_label label = request->label;
    size_t size = request->hash_size;
    bool done = true;

    if (request->salt != NULL) {
        label.context = empty;
        label.context_size = size;
        done = request->salt_size == size && hkdf_empty_digest(size, empty) &&
               hkdf_expand_label(size, request->salt, &label, salt, size);
    }
    done = done && hkdf_hmac(size, salt, request->salt != NULL ? size : 0,
                             request->key != NULL ? request->key : zeros,
                             request->key != NULL ? request->key_size : size, out);
    OPENSSL_cleanse(salt, sizeof(salt));
    return done;
}

static void
tell(const struct hkdf_label *label, const uint8_t *secret, size_t size)
{
    static const char *const told[] = {[KEYSCHEDULE_CLIENT] = "c ap traffic",
                                       [KEYSCHEDULE_SERVER] = "s ap traffic",
                                       [KEYSCHEDULE_RESUMPTION] = "res master"};

    for (size_t i = 0; observer != NULL && i < sizeof(told) / sizeof(told[0]); i++) {
        if (label->label_size == strlen(told[i]) &&
            memcmp(label->label, told[i], label->label_size) == 0)
            observer((enum keyschedule_secret)i, secret, size);
    }
}

/* libssl gives everything in this one call: there is no state. */
static int
schedule_derive(void *data, unsigned char *out, size_t size, const OSSL_PARAM params[])
{
    struct request request;

    (void)data;
    if (!read_request(params, &request))
        return 0;
    switch (request.mode) {
    case EVP_KDF_HKDF_MODE_EXTRACT_ONLY:
        return size == request.hash_size && extract(&request, out);
    case EVP_KDF_HKDF_MODE_EXPAND_ONLY:
        if (request.key == NULL || request.key_size != request.hash_size ||
            !hkdf_expand_label(request.hash_size, request.key, &request.label, out, size))
            return 0;
        tell(&request.label, out, size);
        return 1;
    default:
        return 0;
    }
}

static void *
schedule_new(void *data)
{
    return data; /* anything but NULL */
}

static void
schedule_free(void *data)
{
    (void)data;
}

#define FUNCTION(id, f)                                                                            \
    {                                                                                              \
        (id), (void (*)(void))(f)                                                                  \
    }

static const OSSL_DISPATCH functions[] = {
    FUNCTION(OSSL_FUNC_KDF_NEWCTX, schedule_new),
    FUNCTION(OSSL_FUNC_KDF_FREECTX, schedule_free),
    FUNCTION(OSSL_FUNC_KDF_DERIVE, schedule_derive),
    {0, NULL},
};

static const OSSL_ALGORITHM kdfs[] = {
    {OSSL_KDF_NAME_TLS1_3_KDF, PROPERTY, functions, "TLS 1.3 key schedule"},
    {OSSL_KDF_NAME_TLS1_PRF, PROPERTY, tls12prf_functions, "TLS 1.2 key schedule"},
    {NULL, NULL, NULL, NULL},
};

static const OSSL_ALGORITHM macs[] = {
    {OSSL_MAC_NAME_HMAC, PROPERTY, hmac_functions, "HMAC of TLS"},
    {NULL, NULL, NULL, NULL},
};

static const OSSL_ALGORITHM keys[] = {
    {KEYSHARE_NAMES, PROPERTY, keyshare_keys, "X25519 of TLS"},
    {NULL, NULL, NULL, NULL},
};

static const OSSL_ALGORITHM exchanges[] = {
    {KEYSHARE_NAMES, PROPERTY, keyshare_exchange, "X25519 of TLS"},
    {NULL, NULL, NULL, NULL},
};

static const OSSL_ALGORITHM kems[] = {
    {KEYSHARE_NAMES, PROPERTY, keyshare_kem, "X25519 of TLS 1.3"},
    {NULL, NULL, NULL, NULL},
};

static const OSSL_ALGORITHM *
provider_query(void *data, int operation, int *no_cache)
{
    (void)data;
    *no_cache = 0;
    switch (operation) {
    case OSSL_OP_KDF:
        return kdfs;
    case OSSL_OP_MAC:
        return macs;
    case OSSL_OP_KEYMGMT:
        return loaded.has_keyshare ? keys : NULL;
    case OSSL_OP_KEYEXCH:
        return loaded.has_keyshare ? exchanges : NULL;
    case OSSL_OP_KEM:
        return loaded.has_keyshare ? kems : NULL;
    default:
        return NULL;
    }
}

static int
provider_capabilities(void *data, const char *capability, OSSL_CALLBACK *callback, void *argument)
{
    (void)data;
    return !loaded.has_keyshare || OPENSSL_strcasecmp(capability, "TLS-GROUP") != 0 ||
           callback(keyshare_group, argument);
}

static const OSSL_DISPATCH provider_functions[] = {
    FUNCTION(OSSL_FUNC_PROVIDER_QUERY_OPERATION, provider_query),
    FUNCTION(OSSL_FUNC_PROVIDER_GET_CAPABILITIES, provider_capabilities),
    {0, NULL},
};

static int
provider_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in, const OSSL_DISPATCH **out,
              void **data)
{
    (void)in;
    *out = provider_functions;
    *data = (void *)(uintptr_t)handle;
    return 1;
}

/* Are ours those that libssl will get? */
static bool
are_chosen(void)
{
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, OSSL_KDF_NAME_TLS1_3_KDF, NULL);
    EVP_KDF *prf = EVP_KDF_fetch(NULL, OSSL_KDF_NAME_TLS1_PRF, NULL);
    EVP_MAC *mac = EVP_MAC_fetch(NULL, OSSL_MAC_NAME_HMAC, NULL);
    bool ours = kdf != NULL && EVP_KDF_get0_provider(kdf) == loaded.ours && prf != NULL &&
                EVP_KDF_get0_provider(prf) == loaded.ours && mac != NULL &&
                EVP_MAC_get0_provider(mac) == loaded.ours;

    EVP_KDF_free(kdf);
    EVP_KDF_free(prf);
    EVP_MAC_free(mac);
    return ours;
}

int
keyschedule_load(struct error *error)
{
    if (loaded.ours != NULL)
        return 0;
    /* A provider loaded by name keeps libcrypto from loading its own by itself. */
    loaded.libcryptos = OSSL_PROVIDER_load(NULL, "default");
    loaded.has_keyshare = loaded.libcryptos != NULL && keyshare_prepare(loaded.libcryptos);
    if (loaded.libcryptos == NULL ||
        OSSL_PROVIDER_add_builtin(NULL, PROVIDER_NAME, provider_init) != 1 ||
        (loaded.ours = OSSL_PROVIDER_load(NULL, PROVIDER_NAME)) == NULL ||
        EVP_set_default_properties(NULL, "?" PROPERTY) != 1 || !are_chosen()) {
        loaded.ours = NULL; /* this process will not go on */
        return error_set(error, "the provider for the key schedule cannot be loaded");
    }
    return 0;
}

void
keyschedule_observe(void (*derived)(enum keyschedule_secret which, const uint8_t *secret,
                                    size_t size))
{
    observer = derived;
}
