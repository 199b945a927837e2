/* test_keyschedule.c: our key schedule gives what libcrypto's gives, for whatever libssl may ask;
 * and it is the one that libssl gets. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/provider.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>

#include "agent/keyschedule.h"
#include "agent/tls12prf.h"
#include "protocol/hkdf.h"

static OSSL_LIB_CTX *theirs; /* a libcrypto that does not know ours */

static void
set_up(void)
{
    struct error error = {""};

    ck_assert_msg(keyschedule_load(&error) == 0, "%s", error.text);
    theirs = OSSL_LIB_CTX_new();
    ck_assert_ptr_nonnull(theirs);
}

static void
tear_down(void)
{
    OSSL_LIB_CTX_free(theirs);
}

struct question {
    int mode;
    const char *digest;
    const char *label;
    uint8_t key[64], salt[48], context[64];
    size_t key_size, salt_size, context_size, out_size;
    bool has_key, has_salt, has_context;
};

static int
ask(OSSL_LIB_CTX *context, struct question *question, uint8_t out[64])
{
    EVP_KDF *kdf = EVP_KDF_fetch(context, "TLS13-KDF", NULL);
    EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);
    OSSL_PARAM params[8], *p = params;
    char prefix[] = "tls13 ";
    int result;

    *p++ = OSSL_PARAM_construct_int("mode", &question->mode);
    *p++ = OSSL_PARAM_construct_utf8_string("digest", (char *)(uintptr_t)question->digest, 0);
    if (question->has_key)
        *p++ = OSSL_PARAM_construct_octet_string("key", question->key, question->key_size);
    if (question->has_salt)
        *p++ = OSSL_PARAM_construct_octet_string("salt", question->salt, question->salt_size);
    *p++ = OSSL_PARAM_construct_octet_string("prefix", prefix, 6);
    *p++ = OSSL_PARAM_construct_octet_string("label", (void *)(uintptr_t)question->label,
                                             strlen(question->label));
    if (question->has_context)
        *p++ = OSSL_PARAM_construct_octet_string("data", question->context, question->context_size);
    *p = OSSL_PARAM_construct_end();
    memset(out, 0, 64);
    result = EVP_KDF_derive(ctx, out, question->out_size, params);
    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
    return result;
}

static void
compare(struct question *question)
{
    uint8_t mine[64], reference[64];

    ck_assert_int_eq(ask(theirs, question, reference), 1);
    ck_assert_int_eq(ask(NULL, question, mine), 1);
    ck_assert_mem_eq(mine, reference, sizeof(mine));
}

static const char *const digests[] = {"SHA2-256", "SHA2-384"};
static const size_t sizes[] = {32, 48};

START_TEST(expansions_are_libcryptos)
{
    static const char *const labels[] = {
        "key",          "iv",           "finished",    "c hs traffic", "s hs traffic",
        "c ap traffic", "s ap traffic", "exp master",  "res master",   "resumption",
        "derived",      "res binder",   "traffic upd", "c e traffic"};
    struct question question = {.mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY,
                                .digest = digests[_i],
                                .key_size = sizes[_i],
                                .has_key = true};

    for (size_t round = 0; round < 400; round++) {
        RAND_bytes(question.key, sizeof(question.key));
        RAND_bytes(question.context, sizeof(question.context));
        question.label = labels[round % (sizeof(labels) / sizeof(labels[0]))];
        question.has_context = round % 3 != 0;
        question.context_size = round % (sizeof(question.context) + 1);
        question.out_size = 1 + round % sizes[_i];
        compare(&question);
    }
}
END_TEST

/* With and without what came before, with inputs of all sizes that a group has. */
START_TEST(extractions_are_libcryptos)
{
    struct question question = {.mode = EVP_KDF_HKDF_MODE_EXTRACT_ONLY,
                                .digest = digests[_i],
                                .label = "derived",
                                .salt_size = sizes[_i],
                                .out_size = sizes[_i]};

    for (size_t round = 0; round < 400; round++) {
        RAND_bytes(question.key, sizeof(question.key));
        RAND_bytes(question.salt, sizeof(question.salt));
        question.has_key = round % 2 != 0;
        question.has_salt = round % 3 != 0;
        question.key_size = 1 + round % sizeof(question.key);
        compare(&question);
    }
}
END_TEST

