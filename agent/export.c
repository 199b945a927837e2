/* export.c: see export.h. Each rule here has a test in tests/unit/test_export.c. */
#include "agent/export.h"

#include <openssl/crypto.h>
#include <string.h>

#include "agent/keyschedule.h"
#include "agent/log.h"
#include "agent/tls12prf.h"

static struct export_state *(*find_export)(const SSL *ssl);

void
export_init(struct export_state *state)
{
    memset(state, 0, sizeof(*state));
    state->alert_sent = state->alert_received = -1;
}

/* The handshake whose next derived secret is one that we need: libssl derives it right behind a
 * Finished message, but perhaps only when it is called again, after others have run. */
static struct {
    struct export_state *state; /* NULL: none */
    bool server;
} awaiting;

static struct export_state *running; /* the handshake that libssl goes on with; NULL: none */

void
export_wipe(struct export_state *state)
{
    if (awaiting.state == state)
        awaiting.state = NULL;
    if (running == state)
        running = NULL;
    OPENSSL_cleanse(state, sizeof(*state));
}

void
export_resume(const SSL *ssl, struct export_state *state)
{
    running = state;
    awaiting.state = state->want_secret ? state : NULL;
    awaiting.server = SSL_is_server(ssl) != 0;
}

/* Called with the content type of each record header, and with each alert. Sequence numbers count
 * records protected by the current keys: in TLS 1.2 a direction starts anew at its
 * ChangeCipherSpec; in TLS 1.3 ChangeCipherSpec is a decoy that is not counted, and a direction
 * starts anew when its traffic secret is derived. */
static void
observe_message(int sending, int version, int content_type, const void *bytes, size_t size,
                SSL *ssl, void *argument)
{
    struct export_state *state = find_export(ssl);
    const uint8_t *message = bytes;
    uint64_t *sequence;

    (void)version;
    (void)argument;
    if (state == NULL || size < 2)
        return;
    if (content_type == SSL3_RT_ALERT && message[0] == SSL3_AL_FATAL) {
        if (sending)
            state->alert_sent = message[1];
        else
            state->alert_received = message[1];
    }
    if (content_type == SSL3_RT_HANDSHAKE && message[0] == SSL3_MT_FINISHED &&
        SSL_version(ssl) == TLS1_3_VERSION) {
        state->want_secret = true;
        export_resume(ssl, state);
    }
    if (content_type != SSL3_RT_HEADER)
        return;
    sequence = sending ? &state->send_sequence : &state->receive_sequence;
    if (message[0] != SSL3_RT_CHANGE_CIPHER_SPEC)
        (*sequence)++;
    else if (SSL_version(ssl) == TLS1_2_VERSION)
        *sequence = 0;
}

static void
observe_secret(enum keyschedule_secret which, const uint8_t *secret, size_t size)
{
    struct export_state *state = awaiting.state;
    bool client = which == KEYSCHEDULE_CLIENT;

    if (state == NULL || size > TRAFFIC_SECRET_MAX)
        return;
    if (which == KEYSCHEDULE_RESUMPTION) { /* libssl derives it right before the client's */
        memcpy(state->resumption_secret, secret, size);
        state->have_resumption_secret = true;
        return;
    }
    awaiting.state = NULL;
    state->want_secret = false;
    memcpy(client ? state->client_secret : state->server_secret, secret, size);
    *(client ? &state->have_client_secret : &state->have_server_secret) = true;
    *(client == awaiting.server ? &state->receive_sequence : &state->send_sequence) = 0;
}

/* A later one, of a renegotiation that is never allowed, would take its place. */
static void
observe_key_block(const uint8_t *block, size_t size)
{
    if (running == NULL || size > sizeof(running->key_block))
        return;
    memcpy(running->key_block, block, size);
    running->key_block_size = size;
}

void
export_observe(SSL_CTX *ctx, struct export_state *(*export_of)(const SSL *ssl))
{
    find_export = export_of;
    keyschedule_observe(observe_secret);
    tls12prf_observe(observe_key_block);
    SSL_CTX_set_msg_callback(ctx, observe_message);
}

