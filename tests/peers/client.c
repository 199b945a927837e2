/*
 * client.c: a TLS client for the traps of handing a connection over in the middle of its life.
 *
 *   client MODE PORT CA [ARGUMENT...]
 *
 * Each mode is one way in which a peer's bytes may fall that a careless hand-over gets wrong. The
 * server is https-server, or tests/peers/worker.c where a mode says so. Exit status 0: all was
 * right.
 */
#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <sys/ioctl.h>

#include "protocol/traffic.h"
#include "tests/peers/peer.h"

struct run {
    int port;
    const char *ca;
    int argc; /* arguments of the mode */
    char **argv;
};

static const char *
argument(const struct run *run, int index)
{
    CHECK(index < run->argc, "argument %d is missing", index + 1);
    return run->argv[index];
}

/* ---- sessions: the newest one, and how many came ---- */

static SSL_SESSION *last_session;
static int session_count;

static int
keep_session(SSL *ssl, SSL_SESSION *session)
{
    (void)ssl;
    SSL_SESSION_free(last_session);
    last_session = session;
    session_count++;
    return 1;
}

static void
set_session(struct peer *peer)
{
    CHECK(last_session != NULL, "the server gave no session");
    CHECK(SSL_set_session(peer->ssl, last_session) == 1, "SSL_set_session");
}

static SSL_CTX *
session_ctx(const struct run *run, int version)
{
    SSL_CTX *ctx = peer_ctx(version, run->ca);

    SSL_CTX_sess_set_new_cb(ctx, keep_session);
    return ctx;
}

/* ---- records of our own making ---- */

/* A direction's keys, AES-128-GCM in both versions. */
static struct traffic_keys client_keys;

/* Take CLIENT_TRAFFIC_SECRET_0 from the key log. */
static void
take_secret(const SSL *ssl, const char *line)
{
    static const char label[] = "CLIENT_TRAFFIC_SECRET_0 ";
    const char *hex;

    (void)ssl;
    if (strncmp(line, label, sizeof(label) - 1) != 0)
        return;
    hex = strchr(line + sizeof(label) - 1, ' ');
    CHECK(hex != NULL && strlen(hex + 1) == 64, "key log line: %s", line);
    memset(&client_keys, 0, sizeof(client_keys));
    for (int i = 0; i < 32; i++) {
        char byte[3] = {hex[1 + 2 * i], hex[2 + 2 * i], 0};

        client_keys.secret[i] = (uint8_t)strtoul(byte, NULL, 16);
    }
    CHECK(traffic_keys_derive(traffic_suite_find(0x1301), &client_keys) == 0, "derive");
}

static SSL_CTX *
raw_ctx(const struct run *run)
{
    SSL_CTX *ctx = peer_ctx(13, run->ca);

    SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256");
    SSL_CTX_set_keylog_callback(ctx, take_secret);
    return ctx;
}

static void
seal(const uint8_t *key, const uint8_t nonce[12], const uint8_t *aad, size_t aad_size,
     const uint8_t *text, size_t size, uint8_t *out)
{
    EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
    int done;

    CHECK(cipher != NULL && EVP_EncryptInit_ex(cipher, EVP_aes_128_gcm(), NULL, key, nonce) == 1 &&
              EVP_EncryptUpdate(cipher, NULL, &done, aad, (int)aad_size) == 1 &&
              EVP_EncryptUpdate(cipher, out, &done, text, (int)size) == 1 &&
              EVP_EncryptFinal_ex(cipher, out + size, &done) == 1 &&
              EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_AEAD_GET_TAG, 16, out + size) == 1,
          "seal");
    EVP_CIPHER_CTX_free(cipher);
}

/* A TLS 1.3 record of the given content type with the client's next sequence number. */
static size_t
seal_13(uint8_t type, const void *content, size_t size, uint8_t *out)
{
    uint8_t nonce[12], text[1024];

    CHECK(size < sizeof(text), "too long");
    memcpy(text, content, size);
    text[size] = type;
    memcpy(out, "\x17\x03\x03", 3);
    out[3] = (uint8_t)((size + 17) >> 8);
    out[4] = (uint8_t)(size + 17);
    memcpy(nonce, client_keys.iv, 12);
    for (int i = 0; i < 8; i++)
        nonce[4 + i] ^= (uint8_t)(client_keys.sequence >> (56 - 8 * i));
    client_keys.sequence++;
    seal(client_keys.key, nonce, out, 5, text, size + 1, out + 5);
    return 5 + size + 17;
}

