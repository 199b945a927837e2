/* requests.c: see requests.h. */
#include "agent/requests.h"

#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/acceptor.h"
#include "protocol/kernel_tls.h"

static const char no_kernel[] =
    "the kernel form is not possible: not a TCP socket, or this host's kernel has no TLS (see the "
    "agent's log)";

static void answer_refusal(struct worker *worker, uint32_t id, enum service_failure reason,
                           bool retryable, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

static void
answer_refusal(struct worker *worker, uint32_t id, enum service_failure reason, bool retryable,
               const char *format, ...)
{
    struct service_failed failed = {
        .id = id, .reason = (uint8_t)reason, .retryable = retryable, .alert = 255};
    va_list args;

    va_start(args, format);
    vsnprintf(failed.text, sizeof(failed.text), format, args);
    va_end(args);
    worker_bother(worker, retryable);
    worker_answer_failed(worker, &failed);
}

/* done() of a handshake that a worker asked for. */
static void
requested_done(struct handshake *handshake)
{
    struct worker *worker = handshake->worker;

    worker_forget(handshake);
    if (handshake->state == HANDSHAKE_FINISHED)
        (void)handshake_hand_back(handshake, handshake->forms);
    /* Our copy of the socket goes first: after the answer nothing of ours can touch it. */
    channel_close_fd(handshake->fd);
    handshake->fd = -1;
    if (handshake->state == HANDSHAKE_FINISHED) {
        worker_answer_finished(worker, SERVICE_FINISHED, handshake, -1);
    } else {
        handshake->failed.id = handshake->id;
        worker_answer_failed(worker, &handshake->failed);
    }
    handshake_free(handshake);
}

/* A connected stream socket, TCP or Unix, and nothing else. Whatever else it is, it is only
 * looked at by getsockopt(), which cannot block. */
static bool
usable_socket(int fd)
{
    struct sockaddr_storage peer = {0};
    socklen_t size = sizeof(peer);
    int value = 0;
    socklen_t value_size = sizeof(value);
    bool local;

    if (getpeername(fd, (struct sockaddr *)&peer, &size) == -1)
        return false; /* not connected; listening sockets too */
    local = peer.ss_family == AF_UNIX;
    if (!local && peer.ss_family != AF_INET && peer.ss_family != AF_INET6)
        return false;
    if (getsockopt(fd, SOL_SOCKET, local ? SO_TYPE : SO_PROTOCOL, &value, &value_size) == -1)
        return false;
    /* These protocols have no other type of socket. */
    return local ? value == SOCK_STREAM : value == IPPROTO_TCP || value == IPPROTO_MPTCP;
}

static bool
id_in_use(const struct worker *worker, uint32_t id)
{
    for (const struct handshake *h = worker->handshakes; h != NULL; h = h->next) {
        if (h->id == id)
            return true;
    }
    return false;
}

/* The position of a context that this worker may use, or -1. One answer for "no such" and "not
 * yours": names of other people's contexts are none of its business. */
static int
permitted_context(const struct worker *worker, const char *name)
{
    const struct identity_table *table = worker->cell->identities;
    int context = identity_context_find(table, name);
    const struct control_worker *who = &worker->credentials;

    /* The kernel's list of groups need not have the primary one in it. */
    if (context == -1 ||
        (!identity_permitted(table, (size_t)context, who->uid, &who->gid, 1) &&
         !identity_permitted(table, (size_t)context, who->uid, who->groups, who->group_count)))
        return -1;
    return context;
}

/* Takes fd. */
static void
start_accept(struct worker *worker, const struct service_accept *request, int fd)
{
    struct cell *cell = worker->cell;
    int context = permitted_context(worker, request->context);
    const struct generation_context *facts;
    struct handshake *handshake;
    uint32_t deadline;
    char name[SERVICE_NAME_MAX];

    if (context == -1) {
        error_printable(name, sizeof(name), request->context, strlen(request->context));
        answer_refusal(worker, request->id, SERVICE_NOT_PERMITTED, false,
                       "context \"%s\" is not permitted for uid %u, or does not exist", name,
                       worker->credentials.uid);
    } else if ((request->forms & identity_context(cell->identities, (size_t)context)->forms) == 0) {
        answer_refusal(worker, request->id, SERVICE_BAD_REQUEST, false,
                       "context \"%s\" does not permit the hand-back form that was asked for",
                       request->context);
    } else if (!usable_socket(fd)) {
        answer_refusal(worker, request->id, SERVICE_BAD_REQUEST, false,
                       "the descriptor is not a connected stream socket");
    } else if (request->forms == SERVICE_FORM_KERNEL && !handshake_kernel_possible(cell, fd)) {
        answer_refusal(worker, request->id, SERVICE_BAD_REQUEST, false, "%s", no_kernel);
    } else if (cell->in_flight >= cell->capacity) {
        answer_refusal(worker, request->id, SERVICE_BUSY, true,
                       "%u handshakes are in progress, the limit of this cell: try again later",
                       cell->in_flight);
    } else if (worker->user->in_flight >= cell->capacity - cell->in_flight) {
        /* Nobody holds more than is left for the others. */
        answer_refusal(
            worker, request->id, SERVICE_BUSY, true,
            "uid %u has %u handshakes in progress, half of what is free: try again later",
            worker->credentials.uid, worker->user->in_flight);
    } else {
        facts = identity_context(cell->identities, (size_t)context);
        deadline = request->deadline_ms != 0 && request->deadline_ms < facts->deadline_ms
                       ? request->deadline_ms
                       : facts->deadline_ms;
        handshake = handshake_new(cell, (size_t)context, fd, request->forms & facts->forms,
                                  deadline, requested_done);
        fd = -1;
        if (handshake == NULL) {
            answer_refusal(worker, request->id, SERVICE_INTERNAL, true,
                           "the agent is out of memory");
            return;
        }
        handshake->worker = worker;
        handshake->blame = worker_mark(&worker->credentials);
        worker->user->in_flight++;
        handshake->id = request->id;
        handshake->next = worker->handshakes;
        if (handshake->next != NULL)
            handshake->next->previous = handshake;
        worker->handshakes = handshake;
        handshake_run(handshake);
    }
    if (fd != -1)
        channel_close_fd(fd);
}

static void
cancel(struct worker *worker, uint32_t id)
{
    for (struct handshake *handshake = worker->handshakes; handshake != NULL;
         handshake = handshake->next) {
        if (handshake->id != id)
            continue;
        worker_forget(handshake);
        handshake_free(handshake);
        answer_refusal(worker, id, SERVICE_BAD_REQUEST, false, "cancelled");
        return;
    }
    worker_bother(worker, false); /* not there: our answer and the cancellation have crossed */
}

static void
add_credits(struct worker *worker, const struct service_pull *request)
{
    struct cell *cell = worker->cell;
    int context = permitted_context(worker, request->context);
    struct pull *pull = worker->pulls;
    char name[SERVICE_NAME_MAX];

    if (context == -1) {
        error_printable(name, sizeof(name), request->context, strlen(request->context));
        answer_refusal(worker, 0, SERVICE_NOT_PERMITTED, false,
                       "context \"%s\" is not permitted for uid %u, or does not exist", name,
                       worker->credentials.uid);
        return;
    }
    if ((request->forms & identity_context(cell->identities, (size_t)context)->forms) == 0) {
        answer_refusal(worker, 0, SERVICE_BAD_REQUEST, false,
                       "context \"%s\" does not permit the hand-back form that was asked for",
                       request->context);
        return;
    }
    if (request->forms == SERVICE_FORM_KERNEL && (cell->kernel & KERNEL_TLS_CIPHERS) == 0) {
        answer_refusal(worker, 0, SERVICE_BAD_REQUEST, false, "%s", no_kernel);
        return;
    }
    if (cell->contexts[context].listeners == NULL) {
        answer_refusal(worker, 0, SERVICE_BAD_REQUEST, false,
                       "context \"%s\" has no `listen`: the agent accepts nothing for it",
                       request->context);
        return;
    }
    while (pull != NULL && pull->context != (size_t)context)
        pull = pull->next_of_worker;
    if (pull == NULL) {
        pull = calloc(1, sizeof(*pull));
        if (pull == NULL) {
            answer_refusal(worker, 0, SERVICE_INTERNAL, true, "the agent is out of memory");
            return;
        }
        pull->worker = worker;
        pull->context = (size_t)context;
        pull->next_of_worker = worker->pulls;
        worker->pulls = pull;
        acceptor_add_pull(cell, pull);
    }
    if (request->credits == 0 || request->credits > SERVICE_CREDIT_MAX - pull->credits) {
        worker_refuse(worker, "more credits than one channel may have");
        return;
    }
    pull->forms = request->forms;
    pull->credits = (uint16_t)(pull->credits + request->credits);
    cell->contexts[context].credits += request->credits;
    acceptor_update(cell, (size_t)context);
}

void
requests_serve(struct worker *worker, struct channel_message *message)
{
    union {
        struct service_accept accept;
        struct service_pull pull;
        struct service_cancel cancel;
    } m;

    switch ((enum service_type)message->type) {
    case SERVICE_ACCEPT:
        if (!service_get_accept(&m.accept, message->body, message->size))
            break;
        if (id_in_use(worker, m.accept.id)) {
            worker_refuse(worker, "a request id is in use already");
            return;
        }
        start_accept(worker, &m.accept, channel_take_fd(message, 0));
        return;
    case SERVICE_PULL:
        if (!service_get_pull(&m.pull, message->body, message->size))
            break;
        add_credits(worker, &m.pull);
        return;
    case SERVICE_CANCEL:
        if (!service_get_cancel(&m.cancel, message->body, message->size))
            break;
        cancel(worker, m.cancel.id);
        return;
    default:
        break;
    }
    worker_refuse(worker, "a message is malformed");
}
