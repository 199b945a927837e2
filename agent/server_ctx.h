/*
 * server_ctx.h: one SSL_CTX with a context's policy and no certificate.
 *
 * Everything that is the same for all identities of a context is set here, once: versions, suites,
 * groups, ALPN, tickets, client certificates, and what the export needs.
 */
#ifndef AGENT_SERVER_CTX_H
#define AGENT_SERVER_CTX_H

#include <openssl/ssl.h>

#include "agent/generation.h"
#include "agent/identity.h"
#include "protocol/error.h"

/* facts and hooks must outlive the result. Returns NULL with an error that names the context. */
SSL_CTX *server_ctx_new(const struct generation_context *facts,
                        const struct generation_client_ca *client_ca,
                        const struct identity_hooks *hooks, struct error *error);

/* Digest of the policy: a ticket is good only where this is the same. */
void server_ctx_scope(const struct generation_context *facts,
                      const struct generation_client_ca *client_ca,
                      uint8_t scope[KEYOPS_SCOPE_SIZE]);

/* The groups of a context that names none, as far as this library has them. */
const char *server_ctx_groups(void);

#endif
