/*
 * traffic.c: the table of suites, and the part of the TLS 1.3 key schedule that a record layer
 * needs.
 *
 * Used by the handshaker (secrets to keys, for the export) and by the worker's record layer
 * (KeyUpdate). Everything here is computed from the caller's own secrets.
 */
#include "protocol/traffic.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "protocol/wire.h"

#define LABEL_PREFIX   "tls13 "
#define LABEL_MAX      32 /* bytes of a label with its prefix: ours are "key", "iv", "traffic upd" */
#define HKDF_LABEL_MAX 300 /* 2 + 1 + 255 + 1 + 0 at most */

static const struct traffic_suite suites[] = {
    {0x1301, TRAFFIC_TLS_1_3, TRAFFIC_AES_128_GCM, 16, 32, "TLS_AES_128_GCM_SHA256",
     "TLS_AES_128_GCM_SHA256"},
    {0x1302, TRAFFIC_TLS_1_3, TRAFFIC_AES_256_GCM, 32, 48, "TLS_AES_256_GCM_SHA384",
     "TLS_AES_256_GCM_SHA384"},
    {0x1303, TRAFFIC_TLS_1_3, TRAFFIC_CHACHA20_POLY1305, 32, 32, "TLS_CHACHA20_POLY1305_SHA256",
     "TLS_CHACHA20_POLY1305_SHA256"},
    {0xc02b, TRAFFIC_TLS_1_2, TRAFFIC_AES_128_GCM, 16, 32, "ECDHE-ECDSA-AES128-GCM-SHA256",
     "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"},
    {0xc02c, TRAFFIC_TLS_1_2, TRAFFIC_AES_256_GCM, 32, 48, "ECDHE-ECDSA-AES256-GCM-SHA384",
     "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"},
    {0xc02f, TRAFFIC_TLS_1_2, TRAFFIC_AES_128_GCM, 16, 32, "ECDHE-RSA-AES128-GCM-SHA256",
     "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"},
    {0xc030, TRAFFIC_TLS_1_2, TRAFFIC_AES_256_GCM, 32, 48, "ECDHE-RSA-AES256-GCM-SHA384",
     "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"},
    {0xcca8, TRAFFIC_TLS_1_2, TRAFFIC_CHACHA20_POLY1305, 32, 32, "ECDHE-RSA-CHACHA20-POLY1305",
     "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"},
    {0xcca9, TRAFFIC_TLS_1_2, TRAFFIC_CHACHA20_POLY1305, 32, 32, "ECDHE-ECDSA-CHACHA20-POLY1305",
     "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"},
};

#define BLOCK_MAX 128 /* of SHA-384 */

/* Fetched once, kept for the process's life. */
static EVP_MD *sha256, *sha384;
static pthread_once_t digests_once = PTHREAD_ONCE_INIT;

static void
fetch_digests(void)
{
    sha256 = EVP_MD_fetch(NULL, "SHA2-256", NULL);
    sha384 = EVP_MD_fetch(NULL, "SHA2-384", NULL);
}

const struct traffic_suite *
traffic_suite_find(uint16_t id)
{
    size_t i;

    for (i = 0; i < sizeof(suites) / sizeof(suites[0]); i++)
        if (suites[i].id == id)
            return &suites[i];
    return NULL;
}

/* Half of an HMAC (RFC 2104): the digest of the padded key and what follows it. */
static bool
hash_padded(EVP_MD_CTX *hash, const EVP_MD *digest, const struct traffic_suite *suite,
            const uint8_t *secret, uint8_t pad, const uint8_t *bytes, size_t size, uint8_t *out)
{
    uint8_t block[BLOCK_MAX];
    size_t block_size = suite->hash_size == 48 ? 128 : 64;
    bool done;

    memset(block, pad, block_size);
    for (size_t i = 0; i < suite->hash_size; i++)
        block[i] ^= secret[i];
    done = EVP_DigestInit_ex2(hash, digest, NULL) == 1 &&
           EVP_DigestUpdate(hash, block, block_size) == 1 &&
           EVP_DigestUpdate(hash, bytes, size) == 1 && EVP_DigestFinal_ex(hash, out, NULL) == 1;
    OPENSSL_cleanse(block, sizeof(block));
    return done;
}

/* HKDF-Expand of one block: HMAC(secret, info and a byte 1). libcrypto's own HKDF takes six times
 * as long for it, and each connection needs four. */
