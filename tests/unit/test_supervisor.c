/*
 * test_supervisor.c: the supervisor's parts against roles and workers that misbehave.
 *
 * Cells are real processes: spawn_role() executes this very program, whose main() then plays a
 * keeper or a handshaker. Which fault it plays is in the cell number of its command line.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/cell_control.h"
#include "agent/cells.h"
#include "agent/greet.h"
#include "agent/hang_up.h"
#include "agent/listen.h"
#include "agent/log.h"
#include "agent/roles.h"
#include "agent/spawn.h"
#include "agent/watchdog.h"

/* What the handshaker of a cell does; its keeper is always good. */
enum fault {
    GOOD,
    WRONG_BUILD,
    WRONG_ROLE,
    READY_BEFORE_HELLO,
    WRONG_GENERATION,
    PONG_UNASKED,
    FOREIGN_COUNTERS,
    UNKNOWN_TYPE,
    TOO_SHORT,
    WITH_FD,
    WITH_LINGERING_FD,
    LEAVES,
    READS_NOTHING,
    FAULTS,
};

#define GENERATION 5
#define SERVED     1234 /* a uid whose channel the handshaker has got */
#define STRANGER   5678
#define LISTENERS  1000 /* more than a channel has room for */

/* ---- the fake roles (children) ---- */

static void
send_message(uint16_t type, const void *body, size_t size)
{
    if (channel_send(ROLE_FD_CONTROL, type, body, size, NULL, 0) != CHANNEL_OK)
        _exit(1);
}

static void
receive_message(const struct channel_rule *rules, size_t count, struct channel_message *message)
{
    static uint8_t buffer[CHANNEL_BUFFER_SIZE];
    struct error error = {""};

    if (channel_receive_wait(ROLE_FD_CONTROL, rules, count, buffer, sizeof(buffer), message, &error,
                             -1) != CHANNEL_OK)
        _exit(0); /* the supervisor is gone */
}

/* Send a socket whose last close() waits for a minute; we keep nothing of it. */
static void
send_lingering(int channel)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct linger minute = {1, 60};
    socklen_t size = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0);
    static char data[65536];

    if (bind(listener, (struct sockaddr *)&address, size) == -1 || listen(listener, 1) == -1 ||
        getsockname(listener, (struct sockaddr *)&address, &size) == -1 ||
        connect(fd, (struct sockaddr *)&address, size) == -1)
        _exit(4);
    while (send(fd, data, sizeof(data), MSG_DONTWAIT) > 0)
        continue;
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &minute, sizeof(minute));
    (void)channel_send(channel, CONTROL_READY, "\0\0\0\5\0\0\0\0", 8, &fd, 1);
    (void)channel_send(channel, CONTROL_READY, "\0\0\0\5\0\0\0\0", 8, &fd, 1);
    close(fd); /* the peer stays, in the queue of listener, when this process ends too */
    if (fork() == 0) {
        close(channel);
        alarm(20);
        pause();
    }
    close(listener);
}

/* Say whom we serve, and be silent for ever. */
static void __attribute__((noreturn)) accuse(int page, uint32_t uid)
{
    struct error error = {""};
    struct serving *serving = serving_map(page, &error);

    if (serving == NULL)
        _exit(5);
    serving_set(serving, serving_mark(uid, 99));
    for (;;)
        pause();
}

static void
commit_fault(enum fault fault)
{
    struct control_context_counters counters = {.context = 1}; /* of the other group */
    struct control_pong pong = {.number = 1};
    uint8_t body[512];
    int fd = STDERR_FILENO;

    switch (fault) {
    case PONG_UNASKED:
        send_message(CONTROL_PONG, body, control_put_pong(&pong, body, sizeof(body)));
        break;
    case FOREIGN_COUNTERS:
        send_message(CONTROL_CONTEXT_COUNTERS, body,
                     control_put_context_counters(&counters, body, sizeof(body)));
        break;
    case UNKNOWN_TYPE:
        send_message(4242, "", 0);
        break;
    case TOO_SHORT:
        send_message(CONTROL_PONG, "x", 1);
        break;
    case WITH_FD:
        (void)channel_send(ROLE_FD_CONTROL, CONTROL_READY, "\0\0\0\5\0\0\0\0", 8, &fd, 1);
        break;
    case WITH_LINGERING_FD:
        send_lingering(ROLE_FD_CONTROL);
        break;
    case LEAVES:
        _exit(3);
    default:
        break;
    }
}

