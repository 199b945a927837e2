/* acceptor.c: see acceptor.h. */
#include "agent/acceptor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/handshake.h"
#include "agent/log.h"

#define ACCEPTS_PER_ROUND 16  /* then the other cells and our own handshakes have their turn */
#define PAUSE_MS          200 /* when there is no room for more handshakes, or no descriptor */

struct listener {
    struct loop_watch watch;
    struct loop_timer pause;
    struct cell *cell;
    size_t context;
    struct listener *next;
};

/* How many more connections may be accepted for the context now. */
static uint32_t
room(const struct cell *cell, size_t context)
{
    const struct cell_context *state = &cell->contexts[context];
    uint32_t wanted =
        (state->held ? 0 : state->credits) + identity_context(cell->identities, context)->backlog;
    uint32_t there = state->accepting + state->waiting_count;

    if (state->pulls == NULL || there >= wanted)
        return 0;
    return wanted - there;
}

static void
remove_waiting(struct cell_context *state, struct handshake *handshake)
{
    *(handshake->previous != NULL ? &handshake->previous->next : &state->waiting) = handshake->next;
    *(handshake->next != NULL ? &handshake->next->previous : &state->last_waiting) =
        handshake->previous;
    handshake->next = handshake->previous = NULL;
    state->waiting_count--;
}

static void
waiting_expired(struct loop_timer *timer)
{
    struct handshake *handshake =
        (struct handshake *)((char *)timer - offsetof(struct handshake, deadline));
    struct cell *cell = handshake->cell;
    size_t context = handshake->context;

    cell->contexts[context].counters.expired++;
    log_debug("context \"%s\": no worker took a finished connection within %u ms",
              identity_context(cell->identities, context)->name, handshake->deadline_ms);
    remove_waiting(&cell->contexts[context], handshake);
    handshake_free(handshake);
    acceptor_update(cell, context);
}

/* The next worker in turn that has credit and reads what it gets, or NULL; it goes to the end of
 * the turn order. */
static struct pull *
next_pull(struct cell_context *state)
{
    struct pull *before = NULL, *pull = state->pulls;

    state->held = false;
    while (pull != NULL && (pull->credits == 0 || !workers_may_deliver(pull))) {
        state->held |= pull->credits > 0;
        before = pull;
        pull = pull->next_of_context;
    }
    state->held &= pull == NULL;
    if (pull == NULL || pull == state->last_pull)
        return pull;
    *(before != NULL ? &before->next_of_context : &state->pulls) = pull->next_of_context;
    state->last_pull->next_of_context = pull;
    state->last_pull = pull;
    pull->next_of_context = NULL;
    return pull;
}

/* Deliver what waits to workers with credit, each in its turn. */
static void
deliver_waiting(struct cell *cell, size_t context)
{
    struct cell_context *state = &cell->contexts[context];
    struct pull *pull;

    while (state->waiting != NULL && (pull = next_pull(state)) != NULL) {
        struct handshake *handshake = state->waiting;

        remove_waiting(state, handshake);
        workers_deliver(pull, handshake);
    }
    if (state->held)
        workers_look_again(cell);
}

/* Accept only what somebody will take. */
static void
watch_listeners(struct cell *cell, size_t context)
{
    struct cell_context *state = &cell->contexts[context];
    bool accept_more = room(cell, context) > 0;

    for (struct listener *listener = state->listeners; listener != NULL;
         listener = listener->next) {
        if (accept_more && listener->pause.previous != NULL)
            continue;
        if (loop_watch_set(cell->loop, &listener->watch,
                           accept_more ? EPOLLIN | EPOLLEXCLUSIVE : 0) == -1)
            log_error("cannot watch a listening socket of context \"%s\": %s",
                      identity_context(cell->identities, context)->name, strerror(errno));
    }
}

void
acceptor_update(struct cell *cell, size_t context)
{
    cell->contexts[context].held = false;
    deliver_waiting(cell, context);
    watch_listeners(cell, context);
}

