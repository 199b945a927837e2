/* keycall.c: see keycall.h. */
#include "agent/keycall.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/crypto.h>

#include "agent/log.h"
#include "agent/roles.h"

struct keycall {
    int fd; /* owned */
    uint32_t number;
    struct keycall_counters counters;
    /* of the connection that is served; not owned */
    const struct keyops_wish *wish;
    struct onetime_keys *keys;
    uint8_t request[KEYOPS_BATCH_SIZE];
    uint8_t answer[CHANNEL_BUFFER_SIZE];
};

static const char *const refusals[] = {
    [KEYOPS_NO_SUCH_KEY] = "no such key",
    [KEYOPS_BAD_SCHEME] = "not a signature scheme of this key",
    [KEYOPS_BAD_SHAPE] = "not what TLS signs",
    [KEYOPS_WRONG_ROLE] = "a server key does not sign for clients",
    [KEYOPS_BAD_TICKET] = "ticket is not ours, too old, or for another scope",
    [KEYOPS_INTERNAL] = "libcrypto failed in the keeper",
    [KEYOPS_TOO_OFTEN] = "too many tickets in a second",
    [KEYOPS_OLD_TICKET] = "ticket is too old",
    [KEYOPS_FUTURE_TICKET] = "ticket is from the future",
};

struct keycall *
keycall_open(int fd, int wait_ms, struct error *error)
{
    struct keycall *keeper = calloc(1, sizeof(*keeper));
    struct channel_message message;
    struct keyops_hello hello;

    if (keeper == NULL) {
        close(fd);
        error_set(error, "keeper: out of memory");
        return NULL;
    }
    keeper->fd = fd;
    switch (channel_receive_wait(fd, keyops_handshaker_rules, keyops_handshaker_rule_count,
                                 keeper->answer, sizeof(keeper->answer), &message, error,
                                 wait_ms)) {
    case CHANNEL_OK:
        break;
    case CHANNEL_AGAIN:
        error_set(error, "keeper: did not say hello within %d ms", wait_ms);
        goto fail;
    case CHANNEL_CLOSED:
        error_set(error, "keeper: went away before its hello");
        goto fail;
    default:
        goto fail;
    }
    if (message.type != KEYOPS_HELLO || !keyops_get_hello(&hello, message.body, message.size)) {
        error_set(error, "keeper: the first message is not a hello");
        goto fail;
    }
    if (strcmp(hello.build, role_build_id) != 0) {
        char build[KEYOPS_BUILD_MAX];

        error_printable(build, sizeof(build), hello.build, strlen(hello.build));
        error_set(error, "keeper: is of build %s, we are %s; restart the agent", build,
                  role_build_id);
        goto fail;
    }
    if (channel_set_timeout(fd, KEYCALL_DEADLINE_MS) == -1) {
        error_set(error, "keeper: the channel cannot be given a deadline");
        goto fail;
    }
    return keeper;

fail:
    keycall_close(keeper);
    return NULL;
}

void
keycall_close(struct keycall *keeper)
{
    if (keeper == NULL)
        return;
    close(keeper->fd);
    OPENSSL_cleanse(keeper->request, sizeof(keeper->request));
    OPENSSL_cleanse(keeper->answer, sizeof(keeper->answer));
    free(keeper);
}

void
keycall_count(const struct keycall *keeper, struct keycall_counters *counters)
{
    *counters = keeper->counters;
}

const char *
keycall_refusal_text(int reason)
{
    if (reason < 1 || (size_t)reason >= sizeof(refusals) / sizeof(refusals[0]))
        return "unknown reason";
    return refusals[reason];
}

void
keycall_serve(struct keycall *keeper, const struct keyops_wish *wish, struct onetime_keys *keys)
{
    keeper->wish = wish;
    keeper->keys = keys;
}

/* Send what is in keeper->request and wait for its answer. Everything unexpected is the end of
 * this process: who goes on after a missed answer would take it for that to the next request. */
