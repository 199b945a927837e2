/*
 * keeper.c: the role that holds the private keys and ticket keys of one cell.
 *
 * It has two channels and nothing else: to the supervisor (the secret part of a generation, pings)
 * and to its one handshaker (typed requests, keyops.h). It opens no file, reads no network byte,
 * and after its sandbox closes it computes and answers.
 *
 * Trust: the handshaker is the enemy: it reads the network, and may have been taken over. A request
 * that is well-formed but not allowed is refused and counted. A message that is not even
 * well-formed ends the process: the supervisor replaces the whole cell.
 */
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/rand.h>

#include "agent/generation.h"
#include "agent/keyring.h"
#include "agent/log.h"
#include "agent/onetime.h"
#include "agent/random.h"
#include "agent/roles.h"
#include "agent/ticket.h"
#include "protocol/control.h"
#include "protocol/keyops.h"
#include "sandbox/sandbox.h"
#include "sandbox/secret.h"
#include "sandbox/wipe.h"

/* A handshaker that does not take its answer for so long is dead or hostile. */
#define ANSWER_WAIT_MS 2000

#define LINGER_MS  20  /* the next request is waited for so long before we sleep on both channels */
#define CONTROL_MS 100 /* under load the supervisor waits so long at most */

/* Memory for libcrypto: what it needs itself (measured: 0.6 MiB), and per parsed key with the
 * contexts of all its schemes (measured: RSA-4096 18 KiB, RSA-2048 and P-256 3 KiB). */
#define MEMORY_BASE    ((size_t)2 << 20)
#define MEMORY_PER_KEY ((size_t)20 << 10)

struct keeper {
    struct generation_secret *secret;
    struct keyring *keyring;
    struct ticket_state *ticket_state;
    struct ticket_box *tickets;
    struct control_pong totals;
    uint8_t in[CHANNEL_BUFFER_SIZE];
    uint8_t result[1 + KEYOPS_TICKET_MAX];
    struct keyops_ticket_key keys[KEYOPS_KEYS_MAX];
    uint8_t out[KEYOPS_ANSWER_MAX];
    uint8_t several[KEYOPS_BATCH_SIZE];
};

static struct keeper keeper;

/* ---- memory: everything that libcrypto allocates ---- */

#ifndef SANITIZED
static void *
crypto_malloc(size_t size, const char *file, int line)
{
    (void)file;
    (void)line;
    return secret_malloc(size);
}

static void *
crypto_realloc(void *pointer, size_t size, const char *file, int line)
{
    (void)file;
    (void)line;
    return secret_realloc(pointer, size);
}

static void
crypto_free(void *pointer, const char *file, int line)
{
    (void)file;
    (void)line;
    secret_free(pointer);
}

/* What may be locked beside the generation. */
static size_t
lockable(void)
{
    struct rlimit limit;

    if (geteuid() == 0 || getrlimit(RLIMIT_MEMLOCK, &limit) == -1 ||
        limit.rlim_cur == RLIM_INFINITY)
        return SIZE_MAX;
    return limit.rlim_cur > keeper.secret->mapping_size
               ? (size_t)limit.rlim_cur - keeper.secret->mapping_size
               : 0;
}

/* Before the first call into libcrypto. Returns how many parsed keys have room. A plain user may
 * lock 8 MiB on Debian 12: rather fewer keys kept parsed than keys in ordinary memory. */
static size_t
take_memory(size_t keys)
{
    struct error error = {""};
    size_t wanted = keys < KEYRING_CACHE ? keys : KEYRING_CACHE, fit = lockable(), cached = wanted;

    if (fit >= MEMORY_BASE + MEMORY_PER_KEY && fit < MEMORY_BASE + wanted * MEMORY_PER_KEY)
        cached = (fit - MEMORY_BASE) / MEMORY_PER_KEY;
    if (secret_init(MEMORY_BASE + cached * MEMORY_PER_KEY, &error) == -1)
        log_die("%s", error.text);
    if (CRYPTO_set_mem_functions(crypto_malloc, crypto_realloc, crypto_free) != 1)
        log_bug("libcrypto was used before its memory was ready");
    if (secret_kind() == SECRET_ORDINARY)
        log_warning("memory for keys can be swapped out: allow %zu KiB of locked memory "
                    "(ulimit -l, LimitMEMLOCK=)",
                    (MEMORY_BASE + wanted * MEMORY_PER_KEY + keeper.secret->mapping_size) >> 10);
    return cached;
}
#else
/* The sanitizers' own allocator finds more. */
static size_t
take_memory(size_t keys)
{
    return keys < KEYRING_CACHE ? keys : KEYRING_CACHE;
}
#endif

