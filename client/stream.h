/*
 * stream.h: a TLS data stream over a connected socket: what is left of a connection when its
 * handshake is done. Reads and writes plaintext, answers KeyUpdate, tells a clean close from a cut.
 *
 * Used by libtlsagent's connections, and by the relay. It knows nothing of the agent.
 *
 * Trust: every byte that comes from the socket is the peer's and hostile. Keys live in a slot
 * (client/slot.h) that the kernel wipes in a forked child; the child gets E_FORKED errors and
 * nothing is ever written by it.
 *
 * Memory: an idle stream holds its slot and nothing else. Buffers come from a pool of the thread
 * when bytes arrive or leave, and go back when they are empty. So a stream may be used from any
 * one thread at a time.
 *
 * The fd: not owned, never closed, its flags never touched. With O_NONBLOCK set calls return
 * STREAM_WANT_POLLIN / STREAM_WANT_POLLOUT: poll, then make the same call again. Without it they
 * wait. (With SO_RCVTIMEO or SO_SNDTIMEO on a blocking fd, a timeout looks like WANT_POLL*.)
 * SIGPIPE is never raised and EINTR is never returned.
 *
 * Two forms: stream_start() makes one that seals and opens records itself, ktls_start()
 * (client/ktls.h) one whose keys the kernel has. All other functions serve both.
 *
 * Errors: a function that returns -1 has set *error (may be NULL) to one line, and stream->code and
 * stream->alert. A failure stays: the same call fails again with the same text. A broken record
 * protocol ends both directions (the alert has been sent or is queued), a truncation ends reading
 * only, a failed send ends writing only (what the peer said before can still be read). Lack of
 * memory, and a key of TLS 1.2 that has reached its limit, do not stay.
 *
 * A close_notify of the peer ends reading only, in TLS 1.2 too: RFC 5246 section 7.2.1 would have
 * us throw away what is still to be written, but clients in the wild half-close and then read.
 */
#ifndef CLIENT_STREAM_H
#define CLIENT_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "client/tlsagent.h" /* enum tlsagent_error_code */
#include "protocol/error.h"
#include "protocol/traffic.h"

#define STREAM_WANT_POLLIN  TLSAGENT_WANT_POLLIN
#define STREAM_WANT_POLLOUT TLSAGENT_WANT_POLLOUT

#define STREAM_NO_ALERT (-1)

struct record; /* client/record.h */

/* Bytes that wait. data is NULL when there are none; else it belongs to the stream. */
struct stream_buffer {
    uint8_t *data;
    uint32_t capacity;
    uint32_t start; /* first byte not yet used */
    uint32_t end;   /* behind the last one */
};

/* Why a direction is over. text is a literal. */
struct stream_failure {
    const char *text; /* NULL: it is not over */
    int number;       /* errno where the text needs one, else 0 */
    int16_t alert;    /* sent or received, STREAM_NO_ALERT: none */
    uint8_t code;     /* enum tlsagent_error_code */
};

/* The fields are the stream's own, but for code, alert and what the owner sets. May be embedded in
 * the caller's object and moved in memory with it. */
struct stream {
    struct record *record; /* in a slot; owned. NULL: not started, or cleared */
    uint64_t id;           /* what the record's id must be; else we are a forked child */
    int fd;                /* does not own */
    uint8_t code;          /* of the last call that returned -1: enum tlsagent_error_code */
    uint8_t burst;         /* records that are sealed for one system call */
    int16_t alert;         /* of the last call that returned -1: STREAM_NO_ALERT: none */
    bool ended;            /* the peer's close_notify has come */
    bool unreported;       /* an end or a failure of reading that no call has returned yet */
    bool closed;           /* our close_notify is sealed: nothing is written after it */
    bool broken;           /* the socket takes no more bytes */
    bool exact;            /* nothing is read beyond a record: stream_stop() */
    bool surplus;          /* the peer sent something behind its close_notify */
    int16_t owed_alert;    /* kernel form: to be sent; STREAM_NO_ALERT: none */
    bool push;             /* an answer to the peer waits in out: reads try to send it too */
    bool hurried;          /* set by the owner: no call waits, whatever the socket's O_NONBLOCK */
    bool parting;          /* set by the owner: it closes the socket next, which sends the rest */
    uint32_t receive_max;  /* set by the owner: no recv() takes more bytes; 0: no limit */
    uint32_t plain_start;  /* decrypted bytes that wait, as offsets in in.data */
    uint32_t plain_end;
    struct stream_buffer in;  /* ciphertext received */
    struct stream_buffer out; /* ciphertext sealed and not yet sent */
    struct stream_failure read_failure;
    struct stream_failure write_failure;
};

