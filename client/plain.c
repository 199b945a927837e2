/*
 * plain.c: the stream form: a finished connection becomes a plain descriptor, for stdio, for a
 * program that is exec'd, for anything that knows nothing of TLS. One relay (client/helper.h) per
 * process serves all of them; it is started when it is first needed, and again if it has died. It
 * outlives us: so the descriptor can be passed on like any other, with tlsagent_conn_send() too.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/helper.h"
#include "client/internal.h"
#include "client/stream_parts.h"

static struct {
    pthread_mutex_t lock;
    int channel; /* -1: none */
    pid_t owner; /* a forked child needs its own: it would share the parent's fate */
} helper = {.lock = PTHREAD_MUTEX_INITIALIZER, .channel = -1};

/* Give with the process's relay; a dead one is replaced, once. */
static enum helper_result
give(const struct helper_gift *gift, struct error *error)
{
    enum helper_result result = HELPER_GONE;

    pthread_mutex_lock(&helper.lock);
    if (helper.channel != -1 && helper.owner != getpid()) {
        close(helper.channel);
        helper.channel = -1;
    }
    for (int attempt = 0; attempt < 2 && result == HELPER_GONE; attempt++) {
        if (helper.channel == -1) {
            helper.channel = helper_start(NULL, error);
            helper.owner = getpid();
        }
        if (helper.channel == -1) {
            result = HELPER_FAILED;
            break;
        }
        result = helper_give(helper.channel, gift, error);
        if (result == HELPER_GONE) {
            close(helper.channel);
            helper.channel = -1;
        }
    }
    pthread_mutex_unlock(&helper.lock);
    if (result == HELPER_GONE)
        error_set(error, "the relay dies as soon as it is started");
    return result;
}

/* What is already decrypted goes into the pair first. The stream keeps it until the relay has the
 * rest: if that fails it can still be read from here. Returns the bytes, -1 with an error. */
static ssize_t
pass_decrypted(struct stream *stream, int fd, struct error *error)
{
    size_t size = stream->plain_end - stream->plain_start;

    if (stream_enter(stream, error) == -1)
        return -1;
    if (size > 0 && send(fd, stream->in.data + stream->plain_start, size,
                         MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)size)
        return error_set(error, "cannot pass on what was already received");
    return (ssize_t)size;
}

static uint64_t
inode_of(int fd)
{
    struct stat status;

    return fstat(fd, &status) == 0 ? (uint64_t)status.st_ino : 0;
}

void
conn_set_plain(struct tlsagent_conn *conn, int fd, bool owns_fd)
{
    conn->fd = fd;
    conn->owns_fd = owns_fd;
    conn->plain_inode = inode_of(fd);
}

int
conn_check_plain(struct tlsagent_conn *conn)
{
    if (conn->plain_inode != 0 && inode_of(conn->fd) == conn->plain_inode)
        return 0;
    return conn_set_error(conn, TLSAGENT_E_ARGUMENT,
                          "fd %d is not the connection's plain descriptor any more", conn->fd);
}

int
tlsagent_stream_fd(struct tlsagent_conn *conn)
{
    struct error error = {""};
    struct helper_gift gift = {.kind = RELAY_PAIR};
    ssize_t passed;
    int pair[2];

    if (conn == NULL) {
        errno = EINVAL;
        return -1;
    }
    if (conn->code != TLSAGENT_OK)
        conn_clear_error(conn);
    if (conn->phase != CONN_DONE)
        return conn_set_error(conn, TLSAGENT_E_ARGUMENT, "the handshake is not done");
    if (conn->facts->form == SERVICE_FORM_STREAM && conn->owns_fd) { /* it came as one */
        conn->owns_fd = false;
        return conn->fd;
    }
    if (conn->facts->form != SERVICE_FORM_RECORDS)
        return conn_set_error(
            conn, TLSAGENT_E_ARGUMENT,
            "only a connection in the records form can become a plain descriptor");
    if (helper_make_pair(pair) == -1)
        return conn_set_error(conn, TLSAGENT_E_SYSTEM, "socketpair: %s", strerror(errno));
    gift.stream = &conn->stream;
    gift.plain = pair[1];
    passed = pass_decrypted(&conn->stream, pair[1], &error);
    gift.passed = passed > 0 ? (size_t)passed : 0;
    if (passed == -1 || give(&gift, &error) != HELPER_OK) {
        close(pair[0]);
        close(pair[1]);
        return conn_set_error(conn, TLSAGENT_E_SYSTEM, "%s", error.text);
    }
    close(pair[1]);
    if (conn->owns_fd)
        close(conn->fd);
    conn_set_plain(conn, pair[0], false);
    conn->facts->form = SERVICE_FORM_STREAM;
    return pair[0];
}
