/* test_proxykey.c: real handshakes of libssl with keys and tickets in a real keeper, in memory. */
#include <check.h>
#include <sched.h>
#include <time.h>

#include <openssl/err.h>
#include <openssl/kdf.h>
#include <openssl/rsa.h>
#include <openssl/ssl.h>

#include "agent/keycall.h"
#include "agent/proxykey.h"
#include "agent/proxyticket.h"
#include "tests/unit/keeper_fixture.h"

static const uint8_t scope[KEYOPS_SCOPE_SIZE] = "context www, no client verify";

static struct keeper_run run;
static struct keycall *keeper;
static struct proxyticket *tickets;

static void
set_up(void)
{
    struct error error = {""};
    int fd = keeper_secret_fd();
    cpu_set_t one, allowed;

    /* On one CPU with its keeper, as a cell is. */
    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0)
        for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; cpu++)
            if (CPU_ISSET(cpu, &allowed))
                CPU_SET(cpu, &one);
    (void)sched_setaffinity(0, sizeof(one), &one);

    run = keeper_start(fd, -1);
    close(fd);
    keeper = keycall_open(run.peer, KEYCALL_DEADLINE_MS, &error);
    run.peer = -1;
    ck_assert_msg(keeper != NULL, "%s", error.text);
    ck_assert_msg(proxykey_load(&error) == 0, "%s", error.text);
    tickets = proxyticket_new(keeper, &error);
    ck_assert_msg(tickets != NULL, "%s", error.text);
}

static void
tear_down(void)
{
    proxyticket_free(tickets);
    keycall_close(keeper);
    keeper_stop(&run);
}

static EVP_PKEY *
proxy_of(uint32_t key)
{
    struct error error = {""};
    EVP_PKEY *proxy = proxykey_new(keeper, key, X509_get0_pubkey(keeper_certificates[key]), &error);

    ck_assert_msg(proxy != NULL, "%s", error.text);
    return proxy;
}

/* ---- handshakes ---- */

static SSL_CTX *
server_new(uint32_t key, int version)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    EVP_PKEY *proxy = proxy_of(key);

    SSL_CTX_set_min_proto_version(ctx, version);
    SSL_CTX_set_max_proto_version(ctx, version);
    ck_assert_int_eq(SSL_CTX_use_cert_and_key(ctx, keeper_certificates[key], proxy, NULL, 1), 1);
    ck_assert_int_eq(SSL_CTX_check_private_key(ctx), 1);
    EVP_PKEY_free(proxy);
    SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"test", 4);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    ck_assert_int_eq(proxyticket_enable(ctx), 0);
    return ctx;
}

static SSL_SESSION *ticket; /* the last that the client was given */

static int
keep_ticket(SSL *ssl, SSL_SESSION *session)
{
    (void)ssl;
    SSL_SESSION_free(ticket);
    ticket = session;
    return 1;
}

static SSL_CTX *
client_new(void)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());

    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    for (size_t i = 0; i < KEY_COUNT; i++)
        X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), keeper_certificates[i]);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(ctx, keep_ticket);
    return ctx;
}

static bool served = true; /* as the handshaker does it: keys come with what is signed */

/* Connect two SSLs by memory and shake hands. True if both finished. */
static bool
shake(SSL *client, SSL *server)
{
    BIO *up = BIO_new(BIO_s_mem()), *down = BIO_new(BIO_s_mem());
    char byte;

    BIO_up_ref(up);
    BIO_up_ref(down);
    SSL_set_bio(client, down, up);
    SSL_set_bio(server, up, down);
    SSL_set_connect_state(client);
    SSL_set_accept_state(server);
    for (int i = 0; i < 10; i++) {
        SSL_do_handshake(client);
        if (served)
            proxyticket_enter(tickets, server);
        SSL_do_handshake(server);
        proxyticket_leave(tickets);
    }
    if (!SSL_is_init_finished(client) || !SSL_is_init_finished(server))
        return false;
    ck_assert_int_eq(SSL_write(server, "x", 1), 1); /* brings the tickets in front of it */
    return SSL_read(client, &byte, 1) == 1 && byte == 'x';
}

struct outcome {
    bool done, resumed, renewed;
};

