/*
 * data.c: reading, writing and closing a connection whose handshake is done. The work is
 * stream.c's; here are only the phase and the error object.
 */
#include "client/internal.h"

#include <errno.h>

static bool
is_open(struct tlsagent_conn *conn)
{
    if (conn == NULL) {
        errno = EINVAL;
        return false;
    }
    if (conn->phase != CONN_DONE) /* (of a moved one the error is set already) */
        conn_set_error(conn, TLSAGENT_E_ARGUMENT, "the handshake is not done");
    else if (conn->stopped)
        conn_set_error(conn, TLSAGENT_E_ARGUMENT,
                       "TLS was stopped: read and write the descriptor itself");
    else if (conn->facts->form == SERVICE_FORM_STREAM) {
        conn_clear_error(conn);
        conn_set_error(conn, TLSAGENT_E_ARGUMENT,
                       "the connection is a plain descriptor: read and write that");
    } else
        return true;
    return false;
}

/* Take the outcome of a call of the stream over into the connection's error object. */
static ssize_t
note(struct tlsagent_conn *conn, ssize_t rc, const struct error *error)
{
    if (conn->code != TLSAGENT_OK)
        conn_clear_error(conn);
    if (rc == -1) {
        conn_set_error(conn, conn->stream.code, "%s", error->text);
        conn->alert = conn->stream.alert;
    }
    return rc;
}

ssize_t
tlsagent_read(struct tlsagent_conn *conn, void *buffer, size_t size)
{
    struct error error;

    if (!is_open(conn))
        return -1;
    error_clear(&error);
    return note(conn, stream_read(&conn->stream, buffer, size, &error), &error);
}

ssize_t
tlsagent_peek(struct tlsagent_conn *conn, void *buffer, size_t size)
{
    struct error error;

    if (!is_open(conn))
        return -1;
    error_clear(&error);
    return note(conn, stream_peek(&conn->stream, buffer, size, &error), &error);
}

size_t
tlsagent_pending(const struct tlsagent_conn *conn)
{
    return conn != NULL && conn->phase == CONN_DONE ? stream_pending(&conn->stream) : 0;
}

ssize_t
tlsagent_write(struct tlsagent_conn *conn, const void *buffer, size_t size)
{
    struct error error;

    if (!is_open(conn))
        return -1;
    error_clear(&error);
    return note(conn, stream_write(&conn->stream, buffer, size, &error), &error);
}

ssize_t
tlsagent_writev(struct tlsagent_conn *conn, const struct iovec *parts, int count)
{
    struct error error;

    if (!is_open(conn))
        return -1;
    error_clear(&error);
    return note(conn, stream_writev(&conn->stream, parts, count, &error), &error);
}

ssize_t
tlsagent_sendfile(struct tlsagent_conn *conn, int file, off_t *offset, size_t size)
{
    struct error error;

    if (!is_open(conn))
        return -1;
    error_clear(&error);
    return note(conn, stream_sendfile(&conn->stream, file, offset, size, &error), &error);
}

int
tlsagent_flush(struct tlsagent_conn *conn)
{
    struct error error;

    if (!is_open(conn))
        return -1;
    error_clear(&error);
    return (int)note(conn, stream_flush(&conn->stream, &error), &error);
}

int
tlsagent_shutdown(struct tlsagent_conn *conn)
{
    struct error error;

    if (!is_open(conn))
        return -1;
    error_clear(&error);
    return (int)note(conn, stream_shutdown(&conn->stream, &error), &error);
}

int
tlsagent_stop(struct tlsagent_conn *conn)
{
    struct error error;
    int rc;

    if (!is_open(conn))
        return -1;
    error_clear(&error);
    rc = (int)note(conn, stream_stop(&conn->stream, &error), &error);
    if (rc == 0) {
        stream_clear(&conn->stream);
        conn->stopped = true;
        conn->owns_fd = false;
    }
    return rc;
}

int
tlsagent_close(struct tlsagent_conn *conn)
{
    int rc = 0;

    if (conn == NULL)
        return 0;
    conn->stream.parting = true;
    if (conn->phase == CONN_DONE && !conn->stopped && conn->facts->form != SERVICE_FORM_STREAM)
        rc = stream_shutdown_send(&conn->stream, NULL);
    if (rc != TLSAGENT_WANT_POLLOUT)
        tlsagent_abandon(conn);
    return rc;
}
