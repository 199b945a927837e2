/* workers.c: see workers.h. */
#include "agent/workers.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "agent/acceptor.h"
#include "agent/log.h"
#include "agent/requests.h"

#define MESSAGES_PER_ROUND 16   /* of one channel, then the others have their turn */
#define CROWDED_MS         20   /* then we look again: nothing tells when they were read */
#define REFUSED_LOG_MS     1000 /* one line a second about workers that misbehave */

/* Take a handshake out of its worker's list: it is over, or no longer wanted. */
void
worker_forget(struct handshake *handshake)
{
    struct worker *worker = handshake->worker;

    *(handshake->previous != NULL ? &handshake->previous->next : &worker->handshakes) =
        handshake->next;
    if (handshake->next != NULL)
        handshake->next->previous = handshake->previous;
    worker->user->in_flight--;
}

uint64_t
worker_mark(const struct control_worker *who)
{
    return serving_mark(who->uid, who->pid);
}

/* Close the channel and all that hangs on it, what is in its queue too. */
static void
worker_close(struct worker *worker)
{
    struct cell *cell = worker->cell;
    uint64_t served;

    if (worker->closed)
        return;
    served = serving_set(cell->serving, worker_mark(&worker->credentials));
    worker->closed = true;
    loop_watch_set(cell->loop, &worker->watch, 0);
    channel_close(worker->channel);
    while (worker->handshakes != NULL) {
        struct handshake *handshake = worker->handshakes;

        worker_forget(handshake);
        handshake_free(handshake);
    }
    while (worker->pulls != NULL) {
        struct pull *pull = worker->pulls;

        worker->pulls = pull->next_of_worker;
        acceptor_remove_pull(cell, pull);
        free(pull);
    }
    outbox_clear(&worker->outbox);
    *(worker->previous != NULL ? &worker->previous->next : &cell->workers) = worker->next;
    if (worker->next != NULL)
        worker->next->previous = worker->previous;
    cell->worker_count--;
    users_leave(&cell->users, worker->user);
    loop_free_later(cell->loop, worker);
    serving_set(cell->serving, served);
}

/* Say what a worker did, but not as often as it likes. */
static void
log_refusal(struct cell *cell, const struct control_worker *who, const char *why)
{
    char text[ERROR_TEXT_MAX];
    uint64_t now = loop_now(cell->loop);

    if (cell->refused_logged != 0 && now - cell->refused_logged < REFUSED_LOG_MS) {
        cell->refused_silent++;
        return;
    }
    error_printable(text, sizeof(text), why, strlen(why));
    log_warning("worker uid %u pid %u: channel closed: %s (and %u more since the last such line)",
                who->uid, who->pid, text, cell->refused_silent);
    cell->refused_silent = 0;
    cell->refused_logged = now;
}

/* The worker broke the protocol. */
void
worker_refuse(struct worker *worker, const char *why)
{
    if (worker->closed)
        return;
    log_refusal(worker->cell, &worker->credentials, why);
    worker->cell->channels_refused++;
    worker_close(worker);
}

static void
watch_channel(struct worker *worker)
{
    if (!worker->closed)
        (void)loop_watch_set(worker->cell->loop, &worker->watch,
                             (worker->paused ? 0 : EPOLLIN) | (worker->blocked ? EPOLLOUT : 0));
}

/* The worker made us do something for nothing. */
void
worker_bother(struct worker *worker, bool retryable)
{
    if (worker->paused || worker->closed ||
        users_bother(worker->user, loop_now(worker->cell->loop), retryable))
        return;
    worker->paused = true;
    watch_channel(worker);
    workers_look_again(worker->cell);
}

void
workers_look_again(struct cell *cell)
{
    if (cell->crowded.previous == NULL)
        loop_timer_set(cell->loop, &cell->crowded, CROWDED_MS);
}

