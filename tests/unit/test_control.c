/* test_control.c: every message of the supervisor's channels: round trips, and what is refused. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/admin.h"
#include "protocol/control.h"
#include "protocol/load.h"

/* For one message: it comes back as it was; no shorter body, no longer body and no smaller
 * buffer is accepted. */
#define CHECK_MESSAGE(put, get, type, in, same)                                                    \
    do {                                                                                           \
        type *out = calloc(1, sizeof(*out));                                                       \
        size_t full = put(&(in), scratch, sizeof(scratch));                                        \
        uint8_t *body = malloc(full + 1); /* exact, for AddressSanitizer */                        \
                                                                                                   \
        ck_assert_uint_gt(full, 0);                                                                \
        memcpy(body, scratch, full);                                                               \
        body[full] = 0;                                                                            \
        ck_assert(get(out, body, full));                                                           \
        ck_assert(same);                                                                           \
        ck_assert(!get(out, body, full + 1));                                                      \
        for (size_t cut = 0; cut < full; cut++) {                                                  \
            uint8_t *part = malloc(cut > 0 ? cut : 1);                                             \
                                                                                                   \
            memcpy(part, body, cut);                                                               \
            ck_assert_msg(!get(out, part, cut), "a body cut to %zu bytes was accepted", cut);      \
            ck_assert_uint_eq(put(&(in), part, cut), 0);                                           \
            free(part);                                                                            \
        }                                                                                          \
        free(body);                                                                                \
        free(out);                                                                                 \
    } while (0)

static uint8_t scratch[CHANNEL_BODY_MAX];

static const struct control_pong pong = {.number = 0x01020304,
                                         .signatures = UINT64_MAX,
                                         .ticket_keys = 2,
                                         .tickets_opened = 3,
                                         .refusals = 4,
                                         .workers = 5,
                                         .in_flight = 6,
                                         .waiting = 7,
                                         .channels_refused = 8,
                                         .store = {1, 9, 10, 11, 12, 13, 14, 15, UINT64_MAX}};

static bool
same_pong(const struct control_pong *a, const struct control_pong *b)
{
    return a->number == b->number && a->signatures == b->signatures &&
           a->ticket_keys == b->ticket_keys && a->tickets_opened == b->tickets_opened &&
           a->refusals == b->refusals && a->workers == b->workers && a->in_flight == b->in_flight &&
           a->waiting == b->waiting && a->channels_refused == b->channels_refused &&
           a->store.usable == b->store.usable && a->store.changes == b->store.changes &&
           a->store.lookups == b->store.lookups && a->store.found == b->store.found &&
           a->store.failed == b->store.failed && a->store.late == b->store.late &&
           a->store.skipped == b->store.skipped && a->store.stored == b->store.stored &&
           a->store.dropped == b->store.dropped;
}

static struct control_context_counters
some_counters(void)
{
    struct control_context_counters counters = {
        .context = 255, .started = 1, .full = UINT64_MAX - 1, .resumed = 3, .expired = 4};

    for (size_t i = 0; i < CONTROL_FAILURES; i++)
        counters.failed[i] = 100 + i;
    return counters;
}

static bool
same_counters(const struct control_context_counters *a, const struct control_context_counters *b)
{
    return a->context == b->context && a->started == b->started && a->full == b->full &&
           a->resumed == b->resumed && a->expired == b->expired &&
           memcmp(a->failed, b->failed, sizeof(a->failed)) == 0;
}

START_TEST(role_messages_round_trip)
{
    const struct control_hello hello = {"0.1.0-0123456789abcdef", CONTROL_KEEPER};
    const struct control_ready ready = {77, 95};
    const struct control_ping ping = {UINT32_MAX};
    const struct control_generation generation = {9};
    const struct control_listener listener = {65535};
    const struct control_dismiss dismiss = {1000};
    const struct control_fetcher_channel channel = {50};
    const struct control_store store = {1, 1, 65535, "fleet", "store.example"};
    const struct control_no_connection none = {111};
    const struct control_context_counters counters = some_counters();

    CHECK_MESSAGE(control_put_hello, control_get_hello, struct control_hello, hello,
                  strcmp(out->build, hello.build) == 0 && out->role == hello.role);
    CHECK_MESSAGE(control_put_ready, control_get_ready, struct control_ready, ready,
                  out->generation == 77 && out->layers == 95);
    CHECK_MESSAGE(control_put_ping, control_get_ping, struct control_ping, ping,
                  out->number == UINT32_MAX);
    CHECK_MESSAGE(control_put_pong, control_get_pong, struct control_pong, pong,
                  same_pong(out, &pong));
    CHECK_MESSAGE(control_put_context_counters, control_get_context_counters,
                  struct control_context_counters, counters, same_counters(out, &counters));
    CHECK_MESSAGE(control_put_generation, control_get_generation, struct control_generation,
                  generation, out->generation == 9);
    CHECK_MESSAGE(control_put_listener, control_get_listener, struct control_listener, listener,
                  out->context == 65535);
    CHECK_MESSAGE(control_put_dismiss, control_get_dismiss, struct control_dismiss, dismiss,
                  out->uid == 1000);
    CHECK_MESSAGE(control_put_fetcher_channel, control_get_fetcher_channel,
                  struct control_fetcher_channel, channel, out->wait_ms == 50);
    CHECK_MESSAGE(control_put_store, control_get_store, struct control_store, store,
                  out->tls == 1 && out->has_password == 1 && out->database == 65535 &&
                      strcmp(out->user, "fleet") == 0 && strcmp(out->name, "store.example") == 0);
    CHECK_MESSAGE(control_put_no_connection, control_get_no_connection,
                  struct control_no_connection, none, out->reason == 111);
}
END_TEST

