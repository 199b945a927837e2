/* test_keyshare.c: our X25519 gives what libcrypto's gives, refuses what must be refused, and is
 * the one that libssl gets, in both versions and on both sides. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/provider.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include "agent/keyschedule.h"

#define SIZE 32

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

static EVP_PKEY *
new_pair(OSSL_LIB_CTX *context)
{
    EVP_PKEY *pair = EVP_PKEY_Q_keygen(context, NULL, "X25519");

    ck_assert_ptr_nonnull(pair);
    ck_assert_str_eq(OSSL_PROVIDER_get0_name(EVP_PKEY_get0_provider(pair)),
                     context == NULL ? "tlsagent-schedule" : "default");
    return pair;
}

static void
point_of(EVP_PKEY *pair, uint8_t point[SIZE])
{
    unsigned char *bytes;

    ck_assert_uint_eq(EVP_PKEY_get1_encoded_public_key(pair, &bytes), SIZE);
    memcpy(point, bytes, SIZE);
    OPENSSL_free(bytes);
}

/* As libssl makes the peer's: an empty one, and then the bytes. NULL: they are refused. */
static EVP_PKEY *
new_peer(OSSL_LIB_CTX *context, const uint8_t *point, size_t size)
{
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(context, "X25519", NULL);
    EVP_PKEY *peer = NULL;

    ck_assert_int_eq(EVP_PKEY_paramgen_init(ctx), 1);
    ck_assert_int_eq(EVP_PKEY_CTX_set_group_name(ctx, "X25519"), 1);
    ck_assert_int_eq(EVP_PKEY_paramgen(ctx, &peer), 1);
    EVP_PKEY_CTX_free(ctx);
    if (EVP_PKEY_set1_encoded_public_key(peer, point, size) != 1) {
        EVP_PKEY_free(peer);
        return NULL;
    }
    return peer;
}

static bool
derive(OSSL_LIB_CTX *context, EVP_PKEY *pair, const uint8_t point[SIZE], uint8_t secret[SIZE])
{
    EVP_PKEY *peer = new_peer(context, point, SIZE);
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_pkey(context, pair, NULL);
    size_t size = 0;
    bool done = EVP_PKEY_derive_init(ctx) == 1 && EVP_PKEY_derive_set_peer(ctx, peer) == 1 &&
                EVP_PKEY_derive(ctx, NULL, &size) == 1 && size == SIZE &&
                EVP_PKEY_derive(ctx, secret, &size) == 1 && size == SIZE;

    EVP_PKEY_CTX_free(ctx);
    EVP_PKEY_free(peer);
    return done;
}

/* As libssl does on the server's side. */
static bool
encapsulate(const uint8_t point[SIZE], uint8_t out[SIZE], uint8_t secret[SIZE])
{
    EVP_PKEY *peer = new_peer(NULL, point, SIZE);
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_pkey(NULL, peer, NULL);
    size_t size = 0, secret_size = 0;
    bool done = EVP_PKEY_encapsulate_init(ctx, NULL) == 1 &&
                EVP_PKEY_encapsulate(ctx, NULL, &size, NULL, &secret_size) == 1 && size == SIZE &&
                secret_size == SIZE &&
                EVP_PKEY_encapsulate(ctx, out, &size, secret, &secret_size) == 1;

    EVP_PKEY_CTX_free(ctx);
    EVP_PKEY_free(peer);
    return done;
}

static bool
decapsulate(EVP_PKEY *pair, const uint8_t *in, size_t in_size, uint8_t secret[SIZE])
{
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_pkey(NULL, pair, NULL);
    size_t size = 0;
    bool done = EVP_PKEY_decapsulate_init(ctx, NULL) == 1 &&
                EVP_PKEY_decapsulate(ctx, NULL, &size, in, in_size) == 1 && size == SIZE &&
                EVP_PKEY_decapsulate(ctx, secret, &size, in, in_size) == 1;

    EVP_PKEY_CTX_free(ctx);
    return done;
}

START_TEST(products_are_libcryptos)
{
    for (int i = 0; i < 200; i++) {
        uint8_t our_point[SIZE], their_point[SIZE], ours[SIZE], reference[SIZE];
        EVP_PKEY *our_pair = new_pair(NULL), *their_pair = new_pair(theirs);

        point_of(our_pair, our_point);
        point_of(their_pair, their_point);
        /* What a peer may send: not every number is below 2^255 - 19, and the last bit is free. */
        if (i % 4 == 1)
            their_point[SIZE - 1] |= 0x80;
        ck_assert(derive(NULL, our_pair, their_point, ours));
        their_point[SIZE - 1] &= 0x7f;
        ck_assert(derive(theirs, their_pair, our_point, reference));
        ck_assert_mem_eq(ours, reference, SIZE);

        ck_assert(encapsulate(their_point, our_point, ours));
        ck_assert(derive(theirs, their_pair, our_point, reference));
        ck_assert_mem_eq(ours, reference, SIZE);

        point_of(our_pair, our_point);
        ck_assert(decapsulate(our_pair, their_point, SIZE, ours));
        ck_assert(derive(theirs, their_pair, our_point, reference));
        ck_assert_mem_eq(ours, reference, SIZE);
        EVP_PKEY_free(our_pair);
        EVP_PKEY_free(their_pair);
    }
}
END_TEST

