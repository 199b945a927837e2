/*
 * keyshare.h: X25519 (RFC 7748) as libssl asks for it, a quarter of the handshaker's time.
 *
 * A server of TLS 1.3 answers a key share with one of its own and goes on with the product. libssl
 * does that in two ways: with a pair of keys that it makes and an exchange between them, or, for
 * groups of which the provider says that they encapsulate, with one call. On the wire these are the
 * same; the second needs two contexts with their look-ups by name instead of four. So our X25519
 * says that it encapsulates. The arithmetic is libcrypto's, all of it: its scalar multiplication,
 * with the base point too, for which libcrypto itself uses an older and slower one.
 *
 * Part of keyschedule.c's provider; nobody else needs it. Role: handshaker. Trust: called by our
 * own libssl only; the peer's share is any 32 bytes.
 */
#ifndef AGENT_KEYSHARE_H
#define AGENT_KEYSHARE_H

#include <stdbool.h>

#include <openssl/core.h>
#include <openssl/types.h>

#define KEYSHARE_NAMES "X25519:1.3.101.110"

/* Of libcrypto's provider: find its X25519 and try whether we understand it. If not, there must not
 * be ours. */
bool keyshare_prepare(const OSSL_PROVIDER *libcryptos);

extern const OSSL_DISPATCH keyshare_keys[];
extern const OSSL_DISPATCH keyshare_exchange[]; /* TLS 1.2 */
extern const OSSL_DISPATCH keyshare_kem[];      /* TLS 1.3 */

/* The provider's capability "TLS-GROUP". */
extern const OSSL_PARAM keyshare_group[];

#endif