static void __attribute__((noreturn))
play_role(enum control_role role, const struct role_args *args)
{
    enum fault fault = role == CONTROL_HANDSHAKER ? (enum fault)args->cell : GOOD;
    bool keeper = role == CONTROL_KEEPER;
    const struct channel_rule *rules = keeper ? control_keeper_rules : control_handshaker_rules;
    size_t count = keeper ? control_keeper_rule_count : control_handshaker_rule_count;
    struct control_hello hello = {.role = (uint8_t)role};
    struct control_ready ready = {.generation = GENERATION};
    struct channel_message message;
    struct control_ping ping;
    struct control_worker worker;
    uint8_t body[512];
    int page = -1;

    snprintf(hello.build, sizeof(hello.build), "%s", fault == WRONG_BUILD ? "0" : role_build_id);
    if (fault == WRONG_ROLE)
        hello.role = CONTROL_KEEPER;
    if (fault == WRONG_GENERATION)
        ready.generation++;
    if (fault != READY_BEFORE_HELLO)
        send_message(CONTROL_HELLO, body, control_put_hello(&hello, body, sizeof(body)));
    else
        send_message(CONTROL_READY, body, control_put_ready(&ready, body, sizeof(body)));
    while (fault == READS_NOTHING)
        pause();
    receive_message(rules, count, &message);
    if (message.type != (keeper ? CONTROL_SECRET : CONTROL_PUBLIC) || message.fd_count != 1)
        _exit(2);
    channel_message_clear(&message);
    send_message(CONTROL_READY, body, control_put_ready(&ready, body, sizeof(body)));
    commit_fault(fault);
    for (;;) {
        struct control_pong pong = {.signatures = 7};

        receive_message(rules, count, &message);
        if (message.type == CONTROL_SERVING)
            page = channel_take_fd(&message, 0);
        if (message.type == CONTROL_WORKER &&
            control_get_worker(&worker, message.body, message.size) && worker.group_count == 1)
            accuse(page, worker.groups[0]); /* what the test wants to hear */
        channel_message_clear(&message);
        if (message.type != CONTROL_PING || !control_get_ping(&ping, message.body, message.size))
            continue;
        pong.number = ping.number;
        if (!keeper) {
            struct control_context_counters counters = {.context = 0, .started = 10, .full = 9};

            send_message(CONTROL_CONTEXT_COUNTERS, body,
                         control_put_context_counters(&counters, body, sizeof(body)));
        }
        send_message(CONTROL_PONG, body, control_put_pong(&pong, body, sizeof(body)));
    }
}

/* ---- cells ---- */

static struct config_context contexts[2] = {{.name = (char[]){"www"}, .cell_group = 0},
                                            {.name = (char[]){"mail"}, .cell_group = 1}};
static struct config config = {.file = (char[]){"/test.conf"},
                               .log_level = LOG_LEVEL_ERROR,
                               .contexts = contexts,
                               .context_count = 2,
                               .cell_group_count = 1,
                               .max_channels = 4,
                               .max_greetings = 50};
static struct load_result generation;
static struct loop *loop;
static struct cells cells;
static unsigned ups[FAULTS], downs[FAULTS];
static char last_why[FAULTS][ERROR_TEXT_MAX];
static bool answered;
static uint32_t frozen_by;
static struct listen_socket listeners[LISTENERS];

static void
on_up(struct cell *cell, void *data)
{
    (void)data;
    ups[cell->number]++;
}

static void
on_down(struct cell *cell, const char *why, void *data)
{
    (void)data;
    downs[cell->number]++;
    snprintf(last_why[cell->number], ERROR_TEXT_MAX, "%s", why);
}

static void
on_answered(void *data)
{
    (void)data;
    answered = true;
}

static void
on_frozen(uint32_t uid, uint32_t pid, void *data)
{
    (void)data;
    ck_assert_uint_eq(pid, 99);
    frozen_by = uid;
}

static void
make_cells(unsigned count, size_t listener_count)
{
    static const struct cells_hooks hooks = {on_up, on_down, on_answered, on_frozen, NULL};
    struct error error = {""};

    log_init("test", LOG_LEVEL_ERROR, 0);
    signal(SIGPIPE, SIG_IGN);
    ck_assert_int_eq(spawn_init(&error), 0);
    config.cells = count;
    generation.generation = GENERATION;
    generation.public_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    generation.secret_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    for (size_t i = 0; i < LISTENERS; i++)
        listeners[i].fd = generation.public_fd;
    loop = loop_new();
    cells_init(&cells, loop, &config, &generation, listeners, listener_count, &hooks);
}

