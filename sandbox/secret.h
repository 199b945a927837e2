/*
 * secret.h: memory for keys: one region, and a small allocator in it.
 *
 * Role: the keeper, for *all* of its OpenSSL allocations: an RSA key alone leaves a dozen copies on
 * an ordinary heap. The region is memfd_secret where the kernel has it (not even root reads it
 * through /proc/PID/mem or a core), else locked anonymous memory, else ordinary memory, and which
 * of them it is can be asked. It is left out of cores and forks and has unmapped pages on both
 * sides. What is freed is wiped first.
 *
 * One thread only. There is one region per process, as libcrypto has one set of memory functions.
 */
#ifndef SANDBOX_SECRET_H
#define SANDBOX_SECRET_H

#include <stddef.h>

#include "protocol/error.h"

enum secret_kind {
    SECRET_NONE,     /* secret_init() was not called */
    SECRET_MEMFD,    /* memfd_secret */
    SECRET_LOCKED,   /* anonymous, mlock()ed: never in swap */
    SECRET_ORDINARY, /* RLIMIT_MEMLOCK allows no better */
};

/* Make the region, once, of at least size bytes. Returns 0, or -1 with an error. */
int secret_init(size_t size, struct error *error);

enum secret_kind secret_kind(void);

/* As malloc, realloc and free, in the region. NULL if it is full. A pointer that is not from here,
 * or was freed already, aborts. */
void *secret_malloc(size_t size);
void *secret_realloc(void *pointer, size_t size);
void secret_free(void *pointer);

/* Bytes of the region that were never given out. */
size_t secret_unused(void);

#endif
