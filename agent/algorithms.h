/*
 * algorithms.h: libcrypto's algorithms, without the ciphers that no connection of ours uses.
 *
 * Whenever OpenSSL 3.0 makes an EVP_PKEY_CTX, which it does four times in a key exchange, it walks
 * through every name of every algorithm that its context has ever looked at; half of them are
 * ciphers' names. So libcrypto's own provider is loaded in a context apart, and ours shows all of
 * it, but for those ciphers, in the default context.
 *
 * Role: handshaker. What is left out cannot be negotiated: the suites that can be handed back need
 * none of it (protocol/traffic.c).
 */
#ifndef AGENT_ALGORITHMS_H
#define AGENT_ALGORITHMS_H

#include "protocol/error.h"

/* Before anything else asks libcrypto for an algorithm. Idempotent. Returns 0, or -1 with an error.
 */
int algorithms_load(struct error *error);

#endif