static void
exchange(struct keycall *keeper, uint16_t type, size_t request_size,
         struct channel_message *message)
{
    struct error error = {""};

    keeper->counters.calls++;
    switch (channel_send_wait(keeper->fd, type, keeper->request, request_size, NULL, 0,
                              KEYCALL_DEADLINE_MS)) {
    case CHANNEL_OK:
        break;
    case CHANNEL_CLOSED:
        log_die("the keeper is gone; this cell ends");
    default:
        log_die("the keeper takes no requests; this cell ends");
    }
    switch (channel_receive_timed(keeper->fd, keyops_handshaker_rules, keyops_handshaker_rule_count,
                                  keeper->answer, sizeof(keeper->answer), message, &error)) {
    case CHANNEL_OK:
        break;
    case CHANNEL_AGAIN:
        log_die("the keeper did not answer within %d ms; this cell ends", KEYCALL_DEADLINE_MS);
    case CHANNEL_CLOSED:
        log_die("the keeper is gone; this cell ends");
    default:
        log_die("the keeper's answer is wrong: %s; this cell ends", error.text);
    }
}

static void __attribute__((noreturn)) wrong_answer(void)
{
    log_die("the keeper's answer is not one to our request; this cell ends");
}

static int
take_refusal(struct keycall *keeper, uint32_t number, const uint8_t *body, size_t body_size)
{
    struct keyops_refused refused;

    if (!keyops_get_refused(&refused, body, body_size) || refused.number != number ||
        refused.reason == 0)
        wrong_answer();
    keeper->counters.refused++;
    return refused.reason;
}

static int
take_answer(uint32_t number, const uint8_t *body, size_t body_size, const struct keyops_wish *wish,
            struct onetime_keys *keys, uint8_t *result, size_t room, size_t *size)
{
    struct keyops_answer answer;

    if (!keyops_get_answer(&answer, body, body_size) || answer.number != number ||
        answer.key_count > (wish != NULL && keys != NULL ? wish->keys : 0))
        wrong_answer();
    if (answer.size > room)
        return KEYOPS_INTERNAL;
    if (answer.size > 0)
        memcpy(result, answer.data, answer.size);
    *size = answer.size;
    if (answer.key_count > 0)
        onetime_take(keys, &answer, wish->scope);
    return 0;
}

static int
call(struct keycall *keeper, uint16_t type, size_t request_size, const struct keyops_wish *wish,
     struct onetime_keys *keys, uint8_t *result, size_t room, size_t *size)
{
    struct channel_message message;
    int reason;

    *size = 0;
    exchange(keeper, type, request_size, &message);
    if (message.type == KEYOPS_REFUSAL)
        return take_refusal(keeper, keeper->number, message.body, message.size);
    if (message.type != KEYOPS_ANSWER)
        wrong_answer();
    reason =
        take_answer(keeper->number, message.body, message.size, wish, keys, result, room, size);
    if (type == KEYOPS_OPEN_TICKET || (wish != NULL && wish->keys > 0))
        OPENSSL_cleanse(keeper->answer, message.size + 2);
    return reason;
}

/* What is wished with a signature. */
static void
wish_at_most(const struct keycall *keeper, uint8_t most, struct keyops_wish *wish)
{
    memset(wish, 0, sizeof(*wish));
    if (keeper->wish == NULL || keeper->keys == NULL)
        return;
    *wish = *keeper->wish;
    if (wish->keys > most)
        wish->keys = most;
}

int
keycall_sign_tls13(struct keycall *keeper, struct keyops_sign_tls13 *request, uint8_t *signature,
                   size_t room, size_t *size)
{
    size_t request_size;

    request->number = ++keeper->number;
    wish_at_most(keeper, KEYOPS_KEYS_MAX, &request->wish);
    request_size = keyops_put_sign_tls13(request, keeper->request, sizeof(keeper->request));
    return call(keeper, KEYOPS_SIGN_TLS13, request_size, &request->wish, keeper->keys, signature,
                room, size);
}

