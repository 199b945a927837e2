/*
 * config_contexts.c: the blocks context, identity and workers, and what they mean together. See
 * config_parts.h.
 */
#include "agent/config_parts.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "protocol/control.h"
#include "protocol/load.h"

#define DEADLINE_MAX     300 /* seconds */
#define TICKETS_MAX      8
#define BACKLOG_MAX      4096
#define LISTS_MAX        256  /* entries of users, groups, listen */
#define ALPN_TOTAL_MAX   1024 /* bytes of all names together: the context must fit LOAD_BLOB_MAX */
#define DEFAULT_DEADLINE 10
#define DEFAULT_TICKETS  2
#define DEFAULT_BACKLOG  128

/* ---- identities ---- */

/* An SNI name, in lower case. */
static int
add_name(struct config_identity *identity, const char *text)
{
    char **more = realloc(identity->names, (identity->name_count + 1) * sizeof(*more));
    char *name = more != NULL ? strdup(text) : NULL;

    if (more != NULL)
        identity->names = more;
    if (name == NULL)
        return -1;
    for (char *p = name; *p != '\0'; p++)
        *p = (char)tolower((unsigned char)*p);
    identity->names[identity->name_count++] = name;
    return 0;
}

static int
read_names(struct config_reader *reader, cfg_t *block, struct config_identity *identity)
{
    const struct config_value *value;

    for (size_t i = 0; (value = config_text_get_nth(block, "names", i)) != NULL; i++) {
        if (!config_value_is_host(value->text))
            return CONFIG_FAIL(
                reader, value, "names",
                "\"%s\" is not a host name; write for instance \"www.example.org\" or "
                "\"*.example.org\"",
                value->text);
        if (identity->name_count == LOAD_NAMES_MAX)
            return CONFIG_FAIL(reader, value, "names",
                               "more than %d names in one identity; make two", LOAD_NAMES_MAX);
        if (add_name(identity, value->text) == -1)
            return CONFIG_FAIL(reader, value, "names", "out of memory");
    }
    return 0;
}

/* explicit_default: set if the block says anything about being the default. */
static int
read_identity(struct config_reader *reader, cfg_t *block, bool *explicit_default)
{
    struct config_identity *identity = config_identity_add(reader->context);
    const char *label = config_text_title(block);
    const struct config_value *value;

    if (identity == NULL || (identity->label = strdup(label)) == NULL)
        return CONFIG_FAIL_BLOCK(reader, block, "identity", "out of memory");
    identity->line = config_text_line(block);
    if (label[0] == '\0' || strlen(label) >= SERVICE_HOST_MAX)
        return CONFIG_FAIL_BLOCK(reader, block, "identity", "the title must have 1 to %d bytes",
                                 SERVICE_HOST_MAX - 1);
    if (config_read_file_path(reader, block, "certificate", &identity->certificate) == -1 ||
        config_read_file_path(reader, block, "key", &identity->key) == -1 ||
        config_read_file_path(reader, block, "passphrase_file", &identity->passphrase_file) == -1)
        return -1;
    if (identity->certificate == NULL)
        return CONFIG_FAIL_BLOCK(reader, block, "identity",
                                 "\"%s\" has no certificate; add certificate = \"FILE\"", label);
    value = config_text_get(block, "default");
    if (value != NULL) {
        *explicit_default = true;
        if (config_value_boolean(value, "default", &identity->is_default, reader->error) == -1)
            return -1;
    }
    return read_names(reader, block, identity);
}

/* Identities with the label become the default. Returns how many. */
static size_t
mark_default(struct config_context *context, const char *label)
{
    size_t marked = 0;

    for (size_t i = 0; i < context->identity_count; i++) {
        if (strcmp(context->identities[i].label, label) == 0) {
            context->identities[i].is_default = true;
            marked++;
        }
    }
    return marked;
}

