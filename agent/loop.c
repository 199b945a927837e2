/*
 * loop.c: see loop.h.
 *
 * Timers live in a wheel of slots of 128 ms: setting and stopping is O(1), which is what
 * handshakes do (nearly all deadlines are stopped, not met). A deadline may fire one
 * slot late, never early.
 */
#include "agent/loop.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>

#include "agent/log.h"

#define ROUND_EVENTS 32 /* what is done at the end of a round must not wait for long */
#define ROUND_CALLS  2
#define WHEEL_SLOTS  512
#define SLOT_MS      128

struct loop {
    int epoll;
    uint64_t now;        /* ms */
    uint64_t wheel_done; /* slot number up to which timers have fired */
    size_t timers;       /* running */
    uint64_t alarm_when;
    void (*alarm)(void *data); /* NULL: none */
    void *alarm_data;
    struct {
        void (*call)(void *data);
        void *data;
    } round_over[ROUND_CALLS];
    size_t round_over_count;
    struct loop_timer wheel[WHEEL_SLOTS]; /* list heads */
    struct epoll_event events[ROUND_EVENTS];
    int event_count; /* of the round in progress */
    void **garbage;
    size_t garbage_count;
    size_t garbage_room;
};

static uint64_t
read_clock(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

struct loop *
loop_new(void)
{
    struct loop *loop = calloc(1, sizeof(*loop));

    if (loop == NULL)
        log_die("out of memory for the event loop");
    loop->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll == -1)
        log_die("epoll_create1: %s", strerror(errno));
    loop->now = read_clock();
    loop->wheel_done = loop->now / SLOT_MS;
    for (size_t i = 0; i < WHEEL_SLOTS; i++)
        loop->wheel[i].next = loop->wheel[i].previous = &loop->wheel[i];
    return loop;
}

uint64_t
loop_now(const struct loop *loop)
{
    return loop->now;
}

void
loop_watch_init(struct loop_watch *watch, int fd,
                void (*ready)(struct loop_watch *watch, uint32_t events))
{
    watch->ready = ready;
    watch->fd = fd;
    watch->events = 0;
}

/* Drop the events of this watch that the round in progress has not come to yet. */
static void
forget_pending(struct loop *loop, const struct loop_watch *watch)
{
    for (int i = 0; i < loop->event_count; i++) {
        if (loop->events[i].data.ptr == watch)
            loop->events[i].data.ptr = NULL;
    }
}

int
loop_watch_set(struct loop *loop, struct loop_watch *watch, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = watch};
    int operation = EPOLL_CTL_MOD;

    if (events == watch->events)
        return 0;
    if (watch->events == 0)
        operation = EPOLL_CTL_ADD;
    else if (events == 0)
        operation = EPOLL_CTL_DEL;
    if (epoll_ctl(loop->epoll, operation, watch->fd, &event) == -1)
        return -1;
    if (events == 0)
        forget_pending(loop, watch);
    watch->events = events;
    return 0;
}

void
loop_timer_init(struct loop_timer *timer, void (*expired)(struct loop_timer *timer))
{
    timer->expired = expired;
    timer->previous = timer->next = NULL;
    timer->when = 0;
}

void
loop_timer_stop(struct loop *loop, struct loop_timer *timer)
{
    if (timer->previous == NULL)
        return;
    loop->timers--;
    timer->previous->next = timer->next;
    timer->next->previous = timer->previous;
    timer->previous = timer->next = NULL;
}

static void
insert_timer(struct loop *loop, struct loop_timer *head, struct loop_timer *timer)
{
    loop->timers++;
    timer->previous = head->previous;
    timer->next = head;
    head->previous->next = timer;
    head->previous = timer;
}

void
loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t milliseconds_from_now)
{
    uint64_t slot;

    loop_timer_stop(loop, timer);
    timer->when = loop->now + milliseconds_from_now;
    slot = timer->when / SLOT_MS + 1; /* late by at most one slot, never early */
    if (slot <= loop->wheel_done)
        slot = loop->wheel_done + 1;
    insert_timer(loop, &loop->wheel[slot % WHEEL_SLOTS], timer);
}

