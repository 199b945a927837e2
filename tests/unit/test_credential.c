/* test_credential.c: every format and key type, wrong ones, damaged ones, names. */
#include <check.h>
#include <stdio.h>

#include "agent/credential.h"
#include "agent/generation.h"
#include "tests/unit/credential_fixture.h"

#define PASS "correct horse"

enum { K_RSA2048, K_RSA4096, K_P256, K_P384, K_P521, K_ED25519, K_COUNT };

static const struct {
    const char *kind;
    uint8_t type;
} kinds[K_COUNT] = {
    {"RSA2048", GENERATION_KEY_RSA}, {"RSA4096", GENERATION_KEY_RSA},
    {"P-256", GENERATION_KEY_P256},  {"P-384", GENERATION_KEY_P384},
    {"P-521", GENERATION_KEY_P521},  {"ED25519", GENERATION_KEY_ED25519},
};

/* Made once, before Check forks. */
static EVP_PKEY *keys[K_COUNT], *ca_key, *intermediate_key;
static X509 *leaves[K_COUNT], *ca, *intermediate;

static char told[8192]; /* warnings, one a line */

static void
tell(void *argument, const char *text)
{
    (void)argument;
    ck_assert_ptr_null(strchr(text, '\n'));
    snprintf(told + strlen(told), sizeof(told) - strlen(told), "%s\n", text);
}

static const struct credential_warnings warnings = {tell, NULL};

static void
make_all(void)
{
    ca_key = fixture_key("P-256");
    intermediate_key = fixture_key("P-256");
    ca = fixture_certificate(&(struct certificate_plan){.cn = "Test Root", .is_ca = true}, ca_key,
                             NULL, NULL);
    intermediate =
        fixture_certificate(&(struct certificate_plan){.cn = "Test Intermediate", .is_ca = true},
                            intermediate_key, ca, ca_key);
    for (int i = 0; i < K_COUNT; i++) {
        keys[i] = fixture_key(kinds[i].kind);
        leaves[i] = fixture_certificate(
            &(struct certificate_plan){.cn = "www.example.org", .san = "DNS:www.example.org"},
            keys[i], intermediate, intermediate_key);
    }
}

static int
parse(struct credential *credential, struct blob certificate, struct blob key,
      const char *passphrase, struct error *error)
{
    struct credential_input input = {
        .certificate = {"cert.pem", certificate.data, certificate.size},
        .key = {"key.pem", key.data, key.size},
        .passphrase = {"pass.txt", (const uint8_t *)passphrase,
                       passphrase != NULL ? strlen(passphrase) : 0},
    };
    int result;

    error_clear(error);
    told[0] = '\0';
    result = credential_parse(credential, &input, time(NULL), &warnings, error);
    if (result == -1) {
        ck_assert_str_ne(error->text, "");
        ck_assert_ptr_null(strchr(error->text, '\n'));
    } else {
        ck_assert_str_eq(error->text, "");
    }
    return result;
}

static const struct blob none = {NULL, 0};

/* The chain must be exactly these certificates, the key exactly this one. */
static void
check_credential(const struct credential *credential, uint8_t type, EVP_PKEY *key,
                 X509 *const *expected, size_t count)
{
    const unsigned char *next = credential->pkcs8;
    const uint8_t *at = credential->chain;
    EVP_PKEY *stored = d2i_AutoPrivateKey(NULL, &next, (long)credential->pkcs8_size);

    ck_assert_uint_eq(credential->key_type, type);
    ck_assert_ptr_nonnull(stored);
    ck_assert_ptr_eq(next, credential->pkcs8 + credential->pkcs8_size);
    ck_assert_int_eq(EVP_PKEY_eq(stored, key), 1);
    EVP_PKEY_free(stored);
    for (size_t i = 0; i < count; i++) {
        size_t size = (size_t)at[0] << 16 | (size_t)at[1] << 8 | at[2];
        X509 *certificate;

        next = at + 3;
        certificate = d2i_X509(NULL, &next, (long)size);
        ck_assert_ptr_nonnull(certificate);
        ck_assert_msg(X509_cmp(certificate, expected[i]) == 0, "certificate %zu", i);
        X509_free(certificate);
        at += 3 + size;
    }
    ck_assert_ptr_eq(at, credential->chain + credential->chain_size);
}

