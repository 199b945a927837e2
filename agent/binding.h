/*
 * binding.h: what the files behind proxyticket.h share: proxyticket.c (libssl's callbacks),
 * proxycipher.c (the cipher), proxyearly.c (tickets opened several at a time), proxysession.c
 * (sessions for the cache). Nobody else includes it.
 */
#ifndef AGENT_BINDING_H
#define AGENT_BINDING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/ssl.h>

#include "agent/keycall.h"
#include "agent/onetime.h"
#include "agent/proxyticket.h"

struct early;

struct proxyticket {
    struct keycall *keeper; /* not owned */
    const SSL *entered;     /* the connection that is being served; not owned */
    struct onetime_cipher cipher;
    size_t filter_count;
    uint8_t filters[KEYOPS_FILTERS_MAX][KEYOPS_FILTER_SIZE]; /* key name, key of the HMAC */
    void (*go_on)(SSL *ssl);                                 /* NULL: nobody waits */
    struct early *waiting;                                   /* not owned */
};

/* One per connection, in its ex_data. */
struct binding {
    struct proxyticket *tickets; /* not owned */
    struct keyops_wish wish;     /* what is to come with a signature; the scope of all */
    struct onetime_keys keys;
    size_t sealed;
    uint64_t *not_resumed; /* not owned; NULL: nobody counts */
    struct early *early; /* NULL: no ticket of this connection was opened before it was asked for */
    unsigned opens;
    uint8_t nonce[KEYOPS_NONCE_SIZE]; /* of the ticket that is being looked at */
    uint8_t wanted;                   /* keys, if it opens */
    bool renew;
    bool known_name; /* of the ticket that is being looked at */
    bool too_many;
    int refusal; /* of the keeper, for that ticket; 0: it was not asked */
};

/* NULL: nobody bound it. */
struct binding *binding_of(const SSL *ssl);

/* Which filter has this name? filter_count: none. */
size_t binding_filter(const struct proxyticket *tickets, const uint8_t *key_name);

/* A key in hand, from the keeper if must be. */
bool binding_have_key(const SSL *ssl, struct binding *binding);

/* What was opened early: is it the ticket with this nonce? With these bytes behind it (then its
 * refusal, or 0 and the result with its size)? NULL-safe. */
bool early_has_nonce(const struct early *early, const uint8_t *nonce);
bool early_has(const struct early *early, const uint8_t *nonce, const uint8_t *bytes, size_t size,
               int *refusal, const uint8_t **result, size_t *result_size);

/* It is nobody's any more: take it off all lists and wipe it. NULL-safe. */
void early_free(struct early *early);

#endif
