/*
 * sessions.c: see sessions.h.
 *
 * What a session carries as its ticket_appdata: version (1), the second at which it ends (8),
 * certificates (24-bit size, DER).
 */
#include "agent/sessions.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/err.h>
#include <openssl/x509.h>

#include "agent/proxyticket.h"
#include "protocol/wire.h"

#define VERSION     1
#define HEADER_SIZE 9

_Static_assert(SESSION_LARGE == STORE_ENTRY_MAX, "what fits the cache fits the store");

/* One of each per process, as the keeper is. */
static struct session_cache *cache;
static struct store *store;
static struct store_lookup *(*lookup_of)(const SSL *ssl);
static void (*lookup_answered)(struct store_lookup *lookup);

void
sessions_use_cache(struct session_cache *with)
{
    cache = with;
}

void
sessions_use_store(struct store *with, struct store_lookup *(*of)(const SSL *ssl),
                   void (*answered)(struct store_lookup *lookup))
{
    store = with;
    lookup_of = of;
    lookup_answered = answered;
}

/* ---- what a session remembers ---- */

static bool
put_certificate(uint8_t *out, size_t room, size_t *size, X509 *certificate)
{
    int length = i2d_X509(certificate, NULL);
    uint8_t *next = out + *size + 3;

    if (length <= 0 || length > 0xffffff || *size + 3 + (size_t)length > room)
        return false;
    out[*size] = (uint8_t)(length >> 16);
    out[*size + 1] = (uint8_t)(length >> 8);
    out[*size + 2] = (uint8_t)length;
    i2d_X509(certificate, &next);
    *size += 3 + (size_t)length;
    return true;
}

/* Seconds since 1970 at which the first of the verified certificates expires; 0 if one cannot be
 * read; the greatest number if there are none. */
static uint64_t
peer_ends(SSL *ssl)
{
    STACK_OF(X509) *chain = SSL_get0_verified_chain(ssl);
    uint64_t ends = UINT64_MAX, now = (uint64_t)time(NULL);

    if (SSL_get0_peer_certificate(ssl) != NULL && sk_X509_num(chain) <= 0)
        return 0;
    for (int i = 0; i < sk_X509_num(chain); i++) {
        const ASN1_TIME *until = X509_get0_notAfter(sk_X509_value(chain, i));
        int days, seconds;
        int64_t left;

        if (ASN1_TIME_diff(&days, &seconds, NULL, until) != 1)
            return 0;
        left = (int64_t)days * 86400 + seconds;
        if (left <= 0)
            return 0;
        if (now + (uint64_t)left < ends)
            ends = now + (uint64_t)left;
    }
    return ends;
}

/* Of the session: what remember() wrote. Returns false if that is not there. */
static bool
recall(SSL_SESSION *session, uint64_t *ends, const uint8_t **chain, size_t *chain_size)
{
    struct wire_reader reader;
    void *data;
    size_t size;

    if (SSL_SESSION_get0_ticket_appdata(session, &data, &size) != 1 || size < HEADER_SIZE)
        return false;
    wire_reader_init(&reader, data, size);
    if (wire_get_u8(&reader) != VERSION)
        return false;
    *ends = wire_get_u64(&reader);
    *chain = reader.next;
    *chain_size = size - HEADER_SIZE;
    return true;
}

/* Write it into the session, unless it comes from an earlier handshake and has it. */
static bool
remember(SSL *ssl, SSL_SESSION *session)
{
    STACK_OF(X509) *others = SSL_get_peer_cert_chain(ssl); /* without the leaf */
    uint8_t *data;
    size_t size = 0, room = SERVICE_CHAIN_MAX;
    struct wire_writer writer;
    bool done = true;

    if (SSL_session_reused(ssl))
        return true;
    data = malloc(HEADER_SIZE + room);
    if (data == NULL)
        return false;
    wire_writer_init(&writer, data, HEADER_SIZE);
    wire_put_u8(&writer, VERSION);
    wire_put_u64(&writer, peer_ends(ssl));
    for (int i = 0; done && i < sk_X509_num(others) && i + 1 < SERVICE_CHAIN_LENGTH; i++)
        done = put_certificate(data + HEADER_SIZE, room, &size, sk_X509_value(others, i));
    done = done && SSL_SESSION_set1_ticket_appdata(session, data, HEADER_SIZE + size) == 1;
    free(data);
    return done;
}

