/*
 * https-server.c: an HTTPS server that never sees its private key. An example to copy from.
 *
 *   https-server --context www --listen 127.0.0.1:8443      we accept, the agent does the handshake
 *   https-server --context www --agent-listener www         the agent accepts too
 *
 * Role: workers that serve without root, each with one epoll loop and one handle to the agent.
 * Beside this file: https/client.c, what is said on a finished connection (plain tlsagent_read()
 * and tlsagent_write()), and https/prefork.c, the parent of the workers.
 *
 *   GET /            facts about this connection, as text
 *   GET /bytes/N     N bytes; byte i is (k * k >> 5) & 255 with k = i mod 65521
 *   POST /echo       the body back, while it is still coming in
 *   POST /discard    the body's size, when it is all there
 *
 * Where to look first: worker_accept() and worker_take_finished().
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "client/examples/https/client.h"
#include "client/examples/https/prefork.h"
#include "client/tlsagent.h"

#define EVENTS 64
#define PULL   16 /* connections accepted by the agent that may wait here, per cell */

struct options {
    const char *context;
    const char *listen; /* NULL: the agent accepts */
    const char *socket; /* of the agent; NULL: the default */
    const char *greet;  /* a line to send right after the handshake, or NULL */
    const char *user;
    unsigned workers;
    unsigned forms;
    int listener; /* the open socket, -1: the agent accepts */
};

struct worker {
    const struct options *options;
    struct tlsagent *agent;
    struct client_set clients;
    int listener; /* -1: the agent accepts */
    bool listening;
    bool pulling;
    bool pull_complained;
};

/* What epoll_event.data.ptr says, besides a client. */
static char agent_mark, listener_mark;

static void
worker_listen(struct worker *worker, bool on)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.ptr = &listener_mark};

    if (worker->listener == -1 || worker->listening == on)
        return;
    if (epoll_ctl(worker->clients.epoll, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, worker->listener,
                  &event) == 0)
        worker->listening = on;
}

/* The handshake is over: done (0) or failed. */
static void
worker_handshake_over(struct worker *worker, struct client *client, int result)
{
    if (result == -1) {
        say("handshake: %s", tlsagent_error(client->conn));
        client_drop(&worker->clients, client);
        return;
    }
    client_start(&worker->clients, client, worker->options->greet);
}

/* Take connections from our own listening socket and give each to the agent. */
static void
worker_accept(struct worker *worker)
{
    for (int count = 0; count < EVENTS; count++) {
        int fd = accept4(worker->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        struct client *client;
        int result;

        if (fd == -1) {
            /* No descriptors: stop listening for a second; others may accept meanwhile. */
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
                worker_listen(worker, false);
            return;
        }
        client = client_new(&worker->clients, fd, true);
        if (client == NULL) {
            close(fd);
            return;
        }
        client->conn = tlsagent_accept_fd(worker->agent, worker->options->context, fd);
        if (client->conn == NULL) {
            say("connection: %s", tlsagent_agent_error(worker->agent));
            client_free(client);
            continue;
        }
        tlsagent_set_data(client->conn, client);
        tlsagent_set_forms(client->conn, worker->options->forms);
        result = tlsagent_handshake(client->conn);
        if (result != TLSAGENT_WANT_POLLIN && result != TLSAGENT_WANT_POLLOUT)
            worker_handshake_over(worker, client, result);
    }
}

/* Take what the agent has finished: handshakes that we asked for, and connections it accepted. */
static void
worker_take_finished(struct worker *worker)
{
    struct tlsagent_conn *conn;

    while ((conn = tlsagent_next(worker->agent)) != NULL) {
        struct client *client = tlsagent_data(conn);

        if (client == NULL) {
            client = client_new(&worker->clients, tlsagent_conn_fd(conn), false);
            if (client == NULL) {
                tlsagent_abandon(conn);
                continue;
            }
            client->conn = conn;
            tlsagent_set_data(conn, client);
            fcntl(client->fd, F_SETFL, O_NONBLOCK); /* it comes in blocking mode */
        }
        worker_handshake_over(worker, client, tlsagent_handshake(conn));
    }
}

/* Ask the agent for the connections that it accepts; again until it says yes, once. */
static void
worker_pull(struct worker *worker)
{
    if (worker->listener != -1 || worker->pulling)
        return;
    if (tlsagent_pull(worker->agent, worker->options->context, PULL) == 0) {
        worker->pulling = true;
        return;
    }
    if (!worker->pull_complained)
        say("%s; trying again every second", tlsagent_agent_error(worker->agent));
    worker->pull_complained = true;
}

static void
worker_main(void *argument)
{
    const struct options *options = argument;
    struct worker worker = {.options = options, .listener = options->listener};
    struct epoll_event events[EVENTS];
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &agent_mark};
    time_t second = 0;

    worker.clients.epoll = epoll_create1(EPOLL_CLOEXEC);
    worker.agent = tlsagent_open(options->socket);
    if (worker.clients.epoll == -1 || worker.agent == NULL)
        die("cannot start: %s", strerror(errno));
    if (tlsagent_pull_forms(worker.agent, options->forms) == -1)
        die("--form: %s", tlsagent_agent_error(worker.agent));
    if (tlsagent_check(worker.agent) == -1)
        say("warning: %s", tlsagent_agent_error(worker.agent));
    if (epoll_ctl(worker.clients.epoll, EPOLL_CTL_ADD, tlsagent_fd(worker.agent), &event) == -1)
        die("epoll: %s", strerror(errno));

    for (;;) {
        struct timespec time;
        bool take = false;
        int count;

        clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
        if (time.tv_sec != second) { /* first of all, and then every second */
            second = time.tv_sec;
            client_expire(&worker.clients);
            worker_listen(&worker, true);
            worker_pull(&worker);
        }
        count = epoll_wait(worker.clients.epoll, events, EVENTS, 1000);
        if (count == -1 && errno != EINTR)
            die("epoll: %s", strerror(errno));
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == &agent_mark)
                take = true;
            else if (events[i].data.ptr == &listener_mark)
                worker_accept(&worker);
            else
                client_step(&worker.clients, events[i].data.ptr);
        }
        /* Only now: these may free clients that the events above point to. */
        if (take)
            worker_take_finished(&worker);
    }
}

