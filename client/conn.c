/*
 * conn.c: one connection: made, handshaken by the agent, freed. Its data is in data.c.
 */
#include "client/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define DEADLINE_GRACE_MS 1000 /* the agent keeps the deadline; so much later we do */

struct tlsagent_conn *
conn_new(int fd)
{
    struct tlsagent_conn *conn = calloc(1, sizeof(*conn));

    if (conn == NULL)
        return NULL;
    conn->fd = fd;
    conn->alert = -1;
    conn->phase = CONN_PREPARED;
    return conn;
}

void
conn_free(struct tlsagent_conn *conn)
{
    stream_clear(&conn->stream);
    if (conn->owns_fd)
        close(conn->fd);
    free(conn->request);
    free(conn->facts);
    free(conn->error);
    free(conn);
}

void
conn_move(struct tlsagent_conn *conn, struct conn_list *list, enum conn_phase phase)
{
    if (conn->list != NULL)
        TAILQ_REMOVE(conn->list, conn, link);
    if (list != NULL)
        TAILQ_INSERT_TAIL(list, conn, link);
    conn->list = list;
    conn->phase = (uint8_t)phase;
}

void
conn_wait(struct tlsagent_conn *conn)
{
    struct conn_request *request = conn->request;
    struct conn_list *waiting = &conn->agent->waiting;
    struct tlsagent_conn *before = NULL;

    if (conn->phase == CONN_WAITING)
        return;
    request->wait_until = agent_now() + AGENT_ANSWER_MS;
    if (request->deadline != 0 && request->deadline < request->wait_until)
        request->wait_until = request->deadline;
    conn_move(conn, NULL, CONN_WAITING);
    TAILQ_FOREACH_REVERSE(before, waiting, conn_list, link)
    {
        if (before->request->wait_until <= request->wait_until)
            break;
    }
    if (before != NULL)
        TAILQ_INSERT_AFTER(waiting, before, conn, link);
    else
        TAILQ_INSERT_HEAD(waiting, conn, link);
    conn->list = waiting;
}

void
conn_finish(struct tlsagent_conn *conn, enum conn_phase phase)
{
    conn_move(conn, &conn->agent->finished, phase);
    if (phase == CONN_DONE) {
        free(conn->request);
        conn->request = NULL;
    }
}

void
conn_detach(struct tlsagent_conn *conn)
{
    conn_move(conn, NULL, conn->phase);
    conn->agent = NULL;
}

void
conn_take(struct tlsagent_conn *conn)
{
    struct tlsagent *agent = conn->agent;

    conn_detach(conn);
    if (conn->delivered && agent != NULL)
        pull_replace_credit(agent, conn->serial, tlsagent_conn_context(conn));
}

int
conn_set_error(struct tlsagent_conn *conn, int code, const char *format, ...)
{
    char text[ERROR_TEXT_MAX + 128];
    va_list args;

    if (conn->code != TLSAGENT_OK)
        return -1;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    conn->code = (uint8_t)code;
    conn->error = strdup(text); /* if that fails the code has a text of its own */
    return -1;
}

void
conn_clear_error(struct tlsagent_conn *conn)
{
    free(conn->error);
    conn->error = NULL;
    conn->code = TLSAGENT_OK;
    conn->alert = -1;
}

void
conn_fail(struct tlsagent_conn *conn, int code, const char *format, ...)
{
    char text[ERROR_TEXT_MAX + 128];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    conn_clear_error(conn); /* of a wrong call meanwhile */
    conn_set_error(conn, code, "%s", text);
    conn_finish(conn, CONN_FAILED);
}

const char *
conn_forms_read(unsigned forms, uint8_t *asked, bool *plain)
{
    const unsigned known = CONN_FORMS_AUTO | TLSAGENT_FORM_STREAM;

    if (forms != TLSAGENT_FORM_KERNEL_PLAIN && (forms & TLSAGENT_FORM_KERNEL_PLAIN) != 0)
        return "TLSAGENT_FORM_KERNEL_PLAIN cannot be combined with other forms";
    if ((forms & ~(known | TLSAGENT_FORM_KERNEL_PLAIN)) != 0)
        return "a hand-back form that is not known";
    *plain = forms == TLSAGENT_FORM_KERNEL_PLAIN;
    *asked = *plain ? SERVICE_FORM_KERNEL : forms != 0 ? (uint8_t)forms : CONN_FORMS_AUTO;
    return NULL;
}

