/*
 * move.c: a live connection goes to another process, with its socket and its state
 * (protocol/move.h).
 *
 * Two owners of one record state would reuse nonces. So the sender's object is dead before the
 * message leaves, and revives only if the kernel did not take the message. The kernel takes it
 * whole or not at all; once it has it, there is no way back: if the receiver dies first, the kernel
 * closes the connection.
 *
 * In the stream form the relay owns the record state, before and after: what moves is the plain
 * descriptor, with the facts.
 *
 * Trust: the other process may be another user's. What it sent is checked here and in
 * protocol/move.c; a message that does not fit gives a connection that has failed, with a text.
 */
#include "client/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/crypto.h>

#include "client/stream_move.h"
#include "protocol/move.h"

#define SEALS   (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)
#define FDS_MAX 2 /* of one message */

/* A message that is ready to go. */
struct parcel {
    uint16_t type;
    uint8_t *body; /* CHANNEL_BODY_MAX bytes; owned */
    size_t size;
    int fds[FDS_MAX]; /* the connection's, not owned; a memfd, owned, or -1 */
};

/* A Unix SEQPACKET socket: the only kind that keeps a message whole and tells of its end. */
static int
check_carrier(struct tlsagent_conn *conn, int unix_socket)
{
    int domain = 0, type = 0;
    socklen_t size = sizeof(int);

    if (getsockopt(unix_socket, SOL_SOCKET, SO_DOMAIN, &domain, &size) == -1 ||
        getsockopt(unix_socket, SOL_SOCKET, SO_TYPE, &type, &size) == -1)
        return conn_set_error(conn, TLSAGENT_E_ARGUMENT, "fd %d is not a socket: %s", unix_socket,
                              strerror(errno));
    if (domain != AF_UNIX || type != SOCK_SEQPACKET)
        return conn_set_error(conn, TLSAGENT_E_ARGUMENT,
                              "fd %d is not a Unix socket of type SOCK_SEQPACKET: connections move "
                              "through no other",
                              unix_socket);
    return 0;
}

/* ---- sending ---- */

static bool
write_all(int fd, const uint8_t *data, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, data, size);

        if (n == -1 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        data += n;
        size -= (size_t)n;
    }
    return true;
}

/* Waiting ciphertext, sealed so that the receiver sees at once that nobody changes it. -1: errno.
 */
