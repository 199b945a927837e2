/*
 * keyring.h: the private keys of a generation, ready to sign.
 *
 * Role: the keeper. All keys exist once, as DER in the mapping of the secret part. A key is parsed
 * when it is first used and kept, with its signing contexts, among the most recently used ones;
 * what falls out is wiped. So 10,000 keys cost a cell no more than its cache.
 *
 * Trust: key numbers and schemes come from a handshaker and are checked here; the DER comes from
 * our loader, but a key that does not parse or is not of its type is an error, not a crash.
 */
#ifndef AGENT_KEYRING_H
#define AGENT_KEYRING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/generation.h"
#include "agent/shape.h"
#include "protocol/error.h"

#define KEYRING_CACHE 512 /* parsed keys kept, at most */

struct keyring;

/* secret is not owned and must outlive the keyring. cache: how many parsed keys to keep, at least
 * 1. Returns NULL with an error. */
struct keyring *keyring_new(const struct generation_secret *secret, size_t cache,
                            struct error *error);

/* Wipes all parsed keys; NULL-safe. */
void keyring_free(struct keyring *keyring);

/* The requests as they arrive. Both return 0 and the signature (at most KEYOPS_SIGNATURE_MAX
 * bytes; *size is set by us), or the reason of the refusal. RSA signatures are verified before they
 * are given out: a faulty one would give the key away (Boneh, DeMillo, Lipton 1997). */
int keyring_sign_tls13(struct keyring *keyring, const struct keyops_sign_tls13 *request,
                       uint8_t signature[KEYOPS_SIGNATURE_MAX], size_t *size);
int keyring_sign_tls12_server(struct keyring *keyring,
                              const struct keyops_sign_tls12_server *request,
                              uint8_t signature[KEYOPS_SIGNATURE_MAX], size_t *size);

/* The last step of both: no check of the content. For them, for the self-test and for tests that
 * show what the checks are worth. */
int keyring_sign(struct keyring *keyring, uint32_t key, const struct shape_scheme *scheme,
                 const uint8_t *content, size_t content_size,
                 uint8_t signature[KEYOPS_SIGNATURE_MAX], size_t *size);

/* Sign once with the first key of each type, with every scheme that it may use: fetches all
 * algorithms before the sandbox closes, and shows that they work. Returns 0, or -1 with an error.
 */
int keyring_self_test(struct keyring *keyring, struct error *error);

/* How many signatures a key has made; 0 for a key that does not exist. */
uint64_t keyring_uses(const struct keyring *keyring, uint32_t key);

/* How many keys are parsed now. */
size_t keyring_parsed(const struct keyring *keyring);

#endif
