/*
 * serve.c: `tlsagent serve`: the command line, the loop, and the life of a connection; see serve.h.
 */
#include "client/tool/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <libgen.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "client/internal.h"
#include "client/tool/tool.h"

#define EVENTS         64
#define ACCEPTS        32 /* at one go */
#define MAX_DEFAULT    1000
#define MAX_LIMIT      60000
#define RETRY_MS       1000 /* out of descriptors, or the agent is away */
#define PULL           16
#define RELAYS_DEFAULT 8 /* at most: one for each CPU */

static const char usage[] =
    "usage: tlsagent serve --context NAME (--listen [ADDR]:PORT... | --agent-listener)\n"
    "                      [--max N] [--user NAME] [--relays N] [--socket PATH] [--verbose]\n"
    "                      (-- PROGRAM [ARG...] | --to HOST:PORT | --to /PATH)\n"
    "  --context NAME     the agent's context\n"
    "  --listen ADDR:PORT accept here; ADDR may be empty, [IPv6] or a name\n"
    "  --agent-listener   the agent accepts (`listen` of the context)\n"
    "  -- PROGRAM ...     start this for each connection: plaintext on stdin and stdout\n"
    "  --fork             a process for each connection: the default, may be said\n"
    "  --ucspi            plaintext on fds 6 and 7 instead\n"
    "  --starttls         UCSPI-TLS: begin in the clear, TLS when the program asks\n"
    "  --to WHERE         pass the plaintext on to this server\n"
    "  --proxy-protocol   ... and say who the client is (PROXY protocol version 2)\n"
    "  --max N            at most N connections at once (default 1000)\n"
    "  --user NAME        become this user after opening the ports\n"
    "  --relays N         relay processes (default one for each CPU)\n"
    "  --socket PATH      the agent's socket (default $TLSAGENT_SOCK, or the usual one)\n"
    "  --verbose          say also what clients do wrong, and how programs end\n";

void
serve_say(const char *format, ...)
{
    char line[1024];
    va_list list;

    va_start(list, format);
    vsnprintf(line, sizeof(line), format, list);
    va_end(list);
    fprintf(stderr, "tlsagent serve: %s\n", line);
}

int64_t
serve_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int
serve_watch(struct serve *serve, struct serve_event *event, uint32_t events)
{
    struct epoll_event wanted = {.events = events, .data.ptr = event};

    if (epoll_ctl(serve->epoll, EPOLL_CTL_ADD, event->fd, &wanted) == 0)
        return 0;
    serve_say("epoll: %s", strerror(errno));
    return -1;
}

void
serve_unwatch(struct serve *serve, struct serve_event *event)
{
    epoll_ctl(serve->epoll, EPOLL_CTL_DEL, event->fd, NULL);
}

/* ---- relays ---- */

static int
start_relay(struct serve *serve, struct serve_relay *relay)
{
    struct error error = {""};

    relay->live = 0;
    relay->event = (struct serve_event){SERVE_RELAY, helper_start(serve->relay_program, &error)};
    if (relay->event.fd == -1) {
        serve_say("%s", error.text);
        return -1;
    }
    return serve_watch(serve, &relay->event, EPOLLIN);
}

/* Its connections are gone, and nobody else's. */
static void
lose_relay(struct serve *serve, struct serve_relay *relay)
{
    struct serve_conn *conn, *next;

    serve_say("a relay has died, and with it its connections");
    serve_unwatch(serve, &relay->event);
    close(relay->event.fd);
    relay->event.fd = -1;
    relay->live = 0;
    for (conn = TAILQ_FIRST(&serve->conns); conn != NULL; conn = next) {
        next = TAILQ_NEXT(conn, link);
        if (conn->relay == relay) {
            conn->relay = NULL;
            serve_drop(serve, conn);
        }
    }
}