/* One connection, with the session (or none) and the scope (or none: not bound). */
static struct outcome
connect_once(SSL_CTX *server_ctx, SSL_CTX *client_ctx, SSL_SESSION *with, const uint8_t *of)
{
    SSL *client = SSL_new(client_ctx), *server = SSL_new(server_ctx);
    struct outcome outcome;

    if (with != NULL)
        ck_assert_int_eq(SSL_set_session(client, with), 1);
    if (of != NULL)
        ck_assert_int_eq(proxyticket_bind(server, tickets, of), 0);
    outcome.done = shake(client, server);
    outcome.resumed = SSL_session_reused(client) == 1;
    outcome.renewed = proxyticket_renew(server);
    ck_assert_int_eq(SSL_session_reused(client), SSL_session_reused(server));
    SSL_set_shutdown(client, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_set_shutdown(server, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(client);
    SSL_free(server);
    return outcome;
}

static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};

START_TEST(every_key_type_shakes_hands)
{
    uint32_t key = (uint32_t)(_i % KEY_COUNT);
    SSL_CTX *server = server_new(key, versions[_i / KEY_COUNT]), *client = client_new();

    ck_assert(connect_once(server, client, NULL, scope).done);
    ck_assert_uint_eq(keeper_totals(&run).signatures, 1);
    SSL_CTX_free(server);
    SSL_CTX_free(client);
}
END_TEST

/* The client insists on one scheme; RSA and the hashes that are not the curve's own in TLS 1.2. */
START_TEST(every_scheme_shakes_hands)
{
    static const struct {
        uint32_t key;
        int version;
        const char *scheme, *groups;
    } cases[] = {
        {KEY_RSA, TLS1_2_VERSION, "rsa_pkcs1_sha256", "X25519"},
        {KEY_RSA, TLS1_2_VERSION, "rsa_pkcs1_sha384", "P-256"},
        {KEY_RSA, TLS1_2_VERSION, "rsa_pkcs1_sha512", "P-384"},
        {KEY_RSA, TLS1_2_VERSION, "rsa_pss_rsae_sha256", "P-521"},
        {KEY_RSA, TLS1_2_VERSION, "rsa_pss_rsae_sha384", "X448"},
        {KEY_RSA, TLS1_2_VERSION, "rsa_pss_rsae_sha512", "X25519"},
        {KEY_RSA, TLS1_3_VERSION, "rsa_pss_rsae_sha256", "P-521"},
        {KEY_RSA, TLS1_3_VERSION, "rsa_pss_rsae_sha384", "X448"},
        {KEY_RSA, TLS1_3_VERSION, "rsa_pss_rsae_sha512", "X25519"},
        {KEY_P256, TLS1_2_VERSION, "ECDSA+SHA384", "X25519:P-256"},
        {KEY_P384, TLS1_2_VERSION, "ECDSA+SHA256", "X25519:P-384"},
        {KEY_P521, TLS1_2_VERSION, "ECDSA+SHA256", "P-521"},
    };
    SSL_CTX *server = server_new(cases[_i].key, cases[_i].version), *client = client_new();

    ck_assert_int_eq(SSL_CTX_set1_groups_list(server, "X25519:P-256:P-384:P-521:X448"), 1);
    ck_assert_int_eq(SSL_CTX_set1_groups_list(client, cases[_i].groups), 1);
    ck_assert_int_eq(SSL_CTX_set1_sigalgs_list(client, cases[_i].scheme), 1);
    SSL_CTX_set_verify(client, SSL_VERIFY_NONE, NULL);
    ck_assert_msg(connect_once(server, client, NULL, scope).done, "%s", cases[_i].scheme);
    ck_assert_uint_eq(keeper_totals(&run).signatures, 1);
    SSL_CTX_free(server);
    SSL_CTX_free(client);
}
END_TEST

START_TEST(sha1_is_not_signed)
{
    SSL_CTX *server = server_new(KEY_RSA, TLS1_2_VERSION), *client = client_new();

    SSL_CTX_set_security_level(client, 0);
    SSL_CTX_set_security_level(server, 0);
    ck_assert_int_eq(SSL_CTX_set1_sigalgs_list(client, "RSA+SHA1"), 1);
    ck_assert_int_eq(SSL_CTX_set1_sigalgs_list(server, "RSA+SHA1"), 1);
    ck_assert(!connect_once(server, client, NULL, scope).done);
    ck_assert_uint_eq(keeper_totals(&run).signatures, 0);
    SSL_CTX_free(server);
    SSL_CTX_free(client);
}
END_TEST

/* ---- the key object ---- */

static int
count_nothing(char *buffer, int size, int rw, void *argument)
{
    (void)buffer;
    (void)size;
    (void)rw;
    (void)argument;
    return 0;
}

START_TEST(the_private_half_cannot_be_had)
{
    EVP_PKEY *proxy = proxy_of((uint32_t)_i);
    EVP_PKEY *other = keeper_keys[(_i + 1) % KEY_COUNT];
    BIO *out = BIO_new(BIO_s_mem());
    OSSL_PARAM *params = NULL;
    unsigned char raw[256], *der = NULL;
    size_t raw_size = sizeof(raw);
    BIGNUM *number = NULL;

    ck_assert_int_eq(EVP_PKEY_eq(proxy, X509_get0_pubkey(keeper_certificates[_i])), 1);
    ck_assert_int_eq(EVP_PKEY_eq(X509_get0_pubkey(keeper_certificates[_i]), proxy), 1);
    ck_assert_int_ne(EVP_PKEY_eq(proxy, other), 1);
    ck_assert_int_eq(X509_check_private_key(keeper_certificates[_i], proxy), 1);
    ck_assert_int_eq(EVP_PKEY_get_bits(proxy), EVP_PKEY_get_bits(keeper_keys[_i]));
    ck_assert_int_eq(EVP_PKEY_get_size(proxy), EVP_PKEY_get_size(keeper_keys[_i]));
    ck_assert_int_eq(EVP_PKEY_todata(proxy, EVP_PKEY_PUBLIC_KEY, &params), 1);
    OSSL_PARAM_free(params);
    params = NULL;
    ck_assert_int_ne(EVP_PKEY_todata(proxy, EVP_PKEY_KEYPAIR, &params), 1);
    ck_assert_ptr_null(params);
    ck_assert_int_le(i2d_PrivateKey(proxy, &der), 0);
    ck_assert_int_ne(PEM_write_bio_PrivateKey(out, proxy, NULL, NULL, 0, count_nothing, NULL), 1);
    ck_assert_int_ne(EVP_PKEY_get_raw_private_key(proxy, raw, &raw_size), 1);
    ck_assert_int_ne(EVP_PKEY_get_bn_param(proxy, "d", &number), 1);
    ck_assert_int_ne(EVP_PKEY_get_bn_param(proxy, "priv", &number), 1);
    ck_assert_ptr_null(EVP_PKEY_dup(proxy));
    ERR_clear_error();
    BIO_free(out);
    EVP_PKEY_free(proxy);
}
END_TEST

START_TEST(nothing_but_tls_is_signed)
{
    static const size_t sizes[] = {0, 1, 32, 64, 99, 100, 101, 130, 146, 201, 224, 225, 1000};
    EVP_PKEY *proxy = proxy_of((uint32_t)_i);
    unsigned char content[1000], signature[KEYOPS_SIGNATURE_MAX];
    EVP_PKEY_CTX *raw = EVP_PKEY_CTX_new_from_pkey(proxykey_context(), proxy, NULL);
    size_t size;

    memset(content, 0x5a, sizeof(content));
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        EVP_MD_CTX *ctx = EVP_MD_CTX_new();

        size = sizeof(signature);
        ck_assert_int_eq(EVP_DigestSignInit_ex(ctx, NULL, _i == KEY_ED25519 ? NULL : "SHA2-256",
                                               NULL, NULL, proxy, NULL),
                         1);
        ck_assert_int_ne(EVP_DigestSign(ctx, signature, &size, content, sizes[i]), 1);
        EVP_MD_CTX_free(ctx);
    }
    /* A digest, decryption, and the raw operations do not exist at all. */
    ck_assert_int_ne(EVP_PKEY_sign_init(raw), 1);
    ck_assert_int_ne(EVP_PKEY_decrypt_init(raw), 1);
    ck_assert_int_ne(EVP_PKEY_derive_init(raw), 1);
    ERR_clear_error();
    EVP_PKEY_CTX_free(raw);
    EVP_PKEY_free(proxy);
    ck_assert_uint_eq(keeper_totals(&run).signatures, 0);
}
END_TEST

