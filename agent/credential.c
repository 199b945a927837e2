/*
 * credential.c: see credential.h.
 *
 * Role: the loader. Trust: as in credential_format.c. Here the parts of the files become one
 * identity: the key is of a kind that we serve and works, the leaf belongs to it, the chain is in
 * the order that TLS wants (RFC 8446 section 4.4.2), and what a client would stumble over is told.
 */
#include "agent/credential.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "agent/generation.h"

/* Renewal tools renew with a third of the life left; with less than a fifth something is wrong.
 * A fraction, because lives range from six days to years. */
#define LIFE_LEFT_WARNING 20 /* per cent */

#define RSA_BITS_MIN 2048
#define RSA_BITS_MAX 4096

/* ---- the key ---- */

static int
classify_rsa(const EVP_PKEY *key, uint8_t *type, const char *path, struct error *error)
{
    int bits = EVP_PKEY_get_bits(key);

    if (bits < RSA_BITS_MIN)
        return error_set(error,
                         "%s: the RSA key has %d bits, which is too small; use %d to %d bits", path,
                         bits, RSA_BITS_MIN, RSA_BITS_MAX);
    if (bits > RSA_BITS_MAX)
        return error_set(error,
                         "%s: the RSA key has %d bits, which is too large (a signature would stall "
                         "every other handshake); use %d to %d bits, or ECDSA",
                         path, bits, RSA_BITS_MIN, RSA_BITS_MAX);
    *type = GENERATION_KEY_RSA;
    return 0;
}

static int
classify_ec(const EVP_PKEY *key, uint8_t *type, const char *path, struct error *error)
{
    static const struct {
        const char *name;
        uint8_t type;
    } curves[] = {
        {"prime256v1", GENERATION_KEY_P256},
        {"secp384r1", GENERATION_KEY_P384},
        {"secp521r1", GENERATION_KEY_P521},
    };
    char curve[64] = "";
    int is_explicit = 0;

    (void)EVP_PKEY_get_int_param(key, OSSL_PKEY_PARAM_EC_DECODED_FROM_EXPLICIT_PARAMS,
                                 &is_explicit);
    if (is_explicit != 0 || EVP_PKEY_get_group_name(key, curve, sizeof(curve), NULL) != 1)
        return error_set(error,
                         "%s: the EC key spells out its curve instead of naming it, which TLS does "
                         "not allow; convert it: openssl ec -param_enc named_curve",
                         path);
    for (size_t i = 0; i < sizeof(curves) / sizeof(curves[0]); i++) {
        if (strcmp(curve, curves[i].name) == 0) {
            *type = curves[i].type;
            return 0;
        }
    }
    return error_set(error, "%s: the EC key is on curve %s; use P-256, P-384 or P-521", path,
                     curve);
}

static int
classify_key(const EVP_PKEY *key, uint8_t *type, const char *path, struct error *error)
{
    const char *name;

    if (EVP_PKEY_is_a(key, "RSA"))
        return classify_rsa(key, type, path, error);
    if (EVP_PKEY_is_a(key, "EC"))
        return classify_ec(key, type, path, error);
    if (EVP_PKEY_is_a(key, "ED25519")) {
        *type = GENERATION_KEY_ED25519;
        return 0;
    }
    name = EVP_PKEY_get0_type_name(key);
    return error_set(error,
                     "%s: keys of type %s are not supported; use RSA, ECDSA on P-256, P-384 "
                     "or P-521, or Ed25519",
                     path, name != NULL ? name : "unknown");
}

/* The key as the keeper will read it: PKCS#8, the EC curve named, the public point included, so
 * that one key has one encoding wherever it came from. */
