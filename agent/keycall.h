/*
 * keycall.h: the handshaker's side of the channel to its keeper: one synchronous call at a time.
 *
 * Role: used only in a handshaker (by proxykey.c and proxyticket.c). Trust: the keeper is believed
 * more than anybody, but its answers are checked all the same: the type, the number, the size.
 *
 * A late answer must never be taken for the answer to the next request. So a missed deadline, an
 * answer with another number, a malformed one or a closed channel ends the *process*: log_die().
 * The supervisor replaces the cell. What returns from these functions is either the result or a
 * refusal.
 */
#ifndef AGENT_KEYCALL_H
#define AGENT_KEYCALL_H

#include <stddef.h>
#include <stdint.h>

#include "agent/onetime.h"
#include "protocol/error.h"
#include "protocol/keyops.h"

#define KEYCALL_DEADLINE_MS 5000

struct keycall;

struct keycall_counters {
    uint64_t calls;
    uint64_t refused;
};

/* Wait (at most wait_ms) for the keeper's HELLO on fd and compare its build id with ours. Takes
 * ownership of fd, also on failure. Returns NULL with an error. */
struct keycall *keycall_open(int fd, int wait_ms, struct error *error);

/* From now on signatures are for one connection: bring as many one-time keys with them as it wishes
 * (one in TLS 1.2, which has one ticket) and put them into keys, in place of what is there. NULL,
 * as in the beginning: bring none. Both must stay where they are until the next call of this
 * function. */
void keycall_serve(struct keycall *keeper, const struct keyops_wish *wish,
                   struct onetime_keys *keys);

/* The calls. request->number is filled in. They return 0 and the result (*size bytes, never more
 * than room), or the reason of the refusal (enum keyops_refusal, > 0). A result that does not fit
 * counts as KEYOPS_INTERNAL. */
int keycall_sign_tls13(struct keycall *keeper, struct keyops_sign_tls13 *request,
                       uint8_t *signature, size_t room, size_t *size);
int keycall_sign_tls12_server(struct keycall *keeper, struct keyops_sign_tls12_server *request,
                              uint8_t *signature, size_t room, size_t *size);

/* One-time keys for the asking. */
int keycall_ticket_keys(struct keycall *keeper, const struct keyops_wish *wish,
                        struct onetime_keys *keys);

/* See struct keyops_open_ticket. If it opens, keys (may be NULL if none are wished) gets what is
 * wished. What lies in the call's own buffers is wiped before the function returns. */
int keycall_open_ticket(struct keycall *keeper, struct keyops_open_ticket *request,
                        struct onetime_keys *keys, uint8_t *result, size_t room, size_t *size);

/* Several of them in one round trip: each with its own result or refusal. At most KEYOPS_BATCH_MAX,
 * of at most KEYOPS_BATCH_TICKET bytes. */
struct keycall_opening {
    struct keyops_open_ticket request;
    struct onetime_keys *keys; /* not owned */
    uint8_t *result;           /* not owned; room bytes */
    size_t room, size;
    int refusal; /* 0: it is open */
};
void keycall_open_tickets(struct keycall *keeper, struct keycall_opening *const *openings,
                          size_t count);

/* KEYOPS_FILTERS_MAX filters at most; returns how many, 0 if refused. */
size_t keycall_filters(struct keycall *keeper,
                       uint8_t filters[KEYOPS_FILTERS_MAX][KEYOPS_FILTER_SIZE]);

void keycall_count(const struct keycall *keeper, struct keycall_counters *counters);

/* A refusal in words, for logs. */
const char *keycall_refusal_text(int reason);

/* Close the channel: the keeper exits. NULL-safe. */
void keycall_close(struct keycall *keeper);

#endif
