/*
 * status.c: `tlsagent status`: the command line, the question, the table for people.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/tool/tool.h"
#include "protocol/kernel_tls.h"

#define ANSWER_MS 5000 /* the agent itself takes half a second at most */

static const char usage[] = "usage: tlsagent status [--json] [--socket PATH]\n"
                            "  --json          one JSON object instead of tables\n"
                            "  --socket PATH   the agent's control socket (default "
                            "$TLSAGENT_CONTROL, or " ADMIN_DEFAULT_SOCKET ")\n";

const char *
tool_role_name(unsigned role)
{
    static const char *const names[] = {
        [CONTROL_SUPERVISOR] = "supervisor", [CONTROL_LOADER] = "loader",
        [CONTROL_KEEPER] = "keeper",         [CONTROL_HANDSHAKER] = "handshaker",
        [CONTROL_FETCHER] = "fetcher",
    };

    return role < sizeof(names) / sizeof(names[0]) ? names[role] : "unknown";
}

const char *
tool_failure_name(unsigned failure)
{
    static const char *const names[CONTROL_FAILURES] = {
        [SERVICE_NOT_PERMITTED] = "not_permitted",
        [SERVICE_BAD_REQUEST] = "bad_request",
        [SERVICE_BUSY] = "busy",
        [SERVICE_DEADLINE] = "deadline",
        [SERVICE_PEER_CLOSED] = "peer_closed",
        [SERVICE_PEER_ALERT] = "peer_alert",
        [SERVICE_HANDSHAKE] = "handshake",
        [SERVICE_INTERNAL] = "internal",
    };

    return failure < CONTROL_FAILURES && names[failure] != NULL ? names[failure] : "unknown";
}

const char *
tool_not_resumed_name(unsigned why)
{
    static const char *const names[CONTROL_NOT_RESUMED] = {
        [CONTROL_TICKET_UNKNOWN] = "ticket_unknown",     [CONTROL_TICKET_BAD] = "ticket_bad",
        [CONTROL_TICKET_EXPIRED] = "ticket_expired",     [CONTROL_TICKET_FUTURE] = "ticket_future",
        [CONTROL_TICKET_TOO_MANY] = "ticket_too_many",   [CONTROL_TICKET_PEER] = "peer_expired",
        [CONTROL_SESSION_UNKNOWN] = "session_unknown",   [CONTROL_SESSION_BAD] = "session_bad",
        [CONTROL_SESSION_TOO_LONG] = "session_too_long", [CONTROL_SESSION_STORE] = "session_store",
    };

    return why < CONTROL_NOT_RESUMED ? names[why] : "unknown";
}

/* ---- the question ---- */

static int
connect_to(const char *path, struct error *error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd;

    if (strlen(path) >= sizeof(address.sun_path))
        return error_set(error, "%s: the path is longer than %zu bytes", path,
                         sizeof(address.sun_path) - 1);
    memcpy(address.sun_path, path, strlen(path));
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd == -1)
        return error_set(error, "socket: %s", strerror(errno));
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    switch (errno) {
    case ENOENT:
    case ECONNREFUSED:
        error_set(error,
                  "no agent is running behind %s: start tlsagentd, or name its control socket with "
                  "--socket",
                  path);
        break;
    case EACCES:
        error_set(error, "%s: permission denied: ask as root or as the user that runs the agent",
                  path);
        break;
    default:
        error_set(error, "%s: %s", path, strerror(errno));
    }
    close(fd);
    return -1;
}

/* Room for one more element in a list. Returns the list, perhaps elsewhere, or NULL with an error.
 */
static void *
grow(void *list, size_t count, size_t element_size, struct error *error)
{
    void *larger = reallocarray(list, count + 1, element_size);

    if (larger == NULL)
        error_set(error, "out of memory");
    return larger;
}

