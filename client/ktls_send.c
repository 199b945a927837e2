/*
 * ktls_send.c: see ktls.h: what leaves, when the kernel has the keys.
 *
 * What is owed to the peer (a KeyUpdate, a refusal, an alert) is kept as such and not as bytes:
 * nothing is ours to seal. It goes before the next data, and reads try to send it without waiting.
 */
#include "client/ktls_parts.h"

#include <errno.h>
#include <linux/tls.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <openssl/crypto.h>

#include "client/record_control.h"
#include "client/stream_parts.h"
#include "protocol/kernel_tls.h"

#define PARTS_MAX    64 /* of one sendmsg() */
#define COUNT_EVERY  16 /* so many small writes */
#define KEY_UPDATE   24
#define ALERT_SIZE   2
#define LEVEL_FATAL  2
#define LEVEL_NOTICE 1

static const char no_rekey[] =
    "keys cannot be changed in the kernel form on this kernel (Linux 6.14 is needed): the records "
    "form can (hand_back, prefer_rekey)";

static void
break_writing(struct stream *stream)
{
    stream_set_failure(&stream->write_failure, stream_code_of_errno(errno),
                       "cannot write to the peer", errno);
    stream->broken = true;
}

int
ktls_change_keys(struct stream *stream, bool sending)
{
    struct record *record = stream->record;
    struct traffic_keys *keys = sending ? &record->state.send : &record->state.receive;
    int result = -1;

    keys->sequence = 0;
    if (sending)
        record->bytes_before = kernel_tls_bytes_sent(stream->fd);
    if (traffic_keys_derive(record->suite, keys) == 0 &&
        kernel_tls_set_keys(stream->fd, sending, record->suite, keys) == 0)
        result = traffic_keys_update(record->suite, keys); /* what would follow these */
    OPENSSL_cleanse(keys->key, sizeof(keys->key));
    OPENSSL_cleanse(keys->iv, sizeof(keys->iv));
    return result;
}

/* ---- what is owed ---- */

