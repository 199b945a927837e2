/*
 * test_channel.c: one SOCK_SEQPACKET channel: whole messages or none, exact numbers of fds, and no
 * fd that stays behind, whatever the other side sends.
 */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "protocol/channel.h"

static const struct channel_rule rules[] = {
    {1, 0, 0, 4},
    {2, 1, 2, 2},
    {3, 2, 0, 0},
    {4, 0, 0, CHANNEL_BODY_MAX},
};
#define RULES rules, sizeof(rules) / sizeof(rules[0])

static int pair[2];
static uint8_t buffer[CHANNEL_BUFFER_SIZE];
static int open_before;

/* Descriptors open in this process. */
static int
count_fds(void)
{
    DIR *stream = opendir("/proc/self/fd");
    int count = 0;

    ck_assert_ptr_nonnull(stream);
    while (readdir(stream) != NULL)
        count++;
    closedir(stream);
    return count;
}

static void
setup(void)
{
    open_before = count_fds();
    ck_assert_int_eq(channel_pair(pair), 0);
}

/* Whatever a test did: nothing leaked. */
static void
teardown(void)
{
    for (int i = 0; i < 2; i++) {
        if (pair[i] != -1)
            close(pair[i]);
    }
    ck_assert_int_eq(count_fds(), open_before);
}

/* What a hostile peer can do and channel_send() cannot: any bytes, any number of fds, spread over
 * several control messages. */
static void
send_raw(const void *bytes, size_t size, size_t fd_count, size_t messages)
{
    struct iovec part = {(void *)(uintptr_t)bytes, size};
    static char control[CMSG_SPACE(sizeof(int) * 253) * 2];
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    int fds[253];

    memset(control, 0, sizeof(control));
    for (size_t i = 0; i < fd_count; i++)
        fds[i] = STDERR_FILENO;
    if (fd_count > 0) {
        struct cmsghdr *c;

        header.msg_control = control;
        header.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count) * messages;
        c = CMSG_FIRSTHDR(&header);
        for (size_t i = 0; i < messages; i++, c = CMSG_NXTHDR(&header, c)) {
            c->cmsg_level = SOL_SOCKET;
            c->cmsg_type = SCM_RIGHTS;
            c->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
            memcpy(CMSG_DATA(c), fds, sizeof(int) * fd_count);
        }
    }
    ck_assert_int_eq(sendmsg(pair[0], &header, MSG_NOSIGNAL), (ssize_t)size);
}

static enum channel_result
receive(struct channel_message *message, struct error *error)
{
    error_clear(error);
    return channel_receive(pair[1], RULES, buffer, sizeof(buffer), message, error);
}

START_TEST(a_message_arrives_whole)
{
    struct channel_message message;
    struct error error;

    ck_assert_int_eq(channel_send(pair[0], 1, "abcd", 4, NULL, 0), CHANNEL_OK);
    ck_assert_int_eq(channel_send(pair[0], 1, NULL, 0, NULL, 0), CHANNEL_OK);
    ck_assert_int_eq(receive(&message, &error), CHANNEL_OK);
    ck_assert_uint_eq(message.type, 1);
    ck_assert_uint_eq(message.size, 4);
    ck_assert_mem_eq(message.body, "abcd", 4);
    ck_assert_uint_eq(message.fd_count, 0);
    ck_assert_int_eq(receive(&message, &error), CHANNEL_OK);
    ck_assert_uint_eq(message.size, 0);
    ck_assert_int_eq(receive(&message, &error), CHANNEL_AGAIN);
    ck_assert_str_eq(error.text, "");
}
END_TEST

START_TEST(the_type_is_two_bytes_big_endian)
{
    static const struct channel_rule wide[] = {{0x1234, 0, 0, 0}};
    struct channel_message message;
    struct error error = {""};
    uint8_t raw[8];

    ck_assert_int_eq(channel_send(pair[0], 0x1234, NULL, 0, NULL, 0), CHANNEL_OK);
    ck_assert_int_eq(recv(pair[1], raw, sizeof(raw), 0), 2);
    ck_assert_uint_eq(raw[0], 0x12);
    ck_assert_uint_eq(raw[1], 0x34);
    send_raw("\x12\x34", 2, 0, 0);
    ck_assert_int_eq(channel_receive(pair[1], wide, 1, buffer, sizeof(buffer), &message, &error),
                     CHANNEL_OK);
    ck_assert_uint_eq(message.type, 0x1234);
}
END_TEST

