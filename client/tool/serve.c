/* serve.c: `tlsagent serve`: its loop, and what its files share; see serve.h. */
#include "client/tool/serve.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "client/tool/tool.h"

#define EVENTS 64

void
serve_say(const char *format, ...)
{
    char line[1024];
    va_list list;

    va_start(list, format);
    vsnprintf(line, sizeof(line), format, list);
    va_end(list);
    fprintf(stderr, "tlsagent serve: %s\n", line);
}

int64_t
serve_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int
serve_watch(struct serve *serve, struct serve_event *event, uint32_t events)
{
    struct epoll_event wanted = {.events = events, .data.ptr = event};

    if (epoll_ctl(serve->epoll, EPOLL_CTL_ADD, event->fd, &wanted) == 0)
        return 0;
    serve_say("epoll: %s", strerror(errno));
    return -1;
}

void
serve_unwatch(struct serve *serve, struct serve_event *event)
{
    epoll_ctl(serve->epoll, EPOLL_CTL_DEL, event->fd, NULL);
}

/* Listen, or do not: nothing is accepted that could not be served. */
static void
watch_sources(struct serve *serve)
{
    bool wanted = !serve->stopping && !serve_is_full(serve) && serve->pause_until == 0;

    if (wanted == serve->accepts)
        return;
    for (size_t i = 0; i < serve->listener_count; i++) {
        if (!wanted)
            serve_unwatch(serve, &serve->listeners[i]);
        else if (serve_watch(serve, &serve->listeners[i], EPOLLIN) == -1)
            return;
    }
    if (serve->options->agent_listener) {
        if (!wanted)
            serve_unwatch(serve, &serve->agent_event);
        else if (serve_watch(serve, &serve->agent_event, EPOLLIN) == -1)
            return;
    }
    serve->accepts = wanted;
}

static void
handle_signals(struct serve *serve)
{
    struct signalfd_siginfo signal;

    while (read(serve->signals.fd, &signal, sizeof(signal)) == sizeof(signal)) {
        if (signal.ssi_signo == SIGCHLD) {
            serve_run_reap(serve);
            continue;
        }
        if (serve->stopping)
            exit(TOOL_FAIL); /* asked twice */
        serve->stopping = true;
        watch_sources(serve);
        for (size_t i = 0; i < serve->listener_count; i++)
            close(serve->listeners[i].fd);
        serve->listener_count = 0;
    }
}

static void
handle_event(struct serve *serve, struct serve_event *event)
{
    if (event->fd == -1)
        return; /* closed earlier in this round */
    switch (event->source) {
    case SERVE_LISTENER:
        serve_accept(serve, event->fd);
        break;
    case SERVE_AGENT:
        serve_take_finished(serve);
        break;
    case SERVE_SIGNALS:
        handle_signals(serve);
        break;
    case SERVE_RELAY:
        serve_hear_relay(serve, (struct serve_relay *)event);
        break;
    case SERVE_CONTROL:
        serve_run_control(serve, (struct serve_conn *)event);
        break;
    case SERVE_BACKEND:
        serve_unwatch(serve, event);
        serve_to_connected(serve, (struct serve_conn *)event);
        break;
    }
}

static void
serve_loop(struct serve *serve)
{
    struct epoll_event events[EVENTS];
    struct serve_conn *conn;

    while (!serve->stopping || serve->count > 0) {
        int count, timeout = serve->pull_at != 0 || serve->pause_until != 0 ? SERVE_RETRY_MS : -1;

        if (serve->busy > 0)
            timeout = SERVE_BUSY_MS;
        watch_sources(serve);
        count = epoll_wait(serve->epoll, events, EVENTS, timeout);
        for (int i = 0; i < count; i++)
            handle_event(serve, events[i].data.ptr);
        while ((conn = TAILQ_FIRST(&serve->dead)) != NULL) {
            TAILQ_REMOVE(&serve->dead, conn, link);
            free(conn);
        }
        if (serve->busy > 0)
            serve_to_retry(serve);
        if (serve->pause_until != 0 && serve_now() >= serve->pause_until)
            serve->pause_until = 0;
        if (serve->pull_at != 0 && serve_now() >= serve->pull_at && !serve->stopping)
            serve_pull(serve);
    }
}

int
tool_serve(int argc, char **argv)
{
    struct serve_options options;
    struct serve *serve = calloc(1, sizeof(*serve));
    struct error error = {""};
    int rc = serve_read_options(&options, argc, argv);

    if (rc == TOOL_OK && serve == NULL)
        rc = TOOL_FAIL;
    if (rc == TOOL_OK) {
        serve->options = &options;
        TAILQ_INIT(&serve->conns);
        TAILQ_INIT(&serve->dead);
        if (serve_start(serve, &error) == -1) {
            if (error.text[0] != '\0')
                serve_say("%s", error.text);
            rc = TOOL_FAIL;
        } else
            serve_loop(serve);
    }
    if (serve != NULL && serve->agent != NULL)
        tlsagent_free(serve->agent);
    if (serve != NULL)
        free(serve->relay_program);
    free(serve);
    return rc;
}
