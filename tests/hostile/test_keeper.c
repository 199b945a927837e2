/*
 * test_keeper.c: a handshaker that was taken over, played by this test, against a real keeper in
 * its sandbox. What it asks for in good form but may not have is refused, and the keeper serves on;
 * what is not in good form ends the keeper.
 */
#include <check.h>
#include <sys/socket.h>

#include <openssl/cms.h>

#include "agent/keyring.h"
#include "agent/onetime.h"
#include "agent/ticket.h"
#include "tests/unit/keeper_fixture.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static struct keeper_run run;
static uint8_t buffer[CHANNEL_BUFFER_SIZE];
static struct channel_message message;

static void
set_up(void)
{
    int fd = keeper_secret_fd(), log = memfd_create("log", MFD_CLOEXEC);

    run = keeper_start(fd, log);
    close(fd);
    close(log);
    ck_assert_int_eq(channel_receive_wait(run.peer, keyops_handshaker_rules,
                                          keyops_handshaker_rule_count, buffer, sizeof(buffer),
                                          &message, NULL, 5000),
                     CHANNEL_OK);
    ck_assert_uint_eq(message.type, KEYOPS_HELLO);
}

static void
tear_down(void)
{
    keeper_stop(&run);
}

static enum channel_result
receive(void)
{
    return channel_receive_wait(run.peer, keyops_handshaker_rules, keyops_handshaker_rule_count,
                                buffer, sizeof(buffer), &message, NULL, 5000);
}

/* Send a request; returns 0 for an answer, else the reason of the refusal. */
static int
ask(uint16_t type, const uint8_t *body, size_t size)
{
    struct keyops_refused refused;

    ck_assert_uint_gt(size, 0);
    ck_assert_int_eq(channel_send(run.peer, type, body, size, NULL, 0), CHANNEL_OK);
    ck_assert_int_eq(receive(), CHANNEL_OK);
    if (message.type == KEYOPS_ANSWER)
        return 0;
    ck_assert_uint_eq(message.type, KEYOPS_REFUSAL);
    ck_assert(keyops_get_refused(&refused, message.body, message.size));
    ck_assert_uint_eq(refused.number, 5);
    return refused.reason;
}

static int
ask_tls13(const struct keyops_sign_tls13 *request)
{
    uint8_t body[256];

    return ask(KEYOPS_SIGN_TLS13, body, keyops_put_sign_tls13(request, body, sizeof(body)));
}

static int
ask_tls12(const struct keyops_sign_tls12_server *request)
{
    uint8_t body[512];

    return ask(KEYOPS_SIGN_TLS12_SERVER, body,
               keyops_put_sign_tls12_server(request, body, sizeof(body)));
}

static struct keyops_sign_tls13
honest_tls13(uint32_t key, uint16_t scheme)
{
    return (struct keyops_sign_tls13){.number = 5,
                                      .key = key,
                                      .scheme = scheme,
                                      .role = KEYOPS_ROLE_SERVER,
                                      .hash_size = 32,
                                      .hash = {1, 2, 3}};
}

static struct keyops_sign_tls12_server
honest_tls12(uint32_t key, uint16_t scheme)
{
    struct keyops_sign_tls12_server request = {.number = 5,
                                               .key = key,
                                               .scheme = scheme,
                                               .parameters_size = 36,
                                               .parameters = {3, 0, 0x1d, 32, 1}};

    memset(request.client_random, 0x5a, KEYOPS_RANDOM_SIZE);
    memset(request.server_random, 0xa5, KEYOPS_RANDOM_SIZE);
    return request;
}

static void
check_that_it_serves(void)
{
    struct keyops_sign_tls13 tls13 = honest_tls13(KEY_P256, 0x0403);
    struct keyops_sign_tls12_server tls12 = honest_tls12(KEY_RSA, 0x0401);

    ck_assert_int_eq(ask_tls13(&tls13), 0);
    ck_assert_int_eq(ask_tls12(&tls12), 0);
}

/* ---- good form, refused ---- */

START_TEST(what_is_not_allowed_is_refused_and_it_serves_on)
{
    static const struct {
        const char *name;
        uint32_t key;
        uint16_t scheme;
        uint8_t role;
        size_t hash_size;
        int reason;
    } cases[] = {
        {"honest", KEY_RSA, 0x0804, 1, 32, 0},
        {"a client's CertificateVerify", KEY_RSA, 0x0804, 2, 32, KEYOPS_WRONG_ROLE},
        {"a client's, ECDSA", KEY_P256, 0x0403, 2, 32, KEYOPS_WRONG_ROLE},
        {"no role", KEY_RSA, 0x0804, 0, 32, KEYOPS_BAD_SHAPE},
        {"unknown role", KEY_RSA, 0x0804, 255, 32, KEYOPS_BAD_SHAPE},
        {"a key beyond the generation", KEY_COUNT, 0x0804, 1, 32, KEYOPS_NO_SUCH_KEY},
        {"a key far beyond", 0xffffffff, 0x0804, 1, 32, KEYOPS_NO_SUCH_KEY},
        {"a key at the sign bit", 0x80000000, 0x0804, 1, 32, KEYOPS_NO_SUCH_KEY},
        {"RSA with SHA-1", KEY_RSA, 0x0201, 1, 32, KEYOPS_BAD_SCHEME},
        {"ECDSA with SHA-1", KEY_P256, 0x0203, 1, 32, KEYOPS_BAD_SCHEME},
        {"PKCS#1 in TLS 1.3", KEY_RSA, 0x0401, 1, 32, KEYOPS_BAD_SCHEME},
        {"another curve in TLS 1.3", KEY_P256, 0x0503, 1, 32, KEYOPS_BAD_SCHEME},
        {"Ed25519 with a P-256 key", KEY_P256, 0x0807, 1, 32, KEYOPS_BAD_SCHEME},
        {"33 bytes of hash", KEY_P256, 0x0403, 1, 33, KEYOPS_BAD_SHAPE},
        {"47 bytes of hash", KEY_P256, 0x0403, 1, 47, KEYOPS_BAD_SHAPE},
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct keyops_sign_tls13 request = honest_tls13(cases[i].key, cases[i].scheme);

        request.role = cases[i].role;
        request.hash_size = cases[i].hash_size;
        ck_assert_msg(ask_tls13(&request) == cases[i].reason, "%s", cases[i].name);
        check_that_it_serves();
    }
    ck_assert_uint_eq(keeper_totals(&run).refusals, COUNT(cases) - 1);
}
END_TEST

