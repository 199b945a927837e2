/* test_record.c: the record layer in memory: RFC 8448, round trips, tampering, control records. */
#include "tests/unit/record_fixture.h"

#include <stdio.h>

#include "client/pool.h"

#define WIRE_MAX 20000

static struct record ours, theirs; /* server and client of one connection */
static struct traffic_state server_state, client_state;
static uint8_t wire[WIRE_MAX], plain[WIRE_MAX];

static void
begin(uint16_t suite)
{
    fixture_states(suite, TRAFFIC_PLAINTEXT_MAX, &server_state, &client_state);
    memset(&ours, 0, sizeof(ours));
    memset(&theirs, 0, sizeof(theirs));
    ck_assert_int_eq(record_init(&ours, &server_state, true, NULL), 0);
    ck_assert_int_eq(record_init(&theirs, &client_state, false, NULL), 0);
}

static bool
is_tls13(void)
{
    return ours.suite->version == TRAFFIC_TLS_1_3;
}

/* The peer of ours sends a record with this type inside. Returns its size in wire. */
static size_t
forge(uint8_t type, const void *content, size_t size)
{
    uint8_t inner[WIRE_MAX];

    memcpy(inner, content, size);
    inner[size] = type;
    return fixture_forge(ours.suite, &client_state.send,
                         is_tls13() ? RECORD_APPLICATION_DATA : type, inner, size + is_tls13(),
                         wire);
}

/* What ours says to the record in wire. */
static enum record_event
open_wire(size_t size, size_t *content, struct record_failure *failure)
{
    size_t total = 0;
    int result;

    memset(failure, 0, sizeof(*failure));
    result = record_measure(&ours, wire, size, &total, failure);
    if (result == -1)
        return RECORD_FAILED;
    ck_assert_int_eq(result, 1);
    ck_assert_uint_eq(total, size);
    ck_assert_uint_le(record_content_max(&ours, total), sizeof(plain));
    return record_open(&ours, wire, total, plain, content, failure);
}

static size_t
from_hex(const char *hex, uint8_t *out)
{
    size_t n = 0;

    for (; hex[0] != '\0'; hex += 2) {
        char byte[3] = {hex[0], hex[1], '\0'};

        out[n++] = (uint8_t)strtoul(byte, NULL, 16);
    }
    return n;
}

/* RFC 8448 section 3: the records of the simple 1-RTT handshake behind Finished. */
START_TEST(rfc_8448_records_are_sealed_and_opened)
{
    static const char *const client_records[] = {
        "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20"
        "441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4",
        "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3",
    };
    static const char *const server_records[] = {
        "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dcb50"
        "1a59a8fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d",
        "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9",
    };
    struct record_failure failure;
    struct record_source source;
    uint8_t data[50], expected[100];
    struct iovec part = {data, sizeof(data)};
    size_t i, size, content = 0;

    memset(&server_state, 0, sizeof(server_state));
    server_state.suite = 0x1301;
    server_state.max_fragment = TRAFFIC_PLAINTEXT_MAX;
    from_hex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643",
             server_state.send.secret);
    from_hex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5",
             server_state.receive.secret);
    traffic_keys_derive(traffic_suite_find(0x1301), &server_state.send);
    traffic_keys_derive(traffic_suite_find(0x1301), &server_state.receive);
    server_state.send.sequence = 1; /* 0 was NewSessionTicket */
    memset(&ours, 0, sizeof(ours));
    ck_assert_int_eq(record_init(&ours, &server_state, true, NULL), 0);
    for (i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)i;

    size = from_hex(client_records[0], wire);
    ck_assert_int_eq(open_wire(size, &content, &failure), RECORD_DATA);
    ck_assert_uint_eq(content, sizeof(data));
    ck_assert_mem_eq(plain, data, sizeof(data));

    source = (struct record_source){&part, 0, sizeof(data)};
    size = record_seal_data(&ours, &source, 1, wire, sizeof(wire), &failure);
    ck_assert_uint_eq(size, from_hex(server_records[0], expected));
    ck_assert_mem_eq(wire, expected, size);

    size = from_hex(client_records[1], wire);
    ck_assert_int_eq(open_wire(size, &content, &failure), RECORD_CLOSED);
    size = record_seal_alert(&ours, RECORD_CLOSE_NOTIFY, wire);
    ck_assert_uint_eq(size, from_hex(server_records[1], expected));
    ck_assert_mem_eq(wire, expected, size);
}
END_TEST

