/*
 * test_service.c: every message between worker and agent: there and back, cut at every byte, with a
 * byte too many, and with what is well-formed but not one of ours.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/service.h"

#define ROOM CHANNEL_BODY_MAX

static uint8_t body[ROOM + 1];

/* Adapters: one type for all messages, so that one table serves all tests. */
union any {
    struct service_welcome welcome;
    struct service_context context;
    struct service_channel channel;
    struct service_denied denied;
    struct service_accept accept;
    struct service_pull pull;
    struct service_cancel cancel;
    struct service_finished finished;
    struct service_failed failed;
    struct service_batch batch;
};

#define ADAPT(name)                                                                                \
    static size_t put_##name(const union any *m, void *buffer, size_t size)                        \
    {                                                                                              \
        return service_put_##name(&m->name, buffer, size);                                         \
    }                                                                                              \
    static bool get_##name(union any *m, const void *bytes, size_t size)                           \
    {                                                                                              \
        return service_get_##name(&m->name, bytes, size);                                          \
    }
ADAPT(welcome)
ADAPT(context)
ADAPT(channel)
ADAPT(denied)
ADAPT(accept)
ADAPT(pull)
ADAPT(cancel)
ADAPT(finished)
ADAPT(failed)
ADAPT(batch)

static void
fill_text(char *text, size_t size, bool full)
{
    memset(text, 'x', full ? size - 1 : 3);
    text[full ? size - 1 : 3] = '\0';
}

/* A valid message of each kind; full: every text and list as long as it may be. */
static void
fill(union any *m, uint16_t type, bool full)
{
    static uint8_t bytes[SERVICE_CHAIN_MAX];

    memset(m, 0, sizeof(*m));
    memset(bytes, 0xc5, sizeof(bytes));
    switch (type) {
    case SERVICE_WELCOME:
        m->welcome.protocol = SERVICE_PROTOCOL;
        fill_text(m->welcome.build, sizeof(m->welcome.build), full);
        break;
    case SERVICE_CONTEXT:
        m->context.group = 0x0102;
        m->context.listens = 1;
        fill_text(m->context.name, sizeof(m->context.name), full);
        break;
    case SERVICE_CHANNEL:
        m->channel = (struct service_channel){0xfffe, 0x0304};
        break;
    case SERVICE_DENIED:
        fill_text(m->denied.text, sizeof(m->denied.text), full);
        break;
    case SERVICE_ACCEPT:
        m->accept.id = 0xfffffffe;
        m->accept.forms = SERVICE_FORM_RECORDS | SERVICE_FORM_KERNEL | SERVICE_FORM_STREAM;
        m->accept.deadline_ms = 0x01020304;
        fill_text(m->accept.context, sizeof(m->accept.context), full);
        break;
    case SERVICE_PULL:
        m->pull.credits = 16;
        m->pull.forms = SERVICE_FORM_RECORDS;
        fill_text(m->pull.context, sizeof(m->pull.context), full);
        break;
    case SERVICE_CANCEL:
        m->cancel.id = 0x80000001;
        break;
    case SERVICE_FAILED:
        m->failed.id = 7;
        m->failed.reason = SERVICE_INTERNAL;
        m->failed.retryable = 1;
        m->failed.alert = 255;
        fill_text(m->failed.text, sizeof(m->failed.text), full);
        break;
    case SERVICE_BATCH:
        m->batch.count = full ? SERVICE_BATCH_MAX : 2;
        for (size_t i = 0; i < m->batch.count; i++)
            m->batch.parts[i] = (struct service_part){.type = (uint16_t)(SERVICE_FINISHED + i % 3),
                                                      .size = full ? 4000 : 8,
                                                      .body = bytes};
        break;
    default:
        m->finished.id = 0x01020304;
        m->finished.form = SERVICE_FORM_RECORDS;
        m->finished.resumed = 1;
        m->finished.agent_pid = 0xfedcba98;
        m->finished.state.suite = 0x1302;
        m->finished.state.max_fragment = TRAFFIC_PLAINTEXT_MAX;
        memset(&m->finished.state.send.secret, 1, TRAFFIC_SECRET_MAX);
        memset(&m->finished.state.send.key, 2, TRAFFIC_KEY_MAX);
        memset(&m->finished.state.send.iv, 3, TRAFFIC_IV_SIZE);
        m->finished.state.send.sequence = 0x0102030405060708;
        m->finished.state.receive.explicit_nonce = 0xfffffffffffffffe;
        memset(&m->finished.state.receive.key, 4, TRAFFIC_KEY_MAX);
        fill_text(m->finished.context, sizeof(m->finished.context), full);
        fill_text(m->finished.sni, sizeof(m->finished.sni), full);
        fill_text(m->finished.alpn, sizeof(m->finished.alpn), full);
        m->finished.early = m->finished.chain = bytes;
        m->finished.early_size = full ? SERVICE_EARLY_MAX : 5;
        m->finished.chain_size = full ? SERVICE_CHAIN_MAX : 0;
    }
}

