/*
 * stream.c: see stream.h. The receiving half, the beginning and the end; what records mean is
 * client/record.c's.
 *
 * One recv() fills a scratch buffer with up to fifteen records. Each is opened straight into the
 * caller's buffer if its plaintext is sure to fit there, else in place, and the rest waits.
 * When only a piece of a record is left the scratch goes back to the pool and the piece into a
 * buffer of its size.
 */
#include "client/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include <openssl/crypto.h>

#include "client/ktls.h"
#include "client/pool.h"
#include "client/record.h"
#include "client/slot.h"
#include "client/stream_parts.h"

#define EARLY_MAX   65536             /* bytes; more than any handshaker reads ahead */
#define DISCARD_MAX 1048576           /* bytes thrown away by one call of stream_shutdown() */
#define SIZE_LIMIT  ((size_t)1 << 30) /* per call */

/* Bytes up to the end of the record that has begun, or of its header. */
static size_t
missing(const struct stream *stream)
{
    const struct stream_buffer *in = &stream->in;
    size_t have = in->end - in->start, total = RECORD_HEADER_SIZE;
    struct record_failure failure;

    if (record_measure(stream->record, in->data + in->start, have, &total, &failure) != 1)
        total = RECORD_HEADER_SIZE;
    return total > have ? total - have : 1;
}