/* Every size and fragment limit, in place and apart, gathered from odd pieces. */
START_TEST(round_trips)
{
    static const size_t sizes[] = {1, 2, 15, 16, 17, 511, 512, 513, 16383, 16384, 16385, 100000};
    static const uint16_t fragments[] = {1, 512, 1000, 4096, 16384};
    static uint8_t data[100000], back[100000], out[1100000];
    struct iovec parts[3];
    struct record_failure failure;
    size_t i, j, at, used, size, total, content, got;

    fixture_fill(data, sizeof(data), 5);
    for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (j = 0; j < sizeof(fragments) / sizeof(fragments[0]); j++) {
            struct record_source source = {parts, 0, sizes[i]};

            if (fragments[j] == 1 && sizes[i] > 513)
                continue;
            begin(fixture_suites[_i]);
            theirs.state.max_fragment = fragments[j];
            parts[0] = (struct iovec){data, sizes[i] / 3};
            parts[1] = (struct iovec){NULL, 0};
            parts[2] = (struct iovec){data + sizes[i] / 3, sizes[i] - sizes[i] / 3};
            used = 0;
            while (source.left > 0) {
                size =
                    record_seal_data(&theirs, &source, 3, out + used, sizeof(out) - used, &failure);
                ck_assert_uint_gt(size, 0);
                used += size;
            }
            for (at = got = 0; at < used; at += total) {
                uint8_t *to;

                ck_assert_int_eq(record_measure(&ours, out + at, used - at, &total, &failure), 1);
                ck_assert_uint_le(total, fragments[j] + RECORD_OVERHEAD_MAX);
                to = at % 2 == 0 ? plain : out + at + record_payload_offset(&ours);
                ck_assert_int_eq(record_open(&ours, out + at, total, to, &content, &failure),
                                 RECORD_DATA);
                memcpy(back + got, to, content);
                got += content;
            }
            ck_assert_uint_eq(got, sizes[i]);
            ck_assert_mem_eq(back, data, got);
        }
    }
}
END_TEST

/* Our sealing against the fixture's, byte for byte, and explicit nonces from the first one on. */
START_TEST(sealing_agrees_with_libcrypto)
{
    uint8_t data[300], inner[301], expected[400];
    struct iovec part = {data, sizeof(data)};
    struct record_failure failure;
    size_t i, size;

    begin(fixture_suites[_i]);
    fixture_fill(data, sizeof(data), 9);
    memcpy(inner, data, sizeof(data));
    inner[300] = RECORD_APPLICATION_DATA;
    for (i = 0; i < 40; i++) {
        struct record_source source = {&part, 0, sizeof(data)};

        size = record_seal_data(&ours, &source, 1, wire, sizeof(wire), &failure);
        ck_assert_uint_eq(size,
                          fixture_forge(ours.suite, &server_state.send, RECORD_APPLICATION_DATA,
                                        inner, sizeof(data) + is_tls13(), expected));
        ck_assert_mem_eq(wire, expected, size);
        if (!is_tls13() && ours.suite->aead != TRAFFIC_CHACHA20_POLY1305) {
            uint64_t nonce = 0;
            int j;

            for (j = 0; j < 8; j++)
                nonce = nonce << 8 | wire[5 + j];
            ck_assert_uint_eq(nonce, FIXTURE_NONCE + i);
        }
    }
}
END_TEST

/* ---- tampering ---- */

enum tamper { FLIP, SHORTER, LONGER, REPLAY, REORDER, TYPE, VERSION, OVERSIZE, EMPTY, TINY };

