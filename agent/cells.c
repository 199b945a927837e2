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

#include "agent/hang_up.h"
#include "agent/log.h"
#include "agent/roles.h"
#include "agent/spawn.h"
#include "agent/watchdog.h"

#define MESSAGES_PER_EVENT 64 /* then the other channels get their turn */
#define STOP_MS            500

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

/* The process closed its channel: it is ending. */
static void
fail_closed(struct cell_process *process)
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

/* ---- messages from a process; each returns false after cells_fail() ---- */

static bool
refuse(struct cell_process *process, const char *what)
{
    char name[32];

    cells_fail(process->cell, "%s %s", cells_process_name(process, name, sizeof(name)), what);
    return false;
}

static bool
pass_tickets(struct cell_process *keeper)
{
    const struct cell *cell = keeper->cell;

    return channel_send(keeper->watch.fd, CONTROL_TICKETS, NULL, 0,
                        &cell->cells->generations[cell->group].tickets_fd, 1) == CHANNEL_OK ||
           refuse(keeper, "does not take its ticket keys");
}

/* Send one of the things that a role gets once it has shown that it is of our build. */
static enum channel_result
hand_over(struct cell_process *process, size_t number)
{
    struct cell *cell = process->cell;
    struct cells *cells = cell->cells;
    const struct load_result *parts = &cells->generations[cell->group];
    struct control_generation message = {.generation = parts->generation};
    struct control_listener detail;
    uint8_t body[8];
    size_t size = control_put_generation(&message, body, sizeof(body));
    bool keeper = process->role == CONTROL_KEEPER;
    int channel = process->watch.fd;

    switch (number) {
    case 0:
        return channel_send(channel, keeper ? CONTROL_SECRET : CONTROL_PUBLIC, body, size,
                            keeper ? &parts->secret_fd : &parts->public_fd, 1);
    case 1:
        if (keeper)
            return channel_send(channel, CONTROL_TICKETS, NULL, 0, &parts->tickets_fd, 1);
        return channel_send(channel, CONTROL_SERVING, NULL, 0, &cell->serving_fd, 1);
    case 2:
        if (cells->session_cache == -1)
            return CHANNEL_OK;
        return channel_send(channel, CONTROL_SESSION_CACHE, NULL, 0, &cells->session_cache, 1);
    default:
        detail.context = (uint16_t)cells->listeners[number - 3].context;
        if (cells->config->contexts[detail.context].cell_group != cell->group)
            return CHANNEL_OK;
        size = control_put_listener(&detail, body, sizeof(body));
        return channel_send(channel, CONTROL_LISTENER, body, size, &cells->listeners[number - 3].fd,
                            1);
    }
}

/* Hand over what there is room for; the rest when the process has read. One that does not read is
 * not ready in time. */
static bool
hand_more(struct cell_process *process)
{
    size_t all = process->role == CONTROL_KEEPER ? 2 : 3 + process->cell->cells->listener_count;

    for (; process->handed < all; process->handed++) {
        switch (hand_over(process, process->handed)) {
        case CHANNEL_OK:
            break;
        case CHANNEL_AGAIN:
            return loop_watch_set(process->cell->cells->loop, &process->watch,
                                  EPOLLIN | EPOLLOUT) == 0 ||
                   refuse(process, "cannot be watched");
        case CHANNEL_CLOSED:
            return true; /* reading from it will say the same, and why */
        default:
            return refuse(process, "does not take what it starts with");
        }
    }
    return loop_watch_set(process->cell->cells->loop, &process->watch, EPOLLIN) == 0 ||
           refuse(process, "cannot be watched");
}

static bool
take_hello(struct cell_process *process, const struct channel_message *message)
{
    struct control_hello hello;

    if (process->hello || !control_get_hello(&hello, message->body, message->size) ||
        hello.role != process->role)
        return refuse(process, "sent a wrong HELLO");
    if (strcmp(hello.build, role_build_id) != 0)
        return refuse(process, "is of another build than the supervisor");
    process->hello = true;
    return hand_more(process);
}

static bool
take_ready(struct cell_process *process, const struct channel_message *message)
{
    struct cell *cell = process->cell;
    struct cells *cells = cell->cells;
    struct control_ready ready;

    if (!process->hello || process->ready ||
        !control_get_ready(&ready, message->body, message->size) ||
        ready.generation != cells->generations[cell->group].generation)
        return refuse(process, "sent a wrong READY");
    process->ready = true;
    process->layers = ready.layers;
    if (!cell->keeper.ready || !cell->handshaker.ready)
        return true;
    loop_timer_stop(cells->loop, &cell->timer);
    cell->state = CELL_UP;
    cell->up_since = loop_now(cells->loop);
    log_info("cell %u.%u is up: keeper %d, handshaker %d", cell->group, cell->number,
             (int)cell->keeper.pid, (int)cell->handshaker.pid);
    cells->hooks.up(cell, cells->hooks.data);
    return true;
}

static bool
take_pong(struct cell_process *process, const struct channel_message *message)
{
    struct cells *cells = process->cell->cells;
    struct control_pong pong;

    if (!process->ready || !control_get_pong(&pong, message->body, message->size) ||
        pong.number <= process->ponged || pong.number > process->ping)
        return refuse(process, "sent a PONG that nobody asked for");
    process->pong = pong;
    process->ponged = pong.number;
    process->unanswered_since = pong.number == process->ping ? 0 : loop_now(cells->loop);
    if (watchdog_answered(cells))
        cells->hooks.answered(cells->hooks.data);
    return true;
}

