/*
 * wipe.c: see wipe.h.
 *
 * A freed block is cleared and kept for the next one of its size: a handshake makes and frees two
 * hundred blocks, always of the same sizes. What is beyond CACHE_BYTES goes back to the C library.
 */
#include "sandbox/wipe.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "sandbox/classes.h"

#define STACK_DEPTH 24576
#define CACHED_MAX  (40u << 10) /* libssl's record buffers are the largest that come and go */
#ifdef SANITIZED
#define CACHE_BYTES 0u /* the sanitizer wants to see what is used after it was freed */
#else
#define CACHE_BYTES (16u << 20)
#endif

/* In front of each block. The mark tells a block in use from one that is free or is not ours. */
struct header {
    uint32_t mark;
    uint32_t class_number; /* 0: too large to be kept */
    size_t size;           /* asked for */
};

_Static_assert(sizeof(struct header) == CLASSES_GRAIN, "blocks must stay aligned");

#define MARK_USED 0x75736564u
#define MARK_FREE 0x66726565u

struct free_block {
    struct header header;
    struct free_block *next; /* masked */
};

static struct {
    struct free_block *free[CLASSES_COUNT];
    size_t bytes;     /* in these lists */
    uintptr_t secret; /* 0: nothing was kept yet */
} cache;

void *
wipe_malloc(size_t size, const char *file, int line)
{
    struct header *header;
    unsigned number = 0;
    size_t room = size;

    (void)file;
    (void)line;
    if (size == 0 || size > SIZE_MAX / 2)
        return NULL;
    if (size <= CACHED_MAX)
        number = classes_find(size, &room);
    if (cache.free[number] != NULL) {
        struct free_block *block = cache.free[number];

        header = &block->header;
        cache.free[number] = classes_mask(block->next, cache.secret);
        if (header->mark != MARK_FREE || header->class_number != number ||
            !classes_aligned(cache.free[number]))
            abort(); /* somebody wrote beyond his block */
        cache.bytes -= room;
        block->next = NULL;
    } else {
        header = malloc(sizeof(*header) + room);
        if (header == NULL)
            return NULL;
        header->class_number = number;
    }
    header->mark = MARK_USED;
    header->size = size;
    return header + 1;
}

static struct header *
header_of(void *memory)
{
    struct header *header = (struct header *)memory - 1;

    if (header->mark != MARK_USED || header->class_number >= CLASSES_COUNT)
        abort(); /* freed twice, or written to by its neighbour */
    return header;
}

void
wipe_free(void *memory, const char *file, int line)
{
    struct header *header;
    size_t room;

    (void)file;
    (void)line;
    if (memory == NULL)
        return;
    header = header_of(memory);
    explicit_bzero(memory, header->size);
    header->mark = MARK_FREE;
    (void)classes_find(header->size, &room);
    if (header->class_number != 0 && cache.bytes + room <= CACHE_BYTES) {
        struct free_block *block = (struct free_block *)header;

        cache.bytes += room;
        if (cache.secret == 0)
            cache.secret = classes_secret();
        block->next = classes_mask(cache.free[header->class_number], cache.secret);
        cache.free[header->class_number] = block;
    } else {
        free(header);
    }
}

void *
wipe_realloc(void *memory, size_t size, const char *file, int line)
{
    struct header *header;
    size_t room;
    void *moved;

    if (memory == NULL)
        return wipe_malloc(size, file, line);
    if (size == 0) {
        wipe_free(memory, file, line);
        return NULL;
    }
    header = header_of(memory);
    if (size <= CACHED_MAX && header->class_number != 0 &&
        classes_find(size, &room) == header->class_number) {
        if (size < header->size)
            explicit_bzero((uint8_t *)memory + size, header->size - size);
        header->size = size;
        return memory;
    }
    moved = wipe_malloc(size, file, line);
    if (moved != NULL) {
        memcpy(moved, memory, header->size < size ? header->size : size);
        wipe_free(memory, file, line);
    }
    return moved;
}

void __attribute__((noinline)) wipe_stack(void)
{
    uint8_t unused[STACK_DEPTH];

    explicit_bzero(unused, sizeof(unused));
}
