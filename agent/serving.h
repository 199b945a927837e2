/*
 * serving.h: one word of memory that a handshaker and the supervisor share: whose descriptors the
 * handshaker is touching just now.
 *
 * Some descriptors freeze who touches them, for as long as their owner likes: a close() that waits
 * for a FUSE server, a socket whose lock is held by a reader that waits for one. Not even SIGKILL
 * ends such a call, and no check finds all of them before. So the handshaker writes down who is to
 * blame before it touches anything of a worker's, and the supervisor reads it when the cell has
 * gone silent.
 *
 * Trust: the supervisor made the page and maps it read-only; it cannot shrink. What stands in it is
 * the handshaker's word: one that was taken over can accuse anybody whom it served, at the price of
 * its own end (bans.h says what follows).
 */
#ifndef AGENT_SERVING_H
#define AGENT_SERVING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "protocol/error.h"

struct serving {
    _Atomic uint64_t whom; /* a mark; 0: nobody */
};

/* The mark of a worker. */
uint64_t serving_mark(uint32_t uid, uint32_t pid);

/* Read a mark. False: nobody. */
bool serving_whom(uint64_t mark, uint32_t *uid, uint32_t *pid);

/* For the supervisor: a fresh page. Returns its fd and maps it, or -1 with an error. */
int serving_new(const struct serving **page, struct error *error);

/* For the handshaker: map a page. Takes fd; NULL with an error. */
struct serving *serving_map(int fd, struct error *error);

void serving_unmap(const struct serving *page);

/* From now on what is touched is this worker's (0: nobody's); returns whose it was before, for the
 * call that ends it. Two plain moves: it is done for every event. */
static inline uint64_t
serving_set(struct serving *page, uint64_t mark)
{
    uint64_t before = atomic_load_explicit(&page->whom, memory_order_relaxed);

    atomic_store_explicit(&page->whom, mark, memory_order_release);
    return before;
}

#endif
