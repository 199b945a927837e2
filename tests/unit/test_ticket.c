/* test_ticket.c: tickets open where, when and for whom they should, and nowhere else. */
#include <check.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

#include "agent/onetime.h"
#include "agent/ticket.h"

#define START 1900000000u /* 2030, somewhere within a period */

#define PERIOD 10800
#define LIFE   43200

static struct ticket_state page;
static const uint8_t session[] = "a session with its master secret";
static uint64_t now;

static uint64_t
test_clock(void)
{
    return now;
}

static struct ticket_plan
plan_now(void)
{
    return (struct ticket_plan){.now = now, .period = PERIOD, .life = LIFE, .group = ""};
}

static struct ticket_box *
box_new(struct ticket_state *of)
{
    struct error error = {""};
    struct ticket_box *box = ticket_box_new(of, test_clock, &error);

    ck_assert_msg(box != NULL, "%s", error.text);
    return box;
}

static int
open_bytes(struct ticket_box *box, uint8_t scope, const uint8_t *data, size_t data_size,
           uint8_t *out, size_t *size)
{
    struct keyops_open_ticket request = {
        .wish = {.scope = {scope}}, .data = data, .data_size = data_size};

    return ticket_open(box, &request, out, size);
}

/* As a handshaker has them. */
static struct onetime_keys
keys_of(struct ticket_box *box, uint8_t scope, uint8_t count)
{
    struct keyops_ticket_key made[KEYOPS_KEYS_MAX];
    struct keyops_wish wish = {.keys = count, .scope = {scope}};
    struct keyops_answer answer = {.keys = made};
    struct onetime_keys keys = {.count = 0};

    answer.key_count = ticket_keys(box, &wish, &answer.period, made);
    ck_assert_uint_eq(answer.key_count, count);
    onetime_take(&keys, &answer, wish.scope);
    ck_assert_uint_eq(keys.count, count);
    return keys;
}

static bool
seal_with(struct onetime_keys *keys, const char *id, const uint8_t *data, size_t size, uint8_t *out)
{
    struct onetime_cipher cipher;
    bool done = onetime_cipher_init(&cipher);

    ck_assert(done);
    if (keys->count > 0)
        memcpy(out, onetime_nonce(keys), KEYOPS_NONCE_SIZE);
    done = onetime_seal(&cipher, keys, (const uint8_t *)id, strlen(id), data, size,
                        out + KEYOPS_NONCE_SIZE, out + KEYOPS_NONCE_SIZE + size);
    onetime_cipher_free(&cipher);
    return done;
}

static size_t
seal_session(struct ticket_box *box, uint8_t *out)
{
    struct onetime_keys keys = keys_of(box, 1, 1);

    ck_assert(seal_with(&keys, "", session, sizeof(session), out));
    return sizeof(session) + KEYOPS_TICKET_EXTRA;
}

static uint8_t sealed[KEYOPS_TICKET_MAX + KEYOPS_TICKET_EXTRA];
static uint8_t opened[KEYOPS_TICKET_MAX + KEYOPS_TICKET_EXTRA];

START_TEST(another_cell_opens_it)
{
    struct ticket_box *box = box_new(&page), *other = box_new(&page);
    size_t sealed_size = seal_session(box, sealed), size;

    ck_assert_int_eq(open_bytes(other, 1, sealed, sealed_size, opened, &size), 0);
    ck_assert_uint_eq(size, 1 + sizeof(session));
    ck_assert_uint_eq(opened[0], 0);
    ck_assert_mem_eq(opened + 1, session, sizeof(session));
    ticket_box_free(box);
    ticket_box_free(other);
}
END_TEST

