/* record.c: see record.h. Sealing and opening; what comes in control records is in
 * record_control.c. */
#include "client/record.h"

#include <assert.h>
#include <limits.h>
#include <stdatomic.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>

#include "client/record_control.h"
#include "client/pool.h"
#include "client/slot.h"

#define AAD_MAX        13 /* TLS 1.2: sequence, type, version, length */
#define EXPLICIT_NONCE 8  /* TLS 1.2 GCM: on the wire before the ciphertext */
#define SALT_SIZE      4  /* ... and what precedes it in the nonce */
#define KEY_UPDATE     24

/* For ciphers whose keys do not wear out: far from the end of the sequence numbers. */
#define SEQUENCE_SOFT (UINT64_C(1) << 62)
#define SEQUENCE_HARD (UINT64_MAX - 16)

_Static_assert(sizeof(struct record) <= SLOT_SIZE, "a record must fit in a slot");

static bool
is_tls13(const struct record *record)
{
    return record->suite->version == TRAFFIC_TLS_1_3;
}

static bool
is_gcm(const struct record *record)
{
    return record->suite->aead != TRAFFIC_CHACHA20_POLY1305;
}

static uint64_t
soft_limit(const struct record *record)
{
    return is_gcm(record) ? RECORD_GCM_SOFT : SEQUENCE_SOFT;
}

static uint64_t
hard_limit(const struct record *record)
{
    return is_gcm(record) ? RECORD_GCM_HARD : SEQUENCE_HARD;
}

static void
put_u64(uint8_t *out, uint64_t value)
{
    int i;

    for (i = 7; i >= 0; i--, value >>= 8)
        out[i] = (uint8_t)value;
}

static int
fail(struct record_failure *failure, int alert, const char *text)
{
    *failure = (struct record_failure){.text = text, .alert = (int16_t)alert};
    return -1;
}

int
record_init(struct record *record, const struct traffic_state *state, bool is_server,
            struct error *error)
{
    static _Atomic uint64_t last_id;
    const struct traffic_suite *suite = traffic_suite_find(state->suite);

    if (suite == NULL)
        return error_set(error, "cipher suite 0x%04x cannot be used for a handed-back connection",
                         state->suite);
    if (state->max_fragment == 0 || state->max_fragment > TRAFFIC_PLAINTEXT_MAX)
        return error_set(error, "maximum fragment of %u bytes: it must be 1 to %d",
                         state->max_fragment, TRAFFIC_PLAINTEXT_MAX);
    record->suite = suite;
    record->state = *state;
    record->is_server = is_server;
    record->id = atomic_fetch_add(&last_id, 1) + 1;
    return 0;
}

/* Bytes between the header and the ciphertext. */
static size_t
nonce_on_wire(const struct record *record)
{
    return !is_tls13(record) && is_gcm(record) ? EXPLICIT_NONCE : 0;
}

size_t
record_payload_offset(const struct record *record)
{
    return RECORD_HEADER_SIZE + nonce_on_wire(record);
}

/* Bytes of a record besides its content (without padding). */
static size_t
overhead(const struct record *record)
{
    return record_payload_offset(record) + (is_tls13(record) ? 1 : 0) + TRAFFIC_TAG_SIZE;
}

size_t
record_content_max(const struct record *record, size_t total)
{
    return total < overhead(record) ? 0 : total - overhead(record);
}

int
record_measure(const struct record *record, const uint8_t *data, size_t size, size_t *total,
               struct record_failure *failure)
{
    size_t length;

    if (size < RECORD_HEADER_SIZE)
        return 0;
    length = (size_t)data[3] << 8 | data[4];
    if (is_tls13(record)) {
        /* The version is to be ignored (RFC 8446 section 5.1); the tag covers it. */
        if (data[0] != RECORD_APPLICATION_DATA)
            return fail(failure, RECORD_UNEXPECTED_MESSAGE,
                        "the peer sent an unprotected record after the handshake");
    } else {
        if (data[0] < RECORD_ALERT || data[0] > RECORD_APPLICATION_DATA)
            return fail(failure, RECORD_UNEXPECTED_MESSAGE,
                        "the peer sent a record of a type that has no place here");
        if (data[1] != 3 || data[2] != 3)
            return fail(failure, RECORD_PROTOCOL_VERSION,
                        "the peer sent a record of another TLS version");
    }
    *total = RECORD_HEADER_SIZE + length;
    if (*total < overhead(record) - (is_tls13(record) ? 1 : 0))
        return fail(failure, RECORD_BAD_RECORD_MAC,
                    "the peer sent a record that is too short to be authentic");
    if (record_content_max(record, *total) > TRAFFIC_PLAINTEXT_MAX)
        return fail(failure, RECORD_RECORD_OVERFLOW, "the peer sent a record that is too long");
    return 1;
}

/* Nonce and associated data of the record with this header. content: bytes of the TLS 1.2
 * plaintext. Returns the size of the associated data. */