static int
encode_key(EVP_PKEY *key, struct credential *credential, const char *path, struct error *error)
{
    PKCS8_PRIV_KEY_INFO *info;
    int size = -1;

    if (EVP_PKEY_is_a(key, "EC"))
        (void)EVP_PKEY_set_int_param(key, OSSL_PKEY_PARAM_EC_INCLUDE_PUBLIC, 1);
    info = EVP_PKEY2PKCS8(key);
    if (info != NULL)
        size = i2d_PKCS8_PRIV_KEY_INFO(info, &credential->pkcs8);
    PKCS8_PRIV_KEY_INFO_free(info);
    if (size <= 0)
        return error_set(error, "%s: the private key cannot be encoded; make it anew", path);
    credential->pkcs8_size = (size_t)size;
    if (size > GENERATION_PKCS8_MAX)
        return error_set(error, "%s: the private key is larger than %d bytes; make it anew", path,
                         GENERATION_PKCS8_MAX);
    return 0;
}

/* Equal public parts prove nothing about the private one: sign, and verify with the leaf's key. */
static bool
key_works(EVP_PKEY *key, EVP_PKEY *public_key)
{
    static const uint8_t text[] = "a key that signs this is the leaf's";
    const EVP_MD *digest = EVP_PKEY_is_a(key, "ED25519") ? NULL : EVP_sha256();
    EVP_MD_CTX *signer = EVP_MD_CTX_new();
    EVP_MD_CTX *verifier = EVP_MD_CTX_new();
    uint8_t signature[RSA_BITS_MAX / 8];
    size_t size = sizeof(signature);
    bool works = signer != NULL && verifier != NULL &&
                 EVP_DigestSignInit(signer, NULL, digest, NULL, key) == 1 &&
                 EVP_DigestSign(signer, signature, &size, text, sizeof(text)) == 1 &&
                 EVP_DigestVerifyInit(verifier, NULL, digest, NULL, public_key) == 1 &&
                 EVP_DigestVerify(verifier, signature, size, text, sizeof(text)) == 1;

    EVP_MD_CTX_free(signer);
    EVP_MD_CTX_free(verifier);
    return works;
}

/* ---- leaf and chain ---- */

/* The certificate's name in a message. */
static void
show_name(const X509_NAME *name, char *shown, size_t size)
{
    char text[256] = "";

    X509_NAME_oneline(name, text, sizeof(text));
    error_printable(shown, size, text, strlen(text));
}

/* Where the certificate of the key is; -1: nowhere. */
static int
find_leaf(STACK_OF(X509) * certificates, const EVP_PKEY *key)
{
    for (int i = 0; i < sk_X509_num(certificates); i++) {
        const EVP_PKEY *public_key = X509_get0_pubkey(sk_X509_value(certificates, i));

        if (public_key != NULL && EVP_PKEY_eq(public_key, key) == 1)
            return i;
    }
    return -1;
}

static bool
is_self_signed(X509 *certificate)
{
    return X509_self_signed(certificate, 0) == 1;
}

/* Take the issuer of a certificate out of the pool: the one whose name fits and whose key made the
 * signature (CAs change keys and keep names). */
static X509 *
take_issuer(STACK_OF(X509) * pool, X509 *certificate)
{
    for (int i = 0; i < sk_X509_num(pool); i++) {
        X509 *candidate = sk_X509_value(pool, i);
        EVP_PKEY *public_key = X509_get0_pubkey(candidate);

        if (public_key != NULL && X509_check_issued(candidate, certificate) == X509_V_OK &&
            X509_verify(certificate, public_key) == 1)
            return sk_X509_delete(pool, i);
    }
    return NULL;
}

/* Drop second copies and count what is left over. */
static int
count_unused(STACK_OF(X509) * pool, STACK_OF(X509) * chain)
{
    int unused = 0;

    for (int i = 0; i < sk_X509_num(pool); i++) {
        X509 *certificate = sk_X509_value(pool, i);
        bool sent = false;

        for (int j = 0; j < sk_X509_num(chain); j++)
            sent |= X509_cmp(certificate, sk_X509_value(chain, j)) == 0;
        unused += !sent && !is_self_signed(certificate);
    }
    return unused;
}

/* Move leaf and intermediates from the pool into a new chain: leaf first, each followed by its
 * issuer, without the root, which clients have or do not believe. */
