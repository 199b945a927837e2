/*
 * ktls.h: a data stream whose keys the kernel has (the kernel form). Private to client/stream.h's
 * functions, which lead here when the record says so: callers see no difference.
 *
 * The kernel seals and opens records; what is left to do is everything else: the type of each
 * record comes and goes in a control message, alerts and handshake messages are ours, and so are
 * new keys after a KeyUpdate, where the kernel takes them (Linux 6.14). Where it does not, a
 * KeyUpdate of the peer ends the connection with TLSAGENT_E_REKEY.
 *
 * Trust: as client/stream.h. The state holds no key that is in use. Where the kernel takes new keys
 * it holds the secrets that a KeyUpdate leads to (the present ones do not follow from them).
 */
#ifndef CLIENT_KTLS_H
#define CLIENT_KTLS_H

#include "client/stream.h"

/* As stream_start(), when the kernel has the keys. state: its secrets, if not zeros, are the next
 * ones; keys are not looked at. */
int ktls_start(struct stream *stream, int fd, const struct traffic_state *state, bool is_server,
               struct error *error);

/* As the functions of client/stream.h with these names. The caller has made sure that the stream is
 * alive and ours, and that its arguments can be. */
ssize_t ktls_read(struct stream *stream, void *buffer, size_t size, bool keep, struct error *error);
ssize_t ktls_writev(struct stream *stream, const struct iovec *parts, int count, size_t total,
                    struct error *error);
ssize_t ktls_sendfile(struct stream *stream, int file, off_t *offset, size_t size,
                      struct error *error);
int ktls_flush(struct stream *stream, struct error *error);
int ktls_update_keys(struct stream *stream, bool request, struct error *error);
int ktls_shutdown_send(struct stream *stream, struct error *error);

#endif