/* HMAC with keys that are longer than a block too. */
START_TEST(hmacs_are_libcryptos)
{
    uint8_t key[300], message[300], mine[HKDF_HASH_MAX], reference[HKDF_HASH_MAX];
    size_t size;

    for (size_t round = 0; round < sizeof(key); round++) {
        RAND_bytes(key, sizeof(key));
        RAND_bytes(message, sizeof(message));
        ck_assert(hkdf_hmac(sizes[_i], key, round, message, 300 - round, mine));
        ck_assert_ptr_nonnull(EVP_Q_mac(theirs, "HMAC", NULL, digests[_i], NULL, key, round,
                                        message, 300 - round, reference, sizeof(reference), &size));
        ck_assert_uint_eq(size, sizes[_i]);
        ck_assert_mem_eq(mine, reference, size);
    }
}
END_TEST

static EVP_MAC_CTX *
new_mac(OSSL_LIB_CTX *context)
{
    EVP_MAC *mac = EVP_MAC_fetch(context, "HMAC", NULL);
    EVP_MAC_CTX *ctx = EVP_MAC_CTX_new(mac);

    EVP_MAC_free(mac);
    return ctx;
}

/* In pieces, with what is used between them: a copy in the middle, and the same key again. */
static void
mac_in_pieces(OSSL_LIB_CTX *context, const char *digest, uint8_t *key, size_t key_size,
              const uint8_t message[200], uint8_t out[3][64])
{
    EVP_MAC_CTX *mac = new_mac(context), *copy;
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_octet_string("key", key, key_size),
        OSSL_PARAM_construct_utf8_string("digest", (char *)(uintptr_t)digest, 0),
        OSSL_PARAM_construct_end(),
    };
    size_t sizes_out[3];

    memset(out, 0, 3 * (size_t)64);
    ck_assert_int_eq(EVP_MAC_CTX_set_params(mac, params), 1); /* as in a ticket's callback */
    ck_assert_int_eq(EVP_MAC_update(mac, message, 100), 1);
    copy = EVP_MAC_CTX_dup(mac);
    ck_assert_ptr_nonnull(copy);
    ck_assert_int_eq(EVP_MAC_update(mac, message + 100, 100), 1);
    ck_assert_int_eq(EVP_MAC_update(copy, message + 50, 70), 1);
    ck_assert_int_eq(EVP_MAC_final(mac, out[0], &sizes_out[0], 64), 1);
    ck_assert_int_eq(EVP_MAC_final(copy, out[1], &sizes_out[1], 64), 1);
    EVP_MAC_CTX_free(copy);
    ck_assert_int_eq(EVP_MAC_init(mac, NULL, 0, NULL), 1);
    ck_assert_int_eq(EVP_MAC_update(mac, message, 7), 1);
    ck_assert_int_eq(EVP_MAC_final(mac, out[2], &sizes_out[2], 64), 1);
    for (int i = 0; i < 3; i++)
        ck_assert_uint_eq(sizes_out[i], strcmp(digest, "SHA2-256") == 0 ? 32 : 48);
    EVP_MAC_CTX_free(mac);
}

START_TEST(what_libssl_gets_as_hmac_is_libcryptos)
{
    uint8_t key[200], message[200], mine[3][64], reference[3][64];

    for (size_t round = 0; round < sizeof(key); round++) {
        RAND_bytes(key, sizeof(key));
        RAND_bytes(message, sizeof(message));
        mac_in_pieces(theirs, digests[_i], key, round, message, reference);
        mac_in_pieces(NULL, digests[_i], key, round, message, mine);
        ck_assert_mem_eq(mine, reference, sizeof(mine));
    }
}
END_TEST

/* TLS 1.2's function (RFC 5246 section 5): secrets longer than a block too, seeds in five parts of
 * which some are empty, as libssl gives them, and values that end within a block. */
static int
ask_prf(OSSL_LIB_CTX *context, const char *digest, const uint8_t *secret, size_t secret_size,
        const uint8_t seed[5 * 20], const size_t parts[5], uint8_t *out, size_t size)
{
    EVP_KDF *kdf = EVP_KDF_fetch(context, "TLS1-PRF", NULL);
    EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);
    OSSL_PARAM params[8], *p = params;
    int result;

    *p++ = OSSL_PARAM_construct_utf8_string("digest", (char *)(uintptr_t)digest, 0);
    *p++ = OSSL_PARAM_construct_octet_string("secret", (void *)(uintptr_t)secret, secret_size);
    for (size_t i = 0; i < 5; i++)
        *p++ = OSSL_PARAM_construct_octet_string(
            "seed", parts[i] > 0 ? (void *)(uintptr_t)(seed + 20 * i) : NULL, parts[i]);
    *p = OSSL_PARAM_construct_end();
    result = EVP_KDF_derive(ctx, out, size, params);
    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
    return result;
}