/* Take over fd after the handshake. early: ciphertext that someone has already read from fd
 * (copied; NULL if early_size is 0). Nothing is sent. The caller wipes its copies of state. Returns
 * 0, or -1 (E_MEMORY, E_ARGUMENT: a suite, max_fragment or size that cannot be); then the stream is
 * as if cleared. */
int stream_start(struct stream *stream, int fd, const struct traffic_state *state, bool is_server,
                 const void *early, size_t early_size, struct error *error);

/* Read up to size bytes. n > 0; 0: the peer's close_notify (again and again), or size is 0;
 * WANT_POLLIN. Bytes of buffer behind the n may have been overwritten. -1: E_TRUNCATED (end of TCP
 * without close_notify, also inside a record), E_CLOSED (reset), E_ALERT, E_RECORD, E_FORKED,
 * E_SYSTEM, E_MEMORY. */
ssize_t stream_read(struct stream *stream, void *buffer, size_t size, struct error *error);

/* As stream_read(), but the bytes stay. May give fewer than a read would. */
ssize_t stream_peek(struct stream *stream, void *buffer, size_t size, struct error *error);

/* Bytes that can be read without reading the fd: decrypted ones plus an upper bound for complete
 * records that are not yet decrypted. At least 1 if an end or a failure waits to be
 * told by stream_read(). 0: poll the fd. */
size_t stream_pending(const struct stream *stream);

/* Write. Returns the bytes accepted: on a blocking fd all of them, else perhaps fewer; accepted
 * bytes are sealed and go first in later calls. WANT_POLLOUT: none was accepted. 0: nothing to
 * write. -1: E_CLOSED, E_RECORD, E_ALERT, E_FORKED, E_SYSTEM, E_MEMORY, E_ARGUMENT (for instance
 * after stream_shutdown_send()). */
ssize_t stream_write(struct stream *stream, const void *data, size_t size, struct error *error);
ssize_t stream_writev(struct stream *stream, const struct iovec *parts, int count,
                      struct error *error);

/* Send what was accepted. 0: the kernel has all. WANT_POLLOUT. -1. */
int stream_flush(struct stream *stream, struct error *error);

/* TLS 1.3: change our sending key now; with request, ask the peer to change its key too. (Done by
 * itself before the limits of a key are reached.) In TLS 1.2: E_ARGUMENT. Returns as
 * stream_flush(); WANT_POLLOUT: it is queued, go on with flush or write. */
int stream_update_keys(struct stream *stream, bool request, struct error *error);

/* Close our direction: queue close_notify behind what was accepted, and send. 0: the kernel has
 * all; WANT_POLLOUT: the same call again. Reading goes on. */
int stream_shutdown_send(struct stream *stream, struct error *error);

/* stream_shutdown_send(), then read and throw away until the peer's close_notify. 0: both
 * directions are closed. WANT_POLLIN, WANT_POLLOUT, -1 (E_TRUNCATED if the peer just went away). */
int stream_shutdown(struct stream *stream, struct error *error);

/* End TLS on the connection and keep the connection: stream_shutdown_send(), then read until the
 * peer's close_notify and not a byte further. 0: both are done, what comes now is not TLS (call
 * stream_clear()). 1: the peer still had data: stream_read() it, then the same call again.
 * WANT_POLLIN, WANT_POLLOUT, -1. In the kernel form E_FORM: the kernel does not let go. */
int stream_stop(struct stream *stream, struct error *error);

/* Write up to size bytes of a file from *offset, which is advanced. As stream_write(); 0: the
 * file's end. In the kernel form the bytes do not come through this process. */
ssize_t stream_sendfile(struct stream *stream, int file, off_t *offset, size_t size,
                        struct error *error);

/* Wipe and free; no byte on the wire, fd untouched. Right in a forked child too. A stream of zeros
 * or cleared already is fine. */
void stream_clear(struct stream *stream);

#endif
