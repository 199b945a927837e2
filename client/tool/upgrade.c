/*
 * upgrade.c: `tlsagent upgrade`: the agent becomes the tlsagentd that is installed now.
 *
 * The agent itself tries the new program on its configuration first; only if that works does it
 * change. Ticket keys and the session cache are handed on.
 */
#include <stdio.h>

#include "client/tool/tool.h"

#define TRIAL_MS 100000 /* the agent gives the trial 90 seconds */

static const char usage[] = "usage: tlsagent upgrade [--socket PATH]\n"
                            "  --socket PATH   the agent's control socket (default "
                            "$TLSAGENT_CONTROL, or " ADMIN_DEFAULT_SOCKET ")\n";

int
tool_upgrade(int argc, char **argv)
{
    const char *path;
    struct tool_report report;
    struct error error = {""};
    int status;

    if (!tool_parse_options(argc, argv, usage, &path, NULL, &status))
        return status;
    if (tool_ask(path, ADMIN_UPGRADE, TRIAL_MS, &report, &error) == -1) {
        fprintf(stderr, "tlsagent: %s\n", error.text);
        return TOOL_FAIL;
    }
    tool_clear_report(&report);
    return TOOL_OK;
}
