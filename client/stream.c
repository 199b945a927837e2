/*
 * stream.c: see stream.h. The socket and the buffers; what records mean is client/record.c's.
 *
 * Receiving: one recv() fills a scratch buffer with up to eight records. Each is opened straight
 * into the caller's buffer if its plaintext is sure to fit there, else in place, and the rest
 * waits. When only a piece of a record is left the scratch goes back to the pool and the piece into
 * a buffer of its size.
 *
 * Sending: several records are sealed into a scratch buffer and sent with one call. What the kernel
 * does not take waits, and goes first the next time. The number of records per call doubles
 * while the kernel takes all and falls to one when it does not, so that a slow peer costs a record.
 */
#include "client/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <openssl/crypto.h>

#include "client/pool.h"
#include "client/record.h"
#include "client/slot.h"

#define BURST_MAX   8
#define EARLY_MAX   65536             /* bytes; more than any handshaker reads ahead */
#define DISCARD_MAX 1048576           /* bytes thrown away by one call of stream_shutdown() */
#define SIZE_LIMIT  ((size_t)1 << 30) /* per call */

enum { BLOCKED = 0, DONE = 1 }; /* of transmit() and receive(); -1: failed */

/* ---- errors ---- */

static int
report(struct stream *stream, const struct stream_failure *failure, struct error *error)
{
    stream->code = failure->code;
    stream->alert = failure->alert;
    error_clear(error);
    if (failure->number != 0)
        return error_set(error, "%s: %s", failure->text, strerror(failure->number));
    if (failure->code == TLSAGENT_E_ALERT)
        return error_set(error, "%s with alert %d (%s)", failure->text, failure->alert,
                         record_alert_name(failure->alert));
    if (failure->alert != STREAM_NO_ALERT)
        return error_set(error, "%s; answered with alert %d (%s)", failure->text, failure->alert,
                         record_alert_name(failure->alert));
    return error_set(error, "%s", failure->text);
}

/* A failure of this call only. */
static int
refuse(struct stream *stream, enum tlsagent_error_code code, const char *text, struct error *error)
{
    struct stream_failure failure = {text, 0, STREAM_NO_ALERT, (uint8_t)code};

    return report(stream, &failure, error);
}

static void
set_failure(struct stream_failure *failure, enum tlsagent_error_code code, const char *text,
            int number)
{
    if (failure->text == NULL)
        *failure = (struct stream_failure){text, number, STREAM_NO_ALERT, (uint8_t)code};
}

static enum tlsagent_error_code
code_of_errno(int number)
{
    switch (number) {
    case EPIPE:
    case ECONNRESET:
    case ECONNABORTED:
    case ENOTCONN:
    case ESHUTDOWN:
        return TLSAGENT_E_CLOSED;
    case ENOMEM:
    case ENOBUFS:
        return TLSAGENT_E_MEMORY;
    default:
        return TLSAGENT_E_SYSTEM;
    }
}

/* Every call begins here: is this stream alive, and ours? */
static int
enter(struct stream *stream, struct error *error)
{
    if (stream->record == NULL)
        return refuse(stream, TLSAGENT_E_ARGUMENT, "the connection has no TLS stream", error);
    if (stream->record->id != stream->id)
        return refuse(stream, TLSAGENT_E_FORKED,
                      "the connection belongs to the parent process: a forked child cannot use it",
                      error);
    return 0;
}

/* ---- buffers ---- */

static bool
is_empty(const struct stream_buffer *buffer)
{
    return buffer->start == buffer->end;
}

static void
buffer_free(struct stream_buffer *buffer)
{
    if (buffer->data != NULL) {
        if (buffer->capacity == POOL_SCRATCH_SIZE)
            pool_give_scratch(buffer->data);
        else
            free(buffer->data);
    }
    *buffer = (struct stream_buffer){0};
}

/* Move what waits to the front of new memory of this capacity. False: no memory, nothing changed.
 */
static bool
buffer_move(struct stream_buffer *buffer, size_t capacity)
{
    size_t size = buffer->end - buffer->start;
    uint8_t *data = capacity == POOL_SCRATCH_SIZE ? pool_take_scratch() : malloc(capacity);

    if (data == NULL)
        return false;
    if (size > 0)
        memcpy(data, buffer->data + buffer->start, size);
    buffer_free(buffer);
    *buffer = (struct stream_buffer){data, (uint32_t)capacity, 0, (uint32_t)size};
    return true;
}