/* Each key type in each file format; one key has one encoding wherever it came from. */
START_TEST(key_formats)
{
    struct blob certificate = fixture_pem(&leaves[_i], 1);
    struct credential first = {0};

    for (int format = 0; format < KEY_FORMATS; format++) {
        struct blob key = fixture_key_file(keys[_i], (enum key_format)format, PASS);
        struct credential credential;
        struct error error;

        if (key.data == NULL)
            continue;
        ck_assert_msg(parse(&credential, certificate, key, PASS "\r\nsecond line", &error) == 0,
                      "format %d: %s", format, error.text);
        check_credential(&credential, kinds[_i].type, keys[_i], &leaves[_i], 1);
        ck_assert_str_eq(told, "");
        if (first.pkcs8 == NULL) {
            first = credential;
        } else {
            ck_assert_mem_eq(first.pkcs8, credential.pkcs8, credential.pkcs8_size);
            ck_assert_uint_eq(first.pkcs8_size, credential.pkcs8_size);
            credential_clear(&credential);
        }
        if (fixture_format_is_encrypted((enum key_format)format)) {
            ck_assert_int_eq(parse(&credential, certificate, key, "wrong", &error), -1);
            ck_assert_str_eq(error.text, "key.pem: the passphrase in pass.txt does not open it; "
                                         "correct one of them");
            ck_assert_int_eq(parse(&credential, certificate, key, NULL, &error), -1);
            ck_assert_str_eq(error.text, "key.pem: encrypted, and no passphrase is configured; set "
                                         "passphrase_file");
        }
    }
    credential_clear(&first);
}
END_TEST

/* One wrong passphrase in 256 gives a padding that looks right, and garbage behind it. */
START_TEST(wrong_passphrases)
{
    struct blob certificate = fixture_pem(&leaves[_i], 1);
    struct blob key = fixture_key_file(keys[_i], KEY_TRADITIONAL_PEM_ENCRYPTED, PASS);

    for (int i = 0; key.data != NULL && i < 1500; i++) {
        struct credential credential;
        struct error error;
        char wrong[32];

        snprintf(wrong, sizeof(wrong), "wrong %d", i);
        ck_assert_int_eq(parse(&credential, certificate, key, wrong, &error), -1);
        ck_assert_str_eq(error.text, "key.pem: the passphrase in pass.txt does not open it; "
                                     "correct one of them");
    }
}
END_TEST

/* Key and chain in one file, in any order. */
START_TEST(combined_files)
{
    static const int orders[][4] = {{0, 1, 2, 3}, {3, 2, 1, 0}, {2, 0, 3, 1}, {1, 3, 0, 2}};
    X509 *certificates[] = {leaves[_i], intermediate, ca};
    struct blob parts[4];

    for (size_t i = 0; i < 3; i++)
        parts[i] = fixture_pem(&certificates[i], 1);
    parts[3] = fixture_key_file(keys[_i], KEY_PKCS8_PEM, NULL);
    for (size_t i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
        struct blob file = fixture_text("Bag Attributes: text before a block\n\n");
        struct credential credential;
        struct error error;

        for (size_t j = 0; j < 4; j++)
            file = fixture_join(file, parts[orders[i][j]]);
        file = fixture_join(file, parts[1]); /* a second copy is dropped */
        ck_assert_msg(parse(&credential, file, none, NULL, &error) == 0, "%s", error.text);
        check_credential(&credential, kinds[_i].type, keys[_i], certificates, 2);
        ck_assert_str_eq(told, "");
        credential_clear(&credential);
    }
}
END_TEST

