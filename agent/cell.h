/*
 * cell.h: what the files of the handshaker role share: one struct per process.
 *
 * handshaker.c owns it and talks to the supervisor; workers.c owns the workers' channels,
 * users.c what each uid holds; acceptor.c the agent's own listening sockets; handshake.c runs one
 * handshake.
 */
#ifndef AGENT_CELL_H
#define AGENT_CELL_H

#include <stddef.h>
#include <stdint.h>

#include "agent/identity.h"
#include "agent/loop.h"
#include "agent/proxyticket.h"
#include "agent/serving.h"
#include "protocol/control.h"

struct handshake;
struct listener;
struct pull;
struct store;
struct user;
struct worker;

/* Per context, in the order of the generation. */
struct cell_context {
    struct control_context_counters counters;
    struct listener *listeners; /* sockets that we accept on */
    struct pull *pulls;         /* workers that take what we accept; the next in turn first */
    struct pull *last_pull;
    uint32_t credits;          /* of all pulls */
    uint32_t accepting;        /* handshakes in progress on connections that we accepted */
    struct handshake *waiting; /* finished ones that no worker has credit for; oldest first */
    struct handshake *last_waiting;
    uint32_t waiting_count;
    bool held; /* none of those with credit reads what it has got: credits count for nothing */
};

struct cell {
    struct loop *loop;
    struct identity_table *identities;
    struct proxyticket *tickets;
    struct store *store;           /* NULL: no fleet's store */
    struct cell_context *contexts; /* identity_context_count() of them */
    struct worker *workers;        /* all open channels */
    uint32_t worker_count;
    struct worker *due;      /* those with answers of this round */
    struct user *users;      /* what each uid holds */
    uint64_t refused_logged; /* when a misbehaving worker was last told of in the log */
    uint32_t refused_silent; /* how many were not, since */
    uint32_t worker_limit;
    uint32_t unread_limit;     /* descriptors that a uid may leave unread */
    struct loop_timer crowded; /* tries again what had to be kept because of unread ones */
    uint32_t in_flight;        /* handshakes in progress */
    uint32_t capacity;         /* handshakes at once: what the configuration and our fds allow */
    uint64_t channels_refused;
    uint32_t pid;            /* ours; asking the kernel each time would be a system call */
    uint16_t kernel;         /* what kernel TLS can do here: bits of protocol/kernel_tls.h */
    struct serving *serving; /* shared with the supervisor: whom we serve just now */
    uint8_t *buffer;         /* CHANNEL_BUFFER_SIZE, for one message at a time */
};

#endif
