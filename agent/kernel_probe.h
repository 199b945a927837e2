/*
 * kernel_probe.h: what kernel TLS can do on this host, found out by doing it.
 *
 * Role: supervisor, once at start and before anything else runs. It installs constant keys on
 * connections of its own over the loopback interface and compares what goes over the wire with
 * known records, byte for byte: a kernel that took our keys in another sense than we mean
 * is not used. As root this also loads the module, which a handshaker could not.
 */
#ifndef AGENT_KERNEL_PROBE_H
#define AGENT_KERNEL_PROBE_H

#include <stddef.h>
#include <stdint.h>

#include "protocol/error.h"
#include "protocol/kernel_tls.h"

#define KERNEL_PROBE_RECORD_MAX 64 /* bytes of a known record */

/* A record as it must be on the wire: sealed from the plaintext with the state. */
struct kernel_probe_answer {
    uint16_t suite;
    uint8_t size;
    uint8_t record[KERNEL_PROBE_RECORD_MAX];
};
extern const struct kernel_probe_answer kernel_probe_answers[];
extern const size_t kernel_probe_answer_count;
extern const char kernel_probe_text[]; /* the plaintext */

/* The constant state that belongs to an answer: the same keys in both directions. */
void kernel_probe_state(uint16_t suite, struct traffic_state *state);

/* Bits of kernel_tls.h. error: why some or all are missing; empty if none is but KERNEL_TLS_REKEY.
 */
uint16_t kernel_probe(struct error *error);

#endif
