/*
 * proxyticket.c: see proxyticket.h.
 *
 * A ticket on the wire, as libssl puts it together (RFC 5077 section 4):
 *
 *     key name (16) | IV (16) | ciphertext | period (4) | tag (16) | HMAC (32)
 *                               `-- update -------------'  `final'
 *
 * Update and final are the cipher's, proxycipher.c.
 */
#include "agent/proxyticket.h"

#include <string.h>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include "agent/binding.h"
#include "agent/log.h"
#include "agent/proxycipher.h"
#include "agent/proxykey.h"
#include "protocol/hkdf.h"

#define KEY_NAME_SIZE KEYOPS_KEY_NAME_SIZE
#define FILTER_SIZE   KEYOPS_HMAC_SIZE

/* Registered once per process. */
static int binding_index = -1;
static EVP_CIPHER *ticket_cipher;

struct binding *
binding_of(const SSL *ssl)
{
    return SSL_get_ex_data(ssl, binding_index);
}

/* ---- one per process ---- */

int
proxyticket_refresh(struct proxyticket *tickets, struct error *error)
{
    tickets->filter_count = keycall_filters(tickets->keeper, tickets->filters);
    if (tickets->filter_count == 0)
        return error_set(error, "tickets: the keeper does not say how it marks them");
    return 0;
}

/* libssl frees what hangs on a connection with it. */
static void
free_binding(void *parent, void *pointer, CRYPTO_EX_DATA *data, int index, long argl, void *argp)
{
    (void)parent;
    (void)data;
    (void)index;
    (void)argl;
    (void)argp;
    if (pointer != NULL)
        early_free(((struct binding *)pointer)->early);
    OPENSSL_clear_free(pointer, sizeof(struct binding));
}

static int
register_once(void)
{
    if (binding_index == -1)
        binding_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, free_binding);
    if (ticket_cipher == NULL && proxykey_context() != NULL)
        ticket_cipher = EVP_CIPHER_fetch(proxykey_context(), PROXYCIPHER_NAME, NULL);
    return binding_index != -1 && ticket_cipher != NULL ? 0 : -1;
}

struct proxyticket *
proxyticket_new(struct keycall *keeper, struct error *error)
{
    struct proxyticket *tickets = OPENSSL_zalloc(sizeof(*tickets));

    if (tickets == NULL || register_once() == -1 || !onetime_cipher_init(&tickets->cipher)) {
        error_set(error, "tickets: no memory, or proxykey_load() was not called");
        proxyticket_free(tickets);
        return NULL;
    }
    tickets->keeper = keeper;
    if (proxyticket_refresh(tickets, error) == -1) {
        proxyticket_free(tickets);
        return NULL;
    }
    return tickets;
}

void
proxyticket_free(struct proxyticket *tickets)
{
    if (tickets == NULL)
        return;
    onetime_cipher_free(&tickets->cipher);
    OPENSSL_clear_free(tickets, sizeof(*tickets));
}

/* ---- keys ---- */

/* How many tickets it gives out in TLS 1.3. Not what the SSL says: its own count is 0 if libssl is
 * not to make them (newticket.h). */
static size_t
tickets_of(const SSL *ssl)
{
    return SSL_CTX_get_num_tickets(SSL_get_SSL_CTX(ssl));
}

/* One-time keys that one connection can use: as many as it gives out tickets. */
static uint8_t
keys_for(size_t tickets)
{
    return tickets < KEYOPS_KEYS_MAX ? (uint8_t)tickets : KEYOPS_KEYS_MAX;
}

bool
binding_have_key(const SSL *ssl, struct binding *binding)
{
    size_t tickets = tickets_of(ssl);
    struct keyops_wish wish = binding->wish;
    int refusal;

    if (binding->keys.count > 0)
        return true;
    wish.keys = 1;
    if (SSL_version(ssl) == TLS1_3_VERSION && !SSL_session_reused(ssl) && tickets > binding->sealed)
        wish.keys = keys_for(tickets - binding->sealed);
    refusal = keycall_ticket_keys(binding->tickets->keeper, &wish, &binding->keys);
    if (refusal != 0)
        log_warning("a session cannot be sealed: %s", keycall_refusal_text(refusal));
    return binding->keys.count > 0;
}

