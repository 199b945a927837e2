/*
 * main.c: the daemon's command line, and the way into each role.
 *
 * Whatever happens before spawn_parse() happens in every role: nothing does, because the keeper and
 * the loader must be the first to touch libcrypto.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <getopt.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "agent/config.h"
#include "agent/log.h"
#include "agent/roles.h"
#include "agent/spawn.h"
#include "sandbox/sandbox.h"

static const char usage[] =
    "usage: tlsagentd [-t] [-c FILE] [--foreground] [--version]\n"
    "  -c FILE        read this configuration (default " TLSAGENT_SYSCONFDIR
    "/tlsagent/tlsagentd.conf)\n"
    "  -t             check the configuration, its keys and certificates, and exit\n"
    "  --foreground   stay in the foreground\n"
    "  --version      print the version and exit\n";

struct options {
    const char *file;
    bool check;
    bool foreground;
};

static void __attribute__((noreturn)) run_role(enum control_role role, const struct role_args *args)
{
#ifndef SANITIZED /* the leak checker traces its own process */
    /* The sandbox sees to it for good. But a core_pattern with a program gets a core whatever the
     * limit says, and the keeper has its keys before it is in the sandbox. */
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
#endif
    tzset(); /* even gmtime_r() opens the time zone's file the first time: the sandbox would kill */
    sandbox_require(args->require);
    (void)prctl(PR_SET_NAME, args->name, 0, 0, 0); /* for ps and top */
    switch (role) {
    case CONTROL_LOADER:
        loader_main(args);
    case CONTROL_KEEPER:
        keeper_main(args);
    case CONTROL_HANDSHAKER:
        handshaker_main(args);
    case CONTROL_FETCHER:
        fetcher_main(args);
    default:
        log_bug("no entry point for role %d", (int)role);
    }
}

static void
parse_options(int argc, char **argv, struct options *options)
{
    enum { OPTION_FOREGROUND = 256, OPTION_VERSION, OPTION_HELP };
    static const struct option long_options[] = {
        {"foreground", no_argument, NULL, OPTION_FOREGROUND},
        {"version", no_argument, NULL, OPTION_VERSION},
        {"help", no_argument, NULL, OPTION_HELP},
        {NULL, 0, NULL, 0},
    };
    int option;

    while ((option = getopt_long(argc, argv, "tc:", long_options, NULL)) != -1) {
        switch (option) {
        case 't':
            options->check = true;
            break;
        case 'c':
            options->file = optarg;
            break;
        case OPTION_FOREGROUND:
            options->foreground = true;
            break;
        case OPTION_VERSION:
            printf("tlsagentd %s (build %s)\n", TLSAGENT_VERSION, role_build_id);
            exit(0);
        case OPTION_HELP:
            fputs(usage, stdout);
            exit(0);
        default:
            fputs(usage, stderr);
            exit(2);
        }
    }
    if (optind < argc) {
        fprintf(stderr, "tlsagentd: unexpected argument \"%s\"\n%s", argv[optind], usage);
        exit(2);
    }
}

int
main(int argc, char **argv)
{
    struct options options = {.file = TLSAGENT_SYSCONFDIR "/tlsagent/tlsagentd.conf"};
    enum control_role role;
    struct role_args args;
    struct config *config;
    struct error error = {""};
    int status;

    if (spawn_parse(argc, argv, &role, &args))
        run_role(role, &args);
    parse_options(argc, argv, &options);
    config = config_read(options.file, geteuid() == 0, &error);
    if (config == NULL) {
        fprintf(stderr, "tlsagentd: %s\n", error.text);
        return 1;
    }
    if (!options.check)
        supervisor_main(config, options.foreground);
    status = supervisor_check(config);
    config_free(config);
    return status;
}