static bool
take_counters(struct cell_process *process, const struct channel_message *message)
{
    struct cell *cell = process->cell;
    const struct config *config = cell->cells->config;
    struct control_context_counters counters;

    if (!process->ready || process->role != CONTROL_HANDSHAKER ||
        !control_get_context_counters(&counters, message->body, message->size) ||
        counters.context >= config->context_count ||
        config->contexts[counters.context].cell_group != cell->group)
        return refuse(process, "sent counters of a context that is not its own");
    cell->counters[counters.context] = counters;
    return true;
}

/* The keeper has other ticket keys: its handshaker must ask for their names. */
static bool
take_tickets_taken(struct cell_process *process)
{
    struct cell *cell = process->cell;

    if (!process->ready || process->role != CONTROL_KEEPER)
        return refuse(process, "sent a word about ticket keys that nobody asked for");
    if (!cell->handshaker.hello) /* it has not asked yet */
        return true;
    return channel_send(cell->handshaker.watch.fd, CONTROL_NEW_TICKETS, NULL, 0, NULL, 0) ==
               CHANNEL_OK ||
           refuse(&cell->handshaker, "does not listen");
}

static bool
dispatch(struct cell_process *process, const struct channel_message *message)
{
    switch ((enum control_type)message->type) {
    case CONTROL_HELLO:
        return take_hello(process, message);
    case CONTROL_READY:
        return take_ready(process, message);
    case CONTROL_PONG:
        return take_pong(process, message);
    case CONTROL_CONTEXT_COUNTERS:
        return take_counters(process, message);
    case CONTROL_TICKETS_TAKEN:
        return take_tickets_taken(process);
    default:
        return refuse(process, "sent a message of an unknown type");
    }
}

static void
process_ready(struct loop_watch *watch, uint32_t events)
{
    struct cell_process *process = (struct cell_process *)watch;
    struct cells *cells = process->cell->cells;

    if ((events & EPOLLOUT) != 0 && !hand_more(process))
        return;
    for (int i = 0; i < MESSAGES_PER_EVENT; i++) {
        struct channel_message message;
        struct error error = {""};
        char name[32];

        switch (channel_receive_bare(watch->fd, control_supervisor_rules,
                                     control_supervisor_rule_count, cells->buffer,
                                     CHANNEL_BUFFER_SIZE, &message, &error)) {
        case CHANNEL_OK:
            if (!dispatch(process, &message))
                return; /* the structure belongs to the next process now */
            break;
        case CHANNEL_AGAIN:
            return;
        case CHANNEL_CLOSED:
            fail_closed(process);
            return;
        case CHANNEL_REFUSED:
        case CHANNEL_FAILED:
            cells_fail(process->cell, "%s broke the protocol: %s",
                       cells_process_name(process, name, sizeof(name)), error.text);
            return;
        }
    }
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
    process->ping = process->ponged = 0;
    process->unanswered_since = 0;
    memset(&process->pong, 0, sizeof(process->pong));
    process->started = loop_now(cell->cells->loop);
    cells_process_name(process, args.name, sizeof(args.name));
    loop_watch_init(&process->watch, control, process_ready);
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
    loop_watch_init(&process->watch, -1, process_ready);
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

/* Remember that the cell serves this user. */
static bool
note_served(struct cell *cell, uint32_t uid)
{
    uint32_t *larger;

    for (size_t i = 0; i < cell->served_count; i++) {
        if (cell->served[i] == uid)
            return true;
    }
    larger = reallocarray(cell->served, cell->served_count + 1, sizeof(*larger));
    if (larger == NULL)
        return false;
    cell->served = larger;
    cell->served[cell->served_count++] = uid;
    return true;
}

enum channel_result
cells_pass_worker(struct cell *cell, const struct control_worker *worker, int channel)
{
    uint8_t body[16 + 4 * CONTROL_GROUPS_MAX];
    size_t size = control_put_worker(worker, body, sizeof(body));

    if (cell->state != CELL_UP)
        return CHANNEL_CLOSED;
    if (!note_served(cell, worker->uid))
        return CHANNEL_FAILED;
    return channel_send(cell->handshaker.watch.fd, CONTROL_WORKER, body, size, &channel, 1);
}

void
cells_dismiss(struct cells *cells, uint32_t uid)
{
    struct control_dismiss message = {.uid = uid};
    uint8_t body[8];
    size_t size = control_put_dismiss(&message, body, sizeof(body));

    for (unsigned i = 0; i < cells->count; i++) {
        struct cell_process *handshaker = &cells->list[i].handshaker;

        if (cells->list[i].state == CELL_UP &&
            channel_send(handshaker->watch.fd, CONTROL_DISMISS, body, size, NULL, 0) != CHANNEL_OK)
            (void)refuse(handshaker, "does not listen");
    }
}

void
cells_pass_tickets(struct cells *cells, unsigned group)
{
    for (unsigned i = 0; i < cells->count; i++) {
        struct cell *cell = &cells->list[i];

        /* One that has not said hello yet gets the new one anyway. */
        if (cell->group == group && cell->keeper.watch.fd != -1 && cell->keeper.hello)
            (void)pass_tickets(&cell->keeper);
    }
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