/* Send what waits, as far as there is room. */
static void
send_answers(struct worker *worker)
{
    struct cell *cell = worker->cell;
    uint64_t served = serving_set(cell->serving, worker_mark(&worker->credentials));
    enum channel_result result = outbox_send(&worker->outbox, cell->buffer);

    /* Too many descriptors on the way: the channel has room, and would wake us at once. */
    worker->crowded = result == CHANNEL_FAILED && errno == ETOOMANYREFS;
    worker->blocked = result == CHANNEL_AGAIN;
    if (worker->crowded)
        workers_look_again(cell);
    if (result == CHANNEL_OK || worker->blocked || worker->crowded) {
        watch_channel(worker);
    } else {
        log_debug("worker uid %u pid %u: the channel is gone", worker->credentials.uid,
                  worker->credentials.pid);
        worker_close(worker);
    }
    serving_set(cell->serving, served);
}

/* Give one answer, in order: it goes with the others of this round. Takes fd (-1: none). */
static void
answer(struct worker *worker, uint16_t type, const uint8_t *body, size_t size, int fd)
{
    if (!outbox_put(&worker->outbox, type, body, size, fd)) {
        worker_refuse(worker, "the worker does not read its answers");
        return;
    }
    if (worker->blocked || worker->crowded)
        return;
    if (outbox_full(&worker->outbox)) {
        send_answers(worker);
    } else if (!worker->due) {
        worker->due = true;
        worker->next_due = worker->cell->due;
        worker->cell->due = worker;
    }
}

void
workers_send_answers(struct cell *cell)
{
    while (cell->due != NULL) {
        struct worker *worker = cell->due;

        cell->due = worker->next_due;
        worker->due = false;
        if (!worker->closed && !worker->blocked && !worker->crowded)
            send_answers(worker);
    }
}

static void
crowded_expired(struct loop_timer *timer)
{
    struct cell *cell = (struct cell *)((char *)timer - offsetof(struct cell, crowded));
    struct worker *next;

    for (struct worker *worker = cell->workers; worker != NULL; worker = next) {
        next = worker->next;
        if (worker->paused) {
            worker->paused = !users_bother(worker->user, loop_now(cell->loop), false);
            watch_channel(worker);
        }
        if (worker->paused)
            workers_look_again(cell);
        if (worker->crowded)
            send_answers(worker);
    }
    for (size_t i = 0; i < identity_context_count(cell->identities); i++) {
        if (cell->contexts[i].held)
            acceptor_update(cell, i);
    }
}

static void
round_over(void *data)
{
    workers_send_answers(data);
}

void
workers_init(struct cell *cell)
{
    loop_timer_init(&cell->crowded, crowded_expired);
    loop_at_end_of_round(cell->loop, round_over, cell);
}

bool
workers_may_deliver(const struct pull *pull)
{
    struct user *user = pull->worker->user;
    struct cell *cell = pull->worker->cell;
    uint64_t now = loop_now(cell->loop);

    if (user->unread < cell->unread_limit)
        return true;
    if (now - user->looked < CROWDED_MS) /* whoever has many channels makes us look at them all */
        return false;
    user->looked = now;
    for (struct worker *worker = cell->workers; worker != NULL; worker = worker->next) {
        if (worker->user == user)
            outbox_count_unread(&worker->outbox);
    }
    return user->unread < cell->unread_limit;
}

void
worker_answer_failed(struct worker *worker, const struct service_failed *failed)
{
    uint8_t body[16 + SERVICE_TEXT_MAX];
    size_t size = service_put_failed(failed, body, sizeof(body));

    answer(worker, SERVICE_FAILED, body, size, -1);
}

/* Send FINISHED or DELIVERED. Takes fd. */
void
worker_answer_finished(struct worker *worker, uint16_t type, const struct handshake *handshake,
                       int fd)
{
    struct service_finished finished;
    uint8_t *body = worker->cell->buffer;
    size_t size;

    handshake_describe(handshake, &finished);
    size = service_put_finished(&finished, body, CHANNEL_BODY_MAX);
    OPENSSL_cleanse(&finished.state, sizeof(finished.state));
    if (size == 0)
        log_bug("a finished handshake does not fit into a message");
    answer(worker, type, body, size, fd);
    OPENSSL_cleanse(body, size);
}