START_TEST(every_bit_counts)
{
    struct ticket_box *box = box_new(&page);
    size_t sealed_size = seal_session(box, sealed), size;
    int refusal;

    for (size_t bit = 0; bit < 8 * sealed_size; bit++) {
        sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
        refusal = open_bytes(box, 1, sealed, sealed_size, opened, &size);
        ck_assert(refusal == KEYOPS_BAD_TICKET || refusal == KEYOPS_OLD_TICKET ||
                  refusal == KEYOPS_FUTURE_TICKET);
        ck_assert_uint_eq(size, 0);
        sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t shorter = 0; shorter < sealed_size; shorter++)
        ck_assert_int_ne(open_bytes(box, 1, sealed, shorter, opened, &size), 0);
    ck_assert_int_eq(open_bytes(box, 1, sealed, sealed_size, opened, &size), 0);
    ticket_box_free(box);
}
END_TEST

START_TEST(another_scope_or_agent_does_not_open_it)
{
    struct ticket_plan plan = plan_now();
    struct ticket_state other_page;
    struct ticket_box *box = box_new(&page), *other;
    size_t sealed_size = seal_session(box, sealed), size;

    ck_assert(ticket_state_fill(&other_page, NULL, &plan));
    other = box_new(&other_page);
    ck_assert_int_eq(open_bytes(box, 2, sealed, sealed_size, opened, &size), KEYOPS_BAD_TICKET);
    ck_assert_int_eq(open_bytes(other, 1, sealed, sealed_size, opened, &size), KEYOPS_BAD_TICKET);
    ticket_box_free(box);
    ticket_box_free(other);
}
END_TEST

START_TEST(it_lives_twelve_hours_and_is_renewed)
{
    struct ticket_box *box = box_new(&page);
    size_t sealed_size, size;

    now = START / PERIOD * PERIOD + PERIOD - 1; /* the worst moment */
    sealed_size = seal_session(box, sealed);
    ck_assert_int_eq(open_bytes(box, 1, sealed, sealed_size, opened, &size), 0);
    ck_assert_uint_eq(opened[0], 0);
    for (unsigned hours = 3; hours <= 12; hours += 3) {
        now += PERIOD;
        ck_assert_int_eq(open_bytes(box, 1, sealed, sealed_size, opened, &size), 0);
        ck_assert_uint_eq(opened[0], 1);
    }
    now += 1; /* beyond the fourth old period */
    ck_assert_int_eq(open_bytes(box, 1, sealed, sealed_size, opened, &size), KEYOPS_OLD_TICKET);
    now -= 2 * PERIOD; /* what was forgotten does not come back when the clock is set back */
    ck_assert_int_eq(open_bytes(box, 1, sealed, sealed_size, opened, &size), KEYOPS_OLD_TICKET);
    ticket_box_free(box);
}
END_TEST

/* Two hosts: one clock may be a little ahead of the other's, not much. */
START_TEST(tickets_from_the_future_are_refused)
{
    static const struct {
        unsigned ahead; /* seconds */
        int refusal;
    } cases[] = {
        {2, 0},
        {TICKET_SKEW, 0},
        {TICKET_SKEW + 2, KEYOPS_FUTURE_TICKET},
        {2 * PERIOD, KEYOPS_FUTURE_TICKET},
        {1000 * PERIOD, KEYOPS_FUTURE_TICKET},
    };
    uint64_t boundary = START / PERIOD * PERIOD + PERIOD;
    struct ticket_state ahead = page;
    struct ticket_box *box = box_new(&page), *host;
    size_t sealed_size, size;

    now = boundary;
    host = box_new(&ahead);
    sealed_size = seal_session(host, sealed);
    if (cases[_i].ahead > PERIOD) {
        now = boundary + cases[_i].ahead;
        sealed_size = seal_session(host, sealed);
        now -= cases[_i].ahead;
    }
    now -= cases[_i].ahead > PERIOD ? 1 : cases[_i].ahead;
    ck_assert_int_eq(open_bytes(box, 1, sealed, sealed_size, opened, &size), cases[_i].refusal);
    if (cases[_i].refusal == 0)
        ck_assert_uint_eq(opened[0], 0); /* not older than the current key: no renewal */
    ticket_box_free(box);
    ticket_box_free(host);
}
END_TEST

