/* newticket.c: see newticket.h. */
#include "agent/newticket.h"

#include <string.h>
#include <time.h>

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "agent/proxyticket.h"
#include "agent/sessions.h"
#include "protocol/hkdf.h"
#include "protocol/wire.h"

#define TYPE_NEW_SESSION_TICKET 4
#define TYPE_HANDSHAKE          22
#define TYPE_APPLICATION_DATA   23

#define PSK_DHE_KE 1 /* RFC 8446 section 4.2.9 */

#define LIFETIME_MAX (7 * 86400) /* RFC 8446 section 4.6.1 */

#define SESSION_MAX 1024 /* encoded; a name and a protocol of 255 bytes each fit */
#define TICKET_MAX  (SESSION_MAX + 128)
#define MESSAGE_MAX (4 + 4 + 4 + 2 + 2 + TICKET_MAX + 2)

/* A client's limit makes several records of it, of 512 bytes at the least (RFC 6066 section 4). All
 * of them fit into the transport. */
#define RECORD_HEAD  5
#define RECORD_EXTRA (RECORD_HEAD + 1 + TRAFFIC_TAG_SIZE)
#define PIECES_MAX   4
#define PLAIN_MAX    (TRANSPORT_BUFFER - PIECES_MAX * RECORD_EXTRA)

_Static_assert(MESSAGE_MAX <= PLAIN_MAX && PLAIN_MAX <= PIECES_MAX * 512,
               "a ticket must fit, and in no more pieces");

/* What one call works with. */
struct tickets {
    SSL *ssl;
    const struct traffic_suite *suite;
    struct traffic_state *state;
    struct transport *transport;
    uint8_t session[SESSION_MAX]; /* encoded, with the key of the ticket that is being made */
    size_t session_size;
    uint8_t *key; /* in the session */
    uint8_t
        plain[PLAIN_MAX + 1]; /* of the record that is being filled; its type is the last byte */
    size_t plain_size;
};

static EVP_CIPHER_CTX
    *seal; /* one per process: roles are single-threaded; between calls without a key */

/* Does the client know what to do with a ticket? libssl resumes with Diffie-Hellman only. */
static bool
can_use_tickets(SSL *ssl)
{
    const unsigned char *extension;
    const uint8_t *modes;
    struct wire_reader reader;
    size_t size;

    if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_psk_kex_modes, &extension, &size) != 1)
        return false;
    wire_reader_init(&reader, extension, size);
    modes = wire_get_string(&reader, 1, UINT8_MAX, &size);
    return wire_done(&reader) && memchr(modes, PSK_DHE_KE, size) != NULL;
}

void
newticket_take_over(SSL *ssl, struct newticket *due)
{
    const bool usable = can_use_tickets(ssl);
    size_t count = SSL_CTX_get_num_tickets(SSL_get_SSL_CTX(ssl));

    due->next = due->count = 0;
    if (usable && SSL_get_verify_mode(ssl) != SSL_VERIFY_NONE)
        return;
    if (SSL_set_num_tickets(ssl, 0) == 1 && usable)
        due->count = count < UINT8_MAX ? count : UINT8_MAX; /* its number is a byte */
}

static const EVP_CIPHER *
cipher_of(const struct traffic_suite *suite)
{
    static EVP_CIPHER *ciphers[4]; /* fetched once */
    static const char *const names[] = {[TRAFFIC_AES_128_GCM] = "AES-128-GCM",
                                        [TRAFFIC_AES_256_GCM] = "AES-256-GCM",
                                        [TRAFFIC_CHACHA20_POLY1305] = "ChaCha20-Poly1305"};

    if (ciphers[suite->aead] == NULL)
        ciphers[suite->aead] = EVP_CIPHER_fetch(NULL, names[suite->aead], NULL);
    return ciphers[suite->aead];
}

