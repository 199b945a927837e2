/* workers.c: see workers.h. */
#include "agent/workers.h"

#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <openssl/crypto.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/acceptor.h"
#include "agent/log.h"
#include "agent/pace.h"
#include "protocol/kernel_tls.h"

#define MESSAGES_PER_ROUND 16 /* of one channel, then the others have their turn */
/* Answers that a worker may leave unread beyond its socket's buffer, and their bytes. */
#define UNSENT_MAX       1024
#define UNSENT_BYTES_MAX (1 << 20)
/* Descriptors on the way to workers are counted by the kernel, all that processes of our uid have
 * sent and nobody has read; at its limit nobody gets any (ETOOMANYREFS). So what one uid leaves
 * unread is bounded. How many that is follows from the memory that its channels' queues take: so
 * much at least for each message, whatever is in it. */
#define MESSAGE_MEMORY 512
/* Requests that are refused, or mean nothing, of one uid; then its channels are not read for a
 * while: they cost us as much as others' handshakes. */
#define REFUSED_PER_SECOND 100
#define REFUSED_BURST      100
/* Those that may be tried again: an honest worker makes them too when there is much to do. */
#define BUSY_PER_SECOND 1000
#define BUSY_BURST      1000
#define CROWDED_MS      20   /* then we look again: nothing tells when they were read */
#define REFUSED_LOG_MS  1000 /* one line a second about workers that misbehave */

static const char no_kernel[] =
    "the kernel form is not possible: not a TCP socket, or this host's kernel has no TLS (see the "
    "agent's log)";

/* An answer that found no room in the channel. */
struct unsent {
    struct unsent *next;
    uint16_t type;
    int fd; /* owned; -1: none */
    size_t size;
    uint8_t body[];
};

/* What one uid holds in this cell. */
struct user {
    struct user *next;
    uint32_t uid;
    uint32_t channels;
    uint32_t in_flight; /* handshakes that it asked for */
    uint32_t unread;    /* descriptors sent or kept for it and perhaps not read: at most */
    uint64_t looked;    /* when that was last found out */
    struct pace refused;
    struct pace busy;
};

struct worker {
    struct loop_watch watch;
    struct cell *cell;
    struct user *user;
    int channel;
    struct control_worker credentials;
    struct handshake *handshakes; /* in progress for this worker */
    struct pull *pulls;
    struct unsent *unsent;
    struct unsent *last_unsent;
    size_t unsent_count;
    uint32_t unread; /* its part of the user's */
    size_t unsent_bytes;
    struct worker *next;
    struct worker *previous;
    bool paused;  /* not read now: too many refused requests */
    bool crowded; /* unsent answers wait for room for their fd, not for room in the channel */
    bool closed;  /* its memory goes at the end of the round */
};

static void
unsent_free(struct unsent *unsent)
{
    if (unsent->fd != -1)
        channel_close_fd(unsent->fd);
    OPENSSL_cleanse(unsent->body, unsent->size); /* traffic keys */
    free(unsent);
}

/* The record of a uid, made if there is none. NULL: out of memory. */
static struct user *
user_of(struct cell *cell, uint32_t uid)
{
    struct user *user = cell->users;

    while (user != NULL && user->uid != uid)
        user = user->next;
    if (user == NULL && (user = calloc(1, sizeof(*user))) != NULL) {
        user->uid = uid;
        user->next = cell->users;
        cell->users = user;
    }
    return user;
}

static void
user_leave(struct cell *cell, struct user *user)
{
    struct user **link = &cell->users;

    if (--user->channels > 0)
        return;
    while (*link != user)
        link = &(*link)->next;
    *link = user->next;
    free(user);
}

/* Take a handshake out of its worker's list: it is over, or no longer wanted. */
static void
forget_handshake(struct handshake *handshake)
{
    struct worker *worker = handshake->worker;

    *(handshake->previous != NULL ? &handshake->previous->next : &worker->handshakes) =
        handshake->next;
    if (handshake->next != NULL)
        handshake->next->previous = handshake->previous;
    worker->user->in_flight--;
}

