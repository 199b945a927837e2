/*
 * config.c: the options of tlsagentd.conf and what they mean together. See config.h; what each
 * option says to its reader is in tlsagentd.conf.5.
 *
 * Every value is converted at the line where it stands, and only then are the checks made that
 * concern several of them. The first mistake is the one that is told.
 */
#include "agent/config_parts.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent/log.h"
#include "agent/store.h"
#include "agent/ticket_state.h"
#include "protocol/control.h"
#include "protocol/traffic.h"
#include "sandbox/sandbox.h"

#define CELLS_MAX             64
#define HANDSHAKES_MAX        1000000
#define CHANNELS_MAX          65535
#define DEADLINE_MAX          300 /* seconds */
#define TICKETS_MAX           8
#define BACKLOG_MAX           4096
#define LISTS_MAX             256 /* entries of users, groups, listen */
#define ALPN_TOTAL_MAX        1024 /* bytes of all names together: the context must fit LOAD_BLOB_MAX */
#define DEFAULT_USER          "tlsagent"
#define DEFAULT_CHANNELS      256
#define DEFAULT_HANDSHAKES    10000
#define DEFAULT_DEADLINE      10
#define DEFAULT_TICKETS       2
#define DEFAULT_BACKLOG       128
#define DEFAULT_TICKET_PERIOD 10800 /* a new key every three hours */
#define DEFAULT_TICKET_LIFE   43200 /* 12 hours */
#define DEFAULT_SESSION_CACHE 20480
#define TICKET_PERIOD_MAX     86400
#define TICKET_LIFE_MAX       604800 /* RFC 8446 section 4.6.1: seven days */
#define FLEET_PERIOD_MIN      60
#define SESSION_CACHE_MAX     (1U << 20)
#define STORE_WAIT_MIN        5 /* milliseconds */
#define DEFAULT_STORE_WAIT    50

/* ---- the options ---- */

static cfg_opt_t identity_options[] = {
    CONFIG_OPENED(),      CONFIG_ONE("certificate"),
    CONFIG_ONE("key"),    CONFIG_ONE("passphrase_file"),
    CONFIG_LIST("names"), CONFIG_ONE("default"),
    CONFIG_INCLUDE(),     CFG_END(),
};

static cfg_opt_t worker_options[] = {
    CONFIG_OPENED(), CONFIG_LIST("users"), CONFIG_LIST("groups"), CONFIG_INCLUDE(), CFG_END(),
};

static cfg_opt_t context_options[] = {
    CONFIG_OPENED(),
    CONFIG_LIST("identities"),
    CONFIG_BLOCK("identity", identity_options),
    CONFIG_ONE("default_identity"),
    CONFIG_LIST("alpn"),
    CONFIG_ONE("versions"),
    CONFIG_ONE("ciphers"),
    CONFIG_ONE("ciphersuites"),
    CONFIG_ONE("groups"),
    CONFIG_ONE("prefer_server_ciphers"),
    CONFIG_LIST("hand_back"),
    CONFIG_ONE("prefer_rekey"),
    CONFIG_ONE("deadline"),
    CONFIG_ONE("tickets"),
    CONFIG_ONE("tickets_tls12"),
    CONFIG_ONE("verify"),
    CONFIG_ONE("client_ca_file"),
    CONFIG_LIST("listen"),
    CONFIG_ONE("backlog"),
    CONFIG_ONE("cells"),
    CFG_SEC("workers", worker_options, CFGF_NONE),
    CONFIG_INCLUDE(),
    CFG_END(),
};

static cfg_opt_t sandbox_options[] = {
    CONFIG_OPENED(),
    CONFIG_LIST("require"),
    CONFIG_INCLUDE(),
    CFG_END(),
};

static cfg_opt_t fleet_options[] = {
    CONFIG_OPENED(),
    CONFIG_ONE("secret_file"),
    CONFIG_ONE("store"),
    CONFIG_ONE("store_name"),
    CONFIG_ONE("store_ca_file"),
    CONFIG_ONE("store_password_file"),
    CONFIG_ONE("store_wait"),
    CONFIG_INCLUDE(),
    CFG_END(),
};

