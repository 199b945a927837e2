/*
 * agent.c: the handle: its one descriptor, its clock, its life.
 *
 * The first connection (greeting.c), the channels to the cells (cell.c), one timer and one bell are
 * in one epoll set, which is the descriptor that callers poll. They make it readable where no
 * message would: the bell when finished connections have not been fetched, the timer when someone
 * has waited long enough, and when it is time to look whether a lost agent is back.
 */
#include "client/internal.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define EVENTS_AT_ONCE 32

int64_t
agent_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int
agent_fail(struct tlsagent *agent, int code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(agent->error.text, sizeof(agent->error.text), format, args);
    va_end(args);
    agent->code = code;
    return -1;
}

void
agent_clear_error(struct tlsagent *agent)
{
    error_clear(&agent->error);
    agent->code = TLSAGENT_OK;
}

bool
agent_is_ours(const struct tlsagent *agent)
{
    return agent->mine != NULL && agent->mine[0] == 1;
}

int
agent_check_owner(struct tlsagent *agent)
{
    if (agent_is_ours(agent))
        return 0;
    return agent_fail(agent, TLSAGENT_E_FORKED,
                      "this handle belongs to the parent process: open one in the child");
}

/* Ask for those who wait, as long as that changes something. */
static void
dispatch_waiting(struct tlsagent *agent)
{
    struct tlsagent_conn *conn, *next;

    while (agent->dispatch_due) {
        agent->dispatch_due = false;
        for (conn = TAILQ_FIRST(&agent->waiting); conn != NULL; conn = next) {
            next = TAILQ_NEXT(conn, link); /* dispatching moves nobody else off the list */
            conn_dispatch(conn);
        }
    }
}

/* We closed a channel that broke the rules: to have another we must be greeted again. Not while
 * other cells work for us. */
static bool
wants_new_greeting(const struct tlsagent *agent)
{
    if (agent->greeting == -1 || !agent->damaged)
        return false;
    for (const struct cell *c = agent->cells; c != NULL; c = c->next) {
        if (c->busy > 0)
            return false;
    }
    return true;
}

/* There was no room for us in the agent's queue, and somebody's handshake depends on it. */
static bool
waits_for_turn(const struct tlsagent *agent)
{
    return agent->greeting == -1 && agent->crowded && !TAILQ_EMPTY(&agent->waiting);
}

/* What time brings. */
static void
tend(struct tlsagent *agent)
{
    int64_t now = agent_now();
    struct tlsagent_conn *conn;

    if (agent->greeting != -1 && !agent->welcomed && now >= agent->greeting_until)
        agent_lose(agent, TLSAGENT_E_AGENT, "the agent at %s does not answer", agent->path);
    if (now >= agent->connect_at && wants_new_greeting(agent)) {
        agent_lose(agent, TLSAGENT_E_AGENT, "the agent at %s broke the protocol", agent->path);
        agent_connect(agent);
    }
    if (agent->greeting == -1 && (agent->pull_count > 0 || waits_for_turn(agent)) &&
        agent_connect(agent) == -1 && !agent->crowded)
        agent->dispatch_due = true; /* those who wait for our turn wait in vain */
    dispatch_waiting(agent);
    while ((conn = TAILQ_FIRST(&agent->waiting)) != NULL && now >= conn->request->wait_until)
        conn_expire(conn);
}

static void
silence_bell(struct tlsagent *agent)
{
    uint64_t count;

    if (agent->rung && read(agent->bell, &count, sizeof(count)) != -1)
        agent->rung = false;
}

void
agent_pump(struct tlsagent *agent, int timeout_ms)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    uint64_t ticks;
    int count = epoll_wait(agent->epoll, events, EVENTS_AT_ONCE, timeout_ms);

    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr == &agent->greeting)
            agent_read_greeting(agent);
        else if (events[i].data.ptr == &agent->bell)
            silence_bell(agent);
        else if (events[i].data.ptr != &agent->timer)
            cell_handle_event(agent, events[i].data.ptr, events[i].events);
        else if (read(agent->timer, &ticks, sizeof(ticks)) != -1)
            agent->armed = 0;
    }
    tend(agent);
}