static int
read_identities(struct config_reader *reader, cfg_t *block)
{
    struct config_context *context = reader->context;
    const struct config_value *value;
    bool explicit_default = false;

    for (unsigned i = 0; i < cfg_size(block, "identity"); i++) {
        if (read_identity(reader, cfg_getnsec(block, "identity", i), &explicit_default) == -1)
            return -1;
    }
    for (size_t i = 0; (value = config_text_get_nth(block, "identities", i)) != NULL; i++) {
        char *path = NULL;
        int result = config_read_path(reader, value, "identities", &path);
        size_t length = path != NULL ? strlen(path) : 0;

        while (length > 1 && path[length - 1] == '/')
            path[--length] = '\0';
        if (result == 0)
            result = config_identities_find(context, value, "identities", path, reader->error);
        free(path);
        if (result == -1)
            return -1;
    }
    if (context->identity_count == 0)
        return CONFIG_FAIL_BLOCK(
            reader, block, "context",
            "\"%s\" has no identity; add identities = \"DIRECTORY\" or a block "
            "identity \"NAME\" { certificate = ... key = ... }",
            context->name);
    value = config_text_get(block, "default_identity");
    if (value != NULL && explicit_default)
        return CONFIG_FAIL(reader, value, "default_identity",
                           "an identity block says default = ... already; keep one of the two");
    if (value != NULL && mark_default(context, value->text) == 0)
        return CONFIG_FAIL(reader, value, "default_identity", "there is no identity \"%s\" here",
                           value->text);
    if (value == NULL && !explicit_default) {
        /* One certificate, or its RSA and ECDSA twins, answers every name. */
        const char *label = context->identities[0].label;

        for (size_t i = 1; i < context->identity_count; i++) {
            if (strcmp(context->identities[i].label, label) != 0)
                return 0;
        }
        mark_default(context, label);
    }
    return 0;
}

/* ---- contexts ---- */

static int
read_alpn(struct config_reader *reader, cfg_t *block)
{
    struct config_context *context = reader->context;
    const struct config_value *value;
    size_t total = 0;

    for (size_t i = 0; (value = config_text_get_nth(block, "alpn", i)) != NULL; i++) {
        size_t length = strlen(value->text);
        char **more;

        total += length + 1;
        if (length == 0 || length >= SERVICE_ALPN_MAX || total > ALPN_TOTAL_MAX)
            return CONFIG_FAIL(reader, value, "alpn",
                               "a protocol name has 1 to %d bytes, all together at most %d",
                               SERVICE_ALPN_MAX - 1, ALPN_TOTAL_MAX);
        for (size_t j = 0; j < context->alpn_count; j++) {
            if (strcmp(context->alpn[j], value->text) == 0)
                return CONFIG_FAIL(reader, value, "alpn", "\"%s\" is named twice", value->text);
        }
        more = realloc(context->alpn, (i + 1) * sizeof(*more));
        if (more == NULL)
            return CONFIG_FAIL(reader, value, "alpn", "out of memory");
        context->alpn = more;
        context->alpn[i] = strdup(value->text);
        if (context->alpn[i] == NULL)
            return CONFIG_FAIL(reader, value, "alpn", "out of memory");
        context->alpn_count++;
    }
    return 0;
}

static int
read_hand_back(struct config_reader *reader, cfg_t *block)
{
    static const char *const words[] = {"records", "kernel", "stream", NULL};
    static const uint8_t forms[] = {SERVICE_FORM_RECORDS, SERVICE_FORM_KERNEL, SERVICE_FORM_STREAM};
    struct config_context *context = reader->context;
    const struct config_value *value;
    int word;

    for (size_t i = 0; (value = config_text_get_nth(block, "hand_back", i)) != NULL; i++) {
        if (config_value_word(value, "hand_back", words, &word, reader->error) == -1)
            return -1;
        context->forms |= forms[word];
    }
    if (context->forms == 0)
        context->forms = SERVICE_FORM_RECORDS | SERVICE_FORM_KERNEL | SERVICE_FORM_STREAM;
    value = config_text_get(block, "prefer_rekey");
    if (value != NULL &&
        config_value_boolean(value, "prefer_rekey", &context->prefer_rekey, reader->error) == -1)
        return -1;
    return 0;
}

static int
read_tls(struct config_reader *reader, cfg_t *block)
{
    struct config_context *context = reader->context;
    struct error *error = reader->error;
    const struct config_value *value;

    context->min_version = TRAFFIC_TLS_1_2;
    context->max_version = TRAFFIC_TLS_1_3;
    context->prefer_server_ciphers = true;
    value = config_text_get(block, "versions");
    if (value != NULL && config_value_versions(value, "versions", &context->min_version,
                                               &context->max_version, error) == -1)
        return -1;
    value = config_text_get(block, "ciphers");
    if (value != NULL && config_value_ciphers(value, "ciphers", &context->ciphers, error) == -1)
        return -1;
    value = config_text_get(block, "ciphersuites");
    if (value != NULL &&
        config_value_ciphersuites(value, "ciphersuites", &context->ciphersuites, error) == -1)
        return -1;
    value = config_text_get(block, "groups");
    if (value != NULL && config_value_groups(value, "groups", &context->groups, error) == -1)
        return -1;
    value = config_text_get(block, "prefer_server_ciphers");
    if (value != NULL && config_value_boolean(value, "prefer_server_ciphers",
                                              &context->prefer_server_ciphers, error) == -1)
        return -1;
    context->tickets_tls12 = true;
    value = config_text_get(block, "tickets_tls12");
    if (value != NULL &&
        config_value_boolean(value, "tickets_tls12", &context->tickets_tls12, error) == -1)
        return -1;
    context->tickets = DEFAULT_TICKETS;
    return config_read_number(reader, block, "tickets", 0, TICKETS_MAX, &context->tickets);
}

