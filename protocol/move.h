/*
 * move.h: one process of an application -> another: a live connection that changes hands.
 *
 * One message is one connection: whole, or not there. So a connection has one owner at every
 * moment: the sender until the kernel has taken the message, the receiver from then on, and nobody
 * in between can have half of it. A second message is never needed: what does not fit (ciphertext
 * that waits in a buffer) travels in a sealed memfd beside the connection's fd.
 *
 * Trust: the other process may belong to another user. Everything is checked like a stranger's; who
 * may send at all is decided by the caller, who has the socket.
 */
#ifndef PROTOCOL_MOVE_H
#define PROTOCOL_MOVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/channel.h"
#include "protocol/service.h"
#include "protocol/traffic.h"

#define MOVE_FORMAT 1 /* changes when an older library no longer understands the body */

#define MOVE_PLAIN_MAX      TRAFFIC_PLAINTEXT_MAX
#define MOVE_CIPHERTEXT_MAX 262144 /* bytes that wait, in each direction */
#define MOVE_SKIP_MAX       65536  /* bytes of a handshake message that are passed over */
#define MOVE_MESSAGE_MAX    4      /* bytes of a handshake message that are kept */
#define MOVE_IDLE_MAX       32     /* records in a row without data */

enum move_type {
    MOVE_CONNECTION = 1,   /* one fd: the connection's */
    MOVE_CONNECTION_LARGE, /* two fds: the connection's; a memfd with the waiting ciphertext */
};

enum move_flag {
    MOVE_SERVER = 0x001,       /* our role in TLS */
    MOVE_RESUMED = 0x002,      /* the session was */
    MOVE_UPDATE_OWED = 0x004,  /* TLS 1.3: a KeyUpdate goes before the next data */
    MOVE_REQUEST_OWED = 0x008, /* ... and asks for the peer's */
    MOVE_REQUEST_MADE = 0x010, /* TLS 1.3: the peer has been asked for its KeyUpdate */
    MOVE_REFUSAL_OWED = 0x020, /* TLS 1.2: no_renegotiation goes before the next data */
    MOVE_ENDED = 0x040,        /* the peer's close_notify has come */
    MOVE_UNREPORTED = 0x080,   /* an end or failure of reading that no read has returned yet */
    MOVE_CLOSED = 0x100,       /* our close_notify is sealed */
    MOVE_BROKEN = 0x200,       /* the socket takes no more bytes */
    MOVE_ANSWER_WAITS = 0x400, /* reads try to send the waiting ciphertext too */
    MOVE_EXACT = 0x800,        /* TLS is being stopped: not a byte beyond a record is read */
    MOVE_SURPLUS = 0x1000,     /* ... and the peer sent something behind its close_notify */
    MOVE_PLAIN = 0x2000,       /* form KERNEL: for plain read() and write() on the fd */
    MOVE_FLAGS = 0x3fff,       /* all of them */
};

enum move_failure_kind {
    MOVE_NO_FAILURE = 0,
    MOVE_PEER_CLOSED,    /* closed or reset: number is the errno, or 0 */
    MOVE_PEER_TRUNCATED, /* end without close_notify */
    MOVE_PEER_ALERT,     /* the peer's fatal alert */
    MOVE_PEER_RECORD,    /* the peer broke the record protocol; alert is ours */
    MOVE_SYSTEM,         /* a system call failed: number is the errno */
    MOVE_REKEY,          /* form KERNEL: new keys are due, which the kernel does not take */
};

/* Why a direction is over. */
struct move_failure {
    uint8_t kind;    /* enum move_failure_kind */
    uint8_t alert;   /* 255: none */
    uint16_t number; /* errno, or 0 */
};

/* Pointers are into the message, or into the caller's memory. */
struct move_connection {
    uint16_t flags; /* enum move_flag, or-ed */
    uint8_t form;   /* enum service_form, exactly one */
    uint32_t agent_pid;
    struct traffic_state state; /* KERNEL: without key and iv; STREAM: suite and fragment only */
    uint32_t skip;
    uint8_t idle;
    uint8_t message_size; /* bytes of a handshake message that came in pieces */
    uint8_t message[MOVE_MESSAGE_MAX];
    uint8_t owed_alert; /* form KERNEL: to be sent; 255: none */
    struct move_failure read_failure;
    struct move_failure write_failure;
    char context[SERVICE_NAME_MAX];
    char sni[SERVICE_HOST_MAX];
    char alpn[SERVICE_ALPN_MAX];
    const uint8_t *chain; /* as in struct service_finished */
    size_t chain_size;
    const uint8_t *plain; /* decrypted and not yet read */
    size_t plain_size;
    const uint8_t *received; /* ciphertext received and not yet opened; LARGE: NULL */
    size_t received_size;
    const uint8_t *unsent; /* ciphertext sealed and not yet sent; LARGE: NULL */
    size_t unsent_size;
};

extern const struct channel_rule move_rules[];
extern const size_t move_rule_count;

/* True if the body is of a format that this code reads; what it says is not looked at. */
bool move_is_format(const void *body, size_t size);

/* Encoder: the size of the body, 0 if it does not fit. large: without the ciphertext. Decoder:
 * true if it was well-formed to its last byte and says nothing that cannot be. */
size_t move_put_connection(const struct move_connection *m, bool large, void *buffer, size_t size);
bool move_get_connection(struct move_connection *m, bool large, const void *body, size_t size);

#endif
