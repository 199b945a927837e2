/*
 * test_export.c: the record state taken out of OpenSSL, against OpenSSL itself as the peer.
 *
 * A server (OpenSSL on our transport BIO) and a client (plain OpenSSL) shake hands over a socket
 * pair; the exported state drives a stream; client and stream must understand each
 * other from the first record on. Tables: versions and suites, full and resumed, number of
 * tickets, bytes glued to the client's Finished, the gate.
 */
#include <check.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ec.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/export.h"
#include "agent/keyschedule.h"
#include "agent/transport.h"
#include "client/stream.h"

struct server {
    SSL *ssl;
    struct transport transport;
    struct export_state collected;
    int fd;
};

static SSL_CTX *server_ctx, *client_ctx;
static SSL_SESSION *saved;

static struct export_state *
export_of(const SSL *ssl)
{
    struct server *server = SSL_get_app_data(ssl);

    return &server->collected;
}

static int
save_session(SSL *ssl, SSL_SESSION *session)
{
    (void)ssl;
    SSL_SESSION_free(saved);
    saved = session;
    return 1;
}

static void
make_contexts(int version, const char *suite, size_t tickets)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = X509_new();

    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), 0);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    X509_set_pubkey(certificate, key);
    ck_assert_int_gt(X509_sign(certificate, key, EVP_sha256()), 0);
    ck_assert_int_eq(keyschedule_load(NULL), 0);
    server_ctx = SSL_CTX_new(TLS_server_method());
    client_ctx = SSL_CTX_new(TLS_client_method());
    ck_assert_int_eq(SSL_CTX_use_certificate(server_ctx, certificate), 1);
    ck_assert_int_eq(SSL_CTX_use_PrivateKey(server_ctx, key), 1);
    for (int i = 0; i < 2; i++) {
        SSL_CTX *ctx = i == 0 ? server_ctx : client_ctx;

        SSL_CTX_set_min_proto_version(ctx, version);
        SSL_CTX_set_max_proto_version(ctx, version);
        if (version == TLS1_3_VERSION)
            ck_assert_int_eq(SSL_CTX_set_ciphersuites(ctx, suite), 1);
        else
            ck_assert_int_eq(SSL_CTX_set_cipher_list(ctx, suite), 1);
    }
    SSL_CTX_set_num_tickets(server_ctx, tickets);
    SSL_CTX_set_session_id_context(server_ctx, (const unsigned char *)"test", 4);
    SSL_CTX_set_session_cache_mode(client_ctx, SSL_SESS_CACHE_CLIENT);
    SSL_CTX_sess_set_new_cb(client_ctx, save_session);
    export_observe(server_ctx, export_of);
    X509_free(certificate);
    EVP_PKEY_free(key);
}

static void
free_contexts(void)
{
    SSL_CTX_free(server_ctx);
    SSL_CTX_free(client_ctx);
    SSL_SESSION_free(saved);
    saved = NULL;
}

/* The handshake takes nothing out of the socket that OpenSSL has not asked for (kernel TLS may
 * follow): over TCP, for that is where it is done. */
static bool exact;

static void
use_exact_mode(void)
{
    exact = true;
}

