/* config_store.c: the address of a fleet's store, as it is written; see config_parts.h. */
#include "agent/config_parts.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "protocol/service.h"

#define DEFAULT_PORT "6379"
#define DATABASE_MAX 65535
#define PORT_MAX     65535

/* What is written, cut into its parts. */
struct parts {
    char user[SERVICE_NAME_MAX];
    char host[64];
    char port[8];
    const char *database; /* NULL: none */
};

static bool
copy_part(char *to, size_t room, const char *from, size_t size)
{
    if (size == 0 || size >= room)
        return false;
    memcpy(to, from, size);
    to[size] = '\0';
    return true;
}

/* [USER@]ADDRESS[:PORT][/DATABASE], with brackets around an IPv6 address. */
static bool
cut(const char *text, struct parts *parts)
{
    size_t size = strcspn(text, "/");
    const char *at = memchr(text, '@', size), *end = text + size, *colon;

    parts->user[0] = '\0';
    parts->database = *end == '/' && end[1] != '\0' ? end + 1 : NULL;
    if (at != NULL) {
        if (!copy_part(parts->user, sizeof(parts->user), text, (size_t)(at - text)))
            return false;
        text = at + 1;
    }
    if (text[0] == '[') {
        const char *bracket = memchr(text, ']', (size_t)(end - text));

        if (bracket == NULL ||
            !copy_part(parts->host, sizeof(parts->host), text + 1, (size_t)(bracket - text - 1)))
            return false;
        colon = bracket + 1;
        if (colon != end && *colon != ':')
            return false;
    } else {
        colon = memchr(text, ':', (size_t)(end - text));
        if (colon == NULL)
            colon = end;
        if (!copy_part(parts->host, sizeof(parts->host), text, (size_t)(colon - text)))
            return false;
    }
    if (colon != end)
        return copy_part(parts->port, sizeof(parts->port), colon + 1, (size_t)(end - colon - 1));
    return copy_part(parts->port, sizeof(parts->port), DEFAULT_PORT, strlen(DEFAULT_PORT));
}

static bool
resolve(const struct parts *parts, struct config_store *store)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
                             .ai_socktype = SOCK_STREAM};
    struct addrinfo *found;

    unsigned long port = strtoul(parts->port, NULL, 10);

    if (strspn(parts->port, "0123456789") != strlen(parts->port) || port == 0 || port > PORT_MAX)
        return false;
    if (getaddrinfo(parts->host, parts->port, &hints, &found) != 0)
        return false;
    memcpy(&store->address, found->ai_addr, found->ai_addrlen);
    store->address_size = found->ai_addrlen;
    freeaddrinfo(found);
    return true;
}

static bool
read_database(const char *text, struct config_store *store)
{
    char *end;
    unsigned long number;

    if (text == NULL)
        return true;
    number = strtoul(text, &end, 10);
    store->database = (unsigned)number;
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && number <= DATABASE_MAX;
}

static int
read_network(const struct config_value *value, const char *key, const char *rest,
             struct config_store *store, struct error *error)
{
    struct parts parts;

    if (!cut(rest, &parts))
        return config_fail_value(error, value, key,
                                 "\"%s\" is not an address; write redis://ADDRESS:PORT, "
                                 "rediss://ADDRESS:PORT or unix:PATH",
                                 value->text);
    if (strchr(parts.user, ':') != NULL)
        return config_fail_value(error, value, key,
                                 "a password in this file can be read by others; put it into a "
                                 "file of its own: store_password_file = \"FILE\"");
    if (!resolve(&parts, store))
        return config_fail_value(error, value, key,
                                 "\"%s\" is not a numeric address with a port; names are not "
                                 "looked up, because no process here talks to name servers",
                                 parts.host);
    if (!read_database(parts.database, store))
        return config_fail_value(error, value, key, "\"%s\" is not a number of a database",
                                 parts.database);
    store->name = strdup(parts.host);
    if (parts.user[0] != '\0')
        store->user = strdup(parts.user);
    if (store->name == NULL || (parts.user[0] != '\0' && store->user == NULL))
        return config_fail_value(error, value, key, "out of memory");
    return 0;
}

static int
read_unix(const struct config_value *value, const char *key, const char *path,
          struct config_store *store, struct error *error)
{
    struct sockaddr_un *address = (struct sockaddr_un *)&store->address;
    const char *query = strchr(path, '?');
    size_t size = query != NULL ? (size_t)(query - path) : strlen(path);

    address->sun_family = AF_UNIX;
    store->address_size = sizeof(*address);
    if (path[0] != '/' || !copy_part(address->sun_path, sizeof(address->sun_path), path, size))
        return config_fail_value(error, value, key,
                                 "\"%s\" is not a path that begins with \"/\" and has at most %zu "
                                 "bytes",
                                 path, sizeof(address->sun_path) - 1);
    if (query != NULL && (strncmp(query, "?db=", 4) != 0 || !read_database(query + 4, store)))
        return config_fail_value(error, value, key, "\"%s\" is not \"?db=NUMBER\"", query);
    store->name = strdup("");
    return store->name != NULL ? 0 : config_fail_value(error, value, key, "out of memory");
}

int
config_value_store(const struct config_value *value, const char *key, struct config_store *store,
                   struct error *error)
{
    static const char plain[] = "redis://", tls[] = "rediss://", local[] = "unix:";

    store->text = strdup(value->text);
    if (store->text == NULL)
        return config_fail_value(error, value, key, "out of memory");
    if (strncmp(value->text, local, strlen(local)) == 0)
        return read_unix(value, key, value->text + strlen(local), store, error);
    store->tls = strncmp(value->text, tls, strlen(tls)) == 0;
    if (store->tls)
        return read_network(value, key, value->text + strlen(tls), store, error);
    if (strncmp(value->text, plain, strlen(plain)) == 0)
        return read_network(value, key, value->text + strlen(plain), store, error);
    return config_fail_value(error, value, key,
                             "\"%s\" is not an address; write redis://ADDRESS:PORT, "
                             "rediss://ADDRESS:PORT or unix:PATH",
                             value->text);
}
