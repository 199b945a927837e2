/*
 * self-replacing-server.c: a TLS server that replaces its own program while it serves. An example
 * to copy from. What it serves is an echo: what a client sends comes back.
 *
 *   self-replacing-server --context www --listen 127.0.0.1:8443
 *   kill -HUP   starts the program file anew (an upgraded one, say) and hands it all connections
 *   kill -TERM  under systemd: all connections go into the fd store, and the next start goes on
 *               with them; else: the end
 *
 * No byte is lost and no client notices. The new process says that it is ready before it gets the
 * first connection, so a broken program file changes nothing; handshakes in progress are finished
 * by the old process and handed over then; if the new process dies half-way the old one goes on
 * with what it still has.
 *
 * Between the processes is a Unix SEQPACKET socket: for each connection one message of the
 * library's (tlsagent_conn_send()) and one of our own with what the library does not know: here,
 * bytes that were read from the client and not yet written back.
 *
 * With --form stream the relay, a helper process of the library, does TLS, and what is handed over
 * is a plain descriptor. The relay outlives us and goes on: each process starts one of its own for
 * new connections, and it ends with the last of them.
 *
 * For systemd (FileDescriptorStoreMax= as below; Type=notify, NotifyAccess=all) the same two
 * messages wait in the queue of a socket pair; systemd keeps the reading end. So also connections
 * whose keys are in this process survive it. self-replacing/notify.c is what is needed of
 * sd_notify(3).
 *
 *   [Service]
 *   Type=notify
 *   NotifyAccess=all
 *   FileDescriptorStoreMax=512
 *   ExecStart=/usr/local/bin/self-replacing-server --context www --listen 0.0.0.0:8443
 *   ExecReload=/bin/kill -HUP $MAINPID
 *   KillMode=process            only with --form stream: the relay must not be killed
 *
 * Trust: every byte from a client is hostile. What comes from the other process is checked by the
 * library; who it is we know, for we started it (or systemd did).
 *
 * Where to look first: self-replacing/give.c, give_clients() and start_heir();
 * self-replacing/take.c, take_from().
 */
#include "client/examples/self-replacing/server.h"

#include <errno.h>
#include <getopt.h>
#include <netdb.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/examples/self-replacing/notify.h"

#define EVENTS 64

struct server server = {.listener = -1, .heir = -1};

/* What epoll_event.data.ptr says, besides a client. */
static char agent_mark, listener_mark, signal_mark;
char heir_mark;

static void
say_list(const char *format, va_list list)
{
    char line[512];

    vsnprintf(line, sizeof(line), format, list);
    fprintf(stderr, "self-replacing-server[%ld]: %s\n", (long)getpid(), line);
}

void
say(const char *format, ...)
{
    va_list list;

    va_start(list, format);
    say_list(format, list);
    va_end(list);
}

void
die(const char *format, ...)
{
    va_list list;

    va_start(list, format);
    say_list(format, list);
    va_end(list);
    exit(1);
}

void
watch_mark(int fd, void *mark, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = mark};

    if (epoll_ctl(server.epoll, EPOLL_CTL_ADD, fd, &event) == -1)
        die("epoll: %s", strerror(errno));
}

/* ---- new connections ---- */

