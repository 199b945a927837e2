/* serve_options.c: the command line of `tlsagent serve`. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "client/tool/serve.h"
#include "client/tool/tool.h"

#define MAX_DEFAULT    1000
#define MAX_LIMIT      60000
#define RELAYS_DEFAULT 8 /* at most: one for each CPU */

static const char usage[] =
    "usage: tlsagent serve --context NAME (--listen [ADDR]:PORT... | --agent-listener)\n"
    "                      [--max N] [--user NAME] [--relays N] [--socket PATH] [--verbose]\n"
    "                      (-- PROGRAM [ARG...] | --to HOST:PORT | --to /PATH)\n"
    "  --context NAME     the agent's context\n"
    "  --listen ADDR:PORT accept here; ADDR may be empty, [IPv6] or a name\n"
    "  --agent-listener   the agent accepts (`listen` of the context)\n"
    "  -- PROGRAM ...     start this for each connection: plaintext on stdin and stdout\n"
    "  --fork             ... which is a process for each connection: need not be said\n"
    "  --ucspi            plaintext on fds 6 and 7 instead\n"
    "  --starttls         UCSPI-TLS: begin in the clear, TLS when the program asks\n"
    "  --to WHERE         pass the plaintext on to this server\n"
    "  --proxy-protocol   ... and say who the client is (PROXY protocol version 2)\n"
    "  --max N            at most N connections at once (default 1000)\n"
    "  --user NAME        become this user after opening the ports\n"
    "  --relays N         relay processes (default one for each CPU)\n"
    "  --socket PATH      the agent's socket (default $TLSAGENT_SOCK, or the usual one)\n"
    "  --verbose          say also what clients do wrong, and how programs end\n";

static bool
read_number(const char *name, const char *text, unsigned least, unsigned most, unsigned *number)
{
    char *end;
    unsigned long value;

    errno = 0;
    value = strtoul(text, &end, 10);
    if (text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && value >= least &&
        value <= most) {
        *number = (unsigned)value;
        return true;
    }
    serve_say("--%s %s: must be a number from %u to %u", name, text, least, most);
    return false;
}

static const char *
find_mistake(const struct serve_options *options)
{
    if (options->context == NULL)
        return "--context is missing: a context of the agent's configuration";
    if ((options->listen_count > 0) == options->agent_listener)
        return "say where to accept: --listen, or --agent-listener";
    if ((options->program != NULL) == (options->to != NULL))
        return "say what to serve: -- PROGRAM, or --to";
    if (options->program == NULL && (options->ucspi || options->starttls || options->fork))
        return "--fork, --ucspi and --starttls are for a PROGRAM";
    if (options->ucspi && options->starttls)
        return "--ucspi and --starttls exclude each other";
    if (options->starttls && options->agent_listener)
        return "--starttls needs --listen: what the agent accepts begins with TLS";
    if (options->proxy_protocol && options->to == NULL)
        return "--proxy-protocol is for --to";
    return NULL;
}

int
serve_read_options(struct serve_options *options, int argc, char **argv)
{
    static const struct option names[] = {
        {"context", required_argument, NULL, 'c'},
        {"listen", required_argument, NULL, 'l'},
        {"agent-listener", no_argument, NULL, 'a'},
        {"fork", no_argument, NULL, 'f'},
        {"ucspi", no_argument, NULL, 'i'},
        {"starttls", no_argument, NULL, 't'},
        {"to", required_argument, NULL, 'o'},
        {"proxy-protocol", no_argument, NULL, 'p'},
        {"max", required_argument, NULL, 'm'},
        {"user", required_argument, NULL, 'u'},
        {"relays", required_argument, NULL, 'r'},
        {"socket", required_argument, NULL, 's'},
        {"verbose", no_argument, NULL, 'v'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    const char *mistake;
    int option;

    *options = (struct serve_options){.max = MAX_DEFAULT};
    options->relays = cpus < 1 ? 1 : cpus > RELAYS_DEFAULT ? RELAYS_DEFAULT : (unsigned)cpus;
    while ((option = getopt_long(argc, argv, "+", names, NULL)) != -1) {
        bool good = true;

        switch (option) {
        case 'c':
            options->context = optarg;
            break;
        case 'l':
            good = options->listen_count < SERVE_LISTEN_MAX;
            if (good)
                options->listen[options->listen_count++] = optarg;
            else
                serve_say("--listen: at most %d times", SERVE_LISTEN_MAX);
            break;
        case 'a':
            options->agent_listener = true;
            break;
        case 'f':
            options->fork = true;
            break;
        case 'i':
            options->ucspi = true;
            break;
        case 't':
            options->starttls = true;
            break;
        case 'o':
            options->to = optarg;
            break;
        case 'p':
            options->proxy_protocol = true;
            break;
        case 'm':
            good = read_number("max", optarg, 1, MAX_LIMIT, &options->max);
            break;
        case 'u':
            options->user = optarg;
            break;
        case 'r':
            good = read_number("relays", optarg, 1, SERVE_RELAYS_MAX, &options->relays);
            break;
        case 's':
            options->socket = optarg;
            break;
        case 'v':
            options->verbose = true;
            break;
        case 'h':
            fputs(usage, stdout);
            exit(TOOL_OK);
        default:
            good = false;
            fputs(usage, stderr);
            break;
        }
        if (!good)
            return TOOL_USAGE;
    }
    if (optind < argc)
        options->program = argv + optind;
    mistake = find_mistake(options);
    if (mistake == NULL)
        return TOOL_OK;
    serve_say("%s (tlsagent serve --help)", mistake);
    return TOOL_USAGE;
}
