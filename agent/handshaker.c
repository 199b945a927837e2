/*
 * handshaker.c: the process that talks TLS to peers and serves workers.
 *
 * Holds: public halves only (certificate chains, trust, parameters), and the handshakes in flight.
 * Sees: network bytes and workers' requests, all hostile. May do: read and write on fds that it
 * was given; ask its one keeper. Cannot: open, connect, fork, or reach any private key.
 *
 * Reading order: main here, then workers.c, requests.c and acceptor.c (where handshakes come from),
 * handshake.c (one of them), export.c and outbox.c (what leaves).
 */
#include <errno.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "agent/acceptor.h"
#include "agent/cell.h"
#include "agent/generation.h"
#include "agent/handshake.h"
#include "agent/keycall.h"
#include "agent/keyschedule.h"
#include "agent/log.h"
#include "agent/proxykey.h"
#include "agent/proxyticket.h"
#include "agent/random.h"
#include "agent/role_control.h"
#include "agent/roles.h"
#include "agent/selftest.h"
#include "agent/sessions.h"
#include "agent/store.h"
#include "agent/workers.h"
#include "protocol/control.h"
#include "sandbox/sandbox.h"
#include "sandbox/wipe.h"

#define UNREAD_MAX 1024 /* descriptors that a uid may leave unread in this cell */
#define SPARE_FDS  64   /* channels, listening sockets, one in transit, the log */

struct handshaker {
    struct cell cell;
    struct loop_watch control;
    uint32_t generation;
};

/* The first message must be the generation. Returns the mapped public part. */
static struct generation_public *
receive_generation(struct handshaker *handshaker)
{
    struct channel_message message;
    struct control_generation generation;
    struct generation_public *part;
    struct error error = {""};
    int fd;

    if (channel_receive_wait(ROLE_FD_CONTROL, control_handshaker_rules,
                             control_handshaker_rule_count, handshaker->cell.buffer,
                             CHANNEL_BUFFER_SIZE, &message, &error, ROLE_CONTROL_MS) != CHANNEL_OK)
        log_die("the supervisor sent no generation: %s", error.text);
    if (message.type != CONTROL_PUBLIC ||
        !control_get_generation(&generation, message.body, message.size))
        log_die("the supervisor's first message is not a generation");
    fd = channel_take_fd(&message, 0);
    part = generation_public_map(fd, &error);
    if (part == NULL)
        log_die("generation %u: %s", generation.generation, error.text);
    close(fd);
    handshaker->generation = generation.generation;
    return part;
}

static void
answer_ping(struct handshaker *handshaker, uint32_t number)
{
    struct cell *cell = &handshaker->cell;
    struct control_pong pong = {.number = number,
                                .workers = cell->worker_count,
                                .in_flight = cell->in_flight,
                                .waiting = acceptor_waiting(cell),
                                .channels_refused = cell->channels_refused};
    uint8_t body[256];

    if (cell->store != NULL)
        store_count(cell->store, &pong.store);
    for (size_t i = 0; i < identity_context_count(cell->identities); i++)
        role_control_send(
            CONTROL_CONTEXT_COUNTERS, body,
            control_put_context_counters(&cell->contexts[i].counters, body, sizeof(body)));
    role_control_send(CONTROL_PONG, body, control_put_pong(&pong, body, sizeof(body)));
}

/* The position of the context that the configuration numbers so, or die: the supervisor and the
 * generation must agree. */
static size_t
context_position(const struct cell *cell, uint16_t index)
{
    for (size_t i = 0; i < identity_context_count(cell->identities); i++) {
        if (identity_context(cell->identities, i)->index == index)
            return i;
    }
    log_die("the supervisor names context %u, which is not in the generation", index);
}

/* Without it TLS 1.2 clients without tickets do full handshakes: no reason to end. */
static void
use_session_cache(int fd)
{
    struct error error = {""};
    struct session_cache *cache = session_cache_map(fd, &error);

    close(fd);
    if (cache == NULL)
        log_warning("%s", error.text);
    sessions_use_cache(cache);
}

static void
share_serving(struct cell *cell, int fd)
{
    struct error error = {""};

    cell->serving = serving_map(fd, &error);
    if (cell->serving == NULL)
        log_die("%s", error.text);
}

