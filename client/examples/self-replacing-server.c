/*
 * self-replacing-server.c: a TLS server that replaces its own program while it serves. An example
 * to copy from. What it serves is an echo: what a client sends comes back.
 *
 *   self-replacing-server --context www --listen 127.0.0.1:8443
 *   kill -HUP   starts the program file anew (an upgraded one, say) and hands it all connections
 *   kill -TERM  under systemd: all connections go into the fd store, and the next start goes on
 * with them; else: the end
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
 *
 * Trust: every byte from a client is hostile. What comes from the other process is checked by the
 * library; who it is we know, for we started it (or systemd did).
 *
 * Where to look first: give_clients(), take_heritage(), start_heir().
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <linux/sockios.h>
#include <unistd.h>

#include "client/examples/self-replacing/notify.h"
#include "client/tlsagent.h"

#define BUFFER_SIZE   16384
#define EVENTS        64
#define STEPS         16 /* reads and writes for one client before it is another one's turn */
#define HERITAGES_MAX 256
#define HEIR_FD       3 /* in the new process: where connections come from */
#define HEIR_LISTENER 4
#define HEIR_VARIABLE "SELF_REPLACING_HEIR"

struct client {
    struct tlsagent_conn *conn;
    int fd;
    bool owns_fd; /* we accepted it; one that was handed over belongs to conn */
    bool open;    /* the handshake is done */
    bool ended;   /* the client has said all */
    uint32_t events;
    size_t start, end; /* of what is to be echoed */
    char buffer[BUFFER_SIZE];
    struct client *next, **link;
};

/* A socket that connections of another process come from. */
struct heritage {
    int fd;              /* -1: this entry is free */
    struct client *half; /* its connection has come, our own message has not */
};

static struct {
    const char *context, *address, *socket;
    char **arguments; /* of main(), for the new process */
    struct tlsagent *agent;
    int epoll, listener, signals;
    bool listening;
    bool leaving; /* connections are being given away */
    int heir;     /* the new process; -1: none */
    int store;    /* a queue on its way into systemd's store; -1: none */
    int stored;   /* the end of it that systemd gets */
    bool to_store;
    size_t given;
    struct heritage heritages[HERITAGES_MAX];
    struct client *clients;
} server = {.listener = -1, .heir = -1, .store = -1, .stored = -1};

static char agent_mark, listener_mark, signal_mark, heir_mark;

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

static void
say_list(const char *format, va_list list)
{
    char line[512];

    vsnprintf(line, sizeof(line), format, list);
    fprintf(stderr, "self-replacing-server[%ld]: %s\n", (long)getpid(), line);
}

static void
say(const char *format, ...)
{
    va_list list;

    va_start(list, format);
    say_list(format, list);
    va_end(list);
}

static void
die(const char *format, ...)
{
    va_list list;

    va_start(list, format);
    say_list(format, list);
    va_end(list);
    exit(1);
}

static void
watch_mark(int fd, char *mark, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = mark};

    if (epoll_ctl(server.epoll, EPOLL_CTL_ADD, fd, &event) == -1)
        die("epoll: %s", strerror(errno));
}

/* ---- one client ---- */

static struct client *
client_new(struct tlsagent_conn *conn, int fd, bool owns_fd)
{
    struct client *client = calloc(1, sizeof(*client));

    if (client == NULL)
        die("out of memory");
    client->conn = conn;
    client->fd = fd;
    client->owns_fd = owns_fd;
    client->next = server.clients;
    client->link = &server.clients;
    if (client->next != NULL)
        client->next->link = &client->next;
    server.clients = client;
    return client;
}

static void
client_watch(struct client *client, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = client};

    if (client->events == events)
        return;
    if (epoll_ctl(server.epoll, client->events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, client->fd,
                  &event) == -1)
        die("epoll: %s", strerror(errno));
    client->events = events;
}

/* Out of the epoll set, always before the fd is closed: the set watches the open file, which may be
 * open in another process too, because the connection went there or came from there. */
