/*
 * secret.c: see secret.h.
 *
 * The allocator has size classes (classes.h) with a free list each, and cuts new blocks
 * off the region's end. Blocks are never merged: the keeper's load is many objects of few sizes.
 */
#include "sandbox/secret.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox/classes.h"

/* In front of each block. The mark tells ours from others' and used from free. */
struct header {
    uint32_t mark;
    uint32_t class_number;
    uint64_t size; /* asked for */
};

_Static_assert(sizeof(struct header) == CLASSES_GRAIN, "blocks must stay aligned");

#define MARK_USED 0x75736564u
#define MARK_FREE 0x66726565u

struct free_block {
    struct free_block *next; /* masked */
};

static struct {
    enum secret_kind kind;
    uint8_t *start, *next, *end;
    struct free_block *free[CLASSES_COUNT];
    uintptr_t secret;
} region;

/* Map size bytes of memfd_secret at address. */
static bool
map_memfd(uint8_t *address, size_t size)
{
#ifdef SYS_memfd_secret
    int fd = (int)syscall(SYS_memfd_secret, 0x80000 /* O_CLOEXEC */);
    bool done;

    if (fd == -1)
        return false;
    done = ftruncate(fd, (off_t)size) == 0 &&
           mmap(address, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == address;
    close(fd);
    return done;
#else
    (void)address;
    (void)size;
    return false;
#endif
}

int
secret_init(size_t size, struct error *error)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *reserve, *start;

    if (region.kind != SECRET_NONE)
        return error_set(error, "memory for keys: made already");
    size = (size + page - 1) / page * page;
    /* The unmapped pages on both sides: a run over the end faults. */
    reserve = mmap(NULL, size + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (reserve == MAP_FAILED)
        return error_set(error, "memory for keys: cannot map %zu bytes", size);
    start = reserve + page;
    if (map_memfd(start, size)) {
        region.kind = SECRET_MEMFD;
    } else {
        /* MAP_FIXED may have left a hole where the memfd did not fit. */
        if (mmap(start, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                 0) != start)
            return error_set(error, "memory for keys: cannot map %zu bytes", size);
        region.kind = mlock(start, size) == 0 ? SECRET_LOCKED : SECRET_ORDINARY;
    }
    /* memfd_secret is out of cores by itself and may refuse to be told so. */
    (void)madvise(start, size, MADV_DONTDUMP);
    (void)madvise(start, size, MADV_DONTFORK);
    region.secret = classes_secret();
    region.start = region.next = start;
    region.end = start + size;
    return 0;
}

enum secret_kind
secret_kind(void)
{
    return region.kind;
}

size_t
secret_unused(void)
{
    return (size_t)(region.end - region.next);
}

void *
secret_malloc(size_t size)
{
    struct header *header;
    unsigned number;
    size_t room;

    if (size > (size_t)(region.end - region.start))
        return NULL;
    number = classes_find(size, &room);
    if (region.free[number] != NULL) {
        struct free_block *block = region.free[number];

        header = (struct header *)((uint8_t *)block - CLASSES_GRAIN);
        region.free[number] = classes_mask(block->next, region.secret);
        if (header->mark != MARK_FREE || header->class_number != number ||
            !classes_aligned(region.free[number]))
            abort(); /* somebody wrote beyond his block */
        block->next = NULL;
    } else {
        if (room + CLASSES_GRAIN > secret_unused())
            return NULL;
        header = (struct header *)region.next;
        region.next += room + CLASSES_GRAIN;
    }
    header->mark = MARK_USED;
    header->class_number = number;
    header->size = size;
    return (uint8_t *)header + CLASSES_GRAIN;
}

static struct header *
header_of(void *pointer)
{
    uint8_t *bytes = pointer;
    struct header *header;

    if (bytes < region.start + CLASSES_GRAIN || bytes >= region.end ||
        (size_t)(bytes - region.start) % CLASSES_GRAIN != 0)
        abort();
    header = (struct header *)(bytes - CLASSES_GRAIN);
    if (header->mark != MARK_USED || header->class_number >= CLASSES_COUNT)
        abort();
    return header;
}

void
secret_free(void *pointer)
{
    struct free_block *block = pointer;
    struct header *header;

    if (pointer == NULL)
        return;
    header = header_of(pointer);
    explicit_bzero(pointer, header->size);
    header->mark = MARK_FREE;
    block->next = classes_mask(region.free[header->class_number], region.secret);
    region.free[header->class_number] = block;
}

void *
secret_realloc(void *pointer, size_t size)
{
    struct header *header;
    size_t room, old_room;
    void *moved;

    if (pointer == NULL)
        return secret_malloc(size);
    header = header_of(pointer);
    if (size <= (size_t)(region.end - region.start) &&
        classes_find(size, &room) == header->class_number) {
        if (size < header->size)
            explicit_bzero((uint8_t *)pointer + size, header->size - size);
        header->size = size;
        return pointer;
    }
    moved = secret_malloc(size);
    if (moved == NULL)
        return NULL;
    old_room = header->size;
    memcpy(moved, pointer, old_room < size ? old_room : size);
    secret_free(pointer);
    return moved;
}
