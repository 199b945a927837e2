/*
 * give.c: self-replacing-server's connections leave: to a new process, or into systemd's fd store.
 *
 * A connection that could not be sent is still ours and goes on being served: only what the kernel
 * has taken is gone.
 */
#include "client/examples/self-replacing/server.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/examples/self-replacing/notify.h"

static int store = -1;  /* a queue that is being filled; -1: none */
static int stored = -1; /* the end of it that systemd gets */
static bool to_store;
static size_t given;

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
    if (store == -1)
        return;
    if (!notify_store(stored, "connections"))
        die("systemd does not take connections: %s", strerror(errno));
    close(store);
    close(stored);
    store = stored = -1;
}

/* A queue with room for both messages of a connection: nobody reads it before we are gone. */
static int
open_queue(void)
{
    int pair[2], used = 0, size = 0;
    socklen_t length = sizeof(size);

    if (store != -1) {
        getsockopt(store, SOL_SOCKET, SO_SNDBUF, &size, &length);
        if (ioctl(store, SIOCOUTQ, &used) == 0 && used < size / 2)
            return store;
        store_queue();
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == -1)
        die("socketpair: %s", strerror(errno));
    store = pair[0];
    stored = pair[1];
    return store;
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
    say("the new process is gone: %zu connections were given, we go on with the others", given);
    close(server.heir);
    server.heir = -1;
    server.leaving = false;
    listen_again(true);
}

/* As many as the socket takes. What cannot be sent is still ours and goes on being served. */
void
give_clients(void)
{
    struct client *client, *next;

    for (client = server.clients; client != NULL; client = next) {
        int to, rc;

        next = client->next;
        if (!client->open)
            continue; /* when its handshake is done */
        to = to_store ? open_queue() : server.heir;
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
            if (!to_store)
                resume();
            else
                client_free(client);
            return;
        }
        if (!send_carry(to, client) && !to_store) {
            client_free(client);
            resume();
            return;
        }
        given++;
        client_free(client);
    }
    if (server.clients == NULL) {
        if (to_store) {
            store_queue();
            notify_barrier();
        }
        say("gave %zu connections away: done", given);
        exit(0);
    }
}

/* SIGHUP. The program file may be another one by now: that is the point. */
void
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
void
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
    given = 0;
    server.leaving = true;
    watch_heir(false);
}

/* SIGTERM. */
void
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
    given = 0;
    to_store = server.leaving = true;
}
