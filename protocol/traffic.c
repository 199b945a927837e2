/*
 * traffic.c: the table of suites, and the part of the TLS 1.3 key schedule that a record layer
 * needs.
 *
 * Used by the handshaker (secrets to keys, for the export) and by the worker's record layer
 * (KeyUpdate). Everything here is computed from the caller's own secrets.
 */
#include "protocol/traffic.h"

#include <string.h>

#include <openssl/crypto.h>

#include "protocol/hkdf.h"
#include "protocol/wire.h"

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

const struct traffic_suite *
traffic_suite_find(uint16_t id)
{
    size_t i;

    for (i = 0; i < sizeof(suites) / sizeof(suites[0]); i++)
        if (suites[i].id == id)
            return &suites[i];
    return NULL;
}

int
traffic_expand_label(const struct traffic_suite *suite, const uint8_t *secret, const char *label,
                     uint8_t *out, size_t out_size)
{
    static const char prefix[] = "tls13 ";
    struct hkdf_label full = {.prefix = (const uint8_t *)prefix,
                              .prefix_size = sizeof(prefix) - 1,
                              .label = (const uint8_t *)label,
                              .label_size = strlen(label)};

    return hkdf_expand_label(suite->hash_size, secret, &full, out, out_size) ? 0 : -1;
}

int
traffic_keys_derive(const struct traffic_suite *suite, struct traffic_keys *keys)
{
    memset(keys->key, 0, sizeof(keys->key));
    if (traffic_expand_label(suite, keys->secret, "key", keys->key, suite->key_size) == -1)
        return -1;
    return traffic_expand_label(suite, keys->secret, "iv", keys->iv, sizeof(keys->iv));
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
