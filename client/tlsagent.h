/*
 * tlsagent.h: the whole public surface of libtlsagent.
 *
 * A program hands the agent a connected socket; the agent does the TLS handshake with keys that the
 * program can never read; the program goes on with the same socket and reads and writes plaintext
 * here.
 *
 * Errors: functions that return int or ssize_t return -1 and leave a text in the connection's (or
 * handle's) error object, see tlsagent_error(). Functions on non-blocking sockets may also return
 * TLSAGENT_WANT_POLLIN or TLSAGENT_WANT_POLLOUT: poll, then make the same call again.
 * Nothing here ever raises SIGPIPE.
 *
 * Threads: one handle per thread. A finished connection may be used from any one thread at a time.
 * Fork: a child must not use its parent's handle and connections; it gets a clear error, no byte is
 * written. It may free them (tlsagent_abandon(), tlsagent_free()) and open a handle of its own. A
 * connection that a child shall have is given to it on purpose: tlsagent_conn_send().
 */
#ifndef TLSAGENT_H
#define TLSAGENT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif
#ifdef __GNUC__
#pragma GCC visibility push(default) /* the library is compiled with everything hidden */
#endif

#define TLSAGENT_WANT_POLLIN  -2
#define TLSAGENT_WANT_POLLOUT -3

/* Hand-back forms, for tlsagent_set_forms(). */
#define TLSAGENT_FORM_RECORDS 1 /* TLS records are sealed and opened in this process */
#define TLSAGENT_FORM_KERNEL  2 /* ... in the kernel: this process never has traffic keys */
/* The kernel form for plain read() and write() on the descriptor; not to be combined. Any record of
 * the peer that is not data, even its close_notify, makes a plain read() fail with EIO, and nobody
 * sends ours unless tlsagent_close() is called. */
#define TLSAGENT_FORM_KERNEL_PLAIN 8
#define TLSAGENT_FORM_STREAM       4 /* ... until tlsagent_stream_fd() */

/* Codes of the last error. */
enum tlsagent_error_code {
    TLSAGENT_OK = 0,
    TLSAGENT_E_MEMORY,
    TLSAGENT_E_ARGUMENT,      /* the caller's mistake */
    TLSAGENT_E_AGENT,         /* the agent cannot be reached, or went away */
    TLSAGENT_E_NOT_PERMITTED, /* no such context, or not for this user */
    TLSAGENT_E_BUSY,          /* a limit of the agent was reached: try again later */
    TLSAGENT_E_DEADLINE,      /* the peer did not finish the handshake in time */
    TLSAGENT_E_CLOSED,        /* the peer closed or reset the connection */
    TLSAGENT_E_TRUNCATED,     /* the peer's data ended without close_notify: it may be incomplete */
    TLSAGENT_E_ALERT,         /* the peer sent a fatal alert */
    TLSAGENT_E_HANDSHAKE,     /* the handshake failed: we refused the peer */
    TLSAGENT_E_RECORD,        /* the peer broke the record protocol; an alert was sent */
    TLSAGENT_E_FORKED,        /* this connection belongs to the parent process */
    TLSAGENT_E_SYSTEM,        /* a system call failed */
    TLSAGENT_E_RETRY, /* the agent's process died during the handshake; the peer may try again */
    TLSAGENT_E_MOVED, /* it was moved to another process; or what came from one is no connection */
    TLSAGENT_E_REKEY, /* new keys are due, and the kernel that has the keys cannot change them */
    TLSAGENT_E_FORM,  /* the connection's form cannot do that */
};

struct tlsagent;      /* a handle to the agent */
struct tlsagent_conn; /* one connection */

/* ---- the agent ---- */

/* Open a handle. path: the agent's socket, NULL for $TLSAGENT_SOCK or the default. Returns NULL
 * with errno only if memory or descriptors are short. The agent is looked for at once; if it is not
 * there every operation that needs it says so, and the library tries again each time (at most every
 * 100 ms). The agent sees the user and groups that the process has now: open a handle after giving
 * up root. */
struct tlsagent *tlsagent_open(const char *path);

/* Close the handle. Handshakes in progress are cancelled and fail; connections that the caller has
 * live on and must be closed one by one; those that tlsagent_next() has not yet given are closed.
 * NULL-safe. */
void tlsagent_free(struct tlsagent *agent);