START_TEST(tls12_shapes_that_are_none_are_refused)
{
    static const struct {
        const char *name;
        uint16_t scheme;
        uint8_t head[5];
        size_t size;
        int reason;
    } cases[] = {
        {"honest", 0x0804, {3, 0, 0x1d, 32}, 36, 0},
        {"SHA-1", 0x0201, {3, 0, 0x1d, 32}, 36, KEYOPS_BAD_SCHEME},
        {"MD5", 0x0101, {3, 0, 0x1d, 32}, 36, KEYOPS_BAD_SCHEME},
        {"no parameters: 64 bytes of my choice", 0x0804, {0}, 0, KEYOPS_BAD_SHAPE},
        {"DHE parameters", 0x0804, {0, 0x40, 0xff, 0xff, 0xff}, 137, KEYOPS_BAD_SHAPE},
        {"trailing byte", 0x0804, {3, 0, 0x1d, 32}, 37, KEYOPS_BAD_SHAPE},
        {"a byte short", 0x0804, {3, 0, 0x1d, 32}, 35, KEYOPS_BAD_SHAPE},
        {"explicit curve", 0x0804, {1, 0, 0x1d, 32}, 36, KEYOPS_BAD_SHAPE},
        {"unknown curve", 0x0804, {3, 0, 0x1c, 32}, 36, KEYOPS_BAD_SHAPE},
        {"compressed point", 0x0804, {3, 0, 0x17, 33, 2}, 37, KEYOPS_BAD_SHAPE},
        {"longest", 0x0804, {3, 0, 0x19, 133, 4}, 160, KEYOPS_BAD_SHAPE},
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct keyops_sign_tls12_server request = honest_tls12(KEY_RSA, cases[i].scheme);

        memcpy(request.parameters, cases[i].head, sizeof(cases[i].head));
        request.parameters_size = cases[i].size;
        ck_assert_msg(ask_tls12(&request) == cases[i].reason, "%s", cases[i].name);
        check_that_it_serves();
    }
}
END_TEST

/* ---- one-time keys and tickets ---- */

/* Take the keys out of the answer that came last. */
static struct onetime_keys
take_keys(size_t result_size)
{
    struct onetime_keys keys = {.count = 0};
    const uint8_t scope[KEYOPS_SCOPE_SIZE] = {1};
    struct keyops_answer answer;

    ck_assert(keyops_get_answer(&answer, message.body, message.size) && answer.number == 5);
    ck_assert_uint_eq(answer.size, result_size);
    onetime_take(&keys, &answer, scope);
    return keys;
}

static int
ask_keys(uint8_t count)
{
    struct keyops_ticket_keys request = {.number = 5, .wish = {.keys = count, .scope = {1}}};
    uint8_t body[64];

    return ask(KEYOPS_TICKET_KEYS, body, keyops_put_ticket_keys(&request, body, sizeof(body)));
}

static int
ask_open(const struct keyops_open_ticket *request)
{
    static uint8_t body[KEYOPS_OPEN_MAX];

    return ask(KEYOPS_OPEN_TICKET, body, keyops_put_open_ticket(request, body, sizeof(body)));
}

/* "session", sealed as a handshaker does. */
static size_t
seal_with(struct onetime_keys *keys, uint8_t *sealed)
{
    struct onetime_cipher cipher;

    ck_assert(onetime_cipher_init(&cipher));
    memcpy(sealed, onetime_nonce(keys), KEYOPS_NONCE_SIZE);
    sealed += KEYOPS_NONCE_SIZE;
    ck_assert(
        onetime_seal(&cipher, keys, NULL, 0, (const uint8_t *)"session", 7, sealed, sealed + 7));
    onetime_cipher_free(&cipher);
    return 7 + KEYOPS_TICKET_EXTRA;
}

/* Exactly as many as were asked for, with what is answered and with nothing that is refused; no two
 * are the same. */