int
serve_give(struct serve *serve, struct serve_conn *conn, int plain, enum relay_plain kind,
           bool tell)
{
    struct helper_gift gift = {
        .stream = &conn->conn->stream, .plain = plain, .kind = kind, .id = conn->id, .tell = tell};
    struct error error = {""};

    for (int attempt = 0; attempt < 2; attempt++) {
        struct serve_relay *relay = &serve->relays[serve->turn++ % serve->options->relays];
        enum helper_result result = HELPER_GONE;

        if (relay->event.fd != -1)
            result = helper_give(relay->event.fd, &gift, &error);
        if (result == HELPER_OK) {
            if (tell) {
                conn->relay = relay;
                relay->live++;
            }
            return 0;
        }
        if (result == HELPER_FAILED)
            break;
        if (relay->event.fd != -1)
            lose_relay(serve, relay);
        serve->turn--; /* the same again */
        if (start_relay(serve, relay) == -1)
            return -1;
    }
    serve_say("%s", error.text[0] != '\0' ? error.text : "relays die as soon as they are started");
    return -1;
}

static void
handle_relay(struct serve *serve, struct serve_relay *relay)
{
    static uint8_t buffer[CHANNEL_BUFFER_SIZE];
    struct channel_message message;
    struct relay_ended ended;
    struct serve_conn *conn = NULL;
    enum channel_result result;

    for (int i = 0; i < EVENTS; i++) {
        result = channel_receive(relay->event.fd, relay_worker_rules, relay_worker_rule_count,
                                 buffer, sizeof(buffer), &message, NULL);
        if (result == CHANNEL_AGAIN)
            return;
        if (result != CHANNEL_OK || message.type != RELAY_ENDED ||
            !relay_get_ended(&ended, message.body, message.size)) {
            lose_relay(serve, relay);
            return;
        }
        TAILQ_FOREACH(conn, &serve->conns, link)
        {
            if (conn->id == ended.id && conn->relay == relay)
                break;
        }
        if (conn == NULL)
            continue;
        relay->live--;
        conn->relay = NULL;
        serve_drop(serve, conn);
    }
}

/* ---- a connection ---- */

static struct serve_conn *
new_conn(struct serve *serve, int fd)
{
    struct serve_conn *conn = calloc(1, sizeof(*conn));

    if (conn == NULL)
        return NULL;
    conn->fd = fd;
    conn->plain = conn->event.fd = -1;
    conn->id = serve->next_id++;
    TAILQ_INSERT_TAIL(&serve->conns, conn, link);
    serve->count++;
    return conn;
}

static void
note_addresses(struct serve_conn *conn, int fd)
{
    socklen_t size = sizeof(conn->peer);

    if (getpeername(fd, (struct sockaddr *)&conn->peer, &size) == -1)
        conn->peer.ss_family = AF_UNSPEC;
    size = sizeof(conn->local);
    if (getsockname(fd, (struct sockaddr *)&conn->local, &size) == -1)
        conn->local.ss_family = AF_UNSPEC;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
}

void
serve_drop(struct serve *serve, struct serve_conn *conn)
{
    if (conn->conn != NULL)
        tlsagent_abandon(conn->conn);
    conn->conn = NULL;
    if (conn->event.fd != -1) {
        serve_unwatch(serve, &conn->event);
        close(conn->event.fd);
    }
    if (conn->fd != -1)
        close(conn->fd);
    if (conn->plain != -1)
        close(conn->plain);
    conn->event.fd = conn->fd = conn->plain = -1;
    if (conn->pid != 0 || conn->relay != NULL)
        return;
    /* Events of this round may point here: it is freed when the round is over. */
    TAILQ_REMOVE(&serve->conns, conn, link);
    TAILQ_INSERT_TAIL(&serve->dead, conn, link);
    serve->count--;
}

static void
handshake_over(struct serve *serve, struct serve_conn *conn, int result)
{
    const struct serve_options *options = serve->options;
    char address[INET6_ADDRSTRLEN];
    unsigned port;

    if (result == -1) {
        int code = tlsagent_error_code(conn->conn);
        bool ours = code == TLSAGENT_E_MEMORY || code == TLSAGENT_E_ARGUMENT ||
                    code == TLSAGENT_E_AGENT || code == TLSAGENT_E_NOT_PERMITTED ||
                    code == TLSAGENT_E_BUSY || code == TLSAGENT_E_SYSTEM;

        serve_facts_address(&conn->peer, address, sizeof(address), &port);
        if (ours || options->verbose)
            serve_say("%s port %u: %s", address, port, tlsagent_error(conn->conn));
        serve_drop(serve, conn);
    } else if (options->starttls)
        serve_run_starttls_done(serve, conn);
    else if (options->program != NULL)
        serve_run_finished(serve, conn);
    else
        serve_to_finished(serve, conn);
}

