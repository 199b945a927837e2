/*
 * test_fetch.c: the supervisor and a fetcher that misbehaves: it is replaced, and nothing else
 * happens. This program, executed again as a fetcher, plays it; its uid on the command line says
 * which fault it has.
 */
#include <check.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent/fetch.h"
#include "agent/log.h"
#include "agent/roles.h"
#include "agent/spawn.h"

enum fault {
    GOOD,
    WRONG_BUILD,
    WRONG_ROLE,
    READY_BEFORE_HELLO,
    PONG_UNASKED,
    FOREIGN_MESSAGE,
    WITH_FD,
    WANTS_TOO_MUCH,
    NO_PONG,
    LEAVES,
    FAULTS,
};

/* ---- the fetcher ---- */

static void
send_control(uint16_t type, const void *body, size_t size)
{
    if (channel_send_wait(ROLE_FD_CONTROL, type, body, size, NULL, 0, 5000) != CHANNEL_OK)
        _exit(0);
}

static void
commit_fault(enum fault fault)
{
    const struct control_pong pong = {.number = 1};
    uint8_t body[256];
    int fd = STDERR_FILENO;

    switch (fault) {
    case PONG_UNASKED:
        send_control(CONTROL_PONG, body, control_put_pong(&pong, body, sizeof(body)));
        break;
    case FOREIGN_MESSAGE:
        send_control(CONTROL_TICKETS_TAKEN, NULL, 0);
        break;
    case WITH_FD:
        (void)channel_send(ROLE_FD_CONTROL, CONTROL_CONNECT, NULL, 0, &fd, 1);
        break;
    case WANTS_TOO_MUCH: /* one at once, one after a while; the third is out of turn */
        for (int i = 0; i < 3; i++)
            send_control(CONTROL_CONNECT, NULL, 0);
        break;
    case LEAVES:
        _exit(3);
    default:
        break;
    }
}

/* Asks for a connection whenever it has one, says a byte on each, and answers PINGs. */
static void __attribute__((noreturn)) serve(bool answers)
{
    static uint8_t buffer[CHANNEL_BUFFER_SIZE];

    for (;;) {
        struct channel_message message;
        struct control_ping ping;
        struct control_pong pong = {0};
        struct error error = {""};
        uint8_t body[256];

        if (channel_receive_wait(ROLE_FD_CONTROL, control_fetcher_rules, control_fetcher_rule_count,
                                 buffer, sizeof(buffer), &message, &error, -1) != CHANNEL_OK)
            _exit(0);
        if (message.type == CONTROL_PING && answers) {
            if (!control_get_ping(&ping, message.body, message.size))
                _exit(4);
            pong.number = ping.number;
            send_control(CONTROL_PONG, body, control_put_pong(&pong, body, sizeof(body)));
        }
        if (message.type == CONTROL_CONNECTION || message.type == CONTROL_NO_CONNECTION) {
            if (message.type == CONTROL_CONNECTION && write(message.fds[0], "x", 1) != 1)
                _exit(5);
            send_control(CONTROL_CONNECT, NULL, 0);
        }
        channel_message_clear(&message);
    }
}

static void __attribute__((noreturn)) play(enum fault fault)
{
    struct control_hello hello = {.role = CONTROL_FETCHER};
    const struct control_ready ready = {0};
    uint8_t body[256];
    struct pollfd settings = {.fd = ROLE_FD_CONTROL, .events = POLLIN};

    snprintf(hello.build, sizeof(hello.build), "%s", fault == WRONG_BUILD ? "0" : role_build_id);
    if (fault == WRONG_ROLE)
        hello.role = CONTROL_KEEPER;
    if (fault != READY_BEFORE_HELLO)
        send_control(CONTROL_HELLO, body, control_put_hello(&hello, body, sizeof(body)));
    else
        send_control(CONTROL_READY, body, control_put_ready(&ready, body, sizeof(body)));
    (void)poll(&settings, 1, 5000);
    send_control(CONTROL_READY, body, control_put_ready(&ready, body, sizeof(body)));
    commit_fault(fault);
    if (fault == GOOD)
        send_control(CONTROL_CONNECT, NULL, 0);
    serve(fault != NO_PONG);
}

/* ---- the supervisor ---- */

static char directory[] = "/tmp/test_fetch.XXXXXX";
static char text[] = "unix:the-test's";
static char name[] = "";
static struct config_store store = {.text = text, .name = name, .wait_ms = 50};
static struct config config = {.fleet_store = &store, .cell_group_count = 1};
static struct cells cells;
static struct loop *loop;
static struct fetch fetch;
static unsigned ups, downs;
static char last_why[ERROR_TEXT_MAX];