static const struct {
    const char *name;
    enum tamper how;
    int at; /* FLIP: byte, negative: from the end */
    int alert12, alert13;
} tampers[] = {
    {"first byte of the ciphertext", FLIP, 13, RECORD_BAD_RECORD_MAC, RECORD_BAD_RECORD_MAC},
    {"explicit nonce or ciphertext", FLIP, 5, RECORD_BAD_RECORD_MAC, RECORD_BAD_RECORD_MAC},
    {"middle", FLIP, 60, RECORD_BAD_RECORD_MAC, RECORD_BAD_RECORD_MAC},
    {"first byte of the tag", FLIP, -16, RECORD_BAD_RECORD_MAC, RECORD_BAD_RECORD_MAC},
    {"last byte", FLIP, -1, RECORD_BAD_RECORD_MAC, RECORD_BAD_RECORD_MAC},
    {"one byte cut", SHORTER, 0, RECORD_BAD_RECORD_MAC, RECORD_BAD_RECORD_MAC},
    {"one byte more", LONGER, 0, RECORD_BAD_RECORD_MAC, RECORD_BAD_RECORD_MAC},
    {"twice the same", REPLAY, 0, RECORD_BAD_RECORD_MAC, RECORD_BAD_RECORD_MAC},
    {"the second first", REORDER, 0, RECORD_BAD_RECORD_MAC, RECORD_BAD_RECORD_MAC},
    {"type alert", TYPE, 21, RECORD_BAD_RECORD_MAC, RECORD_UNEXPECTED_MESSAGE},
    {"type handshake", TYPE, 22, RECORD_BAD_RECORD_MAC, RECORD_UNEXPECTED_MESSAGE},
    {"type ChangeCipherSpec", TYPE, 20, RECORD_UNEXPECTED_MESSAGE, RECORD_UNEXPECTED_MESSAGE},
    {"type heartbeat", TYPE, 24, RECORD_UNEXPECTED_MESSAGE, RECORD_UNEXPECTED_MESSAGE},
    {"type 'G'", TYPE, 'G', RECORD_UNEXPECTED_MESSAGE, RECORD_UNEXPECTED_MESSAGE},
    {"minor version", VERSION, 2, RECORD_PROTOCOL_VERSION, RECORD_BAD_RECORD_MAC},
    {"major version", VERSION, 1, RECORD_PROTOCOL_VERSION, RECORD_BAD_RECORD_MAC},
    {"length beyond the limit", OVERSIZE, 0, RECORD_RECORD_OVERFLOW, RECORD_RECORD_OVERFLOW},
    {"length zero", EMPTY, 0, RECORD_BAD_RECORD_MAC, RECORD_BAD_RECORD_MAC},
    {"shorter than a tag", TINY, 15, RECORD_BAD_RECORD_MAC, RECORD_BAD_RECORD_MAC},
};

static size_t
tamper(size_t i, size_t size)
{
    uint8_t first[200];
    struct record_failure failure;
    size_t content;

    switch (tampers[i].how) {
    case FLIP:
        wire[tampers[i].at < 0 ? (int)size + tampers[i].at : tampers[i].at] ^= 1;
        break;
    case SHORTER:
        size--;
        break;
    case LONGER:
        wire[size++] = 0;
        break;
    case REPLAY:
        memcpy(first, wire, size);
        ck_assert_int_eq(open_wire(size, &content, &failure), RECORD_DATA);
        memcpy(wire, first, size);
        break;
    case REORDER:
        size = forge(RECORD_APPLICATION_DATA, "second", 6);
        break;
    case TYPE:
        wire[0] = (uint8_t)tampers[i].at;
        break;
    case VERSION:
        wire[tampers[i].at] ^= 1;
        break;
    case OVERSIZE:
        size = record_content_max(&ours, 0) + TRAFFIC_PLAINTEXT_MAX + 1 + 5 + 16 +
               (is_tls13() ? 1 : record_payload_offset(&ours) - 5);
        break;
    case EMPTY:
        size = 5;
        break;
    case TINY:
        size = 5 + (size_t)tampers[i].at;
        break;
    }
    wire[3] = (uint8_t)((size - 5) >> 8);
    wire[4] = (uint8_t)(size - 5);
    return size;
}

