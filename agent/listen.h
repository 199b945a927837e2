/*
 * listen.h: the listening sockets that the supervisor opens: the contexts' TCP ones (handed to
 * handshakers, never accepted on here; over an upgrade the old instance's, with the connections
 * that wait in them) and the agent's two Unix ones.
 */
#ifndef AGENT_LISTEN_H
#define AGENT_LISTEN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "agent/config.h"
#include "protocol/error.h"

struct listen_socket {
    int fd;
    unsigned context; /* index in the configuration */
};

/* Open every listening socket of every context: one open socket each, which all cells of the
 * context's group share (no SO_REUSEPORT: a dead cell's queue would be lost). On success *sockets
 * is an array of *count, the caller's. Returns 0, or -1 with an error and nothing open. */
int listen_open_contexts(const struct config *config, struct listen_socket **sockets, size_t *count,
                         struct error *error);

/* A listening SOCK_SEQPACKET Unix socket in the file system. */
struct listen_unix {
    int fd;
    const char *path; /* does not own */
    dev_t device;     /* of the file that we made: another one is not ours to remove */
    ino_t inode;
};

/* Make one with these permissions from the start. Its directory is created if it is missing (0755).
 * A stale file is replaced; a live agent there, or a file that is no socket, is an error. key: of
 * the configuration, for messages. */
int listen_open_unix(const char *path, const char *key, mode_t mode, struct listen_unix *made,
                     struct error *error);

/* Is the place free? As listen_open_unix() will look, but before any work was done: a live agent
 * there is told first. Removes a stale file. Returns 0, or -1 with an error. */
int listen_check_unix(const char *path, const char *key, struct error *error);

/* Accept one connection. When there are no descriptors left, *spare (an fd kept for this) is given
 * up for a moment: *exhausted says that the connection can only be told so and closed; not
 * accepting it would have it wake us for ever. Returns its fd, or -1 if it went away. */
int listen_accept(int listener, int *spare, bool *exhausted);

/* An fd for listen_accept() to give up; -1 with errno. */
int listen_open_spare(void);

void listen_remove_unix(struct listen_unix *made); /* closes, removes the file if it is ours */

#endif