void
proxyticket_enter(struct proxyticket *tickets, SSL *ssl)
{
    struct binding *binding = binding_of(ssl);

    tickets->entered = ssl;
    if (binding != NULL)
        keycall_serve(tickets->keeper, &binding->wish, &binding->keys);
}

void
proxyticket_leave(struct proxyticket *tickets)
{
    tickets->entered = NULL;
    keycall_serve(tickets->keeper, NULL, NULL);
}

/* ---- what libssl calls ---- */

static bool
prepare(EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac, uint8_t *filter, struct binding *binding,
        bool sealing)
{
    char digest[] = "SHA2-256";
    void *address = binding;
    OSSL_PARAM mac_params[3] = {
        OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, filter, FILTER_SIZE),
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_end(),
    };
    OSSL_PARAM cipher_params[2] = {
        OSSL_PARAM_construct_octet_ptr(PROXYCIPHER_BINDING, &address, sizeof(*binding)),
        OSSL_PARAM_construct_end(),
    };

    return EVP_CipherInit_ex2(cipher, ticket_cipher, NULL, NULL, sealing, cipher_params) == 1 &&
           EVP_MAC_CTX_set_params(mac, mac_params) == 1;
}

/* The ticket of a connection that nobody bound. TLS 1.2 can do without; OpenSSL 3.0 would send a
 * malformed TLS 1.3 message, so there it is a dud under a name and a filter that nobody has. */
static int
unbound_ticket(SSL *ssl, unsigned char *key_name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
               EVP_MAC_CTX *mac)
{
    uint8_t filter[FILTER_SIZE];

    if (SSL_version(ssl) < TLS1_3_VERSION)
        return 0;
    if (RAND_bytes(key_name, KEY_NAME_SIZE) != 1 || RAND_bytes(iv, KEYOPS_NONCE_SIZE) != 1 ||
        RAND_bytes(filter, sizeof(filter)) != 1)
        return -1;
    return prepare(cipher, mac, filter, NULL, true) ? 1 : -1;
}

size_t
binding_filter(const struct proxyticket *tickets, const uint8_t *key_name)
{
    size_t i = 0;

    while (i < tickets->filter_count && memcmp(key_name, tickets->filters[i], KEY_NAME_SIZE) != 0)
        i++;
    return i;
}

/* SSL_CTX_set_tlsext_ticket_key_evp_cb(3): 1 go on, 0 no ticket, -1 the handshake fails. */
static int
ticket_key(SSL *ssl, unsigned char *key_name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
           EVP_MAC_CTX *mac, int sealing)
{
    struct binding *binding = binding_of(ssl);
    struct proxyticket *tickets = binding != NULL ? binding->tickets : NULL;
    size_t i = 0;
    bool counted;

    if (binding == NULL)
        return sealing ? unbound_ticket(ssl, key_name, iv, cipher, mac) : 0;
    if (sealing) {
        memcpy(key_name, tickets->filters[0], KEY_NAME_SIZE);
        if (binding_have_key(ssl, binding))
            memcpy(iv, onetime_nonce(&binding->keys), KEYOPS_NONCE_SIZE);
        else if (RAND_bytes(iv, KEYOPS_NONCE_SIZE) != 1) /* of a dud */
            return -1;
    } else {
        i = binding_filter(tickets, key_name);
        binding->refusal = 0;
        binding->known_name = i < tickets->filter_count;
        counted = early_has_nonce(binding->early, iv);
        binding->too_many =
            binding->known_name && !counted && binding->opens >= PROXYTICKET_OPENS_MAX;
        if (!binding->known_name || binding->too_many)
            return 0;
        /* Counted before the filter is computed: that costs something too. */
        binding->opens += !counted;
        memcpy(binding->nonce, iv, KEYOPS_NONCE_SIZE);
        /* Used, a ticket of TLS 1.3 is replaced by one other; one of TLS 1.2 seldom is. */
        binding->wanted = binding->wish.keys > 0 && SSL_version(ssl) == TLS1_3_VERSION;
    }
    return prepare(cipher, mac, tickets->filters[i] + KEY_NAME_SIZE, binding, sealing) ? 1 : -1;
}