static cfg_opt_t options[] = {
    CONFIG_ONE("user"),
    CONFIG_ONE("cells"),
    CONFIG_ONE("socket"),
    CONFIG_ONE("control_socket"),
    CONFIG_ONE("log"),
    CONFIG_ONE("log_level"),
    CONFIG_ONE("max_handshakes"),
    CONFIG_ONE("max_channels"),
    CFG_SEC("sandbox", sandbox_options, CFGF_NONE),
    CONFIG_ONE("ticket_period"),
    CONFIG_ONE("ticket_life"),
    CONFIG_ONE("session_cache_size"),
    CFG_SEC("fleet", fleet_options, CFGF_NONE),
    CONFIG_BLOCK("context", context_options),
    CONFIG_INCLUDE(),
    CFG_END(),
};

/* What is passed down while a configuration is being built. */
struct reader {
    struct config *config;
    struct config_context *context; /* the current one */
    bool as_root;
    struct error *error;
};

#define FAIL(reader, value, key, ...) config_fail_value((reader)->error, value, key, __VA_ARGS__)
#define FAIL_BLOCK(reader, block, key, ...)                                                        \
    (config_fail((reader)->error, (block)->filename, config_text_line(block), key, __VA_ARGS__), -1)
#define FAIL_MEMORY(reader)                                                                        \
    (error_set((reader)->error, "%s: out of memory", (reader)->config->file), -1)

/* ---- small conversions ---- */

static int
copy_text(struct reader *reader, const struct config_value *value, const char *key, char **text)
{
    free(*text);
    *text = strdup(value->text);
    return *text != NULL ? 0 : FAIL(reader, value, key, "out of memory");
}

/* An optional number: the default stays if it is not given. */
static int
read_number(struct reader *reader, cfg_t *block, const char *key, unsigned minimum,
            unsigned maximum, unsigned *number)
{
    const struct config_value *value = config_text_get(block, key);

    return value == NULL ? 0
                         : config_value_number(value, key, minimum, maximum, number, reader->error);
}

/* The path of a value, made absolute; at most LOAD_PATH_MAX with its NUL. */
static int
read_path(struct reader *reader, const struct config_value *value, const char *key, char **path)
{
    if (value->text[0] == '\0')
        return FAIL(reader, value, key, "is empty; name a file, or leave it out");
    *path = config_value_path(reader->config->file, value->text);
    if (*path == NULL)
        return FAIL(reader, value, key, "out of memory");
    if (strlen(*path) >= LOAD_PATH_MAX)
        return FAIL(reader, value, key, "the path is longer than %d bytes", LOAD_PATH_MAX - 1);
    return 0;
}

/* The same for a file that must be readable now: the supervisor opens it later, but here its line
 * is known. */
static int
read_file_path(struct reader *reader, cfg_t *block, const char *key, char **path)
{
    const struct config_value *value = config_text_get(block, key);
    struct stat facts;

    if (value == NULL)
        return 0;
    if (read_path(reader, value, key, path) == -1)
        return -1;
    if (stat(*path, &facts) == -1)
        return FAIL(reader, value, key, "%s: %s; correct the path", *path, strerror(errno));
    if (!S_ISREG(facts.st_mode))
        return FAIL(reader, value, key, "%s is not a file; correct the path", *path);
    if (faccessat(AT_FDCWD, *path, R_OK, AT_EACCESS) == -1)
        return FAIL(reader, value, key, "%s: %s; run as a user who may read it", *path,
                    strerror(errno));
    return 0;
}

/* ---- top level ---- */

static unsigned
count_cpus(void)
{
    cpu_set_t allowed;
    int count = sched_getaffinity(0, sizeof(allowed), &allowed) == 0 ? CPU_COUNT(&allowed) : 1;

    return count > CELLS_MAX ? CELLS_MAX : (unsigned)count;
}

