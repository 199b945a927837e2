/* listen.c: see listen.h. */
#include "agent/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent/handover.h"
#include "agent/log.h"

#define BACKLOG 4096 /* the kernel caps it at net.core.somaxconn */
/* Short: who connects and leaves fills it, and who comes then waits until all that is served. Who
 * finds it full waits in connect(), each in turn. */
#define UNIX_BACKLOG 64

/* What to do about an error of bind(). */
static const char *
bind_advice(int number)
{
    switch (number) {
    case EADDRINUSE:
        return ": stop the other server or change `listen`";
    case EACCES:
        return ": start the agent as root, or choose a port above 1023";
    case EADDRNOTAVAIL:
        return ": this machine has no such address; change `listen`";
    default:
        return "";
    }
}

/* For the connections that come from it: a small answer right behind a ticket must not wait for the
 * ticket's ACK. */
static void
set_no_delay(int fd)
{
    const int on = 1;

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static int
open_tcp(const struct config_context *context, const struct config_listen *address,
         struct error *error)
{
    const int on = 1;
    int fd =
        handover_take_listener((const struct sockaddr *)&address->address, address->address_size);

    if (fd != -1 && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0) {
        set_no_delay(fd);
        return fd;
    }
    if (fd != -1)
        close(fd);
    fd = socket(address->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd == -1)
        return error_set(error, "context \"%s\": listen %s: socket: %s", context->name,
                         address->text, strerror(errno));
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == -1 ||
        (address->address.ss_family == AF_INET6 &&
         setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) == -1) ||
        bind(fd, (const struct sockaddr *)&address->address, address->address_size) == -1 ||
        listen(fd, BACKLOG) == -1) {
        error_set(error, "context \"%s\": listen %s: %s%s", context->name, address->text,
                  strerror(errno), bind_advice(errno));
        close(fd);
        return -1;
    }
    set_no_delay(fd);
    return fd;
}

int
listen_open_contexts(const struct config *config, struct listen_socket **sockets, size_t *count,
                     struct error *error)
{
    size_t wanted = 0;

    for (size_t i = 0; i < config->context_count; i++)
        wanted += config->contexts[i].listen_count;
    *count = 0;
    *sockets = calloc(wanted > 0 ? wanted : 1, sizeof(**sockets));
    if (*sockets == NULL)
        return error_set(error, "out of memory");
    for (size_t i = 0; i < config->context_count; i++) {
        const struct config_context *context = &config->contexts[i];

        for (size_t j = 0; j < context->listen_count; j++) {
            int fd = open_tcp(context, &context->listens[j], error);

            if (fd == -1) {
                while (*count > 0)
                    close((*sockets)[--*count].fd);
                free(*sockets);
                *sockets = NULL;
                return -1;
            }
            (*sockets)[(*count)++] = (struct listen_socket){fd, (unsigned)i};
        }
    }
    return 0;
}

static int
fill_address(const char *path, const char *key, struct sockaddr_un *address, struct error *error)
{
    memset(address, 0, sizeof(*address));
    address->sun_family = AF_UNIX;
    if (strlen(path) >= sizeof(address->sun_path))
        return error_set(error, "%s %s: the path is longer than %zu bytes", key, path,
                         sizeof(address->sun_path) - 1);
    memcpy(address->sun_path, path, strlen(path));
    return 0;
}

/* Create the socket's directory if it is missing; say so if workers cannot pass it. */
static int
prepare_directory(const char *path, const char *key, mode_t mode, struct error *error)
{
    char directory[sizeof(((struct sockaddr_un *)0)->sun_path)];
    const char *slash = strrchr(path, '/');
    size_t size = slash != NULL ? (size_t)(slash - path) : 0;
    struct stat facts;
    mode_t mask;
    int result;

    if (size == 0)
        return 0;
    memcpy(directory, path, size);
    directory[size] = '\0';
    mask = umask(0);
    result = mkdir(directory, 0755);
    umask(mask);
    if (result == -1 && errno != EEXIST)
        return error_set(error, "%s %s: cannot create directory %s: %s", key, path, directory,
                         strerror(errno));
    if (stat(directory, &facts) == -1 || !S_ISDIR(facts.st_mode))
        return error_set(error, "%s %s: %s is not a directory", key, path, directory);
    if ((facts.st_mode & S_IWOTH) != 0 && (facts.st_mode & S_ISVTX) == 0)
        log_warning("%s %s: anybody may replace files in %s: chmod o-w %s", key, path, directory,
                    directory);
    if (geteuid() == 0 && (mode & S_IWOTH) != 0 && (facts.st_mode & S_IXOTH) == 0)
        log_warning("%s %s: workers of other users cannot reach it: chmod o+x %s", key, path,
                    directory);
    return 0;
}