START_TEST(keys_come_as_wished_and_with_answers_only)
{
    struct keyops_sign_tls13 tls13 = honest_tls13(KEY_P256, 0x0403);
    struct keyops_sign_tls12_server tls12 = honest_tls12(KEY_RSA, 0x0401);
    struct keyops_ticket_key seen[64];
    struct onetime_keys keys;
    size_t count = 0;

    for (uint8_t wished = 0; wished <= KEYOPS_KEYS_MAX; wished++) {
        struct keyops_answer answer;

        for (int i = 0; i < 3; i++) {
            tls13.wish.keys = tls12.wish.keys = wished;
            ck_assert_int_eq(i == 0   ? ask_tls13(&tls13)
                             : i == 1 ? ask_tls12(&tls12)
                                      : ask_keys(wished),
                             0);
            ck_assert(keyops_get_answer(&answer, message.body, message.size));
            ck_assert_uint_eq(answer.key_count, wished);
            ck_assert(i < 2 ? answer.size > 0 : answer.size == 0);
            if (wished > 0)
                memcpy(seen + count, answer.keys, wished * sizeof(seen[0]));
            count += wished;
        }
    }
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < i; j++)
            ck_assert(memcmp(seen[i].nonce, seen[j].nonce, KEYOPS_NONCE_SIZE) != 0 &&
                      memcmp(seen[i].key, seen[j].key, KEYOPS_KEY_SIZE) != 0);
    ck_assert_uint_eq(keeper_totals(&run).ticket_keys, count);
    tls13.scheme = 0x0201; /* refused: no keys either */
    ck_assert_int_eq(ask_tls13(&tls13), KEYOPS_BAD_SCHEME);
    tls12.parameters_size--;
    ck_assert_int_eq(ask_tls12(&tls12), KEYOPS_BAD_SHAPE);
    ck_assert_uint_eq(keeper_totals(&run).ticket_keys, count);
    ck_assert_int_eq(ask_keys(1), 0);
    keys = take_keys(0);
    ck_assert_uint_eq(keys.count, 1);
}
END_TEST

START_TEST(tickets_of_others_are_refused)
{
    static uint8_t sealed[64];
    struct keyops_open_ticket request = {
        .number = 5, .wish = {.keys = 1, .scope = {1}}, .data = sealed};
    struct keyops_answer answer;
    struct onetime_keys keys;
    size_t size;

    ck_assert_int_eq(ask_keys(1), 0);
    keys = take_keys(0);
    size = request.data_size = seal_with(&keys, sealed);
    ck_assert_int_eq(ask_open(&request), 0);
    ck_assert(keyops_get_answer(&answer, message.body, message.size));
    ck_assert_mem_eq(answer.data, "\0session", 8);
    /* It brought a key for its successor, which is good. */
    keys = take_keys(8);
    ck_assert_uint_eq(keys.count, 1);
    ck_assert_mem_ne(keys.keys[0].nonce, sealed, KEYOPS_NONCE_SIZE);
    seal_with(&keys, sealed);
    ck_assert_int_eq(ask_open(&request), 0);
    request.wish.scope[31] ^= 1;
    ck_assert_int_eq(ask_open(&request), KEYOPS_BAD_TICKET);
    request.wish.scope[31] ^= 1;
    request.id_size = 1;
    ck_assert_int_eq(ask_open(&request), KEYOPS_BAD_TICKET);
    request.id_size = 0;
    for (size_t i = 0; i < size; i++) {
        int refusal;

        sealed[i] ^= 0x80;
        refusal = ask_open(&request);
        if (i + ONETIME_TAIL >= size && i + ONETIME_TAIL < size + 4)
            ck_assert(refusal == KEYOPS_FUTURE_TICKET || refusal == KEYOPS_OLD_TICKET ||
                      refusal == KEYOPS_BAD_TICKET); /* its period */
        else
            ck_assert_int_eq(refusal, KEYOPS_BAD_TICKET);
        sealed[i] ^= 0x80;
    }
    check_that_it_serves();
    ck_assert_uint_eq(keeper_totals(&run).tickets_opened, 2);
    ck_assert_uint_eq(keeper_totals(&run).ticket_keys, 3);
}
END_TEST

/* Several in one message: each is judged as if it were alone. */
static size_t
put_openings(uint8_t *body, const struct keyops_open_ticket *request, size_t count, uint8_t refused)
{
    uint8_t one[256];
    struct keyops_item item = {
        .refused = refused, .body = one, .size = keyops_put_open_ticket(request, one, sizeof(one))};
    size_t size = 0;

    for (size_t i = 0; i < count; i++)
        ck_assert(keyops_add_item(&item, body, KEYOPS_BATCH_SIZE, &size));
    return size;
}

START_TEST(each_of_several_tickets_is_judged_alone)
{
    static uint8_t sealed[64], body[KEYOPS_BATCH_SIZE];
    struct keyops_open_ticket request = {
        .number = 5, .wish = {.keys = 1, .scope = {1}}, .data = sealed};
    struct onetime_keys keys;
    struct keyops_answer answer;
    struct keyops_refused refused;
    struct keyops_item item;
    const uint8_t *left;
    size_t size, left_size;

    ck_assert_int_eq(ask_keys(1), 0);
    keys = take_keys(0);
    request.data_size = seal_with(&keys, sealed);
    size = put_openings(body, &request, 2, 0);
    request.wish.scope[0] = 2; /* of somebody else */
    size += put_openings(body + size, &request, 1, 0);
    request.wish.scope[0] = 1;
    size += put_openings(body + size, &request, KEYOPS_BATCH_MAX - 3, 0);
    ck_assert_int_eq(channel_send(run.peer, KEYOPS_OPEN_TICKETS, body, size, NULL, 0), CHANNEL_OK);
    ck_assert_int_eq(receive(), CHANNEL_OK);
    ck_assert_uint_eq(message.type, KEYOPS_ANSWERS);
    left = message.body;
    left_size = message.size;
    for (int i = 0; i < KEYOPS_BATCH_MAX; i++) {
        ck_assert(keyops_next_item(&item, &left, &left_size));
        ck_assert_uint_eq(item.refused, i == 2);
        if (i == 2) {
            ck_assert(keyops_get_refused(&refused, item.body, item.size));
            ck_assert_int_eq(refused.reason, KEYOPS_BAD_TICKET);
            continue;
        }
        ck_assert(keyops_get_answer(&answer, item.body, item.size));
        ck_assert_uint_eq(answer.number, 5);
        ck_assert_mem_eq(answer.data, "\0session", 8);
        ck_assert_uint_eq(answer.key_count, 1);
        ck_assert_mem_ne(answer.keys[0].nonce, sealed, KEYOPS_NONCE_SIZE);
    }
    ck_assert_uint_eq(left_size, 0);
    check_that_it_serves();
    ck_assert_uint_eq(keeper_totals(&run).tickets_opened, KEYOPS_BATCH_MAX - 1);
    ck_assert_uint_eq(keeper_totals(&run).refusals, 1);
}
END_TEST

