/*
 * admin.h: the command `tlsagent` <-> supervisor, over the control socket: one request, its
 * answers, the end.
 *
 * Trust: only root and the user that runs the agent may ask, and a request has no body. The command
 * believes the agent, but makes printable what came from its configuration and its errors.
 */
#ifndef PROTOCOL_ADMIN_H
#define PROTOCOL_ADMIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/channel.h"
#include "protocol/control.h"
#include "protocol/load.h"
#include "protocol/service.h"

#define ADMIN_DEFAULT_SOCKET "/run/tlsagent/control.sock"

enum admin_type {
    ADMIN_STATUS = 1, /* request */
    ADMIN_UPGRADE,    /* request: become the program that is installed now; END, then it happens */
    ADMIN_AGENT = 32, /* answer: one */
    ADMIN_PROCESS,    /* answer: one per process */
    ADMIN_CONTEXT,    /* answer: one per context */
    ADMIN_END,        /* answer: complete */
    ADMIN_DENIED,     /* answer: struct load_text */
    ADMIN_BAN,        /* answer: one per user that is kept out */
};

struct admin_agent {
    char build[SERVICE_BUILD_MAX];
    uint32_t generation;
    uint64_t uptime; /* seconds */
    uint32_t identities;
    uint32_t keys;
    uint32_t workers_denied;  /* connections refused because the worker is in no context */
    uint32_t layers_required; /* of the sandbox, by the configuration (enum sandbox_layer) */
    uint16_t kernel;          /* what kernel TLS can do: bits of protocol/kernel_tls.h */
    char configuration[LOAD_PATH_MAX];
};

struct admin_process {
    uint8_t role; /* enum control_role */
    uint16_t group;
    uint16_t cell;
    uint32_t pid;
    uint32_t restarts; /* of this role in this cell */
    uint64_t age;      /* seconds since it started */
    uint32_t layers;   /* of its sandbox, as it said in READY */
    struct control_pong pong;
};

struct admin_context {
    char name[SERVICE_NAME_MAX];
    uint16_t group;
    uint16_t listeners;
    struct control_context_counters counters; /* summed over cells, also over dead ones */
};

struct admin_ban {
    uint32_t uid;
    uint32_t pid;   /* of the worker that was to blame the last time */
    uint32_t times; /* that it has frozen a cell */
    uint32_t seconds;
};

extern const struct channel_rule admin_supervisor_rules[];
extern const size_t admin_supervisor_rule_count;
extern const struct channel_rule admin_command_rules[];
extern const size_t admin_command_rule_count;

/* Encoders write a body into buffer and return its size, 0 if it does not fit. Decoders return
 * true if the body was well-formed to its last byte. */
size_t admin_put_agent(const struct admin_agent *m, void *buffer, size_t size);
bool admin_get_agent(struct admin_agent *m, const void *body, size_t size);
size_t admin_put_process(const struct admin_process *m, void *buffer, size_t size);
bool admin_get_process(struct admin_process *m, const void *body, size_t size);
size_t admin_put_context(const struct admin_context *m, void *buffer, size_t size);
bool admin_get_context(struct admin_context *m, const void *body, size_t size);
size_t admin_put_ban(const struct admin_ban *m, void *buffer, size_t size);
bool admin_get_ban(struct admin_ban *m, const void *body, size_t size);

#endif
