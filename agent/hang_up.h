/*
 * hang_up.h: the end of a channel whose messages the supervisor must not touch.
 *
 * Role: supervisor. Messages that nobody read may carry descriptors. Received and closed, or let go
 * with the queue, some kinds block for as long as somebody else likes, and the supervisor must
 * never wait.
 */
#ifndef AGENT_HANG_UP_H
#define AGENT_HANG_UP_H

/* Close fd, a SOCK_SEQPACKET socket. Nothing that is in its queue is read. */
void hang_up(int fd);

#endif