/* Many in one message are as many for the account of a second. */
START_TEST(several_tickets_count_as_several)
{
    static uint8_t sealed[64], body[KEYOPS_BATCH_SIZE];
    const struct keyops_open_ticket request = {
        .number = 5, .data = sealed, .data_size = sizeof(sealed)};
    const size_t size = put_openings(body, &request, KEYOPS_BATCH_MAX, 0);
    unsigned opened = 0, often = 0;

    while (often == 0 && opened <= 100 * TICKET_OPENS_PER_SECOND) {
        struct keyops_refused refused;
        struct keyops_item item;
        const uint8_t *left;
        size_t left_size;

        ck_assert_int_eq(channel_send(run.peer, KEYOPS_OPEN_TICKETS, body, size, NULL, 0),
                         CHANNEL_OK);
        ck_assert_int_eq(receive(), CHANNEL_OK);
        ck_assert_uint_eq(message.type, KEYOPS_ANSWERS);
        left = message.body;
        left_size = message.size;
        while (left_size > 0) {
            ck_assert(keyops_next_item(&item, &left, &left_size) && item.refused == 1);
            ck_assert(keyops_get_refused(&refused, item.body, item.size));
            often += refused.reason == KEYOPS_TOO_OFTEN;
            opened += refused.reason != KEYOPS_TOO_OFTEN;
        }
    }
    ck_assert_uint_gt(often, 0);
    ck_assert_uint_ge(opened + 1, TICKET_OPENS_PER_SECOND); /* one was its own, at the start */
    check_that_it_serves();
}
END_TEST

/* A taken-over handshaker seals with a key as often as it likes: what it wrote itself is all that
 * it can read of it. The nonce of somebody else's ticket cannot be asked for: there is no request
 * with one, but to open, and opening gives out no key of the ticket's. */
START_TEST(the_key_of_a_ticket_is_not_to_be_had)
{
    static uint8_t sealed[64];
    struct keyops_open_ticket request = {
        .number = 5, .wish = {.keys = KEYOPS_KEYS_MAX, .scope = {1}}, .data = sealed};
    struct keyops_ticket_key key;
    struct onetime_keys keys;

    ck_assert_int_eq(ask_keys(1), 0);
    keys = take_keys(0);
    key = keys.keys[0];
    request.data_size = seal_with(&keys, sealed);
    for (int i = 0; i < 50; i++) {
        ck_assert_int_eq(ask_open(&request), 0);
        ck_assert_ptr_null(memmem(buffer, sizeof(buffer), key.key, KEYOPS_KEY_SIZE));
        ck_assert_ptr_null(memmem(buffer, sizeof(buffer), key.nonce, KEYOPS_NONCE_SIZE));
    }
}
END_TEST

/* ---- what the red team built ---- */

static const uint8_t oid_digest[] = {0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 9, 4};
static const uint8_t oid_type[] = {0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 9, 3};
static const uint8_t oid_data[] = {0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 7, 1};

static void
put(uint8_t **next, const void *bytes, size_t size)
{
    memcpy(*next, bytes, size);
    *next += size;
}

/* Split a content into a request. */
static struct keyops_sign_tls12_server
request_of(uint32_t key, uint16_t scheme, const uint8_t *content, size_t size)
{
    struct keyops_sign_tls12_server request = {
        .number = 5, .key = key, .scheme = scheme, .parameters_size = size - 64};

    memcpy(request.client_random, content, 32);
    memcpy(request.server_random, content + 32, 32);
    memcpy(request.parameters, content + 64, size - 64);
    ck_assert(shape_parameters_fit(request.parameters, request.parameters_size));
    return request;
}

/* What a signature would be without the check of the content. */
static size_t
sign_unchecked(uint32_t key, uint16_t scheme_id, const uint8_t *content, size_t size,
               uint8_t signature[KEYOPS_SIGNATURE_MAX])
{
    struct error error = {""};
    struct generation_secret *secret = keeper_secret_part(KEY_COUNT);
    struct keyring *ring = keyring_new(secret, KEYRING_CACHE, &error);
    const struct shape_scheme *scheme =
        shape_scheme_find(scheme_id, secret->keys[key].type, SHAPE_TLS12);
    size_t signature_size;

    ck_assert_int_eq(keyring_sign(ring, key, scheme, content, size, signature, &signature_size), 0);
    keyring_free(ring);
    return signature_size;
}

/* A CSR for the Ed25519 key whose CertificationRequestInfo is 64 bytes of randoms and the X25519
 * parameters: they are the value of an attribute that nobody knows. */
