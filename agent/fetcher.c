/*
 * fetcher.c: the process that talks to the fleet's store (Redis or Valkey) for the handshakers.
 *
 * Holds: the store's password, and sealed sessions on their way; no key. Sees: what the store
 * sends, and handshakers' requests, all hostile. May do: read and write on fds that it was given.
 * It cannot connect anywhere, not even to the store: the supervisor does, and passes the socket;
 * so a fetcher that was taken over reaches nothing but the store.
 *
 * One connection, commands in a row, answers in the same order. Whoever cannot be served at once is
 * told so at once: nothing waits here for a store that is away.
 */
#include <errno.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "agent/fetcher_settings.h"
#include "agent/log.h"
#include "agent/loop.h"
#include "agent/redis.h"
#include "agent/role_control.h"
#include "agent/roles.h"
#include "protocol/control.h"
#include "protocol/store.h"
#include "sandbox/sandbox.h"

#define CONNECT_MS         2000 /* from the socket to the first good answer */
#define COMMAND_MS         1000 /* without an answer: the connection is given up */
#define BACKOFF_MIN_MS     100
#define BACKOFF_MAX_MS     5000
#define STABLE_MS          10000 /* connected so long: the next loss is the first again */
#define MESSAGES_PER_EVENT 64    /* then the others have their turn */
#define COMMANDS_MAX       1024
#define REFUSED_MS         60000 /* between two words in the log about refused entries */

/* "tlsagent:", the version of what is in the entries, and the name in hexadecimal. */
#define KEY_PREFIX "tlsagent:1:"
#define KEY_SIZE   (sizeof(KEY_PREFIX) - 1 + 2 * STORE_NAME_SIZE)

struct client {
    struct loop_watch watch; /* first; fd owned */
    struct client *next;
    unsigned asked; /* GETs without an answer */
};

enum command_kind {
    COMMAND_SETUP, /* any answer but a refusal will do */
    COMMAND_READY, /* the last of these: then the connection is good */
    COMMAND_GET,
    COMMAND_PUT,
};

/* A command whose answer is still to come. */
struct command {
    enum command_kind kind;
    struct client *client; /* GET; NULL: gone */
    uint32_t number;
    uint64_t since;
};

enum store_state {
    STORE_AWAY,       /* waits for its time */
    STORE_ASKED_FOR,  /* the supervisor was asked for a connection */
    STORE_CONNECTING, /* TCP, TLS, password, database */
    STORE_READY,
};

/* One per process. */
static struct {
    struct loop *loop;
    struct loop_watch control;
    struct client *clients;
    uint32_t client_count;
    struct fetcher_settings settings;
    enum store_state state;
    struct redis *redis;
    struct loop_watch watch;
    struct loop_timer timer; /* AWAY: when to try again; CONNECTING, READY: is it alive? */
    uint64_t since;          /* CONNECTING: when the socket came; READY: since when */
    unsigned backoff_ms;
    bool told;                             /* the log knows that it is away */
    uint64_t refused_until;                /* nothing more about refused entries before */
    struct command commands[COMMANDS_MAX]; /* a ring */
    size_t first, count;
    struct control_store_use use;
    uint8_t buffer[CHANNEL_BUFFER_SIZE];
} self;

/* ---- answers to handshakers ---- */

static void drop_client(struct client *client);

/* A handshaker that does not read loses its answer, not more. */
static void
say(struct client *client, uint16_t type, const uint8_t *body, size_t size)
{
    (void)channel_send(client->watch.fd, type, body, size, NULL, 0);
}

static void
say_number(struct client *client, uint16_t type, uint32_t number)
{
    const struct store_number message = {number};
    uint8_t body[4];

    say(client, type, body, store_put_number(&message, body, sizeof(body)));
}

/* ---- the end of a connection ---- */

static void
tell_once(const char *why)
{
    char text[200];

    error_printable(text, sizeof(text), why, strlen(why));
    if (self.told)
        log_debug("the store: %s", text);
    else
        log_warning("the store is away: %s; sessions are not shared until it is back", text);
    self.told = true;
}

/* The store is of no use for now: whoever waits for it is told, and it is tried again later. */
static void
lose(const char *why)
{
    tell_once(why);
    if (self.redis != NULL) {
        loop_watch_set(self.loop, &self.watch, 0);
        redis_free(self.redis);
        self.redis = NULL;
    }
    while (self.count > 0) {
        const struct command *command = &self.commands[self.first];

        self.first = (self.first + 1) % COMMANDS_MAX;
        self.count--;
        if (command->kind == COMMAND_PUT)
            self.use.dropped++;
        if (command->kind == COMMAND_GET)
            self.use.failed++;
        if (command->kind == COMMAND_GET && command->client != NULL) {
            command->client->asked--;
            say_number(command->client, STORE_FAILED, command->number);
        }
    }
    /* One that comes and goes is not tried more often than one that is away. */
    if (self.state == STORE_READY && loop_now(self.loop) - self.since >= STABLE_MS)
        self.backoff_ms = BACKOFF_MIN_MS;
    self.state = STORE_AWAY;
    self.use.usable = 0;
    loop_timer_set(self.loop, &self.timer, self.backoff_ms);
    self.backoff_ms = 2 * self.backoff_ms < BACKOFF_MAX_MS ? 2 * self.backoff_ms : BACKOFF_MAX_MS;
}