START_TEST(der_and_pkcs12)
{
    X509 *chain[] = {leaves[_i], intermediate};
    BIO *bio = BIO_new(BIO_s_mem());
    struct blob der, key = fixture_key_file(keys[_i], KEY_PKCS8_PEM, NULL);
    struct blob other_key = fixture_key_file(ca_key, KEY_PKCS8_PEM, NULL);
    struct credential credential;
    struct error error;
    struct blob p12 = fixture_pkcs12(keys[_i], leaves[_i], intermediate, PASS);
    struct blob open_p12 = fixture_pkcs12(keys[_i], leaves[_i], intermediate, "");

    i2d_X509_bio(bio, leaves[_i]);
    der = fixture_take(bio);
    ck_assert_msg(parse(&credential, der, key, NULL, &error) == 0, "%s", error.text);
    check_credential(&credential, kinds[_i].type, keys[_i], chain, 1);
    credential_clear(&credential);
    ck_assert_int_eq(parse(&credential, der, none, NULL, &error), -1);
    ck_assert_str_eq(error.text, "cert.pem: holds no private key; set key");

    ck_assert_msg(parse(&credential, p12, none, PASS, &error) == 0, "%s", error.text);
    check_credential(&credential, kinds[_i].type, keys[_i], chain, 2);
    credential_clear(&credential);
    /* its key beats a key file (S13) */
    ck_assert_msg(parse(&credential, p12, other_key, PASS, &error) == 0, "%s", error.text);
    check_credential(&credential, kinds[_i].type, keys[_i], chain, 2);
    credential_clear(&credential);
    ck_assert_msg(parse(&credential, open_p12, none, NULL, &error) == 0, "%s", error.text);
    credential_clear(&credential);
    /* a PKCS#12 file as the key file */
    ck_assert_msg(parse(&credential, der, p12, PASS, &error) == 0, "%s", error.text);
    credential_clear(&credential);
    ck_assert_int_eq(parse(&credential, p12, none, "wrong", &error), -1);
    ck_assert_str_eq(error.text,
                     "cert.pem: the passphrase in pass.txt does not open it; correct one of them");
    ck_assert_int_eq(parse(&credential, p12, none, NULL, &error), -1);
    ck_assert_str_eq(error.text,
                     "cert.pem: encrypted, and no passphrase is configured; set passphrase_file");
}
END_TEST

/* Each pair of different keys is a mismatch that names both files. */
START_TEST(mismatch)
{
    struct blob certificate = fixture_pem(&leaves[_i], 1);
    EVP_PKEY *same_kind = fixture_key(_i == K_RSA4096 ? "RSA2048" : kinds[_i].kind);

    for (int other = 0; other <= K_COUNT; other++) {
        EVP_PKEY *key = other < K_COUNT ? keys[other] : same_kind;
        struct blob file = fixture_key_file(key, KEY_PKCS8_PEM, NULL);
        struct credential credential;
        struct error error;

        if (other == _i)
            continue;
        ck_assert_int_eq(parse(&credential, certificate, file, NULL, &error), -1);
        ck_assert_str_eq(error.text,
                         "cert.pem: the certificate (/CN=www.example.org) does not belong to the "
                         "key in key.pem; use the files of one pair");
        file = fixture_join(certificate, file);
        ck_assert_int_eq(parse(&credential, file, none, NULL, &error), -1);
        ck_assert_ptr_nonnull(strstr(error.text, "cert.pem: certificate (/CN=www.example.org) and "
                                                 "private key in it do not belong together"));
    }
}
END_TEST

/* The public half is right, the private one is not. */
START_TEST(damaged_private_half)
{
    BIGNUM *d = NULL;
    EVP_PKEY *key = NULL;
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
    uint8_t point[80];
    size_t size;
    OSSL_PARAM params[4];
    uint8_t private_bytes[32];
    struct credential credential;
    struct error error;

    ck_assert_int_eq(EVP_PKEY_get_bn_param(keys[K_P256], OSSL_PKEY_PARAM_PRIV_KEY, &d), 1);
    BN_add_word(d, 1);
    BN_bn2nativepad(d, private_bytes, sizeof(private_bytes));
    ck_assert_int_eq(EVP_PKEY_get_octet_string_param(keys[K_P256], OSSL_PKEY_PARAM_PUB_KEY, point,
                                                     sizeof(point), &size),
                     1);
    params[0] =
        OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, (char[]){"prime256v1"}, 0);
    params[1] = OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, point, size);
    params[2] =
        OSSL_PARAM_construct_BN(OSSL_PKEY_PARAM_PRIV_KEY, private_bytes, sizeof(private_bytes));
    params[3] = OSSL_PARAM_construct_end();
    ck_assert_int_eq(EVP_PKEY_fromdata_init(context), 1);
    ck_assert_int_eq(EVP_PKEY_fromdata(context, &key, EVP_PKEY_KEYPAIR, params), 1);
    ck_assert_int_eq(parse(&credential, fixture_pem(&leaves[K_P256], 1),
                           fixture_key_file(key, KEY_PKCS8_PEM, NULL), NULL, &error),
                     -1);
    ck_assert_ptr_nonnull(
        strstr(error.text, "key.pem: signatures of the private key do not verify"));
    EVP_PKEY_free(key);
    EVP_PKEY_CTX_free(context);
    BN_clear_free(d);
}
END_TEST

