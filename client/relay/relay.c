/*
 * relay.c: the relay's loop, its channel and its list of connections; see relay.h. What one
 * connection does is pump.c's.
 */
#include "client/relay/relay.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include <openssl/crypto.h>

#include "client/relay/pump.h"

#define EVENTS    256
#define TAKES     32 /* connections taken from the channel at one go */
#define TICK_MS   500
#define STALL_MS  60000
#define LINGER_MS 10000
#define TRIM_AT   64 /* connections: memory is given back when the last of so many is gone */

TAILQ_HEAD(pump_list, pump);

/* What is to be said and did not fit into the channel. */
struct note {
    TAILQ_ENTRY(note) link;
    struct relay_ended ended;
};

TAILQ_HEAD(note_list, note);

struct relay {
    struct pump_side channel;
    struct pump_scene scene;
    struct pump_list all;
    struct pump_list ready;
    struct pump_list timed;
    struct note_list notes;
    struct relay_counts counts;
    size_t connections_max;
    size_t connections_high; /* since memory was last given back */
    int64_t ticked;
    bool listens;   /* epoll watches the channel for connections */
    bool notes_due; /* ... and for room */
    uint8_t message[CHANNEL_BUFFER_SIZE];
};

static int64_t
now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Watch the channel for what is of use now. */
static void
watch_channel(struct relay *relay)
{
    bool listens = relay->counts.connections < relay->connections_max;
    bool notes_due = !TAILQ_EMPTY(&relay->notes);
    struct epoll_event event = {.data.ptr = &relay->channel};

    if (relay->channel.fd == -1 || (listens == relay->listens && notes_due == relay->notes_due))
        return;
    event.events = (listens ? EPOLLIN : 0U) | (notes_due ? EPOLLOUT : 0U);
    if (epoll_ctl(relay->scene.epoll, EPOLL_CTL_MOD, relay->channel.fd, &event) == 0) {
        relay->listens = listens;
        relay->notes_due = notes_due;
    }
}

static void
lose_channel(struct relay *relay)
{
    struct note *note;

    if (relay->channel.fd != -1)
        close(relay->channel.fd);
    relay->channel.fd = -1;
    while ((note = TAILQ_FIRST(&relay->notes)) != NULL) {
        TAILQ_REMOVE(&relay->notes, note, link);
        free(note);
    }
}

struct relay *
relay_new(int channel, size_t connections_max, struct error *error)
{
    struct epoll_event event = {.events = EPOLLIN};
    struct relay *relay = calloc(1, sizeof(*relay));

    if (relay == NULL) {
        if (channel != -1)
            close(channel);
        error_set(error, "out of memory");
        return NULL;
    }
    TAILQ_INIT(&relay->all);
    TAILQ_INIT(&relay->ready);
    TAILQ_INIT(&relay->timed);
    TAILQ_INIT(&relay->notes);
    relay->channel.fd = channel;
    relay->connections_max = connections_max;
    relay->listens = true;
    relay->scene.patience = (struct relay_patience){STALL_MS, LINGER_MS};
    relay->scene.buffer = malloc(PUMP_BUFFER);
    relay->scene.epoll = epoll_create1(EPOLL_CLOEXEC);
    event.data.ptr = &relay->channel;
    if (relay->scene.buffer == NULL || relay->scene.epoll == -1 ||
        (channel != -1 && epoll_ctl(relay->scene.epoll, EPOLL_CTL_ADD, channel, &event) == -1)) {
        error_set(error, "cannot make a relay: %s", strerror(errno));
        relay_free(relay);
        return NULL;
    }
    return relay;
}

void
relay_set_patience(struct relay *relay, const struct relay_patience *patience)
{
    relay->scene.patience = *patience;
}

void
relay_get_counts(const struct relay *relay, struct relay_counts *counts)
{
    *counts = relay->counts;
}

/* ---- connections ---- */

static void
make_ready(struct relay *relay, struct pump *pump)
{
    if (pump->is_ready)
        return;
    TAILQ_INSERT_TAIL(&relay->ready, pump, ready);
    pump->is_ready = true;
}

static void
keep_time(struct relay *relay, struct pump *pump)
{
    if (pump->is_timed == (pump->deadline != 0))
        return;
    pump->is_timed = !pump->is_timed;
    if (pump->is_timed)
        TAILQ_INSERT_TAIL(&relay->timed, pump, timed);
    else
        TAILQ_REMOVE(&relay->timed, pump, timed);
}

