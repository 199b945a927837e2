/*
 * json.c: `tlsagent status --json`: everything that the agent told, as one JSON object.
 *
 * Keys are for programs: none is renamed or removed within a protocol version. 64-bit counters
 * are numbers; they stay exact in readers that use doubles up to 2^53.
 */
#include <inttypes.h>
#include <stdio.h>

#include "client/tool/tool.h"
#include "protocol/kernel_tls.h"

/* A string with RFC 8259 section 7's escapes; bytes outside ASCII become \u00XX, so that the
 * output is valid whatever the bytes were. */
static void
print_string(const char *text)
{
    putchar('"');
    for (; *text != '\0'; text++) {
        unsigned char byte = (unsigned char)*text;

        if (byte == '"' || byte == '\\')
            printf("\\%c", byte);
        else if (byte < 0x20 || byte >= 0x7f)
            printf("\\u%04x", byte);
        else
            putchar(byte);
    }
    putchar('"');
}

static void
print_text_member(const char *key, const char *text)
{
    printf("\"%s\": ", key);
    print_string(text);
}

static void
print_store_use(const struct control_store_use *use)
{
    printf(", \"store\": {\"usable\": %s, \"changes\": %" PRIu32 ", \"lookups\": %" PRIu64
           ", \"found\": %" PRIu64 ", \"failed\": %" PRIu64 ", \"late\": %" PRIu64
           ", \"skipped\": %" PRIu64 ", \"stored\": %" PRIu64 ", \"dropped\": %" PRIu64 "}",
           use->usable != 0 ? "true" : "false", use->changes, use->lookups, use->found, use->failed,
           use->late, use->skipped, use->stored, use->dropped);
}

static void
print_process(const struct admin_process *process, pid_t supervisor)
{
    const struct control_pong *pong = &process->pong;
    unsigned wanted, layers = tool_read_layers(process, supervisor, &wanted);

    printf("    {");
    print_text_member("role", tool_role_name(process->role));
    printf(", \"group\": %u, \"cell\": ", process->group);
    if (process->role == CONTROL_SUPERVISOR || process->role == CONTROL_FETCHER)
        printf("null");
    else
        printf("%u", process->cell);
    printf(", \"pid\": %" PRIu32 ", \"uptime\": %" PRIu64 ", \"restarts\": %" PRIu32, process->pid,
           process->age, process->restarts);
    printf(", \"workers\": %" PRIu32 ", \"in_flight\": %" PRIu32 ", \"waiting\": %" PRIu32
           ", \"channels_refused\": %" PRIu64,
           pong->workers, pong->in_flight, pong->waiting, pong->channels_refused);
    printf(", \"signatures\": %" PRIu64 ", \"ticket_keys\": %" PRIu64
           ", \"tickets_opened\": %" PRIu64 ", \"requests_refused\": %" PRIu64,
           pong->signatures, pong->ticket_keys, pong->tickets_opened, pong->refusals);
    if (process->role == CONTROL_HANDSHAKER || process->role == CONTROL_FETCHER)
        print_store_use(&pong->store);
    printf(", \"layers\": [");
    tool_print_layers(layers, ", ", "\"");
    printf("], \"layers_missing\": [");
    tool_print_layers(wanted & ~layers, ", ", "\"");
    printf("]}");
}

static void
print_context(const struct admin_context *context)
{
    const struct control_context_counters *counters = &context->counters;

    printf("    {");
    print_text_member("name", context->name);
    printf(", \"group\": %u, \"listeners\": %u, \"started\": %" PRIu64 ", \"full\": %" PRIu64
           ", \"resumed\": %" PRIu64 ", \"expired\": %" PRIu64 ", \"failed\": {",
           context->group, context->listeners, counters->started, counters->full, counters->resumed,
           counters->expired);
    for (unsigned i = 1; i < CONTROL_FAILURES; i++)
        printf("%s\"%s\": %" PRIu64, i > 1 ? ", " : "", tool_failure_name(i), counters->failed[i]);
    printf("}, \"not_resumed\": {");
    for (unsigned i = 0; i < CONTROL_NOT_RESUMED; i++)
        printf("%s\"%s\": %" PRIu64, i > 0 ? ", " : "", tool_not_resumed_name(i),
               counters->not_resumed[i]);
    printf("}}");
}

void
tool_print_json(const struct tool_report *report)
{
    const struct admin_agent *agent = &report->agent;

    printf("{\n  ");
    print_text_member("build", agent->build);
    printf(",\n  ");
    print_text_member("configuration", agent->configuration);
    printf(",\n  \"uptime\": %" PRIu64 ",\n  \"generation\": %" PRIu32
           ",\n  \"identities\": %" PRIu32 ",\n  \"keys\": %" PRIu32
           ",\n  \"workers_denied\": %" PRIu32,
           agent->uptime, agent->generation, agent->identities, agent->keys, agent->workers_denied);
    printf(",\n  \"kernel_tls\": [");
    for (unsigned bit = 1, count = 0; bit <= KERNEL_TLS_REKEY; bit <<= 1) {
        if ((agent->kernel & bit) != 0)
            printf("%s\"%s\"", count++ > 0 ? ", " : "", kernel_tls_bit_name((uint16_t)bit));
    }
    printf("]");
    printf(",\n  \"processes\": [\n");
    for (size_t i = 0; i < report->process_count; i++) {
        print_process(&report->processes[i], tool_find_supervisor(report));
        printf("%s\n", i + 1 < report->process_count ? "," : "");
    }
    printf("  ],\n  \"contexts\": [\n");
    for (size_t i = 0; i < report->context_count; i++) {
        print_context(&report->contexts[i]);
        printf("%s\n", i + 1 < report->context_count ? "," : "");
    }
    printf("  ],\n  \"bans\": [");
    for (size_t i = 0; i < report->ban_count; i++)
        printf("%s{\"uid\": %" PRIu32 ", \"pid\": %" PRIu32 ", \"times\": %" PRIu32
               ", \"seconds\": %" PRIu32 "}",
               i > 0 ? ", " : "", report->bans[i].uid, report->bans[i].pid, report->bans[i].times,
               report->bans[i].seconds);
    printf("]\n}\n");
}
