/*
 * store.h: handshaker <-> fetcher: sealed sessions of TLS 1.2 clients, kept for a whole fleet.
 *
 * A handshaker asks for an entry by its name, a digest that says nothing to who has not seen the
 * session id; the fetcher asks the store. Entries are sealed by a keeper, so neither the fetcher
 * nor the store can read one or make one. PUT has no answer; a GET has one, in any
 * order, if the fetcher lives: the handshaker waits for a bounded time only.
 *
 * Trust: each side takes the other for hostile. The fetcher parses bytes from the network; a
 * handshaker parses bytes from everybody. No message on this channel carries an fd.
 */
#ifndef PROTOCOL_STORE_H
#define PROTOCOL_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/channel.h"

enum store_type {
    /* handshaker -> fetcher */
    STORE_GET = 1,
    STORE_PUT,
    /* fetcher -> handshaker */
    STORE_FOUND = 64,
    STORE_MISSING, /* the store has no such entry, or one that is none of ours */
    STORE_FAILED,  /* the store is not connected, too slow, or refuses */
};

#define STORE_NAME_SIZE   32   /* SHA-256 */
#define STORE_ENTRY_MAX   4040 /* bytes of a sealed session */
#define STORE_LIFE_MAX    604800
#define STORE_LOOKUPS_MAX 256 /* GETs of one handshaker without an answer */

struct store_get {
    uint32_t number; /* comes back in the answer */
    uint8_t name[STORE_NAME_SIZE];
};

struct store_put {
    uint8_t name[STORE_NAME_SIZE];
    uint32_t life; /* seconds, 1 to STORE_LIFE_MAX */
    const uint8_t *entry;
    size_t entry_size; /* 1 to STORE_ENTRY_MAX */
};

struct store_found {
    uint32_t number;
    const uint8_t *entry; /* in the message */
    size_t entry_size;    /* 1 to STORE_ENTRY_MAX */
};

struct store_number { /* MISSING, FAILED */
    uint32_t number;
};

/* Which types each side takes, for channel_receive(). */
extern const struct channel_rule store_fetcher_rules[];
extern const size_t store_fetcher_rule_count;
extern const struct channel_rule store_handshaker_rules[];
extern const size_t store_handshaker_rule_count;

/* Encoders write a body into buffer and return its size, 0 if it does not fit. Decoders return
 * true if the body was well-formed to its last byte. */
size_t store_put_get(const struct store_get *m, void *buffer, size_t size);
bool store_get_get(struct store_get *m, const void *body, size_t size);
size_t store_put_put(const struct store_put *m, void *buffer, size_t size);
bool store_get_put(struct store_put *m, const void *body, size_t size);
size_t store_put_found(const struct store_found *m, void *buffer, size_t size);
bool store_get_found(struct store_found *m, const void *body, size_t size);
size_t store_put_number(const struct store_number *m, void *buffer, size_t size);
bool store_get_number(struct store_number *m, const void *body, size_t size);

#endif