START_TEST(tampering_is_answered_with_the_right_alert)
{
    struct record_failure failure;
    uint8_t data[100] = {1};
    size_t i, j, size, content = 0;

    for (i = 0; i < sizeof(tampers) / sizeof(tampers[0]); i++) {
        begin(fixture_suites[_i]);
        size = tamper(i, forge(RECORD_APPLICATION_DATA, data, sizeof(data)));
        memset(plain, 0xee, sizeof(plain));
        ck_assert_msg(open_wire(size, &content, &failure) == RECORD_FAILED, "%s", tampers[i].name);
        ck_assert_msg(failure.alert == (is_tls13() ? tampers[i].alert13 : tampers[i].alert12),
                      "%s: alert %d", tampers[i].name, failure.alert);
        ck_assert(!failure.received);
        for (j = 0; j < sizeof(data); j++) /* nothing unauthentic is left */
            ck_assert(plain[j] == 0 || plain[j] == 0xee || tampers[i].how == REPLAY);
    }
}
END_TEST

START_TEST(the_longest_record_is_accepted)
{
    static uint8_t data[TRAFFIC_PLAINTEXT_MAX];
    struct record_failure failure;
    size_t content = 0, size;

    begin(fixture_suites[_i]);
    size = forge(RECORD_APPLICATION_DATA, data, sizeof(data));
    ck_assert_int_eq(open_wire(size, &content, &failure), RECORD_DATA);
    ck_assert_uint_eq(content, sizeof(data));
}
END_TEST

/* ---- control records: the bytes of one or more records, and what becomes of them ---- */

#define ANY 0

