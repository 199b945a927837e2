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
 * They are kept in the host's cache, and in the fleet's store, if there is one, which is asked only
 * for what the cache does not have.
 */
#ifndef AGENT_SESSIONS_H
#define AGENT_SESSIONS_H

#include <stdbool.h>
#include <stddef.h>

#include <openssl/ssl.h>

#include "agent/generation.h"
#include "agent/session_cache.h"
#include "agent/store.h"

/* The cache of this process; NULL: none. Does not own it. */
void sessions_use_cache(struct session_cache *cache);

/* The fleet's store; NULL: none. Does not own it. lookup_of: a connection's own question to it,
 * NULL for one that cannot wait; answered: called when an answer (or none) is there. */
void sessions_use_store(struct store *store, struct store_lookup *(*lookup_of)(const SSL *ssl),
                        void (*answered)(struct store_lookup *lookup));

/* In the ClientHello callback, when the connection is bound to its scope: must it wait, for the
 * store or for its ticket (proxyticket_waits())? Then it is called again. */
bool sessions_must_wait(SSL *ssl);

/* Set a server's callbacks, options and times. Returns 0, or -1 if memory is short. */
int sessions_enable(SSL_CTX *ctx, const struct generation_context *facts);

/* The session of a handshake that is over, before it is sealed: it gets what it must carry. False:
 * it has no place for it, and will be refused. */
bool sessions_remember(SSL *ssl);

/* In the ClientHello callback of a context without TLS 1.2 tickets: decide for this connection. */
void sessions_without_tickets(SSL *ssl);

/* Certificates that the peer sent after its own, as size (24 bits) and DER each; of this handshake,
 * or, resumed, of the one that the session comes from. Copies them to out; false if they do not
 * fit. */
bool sessions_peer_chain(SSL *ssl, uint8_t *out, size_t room, size_t *size);

#endif
