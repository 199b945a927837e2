/*
 * cell.c: the channels to the cells: asking for handshakes, their answers, and a channel's end.
 *
 * An id is a counter of the channel. The handshaker answers each request once, so an answer to
 * something that was never asked, or was answered before, means that it is broken (or taken
 * over): the channel is closed. Answers to requests that we cancelled are counted and dropped.
 */
#include "client/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static struct conn_list *
bucket(struct cell *cell, uint32_t id)
{
    return &cell->asked[id % CELL_BUCKETS];
}

static struct tlsagent_conn *
find_asked(struct cell *cell, uint32_t id)
{
    struct tlsagent_conn *conn = NULL;

    TAILQ_FOREACH(conn, bucket(cell, id), link)
    {
        if (conn->request->id == id)
            return conn;
    }
    return NULL;
}

/* True if fd can be a channel. */
static bool
is_seqpacket(int fd)
{
    int domain = 0, type = 0;
    socklen_t size = sizeof(int);

    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX &&
           getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_SEQPACKET;
}

static struct cell *
find_or_add(struct tlsagent *agent, uint16_t group, uint16_t number)
{
    struct cell *cell = agent->cells;

    while (cell != NULL && (cell->group != group || cell->number != number))
        cell = cell->next;
    if (cell != NULL || agent->cell_count == AGENT_CELLS_MAX)
        return cell;
    cell = calloc(1, sizeof(*cell));
    if (cell == NULL)
        return NULL;
    cell->fd = -1;
    cell->group = group;
    cell->number = number;
    for (size_t i = 0; i < CELL_BUCKETS; i++)
        TAILQ_INIT(&cell->asked[i]);
    TAILQ_INIT(&cell->queued);
    cell->next = agent->cells;
    agent->cells = cell;
    agent->cell_count++;
    return cell;
}

int
cell_install(struct tlsagent *agent, const struct service_channel *said, int fd)
{
    struct cell *cell = is_seqpacket(fd) ? find_or_add(agent, said->group, said->cell) : NULL;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = cell};

    if (cell != NULL && cell->fd != -1) {
        cell_drain(agent, cell);
        cell_lose(agent, cell, NULL);
    }
    if (cell == NULL || epoll_ctl(agent->epoll, EPOLL_CTL_ADD, fd, &event) == -1) {
        close(fd);
        return -1;
    }
    cell->fd = fd;
    cell->serial = ++agent->serials;
    cell->next_id = 1;
    cell->unanswered = cell->cancel_count = 0;
    cell->want_out = false;
    agent->dispatch_due = true;
    pull_grant_all(agent, cell);
    cell_flush(agent, cell);
    return 0;
}

/* The cell had this connection. If no other can have it, the peer is told now: a process that is
 * frozen keeps its copy of the socket open, and the caller's close() would tell nobody. */
static void
lose_asked(struct tlsagent *agent, struct tlsagent_conn *conn, const char *why)
{
    if (agent->greeting != -1 && conn_retry(conn, false))
        return;
    (void)shutdown(conn->fd, SHUT_RDWR);
    if (agent->greeting == -1)
        conn_fail(conn, TLSAGENT_E_AGENT, "%s (during the handshake)", agent->trouble.text);
    else
        conn_fail(conn, TLSAGENT_E_RETRY,
                  "the agent's process %s during the handshake; the peer may connect again",
                  why != NULL ? why : "died");
}

void
cell_lose(struct tlsagent *agent, struct cell *cell, const char *why)
{
    struct tlsagent_conn *conn;

    if (cell->fd != -1)
        close(cell->fd); /* which takes it out of the epoll set */
    cell->fd = -1;
    memset(cell->grants, 0, sizeof(cell->grants));
    for (size_t i = 0; i < CELL_BUCKETS; i++) {
        while ((conn = TAILQ_FIRST(&cell->asked[i])) != NULL)
            lose_asked(agent, conn, why);
    }
    while ((conn = TAILQ_FIRST(&cell->queued)) != NULL)
        conn_wait(conn); /* nothing was sent */
    agent->dispatch_due = true;
    cell->busy = 0;
}