static void
client_unwatch(struct client *client)
{
    if (client->events != 0)
        epoll_ctl(server.epoll, EPOLL_CTL_DEL, client->fd, NULL);
    client->events = 0;
}

static void
client_free(struct client *client)
{
    client_unwatch(client);
    tlsagent_abandon(client->conn);
    if (client->owns_fd)
        close(client->fd);
    *client->link = client->next;
    if (client->next != NULL)
        client->next->link = client->link;
    free(client);
}

static void
client_close(struct client *client)
{
    client_unwatch(client);
    if (tlsagent_close(client->conn) == TLSAGENT_WANT_POLLOUT) {
        client_watch(client, EPOLLOUT); /* and then the same call again */
        return;
    }
    client->conn = NULL;
    client_free(client);
}

/* Echo until the socket wants to be waited for. */
static void
client_step(struct client *client)
{
    for (int i = 0; i < STEPS; i++) {
        ssize_t n;

        if (client->start < client->end) {
            n = tlsagent_write(client->conn, client->buffer + client->start,
                               client->end - client->start);
            if (n > 0)
                client->start += (size_t)n;
        } else if (client->ended) {
            client_close(client);
            return;
        } else {
            client->start = client->end = 0;
            n = tlsagent_read(client->conn, client->buffer, sizeof(client->buffer));
            if (n > 0)
                client->end = (size_t)n;
            client->ended = n == 0;
        }
        if (n == -1) {
            say("%s", tlsagent_error(client->conn));
            client_free(client);
            return;
        }
        if (n == TLSAGENT_WANT_POLLOUT) {
            client_watch(client, EPOLLOUT);
            return;
        }
        if (n == TLSAGENT_WANT_POLLIN) {
            bool rest = tlsagent_flush(client->conn) == TLSAGENT_WANT_POLLOUT;

            client_watch(client, rest ? EPOLLIN | EPOLLOUT : EPOLLIN);
            return;
        }
    }
    client_watch(client, EPOLLIN | EPOLLOUT); /* comes back at once, after the others */
}

static void
client_open(struct client *client)
{
    client->open = true;
    client_step(client); /* bytes may be here already that no poll would tell of */
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

static void
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

/* ---- giving ---- */

/* Our own message, right behind the connection's. The connection has gone: this has to follow. */
static bool
send_carry(int fd, const struct client *client)
{
    char carry[1 + BUFFER_SIZE];
    size_t size = client->end - client->start;

    carry[0] = (char)client->ended;
    memcpy(carry + 1, client->buffer + client->start, size);
    while (send(fd, carry, 1 + size, MSG_NOSIGNAL) == -1) {
        if (errno != EAGAIN && errno != EINTR)
            return false;
        poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, -1);
    }
    return true;
}

/* Give the queue that is filled to systemd, and say no more into it. */
static void
store_queue(void)
{
    if (server.store == -1)
        return;
    if (!notify_store(server.stored, "connections"))
        die("systemd does not take connections: %s", strerror(errno));
    close(server.store);
    close(server.stored);
    server.store = server.stored = -1;
}

/* A queue with room for both messages of a connection: nobody reads it before we are gone. */
static int
open_queue(void)
{
    int pair[2], used = 0, size = 0;
    socklen_t length = sizeof(size);

    if (server.store != -1) {
        getsockopt(server.store, SOL_SOCKET, SO_SNDBUF, &size, &length);
        if (ioctl(server.store, SIOCOUTQ, &used) == 0 && used < size / 2)
            return server.store;
        store_queue();
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == -1)
        die("socketpair: %s", strerror(errno));
    server.store = pair[0];
    server.stored = pair[1];
    return server.store;
}

/* Wake us when there is room for more, or only when the new process ends. */
static void
watch_heir(bool full)
{
    struct epoll_event event = {.events = full ? EPOLLOUT : 0, .data.ptr = &heir_mark};

    epoll_ctl(server.epoll, EPOLL_CTL_MOD, server.heir, &event);
}

static void
resume(void)
{
    say("the new process is gone: %zu connections were given, we go on with the others",
        server.given);
    close(server.heir);
    server.heir = -1;
    server.leaving = false;
    listen_again(true);
}

