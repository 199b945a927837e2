/*
 * export.h: take the record state of a finished handshake out of OpenSSL.
 *
 * OpenSSL has no call for it. What there is: our key schedule (keyschedule.h: TLS 1.3 traffic
 * secrets; RFC 8446 section 7.1; tls12prf.h: TLS 1.2 key block; RFC 5246 section 6.3), the message
 * callback (one call per record header: sequence numbers), and the bytes that it writes (the
 * explicit nonce of TLS 1.2 GCM). These are collected in a struct export_state while the handshake
 * runs.
 *
 * Only keys that belong to this one connection leave: never the master secret, never the
 * resumption secret, which is for our own tickets (newticket.h). The collection is wiped with the
 * handshake.
 */
#ifndef AGENT_EXPORT_H
#define AGENT_EXPORT_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>

#include "agent/transport.h"
#include "protocol/error.h"
#include "protocol/traffic.h"

/* Of the AEAD suites: two keys, two IVs. */
#define EXPORT_KEY_BLOCK_MAX (2 * TRAFFIC_KEY_MAX + 2 * TRAFFIC_IV_SIZE)

struct export_state {
    uint64_t send_sequence; /* records since the last change of keys */
    uint64_t receive_sequence;
    uint8_t client_secret[TRAFFIC_SECRET_MAX]; /* TLS 1.3 application traffic secrets */
    uint8_t server_secret[TRAFFIC_SECRET_MAX];
    uint8_t resumption_secret[TRAFFIC_SECRET_MAX];
    uint8_t key_block[EXPORT_KEY_BLOCK_MAX]; /* TLS 1.2 */
    size_t key_block_size;                   /* 0: not derived yet */
    bool have_client_secret;
    bool have_server_secret;
    bool have_resumption_secret;
    bool want_secret; /* the next thing that OpenSSL derives is one of them */
    int alert_sent;   /* TLS alert number of a fatal one, -1: none */
    int alert_received;
};

void export_init(struct export_state *state);

/* Have a context's handshakes tell what export_take() needs. export_of: finds the struct
 * export_state of an SSL (NULL: none). One function for all contexts of the process. Needs
 * keyschedule_load(). */
void export_observe(SSL_CTX *ctx, struct export_state *(*export_of)(const SSL *ssl));

/* Before each call that goes on with a handshake of an observed context. */
void export_resume(const SSL *ssl, struct export_state *state);

/* The gate and the export: refuses (-1 with an error) if the handshake is not finished, if OpenSSL
 * has swallowed bytes that belong to the worker, or if the connection's suite cannot be handed
 * back. On success state holds secrets: the caller wipes it. */
int export_take(SSL *ssl, const struct export_state *collected, const struct transport *transport,
                struct traffic_state *state, struct error *error);

void export_wipe(struct export_state *state);

#endif
