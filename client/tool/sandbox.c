/*
 * sandbox.c: `tlsagent sandbox`: per process, what is in force as read back from the kernel.
 *
 * The agent tells which processes there are and what they say about themselves; the rest is read
 * from /proc here, and compared with the table (sandbox/policy.c).
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/tool/tool.h"
#include "sandbox/readback.h"
#include "sandbox/sandbox.h"

static const char usage[] = "usage: tlsagent sandbox [--json] [--socket PATH]\n"
                            "  --json          one JSON object instead of a table\n"
                            "  --socket PATH   the agent's control socket (default "
                            "$TLSAGENT_CONTROL, or " ADMIN_DEFAULT_SOCKET ")\n"
                            "exit status: 0 all as it should be, 1 something differs from the "
                            "policy\n";

/* What is wrong with one process. */
struct differences {
    bool json;
    bool any;
};

struct view {
    const struct tool_report *report;
    pid_t supervisor;
    bool root; /* the agent was started as root */
    bool json;
    unsigned differences;
};

static bool
role_of(const struct admin_process *process, enum sandbox_role *role)
{
    switch ((enum control_role)process->role) {
    case CONTROL_SUPERVISOR:
        *role = SANDBOX_SUPERVISOR;
        return true;
    case CONTROL_LOADER:
        *role = SANDBOX_LOADER;
        return true;
    case CONTROL_KEEPER:
        *role = SANDBOX_KEEPER;
        return true;
    case CONTROL_FETCHER:
        *role = SANDBOX_FETCHER;
        return true;
    case CONTROL_HANDSHAKER:
        *role = SANDBOX_HANDSHAKER;
        return true;
    case CONTROL_ROLES:
        break;
    }
    return false;
}

static void
tell_difference(const char *text, void *data)
{
    struct differences *differences = data;

    if (differences->json) /* our own words and numbers: nothing to escape */
        printf("%s\"%s\"", differences->any ? ", " : "", text);
    else
        printf("            DIFFERS: %s\n", text);
    differences->any = true;
}

static const char *
answer_text(enum readback_answer answer)
{
    static const char *const texts[] = {"no", "yes", "unknown"};

    return texts[answer];
}

void
tool_print_layers(unsigned layers, const char *separator, const char *quote)
{
    bool any = false;

    for (size_t i = 0; sandbox_layer_name(i) != NULL; i++) {
        if ((layers & 1U << i) == 0)
            continue;
        printf("%s%s%s%s", any ? separator : "", quote, sandbox_layer_name(i), quote);
        any = true;
    }
    if (!any && quote[0] == '\0')
        printf("-");
}

static void
print_limit(const char *key, uint64_t value)
{
    if (value == UINT64_MAX)
        printf(", \"%s\": null", key);
    else
        printf(", \"%s\": %" PRIu64, key, value);
}

static void
print_json(const struct admin_process *process, const struct readback *facts, unsigned layers,
           unsigned wanted)
{
    printf("    {\"role\": \"%s\", \"group\": %u, \"cell\": %u, \"pid\": %" PRIu32
           ", \"uid\": %" PRIu32 ", \"gid\": %" PRIu32 ", \"groups\": \"%s\"",
           tool_role_name(process->role), process->group, process->cell, process->pid,
           facts->uids[1], facts->gids[1], facts->groups);
    printf(", \"capabilities\": \"%" PRIx64 "\", \"bounding\": \"%" PRIx64 "\"",
           facts->permitted | facts->effective | facts->inheritable | facts->ambient,
           facts->bounding);
    printf(", \"no_new_privs\": %" PRIu64 ", \"seccomp\": %" PRIu64, facts->no_new_privs,
           facts->seccomp);
    print_limit("filters", facts->filters);
    print_limit("core", facts->core);
    print_limit("files", facts->files);
    print_limit("processes", facts->processes);
    print_limit("memory", facts->memory);
    print_limit("locked", facts->locked);
    printf(", \"dumpable\": \"%s\", \"own_namespaces\": \"%s\", \"uid_map\": \"%s\", "
           "\"empty_root\": \"%s\", \"store_bypass\": \"%s\", \"indirect_branch\": \"%s\"",
           answer_text(facts->dumpable), answer_text(facts->namespaces), facts->uid_map,
           answer_text(facts->empty_root), facts->store_bypass, facts->indirect_branch);
    printf(", \"layers\": [");
    tool_print_layers(layers & wanted, ", ", "\"");
    printf("], \"missing\": [");
    tool_print_layers(wanted & ~layers, ", ", "\"");
    printf("], \"differences\": [");
}

