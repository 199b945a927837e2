/*
 * proxyticket.c: see proxyticket.h.
 *
 * A ticket on the wire, as libssl puts it together (RFC 5077 section 4):
 *
 *     key name (16) | IV (16) | ciphertext | period (4) | tag (16) | HMAC (32)
 *                               `-- update -------------'  `final'
 *
 * The IV is the nonce of the one-time key, which libssl wants to know before it seals: so a key is
 * in hand by then. Update may return one block more than it was given, final one block, of 16
 * bytes.
 */
#include "agent/proxyticket.h"

#include <string.h>

#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include "agent/log.h"
#include "agent/onetime.h"
#include "agent/proxycipher.h"
#include "agent/proxykey.h"
#include "protocol/hkdf.h"

#define BLOCK_SIZE    16
#define IV_SIZE       KEYOPS_NONCE_SIZE
#define TAG_SIZE      KEYOPS_TAG_SIZE
#define KEY_NAME_SIZE KEYOPS_KEY_NAME_SIZE
#define FILTER_SIZE   KEYOPS_HMAC_SIZE

/* Our own parameter: the struct binding of the connection, by address. In-process only. */
#define PARAM_BINDING "tlsagent-binding"

struct proxyticket {
    struct keycall *keeper; /* not owned */
    const SSL *entered;     /* the connection that is being served; not owned */
    struct onetime_cipher cipher;
    size_t filter_count;
    uint8_t filters[KEYOPS_FILTERS_MAX][KEYOPS_FILTER_SIZE]; /* key name, key of the HMAC */
};

/* One per connection, in its ex_data. */
struct binding {
    struct proxyticket *tickets; /* not owned */
    struct keyops_wish wish;     /* what is to come with a signature; the scope of all */
    struct onetime_keys keys;
    size_t sealed;
    uint64_t *not_resumed; /* not owned; NULL: nobody counts */
    unsigned opens;
    uint8_t nonce[IV_SIZE]; /* of the ticket that is being looked at */
    uint8_t wanted;         /* keys, if it opens */
    bool renew;
    bool known_name; /* of the ticket that is being looked at */
    bool too_many;
    int refusal; /* of the keeper, for that ticket; 0: it was not asked */
};

/* Registered once per process. */
static int binding_index = -1;
static EVP_CIPHER *ticket_cipher;

/* ---- the cipher ---- */

struct sealing {
    struct binding *binding;
    bool encrypting;
    bool failed;           /* opening: final reports it */
    uint8_t tag[TAG_SIZE]; /* sealing: final returns it */
};

static void *
cipher_new(void *provider)
{
    (void)provider;
    return OPENSSL_zalloc(sizeof(struct sealing));
}

static void
cipher_free(void *data)
{
    OPENSSL_free(data);
}

static int
cipher_set_params(void *data, const OSSL_PARAM params[])
{
    const OSSL_PARAM *param =
        params != NULL ? OSSL_PARAM_locate_const(params, PARAM_BINDING) : NULL;
    struct sealing *sealing = data;

    if (param == NULL)
        return 1;
    if (param->data_type != OSSL_PARAM_OCTET_PTR || param->data_size != sizeof(struct binding))
        return 0;
    memcpy(&sealing->binding, param->data, sizeof(sealing->binding));
    return 1;
}

static const OSSL_PARAM *
cipher_settable_params(void *data, void *provider)
{
    static const OSSL_PARAM table[] = {
        OSSL_PARAM_octet_ptr(PARAM_BINDING, NULL, 0),
        OSSL_PARAM_END,
    };

    (void)data;
    (void)provider;
    return table;
}

static int
cipher_init(struct sealing *sealing, bool encrypting, const OSSL_PARAM params[])
{
    sealing->encrypting = encrypting;
    sealing->failed = false;
    return cipher_set_params(sealing, params);
}

static int
cipher_encrypt_init(void *data, const unsigned char *key, size_t key_size, const unsigned char *iv,
                    size_t iv_size, const OSSL_PARAM params[])
{
    (void)key;
    (void)key_size;
    (void)iv;
    (void)iv_size;
    return cipher_init(data, true, params);
}

static int
cipher_decrypt_init(void *data, const unsigned char *key, size_t key_size, const unsigned char *iv,
                    size_t iv_size, const OSSL_PARAM params[])
{
    (void)key;
    (void)key_size;
    (void)iv;
    (void)iv_size;
    return cipher_init(data, false, params);
}

