/*
 * greeting.c: the first connection to the agent: what the supervisor says there, and its end.
 *
 * The supervisor greets with WELCOME (or DENIED), the contexts that we may use, and a channel to
 * each cell; later it pushes channels to replaced cells. We say nothing: our credentials, as they
 * were when we connected, speak for us. When this connection ends the agent is gone, with all its
 * cells.
 */
#include "client/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define GREETING_AT_ONCE 4096 /* messages handled in one go */

/* Say why there is no connection to the agent. Always returns -1. */
static int __attribute__((format(printf, 3, 4)))
set_trouble(struct tlsagent *agent, int code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(agent->trouble.text, sizeof(agent->trouble.text), format, args);
    va_end(args);
    agent->trouble_code = code;
    return -1;
}

const struct context *
agent_find_context(const struct tlsagent *agent, const char *name)
{
    for (const struct context *c = agent->contexts; c != NULL; c = c->next) {
        if (strcmp(c->said.name, name) == 0)
            return c;
    }
    return NULL;
}

bool
agent_has_cell(const struct tlsagent *agent)
{
    for (const struct cell *c = agent->cells; c != NULL; c = c->next) {
        if (c->fd != -1)
            return true;
    }
    return false;
}

/* Forget what an earlier agent said. No connection refers to its cells any more. */
void
agent_forget(struct tlsagent *agent)
{
    while (agent->contexts != NULL) {
        struct context *c = agent->contexts;

        agent->contexts = c->next;
        free(c);
    }
    while (agent->cells != NULL) {
        struct cell *c = agent->cells;

        agent->cells = c->next;
        if (c->fd != -1)
            close(c->fd);
        free(c);
    }
    agent->context_count = agent->cell_count = 0;
}

/* A new socket that is connected to the agent, or -1 with the trouble said. wait_ms: how long to
 * wait if its queue is full; the kernel lets those who wait in, each in turn. */
static int
connect_socket(struct tlsagent *agent, int wait_ms)
{
    const struct timeval wait = {.tv_sec = wait_ms / 1000, .tv_usec = wait_ms % 1000 * 1000};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t size = strlen(agent->path);
    const char *hint = "is tlsagentd running?";
    int fd;

    if (size == 0 || size >= sizeof(address.sun_path))
        return set_trouble(agent, TLSAGENT_E_ARGUMENT,
                           "the path of the agent's socket must have 1 to %zu bytes: \"%.120s\"",
                           sizeof(address.sun_path) - 1, agent->path);
    memcpy(address.sun_path, agent->path, size);
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | (wait_ms > 0 ? 0 : SOCK_NONBLOCK), 0);
    if (fd == -1)
        return set_trouble(agent, TLSAGENT_E_SYSTEM, "cannot make a socket to reach the agent: %s",
                           strerror(errno));
    if ((wait_ms == 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait)) == 0) &&
        connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
        (wait_ms == 0 || fcntl(fd, F_SETFL, O_NONBLOCK) == 0))
        return fd;
    agent->crowded = errno == EAGAIN || errno == EINTR;
    if (errno == EACCES)
        hint = "may this user search the socket's directory?";
    else if (errno == EPROTOTYPE || errno == ENOTDIR)
        hint = "this is not the socket of a tlsagentd";
    else if (errno == EAGAIN)
        hint = "too many programs connect to it at once, try again";
    set_trouble(agent, TLSAGENT_E_AGENT, "cannot reach the agent at %s: %s: %s", agent->path,
                strerror(errno), hint);
    close(fd);
    return -1;
}

static int
connect_now(struct tlsagent *agent, int64_t now, int wait_ms)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &agent->greeting};
    int fd;

    agent->crowded = false;
    agent->connect_at = now + AGENT_CONNECT_MS;
    fd = connect_socket(agent, wait_ms);
    if (fd == -1) {
        if (agent->crowded)
            agent->connect_at = now + AGENT_CROWDED_MS;
        return -1;
    }
    if (epoll_ctl(agent->epoll, EPOLL_CTL_ADD, fd, &event) == -1) {
        set_trouble(agent, TLSAGENT_E_SYSTEM, "epoll_ctl: %s", strerror(errno));
        close(fd);
        return -1;
    }
    agent_forget(agent);
    agent->greeting = fd;
    agent->welcomed = agent->damaged = false;
    agent->greeting_until = agent_now() + AGENT_ANSWER_MS;
    return 0;
}

int
agent_connect(struct tlsagent *agent)
{
    int64_t now = agent_now();

    if (agent->greeting != -1)
        return 0;
    if (now < agent->connect_at)
        return -1;
    return connect_now(agent, now, 0);
}

int
agent_connect_wait(struct tlsagent *agent, int wait_ms)
{
    return agent->greeting != -1 ? 0 : connect_now(agent, agent_now(), wait_ms);
}

