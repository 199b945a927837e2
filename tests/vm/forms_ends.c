/* forms_ends.c: records that are not data, broken ones, and every way in which a connection ends.
 */
#include <sys/utsname.h>

#include "protocol/traffic.h"
#include "tests/vm/forms.h"

enum { ALERT = 21, HANDSHAKE = 22, DATA = 23 };

/* What the client hears: this fatal alert. */
static void
expect_alert_at_client(struct pair *pair, const char *name)
{
    uint8_t byte;
    int result;

    while ((result = SSL_read(pair->peer.ssl, &byte, 1)) <= 0) {
        if (SSL_get_error(pair->peer.ssl, result) != SSL_ERROR_WANT_READ)
            break;
        CHECK(peer_receive(&pair->peer, PEER_TIMEOUT), "the client hears nothing");
    }
    CHECK(result <= 0 && strstr(ERR_reason_error_string(ERR_peek_last_error()), name) != NULL,
          "instead of %s: %s", name, ERR_reason_error_string(ERR_peek_last_error()));
}

/* A record of the client's as bytes. */
static uint8_t *
seal(struct pair *pair, const void *bytes, size_t size, size_t *wire_size)
{
    CHECK(SSL_write(pair->peer.ssl, bytes, (int)size) == (int)size, "SSL_write");
    return peer_take(&pair->peer, wire_size);
}

/* ---- broken records ---- */

static void
bad_auth(void)
{
    struct pair pair;
    size_t size;
    uint8_t *wire;

    pair_open(&pair);
    wire = seal(&pair, "0123456789", 10, &size);
    wire[size - 3] ^= 4;
    peer_send(&pair.peer, wire, size);
    expect_read_error(&pair, TLSAGENT_E_RECORD);
    CHECK(tlsagent_error_alert(pair.conn) == 20, "alert %d", tlsagent_error_alert(pair.conn));
    expect_alert_at_client(&pair, "bad record mac");
    CHECK(tlsagent_write(pair.conn, "x", 1) == -1, "writing goes on after a forged record");
}

static void
bad_record(void)
{
    static const uint8_t garbage[64] = "GET / HTTP/1.0\r\n\r\n";
    struct pair pair;

    pair_open(&pair);
    peer_send(&pair.peer, garbage, sizeof(garbage));
    expect_read_error(&pair, TLSAGENT_E_RECORD);
}

static void
too_long_record(void)
{
    uint8_t header[5 + 100] = {23, 3, 3, 0x48, 1}; /* 18433 bytes */
    struct pair pair;

    pair_open(&pair);
    peer_send(&pair.peer, header, sizeof(header));
    expect_read_error(&pair, TLSAGENT_E_RECORD);
    CHECK(tlsagent_error_alert(pair.conn) == 22, "alert %d", tlsagent_error_alert(pair.conn));
}

static void
bad_in_large_read(void)
{
    struct pair pair;
    uint8_t bytes[3][1000], wire[8000], *record;
    size_t size, used = 0;

    pair_open(&pair);
    for (uint64_t i = 0; i < 3; i++) {
        pattern_fill(bytes[i], sizeof(bytes[i]), i * 1000);
        record = seal(&pair, bytes[i], sizeof(bytes[i]), &size);
        memcpy(wire + used, record, size);
        used += size;
        free(record);
    }
    record = seal(&pair, bytes[0], sizeof(bytes[0]), &size);
    record[20] ^= 1;
    memcpy(wire + used, record, size);
    peer_send(&pair.peer, wire, used + size);
    peer_sleep(20);
    worker_read(&pair, 3000, 0); /* what was good reaches the worker */
    expect_read_error(&pair, TLSAGENT_E_RECORD);
}

static void
bad_control_record(void)
{
    uint8_t record[64], byte = peer_pattern(0);
    struct pair pair;
    size_t size;

    pair_open(&pair);
    client_craft(&pair, DATA, &byte, 1);
    size = craft(&pair, ALERT, (uint8_t[]){1, 90}, 2, record);
    record[size - 1] ^= 1;
    peer_send(&pair.peer, record, size);
    peer_sleep(20);
    worker_read(&pair, 1, 0);
    expect_read_error(&pair, TLSAGENT_E_RECORD);
    CHECK(tlsagent_error_alert(pair.conn) == 20, "alert %d", tlsagent_error_alert(pair.conn));
}