static int
read_user(struct reader *reader, cfg_t *cfg)
{
    const struct config_value *value = config_text_get(cfg, "user");
    struct config *config = reader->config;
    const struct passwd *entry;

    config->user = strdup(value != NULL ? value->text : DEFAULT_USER);
    if (config->user == NULL)
        return FAIL_MEMORY(reader);
    config->uid = geteuid();
    config->gid = getegid();
    if (!reader->as_root)
        return 0;
    entry = getpwnam(config->user);
    if (entry == NULL && value == NULL)
        return error_set(reader->error,
                         "%s: user: there is no user \"%s\"; create it with adduser --system "
                         "--group --no-create-home %s, or name another with user = \"NAME\"",
                         config->file, config->user, config->user);
    if (entry == NULL)
        return FAIL(reader, value, "user", "there is no user \"%s\"; create it, or name another",
                    config->user);
    if (entry->pw_uid == 0)
        return config_fail(reader->error, value != NULL ? value->file : config->file,
                           value != NULL ? value->line : 1, "user",
                           "\"%s\" is the superuser; name a user who owns nothing else",
                           config->user);
    config->uid = entry->pw_uid;
    config->gid = entry->pw_gid;
    return 0;
}

/* A Unix socket's path. */
static int
read_socket(struct reader *reader, cfg_t *cfg, const char *key, const char *otherwise, char **path)
{
    const struct config_value *value = config_text_get(cfg, key);

    *path = value == NULL ? strdup(otherwise) : NULL;
    if (value != NULL && read_path(reader, value, key, path) == -1)
        return -1;
    if (*path == NULL)
        return FAIL_MEMORY(reader);
    if (strlen(*path) < sizeof(((struct sockaddr_un *)NULL)->sun_path))
        return 0;
    return config_fail(reader->error, value != NULL ? value->file : reader->config->file,
                       value != NULL ? value->line : 1, key,
                       "the path %s is too long for a Unix socket (107 bytes); choose another",
                       *path);
}

static int
read_sockets(struct reader *reader, cfg_t *cfg)
{
    struct config *config = reader->config;
    char *beside = NULL;
    int result;

    if (read_socket(reader, cfg, "socket", CONFIG_DEFAULT_SOCKET, &config->socket) == -1)
        return -1;
    beside = config_value_path(config->socket, "control.sock");
    if (beside == NULL)
        return FAIL_MEMORY(reader);
    result = read_socket(reader, cfg, "control_socket", beside, &config->control_socket);
    free(beside);
    if (result == 0 && strcmp(config->socket, config->control_socket) == 0) {
        const struct config_value *value = config_text_get(cfg, "control_socket");

        if (value == NULL)
            value = config_text_get(cfg, "socket");
        return config_fail(reader->error, value != NULL ? value->file : config->file,
                           value != NULL ? value->line : 1, "control_socket",
                           "%s is the workers' socket already; choose another path",
                           config->socket);
    }
    return result;
}

static int
read_log(struct reader *reader, cfg_t *cfg)
{
    static const char *const levels[] = {"error", "warning", "info", "debug", NULL};
    const struct config_value *value = config_text_get(cfg, "log");
    struct config *config = reader->config;

    config->log_level = LOG_LEVEL_INFO;
    if (value != NULL && value->text[0] == '/') {
        config->log = CONFIG_LOG_FILE;
        if (copy_text(reader, value, "log", &config->log_file) == -1)
            return -1;
    } else if (value != NULL && strcmp(value->text, "syslog") == 0)
        config->log = CONFIG_LOG_SYSLOG;
    else if (value != NULL && strcmp(value->text, "stderr") != 0)
        return FAIL(reader, value, "log",
                    "\"%s\" is neither stderr, syslog nor a path that begins with /", value->text);
    value = config_text_get(cfg, "log_level");
    return value == NULL
               ? 0
               : config_value_word(value, "log_level", levels, &config->log_level, reader->error);
}

/* Layers of the sandbox that the agent must not start without. */
static int
read_sandbox(struct reader *reader, cfg_t *cfg)
{
    const struct config_value *value;
    cfg_t *block = cfg_getsec(cfg, "sandbox");

    for (size_t i = 0; (value = config_text_get_nth(block, "require", i)) != NULL; i++) {
        unsigned layer = sandbox_layer_find(value->text);

        if (layer == 0)
            return FAIL(reader, value, "require",
                        "there is no layer \"%s\"; known are namespaces, landlock, "
                        "landlock_network, landlock_scopes, mdwe, speculation and memfd_secret",
                        value->text);
        reader->config->sandbox_require |= layer;
    }
    return 0;
}

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
read_names(struct reader *reader, cfg_t *block, struct config_identity *identity)
{
    const struct config_value *value;

    for (size_t i = 0; (value = config_text_get_nth(block, "names", i)) != NULL; i++) {
        if (!config_value_is_host(value->text))
            return FAIL(reader, value, "names",
                        "\"%s\" is not a host name; write for instance \"www.example.org\" or "
                        "\"*.example.org\"",
                        value->text);
        if (identity->name_count == LOAD_NAMES_MAX)
            return FAIL(reader, value, "names", "more than %d names in one identity; make two",
                        LOAD_NAMES_MAX);
        if (add_name(identity, value->text) == -1)
            return FAIL(reader, value, "names", "out of memory");
    }
    return 0;
}

