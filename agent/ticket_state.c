/* ticket_state.c: see ticket_state.h. */
#include "agent/ticket_state.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include "protocol/service.h"

#define MAGIC    "TLSATKT1"
#define ATTEMPTS 3 /* a slot may be wiped while it is read; its successor is there by then */

/* ---- one chain ---- */

static bool
compute_check(const struct ticket_slot *slot, uint8_t check[TICKET_SECRET_SIZE])
{
    static const char label[] = "tlsagent ticket check";
    uint8_t bytes[sizeof(label) + 8 + TICKET_SECRET_SIZE];
    bool done;

    memcpy(bytes, label, sizeof(label));
    memcpy(bytes + sizeof(label), &slot->period, 8);
    memcpy(bytes + sizeof(label) + 8, slot->secret, TICKET_SECRET_SIZE);
    done = EVP_Digest(bytes, sizeof(bytes), check, NULL, EVP_sha256(), NULL) == 1;
    OPENSSL_cleanse(bytes, sizeof(bytes));
    return done;
}

/* A copy of a slot if it is whole. */
static bool
read_slot(const struct ticket_slot *slot, struct ticket_slot *copy)
{
    uint8_t check[TICKET_SECRET_SIZE];

    memcpy(copy, (const void *)slot, sizeof(*copy));
    if (copy->period != 0 && compute_check(copy, check) &&
        CRYPTO_memcmp(check, copy->check, sizeof(check)) == 0)
        return true;
    OPENSSL_cleanse(copy, sizeof(*copy));
    return false;
}

static void
write_slot(struct ticket_slot *slot, uint64_t period, const uint8_t secret[TICKET_SECRET_SIZE])
{
    struct ticket_slot whole = {.period = period};

    memcpy(whole.secret, secret, TICKET_SECRET_SIZE);
    if (compute_check(&whole, whole.check))
        memcpy(slot, &whole, sizeof(whole));
    OPENSSL_cleanse(&whole, sizeof(whole));
}

/* Follow the chain from *secret by so many steps. */
static bool
follow(uint8_t secret[TICKET_SECRET_SIZE], uint64_t steps)
{
    static const char label[] = "tlsagent ticket ratchet";
    EVP_MD *sha256 = EVP_MD_fetch(NULL, "SHA2-256", NULL);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool done = sha256 != NULL && ctx != NULL;

    for (; done && steps > 0; steps--)
        done = EVP_DigestInit_ex2(ctx, sha256, NULL) == 1 &&
               EVP_DigestUpdate(ctx, label, sizeof(label) - 1) == 1 &&
               EVP_DigestUpdate(ctx, secret, TICKET_SECRET_SIZE) == 1 &&
               EVP_DigestFinal_ex(ctx, secret, NULL) == 1;
    EVP_MD_CTX_free(ctx);
    EVP_MD_free(sha256);
    return done;
}

/* The whole slot with the greatest period that is not after `wanted`. */
static bool
find_base(const struct ticket_source *source, uint64_t wanted, struct ticket_slot *base)
{
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        bool found = false;

        for (size_t i = 0; i < 2; i++) {
            struct ticket_slot copy;

            if (read_slot(&source->slots[i], &copy) && copy.period <= wanted &&
                (!found || copy.period > base->period)) {
                *base = copy;
                found = true;
            }
            OPENSSL_cleanse(&copy, sizeof(copy));
        }
        if (found)
            return true;
    }
    return false;
}

bool
ticket_source_secret(const struct ticket_source *source, uint64_t period,
                     uint8_t secret[TICKET_SECRET_SIZE])
{
    struct ticket_slot base;
    bool found = find_base(source, period, &base);

    if (found) {
        memcpy(secret, base.secret, TICKET_SECRET_SIZE);
        found = follow(secret, period - base.period);
    }
    OPENSSL_cleanse(&base, sizeof(base));
    return found;
}