static int
make_memfd(const struct move_connection *m)
{
    int fd = memfd_create("tlsagent-move", MFD_CLOEXEC | MFD_ALLOW_SEALING), saved;

    if (fd == -1)
        return -1;
    if (write_all(fd, m->received, m->received_size) && write_all(fd, m->unsent, m->unsent_size) &&
        fcntl(fd, F_ADD_SEALS, SEALS) == 0)
        return fd;
    saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

static void
parcel_clear(struct parcel *parcel)
{
    if (parcel->body != NULL)
        OPENSSL_cleanse(parcel->body, CHANNEL_BODY_MAX);
    free(parcel->body);
    if (parcel->fds[1] != -1)
        close(parcel->fds[1]);
}

static void
describe_facts(const struct tlsagent_conn *conn, struct move_connection *m)
{
    const struct conn_facts *facts = conn->facts;
    if (facts->resumed)
        m->flags |= MOVE_RESUMED;
    if (conn->plain)
        m->flags |= MOVE_PLAIN;
    m->form = facts->form;
    m->agent_pid = facts->agent_pid;
    memcpy(m->context, facts->text, strlen(facts->text) + 1);
    memcpy(m->sni, facts->text + facts->sni, strlen(facts->text + facts->sni) + 1);
    memcpy(m->alpn, facts->text + facts->alpn, strlen(facts->text + facts->alpn) + 1);
    m->chain = (const uint8_t *)facts->text + facts->chain;
    m->chain_size = facts->chain_size;
}

/* Form STREAM: the relay has the records, the descriptor is all that moves. */
static void
describe_plain(const struct tlsagent_conn *conn, struct move_connection *m)
{
    m->state.suite = conn->facts->suite->id;
    m->state.max_fragment = TRAFFIC_PLAINTEXT_MAX;
    m->owed_alert = m->read_failure.alert = m->write_failure.alert = UINT8_MAX;
}

/* Everything that can fail before the connection is given away. */
static int
parcel_pack(struct parcel *parcel, struct tlsagent_conn *conn)
{
    struct move_connection m = {0};
    struct error error = {""};
    int rc = 0;

    *parcel = (struct parcel){.type = MOVE_CONNECTION, .fds = {conn->fd, -1}};
    describe_facts(conn, &m);
    if (m.form == SERVICE_FORM_STREAM) {
        if (conn_check_plain(conn) == -1)
            return -1;
        describe_plain(conn, &m);
    } else if (stream_describe(&conn->stream, &m, &error) == -1) {
        return conn_set_error(conn, conn->stream.code, "%s", error.text);
    }
    parcel->body = malloc(CHANNEL_BODY_MAX);
    if (parcel->body == NULL) {
        rc = conn_set_error(conn, TLSAGENT_E_MEMORY, "out of memory");
    } else {
        parcel->size = move_put_connection(&m, false, parcel->body, CHANNEL_BODY_MAX);
        if (parcel->size == 0) {
            parcel->type = MOVE_CONNECTION_LARGE;
            parcel->size = move_put_connection(&m, true, parcel->body, CHANNEL_BODY_MAX);
            parcel->fds[1] = make_memfd(&m);
            if (parcel->fds[1] == -1)
                rc = conn_set_error(conn, TLSAGENT_E_SYSTEM,
                                    "no memory file for the bytes that wait: %s", strerror(errno));
        }
    }
    OPENSSL_cleanse(&m.state, sizeof(m.state));
    if (rc == -1)
        parcel_clear(parcel);
    return rc;
}

/* The connection is alive again: say why it was not sent. */
static int
revive(struct tlsagent_conn *conn, enum channel_result result, int number)
{
    conn->phase = CONN_DONE;
    if (result == CHANNEL_AGAIN)
        return TLSAGENT_WANT_POLLOUT;
    if (result == CHANNEL_CLOSED)
        return conn_set_error(conn, TLSAGENT_E_SYSTEM,
                              "the other process is gone: the connection was not sent");
    if (number == ETOOMANYREFS)
        return conn_set_error(conn, TLSAGENT_E_BUSY,
                              "too many descriptors are under way to other processes: try again "
                              "when some have been received");
    return conn_set_error(conn, TLSAGENT_E_SYSTEM, "the connection was not sent: %s",
                          strerror(number));
}

int
tlsagent_conn_send(struct tlsagent_conn *conn, int unix_socket)
{
    enum channel_result result;
    struct parcel parcel;
    int flags, number, rc = 0;

    if (conn == NULL) {
        errno = EINVAL;
        return -1;
    }
    if (conn->phase == CONN_MOVED)
        return -1;
    conn_clear_error(conn);
    if (conn->phase != CONN_DONE)
        return conn_set_error(conn, TLSAGENT_E_ARGUMENT, "the handshake is not done");
    if (conn->stopped)
        return conn_set_error(conn, TLSAGENT_E_ARGUMENT,
                              "TLS was stopped: pass the descriptor itself on");
    flags = fcntl(unix_socket, F_GETFL);
    if (check_carrier(conn, unix_socket) == -1 || parcel_pack(&parcel, conn) == -1)
        return -1;
    if (conn->agent != NULL && agent_is_ours(conn->agent))
        conn_take(conn);

    conn->phase = CONN_MOVED;
    do
        result = channel_send(unix_socket, parcel.type, parcel.body, parcel.size, parcel.fds,
                              parcel.fds[1] != -1 ? 2 : 1);
    while (result == CHANNEL_AGAIN && (flags & O_NONBLOCK) == 0 &&
           poll(&(struct pollfd){.fd = unix_socket, .events = POLLOUT}, 1, -1) != 0);
    number = errno;
    if (result == CHANNEL_OK) {
        stream_clear(&conn->stream);
        conn_set_error(conn, TLSAGENT_E_MOVED, "the connection was moved to another process");
    } else {
        rc = revive(conn, result, number);
    }
    parcel_clear(&parcel);
    return rc;
}

/* ---- receiving ---- */

/* A message must not be taken from the queue when its fds would be lost on the way. -1: errno. */
static int
check_room_for_fds(int any)
{
    int fds[FDS_MAX], rc = 0, saved;

    for (int i = 0; i < FDS_MAX; i++) {
        fds[i] = fcntl(any, F_DUPFD_CLOEXEC, 0);
        if (fds[i] == -1)
            rc = -1;
    }
    saved = errno;
    for (int i = 0; i < FDS_MAX; i++)
        if (fds[i] != -1)
            close(fds[i]);
    errno = saved;
    return rc;
}

/* A stream socket that may be a connection. That it is connected is not asked: the peer may have
 * reset it meanwhile, and the first read says so. */
static bool
is_connection(int fd, uint8_t form)
{
    int type = 0, listening = 1, domain = 0;
    socklen_t size = sizeof(int);

    if (form == SERVICE_FORM_STREAM &&
        (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == -1 || domain != AF_UNIX))
        return false;
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM &&
           getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) == 0 && listening == 0;
}