/* explicit_default: set if the block says anything about being the default. */
static int
read_identity(struct reader *reader, cfg_t *block, bool *explicit_default)
{
    struct config_identity *identity = config_identity_add(reader->context);
    const char *label = config_text_title(block);
    const struct config_value *value;

    if (identity == NULL || (identity->label = strdup(label)) == NULL)
        return FAIL_BLOCK(reader, block, "identity", "out of memory");
    identity->line = config_text_line(block);
    if (label[0] == '\0' || strlen(label) >= SERVICE_HOST_MAX)
        return FAIL_BLOCK(reader, block, "identity", "the title must have 1 to %d bytes",
                          SERVICE_HOST_MAX - 1);
    if (read_file_path(reader, block, "certificate", &identity->certificate) == -1 ||
        read_file_path(reader, block, "key", &identity->key) == -1 ||
        read_file_path(reader, block, "passphrase_file", &identity->passphrase_file) == -1)
        return -1;
    if (identity->certificate == NULL)
        return FAIL_BLOCK(reader, block, "identity",
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
read_identities(struct reader *reader, cfg_t *block)
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
        int result = read_path(reader, value, "identities", &path);
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
        return FAIL_BLOCK(reader, block, "context",
                          "\"%s\" has no identity; add identities = \"DIRECTORY\" or a block "
                          "identity \"NAME\" { certificate = ... key = ... }",
                          context->name);
    value = config_text_get(block, "default_identity");
    if (value != NULL && explicit_default)
        return FAIL(reader, value, "default_identity",
                    "an identity block says default = ... already; keep one of the two");
    if (value != NULL && mark_default(context, value->text) == 0)
        return FAIL(reader, value, "default_identity", "there is no identity \"%s\" here",
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
read_alpn(struct reader *reader, cfg_t *block)
{
    struct config_context *context = reader->context;
    const struct config_value *value;
    size_t total = 0;

    for (size_t i = 0; (value = config_text_get_nth(block, "alpn", i)) != NULL; i++) {
        size_t length = strlen(value->text);
        char **more;

        total += length + 1;
        if (length == 0 || length >= SERVICE_ALPN_MAX || total > ALPN_TOTAL_MAX)
            return FAIL(reader, value, "alpn",
                        "a protocol name has 1 to %d bytes, all together at most %d",
                        SERVICE_ALPN_MAX - 1, ALPN_TOTAL_MAX);
        for (size_t j = 0; j < context->alpn_count; j++) {
            if (strcmp(context->alpn[j], value->text) == 0)
                return FAIL(reader, value, "alpn", "\"%s\" is named twice", value->text);
        }
        more = realloc(context->alpn, (i + 1) * sizeof(*more));
        if (more == NULL)
            return FAIL(reader, value, "alpn", "out of memory");
        context->alpn = more;
        context->alpn[i] = strdup(value->text);
        if (context->alpn[i] == NULL)
            return FAIL(reader, value, "alpn", "out of memory");
        context->alpn_count++;
    }
    return 0;
}

static int
read_hand_back(struct reader *reader, cfg_t *block)
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
read_tls(struct reader *reader, cfg_t *block)
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
    return read_number(reader, block, "tickets", 0, TICKETS_MAX, &context->tickets);
}

static int
read_verify(struct reader *reader, cfg_t *block)
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
        return FAIL(reader, verify, "verify",
                    "\"%s\" needs to know whom to trust; add client_ca_file = \"FILE\"",
                    verify->text);
    if (context->verify == CONFIG_VERIFY_NONE && ca != NULL)
        return FAIL(reader, ca, "client_ca_file",
                    "is of no use without verify = \"required\" or \"optional\"; add one of them");
    return read_file_path(reader, block, "client_ca_file", &context->client_ca_file);
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
read_listens(struct reader *reader, cfg_t *block)
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
                (void)FAIL(reader, value, "listen",
                           "\"%s\" is listened on by context \"%s\" (line %u) already; remove one",
                           value->text, other->name, other->line);
            for (int rest = j; rest < count; rest++)
                free(found[rest].text);
            return FAIL(reader, value, "listen", "too many addresses, or out of memory");
        }
    }
    context->backlog = DEFAULT_BACKLOG;
    return read_number(reader, block, "backlog", 1, BACKLOG_MAX, &context->backlog);
}

