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
#define SLOTS       8 /* expanded keys per source; others are derived when they are needed */

_Static_assert(PERIOD_SIZE + NONCE_SIZE + TAG_SIZE == KEYOPS_TICKET_EXTRA, "see keyops.h");
_Static_assert(TICKET_SOURCES == KEYOPS_FILTERS_MAX, "one filter per source");

/* The key of one period, expanded once. */
struct slot {
    bool used;
    uint64_t period;
    EVP_CIPHER_CTX *seal, *open;
};

struct ticket_box {
    struct ticket_state *state; /* not owned; shared with other keepers */
    ticket_clock *clock;
    EVP_CIPHER *cipher;
    EVP_KDF_CTX *kdf;
    struct {
        uint64_t clock_period;    /* what the clock said when `now` was computed */
        uint64_t now;             /* the period of new tickets */
        struct slot slots[SLOTS]; /* a period is in slot period % SLOTS, or nowhere */
    } sources[TICKET_SOURCES];
    uint64_t opens_second; /* the second that opens_left is for */
    uint32_t opens_left;
};

struct ticket_box *
ticket_box_new(struct ticket_state *state, ticket_clock *clock, struct error *error)
{
    struct ticket_box *box = OPENSSL_zalloc(sizeof(*box));
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    bool ready = box != NULL && kdf != NULL;

    if (ready) {
        box->state = state;
        box->clock = clock;
        box->cipher = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
        box->kdf = EVP_KDF_CTX_new(kdf);
        ready = box->cipher != NULL && box->kdf != NULL;
    }
    for (size_t i = 0; ready && i < TICKET_SOURCES * SLOTS; i++) {
        struct slot *slot = &box->sources[i / SLOTS].slots[i % SLOTS];

        slot->seal = EVP_CIPHER_CTX_new();
        slot->open = EVP_CIPHER_CTX_new();
        ready = slot->seal != NULL && slot->open != NULL;
    }
    EVP_KDF_free(kdf);
    if (!ready) {
        error_set(error, "tickets: libcrypto has no HKDF, no AES-256-GCM, or no memory");
        ticket_box_free(box);
        return NULL;
    }
    ticket_tick(box);
    return box;
}

void
ticket_box_free(struct ticket_box *box)
{
    if (box == NULL)
        return;
    for (size_t i = 0; i < TICKET_SOURCES * SLOTS; i++) {
        struct slot *slot = &box->sources[i / SLOTS].slots[i % SLOTS];

        EVP_CIPHER_CTX_free(slot->seal);
        EVP_CIPHER_CTX_free(slot->open);
    }
    EVP_KDF_CTX_free(box->kdf);
    EVP_CIPHER_free(box->cipher);
    OPENSSL_clear_free(box, sizeof(*box));
}

/* ---- time ---- */

/* Forget the expanded keys of periods before `oldest`. */
static void
forget(struct slot slots[SLOTS], uint64_t oldest)
{
    for (size_t i = 0; i < SLOTS; i++) {
        if (!slots[i].used || slots[i].period >= oldest)
            continue;
        EVP_CIPHER_CTX_reset(slots[i].seal);
        EVP_CIPHER_CTX_reset(slots[i].open);
        slots[i].used = false;
    }
}

static void
tick_source(struct ticket_box *box, size_t number)
{
    struct ticket_source *source = &box->state->sources[number];
    uint64_t clock, periods, oldest, floor;
    uint32_t length = source->period; /* another keeper may wipe it at any moment */

    if (source->kind == TICKET_NONE || length == 0)
        return;
    clock = box->clock() / length;
    if (clock == box->sources[number].clock_period)
        return;
    box->sources[number].clock_period = clock;
    periods = ticket_periods(box->state->life, length);
    oldest = clock > periods ? clock - periods : 0;
    ticket_source_advance(source, oldest);
    forget(box->sources[number].slots, oldest);
    /* A clock that was set back: go on with the oldest key that is left. */
    if (ticket_source_oldest(source, &floor) && floor > clock)
        clock = floor;
    box->sources[number].now = clock;
    /* A fleet secret that was replaced so long ago that no ticket of it lives. */
    if (source->last_period != 0 && oldest > source->last_period) {
        forget(box->sources[number].slots, UINT64_MAX);
        OPENSSL_cleanse(source, sizeof(*source));
    }
}

void
ticket_tick(struct ticket_box *box)
{
    for (size_t i = 0; i < TICKET_SOURCES; i++)
        tick_source(box, i);
}

/* ---- keys ---- */

static bool
derive(struct ticket_box *box, size_t number, uint64_t period, uint8_t key[KEY_SIZE])
{
    char label[] = "tlsagent ticket key", digest[] = "SHA2-256";
    uint8_t secret[TICKET_SECRET_SIZE];
    OSSL_PARAM params[4];
    bool done = ticket_source_secret(&box->state->sources[number], period, secret);

    params[0] = OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0);
    params[1] = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, secret, sizeof(secret));
    params[2] = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, label, sizeof(label) - 1);
    params[3] = OSSL_PARAM_construct_end();
    done = done && EVP_KDF_derive(box->kdf, key, KEY_SIZE, params) == 1;
    EVP_KDF_CTX_reset(box->kdf); /* it keeps a copy of the secret */
    OPENSSL_cleanse(secret, sizeof(secret));
    return done;
}

