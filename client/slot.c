/*
 * slot.c: see slot.h.
 *
 * A chunk is an aligned region: one page of bookkeeping, then pages of slots. The chunk of a slot
 * is found by rounding its address down. Chunks with a free slot are in a list; a chunk that gets
 * empty is unmapped, but for the last one.
 */
#include "client/slot.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>

#include <openssl/crypto.h>

#define CHUNK_SIZE  ((size_t)131072)
#define HEADER_SIZE ((size_t)4096)
#define CHUNK_SLOTS ((CHUNK_SIZE - HEADER_SIZE) / SLOT_SIZE)
#define WORD_BITS   64
#define CHUNK_WORDS ((CHUNK_SLOTS + WORD_BITS - 1) / WORD_BITS)

struct chunk {
    struct chunk *previous; /* in the list of chunks with a free slot */
    struct chunk *next;
    size_t used;
    uint64_t taken[CHUNK_WORDS]; /* bit set: in use, or behind the last slot */
};

_Static_assert(sizeof(struct chunk) <= HEADER_SIZE, "the bookkeeping must fit in its page");

static struct {
    pthread_mutex_t lock;
    struct chunk *available;
    size_t chunks;
    size_t used;
} slab = {.lock = PTHREAD_MUTEX_INITIALIZER};

static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

/* A fork while another thread is in here must not leave the child with a lock that nobody holds. */
static void
lock_slab(void)
{
    pthread_mutex_lock(&slab.lock);
}

static void
unlock_slab(void)
{
    pthread_mutex_unlock(&slab.lock);
}

static void
watch_forks(void)
{
    pthread_atfork(lock_slab, unlock_slab, unlock_slab);
}

static void
list_insert(struct chunk *chunk)
{
    chunk->previous = NULL;
    chunk->next = slab.available;
    if (chunk->next != NULL)
        chunk->next->previous = chunk;
    slab.available = chunk;
}

static void
list_remove(struct chunk *chunk)
{
    if (chunk->previous != NULL)
        chunk->previous->next = chunk->next;
    else
        slab.available = chunk->next;
    if (chunk->next != NULL)
        chunk->next->previous = chunk->previous;
}

/* Map an aligned region; its pages of slots get their properties or it is not used at all. */
static struct chunk *
chunk_map(void)
{
    uint8_t *region = mmap(NULL, 2 * CHUNK_SIZE, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    struct chunk *chunk;
    uint8_t *start;
    size_t before, i;

    if (region == MAP_FAILED)
        return NULL;
    before = (CHUNK_SIZE - (uintptr_t)region % CHUNK_SIZE) % CHUNK_SIZE;
    start = region + before;
    if (before > 0)
        munmap(region, before);
    munmap(start + CHUNK_SIZE, CHUNK_SIZE - before);

    if (madvise(start + HEADER_SIZE, CHUNK_SIZE - HEADER_SIZE, MADV_WIPEONFORK) == -1 ||
        madvise(start + HEADER_SIZE, CHUNK_SIZE - HEADER_SIZE, MADV_DONTDUMP) == -1) {
        int saved = errno;

        munmap(start, CHUNK_SIZE);
        errno = saved;
        return NULL;
    }
    chunk = (struct chunk *)(void *)start;
    for (i = CHUNK_SLOTS; i < CHUNK_WORDS * WORD_BITS; i++)
        chunk->taken[i / WORD_BITS] |= UINT64_C(1) << (i % WORD_BITS);
    slab.chunks++;
    list_insert(chunk);
    return chunk;
}

void *
slot_alloc(void)
{
    struct chunk *chunk;
    uint8_t *slot = NULL;
    size_t word, bit;

    pthread_once(&fork_once, watch_forks);
    lock_slab();
    chunk = slab.available != NULL ? slab.available : chunk_map();
    if (chunk != NULL) {
        for (word = 0; chunk->taken[word] == UINT64_MAX; word++)
            ;
        bit = (size_t)__builtin_ctzll(~chunk->taken[word]);
        chunk->taken[word] |= UINT64_C(1) << bit;
        slot = (uint8_t *)chunk + HEADER_SIZE + (word * WORD_BITS + bit) * SLOT_SIZE;
        slab.used++;
        if (++chunk->used == CHUNK_SLOTS)
            list_remove(chunk);
    }
    unlock_slab();
    return slot;
}

void
slot_free(void *slot)
{
    struct chunk *chunk;
    size_t index;

    if (slot == NULL)
        return;
    OPENSSL_cleanse(slot, SLOT_SIZE);
    chunk = (struct chunk *)(void *)((uint8_t *)slot - (uintptr_t)slot % CHUNK_SIZE);
    index = ((uintptr_t)slot % CHUNK_SIZE - HEADER_SIZE) / SLOT_SIZE;

    lock_slab();
    chunk->taken[index / WORD_BITS] &= ~(UINT64_C(1) << (index % WORD_BITS));
    slab.used--;
    if (chunk->used-- == CHUNK_SLOTS)
        list_insert(chunk);
    if (chunk->used == 0 && (chunk->previous != NULL || chunk->next != NULL)) {
        list_remove(chunk);
        slab.chunks--;
        munmap(chunk, CHUNK_SIZE);
    }
    unlock_slab();
}

size_t
slot_count(void)
{
    size_t used;

    lock_slab();
    used = slab.used;
    unlock_slab();
    return used;
}

size_t
slot_mapped(void)
{
    size_t chunks;

    lock_slab();
    chunks = slab.chunks;
    unlock_slab();
    return chunks * CHUNK_SIZE;
}