/* In pieces, as the EVP interface allows, and with what the keeper refuses. */
START_TEST(pieces_are_put_together)
{
    static const char text[] = "TLS 1.3, server CertificateVerify";
    static const char client[] = "TLS 1.3, client CertificateVerify";
    unsigned char content[64 + sizeof(text) + 32], signature[KEYOPS_SIGNATURE_MAX];
    EVP_PKEY *proxy = proxy_of(KEY_P256);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    size_t size = sizeof(signature);

    memset(content, ' ', 64);
    memcpy(content + 64, text, sizeof(text));
    memset(content + 64 + sizeof(text), 7, 32);
    ck_assert_int_eq(EVP_DigestSignInit_ex(ctx, NULL, "SHA256", NULL, NULL, proxy, NULL), 1);
    for (size_t i = 0; i < sizeof(content); i++)
        ck_assert_int_eq(EVP_DigestSignUpdate(ctx, content + i, 1), 1);
    ck_assert_int_eq(EVP_DigestSignFinal(ctx, signature, &size), 1);
    EVP_MD_CTX_reset(ctx);
    ck_assert_int_eq(
        EVP_DigestVerifyInit_ex(ctx, NULL, "SHA256", NULL, NULL, keeper_keys[KEY_P256], NULL), 1);
    ck_assert_int_eq(EVP_DigestVerify(ctx, signature, size, content, sizeof(content)), 1);
    EVP_MD_CTX_reset(ctx);
    /* The provider passes a client's CertificateVerify on; the keeper refuses it. */
    memcpy(content + 64, client, sizeof(client));
    size = sizeof(signature);
    ck_assert_int_eq(EVP_DigestSignInit_ex(ctx, NULL, "SHA256", NULL, NULL, proxy, NULL), 1);
    ck_assert_int_ne(EVP_DigestSign(ctx, signature, &size, content, sizeof(content)), 1);
    ck_assert_uint_eq(keeper_totals(&run).refusals, 1);
    ck_assert_uint_eq(keeper_totals(&run).signatures, 1);
    /* SHA-1 does not even begin. */
    EVP_MD_CTX_reset(ctx);
    ck_assert_int_ne(EVP_DigestSignInit_ex(ctx, NULL, "SHA1", NULL, NULL, proxy, NULL), 1);
    ERR_clear_error();
    EVP_MD_CTX_free(ctx);
    EVP_PKEY_free(proxy);
}
END_TEST

START_TEST(other_keys_are_left_alone)
{
    /* The default context does not know our provider: its keys sign, verify and encrypt. */
    unsigned char signature[512], content[10] = "anything";
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    size_t size = sizeof(signature);

    ck_assert_ptr_null(EVP_CIPHER_fetch(NULL, "TLSAGENT-TICKET", NULL));
    ck_assert_int_eq(
        EVP_DigestSignInit_ex(ctx, NULL, "SHA1", NULL, NULL, keeper_keys[KEY_RSA], NULL), 1);
    ck_assert_int_eq(EVP_DigestSign(ctx, signature, &size, content, sizeof(content)), 1);
    ERR_clear_error();
    EVP_MD_CTX_free(ctx);
}
END_TEST

/* ---- tickets ---- */

