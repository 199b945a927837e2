/*
 * redis.h: one connection to a Redis or Valkey server: commands out, replies in, perhaps in TLS.
 *
 * Role: fetcher. The protocol is hiredis', its formatter and its reader; the bytes travel by our
 * own code, because the socket comes connected from elsewhere, nothing may block, and hiredis of
 * Debian 12 has no TLS. Trust: the server is hostile. Replies are strings of bounded size, numbers
 * and nil; an array, which no command of ours is answered with, ends the connection, and so does a
 * reply that is too long to be waited for.
 */
#ifndef AGENT_REDIS_H
#define AGENT_REDIS_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/error.h"

#define REDIS_OUT_MAX   (1U << 20) /* bytes of commands that wait to be sent */
#define REDIS_VALUE_MAX 4096
#define REDIS_REPLY_MAX (128 * 1024) /* bytes that are waited for until a reply is complete */

enum redis_type {
    REDIS_VALUE,
    REDIS_NIL,
    REDIS_NUMBER,
    REDIS_STATUS,
    REDIS_REFUSAL,
};

struct redis_reply {
    enum redis_type type;
    const uint8_t
        *data;   /* VALUE, STATUS, REFUSAL: the first REDIS_VALUE_MAX bytes; until the next */
    size_t size; /* of all */
};

/* ---- the decoder alone ---- */

struct redis_decoder;

struct redis_decoder *redis_decoder_new(void); /* NULL if memory is short */
void redis_decoder_free(struct redis_decoder *decoder);

/* Give it bytes; then take replies until there are none. 1: a reply, 0: none complete, -1: these
 * bytes are no replies. */
int redis_decoder_feed(struct redis_decoder *decoder, const void *data, size_t size,
                       struct error *error);
int redis_decoder_next(struct redis_decoder *decoder, struct redis_reply *reply,
                       struct error *error);

/* ---- the connection ---- */

struct redis;

/* Takes the fd, a stream socket that is being connected. tls: NULL without; name is then what its
 * certificate must be for. NULL with an error (the fd is closed). */
struct redis *redis_new(int fd, SSL_CTX *tls, const char *name, struct error *error);
void redis_free(struct redis *redis); /* NULL-safe; closes, wipes what was not sent */

/* Put a command into the queue. False: no room. */
bool redis_command(struct redis *redis, int count, const char *const *words, const size_t *sizes);

/* Send and receive what can be, without blocking; replied() is called for each reply and returns
 * false if it makes no sense there (error is set then). Returns 0, or -1 with an error: the
 * connection is of no use any more. */
int redis_work(struct redis *redis,
               bool (*replied)(void *data, const struct redis_reply *reply, struct error *error),
               void *data, struct error *error);

/* What to wait for: EPOLLIN, EPOLLOUT. */
uint32_t redis_events(const struct redis *redis);
int redis_fd(const struct redis *redis);

#endif
