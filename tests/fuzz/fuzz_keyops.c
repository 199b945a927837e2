/*
 * fuzz_keyops.c: what a taken-over handshaker can say to its keeper: decoders, shape, and with a
 * real key of each type the signing and the tickets behind them. The first byte is the type of the
 * message.
 */
#include "tests/fuzz/fuzz.h"

#include "agent/keyring.h"
#include "agent/onetime.h"
#include "agent/ticket.h"
#include "protocol/channel.h"
#include "protocol/keyops.h"
#include "tests/unit/keeper_fixture.h"

static struct keyring *fuzz_ring;
static struct ticket_box *fuzz_tickets;
static struct onetime_cipher fuzz_cipher;

static uint64_t
fuzz_clock(void)
{
    return 1700000000;
}

static void
fuzz_keyops_start(void)
{
    static struct ticket_state page;
    const struct ticket_plan plan = {
        .now = fuzz_clock(), .period = 10800, .life = 43200, .group = "0"};
    struct error error = {""};
    struct generation_secret *secret;

    if (fuzz_ring != NULL)
        return;
    secret = keeper_secret_part(KEY_COUNT);
    fuzz_ring = fixture_keep(keyring_new(secret, KEY_COUNT, &error));
    FUZZ_REQUIRE(ticket_state_fill(&page, NULL, &plan));
    FUZZ_REQUIRE(onetime_cipher_init(&fuzz_cipher));
    fuzz_tickets = fixture_keep(ticket_box_new(&page, fuzz_clock, &error));
}

static void
fuzz_tls13(const uint8_t *body, size_t size)
{
    struct keyops_sign_tls13 request;
    uint8_t signature[KEYOPS_SIGNATURE_MAX];
    size_t made = 0;
    int refusal;

    if (!keyops_get_sign_tls13(&request, body, size))
        return;
    refusal = keyring_sign_tls13(fuzz_ring, &request, signature, &made);
    /* Signed is only what a server says, with a hash of the scheme's kind. */
    FUZZ_REQUIRE(refusal != 0 || (request.role == KEYOPS_ROLE_SERVER && request.key < KEY_COUNT &&
                                  (request.hash_size == 32 || request.hash_size == 48) &&
                                  made > 0 && made <= KEYOPS_SIGNATURE_MAX));
}

static void
fuzz_tls12(const uint8_t *body, size_t size)
{
    struct keyops_sign_tls12_server request;
    uint8_t signature[KEYOPS_SIGNATURE_MAX];
    size_t made = 0;
    int refusal;

    if (!keyops_get_sign_tls12_server(&request, body, size))
        return;
    refusal = keyring_sign_tls12_server(fuzz_ring, &request, signature, &made);
    /* ... and never what could be read as a certificate request (design.md section 3). */
    FUZZ_REQUIRE(refusal != 0 || (request.parameters_size >= 36 && request.parameters[0] == 3));
}

/* Keys as wished, and a session sealed with one of them opens; what the fuzzer sealed does not. */
static void
fuzz_keys(const uint8_t *body, size_t size)
{
    static uint8_t sealed[128], out[1 + KEYOPS_TICKET_MAX];
    struct keyops_ticket_keys request;
    struct keyops_ticket_key keys[KEYOPS_KEYS_MAX];
    struct keyops_answer answer = {.keys = keys};
    struct keyops_open_ticket back = {.data = sealed};
    struct onetime_keys in_hand = {.count = 0};
    size_t made = 0;

    if (!keyops_get_ticket_keys(&request, body, size))
        return;
    answer.key_count = ticket_keys(fuzz_tickets, &request.wish, &answer.period, keys);
    FUZZ_REQUIRE(answer.key_count == request.wish.keys);
    onetime_take(&in_hand, &answer, request.wish.scope);
    while (in_hand.count > 0) {
        memcpy(sealed, onetime_nonce(&in_hand), KEYOPS_NONCE_SIZE);
        FUZZ_REQUIRE(onetime_seal(&fuzz_cipher, &in_hand, NULL, 0, body, size,
                                  sealed + KEYOPS_NONCE_SIZE, sealed + KEYOPS_NONCE_SIZE + size));
        back.wish = request.wish;
        back.data_size = size + KEYOPS_TICKET_EXTRA;
        FUZZ_REQUIRE(ticket_open(fuzz_tickets, &back, out, &made) == 0);
        FUZZ_REQUIRE(made == size + 1 && memcmp(out + 1, body, size) == 0);
    }
}

static void
fuzz_ticket(const uint8_t *body, size_t size)
{
    static uint8_t out[1 + KEYOPS_TICKET_MAX];
    struct keyops_open_ticket request;
    size_t made = 0;

    if (keyops_get_open_ticket(&request, body, size))
        FUZZ_REQUIRE(ticket_open(fuzz_tickets, &request, out, &made) != 0 && made == 0);
}