bool
ticket_source_oldest(const struct ticket_source *source, uint64_t *period)
{
    bool found = false;

    for (int attempt = 0; attempt < ATTEMPTS && !found; attempt++) {
        for (size_t i = 0; i < 2; i++) {
            struct ticket_slot copy;

            if (read_slot(&source->slots[i], &copy) && (!found || copy.period < *period)) {
                *period = copy.period;
                found = true;
            }
            OPENSSL_cleanse(&copy, sizeof(copy));
        }
    }
    return found;
}

void
ticket_source_advance(struct ticket_source *source, uint64_t oldest)
{
    uint8_t secret[TICKET_SECRET_SIZE];
    struct ticket_slot base;

    if (find_base(source, oldest, &base) && base.period < oldest &&
        ticket_source_secret(source, oldest, secret)) {
        /* Into the slot that does not hold what we came from. */
        size_t into = source->slots[0].period == base.period ? 1 : 0;

        write_slot(&source->slots[into], oldest, secret);
        OPENSSL_cleanse(&source->slots[1 - into], sizeof(source->slots[0]));
    }
    OPENSSL_cleanse(secret, sizeof(secret));
    OPENSSL_cleanse(&base, sizeof(base));
}

uint64_t
ticket_periods(uint32_t life, uint32_t period)
{
    return ((uint64_t)life + period - 1) / period;
}

/* ---- a new page ---- */

static bool
derive(const uint8_t *key, size_t key_size, const char *label, const struct ticket_plan *plan,
       uint8_t *out, size_t size)
{
    uint8_t info[64 + SERVICE_NAME_MAX];
    char digest[] = "SHA2-256";
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);
    size_t label_size = strlen(label) + 1, group_size = strlen(plan->group) + 1;
    OSSL_PARAM params[4];
    bool done = false;

    if (ctx != NULL && label_size + group_size + 4 <= sizeof(info)) {
        memcpy(info, label, label_size);
        memcpy(info + label_size, plan->group, group_size);
        for (size_t i = 0; i < 4; i++) /* of any byte order: the fleet's hosts differ */
            info[label_size + group_size + i] = (uint8_t)(plan->period >> (24 - 8 * i));
        params[0] = OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0);
        params[1] =
            OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)(uintptr_t)key, key_size);
        params[2] = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info,
                                                      label_size + group_size + 4);
        params[3] = OSSL_PARAM_construct_end();
        done = EVP_KDF_derive(ctx, out, size, params) == 1;
    }
    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
    return done;
}

/* The first period that is still opened now. */
static uint64_t
first_period(const struct ticket_plan *plan)
{
    uint64_t periods = ticket_periods(plan->life, plan->period);
    uint64_t now = plan->now / plan->period;

    return now > periods ? now - periods : 1;
}

static bool
begin_chain(struct ticket_source *source, const struct ticket_plan *plan)
{
    uint8_t secret[TICKET_SECRET_SIZE];
    uint64_t first = first_period(plan), epoch = TICKET_FLEET_EPOCH / plan->period;
    bool done;

    memset(source, 0, sizeof(*source));
    source->period = plan->period;
    if (plan->fleet == NULL)
        done = RAND_priv_bytes(secret, sizeof(secret)) == 1 &&
               RAND_bytes(source->filter, sizeof(source->filter)) == 1;
    else {
        first = first > epoch ? first : epoch;
        done = derive(plan->fleet, plan->fleet_size, "tlsagent fleet filter", plan, source->filter,
                      sizeof(source->filter)) &&
               derive(plan->fleet, plan->fleet_size, "tlsagent fleet tickets", plan, secret,
                      sizeof(secret)) &&
               follow(secret, first - epoch);
    }
    if (done)
        write_slot(&source->slots[0], first, secret);
    OPENSSL_cleanse(secret, sizeof(secret));
    if (done)
        source->kind = plan->fleet != NULL ? TICKET_FLEET : TICKET_OWN;
    return done;
}

/* A copy of a source if it was made by us, for periods of this length, and is whole. Keepers may go
 * forward on it meanwhile, so that is seen in the copy. */