/* One record that is not application data. DONE, BLOCKED, or -1: write_failure is set. */
static int
send_control(struct stream *stream, uint8_t type, const void *content, size_t size, int flags)
{
    union {
        struct cmsghdr header;
        uint8_t bytes[CMSG_SPACE(sizeof(uint8_t))];
    } control;
    struct iovec part = {(void *)content, size};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    ssize_t n;

    memset(&control, 0, sizeof(control));
    control.header.cmsg_level = SOL_TLS;
    control.header.cmsg_type = TLS_SET_RECORD_TYPE;
    control.header.cmsg_len = CMSG_LEN(sizeof(uint8_t));
    *CMSG_DATA(&control.header) = type;
    do
        n = sendmsg(stream->fd, &message, MSG_NOSIGNAL | flags);
    while (n == -1 && errno == EINTR);
    if (n == (ssize_t)size)
        return DONE;
    if (n == -1 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return BLOCKED;
    if (n != -1)
        errno = EIO; /* half a control record: none of ours is so large */
    break_writing(stream);
    return -1;
}

static int
send_alert(struct stream *stream, uint8_t level, uint8_t alert, int flags)
{
    const uint8_t content[ALERT_SIZE] = {level, alert};

    return send_control(stream, RECORD_ALERT, content, sizeof(content), flags);
}

/* KeyUpdate under the old key, then the new one (RFC 8446 section 4.6.3). */
static int
send_key_update(struct stream *stream, int flags)
{
    struct record *record = stream->record;
    const uint8_t content[] = {KEY_UPDATE, 0, 0, 1, record->request_owed ? 1 : 0};
    int result = send_control(stream, RECORD_HANDSHAKE, content, sizeof(content), flags);

    if (result != DONE)
        return result;
    record->update_owed = record->request_owed = false;
    if (ktls_change_keys(stream, true) == 0)
        return DONE;
    stream_set_failure(&stream->write_failure, TLSAGENT_E_REKEY, no_rekey, 0);
    stream->broken = true; /* the peer would take whatever follows for forged */
    return -1;
}

int
ktls_send_owed(struct stream *stream, int flags)
{
    struct record *record = stream->record;
    int result = DONE;

    if (stream->broken)
        return -1;
    if (stream->closed && stream->owed_alert == STREAM_NO_ALERT)
        return DONE; /* our close_notify was the last word, whatever the peer asks for */
    if (record->update_owed)
        result = send_key_update(stream, flags);
    if (result == DONE && record->refusal_owed) {
        result = send_alert(stream, LEVEL_NOTICE, RECORD_NO_RENEGOTIATION, flags);
        record->refusal_owed = result == BLOCKED;
    }
    if (result == DONE && stream->owed_alert != STREAM_NO_ALERT) {
        result = send_alert(stream,
                            stream->owed_alert == RECORD_CLOSE_NOTIFY ? LEVEL_NOTICE : LEVEL_FATAL,
                            (uint8_t)stream->owed_alert, flags);
        if (result != BLOCKED)
            stream->owed_alert = STREAM_NO_ALERT;
    }
    return result;
}

/* ---- data ---- */

/* AES-GCM bears so many full records under one key (RFC 8446 section 5.5), and the kernel would go
 * on for 2^64. Ours is a count of the writes that come through here; of sendfile(), splice() and
 * other processes it is TCP's count of bytes that tells. (The kernel has a record number, but gives
 * it with the keys only, which are not to come here.) bytes: that are to follow. */
static int
count_records(struct stream *stream, size_t bytes, struct error *error)
{
    struct record *record = stream->record;
    struct traffic_keys *keys = &record->state.send;

    if (record->suite->aead == TRAFFIC_CHACHA20_POLY1305)
        return 0;
    if (bytes == 0 || bytes > TRAFFIC_PLAINTEXT_MAX || record->uncounted++ == 0) {
        uint64_t sent = kernel_tls_bytes_sent(stream->fd);
        uint64_t records =
            sent > record->bytes_before ? (sent - record->bytes_before) / TRAFFIC_PLAINTEXT_MAX : 0;

        if (keys->sequence < records)
            keys->sequence = records;
    }
    record->uncounted %= COUNT_EVERY;
    if (keys->sequence >= RECORD_GCM_SOFT && record->rekeys)
        record->update_owed = true;
    else if (keys->sequence >= RECORD_GCM_HARD)
        return stream_refuse(stream, TLSAGENT_E_REKEY,
                             "the key has protected as many records as it may, and this kernel "
                             "cannot change it",
                             error);
    keys->sequence += (bytes + TRAFFIC_PLAINTEXT_MAX - 1) / TRAFFIC_PLAINTEXT_MAX;
    return 0;
}

/* The parts from byte `done` on, as many as fit in window. Returns their number. */
static size_t
take_window(const struct iovec *parts, int count, size_t done, struct iovec window[PARTS_MAX])
{
    size_t taken = 0;

    for (int i = 0; i < count && taken < PARTS_MAX; i++) {
        if (done >= parts[i].iov_len) {
            done -= parts[i].iov_len;
            continue;
        }
        window[taken].iov_base = (uint8_t *)parts[i].iov_base + done;
        window[taken++].iov_len = parts[i].iov_len - done;
        done = 0;
    }
    return taken;
}

/* What a call of write returns when it is over. */
static ssize_t
end_write(struct stream *stream, int result, size_t done, struct error *error)
{
    if (done > 0)
        return (ssize_t)done; /* a failure stays, and is told by the next call */
    if (result == -1)
        return stream_report(stream, &stream->write_failure, error);
    return STREAM_WANT_POLLOUT;
}

ssize_t
ktls_writev(struct stream *stream, const struct iovec *parts, int count, size_t total,
            struct error *error)
{
    struct iovec window[PARTS_MAX];
    struct msghdr message = {.msg_iov = window};
    size_t done = 0;
    int result;

    if (count_records(stream, total, error) == -1)
        return -1;
    result = ktls_send_owed(stream, 0);
    stream->record->idle = 0;
    while (result == DONE && done < total) {
        ssize_t n;

        message.msg_iovlen = take_window(parts, count, done, window);
        n = sendmsg(stream->fd, &message, MSG_NOSIGNAL);
        if (n >= 0) {
            done += (size_t)n;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            result = BLOCKED;
        } else if (errno != EINTR) {
            break_writing(stream);
            result = -1;
        }
    }
    return end_write(stream, result, done, error);
}

/* sendfile() has no MSG_NOSIGNAL: as it, without the signal. */
static ssize_t
sendfile_quietly(int fd, int file, off_t *offset, size_t size)
{
    sigset_t pipe_signal, before, pending;
    ssize_t n;
    int saved;

    sigemptyset(&pipe_signal);
    sigaddset(&pipe_signal, SIGPIPE);
    if (sigpending(&pending) == 0 && sigismember(&pending, SIGPIPE) == 1)
        return sendfile(fd, file, offset, size); /* it is blocked: one more is no more */
    pthread_sigmask(SIG_BLOCK, &pipe_signal, &before);
    n = sendfile(fd, file, offset, size);
    saved = errno;
    if (n == -1 && saved == EPIPE)
        (void)sigtimedwait(&pipe_signal, NULL, &(struct timespec){0});
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = saved;
    return n;
}

/* sendfile() failed with errno: because of the file, and nothing has happened to the connection? */
static bool
is_files_fault(int file, off_t offset)
{
    uint8_t byte;

    return errno == EINVAL || pread(file, &byte, 1, offset) == -1;
}

ssize_t
ktls_sendfile(struct stream *stream, int file, off_t *offset, size_t size, struct error *error)
{
    size_t done = 0;
    int result;

    if (size > KTLS_SIZE_LIMIT)
        size = KTLS_SIZE_LIMIT;
    if (count_records(stream, size, error) == -1)
        return -1;
    result = ktls_send_owed(stream, 0);
    stream->record->idle = 0;
    while (result == DONE && done < size) {
        ssize_t n = sendfile_quietly(stream->fd, file, offset, size - done);

        if (n > 0) {
            done += (size_t)n;
        } else if (n == 0) {
            return (ssize_t)done; /* the file's end */
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            result = BLOCKED;
        } else if (errno != EINTR && is_files_fault(file, *offset)) {
            return done > 0
                       ? (ssize_t)done
                       : stream_refuse(stream, TLSAGENT_E_SYSTEM, "cannot read the file", error);
        } else if (errno != EINTR) {
            break_writing(stream);
            result = -1;
        }
    }
    return end_write(stream, result, done, error);
}

static int
flush(struct stream *stream, struct error *error)
{
    int result = ktls_send_owed(stream, 0);

    if (result == BLOCKED)
        return STREAM_WANT_POLLOUT;
    if (stream->write_failure.text != NULL)
        return stream_report(stream, &stream->write_failure, error);
    return 0;
}

int
ktls_flush(struct stream *stream, struct error *error)
{
    if (!stream->closed && stream->write_failure.text == NULL &&
        count_records(stream, 0, error) == -1)
        return -1;
    return flush(stream, error);
}

int
ktls_update_keys(struct stream *stream, bool request, struct error *error)
{
    struct record *record = stream->record;

    if (!record->rekeys)
        return stream_refuse(stream, TLSAGENT_E_REKEY, no_rekey, error);
    record->update_owed = true;
    record->request_owed |= request;
    return flush(stream, error);
}

int
ktls_shutdown_send(struct stream *stream, struct error *error)
{
    if (!stream->closed && stream->write_failure.text == NULL) {
        stream->owed_alert = RECORD_CLOSE_NOTIFY;
        stream->closed = true;
    }
    return flush(stream, error);
}
