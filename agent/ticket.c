/* ticket.c: see ticket.h. */
#include "agent/ticket.h"

#include <stdbool.h>
#include <string.h>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#define KEY_SIZE    32
#define NONCE_SIZE  12
#define TAG_SIZE    16
#define PERIOD_SIZE 4
#define SLOTS       (TICKET_PERIODS_OLD + 1)

_Static_assert(PERIOD_SIZE + NONCE_SIZE + TAG_SIZE == KEYOPS_TICKET_EXTRA, "see keyops.h");

/* The key of one period, expanded once. */
struct slot {
    bool used;
    uint32_t period;
    EVP_CIPHER_CTX *seal, *open;
};

struct ticket_box {
    uint8_t secret[GENERATION_TICKET_SECRET];
    ticket_clock *clock;
    EVP_CIPHER *cipher;
    EVP_KDF_CTX *kdf;
    struct slot slots[SLOTS]; /* a period is in slot period % SLOTS, or nowhere */
    uint64_t opens_second;    /* the second that opens_left is for */
    uint32_t opens_left;
};

struct ticket_box *
ticket_box_new(const uint8_t secret[GENERATION_TICKET_SECRET], ticket_clock *clock,
               struct error *error)
{
    struct ticket_box *box = OPENSSL_zalloc(sizeof(*box));
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    bool ready = box != NULL && kdf != NULL;

    if (ready) {
        memcpy(box->secret, secret, sizeof(box->secret));
        box->clock = clock;
        box->cipher = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
        box->kdf = EVP_KDF_CTX_new(kdf);
        ready = box->cipher != NULL && box->kdf != NULL;
    }
    for (size_t i = 0; ready && i < SLOTS; i++) {
        box->slots[i].seal = EVP_CIPHER_CTX_new();
        box->slots[i].open = EVP_CIPHER_CTX_new();
        ready = box->slots[i].seal != NULL && box->slots[i].open != NULL;
    }
    EVP_KDF_free(kdf);
    if (!ready) {
        error_set(error, "tickets: libcrypto has no HKDF, no AES-256-GCM, or no memory");
        ticket_box_free(box);
        return NULL;
    }
    return box;
}

void
ticket_box_free(struct ticket_box *box)
{
    if (box == NULL)
        return;
    for (size_t i = 0; i < SLOTS; i++) {
        EVP_CIPHER_CTX_free(box->slots[i].seal);
        EVP_CIPHER_CTX_free(box->slots[i].open);
    }
    EVP_KDF_CTX_free(box->kdf);
    EVP_CIPHER_free(box->cipher);
    OPENSSL_clear_free(box, sizeof(*box));
}

static bool
derive(struct ticket_box *box, uint32_t period, uint8_t key[KEY_SIZE])
{
    static const char label[] = "tlsagent ticket key";
    uint8_t info[sizeof(label) - 1 + 8] = {0};
    char digest[] = "SHA2-256";
    OSSL_PARAM params[4];

    memcpy(info, label, sizeof(label) - 1);
    for (size_t i = 0; i < PERIOD_SIZE; i++)
        info[sizeof(info) - 1 - i] = (uint8_t)(period >> (8 * i));
    params[0] = OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0);
    params[1] =
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, box->secret, sizeof(box->secret));
    params[2] = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, sizeof(info));
    params[3] = OSSL_PARAM_construct_end();
    return EVP_KDF_derive(box->kdf, key, KEY_SIZE, params) == 1;
}

/* The slot of a period with its key expanded, or NULL if libcrypto failed. */
static struct slot *
find_slot(struct ticket_box *box, uint32_t period)
{
    struct slot *slot = &box->slots[period % SLOTS];
    uint8_t key[KEY_SIZE];
    bool ready;

    if (slot->used && slot->period == period)
        return slot;
    ready = derive(box, period, key) &&
            EVP_EncryptInit_ex2(slot->seal, box->cipher, key, NULL, NULL) == 1 &&
            EVP_DecryptInit_ex2(slot->open, box->cipher, key, NULL, NULL) == 1;
    OPENSSL_cleanse(key, sizeof(key));
    slot->used = ready;
    slot->period = period;
    return ready ? slot : NULL;
}

static uint32_t
current_period(const struct ticket_box *box)
{
    return (uint32_t)(box->clock() / TICKET_PERIOD);
}

static void
put_period(uint8_t out[PERIOD_SIZE], uint32_t period)
{
    for (size_t i = 0; i < PERIOD_SIZE; i++)
        out[i] = (uint8_t)(period >> (24 - 8 * i));
}