/* Make room for our socket: whatever is in the way and is not a stale socket is an error. */
static int
remove_stale(const struct sockaddr_un *address, const char *key, struct error *error)
{
    const char *path = address->sun_path;
    struct stat facts;
    int fd, result, reason;

    if (lstat(path, &facts) == -1)
        return errno == ENOENT ? 0 : error_set(error, "%s %s: %s", key, path, strerror(errno));
    if (!S_ISSOCK(facts.st_mode))
        return error_set(error, "%s %s: a file is there that is not a socket: remove it", key,
                         path);
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd == -1)
        return error_set(error, "socket: %s", strerror(errno));
    result = connect(fd, (const struct sockaddr *)address, sizeof(*address));
    reason = errno;
    close(fd);
    if (result == 0 || reason == EAGAIN)
        return error_set(error,
                         "%s %s: another agent is already running there: stop it first, or give "
                         "this one another `socket`",
                         key, path);
    if (reason == ENOENT)
        return 0;
    if (reason != ECONNREFUSED)
        return error_set(error, "%s %s: in use by something else: %s", key, path, strerror(reason));
    if (unlink(path) == -1 && errno != ENOENT)
        return error_set(error, "%s %s: cannot remove the stale socket: %s", key, path,
                         strerror(errno));
    return 0;
}

int
listen_check_unix(const char *path, const char *key, struct error *error)
{
    struct sockaddr_un address;

    if (fill_address(path, key, &address, error) == -1)
        return -1;
    return remove_stale(&address, key, error);
}

int
listen_open_unix(const char *path, const char *key, mode_t mode, struct listen_unix *made,
                 struct error *error)
{
    struct sockaddr_un address;
    struct stat facts;
    mode_t mask;
    int result;

    made->fd = -1;
    made->path = path;
    if (fill_address(path, key, &address, error) == -1 ||
        prepare_directory(path, key, mode, error) == -1 || remove_stale(&address, key, error) == -1)
        return -1;
    made->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (made->fd == -1)
        return error_set(error, "socket: %s", strerror(errno));
    mask = umask(0777 & ~mode); /* not chmod after bind: there is no moment with other modes */
    result = bind(made->fd, (const struct sockaddr *)&address, sizeof(address));
    umask(mask);
    if (result == -1 || listen(made->fd, UNIX_BACKLOG) == -1 || lstat(path, &facts) == -1) {
        error_set(error, "%s %s: %s%s", key, path, strerror(errno),
                  errno == EACCES ? ": its directory must be writable for the agent" : "");
        close(made->fd);
        made->fd = -1;
        return -1;
    }
    made->device = facts.st_dev;
    made->inode = facts.st_ino;
    return 0;
}

int
listen_open_spare(void)
{
    return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

int
listen_accept(int listener, int *spare, bool *exhausted)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    *exhausted = fd == -1 && (errno == EMFILE || errno == ENFILE);
    if (!*exhausted)
        return fd;
    if (*spare != -1)
        close(*spare);
    fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd == -1)
        *spare = listen_open_spare();
    else
        *spare = -1; /* the caller closes fd and then opens a spare again */
    return fd;
}

void
listen_remove_unix(struct listen_unix *made)
{
    struct stat facts;

    if (made->fd == -1)
        return;
    if (lstat(made->path, &facts) == 0 && facts.st_dev == made->device &&
        facts.st_ino == made->inode)
        unlink(made->path);
    close(made->fd);
    made->fd = -1;
}
