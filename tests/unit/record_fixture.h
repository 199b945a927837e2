/*
 * record_fixture.h: what the tests of the record layer and of the stream share: states that fit
 * each other, and records that no honest peer would make. Independent of client/record.c on
 * purpose: it seals with libcrypto directly.
 */
#ifndef TESTS_RECORD_FIXTURE_H
#define TESTS_RECORD_FIXTURE_H

#include <check.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

#include "client/record.h"
#include "protocol/traffic.h"

static const uint16_t fixture_suites[] = {0x1301, 0x1302, 0x1303, 0xc02b, 0xc02c,
                                          0xc02f, 0xc030, 0xcca8, 0xcca9};
#define FIXTURE_SUITES 9
#define FIXTURE_NONCE  UINT64_C(0xfffffffffffffff0) /* explicit nonces wrap around in the tests */

static inline void
fixture_keys(const struct traffic_suite *suite, struct traffic_keys *keys, uint8_t seed)
{
    size_t i;

    memset(keys, 0, sizeof(*keys));
    for (i = 0; i < TRAFFIC_SECRET_MAX; i++) {
        if (suite->version == TRAFFIC_TLS_1_3 && i < suite->hash_size)
            keys->secret[i] = (uint8_t)(seed + i);
        if (i < suite->key_size)
            keys->key[i] = (uint8_t)(seed * 3 + i);
        if (i < (suite->aead == TRAFFIC_CHACHA20_POLY1305 ? 12U : 4U))
            keys->iv[i] = (uint8_t)(seed * 5 + i);
    }
    if (suite->version == TRAFFIC_TLS_1_3)
        ck_assert_int_eq(traffic_keys_derive(suite, keys), 0);
    else
        keys->sequence = 1;
}

/* Two states that fit each other. */
static inline void
fixture_states(uint16_t suite_id, uint16_t max_fragment, struct traffic_state *server,
               struct traffic_state *client)
{
    const struct traffic_suite *suite = traffic_suite_find(suite_id);
    bool explicit_nonce =
        suite->version == TRAFFIC_TLS_1_2 && suite->aead != TRAFFIC_CHACHA20_POLY1305;

    memset(server, 0, sizeof(*server));
    server->suite = suite_id;
    server->max_fragment = max_fragment;
    fixture_keys(suite, &server->send, 1);
    fixture_keys(suite, &server->receive, 77);
    *client = *server;
    client->send = server->receive;
    client->receive = server->send;
    if (explicit_nonce)
        server->send.explicit_nonce = client->send.explicit_nonce = FIXTURE_NONCE;
}

/* Seal anything: `inner` goes under the AEAD as it is (TLS 1.3: with type and padding). Uses up one
 * sequence number of keys. Returns the record's size. */
static inline size_t
fixture_forge(const struct traffic_suite *suite, struct traffic_keys *keys, uint8_t type,
              const void *inner, size_t size, uint8_t *out)
{
    static const char *const names[] = {"AES-128-GCM", "AES-256-GCM", "ChaCha20-Poly1305"};
    bool tls13 = suite->version == TRAFFIC_TLS_1_3;
    bool explicit_nonce = !tls13 && suite->aead != TRAFFIC_CHACHA20_POLY1305;
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, names[suite->aead - 1], NULL);
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    size_t length = size + TRAFFIC_TAG_SIZE + (explicit_nonce ? 8 : 0);
    uint8_t nonce[12], aad[13], sequence[8], *next = out + 5;
    int n, i;

    for (i = 0; i < 8; i++)
        sequence[i] = (uint8_t)(keys->sequence >> (56 - 8 * i));
    memcpy(nonce, keys->iv, 12);
    out[0] = type;
    out[1] = out[2] = 3;
    out[3] = (uint8_t)(length >> 8);
    out[4] = (uint8_t)length;
    if (explicit_nonce) {
        for (i = 0; i < 8; i++)
            nonce[4 + i] = out[5 + i] = (uint8_t)(keys->explicit_nonce >> (56 - 8 * i));
        keys->explicit_nonce++;
        next += 8;
    } else {
        for (i = 0; i < 8; i++)
            nonce[4 + i] ^= sequence[i];
    }
    memcpy(aad, sequence, 8);
    memcpy(aad + 8, out, 3);
    aad[11] = (uint8_t)(size >> 8);
    aad[12] = (uint8_t)size;
    ck_assert_int_eq(EVP_EncryptInit_ex(context, cipher, NULL, keys->key, nonce), 1);
    ck_assert_int_eq(EVP_EncryptUpdate(context, NULL, &n, tls13 ? out : aad, tls13 ? 5 : 13), 1);
    if (size > 0)
        ck_assert_int_eq(EVP_EncryptUpdate(context, next, &n, inner, (int)size), 1);
    next += size;
    ck_assert_int_eq(EVP_EncryptFinal_ex(context, next, &n), 1);
    ck_assert_int_eq(EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, 16, next), 1);
    EVP_CIPHER_CTX_free(context);
    EVP_CIPHER_free(cipher);
    keys->sequence++;
    return (size_t)(next + 16 - out);
}

static inline void
fixture_fill(uint8_t *data, size_t size, uint32_t seed)
{
    size_t i;

    for (i = 0; i < size; i++) {
        seed = seed * 1664525 + 1013904223;
        data[i] = (uint8_t)(seed >> 24);
    }
}

#endif
