/* store.c: see store.h. */
#include "agent/store.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "agent/log.h"

#define MESSAGES_PER_EVENT 64

enum breaker {
    BREAKER_CLOSED, /* all is well: ask */
    BREAKER_OPEN,   /* do not ask before opened_until */
    BREAKER_TRYING, /* one asks; the others do not wait */
};

struct store {
    struct loop_watch watch; /* first; fd: the channel, owned, -1: none */
    struct loop *loop;
    unsigned wait_ms;
    struct store_lookup waiting; /* the list's head; its next has the nearest deadline */
    unsigned waiting_count;
    uint32_t last_number;
    enum breaker breaker;
    unsigned failures; /* in a row */
    uint64_t open_until;
    struct control_store_use use;
    uint8_t buffer[CHANNEL_BUFFER_SIZE];
};

/* ---- the breaker ---- */

static bool
may_ask(struct store *store)
{
    if (store->breaker == BREAKER_CLOSED)
        return true;
    if (store->breaker == BREAKER_TRYING || loop_now(store->loop) < store->open_until)
        return false;
    store->breaker = BREAKER_TRYING;
    return true;
}

static void
note_failure(struct store *store)
{
    store->failures++;
    if (store->breaker == BREAKER_CLOSED && store->failures < STORE_FAILURES)
        return;
    if (store->breaker == BREAKER_CLOSED) {
        store->use.changes++;
        log_warning("the fleet's store does not answer: full handshakes until it does");
    }
    store->breaker = BREAKER_OPEN;
    store->open_until = loop_now(store->loop) + STORE_OPEN_MS;
}

static void
note_success(struct store *store)
{
    if (store->breaker != BREAKER_CLOSED)
        log_info("the fleet's store answers again");
    store->breaker = BREAKER_CLOSED;
    store->failures = 0;
}

/* ---- lookups ---- */

static void deadline_met(void *data);

static void
set_alarm(struct store *store)
{
    if (store->waiting_count > 0)
        loop_alarm_set(store->loop, store->waiting.next->until, deadline_met, store);
    else
        loop_alarm_set(store->loop, 0, NULL, NULL);
}

static void
take_out(struct store *store, struct store_lookup *lookup)
{
    lookup->previous->next = lookup->next;
    lookup->next->previous = lookup->previous;
    lookup->previous = lookup->next = NULL;
    store->waiting_count--;
}

/* The lookup may be gone when this returns, and so may others. */
static void
answer(struct store *store, struct store_lookup *lookup, enum store_answer what)
{
    take_out(store, lookup);
    lookup->answer = what;
    lookup->answered(lookup);
}

static void
deadline_met(void *data)
{
    struct store *store = data;

    while (store->waiting_count > 0 && store->waiting.next->until <= loop_now(store->loop)) {
        store->use.late++;
        note_failure(store);
        answer(store, store->waiting.next, STORE_CANNOT);
    }
    set_alarm(store);
}

static struct store_lookup *
find(struct store *store, uint32_t number)
{
    for (struct store_lookup *one = store->waiting.next; one != &store->waiting; one = one->next) {
        if (one->number == number)
            return one;
    }
    return NULL;
}

/* ---- the fetcher's words ---- */

static void
take_found(struct store *store, const struct channel_message *message)
{
    struct store_found found;
    struct store_lookup *lookup;

    if (!store_get_found(&found, message->body, message->size) ||
        (lookup = find(store, found.number)) == NULL)
        return; /* too late */
    lookup->entry = malloc(found.entry_size);
    if (lookup->entry != NULL) {
        memcpy(lookup->entry, found.entry, found.entry_size);
        lookup->size = found.entry_size;
    }
    store->use.found++;
    note_success(store);
    answer(store, lookup, lookup->entry != NULL ? STORE_HAS_IT : STORE_HAS_NOT);
}

static void
take_number(struct store *store, const struct channel_message *message)
{
    struct store_number m;
    struct store_lookup *lookup;

    if (!store_get_number(&m, message->body, message->size) ||
        (lookup = find(store, m.number)) == NULL)
        return;
    if (message->type == STORE_MISSING) {
        note_success(store);
        answer(store, lookup, STORE_HAS_NOT);
    } else {
        store->use.failed++;
        note_failure(store);
        answer(store, lookup, STORE_CANNOT);
    }
}

/* Without a fetcher nobody waits. The supervisor sends us another channel. */
static void
drop_channel(struct store *store)
{
    if (store->watch.fd == -1)
        return;
    loop_watch_set(store->loop, &store->watch, 0);
    channel_close_fd(store->watch.fd);
    store->watch.fd = -1;
    while (store->waiting_count > 0) {
        store->use.failed++;
        answer(store, store->waiting.next, STORE_CANNOT);
    }
    if (store->breaker == BREAKER_TRYING)
        store->breaker = BREAKER_OPEN;
}

