/*
 * credential.h: from the bytes of certificate, key and passphrase files to one checked identity.
 *
 * Role: the loader only. Trust: the files belong to the administrator, who makes mistakes; but the
 * parser must survive any bytes, so it runs where nothing is but these files. Every error is one
 * line: the file, what is wrong with it, what to do.
 *
 * The format is found from the content, never from the file's name:
 *   certificate file  PEM (certificates in any order, key among them or not: "combined"), DER (one
 *                     certificate), PKCS#12
 *   key file          PEM or DER; PKCS#8 plain or encrypted, traditional RSA and EC, PKCS#12
 */
#ifndef AGENT_CREDENTIAL_H
#define AGENT_CREDENTIAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "protocol/load.h"
#include "protocol/error.h"

#define CREDENTIAL_FILE_MAX       1048576 /* bytes of one file */
#define CREDENTIAL_PASSPHRASE_MAX 1023    /* bytes; OpenSSL's PEM code takes no more */
#define CREDENTIAL_CHAIN_LENGTH   16      /* certificates that are sent */
#define CREDENTIAL_FILE_CERTS_MAX 1024    /* certificates in one file */
#define CREDENTIAL_PATH_SHOWN_MAX 128     /* bytes of a path in a message */

struct credential_file { /* does not own */
    const char *path;    /* for messages: printable, at most CREDENTIAL_PATH_SHOWN_MAX */
    const uint8_t *data; /* NULL: there is no such file */
    size_t size;
};

struct credential_input {
    struct credential_file certificate;
    struct credential_file key;        /* optional */
    struct credential_file passphrase; /* optional; its first line counts */
};

/* Is told of everything that is odd but no reason to refuse. */
struct credential_warnings {
    void (*tell)(void *argument, const char *text);
    void *argument;
};

struct credential {
    uint8_t key_type; /* enum generation_key_type */
    uint8_t *pkcs8;   /* secret */
    size_t pkcs8_size;
    uint8_t *chain; /* DER, leaf first, each preceded by its size in 24 bits; no trailing root */
    size_t chain_size;
    X509 *leaf; /* for credential_names() */
};

/* Parse, match and check. On success the caller owns the credential. Returns 0, or -1 with an
 * error. An expired or not yet valid certificate is a warning. */
int credential_parse(struct credential *credential, const struct credential_input *input,
                     time_t now, const struct credential_warnings *warnings, struct error *error);

/* Wipe and free what credential_parse() made. */
void credential_clear(struct credential *credential);

/* CA certificates to verify clients with, from PEM (any number) or DER (one). *der is in the form
 * of credential.chain and is the caller's (free()). */
int credential_parse_client_ca(const struct credential_file *file, time_t now,
                               const struct credential_warnings *warnings, uint8_t **der,
                               size_t *size, struct error *error);

/* ---- credential_format.c: what one file holds ---- */

struct credential_parts {
    STACK_OF(X509) * certificates; /* in the file's order; never NULL after a success */
    EVP_PKEY *key;                 /* NULL: none found or none wanted */
    bool pkcs12;                   /* the file was PKCS#12: its key beats a key file */
};

/* want_key: false leaves PEM keys unread (another file has the key). */
int credential_read_parts(struct credential_parts *parts, const struct credential_file *file,
                          const struct credential_file *passphrase, bool want_key,
                          struct error *error);
void credential_parts_clear(struct credential_parts *parts);

/* ---- credential_names.c: the SNI names that lead to an identity ---- */

#define CREDENTIAL_NAMES_MAX 65535 /* bytes of all of them, as in generation.h */

/* Lower-case a host name, drop one trailing dot. False if it is none: letters, digits, '-', '_' in
 * labels of 1 to 63 bytes, at most 253 in all, not an IP address; "*" only as a whole leftmost
 * label above at least one other. */
bool credential_normalise_name(const char *name, size_t size, char normal[SERVICE_HOST_MAX]);

/* Collect the names in the format of generation_identity.names into names (CREDENTIAL_NAMES_MAX
 * bytes): the label if it is a host name, identity->names, then the leaf's DNS names, or its
 * common name if it has no subjectAltName. Each once. */
void credential_names(const struct credential *credential, const struct load_identity *identity,
                      const struct credential_warnings *warnings, uint8_t *names,
                      size_t *names_size, uint16_t *explicit_names);

/* Tell a warning, printf-like. warnings may be NULL. */
void credential_warn(const struct credential_warnings *warnings, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
