/*
 * pool.c: see pool.h.
 *
 * All pools are in one list, for the sake of fork(): the child wipes those of its parent's other
 * threads too. A pool that was in use at that moment may be half-changed: it is left alone, and
 * nobody in the child can reach it.
 */
#include "client/pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define AEADS      3
#define WAYS       4 /* contexts per AEAD and direction: a few busy connections side by side */
#define SCRATCHES  2 /* one to receive, one to send */
#define DIRECTIONS 2

struct cipher {
    EVP_CIPHER_CTX *context; /* NULL: not yet made */
    uint64_t owner;          /* 0: none */
    uint32_t epoch;
};

struct pool {
    struct pool *previous;
    struct pool *next;
    atomic_bool busy;
    struct cipher ciphers[AEADS][DIRECTIONS][WAYS];
    uint8_t *scratches[SCRATCHES];
};

static _Thread_local struct pool *mine;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t thread_end;
static bool thread_end_known;
static EVP_CIPHER *fetched[AEADS]; /* for the process's life: a look-up by name is dear */

static struct {
    pthread_mutex_t lock;
    struct pool *first;
} pools = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void
free_ciphers(struct pool *pool)
{
    struct cipher *cipher = &pool->ciphers[0][0][0];
    size_t i;

    for (i = 0; i < (size_t)AEADS * DIRECTIONS * WAYS; i++) {
        EVP_CIPHER_CTX_free(cipher[i].context); /* wipes the key schedule */
        cipher[i] = (struct cipher){0};
    }
}

static void
unlink_pool(struct pool *pool)
{
    if (pool->previous != NULL)
        pool->previous->next = pool->next;
    else
        pools.first = pool->next;
    if (pool->next != NULL)
        pool->next->previous = pool->previous;
}

static void
free_pool(struct pool *pool)
{
    size_t i;

    free_ciphers(pool);
    for (i = 0; i < SCRATCHES; i++)
        free(pool->scratches[i]);
    free(pool);
}

static void
end_thread(void *argument)
{
    struct pool *pool = argument;

    pthread_mutex_lock(&pools.lock);
    unlink_pool(pool);
    pthread_mutex_unlock(&pools.lock);
    mine = NULL;
    free_pool(pool);
}

static void
before_fork(void)
{
    pthread_mutex_lock(&pools.lock);
}

static void
after_fork_parent(void)
{
    pthread_mutex_unlock(&pools.lock);
}

static void
after_fork_child(void)
{
    struct pool *pool, *next;

    for (pool = pools.first; pool != NULL; pool = next) {
        next = pool->next;
        if (atomic_load(&pool->busy))
            continue;
        if (pool == mine) {
            free_ciphers(pool);
        } else {
            unlink_pool(pool);
            free_pool(pool);
        }
    }
    pthread_mutex_unlock(&pools.lock);
}

static void
prepare(void)
{
    fetched[TRAFFIC_AES_128_GCM - 1] = EVP_CIPHER_fetch(NULL, "AES-128-GCM", NULL);
    fetched[TRAFFIC_AES_256_GCM - 1] = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    fetched[TRAFFIC_CHACHA20_POLY1305 - 1] = EVP_CIPHER_fetch(NULL, "ChaCha20-Poly1305", NULL);
    thread_end_known = pthread_key_create(&thread_end, end_thread) == 0;
    pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

static struct pool *
pool_get(void)
{
    struct pool *pool = mine;

    if (pool != NULL)
        return pool;
    pthread_once(&once, prepare);
    if (!thread_end_known)
        return NULL;
    pool = calloc(1, sizeof(*pool));
    if (pool == NULL)
        return NULL;
    if (pthread_setspecific(thread_end, pool) != 0) {
        free(pool);
        return NULL;
    }
    pthread_mutex_lock(&pools.lock);
    pool->next = pools.first;
    if (pool->next != NULL)
        pool->next->previous = pool;
    pools.first = pool;
    pthread_mutex_unlock(&pools.lock);
    mine = pool;
    return pool;
}

EVP_CIPHER_CTX *
pool_cipher(enum traffic_aead aead, bool sealing, uint64_t owner, uint32_t epoch,
            const uint8_t *key)
{
    struct pool *pool = pool_get();
    struct cipher *cipher;
    const EVP_CIPHER *type = NULL;

    if (pool == NULL)
        return NULL;
    atomic_store_explicit(&pool->busy, true, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    cipher = &pool->ciphers[aead - 1][sealing][owner % WAYS];
    if (cipher->owner == owner && cipher->epoch == epoch)
        return cipher->context;

    cipher->owner = 0;
    if (cipher->context == NULL) {
        type = fetched[aead - 1];
        cipher->context = type == NULL ? NULL : EVP_CIPHER_CTX_new();
        if (cipher->context == NULL)
            return NULL;
    }
    if (EVP_CipherInit_ex(cipher->context, type, NULL, key, NULL, sealing) != 1) {
        EVP_CIPHER_CTX_free(cipher->context); /* perhaps made a moment ago, without a type */
        cipher->context = NULL;
        return NULL;
    }
    cipher->owner = owner;
    cipher->epoch = epoch;
    return cipher->context;
}

void
pool_release(void)
{
    atomic_signal_fence(memory_order_seq_cst);
    if (mine != NULL)
        atomic_store_explicit(&mine->busy, false, memory_order_release);
}

void
pool_forget(enum traffic_aead aead, uint64_t owner)
{
    static const uint8_t zeros[TRAFFIC_KEY_MAX];
    struct cipher *cipher;
    int sealing;

    if (mine == NULL)
        return;
    atomic_store_explicit(&mine->busy, true, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    for (sealing = 0; sealing < DIRECTIONS; sealing++) {
        cipher = &mine->ciphers[aead - 1][sealing][owner % WAYS];
        if (cipher->owner != owner)
            continue;
        cipher->owner = 0;
        /* Cheaper than to free it: the next connection wants it. */
        if (EVP_CipherInit_ex(cipher->context, NULL, NULL, zeros, NULL, sealing) != 1) {
            EVP_CIPHER_CTX_free(cipher->context);
            cipher->context = NULL;
        }
    }
    pool_release();
}

uint8_t *
pool_take_scratch(void)
{
    struct pool *pool = pool_get();
    uint8_t *scratch;
    size_t i;

    for (i = 0; pool != NULL && i < SCRATCHES; i++) {
        if (pool->scratches[i] != NULL) {
            scratch = pool->scratches[i];
            pool->scratches[i] = NULL;
            return scratch;
        }
    }
    return malloc(POOL_SCRATCH_SIZE);
}

void
pool_give_scratch(uint8_t *scratch)
{
    size_t i;

    for (i = 0; mine != NULL && i < SCRATCHES; i++) {
        if (mine->scratches[i] == NULL) {
            mine->scratches[i] = scratch;
            return;
        }
    }
    free(scratch);
}