int
keycall_sign_tls12_server(struct keycall *keeper, struct keyops_sign_tls12_server *request,
                          uint8_t *signature, size_t room, size_t *size)
{
    size_t request_size;

    request->number = ++keeper->number;
    wish_at_most(keeper, 1, &request->wish);
    request_size = keyops_put_sign_tls12_server(request, keeper->request, sizeof(keeper->request));
    return call(keeper, KEYOPS_SIGN_TLS12_SERVER, request_size, &request->wish, keeper->keys,
                signature, room, size);
}

int
keycall_ticket_keys(struct keycall *keeper, const struct keyops_wish *wish,
                    struct onetime_keys *keys)
{
    struct keyops_ticket_keys request = {.number = ++keeper->number, .wish = *wish};
    size_t size,
        request_size = keyops_put_ticket_keys(&request, keeper->request, sizeof(keeper->request));

    return call(keeper, KEYOPS_TICKET_KEYS, request_size, wish, keys, NULL, 0, &size);
}

int
keycall_open_ticket(struct keycall *keeper, struct keyops_open_ticket *request,
                    struct onetime_keys *keys, uint8_t *result, size_t room, size_t *size)
{
    size_t request_size;

    *size = 0;
    /* What the keeper would take for a malformed request is refused here: these sizes are the
     * peer's. */
    if (request->data_size < KEYOPS_TICKET_EXTRA ||
        request->data_size > KEYOPS_TICKET_MAX + KEYOPS_TICKET_EXTRA ||
        request->id_size > KEYOPS_ID_MAX)
        return KEYOPS_BAD_TICKET;
    request->number = ++keeper->number;
    request_size = keyops_put_open_ticket(request, keeper->request, sizeof(keeper->request));
    return call(keeper, KEYOPS_OPEN_TICKET, request_size, &request->wish, keys, result, room, size);
}

void
keycall_open_tickets(struct keycall *keeper, struct keycall_opening *const *openings, size_t count)
{
    static uint8_t body[KEYOPS_OPEN_MAX];
    struct channel_message message;
    const uint8_t *left;
    size_t left_size, used = 0;

    for (size_t i = 0; i < count; i++) {
        struct keyops_item item = {.body = body};

        openings[i]->request.number = ++keeper->number;
        item.size = keyops_put_open_ticket(&openings[i]->request, body, sizeof(body));
        if (!keyops_add_item(&item, keeper->request, sizeof(keeper->request), &used))
            log_bug("%zu tickets do not fit into one message to the keeper", count);
    }
    exchange(keeper, KEYOPS_OPEN_TICKETS, used, &message);
    if (message.type != KEYOPS_ANSWERS)
        wrong_answer();
    left = message.body;
    left_size = message.size;
    for (size_t i = 0; i < count; i++) {
        struct keycall_opening *opening = openings[i];
        struct keyops_item item;

        opening->size = 0;
        if (!keyops_next_item(&item, &left, &left_size))
            wrong_answer();
        opening->refusal =
            item.refused
                ? take_refusal(keeper, opening->request.number, item.body, item.size)
                : take_answer(opening->request.number, item.body, item.size, &opening->request.wish,
                              opening->keys, opening->result, opening->room, &opening->size);
    }
    if (left_size > 0)
        wrong_answer();
    OPENSSL_cleanse(keeper->answer, message.size + 2);
}

size_t
keycall_filters(struct keycall *keeper, uint8_t filters[KEYOPS_FILTERS_MAX][KEYOPS_FILTER_SIZE])
{
    struct keyops_filters request = {.number = ++keeper->number};
    size_t request_size = keyops_put_filters(&request, keeper->request, sizeof(keeper->request));
    size_t size;

    if (call(keeper, KEYOPS_FILTERS, request_size, NULL, NULL, filters[0],
             (size_t)KEYOPS_FILTERS_MAX * KEYOPS_FILTER_SIZE, &size) != 0 ||
        size % KEYOPS_FILTER_SIZE != 0)
        return 0;
    return size / KEYOPS_FILTER_SIZE;
}