static int
watch_side(struct relay *relay, struct pump *pump, struct pump_side *side, int fd, uint32_t more)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET | more, .data.ptr = side};

    side->pump = pump;
    side->fd = fd;
    return epoll_ctl(relay->scene.epoll, EPOLL_CTL_ADD, fd, &event);
}

int
relay_take(struct relay *relay, const struct relay_take *take, int fd, int plain,
           struct error *error)
{
    struct pump *pump = calloc(1, sizeof(*pump));

    if (take->plain != RELAY_PAIR)
        pump_reset_at_close(plain, true);
    if (pump == NULL || stream_start(&pump->stream, fd, &take->state, take->is_server == 1,
                                     take->early, take->early_size, error) == -1) {
        free(pump);
        close(fd);
        close(plain);
        return error_set(error, "out of memory");
    }
    pump->stream.hurried = true; /* O_NONBLOCK is shared with whoever has the socket too */
    pump->id = take->id;
    pump->tell = take->tell == 1;
    pump->is_pair = take->plain == RELAY_PAIR;
    pump->keeps_byte = pump->is_pair;
    pump->seen = pump->is_pair ? 1 : 0;
    pump->how = RELAY_CLEAN;
    pump->in_window = pump->out_window = PUMP_WINDOW_MIN;
    pump->peer_in = pump->peer_out = pump->plain_in = pump->plain_out = true;
    if (watch_side(relay, pump, &pump->peer, fd, EPOLLOUT) == -1 ||
        watch_side(relay, pump, &pump->plain, plain, 0) == -1) {
        error_set(error, "epoll: %s", strerror(errno));
        pump->peer.fd = fd;
        pump->plain.fd = plain;
        pump_close(pump, relay->scene.epoll);
        free(pump);
        return -1;
    }
    TAILQ_INSERT_TAIL(&relay->all, pump, all);
    make_ready(relay, pump);
    relay->counts.taken++;
    relay->counts.connections++;
    if (relay->counts.connections > relay->connections_high)
        relay->connections_high = relay->counts.connections;
    return 0;
}

static enum channel_result
say_ended(struct relay *relay, const struct relay_ended *ended)
{
    uint8_t body[32];

    return channel_send(relay->channel.fd, RELAY_ENDED, body,
                        relay_put_ended(ended, body, sizeof(body)), NULL, 0);
}

static void
tell_end(struct relay *relay, const struct relay_ended *ended)
{
    struct note *note;

    if (relay->channel.fd == -1)
        return;
    if (TAILQ_EMPTY(&relay->notes) && say_ended(relay, ended) != CHANNEL_AGAIN)
        return;
    note = malloc(sizeof(*note));
    if (note == NULL) {
        lose_channel(relay); /* the worker must not count on what it is never told */
        return;
    }
    note->ended = *ended;
    TAILQ_INSERT_TAIL(&relay->notes, note, link);
}

static void
end_pump(struct relay *relay, struct pump *pump)
{
    struct relay_ended ended = {pump->id, (uint8_t)pump->how, pump->inward, pump->outward};

    pump_close(pump, relay->scene.epoll);
    pump->deadline = 0;
    keep_time(relay, pump);
    if (pump->is_ready)
        TAILQ_REMOVE(&relay->ready, pump, ready);
    TAILQ_REMOVE(&relay->all, pump, all);
    relay->counts.connections--;
    if (pump->tell)
        tell_end(relay, &ended);
    free(pump);
    /* What a rush of connections took is given back, not kept for the next one. */
    if (relay->counts.connections == 0 && relay->connections_high >= TRIM_AT) {
        relay->connections_high = 0;
        malloc_trim(0);
    }
}

void
relay_free(struct relay *relay)
{
    struct pump *pump;

    if (relay == NULL)
        return;
    lose_channel(relay);
    while ((pump = TAILQ_FIRST(&relay->all)) != NULL)
        end_pump(relay, pump);
    if (relay->scene.buffer != NULL)
        explicit_bzero(relay->scene.buffer, relay->scene.used);
    free(relay->scene.buffer);
    if (relay->scene.epoll != -1)
        close(relay->scene.epoll);
    free(relay);
}

/* ---- the channel ---- */

