/* server_ctx.c: see server_ctx.h. */
#include "agent/server_ctx.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <string.h>

#include "agent/log.h"
#include "agent/proxyticket.h"
#include "agent/sessions.h"
#include "protocol/traffic.h"
#include "protocol/wire.h"

/* The cheapest strong suites first: SHA-256 runs on SHA-NI, and its key schedule costs a
 * fraction of SHA-384's. A client that prefers ChaCha20 (no AES hardware) gets it. Only AEAD suites
 * with forward secrecy can be handed back. */
#define DEFAULT_CIPHERS                                                                            \
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"                                   \
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"                                   \
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
#define DEFAULT_CIPHERSUITES                                                                       \
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
/* The hybrid group where the library has it (OpenSSL 3.5 and later). */
#define DEFAULT_GROUPS        "X25519:P-256:P-384:P-521"
#define DEFAULT_GROUPS_HYBRID "X25519MLKEM768:" DEFAULT_GROUPS

/* The buffer for it is wiped when libssl gives it back: one that is larger than a flight costs more
 * than it holds. A longer chain of certificates takes several records. */
#define HANDSHAKE_RECORD 4096

/* A client's certificates must fit into the message that carries them to the worker. */
#define CLIENT_CHAIN_LIMIT (SERVICE_CHAIN_MAX - 256)

static int
select_alpn(SSL *ssl, const unsigned char **chosen, unsigned char *chosen_size,
            const unsigned char *offered, unsigned int offered_size, void *argument)
{
    const struct generation_context *facts = argument;
    unsigned char *out = NULL;

    (void)ssl;
    if (SSL_select_next_proto(&out, chosen_size, facts->alpn, (unsigned)facts->alpn_size, offered,
                              offered_size) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL; /* no_application_protocol, RFC 7301 section 3.2 */
    *chosen = out;
    return SSL_TLSEXT_ERR_OK;
}

/* RFC 6066 section 3: a list with one host name. Returns false if it is there and not that. */
static bool
parse_sni(SSL *ssl, char sni[SERVICE_HOST_MAX])
{
    const unsigned char *extension;
    struct wire_reader reader;
    const uint8_t *name;
    size_t size;

    sni[0] = '\0';
    if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &extension, &size) != 1)
        return true;
    wire_reader_init(&reader, extension, size);
    if (wire_get_u16(&reader) != size - 2 || wire_get_u8(&reader) != TLSEXT_NAMETYPE_host_name)
        return false;
    name = wire_get_string(&reader, 2, SERVICE_HOST_MAX - 1, &size);
    if (!wire_done(&reader) || size == 0 || memchr(name, '\0', size) != NULL)
        return false;
    memcpy(sni, name, size);
    sni[size] = '\0';
    return true;
}

/* The context is fixed by who asked; the ClientHello only chooses among its identities, before
 * OpenSSL looks at any ticket. */
static int
choose_identity(SSL *ssl, int *alert, void *argument)
{
    const struct identity_hooks *hooks = argument;
    char sni[SERVICE_HOST_MAX];

    if (proxyticket_has_waited(ssl))
        return SSL_CLIENT_HELLO_SUCCESS;
    if (!parse_sni(ssl, sni)) {
        *alert = SSL_AD_DECODE_ERROR;
        return SSL_CLIENT_HELLO_ERROR;
    }
    if (!hooks->choose(ssl, sni)) {
        *alert = SSL_AD_UNRECOGNIZED_NAME;
        return SSL_CLIENT_HELLO_ERROR;
    }
    return sessions_must_wait(ssl) ? SSL_CLIENT_HELLO_RETRY : SSL_CLIENT_HELLO_SUCCESS;
}

static int
choose_without_tickets(SSL *ssl, int *alert, void *argument)
{
    sessions_without_tickets(ssl);
    return choose_identity(ssl, alert, argument);
}

/* Acknowledge the name: choose_identity() has done the work. */
static int
acknowledge_sni(SSL *ssl, int *alert, void *argument)
{
    (void)alert;
    (void)argument;
    return SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name) != NULL ? SSL_TLSEXT_ERR_OK
                                                                      : SSL_TLSEXT_ERR_NOACK;
}

/* Accept only certificates signed by the context's own CAs, and tell clients which these are. */
static int
require_client_certificates(SSL_CTX *ctx, const struct generation_context *facts,
                            const struct generation_client_ca *client_ca, struct error *error)
{
    const uint8_t *next = client_ca->certificates;
    const uint8_t *end = next + client_ca->size;
    X509_STORE *store = SSL_CTX_get_cert_store(ctx);

    while (end - next >= 3) {
        size_t size = (size_t)next[0] << 16 | (size_t)next[1] << 8 | next[2];
        const uint8_t *der = next + 3;
        X509 *certificate;
        int added;

        if (size > (size_t)(end - der))
            break;
        next = der + size;
        certificate = d2i_X509(NULL, &der, (long)size);
        added = certificate != NULL && X509_STORE_add_cert(store, certificate) == 1 &&
                SSL_CTX_add_client_CA(ctx, certificate) == 1;
        X509_free(certificate);
        if (!added)
            return error_set(error, "context \"%s\": a client CA is not acceptable", facts->name);
    }
    SSL_CTX_set_verify(
        ctx,
        SSL_VERIFY_PEER |
            (facts->verify == CONFIG_VERIFY_REQUIRED ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0),
        NULL);
    SSL_CTX_set_max_cert_list(ctx, CLIENT_CHAIN_LIMIT);
    return 0;
}