/* As many as the socket takes. What cannot be sent is still ours and goes on being served. */
static void
give_clients(void)
{
    struct client *client, *next;

    for (client = server.clients; client != NULL; client = next) {
        int to, rc;

        next = client->next;
        if (!client->open)
            continue; /* when its handshake is done */
        to = server.to_store ? open_queue() : server.heir;
        rc = tlsagent_conn_send(client->conn, to);
        if (rc == TLSAGENT_WANT_POLLOUT) {
            watch_heir(true);
            return;
        }
        if (rc == -1 && tlsagent_error_code(client->conn) == TLSAGENT_E_BUSY)
            return; /* too many on their way: the next turn of the loop */
        if (rc == -1 && tlsagent_error_code(client->conn) == TLSAGENT_E_MOVED)
            die("a connection was given twice");
        if (rc == -1) {
            say("%s", tlsagent_error(client->conn));
            if (!server.to_store)
                resume();
            else
                client_free(client);
            return;
        }
        if (!send_carry(to, client) && !server.to_store) {
            client_free(client);
            resume();
            return;
        }
        server.given++;
        client_free(client);
    }
    if (server.clients == NULL) {
        if (server.to_store) {
            store_queue();
            notify_barrier();
        }
        say("gave %zu connections away: done", server.given);
        exit(0);
    }
}

/* SIGHUP. The program file may be another one by now: that is the point. */
static void
start_heir(void)
{
    int pair[2];
    pid_t child;

    if (server.heir != -1 || server.leaving || server.arguments == NULL)
        return;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == -1) {
        say("socketpair: %s", strerror(errno));
        return;
    }
    child = fork();
    if (child == 0) {
        /* Out of the way of the numbers that they get. */
        int heir = fcntl(pair[1], F_DUPFD_CLOEXEC, 10);
        int listener = fcntl(server.listener, F_DUPFD_CLOEXEC, 10);

        if (dup2(heir, HEIR_FD) == HEIR_FD && dup2(listener, HEIR_LISTENER) == HEIR_LISTENER &&
            setenv(HEIR_VARIABLE, "1", 1) == 0)
            execvp(server.arguments[0], server.arguments);
        say("%s: %s", server.arguments[0], strerror(errno));
        _exit(1);
    }
    close(pair[1]);
    if (child == -1) {
        say("fork: %s", strerror(errno));
        close(pair[0]);
        return;
    }
    server.heir = pair[0];
    fcntl(server.heir, F_SETFL, O_NONBLOCK);
    watch_mark(server.heir, &heir_mark, EPOLLIN);
}

/* The new process says that it is ready, or it ends before. */
static void
hear_heir(uint32_t events)
{
    char byte;

    if (server.leaving && (events & (EPOLLHUP | EPOLLERR)) != 0) {
        resume();
        return;
    }
    if (server.leaving) { /* there is room again: give_clients() follows */
        watch_heir(false);
        return;
    }
    if (recv(server.heir, &byte, 1, 0) != 1) {
        say("the new process did not start: nothing changes");
        close(server.heir);
        server.heir = -1;
        return;
    }
    listen_again(false);
    server.given = 0;
    server.leaving = true;
    watch_heir(false);
}

/* SIGTERM. */
static void
leave(void)
{
    struct client *client, *next;
    if (!notify_wanted()) {
        for (client = server.clients; client != NULL; client = next) {
            next = client->next;
            client_close(client); /* with a close_notify, where there is room for it */
        }
        exit(0);
    }
    notify_say("STOPPING=1");
    if (!notify_store(server.listener, "listener"))
        die("systemd does not take the listening socket: %s", strerror(errno));
    listen_again(false);
    server.given = 0;
    server.to_store = server.leaving = true;
}

/* ---- taking ---- */

static void
heritage_end(struct heritage *heritage, const char *why)
{
    if (why != NULL)
        say("%s", why);
    if (heritage->half != NULL)
        client_free(heritage->half); /* half of it is lost */
    close(heritage->fd);
    *heritage = (struct heritage){.fd = -1};
}