static void
use_store(struct cell *cell, int channel, const struct control_fetcher_channel *m)
{
    if (cell->store == NULL) {
        cell->store = store_new(cell->loop);
        sessions_use_store(cell->store, handshake_lookup, handshake_answered);
    }
    store_use(cell->store, channel, m->wait_ms);
}

static void
obey(struct handshaker *handshaker, struct channel_message *message)
{
    union {
        struct control_ping ping;
        struct control_listener listener;
        struct control_worker worker;
        struct control_dismiss dismiss;
        struct control_fetcher_channel fetcher;
    } m;
    struct cell *cell = &handshaker->cell;
    struct error error = {""};
    bool understood = false;

    switch ((enum control_type)message->type) {
    case CONTROL_PING:
        understood = control_get_ping(&m.ping, message->body, message->size);
        if (understood)
            answer_ping(handshaker, m.ping.number);
        break;
    case CONTROL_LISTENER:
        understood = control_get_listener(&m.listener, message->body, message->size);
        if (understood)
            acceptor_add_listener(cell, context_position(cell, m.listener.context),
                                  channel_take_fd(message, 0));
        break;
    case CONTROL_NEW_TICKETS:
        understood = true;
        if (proxyticket_refresh(cell->tickets, &error) == -1)
            log_die("%s", error.text);
        break;
    case CONTROL_SESSION_CACHE:
        understood = true;
        use_session_cache(channel_take_fd(message, 0));
        break;
    case CONTROL_SERVING:
        understood = true;
        share_serving(cell, channel_take_fd(message, 0));
        break;
    case CONTROL_DISMISS:
        understood = control_get_dismiss(&m.dismiss, message->body, message->size);
        if (understood)
            workers_dismiss(cell, m.dismiss.uid);
        break;
    case CONTROL_FETCHER_CHANNEL:
        understood = control_get_fetcher_channel(&m.fetcher, message->body, message->size);
        if (understood)
            use_store(cell, channel_take_fd(message, 0), &m.fetcher);
        break;
    case CONTROL_WORKER:
        understood = control_get_worker(&m.worker, message->body, message->size);
        if (understood)
            workers_add(cell, channel_take_fd(message, 0), &m.worker);
        break;
    default:
        break;
    }
    if (!understood)
        log_die("message type %u from the supervisor is malformed", message->type);
}

static void
control_ready(struct loop_watch *watch, uint32_t events)
{
    struct handshaker *handshaker =
        (struct handshaker *)((char *)watch - offsetof(struct handshaker, control));
    struct channel_message message;

    (void)events;
    switch (role_control_receive(control_handshaker_rules, control_handshaker_rule_count,
                                 handshaker->cell.buffer, &message)) {
    case CHANNEL_OK:
        obey(handshaker, &message);
        channel_message_clear(&message);
        break;
    case CHANNEL_CLOSED:
        workers_send_answers(&handshaker->cell);
        exit(0);
    default:
        break;
    }
}

/* How many handshakes and workers our descriptors allow. */
static void
set_limits(struct cell *cell)
{
    struct rlimit files;
    uint32_t wanted = 0;
    rlim_t room;

    for (size_t i = 0; i < identity_context_count(cell->identities); i++) {
        if (identity_context(cell->identities, i)->max_handshakes > wanted)
            wanted = identity_context(cell->identities, i)->max_handshakes;
    }
    if (getrlimit(RLIMIT_NOFILE, &files) == -1)
        log_die("getrlimit: %s", strerror(errno));
    room = files.rlim_cur > 2 * SPARE_FDS ? files.rlim_cur - SPARE_FDS : SPARE_FDS;
    cell->worker_limit = (uint32_t)(room / 4 < 4096 ? room / 4 : 4096);
    room -= cell->worker_limit;
    /* Half of the rest: finished connections that wait for a worker hold an fd each too. */
    cell->unread_limit = (uint32_t)(files.rlim_cur / 8);
    if (cell->unread_limit > UNREAD_MAX)
        cell->unread_limit = UNREAD_MAX;
    cell->capacity = wanted < room / 2 ? wanted : (uint32_t)(room / 2);
    if (cell->capacity < wanted)
        log_info("%u handshakes at once instead of %u: raise the limit of open files",
                 cell->capacity, wanted);
}