START_TEST(the_prf_is_libcryptos)
{
    static const char *const names[] = {"SHA256", "SHA384"};
    uint8_t secret[200], seed[5 * 20], mine[200], reference[200];

    for (size_t round = 1; round <= 200; round++) {
        size_t parts[5] = {1 + round % 20, round % 7, round % 3, 0, round % 21};

        RAND_bytes(secret, sizeof(secret));
        RAND_bytes(seed, sizeof(seed));
        memset(mine, 0, sizeof(mine));
        memset(reference, 0, sizeof(reference));
        ck_assert_int_eq(ask_prf(theirs, names[_i], secret, round, seed, parts, reference, round),
                         1);
        ck_assert_int_eq(ask_prf(NULL, names[_i], secret, round, seed, parts, mine, round), 1);
        ck_assert_mem_eq(mine, reference, sizeof(mine));
    }
}
END_TEST

/* The vector for P_SHA256 that the TLS working group's list agreed upon. */
START_TEST(the_prf_has_its_known_value)
{
    static const uint8_t secret[] = {0x9b, 0xbe, 0x43, 0x6b, 0xa9, 0x40, 0xf0, 0x17,
                                     0xb1, 0x76, 0x52, 0x84, 0x9a, 0x71, 0xdb, 0x35};
    static const uint8_t seed[] = {0xa0, 0xba, 0x9f, 0x93, 0x6c, 0xda, 0x31, 0x18,
                                   0x27, 0xa6, 0xf7, 0x96, 0xff, 0xd5, 0x19, 0x8c};
    static const uint8_t known[] = {
        0xe3, 0xf2, 0x29, 0xba, 0x72, 0x7b, 0xe1, 0x7b, 0x8d, 0x12, 0x26, 0x20, 0x55, 0x7c, 0xd4,
        0x53, 0xc2, 0xaa, 0xb2, 0x1d, 0x07, 0xc3, 0xd4, 0x95, 0x32, 0x9b, 0x52, 0xd4, 0xe6, 0x1e,
        0xdb, 0x5a, 0x6b, 0x30, 0x17, 0x91, 0xe9, 0x0d, 0x35, 0xc9, 0xc9, 0xa4, 0x6b, 0x4e, 0x14,
        0xba, 0xf9, 0xaf, 0x0f, 0xa0, 0x22, 0xf7, 0x07, 0x7d, 0xef, 0x17, 0xab, 0xfd, 0x37, 0x97,
        0xc0, 0x56, 0x4b, 0xab, 0x4f, 0xbc, 0x91, 0x66, 0x6e, 0x9d, 0xef, 0x9b, 0x97, 0xfc, 0xe3,
        0x4f, 0x79, 0x67, 0x89, 0xba, 0xa4, 0x80, 0x82, 0xd1, 0x22, 0xee, 0x42, 0xc5, 0xa7, 0x2e,
        0x5a, 0x51, 0x10, 0xff, 0xf7, 0x01, 0x87, 0x34, 0x7b, 0x66};
    const struct tls12prf_part parts[] = {{(const uint8_t *)"test label", 10},
                                          {seed, sizeof(seed)}};
    uint8_t out[sizeof(known)];

    ck_assert(tls12prf(32, secret, sizeof(secret), parts, 2, out, sizeof(out)));
    ck_assert_mem_eq(out, known, sizeof(known));
    ck_assert(!tls12prf(20, secret, sizeof(secret), parts, 2, out, sizeof(out)));
}
END_TEST

START_TEST(what_tls12_does_not_ask_is_refused)
{
    static const size_t some[5] = {1, 2};
    uint8_t bytes[100] = {1}, out[32];

    ck_assert_int_eq(ask_prf(NULL, "SHA256", bytes, 48, bytes, some, out, 32), 1);
    ck_assert_int_ne(ask_prf(NULL, "MD5-SHA1", bytes, 48, bytes, some, out, 32), 1);
    ck_assert_int_ne(ask_prf(NULL, "SHA256", NULL, 0, bytes, some, out, 32), 1);
    ck_assert_int_ne(ask_prf(NULL, "SHA256", bytes, 48, bytes, some, out, 0), 1);
}
END_TEST

START_TEST(misuse_of_hmac_is_refused)
{
    EVP_MAC_CTX *mac = new_mac(NULL);
    char md5[] = "MD5", sha[] = "SHA2-256";
    uint8_t key[32] = {1}, out[64];
    size_t size;
    OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string("digest", md5, 0),
                           OSSL_PARAM_construct_end()};

    ck_assert_int_eq(EVP_MAC_init(mac, key, sizeof(key), NULL), 0); /* no digest */
    ck_assert_int_eq(EVP_MAC_update(mac, key, sizeof(key)), 0);
    ck_assert_int_eq(EVP_MAC_CTX_set_params(mac, params), 0);
    params[0] = OSSL_PARAM_construct_utf8_string("digest", sha, 0);
    ck_assert_int_eq(EVP_MAC_init(mac, NULL, 0, params), 0); /* no key */
    ck_assert_int_eq(EVP_MAC_init(mac, key, sizeof(key), params), 1);
    ck_assert_int_eq(EVP_MAC_final(mac, out, &size, 31), 0);
    EVP_MAC_CTX_free(mac);
    /* The next one, which may be the same memory, knows nothing of it. */
    mac = new_mac(NULL);
    ck_assert_int_eq(EVP_MAC_init(mac, NULL, 0, NULL), 0);
    EVP_MAC_CTX_free(mac);
}
END_TEST

