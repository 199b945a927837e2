/*
 * kernel_tls.h: a record state as Linux's kernel TLS takes it, and putting it into a socket.
 *
 * Used by the handshaker (the hand-back in the kernel form), by the supervisor (to find out once
 * what this kernel can do) and by libtlsagent (new keys after a KeyUpdate). Source: the kernel's
 * Documentation/networking/tls.rst and include/uapi/linux/tls.h.
 *
 * Trust: everything here is computed from the caller's own state; the kernel copies it.
 */
#ifndef PROTOCOL_KERNEL_TLS_H
#define PROTOCOL_KERNEL_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/error.h"
#include "protocol/traffic.h"

/* What a kernel can do, or-ed: one bit for each cipher of each version, and one for new keys. */
#define KERNEL_TLS_CIPHERS UINT16_C(0x003f)
#define KERNEL_TLS_REKEY   UINT16_C(0x0040) /* keys of TLS 1.3 can be changed (Linux 6.14) */

/* The bit of a suite. */
uint16_t kernel_tls_bit(const struct traffic_suite *suite);

/* "TLSv1.3 AES-128-GCM" for a bit of KERNEL_TLS_CIPHERS, "new keys" for KERNEL_TLS_REKEY; NULL:
 * there is no such bit. */
const char *kernel_tls_bit_name(uint16_t bit);

/* The bits in words, for people; "none". */
void kernel_tls_describe(uint16_t bits, char *text, size_t size);

enum kernel_tls_result {
    KERNEL_TLS_INSTALLED, /* both directions */
    KERNEL_TLS_REFUSED,   /* none: the socket carries bytes as before; records can go on with it */
    KERNEL_TLS_BROKEN,    /* one direction only, and it cannot be taken back: close the socket */
};

/* Put both directions into a connected TCP socket. Nothing may have been read from it beyond the
 * handshake. On REFUSED and BROKEN error says why. */
enum kernel_tls_result kernel_tls_install(int fd, const struct traffic_state *state,
                                          struct error *error);

/* Does the kernel have keys of this suite for both directions of the socket? 0, or -1 with errno. A
 * caller that only heard so would send plaintext if it were not true. */
int kernel_tls_check(int fd, const struct traffic_suite *suite);

/* Bytes that TCP has sent and the peer has acknowledged, whoever wrote them; 0: it does not say. */
uint64_t kernel_tls_bytes_sent(int fd);

/* Put the keys of one direction into a socket that has the protocol (TCP_ULP "tls"). Returns 0, or
 * -1 with errno: EBUSY: it has keys, and this kernel cannot change them. */
int kernel_tls_set_keys(int fd, bool sending, const struct traffic_suite *suite,
                        const struct traffic_keys *keys);

#endif
