/* random.c: see random.h. */
#include "agent/random.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/random.h>

#include <openssl/core.h>
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/provider.h>
#include <openssl/rand.h>

#define PROVIDER_NAME "tlsagent-random"
#define RANDOM_NAME   "TLSAGENT-RANDOM"

#define STORE_SIZE                                                                                 \
    256 /* the kernel gives so many at once or none; signals do not cut them short                 \
         */
#define REQUEST_MAX 65536
#define STRENGTH    256 /* bits; of the kernel's ChaCha20 */

struct generator {
    size_t left;
    uint8_t bytes[STORE_SIZE]; /* the first `left` have not been given out; the others are zeros */
};

static bool
fetch(uint8_t *out, size_t size)
{
    while (size > 0) {
        ssize_t got = getrandom(out, size < STORE_SIZE ? size : STORE_SIZE, 0);

        if (got == -1 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        out += got;
        size -= (size_t)got;
    }
    return true;
}

static int
generator_generate(void *data, unsigned char *out, size_t size, unsigned strength,
                   int prediction_resistance, const unsigned char *additional,
                   size_t additional_size)
{
    struct generator *generator = data;

    (void)additional; /* the kernel needs none */
    (void)additional_size;
    if (strength > STRENGTH)
        return 0;
    if (size > STORE_SIZE || prediction_resistance != 0)
        return fetch(out, size);
    if (size > generator->left) {
        if (!fetch(generator->bytes, STORE_SIZE)) {
            OPENSSL_cleanse(generator, sizeof(*generator));
            return 0;
        }
        generator->left = STORE_SIZE;
    }
    generator->left -= size;
    memcpy(out, generator->bytes + generator->left, size);
    OPENSSL_cleanse(generator->bytes + generator->left, size);
    return 1;
}

static void *
generator_new(void *provider, void *parent, const OSSL_DISPATCH *parent_functions)
{
    (void)provider;
    (void)parent;
    (void)parent_functions;
    return OPENSSL_zalloc(sizeof(struct generator));
}

static void
generator_free(void *data)
{
    OPENSSL_clear_free(data, sizeof(struct generator));
}

static int
generator_instantiate(void *data, unsigned strength, int prediction_resistance,
                      const unsigned char *text, size_t text_size, const OSSL_PARAM params[])
{
    (void)data;
    (void)prediction_resistance;
    (void)text;
    (void)text_size;
    (void)params; /* which cipher OpenSSL's generator would use */
    return strength <= STRENGTH;
}

static int
generator_uninstantiate(void *data)
{
    OPENSSL_cleanse(data, sizeof(struct generator));
    return 1;
}

/* Roles are single-threaded. */
static int
generator_enable_locking(void *data)
{
    (void)data;
    return 1;
}

static int
generator_get_params(void *data, OSSL_PARAM params[])
{
    (void)data;
    for (OSSL_PARAM *param = params; param != NULL && param->key != NULL; param++) {
        if ((strcmp(param->key, OSSL_RAND_PARAM_MAX_REQUEST) == 0 &&
             !OSSL_PARAM_set_size_t(param, REQUEST_MAX)) ||
            (strcmp(param->key, OSSL_RAND_PARAM_STATE) == 0 &&
             !OSSL_PARAM_set_int(param, EVP_RAND_STATE_READY)) ||
            (strcmp(param->key, OSSL_RAND_PARAM_STRENGTH) == 0 &&
             !OSSL_PARAM_set_uint(param, STRENGTH)))
            return 0;
    }
    return 1;
}

static const OSSL_PARAM *
generator_gettable_params(void *data, void *provider)
{
    static const OSSL_PARAM table[] = {
        OSSL_PARAM_size_t(OSSL_RAND_PARAM_MAX_REQUEST, NULL),
        OSSL_PARAM_int(OSSL_RAND_PARAM_STATE, NULL),
        OSSL_PARAM_uint(OSSL_RAND_PARAM_STRENGTH, NULL),
        OSSL_PARAM_END,
    };

    (void)data;
    (void)provider;
    return table;
}

#define FUNCTION(id, f)                                                                            \
    {                                                                                              \
        (id), (void (*)(void))(f)                                                                  \
    }

static const OSSL_DISPATCH functions[] = {
    FUNCTION(OSSL_FUNC_RAND_NEWCTX, generator_new),
    FUNCTION(OSSL_FUNC_RAND_FREECTX, generator_free),
    FUNCTION(OSSL_FUNC_RAND_INSTANTIATE, generator_instantiate),
    FUNCTION(OSSL_FUNC_RAND_UNINSTANTIATE, generator_uninstantiate),
    FUNCTION(OSSL_FUNC_RAND_GENERATE, generator_generate),
    FUNCTION(OSSL_FUNC_RAND_ENABLE_LOCKING, generator_enable_locking),
    FUNCTION(OSSL_FUNC_RAND_GET_CTX_PARAMS, generator_get_params),
    FUNCTION(OSSL_FUNC_RAND_GETTABLE_CTX_PARAMS, generator_gettable_params),
    {0, NULL},
};

static const OSSL_ALGORITHM generators[] = {
    {RANDOM_NAME, "provider=" PROVIDER_NAME, functions, "random numbers of the kernel"},
    {NULL, NULL, NULL, NULL},
};

static const OSSL_ALGORITHM *
provider_query(void *data, int operation, int *no_cache)
{
    (void)data;
    *no_cache = 0;
    return operation == OSSL_OP_RAND ? generators : NULL;
}

static const OSSL_DISPATCH provider_functions[] = {
    FUNCTION(OSSL_FUNC_PROVIDER_QUERY_OPERATION, provider_query),
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

/* Is ours the one that libcrypto uses? */
static bool
is_chosen(void)
{
    EVP_RAND_CTX *used = RAND_get0_public(NULL);

    return used != NULL && EVP_RAND_is_a(EVP_RAND_CTX_get0_rand(used), RANDOM_NAME) == 1;
}

int
random_load(struct error *error)
{
    /* Held as long as the process lives. */
    static struct {
        OSSL_PROVIDER *libcryptos, *ours;
    } loaded;

    if (loaded.ours != NULL)
        return 0;
    /* A provider loaded by name keeps libcrypto from loading its own by itself. */
    if ((loaded.libcryptos = OSSL_PROVIDER_load(NULL, "default")) == NULL ||
        OSSL_PROVIDER_add_builtin(NULL, PROVIDER_NAME, provider_init) != 1 ||
        (loaded.ours = OSSL_PROVIDER_load(NULL, PROVIDER_NAME)) == NULL ||
        RAND_set_DRBG_type(NULL, RANDOM_NAME, NULL, NULL, NULL) != 1 || !is_chosen())
        return error_set(error, "the kernel's random numbers cannot be given to libcrypto");
    return 0;
}
