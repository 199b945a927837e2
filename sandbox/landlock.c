/*
 * landlock.c: no file, no TCP, no signal and no abstract socket beyond what is open already; see
 * policy.h.
 *
 * The system calls are made raw and the constants are our own: what a kernel knows is asked of
 * it, not of the headers that we were built with.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox/policy.h"

/* The same numbers on every architecture. */
#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_restrict_self  446
#endif

/* include/uapi/linux/landlock.h of Linux 6.12. A kernel takes a structure with more than it knows
 * only if what it does not know is zero. */
struct ruleset {
    uint64_t files;
    uint64_t network;
    uint64_t scoped;
};

#define ASK_VERSION 1

static const struct {
    long abi;          /* from this version of landlock on, */
    uint64_t files;    /* so many kinds of access are known, */
    uint64_t network;  /* TCP: bind, connect */
    uint64_t abstract; /* scopes */
    uint64_t signals;
} versions[] = {
    {6, 0xffff, 3, 1, 2}, {5, 0xffff, 3, 0, 0}, {4, 0x7fff, 3, 0, 0},
    {3, 0x7fff, 0, 0, 0}, {2, 0x3fff, 0, 0, 0}, {1, 0x1fff, 0, 0, 0},
};

/* Opening the root directory must fail now, and for landlock's reason: everybody may read it. */
static int
probe(struct error *error)
{
    int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd != -1) {
        close(fd);
        return error_set(error, "is not in force though the kernel accepted it");
    }
    return errno == EACCES ? 0 : error_set(error, "probe: %s", strerror(errno));
}

int
landlock_enter(unsigned denied, unsigned *in_force, struct error *error)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, ASK_VERSION);
    struct ruleset ruleset = {0};
    size_t version = 0;
    int fd;

    *in_force = 0;
    if (abi < 1)
        return error_set(error, "%s", strerror(errno));
    while (versions[version].abi > abi)
        version++;
    if ((denied & POLICY_LANDLOCK_FILES) != 0)
        ruleset.files = versions[version].files;
    if ((denied & POLICY_LANDLOCK_NETWORK) != 0)
        ruleset.network = versions[version].network;
    if ((denied & POLICY_LANDLOCK_ABSTRACT) != 0)
        ruleset.scoped |= versions[version].abstract;
    if ((denied & POLICY_LANDLOCK_SIGNALS) != 0)
        ruleset.scoped |= versions[version].signals;
    if ((ruleset.files | ruleset.network | ruleset.scoped) == 0)
        return error_set(error, "version %ld of landlock cannot deny this", abi);
    fd = (int)syscall(SYS_landlock_create_ruleset, &ruleset, sizeof(ruleset), 0);
    if (fd == -1)
        return error_set(error, "%s", strerror(errno));
    if (syscall(SYS_landlock_restrict_self, fd, 0) == -1) {
        error_set(error, "%s", strerror(errno));
        close(fd);
        return -1;
    }
    close(fd);
    if (ruleset.files != 0 && probe(error) == -1)
        return -1;
    *in_force = (ruleset.files != 0 ? POLICY_LANDLOCK_FILES : 0) |
                (ruleset.network != 0 ? POLICY_LANDLOCK_NETWORK : 0) |
                ((ruleset.scoped & 1) != 0 ? POLICY_LANDLOCK_ABSTRACT : 0) |
                ((ruleset.scoped & 2) != 0 ? POLICY_LANDLOCK_SIGNALS : 0);
    return 0;
}