/* TCP's urgent bytes between garbage: whoever does this harms himself only. */
static void
oob_pressure(void)
{
    static uint8_t garbage[65536];
    struct pair pair;
    int rest = 64;

    pair_open(&pair);
    client_write(&pair, 10, 0);
    worker_read(&pair, 10, 0);
    memset(garbage, 0x5a, sizeof(garbage));
    CHECK(send(pair.peer.fd, garbage, 5, MSG_OOB) == 5, "send: %s", strerror(errno));
    (void)send(pair.peer.fd, garbage, sizeof(garbage), MSG_DONTWAIT | MSG_NOSIGNAL);
    while (rest-- > 0)
        (void)send(pair.peer.fd, garbage, 5, MSG_OOB | MSG_DONTWAIT | MSG_NOSIGNAL);
    expect_read_error(&pair, TLSAGENT_E_RECORD);
}

/* ---- records without data ---- */

static void
zero_length_records(void)
{
    struct pair pair;

    pair_open(&pair);
    for (uint64_t i = 0; i < 100; i++) {
        client_craft(&pair, DATA, "", 0);
        client_craft(&pair, DATA, (uint8_t[]){peer_pattern(i)}, 1);
        worker_read(&pair, 1, i);
    }
    fcntl(pair.fd, F_SETFL, O_NONBLOCK);
    client_craft(&pair, DATA, "", 0);
    peer_sleep(20);
    CHECK(tlsagent_read(pair.conn, (uint8_t[1]){0}, 1) == TLSAGENT_WANT_POLLIN,
          "an empty record is not an end: %s", tlsagent_error(pair.conn));
}

/* Empty records between others, in all the selftest's orders; a peek passes over them, too. Of
 * other types than data TLS 1.3 allows none (RFC 8446 section 5.1). */
static void
zero_length_orders(void)
{
    static const struct {
        char order[4]; /* d: one byte of data; 0: none; h: an empty handshake record */
        int bytes;     /* that are read before the end: WANT_POLLIN, or an error where it says so */
        bool error;
    } rows[] = {{"ddd", 3, false}, {"dhd", 1, true},  {"000", 0, false}, {"00h", 0, true},
                {"hhh", 0, true},  {"00d", 1, false}, {"d00", 1, false}, {"0d0", 1, false}};

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint8_t byte[] = {peer_pattern(0)}, bytes[8];
        struct pair pair;
        ssize_t n;
        int got = 0;

        pair_open(&pair);
        fcntl(pair.fd, F_SETFL, O_NONBLOCK);
        for (const char *c = rows[i].order; *c != '\0' && c < rows[i].order + 3; c++)
            client_craft(&pair, *c == 'h' ? HANDSHAKE : DATA, byte, *c == 'd' ? 1 : 0);
        peer_sleep(20);
        if (rows[i].order[0] != 'h' && rows[i].bytes > 0)
            CHECK(tlsagent_peek(pair.conn, bytes, sizeof(bytes)) > 0 && bytes[0] == byte[0],
                  "%.3s: peek: %s", rows[i].order, tlsagent_error(pair.conn));
        while ((n = tlsagent_read(pair.conn, bytes, sizeof(bytes))) > 0)
            got += (int)n;
        CHECK(got == rows[i].bytes, "%.3s: %d bytes", rows[i].order, got);
        CHECK(n == (rows[i].error ? -1 : TLSAGENT_WANT_POLLIN), "%.3s: %zd %s", rows[i].order, n,
              tlsagent_error(pair.conn));
        pair_close(&pair);
    }
}

/* Zeros behind the content hide its length (RFC 8446 section 5.4). */
static void
padded_records(void)
{
    uint8_t content[1000];
    struct pair pair;

    pair_open(&pair);
    for (size_t size = 0; size <= 100; size += 20) {
        memset(content, 0, sizeof(content));
        pattern_fill(content, size, 0);
        content[size] = DATA;
        client_craft(&pair, 0, content, size + 1 + 7 * size);
        worker_read(&pair, size, 0);
    }
    client_craft(&pair, 0, (uint8_t[]){1, 90, ALERT, 0, 0}, 5);
    client_craft(&pair, DATA, (uint8_t[]){peer_pattern(0)}, 1);
    worker_read(&pair, 1, 0);
    memset(content, 0, sizeof(content));
    client_craft(&pair, 0, content, 10); /* nothing but padding */
    expect_read_error(&pair, TLSAGENT_E_RECORD);
}