static uint64_t
now(void)
{
    return (uint64_t)time(NULL);
}

static uint64_t
milliseconds(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

/* ---- requests of the handshaker ---- */

/* Handlers return 0 and fill in the answer, or return a refusal; they set its number. A body that
 * does not decode does not return. */
typedef int handler(const struct channel_message *message, struct keyops_answer *answer);

static void __attribute__((noreturn)) malformed(const char *what)
{
    log_die("the handshaker sent a malformed request (%s); this cell ends", what);
}

static void
add_keys(const struct keyops_wish *wish, struct keyops_answer *answer)
{
    answer->key_count = ticket_keys(keeper.tickets, wish, &answer->period, keeper.keys);
    keeper.totals.ticket_keys += answer->key_count;
}

static int
do_sign_tls13(const struct channel_message *message, struct keyops_answer *answer)
{
    struct keyops_sign_tls13 request;
    int refusal;

    if (!keyops_get_sign_tls13(&request, message->body, message->size))
        malformed("sign-tls13");
    answer->number = request.number;
    refusal = keyring_sign_tls13(keeper.keyring, &request, keeper.result, &answer->size);
    if (refusal != 0)
        return refusal;
    keeper.totals.signatures++;
    add_keys(&request.wish, answer);
    return 0;
}

static int
do_sign_tls12_server(const struct channel_message *message, struct keyops_answer *answer)
{
    struct keyops_sign_tls12_server request;
    int refusal;

    if (!keyops_get_sign_tls12_server(&request, message->body, message->size))
        malformed("sign-tls12-server");
    answer->number = request.number;
    refusal = keyring_sign_tls12_server(keeper.keyring, &request, keeper.result, &answer->size);
    if (refusal != 0)
        return refusal;
    keeper.totals.signatures++;
    add_keys(&request.wish, answer);
    return 0;
}

static int
do_ticket_keys(const struct channel_message *message, struct keyops_answer *answer)
{
    struct keyops_ticket_keys request;

    if (!keyops_get_ticket_keys(&request, message->body, message->size))
        malformed("ticket-keys");
    answer->number = request.number;
    add_keys(&request.wish, answer);
    return answer->key_count > 0 || request.wish.keys == 0 ? 0 : KEYOPS_INTERNAL;
}

static int
do_open_ticket(const struct channel_message *message, struct keyops_answer *answer)
{
    struct keyops_open_ticket request;
    int refusal;

    if (!keyops_get_open_ticket(&request, message->body, message->size))
        malformed("open-ticket");
    answer->number = request.number;
    refusal = ticket_open(keeper.tickets, &request, keeper.result, &answer->size);
    if (refusal != 0)
        return refusal;
    keeper.totals.tickets_opened++;
    add_keys(&request.wish, answer);
    return 0;
}

static int
do_filters(const struct channel_message *message, struct keyops_answer *answer)
{
    struct keyops_filters request;

    if (!keyops_get_filters(&request, message->body, message->size))
        malformed("filters");
    answer->number = request.number;
    ticket_filters(keeper.tickets, keeper.result, &answer->size);
    return 0;
}

/* What may be asked. */
static const struct {
    uint16_t type;
    handler *handle;
} requests[] = {
    {KEYOPS_SIGN_TLS13, do_sign_tls13},   {KEYOPS_SIGN_TLS12_SERVER, do_sign_tls12_server},
    {KEYOPS_TICKET_KEYS, do_ticket_keys}, {KEYOPS_OPEN_TICKET, do_open_ticket},
    {KEYOPS_FILTERS, do_filters},
};

/* A refused ticket is everyday life. Anything else refused is a bug or a break-in: say so, but
 * less and less often, so that it cannot fill the log. */
static void
note_refusal(int refusal, uint16_t type)
{
    static uint64_t alarms;

    keeper.totals.refusals++;
    if (refusal == KEYOPS_BAD_TICKET || refusal == KEYOPS_OLD_TICKET ||
        refusal == KEYOPS_FUTURE_TICKET)
        return;
    alarms++;
    if ((alarms & (alarms - 1)) == 0)
        log_warning("refused a request of the handshaker (type %u, reason %d): number %llu", type,
                    refusal, (unsigned long long)alarms);
}

static void
send_answer(uint16_t type, const uint8_t *body, size_t size)
{
    switch (channel_send_wait(ROLE_FD_PEER, type, body, size, NULL, 0, ANSWER_WAIT_MS)) {
    case CHANNEL_OK:
        return;
    case CHANNEL_CLOSED:
        exit(0);
    default:
        log_die("the handshaker does not take its answers; this cell ends");
    }
}

/* Handle one request, the answer or refusal goes to keeper.out. Returns true if it is an answer. */
static bool
answer_request(uint16_t type, handler *handle, const struct channel_message *message, size_t *size)
{
    struct keyops_answer answer = {.data = keeper.result, .keys = keeper.keys};
    struct keyops_refused refused = {0};
    int refusal = handle(message, &answer);

    if (refusal == 0) {
        *size = keyops_put_answer(&answer, keeper.out, sizeof(keeper.out));
        /* Sessions and one-time keys go no further than they must. */
        OPENSSL_cleanse(keeper.result, answer.size);
        OPENSSL_cleanse(keeper.keys, answer.key_count * sizeof(keeper.keys[0]));
        return true;
    }
    note_refusal(refusal, type);
    refused.number = answer.number;
    refused.reason = (uint8_t)refusal;
    *size = keyops_put_refused(&refused, keeper.out, sizeof(keeper.out));
    return false;
}

/* Several tickets in one message: each is what OPEN_TICKET would be. */
static void
serve_several(const struct channel_message *message)
{
    const uint8_t *left = message->body;
    size_t left_size = message->size, used = 0;

    for (unsigned count = 0; left_size > 0; count++) {
        struct keyops_item item, answer = {.body = keeper.out};
        struct channel_message one = {.type = KEYOPS_OPEN_TICKET};

        if (count == KEYOPS_BATCH_MAX || !keyops_next_item(&item, &left, &left_size) ||
            item.refused != 0)
            malformed("open-tickets");
        one.body = item.body;
        one.size = item.size;
        answer.refused = !answer_request(KEYOPS_OPEN_TICKETS, do_open_ticket, &one, &answer.size);
        if (!keyops_add_item(&answer, keeper.several, sizeof(keeper.several), &used))
            malformed("tickets too long for one message");
        OPENSSL_cleanse(keeper.out, answer.size);
    }
    wipe_stack();
    send_answer(KEYOPS_ANSWERS, keeper.several, used);
    OPENSSL_cleanse(keeper.several, used);
}

static void
serve_request(const struct channel_message *message)
{
    if (message->type == KEYOPS_OPEN_TICKETS) {
        serve_several(message);
        return;
    }
    for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
        size_t size;
        bool answered;

        if (requests[i].type != message->type)
            continue;
        answered = answer_request(message->type, requests[i].handle, message, &size);
        wipe_stack();
        send_answer(answered ? KEYOPS_ANSWER : KEYOPS_REFUSAL, keeper.out, size);
        OPENSSL_cleanse(keeper.out, size);
        return;
    }
    log_bug("a request passed the table of rules that has no handler: type %u", message->type);
}