static int
expand(EVP_MD_CTX *hash, const struct traffic_suite *suite, const uint8_t *secret,
       const char *label, uint8_t *out, size_t out_size)
{
    const EVP_MD *digest = suite->hash_size == 48 ? sha384 : sha256;
    uint8_t info[HKDF_LABEL_MAX], value[TRAFFIC_SECRET_MAX];
    char full[LABEL_MAX] = LABEL_PREFIX;
    struct wire_writer writer;
    bool done;

    if (strlen(label) >= sizeof(full) - strlen(LABEL_PREFIX) || out_size > suite->hash_size)
        return -1;
    memcpy(full + strlen(LABEL_PREFIX), label, strlen(label));
    wire_writer_init(&writer, info, sizeof(info));
    wire_put_u16(&writer, (uint16_t)out_size);
    wire_put_string(&writer, 1, full, strlen(full));
    wire_put_u8(&writer, 0); /* empty context */
    wire_put_u8(&writer, 1); /* the first block, and the last */
    done = hash != NULL && digest != NULL &&
           hash_padded(hash, digest, suite, secret, 0x36, info, wire_size(&writer), value) &&
           hash_padded(hash, digest, suite, secret, 0x5c, value, suite->hash_size, value);
    if (done)
        memcpy(out, value, out_size);
    OPENSSL_cleanse(value, sizeof(value));
    return done ? 0 : -1;
}

static EVP_MD_CTX *
new_hash(void)
{
    pthread_once(&digests_once, fetch_digests);
    return EVP_MD_CTX_new();
}

int
traffic_expand_label(const struct traffic_suite *suite, const uint8_t *secret, const char *label,
                     uint8_t *out, size_t out_size)
{
    EVP_MD_CTX *hash = new_hash();
    int result = expand(hash, suite, secret, label, out, out_size);

    EVP_MD_CTX_free(hash);
    return result;
}

int
traffic_keys_derive(const struct traffic_suite *suite, struct traffic_keys *keys)
{
    EVP_MD_CTX *hash = new_hash();
    int result;

    memset(keys->key, 0, sizeof(keys->key));
    result = expand(hash, suite, keys->secret, "key", keys->key, suite->key_size);
    if (result == 0)
        result = expand(hash, suite, keys->secret, "iv", keys->iv, sizeof(keys->iv));
    EVP_MD_CTX_free(hash);
    return result;
}

int
traffic_keys_update(const struct traffic_suite *suite, struct traffic_keys *keys)
{
    struct traffic_keys next;
    int result = -1;

    memset(&next, 0, sizeof(next));
    if (traffic_expand_label(suite, keys->secret, "traffic upd", next.secret, suite->hash_size) ==
            0 &&
        traffic_keys_derive(suite, &next) == 0) {
        *keys = next;
        result = 0;
    }
    OPENSSL_cleanse(&next, sizeof(next));
    return result;
}

static void
put_keys(struct wire_writer *writer, const struct traffic_keys *keys)
{
    wire_put_u64(writer, keys->sequence);
    wire_put_u64(writer, keys->explicit_nonce);
    wire_put_bytes(writer, keys->secret, sizeof(keys->secret));
    wire_put_bytes(writer, keys->key, sizeof(keys->key));
    wire_put_bytes(writer, keys->iv, sizeof(keys->iv));
}

static void
get_keys(struct wire_reader *reader, struct traffic_keys *keys)
{
    keys->sequence = wire_get_u64(reader);
    keys->explicit_nonce = wire_get_u64(reader);
    wire_get_bytes(reader, keys->secret, sizeof(keys->secret));
    wire_get_bytes(reader, keys->key, sizeof(keys->key));
    wire_get_bytes(reader, keys->iv, sizeof(keys->iv));
}

void
traffic_put_state(struct wire_writer *writer, const struct traffic_state *state)
{
    wire_put_u16(writer, state->suite);
    wire_put_u16(writer, state->max_fragment);
    put_keys(writer, &state->send);
    put_keys(writer, &state->receive);
}

void
traffic_get_state(struct wire_reader *reader, struct traffic_state *state)
{
    state->suite = wire_get_u16(reader);
    state->max_fragment = wire_get_u16(reader);
    get_keys(reader, &state->send);
    get_keys(reader, &state->receive);
}