/* Make a record of `size` bytes; the one behind them is used for the record's type. */
static bool
seal_record(const struct tickets *tickets, uint64_t sequence, uint8_t *plain, size_t size,
            uint8_t *record)
{
    const struct traffic_keys *keys = &tickets->state->send;
    const size_t body = size + 1 + TRAFFIC_TAG_SIZE;
    uint8_t *sealed = record + RECORD_HEAD;
    uint8_t nonce[TRAFFIC_IV_SIZE], after = plain[size];
    int length;
    bool done;

    record[0] = TYPE_APPLICATION_DATA;
    record[1] = record[2] = 3;
    record[3] = (uint8_t)(body >> 8);
    record[4] = (uint8_t)body;
    memcpy(nonce, keys->iv, sizeof(nonce));
    for (size_t i = 0; i < 8; i++)
        nonce[sizeof(nonce) - 1 - i] ^= (uint8_t)(sequence >> 8 * i);
    plain[size] = TYPE_HANDSHAKE;
    done =
        EVP_EncryptInit_ex2(seal, cipher_of(tickets->suite), keys->key, nonce, NULL) == 1 &&
        EVP_EncryptUpdate(seal, NULL, &length, record, RECORD_HEAD) == 1 &&
        EVP_EncryptUpdate(seal, sealed, &length, plain, (int)size + 1) == 1 &&
        EVP_EncryptFinal_ex(seal, sealed + size + 1, &length) == 1 &&
        EVP_CIPHER_CTX_ctrl(seal, EVP_CTRL_AEAD_GET_TAG, TRAFFIC_TAG_SIZE, sealed + size + 1) == 1;
    EVP_CIPHER_CTX_reset(seal); /* it holds the key, expanded */
    plain[size] = after;
    return done;
}

/* Seal what is in plain as one record, or as many as the client's limit makes of it (RFC 8446
 * section 5.2). All of them or none: nothing else may come between the parts of a message. */
static bool
send_plain(struct tickets *tickets)
{
    struct traffic_keys *keys = &tickets->state->send;
    uint8_t records[TRANSPORT_BUFFER], *next = tickets->plain;
    uint64_t sequence = keys->sequence;
    size_t used = 0, left = tickets->plain_size, size;

    for (; left > 0; next += size, left -= size) {
        size = left < tickets->state->max_fragment ? left : tickets->state->max_fragment;
        if (size + RECORD_EXTRA > sizeof(records) - used ||
            !seal_record(tickets, sequence++, next, size, records + used))
            return false;
        used += size + RECORD_EXTRA;
    }
    if (used > 0 && !transport_append(tickets->transport, records, used))
        return false;
    keys->sequence = sequence;
    tickets->plain_size = 0;
    return true;
}

/* The key of the ticket with this number (RFC 8446 section 4.6.1). */
static bool
derive_key(const struct tickets *tickets, const uint8_t *resumption_secret, uint8_t number,
           uint8_t *key)
{
    static const char prefix[] = "tls13 ", text[] = "resumption";
    struct hkdf_label label = {.prefix = (const uint8_t *)prefix,
                               .prefix_size = sizeof(prefix) - 1,
                               .label = (const uint8_t *)text,
                               .label_size = sizeof(text) - 1,
                               .context = &number,
                               .context_size = 1};

    return hkdf_expand_label(tickets->suite->hash_size, resumption_secret, &label, key,
                             tickets->suite->hash_size);
}

/* What all tickets have in common; the key is that of the first one. */
static bool
encode_session(struct tickets *tickets, const uint8_t *key)
{
    SSL_SESSION *session = SSL_get_session(tickets->ssl);
    const size_t key_size = tickets->suite->hash_size;
    const unsigned char *alpn;
    uint8_t *next = tickets->session;
    unsigned alpn_size;
    int size;

    SSL_get0_alpn_selected(tickets->ssl, &alpn, &alpn_size);
    if (!sessions_remember(tickets->ssl) ||
        SSL_SESSION_set1_master_key(session, key, key_size) != 1 ||
        SSL_SESSION_set1_alpn_selected(session, alpn, alpn_size) != 1 ||
        SSL_SESSION_set_time(session, (long)time(NULL)) == 0)
        return false;
    size = i2d_SSL_SESSION(session, NULL);
    if (size <= 0 || size > SESSION_MAX || i2d_SSL_SESSION(session, &next) != size)
        return false;
    tickets->session_size = (size_t)size;
    tickets->key = memmem(tickets->session, tickets->session_size, key, key_size);
    return tickets->key != NULL;
}