START_TEST(worker_round_trips_with_0_and_most_groups)
{
    struct control_worker worker = {.uid = 33, .gid = 34, .pid = 4711};

    for (uint16_t i = 0; i < CONTROL_GROUPS_MAX; i++)
        worker.groups[i] = 1000U + i;
    CHECK_MESSAGE(control_put_worker, control_get_worker, struct control_worker, worker,
                  out->uid == 33 && out->gid == 34 && out->pid == 4711 && out->group_count == 0);
    worker.group_count = CONTROL_GROUPS_MAX;
    CHECK_MESSAGE(control_put_worker, control_get_worker, struct control_worker, worker,
                  out->group_count == CONTROL_GROUPS_MAX &&
                      memcmp(out->groups, worker.groups, sizeof(worker.groups)) == 0);
}
END_TEST

START_TEST(worker_with_too_many_groups_is_refused)
{
    struct control_worker worker;
    uint8_t body[14 + 4 * (CONTROL_GROUPS_MAX + 1)] = {0};

    body[13] = CONTROL_GROUPS_MAX + 1;
    ck_assert(!control_get_worker(&worker, body, sizeof(body)));
    memset(body + 12, 0xff, 2);
    ck_assert(!control_get_worker(&worker, body, sizeof(body)));
}
END_TEST

START_TEST(load_messages_round_trip)
{
    const struct load_begin begin = {3};
    const struct load_context context = {(const uint8_t *)"parameters", 10};
    const struct load_file_message file = {.kind = LOAD_KEY, .path = "/etc/ssl/private/x.key"};
    static struct load_identity identity = {
        .label = "example.org", .is_default = 1, .name_count = 2};
    const struct load_text text = {"context \"www\": the key does not match the certificate"};
    const struct load_done done = {10000, 9999, UINT64_MAX, 5};

    strncpy(identity.names[0], "www.example.org", SERVICE_HOST_MAX - 1);
    strncpy(identity.names[1], "*.example.org", SERVICE_HOST_MAX - 1);
    CHECK_MESSAGE(load_put_begin, load_get_begin, struct load_begin, begin, out->generation == 3);
    CHECK_MESSAGE(load_put_context, load_get_context, struct load_context, context,
                  out->blob_size == 10 && memcmp(out->blob, "parameters", 10) == 0);
    CHECK_MESSAGE(load_put_file_message, load_get_file_message, struct load_file_message, file,
                  out->kind == LOAD_KEY && strcmp(out->path, file.path) == 0);
    CHECK_MESSAGE(load_put_identity, load_get_identity, struct load_identity, identity,
                  strcmp(out->label, identity.label) == 0 && out->is_default == 1 &&
                      out->name_count == 2 && strcmp(out->names[0], identity.names[0]) == 0 &&
                      strcmp(out->names[1], identity.names[1]) == 0);
    CHECK_MESSAGE(load_put_text, load_get_text, struct load_text, text,
                  strcmp(out->text, text.text) == 0);
    CHECK_MESSAGE(load_put_done, load_get_done, struct load_done, done,
                  out->identities == 10000 && out->keys == 9999 && out->public_size == UINT64_MAX &&
                      out->secret_size == 5);
}
END_TEST

START_TEST(admin_messages_round_trip)
{
    const struct admin_agent agent = {.build = "0.1.0-x",
                                      .generation = 2,
                                      .uptime = 86400,
                                      .identities = 10,
                                      .keys = 11,
                                      .workers_denied = 12,
                                      .layers_required = 13,
                                      .configuration = "/etc/tlsagent/tlsagentd.conf"};
    const struct admin_process process = {.role = CONTROL_HANDSHAKER,
                                          .group = 1,
                                          .cell = 2,
                                          .pid = 3,
                                          .restarts = 4,
                                          .age = UINT64_MAX,
                                          .layers = 14,
                                          .pong = pong};
    const struct admin_context context = {
        .name = "www", .group = 1, .listeners = 2, .counters = some_counters()};
    const struct admin_ban ban = {1, 2, 3, 4};

    CHECK_MESSAGE(admin_put_ban, admin_get_ban, struct admin_ban, ban,
                  out->uid == 1 && out->pid == 2 && out->times == 3 && out->seconds == 4);
    CHECK_MESSAGE(admin_put_agent, admin_get_agent, struct admin_agent, agent,
                  strcmp(out->build, agent.build) == 0 && out->generation == 2 &&
                      out->uptime == 86400 && out->identities == 10 && out->keys == 11 &&
                      out->workers_denied == 12 && out->layers_required == 13 &&
                      strcmp(out->configuration, agent.configuration) == 0);
    CHECK_MESSAGE(admin_put_process, admin_get_process, struct admin_process, process,
                  out->role == process.role && out->group == 1 && out->cell == 2 && out->pid == 3 &&
                      out->restarts == 4 && out->age == UINT64_MAX && out->layers == 14 &&
                      same_pong(&out->pong, &pong));
    CHECK_MESSAGE(admin_put_context, admin_get_context, struct admin_context, context,
                  strcmp(out->name, "www") == 0 && out->group == 1 && out->listeners == 2 &&
                      same_counters(&out->counters, &context.counters));
}
END_TEST

