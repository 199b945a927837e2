/*
 * load.c: see load.h; the messages are in protocol/load.h.
 *
 * The loader parses what other people wrote (certificates, PKCS#12 files), so it is believed
 * nothing: its answers are fixed shapes, and it has a deadline.
 */
#include "agent/load.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent/exposure.h"
#include "agent/generation.h"
#include "agent/log.h"
#include "agent/roles.h"
#include "agent/spawn.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* Linux 6.3 */
#endif
#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447 /* Linux 5.14 */
#endif

/* One run of the loader. */
struct run {
    int channel;
    pid_t pid;
    uint64_t deadline; /* ms of the monotonic clock */
    uint8_t buffer[CHANNEL_BUFFER_SIZE];
};

static uint64_t
now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int
time_left(const struct run *run)
{
    uint64_t now = now_ms();

    return now < run->deadline ? (int)(run->deadline - now) : 0;
}

/* Wait for the loader's end, kill it at the deadline. Returns its wait status, -1 if it had to be
 * killed. */
static int
reap(struct run *run)
{
    int status;

    for (;;) {
        pid_t pid = waitpid(run->pid, &status, WNOHANG);

        if (pid == run->pid)
            return status;
        if (pid == -1 && errno != EINTR)
            return -1;
        if (time_left(run) == 0)
            break;
        poll(NULL, 0, 2);
    }
    kill(run->pid, SIGKILL);
    waitpid(run->pid, &status, 0);
    return -1;
}

/* The loader closed its channel without a word: say how it ended. */
static int
explain_death(struct run *run, struct error *error)
{
    int status = reap(run);

    run->pid = -1;
    if (status != -1 && WIFSIGNALED(status))
        return error_set(error, "the loader was killed by signal %d (%s): the log may say more",
                         WTERMSIG(status), strsignal(WTERMSIG(status)));
    return error_set(error, "the loader ended without an answer: the log may say more");
}

/* The next message that is not a warning; warnings are logged. */
static int
receive(struct run *run, struct channel_message *message, struct error *error)
{
    for (;;) {
        enum channel_result result =
            channel_receive_wait(run->channel, load_supervisor_rules, load_supervisor_rule_count,
                                 run->buffer, sizeof(run->buffer), message, error, time_left(run));
        struct load_text text;

        if (result == CHANNEL_CLOSED)
            return explain_death(run, error);
        if (result == CHANNEL_AGAIN)
            return error_set(error, "the loader did not finish within %d seconds", LOAD_DEADLINE_S);
        if (result != CHANNEL_OK)
            return error_set(error, "the loader's channel failed");
        if (message->type != LOAD_WARNING && message->type != LOAD_FAILED)
            return 0;
        if (!load_get_text(&text, message->body, message->size))
            return error_set(error, "the loader sent a malformed text");
        error_printable(text.text, sizeof(text.text), text.text, strlen(text.text));
        if (message->type == LOAD_FAILED)
            return error_set(error, "%s", text.text);
        log_warning("%s", text.text);
    }
}

static int
expect(struct run *run, uint16_t type, struct channel_message *message, struct error *error)
{
    if (receive(run, message, error) == -1)
        return -1;
    if (message->type != type)
        return error_set(error, "the loader answered with message type %u instead of %u",
                         message->type, type);
    return 0;
}

/* Send one message; for all but the last one wait until it was digested. */
static int
tell(struct run *run, uint16_t type, const void *body, size_t size, const int *fds, size_t fd_count,
     struct error *error)
{
    struct channel_message message;
    enum channel_result result =
        channel_send_wait(run->channel, type, body, size, fds, fd_count, time_left(run));

    if (result == CHANNEL_FAILED || result == CHANNEL_AGAIN)
        return error_set(error, "cannot send to the loader: %s", strerror(errno));
    /* Closed: it may have said why before it ended. */
    return type == LOAD_END ? 0 : expect(run, LOAD_NEXT, &message, error);
}