void
serve_handshake(struct serve *serve, struct serve_conn *conn)
{
    int result, flags = fcntl(conn->fd, F_GETFL);

    if (flags != -1)
        fcntl(conn->fd, F_SETFL, flags | O_NONBLOCK);
    conn->conn = tlsagent_accept_fd(serve->agent, serve->options->context, conn->fd);
    if (conn->conn == NULL) {
        serve_say("%s", tlsagent_agent_error(serve->agent));
        serve_drop(serve, conn);
        return;
    }
    tlsagent_set_data(conn->conn, conn);
    tlsagent_set_forms(conn->conn, TLSAGENT_FORM_RECORDS | TLSAGENT_FORM_STREAM);
    result = tlsagent_handshake(conn->conn);
    if (result == 0 || result == -1)
        handshake_over(serve, conn, result);
}

static bool
is_full(const struct serve *serve)
{
    return serve->count >= serve->options->max;
}

/* Listen, or do not: nothing is accepted that could not be served. */
static void
watch_sources(struct serve *serve)
{
    bool wanted = !serve->stopping && !is_full(serve) && serve->pause_until == 0;

    if (wanted == serve->accepts)
        return;
    for (size_t i = 0; i < serve->listener_count; i++) {
        if (!wanted)
            serve_unwatch(serve, &serve->listeners[i]);
        else if (serve_watch(serve, &serve->listeners[i], EPOLLIN) == -1)
            return;
    }
    if (serve->options->agent_listener) {
        if (!wanted)
            serve_unwatch(serve, &serve->agent_event);
        else if (serve_watch(serve, &serve->agent_event, EPOLLIN) == -1)
            return;
    }
    serve->accepts = wanted;
}

static void
accept_some(struct serve *serve, int listener)
{
    for (int i = 0; i < ACCEPTS && !is_full(serve); i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        struct serve_conn *conn;

        if (fd == -1) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                serve_say("accept: %s; waiting a second", strerror(errno));
                serve->pause_until = serve_now() + RETRY_MS;
            }
            return;
        }
        conn = new_conn(serve, fd);
        if (conn == NULL) {
            close(fd);
            return;
        }
        note_addresses(conn, fd);
        if (serve->options->starttls)
            serve_run_starttls(serve, conn);
        else
            serve_handshake(serve, conn);
    }
}

/* Handshakes that are over, and what the agent has accepted. */
static void
take_finished(struct serve *serve)
{
    struct tlsagent_conn *tls;
    struct serve_conn *conn;

    while (!(serve->options->agent_listener && is_full(serve)) &&
           (tls = tlsagent_next(serve->agent)) != NULL) {
        conn = tlsagent_data(tls);
        if (conn == NULL) {
            conn = new_conn(serve, -1);
            if (conn == NULL) {
                tlsagent_abandon(tls);
                continue;
            }
            conn->conn = tls;
            note_addresses(conn, tlsagent_conn_fd(tls));
        }
        handshake_over(serve, conn, tlsagent_handshake(tls));
    }
}

static void
pull(struct serve *serve)
{
    if (tlsagent_pull(serve->agent, serve->options->context,
                      serve->options->max < PULL ? serve->options->max : PULL) == 0) {
        serve->pull_at = 0;
        return;
    }
    if (serve->pull_at == 1)
        serve_say("%s; trying again every second", tlsagent_agent_error(serve->agent));
    serve->pull_at = serve_now() + RETRY_MS;
}

