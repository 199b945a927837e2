/*
 * proxyticket.h: session tickets of libssl, sealed and opened by the keeper.
 *
 * Role: handshaker. How it is done is design.md section 11: a cipher from our own provider carries
 * the session to the keeper. The HMAC that libssl puts around it is only a filter, keyed by the
 * generation's public tag, so that strangers cannot make us call the keeper; integrity, scope,
 * age and secrecy are the keeper's.
 *
 * How to use it:
 *     once per generation   tickets = proxyticket_new(keeper, tag, &error)
 *     per SSL_CTX           proxyticket_enable(ctx)
 *     per connection        proxyticket_bind(ssl, tickets, scope), at the latest in the ClientHello
 *                           callback; the scope is a digest of all that a ticket is bound to
 *                           (context, identity policy, verify mode, CA set, ALPN, versions)
 *
 * A connection without a bind opens no ticket, and the tickets that it gives out are duds: random
 * bytes that will never open. The same is given out when sealing fails, because OpenSSL 3.0 has no
 * way to skip a TLS 1.3 ticket: the handshake goes on, and the client comes back with a full one.
 */
#ifndef AGENT_PROXYTICKET_H
#define AGENT_PROXYTICKET_H

#include <stdbool.h>
#include <stdint.h>

#include <openssl/ssl.h>

#include "agent/generation.h"
#include "agent/keycall.h"
#include "protocol/error.h"

/* Keeper calls for opening that one connection may cause (one ClientHello can carry hundreds of
 * tickets; a second ClientHello after HelloRetryRequest draws from the same account). */
#define PROXYTICKET_OPENS_MAX 4

struct proxyticket;

/* Needs proxykey_load() first. Does not own keeper. Returns NULL with an error. */
struct proxyticket *proxyticket_new(struct keycall *keeper, const uint8_t tag[GENERATION_TAG],
                                    struct error *error);

/* Connections bound to it must be gone. NULL-safe. */
void proxyticket_free(struct proxyticket *tickets);

/* Set the ticket key callback and the ticket callback (renewal) of ctx. Who needs
 * SSL_CTX_set_session_ticket_cb() for himself may set it afterwards and have his decrypt callback
 * return what proxyticket_decide() says, or something stricter. Returns 0, or -1. */
int proxyticket_enable(SSL_CTX *ctx);

/* Say who ssl is. May be called again (with another scope) until the first ticket is looked at.
 * Returns 0, or -1 if there is no memory. */
int proxyticket_bind(SSL *ssl, struct proxyticket *tickets, const uint8_t scope[KEYOPS_SCOPE_SIZE]);

/* What a decrypt callback should answer for status: use, use and renew, ignore (full handshake). */
SSL_TICKET_RETURN proxyticket_decide(SSL *ssl, SSL_TICKET_STATUS status);

/* True if the ticket that ssl opened last was sealed under a key that is not the current one. */
bool proxyticket_renew(const SSL *ssl);

#endif
