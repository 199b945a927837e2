/* greet.c: see greet.h. */
#include "agent/greet.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/cell_control.h"
#include "agent/hang_up.h"
#include "agent/listen.h"
#include "agent/log.h"
#include "agent/roles.h"
#include "protocol/service.h"

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59 /* Linux 4.13 */
#endif

#define UNMAPPED       65534     /* what the kernel shows for ids that our user namespace lacks */
#define KERNEL_GROUPS  65536     /* NGROUPS_MAX */
#define GREETING_BYTES (1 << 20) /* asked for; the kernel gives what it allows */
#define RETRY_MS       100
#define DENIED_LOG_MS  1000
/* A preforking server may come with all its processes at once; who keeps coming waits its turn, in
 * max_greetings of the configuration a second. */
#define GREETINGS_BURST 256
/* Of all that call: knowing who it is costs an accept(). */
#define CALLS_PER_SECOND 1000
#define CALLS_BURST      256
#define PAUSE_MS         20
#define LEAVE_MS         100
#define KEPT_MAX         (2 * GREET_LEAVING) /* connections that no process can be had to close */
#define COMPLAINTS_BURST 10                  /* then one a second */

struct greet_worker {
    struct loop_watch watch; /* first; fd: the connection, owned */
    struct greet *greet;
    struct greet_worker *previous;
    struct greet_worker *next;
    struct control_worker who;
    bool greeted;  /* false: it waits for its turn */
    bool wanted[]; /* by cell: a channel is to be sent */
};

/* ---- who may what ---- */

static bool
has_group(const struct control_worker *worker, gid_t gid)
{
    if (gid == UNMAPPED)
        return false;
    if (worker->gid == gid)
        return true;
    for (size_t i = 0; i < worker->group_count; i++) {
        if (worker->groups[i] == gid)
            return true;
    }
    return false;
}

bool
greet_context_allows(const struct config_context *context, const struct control_worker *worker)
{
    for (size_t i = 0; i < context->user_count; i++) {
        if (context->users[i] == worker->uid && worker->uid != UNMAPPED)
            return true;
    }
    for (size_t i = 0; i < context->group_allowed_count; i++) {
        if (has_group(worker, context->groups_allowed[i]))
            return true;
    }
    return false;
}

static bool
may_use_group(const struct greet_worker *worker, unsigned group)
{
    const struct config *config = worker->greet->config;

    for (size_t i = 0; i < config->context_count; i++) {
        if (config->contexts[i].cell_group == group &&
            greet_context_allows(&config->contexts[i], &worker->who))
            return true;
    }
    return false;
}

/* Shall this worker have a channel to the cell? Who has frozen cells before gets one cell of each
 * group: all that it uses could be frozen at once, and no other. */
static bool
may_use_cell(const struct greet_worker *worker, const struct cell *cell)
{
    const struct greet *greet = worker->greet;
    unsigned cells = greet->config->cells; /* of each group */

    return may_use_group(worker, cell->group) &&
           (cell->number % cells == worker->who.uid % cells ||
            !bans_remember(&greet->bans, worker->who.uid, loop_now(greet->loop)));
}

/* True if some context names this group: others are nobody's business, and there may be many. */
static bool
is_named_group(const struct config *config, gid_t gid)
{
    for (size_t i = 0; i < config->context_count; i++) {
        for (size_t j = 0; j < config->contexts[i].group_allowed_count; j++) {
            if (config->contexts[i].groups_allowed[j] == gid)
                return true;
        }
    }
    return false;
}

/* What the kernel says about the other side, as it was when it connected. Returns 0, or -1 with
 * errno. The pid is for the log only: it may be another's by now, and nothing is looked up by it
 * and no signal sent to it. So SO_PEERPIDFD (Linux 6.5), which names a process for good, is not
 * asked for: who may what hangs on uid and groups alone. */
