/* cells.c: see cells.h. */
#include "agent/cells.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/cell_control.h"
#include "agent/hang_up.h"
#include "agent/log.h"
#include "agent/roles.h"
#include "agent/spawn.h"
#include "agent/watchdog.h"

#define STOP_MS 500

static void start_cell(struct cell *cell);

const char *
cells_process_name(const struct cell_process *process, char *text, size_t size)
{
    snprintf(text, size, "%s %u.%u", spawn_role_name(process->role), process->cell->group,
             process->cell->number);
    return text;
}

/* "was killed by signal 31 (Bad system call)" */
static const char *
ending(int status, char *text, size_t size)
{
    if (WIFSIGNALED(status))
        snprintf(text, size, "was killed by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else
        snprintf(text, size, "ended with status %d", WEXITSTATUS(status));
    return text;
}

static void
add_counters(struct control_context_counters *sum, const struct control_context_counters *more)
{
    sum->started += more->started;
    sum->full += more->full;
    sum->resumed += more->resumed;
    sum->expired += more->expired;
    for (size_t i = 0; i < CONTROL_FAILURES; i++)
        sum->failed[i] += more->failed[i];
    for (size_t i = 0; i < CONTROL_NOT_RESUMED; i++)
        sum->not_resumed[i] += more->not_resumed[i];
}

void
cells_sum_counters(const struct cells *cells, unsigned context,
                   struct control_context_counters *sum)
{
    *sum = cells->dead[context];
    for (unsigned i = 0; i < cells->count; i++)
        add_counters(sum, &cells->list[i].counters[context]);
    sum->context = (uint16_t)context;
}

/* ---- the end of a cell ---- */

/* Close the channel and kill, without waiting: a process in an uninterruptible close() may never
 * die, and its replacement must not wait for it. SIGCHLD tells when it did. */
static void
end_process(struct cell_process *process)
{
    if (process->watch.fd != -1) {
        loop_watch_set(process->cell->cells->loop, &process->watch, 0);
        hang_up(&process->watch.fd, 1);
        process->watch.fd = -1;
    }
    if (process->pid > 0)
        kill(process->pid, SIGKILL);
    process->pid = 0;
}

/* What we had of a handshaker that has ended. */
static void
forget_handshaker(struct cell *cell)
{
    struct cells *cells = cell->cells;

    for (size_t i = 0; i < cells->config->context_count; i++)
        add_counters(&cells->dead[i], &cell->counters[i]);
    memset(cell->counters, 0, cells->config->context_count * sizeof(*cell->counters));
    serving_unmap(cell->serving);
    cell->serving = NULL;
    if (cell->serving_fd != -1)
        close(cell->serving_fd);
    cell->serving_fd = -1;
    free(cell->served);
    cell->served = NULL;
    cell->served_count = 0;
}

/* How long to wait before the cell is started again. */
static uint64_t
backoff(struct cell *cell, uint64_t now)
{
    uint64_t wait = CELLS_BACKOFF_MIN_MS;

    if (cell->up_since != 0 && now - cell->up_since >= CELLS_STABLE_MS)
        cell->fast_deaths = 0;
    cell->fast_deaths++;
    if (cell->fast_deaths == 1)
        return 0;
    for (unsigned i = 2; i < cell->fast_deaths && wait < CELLS_BACKOFF_MAX_MS; i++)
        wait *= 2;
    return wait < CELLS_BACKOFF_MAX_MS ? wait : CELLS_BACKOFF_MAX_MS;
}

void
cells_fail(struct cell *cell, const char *format, ...)
{
    struct cells *cells = cell->cells;
    char why[ERROR_TEXT_MAX];
    uint64_t wait;
    va_list args;

    va_start(args, format);
    vsnprintf(why, sizeof(why), format, args);
    va_end(args);
    end_process(&cell->keeper);
    end_process(&cell->handshaker);
    forget_handshaker(cell);
    wait = backoff(cell, loop_now(cells->loop));
    cell->state = CELL_DOWN;
    cell->up_since = 0;
    cell->restarts++;
    loop_timer_stop(cells->loop, &cell->timer);
    cells->hooks.down(cell, why, cells->hooks.data);
    if (wait == 0) {
        log_error("%s; the cell is replaced", why);
        start_cell(cell);
    } else {
        log_error("%s; the cell is replaced in %u ms", why, (unsigned)wait);
        loop_timer_set(cells->loop, &cell->timer, wait);
    }
}

/* The status of a process that is ending, which is a moment away at most. */
static bool
reap_soon(struct cell_process *process, int *status)
{
    for (int i = 0; i < 10 && process->pid > 0; i++) {
        if (waitpid(process->pid, status, WNOHANG) == process->pid)
            return true;
        poll(NULL, 0, 2);
    }
    return false;
}

/* The process has ended. One that ended in peace did so because the other one was gone: then that
 * one's end is the reason. */
static void
fail_ended(struct cell_process *process, int status)
{
    struct cell *cell = process->cell;
    struct cell_process *other = process == &cell->keeper ? &cell->handshaker : &cell->keeper;
    bool peaceful = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    pid_t pid = process->pid;
    char name[32], how[80];
    int other_status;

    process->pid = 0;
    if (peaceful && other->pid > 0 && reap_soon(other, &other_status)) {
        process = other;
        status = other_status;
        pid = other->pid;
        other->pid = 0;
    }
    cells_fail(cell, "%s (pid %d) %s", cells_process_name(process, name, sizeof(name)), (int)pid,
               ending(status, how, sizeof(how)));
}

void
cells_fail_closed(struct cell_process *process)
{
    char name[32];
    int status;

    if (reap_soon(process, &status))
        fail_ended(process, status);
    else
        cells_fail(process->cell, "%s (pid %d) closed its channel",
                   cells_process_name(process, name, sizeof(name)), (int)process->pid);
}

/* The running process with this pid, NULL if it is none of ours. */
static struct cell_process *
find_process(struct cells *cells, pid_t pid)
{
    for (unsigned i = 0; i < cells->count; i++) {
        if (cells->list[i].keeper.pid == pid)
            return &cells->list[i].keeper;
        if (cells->list[i].handshaker.pid == pid)
            return &cells->list[i].handshaker;
    }
    return NULL;
}

void
cells_reaped(struct cells *cells, pid_t pid, int status)
{
    struct cell_process *process = find_process(cells, pid);

    if (process != NULL) /* NULL: one that we killed */
        fail_ended(process, status);
}

/* ---- the start of a cell ---- */

static int
start_process(struct cell_process *process, int control, int child_control, int peer,
              struct error *error)
{
    struct cell *cell = process->cell;
    const struct config *config = cell->cells->config;
    struct role_args args = {.log_level = config->log_level,
                             .log_syslog = config->log == CONFIG_LOG_SYSLOG,
                             .uid = config->uid,
                             .gid = config->gid,
                             .require = config->sandbox_require,
                             .cpu = cell->cpu,
                             .cell = cell->number,
                             .kernel = cell->cells->kernel};

    process->hello = process->ready = false;
    process->layers = 0;
    process->handed = 0;
    process->misses_tickets = false;
    process->ping = process->ponged = 0;
    process->unanswered_since = 0;
    memset(&process->pong, 0, sizeof(process->pong));
    process->started = loop_now(cell->cells->loop);
    cells_process_name(process, args.name, sizeof(args.name));
    loop_watch_init(&process->watch, control, cell_control_ready);
    process->pid = spawn_role(process->role, &args, child_control, peer, error);
    if (process->pid == -1) {
        process->pid = 0;
        return -1;
    }
    if (loop_watch_set(cell->cells->loop, &process->watch, EPOLLIN) == -1)
        return error_set(error, "epoll: %s", strerror(errno));
    return 0;
}

/* All the edges of a cell: one channel from each of its processes to the supervisor, one between
 * the two. Over the former come the generation's part, listening sockets and workers' channels. */
static void
start_cell(struct cell *cell)
{
    int keeper_control[2] = {-1, -1}, handshaker_control[2] = {-1, -1}, between[2] = {-1, -1};
    struct error error = {""};
    int result = -1;

    cell->state = CELL_STARTING;
    cell->serving_fd = serving_new(&cell->serving, &error);
    if (cell->serving_fd == -1)
        ; /* error says why */
    else if (channel_pair(keeper_control) == -1 || channel_pair(handshaker_control) == -1 ||
             channel_pair(between) == -1)
        error_set(&error, "socketpair: %s", strerror(errno));
    else if (start_process(&cell->keeper, keeper_control[0], keeper_control[1], between[0],
                           &error) == 0)
        result = start_process(&cell->handshaker, handshaker_control[0], handshaker_control[1],
                               between[1], &error);
    /* Our ends belong to the watches now, as far as we came; all the rest is closed. */
    if (cell->keeper.watch.fd == keeper_control[0])
        keeper_control[0] = -1;
    if (cell->handshaker.watch.fd == handshaker_control[0])
        handshaker_control[0] = -1;
    for (size_t i = 0; i < 2; i++) {
        int fds[] = {keeper_control[i], handshaker_control[i], between[i]};

        for (size_t j = 0; j < 3; j++) {
            if (fds[j] != -1)
                close(fds[j]);
        }
    }
    if (result == -1)
        cells_fail(cell, "cell %u.%u cannot be started: %s", cell->group, cell->number, error.text);
    else
        loop_timer_set(cell->cells->loop, &cell->timer, CELLS_START_MS);
}

static void
timer_expired(struct loop_timer *timer)
{
    struct cell *cell = (struct cell *)timer;

    if (cell->state == CELL_DOWN)
        start_cell(cell);
    else
        cells_fail(cell, "cell %u.%u was not ready after %d seconds (%s)", cell->group,
                   cell->number, CELLS_START_MS / 1000,
                   cell->keeper.ready ? "its handshaker is late" : "its keeper is late");
}

/* ---- all of them ---- */

static void *
allocate(size_t count, size_t size)
{
    void *memory = calloc(count > 0 ? count : 1, size);

    if (memory == NULL)
        log_die("out of memory");
    return memory;
}

static void
init_process(struct cell *cell, struct cell_process *process, enum control_role role)
{
    process->cell = cell;
    process->role = role;
    loop_watch_init(&process->watch, -1, cell_control_ready);
}

void
cells_init(struct cells *cells, struct loop *loop, const struct config *config,
           const struct load_result *generations, const struct listen_socket *listeners,
           size_t listener_count, const struct cells_hooks *hooks)
{
    memset(cells, 0, sizeof(*cells));
    cells->loop = loop;
    cells->config = config;
    cells->generations = generations;
    cells->listeners = listeners;
    cells->listener_count = listener_count;
    cells->hooks = *hooks;
    cells->session_cache = -1;
    cells->count = config->cells * config->cell_group_count;
    cells->list = allocate(cells->count, sizeof(*cells->list));
    cells->dead = allocate(config->context_count, sizeof(*cells->dead));
    cells->buffer = allocate(1, CHANNEL_BUFFER_SIZE);
    for (unsigned i = 0; i < cells->count; i++) {
        struct cell *cell = &cells->list[i];

        cell->cells = cells;
        cell->number = i;
        cell->group = i / config->cells;
        cell->cpu = spawn_cpu_of(i % config->cells);
        cell->state = CELL_DOWN;
        cell->serving_fd = -1;
        cell->counters = allocate(config->context_count, sizeof(*cell->counters));
        loop_timer_init(&cell->timer, timer_expired);
        init_process(cell, &cell->keeper, CONTROL_KEEPER);
        init_process(cell, &cell->handshaker, CONTROL_HANDSHAKER);
    }
    watchdog_init(cells);
}

void
cells_start(struct cells *cells)
{
    for (unsigned i = 0; i < cells->count; i++)
        start_cell(&cells->list[i]);
    watchdog_start(cells);
}

unsigned
cells_up(const struct cells *cells)
{
    unsigned up = 0;

    for (unsigned i = 0; i < cells->count; i++)
        up += cells->list[i].state == CELL_UP;
    return up;
}

/* Reap what has ended. True if children are left. */
static bool
reap_ended(struct cells *cells)
{
    pid_t pid;

    while ((pid = waitpid(-1, NULL, WNOHANG)) > 0) {
        struct cell_process *process = find_process(cells, pid);

        if (process != NULL)
            process->pid = 0;
    }
    return pid == 0;
}

void
cells_stop(struct cells *cells)
{
    bool left = true;

    for (unsigned i = 0; i < cells->count; i++) {
        struct cell_process *both[] = {&cells->list[i].handshaker, &cells->list[i].keeper};

        for (size_t j = 0; j < 2; j++) {
            if (both[j]->watch.fd == -1)
                continue;
            loop_watch_set(cells->loop, &both[j]->watch, 0);
            close(both[j]->watch.fd);
            both[j]->watch.fd = -1;
        }
    }
    for (int waited = 0; waited < STOP_MS && left; waited += 5) {
        left = reap_ended(cells);
        if (left)
            poll(NULL, 0, 5);
    }
    for (unsigned i = 0; i < cells->count && left; i++) {
        end_process(&cells->list[i].handshaker);
        end_process(&cells->list[i].keeper);
    }
}