static int
tcp_pair(int pair[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM, 0);

    pair[1] = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, size) == -1 || listen(listener, 1) == -1 ||
        getsockname(listener, (struct sockaddr *)&address, &size) == -1 ||
        connect(pair[1], (struct sockaddr *)&address, size) == -1)
        return -1;
    pair[0] = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    close(listener);
    setsockopt(pair[1], IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    setsockopt(pair[0], IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    return fcntl(pair[1], F_SETFL, O_NONBLOCK);
}

/* A server on one end of a socket pair and a client on the other, both non-blocking. */
static SSL *
connect_pair(struct server *server)
{
    int pair[2];
    SSL *client = SSL_new(client_ctx);
    BIO *bio;

    if (exact)
        ck_assert_int_eq(tcp_pair(pair), 0);
    else
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    server->fd = pair[0];
    transport_init(&server->transport, pair[0]);
    if (exact)
        transport_set_exact(&server->transport);
    export_init(&server->collected);
    server->ssl = SSL_new(server_ctx);
    bio = transport_bio(&server->transport);
    SSL_set_bio(server->ssl, bio, bio);
    SSL_set_app_data(server->ssl, server);
    ck_assert_int_eq(SSL_set_fd(client, pair[1]), 1);
    return client;
}

/* As handshake_run() does it. */
static int
server_step(struct server *server)
{
    int result = 1;

    export_resume(server->ssl, &server->collected);
    if (!SSL_is_init_finished(server->ssl))
        result = SSL_accept(server->ssl);
    return transport_flush(&server->transport) == 0 ? result : -1;
}

static void
shake_hands(struct server *server, SSL *client)
{
    int server_done = 0, client_done = 0;

    for (int i = 0; i < 100 && !(server_done && client_done); i++) {
        if (!client_done)
            client_done = SSL_connect(client) == 1;
        if (!server_done)
            server_done = server_step(server) == 1;
    }
    ck_assert(client_done && server_done);
}

/* Export, drop OpenSSL's server, go on with a stream. */
static void
hand_back(struct server *server, struct stream *stream)
{
    struct traffic_state state;
    struct error error = {""};
    const uint8_t *early;
    size_t early_size;

    ck_assert_msg(
        export_take(server->ssl, &server->collected, &server->transport, &state, &error) == 0, "%s",
        error.text);
    SSL_set_shutdown(server->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(server->ssl);
    export_wipe(&server->collected);
    ck_assert(transport_settle(&server->transport));
    early = transport_early(&server->transport, &early_size);
    ck_assert(!exact || early_size == 0);
    ck_assert_int_eq(stream_start(stream, server->fd, &state, true, early, early_size, &error), 0);
}

static void
converse(struct stream *stream, SSL *client)
{
    static uint8_t sent[70000], got[70000];
    struct error error = {""};

    ck_assert_int_eq(RAND_bytes(sent, sizeof(sent)), 1);
    for (size_t size = 1; size <= sizeof(sent); size = size * 3 + 1) {
        size_t done = 0, written = 0;

        while (done < size) { /* server to client */
            ssize_t n;
            int m;

            if (written < size) {
                n = stream_write(stream, sent + written, size - written, &error);
                ck_assert_msg(n > 0 || n == STREAM_WANT_POLLOUT, "%s", error.text);
                written += n > 0 ? (size_t)n : 0;
            } else {
                stream_flush(stream, &error);
            }
            m = SSL_read(client, got + done, (int)(size - done));
            done += m > 0 ? (size_t)m : 0;
        }
        ck_assert_mem_eq(sent, got, size);
        for (done = 0, written = 0; done < size;) { /* client to server */
            ssize_t n;
            int m = written < size ? SSL_write(client, sent + written,
                                               (int)(size - written > 5000 ? 5000 : size - written))
                                   : 0;

            written += m > 0 ? (size_t)m : 0;
            n = stream_read(stream, got + done, size - done, &error);
            ck_assert_msg(n > 0 || n == STREAM_WANT_POLLIN, "%s", error.text);
            done += n > 0 ? (size_t)n : 0;
        }
        ck_assert_mem_eq(sent, got, size);
    }
}

static void
finish_pair(struct server *server, struct stream *stream, SSL *client)
{
    struct error error = {""};
    char byte;

    ck_assert_int_eq(stream_shutdown_send(stream, &error), 0);
    ck_assert_int_eq(SSL_read(client, &byte, 1), 0);
    ck_assert_int_eq(SSL_get_error(client, 0), SSL_ERROR_ZERO_RETURN);
    ck_assert_int_ge(SSL_shutdown(client), 0);
    ck_assert_int_eq(stream_read(stream, &byte, 1, &error), 0);
    stream_clear(stream);
    close(SSL_get_fd(client));
    close(server->fd);
    SSL_free(client);
}

static const struct {
    int version;
    const char *suite;
    size_t tickets;
} cases[] = {
    {TLS1_3_VERSION, "TLS_AES_128_GCM_SHA256", 0},
    {TLS1_3_VERSION, "TLS_AES_128_GCM_SHA256", 1},
    {TLS1_3_VERSION, "TLS_AES_256_GCM_SHA384", 2},
    {TLS1_3_VERSION, "TLS_CHACHA20_POLY1305_SHA256", 5},
    {TLS1_2_VERSION, "ECDHE-ECDSA-AES128-GCM-SHA256", 2},
    {TLS1_2_VERSION, "ECDHE-ECDSA-AES256-GCM-SHA384", 2},
    {TLS1_2_VERSION, "ECDHE-ECDSA-CHACHA20-POLY1305", 2},
};
#define CASES (int)(sizeof(cases) / sizeof(cases[0]))

START_TEST(peer_understands_full_and_resumed)
{
    make_contexts(cases[_i].version, cases[_i].suite, cases[_i].tickets);
    for (int round = 0; round < 3; round++) {
        struct server server;
        struct stream stream;
        SSL *client = connect_pair(&server);
        int expect_resumed = round > 0 && cases[_i].tickets > 0;

        if (saved != NULL)
            SSL_set_session(client, saved);
        shake_hands(&server, client);
        ck_assert_int_eq(SSL_session_reused(client), expect_resumed);
        hand_back(&server, &stream);
        converse(&stream, client);
        finish_pair(&server, &stream, client);
    }
    free_contexts();
}
END_TEST

/* The client's Finished and its first request in one send(), cut at each byte offset: whatever part
 * the handshake has read ahead, every byte reaches the stream exactly once. */
START_TEST(request_glued_to_finished)
{
    for (size_t cut = 0;; cut++) {
        struct server server;
        struct stream stream;
        struct error error = {""};
        SSL *client;
        uint8_t flight[4096];
        char got[64] = "";
        size_t size, done = 0;
        BIO *from_client = BIO_new(BIO_s_mem()), *to_client = BIO_new(BIO_s_mem());
        int peer;

        make_contexts(cases[_i].version, cases[_i].suite, cases[_i].tickets);
        client = connect_pair(&server);
        peer = SSL_get_fd(client);
        SSL_set_bio(client, to_client, from_client);
        for (int i = 0; i < 10 && !SSL_is_init_finished(client); i++) {
            SSL_connect(client);
            if (SSL_is_init_finished(client))
                break; /* Finished is in from_client, not yet sent */
            while (BIO_pending(from_client) > 0 && cases[_i].version == TLS1_3_VERSION) {
                int n = BIO_read(from_client, flight, sizeof(flight));
                ck_assert_int_eq(send(peer, flight, (size_t)n, 0), n);
            }
            while (BIO_pending(from_client) > 0) {
                int n = BIO_read(from_client, flight, sizeof(flight));
                ck_assert_int_eq(send(peer, flight, (size_t)n, 0), n);
            }
            server_step(&server);
            for (ssize_t n; (n = recv(peer, flight, sizeof(flight), 0)) > 0;)
                ck_assert_int_eq(BIO_write(to_client, flight, (int)n), n);
        }
        ck_assert(SSL_is_init_finished(client));
        ck_assert_int_eq(SSL_write(client, "first request", 13), 13);
        size = (size_t)BIO_read(from_client, flight, sizeof(flight));
        if (cut > size) {
            SSL_free(client);
            SSL_free(server.ssl);
            close(peer);
            close(server.fd);
            free_contexts();
            break;
        }
        ck_assert_int_eq(send(peer, flight, cut, 0), (ssize_t)cut);
        server_step(&server);
        if (cut < size)
            ck_assert_int_eq(send(peer, flight + cut, size - cut, 0), (ssize_t)(size - cut));
        if (!SSL_is_init_finished(server.ssl))
            ck_assert_int_eq(server_step(&server), 1);
        hand_back(&server, &stream);
        while (done < 13) {
            ssize_t n = stream_read(&stream, got + done, sizeof(got) - done, &error);
            ck_assert_msg(n > 0, "cut %zu: %s", cut, error.text);
            done += (size_t)n;
        }
        ck_assert_str_eq(got, "first request");
        stream_clear(&stream);
        SSL_free(client);
        close(peer);
        close(server.fd);
        free_contexts();
    }
}
END_TEST

/* The key log belongs to the SSL_CTX, not to the connection. */
START_TEST(handshakes_of_one_context_interleave)
{
    struct server servers[3];
    SSL *clients[3];
    struct traffic_state state;

    make_contexts(TLS1_3_VERSION, "TLS_AES_128_GCM_SHA256", 2);
    for (int i = 0; i < 3; i++)
        clients[i] = connect_pair(&servers[i]);
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 3; i++)
            SSL_connect(clients[i]);
        for (int i = 2; i >= 0; i--)
            server_step(&servers[i]);
        /* As if another handshake of the context had stopped between Finished and its secret. */
        SSL_CTX_set_keylog_callback(server_ctx, NULL);
    }
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(
            export_take(servers[i].ssl, &servers[i].collected, &servers[i].transport, &state, NULL),
            0);
        ck_assert(servers[i].collected.have_client_secret &&
                  servers[i].collected.have_server_secret && !servers[i].collected.want_secret);
        close(SSL_get_fd(clients[i]));
        SSL_free(clients[i]);
        SSL_free(servers[i].ssl);
        close(servers[i].fd);
    }
    free_contexts();
}
END_TEST