/* User_canceled, to be passed over. */
static void
control_between_data(void)
{
    static const uint8_t canceled[] = {1, 90};
    uint8_t bytes[100];
    struct pair pair;
    ssize_t n;

    pair_open(&pair);
    pattern_fill(bytes, sizeof(bytes), 0);
    client_craft(&pair, DATA, bytes, 40);
    client_craft(&pair, ALERT, canceled, sizeof(canceled));
    client_craft(&pair, DATA, bytes + 40, 60);
    peer_sleep(20);
    worker_read(&pair, 100, 0);
    client_craft(&pair, ALERT, canceled, sizeof(canceled));
    client_craft(&pair, ALERT, canceled, sizeof(canceled));
    client_craft(&pair, DATA, bytes, 40);
    n = tlsagent_peek(pair.conn, bytes, sizeof(bytes)); /* a peek passes over them too */
    CHECK(n == 40, "peek: %zd %s", n, tlsagent_error(pair.conn));
    worker_read(&pair, 40, 0);
}

static void
unknown_record_type(void)
{
    struct pair pair;

    pair_open(&pair);
    client_craft(&pair, 100, "control", 7);
    expect_read_error(&pair, TLSAGENT_E_RECORD);
    CHECK(tlsagent_error_alert(pair.conn) == 10, "alert %d", tlsagent_error_alert(pair.conn));
    expect_alert_at_client(&pair, "unexpected message");
}

static void
handshake_message_is_refused(void)
{
    static const uint8_t types[] = {0, 1, 2, 4, 11, 20};

    for (size_t i = 0; i < sizeof(types); i++) {
        struct pair pair;
        uint8_t message[200] = {types[i], 0, 0, 196};

        pair_open(&pair);
        client_craft(&pair, HANDSHAKE, message, sizeof(message));
        expect_read_error(&pair, TLSAGENT_E_RECORD);
        pair_close(&pair);
    }
}

/* A control record that is longer than the caller's buffer. */
static void
long_control_record_in_a_small_buffer(void)
{
    uint8_t message[16000] = {1, 0, 62, 124}, byte;
    struct pair pair;

    pair_open(&pair);
    client_craft(&pair, HANDSHAKE, message, sizeof(message));
    CHECK(tlsagent_read(pair.conn, &byte, 1) == -1, "read");
    CHECK(tlsagent_error_code(pair.conn) == TLSAGENT_E_RECORD, "%s", tlsagent_error(pair.conn));
    pair_close(&pair);
    pair_open(&pair);
    client_craft(&pair, ALERT, (uint8_t[]){2, 40}, 2);
    CHECK(tlsagent_read(pair.conn, &byte, 1) == -1, "read");
    CHECK(tlsagent_error_code(pair.conn) == TLSAGENT_E_ALERT &&
              tlsagent_error_alert(pair.conn) == 40,
          "%s", tlsagent_error(pair.conn));
}

static void
malformed_alert(void)
{
    struct pair pair;

    pair_open(&pair);
    client_craft(&pair, ALERT, (uint8_t[]){1, 0, 0}, 3);
    expect_read_error(&pair, TLSAGENT_E_RECORD);
}

/* ---- KeyUpdate ---- */

static bool
kernel_changes_keys(void)
{
    struct utsname name;
    int major = 0, minor = 0;

    uname(&name);
    sscanf(name.release, "%d.%d", &major, &minor);
    return major > 6 || (major == 6 && minor >= 14);
}

static void
expect_after_key_update(struct pair *pair)
{
    if (setup.kernel && !kernel_changes_keys()) {
        expect_read_error(pair, TLSAGENT_E_REKEY);
        CHECK(tlsagent_write(pair->conn, "x", 1) == -1 &&
                  tlsagent_error_code(pair->conn) == TLSAGENT_E_REKEY,
              "write: %s", tlsagent_error(pair->conn));
        expect_alert_at_client(pair, "internal error");
    } else {
        worker_read(pair, 10, 0);
        worker_write(pair, 10, 3);
        client_read(pair, 10, 3);
    }
}

static void
key_update(int type)
{
    struct pair pair;

    pair_open(&pair);
    client_write(&pair, 10, 0);
    worker_read(&pair, 10, 0);
    CHECK(SSL_key_update(pair.peer.ssl, type) == 1, "SSL_key_update");
    client_write(&pair, 10, 0);
    expect_after_key_update(&pair);
}

