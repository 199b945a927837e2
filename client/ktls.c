/* ktls.c: see ktls.h: how a stream whose keys the kernel has begins, and what it receives. */
#include "client/ktls.h"

#include <errno.h>
#include <linux/tls.h>
#include <string.h>
#include <sys/socket.h>

#include "client/ktls_parts.h"
#include "client/record_control.h"
#include "client/stream_parts.h"
#include "protocol/kernel_tls.h"

#define NO_TYPE 0 /* of a record: the kernel named none: the end */

static const char peer_rekey[] = "the peer changed its keys (KeyUpdate), which this kernel cannot "
                                 "follow (Linux 6.14 is needed): "
                                 "the records form can (hand_back, prefer_rekey)";

/* The end of both directions. alert: to be sent, or the one received; STREAM_NO_ALERT: none. */
static void
end_both(struct stream *stream, enum tlsagent_error_code code, const char *text, int alert)
{
    struct stream_failure failure = {text, 0, (int16_t)alert, (uint8_t)code};

    stream->unreported = true;
    if (stream->read_failure.text == NULL)
        stream->read_failure = failure;
    if (code != TLSAGENT_E_ALERT && alert != STREAM_NO_ALERT && !stream->closed &&
        !stream->broken) {
        stream->owed_alert = (int16_t)alert;
        stream->record->update_owed = stream->record->refusal_owed = false;
        (void)ktls_send_owed(stream, MSG_DONTWAIT);
    }
    if (stream->write_failure.text == NULL)
        stream->write_failure = failure;
}

/* One recvmsg(): bytes of one type only. Returns as recvmsg(); *whole: a record ends with them. */
static ssize_t
receive(struct stream *stream, void *buffer, size_t size, int flags, uint8_t *type, bool *whole)
{
    union {
        struct cmsghdr header;
        uint8_t bytes[CMSG_SPACE(sizeof(uint8_t))];
    } control;
    struct iovec part = {buffer, size};
    struct msghdr message;
    struct cmsghdr *header;
    ssize_t n;

    do {
        message = (struct msghdr){.msg_iov = &part,
                                  .msg_iovlen = 1,
                                  .msg_control = control.bytes,
                                  .msg_controllen = sizeof(control.bytes)};
        n = recvmsg(stream->fd, &message, flags);
    } while (n == -1 && errno == EINTR);
    *type = NO_TYPE;
    if (n == -1)
        return -1;
    header = CMSG_FIRSTHDR(&message);
    if (header != NULL && header->cmsg_level == SOL_TLS && header->cmsg_type == TLS_GET_RECORD_TYPE)
        *type = *CMSG_DATA(header);
    *whole = (message.msg_flags & MSG_EOR) != 0;
    return n;
}

/* A record that was refused is an error of the socket, too, that the next send would report instead
 * of sending: take it away, so that the alert can go. */
static void
clear_socket_error(const struct stream *stream)
{
    int error;
    socklen_t size = sizeof(error);

    (void)getsockopt(stream->fd, SOL_SOCKET, SO_ERROR, &error, &size);
}

/* recvmsg() failed with errno. Returns 0 if the caller has to wait, else -1: the failure is set. */
static int
fail_receive(struct stream *stream)
{
    switch (errno) {
    case EAGAIN:
#if EAGAIN != EWOULDBLOCK
    case EWOULDBLOCK:
#endif
        return 0;
    case EBADMSG:
        clear_socket_error(stream);
        end_both(stream, TLSAGENT_E_RECORD, "the peer sent a record that cannot be opened",
                 RECORD_BAD_RECORD_MAC);
        break;
    case EMSGSIZE:
        clear_socket_error(stream);
        end_both(stream, TLSAGENT_E_RECORD, "the peer sent a record that is too long",
                 RECORD_RECORD_OVERFLOW);
        break;
    case EINVAL:
        clear_socket_error(stream);
        end_both(stream, TLSAGENT_E_RECORD, "the peer sent something that is not a TLS record",
                 RECORD_PROTOCOL_VERSION);
        break;
    case EKEYEXPIRED: /* somebody else has read the KeyUpdate */
        end_both(stream, TLSAGENT_E_REKEY, peer_rekey, RECORD_INTERNAL_ERROR);
        break;
    default:
        stream_set_failure(&stream->read_failure, stream_code_of_errno(errno),
                           "cannot read from the peer", errno);
        if (stream->read_failure.code == TLSAGENT_E_CLOSED) {
            /* A reset. The kernel would seal what we write and only then find nobody to send to. */
            if (stream->write_failure.text == NULL)
                stream->write_failure = stream->read_failure;
            stream->broken = true;
        }
    }
    return -1;
}