START_TEST(gate_refuses)
{
    struct server server;
    struct traffic_state state;
    struct error error = {""};
    SSL *client;

    make_contexts(TLS1_3_VERSION, "TLS_AES_128_GCM_SHA256", 1);
    client = connect_pair(&server);
    ck_assert_int_eq(export_take(server.ssl, &server.collected, &server.transport, &state, &error),
                     -1);
    shake_hands(&server, client);
    SSL_set_read_ahead(server.ssl, 1);
    error_clear(&error);
    ck_assert_int_eq(export_take(server.ssl, &server.collected, &server.transport, &state, &error),
                     -1);
    ck_assert_str_eq(error.text, "OpenSSL has read bytes that belong to the worker");
    SSL_set_read_ahead(server.ssl, 0);
    ck_assert_int_eq(export_take(server.ssl, &server.collected, &server.transport, &state, &error),
                     0);
    close(SSL_get_fd(client));
    SSL_free(client);
    SSL_free(server.ssl);
    close(server.fd);
    free_contexts();
}
END_TEST

START_TEST(max_fragment_is_exported)
{
    static const struct {
        uint8_t mode;
        unsigned expected;
    } table[] = {{TLSEXT_max_fragment_length_512, 512},
                 {TLSEXT_max_fragment_length_4096, 4096},
                 {TLSEXT_max_fragment_length_DISABLED, 16384}};

    for (size_t i = 0; i < 3; i++) {
        struct server server;
        struct stream stream;
        struct traffic_state state;
        SSL *client;

        make_contexts(TLS1_3_VERSION, "TLS_AES_128_GCM_SHA256", 0);
        SSL_CTX_set_tlsext_max_fragment_length(client_ctx, table[i].mode);
        client = connect_pair(&server);
        shake_hands(&server, client);
        ck_assert_int_eq(
            export_take(server.ssl, &server.collected, &server.transport, &state, NULL), 0);
        ck_assert_uint_eq(state.max_fragment, table[i].expected);
        hand_back(&server, &stream);
        converse(&stream, client);
        finish_pair(&server, &stream, client);
        free_contexts();
    }
}
END_TEST

