/*
 * serve_run.c: `tlsagent serve -- program`: a process for each connection, with the plaintext on
 * its stdin and stdout, or (--ucspi) fds 6 and 7.
 *
 * With --starttls (UCSPI-TLS): stdin and stdout are the TCP connection itself, in the clear. When
 * the program writes "y" or "Y" to $SSLCTLFD, TLS begins; it goes on with $SSLREADFD and
 * $SSLWRITEFD. "Y" is answered with the facts: VAR=value, each ended by a NUL, one NUL more behind
 * the last. If there is no TLS the control socket just ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/tool/serve.h"

#define NOT_FOUND      127 /* exit status, as a shell's */
#define CONTENT_HELLO  22
#define STDFDS         3
#define UCSPI_READ_FD  6
#define UCSPI_WRITE_FD 7

extern char **environ;

struct start {
    char **facts;
    int in, out;  /* to become 0 and 1, or 6 and 7 */
    int control;  /* -1: none */
    int extra[2]; /* UCSPI-TLS: to read from and to write to */
};

/* In the child: our environment without what only a connection may say, and the facts. */
static char **
make_environment(const struct start *start)
{
    static char fd_texts[3][32];
    size_t count = 0, n = 0;
    char **list;

    while (environ[count] != NULL)
        count++;
    while (start->facts[n] != NULL)
        n++;
    list = calloc(count + n + 4, sizeof(*list));
    if (list == NULL)
        return NULL;
    count = 0;
    for (size_t i = 0; environ[i] != NULL; i++) {
        if (!serve_facts_owns(environ[i]))
            list[count++] = environ[i];
    }
    for (size_t i = 0; i < n; i++)
        list[count++] = start->facts[i];
    if (start->control != -1) {
        static const char *const names[] = {"SSLCTLFD", "SSLREADFD", "SSLWRITEFD"};
        int fds[] = {start->control, start->extra[0], start->extra[1]};

        for (size_t i = 0; i < 3; i++) {
            snprintf(fd_texts[i], sizeof(fd_texts[i]), "%s=%d", names[i], fds[i]);
            list[count++] = fd_texts[i];
        }
    }
    return list;
}

/* fd survives the exec, as number `as` or higher. -1: errno. */
static int
keep_open(int fd, int as)
{
    return fcntl(fd, F_DUPFD, as);
}

static void __attribute__((noreturn)) become_program(const struct serve *serve, struct start *start)
{
    const struct serve_options *options = serve->options;
    int first = options->ucspi ? UCSPI_READ_FD : STDIN_FILENO;
    sigset_t none;
    char **list;

    /* Out of the way of the numbers that are to be taken. */
    start->in = fcntl(start->in, F_DUPFD_CLOEXEC, UCSPI_WRITE_FD + 1);
    start->out = fcntl(start->out, F_DUPFD_CLOEXEC, UCSPI_WRITE_FD + 1);
    if (start->control != -1) {
        start->control = keep_open(start->control, UCSPI_WRITE_FD + 1);
        start->extra[0] = keep_open(start->extra[0], UCSPI_WRITE_FD + 1);
        start->extra[1] = keep_open(start->extra[1], UCSPI_WRITE_FD + 1);
    }
    list = make_environment(start);
    if (list == NULL || dup2(start->in, first) == -1 || dup2(start->out, first + 1) == -1) {
        serve_say("cannot start %s: %s", options->program[0], strerror(errno));
        _exit(NOT_FOUND);
    }
    setrlimit(RLIMIT_NOFILE, &serve->files);
    signal(SIGPIPE, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execvpe(options->program[0], options->program, list);
    serve_say("cannot start %s: %s", options->program[0], strerror(errno));
    _exit(NOT_FOUND);
}

/* 0, or -1: it was said why. */
static int
start_program(struct serve *serve, struct serve_conn *conn, struct start *start)
{
    pid_t pid;

    if (start->facts == NULL) {
        serve_say("out of memory");
        return -1;
    }
    pid = fork();
    if (pid == 0)
        become_program(serve, start);
    if (pid == -1)
        serve_say("fork: %s", strerror(errno));
    else
        conn->pid = pid;
    serve_facts_free(start->facts);
    return pid == -1 ? -1 : 0;
}

void
serve_run_finished(struct serve *serve, struct serve_conn *conn)
{
    struct start start = {.control = -1, .facts = serve_facts_new(conn, true, true)};
    int pair[2];

    if (helper_make_pair(pair) == -1) {
        serve_say("socketpair: %s", strerror(errno));
        serve_facts_free(start.facts);
        serve_drop(serve, conn);
        return;
    }
    start.in = start.out = pair[0];
    /* The program first: if it cannot be started the client shall see no clean end. */
    if (start_program(serve, conn, &start) == 0)
        (void)serve_give(serve, conn, pair[1], RELAY_PAIR, false);
    close(pair[0]);
    close(pair[1]);
    serve_drop(serve, conn);
}

/* ---- UCSPI-TLS ---- */

void
serve_run_starttls(struct serve *serve, struct serve_conn *conn)
{
    struct start start = {.facts = serve_facts_new(conn, false, true)};
    int pair[2] = {-1, -1}, control[2] = {-1, -1};
    int rc = -1;

    if (helper_make_pair(pair) == -1 ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, control) == -1)
        serve_say("socketpair: %s", strerror(errno));
    else {
        start.in = start.out = conn->fd;
        start.control = control[1];
        start.extra[0] = start.extra[1] = pair[0];
        rc = start_program(serve, conn, &start);
        start.facts = NULL;
    }
    serve_facts_free(start.facts);
    conn->plain = pair[1];
    conn->event = (struct serve_event){SERVE_CONTROL, control[0]};
    if (pair[0] != -1)
        close(pair[0]);
    if (control[1] != -1)
        close(control[1]);
    if (rc == -1 || serve_watch(serve, &conn->event, EPOLLIN) == -1)
        serve_drop(serve, conn);
}

