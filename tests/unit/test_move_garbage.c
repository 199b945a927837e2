/*
 * test_move_garbage.c: what a process of another user might send instead of a connection: every
 * truncation, flipped bytes, wrong descriptors. A clear error each time; no crash, no fd kept, no
 * record state kept.
 */
#include "tests/unit/move_fixture.h"

#include <sys/mman.h>
#include <sys/un.h>

#include "protocol/move.h"

static uint8_t good[CHANNEL_BODY_MAX + 2]; /* a packet: type, body */
static size_t good_size;
static int carried; /* the connection's fd in it */

/* Catch a real message. */
static void
catch_message(void)
{
    struct traffic_state server, client;
    struct iovec part = {good, sizeof(good)};
    char control[CMSG_SPACE(sizeof(int) * 2)];
    struct msghdr header = {.msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = control,
                            .msg_controllen = sizeof(control)};
    int sockets[2];
    ssize_t n;

    fixture_states(0x1301, 16384, &server, &client);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
    move_open();
    conn = move_make(sockets[0], &server);
    ck_assert_int_eq(tlsagent_conn_send(conn, ends[0]), 0);
    tlsagent_close(conn);
    conn = NULL;
    n = recvmsg(ends[1], &header, 0);
    ck_assert_int_gt(n, 250);
    good_size = (size_t)n;
    memcpy(&carried, CMSG_DATA(CMSG_FIRSTHDR(&header)), sizeof(carried));
    close(sockets[1]);
    slots_before = slot_count();
    fds_before = count_fds();
}

static void
inject(const uint8_t *packet, size_t size, const int *with, size_t count)
{
    struct iovec part = {(void *)packet, size};
    char control[CMSG_SPACE(sizeof(int) * 10)] = {0};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};

    if (count > 0) {
        struct cmsghdr *rights;

        header.msg_control = control;
        header.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(rights), with, sizeof(int) * count);
    }
    ck_assert_int_eq(sendmsg(ends[0], &header, 0), (ssize_t)size);
}

/* It came to nothing: one object, which has failed with a text. expected: a piece of it. */
static void
assert_refused(const char *expected, const char *what)
{
    struct tlsagent_conn *failed = tlsagent_conn_receive(ends[1]);
    char byte;

    ck_assert_ptr_nonnull(failed);
    ck_assert_msg(tlsagent_handshake(failed) == -1, "%s was taken", what);
    ck_assert_msg(strstr(tlsagent_error(failed), expected) != NULL, "%s: %s", what,
                  tlsagent_error(failed));
    ck_assert_int_eq(tlsagent_error_code(failed), TLSAGENT_E_MOVED);
    ck_assert_int_eq(tlsagent_read(failed, &byte, 1), -1);
    ck_assert_int_eq(tlsagent_write(failed, &byte, 1), -1);
    ck_assert_int_eq(tlsagent_conn_send(failed, ends[0]), -1);
    tlsagent_abandon(failed);
}

static void
assert_nothing_kept(void)
{
    ck_assert_uint_eq(slot_count(), slots_before);
    ck_assert_uint_eq(count_fds(), fds_before);
}

static void
finish(void)
{
    close(carried);
    close(ends[0]);
    close(ends[1]);
}

START_TEST(every_truncation)
{
    catch_message();
    for (size_t size = 1; size < good_size; size++) {
        inject(good, size, &carried, 1);
        assert_refused("other process sent", "a truncated message");
    }
    good[good_size] = 0;
    inject(good, good_size + 1, &carried, 1);
    assert_refused("malformed", "a message with a byte too much");
    assert_nothing_kept();
    finish();
}
END_TEST

/* Any byte changed: refused with a text, or a connection that can be used and freed. */
START_TEST(every_flipped_byte)
{
    static const uint8_t masks[] = {0x01, 0x80, 0xff};
    size_t taken = 0, refused = 0;

    catch_message();
    for (size_t i = 0; i < good_size; i++) {
        for (size_t m = 0; m < sizeof(masks); m++) {
            struct tlsagent_conn *came;
            char bytes[100];

            good[i] ^= masks[m];
            inject(good, good_size, &carried, 1);
            good[i] ^= masks[m];
            came = tlsagent_conn_receive(ends[1]);
            ck_assert_ptr_nonnull(came);
            if (tlsagent_handshake(came) == 0) {
                fcntl(carried, F_SETFL, O_NONBLOCK);
                tlsagent_read(came, bytes, sizeof(bytes));
                tlsagent_write(came, bytes, 1);
                tlsagent_close(came);
                taken++;
            } else {
                ck_assert_str_ne(tlsagent_error(came), "");
                tlsagent_abandon(came);
                refused++;
            }
        }
    }
    printf("%zu bytes: %zu changes refused, %zu taken (keys, numbers, texts)\n", good_size, refused,
           taken);
    ck_assert_uint_gt(refused, 100);
    assert_nothing_kept();
    finish();
}
END_TEST

