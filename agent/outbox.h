/*
 * outbox.h: the answers on their way to one worker, in order.
 *
 * Role: handshaker. An answer waits here until the round of the loop is over, and longer if the
 * channel has no room. What is there then goes as one message, so that the worker is woken once
 * for all of it. Trust: the worker may read nothing; so what waits is bounded, and the descriptors
 * among it are counted for its user.
 */
#ifndef AGENT_OUTBOX_H
#define AGENT_OUTBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/users.h"
#include "protocol/channel.h"

struct unsent;

struct outbox {
    int channel;       /* does not own */
    struct user *user; /* does not own */
    struct unsent *first;
    struct unsent *last;
    size_t count;
    size_t bytes;
    uint32_t unread; /* descriptors sent or waiting and perhaps not read: at most; its part of the
                        user's */
};

void outbox_init(struct outbox *outbox, int channel, struct user *user);

/* Put an answer at the end. Takes fd (-1: none). False: too much waits already. */
bool outbox_put(struct outbox *outbox, uint16_t type, const uint8_t *body, size_t size, int fd);

/* As many as go into one message are there. */
bool outbox_full(const struct outbox *outbox);

/* Send what is there, as far as there is room; buffer: CHANNEL_BODY_MAX bytes to work in.
 * CHANNEL_OK: it is empty now; else as channel_send(), with errno. */
enum channel_result outbox_send(struct outbox *outbox, uint8_t *buffer);

/* Find out how many descriptors have been read meanwhile. */
void outbox_count_unread(struct outbox *outbox);

/* Forget and close what waits, and what is unread: the channel is closed. */
void outbox_clear(struct outbox *outbox);

#endif