struct cell *
cell_choose(struct tlsagent *agent, const char *context, uint64_t avoid)
{
    const struct context *known = agent_find_context(agent, context);
    struct cell *best = NULL;
    size_t equals = 0, pick;

    for (struct cell *c = agent->cells; c != NULL; c = c->next) {
        if (c->fd == -1 || c->serial == avoid || (known != NULL && c->group != known->said.group))
            continue;
        if (best == NULL || c->busy < best->busy) {
            best = c;
            equals = 0;
        }
        equals += c->busy == best->busy;
    }
    if (equals < 2)
        return best;
    pick = agent->turn++ % equals;
    for (struct cell *c = best; c != NULL; c = c->next) {
        if (c->fd == -1 || c->serial == avoid || (known != NULL && c->group != known->said.group) ||
            c->busy != best->busy)
            continue;
        if (pick-- == 0)
            return c;
    }
    return best;
}

/* Ask for EPOLLOUT, or no longer. */
static void
want_out(struct tlsagent *agent, struct cell *cell, bool want)
{
    struct epoll_event event = {.events = EPOLLIN | (want ? EPOLLOUT : 0), .data.ptr = cell};

    if (cell->want_out == want)
        return;
    if (epoll_ctl(agent->epoll, EPOLL_CTL_MOD, cell->fd, &event) == 0)
        cell->want_out = want;
}

static enum channel_result
send_accept(struct tlsagent_conn *conn, struct cell *cell, uint32_t id)
{
    const struct conn_request *request = conn->request;
    struct service_accept ask = {.id = id, .forms = request->forms};
    uint8_t body[16 + SERVICE_NAME_MAX];
    size_t size;

    if (request->deadline != 0) {
        int64_t rest = request->deadline - agent_now();

        ask.deadline_ms = rest > 0 ? (uint32_t)rest : 1;
    }
    memcpy(ask.context, request->context, sizeof(ask.context));
    size = service_put_accept(&ask, body, sizeof(body));
    return channel_send(cell->fd, SERVICE_ACCEPT, body, size, &conn->fd, 1);
}

int
cell_ask(struct tlsagent *agent, struct cell *cell, struct tlsagent_conn *conn)
{
    uint32_t id = cell->next_id;
    enum channel_result result;

    while (id == 0 || find_asked(cell, id) != NULL) /* after 2^32 of them */
        id++;
    result = conn->phase != CONN_QUEUED && !TAILQ_EMPTY(&cell->queued)
                 ? CHANNEL_AGAIN
                 : send_accept(conn, cell, id);
    switch (result) {
    case CHANNEL_OK:
        if (conn->phase != CONN_QUEUED)
            cell->busy++;
        conn->request->cell = cell;
        conn->request->id = id;
        cell->next_id = id + 1;
        conn_move(conn, bucket(cell, id), CONN_ASKED);
        return 0;
    case CHANNEL_AGAIN:
        if (conn->phase != CONN_QUEUED) {
            cell->busy++;
            conn->request->cell = cell;
            conn_move(conn, &cell->queued, CONN_QUEUED);
        }
        want_out(agent, cell, true);
        return 0;
    case CHANNEL_CLOSED:
    case CHANNEL_REFUSED:
        return -1;
    case CHANNEL_FAILED:
        break;
    }
    if (conn->phase == CONN_QUEUED)
        cell->busy--;
    if (errno == ETOOMANYREFS)
        conn_fail(conn, TLSAGENT_E_BUSY,
                  "this user has too many descriptors on their way to the agent: try again later");
    else
        conn_fail(conn, errno == EBADF ? TLSAGENT_E_ARGUMENT : TLSAGENT_E_SYSTEM,
                  "cannot pass fd %d to the agent: %s", conn->fd, strerror(errno));
    return 0;
}

static enum channel_result
send_cancels(struct cell *cell)
{
    while (cell->cancel_count > 0) {
        struct service_cancel cancel = {.id = cell->cancels[cell->cancel_count - 1]};
        uint8_t body[8];
        size_t size = service_put_cancel(&cancel, body, sizeof(body));
        enum channel_result result = channel_send(cell->fd, SERVICE_CANCEL, body, size, NULL, 0);

        if (result == CHANNEL_AGAIN)
            return result;
        cell->cancel_count--;
    }
    return CHANNEL_OK;
}

