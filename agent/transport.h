/*
 * transport.h: the BIO between OpenSSL and the peer's socket, for the time of one handshake.
 *
 * It never blocks, whatever O_NONBLOCK says (the open file is shared with the worker), never raises
 * SIGPIPE, and remembers what the hand-back must know: bytes that were read from the
 * socket and not by OpenSSL, how many bytes went each way, and the first eight bytes of the
 * last record written (the explicit nonce of TLS 1.2 GCM; RFC 5288 section 3).
 *
 * Trust: the bytes are the peer's, hostile. Nothing is interpreted here but the length fields
 * of records that our own OpenSSL wrote.
 */
#ifndef AGENT_TRANSPORT_H
#define AGENT_TRANSPORT_H

#include <openssl/bio.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One recv() usually brings a whole flight of the client. What OpenSSL does not ask for is handed
 * to the worker, so this bounds the early data of a hand-back too. */
#define TRANSPORT_BUFFER 2048

struct transport {
    int fd;            /* does not own */
    bool closed;       /* the peer closed or reset the connection */
    bool exact;        /* nothing is taken out of the socket that OpenSSL has not asked for */
    uint64_t received; /* bytes */
    uint64_t sent;
    /* bytes read ahead: used <= start <= end <= TRANSPORT_BUFFER. In exact mode they are only
     * looked at: those from used to start are OpenSSL's and still in the socket */
    uint16_t used;
    uint16_t start;
    uint16_t end;
    /* the record being written: how much of it is still to come, how far into header and body */
    uint8_t header[5];
    uint8_t header_seen;
    uint16_t body_left;
    uint16_t body_seen;
    uint8_t body_head[8]; /* first bytes of the last record's body */
    /* bytes written and not yet sent: out_start <= out_end <= TRANSPORT_BUFFER */
    uint16_t out_start;
    uint16_t out_end;
    uint8_t out[TRANSPORT_BUFFER];
    uint8_t buffer[TRANSPORT_BUFFER];
};

void transport_init(struct transport *transport, int fd);

/* A BIO that works on the transport (which must outlive it), or NULL. Freed by its SSL. */
BIO *transport_bio(struct transport *transport);

/* Send what was written. OpenSSL's flushes send nothing: a flight, and all the tickets behind it,
 * go out together, when OpenSSL reads or its caller calls this. 0: all is sent; -1: not yet, or
 * never (closed is set). */
int transport_flush(struct transport *transport);

/* A record of our own behind what was written. False: there is no room for it now. */
bool transport_append(struct transport *transport, const uint8_t *record, size_t size);

/* From the beginning, when kernel TLS may follow: the kernel must find all bytes behind the
 * handshake in the socket. A flight then costs one system call more. TCP only. */
void transport_set_exact(struct transport *transport);

/* Exact mode, when the handshake is over: take what OpenSSL has had out of the socket, and forget
 * the rest, which stays there. False: it is not there; somebody else has read from the socket. */
bool transport_settle(struct transport *transport);

/* Bytes received and not asked for by OpenSSL. */
const uint8_t *transport_early(const struct transport *transport, size_t *size);

/* The explicit nonce of the last record written, as a number. */
uint64_t transport_last_nonce(const struct transport *transport);

#endif