/* A TLS 1.2 AES-128-GCM application data record with sequence number 1. */
static size_t
seal_12(SSL *ssl, const void *content, size_t size, uint8_t *out)
{
    uint8_t master[48], seed[64], block[40], nonce[12], aad[13] = {0};
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "TLS1-PRF", NULL);
    EVP_KDF_CTX *prf = EVP_KDF_CTX_new(kdf);
    OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)"SHA256", 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SECRET, master, sizeof(master)),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SEED, (char *)"key expansion", 13),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SEED, seed, sizeof(seed)),
        OSSL_PARAM_construct_end(),
    };

    CHECK(SSL_SESSION_get_master_key(SSL_get_session(ssl), master, sizeof(master)) == 48, "master");
    CHECK(SSL_get_server_random(ssl, seed, 32) == 32, "server random");
    CHECK(SSL_get_client_random(ssl, seed + 32, 32) == 32, "client random");
    CHECK(EVP_KDF_derive(prf, block, sizeof(block), parameters) == 1, "PRF");
    EVP_KDF_CTX_free(prf);
    EVP_KDF_free(kdf);
    memcpy(nonce, block + 32, 4); /* after two 16-byte keys: the client's salt */
    memcpy(nonce + 4, "\xee\0\0\0\0\0\0\1", 8);
    aad[7] = 1; /* sequence number */
    memcpy(aad + 8, "\x17\x03\x03", 3);
    aad[11] = (uint8_t)(size >> 8);
    aad[12] = (uint8_t)size;
    memcpy(out, "\x17\x03\x03", 3);
    out[3] = (uint8_t)((size + 24) >> 8);
    out[4] = (uint8_t)(size + 24);
    memcpy(out + 5, nonce + 4, 8);
    seal(block, nonce, aad, sizeof(aad), content, size, out + 13);
    return 13 + size + 16;
}

/* ---- the modes ---- */

/* tickets VERSION COUNT: COUNT tickets come (TLS 1.2: 0 or 1); with them the session resumes, again
 * and again, whichever cell it meets; without one there is a full handshake. */
static void
mode_tickets(const struct run *run)
{
    int version = atoi(argument(run, 0));
    int expected = atoi(argument(run, 1));
    SSL_CTX *ctx = session_ctx(run, version);
    struct peer peer;

    peer_start(&peer, ctx, run->port);
    peer_handshake(&peer, false);
    CHECK(!peer_get_facts(&peer), "the first connection cannot be resumed");
    CHECK(session_count == expected || (expected == 0 && version == 12), "%d tickets instead of %d",
          session_count, expected);
    peer_close(&peer);
    for (int i = 0; i < 6; i++) {
        bool resumed, expect_resumed = expected > 0;

        session_count = 0;
        peer_start(&peer, ctx, run->port);
        if (last_session != NULL)
            set_session(&peer);
        peer_handshake(&peer, false);
        resumed = peer_get_facts(&peer);
        CHECK(resumed == (SSL_session_reused(peer.ssl) == 1), "the page says resumed: %d", resumed);
        CHECK(resumed == expect_resumed, "round %d: resumed %d", i, resumed);
        if (version == 13)
            CHECK(session_count == (expected > 0 ? 1 : 0), "%d tickets after resumption",
                  session_count);
        peer_get_bytes(&peer, 50000);
        peer_close(&peer);
    }
}

/* glue 13|13resumed|12|12resumed: the request in one piece with Finished, split at every offset. In
 * a full TLS 1.2 handshake the request is a False Start (RFC 7918): it arrives before the server
 * has sent its own Finished. With $GLUE_STEP only every so many offsets, where all take too long.
 */
