/* test_keyops.c: the messages between handshaker and keeper: round trips, and every byte count
 * that is not exactly right. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/keyops.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static uint8_t data[KEYOPS_TICKET_MAX + KEYOPS_TICKET_EXTRA + 1];

static size_t
put_hello(uint8_t *buffer, size_t size)
{
    const struct keyops_hello m = {"0.1-build"};

    return keyops_put_hello(&m, buffer, size);
}

static bool
get_hello(const uint8_t *body, size_t size)
{
    struct keyops_hello m;

    return keyops_get_hello(&m, body, size) && strcmp(m.build, "0.1-build") == 0;
}

static size_t
put_tls13(uint8_t *buffer, size_t size)
{
    const struct keyops_sign_tls13 m = {.number = 1,
                                        .key = 70000,
                                        .scheme = 0x0804,
                                        .role = 1,
                                        .hash_size = 48,
                                        .hash = {9, 8},
                                        .wish = {.keys = 2, .scope = {6, 5}}};

    return keyops_put_sign_tls13(&m, buffer, size);
}

static bool
get_tls13(const uint8_t *body, size_t size)
{
    struct keyops_sign_tls13 m;

    return keyops_get_sign_tls13(&m, body, size) && m.number == 1 && m.key == 70000 &&
           m.scheme == 0x0804 && m.role == 1 && m.hash_size == 48 && m.hash[1] == 8 &&
           m.wish.keys == 2 && m.wish.scope[1] == 5;
}

static size_t
put_tls12(uint8_t *buffer, size_t size)
{
    const struct keyops_sign_tls12_server m = {.number = 2,
                                               .key = 3,
                                               .scheme = 0x0403,
                                               .client_random = {1, 2},
                                               .server_random = {3, 4},
                                               .parameters_size = 137,
                                               .parameters = {5, 6},
                                               .wish = {.keys = 1, .scope = {6, 5}}};

    return keyops_put_sign_tls12_server(&m, buffer, size);
}

static bool
get_tls12(const uint8_t *body, size_t size)
{
    struct keyops_sign_tls12_server m;

    return keyops_get_sign_tls12_server(&m, body, size) && m.number == 2 && m.key == 3 &&
           m.scheme == 0x0403 && m.client_random[1] == 2 && m.server_random[1] == 4 &&
           m.parameters_size == 137 && m.parameters[1] == 6 && m.wish.keys == 1 &&
           m.wish.scope[1] == 5;
}

static size_t
put_ticket_keys(uint8_t *buffer, size_t size)
{
    const struct keyops_ticket_keys m = {.number = 7, .wish = {.keys = 4, .scope = {3, 2}}};

    return keyops_put_ticket_keys(&m, buffer, size);
}

static bool
get_ticket_keys(const uint8_t *body, size_t size)
{
    struct keyops_ticket_keys m;

    return keyops_get_ticket_keys(&m, body, size) && m.number == 7 && m.wish.keys == 4 &&
           m.wish.scope[1] == 2;
}

static size_t
put_ticket(uint8_t *buffer, size_t size)
{
    const struct keyops_open_ticket m = {.number = 4,
                                         .wish = {.keys = 1, .scope = {7}},
                                         .id_size = 32,
                                         .id = {8, 9},
                                         .data = data,
                                         .data_size = 300};

    return keyops_put_open_ticket(&m, buffer, size);
}

static bool
get_ticket(const uint8_t *body, size_t size)
{
    struct keyops_open_ticket m;

    return keyops_get_open_ticket(&m, body, size) && m.number == 4 && m.wish.keys == 1 &&
           m.wish.scope[0] == 7 && m.id_size == 32 && m.id[1] == 9 && m.data_size == 300;
}

static const struct keyops_ticket_key ticket_keys[KEYOPS_KEYS_MAX] = {{{1}, {2}}, {{3}, {4}}};

static size_t
put_answer(uint8_t *buffer, size_t size)
{
    const struct keyops_answer m = {.number = 5, .data = data, .size = 512};

    return keyops_put_answer(&m, buffer, size);
}

static bool
get_answer(const uint8_t *body, size_t size)
{
    struct keyops_answer m;

    return keyops_get_answer(&m, body, size) && m.number == 5 && m.size == 512 && m.key_count == 0;
}

static size_t
put_answer_with_keys(uint8_t *buffer, size_t size)
{
    const struct keyops_answer m = {.number = 5,
                                    .data = data,
                                    .size = 70,
                                    .key_count = 2,
                                    .period = 0xfedcba98,
                                    .keys = ticket_keys};

    return keyops_put_answer(&m, buffer, size);
}

static bool
get_answer_with_keys(const uint8_t *body, size_t size)
{
    struct keyops_answer m;

    return keyops_get_answer(&m, body, size) && m.number == 5 && m.size == 70 && m.key_count == 2 &&
           m.period == 0xfedcba98 && memcmp(m.keys, ticket_keys, 2 * sizeof(ticket_keys[0])) == 0;
}

static size_t
put_refused(uint8_t *buffer, size_t size)
{
    const struct keyops_refused m = {.number = 6, .reason = KEYOPS_BAD_SHAPE};

    return keyops_put_refused(&m, buffer, size);
}

static bool
get_refused(const uint8_t *body, size_t size)
{
    struct keyops_refused m;

    return keyops_get_refused(&m, body, size) && m.number == 6 && m.reason == KEYOPS_BAD_SHAPE;
}

static const struct {
    uint16_t type;
    size_t (*put)(uint8_t *buffer, size_t size);
    bool (*get)(const uint8_t *body, size_t size);
} messages[] = {
    {KEYOPS_HELLO, put_hello, get_hello},
    {KEYOPS_SIGN_TLS13, put_tls13, get_tls13},
    {KEYOPS_SIGN_TLS12_SERVER, put_tls12, get_tls12},
    {KEYOPS_TICKET_KEYS, put_ticket_keys, get_ticket_keys},
    {KEYOPS_OPEN_TICKET, put_ticket, get_ticket},
    {KEYOPS_ANSWER, put_answer, get_answer},
    {KEYOPS_ANSWER, put_answer_with_keys, get_answer_with_keys},
    {KEYOPS_REFUSAL, put_refused, get_refused},
};

START_TEST(messages_make_the_round_trip)
{
    uint8_t body[1024];
    size_t size = messages[_i].put(body, sizeof(body));

    ck_assert_uint_gt(size, 0);
    ck_assert(messages[_i].get(body, size));
    for (size_t shorter = 0; shorter < size; shorter++) {
        uint8_t *cut = malloc(shorter + 1);

        memcpy(cut, body, shorter);
        ck_assert(!messages[_i].get(cut, shorter));
        ck_assert_uint_eq(messages[_i].put(cut, shorter), 0);
        free(cut);
    }
    body[size] = 0;
    ck_assert(!messages[_i].get(body, size + 1));
}
END_TEST

/* Each type goes one way only, its longest and shortest legal bodies pass the table. */
START_TEST(each_type_goes_one_way)
{
    uint8_t body[1024];
    size_t size = messages[_i].put(body, sizeof(body));
    unsigned keeper = 0, handshaker = 0;

    for (size_t i = 0; i < keyops_keeper_rule_count; i++) {
        const struct channel_rule *rule = &keyops_keeper_rules[i];

        keeper += rule->type == messages[_i].type && rule->fds == 0 && size >= rule->minimum &&
                  size <= rule->maximum;
    }
    for (size_t i = 0; i < keyops_handshaker_rule_count; i++) {
        const struct channel_rule *rule = &keyops_handshaker_rules[i];

        handshaker += rule->type == messages[_i].type && rule->fds == 0 && size >= rule->minimum &&
                      size <= rule->maximum;
    }
    ck_assert_uint_eq(keeper + handshaker, 1);
    ck_assert_uint_eq(keeper, messages[_i].type >= KEYOPS_SIGN_TLS13 &&
                                  messages[_i].type <= KEYOPS_OPEN_TICKET);
}
END_TEST