static STACK_OF(X509) * order_chain(STACK_OF(X509) * pool, int leaf, const char *path,
                                    const struct credential_warnings *warnings)
{
    STACK_OF(X509) *chain = sk_X509_new_reserve(NULL, CREDENTIAL_CHAIN_LENGTH + 1);
    X509 *next = sk_X509_delete(pool, leaf);
    int unused;

    if (chain == NULL) {
        X509_free(next);
        return NULL;
    }
    while (next != NULL && sk_X509_num(chain) <= CREDENTIAL_CHAIN_LENGTH) {
        sk_X509_push(chain, next); /* reserved: cannot fail */
        next = is_self_signed(next) ? NULL : take_issuer(pool, next);
    }
    X509_free(next);
    if (sk_X509_num(chain) > 1 && is_self_signed(sk_X509_value(chain, sk_X509_num(chain) - 1)))
        X509_free(sk_X509_pop(chain));
    unused = count_unused(pool, chain);
    if (unused > 0)
        credential_warn(warnings,
                        "%s: %d certificates are not part of the leaf's chain and are not sent; "
                        "remove them",
                        path, unused);
    return chain;
}

/* DER, each preceded by its size in 24 bits. */
static int
encode_certificates(STACK_OF(X509) * certificates, uint8_t **der, size_t *size, const char *path,
                    struct error *error)
{
    uint8_t *next;

    *size = 0;
    for (int i = 0; i < sk_X509_num(certificates); i++) {
        int one = i2d_X509(sk_X509_value(certificates, i), NULL);

        if (one <= 0)
            return error_set(error, "%s: certificate %d cannot be encoded; get it anew", path,
                             i + 1);
        *size += 3 + (size_t)one;
    }
    if (*size > GENERATION_CHAIN_MAX)
        return error_set(error, "%s: the certificates are %zu bytes, more than %d; use fewer", path,
                         *size, GENERATION_CHAIN_MAX);
    next = *der = malloc(*size > 0 ? *size : 1);
    if (next == NULL)
        return error_set(error, "%s: out of memory", path);
    for (int i = 0; i < sk_X509_num(certificates); i++) {
        uint8_t *header = next;
        int one;

        next += 3;
        one = i2d_X509(sk_X509_value(certificates, i), &next);
        header[0] = (uint8_t)(one >> 16);
        header[1] = (uint8_t)(one >> 8);
        header[2] = (uint8_t)one;
    }
    return 0;
}

/* ---- warnings ---- */

/* Seconds from a to b; days alone may exceed an int of seconds. False if one is malformed. */
static bool
seconds_between(const ASN1_TIME *a, const ASN1_TIME *b, int64_t *seconds)
{
    int days, rest;

    if (ASN1_TIME_diff(&days, &rest, a, b) != 1)
        return false;
    *seconds = (int64_t)days * 86400 + rest;
    return true;
}

static void
warn_validity(X509 *certificate, const char *what, const char *path, time_t now,
              const struct credential_warnings *warnings)
{
    ASN1_TIME *today = ASN1_TIME_set(NULL, now);
    int64_t age, left;

    if (today == NULL || !seconds_between(X509_get0_notBefore(certificate), today, &age) ||
        !seconds_between(today, X509_get0_notAfter(certificate), &left)) {
        credential_warn(warnings, "%s: the dates of %s are malformed; get it anew", path, what);
    } else if (left < 0) {
        credential_warn(warnings, "%s: %s expired %lld days ago; renew it", path, what,
                        -(long long)left / 86400);
    } else if (age < 0) {
        credential_warn(warnings, "%s: %s is not valid before %lld days from now; check the clock",
                        path, what, -(long long)age / 86400 + 1);
    } else if (left * 100 < (age + left) * LIFE_LEFT_WARNING) {
        credential_warn(warnings,
                        "%s: %s expires in %lld days, with %d %% of its life left; renew "
                        "it",
                        path, what, (long long)(left / 86400), (int)(left * 100 / (age + left)));
    }
    ASN1_TIME_free(today);
}

