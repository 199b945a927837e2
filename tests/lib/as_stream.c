/*
 * as_stream.c: the stream form for programs that know only the library's calls, so that the traps
 * are set for it by the same programs that set them for the records form. Linked with --wrap: a
 * finished connection becomes a plain descriptor under the number of its socket, and reading and
 * writing go there, as recv() and send(), past the library.
 *
 * Only what https-server and tests/peers/worker call is here. Errors are those that a program which
 * has but a descriptor can tell: ECONNRESET is a connection that was cut.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/internal.h"

int __real_tlsagent_handshake(struct tlsagent_conn *conn);
int __wrap_tlsagent_handshake(struct tlsagent_conn *conn);
int __real_tlsagent_set_forms(struct tlsagent_conn *conn, unsigned forms);
int __wrap_tlsagent_set_forms(struct tlsagent_conn *conn, unsigned forms);
ssize_t __wrap_tlsagent_read(struct tlsagent_conn *conn, void *buffer, size_t size);
ssize_t __wrap_tlsagent_write(struct tlsagent_conn *conn, const void *buffer, size_t size);
ssize_t __wrap_tlsagent_writev(struct tlsagent_conn *conn, const struct iovec *parts, int count);
int __wrap_tlsagent_flush(struct tlsagent_conn *conn);
int __wrap_tlsagent_shutdown(struct tlsagent_conn *conn);
int __wrap_tlsagent_close(struct tlsagent_conn *conn);

int
__wrap_tlsagent_set_forms(struct tlsagent_conn *conn, unsigned forms)
{
    (void)forms;
    return __real_tlsagent_set_forms(conn, TLSAGENT_FORM_RECORDS | TLSAGENT_FORM_STREAM);
}

/* The plain descriptor gets the number that the program knows the connection by. */
static int
make_plain(struct tlsagent_conn *conn)
{
    int number = conn->fd, flags = fcntl(number, F_GETFL);
    bool owned = conn->owns_fd;
    int plain = tlsagent_stream_fd(conn);

    if (plain == -1)
        return -1;
    if (dup3(plain, number, O_CLOEXEC) == -1 || fcntl(number, F_SETFL, flags & O_NONBLOCK) == -1)
        return conn_set_error(conn, TLSAGENT_E_SYSTEM, "dup3: %s", strerror(errno));
    close(plain);
    conn_set_plain(conn, number, owned);
    return 0;
}

int
__wrap_tlsagent_handshake(struct tlsagent_conn *conn)
{
    int rc = __real_tlsagent_handshake(conn);

    return rc == 0 && strcmp(tlsagent_conn_form(conn), "records") == 0 ? make_plain(conn) : rc;
}

ssize_t
__wrap_tlsagent_read(struct tlsagent_conn *conn, void *buffer, size_t size)
{
    ssize_t n = recv(conn->fd, buffer, size, 0);
    int number = errno;

    conn_clear_error(conn);
    if (n >= 0)
        return n;
    if (number == EAGAIN || number == EINTR)
        return TLSAGENT_WANT_POLLIN;
    return conn_set_error(conn, number == ECONNRESET ? TLSAGENT_E_TRUNCATED : TLSAGENT_E_SYSTEM,
                          "read from the relay: %s", strerror(number));
}

ssize_t
__wrap_tlsagent_writev(struct tlsagent_conn *conn, const struct iovec *parts, int count)
{
    struct msghdr message = {.msg_iov = (struct iovec *)parts, .msg_iovlen = (size_t)count};
    ssize_t n = sendmsg(conn->fd, &message, MSG_NOSIGNAL);
    int number = errno;

    conn_clear_error(conn);
    if (n >= 0)
        return n;
    if (number == EAGAIN || number == EINTR)
        return TLSAGENT_WANT_POLLOUT;
    return conn_set_error(conn, TLSAGENT_E_CLOSED, "write to the relay: %s", strerror(number));
}

ssize_t
__wrap_tlsagent_write(struct tlsagent_conn *conn, const void *buffer, size_t size)
{
    struct iovec part = {(void *)buffer, size};

    return __wrap_tlsagent_writev(conn, &part, 1);
}

int
__wrap_tlsagent_flush(struct tlsagent_conn *conn)
{
    conn_clear_error(conn);
    return 0; /* the relay has what send() took */
}

int
__wrap_tlsagent_shutdown(struct tlsagent_conn *conn)
{
    char data[4096];
    ssize_t n;

    shutdown(conn->fd, SHUT_WR);
    do
        n = __wrap_tlsagent_read(conn, data, sizeof(data));
    while (n > 0);
    return (int)n;
}

/* The descriptor is closed by its owner, as ever: that is when the relay says close_notify. */
int
__wrap_tlsagent_close(struct tlsagent_conn *conn)
{
    tlsagent_abandon(conn);
    return 0;
}