static int
read_credentials(int fd, const struct config *config, struct control_worker *who)
{
    static gid_t groups[KERNEL_GROUPS];
    struct ucred peer;
    socklen_t size = sizeof(peer);

    memset(who, 0, sizeof(*who));
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == -1)
        return -1;
    who->uid = peer.uid;
    who->gid = peer.gid;
    who->pid = (uint32_t)peer.pid;
    who->channels_max = config->max_channels;
    size = sizeof(groups);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) == -1)
        return -1;
    for (size_t i = 0; i < size / sizeof(groups[0]) && who->group_count < CONTROL_GROUPS_MAX; i++) {
        if (is_named_group(config, groups[i]))
            who->groups[who->group_count++] = groups[i];
    }
    return 0;
}

/* ---- one worker's connection ---- */

static void
leave_all(struct greet *greet)
{
    hang_up(greet->leaving, greet->leaving_count);
    greet->leaving_count = 0;
    loop_timer_stop(greet->loop, &greet->leave);
}

static void
leave_expired(struct loop_timer *timer)
{
    leave_all((struct greet *)((char *)timer - offsetof(struct greet, leave)));
}

/* Close a connection. If it said something that costs a process: one for many. */
static void
leave(struct greet *greet, int fd)
{
    if (!hang_up_begin(fd)) {
        close(fd);
        return;
    }
    (void)shutdown(fd, SHUT_RDWR); /* it sees the end now */
    greet->leaving[greet->leaving_count++] = fd;
    if (greet->leaving_count == GREET_LEAVING)
        leave_all(greet);
    else if (greet->leaving_count == 1)
        loop_timer_set(greet->loop, &greet->leave, LEAVE_MS);
}

static void
drop_worker(struct greet_worker *worker)
{
    struct greet *greet = worker->greet;

    loop_watch_set(greet->loop, &worker->watch, 0);
    leave(greet, worker->watch.fd);
    if (worker->previous != NULL)
        worker->previous->next = worker->next;
    else
        greet->workers = worker->next;
    if (worker->next != NULL)
        worker->next->previous = worker->previous;
    else
        greet->last_worker = worker->previous;
    greet->worker_count--;
    loop_free_later(greet->loop, worker);
}

/* May one more line be logged that a worker can cause as often as it likes? */
static bool
may_complain(struct greet *greet)
{
    return pace_take(&greet->complaints, loop_now(greet->loop), 1, COMPLAINTS_BURST);
}

/* The worker said something, or is gone: both end the connection. */
static void
worker_ready(struct loop_watch *watch, uint32_t events)
{
    struct greet_worker *worker = (struct greet_worker *)watch;

    if ((events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR)) == 0 && may_complain(worker->greet))
        log_warning("worker uid %u (pid %u) wrote to the greeting socket, where nothing may be "
                    "said: closed",
                    worker->who.uid, worker->who.pid);
    drop_worker(worker);
}

enum pass_result {
    PASS_DONE,
    PASS_LATER,     /* the handshaker has no room now */
    PASS_NO_WORKER, /* the worker does not take it: drop it */
};

/* Make a channel between the worker and a cell. */
static enum pass_result
pass_channel(struct greet_worker *worker, struct cell *cell)
{
    struct service_channel message = {.group = (uint16_t)cell->group,
                                      .cell = (uint16_t)cell->number};
    enum pass_result outcome = PASS_DONE;
    uint8_t body[8];
    size_t size = service_put_channel(&message, body, sizeof(body));
    int pair[2];

    if (channel_pair(pair) == -1)
        return PASS_LATER;
    switch (cell_control_pass_worker(cell, &worker->who, pair[0])) {
    case CHANNEL_OK:
        /* Too many fds on the way, of all that our uid sends: not this worker's fault. */
        if (channel_send(worker->watch.fd, SERVICE_CHANNEL, body, size, &pair[1], 1) != CHANNEL_OK)
            outcome = errno == ETOOMANYREFS ? PASS_LATER : PASS_NO_WORKER;
        break;
    case CHANNEL_AGAIN:
    case CHANNEL_FAILED:
        outcome = PASS_LATER;
        break;
    default:
        break; /* the cell is going; its successor will be announced */
    }
    close(pair[0]);
    close(pair[1]);
    return outcome;
}