bool
sessions_peer_chain(SSL *ssl, uint8_t *out, size_t room, size_t *size)
{
    STACK_OF(X509) *others = SSL_get_peer_cert_chain(ssl);
    const uint8_t *chain;
    uint64_t ends;
    bool fits = true;

    *size = 0;
    if (!SSL_session_reused(ssl)) {
        for (int i = 0; fits && i < sk_X509_num(others) && i + 1 < SERVICE_CHAIN_LENGTH; i++)
            fits = put_certificate(out, room, size, sk_X509_value(others, i));
        return fits;
    }
    if (!recall(SSL_get_session(ssl), &ends, &chain, size) || *size > room)
        return false;
    memcpy(out, chain, *size);
    return true;
}

/* May this session be used now? */
static bool
is_good(const SSL *ssl, SSL_SESSION *session)
{
    uint64_t ends, now = (uint64_t)time(NULL);
    const uint8_t *chain;
    size_t size;

    if (!recall(session, &ends, &chain, &size)) {
        proxyticket_count(ssl, CONTROL_TICKET_BAD);
        return false;
    }
    if (now >= ends) {
        proxyticket_count(ssl, CONTROL_TICKET_PEER);
        return false;
    }
    if ((long)now - SSL_SESSION_get_time(session) >= SSL_SESSION_get_timeout(session)) {
        proxyticket_count(ssl, CONTROL_TICKET_EXPIRED);
        return false;
    }
    return true;
}

/* ---- tickets ---- */

/* A session that has no place for what it must carry must not become a ticket that would pass
 * without it: it gets none of it, and is_good() refuses it. */
bool
sessions_remember(SSL *ssl)
{
    if (remember(ssl, SSL_get_session(ssl)))
        return true;
    ERR_clear_error();
    return false;
}

static int
ticket_made(SSL *ssl, void *argument)
{
    (void)argument;
    (void)sessions_remember(ssl);
    return 1;
}

static SSL_TICKET_RETURN
ticket_opened(SSL *ssl, SSL_SESSION *session, const unsigned char *key_name, size_t key_name_size,
              SSL_TICKET_STATUS status, void *argument)
{
    (void)key_name;
    (void)key_name_size;
    (void)argument;
    switch (status) {
    case SSL_TICKET_SUCCESS:
    case SSL_TICKET_SUCCESS_RENEW:
        if (!is_good(ssl, session))
            return SSL_TICKET_RETURN_IGNORE_RENEW;
        break;
    case SSL_TICKET_NO_DECRYPT:
        proxyticket_count_unopened(ssl);
        break;
    default:
        break;
    }
    return proxyticket_decide(ssl, status);
}

/* The versions in a ClientHello (RFC 8446 section 4.2.1): is TLS 1.3 among them? */
static bool
offers_tls13(SSL *ssl)
{
    const unsigned char *list;
    size_t size;

    if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_supported_versions, &list, &size) != 1)
        return false;
    for (size_t i = 1; i + 1 < size; i += 2) {
        if (list[i] == 0x03 && list[i + 1] == 0x04)
            return true;
    }
    return false;
}

void
sessions_without_tickets(SSL *ssl)
{
    if (!offers_tls13(ssl) || SSL_CTX_get_max_proto_version(SSL_get_SSL_CTX(ssl)) < TLS1_3_VERSION)
        SSL_set_options(ssl, SSL_OP_NO_TICKET);
}

/* ---- session ids ---- */