/* When time wants something done, 0: never. */
static int64_t
next_deadline(const struct tlsagent *agent)
{
    const struct tlsagent_conn *conn = TAILQ_FIRST(&agent->waiting); /* in order of time */
    int64_t first = 0;

    if (agent->greeting != -1 && !agent->welcomed)
        first = agent->greeting_until;
    else if (wants_new_greeting(agent) || waits_for_turn(agent) ||
             (agent->greeting == -1 && agent->pull_count > 0))
        first = agent->connect_at > 0 ? agent->connect_at : 1;
    if (conn != NULL && (first == 0 || conn->request->wait_until < first))
        first = conn->request->wait_until;
    return first;
}

int
agent_patience(const struct tlsagent *agent, int64_t until)
{
    int64_t first = next_deadline(agent), now = agent_now();

    if (first == 0 || (until != 0 && until < first))
        first = until;
    if (first == 0)
        return -1;
    if (first <= now)
        return 0;
    return first - now > INT_MAX ? INT_MAX : (int)(first - now);
}

void
agent_leave(struct tlsagent *agent)
{
    int64_t when = next_deadline(agent);
    struct itimerspec spec = {.it_value = {when / 1000, when % 1000 * 1000000}};
    uint64_t one = 1;

    if (TAILQ_EMPTY(&agent->finished))
        silence_bell(agent);
    else if (!agent->rung)
        agent->rung = write(agent->bell, &one, sizeof(one)) != -1;
    /* One that goes off too early does no harm: it is not worth a system call to stop it. */
    if (when == agent->armed || when == 0)
        return;
    if (timerfd_settime(agent->timer, TFD_TIMER_ABSTIME, &spec, NULL) == 0)
        agent->armed = when;
}