/* A ticket that opens nowhere: the client will come back with a full handshake. */
static int
make_dud(struct sealing *sealing, unsigned char *out, size_t *out_size, size_t room)
{
    if (room < BLOCK_SIZE || RAND_bytes(out, BLOCK_SIZE) != 1 ||
        RAND_bytes(sealing->tag, TAG_SIZE) != 1)
        return 0;
    *out_size = BLOCK_SIZE;
    return 1;
}

static int
seal(struct sealing *sealing, unsigned char *out, size_t *out_size, size_t room,
     const unsigned char *in, size_t in_size)
{
    struct binding *binding = sealing->binding;
    uint8_t tail[ONETIME_TAIL];

    if (binding == NULL || in_size > room || room - in_size < KEYOPS_PERIOD_SIZE ||
        !onetime_seal(&binding->tickets->cipher, &binding->keys, NULL, 0, in, in_size, out, tail))
        return make_dud(sealing, out, out_size, room);
    binding->sealed++;
    memcpy(out + in_size, tail, KEYOPS_PERIOD_SIZE);
    memcpy(sealing->tag, tail + KEYOPS_PERIOD_SIZE, TAG_SIZE);
    *out_size = in_size + KEYOPS_PERIOD_SIZE;
    return 1;
}

/* A failure here would be fatal for the connection; reported by final, it means a full handshake.
 */
static int
open_ticket(struct sealing *sealing, unsigned char *out, size_t *out_size, size_t room,
            const unsigned char *in, size_t in_size)
{
    struct binding *binding = sealing->binding;
    struct keyops_open_ticket request = {.data_size = IV_SIZE + in_size};
    size_t opened_size = 0;
    uint8_t *bytes; /* first the request's, then what is in it */

    *out_size = 0;
    sealing->failed = true;
    if (binding == NULL || in_size < ONETIME_TAIL)
        return 1;
    bytes = OPENSSL_malloc(request.data_size);
    if (bytes == NULL)
        return 1;
    memcpy(bytes, binding->nonce, IV_SIZE);
    memcpy(bytes + IV_SIZE, in, in_size);
    request.wish = binding->wish;
    request.wish.keys = binding->wanted;
    request.data = bytes;
    binding->refusal = keycall_open_ticket(binding->tickets->keeper, &request, &binding->keys,
                                           bytes, request.data_size, &opened_size);
    if (binding->refusal == 0 && opened_size == in_size - ONETIME_TAIL + 1 &&
        opened_size - 1 <= room) {
        memcpy(out, bytes + 1, opened_size - 1);
        *out_size = opened_size - 1;
        binding->renew = bytes[0] != 0;
        sealing->failed = false;
    }
    OPENSSL_clear_free(bytes, request.data_size);
    return 1;
}

static int
cipher_update(void *data, unsigned char *out, size_t *out_size, size_t room,
              const unsigned char *in, size_t in_size)
{
    struct sealing *sealing = data;

    return sealing->encrypting ? seal(sealing, out, out_size, room, in, in_size)
                               : open_ticket(sealing, out, out_size, room, in, in_size);
}

static int
cipher_final(void *data, unsigned char *out, size_t *out_size, size_t room)
{
    struct sealing *sealing = data;

    *out_size = 0;
    if (!sealing->encrypting)
        return !sealing->failed;
    if (room < TAG_SIZE)
        return 0;
    memcpy(out, sealing->tag, TAG_SIZE);
    *out_size = TAG_SIZE;
    return 1;
}

static int
cipher_get_params(OSSL_PARAM params[])
{
    OSSL_PARAM *param;

    param = OSSL_PARAM_locate(params, OSSL_CIPHER_PARAM_MODE);
    if (param != NULL && !OSSL_PARAM_set_uint(param, EVP_CIPH_CBC_MODE))
        return 0;
    param = OSSL_PARAM_locate(params, OSSL_CIPHER_PARAM_BLOCK_SIZE);
    if (param != NULL && !OSSL_PARAM_set_size_t(param, BLOCK_SIZE))
        return 0;
    param = OSSL_PARAM_locate(params, OSSL_CIPHER_PARAM_IVLEN);
    if (param != NULL && !OSSL_PARAM_set_size_t(param, IV_SIZE))
        return 0;
    param = OSSL_PARAM_locate(params, OSSL_CIPHER_PARAM_KEYLEN);
    return param == NULL || OSSL_PARAM_set_size_t(param, 32);
}

static int
cipher_get_ctx_params(void *data, OSSL_PARAM params[])
{
    (void)data;
    return cipher_get_params(params);
}

#define FUNCTION(id, f)                                                                            \
    {                                                                                              \
        (id), (void (*)(void))(f)                                                                  \
    }