/* Send every channel that is wanted and can be had. Returns false if the worker was dropped. */
static bool
serve_worker(struct greet_worker *worker)
{
    struct greet *greet = worker->greet;

    for (unsigned i = 0; i < greet->cells->count; i++) {
        enum pass_result result;

        if (!worker->wanted[i])
            continue;
        result = pass_channel(worker, &greet->cells->list[i]);
        if (result == PASS_NO_WORKER) {
            if (may_complain(greet))
                log_info("worker uid %u (pid %u) does not read its greeting: closed",
                         worker->who.uid, worker->who.pid);
            drop_worker(worker);
            return false;
        }
        worker->wanted[i] = result == PASS_LATER;
        if (result == PASS_LATER)
            loop_timer_set(greet->loop, &greet->retry, RETRY_MS);
    }
    return true;
}

static void greet_worker(struct greet_worker *worker);

static void
retry_expired(struct loop_timer *timer)
{
    struct greet *greet = (struct greet *)((char *)timer - offsetof(struct greet, retry));
    struct greet_worker *next;

    for (struct greet_worker *worker = greet->workers; worker != NULL; worker = next) {
        next = worker->next;
        if (worker->greeted)
            serve_worker(worker);
        else
            greet_worker(worker);
    }
}

void
greet_cell_up(struct greet *greet, struct cell *cell)
{
    struct greet_worker *next;

    for (struct greet_worker *worker = greet->workers; worker != NULL; worker = next) {
        next = worker->next;
        if (worker->greeted && may_use_cell(worker, cell)) {
            worker->wanted[cell->number] = true;
            serve_worker(worker);
        }
    }
}

void
greet_ban(struct greet *greet, uint32_t uid, uint32_t pid)
{
    const uint64_t now = loop_now(greet->loop), others = greet->bans.others_until;
    const struct ban *ban =
        bans_add(&greet->bans, uid, pid, callers_is_named(&greet->callers, uid), now);
    struct greet_worker *next;

    if (ban == NULL)
        return;
    log_warning("uid %u (pid %u) froze a cell with a descriptor that it passed: kept out for %u s "
                "(time %u), and to one cell of a group for an hour after it",
                uid, pid, bans_left(&greet->bans, uid, true, now), ban->times);
    if (greet->bans.others_until != others)
        log_warning("more than %d users are kept out: so is everybody for now whom `users` in %s "
                    "does not name",
                    BANS_MAX, greet->config->file);
    for (struct greet_worker *worker = greet->workers; worker != NULL; worker = next) {
        next = worker->next;
        if (worker->who.uid == uid)
            drop_worker(worker);
    }
    cell_control_dismiss(greet->cells, uid);
}

/* ---- a new connection ---- */

static void
log_denied(struct greet *greet, const char *text)
{
    uint64_t now = loop_now(greet->loop);

    if (greet->denied_logged != 0 && now - greet->denied_logged < DENIED_LOG_MS) {
        greet->denied_silent++;
        return;
    }
    log_warning("worker refused: %s", text);
    if (greet->denied_silent > 0)
        log_warning("and %u more were refused before it", greet->denied_silent);
    greet->denied_silent = 0;
    greet->denied_logged = now;
}

/* Answer with a text and hang up. */
static void __attribute__((format(printf, 3, 4)))
deny(struct greet *greet, int fd, const char *format, ...)
{
    struct service_denied message;
    uint8_t body[SERVICE_TEXT_MAX + 4];
    va_list args;

    va_start(args, format);
    vsnprintf(message.text, sizeof(message.text), format, args);
    va_end(args);
    /* A fresh connection has room for this; if not, it is closed all the same. */
    (void)channel_send(fd, SERVICE_DENIED, body, service_put_denied(&message, body, sizeof(body)),
                       NULL, 0);
    leave(greet, fd);
    greet->denied++;
    log_denied(greet, message.text);
}

