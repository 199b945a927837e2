/*
 * test_kernel_tls.c: the kernel form against a kernel that the test plays: what it is given and in
 * which order, each step of an installation failing, new keys, refused keys, strange records.
 *
 * The Makefile links this with the socket calls wrapped (--wrap). A call on the descriptor
 * KERNEL_FD, or while `kernel.active`, comes here; every other one goes to the real kernel.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/handshake.h"
#include "agent/kernel_probe.h"
#include "client/ktls.h"
#include "client/stream_move.h"
#include "protocol/kernel_tls.h"
#include "tests/unit/record_fixture.h"

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

#define EVENTS_MAX 64

enum event_kind { ULP, KEYS_TX, KEYS_RX, SENT };

struct event {
    enum event_kind kind;
    uint8_t type; /* SENT: of the record */
    size_t size;
    uint8_t bytes[64]; /* SENT: the first ones; KEYS: the structure */
};

/* What the next recvmsg() gives. */
struct incoming {
    uint8_t type; /* 0: no control message */
    int error;    /* errno, 0: none */
    size_t size;
    const uint8_t *bytes;
    bool partial; /* the record goes on in the next one */
};

static struct {
    bool active;
    struct event events[EVENTS_MAX];
    size_t count;
    int fail_ulp, fail_tx, fail_rx; /* errno, 0: succeed */
    int fail_send;                  /* errno of the next sends, 0: none */
    unsigned fail_send_after;       /* ... so many succeed first */
    const struct incoming *incoming;
    size_t incoming_count;
    bool no_keys;   /* getsockopt() finds none */
    uint64_t acked; /* bytes that TCP has sent */
    uint16_t cipher, version;
} kernel;

int __real_setsockopt(int fd, int level, int name, const void *value, socklen_t size);
int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t size);
int __real_getsockopt(int fd, int level, int name, void *value, socklen_t *size);
int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *size);
ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __real_recvmsg(int fd, struct msghdr *message, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags);
const struct generation_context *__wrap_identity_context(const struct identity_table *table,
                                                         size_t context);

static struct event *
note(enum event_kind kind, const void *bytes, size_t size)
{
    struct event *event = &kernel.events[kernel.count++];

    ck_assert_uint_lt(kernel.count, EVENTS_MAX);
    event->kind = kind;
    event->size = size;
    memcpy(event->bytes, bytes, size < sizeof(event->bytes) ? size : sizeof(event->bytes));
    return event;
}

static int
answer(int error)
{
    errno = error;
    return error == 0 ? 0 : -1;
}

int
__wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    if (kernel.active && level == IPPROTO_TCP && name == TCP_ULP) {
        ck_assert_uint_ge(size, 3);
        ck_assert(memcmp(value, "tls", 3) == 0);
        note(ULP, value, 3);
        return answer(kernel.fail_ulp);
    }
    if (kernel.active && level == SOL_TLS) {
        note(name == TLS_TX ? KEYS_TX : KEYS_RX, value, size);
        return answer(name == TLS_TX ? kernel.fail_tx : kernel.fail_rx);
    }
    return __real_setsockopt(fd, level, name, value, size);
}

int
__wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    struct tls_crypto_info info = {kernel.version, kernel.cipher};

    if (kernel.active && level == IPPROTO_TCP && name == TCP_INFO) {
        struct tcp_info sent = {.tcpi_bytes_acked = kernel.acked};

        ck_assert_uint_eq(*size, sizeof(sent));
        memcpy(value, &sent, sizeof(sent));
        return 0;
    }
    if (!kernel.active || level != SOL_TLS)
        return __real_getsockopt(fd, level, name, value, size);
    ck_assert_uint_eq(*size, sizeof(info)); /* or the keys would come out of the kernel again */
    memcpy(value, &info, sizeof(info));
    return answer(kernel.no_keys ? EBUSY : 0);
}

ssize_t
__wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
    const struct cmsghdr *header;
    struct event *event;
    uint8_t bytes[64];
    size_t size = 0;

    if (!kernel.active)
        return __real_sendmsg(fd, message, flags);
    ck_assert((flags & MSG_NOSIGNAL) != 0);
    if (kernel.fail_send != 0 && kernel.fail_send_after == 0)
        return answer(kernel.fail_send);
    if (kernel.fail_send != 0)
        kernel.fail_send_after--;
    for (size_t i = 0; i < message->msg_iovlen; i++) {
        for (size_t k = 0; k < message->msg_iov[i].iov_len; k++, size++)
            if (size < sizeof(bytes))
                bytes[size] = ((const uint8_t *)message->msg_iov[i].iov_base)[k];
    }
    event = note(SENT, bytes, size < sizeof(bytes) ? size : sizeof(bytes));
    header = message->msg_controllen > 0 ? CMSG_FIRSTHDR(message) : NULL;
    event->type = RECORD_APPLICATION_DATA;
    if (header != NULL) {
        ck_assert_int_eq(header->cmsg_level, SOL_TLS);
        ck_assert_int_eq(header->cmsg_type, TLS_SET_RECORD_TYPE);
        event->type = *CMSG_DATA(header);
    }
    return (ssize_t)size;
}

