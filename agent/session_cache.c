/* session_cache.c: see session_cache.h. */
#include "agent/session_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define WAYS 4 /* slots that an id may be in */

/* What a slot begins with; the entry follows. */
struct slot {
    _Atomic uint64_t sequence; /* odd: being written */
    uint64_t expires;          /* 0: empty */
    uint32_t size;
    uint32_t id_size;
    uint8_t id[SESSION_ID_MAX];
    uint8_t entry[];
};

_Static_assert(sizeof(struct slot) + SESSION_SMALL <= SESSION_SMALL_SLOT, "an entry fits");
_Static_assert(sizeof(struct slot) + SESSION_LARGE <= SESSION_LARGE_SLOT, "an entry fits");

/* Slots of one size. */
struct region {
    uint8_t *start;
    size_t count; /* a multiple of WAYS */
    size_t slot_size;
    size_t room; /* for an entry */
};

struct session_cache {
    uint8_t *mapping;
    size_t mapping_size;
    struct region regions[2]; /* small, large */
};

/* Both numbers of slots follow from the number of sessions, and that from the size of the file. */
static size_t
small_slots(size_t sessions)
{
    size_t step = (size_t)SESSION_LARGE_SHARE * WAYS;

    return (sessions + step - 1) / step * step;
}

#define GROUP_BYTES ((size_t)SESSION_LARGE_SHARE * SESSION_SMALL_SLOT + SESSION_LARGE_SLOT)

size_t
session_cache_bytes(unsigned sessions)
{
    return small_slots(sessions) / SESSION_LARGE_SHARE * GROUP_BYTES;
}

struct session_cache *
session_cache_map(int fd, struct error *error)
{
    struct session_cache *cache = calloc(1, sizeof(*cache));
    int seals = fcntl(fd, F_GET_SEALS);
    struct stat status;
    void *mapping;
    size_t groups;

    /* A file that can shrink would kill its readers with SIGBUS. */
    if (cache == NULL || seals == -1 || (seals & F_SEAL_SHRINK) == 0 || fstat(fd, &status) == -1 ||
        status.st_size <= 0 || (size_t)status.st_size % (GROUP_BYTES * WAYS) != 0) {
        free(cache);
        error_set(error, "the session cache is not a memory file of a possible size");
        return NULL;
    }
    mapping = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapping == MAP_FAILED) {
        free(cache);
        error_set(error, "mapping the session cache: %s", strerror(errno));
        return NULL;
    }
    cache->mapping = mapping;
    cache->mapping_size = (size_t)status.st_size;
    groups = cache->mapping_size / GROUP_BYTES;
    cache->regions[0] = (struct region){.start = cache->mapping,
                                        .count = groups * SESSION_LARGE_SHARE,
                                        .slot_size = SESSION_SMALL_SLOT,
                                        .room = SESSION_SMALL_SLOT - sizeof(struct slot)};
    cache->regions[1] =
        (struct region){.start = cache->mapping + cache->regions[0].count * SESSION_SMALL_SLOT,
                        .count = groups,
                        .slot_size = SESSION_LARGE_SLOT,
                        .room = SESSION_LARGE_SLOT - sizeof(struct slot)};
    return cache;
}

void
session_cache_unmap(struct session_cache *cache)
{
    if (cache == NULL)
        return;
    munmap(cache->mapping, cache->mapping_size);
    free(cache);
}

/* The first of the slots that an id may be in. Ids of ours are random; somebody else's that are not
 * find nothing. */
static struct slot *
way(const struct region *region, const uint8_t *id, size_t id_size, size_t number)
{
    uint64_t hash = 1469598103934665603U;

    for (size_t i = 0; i < id_size; i++)
        hash = (hash ^ id[i]) * 1099511628211U;
    number += hash % (region->count / WAYS) * WAYS;
    return (struct slot *)(void *)(region->start + number * region->slot_size);
}

static bool
is_for(const struct slot *slot, const uint8_t *id, size_t id_size)
{
    return slot->id_size == id_size && memcmp(slot->id, id, id_size) == 0;
}

/* Claim a slot, also from a writer that died in it. Returns the odd number, 0 if another was
 * faster. */
static uint64_t
claim(struct slot *slot)
{
    uint64_t was = atomic_load_explicit(&slot->sequence, memory_order_acquire);
    uint64_t mine = (was + 1) | 1;

    return atomic_compare_exchange_strong(&slot->sequence, &was, mine) ? mine : 0;
}

static void
release(struct slot *slot, uint64_t mine)
{
    /* If the number is another by now, somebody took us for dead: it is their slot. */
    (void)atomic_compare_exchange_strong(&slot->sequence, &mine, mine + 1);
}

bool
session_cache_put(struct session_cache *cache, const uint8_t *id, size_t id_size,
                  const uint8_t *entry, size_t size, uint64_t now, uint64_t expires)
{
    const struct region *region = &cache->regions[size > SESSION_SMALL];
    struct slot *best = NULL;
    uint64_t mine;

    if (size > region->room || id_size == 0 || id_size > SESSION_ID_MAX || expires <= now)
        return false;
    for (size_t i = 0; i < WAYS; i++) {
        struct slot *slot = way(region, id, id_size, i);

        if (is_for(slot, id, id_size)) {
            best = slot;
            break;
        }
        if (best == NULL || slot->expires < best->expires)
            best = slot;
    }
    mine = claim(best);
    if (mine == 0)
        return false;
    best->expires = expires;
    best->size = (uint32_t)size;
    best->id_size = (uint32_t)id_size;
    memcpy(best->id, id, id_size);
    memcpy(best->entry, entry, size);
    release(best, mine);
    return true;
}

/* Copy an entry out of a slot if it is the id's and nobody wrote meanwhile. */
static bool
read_slot(struct slot *slot, const struct region *region, const uint8_t *id, size_t id_size,
          uint64_t now, uint8_t *entry, size_t *size)
{
    uint64_t before = atomic_load_explicit(&slot->sequence, memory_order_acquire);
    uint32_t length;

    if ((before & 1) != 0 || !is_for(slot, id, id_size) || slot->expires <= now)
        return false;
    length = *(volatile uint32_t *)&slot->size; /* once: it may change under us */
    if (length == 0 || length > region->room || length > SESSION_LARGE)
        return false;
    memcpy(entry, slot->entry, length);
    *size = length;
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(&slot->sequence, memory_order_relaxed) == before;
}

bool
session_cache_get(struct session_cache *cache, const uint8_t *id, size_t id_size, uint64_t now,
                  uint8_t entry[SESSION_LARGE], size_t *size)
{
    if (id_size == 0 || id_size > SESSION_ID_MAX)
        return false;
    for (size_t i = 0; i < 2 * WAYS; i++) {
        const struct region *region = &cache->regions[i / WAYS];

        if (read_slot(way(region, id, id_size, i % WAYS), region, id, id_size, now, entry, size))
            return true;
    }
    return false;
}

void
session_cache_remove(struct session_cache *cache, const uint8_t *id, size_t id_size)
{
    if (id_size == 0 || id_size > SESSION_ID_MAX)
        return;
    for (size_t i = 0; i < 2 * WAYS; i++) {
        struct slot *slot = way(&cache->regions[i / WAYS], id, id_size, i % WAYS);
        uint64_t mine;

        if (!is_for(slot, id, id_size) || (mine = claim(slot)) == 0)
            continue;
        slot->expires = 0;
        slot->size = slot->id_size = 0;
        release(slot, mine);
    }
}
