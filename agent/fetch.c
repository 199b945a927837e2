/* fetch.c: see fetch.h. */
#include "agent/fetch.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/exposure.h"
#include "agent/hang_up.h"
#include "agent/log.h"
#include "agent/roles.h"
#include "agent/spawn.h"

#define MESSAGES_PER_EVENT 16

/* ---- its end ---- */

static void
fail(struct fetch *fetch, const char *why)
{
    uint64_t now = loop_now(fetch->loop);

    if (fetch->watch.fd != -1) {
        loop_watch_set(fetch->loop, &fetch->watch, 0);
        hang_up(&fetch->watch.fd, 1);
        fetch->watch.fd = -1;
    }
    if (fetch->pid > 0)
        kill(fetch->pid, SIGKILL);
    fetch->pid = 0;
    fetch->ready = false;
    fetch->wants_connection = false;
    loop_timer_stop(fetch->loop, &fetch->connect_timer);
    if (now - fetch->started >= CELLS_STABLE_MS)
        fetch->wait_ms = CELLS_BACKOFF_MIN_MS;
    log_error("fetcher %s; it is replaced in %u ms", why, fetch->wait_ms);
    loop_timer_set(fetch->loop, &fetch->timer, fetch->wait_ms);
    fetch->wait_ms =
        2 * fetch->wait_ms < CELLS_BACKOFF_MAX_MS ? 2 * fetch->wait_ms : CELLS_BACKOFF_MAX_MS;
    fetch->restarts++;
    fetch->hooks.down(why, fetch->hooks.data);
}