static const struct {
    uint16_t type;
    size_t (*put)(const union any *m, void *buffer, size_t size);
    bool (*get)(union any *m, const void *bytes, size_t size);
    const struct channel_rule *rules;
    const size_t *rule_count;
} messages[] = {
    {SERVICE_WELCOME, put_welcome, get_welcome, service_greeting_rules,
     &service_greeting_rule_count},
    {SERVICE_CONTEXT, put_context, get_context, service_greeting_rules,
     &service_greeting_rule_count},
    {SERVICE_CHANNEL, put_channel, get_channel, service_greeting_rules,
     &service_greeting_rule_count},
    {SERVICE_DENIED, put_denied, get_denied, service_greeting_rules, &service_greeting_rule_count},
    {SERVICE_ACCEPT, put_accept, get_accept, service_handshaker_rules,
     &service_handshaker_rule_count},
    {SERVICE_PULL, put_pull, get_pull, service_handshaker_rules, &service_handshaker_rule_count},
    {SERVICE_CANCEL, put_cancel, get_cancel, service_handshaker_rules,
     &service_handshaker_rule_count},
    {SERVICE_FINISHED, put_finished, get_finished, service_worker_rules,
     &service_worker_rule_count},
    {SERVICE_FAILED, put_failed, get_failed, service_worker_rules, &service_worker_rule_count},
    {SERVICE_DELIVERED, put_finished, get_finished, service_worker_rules,
     &service_worker_rule_count},
    {SERVICE_BATCH, put_batch, get_batch, service_worker_rules, &service_worker_rule_count},
};

#define MESSAGES ((int)(sizeof(messages) / sizeof(messages[0])))

static const struct channel_rule *
rule_of(int index)
{
    for (size_t i = 0; i < *messages[index].rule_count; i++) {
        if (messages[index].rules[i].type == messages[index].type)
            return &messages[index].rules[i];
    }
    return NULL;
}

/* What was decoded is encoded to the same bytes: no field is lost or changed. */
START_TEST(message_survives_the_round_trip)
{
    static uint8_t again[ROOM];
    union any m, copy;

    for (int full = 0; full < 2; full++) {
        size_t size;

        fill(&m, messages[_i].type, full == 1);
        size = messages[_i].put(&m, body, ROOM);
        ck_assert_uint_gt(size, 0);
        memset(&copy, 0xaa, sizeof(copy));
        ck_assert(messages[_i].get(&copy, body, size));
        ck_assert_uint_eq(messages[_i].put(&copy, again, ROOM), size);
        ck_assert_mem_eq(body, again, size);
    }
}
END_TEST

/* The receivers' tables let every valid message through and no longer one. */
START_TEST(rules_fit_the_messages)
{
    const struct channel_rule *rule = rule_of(_i);
    union any m;
    size_t size;

    ck_assert_ptr_nonnull(rule);
    fill(&m, messages[_i].type, true);
    size = messages[_i].put(&m, body, ROOM);
    ck_assert_uint_le(size, rule->maximum);
    ck_assert_uint_ge(size, rule->minimum);
    ck_assert_uint_le(rule->maximum, CHANNEL_BODY_MAX);
    fill(&m, messages[_i].type, false);
    ck_assert_uint_ge(messages[_i].put(&m, body, ROOM), rule->minimum);
}
END_TEST

START_TEST(cut_or_extended_message_is_refused)
{
    union any m;
    size_t size;

    fill(&m, messages[_i].type, false);
    size = messages[_i].put(&m, body, ROOM);
    for (size_t cut = 0; cut < size; cut++) {
        uint8_t *exact = malloc(cut + 1); /* so that a sanitizer sees a read beyond */

        memcpy(exact, body, cut);
        ck_assert_msg(!messages[_i].get(&m, exact, cut), "%zu of %zu bytes", cut, size);
        free(exact);
    }
    body[size] = 0;
    ck_assert(!messages[_i].get(&m, body, size + 1));
}
END_TEST

START_TEST(no_room_is_noticed)
{
    union any m;
    size_t size;

    fill(&m, messages[_i].type, false);
    size = messages[_i].put(&m, body, ROOM);
    for (size_t room = 0; room < size; room++) {
        uint8_t *exact = malloc(room + 1);

        ck_assert_uint_eq(messages[_i].put(&m, exact, room), 0);
        free(exact);
    }
    ck_assert_uint_eq(messages[_i].put(&m, body, size), size);
}
END_TEST

