/*
 * wipe.h: memory that is cleared before it goes back to the allocator, and a stack that is cleared
 * behind a computation.
 *
 * Role: loader and handshaker, for all of libcrypto's allocations (the keeper has secret.h). What
 * has been freed is what a bug that reads beyond a buffer finds first: session keys of other
 * people's connections, in the handshaker.
 *
 * The signatures are those of CRYPTO_set_mem_functions(); file and line are not used.
 */
#ifndef SANDBOX_WIPE_H
#define SANDBOX_WIPE_H

#include <stddef.h>

void *wipe_malloc(size_t size, const char *file, int line);
/* Never the C library's realloc(): it may move the bytes and leave a copy. */
void *wipe_realloc(void *memory, size_t size, const char *file, int line);
void wipe_free(void *memory, const char *file, int line);

/* Clear the unused stack below the caller, as deep as libcrypto's arithmetic goes (measured: less
 * than half of it): its temporaries hold parts of keys. */
void wipe_stack(void);

#endif