/* Room for size bytes behind those that wait. */
static bool
buffer_reserve(struct stream_buffer *buffer, size_t size)
{
    size_t waiting = buffer->end - buffer->start;

    if (buffer->data != NULL && buffer->capacity - buffer->end >= size)
        return true;
    if (waiting + size <= POOL_SCRATCH_SIZE && buffer->capacity != POOL_SCRATCH_SIZE)
        return buffer_move(buffer, POOL_SCRATCH_SIZE);
    return buffer_move(buffer, waiting + size);
}

/* Hold no more memory than what waits is worth, when a call is over. */
static void
buffer_settle(struct stream_buffer *buffer)
{
    size_t size = buffer->end - buffer->start;

    if (size == 0)
        buffer_free(buffer);
    else if (size <= buffer->capacity / 2)
        buffer_move(buffer, size);
}

/* ---- sending ---- */

static int
transmit(struct stream *stream, int flags)
{
    struct stream_buffer *out = &stream->out;
    ssize_t n;

    while (!is_empty(out)) {
        n = send(stream->fd, out->data + out->start, out->end - out->start, MSG_NOSIGNAL | flags);
        if (n >= 0) {
            out->start += (uint32_t)n;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return BLOCKED;
        } else if (errno != EINTR) {
            set_failure(&stream->write_failure, code_of_errno(errno), "cannot write to the peer",
                        errno);
            stream->broken = true;
            buffer_free(out);
            return -1;
        }
    }
    out->start = out->end = 0;
    stream->push = false;
    return DONE;
}

/* Say what is owed without waiting: a read must not hang because the peer does not read. What the
 * kernel does not take goes with the next call. */
