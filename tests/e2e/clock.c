/*
 * clock.c: an agent whose clock can be set, for tests of what happens when it jumps.
 *
 * Linked into tlsagentd it takes the place of time(2) for our code and for libssl: the seconds in
 * the file PROGRAM.clock are added, as they are at that moment. Each role maps the file when it
 * starts, before it has a sandbox.
 */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static const volatile long *ahead; /* seconds; shared with the test */

static void __attribute__((constructor)) map_clock(void)
{
    char path[PATH_MAX];
    ssize_t size = readlink("/proc/self/exe", path, sizeof(path) - sizeof(".clock"));
    void *place = MAP_FAILED;
    int fd = -1;

    if (size > 0) {
        snprintf(path + size, sizeof(path) - (size_t)size, ".clock");
        fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    if (fd != -1) {
        place = mmap(NULL, sizeof(*ahead), PROT_READ, MAP_SHARED, fd, 0);
        close(fd);
    }
    if (place == MAP_FAILED) {
        perror(path);
        abort();
    }
    ahead = place;
}

__attribute__((visibility("default"))) time_t /* for libssl */
time(time_t *result)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    now.tv_sec += *ahead;
    if (result != NULL)
        *result = now.tv_sec;
    return now.tv_sec;
}
