/*
 * proxykey.h: private keys that live in the keeper, as EVP_PKEYs that libssl can use.
 *
 * An OpenSSL provider inside the handshaker (KEYMGMT and SIGNATURE for RSA, EC and ED25519) whose
 * keys hold a public key and a key number. Signing takes apart what libssl wants signed (TLS 1.3
 * CertificateVerify or TLS 1.2 ServerKeyExchange), calls the keeper with the parts, and fails for
 * anything else. This is a convenience, not the boundary: the keeper checks again by itself.
 *
 * The provider lives in an OSSL_LIB_CTX of its own, so that no look-up by name in the default
 * context (verifying a peer, TLS key schedule) can ever end up here.
 *
 * Errors of a call are on OpenSSL's error queue (ERR_LIB_USER strings: "the keeper refused: ...").
 */
#ifndef AGENT_PROXYKEY_H
#define AGENT_PROXYKEY_H

#include <openssl/evp.h>
#include <openssl/types.h>

#include "agent/keycall.h"
#include "protocol/error.h"

/* Register the provider, once per process and before seccomp. Returns 0, or -1 with an error. */
int proxykey_load(struct error *error);

/* The library context with the provider in it (also has the cipher of proxyticket.c). NULL before
 * proxykey_load(). */
OSSL_LIB_CTX *proxykey_context(void);

/* A key for SSL_CTX_use_PrivateKey() and SSL_CTX_use_cert_and_key(): public_key (of the leaf
 * certificate: X509_get0_pubkey(); a reference is taken) and its number in the generation. Does not
 * own keeper, which must outlive the key. Returns NULL with an error. */
EVP_PKEY *proxykey_new(struct keycall *keeper, uint32_t number, EVP_PKEY *public_key,
                       struct error *error);

#endif