/* The slot of a period with its key expanded, or NULL if it is forgotten or libcrypto failed. */
static struct slot *
find_slot(struct ticket_box *box, size_t number, uint64_t period)
{
    struct slot *slot = &box->sources[number].slots[period % SLOTS];
    uint8_t key[KEY_SIZE];
    bool ready;

    if (slot->used && slot->period == period)
        return slot;
    ready = derive(box, number, period, key) &&
            EVP_EncryptInit_ex2(slot->seal, box->cipher, key, NULL, NULL) == 1 &&
            EVP_DecryptInit_ex2(slot->open, box->cipher, key, NULL, NULL) == 1;
    OPENSSL_cleanse(key, sizeof(key));
    slot->used = ready;
    slot->period = period;
    return ready ? slot : NULL;
}

static void
put_period(uint8_t out[PERIOD_SIZE], uint64_t period)
{
    for (size_t i = 0; i < PERIOD_SIZE; i++)
        out[i] = (uint8_t)(period >> (24 - 8 * i));
}

/* ---- sealing ---- */

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
    ticket_tick(box);
    slot = find_slot(box, 0, box->sources[0].now);
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

/* ---- opening ---- */

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

/* May a ticket of this period still, or already, be opened? 0 or the refusal. */
static int
judge_period(struct ticket_box *box, size_t number, uint64_t period)
{
    const struct ticket_source *source = &box->state->sources[number];
    uint64_t now = box->sources[number].now, last = source->last_period;
    uint32_t length = source->period;
    uint64_t skew = length < TICKET_SKEW ? length : TICKET_SKEW;

    if (length == 0) /* another keeper has just found that its time is over */
        return KEYOPS_OLD_TICKET;
    if (period > now && (period > now + 1 || (box->clock() + skew) / length < period))
        return KEYOPS_FUTURE_TICKET;
    if (last != 0 && period > last)
        return KEYOPS_BAD_TICKET;
    if (period < now && now - period > ticket_periods(box->state->life, length))
        return KEYOPS_OLD_TICKET;
    return 0;
}

static int
open_under(struct ticket_box *box, size_t number, uint64_t period,
           const struct keyops_ticket *request, uint8_t *out)
{
    size_t plain_size = request->data_size - KEYOPS_TICKET_EXTRA;
    const uint8_t *period_bytes = request->data + plain_size, *nonce = period_bytes + PERIOD_SIZE,
                  *tag = nonce + NONCE_SIZE;
    int refusal = judge_period(box, number, period), length = 0;
    struct slot *slot;

    if (refusal != 0)
        return refusal;
    slot = find_slot(box, number, period);
    if (slot == NULL) { /* forgotten: the clock was further on already */
        ERR_clear_error();
        return KEYOPS_OLD_TICKET;
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
    out[0] = number != 0 || period < box->sources[number].now;
    return 0;
}

int
ticket_open(struct ticket_box *box, const struct keyops_ticket *request, uint8_t *out, size_t *size)
{
    const uint8_t *period_bytes;
    uint64_t period = 0;
    int refusal = KEYOPS_BAD_TICKET;

    *size = 0;
    if (request->data_size < KEYOPS_TICKET_EXTRA ||
        request->data_size > KEYOPS_TICKET_MAX + KEYOPS_TICKET_EXTRA)
        return KEYOPS_BAD_TICKET;
    if (!may_open(box))
        return KEYOPS_TOO_OFTEN;
    ticket_tick(box);
    period_bytes = request->data + request->data_size - KEYOPS_TICKET_EXTRA;
    for (size_t i = 0; i < PERIOD_SIZE; i++)
        period = period << 8 | period_bytes[i];
    for (size_t i = 0; i < TICKET_SOURCES && refusal != 0; i++) {
        int reason;

        if (box->state->sources[i].kind == TICKET_NONE)
            continue;
        reason = open_under(box, i, period, request, out);
        if (i == 0 || reason == 0)
            refusal = reason;
    }
    if (refusal != 0)
        return refusal;
    *size = request->data_size - KEYOPS_TICKET_EXTRA + 1;
    return 0;
}

void
ticket_filters(const struct ticket_box *box, uint8_t *out, size_t *size)
{
    *size = 0;
    for (size_t i = 0; i < TICKET_SOURCES; i++) {
        if (box->state->sources[i].kind == TICKET_NONE)
            continue;
        memcpy(out + *size, box->state->sources[i].filter, KEYOPS_FILTER_SIZE);
        *size += KEYOPS_FILTER_SIZE;
    }
}