/* Take one message of the answer. Returns 1: more to come, 0: that was all, -1: error. */
static int
take_message(struct tool_report *report, const struct channel_message *message, struct error *error)
{
    struct admin_process *process;
    struct admin_context *context;
    struct admin_ban *ban;
    struct load_text text;
    bool understood = false;

    switch ((enum admin_type)message->type) {
    case ADMIN_AGENT:
        understood = admin_get_agent(&report->agent, message->body, message->size);
        break;
    case ADMIN_PROCESS:
        process = grow(report->processes, report->process_count, sizeof(*process), error);
        if (process == NULL)
            return -1;
        report->processes = process;
        process += report->process_count++;
        understood = admin_get_process(process, message->body, message->size);
        break;
    case ADMIN_CONTEXT:
        context = grow(report->contexts, report->context_count, sizeof(*context), error);
        if (context == NULL)
            return -1;
        report->contexts = context;
        context += report->context_count++;
        understood = admin_get_context(context, message->body, message->size);
        break;
    case ADMIN_BAN:
        ban = grow(report->bans, report->ban_count, sizeof(*ban), error);
        if (ban == NULL)
            return -1;
        report->bans = ban;
        ban += report->ban_count++;
        understood = admin_get_ban(ban, message->body, message->size);
        break;
    case ADMIN_END:
        return 0;
    case ADMIN_DENIED:
        if (!load_get_text(&text, message->body, message->size))
            break;
        error_printable(text.text, sizeof(text.text), text.text, strlen(text.text));
        return error_set(error, "the agent refuses: %s", text.text);
    default:
        break;
    }
    return understood ? 1
                      : error_set(error, "the agent's answer is malformed: is it another version?");
}

static int
read_answer(int channel, int wait_ms, struct tool_report *report, struct error *error)
{
    static uint8_t buffer[CHANNEL_BUFFER_SIZE];
    int more;

    do {
        struct channel_message message;

        switch (channel_receive_wait(channel, admin_command_rules, admin_command_rule_count, buffer,
                                     sizeof(buffer), &message, error, wait_ms)) {
        case CHANNEL_OK:
            break;
        case CHANNEL_AGAIN:
            return error_set(error, "the agent does not answer");
        case CHANNEL_CLOSED:
            return error_set(error, "the agent hung up: its log says why");
        case CHANNEL_REFUSED:
            error_clear(error);
            return error_set(error,
                             "that is not the control socket of an agent (or of another version): "
                             "it is the file control.sock beside the workers' socket");
        case CHANNEL_FAILED:
            return -1;
        }
        more = take_message(report, &message, error);
    } while (more == 1);
    return more;
}

int
tool_ask(const char *control_socket, enum admin_type request, int wait_ms,
         struct tool_report *report, struct error *error)
{
    int channel = connect_to(control_socket, error);
    int result = -1;

    memset(report, 0, sizeof(*report));
    if (channel == -1)
        return -1;
    /* If it hung up on us already, it has said why: the answer is read all the same. */
    if (channel_send(channel, request, NULL, 0, NULL, 0) == CHANNEL_FAILED)
        error_set(error, "%s: %s", control_socket, strerror(errno));
    else
        result = read_answer(channel, wait_ms, report, error);
    close(channel);
    if (result == -1)
        tool_clear_report(report);
    return result;
}

void
tool_clear_report(struct tool_report *report)
{
    free(report->processes);
    free(report->contexts);
    free(report->bans);
    memset(report, 0, sizeof(*report));
}

/* ---- the table ---- */

/* "3d 4h", "4h 12m", "12m 5s", "5s" */
static const char *
format_age(uint64_t seconds, char *text, size_t size)
{
    if (seconds >= 86400)
        snprintf(text, size, "%" PRIu64 "d %" PRIu64 "h", seconds / 86400, seconds / 3600 % 24);
    else if (seconds >= 3600)
        snprintf(text, size, "%" PRIu64 "h %" PRIu64 "m", seconds / 3600, seconds / 60 % 60);
    else if (seconds >= 60)
        snprintf(text, size, "%" PRIu64 "m %" PRIu64 "s", seconds / 60, seconds % 60);
    else
        snprintf(text, size, "%" PRIu64 "s", seconds);
    return text;
}

static void
print_handshaker(const struct control_pong *pong)
{
    const struct control_store_use *store = &pong->store;

    printf("   %" PRIu32 " workers, %" PRIu32 " in flight, %" PRIu32 " waiting, %" PRIu64
           " channels refused",
           pong->workers, pong->in_flight, pong->waiting, pong->channels_refused);
    if (store->lookups + store->skipped > 0)
        printf(", store: %" PRIu64 " asked, %" PRIu64 " found, %" PRIu64 " unanswered, %" PRIu64
               " not asked%s",
               store->lookups, store->found, store->failed + store->late, store->skipped,
               store->usable != 0 ? "" : " (held)");
    printf("\n");
}