static void
check_batch(const struct service_batch *batch, const uint8_t *bytes, size_t size)
{
    size_t connections = 0;

    ck_assert_uint_ge(batch->count, 2);
    ck_assert_uint_le(batch->count, SERVICE_BATCH_MAX);
    for (size_t i = 0; i < batch->count; i++) {
        const struct service_part *part = &batch->parts[i];

        ck_assert(part->body >= bytes && part->body + part->size <= bytes + size);
        ck_assert_uint_ge(part->type, SERVICE_FINISHED);
        ck_assert_uint_le(part->type, SERVICE_DELIVERED);
        connections += part->type == SERVICE_DELIVERED;
    }
    ck_assert_uint_eq(batch->fd_count, connections);
}

/* Every byte set to every value: decoded or refused, never beyond the message; and what was
 * decoded keeps to the limits that the receivers rely on. */
START_TEST(any_byte_may_be_anything)
{
    union any m;
    size_t size;
    uint8_t *exact;

    fill(&m, messages[_i].type, false);
    size = messages[_i].put(&m, body, ROOM);
    exact = malloc(size);
    for (size_t at = 0; at < size; at++) {
        for (int value = 0; value < 256; value++) {
            memcpy(exact, body, size);
            exact[at] = (uint8_t)value;
            if (!messages[_i].get(&m, exact, size))
                continue;
            if (messages[_i].get == get_batch)
                check_batch(&m.batch, exact, size);
            if (messages[_i].get != get_finished)
                continue;
            ck_assert_ptr_nonnull(traffic_suite_find(m.finished.state.suite));
            ck_assert_uint_le(m.finished.early_size, SERVICE_EARLY_MAX);
            ck_assert_uint_le(m.finished.chain_size, SERVICE_CHAIN_MAX);
            ck_assert(m.finished.early >= exact);
            ck_assert(m.finished.early + m.finished.early_size <= exact + size);
            ck_assert(m.finished.chain >= exact);
            ck_assert(m.finished.chain + m.finished.chain_size <= exact + size);
            ck_assert_uint_gt(m.finished.state.max_fragment, 0);
            ck_assert_uint_le(m.finished.state.max_fragment, TRAFFIC_PLAINTEXT_MAX);
        }
    }
    free(exact);
}
END_TEST

/* Well-formed bytes, impossible values: the encoder does not judge, the decoder must. */
enum spoiled {
    LISTENS_2,
    FORMS_0,
    FORMS_8,
    PULL_FORMS_0,
    PULL_FORMS_8,
    FORM_0,
    FORM_STREAM,
    FORM_BOTH,
    RESUMED_2,
    SUITE_UNKNOWN,
    FRAGMENT_0,
    FRAGMENT_LONG,
    REASON_0,
    REASON_9,
    RETRYABLE_2,
    BATCH_OF_0,
    BATCH_OF_1,
    BATCH_IN_BATCH,
    BATCH_OF_REQUESTS,
};

static const struct {
    enum spoiled what;
    uint16_t type;
} impossible[] = {
    {LISTENS_2, SERVICE_CONTEXT},       {FORMS_0, SERVICE_ACCEPT},
    {FORMS_8, SERVICE_ACCEPT},          {PULL_FORMS_0, SERVICE_PULL},
    {PULL_FORMS_8, SERVICE_PULL},       {FORM_0, SERVICE_FINISHED},
    {FORM_STREAM, SERVICE_FINISHED},    {FORM_BOTH, SERVICE_FINISHED},
    {RESUMED_2, SERVICE_FINISHED},      {SUITE_UNKNOWN, SERVICE_FINISHED},
    {FRAGMENT_0, SERVICE_FINISHED},     {FRAGMENT_LONG, SERVICE_FINISHED},
    {REASON_0, SERVICE_FAILED},         {REASON_9, SERVICE_FAILED},
    {RETRYABLE_2, SERVICE_FAILED},      {BATCH_OF_0, SERVICE_BATCH},
    {BATCH_OF_1, SERVICE_BATCH},        {BATCH_IN_BATCH, SERVICE_BATCH},
    {BATCH_OF_REQUESTS, SERVICE_BATCH},
};