START_TEST(lengths_are_bounded)
{
    static uint8_t body[sizeof(data) + 128];
    struct keyops_sign_tls13 tls13 = {.hash_size = KEYOPS_HASH_MAX};
    struct keyops_sign_tls12_server tls12 = {.parameters_size = KEYOPS_PARAMETERS_MAX};
    struct keyops_open_ticket ticket = {.id_size = KEYOPS_ID_MAX,
                                        .data = data,
                                        .data_size = KEYOPS_TICKET_MAX + KEYOPS_TICKET_EXTRA};
    size_t size = keyops_put_sign_tls13(&tls13, body, sizeof(body));

    ck_assert(keyops_get_sign_tls13(&tls13, body, size));
    body[11] = KEYOPS_HASH_MAX + 1; /* the length says more than there is room for */
    ck_assert(!keyops_get_sign_tls13(&tls13, body, size + 1));
    size = keyops_put_sign_tls12_server(&tls12, body, sizeof(body));
    ck_assert(keyops_get_sign_tls12_server(&tls12, body, size));
    body[75] = KEYOPS_PARAMETERS_MAX + 1;
    ck_assert(!keyops_get_sign_tls12_server(&tls12, body, size + 1));
    size = keyops_put_open_ticket(&ticket, body, sizeof(body));
    ck_assert_uint_eq(size, KEYOPS_OPEN_MAX);
    ck_assert(keyops_get_open_ticket(&ticket, body, size));
    body[4 + KEYOPS_WISH_SIZE] = KEYOPS_ID_MAX + 1;
    ck_assert(!keyops_get_open_ticket(&ticket, body, size));
    ticket.id_size = KEYOPS_ID_MAX;
    ticket.data = data;
    ticket.data_size = KEYOPS_TICKET_MAX + KEYOPS_TICKET_EXTRA;
    ticket.data_size++;
    size = keyops_put_open_ticket(&ticket, body, sizeof(body));
    ck_assert_uint_gt(size, 0);
    ck_assert(!keyops_get_open_ticket(&ticket, body, size));
}
END_TEST