/* Without libcrypto's table of all digests and ciphers: whenever it makes an EVP_PKEY_CTX, six
 * times in a handshake, OpenSSL 3.0 walks through every name that it knows. The table is needed for
 * the digests of signatures in clients' certificates; ciphers are found otherwise. */
static bool
start_openssl(void)
{
    const uint64_t options = OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ADD_ALL_CIPHERS |
                             OPENSSL_INIT_NO_ADD_ALL_DIGESTS;

    return OPENSSL_init_crypto(options, NULL) == 1 && EVP_add_digest(EVP_sha1()) == 1 &&
           EVP_add_digest(EVP_sha224()) == 1 && EVP_add_digest(EVP_sha256()) == 1 &&
           EVP_add_digest(EVP_sha384()) == 1 && EVP_add_digest(EVP_sha512()) == 1 &&
           OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG, NULL) == 1;
}

static struct handshaker handshaker; /* one per process; too large for the stack */

/* What is finished is the workers'. */
static void
send_last_answers(void)
{
    workers_send_answers(&handshaker.cell);
}

static void
open_tickets(void *data)
{
    struct cell *cell = data;

    proxyticket_open_waiting(cell->tickets);
}

void
handshaker_main(const struct role_args *args)
{
    static struct serving nobody; /* until the supervisor shares a page with us */
    struct cell *cell = &handshaker.cell;
    struct control_hello hello = {.role = CONTROL_HANDSHAKER};
    struct control_ready ready;
    struct generation_public *part;
    struct keycall *keeper;
    struct error error = {""};
    uint8_t body[256];
    int tested;

    log_init(args->name, (enum log_level)args->log_level, args->log_syslog);
    /* Nothing of a finished handshake stays on the heap. */
    if (CRYPTO_set_mem_functions(wipe_malloc, wipe_realloc, wipe_free) != 1)
        log_bug("libcrypto was used before its memory could be taken over");
    if (!start_openssl())
        log_die("OpenSSL does not start");
    if (random_load(&error) == -1)
        log_die("%s", error.text);
    tzset(); /* libcrypto's gmtime_r() would open a file for it, after we can no longer */
    cell->buffer = malloc(CHANNEL_BUFFER_SIZE);
    if (cell->buffer == NULL)
        log_die("out of memory");
    strncpy(hello.build, role_build_id, sizeof(hello.build) - 1);
    role_control_send(CONTROL_HELLO, body, control_put_hello(&hello, body, sizeof(body)));

    part = receive_generation(&handshaker);
    keeper = keycall_open(ROLE_FD_PEER, ROLE_CONTROL_MS, &error);
    if (keeper == NULL || keyschedule_load(&error) == -1 || proxykey_load(&error) == -1 ||
        (cell->tickets = proxyticket_new(keeper, &error)) == NULL ||
        (cell->identities = identity_table_new(part, keeper, &handshake_hooks, &error)) == NULL)
        log_die("%s", error.text);
    cell->contexts = calloc(part->context_count, sizeof(*cell->contexts));
    if (cell->contexts == NULL)
        log_die("out of memory");
    for (size_t i = 0; i < part->context_count; i++)
        cell->contexts[i].counters.context = part->contexts[i].index;
    cell->kernel = args->kernel;
    cell->pid = (uint32_t)getpid();
    cell->serving = &nobody;
    cell->loop = loop_new();
    loop_at_end_of_round(cell->loop, open_tickets, cell); /* before what sends answers */
    workers_init(cell);
    log_at_death(send_last_answers);
    loop_watch_init(&handshaker.control, ROLE_FD_CONTROL, control_ready);
    if (loop_watch_set(cell->loop, &handshaker.control, EPOLLIN) == -1)
        log_die("epoll: %s", strerror(errno));

    selftest_prepare();
    if (sandbox_enter(SANDBOX_HANDSHAKER, args->uid, args->gid, args->parent, &error) == -1)
        log_die("%s", error.text);
    set_limits(cell);
    tested = selftest_run(cell, part, &error);
    if (tested == -1)
        log_die("%s", error.text);
    log_debug("self-test: %d handshakes", tested);
    proxyticket_let_wait(cell->tickets, handshake_go_on);
    ready.generation = handshaker.generation;
    ready.layers = sandbox_in_force();
    role_control_send(CONTROL_READY, body, control_put_ready(&ready, body, sizeof(body)));
    loop_run(cell->loop);
}
