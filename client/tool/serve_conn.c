/*
 * serve_conn.c: a connection of `tlsagent serve`: accepted (here, or by the agent), its handshake,
 * and its end. In between it is a program's (serve_run.c) or a server's (serve_to.c).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/tool/serve.h"

#define ACCEPTS 32 /* at one go */
#define PULL    16 /* connections that wait here, per cell, when the agent accepts */

static struct serve_conn *
new_conn(struct serve *serve, int fd)
{
    struct serve_conn *conn = calloc(1, sizeof(*conn));

    if (conn == NULL)
        return NULL;
    conn->fd = fd;
    conn->plain = conn->event.fd = -1;
    conn->id = serve->next_id++;
    TAILQ_INSERT_TAIL(&serve->conns, conn, link);
    serve->count++;
    return conn;
}

static void
note_addresses(struct serve_conn *conn, int fd)
{
    socklen_t size = sizeof(conn->peer);

    if (getpeername(fd, (struct sockaddr *)&conn->peer, &size) == -1)
        conn->peer.ss_family = AF_UNSPEC;
    size = sizeof(conn->local);
    if (getsockname(fd, (struct sockaddr *)&conn->local, &size) == -1)
        conn->local.ss_family = AF_UNSPEC;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
}

void
serve_drop(struct serve *serve, struct serve_conn *conn)
{
    if (conn->conn != NULL)
        tlsagent_abandon(conn->conn);
    conn->conn = NULL;
    if (conn->event.fd != -1) {
        serve_unwatch(serve, &conn->event);
        close(conn->event.fd);
    }
    if (conn->fd != -1)
        close(conn->fd);
    if (conn->plain != -1)
        close(conn->plain);
    conn->event.fd = conn->fd = conn->plain = -1;
    if (conn->pid != 0 || conn->relay != NULL)
        return;
    /* Events of this round may point here: it is freed when the round is over. */
    TAILQ_REMOVE(&serve->conns, conn, link);
    TAILQ_INSERT_TAIL(&serve->dead, conn, link);
    serve->count--;
}

static void
handshake_over(struct serve *serve, struct serve_conn *conn, int result)
{
    const struct serve_options *options = serve->options;
    char address[INET6_ADDRSTRLEN];
    unsigned port;

    if (result == -1) {
        int code = tlsagent_error_code(conn->conn);
        bool ours = code == TLSAGENT_E_MEMORY || code == TLSAGENT_E_ARGUMENT ||
                    code == TLSAGENT_E_AGENT || code == TLSAGENT_E_NOT_PERMITTED ||
                    code == TLSAGENT_E_BUSY || code == TLSAGENT_E_SYSTEM;

        serve_facts_address(&conn->peer, address, sizeof(address), &port);
        if (ours || options->verbose)
            serve_say("%s port %u: %s", address, port, tlsagent_error(conn->conn));
        serve_drop(serve, conn);
    } else if (options->starttls)
        serve_run_starttls_done(serve, conn);
    else if (options->program != NULL)
        serve_run_finished(serve, conn);
    else
        serve_to_finished(serve, conn);
}

void
serve_handshake(struct serve *serve, struct serve_conn *conn)
{
    int result, flags = fcntl(conn->fd, F_GETFL);

    if (flags != -1)
        fcntl(conn->fd, F_SETFL, flags | O_NONBLOCK);
    conn->conn = tlsagent_accept_fd(serve->agent, serve->options->context, conn->fd);
    if (conn->conn == NULL) {
        serve_say("%s", tlsagent_agent_error(serve->agent));
        serve_drop(serve, conn);
        return;
    }
    tlsagent_set_data(conn->conn, conn);
    tlsagent_set_forms(conn->conn, TLSAGENT_FORM_RECORDS | TLSAGENT_FORM_STREAM);
    result = tlsagent_handshake(conn->conn);
    if (result == 0 || result == -1)
        handshake_over(serve, conn, result);
}

bool
serve_is_full(const struct serve *serve)
{
    return serve->count >= serve->options->max;
}

void
serve_accept(struct serve *serve, int listener)
{
    for (int i = 0; i < ACCEPTS && !serve_is_full(serve); i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        struct serve_conn *conn;

        if (fd == -1) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                serve_say("accept: %s; waiting a second", strerror(errno));
                serve->pause_until = serve_now() + SERVE_RETRY_MS;
            }
            return;
        }
        conn = new_conn(serve, fd);
        if (conn == NULL) {
            close(fd);
            return;
        }
        note_addresses(conn, fd);
        if (serve->options->starttls)
            serve_run_starttls(serve, conn);
        else
            serve_handshake(serve, conn);
    }
}

void
serve_take_finished(struct serve *serve)
{
    struct tlsagent_conn *tls;
    struct serve_conn *conn;

    while (!(serve->options->agent_listener && serve_is_full(serve)) &&
           (tls = tlsagent_next(serve->agent)) != NULL) {
        conn = tlsagent_data(tls);
        if (conn == NULL) {
            conn = new_conn(serve, -1);
            if (conn == NULL) {
                tlsagent_abandon(tls);
                continue;
            }
            conn->conn = tls;
            note_addresses(conn, tlsagent_conn_fd(tls));
        }
        handshake_over(serve, conn, tlsagent_handshake(tls));
    }
}

void
serve_pull(struct serve *serve)
{
    if (tlsagent_pull(serve->agent, serve->options->context,
                      serve->options->max < PULL ? serve->options->max : PULL) == 0) {
        serve->pull_at = 0;
        return;
    }
    if (serve->pull_at == 1)
        serve_say("%s; trying again every second", tlsagent_agent_error(serve->agent));
    serve->pull_at = serve_now() + SERVE_RETRY_MS;
}