static void
start_cells(unsigned count, size_t listener_count)
{
    make_cells(count, listener_count);
    cells_start(&cells);
}

/* Rounds of the loop until done() or the test's time is up. */
#define RUN_UNTIL(condition)                                                                       \
    do {                                                                                           \
        loop_round(loop);                                                                          \
    } while (!(condition))

static bool
all_faults_seen(void)
{
    for (unsigned i = 1; i < FAULTS; i++) {
        if (downs[i] == 0)
            return false;
    }
    return ups[GOOD] > 0;
}

START_TEST(each_fault_costs_its_own_cell_only)
{
    static const char *const reasons[FAULTS] = {
        [WRONG_BUILD] = "another build",      [WRONG_ROLE] = "wrong HELLO",
        [READY_BEFORE_HELLO] = "wrong READY", [WRONG_GENERATION] = "wrong READY",
        [PONG_UNASKED] = "nobody asked for",  [FOREIGN_COUNTERS] = "not its own",
        [UNKNOWN_TYPE] = "not allowed",       [TOO_SHORT] = "bytes long",
        [WITH_FD] = "carries an fd",          [WITH_LINGERING_FD] = "carries an fd",
        [LEAVES] = "ended with status 3",     [READS_NOTHING] = "not ready after 10",
    };
    uint64_t longest = 0;

    start_cells(FAULTS, LISTENERS);
    while (!all_faults_seen()) {
        uint64_t before;

        loop_round(loop);
        before = loop_now(loop); /* when it woke up; the next round says when it was done */
        watchdog_ping(&cells);
        loop_round(loop);
        if (ups[GOOD] > 0 && loop_now(loop) - before > longest)
            longest = loop_now(loop) - before;
    }
    printf("the longest round took %llu ms\n", (unsigned long long)longest);
    ck_assert_uint_lt(longest, 1500); /* nobody makes the supervisor wait */
    for (unsigned i = 1; i < FAULTS; i++)
        ck_assert_msg(strstr(last_why[i], reasons[i]) != NULL, "fault %u: \"%s\"", i, last_why[i]);
    ck_assert_uint_eq(ups[GOOD], 1);
    ck_assert_uint_eq(downs[GOOD], 0);
    cells_stop(&cells);
}
END_TEST

/* The kernel counts the descriptors on their way by user, and stops a plain one. */
START_TEST(too_many_descriptors_on_their_way_cost_no_cell)
{
    static const struct rlimit few = {100, 100};
    struct cell *cell;
    uint8_t buffer[16];
    int pair[2];

    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
    if (geteuid() == 0)
        ck_assert(setresgid(61234, 61234, 61234) == 0 && setresuid(61234, 61234, 61234) == 0);
    start_cells(1, LISTENERS);
    cell = &cells.list[GOOD];
    while (downs[GOOD] == 0 && (ups[GOOD] == 0 || cell->handshaker.handed < 3 + LISTENERS)) {
        loop_round(loop);
        watchdog_ping(&cells);
    }
    ck_assert_msg(downs[GOOD] == 0, "%s", last_why[GOOD]);
    ck_assert_uint_eq(ups[GOOD], 1);
    watchdog_ping(&cells);
    RUN_UNTIL(watchdog_answered(&cells)); /* they have read all */

    /* New ticket keys while nothing can be sent: the keeper gets them when it can. */
    ck_assert_int_eq(channel_pair(pair), 0);
    while (channel_send(pair[0], CONTROL_TICKETS, NULL, 0, &pair[0], 1) == CHANNEL_OK)
        ;
    ck_assert_int_eq(errno, ETOOMANYREFS);
    cell_control_pass_tickets(&cells, 0);
    ck_assert(cell->keeper.misses_tickets);
    watchdog_ping(&cells);
    ck_assert(cell->keeper.misses_tickets);
    while (recv(pair[1], buffer, sizeof(buffer), MSG_DONTWAIT) != -1)
        ;
    watchdog_ping(&cells);
    ck_assert(!cell->keeper.misses_tickets);
    ck_assert_msg(downs[GOOD] == 0, "%s", last_why[GOOD]);
    close(pair[0]);
    close(pair[1]);
    cells_stop(&cells);
}
END_TEST