/* Bytes that came with the command that asks for TLS, in the clear: somebody may have put them
 * there to be taken for what the client says in TLS (CVE-2011-0411 and its kind). */
static bool
has_early_plaintext(int fd)
{
    uint8_t byte;

    return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1 && byte != CONTENT_HELLO;
}

void
serve_run_control(struct serve *serve, struct serve_conn *conn)
{
    char command;
    ssize_t size = recv(conn->event.fd, &command, 1, MSG_DONTWAIT);

    if (size == -1 && (errno == EAGAIN || errno == EINTR))
        return;
    serve_unwatch(serve, &conn->event);
    if (size == 1 && (command == 'y' || command == 'Y')) {
        if (has_early_plaintext(conn->fd)) {
            serve_say("refused: plaintext came with the command that starts TLS");
            shutdown(conn->fd, SHUT_RDWR); /* the program has a descriptor of it too */
        } else {
            conn->command = command;
            serve_handshake(serve, conn);
            return;
        }
    } else if (size == 1)
        serve_say("%s: 0x%02x is no command of UCSPI-TLS", serve->options->program[0],
                  (unsigned)(uint8_t)command);
    serve_drop(serve, conn);
}

void
serve_run_starttls_done(struct serve *serve, struct serve_conn *conn)
{
    char **facts = serve_facts_new(conn, true, false);
    static char answer[65536];
    size_t size = 0;

    for (size_t i = 0; facts != NULL && facts[i] != NULL; i++) {
        size_t length = strlen(facts[i]) + 1;

        if (length <= sizeof(answer) - 2 - size) {
            memcpy(answer + size, facts[i], length);
            size += length;
        }
    }
    if (size == 0)
        answer[size++] = '\0';
    answer[size++] = '\0';
    if (facts == NULL)
        serve_say("out of memory");
    else if (serve_give(serve, conn, conn->plain, RELAY_PAIR, false) == 0 && conn->command == 'Y' &&
             send(conn->event.fd, answer, size, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)size)
        serve_say("%s does not read its control socket", serve->options->program[0]);
    serve_facts_free(facts);
    serve_drop(serve, conn);
}

/* ---- the end of programs ---- */

void
serve_run_reap(struct serve *serve)
{
    struct serve_conn *conn, *next;
    pid_t pid;
    int status;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        for (conn = TAILQ_FIRST(&serve->conns); conn != NULL; conn = next) {
            next = TAILQ_NEXT(conn, link);
            if (conn->pid != pid)
                continue;
            if (serve->options->verbose || WIFSIGNALED(status))
                serve_say("%s[%ld]: %s %d", serve->options->program[0], (long)pid,
                          WIFSIGNALED(status) ? "killed by signal" : "exit status",
                          WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
            conn->pid = 0;
            serve_drop(serve, conn);
            break;
        }
    }
}
