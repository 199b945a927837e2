/*
 * stream_parts.h: what the files of the data stream share (client/stream.h): errors and buffers in
 * stream_parts.c, sending in stream_send.c, receiving in stream.c.
 */
#ifndef CLIENT_STREAM_PARTS_H
#define CLIENT_STREAM_PARTS_H

#include "client/record.h"
#include "client/stream.h"

enum { BLOCKED = 0, DONE = 1 }; /* of stream_transmit() and the like; -1: failed */

/* ---- errors: those that return int return -1 ---- */

int stream_report(struct stream *stream, const struct stream_failure *failure, struct error *error);

/* A failure of this call only. */
int stream_refuse(struct stream *stream, enum tlsagent_error_code code, const char *text,
                  struct error *error);

/* The first failure of a direction stays. number: errno, or 0. */
void stream_set_failure(struct stream_failure *failure, enum tlsagent_error_code code,
                        const char *text, int number);
enum tlsagent_error_code stream_code_of_errno(int number);

/* Every call begins here: is this stream alive, and ours? 0 or -1. */
int stream_enter(struct stream *stream, struct error *error);

/* ---- buffers: scratch from the pool, or memory of just the size of what waits ---- */

bool buffer_is_empty(const struct stream_buffer *buffer);
void buffer_free(struct stream_buffer *buffer);

/* Move what waits to the front of new memory. False: no memory, nothing changed. */
bool buffer_move(struct stream_buffer *buffer, size_t capacity);

/* Room for size bytes behind those that wait. False: no memory. */
bool buffer_reserve(struct stream_buffer *buffer, size_t size);

/* Hold no more memory than what waits is worth, when a call is over. */
void buffer_settle(struct stream_buffer *buffer);

/* ---- sending ---- */

/* Send what waits. DONE: nothing is left; BLOCKED; -1: write_failure is set. */
int stream_transmit(struct stream *stream, int flags);

/* Say what is owed without waiting: a read must not hang because the peer does not read. What the
 * kernel does not take goes with the next call. */
void stream_push_owed(struct stream *stream);

/* The peer broke the protocol, or told us that we did: the end of both directions. */
void stream_end(struct stream *stream, const struct record_failure *failure);

#endif