/* Deaths in a row: at once, then after 100 ms, 200 ms, ... */
START_TEST(fast_deaths_are_replaced_more_and_more_slowly)
{
    uint64_t start, waited;

    start_cells(1, 0);
    RUN_UNTIL(ups[0] == 1);
    for (unsigned i = 1; i <= 4; i++) {
        kill(cells.list[0].handshaker.pid, SIGKILL);
        loop_round(loop);
        start = loop_now(loop);
        RUN_UNTIL(ups[0] == i + 1);
        waited = loop_now(loop) - start;
        if (i == 1)
            ck_assert_uint_lt(waited, 1000);
        if (i == 4)
            ck_assert_uint_ge(waited, 350); /* 400, less what the clock had moved already */
    }
    ck_assert_uint_eq(cells.list[0].restarts, 4);
    cells_stop(&cells);
}
END_TEST

START_TEST(death_takes_the_partner_along)
{
    pid_t keeper, handshaker;

    start_cells(1, 0);
    RUN_UNTIL(ups[0] == 1);
    keeper = cells.list[0].keeper.pid;
    handshaker = cells.list[0].handshaker.pid;
    kill(keeper, SIGKILL);
    RUN_UNTIL(ups[0] == 2);
    ck_assert_int_eq(waitpid(handshaker, NULL, 0), handshaker); /* ends, although it was well */
    ck_assert_int_ne(cells.list[0].keeper.pid, keeper);
    ck_assert_int_ne(cells.list[0].handshaker.pid, handshaker);
    cells_stop(&cells);
}
END_TEST

START_TEST(stalled_process_is_replaced)
{
    pid_t stalled;

    start_cells(1, 0);
    RUN_UNTIL(ups[0] == 1);
    stalled = cells.list[0].handshaker.pid;
    kill(stalled, SIGSTOP);
    RUN_UNTIL(ups[0] == 2);
    ck_assert(strstr(last_why[0], "has not answered") != NULL);
    ck_assert_int_eq(waitpid(stalled, NULL, 0), stalled);
    cells_stop(&cells);
}
END_TEST

/* A handshaker that got a channel of SERVED accuses a user, and is silent. */
static void
accused(uint32_t uid)
{
    struct control_worker worker = {.uid = SERVED, .group_count = 1, .groups = {uid}};
    int pair[2];

    start_cells(1, 0);
    RUN_UNTIL(ups[0] == 1);
    ck_assert_int_eq(channel_pair(pair), 0);
    ck_assert_int_eq(cell_control_pass_worker(&cells.list[0], &worker, pair[0]), CHANNEL_OK);
    RUN_UNTIL(ups[0] == 2);
    ck_assert(strstr(last_why[0], "has not answered") != NULL);
    cells_stop(&cells);
}

START_TEST(silent_handshaker_says_who_froze_it)
{
    accused(SERVED);
    ck_assert_uint_eq(frozen_by, SERVED);
}
END_TEST

START_TEST(who_was_not_served_cannot_be_accused)
{
    accused(STRANGER);
    ck_assert_uint_eq(frozen_by, 0);
}
END_TEST

START_TEST(bans_grow_end_and_are_forgotten)
{
    static struct bans bans;
    const uint64_t hour = BANS_LONGEST_S;
    uint64_t now = 5000;
    uint32_t expected = BANS_FIRST_S;

    ck_assert_uint_eq(bans_left(&bans, 7, false, now), 0);
    for (uint32_t times = 1; times < 12; times++) {
        const struct ban *ban = bans_add(&bans, 7, 70, false, now);

        ck_assert_ptr_nonnull(ban);
        ck_assert_uint_eq(ban->times, times);
        ck_assert_uint_eq(bans_left(&bans, 7, false, now), expected);
        ck_assert_uint_eq(bans_left(&bans, 8, false, now), 0);
        ck_assert_ptr_null(
            bans_add(&bans, 7, 70, false, now + 1)); /* another cell, the same moment */
        ck_assert_ptr_eq(bans_get(&bans, 0, now), ban);
        ck_assert_ptr_null(bans_get(&bans, 1, now));
        now += expected * UINT64_C(1000);
        ck_assert_uint_eq(bans_left(&bans, 7, false, now - 1), 1);
        ck_assert_uint_eq(bans_left(&bans, 7, false, now), 0);
        ck_assert_ptr_null(bans_get(&bans, 0, now));
        expected = 2 * expected < hour ? 2 * expected : (uint32_t)hour;
    }
    ck_assert(bans_remember(&bans, 7, now) && !bans_remember(&bans, 8, now));
    now += BANS_MEMORY_S * UINT64_C(1000);
    ck_assert(!bans_remember(&bans, 7, now));
    ck_assert_uint_eq(bans_add(&bans, 7, 70, false, now)->times, 1);
}
END_TEST

