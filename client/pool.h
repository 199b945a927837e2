/*
 * pool.h: what connections of one thread share: cipher contexts and scratch buffers.
 *
 * An AES-GCM context of libcrypto takes more than a kilobyte per direction. So connections keep
 * keys only, and a thread keeps a few contexts, each remembering whose key it holds: a busy
 * connection finds its own again and is not re-keyed for each record; many connections take turns.
 *
 * A forked child loses the contexts (they hold keys of its parent's connections). At a thread's end
 * everything is freed.
 */
#ifndef CLIENT_POOL_H
#define CLIENT_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/evp.h>

#include "protocol/traffic.h"

/* Fifteen full records, sealed or as they come; also the most that is received at once: half as
 * many calls as with eight, and acknowledgements, cost a tenth less CPU; thirty save no more. */
#define POOL_SCRATCH_SIZE ((size_t)15 * (TRAFFIC_PLAINTEXT_MAX + 32) + 128)

/* A context with this key, for sealing or opening; the caller sets the nonce. owner is never 0; the
 * pair (owner, epoch) stands for the key. NULL if libcrypto failed. Until pool_release() no
 * other one may be asked for. */
EVP_CIPHER_CTX *pool_cipher(enum traffic_aead aead, bool sealing, uint64_t owner, uint32_t epoch,
                            const uint8_t *key);
void pool_release(void);

/* The connection is gone: wipe its keys from this thread's contexts. */
void pool_forget(enum traffic_aead aead, uint64_t owner);

/* POOL_SCRATCH_SIZE bytes from malloc() or from the thread's stock, NULL if there is no memory.
 * Must hold no plaintext when given back. */
uint8_t *pool_take_scratch(void);
void pool_give_scratch(uint8_t *scratch);

#endif