static uint64_t
calls(void)
{
    struct keycall_counters counters;

    keycall_count(keeper, &counters);
    return counters.calls;
}

/* One call for a full handshake, one for a resumed one: the tickets' keys come along. */
START_TEST(tickets_resume)
{
    bool tls13 = versions[_i % 2] == TLS1_3_VERSION;
    SSL_CTX *server = server_new(KEY_P256, versions[_i % 2]), *client = client_new();
    struct control_pong totals;
    struct outcome outcome;
    uint64_t before;

    served = _i < 2; /* else each ticket has a call of its own */
    before = calls();
    SSL_CTX_set_num_tickets(server, 1);
    ck_assert(connect_once(server, client, NULL, scope).done);
    ck_assert_uint_eq(calls() - before, served ? 1 : 2);
    ck_assert_ptr_nonnull(ticket);
    before = calls();
    for (int i = 0; i < 3; i++) {
        SSL_SESSION *with = ticket;

        SSL_SESSION_up_ref(with);
        outcome = connect_once(server, client, with, scope);
        SSL_SESSION_free(with);
        ck_assert(outcome.done && outcome.resumed && !outcome.renewed);
    }
    ck_assert_uint_eq(calls() - before, 3);
    totals = keeper_totals(&run);
    ck_assert_uint_eq(totals.signatures, 1);
    ck_assert_uint_eq(totals.tickets_opened, 3);
    ck_assert_uint_eq(totals.ticket_keys, tls13 ? 4 : 1);
    ck_assert_uint_eq(totals.refusals, 0);
    SSL_CTX_free(server);
    SSL_CTX_free(client);
    served = true;
}
END_TEST

/* As many keys as tickets; those beyond the ones that fit into an answer cost one call more. */
START_TEST(a_handshake_brings_keys_for_its_tickets)
{
    static const struct {
        unsigned tickets;
        bool verify;
        int version;
        unsigned calls, keys;
    } cases[] = {
        {0, false, TLS1_3_VERSION, 1, 0},
        {1, false, TLS1_3_VERSION, 1, 1},
        {2, false, TLS1_3_VERSION, 1, 2},
        {4, false, TLS1_3_VERSION, 1, 4},
        {5, false, TLS1_3_VERSION, 2, 5},
        {9, false, TLS1_3_VERSION, 3, 9},
        {2, false, TLS1_2_VERSION, 1, 1},
        /* Nobody has a key before his certificate is seen. */
        {2, true, TLS1_3_VERSION, 2, 2},
        {2, true, TLS1_2_VERSION, 2, 1},
    };
    SSL_CTX *server = server_new(KEY_P256, cases[_i].version), *client = client_new();
    uint64_t before = calls();
    SSL_SESSION *with;

    SSL_CTX_set_num_tickets(server, cases[_i].tickets);
    if (cases[_i].verify)
        SSL_CTX_set_verify(server, SSL_VERIFY_PEER, NULL);
    ck_assert(connect_once(server, client, NULL, scope).done);
    ck_assert_uint_eq(calls() - before, cases[_i].calls);
    ck_assert_uint_eq(keeper_totals(&run).ticket_keys, cases[_i].keys);
    with = ticket;
    if (cases[_i].tickets > 0) {
        SSL_SESSION_up_ref(with);
        ck_assert(connect_once(server, client, with, scope).resumed);
        SSL_SESSION_free(with);
    }
    SSL_CTX_free(server);
    SSL_CTX_free(client);
}
END_TEST

START_TEST(another_scope_means_a_full_handshake)
{
    static const uint8_t other[KEYOPS_SCOPE_SIZE] = "context www, client verify";
    SSL_CTX *server = server_new(KEY_P256, versions[_i]), *client = client_new();
    struct outcome outcome;
    SSL_SESSION *with;

    ck_assert(connect_once(server, client, NULL, scope).done);
    with = ticket;
    SSL_SESSION_up_ref(with);
    outcome = connect_once(server, client, with, other);
    ck_assert(outcome.done && !outcome.resumed);
    ck_assert_uint_eq(keeper_totals(&run).refusals, 1);
    outcome = connect_once(server, client, with, NULL);
    ck_assert(outcome.done && !outcome.resumed);
    ck_assert_uint_eq(keeper_totals(&run).refusals, 1); /* nobody asked */
    ck_assert_uint_eq(keeper_totals(&run).tickets_opened, 0);
    SSL_SESSION_free(with);
    SSL_CTX_free(server);
    SSL_CTX_free(client);
}
END_TEST

/* A session like *of, with bytes of its ticket changed: byte at from_end is flipped (0: the first
 * behind the key name). The HMAC is made right again if refilter. */
static SSL_SESSION *
tampered(SSL_SESSION *of, size_t from_end, bool refilter)
{
    const unsigned char *was;
    unsigned char *der = NULL, mac[32], filter[48];
    const unsigned char *next;
    int der_size = i2d_SSL_SESSION(of, &der);
    unsigned char *found;
    SSL_SESSION *session;
    size_t size, mac_size;

    SSL_SESSION_get0_ticket(of, &was, &size);
    found = memmem(der, (size_t)der_size, was, size);
    ck_assert_ptr_nonnull(found);
    found[from_end > 0 ? size - from_end : 16] ^= 1;
    if (refilter) { /* only a handshaker could: it has the filter's key */
        uint8_t filters[KEYOPS_FILTERS_MAX][KEYOPS_FILTER_SIZE];

        ck_assert_uint_eq(keycall_filters(keeper, filters), 1);
        memcpy(filter, filters[0], sizeof(filter));
        ck_assert_ptr_nonnull(EVP_Q_mac(NULL, "HMAC", NULL, "SHA256", NULL, filter + 16, 32, found,
                                        size - 32, mac, sizeof(mac), &mac_size));
        memcpy(found + size - 32, mac, sizeof(mac));
    }
    next = der;
    session = d2i_SSL_SESSION(NULL, &next, der_size);
    ck_assert_ptr_nonnull(session);
    OPENSSL_free(der);
    return session;
}

