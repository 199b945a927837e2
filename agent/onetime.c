/* onetime.c: see onetime.h. */
#include "agent/onetime.h"

#include <string.h>

#include <openssl/crypto.h>

/* Each key seals once. */
static const uint8_t fixed_nonce[12];

bool
onetime_cipher_init(struct onetime_cipher *cipher)
{
    cipher->algorithm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    cipher->ctx = EVP_CIPHER_CTX_new();
    return cipher->algorithm != NULL && cipher->ctx != NULL;
}

void
onetime_cipher_free(struct onetime_cipher *cipher)
{
    EVP_CIPHER_CTX_free(cipher->ctx);
    EVP_CIPHER_free(cipher->algorithm);
    memset(cipher, 0, sizeof(*cipher));
}

void
onetime_take(struct onetime_keys *keys, const struct keyops_answer *answer,
             const uint8_t scope[KEYOPS_SCOPE_SIZE])
{
    onetime_wipe(keys);
    if (answer->key_count == 0 || answer->key_count > KEYOPS_KEYS_MAX)
        return;
    memcpy(keys->scope, scope, KEYOPS_SCOPE_SIZE);
    keys->period = answer->period;
    keys->count = answer->key_count;
    memcpy(keys->keys, answer->keys, keys->count * sizeof(keys->keys[0]));
}

void
onetime_wipe(struct onetime_keys *keys)
{
    if (keys->count > 0)
        OPENSSL_cleanse(keys, sizeof(*keys));
}

const uint8_t *
onetime_nonce(const struct onetime_keys *keys)
{
    return keys->keys[keys->count - 1].nonce;
}

/* What is authenticated beside the session. */
static bool
add_associated(EVP_CIPHER_CTX *ctx, const uint8_t period[KEYOPS_PERIOD_SIZE],
               const uint8_t scope[KEYOPS_SCOPE_SIZE], const uint8_t *id, size_t id_size)
{
    int length;

    return EVP_CipherUpdate(ctx, NULL, &length, period, KEYOPS_PERIOD_SIZE) == 1 &&
           EVP_CipherUpdate(ctx, NULL, &length, scope, KEYOPS_SCOPE_SIZE) == 1 &&
           (id_size == 0 || EVP_CipherUpdate(ctx, NULL, &length, id, (int)id_size) == 1);
}

bool
onetime_seal(struct onetime_cipher *cipher, struct onetime_keys *keys, const uint8_t *id,
             size_t id_size, const uint8_t *session, size_t size, uint8_t *ciphertext,
             uint8_t tail[ONETIME_TAIL])
{
    struct keyops_ticket_key *key;
    int length;
    bool done;

    if (keys->count == 0 || size > KEYOPS_TICKET_MAX)
        return false;
    key = &keys->keys[--keys->count];
    for (size_t i = 0; i < KEYOPS_PERIOD_SIZE; i++)
        tail[i] = (uint8_t)(keys->period >> (24 - 8 * i));
    done = EVP_EncryptInit_ex2(cipher->ctx, cipher->algorithm, key->key, fixed_nonce, NULL) == 1 &&
           add_associated(cipher->ctx, tail, keys->scope, id, id_size) &&
           EVP_EncryptUpdate(cipher->ctx, ciphertext, &length, session, (int)size) == 1 &&
           EVP_EncryptFinal_ex(cipher->ctx, tail, &length) == 1 &&
           EVP_CIPHER_CTX_ctrl(cipher->ctx, EVP_CTRL_AEAD_GET_TAG, KEYOPS_TAG_SIZE,
                               tail + KEYOPS_PERIOD_SIZE) == 1;
    EVP_CIPHER_CTX_reset(cipher->ctx); /* it holds the key, expanded */
    OPENSSL_cleanse(key, sizeof(*key));
    return done;
}

bool
onetime_open(struct onetime_cipher *cipher, const uint8_t key[KEYOPS_KEY_SIZE],
             const struct keyops_open_ticket *request, uint8_t *plain)
{
    size_t size = request->data_size - KEYOPS_TICKET_EXTRA;
    const uint8_t *ciphertext = request->data + KEYOPS_NONCE_SIZE, *period = ciphertext + size,
                  *tag = period + KEYOPS_PERIOD_SIZE;
    int length;
    bool done =
        EVP_DecryptInit_ex2(cipher->ctx, cipher->algorithm, key, fixed_nonce, NULL) == 1 &&
        add_associated(cipher->ctx, period, request->wish.scope, request->id, request->id_size) &&
        EVP_DecryptUpdate(cipher->ctx, plain, &length, ciphertext, (int)size) == 1 &&
        EVP_CIPHER_CTX_ctrl(cipher->ctx, EVP_CTRL_AEAD_SET_TAG, KEYOPS_TAG_SIZE,
                            (void *)(uintptr_t)tag) == 1 &&
        EVP_DecryptFinal_ex(cipher->ctx, plain + size, &length) == 1;

    EVP_CIPHER_CTX_reset(cipher->ctx);
    if (!done)
        OPENSSL_cleanse(plain, size);
    return done;
}
