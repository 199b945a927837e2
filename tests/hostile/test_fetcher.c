/*
 * test_fetcher.c: a real fetcher in its sandbox, with this test as its supervisor, its handshakers
 * and its store. Each of them misbehaves: the others lose nothing but what they asked of it.
 */
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent/roles.h"
#include "protocol/control.h"
#include "protocol/store.h"

#define PROBE  "*2\r\n$3\r\nGET\r\n$16\r\ntlsagent:1:probe\r\n"
#define GET_OF "*2\r\n$3\r\nGET\r\n$75\r\ntlsagent:1:"
#define ZEROS  "0000000000000000000000000000000000000000000000000000000000000000"

static pid_t pid;
static int control, log_fd;
static int store;      /* our end of its connection */
static int clients[2]; /* our ends of two handshakers' channels */
static uint8_t buffer[CHANNEL_BUFFER_SIZE];
static struct channel_message message;

static bool
from_control(uint16_t type, int wait_ms)
{
    return channel_receive_wait(control, control_supervisor_rules, control_supervisor_rule_count,
                                buffer, sizeof(buffer), &message, NULL, wait_ms) == CHANNEL_OK &&
           message.type == type;
}

static void
to_control(uint16_t type, const void *body, size_t size, int fd)
{
    ck_assert_int_eq(channel_send(control, type, body, size, &fd, fd != -1), CHANNEL_OK);
}