/* Fire what is due in one slot. The slot's list is moved to a private head first: a callback may
 * stop any timer and set new ones. */
static void
fire_slot(struct loop *loop, uint64_t slot)
{
    struct loop_timer *head = &loop->wheel[slot % WHEEL_SLOTS];
    struct loop_timer due = {.previous = &due, .next = &due};

    while (head->next != head) {
        struct loop_timer *timer = head->next;

        loop_timer_stop(loop, timer);
        insert_timer(loop, &due, timer);
    }
    while (due.next != &due) {
        struct loop_timer *timer = due.next;

        loop_timer_stop(loop, timer);
        if (timer->when > loop->now)
            insert_timer(loop, head, timer); /* more than one turn of the wheel away */
        else
            timer->expired(timer);
    }
}

static void
fire_timers(struct loop *loop)
{
    uint64_t current = loop->now / SLOT_MS;

    if (current > loop->wheel_done + WHEEL_SLOTS)
        loop->wheel_done = current - WHEEL_SLOTS; /* we slept long: one full turn covers all */
    while (loop->wheel_done < current)
        fire_slot(loop, ++loop->wheel_done);
}

void
loop_alarm_set(struct loop *loop, uint64_t when, void (*expired)(void *data), void *data)
{
    loop->alarm_when = when;
    loop->alarm = expired;
    loop->alarm_data = data;
}

/* How long the next round may wait. */
static int
time_to_wait(const struct loop *loop)
{
    int timeout = loop->timers > 0 ? SLOT_MS : -1;
    uint64_t now;

    if (loop->alarm == NULL)
        return timeout;
    now = read_clock(); /* the callbacks have taken their time */
    if (now >= loop->alarm_when)
        return 0;
    if (timeout == -1 || loop->alarm_when - now < (uint64_t)timeout)
        timeout = loop->alarm_when - now < INT_MAX ? (int)(loop->alarm_when - now) : INT_MAX;
    return timeout;
}

static void
fire_alarm(struct loop *loop)
{
    void (*expired)(void *data) = loop->alarm;

    if (expired == NULL || loop->now < loop->alarm_when)
        return;
    loop->alarm = NULL;
    expired(loop->alarm_data);
}

void
loop_at_end_of_round(struct loop *loop, void (*call)(void *data), void *data)
{
    if (loop->round_over_count == ROUND_CALLS)
        log_bug("more calls at the end of a round than there is room for");
    loop->round_over[loop->round_over_count].call = call;
    loop->round_over[loop->round_over_count++].data = data;
}

void
loop_free_later(struct loop *loop, void *pointer)
{
    if (loop->garbage_count == loop->garbage_room) {
        size_t room = loop->garbage_room > 0 ? 2 * loop->garbage_room : 64;
        void **larger = realloc(loop->garbage, room * sizeof(*larger));

        if (larger == NULL)
            log_die("out of memory in the event loop");
        loop->garbage = larger;
        loop->garbage_room = room;
    }
    loop->garbage[loop->garbage_count++] = pointer;
}

void
loop_round(struct loop *loop)
{
    int count = epoll_wait(loop->epoll, loop->events, ROUND_EVENTS, time_to_wait(loop));

    if (count == -1) {
        if (errno != EINTR)
            log_die("epoll_wait: %s", strerror(errno));
        count = 0;
    }
    loop->now = read_clock();
    loop->event_count = count;
    for (int i = 0; i < count; i++) {
        struct loop_watch *watch = loop->events[i].data.ptr;

        if (watch != NULL)
            watch->ready(watch, loop->events[i].events);
    }
    loop->event_count = 0;
    fire_alarm(loop);
    fire_timers(loop);
    for (size_t i = 0; i < loop->round_over_count; i++)
        loop->round_over[i].call(loop->round_over[i].data);
    while (loop->garbage_count > 0)
        free(loop->garbage[--loop->garbage_count]);
}

void
loop_run(struct loop *loop)
{
    for (;;)
        loop_round(loop);
}
