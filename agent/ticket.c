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

#include "agent/onetime.h"

#define SLOTS 8 /* keys of periods kept per source; others are derived when they are needed */

_Static_assert(TICKET_SOURCES == KEYOPS_FILTERS_MAX, "one filter per source");

/* The key of one period, set up once. */
struct slot {
    EVP_MAC_CTX *mac; /* NULL: none */
    uint64_t period;
};

struct ticket_box {
    struct ticket_state *state; /* not owned; shared with other keepers */
    ticket_clock *clock;
    struct onetime_cipher cipher;
    EVP_KDF_CTX *kdf;
    EVP_MAC *hmac;
    struct {
        uint64_t clock_period;    /* what the clock said when `now` was computed */
        uint64_t now;             /* the period of new tickets */
        struct slot slots[SLOTS]; /* a period is in slot period % SLOTS, or nowhere */
    } sources[TICKET_SOURCES];
    uint64_t opens_second; /* the second that opens_left is for */
    uint32_t opens_left;
};

/* Forget the keys of periods before `oldest`. */
static void
forget(struct slot slots[SLOTS], uint64_t oldest)
{
    for (size_t i = 0; i < SLOTS; i++) {
        if (slots[i].period >= oldest)
            continue;
        EVP_MAC_CTX_free(slots[i].mac);
        slots[i].mac = NULL;
    }
}

struct ticket_box *
ticket_box_new(struct ticket_state *state, ticket_clock *clock, struct error *error)
{
    struct ticket_box *box = OPENSSL_zalloc(sizeof(*box));
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    bool ready = box != NULL && kdf != NULL;

    if (ready) {
        box->state = state;
        box->clock = clock;
        box->kdf = EVP_KDF_CTX_new(kdf);
        box->hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
        ready = onetime_cipher_init(&box->cipher) && box->kdf != NULL && box->hmac != NULL;
    }
    EVP_KDF_free(kdf);
    if (!ready) {
        error_set(error, "tickets: libcrypto has no HKDF, HMAC or AES-256-GCM, or no memory");
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
    for (size_t i = 0; i < TICKET_SOURCES; i++)
        forget(box->sources[i].slots, UINT64_MAX);
    onetime_cipher_free(&box->cipher);
    EVP_KDF_CTX_free(box->kdf);
    EVP_MAC_free(box->hmac);
    OPENSSL_clear_free(box, sizeof(*box));
}

/* ---- time ---- */

static void
tick_source(struct ticket_box *box, size_t number)
{
    struct ticket_source *source = &box->state->sources[number];
    uint64_t clock, periods, oldest, floor;
    uint32_t length = source->period; /* another keeper may wipe it at any moment */

    if (source->kind == TICKET_NONE || length == 0) {
        forget(box->sources[number].slots, UINT64_MAX);
        return;
    }
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
derive(struct ticket_box *box, size_t number, uint64_t period, uint8_t key[KEYOPS_KEY_SIZE])
{
    char label[] = "tlsagent ticket key", digest[] = "SHA2-256";
    uint8_t secret[TICKET_SECRET_SIZE];
    OSSL_PARAM params[4];
    bool done = ticket_source_secret(&box->state->sources[number], period, secret);

    params[0] = OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0);
    params[1] = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, secret, sizeof(secret));
    params[2] = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, label, sizeof(label) - 1);
    params[3] = OSSL_PARAM_construct_end();
    done = done && EVP_KDF_derive(box->kdf, key, KEYOPS_KEY_SIZE, params) == 1;
    EVP_KDF_CTX_reset(box->kdf); /* it keeps a copy of the secret */
    OPENSSL_cleanse(secret, sizeof(secret));
    return done;
}