static void
mode_glue(const struct run *run)
{
    static const char request[] = "GET /bytes/3000 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    const char *form = argument(run, 0);
    int version = strncmp(form, "12", 2) == 0 ? 12 : 13;
    bool resume = strcmp(form + 2, "resumed") == 0;
    bool false_start = version == 12 && !resume;
    SSL_CTX *ctx = session_ctx(run, version);
    const char *given = getenv("GLUE_STEP");
    size_t step = given != NULL ? strtoul(given, NULL, 10) : 1;
    size_t last = 1, offset = 0, count = 0;
    struct peer peer;

    if (version == 12)
        SSL_CTX_set_cipher_list(ctx, "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256");
    if (resume) {
        peer_start(&peer, ctx, run->port);
        peer_handshake(&peer, false);
        peer_get_bytes(&peer, 10);
        peer_close(&peer);
    }
    CHECK(step > 0, "GLUE_STEP");
    for (; offset <= last; offset += step, count++) {
        uint8_t *flight, blob[2048];
        size_t size;

        peer_start(&peer, ctx, run->port);
        if (resume)
            set_session(&peer);
        if (false_start) {
            int result = SSL_do_handshake(peer.ssl);

            CHECK(result == -1, "done after ClientHello?");
            peer_flush(&peer);
            while (BIO_ctrl_pending(peer.out) == 0) { /* until our Finished is there */
                CHECK(peer_receive(&peer, PEER_TIMEOUT), "server said nothing");
                result = SSL_do_handshake(peer.ssl);
            }
        } else {
            peer_handshake(&peer, true);
            CHECK(SSL_session_reused(peer.ssl) == (resume ? 1 : 0), "resumed or not");
            CHECK(SSL_write(peer.ssl, request, sizeof(request) - 1) > 0, "SSL_write");
        }
        flight = peer_take(&peer, &size);
        CHECK(size > 0 && size < 1024, "flight of %zu bytes", size);
        memcpy(blob, flight, size);
        free(flight);
        if (false_start)
            size += seal_12(peer.ssl, request, sizeof(request) - 1, blob + size);
        last = size;
        CHECK(peer_send(&peer, blob, offset), "server closed");
        if (offset > 0 && offset < size)
            peer_sleep(2);
        CHECK(peer_send(&peer, blob + offset, size - offset), "server closed");
        if (false_start)
            peer_handshake(&peer, true);
        peer_read_bytes(&peer, 3000);
        peer_free(&peer);
    }
    printf("%zu offsets\n", count);
}

/* nonces: TLS 1.2 GCM; the explicit nonces of all records that the server sends are different, and
 * the first after Finished, which another process sent, is Finished's plus one. */
static void
check_nonces(struct peer *peer)
{
    uint64_t previous = 0;
    bool encrypted = false;
    int records = 0;

    for (size_t at = 0; at + 5 <= peer->wire_size;) {
        const uint8_t *record = peer->wire + at;
        size_t size = (size_t)record[3] << 8 | record[4];
        uint64_t nonce = 0;

        CHECK(at + 5 + size <= peer->wire_size, "half a record");
        at += 5 + size;
        if (record[0] == 20) {
            encrypted = true;
            continue;
        }
        if (!encrypted)
            continue;
        CHECK(size >= 24, "record of %zu bytes", size);
        for (int i = 0; i < 8; i++)
            nonce = nonce << 8 | record[5 + i];
        /* Counting up by one makes them unique, too. */
        CHECK(records == 0 ? record[0] == 22 : nonce == previous + 1,
              "record %d (type %d): nonce %016llx after %016llx", records, record[0],
              (unsigned long long)nonce, (unsigned long long)previous);
        previous = nonce;
        records++;
    }
    CHECK(records >= 10, "only %d records were seen", records);
    printf("%d records\n", records);
}

static void
mode_nonces(const struct run *run)
{
    SSL_CTX *ctx = session_ctx(run, 12);
    struct peer peer;

    SSL_CTX_set_cipher_list(ctx, argument(run, 0));
    for (int round = 0; round < 2; round++) {
        peer_start(&peer, ctx, run->port);
        if (round > 0)
            set_session(&peer);
        peer_handshake(&peer, false);
        CHECK(SSL_session_reused(peer.ssl) == round, "resumed or not");
        peer_get_bytes(&peer, 200000);
        peer_get_bytes(&peer, 1);
        peer_get_bytes(&peer, 100000);
        check_nonces(&peer);
        peer_close(&peer);
    }
}

