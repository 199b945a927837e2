/*
 * config_parts.h: what the parts of the configuration reader share. For agent/config*.c only.
 *
 *   config.c             the options, and what those of the top level mean together
 *   config_contexts.c    the blocks context, identity and workers
 *   config_text.c        libconfuse, wrapped so that every value knows its file and line
 *   config_values.c      one value each: numbers, versions, addresses, users, cipher lists
 *   config_identities.c  identities found in a directory
 *   config_store.c       the address of a fleet's store
 */
#ifndef AGENT_CONFIG_PARTS_H
#define AGENT_CONFIG_PARTS_H

#include <confuse.h>

#include "agent/config.h"

/* A value as it was written. All options are read as text and converted by us: so there is
 * one style of message, and each names the line of the value itself. */
struct config_value {
    char *text;
    char *file;
    unsigned line;
};

/* Set "FILE:LINE: KEY: reason; what to do". Returns -1. */
int config_fail(struct error *error, const char *file, unsigned line, const char *key,
                const char *format, ...) __attribute__((format(printf, 5, 6)));

/* The same, at a value. The -1 is spelled out for readers that do not see into the function. */
#define config_fail_value(error, value, key, ...)                                                  \
    (config_fail(error, (value)->file, (value)->line, key, __VA_ARGS__), -1)

/* What is passed down while a configuration is being built. */
struct config_reader {
    struct config *config;
    struct config_context *context; /* the current one */
    bool as_root;
    struct error *error;
};

/* Each fails with an error at a value, at a block, of memory; its value is -1. */
#define CONFIG_FAIL(reader, value, key, ...)                                                       \
    config_fail_value((reader)->error, value, key, __VA_ARGS__)
#define CONFIG_FAIL_BLOCK(reader, block, key, ...)                                                 \
    (config_fail((reader)->error, (block)->filename, config_text_line(block), key, __VA_ARGS__), -1)
#define CONFIG_FAIL_MEMORY(reader)                                                                 \
    (error_set((reader)->error, "%s: out of memory", (reader)->config->file), -1)

/* ---- config_text.c ---- */

/* For the tables of options: one value, a list of values, include("FILE"), a block that may come
 * many times with a title, and what every block must have first (it remembers its own line). */
#define CONFIG_ONE(name) CFG_PTR_CB(name, NULL, CFGF_NONE, config_text_value, config_text_free)
#define CONFIG_LIST(name)                                                                          \
    CFG_PTR_LIST_CB(name, NULL, CFGF_NONE, config_text_value, config_text_free)
#define CONFIG_INCLUDE() CFG_FUNC("include", config_text_include)
#define CONFIG_OPENED()  CFG_SEC("{", config_text_nothing, CFGF_NONE)
#define CONFIG_BLOCK(title, options)                                                               \
    {                                                                                              \
        .name = (title), .type = CFGT_SEC, .flags = CFGF_MULTI | CFGF_TITLE, .subopts = (options), \
        .validcb = config_text_block_done                                                          \
    }

extern cfg_opt_t config_text_nothing[];
int config_text_value(cfg_t *cfg, cfg_opt_t *option, const char *text, void *result);
void config_text_free(void *value);
int config_text_include(cfg_t *cfg, cfg_opt_t *option, int argc, const char **argv);
int config_text_block_done(cfg_t *cfg, cfg_opt_t *option);

/* Read a file (absolute path). Returns NULL with an error. Not for two threads at once: neither is
 * libconfuse. */
cfg_t *config_text_read(cfg_opt_t *options, const char *file, struct error *error);

/* The value of an option that takes one, or NULL if it was not given. */
const struct config_value *config_text_get(cfg_t *block, const char *key);

/* Value number i of a list, or NULL after the last one. */
const struct config_value *config_text_get_nth(cfg_t *block, const char *key, size_t i);

/* The block's title, and the line of its opening brace. */
const char *config_text_title(const cfg_t *block);
unsigned config_text_line(cfg_t *block);

/* ---- config_values.c: each returns 0, or -1 with an error ---- */

int config_value_number(const struct config_value *value, const char *key, unsigned minimum,
                        unsigned maximum, unsigned *number, struct error *error);
int config_value_boolean(const struct config_value *value, const char *key, bool *answer,
                         struct error *error);

/* Index of the word in a list that ends with NULL. */
int config_value_word(const struct config_value *value, const char *key, const char *const *words,
                      int *index, struct error *error);
int config_value_versions(const struct config_value *value, const char *key, uint16_t *minimum,
                          uint16_t *maximum, struct error *error);

/* The suites or groups that remain, as a new string. */
int config_value_ciphers(const struct config_value *value, const char *key, char **list,
                         struct error *error);
int config_value_ciphersuites(const struct config_value *value, const char *key, char **list,
                              struct error *error);
int config_value_groups(const struct config_value *value, const char *key, char **list,
                        struct error *error);

/* One address, or two for "*:PORT". Returns how many, or -1. */
int config_value_listen(const struct config_value *value, const char *key,
                        struct config_listen listens[2], struct error *error);
int config_value_user(const struct config_value *value, const char *key, uid_t *uid,
                      struct error *error);
int config_value_group(const struct config_value *value, const char *key, gid_t *gid,
                       struct error *error);

/* A path that is absolute, made so with the directory of config_file. NULL if memory is short. */
char *config_value_path(const char *config_file, const char *text);

/* Whether text is a host name as SNI has it, or "*." and one. */
bool config_value_is_host(const char *text);

/* ---- config_values.c, for values of a configuration being built: each returns 0, or -1 ---- */

int config_copy_text(struct config_reader *reader, const struct config_value *value,
                     const char *key, char **text);

/* An optional number: the default stays if it is not given. */
int config_read_number(struct config_reader *reader, cfg_t *block, const char *key,
                       unsigned minimum, unsigned maximum, unsigned *number);

/* The path of a value, made absolute; at most LOAD_PATH_MAX with its NUL. */
int config_read_path(struct config_reader *reader, const struct config_value *value,
                     const char *key, char **path);

/* The same for a file that must be readable now: the supervisor opens it later, but here its line
 * is known. Nothing happens if it is not given. */
int config_read_file_path(struct config_reader *reader, cfg_t *block, const char *key, char **path);

/* ---- config_contexts.c ---- */

int config_read_contexts(struct config_reader *reader, cfg_t *cfg);

/* ---- config_store.c ---- */

/* "redis://ADDRESS", "rediss://ADDRESS" or "unix:PATH", into a store that is all zero. */
int config_value_store(const struct config_value *value, const char *key,
                       struct config_store *store, struct error *error);

/* ---- config_identities.c ---- */

/* A new identity at the end of the context's list, all zero. NULL if memory is short. */
struct config_identity *config_identity_add(struct config_context *context);

/* All identities in the directory, by name. */
int config_identities_find(struct config_context *context, const struct config_value *value,
                           const char *key, const char *directory, struct error *error);

#endif
