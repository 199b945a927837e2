/*
 * config_identities.c: identities found in a directory. See config_parts.h.
 *
 * The layouts that the usual ACME clients, HAProxy and Kubernetes leave behind are known by
 * their names; what is in the files is the loader's business. Not recursive, never more than one
 * level down, so that 10,000 identities cost a few system calls each.
 */
#include "agent/config_parts.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Inside a directory: certificate and key. "%s" is the directory's own name. */
static const struct {
    const char *certificate;
    const char *key;
} pairs[] = {
    {"fullchain.pem", "privkey.pem"}, /* certbot, dehydrated */
    {"tls.crt", "tls.key"},           /* Kubernetes */
    {"fullchain.cer", "%s.key"},      /* acme.sh */
};

struct config_identity *
config_identity_add(struct config_context *context)
{
    size_t count = context->identity_count;

    if ((count & (count - 1)) == 0) { /* full at 0, 1, 2, 4, 8 ... */
        size_t room = count == 0 ? 1 : count * 2;
        struct config_identity *more = realloc(context->identities, room * sizeof(*more));

        if (more == NULL)
            return NULL;
        context->identities = more;
    }
    memset(&context->identities[count], 0, sizeof(context->identities[count]));
    context->identity_count++;
    return &context->identities[count];
}

struct directory {
    struct config_context *context;
    const struct config_value *value;
    const char *key;
    const char *path;
    int fd;
    struct error *error;
};

/* Whether a file with this name is there. A name that does not fit is not. */
static bool
is_there(const struct directory *directory, const char *name)
{
    struct stat facts;

    return fstatat(directory->fd, name, &facts, 0) == 0 && S_ISREG(facts.st_mode);
}

static int
add_identity(const struct directory *directory, const char *label, size_t label_size,
             const char *certificate, const char *key)
{
    struct config_identity *identity = config_identity_add(directory->context);

    if (identity == NULL)
        return config_fail_value(directory->error, directory->value, directory->key,
                                 "out of memory");
    identity->label = strndup(label, label_size);
    if (asprintf(&identity->certificate, "%s/%s", directory->path, certificate) == -1)
        identity->certificate = NULL;
    if (key != NULL && asprintf(&identity->key, "%s/%s", directory->path, key) == -1)
        identity->key = NULL;
    if (identity->label == NULL || identity->certificate == NULL ||
        (key != NULL && identity->key == NULL))
        return config_fail_value(directory->error, directory->value, directory->key,
                                 "out of memory");
    return 0;
}

/* A directory "prefix" ("" for the one itself) that holds one identity. Returns 1 if it does, 0 if
 * not, -1 with an error. */
static int
find_pair(const struct directory *directory, const char *prefix, const char *label)
{
    const char *slash = prefix[0] != '\0' ? "/" : "";
    char certificate[512], key[512], own[300];

    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        const char *key_name = pairs[i].key;

        if (strncmp(key_name, "%s", 2) == 0) {
            snprintf(own, sizeof(own), "%s%s", label, key_name + 2);
            key_name = own;
        }
        snprintf(certificate, sizeof(certificate), "%s%s%s", prefix, slash, pairs[i].certificate);
        if (!is_there(directory, certificate))
            continue;
        snprintf(key, sizeof(key), "%s%s%s", prefix, slash, key_name);
        if (is_there(directory, key))
            return add_identity(directory, label, strlen(label), certificate, key) == 0 ? 1 : -1;
        /* Half an identity is a mistake; acme.sh's second name is only a guess of ours. */
        if (key_name != own)
            return config_fail_value(directory->error, directory->value, directory->key,
                                     "%s/%s has no %s beside it; add it or remove the certificate",
                                     directory->path, certificate, key_name);
    }
    return 0;
}

static bool
ends_with(const char *name, size_t length, const char *suffix)
{
    size_t size = strlen(suffix);

    return length > size && memcmp(name + length - size, suffix, size) == 0;
}

