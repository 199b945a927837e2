/*
 * supervisor.c: the process that starts, watches and replaces all others.
 *
 * Role: supervisor, root or the user who started the agent. It reads no byte from the network, no
 * byte of a key and no byte from a worker; it opens files and sockets and hands them on. When it
 * ends, however it ends, every role ends with it: their control channels close, and the kernel
 * kills who does not notice.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/admin.h"
#include "agent/cells.h"
#include "agent/fetch.h"
#include "agent/greet.h"
#include "agent/handover.h"
#include "agent/kernel_probe.h"
#include "agent/listen.h"
#include "agent/load.h"
#include "agent/log.h"
#include "agent/loop.h"
#include "agent/roles.h"
#include "agent/spawn.h"
#include "agent/tickets.h"
#include "sandbox/sandbox.h"

#define FIRST_GENERATION 1

struct supervisor {
    struct loop_watch signals; /* first; fd: a signalfd */
    struct config *config;
    struct loop *loop;
    struct cells cells;
    struct fetch fetch;
    uint16_t kernel; /* what kernel TLS can do here */
    struct greet greet;
    struct admin admin;
    struct load_result *generations; /* by group */
    struct tickets tickets;
    struct listen_socket *listeners;
    size_t listener_count;
    struct listen_unix socket;
    struct listen_unix control;
    int console;   /* stderr of whoever started us, until we are up; then -1 */
    char *program; /* where we were started from */
    pid_t trial;   /* `program -t`, while it runs before an upgrade; 0: none */
    int parent;    /* pipe to the process that waits in the foreground, or -1 */
    bool up;
};

/* ---- the start, and what can go wrong with it ---- */

/* The agent cannot start: one line to whoever started it (and to the log, if that is another
 * place), nothing left behind. */
static void __attribute__((format(printf, 2, 3), noreturn))
fail_start(struct supervisor *supervisor, const char *format, ...)
{
    char text[ERROR_TEXT_MAX];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    dprintf(supervisor->console, "tlsagentd: %s\n", text);
    if (supervisor->config->log != CONFIG_LOG_STDERR)
        log_error("not started: %s", text);
    listen_remove_unix(&supervisor->socket);
    listen_remove_unix(&supervisor->control);
    exit(1);
}

/* The log's fd, which every role inherits as fd 2. */
static int
open_log(const struct config *config, struct error *error)
{
    struct sockaddr_un syslog = {.sun_family = AF_UNIX, .sun_path = "/dev/log"};
    int fd = -1;

    switch (config->log) {
    case CONFIG_LOG_STDERR:
        return STDERR_FILENO;
    case CONFIG_LOG_FILE:
        fd = open(config->log_file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0640);
        if (fd == -1)
            return error_set(error, "log %s: cannot open: %s", config->log_file, strerror(errno));
        return fd;
    case CONFIG_LOG_SYSLOG:
        fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd == -1 || connect(fd, (const struct sockaddr *)&syslog, sizeof(syslog)) == -1) {
            error_set(error, "log: /dev/log: %s: start a syslog daemon or change `log`",
                      strerror(errno));
            if (fd != -1)
                close(fd);
            return -1;
        }
        return fd;
    }
    return error_set(error, "log: unknown kind");
}

static void
start_log(struct supervisor *supervisor)
{
    struct config *config = supervisor->config;
    struct error error = {""};
    int fd = open_log(config, &error);

    if (fd == -1)
        fail_start(supervisor, "%s", error.text);
    if (fd != STDERR_FILENO) {
        if (dup2(fd, STDERR_FILENO) == -1)
            fail_start(supervisor, "log: %s", strerror(errno));
        close(fd);
    }
    log_init("supervisor", (enum log_level)config->log_level, config->log == CONFIG_LOG_SYSLOG);
}

/* Leave the caller's foreground: the caller waits in a process of its own until we are up, so that
 * its exit status is the truth. Before any role is started: they must be our children. */
