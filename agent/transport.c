/* transport.c: see transport.h. */
#include "agent/transport.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/log.h"

void
transport_init(struct transport *transport, int fd)
{
    memset(transport, 0, offsetof(struct transport, out));
    transport->fd = fd;
}

/* send() that never blocks. -1 with errno EAGAIN, or with closed set; or bytes. */
static ssize_t
send_some(struct transport *transport, const void *bytes, size_t size)
{
    ssize_t sent;

    do
        sent = send(transport->fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent == -1 && errno == EINTR);
    if (sent == -1 && errno == ENOBUFS)
        errno = EAGAIN;
    if (sent == -1 && errno != EAGAIN)
        transport->closed = true;
    return sent;
}

int
transport_flush(struct transport *transport)
{
    while (transport->out_start < transport->out_end) {
        ssize_t sent = send_some(transport, transport->out + transport->out_start,
                                 (size_t)(transport->out_end - transport->out_start));

        if (sent == -1)
            return -1;
        transport->out_start = (uint16_t)(transport->out_start + sent);
    }
    transport->out_start = transport->out_end = 0;
    return 0;
}

/* recv() that never blocks. -1 with retry set on the BIO, 0 at the end, or bytes. */
static ssize_t
receive(BIO *bio, struct transport *transport, void *dst, size_t size)
{
    ssize_t got;

    do
        got = recv(transport->fd, dst, size, MSG_DONTWAIT);
    while (got == -1 && errno == EINTR);
    if (got > 0) {
        transport->received += (uint64_t)got;
        return got;
    }
    if (got == -1 && errno == EAGAIN) {
        BIO_set_retry_read(bio);
        return -1;
    }
    transport->closed = true;
    return 0;
}

void
transport_set_exact(struct transport *transport)
{
    transport->exact = true;
}

/* Take out of the socket what was looked at and used. */
static bool
discard_used(struct transport *transport)
{
    while (transport->used < transport->start) {
        ssize_t got = recv(transport->fd, transport->buffer + transport->used,
                           (size_t)(transport->start - transport->used), MSG_DONTWAIT | MSG_TRUNC);

        if (got > 0) {
            transport->used = (uint16_t)(transport->used + got);
            transport->received += (uint64_t)got;
        } else if (got == 0 || errno != EINTR) {
            transport->closed = true;
            return false;
        }
    }
    return true;
}

bool
transport_settle(struct transport *transport)
{
    bool settled = !transport->exact || discard_used(transport);

    if (transport->exact)
        transport->used = transport->start = transport->end = 0;
    return settled;
}

/* Look at what is in the socket. As receive(). */
static ssize_t
look(BIO *bio, struct transport *transport)
{
    ssize_t got;

    if (!discard_used(transport))
        return 0;
    do
        got = recv(transport->fd, transport->buffer, TRANSPORT_BUFFER, MSG_DONTWAIT | MSG_PEEK);
    while (got == -1 && errno == EINTR);
    if (got == -1 && errno == EAGAIN)
        BIO_set_retry_read(bio);
    else if (got <= 0)
        transport->closed = true;
    return got == -1 && errno != EAGAIN ? 0 : got;
}

static int
transport_read(BIO *bio, char *dst, int size)
{
    struct transport *transport = BIO_get_data(bio);
    size_t wanted = (size_t)size, there;

    BIO_clear_retry_flags(bio);
    if (size <= 0)
        return 0;
    if (transport->start == transport->end) {
        ssize_t got;

        /* What the peer may be waiting for. If it was, its answer cannot be here yet. */
        if (transport->out_end > 0 && transport_flush(transport) == 0) {
            BIO_set_retry_read(bio);
            return -1;
        }
        if (wanted >= TRANSPORT_BUFFER)
            return discard_used(transport) ? (int)receive(bio, transport, dst, wanted) : 0;
        got = transport->exact ? look(bio, transport)
                               : receive(bio, transport, transport->buffer, TRANSPORT_BUFFER);
        if (got <= 0)
            return (int)got;
        transport->start = 0;
        transport->used = 0;
        transport->end = (uint16_t)got;
    }
    there = (size_t)(transport->end - transport->start);
    if (wanted > there)
        wanted = there;
    memcpy(dst, transport->buffer + transport->start, wanted);
    transport->start = (uint16_t)(transport->start + wanted);
    if (!transport->exact)
        transport->used = transport->start;
    return (int)wanted;
}