static const struct {
    const char *kind;
    const char *expected;
} refused_kinds[] = {
    {"RSA1024", "key.pem: the RSA key has 1024 bits, which is too small"},
    {"RSA2040", "key.pem: the RSA key has 2040 bits, which is too small"},
    {"RSA4104", "key.pem: the RSA key has 4104 bits, which is too large"},
    {"secp256k1", "key.pem: the EC key is on curve secp256k1; use P-256"},
    {"secp224r1", "key.pem: the EC key is on curve secp224r1; use P-256"},
    {"ED448", "key.pem: keys of type ED448 are not supported"},
    {"X25519", "key.pem: keys of type X25519 are not supported"},
};

START_TEST(refused_key_kinds)
{
    EVP_PKEY *key = fixture_key(refused_kinds[_i].kind);
    struct blob file = fixture_key_file(key, KEY_PKCS8_PEM, NULL);
    struct credential credential;
    struct error error;

    ck_assert_int_eq(parse(&credential, fixture_pem(&leaves[K_P256], 1), file, NULL, &error), -1);
    ck_assert_msg(strstr(error.text, refused_kinds[_i].expected) == error.text, "%s", error.text);
}
END_TEST

START_TEST(refused_explicit_curve)
{
    EVP_PKEY *key = fixture_keep(EVP_PKEY_dup(keys[K_P256]));
    struct credential credential;
    struct error error;

    ck_assert_int_eq(EVP_PKEY_set_utf8_string_param(key, OSSL_PKEY_PARAM_EC_ENCODING, "explicit"),
                     1);
    for (int format = 0; format < KEY_FORMATS; format++) {
        struct blob file = fixture_key_file(key, (enum key_format)format, PASS);

        ck_assert_int_eq(parse(&credential, fixture_pem(&leaves[K_P256], 1), file, PASS, &error),
                         -1);
        ck_assert_msg(strstr(error.text, "spells out its curve") != NULL, "%s", error.text);
    }
}
END_TEST

static const char dsa_pem[] = "-----BEGIN PRIVATE KEY-----\nMAwwCgYIKwYBBQUHAQE=\n"
                              "-----END PRIVATE KEY-----\n";
static const char ssh_pem[] = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"
                              "-----END OPENSSH PRIVATE KEY-----\n";

static const struct {
    const char *certificate; /* NULL: a good one */
    const char *key;
    const char *passphrase;
    const char *expected;
} text_cases[] = {
    {"", NULL, NULL, "cert.pem: the file is empty"},
    {"hello", NULL, NULL, "cert.pem: neither PEM, DER nor PKCS#12; is it the right file?"},
    {"-----BEGIN ", NULL, NULL, "cert.pem: holds no certificate; name the certificate's file"},
    {"-----BEGIN CERTIFICATE-----\nMIIB\n", NULL, NULL,
     "cert.pem: PEM block 1 is damaged or cut off"},
    {"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", NULL, NULL,
     "cert.pem: certificate 1 is damaged"},
    {"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n", NULL, NULL,
     "cert.pem: PEM block 1 is damaged or cut off"},
    {NULL, "", NULL, "key.pem: the file is empty"},
    {NULL, "hello", NULL, "key.pem: neither PEM, DER nor PKCS#12"},
    {NULL, ssh_pem, NULL, "key.pem: the key is in OpenSSH's own format"},
    {NULL, dsa_pem, NULL, "key.pem: the private key is damaged"},
    {NULL, "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n", NULL,
     "key.pem: holds no private key; name the key's file"},
    {NULL,
     "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: NO-SUCH-CIPHER,00\n\n"
     "AAAA\n-----END RSA PRIVATE KEY-----\n",
     PASS, "key.pem: the key's encryption is not understood"},
};

