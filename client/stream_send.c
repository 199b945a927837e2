/*
 * stream_send.c: the sending half of the data stream (client/stream.h).
 *
 * Several records are sealed into a scratch buffer and sent with one call. What the kernel does not
 * take waits, and goes first the next time. The number of records per call doubles while
 * the kernel takes all and falls to one when it does not, so that a slow peer costs a record.
 */
#include "client/stream_parts.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/ktls.h"
#include "client/pool.h"

#define BURST_MAX  8
#define FILE_PIECE 65536 /* bytes of a file at a time */

int
stream_transmit(struct stream *stream, int flags)
{
    struct stream_buffer *out = &stream->out;
    ssize_t n;

    flags |= MSG_NOSIGNAL | (stream->hurried ? MSG_DONTWAIT : 0);
    if (stream->parting) /* the last bytes go with the FIN: a packet less */
        flags |= MSG_MORE;
    while (!buffer_is_empty(out)) {
        n = send(stream->fd, out->data + out->start, out->end - out->start, flags);
        if (n >= 0) {
            out->start += (uint32_t)n;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return BLOCKED;
        } else if (errno != EINTR) {
            stream_set_failure(&stream->write_failure, stream_code_of_errno(errno),
                               "cannot write to the peer", errno);
            stream->broken = true;
            buffer_free(out);
            return -1;
        }
    }
    out->start = out->end = 0;
    stream->push = false;
    return DONE;
}

void
stream_push_owed(struct stream *stream)
{
    struct record_failure failure;
    size_t size;

    if (!stream->push && !record_owes(stream->record))
        return;
    if (stream->closed || stream->write_failure.text != NULL)
        return;
    if (stream_transmit(stream, MSG_DONTWAIT) == DONE) {
        while (record_owes(stream->record) && buffer_reserve(&stream->out, RECORD_CONTROL_MAX)) {
            size = record_seal_owed(stream->record, stream->out.data + stream->out.end, &failure);
            if (size == 0)
                break;
            stream->out.end += (uint32_t)size;
        }
        stream->push = stream_transmit(stream, MSG_DONTWAIT) == BLOCKED;
    }
    buffer_settle(&stream->out);
}

/* Queue an alert behind all else. */
static bool
queue_alert(struct stream *stream, int alert)
{
    size_t size;

    if (!buffer_reserve(&stream->out, RECORD_CONTROL_MAX))
        return false;
    size = record_seal_alert(stream->record, (enum record_alert)alert,
                             stream->out.data + stream->out.end);
    stream->out.end += (uint32_t)size;
    return size > 0;
}

void
stream_end(struct stream *stream, const struct record_failure *failure)
{
    struct stream_failure both = {failure->text, 0, failure->alert,
                                  failure->received ? TLSAGENT_E_ALERT : TLSAGENT_E_RECORD};

    if (!failure->received && !stream->closed && !stream->broken &&
        queue_alert(stream, failure->alert))
        stream_transmit(stream, MSG_DONTWAIT);
    buffer_settle(&stream->out);
    stream->in.start = stream->in.end;
    stream->unreported = true;
    stream->read_failure = both;
    if (stream->write_failure.text == NULL)
        stream->write_failure = both;
}

static int
check_writable(struct stream *stream, struct error *error)
{
    if (stream_enter(stream, error) == -1)
        return -1;
    if (stream->write_failure.text != NULL)
        return stream_report(stream, &stream->write_failure, error);
    return 0;
}

/* Bytes in all parts, or -1. */
static ssize_t
sum_parts(const struct iovec *parts, int count)
{
    size_t sum = 0;
    int i;

    if (count < 0 || count > IOV_MAX)
        return -1;
    for (i = 0; i < count; i++) {
        if (parts[i].iov_len > (size_t)SSIZE_MAX - sum)
            return -1;
        sum += parts[i].iov_len;
    }
    return (ssize_t)sum;
}

/* Seal a burst into out, which is empty. */
static int
seal_burst(struct stream *stream, struct record_source *source, struct error *error)
{
    struct record_failure failure;
    size_t size;

    if (!buffer_reserve(&stream->out, POOL_SCRATCH_SIZE))
        return stream_refuse(stream, TLSAGENT_E_MEMORY, "no memory to write", error);
    size = record_seal_data(stream->record, source, stream->burst, stream->out.data,
                            POOL_SCRATCH_SIZE, &failure);
    if (size == 0)
        return stream_refuse(stream, TLSAGENT_E_RECORD, failure.text, error);
    stream->out.end = (uint32_t)size;
    return 0;
}