/* The waiting ciphertext out of the sender's memfd. Only a memfd, sealed: reading anything else
 * might never end. Returns NULL with a text. */
static uint8_t *
read_memfd(int fd, size_t size, const char **fault)
{
    int seals = fcntl(fd, F_GET_SEALS);
    uint8_t *bytes = NULL;
    struct stat status;
    size_t done = 0;
    ssize_t n;

    *fault = "the other process sent something that is not a sealed memory file";
    if (seals == -1 || (seals & SEALS) != SEALS || fstat(fd, &status) == -1)
        return NULL;
    *fault = "the other process sent a memory file of another size than it said";
    if (status.st_size < 0 || (uint64_t)status.st_size != size)
        return NULL;
    *fault = "out of memory: a connection was lost";
    bytes = malloc(size > 0 ? size : 1);
    if (bytes == NULL)
        return NULL;
    *fault = "the other process sent a memory file that cannot be read";
    for (; done < size; done += (size_t)n) {
        n = pread(fd, bytes + done, size - done, (off_t)done);
        if (n <= 0) {
            free(bytes);
            return NULL;
        }
    }
    return bytes;
}

/* The facts as if the agent had just told them. NULL: no memory. */
static struct conn_facts *
restore_facts(const struct move_connection *m)
{
    struct service_finished said = {
        .form = m->form,
        .resumed = (m->flags & MOVE_RESUMED) != 0,
        .agent_pid = m->agent_pid,
        .state.suite = m->state.suite,
        .chain = m->chain,
        .chain_size = m->chain_size,
    };

    memcpy(said.context, m->context, sizeof(said.context));
    memcpy(said.sni, m->sni, sizeof(said.sni));
    memcpy(said.alpn, m->alpn, sizeof(said.alpn));
    return facts_new(&said);
}

/* All is checked but the ciphertext of a LARGE message: go on with it. */
static int
unpack_connection(struct tlsagent_conn *conn, struct move_connection *m,
                  struct channel_message *message)
{
    struct error error = {""};
    uint8_t *bytes = NULL;
    const char *fault;
    int rc = 0;

