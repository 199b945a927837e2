/*
 * pump.c: one connection of the relay; see pump.h.
 *
 * epoll is edge-triggered, so each side has flags "readable, writable as far as we know" that a
 * call which would block takes back. A turn does at most one read each way; who has more to do
 * comes again when the others have had theirs.
 *
 * How a cut is told. A Unix socket has no reset of its own, but one that is closed with unread
 * bytes in it gives its peer ECONNRESET, behind all data that was sent. So one byte always stays
 * unread: at first the one that the library wrote into the pair, later the last byte of what came,
 * which is peeked at, sent on, and consumed with the next read. When the peer has said
 * close_notify the byte is taken out and the end is an ordinary one. Whatever else ends us, even
 * SIGKILL, is seen as ECONNRESET. A TCP socket is set to be reset when it is closed, until then.
 */
#include "client/relay/pump.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/crypto.h>

#define NOTHING ((ssize_t)-2) /* of read_plain(): nothing there now */

/* ---- what waits ---- */

static bool
rest_keep(struct pump_rest *rest, const uint8_t *data, size_t size)
{
    rest->data = malloc(size);
    if (rest->data == NULL)
        return false;
    memcpy(rest->data, data, size);
    rest->start = 0;
    rest->end = (uint32_t)size;
    return true;
}

static void
rest_drop(struct pump_rest *rest)
{
    if (rest->data != NULL)
        OPENSSL_cleanse(rest->data, rest->end);
    free(rest->data);
    *rest = (struct pump_rest){0};
}

static void
rest_take(struct pump_rest *rest, size_t size)
{
    rest->start += (uint32_t)size;
    if (rest->start == rest->end)
        rest_drop(rest);
}

static void
widen(uint32_t *window, uint32_t most)
{
    *window = *window < most / 2 ? *window * 2 : most;
}

static void
note_used(struct pump_scene *scene, size_t size)
{
    if (size > scene->used)
        scene->used = size;
}

/* ---- ends ---- */

static void
set_how(struct pump *pump, enum relay_end how)
{
    if (pump->how == RELAY_CLEAN)
        pump->how = how;
}

/* Nobody reads what the peer sends. */
static void
discard_input(struct pump *pump)
{
    rest_drop(&pump->in_rest);
    set_how(pump, RELAY_WORKER);
    pump->in = pump->in == IN_OPEN ? IN_DISCARD : IN_DONE;
}

static void
fail_input(struct pump *pump, const struct pump_scene *scene)
{
    switch (pump->stream.code) {
    case TLSAGENT_E_TRUNCATED:
        set_how(pump, RELAY_TRUNCATED);
        break;
    case TLSAGENT_E_ALERT:
        set_how(pump, RELAY_ALERT);
        break;
    case TLSAGENT_E_RECORD:
        set_how(pump, RELAY_RECORD);
        break;
    case TLSAGENT_E_CLOSED:
        set_how(pump, RELAY_RESET);
        break;
    default:
        set_how(pump, RELAY_FAILED);
    }
    pump->in = pump->in == IN_DISCARD ? IN_DONE : IN_FAILED;
    if (pump->out == OUT_OPEN)
        pump->out = OUT_LAST;
    if (pump->deadline == 0)
        pump->deadline = scene->now + scene->patience.linger;
}

/* The peer takes no more. What it has sent can still be read, for a while. */
static void
fail_output(struct pump *pump, const struct pump_scene *scene)
{
    rest_drop(&pump->out_rest);
    set_how(pump, RELAY_RESET);
    pump->out = OUT_FAILED;
    if (pump->deadline == 0)
        pump->deadline = scene->now + scene->patience.linger;
}