static void
handle_signals(struct serve *serve)
{
    struct signalfd_siginfo signal;

    while (read(serve->signals.fd, &signal, sizeof(signal)) == sizeof(signal)) {
        if (signal.ssi_signo == SIGCHLD) {
            serve_run_reap(serve);
            continue;
        }
        if (serve->stopping)
            exit(TOOL_FAIL); /* asked twice */
        serve->stopping = true;
        watch_sources(serve);
        for (size_t i = 0; i < serve->listener_count; i++)
            close(serve->listeners[i].fd);
        serve->listener_count = 0;
    }
}

static void
handle_event(struct serve *serve, struct serve_event *event)
{
    if (event->fd == -1)
        return; /* closed earlier in this round */
    switch (event->source) {
    case SERVE_LISTENER:
        accept_some(serve, event->fd);
        break;
    case SERVE_AGENT:
        take_finished(serve);
        break;
    case SERVE_SIGNALS:
        handle_signals(serve);
        break;
    case SERVE_RELAY:
        handle_relay(serve, (struct serve_relay *)event);
        break;
    case SERVE_CONTROL:
        serve_run_control(serve, (struct serve_conn *)event);
        break;
    case SERVE_BACKEND:
        serve_unwatch(serve, event);
        serve_to_connected(serve, (struct serve_conn *)event);
        break;
    }
}

static void
serve_loop(struct serve *serve)
{
    struct epoll_event events[EVENTS];
    struct serve_conn *conn;

    while (!serve->stopping || serve->count > 0) {
        int count, timeout = serve->pull_at != 0 || serve->pause_until != 0 ? RETRY_MS : -1;

        watch_sources(serve);
        count = epoll_wait(serve->epoll, events, EVENTS, timeout);
        for (int i = 0; i < count; i++)
            handle_event(serve, events[i].data.ptr);
        while ((conn = TAILQ_FIRST(&serve->dead)) != NULL) {
            TAILQ_REMOVE(&serve->dead, conn, link);
            free(conn);
        }
        if (serve->pause_until != 0 && serve_now() >= serve->pause_until)
            serve->pause_until = 0;
        if (serve->pull_at != 0 && serve_now() >= serve->pull_at && !serve->stopping)
            pull(serve);
    }
}

/* ---- the start ---- */

static int
open_listener(struct serve *serve, const char *text, struct error *error)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM}, *found;
    const char *colon = strrchr(text, ':'), *start = text;
    char host[256];
    size_t size = colon != NULL ? (size_t)(colon - text) : sizeof(host);
    int fd, rc;

    if (size >= sizeof(host) || colon[1] == '\0')
        return error_set(error, "--listen %s: must be ADDRESS:PORT, [ADDRESS]:PORT or :PORT", text);
    if (size >= 2 && start[0] == '[' && start[size - 1] == ']') {
        start++;
        size -= 2;
    }
    memcpy(host, start, size);
    host[size] = '\0';
    if (size == 0)
        hints.ai_family = AF_INET6; /* and IPv4 with it */
    rc = getaddrinfo(size == 0 ? NULL : host, colon + 1, &hints, &found);
    if (rc != 0)
        return error_set(error, "--listen %s: %s", text, gai_strerror(rc));
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd == -1 && size == 0) { /* no IPv6 here */
        freeaddrinfo(found);
        hints.ai_family = AF_INET;
        if (getaddrinfo(NULL, colon + 1, &hints, &found) != 0)
            return error_set(error, "--listen %s: no IPv4 and no IPv6", text);
        fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    }
    if (fd != -1) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
        if (found->ai_family == AF_INET6)
            setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){size != 0}, sizeof(int));
    }
    if (fd == -1 || bind(fd, found->ai_addr, found->ai_addrlen) == -1) {
        error_set(error, "--listen %s: %s%s", text, strerror(errno),
                  errno == EADDRINUSE ? ": stop the program that uses it, or choose another port"
                                      : "");
        freeaddrinfo(found);
        if (fd != -1)
            close(fd);
        return -1;
    }
    freeaddrinfo(found);
    serve->listeners[serve->listener_count++] = (struct serve_event){SERVE_LISTENER, fd};
    return 0;
}