static void
go_background(struct supervisor *supervisor)
{
    int ends[2];
    char byte;
    pid_t pid;
    int status;

    if (pipe2(ends, O_CLOEXEC) == -1 || (pid = fork()) == -1)
        fail_start(supervisor, "cannot go into the background: %s", strerror(errno));
    if (pid == 0) {
        close(ends[0]);
        supervisor->parent = ends[1];
        setsid();
        return;
    }
    close(ends[1]);
    if (read(ends[0], &byte, 1) == 1)
        _exit(0);
    if (waitpid(pid, &status, 0) == pid && WIFSIGNALED(status))
        dprintf(STDERR_FILENO, "tlsagentd: the supervisor was killed by signal %d\n",
                WTERMSIG(status));
    _exit(1);
}

/* What this system offers for the roles' sandboxes: say what is missing, or refuse to start
 * without it. */
static int
try_sandbox(const struct config *config, struct error *error)
{
    struct sandbox_trial trial;

    sandbox_require(config->sandbox_require);
    if (sandbox_try(config->uid, config->gid, &trial, error) == -1)
        return -1;
    if (trial.missing[0] != '\0')
        log_warning("the sandbox is weaker than it could be; not to be had here: %s",
                    trial.missing);
    return 0;
}

/* fd 0 and 1 to /dev/null; no privilege beyond what the start of the others needs. */
static void
enter_sandbox(struct supervisor *supervisor)
{
    struct error error = {""};
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (null == -1 || dup2(null, STDIN_FILENO) == -1 || dup2(null, STDOUT_FILENO) == -1)
        fail_start(supervisor, "/dev/null: %s", strerror(errno));
    close(null);
    if (try_sandbox(supervisor->config, &error) == -1)
        fail_start(supervisor, "%s", error.text);
    if (sandbox_enter(SANDBOX_SUPERVISOR, 0, 0, 0, &error) == -1)
        fail_start(supervisor, "%s", error.text);
}

static void
load_generations(struct supervisor *supervisor)
{
    struct config *config = supervisor->config;
    struct error error = {""};

    supervisor->generations = calloc(config->cell_group_count, sizeof(struct load_result));
    if (supervisor->generations == NULL)
        fail_start(supervisor, "out of memory");
    for (unsigned group = 0; group < config->cell_group_count; group++) {
        struct load_result *result = &supervisor->generations[group];

        if (load_group(config, group, FIRST_GENERATION, result, &error) == -1)
            fail_start(supervisor, "%s", error.text);
        log_info("generation %u of cell group %u: %u identities, %u keys", result->generation,
                 group, result->done.identities, result->done.keys);
    }
}

/* Report success to whoever waits for it. */
static void
say_up(struct supervisor *supervisor)
{
    const struct config *config = supervisor->config;

    supervisor->up = true;
    log_info("tlsagentd %s is up: %zu contexts, %u cells, socket %s", TLSAGENT_VERSION,
             config->context_count, supervisor->cells.count, config->socket);
    if (geteuid() != 0)
        log_warning("started as a plain user (uid %u): the agent's processes share its uid, and "
                    "only their sandboxes keep them apart from each other and from its other "
                    "programs",
                    (unsigned)geteuid());
    handover_notify("READY=1");
    if (supervisor->console != -1)
        close(supervisor->console);
    supervisor->console = -1;
    if (supervisor->parent != -1) {
        if (write(supervisor->parent, "", 1) != 1)
            log_warning("nobody waits for this start any more");
        close(supervisor->parent);
        supervisor->parent = -1;
        if (chdir("/") == -1)
            log_warning("chdir /: %s", strerror(errno));
    }
}

/* ---- what happens while it runs ---- */

static void
look_whether_up(struct supervisor *supervisor)
{
    if (!supervisor->up && cells_up(&supervisor->cells) == supervisor->cells.count &&
        fetch_up(&supervisor->fetch))
        say_up(supervisor);
}