void
pump_reset_at_close(int plain, bool reset)
{
    struct linger none = {.l_onoff = reset, .l_linger = 0};

    (void)setsockopt(plain, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
}

/* close_notify was delivered to us, and all before it to the plain side: tell the end. */
static void
end_input(struct pump *pump)
{
    uint8_t byte;

    if (pump->seen == 1 && recv(pump->plain.fd, &byte, 1, MSG_DONTWAIT) == 1)
        pump->seen = 0;
    pump->keeps_byte = false;
    if (!pump->is_pair)
        pump_reset_at_close(pump->plain.fd, false);
    shutdown(pump->plain.fd, SHUT_WR);
    pump->in = IN_DONE;
}

/* ---- from the peer to the plain side ---- */

static void
want_room(struct pump *pump, const struct pump_scene *scene, bool wanted)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = &pump->plain};

    if (pump->wants_out == wanted)
        return;
    if (wanted)
        event.events |= EPOLLOUT;
    /* Watched only while it is full: a Unix socket reports room at each read of the other side. */
    if (epoll_ctl(scene->epoll, EPOLL_CTL_MOD, pump->plain.fd, &event) == 0)
        pump->wants_out = wanted;
}

/* Bytes that the plain side took; -1: it takes no more, ever. */
static ssize_t
send_plain(struct pump *pump, const struct pump_scene *scene, const uint8_t *data, size_t size)
{
    ssize_t sent;

    do
        sent = send(pump->plain.fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent == -1 && errno == EINTR);
    if (sent == -1 && errno != EAGAIN && errno != EWOULDBLOCK && errno != ENOBUFS)
        return -1;
    if (sent == -1)
        sent = 0;
    pump->inward += (uint64_t)sent;
    if ((size_t)sent < size) {
        pump->plain_out = false;
        want_room(pump, scene, true);
    }
    return sent;
}

/* True if nothing waits any more. */
static bool
deliver_rest(struct pump *pump, const struct pump_scene *scene)
{
    struct pump_rest *rest = &pump->in_rest;
    ssize_t sent;

    if (rest->data == NULL)
        return true;
    if (!pump->plain_out)
        return false;
    sent = send_plain(pump, scene, rest->data + rest->start, rest->end - rest->start);
    if (sent == -1)
        discard_input(pump);
    else if (sent > 0)
        rest_take(rest, (size_t)sent);
    if (rest->data == NULL)
        want_room(pump, scene, false);
    return rest->data == NULL;
}

static void
deliver(struct pump *pump, struct pump_scene *scene, size_t size)
{
    ssize_t sent = 0;

    note_used(scene, size);
    if (pump->in == IN_OPEN)
        sent = send_plain(pump, scene, scene->buffer, size);
    if (sent == -1) {
        discard_input(pump);
    } else if (pump->in == IN_OPEN && (size_t)sent < size) {
        pump->in_window = PUMP_WINDOW_MIN;
        if (!rest_keep(&pump->in_rest, scene->buffer + sent, size - (size_t)sent)) {
            pump->stream.code = TLSAGENT_E_MEMORY;
            fail_input(pump, scene);
        }
    } else if (size >= pump->in_window / 2) {
        widen(&pump->in_window, PUMP_IN_MAX);
    }
    if (pump->out == OUT_DONE && pump->in == IN_OPEN && pump->deadline != 0)
        pump->deadline = scene->now + scene->patience.stall;
}

/* True: there is more to do at once. */
static bool
turn_in(struct pump *pump, struct pump_scene *scene)
{
    ssize_t size;

    if (pump->in == IN_FAILED || pump->in == IN_ENDED || pump->in == IN_OPEN) {
        if (!deliver_rest(pump, scene))
            return false;
    }
    if (pump->in == IN_ENDED)
        end_input(pump);
    if (pump->in != IN_OPEN && pump->in != IN_DISCARD)
        return false;
    if (!pump->peer_in && stream_pending(&pump->stream) == 0)
        return false;
    pump->stream.receive_max = pump->in_window + PUMP_WINDOW_MIN / 8;
    size = stream_read(&pump->stream, scene->buffer, pump->in_window, NULL);
    if (size > 0) {
        deliver(pump, scene, (size_t)size);
        return pump->in_rest.data == NULL;
    }
    if (size == 0) {
        pump->in = pump->in == IN_DISCARD ? IN_DONE : IN_ENDED;
        return pump->in == IN_ENDED;
    }
    if (size == STREAM_WANT_POLLIN)
        pump->peer_in = false;
    else
        fail_input(pump, scene);
    return pump->in == IN_FAILED;
}

