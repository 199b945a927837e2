/* helper.c: see helper.h. */
#include "client/helper.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <openssl/crypto.h>

#include "client/record.h"
#include "client/stream_parts.h"

#define CHANNEL_FD 3 /* as in client/relay/main.c */
#define START_MS   10000
#define GIVE_MS    5000

/* Bytes that may wait for the relay, as SO_SNDBUF takes them: the kernel doubles them. A writer
 * that was full is woken when no more than a quarter is still taken, and the relay always leaves a
 * byte unread (protocol/relay.h), with the whole of the packet that it came in: up to 50 KB of a
 * write(), 70 KB of a sendfile(). A quarter of the default is 52 KB. */
#define PLAIN_BUFFER 163840

extern char **environ;

static int
spawn(const char *program, int channel, pid_t *pid)
{
    char name[] = "tlsagent-relay", option[] = "--channel";
    char *argv[] = {name, option, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    int rc = posix_spawn_file_actions_init(&actions);

    if (rc != 0)
        return rc;
    rc = posix_spawnattr_init(&attributes);
    if (rc != 0) {
        posix_spawn_file_actions_destroy(&actions);
        return rc;
    }
    sigemptyset(&none);
    if ((rc = posix_spawnattr_setsigmask(&attributes, &none)) == 0 &&
        (rc = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK)) == 0 &&
        (rc = posix_spawn_file_actions_adddup2(&actions, channel, CHANNEL_FD)) == 0 &&
        (rc = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)) == 0 &&
        (rc = posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0)) == 0)
        rc = posix_spawn(pid, program, &actions, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return rc;
}

/* It says READY in its sandbox, or closes the channel. */
static int
await_ready(int channel, const char *program, struct error *error)
{
    struct channel_message message;
    uint8_t *buffer = malloc(CHANNEL_BUFFER_SIZE);
    enum channel_result result = CHANNEL_FAILED;
    uint16_t protocol = 0;
    int rc = -1;

    if (buffer != NULL)
        result = channel_receive_wait(channel, relay_worker_rules, relay_worker_rule_count, buffer,
                                      CHANNEL_BUFFER_SIZE, &message, error, START_MS);
    if (buffer == NULL)
        error_set(error, "out of memory");
    else if (result != CHANNEL_OK)
        error_set(error, "the relay %s did not start: it may have said why on stderr", program);
    else if (message.type != RELAY_READY ||
             !relay_get_ready(&protocol, message.body, message.size) || protocol != RELAY_PROTOCOL)
        error_set(error, "the relay %s is of another version: install both from one build",
                  program);
    else
        rc = 0;
    free(buffer);
    return rc;
}

int
helper_start(const char *program, struct error *error)
{
    int pair[2], rc;
    pid_t pid;

    if (program == NULL)
        program = secure_getenv("TLSAGENT_RELAY");
    if (program == NULL || program[0] == '\0')
        program = TLSAGENT_LIBEXECDIR "/tlsagent-relay";
    if (channel_pair(pair) == -1)
        return error_set(error, "socketpair: %s", strerror(errno));
    rc = spawn(program, pair[1], &pid);
    close(pair[1]);
    if (rc != 0) {
        close(pair[0]);
        return error_set(error,
                         "cannot start the relay %s: %s (is tlsagent installed? $TLSAGENT_RELAY "
                         "can name another place)",
                         program, strerror(rc));
    }
    /* It forks and ends at once. Somebody else's wait() may have been faster. */
    while (waitpid(pid, NULL, 0) == -1 && errno == EINTR)
        continue;
    if (await_ready(pair[0], program, error) == 0)
        return pair[0];
    close(pair[0]);
    return -1;
}

int
helper_make_pair(int pair[2])
{
    static const uint8_t byte;
    int saved;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == -1)
        return -1;
    (void)setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &(int){PLAIN_BUFFER}, sizeof(int));
    if (send(pair[0], &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1)
        return 0;
    saved = errno;
    close(pair[0]);
    close(pair[1]);
    errno = saved;
    return -1;
}

/* Only what the message can carry may be there: keys, and ciphertext not yet opened. */
static int
check_quiet(struct stream *stream, size_t passed, struct error *error)
{
    if (stream_enter(stream, error) == -1)
        return -1;
    if (stream->read_failure.text != NULL)
        return stream_report(stream, &stream->read_failure, error);
    if (stream->write_failure.text != NULL)
        return stream_report(stream, &stream->write_failure, error);
    if (stream->ended || stream->closed)
        return stream_refuse(stream, TLSAGENT_E_ARGUMENT,
                             "a connection that is closing cannot be given away", error);
    if (!buffer_is_empty(&stream->out) || record_owes(stream->record))
        return stream_refuse(stream, TLSAGENT_E_ARGUMENT,
                             "flush a connection before giving it away", error);
    if (stream->plain_end - stream->plain_start != passed || stream->record->skip != 0 ||
        stream->record->message_size != 0)
        return stream_refuse(stream, TLSAGENT_E_ARGUMENT,
                             "read what waits before giving a connection away", error);
    return 0;
}

enum helper_result
helper_give(int channel, const struct helper_gift *gift, struct error *error)
{
    struct stream moved = *gift->stream;
    struct relay_take take = {.id = gift->id, .plain = (uint8_t)gift->kind, .tell = gift->tell};
    int fds[2] = {moved.fd, gift->plain};
    enum channel_result result = CHANNEL_FAILED;
    size_t room = 1024 + RELAY_EARLY_MAX, size;
    uint8_t *body;

    if (check_quiet(&moved, gift->passed, error) == -1)
        return HELPER_FAILED;
    body = malloc(room);
    if (body == NULL) {
        error_set(error, "out of memory");
        return HELPER_FAILED;
    }
    take.is_server = moved.record->is_server;
    take.state = moved.record->state;
    take.early = moved.in.data + moved.in.start;
    take.early_size = moved.in.end - moved.in.start;
    size = relay_put_take(&take, body, room);
    *gift->stream = (struct stream){.fd = -1, .alert = STREAM_NO_ALERT}; /* dead from here on */
    if (size > 0)
        result = channel_send_wait(channel, RELAY_TAKE, body, size, fds, 2, GIVE_MS);
    if (result == CHANNEL_OK)
        stream_clear(&moved);
    else
        *gift->stream = moved; /* nothing left: it is ours again */
    OPENSSL_cleanse(&take, sizeof(take));
    OPENSSL_cleanse(body, room);
    free(body);
    if (result == CHANNEL_OK)
        return HELPER_OK;
    if (result == CHANNEL_CLOSED)
        return HELPER_GONE;
    error_set(error,
              size == 0 ? "more than %d bytes wait to be read: read them first"
                        : "the relay does not take connections (it has %d ms)",
              size == 0 ? RELAY_EARLY_MAX : GIVE_MS);
    return HELPER_FAILED;
}
