/*
 * credential_fixture.h: keys, certificates and files of every format, made by libcrypto when a test
 * runs, so that no private key lies in the repository. For test_credential, test_loader,
 * test_generation.
 */
#ifndef TESTS_UNIT_CREDENTIAL_FIXTURE_H
#define TESTS_UNIT_CREDENTIAL_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#define FIXTURE_DAY 86400L

/* Also works outside of a Check test, where most of this runs. */
#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "fixture: %s:%d: %s\n", __FILE__, __LINE__, #condition);               \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* What the fixture makes lives as long as the test's process. Kept here, so that the leak checker
 * sees only what the tested code forgot. */
static inline void *
fixture_keep(void *made)
{
    static void **kept;
    static size_t count;

    kept = realloc(kept, (count + 1) * sizeof(*kept));
    REQUIRE(kept != NULL && made != NULL);
    kept[count++] = made;
    return made;
}

struct blob {
    uint8_t *data;
    size_t size;
};

/* What a certificate looks like; zeros are a plain server certificate of 90 days. */
struct certificate_plan {
    const char *cn;
    const char *san; /* as in openssl.cnf: "DNS:a,DNS:b" */
    const char *aia;
    const char *eku;
    bool is_ca;
    long from; /* seconds from now */
    long to;
    const EVP_MD *digest;
};

static inline EVP_PKEY *
fixture_key(const char *kind)
{
    EVP_PKEY *key;

    if (strncmp(kind, "RSA", 3) == 0)
        key = EVP_RSA_gen((size_t)strtoul(kind + 3, NULL, 10));
    else if (kind[0] == 'P' || strncmp(kind, "sec", 3) == 0)
        key = EVP_EC_gen(kind);
    else
        key = EVP_PKEY_Q_keygen(NULL, NULL, kind);
    return fixture_keep(key);
}

static inline void
fixture_extension(X509 *certificate, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX context;
    X509_EXTENSION *extension;

    X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
    extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    REQUIRE(extension != NULL);
    REQUIRE(X509_add_ext(certificate, extension, -1) == 1);
    X509_EXTENSION_free(extension);
}

/* issuer NULL: self-signed. */
static inline X509 *
fixture_certificate(const struct certificate_plan *plan, EVP_PKEY *key, X509 *issuer,
                    EVP_PKEY *issuer_key)
{
    static long serial = 1000;
    X509 *certificate = fixture_keep(X509_new());
    EVP_PKEY *signer = issuer != NULL ? issuer_key : key;
    const EVP_MD *digest = plan->digest != NULL ? plan->digest : EVP_sha256();
    time_t now = time(NULL);

    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), serial++);
    ASN1_TIME_set(X509_getm_notBefore(certificate),
                  now + (plan->from != 0 ? plan->from : -FIXTURE_DAY));
    ASN1_TIME_set(X509_getm_notAfter(certificate),
                  now + (plan->to != 0 ? plan->to : 89 * FIXTURE_DAY));
    X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_UTF8,
                               (const unsigned char *)plan->cn, -1, -1, 0);
    X509_set_issuer_name(certificate, X509_get_subject_name(issuer != NULL ? issuer : certificate));
    X509_set_pubkey(certificate, key);
    if (issuer == NULL)
        issuer = certificate;
    if (plan->is_ca)
        fixture_extension(certificate, issuer, NID_basic_constraints, "critical,CA:TRUE");
    if (plan->san != NULL)
        fixture_extension(certificate, issuer, NID_subject_alt_name, plan->san);
    if (plan->aia != NULL)
        fixture_extension(certificate, issuer, NID_info_access, plan->aia);
    if (plan->eku != NULL)
        fixture_extension(certificate, issuer, NID_ext_key_usage, plan->eku);
    if (EVP_PKEY_is_a(signer, "ED25519") || EVP_PKEY_is_a(signer, "ED448"))
        digest = NULL;
    REQUIRE(X509_sign(certificate, signer, digest) > 0);
    return certificate;
}

/* The contents of a memory BIO, which is freed. */
static inline struct blob
fixture_take(BIO *bio)
{
    struct blob blob;
    char *data;

    blob.size = (size_t)BIO_get_mem_data(bio, &data);
    REQUIRE(blob.size > 0);
    blob.data = fixture_keep(malloc(blob.size));
    memcpy(blob.data, data, blob.size);
    BIO_free(bio);
    return blob;
}

