/* handover.c: see handover.h. */
#include "agent/handover.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent/log.h"

#define FIRST_FD   3 /* SD_LISTEN_FDS_START */
#define NOTIFY_MAX 256

struct handed {
    char name[HANDOVER_NAME_MAX];
    int fd;
};

static struct handed came[HANDOVER_MAX]; /* fd -1: taken */
static size_t came_count;
static struct handed put[HANDOVER_MAX]; /* does not own the fds */
static size_t put_count;

static long
number_of(const char *variable)
{
    const char *text = getenv(variable);
    char *end;
    long number;

    if (text == NULL)
        return -1;
    errno = 0;
    number = strtol(text, &end, 10);
    return errno == 0 && *end == '\0' && end != text ? number : -1;
}

void
handover_init(void)
{
    long count = number_of("LISTEN_PID") == getpid() ? number_of("LISTEN_FDS") : 0;
    const char *names = getenv("LISTEN_FDNAMES");

    if (count < 0 || count > HANDOVER_MAX)
        count = 0;
    for (long i = 0; i < count; i++) {
        struct handed *one = &came[came_count];
        size_t size = names != NULL ? strcspn(names, ":") : 0;
        int fd = FIRST_FD + (int)i;

        if (fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 && size > 0 && size < sizeof(one->name)) {
            memcpy(one->name, names, size);
            one->name[size] = '\0';
            one->fd = fd;
            came_count++;
        } else {
            close(fd);
        }
        if (names != NULL)
            names += size + (names[size] == ':');
    }
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    (void)syscall(SYS_close_range, (unsigned)(FIRST_FD + count), ~0U, 0);
}

int
handover_take(const char *name)
{
    for (size_t i = 0; i < came_count; i++) {
        int fd = came[i].fd;

        if (fd != -1 && strcmp(came[i].name, name) == 0) {
            came[i].fd = -1;
            return fd;
        }
    }
    return -1;
}

int
handover_take_listener(const struct sockaddr *address, socklen_t size)
{
    for (size_t i = 0; i < came_count; i++) {
        struct sockaddr_storage bound = {.ss_family = AF_UNSPEC};
        socklen_t bound_size = sizeof(bound), flag_size = sizeof(int);
        int fd = came[i].fd, listens = 0;

        if (fd != -1 && getsockname(fd, (struct sockaddr *)&bound, &bound_size) == 0 &&
            bound_size == size && memcmp(&bound, address, size) == 0 &&
            getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &flag_size) == 0 && listens) {
            came[i].fd = -1;
            return fd;
        }
    }
    return -1;
}

/* One datagram to the service manager, perhaps with an fd. */
static void
notify(const char *text, int fd)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct iovec bytes = {.iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text)};
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.room = {0}};
    struct msghdr message = {.msg_name = &address, .msg_iov = &bytes, .msg_iovlen = 1};
    int channel;

    if (path == NULL || strlen(path) >= sizeof(address.sun_path) || path[0] == '\0')
        return;
    memcpy(address.sun_path, path, strlen(path));
    if (path[0] == '@') /* an abstract name */
        address.sun_path[0] = '\0';
    message.msg_namelen = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    if (fd != -1) {
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.header), &fd, sizeof(int));
        message.msg_control = &control;
        message.msg_controllen = sizeof(control.room);
    }
    channel = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (channel == -1 || sendmsg(channel, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == -1)
        log_warning("the service manager at %s does not listen: %s", path, strerror(errno));
    if (channel != -1)
        close(channel);
}

void
handover_notify(const char *state)
{
    notify(state, -1);
}

static void
forget(const char *name)
{
    char text[NOTIFY_MAX];

    snprintf(text, sizeof(text), "FDSTOREREMOVE=1\nFDNAME=%.*s", HANDOVER_NAME_MAX - 1, name);
    notify(text, -1);
}

void
handover_close_rest(void)
{
    for (size_t i = 0; i < came_count; i++) {
        if (came[i].fd == -1)
            continue;
        close(came[i].fd);
        came[i].fd = -1;
        forget(came[i].name);
    }
}

static bool
keep(const char *name, int fd)
{
    size_t i = 0;

    while (i < put_count && strcmp(put[i].name, name) != 0)
        i++;
    if (i == HANDOVER_MAX)
        return false;
    if (i == put_count)
        put_count++;
    snprintf(put[i].name, sizeof(put[i].name), "%s", name);
    put[i].fd = fd;
    return true;
}

void
handover_put_listener(unsigned number, int fd)
{
    char name[HANDOVER_NAME_MAX];

    snprintf(name, sizeof(name), "listen.%u", number);
    (void)keep(name, fd);
}

void
handover_put(const char *name, int fd)
{
    char text[NOTIFY_MAX];

    if (!keep(name, fd))
        return;
    forget(name); /* of an earlier instance, or an earlier secret */
    snprintf(text, sizeof(text), "FDSTORE=1\nFDNAME=%.*s", HANDOVER_NAME_MAX - 1, name);
    notify(text, fd);
}

/* Put the fds where the convention wants them. Sources are moved out of the way first. */
static bool
place_fds(void)
{
    for (size_t i = 0; i < put_count; i++) {
        put[i].fd = fcntl(put[i].fd, F_DUPFD_CLOEXEC, FIRST_FD + (int)put_count);
        if (put[i].fd == -1)
            return false;
    }
    for (size_t i = 0; i < put_count; i++) {
        if (dup2(put[i].fd, FIRST_FD + (int)i) == -1)
            return false;
    }
    return syscall(SYS_close_range, (unsigned)(FIRST_FD + put_count), ~0U, 0) == 0;
}

int
handover_exec(const char *path, char *const argv[], struct error *error)
{
    static char names[HANDOVER_MAX * (HANDOVER_NAME_MAX + 1)];
    char number[16], count[16];
    size_t size = 0;

    for (size_t i = 0; i < put_count; i++)
        size += (size_t)snprintf(names + size, sizeof(names) - size, "%s%s", i > 0 ? ":" : "",
                                 put[i].name);
    snprintf(number, sizeof(number), "%d", (int)getpid());
    snprintf(count, sizeof(count), "%zu", put_count);
    if (!place_fds() || setenv("LISTEN_PID", number, 1) == -1 ||
        setenv("LISTEN_FDS", count, 1) == -1 || setenv("LISTEN_FDNAMES", names, 1) == -1)
        return error_set(error, "upgrade: %s", strerror(errno));
    execv(path, argv);
    return error_set(error, "upgrade: cannot start %s: %s", path, strerror(errno));
}
