/* config_values.c: one value each, from text to what it means. See config_parts.h. */
#include "agent/config_parts.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netdb.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "protocol/load.h"
#include "protocol/traffic.h"

#define LIST_MAX     255   /* characters of a cipher or group list: generation.h keeps 256 */
#define ID_UNMAPPED  65534 /* what the kernel says for a user of another user namespace */
#define TCP_PORT_MAX 65535

/* All digits, and in range. */
static bool
parse_number(const char *text, unsigned long maximum, unsigned long *number)
{
    char *end;

    if (text[0] == '\0' || strspn(text, "0123456789") != strlen(text))
        return false;
    errno = 0;
    *number = strtoul(text, &end, 10);
    return errno == 0 && *end == '\0' && *number <= maximum;
}

int
config_value_number(const struct config_value *value, const char *key, unsigned minimum,
                    unsigned maximum, unsigned *number, struct error *error)
{
    unsigned long parsed;

    if (!parse_number(value->text, maximum, &parsed) || parsed < minimum)
        return config_fail_value(error, value, key, "\"%s\" is not a number from %u to %u",
                                 value->text, minimum, maximum);
    *number = (unsigned)parsed;
    return 0;
}

int
config_value_boolean(const struct config_value *value, const char *key, bool *answer,
                     struct error *error)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on"};

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcasecmp(value->text, words[i]) == 0) {
            *answer = i % 2 == 1;
            return 0;
        }
    }
    return config_fail_value(error, value, key, "\"%s\" is neither true nor false", value->text);
}

int
config_value_word(const struct config_value *value, const char *key, const char *const *words,
                  int *index, struct error *error)
{
    char known[256] = "";

    for (int i = 0; words[i] != NULL; i++) {
        size_t used = strlen(known);

        if (strcmp(value->text, words[i]) == 0) {
            *index = i;
            return 0;
        }
        snprintf(known + used, sizeof(known) - used, "%s%s", i == 0 ? "" : ", ", words[i]);
    }
    return config_fail_value(error, value, key, "\"%s\" is not one of: %s", value->text, known);
}

/* The versions that a name of the seed's syntax stands for: bit 0 is TLS 1.2, bit 1 TLS 1.3, bit 2
 * what is older and never spoken. -1: no such name. */
static int
version_bits(const char *name, size_t length)
{
    static const struct {
        const char *name;
        int bits;
    } names[] = {
        {"SSLv23", 7},  {"SSLv2", 4},   {"SSLv3", 4},   {"TLSv1", 4},
        {"TLSv1_0", 4}, {"TLSv10", 4},  {"TLSv1.0", 4}, {"TLSv1_1", 4},
        {"TLSv11", 4},  {"TLSv1.1", 4}, {"TLSv1_2", 1}, {"TLSv12", 1},
        {"TLSv1.2", 1}, {"TLSv1_3", 2}, {"TLSv13", 2},  {"TLSv1.3", 2},
    };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strlen(names[i].name) == length && strncasecmp(names[i].name, name, length) == 0)
            return names[i].bits;
    }
    return -1;
}

int
config_value_versions(const struct config_value *value, const char *key, uint16_t *minimum,
                      uint16_t *maximum, struct error *error)
{
    const char *next = value->text;
    int allowed = next[0] == '!' ? 7 : 0;

    for (;;) {
        bool without = *next == '!';
        const char *name = next + without;
        size_t length = strcspn(name, ":");
        int bits = version_bits(name, length);

        if (bits == -1)
            return config_fail_value(error, value, key,
                                     "\"%.*s\" is not a version; write for instance "
                                     "\"TLSv1_2:TLSv1_3\" or \"SSLv23:!TLSv1_2\"",
                                     (int)length, name);
        if (without)
            allowed &= ~bits;
        else
            allowed |= bits;
        if (name[length] == '\0')
            break;
        next = name + length + 1;
    }
    if ((allowed & 3) == 0)
        return config_fail_value(error, value, key,
                                 "\"%s\" leaves no version; this agent speaks TLSv1_2 and TLSv1_3",
                                 value->text);
    *minimum = (allowed & 1) != 0 ? TRAFFIC_TLS_1_2 : TRAFFIC_TLS_1_3;
    *maximum = (allowed & 2) != 0 ? TRAFFIC_TLS_1_3 : TRAFFIC_TLS_1_2;
    return 0;
}