/* More users than there is room for, all of them at the same time. */
START_TEST(many_banned_users_keep_newcomers_out)
{
    enum { NAMED = 7, BANNED_NAMED = 8, NEWCOMER = 9, FIRST = 100, LAST = FIRST + BANS_MAX - 2 };
    static struct bans bans;
    uint64_t now = 5000;

    ck_assert_uint_eq(bans_add(&bans, BANNED_NAMED, 1, true, now)->times, 1);
    for (uint32_t uid = FIRST; uid <= LAST; uid++) /* the table is full now */
        ck_assert_uint_eq(bans_add(&bans, uid, 1, false, now + 1000 + uid)->times, 1);
    ck_assert_uint_eq(bans_left(&bans, NEWCOMER, false, now + 2000), 0);
    now += 2000;
    ck_assert_uint_eq(bans_add(&bans, 99, 1, false, now)->times, 2); /* the first one's in it */
    ck_assert_uint_eq(bans_left(&bans, 99, false, now), 2 * BANS_FIRST_S);
    ck_assert_uint_eq(bans_left(&bans, BANNED_NAMED, true, now), BANS_FIRST_S - 2);
    ck_assert_uint_gt(bans_left(&bans, FIRST, false, now), BANS_FIRST_S - 2);
    ck_assert_uint_gt(bans_left(&bans, NEWCOMER, false, now), BANS_FIRST_S - 2);
    ck_assert_uint_eq(bans_left(&bans, NAMED, true, now), 0);
    now += BANS_FIRST_S * 1000;
    ck_assert_uint_eq(bans_left(&bans, NEWCOMER, false, now), 0);
    ck_assert_uint_eq(bans_left(&bans, 99, false, now), BANS_FIRST_S);
}
END_TEST

/* As many at once as one, if nobody has named them. */
START_TEST(many_callers_share_what_few_have)
{
    static uid_t users[] = {33, 33, 34};
    static struct config_context one = {.users = users, .user_count = 3};
    const struct config named = {.contexts = &one, .context_count = 1};
    const unsigned per_second = 10, burst = 5;
    struct callers callers;
    unsigned taken = 0;

    callers_init(&callers, &named);
    ck_assert(callers_is_named(&callers, 33) && callers_is_named(&callers, 34));
    ck_assert(!callers_is_named(&callers, 35));
    for (uint32_t uid = 1000; uid < 3000; uid++) {
        for (unsigned i = 0; i <= burst; i++)
            taken += pace_take(callers_pace(&callers, uid), 1000, per_second, burst);
    }
    ck_assert_uint_eq(taken, CALLERS_PLACES * burst);
    for (unsigned i = 0; i < burst; i++) /* as if nobody else were there */
        ck_assert(pace_take(callers_pace(&callers, 33), 1000, per_second, burst));
    ck_assert(!pace_take(callers_pace(&callers, 33), 1000, per_second, burst));
    ck_assert(pace_take(callers_pace(&callers, 34), 1000, per_second, burst));
    ck_assert(pace_take(callers_pace(&callers, 5000), 1100, per_second, burst)); /* time goes on */
    free(callers.list);
}
END_TEST

START_TEST(counters_of_the_dead_are_kept)
{
    struct control_context_counters sum;

    start_cells(1, 0);
    RUN_UNTIL(ups[0] == 1);
    watchdog_ping(&cells);
    RUN_UNTIL(answered);
    cells_sum_counters(&cells, 0, &sum);
    ck_assert_uint_eq(sum.started, 10);
    kill(cells.list[0].handshaker.pid, SIGKILL);
    RUN_UNTIL(ups[0] == 2);
    cells_sum_counters(&cells, 0, &sum);
    ck_assert_uint_eq(sum.started, 10);
    answered = false;
    watchdog_ping(&cells);
    RUN_UNTIL(answered);
    cells_sum_counters(&cells, 0, &sum);
    ck_assert_uint_eq(sum.started, 20);
    ck_assert_uint_eq(sum.full, 18);
    ck_assert_uint_eq(cells.list[0].keeper.pong.signatures, 7);
    cells_stop(&cells);
}
END_TEST

/* ---- workers ---- */

