/*
 * no_transfer.c: the agent that accepts, does the handshake, and keeps the connection until its
 * peer ends it: what is missing is the message to a worker, the fd in it, and the worker.
 *
 * Linked with --wrap into a tlsagentd of its own under build/tests. The product has no such switch.
 */
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "agent/workers.h"

void __wrap_workers_deliver(struct pull *pull, struct handshake *handshake);

/* The peer's close_notify, or its end. */
static void
over(struct loop_watch *watch, uint32_t events)
{
    struct handshake *handshake =
        (struct handshake *)((char *)watch - offsetof(struct handshake, watch));
    char bytes[256];

    (void)events;
    (void)recv(watch->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    loop_watch_set(handshake->cell->loop, watch, 0);
    handshake_free(handshake);
}

void
__wrap_workers_deliver(struct pull *pull, struct handshake *handshake)
{
    (void)pull;
    loop_watch_init(&handshake->watch, handshake->fd, over);
    if (loop_watch_set(handshake->cell->loop, &handshake->watch, EPOLLIN) == -1)
        handshake_free(handshake);
}