const OSSL_DISPATCH proxycipher_functions[] = {
    FUNCTION(OSSL_FUNC_CIPHER_NEWCTX, cipher_new),
    FUNCTION(OSSL_FUNC_CIPHER_FREECTX, cipher_free),
    FUNCTION(OSSL_FUNC_CIPHER_ENCRYPT_INIT, cipher_encrypt_init),
    FUNCTION(OSSL_FUNC_CIPHER_DECRYPT_INIT, cipher_decrypt_init),
    FUNCTION(OSSL_FUNC_CIPHER_UPDATE, cipher_update),
    FUNCTION(OSSL_FUNC_CIPHER_FINAL, cipher_final),
    FUNCTION(OSSL_FUNC_CIPHER_GET_PARAMS, cipher_get_params),
    FUNCTION(OSSL_FUNC_CIPHER_GET_CTX_PARAMS, cipher_get_ctx_params),
    FUNCTION(OSSL_FUNC_CIPHER_SET_CTX_PARAMS, cipher_set_params),
    FUNCTION(OSSL_FUNC_CIPHER_SETTABLE_CTX_PARAMS, cipher_settable_params),
    {0, NULL},
};

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

/* Have a key in hand, from the keeper if must be. */
static bool
have_key(const SSL *ssl, struct binding *binding)
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
    struct binding *binding = SSL_get_ex_data(ssl, binding_index);

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
        OSSL_PARAM_construct_octet_ptr(PARAM_BINDING, &address, sizeof(*binding)),
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
    if (RAND_bytes(key_name, KEY_NAME_SIZE) != 1 || RAND_bytes(iv, IV_SIZE) != 1 ||
        RAND_bytes(filter, sizeof(filter)) != 1)
        return -1;
    return prepare(cipher, mac, filter, NULL, true) ? 1 : -1;
}