START_TEST(fds_are_owned_exactly_once)
{
    int fds[2] = {STDIN_FILENO, STDERR_FILENO}, taken;
    struct channel_message message;
    struct error error;
    struct stat sent, arrived;

    ck_assert_int_eq(channel_send(pair[0], 3, NULL, 0, fds, 2), CHANNEL_OK);
    ck_assert_int_eq(receive(&message, &error), CHANNEL_OK);
    ck_assert_uint_eq(message.fd_count, 2);
    taken = channel_take_fd(&message, 1);
    ck_assert_int_ge(taken, 0);
    ck_assert_int_eq(channel_take_fd(&message, 1), -1);
    ck_assert_int_eq(channel_take_fd(&message, 2), -1);
    ck_assert_int_eq(fstat(STDERR_FILENO, &sent), 0);
    ck_assert_int_eq(fstat(taken, &arrived), 0);
    ck_assert_uint_eq(sent.st_ino, arrived.st_ino);
    ck_assert_int_eq(fcntl(taken, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    channel_message_clear(&message); /* closes number 0, not what was taken */
    ck_assert_uint_eq(message.fd_count, 0);
    ck_assert_int_eq(fcntl(taken, F_GETFD) != -1, 1);
    channel_message_clear(&message); /* twice is harmless */
    close(taken);
    ck_assert_int_eq(fcntl(STDIN_FILENO, F_GETFD) != -1, 1); /* the sender keeps its own */
}
END_TEST

/* What must be refused whole. */
static const struct {
    const char *bytes;
    size_t size, fds, messages;
    const char *reason;
} refused[] = {
    {"\0\1", 2, 1, 1, "message type 1 carries 1 fds, must carry 0"},
    {"\0\2xx", 4, 0, 0, "message type 2 carries 0 fds, must carry 1"},
    {"\0\2xx", 4, 2, 1, "message type 2 carries 2 fds, must carry 1"}, /* fits CMSG_SPACE of one */
    {"\0\2xx", 4, 5, 1, "message type 2 carries 5 fds, must carry 1"},
    {"\0\2xx", 4, 253, 1, "message type 2 carries 253 fds, must carry 1"},
    {"\0\2xx", 4, 1, 2, "message type 2 carries 2 fds, must carry 1"},
    {"\0\3", 2, 1, 1, "message type 3 carries 1 fds, must carry 2"},
    {"\0\1abcde", 7, 0, 0, "message type 1 is 5 bytes long, must be 0 to 4"},
    {"\0\2x", 3, 1, 1, "message type 2 is 1 bytes long, must be 2 to 2"},
    {"\0\2xxx", 5, 1, 1, "message type 2 is 3 bytes long, must be 2 to 2"},
    {"\0\5", 2, 0, 0, "message type 5 is not allowed on this channel"},
    {"\0\5", 2, 3, 1, "message type 5 is not allowed on this channel"},
    {"\1\1", 2, 0, 0, "message type 257 is not allowed on this channel"},
    {"\1", 1, 0, 0, "message of 1 bytes has no type"},
    {"\1", 1, 2, 1, "message of 1 bytes has no type"},
    {"", 0, 1, 1, "message of 0 bytes has no type"},
};

START_TEST(what_does_not_fit_the_table_is_refused_whole)
{
    struct channel_message message;
    struct error error;
    int before = count_fds();

    send_raw(refused[_i].bytes, refused[_i].size, refused[_i].fds, refused[_i].messages);
    ck_assert_int_eq(receive(&message, &error), CHANNEL_REFUSED);
    ck_assert_str_eq(error.text, refused[_i].reason);
    ck_assert_uint_eq(message.fd_count, 0);
    ck_assert_int_eq(count_fds(), before);
    /* The next message is not harmed. */
    ck_assert_int_eq(channel_send(pair[0], 1, NULL, 0, NULL, 0), CHANNEL_OK);
    ck_assert_int_eq(receive(&message, &error), CHANNEL_OK);
}
END_TEST

START_TEST(the_longest_message_passes_and_a_longer_one_does_not)
{
    static uint8_t body[CHANNEL_BODY_MAX + 64];
    struct channel_message message;
    struct error error;

    body[0] = 0;
    body[1] = 4; /* as raw bytes: type 4 */
    body[CHANNEL_BODY_MAX - 1] = 7;
    ck_assert_int_eq(channel_send(pair[0], 4, body, CHANNEL_BODY_MAX, NULL, 0), CHANNEL_OK);
    ck_assert_int_eq(receive(&message, &error), CHANNEL_OK);
    ck_assert_uint_eq(message.size, CHANNEL_BODY_MAX);
    ck_assert_uint_eq(message.body[CHANNEL_BODY_MAX - 1], 7);

    ck_assert_int_eq(channel_send(pair[0], 4, body, CHANNEL_BODY_MAX + 1, NULL, 0), CHANNEL_FAILED);
    send_raw(body, CHANNEL_BODY_MAX + 3, 0, 0); /* fills the buffer; the table refuses it */
    ck_assert_int_eq(receive(&message, &error), CHANNEL_REFUSED);
    ck_assert_str_eq(error.text, "message type 4 is 65537 bytes long, must be 0 to 65536");
    send_raw(body, CHANNEL_BODY_MAX + 4, 1, 1); /* truncated, with an fd */
    ck_assert_int_eq(receive(&message, &error), CHANNEL_REFUSED);
    ck_assert_str_eq(error.text, "message is longer than 65539 bytes");
    ck_assert_uint_eq(message.size, 0);
}
END_TEST

START_TEST(too_many_fds_are_not_sent)
{
    int fds[CHANNEL_FDS_MAX + 1] = {0};

    ck_assert_int_eq(channel_send(pair[0], 3, NULL, 0, fds, CHANNEL_FDS_MAX + 1), CHANNEL_FAILED);
}
END_TEST

START_TEST(no_room_for_an_fd_is_a_failure_of_ours)
{
    int fds[2] = {STDERR_FILENO, STDERR_FILENO}, open_now = count_fds();
    struct rlimit limit, old;
    struct channel_message message;
    struct error error;
    int extra = -1;

    ck_assert_int_eq(channel_send(pair[0], 3, NULL, 0, fds, 2), CHANNEL_OK);
    ck_assert_int_eq(channel_send(pair[0], 1, NULL, 0, NULL, 0), CHANNEL_OK);
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
    limit = old;
    extra = dup(STDERR_FILENO); /* the lowest free number; room for exactly one more */
    ck_assert_int_ge(extra, 0);
    limit.rlim_cur = (rlim_t)extra + 1;
    close(extra);
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    ck_assert_int_eq(receive(&message, &error), CHANNEL_FAILED);
    ck_assert_str_eq(error.text, "fds were lost on arrival: too many, or no descriptors left");
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
    ck_assert_uint_eq(message.fd_count, 0);
    ck_assert_int_eq(count_fds(), open_now); /* the one that arrived was closed */
    ck_assert_int_eq(receive(&message, &error), CHANNEL_OK);
}
END_TEST

START_TEST(the_end_is_told_from_an_empty_packet_with_fds)
{
    struct channel_message message;
    struct error error;

    ck_assert_int_eq(channel_send(pair[0], 1, NULL, 0, NULL, 0), CHANNEL_OK);
    close(pair[0]);
    pair[0] = -1;
    ck_assert_int_eq(receive(&message, &error), CHANNEL_OK); /* what was sent still arrives */
    ck_assert_int_eq(receive(&message, &error), CHANNEL_CLOSED);
    ck_assert_str_eq(error.text, "");
    ck_assert_int_eq(channel_send(pair[1], 1, NULL, 0, NULL, 0), CHANNEL_CLOSED); /* no SIGPIPE */
}
END_TEST

START_TEST(an_empty_packet_ends_the_channel)
{
    struct channel_message message;
    struct error error;

    send_raw("", 0, 0, 0); /* recvmsg() cannot tell it from the end: never waited for more */
    ck_assert_int_eq(receive(&message, &error), CHANNEL_CLOSED);
}
END_TEST

START_TEST(a_full_channel_says_again_and_sends_nothing)
{
    static uint8_t body[1024];
    struct channel_message message;
    struct error error;
    unsigned sent = 0, arrived = 0;
    enum channel_result result;

    while ((result = channel_send(pair[0], 4, body, sizeof(body), NULL, 0)) == CHANNEL_OK) {
        sent++;
        ck_assert_uint_lt(sent, 100000);
    }
    ck_assert_int_eq(result, CHANNEL_AGAIN);
    ck_assert_uint_gt(sent, 0);
    ck_assert_int_eq(channel_send_wait(pair[0], 4, body, sizeof(body), NULL, 0, 20), CHANNEL_AGAIN);
    while ((result = receive(&message, &error)) == CHANNEL_OK) {
        ck_assert_uint_eq(message.size, sizeof(body));
        arrived++;
    }
    ck_assert_int_eq(result, CHANNEL_AGAIN);
    ck_assert_uint_eq(arrived, sent);
    ck_assert_int_eq(channel_send_wait(pair[0], 4, body, sizeof(body), NULL, 0, 20), CHANNEL_OK);
}
END_TEST

START_TEST(a_send_that_failed_kept_its_fds)
{
    static uint8_t body[2];
    int before, fd = STDERR_FILENO;

    before = count_fds();
    close(pair[1]);
    pair[1] = -1;
    ck_assert_int_eq(channel_send(pair[0], 2, body, 2, &fd, 1), CHANNEL_CLOSED);
    ck_assert_int_eq(count_fds(), before - 1);
    ck_assert_int_eq(fcntl(fd, F_GETFD) != -1, 1);
    ck_assert_int_eq(channel_send(pair[0], 2, body, 2, (int[]){-1}, 1), CHANNEL_FAILED);
}
END_TEST

START_TEST(unread_fds_are_closed_with_the_channel)
{
    int fd = STDERR_FILENO;

    for (int i = 0; i < 10; i++)
        ck_assert_int_eq(channel_send(pair[0], 2, "xx", 2, &fd, 1), CHANNEL_OK);
    /* teardown() closes both ends and counts. */
}
END_TEST

START_TEST(waiting_ends_in_time)
{
    struct channel_message message;
    struct error error = {""};

    ck_assert_int_eq(
        channel_receive_wait(pair[1], RULES, buffer, sizeof(buffer), &message, &error, 20),
        CHANNEL_AGAIN);
    ck_assert_int_eq(channel_send(pair[0], 1, "a", 1, NULL, 0), CHANNEL_OK);
    ck_assert_int_eq(
        channel_receive_wait(pair[1], RULES, buffer, sizeof(buffer), &message, &error, -1),
        CHANNEL_OK);
    ck_assert_uint_eq(message.size, 1);
}
END_TEST

START_TEST(a_peer_that_makes_the_socket_blocking_does_not_block_us)
{
    struct channel_message message;
    struct error error;

    ck_assert_int_eq(fcntl(pair[1], F_SETFL, 0), 0);
    ck_assert_int_eq(receive(&message, &error), CHANNEL_AGAIN); /* a hang would be a timeout */
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("channel");
    TCase *tcase = tcase_create("channel");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 20);
    tcase_add_test(tcase, a_message_arrives_whole);
    tcase_add_test(tcase, the_type_is_two_bytes_big_endian);
    tcase_add_test(tcase, fds_are_owned_exactly_once);
    tcase_add_loop_test(tcase, what_does_not_fit_the_table_is_refused_whole, 0,
                        (int)(sizeof(refused) / sizeof(refused[0])));
    tcase_add_test(tcase, the_longest_message_passes_and_a_longer_one_does_not);
    tcase_add_test(tcase, too_many_fds_are_not_sent);
    tcase_add_test(tcase, no_room_for_an_fd_is_a_failure_of_ours);
    tcase_add_test(tcase, the_end_is_told_from_an_empty_packet_with_fds);
    tcase_add_test(tcase, an_empty_packet_ends_the_channel);
    tcase_add_test(tcase, a_full_channel_says_again_and_sends_nothing);
    tcase_add_test(tcase, a_send_that_failed_kept_its_fds);
    tcase_add_test(tcase, unread_fds_are_closed_with_the_channel);
    tcase_add_test(tcase, waiting_ends_in_time);
    tcase_add_test(tcase, a_peer_that_makes_the_socket_blocking_does_not_block_us);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