static uint64_t
mark_of(const struct control_worker *who)
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
    served = serving_set(cell->serving, mark_of(&worker->credentials));
    worker->closed = true;
    loop_watch_set(cell->loop, &worker->watch, 0);
    channel_close(worker->channel);
    while (worker->handshakes != NULL) {
        struct handshake *handshake = worker->handshakes;

        forget_handshake(handshake);
        handshake_free(handshake);
    }
    while (worker->pulls != NULL) {
        struct pull *pull = worker->pulls;

        worker->pulls = pull->next_of_worker;
        acceptor_remove_pull(cell, pull);
        free(pull);
    }
    while (worker->unsent != NULL) {
        struct unsent *unsent = worker->unsent;

        worker->unsent = unsent->next;
        unsent_free(unsent);
    }
    *(worker->previous != NULL ? &worker->previous->next : &cell->workers) = worker->next;
    if (worker->next != NULL)
        worker->next->previous = worker->previous;
    cell->worker_count--;
    worker->user->unread -= worker->unread;
    user_leave(cell, worker->user);
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
static void
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
                             (worker->paused ? 0 : EPOLLIN) |
                                 (worker->unsent != NULL && !worker->crowded ? EPOLLOUT : 0));
}

/* The worker made us do something for nothing. */
static void
count_refused(struct worker *worker, bool retryable)
{
    uint64_t now = loop_now(worker->cell->loop);

    if (worker->paused || worker->closed ||
        (retryable ? pace_take(&worker->user->busy, now, BUSY_PER_SECOND, BUSY_BURST)
                   : pace_take(&worker->user->refused, now, REFUSED_PER_SECOND, REFUSED_BURST)))
        return;
    worker->paused = true;
    watch_channel(worker);
    workers_look_again(worker->cell);
}

/* Keep an answer until the channel has room. Takes fd. */
static void
keep_unsent(struct worker *worker, uint16_t type, const uint8_t *body, size_t size, int fd)
{
    struct unsent *unsent =
        worker->unsent_count < UNSENT_MAX && worker->unsent_bytes + size <= UNSENT_BYTES_MAX
            ? malloc(sizeof(*unsent) + size)
            : NULL;

    if (unsent == NULL) {
        if (fd != -1)
            channel_close_fd(fd);
        worker_refuse(worker, "the worker does not read its answers");
        return;
    }
    unsent->next = NULL;
    unsent->type = type;
    unsent->fd = fd;
    unsent->size = size;
    memcpy(unsent->body, body, size);
    *(worker->unsent != NULL ? &worker->last_unsent->next : &worker->unsent) = unsent;
    worker->last_unsent = unsent;
    worker->unsent_count++;
    worker->unsent_bytes += size;
    watch_channel(worker);
}

/* Did the kernel refuse because too many descriptors of ours are on the way? */
static bool
is_crowded(enum channel_result result)
{
    return result == CHANNEL_FAILED && errno == ETOOMANYREFS;
}

void
workers_look_again(struct cell *cell)
{
    if (cell->crowded.previous == NULL)
        loop_timer_set(cell->loop, &cell->crowded, CROWDED_MS);
}

/* Send one answer, now or later, in order. Takes fd (-1: none). */
static void
answer(struct worker *worker, uint16_t type, const uint8_t *body, size_t size, int fd)
{
    enum channel_result result = CHANNEL_AGAIN;

    if (fd != -1) {
        worker->unread++;
        worker->user->unread++;
    }
    if (worker->unsent == NULL)
        result = channel_send(worker->channel, type, body, size, &fd, fd != -1 ? 1 : 0);
    if (is_crowded(result)) {
        worker->crowded = true;
        workers_look_again(worker->cell);
        result = CHANNEL_AGAIN;
    }
    if (result == CHANNEL_AGAIN) {
        keep_unsent(worker, type, body, size, fd);
        return;
    }
    if (fd != -1)
        channel_close_fd(fd);
    if (result != CHANNEL_OK) {
        log_debug("worker uid %u pid %u: the channel is gone", worker->credentials.uid,
                  worker->credentials.pid);
        worker_close(worker);
    }
}

static void
send_unsent(struct worker *worker)
{
    while (worker->unsent != NULL) {
        struct unsent *unsent = worker->unsent;
        enum channel_result result = channel_send(worker->channel, unsent->type, unsent->body,
                                                  unsent->size, &unsent->fd, unsent->fd != -1);

        worker->crowded = is_crowded(result); /* the channel has room, and would wake us at once */
        if (worker->crowded)
            workers_look_again(worker->cell);
        if (worker->crowded || result == CHANNEL_AGAIN) {
            watch_channel(worker);
            return;
        }
        if (result != CHANNEL_OK) {
            worker_close(worker);
            return;
        }
        worker->unsent = unsent->next;
        worker->unsent_count--;
        worker->unsent_bytes -= unsent->size;
        unsent_free(unsent);
    }
    watch_channel(worker);
}

