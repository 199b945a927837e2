/*
 * cell_control.c: see cell_control.h. A function that returns a bool says false after cells_fail():
 * then the structure is the next process' already.
 */
#include "agent/cell_control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "agent/roles.h"
#include "agent/log.h"
#include "agent/watchdog.h"

#define MESSAGES_PER_EVENT 64 /* then the other channels get their turn */

static bool
refuse(struct cell_process *process, const char *what)
{
    char name[32];

    cells_fail(process->cell, "%s %s", cells_process_name(process, name, sizeof(name)), what);
    return false;
}

/* ---- what a process starts with ---- */

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

static bool
wait_for(struct cell_process *process, uint32_t events)
{
    return loop_watch_set(process->cell->cells->loop, &process->watch, events) == 0 ||
           refuse(process, "cannot be watched");
}

static size_t
to_hand_over(const struct cell_process *process)
{
    return process->role == CONTROL_KEEPER ? 2 : 3 + process->cell->cells->listener_count;
}

/* Hand over what there is room for; the rest when the process has read, or (if too many descriptors
 * of our user are on their way, which is nobody's fault) when the watchdog comes round. One that
 * does not read is not ready in time. */
static bool
hand_more(struct cell_process *process)
{
    for (; process->handed < to_hand_over(process); process->handed++) {
        switch (hand_over(process, process->handed)) {
        case CHANNEL_OK:
            break;
        case CHANNEL_AGAIN:
            return wait_for(process, EPOLLIN | EPOLLOUT);
        case CHANNEL_CLOSED:
            return true; /* reading from it will say the same, and why */
        default:
            return errno == ETOOMANYREFS ? wait_for(process, EPOLLIN)
                                         : refuse(process, "does not take what it starts with");
        }
    }
    return wait_for(process, EPOLLIN);
}

static bool
pass_tickets(struct cell_process *keeper)
{
    const struct cell *cell = keeper->cell;
    enum channel_result sent = channel_send(keeper->watch.fd, CONTROL_TICKETS, NULL, 0,
                                            &cell->cells->generations[cell->group].tickets_fd, 1);

    keeper->misses_tickets = sent == CHANNEL_FAILED && errno == ETOOMANYREFS;
    return sent == CHANNEL_OK || keeper->misses_tickets ||
           refuse(keeper, "does not take its ticket keys");
}

void
cell_control_hand_again(struct cell_process *process)
{
    if (process->watch.fd == -1 || !process->hello)
        return;
    if (process->handed < to_hand_over(process))
        (void)hand_more(process);
    else if (process->misses_tickets)
        (void)pass_tickets(process);
}

/* ---- what a process says ---- */

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

void
cell_control_ready(struct loop_watch *watch, uint32_t events)
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
            cells_fail_closed(process);
            return;
        case CHANNEL_REFUSED:
        case CHANNEL_FAILED:
            cells_fail(process->cell, "%s broke the protocol: %s",
                       cells_process_name(process, name, sizeof(name)), error.text);
            return;
        }
    }
}

/* ---- what it is told later ---- */

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
cell_control_pass_worker(struct cell *cell, const struct control_worker *worker, int channel)
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
cell_control_dismiss(struct cells *cells, uint32_t uid)
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
cell_control_pass_tickets(struct cells *cells, unsigned group)
{
    for (unsigned i = 0; i < cells->count; i++) {
        struct cell *cell = &cells->list[i];

        /* One that waits for the old one gets the new one anyway. */
        if (cell->group == group && cell->keeper.watch.fd != -1 &&
            cell->keeper.handed == to_hand_over(&cell->keeper))
            (void)pass_tickets(&cell->keeper);
    }
}
