/*
 * openssl_fixture.h: OpenSSL does a handshake on both sides; the record state of one side is
 * exported as field notes say (independently of agent/export.c), for a test that takes that side
 * over.
 */
#ifndef TESTS_OPENSSL_FIXTURE_H
#define TESTS_OPENSSL_FIXTURE_H

#include "tests/unit/record_fixture.h"

#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <openssl/rsa.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

static int fds[2]; /* ours, the peer's */
static SSL *peer;  /* OpenSSL, on fds[1] */

/* ---- the export ---- */

static struct exported {
    SSL *ssl; /* the side that is handed over, on memory BIOs */
    struct traffic_state state;
    uint64_t sent, received; /* records since the last change of keys */
    uint8_t flight[16384];   /* what it has written: for the explicit nonce */
    size_t flight_size;
    uint8_t *early; /* what came beyond the handshake: as long as ssl lives */
    size_t early_size;
} half;

static void
count_records(int write_p, int version, int content_type, const void *data, size_t size, SSL *ssl,
              void *argument)
{
    const uint8_t *header = data;

    (void)version, (void)size, (void)argument;
    if (ssl != half.ssl || content_type != SSL3_RT_HEADER)
        return;
    if (header[0] == SSL3_RT_CHANGE_CIPHER_SPEC) {
        if (SSL_version(ssl) == TLS1_2_VERSION)
            *(write_p ? &half.sent : &half.received) = 0;
        return;
    }
    ++*(write_p ? &half.sent : &half.received);
}

static void
keep_secret(const SSL *ssl, const char *line)
{
    bool server_line = strncmp(line, "SERVER_TRAFFIC_SECRET_0 ", 24) == 0;
    bool client_line = strncmp(line, "CLIENT_TRAFFIC_SECRET_0 ", 24) == 0;
    bool sending = server_line == (bool)SSL_is_server(ssl);
    struct traffic_keys *keys = sending ? &half.state.send : &half.state.receive;
    const char *hex = strrchr(line, ' ') + 1;
    size_t i;

    if (ssl != half.ssl || (!server_line && !client_line))
        return;
    for (i = 0; i < TRAFFIC_SECRET_MAX && hex[2 * i] != '\0'; i++) {
        char byte[3] = {hex[2 * i], hex[2 * i + 1], '\0'};

        keys->secret[i] = (uint8_t)strtoul(byte, NULL, 16);
    }
    *(sending ? &half.sent : &half.received) = 0;
}

/* Key block of TLS 1.2: client key, server key, client IV, server IV. */
static void
export_tls12(const struct traffic_suite *suite)
{
    size_t iv_size = suite->aead == TRAFFIC_CHACHA20_POLY1305 ? 12 : 4, master_size, at = 0, next;
    struct traffic_keys *client = SSL_is_server(half.ssl) ? &half.state.receive : &half.state.send;
    struct traffic_keys *server = SSL_is_server(half.ssl) ? &half.state.send : &half.state.receive;
    uint8_t master[48], seed[13 + 64] = "key expansion", block[128];
    char digest[] = "SHA2-256", digest384[] = "SHA2-384";
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "TLS1-PRF", NULL);
    EVP_KDF_CTX *context = EVP_KDF_CTX_new(kdf);
    OSSL_PARAM params[4];
    int i;

    master_size = SSL_SESSION_get_master_key(SSL_get_session(half.ssl), master, sizeof(master));
    SSL_get_server_random(half.ssl, seed + 13, 32);
    SSL_get_client_random(half.ssl, seed + 45, 32);
    params[0] =
        OSSL_PARAM_construct_utf8_string("digest", suite->hash_size == 48 ? digest384 : digest, 0);
    params[1] = OSSL_PARAM_construct_octet_string("secret", master, master_size);
    params[2] = OSSL_PARAM_construct_octet_string("seed", seed, sizeof(seed));
    params[3] = OSSL_PARAM_construct_end();
    ck_assert_int_eq(EVP_KDF_derive(context, block, 2 * (suite->key_size + iv_size), params), 1);
    EVP_KDF_CTX_free(context);
    EVP_KDF_free(kdf);
    memcpy(client->key, block, suite->key_size);
    memcpy(server->key, block + suite->key_size, suite->key_size);
    memcpy(client->iv, block + 2 * suite->key_size, iv_size);
    memcpy(server->iv, block + 2 * suite->key_size + iv_size, iv_size);
    if (suite->aead == TRAFFIC_CHACHA20_POLY1305)
        return;

    /* Finished is our last record; the next one's nonce is one more than its. */
    for (next = 0; next + 5 <= half.flight_size;) {
        at = next;
        next += 5 + ((size_t)half.flight[at + 3] << 8 | half.flight[at + 4]);
    }
    for (i = 0; i < 8; i++)
        half.state.send.explicit_nonce =
            half.state.send.explicit_nonce << 8 | half.flight[at + 5 + (size_t)i];
    half.state.send.explicit_nonce++;
}

