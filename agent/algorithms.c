/* algorithms.c: see algorithms.h. */
#include "agent/algorithms.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include <openssl/core.h>
#include <openssl/core_dispatch.h>
#include <openssl/crypto.h>
#include <openssl/provider.h>

#include "agent/random.h"

#define PROVIDER_NAME "tlsagent-algorithms"

/* Of records and tickets. */
static const char *const kept[] = {"AES-128-GCM:", "AES-256-GCM:", "ChaCha20-Poly1305"};
#define KEPT (sizeof(kept) / sizeof(kept[0]))

/* One per process: roles are single-threaded. */
static OSSL_PROVIDER *libcryptos, *ours; /* held as long as the process lives */
static OSSL_ALGORITHM ciphers[KEPT + 1];

static bool
is_kept(const char *names)
{
    for (size_t i = 0; i < KEPT; i++) {
        if (strncmp(names, kept[i], strlen(kept[i])) == 0)
            return true;
    }
    return false;
}

static const OSSL_ALGORITHM *
provider_query(void *data, int operation, int *no_cache)
{
    const OSSL_ALGORITHM *all = OSSL_PROVIDER_query_operation(libcryptos, operation, no_cache);
    size_t count = 0;

    (void)data;
    *no_cache = 0;
    if (operation != OSSL_OP_CIPHER || all == NULL)
        return all;
    for (; all->algorithm_names != NULL && count < KEPT; all++) {
        if (is_kept(all->algorithm_names))
            ciphers[count++] = *all;
    }
    memset(&ciphers[count], 0, sizeof(ciphers[count]));
    return ciphers;
}

/* Groups and their names. */
static int
provider_capabilities(void *data, const char *capability, OSSL_CALLBACK *callback, void *argument)
{
    (void)data;
    return OSSL_PROVIDER_get_capabilities(libcryptos, capability, callback, argument);
}

#define FUNCTION(id, f)                                                                            \
    {                                                                                              \
        (id), (void (*)(void))(f)                                                                  \
    }

static const OSSL_DISPATCH provider_functions[] = {
    FUNCTION(OSSL_FUNC_PROVIDER_QUERY_OPERATION, provider_query),
    FUNCTION(OSSL_FUNC_PROVIDER_GET_CAPABILITIES, provider_capabilities),
    {0, NULL},
};

/* The implementations are libcrypto's, so their context is. */
static int
provider_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in, const OSSL_DISPATCH **out,
              void **data)
{
    (void)handle;
    (void)in;
    *out = provider_functions;
    *data = OSSL_PROVIDER_get0_provider_ctx(libcryptos);
    return 1;
}

int
algorithms_load(struct error *error)
{
    static OSSL_LIB_CTX *apart;

    if (ours != NULL)
        return 0;
    apart = OSSL_LIB_CTX_new();
    /* In there libcrypto needs random numbers too: it makes keys. */
    if (apart == NULL || (libcryptos = OSSL_PROVIDER_load(apart, "default")) == NULL ||
        random_load(apart, error) == -1 ||
        OSSL_PROVIDER_add_builtin(NULL, PROVIDER_NAME, provider_init) != 1 ||
        (ours = OSSL_PROVIDER_load(NULL, PROVIDER_NAME)) == NULL)
        return error_set(error, "libcrypto's algorithms cannot be loaded");
    return 0;
}