/* compatibility on|off: with and without the ChangeCipherSpecs of middlebox compatibility. */
static void
mode_compatibility(const struct run *run)
{
    SSL_CTX *ctx = session_ctx(run, 13);
    bool on = strcmp(argument(run, 0), "on") == 0;
    struct peer peer;

    if (!on)
        SSL_CTX_clear_options(ctx, SSL_OP_ENABLE_MIDDLEBOX_COMPAT);
    for (int round = 0; round < 2; round++) {
        bool seen = false;

        peer_start(&peer, ctx, run->port);
        if (round > 0)
            set_session(&peer);
        peer_handshake(&peer, false);
        for (size_t at = 0; at + 5 <= peer.wire_size;
             at += 5 + ((size_t)peer.wire[at + 3] << 8 | peer.wire[at + 4]))
            seen |= peer.wire[at] == 20;
        CHECK(seen || !on, "no ChangeCipherSpec from the server");
        peer_get_bytes(&peer, 100000);
        peer_close(&peer);
    }
}

/* retry GROUPS: the key share is of the first group, which the server has not: HelloRetryRequest.
 */
static void
mode_retry(const struct run *run)
{
    static const uint8_t retry_random[] = "\xcf\x21\xad\x74\xe5\x9a\x61\x11\xbe\x1d\x8c\x02\x1e\x65"
                                          "\xb8\x91\xc2\xa2\x11\x16\x7a\xbb\x8c\x5e\x07\x9e\x09\xe2"
                                          "\xc8\xa8\x33\x9c";
    SSL_CTX *ctx = session_ctx(run, 13);
    struct peer peer;

    CHECK(SSL_CTX_set1_groups_list(ctx, argument(run, 0)) == 1, "groups");
    for (int round = 0; round < 2; round++) {
        peer_start(&peer, ctx, run->port);
        if (round > 0)
            set_session(&peer);
        peer_handshake(&peer, false);
        CHECK(peer.wire_size > 43 && memcmp(peer.wire + 11, retry_random, 32) == 0,
              "the server's first message is no HelloRetryRequest");
        CHECK(SSL_session_reused(peer.ssl) == round, "resumed or not");
        peer_get_bytes(&peer, 100000);
        peer_close(&peer);
    }
}

/* keyupdate_first: KeyUpdate and the request in one piece with Finished. */
static void
mode_keyupdate_first(const struct run *run)
{
    static const char request[] = "GET /bytes/100000 HTTP/1.1\r\nHost: localhost\r\n\r\n";

    for (int asks = 0; asks < 2; asks++) {
        SSL_CTX *ctx = peer_ctx(13, run->ca);
        struct peer peer;

        peer_start(&peer, ctx, run->port);
        peer_handshake(&peer, true);
        CHECK(SSL_key_update(peer.ssl,
                             asks ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED) == 1,
              "SSL_key_update");
        CHECK(SSL_write(peer.ssl, request, sizeof(request) - 1) > 0, "SSL_write");
        peer_flush(&peer);
        peer_read_bytes(&peer, 100000);
        peer_get_bytes(&peer, 10);
        peer_close(&peer);
        SSL_CTX_free(ctx);
    }
}

/* keyupdate_storm: 100 KeyUpdates that ask for an answer, between pieces of an echo. */
static void
mode_keyupdate_storm(const struct run *run)
{
    enum { PIECE = 3000, ROUNDS = 100 };
    uint8_t piece[PIECE], back[PIECE];
    char head[4096];
    SSL_CTX *ctx = peer_ctx(13, run->ca);
    struct peer peer;
    int size = snprintf(head, sizeof(head),
                        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n",
                        PIECE * ROUNDS);

    peer_start(&peer, ctx, run->port);
    peer_handshake(&peer, false);
    peer_write(&peer, head, (size_t)size);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < PIECE; i++)
            piece[i] = (uint8_t)(round * 7 + i);
        CHECK(SSL_key_update(peer.ssl, SSL_KEY_UPDATE_REQUESTED) == 1, "SSL_key_update");
        peer_write(&peer, piece, PIECE);
        if (round == 0)
            CHECK(peer_read_head(&peer, head) == PIECE * ROUNDS, "length");
        peer_read_exactly(&peer, back, PIECE);
        CHECK(memcmp(piece, back, PIECE) == 0, "round %d: wrong bytes", round);
    }
    peer_close(&peer);
}