static const struct {
    const char *name;
    uint16_t version; /* ANY: both */
    bool client;      /* we are the client */
    uint8_t type;
    const char *records; /* contents as hex; a comma ends a record */
    enum record_event event;
    int alert; /* of RECORD_FAILED */
    bool owes;
} controls[] = {
    {"close_notify", ANY, false, 21, "0100", RECORD_CLOSED, 0, false},
    {"close_notify, level fatal", ANY, false, 21, "0200", RECORD_CLOSED, 0, false},
    {"fatal alert", ANY, false, 21, "0228", RECORD_FAILED, 40, false},
    {"warning", TRAFFIC_TLS_1_2, false, 21, "0170", RECORD_NOTHING, 0, false},
    {"warning is an error", TRAFFIC_TLS_1_3, false, 21, "0170", RECORD_FAILED, 112, false},
    {"user_canceled", ANY, false, 21, "015a", RECORD_NOTHING, 0, false},
    {"alert of one byte", ANY, false, 21, "01", RECORD_FAILED, 50, false},
    {"two alerts", ANY, false, 21, "01000100", RECORD_FAILED, 50, false},
    {"empty alert", ANY, false, 21, "", RECORD_FAILED, 50, false},
    {"empty data", ANY, false, 23, "", RECORD_NOTHING, 0, false},
    {"unknown type inside", TRAFFIC_TLS_1_3, false, 24, "00", RECORD_FAILED, 10, false},
    {"CCS inside", TRAFFIC_TLS_1_3, false, 20, "01", RECORD_FAILED, 10, false},
    {"nothing but padding", TRAFFIC_TLS_1_3, false, 0, "000000", RECORD_FAILED, 10, false},
    {"nothing at all", TRAFFIC_TLS_1_3, false, 0, "", RECORD_FAILED, 10, false},
    {"KeyUpdate", TRAFFIC_TLS_1_3, false, 22, "1800000100", RECORD_NOTHING, 0, false},
    {"KeyUpdate, answer wanted", TRAFFIC_TLS_1_3, false, 22, "1800000101", RECORD_NOTHING, 0, true},
    {"KeyUpdate in five", TRAFFIC_TLS_1_3, false, 22, "18,00,00,01,01", RECORD_NOTHING, 0, true},
    {"KeyUpdate in two", TRAFFIC_TLS_1_3, false, 22, "180000,0101", RECORD_NOTHING, 0, true},
    {"KeyUpdate of 2", TRAFFIC_TLS_1_3, false, 22, "1800000102", RECORD_FAILED, 47, false},
    {"KeyUpdate, too long", TRAFFIC_TLS_1_3, false, 22, "180000020000", RECORD_FAILED, 50, false},
    {"KeyUpdate, empty", TRAFFIC_TLS_1_3, false, 22, "18000000", RECORD_FAILED, 50, false},
    {"KeyUpdate twice", TRAFFIC_TLS_1_3, false, 22, "18000001001800000100", RECORD_FAILED, 10,
     false},
    {"KeyUpdate and more", TRAFFIC_TLS_1_3, false, 22, "180000010018", RECORD_FAILED, 10, false},
    {"empty handshake", ANY, false, 22, "", RECORD_FAILED, 10, false},
    {"ClientHello", TRAFFIC_TLS_1_3, false, 22, "01000001aa", RECORD_FAILED, 10, false},
    {"Finished", TRAFFIC_TLS_1_3, false, 22, "14000001aa", RECORD_FAILED, 10, false},
    {"CertificateRequest", TRAFFIC_TLS_1_3, true, 22, "0d000001aa", RECORD_FAILED, 10, false},
    {"ticket to a server", TRAFFIC_TLS_1_3, false, 22, "04000001aa", RECORD_FAILED, 10, false},
    {"ticket", TRAFFIC_TLS_1_3, true, 22, "04000003aabbcc", RECORD_NOTHING, 0, false},
    {"tickets", TRAFFIC_TLS_1_3, true, 22, "04000001aa04000001bb", RECORD_NOTHING, 0, false},
    {"ticket in pieces", TRAFFIC_TLS_1_3, true, 22, "0400,0003aa,bb,cc", RECORD_NOTHING, 0, false},
    {"ticket and KeyUpdate", TRAFFIC_TLS_1_3, true, 22, "04000001aa1800000101", RECORD_NOTHING, 0,
     true},
    {"ticket, huge", TRAFFIC_TLS_1_3, true, 22, "04ffffff", RECORD_FAILED, 50, false},
    {"KeyUpdate", TRAFFIC_TLS_1_2, false, 22, "1800000100", RECORD_FAILED, 10, false},
    {"renegotiation", TRAFFIC_TLS_1_2, false, 22, "01000003aabbcc", RECORD_NOTHING, 0, true},
    {"renegotiation in pieces", TRAFFIC_TLS_1_2, false, 22, "01,000003aa,bbcc", RECORD_NOTHING, 0,
     true},
    {"ClientHello, huge", TRAFFIC_TLS_1_2, false, 22, "01ffffff", RECORD_FAILED, 50, false},
    {"HelloRequest to a server", TRAFFIC_TLS_1_2, false, 22, "00000000", RECORD_FAILED, 10, false},
    {"HelloRequest", TRAFFIC_TLS_1_2, true, 22, "00000000", RECORD_NOTHING, 0, true},
    {"HelloRequest, too long", TRAFFIC_TLS_1_2, true, 22, "00000001aa", RECORD_FAILED, 50, false},
    {"ClientHello to a client", TRAFFIC_TLS_1_2, true, 22, "01000001aa", RECORD_FAILED, 10, false},
    {"ticket", TRAFFIC_TLS_1_2, true, 22, "04000001aa", RECORD_FAILED, 10, false},
};

START_TEST(control_records)
{
    struct record_failure failure;
    uint8_t content[100];
    enum record_event event;
    const char *next;
    size_t i, size, n;

    for (i = 0; i < sizeof(controls) / sizeof(controls[0]); i++) {
        begin(fixture_suites[_i]);
        if (controls[i].version != ANY && controls[i].version != ours.suite->version)
            continue;
        ours.is_server = !controls[i].client;
        next = controls[i].records;
        do {
            char hex[100] = "";
            size_t length = strcspn(next, ",");

            memcpy(hex, next, length);
            size = from_hex(hex, content);
            next += length;
            event = open_wire(forge(controls[i].type, content, size), &n, &failure);
            if (*next == ',')
                ck_assert_msg(event == RECORD_NOTHING, "%s", controls[i].name);
        } while (*next++ == ',');
        ck_assert_msg(event == controls[i].event, "%s: event %d, %s", controls[i].name, event,
                      failure.text != NULL ? failure.text : "");
        if (event == RECORD_FAILED)
            ck_assert_msg(failure.alert == controls[i].alert, "%s: alert %d", controls[i].name,
                          failure.alert);
        ck_assert_msg(record_owes(&ours) == controls[i].owes, "%s", controls[i].name);
    }
}
END_TEST