/* The epoll set, timer and bell in it, the page that a fork wipes. */
static int
open_descriptors(struct tlsagent *agent)
{
    struct epoll_event timer = {.events = EPOLLIN, .data.ptr = &agent->timer};
    struct epoll_event bell = {.events = EPOLLIN, .data.ptr = &agent->bell};
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *mine = mmap(NULL, page, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (mine == MAP_FAILED)
        return -1;
    agent->mine = mine;
    if (madvise(mine, page, MADV_WIPEONFORK) == -1)
        return -1;
    agent->mine[0] = 1;
    agent->epoll = epoll_create1(EPOLL_CLOEXEC);
    agent->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    agent->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (agent->epoll == -1 || agent->timer == -1 || agent->bell == -1)
        return -1;
    return epoll_ctl(agent->epoll, EPOLL_CTL_ADD, agent->timer, &timer) == 0
               ? epoll_ctl(agent->epoll, EPOLL_CTL_ADD, agent->bell, &bell)
               : -1;
}

struct tlsagent *
tlsagent_open(const char *path)
{
    struct tlsagent *agent = calloc(1, sizeof(*agent));
    int saved;

    if (agent == NULL)
        return NULL;
    agent->epoll = agent->timer = agent->bell = agent->greeting = -1;
    agent->pull_forms = CONN_FORMS_AUTO;
    agent->turn = (unsigned)getpid(); /* processes with one connection each share all cells too */
    TAILQ_INIT(&agent->prepared);
    TAILQ_INIT(&agent->waiting);
    TAILQ_INIT(&agent->finished);
    if (path == NULL)
        path = secure_getenv("TLSAGENT_SOCK");
    if (path == NULL || path[0] == '\0')
        path = AGENT_DEFAULT_SOCKET;
    agent->path = strdup(path);
    agent->buffer = malloc(CHANNEL_BUFFER_SIZE);
    if (agent->path == NULL || agent->buffer == NULL || open_descriptors(agent) == -1) {
        saved = errno;
        tlsagent_free(agent);
        errno = saved;
        return NULL;
    }
    agent_connect(agent); /* or later; tlsagent_check() tells */
    agent_leave(agent);
    return agent;
}

/* The caller's connections go on without the handle; those it has never seen go with it. */
static void
release_list(struct tlsagent *agent, struct conn_list *list)
{
    struct tlsagent_conn *conn;
    bool ours = agent_is_ours(agent);

    while ((conn = TAILQ_FIRST(list)) != NULL) {
        conn_detach(conn);
        if (conn->delivered) {
            conn_free(conn);
        } else if (conn->phase != CONN_DONE && conn->phase != CONN_FAILED) {
            conn->phase = CONN_FAILED;
            conn_set_error(conn, ours ? TLSAGENT_E_ARGUMENT : TLSAGENT_E_FORKED,
                           ours ? "the handle was freed before the handshake was done"
                                : "this connection belongs to the parent process");
        }
    }
}

/* In a forked child this closes the child's copies and nothing else: the epoll set and the
 * channels are the parent's. */
void
tlsagent_free(struct tlsagent *agent)
{
    if (agent == NULL)
        return;
    for (struct cell *c = agent->cells; c != NULL; c = c->next) {
        for (size_t i = 0; i < CELL_BUCKETS; i++)
            release_list(agent, &c->asked[i]);
        release_list(agent, &c->queued);
    }
    release_list(agent, &agent->prepared);
    release_list(agent, &agent->waiting);
    release_list(agent, &agent->finished);
    agent_forget(agent);
    if (agent->greeting != -1)
        close(agent->greeting);
    if (agent->timer != -1)
        close(agent->timer);
    if (agent->bell != -1)
        close(agent->bell);
    if (agent->epoll != -1)
        close(agent->epoll);
    if (agent->mine != NULL)
        munmap(agent->mine, (size_t)sysconf(_SC_PAGESIZE));
    if (agent->buffer != NULL)
        explicit_bzero(agent->buffer, CHANNEL_BUFFER_SIZE);
    free(agent->buffer);
    free(agent->path);
    free(agent);
}

int
tlsagent_fd(struct tlsagent *agent)
{
    return agent != NULL ? agent->epoll : -1;
}

int
agent_wait_ready(struct tlsagent *agent)
{
    int64_t until = agent_now() + AGENT_ANSWER_MS;

    agent_pump(agent, 0);
    while (agent->greeting == -1 || !agent_has_cell(agent)) {
        int64_t left = until - agent_now();

        if (agent_connect(agent) == -1) {
            if (!agent->crowded || left <= 0)
                return agent_fail(agent, agent->trouble_code, "%s", agent->trouble.text);
            (void)agent_connect_wait(agent, (int)left);
            continue;
        }
        if (agent_now() >= until)
            return agent_fail(agent, TLSAGENT_E_AGENT,
                              agent->welcomed
                                  ? "the agent at %s has no process running: see its log"
                                  : "the agent at %s does not answer",
                              agent->path);
        agent_pump(agent, agent_patience(agent, until));
    }
    return 0;
}

int
tlsagent_check(struct tlsagent *agent)
{
    int rc;

    if (agent == NULL || agent_check_owner(agent) == -1)
        return -1;
    agent_clear_error(agent);
    rc = agent_wait_ready(agent);
    agent_leave(agent);
    return rc;
}

const char *
tlsagent_agent_error(const struct tlsagent *agent)
{
    return agent != NULL ? agent->error.text : "no handle: out of memory?";
}

int
tlsagent_agent_error_code(const struct tlsagent *agent)
{
    return agent != NULL ? agent->code : TLSAGENT_E_ARGUMENT;
}

const char *
tlsagent_version(void)
{
    return TLSAGENT_VERSION;
}