START_TEST(a_tampered_ticket_means_a_full_handshake)
{
    SSL_CTX *server = server_new(KEY_P256, versions[_i]), *client = client_new();
    static const struct {
        size_t from_end;
        bool refilter;
        unsigned refusals; /* how many the keeper has seen after it */
    } cases[] = {
        {1, false, 0},              /* HMAC: the filter stops it */
        {100, false, 0},            /* ciphertext, filter not made right */
        {33, true, 1},              /* tag */
        {32 + 16 + 4, true, 2},     /* period: far in the future */
        {32 + 16 + 4 + 9, true, 3}, /* ciphertext */
        {0, true, 4},               /* IV: the nonce */
    };
    SSL_SESSION *with;

    ck_assert(connect_once(server, client, NULL, scope).done);
    with = ticket;
    SSL_SESSION_up_ref(with);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        SSL_SESSION *bad = tampered(with, cases[i].from_end, cases[i].refilter);
        struct outcome outcome = connect_once(server, client, bad, scope);

        ck_assert(outcome.done && !outcome.resumed);
        ck_assert_uint_eq(keeper_totals(&run).refusals, cases[i].refusals);
        SSL_SESSION_free(bad);
    }
    ck_assert(connect_once(server, client, with, scope).resumed);
    SSL_SESSION_free(with);
    SSL_CTX_free(server);
    SSL_CTX_free(client);
}
END_TEST

START_TEST(without_a_bind_the_handshake_goes_on)
{
    SSL_CTX *server = server_new(KEY_P256, versions[_i]), *client = client_new();
    struct outcome outcome;
    SSL_SESSION *with;

    ck_assert(connect_once(server, client, NULL, NULL).done);
    ck_assert_uint_eq(keeper_totals(&run).ticket_keys, 0);
    with = ticket;
    if (with != NULL) { /* TLS 1.3: a dud */
        SSL_SESSION_up_ref(with);
        outcome = connect_once(server, client, with, scope);
        ck_assert(outcome.done && !outcome.resumed);
        ck_assert_uint_eq(keeper_totals(&run).refusals, 0);
        SSL_SESSION_free(with);
    }
    SSL_CTX_free(server);
    SSL_CTX_free(client);
}
END_TEST

/* The server puts more into the session than a ticket may hold. */
static int
add_much(SSL *ssl, void *argument)
{
    static unsigned char much[KEYOPS_TICKET_MAX + 1];

    (void)argument;
    return SSL_SESSION_set1_ticket_appdata(SSL_get_session(ssl), much, sizeof(much));
}

START_TEST(a_session_too_long_for_a_ticket_gets_a_dud)
{
    SSL_CTX *server = server_new(KEY_P256, versions[_i]), *client = client_new();
    struct outcome outcome;
    SSL_SESSION *with;

    SSL_CTX_set_session_ticket_cb(server, add_much, NULL, NULL);
    ck_assert(connect_once(server, client, NULL, scope).done);
    ck_assert_ptr_nonnull(ticket);
    with = ticket;
    SSL_SESSION_up_ref(with);
    outcome = connect_once(server, client, with, scope);
    ck_assert(outcome.done && !outcome.resumed);
    SSL_SESSION_free(with);
    SSL_CTX_free(server);
    SSL_CTX_free(client);
}
END_TEST

/* How a ticket that opened is used is seen in tickets_resume. */
START_TEST(a_ticket_that_did_not_open_is_replaced)
{
    SSL_CTX *server = server_new(KEY_P256, versions[_i]);
    SSL *ssl = SSL_new(server);

    ck_assert_int_eq(proxyticket_decide(ssl, SSL_TICKET_EMPTY), SSL_TICKET_RETURN_IGNORE_RENEW);
    ck_assert_int_eq(proxyticket_decide(ssl, SSL_TICKET_NO_DECRYPT),
                     SSL_TICKET_RETURN_IGNORE_RENEW);
    ck_assert_int_eq(proxyticket_decide(ssl, SSL_TICKET_SUCCESS_RENEW),
                     SSL_TICKET_RETURN_USE_RENEW);
    SSL_free(ssl);
    SSL_CTX_free(server);
}
END_TEST

/* ---- one ClientHello with very many tickets ---- */

static void
put_u16(unsigned char **next, size_t value)
{
    *(*next)++ = (unsigned char)(value >> 8);
    *(*next)++ = (unsigned char)value;
}

