/* test_traffic.c: the suite table, and the key schedule against RFC 8448. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/ssl.h>

#include "protocol/traffic.h"

/* RFC 8448 section 3: {server, client} {write traffic keys} for application data. */
static const struct {
    const char *name;
    const char *secret, *key, *iv;
} vectors[] = {
    {"server", "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643",
     "9f02283b6c9c07efc26bb9f2ac92e356", "cf782b88dd83549aadf1e984"},
    {"client", "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5",
     "17422dda596ed5d9acd890e3c63f5051", "5b78923dee08579033e523d9"},
};

static void
from_hex(const char *hex, uint8_t *out)
{
    for (; hex[0] != '\0'; hex += 2) {
        char byte[3] = {hex[0], hex[1], '\0'};

        *out++ = (uint8_t)strtoul(byte, NULL, 16);
    }
}

START_TEST(keys_match_rfc_8448)
{
    const struct traffic_suite *suite = traffic_suite_find(0x1301);
    struct traffic_keys keys;
    uint8_t key[16], iv[12];

    memset(&keys, 0xff, sizeof(keys));
    keys.sequence = 7;
    from_hex(vectors[_i].secret, keys.secret);
    from_hex(vectors[_i].key, key);
    from_hex(vectors[_i].iv, iv);
    ck_assert_int_eq(traffic_keys_derive(suite, &keys), 0);
    ck_assert_mem_eq(keys.key, key, sizeof(key));
    ck_assert_mem_eq(keys.iv, iv, sizeof(iv));
    ck_assert_uint_eq(keys.sequence, 7);
}
END_TEST

START_TEST(update_changes_everything)
{
    const struct traffic_suite *suite = traffic_suite_find((uint16_t)_i);
    struct traffic_keys keys, before;

    memset(&keys, 0, sizeof(keys));
    memset(keys.secret, 0x42, suite->hash_size);
    keys.sequence = 99;
    ck_assert_int_eq(traffic_keys_derive(suite, &keys), 0);
    before = keys;
    ck_assert_int_eq(traffic_keys_update(suite, &keys), 0);
    ck_assert_uint_eq(keys.sequence, 0);
    ck_assert_mem_ne(keys.secret, before.secret, suite->hash_size);
    ck_assert_mem_ne(keys.key, before.key, suite->key_size);
    ck_assert_mem_ne(keys.iv, before.iv, sizeof(keys.iv));
}
END_TEST

START_TEST(impossible_labels_are_refused)
{
    const struct traffic_suite *suite = traffic_suite_find(0x1301);
    uint8_t secret[32] = {0}, out[32];

    ck_assert_int_eq(traffic_expand_label(suite, secret, "key", out, sizeof(out) + 1), -1);
    ck_assert_int_eq(traffic_expand_label(suite, secret, "key", out, 70000), -1);
}
END_TEST

/* The table against OpenSSL's own: number, names, key size, digest size. */
START_TEST(suites_agree_with_openssl)
{
    static const uint16_t ids[] = {0x1301, 0x1302, 0x1303, 0xc02b, 0xc02c,
                                   0xc02f, 0xc030, 0xcca8, 0xcca9};
    const struct traffic_suite *suite = traffic_suite_find(ids[_i]);
    uint8_t number[2] = {(uint8_t)(ids[_i] >> 8), (uint8_t)ids[_i]};
    SSL_CTX *context = SSL_CTX_new(TLS_method());
    SSL *ssl = SSL_new(context);
    const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, number);
    int bits;

    ck_assert_ptr_nonnull(suite);
    ck_assert_ptr_nonnull(cipher);
    ck_assert_str_eq(suite->name, SSL_CIPHER_get_name(cipher));
    ck_assert_str_eq(suite->standard, SSL_CIPHER_standard_name(cipher));
    SSL_CIPHER_get_bits(cipher, &bits);
    ck_assert_int_eq(suite->key_size * 8, bits);
    ck_assert_int_eq(suite->hash_size, EVP_MD_get_size(SSL_CIPHER_get_handshake_digest(cipher)));
    ck_assert_int_eq(suite->version == TRAFFIC_TLS_1_3,
                     strcmp(SSL_CIPHER_get_version(cipher), "TLSv1.3") == 0);
    SSL_free(ssl);
    SSL_CTX_free(context);
}
END_TEST

START_TEST(other_suites_are_unknown)
{
    ck_assert_ptr_null(traffic_suite_find(0));
    ck_assert_ptr_null(traffic_suite_find(0x1304)); /* AES-128-CCM */
    ck_assert_ptr_null(traffic_suite_find(0x009c)); /* RSA key exchange */
    ck_assert_ptr_null(traffic_suite_find(0xc027)); /* CBC */
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("traffic");
    TCase *tests = tcase_create("keys");
    SRunner *runner;
    int failed;

    tcase_add_loop_test(tests, keys_match_rfc_8448, 0, 2);
    tcase_add_loop_test(tests, update_changes_everything, 0x1301, 0x1304);
    tcase_add_test(tests, impossible_labels_are_refused);
    tcase_add_loop_test(tests, suites_agree_with_openssl, 0, 9);
    tcase_add_test(tests, other_suites_are_unknown);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