static int
give_up_root(const char *name, struct error *error)
{
    const struct passwd *user;

    if (name == NULL)
        return geteuid() != 0 ? 0
                              : error_set(error, "will not serve as root: name a user with --user");
    user = getpwnam(name);
    if (user == NULL)
        return error_set(error, "--user %s: there is no such user", name);
    if (geteuid() != 0)
        return user->pw_uid == geteuid()
                   ? 0
                   : error_set(error, "--user %s: only root can become another user", name);
    if (initgroups(name, user->pw_gid) == -1 || setgid(user->pw_gid) == -1 ||
        setuid(user->pw_uid) == -1 || (user->pw_uid != 0 && setuid(0) == 0))
        return error_set(error, "cannot become user %s: %s", name, strerror(errno));
    return 0;
}

/* The relay that was built or installed with this program, if it is beside it. */
static char *
find_relay(void)
{
    char self[4096], *path = NULL;
    ssize_t size = readlink("/proc/self/exe", self, sizeof(self) - 1);

    if (size <= 0 || getenv("TLSAGENT_RELAY") != NULL)
        return NULL;
    self[size] = '\0';
    if (asprintf(&path, "%s/tlsagent-relay", dirname(self)) == -1)
        return NULL;
    if (access(path, X_OK) == 0)
        return path;
    free(path);
    return NULL;
}

static int
watch_signals(struct serve *serve, struct error *error)
{
    sigset_t signals;

    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGCHLD);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    serve->signals =
        (struct serve_event){SERVE_SIGNALS, signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK)};
    if (serve->signals.fd == -1)
        return error_set(error, "signalfd: %s", strerror(errno));
    return serve_watch(serve, &serve->signals, EPOLLIN);
}