static int
read_workers(struct reader *reader, cfg_t *block)
{
    struct config_context *context = reader->context;
    cfg_t *workers = cfg_getsec(block, "workers");
    const struct config_value *value;

    context->users = calloc(LISTS_MAX, sizeof(*context->users));
    context->groups_allowed = calloc(LISTS_MAX, sizeof(*context->groups_allowed));
    if (context->users == NULL || context->groups_allowed == NULL)
        return FAIL_BLOCK(reader, block, "workers", "out of memory");
    for (size_t i = 0; (value = config_text_get_nth(workers, "users", i)) != NULL; i++) {
        if (i == LISTS_MAX)
            return FAIL(reader, value, "users", "more than %d; use a group", LISTS_MAX);
        if (config_value_user(value, "users", &context->users[i], reader->error) == -1)
            return -1;
        context->user_count++;
    }
    for (size_t i = 0; (value = config_text_get_nth(workers, "groups", i)) != NULL; i++) {
        if (i == LISTS_MAX)
            return FAIL(reader, value, "groups", "more than %d; use fewer", LISTS_MAX);
        if (config_value_group(value, "groups", &context->groups_allowed[i], reader->error) == -1)
            return -1;
        context->group_allowed_count++;
    }
    if (context->user_count + context->group_allowed_count > 0)
        return 0;
    if (reader->as_root)
        return FAIL_BLOCK(reader, block, "workers",
                          "context \"%s\" does not say who may use it; add workers { users = "
                          "{\"NAME\"} } or workers { groups = {\"NAME\"} }",
                          context->name);
    context->users[context->user_count++] = getuid();
    return 0;
}

static int
read_context_name(struct reader *reader, cfg_t *block)
{
    struct config_context *context = reader->context;
    const char *name = config_text_title(block);
    size_t length = strlen(name);

    context->line = config_text_line(block);
    context->name = strdup(name);
    if (context->name == NULL)
        return FAIL_BLOCK(reader, block, "context", "out of memory");
    if (length == 0 || length >= SERVICE_NAME_MAX)
        return FAIL_BLOCK(reader, block, "context", "the name must have 1 to %d bytes",
                          SERVICE_NAME_MAX - 1);
    for (const char *p = name; *p != '\0'; p++) {
        if (!isalnum((unsigned char)*p) && strchr("._-", *p) == NULL)
            return FAIL_BLOCK(reader, block, "context",
                              "the name \"%s\" may have only letters, digits, \".\", \"_\" and "
                              "\"-\"",
                              name);
    }
    for (const struct config_context *other = reader->config->contexts; other != context; other++) {
        if (strcmp(other->name, name) == 0)
            return FAIL_BLOCK(reader, block, "context",
                              "\"%s\" is in line %u already; rename or remove one", name,
                              other->line);
    }
    return 0;
}

static int
read_context(struct reader *reader, cfg_t *block)
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
        read_number(reader, block, "deadline", 1, DEADLINE_MAX, &deadline) == -1)
        return -1;
    context->deadline_ms = deadline * 1000;
    if (value != NULL && config_value_word(value, "cells", cells, &dedicated, reader->error) == -1)
        return -1;
    if (dedicated == 1)
        context->cell_group = config->cell_group_count++;
    return 0;
}

static int
read_contexts(struct reader *reader, cfg_t *cfg)
{
    struct config *config = reader->config;
    unsigned count = cfg_size(cfg, "context");

    if (count == 0)
        return error_set(reader->error,
                         "%s: has no context; add context \"NAME\" { identities = \"DIRECTORY\" "
                         "workers { users = {\"NAME\"} } }",
                         config->file);
    if (count > CONTROL_CONTEXTS_MAX)
        return FAIL_BLOCK(reader, cfg_getnsec(cfg, "context", CONTROL_CONTEXTS_MAX), "context",
                          "more than %d contexts; remove some", CONTROL_CONTEXTS_MAX);
    config->contexts = calloc(count, sizeof(*config->contexts));
    if (config->contexts == NULL)
        return FAIL_MEMORY(reader);
    config->cell_group_count = 1; /* the shared one */
    for (unsigned i = 0; i < count; i++) {
        if (read_context(reader, cfg_getnsec(cfg, "context", i)) == -1)
            return -1;
    }
    return 0;
}