/* The other way round: a hostile keeper. */
static void
fuzz_answer(const uint8_t *body, size_t size)
{
    static const uint8_t scope[KEYOPS_SCOPE_SIZE];
    struct onetime_keys in_hand = {.count = 0};
    struct keyops_answer answer;

    if (!keyops_get_answer(&answer, body, size))
        return;
    FUZZ_REQUIRE(answer.key_count <= KEYOPS_KEYS_MAX && answer.size <= 1 + KEYOPS_TICKET_MAX);
    onetime_take(&in_hand, &answer, scope);
    FUZZ_REQUIRE(in_hand.count == answer.key_count);
    onetime_wipe(&in_hand);
}

/* Items, of requests or of answers. */
static void
fuzz_items(const uint8_t *body, size_t size, void (*take)(const uint8_t *body, size_t size))
{
    struct keyops_item item;

    while (size > 0 && keyops_next_item(&item, &body, &size)) {
        uint8_t *copy = fuzz_copy(item.body, item.size);

        take(copy, item.size);
        free(copy);
    }
}

/* What was understood can be said again, and is then the same to the last byte. */
static void
fuzz_say_again(uint8_t type, const uint8_t *body, size_t body_size)
{
    static uint8_t out[CHANNEL_BODY_MAX];
    size_t again = 0;
    bool understood;
    union {
        struct keyops_sign_tls13 tls13;
        struct keyops_sign_tls12_server tls12;
        struct keyops_ticket_keys keys;
        struct keyops_open_ticket open;
        struct keyops_filters filters;
        struct keyops_answer answer;
        struct keyops_refused refused;
        struct keyops_hello hello;
    } m;

    switch (type) {
    case KEYOPS_SIGN_TLS13:
        understood = keyops_get_sign_tls13(&m.tls13, body, body_size);
        if (understood)
            again = keyops_put_sign_tls13(&m.tls13, out, sizeof(out));
        break;
    case KEYOPS_SIGN_TLS12_SERVER:
        understood = keyops_get_sign_tls12_server(&m.tls12, body, body_size);
        if (understood)
            again = keyops_put_sign_tls12_server(&m.tls12, out, sizeof(out));
        break;
    case KEYOPS_TICKET_KEYS:
        understood = keyops_get_ticket_keys(&m.keys, body, body_size);
        if (understood)
            again = keyops_put_ticket_keys(&m.keys, out, sizeof(out));
        break;
    case KEYOPS_OPEN_TICKET:
        understood = keyops_get_open_ticket(&m.open, body, body_size);
        if (understood)
            again = keyops_put_open_ticket(&m.open, out, sizeof(out));
        break;
    case KEYOPS_FILTERS:
        understood = keyops_get_filters(&m.filters, body, body_size);
        if (understood)
            again = keyops_put_filters(&m.filters, out, sizeof(out));
        break;
    case KEYOPS_ANSWER:
        understood = keyops_get_answer(&m.answer, body, body_size);
        if (understood)
            again = keyops_put_answer(&m.answer, out, sizeof(out));
        break;
    case KEYOPS_REFUSAL:
        understood = keyops_get_refused(&m.refused, body, body_size);
        if (understood)
            again = keyops_put_refused(&m.refused, out, sizeof(out));
        break;
    default:
        understood = keyops_get_hello(&m.hello, body, body_size);
        if (understood)
            again = keyops_put_hello(&m.hello, out, sizeof(out));
        break;
    }
    FUZZ_REQUIRE(!understood || (again == body_size && memcmp(out, body, again) == 0));
}

static void
fuzz_keyops(const uint8_t *data, size_t size)
{
    uint8_t *body;

    if (size == 0 || size > CHANNEL_BODY_MAX)
        return;
    fuzz_keyops_start();
    size--;
    body = fuzz_copy(data + 1, size);
    switch (data[0]) {
    case KEYOPS_SIGN_TLS13:
        fuzz_tls13(body, size);
        break;
    case KEYOPS_SIGN_TLS12_SERVER:
        fuzz_tls12(body, size);
        break;
    case KEYOPS_TICKET_KEYS:
        fuzz_keys(body, size);
        break;
    case KEYOPS_OPEN_TICKET:
        fuzz_ticket(body, size);
        break;
    case KEYOPS_OPEN_TICKETS:
        fuzz_items(body, size, fuzz_ticket);
        break;
    case KEYOPS_ANSWER:
        fuzz_answer(body, size);
        break;
    case KEYOPS_ANSWERS:
        fuzz_items(body, size, fuzz_answer);
        break;
    default:
        break;
    }
    fuzz_say_again(data[0], body, size);
    free(body);
}

FUZZ_TARGET(fuzz_keyops)