static void
receive_takes(struct relay *relay)
{
    struct channel_message message;
    struct relay_take take;
    enum channel_result result;

    for (int i = 0; i < TAKES && relay->counts.connections < relay->connections_max; i++) {
        result = channel_receive(relay->channel.fd, relay_rules, relay_rule_count, relay->message,
                                 sizeof(relay->message), &message, NULL);
        if (result == CHANNEL_AGAIN)
            break;
        /* No descriptors left: that connection is lost (both its sides see it cut). */
        if (result == CHANNEL_FAILED)
            continue;
        if (result != CHANNEL_OK || !relay_get_take(&take, message.body, message.size)) {
            channel_message_clear(&message);
            lose_channel(relay);
            break;
        }
        if (relay_take(relay, &take, channel_take_fd(&message, 0), channel_take_fd(&message, 1),
                       NULL) == -1 &&
            take.tell == 1) {
            struct relay_ended ended = {.id = take.id, .how = RELAY_FAILED};

            tell_end(relay, &ended);
        }
        OPENSSL_cleanse(relay->message, message.size + 2);
        OPENSSL_cleanse(&take, sizeof(take));
    }
}

static void
handle_channel(struct relay *relay, uint32_t events)
{
    struct note *note;

    if (events & EPOLLOUT) {
        while ((note = TAILQ_FIRST(&relay->notes)) != NULL &&
               say_ended(relay, &note->ended) != CHANNEL_AGAIN) {
            TAILQ_REMOVE(&relay->notes, note, link);
            free(note);
        }
    }
    if (events & EPOLLIN)
        receive_takes(relay);
    else if (events & (EPOLLHUP | EPOLLERR))
        lose_channel(relay);
}

/* ---- the loop ---- */

static void
note_event(struct relay *relay, struct pump_side *side, uint32_t events)
{
    struct pump *pump = side->pump;
    bool ends = (events & (EPOLLHUP | EPOLLERR)) != 0;

    if (side == &pump->peer) {
        pump->peer_in |= ends || (events & (EPOLLIN | EPOLLRDHUP)) != 0;
        pump->peer_out |= ends || (events & EPOLLOUT) != 0;
    } else {
        pump->plain_in |= ends || (events & (EPOLLIN | EPOLLRDHUP)) != 0;
        pump->plain_out |= ends || (events & EPOLLOUT) != 0;
        pump->plain_ended |= (events & (EPOLLRDHUP | EPOLLHUP)) != 0;
        pump->plain_gone |= (events & EPOLLHUP) != 0;
    }
    make_ready(relay, pump);
}

/* One turn for each that is ready now; who becomes ready meanwhile comes after the next look at
 * the events. */
static void
take_turns(struct relay *relay)
{
    struct pump *last = TAILQ_LAST(&relay->ready, pump_list), *pump;

    while ((pump = TAILQ_FIRST(&relay->ready)) != NULL) {
        bool is_last = pump == last;
        enum pump_turn result;

        TAILQ_REMOVE(&relay->ready, pump, ready);
        pump->is_ready = false;
        relay->counts.turns++;
        result = pump_turn(pump, &relay->scene);
        if (result == PUMP_OVER) {
            end_pump(relay, pump);
        } else {
            keep_time(relay, pump);
            if (result == PUMP_MORE)
                make_ready(relay, pump);
        }
        if (is_last)
            break;
    }
}

static void
tick(struct relay *relay)
{
    struct pump *pump, *next;

    relay->ticked = relay->scene.now;
    for (pump = TAILQ_FIRST(&relay->timed); pump != NULL; pump = next) {
        next = TAILQ_NEXT(pump, timed);
        if (pump->deadline > relay->scene.now)
            continue;
        pump_expire(pump);
        keep_time(relay, pump);
        make_ready(relay, pump);
    }
}

bool
relay_run(struct relay *relay, int timeout_ms)
{
    struct epoll_event events[EVENTS];
    int count;

    if (relay->channel.fd == -1 && TAILQ_EMPTY(&relay->all))
        return false;
    if (!TAILQ_EMPTY(&relay->ready))
        timeout_ms = 0;
    else if (!TAILQ_EMPTY(&relay->timed) && (timeout_ms < 0 || timeout_ms > TICK_MS))
        timeout_ms = TICK_MS;
    if (timeout_ms != 0) { /* plaintext does not lie here while we sleep */
        explicit_bzero(relay->scene.buffer, relay->scene.used);
        relay->scene.used = 0;
    }
    count = epoll_wait(relay->scene.epoll, events, EVENTS, timeout_ms);
    if (count > 0)
        relay->counts.wakeups++;
    relay->scene.now = now_ms();
    for (int i = 0; i < count; i++) {
        struct pump_side *side = events[i].data.ptr;

        if (side == &relay->channel)
            handle_channel(relay, events[i].events);
        else
            note_event(relay, side, events[i].events);
    }
    take_turns(relay);
    if (!TAILQ_EMPTY(&relay->timed) && relay->scene.now - relay->ticked >= TICK_MS)
        tick(relay);
    watch_channel(relay);
    return relay->channel.fd != -1 || !TAILQ_EMPTY(&relay->all);
}