START_TEST(a_csr_hidden_in_the_randoms_is_refused)
{
    static const uint8_t head[] = {0x30, 98, 2, 1, 0, 0x30, 0}; /* version, empty subject */
    static const uint8_t attribute[] = {0xa0, 47, 0x30, 45, 6, 3, 0x2a, 3, 4, 0x31, 38, 4, 36};
    uint8_t info[100], csr[256], signature[KEYOPS_SIGNATURE_MAX], *next = info;
    unsigned char *spki = NULL;
    const unsigned char *end = csr;
    struct keyops_sign_tls12_server request;
    int spki_size = i2d_PUBKEY(keeper_keys[KEY_ED25519], &spki);
    size_t signature_size;
    X509_REQ *parsed;

    memset(info, 0x77, sizeof(info));
    ck_assert_int_eq(spki_size, 44);
    put(&next, head, sizeof(head));
    put(&next, spki, 44);
    put(&next, attribute, sizeof(attribute));
    ck_assert_int_eq(next - info, 64);
    put(&next, (const uint8_t[]){3, 0, 0x1d, 32}, 4);
    OPENSSL_free(spki);

    /* It would have been a CSR that any CA accepts as proof of possession ... */
    signature_size = sign_unchecked(KEY_ED25519, 0x0807, info, sizeof(info), signature);
    ck_assert_uint_eq(signature_size, 64);
    next = csr;
    put(&next, (const uint8_t[]){0x30, 0x81, 174}, 3);
    put(&next, info, sizeof(info));
    put(&next, (const uint8_t[]){0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 65, 0}, 10);
    put(&next, signature, 64);
    parsed = d2i_X509_REQ(NULL, &end, next - csr);
    ck_assert_ptr_nonnull(parsed);
    ck_assert_int_eq(X509_REQ_verify(parsed, keeper_keys[KEY_ED25519]), 1);
    X509_REQ_free(parsed);

    /* ... but the keeper does not sign it. */
    request = request_of(KEY_ED25519, 0x0807, info, sizeof(info));
    ck_assert_int_eq(ask_tls12(&request), KEYOPS_BAD_SHAPE);
    check_that_it_serves();
    request.client_random[1]--; /* spans the rest no more: meaningless as DER */
    ck_assert_int_eq(ask_tls12(&request), 0);
}
END_TEST

/* One DER element around content, which may lie where the element goes; returns its end. */
static uint8_t *
wrap(uint8_t *out, uint8_t tag, const uint8_t *content, size_t size)
{
    size_t head = size >= 256 ? 4 : size >= 128 ? 3 : 2;

    memmove(out + head, content, size);
    out[0] = tag;
    out[1] = (uint8_t)size;
    if (head > 2) {
        out[1] = (uint8_t)(0x80 + head - 2);
        out[2] = (uint8_t)(size >> (head == 4 ? 8 : 0));
    }
    if (head == 4)
        out[3] = (uint8_t)size;
    return out + head + size;
}

/* The CMS message around signed attributes: a SignedData with one signer, as S/MIME sends it. */
static size_t
cms_around(uint8_t *out, const uint8_t *attributes, size_t attributes_size,
           const uint8_t *signature, size_t signature_size, const char *text)
{
    static const uint8_t sha256[] = {0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0};
    static const uint8_t rsa[] = {0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1, 5, 0};
    static const uint8_t signed_data[] = {6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 7, 2};
    static uint8_t signer[4096], body[8192], scratch[8192];
    X509 *certificate = keeper_certificates[KEY_RSA];
    unsigned char *issuer = NULL, *serial = NULL, *leaf = NULL;
    int issuer_size = i2d_X509_NAME(X509_get_issuer_name(certificate), &issuer);
    int serial_size = i2d_ASN1_INTEGER(X509_get_serialNumber(certificate), &serial);
    int leaf_size = i2d_X509(certificate, &leaf);
    uint8_t *next = scratch, *end;

    /* SignerInfo */
    put(&next, issuer, (size_t)issuer_size);
    put(&next, serial, (size_t)serial_size);
    end = signer;
    put(&end, (const uint8_t[]){2, 1, 1}, 3);
    end = wrap(end, 0x30, scratch, (size_t)(next - scratch));
    put(&end, sha256, sizeof(sha256));
    put(&end, attributes, attributes_size);
    signer[end - signer - (ptrdiff_t)attributes_size] = 0xa0; /* [0] IMPLICIT SET */
    put(&end, rsa, sizeof(rsa));
    end = wrap(end, 4, signature, signature_size);
    /* SignedData */
    next = body;
    put(&next, (const uint8_t[]){2, 1, 1}, 3);
    next = wrap(next, 0x31, sha256, sizeof(sha256));
    {
        uint8_t content[256], *last = content;

        put(&last, (const uint8_t[]){6, 9}, 2);
        put(&last, oid_data, sizeof(oid_data));
        last = wrap(last, 4, (const uint8_t *)text, strlen(text));
        last = wrap(content + 11, 0xa0, content + 11, (size_t)(last - content - 11));
        next = wrap(next, 0x30, content, (size_t)(last - content));
    }
    next = wrap(next, 0xa0, leaf, (size_t)leaf_size);
    {
        uint8_t *last = wrap(scratch, 0x30, signer, (size_t)(end - signer));

        next = wrap(next, 0x31, scratch, (size_t)(last - scratch));
    }
    /* ContentInfo */
    end = wrap(scratch, 0x30, body, (size_t)(next - body));
    next = body;
    put(&next, signed_data, sizeof(signed_data));
    next = wrap(next, 0xa0, scratch, (size_t)(end - scratch));
    end = wrap(out, 0x30, body, (size_t)(next - body));
    OPENSSL_free(issuer);
    OPENSSL_free(serial);
    OPENSSL_free(leaf);
    return (size_t)(end - out);
}

/* An RSA public key is longer than the longest shape, so no CSR of an RSA key fits (the red team
 * needed DHE parameters, which are none of our shapes: see above). But signed CMS attributes hold
 * no key: a signed mail of the attacker's text fits, its digest in the P-521 point. */