static int
read_verify(struct config_reader *reader, cfg_t *block)
{
    static const char *const words[] = {"none", "optional", "required", NULL};
    const struct config_value *verify = config_text_get(block, "verify");
    const struct config_value *ca = config_text_get(block, "client_ca_file");
    struct config_context *context = reader->context;
    int index = CONFIG_VERIFY_NONE;

    if (verify != NULL && config_value_word(verify, "verify", words, &index, reader->error) == -1)
        return -1;
    context->verify = (enum config_verify)index;
    if (context->verify != CONFIG_VERIFY_NONE && ca == NULL)
        return CONFIG_FAIL(reader, verify, "verify",
                           "\"%s\" needs to know whom to trust; add client_ca_file = \"FILE\"",
                           verify->text);
    if (context->verify == CONFIG_VERIFY_NONE && ca != NULL)
        return CONFIG_FAIL(
            reader, ca, "client_ca_file",
            "is of no use without verify = \"required\" or \"optional\"; add one of them");
    return config_read_file_path(reader, block, "client_ca_file", &context->client_ca_file);
}

/* Another context's (or our own) socket with the same address, or NULL. */
static const struct config_context *
find_listen(const struct config *config, const struct config_listen *listen)
{
    for (size_t i = 0; i < config->context_count; i++) {
        const struct config_context *context = &config->contexts[i];

        for (size_t j = 0; j < context->listen_count; j++) {
            const struct config_listen *other = &context->listens[j];

            if (other->address_size == listen->address_size &&
                memcmp(&other->address, &listen->address, listen->address_size) == 0)
                return context;
        }
    }
    return NULL;
}

static int
read_listens(struct config_reader *reader, cfg_t *block)
{
    struct config_context *context = reader->context;
    const struct config_value *value;

    for (size_t i = 0; (value = config_text_get_nth(block, "listen", i)) != NULL; i++) {
        struct config_listen found[2];
        struct config_listen *more;
        int count = config_value_listen(value, "listen", found, reader->error);

        if (count == -1)
            return -1;
        more = realloc(context->listens, (context->listen_count + 2) * sizeof(*more));
        if (more != NULL)
            context->listens = more;
        for (int j = 0; j < count; j++) {
            const struct config_context *other = find_listen(reader->config, &found[j]);

            if (more != NULL && other == NULL && context->listen_count < LISTS_MAX) {
                context->listens[context->listen_count++] = found[j];
                continue;
            }
            if (other != NULL)
                (void)CONFIG_FAIL(
                    reader, value, "listen",
                    "\"%s\" is listened on by context \"%s\" (line %u) already; remove one",
                    value->text, other->name, other->line);
            for (int rest = j; rest < count; rest++)
                free(found[rest].text);
            return CONFIG_FAIL(reader, value, "listen", "too many addresses, or out of memory");
        }
    }
    context->backlog = DEFAULT_BACKLOG;
    return config_read_number(reader, block, "backlog", 1, BACKLOG_MAX, &context->backlog);
}