START_TEST(who_may_use_a_context)
{
    static uid_t users[] = {33, 65534};
    static gid_t groups[] = {100, 65534};
    const struct config_context context = {
        .users = users, .user_count = 2, .groups_allowed = groups, .group_allowed_count = 2};
    static const struct {
        struct control_worker worker;
        bool allowed;
    } cases[] = {
        {{.uid = 33, .gid = 1}, true},
        {{.uid = 34, .gid = 100}, true},
        {{.uid = 34, .gid = 1, .group_count = 2, .groups = {5, 100}}, true},
        {{.uid = 34, .gid = 1, .group_count = 1, .groups = {5, 100}}, false},
        {{.uid = 34, .gid = 1}, false},
        {{.uid = 0, .gid = 0}, false},         /* root gets nothing for free */
        {{.uid = 65534, .gid = 65534}, false}, /* unmapped: could be anybody */
        {{.uid = 34, .gid = 1, .group_count = 1, .groups = {65534}}, false},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        ck_assert_msg(greet_context_allows(&context, &cases[i].worker) == cases[i].allowed,
                      "case %zu", i);
}
END_TEST

static char directory[] = "/tmp/tlsagent-test-XXXXXX";
static char path[100];

static int
connect_to(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", name);
    ck_assert_int_eq(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static uint16_t
receive_type(int fd, int *channel)
{
    static uint8_t buffer[CHANNEL_BUFFER_SIZE];
    struct channel_message message;
    struct error error = {""};

    if (channel_receive(fd, service_greeting_rules, service_greeting_rule_count, buffer,
                        sizeof(buffer), &message, &error) != CHANNEL_OK)
        return 0;
    if (message.fd_count == 1)
        *channel = channel_take_fd(&message, 0);
    return message.type;
}

START_TEST(greeting_new_channel_limit_and_silence)
{
    static struct greet greet;
    static uid_t me;
    struct listen_unix listener;
    struct error error = {""};
    int workers[5], channel = -1;

    me = geteuid();
    contexts[0].users = &me;
    contexts[0].user_count = 1;
    ck_assert_ptr_nonnull(mkdtemp(directory));
    snprintf(path, sizeof(path), "%s/new/socket", directory); /* its directory is made */
    ck_assert_int_eq(listen_open_unix(path, "socket", 0666, &listener, &error), 0);
    start_cells(1, 0);
    greet_init(&greet, listener.fd, loop, &config, &cells);
    RUN_UNTIL(ups[0] == 1);
    for (int i = 0; i < 5; i++) {
        workers[i] = connect_to(path);
        loop_round(loop);
    }
    RUN_UNTIL(greet.denied == 1); /* max_channels is 4 */
    ck_assert_uint_eq(receive_type(workers[4], &channel), SERVICE_DENIED);
    ck_assert_uint_eq(receive_type(workers[0], &channel), SERVICE_WELCOME);
    ck_assert_uint_eq(receive_type(workers[0], &channel), SERVICE_CONTEXT);
    ck_assert_uint_eq(receive_type(workers[0], &channel), SERVICE_CHANNEL);
    ck_assert_int_ne(channel, -1);
    close(channel);
    ck_assert_uint_eq(receive_type(workers[0], &channel), 0);
    kill(cells.list[0].keeper.pid, SIGKILL); /* a new cell: its channel is pushed */
    RUN_UNTIL(ups[0] == 2);
    greet_cell_up(&greet, &cells.list[0]); /* what the supervisor's hook does */
    ck_assert_uint_eq(receive_type(workers[0], &channel), SERVICE_CHANNEL);
    ck_assert_uint_eq(greet.worker_count, 4);
    ck_assert_int_eq(send(workers[1], "x", 1, 0), 1); /* nothing may be said */
    close(workers[2]);
    RUN_UNTIL(greet.worker_count == 2);
    cells_stop(&cells);
    listen_remove_unix(&listener);
    ck_assert_int_eq(access(path, F_OK), -1);
    *strrchr(path, '/') = '\0';
    ck_assert_int_eq(rmdir(path), 0);
    ck_assert_int_eq(rmdir(directory), 0);
}
END_TEST

/* Number of the cell of the next CHANNEL; -1: there is none. */
static int
next_channel(int fd)
{
    static uint8_t buffer[CHANNEL_BUFFER_SIZE];
    struct service_channel said = {0};
    struct channel_message message;
    struct error error = {""};

    while (channel_receive(fd, service_greeting_rules, service_greeting_rule_count, buffer,
                           sizeof(buffer), &message, &error) == CHANNEL_OK) {
        bool found = message.type == SERVICE_CHANNEL &&
                     service_get_channel(&said, message.body, message.size);

        channel_message_clear(&message);
        if (found)
            return said.cell;
    }
    return -1;
}

START_TEST(who_froze_a_cell_gets_one_cell_afterwards)
{
    enum { CELLS = 3 };
    static struct greet greet;
    static uid_t me;
    struct listen_unix listener;
    struct error error = {""};
    int ends[CELLS][2], worker, mine;

    me = geteuid();
    mine = (int)(me % CELLS);
    contexts[0].users = &me;
    contexts[0].user_count = 1;
    ck_assert_ptr_nonnull(mkdtemp(directory));
    snprintf(path, sizeof(path), "%s/socket", directory);
    ck_assert_int_eq(listen_open_unix(path, "socket", 0666, &listener, &error), 0);
    make_cells(CELLS, 0);
    for (int i = 0; i < CELLS; i++) { /* handshakers that only listen */
        ck_assert_int_eq(channel_pair(ends[i]), 0);
        cells.list[i].state = CELL_UP;
        cells.list[i].handshaker.watch.fd = ends[i][0];
    }
    greet_init(&greet, listener.fd, loop, &config, &cells);
    worker = connect_to(path);
    RUN_UNTIL(greet.worker_count == 1);
    for (int i = 0; i < CELLS; i++)
        ck_assert_int_eq(next_channel(worker), i);
    ck_assert_int_eq(next_channel(worker), -1);
    greet_ban(&greet, me, 1);
    ck_assert_uint_eq(greet.worker_count, 0);
    close(worker);
    close(connect_to(path));
    RUN_UNTIL(greet.denied == 1);
    greet.bans.list[0].until = loop_now(loop); /* its time is over */
    worker = connect_to(path);
    RUN_UNTIL(greet.worker_count == 1);
    ck_assert_int_eq(next_channel(worker), mine);
    ck_assert_int_eq(next_channel(worker), -1);
    for (int i = 0; i < CELLS; i++) /* each as if it had been replaced */
        greet_cell_up(&greet, &cells.list[i]);
    ck_assert_int_eq(next_channel(worker), mine);
    ck_assert_int_eq(next_channel(worker), -1);
    listen_remove_unix(&listener);
    ck_assert_int_eq(rmdir(directory), 0);
}
END_TEST

/* ---- the Unix sockets ---- */

START_TEST(unix_socket_stale_live_and_in_the_way)
{
    struct listen_unix first, second;
    struct error error = {""};
    struct stat facts;
    int fd;

    ck_assert_ptr_nonnull(mkdtemp(directory));
    snprintf(path, sizeof(path), "%s/socket", directory);
    ck_assert_int_eq(listen_open_unix(path, "control_socket", 0600, &first, &error), 0);
    ck_assert_int_eq(stat(path, &facts), 0);
    ck_assert_uint_eq(facts.st_mode & 0777, 0600);
    ck_assert_int_eq(listen_open_unix(path, "socket", 0666, &second, &error), -1);
    ck_assert(strstr(error.text, "another agent is already running") != NULL);
    close(first.fd); /* as after kill -9: the file stays */
    error_clear(&error);
    ck_assert_int_eq(listen_open_unix(path, "socket", 0666, &second, &error), 0);
    ck_assert_int_eq(stat(path, &facts), 0);
    ck_assert_uint_eq(facts.st_mode & 0777, 0666);
    /* A file that is no longer ours stays. */
    ck_assert_int_eq(unlink(path), 0);
    fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    close(fd);
    listen_remove_unix(&second);
    ck_assert_int_eq(access(path, F_OK), 0);
    ck_assert_int_eq(listen_open_unix(path, "socket", 0666, &second, &error), -1);
    ck_assert(strstr(error.text, "not a socket") != NULL);
    unlink(path);
    rmdir(directory);
}
END_TEST

/* ---- the command line of a role ---- */

#define ROLE_WORDS 12

/* ---- the end of a channel ---- */

/* No descriptor is left for what the end of a channel costs. Closed directly it would take a
 * minute. */
static void
hang_up_without_descriptors(void)
{
    struct rlimit few, before;
    int pair[2], lowest, status;

    if (channel_pair(pair) == -1 || getrlimit(RLIMIT_NOFILE, &before) == -1)
        _exit(2);
    if (fork() == 0) {
        close(pair[0]);
        send_lingering(pair[1]);
        _exit(0);
    }
    close(pair[1]);
    lowest = dup(STDERR_FILENO);
    few = before;
    few.rlim_cur = (rlim_t)lowest + 1;
    if (wait(&status) == -1 || status != 0 || lowest == -1 || setrlimit(RLIMIT_NOFILE, &few) == -1)
        _exit(4);
    hang_up(pair, 1);
    if (hang_up_again() != 1 || fcntl(pair[0], F_GETFD) == -1)
        _exit(5);
    if (setrlimit(RLIMIT_NOFILE, &before) == -1 || hang_up_again() != 0 ||
        fcntl(pair[0], F_GETFD) != -1)
        _exit(6);
}

START_TEST(end_of_a_channel_waits_for_a_process)
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        alarm(5);
        hang_up_without_descriptors();
        _exit(0);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "wait status %#x", status);
}
END_TEST

START_TEST(role_arguments_are_parsed_strictly)
{
    static char good[][32] = {"tlsagentd",     "--role=keeper",  "--name=keeper 0.1",
                              "--log-level=2", "--log-syslog=1", "--uid=4294967294",
                              "--gid=7",       "--parent=99",    "--cpu=-1",
                              "--cell=3",      "--require=0",    "--kernel-tls=63"};
    char *argv[ROLE_WORDS + 1] = {NULL};
    enum control_role role;
    struct role_args args;
    int status;
    pid_t pid;

    for (size_t i = 0; i < ROLE_WORDS; i++)
        argv[i] = good[i];
    ck_assert(spawn_parse(ROLE_WORDS, argv, &role, &args));
    ck_assert_int_eq(role, CONTROL_KEEPER);
    ck_assert_str_eq(args.name, "keeper 0.1");
    ck_assert(args.log_level == 2 && args.log_syslog == 1 && args.uid == 4294967294U &&
              args.gid == 7 && args.parent == 99 && args.cpu == -1 && args.cell == 3 &&
              args.kernel == 63);
    argv[1] = good[2];
    ck_assert(!spawn_parse(ROLE_WORDS, argv, &role, &args)); /* not a role's at all */
    argv[1] = good[1];
    for (size_t i = 1; i < ROLE_WORDS; i++) {
        pid = fork();
        if (pid == 0) {
            char spoilt[40];

            log_init("test", LOG_LEVEL_ERROR, 0);
            snprintf(spoilt, sizeof(spoilt), "%s%s", i == 2 ? "x" : "", good[i]);
            if (i != 2)
                strncat(spoilt, "x", sizeof(spoilt) - strlen(spoilt) - 1);
            argv[i] = spoilt;
            (void)spawn_parse(ROLE_WORDS, argv, &role, &args);
            _exit(0);
        }
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 1, "argument %zu", i);
    }
}
END_TEST