/* SSL_CTX_set_tlsext_ticket_key_evp_cb(3): 1 go on, 0 no ticket, -1 the handshake fails. */
static int
ticket_key(SSL *ssl, unsigned char *key_name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
           EVP_MAC_CTX *mac, int sealing)
{
    struct binding *binding = SSL_get_ex_data(ssl, binding_index);
    struct proxyticket *tickets = binding != NULL ? binding->tickets : NULL;
    size_t i = 0;

    if (binding == NULL)
        return sealing ? unbound_ticket(ssl, key_name, iv, cipher, mac) : 0;
    if (sealing) {
        memcpy(key_name, tickets->filters[0], KEY_NAME_SIZE);
        if (have_key(ssl, binding))
            memcpy(iv, onetime_nonce(&binding->keys), IV_SIZE);
        else if (RAND_bytes(iv, IV_SIZE) != 1) /* of a dud */
            return -1;
    } else {
        while (i < tickets->filter_count &&
               memcmp(key_name, tickets->filters[i], KEY_NAME_SIZE) != 0)
            i++;
        binding->refusal = 0;
        binding->known_name = i < tickets->filter_count;
        binding->too_many = binding->known_name && binding->opens >= PROXYTICKET_OPENS_MAX;
        if (!binding->known_name || binding->too_many)
            return 0;
        /* Counted before the filter is computed: that costs something too. */
        binding->opens++;
        memcpy(binding->nonce, iv, IV_SIZE);
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
    struct binding *binding = SSL_get_ex_data(ssl, binding_index);

    if (binding == NULL) {
        binding = OPENSSL_zalloc(sizeof(*binding));
        if (binding == NULL || SSL_set_ex_data(ssl, binding_index, binding) != 1) {
            OPENSSL_free(binding);
            return -1;
        }
    }
    onetime_wipe(&binding->keys); /* of another scope */
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
    const struct binding *binding = SSL_get_ex_data(ssl, binding_index);

    return binding != NULL && binding->renew;
}

/* ---- what is counted ---- */

void
proxyticket_count_into(SSL *ssl, uint64_t *not_resumed)
{
    struct binding *binding = SSL_get_ex_data(ssl, binding_index);

    if (binding != NULL)
        binding->not_resumed = not_resumed;
}

void
proxyticket_count(const SSL *ssl, enum control_not_resumed why)
{
    const struct binding *binding = SSL_get_ex_data(ssl, binding_index);

    if (binding != NULL && binding->not_resumed != NULL)
        binding->not_resumed[why]++;
}

void
proxyticket_count_unopened(const SSL *ssl)
{
    const struct binding *binding = SSL_get_ex_data(ssl, binding_index);

    if (binding == NULL)
        return;
    if (binding->too_many || binding->refusal == KEYOPS_TOO_OFTEN)
        proxyticket_count(ssl, CONTROL_TICKET_TOO_MANY);
    else if (!binding->known_name)
        proxyticket_count(ssl, CONTROL_TICKET_UNKNOWN);
    else if (binding->refusal == KEYOPS_OLD_TICKET)
        proxyticket_count(ssl, CONTROL_TICKET_EXPIRED);
    else if (binding->refusal == KEYOPS_FUTURE_TICKET)
        proxyticket_count(ssl, CONTROL_TICKET_FUTURE);
    else
        proxyticket_count(ssl, CONTROL_TICKET_BAD);
}

/* ---- tickets without libssl ---- */

size_t
proxyticket_seal_ticket(SSL *ssl, const uint8_t *session, size_t size, uint8_t *out, size_t room)
{
    struct binding *binding = SSL_get_ex_data(ssl, binding_index);
    const size_t sealed = KEY_NAME_SIZE + IV_SIZE + size + ONETIME_TAIL;
    uint8_t *next = out + KEY_NAME_SIZE + IV_SIZE;

    if (binding == NULL || size > room || sealed + FILTER_SIZE > room || !have_key(ssl, binding))
        return 0;
    memcpy(out, binding->tickets->filters[0], KEY_NAME_SIZE);
    memcpy(out + KEY_NAME_SIZE, onetime_nonce(&binding->keys), IV_SIZE);
    if (!onetime_seal(&binding->tickets->cipher, &binding->keys, NULL, 0, session, size, next,
                      next + size) ||
        !hkdf_hmac(FILTER_SIZE, binding->tickets->filters[0] + KEY_NAME_SIZE, FILTER_SIZE, out,
                   sealed, out + sealed))
        return 0;
    binding->sealed++;
    return sealed + FILTER_SIZE;
}

/* ---- sessions for the cache ---- */

bool
proxyticket_session_name(const SSL *ssl, const uint8_t *id, size_t id_size,
                         uint8_t name[KEYOPS_SCOPE_SIZE])
{
    static const char label[] = "tlsagent session name";
    const struct binding *binding = SSL_get_ex_data(ssl, binding_index);
    EVP_MD_CTX *digest = binding != NULL ? EVP_MD_CTX_new() : NULL;
    bool done = digest != NULL && EVP_DigestInit_ex(digest, EVP_sha256(), NULL) == 1 &&
                EVP_DigestUpdate(digest, label, sizeof(label)) == 1 &&
                EVP_DigestUpdate(digest, binding->wish.scope, sizeof(binding->wish.scope)) == 1 &&
                EVP_DigestUpdate(digest, id, id_size) == 1 &&
                EVP_DigestFinal_ex(digest, name, NULL) == 1;

    EVP_MD_CTX_free(digest);
    return done;
}

size_t
proxyticket_seal_session(SSL *ssl, const uint8_t *id, size_t id_size, const uint8_t *session,
                         size_t size, uint8_t *out, size_t room)
{
    struct binding *binding = SSL_get_ex_data(ssl, binding_index);

    if (binding == NULL || room < KEYOPS_TICKET_EXTRA || size > room - KEYOPS_TICKET_EXTRA ||
        !have_key(ssl, binding))
        return 0;
    memcpy(out, onetime_nonce(&binding->keys), KEYOPS_NONCE_SIZE);
    out += KEYOPS_NONCE_SIZE;
    if (!onetime_seal(&binding->tickets->cipher, &binding->keys, id, id_size, session, size, out,
                      out + size))
        return 0;
    return size + KEYOPS_TICKET_EXTRA;
}

size_t
proxyticket_open_session(SSL *ssl, const uint8_t *id, size_t id_size, const uint8_t *sealed,
                         size_t size, uint8_t *out, size_t room)
{
    struct binding *binding = SSL_get_ex_data(ssl, binding_index);
    struct keyops_open_ticket request = {.id_size = id_size, .data = sealed, .data_size = size};
    size_t opened = 0;

    if (binding == NULL || id_size > sizeof(request.id) || binding->opens >= PROXYTICKET_OPENS_MAX)
        return 0;
    binding->opens++;
    memcpy(request.id, id, id_size);
    memcpy(request.wish.scope, binding->wish.scope, sizeof(request.wish.scope));
    if (keycall_open_ticket(binding->tickets->keeper, &request, NULL, out, room, &opened) != 0 ||
        opened < 2)
        return 0;
    memmove(out, out + 1, opened - 1); /* in front of it: whether its key is the current one */
    return opened - 1;
}
