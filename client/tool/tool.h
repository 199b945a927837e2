/*
 * tool.h: the command `tlsagent`: one function per thing that it does.
 */
#ifndef CLIENT_TOOL_TOOL_H
#define CLIENT_TOOL_TOOL_H

#include <stdbool.h>
#include <sys/types.h>

#include "protocol/admin.h"
#include "protocol/error.h"

#define TOOL_OK    0
#define TOOL_FAIL  1 /* it did not work: one line on stderr */
#define TOOL_USAGE 2 /* the command line is wrong */

/* tlsagent status ...: argv[0] is "status". */
int tool_status(int argc, char **argv);

/* tlsagent upgrade ... */
int tool_upgrade(int argc, char **argv);
/* tlsagent sandbox ... */
int tool_sandbox(int argc, char **argv);

/* tlsagent serve ... */
int tool_serve(int argc, char **argv);

/* What the agent answered to `status`. */
struct tool_report {
    struct admin_agent agent;
    struct admin_process *processes; /* owned */
    size_t process_count;
    struct admin_context *contexts; /* owned */
    size_t context_count;
    struct admin_ban *bans; /* owned */
    size_t ban_count;
};

/* The path of the control socket if none is given. */
const char *tool_default_socket(void);

/* The options of commands that talk to the control socket: --socket, --help, and --json unless json
 * is NULL. argv[0] is the command's name. Returns false if there is nothing more to do: *status is
 * the exit status, and what there was to say has been said. */
bool tool_parse_options(int argc, char **argv, const char *usage_text, const char **path,
                        bool *json, int *status);

/* Send one request without a body and take the answer; report stays empty but for the answer to
 * ADMIN_STATUS. wait_ms: for each message. Returns 0, or -1 with an error. */
int tool_ask(const char *control_socket, enum admin_type request, int wait_ms,
             struct tool_report *report, struct error *error);

/* What a subcommand that shows the agent's report begins with: its options, then the report, to be
 * cleared. False: *status is how the command ends, and all is said. */
bool tool_open_report(int argc, char **argv, const char *usage_text, struct tool_report *report,
                      bool *json, int *status);
void tool_clear_report(struct tool_report *report);

/* Print it to stdout: for people, and as one JSON object. */
void tool_print_table(const struct tool_report *report);
void tool_print_json(const struct tool_report *report);

/* The layers (enum sandbox_layer, or-ed) that are in force for a process, as `tlsagent sandbox`
 * reads them back, and those that its row in the policy wants. Both 0 if the process is gone. */
unsigned tool_read_layers(const struct admin_process *process, pid_t supervisor, unsigned *wanted);
pid_t tool_find_supervisor(const struct tool_report *report); /* 0: not told */

/* Print the names of the layers in the set, or "-" if there are none and no quote is wanted. */
void tool_print_layers(unsigned layers, const char *separator, const char *quote);

/* The names of enum control_role and enum service_failure: "keeper", "not_permitted". */
const char *tool_role_name(unsigned role);
const char *tool_failure_name(unsigned failure);
const char *tool_not_resumed_name(unsigned why); /* enum control_not_resumed: "ticket_bad" */

#endif
