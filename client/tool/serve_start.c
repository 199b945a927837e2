/*
 * serve_start.c: how `tlsagent serve` starts: opens its ports, gives up root, starts its relays,
 * finds the agent, and listens last of all, when it can serve.
 */
#include <errno.h>
#include <grp.h>
#include <libgen.h>
#include <netdb.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "client/internal.h"
#include "client/tool/serve.h"

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

int
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
        if (serve_start_relay(serve, &serve->relays[i]) == -1)
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
        serve_pull(serve);
        return 0;
    }
    return serve_watch(serve, &serve->agent_event, EPOLLIN);
}