static size_t
frame(const struct record *record, const struct traffic_keys *keys, const uint8_t *header,
      size_t content, uint8_t nonce[TRAFFIC_IV_SIZE], uint8_t aad[AAD_MAX])
{
    uint8_t sequence[8];
    size_t i;

    put_u64(sequence, keys->sequence);
    memcpy(nonce, keys->iv, TRAFFIC_IV_SIZE);
    if (nonce_on_wire(record) != 0)
        memcpy(nonce + SALT_SIZE, header + RECORD_HEADER_SIZE, EXPLICIT_NONCE);
    else
        for (i = 0; i < sizeof(sequence); i++)
            nonce[TRAFFIC_IV_SIZE - sizeof(sequence) + i] ^= sequence[i];

    if (is_tls13(record)) {
        memcpy(aad, header, RECORD_HEADER_SIZE);
        return RECORD_HEADER_SIZE;
    }
    memcpy(aad, sequence, sizeof(sequence));
    memcpy(aad + 8, header, 3);
    aad[11] = (uint8_t)(content >> 8);
    aad[12] = (uint8_t)content;
    return AAD_MAX;
}

/* Decrypt size bytes of in to out, the bytes behind the first `split` ones to rest. Returns 1; 0 if
 * it is not authentic; -1 if libcrypto failed. */
static int
decrypt(struct record *record, const uint8_t *header, const uint8_t *in, size_t size, size_t split,
        uint8_t *out, uint8_t *rest)
{
    const struct traffic_keys *keys = &record->state.receive;
    uint8_t nonce[TRAFFIC_IV_SIZE], aad[AAD_MAX], tag[TRAFFIC_TAG_SIZE];
    size_t aad_size = frame(record, keys, header, size, nonce, aad);
    EVP_CIPHER_CTX *context;
    int n, result = -1;

    memcpy(tag, in + size, sizeof(tag));
    ERR_set_mark(); /* the caller's own use of libcrypto must not find our errors */
    context = pool_cipher(record->suite->aead, false, record->id, record->receive_epoch, keys->key);
    if (context != NULL && EVP_DecryptInit_ex(context, NULL, NULL, NULL, nonce) == 1 &&
        EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, sizeof(tag), tag) == 1 &&
        EVP_DecryptUpdate(context, NULL, &n, aad, (int)aad_size) == 1 &&
        (split == 0 || EVP_DecryptUpdate(context, out, &n, in, (int)split) == 1) &&
        (split == size || EVP_DecryptUpdate(context, rest, &n, in + split, (int)(size - split))))
        result = EVP_DecryptFinal_ex(context, tag, &n) == 1;
    pool_release();
    ERR_pop_to_mark();
    return result;
}

static void
count_received(struct record *record)
{
    struct traffic_keys *keys = &record->state.receive;

    keys->sequence++;
    if (is_tls13(record) && keys->sequence >= soft_limit(record) && !record->request_made) {
        record->update_owed = true;
        record->request_owed = true;
        record->request_made = true;
    }
}

/* Strip the padding (RFC 8446 section 5.4): the type is the last byte that is not zero. Returns 0
 * if there is none. */
static uint8_t
strip_padding(const uint8_t *out, uint8_t last, size_t *size)
{
    while (last == 0 && *size > 0)
        last = out[--*size];
    return last;
}

enum record_event
record_open(struct record *record, uint8_t *data, size_t total, uint8_t *out, size_t *size,
            struct record_failure *failure)
{
    const uint8_t *in = data + record_payload_offset(record);
    size_t inner = total - record_payload_offset(record) - TRAFFIC_TAG_SIZE;
    size_t content = record_content_max(record, total);
    enum record_event event;
    uint8_t last = 0, type = data[0];
    int result;

    if (record->state.receive.sequence >= hard_limit(record)) {
        fail(failure, RECORD_INTERNAL_ERROR,
             "the peer's key has protected as many records as is safe: open a new connection");
        return RECORD_FAILED;
    }
    result = decrypt(record, data, in, inner, content, out, &last);
    if (result != 1) {
        OPENSSL_cleanse(out, content);
        if (result == 0)
            fail(failure, RECORD_BAD_RECORD_MAC, "the peer sent a record that is not authentic");
        else
            fail(failure, RECORD_INTERNAL_ERROR, "libcrypto could not open a record");
        return RECORD_FAILED;
    }
    count_received(record);
    if (is_tls13(record))
        type = strip_padding(out, last, &content);

    if (type == RECORD_APPLICATION_DATA && content > 0 && record->message_size == 0 &&
        record->skip == 0) {
        record->idle = 0;
        *size = content;
        return RECORD_DATA;
    }
    event = record_receive_control(record, type, out, content, failure);
    OPENSSL_cleanse(out, content);
    return event;
}

/* Seal size bytes of source as one record of this type. out has room. Returns its size, 0 if
 * libcrypto failed or the sequence numbers are used up; then nothing has changed. */