START_TEST(bad_texts)
{
    struct blob good = fixture_pem(&leaves[K_P256], 1);
    struct blob certificate = good, key = none;
    struct credential credential;
    struct error error;

    if (text_cases[_i].certificate != NULL)
        certificate = (struct blob){(uint8_t *)(uintptr_t)text_cases[_i].certificate,
                                    strlen(text_cases[_i].certificate)};
    if (text_cases[_i].key != NULL)
        key = (struct blob){(uint8_t *)(uintptr_t)text_cases[_i].key, strlen(text_cases[_i].key)};
    ck_assert_int_eq(parse(&credential, certificate, key, text_cases[_i].passphrase, &error), -1);
    ck_assert_msg(strstr(error.text, text_cases[_i].expected) == error.text, "%s", error.text);
}
END_TEST

START_TEST(bad_passphrase_files)
{
    struct blob key = fixture_key_file(keys[K_P256], KEY_PKCS8_PEM_ENCRYPTED, PASS);
    struct blob certificate = fixture_pem(&leaves[K_P256], 1);
    char text[2000];
    struct credential credential;
    struct error error;

    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    ck_assert_int_eq(parse(&credential, certificate, key, text, &error), -1);
    ck_assert_ptr_nonnull(strstr(error.text, "pass.txt: the passphrase is longer than 1023"));
    ck_assert_int_eq(parse(&credential, certificate, key, "\n" PASS, &error), -1);
    ck_assert_ptr_nonnull(strstr(error.text, "does not open it"));
    ck_assert_int_eq(parse(&credential, certificate, key, PASS, &error), 0);
    credential_clear(&credential);
}
END_TEST

START_TEST(two_keys_in_one_file)
{
    struct blob key = fixture_key_file(keys[K_P256], KEY_PKCS8_PEM, NULL);
    struct credential credential;
    struct error error;

    ck_assert_int_eq(
        parse(&credential, fixture_pem(&leaves[K_P256], 1), fixture_join(key, key), NULL, &error),
        -1);
    ck_assert_ptr_nonnull(strstr(error.text, "key.pem: holds more than one private key"));
}
END_TEST

/* Whatever happens to a file: a result or one line, no crash, no leak (ASan). */
static void
parse_anyhow(struct blob certificate, struct blob key, const char *passphrase)
{
    struct credential credential;
    struct error error;

    if (parse(&credential, certificate, key, passphrase, &error) == 0)
        credential_clear(&credential);
}

START_TEST(damaged_files)
{
    struct blob certificate = fixture_pem(&leaves[_i], 1);
    struct blob key = fixture_key_file(keys[_i], KEY_PKCS8_PEM, NULL);
    struct blob files[KEY_FORMATS + 3];
    size_t count = 0;
    BIO *bio = BIO_new(BIO_s_mem());

    for (int format = 0; format < KEY_FORMATS; format++) {
        files[count] = fixture_key_file(keys[_i], (enum key_format)format, PASS);
        count += files[count].data != NULL;
    }
    i2d_X509_bio(bio, leaves[_i]);
    files[count++] = fixture_take(bio);
    files[count++] = fixture_join(certificate, key);
    files[count++] = fixture_pkcs12(keys[_i], leaves[_i], intermediate, PASS);
    srand(_i + 1);
    for (size_t i = 0; i < count; i++) {
        size_t stride = files[i].size / 40 + 1;

        for (size_t size = 0; size < files[i].size; size += stride) {
            /* exact allocations, so that ASan sees a read past the end */
            struct blob cut = {malloc(size + 1), size};

            cut.data = realloc(cut.data, size > 0 ? size : 1);
            memcpy(cut.data, files[i].data, size);
            parse_anyhow(cut, key, PASS);
            parse_anyhow(certificate, cut, PASS);
            for (size_t flip = 0; flip < 2 && size > 0; flip++)
                cut.data[(size_t)rand() % size] ^= (uint8_t)(1 << (rand() % 8));
            parse_anyhow(cut, key, NULL); /* no passphrase: no huge iteration count is followed */
            parse_anyhow(certificate, cut, NULL);
            free(cut.data);
        }
        for (size_t at = 0; at < files[i].size; at += stride) {
            files[i].data[at] ^= 0x15;
            parse_anyhow(files[i], key, NULL);
            parse_anyhow(certificate, files[i], NULL);
            files[i].data[at] ^= 0x15;
        }
    }
}
END_TEST