const char *
server_ctx_groups(void)
{
    static const char *groups; /* the library does not change */
    SSL_CTX *ctx;

    if (groups != NULL)
        return groups;
    ctx = SSL_CTX_new(TLS_server_method());
    groups = ctx != NULL && SSL_CTX_set1_groups_list(ctx, DEFAULT_GROUPS_HYBRID) == 1
                 ? DEFAULT_GROUPS_HYBRID
                 : DEFAULT_GROUPS;
    SSL_CTX_free(ctx);
    ERR_clear_error(); /* of the hybrid group that it may not have */
    return groups;
}

/* Of TLS 1.2. */
static const char *
ciphers_of(const struct generation_context *facts)
{
    return facts->ciphers[0] != '\0' ? facts->ciphers : DEFAULT_CIPHERS;
}

static int
set_algorithms(SSL_CTX *ctx, const struct generation_context *facts, struct error *error)
{
    const char *ciphers = ciphers_of(facts);
    const char *suites =
        facts->ciphersuites[0] != '\0' ? facts->ciphersuites : DEFAULT_CIPHERSUITES;

    if (SSL_CTX_set_min_proto_version(ctx, facts->min_version) != 1 ||
        SSL_CTX_set_max_proto_version(ctx, facts->max_version) != 1)
        return error_set(error, "context \"%s\": libssl refuses the versions", facts->name);
    if (SSL_CTX_set_cipher_list(ctx, ciphers) != 1)
        return error_set(error, "context \"%s\": ciphers: libssl refuses \"%s\"", facts->name,
                         ciphers);
    if (SSL_CTX_set_ciphersuites(ctx, suites) != 1)
        return error_set(error, "context \"%s\": ciphersuites: libssl refuses \"%s\"", facts->name,
                         suites);
    if (facts->groups[0] != '\0') {
        if (SSL_CTX_set1_groups_list(ctx, facts->groups) != 1)
            return error_set(error, "context \"%s\": groups: libssl refuses \"%s\"", facts->name,
                             facts->groups);
    } else if (SSL_CTX_set1_groups_list(ctx, server_ctx_groups()) != 1) {
        return error_set(error, "context \"%s\": libssl refuses the default groups", facts->name);
    }
    return 0;
}

static void
set_options(SSL_CTX *ctx, const struct generation_context *facts)
{
    uint64_t options = SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION;

    if (facts->prefer_server_ciphers)
        options |= SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA;
    SSL_CTX_clear_options(ctx, SSL_OP_ENABLE_KTLS);
    SSL_CTX_set_options(ctx, options);
    /* What the administrator put into the chain is sent, and nothing is added from the CAs of
     * clients. */
    SSL_CTX_set_mode(ctx, SSL_MODE_AUTO_RETRY | SSL_MODE_NO_AUTO_CHAIN);
    (void)SSL_CTX_set_max_send_fragment(ctx, HANDSHAKE_RECORD);
    SSL_CTX_set_read_ahead(ctx, 0);
    SSL_CTX_set_max_early_data(ctx, 0);
}

SSL_CTX *
server_ctx_new(const struct generation_context *facts, const struct generation_client_ca *client_ca,
               const struct identity_hooks *hooks, struct error *error)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    uint8_t scope[KEYOPS_SCOPE_SIZE];

    if (ctx == NULL) {
        error_set(error, "out of memory for context \"%s\"", facts->name);
        return NULL;
    }
    set_options(ctx, facts);
    server_ctx_scope(facts, client_ca, scope);
    SSL_CTX_set_session_id_context(ctx, scope, SSL_MAX_SID_CTX_LENGTH);
    SSL_CTX_set_client_hello_cb(ctx,
                                facts->tickets_tls12 ? choose_identity : choose_without_tickets,
                                (void *)(uintptr_t)hooks);
    SSL_CTX_set_tlsext_servername_callback(ctx, acknowledge_sni);
    if (facts->alpn_size > 0)
        SSL_CTX_set_alpn_select_cb(ctx, select_alpn, (void *)(uintptr_t)facts);
    export_observe(ctx, hooks->export_of);
    if (set_algorithms(ctx, facts, error) == -1 ||
        (facts->verify != CONFIG_VERIFY_NONE &&
         require_client_certificates(ctx, facts, client_ca, error) == -1) ||
        sessions_enable(ctx, facts) == -1) {
        error_set(error, "out of memory for context \"%s\"", facts->name);
        SSL_CTX_free(ctx);
        return NULL;
    }
    return ctx;
}

void
server_ctx_scope(const struct generation_context *facts,
                 const struct generation_client_ca *client_ca, uint8_t scope[KEYOPS_SCOPE_SIZE])
{
    uint8_t policy[SERVICE_NAME_MAX + 8];
    struct wire_writer writer;
    const char *ciphers = ciphers_of(facts);
    EVP_MD_CTX *digest = EVP_MD_CTX_new();

    wire_writer_init(&writer, policy, sizeof(policy));
    wire_put_text(&writer, facts->name);
    wire_put_u16(&writer, facts->min_version);
    wire_put_u16(&writer, facts->max_version);
    wire_put_u8(&writer, facts->verify);
    wire_put_u16(&writer, (uint16_t)facts->alpn_size);
    if (digest == NULL || EVP_DigestInit_ex(digest, EVP_sha256(), NULL) != 1 ||
        EVP_DigestUpdate(digest, policy, wire_size(&writer)) != 1 ||
        EVP_DigestUpdate(digest, facts->alpn, facts->alpn_size) != 1 ||
        /* A session of TLS 1.2 goes on with its cipher; libssl does not look whether we still have
         * it. */
        EVP_DigestUpdate(digest, ciphers, strlen(ciphers) + 1) != 1 ||
        EVP_DigestUpdate(digest, client_ca->certificates, client_ca->size) != 1 ||
        EVP_DigestFinal_ex(digest, scope, NULL) != 1)
        log_die("digest of context \"%s\" failed", facts->name);
    EVP_MD_CTX_free(digest);
}