static void
push_owed(struct stream *stream)
{
    struct record_failure failure;
    size_t size;

    if (!stream->push && !record_owes(stream->record))
        return;
    if (stream->closed || stream->write_failure.text != NULL)
        return;
    if (transmit(stream, MSG_DONTWAIT) == DONE) {
        while (record_owes(stream->record) && buffer_reserve(&stream->out, RECORD_CONTROL_MAX)) {
            size = record_seal_owed(stream->record, stream->out.data + stream->out.end, &failure);
            if (size == 0)
                break;
            stream->out.end += (uint32_t)size;
        }
        stream->push = transmit(stream, MSG_DONTWAIT) == BLOCKED;
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

/* The peer broke the protocol, or told us that we did: the end of both directions. */
static void
end_stream(struct stream *stream, const struct record_failure *failure)
{
    struct stream_failure both = {failure->text, 0, failure->alert,
                                  failure->received ? TLSAGENT_E_ALERT : TLSAGENT_E_RECORD};

    if (!failure->received && !stream->closed && !stream->broken &&
        queue_alert(stream, failure->alert))
        transmit(stream, MSG_DONTWAIT);
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
    if (enter(stream, error) == -1)
        return -1;
    if (stream->write_failure.text != NULL)
        return report(stream, &stream->write_failure, error);
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
        return refuse(stream, TLSAGENT_E_MEMORY, "no memory to write", error);
    size = record_seal_data(stream->record, source, stream->burst, stream->out.data,
                            POOL_SCRATCH_SIZE, &failure);
    if (size == 0)
        return refuse(stream, TLSAGENT_E_RECORD, failure.text, error);
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
        return refuse(stream, TLSAGENT_E_ARGUMENT, "too much to write in one call", error);
    if (stream->closed)
        return refuse(stream, TLSAGENT_E_ARGUMENT, "cannot write after closing", error);
    if (total == 0)
        return 0;

    result = transmit(stream, 0);
    while (result == DONE && source.left > 0) {
        if (seal_burst(stream, &source, error) == -1) {
            buffer_settle(&stream->out);
            return source.left < (size_t)total ? total - (ssize_t)source.left : -1;
        }
        result = transmit(stream, 0);
        if (result == DONE && stream->burst < BURST_MAX)
            stream->burst *= 2;
    }
    if (result == BLOCKED)
        stream->burst = 1;
    buffer_settle(&stream->out);
    if (result == -1)
        return report(stream, &stream->write_failure, error);
    return source.left < (size_t)total ? total - (ssize_t)source.left : STREAM_WANT_POLLOUT;
}

ssize_t
stream_write(struct stream *stream, const void *data, size_t size, struct error *error)
{
    struct iovec part = {(void *)data, size};

    return stream_writev(stream, &part, 1, error);
}

int
stream_flush(struct stream *stream, struct error *error)
{
    struct record_failure failure;
    int result;

    if (enter(stream, error) == -1)
        return -1;
    result = transmit(stream, 0); /* after a protocol failure too: its alert waits there */
    while (result == DONE && record_owes(stream->record) && !stream->closed &&
           stream->write_failure.text == NULL) {
        if (!buffer_reserve(&stream->out, RECORD_CONTROL_MAX))
            return refuse(stream, TLSAGENT_E_MEMORY, "no memory to write", error);
        stream->out.end += (uint32_t)record_seal_owed(stream->record,
                                                      stream->out.data + stream->out.end, &failure);
        if (is_empty(&stream->out)) {
            buffer_settle(&stream->out);
            return refuse(stream, TLSAGENT_E_RECORD, failure.text, error);
        }
        result = transmit(stream, 0);
    }
    buffer_settle(&stream->out);
    if (stream->write_failure.text != NULL && result != BLOCKED)
        return report(stream, &stream->write_failure, error);
    return result == BLOCKED ? STREAM_WANT_POLLOUT : 0;
}

int
stream_update_keys(struct stream *stream, bool request, struct error *error)
{
    if (check_writable(stream, error) == -1)
        return -1;
    if (stream->record->suite->version != TRAFFIC_TLS_1_3)
        return refuse(stream, TLSAGENT_E_ARGUMENT, "TLS 1.2 cannot change its keys", error);
    if (stream->closed)
        return refuse(stream, TLSAGENT_E_ARGUMENT, "cannot write after closing", error);
    stream->record->update_owed = true;
    stream->record->request_owed |= request;
    stream->push = true;
    return stream_flush(stream, error);
}

/* ---- receiving ---- */

/* Fill the input buffer. BLOCKED, DONE, or -1: read_failure is set. */
static int
receive(struct stream *stream)
{
    struct stream_buffer *in = &stream->in;
    ssize_t n;

    if (in->capacity != POOL_SCRATCH_SIZE) {
        if (!buffer_move(in, POOL_SCRATCH_SIZE)) {
            set_failure(&stream->read_failure, TLSAGENT_E_MEMORY, "no memory to read", 0);
            return -1;
        }
    } else if (in->start > 0) {
        memmove(in->data, in->data + in->start, in->end - in->start);
        in->end -= in->start;
        in->start = 0;
    }
    do
        n = recv(stream->fd, in->data + in->end, in->capacity - in->end, 0);
    while (n == -1 && errno == EINTR);
    if (n > 0) {
        in->end += (uint32_t)n;
        return DONE;
    }
    if (n == -1 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return BLOCKED;
    if (n == -1)
        set_failure(&stream->read_failure, code_of_errno(errno), "cannot read from the peer",
                    errno);
    else
        set_failure(&stream->read_failure, TLSAGENT_E_TRUNCATED,
                    is_empty(in) ? "the peer ended the connection without close_notify: its data "
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
    if (is_empty(&stream->in))
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
    uint8_t *data = in->data + in->start;
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
        in->start = in->end; /* what follows is to be ignored (RFC 8446 section 6.1) */
        return STEP_OVER;
    default:
        end_stream(stream, &failure);
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
        OPENSSL_cleanse(plain, size);
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

    if (enter(stream, error) == -1)
        return -1;
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
        push_owed(stream); /* before we wait: the peer may wait for it */
        result = receive(stream);
    }
    push_owed(stream);
    settle_input(stream);
    if (done > 0 || size == 0)
        return (ssize_t)done;
    if (result == BLOCKED)
        return STREAM_WANT_POLLIN;
    stream->unreported = false;
    if (stream->ended)
        return 0;
    report(stream, &stream->read_failure, error);
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
    *stream = (struct stream){.fd = fd, .burst = 1, .alert = STREAM_NO_ALERT};
    if (early_size > EARLY_MAX)
        return refuse(stream, TLSAGENT_E_ARGUMENT, "too much early data for a TLS stream", error);
    stream->record = slot_alloc();
    if (stream->record == NULL) {
        set_failure(&stream->read_failure, TLSAGENT_E_MEMORY,
                    "no memory for a record state that a forked child cannot see", errno);
        return report(stream, &stream->read_failure, error);
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
            return refuse(stream, TLSAGENT_E_MEMORY, "no memory for early data", error);
        }
        memcpy(stream->in.data, early, early_size);
        stream->in.end = (uint32_t)early_size;
    }
    return 0;
}

int
stream_shutdown_send(struct stream *stream, struct error *error)
{
    if (enter(stream, error) == -1)
        return -1;
    if (!stream->closed && stream->write_failure.text == NULL) {
        if (!queue_alert(stream, RECORD_CLOSE_NOTIFY))
            return refuse(stream, TLSAGENT_E_MEMORY, "no memory to close the connection", error);
        stream->closed = true;
    }
    return stream_flush(stream, error);
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
    *stream = (struct stream){.fd = -1, .alert = STREAM_NO_ALERT};
}