/* The one descriptor to poll for reading for all handshakes in progress and deliveries: when it is
 * readable call tlsagent_next() until it returns NULL (level-triggered: fetching fewer is fine). It
 * stays the same for the handle's life, also while there is no agent, and belongs to the handle. */
int tlsagent_fd(struct tlsagent *agent);

/* A connection whose handshake has finished or failed since, or one that the agent accepted for us
 * (after tlsagent_pull()); NULL if there is none now. Never blocks. A connection that is returned
 * here is the caller's; tlsagent_handshake() on it says at once how it went. Each is returned once,
 * and not at all if tlsagent_handshake() has already returned 0 or -1 for it. A failure to pull
 * is not a connection: tlsagent_agent_error() has it. */
struct tlsagent_conn *tlsagent_next(struct tlsagent *agent);

/* 0 if the agent answers, -1 if not: tlsagent_agent_error() says why. Blocks for at most a second.
 */
int tlsagent_check(struct tlsagent *agent);
const char *tlsagent_agent_error(const struct tlsagent *agent);
int tlsagent_agent_error_code(const struct tlsagent *agent);

/* ---- making connections ---- */

/* Prepare a server handshake on fd, a connected stream socket, with the named context of the agent.
 * At any time in its life (STARTTLS). The caller keeps owning fd: tlsagent_close() does not close
 * it. Nothing is sent yet. NULL if memory is short or the arguments are impossible:
 * tlsagent_agent_error() says why. */
struct tlsagent_conn *tlsagent_accept_fd(struct tlsagent *agent, const char *context, int fd);

/* Say that this handle can take `connections` more connections that the agent accepts for the
 * context (its `listen`). They come from tlsagent_next() or tlsagent_accept(). Each
 * connection taken is replaced by the library, so this is the number that may be waiting
 * here at any time: 1 to 16, and per cell. A later call for the same context may raise the number,
 * not lower it. Returns 0 or -1 (tlsagent_agent_error()); after -1 with TLSAGENT_E_AGENT the wish
 * stands and is fulfilled when the agent is there. It survives restarts of the agent. The
 * connection owns its fd. It is in blocking mode, as accept() would give it; set O_NONBLOCK on
 * tlsagent_conn_fd() if that is wanted. */
int tlsagent_pull(struct tlsagent *agent, const char *context, unsigned connections);

/* Before the first tlsagent_pull() or tlsagent_accept() of the handle: in which forms these
 * connections may come, as tlsagent_set_forms() says it for those that one hands to the agent
 * oneself. Returns 0 or -1 (TLSAGENT_E_ARGUMENT). A pull that no cell can fulfil in these forms is
 * answered with an error of the handle. */
int tlsagent_pull_forms(struct tlsagent *agent, unsigned forms);

/* Wait for the next connection that the agent accepted (pulls one if tlsagent_pull() was not
 * called). timeout_ms: -1 for ever. NULL: none came, or an error (tlsagent_agent_error_code() !=
 * 0). While there is no agent an error comes every 100 ms: calling again is the way to wait. */
struct tlsagent_conn *tlsagent_accept(struct tlsagent *agent, const char *context, int timeout_ms);

/* Do the handshake. 0: done. -1: failed, tlsagent_error(). On a blocking fd it waits; on a
 * non-blocking one (O_NONBLOCK) it returns TLSAGENT_WANT_POLLIN: poll tlsagent_fd() of the agent,
 * then take finished ones from tlsagent_next() (or call this again; 0 and -1 take the connection
 * off tlsagent_next()'s list). Do not read or write the fd meanwhile. If the agent's process dies
 * the library asks another one, where it can show that no byte was exchanged with the peer (never
 * for STARTTLS or Unix sockets); else the error is TLSAGENT_E_RETRY, and the socket is shut down.
 */
int tlsagent_handshake(struct tlsagent_conn *conn);

/* Before the handshake: how long it may take (milliseconds, 0: no limit of ours; the context's own
 * still holds), and which hand-back forms are acceptable (or-ed; 0: the best for a library caller).
 */
int tlsagent_set_deadline(struct tlsagent_conn *conn, unsigned milliseconds);
int tlsagent_set_forms(struct tlsagent_conn *conn, unsigned forms);

/* A pointer of the caller's, for event loops. */
void tlsagent_set_data(struct tlsagent_conn *conn, void *data);
void *tlsagent_data(const struct tlsagent_conn *conn);