/* A TLS 1.3 ClientHello record that offers count times the same ticket, written by hand. */
static size_t
many_tickets(unsigned char *out, const unsigned char *identity, size_t identity_size,
             unsigned count)
{
    static const unsigned char before[] = {
        0, 43, 0, 3, 2, 3, 4,       /* supported_versions: TLS 1.3 */
        0, 45, 0, 2, 1, 1,          /* psk_key_exchange_modes: psk_dhe_ke */
        0, 10, 0, 4, 0, 2, 0, 0x17, /* supported_groups: P-256 */
        0, 13, 0, 4, 0, 2, 4, 3,    /* signature_algorithms */
        0, 51, 0, 2, 0, 0,          /* key_share: none yet */
    };
    size_t identities = count * (2 + identity_size + 4), binders = (size_t)count * 33;
    size_t extensions = sizeof(before) + 4 + 2 + identities + 2 + binders;
    size_t body = 2 + 32 + 1 + 4 + 2 + 2 + extensions;
    unsigned char *next = out;

    *next++ = 1; /* ClientHello */
    *next++ = (unsigned char)(body >> 16);
    put_u16(&next, body & 0xffff);
    put_u16(&next, 0x0303);
    memset(next, 7, 32);
    next += 32;
    *next++ = 0; /* session id */
    put_u16(&next, 2);
    put_u16(&next, 0x1301);
    put_u16(&next, 0x0100); /* compression: null */
    put_u16(&next, extensions);
    memcpy(next, before, sizeof(before));
    next += sizeof(before);
    put_u16(&next, 41); /* pre_shared_key */
    put_u16(&next, 2 + identities + 2 + binders);
    put_u16(&next, identities);
    for (unsigned i = 0; i < count; i++) {
        put_u16(&next, identity_size);
        memcpy(next, identity, identity_size);
        next += identity_size;
        put_u16(&next, 0);
        put_u16(&next, 0);
    }
    put_u16(&next, binders);
    for (unsigned i = 0; i < count; i++) {
        *next++ = 32;
        memset(next, 0, 32);
        next += 32;
    }
    return (size_t)(next - out);
}

START_TEST(many_tickets_in_one_hello_cost_four_opens)
{
    static unsigned char hello[1 << 17];
    SSL_CTX *server_ctx = server_new(KEY_P256, TLS1_3_VERSION), *client = client_new();
    SSL *server;
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    const unsigned char *identity;
    SSL_SESSION *bad;
    size_t identity_size, size;
    unsigned count;

    ck_assert(connect_once(server_ctx, client, NULL, scope).done);
    /* Passes the filter (its maker knows the tag), fails in the keeper: OpenSSL tries the next. */
    bad = tampered(ticket, 33, true);
    SSL_SESSION_get0_ticket(bad, &identity, &identity_size);
    count = (unsigned)(60000 / (identity_size + 6 + 33));
    ck_assert_uint_gt(count, 100);
    size = many_tickets(hello, identity, identity_size, count);
    for (size_t done = 0; done < size;) {
        size_t part = size - done < 16000 ? size - done : 16000;
        unsigned char header[5] = {22, 3, 1, (unsigned char)(part >> 8), (unsigned char)part};

        BIO_write(in, header, 5);
        BIO_write(in, hello + done, (int)part);
        done += part;
    }
    SSL_CTX_set_max_cert_list(server_ctx, 1 << 20);
    server = SSL_new(server_ctx);
    ck_assert_int_eq(proxyticket_bind(server, tickets, scope), 0);
    SSL_set_bio(server, in, out);
    SSL_set_accept_state(server);
    SSL_do_handshake(server);
    /* It went past the tickets: a HelloRetryRequest for the missing key share. */
    ck_assert_int_gt((int)BIO_pending(out), 0);
    ck_assert_uint_eq(keeper_totals(&run).refusals, PROXYTICKET_OPENS_MAX);
    SSL_free(server);
    SSL_SESSION_free(bad);
    SSL_CTX_free(server_ctx);
    SSL_CTX_free(client);
}
END_TEST

/* ---- what a round trip costs ---- */

static double
now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

START_TEST(a_round_trip_is_cheap)
{
    static const unsigned times[KEY_COUNT] = {400, 2000, 400, 200, 2000};
    struct keyops_sign_tls13 request = {.role = KEYOPS_ROLE_SERVER, .hash_size = 32};
    static const uint16_t schemes[KEY_COUNT] = {0x0804, 0x0403, 0x0503, 0x0603, 0x0807};
    static const char *const digests[KEY_COUNT] = {"SHA256", "SHA256", "SHA384", "SHA512", NULL};
    uint8_t signature[KEYOPS_SIGNATURE_MAX], content[130];
    size_t size;

    memset(content, ' ', sizeof(content));
    for (uint32_t key = 0; key < KEY_COUNT; key++) {
        double start, direct, called;

        request.key = key;
        request.scheme = schemes[key];
        start = now_us();
        for (unsigned i = 0; i < times[key]; i++) {
            EVP_MD_CTX *ctx = EVP_MD_CTX_new();
            EVP_PKEY_CTX *pkey_ctx;

            size = sizeof(signature);
            ck_assert_int_eq(EVP_DigestSignInit_ex(ctx, &pkey_ctx, digests[key], NULL, NULL,
                                                   keeper_keys[key], NULL),
                             1);
            if (key == KEY_RSA)
                EVP_PKEY_CTX_set_rsa_padding(pkey_ctx, RSA_PKCS1_PSS_PADDING);
            ck_assert_int_eq(EVP_DigestSign(ctx, signature, &size, content, sizeof(content)), 1);
            EVP_MD_CTX_free(ctx);
        }
        direct = (now_us() - start) / times[key];
        start = now_us();
        for (unsigned i = 0; i < times[key]; i++)
            ck_assert_int_eq(
                keycall_sign_tls13(keeper, &request, signature, sizeof(signature), &size), 0);
        called = (now_us() - start) / times[key];
        printf("proxykey: %-8s direct %6.1f us, by the keeper %6.1f us\n", keeper_kinds[key].kind,
               direct, called);
    }
    ck_assert_uint_eq(keeper_totals(&run).refusals, 0);
}
END_TEST

