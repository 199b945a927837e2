/*
 * accept.c: fetching finished connections: those whose handshake the caller began, and those that
 * the agent accepted on its own listening sockets.
 *
 * The latter come by credit: a cell delivers as many as it has credits, and gets new ones when
 * the caller has taken connections. So a worker that is busy is not sent more than it said. What
 * a cell holds is `outstanding`; a new channel starts with all of it `owed`.
 */
#include "client/internal.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct pull *
find_pull(struct tlsagent *agent, const char *context)
{
    for (size_t i = 0; i < agent->pull_count; i++) {
        if (strcmp(agent->pulls[i].context, context) == 0)
            return &agent->pulls[i];
    }
    return NULL;
}

/* True if the cell accepts connections for the context. */
static bool
serves(const struct tlsagent *agent, const struct cell *cell, const char *name)
{
    const struct context *context = agent_find_context(agent, name);

    return context != NULL && context->said.listens == 1 && context->said.group == cell->group;
}

void
pull_grant_all(struct tlsagent *agent, struct cell *cell)
{
    memset(cell->grants, 0, sizeof(cell->grants));
    for (size_t i = 0; i < agent->pull_count; i++) {
        if (serves(agent, cell, agent->pulls[i].context))
            cell->grants[i].owed = agent->pulls[i].level;
    }
}

bool
pull_owed(const struct cell *cell)
{
    for (size_t i = 0; i < AGENT_PULLS_MAX; i++) {
        if (cell->grants[i].owed > 0)
            return true;
    }
    return false;
}

enum channel_result
pull_send_owed(struct tlsagent *agent, struct cell *cell)
{
    for (size_t i = 0; i < agent->pull_count; i++) {
        struct grant *grant = &cell->grants[i];
        struct service_pull pull = {.credits = grant->owed, .forms = agent->pull_forms};
        uint8_t body[8 + SERVICE_NAME_MAX];
        enum channel_result result;

        if (grant->owed == 0)
            continue;
        memcpy(pull.context, agent->pulls[i].context, sizeof(pull.context));
        result = channel_send(cell->fd, SERVICE_PULL, body,
                              service_put_pull(&pull, body, sizeof(body)), NULL, 0);
        if (result != CHANNEL_OK)
            return result; /* a dead cell is noticed when its end is read */
        grant->outstanding = (uint16_t)(grant->outstanding + grant->owed);
        grant->owed = 0;
    }
    return CHANNEL_OK;
}

void
pull_replace_credit(struct tlsagent *agent, uint64_t serial, const char *context)
{
    struct pull *pull = find_pull(agent, context);

    for (struct cell *c = agent->cells; pull != NULL && c != NULL; c = c->next) {
        /* With another serial it has had all its credits again. */
        if (c->fd == -1 || c->serial != serial)
            continue;
        /* Several in one message, while the cell has half of them or more. */
        if (2 * ++c->grants[pull - agent->pulls].owed >= pull->level)
            cell_flush(agent, c);
        return;
    }
}

/* A stream socket. Whether it is connected cannot be asked: the peer may have reset it meanwhile;
 * the first read says so. Its mode is accept()'s, blocking: the handshaker sets no flags (and one
 * that was taken over could do so at any time, as the open file is shared). */
static bool
is_stream_socket(int fd)
{
    socklen_t size = sizeof(int);
    int type = 0;

    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM;
}

/* Why the delivery breaks the rules, NULL: it does not. */
static const char *
find_fault(struct tlsagent *agent, const struct cell *cell, const struct service_finished *said,
           int fd)
{
    const struct pull *pull = find_pull(agent, said->context);

    if (said->id != 0 || pull == NULL || cell->grants[pull - agent->pulls].outstanding == 0)
        return "delivered a connection that nobody asked for";
    if (!conn_form_fits(said->form, agent->pull_forms))
        return "delivered in a form that was not asked for";
    if (!facts_chain_valid(said->chain, said->chain_size))
        return "delivered a malformed chain";
    if (!is_stream_socket(fd))
        return "delivered something that is not a stream socket";
    return NULL;
}