static int
take_tls13(SSL *ssl, const struct export_state *collected, const struct traffic_suite *suite,
           struct traffic_state *state, struct error *error)
{
    bool server = SSL_is_server(ssl) != 0;

    if (!collected->have_client_secret || !collected->have_server_secret)
        return error_set(error, "the traffic secrets were not derived by our key schedule");
    memcpy(state->send.secret, server ? collected->server_secret : collected->client_secret,
           suite->hash_size);
    memcpy(state->receive.secret, server ? collected->client_secret : collected->server_secret,
           suite->hash_size);
    if (traffic_keys_derive(suite, &state->send) == -1 ||
        traffic_keys_derive(suite, &state->receive) == -1)
        return error_set(error, "deriving traffic keys failed");
    return 0;
}

/* Key block of an AEAD suite: client key, server key, client IV, server IV. */
static int
take_tls12(const SSL *ssl, const struct export_state *collected, const struct transport *transport,
           const struct traffic_suite *suite, struct traffic_state *state, struct error *error)
{
    const uint8_t *block = collected->key_block;
    bool gcm = suite->aead != TRAFFIC_CHACHA20_POLY1305;
    size_t iv_size = gcm ? 4 : TRAFFIC_IV_SIZE, key_size = suite->key_size;
    struct traffic_keys *client = SSL_is_server(ssl) ? &state->receive : &state->send;
    struct traffic_keys *server = SSL_is_server(ssl) ? &state->send : &state->receive;

    if (collected->key_block_size != 2 * key_size + 2 * iv_size)
        return error_set(error, "the key block was not derived by our key schedule");
    memcpy(client->key, block, key_size);
    memcpy(server->key, block + key_size, key_size);
    memcpy(client->iv, block + 2 * key_size, iv_size);
    memcpy(server->iv, block + 2 * key_size + iv_size, iv_size);
    /* Our last record was Finished: OpenSSL's counter goes on from its nonce. */
    if (gcm)
        state->send.explicit_nonce = transport_last_nonce(transport) + 1;
    return 0;
}

/* RFC 6066 section 4: what the client asked for, else the protocol's maximum. */
static uint16_t
max_fragment(const SSL *ssl)
{
    uint8_t code = SSL_SESSION_get_max_fragment_length(SSL_get_session(ssl));

    return code >= TLSEXT_max_fragment_length_512 && code <= TLSEXT_max_fragment_length_4096
               ? (uint16_t)(256 << code)
               : TRAFFIC_PLAINTEXT_MAX;
}

int
export_take(SSL *ssl, const struct export_state *collected, const struct transport *transport,
            struct traffic_state *state, struct error *error)
{
    const SSL_CIPHER *cipher = SSL_get_current_cipher(ssl);
    const struct traffic_suite *suite =
        cipher != NULL ? traffic_suite_find(SSL_CIPHER_get_protocol_id(cipher)) : NULL;

    memset(state, 0, sizeof(*state));
    if (!SSL_is_init_finished(ssl))
        return error_set(error, "the handshake is not finished");
    if (SSL_get_read_ahead(ssl) || SSL_has_pending(ssl) || SSL_pending(ssl) != 0)
        return error_set(error, "OpenSSL has read bytes that belong to the worker");
    if (suite == NULL || suite->version != SSL_version(ssl))
        return error_set(error, "a connection with suite %s cannot be handed back",
                         cipher != NULL ? SSL_CIPHER_get_name(cipher) : "(none)");
    state->suite = suite->id;
    state->max_fragment = max_fragment(ssl);
    state->send.sequence = collected->send_sequence;
    state->receive.sequence = collected->receive_sequence;
    if (suite->version == TRAFFIC_TLS_1_3)
        return take_tls13(ssl, collected, suite, state, error);
    return take_tls12(ssl, collected, transport, suite, state, error);
}
