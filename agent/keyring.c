/* keyring.c: see keyring.h. */
#include "agent/keyring.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

/* A parsed key. The contexts are made once per scheme and used again for each signature: to set
 * one up costs more look-ups by name than an ECDSA signature costs arithmetic. */
struct entry {
    struct entry *newer, *older;
    uint32_t key;
    EVP_PKEY *pkey;
    EVP_PKEY_CTX *sign[SHAPE_SLOTS];   /* over a digest */
    EVP_PKEY_CTX *verify[SHAPE_SLOTS]; /* RSA only */
};

struct keyring {
    const struct generation_secret *secret; /* not owned */
    struct entry **entries;                 /* one per key, NULL if it is not parsed */
    uint64_t *uses;                         /* one per key */
    struct entry *newest, *oldest;
    size_t parsed, cache;
    EVP_MD *digests[SHAPE_DIGESTS];
    EVP_MD_CTX *hash[SHAPE_DIGESTS]; /* initialised, reused */
    EVP_MD_CTX *message;             /* Ed25519: signs the message itself */
};

static const char *const digest_names[SHAPE_DIGESTS] = {"SHA2-256", "SHA2-384", "SHA2-512"};

struct keyring *
keyring_new(const struct generation_secret *secret, size_t cache, struct error *error)
{
    struct keyring *keyring = calloc(1, sizeof(*keyring));
    size_t count = secret->key_count > 0 ? secret->key_count : 1;

    if (keyring == NULL) {
        error_set(error, "keyring: out of memory");
        return NULL;
    }
    keyring->secret = secret;
    keyring->cache = cache > 0 ? cache : 1;
    keyring->entries = calloc(count, sizeof(keyring->entries[0]));
    keyring->uses = calloc(count, sizeof(keyring->uses[0]));
    keyring->message = EVP_MD_CTX_new();
    if (keyring->entries == NULL || keyring->uses == NULL || keyring->message == NULL) {
        error_set(error, "keyring: out of memory");
        goto fail;
    }
    for (size_t i = 0; i < SHAPE_DIGESTS; i++) {
        keyring->digests[i] = EVP_MD_fetch(NULL, digest_names[i], NULL);
        keyring->hash[i] = EVP_MD_CTX_new();
        if (keyring->digests[i] == NULL || keyring->hash[i] == NULL ||
            EVP_DigestInit_ex2(keyring->hash[i], keyring->digests[i], NULL) != 1) {
            error_set(error, "keyring: libcrypto has no %s", digest_names[i]);
            goto fail;
        }
    }
    return keyring;

fail:
    keyring_free(keyring);
    return NULL;
}

/* ---- the cache ---- */

static void
unlink_entry(struct keyring *keyring, struct entry *entry)
{
    if (entry->newer != NULL)
        entry->newer->older = entry->older;
    else
        keyring->newest = entry->older;
    if (entry->older != NULL)
        entry->older->newer = entry->newer;
    else
        keyring->oldest = entry->newer;
    entry->newer = entry->older = NULL;
}

static void
link_newest(struct keyring *keyring, struct entry *entry)
{
    entry->older = keyring->newest;
    if (keyring->newest != NULL)
        keyring->newest->newer = entry;
    else
        keyring->oldest = entry;
    keyring->newest = entry;
}

/* libcrypto clears private numbers when it frees them, and the keeper's allocator all the rest. */
static void
free_entry(struct entry *entry)
{
    if (entry == NULL)
        return;
    for (size_t i = 0; i < SHAPE_SLOTS; i++) {
        EVP_PKEY_CTX_free(entry->sign[i]);
        EVP_PKEY_CTX_free(entry->verify[i]);
    }
    EVP_PKEY_free(entry->pkey);
    free(entry);
}

static void
drop_oldest(struct keyring *keyring)
{
    struct entry *entry = keyring->oldest;

    if (entry == NULL)
        return;
    unlink_entry(keyring, entry);
    keyring->entries[entry->key] = NULL;
    keyring->parsed--;
    free_entry(entry);
}

void
keyring_free(struct keyring *keyring)
{
    if (keyring == NULL)
        return;
    while (keyring->oldest != NULL)
        drop_oldest(keyring);
    for (size_t i = 0; i < SHAPE_DIGESTS; i++) {
        EVP_MD_CTX_free(keyring->hash[i]);
        EVP_MD_free(keyring->digests[i]);
    }
    EVP_MD_CTX_free(keyring->message);
    free(keyring->uses);
    free(keyring->entries);
    free(keyring);
}

