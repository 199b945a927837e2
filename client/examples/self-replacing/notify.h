/*
 * notify.h: what self-replacing-server needs of systemd: sd_notify(3) messages, the fd store, and
 * the descriptors that a start begins with (sd_listen_fds(3)). A few lines, so that no program has
 * to be linked with libsystemd for them. Each function does nothing, and says so, where systemd is
 * not.
 */
#ifndef EXAMPLES_SELF_REPLACING_NOTIFY_H
#define EXAMPLES_SELF_REPLACING_NOTIFY_H

#include <stdbool.h>

#define NOTIFY_NAME_MAX 256

/* Does somebody listen ($NOTIFY_SOCKET)? */
bool notify_wanted(void);

/* Send one message, for instance "READY=1". */
bool notify_say(const char *text);

/* Have an fd kept under a name. False: nobody listens, or errno. The store is asked not to look at
 * the fd (FDPOLL=0): it would drop a socket whose other end is closed, although things wait in it.
 */
bool notify_store(int fd, const char *name);

/* Wait until all that was said has been read: before the process ends, or it might be too late. */
void notify_barrier(void);

/* The next descriptor that was passed to this process at its start, and its name; -1: no more. */
int notify_next_fd(char name[NOTIFY_NAME_MAX]);

#endif