ssize_t
__wrap_recvmsg(int fd, struct msghdr *message, int flags)
{
    const struct incoming *next = kernel.incoming;
    struct cmsghdr *header = CMSG_FIRSTHDR(message);

    if (!kernel.active)
        return __real_recvmsg(fd, message, flags);
    if (kernel.incoming_count == 0)
        return answer(EAGAIN);
    if ((flags & MSG_PEEK) == 0) {
        kernel.incoming++;
        kernel.incoming_count--;
    }
    if (next->error != 0)
        return answer(next->error);
    message->msg_flags = next->partial ? 0 : MSG_EOR;
    if (next->type == 0) {
        message->msg_controllen = 0;
        return 0;
    }
    ck_assert_uint_ge(message->msg_controllen, CMSG_SPACE(1)); /* else a real kernel says EIO */
    header->cmsg_level = SOL_TLS;
    header->cmsg_type = TLS_GET_RECORD_TYPE;
    header->cmsg_len = CMSG_LEN(1);
    *CMSG_DATA(header) = next->type;
    ck_assert_uint_le(next->size, message->msg_iov[0].iov_len);
    if (next->size > 0)
        memcpy(message->msg_iov[0].iov_base, next->bytes, next->size);
    return (ssize_t)next->size;
}

static struct generation_context facts;

const struct generation_context *
__wrap_identity_context(const struct identity_table *table, size_t context)
{
    (void)table;
    (void)context;
    return &facts;
}

static struct traffic_state server, client;

static void
begin(uint16_t suite)
{
    memset(&kernel, 0, sizeof(kernel));
    memset(&facts, 0, sizeof(facts));
    memcpy(facts.name, "www", 4);
    fixture_states(suite, TRAFFIC_PLAINTEXT_MAX, &server, &client);
    server.send.sequence = 0x0102030405060708;
    server.receive.sequence = 0x1112131415161718;
    kernel.active = true;
}

/* ---- the structure that the kernel gets, byte for byte ---- */

static void
check_info(const struct event *event, const struct traffic_suite *suite,
           const struct traffic_keys *keys, bool sending)
{
    bool gcm = suite->aead != TRAFFIC_CHACHA20_POLY1305;
    bool tls13 = suite->version == TRAFFIC_TLS_1_3;
    /* version, cipher, iv, key, salt, sequence, in this order (include/uapi/linux/tls.h) */
    size_t iv_size = gcm ? 8 : 12, at = 4;
    uint16_t head[2];
    uint8_t number[8];

    memcpy(head, event->bytes, sizeof(head));
    ck_assert_uint_eq(head[0], tls13 ? 0x0304 : 0x0303);
    ck_assert_uint_eq(head[1], suite->aead == TRAFFIC_AES_128_GCM   ? 51
                               : suite->aead == TRAFFIC_AES_256_GCM ? 52
                                                                    : 54);
    if (gcm && !tls13) {
        for (int i = 0; i < 8; i++)
            number[i] = (uint8_t)(keys->explicit_nonce >> (56 - 8 * i));
        if (sending)
            ck_assert_mem_eq(event->bytes + at, number, 8);
    } else {
        ck_assert_mem_eq(event->bytes + at, keys->iv + (gcm ? 4 : 0), iv_size);
    }
    at += iv_size;
    ck_assert_mem_eq(event->bytes + at, keys->key, suite->key_size);
    at += suite->key_size;
    if (gcm) {
        ck_assert_mem_eq(event->bytes + at, keys->iv, 4);
        at += 4;
    }
    for (int i = 0; i < 8; i++)
        number[i] = (uint8_t)(keys->sequence >> (56 - 8 * i));
    ck_assert_mem_eq(event->bytes + at, number, 8);
    ck_assert_uint_eq(event->size, at + 8);
}

START_TEST(the_kernel_gets_the_right_bytes_in_the_right_order)
{
    const struct traffic_suite *suite = traffic_suite_find(fixture_suites[_i]);
    struct error error = {""};

    begin(fixture_suites[_i]);
    ck_assert_int_eq(kernel_tls_install(3, &server, &error), KERNEL_TLS_INSTALLED);
    ck_assert_uint_eq(kernel.count, 3);
    ck_assert_int_eq(kernel.events[0].kind, ULP);
    ck_assert_int_eq(kernel.events[1].kind, KEYS_TX);
    ck_assert_int_eq(kernel.events[2].kind, KEYS_RX);
    check_info(&kernel.events[1], suite, &server.send, true);
    check_info(&kernel.events[2], suite, &server.receive, false);
}
END_TEST

/* The records that the start-up probe expects of the kernel are those that our own layer makes. */
START_TEST(the_probe_knows_the_right_records)
{
    const struct kernel_probe_answer *answer_of = &kernel_probe_answers[_i];
    struct iovec part = {(void *)(uintptr_t)kernel_probe_text, strlen(kernel_probe_text)};
    struct record_source source = {&part, 0, part.iov_len};
    struct record record = {0};
    struct record_failure failure;
    struct traffic_state state;
    uint8_t out[20000];

    kernel_probe_state(answer_of->suite, &state);
    ck_assert_int_eq(record_init(&record, &state, true, NULL), 0);
    ck_assert_uint_eq(record_seal_data(&record, &source, 1, out, sizeof(out), &failure),
                      answer_of->size);
    ck_assert_mem_eq(out, answer_of->record, answer_of->size);
}
END_TEST

/* ---- the agent's side: each step fails ---- */

static struct cell_context context;
static struct cell cell;
static int pair[2];