/* A NUL inside a text would make two readers see two different texts. */
START_TEST(texts_with_nul_are_refused)
{
    struct load_text text;
    struct load_file_message file;
    struct control_hello hello;

    ck_assert(!load_get_text(&text, "\0\3a\0b", 5));
    ck_assert(load_get_text(&text, "\0\3abc", 5));
    ck_assert(!load_get_file_message(&file, "\1\0\3a\0b", 6));
    ck_assert(!control_get_hello(&hello, "\3a\0b\1", 5));
}
END_TEST

START_TEST(texts_longer_than_their_field_are_refused)
{
    static uint8_t body[3 + 2 * LOAD_PATH_MAX];
    struct load_file_message file;

    memset(body, 'a', sizeof(body));
    body[1] = (uint8_t)(LOAD_PATH_MAX >> 8);
    body[2] = (uint8_t)(LOAD_PATH_MAX & 0xff);
    ck_assert(!load_get_file_message(&file, body, 3 + LOAD_PATH_MAX));
    body[1] = (uint8_t)((LOAD_PATH_MAX - 1) >> 8);
    body[2] = (uint8_t)((LOAD_PATH_MAX - 1) & 0xff);
    ck_assert(load_get_file_message(&file, body, 3 + LOAD_PATH_MAX - 1));
}
END_TEST

START_TEST(identity_with_too_many_names_is_refused)
{
    static struct load_identity identity;
    uint8_t body[5 + LOAD_NAMES_MAX + 1] = {1, 'x', 0, 0, LOAD_NAMES_MAX + 1}; /* empty names */

    ck_assert(!load_get_identity(&identity, body, sizeof(body)));
    body[4] = LOAD_NAMES_MAX;
    ck_assert(load_get_identity(&identity, body, sizeof(body) - 1));
}
END_TEST

/* Whatever an encoder can write must pass the receiver's table, and each type goes one way. */
START_TEST(tables_admit_the_longest_messages)
{
    struct control_worker worker = {.group_count = CONTROL_GROUPS_MAX};
    struct admin_agent agent = {0};
    struct admin_context context = {0};
    struct load_text text;
    size_t size;

    size = control_put_worker(&worker, scratch, sizeof(scratch));
    for (size_t i = 0; i < control_handshaker_rule_count; i++) {
        if (control_handshaker_rules[i].type == CONTROL_WORKER)
            ck_assert_uint_eq(control_handshaker_rules[i].maximum, size);
        ck_assert_uint_ge(control_handshaker_rules[i].type, CONTROL_PING);
    }
    for (size_t i = 0; i < control_supervisor_rule_count; i++)
        ck_assert_uint_lt(control_supervisor_rules[i].type, CONTROL_PING);
    memset(agent.build, 'a', sizeof(agent.build) - 1);
    memset(agent.configuration, 'a', sizeof(agent.configuration) - 1);
    memset(context.name, 'a', sizeof(context.name) - 1);
    memset(text.text, 'a', sizeof(text.text));
    text.text[sizeof(text.text) - 1] = '\0';
    for (size_t i = 0; i < admin_command_rule_count; i++) {
        const struct channel_rule *rule = &admin_command_rules[i];

        ck_assert_uint_eq(rule->fds, 0);
        if (rule->type == ADMIN_AGENT)
            ck_assert_uint_ge(rule->maximum, admin_put_agent(&agent, scratch, sizeof(scratch)));
        if (rule->type == ADMIN_CONTEXT)
            ck_assert_uint_ge(rule->maximum, admin_put_context(&context, scratch, sizeof(scratch)));
        if (rule->type == ADMIN_DENIED)
            ck_assert_uint_ge(rule->maximum, load_put_text(&text, scratch, sizeof(scratch)));
    }
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("control");
    TCase *tcase = tcase_create("control");
    SRunner *runner;
    int failed;

    tcase_add_test(tcase, role_messages_round_trip);
    tcase_add_test(tcase, worker_round_trips_with_0_and_most_groups);
    tcase_add_test(tcase, worker_with_too_many_groups_is_refused);
    tcase_add_test(tcase, load_messages_round_trip);
    tcase_add_test(tcase, admin_messages_round_trip);
    tcase_add_test(tcase, texts_with_nul_are_refused);
    tcase_add_test(tcase, texts_longer_than_their_field_are_refused);
    tcase_add_test(tcase, identity_with_too_many_names_is_refused);
    tcase_add_test(tcase, tables_admit_the_longest_messages);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