void
cell_cancel(struct tlsagent *agent, struct tlsagent_conn *conn)
{
    struct cell *cell = conn->request->cell;

    cell->busy--;
    if (conn->phase != CONN_ASKED || cell->fd == -1)
        return;
    cell->unanswered++;
    /* If even the list is full the handshake just runs to its deadline. */
    if (cell->cancel_count < CELL_CANCELS_MAX)
        cell->cancels[cell->cancel_count++] = conn->request->id;
    if (send_cancels(cell) == CHANNEL_AGAIN)
        want_out(agent, cell, true);
}

void
cell_flush(struct tlsagent *agent, struct cell *cell)
{
    struct tlsagent_conn *conn;

    if (cell->fd == -1)
        return;
    if (send_cancels(cell) != CHANNEL_AGAIN && pull_send_owed(agent, cell) != CHANNEL_AGAIN) {
        while ((conn = TAILQ_FIRST(&cell->queued)) != NULL) {
            /* A dead cell is noticed when its end is read. */
            if (cell_ask(agent, cell, conn) == -1 || conn->phase == CONN_QUEUED)
                break;
        }
    }
    want_out(agent, cell, cell->cancel_count > 0 || pull_owed(cell) || !TAILQ_EMPTY(&cell->queued));
}

/* The handshake is done: facts, then the data stream. */
static int
handle_finished(struct cell *cell, const struct channel_message *message, struct error *error)
{
    struct service_finished said;
    struct tlsagent_conn *conn = NULL;
    int rc = -1;

    if (!service_get_finished(&said, message->body, message->size))
        error_set(error, "sent a malformed answer");
    else if ((conn = find_asked(cell, said.id)) == NULL) {
        if (cell->unanswered > 0) {
            cell->unanswered--;
            rc = 0;
        } else
            error_set(error, "answered what nobody asked");
    } else if (!conn_form_fits(said.form, conn->request->forms))
        error_set(error, "answered in a form that was not asked for");
    else if (strcmp(said.context, conn->request->context) != 0)
        error_set(error, "answered for another context");
    else if (!facts_chain_valid(said.chain, said.chain_size))
        error_set(error, "sent a malformed chain");
    else {
        cell->busy--;
        conn_start_stream(conn, &said);
        conn_finish(conn, conn->code == TLSAGENT_OK ? CONN_DONE : CONN_FAILED);
        rc = 0;
    }
    explicit_bzero(&said, sizeof(said));
    return rc;
}

static int
handle_failed(struct tlsagent *agent, struct cell *cell, const struct channel_message *message,
              struct error *error)
{
    static const uint8_t codes[] = {
        [SERVICE_NOT_PERMITTED] = TLSAGENT_E_NOT_PERMITTED,
        [SERVICE_BAD_REQUEST] = TLSAGENT_E_ARGUMENT,
        [SERVICE_BUSY] = TLSAGENT_E_BUSY,
        [SERVICE_DEADLINE] = TLSAGENT_E_DEADLINE,
        [SERVICE_PEER_CLOSED] = TLSAGENT_E_CLOSED,
        [SERVICE_PEER_ALERT] = TLSAGENT_E_ALERT,
        [SERVICE_HANDSHAKE] = TLSAGENT_E_HANDSHAKE,
        [SERVICE_INTERNAL] = TLSAGENT_E_AGENT,
    };
    struct service_failed said;
    struct tlsagent_conn *conn;
    char text[SERVICE_TEXT_MAX];

    if (!service_get_failed(&said, message->body, message->size))
        return error_set(error, "sent a malformed failure");
    error_printable(text, sizeof(text), said.text, strlen(said.text));
    if (text[0] == '\0')
        snprintf(text, sizeof(text), "the agent refused (reason %u)", said.reason);
    if (said.id == 0) {
        agent_fail(agent, codes[said.reason], "%s", text);
        agent->pull_failed = true;
        agent->damaged |= said.retryable == 1; /* the credits are lost: to be given again */
        return 0;
    }
    conn = find_asked(cell, said.id);
    if (conn == NULL && cell->unanswered > 0) {
        cell->unanswered--;
        return 0;
    }
    if (conn == NULL)
        return error_set(error, "answered what nobody asked");
    cell->busy--;
    if (said.retryable == 1 && conn_retry(conn, true))
        return 0;
    conn_fail(conn, codes[said.reason], "%s", text);
    conn->alert = said.alert == 255 ? -1 : said.alert;
    return 0;
}