bool
conn_form_fits(uint8_t form, uint8_t asked)
{
    if ((asked & SERVICE_FORM_STREAM) != 0)
        asked |= SERVICE_FORM_RECORDS;
    return (form & asked) != 0;
}

void
conn_dispatch(struct tlsagent_conn *conn)
{
    struct tlsagent *agent = conn->agent;
    struct conn_request *request = conn->request;

    for (;;) {
        struct cell *cell;

        if (agent_connect(agent) == -1) {
            if (agent->crowded) { /* tend() tries again, until the time of those who wait is up */
                conn_wait(conn);
                return;
            }
            if (agent->trouble_code == TLSAGENT_E_NOT_PERMITTED)
                conn_fail(conn, agent->trouble_code, "context \"%s\": %s", conn->request->context,
                          agent->trouble.text);
            else
                conn_fail(conn, agent->trouble_code, "%s", agent->trouble.text);
            return;
        }
        cell = cell_choose(agent, request->context, request->avoid);
        if (cell == NULL && request->avoid != 0)
            cell = cell_choose(agent, request->context, 0); /* better than none */
        if (cell == NULL) {
            conn_wait(conn);
            return;
        }
        if (cell_ask(agent, cell, conn) == 0)
            return;
        if (!agent_notice_loss(agent)) {
            cell_drain(agent, cell);
            cell_lose(agent, cell, NULL);
        }
    }
}

/* True if it can be shown that nobody has read from or written to the connection: TCP only, and
 * never after a STARTTLS. (A FIN that came counts as a byte read: harmless, the peer is gone.) */
static bool
is_untouched(int fd)
{
    struct tcp_info info;
    socklen_t size = sizeof(info);
    int unread;

    memset(&info, 0, sizeof(info));
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 &&
           size >= offsetof(struct tcp_info, tcpi_bytes_sent) + sizeof(info.tcpi_bytes_sent) &&
           ioctl(fd, SIOCINQ, &unread) == 0 && info.tcpi_bytes_sent == 0 &&
           info.tcpi_bytes_received == (uint64_t)unread;
}

bool
conn_retry(struct tlsagent_conn *conn, bool proven)
{
    struct conn_request *request = conn->request;
    struct tlsagent *agent = conn->agent;

    if (request->retries >= CONN_RETRIES_MAX)
        return false;
    if (proven) {
        /* It lives and says no: only another one may say otherwise. */
        request->avoid = request->cell->serial;
        if (cell_choose(agent, request->context, request->avoid) == NULL)
            return false;
    } else if (!is_untouched(conn->fd))
        return false;
    request->retries++;
    conn_wait(conn);
    agent->dispatch_due = true;
    return true;
}

void
conn_expire(struct tlsagent_conn *conn)
{
    struct tlsagent *agent = conn->agent;
    const char *context = conn->request->context;

    if (conn->request->deadline != 0 && agent_now() >= conn->request->deadline)
        conn_fail(conn, TLSAGENT_E_DEADLINE, "the handshake did not begin within %u ms",
                  conn->request->deadline_ms);
    else if (agent->greeting == -1)
        conn_fail(conn, agent->trouble_code, "%s", agent->trouble.text);
    else if (!agent->welcomed)
        conn_fail(conn, TLSAGENT_E_AGENT, "the agent at %s does not answer", agent->path);
    else if (agent_find_context(agent, context) == NULL)
        conn_fail(conn, TLSAGENT_E_NOT_PERMITTED,
                  "context \"%s\" is not permitted for uid %u: see its \"workers\" in the agent's "
                  "configuration",
                  context, (unsigned)geteuid());
    else
        conn_fail(conn, TLSAGENT_E_AGENT,
                  "the agent at %s has no process running for context \"%s\": try again, and see "
                  "its log",
                  agent->path, context);
}

void
conn_start_stream(struct tlsagent_conn *conn, const struct service_finished *said)
{
    struct error error = {""};

    conn_clear_error(conn);
    conn->facts = facts_new(said);
    if (conn->facts == NULL)
        conn_set_error(conn, TLSAGENT_E_MEMORY, "out of memory");
    else if (said->form == SERVICE_FORM_KERNEL
                 ? ktls_start(&conn->stream, conn->fd, &said->state, true, &error) == -1
                 : stream_start(&conn->stream, conn->fd, &said->state, true, said->early,
                                said->early_size, &error) == -1)
        conn_set_error(conn, conn->stream.code, "%s", error.text);
    conn->plain = conn->request != NULL && conn->request->plain;
}