/* Append a name to a list separated by colons, unless it is there. False: no room. */
static bool
append(char list[LIST_MAX + 1], const char *name)
{
    size_t used = strlen(list), length = strlen(name);

    for (const char *at = strstr(list, name); at != NULL; at = strstr(at + 1, name)) {
        if ((at == list || at[-1] == ':') && (at[length] == ':' || at[length] == '\0'))
            return true;
    }
    return snprintf(list + used, LIST_MAX + 1 - used, "%s%s", used > 0 ? ":" : "", name) <=
           (int)(LIST_MAX - used);
}

static int
keep_list(const struct config_value *value, const char *key, const char *text, char **list,
          struct error *error)
{
    *list = strdup(text);
    if (*list == NULL)
        return config_fail_value(error, value, key, "out of memory");
    return 0;
}

int
config_value_ciphers(const struct config_value *value, const char *key, char **list,
                     struct error *error)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    STACK_OF(SSL_CIPHER) *suites = NULL;
    char usable[LIST_MAX + 1] = "";
    bool fits = true;

    if (ctx != NULL && SSL_CTX_set_cipher_list(ctx, value->text) == 1)
        suites = SSL_CTX_get_ciphers(ctx);
    /* OpenSSL keeps its order; what could not be handed back falls out here. */
    for (int i = 0; suites != NULL && i < sk_SSL_CIPHER_num(suites); i++) {
        const SSL_CIPHER *suite = sk_SSL_CIPHER_value(suites, i);
        const struct traffic_suite *known = traffic_suite_find(SSL_CIPHER_get_protocol_id(suite));

        if (known != NULL && known->version == TRAFFIC_TLS_1_2)
            fits = fits && append(usable, SSL_CIPHER_get_name(suite));
    }
    SSL_CTX_free(ctx);
    ERR_clear_error();
    if (usable[0] == '\0')
        return config_fail_value(error, value, key,
                                 "\"%s\" leaves no TLS 1.2 suite with ECDHE and AES-GCM or "
                                 "ChaCha20-Poly1305; for instance \"ECDHE+AESGCM\"",
                                 value->text);
    if (!fits)
        return config_fail_value(error, value, key, "longer than %d characters", LIST_MAX);
    return keep_list(value, key, usable, list, error);
}

/* The next name of a list, cut out into name. False at the end. A name that is too long comes out
 * cut and is then unknown. */
static bool
next_name(const char **next, char *name, size_t size)
{
    size_t length;

    *next += strspn(*next, ": ");
    length = strcspn(*next, ": ");
    if (length == 0)
        return false;
    snprintf(name, size, "%.*s", (int)length, *next);
    *next += length;
    return true;
}

int
config_value_ciphersuites(const struct config_value *value, const char *key, char **list,
                          struct error *error)
{
    static const uint16_t ids[] = {0x1301, 0x1302, 0x1303}; /* RFC 8446 appendix B.4 */
    const char *next = value->text;
    char usable[LIST_MAX + 1] = "", name[64];

    while (next_name(&next, name, sizeof(name))) {
        bool found = false;

        for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]) && !found; i++) {
            const struct traffic_suite *suite = traffic_suite_find(ids[i]);

            found = suite != NULL && strcmp(suite->standard, name) == 0 && append(usable, name);
        }
        if (!found)
            return config_fail_value(error, value, key,
                                     "\"%s\" is not a TLS 1.3 suite of this agent; it has "
                                     "TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384 and "
                                     "TLS_CHACHA20_POLY1305_SHA256",
                                     name);
    }
    if (usable[0] == '\0')
        return config_fail_value(error, value, key, "an empty list; name a suite, or leave it out");
    return keep_list(value, key, usable, list, error);
}