static bool
type_fits(const EVP_PKEY *pkey, uint8_t type)
{
    int bits = EVP_PKEY_get_bits(pkey);

    switch (type) {
    case GENERATION_KEY_RSA:
        return EVP_PKEY_is_a(pkey, "RSA") && bits <= 8 * KEYOPS_SIGNATURE_MAX;
    case GENERATION_KEY_P256:
        return EVP_PKEY_is_a(pkey, "EC") && bits == 256;
    case GENERATION_KEY_P384:
        return EVP_PKEY_is_a(pkey, "EC") && bits == 384;
    case GENERATION_KEY_P521:
        return EVP_PKEY_is_a(pkey, "EC") && bits == 521;
    case GENERATION_KEY_ED25519:
        return EVP_PKEY_is_a(pkey, "ED25519");
    default:
        return false;
    }
}

static struct entry *
parse_entry(const struct generation_secret_key *key, uint32_t number)
{
    const unsigned char *der = key->pkcs8;
    PKCS8_PRIV_KEY_INFO *info = d2i_PKCS8_PRIV_KEY_INFO(NULL, &der, (long)key->pkcs8_size);
    struct entry *entry = calloc(1, sizeof(*entry));

    if (entry != NULL && info != NULL && der == key->pkcs8 + key->pkcs8_size)
        entry->pkey = EVP_PKCS82PKEY(info);
    PKCS8_PRIV_KEY_INFO_free(info);
    if (entry == NULL || entry->pkey == NULL || !type_fits(entry->pkey, key->type)) {
        free_entry(entry);
        return NULL;
    }
    entry->key = number;
    return entry;
}

/* The parsed key, moved to the front. If there is no memory for one more, older keys go. */
static struct entry *
find_entry(struct keyring *keyring, uint32_t number)
{
    struct entry *entry = keyring->entries[number];

    if (entry != NULL) {
        if (entry != keyring->newest) {
            unlink_entry(keyring, entry);
            link_newest(keyring, entry);
        }
        return entry;
    }
    while (keyring->parsed >= keyring->cache)
        drop_oldest(keyring);
    while ((entry = parse_entry(&keyring->secret->keys[number], number)) == NULL) {
        ERR_clear_error();
        if (keyring->oldest == NULL)
            return NULL;
        drop_oldest(keyring);
    }
    keyring->entries[number] = entry;
    keyring->parsed++;
    link_newest(keyring, entry);
    return entry;
}

/* ---- signing ---- */

static bool
set_scheme(EVP_PKEY_CTX *ctx, const struct keyring *keyring, const struct shape_scheme *scheme)
{
    if (EVP_PKEY_CTX_set_signature_md(ctx, keyring->digests[scheme->digest]) != 1)
        return false;
    switch (scheme->family) {
    case SHAPE_RSA_PKCS1:
        return EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_PADDING) == 1;
    case SHAPE_RSA_PSS:
        return EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_PSS_PADDING) == 1 &&
               EVP_PKEY_CTX_set_rsa_pss_saltlen(ctx, RSA_PSS_SALTLEN_DIGEST) == 1;
    default:
        return true;
    }
}

/* Make the contexts of a scheme. */
static bool
prepare(struct keyring *keyring, struct entry *entry, const struct shape_scheme *scheme)
{
    EVP_PKEY_CTX **sign = &entry->sign[scheme->slot];
    EVP_PKEY_CTX **verify = &entry->verify[scheme->slot];
    bool rsa = scheme->family != SHAPE_ECDSA;

    if (*sign != NULL && (*verify != NULL || !rsa))
        return true;
    if (*sign == NULL) {
        *sign = EVP_PKEY_CTX_new_from_pkey(NULL, entry->pkey, NULL);
        if (*sign == NULL || EVP_PKEY_sign_init(*sign) != 1 || !set_scheme(*sign, keyring, scheme))
            goto fail;
    }
    if (rsa) {
        *verify = EVP_PKEY_CTX_new_from_pkey(NULL, entry->pkey, NULL);
        if (*verify == NULL || EVP_PKEY_verify_init(*verify) != 1 ||
            !set_scheme(*verify, keyring, scheme))
            goto fail;
    }
    return true;

fail:
    EVP_PKEY_CTX_free(*sign);
    EVP_PKEY_CTX_free(*verify);
    *sign = *verify = NULL;
    return false;
}

static bool
sign_digest(struct keyring *keyring, struct entry *entry, const struct shape_scheme *scheme,
            const uint8_t *content, size_t content_size, uint8_t *signature, size_t *size)
{
    EVP_MD_CTX *hash = keyring->hash[scheme->digest];
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned digest_size = sizeof(digest);

    if (!prepare(keyring, entry, scheme) ||
        EVP_DigestInit_ex2(hash, keyring->digests[scheme->digest], NULL) != 1 ||
        EVP_DigestUpdate(hash, content, content_size) != 1 ||
        EVP_DigestFinal_ex(hash, digest, &digest_size) != 1)
        return false;
    if (EVP_PKEY_sign(entry->sign[scheme->slot], signature, size, digest, digest_size) != 1)
        return false;
    /* ECDSA is not verified: a verification costs three signatures, and a fault does not give the
     * key away by a single wrong answer as with RSA's Chinese remainders. */
    return scheme->family == SHAPE_ECDSA ||
           EVP_PKEY_verify(entry->verify[scheme->slot], signature, *size, digest, digest_size) == 1;
}