/* A connected stream socket, nothing else: else the error is the handle's. */
static int
check_socket(struct tlsagent *agent, int fd)
{
    struct sockaddr_storage peer;
    socklen_t size = sizeof(int);
    int type = 0;

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == -1)
        return agent_fail(agent, TLSAGENT_E_ARGUMENT, "fd %d is not a socket: %s", fd,
                          strerror(errno));
    if (type != SOCK_STREAM)
        return agent_fail(agent, TLSAGENT_E_ARGUMENT, "fd %d is not a stream socket", fd);
    size = sizeof(peer);
    if (getpeername(fd, (struct sockaddr *)&peer, &size) == -1)
        return agent_fail(agent, TLSAGENT_E_ARGUMENT, "fd %d is not connected: %s", fd,
                          strerror(errno));
    return 0;
}

struct tlsagent_conn *
tlsagent_accept_fd(struct tlsagent *agent, const char *context, int fd)
{
    struct tlsagent_conn *conn;
    size_t size = context != NULL ? strlen(context) : 0;

    if (agent == NULL || agent_check_owner(agent) == -1)
        return NULL;
    agent_clear_error(agent);
    if (size == 0 || size >= SERVICE_NAME_MAX) {
        agent_fail(agent, TLSAGENT_E_ARGUMENT, "the name of a context has 1 to %d bytes",
                   SERVICE_NAME_MAX - 1);
        return NULL;
    }
    if (check_socket(agent, fd) == -1)
        return NULL;
    conn = conn_new(fd);
    if (conn != NULL)
        conn->request = calloc(1, sizeof(*conn->request));
    if (conn == NULL || conn->request == NULL) {
        free(conn);
        agent_fail(agent, TLSAGENT_E_MEMORY, "out of memory");
        return NULL;
    }
    memcpy(conn->request->context, context, size);
    conn->request->forms = CONN_FORMS_AUTO;
    conn->agent = agent;
    conn_move(conn, &agent->prepared, CONN_PREPARED);
    return conn;
}

/* The caller has set a deadline, and the agent has let it pass. */
static void
enforce_deadline(struct tlsagent_conn *conn)
{
    const struct conn_request *request = conn->request;

    if (request->deadline == 0 || agent_now() < request->deadline + DEADLINE_GRACE_MS)
        return;
    if (conn->phase == CONN_ASKED || conn->phase == CONN_QUEUED)
        cell_cancel(conn->agent, conn);
    conn_fail(conn, TLSAGENT_E_DEADLINE, "the handshake was not finished within %u ms",
              request->deadline_ms);
}

static bool
is_over(const struct tlsagent_conn *conn)
{
    return conn->phase == CONN_DONE || conn->phase == CONN_FAILED || conn->phase == CONN_MOVED;
}

int
tlsagent_handshake(struct tlsagent_conn *conn)
{
    struct tlsagent *agent;
    bool blocking;

    if (conn == NULL) {
        errno = EINVAL;
        return -1;
    }
    agent = conn->agent;
    if (!is_over(conn)) {
        struct conn_request *request = conn->request;
        int flags = fcntl(conn->fd, F_GETFL);

        conn_clear_error(conn);
        if (agent_check_owner(agent) == -1)
            return conn_set_error(conn, TLSAGENT_E_FORKED,
                                  "this connection belongs to the parent process");
        if (flags == -1)
            return conn_set_error(conn, TLSAGENT_E_ARGUMENT, "fd %d: %s", conn->fd,
                                  strerror(errno));
        blocking = (flags & O_NONBLOCK) == 0;
        /* Know what has happened; but a new one is asked for at once where that is possible. */
        if (conn->phase != CONN_PREPARED || agent->greeting == -1 || !agent_has_cell(agent))
            agent_pump(agent, 0);
        if (conn->phase == CONN_PREPARED) {
            if (request->deadline_ms != 0)
                request->deadline = agent_now() + request->deadline_ms;
            conn_dispatch(conn);
        }
        while (blocking && !is_over(conn)) {
            int64_t until = request->deadline != 0 ? request->deadline + DEADLINE_GRACE_MS : 0;

            agent_pump(agent, agent_patience(agent, until));
            if (!is_over(conn))
                enforce_deadline(conn);
        }
        if (!is_over(conn)) {
            agent_leave(agent);
            return TLSAGENT_WANT_POLLIN;
        }
    }
    if (agent != NULL && agent_is_ours(agent)) {
        conn_take(conn);
        agent_leave(agent);
    }
    return conn->phase == CONN_DONE ? 0 : -1;
}

