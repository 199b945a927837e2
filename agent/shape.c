/* shape.c: see shape.h. */
#include "agent/shape.h"

#include <string.h>

#include "agent/generation.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define BOTH (SHAPE_TLS12 | SHAPE_TLS13)

static const struct shape_scheme schemes[] = {
    {0x0804, SHAPE_RSA_PSS, SHAPE_SHA256, BOTH, 0, 0},
    {0x0805, SHAPE_RSA_PSS, SHAPE_SHA384, BOTH, 0, 1},
    {0x0806, SHAPE_RSA_PSS, SHAPE_SHA512, BOTH, 0, 2},
    {0x0401, SHAPE_RSA_PKCS1, SHAPE_SHA256, SHAPE_TLS12, 0, 3},
    {0x0501, SHAPE_RSA_PKCS1, SHAPE_SHA384, SHAPE_TLS12, 0, 4},
    {0x0601, SHAPE_RSA_PKCS1, SHAPE_SHA512, SHAPE_TLS12, 0, 5},
    {0x0403, SHAPE_ECDSA, SHAPE_SHA256, BOTH, GENERATION_KEY_P256, 0},
    {0x0503, SHAPE_ECDSA, SHAPE_SHA384, BOTH, GENERATION_KEY_P384, 1},
    {0x0603, SHAPE_ECDSA, SHAPE_SHA512, BOTH, GENERATION_KEY_P521, 2},
    {0x0807, SHAPE_ED25519, SHAPE_NO_DIGEST, BOTH, 0, 0},
};

/* RFC 8422 section 5.1.1, RFC 8446 section 4.2.7: only what we offer. */
static const struct {
    uint16_t id;
    uint8_t point_size;
    bool uncompressed; /* the point must begin with 04 */
} groups[] = {
    {0x0017, 65, true},  /* secp256r1 */
    {0x0018, 97, true},  /* secp384r1 */
    {0x0019, 133, true}, /* secp521r1 */
    {0x001d, 32, false}, /* x25519 */
    {0x001e, 56, false}, /* x448 */
};

#define NAMED_CURVE 3 /* RFC 8422 section 5.4, ECCurveType */

#define PAD_SIZE 64 /* RFC 8446 section 4.4.3 */

static const char server_context[] = "TLS 1.3, server CertificateVerify"; /* with its NUL */

static bool
family_fits(enum shape_family family, uint8_t key_type)
{
    switch (key_type) {
    case GENERATION_KEY_RSA:
        return family == SHAPE_RSA_PKCS1 || family == SHAPE_RSA_PSS;
    case GENERATION_KEY_P256:
    case GENERATION_KEY_P384:
    case GENERATION_KEY_P521:
        return family == SHAPE_ECDSA;
    case GENERATION_KEY_ED25519:
        return family == SHAPE_ED25519;
    default:
        return false;
    }
}

const struct shape_scheme *
shape_scheme_find(uint16_t id, uint8_t key_type, enum shape_version version)
{
    for (size_t i = 0; i < COUNT(schemes); i++) {
        const struct shape_scheme *scheme = &schemes[i];

        if (scheme->id != id)
            continue;
        if ((scheme->versions & version) == 0 || !family_fits(scheme->family, key_type))
            return NULL;
        /* In TLS 1.2 hash and curve are chosen independently; TLS 1.3 ties them together. */
        if (version == SHAPE_TLS13 && scheme->family == SHAPE_ECDSA &&
            scheme->tls13_type != key_type)
            return NULL;
        return scheme;
    }
    return NULL;
}

const struct shape_scheme *
shape_scheme_next(const struct shape_scheme *after, uint8_t key_type)
{
    for (size_t i = after != NULL ? (size_t)(after - schemes) + 1 : 0; i < COUNT(schemes); i++)
        if (family_fits(schemes[i].family, key_type))
            return &schemes[i];
    return NULL;
}

int
shape_tls13(const struct keyops_sign_tls13 *request, uint8_t content[SHAPE_CONTENT_MAX],
            size_t *size)
{
    uint8_t *next = content;

    /* Keys of a generation are server keys; there are no others yet. */
    if (request->role == KEYOPS_ROLE_CLIENT)
        return KEYOPS_WRONG_ROLE;
    if (request->role != KEYOPS_ROLE_SERVER)
        return KEYOPS_BAD_SHAPE;
    /* The transcript hash is that of the cipher suite: SHA-256 or SHA-384. */
    if (request->hash_size != 32 && request->hash_size != 48)
        return KEYOPS_BAD_SHAPE;
    memset(next, ' ', PAD_SIZE);
    next += PAD_SIZE;
    memcpy(next, server_context, sizeof(server_context));
    next += sizeof(server_context);
    memcpy(next, request->hash, request->hash_size);
    next += request->hash_size;
    *size = (size_t)(next - content);
    return 0;
}

bool
shape_parameters_fit(const uint8_t *parameters, size_t size)
{
    uint16_t group;

    if (size < 5 || parameters[0] != NAMED_CURVE)
        return false;
    group = (uint16_t)(parameters[1] << 8 | parameters[2]);
    for (size_t i = 0; i < COUNT(groups); i++) {
        if (groups[i].id != group)
            continue;
        return parameters[3] == groups[i].point_size && size == 4 + (size_t)groups[i].point_size &&
               (!groups[i].uncompressed || parameters[4] == 4);
    }
    return false;
}

/* ---- what other protocols sign ---- */

/* Read a BER identifier. Its number may be in the high form even where the low one would do:
 * OpenSSL takes 3f 10 for a SEQUENCE. False if it is not complete, or has a number beyond 255. */
