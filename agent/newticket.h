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

/* Of one connection. Zeroed: none. */
struct newticket {
    size_t count; /* to be written in all */
    size_t next;  /* the number of the next one; from count on: done */
};

/* In the ClientHello callback, when the context is known: keep libssl from making tickets that are
 * ours, and any that the client cannot use. */
void newticket_take_over(SSL *ssl, struct newticket *due);

/* The handshake is over and its state exported: write the tickets that are due, one if it was
 * resumed, as far as the transport takes them. If some are left: again when it has been flushed.
 * Tickets are a courtesy: what goes wrong costs the client a full handshake the next time. */
void newticket_write(SSL *ssl, struct newticket *due, const struct export_state *collected,
                     struct traffic_state *state, struct transport *transport);

#endif