static void
warn_signature(X509 *certificate, const char *what, const char *path,
               const struct credential_warnings *warnings)
{
    int digest = NID_undef;

    if (X509_get_signature_info(certificate, &digest, NULL, NULL, NULL) == 1 &&
        (digest == NID_sha1 || digest == NID_md5 || digest == NID_md5_sha1))
        credential_warn(warnings, "%s: %s is signed with %s, which clients refuse; get it anew",
                        path, what, OBJ_nid2sn(digest));
}

/* A public CA says in the leaf where its own certificate is: then it is no root. */
static bool
names_its_issuers_address(X509 *leaf)
{
    AUTHORITY_INFO_ACCESS *access = X509_get_ext_d2i(leaf, NID_info_access, NULL, NULL);
    bool found = false;

    for (int i = 0; i < sk_ACCESS_DESCRIPTION_num(access); i++)
        found |= OBJ_obj2nid(sk_ACCESS_DESCRIPTION_value(access, i)->method) == NID_ad_ca_issuers;
    AUTHORITY_INFO_ACCESS_free(access);
    return found;
}

static void
warn_chain(STACK_OF(X509) * chain, const char *path, time_t now,
           const struct credential_warnings *warnings)
{
    X509 *leaf = sk_X509_value(chain, 0);

    warn_validity(leaf, "the certificate", path, now, warnings);
    warn_signature(leaf, "the certificate", path, warnings);
    for (int i = 1; i < sk_X509_num(chain); i++) {
        warn_validity(sk_X509_value(chain, i), "an intermediate certificate", path, now, warnings);
        warn_signature(sk_X509_value(chain, i), "an intermediate certificate", path, warnings);
    }
    if (is_self_signed(leaf)) {
        credential_warn(warnings,
                        "%s: the certificate is self-signed; only clients that were given it will "
                        "trust it",
                        path);
    } else if (sk_X509_num(chain) == 1 && names_its_issuers_address(leaf)) {
        char issuer[128];

        show_name(X509_get_issuer_name(leaf), issuer, sizeof(issuer));
        credential_warn(warnings,
                        "%s: the intermediate certificate %s is missing; append it (fullchain.pem)",
                        path, issuer);
    }
    if (X509_check_ca(leaf) == 1 && !is_self_signed(leaf))
        credential_warn(warnings, "%s: the certificate is a CA's; use one for a server", path);
    else if (X509_check_purpose(leaf, X509_PURPOSE_SSL_SERVER, 0) != 1)
        credential_warn(warnings,
                        "%s: the certificate's key usage does not allow TLS servers; clients will "
                        "refuse it",
                        path);
}

/* ---- one identity ---- */

/* Read the files: certificates and key into parts; *key_path is the file that the key came from. */
static int
read_files(struct credential_parts *parts, const struct credential_input *input,
           const char **key_path, struct error *error)
{
    const char *path = input->certificate.path;
    bool key_file = input->key.data != NULL;
    struct credential_parts other;

    if (input->certificate.data == NULL)
        return error_set(error, "no certificate file is configured; set certificate");
    if (credential_read_parts(parts, &input->certificate, &input->passphrase, !key_file, error) ==
        -1)
        return -1;
    *key_path = path;
    if (sk_X509_num(parts->certificates) == 0) {
        error_set(error, "%s: holds no certificate%s; name the certificate's file", path,
                  parts->key != NULL ? ", only a private key" : "");
        credential_parts_clear(parts);
        return -1;
    }
    if (key_file && parts->key == NULL) { /* else it is the key of a PKCS#12 file, which wins */
        if (credential_read_parts(&other, &input->key, &input->passphrase, true, error) == -1) {
            credential_parts_clear(parts);
            return -1;
        }
        parts->key = other.key;
        other.key = NULL;
        credential_parts_clear(&other);
        *key_path = input->key.path;
    }
    if (parts->key == NULL) {
        error_set(error, "%s: holds no private key; %s", *key_path,
                  key_file ? "name the key's file" : "set key");
        credential_parts_clear(parts);
        return -1;
    }
    return 0;
}

static int
refuse_mismatch(const struct credential_parts *parts, const char *path, const char *key_path,
                struct error *error)
{
    char subject[128];