static void
channel_ready(struct loop_watch *watch, uint32_t events)
{
    struct store *store = (struct store *)watch;
    struct channel_message message;
    struct error error = {""};

    (void)events;
    for (int i = 0; i < MESSAGES_PER_EVENT && watch->fd != -1; i++) {
        enum channel_result result =
            channel_receive(watch->fd, store_handshaker_rules, store_handshaker_rule_count,
                            store->buffer, sizeof(store->buffer), &message, &error);

        if (result == CHANNEL_AGAIN)
            break;
        if (result != CHANNEL_OK) {
            if (result != CHANNEL_CLOSED)
                log_warning("channel to the fetcher: %s: closed", error.text);
            drop_channel(store);
            break;
        }
        if (message.type == STORE_FOUND)
            take_found(store, &message);
        else
            take_number(store, &message);
    }
    set_alarm(store);
}

/* ---- what the handshakes use ---- */

struct store *
store_new(struct loop *loop)
{
    struct store *store = calloc(1, sizeof(*store));

    if (store == NULL)
        log_die("out of memory");
    store->loop = loop;
    store->waiting.next = store->waiting.previous = &store->waiting;
    loop_watch_init(&store->watch, -1, channel_ready);
    return store;
}

void
store_use(struct store *store, int channel, unsigned wait_ms)
{
    drop_channel(store);
    set_alarm(store);
    loop_watch_init(&store->watch, channel, channel_ready);
    store->wait_ms = wait_ms < STORE_WAIT_MAX ? wait_ms : STORE_WAIT_MAX;
    if (loop_watch_set(store->loop, &store->watch, EPOLLIN) == -1) {
        log_warning("channel to the fetcher: epoll refuses it");
        drop_channel(store);
    }
}

void
store_look_up(struct store *store, struct store_lookup *lookup, const uint8_t name[STORE_NAME_SIZE],
              void (*answered)(struct store_lookup *lookup))
{
    struct store_get request = {.number = store->last_number + 1};
    uint8_t body[4 + STORE_NAME_SIZE];

    lookup->answer = STORE_CANNOT;
    if (store->watch.fd == -1 || store->waiting_count >= STORE_LOOKUPS_MAX || !may_ask(store)) {
        store->use.skipped++;
        return;
    }
    memcpy(request.name, name, STORE_NAME_SIZE);
    if (channel_send(store->watch.fd, STORE_GET, body, store_put_get(&request, body, sizeof(body)),
                     NULL, 0) != CHANNEL_OK) {
        store->use.failed++;
        note_failure(store); /* a channel that was closed is told by epoll */
        return;
    }
    store->use.lookups++;
    lookup->number = store->last_number = request.number;
    lookup->answered = answered;
    lookup->answer = STORE_WAITS;
    lookup->until = loop_now(store->loop) + store->wait_ms;
    lookup->next = &store->waiting;
    lookup->previous = store->waiting.previous;
    lookup->previous->next = store->waiting.previous = lookup;
    store->waiting_count++;
    set_alarm(store);
}

void
store_cancel(struct store *store, struct store_lookup *lookup)
{
    if (lookup->previous != NULL) {
        take_out(store, lookup);
        if (store->breaker == BREAKER_TRYING) /* it may have been the one that tried */
            store->breaker = BREAKER_OPEN;
        set_alarm(store);
    }
    free(lookup->entry);
    lookup->entry = NULL;
    lookup->answer = STORE_NOT_ASKED;
}

void
store_keep(struct store *store, const uint8_t name[STORE_NAME_SIZE], const uint8_t *entry,
           size_t size, uint32_t life)
{
    struct store_put request = {
        .life = life < STORE_LIFE_MAX ? life : STORE_LIFE_MAX, .entry = entry, .entry_size = size};
    uint8_t body[STORE_NAME_SIZE + 6 + STORE_ENTRY_MAX];

    if (store->watch.fd == -1)
        return;
    memcpy(request.name, name, STORE_NAME_SIZE);
    size = store_put_put(&request, body, sizeof(body));
    if (size > 0 && channel_send(store->watch.fd, STORE_PUT, body, size, NULL, 0) == CHANNEL_OK)
        store->use.stored++;
    else
        store->use.dropped++;
}

void
store_count(const struct store *store, struct control_store_use *use)
{
    *use = store->use;
    use->usable = store->watch.fd != -1 && store->breaker == BREAKER_CLOSED;
}