static void
spoil(union any *m, enum spoiled what)
{
    switch (what) {
    case LISTENS_2:
        m->context.listens = 2;
        break;
    case FORMS_0:
        m->accept.forms = 0;
        break;
    case FORMS_8:
        m->accept.forms = 8 | SERVICE_FORM_RECORDS;
        break;
    case PULL_FORMS_0:
        m->pull.forms = 0;
        break;
    case PULL_FORMS_8:
        m->pull.forms = 8;
        break;
    case FORM_0:
        m->finished.form = 0;
        break;
    case FORM_STREAM:
        m->finished.form = SERVICE_FORM_STREAM;
        break;
    case FORM_BOTH:
        m->finished.form = SERVICE_FORM_RECORDS | SERVICE_FORM_KERNEL;
        break;
    case RESUMED_2:
        m->finished.resumed = 2;
        break;
    case SUITE_UNKNOWN:
        m->finished.state.suite = 0x002f; /* TLS_RSA_WITH_AES_128_CBC_SHA */
        break;
    case FRAGMENT_0:
        m->finished.state.max_fragment = 0;
        break;
    case FRAGMENT_LONG:
        m->finished.state.max_fragment = TRAFFIC_PLAINTEXT_MAX + 1;
        break;
    case REASON_0:
        m->failed.reason = 0;
        break;
    case REASON_9:
        m->failed.reason = SERVICE_INTERNAL + 1;
        break;
    case RETRYABLE_2:
        m->failed.retryable = 2;
        break;
    case BATCH_OF_0:
        m->batch.count = 0;
        break;
    case BATCH_OF_1:
        m->batch.count = 1;
        break;
    case BATCH_IN_BATCH:
        m->batch.parts[1].type = SERVICE_BATCH;
        break;
    case BATCH_OF_REQUESTS:
        m->batch.parts[0].type = SERVICE_ACCEPT;
        break;
    }
}

START_TEST(impossible_value_is_refused)
{
    union any m;
    size_t size;
    int index = 0;

    while (messages[index].type != impossible[_i].type)
        index++;
    fill(&m, impossible[_i].type, false);
    size = messages[index].put(&m, body, ROOM);
    ck_assert(messages[index].get(&m, body, size));
    fill(&m, impossible[_i].type, false);
    spoil(&m, impossible[_i].what);
    size = messages[index].put(&m, body, ROOM);
    ck_assert_uint_gt(size, 0);
    ck_assert(!messages[index].get(&m, body, size));
}
END_TEST

/* One part more than there is room for where it is decoded. */
START_TEST(batch_keeps_its_limit)
{
    union any m;
    size_t size;

    fill(&m, SERVICE_BATCH, true);
    size = put_batch(&m, body, ROOM);
    ck_assert(get_batch(&m, body, size));
    memcpy(body + size, "\0\x41\0\0\0\0", SERVICE_PART_HEAD);
    size += SERVICE_PART_HEAD;
    ck_assert(!get_batch(&m, body, size)); /* the count says that there is none */
    body[0]++;
    ck_assert(!get_batch(&m, body, size));
}
END_TEST

/* Lengths that lie: a list longer than its limit, even where the bytes are there; a NUL in a text;
 * a text that would not fit with its terminator. */
START_TEST(lists_and_texts_keep_their_limits)
{
    static uint8_t many[SERVICE_CHAIN_MAX + 1];
    struct service_finished said;
    struct service_context context;
    union any m;
    size_t size;
    uint8_t *name;

    fill(&m, SERVICE_FINISHED, false);
    said = m.finished;
    said.early = many;
    said.early_size = SERVICE_EARLY_MAX + 1;
    size = service_put_finished(&said, body, ROOM);
    ck_assert_uint_gt(size, 0);
    ck_assert(!service_get_finished(&said, body, size));
    said = m.finished;
    said.chain = many;
    said.chain_size = SERVICE_CHAIN_MAX + 1;
    size = service_put_finished(&said, body, ROOM);
    ck_assert_uint_gt(size, 0);
    ck_assert(!service_get_finished(&said, body, size));

    fill(&m, SERVICE_CONTEXT, true);
    size = service_put_context(&m.context, body, ROOM);
    ck_assert(service_get_context(&context, body, size));
    name = memchr(body, 'x', size);
    name[1] = '\0';
    ck_assert(!service_get_context(&context, body, size));
    name[1] = 'x';
    memmove(name + 1, name, size - (size_t)(name - body));
    name[-1]++; /* its length: one more than there is room for */
    ck_assert(!service_get_context(&context, body, size + 1));
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("service");
    TCase *cases = tcase_create("service");
    SRunner *runner;
    int failed;

    tcase_set_timeout(cases, 60);
    tcase_add_loop_test(cases, message_survives_the_round_trip, 0, MESSAGES);
    tcase_add_loop_test(cases, rules_fit_the_messages, 0, MESSAGES);
    tcase_add_loop_test(cases, cut_or_extended_message_is_refused, 0, MESSAGES);
    tcase_add_loop_test(cases, no_room_is_noticed, 0, MESSAGES);
    tcase_add_loop_test(cases, any_byte_may_be_anything, 0, MESSAGES);
    tcase_add_loop_test(cases, impossible_value_is_refused, 0,
                        sizeof(impossible) / sizeof(impossible[0]));
    tcase_add_test(cases, batch_keeps_its_limit);
    tcase_add_test(cases, lists_and_texts_keep_their_limits);
    suite_add_tcase(suite, cases);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
