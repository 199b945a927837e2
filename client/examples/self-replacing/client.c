/* client.c: one client of self-replacing-server: what it says comes back. */
#include "client/examples/self-replacing/server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define STEPS 16 /* reads and writes for one client before it is another one's turn */

struct client *
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

void
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

void
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

/* What a call on a plain descriptor came to, in the library's words. */
static ssize_t
plain_result(ssize_t n, int want)
{
    return n == -1 && (errno == EAGAIN || errno == EINTR) ? want : n;
}

static ssize_t
client_read(struct client *client)
{
    if (!client->plain)
        return tlsagent_read(client->conn, client->buffer, sizeof(client->buffer));
    return plain_result(recv(client->fd, client->buffer, sizeof(client->buffer), 0),
                        TLSAGENT_WANT_POLLIN);
}

static ssize_t
client_write(struct client *client)
{
    const char *data = client->buffer + client->start;
    size_t size = client->end - client->start;

    if (!client->plain)
        return tlsagent_write(client->conn, data, size);
    return plain_result(send(client->fd, data, size, MSG_NOSIGNAL), TLSAGENT_WANT_POLLOUT);
}

/* Echo until the socket wants to be waited for. */
void
client_step(struct client *client)
{
    for (int i = 0; i < STEPS; i++) {
        ssize_t n;

        if (client->start < client->end) {
            n = client_write(client);
            if (n > 0)
                client->start += (size_t)n;
        } else if (client->ended) {
            client_close(client);
            return;
        } else {
            client->start = client->end = 0;
            n = client_read(client);
            if (n > 0)
                client->end = (size_t)n;
            client->ended = n == 0;
        }
        if (n == -1) {
            say("%s", client->plain ? strerror(errno) : tlsagent_error(client->conn));
            client_free(client);
            return;
        }
        if (n == TLSAGENT_WANT_POLLOUT) {
            client_watch(client, EPOLLOUT);
            return;
        }
        if (n == TLSAGENT_WANT_POLLIN) {
            bool rest = !client->plain && tlsagent_flush(client->conn) == TLSAGENT_WANT_POLLOUT;

            client_watch(client, rest ? EPOLLIN | EPOLLOUT : EPOLLIN);
            return;
        }
    }
    client_watch(client, EPOLLIN | EPOLLOUT); /* comes back at once, after the others */
}

/* The stream form: one more process, the relay, does TLS, and we have a plain descriptor. It is the
 * same for a connection that came in this form: then the relay of a process before us goes on. */
static bool
client_make_plain(struct client *client)
{
    int fd = tlsagent_stream_fd(client->conn);

    if (fd == -1) {
        say("%s", tlsagent_error(client->conn));
        return false;
    }
    if (client->owns_fd)
        close(client->fd); /* the relay has it */
    client->fd = fd;
    client->owns_fd = client->plain = true;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return true;
}

void
client_open(struct client *client)
{
    bool came = strcmp(tlsagent_conn_form(client->conn), "stream") == 0;

    if ((came || (server.forms & TLSAGENT_FORM_STREAM) != 0) && !client_make_plain(client)) {
        client_free(client);
        return;
    }
    client->open = true;
    client_step(client); /* bytes may be here already that no poll would tell of */
}
