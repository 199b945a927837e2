/* outbox.c: see outbox.h. */
#include "agent/outbox.h"

#include <errno.h>
#include <linux/sockios.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "protocol/service.h"

/* Answers that a worker may leave unread beyond its socket's buffer, and their bytes. */
#define UNSENT_MAX       1024
#define UNSENT_BYTES_MAX (1 << 20)
/* Descriptors on the way to workers are counted by the kernel, all that processes of our uid have
 * sent and nobody has read; at its limit nobody gets any (ETOOMANYREFS). So what one uid leaves
 * unread is bounded. How many that is follows from the memory that its channels' queues take: so
 * much at least for each descriptor, as it comes with the facts of its connection. */
#define DESCRIPTOR_MEMORY 256

struct unsent {
    struct unsent *next;
    uint16_t type;
    int fd; /* owned; -1: none */
    size_t size;
    uint8_t body[];
};

void
outbox_init(struct outbox *outbox, int channel, struct user *user)
{
    memset(outbox, 0, sizeof(*outbox));
    outbox->channel = channel;
    outbox->user = user;
}

bool
outbox_put(struct outbox *outbox, uint16_t type, const uint8_t *body, size_t size, int fd)
{
    struct unsent *unsent = outbox->count < UNSENT_MAX && outbox->bytes + size <= UNSENT_BYTES_MAX
                                ? malloc(sizeof(*unsent) + size)
                                : NULL;

    if (unsent == NULL) {
        if (fd != -1)
            channel_close_fd(fd);
        return false;
    }
    unsent->next = NULL;
    unsent->type = type;
    unsent->fd = fd;
    unsent->size = size;
    memcpy(unsent->body, body, size);
    *(outbox->first != NULL ? &outbox->last->next : &outbox->first) = unsent;
    outbox->last = unsent;
    outbox->count++;
    outbox->bytes += size;
    if (fd != -1) {
        outbox->unread++;
        outbox->user->unread++;
    }
    return true;
}

bool
outbox_full(const struct outbox *outbox)
{
    return outbox->count >= SERVICE_BATCH_MAX;
}

static void
drop_first(struct outbox *outbox)
{
    struct unsent *unsent = outbox->first;

    outbox->first = unsent->next;
    outbox->count--;
    outbox->bytes -= unsent->size;
    if (unsent->fd != -1)
        channel_close_fd(unsent->fd);
    OPENSSL_cleanse(unsent->body, unsent->size); /* traffic keys */
    free(unsent);
}

/* Send the first one, with those behind it that fit into the same message. */
static enum channel_result
send_first(struct outbox *outbox, uint8_t *buffer, size_t *sent)
{
    struct service_batch batch = {.count = 0};
    const struct unsent *unsent = outbox->first;
    enum channel_result result;
    int fds[SERVICE_BATCH_MAX];
    size_t size = SERVICE_BATCH_HEAD;

    while (unsent != NULL && batch.count < SERVICE_BATCH_MAX &&
           (size += SERVICE_PART_HEAD + unsent->size) <= CHANNEL_BODY_MAX) {
        batch.parts[batch.count++] =
            (struct service_part){unsent->type, unsent->size, unsent->body};
        if (unsent->fd != -1)
            fds[batch.fd_count++] = unsent->fd;
        unsent = unsent->next;
    }
    if (batch.count < 2) {
        *sent = 1;
        unsent = outbox->first;
        return channel_send(outbox->channel, unsent->type, unsent->body, unsent->size, &unsent->fd,
                            unsent->fd != -1);
    }
    *sent = batch.count;
    size = service_put_batch(&batch, buffer, CHANNEL_BODY_MAX);
    result = channel_send(outbox->channel, SERVICE_BATCH, buffer, size, fds, batch.fd_count);
    OPENSSL_cleanse(buffer, size);
    return result;
}

enum channel_result
outbox_send(struct outbox *outbox, uint8_t *buffer)
{
    while (outbox->first != NULL) {
        size_t sent;
        enum channel_result result = send_first(outbox, buffer, &sent);

        if (result != CHANNEL_OK)
            return result;
        while (sent-- > 0)
            drop_first(outbox);
    }
    return CHANNEL_OK;
}

void
outbox_count_unread(struct outbox *outbox)
{
    int queued = 0;
    uint32_t most;

    if (ioctl(outbox->channel, SIOCOUTQ, &queued) == -1 || queued < 0)
        return;
    most = (uint32_t)queued / DESCRIPTOR_MEMORY;
    for (const struct unsent *unsent = outbox->first; unsent != NULL; unsent = unsent->next)
        most += unsent->fd != -1;
    if (most < outbox->unread) {
        outbox->user->unread -= outbox->unread - most;
        outbox->unread = most;
    }
}

void
outbox_clear(struct outbox *outbox)
{
    while (outbox->first != NULL)
        drop_first(outbox);
    outbox->user->unread -= outbox->unread;
    outbox->unread = 0;
}
