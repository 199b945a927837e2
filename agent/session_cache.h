/*
 * session_cache.h: one table of sessions for TLS 1.2 clients without tickets, shared by all cells.
 *
 * Role: handshakers map it; the supervisor makes it and never looks in. Its entries are sealed by
 * a keeper (to the session id and all that a ticket is bound to as well), so what is in here is
 * worth nothing to who reads it, and what somebody scribbles into it does not open.
 *
 * No lock: a cell that dies or is taken over must not hold the others up. A slot has a sequence
 * number, odd while somebody writes. A writer claims the slot by compare-and-swap, also from a
 * writer that died in it; a reader copies the entry out and looks at the number again. Two writers
 * that believe to own one slot may mix their bytes: the seal does not open, the client gets a full
 * handshake.
 *
 * Memory is bounded: a fixed number of slots; an entry that is too long for a slot of its kind is
 * not kept. Of the slots that an id may be in, the one that expires first is given up.
 */
#ifndef AGENT_SESSION_CACHE_H
#define AGENT_SESSION_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/error.h"

#define SESSION_ID_MAX      32
#define SESSION_SMALL       456  /* bytes of an entry in one of the many slots */
#define SESSION_LARGE       4040 /* with client certificates; one such slot for 16 small ones */
#define SESSION_SMALL_SLOT  512
#define SESSION_LARGE_SLOT  4096
#define SESSION_LARGE_SHARE 16

struct session_cache;

/* Bytes of the memory file for so many sessions. */
size_t session_cache_bytes(unsigned sessions);

/* Map it; takes no ownership of fd, which must be sealed against shrinking. NULL with an error. */
struct session_cache *session_cache_map(int fd, struct error *error);
void session_cache_unmap(struct session_cache *cache); /* NULL-safe */

/* Keep an entry until `expires` (seconds since 1970). False: too long, or another cell is just
 * writing there. */
bool session_cache_put(struct session_cache *cache, const uint8_t *id, size_t id_size,
                       const uint8_t *entry, size_t size, uint64_t now, uint64_t expires);

/* Copy the entry of an id out (at most SESSION_LARGE bytes). False: not there, or expired. */
bool session_cache_get(struct session_cache *cache, const uint8_t *id, size_t id_size, uint64_t now,
                       uint8_t entry[SESSION_LARGE], size_t *size);

void session_cache_remove(struct session_cache *cache, const uint8_t *id, size_t id_size);

#endif