int
config_value_groups(const struct config_value *value, const char *key, char **list,
                    struct error *error)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    const char *next = value->text;
    char usable[LIST_MAX + 1] = "", name[64];
    bool fits = ctx != NULL;

    while (fits && next_name(&next, name, sizeof(name))) {
        const char *group = name[0] == '?' ? name + 1 : name;

        if (SSL_CTX_set1_groups_list(ctx, group) == 1) {
            fits = append(usable, group);
        } else if (group == name) {
            SSL_CTX_free(ctx);
            ERR_clear_error();
            return config_fail_value(error, value, key,
                                     "\"%s\" is not a group of this libssl; correct it, or write "
                                     "\"?%s\" to skip it where it is unknown",
                                     name, name);
        }
    }
    SSL_CTX_free(ctx);
    ERR_clear_error();
    if (!fits)
        return config_fail_value(error, value, key, "longer than %d characters", LIST_MAX);
    if (usable[0] == '\0')
        return config_fail_value(error, value, key,
                                 "\"%s\" leaves no group; for instance \"X25519:P-256\"",
                                 value->text);
    return keep_list(value, key, usable, list, error);
}

/* Fill in one address. host is numeric, without brackets. */
static bool
resolve_listen(const char *host, const char *port, const char *text, struct config_listen *listen)
{
    struct addrinfo hints = {
        .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
        .ai_socktype = SOCK_STREAM,
    };
    struct addrinfo *found;

    if (getaddrinfo(host, port, &hints, &found) != 0)
        return false;
    memcpy(&listen->address, found->ai_addr, found->ai_addrlen);
    listen->address_size = found->ai_addrlen;
    freeaddrinfo(found);
    listen->text = strdup(text);
    return listen->text != NULL;
}

int
config_value_listen(const struct config_value *value, const char *key,
                    struct config_listen listens[2], struct error *error)
{
    const char *colon = strrchr(value->text, ':');
    const char *port = colon != NULL ? colon + 1 : "";
    const char *host = value->text;
    size_t length = colon != NULL ? (size_t)(colon - host) : 0;
    char copy[64];
    unsigned long number;
    bool bracket = host[0] == '[';

    memset(listens, 0, 2 * sizeof(listens[0]));
    if (!parse_number(port, TCP_PORT_MAX, &number) || number == 0)
        return config_fail_value(error, value, key,
                                 "\"%s\" has no port from 1 to 65535; write ADDRESS:PORT, "
                                 "[ADDRESS]:PORT or *:PORT",
                                 value->text);
    if (length == 1 && host[0] == '*') {
        if (resolve_listen("0.0.0.0", port, value->text, &listens[0]) &&
            resolve_listen("::", port, value->text, &listens[1]))
            return 2;
        free(listens[0].text);
        return config_fail_value(error, value, key, "out of memory");
    }
    if (bracket && length > 2 && host[length - 1] == ']') {
        host++;
        length -= 2;
    } else if (memchr(host, ':', length) != NULL)
        length = 0; /* an IPv6 address without brackets: where does it end? */
    snprintf(copy, sizeof(copy), "%.*s", (int)length, host);
    if (length == 0 || length >= sizeof(copy) ||
        !resolve_listen(copy, port, value->text, &listens[0]))
        return config_fail_value(error, value, key,
                                 "\"%s\" has no numeric address; write ADDRESS:PORT, "
                                 "[ADDRESS]:PORT or *:PORT",
                                 value->text);
    if ((listens[0].address.ss_family == AF_INET6) != bracket) {
        free(listens[0].text);
        return config_fail_value(error, value, key, "\"%s\": brackets are for IPv6 addresses",
                                 value->text);
    }
    return 1;
}

int
config_value_user(const struct config_value *value, const char *key, uid_t *uid,
                  struct error *error)
{
    const struct passwd *entry = getpwnam(value->text);
    unsigned long number;

    if (entry != NULL)
        number = entry->pw_uid;
    else if (!parse_number(value->text, UINT32_MAX - 1, &number))
        return config_fail_value(error, value, key,
                                 "there is no user \"%s\"; correct the name or create the user",
                                 value->text);
    if (number == ID_UNMAPPED)
        return config_fail_value(error, value, key,
                                 "\"%s\" is uid %d, which the kernel also shows for users that it "
                                 "cannot name: it is never let in; choose another",
                                 value->text, ID_UNMAPPED);
    *uid = (uid_t)number;
    return 0;
}