ssize_t
stream_writev(struct stream *stream, const struct iovec *parts, int count, struct error *error)
{
    ssize_t total = sum_parts(parts, count);
    struct record_source source = {parts, 0, (size_t)total};
    int result = DONE;

    if (check_writable(stream, error) == -1)
        return -1;
    if (total == -1)
        return stream_refuse(stream, TLSAGENT_E_ARGUMENT, "too much to write in one call", error);
    if (stream->closed)
        return stream_refuse(stream, TLSAGENT_E_ARGUMENT, "cannot write after closing", error);
    if (total == 0)
        return 0;
    if (stream->record->in_kernel)
        return ktls_writev(stream, parts, count, (size_t)total, error);

    result = stream_transmit(stream, 0);
    while (result == DONE && source.left > 0) {
        if (seal_burst(stream, &source, error) == -1) {
            buffer_settle(&stream->out);
            return source.left < (size_t)total ? total - (ssize_t)source.left : -1;
        }
        result = stream_transmit(stream, 0);
        if (result == DONE && stream->burst < BURST_MAX)
            stream->burst *= 2;
    }
    if (result == BLOCKED)
        stream->burst = 1;
    buffer_settle(&stream->out);
    if (result == -1)
        return stream_report(stream, &stream->write_failure, error);
    return source.left < (size_t)total ? total - (ssize_t)source.left : STREAM_WANT_POLLOUT;
}

ssize_t
stream_write(struct stream *stream, const void *data, size_t size, struct error *error)
{
    struct iovec part = {(void *)data, size};

    return stream_writev(stream, &part, 1, error);
}

ssize_t
stream_sendfile(struct stream *stream, int file, off_t *offset, size_t size, struct error *error)
{
    size_t done = 0;
    uint8_t *piece;

    if (check_writable(stream, error) == -1)
        return -1;
    if (stream->closed)
        return stream_refuse(stream, TLSAGENT_E_ARGUMENT, "cannot write after closing", error);
    if (stream->record->in_kernel)
        return ktls_sendfile(stream, file, offset, size, error);
    piece = malloc(FILE_PIECE);
    if (piece == NULL)
        return stream_refuse(stream, TLSAGENT_E_MEMORY, "no memory to read the file", error);
    while (done < size) {
        size_t wanted = size - done < FILE_PIECE ? size - done : FILE_PIECE;
        ssize_t there = pread(file, piece, wanted, *offset), n;

        if (there == -1 && errno == EINTR)
            continue;
        if (there == -1 && done == 0) {
            free(piece);
            return stream_refuse(stream, TLSAGENT_E_SYSTEM, "cannot read the file", error);
        }
        if (there <= 0)
            break; /* a failure shows itself again in the next call */
        n = stream_write(stream, piece, (size_t)there, error);
        if (n < 0) {
            free(piece);
            return done > 0 ? (ssize_t)done : n;
        }
        done += (size_t)n;
        *offset += n;
        if (n < there)
            break;
    }
    free(piece);
    return (ssize_t)done;
}

int
stream_flush(struct stream *stream, struct error *error)
{
    struct record_failure failure;
    int result;

    if (stream_enter(stream, error) == -1)
        return -1;
    if (stream->record->in_kernel)
        return ktls_flush(stream, error);
    result = stream_transmit(stream, 0); /* after a protocol failure too: its alert waits there */
    while (result == DONE && record_owes(stream->record) && !stream->closed &&
           stream->write_failure.text == NULL) {
        if (!buffer_reserve(&stream->out, RECORD_CONTROL_MAX))
            return stream_refuse(stream, TLSAGENT_E_MEMORY, "no memory to write", error);
        stream->out.end += (uint32_t)record_seal_owed(stream->record,
                                                      stream->out.data + stream->out.end, &failure);
        if (buffer_is_empty(&stream->out)) {
            buffer_settle(&stream->out);
            return stream_refuse(stream, TLSAGENT_E_RECORD, failure.text, error);
        }
        result = stream_transmit(stream, 0);
    }
    buffer_settle(&stream->out);
    if (stream->write_failure.text != NULL && result != BLOCKED)
        return stream_report(stream, &stream->write_failure, error);
    return result == BLOCKED ? STREAM_WANT_POLLOUT : 0;
}

int
stream_update_keys(struct stream *stream, bool request, struct error *error)
{
    if (check_writable(stream, error) == -1)
        return -1;
    if (stream->record->suite->version != TRAFFIC_TLS_1_3)
        return stream_refuse(stream, TLSAGENT_E_ARGUMENT, "TLS 1.2 cannot change its keys", error);
    if (stream->closed)
        return stream_refuse(stream, TLSAGENT_E_ARGUMENT, "cannot write after closing", error);
    if (stream->record->in_kernel)
        return ktls_update_keys(stream, request, error);
    stream->record->update_owed = true;
    stream->record->request_owed |= request;
    stream->push = true;
    return stream_flush(stream, error);
}

int
stream_shutdown_send(struct stream *stream, struct error *error)
{
    if (stream_enter(stream, error) == -1)
        return -1;
    if (stream->record->in_kernel)
        return ktls_shutdown_send(stream, error);
    if (!stream->closed && stream->write_failure.text == NULL) {
        if (!queue_alert(stream, RECORD_CLOSE_NOTIFY))
            return stream_refuse(stream, TLSAGENT_E_MEMORY, "no memory for a close_notify", error);
        stream->closed = true;
    }
    return stream_flush(stream, error);
}