/* Read until the server ends the connection; the alert that it sent, -1: none, 0: close_notify. */
static int
read_until_alert(struct peer *peer)
{
    uint8_t buffer[16384];

    for (;;) {
        int result = SSL_read(peer->ssl, buffer, sizeof(buffer)), error;

        if (result > 0)
            continue;
        error = SSL_get_error(peer->ssl, result);
        if (error == SSL_ERROR_ZERO_RETURN)
            return 0;
        if (error == SSL_ERROR_SSL) {
            unsigned long code = ERR_get_error();

            ERR_clear_error();
            CHECK(ERR_GET_REASON(code) > SSL_AD_REASON_OFFSET, "not an alert: %s",
                  ERR_reason_error_string(code));
            return ERR_GET_REASON(code) - SSL_AD_REASON_OFFSET;
        }
        CHECK(error == SSL_ERROR_WANT_READ, "SSL_read: error %d", error);
        if (!peer_receive(peer, PEER_TIMEOUT)) {
            CHECK(peer->end, "server neither closed nor sent an alert");
            return -1;
        }
    }
}

/* keyupdate_shared: two KeyUpdates in one record (RFC 8446 section 5.1: not allowed, the keys
 * change at the record's end): unexpected_message. */
static void
mode_keyupdate_shared(const struct run *run)
{
    uint8_t record[2048];
    struct peer peer;
    size_t size;
    int alert;

    peer_start(&peer, raw_ctx(run), run->port);
    peer_handshake(&peer, false);
    size = seal_13(22, "\x18\0\0\1\0\x18\0\0\1\0", 10, record);
    CHECK(peer_send(&peer, record, size), "closed");
    alert = read_until_alert(&peer);
    CHECK(alert == SSL_AD_UNEXPECTED_MESSAGE, "alert %d instead of unexpected_message", alert);
    peer_free(&peer);
}

/* keyupdate_fragmented: one KeyUpdate in two records, at each cut; then data under the new key. The
 * connection works, or ends cleanly: never with bad_record_mac. */
static void
mode_keyupdate_fragmented(const struct run *run)
{
    static const uint8_t update[5] = {24, 0, 0, 1, 0};
    static const char request[] = "GET /bytes/10 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    int worked = 0;

    for (size_t cut = 1; cut < sizeof(update); cut++) {
        uint8_t records[4096];
        struct peer peer;
        size_t size;
        int alert;

        peer_start(&peer, raw_ctx(run), run->port);
        peer_handshake(&peer, false);
        size = seal_13(22, update, cut, records);
        size += seal_13(22, update + cut, sizeof(update) - cut, records + size);
        CHECK(traffic_keys_update(traffic_suite_find(0x1301), &client_keys) == 0, "update");
        size += seal_13(23, request, sizeof(request) - 1, records + size);
        CHECK(peer_send(&peer, records, size), "closed");
        CHECK(peer_receive(&peer, PEER_TIMEOUT) || peer.end, "silence");
        /* An alert would fit into 24 bytes; the answer does not. */
        if (!peer.end && peer.wire_size > 0) {
            uint8_t byte;
            int result = SSL_read(peer.ssl, &byte, 1);

            while (result != 1 && SSL_get_error(peer.ssl, result) == SSL_ERROR_WANT_READ &&
                   peer_receive(&peer, PEER_TIMEOUT))
                result = SSL_read(peer.ssl, &byte, 1);
            if (result == 1) {
                CHECK(byte == 'H', "not the answer");
                worked++;
                peer_free(&peer);
                continue;
            }
        }
        alert = read_until_alert(&peer);
        CHECK(alert != SSL_AD_BAD_RECORD_MAC && alert != -1, "cut %zu: alert %d", cut, alert);
        peer_free(&peer);
    }
    printf("%d of 4 worked\n", worked);
}

/* after_handshake TYPE: a handshake message that no client may send now: unexpected_message (10).
 */
static void
mode_after_handshake(const struct run *run)
{
    uint8_t message[8] = {(uint8_t)atoi(argument(run, 0)), 0, 0, 4};
    uint8_t record[2048];
    struct peer peer;
    size_t size;
    int alert;

    peer_start(&peer, raw_ctx(run), run->port);
    peer_handshake(&peer, false);
    size = seal_13(22, message, sizeof(message), record);
    CHECK(peer_send(&peer, record, size), "closed");
    alert = read_until_alert(&peer);
    CHECK(alert == SSL_AD_UNEXPECTED_MESSAGE, "alert %d instead of unexpected_message", alert);
    peer_free(&peer);
}