static void
cell_up(struct cell *cell, void *data)
{
    struct supervisor *supervisor = data;

    greet_cell_up(&supervisor->greet, cell);
    fetch_cell_up(&supervisor->fetch, cell);
    look_whether_up(supervisor);
}

static void
fetcher_up(void *data)
{
    look_whether_up(data);
}

static void
fetcher_down(const char *why, void *data)
{
    struct supervisor *supervisor = data;

    if (!supervisor->up)
        fail_start(supervisor, "fetcher %s: the log says more", why);
}

static void
cell_down(struct cell *cell, const char *why, void *data)
{
    struct supervisor *supervisor = data;

    (void)cell;
    if (!supervisor->up)
        fail_start(supervisor, "%s: the log says more", why);
}

static void
cells_have_answered(void *data)
{
    struct supervisor *supervisor = data;

    admin_answered(&supervisor->admin);
}

static void
cell_was_frozen(uint32_t uid, uint32_t pid, void *data)
{
    struct supervisor *supervisor = data;

    greet_ban(&supervisor->greet, uid, pid);
}

static void __attribute__((noreturn)) stop(struct supervisor *supervisor, uint32_t signal_number)
{
    log_info("stopping: signal %u", signal_number);
    handover_notify("STOPPING=1");
    listen_remove_unix(&supervisor->socket);
    listen_remove_unix(&supervisor->control);
    fetch_stop(&supervisor->fetch);
    cells_stop(&supervisor->cells);
    log_info("stopped");
    exit(0);
}

/* ---- upgrade: first a trial of what is installed now, then we become it ---- */

static bool
begin_upgrade(void *data, struct error *error)
{
    struct supervisor *supervisor = data;

    if (supervisor->trial != 0) /* both who ask are told how it went */
        return true;
    supervisor->trial = fork();
    if (supervisor->trial == 0) {
        sigset_t none;

        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        execl(supervisor->program, "tlsagentd", "-t", "-c", supervisor->config->file, (char *)NULL);
        _exit(127);
    }
    if (supervisor->trial > 0) {
        log_info("upgrade: trying %s", supervisor->program);
        return true;
    }
    supervisor->trial = 0;
    error_set(error, "upgrade: fork: %s", strerror(errno));
    return false;
}

/* Workers' connections go on; workers find the new instance as after any restart. Clients that
 * connect meanwhile wait in the listening sockets. */
static void __attribute__((noreturn)) become_new(struct supervisor *supervisor)
{
    char name[] = "tlsagentd", file_option[] = "-c", foreground[] = "--foreground";
    char *argv[] = {name, file_option, supervisor->config->file, foreground, NULL};
    struct error error = {""};

    log_info("upgrade: becoming %s", supervisor->program);
    handover_notify("RELOADING=1");
    listen_remove_unix(&supervisor->socket);
    listen_remove_unix(&supervisor->control);
    fetch_stop(&supervisor->fetch);
    cells_stop(&supervisor->cells);
    for (size_t i = 0; i < supervisor->listener_count; i++)
        handover_put_listener((unsigned)i, supervisor->listeners[i].fd);
    (void)handover_exec(supervisor->program, argv, &error);
    log_error("%s", error.text);
    exit(1);
}

/* Was it the trial? Then the agent is another one when this returns, or nothing has changed. */
static void
trial_ended(struct supervisor *supervisor, int status)
{
    struct error error = {""};

    supervisor->trial = 0;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        error_set(&error,
                  "upgrade: %s -t -c %s fails; nothing was changed, its reason is in the log",
                  supervisor->program, supervisor->config->file);
        log_error("%s", error.text);
    }
    admin_upgrade_tried(&supervisor->admin, &error);
    if (error.text[0] == '\0')
        become_new(supervisor);
}

