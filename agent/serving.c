/* serving.c: see serving.h. */
#include "agent/serving.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* A pid is less than 2^22; bit 63 tells uid 0, pid 0 (of another pid namespace) from nobody. */
#define MARKED   (UINT64_C(1) << 63)
#define PID_MASK UINT32_C(0x7fffffff)

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "a dead handshaker must not hold a lock");

uint64_t
serving_mark(uint32_t uid, uint32_t pid)
{
    return MARKED | (uint64_t)(pid & PID_MASK) << 32 | uid;
}

bool
serving_whom(uint64_t mark, uint32_t *uid, uint32_t *pid)
{
    *uid = (uint32_t)mark;
    *pid = (uint32_t)(mark >> 32) & PID_MASK;
    return (mark & MARKED) != 0;
}

int
serving_new(const struct serving **page, struct error *error)
{
    int fd = memfd_create("tlsagent-serving", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    void *mapping = MAP_FAILED;

    /* Nobody can make our reading of it a SIGBUS. */
    if (fd != -1 && ftruncate(fd, sizeof(struct serving)) == 0 &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        mapping = mmap(NULL, sizeof(struct serving), PROT_READ, MAP_SHARED, fd, 0);
    if (mapping == MAP_FAILED) {
        error_set(error, "a page to share with a handshaker: %s", strerror(errno));
        if (fd != -1)
            close(fd);
        return -1;
    }
    *page = mapping;
    return fd;
}

struct serving *
serving_map(int fd, struct error *error)
{
    struct stat status;
    void *mapping = MAP_FAILED;

    if (fstat(fd, &status) == 0 && status.st_size == (off_t)sizeof(struct serving))
        mapping = mmap(NULL, sizeof(struct serving), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapping == MAP_FAILED)
        error_set(error, "mapping the page shared with the supervisor: %s", strerror(errno));
    close(fd);
    return mapping != MAP_FAILED ? mapping : NULL;
}

void
serving_unmap(const struct serving *page)
{
    if (page != NULL)
        munmap((void *)(uintptr_t)page, sizeof(*page));
}