/* The peer has begun to use its next key. */
static void
follow_key_update(struct stream *stream)
{
    if (!stream->record->rekeys) {
        stream->record->update_owed = false;
        end_both(stream, TLSAGENT_E_REKEY, peer_rekey, RECORD_INTERNAL_ERROR);
    } else if (ktls_change_keys(stream, false) == -1) {
        end_both(stream, TLSAGENT_E_REKEY, "the peer's new key could not be put into the kernel",
                 RECORD_INTERNAL_ERROR);
    }
}

/* A whole record that is not data, or is empty. */
static void
obey(struct stream *stream, uint8_t type, const uint8_t *content, size_t size)
{
    struct record *record = stream->record;
    uint32_t epoch = record->receive_epoch;
    struct record_failure failure;

    switch (record_receive_control(record, type, content, size, &failure)) {
    case RECORD_CLOSED:
        stream->ended = stream->unreported = true;
        break;
    case RECORD_FAILED:
        end_both(stream, failure.received ? TLSAGENT_E_ALERT : TLSAGENT_E_RECORD, failure.text,
                 failure.alert);
        break;
    default:
        if (record->receive_epoch != epoch)
            follow_key_update(stream);
    }
}

/* A control record has begun in the caller's buffer with n bytes: get all of it, and obey. */
static int
take_control(struct stream *stream, uint8_t type, const void *begin, size_t n, bool whole)
{
    uint8_t content[TRAFFIC_PLAINTEXT_MAX];
    uint8_t next = type;

    if (n > sizeof(content))
        n = sizeof(content);
    memcpy(content, begin, n);
    while (!whole && n < sizeof(content)) {
        ssize_t more =
            receive(stream, content + n, sizeof(content) - n, MSG_DONTWAIT, &next, &whole);

        if (more == -1 && fail_receive(stream) == -1)
            return -1;
        if (more <= 0 || next != type)
            break; /* cannot be: the rest of a record is there, and nothing else comes before it */
        n += (size_t)more;
    }
    obey(stream, type, content, n);
    return 0;
}

static ssize_t
end_read(struct stream *stream, struct error *error)
{
    stream->unreported = false;
    if (stream->ended)
        return 0;
    return stream_report(stream, &stream->read_failure, error);
}

ssize_t
ktls_read(struct stream *stream, void *buffer, size_t size, bool keep, struct error *error)
{
    uint8_t type;
    bool whole;

    if (size == 0)
        return 0;
    if (size > KTLS_SIZE_LIMIT)
        size = KTLS_SIZE_LIMIT;
    while (!stream->ended && stream->read_failure.text == NULL) {
        ssize_t n;

        if (stream->write_failure.text == NULL)
            (void)ktls_send_owed(stream, MSG_DONTWAIT); /* the peer may wait for it */
        n = receive(stream, buffer, size, keep ? MSG_PEEK : 0, &type, &whole);
        if (n > 0 && type == RECORD_APPLICATION_DATA) {
            stream->record->idle = 0;
            return n;
        }
        if (n == -1) {
            if (fail_receive(stream) == 0)
                return STREAM_WANT_POLLIN;
        } else if (type == NO_TYPE) {
            stream_set_failure(&stream->read_failure, TLSAGENT_E_TRUNCATED,
                               "the peer ended the connection without close_notify: its data may "
                               "be incomplete",
                               0);
        } else {
            if (keep) /* looked at only: now take it */
                n = receive(stream, buffer, size, MSG_DONTWAIT, &type, &whole);
            if (n >= 0 && take_control(stream, type, buffer, (size_t)n, whole) == 0)
                continue;
            if (n == -1 && fail_receive(stream) == 0)
                return STREAM_WANT_POLLIN; /* somebody else took it */
        }
    }
    if (stream->write_failure.text == NULL)
        (void)ktls_send_owed(stream, MSG_DONTWAIT);
    return end_read(stream, error);
}

/* ---- the beginning ---- */

int
ktls_start(struct stream *stream, int fd, const struct traffic_state *state, bool is_server,
           struct error *error)
{
    static const uint8_t none[TRAFFIC_SECRET_MAX];

    if (stream_start(stream, fd, state, is_server, NULL, 0, error) == -1)
        return -1;
    if (kernel_tls_check(fd, stream->record->suite) == -1) {
        int saved = errno;

        stream_clear(stream);
        stream->code = TLSAGENT_E_SYSTEM;
        return error_set(error, "the agent says that the kernel has the keys, but it has not: %s",
                         strerror(saved));
    }
    stream->record->in_kernel = true;
    stream->record->rekeys = stream->record->suite->version == TRAFFIC_TLS_1_3 &&
                             memcmp(state->send.secret, none, sizeof(none)) != 0 &&
                             memcmp(state->receive.secret, none, sizeof(none)) != 0;
    return 0;
}
