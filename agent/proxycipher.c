/*
 * proxycipher.c: see proxycipher.h.
 *
 * libssl wants to know the IV before it seals; it is the nonce of the one-time key, which is in
 * hand by then. Update may return one block more than it was given, final one block, of 16 bytes.
 */
#include "agent/proxycipher.h"

#include <string.h>

#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include "agent/binding.h"

#define BLOCK_SIZE 16

struct sealing {
    struct binding *binding;
    bool encrypting;
    bool failed;                  /* opening: final reports it */
    uint8_t tag[KEYOPS_TAG_SIZE]; /* sealing: final returns it */
};

static void *
cipher_new(void *provider)
{
    (void)provider;
    return OPENSSL_zalloc(sizeof(struct sealing));
}

static void
cipher_free(void *data)
{
    OPENSSL_free(data);
}

static int
cipher_set_params(void *data, const OSSL_PARAM params[])
{
    const OSSL_PARAM *param =
        params != NULL ? OSSL_PARAM_locate_const(params, PROXYCIPHER_BINDING) : NULL;
    struct sealing *sealing = data;

    if (param == NULL)
        return 1;
    if (param->data_type != OSSL_PARAM_OCTET_PTR || param->data_size != sizeof(struct binding))
        return 0;
    memcpy(&sealing->binding, param->data, sizeof(sealing->binding));
    return 1;
}

static const OSSL_PARAM *
cipher_settable_params(void *data, void *provider)
{
    static const OSSL_PARAM table[] = {
        OSSL_PARAM_octet_ptr(PROXYCIPHER_BINDING, NULL, 0),
        OSSL_PARAM_END,
    };

    (void)data;
    (void)provider;
    return table;
}

static int
cipher_init(struct sealing *sealing, bool encrypting, const OSSL_PARAM params[])
{
    sealing->encrypting = encrypting;
    sealing->failed = false;
    return cipher_set_params(sealing, params);
}

static int
cipher_encrypt_init(void *data, const unsigned char *key, size_t key_size, const unsigned char *iv,
                    size_t iv_size, const OSSL_PARAM params[])
{
    (void)key;
    (void)key_size;
    (void)iv;
    (void)iv_size;
    return cipher_init(data, true, params);
}

static int
cipher_decrypt_init(void *data, const unsigned char *key, size_t key_size, const unsigned char *iv,
                    size_t iv_size, const OSSL_PARAM params[])
{
    (void)key;
    (void)key_size;
    (void)iv;
    (void)iv_size;
    return cipher_init(data, false, params);
}

/* A ticket that opens nowhere: the client will come back with a full handshake. */
static int
make_dud(struct sealing *sealing, unsigned char *out, size_t *out_size, size_t room)
{
    if (room < BLOCK_SIZE || RAND_bytes(out, BLOCK_SIZE) != 1 ||
        RAND_bytes(sealing->tag, KEYOPS_TAG_SIZE) != 1)
        return 0;
    *out_size = BLOCK_SIZE;
    return 1;
}

static int
seal(struct sealing *sealing, unsigned char *out, size_t *out_size, size_t room,
     const unsigned char *in, size_t in_size)
{
    struct binding *binding = sealing->binding;
    uint8_t tail[ONETIME_TAIL];

    if (binding == NULL || in_size > room || room - in_size < KEYOPS_PERIOD_SIZE ||
        !onetime_seal(&binding->tickets->cipher, &binding->keys, NULL, 0, in, in_size, out, tail))
        return make_dud(sealing, out, out_size, room);
    binding->sealed++;
    memcpy(out + in_size, tail, KEYOPS_PERIOD_SIZE);
    memcpy(sealing->tag, tail + KEYOPS_PERIOD_SIZE, KEYOPS_TAG_SIZE);
    *out_size = in_size + KEYOPS_PERIOD_SIZE;
    return 1;
}

/* Ask the keeper. bytes: first the request's, then what is in it. */
static int
ask(struct binding *binding, const unsigned char *in, size_t in_size, uint8_t *bytes, size_t *size)
{
    struct keyops_open_ticket request = {
        .wish = binding->wish, .data = bytes, .data_size = KEYOPS_NONCE_SIZE + in_size};

    memcpy(bytes, binding->nonce, KEYOPS_NONCE_SIZE);
    memcpy(bytes + KEYOPS_NONCE_SIZE, in, in_size);
    request.wish.keys = binding->wanted;
    return keycall_open_ticket(binding->tickets->keeper, &request, &binding->keys, bytes,
                               request.data_size, size);
}

