/*
 * take.c: connections arrive at self-replacing-server: from the process before it, or from
 * systemd's fd store.
 *
 * Trust: the library checks the connections; who sends them we know, for it started us. Our own
 * message is as long as it is and is copied, no more.
 */
#include "client/examples/self-replacing/server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/examples/self-replacing/notify.h"

#define HERITAGES_MAX 256

/* A socket that connections of another process come from. */
struct heritage {
    int fd;              /* -1: this entry is free */
    struct client *half; /* its connection has come, our own message has not */
};

static struct heritage heritages[HERITAGES_MAX];

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
take_from(struct heritage *heritage)
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

    for (struct heritage *h = heritages; h < heritages + HERITAGES_MAX; h++) {
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

bool
is_heritage(const void *pointer)
{
    const struct heritage *heritage = pointer;

    return heritage >= heritages && heritage < heritages + HERITAGES_MAX;
}

void
take_heritage(void *mark)
{
    take_from(mark);
}

void
find_heritage(int (*open_listener)(const char *address))
{
    int fd;
    char name[NOTIFY_NAME_MAX];

    for (struct heritage *h = heritages; h < heritages + HERITAGES_MAX; h++)
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
        server.listener = open_listener(server.address);
    fcntl(server.listener, F_SETFL, O_NONBLOCK);
    fcntl(server.listener, F_SETFD, FD_CLOEXEC);
}
