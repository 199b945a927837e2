/* hang_up.c: see hang_up.h. */
#include "agent/hang_up.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

bool
hang_up_begin(int fd)
{
    static const int on = 1;
    struct msghdr head = {0}; /* no room for anything: any message at all is reported as cut off */

    (void)shutdown(fd, SHUT_RD);
    (void)setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on));
    return recvmsg(fd, &head, MSG_PEEK | MSG_DONTWAIT) != -1 && (head.msg_flags & MSG_CTRUNC) != 0;
}

/* A descriptor that goes with the queue is not flushed as close() does it, so nothing waits for a
 * FUSE server; but the last reference to a socket with SO_LINGER waits for its peer. The kernel
 * does not linger for a process that exits. So if there is anything in a queue, a child has the
 * last reference to it. */
void
hang_up(const int *fds, size_t count)
{
    bool needed = false;
    int gate[2] = {-1, -1};

    for (size_t i = 0; i < count; i++)
        needed |= hang_up_begin(fds[i]);
    if (needed && pipe2(gate, O_CLOEXEC) == 0 && fork() == 0) {
        char byte;

        close(gate[1]);
        if (read(gate[0], &byte, 1) == -1) /* until the parent has closed its own references */
            _exit(1);
        _exit(0);
    }
    for (size_t i = 0; i < count; i++)
        close(fds[i]);
    if (gate[0] != -1) {
        close(gate[0]);
        close(gate[1]);
    }
}
