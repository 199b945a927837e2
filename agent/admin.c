/*
 * admin.c: see admin.h.
 *
 * An answer is a numbered list of messages (the agent, the supervisor, each cell's two
 * processes, the fetcher, each context, each ban, the end). A session remembers the number that it
 * has come to.
 */
#include "agent/admin.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/listen.h"
#include "agent/log.h"
#include "agent/roles.h"
#include "agent/watchdog.h"
#include "protocol/admin.h"
#include "sandbox/sandbox.h"

static void
end_session(struct admin_session *session)
{
    struct loop *loop = session->admin->loop;

    loop_timer_stop(loop, &session->timer);
    loop_watch_set(loop, &session->watch, 0);
    close(session->watch.fd);
    session->watch.fd = -1;
    session->state = ADMIN_FREE;
}

/* ---- the messages of an answer ---- */

static size_t
put_agent(const struct admin *admin, void *body, size_t size)
{
    struct admin_agent message = {0};

    snprintf(message.build, sizeof(message.build), "%s", role_build_id);
    snprintf(message.configuration, sizeof(message.configuration), "%s", admin->config->file);
    message.uptime = (loop_now(admin->loop) - admin->started) / 1000;
    message.workers_denied = admin->greet->denied;
    message.layers_required = admin->config->sandbox_require;
    message.kernel = admin->cells->kernel;
    for (unsigned group = 0; group < admin->config->cell_group_count; group++) {
        message.generation = admin->generations[group].generation;
        message.identities += admin->generations[group].done.identities;
        message.keys += admin->generations[group].done.keys;
    }
    return admin_put_agent(&message, body, size);
}

static size_t
put_supervisor(const struct admin *admin, void *body, size_t size)
{
    struct admin_process message = {.role = CONTROL_SUPERVISOR, .pid = (uint32_t)getpid()};

    message.age = (loop_now(admin->loop) - admin->started) / 1000;
    message.pong.workers = admin->greet->worker_count;
    message.layers = sandbox_in_force();
    return admin_put_process(&message, body, size);
}

static size_t
put_process(const struct admin *admin, const struct cell_process *process, void *body, size_t size)
{
    const struct cell *cell = process->cell;
    struct admin_process message = {.role = (uint8_t)process->role,
                                    .group = (uint16_t)cell->group,
                                    .cell = (uint16_t)cell->number,
                                    .pid = (uint32_t)process->pid,
                                    .restarts = cell->restarts,
                                    .layers = process->layers,
                                    .pong = process->pong};

    if (process->pid > 0)
        message.age = (loop_now(admin->loop) - process->started) / 1000;
    return admin_put_process(&message, body, size);
}

static size_t
put_context(const struct admin *admin, unsigned index, void *body, size_t size)
{
    const struct config_context *context = &admin->config->contexts[index];
    struct admin_context message = {.group = (uint16_t)context->cell_group,
                                    .listeners = (uint16_t)context->listen_count};

    snprintf(message.name, sizeof(message.name), "%s", context->name);
    cells_sum_counters(admin->cells, index, &message.counters);
    return admin_put_context(&message, body, size);
}

static size_t
put_ban(const struct admin *admin, const struct ban *ban, void *body, size_t size)
{
    struct admin_ban message = {
        .uid = ban->uid,
        .pid = ban->pid,
        .times = ban->times,
        .seconds = bans_left(&admin->greet->bans, ban->uid, ban->named, loop_now(admin->loop))};

    return admin_put_ban(&message, body, size);
}

static size_t
put_fetcher(const struct admin *admin, void *body, size_t size)
{
    const struct fetch *fetch = admin->fetch;
    struct admin_process message = {.role = CONTROL_FETCHER,
                                    .pid = (uint32_t)fetch->pid,
                                    .restarts = fetch->restarts,
                                    .layers = fetch->layers,
                                    .pong = fetch->pong};

    if (fetch->pid > 0)
        message.age = (loop_now(admin->loop) - fetch->started) / 1000;
    return admin_put_process(&message, body, size);
}

