/*
 * test_handshaker.c: a keeper that was taken over, played by this test, against what a handshaker
 * asks it with. The handshaker takes nothing that is not the answer to its question: it ends with a
 * message, or goes on, and writes nowhere where it should not (the sanitizers watch, and
 * fences around what it gets).
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/keycall.h"
#include "agent/log.h"
#include "agent/roles.h"
#include "protocol/channel.h"

#define FENCE      0xa5
#define ROOM       64
#define DIED       1  /* log_die() */
#define BAD_MEMORY 99 /* of the handshaker: somebody wrote beyond what was given */

/* ---- the handshaker ---- */

static void
check_fence(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != FENCE)
            _exit(BAD_MEMORY);
    }
}

/* Ask for everything, several times. Its exit status says how it ended. */
static void __attribute__((noreturn)) be_handshaker(int fd)
{
    struct {
        uint8_t before[64], result[ROOM], after[4096];
    } room;
    struct {
        uint8_t before[64];
        struct onetime_keys keys;
        uint8_t after[4096];
    } keys;
    uint8_t filters[KEYOPS_FILTERS_MAX][KEYOPS_FILTER_SIZE], sealed[100] = {0};
    struct keyops_sign_tls13 sign = {.scheme = 0x403, .role = KEYOPS_ROLE_SERVER, .hash_size = 32};
    struct keyops_open_ticket open = {.data = sealed, .data_size = sizeof(sealed)};
    struct keyops_wish wish = {.keys = 2};
    struct error error = {""};
    struct keycall *keeper = keycall_open(fd, 300, &error);
    size_t size;

    log_init("handshaker", LOG_LEVEL_ERROR, 0);
    if (keeper == NULL)
        _exit(DIED);
    memset(&room, FENCE, sizeof(room));
    memset(&keys, FENCE, sizeof(keys));
    memset(&keys.keys, 0, sizeof(keys.keys));
    for (int i = 0; i < 3; i++) {
        keycall_serve(keeper, &wish, &keys.keys);
        size = 0;
        (void)keycall_sign_tls13(keeper, &sign, room.result, ROOM, &size);
        if (size > ROOM)
            _exit(BAD_MEMORY);
        (void)keycall_ticket_keys(keeper, &wish, &keys.keys);
        (void)keycall_open_ticket(keeper, &open, &keys.keys, room.result, ROOM, &size);
        if (size > ROOM || keycall_filters(keeper, filters) > KEYOPS_FILTERS_MAX)
            _exit(BAD_MEMORY);
    }
    check_fence(room.before, sizeof(room.before));
    check_fence(room.after, sizeof(room.after));
    check_fence(keys.before, sizeof(keys.before));
    check_fence(keys.after, sizeof(keys.after));
    keycall_close(keeper);
    _exit(0);
}

/* ---- the keeper ---- */

enum wrong {
    GOOD,    /* in good form: the handshaker goes on */
    GARBAGE, /* behind the right number: goes on or dies, as it happens */
    SILENT,
    NO_HELLO,
    HELLO_OF_ANOTHER_BUILD,
    HELLO_TOO_LONG,
    HELLO_TWICE,
    CLOSES,
    WRONG_NUMBER,
    EARLIER_NUMBER,
    UNKNOWN_TYPE,
    A_REQUEST,
    CUT_SHORT,
    LENGTH_LIES,
    LENGTH_IS_LARGEST,
    TOO_LONG,
    BEYOND_THE_PACKET,
    BYTE_TOO_MANY,
    REASON_0,
    MORE_KEYS,
    WITH_FD,
    EMPTY_PACKET,
    WRONGS,
};

static const char *const wrong_names[WRONGS] = {
    [GOOD] = "in good form",
    [GARBAGE] = "garbage",
    [SILENT] = "silent",
    [NO_HELLO] = "no hello",
    [HELLO_OF_ANOTHER_BUILD] = "hello of another build",
    [HELLO_TOO_LONG] = "hello too long",
    [HELLO_TWICE] = "hello twice",
    [CLOSES] = "closes",
    [WRONG_NUMBER] = "wrong number",
    [EARLIER_NUMBER] = "an earlier number",
    [UNKNOWN_TYPE] = "unknown type",
    [A_REQUEST] = "a request",
    [CUT_SHORT] = "cut short",
    [LENGTH_LIES] = "a length that lies",
    [LENGTH_IS_LARGEST] = "a length of 2^32-1",
    [TOO_LONG] = "longer than any answer",
    [BEYOND_THE_PACKET] = "longer than a message",
    [BYTE_TOO_MANY] = "a byte too many",
    [REASON_0] = "refusal for reason 0",
    [MORE_KEYS] = "more keys than were wanted",
    [WITH_FD] = "with an fd",
    [EMPTY_PACKET] = "an empty packet",
};

static void
say_hello(int fd, enum wrong wrong)
{
    struct keyops_hello hello = {""};
    uint8_t body[256] = {0};
    size_t size;

    snprintf(hello.build, sizeof(hello.build), "%s",
             wrong == HELLO_OF_ANOTHER_BUILD ? "0" : role_build_id);
    size = keyops_put_hello(&hello, body, sizeof(body));
    if (wrong == HELLO_TOO_LONG)
        size = sizeof(body);
    if (wrong != NO_HELLO)
        (void)channel_send(fd, KEYOPS_HELLO, body, size, NULL, 0);
    if (wrong == HELLO_TWICE)
        (void)channel_send(fd, KEYOPS_HELLO, body, size, NULL, 0);
}

