/*
 * identity.h: which certificate answers which name, and the SSL_CTX that goes with it.
 *
 * Made by the handshaker from the public part of a generation. Per context there is a table from
 * SNI name to *set*: up to one RSA, one ECDSA and one Ed25519 identity for the same name, of which
 * OpenSSL picks by what the client can do. A set's SSL_CTX is made when it is first asked for and
 * kept in a bounded list of recently used ones, so that 10,000 certificates cost little.
 *
 * All SSL_CTX of one context differ in nothing but their certificates: SSL_set_SSL_CTX() in the
 * ClientHello callback changes no policy.
 */
#ifndef AGENT_IDENTITY_H
#define AGENT_IDENTITY_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/export.h"
#include "agent/generation.h"
#include "agent/keycall.h"
#include "protocol/error.h"
#include "protocol/keyops.h"

struct identity_set;
struct identity_table;

/* What identity.c must be able to ask about a running handshake: all from one place. */
struct identity_hooks {
    struct export_state *(*export_of)(const SSL *ssl);
    /* Called for each ClientHello with its SNI name ("" if none), to give ssl its certificates.
     * false: there are none for this name (fatal unrecognized_name). */
    bool (*choose)(SSL *ssl, const char *sni);
};

/* Build the tables. part, keeper and hooks must outlive the result. Dies if memory is short;
 * returns NULL with an error if a context's parameters are not acceptable to libssl. */
struct identity_table *identity_table_new(const struct generation_public *part,
                                          struct keycall *keeper,
                                          const struct identity_hooks *hooks, struct error *error);

/* Position of the context with this name, or -1. */
int identity_context_find(const struct identity_table *table, const char *name);
const struct generation_context *identity_context(const struct identity_table *table,
                                                  size_t context);
size_t identity_context_count(const struct identity_table *table);

/* May a worker with this uid and these groups use the context? */
bool identity_permitted(const struct identity_table *table, size_t context, uint32_t uid,
                        const uint32_t *groups, size_t group_count);

/* The set for an SNI name ("" if none): exact match, then a wildcard, then the default, else NULL.
 */
struct identity_set *identity_find(struct identity_table *table, size_t context, const char *sni);

/* A new SSL of this context, with the default set's certificates if there is a default.
 * NULL with an error. */
SSL *identity_ssl_new(struct identity_table *table, size_t context, struct error *error);

/* Give ssl the certificates of the set. Returns 0 or -1 with an error. */
int identity_apply(struct identity_table *table, struct identity_set *set, SSL *ssl,
                   struct error *error);

/* What tickets of this set are bound to: KEYOPS_SCOPE_SIZE bytes. */
const uint8_t *identity_scope(const struct identity_set *set);

#endif
