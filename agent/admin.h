/*
 * admin.h: the control socket, where the command `tlsagent` asks how things are.
 *
 * Role: supervisor. Only root and the user that runs the agent are answered. Nothing here waits
 * for anybody: an answer goes out as fast as it is read, and who does not read is hung up on.
 */
#ifndef AGENT_ADMIN_H
#define AGENT_ADMIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/cells.h"
#include "agent/fetch.h"
#include "agent/greet.h"
#include "agent/load.h"
#include "agent/loop.h"

#define ADMIN_SESSIONS    4     /* at once; more are told to come back */
#define ADMIN_PATIENCE_MS 5000  /* for a session from connect to its end */
#define ADMIN_UPGRADE_MS  90000 /* for the trial of a new program: it loads every key */
#define ADMIN_ANSWER_MS   500   /* for the roles' fresh numbers; then the last known are told */

enum admin_state {
    ADMIN_FREE,
    ADMIN_ASKED_NOTHING,
    ADMIN_COLLECTING, /* PINGs are out */
    ADMIN_ANSWERING,
    ADMIN_UPGRADING, /* a trial of the new program runs */
};

struct admin;

struct admin_session {
    struct loop_watch watch; /* first; fd: the connection, owned */
    struct loop_timer timer;
    struct admin *admin;
    enum admin_state state;
    size_t next; /* ANSWERING: number of the message to send next */
};

struct admin {
    struct loop_watch watch; /* first; fd: the listening socket, not owned */
    struct loop *loop;       /* does not own this and the next five */
    const struct config *config;
    struct cells *cells;
    const struct greet *greet;
    const struct load_result *generations;
    const struct fetch *fetch;                        /* set after admin_init() */
    uint64_t started;                                 /* ms */
    bool (*upgrade)(void *data, struct error *error); /* begin one; false: it cannot be */
    void *upgrade_data;
    int spare; /* for listen_accept() */
    struct admin_session sessions[ADMIN_SESSIONS];
};

/* Begin to serve the listening socket. admin must stay where it is. Dies if the system refuses. */
void admin_init(struct admin *admin, int listener, struct loop *loop, const struct config *config,
                struct cells *cells, const struct greet *greet,
                const struct load_result *generations);

/* The trial of the new program is over: well, or with an error. Tells those who asked for it. */
void admin_upgrade_tried(struct admin *admin, const struct error *error);

/* Every process has answered its last PING: those who wait for it get their answer. */
void admin_answered(struct admin *admin);

#endif