/* NULL if it is too late to say how the handshake shall be. */
static struct conn_request *
get_request(struct tlsagent_conn *conn)
{
    if (conn == NULL)
        return NULL;
    if (conn->phase == CONN_PREPARED)
        return conn->request;
    conn_set_error(conn, TLSAGENT_E_ARGUMENT, "the handshake has begun: set this before");
    return NULL;
}

int
tlsagent_set_deadline(struct tlsagent_conn *conn, unsigned milliseconds)
{
    struct conn_request *request = get_request(conn);

    if (request == NULL)
        return -1;
    request->deadline_ms = milliseconds;
    return 0;
}

int
tlsagent_set_forms(struct tlsagent_conn *conn, unsigned forms)
{
    struct conn_request *request = get_request(conn);
    const char *fault;

    if (request == NULL)
        return -1;
    fault = conn_forms_read(forms, &request->forms, &request->plain);
    return fault == NULL ? 0 : conn_set_error(conn, TLSAGENT_E_ARGUMENT, "%s", fault);
}

void
tlsagent_set_data(struct tlsagent_conn *conn, void *data)
{
    if (conn != NULL)
        conn->data = data;
}

void *
tlsagent_data(const struct tlsagent_conn *conn)
{
    return conn != NULL ? conn->data : NULL;
}

void
tlsagent_abandon(struct tlsagent_conn *conn)
{
    if (conn == NULL)
        return;
    /* A forked child has copies of the lists, but the channels are its parent's. */
    if ((conn->phase == CONN_ASKED || conn->phase == CONN_QUEUED) && agent_is_ours(conn->agent))
        cell_cancel(conn->agent, conn);
    if (is_over(conn) && conn->agent != NULL && agent_is_ours(conn->agent))
        conn_take(conn);
    else
        conn_detach(conn);
    conn_free(conn);
}

const char *
tlsagent_error(const struct tlsagent_conn *conn)
{
    static const char *const texts[] = {
        [TLSAGENT_OK] = "",
        [TLSAGENT_E_MEMORY] = "out of memory",
        [TLSAGENT_E_ARGUMENT] = "wrong argument",
        [TLSAGENT_E_AGENT] = "the agent cannot be reached",
        [TLSAGENT_E_NOT_PERMITTED] = "not permitted",
        [TLSAGENT_E_BUSY] = "the agent is busy",
        [TLSAGENT_E_DEADLINE] = "the handshake took too long",
        [TLSAGENT_E_CLOSED] = "the peer closed the connection",
        [TLSAGENT_E_TRUNCATED] = "the peer's data ended without close_notify",
        [TLSAGENT_E_ALERT] = "the peer sent an alert",
        [TLSAGENT_E_HANDSHAKE] = "the handshake failed",
        [TLSAGENT_E_RECORD] = "the peer broke the record protocol",
        [TLSAGENT_E_FORKED] = "this connection belongs to the parent process",
        [TLSAGENT_E_SYSTEM] = "a system call failed",
        [TLSAGENT_E_RETRY] = "the agent's process died during the handshake",
        [TLSAGENT_E_MOVED] = "the connection was moved to another process",
        [TLSAGENT_E_FORM] = "not in this form of hand-back",
        [TLSAGENT_E_REKEY] = "new keys are due, and the kernel cannot change them",
    };

    if (conn == NULL)
        return "no connection: tlsagent_agent_error() says why";
    return conn->error != NULL ? conn->error : texts[conn->code];
}

int
tlsagent_error_code(const struct tlsagent_conn *conn)
{
    return conn != NULL ? conn->code : TLSAGENT_E_ARGUMENT;
}

int
tlsagent_error_alert(const struct tlsagent_conn *conn)
{
    return conn != NULL ? conn->alert : -1;
}