/* renegotiate: TLS 1.2; refused with the warning no_renegotiation, and nothing else happens. */
static void
mode_renegotiate(const struct run *run)
{
    SSL_CTX *ctx = peer_ctx(12, run->ca);
    struct peer peer;
    uint8_t byte;
    int result;

    peer_start(&peer, ctx, run->port);
    peer_handshake(&peer, false);
    peer_get_bytes(&peer, 10);
    CHECK(SSL_renegotiate(peer.ssl) == 1, "SSL_renegotiate");
    result = SSL_do_handshake(peer.ssl);
    for (;;) {
        peer_flush(&peer);
        if (SSL_get_error(peer.ssl, result) != SSL_ERROR_WANT_READ)
            break;
        CHECK(peer_receive(&peer, PEER_TIMEOUT), "no answer");
        result = SSL_read(peer.ssl, &byte, 1);
    }
    CHECK(ERR_GET_REASON(ERR_get_error()) == SSL_R_NO_RENEGOTIATION, "not refused as it should be");
    peer_free(&peer);
}

/* fin VERSION none|record|clean: the end of a connection as seen by tests/peers/worker echo: after
 * a message, in the middle of a record, or after close_notify. */
static void
mode_fin(const struct run *run)
{
    SSL_CTX *ctx = peer_ctx(atoi(argument(run, 0)), run->ca);
    const char *how = argument(run, 1);
    uint8_t byte, *bytes;
    struct peer peer;
    size_t size;

    peer_start(&peer, ctx, run->port);
    peer_handshake(&peer, false);
    peer_write(&peer, "x", 1);
    peer_read_exactly(&peer, &byte, 1);
    if (strcmp(how, "clean") == 0) {
        peer_close(&peer);
        return;
    }
    if (strcmp(how, "record") == 0) {
        CHECK(SSL_write(peer.ssl, "half of this is lost", 20) == 20, "SSL_write");
        bytes = peer_take(&peer, &size);
        CHECK(peer_send(&peer, bytes, size - 7), "closed");
        free(bytes);
    }
    shutdown(peer.fd, SHUT_WR);
    while (peer_receive(&peer, PEER_TIMEOUT))
        continue;
    CHECK(peer.end, "server did not close");
    peer_free(&peer);
}

/* fragment VERSION: maximum fragment length 512: no record from the server is larger. */
static void
mode_fragment(const struct run *run)
{
    int version = atoi(argument(run, 0));
    SSL_CTX *ctx = peer_ctx(version, run->ca);
    size_t largest = 0, maximum = 512 + (version == 12 ? 24 : 17);
    struct peer peer;

    SSL_CTX_set_tlsext_max_fragment_length(ctx, TLSEXT_max_fragment_length_512);
    peer_start(&peer, ctx, run->port);
    peer_handshake(&peer, false);
    CHECK(SSL_SESSION_get_max_fragment_length(SSL_get_session(peer.ssl)) ==
              TLSEXT_max_fragment_length_512,
          "not negotiated");
    peer_get_bytes(&peer, 100000);
    for (size_t at = 0; at + 5 <= peer.wire_size;) {
        size_t size = (size_t)peer.wire[at + 3] << 8 | peer.wire[at + 4];

        if (size > largest)
            largest = size;
        at += 5 + size;
    }
    CHECK(largest <= maximum && largest > 512, "largest record: %zu bytes", largest);
    peer_close(&peer);
}

/* tiny MILLISECONDS NAME [PROTOCOL]: a receiver with hardly a buffer that reads nothing for a while
 * once it has sent Finished; then everything is there. The long NAME and PROTOCOL (then also the
 * smallest records) travel in the tickets and make them large. Server: worker sndbuf. */
