/*
 * helper.h: the library's side of the relay: starts the program tlsagent-relay and gives it
 * connections (protocol/relay.h).
 *
 * The program is looked for in $TLSAGENT_RELAY (not in set-uid programs), else where it was
 * installed. It runs as this process's user, knows nothing but what it is given, and is nobody's
 * child: it goes on when this process ends, until its connections have ended.
 *
 * One owner: giving makes the stream unusable before the message leaves; if it could not be sent
 * the stream is as it was.
 */
#ifndef CLIENT_HELPER_H
#define CLIENT_HELPER_H

#include <stdbool.h>
#include <stdint.h>

#include "client/stream.h"
#include "protocol/error.h"
#include "protocol/relay.h"

enum helper_result {
    HELPER_OK,
    HELPER_GONE,   /* the relay has died: nothing was sent; start another one */
    HELPER_FAILED, /* error says why; nothing was sent */
};

struct helper_gift {
    struct stream *stream; /* cleared if the gift was taken */
    int plain;             /* does not own: the relay gets a duplicate of it, and of stream->fd */
    enum relay_plain kind;
    uint32_t id;
    bool tell;
    size_t passed; /* bytes that the stream has decrypted and that are in the plain side already */
};

/* Start a relay (program: NULL for the usual place) and wait until it is in its sandbox. Returns
 * the channel to it, -1 with an error. */
int helper_start(const char *program, struct error *error);

/* A socket pair whose end [1] is for a relay (RELAY_PAIR). Close-on-exec. -1: errno. */
int helper_make_pair(int pair[2]);

enum helper_result helper_give(int channel, const struct helper_gift *gift, struct error *error);

#endif