/* The nonce of TLS 1.2 GCM follows the one of our Finished, also when records are written in
 * pieces. */
START_TEST(last_nonce_is_found_across_partial_writes)
{
    static const uint8_t records[] = {22,   3,    3,    0,    3,    1,    2,    3,    20,  3,
                                      3,    0,    1,    1,    22,   3,    3,    0,    10,  0x10,
                                      0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19};
    int pair[2];

    for (size_t cut = 1; cut < sizeof(records); cut++) {
        struct transport transport;
        BIO *bio;

        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
        transport_init(&transport, pair[0]);
        bio = transport_bio(&transport);
        ck_assert_int_eq(BIO_write(bio, records, (int)cut), (int)cut);
        ck_assert_int_eq(BIO_write(bio, records + cut, (int)(sizeof(records) - cut)),
                         (int)(sizeof(records) - cut));
        ck_assert_uint_eq(transport_last_nonce(&transport), 0x1011121314151617U);
        BIO_free(bio);
        close(pair[0]);
        close(pair[1]);
    }
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("export");
    TCase *tcase = tcase_create("export"), *exactly = tcase_create("exact reading");
    SRunner *runner;
    int failed;

    tcase_add_loop_test(tcase, peer_understands_full_and_resumed, 0, CASES);
    tcase_add_loop_test(tcase, request_glued_to_finished, 0, CASES);
    tcase_add_test(tcase, handshakes_of_one_context_interleave);
    tcase_add_checked_fixture(exactly, use_exact_mode, NULL);
    tcase_add_loop_test(exactly, peer_understands_full_and_resumed, 0, CASES);
    tcase_add_loop_test(exactly, request_glued_to_finished, 0, CASES);
    tcase_set_timeout(exactly, 120);
    suite_add_tcase(suite, exactly);
    tcase_add_test(tcase, gate_refuses);
    tcase_add_test(tcase, max_fragment_is_exported);
    tcase_add_test(tcase, last_nonce_is_found_across_partial_writes);
    tcase_set_timeout(tcase, 120);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