/* Serve one request; waits for it a short while (LINGER_MS). Returns false if none came. */
static bool
receive_request(void)
{
    struct channel_message message;
    struct error error = {""};

    switch (channel_receive_timed(ROLE_FD_PEER, keyops_keeper_rules, keyops_keeper_rule_count,
                                  keeper.in, sizeof(keeper.in), &message, &error)) {
    case CHANNEL_OK:
        serve_request(&message);
        return true;
    case CHANNEL_AGAIN:
        return false;
    case CHANNEL_CLOSED:
        log_debug("the handshaker is gone");
        exit(0);
    default:
        malformed(error.text);
    }
}

/* ---- the supervisor ---- */

static void
send_control(uint16_t type, const void *body, size_t size)
{
    if (channel_send_wait(ROLE_FD_CONTROL, type, body, size, NULL, 0, ANSWER_WAIT_MS) != CHANNEL_OK)
        exit(0); /* it is gone, or it has given us up */
}

static void
send_pong(const struct channel_message *message)
{
    uint8_t body[256];
    struct control_ping ping;

    if (!control_get_ping(&ping, message->body, message->size))
        log_bug("the supervisor's ping is malformed");
    ticket_tick(keeper.tickets);
    keeper.totals.number = ping.number;
    send_control(CONTROL_PONG, body, control_put_pong(&keeper.totals, body, sizeof(body)));
}

