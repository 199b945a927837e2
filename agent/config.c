/*
 * config.c: the options of tlsagentd.conf and what they mean together. See config.h; what each
 * option says to its reader is in tlsagentd.conf.5.
 *
 * Every value is converted at the line where it stands, and only then are the checks made that
 * concern several of them. The first mistake is the one that is told.
 */
#include "agent/config_parts.h"

#include <errno.h>
#include <limits.h>
#include <pwd.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent/log.h"
#include "agent/store.h"
#include "agent/ticket_state.h"
#include "sandbox/sandbox.h"

#define CELLS_MAX             64
#define HANDSHAKES_MAX        1000000
#define CHANNELS_MAX          65535
#define GREETINGS_MAX         10000
#define DEFAULT_USER          "tlsagent"
#define DEFAULT_CHANNELS      256
#define DEFAULT_GREETINGS     50
#define DEFAULT_HANDSHAKES    10000
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
    CONFIG_ONE("max_greetings"),
    CFG_SEC("sandbox", sandbox_options, CFGF_NONE),
    CONFIG_ONE("ticket_period"),
    CONFIG_ONE("ticket_life"),
    CONFIG_ONE("session_cache_size"),
    CFG_SEC("fleet", fleet_options, CFGF_NONE),
    CONFIG_BLOCK("context", context_options),
    CONFIG_INCLUDE(),
    CFG_END(),
};

/* ---- top level ---- */

static unsigned
count_cpus(void)
{
    cpu_set_t allowed;
    int count = sched_getaffinity(0, sizeof(allowed), &allowed) == 0 ? CPU_COUNT(&allowed) : 1;

    return count > CELLS_MAX ? CELLS_MAX : (unsigned)count;
}