int
config_value_group(const struct config_value *value, const char *key, gid_t *gid,
                   struct error *error)
{
    const struct group *entry = getgrnam(value->text);
    unsigned long number;

    if (entry != NULL)
        number = entry->gr_gid;
    else if (!parse_number(value->text, UINT32_MAX - 1, &number))
        return config_fail_value(error, value, key,
                                 "there is no group \"%s\"; correct the name or create the group",
                                 value->text);
    if (number == ID_UNMAPPED)
        return config_fail_value(error, value, key,
                                 "\"%s\" is gid %d, which the kernel also shows for groups that it "
                                 "cannot name: it is never let in; choose another",
                                 value->text, ID_UNMAPPED);
    *gid = (gid_t)number;
    return 0;
}

char *
config_value_path(const char *config_file, const char *text)
{
    const char *slash = strrchr(config_file, '/');
    int directory = slash != NULL ? (int)(slash - config_file) : 0;
    char *path;

    if (text[0] == '/')
        return strdup(text);
    return asprintf(&path, "%.*s/%s", directory, config_file, text) == -1 ? NULL : path;
}

bool
config_value_is_host(const char *text)
{
    const char *p = strncmp(text, "*.", 2) == 0 ? text + 2 : text;
    size_t length;

    if (strlen(text) > 253)
        return false;
    for (;; p += length + 1) {
        length = strcspn(p, ".");
        if (length == 0 || length > 63 || p[0] == '-' || p[length - 1] == '-')
            return false;
        for (size_t i = 0; i < length; i++) {
            if (!isalnum((unsigned char)p[i]) && p[i] != '-' && p[i] != '_')
                return false;
        }
        if (p[length] == '\0') /* no top-level domain is a number: that is an IP address */
            return strspn(p, "0123456789") < length;
    }
}

/* ---- values of a configuration being built ---- */

int
config_copy_text(struct config_reader *reader, const struct config_value *value, const char *key,
                 char **text)
{
    free(*text);
    *text = strdup(value->text);
    return *text != NULL ? 0 : CONFIG_FAIL(reader, value, key, "out of memory");
}

int
config_read_number(struct config_reader *reader, cfg_t *block, const char *key, unsigned minimum,
                   unsigned maximum, unsigned *number)
{
    const struct config_value *value = config_text_get(block, key);

    return value == NULL ? 0
                         : config_value_number(value, key, minimum, maximum, number, reader->error);
}

int
config_read_path(struct config_reader *reader, const struct config_value *value, const char *key,
                 char **path)
{
    if (value->text[0] == '\0')
        return CONFIG_FAIL(reader, value, key, "is empty; name a file, or leave it out");
    *path = config_value_path(reader->config->file, value->text);
    if (*path == NULL)
        return CONFIG_FAIL(reader, value, key, "out of memory");
    if (strlen(*path) >= LOAD_PATH_MAX)
        return CONFIG_FAIL(reader, value, key, "the path is longer than %d bytes",
                           LOAD_PATH_MAX - 1);
    return 0;
}

int
config_read_file_path(struct config_reader *reader, cfg_t *block, const char *key, char **path)
{
    const struct config_value *value = config_text_get(block, key);
    struct stat facts;

    if (value == NULL)
        return 0;
    if (config_read_path(reader, value, key, path) == -1)
        return -1;
    if (stat(*path, &facts) == -1)
        return CONFIG_FAIL(reader, value, key, "%s: %s; correct the path", *path, strerror(errno));
    if (!S_ISREG(facts.st_mode))
        return CONFIG_FAIL(reader, value, key, "%s is not a file; correct the path", *path);
    if (faccessat(AT_FDCWD, *path, R_OK, AT_EACCESS) == -1)
        return CONFIG_FAIL(reader, value, key, "%s: %s; run as a user who may read it", *path,
                           strerror(errno));
    return 0;
}