/* Fill the input buffer. BLOCKED, DONE, or -1: read_failure is set. */
static int
receive(struct stream *stream)
{
    struct stream_buffer *in = &stream->in;
    size_t room;
    ssize_t n;

    if (in->capacity != POOL_SCRATCH_SIZE) {
        if (!buffer_move(in, POOL_SCRATCH_SIZE)) {
            stream_set_failure(&stream->read_failure, TLSAGENT_E_MEMORY, "no memory to read", 0);
            return -1;
        }
    } else if (in->start > 0) {
        memmove(in->data, in->data + in->start, in->end - in->start);
        in->end -= in->start;
        in->start = 0;
    }
    room = stream->exact ? missing(stream) : in->capacity - in->end;
    if (stream->receive_max != 0 && room > stream->receive_max)
        room = stream->receive_max;
    do
        n = recv(stream->fd, in->data + in->end, room, stream->hurried ? MSG_DONTWAIT : 0);
    while (n == -1 && errno == EINTR);
    if (n > 0) {
        in->end += (uint32_t)n;
        return DONE;
    }
    if (n == -1 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return BLOCKED;
    if (n == -1)
        stream_set_failure(&stream->read_failure, stream_code_of_errno(errno),
                           "cannot read from the peer", errno);
    else
        stream_set_failure(&stream->read_failure, TLSAGENT_E_TRUNCATED,
                           buffer_is_empty(in)
                               ? "the peer ended the connection without close_notify: its data "
                                 "may be incomplete"
                               : "the peer ended the connection in the middle of a record: its "
                                 "data is incomplete",
                           0);
    in->start = in->end;
    return -1;
}

/* Complete records in the input buffer, or a header that cannot be? */
static bool
has_record(const struct stream *stream)
{
    const struct stream_buffer *in = &stream->in;
    struct record_failure failure;
    size_t total;
    int result =
        record_measure(stream->record, in->data + in->start, in->end - in->start, &total, &failure);

    return result == -1 || (result == 1 && total <= in->end - in->start);
}

static void
settle_input(struct stream *stream)
{
    if (stream->plain_start != stream->plain_end)
        return;
    if (buffer_is_empty(&stream->in))
        buffer_free(&stream->in);
    else if (!has_record(stream))
        buffer_settle(&stream->in);
}

enum step {
    STEP_ON,     /* a record was opened */
    STEP_MORE,   /* none is complete */
    STEP_NO_FIT, /* its plaintext might not fit in room */
    STEP_OVER,   /* ended, or failed */
};

/* Open the next record: into out if it is sure to fit in room (then *size bytes are there), else,
 * if may_wait, in place (then plain_start..plain_end). */
static enum step
open_next(struct stream *stream, uint8_t *out, size_t room, bool may_wait, size_t *size)
{
    struct stream_buffer *in = &stream->in;
    struct record *record = stream->record;
    struct record_failure failure;
    uint8_t *data = in->data != NULL ? in->data + in->start : NULL;
    enum record_event event = RECORD_FAILED;
    size_t total = 0, content = 0;
    bool direct = false;
    int result;

    *size = 0;
    if (stream->ended || stream->read_failure.text != NULL)
        return STEP_OVER;
    result = record_measure(record, data, in->end - in->start, &total, &failure);
    if (result == 0 || (result == 1 && total > in->end - in->start))
        return STEP_MORE;
    if (result == 1) {
        direct = record_content_max(record, total) <= room;
        if (!direct && !may_wait)
            return STEP_NO_FIT;
        if (!direct)
            out = data + record_payload_offset(record);
        event = record_open(record, data, total, out, &content, &failure);
        in->start += (uint32_t)total;
    }
    switch (event) {
    case RECORD_DATA:
        if (direct) {
            *size = content;
        } else {
            stream->plain_start = (uint32_t)(out - in->data);
            stream->plain_end = stream->plain_start + (uint32_t)content;
        }
        return STEP_ON;
    case RECORD_NOTHING:
        return STEP_ON;
    case RECORD_CLOSED:
        stream->ended = true;
        stream->unreported = true;
        stream->surplus = in->start != in->end;
        in->start = in->end; /* what follows is to be ignored (RFC 8446 section 6.1) */
        return STEP_OVER;
    default:
        stream_end(stream, &failure);
        return STEP_OVER;
    }
}

/* Copy of what is decrypted; what is taken is wiped. */
static size_t
take_plain(struct stream *stream, uint8_t *out, size_t size, bool keep)
{
    size_t waiting = stream->plain_end - stream->plain_start;
    uint8_t *plain = stream->in.data + stream->plain_start;

    if (size > waiting)
        size = waiting;
    memcpy(out, plain, size);
    if (!keep) {
        explicit_bzero(plain, size);
        stream->plain_start += (uint32_t)size;
    }
    return size;
}

static ssize_t
read_plain(struct stream *stream, uint8_t *out, size_t size, bool keep, struct error *error)
{
    enum step step = STEP_ON;
    size_t done = 0, n;
    int result = DONE;

    if (stream_enter(stream, error) == -1)
        return -1;
    if (stream->record->in_kernel)
        return ktls_read(stream, out, size, keep, error);
    if (size > SIZE_LIMIT)
        size = SIZE_LIMIT;
    while (done < size && result == DONE) {
        if (stream->plain_start != stream->plain_end) {
            done += take_plain(stream, out + done, size - done, keep);
            if (keep)
                break;
            continue;
        }
        step = open_next(stream, out + done, keep ? 0 : size - done, done == 0, &n);
        done += n;
        if (step == STEP_ON)
            continue;
        if (step != STEP_MORE || done > 0)
            break;
        stream_push_owed(stream); /* before we wait: the peer may wait for it */
        result = receive(stream);
    }
    stream_push_owed(stream);
    settle_input(stream);
    if (done > 0 || size == 0)
        return (ssize_t)done;
    if (result == BLOCKED)
        return STREAM_WANT_POLLIN;
    stream->unreported = false;
    if (stream->ended)
        return 0;
    stream_report(stream, &stream->read_failure, error);
    if (stream->read_failure.code == TLSAGENT_E_MEMORY)
        stream->read_failure.text = NULL; /* nothing was lost: it may work the next time */
    return -1;
}

ssize_t
stream_read(struct stream *stream, void *buffer, size_t size, struct error *error)
{
    return read_plain(stream, buffer, size, false, error);
}

ssize_t
stream_peek(struct stream *stream, void *buffer, size_t size, struct error *error)
{
    return read_plain(stream, buffer, size, true, error);
}

size_t
stream_pending(const struct stream *stream)
{
    const struct stream_buffer *in = &stream->in;
    struct record_failure failure;
    size_t pending = stream->plain_end - stream->plain_start, at, total, content;
    int result;

    if (stream->record == NULL || stream->record->id != stream->id)
        return 0;
    for (at = in->start; at < in->end; at += total) {
        result = record_measure(stream->record, in->data + at, in->end - at, &total, &failure);
        if (result == -1)
            return pending + 1;
        if (result == 0 || total > in->end - at)
            break;
        content = record_content_max(stream->record, total);
        pending += content > 0 ? content : 1; /* it may be the end */
    }
    return pending == 0 && stream->unreported ? 1 : pending;
}

/* ---- the beginning and the end ---- */

int
stream_start(struct stream *stream, int fd, const struct traffic_state *state, bool is_server,
             const void *early, size_t early_size, struct error *error)
{
    *stream = (struct stream){
        .fd = fd, .burst = 1, .alert = STREAM_NO_ALERT, .owed_alert = STREAM_NO_ALERT};
    if (early_size > EARLY_MAX)
        return stream_refuse(stream, TLSAGENT_E_ARGUMENT, "too much early data for a TLS stream",
                             error);
    stream->record = slot_alloc();
    if (stream->record == NULL) {
        stream_set_failure(&stream->read_failure, TLSAGENT_E_MEMORY,
                           "no memory for a record state that a forked child cannot see", errno);
        return stream_report(stream, &stream->read_failure, error);
    }
    if (record_init(stream->record, state, is_server, error) == -1) {
        stream_clear(stream);
        stream->code = TLSAGENT_E_ARGUMENT;
        return -1;
    }
    stream->id = stream->record->id;
    if (early_size > 0) {
        if (!buffer_move(&stream->in, early_size)) {
            stream_clear(stream);
            return stream_refuse(stream, TLSAGENT_E_MEMORY, "no memory for early data", error);
        }
        memcpy(stream->in.data, early, early_size);
        stream->in.end = (uint32_t)early_size;
    }
    return 0;
}

int
stream_shutdown(struct stream *stream, struct error *error)
{
    uint8_t discard[4096];
    size_t discarded = 0;
    ssize_t n = stream_shutdown_send(stream, error);

    if (n != 0)
        return (int)n;
    for (;;) {
        n = stream_read(stream, discard, sizeof(discard), error);
        if (n <= 0)
            break;
        discarded += (size_t)n;
        /* A peer that never stops must not keep an event loop here. */
        if (discarded >= DISCARD_MAX && stream_pending(stream) == 0 &&
            (fcntl(stream->fd, F_GETFL) & O_NONBLOCK) != 0) {
            n = STREAM_WANT_POLLIN;
            break;
        }
    }
    OPENSSL_cleanse(discard, sizeof(discard));
    return (int)n;
}

void
stream_clear(struct stream *stream)
{
    if (stream->record != NULL) {
        if (stream->record->id == stream->id && stream->id != 0)
            pool_forget(stream->record->suite->aead, stream->id);
        slot_free(stream->record);
    }
    if (stream->plain_start != stream->plain_end)
        OPENSSL_cleanse(stream->in.data + stream->plain_start,
                        stream->plain_end - stream->plain_start);
    buffer_free(&stream->in);
    buffer_free(&stream->out);
    *stream = (struct stream){.fd = -1, .alert = STREAM_NO_ALERT, .owed_alert = STREAM_NO_ALERT};
}

int
stream_stop(struct stream *stream, struct error *error)
{
    uint8_t first;
    ssize_t n;

    if (stream_enter(stream, error) == -1)
        return -1;
    if (stream->record->in_kernel)
        return stream_refuse(stream, TLSAGENT_E_FORM,
                             "TLS cannot be taken off a socket again once the kernel does it: ask "
                             "for the records form",
                             error);
    stream->exact = true;
    n = stream_shutdown_send(stream, error);
    if (n != 0)
        return (int)n;
    n = stream_peek(stream, &first, 1, error);
    OPENSSL_cleanse(&first, 1);
    if (n == 0 && stream->surplus)
        return stream_refuse(stream, TLSAGENT_E_RECORD,
                             "the peer went on behind its close_notify without waiting for ours",
                             error);
    return (int)n;
}
