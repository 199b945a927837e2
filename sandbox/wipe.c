/* wipe.c: see wipe.h. */
#include "sandbox/wipe.h"

#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define STACK_DEPTH 24576

void *
wipe_malloc(size_t size, const char *file, int line)
{
    (void)file;
    (void)line;
    return size > 0 ? malloc(size) : NULL;
}

void
wipe_free(void *memory, const char *file, int line)
{
    (void)file;
    (void)line;
    if (memory == NULL)
        return;
    explicit_bzero(memory, malloc_usable_size(memory));
    free(memory);
}

void *
wipe_realloc(void *memory, size_t size, const char *file, int line)
{
    size_t old = memory != NULL ? malloc_usable_size(memory) : 0;
    void *larger;

    if (size == 0) {
        wipe_free(memory, file, line);
        return NULL;
    }
    if (memory != NULL && size <= old)
        return memory;
    larger = malloc(size);
    if (larger != NULL && memory != NULL) {
        memcpy(larger, memory, old);
        wipe_free(memory, file, line);
    }
    return larger;
}

void __attribute__((noinline)) wipe_stack(void)
{
    uint8_t unused[STACK_DEPTH];

    explicit_bzero(unused, sizeof(unused));
}