static int
handle_answer(struct tlsagent *agent, struct cell *cell, struct channel_message *message,
              struct error *error)
{
    switch (message->type) {
    case SERVICE_FINISHED:
        return handle_finished(cell, message, error);
    case SERVICE_FAILED:
        return handle_failed(agent, cell, message, error);
    default:
        return pull_handle_delivered(agent, cell, message, error);
    }
}

/* Several answers in one message, each with its fd: as if they had come one by one. */
static int
handle_batch(struct tlsagent *agent, struct cell *cell, struct channel_message *message,
             struct error *error)
{
    struct service_batch batch;
    size_t fd = 0;
    int rc = 0;

    if (!service_get_batch(&batch, message->body, message->size))
        return error_set(error, "sent a malformed batch");
    if (batch.fd_count != message->fd_count)
        return error_set(error, "sent a batch of %u connections with %u fds", batch.fd_count,
                         message->fd_count);
    for (size_t i = 0; i < batch.count && rc == 0; i++) {
        const struct service_part *part = &batch.parts[i];
        struct channel_message one = {.type = part->type, .size = part->size, .body = part->body};

        if (part->type == SERVICE_DELIVERED) {
            one.fds[0] = channel_take_fd(message, fd++);
            one.fd_count = 1;
        }
        rc = handle_answer(agent, cell, &one, error);
        channel_message_clear(&one);
    }
    return rc;
}

/* Read up to limit messages. Anything but CHANNEL_OK and CHANNEL_AGAIN: the channel must go. */
static enum channel_result
read_messages(struct tlsagent *agent, struct cell *cell, size_t limit, struct error *error)
{
    while (limit-- > 0) {
        struct channel_message message;
        enum channel_result result =
            channel_receive(cell->fd, service_worker_rules, service_worker_rule_count,
                            agent->buffer, CHANNEL_BUFFER_SIZE, &message, error);

        if (result == CHANNEL_OK) {
            if ((message.type == SERVICE_BATCH ? handle_batch
                                               : handle_answer)(agent, cell, &message, error) == -1)
                result = CHANNEL_REFUSED;
            if (message.type != SERVICE_FAILED) /* it held keys */
                explicit_bzero(agent->buffer, message.size + 2);
            channel_message_clear(&message);
        } else if (result == CHANNEL_REFUSED || result == CHANNEL_FAILED)
            explicit_bzero(agent->buffer, CHANNEL_BUFFER_SIZE);
        if (result != CHANNEL_OK)
            return result;
    }
    return CHANNEL_OK;
}

void
cell_drain(struct tlsagent *agent, struct cell *cell)
{
    struct error error = {""};

    /* More cannot be honest: one answer for each request, one delivery for each credit. */
    size_t most = cell->busy + cell->unanswered + (size_t)SERVICE_CREDIT_MAX * AGENT_PULLS_MAX;

    /* If it died with requests unread the end is told first, once, and then what it had sent. */
    if (read_messages(agent, cell, most, &error) == CHANNEL_CLOSED)
        read_messages(agent, cell, most, &error);
}

void
cell_handle_event(struct tlsagent *agent, struct cell *cell, uint32_t events)
{
    struct error error = {""};
    char why[sizeof(error.text) + 32];

    if (cell->fd == -1) /* closed by an earlier event of this round */
        return;
    if ((events & EPOLLOUT) != 0)
        cell_flush(agent, cell);
    /* One: what has become ready together comes in one message, so another one is seldom there. */
    switch (read_messages(agent, cell, 1, &error)) {
    case CHANNEL_OK:
    case CHANNEL_AGAIN:
        return;
    case CHANNEL_CLOSED:
        if (!agent_notice_loss(agent)) {
            cell_drain(agent, cell);
            cell_lose(agent, cell, NULL);
        }
        return;
    case CHANNEL_REFUSED:
    case CHANNEL_FAILED:
        agent->damaged = true;
        snprintf(why, sizeof(why), "broke the protocol (%s)", error.text);
        cell_lose(agent, cell, why);
        return;
    }
}
