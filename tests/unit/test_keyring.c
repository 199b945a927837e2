/* test_keyring.c: the keys of a generation sign what they may, and the cache stays bounded. */
#include <check.h>

#include <openssl/rsa.h>

#include "agent/keyring.h"
#include "tests/unit/keeper_fixture.h"

/* Whether signature is one of the fixture's key over content in this scheme. */
static bool
verifies(size_t key, const struct shape_scheme *scheme, const uint8_t *content, size_t content_size,
         const uint8_t *signature, size_t size)
{
    static const char *const digests[] = {"SHA2-256", "SHA2-384", "SHA2-512", NULL};
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    EVP_PKEY_CTX *pkey_ctx;
    bool good;

    ck_assert_int_eq(EVP_DigestVerifyInit_ex(ctx, &pkey_ctx, digests[scheme->digest], NULL, NULL,
                                             keeper_keys[key], NULL),
                     1);
    if (scheme->family == SHAPE_RSA_PSS) {
        ck_assert_int_eq(EVP_PKEY_CTX_set_rsa_padding(pkey_ctx, RSA_PKCS1_PSS_PADDING), 1);
        ck_assert_int_eq(EVP_PKEY_CTX_set_rsa_pss_saltlen(pkey_ctx, RSA_PSS_SALTLEN_DIGEST), 1);
    }
    good = EVP_DigestVerify(ctx, signature, size, content, content_size) == 1;
    EVP_MD_CTX_free(ctx);
    return good;
}

static struct keyops_sign_tls12_server
tls12_request(uint32_t key, uint16_t scheme)
{
    struct keyops_sign_tls12_server request = {
        .key = key, .scheme = scheme, .parameters_size = 36, .parameters = {3, 0, 0x1d, 32, 9, 9}};

    memset(request.client_random, 'c', sizeof(request.client_random));
    memset(request.server_random, 's', sizeof(request.server_random));
    return request;
}

START_TEST(every_key_signs_with_every_scheme_of_its_type)
{
    struct error error = {""};
    struct generation_secret *secret = keeper_secret_part(KEY_COUNT);
    struct keyring *ring = keyring_new(secret, KEYRING_CACHE, &error);
    unsigned signatures = 0;

    ck_assert_ptr_nonnull(ring);
    ck_assert_int_eq(keyring_self_test(ring, &error), 0);
    for (uint32_t key = 0; key < KEY_COUNT; key++) {
        uint8_t type = secret->keys[key].type;

        for (const struct shape_scheme *s = shape_scheme_next(NULL, type); s != NULL;
             s = shape_scheme_next(s, type)) {
            struct keyops_sign_tls12_server tls12 = tls12_request(key, s->id);
            struct keyops_sign_tls13 tls13 = {
                .key = key, .scheme = s->id, .role = KEYOPS_ROLE_SERVER, .hash_size = 32};
            uint8_t signature[KEYOPS_SIGNATURE_MAX], content[SHAPE_CONTENT_MAX];
            size_t size, content_size;

            /* Twice: the second time all contexts are there already. */
            for (int again = 0; again < 2; again++, signatures++) {
                ck_assert_int_eq(keyring_sign_tls12_server(ring, &tls12, signature, &size), 0);
                ck_assert_int_eq(shape_tls12_server(&tls12, content, &content_size), 0);
                ck_assert(verifies(key, s, content, content_size, signature, size));
                content[0] ^= 1;
                ck_assert(!verifies(key, s, content, content_size, signature, size));
            }
            if (shape_scheme_find(s->id, type, SHAPE_TLS13) == NULL) {
                ck_assert_int_eq(keyring_sign_tls13(ring, &tls13, signature, &size),
                                 KEYOPS_BAD_SCHEME);
                continue;
            }
            ck_assert_int_eq(keyring_sign_tls13(ring, &tls13, signature, &size), 0);
            ck_assert_int_eq(shape_tls13(&tls13, content, &content_size), 0);
            ck_assert(verifies(key, s, content, content_size, signature, size));
        }
        ck_assert_uint_gt(keyring_uses(ring, key), 0);
    }
    ck_assert_uint_eq(signatures, 2 * (6 + 3 + 3 + 3 + 1));
    keyring_free(ring);
}
END_TEST