static struct handshake *
finished_handshake(uint16_t suite, uint16_t bits)
{
    struct handshake *handshake = calloc(1, sizeof(*handshake));

    begin(suite);
    memset(&context, 0, sizeof(context));
    cell = (struct cell){.contexts = &context, .kernel = bits};
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    handshake->cell = &cell;
    handshake->state = HANDSHAKE_FINISHED;
    handshake->fd = pair[0];
    handshake->forms = SERVICE_FORM_RECORDS | SERVICE_FORM_KERNEL;
    handshake->transport.exact = true;
    handshake->traffic = server;
    return handshake;
}

static void
end_handshake(struct handshake *handshake)
{
    free(handshake);
    close(pair[0]);
    close(pair[1]);
}

/* Records over the socket that was refused: every byte, and nothing in plaintext. */
static void
check_records_work(const struct handshake *handshake)
{
    struct stream ours, theirs;
    char buffer[16];

    kernel.active = false;
    ck_assert_mem_eq(&handshake->traffic, &server, sizeof(server));
    client.send.sequence = server.receive.sequence;
    client.receive.sequence = server.send.sequence;
    server.send.sequence = client.receive.sequence = 7;
    ck_assert_int_eq(stream_start(&ours, pair[0], &server, true, NULL, 0, NULL), 0);
    ck_assert_int_eq(stream_start(&theirs, pair[1], &client, false, NULL, 0, NULL), 0);
    ck_assert_int_eq(stream_write(&ours, "secret", 6, NULL), 6);
    ck_assert_int_eq(recv(pair[1], buffer, 5, MSG_PEEK), 5);
    ck_assert_int_eq(buffer[0], RECORD_APPLICATION_DATA);
    ck_assert_int_eq(stream_read(&theirs, buffer, sizeof(buffer), NULL), 6);
    ck_assert_mem_eq(buffer, "secret", 6);
    stream_clear(&ours);
    stream_clear(&theirs);
}

static const struct {
    int ulp, tx, rx; /* errno of each step */
    int result;
    uint8_t form;
    size_t steps;
} installations[] = {
    {0, 0, 0, 0, SERVICE_FORM_KERNEL, 3},
    {ENOENT, 0, 0, 0, SERVICE_FORM_RECORDS, 1},
    {ENOTCONN, 0, 0, 0, SERVICE_FORM_RECORDS, 1},
    {EEXIST, 0, 0, 0, SERVICE_FORM_RECORDS, 1},
    {0, EINVAL, 0, 0, SERVICE_FORM_RECORDS, 2},
    {0, ENOMEM, 0, 0, SERVICE_FORM_RECORDS, 2},
    {0, 0, EINVAL, -1, 0, 3},
    {0, 0, ENOMEM, -1, 0, 3},
};

START_TEST(each_step_of_an_installation_fails)
{
    static const uint8_t none[sizeof(struct traffic_keys)];
    struct handshake *handshake = finished_handshake(0x1301, KERNEL_TLS_CIPHERS);
    struct service_finished said;
    char byte;

    kernel.fail_ulp = installations[_i].ulp;
    kernel.fail_tx = installations[_i].tx;
    kernel.fail_rx = installations[_i].rx;
    ck_assert_int_eq(handshake_hand_back(handshake, handshake->forms), installations[_i].result);
    ck_assert_uint_eq(kernel.count, installations[_i].steps);
    if (installations[_i].result == -1) {
        ck_assert_int_eq(handshake->state, HANDSHAKE_FAILED);
        ck_assert_int_eq(handshake->failed.retryable, 0);
        ck_assert_ptr_nonnull(strstr(handshake->failed.text, "kernel"));
        kernel.active = false;
        ck_assert_int_eq(recv(pair[1], &byte, 1, MSG_DONTWAIT), 0); /* ended for everybody */
        ck_assert_int_eq(send(pair[0], "x", 1, MSG_NOSIGNAL), -1);
    } else if (installations[_i].form == SERVICE_FORM_KERNEL) {
        handshake_describe(handshake, &said);
        ck_assert_uint_eq(said.form, SERVICE_FORM_KERNEL);
        ck_assert_mem_eq(&said.state.send, none, sizeof(none));
        ck_assert_mem_eq(&said.state.receive, none, sizeof(none));
        ck_assert_uint_eq(said.early_size, 0);
    } else {
        handshake_describe(handshake, &said);
        ck_assert_uint_eq(said.form, SERVICE_FORM_RECORDS);
        check_records_work(handshake);
    }
    end_handshake(handshake);
}
END_TEST

static const struct {
    uint16_t suite, bits;
    uint8_t asked;
    bool prefer, inexact, fragment;
    uint8_t form; /* 0: failed */
} choices[] = {
    {0x1301, KERNEL_TLS_CIPHERS, 3, false, false, false, SERVICE_FORM_KERNEL},
    {0x1301, KERNEL_TLS_CIPHERS, 7, false, false, false, SERVICE_FORM_KERNEL},
    {0x1301, KERNEL_TLS_CIPHERS, 1, false, false, false, SERVICE_FORM_RECORDS},
    {0x1301, KERNEL_TLS_CIPHERS, 4, false, false, false, SERVICE_FORM_RECORDS},
    {0x1301, 0, 3, false, false, false, SERVICE_FORM_RECORDS},
    {0x1301, 0, 2, false, false, false, 0},
    {0x1301, 0x37, 3, false, false, false, SERVICE_FORM_RECORDS},
    {0x1302, 0x37, 3, false, false, false, SERVICE_FORM_KERNEL},
    {0x1301, KERNEL_TLS_CIPHERS, 3, true, false, false, SERVICE_FORM_RECORDS},
    {0x1301, KERNEL_TLS_CIPHERS, 2, true, false, false, SERVICE_FORM_KERNEL},
    {0x1301, KERNEL_TLS_CIPHERS | KERNEL_TLS_REKEY, 3, true, false, false, SERVICE_FORM_KERNEL},
    {0xc02b, KERNEL_TLS_CIPHERS, 3, true, false, false, SERVICE_FORM_KERNEL},
    {0x1301, KERNEL_TLS_CIPHERS, 3, false, true, false, SERVICE_FORM_RECORDS},
    {0x1301, KERNEL_TLS_CIPHERS, 2, false, true, false, 0},
    {0x1301, KERNEL_TLS_CIPHERS, 3, false, false, true, SERVICE_FORM_RECORDS},
};