START_TEST(a_signed_mail_hidden_in_the_randoms_is_refused)
{
    static const char text[] = "I owe you all my domains.";
    uint8_t attributes[201], mail[4096], signature[KEYOPS_SIGNATURE_MAX], digest[32];
    uint8_t *next = attributes;
    const unsigned char *end = mail;
    struct keyops_sign_tls12_server request;
    size_t signature_size, mail_size;
    unsigned digest_size;
    CMS_ContentInfo *parsed;

    memset(attributes, 0x11, sizeof(attributes));
    ck_assert_int_eq(EVP_Digest(text, strlen(text), digest, &digest_size, EVP_sha256(), NULL), 1);
    put(&next, (const uint8_t[]){0x31, 0x81, 198}, 3);
    put(&next, (const uint8_t[]){0x30, 24, 6, 9}, 4);
    put(&next, oid_type, sizeof(oid_type));
    put(&next, (const uint8_t[]){0x31, 11, 6, 9}, 4);
    put(&next, oid_data, sizeof(oid_data));
    /* Filler up to the point's first byte. */
    put(&next, (const uint8_t[]){0x30, 38, 6, 3, 0x2a, 3, 4, 0x31, 31, 4, 29}, 11);
    next = attributes + 64;
    put(&next, (const uint8_t[]){3, 0, 0x19, 133, 4}, 5);
    put(&next, (const uint8_t[]){0x30, 47, 6, 9}, 4);
    put(&next, oid_digest, sizeof(oid_digest));
    put(&next, (const uint8_t[]){0x31, 34, 4, 32}, 4);
    put(&next, digest, sizeof(digest));
    put(&next, (const uint8_t[]){0x30, 81, 6, 3, 0x2a, 3, 5, 0x31, 74, 4, 72}, 11);
    ck_assert_int_eq(next - attributes + 72, sizeof(attributes));

    signature_size = sign_unchecked(KEY_RSA, 0x0401, attributes, sizeof(attributes), signature);
    mail_size = cms_around(mail, attributes, sizeof(attributes), signature, signature_size, text);
    parsed = d2i_CMS_ContentInfo(NULL, &end, (long)mail_size);
    ck_assert_ptr_nonnull(parsed);
    ck_assert_int_eq(CMS_verify(parsed, NULL, NULL, NULL, NULL, CMS_NO_SIGNER_CERT_VERIFY), 1);
    CMS_ContentInfo_free(parsed);

    request = request_of(KEY_RSA, 0x0401, attributes, sizeof(attributes));
    ck_assert_int_eq(ask_tls12(&request), KEYOPS_BAD_SHAPE);
    request.scheme = 0x0804;
    ck_assert_int_eq(ask_tls12(&request), KEYOPS_BAD_SHAPE);
    check_that_it_serves();
}
END_TEST

/* ---- bad form: the end ---- */

static const uint8_t zeros[CHANNEL_BODY_MAX + 16];

static size_t
good_body(uint8_t *body, size_t size)
{
    struct keyops_sign_tls13 request = honest_tls13(KEY_P256, 0x0403);

    return keyops_put_sign_tls13(&request, body, size);
}

static void
send_type_0(void)
{
    ck_assert_int_eq(channel_send(run.peer, 0, zeros, 44, NULL, 0), CHANNEL_OK);
}

static void
send_answer(void)
{
    ck_assert_int_eq(channel_send(run.peer, KEYOPS_ANSWER, zeros, 44, NULL, 0), CHANNEL_OK);
}

static void
send_hello(void)
{
    ck_assert_int_eq(channel_send(run.peer, KEYOPS_HELLO, zeros, 44, NULL, 0), CHANNEL_OK);
}

static void
send_unknown_type(void)
{
    ck_assert_int_eq(channel_send(run.peer, 7, zeros, 44, NULL, 0), CHANNEL_OK);
}

static void
send_control_message(void)
{
    ck_assert_int_eq(channel_send(run.peer, CONTROL_PING, zeros, 4, NULL, 0), CHANNEL_OK);
}

static void
send_one_byte(void)
{
    ck_assert_int_eq(send(run.peer, zeros, 1, 0), 1);
}

static void
send_no_body(void)
{
    ck_assert_int_eq(channel_send(run.peer, KEYOPS_SIGN_TLS13, NULL, 0, NULL, 0), CHANNEL_OK);
}

static void
send_truncated(void)
{
    uint8_t body[256];
    size_t size = good_body(body, sizeof(body));

    body[11]++; /* the hash is said to be longer than the body */
    ck_assert_int_eq(channel_send(run.peer, KEYOPS_SIGN_TLS13, body, size, NULL, 0), CHANNEL_OK);
}

static void
send_trailing(void)
{
    uint8_t body[256] = {0};
    size_t size = good_body(body, sizeof(body));

    ck_assert_int_eq(channel_send(run.peer, KEYOPS_SIGN_TLS13, body, size + 1, NULL, 0),
                     CHANNEL_OK);
}

static void
send_no_hash(void)
{
    struct keyops_sign_tls13 request = honest_tls13(KEY_P256, 0x0403);
    uint8_t body[256];

    request.hash_size = 0;
    ck_assert_int_eq(channel_send(run.peer, KEYOPS_SIGN_TLS13, body,
                                  keyops_put_sign_tls13(&request, body, sizeof(body)), NULL, 0),
                     CHANNEL_OK);
}

static void
send_long_parameters(void)
{
    /* DHE parameters of ffdhe3072: 772 bytes. */
    ck_assert_int_eq(channel_send(run.peer, KEYOPS_SIGN_TLS12_SERVER, zeros, 76 + 772, NULL, 0),
                     CHANNEL_OK);
}