void
workers_deliver(struct pull *pull, struct handshake *handshake)
{
    int fd;

    if (handshake_hand_back(handshake, pull->forms) == -1) {
        handshake_free(handshake); /* the peer sees a closed connection; the log says why */
        return;
    }
    fd = handshake->fd;
    pull->credits--;
    pull->worker->cell->contexts[pull->context].credits--;
    handshake->fd = -1;
    worker_answer_finished(pull->worker, SERVICE_DELIVERED, handshake, fd);
    handshake_free(handshake);
}

static void
channel_ready(struct loop_watch *watch, uint32_t events)
{
    struct worker *worker = (struct worker *)((char *)watch - offsetof(struct worker, watch));
    struct cell *cell = worker->cell;
    struct channel_message message;
    struct error error = {""};

    serving_set(cell->serving, worker_mark(&worker->credentials));
    if ((events & EPOLLOUT) != 0)
        send_answers(worker);
    for (int i = 0; i < MESSAGES_PER_ROUND && !worker->closed && !worker->paused; i++) {
        enum channel_result result = channel_receive(
            worker->channel, service_handshaker_rules, service_handshaker_rule_count,
            worker->cell->buffer, CHANNEL_BUFFER_SIZE, &message, &error);

        if (result == CHANNEL_AGAIN)
            break;
        if (result == CHANNEL_CLOSED)
            worker_close(worker);
        else if (result != CHANNEL_OK)
            worker_refuse(worker, error.text);
        else
            requests_serve(worker, &message);
        channel_message_clear(&message);
    }
    serving_set(cell->serving, 0);
}

/* Say why, and close. Takes the channel. */
static void
turn_away(struct cell *cell, int channel, const struct control_worker *who, const char *why)
{
    struct service_failed failed = {.reason = SERVICE_BUSY, .retryable = 1, .alert = 255};
    uint8_t body[16 + SERVICE_TEXT_MAX];

    snprintf(failed.text, sizeof(failed.text), "%s", why);
    (void)channel_send(channel, SERVICE_FAILED, body,
                       service_put_failed(&failed, body, sizeof(body)), NULL, 0);
    log_refusal(cell, who, why);
    channel_close(channel);
}

void
workers_dismiss(struct cell *cell, uint32_t uid)
{
    struct worker *next;

    for (struct worker *worker = cell->workers; worker != NULL; worker = next) {
        next = worker->next;
        if (worker->credentials.uid == uid)
            worker_close(worker);
    }
}

void
workers_add(struct cell *cell, int channel, const struct control_worker *credentials)
{
    struct worker *worker = NULL;
    struct user *user = NULL;

    serving_set(cell->serving, worker_mark(credentials));
    if (cell->worker_count < cell->worker_limit)
        user = users_enter(&cell->users, credentials->uid);
    if (user != NULL && user->channels <= credentials->channels_max)
        worker = calloc(1, sizeof(*worker));
    if (worker == NULL) {
        turn_away(cell, channel, credentials,
                  user != NULL ? "this uid has as many channels as `max_channels` allows"
                               : "as many channels are open as this process can have");
        if (user != NULL)
            users_leave(&cell->users, user);
        serving_set(cell->serving, 0);
        return;
    }
    worker->cell = cell;
    worker->user = user;
    worker->channel = channel;
    outbox_init(&worker->outbox, channel, user);
    worker->credentials = *credentials;
    worker->next = cell->workers;
    if (worker->next != NULL)
        worker->next->previous = worker;
    cell->workers = worker;
    cell->worker_count++;
    loop_watch_init(&worker->watch, channel, channel_ready);
    if (loop_watch_set(cell->loop, &worker->watch, EPOLLIN) == -1)
        worker_refuse(worker, strerror(errno));
    serving_set(cell->serving, 0);
}