static bool
copy_source(const struct ticket_source *source, const struct ticket_plan *plan,
            struct ticket_source *copy)
{
    uint64_t oldest;

    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        *copy = *source;
        if ((copy->kind == TICKET_OWN || copy->kind == TICKET_FLEET) &&
            copy->period == plan->period && ticket_source_oldest(copy, &oldest))
            return true;
    }
    OPENSSL_cleanse(copy, sizeof(*copy));
    return false;
}

/* Is it the one that this secret begins? */
static bool
is_of_fleet(const struct ticket_source *source, const struct ticket_plan *plan)
{
    uint8_t filter[KEYOPS_FILTER_SIZE];

    return derive(plan->fleet, plan->fleet_size, "tlsagent fleet filter", plan, filter,
                  sizeof(filter)) &&
           memcmp(filter, source->filter, sizeof(filter)) == 0;
}

bool
ticket_state_fill(struct ticket_state *state, const struct ticket_state *old,
                  const struct ticket_plan *plan)
{
    struct ticket_source *current = &state->sources[0], *previous = &state->sources[1];
    bool known, ours;

    memset(state, 0, sizeof(*state));
    memcpy(state->magic, MAGIC, sizeof(state->magic));
    state->life = plan->life;
    known = old != NULL && memcmp(old->magic, MAGIC, sizeof(old->magic)) == 0 &&
            copy_source(&old->sources[0], plan, current);
    ours =
        known && (plan->fleet != NULL ? is_of_fleet(current, plan) : current->kind == TICKET_OWN);
    if (ours) {
        (void)copy_source(&old->sources[1], plan, previous);
        /* The secret gives back what a clock that was too far ahead has made us forget. */
        return plan->fleet == NULL || begin_chain(current, plan);
    }
    if (known) {
        *previous = *current;
        previous->last_period = plan->now / plan->period + 1;
    }
    return begin_chain(current, plan);
}

/* ---- the files ---- */

static struct ticket_state *
map(int fd)
{
    struct stat status;
    void *mapping;

    if (fstat(fd, &status) == -1 || status.st_size != (off_t)sizeof(struct ticket_state))
        return NULL;
    mapping = mmap(NULL, sizeof(struct ticket_state), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapping == MAP_FAILED)
        return NULL;
    (void)madvise(mapping, sizeof(struct ticket_state), MADV_DONTDUMP);
    (void)madvise(mapping, sizeof(struct ticket_state), MADV_DONTFORK);
    return mapping;
}

int
ticket_state_make(int fd, int old_fd, const struct ticket_plan *plan, struct error *error)
{
    struct ticket_state *old = map(old_fd), *state;
    bool done;

    if (ftruncate(fd, sizeof(*state)) == -1 || (state = map(fd)) == NULL) {
        ticket_state_unmap(old);
        return error_set(error,
                         "memory for ticket keys: %s; raise the limit on locked memory "
                         "(ulimit -l, LimitMEMLOCK=)",
                         strerror(errno));
    }
    done = ticket_state_fill(state, old, plan);
    ticket_state_unmap(state);
    ticket_state_unmap(old);
    return done ? 0 : error_set(error, "ticket keys: libcrypto has no HKDF or no random numbers");
}

struct ticket_state *
ticket_state_map(int fd, struct error *error)
{
    struct ticket_state *state = map(fd);

    if (state == NULL || memcmp(state->magic, MAGIC, sizeof(state->magic)) != 0 ||
        state->life == 0 || state->sources[0].kind == TICKET_NONE ||
        state->sources[0].period == 0 ||
        (state->sources[1].kind != TICKET_NONE && state->sources[1].period == 0)) {
        ticket_state_unmap(state);
        error_set(error, "the memory with the ticket keys cannot be mapped, or is not what it "
                         "should be; raise the limit on locked memory (ulimit -l, LimitMEMLOCK=)");
        return NULL;
    }
    return state;
}

void
ticket_state_unmap(struct ticket_state *state)
{
    if (state != NULL)
        munmap(state, sizeof(*state));
}