/* A page holds the oldest secret that is still needed, and no way back. */
START_TEST(what_has_expired_is_forgotten)
{
    uint8_t before[TICKET_SECRET_SIZE], after[TICKET_SECRET_SIZE], same[TICKET_SECRET_SIZE];
    struct ticket_box *box = box_new(&page), *idle = box_new(&page);
    struct ticket_source *source = &page.sources[0];
    uint64_t first, oldest;

    ck_assert(ticket_source_oldest(source, &first));
    ck_assert_uint_eq(first, START / PERIOD - 4);
    ck_assert(ticket_source_secret(source, first, before));
    ck_assert(ticket_source_secret(source, first + 7, after));
    for (int i = 0; i < 7; i++) {
        now += PERIOD;
        ticket_tick(i % 2 == 0 ? box : idle);
    }
    ck_assert(ticket_source_oldest(source, &oldest));
    ck_assert_uint_eq(oldest, first + 7);
    ck_assert(ticket_source_secret(source, oldest, same));
    ck_assert_mem_eq(same, after, sizeof(same));
    ck_assert(!ticket_source_secret(source, oldest - 1, same));
    ck_assert_ptr_null(memmem(&page, sizeof(page), before, sizeof(before)));
    ticket_box_free(box);
    ticket_box_free(idle);
}
END_TEST

/* A keeper killed at any byte of its step forward: the others find a whole slot. */
START_TEST(a_torn_step_forward_harms_nothing)
{
    struct ticket_state before = page, after;
    uint8_t wanted[TICKET_SECRET_SIZE], found[TICKET_SECRET_SIZE];
    uint64_t first;

    ck_assert(ticket_source_oldest(&page.sources[0], &first));
    ck_assert(ticket_source_secret(&page.sources[0], first + 3, wanted));
    ticket_source_advance(&page.sources[0], first + 1);
    after = page;
    /* It writes the second slot, then wipes the first. */
    for (size_t i = 0; i <= 2 * sizeof(struct ticket_slot); i++) {
        size_t second = i < sizeof(struct ticket_slot) ? i : sizeof(struct ticket_slot);

        page = before;
        memcpy(&page.sources[0].slots[1], &after.sources[0].slots[1], second);
        memset(&page.sources[0].slots[0], 0, i - second);
        ck_assert(ticket_source_secret(&page.sources[0], first + 3, found));
        ck_assert_mem_eq(found, wanted, sizeof(wanted));
        ticket_source_advance(&page.sources[0], first + 2);
        ck_assert(ticket_source_secret(&page.sources[0], first + 3, found));
        ck_assert_mem_eq(found, wanted, sizeof(wanted));
    }
}
END_TEST

/* A new instance goes on with the page of the one before it. */
START_TEST(a_restart_keeps_the_keys)
{
    struct ticket_plan plan = plan_now();
    struct ticket_state next;
    struct ticket_box *box = box_new(&page), *after;
    size_t sealed_size = seal_session(box, sealed), size;

    now += 2 * PERIOD;
    plan.now = now;
    ck_assert(ticket_state_fill(&next, &page, &plan));
    after = box_new(&next);
    ck_assert_int_eq(open_bytes(after, 1, sealed, sealed_size, opened, &size), 0);
    ck_assert_uint_eq(opened[0], 1);
    ticket_box_free(after);
    plan.period = PERIOD / 2; /* other periods: a new beginning */
    ck_assert(ticket_state_fill(&next, &page, &plan));
    after = box_new(&next);
    ck_assert_int_ne(open_bytes(after, 1, sealed, sealed_size, opened, &size), 0);
    ticket_box_free(after);
    ticket_box_free(box);
}
END_TEST

static atomic_bool copied;

