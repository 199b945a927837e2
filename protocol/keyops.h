/*
 * keyops.h: handshaker -> keeper, and its answers.
 *
 * Requests are never "sign these bytes": each is one shape of TLS, and the keeper builds or
 * checks the bytes itself (keeper.c). One request is outstanding at a time; the number in it
 * comes back in the answer, and an answer with another number means that the channel is dead.
 * No message on this channel carries an fd.
 */
#ifndef PROTOCOL_KEYOPS_H
#define PROTOCOL_KEYOPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/channel.h"

enum keyops_type {
    KEYOPS_HELLO = 1,         /* keeper -> handshaker, once: build id */
    KEYOPS_SIGN_TLS13,        /* request */
    KEYOPS_SIGN_TLS12_SERVER, /* request */
    KEYOPS_TICKET_KEYS,       /* request: to seal tickets with, one each */
    KEYOPS_OPEN_TICKET,       /* request */
    KEYOPS_FILTERS,           /* request: how tickets of ours are told from others' */
    KEYOPS_OPEN_TICKETS,      /* request: several OPEN_TICKET in one message */
    KEYOPS_ANSWER = 64,       /* keeper -> handshaker: result bytes */
    KEYOPS_REFUSAL,           /* keeper -> handshaker: this shape, key or scheme is refused */
    KEYOPS_ANSWERS,           /* keeper -> handshaker: one for each of OPEN_TICKETS */
};

enum keyops_role {
    KEYOPS_ROLE_SERVER = 1,
    KEYOPS_ROLE_CLIENT = 2,
};

enum keyops_refusal {
    KEYOPS_NO_SUCH_KEY = 1,
    KEYOPS_BAD_SCHEME, /* not for this key type, or SHA-1 */
    KEYOPS_BAD_SHAPE,  /* not what TLS signs */
    KEYOPS_WRONG_ROLE, /* a server key asked to sign as a client, or the reverse */
    KEYOPS_BAD_TICKET, /* not sealed by us, expired, or for another scope */
    KEYOPS_INTERNAL,   /* libcrypto failed */
    KEYOPS_TOO_OFTEN,  /* more tickets opened than any honest load needs */
    KEYOPS_OLD_TICKET, /* its key is forgotten, or will be any moment */
    KEYOPS_FUTURE_TICKET,
};

#define KEYOPS_HASH_MAX       48 /* SHA-384 */
#define KEYOPS_RANDOM_SIZE    32
#define KEYOPS_PARAMETERS_MAX 160 /* named_curve header and one uncompressed P-521 point: 137 */
#define KEYOPS_SIGNATURE_MAX  512 /* RSA-4096 */
#define KEYOPS_SCOPE_SIZE     32
#define KEYOPS_TICKET_MAX     16384 /* plaintext session */

/* A sealed session is: nonce, ciphertext (as long as the session), period (32 bits), tag. */
#define KEYOPS_NONCE_SIZE   16
#define KEYOPS_PERIOD_SIZE  4
#define KEYOPS_TAG_SIZE     16
#define KEYOPS_TICKET_EXTRA (KEYOPS_NONCE_SIZE + KEYOPS_PERIOD_SIZE + KEYOPS_TAG_SIZE)

#define KEYOPS_ID_MAX 32 /* TLS 1.2 session id */

/* One-time keys in one answer. A connection that gives out more tickets asks again. */
#define KEYOPS_KEYS_MAX 4
#define KEYOPS_KEY_SIZE 32

/* Key name and HMAC key of a ticket. The HMAC is a filter in front of the keeper, no protection. */
#define KEYOPS_KEY_NAME_SIZE 16
#define KEYOPS_HMAC_SIZE     32
#define KEYOPS_FILTER_SIZE   (KEYOPS_KEY_NAME_SIZE + KEYOPS_HMAC_SIZE)
#define KEYOPS_FILTERS_MAX   2

#define KEYOPS_BUILD_MAX 64 /* with the NUL */

/* Bodies at most. */
#define KEYOPS_WISH_SIZE (1 + KEYOPS_SCOPE_SIZE)
#define KEYOPS_OPEN_MAX                                                                            \
    (4 + KEYOPS_WISH_SIZE + 1 + KEYOPS_ID_MAX + 4 + KEYOPS_TICKET_MAX + KEYOPS_TICKET_EXTRA)
#define KEYOPS_KEYS_SIZE                                                                           \
    (KEYOPS_PERIOD_SIZE + KEYOPS_KEYS_MAX * (KEYOPS_NONCE_SIZE + KEYOPS_KEY_SIZE))
#define KEYOPS_ANSWER_MAX (4 + 4 + 1 + KEYOPS_TICKET_MAX + 1 + KEYOPS_KEYS_SIZE)

/* Several requests in one message, and their answers. Whoever asks sees to it that they fit: sealed
 * sessions of at most KEYOPS_BATCH_TICKET bytes do. */
#define KEYOPS_BATCH_MAX    16
#define KEYOPS_BATCH_TICKET 2048
#define KEYOPS_BATCH_SIZE   40960

/* Seals one session and no other; what it is derived from is in agent/ticket.h. Bytes only: it lies
 * in a message as it is. */