/* ---- data ---- */

/* Read up to size bytes of plaintext. 0: the peer closed cleanly (close_notify). An end without
 * close_notify is -1 with TLSAGENT_E_TRUNCATED. */
ssize_t tlsagent_read(struct tlsagent_conn *conn, void *buffer, size_t size);

/* As tlsagent_read(), but the bytes stay. */
ssize_t tlsagent_peek(struct tlsagent_conn *conn, void *buffer, size_t size);

/* Bytes that can be read without reading the fd: decrypted ones plus those of complete records not
 * yet decrypted (an upper bound for the latter). 0 means: poll the fd. After a read, ask this
 * before polling. */
size_t tlsagent_pending(const struct tlsagent_conn *conn);

/* Write. Returns the number of plaintext bytes accepted, which may be fewer than size on a
 * non-blocking fd; accepted bytes are sealed and will be sent before anything else, by later
 * calls of write, flush or close. size 0 returns 0. */
ssize_t tlsagent_write(struct tlsagent_conn *conn, const void *buffer, size_t size);
ssize_t tlsagent_writev(struct tlsagent_conn *conn, const struct iovec *parts, int count);

/* Write up to size bytes of a file from *offset on; *offset is advanced by what was accepted. As
 * tlsagent_write(), and 0 at the file's end. In the kernel form the bytes do not pass through this
 * process. */
ssize_t tlsagent_sendfile(struct tlsagent_conn *conn, int file, off_t *offset, size_t size);

/* Send what was accepted and not yet sent. 0: all is with the kernel. WANT_POLLOUT: not yet. In the
 * kernel form it also looks how much the key has protected, whoever sent it: see libtlsagent(3). */
int tlsagent_flush(struct tlsagent_conn *conn);

/* ---- a plain descriptor ---- */

/* Turn a finished connection (records form) into a plain descriptor: a new one, one end of a Unix
 * socket pair, blocking and close-on-exec, that carries plaintext and belongs to the caller. It can
 * be anything's stdin and stdout: a FILE *, a program that is exec'd. A helper process of this user
 * (tlsagent-relay) goes on with TLS behind it, also when this process has ended.
 * shutdown(SHUT_WR) sends close_notify; the peer's close_notify reads as the end; a peer that goes
 * without it reads as ECONNRESET behind its last byte. The connection's own fd must not be used any
 * more: the caller closes it if it is the caller's. The facts stay until tlsagent_close(), which no
 * longer touches the peer, and tlsagent_conn_fd() says the plain descriptor. Of a connection that
 * tlsagent_conn_receive() brought in the stream form: its descriptor, which is the caller's from
 * then on. -1: tlsagent_error(); the connection is as it was. */
int tlsagent_stream_fd(struct tlsagent_conn *conn);

/* ---- closing ---- */

/* Send close_notify and free the connection; do not wait for the peer's. Closes the fd only
 * if it belongs to the connection. If it is yours, close it next: close_notify goes out with the
 * end of the connection, in one packet (or a fraction of a second later). In the middle of a
 * handshake: as tlsagent_abandon(). On a non-blocking fd it may return TLSAGENT_WANT_POLLOUT
 * (accepted bytes are still to be sent): the same call again; otherwise the connection is gone,
 * also after -1. */
int tlsagent_close(struct tlsagent_conn *conn);

/* Send close_notify and wait for the peer's; data that comes before it is discarded. Returns 0 when
 * both directions are closed, -1, or WANT_POLLIN/POLLOUT. The connection is not freed:
 * tlsagent_close() follows. */
int tlsagent_shutdown(struct tlsagent_conn *conn);

/* End TLS and go on without it on the same socket: send close_notify and read up to the peer's, not
 * a byte further. 0: done: read and write tlsagent_conn_fd(), which is the caller's own now
 * (tlsagent_close() only frees the connection; tlsagent_accept_fd() may begin TLS again).
 * 1: the peer still had data: tlsagent_read() until it returns 0, then the same call again.
 * -1, or WANT_POLLIN/POLLOUT: the same call again. Not in the kernel form (TLSAGENT_E_FORM,
 * nothing happened): Linux does not take TLS off a socket; ask for TLSAGENT_FORM_RECORDS. */
int tlsagent_stop(struct tlsagent_conn *conn);