void
agent_lose(struct tlsagent *agent, int code, const char *format, ...)
{
    va_list args;

    if (agent->greeting == -1)
        return;
    va_start(args, format);
    vsnprintf(agent->trouble.text, sizeof(agent->trouble.text), format, args);
    va_end(args);
    agent->trouble_code = code;
    close(agent->greeting); /* which takes it out of the epoll set */
    agent->greeting = -1;
    if (code == TLSAGENT_E_NOT_PERMITTED)
        agent->connect_at = agent_now() + AGENT_DENIED_MS;
    for (struct cell *c = agent->cells; c != NULL; c = c->next) {
        if (c->fd == -1)
            continue;
        cell_drain(agent, c); /* what it finished before its end is finished */
        cell_lose(agent, c, NULL);
    }
    agent->dispatch_due = true;
}

/* One context that we may use; said again it replaces what was said before. */
static int
learn_context(struct tlsagent *agent, const struct service_context *said, struct error *error)
{
    struct context *c = agent->contexts;

    if (said->name[0] == '\0')
        return error_set(error, "a context without a name");
    while (c != NULL && strcmp(c->said.name, said->name) != 0)
        c = c->next;
    if (c == NULL) {
        if (agent->context_count == AGENT_CONTEXTS_MAX)
            return error_set(error, "more than %d contexts", AGENT_CONTEXTS_MAX);
        c = calloc(1, sizeof(*c));
        if (c == NULL)
            return error_set(error, "no memory for the contexts");
        c->next = agent->contexts;
        agent->contexts = c;
        agent->context_count++;
    }
    c->said = *said;
    agent->dispatch_due = true;
    return 0;
}

/* One message of the supervisor. -1 with an error: it broke the rules. May call agent_lose(). */
static int
handle_greeting(struct tlsagent *agent, struct channel_message *message, struct error *error)
{
    union {
        struct service_welcome welcome;
        struct service_context context;
        struct service_channel channel;
        struct service_denied denied;
    } said;
    char text[SERVICE_TEXT_MAX];

    if (!agent->welcomed && message->type != SERVICE_WELCOME && message->type != SERVICE_DENIED)
        return error_set(error, "message type %u before the welcome", message->type);
    switch (message->type) {
    case SERVICE_WELCOME:
        if (agent->welcomed || !service_get_welcome(&said.welcome, message->body, message->size))
            return error_set(error, "malformed welcome");
        if (said.welcome.protocol != SERVICE_PROTOCOL)
            return error_set(error, "it speaks protocol %u, this library %d: install one release",
                             said.welcome.protocol, SERVICE_PROTOCOL);
        agent->welcomed = true;
        return 0;
    case SERVICE_CONTEXT:
        if (!service_get_context(&said.context, message->body, message->size))
            return error_set(error, "malformed context");
        return learn_context(agent, &said.context, error);
    case SERVICE_CHANNEL:
        if (!service_get_channel(&said.channel, message->body, message->size))
            return error_set(error, "malformed channel");
        if (cell_install(agent, &said.channel, channel_take_fd(message, 0)) == -1)
            return error_set(error, "a channel that is none, or no memory for it");
        return 0;
    default:
        if (!service_get_denied(&said.denied, message->body, message->size))
            return error_set(error, "malformed denial");
        error_printable(text, sizeof(text), said.denied.text, strlen(said.denied.text));
        agent_lose(agent, TLSAGENT_E_NOT_PERMITTED, "the agent at %s does not serve uid %u: %s",
                   agent->path, (unsigned)geteuid(), text);
        return 0;
    }
}

void
agent_read_greeting(struct tlsagent *agent)
{
    struct channel_message message;
    struct error error = {""};
    int rc;

    for (unsigned i = 0; i < GREETING_AT_ONCE && agent->greeting != -1; i++) {
        switch (channel_receive(agent->greeting, service_greeting_rules,
                                service_greeting_rule_count, agent->buffer, CHANNEL_BUFFER_SIZE,
                                &message, &error)) {
        case CHANNEL_OK:
            rc = handle_greeting(agent, &message, &error);
            channel_message_clear(&message);
            if (rc == 0)
                break;
            agent_lose(agent, TLSAGENT_E_AGENT, "cannot use the agent at %s: %s", agent->path,
                       error.text);
            return;
        case CHANNEL_AGAIN:
            return;
        case CHANNEL_CLOSED:
            agent_lose(agent, TLSAGENT_E_AGENT, "the agent at %s went away", agent->path);
            return;
        case CHANNEL_REFUSED:
        case CHANNEL_FAILED:
            agent_lose(agent, TLSAGENT_E_AGENT, "cannot use the agent at %s: %s", agent->path,
                       error.text);
            return;
        }
    }
}

bool
agent_notice_loss(struct tlsagent *agent)
{
    struct pollfd entry = {.fd = agent->greeting, .events = POLLRDHUP};

    if (agent->greeting == -1)
        return true;
    if (poll(&entry, 1, 0) != 1 || (entry.revents & (POLLHUP | POLLRDHUP | POLLERR)) == 0)
        return false;
    agent_read_greeting(agent); /* its last words, then its end */
    return agent->greeting == -1;
}