START_TEST(the_form_is_what_was_asked_permitted_and_possible)
{
    struct handshake *handshake = finished_handshake(choices[_i].suite, choices[_i].bits);
    int result;

    handshake->forms = choices[_i].asked;
    handshake->transport.exact = !choices[_i].inexact;
    if (choices[_i].fragment)
        handshake->traffic.max_fragment = 512;
    facts.prefer_rekey = choices[_i].prefer;
    result = handshake_hand_back(handshake, 7);
    ck_assert_int_eq(result, choices[_i].form == 0 ? -1 : 0);
    if (result == 0)
        ck_assert_uint_eq(handshake->form, choices[_i].form);
    ck_assert_uint_eq(kernel.count, choices[_i].form == SERVICE_FORM_KERNEL ? 3 : 0);
    end_handshake(handshake);
}
END_TEST

START_TEST(next_secrets_only_where_the_kernel_changes_keys)
{
    static const uint8_t none[TRAFFIC_SECRET_MAX];
    struct handshake *handshake = finished_handshake(0x1302, KERNEL_TLS_CIPHERS | KERNEL_TLS_REKEY);
    struct traffic_keys next = server.send;

    ck_assert_int_eq(handshake_hand_back(handshake, 3), 0);
    ck_assert_int_eq(traffic_keys_update(traffic_suite_find(0x1302), &next), 0);
    ck_assert_mem_eq(handshake->traffic.send.secret, next.secret, TRAFFIC_SECRET_MAX);
    ck_assert_mem_ne(handshake->traffic.send.secret, server.send.secret, TRAFFIC_SECRET_MAX);
    ck_assert_mem_eq(handshake->traffic.send.key, none, TRAFFIC_KEY_MAX);
    ck_assert_mem_eq(handshake->traffic.send.iv, none, TRAFFIC_IV_SIZE);
    ck_assert_mem_eq(handshake->traffic.receive.key, none, TRAFFIC_KEY_MAX);
    end_handshake(handshake);

    handshake = finished_handshake(0xc02b, KERNEL_TLS_CIPHERS | KERNEL_TLS_REKEY);
    ck_assert_int_eq(handshake_hand_back(handshake, 3), 0);
    ck_assert_mem_eq(handshake->traffic.send.secret, none, TRAFFIC_SECRET_MAX);
    ck_assert_uint_eq(handshake->traffic.send.explicit_nonce, 0);
    end_handshake(handshake);
}
END_TEST

/* ---- the library's side ---- */

static struct stream stream;
static struct error error;

/* A stream as the agent hands it back. rekeys: the kernel can change keys. */
static void
start(uint16_t suite, bool rekeys)
{
    struct traffic_state state = {.suite = suite, .max_fragment = TRAFFIC_PLAINTEXT_MAX};

    begin(suite);
    kernel.version = traffic_suite_find(suite)->version;
    kernel.cipher = (uint16_t)(suite == 0x1303 ? 54 : suite == 0x1301 || suite == 0xc02b ? 51 : 52);
    if (rekeys) { /* the secrets that follow the present ones */
        memcpy(state.send.secret, server.send.secret, TRAFFIC_SECRET_MAX);
        memcpy(state.receive.secret, server.receive.secret, TRAFFIC_SECRET_MAX);
    }
    ck_assert_int_eq(ktls_start(&stream, 3, &state, true, &error), 0);
}

static void
incoming(const struct incoming *list, size_t count)
{
    kernel.incoming = list;
    kernel.incoming_count = count;
}

static void
check_sent(size_t n, uint8_t type, const void *bytes, size_t size)
{
    ck_assert_uint_gt(kernel.count, n);
    ck_assert_int_eq(kernel.events[n].kind, SENT);
    ck_assert_uint_eq(kernel.events[n].type, type);
    ck_assert_uint_eq(kernel.events[n].size, size);
    ck_assert_mem_eq(kernel.events[n].bytes, bytes, size);
}

static const uint8_t update[] = {24, 0, 0, 1, 0}, update_and_answer[] = {24, 0, 0, 1, 1};

START_TEST(a_claim_that_the_kernel_has_the_keys_is_checked)
{
    struct traffic_state state = {.suite = 0x1301, .max_fragment = TRAFFIC_PLAINTEXT_MAX};

    begin(0x1301);
    kernel.no_keys = _i == 0;
    kernel.version = _i == 1 ? TRAFFIC_TLS_1_2 : TRAFFIC_TLS_1_3;
    kernel.cipher = _i == 2 ? 52 : 51;
    ck_assert_int_eq(ktls_start(&stream, 3, &state, true, &error), -1);
    ck_assert_int_eq(stream.code, TLSAGENT_E_SYSTEM);
    ck_assert_int_eq(stream_write(&stream, "plain", 5, &error), -1);
    ck_assert_uint_eq(kernel.count, 0);
}
END_TEST