static void
keep_session(SSL *ssl, SSL_SESSION *session)
{
    uint8_t sealed[SESSION_LARGE];
    unsigned id_size;
    const uint8_t *id = SSL_SESSION_get_id(session, &id_size);
    uint64_t now = (uint64_t)time(NULL);
    uint8_t *bytes = NULL, name[STORE_NAME_SIZE];
    int size;
    size_t sealed_size = 0;

    if ((cache == NULL && store == NULL) || id_size == 0)
        return;
    if (remember(ssl, session) && (size = i2d_SSL_SESSION(session, &bytes)) > 0) {
        if ((size_t)size + KEYOPS_TICKET_EXTRA <= sizeof(sealed))
            sealed_size = proxyticket_seal_session(ssl, id, id_size, bytes, (size_t)size, sealed,
                                                   sizeof(sealed));
        else
            proxyticket_count(ssl, CONTROL_SESSION_TOO_LONG);
        OPENSSL_clear_free(bytes, (size_t)size);
    }
    if (sealed_size > 0 && cache != NULL)
        (void)session_cache_put(cache, id, id_size, sealed, sealed_size, now,
                                now + (uint64_t)SSL_SESSION_get_timeout(session));
    if (sealed_size > 0 && store != NULL && proxyticket_session_name(ssl, id, id_size, name))
        store_keep(store, name, sealed, sealed_size, (uint32_t)SSL_SESSION_get_timeout(session));
    ERR_clear_error();
}

/* Keep a new session while our Finished is still in libssl's buffer: its own callback for that
 * comes after the peer has it, and a quick client would be back, in another cell, before the
 * session is there. The client's Finished is verified by then. */
static void
state_changed(const SSL *ssl, int where, int result)
{
    (void)result;
    if ((where & SSL_CB_LOOP) != 0 && SSL_get_state(ssl) == TLS_ST_SW_CHANGE &&
        SSL_version(ssl) == TLS1_2_VERSION && !SSL_session_reused(ssl))
        keep_session((SSL *)(uintptr_t)ssl, SSL_get_session(ssl));
}

/* The sealed entry of an id: from the cache, or what the store has answered. False: there is none
 * (counted). */
static bool
find_entry(SSL *ssl, const uint8_t *id, size_t id_size, uint8_t entry[SESSION_LARGE], size_t *size,
           bool *fetched)
{
    const struct store_lookup *lookup = store != NULL ? lookup_of(ssl) : NULL;

    *fetched = false;
    if (cache != NULL && session_cache_get(cache, id, id_size, (uint64_t)time(NULL), entry, size))
        return true;
    if (lookup != NULL && lookup->answer == STORE_HAS_IT && lookup->size <= SESSION_LARGE) {
        memcpy(entry, lookup->entry, lookup->size);
        *size = lookup->size;
        *fetched = true;
        return true;
    }
    proxyticket_count(ssl, lookup != NULL && lookup->answer == STORE_CANNOT
                               ? CONTROL_SESSION_STORE
                               : CONTROL_SESSION_UNKNOWN);
    return false;
}

static SSL_SESSION *
session_wanted(SSL *ssl, const unsigned char *id, int id_size, int *copy)
{
    uint8_t sealed[SESSION_LARGE], bytes[SESSION_LARGE];
    const uint8_t *next = bytes;
    SSL_SESSION *session = NULL;
    size_t size, sealed_size;
    bool fetched;

    *copy = 0;
    if (id_size <= 0 || !find_entry(ssl, id, (size_t)id_size, sealed, &sealed_size, &fetched))
        return NULL;
    size = proxyticket_open_session(ssl, id, (size_t)id_size, sealed, sealed_size, bytes,
                                    sizeof(bytes));
    if (size > 0)
        session = d2i_SSL_SESSION(NULL, &next, (long)size);
    OPENSSL_cleanse(bytes, sizeof(bytes));
    if (session == NULL) {
        proxyticket_count(ssl, CONTROL_SESSION_BAD);
    } else if (!is_good(ssl, session)) {
        SSL_SESSION_free(session);
        session = NULL;
    } else if (fetched && cache != NULL) { /* the next time it is here */
        (void)session_cache_put(
            cache, id, (size_t)id_size, sealed, sealed_size, (uint64_t)time(NULL),
            (uint64_t)(SSL_SESSION_get_time(session) + SSL_SESSION_get_timeout(session)));
    }
    ERR_clear_error();
    return session;
}

/* Will libssl look this ClientHello's session id up? Only in TLS 1.2, and not if there is a ticket
 * that it looks at instead. */