static void
map_secret(struct channel_message *message)
{
    struct control_generation generation;
    struct error error = {""};
    int fd = channel_take_fd(message, 0);

    if (keeper.secret != NULL)
        log_bug("the supervisor sent a second generation to the same keeper");
    if (!control_get_generation(&generation, message->body, message->size))
        log_bug("the supervisor's generation message is malformed");
    keeper.secret = generation_secret_map(fd, &error);
    close(fd);
    if (keeper.secret == NULL)
        log_die("generation %u: %s", generation.generation, error.text);
    if (keeper.secret->generation != generation.generation)
        log_bug("generation %u was announced as %u", keeper.secret->generation,
                generation.generation);
}

/* The page of ticket keys, the first one or (a fleet's secret was replaced) one more. */
static void
map_tickets(struct channel_message *message)
{
    struct error error = {""};
    int fd = channel_take_fd(message, 0);
    struct ticket_state *state = ticket_state_map(fd, &error);
    struct ticket_box *box = NULL;

    close(fd);
    if (state == NULL)
        log_die("%s", error.text);
    if (keeper.tickets != NULL) {
        box = ticket_box_new(state, now, &error);
        if (box == NULL)
            log_die("%s", error.text);
        ticket_box_free(keeper.tickets);
        ticket_state_unmap(keeper.ticket_state);
        keeper.tickets = box;
        send_control(CONTROL_TICKETS_TAKEN, "", 0);
    }
    keeper.ticket_state = state;
}

/* One message of the supervisor, waited for at most wait_ms (-1: for ever). */
static void
receive_control(int wait_ms)
{
    struct channel_message message;
    struct error error = {""};

    switch (channel_receive_wait(ROLE_FD_CONTROL, control_keeper_rules, control_keeper_rule_count,
                                 keeper.in, sizeof(keeper.in), &message, &error, wait_ms)) {
    case CHANNEL_OK:
        break;
    case CHANNEL_AGAIN:
        return;
    case CHANNEL_CLOSED:
        log_debug("the supervisor is gone");
        exit(0);
    default:
        log_bug("the supervisor broke the rules: %s", error.text);
    }
    if (message.type == CONTROL_PING)
        send_pong(&message);
    else if (message.type == CONTROL_TICKETS)
        map_tickets(&message);
    else
        map_secret(&message);
    channel_message_clear(&message);
}

/* ---- start ---- */

static void
say_hello(void)
{
    struct control_hello hello = {.role = CONTROL_KEEPER};
    uint8_t body[128];

    strncpy(hello.build, role_build_id, sizeof(hello.build) - 1);
    send_control(CONTROL_HELLO, body, control_put_hello(&hello, body, sizeof(body)));
}

static void
say_ready(void)
{
    struct control_ready ready = {.generation = keeper.secret->generation,
                                  .layers = sandbox_in_force()};
    struct keyops_hello hello = {""};
    uint8_t body[128];

    send_control(CONTROL_READY, body, control_put_ready(&ready, body, sizeof(body)));
    strncpy(hello.build, role_build_id, sizeof(hello.build) - 1);
    if (channel_send_wait(ROLE_FD_PEER, KEYOPS_HELLO, body,
                          keyops_put_hello(&hello, body, sizeof(body)), NULL, 0,
                          ANSWER_WAIT_MS) != CHANNEL_OK)
        exit(0);
}