/* More keys than there are in one answer: of none of the requests, and in no answer. */
START_TEST(keys_are_counted)
{
    static uint8_t body[KEYOPS_ANSWER_MAX + 64];
    struct keyops_sign_tls13 tls13 = {.hash_size = 32, .wish = {.keys = KEYOPS_KEYS_MAX}};
    struct keyops_sign_tls12_server tls12 = {.parameters_size = 36,
                                             .wish = {.keys = KEYOPS_KEYS_MAX + 1}};
    struct keyops_ticket_keys keys = {.wish = {.keys = KEYOPS_KEYS_MAX + 1}};
    struct keyops_open_ticket ticket = {
        .wish = {.keys = 255}, .data = data, .data_size = KEYOPS_TICKET_EXTRA};
    struct keyops_answer answer = {.data = data,
                                   .size = 1 + KEYOPS_TICKET_MAX,
                                   .key_count = KEYOPS_KEYS_MAX,
                                   .keys = ticket_keys};
    size_t size = keyops_put_sign_tls13(&tls13, body, sizeof(body));

    ck_assert(keyops_get_sign_tls13(&tls13, body, size));
    tls13.wish.keys++;
    size = keyops_put_sign_tls13(&tls13, body, sizeof(body));
    ck_assert(!keyops_get_sign_tls13(&tls13, body, size));
    size = keyops_put_sign_tls12_server(&tls12, body, sizeof(body));
    ck_assert(!keyops_get_sign_tls12_server(&tls12, body, size));
    size = keyops_put_ticket_keys(&keys, body, sizeof(body));
    ck_assert(!keyops_get_ticket_keys(&keys, body, size));
    size = keyops_put_open_ticket(&ticket, body, sizeof(body));
    ck_assert(!keyops_get_open_ticket(&ticket, body, size));

    size = keyops_put_answer(&answer, body, sizeof(body));
    ck_assert_uint_eq(size, KEYOPS_ANSWER_MAX);
    ck_assert(keyops_get_answer(&answer, body, size));
    answer.key_count = KEYOPS_KEYS_MAX + 1;
    ck_assert_uint_eq(keyops_put_answer(&answer, body, sizeof(body)), 0);
    /* Every length of the keys that is not of whole keys, with as many bytes behind it. */
    answer.size = 0;
    answer.key_count = 0;
    for (unsigned length = 0; length < 256; length++) {
        bool whole = length == 0 || (length > 4 && length <= KEYOPS_KEYS_SIZE &&
                                     (length - 4) % sizeof(struct keyops_ticket_key) == 0);

        memset(body, 0, sizeof(body));
        body[8] = (uint8_t)length;
        ck_assert_msg(keyops_get_answer(&answer, body, 9 + length) == whole, "%u", length);
    }
}
END_TEST

/* Items lie one behind the other; each length that is not theirs is noticed. */
START_TEST(items_make_the_round_trip)
{
    static uint8_t body[KEYOPS_BATCH_SIZE];
    const struct keyops_item first = {0, data, 100}, second = {1, (const uint8_t *)"x", 1};
    struct keyops_item item;
    const uint8_t *left = body;
    size_t size = 0, left_size;

    ck_assert(keyops_add_item(&first, body, sizeof(body), &size));
    ck_assert(keyops_add_item(&second, body, sizeof(body), &size));
    ck_assert_uint_eq(size, 5 + 100 + 5 + 1);
    left_size = size;
    ck_assert(keyops_next_item(&item, &left, &left_size));
    ck_assert(item.refused == 0 && item.size == 100 && item.body == body + 5);
    ck_assert(keyops_next_item(&item, &left, &left_size));
    ck_assert(item.refused == 1 && item.size == 1 && item.body[0] == 'x');
    ck_assert_uint_eq(left_size, 0);
    ck_assert(!keyops_next_item(&item, &left, &left_size));
    for (size_t cut = 0; cut < 105; cut++) {
        left = body;
        left_size = cut;
        ck_assert(!keyops_next_item(&item, &left, &left_size));
        ck_assert(left == body && left_size == cut);
    }
    left = body;
    left_size = size;
    body[0] = 2; /* neither an answer nor a refusal */
    ck_assert(!keyops_next_item(&item, &left, &left_size));
    size = 0;
    ck_assert(!keyops_add_item(&first, body, 104, &size)); /* no room */
    ck_assert_uint_eq(size, 0);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("keyops");
    TCase *tcase = tcase_create("keyops");
    SRunner *runner;
    int failed;

    tcase_add_loop_test(tcase, messages_make_the_round_trip, 0, COUNT(messages));
    tcase_add_loop_test(tcase, each_type_goes_one_way, 0, COUNT(messages));
    tcase_add_test(tcase, lengths_are_bounded);
    tcase_add_test(tcase, keys_are_counted);
    tcase_add_test(tcase, items_make_the_round_trip);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
