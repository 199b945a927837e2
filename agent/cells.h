/*
 * cells.h: the cells, each a handshaker with its own keeper: started, watched, replaced.
 *
 * Role: supervisor. A cell's two processes live and die together: a handshaker must never talk to
 * a keeper that answered somebody else before. Nothing that they send is believed without a check;
 * a process that breaks the rules, ends, or does not answer, costs its cell.
 */
#ifndef AGENT_CELLS_H
#define AGENT_CELLS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent/config.h"
#include "agent/listen.h"
#include "agent/load.h"
#include "agent/loop.h"
#include "agent/serving.h"
#include "protocol/control.h"

#define CELLS_START_MS       10000 /* from exec to READY */
#define CELLS_PING_MS        500   /* between questions to each process */
#define CELLS_SILENCE_MS     2000  /* without an answer: the process is stalled */
#define CELLS_FROZEN_MS      1000  /* the same if it is blocked in what a worker gave it */
#define CELLS_STABLE_MS      10000 /* up for so long: the next death is replaced at once */
#define CELLS_BACKOFF_MIN_MS 100
#define CELLS_BACKOFF_MAX_MS 10000

enum cell_state {
    CELL_DOWN,     /* waits for its time to be started again */
    CELL_STARTING, /* its processes run, not both are ready */
    CELL_UP,       /* workers may have channels to it */
};

struct cells;

struct cell_process {
    struct loop_watch watch; /* first; fd: the control channel, owned, -1: no process */
    struct cell *cell;
    enum control_role role;
    pid_t pid; /* 0: none, or reaped */
    bool hello;
    bool ready;
    uint32_t ping;             /* number of the last question */
    uint32_t ponged;           /* number of the last answer */
    uint64_t unanswered_since; /* ms; 0: nothing is unanswered */
    uint64_t started;          /* ms */
    uint32_t layers;           /* of its sandbox, in force: what it said in READY */
    size_t handed;             /* how much it has got of what it starts with */
    bool misses_tickets;       /* a keeper: there was no way yet to give it the new ones */
    struct control_pong pong;  /* the last answer */
};

struct cell {
    struct loop_timer timer; /* first. STARTING: the deadline; DOWN: when to start again */
    struct cells *cells;
    unsigned number; /* unique over all groups */
    unsigned group;
    int cpu; /* -1: not pinned */
    enum cell_state state;
    uint64_t up_since;    /* ms; 0: did not come up this time */
    unsigned fast_deaths; /* in a row, none of them CELLS_STABLE_MS after coming up */
    uint32_t restarts;
    struct cell_process keeper;
    struct cell_process handshaker;
    struct control_context_counters *counters; /* owned; of this handshaker, by context */
    const struct serving *serving;             /* mapped; whom this handshaker serves just now */
    int serving_fd;                            /* of the same; owned, -1: none */
    uint32_t *served;                          /* owned; users whose channels this handshaker got */
    size_t served_count;
};

/* What the owner wants to hear. */
struct cells_hooks {
    void (*up)(struct cell *cell, void *data);
    void (*down)(struct cell *cell, const char *why, void *data); /* after it was cleared away */
    void (*answered)(void *data); /* every running process has answered its last PING */
    void (*frozen)(uint32_t uid, uint32_t pid, void *data); /* a descriptor of theirs did it */
    void *data;
};

struct cells {
    struct loop *loop; /* does not own this and the next four */
    const struct config *config;
    const struct load_result *generations; /* by group */
    const struct listen_socket *listeners;
    size_t listener_count;
    int session_cache; /* -1: none; set after cells_init() */
    struct cells_hooks hooks;
    uint16_t kernel;   /* what kernel TLS can do here */
    struct cell *list; /* owned */
    unsigned count;
    struct loop_timer ping_timer;
    uint64_t pinged;                       /* ms: when it last fired */
    struct control_context_counters *dead; /* owned; sums of ended handshakers, by context */
    uint8_t *buffer;                       /* owned; CHANNEL_BUFFER_SIZE */
};

/* Make all cells (not started yet). cells must stay where it is. Dies if memory is short. */
void cells_init(struct cells *cells, struct loop *loop, const struct config *config,
                const struct load_result *generations, const struct listen_socket *listeners,
                size_t listener_count, const struct cells_hooks *hooks);

/* Start every cell and begin to watch them. */
void cells_start(struct cells *cells);

/* Number of cells that are up. */
unsigned cells_up(const struct cells *cells);

/* Child pid ended with this wait status: if it is one of ours, its cell is replaced. */
void cells_reaped(struct cells *cells, pid_t pid, int status);

/* The cell is of no use any more: clear it away and have it replaced. Its processes' structures are
 * those of the next ones when this returns. */
void cells_fail(struct cell *cell, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The process closed its channel: it is ending, and its cell with it. */
void cells_fail_closed(struct cell_process *process);

/* "handshaker 0.1", written to text. */
const char *cells_process_name(const struct cell_process *process, char *text, size_t size);

/* Sum of a context's counters over all handshakers, living and dead. */
void cells_sum_counters(const struct cells *cells, unsigned context,
                        struct control_context_counters *sum);

/* End all: close every channel, then kill what is left after a moment. For the supervisor's end. */
void cells_stop(struct cells *cells);

#endif