static void
crowded_expired(struct loop_timer *timer)
{
    struct cell *cell = (struct cell *)((char *)timer - offsetof(struct cell, crowded));
    struct worker *next;

    for (struct worker *worker = cell->workers; worker != NULL; worker = next) {
        next = worker->next;
        if (worker->paused) {
            worker->paused = !pace_take(&worker->user->refused, loop_now(cell->loop),
                                        REFUSED_PER_SECOND, REFUSED_BURST);
            watch_channel(worker);
        }
        if (worker->paused)
            workers_look_again(cell);
        if (worker->unsent != NULL)
            send_unsent(worker);
    }
    for (size_t i = 0; i < identity_context_count(cell->identities); i++) {
        if (cell->contexts[i].held)
            acceptor_update(cell, i);
    }
}

void
workers_init(struct cell *cell)
{
    loop_timer_init(&cell->crowded, crowded_expired);
}

/* Find out what has been read meanwhile. */
static void
count_unread(struct worker *worker)
{
    int queued = 0;
    uint32_t most;

    if (ioctl(worker->channel, SIOCOUTQ, &queued) == -1 || queued < 0)
        return;
    most = (uint32_t)queued / MESSAGE_MEMORY;
    for (const struct unsent *unsent = worker->unsent; unsent != NULL; unsent = unsent->next)
        most += unsent->fd != -1;
    if (most < worker->unread) {
        worker->user->unread -= worker->unread - most;
        worker->unread = most;
    }
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
            count_unread(worker);
    }
    return user->unread < cell->unread_limit;
}

static void
answer_failed(struct worker *worker, const struct service_failed *failed)
{
    uint8_t body[16 + SERVICE_TEXT_MAX];
    size_t size = service_put_failed(failed, body, sizeof(body));

    answer(worker, SERVICE_FAILED, body, size, -1);
}