/* Answer one request, whose number stands in front of its body. */
static void
answer_wrong(int fd, enum wrong wrong, const uint8_t *number)
{
    static uint8_t packet[2 + CHANNEL_BODY_MAX + 100];
    uint8_t *body = packet + 2;
    static uint8_t data[KEYOPS_TICKET_MAX + 1];
    static struct keyops_ticket_key keys[KEYOPS_KEYS_MAX];
    struct keyops_answer answer = {.data = data, .size = 10, .keys = keys};
    size_t size;
    uint16_t type = KEYOPS_ANSWER;
    int log = STDERR_FILENO;

    memset(packet, 0, sizeof(packet));
    if (wrong == GARBAGE) {
        answer.size = (size_t)random() % 200;
        answer.key_count = random() % 8 == 0 ? (size_t)random() % 3 : 0;
    }
    if (wrong == MORE_KEYS)
        answer.key_count = KEYOPS_KEYS_MAX;
    size = keyops_put_answer(&answer, body, CHANNEL_BODY_MAX);
    memcpy(body, number, 4);
    switch (wrong) {
    case GARBAGE:
        if (random() % 16 != 0) /* in good form, but of any size */
            break;
        size = 4 + (size_t)random() % 700;
        type = random() % 4 == 0 ? KEYOPS_REFUSAL : KEYOPS_ANSWER;
        for (size_t i = 4; i < size; i++)
            body[i] = (uint8_t)(random() % 3 == 0 ? random() % 4 : random());
        break;
    case WRONG_NUMBER:
        body[3]++;
        break;
    case EARLIER_NUMBER:
        body[3]--;
        break;
    case UNKNOWN_TYPE:
        type = 4242;
        break;
    case A_REQUEST:
        type = KEYOPS_SIGN_TLS13;
        break;
    case CUT_SHORT:
        size = 7;
        break;
    case LENGTH_LIES:
        body[6] = 1;
        break;
    case LENGTH_IS_LARGEST:
        memset(body + 4, 0xff, 4);
        break;
    case TOO_LONG:
        size = KEYOPS_ANSWER_MAX + 1;
        break;
    case BEYOND_THE_PACKET:
        size = CHANNEL_BODY_MAX + 50;
        break;
    case BYTE_TOO_MANY:
        size += 1;
        break;
    case REASON_0:
        type = KEYOPS_REFUSAL;
        size = 5;
        body[4] = 0;
        break;
    case EMPTY_PACKET:
        (void)send(fd, packet, 0, MSG_NOSIGNAL);
        return;
    default:
        break;
    }
    packet[0] = (uint8_t)(type >> 8);
    packet[1] = (uint8_t)type;
    if (wrong == WITH_FD)
        (void)channel_send(fd, type, body, size, &log, 1);
    else
        (void)send(fd, packet, 2 + size, MSG_NOSIGNAL);
}

/* One keeper, one handshaker. Returns how the latter ended. */
static int
play(enum wrong wrong)
{
    uint8_t request[KEYOPS_OPEN_MAX + 100];
    int pair[2], status;
    pid_t pid;

    ck_assert_int_eq(channel_pair(pair), 0);
    pid = fork();
    if (pid == 0) {
        close(pair[0]);
        be_handshaker(pair[1]);
    }
    close(pair[1]);
    say_hello(pair[0], wrong);
    for (;;) {
        ssize_t size = recv(pair[0], request, sizeof(request), 0);

        if (size <= 0 || wrong == CLOSES)
            break;
        ck_assert_int_ge(size, 6);
        if (wrong != SILENT)
            answer_wrong(pair[0], wrong, request + 2);
    }
    close(pair[0]);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(WIFEXITED(status), "%s: killed by signal %d", wrong_names[wrong],
                  WTERMSIG(status));
    return WEXITSTATUS(status);
}

START_TEST(wrong_answers_end_the_handshaker_cleanly)
{
    int status = play((enum wrong)_i);

    printf("%s: exit status %d\n", wrong_names[_i], status);
    ck_assert_msg(status == DIED, "%s: exit status %d", wrong_names[_i], status);
}
END_TEST

START_TEST(good_form_goes_on)
{
    ck_assert_int_eq(play(GOOD), 0);
}
END_TEST

START_TEST(garbage_behind_the_right_number)
{
    int survived = 0;

    srandom(4711);
    for (int round = 0; round < 300; round++) {
        int status = play(GARBAGE);

        ck_assert_msg(status == 0 || status == DIED, "round %d: exit status %d", round, status);
        survived += status == 0;
    }
    printf("garbage: %d of 300 went on to the end\n", survived);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("hostile keeper");
    TCase *tests = tcase_create("hostile keeper");
    SRunner *runner;
    int failed;

    setvbuf(stdout, NULL, _IOLBF, 0);
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, wrong_answers_end_the_handshaker_cleanly, SILENT, WRONGS);
    tcase_add_test(tests, good_form_goes_on);
    tcase_add_test(tests, garbage_behind_the_right_number);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