    if (message->type == MOVE_CONNECTION_LARGE) {
        bytes = read_memfd(message->fds[1], m->received_size + m->unsent_size, &fault);
        if (bytes == NULL)
            return conn_set_error(conn, TLSAGENT_E_MOVED, "%s", fault);
        m->received = bytes;
        m->unsent = bytes + m->received_size;
    }
    conn->facts = restore_facts(m);
    if (conn->facts == NULL)
        rc = conn_set_error(conn, TLSAGENT_E_MEMORY, "out of memory: a connection was lost");
    else if (m->form != SERVICE_FORM_STREAM &&
             stream_restore(&conn->stream, message->fds[0], m, &error) == -1)
        rc = conn_set_error(conn, conn->stream.code, "%s", error.text);
    free(bytes);
    if (rc == -1)
        return -1;
    conn->fd = channel_take_fd(message, 0);
    conn->owns_fd = true;
    if (m->form == SERVICE_FORM_STREAM)
        conn_set_plain(conn, conn->fd, true);
    conn->plain = (m->flags & MOVE_PLAIN) != 0;
    conn->phase = CONN_DONE;
    return 0;
}

static int
unpack(struct tlsagent_conn *conn, struct channel_message *message)
{
    struct move_connection m;
    bool large = message->type == MOVE_CONNECTION_LARGE;
    int rc;

    if (!move_is_format(message->body, message->size))
        return conn_set_error(conn, TLSAGENT_E_MOVED,
                              "the other process sent a connection in a format of another "
                              "libtlsagent: a connection was lost");
    if (!move_get_connection(&m, large, message->body, message->size) ||
        !facts_chain_valid(m.chain, m.chain_size))
        rc =
            conn_set_error(conn, TLSAGENT_E_MOVED, "the other process sent a malformed connection");

    else if (!is_connection(message->fds[0], m.form))
        rc = conn_set_error(conn, TLSAGENT_E_MOVED,
                            "the other process sent something that is not a stream socket");
    else
        rc = unpack_connection(conn, &m, message);
    OPENSSL_cleanse(&m, sizeof(m));
    return rc;
}

/* Take one message. False: there is none, errno says why. */
static bool
receive(struct tlsagent_conn *conn, int unix_socket, uint8_t *buffer)
{
    struct channel_message message;
    struct error error = {""};

    switch (channel_receive(unix_socket, move_rules, move_rule_count, buffer, CHANNEL_BUFFER_SIZE,
                            &message, &error)) {
    case CHANNEL_OK:
        unpack(conn, &message);
        channel_message_clear(&message);
        return true;
    case CHANNEL_AGAIN:
        errno = EAGAIN;
        return false;
    case CHANNEL_CLOSED:
        errno = 0;
        return false;
    case CHANNEL_REFUSED:
        conn_set_error(conn, TLSAGENT_E_MOVED,
                       "the other process sent something that is not a connection: %s", error.text);
        return true;
    default:
        conn_set_error(conn, TLSAGENT_E_SYSTEM, "cannot receive a connection: %s", error.text);
        return true;
    }
}

struct tlsagent_conn *
tlsagent_conn_receive(int unix_socket)
{
    struct tlsagent_conn *conn = conn_new(-1);
    uint8_t *buffer = malloc(CHANNEL_BUFFER_SIZE);
    int flags = fcntl(unix_socket, F_GETFL), saved;
    bool came = false;

    if (conn == NULL || buffer == NULL) {
        errno = ENOMEM;
        goto out;
    }
    conn->phase = CONN_FAILED;
    came = check_carrier(conn, unix_socket) == -1;
    while (!came) {
        if (check_room_for_fds(unix_socket) == -1)
            break;
        came = receive(conn, unix_socket, buffer);
        if (came || errno != EAGAIN || (flags & O_NONBLOCK) != 0)
            break;
        poll(&(struct pollfd){.fd = unix_socket, .events = POLLIN}, 1, -1);
    }
out:
    saved = errno;
    if (buffer != NULL)
        OPENSSL_cleanse(buffer, CHANNEL_BUFFER_SIZE);
    free(buffer);
    if (!came) {
        free(conn);
        conn = NULL;
    }
    errno = saved;
    return conn;
}