static bool
sign_message(struct keyring *keyring, struct entry *entry, const uint8_t *content,
             size_t content_size, uint8_t *signature, size_t *size)
{
    bool done =
        EVP_DigestSignInit_ex(keyring->message, NULL, NULL, NULL, NULL, entry->pkey, NULL) == 1 &&
        EVP_DigestSign(keyring->message, signature, size, content, content_size) == 1;

    EVP_MD_CTX_reset(keyring->message);
    return done;
}

int
keyring_sign(struct keyring *keyring, uint32_t key, const struct shape_scheme *scheme,
             const uint8_t *content, size_t content_size, uint8_t signature[KEYOPS_SIGNATURE_MAX],
             size_t *size)
{
    struct entry *entry;
    bool done;

    if (key >= keyring->secret->key_count)
        return KEYOPS_NO_SUCH_KEY;
    entry = find_entry(keyring, key);
    if (entry == NULL)
        return KEYOPS_INTERNAL;
    *size = KEYOPS_SIGNATURE_MAX;
    done = scheme->family == SHAPE_ED25519
               ? sign_message(keyring, entry, content, content_size, signature, size)
               : sign_digest(keyring, entry, scheme, content, content_size, signature, size);
    if (!done) {
        ERR_clear_error();
        OPENSSL_cleanse(signature, KEYOPS_SIGNATURE_MAX);
        *size = 0;
        return KEYOPS_INTERNAL;
    }
    keyring->uses[key]++;
    return 0;
}

/* What both requests have in common: which scheme with which key. */
static int
find_scheme(const struct keyring *keyring, uint32_t key, uint16_t id, enum shape_version version,
            const struct shape_scheme **scheme)
{
    if (key >= keyring->secret->key_count)
        return KEYOPS_NO_SUCH_KEY;
    *scheme = shape_scheme_find(id, keyring->secret->keys[key].type, version);
    return *scheme != NULL ? 0 : KEYOPS_BAD_SCHEME;
}

int
keyring_sign_tls13(struct keyring *keyring, const struct keyops_sign_tls13 *request,
                   uint8_t signature[KEYOPS_SIGNATURE_MAX], size_t *size)
{
    uint8_t content[SHAPE_CONTENT_MAX];
    const struct shape_scheme *scheme;
    size_t content_size;
    int refusal = find_scheme(keyring, request->key, request->scheme, SHAPE_TLS13, &scheme);

    if (refusal == 0)
        refusal = shape_tls13(request, content, &content_size);
    if (refusal != 0)
        return refusal;
    return keyring_sign(keyring, request->key, scheme, content, content_size, signature, size);
}

int
keyring_sign_tls12_server(struct keyring *keyring, const struct keyops_sign_tls12_server *request,
                          uint8_t signature[KEYOPS_SIGNATURE_MAX], size_t *size)
{
    uint8_t content[SHAPE_CONTENT_MAX];
    const struct shape_scheme *scheme;
    size_t content_size;
    int refusal = find_scheme(keyring, request->key, request->scheme, SHAPE_TLS12, &scheme);

    if (refusal == 0)
        refusal = shape_tls12_server(request, content, &content_size);
    if (refusal != 0)
        return refusal;
    return keyring_sign(keyring, request->key, scheme, content, content_size, signature, size);
}

int
keyring_self_test(struct keyring *keyring, struct error *error)
{
    static const uint8_t content[64] = "tlsagent self-test";
    uint8_t signature[KEYOPS_SIGNATURE_MAX];
    unsigned seen = 0; /* key types, a bit each */
    size_t size;

    for (uint32_t key = 0; key < keyring->secret->key_count; key++) {
        uint8_t type = keyring->secret->keys[key].type;

        if (type >= 32 || (seen & 1u << type) != 0)
            continue;
        seen |= 1u << type;
        for (const struct shape_scheme *scheme = shape_scheme_next(NULL, type); scheme != NULL;
             scheme = shape_scheme_next(scheme, type)) {
            if (keyring_sign(keyring, key, scheme, content, sizeof(content), signature, &size) != 0)
                return error_set(error, "key %u cannot sign with scheme %04x", key, scheme->id);
        }
        keyring->uses[key] = 0;
    }
    return 0;
}

uint64_t
keyring_uses(const struct keyring *keyring, uint32_t key)
{
    return key < keyring->secret->key_count ? keyring->uses[key] : 0;
}

size_t
keyring_parsed(const struct keyring *keyring)
{
    return keyring->parsed;
}