/* ---- from the plain side to the peer ---- */

/* As read_plain(), of a pair whose last byte stays. */
static ssize_t
read_keeping(struct pump *pump, uint8_t *buffer, size_t window)
{
    int waiting = 0;
    size_t fresh, wanted, got = 0;
    ssize_t size;
    bool all;

    if (ioctl(pump->plain.fd, FIONREAD, &waiting) == -1)
        return -1;
    if (waiting <= pump->seen) {
        pump->plain_in = false;
        return pump->plain_ended ? 0 : NOTHING;
    }
    fresh = (size_t)waiting - pump->seen;
    all = fresh <= window;
    wanted = pump->seen + (all ? fresh - 1 : window);
    if (wanted > 0) {
        size = recv(pump->plain.fd, buffer, wanted, MSG_DONTWAIT);
        if (size <= 0)
            return -1;
        got = (size_t)size;
    }
    /* Something was sent with descriptors: the kernel gives less. What is left comes next time. */
    if (got < wanted)
        all = false;
    if (all && recv(pump->plain.fd, buffer + got, 1, MSG_DONTWAIT | MSG_PEEK) != 1)
        return -1;
    if (all)
        got++;
    got -= pump->seen;
    memmove(buffer, buffer + pump->seen, got);
    pump->seen = all ? 1 : 0;
    return got > 0 ? (ssize_t)got : read_keeping(pump, buffer, window);
}

/* Bytes from the plain side into buffer; 0: its end; NOTHING; -1: it is broken. */
static ssize_t
read_plain(struct pump *pump, uint8_t *buffer, size_t window)
{
    ssize_t size;

    if (pump->keeps_byte)
        return read_keeping(pump, buffer, window);
    do
        size = recv(pump->plain.fd, buffer, window, MSG_DONTWAIT);
    while (size == -1 && errno == EINTR);
    if (size == -1 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        pump->plain_in = false;
        return NOTHING;
    }
    return size;
}

/* Send what is sealed. True: all is with the kernel. */
static bool
flush(struct pump *pump, const struct pump_scene *scene)
{
    int rc;

    if (pump->stream.out.start == pump->stream.out.end && !pump->stream.push)
        return true;
    if (!pump->peer_out)
        return false;
    rc = stream_flush(&pump->stream, NULL);
    if (rc == STREAM_WANT_POLLOUT)
        pump->peer_out = false;
    else if (rc == -1 && pump->out != OUT_DONE)
        fail_output(pump, scene);
    return rc == 0;
}

/* Seal and send. What was not taken is kept. */
static void
pass_on(struct pump *pump, const struct pump_scene *scene, const uint8_t *data, size_t size)
{
    ssize_t taken = stream_write(&pump->stream, data, size, NULL);

    if (taken == -1) {
        fail_output(pump, scene);
        return;
    }
    if (taken == STREAM_WANT_POLLOUT)
        taken = 0;
    pump->outward += (uint64_t)taken;
    if (pump->plain_gone) /* it moves: it has time */
        pump->deadline = scene->now + scene->patience.stall;
    if (pump->stream.out.start != pump->stream.out.end || (size_t)taken < size) {
        pump->peer_out = false;
        pump->out_window = PUMP_WINDOW_MIN;
    } else if (size >= pump->out_window) {
        widen(&pump->out_window, PUMP_OUT_MAX);
    }
    if (pump->out_rest.data != NULL && data == pump->out_rest.data + pump->out_rest.start) {
        rest_take(&pump->out_rest, (size_t)taken);
    } else if ((size_t)taken < size &&
               !rest_keep(&pump->out_rest, data + taken, size - (size_t)taken)) {
        fail_output(pump, scene);
        pump->how = RELAY_FAILED;
    }
}

