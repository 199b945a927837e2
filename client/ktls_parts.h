/*
 * ktls_parts.h: what the two files of the kernel form share: ktls.c, which receives, asks
 * ktls_send.c for what is to be sent because of it.
 */
#ifndef CLIENT_KTLS_PARTS_H
#define CLIENT_KTLS_PARTS_H

#include <stdbool.h>
#include <stddef.h>

#include "client/ktls.h"

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

#define KTLS_SIZE_LIMIT ((size_t)1 << 30) /* of one call */

/* Send what is owed to the peer. DONE: nothing is any more; BLOCKED; -1: write_failure is set. */
int ktls_send_owed(struct stream *stream, int flags);

/* The next keys of a direction into the kernel. -1: the connection cannot go on. */
int ktls_change_keys(struct stream *stream, bool sending);

#endif