static void
mode_tiny(const struct run *run)
{
    SSL_CTX *ctx = session_ctx(run, 13);
    uint8_t line[5];
    const char *name = argument(run, 1);
    struct peer peer;
    int result;

    if (run->argc > 2) {
        uint8_t protocols[256] = {(uint8_t)strlen(argument(run, 2))};

        memcpy(protocols + 1, argument(run, 2), protocols[0]);
        SSL_CTX_set_alpn_protos(ctx, protocols, 1u + protocols[0]);
        SSL_CTX_set_tlsext_max_fragment_length(ctx, TLSEXT_max_fragment_length_512);
    }
    peer_start_on(&peer, ctx, peer_connect_tcp(run->port, 1));
    SSL_set_tlsext_host_name(peer.ssl, name);
    while ((result = SSL_do_handshake(peer.ssl)) != 1) {
        CHECK(SSL_get_error(peer.ssl, result) == SSL_ERROR_WANT_READ, "handshake failed");
        peer_flush(&peer);
        CHECK(peer_receive_some(&peer, 64, PEER_TIMEOUT), "no answer");
    }
    peer_flush(&peer);
    peer_sleep((unsigned)atoi(argument(run, 0)));
    peer_read_exactly(&peer, line, 5);
    CHECK(memcmp(line, "hello", 5) == 0, "not the greeting");
    CHECK(session_count == 8, "%d tickets instead of 8", session_count);
    peer_close(&peer);
    peer_start(&peer, ctx, run->port);
    SSL_set_tlsext_host_name(peer.ssl, name);
    set_session(&peer);
    peer_handshake(&peer, false);
    CHECK(SSL_session_reused(peer.ssl) == 1, "not resumed");
    peer_read_exactly(&peer, line, 5);
    peer_close(&peer);
}

/* slow VERSION MILLISECONDS: the handshake byte by byte. Exit 0 if it succeeds. */
static void
mode_slow(const struct run *run)
{
    SSL_CTX *ctx = peer_ctx(atoi(argument(run, 0)), run->ca);
    unsigned pause = (unsigned)atoi(argument(run, 1));
    struct peer peer;
    int result;

    peer_start(&peer, ctx, run->port);
    do {
        uint8_t *bytes;
        size_t size;

        result = SSL_do_handshake(peer.ssl);
        bytes = peer_take(&peer, &size);
        for (size_t i = 0; i < size; i++) {
            CHECK(peer_send(&peer, bytes + i, 1), "server closed after %zu bytes", i);
            peer_sleep(pause);
        }
        free(bytes);
        if (result != 1) {
            CHECK(SSL_get_error(peer.ssl, result) == SSL_ERROR_WANT_READ, "handshake failed");
            CHECK(peer_receive(&peer, PEER_TIMEOUT), "server closed or is silent");
        }
    } while (result != 1);
    peer_write(&peer, "x", 1);
    CHECK(peer_read(&peer, &(uint8_t){0}, 1) == 1, "no echo");
    peer_close(&peer);
}

static int
print_ticket(SSL *ssl, SSL_SESSION *session)
{
    const unsigned char *ticket;
    size_t size;

    (void)ssl;
    SSL_SESSION_get0_ticket(session, &ticket, &size);
    fputs("ticket ", stdout);
    for (size_t i = 0; i < size; i++)
        printf("%02x", ticket[i]);
    puts("");
    return 0;
}

/* stalled VERSION: the last flight waits until stdin says something; then the tickets are printed.
 * The server has signed meanwhile and is not done. */
static void
mode_stalled(const struct run *run)
{
    SSL_CTX *ctx = peer_ctx(atoi(argument(run, 0)), run->ca);
    struct peer peer;
    char line[16];

    SSL_CTX_sess_set_new_cb(ctx, print_ticket);
    peer_start(&peer, ctx, run->port);
    SSL_do_handshake(peer.ssl);
    peer_flush(&peer);
    while (BIO_pending(peer.out) == 0) {
        CHECK(peer_receive(&peer, PEER_TIMEOUT), "server closed or is silent");
        SSL_do_handshake(peer.ssl);
    }
    puts("stalled");
    fflush(stdout);
    if (fgets(line, sizeof(line), stdin) == NULL)
        return; /* in the middle of it */
    peer_handshake(&peer, false);
    (void)peer_get_facts(&peer);
    peer_close(&peer);
}

/* silent: after the handshake the worker says nothing, and so must the agent: until stdin says "go"
 * nothing but tickets may come, not even an end. Then "hello". Server: worker silent. */
