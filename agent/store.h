/*
 * store.h: the handshaker's way to the fleet's store of sessions: a bounded wait, or none at all.
 *
 * Role: handshaker. It asks the fetcher by messages (protocol/store.h) and believes nothing that
 * comes back: an entry is good only if its keeper opens it. A handshake waits for wait_ms at most,
 * while all others go on. After STORE_FAILURES failures in a row nobody is made to wait for
 * STORE_OPEN_MS; then one lookup tries whether the store is back.
 */
#ifndef AGENT_STORE_H
#define AGENT_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/loop.h"
#include "protocol/control.h"
#include "protocol/store.h"

#define STORE_FAILURES 5
#define STORE_OPEN_MS  2000
#define STORE_WAIT_MAX 1000

struct store;

enum store_answer {
    STORE_NOT_ASKED,
    STORE_WAITS,
    STORE_HAS_IT,
    STORE_HAS_NOT,
    STORE_CANNOT, /* down, slow, or held for that */
};

/* One question. Zero-initialized; a member of its owner, who must cancel it before he ends. */
struct store_lookup {
    struct store_lookup *previous; /* in the order of their deadlines; NULL: does not wait */
    struct store_lookup *next;
    void (*answered)(struct store_lookup *lookup); /* from the loop, never from store_look_up() */
    uint64_t until;                                /* ms */
    uint32_t number;
    enum store_answer answer;
    uint8_t *entry; /* HAS_IT: owned */
    size_t size;
};

struct store *store_new(struct loop *loop); /* dies if memory is short */

/* Use this channel to the fetcher (taken), instead of the one before. */
void store_use(struct store *store, int channel, unsigned wait_ms);

/* Ask. Sets answer to WAITS, or to CANNOT. */
void store_look_up(struct store *store, struct store_lookup *lookup,
                   const uint8_t name[STORE_NAME_SIZE],
                   void (*answered)(struct store_lookup *lookup));

/* Forget the question, and the answer. */
void store_cancel(struct store *store, struct store_lookup *lookup);

/* Keep an entry for others, if that costs no wait. */
void store_keep(struct store *store, const uint8_t name[STORE_NAME_SIZE], const uint8_t *entry,
                size_t size, uint32_t life);

void store_count(const struct store *store, struct control_store_use *use);

#endif