START_TEST(key_update_is_followed_where_the_kernel_can)
{
    static const struct incoming list[] = {{RECORD_HANDSHAKE, 0, 5, update_and_answer, false},
                                           {RECORD_APPLICATION_DATA, 0, 4, update, false},
                                           {RECORD_HANDSHAKE, 0, 5, update, false}};
    const struct traffic_suite *suite = traffic_suite_find(0x1302);
    struct traffic_keys sending, receiving;
    uint8_t buffer[100];

    start(0x1302, true);
    sending = server.send;
    receiving = server.receive;
    sending.sequence = receiving.sequence = 0;
    incoming(list, 3);
    ck_assert_int_eq(stream_read(&stream, buffer, sizeof(buffer), &error), 4);
    ck_assert_int_eq(kernel.events[0].kind, KEYS_RX);
    check_info(&kernel.events[0], suite, &receiving, false);
    check_sent(1, RECORD_HANDSHAKE, update, 5); /* under the old key */
    ck_assert_int_eq(kernel.events[2].kind, KEYS_TX);
    check_info(&kernel.events[2], suite, &sending, true);
    ck_assert_uint_eq(kernel.count, 3);
    /* The second one leads to the next secret. */
    ck_assert_int_eq(stream_read(&stream, buffer, sizeof(buffer), &error), STREAM_WANT_POLLIN);
    ck_assert_int_eq(traffic_keys_update(suite, &receiving), 0);
    ck_assert_uint_eq(kernel.count, 4);
    check_info(&kernel.events[3], suite, &receiving, false);
    ck_assert_int_eq(stream_write(&stream, "data", 4, &error), 4);
    check_sent(4, RECORD_APPLICATION_DATA, "data", 4);
    stream_clear(&stream);
}
END_TEST

START_TEST(an_answer_that_does_not_fit_goes_before_the_next_data)
{
    static const struct incoming list[] = {{RECORD_HANDSHAKE, 0, 5, update_and_answer, false}};
    uint8_t buffer[100];

    start(0x1301, true);
    incoming(list, 1);
    kernel.fail_send = EAGAIN;
    ck_assert_int_eq(stream_read(&stream, buffer, sizeof(buffer), &error), STREAM_WANT_POLLIN);
    ck_assert_uint_eq(kernel.count, 1); /* the receiving key only */
    ck_assert_int_eq(stream_write(&stream, "data", 4, &error), STREAM_WANT_POLLOUT);
    ck_assert_int_eq(stream_flush(&stream, &error), STREAM_WANT_POLLOUT);
    kernel.fail_send = 0;
    ck_assert_int_eq(stream_write(&stream, "data", 4, &error), 4);
    check_sent(1, RECORD_HANDSHAKE, update, 5);
    ck_assert_int_eq(kernel.events[2].kind, KEYS_TX);
    check_sent(3, RECORD_APPLICATION_DATA, "data", 4);
    stream_clear(&stream);
}
END_TEST

START_TEST(key_update_ends_the_connection_where_the_kernel_cannot)
{
    static const struct incoming list[] = {{RECORD_HANDSHAKE, 0, 5, update_and_answer, false},
                                           {RECORD_APPLICATION_DATA, 0, 4, update, false}};
    static const uint8_t internal_error[] = {2, 80};
    uint8_t buffer[100];

    start(0x1301, _i == 1);
    kernel.fail_rx = EBUSY; /* what Linux 6.1 says */
    incoming(list, 2);
    for (int again = 0; again < 2; again++) {
        ck_assert_int_eq(stream_read(&stream, buffer, sizeof(buffer), &error), -1);
        ck_assert_int_eq(stream.code, TLSAGENT_E_REKEY);
    }
    check_sent(kernel.count - 1, RECORD_ALERT, internal_error, 2);
    ck_assert_uint_eq(kernel.count, _i == 1 ? 2 : 1);
    ck_assert_int_eq(stream_write(&stream, "data", 4, &error), -1);
    ck_assert_int_eq(stream.code, TLSAGENT_E_REKEY);
    ck_assert_int_eq(stream_shutdown_send(&stream, &error), -1);
    ck_assert_uint_eq(kernel.count, _i == 1 ? 2 : 1); /* nothing after the alert */
    stream_clear(&stream);
}
END_TEST

START_TEST(a_sending_key_that_is_refused_ends_writing)
{
    static const struct incoming list[] = {{0, EBADMSG, 0, NULL, false}};
    uint8_t buffer[100];

    start(0x1301, true);
    kernel.fail_tx = EBUSY;
    ck_assert_int_eq(stream_update_keys(&stream, true, &error), -1);
    ck_assert_int_eq(stream.code, TLSAGENT_E_REKEY);
    check_sent(0, RECORD_HANDSHAKE, update_and_answer, 5);
    ck_assert_uint_eq(kernel.count, 2);
    ck_assert_int_eq(stream_write(&stream, "data", 4, &error), -1);
    ck_assert_int_eq(stream_shutdown_send(&stream, &error), -1);
    incoming(list, 1);
    ck_assert_int_eq(stream_read(&stream, buffer, sizeof(buffer), &error), -1);
    ck_assert_uint_eq(kernel.count, 2); /* the peer expects another key: not a byte more */
    stream_clear(&stream);
}
END_TEST