START_TEST(what_may_not_be_signed_is_refused)
{
    static const struct {
        const char *name;
        uint32_t key;
        uint16_t scheme;
        int reason;
    } cases[] = {
        {"no such key", KEY_COUNT, 0x0804, KEYOPS_NO_SUCH_KEY},
        {"no such key by far", UINT32_MAX, 0x0804, KEYOPS_NO_SUCH_KEY},
        {"RSA with SHA-1", KEY_RSA, 0x0201, KEYOPS_BAD_SCHEME},
        {"ECDSA with SHA-1", KEY_P256, 0x0203, KEYOPS_BAD_SCHEME},
        {"RSA with MD5", KEY_RSA, 0x0101, KEYOPS_BAD_SCHEME},
        {"RSA with SHA-224", KEY_RSA, 0x0301, KEYOPS_BAD_SCHEME},
        {"RSA as ECDSA", KEY_RSA, 0x0403, KEYOPS_BAD_SCHEME},
        {"ECDSA as RSA", KEY_P256, 0x0804, KEYOPS_BAD_SCHEME},
        {"ECDSA as Ed25519", KEY_P256, 0x0807, KEYOPS_BAD_SCHEME},
        {"Ed25519 as ECDSA", KEY_ED25519, 0x0403, KEYOPS_BAD_SCHEME},
        {"Ed25519 as Ed448", KEY_ED25519, 0x0808, KEYOPS_BAD_SCHEME},
        {"rsa_pss_pss", KEY_RSA, 0x0809, KEYOPS_BAD_SCHEME},
        {"no scheme", KEY_RSA, 0, KEYOPS_BAD_SCHEME},
    };
    struct error error = {""};
    struct keyring *ring = keyring_new(keeper_secret_part(KEY_COUNT), KEYRING_CACHE, &error);
    uint8_t signature[KEYOPS_SIGNATURE_MAX];
    size_t size;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct keyops_sign_tls12_server tls12 = tls12_request(cases[i].key, cases[i].scheme);
        struct keyops_sign_tls13 tls13 = {.key = cases[i].key,
                                          .scheme = cases[i].scheme,
                                          .role = KEYOPS_ROLE_SERVER,
                                          .hash_size = 32};

        ck_assert_msg(keyring_sign_tls12_server(ring, &tls12, signature, &size) == cases[i].reason,
                      "%s", cases[i].name);
        ck_assert_msg(keyring_sign_tls13(ring, &tls13, signature, &size) == cases[i].reason, "%s",
                      cases[i].name);
    }
    ck_assert_uint_eq(keyring_parsed(ring), 0);
    keyring_free(ring);
}
END_TEST

START_TEST(the_cache_is_bounded_and_keeps_what_is_used)
{
    const uint32_t count = 60;
    struct error error = {""};
    struct keyring *ring = keyring_new(keeper_secret_part(count), 8, &error);
    uint8_t signature[KEYOPS_SIGNATURE_MAX], content[SHAPE_CONTENT_MAX];
    const struct shape_scheme *scheme = shape_scheme_find(0x0403, GENERATION_KEY_P256, SHAPE_TLS12);
    size_t size, content_size;

    for (uint32_t round = 0; round < 5 * count; round++) {
        uint32_t key = KEY_COUNT * (round * 7 % (count / KEY_COUNT)) + KEY_P256;
        struct keyops_sign_tls12_server request = tls12_request(key, 0x0403);

        ck_assert_int_eq(keyring_sign_tls12_server(ring, &request, signature, &size), 0);
        ck_assert_int_eq(shape_tls12_server(&request, content, &content_size), 0);
        ck_assert(verifies(KEY_P256, scheme, content, content_size, signature, size));
        ck_assert_uint_le(keyring_parsed(ring), 8);
    }
    ck_assert_uint_eq(keyring_parsed(ring), 8);
    keyring_free(ring);
}
END_TEST

START_TEST(a_key_that_is_not_what_it_should_be_is_an_error)
{
    struct error error = {""};
    struct generation_secret *secret = keeper_secret_part(KEY_COUNT);
    struct keyops_sign_tls12_server request = tls12_request(KEY_P256, 0x0403);
    uint8_t signature[KEYOPS_SIGNATURE_MAX];
    struct keyring *ring;
    size_t size;

    secret->keys[KEY_P256] = secret->keys[KEY_P384];
    secret->keys[KEY_P256].type = GENERATION_KEY_P256; /* a lie */
    secret->keys[KEY_P521].pkcs8_size--;               /* truncated */
    ring = keyring_new(secret, 4, &error);
    ck_assert_int_eq(keyring_sign_tls12_server(ring, &request, signature, &size), KEYOPS_INTERNAL);
    request = tls12_request(KEY_P521, 0x0603);
    ck_assert_int_eq(keyring_sign_tls12_server(ring, &request, signature, &size), KEYOPS_INTERNAL);
    ck_assert_int_eq(keyring_self_test(ring, &error), -1);
    request = tls12_request(KEY_RSA, 0x0804);
    ck_assert_int_eq(keyring_sign_tls12_server(ring, &request, signature, &size), 0);
    keyring_free(ring);
    keyring_free(NULL);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("keyring");
    TCase *tcase = tcase_create("keyring");
    SRunner *runner;
    int failed;

    keeper_make_keys();
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, every_key_signs_with_every_scheme_of_its_type);
    tcase_add_test(tcase, what_may_not_be_signed_is_refused);
    tcase_add_test(tcase, the_cache_is_bounded_and_keeps_what_is_used);
    tcase_add_test(tcase, a_key_that_is_not_what_it_should_be_is_an_error);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
