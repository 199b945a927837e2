/* watchdog.c: see watchdog.h. */
#include "agent/watchdog.h"

#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/cell_control.h"
#include "agent/hang_up.h"

static void
ping_process(struct cell_process *process)
{
    struct control_ping message;
    uint8_t body[8];
    size_t size;

    if (process->watch.fd == -1 || !process->ready)
        return;
    message.number = process->ping + 1;
    size = control_put_ping(&message, body, sizeof(body));
    if (process->unanswered_since == 0)
        process->unanswered_since = loop_now(process->cell->cells->loop);
    /* No room: it does not read, and the silence is being counted already. */
    if (channel_send(process->watch.fd, CONTROL_PING, body, size, NULL, 0) == CHANNEL_OK)
        process->ping++;
}

void
watchdog_ping(struct cells *cells)
{
    for (unsigned i = 0; i < cells->count; i++) {
        cell_control_hand_again(&cells->list[i].keeper);
        cell_control_hand_again(&cells->list[i].handshaker);
        ping_process(&cells->list[i].keeper);
        ping_process(&cells->list[i].handshaker);
    }
}

bool
watchdog_answered(const struct cells *cells)
{
    for (unsigned i = 0; i < cells->count; i++) {
        const struct cell *cell = &cells->list[i];

        if (cell->keeper.unanswered_since != 0 || cell->handshaker.unanswered_since != 0)
            return false;
    }
    return true;
}

/* Has it been silent for so long? */
static bool
is_silent(const struct cell_process *process, uint64_t now, uint64_t milliseconds)
{
    return process->watch.fd != -1 && process->unanswered_since != 0 &&
           now - process->unanswered_since >= milliseconds;
}

/* Does it wait in the kernel, or (somebody stopped it, or it gets no CPU) not even that? */
static bool
is_blocked(pid_t pid)
{
    char path[32], text[128];
    const char *state;
    ssize_t size = 0;
    int fd;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd != -1) {
        size = read(fd, text, sizeof(text) - 1);
        close(fd);
    }
    if (size <= 0)
        return true; /* nothing speaks for the worker */
    text[size] = '\0';
    state = strrchr(text, ')'); /* "pid (name) state ..." */
    return state == NULL || strncmp(state, ") D", 3) == 0 || strncmp(state, ") S", 3) == 0;
}

/* A handshaker is silent: whose descriptor is it waiting for? What it says is believed only of
 * users whose channels it got; and not if it waits for its keeper. */
static bool
find_culprit(const struct cell *cell, uint32_t *uid, uint32_t *pid)
{
    uint64_t mark;

    if (cell->serving == NULL || cell->keeper.unanswered_since != 0)
        return false;
    mark = atomic_load_explicit(&cell->serving->whom, memory_order_acquire);
    if (!serving_whom(mark, uid, pid) || !is_blocked(cell->handshaker.pid))
        return false;
    for (size_t i = 0; i < cell->served_count; i++) {
        if (cell->served[i] == *uid)
            return true;
    }
    return false;
}

/* Is it stalled? One that is blocked in what a worker gave it will not come back: that is known
 * sooner than whether a busy machine just gives it no CPU. */
static void
judge_cell(struct cell *cell, uint64_t now)
{
    struct cells *cells = cell->cells;
    struct cell_process *stalled = NULL;
    uint32_t uid, pid;
    bool found =
        is_silent(&cell->handshaker, now, CELLS_FROZEN_MS) && find_culprit(cell, &uid, &pid);
    char name[32];

    if (found || is_silent(&cell->handshaker, now, CELLS_SILENCE_MS))
        stalled = &cell->handshaker;
    else if (is_silent(&cell->keeper, now, CELLS_SILENCE_MS))
        stalled = &cell->keeper;
    if (stalled == NULL)
        return;
    cells_fail(cell, "%s (pid %d) has not answered for %u ms",
               cells_process_name(stalled, name, sizeof(name)), (int)stalled->pid,
               (unsigned)(now - stalled->unanswered_since));
    if (found)
        cells->hooks.frozen(uid, pid, cells->hooks.data);
}

static void
ping_expired(struct loop_timer *timer)
{
    struct cells *cells =
        (struct cells *)((char *)timer - offsetof(struct cells, ping_timer)); /* its member */
    uint64_t now = loop_now(cells->loop);
    /* We are late ourselves: the machine is starved, and silence says nothing about a cell. */
    bool starved = now - cells->pinged > 2 * CELLS_PING_MS;

    for (unsigned i = 0; i < cells->count && !starved; i++)
        judge_cell(&cells->list[i], now);
    watchdog_ping(cells);
    (void)hang_up_again();
    cells->pinged = now;
    loop_timer_set(cells->loop, &cells->ping_timer, CELLS_PING_MS);
}

void
watchdog_init(struct cells *cells)
{
    loop_timer_init(&cells->ping_timer, ping_expired);
}

void
watchdog_start(struct cells *cells)
{
    cells->pinged = loop_now(cells->loop);
    loop_timer_set(cells->loop, &cells->ping_timer, CELLS_PING_MS);
}
