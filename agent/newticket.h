/*
 * newticket.h: the tickets that a server gives out at the end of a TLS 1.3 handshake (RFC 8446
 * section 4.6.1).
 *
 * libssl would make them, but spends a tenth of the handshake on it: it copies, encodes, decodes
 * and encodes the session again for each, and sends each in a record of its own. Here the session
 * is encoded once, and all tickets go in one record. What is in them is the same (libssl opens
 * them), but for the obfuscation of the age, which libssl would look at for early data only, which
 * we do not take.
 *
 * Role: handshaker. Not for contexts with client certificates, whose sessions carry chains: their
 * tickets, and those of TLS 1.2, are libssl's.
 */
#ifndef AGENT_NEWTICKET_H
#define AGENT_NEWTICKET_H

#include <stdbool.h>
#include <stddef.h>

#include <openssl/ssl.h>

#include "agent/export.h"
#include "agent/transport.h"
#include "protocol/traffic.h"

/* In the ClientHello callback, when the context is known: keep libssl from making tickets that are
 * ours, and any that the client cannot use. Returns how many there will be after a full handshake,
 * 0: libssl makes them, or nobody. */
size_t newticket_take_over(SSL *ssl);

/* The handshake is over and its state exported: write `count` tickets, or one if it was resumed.
 * Tickets are a courtesy: what goes wrong costs the client a full handshake the next time. */
void newticket_write(SSL *ssl, size_t count, const struct export_state *collected,
                     struct traffic_state *state, struct transport *transport);

#endif