START_TEST(what_tls_does_not_ask_is_refused)
{
    struct question good = {.mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY,
                            .digest = "SHA2-256",
                            .label = "key",
                            .key_size = 32,
                            .has_key = true,
                            .out_size = 16};
    struct question bad[] = {good, good, good, good, good, good};
    uint8_t out[64];

    ck_assert_int_eq(ask(NULL, &good, out), 1);
    bad[0].digest = "SHA2-512";
    bad[1].key_size = 31;
    bad[2].has_key = false;
    bad[3].out_size = 33;
    bad[4].mode = EVP_KDF_HKDF_MODE_EXTRACT_AND_EXPAND;
    bad[5].mode = EVP_KDF_HKDF_MODE_EXTRACT_ONLY; /* 16 bytes are not a secret */
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        ck_assert_int_ne(ask(NULL, &bad[i], out), 1);
}
END_TEST

static uint8_t told[3][HKDF_HASH_MAX];
static unsigned tellings[3];

static void
take(enum keyschedule_secret which, const uint8_t *secret, size_t size)
{
    memcpy(told[which], secret, size);
    tellings[which]++;
}

START_TEST(three_secrets_are_told_and_nothing_else)
{
    static const char *const silent[] = {"c hs traffic", "s hs traffic", "exp master",
                                         "c e traffic", "resumption"};
    static const char *const loud[] = {[KEYSCHEDULE_CLIENT] = "c ap traffic",
                                       [KEYSCHEDULE_SERVER] = "s ap traffic",
                                       [KEYSCHEDULE_RESUMPTION] = "res master"};
    struct question question = {.mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY,
                                .digest = "SHA2-256",
                                .key_size = 32,
                                .has_key = true,
                                .out_size = 32};
    uint8_t out[64];

    keyschedule_observe(take);
    for (size_t i = 0; i < sizeof(silent) / sizeof(silent[0]); i++) {
        question.label = silent[i];
        ck_assert_int_eq(ask(NULL, &question, out), 1);
    }
    ck_assert_uint_eq(tellings[0] + tellings[1] + tellings[2], 0);
    for (size_t i = 0; i < sizeof(loud) / sizeof(loud[0]); i++) {
        question.label = loud[i];
        ck_assert_int_eq(ask(NULL, &question, out), 1);
        ck_assert_mem_eq(told[i], out, 32);
        ck_assert_uint_eq(tellings[i], 1);
    }
    ck_assert_uint_eq(tellings[0] + tellings[1] + tellings[2], 3);
    keyschedule_observe(NULL);
}
END_TEST

START_TEST(libssl_gets_ours)
{
    static const char *const names[] = {"TLS13-KDF", "TLS1-PRF"};

    ck_assert_int_eq(keyschedule_load(NULL), 0); /* again: nothing to do */
    for (size_t i = 0; i < 2; i++) {
        EVP_KDF *kdf = EVP_KDF_fetch(NULL, names[i], NULL);

        ck_assert_str_eq(OSSL_PROVIDER_get0_name(EVP_KDF_get0_provider(kdf)), "tlsagent-schedule");
        EVP_KDF_free(kdf);
    }
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("keyschedule");
    TCase *tests = tcase_create("key schedule");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_loop_test(tests, expansions_are_libcryptos, 0, 2);
    tcase_add_loop_test(tests, extractions_are_libcryptos, 0, 2);
    tcase_add_loop_test(tests, hmacs_are_libcryptos, 0, 2);
    tcase_add_loop_test(tests, what_libssl_gets_as_hmac_is_libcryptos, 0, 2);
    tcase_add_loop_test(tests, the_prf_is_libcryptos, 0, 2);
    tcase_add_test(tests, the_prf_has_its_known_value);
    tcase_add_test(tests, what_tls12_does_not_ask_is_refused);
    tcase_add_test(tests, misuse_of_hmac_is_refused);
    tcase_add_test(tests, what_tls_does_not_ask_is_refused);
    tcase_add_test(tests, three_secrets_are_told_and_nothing_else);
    tcase_add_test(tests, libssl_gets_ours);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
