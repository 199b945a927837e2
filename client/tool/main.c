/*
 * main.c: the command `tlsagent`: finds the function for its first word.
 */
#include <stdio.h>
#include <string.h>

#include "client/tool/tool.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} commands[] = {
    {"status", tool_status, "processes, contexts and counters of the running agent"},
    {"upgrade", tool_upgrade, "have the agent become the tlsagentd that is installed now"},
    {"sandbox", tool_sandbox, "what is in force for each process, read back from the kernel"},
    {"serve", tool_serve, "TLS for a program per connection, or in front of a plaintext server"},
};

#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void
print_usage(FILE *out)
{
    fprintf(out, "usage: tlsagent COMMAND [OPTION...]\n"
                 "       tlsagent --version\n"
                 "commands:\n");
    for (size_t i = 0; i < COMMANDS; i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fprintf(out, "tlsagent COMMAND --help says more\n");
}

int
main(int argc, char **argv)
{
    if (argc < 2) {
        print_usage(stderr);
        return TOOL_USAGE;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("tlsagent %s\n", TLSAGENT_VERSION);
        return TOOL_OK;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_usage(stdout);
        return TOOL_OK;
    }
    for (size_t i = 0; i < COMMANDS; i++) {
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    }
    fprintf(stderr, "tlsagent: no such command: \"%s\"\n", argv[1]);
    print_usage(stderr);
    return TOOL_USAGE;
}