/* ---- surprises on the channel: the test plays the keeper ---- */

static int fake; /* our end */

static void
fake_answer(uint16_t type, uint32_t number, const char *text)
{
    const struct keyops_answer answer = {
        .number = number, .data = (const uint8_t *)text, .size = strlen(text)};
    uint8_t body[1024];

    ck_assert_int_eq(
        channel_send(fake, type, body, keyops_put_answer(&answer, body, sizeof(body)), NULL, 0),
        CHANNEL_OK);
}

static void
fake_keys(uint32_t number, size_t count)
{
    static const struct keyops_ticket_key keys[KEYOPS_KEYS_MAX] = {{{1}, {2}}, {{3}, {4}}};
    const struct keyops_answer answer = {.number = number,
                                         .data = (const uint8_t *)"signature!",
                                         .size = 10,
                                         .key_count = count,
                                         .period = 7,
                                         .keys = keys};
    uint8_t body[1024];

    ck_assert_int_eq(channel_send(fake, KEYOPS_ANSWER, body,
                                  keyops_put_answer(&answer, body, sizeof(body)), NULL, 0),
                     CHANNEL_OK);
}

static void
fake_refusal(uint32_t number, uint8_t reason)
{
    const struct keyops_refused refused = {.number = number, .reason = reason};
    uint8_t body[16];

    ck_assert_int_eq(channel_send(fake, KEYOPS_REFUSAL, body,
                                  keyops_put_refused(&refused, body, sizeof(body)), NULL, 0),
                     CHANNEL_OK);
}

static struct keycall *
fake_keeper(const char *build, struct error *error)
{
    struct keyops_hello hello = {""};
    uint8_t body[128];
    int pair[2];

    ck_assert_int_eq(channel_pair(pair), 0);
    fake = pair[1];
    strncpy(hello.build, build, sizeof(hello.build) - 1);
    ck_assert_int_eq(channel_send(fake, KEYOPS_HELLO, body,
                                  keyops_put_hello(&hello, body, sizeof(body)), NULL, 0),
                     CHANNEL_OK);
    return keycall_open(pair[0], 1000, error);
}

START_TEST(a_late_or_wrong_answer_ends_the_handshaker)
{
    struct keyops_sign_tls13 request = {.role = KEYOPS_ROLE_SERVER, .hash_size = 32};
    uint8_t signature[KEYOPS_SIGNATURE_MAX];
    struct error error = {""};
    struct keycall *call = fake_keeper(role_build_id, &error);
    const struct keyops_wish wish = {.keys = 1};
    struct onetime_keys keys = {.count = 0};
    size_t size;
    int fd = 0;

    ck_assert_ptr_nonnull(call);
    switch (_i) { /* what lies there when the first request (number 1) is made */
    case 0:       /* nothing: the deadline */
        break;
    case 1:
        fake_answer(KEYOPS_ANSWER, 2, "of the next");
        break;
    case 2:
        fake_answer(KEYOPS_ANSWER, 0, "of the one before");
        break;
    case 3:
        fake_refusal(2, KEYOPS_BAD_SHAPE);
        break;
    case 4:
        fake_refusal(1, 0);
        break;
    case 5:
        fake_answer(KEYOPS_HELLO, 1, "again");
        break;
    case 6:
        fake_answer(KEYOPS_SIGN_TLS13, 1, "a request");
        break;
    case 7:
        ck_assert_int_eq(channel_send(fake, KEYOPS_ANSWER, "12345678x", 9, NULL, 0), CHANNEL_OK);
        break;
    case 8:
        ck_assert_int_eq(channel_send(fake, KEYOPS_ANSWER, "\0\0\0\1\0\0\0\0", 8, &fd, 1),
                         CHANNEL_OK);
        break;
    case 9:
        close(fake);
        break;
    case 10: /* keys that nobody asked for */
        fake_keys(1, 1);
        break;
    case 11: /* more than were asked for */
        keycall_serve(call, &wish, &keys);
        fake_keys(1, 2);
        break;
    }
    (void)keycall_sign_tls13(call, &request, signature, sizeof(signature), &size);
    exit(0); /* not reached: the test expects status 1 */
}
END_TEST

