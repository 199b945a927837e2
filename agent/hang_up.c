/* hang_up.c: see hang_up.h. */
#include "agent/hang_up.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* To be closed when there is a process for it. */
static struct {
    int *fds;
    size_t count, room;
} kept;

bool
hang_up_begin(int fd)
{
    static const int on = 1;
    struct msghdr head = {0}; /* no room for anything: any message at all is reported as cut off */

    (void)shutdown(fd, SHUT_RD);
    (void)setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on));
    return recvmsg(fd, &head, MSG_PEEK | MSG_DONTWAIT) != -1 && (head.msg_flags & MSG_CTRUNC) != 0;
}

/* Without memory it stays open for good: a descriptor is lost, the supervisor is not. */
static void
keep(int fd)
{
    if (kept.count == kept.room) {
        size_t room = kept.room > 0 ? 2 * kept.room : 64;
        int *larger = reallocarray(kept.fds, room, sizeof(*larger));

        if (larger == NULL)
            return;
        kept.fds = larger;
        kept.room = room;
    }
    kept.fds[kept.count++] = fd;
}

/* A descriptor that goes with the queue is not flushed as close() does it, so nothing waits for a
 * FUSE server; but the last reference to a socket with SO_LINGER waits for its peer. The kernel
 * does not linger for a process that exits. So a child has the last reference to what has anything
 * in its queue. */
size_t
hang_up_again(void)
{
    pid_t pid = -1;
    int gate[2];
    char byte;

    if (kept.count == 0 || pipe2(gate, O_CLOEXEC) == -1)
        return kept.count;
    pid = fork();
    if (pid == 0) {
        close(gate[1]);
        if (read(gate[0], &byte, 1) == -1) /* until the parent has closed its own references */
            _exit(1);
        _exit(0);
    }
    for (size_t i = 0; pid != -1 && i < kept.count; i++)
        close(kept.fds[i]);
    if (pid != -1)
        kept.count = 0;
    close(gate[0]);
    close(gate[1]);
    return kept.count;
}

void
hang_up(const int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (hang_up_begin(fds[i]))
            keep(fds[i]);
        else
            close(fds[i]);
    }
    (void)hang_up_again();
}