/* Make a key, seal, open, make another: all of it has been used once before the sandbox closes. */
static bool
tickets_work(void)
{
    static const uint8_t session[] = "tlsagent self-test";
    uint8_t sealed[sizeof(session) + KEYOPS_TICKET_EXTRA], opened[1 + sizeof(session)];
    struct keyops_open_ticket request = {
        .wish = {.keys = 1}, .data = sealed, .data_size = sizeof(sealed)};
    struct keyops_answer answer = {.keys = keeper.keys};
    struct onetime_keys keys = {.count = 0};
    struct onetime_cipher cipher;
    uint8_t *ciphertext = sealed + KEYOPS_NONCE_SIZE;
    size_t size;
    bool done = onetime_cipher_init(&cipher);

    answer.key_count = ticket_keys(keeper.tickets, &request.wish, &answer.period, keeper.keys);
    onetime_take(&keys, &answer, request.wish.scope);
    done = done && keys.count == 1;
    if (done)
        memcpy(sealed, onetime_nonce(&keys), KEYOPS_NONCE_SIZE);
    done = done &&
           onetime_seal(&cipher, &keys, NULL, 0, session, sizeof(session), ciphertext,
                        ciphertext + sizeof(session)) &&
           ticket_open(keeper.tickets, &request, opened, &size) == 0 && size == sizeof(opened) &&
           memcmp(opened + 1, session, sizeof(session)) == 0 &&
           ticket_keys(keeper.tickets, &request.wish, &answer.period, keeper.keys) == 1;
    OPENSSL_cleanse(keeper.keys, sizeof(keeper.keys));
    onetime_cipher_free(&cipher);
    return done;
}

static void
prepare(void)
{
    size_t cached = take_memory(keeper.secret->key_count);
    struct error error = {""};

    /* No configuration file of whoever's may put other code into this process. */
    if (OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT, NULL) != 1)
        log_die("libcrypto does not start");
    if (random_load(&error) == -1)
        log_die("%s", error.text);
    keeper.keyring = keyring_new(keeper.secret, cached, &error);
    if (keeper.keyring == NULL)
        log_die("%s", error.text);
    keeper.tickets = ticket_box_new(keeper.ticket_state, now, &error);
    if (keeper.tickets == NULL)
        log_die("%s", error.text);
    if (keyring_self_test(keeper.keyring, &error) == -1)
        log_die("self-test: %s", error.text);
    if (!tickets_work())
        log_die("self-test: tickets cannot be sealed and opened");
    ERR_clear_error();
    wipe_stack();
}

/* Wait for a message on either channel. While requests come one after the other only their channel
 * is read, one system call each; the supervisor's has its turn every CONTROL_MS at the latest. */
static void
wait_and_serve(void)
{
    struct pollfd fds[2] = {{.fd = ROLE_FD_PEER, .events = POLLIN},
                            {.fd = ROLE_FD_CONTROL, .events = POLLIN}};
    uint64_t until;

    if (poll(fds, 2, -1) == -1) {
        if (errno == EINTR)
            return;
        log_die("poll: %s", strerror(errno));
    }
    if (fds[1].revents != 0)
        receive_control(0);
    if (fds[0].revents == 0)
        return;
    until = milliseconds() + CONTROL_MS;
    while (receive_request() && milliseconds() < until)
        continue;
}

void
keeper_main(const struct role_args *args)
{
    struct error error = {""};
    pid_t parent = getppid();

    log_init(args->name, (enum log_level)args->log_level, args->log_syslog);
    say_hello();
    while (keeper.secret == NULL || keeper.ticket_state == NULL)
        receive_control(-1);
    prepare();
    if (channel_set_timeout(ROLE_FD_PEER, LINGER_MS) == -1)
        log_die("channel to the handshaker: %s", strerror(errno));
    if (sandbox_enter(SANDBOX_KEEPER, args->uid, args->gid, parent, &error) == -1)
        log_die("%s", error.text);
    say_ready();
    for (;;)
        wait_and_serve();
}