static bool
read_identifier(const uint8_t **next, const uint8_t *end, uint8_t *class_bits, unsigned *number)
{
    uint8_t first;

    if (*next == end)
        return false;
    first = *(*next)++;
    *class_bits = first & 0xe0; /* class, and whether it is constructed */
    *number = first & 0x1f;
    if (*number != 0x1f)
        return true;
    *number = 0;
    for (;;) {
        uint8_t byte;

        if (*next == end)
            return false;
        byte = *(*next)++;
        *number = *number << 7 | (byte & 0x7f);
        if (*number > 255)
            return false;
        if ((byte & 0x80) == 0)
            return true;
    }
}

/* Read a BER length in any of its forms, minimal or not. */
static bool
read_length(const uint8_t **next, const uint8_t *end, size_t *length, bool *indefinite)
{
    uint8_t first;
    unsigned count;

    if (*next == end)
        return false;
    first = *(*next)++;
    *indefinite = first == 0x80;
    *length = 0;
    if (first <= 0x80) {
        *length = first & 0x7f;
        return true;
    }
    for (count = first & 0x7f; count > 0; count--) {
        if (*next == end || *length > SHAPE_CONTENT_MAX)
            return false;
        *length = *length << 8 | *(*next)++;
    }
    return true;
}

/* True if one element that could stand in an X.509 or CMS structure is next and fits; moves past
 * it. Of an element of indefinite length the end is not looked for: it counts as the last. */
static bool
skip_element(const uint8_t **next, const uint8_t *end)
{
    uint8_t class_bits;
    unsigned number;
    size_t length;
    bool indefinite;

    if (!read_identifier(next, end, &class_bits, &number) ||
        !read_length(next, end, &length, &indefinite))
        return false;
    switch (class_bits) {
    case 0x00: /* universal, primitive: the types that exist */
        if (number == 0 || number == 7 || number == 8 || number == 11 || number == 14 ||
            number == 15 || number == 16 || number == 17 || number == 29 || number > 30)
            return false;
        break;
    case 0x20: /* universal, constructed: SEQUENCE, SET, and strings in pieces (BER) */
        if (number != 3 && number != 4 && number != 12 && (number < 16 || number > 30))
            return false;
        break;
    case 0x80: /* context-specific: nothing has more than a few */
    case 0xa0:
        if (number > 7)
            return false;
        break;
    default: /* application, private */
        return false;
    }
    if (indefinite) {
        *next = end;
        return (class_bits & 0x20) != 0;
    }
    if (length > (size_t)(end - *next))
        return false;
    *next += length;
    return true;
}

/* One SEQUENCE or SET that is the whole content. To look at its first two elements keeps the rate
 * of honest refusals below 2^-22: with X25519 the header alone would match once in 2^15. It asks no
 * more of the rest because lenient parsers (Go's, for one) ignore what follows the elements that
 * they know; and nothing that is signed has fewer than two. */
static bool
is_der(const uint8_t *content, size_t size)
{
    const uint8_t *next = content, *end = content + size;
    uint8_t class_bits;
    unsigned number;
    size_t length;
    bool indefinite;

    if (!read_identifier(&next, end, &class_bits, &number) || class_bits != 0x20 ||
        (number != 16 && number != 17) || !read_length(&next, end, &length, &indefinite))
        return false;
    if (indefinite)
        return end - next >= 2 && end[-1] == 0 && end[-2] == 0;
    if (length != (size_t)(end - next))
        return false;
    return skip_element(&next, end) && (next == end || skip_element(&next, end));
}

static bool
is_ssh(const uint8_t *content, size_t size)
{
    /* RFC 4252 section 7 (session id), PROTOCOL.certkeys (type): both begin with a string's length;
     * PROTOCOL.sshsig with a magic. */
    return size >= 6 && (memcmp(content, "\0\0\0", 3) == 0 || memcmp(content, "SSHSIG", 6) == 0);
}

static bool
is_openpgp(const uint8_t *content, size_t size)
{
    const uint8_t *trailer;

    /* RFC 9580 section 5.2.4: version, ff, length of what was hashed of the signature packet. */
    if (size < 6)
        return false;
    trailer = content + size - 6;
    return trailer[0] >= 4 && trailer[0] <= 6 && trailer[1] == 0xff && trailer[2] == 0 &&
           trailer[3] == 0;
}

static bool
is_tls13(const uint8_t *content, size_t size)
{
    for (size_t i = 0; i < PAD_SIZE; i++)
        if (i == size || content[i] != ' ')
            return false;
    return true;
}

bool
shape_is_foreign(const uint8_t *content, size_t size)
{
    return is_der(content, size) || is_ssh(content, size) || is_openpgp(content, size) ||
           is_tls13(content, size);
}

int
shape_tls12_server(const struct keyops_sign_tls12_server *request,
                   uint8_t content[SHAPE_CONTENT_MAX], size_t *size)
{
    if (request->parameters_size > sizeof(request->parameters) ||
        !shape_parameters_fit(request->parameters, request->parameters_size))
        return KEYOPS_BAD_SHAPE;
    memcpy(content, request->client_random, KEYOPS_RANDOM_SIZE);
    memcpy(content + KEYOPS_RANDOM_SIZE, request->server_random, KEYOPS_RANDOM_SIZE);
    memcpy(content + 2 * (size_t)KEYOPS_RANDOM_SIZE, request->parameters, request->parameters_size);
    *size = 2 * (size_t)KEYOPS_RANDOM_SIZE + request->parameters_size;
    return shape_is_foreign(content, *size) ? KEYOPS_BAD_SHAPE : 0;
}