/* RFC 7748 section 6.1, through import and export. */
START_TEST(known_pair)
{
    static const uint8_t scalar[SIZE] = {0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d,
                                         0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2, 0x66, 0x45,
                                         0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a,
                                         0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9, 0x2c, 0x2a};
    static const uint8_t point[SIZE] = {0x85, 0x20, 0xf0, 0x09, 0x89, 0x30, 0xa7, 0x54,
                                        0x74, 0x8b, 0x7d, 0xdc, 0xb4, 0x3e, 0xf7, 0x5a,
                                        0x0d, 0xbf, 0x3a, 0x0d, 0x26, 0x38, 0x1a, 0xf4,
                                        0xeb, 0xa4, 0xa9, 0x8e, 0xaa, 0x9b, 0x4e, 0x6a};
    EVP_PKEY *pair = EVP_PKEY_new_raw_private_key_ex(NULL, "X25519", NULL, scalar, SIZE);
    EVP_PKEY *copy = NULL, *other = new_pair(NULL);
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(theirs, "X25519", NULL);
    uint8_t bytes[SIZE];
    size_t size = SIZE;
    OSSL_PARAM *params = NULL;

    ck_assert_ptr_nonnull(pair);
    ck_assert_str_eq(OSSL_PROVIDER_get0_name(EVP_PKEY_get0_provider(pair)), "tlsagent-schedule");
    point_of(pair, bytes);
    ck_assert_mem_eq(bytes, point, SIZE);
    ck_assert_int_eq(EVP_PKEY_get_raw_private_key(pair, bytes, &size), 1);
    ck_assert_mem_eq(bytes, scalar, SIZE);
    ck_assert_int_eq(EVP_PKEY_todata(pair, EVP_PKEY_KEYPAIR, &params), 1);
    ck_assert_int_eq(EVP_PKEY_fromdata_init(ctx), 1);
    ck_assert_int_eq(EVP_PKEY_fromdata(ctx, &copy, EVP_PKEY_KEYPAIR, params), 1);
    point_of(copy, bytes);
    ck_assert_mem_eq(bytes, point, SIZE);
    ck_assert_int_eq(EVP_PKEY_eq(pair, pair), 1);
    ck_assert_int_ne(EVP_PKEY_eq(pair, other), 1);
    OSSL_PARAM_free(params);
    EVP_PKEY_CTX_free(ctx);
    EVP_PKEY_free(copy);
    EVP_PKEY_free(other);
    EVP_PKEY_free(pair);
}
END_TEST

/* RFC 7748 section 6.1, RFC 8446 section 7.4.2: with a point of small order the product is zero,
 * whatever the key. */