START_TEST(random_bytes)
{
    struct blob certificate = fixture_pem(&leaves[K_P256], 1);

    srand(7);
    for (int round = 0; round < 2000; round++) {
        size_t size = (size_t)rand() % 600 + 1;
        struct blob garbage = {malloc(size), size};

        for (size_t i = 0; i < size; i++)
            garbage.data[i] = (uint8_t)rand();
        if (round % 2 == 0 && size > 4) { /* looks like DER */
            garbage.data[0] = 0x30;
            garbage.data[1] = 0x82;
            garbage.data[2] = (uint8_t)((size - 4) >> 8);
            garbage.data[3] = (uint8_t)(size - 4);
        }
        parse_anyhow(garbage, none, PASS);
        parse_anyhow(certificate, garbage, PASS);
        free(garbage.data);
    }
}
END_TEST

static const struct {
    struct certificate_plan plan;
    int issuer; /* 0 self, 1 intermediate */
    const char *expected;
} warning_cases[] = {
    {{.cn = "a.org", .from = -90 * FIXTURE_DAY, .to = -3 * FIXTURE_DAY - 60},
     1,
     "cert.pem: the certificate expired 3 days ago; renew it\n"},
    {{.cn = "a.org", .from = 2 * FIXTURE_DAY - 60, .to = 9 * FIXTURE_DAY},
     1,
     "cert.pem: the certificate is not valid before 2 days from now; check the clock\n"},
    {{.cn = "a.org", .from = -90 * FIXTURE_DAY, .to = 10 * FIXTURE_DAY + 60},
     1,
     "cert.pem: the certificate expires in 10 days, with 10 % of its life left; renew it\n"},
    {{.cn = "a.org", .from = -4 * FIXTURE_DAY, .to = 2 * FIXTURE_DAY}, 1, ""},
    {{.cn = "a.org"}, 0, "cert.pem: the certificate is self-signed;"},
    {{.cn = "a.org", .aia = "caIssuers;URI:http://ca.example/i.crt"},
     1,
     "cert.pem: the intermediate certificate /CN=Test Intermediate is missing; append it"},
    {{.cn = "a.org", .aia = "OCSP;URI:http://ca.example/"}, 1, ""},
    {{.cn = "a.org", .eku = "clientAuth"},
     1,
     "cert.pem: the certificate's key usage does not allow TLS servers"},
    {{.cn = "a.org", .is_ca = true}, 1, "cert.pem: the certificate is a CA's"},
};

START_TEST(warning_lines)
{
    X509 *leaf =
        fixture_certificate(&warning_cases[_i].plan, keys[K_P256],
                            warning_cases[_i].issuer ? intermediate : NULL, intermediate_key);
    struct credential credential;
    struct error error;

    ck_assert_msg(parse(&credential, fixture_pem(&leaf, 1),
                        fixture_key_file(keys[K_P256], KEY_PKCS8_PEM, NULL), NULL, &error) == 0,
                  "%s", error.text);
    if (warning_cases[_i].expected[0] == '\0')
        ck_assert_str_eq(told, "");
    else
        ck_assert_msg(strstr(told, warning_cases[_i].expected) == told, "%s", told);
    credential_clear(&credential);
}
END_TEST

START_TEST(sha1_and_strangers_are_told)
{
    X509 *weak =
        fixture_certificate(&(struct certificate_plan){.cn = "a.org", .digest = EVP_sha1()},
                            keys[K_P256], intermediate, intermediate_key);
    X509 *stranger = leaves[K_RSA2048];
    X509 *file[] = {weak, stranger};
    struct credential credential;
    struct error error;

    ck_assert_int_eq(parse(&credential, fixture_pem(file, 2),
                           fixture_key_file(keys[K_P256], KEY_PKCS8_PEM, NULL), NULL, &error),
                     0);
    ck_assert_ptr_nonnull(strstr(told, "the certificate is signed with SHA1"));
    ck_assert_ptr_nonnull(strstr(told, "1 certificates are not part of the leaf's chain"));
    check_credential(&credential, GENERATION_KEY_P256, keys[K_P256], &weak, 1);
    credential_clear(&credential);
}
END_TEST

