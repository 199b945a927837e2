/*
 * move_fixture.h: a connection of the library whose peer is OpenSSL, and a way to move it to
 * another object of the same process. What is moved has facts worth comparing.
 */
#ifndef TESTS_MOVE_FIXTURE_H
#define TESTS_MOVE_FIXTURE_H

#include "tests/unit/openssl_fixture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "client/internal.h"
#include "client/slot.h"
#include "client/tlsagent.h"
#include "protocol/channel.h"

#define MOVE_CONTEXT "www"
#define MOVE_SNI     "www.example.org"
#define MOVE_ALPN    "http/1.1"
#define MOVE_PID     4711

/* Two certificates as far as their sizes go. */
static const uint8_t move_chain[] = {0, 0, 5, 'c', 'h', 'a', 'i', 'n', 0, 0, 2, 'C', 'A'};

static struct tlsagent_conn *conn; /* ours, on fds[0] or a copy of it */
static int ends[2];                /* connections go in at 0 and come out at 1 */
static size_t slots_before, fds_before;

static size_t
count_fds(void)
{
    DIR *directory = opendir("/proc/self/fd");
    size_t count = 0;

    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count;
}

/* A connection as the agent's answer makes it. It owns fd. */
static struct tlsagent_conn *
move_make(int fd, const struct traffic_state *state)
{
    struct service_finished said = {
        .form = SERVICE_FORM_RECORDS,
        .resumed = 1,
        .agent_pid = MOVE_PID,
        .state = *state,
        .context = MOVE_CONTEXT,
        .sni = MOVE_SNI,
        .alpn = MOVE_ALPN,
        .chain = move_chain,
        .chain_size = sizeof(move_chain),
    };
    struct tlsagent_conn *made = conn_new(fd);

    made->owns_fd = true;
    conn_start_stream(made, &said);
    ck_assert_int_eq(made->code, TLSAGENT_OK);
    made->phase = CONN_DONE;
    return made;
}

static void
move_open(void)
{
    slots_before = slot_count();
    fds_before = count_fds();
    fds[0] = fds[1] = -1;
    ck_assert_int_eq(channel_pair(ends), 0);
}

static inline void
move_begin(uint16_t suite, const char *early)
{
    move_open();
    fixture_handshake(suite, true, early);
    conn = move_make(fds[0], &half.state);
    fixture_handed_over();
}

static struct tlsagent_conn *
move_receive(void)
{
    struct tlsagent_conn *came = tlsagent_conn_receive(ends[1]);

    ck_assert_msg(came != NULL, "errno %d", errno);
    ck_assert_msg(tlsagent_handshake(came) == 0, "%s", tlsagent_error(came));
    return came;
}

/* To another object. */
static inline void
move(void)
{
    struct tlsagent_conn *old = conn;

    ck_assert_msg(tlsagent_conn_send(conn, ends[0]) == 0, "%s", tlsagent_error(conn));
    conn = move_receive();
    tlsagent_abandon(old);
}

/* Nothing is left: no fd, no record state. */
static inline void
move_end(void)
{
    tlsagent_abandon(conn);
    conn = NULL;
    SSL_free(peer);
    peer = NULL;
    if (fds[1] != -1)
        close(fds[1]);
    for (int i = 0; i < 2; i++)
        if (ends[i] != -1)
            close(ends[i]);
    ck_assert_uint_eq(slot_count(), slots_before);
    ck_assert_uint_eq(count_fds(), fds_before);
}

#endif