START_TEST(points_of_small_order_are_refused)
{
    static const uint8_t points[][SIZE] = {
        {0},
        {1},
        {0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3,
         0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32,
         0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00},
        {0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1,
         0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c,
         0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57},
        {0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
         0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
         0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
        {0xed, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
         0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
         0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
        {0xee, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
         0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
         0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
    };
    EVP_PKEY *pair = new_pair(NULL);
    uint8_t out[SIZE], secret[SIZE];

    for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
        ck_assert_msg(!encapsulate(points[i], out, secret), "point %zu", i);
        ck_assert_msg(!derive(NULL, pair, points[i], secret), "point %zu", i);
        ck_assert_msg(!decapsulate(pair, points[i], SIZE, secret), "point %zu", i);
    }
    EVP_PKEY_free(pair);
    ERR_clear_error();
}
END_TEST

START_TEST(misuse_is_refused)
{
    uint8_t bytes[SIZE + 1] = {9}, secret[SIZE], out[SIZE], again[SIZE];
    size_t enough = SIZE, less = SIZE - 1;
    EVP_PKEY *peer = new_peer(NULL, bytes, SIZE), *pair = new_pair(NULL);
    EVP_PKEY_CTX *ctx, *pair_ctx;

    ck_assert_ptr_null(new_peer(NULL, bytes, SIZE - 1));
    ck_assert_ptr_null(new_peer(NULL, bytes, SIZE + 1));
    ck_assert_ptr_null(new_peer(NULL, bytes, 0));
    /* Without a scalar there is nothing to multiply. */
    ck_assert(!derive(NULL, peer, bytes, secret));
    ck_assert(!decapsulate(peer, bytes, SIZE, secret));
    ck_assert(!decapsulate(pair, bytes, SIZE - 1, secret));
    /* Too little room. */
    ctx = EVP_PKEY_CTX_new_from_pkey(NULL, peer, NULL);
    ck_assert_int_eq(EVP_PKEY_encapsulate_init(ctx, NULL), 1);
    ck_assert_int_ne(EVP_PKEY_encapsulate(ctx, out, &less, secret, &enough), 1);
    less = SIZE - 1;
    ck_assert_int_ne(EVP_PKEY_encapsulate(ctx, out, &enough, secret, &less), 1);
    EVP_PKEY_CTX_free(ctx);
    less = SIZE - 1;
    pair_ctx = EVP_PKEY_CTX_new_from_pkey(NULL, pair, NULL);
    ck_assert_int_eq(EVP_PKEY_decapsulate_init(pair_ctx, NULL), 1);
    ck_assert_int_ne(EVP_PKEY_decapsulate(pair_ctx, secret, &less, bytes, SIZE), 1);
    EVP_PKEY_CTX_free(pair_ctx);
    /* A new one each time. */
    ck_assert(encapsulate(bytes, out, secret) && encapsulate(bytes, again, secret));
    ck_assert_mem_ne(out, again, SIZE);
    /* A pair whose public half is replaced is none any more. */
    ck_assert_int_eq(EVP_PKEY_set1_encoded_public_key(pair, bytes, SIZE), 1);
    ck_assert(!derive(NULL, pair, bytes, secret));
    EVP_PKEY_free(peer);
    EVP_PKEY_free(pair);
    ERR_clear_error();
}
END_TEST

/* A certificate for nobody. */
static void
use_certificate(SSL_CTX *ctx)
{
    EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-256");
    X509 *certificate = X509_new();

    X509_gmtime_adj(X509_getm_notBefore(certificate), 0);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    X509_set_pubkey(certificate, key);
    ck_assert_int_gt(X509_sign(certificate, key, EVP_sha256()), 0);
    ck_assert_int_eq(SSL_CTX_use_cert_and_key(ctx, certificate, key, NULL, 1), 1);
    X509_free(certificate);
    EVP_PKEY_free(key);
}

/* TLS 1.2 wants the certificate's curve among the groups. */
static const struct {
    bool our_server, our_client;
    int version;
    const char *server_groups, *client_groups;
} pairings[] = {
    {true, false, TLS1_3_VERSION, "X25519", "X25519"},
    {false, true, TLS1_3_VERSION, "X25519", "X25519"},
    {true, true, TLS1_3_VERSION, "X25519", "X25519"},
    {true, false, TLS1_3_VERSION, "X25519", "P-256:X25519"}, /* with a HelloRetryRequest */
    {true, false, TLS1_2_VERSION, "X25519:P-256", "X25519:P-256"},
    {false, true, TLS1_2_VERSION, "X25519:P-256", "X25519:P-256"},
    {true, true, TLS1_2_VERSION, "X25519:P-256", "X25519:P-256"},
};

START_TEST(handshakes)
{
    SSL_CTX *server_ctx =
        SSL_CTX_new_ex(pairings[_i].our_server ? NULL : theirs, NULL, TLS_server_method());
    SSL_CTX *client_ctx =
        SSL_CTX_new_ex(pairings[_i].our_client ? NULL : theirs, NULL, TLS_client_method());
    SSL *server, *client;
    BIO *left, *right;

    use_certificate(server_ctx);
    SSL_CTX_set_max_proto_version(server_ctx, pairings[_i].version);
    ck_assert_int_eq(SSL_CTX_set1_groups_list(server_ctx, pairings[_i].server_groups), 1);
    ck_assert_int_eq(SSL_CTX_set1_groups_list(client_ctx, pairings[_i].client_groups), 1);
    server = SSL_new(server_ctx);
    client = SSL_new(client_ctx);
    ck_assert_int_eq(BIO_new_bio_pair(&left, 0, &right, 0), 1);
    SSL_set_bio(server, left, left);
    SSL_set_bio(client, right, right);
    SSL_set_accept_state(server);
    SSL_set_connect_state(client);
    for (int i = 0; i < 10 && !(SSL_is_init_finished(server) && SSL_is_init_finished(client));
         i++) {
        (void)SSL_do_handshake(client);
        (void)SSL_do_handshake(server);
    }
    ck_assert(SSL_is_init_finished(server) && SSL_is_init_finished(client));
    ck_assert_int_eq(SSL_version(server), pairings[_i].version);
    ck_assert_int_eq(SSL_get_negotiated_group(server), NID_X25519);
    SSL_free(server);
    SSL_free(client);
    SSL_CTX_free(server_ctx);
    SSL_CTX_free(client_ctx);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("keyshare");
    TCase *tests = tcase_create("X25519");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, products_are_libcryptos);
    tcase_add_test(tests, known_pair);
    tcase_add_test(tests, points_of_small_order_are_refused);
    tcase_add_test(tests, misuse_is_refused);
    tcase_add_loop_test(tests, handshakes, 0, sizeof(pairings) / sizeof(pairings[0]));
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
