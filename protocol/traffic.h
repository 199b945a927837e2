/*
 * traffic.h: the record state of one connection, and how traffic keys follow from secrets.
 *
 * This is what a handshaker exports when a handshake is finished and what a worker's record
 * layer (or kernel TLS) goes on with. It never holds a master secret, a resumption secret or
 * anything else that outlives or reaches beyond its own connection.
 *
 * Sources: RFC 8446 sections 7.1 to 7.3 (TLS 1.3 key schedule, KeyUpdate), RFC 5246 section
 * 6.3, RFC 5288 and RFC 7905 (TLS 1.2 AEAD keys and nonces).
 */
#ifndef PROTOCOL_TRAFFIC_H
#define PROTOCOL_TRAFFIC_H

#include <stddef.h>
#include <stdint.h>

#include "protocol/wire.h"

#define TRAFFIC_TLS_1_2 0x0303
#define TRAFFIC_TLS_1_3 0x0304

#define TRAFFIC_SECRET_MAX    48
#define TRAFFIC_KEY_MAX       32
#define TRAFFIC_IV_SIZE       12
#define TRAFFIC_TAG_SIZE      16
#define TRAFFIC_PLAINTEXT_MAX 16384 /* RFC 8446 section 5.1 */

/* Bytes of a state in a message. */
#define TRAFFIC_KEYS_SIZE  (8 + 8 + TRAFFIC_SECRET_MAX + TRAFFIC_KEY_MAX + TRAFFIC_IV_SIZE)
#define TRAFFIC_STATE_SIZE (2 + 2 + 2 * TRAFFIC_KEYS_SIZE)

enum traffic_aead {
    TRAFFIC_AES_128_GCM = 1,
    TRAFFIC_AES_256_GCM,
    TRAFFIC_CHACHA20_POLY1305,
};

/* A cipher suite that a connection can be handed back with. */
struct traffic_suite {
    uint16_t id;      /* IANA number */
    uint16_t version; /* TRAFFIC_TLS_1_2 or TRAFFIC_TLS_1_3: a suite belongs to one */
    enum traffic_aead aead;
    uint8_t key_size;     /* bytes: 16 or 32 */
    uint8_t hash_size;    /* bytes of the handshake digest: 32 or 48 */
    const char *name;     /* OpenSSL's name, e.g. "ECDHE-RSA-AES128-GCM-SHA256" */
    const char *standard; /* IANA name, e.g. "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" */
};

/* One direction. */
struct traffic_keys {
    uint64_t sequence;                  /* of the next record */
    uint64_t explicit_nonce;            /* TLS 1.2 GCM, sending: of the next record; else 0 */
    uint8_t secret[TRAFFIC_SECRET_MAX]; /* TLS 1.3 application traffic secret; TLS 1.2: zeros */
    uint8_t key[TRAFFIC_KEY_MAX];
    uint8_t iv[TRAFFIC_IV_SIZE]; /* TLS 1.2 GCM: 4 bytes (the salt), then zeros */
};

struct traffic_state {
    uint16_t suite;        /* IANA number; says the version too */
    uint16_t max_fragment; /* largest plaintext of a record that we may send, bytes */
    struct traffic_keys send;
    struct traffic_keys receive;
};

/* The suite with this IANA number, or NULL if connections with it cannot be handed back. */
const struct traffic_suite *traffic_suite_find(uint16_t id);

/* HKDF-Expand-Label (RFC 8446 section 7.1) with an empty context, from a secret of
 * suite->hash_size bytes. Returns 0, or -1 if libcrypto failed. */
int traffic_expand_label(const struct traffic_suite *suite, const uint8_t *secret,
                         const char *label, uint8_t *out, size_t out_size);

/* TLS 1.3: fill in key and iv from keys->secret. Sequence is left alone.
 * Returns 0, or -1 if libcrypto failed. */
int traffic_keys_derive(const struct traffic_suite *suite, struct traffic_keys *keys);

/* TLS 1.3 KeyUpdate (RFC 8446 section 7.2): next secret, its key and iv, sequence 0.
 * Returns 0, or -1 if libcrypto failed; then keys are unchanged. */
int traffic_keys_update(const struct traffic_suite *suite, struct traffic_keys *keys);

/* A state in a message (PROTOCOL.md, "FINISHED and DELIVERED"). What the values mean is checked by
 * the caller. */
void traffic_put_state(struct wire_writer *writer, const struct traffic_state *state);
void traffic_get_state(struct wire_reader *reader, struct traffic_state *state);

#endif