START_TEST(padding_is_stripped)
{
    uint8_t inner[50] = "data";
    struct record_failure failure;
    size_t size, content = 0;

    begin(0x1301);
    inner[4] = RECORD_APPLICATION_DATA;
    size = fixture_forge(ours.suite, &client_state.send, 23, inner, sizeof(inner), wire);
    ck_assert_int_eq(open_wire(size, &content, &failure), RECORD_DATA);
    ck_assert_uint_eq(content, 4);
    ck_assert_mem_eq(plain, "data", 4);
}
END_TEST

START_TEST(a_handshake_message_must_not_be_interrupted)
{
    struct record_failure failure;
    size_t content = 0;

    begin(0x1301);
    ck_assert_int_eq(open_wire(forge(22, "\x18", 1), &content, &failure), RECORD_NOTHING);
    ck_assert_int_eq(open_wire(forge(23, "data", 4), &content, &failure), RECORD_FAILED);
    ck_assert_int_eq(failure.alert, RECORD_UNEXPECTED_MESSAGE);
}
END_TEST

/* After KeyUpdate the peer's next record is under its new key, ours too, and not before. */
START_TEST(key_update_both_ways)
{
    struct record_failure failure;
    struct record_source source;
    struct iovec part = {(void *)"hello", 5};
    size_t i, size, total, content = 0;

    begin(fixture_suites[_i]);
    for (i = 0; i < 100; i++) {
        ck_assert_int_eq(open_wire(forge(22, "\x18\x00\x00\x01\x01", 5), &content, &failure),
                         RECORD_NOTHING);
        ck_assert_int_eq(traffic_keys_update(ours.suite, &client_state.send), 0);
        ck_assert_int_eq(open_wire(forge(23, "hello", 5), &content, &failure), RECORD_DATA);

        /* The answer precedes the data in one batch; the peer opens both. */
        source = (struct record_source){&part, 0, 5};
        size = record_seal_data(&ours, &source, 1, wire, sizeof(wire), &failure);
        ck_assert(!record_owes(&ours));
        ck_assert_int_eq(record_measure(&theirs, wire, size, &total, &failure), 1);
        ck_assert_uint_lt(total, size);
        ck_assert_int_eq(record_open(&theirs, wire, total, plain, &content, &failure),
                         RECORD_NOTHING);
        ck_assert(!record_owes(&theirs));
        ck_assert_int_eq(
            record_open(&theirs, wire + total, size - total, plain, &content, &failure),
            RECORD_DATA);
        ck_assert_mem_eq(plain, "hello", 5);
        ck_assert_uint_eq(ours.state.send.sequence, 1);
        ck_assert_uint_eq(ours.state.receive.sequence, 1);
    }
}
END_TEST

/* ---- floods ---- */

static const struct {
    const char *name;
    uint16_t suite;
    uint8_t type;
    const char *content;
    size_t size;
} floods[] = {
    {"empty data", 0x1301, 23, "", 0},
    {"empty data", 0xc02f, 23, "", 0},
    {"KeyUpdate", 0x1302, 22, "\x18\x00\x00\x01\x00", 5},
    {"KeyUpdate, answer wanted", 0x1303, 22, "\x18\x00\x00\x01\x01", 5},
    {"user_canceled", 0x1301, 21, "\x01\x5a", 2},
    {"warnings", 0xcca8, 21, "\x01\x70", 2},
    {"renegotiations", 0xc030, 22, "\x01\x00\x00\x00", 4},
};