static void
signals_ready(struct loop_watch *watch, uint32_t events)
{
    struct supervisor *supervisor = (struct supervisor *)watch;
    struct signalfd_siginfo info;
    pid_t pid;
    int status;

    (void)events;
    if (read(watch->fd, &info, sizeof(info)) != sizeof(info))
        return;
    switch (info.ssi_signo) {
    case SIGCHLD: /* one for many deaths */
        while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
            if (pid == supervisor->trial)
                trial_ended(supervisor, status);
            else if (!fetch_reaped(&supervisor->fetch, pid, status))
                cells_reaped(&supervisor->cells, pid, status);
        return;
    case SIGHUP:
        log_warning("SIGHUP: this version cannot reload; nothing was changed: restart the agent "
                    "(established connections do not notice)");
        return;
    default:
        stop(supervisor, info.ssi_signo);
    }
}

static void
watch_signals(struct supervisor *supervisor)
{
    sigset_t signals;
    int fd;

    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    sigaddset(&signals, SIGCHLD);
    if (sigprocmask(SIG_BLOCK, &signals, NULL) == -1 ||
        (fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK)) == -1)
        fail_start(supervisor, "signalfd: %s", strerror(errno));
    loop_watch_init(&supervisor->signals, fd, signals_ready);
    if (loop_watch_set(supervisor->loop, &supervisor->signals, EPOLLIN) == -1)
        fail_start(supervisor, "epoll: %s", strerror(errno));
}

/* The whole graph. What is not connected here is not connected:
 *
 *   key files ----> loader (one per cell group, ends) ----> secret part, public part
 *   cells:  keeper     <- secret part                      (cells.c, start_cell)
 *           handshaker <- public part, listening sockets
 *           keeper <-> handshaker of the same cell
 *   fetcher (if there is a store) <- connections to the store, which we open (fetch.c)
 *           fetcher <-> every handshaker
 *   workers: well-known socket -> supervisor (greet.c); channels <-> handshakers of their groups
 *   command: control socket   <-> supervisor (admin.c)
 */
static void
draw_graph(struct supervisor *supervisor)
{
    struct config *config = supervisor->config;
    const struct cells_hooks hooks = {cell_up, cell_down, cells_have_answered, cell_was_frozen,
                                      supervisor};
    const struct fetch_hooks fetch_hooks = {fetcher_up, fetcher_down, supervisor};
    struct error error = {""};

    if (listen_check_unix(config->control_socket, "control_socket", &error) == -1 ||
        listen_check_unix(config->socket, "socket", &error) == -1 ||
        listen_open_contexts(config, &supervisor->listeners, &supervisor->listener_count, &error) ==
            -1)
        fail_start(supervisor, "%s", error.text);
    load_generations(supervisor);
    if (tickets_load(&supervisor->tickets, config, supervisor->generations, &error) == -1)
        fail_start(supervisor, "%s", error.text);
    /* From here on we leave files behind, so nothing but stop() ends us. */
    supervisor->loop = loop_new();
    watch_signals(supervisor);
    if (listen_open_unix(config->control_socket, "control_socket", 0600, &supervisor->control,
                         &error) == -1 ||
        listen_open_unix(config->socket, "socket", 0666, &supervisor->socket, &error) == -1)
        fail_start(supervisor, "%s", error.text);
    cells_init(&supervisor->cells, supervisor->loop, config, supervisor->generations,
               supervisor->listeners, supervisor->listener_count, &hooks);
    supervisor->cells.session_cache = supervisor->tickets.session_cache;
    tickets_watch(&supervisor->tickets, supervisor->loop, &supervisor->cells);
    fetch_init(&supervisor->fetch, supervisor->loop, config, &supervisor->cells, &fetch_hooks);
    greet_init(&supervisor->greet, supervisor->socket.fd, supervisor->loop, config,
               &supervisor->cells);
    admin_init(&supervisor->admin, supervisor->control.fd, supervisor->loop, config,
               &supervisor->cells, &supervisor->greet, supervisor->generations);
    supervisor->admin.fetch = &supervisor->fetch;
    supervisor->cells.kernel = supervisor->kernel;
    supervisor->admin.upgrade = begin_upgrade;
    supervisor->admin.upgrade_data = supervisor;
    cells_start(&supervisor->cells);
    fetch_start(&supervisor->fetch);
}