static size_t
seal(struct record *record, enum record_type type, struct record_source *source, size_t size,
     uint8_t *out)
{
    struct traffic_keys *keys = &record->state.send;
    struct record_source from = *source;
    uint8_t nonce[TRAFFIC_IV_SIZE], aad[AAD_MAX], inner_type = (uint8_t)type;
    uint8_t *next = out + record_payload_offset(record);
    size_t total = overhead(record) + size, aad_size, left = size, piece;
    EVP_CIPHER_CTX *context;
    int n, good;

    if (keys->sequence == UINT64_MAX)
        return 0;
    out[0] = is_tls13(record) ? RECORD_APPLICATION_DATA : (uint8_t)type;
    out[1] = out[2] = 3;
    out[3] = (uint8_t)((total - RECORD_HEADER_SIZE) >> 8);
    out[4] = (uint8_t)(total - RECORD_HEADER_SIZE);
    if (nonce_on_wire(record) != 0)
        put_u64(out + RECORD_HEADER_SIZE, keys->explicit_nonce);
    aad_size = frame(record, keys, out, size, nonce, aad);

    ERR_set_mark();
    context = pool_cipher(record->suite->aead, true, record->id, record->send_epoch, keys->key);
    good = context != NULL && EVP_EncryptInit_ex(context, NULL, NULL, NULL, nonce) == 1 &&
           EVP_EncryptUpdate(context, NULL, &n, aad, (int)aad_size) == 1;
    while (good && left > 0) {
        piece = from.parts->iov_len - from.offset;
        if (piece > left)
            piece = left;
        if (piece > 0)
            good = EVP_EncryptUpdate(context, next, &n,
                                     (const uint8_t *)from.parts->iov_base + from.offset,
                                     (int)piece) == 1;
        next += piece;
        left -= piece;
        from.offset += piece;
        from.left -= piece;
        if (from.offset == from.parts->iov_len) {
            from.parts++;
            from.offset = 0;
        }
    }
    if (good && is_tls13(record))
        good = EVP_EncryptUpdate(context, next++, &n, &inner_type, 1) == 1;
    good = good && EVP_EncryptFinal_ex(context, next, &n) == 1 &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, TRAFFIC_TAG_SIZE, next) == 1;
    pool_release();
    ERR_pop_to_mark();
    if (!good)
        return 0;
    keys->sequence++;
    if (nonce_on_wire(record) != 0)
        keys->explicit_nonce++;
    *source = from;
    return total;
}

static size_t
seal_bytes(struct record *record, enum record_type type, void *bytes, size_t size, uint8_t *out)
{
    struct iovec part = {bytes, size};
    struct record_source source = {&part, 0, size};

    return seal(record, type, &source, size, out);
}

/* KeyUpdate goes out under the old key; then the new one counts from zero. */
static size_t
seal_update(struct record *record, uint8_t *out)
{
    uint8_t message[] = {KEY_UPDATE, 0, 0, 1, record->request_owed};
    struct traffic_keys next = record->state.send;
    size_t size = 0;

    if (traffic_keys_update(record->suite, &next) == 0) {
        size = seal_bytes(record, RECORD_HANDSHAKE, message, sizeof(message), out);
        if (size > 0) {
            record->state.send = next;
            record->send_epoch++;
            record->update_owed = false;
            record->request_owed = false;
        }
    }
    OPENSSL_cleanse(&next, sizeof(next));
    return size;
}

size_t
record_seal_alert(struct record *record, enum record_alert alert, uint8_t *out)
{
    bool warning = alert == RECORD_CLOSE_NOTIFY || alert == RECORD_NO_RENEGOTIATION;
    uint8_t message[] = {warning ? 1 : 2, (uint8_t)alert};

    return seal_bytes(record, RECORD_ALERT, message, sizeof(message), out);
}

bool
record_owes(const struct record *record)
{
    return record->update_owed || record->refusal_owed;
}

size_t
record_seal_owed(struct record *record, uint8_t *out, struct record_failure *failure)
{
    size_t size = 0;

    if (record->update_owed)
        size = seal_update(record, out);
    else if (record->refusal_owed)
        size = record_seal_alert(record, RECORD_NO_RENEGOTIATION, out);
    if (size == 0)
        fail(failure, RECORD_INTERNAL_ERROR, "libcrypto could not seal a record");
    else
        record->refusal_owed = false;
    return size;
}

size_t
record_seal_data(struct record *record, struct record_source *source, unsigned records,
                 uint8_t *out, size_t out_size, struct record_failure *failure)
{
    size_t used = 0, size, content;

    for (; source->left > 0 && records > 0; records--) {
        if (record->state.send.sequence >= soft_limit(record) && is_tls13(record))
            record->update_owed = true;
        if (record->state.send.sequence >= hard_limit(record)) {
            if (used == 0)
                fail(failure, -1,
                     "our key has protected as many records as is safe: open a new connection");
            return used;
        }
        content = source->left;
        if (content > record->state.max_fragment)
            content = record->state.max_fragment;
        if (out_size - used < content + RECORD_OVERHEAD_MAX + RECORD_CONTROL_MAX)
            break;
        if (record_owes(record)) {
            size = record_seal_owed(record, out + used, failure);
            if (size == 0)
                return used;
            used += size;
        }
        size = seal(record, RECORD_APPLICATION_DATA, source, content, out + used);
        if (size == 0) {
            fail(failure, RECORD_INTERNAL_ERROR, "libcrypto could not seal a record");
            return used;
        }
        used += size;
        record->idle = 0;
    }
    return used;
}