static int
read_workers(struct config_reader *reader, cfg_t *block)
{
    struct config_context *context = reader->context;
    cfg_t *workers = cfg_getsec(block, "workers");
    const struct config_value *value;

    context->users = calloc(LISTS_MAX, sizeof(*context->users));
    context->groups_allowed = calloc(LISTS_MAX, sizeof(*context->groups_allowed));
    if (context->users == NULL || context->groups_allowed == NULL)
        return CONFIG_FAIL_BLOCK(reader, block, "workers", "out of memory");
    for (size_t i = 0; (value = config_text_get_nth(workers, "users", i)) != NULL; i++) {
        if (i == LISTS_MAX)
            return CONFIG_FAIL(reader, value, "users", "more than %d; use a group", LISTS_MAX);
        if (config_value_user(value, "users", &context->users[i], reader->error) == -1)
            return -1;
        context->user_count++;
    }
    for (size_t i = 0; (value = config_text_get_nth(workers, "groups", i)) != NULL; i++) {
        if (i == LISTS_MAX)
            return CONFIG_FAIL(reader, value, "groups", "more than %d; use fewer", LISTS_MAX);
        if (config_value_group(value, "groups", &context->groups_allowed[i], reader->error) == -1)
            return -1;
        context->group_allowed_count++;
    }
    if (context->user_count + context->group_allowed_count > 0)
        return 0;
    if (reader->as_root)
        return CONFIG_FAIL_BLOCK(
            reader, block, "workers",
            "context \"%s\" does not say who may use it; add workers { users = "
            "{\"NAME\"} } or workers { groups = {\"NAME\"} }",
            context->name);
    context->users[context->user_count++] = getuid();
    return 0;
}

static int
read_context_name(struct config_reader *reader, cfg_t *block)
{
    struct config_context *context = reader->context;
    const char *name = config_text_title(block);
    size_t length = strlen(name);

    context->line = config_text_line(block);
    context->name = strdup(name);
    if (context->name == NULL)
        return CONFIG_FAIL_BLOCK(reader, block, "context", "out of memory");
    if (length == 0 || length >= SERVICE_NAME_MAX)
        return CONFIG_FAIL_BLOCK(reader, block, "context", "the name must have 1 to %d bytes",
                                 SERVICE_NAME_MAX - 1);
    for (const char *p = name; *p != '\0'; p++) {
        if (!isalnum((unsigned char)*p) && strchr("._-", *p) == NULL)
            return CONFIG_FAIL_BLOCK(
                reader, block, "context",
                "the name \"%s\" may have only letters, digits, \".\", \"_\" and "
                "\"-\"",
                name);
    }
    for (const struct config_context *other = reader->config->contexts; other != context; other++) {
        if (strcmp(other->name, name) == 0)
            return CONFIG_FAIL_BLOCK(reader, block, "context",
                                     "\"%s\" is in line %u already; rename or remove one", name,
                                     other->line);
    }
    return 0;
}

static int
read_context(struct config_reader *reader, cfg_t *block)
{
    static const char *const cells[] = {"shared", "dedicated", NULL};
    struct config *config = reader->config;
    struct config_context *context = &config->contexts[config->context_count++];
    const struct config_value *value = config_text_get(block, "cells");
    unsigned deadline = DEFAULT_DEADLINE;
    int dedicated = 0;

    reader->context = context;
    if (read_context_name(reader, block) == -1 || read_identities(reader, block) == -1 ||
        read_alpn(reader, block) == -1 || read_hand_back(reader, block) == -1 ||
        read_tls(reader, block) == -1 || read_verify(reader, block) == -1 ||
        read_listens(reader, block) == -1 || read_workers(reader, block) == -1 ||
        config_read_number(reader, block, "deadline", 1, DEADLINE_MAX, &deadline) == -1)
        return -1;
    context->deadline_ms = deadline * 1000;
    if (value != NULL && config_value_word(value, "cells", cells, &dedicated, reader->error) == -1)
        return -1;
    if (dedicated == 1)
        context->cell_group = config->cell_group_count++;
    return 0;
}

int
config_read_contexts(struct config_reader *reader, cfg_t *cfg)
{
    struct config *config = reader->config;
    unsigned count = cfg_size(cfg, "context");

    if (count == 0)
        return error_set(reader->error,
                         "%s: has no context; add context \"NAME\" { identities = \"DIRECTORY\" "
                         "workers { users = {\"NAME\"} } }",
                         config->file);
    if (count > CONTROL_CONTEXTS_MAX)
        return CONFIG_FAIL_BLOCK(reader, cfg_getnsec(cfg, "context", CONTROL_CONTEXTS_MAX),
                                 "context", "more than %d contexts; remove some",
                                 CONTROL_CONTEXTS_MAX);
    config->contexts = calloc(count, sizeof(*config->contexts));
    if (config->contexts == NULL)
        return CONFIG_FAIL_MEMORY(reader);
    config->cell_group_count = 1; /* the shared one */
    for (unsigned i = 0; i < count; i++) {
        if (read_context(reader, cfg_getnsec(cfg, "context", i)) == -1)
            return -1;
    }
    return 0;
}