int
main(int argc, char **argv)
{
    Suite *suite = suite_create("supervisor");
    TCase *tcase = tcase_create("supervisor");
    enum control_role role;
    struct role_args args;
    SRunner *runner;
    int failed;

    if (spawn_parse(argc, argv, &role, &args))
        play_role(role, &args);
    tcase_add_test(tcase, each_fault_costs_its_own_cell_only);
    tcase_add_test(tcase, too_many_descriptors_on_their_way_cost_no_cell);
    tcase_add_test(tcase, fast_deaths_are_replaced_more_and_more_slowly);
    tcase_add_test(tcase, death_takes_the_partner_along);
    tcase_add_test(tcase, stalled_process_is_replaced);
    tcase_add_test(tcase, silent_handshaker_says_who_froze_it);
    tcase_add_test(tcase, who_was_not_served_cannot_be_accused);
    tcase_add_test(tcase, bans_grow_end_and_are_forgotten);
    tcase_add_test(tcase, many_banned_users_keep_newcomers_out);
    tcase_add_test(tcase, many_callers_share_what_few_have);
    tcase_add_test(tcase, counters_of_the_dead_are_kept);
    tcase_add_test(tcase, who_may_use_a_context);
    tcase_add_test(tcase, greeting_new_channel_limit_and_silence);
    tcase_add_test(tcase, who_froze_a_cell_gets_one_cell_afterwards);
    tcase_add_test(tcase, unix_socket_stale_live_and_in_the_way);
    tcase_add_test(tcase, end_of_a_channel_waits_for_a_process);
    tcase_add_test(tcase, role_arguments_are_parsed_strictly);
    tcase_set_timeout(tcase, 30);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