START_TEST(keys_are_not_changed_where_that_cannot_be)
{
    start(0x1301, false);
    ck_assert_int_eq(stream_update_keys(&stream, true, &error), -1);
    ck_assert_int_eq(stream.code, TLSAGENT_E_REKEY);
    ck_assert_uint_eq(kernel.count, 0);
    ck_assert_int_eq(stream_write(&stream, "data", 4, &error), 4); /* it does not stay */
    stream_clear(&stream);
    start(0xc02b, false);
    ck_assert_int_eq(stream_update_keys(&stream, true, &error), -1);
    ck_assert_int_eq(stream.code, TLSAGENT_E_ARGUMENT);
    stream_clear(&stream);
}
END_TEST

START_TEST(a_key_is_changed_before_it_is_worn_out)
{
    start(0x1301, true);
    stream.record->state.send.sequence = RECORD_GCM_SOFT;
    ck_assert_int_eq(stream_write(&stream, "data", 4, &error), 4);
    check_sent(0, RECORD_HANDSHAKE, update, 5);
    ck_assert_int_eq(kernel.events[1].kind, KEYS_TX);
    check_sent(2, RECORD_APPLICATION_DATA, "data", 4);
    ck_assert_uint_lt(stream.record->state.send.sequence, 2);
    stream_clear(&stream);
    start(0x1301, false);
    stream.record->state.send.sequence = RECORD_GCM_HARD;
    ck_assert_int_eq(stream_write(&stream, "data", 4, &error), -1);
    ck_assert_int_eq(stream.code, TLSAGENT_E_REKEY);
    ck_assert_uint_eq(kernel.count, 0);
    stream_clear(&stream);
}
END_TEST

/* A peer that is gone is an error and no SIGPIPE; a file that cannot be read is not the
 * connection's end. */
START_TEST(sendfile_of_and_to_what_is_not_there)
{
    char name[] = "/tmp/test_kernel_tls.XXXXXX";
    int ends[2], file = mkstemp(name), directory = open("/", O_RDONLY | O_DIRECTORY);
    off_t at = 0;

    ck_assert_int_eq(unlink(name), 0);
    ck_assert_int_eq(pwrite(file, "data", 4, 0), 4);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    start(0xc030, false);
    stream.fd = ends[0];
    ck_assert_int_eq(stream_sendfile(&stream, directory, &at, 4, &error), -1);
    ck_assert_int_eq(stream.code, TLSAGENT_E_SYSTEM);
    ck_assert_int_eq(stream_sendfile(&stream, -1, &at, 4, &error), -1);
    ck_assert_int_eq(stream.code, TLSAGENT_E_SYSTEM);
    ck_assert_int_eq(stream_sendfile(&stream, file, &at, 4, &error), 4);
    ck_assert_int_eq(at, 4);
    close(ends[1]);
    at = 0;
    ck_assert_int_eq(stream_sendfile(&stream, file, &at, 4, &error), -1);
    ck_assert_int_eq(stream.code, TLSAGENT_E_CLOSED);
    ck_assert_int_eq(stream_write(&stream, "data", 4, &error), -1);
    stream_clear(&stream);
    close(ends[0]);
    close(file);
    close(directory);
}
END_TEST

/* What sendfile(), splice() and other processes sent past the library. */
START_TEST(bytes_that_others_sent_wear_a_key_out_too)
{
    const uint64_t soft = RECORD_GCM_SOFT * TRAFFIC_PLAINTEXT_MAX;
    const uint64_t hard = RECORD_GCM_HARD * TRAFFIC_PLAINTEXT_MAX;

    start(0xc030, false);
    kernel.acked = hard - 1;
    ck_assert_int_eq(stream_flush(&stream, &error), 0);
    ck_assert_int_eq(stream_write(&stream, "data", 4, &error), 4);
    ck_assert_int_eq(stream_write(&stream, "data", 4, &error), -1);
    stream_clear(&stream);

    start(0xc030, false);
    kernel.acked = hard;
    ck_assert_int_eq(stream_flush(&stream, &error), -1);
    ck_assert_int_eq(stream.code, TLSAGENT_E_REKEY);
    ck_assert_int_eq(stream_write(&stream, "data", 4, &error), -1);
    ck_assert_int_eq(stream.code, TLSAGENT_E_REKEY);
    ck_assert_int_eq(stream_shutdown_send(&stream, &error), 0); /* the end can be said */
    ck_assert_uint_eq(kernel.count, 1);
    stream_clear(&stream);

    start(0xc030, false); /* a writer that never flushes learns it, too */
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(stream_write(&stream, "data", 4, &error), 4);
    kernel.acked = hard;
    for (int i = 0; i < 16 && stream_write(&stream, "data", 4, &error) == 4; i++)
        ;
    ck_assert_int_eq(stream.code, TLSAGENT_E_REKEY);
    stream_clear(&stream);

    start(0x1301, true); /* new keys are counted anew */
    kernel.acked = soft;
    ck_assert_int_eq(stream_flush(&stream, &error), 0);
    check_sent(0, RECORD_HANDSHAKE, update, 5);
    ck_assert_int_eq(kernel.events[1].kind, KEYS_TX);
    kernel.acked = 2 * soft - 1;
    ck_assert_int_eq(stream_flush(&stream, &error), 0);
    ck_assert_uint_eq(kernel.count, 2);
    kernel.acked = 2 * soft;
    ck_assert_int_eq(stream_flush(&stream, &error), 0);
    ck_assert_uint_eq(kernel.count, 4);
    stream_clear(&stream);

    start(0x1303, false); /* ChaCha20-Poly1305 has no such limit */
    kernel.acked = 1000 * hard;
    ck_assert_int_eq(stream_flush(&stream, &error), 0);
    ck_assert_int_eq(stream_write(&stream, "data", 4, &error), 4);
    stream_clear(&stream);
}
END_TEST