int
pull_handle_delivered(struct tlsagent *agent, struct cell *cell, struct channel_message *message,
                      struct error *error)
{
    struct service_finished said;
    struct tlsagent_conn *conn = NULL;
    const char *fault = "delivered a malformed connection";
    size_t index;

    if (service_get_finished(&said, message->body, message->size))
        fault = find_fault(agent, cell, &said, message->fds[0]);
    if (fault == NULL) {
        index = (size_t)(find_pull(agent, said.context) - agent->pulls);
        cell->grants[index].outstanding--;
        conn = conn_new(message->fds[0]);
        if (conn != NULL) {
            channel_take_fd(message, 0);
            conn->owns_fd = conn->delivered = true;
            conn->serial = cell->serial;
            conn_start_stream(conn, &said);
            conn->plain = agent->pull_plain;
        }
        if (conn == NULL || conn->code != TLSAGENT_OK) { /* the peer sees a closed connection */
            agent_fail(agent, TLSAGENT_E_MEMORY, "out of memory: a connection was dropped");
            if (conn != NULL)
                conn_free(conn);
            cell->grants[index].owed++;
            cell_flush(agent, cell);
        } else {
            conn->agent = agent;
            conn_finish(conn, CONN_DONE);
        }
    }
    explicit_bzero(&said, sizeof(said));
    return fault == NULL ? 0 : error_set(error, "%s", fault);
}

struct tlsagent_conn *
tlsagent_next(struct tlsagent *agent)
{
    struct tlsagent_conn *conn;

    if (agent == NULL || agent_check_owner(agent) == -1)
        return NULL;
    if (TAILQ_EMPTY(&agent->finished))
        agent_pump(agent, 0);
    conn = TAILQ_FIRST(&agent->finished);
    if (conn != NULL)
        conn_take(conn);
    agent_leave(agent);
    return conn;
}

/* Remember the wish, and grant every cell what is new of it. */
static int
raise_level(struct tlsagent *agent, const char *context, unsigned connections)
{
    struct pull *pull = find_pull(agent, context);
    uint16_t more;

    if (pull == NULL) {
        if (agent->pull_count == AGENT_PULLS_MAX)
            return agent_fail(agent, TLSAGENT_E_ARGUMENT,
                              "one handle can pull from %d contexts: open another one",
                              AGENT_PULLS_MAX);
        pull = &agent->pulls[agent->pull_count++];
        memset(pull, 0, sizeof(*pull));
        memcpy(pull->context, context, strlen(context) + 1);
    }
    if (connections <= pull->level)
        return 0;
    more = (uint16_t)(connections - pull->level);
    pull->level = (uint16_t)connections;
    for (struct cell *c = agent->cells; c != NULL; c = c->next) {
        struct grant *grant = &c->grants[pull - agent->pulls];

        if (c->fd == -1 || !serves(agent, c, context))
            continue;
        grant->owed = (uint16_t)(grant->owed + more);
        cell_flush(agent, c);
    }
    return 0;
}

/* -1 with an error: the agent will never deliver for this context. */
static int
check_listens(struct tlsagent *agent, const char *name)
{
    const struct context *context = agent_find_context(agent, name);

    if (context == NULL)
        return agent_fail(agent, TLSAGENT_E_NOT_PERMITTED,
                          "context \"%s\" is not permitted for uid %u: see its \"workers\" in the "
                          "agent's configuration",
                          name, (unsigned)geteuid());
    if (context->said.listens == 0)
        return agent_fail(
            agent, TLSAGENT_E_ARGUMENT,
            "context \"%s\" has no \"listen\" in the agent's configuration: the agent "
            "accepts nothing for it",
            name);
    return 0;
}