/* Send message number n of the answer. *last: it was the end. */
static enum channel_result
send_message(const struct admin *admin, int channel, size_t n, bool *last)
{
    uint8_t body[2 * LOAD_PATH_MAX];
    const struct ban *ban;
    uint16_t type = ADMIN_PROCESS;
    size_t size, fetchers = admin->config->fleet_store != NULL;

    *last = false;
    if (n == 0) {
        type = ADMIN_AGENT;
        size = put_agent(admin, body, sizeof(body));
    } else if (n == 1) {
        size = put_supervisor(admin, body, sizeof(body));
    } else if ((n -= 2) < 2 * (size_t)admin->cells->count) {
        const struct cell *cell = &admin->cells->list[n / 2];

        size =
            put_process(admin, n % 2 == 0 ? &cell->handshaker : &cell->keeper, body, sizeof(body));
    } else if ((n -= 2 * (size_t)admin->cells->count) < fetchers) {
        size = put_fetcher(admin, body, sizeof(body));
    } else if ((n -= fetchers) < admin->config->context_count) {
        type = ADMIN_CONTEXT;
        size = put_context(admin, (unsigned)n, body, sizeof(body));
    } else if ((ban = bans_get(&admin->greet->bans, n - admin->config->context_count,
                               loop_now(admin->loop))) != NULL) {
        type = ADMIN_BAN;
        size = put_ban(admin, ban, body, sizeof(body));
    } else {
        *last = true;
        return channel_send(channel, ADMIN_END, NULL, 0, NULL, 0);
    }
    if (size == 0)
        log_bug("an answer to `tlsagent status` does not fit its message");
    return channel_send(channel, type, body, size, NULL, 0);
}

/* Send what there is room for. */
static void
go_on(struct admin_session *session)
{
    bool last;

    for (;;) {
        switch (send_message(session->admin, session->watch.fd, session->next, &last)) {
        case CHANNEL_OK:
            session->next++;
            if (!last)
                break;
            end_session(session);
            return;
        case CHANNEL_AGAIN:
            if (loop_watch_set(session->admin->loop, &session->watch, EPOLLOUT) == -1)
                end_session(session);
            return;
        default:
            end_session(session);
            return;
        }
    }
}

static void
answer(struct admin_session *session)
{
    session->state = ADMIN_ANSWERING;
    session->next = 0;
    loop_timer_set(session->admin->loop, &session->timer, ADMIN_PATIENCE_MS);
    go_on(session);
}

void
admin_answered(struct admin *admin)
{
    for (size_t i = 0; i < ADMIN_SESSIONS; i++) {
        if (admin->sessions[i].state == ADMIN_COLLECTING)
            answer(&admin->sessions[i]);
    }
}

/* ---- upgrade ---- */

/* Say how it went, and hang up. */
static void
tell_upgrade(struct admin_session *session, const struct error *error)
{
    struct load_text message;
    uint8_t body[ERROR_TEXT_MAX + 2];

    if (error->text[0] == '\0') {
        (void)channel_send(session->watch.fd, ADMIN_END, NULL, 0, NULL, 0);
    } else {
        memcpy(message.text, error->text, sizeof(message.text));
        (void)channel_send(session->watch.fd, ADMIN_DENIED, body,
                           load_put_text(&message, body, sizeof(body)), NULL, 0);
    }
    end_session(session);
}

static void
begin_upgrade(struct admin_session *session)
{
    struct error error = {""};

    session->state = ADMIN_UPGRADING;
    loop_timer_set(session->admin->loop, &session->timer, ADMIN_UPGRADE_MS);
    if (!session->admin->upgrade(session->admin->upgrade_data, &error))
        tell_upgrade(session, &error);
}

void
admin_upgrade_tried(struct admin *admin, const struct error *error)
{
    for (size_t i = 0; i < ADMIN_SESSIONS; i++) {
        if (admin->sessions[i].state == ADMIN_UPGRADING)
            tell_upgrade(&admin->sessions[i], error);
    }
}

/* ---- sessions ---- */

static void
session_expired(struct loop_timer *timer)
{
    struct admin_session *session =
        (struct admin_session *)((char *)timer - offsetof(struct admin_session, timer));

    if (session->state == ADMIN_COLLECTING)
        answer(session);
    else
        end_session(session);
}

