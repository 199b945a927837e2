/* channel.c: see channel.h. */
#include "protocol/channel.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

/* Room for more fds than any message may carry: surplus ones must arrive to be closed.
 * The kernel passes 253 at most (SCM_MAX_FD). */
#define CONTROL_FDS 253

int
channel_pair(int pair[2])
{
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair);
}

enum channel_result
channel_send(int channel, uint16_t type, const void *body, size_t size, const int *fds,
             size_t fd_count)
{
    uint8_t header[2] = {(uint8_t)(type >> 8), (uint8_t)type};
    struct iovec parts[2] = {{header, sizeof(header)}, {(void *)(uintptr_t)body, size}};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * CHANNEL_FDS_MAX)];
    } control;
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = size > 0 ? 2 : 1};

    if (size > CHANNEL_BODY_MAX || fd_count > CHANNEL_FDS_MAX)
        return CHANNEL_FAILED;
    if (fd_count > 0) {
        struct cmsghdr *rights;

        memset(&control, 0, sizeof(control));
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
        rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
        memcpy(CMSG_DATA(rights), fds, sizeof(int) * fd_count);
    }
    for (;;) {
        if (sendmsg(channel, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
            return CHANNEL_OK;
        switch (errno) {
        case EINTR:
            continue;
        case EAGAIN:
        case ENOBUFS:
            return CHANNEL_AGAIN;
        case EPIPE:
        case ECONNRESET:
        case ENOTCONN:
            return CHANNEL_CLOSED;
        default:
            return CHANNEL_FAILED;
        }
    }
}

/* Wait for events on the channel: 1 ready, 0 time is up, -1 error. */
static int
wait_for(int channel, short events, int timeout_ms)
{
    struct pollfd entry = {.fd = channel, .events = events};
    int ready;

    do
        ready = poll(&entry, 1, timeout_ms);
    while (ready == -1 && errno == EINTR);
    return ready;
}

enum channel_result
channel_send_wait(int channel, uint16_t type, const void *body, size_t size, const int *fds,
                  size_t fd_count, int timeout_ms)
{
    for (;;) {
        enum channel_result result = channel_send(channel, type, body, size, fds, fd_count);

        if (result != CHANNEL_AGAIN)
            return result;
        if (wait_for(channel, POLLOUT, timeout_ms) <= 0)
            return CHANNEL_AGAIN;
    }
}

void
channel_close_fd(int fd)
{
    struct linger off = {0};

    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof(off));
    close(fd);
}

void
channel_message_clear(struct channel_message *message)
{
    for (size_t i = 0; i < message->fd_count; i++) {
        if (message->fds[i] != -1)
            channel_close_fd(message->fds[i]);
        message->fds[i] = -1;
    }
    message->fd_count = 0;
}

int
channel_take_fd(struct channel_message *message, size_t index)
{
    int fd;

    if (index >= message->fd_count)
        return -1;
    fd = message->fds[index];
    message->fds[index] = -1;
    return fd;
}

/* Collect the fds of all control messages: the first ones into the message, surplus ones are
 * closed. Returns how many arrived in all. */
static size_t
collect_fds(struct msghdr *header, struct channel_message *message)
{
    size_t arrived = 0;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c != NULL; c = CMSG_NXTHDR(header, c)) {
        size_t count;

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++, arrived++) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
            if (arrived < CHANNEL_FDS_MAX)
                message->fds[message->fd_count++] = fd;
            else
                channel_close_fd(fd);
        }
    }
    return arrived;
}

/* Check a message against the receiver's table. */
static int
check_rules(const struct channel_rule *rules, size_t rule_count,
            const struct channel_message *message, size_t fds_arrived, struct error *error)
{
    for (size_t i = 0; i < rule_count; i++) {
        if (rules[i].type != message->type)
            continue;
        if (rules[i].fds == CHANNEL_FDS_ANY && fds_arrived > CHANNEL_FDS_MAX)
            return error_set(error, "message type %u carries %zu fds, may carry %d", message->type,
                             fds_arrived, CHANNEL_FDS_MAX);
        if (rules[i].fds != CHANNEL_FDS_ANY && fds_arrived != rules[i].fds)
            return error_set(error, "message type %u carries %zu fds, must carry %u", message->type,
                             fds_arrived, rules[i].fds);
        if (message->size < rules[i].minimum || message->size > rules[i].maximum)
            return error_set(error, "message type %u is %zu bytes long, must be %u to %u",
                             message->type, message->size, rules[i].minimum, rules[i].maximum);
        return 0;
    }
    return error_set(error, "message type %u is not allowed on this channel", message->type);
}

