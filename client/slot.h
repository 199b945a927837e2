/*
 * slot.h: memory for record states that a forked child cannot have.
 *
 * Two owners of a record state reuse nonces. So the states live in slots of pages that the kernel
 * wipes in a forked child (MADV_WIPEONFORK) and leaves out of core dumps (MADV_DONTDUMP). A slot
 * begins with the connection's id, which is never zero: who finds a zero there is the child.
 *
 * Slots are all of one size, zero-filled when given out and wiped when taken back. Process-wide,
 * safe for threads, and usable in a child for slots of its own: the bookkeeping is in pages that
 * are not wiped, so a slot of the parent's stays taken in the child until the child frees it.
 */
#ifndef CLIENT_SLOT_H
#define CLIENT_SLOT_H

#include <stddef.h>

#define SLOT_SIZE 320 /* bytes; struct record must fit */

/* A slot of zeros, or NULL with errno if there is no memory. */
void *slot_alloc(void);

/* Wipe and give back. NULL-safe. */
void slot_free(void *slot);

/* Slots in use, and bytes of address space that all slots take: for tests. */
size_t slot_count(void);
size_t slot_mapped(void);

#endif