/* Two CAs of one name: the chain takes the one that signed. */
START_TEST(same_named_issuer_is_told_apart)
{
    EVP_PKEY *old_key = fixture_key("P-256");
    X509 *old = fixture_certificate(
        &(struct certificate_plan){.cn = "Test Intermediate", .is_ca = true}, old_key, ca, ca_key);
    X509 *file[] = {leaves[K_P256], old, intermediate};
    X509 *expected[] = {leaves[K_P256], intermediate};
    struct credential credential;
    struct error error;

    ck_assert_int_eq(parse(&credential, fixture_pem(file, 3),
                           fixture_key_file(keys[K_P256], KEY_PKCS8_PEM, NULL), NULL, &error),
                     0);
    check_credential(&credential, GENERATION_KEY_P256, keys[K_P256], expected, 2);
    credential_clear(&credential);
}
END_TEST

static const struct {
    const char *name;
    const char *normal; /* NULL: refused */
} name_cases[] = {
    {"www.example.org", "www.example.org"},
    {"WWW.Example.ORG.", "www.example.org"},
    {"localhost", "localhost"},
    {"*.example.org", "*.example.org"},
    {"_dmarc.example.org", "_dmarc.example.org"},
    {"xn--bcher-kva.example", "xn--bcher-kva.example"},
    {"1.example", "1.example"},
    {"", NULL},
    {".", NULL},
    {"*", NULL},
    {"*.", NULL},
    {"w*.example.org", NULL},
    {"www.*.org", NULL},
    {"*.*.org", NULL},
    {"a..b", NULL},
    {".a", NULL},
    {"a.b..", NULL},
    {"-a.b", NULL},
    {"a-.b", NULL},
    {"a b", NULL},
    {"b\xc3\xbc"
     "cher.example",
     NULL},
    {"127.0.0.1", NULL},
    {"::1", NULL},
    {"a/b", NULL},
    {"a:443", NULL},
    {"user@a.org", NULL},
    {"a123456789012345678901234567890123456789012345678901234567890123.org", NULL},
    {"a12345678901234567890123456789012345678901234567890123456789012.org",
     "a12345678901234567890123456789012345678901234567890123456789012.org"},
};

START_TEST(name_rules)
{
    char normal[SERVICE_HOST_MAX];
    bool good = credential_normalise_name(name_cases[_i].name, strlen(name_cases[_i].name), normal);

    ck_assert_msg(good == (name_cases[_i].normal != NULL), "%s", name_cases[_i].name);
    if (good)
        ck_assert_str_eq(normal, name_cases[_i].normal);
}
END_TEST

START_TEST(name_lengths)
{
    char name[300], normal[SERVICE_HOST_MAX];

    for (size_t size = 1; size < sizeof(name); size++) {
        for (size_t i = 0; i < size; i++)
            name[i] = i % 32 == 31 ? '.' : 'a';
        if (name[size - 1] == '.')
            continue;
        ck_assert_int_eq(credential_normalise_name(name, size, normal), size <= 253);
    }
    ck_assert(!credential_normalise_name("a\0b", 3, normal));
}
END_TEST

static const struct {
    const char *cn;
    const char *san;
    const char *label;
    const char *names[3];
    const char *expected; /* joined by spaces */
    unsigned explicit_names;
    const char *warning; /* part of it; NULL: none */
} name_lists[] = {
    {"cn.org", "DNS:a.org,DNS:B.org", "www", {NULL}, "www a.org b.org", 1, NULL},
    {"cn.org", "DNS:a.org", "A.ORG", {"a.org."}, "a.org", 1, NULL},
    {"cn.org", "DNS:a.org", "not a host", {"x.org", "*.y.org"}, "x.org *.y.org a.org", 2, NULL},
    {"cn.org", "DNS:a.org", "my site", {"ba d"}, "a.org", 0, "the name \"ba d\" is no host name"},
    {"cn.org",
     "DNS:w*.org,IP:10.0.0.1",
     "my site",
     {NULL},
     "",
     0,
     "DNS name \"w*.org\" is no host name"},
    {"cn.org", "IP:10.0.0.1", "my site", {NULL}, "", 0, "no name leads to this identity"},
    {"cn.org", NULL, "my site", {NULL}, "cn.org", 0, NULL},
    {"Some Company", NULL, "my site", {NULL}, "", 0, "no name leads to this identity"},
};

