/*
 * client.h: one HTTPS client, from the end of its handshake to the end of its connection.
 *
 * Trust: every byte from a client is hostile; a head has a size limit, a body is never collected,
 * and each phase has a time limit, so that a slow client costs nobody but itself.
 */
#ifndef EXAMPLES_CLIENT_H
#define EXAMPLES_CLIENT_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "client/tlsagent.h"

enum client_phase {
    PHASE_HANDSHAKE,
    PHASE_HEAD,    /* waiting for a request */
    PHASE_RESPOND, /* sending the answer; for /echo also receiving the body */
    PHASE_CLOSE,   /* close_notify both ways */
};

enum client_body {
    BODY_NONE,
    BODY_PATTERN,
    BODY_ECHO,
    BODY_DISCARD,
};

struct client {
    struct tlsagent_conn *conn;
    int fd; /* ours if we accepted it, else it belongs to conn */
    bool owns_fd;
    bool polled;   /* fd is in the epoll set */
    bool readable; /* epoll said so, and nothing was read since */
    bool keep_alive;
    bool ended; /* the peer has closed its direction */
    enum client_phase phase;
    enum client_body body;
    uint32_t events;    /* that epoll watches fd for */
    int wake_at;        /* bytes that epoll waits for */
    time_t deadline;    /* monotonic seconds; 0: none (the agent has its own for handshakes) */
    uint64_t body_size; /* of the response */
    uint64_t body_sent;
    uint64_t body_left; /* BODY_DISCARD: of the request, still to be read */
    char *in;           /* a buffer, only while there is something in it */
    size_t in_start, in_end;
    char *out; /* head, and the whole of a short answer */
    size_t out_size, out_sent;
    struct client *next, **link;
};

/* All clients of one worker; epoll_event.data.ptr is the struct client. */
struct client_set {
    int epoll;
    struct client *first;
};

/* Once, before the first client: the bytes of /bytes/N. */
void client_make_pattern(void);

/* owns_fd: fd is closed with the client. NULL if memory is short; then fd is still the caller's. */
struct client *client_new(struct client_set *set, int fd, bool owns_fd);

/* The handshake is done. greet: a line to send at once, for protocols where the server speaks
 * first, or NULL. The client may be gone afterwards. */
void client_start(struct client_set *set, struct client *client, const char *greet);

/* Its fd is ready: go on. The client may be gone afterwards. */
void client_step(struct client_set *set, struct client *client);

/* Let go of a client and its connection; or of one whose connection is already gone. */
void client_drop(struct client_set *set, struct client *client);
void client_free(struct client *client);

/* Let go of those whose time is up. To be called about once a second. */
void client_expire(struct client_set *set);

#endif