static void
is_up(void *data)
{
    (void)data;
    ups++;
}

static void
is_down(const char *why, void *data)
{
    (void)data;
    downs++;
    snprintf(last_why, sizeof(last_why), "%s", why);
}

static void
begin(enum fault fault)
{
    const struct fetch_hooks hooks = {is_up, is_down, NULL};
    struct error error = {""};

    log_init("test", LOG_LEVEL_ERROR, 0);
    ck_assert_int_eq(spawn_init(&error), 0);
    config.uid = (uid_t)fault;
    loop = loop_new();
    cells.loop = loop;
    cells.config = &config;
    cells.buffer = malloc(CHANNEL_BUFFER_SIZE);
    fetch_init(&fetch, loop, &config, &cells, &hooks);
    fetch_start(&fetch);
}

static void
end(void)
{
    pid_t pid = fetch.pid;

    fetch_stop(&fetch);
    if (pid > 0)
        waitpid(pid, NULL, 0);
    free(cells.buffer);
}

/* As signals_ready() of the supervisor does. */
static void
reap(void)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        (void)fetch_reaped(&fetch, pid, status);
}

START_TEST(a_fault_costs_the_fetcher)
{
    static const char *const words[FAULTS] = {
        [WRONG_BUILD] = "is of another build",
        [WRONG_ROLE] = "sent a wrong HELLO",
        [READY_BEFORE_HELLO] = "sent a wrong READY",
        [PONG_UNASKED] = "sent a PONG that nobody asked for",
        [FOREIGN_MESSAGE] = "sent a message that is not its own",
        [WITH_FD] = "fd",
        [WANTS_TOO_MUCH] = "asks for connections out of turn",
        [NO_PONG] = "has not answered",
        [LEAVES] = "ended with status 3",
    };

    begin((enum fault)_i);
    while (downs < (_i == NO_PONG ? 1 : 3)) { /* again and again, more and more slowly */
        loop_round(loop);
        reap();
    }
    ck_assert_msg(strstr(last_why, words[_i]) != NULL, "%s", last_why);
    ck_assert_uint_eq(fetch.restarts, downs);
    ck_assert(!fetch_up(&fetch));
    ck_assert_uint_eq(fetch.wait_ms, CELLS_BACKOFF_MIN_MS << downs);
    end();
}
END_TEST

START_TEST(connections_are_made_for_it_but_not_too_many)
{
    struct sockaddr_un *address = (struct sockaddr_un *)&store.address;
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), accepted = 0, fd;
    struct timespec start, now;
    char byte;

    ck_assert_ptr_nonnull(mkdtemp(directory));
    address->sun_family = AF_UNIX;
    snprintf(address->sun_path, sizeof(address->sun_path), "%s/store", directory);
    store.address_size = sizeof(*address);
    ck_assert_int_eq(bind(listener, (struct sockaddr *)address, sizeof(*address)), 0);
    ck_assert_int_eq(listen(listener, 64), 0);
    begin(GOOD);
    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        loop_round(loop);
        while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) != -1) {
            ck_assert_int_eq(read(fd, &byte, 1), 1);
            close(fd);
            accepted++;
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec - start.tv_sec < 3);
    printf("%d connections in 3 seconds\n", accepted);
    ck_assert_int_ge(accepted, 3);
    ck_assert_int_le(accepted, 31);
    ck_assert(ups == 1 && downs == 0 && fetch_up(&fetch));
    ck_assert_uint_gt(fetch.pong.number, 0);
    /* Nobody listens any more: it is told so, and lives. */
    close(listener);
    unlink(address->sun_path);
    for (int i = 0; i < 10; i++)
        loop_round(loop);
    ck_assert_uint_eq(downs, 0);
    rmdir(directory);
    end();
}
END_TEST

int
main(int argc, char **argv)
{
    Suite *suite = suite_create("fetch");
    TCase *tcase = tcase_create("fetch");
    enum control_role role;
    struct role_args args;
    SRunner *runner;
    int failed;

    if (spawn_parse(argc, argv, &role, &args))
        play((enum fault)args.uid);
    tcase_set_timeout(tcase, 30);
    tcase_add_loop_test(tcase, a_fault_costs_the_fetcher, WRONG_BUILD, FAULTS);
    tcase_add_test(tcase, connections_are_made_for_it_but_not_too_many);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
