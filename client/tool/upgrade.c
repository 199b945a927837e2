/*
 * upgrade.c: `tlsagent upgrade`: the agent becomes the tlsagentd that is installed now.
 *
 * The agent itself tries the new program on its configuration first; only if that works does it
 * change. Ticket keys and the session cache are handed on.
 */
#include <getopt.h>
#include <stdio.h>

#include "client/tool/tool.h"

#define TRIAL_MS 100000 /* the agent gives the trial 90 seconds */

static const char usage[] = "usage: tlsagent upgrade [--socket PATH]\n"
                            "  --socket PATH   the agent's control socket (default "
                            "$TLSAGENT_CONTROL, or " ADMIN_DEFAULT_SOCKET ")\n";

int
tool_upgrade(int argc, char **argv)
{
    enum { OPTION_SOCKET = 256, OPTION_HELP };
    static const struct option options[] = {
        {"socket", required_argument, NULL, OPTION_SOCKET},
        {"help", no_argument, NULL, OPTION_HELP},
        {NULL, 0, NULL, 0},
    };
    const char *path = tool_default_socket();
    struct tool_report report;
    struct error error = {""};
    int option;

    while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (option) {
        case OPTION_SOCKET:
            path = optarg;
            break;
        case 'h':
        case OPTION_HELP:
            fputs(usage, stdout);
            return TOOL_OK;
        default:
            fputs(usage, stderr);
            return TOOL_USAGE;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "tlsagent upgrade: unexpected argument \"%s\"\n%s", argv[optind], usage);
        return TOOL_USAGE;
    }
    if (tool_ask(path, ADMIN_UPGRADE, TRIAL_MS, &report, &error) == -1) {
        fprintf(stderr, "tlsagent: %s\n", error.text);
        return TOOL_FAIL;
    }
    tool_clear_report(&report);
    return TOOL_OK;
}