static void
print_process(const struct admin_process *process)
{
    const struct control_pong *pong = &process->pong;
    char cell[16] = "-", pid[16] = "down", age[32] = "-";

    if (process->role != CONTROL_SUPERVISOR && process->role != CONTROL_FETCHER)
        snprintf(cell, sizeof(cell), "%u.%u", process->group, process->cell);
    if (process->pid != 0) {
        snprintf(pid, sizeof(pid), "%" PRIu32, process->pid);
        format_age(process->age, age, sizeof(age));
    }
    printf("%-11s %-6s %7s %9s %8" PRIu32, tool_role_name(process->role), cell, pid, age,
           process->restarts);
    if (process->role == CONTROL_KEEPER)
        printf("   %" PRIu64 " signatures, %" PRIu64 " ticket keys, %" PRIu64
               " tickets opened, %" PRIu64 " requests refused\n",
               pong->signatures, pong->ticket_keys, pong->tickets_opened, pong->refusals);
    else if (process->role == CONTROL_HANDSHAKER)
        print_handshaker(pong);
    else if (process->role == CONTROL_FETCHER)
        printf("   store %s, %" PRIu64 " lookups, %" PRIu64 " found, %" PRIu64 " stored, %" PRIu64
               " dropped\n",
               pong->store.usable != 0 ? "connected" : "away", pong->store.lookups,
               pong->store.found, pong->store.stored, pong->store.dropped);
    else
        printf("   %" PRIu32 " workers\n", pong->workers);
}

/* What holds each process, beside what always does: `tlsagent sandbox` tells that too. */
static void
print_sandbox(const struct tool_report *report)
{
    pid_t supervisor = tool_find_supervisor(report);

    printf("\n%-11s %-6s  %s\n", "SANDBOX", "CELL", "LAYERS IN FORCE");
    for (size_t i = 0; i < report->process_count; i++) {
        const struct admin_process *process = &report->processes[i];
        unsigned wanted, layers = tool_read_layers(process, supervisor, &wanted);
        char cell[16] = "-";

        if (wanted == 0)
            continue; /* it is being replaced just now */
        if (process->role != CONTROL_SUPERVISOR && process->role != CONTROL_FETCHER)
            snprintf(cell, sizeof(cell), "%u.%u", process->group, process->cell);
        printf("%-11s %-6s  ", tool_role_name(process->role), cell);
        tool_print_layers(layers, " ", "");
        if (layers != wanted) {
            printf("; not to be had here: ");
            tool_print_layers(wanted & ~layers, " ", "");
        }
        printf("\n");
    }
}

static uint64_t
failures(const struct control_context_counters *counters)
{
    uint64_t sum = 0;

    for (unsigned i = 1; i < CONTROL_FAILURES; i++)
        sum += counters->failed[i];
    return sum;
}

/* Started and not finished: the counters of one context are told together, so this is no guess. */
static uint64_t
in_flight(const struct control_context_counters *counters)
{
    uint64_t done = counters->full + counters->resumed + failures(counters);

    return counters->started > done ? counters->started - done : 0;
}

static void
print_context(const struct admin_context *context)
{
    const struct control_context_counters *counters = &context->counters;
    const char *separator = "   ";
    char name[SERVICE_NAME_MAX];

    error_printable(name, sizeof(name), context->name, strlen(context->name));
    printf("%-18s %5u %7u %10" PRIu64 " %10" PRIu64 " %10" PRIu64 " %8" PRIu64 " %9" PRIu64
           " %8" PRIu64,
           name, context->group, context->listeners, counters->started, counters->full,
           counters->resumed, failures(counters), in_flight(counters), counters->expired);
    for (unsigned i = 1; i < CONTROL_FAILURES; i++) {
        if (counters->failed[i] == 0)
            continue;
        printf("%s%s %" PRIu64, separator, tool_failure_name(i), counters->failed[i]);
        separator = ", ";
    }
    printf("\n");
}