static void answer_refusal(struct worker *worker, uint32_t id, enum service_failure reason,
                           bool retryable, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

static void
answer_refusal(struct worker *worker, uint32_t id, enum service_failure reason, bool retryable,
               const char *format, ...)
{
    struct service_failed failed = {
        .id = id, .reason = (uint8_t)reason, .retryable = retryable, .alert = 255};
    va_list args;

    va_start(args, format);
    vsnprintf(failed.text, sizeof(failed.text), format, args);
    va_end(args);
    count_refused(worker, retryable);
    answer_failed(worker, &failed);
}

/* Send FINISHED or DELIVERED. Takes fd. */
static void
answer_finished(struct worker *worker, uint16_t type, const struct handshake *handshake, int fd)
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

/* done() of a handshake that a worker asked for. */
static void
requested_done(struct handshake *handshake)
{
    struct worker *worker = handshake->worker;

    forget_handshake(handshake);
    if (handshake->state == HANDSHAKE_FINISHED)
        (void)handshake_hand_back(handshake, handshake->forms);
    /* Our copy of the socket goes first: after the answer nothing of ours can touch it. */
    channel_close_fd(handshake->fd);
    handshake->fd = -1;
    if (handshake->state == HANDSHAKE_FINISHED) {
        answer_finished(worker, SERVICE_FINISHED, handshake, -1);
    } else {
        handshake->failed.id = handshake->id;
        answer_failed(worker, &handshake->failed);
    }
    handshake_free(handshake);
}

/* A connected stream socket, TCP or Unix, and nothing else. Whatever else it is, it is only
 * looked at by getsockopt(), which cannot block. */
static bool
usable_socket(int fd)
{
    struct sockaddr_storage peer = {0};
    socklen_t size = sizeof(peer);
    int value = 0;
    socklen_t value_size = sizeof(value);
    bool local;

    if (getpeername(fd, (struct sockaddr *)&peer, &size) == -1)
        return false; /* not connected; listening sockets too */
    local = peer.ss_family == AF_UNIX;
    if (!local && peer.ss_family != AF_INET && peer.ss_family != AF_INET6)
        return false;
    if (getsockopt(fd, SOL_SOCKET, local ? SO_TYPE : SO_PROTOCOL, &value, &value_size) == -1)
        return false;
    /* These protocols have no other type of socket. */
    return local ? value == SOCK_STREAM : value == IPPROTO_TCP || value == IPPROTO_MPTCP;
}

static bool
id_in_use(const struct worker *worker, uint32_t id)
{
    for (const struct handshake *h = worker->handshakes; h != NULL; h = h->next) {
        if (h->id == id)
            return true;
    }
    return false;
}

/* The position of a context that this worker may use, or -1. One answer for "no such" and "not
 * yours": names of other people's contexts are none of its business. */
static int
permitted_context(const struct worker *worker, const char *name)
{
    const struct identity_table *table = worker->cell->identities;
    int context = identity_context_find(table, name);
    const struct control_worker *who = &worker->credentials;

    /* The kernel's list of groups need not have the primary one in it. */
    if (context == -1 ||
        (!identity_permitted(table, (size_t)context, who->uid, &who->gid, 1) &&
         !identity_permitted(table, (size_t)context, who->uid, who->groups, who->group_count)))
        return -1;
    return context;
}

/* Takes fd. */
static void
start_accept(struct worker *worker, const struct service_accept *request, int fd)
{
    struct cell *cell = worker->cell;
    int context = permitted_context(worker, request->context);
    const struct generation_context *facts;
    struct handshake *handshake;
    uint32_t deadline;
    char name[SERVICE_NAME_MAX];

    if (context == -1) {
        error_printable(name, sizeof(name), request->context, strlen(request->context));
        answer_refusal(worker, request->id, SERVICE_NOT_PERMITTED, false,
                       "context \"%s\" is not permitted for uid %u, or does not exist", name,
                       worker->credentials.uid);
    } else if ((request->forms & identity_context(cell->identities, (size_t)context)->forms) == 0) {
        answer_refusal(worker, request->id, SERVICE_BAD_REQUEST, false,
                       "context \"%s\" does not permit the hand-back form that was asked for",
                       request->context);
    } else if (!usable_socket(fd)) {
        answer_refusal(worker, request->id, SERVICE_BAD_REQUEST, false,
                       "the descriptor is not a connected stream socket");
    } else if (request->forms == SERVICE_FORM_KERNEL && !handshake_kernel_possible(cell, fd)) {
        answer_refusal(worker, request->id, SERVICE_BAD_REQUEST, false, "%s", no_kernel);
    } else if (cell->in_flight >= cell->capacity) {
        answer_refusal(worker, request->id, SERVICE_BUSY, true,
                       "%u handshakes are in progress, the limit of this cell: try again later",
                       cell->in_flight);
    } else if (worker->user->in_flight >= cell->capacity - cell->in_flight) {
        /* Nobody holds more than is left for the others. */
        answer_refusal(
            worker, request->id, SERVICE_BUSY, true,
            "uid %u has %u handshakes in progress, half of what is free: try again later",
            worker->credentials.uid, worker->user->in_flight);
    } else {
        facts = identity_context(cell->identities, (size_t)context);
        deadline = request->deadline_ms != 0 && request->deadline_ms < facts->deadline_ms
                       ? request->deadline_ms
                       : facts->deadline_ms;
        handshake = handshake_new(cell, (size_t)context, fd, request->forms & facts->forms,
                                  deadline, requested_done);
        fd = -1;
        if (handshake == NULL) {
            answer_refusal(worker, request->id, SERVICE_INTERNAL, true,
                           "the agent is out of memory");
            return;
        }
        handshake->worker = worker;
        handshake->blame = mark_of(&worker->credentials);
        worker->user->in_flight++;
        handshake->id = request->id;
        handshake->next = worker->handshakes;
        if (handshake->next != NULL)
            handshake->next->previous = handshake;
        worker->handshakes = handshake;
        handshake_run(handshake);
    }
    if (fd != -1)
        channel_close_fd(fd);
}

static void
cancel(struct worker *worker, uint32_t id)
{
    for (struct handshake *handshake = worker->handshakes; handshake != NULL;
         handshake = handshake->next) {
        if (handshake->id != id)
            continue;
        forget_handshake(handshake);
        handshake_free(handshake);
        answer_refusal(worker, id, SERVICE_BAD_REQUEST, false, "cancelled");
        return;
    }
    count_refused(worker, false); /* not there: our answer and the cancellation have crossed */
}

static void
add_credits(struct worker *worker, const struct service_pull *request)
{
    struct cell *cell = worker->cell;
    int context = permitted_context(worker, request->context);
    struct pull *pull = worker->pulls;
    char name[SERVICE_NAME_MAX];

    if (context == -1) {
        error_printable(name, sizeof(name), request->context, strlen(request->context));
        answer_refusal(worker, 0, SERVICE_NOT_PERMITTED, false,
                       "context \"%s\" is not permitted for uid %u, or does not exist", name,
                       worker->credentials.uid);
        return;
    }
    if ((request->forms & identity_context(cell->identities, (size_t)context)->forms) == 0) {
        answer_refusal(worker, 0, SERVICE_BAD_REQUEST, false,
                       "context \"%s\" does not permit the hand-back form that was asked for",
                       request->context);
        return;
    }
    if (request->forms == SERVICE_FORM_KERNEL && (cell->kernel & KERNEL_TLS_CIPHERS) == 0) {
        answer_refusal(worker, 0, SERVICE_BAD_REQUEST, false, "%s", no_kernel);
        return;
    }
    if (cell->contexts[context].listeners == NULL) {
        answer_refusal(worker, 0, SERVICE_BAD_REQUEST, false,
                       "context \"%s\" has no `listen`: the agent accepts nothing for it",
                       request->context);
        return;
    }
    while (pull != NULL && pull->context != (size_t)context)
        pull = pull->next_of_worker;
    if (pull == NULL) {
        pull = calloc(1, sizeof(*pull));
        if (pull == NULL) {
            answer_refusal(worker, 0, SERVICE_INTERNAL, true, "the agent is out of memory");
            return;
        }
        pull->worker = worker;
        pull->context = (size_t)context;
        pull->next_of_worker = worker->pulls;
        worker->pulls = pull;
        acceptor_add_pull(cell, pull);
    }
    if (request->credits == 0 || request->credits > SERVICE_CREDIT_MAX - pull->credits) {
        worker_refuse(worker, "more credits than one channel may have");
        return;
    }
    pull->forms = request->forms;
    pull->credits = (uint16_t)(pull->credits + request->credits);
    cell->contexts[context].credits += request->credits;
    acceptor_update(cell, (size_t)context);
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
    answer_finished(pull->worker, SERVICE_DELIVERED, handshake, fd);
    handshake_free(handshake);
}

/* One message. Returns false if the channel was closed. */
static bool
serve(struct worker *worker, struct channel_message *message)
{
    union {
        struct service_accept accept;
        struct service_pull pull;
        struct service_cancel cancel;
    } m;

    switch ((enum service_type)message->type) {
    case SERVICE_ACCEPT:
        if (!service_get_accept(&m.accept, message->body, message->size))
            break;
        if (id_in_use(worker, m.accept.id)) {
            worker_refuse(worker, "a request id is in use already");
            return false;
        }
        start_accept(worker, &m.accept, channel_take_fd(message, 0));
        return !worker->closed;
    case SERVICE_PULL:
        if (!service_get_pull(&m.pull, message->body, message->size))
            break;
        add_credits(worker, &m.pull);
        return !worker->closed;
    case SERVICE_CANCEL:
        if (!service_get_cancel(&m.cancel, message->body, message->size))
            break;
        cancel(worker, m.cancel.id);
        return !worker->closed;
    default:
        break;
    }
    worker_refuse(worker, "a message is malformed");
    return false;
}

static void
channel_ready(struct loop_watch *watch, uint32_t events)
{
    struct worker *worker = (struct worker *)((char *)watch - offsetof(struct worker, watch));
    struct cell *cell = worker->cell;
    struct channel_message message;
    struct error error = {""};

    serving_set(cell->serving, mark_of(&worker->credentials));
    if ((events & EPOLLOUT) != 0)
        send_unsent(worker);
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
            serve(worker, &message);
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

    serving_set(cell->serving, mark_of(credentials));
    if (cell->worker_count < cell->worker_limit)
        user = user_of(cell, credentials->uid);
    if (user != NULL && user->channels++ < credentials->channels_max)
        worker = calloc(1, sizeof(*worker));
    if (worker == NULL) {
        turn_away(cell, channel, credentials,
                  user != NULL ? "this uid has as many channels as `max_channels` allows"
                               : "as many channels are open as this process can have");
        if (user != NULL)
            user_leave(cell, user);
        serving_set(cell->serving, 0);
        return;
    }
    worker->cell = cell;
    worker->user = user;
    worker->channel = channel;
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
