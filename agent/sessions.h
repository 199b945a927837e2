/*
 * sessions.h: what a session remembers, where it is kept, and when it is still good.
 *
 * Role: handshaker. A resumed OpenSSL session verifies nothing and has no chain; so each session,
 * in a ticket or in the cache, carries what the peer sent besides its own certificate (which is in
 * it anyway) and the moment at which the first certificate of the verified chain expires. A session
 * is used only before that moment. Everything else that it depends on is in the scope that it is
 * sealed to (identity.h).
 *
 * Session ids are for TLS 1.2 clients without tickets, and for contexts with tickets_tls12 = off.
 */
#ifndef AGENT_SESSIONS_H
#define AGENT_SESSIONS_H

#include <stdbool.h>
#include <stddef.h>

#include <openssl/ssl.h>

#include "agent/generation.h"
#include "agent/session_cache.h"

/* The cache of this process; NULL: none. Does not own it. */
void sessions_use_cache(struct session_cache *cache);

/* Set a server's callbacks, options and times. Returns 0, or -1 if memory is short. */
int sessions_enable(SSL_CTX *ctx, const struct generation_context *facts);

/* In the ClientHello callback of a context without TLS 1.2 tickets: decide for this connection. */
void sessions_without_tickets(SSL *ssl);

/* Certificates that the peer sent after its own, as size (24 bits) and DER each; of this handshake,
 * or, resumed, of the one that the session comes from. Copies them to out; false if they do not
 * fit. */
bool sessions_peer_chain(SSL *ssl, uint8_t *out, size_t room, size_t *size);

#endif