START_TEST(floods_end)
{
    struct record_failure failure;
    struct record_source source;
    struct iovec part = {(void *)"x", 1};
    size_t content = 0;
    int i, round;

    begin(floods[_i].suite);
    for (round = 0; round < 3; round++) {
        for (i = 0; i < RECORD_IDLE_MAX; i++) {
            enum record_event event = open_wire(
                forge(floods[_i].type, floods[_i].content, floods[_i].size), &content, &failure);

            ck_assert_msg(event == RECORD_NOTHING, "%s: %d", floods[_i].name, i);
            if (floods[_i].content[0] == 0x18)
                traffic_keys_update(ours.suite, &client_state.send);
        }
        if (round == 0) { /* data in either direction: start again */
            ck_assert_int_eq(open_wire(forge(23, "x", 1), &content, &failure), RECORD_DATA);
        } else if (round == 1) {
            source = (struct record_source){&part, 0, 1};
            ck_assert_uint_gt(record_seal_data(&ours, &source, 1, plain, sizeof(plain), &failure),
                              0);
        }
    }
    ck_assert_int_eq(
        open_wire(forge(floods[_i].type, floods[_i].content, floods[_i].size), &content, &failure),
        RECORD_FAILED);
    ck_assert_int_eq(failure.alert, RECORD_UNEXPECTED_MESSAGE);
}
END_TEST

/* ---- limits: the sequence number is the count, so the tests begin near the end ---- */

static size_t
seal_one(struct record_failure *failure)
{
    struct iovec part = {(void *)"x", 1};
    struct record_source source = {&part, 0, 1};

    memset(failure, 0, sizeof(*failure));
    return record_seal_data(&ours, &source, 1, wire, sizeof(wire), failure);
}

START_TEST(a_worn_key_is_changed_in_tls13)
{
    struct record_failure failure;
    size_t size, total, content;

    begin(fixture_suites[_i]);
    ours.state.send.sequence = theirs.state.receive.sequence = RECORD_GCM_SOFT - 1;
    size = seal_one(&failure);
    ck_assert_int_eq(record_open(&theirs, wire, size, plain, &content, &failure), RECORD_DATA);
    size = seal_one(&failure);
    ck_assert_int_eq(record_measure(&theirs, wire, size, &total, &failure), 1);
    if (ours.suite->aead == TRAFFIC_CHACHA20_POLY1305) {
        ck_assert_uint_eq(total, size);
        return;
    }
    ck_assert_int_eq(record_open(&theirs, wire, total, plain, &content, &failure), RECORD_NOTHING);
    ck_assert_int_eq(record_open(&theirs, wire + total, size - total, plain, &content, &failure),
                     RECORD_DATA);
    ck_assert_uint_eq(ours.state.send.sequence, 1);
}
END_TEST

START_TEST(the_peer_is_asked_to_change_a_worn_key)
{
    struct record_failure failure;
    size_t size, content;

    begin(0x1301);
    ours.state.receive.sequence = client_state.send.sequence = RECORD_GCM_SOFT - 1;
    ck_assert_int_eq(open_wire(forge(23, "x", 1), &content, &failure), RECORD_DATA);
    ck_assert(record_owes(&ours));
    size = record_seal_owed(&ours, wire, &failure);
    ck_assert_int_eq(record_open(&theirs, wire, size, plain, &content, &failure), RECORD_NOTHING);
    ck_assert(record_owes(&theirs)); /* it was a request */
    ck_assert_int_eq(open_wire(forge(23, "x", 1), &content, &failure), RECORD_DATA);
    ck_assert(!record_owes(&ours)); /* asked once */
}
END_TEST

START_TEST(a_worn_key_ends_tls12)
{
    bool gcm = traffic_suite_find(fixture_suites[_i])->aead != TRAFFIC_CHACHA20_POLY1305;
    uint64_t limit = gcm ? RECORD_GCM_HARD : UINT64_MAX - 16;
    struct record_failure failure;
    size_t content;

    begin(fixture_suites[_i]);
    ours.state.send.sequence = limit - 1;
    ours.state.receive.sequence = client_state.send.sequence = limit - 1;
    ck_assert_uint_gt(seal_one(&failure), 0);
    ck_assert_uint_eq(seal_one(&failure), 0);
    ck_assert_ptr_nonnull(strstr(failure.text, "open a new connection"));
    ck_assert_uint_gt(record_seal_alert(&ours, RECORD_CLOSE_NOTIFY, wire), 0);

    ck_assert_int_eq(open_wire(forge(23, "x", 1), &content, &failure), RECORD_DATA);
    ck_assert_int_eq(open_wire(forge(23, "x", 1), &content, &failure), RECORD_FAILED);
    ck_assert_int_eq(failure.alert, RECORD_INTERNAL_ERROR);
}
END_TEST

