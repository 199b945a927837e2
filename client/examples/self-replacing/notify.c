/* notify.c: see notify.h. */
#include "client/examples/self-replacing/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define FIRST_FD   3 /* SD_LISTEN_FDS_START */
#define BARRIER_MS 5000

bool
notify_wanted(void)
{
    const char *path = getenv("NOTIFY_SOCKET");

    return path != NULL && path[0] != '\0';
}

static bool
notify_send(const char *text, int fd)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct iovec part = {(void *)text, strlen(text)};
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct msghdr message = {.msg_name = &address, .msg_iov = &part, .msg_iovlen = 1};
    size_t size = path != NULL ? strlen(path) : 0;
    bool sent;
    int notify;

    if (size == 0 || size >= sizeof(address.sun_path)) {
        errno = ENOENT;
        return false;
    }
    memcpy(address.sun_path, path, size);
    if (path[0] == '@')
        address.sun_path[0] = '\0'; /* an abstract name */
    message.msg_namelen = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size);
    if (fd != -1) {
        struct cmsghdr *rights;

        message.msg_control = control;
        message.msg_controllen = sizeof(control);
        rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(rights), &fd, sizeof(int));
    }
    notify = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (notify == -1)
        return false;
    sent = sendmsg(notify, &message, MSG_NOSIGNAL) != -1;
    close(notify);
    return sent;
}

bool
notify_say(const char *text)
{
    return notify_send(text, -1);
}

bool
notify_store(int fd, const char *name)
{
    char text[NOTIFY_NAME_MAX + 64];

    snprintf(text, sizeof(text), "FDSTORE=1\nFDPOLL=0\nFDNAME=%s", name);
    return notify_send(text, fd);
}

void
notify_barrier(void)
{
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) == -1)
        return;
    if (notify_send("BARRIER=1", ends[1])) {
        close(ends[1]);
        poll(&(struct pollfd){.fd = ends[0]}, 1, BARRIER_MS); /* its end is closed: all is read */
    } else {
        close(ends[1]);
    }
    close(ends[0]);
}

/* A number in the environment, -1: none. */
static long
number_of(const char *variable)
{
    const char *text = getenv(variable);
    char *end;
    long number;

    if (text == NULL || text[0] == '\0')
        return -1;
    number = strtol(text, &end, 10);
    return *end == '\0' ? number : -1;
}

int
notify_next_fd(char name[NOTIFY_NAME_MAX])
{
    static int next;
    const char *names = getenv("LISTEN_FDNAMES");
    size_t size;

    if (number_of("LISTEN_PID") != (long)getpid() || next >= number_of("LISTEN_FDS")) {
        unsetenv("LISTEN_PID"); /* not for a process that we start */
        return -1;
    }
    for (int i = 0; names != NULL && i < next; i++) {
        names = strchr(names, ':');
        if (names != NULL)
            names++;
    }
    size = names != NULL ? strcspn(names, ":") : 0;
    if (size >= NOTIFY_NAME_MAX)
        size = 0;
    memcpy(name, names != NULL ? names : "", size);
    name[size] = '\0';
    return FIRST_FD + next++;
}