bool
fetch_reaped(struct fetch *fetch, pid_t pid, int status)
{
    char why[80];

    if (fetch->pid == 0 || pid != fetch->pid)
        return false;
    fetch->pid = 0;
    if (WIFSIGNALED(status))
        snprintf(why, sizeof(why), "(pid %d) was killed by signal %d (%s)", (int)pid,
                 WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        snprintf(why, sizeof(why), "(pid %d) ended with status %d", (int)pid, WEXITSTATUS(status));
    fail(fetch, why);
    return true;
}

/* It closed its channel: it is ending, so its status is a moment away at most. */
static void
fail_closed(struct fetch *fetch)
{
    int status;

    for (int i = 0; i < 10; i++) {
        if (waitpid(fetch->pid, &status, WNOHANG) == fetch->pid) {
            (void)fetch_reaped(fetch, fetch->pid, status);
            return;
        }
        poll(NULL, 0, 2);
    }
    fail(fetch, "closed its channel");
}

/* ---- what it is given ---- */

/* A file that the configuration names, or nothing in its place. O_NONBLOCK: it may have become a
 * FIFO, which must not hang us. */
static int
open_file(const char *path, const char *key, struct error *error)
{
    int fd = open(path != NULL ? path : "/dev/null", O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat facts;

    if (fd == -1)
        return error_set(error, "fleet: %s %s: %s", key, path, strerror(errno));
    if (path != NULL && (fstat(fd, &facts) == -1 || !S_ISREG(facts.st_mode))) {
        close(fd);
        return error_set(error, "fleet: %s %s is not a regular file", key, path);
    }
    return fd;
}

static void
tell_exposure(const struct config *config)
{
    if (config->fleet_store->password_file != NULL)
        exposure_tell(config, config->fleet_store->password_file, "store_password_file");
}

/* Both, or none. */
static int
open_files(const struct config_store *store, int fds[2], struct error *error)
{
    fds[1] = -1;
    fds[0] = open_file(store->password_file, "store_password_file", error);
    if (fds[0] != -1)
        fds[1] = open_file(store->ca_file, "store_ca_file", error);
    if (fds[1] != -1)
        return 0;
    if (fds[0] != -1)
        close(fds[0]);
    return -1;
}

/* What it must know. Returns 0, or -1 with an error. */
static int
send_settings(int channel, const struct config_store *store, struct error *error)
{
    struct control_store message = {.tls = store->tls,
                                    .has_password = store->password_file != NULL,
                                    .database = store->database};
    uint8_t body[16 + SERVICE_NAME_MAX + SERVICE_HOST_MAX];
    enum channel_result sent;
    int fds[2];

    snprintf(message.user, sizeof(message.user), "%s", store->user != NULL ? store->user : "");
    snprintf(message.name, sizeof(message.name), "%s", store->name);
    if (open_files(store, fds, error) == -1)
        return -1;
    sent = channel_send(channel, CONTROL_STORE, body,
                        control_put_store(&message, body, sizeof(body)), fds, 2);
    close(fds[0]);
    close(fds[1]);
    return sent == CHANNEL_OK ? 0 : error_set(error, "does not take its settings");
}

/* False after fail(). */
static bool
hand_settings(struct fetch *fetch)
{
    struct error error = {""};

    if (send_settings(fetch->watch.fd, fetch->config->fleet_store, &error) == 0)
        return true;
    fail(fetch, error.text);
    return false;
}

void
fetch_cell_up(struct fetch *fetch, struct cell *cell)
{
    struct control_fetcher_channel message;
    uint8_t body[4];
    int pair[2];

    if (!fetch->ready || cell->state != CELL_UP)
        return;
    if (channel_pair(pair) == -1) {
        log_warning("no channel to the fetcher for cell %u.%u: %s", cell->group, cell->number,
                    strerror(errno));
        return;
    }
    message.wait_ms = fetch->config->fleet_store->wait_ms;
    if (channel_send(fetch->watch.fd, CONTROL_CLIENT, NULL, 0, &pair[0], 1) != CHANNEL_OK ||
        channel_send(cell->handshaker.watch.fd, CONTROL_FETCHER_CHANNEL, body,
                     control_put_fetcher_channel(&message, body, sizeof(body)), &pair[1],
                     1) != CHANNEL_OK)
        log_warning("cell %u.%u gets no channel to the fetcher", cell->group, cell->number);
    close(pair[0]);
    close(pair[1]);
}

/* ---- connections ---- */

/* Never waits: the socket may still be connecting when the fetcher has it. */
static int
open_connection(const struct config_store *store)
{
    int fd = socket(store->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int reason, on = 1;

    if (fd == -1)
        return -1;
    /* Commands are small and must not wait for each other's acknowledgement. */
    if (store->address.ss_family != AF_UNIX)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (connect(fd, (const struct sockaddr *)&store->address, store->address_size) == 0 ||
        errno == EINPROGRESS)
        return fd;
    reason = errno;
    close(fd);
    errno = reason;
    return -1;
}

static void
pass_connection(struct fetch *fetch)
{
    struct control_no_connection none;
    uint8_t body[2];
    int fd = open_connection(fetch->config->fleet_store);
    enum channel_result sent;

    fetch->wants_connection = false;
    fetch->connected = loop_now(fetch->loop);
    if (fd != -1) {
        sent = channel_send(fetch->watch.fd, CONTROL_CONNECTION, NULL, 0, &fd, 1);
        close(fd);
    } else {
        none.reason = (uint16_t)errno;
        sent = channel_send(fetch->watch.fd, CONTROL_NO_CONNECTION, body,
                            control_put_no_connection(&none, body, sizeof(body)), NULL, 0);
    }
    if (sent != CHANNEL_OK)
        fail(fetch, "does not take its connection");
}

static void
connect_expired(struct loop_timer *timer)
{
    struct fetch *fetch = (struct fetch *)((char *)timer - offsetof(struct fetch, connect_timer));

    if (fetch->wants_connection)
        pass_connection(fetch);
}

static bool
take_connect(struct fetch *fetch)
{
    uint64_t now = loop_now(fetch->loop);

    if (!fetch->ready || fetch->wants_connection) {
        fail(fetch, "asks for connections out of turn");
        return false;
    }
    fetch->wants_connection = true;
    if (now - fetch->connected >= FETCH_CONNECT_MS)
        pass_connection(fetch);
    else
        loop_timer_set(fetch->loop, &fetch->connect_timer, FETCH_CONNECT_MS);
    return fetch->watch.fd != -1;
}

/* ---- its messages; each returns false after fail() ---- */

static bool
refuse(struct fetch *fetch, const char *why)
{
    fail(fetch, why);
    return false;
}

static bool
take_hello(struct fetch *fetch, const struct channel_message *message)
{
    struct control_hello hello;

    if (fetch->hello || !control_get_hello(&hello, message->body, message->size) ||
        hello.role != CONTROL_FETCHER)
        return refuse(fetch, "sent a wrong HELLO");
    if (strcmp(hello.build, role_build_id) != 0)
        return refuse(fetch, "is of another build than the supervisor");
    fetch->hello = true;
    return hand_settings(fetch);
}

static bool
take_ready(struct fetch *fetch, const struct channel_message *message)
{
    struct control_ready ready;

    if (!fetch->hello || fetch->ready || !control_get_ready(&ready, message->body, message->size))
        return refuse(fetch, "sent a wrong READY");
    fetch->ready = true;
    fetch->layers = ready.layers;
    fetch->pinged = loop_now(fetch->loop);
    loop_timer_set(fetch->loop, &fetch->timer, CELLS_PING_MS);
    log_info("fetcher is up: pid %d, store %s", (int)fetch->pid, fetch->config->fleet_store->text);
    for (unsigned i = 0; i < fetch->cells->count; i++)
        fetch_cell_up(fetch, &fetch->cells->list[i]);
    fetch->hooks.up(fetch->hooks.data);
    return true;
}

static bool
take_pong(struct fetch *fetch, const struct channel_message *message)
{
    struct control_pong pong;

    if (!fetch->ready || !control_get_pong(&pong, message->body, message->size) ||
        pong.number <= fetch->ponged || pong.number > fetch->ping)
        return refuse(fetch, "sent a PONG that nobody asked for");
    fetch->pong = pong;
    fetch->ponged = pong.number;
    fetch->unanswered_since = pong.number == fetch->ping ? 0 : loop_now(fetch->loop);
    return true;
}

static bool
dispatch(struct fetch *fetch, const struct channel_message *message)
{
    switch ((enum control_type)message->type) {
    case CONTROL_HELLO:
        return take_hello(fetch, message);
    case CONTROL_READY:
        return take_ready(fetch, message);
    case CONTROL_PONG:
        return take_pong(fetch, message);
    case CONTROL_CONNECT:
        return take_connect(fetch);
    default:
        return refuse(fetch, "sent a message that is not its own");
    }
}

static void
control_ready(struct loop_watch *watch, uint32_t events)
{
    struct fetch *fetch = (struct fetch *)watch;

    (void)events;
    for (int i = 0; i < MESSAGES_PER_EVENT; i++) {
        struct channel_message message;
        struct error error = {""};

        switch (channel_receive_bare(watch->fd, control_supervisor_rules,
                                     control_supervisor_rule_count, fetch->cells->buffer,
                                     CHANNEL_BUFFER_SIZE, &message, &error)) {
        case CHANNEL_OK:
            if (!dispatch(fetch, &message))
                return;
            break;
        case CHANNEL_AGAIN:
            return;
        case CHANNEL_CLOSED:
            fail_closed(fetch);
            return;
        default:
            fail(fetch, error.text);
            return;
        }
    }
}

/* ---- its start, and the watch over it ---- */

static struct role_args
role_args(const struct config *config)
{
    return (struct role_args){.name = "fetcher",
                              .log_level = config->log_level,
                              .log_syslog = config->log == CONFIG_LOG_SYSLOG,
                              .uid = config->uid,
                              .gid = config->gid,
                              .require = config->sandbox_require,
                              .cpu = -1};
}

static void
start(struct fetch *fetch)
{
    const struct role_args args = role_args(fetch->config);
    struct error error = {""};
    int pair[2];

    fetch->hello = fetch->ready = false;
    fetch->ping = fetch->ponged = 0;
    fetch->unanswered_since = 0;
    memset(&fetch->pong, 0, sizeof(fetch->pong));
    fetch->layers = 0;
    fetch->started = loop_now(fetch->loop);
    loop_timer_set(fetch->loop, &fetch->timer, CELLS_START_MS);
    if (channel_pair(pair) == -1) {
        fail(fetch, strerror(errno));
        return;
    }
    loop_watch_init(&fetch->watch, pair[0], control_ready);
    fetch->pid = spawn_role(CONTROL_FETCHER, &args, pair[1], -1, &error);
    close(pair[1]);
    if (fetch->pid == -1) {
        fetch->pid = 0;
        fail(fetch, error.text);
    } else if (loop_watch_set(fetch->loop, &fetch->watch, EPOLLIN) == -1) {
        fail(fetch, strerror(errno));
    }
}

static void
ping(struct fetch *fetch)
{
    const struct control_ping message = {.number = fetch->ping + 1};
    uint64_t now = loop_now(fetch->loop);
    bool starved = now - fetch->pinged > 2 * CELLS_PING_MS; /* we are late ourselves */
    uint8_t body[8];

    fetch->pinged = now;
    if (!starved && fetch->unanswered_since != 0 &&
        now - fetch->unanswered_since >= CELLS_SILENCE_MS) {
        fail(fetch, "has not answered for two seconds");
        return;
    }
    if (fetch->unanswered_since == 0)
        fetch->unanswered_since = now;
    if (channel_send(fetch->watch.fd, CONTROL_PING, body,
                     control_put_ping(&message, body, sizeof(body)), NULL, 0) == CHANNEL_OK)
        fetch->ping++;
    loop_timer_set(fetch->loop, &fetch->timer, CELLS_PING_MS);
}

static void
timer_expired(struct loop_timer *timer)
{
    struct fetch *fetch = (struct fetch *)((char *)timer - offsetof(struct fetch, timer));

    if (fetch->watch.fd == -1)
        start(fetch);
    else if (fetch->ready)
        ping(fetch);
    else
        fail(fetch, "was not ready in time");
}

void
fetch_init(struct fetch *fetch, struct loop *loop, const struct config *config, struct cells *cells,
           const struct fetch_hooks *hooks)
{
    memset(fetch, 0, sizeof(*fetch));
    fetch->loop = loop;
    fetch->config = config;
    fetch->cells = cells;
    fetch->hooks = *hooks;
    fetch->wait_ms = CELLS_BACKOFF_MIN_MS;
    loop_watch_init(&fetch->watch, -1, control_ready);
    loop_timer_init(&fetch->timer, timer_expired);
    loop_timer_init(&fetch->connect_timer, connect_expired);
}

void
fetch_start(struct fetch *fetch)
{
    if (fetch->config->fleet_store == NULL)
        return;
    tell_exposure(fetch->config);
    start(fetch);
}

bool
fetch_up(const struct fetch *fetch)
{
    return fetch->config->fleet_store == NULL || fetch->ready;
}

void
fetch_stop(struct fetch *fetch)
{
    if (fetch->watch.fd != -1)
        close(fetch->watch.fd);
    fetch->watch.fd = -1;
    if (fetch->pid > 0)
        kill(fetch->pid, SIGKILL); /* it has nothing that would have to be saved */
    fetch->pid = 0;
}

/* ---- a trial ---- */

/* Its next message must be of this type. */
static bool
expect(int channel, uint16_t type)
{
    static uint8_t buffer[CHANNEL_BUFFER_SIZE];
    struct channel_message message;
    struct error error = {""};

    return channel_receive_wait(channel, control_supervisor_rules, control_supervisor_rule_count,
                                buffer, sizeof(buffer), &message, &error,
                                CELLS_START_MS) == CHANNEL_OK &&
           message.type == type;
}

int
fetch_check(const struct config *config, struct error *error)
{
    const struct role_args args = role_args(config);
    bool good = false;
    int pair[2];
    pid_t pid;

    if (config->fleet_store == NULL)
        return 0;
    tell_exposure(config);
    if (channel_pair(pair) == -1)
        return error_set(error, "socketpair: %s", strerror(errno));
    pid = spawn_role(CONTROL_FETCHER, &args, pair[1], -1, error);
    close(pair[1]);
    if (pid != -1) {
        good = expect(pair[0], CONTROL_HELLO) &&
               send_settings(pair[0], config->fleet_store, error) == 0 &&
               expect(pair[0], CONTROL_READY);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    close(pair[0]);
    if (!good && error->text[0] == '\0')
        error_set(error, "fleet: no fetcher can be started for this store");
    return good ? 0 : -1;
}