/* Take the packet apart, change one thing, and make one again. */
static void
send_changed(void (*change)(struct move_connection *m), const char *what)
{
    static uint8_t packet[sizeof(good)];
    struct move_connection m;
    size_t size;

    ck_assert(move_get_connection(&m, false, good + 2, good_size - 2));
    change(&m);
    memcpy(packet, good, 2);
    size = move_put_connection(&m, false, packet + 2, sizeof(packet) - 2);
    ck_assert_msg(size > 0, "%s", what);
    inject(packet, size + 2, &carried, 1);
}

static const uint8_t empty_certificate[] = {0, 0, 0};
static const uint8_t long_certificate[] = {0, 0, 9, 1};

#define CHANGE(name, statement)                                                                    \
    static void name(struct move_connection *m)                                                    \
    {                                                                                              \
        statement;                                                                                 \
    }
CHANGE(unknown_flag, m->flags |= 0x4000)
CHANGE(alert_owed_in_records, m->owed_alert = 0)
CHANGE(plain_in_records, m->flags |= MOVE_PLAIN)
CHANGE(kernel_form_with_waiting_bytes,
       (m->form = SERVICE_FORM_KERNEL, memset(&m->state.send, 0, sizeof(m->state.send)),
        memset(&m->state.receive, 0, sizeof(m->state.receive)), m->unsent = good,
        m->unsent_size = 10))
CHANGE(kernel_form_with_plain_bytes,
       (m->form = SERVICE_FORM_KERNEL, memset(&m->state.send, 0, sizeof(m->state.send)),
        memset(&m->state.receive, 0, sizeof(m->state.receive)), m->plain = good,
        m->plain_size = 10))
CHANGE(broken_without_a_reason, m->flags |= MOVE_BROKEN)
CHANGE(no_form, m->form = 0)
CHANGE(two_forms, m->form = 3)
CHANGE(unknown_form, m->form = 8)
CHANGE(kernel_form_with_keys, m->form = SERVICE_FORM_KERNEL)
CHANGE(stream_form_with_keys, m->form = SERVICE_FORM_STREAM)
#define STREAM                                                                                     \
    m->form = SERVICE_FORM_STREAM, m->flags = 0, memset(&m->state.send, 0, sizeof(m->state.send)), \
    memset(&m->state.receive, 0, sizeof(m->state.receive))
CHANGE(stream_form_with_a_role, (STREAM, m->flags = MOVE_SERVER))
CHANGE(stream_form_with_a_sequence, (STREAM, m->state.send.sequence = 1))
CHANGE(stream_form_with_a_secret, (STREAM, m->state.receive.secret[47] = 1))
CHANGE(stream_form_with_plain_bytes, (STREAM, m->plain = good, m->plain_size = 1))
CHANGE(stream_form_with_ciphertext, (STREAM, m->received = good, m->received_size = 1))
CHANGE(stream_form_that_has_failed, (STREAM, m->read_failure.kind = MOVE_PEER_CLOSED))
CHANGE(unknown_suite, m->state.suite = 0x1304)
CHANGE(no_fragment, m->state.max_fragment = 0)
CHANGE(large_fragment, m->state.max_fragment = 16385)
CHANGE(refusal_in_tls13, m->flags |= MOVE_REFUSAL_OWED)
CHANGE(update_in_tls12, (m->state.suite = 0xc02f, m->flags |= MOVE_UPDATE_OWED))
CHANGE(request_in_tls12, (m->state.suite = 0xc02f, m->flags |= MOVE_REQUEST_OWED))
CHANGE(made_in_tls12, (m->state.suite = 0xc02f, m->flags |= MOVE_REQUEST_MADE))
CHANGE(much_to_skip, m->skip = 65537)
CHANGE(message_and_skip, (m->skip = 1, m->message_size = 1))
CHANGE(long_message, m->message_size = 5)
CHANGE(not_a_key_update, (m->message_size = 4, m->message[0] = 1))
CHANGE(key_update_in_tls12,
       (m->state.suite = 0xc02f, m->message_size = 4, m->message[0] = 24, m->message[3] = 1))