static bool
resumes_by_id(SSL *ssl)
{
    const unsigned char *ticket;
    size_t size;

    if (offers_tls13(ssl) && SSL_CTX_get_max_proto_version(SSL_get_SSL_CTX(ssl)) >= TLS1_3_VERSION)
        return false;
    return (SSL_get_options(ssl) & SSL_OP_NO_TICKET) != 0 ||
           SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_session_ticket, &ticket, &size) != 1 ||
           size == 0;
}

/* The first ticket that libssl will look at, if there is one. */
static bool
first_ticket(SSL *ssl, const uint8_t **ticket, size_t *size, bool *tls13)
{
    const unsigned char *list;
    struct wire_reader reader;
    size_t list_size;

    *tls13 =
        offers_tls13(ssl) && SSL_CTX_get_max_proto_version(SSL_get_SSL_CTX(ssl)) >= TLS1_3_VERSION;
    if ((SSL_get_options(ssl) & SSL_OP_NO_TICKET) != 0)
        return false;
    if (!*tls13)
        return SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_session_ticket, ticket, size) == 1;
    if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_psk, &list, &list_size) != 1)
        return false;
    wire_reader_init(&reader, list, list_size); /* RFC 8446 section 4.2.11 */
    (void)wire_get_u16(&reader);
    *ticket = wire_get_string(&reader, 2, UINT16_MAX, size);
    return *ticket != NULL;
}

static bool
must_wait_for_ticket(SSL *ssl)
{
    const uint8_t *ticket;
    size_t size;
    bool tls13;

    /* Used, a ticket of TLS 1.3 is replaced by one other; one of TLS 1.2 seldom is. */
    return first_ticket(ssl, &ticket, &size, &tls13) && proxyticket_wait(ssl, ticket, size, tls13);
}

static bool
must_wait_for_store(SSL *ssl)
{
    struct store_lookup *lookup = store != NULL ? lookup_of(ssl) : NULL;
    uint8_t entry[SESSION_LARGE], name[STORE_NAME_SIZE];
    const unsigned char *id;
    size_t id_size, size;

    if (lookup == NULL)
        return false;
    if (lookup->answer != STORE_NOT_ASKED)
        return lookup->answer == STORE_WAITS;
    id_size = SSL_client_hello_get0_session_id(ssl, &id);
    if (id_size == 0 || id_size > SESSION_ID_MAX || !resumes_by_id(ssl) ||
        (SSL_CTX_get_session_cache_mode(SSL_get_SSL_CTX(ssl)) & SSL_SESS_CACHE_SERVER) == 0 ||
        (cache != NULL &&
         session_cache_get(cache, id, id_size, (uint64_t)time(NULL), entry, &size)) ||
        !proxyticket_session_name(ssl, id, id_size, name))
        return false;
    store_look_up(store, lookup, name, lookup_answered);
    return lookup->answer == STORE_WAITS;
}

bool
sessions_must_wait(SSL *ssl)
{
    return must_wait_for_store(ssl) || must_wait_for_ticket(ssl);
}

static void
session_ended(SSL_CTX *ctx, SSL_SESSION *session)
{
    unsigned id_size;
    const uint8_t *id = SSL_SESSION_get_id(session, &id_size);

    (void)ctx;
    if (cache != NULL)
        session_cache_remove(cache, id, id_size);
}

int
sessions_enable(SSL_CTX *ctx, const struct generation_context *facts)
{
    if (facts->tickets == 0) {
        SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
        SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    } else if (facts->session_ids == 0) {
        SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    } else {
        SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL |
                                                SSL_SESS_CACHE_NO_AUTO_CLEAR);
        SSL_CTX_set_info_callback(ctx, state_changed);
        SSL_CTX_sess_set_get_cb(ctx, session_wanted);
        SSL_CTX_sess_set_remove_cb(ctx, session_ended);
    }
    SSL_CTX_set_num_tickets(ctx, facts->tickets);
    SSL_CTX_set_timeout(ctx, facts->ticket_life);
    if (proxyticket_enable(ctx) == -1 ||
        SSL_CTX_set_session_ticket_cb(ctx, ticket_made, ticket_opened, NULL) != 1)
        return -1;
    return 0;
}