/* Open a file for the loader. O_NONBLOCK: a FIFO must not hang us. */
static int
open_file(const char *path, const char *what, const char *owner, struct error *error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat facts;

    if (fd == -1) {
        switch (errno) {
        case ENOENT:
            return error_set(error, "%s: %s %s: no such file: correct the path or put it there",
                             owner, what, path);
        case EACCES:
            return error_set(error,
                             "%s: %s %s: permission denied: let uid %u read it (file and "
                             "directories above)",
                             owner, what, path, (unsigned)geteuid());
        default:
            return error_set(error, "%s: %s %s: cannot open: %s", owner, what, path,
                             strerror(errno));
        }
    }
    if (fstat(fd, &facts) == -1 || !S_ISREG(facts.st_mode)) {
        close(fd);
        return error_set(error, "%s: %s %s: not a regular file", owner, what, path);
    }
    return fd;
}

static int
send_file(struct run *run, enum load_file kind, const char *path, const char *what,
          const char *owner, struct error *error)
{
    struct load_file_message message = {.kind = (uint8_t)kind, .path = path};
    uint8_t body[3 + LOAD_PATH_MAX];
    size_t size;
    int fd, result;

    if (strlen(path) >= LOAD_PATH_MAX)
        return error_set(error, "%s: %s: the path is longer than %d bytes", owner, what,
                         LOAD_PATH_MAX - 1);
    size = load_put_file_message(&message, body, sizeof(body));
    fd = open_file(path, what, owner, error);
    if (fd == -1)
        return -1;
    result = tell(run, LOAD_FILE, body, size, &fd, 1, error);
    close(fd);
    return result;
}

static int
send_identity(struct run *run, const struct config_context *context,
              const struct config_identity *identity, struct error *error)
{
    static struct load_identity message; /* 8 KiB */
    static uint8_t body[8 + SERVICE_HOST_MAX * (1 + LOAD_NAMES_MAX)];
    char owner[SERVICE_NAME_MAX + SERVICE_HOST_MAX + 32];
    size_t size;

    snprintf(owner, sizeof(owner), "context \"%s\": identity \"%s\"", context->name,
             identity->label);
    if (identity->name_count > LOAD_NAMES_MAX)
        return error_set(error, "%s: more than %d names: the certificate's own need not be listed",
                         owner, LOAD_NAMES_MAX);
    if (send_file(run, LOAD_CERTIFICATE, identity->certificate, "certificate", owner, error) == -1)
        return -1;
    if (identity->key != NULL && send_file(run, LOAD_KEY, identity->key, "key", owner, error) == -1)
        return -1;
    if (identity->passphrase_file != NULL &&
        send_file(run, LOAD_PASSPHRASE, identity->passphrase_file, "passphrase_file", owner,
                  error) == -1)
        return -1;
    memset(&message, 0, sizeof(message));
    snprintf(message.label, sizeof(message.label), "%s", identity->label);
    message.is_default = identity->is_default;
    message.name_count = (uint16_t)identity->name_count;
    for (size_t i = 0; i < identity->name_count; i++)
        snprintf(message.names[i], sizeof(message.names[i]), "%s", identity->names[i]);
    size = load_put_identity(&message, body, sizeof(body));
    if (size == 0)
        return error_set(error, "%s: its names do not fit into a message", owner);
    return tell(run, LOAD_IDENTITY, body, size, NULL, 0, error);
}

static int
send_context(struct run *run, const struct config *config, size_t index, struct error *error)
{
    const struct config_context *context = &config->contexts[index];
    static uint8_t blob[LOAD_BLOB_MAX];
    static uint8_t body[2 + LOAD_BLOB_MAX];
    struct load_context message = {.blob = blob};
    char owner[SERVICE_NAME_MAX + 16];
    size_t size;

    snprintf(owner, sizeof(owner), "context \"%s\"", context->name);
    message.blob_size =
        generation_put_context(config, context, (uint16_t)index, blob, sizeof(blob));
    size = load_put_context(&message, body, sizeof(body));
    if (message.blob_size == 0 || size == 0)
        return error_set(error, "%s: too many users, groups or protocol names", owner);
    if (tell(run, LOAD_CONTEXT, body, size, NULL, 0, error) == -1)
        return -1;
    if (context->client_ca_file != NULL &&
        send_file(run, LOAD_CLIENT_CA, context->client_ca_file, "client_ca", owner, error) == -1)
        return -1;
    for (size_t i = 0; i < context->identity_count; i++) {
        const struct config_identity *identity = &context->identities[i];

        if (send_identity(run, context, identity, error) == -1)
            return -1;
        exposure_tell(config, identity->key != NULL ? identity->key : identity->certificate, "key");
        if (identity->passphrase_file != NULL)
            exposure_tell(config, identity->passphrase_file, "passphrase_file");
    }
    return 0;
}