static void *
go_forward(void *first)
{
    for (uint64_t period = *(uint64_t *)first; !copied; poll(NULL, 0, 0))
        ticket_source_advance(&page.sources[0], ++period);
    return NULL;
}

/* Hosts with one secret agree, whenever each of them was started; those of another do not. */
START_TEST(a_fleet_agrees)
{
    static const uint8_t secret[40] = "the secret of the fleet, many bytes";
    struct ticket_plan plan = plan_now();
    struct ticket_state host, other;
    struct ticket_box *box, *there;
    uint8_t filters[2][KEYOPS_FILTERS_MAX * KEYOPS_FILTER_SIZE];
    size_t sealed_size, size;

    plan.fleet = secret;
    plan.fleet_size = sizeof(secret);
    ck_assert(ticket_state_fill(&host, NULL, &plan));
    box = box_new(&host);
    now += 30 * PERIOD + 77;
    plan.now = now;
    ck_assert(ticket_state_fill(&other, NULL, &plan));
    there = box_new(&other);
    sealed_size = seal_session(box, sealed);
    ck_assert_int_eq(open_bytes(there, 1, sealed, sealed_size, opened, &size), 0);
    ticket_filters(box, filters[0], &size);
    ticket_filters(there, filters[1], &size);
    ck_assert_uint_eq(size, KEYOPS_FILTER_SIZE);
    ck_assert_mem_eq(filters[0], filters[1], KEYOPS_FILTER_SIZE);
    ticket_box_free(there);

    plan.group = "dedicated"; /* another cell group of the fleet */
    ck_assert(ticket_state_fill(&other, NULL, &plan));
    there = box_new(&other);
    ck_assert_int_eq(open_bytes(there, 1, sealed, sealed_size, opened, &size), KEYOPS_BAD_TICKET);
    ticket_box_free(there);
    ticket_box_free(box);
}
END_TEST

/* A host that came up with a clock far ahead has forgotten the keys of today; loaded again, it has
 * them from the secret. */
START_TEST(a_host_of_a_fleet_comes_back_from_the_future)
{
    static const uint8_t secret[40] = "the secret of the fleet, many bytes";
    struct ticket_plan plan = plan_now();
    struct ticket_state host, other, again;
    struct ticket_box *box, *there;
    size_t sealed_size, size;

    plan.fleet = secret;
    plan.fleet_size = sizeof(secret);
    ck_assert(ticket_state_fill(&host, NULL, &plan));
    ck_assert(ticket_state_fill(&other, NULL, &plan));
    there = box_new(&other);
    sealed_size = seal_session(there, sealed);
    now += 1000 * PERIOD;
    ticket_box_free(box_new(&host));
    now = START;
    ck_assert(ticket_state_fill(&again, &host, &plan));
    box = box_new(&again);
    ck_assert_int_eq(open_bytes(box, 1, sealed, sealed_size, opened, &size), 0);
    sealed_size = seal_session(box, sealed);
    ck_assert_int_eq(open_bytes(there, 1, sealed, sealed_size, opened, &size), 0);
    ticket_box_free(box);
    ticket_box_free(there);
}
END_TEST

/* A page is copied while keepers go forward on it. */
START_TEST(a_page_is_copied_whole)
{
    struct ticket_plan plan = plan_now();
    struct ticket_state next;
    uint64_t first, oldest;
    pthread_t keeper;

    ck_assert(ticket_source_oldest(&page.sources[0], &first));
    copied = false;
    ck_assert_int_eq(pthread_create(&keeper, NULL, go_forward, &first), 0);
    for (unsigned i = 0; i < 20000; i++) {
        ck_assert(ticket_state_fill(&next, &page, &plan));
        ck_assert(ticket_source_oldest(&next.sources[0], &oldest));
        ck_assert_mem_eq(next.sources[0].filter, page.sources[0].filter, KEYOPS_FILTER_SIZE);
    }
    copied = true;
    pthread_join(keeper, NULL);
}
END_TEST

