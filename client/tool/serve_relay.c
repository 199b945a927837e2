/*
 * serve_relay.c: the relays of `tlsagent serve`: started, given connections in turn, replaced when
 * they die. The death of one costs its connections and nobody else's.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "client/internal.h"
#include "client/tool/serve.h"

#define TELLS 64 /* ends of connections that are heard at one go */

int
serve_start_relay(struct serve *serve, struct serve_relay *relay)
{
    struct error error = {""};

    relay->live = 0;
    relay->event = (struct serve_event){SERVE_RELAY, helper_start(serve->relay_program, &error)};
    if (relay->event.fd == -1) {
        serve_say("%s", error.text);
        return -1;
    }
    return serve_watch(serve, &relay->event, EPOLLIN);
}

/* Its connections are gone, and nobody else's. */
static void
lose_relay(struct serve *serve, struct serve_relay *relay)
{
    struct serve_conn *conn, *next;

    serve_say("a relay has died, and with it its connections");
    serve_unwatch(serve, &relay->event);
    close(relay->event.fd);
    relay->event.fd = -1;
    relay->live = 0;
    for (conn = TAILQ_FIRST(&serve->conns); conn != NULL; conn = next) {
        next = TAILQ_NEXT(conn, link);
        if (conn->relay == relay) {
            conn->relay = NULL;
            serve_drop(serve, conn);
        }
    }
}

int
serve_give(struct serve *serve, struct serve_conn *conn, int plain, enum relay_plain kind,
           bool tell)
{
    struct helper_gift gift = {
        .stream = &conn->conn->stream, .plain = plain, .kind = kind, .id = conn->id, .tell = tell};
    struct error error = {""};

    for (int attempt = 0; attempt < 2; attempt++) {
        struct serve_relay *relay = &serve->relays[serve->turn++ % serve->options->relays];
        enum helper_result result = HELPER_GONE;

        if (relay->event.fd != -1)
            result = helper_give(relay->event.fd, &gift, &error);
        if (result == HELPER_OK) {
            if (tell) {
                conn->relay = relay;
                relay->live++;
            }
            return 0;
        }
        if (result == HELPER_FAILED)
            break;
        if (relay->event.fd != -1)
            lose_relay(serve, relay);
        serve->turn--; /* the same again */
        if (serve_start_relay(serve, relay) == -1)
            return -1;
    }
    serve_say("%s", error.text[0] != '\0' ? error.text : "relays die as soon as they are started");
    return -1;
}

void
serve_hear_relay(struct serve *serve, struct serve_relay *relay)
{
    static uint8_t buffer[CHANNEL_BUFFER_SIZE];
    struct channel_message message;
    struct relay_ended ended;
    struct serve_conn *conn = NULL;
    enum channel_result result;

    for (int i = 0; i < TELLS; i++) {
        result = channel_receive(relay->event.fd, relay_worker_rules, relay_worker_rule_count,
                                 buffer, sizeof(buffer), &message, NULL);
        if (result == CHANNEL_AGAIN)
            return;
        if (result != CHANNEL_OK || message.type != RELAY_ENDED ||
            !relay_get_ended(&ended, message.body, message.size)) {
            lose_relay(serve, relay);
            return;
        }
        TAILQ_FOREACH(conn, &serve->conns, link)
        {
            if (conn->id == ended.id && conn->relay == relay)
                break;
        }
        if (conn == NULL)
            continue;
        relay->live--;
        conn->relay = NULL;
        serve_drop(serve, conn);
    }
}
