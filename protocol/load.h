/*
 * load.h: supervisor <-> loader: what there is to load, one message at a time, and how it went.
 *
 * Trust: the loader has seen everybody's files. The supervisor takes texts of bounded length from
 * it, which it makes printable, and numbers that it only tells on.
 */
#ifndef PROTOCOL_LOAD_H
#define PROTOCOL_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/channel.h"
#include "protocol/control.h"
#include "protocol/error.h"
#include "protocol/service.h"

enum load_type {
    /* loader -> supervisor */
    LOAD_HELLO = 1, /* struct control_hello */
    LOAD_NEXT,      /* the last message was digested: send another (one at a time: few fds) */
    LOAD_WARNING,   /* text for the log; loading goes on */
    LOAD_FAILED,    /* text; the loader exits */
    LOAD_DONE,      /* both parts are written; the loader exits */
    /* supervisor -> loader */
    LOAD_BEGIN = 32, /* two fds: public part, secret part, both empty and writable */
    LOAD_CONTEXT,    /* starts a context; files and identities that follow belong to it */
    LOAD_FILE,       /* one fd: a file, for the identity or the context that follows/precedes */
    LOAD_IDENTITY,   /* makes an identity of the files since the last one */
    LOAD_END,        /* that was all */
    LOAD_TICKETS,    /* instead of a BEGIN; three fds: an empty page for ticket keys, the one
                        before it (may be empty), the fleet's secret file. Then DONE comes */
};

enum load_file {
    LOAD_CERTIFICATE = 1, /* PEM, DER, PKCS#12 or combined; may hold the key too */
    LOAD_KEY,
    LOAD_PASSPHRASE, /* first line, without its newline */
    LOAD_CLIENT_CA,  /* belongs to the context, not to an identity; PEM */
};

#define LOAD_PATH_MAX  1024
#define LOAD_NAMES_MAX 32                   /* explicit SNI names of one identity */
#define LOAD_BLOB_MAX  8192                 /* a context's parameters, encoded by generation.h */
#define LOAD_TEXT_MAX  (2 + ERROR_TEXT_MAX) /* bytes of a text on the wire */

struct load_begin {
    uint32_t generation;
};

struct load_tickets {
    uint32_t period; /* seconds */
    uint32_t life;
    uint8_t fleet;                /* 0: there is none, and the third fd is of no meaning */
    char group[SERVICE_NAME_MAX]; /* of cells: each has keys of its own */
};

struct load_context {
    const uint8_t *blob; /* generation_put_context(); the loader copies it through */
    size_t blob_size;
};

struct load_file_message {
    uint8_t kind;     /* enum load_file */
    const char *path; /* for messages only; decoded: path_buffer */
    char path_buffer[LOAD_PATH_MAX];
};

struct load_identity {
    char label[SERVICE_HOST_MAX]; /* for messages: the block's title or the directory's name */
    uint8_t is_default;
    uint16_t name_count;
    char names[LOAD_NAMES_MAX][SERVICE_HOST_MAX]; /* explicit; the loader adds the SANs */
};

struct load_text { /* WARNING, FAILED */
    char text[ERROR_TEXT_MAX];
};

struct load_done {
    uint32_t identities;
    uint32_t keys;
    uint64_t public_size;
    uint64_t secret_size;
};

extern const struct channel_rule load_loader_rules[];
extern const size_t load_loader_rule_count;
extern const struct channel_rule load_supervisor_rules[];
extern const size_t load_supervisor_rule_count;

/* Encoders write a body into buffer and return its size, 0 if it does not fit. Decoders return
 * true if the body was well-formed to its last byte. */
size_t load_put_begin(const struct load_begin *m, void *buffer, size_t size);
bool load_get_begin(struct load_begin *m, const void *body, size_t size);
size_t load_put_tickets(const struct load_tickets *m, void *buffer, size_t size);
bool load_get_tickets(struct load_tickets *m, const void *body, size_t size);
size_t load_put_context(const struct load_context *m, void *buffer, size_t size);
bool load_get_context(struct load_context *m, const void *body, size_t size);
size_t load_put_file_message(const struct load_file_message *m, void *buffer, size_t size);
bool load_get_file_message(struct load_file_message *m, const void *body, size_t size);
size_t load_put_identity(const struct load_identity *m, void *buffer, size_t size);
bool load_get_identity(struct load_identity *m, const void *body, size_t size);
size_t load_put_text(const struct load_text *m, void *buffer, size_t size);
bool load_get_text(struct load_text *m, const void *body, size_t size);
size_t load_put_done(const struct load_done *m, void *buffer, size_t size);
bool load_get_done(struct load_done *m, const void *body, size_t size);

#endif