/* WELCOME and the contexts. Returns false if they could not be sent. */
static bool
send_welcome(const struct greet_worker *worker)
{
    const struct config *config = worker->greet->config;
    struct service_welcome welcome = {.protocol = SERVICE_PROTOCOL};
    uint8_t body[SERVICE_NAME_MAX + SERVICE_BUILD_MAX];
    size_t size;

    snprintf(welcome.build, sizeof(welcome.build), "%s", role_build_id);
    size = service_put_welcome(&welcome, body, sizeof(body));
    if (channel_send(worker->watch.fd, SERVICE_WELCOME, body, size, NULL, 0) != CHANNEL_OK)
        return false;
    for (size_t i = 0; i < config->context_count; i++) {
        const struct config_context *context = &config->contexts[i];
        struct service_context message = {.group = (uint16_t)context->cell_group,
                                          .listens = context->listen_count > 0};

        if (!greet_context_allows(context, &worker->who))
            continue;
        snprintf(message.name, sizeof(message.name), "%s", context->name);
        size = service_put_context(&message, body, sizeof(body));
        if (channel_send(worker->watch.fd, SERVICE_CONTEXT, body, size, NULL, 0) != CHANNEL_OK)
            return false;
    }
    return true;
}

/* A user's connections, and how many of them wait for their greeting. */
static unsigned
connections_of(const struct greet *greet, uid_t uid, unsigned *waiting)
{
    unsigned count = 0;

    *waiting = 0;
    for (const struct greet_worker *worker = greet->workers; worker != NULL;
         worker = worker->next) {
        count += worker->who.uid == uid;
        *waiting += worker->who.uid == uid && !worker->greeted;
    }
    return count;
}

/* WELCOME and the channels, if it is this user's turn; else later. May drop the worker. */
static void
greet_worker(struct greet_worker *worker)
{
    struct greet *greet = worker->greet;

    if (!pace_take(callers_pace(&greet->callers, worker->who.uid), loop_now(greet->loop),
                   greet->config->max_greetings, GREETINGS_BURST)) {
        if (greet->retry.previous == NULL)
            loop_timer_set(greet->loop, &greet->retry, RETRY_MS);
        return;
    }
    worker->greeted = true;
    if (!send_welcome(worker)) {
        drop_worker(worker);
        return;
    }
    for (unsigned i = 0; i < greet->cells->count; i++)
        worker->wanted[i] =
            greet->cells->list[i].state == CELL_UP && may_use_cell(worker, &greet->cells->list[i]);
    if (serve_worker(worker))
        log_debug("worker uid %u (pid %u) was greeted", worker->who.uid, worker->who.pid);
}

/* Take the connection in: from here on it is in the list and drop_worker() ends it. queue: others
 * of this user wait for their greeting, and have come before. */
static void
add_worker(struct greet *greet, int fd, const struct control_worker *who, bool queue)
{
    const int buffer = GREETING_BYTES;
    struct greet_worker *worker =
        calloc(1, sizeof(*worker) + greet->cells->count * sizeof(worker->wanted[0]));

    if (worker == NULL) {
        deny(greet, fd, "the agent is out of memory: try again later");
        return;
    }
    /* Many contexts make a long greeting; what does not fit ends the connection. */
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
    worker->greet = greet;
    worker->who = *who;
    loop_watch_init(&worker->watch, fd, worker_ready);
    worker->previous = greet->last_worker;
    if (worker->previous != NULL)
        worker->previous->next = worker;
    else
        greet->workers = worker;
    greet->last_worker = worker;
    greet->worker_count++;
    if (loop_watch_set(greet->loop, &worker->watch, EPOLLIN | EPOLLRDHUP) == -1)
        drop_worker(worker);
    else if (!queue)
        greet_worker(worker);
}