/* A memory file for secrets: what is in it is never on disk. */
static int
make_secret_file(const char *name, struct error *error)
{
    int fd = (int)syscall(SYS_memfd_secret, O_CLOEXEC);

    if (fd == -1) {
        log_info("memfd_secret: %s: keys are kept in ordinary memory, which root can read",
                 strerror(errno));
        fd = memfd_create(name, MFD_CLOEXEC | MFD_NOEXEC_SEAL);
        if (fd == -1 && errno == EINVAL)
            fd = memfd_create(name, MFD_CLOEXEC);
    }
    return fd != -1 ? fd : error_set(error, "memfd_create: %s", strerror(errno));
}

/* The empty parts. */
static int
make_parts(struct load_result *result, struct error *error)
{
    static const char public_name[] = "tlsagent-public";

    result->public_fd =
        memfd_create(public_name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (result->public_fd == -1 && errno == EINVAL)
        result->public_fd = memfd_create(public_name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (result->public_fd == -1)
        return error_set(error, "memfd_create: %s", strerror(errno));
    result->secret_fd = make_secret_file("tlsagent-secret", error);
    return result->secret_fd != -1 ? 0 : -1;
}

/* What a run of the loader is for: a generation, or a page of ticket keys. */
struct task {
    const struct config *config;
    unsigned group;
    int (*converse)(struct run *run, const struct task *task, struct error *error);
    struct load_result *result; /* a generation */
    int page, old;              /* ticket keys */
};

/* Its first message. */
static int
greet_loader(struct run *run, struct error *error)
{
    struct channel_message message;
    struct control_hello hello;

    if (expect(run, LOAD_HELLO, &message, error) == -1)
        return -1;
    if (!control_get_hello(&hello, message.body, message.size) || hello.role != CONTROL_LOADER ||
        strcmp(hello.build, role_build_id) != 0)
        return error_set(error, "the loader is of another build than the supervisor");
    return 0;
}

/* The whole conversation about a generation. */
static int
load_generation(struct run *run, const struct task *task, struct error *error)
{
    const struct config *config = task->config;
    struct load_result *result = task->result;
    struct load_begin begin = {.generation = result->generation};
    const int parts[2] = {result->public_fd, result->secret_fd};
    struct channel_message message;
    uint8_t body[16];

    if (greet_loader(run, error) == -1 ||
        tell(run, LOAD_BEGIN, body, load_put_begin(&begin, body, sizeof(body)), parts, 2, error) ==
            -1)
        return -1;
    for (size_t i = 0; i < config->context_count; i++) {
        if (config->contexts[i].cell_group == task->group &&
            send_context(run, config, i, error) == -1)
            return -1;
    }
    if (tell(run, LOAD_END, NULL, 0, NULL, 0, error) == -1 ||
        expect(run, LOAD_DONE, &message, error) == -1)
        return -1;
    if (!load_get_done(&result->done, message.body, message.size))
        return error_set(error, "the loader's last message is malformed");
    return 0;
}

/* The whole conversation about ticket keys. */
static int
make_tickets(struct run *run, const struct task *task, struct error *error)
{
    const struct config *config = task->config;
    struct load_tickets request = {.period = config->ticket_period, .life = config->ticket_life};
    int fds[3] = {task->page, task->old, task->old};
    uint8_t body[16 + SERVICE_NAME_MAX];
    struct channel_message message;
    enum channel_result sent;

    if (greet_loader(run, error) == -1)
        return -1;
    snprintf(request.group, sizeof(request.group), "%s", load_group_name(config, task->group));
    if (config->fleet_secret_file != NULL) {
        request.fleet = 1;
        fds[2] = open_file(config->fleet_secret_file, "secret_file", "fleet", error);
        if (fds[2] == -1)
            return -1;
        if (task->group == 0) /* once */
            exposure_tell(config, config->fleet_secret_file, "secret_file");
    }
    sent =
        channel_send_wait(run->channel, LOAD_TICKETS, body,
                          load_put_tickets(&request, body, sizeof(body)), fds, 3, time_left(run));
    if (request.fleet != 0)
        close(fds[2]);
    if (sent == CHANNEL_FAILED || sent == CHANNEL_AGAIN)
        return error_set(error, "cannot send to the loader: %s", strerror(errno));
    return expect(run, LOAD_DONE, &message, error);
}

/* Start the loader, talk to it, see it end well. */
static int
run_loader(const struct task *task, struct error *error)
{
    const struct config *config = task->config;
    static struct run run;
    struct role_args args = {.log_level = config->log_level,
                             .log_syslog = config->log == CONFIG_LOG_SYSLOG,
                             .uid = config->uid,
                             .gid = config->gid,
                             .require = config->sandbox_require,
                             .cpu = -1};
    int pair[2];
    int status, outcome;

    snprintf(args.name, sizeof(args.name), "loader %u", task->group);
    run.deadline = now_ms() + LOAD_DEADLINE_S * 1000;
    if (channel_pair(pair) == -1)
        return error_set(error, "socketpair: %s", strerror(errno));
    run.channel = pair[0];
    run.pid = spawn_role(CONTROL_LOADER, &args, pair[1], -1, error);
    close(pair[1]);
    if (run.pid == -1) {
        close(pair[0]);
        return -1;
    }
    outcome = task->converse(&run, task, error);
    if (outcome == -1 && run.pid != -1)
        kill(run.pid, SIGKILL);
    close(run.channel);
    if (run.pid == -1)
        return -1;
    status = reap(&run);
    if (outcome == 0 && status != 0)
        return error_set(error, "the loader did not end well (wait status %d)", status);
    return outcome;
}

int
load_group(const struct config *config, unsigned group, uint32_t generation,
           struct load_result *result, struct error *error)
{
    struct task task = {
        .config = config, .group = group, .converse = load_generation, .result = result};

    *result = (struct load_result){
        .generation = generation, .public_fd = -1, .secret_fd = -1, .tickets_fd = -1};
    if (make_parts(result, error) == 0 && run_loader(&task, error) == 0 &&
        generation_seal(result->public_fd, error) == 0)
        return 0;
    load_result_clear(result);
    return -1;
}

const char *
load_group_name(const struct config *config, unsigned group)
{
    for (size_t i = 0; i < config->context_count && group != 0; i++) {
        if (config->contexts[i].cell_group == group)
            return config->contexts[i].name;
    }
    return ""; /* the shared cells; no context has this name */
}

int
load_tickets(const struct config *config, unsigned group, int old_fd, struct error *error)
{
    struct task task = {.config = config, .group = group, .converse = make_tickets, .old = old_fd};
    int nothing = -1, result = -1;

    task.page = make_secret_file("tlsagent-tickets", error);
    if (old_fd == -1)
        task.old = nothing = memfd_create("tlsagent-nothing", MFD_CLOEXEC);
    if (task.page != -1 && task.old != -1)
        result = run_loader(&task, error);
    if (nothing != -1)
        close(nothing);
    if (result == 0)
        return task.page;
    if (task.page != -1)
        close(task.page);
    return error_set(error, "no ticket keys: out of memory files");
}

void
load_result_clear(struct load_result *result)
{
    if (result->public_fd != -1)
        close(result->public_fd);
    if (result->secret_fd != -1)
        close(result->secret_fd);
    if (result->tickets_fd != -1)
        close(result->tickets_fd);
    result->public_fd = result->secret_fd = result->tickets_fd = -1;
}