START_TEST(sequence_numbers_never_wrap)
{
    begin(fixture_suites[_i]);
    ours.state.send.sequence = UINT64_MAX;
    ck_assert_uint_eq(record_seal_alert(&ours, RECORD_CLOSE_NOTIFY, wire), 0);
    ck_assert_uint_eq(ours.state.send.sequence, UINT64_MAX);
}
END_TEST

START_TEST(impossible_states_are_refused)
{
    struct error error = {""};
    struct record record;

    begin(0x1301);
    memset(&record, 0, sizeof(record));
    server_state.max_fragment = 0;
    ck_assert_int_eq(record_init(&record, &server_state, true, &error), -1);
    ck_assert_ptr_nonnull(strstr(error.text, "fragment"));
    server_state.max_fragment = 16385;
    ck_assert_int_eq(record_init(&record, &server_state, true, NULL), -1);
    server_state.max_fragment = 16384;
    server_state.suite = 0x1304;
    ck_assert_int_eq(record_init(&record, &server_state, true, NULL), -1);
}
END_TEST

/* A busy connection finds its own context again; a forgotten one leaves no key behind. */
START_TEST(contexts_remember_their_owner)
{
    static const uint8_t key[32] = {1}, other[32] = {2};
    EVP_CIPHER_CTX *context = pool_cipher(TRAFFIC_AES_128_GCM, true, 1, 0, key);
    uint8_t out[2][16], zeros[16] = {0};
    int i, n;

    pool_release();
    ck_assert_ptr_nonnull(context);
    for (i = 0; i < 2; i++) { /* the second time the key given is not looked at */
        ck_assert_ptr_eq(pool_cipher(TRAFFIC_AES_128_GCM, true, 1, 0, i == 0 ? key : other),
                         context);
        EVP_EncryptInit_ex(context, NULL, NULL, NULL, zeros);
        EVP_EncryptUpdate(context, out[i], &n, zeros, 16);
        pool_release();
    }
    ck_assert_mem_eq(out[0], out[1], 16);
    pool_cipher(TRAFFIC_AES_128_GCM, true, 1, 1, other); /* another epoch: another key */
    EVP_EncryptInit_ex(context, NULL, NULL, NULL, zeros);
    EVP_EncryptUpdate(context, out[1], &n, zeros, 16);
    pool_release();
    ck_assert_mem_ne(out[0], out[1], 16);
    pool_forget(TRAFFIC_AES_128_GCM, 1);
    EVP_EncryptInit_ex(context, NULL, NULL, NULL, zeros);
    EVP_EncryptUpdate(context, out[0], &n, zeros, 16);
    ck_assert_mem_ne(out[0], out[1], 16);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("record");
    TCase *tests = tcase_create("records");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, rfc_8448_records_are_sealed_and_opened);
    tcase_add_loop_test(tests, round_trips, 0, FIXTURE_SUITES);
    tcase_add_loop_test(tests, sealing_agrees_with_libcrypto, 0, FIXTURE_SUITES);
    tcase_add_loop_test(tests, tampering_is_answered_with_the_right_alert, 0, FIXTURE_SUITES);
    tcase_add_loop_test(tests, the_longest_record_is_accepted, 0, FIXTURE_SUITES);
    tcase_add_loop_test(tests, control_records, 0, FIXTURE_SUITES);
    tcase_add_test(tests, padding_is_stripped);
    tcase_add_test(tests, a_handshake_message_must_not_be_interrupted);
    tcase_add_loop_test(tests, key_update_both_ways, 0, 3);
    tcase_add_loop_test(tests, floods_end, 0, 7);
    tcase_add_loop_test(tests, a_worn_key_is_changed_in_tls13, 0, 3);
    tcase_add_test(tests, the_peer_is_asked_to_change_a_worn_key);
    tcase_add_loop_test(tests, a_worn_key_ends_tls12, 3, FIXTURE_SUITES);
    tcase_add_loop_test(tests, sequence_numbers_never_wrap, 0, FIXTURE_SUITES);
    tcase_add_test(tests, impossible_states_are_refused);
    tcase_add_test(tests, contexts_remember_their_owner);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