/* A failure here would be fatal for the connection; reported by final, it means a full handshake.
 */
static int
open_ticket(struct sealing *sealing, unsigned char *out, size_t *out_size, size_t room,
            const unsigned char *in, size_t in_size)
{
    struct binding *binding = sealing->binding;
    const uint8_t *opened;
    uint8_t *bytes = NULL;
    size_t opened_size = 0;

    *out_size = 0;
    sealing->failed = true;
    if (binding == NULL || in_size < ONETIME_TAIL)
        return 1;
    if (!early_has(binding->early, binding->nonce, in, in_size, &binding->refusal, &opened,
                   &opened_size)) {
        opened = bytes = OPENSSL_malloc(KEYOPS_NONCE_SIZE + in_size);
        if (bytes == NULL)
            return 1;
        binding->refusal = ask(binding, in, in_size, bytes, &opened_size);
    }
    if (binding->refusal == 0 && opened_size == in_size - ONETIME_TAIL + 1 &&
        opened_size - 1 <= room) {
        memcpy(out, opened + 1, opened_size - 1);
        *out_size = opened_size - 1;
        binding->renew = opened[0] != 0;
        sealing->failed = false;
    }
    OPENSSL_clear_free(bytes, KEYOPS_NONCE_SIZE + in_size);
    return 1;
}

static int
cipher_update(void *data, unsigned char *out, size_t *out_size, size_t room,
              const unsigned char *in, size_t in_size)
{
    struct sealing *sealing = data;

    return sealing->encrypting ? seal(sealing, out, out_size, room, in, in_size)
                               : open_ticket(sealing, out, out_size, room, in, in_size);
}

static int
cipher_final(void *data, unsigned char *out, size_t *out_size, size_t room)
{
    struct sealing *sealing = data;

    *out_size = 0;
    if (!sealing->encrypting)
        return !sealing->failed;
    if (room < KEYOPS_TAG_SIZE)
        return 0;
    memcpy(out, sealing->tag, KEYOPS_TAG_SIZE);
    *out_size = KEYOPS_TAG_SIZE;
    return 1;
}

static int
cipher_get_params(OSSL_PARAM params[])
{
    OSSL_PARAM *param;

    param = OSSL_PARAM_locate(params, OSSL_CIPHER_PARAM_MODE);
    if (param != NULL && !OSSL_PARAM_set_uint(param, EVP_CIPH_CBC_MODE))
        return 0;
    param = OSSL_PARAM_locate(params, OSSL_CIPHER_PARAM_BLOCK_SIZE);
    if (param != NULL && !OSSL_PARAM_set_size_t(param, BLOCK_SIZE))
        return 0;
    param = OSSL_PARAM_locate(params, OSSL_CIPHER_PARAM_IVLEN);
    if (param != NULL && !OSSL_PARAM_set_size_t(param, KEYOPS_NONCE_SIZE))
        return 0;
    param = OSSL_PARAM_locate(params, OSSL_CIPHER_PARAM_KEYLEN);
    return param == NULL || OSSL_PARAM_set_size_t(param, 32);
}

static int
cipher_get_ctx_params(void *data, OSSL_PARAM params[])
{
    (void)data;
    return cipher_get_params(params);
}

#define FUNCTION(id, f)                                                                            \
    {                                                                                              \
        (id), (void (*)(void))(f)                                                                  \
    }

const OSSL_DISPATCH proxycipher_functions[] = {
    FUNCTION(OSSL_FUNC_CIPHER_NEWCTX, cipher_new),
    FUNCTION(OSSL_FUNC_CIPHER_FREECTX, cipher_free),
    FUNCTION(OSSL_FUNC_CIPHER_ENCRYPT_INIT, cipher_encrypt_init),
    FUNCTION(OSSL_FUNC_CIPHER_DECRYPT_INIT, cipher_decrypt_init),
    FUNCTION(OSSL_FUNC_CIPHER_UPDATE, cipher_update),
    FUNCTION(OSSL_FUNC_CIPHER_FINAL, cipher_final),
    FUNCTION(OSSL_FUNC_CIPHER_GET_PARAMS, cipher_get_params),
    FUNCTION(OSSL_FUNC_CIPHER_GET_CTX_PARAMS, cipher_get_ctx_params),
    FUNCTION(OSSL_FUNC_CIPHER_SET_CTX_PARAMS, cipher_set_params),
    FUNCTION(OSSL_FUNC_CIPHER_SETTABLE_CTX_PARAMS, cipher_settable_params),
    {0, NULL},
};