static void
greet_connection(struct greet *greet, int fd)
{
    const struct config *config = greet->config;
    unsigned queue_max = config->max_greetings - config->max_greetings / 5; /* 0.8 s */
    struct control_worker who;
    unsigned waiting;
    uint32_t banned;
    bool allowed = false;

    if (read_credentials(fd, config, &who) == -1) {
        deny(greet, fd, "the agent cannot see who is calling: %s", strerror(errno));
        return;
    }
    for (size_t i = 0; i < config->context_count && !allowed; i++)
        allowed = greet_context_allows(&config->contexts[i], &who);
    if (!allowed)
        deny(greet, fd,
             "not permitted: uid %u (pid %u) is in no context of this agent: add it to `workers` "
             "in %s",
             who.uid, who.pid, config->file);
    else if ((banned = bans_left(&greet->bans, who.uid, callers_is_named(&greet->callers, who.uid),
                                 loop_now(greet->loop))) > 0)
        deny(greet, fd,
             "uid %u is kept out for another %u s: a descriptor that %s passed has frozen a "
             "process of the agent (see the agent's log)",
             who.uid, banned,
             bans_remember(&greet->bans, who.uid, loop_now(greet->loop)) ? "it"
                                                                         : "one of many users");
    else if (connections_of(greet, who.uid, &waiting) >= config->max_channels)
        deny(greet, fd,
             "uid %u has %u connections to the agent already: close some, or raise "
             "`max_channels` in %s",
             who.uid, config->max_channels, config->file);
    else if (waiting >= queue_max) /* its library gives up after a second */
        deny(greet, fd,
             "uid %u connects more often than %u times a second: keep connections open, or raise "
             "`max_greetings` in %s",
             who.uid, config->max_greetings, config->file);
    else
        add_worker(greet, fd, &who, waiting > 0);
}

/* One connection per event: cells and signals get their turn in between. */
static void
listener_ready(struct loop_watch *watch, uint32_t events)
{
    struct greet *greet = (struct greet *)watch;
    bool exhausted;
    int fd;

    (void)events;
    if (hang_up_again() >= KEPT_MAX || /* each that is refused might have to be kept too */
        !pace_take(&greet->calls, loop_now(greet->loop), CALLS_PER_SECOND, CALLS_BURST)) {
        loop_watch_set(greet->loop, watch, 0);
        loop_timer_set(greet->loop, &greet->pause, PAUSE_MS);
        return;
    }
    fd = listen_accept(watch->fd, &greet->spare, &exhausted);
    if (fd == -1)
        return;
    if (!exhausted) {
        greet_connection(greet, fd);
        return;
    }
    deny(greet, fd, "the agent is out of file descriptors: raise its limit of open files");
    leave_all(greet); /* the spare one takes its place */
    greet->spare = listen_open_spare();
}

static void
pause_over(struct loop_timer *timer)
{
    struct greet *greet = (struct greet *)((char *)timer - offsetof(struct greet, pause));

    if (loop_watch_set(greet->loop, &greet->watch, EPOLLIN) == -1)
        log_die("cannot serve the socket: %s", strerror(errno));
}

void
greet_init(struct greet *greet, int listener, struct loop *loop, const struct config *config,
           struct cells *cells)
{
    memset(greet, 0, sizeof(*greet));
    greet->loop = loop;
    greet->config = config;
    greet->cells = cells;
    greet->spare = listen_open_spare();
    callers_init(&greet->callers, config);
    loop_timer_init(&greet->retry, retry_expired);
    loop_timer_init(&greet->pause, pause_over);
    loop_timer_init(&greet->leave, leave_expired);
    loop_watch_init(&greet->watch, listener, listener_ready);
    if (greet->spare == -1 || loop_watch_set(loop, &greet->watch, EPOLLIN) == -1)
        log_die("cannot serve the socket: %s", strerror(errno));
}