/* Before the sandbox and before any role: the answer goes to every handshaker. */
static void
probe_kernel(struct supervisor *supervisor)
{
    const struct config *config = supervisor->config;
    struct error error = {""};
    char text[256];
    bool wanted = false;

    for (size_t i = 0; i < config->context_count; i++)
        wanted |= (config->contexts[i].forms & SERVICE_FORM_KERNEL) != 0;
    if (!wanted)
        return;
    supervisor->kernel = kernel_probe(&error);
    if (supervisor->kernel == 0) {
        log_info("connections are handed back in the records form: %s", error.text);
        return;
    }
    kernel_tls_describe(supervisor->kernel, text, sizeof(text));
    log_info("kernel TLS: %s%s%s", text, error.text[0] != '\0' ? "; not all: " : "", error.text);
}

/* Our own path, before a package manager replaces what is there. */
static char *
read_link(const char *link)
{
    char path[PATH_MAX];
    ssize_t size = readlink(link, path, sizeof(path) - 1);

    return size > 0 ? strndup(path, (size_t)size) : NULL;
}

static void
init(struct supervisor *supervisor, struct config *config)
{
    struct error error = {""};

    supervisor->config = config;
    supervisor->parent = -1;
    supervisor->socket.fd = supervisor->control.fd = -1;
    supervisor->console = STDERR_FILENO;
    signal(SIGPIPE, SIG_IGN);
    handover_init(); /* closes what the caller forgot */
    supervisor->program = read_link("/proc/self/exe");
    if (supervisor->program == NULL)
        fail_start(supervisor, "/proc/self/exe: %s", strerror(errno));
    if (spawn_init(&error) == -1)
        fail_start(supervisor, "%s", error.text);
}

void
supervisor_main(struct config *config, bool foreground)
{
    static struct supervisor supervisor; /* one per process */

    init(&supervisor, config);
    supervisor.console = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 10);
    if (supervisor.console == -1)
        supervisor.console = STDERR_FILENO;
    if (!foreground)
        go_background(&supervisor);
    start_log(&supervisor);
    probe_kernel(&supervisor);
    enter_sandbox(&supervisor);
    draw_graph(&supervisor);
    loop_run(supervisor.loop);
}

int
supervisor_check(struct config *config)
{
    static struct supervisor supervisor;
    struct error wrong = {""};
    size_t identities = 0;
    int status = 0;

    init(&supervisor, config);
    log_init("check", LOG_LEVEL_WARNING, 0);
    if (try_sandbox(config, &wrong) == -1) {
        dprintf(STDERR_FILENO, "tlsagentd: %s\n", wrong.text);
        return 1;
    }
    if (fetch_check(config, &wrong) == -1) {
        dprintf(STDERR_FILENO, "tlsagentd: %s\n", wrong.text);
        return 1;
    }
    for (unsigned group = 0; group < config->cell_group_count; group++) {
        struct error error = {""};
        struct load_result result;

        if (load_group(config, group, FIRST_GENERATION, &result, &error) == -1) {
            dprintf(STDERR_FILENO, "tlsagentd: %s\n", error.text);
            status = 1;
            continue;
        }
        result.tickets_fd = load_tickets(config, group, -1, &error);
        if (result.tickets_fd == -1) {
            dprintf(STDERR_FILENO, "tlsagentd: %s\n", error.text);
            status = 1;
        }
        identities += result.done.identities;
        load_result_clear(&result);
    }
    if (status == 0)
        printf("configuration %s is good: %zu context%s, %zu identit%s\n", config->file,
               config->context_count, config->context_count == 1 ? "" : "s", identities,
               identities == 1 ? "y" : "ies");
    return status;
}