START_TEST(results_and_refusals_come_back)
{
    struct keyops_sign_tls13 request = {.role = KEYOPS_ROLE_SERVER, .hash_size = 32};
    uint8_t signature[10];
    struct keycall_counters counters;
    struct error error = {""};
    struct keycall *call = fake_keeper(role_build_id, &error);
    const struct keyops_wish wish = {.keys = 3, .scope = {1, 2}};
    struct onetime_keys keys = {.count = 0};
    size_t size;

    fake_answer(KEYOPS_ANSWER, 1, "signature!");
    ck_assert_int_eq(keycall_sign_tls13(call, &request, signature, sizeof(signature), &size), 0);
    ck_assert_uint_eq(size, 10);
    ck_assert_mem_eq(signature, "signature!", 10);
    fake_refusal(2, KEYOPS_BAD_SHAPE);
    ck_assert_int_eq(keycall_sign_tls13(call, &request, signature, sizeof(signature), &size),
                     KEYOPS_BAD_SHAPE);
    fake_answer(KEYOPS_ANSWER, 3, "longer than there is room");
    ck_assert_int_eq(keycall_sign_tls13(call, &request, signature, sizeof(signature), &size),
                     KEYOPS_INTERNAL);
    ck_assert_uint_eq(size, 0);
    /* Keys replace those in hand; fewer than wished are no error; with a result that does not fit
     * none are taken. */
    keycall_serve(call, &wish, &keys);
    fake_keys(4, 2);
    ck_assert_int_eq(keycall_sign_tls13(call, &request, signature, sizeof(signature), &size), 0);
    ck_assert_uint_eq(keys.count, 2);
    ck_assert_uint_eq(keys.period, 7);
    ck_assert_mem_eq(keys.scope, wish.scope, sizeof(keys.scope));
    fake_keys(5, 1);
    ck_assert_int_eq(keycall_sign_tls13(call, &request, signature, 9, &size), KEYOPS_INTERNAL);
    ck_assert_uint_eq(keys.count, 2);
    fake_keys(6, 1);
    ck_assert_int_eq(keycall_sign_tls13(call, &request, signature, sizeof(signature), &size), 0);
    ck_assert_uint_eq(keys.count, 1);
    ck_assert_uint_eq(keys.keys[1].nonce[0], 0);
    fake_answer(KEYOPS_ANSWER, 7, "signature!");
    ck_assert_int_eq(keycall_sign_tls13(call, &request, signature, sizeof(signature), &size), 0);
    keycall_count(call, &counters);
    ck_assert_uint_eq(counters.calls, 7);
    ck_assert_uint_eq(counters.refused, 1);
    keycall_close(call);
    close(fake);
    ck_assert_str_eq(keycall_refusal_text(KEYOPS_BAD_SHAPE), "not what TLS signs");
    ck_assert_str_eq(keycall_refusal_text(0), "unknown reason");
    ck_assert_str_eq(keycall_refusal_text(200), "unknown reason");
}
END_TEST

START_TEST(a_keeper_of_another_build_is_not_talked_to)
{
    struct error error = {""};
    int pair[2];

    ck_assert_ptr_null(fake_keeper("0.0-other", &error));
    ck_assert_ptr_nonnull(strstr(error.text, "0.0-other"));
    close(fake);
    error_clear(&error);
    ck_assert_int_eq(channel_pair(pair), 0);
    ck_assert_ptr_null(keycall_open(pair[0], 10, &error)); /* says nothing */
    ck_assert_ptr_nonnull(strstr(error.text, "did not say hello"));
    close(pair[1]);
    error_clear(&error);
    ck_assert_int_eq(channel_pair(pair), 0);
    close(pair[1]);
    ck_assert_ptr_null(keycall_open(pair[0], 10, &error));
    ck_assert_ptr_nonnull(strstr(error.text, "went away"));
}
END_TEST

int
main(int argc, char **argv)
{
    Suite *suite = suite_create("proxykey");
    TCase *tcase = tcase_create("proxykey");
    SRunner *runner;
    int failed;

    keeper_fixture_main(argc, argv);
    keeper_make_keys();
    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_add_loop_test(tcase, every_key_type_shakes_hands, 0, 2 * KEY_COUNT);
    tcase_add_loop_test(tcase, every_scheme_shakes_hands, 0, 12);
    tcase_add_test(tcase, sha1_is_not_signed);
    tcase_add_loop_test(tcase, the_private_half_cannot_be_had, 0, KEY_COUNT);
    tcase_add_loop_test(tcase, nothing_but_tls_is_signed, 0, KEY_COUNT);
    tcase_add_test(tcase, pieces_are_put_together);
    tcase_add_test(tcase, other_keys_are_left_alone);
    tcase_add_loop_test(tcase, tickets_resume, 0, 4);
    tcase_add_loop_test(tcase, a_handshake_brings_keys_for_its_tickets, 0, 9);
    tcase_add_loop_test(tcase, another_scope_means_a_full_handshake, 0, 2);
    tcase_add_loop_test(tcase, a_tampered_ticket_means_a_full_handshake, 0, 2);
    tcase_add_loop_test(tcase, without_a_bind_the_handshake_goes_on, 0, 2);
    tcase_add_loop_test(tcase, a_session_too_long_for_a_ticket_gets_a_dud, 0, 2);
    tcase_add_loop_test(tcase, a_ticket_that_did_not_open_is_replaced, 0, 2);
    tcase_add_test(tcase, many_tickets_in_one_hello_cost_four_opens);
    tcase_add_test(tcase, a_round_trip_is_cheap);
    suite_add_tcase(suite, tcase);
    tcase = tcase_create("keycall");
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_exit_test(tcase, a_late_or_wrong_answer_ends_the_handshaker, 1, 0, 12);
    tcase_add_test(tcase, results_and_refusals_come_back);
    tcase_add_test(tcase, a_keeper_of_another_build_is_not_talked_to);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