/* Follow the records that go by, to know the head of the last one's body. */
static void
follow_records(struct transport *transport, const uint8_t *bytes, size_t size)
{
    while (size > 0) {
        size_t step;

        if (transport->header_seen < sizeof(transport->header)) {
            transport->header[transport->header_seen++] = *bytes++;
            size--;
            if (transport->header_seen < sizeof(transport->header))
                continue;
            transport->body_left = (uint16_t)(transport->header[3] << 8 | transport->header[4]);
            transport->body_seen = 0;
            memset(transport->body_head, 0, sizeof(transport->body_head));
        }
        step = size < transport->body_left ? size : transport->body_left;
        for (size_t i = 0; i < step && transport->body_seen < sizeof(transport->body_head); i++)
            transport->body_head[transport->body_seen++] = bytes[i];
        bytes += step;
        size -= step;
        transport->body_left = (uint16_t)(transport->body_left - step);
        if (transport->body_left == 0)
            transport->header_seen = 0;
    }
}

bool
transport_append(struct transport *transport, const uint8_t *record, size_t size)
{
    if (size > (size_t)(TRANSPORT_BUFFER - transport->out_end) &&
        (transport_flush(transport) == -1 || size > TRANSPORT_BUFFER))
        return false;
    memcpy(transport->out + transport->out_end, record, size);
    transport->out_end = (uint16_t)(transport->out_end + size);
    transport->sent += size;
    return true;
}

static int
transport_write(BIO *bio, const char *src, int size)
{
    struct transport *transport = BIO_get_data(bio);
    ssize_t sent = size;

    BIO_clear_retry_flags(bio);
    if (size <= 0)
        return 0;
    if (size > TRANSPORT_BUFFER - transport->out_end) {
        sent = transport_flush(transport);
        if (sent == 0)
            sent = size <= TRANSPORT_BUFFER ? size : send_some(transport, src, (size_t)size);
    }
    if (sent == -1) {
        if (!transport->closed)
            BIO_set_retry_write(bio);
        return -1;
    }
    if (size <= TRANSPORT_BUFFER - transport->out_end) {
        memcpy(transport->out + transport->out_end, src, (size_t)sent);
        transport->out_end = (uint16_t)(transport->out_end + sent);
    }
    transport->sent += (uint64_t)sent;
    follow_records(transport, (const uint8_t *)src, (size_t)sent);
    return (int)sent;
}

static long
transport_control(BIO *bio, int command, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    /* Everything else, kernel TLS included, is not for us: it answers 0. */
    return command == BIO_CTRL_FLUSH ? 1 : 0;
}

BIO *
transport_bio(struct transport *transport)
{
    static BIO_METHOD *method; /* one per process; roles are single-threaded */
    BIO *bio;

    if (method == NULL) {
        method = BIO_meth_new(BIO_TYPE_SOURCE_SINK | BIO_get_new_index(), "tlsagent transport");
        if (method == NULL || BIO_meth_set_read(method, transport_read) != 1 ||
            BIO_meth_set_write(method, transport_write) != 1 ||
            BIO_meth_set_ctrl(method, transport_control) != 1)
            log_die("out of memory for the transport BIO");
    }
    bio = BIO_new(method);
    if (bio == NULL)
        return NULL;
    BIO_set_data(bio, transport);
    BIO_set_init(bio, 1);
    return bio;
}

const uint8_t *
transport_early(const struct transport *transport, size_t *size)
{
    *size = (size_t)(transport->end - transport->start);
    return transport->buffer + transport->start;
}

uint64_t
transport_last_nonce(const struct transport *transport)
{
    uint64_t nonce = 0;

    for (size_t i = 0; i < sizeof(transport->body_head); i++)
        nonce = nonce << 8 | transport->body_head[i];
    return nonce;
}