static SSL_TICKET_RETURN
decrypted(SSL *ssl, SSL_SESSION *session, const unsigned char *key_name, size_t key_name_size,
          SSL_TICKET_STATUS status, void *argument)
{
    (void)session;
    (void)key_name;
    (void)key_name_size;
    (void)argument;
    return proxyticket_decide(ssl, status);
}

int
proxyticket_enable(SSL_CTX *ctx)
{
    if (register_once() == -1 || SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, ticket_key) != 1 ||
        SSL_CTX_set_session_ticket_cb(ctx, NULL, decrypted, NULL) != 1)
        return -1;
    return 0;
}

int
proxyticket_bind(SSL *ssl, struct proxyticket *tickets, const uint8_t scope[KEYOPS_SCOPE_SIZE])
{
    struct binding *binding = binding_of(ssl);

    if (binding == NULL) {
        binding = OPENSSL_zalloc(sizeof(*binding));
        if (binding == NULL || SSL_set_ex_data(ssl, binding_index, binding) != 1) {
            OPENSSL_free(binding);
            return -1;
        }
    }
    onetime_wipe(&binding->keys); /* of another scope */
    early_free(binding->early);
    binding->early = NULL;
    binding->tickets = tickets;
    memcpy(binding->wish.scope, scope, KEYOPS_SCOPE_SIZE);
    binding->wish.keys =
        SSL_get_verify_mode(ssl) == SSL_VERIFY_NONE ? keys_for(tickets_of(ssl)) : 0;
    if (tickets->entered == ssl)
        keycall_serve(tickets->keeper, &binding->wish, &binding->keys);
    return 0;
}

SSL_TICKET_RETURN
proxyticket_decide(SSL *ssl, SSL_TICKET_STATUS status)
{
    switch (status) {
    case SSL_TICKET_SUCCESS:
        /* A TLS 1.3 client uses a ticket once (RFC 8446 section C.4): each use gives a new one. */
        return proxyticket_renew(ssl) || SSL_version(ssl) == TLS1_3_VERSION
                   ? SSL_TICKET_RETURN_USE_RENEW
                   : SSL_TICKET_RETURN_USE;
    case SSL_TICKET_SUCCESS_RENEW:
        return SSL_TICKET_RETURN_USE_RENEW;
    default: /* no ticket, or not one of ours: a full handshake, and a ticket after it */
        return SSL_TICKET_RETURN_IGNORE_RENEW;
    }
}

bool
proxyticket_renew(const SSL *ssl)
{
    const struct binding *binding = binding_of(ssl);

    return binding != NULL && binding->renew;
}

/* ---- tickets without libssl ---- */

size_t
proxyticket_seal_ticket(SSL *ssl, const uint8_t *session, size_t size, uint8_t *out, size_t room)
{
    struct binding *binding = binding_of(ssl);
    const size_t sealed = KEY_NAME_SIZE + KEYOPS_NONCE_SIZE + size + ONETIME_TAIL;
    uint8_t *next = out + KEY_NAME_SIZE + KEYOPS_NONCE_SIZE;

    if (binding == NULL || size > room || sealed + FILTER_SIZE > room ||
        !binding_have_key(ssl, binding))
        return 0;
    memcpy(out, binding->tickets->filters[0], KEY_NAME_SIZE);
    memcpy(out + KEY_NAME_SIZE, onetime_nonce(&binding->keys), KEYOPS_NONCE_SIZE);
    if (!onetime_seal(&binding->tickets->cipher, &binding->keys, NULL, 0, session, size, next,
                      next + size) ||
        !hkdf_hmac(FILTER_SIZE, binding->tickets->filters[0] + KEY_NAME_SIZE, FILTER_SIZE, out,
                   sealed, out + sealed))
        return 0;
    binding->sealed++;
    return sealed + FILTER_SIZE;
}