static void
accept_clients(void)
{
    int fd;

    while ((fd = accept4(server.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) != -1) {
        struct tlsagent_conn *conn = tlsagent_accept_fd(server.agent, server.context, fd);

        if (conn == NULL) {
            say("%s", tlsagent_agent_error(server.agent));
            close(fd);
            continue;
        }
        tlsagent_set_forms(conn, server.forms);
        tlsagent_set_data(conn, client_new(conn, fd, true));
        tlsagent_handshake(conn); /* tlsagent_next() tells how it went */
    }
}

static void
take_finished(void)
{
    struct tlsagent_conn *conn;

    while ((conn = tlsagent_next(server.agent)) != NULL) {
        struct client *client = tlsagent_data(conn);

        if (tlsagent_handshake(conn) == 0) {
            client_open(client);
        } else {
            say("%s", tlsagent_error(conn));
            client_free(client);
        }
    }
}

void
listen_again(bool listening)
{
    if (server.listening == listening)
        return;
    server.listening = listening;
    if (listening)
        watch_mark(server.listener, &listener_mark, EPOLLIN);
    else
        epoll_ctl(server.epoll, EPOLL_CTL_DEL, server.listener, NULL);
}
/* ---- the start ---- */

static int
listen_on(const char *text)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found;
    char host[256];
    const char *colon = strrchr(text, ':');
    int fd, error;

    if (colon == NULL || (size_t)(colon - text) >= sizeof(host))
        die("--listen %s: must be ADDRESS:PORT", text);
    snprintf(host, sizeof(host), "%.*s", (int)(colon - text), text);
    error = getaddrinfo(host, colon + 1, &hints, &found);
    if (error != 0)
        die("--listen %s: %s", text, gai_strerror(error));
    fd = socket(found->ai_family, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (fd == -1 || bind(fd, found->ai_addr, found->ai_addrlen) == -1 || listen(fd, 1024) == -1)
        die("--listen %s: %s", text, strerror(errno));
    freeaddrinfo(found);
    return fd;
}

static unsigned
form_of(const char *name)
{
    static const struct {
        const char *name;
        unsigned forms;
    } known[] = {
        {"auto", 0},
        {"records", TLSAGENT_FORM_RECORDS},
        {"kernel", TLSAGENT_FORM_KERNEL},
        {"stream", TLSAGENT_FORM_RECORDS | TLSAGENT_FORM_STREAM},
    };

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strcmp(name, known[i].name) == 0)
            return known[i].forms;
    die("--form %s: must be auto, records, kernel or stream", name);
}

static void
parse_options(int argc, char **argv)
{
    static const struct option options[] = {{"context", required_argument, NULL, 'c'},
                                            {"listen", required_argument, NULL, 'l'},
                                            {"form", required_argument, NULL, 'f'},
                                            {"socket", required_argument, NULL, 's'},
                                            {NULL, 0, NULL, 0}};
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'c')
            server.context = optarg;
        else if (option == 'l')
            server.address = optarg;
        else if (option == 's')
            server.socket = optarg;
        else if (option == 'f')
            server.forms = form_of(optarg);
        else
            exit(2);
    }
    if (server.context == NULL || server.address == NULL || optind != argc)
        die("usage: self-replacing-server --context NAME --listen ADDRESS:PORT [--socket AGENT] "
            "[--form auto|records|kernel|stream]");
    server.arguments = argv;
}

static void
set_up(void)
{
    struct rlimit files;
    sigset_t set;
    char text[64];
    bool heir = getenv(HEIR_VARIABLE) != NULL;

    if (getrlimit(RLIMIT_NOFILE, &files) == 0) { /* it also bounds what may be under way */
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGCHLD, SIG_IGN);
    server.epoll = epoll_create1(EPOLL_CLOEXEC);
    server.signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    find_heritage(listen_on);
    server.agent = tlsagent_open(server.socket);
    if (server.epoll == -1 || server.signals == -1 || server.agent == NULL)
        die("start: %s", strerror(errno));
    watch_mark(server.signals, &signal_mark, EPOLLIN);
    watch_mark(tlsagent_fd(server.agent), &agent_mark, EPOLLIN);
    listen_again(true);
    if (heir && send(HEIR_FD, "r", 1, MSG_NOSIGNAL) != 1)
        die("the process before us is gone");
    snprintf(text, sizeof(text), "READY=1\nMAINPID=%ld", (long)getpid());
    notify_say(text);
    notify_say("FDSTOREREMOVE=1\nFDNAME=connections"); /* we have them */
    say("ready");
}

static void
handle_signal(void)
{
    struct signalfd_siginfo info;

    while (read(server.signals, &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo == SIGHUP)
            start_heir();
        else
            leave();
    }
}

int
main(int argc, char **argv)
{
    struct epoll_event events[EVENTS];

    parse_options(argc, argv);
    set_up();
    for (;;) {
        int count = epoll_wait(server.epoll, events, EVENTS, server.leaving ? 100 : -1);

        for (int i = 0; i < count; i++) {
            void *who = events[i].data.ptr;

            if (who == &agent_mark)
                take_finished();
            else if (who == &listener_mark)
                accept_clients();
            else if (who == &signal_mark)
                handle_signal();
            else if (who == &heir_mark)
                hear_heir(events[i].events);
            else if (is_heritage(who))
                take_heritage(who);
            else
                client_step(who);
        }
        if (server.leaving)
            give_clients();
    }
}