/* The store of a fleet: what it takes to reach it, and nothing that is of no use. */
static int
read_store(struct reader *reader, cfg_t *fleet)
{
    static const char *const others[] = {"store_name", "store_ca_file", "store_password_file",
                                         "store_wait"};
    const struct config_value *value = config_text_get(fleet, "store");
    struct config_store *store;

    for (size_t i = 0; i < 4 && value == NULL; i++) {
        const struct config_value *other = config_text_get(fleet, others[i]);

        if (other != NULL)
            return FAIL(reader, other, others[i], "is of no use without a store; add one");
    }
    if (value == NULL)
        return 0;
    if (reader->config->fleet_secret_file == NULL)
        return FAIL(reader, value, "store",
                    "only hosts that share a secret can use each other's sessions; add secret_file "
                    "= \"FILE\"");
    reader->config->fleet_store = store = calloc(1, sizeof(*store));
    if (store == NULL)
        return FAIL_MEMORY(reader);
    store->wait_ms = DEFAULT_STORE_WAIT;
    if (config_value_store(value, "store", store, reader->error) == -1 ||
        read_number(reader, fleet, "store_wait", STORE_WAIT_MIN, STORE_WAIT_MAX, &store->wait_ms) ==
            -1 ||
        read_file_path(reader, fleet, "store_password_file", &store->password_file) == -1 ||
        read_file_path(reader, fleet, "store_ca_file", &store->ca_file) == -1)
        return -1;
    if (store->tls && store->ca_file == NULL)
        return FAIL(reader, value, "store",
                    "TLS needs to know whom to trust; add store_ca_file = \"FILE\"");
    for (size_t i = 0; i < 2 && !store->tls; i++) {
        const struct config_value *other = config_text_get(fleet, others[i]);

        if (other != NULL)
            return FAIL(reader, other, others[i],
                        "is of no use without TLS; write store = \"rediss://...\"");
    }
    if (store->user != NULL && store->password_file == NULL)
        return FAIL(reader, value, "store",
                    "the user \"%s\" needs a password; add store_password_file = \"FILE\"",
                    store->user);
    value = config_text_get(fleet, "store_name");
    if (value == NULL)
        return 0;
    if (!config_value_is_host(value->text))
        return FAIL(reader, value, "store_name", "\"%s\" is not a host name", value->text);
    return copy_text(reader, value, "store_name", &store->name);
}

/* How long sessions can be resumed, and with whom. */
static int
read_sessions(struct reader *reader, cfg_t *cfg)
{
    struct config *config = reader->config;
    const struct config_value *life = config_text_get(cfg, "ticket_life");
    const struct config_value *period = config_text_get(cfg, "ticket_period");
    cfg_t *fleet = cfg_getsec(cfg, "fleet");
    unsigned least;

    config->ticket_period = DEFAULT_TICKET_PERIOD;
    config->ticket_life = DEFAULT_TICKET_LIFE;
    config->session_cache_size = DEFAULT_SESSION_CACHE;
    if (read_number(reader, cfg, "ticket_period", 2, TICKET_PERIOD_MAX, &config->ticket_period) ==
            -1 ||
        read_number(reader, cfg, "ticket_life", 2, TICKET_LIFE_MAX, &config->ticket_life) == -1 ||
        read_number(reader, cfg, "session_cache_size", 0, SESSION_CACHE_MAX,
                    &config->session_cache_size) == -1 ||
        read_file_path(reader, fleet, "secret_file", &config->fleet_secret_file) == -1 ||
        read_store(reader, fleet) == -1)
        return -1;
    least = (config->ticket_life + TICKET_PERIODS_MAX - 1) / TICKET_PERIODS_MAX;
    if (config->ticket_period < least)
        return FAIL(reader, period != NULL ? period : life, "ticket_period",
                    "%u seconds are too few for a ticket_life of %u; write at least %u",
                    config->ticket_period, config->ticket_life, least);
    if (config->ticket_life < config->ticket_period)
        return FAIL(reader, life != NULL ? life : period, "ticket_life",
                    "%u seconds are less than the ticket_period of %u; write more",
                    config->ticket_life, config->ticket_period);
    if (config->fleet_secret_file != NULL && config->ticket_period < FLEET_PERIOD_MIN)
        return FAIL(reader, period, "ticket_period",
                    "a fleet's hosts have clocks that differ; write at least %u", FLEET_PERIOD_MIN);
    return 0;
}