int
ticket_seal(struct ticket_box *box, const struct keyops_ticket *request, uint8_t *out, size_t *size)
{
    uint8_t *period = out + request->data_size, *nonce = period + PERIOD_SIZE,
            *tag = nonce + NONCE_SIZE;
    struct slot *slot;
    int length;

    *size = 0;
    if (request->data_size > KEYOPS_TICKET_MAX)
        return KEYOPS_BAD_SHAPE;
    slot = find_slot(box, current_period(box));
    if (slot == NULL)
        goto fail;
    put_period(period, slot->period);
    /* 2^32 random nonces per key (NIST SP 800-38D section 8.3) are 400,000 tickets a second. */
    if (RAND_bytes(nonce, NONCE_SIZE) != 1 ||
        EVP_EncryptInit_ex2(slot->seal, NULL, NULL, nonce, NULL) != 1 ||
        EVP_EncryptUpdate(slot->seal, NULL, &length, request->scope, KEYOPS_SCOPE_SIZE) != 1 ||
        EVP_EncryptUpdate(slot->seal, NULL, &length, period, PERIOD_SIZE) != 1 ||
        EVP_EncryptUpdate(slot->seal, out, &length, request->data, (int)request->data_size) != 1 ||
        EVP_EncryptFinal_ex(slot->seal, period, &length) != 1 ||
        EVP_CIPHER_CTX_ctrl(slot->seal, EVP_CTRL_AEAD_GET_TAG, TAG_SIZE, tag) != 1)
        goto fail;
    *size = request->data_size + KEYOPS_TICKET_EXTRA;
    return 0;

fail:
    ERR_clear_error();
    OPENSSL_cleanse(out, request->data_size);
    return KEYOPS_INTERNAL;
}

/* One more open? A bucket that is filled anew each second is all that is needed. */
static bool
may_open(struct ticket_box *box)
{
    uint64_t now = box->clock();

    if (now != box->opens_second) {
        box->opens_second = now;
        box->opens_left = TICKET_OPENS_PER_SECOND;
    }
    if (box->opens_left == 0)
        return false;
    box->opens_left--;
    return true;
}

int
ticket_open(struct ticket_box *box, const struct keyops_ticket *request, uint8_t *out, size_t *size)
{
    const uint8_t *period_bytes, *nonce, *tag;
    uint32_t now = current_period(box), period = 0;
    size_t plain_size;
    struct slot *slot;
    int length = 0;

    *size = 0;
    if (request->data_size < KEYOPS_TICKET_EXTRA ||
        request->data_size > KEYOPS_TICKET_MAX + KEYOPS_TICKET_EXTRA)
        return KEYOPS_BAD_TICKET;
    if (!may_open(box))
        return KEYOPS_TOO_OFTEN;
    plain_size = request->data_size - KEYOPS_TICKET_EXTRA;
    period_bytes = request->data + plain_size;
    nonce = period_bytes + PERIOD_SIZE;
    tag = nonce + NONCE_SIZE;
    for (size_t i = 0; i < PERIOD_SIZE; i++)
        period = period << 8 | period_bytes[i];
    if (period > now || now - period > TICKET_PERIODS_OLD)
        return KEYOPS_BAD_TICKET;
    slot = find_slot(box, period);
    if (slot == NULL) {
        ERR_clear_error();
        return KEYOPS_INTERNAL;
    }
    if (EVP_DecryptInit_ex2(slot->open, NULL, NULL, nonce, NULL) != 1 ||
        EVP_DecryptUpdate(slot->open, NULL, &length, request->scope, KEYOPS_SCOPE_SIZE) != 1 ||
        EVP_DecryptUpdate(slot->open, NULL, &length, period_bytes, PERIOD_SIZE) != 1 ||
        EVP_DecryptUpdate(slot->open, out + 1, &length, request->data, (int)plain_size) != 1 ||
        EVP_CIPHER_CTX_ctrl(slot->open, EVP_CTRL_AEAD_SET_TAG, TAG_SIZE, (void *)(uintptr_t)tag) !=
            1 ||
        EVP_DecryptFinal_ex(slot->open, out + 1 + plain_size, &length) != 1) {
        ERR_clear_error();
        OPENSSL_cleanse(out, 1 + plain_size);
        return KEYOPS_BAD_TICKET;
    }
    out[0] = period != now;
    *size = 1 + plain_size;
    return 0;
}