static inline struct blob
fixture_text(const char *text)
{
    BIO *bio = BIO_new(BIO_s_mem());

    BIO_puts(bio, text);
    return fixture_take(bio);
}

static inline struct blob
fixture_pem(X509 *const *certificates, size_t count)
{
    BIO *bio = BIO_new(BIO_s_mem());

    for (size_t i = 0; i < count; i++)
        REQUIRE(PEM_write_bio_X509(bio, certificates[i]) == 1);
    return fixture_take(bio);
}

enum key_format {
    KEY_PKCS8_PEM,
    KEY_PKCS8_DER,
    KEY_PKCS8_PEM_ENCRYPTED,
    KEY_PKCS8_DER_ENCRYPTED,
    KEY_TRADITIONAL_PEM,
    KEY_TRADITIONAL_PEM_ENCRYPTED,
    KEY_TRADITIONAL_DER,
    KEY_TRADITIONAL_PEM_PARAMETERS,
    KEY_FORMATS,
};

static inline bool
fixture_format_is_encrypted(enum key_format format)
{
    return format == KEY_PKCS8_PEM_ENCRYPTED || format == KEY_PKCS8_DER_ENCRYPTED ||
           format == KEY_TRADITIONAL_PEM_ENCRYPTED;
}

/* data NULL: this key type has no such format. */
static inline struct blob
fixture_key_file(EVP_PKEY *key, enum key_format format, const char *passphrase)
{
    BIO *bio = BIO_new(BIO_s_mem());
    const EVP_CIPHER *cipher = fixture_format_is_encrypted(format) ? EVP_aes_256_cbc() : NULL;
    unsigned char *pass = cipher != NULL ? (unsigned char *)(uintptr_t)passphrase : NULL;
    int length = pass != NULL ? (int)strlen(passphrase) : 0;
    bool traditional = EVP_PKEY_is_a(key, "RSA") || EVP_PKEY_is_a(key, "EC");
    int done = 0;

    if ((format >= KEY_TRADITIONAL_PEM && !traditional) ||
        (format == KEY_TRADITIONAL_PEM_PARAMETERS && !EVP_PKEY_is_a(key, "EC"))) {
        BIO_free(bio);
        return (struct blob){NULL, 0};
    }
    switch (format) {
    case KEY_PKCS8_PEM:
    case KEY_PKCS8_PEM_ENCRYPTED:
        done = PEM_write_bio_PKCS8PrivateKey(bio, key, cipher, (char *)pass, length, NULL, NULL);
        break;
    case KEY_PKCS8_DER:
    case KEY_PKCS8_DER_ENCRYPTED:
        done = i2d_PKCS8PrivateKey_bio(bio, key, cipher, (char *)pass, length, NULL, NULL);
        break;
    case KEY_TRADITIONAL_PEM_PARAMETERS:
        REQUIRE(PEM_write_bio_Parameters(bio, key) == 1);
        /* fall through */
    case KEY_TRADITIONAL_PEM:
    case KEY_TRADITIONAL_PEM_ENCRYPTED:
        done = PEM_write_bio_PrivateKey_traditional(bio, key, cipher, pass, length, NULL, NULL);
        break;
    case KEY_TRADITIONAL_DER:
        done = i2d_PrivateKey_bio(bio, key);
        break;
    case KEY_FORMATS:
        break;
    }
    REQUIRE(done == 1);
    return fixture_take(bio);
}

static inline struct blob
fixture_join(struct blob a, struct blob b)
{
    struct blob joined = {fixture_keep(malloc(a.size + b.size)), a.size + b.size};

    memcpy(joined.data, a.data, a.size);
    memcpy(joined.data + a.size, b.data, b.size);
    return joined;
}

static inline struct blob
fixture_pkcs12(EVP_PKEY *key, X509 *leaf, X509 *ca, const char *passphrase)
{
    STACK_OF(X509) *others = sk_X509_new_null();
    BIO *bio = BIO_new(BIO_s_mem());
    PKCS12 *p12;

    if (ca != NULL)
        sk_X509_push(others, ca);
    p12 = PKCS12_create(passphrase, "name", key, leaf, others, 0, 0, 1000, 1000, 0);
    REQUIRE(p12 != NULL);
    REQUIRE(i2d_PKCS12_bio(bio, p12) == 1);
    PKCS12_free(p12);
    sk_X509_free(others);
    return fixture_take(bio);
}

#endif