    show_name(X509_get_subject_name(sk_X509_value(parts->certificates, 0)), subject,
              sizeof(subject));
    if (strcmp(path, key_path) == 0)
        return error_set(error,
                         "%s: certificate (%s) and private key in it do not belong "
                         "together; put the key of that certificate there",
                         path, subject);
    return error_set(error,
                     "%s: the certificate (%s) does not belong to the key in %s; use the "
                     "files of one pair",
                     path, subject, key_path);
}

static int
make_credential(struct credential *credential, struct credential_parts *parts, const char *path,
                const char *key_path, time_t now, const struct credential_warnings *warnings,
                struct error *error)
{
    STACK_OF(X509) * chain;
    int leaf, result;

    if (classify_key(parts->key, &credential->key_type, key_path, error) == -1)
        return -1;
    leaf = find_leaf(parts->certificates, parts->key);
    if (leaf == -1)
        return refuse_mismatch(parts, path, key_path, error);
    chain = order_chain(parts->certificates, leaf, path, warnings);
    if (chain == NULL)
        return error_set(error, "%s: out of memory", path);
    credential->leaf = sk_X509_value(chain, 0);
    X509_up_ref(credential->leaf);
    if (sk_X509_num(chain) > CREDENTIAL_CHAIN_LENGTH)
        result = error_set(error, "%s: the chain is longer than %d certificates; shorten it", path,
                           CREDENTIAL_CHAIN_LENGTH);
    else if (!key_works(parts->key, X509_get0_pubkey(credential->leaf)))
        result = error_set(error,
                           "%s: signatures of the private key do not verify; it is damaged, get "
                           "the key anew",
                           key_path);
    else
        result =
            encode_certificates(chain, &credential->chain, &credential->chain_size, path, error);
    if (result == 0)
        result = encode_key(parts->key, credential, key_path, error);
    if (result == 0)
        warn_chain(chain, path, now, warnings);
    sk_X509_pop_free(chain, X509_free);
    return result;
}

int
credential_parse(struct credential *credential, const struct credential_input *input, time_t now,
                 const struct credential_warnings *warnings, struct error *error)
{
    struct credential_parts parts = {0};
    const char *key_path = "";
    int result;

    memset(credential, 0, sizeof(*credential));
    if (read_files(&parts, input, &key_path, error) == -1)
        return -1;
    result = make_credential(credential, &parts, input->certificate.path, key_path, now, warnings,
                             error);
    credential_parts_clear(&parts);
    ERR_clear_error();
    if (result == -1)
        credential_clear(credential);
    return result;
}

void
credential_clear(struct credential *credential)
{
    OPENSSL_clear_free(credential->pkcs8, credential->pkcs8_size);
    free(credential->chain);
    X509_free(credential->leaf);
    memset(credential, 0, sizeof(*credential));
}

/* ---- client CAs ---- */

int
credential_parse_client_ca(const struct credential_file *file, time_t now,
                           const struct credential_warnings *warnings, uint8_t **der, size_t *size,
                           struct error *error)
{
    static const struct credential_file no_passphrase = {NULL, NULL, 0};
    struct credential_parts parts;
    int result = 0;

    if (credential_read_parts(&parts, file, &no_passphrase, false, error) == -1)
        return -1;
    if (sk_X509_num(parts.certificates) == 0)
        result = error_set(error, "%s: holds no certificate; name a file with CA certificates",
                           file->path);
    for (int i = 0; result == 0 && i < sk_X509_num(parts.certificates); i++) {
        X509 *certificate = sk_X509_value(parts.certificates, i);
        char what[160], subject[128];

        show_name(X509_get_subject_name(certificate), subject, sizeof(subject));
        snprintf(what, sizeof(what), "the CA certificate %s", subject);
        if (X509_check_ca(certificate) == 0)
            result = error_set(error,
                               "%s: %s is not a CA's; client_ca_file must hold CA "
                               "certificates only",
                               file->path, subject);
        else
            warn_validity(certificate, what, file->path, now, warnings);
    }
    if (result == 0)
        result = encode_certificates(parts.certificates, der, size, file->path, error);
    credential_parts_clear(&parts);
    ERR_clear_error();
    return result;
}