struct keyops_ticket_key {
    uint8_t nonce[KEYOPS_NONCE_SIZE];
    uint8_t key[KEYOPS_KEY_SIZE];
};

/* So many one-time keys are wanted with the answer, for sessions of this scope: a digest of all
 * that a session is bound to. */
struct keyops_wish {
    uint8_t keys; /* KEYOPS_KEYS_MAX at most */
    uint8_t scope[KEYOPS_SCOPE_SIZE];
};

struct keyops_hello {
    char build[KEYOPS_BUILD_MAX]; /* must equal ours */
};

struct keyops_sign_tls13 {
    uint32_t number;
    uint32_t key;    /* index in the generation */
    uint16_t scheme; /* TLS SignatureScheme, RFC 8446 section 4.2.3 */
    uint8_t role;    /* enum keyops_role */
    size_t hash_size;
    uint8_t hash[KEYOPS_HASH_MAX]; /* transcript hash */
    struct keyops_wish wish;
};

struct keyops_sign_tls12_server {
    uint32_t number;
    uint32_t key;
    uint16_t scheme;
    uint8_t client_random[KEYOPS_RANDOM_SIZE];
    uint8_t server_random[KEYOPS_RANDOM_SIZE];
    size_t parameters_size;
    uint8_t parameters[KEYOPS_PARAMETERS_MAX]; /* ServerECDHParams, RFC 8422 section 5.4 */
    struct keyops_wish wish;
};

/* The answer has keys and no result: for tickets beyond those that came with a signature. */
struct keyops_ticket_keys {
    uint32_t number;
    struct keyops_wish wish;
};

/* The result is one byte, 1 if the key is no longer of the current period and the ticket should be
 * renewed, and the session. id: of a session in the cache, which is good for it only; empty for a
 * ticket. */
struct keyops_open_ticket {
    uint32_t number;
    struct keyops_wish wish; /* its scope is the ticket's, too */
    size_t id_size;
    uint8_t id[KEYOPS_ID_MAX];
    const uint8_t *data; /* sealed; in the message */
    size_t data_size;
};

/* The answer is one or two filters; tickets are sealed under the first. */
struct keyops_filters {
    uint32_t number;
};

struct keyops_answer {
    uint32_t number;
    const uint8_t *data; /* in the message */
    size_t size;
    size_t key_count; /* as many as were wanted, or fewer: not every request brings them */
    uint32_t period;  /* of the keys */
    const struct keyops_ticket_key *keys; /* in the message */
};

struct keyops_refused {
    uint32_t number;
    uint8_t reason; /* enum keyops_refusal */
};

/* One of several requests, or one of their answers (then refused says of which of the two kinds):
 * bytes of a body, to be read as that of a message. */
struct keyops_item {
    uint8_t refused;
    const uint8_t *body; /* in the message */
    size_t size;
};

/* Which types each side takes, for channel_receive(). */
extern const struct channel_rule keyops_keeper_rules[];
extern const size_t keyops_keeper_rule_count;
extern const struct channel_rule keyops_handshaker_rules[];
extern const size_t keyops_handshaker_rule_count;

/* Encoders write a body into buffer and return its size, 0 if it does not fit.
 * Decoders return true if the body was well-formed to its last byte. */
size_t keyops_put_hello(const struct keyops_hello *m, void *buffer, size_t size);
bool keyops_get_hello(struct keyops_hello *m, const void *body, size_t size);
size_t keyops_put_sign_tls13(const struct keyops_sign_tls13 *m, void *buffer, size_t size);
bool keyops_get_sign_tls13(struct keyops_sign_tls13 *m, const void *body, size_t size);
size_t keyops_put_sign_tls12_server(const struct keyops_sign_tls12_server *m, void *buffer,
                                    size_t size);
bool keyops_get_sign_tls12_server(struct keyops_sign_tls12_server *m, const void *body,
                                  size_t size);
size_t keyops_put_ticket_keys(const struct keyops_ticket_keys *m, void *buffer, size_t size);
bool keyops_get_ticket_keys(struct keyops_ticket_keys *m, const void *body, size_t size);
size_t keyops_put_open_ticket(const struct keyops_open_ticket *m, void *buffer, size_t size);
bool keyops_get_open_ticket(struct keyops_open_ticket *m, const void *body, size_t size);
size_t keyops_put_filters(const struct keyops_filters *m, void *buffer, size_t size);
bool keyops_get_filters(struct keyops_filters *m, const void *body, size_t size);
size_t keyops_put_answer(const struct keyops_answer *m, void *buffer, size_t size);
bool keyops_get_answer(struct keyops_answer *m, const void *body, size_t size);
size_t keyops_put_refused(const struct keyops_refused *m, void *buffer, size_t size);
bool keyops_get_refused(struct keyops_refused *m, const void *body, size_t size);

/* Append an item to the *used bytes of a body that are there: false if it does not fit. Take the
 * first one off the *size bytes at *body: false if there is none. */
bool keyops_add_item(const struct keyops_item *m, uint8_t *buffer, size_t room, size_t *used);
bool keyops_next_item(struct keyops_item *m, const uint8_t **body, size_t *size);

#endif