static void
session_ready(struct loop_watch *watch, uint32_t events)
{
    struct admin_session *session = (struct admin_session *)watch;
    struct admin *admin = session->admin;
    struct channel_message message;
    struct error error = {""};
    uint8_t buffer[64]; /* no request has a body */

    if (session->state == ADMIN_ANSWERING && (events & EPOLLOUT) != 0) {
        go_on(session);
        return;
    }
    switch (channel_receive(watch->fd, admin_supervisor_rules, admin_supervisor_rule_count, buffer,
                            sizeof(buffer), &message, &error)) {
    case CHANNEL_OK:
        break;
    case CHANNEL_AGAIN:
        return;
    case CHANNEL_REFUSED:
        log_warning("control socket: %s: closed", error.text);
        end_session(session);
        return;
    default:
        end_session(session);
        return;
    }
    if (session->state != ADMIN_ASKED_NOTHING) {
        log_warning("control socket: a second request on one connection: closed");
        end_session(session);
        return;
    }
    if (message.type == ADMIN_UPGRADE) {
        begin_upgrade(session);
        return;
    }
    session->state = ADMIN_COLLECTING;
    loop_timer_set(admin->loop, &session->timer, ADMIN_ANSWER_MS);
    watchdog_ping(admin->cells);
    if (watchdog_answered(admin->cells)) /* nobody runs */
        answer(session);
}

static void
deny(int fd, const char *text)
{
    struct load_text message;
    uint8_t body[ERROR_TEXT_MAX + 2];

    snprintf(message.text, sizeof(message.text), "%s", text);
    (void)channel_send(fd, ADMIN_DENIED, body, load_put_text(&message, body, sizeof(body)), NULL,
                       0);
    close(fd);
}

static void
open_session(struct admin_session *session, int fd)
{
    loop_watch_init(&session->watch, fd, session_ready);
    session->state = ADMIN_ASKED_NOTHING;
    loop_timer_set(session->admin->loop, &session->timer, ADMIN_PATIENCE_MS);
    if (loop_watch_set(session->admin->loop, &session->watch, EPOLLIN) == -1)
        end_session(session);
}

static void
listener_ready(struct loop_watch *watch, uint32_t events)
{
    struct admin *admin = (struct admin *)watch;
    bool exhausted;
    int fd = listen_accept(watch->fd, &admin->spare, &exhausted);
    struct ucred peer;
    socklen_t size = sizeof(peer);

    (void)events;
    if (fd == -1)
        return;
    if (exhausted) {
        deny(fd, "the agent is out of file descriptors: raise its limit of open files");
        admin->spare = listen_open_spare();
        return;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == -1 ||
        (peer.uid != 0 && peer.uid != geteuid())) {
        deny(fd, "not permitted: only root and the user that runs the agent may ask");
        return;
    }
    for (size_t i = 0; i < ADMIN_SESSIONS; i++) {
        if (admin->sessions[i].state == ADMIN_FREE) {
            open_session(&admin->sessions[i], fd);
            return;
        }
    }
    deny(fd, "others are asking just now: try again");
}

void
admin_init(struct admin *admin, int listener, struct loop *loop, const struct config *config,
           struct cells *cells, const struct greet *greet, const struct load_result *generations)
{
    memset(admin, 0, sizeof(*admin));
    admin->loop = loop;
    admin->config = config;
    admin->cells = cells;
    admin->greet = greet;
    admin->generations = generations;
    admin->started = loop_now(loop);
    admin->spare = listen_open_spare();
    for (size_t i = 0; i < ADMIN_SESSIONS; i++) {
        admin->sessions[i].admin = admin;
        admin->sessions[i].watch.fd = -1;
        loop_timer_init(&admin->sessions[i].timer, session_expired);
    }
    loop_watch_init(&admin->watch, listener, listener_ready);
    if (admin->spare == -1 || loop_watch_set(loop, &admin->watch, EPOLLIN) == -1)
        log_die("cannot serve the control socket: %s", strerror(errno));
}
