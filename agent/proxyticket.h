/*
 * proxyticket.h: session tickets of libssl, sealed with keys of the keeper's that are good for one
 * ticket each, and opened by the keeper.
 *
 * Role: handshaker. How it is done is design.md section 11: a cipher from our own provider seals
 * with a one-time key (onetime.h) and carries what is to be opened to the keeper. One-time keys
 * come with the signature, or with an opened ticket, so that most tickets cost no call; when none
 * is in hand the keeper is asked for more. The HMAC that libssl puts around it is only a filter, so
 * that strangers cannot make us call the keeper; its key comes from the keeper and is no secret
 * among the cells; integrity, scope, age and secrecy are those of the one-time key.
 *
 * Where client certificates are asked for, no key comes before the client has shown who it is: who
 * reads our memory during his own handshake (an over-read as in Heartbleed) could seal himself a
 * session of somebody else with it. Such a context pays for its tickets with a call. Elsewhere a
 * ticket of one's own making says nothing that its maker could not have had by a handshake.
 *
 * How to use it:
 *     once per process      tickets = proxyticket_new(keeper, &error)
 *     per SSL_CTX           proxyticket_enable(ctx)
 *     per connection        proxyticket_bind(ssl, tickets, scope), at the latest in the ClientHello
 *                           callback; the scope is a digest of all that a ticket is bound to
 *                           (context, identity policy, verify mode, CA set, ALPN, versions)
 *     around SSL_accept()   proxyticket_enter(), proxyticket_leave(): what the keeper signs in
 * between brings keys for that connection's tickets
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

#include "agent/keycall.h"
#include "protocol/control.h"
#include "protocol/error.h"

/* Keeper calls for opening that one connection may cause (one ClientHello can carry hundreds of
 * tickets; a second ClientHello after HelloRetryRequest draws from the same account). */
#define PROXYTICKET_OPENS_MAX 4

struct proxyticket;

/* Needs proxykey_load() first. Does not own keeper. Returns NULL with an error. */
struct proxyticket *proxyticket_new(struct keycall *keeper, struct error *error);

/* The keeper has other keys now (a fleet's secret was replaced): ask it for its filters again.
 * Returns 0, or -1 with an error. */
int proxyticket_refresh(struct proxyticket *tickets, struct error *error);

/* Connections bound to it must be gone. NULL-safe. */
void proxyticket_free(struct proxyticket *tickets);

/* Set the ticket key callback and the ticket callback (renewal) of ctx. Who needs
 * SSL_CTX_set_session_ticket_cb() for himself may set it afterwards and have his decrypt callback
 * return what proxyticket_decide() says, or something stricter. Returns 0, or -1. */
int proxyticket_enable(SSL_CTX *ctx);

/* Say who ssl is. May be called again (with another scope) until the first ticket is looked at.
 * Returns 0, or -1 if there is no memory. */
int proxyticket_bind(SSL *ssl, struct proxyticket *tickets, const uint8_t scope[KEYOPS_SCOPE_SIZE]);

/* One connection at a time; it need not be bound yet. */
void proxyticket_enter(struct proxyticket *tickets, SSL *ssl);
void proxyticket_leave(struct proxyticket *tickets);

/* Opening several tickets in one call: who is ready to be called back can have handshakes set aside
 * until the end of a round of his loop.
 * In the ClientHello callback, when the connection is bound: must it wait, for this ticket?
 * renewed: it is replaced when it has been used. Then the callback must ask for a retry, and when
 * it is called again proxyticket_has_waited() tells, once, that all that it does is done. Outside:
 * does this handshake wait? Open what waits, and call go_on() for each. */
void proxyticket_let_wait(struct proxyticket *tickets, void (*go_on)(SSL *ssl));
bool proxyticket_wait(SSL *ssl, const uint8_t *ticket, size_t size, bool renewed);
bool proxyticket_has_waited(const SSL *ssl);
bool proxyticket_waits(const SSL *ssl);
void proxyticket_open_waiting(struct proxyticket *tickets);

/* Where to count why what this connection offers is not resumed: CONTROL_NOT_RESUMED numbers. Does
 * not own them. */
void proxyticket_count_into(SSL *ssl, uint64_t *not_resumed);
void proxyticket_count(const SSL *ssl, enum control_not_resumed why);

/* Count a ticket that did not open, for the reason that the keeper or libssl had. */
void proxyticket_count_unopened(const SSL *ssl);

/* A ticket as libssl would make it, of an encoded session, for who makes NewSessionTicket himself.
 * Returns its size, or 0: it does not fit, or there is no key for it. */
size_t proxyticket_seal_ticket(SSL *ssl, const uint8_t *session, size_t size, uint8_t *out,
                               size_t room);

/* Seal, or open, a session for the cache: as a ticket, but bound to its id as well, and never
 * good as a ticket. Opening draws from the account of PROXYTICKET_OPENS_MAX. out has room bytes;
 * returns how many were written, 0 if it failed. */
size_t proxyticket_seal_session(SSL *ssl, const uint8_t *id, size_t id_size, const uint8_t *session,
                                size_t size, uint8_t *out, size_t room);
size_t proxyticket_open_session(SSL *ssl, const uint8_t *id, size_t id_size, const uint8_t *sealed,
                                size_t size, uint8_t *out, size_t room);

/* What a session is called in a store that others can read: a digest of its id and of all that it
 * is bound to (STORE_NAME_SIZE bytes). False: not bound, or no memory. */
bool proxyticket_session_name(const SSL *ssl, const uint8_t *id, size_t id_size,
                              uint8_t name[KEYOPS_SCOPE_SIZE]);

/* What a decrypt callback should answer for status: use, use and renew, ignore (full handshake). */
SSL_TICKET_RETURN proxyticket_decide(SSL *ssl, SSL_TICKET_STATUS status);

/* True if the ticket that ssl opened last was sealed under a key that is not the current one. */
bool proxyticket_renew(const SSL *ssl);

#endif