/* Free without a byte on the wire (for instance in a child after fork). A handshake in progress is
 * cancelled. NULL-safe. */
void tlsagent_abandon(struct tlsagent_conn *conn);

/* ---- moving a connection to another process ---- */

/* Give a connection whose handshake is done, in any form, to another process (or thread): socket,
 * record state, bytes that wait in either direction, facts. In the stream form what moves is the
 * plain descriptor (the one that tlsagent_conn_fd() says, which must still be open), and the relay
 * goes on behind it. (After tlsagent_stop() a descriptor is all there is: it moves as any does.)
 * unix_socket: a connected Unix socket of type SOCK_SEQPACKET whose other end calls
 * tlsagent_conn_receive(). The caller decides who that is (SO_PEERCRED): who receives has the
 * connection and its keys.
 *
 * 0: it is gone from here. Every further call on conn fails with TLSAGENT_E_MOVED; take its fd out
 * of your event loop, then tlsagent_close() or tlsagent_abandon() it, and close the fd if it is
 * yours (nothing of this reaches the peer; but what stays open here keeps the socket open when
 * the other process closes it). If the other process ends before it has received, the peer sees
 * the connection end without close_notify.
 * WANT_POLLOUT (unix_socket is non-blocking and full: poll it, same call again) and -1 (among
 * others TLSAGENT_E_BUSY: too many descriptors on their way; TLSAGENT_E_SYSTEM: the other process
 * is gone): nothing was sent and conn goes on here as before. Plaintext that you have read or not
 * yet written, and tlsagent_data(), are yours to carry over. */
int tlsagent_conn_send(struct tlsagent_conn *conn, int unix_socket);

/* Take the next connection that was sent. It is as it was there: O_NONBLOCK, which belongs to the
 * socket, included; but it owns its fd here. Bytes may be here that no poll() of the fd tells of:
 * read first. What comes is checked as a stranger's: for something
 * that is not a connection you get one that has failed. So tlsagent_handshake(conn) says at once
 * how it went: 0, or -1 with tlsagent_error(); after -1 tlsagent_abandon() it and close
 * unix_socket. NULL: none came, and errno says why: EAGAIN (none there now, unix_socket is
 * non-blocking), 0 (the other side has closed: no more will come), EMFILE or ENFILE (no descriptors
 * free: none was lost, try again), ENOMEM. Blocks if unix_socket does. */
struct tlsagent_conn *tlsagent_conn_receive(int unix_socket);

/* ---- facts: of a connection whose handshake is done (else NULL, 0); strings live as long as it.
 * The fd and the context are known from the beginning. ---- */

int tlsagent_conn_fd(const struct tlsagent_conn *conn);
const char *tlsagent_conn_version(const struct tlsagent_conn *conn);    /* "TLSv1.3" */
int tlsagent_conn_version_number(const struct tlsagent_conn *conn);     /* 0x0304 */
const char *tlsagent_conn_cipher(const struct tlsagent_conn *conn);     /* OpenSSL's name */
const char *tlsagent_conn_servername(const struct tlsagent_conn *conn); /* SNI, NULL: none */
const char *tlsagent_conn_alpn(const struct tlsagent_conn *conn);       /* NULL: none */
/* "records", "kernel", "kernel-plain" or "stream" */
const char *tlsagent_conn_form(const struct tlsagent_conn *conn);
const char *tlsagent_conn_context(const struct tlsagent_conn *conn);
int tlsagent_conn_resumed(const struct tlsagent_conn *conn);     /* 1 or 0 */
pid_t tlsagent_conn_agent_pid(const struct tlsagent_conn *conn); /* who did the handshake */

/* The peer's certificates as DER, leaf first. tlsagent_conn_peer_count() is 0 if it sent none. The
 * bytes belong to the connection. NULL if there is no such one. */
size_t tlsagent_conn_peer_count(const struct tlsagent_conn *conn);
const uint8_t *tlsagent_conn_peer_der(const struct tlsagent_conn *conn, size_t index, size_t *size);

/* ---- errors ---- */

const char *tlsagent_error(const struct tlsagent_conn *conn); /* "" if there is none */
int tlsagent_error_code(const struct tlsagent_conn *conn);    /* enum tlsagent_error_code */
int tlsagent_error_alert(const struct tlsagent_conn *conn);   /* TLS alert, -1: none */

const char *tlsagent_version(void); /* of the library */

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif

#endif