START_TEST(name_collection)
{
    static uint8_t names[CREDENTIAL_NAMES_MAX];
    struct certificate_plan plan = {.cn = name_lists[_i].cn, .san = name_lists[_i].san};
    struct credential credential = {
        .leaf = fixture_certificate(&plan, keys[K_P256], intermediate, intermediate_key)};
    struct load_identity identity = {0};
    char joined[512] = "";
    uint16_t explicit_names;
    size_t size;

    told[0] = '\0';
    snprintf(identity.label, sizeof(identity.label), "%s", name_lists[_i].label);
    for (size_t i = 0; i < 3 && name_lists[_i].names[i] != NULL; i++, identity.name_count++)
        snprintf(identity.names[i], sizeof(identity.names[i]), "%s", name_lists[_i].names[i]);
    credential_names(&credential, &identity, &warnings, names, &size, &explicit_names);
    for (size_t at = 0; at < size; at += 1 + names[at])
        snprintf(joined + strlen(joined), sizeof(joined) - strlen(joined), "%s%.*s",
                 at > 0 ? " " : "", names[at], (char *)names + at + 1);
    ck_assert_str_eq(joined, name_lists[_i].expected);
    ck_assert_uint_eq(explicit_names, name_lists[_i].explicit_names);
    if (name_lists[_i].warning == NULL)
        ck_assert_str_eq(told, "");
    else
        ck_assert_msg(strstr(told, name_lists[_i].warning) != NULL, "%s", told);
}
END_TEST

START_TEST(client_cas)
{
    X509 *both[] = {ca, intermediate};
    struct blob good = fixture_pem(both, 2), bad = fixture_pem(&leaves[K_P256], 1);
    struct credential_file file = {"ca.pem", good.data, good.size};
    struct error error = {""};
    uint8_t *der = NULL;
    size_t size = 0;

    told[0] = '\0';
    ck_assert_int_eq(credential_parse_client_ca(&file, time(NULL), &warnings, &der, &size, &error),
                     0);
    ck_assert_uint_eq(size, 6 + (size_t)i2d_X509(ca, NULL) + (size_t)i2d_X509(intermediate, NULL));
    ck_assert_str_eq(told, "");
    free(der);
    file = (struct credential_file){"ca.pem", bad.data, bad.size};
    ck_assert_int_eq(credential_parse_client_ca(&file, time(NULL), &warnings, &der, &size, &error),
                     -1);
    ck_assert_str_eq(error.text, "ca.pem: /CN=www.example.org is not a CA's; client_ca_file must "
                                 "hold CA certificates only");
}
END_TEST

#define LOOP(test, table) tcase_add_loop_test(tcase, test, 0, sizeof(table) / sizeof((table)[0]))

int
main(void)
{
    Suite *suite = suite_create("credential");
    TCase *tcase = tcase_create("all");
    SRunner *runner;
    int failed;

    make_all();
    tcase_set_timeout(tcase, 120);
    LOOP(key_formats, kinds);
    LOOP(combined_files, kinds);
    LOOP(der_and_pkcs12, kinds);
    LOOP(mismatch, kinds);
    LOOP(wrong_passphrases, kinds);
    tcase_add_test(tcase, damaged_private_half);
    LOOP(refused_key_kinds, refused_kinds);
    tcase_add_test(tcase, refused_explicit_curve);
    LOOP(bad_texts, text_cases);
    tcase_add_test(tcase, bad_passphrase_files);
    tcase_add_test(tcase, two_keys_in_one_file);
    LOOP(damaged_files, kinds);
    tcase_add_test(tcase, random_bytes);
    LOOP(warning_lines, warning_cases);
    tcase_add_test(tcase, sha1_and_strangers_are_told);
    tcase_add_test(tcase, same_named_issuer_is_told_apart);
    LOOP(name_rules, name_cases);
    tcase_add_test(tcase, name_lengths);
    LOOP(name_collection, name_lists);
    tcase_add_test(tcase, client_cas);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