static int
serve_start(struct serve *serve, struct error *error)
{
    const struct serve_options *options = serve->options;
    struct rlimit files;

    for (size_t i = 0; i < options->listen_count; i++) {
        if (open_listener(serve, options->listen[i], error) == -1)
            return -1;
    }
    if (options->to != NULL && serve_to_resolve(serve, options->to, error) == -1)
        return -1;
    serve->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (serve->epoll == -1)
        return error_set(error, "epoll: %s", strerror(errno));
    if (give_up_root(options->user, error) == -1 || watch_signals(serve, error) == -1)
        return -1;
    if (getrlimit(RLIMIT_NOFILE, &serve->files) == 0) {
        files = serve->files;
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    serve->relay_program = find_relay();
    for (unsigned i = 0; i < options->relays; i++) {
        if (start_relay(serve, &serve->relays[i]) == -1)
            return error_set(error, "cannot serve without a relay");
    }
    serve->agent = tlsagent_open(options->socket);
    if (serve->agent == NULL)
        return error_set(error, "cannot start: %s", strerror(errno));
    if (tlsagent_check(serve->agent) == -1)
        serve_say("warning: %s", tlsagent_agent_error(serve->agent));
    serve->agent_event = (struct serve_event){SERVE_AGENT, tlsagent_fd(serve->agent)};
    for (size_t i = 0; i < serve->listener_count; i++) { /* the last thing: now it is ready */
        if (listen(serve->listeners[i].fd, SOMAXCONN) == -1)
            return error_set(error, "--listen %s: %s", options->listen[i], strerror(errno));
    }
    if (options->agent_listener) {
        serve->agent->pull_forms = SERVICE_FORM_RECORDS | SERVICE_FORM_STREAM;
        serve->pull_at = 1;
        pull(serve);
        return 0;
    }
    return serve_watch(serve, &serve->agent_event, EPOLLIN);
}

static bool
read_number(const char *name, const char *text, unsigned least, unsigned most, unsigned *number)
{
    char *end;
    unsigned long value;

    errno = 0;
    value = strtoul(text, &end, 10);
    if (text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && value >= least &&
        value <= most) {
        *number = (unsigned)value;
        return true;
    }
    serve_say("--%s %s: must be a number from %u to %u", name, text, least, most);
    return false;
}

static const char *
find_mistake(const struct serve_options *options)
{
    if (options->context == NULL)
        return "--context is missing: a context of the agent's configuration";
    if ((options->listen_count > 0) == options->agent_listener)
        return "say where to accept: --listen, or --agent-listener";
    if ((options->program != NULL) == (options->to != NULL))
        return "say what to serve: -- PROGRAM, or --to";
    if (options->program == NULL && (options->ucspi || options->starttls))
        return "--ucspi and --starttls are for a PROGRAM";
    if (options->ucspi && options->starttls)
        return "--ucspi and --starttls exclude each other";
    if (options->starttls && options->agent_listener)
        return "--starttls needs --listen: what the agent accepts begins with TLS";
    if (options->proxy_protocol && options->to == NULL)
        return "--proxy-protocol is for --to";
    return NULL;
}

/* TOOL_OK, or how to end. */
static int
read_options(struct serve_options *options, int argc, char **argv)
{
    static const struct option names[] = {
        {"context", required_argument, NULL, 'c'},
        {"listen", required_argument, NULL, 'l'},
        {"agent-listener", no_argument, NULL, 'a'},
        {"fork", no_argument, NULL, 'f'},
        {"ucspi", no_argument, NULL, 'i'},
        {"starttls", no_argument, NULL, 't'},
        {"to", required_argument, NULL, 'o'},
        {"proxy-protocol", no_argument, NULL, 'p'},
        {"max", required_argument, NULL, 'm'},
        {"user", required_argument, NULL, 'u'},
        {"relays", required_argument, NULL, 'r'},
        {"socket", required_argument, NULL, 's'},
        {"verbose", no_argument, NULL, 'v'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    const char *mistake;
    int option;

    *options = (struct serve_options){.max = MAX_DEFAULT};
    options->relays = cpus < 1 ? 1 : cpus > RELAYS_DEFAULT ? RELAYS_DEFAULT : (unsigned)cpus;
    while ((option = getopt_long(argc, argv, "+", names, NULL)) != -1) {
        bool good = true;

        switch (option) {
        case 'c':
            options->context = optarg;
            break;
        case 'l':
            good = options->listen_count < SERVE_LISTEN_MAX;
            if (good)
                options->listen[options->listen_count++] = optarg;
            else
                serve_say("--listen: at most %d times", SERVE_LISTEN_MAX);
            break;
        case 'a':
            options->agent_listener = true;
            break;
        case 'f':
            break;
        case 'i':
            options->ucspi = true;
            break;
        case 't':
            options->starttls = true;
            break;
        case 'o':
            options->to = optarg;
            break;
        case 'p':
            options->proxy_protocol = true;
            break;
        case 'm':
            good = read_number("max", optarg, 1, MAX_LIMIT, &options->max);
            break;
        case 'u':
            options->user = optarg;
            break;
        case 'r':
            good = read_number("relays", optarg, 1, SERVE_RELAYS_MAX, &options->relays);
            break;
        case 's':
            options->socket = optarg;
            break;
        case 'v':
            options->verbose = true;
            break;
        case 'h':
            fputs(usage, stdout);
            exit(TOOL_OK);
        default:
            good = false;
            fputs(usage, stderr);
            break;
        }
        if (!good)
            return TOOL_USAGE;
    }
    if (optind < argc)
        options->program = argv + optind;
    mistake = find_mistake(options);
    if (mistake == NULL)
        return TOOL_OK;
    serve_say("%s (tlsagent serve --help)", mistake);
    return TOOL_USAGE;
}

int
tool_serve(int argc, char **argv)
{
    struct serve_options options;
    struct serve *serve = calloc(1, sizeof(*serve));
    struct error error = {""};
    int rc = read_options(&options, argc, argv);

    if (rc == TOOL_OK && serve == NULL)
        rc = TOOL_FAIL;
    if (rc == TOOL_OK) {
        serve->options = &options;
        TAILQ_INIT(&serve->conns);
        TAILQ_INIT(&serve->dead);
        if (serve_start(serve, &error) == -1) {
            if (error.text[0] != '\0')
                serve_say("%s", error.text);
            rc = TOOL_FAIL;
        } else
            serve_loop(serve);
    }
    if (serve != NULL && serve->agent != NULL)
        tlsagent_free(serve->agent);
    if (serve != NULL)
        free(serve->relay_program);
    free(serve);
    return rc;
}
