/*
 * stream_move.h: a data stream (client/stream.h) as another process needs it to go on with it, and
 * back.
 *
 * Trust: what stream_restore() is given comes from another process. protocol/move.c has checked its
 * form and that its parts fit each other; here memory is sized by what is there.
 */
#ifndef CLIENT_STREAM_MOVE_H
#define CLIENT_STREAM_MOVE_H

#include "client/stream.h"
#include "protocol/move.h"

/* Fill in the stream's part of m: role, record state, waiting bytes, failures. Nothing changes.
 * Pointers are into the stream: valid until its next call. The caller wipes m->state. 0 or -1
 * (E_FORKED, E_ARGUMENT). */
int stream_describe(struct stream *stream, struct move_connection *m, struct error *error);

/* Go on with what was described, on fd. As stream_start(). received and unsent must be there. */
int stream_restore(struct stream *stream, int fd, const struct move_connection *m,
                   struct error *error);

#endif