/* Also the keys that another one has already set up. */
START_TEST(what_one_keeper_finds_expired_all_forget)
{
    static const uint8_t secret[32] = "the new secret of the fleet";
    struct ticket_plan plan = plan_now();
    struct ticket_state next, wiped;
    struct ticket_box *box = box_new(&page), *other;
    size_t size, sealed_size = seal_session(box, sealed);

    ticket_box_free(box);
    plan.fleet = secret;
    plan.fleet_size = sizeof(secret);
    ck_assert(ticket_state_fill(&next, &page, &plan));
    box = box_new(&next);
    other = box_new(&next);
    ck_assert_int_eq(open_bytes(other, 1, sealed, sealed_size, opened, &size), 0);
    now += LIFE + 3 * PERIOD;
    ticket_tick(box);
    ck_assert_int_eq(next.sources[1].kind, TICKET_NONE);
    ticket_tick(other);
    /* Were the key still in its memory, the ticket would open as soon as it may. */
    wiped = next;
    next.sources[1] = (struct ticket_source){.kind = TICKET_OWN, .period = PERIOD};
    now = START;
    ck_assert_int_ne(open_bytes(other, 1, sealed, sealed_size, opened, &size), 0);
    next = wiped;
    ticket_box_free(box);
    ticket_box_free(other);
}
END_TEST

START_TEST(a_replaced_secret_still_opens_until_its_tickets_have_expired)
{
    static const uint8_t secrets[2][32] = {"the old secret of the fleet", "the new one"};
    struct ticket_plan plan = plan_now();
    struct ticket_state old, next;
    struct ticket_box *box;
    uint8_t first[128], filters[KEYOPS_FILTERS_MAX * KEYOPS_FILTER_SIZE];
    size_t size, first_size;

    plan.fleet = secrets[0];
    plan.fleet_size = sizeof(secrets[0]);
    ck_assert(ticket_state_fill(&old, NULL, &plan));
    box = box_new(&old);
    first_size = seal_session(box, first);
    ticket_box_free(box);
    plan.fleet = secrets[1];
    ck_assert(ticket_state_fill(&next, &old, &plan));
    box = box_new(&next);
    ticket_filters(box, filters, &size);
    ck_assert_uint_eq(size, 2 * KEYOPS_FILTER_SIZE);
    ck_assert_int_eq(open_bytes(box, 1, first, first_size, opened, &size), 0);
    ck_assert_uint_eq(opened[0], 1); /* to be renewed, under the new secret */
    seal_session(box, sealed);
    ck_assert_int_eq(open_bytes(box, 1, sealed, first_size, opened, &size), 0);
    ck_assert_uint_eq(opened[0], 0);
    now += 6 * PERIOD;
    ck_assert_int_ne(open_bytes(box, 1, first, first_size, opened, &size), 0);
    ck_assert_uint_eq(next.sources[1].kind, TICKET_NONE);
    ticket_filters(box, filters, &size);
    ck_assert_uint_eq(size, KEYOPS_FILTER_SIZE);
    ticket_box_free(box);
}
END_TEST

START_TEST(each_seal_has_its_own_key_and_each_period)
{
    struct ticket_box *box = box_new(&page);
    struct onetime_keys keys = keys_of(box, 1, KEYOPS_KEYS_MAX);
    uint8_t first[128], second[128];
    size_t size = seal_session(box, first);

    seal_session(box, second);
    ck_assert_mem_ne(first, second, KEYOPS_NONCE_SIZE);
    ck_assert_mem_ne(first + KEYOPS_NONCE_SIZE, second + KEYOPS_NONCE_SIZE, sizeof(session));
    for (size_t i = 0; i < KEYOPS_KEYS_MAX; i++)
        for (size_t j = 0; j < i; j++) {
            ck_assert_mem_ne(keys.keys[i].nonce, keys.keys[j].nonce, KEYOPS_NONCE_SIZE);
            ck_assert_mem_ne(keys.keys[i].key, keys.keys[j].key, KEYOPS_KEY_SIZE);
        }
    /* A ticket moved to another period is a forgery. */
    first[KEYOPS_NONCE_SIZE + sizeof(session) + 3] ^= 1;
    now ^= PERIOD;
    ck_assert_int_eq(open_bytes(box, 1, first, size, opened, &size), KEYOPS_BAD_TICKET);
    ticket_box_free(box);
}
END_TEST

