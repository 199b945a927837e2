/*
 * server.h: what the files of self-replacing-server share: the server's state and one client of it.
 *
 * Role: one process with one epoll set. Trust: every byte from a client is hostile; what comes from
 * the process before us is checked by the library.
 */
#ifndef EXAMPLES_SELF_REPLACING_SERVER_H
#define EXAMPLES_SELF_REPLACING_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/tlsagent.h"

#define BUFFER_SIZE   16384
#define HEIR_FD       3 /* in the new process: where connections come from */
#define HEIR_LISTENER 4
#define HEIR_VARIABLE "SELF_REPLACING_HEIR"

struct client {
    struct tlsagent_conn *conn;
    int fd;
    bool owns_fd; /* we accepted it; one that was handed over belongs to conn */
    bool plain;   /* the stream form: fd carries plaintext, and is ours */
    bool open;    /* the handshake is done */
    bool ended;   /* the client has said all */
    uint32_t events;
    size_t start, end; /* of what is to be echoed */
    char buffer[BUFFER_SIZE];
    struct client *next, **link;
};

struct server {
    const char *context, *address, *socket;
    unsigned forms;   /* that are wanted, as tlsagent_set_forms() takes them */
    char **arguments; /* of main(), for the new process */
    struct tlsagent *agent;
    struct client *clients;
    int epoll, listener, signals;
    int heir; /* the new process; -1: none */
    bool listening;
    bool leaving; /* connections are being given away */
};

extern struct server server;
extern char heir_mark; /* what epoll_event.data.ptr says for server.heir */

void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void watch_mark(int fd, void *mark, uint32_t events);
void listen_again(bool listening);

/* ---- client.c: one client ---- */

struct client *client_new(struct tlsagent_conn *conn, int fd, bool owns_fd);
void client_open(struct client *client);  /* the handshake is done: serve it */
void client_step(struct client *client);  /* its fd is ready */
void client_close(struct client *client); /* with a close_notify */
void client_free(struct client *client);

/* ---- give.c: connections leave ---- */

void start_heir(void);           /* SIGHUP */
void hear_heir(uint32_t events); /* its socket is ready */
void leave(void);                /* SIGTERM */
void give_clients(void);         /* while server.leaving: after each turn of the loop */

/* ---- take.c: connections arrive ---- */

/* The listening socket and the first connections: from the process before us, from systemd, or (the
 * socket only) made by open_listener(). */
void find_heritage(int (*open_listener)(const char *address));
bool is_heritage(const void *mark);
void take_heritage(void *mark); /* what epoll said is ready */

#endif
