/*
 * namespace.c: a role's own namespaces, in which there is nothing; see policy.h.
 *
 * Sockets and files that are open already stay what they are: the handshaker accepts and talks on
 * sockets of the host's network while its own network has not even a loopback device that is up.
 * There is no pid namespace: it would move only children, of which a role has none.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox/policy.h"

#define NAMESPACES (CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)
/* Any directory that is sure to be there: the empty root is mounted on it and moved away. */
#define PLACE "/proc"

static int
write_file(const char *path, const char *text, struct error *error)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    ssize_t size = (ssize_t)strlen(text);

    if (fd == -1 || write(fd, text, (size_t)size) != size) {
        error_set(error, "%s: %s", path, strerror(errno));
        if (fd != -1)
            close(fd);
        return -1;
    }
    close(fd);
    return 0;
}

/* A user namespace with one user and one group in it: ourselves, unchanged. */
static int
map_ourselves(uid_t uid, gid_t gid, struct error *error)
{
    char map[64];

    if (write_file("/proc/self/setgroups", "deny", error) == -1)
        return -1;
    snprintf(map, sizeof(map), "%u %u 1\n", (unsigned)uid, (unsigned)uid);
    if (write_file("/proc/self/uid_map", map, error) == -1)
        return -1;
    snprintf(map, sizeof(map), "%u %u 1\n", (unsigned)gid, (unsigned)gid);
    return write_file("/proc/self/gid_map", map, error);
}

/* The namespaces, with the fewest means: ours to make, or in a user namespace. */
static int
unshare_all(struct error *error)
{
    uid_t uid = geteuid();
    gid_t gid = getegid();

    /* cgroup namespaces may be compiled out: the others are not held back for it. */
    if (unshare(NAMESPACES | CLONE_NEWCGROUP) == 0 || unshare(NAMESPACES) == 0)
        return 0;
    if (errno != EPERM || uid == 0)
        return error_set(error, "unshare: %s", strerror(errno));
    if (unshare(CLONE_NEWUSER | NAMESPACES | CLONE_NEWCGROUP) == -1 &&
        unshare(CLONE_NEWUSER | NAMESPACES) == -1)
        return error_set(error, "user namespace: %s", strerror(errno));
    return map_ourselves(uid, gid, error);
}

/* Nothing can be seen, made or changed in the root that we have now. */
static int
check_root(struct error *error)
{
    struct statvfs facts;
    struct stat entry;

    if (statvfs("/", &facts) == -1)
        return error_set(error, "empty root: %s", strerror(errno));
    if ((facts.f_flag & ST_RDONLY) == 0 || stat("/proc", &entry) == 0)
        return error_set(error, "the root is not empty and read-only");
    return 0;
}

int
namespace_enter(struct error *error)
{
    if (unshare_all(error) == -1)
        return -1;
    /* Nothing of what follows may be seen outside. */
    if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == -1)
        return error_set(error, "private mounts: %s", strerror(errno));
    if (mount("none", PLACE, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY,
              "mode=0555,size=4k,nr_inodes=2") == -1)
        return error_set(error, "empty root: mount: %s", strerror(errno));
    /* The old root ends up on top of the new one, and is taken away. */
    if (chdir(PLACE) == -1 || syscall(SYS_pivot_root, ".", ".") == -1 ||
        umount2(".", MNT_DETACH) == -1 || chdir("/") == -1)
        return error_set(error, "empty root: pivot_root: %s", strerror(errno));
    return check_root(error);
}