/* done() of a handshake on a connection that we accepted. */
static void
accepted_done(struct handshake *handshake)
{
    struct cell *cell = handshake->cell;
    size_t context = handshake->context;
    struct cell_context *state = &cell->contexts[context];

    state->accepting--;
    if (handshake->state == HANDSHAKE_FINISHED) {
        handshake->next = NULL;
        handshake->previous = state->last_waiting;
        *(state->waiting != NULL ? &state->last_waiting->next : &state->waiting) = handshake;
        state->last_waiting = handshake;
        state->waiting_count++;
        loop_timer_init(&handshake->deadline, waiting_expired);
        loop_timer_set(cell->loop, &handshake->deadline, handshake->deadline_ms);
    } else {
        handshake_free(handshake);
    }
    acceptor_update(cell, context);
}

/* No room in this cell for more: the other cells may have some. */
static void
pause_accepting(struct listener *listener)
{
    loop_watch_set(listener->cell->loop, &listener->watch, 0);
    loop_timer_set(listener->cell->loop, &listener->pause, PAUSE_MS);
}

static void
pause_over(struct loop_timer *timer)
{
    struct listener *listener =
        (struct listener *)((char *)timer - offsetof(struct listener, pause));

    acceptor_update(listener->cell, listener->context);
}

static void
listener_ready(struct loop_watch *watch, uint32_t events)
{
    struct listener *listener =
        (struct listener *)((char *)watch - offsetof(struct listener, watch));
    struct cell *cell = listener->cell;
    const struct generation_context *facts = identity_context(cell->identities, listener->context);

    (void)events;
    for (int i = 0; i < ACCEPTS_PER_ROUND && room(cell, listener->context) > 0; i++) {
        struct handshake *handshake;
        int fd;

        if (cell->in_flight >= cell->capacity) {
            pause_accepting(listener);
            return;
        }
        fd = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd == -1) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                log_error("accept for context \"%s\": %s: pausing", facts->name, strerror(errno));
                pause_accepting(listener);
            }
            if (errno == ECONNABORTED || errno == EINTR)
                continue;
            return;
        }
        cell->contexts[listener->context].accepting++;
        handshake = handshake_new(cell, listener->context, fd, facts->forms, facts->deadline_ms,
                                  accepted_done);
        if (handshake == NULL) {
            cell->contexts[listener->context].accepting--;
            return;
        }
        handshake_start(handshake);
    }
    acceptor_update(cell, listener->context);
}

void
acceptor_add_listener(struct cell *cell, size_t context, int fd)
{
    struct listener *listener = calloc(1, sizeof(*listener));

    if (listener == NULL)
        log_die("out of memory for a listening socket");
    listener->cell = cell;
    listener->context = context;
    loop_watch_init(&listener->watch, fd, listener_ready);
    loop_timer_init(&listener->pause, pause_over);
    listener->next = cell->contexts[context].listeners;
    cell->contexts[context].listeners = listener;
    acceptor_update(cell, context);
}

void
acceptor_add_pull(struct cell *cell, struct pull *pull)
{
    struct cell_context *state = &cell->contexts[pull->context];

    pull->next_of_context = NULL;
    *(state->pulls != NULL ? &state->last_pull->next_of_context : &state->pulls) = pull;
    state->last_pull = pull;
}

void
acceptor_remove_pull(struct cell *cell, struct pull *pull)
{
    struct cell_context *state = &cell->contexts[pull->context];
    struct pull **link = &state->pulls, *before = NULL;

    while (*link != pull) {
        before = *link;
        link = &before->next_of_context;
    }
    *link = pull->next_of_context;
    if (state->last_pull == pull)
        state->last_pull = before;
    state->credits -= pull->credits;
    /* Nothing can be delivered because of this; and delivering here would recurse. */
    watch_listeners(cell, pull->context);
}

uint32_t
acceptor_waiting(const struct cell *cell)
{
    uint32_t waiting = 0;

    for (size_t i = 0; i < identity_context_count(cell->identities); i++)
        waiting += cell->contexts[i].waiting_count;
    return waiting;
}
