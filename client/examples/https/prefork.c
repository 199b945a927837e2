/* prefork.c: see prefork.h. */
#include "client/examples/https/prefork.h"

#include <errno.h>
#include <grp.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RESTART_NS 200000000 /* a worker that cannot live must not keep a processor busy */

static void
say_list(const char *format, va_list list)
{
    char line[1024];

    vsnprintf(line, sizeof(line), format, list);
    fprintf(stderr, "https-server[%ld]: %s\n", (long)getpid(), line);
}

void
say(const char *format, ...)
{
    va_list list;

    va_start(list, format);
    say_list(format, list);
    va_end(list);
}

void
die(const char *format, ...)
{
    va_list list;

    va_start(list, format);
    say_list(format, list);
    va_end(list);
    exit(1);
}

int
prefork_listen(const char *text)
{
    const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
                                   .ai_socktype = SOCK_STREAM};
    const char *colon = strrchr(text, ':');
    struct addrinfo *address;
    char host[64];
    size_t size;
    int fd;

    if (colon == NULL || (size = (size_t)(colon - text)) >= sizeof(host))
        die("--listen %s: must be ADDR:PORT or [ADDR]:PORT", text);
    if (size >= 2 && text[0] == '[' && text[size - 1] == ']')
        snprintf(host, sizeof(host), "%.*s", (int)size - 2, text + 1);
    else
        snprintf(host, sizeof(host), "%.*s", (int)size, text);
    if (getaddrinfo(size == 0 ? NULL : host, colon + 1, &hints, &address) != 0)
        die("--listen %s: must be a numeric address and port", text);
    fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd == -1)
        die("--listen %s: %s", text, strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)); /* what is accepted has it */
    if (bind(fd, address->ai_addr, address->ai_addrlen) == -1 || listen(fd, SOMAXCONN) == -1)
        die("--listen %s: %s; %s", text, strerror(errno),
            errno == EADDRINUSE ? "stop the program that uses it, or choose another port"
                                : "choose another address or port");
    freeaddrinfo(address);
    return fd;
}

static void
give_up_root(const char *name)
{
    const struct passwd *user;

    if (geteuid() != 0)
        return;
    user = getpwnam(name);
    if (user == NULL)
        die("--user %s: there is no such user", name);
    if (initgroups(name, user->pw_gid) == -1 || setgid(user->pw_gid) == -1 ||
        setuid(user->pw_uid) == -1)
        die("cannot become user %s: %s", name, strerror(errno));
    if (user->pw_uid != 0 && setuid(0) == 0)
        die("root was not given up");
}

static pid_t
start_worker(const char *user, void (*worker)(void *), void *argument)
{
    pid_t parent = getpid(), pid = fork();
    sigset_t none;

    if (pid == -1)
        die("fork: %s", strerror(errno));
    if (pid > 0)
        return pid;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    give_up_root(user);
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* after setuid(), which clears it */
    if (getppid() == parent)
        worker(argument);
    _exit(0);
}

void
prefork_run(unsigned workers, const char *user, void (*worker)(void *), void *argument)
{
    pid_t pids[PREFORK_WORKERS_MAX], dead;
    sigset_t signals;
    int signal, status;

    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGCHLD);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    for (unsigned i = 0; i < workers; i++)
        pids[i] = start_worker(user, worker, argument);
    for (;;) {
        if (sigwait(&signals, &signal) != 0)
            continue;
        if (signal != SIGCHLD)
            break;
        while ((dead = waitpid(-1, &status, WNOHANG)) > 0) {
            say("worker %ld ended (status 0x%x); starting another", (long)dead, (unsigned)status);
            nanosleep(&(struct timespec){.tv_nsec = RESTART_NS}, NULL);
            for (unsigned i = 0; i < workers; i++)
                if (pids[i] == dead)
                    pids[i] = start_worker(user, worker, argument);
        }
    }
    for (unsigned i = 0; i < workers; i++)
        kill(pids[i], SIGTERM);
    while (wait(NULL) > 0)
        continue;
}