static void
key_update_alone(void)
{
    key_update(SSL_KEY_UPDATE_NOT_REQUESTED);
}

static void
key_update_with_request(void)
{
    key_update(SSL_KEY_UPDATE_REQUESTED);
}

static void
key_update_right_behind_the_handshake(void)
{
    struct pair pair;
    uint8_t bytes[10];

    pair_begin(&pair, &(struct options){.hold = true});
    pattern_fill(bytes, sizeof(bytes), 0);
    CHECK(SSL_key_update(pair.peer.ssl, SSL_KEY_UPDATE_REQUESTED) == 1, "SSL_key_update");
    peer_write(&pair.peer, bytes, sizeof(bytes)); /* and Finished before it, in one piece */
    pair_finish(&pair);
    expect_after_key_update(&pair);
}

/* What came before it can be peeked at and read; behind it waits something, too. */
static void
key_update_between_data(void)
{
    struct pollfd ready;
    uint8_t bytes[100];
    struct pair pair;
    ssize_t n;

    pair_open(&pair);
    client_write(&pair, 10, 0);
    CHECK(SSL_key_update(pair.peer.ssl, SSL_KEY_UPDATE_NOT_REQUESTED) == 1, "SSL_key_update");
    client_write(&pair, 10, 0);
    peer_sleep(20);
    n = tlsagent_peek(pair.conn, bytes, sizeof(bytes));
    CHECK(n >= 10, "peek: %zd %s", n, tlsagent_error(pair.conn));
    pattern_check(bytes, 10, 0);
    worker_read(&pair, 10, 0);
    ready = (struct pollfd){.fd = pair.fd, .events = POLLIN};
    CHECK(tlsagent_pending(pair.conn) > 0 || poll(&ready, 1, 1000) == 1,
          "what waits behind the KeyUpdate is not announced");
    expect_after_key_update(&pair);
}

static void
key_update_shares_a_record(void)
{
    struct pair pair;

    pair_open(&pair);
    client_craft(&pair, HANDSHAKE, (uint8_t[]){24, 0, 0, 1, 0, 24, 0, 0, 1, 0}, 10);
    expect_read_error(&pair, TLSAGENT_E_RECORD);
    CHECK(tlsagent_error_alert(pair.conn) == 10, "alert %d", tlsagent_error_alert(pair.conn));
}

static void
key_update_in_pieces(void)
{
    struct pair pair;

    pair_open(&pair);
    client_craft(&pair, HANDSHAKE, (uint8_t[]){24, 0}, 2);
    client_craft(&pair, HANDSHAKE, (uint8_t[]){0, 1, 0}, 3);
    if (setup.kernel && !kernel_changes_keys()) {
        expect_read_error(&pair, TLSAGENT_E_REKEY);
    } else {
        fcntl(pair.fd, F_SETFL, O_NONBLOCK);
        peer_sleep(20);
        CHECK(tlsagent_read(pair.conn, (uint8_t[1]){0}, 1) == TLSAGENT_WANT_POLLIN, "%s",
              tlsagent_error(pair.conn));
    }
}

/* ---- ends ---- */

static void
client_says_goodbye(struct pair *pair)
{
    SSL_shutdown(pair->peer.ssl);
    peer_flush(&pair->peer);
}

static void
clean_end(void)
{
    struct pair pair;

    pair_open(&pair);
    client_write(&pair, 10, 0);
    client_says_goodbye(&pair);
    worker_read(&pair, 10, 0);
    expect_clean_end(&pair);
    worker_write(&pair, 10, 5); /* the other direction is still open */
    client_read(&pair, 10, 5);
    CHECK(tlsagent_close(pair.conn) == 0, "close");
    CHECK(peer_read(&pair.peer, (uint8_t[1]){0}, 1) == 0, "no close_notify from the worker");
}

static void
worker_closes_first(void)
{
    struct pair pair;

    pair_open(&pair);
    fcntl(pair.fd, F_SETFL, O_NONBLOCK);
    CHECK(tlsagent_shutdown(pair.conn) == TLSAGENT_WANT_POLLIN, "shutdown: %s",
          tlsagent_error(pair.conn));
    CHECK(tlsagent_write(pair.conn, "x", 1) == -1, "writing after closing");
    CHECK(peer_read(&pair.peer, (uint8_t[1]){0}, 1) == 0, "no close_notify from the worker");
    client_says_goodbye(&pair);
    peer_sleep(20);
    CHECK(tlsagent_shutdown(pair.conn) == 0, "shutdown: %s", tlsagent_error(pair.conn));
    CHECK(tlsagent_close(pair.conn) == 0, "close");
}