static enum channel_result
receive(int channel, int flags, const struct channel_rule *rules, size_t rule_count, void *buffer,
        size_t buffer_size, struct channel_message *message, struct error *error)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * CONTROL_FDS)];
    } control;
    struct iovec part = {buffer, buffer_size};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    const uint8_t *bytes = buffer;
    size_t fds_arrived;
    ssize_t size;

    memset(message, 0, sizeof(*message));
    header.msg_control = control.bytes;
    header.msg_controllen = sizeof(control.bytes);
    do
        size = recvmsg(channel, &header, flags | MSG_CMSG_CLOEXEC);
    while (size == -1 && errno == EINTR);
    if (size == -1) {
        if (errno == EAGAIN)
            return CHANNEL_AGAIN;
        if (errno == ECONNRESET || errno == ENOTCONN)
            return CHANNEL_CLOSED;
        error_set(error, "recvmsg: %s", strerror(errno));
        return CHANNEL_FAILED;
    }
    fds_arrived = collect_fds(&header, message);
    if (size == 0 && fds_arrived == 0 && (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0)
        return CHANNEL_CLOSED;
    if ((header.msg_flags & MSG_TRUNC) != 0)
        error_set(error, "message is longer than %zu bytes", buffer_size);
    else if ((header.msg_flags & MSG_CTRUNC) != 0)
        error_set(error, "fds were lost on arrival: too many, or no descriptors left");
    else if (size < 2)
        error_set(error, "message of %zd bytes has no type", size);
    else {
        message->type = (uint16_t)(bytes[0] << 8 | bytes[1]);
        message->body = bytes + 2;
        message->size = (size_t)size - 2;
        if (check_rules(rules, rule_count, message, fds_arrived, error) == 0)
            return CHANNEL_OK;
    }
    channel_message_clear(message);
    return (header.msg_flags & MSG_CTRUNC) != 0 ? CHANNEL_FAILED : CHANNEL_REFUSED;
}

enum channel_result
channel_receive(int channel, const struct channel_rule *rules, size_t rule_count, void *buffer,
                size_t buffer_size, struct channel_message *message, struct error *error)
{
    return receive(channel, MSG_DONTWAIT, rules, rule_count, buffer, buffer_size, message, error);
}

enum channel_result
channel_receive_bare(int channel, const struct channel_rule *rules, size_t rule_count, void *buffer,
                     size_t buffer_size, struct channel_message *message, struct error *error)
{
    struct msghdr head = {0}; /* no room: fds are reported as cut off, and stay where they are */
    ssize_t size;

    do
        size = recvmsg(channel, &head, MSG_PEEK | MSG_DONTWAIT);
    while (size == -1 && errno == EINTR);
    if (size != -1 && (head.msg_flags & MSG_CTRUNC) != 0) {
        memset(message, 0, sizeof(*message));
        error_set(error, "a message carries an fd, which no message may here");
        return CHANNEL_REFUSED;
    }
    return receive(channel, MSG_DONTWAIT, rules, rule_count, buffer, buffer_size, message, error);
}

int
channel_set_timeout(int channel, int timeout_ms)
{
    struct timeval time = {.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000};

    return setsockopt(channel, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time));
}

enum channel_result
channel_receive_timed(int channel, const struct channel_rule *rules, size_t rule_count,
                      void *buffer, size_t buffer_size, struct channel_message *message,
                      struct error *error)
{
    return receive(channel, 0, rules, rule_count, buffer, buffer_size, message, error);
}

enum channel_result
channel_receive_wait(int channel, const struct channel_rule *rules, size_t rule_count, void *buffer,
                     size_t buffer_size, struct channel_message *message, struct error *error,
                     int timeout_ms)
{
    enum channel_result result =
        channel_receive(channel, rules, rule_count, buffer, buffer_size, message, error);

    if (result != CHANNEL_AGAIN || wait_for(channel, POLLIN, timeout_ms) <= 0)
        return result;
    return channel_receive(channel, rules, rule_count, buffer, buffer_size, message, error);
}

void
channel_close(int channel)
{
    struct channel_message message;
    char byte = 0;

    /* Nothing more comes in; the queue can still be read. No rule allows anything: each message is
     * cut off, refused, and its fds closed. */
    (void)shutdown(channel, SHUT_RD);
    for (;;) {
        enum channel_result result =
            channel_receive(channel, NULL, 0, &byte, sizeof(byte), &message, NULL);

        if (result != CHANNEL_REFUSED)
            break;
    }
    close(channel);
}