static void
export_state(uint16_t suite_id)
{
    const struct traffic_suite *suite = traffic_suite_find(suite_id);

    ck_assert_int_eq(SSL_version(half.ssl), suite->version);
    ck_assert_str_eq(SSL_get_cipher_name(half.ssl), suite->name);
    half.state.suite = suite_id;
    half.state.max_fragment = TRAFFIC_PLAINTEXT_MAX;
    half.state.send.sequence = half.sent;
    half.state.receive.sequence = half.received;
    if (suite->version == TRAFFIC_TLS_1_2) {
        export_tls12(suite);
    } else {
        ck_assert_int_eq(traffic_keys_derive(suite, &half.state.send), 0);
        ck_assert_int_eq(traffic_keys_derive(suite, &half.state.receive), 0);
    }
}

/* ---- the handshake ---- */

static void
use_certificate(SSL_CTX *context, bool rsa)
{
    EVP_PKEY *key = rsa ? EVP_RSA_gen(2048) : EVP_EC_gen("P-256");
    X509 *certificate = X509_new();

    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -60);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    X509_set_pubkey(certificate, key);
    ck_assert_int_gt(X509_sign(certificate, key, EVP_sha256()), 0);
    ck_assert_int_eq(SSL_CTX_use_certificate(context, certificate), 1);
    ck_assert_int_eq(SSL_CTX_use_PrivateKey(context, key), 1);
    X509_free(certificate);
    EVP_PKEY_free(key);
}

static SSL *
make_ssl(const struct traffic_suite *suite, bool server)
{
    SSL_CTX *context = SSL_CTX_new(TLS_method());
    SSL *ssl;

    if (server)
        use_certificate(context, strstr(suite->name, "RSA") != NULL);
    ck_assert_int_eq(SSL_CTX_set_min_proto_version(context, suite->version), 1);
    ck_assert_int_eq(SSL_CTX_set_max_proto_version(context, suite->version), 1);
    if (suite->version == TRAFFIC_TLS_1_3)
        ck_assert_int_eq(SSL_CTX_set_ciphersuites(context, suite->name), 1);
    else
        ck_assert_int_eq(SSL_CTX_set_cipher_list(context, suite->name), 1);
    SSL_CTX_set_msg_callback(context, count_records);
    SSL_CTX_set_keylog_callback(context, keep_secret);
    ssl = SSL_new(context);
    SSL_CTX_free(context);
    ck_assert_ptr_nonnull(ssl);
    if (server)
        SSL_set_accept_state(ssl);
    else
        SSL_set_connect_state(ssl);
    return ssl;
}

/* Move bytes between the socket and the half that is handed over. */
static void
pump(void)
{
    uint8_t bytes[16384];
    ssize_t n;
    int size;

    size = BIO_read(SSL_get_wbio(half.ssl), half.flight, sizeof(half.flight));
    if (size > 0) {
        half.flight_size = (size_t)size;
        ck_assert_int_eq(send(fds[0], half.flight, (size_t)size, MSG_DONTWAIT), size);
    }
    n = SSL_is_init_finished(half.ssl) ? 0 : recv(fds[0], bytes, sizeof(bytes), MSG_DONTWAIT);
    if (n > 0)
        ck_assert_int_eq(BIO_write(SSL_get_rbio(half.ssl), bytes, (int)n), n);
}

/* Handshake; then half has all for its side. early: the client says it in the flight of its
 * Finished. */
static void
fixture_handshake(uint16_t suite_id, bool is_server, const char *early)
{
    const struct traffic_suite *suite = traffic_suite_find(suite_id);
    long early_size;
    int done = 0, turns;

    signal(SIGPIPE, SIG_IGN); /* OpenSSL's own writes */
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    memset(&half, 0, sizeof(half));
    half.ssl = make_ssl(suite, is_server);
    SSL_set_bio(half.ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    peer = make_ssl(suite, !is_server);
    ck_assert_int_eq(SSL_set_fd(peer, fds[1]), 1);
    for (turns = 0; done != 3; turns++) {
        ck_assert_int_lt(turns, 50);
        if (SSL_do_handshake(peer) == 1 && !(done & 1)) {
            done |= 1;
            if (early != NULL)
                ck_assert_int_eq(SSL_write(peer, early, (int)strlen(early)), (int)strlen(early));
        }
        if (SSL_do_handshake(half.ssl) == 1)
            done |= 2;
        pump();
    }
    export_state(suite_id);
    early_size = BIO_get_mem_data(SSL_get_rbio(half.ssl), (char **)&half.early);
    half.early_size = (size_t)early_size;
}

/* The stream has taken over. */
static void
fixture_handed_over(void)
{
    SSL_set_shutdown(half.ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(half.ssl);
    half.ssl = NULL;
}

#endif
