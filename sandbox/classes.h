/*
 * classes.h: the size classes of our two allocators: four per power of two, so that at most a
 * quarter of a block is lost.
 */
#ifndef SANDBOX_CLASSES_H
#define SANDBOX_CLASSES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/types.h>

#define CLASSES_GRAIN 16 /* alignment, and the smallest block */
#define CLASSES_COUNT 240

/* The class for a size, and how much its blocks hold: 16, 32, 48, 64, 80, 96, 112, 128, 160, 192,
 * 224, 256, 320 ... */
static inline unsigned
classes_find(size_t size, size_t *room)
{
    unsigned shift, part;

    if (size <= (size_t)4 * CLASSES_GRAIN) {
        part = size > CLASSES_GRAIN ? (unsigned)((size + CLASSES_GRAIN - 1) / CLASSES_GRAIN) : 1;
        *room = part * (size_t)CLASSES_GRAIN;
        return part;
    }
    /* A quarter of the greatest power of two below size. */
    shift = (unsigned)(sizeof(long) * 8 - 3) - (unsigned)__builtin_clzl(size - 1);
    part = (unsigned)((size - 1) >> shift) + 1; /* 5 to 8 of these */
    *room = (size_t)part << shift;
    return 4 * (shift - 4) + part;
}

/* How a free block is kept in another: or-ed exclusively with a secret of the process, so that who
 * writes beyond the end of a block cannot choose where the block after the next one is given out;
 * what comes out of it without the secret is hardly ever aligned. */
static inline void *
classes_mask(const void *block, uintptr_t secret)
{
    return (void *)((uintptr_t)block ^ secret); /* NOLINT(performance-no-int-to-ptr) */
}

static inline bool
classes_aligned(const void *block)
{
    return (uintptr_t)block % CLASSES_GRAIN == 0;
}

/* Never 0, which says that there is none yet. */
static inline uintptr_t
classes_secret(void)
{
    uintptr_t secret = 0;

    if (getrandom(&secret, sizeof(secret), 0) != (ssize_t)sizeof(secret))
        abort();
    return secret | 1;
}

#endif
