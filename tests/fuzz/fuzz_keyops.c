/*
 * fuzz_keyops.c: what a taken-over handshaker can say to its keeper: decoders, shape, and with a
 * real key of each type the signing and the tickets behind them. The first byte is the type of the
 * message.
 */
#include "tests/fuzz/fuzz.h"

#include "agent/keyring.h"
#include "agent/ticket.h"
#include "protocol/channel.h"
#include "protocol/keyops.h"
#include "tests/unit/keeper_fixture.h"

static struct keyring *fuzz_ring;
static struct ticket_box *fuzz_tickets;

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

static void
fuzz_ticket(const uint8_t *body, size_t size, bool open)
{
    static uint8_t out[KEYOPS_TICKET_MAX + KEYOPS_TICKET_EXTRA];
    struct keyops_ticket request, back;
    uint8_t *copy;
    size_t made = 0;

    if (!keyops_get_ticket(&request, body, size))
        return;
    if (open) {
        FUZZ_REQUIRE(request.data_size < KEYOPS_TICKET_EXTRA ||
                     ticket_open(fuzz_tickets, &request, out, &made) != 0);
        return;
    }
    if (request.data_size > KEYOPS_TICKET_MAX ||
        ticket_seal(fuzz_tickets, &request, out, &made) != 0)
        return;
    FUZZ_REQUIRE(made == request.data_size + KEYOPS_TICKET_EXTRA);
    copy = fuzz_copy(out, made);
    back = request;
    back.data = copy;
    back.data_size = made;
    FUZZ_REQUIRE(ticket_open(fuzz_tickets, &back, out, &made) == 0);
    FUZZ_REQUIRE(made == request.data_size + 1 &&
                 memcmp(out + 1, request.data, request.data_size) == 0);
    free(copy);
}

static void
fuzz_keyops(const uint8_t *data, size_t size)
{
    struct keyops_answer answer;
    struct keyops_refused refused;
    struct keyops_hello hello;
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
    case KEYOPS_SEAL_TICKET:
        fuzz_ticket(body, size, false);
        break;
    case KEYOPS_OPEN_TICKET:
        fuzz_ticket(body, size, true);
        break;
    case KEYOPS_ANSWER: /* the other way round: a hostile keeper */
        (void)keyops_get_answer(&answer, body, size);
        break;
    case KEYOPS_REFUSAL:
        (void)keyops_get_refused(&refused, body, size);
        break;
    default:
        (void)keyops_get_hello(&hello, body, size);
        break;
    }
    free(body);
}

FUZZ_TARGET(fuzz_keyops)