/* Connections and what belongs to them, as long as something is there. */
static void
take_heritage(struct heritage *heritage)
{
    for (;;) {
        struct client *client = heritage->half;
        char carry[1 + BUFFER_SIZE];
        ssize_t size;

        if (client == NULL) {
            struct tlsagent_conn *conn = tlsagent_conn_receive(heritage->fd);

            if (conn == NULL && errno == 0) {
                heritage_end(heritage, NULL);
                return;
            }
            if (conn == NULL)
                return; /* EAGAIN; EMFILE: later */
            if (tlsagent_handshake(conn) == -1) {
                heritage_end(heritage, tlsagent_error(conn));
                tlsagent_abandon(conn);
                return;
            }
            heritage->half = client_new(conn, tlsagent_conn_fd(conn), false);
            continue;
        }
        size = recv(heritage->fd, carry, sizeof(carry), 0);
        if (size == -1 && (errno == EAGAIN || errno == EINTR))
            return;
        if (size < 1) {
            heritage_end(heritage, "the other process ended half-way");
            return;
        }
        heritage->half = NULL;
        client->ended = carry[0] != 0;
        client->end = (size_t)size - 1;
        memcpy(client->buffer, carry + 1, client->end);
        client_open(client);
    }
}

static void
add_heritage(int fd)
{
    struct epoll_event event = {.events = EPOLLIN};

    for (struct heritage *h = server.heritages; h < server.heritages + HERITAGES_MAX; h++) {
        if (h->fd != -1)
            continue;
        h->fd = fd;
        event.data.ptr = h;
        fcntl(fd, F_SETFL, O_NONBLOCK);
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        if (epoll_ctl(server.epoll, EPOLL_CTL_ADD, fd, &event) == -1)
            die("epoll: %s", strerror(errno));
        return;
    }
    die("more than %d queues in systemd's store", HERITAGES_MAX);
}

static bool
is_heritage(const void *pointer)
{
    const struct heritage *heritage = pointer;

    return heritage >= server.heritages && heritage < server.heritages + HERITAGES_MAX;
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

/* Where the listening socket and the first connections come from: the process before us, systemd,
 * or nowhere. */
static void
find_heritage(void)
{
    int fd;
    char name[NOTIFY_NAME_MAX];

    for (struct heritage *h = server.heritages; h < server.heritages + HERITAGES_MAX; h++)
        h->fd = -1;
    if (getenv(HEIR_VARIABLE) != NULL) {
        unsetenv(HEIR_VARIABLE);
        server.listener = HEIR_LISTENER;
        add_heritage(HEIR_FD);
    }
    while ((fd = notify_next_fd(name)) != -1) {
        if (strcmp(name, "connections") == 0) {
            add_heritage(fd);
        } else if (server.listener == -1) {
            server.listener = fd;
        } else {
            close(fd);
        }
    }
    if (server.listener == -1)
        server.listener = listen_on(server.address);
    fcntl(server.listener, F_SETFL, O_NONBLOCK);
    fcntl(server.listener, F_SETFD, FD_CLOEXEC);
}

static void
parse_options(int argc, char **argv)
{
    static const struct option options[] = {{"context", required_argument, NULL, 'c'},
                                            {"listen", required_argument, NULL, 'l'},
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
        else
            exit(2);
    }
    if (server.context == NULL || server.address == NULL || optind != argc)
        die("usage: self-replacing-server --context NAME --listen ADDRESS:PORT [--socket AGENT]");
    server.arguments = argv;
}

static void
set_up(void)
{
    struct rlimit files;
    sigset_t set;
    char text[64];

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
    find_heritage();
    server.agent = tlsagent_open(server.socket);
    if (server.epoll == -1 || server.signals == -1 || server.agent == NULL)
        die("start: %s", strerror(errno));
    watch_mark(server.signals, &signal_mark, EPOLLIN);
    watch_mark(tlsagent_fd(server.agent), &agent_mark, EPOLLIN);
    listen_again(true);
    if (server.heritages[0].fd == HEIR_FD && send(HEIR_FD, "r", 1, MSG_NOSIGNAL) != 1)
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