static void
send_very_long(void)
{
    ck_assert_int_eq(channel_send(run.peer, KEYOPS_OPEN_TICKET, zeros, CHANNEL_BODY_MAX, NULL, 0),
                     CHANNEL_OK);
}

static void
send_too_long(void)
{
    uint8_t *packet = calloc(1, 100000);

    packet[1] = KEYOPS_OPEN_TICKET;
    ck_assert_int_eq(send(run.peer, packet, 100000, 0), 100000);
    free(packet);
}

static void
send_length_bomb(void)
{
    uint8_t body[4 + KEYOPS_WISH_SIZE + 1 + 4 + KEYOPS_TICKET_EXTRA] = {0};

    memset(body + 4 + KEYOPS_WISH_SIZE + 1, 0xff, 4); /* 4 GiB of ticket */
    ck_assert_int_eq(channel_send(run.peer, KEYOPS_OPEN_TICKET, body, sizeof(body), NULL, 0),
                     CHANNEL_OK);
}

static void
send_greed(void)
{
    struct keyops_ticket_keys request = {.number = 5, .wish = {.keys = KEYOPS_KEYS_MAX + 1}};
    uint8_t body[64];

    ck_assert_int_eq(channel_send(run.peer, KEYOPS_TICKET_KEYS, body,
                                  keyops_put_ticket_keys(&request, body, sizeof(body)), NULL, 0),
                     CHANNEL_OK);
}

static void
send_greed_with_signature(void)
{
    struct keyops_sign_tls13 request = honest_tls13(KEY_P256, 0x0403);
    uint8_t body[256];

    request.wish.keys = 255;
    ck_assert_int_eq(channel_send(run.peer, KEYOPS_SIGN_TLS13, body,
                                  keyops_put_sign_tls13(&request, body, sizeof(body)), NULL, 0),
                     CHANNEL_OK);
}

static void
send_long_id(void)
{
    uint8_t body[4 + KEYOPS_WISH_SIZE + 1 + KEYOPS_ID_MAX + 1 + 4 + KEYOPS_TICKET_EXTRA] = {0};

    body[4 + KEYOPS_WISH_SIZE] = KEYOPS_ID_MAX + 1;
    body[sizeof(body) - KEYOPS_TICKET_EXTRA - 1] = KEYOPS_TICKET_EXTRA;
    ck_assert_int_eq(channel_send(run.peer, KEYOPS_OPEN_TICKET, body, sizeof(body), NULL, 0),
                     CHANNEL_OK);
}

static void
send_fd(void)
{
    uint8_t body[256];
    size_t size = good_body(body, sizeof(body));
    int fd = 0;

    ck_assert_int_eq(channel_send(run.peer, KEYOPS_SIGN_TLS13, body, size, &fd, 1), CHANNEL_OK);
}

static void
send_fds_only(void)
{
    int fds[4] = {0, 0, 0, 0};

    ck_assert_int_eq(channel_send(run.peer, KEYOPS_OPEN_TICKET, NULL, 0, fds, 4), CHANNEL_OK);
}

static void
send_several(size_t count, uint8_t refused, size_t cut)
{
    static uint8_t body[KEYOPS_BATCH_SIZE];
    struct keyops_open_ticket request = {
        .number = 5, .data = zeros, .data_size = KEYOPS_TICKET_EXTRA};
    size_t size = put_openings(body, &request, count, refused) - cut;

    ck_assert_int_eq(channel_send(run.peer, KEYOPS_OPEN_TICKETS, body, size, NULL, 0), CHANNEL_OK);
}

static void
send_too_many(void)
{
    send_several(KEYOPS_BATCH_MAX + 1, 0, 0);
}

static void
send_refusal_as_request(void)
{
    send_several(1, 1, 0);
}

static void
send_several_cut(void)
{
    send_several(2, 0, 1);
}

/* A request that is no OPEN_TICKET among them. */
static void
send_signature_among_several(void)
{
    uint8_t body[512], one[256];
    struct keyops_item item = {.body = one, .size = good_body(one, sizeof(one))};
    size_t size = 0;

    ck_assert(keyops_add_item(&item, body, sizeof(body), &size));
    ck_assert_int_eq(channel_send(run.peer, KEYOPS_OPEN_TICKETS, body, size, NULL, 0), CHANNEL_OK);
}

static void
send_more_than_fits(void)
{
    static uint8_t body[KEYOPS_BATCH_SIZE + 1];

    ck_assert_int_eq(
        channel_send(run.peer, KEYOPS_OPEN_TICKETS, body, KEYOPS_BATCH_SIZE + 1, NULL, 0),
        CHANNEL_OK);
}

START_TEST(bad_form_ends_the_keeper)
{
    static const struct {
        const char *name;
        void (*attack)(void);
    } attacks[] = {
        {"type 0", send_type_0},
        {"an answer", send_answer},
        {"a hello", send_hello},
        {"a type that does not exist", send_unknown_type},
        {"a supervisor's message", send_control_message},
        {"one byte", send_one_byte},
        {"no body", send_no_body},
        {"truncated", send_truncated},
        {"trailing byte", send_trailing},
        {"no hash", send_no_hash},
        {"DHE parameters in full", send_long_parameters},
        {"the longest packet", send_very_long},
        {"longer than any packet", send_too_long},
        {"a length of 4 GiB", send_length_bomb},
        {"more keys than there are", send_greed},
        {"the same, with a signature", send_greed_with_signature},
        {"a long session id", send_long_id},
        {"more tickets than may come together", send_too_many},
        {"a refusal among tickets", send_refusal_as_request},
        {"tickets cut off", send_several_cut},
        {"a signature among tickets", send_signature_among_several},
        {"more tickets than fit", send_more_than_fits},
        {"an fd", send_fd},
        {"fds only", send_fds_only},
    };

    for (size_t i = 0; i < COUNT(attacks); i++) {
        int status;

        if (i > 0)
            set_up();
        check_that_it_serves();
        attacks[i].attack();
        ck_assert_msg(receive() == CHANNEL_CLOSED, "%s", attacks[i].name);
        status = keeper_wait(&run);
        ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 1, "%s: status %x",
                      attacks[i].name, (unsigned)status);
        close(run.peer);
        close(run.control);
    }
    set_up(); /* for tear_down */
}
END_TEST

