/*
 * generation.h: what the loader writes and the cells map.
 *
 * A generation has two parts, each one memfd, made by one loader for one cell group:
 *
 *   public   contexts with their parameters, identities with certificate chains and SNI names,
 *            public keys (in the leaf certificates), client CAs. Sealed, mapped read-only by
 *            handshakers.
 *   secret   private keys in DER (PKCS#8), in the order of their key numbers. memfd_secret where
 *            there is one, mapped only by keepers. Ticket keys outlive a generation and are
 *            elsewhere (ticket_state.h).
 *
 * Both are byte streams in the codec of wire.h with a magic number, the generation's number and
 * the build id in front. A key number is an index into the secret part; an identity names
 * its key by it. The secret part holds only keys of this cell group, so a keeper cannot be
 * asked for another group's keys.
 *
 * Trust: handshakers and keepers believe the loader, but a reader checks every length all the
 * same and refuses a part that is not well-formed to its last byte.
 */
#ifndef AGENT_GENERATION_H
#define AGENT_GENERATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/config.h"
#include "protocol/load.h"
#include "protocol/error.h"

#define GENERATION_NAMES_MAX 65535   /* bytes of all SNI names of an identity */
#define GENERATION_CHAIN_MAX 1048576 /* bytes of a chain, and of a context's client CAs */
#define GENERATION_PKCS8_MAX 8192    /* bytes of a private key (RSA-4096 needs 2,400) */

enum generation_key_type {
    GENERATION_KEY_RSA = 1,
    GENERATION_KEY_P256,
    GENERATION_KEY_P384,
    GENERATION_KEY_P521,
    GENERATION_KEY_ED25519,
};

/* A context as a handshaker sees it. Strings and DER point into the mapping. */
struct generation_context {
    char name[SERVICE_NAME_MAX];
    uint16_t index; /* in the *configuration*: what counters are reported under */
    uint16_t min_version;
    uint16_t max_version;
    uint8_t forms;
    uint8_t prefer_rekey;
    uint8_t verify; /* enum config_verify */
    uint8_t tickets;
    uint8_t tickets_tls12;
    uint8_t session_ids;  /* there is a cache, or a store, for them */
    uint32_t ticket_life; /* seconds */
    uint8_t prefer_server_ciphers;
    uint32_t deadline_ms;
    uint32_t backlog;
    uint32_t max_handshakes;
    char ciphers[256];      /* "" default */
    char ciphersuites[256]; /* "" default */
    char groups[256];       /* "" default */
    const uint8_t *alpn;    /* in the format of SSL_CTX_set_alpn_protos: length, name, ... */
    size_t alpn_size;
    const uint8_t *uids; /* 32 bits each, big-endian */
    size_t uid_count;
    const uint8_t *gids;
    size_t gid_count;
};

/* Encode a context's parameters for LOAD_CONTEXT; the loader copies the blob through unread.
 * Returns its size, 0 if it does not fit. */
size_t generation_put_context(const struct config *config, const struct config_context *context,
                              uint16_t index, void *buffer, size_t size);

/* The name in such a blob, for messages; "" if it is not well-formed. */
void generation_context_name(const uint8_t *blob, size_t size, char name[SERVICE_NAME_MAX]);

struct generation_identity {
    uint32_t key;     /* key number */
    uint8_t key_type; /* enum generation_key_type */
    uint8_t is_default;
    uint16_t context;     /* position of its context in this public part */
    const uint8_t *names; /* SNI names, explicit ones first: one-byte length, name (lower case) */
    size_t names_size;
    uint16_t explicit_names; /* how many of them were written in the configuration */
    const uint8_t *chain;    /* DER certificates, leaf first, each preceded by its size (24 bits) */
    size_t chain_size;
};

/* The public part, mapped. */
struct generation_public {
    const uint8_t *mapping;
    size_t mapping_size;
    uint32_t generation;
    struct generation_context *contexts; /* owned */
    size_t context_count;
    struct generation_identity *identities; /* owned; grouped by context, in order */
    size_t identity_count;
    struct generation_client_ca {    /* owned: one per context, in order */
        const uint8_t *certificates; /* DER, each preceded by its size (24 bits); may be empty */
        size_t size;
    } * client_cas;
};

/* Seal the public part for ever; for the supervisor, after the loader has exited (the kernel
 * refuses while somebody has it mapped writable). Returns 0, or -1 with an error. */
int generation_seal(int public_fd, struct error *error);

/* Map and check the public part; takes no ownership of fd. The fd must be a memfd sealed against
 * writing, shrinking and growing (F_GET_SEALS). Returns NULL with an error. */
struct generation_public *generation_public_map(int fd, struct error *error);
void generation_public_unmap(struct generation_public *part); /* NULL-safe */

/* The secret part, mapped. */
struct generation_secret {
    uint8_t *mapping;
    size_t mapping_size;
    uint32_t generation;
    struct generation_secret_key { /* owned array; DER points into the mapping */
        uint8_t type;              /* enum generation_key_type */
        const uint8_t *pkcs8;
        size_t pkcs8_size;
    } * keys;
    size_t key_count;
};

/* Map and check the secret part; takes no ownership of fd. The mapping is left out of cores and
 * forks (MADV_DONTDUMP, MADV_DONTFORK) where the kernel accepts it for this kind of memory. */
struct generation_secret *generation_secret_map(int fd, struct error *error);
void generation_secret_unmap(struct generation_secret *part); /* NULL-safe */

/* The writer, used by the loader. Data is collected, then written by generation_write(). */
struct generation_writer;

struct generation_writer *generation_writer_new(uint32_t generation);
void generation_writer_free(struct generation_writer *writer); /* wipes; NULL-safe */
int generation_add_context(struct generation_writer *writer, const uint8_t *blob, size_t size,
                           struct error *error);
int generation_add_client_ca(struct generation_writer *writer, const uint8_t *der, size_t size,
                             struct error *error);
/* Adds the identity to the context added last (identity->context and ->key are not read). The
 * writer copies all, gives key numbers in order, and stores equal keys once. */
int generation_add_identity(struct generation_writer *writer,
                            const struct generation_identity *identity, const uint8_t *pkcs8,
                            size_t pkcs8_size, struct error *error);
/* Write both parts: fds must be empty. The secret part is created in full before the public one. */
int generation_write(struct generation_writer *writer, int public_fd, int secret_fd,
                     struct load_done *done, struct error *error);

#endif