static void
print_row(const struct admin_process *process, const struct readback *facts, unsigned layers,
          unsigned wanted)
{
    char cell[16] = "-", files[24] = "-", memory[24] = "-";

    if (process->role != CONTROL_SUPERVISOR)
        snprintf(cell, sizeof(cell), "%u.%u", process->group, process->cell);
    if (facts->files != UINT64_MAX)
        snprintf(files, sizeof(files), "%" PRIu64, facts->files);
    if (facts->memory != UINT64_MAX)
        snprintf(memory, sizeof(memory), "%" PRIu64 "G", facts->memory >> 30);
    printf("%-11s %-5s %7" PRIu32 " %6" PRIu32 " %12" PRIx64 " %4s %7s %8s %7s %7s   ",
           tool_role_name(process->role), cell, process->pid, facts->uids[1], facts->permitted,
           facts->no_new_privs == 1 ? "yes" : "no", facts->seccomp == 2 ? "filter" : "no",
           answer_text(facts->dumpable), files, memory);
    tool_print_layers(layers & wanted, " ", "");
    printf("%s\n", facts->user_namespace ? " (in a user namespace)" : "");
    if ((wanted & ~layers) != 0) {
        printf("            not to be had here: ");
        tool_print_layers(wanted & ~layers, " ", "");
        printf("\n");
    }
}

/* Returns false if the process is gone: it is being replaced just now. */
static bool
show_process(struct view *view, const struct admin_process *process, bool first)
{
    struct differences differences = {view->json, false};
    enum sandbox_role role = SANDBOX_SUPERVISOR;
    struct error error = {""};
    struct readback facts;
    unsigned layers, wanted;

    if (process->pid == 0 || !role_of(process, &role) ||
        readback_read((pid_t)process->pid, view->supervisor, &facts, &error) == -1)
        return false;
    layers = readback_layers(&facts, process->layers);
    wanted = sandbox_wanted(role);
    if (view->json) {
        printf("%s", first ? "" : ",\n");
        print_json(process, &facts, layers, wanted);
    } else {
        print_row(process, &facts, layers, wanted);
    }
    view->differences +=
        readback_compare(role, &facts, process->layers, view->report->agent.layers_required,
                         view->root, tell_difference, &differences);
    if (view->json)
        printf("]}");
    return true;
}

unsigned
tool_read_layers(const struct admin_process *process, pid_t supervisor, unsigned *wanted)
{
    enum sandbox_role role = SANDBOX_SUPERVISOR;
    struct error error = {""};
    struct readback facts;

    *wanted = 0;
    if (process->pid == 0 || !role_of(process, &role) ||
        readback_read((pid_t)process->pid, supervisor, &facts, &error) == -1)
        return 0;
    *wanted = sandbox_wanted(role);
    return readback_layers(&facts, process->layers) & *wanted;
}

pid_t
tool_find_supervisor(const struct tool_report *report)
{
    for (size_t i = 0; i < report->process_count; i++) {
        if (report->processes[i].role == CONTROL_SUPERVISOR)
            return (pid_t)report->processes[i].pid;
    }
    return 0;
}

/* The supervisor's own facts: is it root? */
static int
find_supervisor(struct view *view, struct error *error)
{
    struct readback facts;

    view->supervisor = tool_find_supervisor(view->report);
    if (view->supervisor == 0)
        return error_set(error, "the agent does not tell its supervisor's pid");
    if (readback_read(view->supervisor, view->supervisor, &facts, error) == -1)
        return -1;
    view->root = facts.uids[1] == 0;
    return 0;
}

static int
show(const struct tool_report *report, bool json)
{
    struct view view = {.report = report, .json = json};
    struct error error = {""};
    bool first = true;

    if (find_supervisor(&view, &error) == -1) {
        fprintf(stderr, "tlsagent: %s\n", error.text);
        return TOOL_FAIL;
    }
    if (json)
        printf("{\n  \"started_as_root\": %s,\n  \"processes\": [\n", view.root ? "true" : "false");
    else
        printf("%-11s %-5s %7s %6s %12s %4s %7s %8s %7s %7s   %s\n", "ROLE", "CELL", "PID", "UID",
               "CAPABILITIES", "NNP", "SECCOMP", "DUMPABLE", "FILES", "MEMORY", "LAYERS");
    for (size_t i = 0; i < report->process_count; i++) {
        if (show_process(&view, &report->processes[i], first))
            first = false;
    }
    if (json)
        printf("\n  ],\n  \"differences\": %u\n}\n", view.differences);
    else if (!view.root)
        printf("\nStarted by a plain user: its processes share its uid. A program of the same user "
               "can read the\nkey files and kill the agent.\n");
    return view.differences == 0 ? TOOL_OK : TOOL_FAIL;
}

int
tool_sandbox(int argc, char **argv)
{
    struct tool_report report;
    bool json = false;
    int status;

    if (!tool_open_report(argc, argv, usage, &report, &json, &status))
        return status;
    status = show(&report, json);
    tool_clear_report(&report);
    return fflush(stdout) == EOF ? TOOL_FAIL : status;
}
