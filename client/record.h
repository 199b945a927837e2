/*
 * record.h: the TLS record layer after the handshake, in memory: seals and opens records, and obeys
 * what comes in them besides data: alerts, KeyUpdate, attempts to renegotiate. No I/O.
 *
 * Sources: RFC 8446 sections 4.6, 5, 6; RFC 5246 sections 6.2, 7.2; RFC 5288; RFC 7905.
 *
 * Trust: what is opened comes from the peer and is hostile. Nothing is ever sized by it. A record
 * that breaks the protocol gives a failure with the alert to send; the caller then stops.
 *
 * Limits without a clock:
 *  - RECORD_IDLE_MAX records in a row may come without application data (empty records, warnings,
 *    KeyUpdates, pieces of handshake messages); data in either direction starts the count
 *    anew. So a peer cannot keep a read busy for nothing, while one that only receives,
 *    for days, may go on changing keys.
 *  - A key of AES-GCM protects at most RECORD_GCM_HARD records (RFC 8446 section 5.5). In
 *    TLS 1.3 it is changed at RECORD_GCM_SOFT (and the peer is asked to change its own); TLS 1.2
 *    cannot, so the connection has to end. The sequence number is the count.
 */
#ifndef CLIENT_RECORD_H
#define CLIENT_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "protocol/error.h"
#include "protocol/traffic.h"

#define RECORD_HEADER_SIZE  5
#define RECORD_OVERHEAD_MAX 32 /* header, explicit nonce or type byte, tag: not more than this */
#define RECORD_CONTROL_MAX  96 /* bytes that record_seal_owed() or an alert need at most */
#define RECORD_IDLE_MAX     32 /* as OpenSSL */
#define RECORD_GCM_SOFT     (UINT64_C(1) << 23)
#define RECORD_GCM_HARD     UINT64_C(23726566) /* 2^24.5 */

enum record_type {
    RECORD_CHANGE_CIPHER_SPEC = 20,
    RECORD_ALERT = 21,
    RECORD_HANDSHAKE = 22,
    RECORD_APPLICATION_DATA = 23,
};

enum record_alert {
    RECORD_CLOSE_NOTIFY = 0,
    RECORD_UNEXPECTED_MESSAGE = 10,
    RECORD_BAD_RECORD_MAC = 20,
    RECORD_RECORD_OVERFLOW = 22,
    RECORD_ILLEGAL_PARAMETER = 47,
    RECORD_DECODE_ERROR = 50,
    RECORD_PROTOCOL_VERSION = 70,
    RECORD_INTERNAL_ERROR = 80,
    RECORD_USER_CANCELED = 90,
    RECORD_NO_RENEGOTIATION = 100,
};

/* Lives in a slot (client/slot.h), zero-filled before record_init(). */
struct record {
    uint64_t id; /* unique in the process, never 0; 0 here: we are a forked child */
    const struct traffic_suite *suite;
    struct traffic_state state;
    uint32_t send_epoch; /* keys so far: tells the pool's contexts apart */
    uint32_t receive_epoch;
    uint64_t bytes_before; /* in_kernel: of TCP's, when the present sending key came */
    uint32_t skip;         /* bytes of a handshake message still to be passed over */
    uint8_t message[5];    /* a handshake message's header and first byte, as they come */
    uint8_t message_size;  /* bytes of it so far */
    uint8_t idle;          /* records since the last application data */
    bool is_server;        /* our role */
    bool update_owed;      /* a KeyUpdate goes before the next data */
    bool request_owed;     /* ... and shall ask for the peer's */
    bool request_made;     /* we have asked for the peer's KeyUpdate with its present key */
    bool refusal_owed;     /* TLS 1.2: no_renegotiation */
    bool in_kernel;        /* the kernel has the keys (client/ktls.h): nothing is sealed here */
    uint8_t uncounted;     /* in_kernel: writes since TCP's bytes were looked at */
    bool rekeys;           /* in_kernel: the state's secrets are the next ones, and of use */
};

/* What ends the connection. text is a literal. */
struct record_failure {
    const char *text;
    int16_t alert; /* ours to send, or received; -1: none */
    bool received; /* the alert is the peer's: send nothing */
};

enum record_event {
    RECORD_DATA,    /* application data, at least a byte */
    RECORD_NOTHING, /* dealt with; something may be owed */
    RECORD_CLOSED,  /* the peer's close_notify */
    RECORD_FAILED,
};

/* What is to be sealed: does not own. */
struct record_source {
    const struct iovec *parts;
    size_t offset; /* into the first part */
    size_t left;   /* bytes in all */
};

/* Take over a state. Returns 0, or -1 with an error: not a suite of ours, an impossible
 * max_fragment. */
int record_init(struct record *record, const struct traffic_state *state, bool is_server,
                struct error *error);

/* ---- opening ---- */

/* Look at the first bytes of a record. 1: *total is its size on the wire; 0: a whole header is
 * not there yet; -1: no such record can be (failure). */
int record_measure(const struct record *record, const uint8_t *data, size_t size, size_t *total,
                   struct record_failure *failure);

/* Most bytes of plaintext that a record of this size can hold, and where its ciphertext begins. */
size_t record_content_max(const struct record *record, size_t total);
size_t record_payload_offset(const struct record *record);

/* Open the record of total bytes at data. out has room for record_content_max() bytes, and is
 * either apart from data or exactly data + record_payload_offset(). On RECORD_DATA *size bytes are
 * there; else out holds nothing secret. */
enum record_event record_open(struct record *record, uint8_t *data, size_t total, uint8_t *out,
                              size_t *size, struct record_failure *failure);

/* ---- sealing ---- */

/* Seal up to `records` records of data, preceded by what is owed, into out. Stops when the source
 * is empty or out has no room for a full record more. Returns the bytes in out (source is
 * advanced); 0 on failure: nothing was sealed. */
size_t record_seal_data(struct record *record, struct record_source *source, unsigned records,
                        uint8_t *out, size_t out_size, struct record_failure *failure);

/* True if something has to be said although there is no data. */
bool record_owes(const struct record *record);

/* Seal what is owed (at most RECORD_CONTROL_MAX bytes). 0 on failure, or if nothing is. */
size_t record_seal_owed(struct record *record, uint8_t *out, struct record_failure *failure);

/* Seal an alert (at most RECORD_CONTROL_MAX bytes): close_notify and no_renegotiation as warning,
 * else fatal. 0 if it cannot be. */
size_t record_seal_alert(struct record *record, enum record_alert alert, uint8_t *out);

/* Name as in RFC 8446 section 6, "unknown" if there is none. */
const char *record_alert_name(int alert);

#endif