static int
read_all(struct reader *reader, cfg_t *cfg)
{
    struct config *config = reader->config;

    config->max_handshakes = DEFAULT_HANDSHAKES;
    config->max_channels = DEFAULT_CHANNELS;
    if (read_user(reader, cfg) == -1 || read_sockets(reader, cfg) == -1 ||
        read_log(reader, cfg) == -1 || read_sandbox(reader, cfg) == -1 ||
        read_number(reader, cfg, "cells", 0, CELLS_MAX, &config->cells) == -1 ||
        read_number(reader, cfg, "max_handshakes", 1, HANDSHAKES_MAX, &config->max_handshakes) ==
            -1 ||
        read_number(reader, cfg, "max_channels", 1, CHANNELS_MAX, &config->max_channels) == -1 ||
        read_sessions(reader, cfg) == -1)
        return -1;
    if (config->cells == 0)
        config->cells = count_cpus();
    return read_contexts(reader, cfg);
}

/* Symbolic links are left alone: relative paths start where the administrator sees the file. */
static char *
absolute_path(const char *file)
{
    char directory[PATH_MAX];
    char *path;

    if (file[0] == '/')
        return strdup(file);
    if (getcwd(directory, sizeof(directory)) == NULL)
        return NULL;
    return asprintf(&path, "%s/%s", directory, file) == -1 ? NULL : path;
}

struct config *
config_read(const char *file, bool as_root, struct error *error)
{
    struct reader reader = {.as_root = as_root, .error = error};
    cfg_t *cfg;
    int result;

    reader.config = calloc(1, sizeof(*reader.config));
    if (reader.config != NULL)
        reader.config->file = absolute_path(file);
    if (reader.config == NULL || reader.config->file == NULL) {
        error_set(error, "%s: %s", file, strerror(errno));
        config_free(reader.config);
        return NULL;
    }
    cfg = config_text_read(options, reader.config->file, error);
    result = cfg != NULL ? read_all(&reader, cfg) : -1;
    if (cfg != NULL)
        cfg_free(cfg);
    if (result == 0)
        return reader.config;
    config_free(reader.config);
    return NULL;
}

/* ---- freeing ---- */

static void
free_identity(struct config_identity *identity)
{
    free(identity->label);
    free(identity->certificate);
    free(identity->key);
    free(identity->passphrase_file);
    for (size_t i = 0; i < identity->name_count; i++)
        free(identity->names[i]);
    free(identity->names);
}

static void
free_context(struct config_context *context)
{
    for (size_t i = 0; i < context->identity_count; i++)
        free_identity(&context->identities[i]);
    for (size_t i = 0; i < context->alpn_count; i++)
        free(context->alpn[i]);
    for (size_t i = 0; i < context->listen_count; i++)
        free(context->listens[i].text);
    free(context->identities);
    free(context->alpn);
    free(context->listens);
    free(context->name);
    free(context->ciphers);
    free(context->ciphersuites);
    free(context->groups);
    free(context->client_ca_file);
    free(context->users);
    free(context->groups_allowed);
}

static void
free_store(struct config_store *store)
{
    free(store->text);
    free(store->user);
    free(store->name);
    free(store->password_file);
    free(store->ca_file);
    free(store);
}

void
config_free(struct config *config)
{
    if (config == NULL)
        return;
    for (size_t i = 0; i < config->context_count; i++)
        free_context(&config->contexts[i]);
    free(config->contexts);
    free(config->file);
    free(config->user);
    free(config->socket);
    free(config->control_socket);
    free(config->log_file);
    free(config->fleet_secret_file);
    if (config->fleet_store != NULL)
        free_store(config->fleet_store);
    free(config);
}
