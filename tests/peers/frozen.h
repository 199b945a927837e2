/*
 * frozen.h: a file whose close() never returns, not even to SIGKILL: a FUSE file system of one
 * file, whose server answers everything but FLUSH and READ. Memory that is mapped from it freezes
 * who touches it first. For hostile_worker, as root, in a mount namespace of its own. When the
 * server ends, the kernel lets everybody go.
 */
#ifndef TESTS_FROZEN_H
#define TESTS_FROZEN_H

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static void
frozen_answer(int fd, uint64_t unique, int error, const void *body, size_t size)
{
    struct fuse_out_header head = {
        .len = (uint32_t)(sizeof(head) + size), .error = error, .unique = unique};
    struct iovec parts[] = {{&head, sizeof(head)}, {(void *)(uintptr_t)body, size}};

    (void)!writev(fd, parts, size > 0 ? 2 : 1);
}

static void __attribute__((noreturn)) frozen_serve(int fd, int parent)
{
    static uint8_t request[1 << 17];
    struct fuse_attr attr = {.ino = 1, .mode = S_IFREG | 0666, .size = 4096, .nlink = 1};
    struct fuse_attr_out facts = {.attr = attr};
    struct fuse_open_out opened = {.fh = 1};
    struct fuse_init_out init = {
        .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION, .max_write = 65536};
    struct fuse_in_header head;

    for (;;) {
        struct pollfd fds[] = {{.fd = fd, .events = POLLIN}, {.fd = parent}};
        ssize_t size;

        if (poll(fds, 2, -1) == -1 || fds[1].revents != 0)
            _exit(0); /* the worker has gone */
        size = read(fd, request, sizeof(request));

        if (size == -1 && (errno == EINTR || errno == EAGAIN || errno == ENOENT))
            continue;
        if (size < (ssize_t)sizeof(head))
            _exit(0); /* unmounted */
        memcpy(&head, request, sizeof(head));
        if (head.opcode == FUSE_INIT)
            frozen_answer(fd, head.unique, 0, &init, sizeof(init));
        else if (head.opcode == FUSE_GETATTR)
            frozen_answer(fd, head.unique, 0, &facts, sizeof(facts));
        else if (head.opcode == FUSE_OPEN)
            frozen_answer(fd, head.unique, 0, &opened, sizeof(opened));
        else if (head.opcode != FUSE_FLUSH && head.opcode != FUSE_INTERRUPT &&
                 head.opcode != FUSE_FORGET && head.opcode != FUSE_RELEASE &&
                 head.opcode != FUSE_READ)
            frozen_answer(fd, head.unique, -ENOSYS, NULL, 0);
    }
}

/* Returns the open file, or -1 with errno: no FUSE here. Somebody has to kill *server at last: a
 * process that dies with the file open waits for it. */
static int
frozen_open(int *server)
{
    char path[] = "/tmp/tlsagent-frozen-XXXXXX", options[128];
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK), file = mkstemp(path), opened,
        ends[2];
    struct stat status;

    if (fd == -1 || file == -1 || pipe2(ends, O_CLOEXEC) == -1 || unshare(CLONE_NEWNS) == -1 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == -1)
        return -1;
    snprintf(options, sizeof(options), "fd=%d,rootmode=100000,user_id=0,group_id=0,allow_other",
             fd);
    if (mount("frozen", path, "fuse", MS_NOSUID | MS_NODEV, options) == -1) {
        unlink(path);
        return -1;
    }
    *server = fork();
    if (*server == 0) {
        close(ends[1]);
        frozen_serve(fd, ends[0]);
    }
    opened = open(path, O_RDWR | O_CLOEXEC);
    if (opened != -1)
        (void)fstat(opened, &status); /* now the kernel knows how long it is */
    umount2(path, MNT_DETACH);
    close(file);
    unlink(path);
    close(fd);
    close(ends[0]);
    return opened;
}

#endif