/* The derivation, told a second time: who changes it makes all tickets of a fleet's other hosts
 * worthless. */
START_TEST(a_key_follows_from_the_secret_the_scope_and_the_nonce)
{
    static const char label[] = "tlsagent ticket key", once[] = "tlsagent one-time key";
    static const uint8_t no_salt[32];
    uint8_t secret[TICKET_SECRET_SIZE], extracted[32], period_key[32], key[32], info[128];
    struct ticket_box *box = box_new(&page);
    struct onetime_keys keys = keys_of(box, 1, 1);
    size_t size, at = 0;

    ck_assert_uint_eq(keys.period, START / PERIOD);
    ck_assert(ticket_source_secret(&page.sources[0], keys.period, secret));
    ck_assert_ptr_nonnull(EVP_Q_mac(NULL, "HMAC", NULL, "SHA256", NULL, no_salt, 32, secret, 32,
                                    extracted, 32, &size));
    memcpy(info, label, sizeof(label) - 1);
    info[sizeof(label) - 1] = 1;
    ck_assert_ptr_nonnull(EVP_Q_mac(NULL, "HMAC", NULL, "SHA256", NULL, extracted, 32, info,
                                    sizeof(label), period_key, 32, &size));
    memcpy(info, once, sizeof(once) - 1);
    at = sizeof(once) - 1;
    memcpy(info + at, keys.scope, KEYOPS_SCOPE_SIZE);
    at += KEYOPS_SCOPE_SIZE;
    memcpy(info + at, keys.keys[0].nonce, KEYOPS_NONCE_SIZE);
    at += KEYOPS_NONCE_SIZE;
    info[at++] = 1;
    ck_assert_ptr_nonnull(
        EVP_Q_mac(NULL, "HMAC", NULL, "SHA256", NULL, period_key, 32, info, at, key, 32, &size));
    ck_assert_mem_eq(keys.keys[0].key, key, sizeof(key));
    ticket_box_free(box);
}
END_TEST

START_TEST(a_key_seals_once_and_is_gone)
{
    static const struct onetime_keys nothing;
    struct ticket_box *box = box_new(&page);
    struct onetime_keys keys = keys_of(box, 1, 2), copy = keys;
    uint8_t out[128];
    size_t size;

    ck_assert(seal_with(&keys, "", session, sizeof(session), out));
    ck_assert_uint_eq(keys.count, 1);
    ck_assert_ptr_null(memmem(&keys, sizeof(keys), copy.keys[1].key, KEYOPS_KEY_SIZE));
    /* Also if nothing comes of it. */
    ck_assert(!seal_with(&keys, "", sealed, KEYOPS_TICKET_MAX + 1, opened));
    ck_assert_uint_eq(keys.count, 1);
    ck_assert(seal_with(&keys, "", session, sizeof(session), out));
    ck_assert_int_eq(open_bytes(box, 1, out, sizeof(session) + KEYOPS_TICKET_EXTRA, opened, &size),
                     0);
    ck_assert_uint_eq(keys.count, 0);
    ck_assert(!seal_with(&keys, "", session, sizeof(session), out));
    ck_assert_mem_eq(keys.keys, nothing.keys, sizeof(keys.keys));
    onetime_wipe(&copy);
    ck_assert_mem_eq(&copy, &nothing, sizeof(copy));
    ticket_box_free(box);
}
END_TEST