/* The slot of a period with its key set up, or NULL if it is forgotten or libcrypto failed. */
static struct slot *
find_slot(struct ticket_box *box, size_t number, uint64_t period)
{
    struct slot *slot = &box->sources[number].slots[period % SLOTS];
    char digest[] = "SHA2-256";
    OSSL_PARAM params[2] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_end(),
    };
    uint8_t key[KEYOPS_KEY_SIZE];

    if (slot->mac != NULL && slot->period == period)
        return slot;
    EVP_MAC_CTX_free(slot->mac);
    slot->mac = EVP_MAC_CTX_new(box->hmac);
    slot->period = period;
    if (!derive(box, number, period, key) ||
        EVP_MAC_init(slot->mac, key, sizeof(key), params) != 1) {
        EVP_MAC_CTX_free(slot->mac);
        slot->mac = NULL;
    }
    OPENSSL_cleanse(key, sizeof(key));
    return slot->mac != NULL ? slot : NULL;
}

/* HKDF-Expand (RFC 5869 section 2.3) for as many bytes as the hash has: one HMAC. */
static bool
expand(struct slot *slot, const uint8_t scope[KEYOPS_SCOPE_SIZE],
       const uint8_t nonce[KEYOPS_NONCE_SIZE], uint8_t key[KEYOPS_KEY_SIZE])
{
    static const uint8_t label[] = "tlsagent one-time key", first = 1;
    size_t size;

    return EVP_MAC_init(slot->mac, NULL, 0, NULL) == 1 && /* the same key again */
           EVP_MAC_update(slot->mac, label, sizeof(label) - 1) == 1 &&
           EVP_MAC_update(slot->mac, scope, KEYOPS_SCOPE_SIZE) == 1 &&
           EVP_MAC_update(slot->mac, nonce, KEYOPS_NONCE_SIZE) == 1 &&
           EVP_MAC_update(slot->mac, &first, 1) == 1 &&
           EVP_MAC_final(slot->mac, key, &size, KEYOPS_KEY_SIZE) == 1 && size == KEYOPS_KEY_SIZE;
}

size_t
ticket_keys(struct ticket_box *box, const struct keyops_wish *wish, uint32_t *period,
            struct keyops_ticket_key keys[KEYOPS_KEYS_MAX])
{
    uint8_t nonces[KEYOPS_KEYS_MAX * KEYOPS_NONCE_SIZE];
    size_t count = wish->keys <= KEYOPS_KEYS_MAX ? wish->keys : KEYOPS_KEYS_MAX;
    struct slot *slot;

    if (count == 0)
        return 0;
    ticket_tick(box);
    slot = find_slot(box, 0, box->sources[0].now);
    if (slot == NULL || RAND_bytes(nonces, (int)(count * KEYOPS_NONCE_SIZE)) != 1)
        goto fail;
    for (size_t i = 0; i < count; i++) {
        memcpy(keys[i].nonce, nonces + i * KEYOPS_NONCE_SIZE, KEYOPS_NONCE_SIZE);
        if (!expand(slot, wish->scope, keys[i].nonce, keys[i].key))
            goto fail;
    }
    *period = (uint32_t)slot->period;
    return count;

fail:
    ERR_clear_error();
    OPENSSL_cleanse(keys, count * sizeof(keys[0]));
    return 0;
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
           const struct keyops_open_ticket *request, uint8_t *out)
{
    int refusal = judge_period(box, number, period);
    uint8_t key[KEYOPS_KEY_SIZE];
    struct slot *slot;
    bool done;

    if (refusal != 0)
        return refusal;
    slot = find_slot(box, number, period);
    if (slot == NULL) { /* forgotten: the clock was further on already */
        ERR_clear_error();
        return KEYOPS_OLD_TICKET;
    }
    done = expand(slot, request->wish.scope, request->data, key) &&
           onetime_open(&box->cipher, key, request, out + 1);
    OPENSSL_cleanse(key, sizeof(key));
    if (!done) {
        ERR_clear_error();
        return KEYOPS_BAD_TICKET;
    }
    out[0] = number != 0 || period < box->sources[number].now;
    return 0;
}

int
ticket_open(struct ticket_box *box, const struct keyops_open_ticket *request, uint8_t *out,
            size_t *size)
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
    period_bytes = request->data + request->data_size - ONETIME_TAIL;
    for (size_t i = 0; i < KEYOPS_PERIOD_SIZE; i++)
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
    *size = 1 + request->data_size - KEYOPS_TICKET_EXTRA;
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
