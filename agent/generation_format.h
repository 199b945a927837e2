/*
 * generation_format.h: what the writer and the readers of a generation agree on.
 *
 * Role: private to generation*.c. Trust: the checks here are the readers' and the writer's, so that
 * nothing can be written that would not be read.
 *
 * Layout (integers big-endian; <n> is a byte string with an n-byte length):
 *
 *   public:  "TLSAPUB1", generation u32, build <1>, key count u32, context count u16,
 *            identity count u32,
 *            contexts:   parameters <2>, client CAs <4>
 *            identities: context u16, key u32, key type u8, default u8, explicit names u16,
 *                        names <4>, chain <4>
 *   secret:  "TLSASEC1", generation u32, build <1>, key count u32, keys: type u8, PKCS#8 <2>
 */
#ifndef AGENT_GENERATION_FORMAT_H
#define AGENT_GENERATION_FORMAT_H

#include "agent/generation.h"

#define GENERATION_MAGIC_SIZE    8
#define GENERATION_MAGIC_PUBLIC  "TLSAPUB1"
#define GENERATION_MAGIC_SECRET  "TLSASEC1"
#define GENERATION_CONTEXT_MIN   (2 + 4) /* bytes of an encoded one */
#define GENERATION_IDENTITY_MIN  (2 + 4 + 1 + 1 + 2 + 4 + 4)
#define GENERATION_KEY_MIN       (1 + 2)
#define GENERATION_KEYS_MAX      (1U << 20)
#define GENERATION_PART_SIZE_MAX ((size_t)1 << 32) /* offsets and lengths are 32 bits */

/* Certificates, each preceded by its size in 24 bits: at least `minimum` of them, nothing else. */
bool generation_check_certificates(const uint8_t *bytes, size_t size, size_t minimum);

/* SNI names, each preceded by its size in 8 bits, of which the first ones are explicit. */
bool generation_check_names(const uint8_t *names, size_t size, size_t explicit_names);

/* Decode a context's parameters; what they point to stays in the blob. */
bool generation_get_context(struct generation_context *context, const uint8_t *blob, size_t size);

#endif
