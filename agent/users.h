/*
 * users.h: what each uid holds in this cell, and how often it may bother us.
 *
 * Role: handshaker. Trust: whatever one uid does, others must not notice; so what is scarce
 * (channels, handshakes in progress, descriptors on their way) is counted per uid, not per channel.
 */
#ifndef AGENT_USERS_H
#define AGENT_USERS_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/pace.h"

struct user {
    struct user *next;
    uint32_t uid;
    uint32_t channels;
    uint32_t in_flight; /* handshakes that it asked for */
    uint32_t unread;    /* descriptors sent or kept for it and perhaps not read: at most */
    uint64_t looked;    /* when that was last found out */
    struct pace refused;
    struct pace busy;
};

/* One channel more of this uid. The record is made if there is none; NULL: out of memory. */
struct user *users_enter(struct user **users, uint32_t uid);

/* One channel less; the record goes with the last one. */
void users_leave(struct user **users, struct user *user);

/* It made us do something for nothing (retryable: and was told to try again, which an honest one is
 * too when there is much to do). False: too often, its channels shall not be read for a while. */
bool users_bother(struct user *user, uint64_t now, bool retryable);

#endif