/* ---- commands ---- */

/* Put a command into the queue, and remember what its answer will be for. */
static bool
command(enum command_kind kind, struct client *client, uint32_t number, int count,
        const char *const *words, const size_t *sizes)
{
    struct command *entry = &self.commands[(self.first + self.count) % COMMANDS_MAX];

    if (self.count == COMMANDS_MAX || !redis_command(self.redis, count, words, sizes))
        return false;
    *entry = (struct command){
        .kind = kind, .client = client, .number = number, .since = loop_now(self.loop)};
    self.count++;
    return true;
}

static bool
command_words(enum command_kind kind, int count, const char *const *words)
{
    size_t sizes[4];

    for (int i = 0; i < count; i++)
        sizes[i] = strlen(words[i]);
    return command(kind, NULL, 0, count, words, sizes);
}

static void
make_key(char key[KEY_SIZE + 1], const uint8_t name[STORE_NAME_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    char *next = key + sizeof(KEY_PREFIX) - 1;

    memcpy(key, KEY_PREFIX, sizeof(KEY_PREFIX));
    for (size_t i = 0; i < STORE_NAME_SIZE; i++) {
        *next++ = digits[name[i] >> 4];
        *next++ = digits[name[i] & 15];
    }
    *next = '\0';
}

/* Password, database, and one question of the kind that will follow: only a store that answers it
 * is of use (not one that is still loading, wants a password, or allows us nothing). */
static bool
greet_store(void)
{
    const char *user = self.settings.store.user;
    const char *auth[] = {"AUTH", user[0] != '\0' ? user : self.settings.password,
                          self.settings.password};
    const char *probe[] = {"GET", KEY_PREFIX "probe"};
    char number[16];
    const char *select[] = {"SELECT", number};

    snprintf(number, sizeof(number), "%u", (unsigned)self.settings.store.database);
    return (self.settings.store.has_password == 0 ||
            command_words(COMMAND_SETUP, user[0] != '\0' ? 3 : 2, auth)) &&
           (self.settings.store.database == 0 || command_words(COMMAND_SETUP, 2, select)) &&
           command_words(COMMAND_READY, 2, probe);
}

/* ---- replies ---- */

static void
answer_get(const struct command *command, const struct redis_reply *reply)
{
    struct store_found found = {
        .number = command->number, .entry = reply->data, .entry_size = reply->size};
    uint8_t body[6 + STORE_ENTRY_MAX];
    bool fits = reply->type == REDIS_VALUE && reply->size > 0 && reply->size <= STORE_ENTRY_MAX;

    if (fits)
        self.use.found++;
    else if (reply->type == REDIS_REFUSAL)
        self.use.failed++;
    if (command->client == NULL)
        return;
    command->client->asked--;
    if (fits)
        say(command->client, STORE_FOUND, body, store_put_found(&found, body, sizeof(body)));
    else
        say_number(command->client, reply->type == REDIS_REFUSAL ? STORE_FAILED : STORE_MISSING,
                   command->number);
}

/* One word in a while: a store that is full refuses each. */
static void
answer_put(const struct redis_reply *reply)
{
    char text[200];

    if (reply->type == REDIS_STATUS) {
        self.use.stored++;
        return;
    }
    self.use.dropped++;
    if (loop_now(self.loop) < self.refused_until)
        return;
    self.refused_until = loop_now(self.loop) + REFUSED_MS;
    error_printable(text, sizeof(text), (const char *)reply->data,
                    reply->size < 100 ? reply->size : 100);
    log_warning("the store does not take a session: %s", text);
}

static void
become_ready(void)
{
    self.state = STORE_READY;
    self.since = loop_now(self.loop);
    self.use.usable = 1;
    self.use.changes++;
    log_info("the store is connected%s", self.told ? " again" : "");
    self.told = false;
}

static bool
replied(void *data, const struct redis_reply *reply, struct error *error)
{
    struct command command;
    int shown = reply->size < 100 ? (int)reply->size : 100;

    (void)data;
    if (self.count == 0) {
        error_set(error, "it answers what nobody asked");
        return false;
    }
    command = self.commands[self.first];
    if ((command.kind == COMMAND_SETUP || command.kind == COMMAND_READY) &&
        reply->type == REDIS_REFUSAL) {
        error_set(error, "it refuses: %.*s", shown, (const char *)reply->data);
        return false;
    }
    if ((command.kind == COMMAND_GET &&
         (reply->type == REDIS_STATUS || reply->type == REDIS_NUMBER)) ||
        (command.kind == COMMAND_PUT && reply->type != REDIS_STATUS &&
         reply->type != REDIS_REFUSAL)) {
        error_set(error, "it answers something else than was asked");
        return false;
    }
    self.first = (self.first + 1) % COMMANDS_MAX;
    self.count--;
    if (command.kind == COMMAND_GET)
        answer_get(&command, reply);
    else if (command.kind == COMMAND_PUT)
        answer_put(reply);
    else if (command.kind == COMMAND_READY)
        become_ready();
    return true;
}

/* ---- the connection ---- */

/* Send and receive; then wait for what is still to come. */
static void
work(void)
{
    struct error error = {""};

    if (redis_work(self.redis, replied, NULL, &error) == -1)
        lose(error.text);
    else if (loop_watch_set(self.loop, &self.watch, redis_events(self.redis)) == -1)
        lose("epoll refuses its socket");
}

static void
store_ready(struct loop_watch *watch, uint32_t events)
{
    (void)watch;
    (void)events;
    work();
}

static void
ask_for_connection(void)
{
    if (channel_send(ROLE_FD_CONTROL, CONTROL_CONNECT, NULL, 0, NULL, 0) == CHANNEL_OK)
        self.state = STORE_ASKED_FOR;
    else
        loop_timer_set(self.loop, &self.timer, self.backoff_ms);
}

static void
timer_expired(struct loop_timer *timer)
{
    uint64_t now = loop_now(self.loop);

    if (self.state == STORE_AWAY) {
        ask_for_connection();
        return;
    }
    if (self.state == STORE_CONNECTING && now - self.since >= CONNECT_MS) {
        lose("it does not answer");
        return;
    }
    if (self.state == STORE_READY && self.count > 0 &&
        now - self.commands[self.first].since >= COMMAND_MS) {
        self.use.late++;
        lose("it has ceased to answer");
        return;
    }
    loop_timer_set(self.loop, timer, COMMAND_MS / 4);
}

static void
take_connection(int fd)
{
    struct error error = {""};

    if (self.state != STORE_ASKED_FOR) {
        channel_close_fd(fd);
        log_die("the supervisor sent a connection that nobody asked for");
    }
    self.state = STORE_CONNECTING;
    self.since = loop_now(self.loop);
    loop_timer_set(self.loop, &self.timer, COMMAND_MS / 4);
    self.redis = redis_new(fd, self.settings.tls, self.settings.store.name, &error);
    if (self.redis == NULL) {
        lose(error.text);
        return;
    }
    loop_watch_init(&self.watch, redis_fd(self.redis), store_ready);
    if (!greet_store())
        lose("out of memory");
    else if (loop_watch_set(self.loop, &self.watch, EPOLLIN | EPOLLOUT) == -1)
        lose("epoll refuses its socket");
}

/* ---- handshakers' requests ---- */

static void
take_get(struct client *client, const struct channel_message *message)
{
    struct store_get request;
    char key[KEY_SIZE + 1];
    const char *words[] = {"GET", key};
    const size_t sizes[] = {3, KEY_SIZE};

    if (!store_get_get(&request, message->body, message->size))
        return;
    make_key(key, request.name);
    if (self.state == STORE_READY && client->asked < STORE_LOOKUPS_MAX &&
        command(COMMAND_GET, client, request.number, 2, words, sizes)) {
        self.use.lookups++;
        client->asked++;
    } else {
        self.use.skipped++;
        say_number(client, STORE_FAILED, request.number);
    }
}

static void
take_put(const struct channel_message *message)
{
    struct store_put request;
    char key[KEY_SIZE + 1], life[16];
    const char *words[] = {"SET", key, NULL, "EX", life};
    size_t sizes[] = {3, KEY_SIZE, 0, 2, 0};

    if (!store_get_put(&request, message->body, message->size) || self.state != STORE_READY) {
        self.use.dropped++;
        return;
    }
    make_key(key, request.name);
    snprintf(life, sizeof(life), "%u", (unsigned)request.life);
    words[2] = (const char *)request.entry;
    sizes[2] = request.entry_size;
    sizes[4] = strlen(life);
    if (!command(COMMAND_PUT, NULL, 0, 5, words, sizes))
        self.use.dropped++;
}

static void
drop_client(struct client *client)
{
    struct client **link = &self.clients;

    while (*link != client)
        link = &(*link)->next;
    *link = client->next;
    for (size_t i = 0; i < self.count; i++) {
        struct command *one = &self.commands[(self.first + i) % COMMANDS_MAX];

        if (one->client == client)
            one->client = NULL;
    }
    loop_watch_set(self.loop, &client->watch, 0);
    channel_close_fd(client->watch.fd);
    self.client_count--;
    loop_free_later(self.loop, client);
}

static void
client_ready(struct loop_watch *watch, uint32_t events)
{
    struct client *client = (struct client *)watch;
    struct channel_message message;
    struct error error = {""};

    (void)events;
    for (int i = 0; i < MESSAGES_PER_EVENT; i++) {
        enum channel_result result =
            channel_receive(watch->fd, store_fetcher_rules, store_fetcher_rule_count, self.buffer,
                            sizeof(self.buffer), &message, &error);

        if (result == CHANNEL_AGAIN)
            break;
        if (result != CHANNEL_OK) {
            if (result != CHANNEL_CLOSED)
                log_warning("a handshaker's channel: %s: closed", error.text);
            drop_client(client);
            break;
        }
        if (message.type == STORE_GET)
            take_get(client, &message);
        else
            take_put(&message);
    }
    if (self.state == STORE_READY)
        work();
}

static void
add_client(int fd)
{
    struct client *client = calloc(1, sizeof(*client));

    if (client == NULL)
        log_die("out of memory");
    loop_watch_init(&client->watch, fd, client_ready);
    client->next = self.clients;
    self.clients = client;
    self.client_count++;
    if (loop_watch_set(self.loop, &client->watch, EPOLLIN) == -1)
        drop_client(client);
}

/* ---- the supervisor's words ---- */

static void
answer_ping(uint32_t number)
{
    const struct control_pong pong = {
        .number = number, .workers = self.client_count, .store = self.use};
    uint8_t body[256];

    role_control_send(CONTROL_PONG, body, control_put_pong(&pong, body, sizeof(body)));
}

static void
obey(struct channel_message *message)
{
    union {
        struct control_ping ping;
        struct control_no_connection none;
    } m;
    bool understood = true;

    switch ((enum control_type)message->type) {
    case CONTROL_PING:
        understood = control_get_ping(&m.ping, message->body, message->size);
        if (understood)
            answer_ping(m.ping.number);
        break;
    case CONTROL_CLIENT:
        add_client(channel_take_fd(message, 0));
        break;
    case CONTROL_CONNECTION:
        take_connection(channel_take_fd(message, 0));
        break;
    case CONTROL_NO_CONNECTION:
        understood = control_get_no_connection(&m.none, message->body, message->size) &&
                     self.state == STORE_ASKED_FOR;
        if (understood)
            lose(strerror(m.none.reason));
        break;
    default:
        understood = false;
    }
    if (!understood)
        log_die("message type %u from the supervisor is malformed", message->type);
}

static void
control_ready(struct loop_watch *watch, uint32_t events)
{
    struct channel_message message;

    (void)watch;
    (void)events;
    switch (role_control_receive(control_fetcher_rules, control_fetcher_rule_count, self.buffer,
                                 &message)) {
    case CHANNEL_OK:
        obey(&message);
        channel_message_clear(&message);
        break;
    case CHANNEL_CLOSED:
        exit(0);
    default:
        break;
    }
}

/* ---- the start ---- */

void
fetcher_main(const struct role_args *args)
{
    struct control_hello hello = {.role = CONTROL_FETCHER};
    struct control_ready ready = {0};
    struct error error = {""};
    uint8_t body[256];

    log_init(args->name, (enum log_level)args->log_level, args->log_syslog);
    if (OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL) != 1 ||
        OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG, NULL) != 1 || RAND_status() != 1)
        log_die("OpenSSL does not start");
    (void)strerror(ECONNREFUSED); /* libc's tables are read before the sandbox closes */
    snprintf(hello.build, sizeof(hello.build), "%s", role_build_id);
    role_control_send(CONTROL_HELLO, body, control_put_hello(&hello, body, sizeof(body)));
    fetcher_settings_receive(&self.settings, self.buffer);
    self.loop = loop_new();
    self.backoff_ms = BACKOFF_MIN_MS;
    loop_timer_init(&self.timer, timer_expired);
    loop_watch_init(&self.control, ROLE_FD_CONTROL, control_ready);
    if (loop_watch_set(self.loop, &self.control, EPOLLIN) == -1)
        log_die("epoll: %s", strerror(errno));
    if (sandbox_enter(SANDBOX_FETCHER, args->uid, args->gid, args->parent, &error) == -1)
        log_die("%s", error.text);
    ready.layers = sandbox_in_force();
    role_control_send(CONTROL_READY, body, control_put_ready(&ready, body, sizeof(body)));
    ask_for_connection();
    loop_run(self.loop);
}