static void
end_without_close_notify(void)
{
    struct pair pair;

    pair_open(&pair);
    client_write(&pair, 10, 0);
    shutdown(pair.peer.fd, SHUT_WR);
    worker_read(&pair, 10, 0);
    expect_read_error(&pair, TLSAGENT_E_TRUNCATED);
    worker_write(&pair, 10, 5);
    client_read(&pair, 10, 5);
}

static void
end_in_the_middle_of_a_record(void)
{
    struct pair pair;
    size_t size;
    uint8_t *wire;

    pair_open(&pair);
    wire = seal(&pair, "0123456789", 10, &size);
    peer_send(&pair.peer, wire, size - 5);
    shutdown(pair.peer.fd, SHUT_WR);
    expect_read_error(&pair, TLSAGENT_E_TRUNCATED);
}

static void
reset(void)
{
    struct linger now = {1, 0};
    struct pair pair;

    pair_open(&pair);
    setsockopt(pair.peer.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    close(pair.peer.fd);
    expect_read_error(&pair, TLSAGENT_E_CLOSED);
    CHECK(tlsagent_write(pair.conn, "x", 1) == -1 &&
              tlsagent_error_code(pair.conn) == TLSAGENT_E_CLOSED,
          "write: %s", tlsagent_error(pair.conn));
}

/* Who only writes learns it, too, soon after TCP has. */
static void
reset_is_told_to_a_writer(void)
{
    struct linger now = {1, 0};
    struct pair pair;
    int written = 0;

    pair_open(&pair);
    setsockopt(pair.peer.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    close(pair.peer.fd);
    peer_sleep(20);
    while (tlsagent_write(pair.conn, "x", 1) == 1 && written < 10)
        written++;
    printf("# %d writes until one failed\n", written);
    CHECK(tlsagent_error_code(pair.conn) == TLSAGENT_E_CLOSED, "%d writes, then: %s", written,
          tlsagent_error(pair.conn));
}

/* ---- plain read() and write(): what they can do and what not ---- */

static void
plain_open(struct pair *pair)
{
    pair_open_with(pair, &(struct options){.forms = TLSAGENT_FORM_KERNEL_PLAIN});
    CHECK(strcmp(tlsagent_conn_form(pair->conn), "kernel-plain") == 0, "%s",
          tlsagent_conn_form(pair->conn));
}

static void
plain_data(void)
{
    struct pair pair;
    uint8_t bytes[1000];

    plain_open(&pair);
    client_write(&pair, 1000, 0);
    CHECK(read(pair.fd, bytes, 1000) == 1000, "read: %s", strerror(errno));
    pattern_check(bytes, 1000, 0);
    CHECK(write(pair.fd, bytes, 1000) == 1000, "write: %s", strerror(errno));
    client_read(&pair, 1000, 0);
}

static void
plain_clean_end_is_eio(void)
{
    struct pair pair;
    uint8_t byte;

    plain_open(&pair);
    client_says_goodbye(&pair);
    CHECK(read(pair.fd, &byte, 1) == -1 && errno == EIO, "read: %s", strerror(errno));
    expect_clean_end(&pair); /* the library can still tell */
}

static void
plain_end_without_close_notify_is_0(void)
{
    struct pair pair;
    uint8_t byte;

    plain_open(&pair);
    shutdown(pair.peer.fd, SHUT_WR);
    CHECK(read(pair.fd, &byte, 1) == 0, "read: %s", strerror(errno));
}

/* The other direction is still open: write() goes on, although read() is at its end. */
static void
plain_client_half_closes(void)
{
    struct pair pair;
    uint8_t bytes[10];

    plain_open(&pair);
    client_says_goodbye(&pair);
    CHECK(read(pair.fd, bytes, 1) == -1 && errno == EIO, "read: %s", strerror(errno));
    pattern_fill(bytes, sizeof(bytes), 0);
    CHECK(write(pair.fd, bytes, sizeof(bytes)) == sizeof(bytes), "write: %s", strerror(errno));
    client_read(&pair, sizeof(bytes), 0);
}

/* shutdown(SHUT_WR) says nothing of TLS: to the client it is a cut. Reading goes on. */
static void
plain_worker_half_closes(void)
{
    struct pair pair;
    uint8_t bytes[10];

    plain_open(&pair);
    CHECK(shutdown(pair.fd, SHUT_WR) == 0, "shutdown");
    CHECK(peer_read(&pair.peer, bytes, 1) == -1, "the client takes it for a clean end");
    client_write(&pair, 10, 0);
    CHECK(read(pair.fd, bytes, sizeof(bytes)) == sizeof(bytes), "read: %s", strerror(errno));
    pattern_check(bytes, sizeof(bytes), 0);
}

/* So does close(); tlsagent_close() says close_notify. */
static void
plain_close_is_a_cut(void)
{
    struct pair pair;
    uint8_t byte;

    for (int well = 0; well <= 1; well++) {
        plain_open(&pair);
        if (well == 1)
            CHECK(tlsagent_close(pair.conn) == 0, "close");
        close(pair.fd);
        CHECK(peer_read(&pair.peer, &byte, 1) == (well == 1 ? 0 : -1), "the client sees the other");
    }
}

static void
plain_key_update_is_eio(void)
{
    struct pair pair;
    uint8_t byte;

    plain_open(&pair);
    SSL_key_update(pair.peer.ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
    client_write(&pair, 1, 0);
    CHECK(read(pair.fd, &byte, 1) == -1 && errno == EIO, "read: %s", strerror(errno));
}

/* What a client would see: a handshake record behind the handshake. */
static void
plain_ticket_is_eio(void)
{
    uint8_t ticket[60] = {4, 0, 0, 56}, byte;
    struct pair pair;

    plain_open(&pair);
    client_craft(&pair, HANDSHAKE, ticket, sizeof(ticket));
    client_craft(&pair, DATA, "x", 1);
    CHECK(read(pair.fd, &byte, 1) == -1 && errno == EIO, "read: %s", strerror(errno));
    CHECK(read(pair.fd, &byte, 1) == -1 && errno == EIO, "it stays: %s", strerror(errno));
}

const struct test_case end_cases[] = {
    {"bad_auth", bad_auth, ALWAYS},
    {"bad_record", bad_record, ALWAYS},
    {"too_long_record", too_long_record, ALWAYS},
    {"bad_in_large_read", bad_in_large_read, ALWAYS},
    {"bad_control_record", bad_control_record, TLS13},
    {"oob_pressure", oob_pressure, ALWAYS},
    {"zero_length_records", zero_length_records, TLS13},
    {"zero_length_orders", zero_length_orders, TLS13},
    {"padded_records", padded_records, TLS13},
    {"control_between_data", control_between_data, TLS13},
    {"unknown_record_type", unknown_record_type, TLS13},
    {"handshake_message_is_refused", handshake_message_is_refused, TLS13},
    {"long_control_record_in_a_small_buffer", long_control_record_in_a_small_buffer, TLS13},
    {"malformed_alert", malformed_alert, TLS13},
    {"key_update", key_update_alone, TLS13},
    {"key_update_with_request", key_update_with_request, TLS13},
    {"key_update_right_behind_the_handshake", key_update_right_behind_the_handshake, TLS13},
    {"key_update_between_data", key_update_between_data, TLS13},
    {"key_update_shares_a_record", key_update_shares_a_record, TLS13},
    {"key_update_in_pieces", key_update_in_pieces, TLS13},
    {"clean_end", clean_end, ALWAYS},
    {"worker_closes_first", worker_closes_first, ALWAYS},
    {"end_without_close_notify", end_without_close_notify, ALWAYS},
    {"end_in_the_middle_of_a_record", end_in_the_middle_of_a_record, ALWAYS},
    {"reset", reset, ALWAYS},
    {"reset_is_told_to_a_writer", reset_is_told_to_a_writer, ALWAYS},
    {"plain_data", plain_data, KERNEL},
    {"plain_clean_end_is_eio", plain_clean_end_is_eio, KERNEL},
    {"plain_end_without_close_notify_is_0", plain_end_without_close_notify_is_0, KERNEL},
    {"plain_client_half_closes", plain_client_half_closes, KERNEL},
    {"plain_worker_half_closes", plain_worker_half_closes, KERNEL},
    {"plain_close_is_a_cut", plain_close_is_a_cut, KERNEL},
    {"plain_key_update_is_eio", plain_key_update_is_eio, KERNEL | TLS13},
    {"plain_ticket_is_eio", plain_ticket_is_eio, KERNEL | TLS13},
    {NULL, NULL, 0},
};