static int
read_user(struct config_reader *reader, cfg_t *cfg)
{
    const struct config_value *value = config_text_get(cfg, "user");
    struct config *config = reader->config;
    const struct passwd *entry;

    config->user = strdup(value != NULL ? value->text : DEFAULT_USER);
    if (config->user == NULL)
        return CONFIG_FAIL_MEMORY(reader);
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
        return CONFIG_FAIL(reader, value, "user",
                           "there is no user \"%s\"; create it, or name another", config->user);
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
read_socket(struct config_reader *reader, cfg_t *cfg, const char *key, const char *otherwise,
            char **path)
{
    const struct config_value *value = config_text_get(cfg, key);

    *path = value == NULL ? strdup(otherwise) : NULL;
    if (value != NULL && config_read_path(reader, value, key, path) == -1)
        return -1;
    if (*path == NULL)
        return CONFIG_FAIL_MEMORY(reader);
    if (strlen(*path) < sizeof(((struct sockaddr_un *)NULL)->sun_path))
        return 0;
    return config_fail(reader->error, value != NULL ? value->file : reader->config->file,
                       value != NULL ? value->line : 1, key,
                       "the path %s is too long for a Unix socket (107 bytes); choose another",
                       *path);
}

static int
read_sockets(struct config_reader *reader, cfg_t *cfg)
{
    struct config *config = reader->config;
    char *beside = NULL;
    int result;

    if (read_socket(reader, cfg, "socket", CONFIG_DEFAULT_SOCKET, &config->socket) == -1)
        return -1;
    beside = config_value_path(config->socket, "control.sock");
    if (beside == NULL)
        return CONFIG_FAIL_MEMORY(reader);
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
read_log(struct config_reader *reader, cfg_t *cfg)
{
    static const char *const levels[] = {"error", "warning", "info", "debug", NULL};
    const struct config_value *value = config_text_get(cfg, "log");
    struct config *config = reader->config;

    config->log_level = LOG_LEVEL_INFO;
    if (value != NULL && value->text[0] == '/') {
        config->log = CONFIG_LOG_FILE;
        if (config_copy_text(reader, value, "log", &config->log_file) == -1)
            return -1;
    } else if (value != NULL && strcmp(value->text, "syslog") == 0)
        config->log = CONFIG_LOG_SYSLOG;
    else if (value != NULL && strcmp(value->text, "stderr") != 0)
        return CONFIG_FAIL(reader, value, "log",
                           "\"%s\" is neither stderr, syslog nor a path that begins with /",
                           value->text);
    value = config_text_get(cfg, "log_level");
    return value == NULL
               ? 0
               : config_value_word(value, "log_level", levels, &config->log_level, reader->error);
}

/* Layers of the sandbox that the agent must not start without. */
static int
read_sandbox(struct config_reader *reader, cfg_t *cfg)
{
    const struct config_value *value;
    cfg_t *block = cfg_getsec(cfg, "sandbox");

    for (size_t i = 0; (value = config_text_get_nth(block, "require", i)) != NULL; i++) {
        unsigned layer = sandbox_layer_find(value->text);

        if (layer == 0)
            return CONFIG_FAIL(
                reader, value, "require",
                "there is no layer \"%s\"; known are namespaces, landlock, "
                "landlock_network, landlock_scopes, mdwe, speculation and memfd_secret",
                value->text);
        reader->config->sandbox_require |= layer;
    }
    return 0;
}

/* The store of a fleet: what it takes to reach it, and nothing that is of no use. */
static int
read_store(struct config_reader *reader, cfg_t *fleet)
{
    static const char *const others[] = {"store_name", "store_ca_file", "store_password_file",
                                         "store_wait"};
    const struct config_value *value = config_text_get(fleet, "store");
    struct config_store *store;

    for (size_t i = 0; i < 4 && value == NULL; i++) {
        const struct config_value *other = config_text_get(fleet, others[i]);

        if (other != NULL)
            return CONFIG_FAIL(reader, other, others[i], "is of no use without a store; add one");
    }
    if (value == NULL)
        return 0;
    if (reader->config->fleet_secret_file == NULL)
        return CONFIG_FAIL(
            reader, value, "store",
            "only hosts that share a secret can use each other's sessions; add secret_file "
            "= \"FILE\"");
    reader->config->fleet_store = store = calloc(1, sizeof(*store));
    if (store == NULL)
        return CONFIG_FAIL_MEMORY(reader);
    store->wait_ms = DEFAULT_STORE_WAIT;
    if (config_value_store(value, "store", store, reader->error) == -1 ||
        config_read_number(reader, fleet, "store_wait", STORE_WAIT_MIN, STORE_WAIT_MAX,
                           &store->wait_ms) == -1 ||
        config_read_file_path(reader, fleet, "store_password_file", &store->password_file) == -1 ||
        config_read_file_path(reader, fleet, "store_ca_file", &store->ca_file) == -1)
        return -1;
    if (store->tls && store->ca_file == NULL)
        return CONFIG_FAIL(reader, value, "store",
                           "TLS needs to know whom to trust; add store_ca_file = \"FILE\"");
    for (size_t i = 0; i < 2 && !store->tls; i++) {
        const struct config_value *other = config_text_get(fleet, others[i]);

        if (other != NULL)
            return CONFIG_FAIL(reader, other, others[i],
                               "is of no use without TLS; write store = \"rediss://...\"");
    }
    if (store->user != NULL && store->password_file == NULL)
        return CONFIG_FAIL(reader, value, "store",
                           "the user \"%s\" needs a password; add store_password_file = \"FILE\"",
                           store->user);
    value = config_text_get(fleet, "store_name");
    if (value == NULL)
        return 0;
    if (!config_value_is_host(value->text))
        return CONFIG_FAIL(reader, value, "store_name", "\"%s\" is not a host name", value->text);
    return config_copy_text(reader, value, "store_name", &store->name);
}

/* How long sessions can be resumed, and with whom. */
static int
read_sessions(struct config_reader *reader, cfg_t *cfg)
{
    struct config *config = reader->config;
    const struct config_value *life = config_text_get(cfg, "ticket_life");
    const struct config_value *period = config_text_get(cfg, "ticket_period");
    cfg_t *fleet = cfg_getsec(cfg, "fleet");
    unsigned least;

    config->ticket_period = DEFAULT_TICKET_PERIOD;
    config->ticket_life = DEFAULT_TICKET_LIFE;
    config->session_cache_size = DEFAULT_SESSION_CACHE;
    if (config_read_number(reader, cfg, "ticket_period", 2, TICKET_PERIOD_MAX,
                           &config->ticket_period) == -1 ||
        config_read_number(reader, cfg, "ticket_life", 2, TICKET_LIFE_MAX, &config->ticket_life) ==
            -1 ||
        config_read_number(reader, cfg, "session_cache_size", 0, SESSION_CACHE_MAX,
                           &config->session_cache_size) == -1 ||
        config_read_file_path(reader, fleet, "secret_file", &config->fleet_secret_file) == -1 ||
        read_store(reader, fleet) == -1)
        return -1;
    least = (config->ticket_life + TICKET_PERIODS_MAX - 1) / TICKET_PERIODS_MAX;
    if (config->ticket_period < least)
        return CONFIG_FAIL(reader, period != NULL ? period : life, "ticket_period",
                           "%u seconds are too few for a ticket_life of %u; write at least %u",
                           config->ticket_period, config->ticket_life, least);
    if (config->ticket_life < config->ticket_period)
        return CONFIG_FAIL(reader, life != NULL ? life : period, "ticket_life",
                           "%u seconds are less than the ticket_period of %u; write more",
                           config->ticket_life, config->ticket_period);
    if (config->fleet_secret_file != NULL && config->ticket_period < FLEET_PERIOD_MIN)
        return CONFIG_FAIL(reader, period, "ticket_period",
                           "a fleet's hosts have clocks that differ; write at least %u",
                           FLEET_PERIOD_MIN);
    return 0;
}

static int
read_all(struct config_reader *reader, cfg_t *cfg)
{
    struct config *config = reader->config;

    config->max_handshakes = DEFAULT_HANDSHAKES;
    config->max_channels = DEFAULT_CHANNELS;
    config->max_greetings = DEFAULT_GREETINGS;
    if (read_user(reader, cfg) == -1 || read_sockets(reader, cfg) == -1 ||
        read_log(reader, cfg) == -1 || read_sandbox(reader, cfg) == -1 ||
        config_read_number(reader, cfg, "cells", 0, CELLS_MAX, &config->cells) == -1 ||
        config_read_number(reader, cfg, "max_handshakes", 1, HANDSHAKES_MAX,
                           &config->max_handshakes) == -1 ||
        config_read_number(reader, cfg, "max_channels", 1, CHANNELS_MAX, &config->max_channels) ==
            -1 ||
        config_read_number(reader, cfg, "max_greetings", 1, GREETINGS_MAX,
                           &config->max_greetings) == -1 ||
        read_sessions(reader, cfg) == -1)
        return -1;
    if (config->cells == 0)
        config->cells = count_cpus();
    return config_read_contexts(reader, cfg);
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
    struct config_reader reader = {.as_root = as_root, .error = error};
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