static void
mode_silent(const struct run *run)
{
    SSL_CTX *ctx = session_ctx(run, atoi(argument(run, 0)));
    uint8_t buffer[64];
    struct peer peer;
    int result;
    size_t before;

    peer_start(&peer, ctx, run->port);
    peer_handshake(&peer, false);
    while (peer_receive(&peer, 300))
        continue;
    result = SSL_read(peer.ssl, buffer, sizeof(buffer)); /* digests the tickets */
    CHECK(SSL_get_error(peer.ssl, result) == SSL_ERROR_WANT_READ && !peer.end, "not silent");
    before = peer.wire_size;
    /* Something for an agent that still has the connection to react to. */
    peer_write(&peer, "ping", 4);
    puts("quiet");
    fflush(stdout);
    CHECK(fgets((char *)buffer, sizeof(buffer), stdin) != NULL, "stdin");
    CHECK(!peer_receive(&peer, 300) && !peer.end && peer.wire_size == before,
          "%zu bytes came from somebody", peer.wire_size - before);
    puts("still quiet");
    fflush(stdout);
    CHECK(fgets((char *)buffer, sizeof(buffer), stdin) != NULL, "stdin");
    peer_read_exactly(&peer, buffer, 5);
    CHECK(memcmp(buffer, "hello", 5) == 0, "not the worker's hello");
    peer_read_exactly(&peer, buffer, 4);
    CHECK(memcmp(buffer, "ping", 4) == 0, "not the echo");
    peer_close(&peer);
}

/* echo VERSION ROUNDS: talk with tests/peers/worker; for what happens on the worker's side. */
static void
mode_echo(const struct run *run)
{
    SSL_CTX *ctx = peer_ctx(atoi(argument(run, 0)), run->ca);
    int rounds = atoi(argument(run, 1));
    struct peer peer;

    peer_start(&peer, ctx, run->port);
    peer_handshake(&peer, false);
    for (int round = 0; round < rounds; round++) {
        char text[32], back[32];
        int size = snprintf(text, sizeof(text), "round %d\n", round);

        peer_write(&peer, text, (size_t)size);
        peer_read_exactly(&peer, back, (size_t)size);
        CHECK(memcmp(text, back, (size_t)size) == 0, "wrong echo");
    }
    peer_close(&peer);
}

/* greeted VERSION TEXT: the server speaks first; then a request as usual. */
static void
mode_greeted(const struct run *run)
{
    const char *text = argument(run, 1);
    char line[256];
    SSL_CTX *ctx = peer_ctx(atoi(argument(run, 0)), run->ca);
    struct peer peer;

    CHECK(strlen(text) + 2 < sizeof(line), "too long");
    peer_start(&peer, ctx, run->port);
    peer_handshake(&peer, false);
    peer_read_exactly(&peer, line, strlen(text) + 2);
    CHECK(strncmp(line, text, strlen(text)) == 0, "not the greeting");
    peer_get_bytes(&peer, 100);
    peer_close(&peer);
}

/* refused: the server closes before any handshake; for a worker that has no agent. */
static void
mode_refused(const struct run *run)
{
    SSL_CTX *ctx = peer_ctx(13, run->ca);
    double start = peer_seconds();
    struct peer peer;

    peer_start(&peer, ctx, run->port);
    SSL_do_handshake(peer.ssl);
    peer_flush(&peer);
    while (peer_receive(&peer, PEER_TIMEOUT))
        continue;
    CHECK(peer.end, "the connection stays open");
    CHECK(peer_seconds() - start < 1.0, "it took %.1f seconds", peer_seconds() - start);
    CHECK(peer.wire_size == 0, "%zu bytes came", peer.wire_size);
    peer_free(&peer);
}

static const struct {
    const char *name;
    void (*run)(const struct run *);
} modes[] = {
    {"tickets", mode_tickets},
    {"glue", mode_glue},
    {"nonces", mode_nonces},
    {"compatibility", mode_compatibility},
    {"retry", mode_retry},
    {"keyupdate_first", mode_keyupdate_first},
    {"keyupdate_storm", mode_keyupdate_storm},
    {"keyupdate_shared", mode_keyupdate_shared},
    {"keyupdate_fragmented", mode_keyupdate_fragmented},
    {"after_handshake", mode_after_handshake},
    {"renegotiate", mode_renegotiate},
    {"fin", mode_fin},
    {"fragment", mode_fragment},
    {"tiny", mode_tiny},
    {"slow", mode_slow},
    {"stalled", mode_stalled},
    {"silent", mode_silent},
    {"echo", mode_echo},
    {"greeted", mode_greeted},
    {"refused", mode_refused},
};

int
main(int argc, char **argv)
{
    CHECK(argc >= 4, "usage: client MODE PORT CA [ARGUMENT...]");
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        if (strcmp(argv[1], modes[i].name) == 0) {
            struct run run = {atoi(argv[2]), argv[3], argc - 4, argv + 4};

            modes[i].run(&run);
            return 0;
        }
    }
    CHECK(false, "unknown mode %s", argv[1]);
}