/* A plain file of the directory: NAME.crt with NAME.key (lego and many others), NAME.pem with
 * NAME.key or NAME-key.pem (mkcert), or NAME.pem alone, which then holds the key too (HAProxy). */
static int
find_file(const struct directory *directory, const char *name)
{
    size_t length = strlen(name);
    size_t stem = length - 4;
    bool pem = ends_with(name, length, ".pem");
    char key[300];

    if (!pem && !ends_with(name, length, ".crt"))
        return 0;
    if (ends_with(name, length, "-key.pem") || length >= 256)
        return 0;
    snprintf(key, sizeof(key), "%.*s.key", (int)stem, name);
    if (is_there(directory, key))
        return add_identity(directory, name, stem, name, key);
    snprintf(key, sizeof(key), "%.*s-key.pem", (int)stem, name);
    if (pem && is_there(directory, key))
        return add_identity(directory, name, stem, name, key);
    return pem ? add_identity(directory, name, stem, name, NULL) : 0;
}

static int
find_entry(const struct directory *directory, const char *name)
{
    struct stat facts;

    if (fstatat(directory->fd, name, &facts, 0) == -1)
        return config_fail_value(directory->error, directory->value, directory->key, "%s/%s: %s",
                                 directory->path, name, strerror(errno));
    if (S_ISDIR(facts.st_mode))
        return find_pair(directory, name, name) == -1 ? -1 : 0;
    return S_ISREG(facts.st_mode) ? find_file(directory, name) : 0;
}

static int
compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void
free_names(char **names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(names[i]);
    free(names);
}

/* All names that do not begin with a dot, sorted. Takes a copy of the directory's fd. */
static char **
read_names(const struct directory *directory, size_t *count)
{
    int fd = fcntl(directory->fd, F_DUPFD_CLOEXEC, 0);
    DIR *stream = fd != -1 ? fdopendir(fd) : NULL;
    const struct dirent *entry;
    char **names = calloc(1, sizeof(*names));

    *count = 0;
    if (stream == NULL && fd != -1)
        close(fd);
    while (names != NULL && stream != NULL && (entry = readdir(stream)) != NULL) {
        char **more = names;

        if (entry->d_name[0] == '.')
            continue;
        if ((*count & (*count - 1)) == 0) /* full at 0, 1, 2, 4, 8 ... */
            more = realloc(names, (*count == 0 ? 1 : *count * 2) * sizeof(*names));
        if (more != NULL) {
            names = more;
            names[*count] = strdup(entry->d_name);
        }
        if (more == NULL || names[*count] == NULL) {
            free_names(names, *count);
            names = NULL;
        } else
            ++*count;
    }
    if (stream != NULL)
        closedir(stream);
    if (names != NULL)
        qsort(names, *count, sizeof(*names), compare_names);
    return names;
}

int
config_identities_find(struct config_context *context, const struct config_value *value,
                       const char *key, const char *path, struct error *error)
{
    struct directory directory = {context, value, key, path, -1, error};
    size_t before = context->identity_count, count = 0;
    const char *own = strrchr(path, '/');
    char **names;
    int result;

    directory.fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory.fd == -1)
        return config_fail_value(error, value, key, "%s: %s; name a directory of identities", path,
                                 strerror(errno));
    result = find_pair(&directory, "", own != NULL && own[1] != '\0' ? own + 1 : path);
    if (result == 0) {
        names = read_names(&directory, &count);
        if (names == NULL)
            result = config_fail_value(error, value, key, "out of memory");
        for (size_t i = 0; i < count && names != NULL && result == 0; i++)
            result = find_entry(&directory, names[i]);
        if (names != NULL)
            free_names(names, count);
    }
    close(directory.fd);
    if (result == -1)
        return -1;
    if (context->identity_count == before)
        return config_fail_value(error, value, key,
                                 "%s holds no identity; put NAME/fullchain.pem and "
                                 "NAME/privkey.pem, NAME.crt and NAME.key, or NAME.pem into it",
                                 path);
    return 0;
}