CHANGE(many_idle, m->idle = 33)
CHANGE(unknown_failure, m->read_failure.kind = 7)
CHANGE(no_failure_with_alert, m->write_failure.alert = 20)
CHANGE(large_errno, (m->write_failure.kind = MOVE_SYSTEM, m->write_failure.number = 4096))
CHANGE(empty_in_chain, (m->chain = empty_certificate, m->chain_size = sizeof(empty_certificate)))
CHANGE(chain_cut_off, (m->chain = long_certificate, m->chain_size = sizeof(long_certificate)))
CHANGE(much_plain, (m->plain = good, m->plain_size = 16385))

START_TEST(what_cannot_be)
{
    static const struct {
        void (*change)(struct move_connection *m);
        const char *name;
    } cases[] = {
#define CASE(name) {name, #name}
        CASE(unknown_flag),
        CASE(no_form),
        CASE(two_forms),
        CASE(unknown_form),
        CASE(kernel_form_with_keys),
        CASE(stream_form_with_keys),
        CASE(stream_form_with_a_role),
        CASE(stream_form_with_a_sequence),
        CASE(stream_form_with_a_secret),
        CASE(stream_form_with_plain_bytes),
        CASE(stream_form_with_ciphertext),
        CASE(stream_form_that_has_failed),
        CASE(unknown_suite),
        CASE(no_fragment),
        CASE(large_fragment),
        CASE(refusal_in_tls13),
        CASE(update_in_tls12),
        CASE(request_in_tls12),
        CASE(made_in_tls12),
        CASE(much_to_skip),
        CASE(message_and_skip),
        CASE(long_message),
        CASE(not_a_key_update),
        CASE(key_update_in_tls12),
        CASE(many_idle),
        CASE(unknown_failure),
        CASE(no_failure_with_alert),
        CASE(large_errno),
        CASE(empty_in_chain),
        CASE(chain_cut_off),
        CASE(much_plain),
        CASE(alert_owed_in_records),
        CASE(plain_in_records),
        CASE(kernel_form_with_waiting_bytes),
        CASE(kernel_form_with_plain_bytes),
        CASE(broken_without_a_reason),
    };

    catch_message();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        send_changed(cases[i].change, cases[i].name);
        assert_refused("malformed", cases[i].name);
    }
    good[3] ^= 2; /* the format's number */
    inject(good, good_size, &carried, 1);
    assert_refused("format of another libtlsagent", "another format");
    assert_nothing_kept();
    finish();
}
END_TEST

CHANGE(kernel_form_without_keys,
       (m->form = SERVICE_FORM_KERNEL, memset(&m->state.send, 0, sizeof(m->state.send)),
        memset(&m->state.receive, 0, sizeof(m->state.receive))))

/* Whoever believed it would write plaintext to the network. */
START_TEST(a_kernel_form_that_the_kernel_knows_nothing_of)
{
    struct tlsagent_conn *failed;

    catch_message();
    send_changed(kernel_form_without_keys, "a kernel form without kernel TLS");
    failed = tlsagent_conn_receive(ends[1]);
    ck_assert_int_eq(tlsagent_handshake(failed), -1);
    ck_assert_int_eq(tlsagent_error_code(failed), TLSAGENT_E_SYSTEM);
    ck_assert_ptr_nonnull(strstr(tlsagent_error(failed), "the kernel has"));
    ck_assert_int_eq(tlsagent_write(failed, "plain", 5), -1);
    tlsagent_abandon(failed);
    assert_nothing_kept();
    finish();
}
END_TEST

/* The same message with other descriptors, or with none, or too many. */
START_TEST(wrong_descriptors)
{
    static const char *const stream = "not a stream socket";
    struct {
        const char *name, *expected;
        int fd;
    } cases[] = {
        {"a file", stream, open("/dev/zero", O_RDONLY)},
        {"a directory", stream, open("/", O_RDONLY)},
        {"a datagram socket", stream, socket(AF_UNIX, SOCK_DGRAM, 0)},
        {"a sequenced socket", stream, socket(AF_UNIX, SOCK_SEQPACKET, 0)},
        {"a listening socket", stream, socket(AF_INET, SOCK_STREAM, 0)},
        {"a memory file", stream, memfd_create("x", 0)},
    };
    int many[8];

    ck_assert_int_eq(listen(cases[4].fd, 1), 0);
    catch_message();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        inject(good, good_size, &cases[i].fd, 1);
        assert_refused(cases[i].expected, cases[i].name);
    }
    for (size_t count = 0; count <= 8; count++) {
        for (size_t i = 0; i < count; i++)
            many[i] = carried;
        if (count == 1)
            continue;
        inject(good, good_size, many, count);
        assert_refused("fds", "a wrong number of descriptors");
    }
    assert_nothing_kept();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        close(cases[i].fd);
    finish();
}
END_TEST