static void __attribute__((noreturn)) usage(void)
{
    fputs("usage: https-server --context NAME (--listen ADDR:PORT | --agent-listener NAME)\n"
          "                    [--workers N] [--form auto|records|kernel] [--socket PATH]\n"
          "                    [--user NAME] [--greet TEXT]\n",
          stderr);
    exit(2);
}

static void
options_read(struct options *options, int argc, char **argv)
{
    static const struct option names[] = {
        {"context", required_argument, NULL, 'c'},
        {"listen", required_argument, NULL, 'l'},
        {"agent-listener", required_argument, NULL, 'a'},
        {"workers", required_argument, NULL, 'w'},
        {"form", required_argument, NULL, 'f'},
        {"socket", required_argument, NULL, 's'},
        {"user", required_argument, NULL, 'u'},
        {"greet", required_argument, NULL, 'g'},
        {NULL, 0, NULL, 0},
    };
    const char *agent_listener = NULL;
    unsigned long workers = 2;
    char *end;
    int option;

    *options = (struct options){.user = "www-data"};
    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (option) {
        case 'c':
            options->context = optarg;
            break;
        case 'l':
            options->listen = optarg;
            break;
        case 'a':
            agent_listener = optarg;
            break;
        case 'w':
            if ((workers = strtoul(optarg, &end, 10)) < 1 || *end != '\0' ||
                workers > PREFORK_WORKERS_MAX)
                die("--workers %s: must be 1 to %d", optarg, PREFORK_WORKERS_MAX);
            break;
        case 'f':
            if (strcmp(optarg, "auto") != 0 && strcmp(optarg, "records") != 0 &&
                strcmp(optarg, "kernel") != 0)
                die("--form %s: must be auto, records or kernel", optarg);
            options->forms = strcmp(optarg, "records") == 0  ? TLSAGENT_FORM_RECORDS
                             : strcmp(optarg, "kernel") == 0 ? TLSAGENT_FORM_KERNEL
                                                             : 0;
            break;
        case 's':
            options->socket = optarg;
            break;
        case 'u':
            options->user = optarg;
            break;
        case 'g':
            options->greet = optarg;
            break;
        default:
            usage();
        }
    }
    options->workers = (unsigned)workers;
    /* An agent's listening sockets belong to a context: its name names them. */
    if (options->context == NULL)
        options->context = agent_listener;
    if (optind != argc || options->context == NULL ||
        (options->listen == NULL) == (agent_listener == NULL))
        usage();
    if (agent_listener != NULL && strcmp(agent_listener, options->context) != 0)
        die("--agent-listener %s: must be the context's name, %s", agent_listener,
            options->context);
}

int
main(int argc, char **argv)
{
    struct options options;
    struct rlimit files;

    options_read(&options, argc, argv);
    client_make_pattern();
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    options.listener = options.listen != NULL ? prefork_listen(options.listen) : -1;
    prefork_run(options.workers, options.user, worker_main, &options);
    return 0;
}