static const struct {
    int error;
    int code;
    int alert; /* that is sent, -1: none */
} failures[] = {
    {EBADMSG, TLSAGENT_E_RECORD, 20},    {EMSGSIZE, TLSAGENT_E_RECORD, 22},
    {EINVAL, TLSAGENT_E_RECORD, 70},     {EKEYEXPIRED, TLSAGENT_E_REKEY, 80},
    {ECONNRESET, TLSAGENT_E_CLOSED, -1}, {EIO, TLSAGENT_E_SYSTEM, -1},
    {ENOMEM, TLSAGENT_E_MEMORY, -1},
};

START_TEST(what_the_kernel_refuses_is_named)
{
    struct incoming list[] = {{0, failures[_i].error, 0, NULL, false}};
    uint8_t buffer[100];

    start(0x1301, false);
    incoming(list, 1);
    ck_assert_int_eq(stream_read(&stream, buffer, sizeof(buffer), &error), -1);
    ck_assert_int_eq(stream.code, failures[_i].code);
    if (failures[_i].alert >= 0)
        check_sent(0, RECORD_ALERT, (uint8_t[]){2, (uint8_t)failures[_i].alert}, 2);
    else
        ck_assert_uint_eq(kernel.count, 0);
    stream_clear(&stream);
}
END_TEST

START_TEST(an_end_is_clean_or_it_is_not)
{
    static const uint8_t close_notify[] = {1, 0};
    static const struct incoming clean[] = {{RECORD_ALERT, 0, 2, close_notify, false}};
    static const struct incoming cut[] = {{0, 0, 0, NULL, false}};
    uint8_t buffer[100];

    start(0x1301, false);
    incoming(clean, 1);
    ck_assert_int_eq(stream_read(&stream, buffer, sizeof(buffer), &error), 0);
    ck_assert_int_eq(stream_read(&stream, buffer, sizeof(buffer), &error), 0);
    kernel.fail_send = EAGAIN;
    ck_assert_int_eq(stream_shutdown_send(&stream, &error), STREAM_WANT_POLLOUT);
    ck_assert_int_eq(stream_shutdown_send(&stream, &error), STREAM_WANT_POLLOUT);
    kernel.fail_send = 0;
    ck_assert_int_eq(stream_shutdown_send(&stream, &error), 0);
    ck_assert_int_eq(stream_shutdown_send(&stream, &error), 0);
    check_sent(0, RECORD_ALERT, close_notify, 2);
    ck_assert_uint_eq(kernel.count, 1); /* once */
    stream_clear(&stream);
    start(0x1301, false);
    incoming(cut, 1);
    ck_assert_int_eq(stream_read(&stream, buffer, sizeof(buffer), &error), -1);
    ck_assert_int_eq(stream.code, TLSAGENT_E_TRUNCATED);
    stream_clear(&stream);
}
END_TEST

/* A record of control in pieces, between data, looked at and then taken. */
START_TEST(control_records_are_put_together)
{
    static const uint8_t hello[] = {1, 0, 0, 6, 0, 0, 0, 0, 0, 0}, refusal[] = {1, 100};
    static const struct incoming list[] = {{RECORD_HANDSHAKE, 0, 3, hello, true},
                                           {RECORD_HANDSHAKE, 0, 7, hello + 3, false},
                                           {RECORD_APPLICATION_DATA, 0, 0, NULL, false},
                                           {RECORD_APPLICATION_DATA, 0, 3, hello, false}};
    uint8_t buffer[100];

    start(0xc02b, false);
    incoming(list, 4);
    if (_i == 1)
        ck_assert_int_eq(stream_peek(&stream, buffer, sizeof(buffer), &error), 3);
    ck_assert_int_eq(stream_read(&stream, buffer, sizeof(buffer), &error), 3);
    check_sent(0, RECORD_ALERT, refusal, 2); /* TLS 1.2: no renegotiation */
    ck_assert_uint_eq(kernel.count, 1);
    stream_clear(&stream);
}
END_TEST

/* To another process and back, as far as the message goes. */
static void
move_stream(void)
{
    struct move_connection m = {.form = SERVICE_FORM_KERNEL, .context = "www"}, came;
    static uint8_t body[CHANNEL_BODY_MAX];
    size_t size;

    ck_assert_int_eq(stream_describe(&stream, &m, &error), 0);
    size = move_put_connection(&m, false, body, sizeof(body));
    ck_assert_uint_gt(size, 0);
    stream_clear(&stream);
    ck_assert(move_get_connection(&came, false, body, size));
    ck_assert_int_eq(stream_restore(&stream, 3, &came, &error), 0);
}

/* What is owed to the peer, and the secrets that come next, go along; keys do not: there are none.
 */