/* Add the message with the ticket of the session as it is now. There is room for it. */
static bool
add_message(struct tickets *tickets, uint8_t number)
{
    uint8_t ticket[TICKET_MAX], head[16], age_add[4];
    struct wire_writer writer;
    long lifetime = SSL_SESSION_get_timeout(SSL_get_session(tickets->ssl));
    size_t size = proxyticket_seal_ticket(tickets->ssl, tickets->session, tickets->session_size,
                                          ticket, sizeof(ticket));
    size_t body = 4 + 4 + 2 + 2 + size + 2;
    uint8_t *next;

    if (size == 0 || RAND_bytes(age_add, sizeof(age_add)) != 1)
        return false;
    wire_writer_init(&writer, head, sizeof(head));
    wire_put_u8(&writer, TYPE_NEW_SESSION_TICKET);
    wire_put_u8(&writer, 0);
    wire_put_u16(&writer, (uint16_t)body);
    wire_put_u32(&writer, (uint32_t)(lifetime < LIFETIME_MAX ? lifetime : LIFETIME_MAX));
    wire_put_bytes(&writer, age_add, sizeof(age_add));
    wire_put_u8(&writer, 1);
    wire_put_u8(&writer, number);
    wire_put_u16(&writer, (uint16_t)size);
    next = tickets->plain + tickets->plain_size;
    memcpy(next, head, sizeof(head));
    memcpy(next + sizeof(head), ticket, size);
    memset(next + sizeof(head) + size, 0, 2); /* no extensions */
    tickets->plain_size += 4 + body;
    return true;
}

/* Derive its key, put it into the session, and add the message. */
static bool
add_ticket(struct tickets *tickets, const uint8_t *resumption_secret, uint8_t number)
{
    uint8_t key[TRAFFIC_SECRET_MAX];
    bool done = derive_key(tickets, resumption_secret, number, key);

    if (done && tickets->key == NULL)
        done = encode_session(tickets, key);
    else if (done)
        memcpy(tickets->key, key, tickets->suite->hash_size);
    OPENSSL_cleanse(key, sizeof(key));
    return done && add_message(tickets, number);
}

/* As many as go out at once. Returns false if no more shall be tried. */
static bool
write_batch(struct tickets *tickets, struct newticket *due, const uint8_t *resumption_secret)
{
    bool going = true;

    /* They are of one size. */
    for (size_t size = 0; going && due->next < due->count; due->next++) {
        size_t before = tickets->plain_size;

        if (before > 0 && before + size > PLAIN_MAX)
            break;
        going = add_ticket(tickets, resumption_secret, (uint8_t)due->next);
        size = tickets->plain_size - before;
    }
    return send_plain(tickets) && going;
}

void
newticket_write(SSL *ssl, struct newticket *due, const struct export_state *collected,
                struct traffic_state *state, struct transport *transport)
{
    struct tickets tickets = {.ssl = ssl, .state = state, .transport = transport};
    bool going;

    if (SSL_session_reused(ssl) && due->count > 1)
        due->count = 1;
    tickets.suite = traffic_suite_find(state->suite);
    if (seal == NULL)
        seal = EVP_CIPHER_CTX_new();
    going = seal != NULL && tickets.suite != NULL && tickets.suite->version == TRAFFIC_TLS_1_3 &&
            collected->have_resumption_secret;
    while (going && due->next < due->count) {
        if (transport_flush(transport) == -1)
            break; /* to be called again when the peer has read */
        going = write_batch(&tickets, due, collected->resumption_secret);
    }
    if (!going)
        due->count = due->next;
    OPENSSL_cleanse(tickets.session, sizeof(tickets.session));
    ERR_clear_error();
}