/* What a handshaker says of the scope when it seals does not matter: the key is for another. */
START_TEST(a_key_of_one_scope_seals_for_no_other)
{
    struct ticket_box *box = box_new(&page);
    struct onetime_keys keys = keys_of(box, 1, 1);
    size_t size;

    keys.scope[0] = 2;
    ck_assert(seal_with(&keys, "", session, sizeof(session), sealed));
    for (uint8_t scope = 0; scope < 4; scope++)
        ck_assert_int_eq(
            open_bytes(box, scope, sealed, sizeof(session) + KEYOPS_TICKET_EXTRA, opened, &size),
            KEYOPS_BAD_TICKET);
    ticket_box_free(box);
}
END_TEST

/* A signature may come in the last second of a period, the ticket in the first of the next one; or
 * the fleet's secret may be replaced in between. */
START_TEST(keys_outlive_what_they_came_from_by_a_handshake)
{
    struct ticket_plan plan = plan_now();
    struct ticket_state next;
    struct ticket_box *box;
    struct onetime_keys keys;
    uint8_t secret[TICKET_FLEET_MIN] = "another fleet";
    size_t size, sealed_size = sizeof(session) + KEYOPS_TICKET_EXTRA;

    now = START / PERIOD * PERIOD + PERIOD - 1;
    box = box_new(&page);
    keys = keys_of(box, 1, 2);
    now++;
    ck_assert(seal_with(&keys, "", session, sizeof(session), sealed));
    ck_assert_int_eq(open_bytes(box, 1, sealed, sealed_size, opened, &size), 0);
    ck_assert_uint_eq(opened[0], 1); /* a little early, the next handshake renews it */
    ticket_box_free(box);

    plan.fleet = secret;
    plan.fleet_size = sizeof(secret);
    plan.now = now;
    ck_assert(ticket_state_fill(&next, &page, &plan));
    box = box_new(&next);
    ck_assert(seal_with(&keys, "", session, sizeof(session), sealed));
    ck_assert_int_eq(open_bytes(box, 1, sealed, sealed_size, opened, &size), 0);
    ck_assert_uint_eq(opened[0], 1);
    now += LIFE + PERIOD; /* from the signature on: it does not live longer than others */
    ck_assert_int_ne(open_bytes(box, 1, sealed, sealed_size, opened, &size), 0);
    ticket_box_free(box);
}
END_TEST

/* A ticket is no session of the cache, and that is good for its own id only. */
START_TEST(a_cached_session_opens_by_its_id_only)
{
    static const struct {
        const char *sealed, *opened;
        int refusal;
    } cases[] = {
        {"", "", 0},
        {"an id", "an id", 0},
        {"", "an id", KEYOPS_BAD_TICKET},
        {"an id", "", KEYOPS_BAD_TICKET},
        {"an id", "an ie", KEYOPS_BAD_TICKET},
        {"an id", "an i", KEYOPS_BAD_TICKET},
        {"an id, 32 bytes long. ..........", "an id, 32 bytes long. ..........", 0},
    };
    struct ticket_box *box = box_new(&page);
    struct onetime_keys keys = keys_of(box, 1, 1);
    struct keyops_open_ticket request = {
        .wish = {.scope = {1}}, .data = sealed, .data_size = sizeof(session) + KEYOPS_TICKET_EXTRA};
    size_t size;

    ck_assert(seal_with(&keys, cases[_i].sealed, session, sizeof(session), sealed));
    request.id_size = strlen(cases[_i].opened);
    memcpy(request.id, cases[_i].opened, request.id_size);
    ck_assert_int_eq(ticket_open(box, &request, opened, &size), cases[_i].refusal);
    ticket_box_free(box);
}
END_TEST

