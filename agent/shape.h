/*
 * shape.h: what may be signed with a TLS key, as pure functions.
 *
 * Role: the keeper (also used by tests). Trust: every argument comes from a handshaker that may
 * have been taken over. What leaves here is either the bytes of a TLS shape, built by us, or a
 * refusal (enum keyops_refusal).
 *
 * TLS 1.3 (RFC 8446 section 4.4.3) is safe by construction: 64 spaces and a context string make
 * the content unlike anything else that is ever signed.
 *
 * TLS 1.2 (RFC 5246 section 7.4.3, RFC 8422 section 5.4) is not. The content is
 *     client random (32) || server random (32) || curve type, group, length || point
 * and a taken-over handshaker chooses all of it but four or five bytes: 64 bytes in front and the
 * point behind. So content is refused that another protocol would take for its own:
 *
 *   DER/BER    CSRs, certificates, CRLs, OCSP answers, SPKACs, CMS attributes: all are one SEQUENCE
 *              or SET that spans the whole content and has two elements or more
 *   SSH        everything that SSH signs begins with a length below 2^24, or with "SSHSIG"
 *   OpenPGP    signatures end with a trailer: version, ff, length
 *   TLS 1.3    64 spaces (delegated credentials and signed exchanges begin so too)
 *
 * What is left: formats that sign raw bytes without any frame of their own. A verifier who believes
 * those from a TLS key believes anything. A TLS 1.2 client's CertificateVerify does not fit: the
 * transcript holds a server's certificate and is longer than the longest shape (201 bytes).
 * An honest handshake is refused about once in 2^22 (X25519; with other groups once in 2^24).
 */
#ifndef AGENT_SHAPE_H
#define AGENT_SHAPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/keyops.h"

/* The longest content: two randoms and the parameters of P-521. */
#define SHAPE_CONTENT_MAX (2 * KEYOPS_RANDOM_SIZE + KEYOPS_PARAMETERS_MAX)

enum shape_version {
    SHAPE_TLS12 = 1,
    SHAPE_TLS13 = 2,
};

enum shape_family {
    SHAPE_RSA_PKCS1,
    SHAPE_RSA_PSS,
    SHAPE_ECDSA,
    SHAPE_ED25519,
};

enum shape_digest {
    SHAPE_SHA256,
    SHAPE_SHA384,
    SHAPE_SHA512,
    SHAPE_NO_DIGEST, /* Ed25519 hashes by itself */
};
#define SHAPE_DIGESTS 3

/* A signature scheme that we sign with. What is not in the table (SHA-1, SHA-224, MD5, DSA, the
 * rsa_pss_pss schemes) does not exist here. */
struct shape_scheme {
    uint16_t id; /* RFC 8446 section 4.2.3 */
    enum shape_family family;
    enum shape_digest digest;
    uint8_t versions;   /* enum shape_version, or-ed */
    uint8_t tls13_type; /* ECDSA in TLS 1.3: the only key type (enum generation_key_type) */
    uint8_t slot;       /* numbers the schemes of one key type from 0 */
};
#define SHAPE_SLOTS 6 /* schemes of one key type, at most */

/* Find the scheme if a key of this type (enum generation_key_type) may sign with it in this
 * version, else NULL: KEYOPS_BAD_SCHEME. */
const struct shape_scheme *shape_scheme_find(uint16_t id, uint8_t key_type,
                                             enum shape_version version);

/* The schemes of a key type one after the other, for self-tests: NULL after the last. */
const struct shape_scheme *shape_scheme_next(const struct shape_scheme *after, uint8_t key_type);

/* Build the content of a TLS 1.3 CertificateVerify. Returns 0 or the reason of the refusal. */
int shape_tls13(const struct keyops_sign_tls13 *request, uint8_t content[SHAPE_CONTENT_MAX],
                size_t *size);

/* Check and build the content of a TLS 1.2 ServerKeyExchange signature. Returns 0 or the reason
 * of the refusal. */
int shape_tls12_server(const struct keyops_sign_tls12_server *request,
                       uint8_t content[SHAPE_CONTENT_MAX], size_t *size);

/* The parts of the above, for tests. True if parameters are exactly one ServerECDHParams. */
bool shape_parameters_fit(const uint8_t *parameters, size_t size);

/* True if content could mean something in another protocol. */
bool shape_is_foreign(const uint8_t *content, size_t size);

#endif