void
tool_print_table(const struct tool_report *report)
{
    const struct admin_agent *agent = &report->agent;
    char build[SERVICE_BUILD_MAX], configuration[LOAD_PATH_MAX], age[32], kernel[256];

    error_printable(build, sizeof(build), agent->build, strlen(agent->build));
    error_printable(configuration, sizeof(configuration), agent->configuration,
                    strlen(agent->configuration));
    printf("tlsagentd %s, up %s, configuration %s\n", build,
           format_age(agent->uptime, age, sizeof(age)), configuration);
    kernel_tls_describe(agent->kernel, kernel, sizeof(kernel));
    printf("kernel TLS: %s\n", kernel);
    printf("generation %" PRIu32 ": %" PRIu32 " identities, %" PRIu32 " keys; %" PRIu32
           " workers denied\n\n",
           agent->generation, agent->identities, agent->keys, agent->workers_denied);
    printf("%-11s %-6s %7s %9s %8s\n", "ROLE", "CELL", "PID", "UPTIME", "RESTARTS");
    for (size_t i = 0; i < report->process_count; i++)
        print_process(&report->processes[i]);
    print_sandbox(report);
    printf("\n%-18s %5s %7s %10s %10s %10s %8s %9s %8s\n", "CONTEXT", "GROUP", "LISTENS", "STARTED",
           "FULL", "RESUMED", "FAILED", "IN FLIGHT", "EXPIRED");
    for (size_t i = 0; i < report->context_count; i++)
        print_context(&report->contexts[i]);
    for (size_t i = 0; i < report->ban_count; i++)
        printf("%suid %" PRIu32 " is kept out for another %" PRIu32
               " s: a descriptor that it passed froze a cell (pid %" PRIu32 ", time %" PRIu32 ")\n",
               i == 0 ? "\n" : "", report->bans[i].uid, report->bans[i].seconds,
               report->bans[i].pid, report->bans[i].times);
}

/* ---- the command line ---- */

const char *
tool_default_socket(void)
{
    const char *path = getenv("TLSAGENT_CONTROL");

    return path != NULL && path[0] != '\0' ? path : ADMIN_DEFAULT_SOCKET;
}

bool
tool_parse_options(int argc, char **argv, const char *usage_text, const char **path, bool *json,
                   int *status)
{
    enum { OPTION_SOCKET = 256, OPTION_HELP, OPTION_JSON };
    static const struct option options[] = {
        {"json", no_argument, NULL, OPTION_JSON}, /* first: left out where there is none */
        {"socket", required_argument, NULL, OPTION_SOCKET},
        {"help", no_argument, NULL, OPTION_HELP},
        {NULL, 0, NULL, 0},
    };
    int option;

    *path = tool_default_socket();
    while ((option = getopt_long(argc, argv, "h", json != NULL ? options : options + 1, NULL)) !=
           -1) {
        switch (option) {
        case OPTION_JSON:
            *json = true;
            break;
        case OPTION_SOCKET:
            *path = optarg;
            break;
        case 'h':
        case OPTION_HELP:
            fputs(usage_text, stdout);
            *status = TOOL_OK;
            return false;
        default:
            fputs(usage_text, stderr);
            *status = TOOL_USAGE;
            return false;
        }
    }
    if (optind == argc)
        return true;
    fprintf(stderr, "tlsagent %s: unexpected argument \"%s\"\n%s", argv[0], argv[optind],
            usage_text);
    *status = TOOL_USAGE;
    return false;
}

bool
tool_open_report(int argc, char **argv, const char *usage_text, struct tool_report *report,
                 bool *json, int *status)
{
    const char *path;
    struct error error = {""};

    if (!tool_parse_options(argc, argv, usage_text, &path, json, status))
        return false;
    if (tool_ask(path, ADMIN_STATUS, ANSWER_MS, report, &error) == 0)
        return true;
    fprintf(stderr, "tlsagent: %s\n", error.text);
    *status = TOOL_FAIL;
    return false;
}

int
tool_status(int argc, char **argv)
{
    struct tool_report report;
    bool json = false;
    int status;

    if (!tool_open_report(argc, argv, usage, &report, &json, &status))
        return status;
    if (json)
        tool_print_json(&report);
    else
        tool_print_table(&report);
    tool_clear_report(&report);
    if (fflush(stdout) == EOF) {
        fprintf(stderr, "tlsagent: cannot write the answer: %s\n", strerror(errno));
        return TOOL_FAIL;
    }
    return TOOL_OK;
}