static void
close_output(struct pump *pump, const struct pump_scene *scene)
{
    int rc = stream_shutdown_send(&pump->stream, NULL);

    if (rc == STREAM_WANT_POLLOUT) {
        pump->peer_out = false;
    } else if (rc == -1) {
        fail_output(pump, scene);
    } else {
        shutdown(pump->peer.fd, SHUT_WR);
        pump->out = OUT_DONE;
        if (pump->plain_gone || pump->in == IN_FAILED)
            pump->deadline = scene->now + scene->patience.linger;
        else if (!pump->is_pair) /* whether a TCP server still reads cannot be seen */
            pump->deadline = scene->now + scene->patience.stall;
    }
}

static bool
turn_out(struct pump *pump, struct pump_scene *scene)
{
    struct pump_rest *rest = &pump->out_rest;
    ssize_t size;

    if (pump->out == OUT_FAILED || !flush(pump, scene) || pump->out == OUT_FAILED)
        return false;
    if (rest->data != NULL) {
        pass_on(pump, scene, rest->data + rest->start, rest->end - rest->start);
        return rest->data == NULL && pump->out != OUT_FAILED;
    }
    if (pump->out == OUT_CLOSING)
        close_output(pump, scene);
    if ((pump->out != OUT_OPEN && pump->out != OUT_LAST) || !pump->plain_in)
        return false;
    size = read_plain(pump, scene->buffer, pump->out_window);
    if (size > 0) {
        note_used(scene, (size_t)size + 1); /* read_keeping() has moved it by one */
        pass_on(pump, scene, scene->buffer, (size_t)size);
        return pump->peer_out && pump->out != OUT_FAILED;
    }
    if (size == -1 && pump->in != IN_FAILED)
        discard_input(pump);
    if (size != NOTHING || pump->out == OUT_LAST)
        pump->out = OUT_CLOSING;
    return pump->out == OUT_CLOSING;
}

/* ---- a turn ---- */

static bool
is_over(const struct pump *pump)
{
    bool said = pump->out == OUT_DONE || pump->out == OUT_FAILED;

    if (pump->in == IN_FAILED)
        return said && pump->in_rest.data == NULL;
    if (pump->in == IN_DISCARD)
        return pump->out == OUT_FAILED;
    return said && pump->in == IN_DONE;
}

enum pump_turn
pump_turn(struct pump *pump, struct pump_scene *scene)
{
    bool more;

    if (pump->plain_gone && pump->in != IN_DONE && pump->in != IN_DISCARD) {
        if (pump->in == IN_FAILED)
            rest_drop(&pump->in_rest);
        else
            discard_input(pump);
    }
    if (pump->plain_gone && pump->deadline == 0)
        pump->deadline = scene->now + scene->patience.stall;
    more = turn_in(pump, scene);
    /* Told to speak last, with nothing to say: plain_in is already known to be false. */
    if (pump->out == OUT_LAST && !pump->plain_in)
        pump->out = OUT_CLOSING;
    more |= turn_out(pump, scene);
    if (is_over(pump))
        return PUMP_OVER;
    return more ? PUMP_MORE : PUMP_WAIT;
}

void
pump_expire(struct pump *pump)
{
    pump->deadline = 0;
    if (pump->out != OUT_DONE && pump->out != OUT_FAILED) {
        set_how(pump, RELAY_RESET);
        rest_drop(&pump->out_rest);
        pump->out = OUT_FAILED;
    }
    /* IN_ENDED and IN_FAILED wait for the plain side, which has all the time it wants. */
    if (pump->in == IN_DISCARD)
        pump->in = IN_DONE;
    else if (pump->in == IN_OPEN)
        pump->in = IN_FAILED;
}

void
pump_close(struct pump *pump, int epoll)
{
    /* The open files may live on in other processes: what epoll knows must be undone. */
    epoll_ctl(epoll, EPOLL_CTL_DEL, pump->peer.fd, NULL);
    epoll_ctl(epoll, EPOLL_CTL_DEL, pump->plain.fd, NULL);
    if (pump->out != OUT_DONE)
        shutdown(pump->peer.fd, SHUT_RDWR);
    close(pump->plain.fd);
    close(pump->peer.fd);
    stream_clear(&pump->stream);
    rest_drop(&pump->in_rest);
    rest_drop(&pump->out_rest);
}