START_TEST(random_packets_give_nothing_away)
{
    unsigned ended = 0;

    srandom(20240601);
    for (int i = 0; i < 200; i++) {
        uint8_t packet[600];
        size_t size = (size_t)(random() % (long)sizeof(packet)) + 2;

        for (size_t j = 0; j < size && j < sizeof(packet); j++)
            packet[j] = (uint8_t)random();
        packet[0] = 0;
        packet[1] = (uint8_t)(random() % 9);
        if (size > sizeof(packet))
            size = sizeof(packet);
        if (send(run.peer, packet, size, MSG_NOSIGNAL) != (ssize_t)size ||
            receive() != CHANNEL_OK) {
            int status = keeper_wait(&run);

            ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 1);
            close(run.peer);
            close(run.control);
            set_up();
            ended++;
            continue;
        }
        ck_assert_uint_eq(message.type, KEYOPS_REFUSAL);
    }
    ck_assert_uint_gt(ended, 0);
    ck_assert_uint_eq(keeper_totals(&run).signatures, 0);
}
END_TEST

/* ---- time ---- */

START_TEST(pipelined_requests_are_answered_in_order)
{
    uint8_t body[256];

    for (uint32_t i = 0; i < 8; i++) {
        struct keyops_sign_tls13 request = honest_tls13(i % 2 == 0 ? KEY_P256 : 77, 0x0403);

        request.number = 1000 + i;
        ck_assert_int_eq(channel_send_wait(run.peer, KEYOPS_SIGN_TLS13, body,
                                           keyops_put_sign_tls13(&request, body, sizeof(body)),
                                           NULL, 0, 5000),
                         CHANNEL_OK);
    }
    for (uint32_t i = 0; i < 8; i++) {
        struct keyops_answer answer;
        struct keyops_refused refused;

        ck_assert_int_eq(receive(), CHANNEL_OK);
        if (i % 2 == 0)
            ck_assert(message.type == KEYOPS_ANSWER &&
                      keyops_get_answer(&answer, message.body, message.size) &&
                      answer.number == 1000 + i);
        else
            ck_assert(message.type == KEYOPS_REFUSAL &&
                      keyops_get_refused(&refused, message.body, message.size) &&
                      refused.number == 1000 + i && refused.reason == KEYOPS_NO_SUCH_KEY);
    }
}
END_TEST

START_TEST(who_does_not_read_loses_his_keeper)
{
    struct keyops_sign_tls13 request = honest_tls13(99, 0x0403);
    uint8_t body[256];
    size_t size = keyops_put_sign_tls13(&request, body, sizeof(body));
    int status;

    while (channel_send_wait(run.peer, KEYOPS_SIGN_TLS13, body, size, NULL, 0, 10000) == CHANNEL_OK)
        continue;
    status = keeper_wait(&run);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    close(run.peer);
    close(run.control);
    set_up();
}
END_TEST

START_TEST(a_second_generation_is_a_bug)
{
    struct control_generation generation = {.generation = KEEPER_GENERATION};
    int fd = keeper_secret_fd(), status;
    uint8_t body[16];

    ck_assert_int_eq(channel_send(run.control, CONTROL_SECRET, body,
                                  control_put_generation(&generation, body, sizeof(body)), &fd, 1),
                     CHANNEL_OK);
    close(fd);
    status = keeper_wait(&run);
    ck_assert(!WIFEXITED(status) || WEXITSTATUS(status) != 0);
    close(run.peer);
    close(run.control);
    set_up();
}
END_TEST

int
main(int argc, char **argv)
{
    Suite *suite = suite_create("keeper");
    TCase *tcase = tcase_create("keeper");
    SRunner *runner;
    int failed;

    keeper_fixture_main(argc, argv);
    keeper_make_keys();
    tcase_set_timeout(tcase, 120);
    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_add_test(tcase, what_is_not_allowed_is_refused_and_it_serves_on);
    tcase_add_test(tcase, tls12_shapes_that_are_none_are_refused);
    tcase_add_test(tcase, keys_come_as_wished_and_with_answers_only);
    tcase_add_test(tcase, tickets_of_others_are_refused);
    tcase_add_test(tcase, each_of_several_tickets_is_judged_alone);
    tcase_add_test(tcase, several_tickets_count_as_several);
    tcase_add_test(tcase, the_key_of_a_ticket_is_not_to_be_had);
    tcase_add_test(tcase, a_csr_hidden_in_the_randoms_is_refused);
    tcase_add_test(tcase, a_signed_mail_hidden_in_the_randoms_is_refused);
    tcase_add_test(tcase, bad_form_ends_the_keeper);
    tcase_add_test(tcase, random_packets_give_nothing_away);
    tcase_add_test(tcase, pipelined_requests_are_answered_in_order);
    tcase_add_test(tcase, who_does_not_read_loses_his_keeper);
    tcase_add_test(tcase, a_second_generation_is_a_bug);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