START_TEST(sizes_are_bounded)
{
    static uint8_t big[KEYOPS_TICKET_MAX + KEYOPS_TICKET_EXTRA + 1];
    struct ticket_box *box = box_new(&page);
    struct onetime_keys keys = keys_of(box, 0, 2);
    size_t size;

    ck_assert(seal_with(&keys, "", big, KEYOPS_TICKET_MAX, sealed));
    size = KEYOPS_TICKET_MAX + KEYOPS_TICKET_EXTRA;
    ck_assert_int_eq(open_bytes(box, 0, sealed, size, opened, &size), 0);
    ck_assert_uint_eq(size, 1 + KEYOPS_TICKET_MAX);
    ck_assert_int_eq(open_bytes(box, 0, big, sizeof(big), opened, &size), KEYOPS_BAD_TICKET);
    ck_assert(seal_with(&keys, "", big, 0, sealed));
    ck_assert_int_eq(open_bytes(box, 0, sealed, KEYOPS_TICKET_EXTRA, opened, &size), 0);
    ck_assert_uint_eq(size, 1);
    ck_assert_int_eq(open_bytes(box, 0, sealed, KEYOPS_TICKET_EXTRA - 1, opened, &size),
                     KEYOPS_BAD_TICKET);
    ticket_box_free(box);
    ticket_box_free(NULL);
}
END_TEST

START_TEST(opens_are_limited_per_second)
{
    struct ticket_box *box = box_new(&page);
    size_t sealed_size = seal_session(box, sealed), size;

    for (unsigned i = 0; i < TICKET_OPENS_PER_SECOND; i++)
        ck_assert_int_eq(open_bytes(box, 1, sealed, sealed_size, opened, &size), 0);
    ck_assert_int_eq(open_bytes(box, 1, sealed, sealed_size, opened, &size), KEYOPS_TOO_OFTEN);
    now++;
    ck_assert_int_eq(open_bytes(box, 1, sealed, sealed_size, opened, &size), 0);
    ticket_box_free(box);
}
END_TEST

static void
set_up(void)
{
    struct ticket_plan plan;

    now = START;
    plan = plan_now();
    ck_assert(ticket_state_fill(&page, NULL, &plan));
}

int
main(void)
{
    Suite *suite = suite_create("ticket");
    TCase *tcase = tcase_create("ticket");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, set_up, NULL);
    tcase_add_test(tcase, another_cell_opens_it);
    tcase_add_test(tcase, every_bit_counts);
    tcase_add_test(tcase, another_scope_or_agent_does_not_open_it);
    tcase_add_test(tcase, it_lives_twelve_hours_and_is_renewed);
    tcase_add_loop_test(tcase, tickets_from_the_future_are_refused, 0, 5);
    tcase_add_test(tcase, what_has_expired_is_forgotten);
    tcase_add_test(tcase, a_torn_step_forward_harms_nothing);
    tcase_add_test(tcase, a_restart_keeps_the_keys);
    tcase_add_test(tcase, a_fleet_agrees);
    tcase_add_test(tcase, a_host_of_a_fleet_comes_back_from_the_future);
    tcase_add_test(tcase, a_page_is_copied_whole);
    tcase_add_test(tcase, what_one_keeper_finds_expired_all_forget);
    tcase_add_test(tcase, a_replaced_secret_still_opens_until_its_tickets_have_expired);
    tcase_add_test(tcase, each_seal_has_its_own_key_and_each_period);
    tcase_add_test(tcase, a_key_follows_from_the_secret_the_scope_and_the_nonce);
    tcase_add_test(tcase, a_key_seals_once_and_is_gone);
    tcase_add_test(tcase, a_key_of_one_scope_seals_for_no_other);
    tcase_add_test(tcase, keys_outlive_what_they_came_from_by_a_handshake);
    tcase_add_loop_test(tcase, a_cached_session_opens_by_its_id_only, 0, 7);
    tcase_add_test(tcase, sizes_are_bounded);
    tcase_add_test(tcase, opens_are_limited_per_second);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
