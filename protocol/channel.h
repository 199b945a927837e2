/*
 * channel.h: one SOCK_SEQPACKET Unix socket between two processes, with fds.
 *
 * A message is one packet: its type (16 bits, big-endian), then its body. Which types may
 * arrive on a channel, how long their bodies may be and how many fds they carry *exactly*
 * is a table (struct channel_rule) of the receiver. Whatever does not fit the table, or was
 * truncated, is refused whole, and every fd that came with it is closed.
 *
 * Ownership: an fd that arrived belongs to the message until channel_take_fd() moves it to
 * the caller; channel_message_clear() closes what was not taken. channel_send() never closes
 * the caller's fds.
 *
 * Sends and receives never block (MSG_DONTWAIT) and never raise SIGPIPE. The sender's
 * O_NONBLOCK is not trusted: the open file is shared with it.
 */
#ifndef PROTOCOL_CHANNEL_H
#define PROTOCOL_CHANNEL_H

#include <stddef.h>
#include <stdint.h>

#include "protocol/error.h"

#define CHANNEL_BODY_MAX 65536 /* bytes of a body */
#define CHANNEL_FDS_MAX  16    /* fds in one message */
#define CHANNEL_FDS_ANY  65535 /* in a rule: up to so many; what is in the body says how many */

struct channel_rule {
    uint16_t type;
    uint16_t fds;     /* exactly this many, or CHANNEL_FDS_ANY */
    uint32_t minimum; /* bytes of the body */
    uint32_t maximum;
};

struct channel_message {
    uint16_t type;
    uint16_t fd_count;
    int fds[CHANNEL_FDS_MAX]; /* -1 once taken */
    size_t size;              /* of the body */
    const uint8_t *body;      /* inside the buffer given to channel_receive() */
};

enum channel_result {
    CHANNEL_OK,
    CHANNEL_AGAIN,   /* nothing there, or no room: poll and call again */
    CHANNEL_CLOSED,  /* the other side is gone */
    CHANNEL_REFUSED, /* the other side broke the rules: close the channel */
    CHANNEL_FAILED,  /* the system failed us (for instance no fds left); when sending, errno is why
                      */
};

/* A connected pair, close-on-exec. Returns 0, or -1 with errno. */
int channel_pair(int pair[2]);

/* Send one message. fds are duplicated to the receiver; the caller keeps its own.
 * CHANNEL_AGAIN, CHANNEL_CLOSED and CHANNEL_FAILED: nothing was sent. */
enum channel_result channel_send(int channel, uint16_t type, const void *body, size_t size,
                                 const int *fds, size_t fd_count);

/* As channel_send(), but wait up to timeout_ms (-1: for ever) for room. For
 * the supervisor's and loader's start only, and for keyops: never towards a worker. */
enum channel_result channel_send_wait(int channel, uint16_t type, const void *body, size_t size,
                                      const int *fds, size_t fd_count, int timeout_ms);

/* Receive one message into buffer (at least CHANNEL_BODY_MAX + 3 bytes: a longer message is
 * truncated, noticed and refused). error says why for REFUSED and FAILED. On anything but
 * CHANNEL_OK the message is empty and holds no fd. */
enum channel_result channel_receive(int channel, const struct channel_rule *rules,
                                    size_t rule_count, void *buffer, size_t buffer_size,
                                    struct channel_message *message, struct error *error);

/* As channel_receive(), where no message carries an fd: one that does is refused without being
 * received, as the close() of some descriptors never returns. The channel is of no use then; who
 * closes it must know that the message is still in its queue. */
enum channel_result channel_receive_bare(int channel, const struct channel_rule *rules,
                                         size_t rule_count, void *buffer, size_t buffer_size,
                                         struct channel_message *message, struct error *error);

#define CHANNEL_BUFFER_SIZE (CHANNEL_BODY_MAX + 3)

/* As channel_receive(), but wait up to timeout_ms for a message: CHANNEL_AGAIN if none came. */
enum channel_result channel_receive_wait(int channel, const struct channel_rule *rules,
                                         size_t rule_count, void *buffer, size_t buffer_size,
                                         struct channel_message *message, struct error *error,
                                         int timeout_ms);

/* Have channel_receive_timed() wait up to timeout_ms. Returns 0, or -1 with errno. */
int channel_set_timeout(int channel, int timeout_ms);

/* As channel_receive_wait(), with the time of channel_set_timeout(), in one system call: for
 * keyops, where a message is nearly always awaited. */
enum channel_result channel_receive_timed(int channel, const struct channel_rule *rules,
                                          size_t rule_count, void *buffer, size_t buffer_size,
                                          struct channel_message *message, struct error *error);

/* Move fd number index out of the message: the caller owns it now. */
int channel_take_fd(struct channel_message *message, size_t index);

/* Close an fd that came from somebody else. The open file is still shared: with SO_LINGER set the
 * last close() of a socket would block for as long as the other side likes; so it is reset. */
void channel_close_fd(int fd);

/* Close a channel with what is still in its queue: the fds in there are closed as above. */
void channel_close(int channel);

/* Close every fd that was not taken. */
void channel_message_clear(struct channel_message *message);

#endif