START_TEST(a_moved_stream_goes_on)
{
    static const struct incoming list[] = {{RECORD_HANDSHAKE, 0, 5, update_and_answer, false},
                                           {RECORD_HANDSHAKE, 0, 3, update, false},
                                           {RECORD_HANDSHAKE, 0, 2, update + 3, false}};
    const struct traffic_suite *suite = traffic_suite_find(0x1301);
    struct traffic_keys sending, receiving;
    uint8_t buffer[100];

    start(0x1301, true);
    sending = server.send;
    receiving = server.receive;
    sending.sequence = receiving.sequence = 0;
    incoming(list, 2);
    kernel.fail_send = EAGAIN;
    ck_assert_int_eq(stream_read(&stream, buffer, sizeof(buffer), &error), STREAM_WANT_POLLIN);
    check_info(&kernel.events[0], suite, &receiving, false);
    ck_assert_uint_eq(kernel.count, 1);
    move_stream(); /* an answer is owed, and half a KeyUpdate has come */
    ck_assert_uint_eq(kernel.count, 1);
    ck_assert_int_eq(stream_shutdown_send(&stream, &error), STREAM_WANT_POLLOUT);
    move_stream(); /* and our close_notify */
    kernel.fail_send = 0;
    ck_assert_int_eq(stream_flush(&stream, &error), 0);
    check_sent(1, RECORD_HANDSHAKE, update, 5);
    check_info(&kernel.events[2], suite, &sending, true);
    check_sent(3, RECORD_ALERT, "\1\0", 2);
    incoming(list + 2, 1);
    ck_assert_int_eq(stream_read(&stream, buffer, sizeof(buffer), &error), STREAM_WANT_POLLIN);
    ck_assert_int_eq(traffic_keys_update(suite, &receiving), 0);
    check_info(&kernel.events[4], suite, &receiving, false);
    ck_assert_int_eq(stream_write(&stream, "data", 4, &error), -1);
    ck_assert_int_eq(stream.code, TLSAGENT_E_ARGUMENT);
    stream_clear(&stream);
}
END_TEST

START_TEST(a_moved_stream_that_cannot_have_new_keys)
{
    static const struct incoming list[] = {{RECORD_HANDSHAKE, 0, 5, update, false}};
    uint8_t buffer[100];

    start(0x1301, false);
    incoming(list, 1);
    ck_assert_int_eq(stream_read(&stream, buffer, sizeof(buffer), &error), -1);
    ck_assert_int_eq(stream.code, TLSAGENT_E_REKEY);
    move_stream();
    error_clear(&error);
    ck_assert_int_eq(stream_read(&stream, buffer, sizeof(buffer), &error), -1);
    ck_assert_int_eq(stream.code, TLSAGENT_E_REKEY);
    stream_clear(&stream);
}
END_TEST

START_TEST(tls_is_not_stopped_in_the_kernel_form)
{
    start(0x1301, false);
    ck_assert_int_eq(stream_stop(&stream, &error), -1);
    ck_assert_int_eq(stream.code, TLSAGENT_E_FORM);
    ck_assert_int_eq(stream_write(&stream, "data", 4, &error), 4);
    ck_assert_uint_eq(kernel.count, 1);
    stream_clear(&stream);
}
END_TEST

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

int
main(void)
{
    Suite *suite = suite_create("kernel tls");
    TCase *agent = tcase_create("agent"), *library = tcase_create("library");
    SRunner *runner;
    int failed;

    tcase_add_loop_test(agent, the_kernel_gets_the_right_bytes_in_the_right_order, 0,
                        FIXTURE_SUITES);
    tcase_add_loop_test(agent, the_probe_knows_the_right_records, 0,
                        (int)kernel_probe_answer_count);
    tcase_add_loop_test(agent, each_step_of_an_installation_fails, 0, COUNT(installations));
    tcase_add_loop_test(agent, the_form_is_what_was_asked_permitted_and_possible, 0,
                        COUNT(choices));
    tcase_add_test(agent, next_secrets_only_where_the_kernel_changes_keys);
    suite_add_tcase(suite, agent);
    tcase_add_loop_test(library, a_claim_that_the_kernel_has_the_keys_is_checked, 0, 3);
    tcase_add_test(library, key_update_is_followed_where_the_kernel_can);
    tcase_add_test(library, an_answer_that_does_not_fit_goes_before_the_next_data);
    tcase_add_loop_test(library, key_update_ends_the_connection_where_the_kernel_cannot, 0, 2);
    tcase_add_test(library, a_sending_key_that_is_refused_ends_writing);
    tcase_add_test(library, keys_are_not_changed_where_that_cannot_be);
    tcase_add_test(library, a_key_is_changed_before_it_is_worn_out);
    tcase_add_test(library, sendfile_of_and_to_what_is_not_there);
    tcase_add_test(library, bytes_that_others_sent_wear_a_key_out_too);
    tcase_add_loop_test(library, what_the_kernel_refuses_is_named, 0, COUNT(failures));
    tcase_add_test(library, an_end_is_clean_or_it_is_not);
    tcase_add_loop_test(library, control_records_are_put_together, 0, 2);
    tcase_add_test(library, a_moved_stream_goes_on);
    tcase_add_test(library, a_moved_stream_that_cannot_have_new_keys);
    tcase_add_test(library, tls_is_not_stopped_in_the_kernel_form);
    suite_add_tcase(suite, library);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
