/*
 * loop.h: epoll and deadlines for one role.
 *
 * A watch is one fd with one callback; a timer is one deadline with one callback. Both are
 * members of the caller's structures (no allocation per event). A callback may remove any
 * watch, also its own and those with an event pending in the same round: such events are
 * dropped. Memory that holds a watch must not be freed before the round is over: give it to
 * loop_free_later().
 *
 * Watches are removed explicitly, never by close(): the open files are shared with other
 * processes, and epoll forgets a file only when its last descriptor anywhere is closed.
 */
#ifndef AGENT_LOOP_H
#define AGENT_LOOP_H

#include <stdbool.h>
#include <stdint.h>

struct loop;

struct loop_watch {
    void (*ready)(struct loop_watch *watch, uint32_t events); /* EPOLLIN, ... */
    int fd;                                                   /* does not own */
    uint32_t events;                                          /* 0: not watched now */
};

struct loop_timer {
    void (*expired)(struct loop_timer *timer);
    struct loop_timer *previous; /* NULL: not running */
    struct loop_timer *next;
    uint64_t when; /* milliseconds of the monotonic clock */
};

struct loop *loop_new(void); /* dies if the system refuses */

/* The monotonic clock in milliseconds, read once per round. */
uint64_t loop_now(const struct loop *loop);

void loop_watch_init(struct loop_watch *watch, int fd,
                     void (*ready)(struct loop_watch *watch, uint32_t events));

/* Watch for exactly these events from now on (level-triggered; EPOLLEXCLUSIVE is allowed, and then
 * the set cannot be changed, only removed); 0 removes. Returns 0, or -1 with errno. */
int loop_watch_set(struct loop *loop, struct loop_watch *watch, uint32_t events);

void loop_timer_init(struct loop_timer *timer, void (*expired)(struct loop_timer *timer));
void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t milliseconds_from_now);
void loop_timer_stop(struct loop *loop, struct loop_timer *timer);

/* Timers are late by up to an eighth of a second. One alarm of a loop is not: call back at `when`
 * (loop_now()), once. NULL: no alarm. */
void loop_alarm_set(struct loop *loop, uint64_t when, void (*expired)(void *data), void *data);

/* Call back at the end of each round, in the order in which this was called. */
void loop_at_end_of_round(struct loop *loop, void (*call)(void *data), void *data);

/* free() the pointer when the round is over, after those calls. */
void loop_free_later(struct loop *loop, void *pointer);

void loop_run(struct loop *loop) __attribute__((noreturn));

/* One round: wait for events, call back. Dies if epoll fails. */
void loop_round(struct loop *loop);

#endif
