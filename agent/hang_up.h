/*
 * hang_up.h: the end of a channel whose messages the supervisor must not touch.
 *
 * Role: supervisor. Messages that nobody read may carry descriptors. Received and closed, or let go
 * with the queue, some kinds block for as long as somebody else likes, and the supervisor must
 * never wait.
 */
#ifndef AGENT_HANG_UP_H
#define AGENT_HANG_UP_H

#include <stdbool.h>
#include <stddef.h>

/* End the receiving side of fd, a SOCK_SEQPACKET socket. True if messages are left in its queue:
 * then hang_up() must close it, else close() may. */
bool hang_up_begin(int fd);

/* Close the fds. Nothing that is in their queues is read. If anything is, this costs one process,
 * for all of them. If there is none to be had now, they stay open until hang_up_again(). */
void hang_up(const int *fds, size_t count);

/* Try again what could not be closed. Returns how many fds are still kept. */
size_t hang_up_again(void);

#endif