/* As tlsagent_pull(), but does not arm the timer. */
static int
pull(struct tlsagent *agent, const char *name, unsigned connections)
{
    size_t size = name != NULL ? strlen(name) : 0;

    agent_clear_error(agent);
    agent->pull_failed = false;
    if (size == 0 || size >= SERVICE_NAME_MAX)
        return agent_fail(agent, TLSAGENT_E_ARGUMENT, "the name of a context has 1 to %d bytes",
                          SERVICE_NAME_MAX - 1);
    if (connections == 0 || connections > SERVICE_CREDIT_MAX)
        return agent_fail(agent, TLSAGENT_E_ARGUMENT, "%u connections to pull: must be 1 to %d",
                          connections, SERVICE_CREDIT_MAX);
    if (agent_wait_ready(agent) == -1) {
        int code = agent->code;
        struct error error = agent->error;

        if (code != TLSAGENT_E_AGENT || raise_level(agent, name, connections) == -1)
            return -1;
        agent->code = code;
        agent->error = error;
        return -1;
    }
    if (check_listens(agent, name) == -1)
        return -1;
    return raise_level(agent, name, connections);
}

int
tlsagent_pull(struct tlsagent *agent, const char *context, unsigned connections)
{
    int rc;

    if (agent == NULL || agent_check_owner(agent) == -1)
        return -1;
    rc = pull(agent, context, connections);
    agent_leave(agent);
    return rc;
}

int
tlsagent_pull_forms(struct tlsagent *agent, unsigned forms)
{
    const char *fault;

    if (agent == NULL || agent_check_owner(agent) == -1)
        return -1;
    agent_clear_error(agent);
    fault = agent->pull_count > 0 ? "connections are pulled already: say their forms before"
                                  : conn_forms_read(forms, &agent->pull_forms, &agent->pull_plain);
    return fault == NULL ? 0 : agent_fail(agent, TLSAGENT_E_ARGUMENT, "%s", fault);
}

static struct tlsagent_conn *
find_delivered(struct tlsagent *agent, const char *context)
{
    struct tlsagent_conn *conn = NULL;

    TAILQ_FOREACH(conn, &agent->finished, link)
    {
        if (conn->delivered && strcmp(tlsagent_conn_context(conn), context) == 0)
            return conn;
    }
    return NULL;
}

/* While the agent is away a caller in a loop shall not spin: its error comes when the next attempt
 * is due. */
static void
wait_for_attempt(struct tlsagent *agent, int64_t until)
{
    int64_t due = agent->connect_at;

    if (until != 0 && until < due)
        due = until;
    while (agent->greeting == -1 && agent_now() < due)
        agent_pump(agent, agent_patience(agent, due));
}

struct tlsagent_conn *
tlsagent_accept(struct tlsagent *agent, const char *context, int timeout_ms)
{
    int64_t until = timeout_ms >= 0 ? agent_now() + timeout_ms : 0;
    struct tlsagent_conn *conn = NULL;

    if (agent == NULL || agent_check_owner(agent) == -1)
        return NULL;
    if (context == NULL)
        context = ""; /* which is refused */
    if (find_pull(agent, context) != NULL) {
        agent_clear_error(agent);
        agent_pump(agent, 0);
    } else if (pull(agent, context, 1) == -1)
        goto out;
    while ((conn = find_delivered(agent, context)) == NULL) {
        if (agent_connect(agent) == -1) {
            agent_fail(agent, agent->trouble_code, "%s", agent->trouble.text);
            wait_for_attempt(agent, until);
            break;
        }
        if (agent->pull_failed) {
            agent->pull_failed = false; /* told now */
            break;
        }
        if (agent_has_cell(agent) && check_listens(agent, context) == -1)
            break;
        if (until != 0 && agent_now() >= until)
            break;
        agent_pump(agent, agent_patience(agent, until));
    }
    if (conn != NULL) {
        conn_take(conn);
        agent_clear_error(agent);
    }
out:
    agent_leave(agent);
    return conn;
}