/* It has asked for a connection: it gets one, and we are its store. */
static void
connect_it(void)
{
    const struct timeval patience = {.tv_sec = 20};
    int pair[2];

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    ck_assert_int_eq(setsockopt(pair[1], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
    to_control(CONTROL_CONNECTION, NULL, 0, pair[0]);
    close(pair[0]);
    store = pair[1];
}

static void
store_says(const char *text)
{
    ck_assert_int_eq(write(store, text, strlen(text)), (ssize_t)strlen(text));
}

/* What the store hears must begin so. */
static void
store_hears(const char *text)
{
    char heard[512];
    size_t size = strlen(text);

    ck_assert_uint_lt(size, sizeof(heard));
    ck_assert_int_eq(recv(store, heard, size, MSG_WAITALL), (ssize_t)size);
    ck_assert_msg(memcmp(heard, text, size) == 0, "heard: %.*s", (int)size, heard);
}

static void
greet(void)
{
    connect_it();
    store_hears(PROBE);
    store_says("$-1\r\n");
}

static struct control_pong
totals(void)
{
    static uint32_t number;
    const struct control_ping ping = {.number = ++number};
    struct control_pong pong;
    uint8_t body[8];

    to_control(CONTROL_PING, body, control_put_ping(&ping, body, sizeof(body)), -1);
    ck_assert(from_control(CONTROL_PONG, 10000));
    ck_assert(control_get_pong(&pong, message.body, message.size) && pong.number == number);
    return pong;
}

static void
add_clients(void)
{
    for (int i = 0; i < 2; i++) {
        int pair[2];

        ck_assert_int_eq(channel_pair(pair), 0);
        to_control(CONTROL_CLIENT, NULL, 0, pair[0]);
        close(pair[0]);
        clients[i] = pair[1];
    }
    ck_assert_uint_eq(totals().workers, 2);
}

static void
start(const struct control_store *settings, const char *password)
{
    uint8_t body[512];
    int pair[2], fds[2];

    ck_assert_int_eq(channel_pair(pair), 0);
    log_fd = memfd_create("log", MFD_CLOEXEC);
    pid = fork();
    if (pid == 0) {
        int kept = fcntl(pair[1], F_DUPFD, 10);

        dup2(log_fd, ROLE_FD_LOG);
        dup2(kept, ROLE_FD_CONTROL);
        close_range(ROLE_FD_CONTROL + 1, ~0U, 0);
        execl("/proc/self/exe", "test", "fetcher", (char *)NULL);
        _exit(127);
    }
    close(pair[1]);
    control = pair[0];
    ck_assert(from_control(CONTROL_HELLO, 20000));
    fds[0] = memfd_create("password", MFD_CLOEXEC);
    fds[1] = memfd_create("nothing", MFD_CLOEXEC);
    ck_assert_int_eq(write(fds[0], password, strlen(password)), (ssize_t)strlen(password));
    ck_assert_int_eq(channel_send(control, CONTROL_STORE, body,
                                  control_put_store(settings, body, sizeof(body)), fds, 2),
                     CHANNEL_OK);
    close(fds[0]);
    close(fds[1]);
    ck_assert(from_control(CONTROL_READY, 20000));
    ck_assert(from_control(CONTROL_CONNECT, 20000));
}

static void
set_up(void)
{
    start(&(struct control_store){.name = "127.0.0.1"}, "");
    greet();
    add_clients();
}

static void
tear_down(void)
{
    int status = -1;

    close(control);
    close(store);
    close(clients[0]);
    close(clients[1]);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "wait status %#x", status);
    close(log_fd);
}

static void
ask(int client, uint32_t number)
{
    const struct store_get request = {.number = number};
    uint8_t body[64];

    ck_assert_int_eq(channel_send(clients[client], STORE_GET, body,
                                  store_put_get(&request, body, sizeof(body)), NULL, 0),
                     CHANNEL_OK);
}

static void
put(int client, size_t size)
{
    static const uint8_t entry[STORE_ENTRY_MAX];
    const struct store_put request = {.life = 60, .entry = entry, .entry_size = size};
    static uint8_t body[64 + STORE_ENTRY_MAX];

    ck_assert_int_eq(channel_send_wait(clients[client], STORE_PUT, body,
                                       store_put_put(&request, body, sizeof(body)), NULL, 0, 10000),
                     CHANNEL_OK);
}

/* The next answer to a client: its type; 0: none within the time. */
static unsigned
answer(int client, uint32_t *number, int wait_ms)
{
    struct store_number m;
    struct store_found found;

    if (channel_receive_wait(clients[client], store_handshaker_rules, store_handshaker_rule_count,
                             buffer, sizeof(buffer), &message, NULL, wait_ms) != CHANNEL_OK)
        return 0;
    if (message.type == STORE_FOUND) {
        ck_assert(store_get_found(&found, message.body, message.size));
        *number = found.number;
    } else {
        ck_assert(store_get_number(&m, message.body, message.size));
        *number = m.number;
    }
    return message.type;
}

static void
expect_answer(int client, unsigned type, uint32_t number)
{
    uint32_t got = 0;
    unsigned is = answer(client, &got, 10000);

    ck_assert_uint_eq(is, type);
    ck_assert_uint_eq(got, number);
}

/* One question goes through, so all is well. */
static void
works(int client)
{
    ask(client, 77);
    store_hears(GET_OF ZEROS "\r\n");
    store_says("$5\r\nentry\r\n");
    expect_answer(client, STORE_FOUND, 77);
    ck_assert_uint_eq(message.size, 6 + 5);
    ck_assert_mem_eq(message.body + 6, "entry", 5);
}

START_TEST(questions_and_answers)
{
    works(0);
    ask(1, 5);
    ask(1, 6);
    ask(0, 7);
    for (int i = 0; i < 3; i++)
        store_hears(GET_OF ZEROS "\r\n");
    store_says("$-1\r\n-ERR n");
    store_says("o\r\n$1\r\nx\r\n");
    expect_answer(1, STORE_MISSING, 5);
    expect_answer(1, STORE_FAILED, 6);
    expect_answer(0, STORE_FOUND, 7);
    put(0, 3);
    store_hears("*5\r\n$3\r\nSET\r\n$75\r\ntlsagent:1:" ZEROS "\r\n$3\r\n");
    ck_assert_int_eq(recv(store, buffer, 5, MSG_WAITALL), 5);
    store_hears("$2\r\nEX\r\n$2\r\n60\r\n");
    store_says("-OOM no room\r\n");
    put(0, 3);
    store_hears("*5\r\n");
    store_says("+OK\r\n");
    ck_assert_uint_eq(recv(store, buffer, 116, MSG_WAITALL), 116);
    works(1);
    ck_assert_uint_eq(totals().store.stored, 1);
    ck_assert_uint_eq(totals().store.dropped, 1);
}
END_TEST

/* Each of these ends the connection, and only that: who waits is told, and a new one is asked for.
 */
static const char *const nonsense[] = {
    "HTTP/1.1 200 OK\r\n\r\n", "*1\r\n$1\r\nx\r\n", "*-1\r\n",
    "*1000000000\r\n",         "$-2\r\n",           "$99999999999999999999\r\n",
    "$5\r\nentry!!",           ":77\r\n",           "+OK\r\n",
    "$-1\r\n$-1\r\n$-1\r\n",   "\r\n\r\n\r\n",      "%1\r\n+a\r\n+b\r\n",
};

START_TEST(a_store_that_sends_nonsense)
{
    uint32_t number = 0;

    ask(0, 1);
    ask(1, 2);
    store_hears(GET_OF);
    store_says(nonsense[_i]);
    ck_assert_uint_ne(answer(0, &number, 10000), 0);
    ck_assert_uint_eq(number, 1);
    ck_assert_uint_ne(answer(1, &number, 10000), 0);
    ck_assert_uint_eq(number, 2);
    ck_assert(from_control(CONTROL_CONNECT, 10000));
    ask(0, 3); /* meanwhile */
    expect_answer(0, STORE_FAILED, 3);
    close(store);
    greet();
    ck_assert_uint_eq(totals().workers, 2);
    works(1);
}
END_TEST

START_TEST(an_answer_without_end)
{
    static char text[65536];
    bool ended = false;

    memset(text, 'x', sizeof(text));
    ask(0, 1);
    store_hears(GET_OF);
    store_says("$400000000\r\n");
    for (int i = 0; i < 100 && !ended; i++)
        ended = send(store, text, sizeof(text), MSG_NOSIGNAL) == -1;
    ck_assert_msg(ended, "it takes all");
    expect_answer(0, STORE_FAILED, 1);
    ck_assert(from_control(CONTROL_CONNECT, 10000));
    close(store);
    greet();
    works(0);
}
END_TEST

START_TEST(values_of_wrong_sizes_are_missing)
{
    static char text[6000];

    for (int i = 0; i < 2; i++) {
        size_t size = i == 0 ? 0 : STORE_ENTRY_MAX + 1;
        int head = snprintf(text, sizeof(text), "$%zu\r\n", size);

        memset(text + head, 'x', size);
        snprintf(text + head + size, sizeof(text) - (size_t)head - size, "\r\n");
        ask(0, 9);
        store_hears(GET_OF ZEROS "\r\n");
        store_says(text);
        expect_answer(0, STORE_MISSING, 9);
    }
    works(0);
}
END_TEST

START_TEST(a_store_that_is_silent)
{
    ask(0, 1);
    ask(1, 2);
    expect_answer(0, STORE_FAILED, 1); /* in a second or so */
    expect_answer(1, STORE_FAILED, 2);
    ck_assert_uint_eq(totals().store.usable, 0);
    ck_assert(from_control(CONTROL_CONNECT, 10000));
    close(store);
    connect_it(); /* not a word to the greeting either */
    ck_assert(from_control(CONTROL_CONNECT, 10000));
    close(store);
    greet();
    works(0);
}
END_TEST

START_TEST(a_connection_that_there_is_not)
{
    const struct control_no_connection none = {.reason = 111};
    uint8_t body[2];

    close(store);
    for (int i = 0; i < 3; i++) {
        ck_assert(from_control(CONTROL_CONNECT, 10000));
        to_control(CONTROL_NO_CONNECTION, body, control_put_no_connection(&none, body, 2), -1);
    }
    ck_assert(from_control(CONTROL_CONNECT, 10000));
    greet();
    works(0);
}
END_TEST

/* More questions than a handshaker may have: the rest is told so at once. */
START_TEST(who_asks_too_much_costs_nobody_else)
{
    unsigned failed = 0;
    uint32_t number;

    for (uint32_t i = 0; i < STORE_LOOKUPS_MAX + 10; i++)
        ask(0, i);
    while (failed < 10 && answer(0, &number, 10000) == STORE_FAILED)
        failed++;
    ck_assert_uint_eq(failed, 10);
    ask(1, 1000);
    for (uint32_t i = 0; i < STORE_LOOKUPS_MAX + 1; i++) {
        store_hears(GET_OF ZEROS "\r\n");
        store_says("$-1\r\n");
    }
    expect_answer(1, STORE_MISSING, 1000);
    works(1);
}
END_TEST

/* A store that does not read: the queue is bounded, and what does not fit is dropped. */
START_TEST(a_store_that_does_not_read)
{
    for (int i = 0; i < 2000; i++)
        put(0, STORE_ENTRY_MAX);
    ck_assert_uint_gt(totals().store.dropped, 500);
    ck_assert(from_control(CONTROL_CONNECT, 10000)); /* given up after a second */
    close(store);
    greet();
    works(1);
}
END_TEST

START_TEST(bad_messages_cost_their_channel)
{
    static uint8_t body[CHANNEL_BODY_MAX];
    static const struct {
        uint16_t type;
        size_t size;
    } bad[] = {
        {STORE_GET, 35},
        {STORE_GET, 37},
        {STORE_PUT, STORE_NAME_SIZE + 6},
        {STORE_PUT, STORE_NAME_SIZE + 7 + STORE_ENTRY_MAX},
        {STORE_PUT, CHANNEL_BODY_MAX},
        {STORE_FOUND, 20},
        {99, 0},
    };

    ask(0, 5); /* an answer for who is gone when it comes */
    store_hears(GET_OF ZEROS "\r\n");
    ck_assert_int_eq(channel_send(clients[0], bad[_i].type, body, bad[_i].size, NULL, 0),
                     CHANNEL_OK);
    ck_assert_int_eq(channel_receive_wait(clients[0], store_handshaker_rules,
                                          store_handshaker_rule_count, buffer, sizeof(buffer),
                                          &message, NULL, 10000),
                     CHANNEL_CLOSED);
    store_says("$3\r\nold\r\n");
    works(1);
    ck_assert_uint_eq(totals().workers, 1);
}
END_TEST

START_TEST(malformed_entries_are_dropped)
{
    uint8_t body[STORE_NAME_SIZE + 7] = {0};

    body[STORE_NAME_SIZE + 5] = 1; /* one byte, for no time at all */
    ck_assert_int_eq(channel_send(clients[0], STORE_PUT, body, sizeof(body), NULL, 0), CHANNEL_OK);
    memset(body + STORE_NAME_SIZE, 0xff, 4); /* for ever */
    ck_assert_int_eq(channel_send(clients[0], STORE_PUT, body, sizeof(body), NULL, 0), CHANNEL_OK);
    works(0);
    ck_assert_uint_eq(totals().store.dropped, 2);
}
END_TEST

START_TEST(password_and_database)
{
    const struct control_store settings = {
        .has_password = 1, .database = 7, .user = "fleet", .name = "127.0.0.1"};
    char text[4096];
    ssize_t size;

    start(&settings, "secret word\nmore\n");
    connect_it();
    store_hears("*3\r\n$4\r\nAUTH\r\n$5\r\nfleet\r\n$11\r\nsecret word\r\n");
    store_hears("*2\r\n$6\r\nSELECT\r\n$1\r\n7\r\n" PROBE);
    store_says("-WRONGPASS no \033[2J\r\n");
    ck_assert(from_control(CONTROL_CONNECT, 10000));
    close(store);
    connect_it();
    store_hears("*3\r\n");
    store_says("+OK\r\n+OK\r\n$-1\r\n");
    ck_assert_int_gt(recv(store, text, sizeof(text), 0), 0);
    add_clients();
    works(0);
    size = pread(log_fd, text, sizeof(text) - 1, 0);
    ck_assert_int_gt(size, 0);
    text[size] = '\0';
    ck_assert_msg(strstr(text, "it refuses: WRONGPASS") != NULL, "%s", text);
    ck_assert_msg(strstr(text, "secret") == NULL && strchr(text, '\033') == NULL, "%s", text);
    tear_down();
}
END_TEST

int
main(int argc, char **argv)
{
    const struct role_args args = {.name = "fetcher",
                                   .log_level = 2,
                                   .cpu = -1,
                                   .uid = getuid() == 0 ? 65534 : getuid(),
                                   .gid = getuid() == 0 ? 65534 : getgid()};
    Suite *suite = suite_create("fetcher");
    TCase *tcase = tcase_create("misbehaviour"), *plain = tcase_create("start");
    SRunner *runner;
    int failed;

    if (argc == 2 && strcmp(argv[1], "fetcher") == 0)
        fetcher_main(&args);
    tcase_set_timeout(tcase, 60);
    tcase_set_timeout(plain, 60);
    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_add_test(tcase, questions_and_answers);
    tcase_add_loop_test(tcase, a_store_that_sends_nonsense, 0,
                        sizeof(nonsense) / sizeof(nonsense[0]));
    tcase_add_test(tcase, an_answer_without_end);
    tcase_add_test(tcase, values_of_wrong_sizes_are_missing);
    tcase_add_test(tcase, a_store_that_is_silent);
    tcase_add_test(tcase, a_connection_that_there_is_not);
    tcase_add_test(tcase, who_asks_too_much_costs_nobody_else);
    tcase_add_test(tcase, a_store_that_does_not_read);
    tcase_add_loop_test(tcase, bad_messages_cost_their_channel, 0, 7);
    tcase_add_test(tcase, malformed_entries_are_dropped);
    tcase_add_test(plain, password_and_database);
    suite_add_tcase(suite, tcase);
    suite_add_tcase(suite, plain);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