static int
memory_file(size_t size, int seals)
{
    int fd = memfd_create("x", MFD_ALLOW_SEALING | MFD_CLOEXEC);

    ck_assert_int_eq(ftruncate(fd, (off_t)size), 0);
    ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

/* LARGE: the second descriptor must be a sealed memory file of the size that was said. */
START_TEST(wrong_memory_files)
{
    int all = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE, pipes[2];
    struct move_connection m;
    uint8_t packet[2000];
    size_t size;

    ck_assert_int_eq(pipe(pipes), 0);
    {
        struct {
            const char *name, *expected;
            int fd;
        } cases[] = {
            {"not sealed", "sealed", memory_file(70000, 0)},
            {"can be written", "sealed", memory_file(70000, all & ~F_SEAL_WRITE)},
            {"can shrink", "sealed", memory_file(70000, all & ~F_SEAL_SHRINK)},
            {"too short", "size", memory_file(69999, all)},
            {"too long", "size", memory_file(70001, all)},
            {"empty", "size", memory_file(0, all)},
            {"a pipe", "sealed", pipes[0]},
            {"a device", "sealed", open("/dev/zero", O_RDONLY)},
        };
        int with[2];

        catch_message();
        ck_assert(move_get_connection(&m, false, good + 2, good_size - 2));
        m.received_size = 60000;
        m.unsent_size = 10000;
        packet[0] = 0;
        packet[1] = MOVE_CONNECTION_LARGE;
        size = 2 + move_put_connection(&m, true, packet + 2, sizeof(packet) - 2);
        with[0] = carried;
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
            with[1] = cases[i].fd;
            inject(packet, size, with, 2);
            assert_refused(cases[i].expected, cases[i].name);
        }
        inject(packet, size, with, 1);
        assert_refused("fds", "no memory file");
        m.unsent_size = MOVE_CIPHERTEXT_MAX + 1;
        size = 2 + move_put_connection(&m, true, packet + 2, sizeof(packet) - 2);
        inject(packet, size, with, 2);
        assert_refused("malformed", "more than can wait");
        assert_nothing_kept();
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
            close(cases[i].fd);
    }
    close(pipes[1]);
    finish();
}
END_TEST

/* Hostile bytes in place of waiting ciphertext are what a peer might have sent: an alert, no more.
 */
START_TEST(garbage_that_waits)
{
    struct move_connection m;
    uint8_t packet[60000], junk[32000];
    size_t size;

    catch_message();
    for (uint32_t seed = 0; seed < 50; seed++) {
        struct tlsagent_conn *came;
        char bytes[20000];

        fixture_fill(junk, sizeof(junk), seed);
        if (seed % 2 == 0)
            memcpy(junk, "\x17\3\3\x40\x11", 5); /* looks like a full record */
        ck_assert(move_get_connection(&m, false, good + 2, good_size - 2));
        m.received = junk;
        m.received_size = 1 + seed * 600;
        m.plain = junk;
        m.plain_size = seed * 300;
        m.message_size = seed % 4;
        m.skip = seed % 4 == 0 ? seed * 1000 : 0;
        memcpy(packet, good, 2);
        size = 2 + move_put_connection(&m, false, packet + 2, sizeof(packet) - 2);
        inject(packet, size, &carried, 1);
        came = tlsagent_conn_receive(ends[1]);
        ck_assert_msg(tlsagent_handshake(came) == 0, "%s", tlsagent_error(came));
        if (m.plain_size > 0)
            ck_assert_int_eq(tlsagent_read(came, bytes, m.plain_size), (ssize_t)m.plain_size);
        fcntl(tlsagent_conn_fd(came), F_SETFL, O_NONBLOCK);
        ck_assert_int_lt(tlsagent_read(came, bytes, sizeof(bytes)), 0);
        tlsagent_abandon(came);
    }
    assert_nothing_kept();
    finish();
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("garbage instead of a connection");
    TCase *tests = tcase_create("receive");
    SRunner *runner;
    int failed;

    signal(SIGPIPE, SIG_IGN);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, every_truncation);
    tcase_add_test(tests, every_flipped_byte);
    tcase_add_test(tests, what_cannot_be);
    tcase_add_test(tests, a_kernel_form_that_the_kernel_knows_nothing_of);
    tcase_add_test(tests, wrong_descriptors);
    tcase_add_test(tests, wrong_memory_files);
    tcase_add_test(tests, garbage_that_waits);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
