/*
 * fuzz_move.c: what another process may send as a connection (protocol/move.h), whole: packet,
 * descriptors, memory file. What was taken can be used, in every form, and given on: then it is the
 * same.
 *
 * First byte: the type. Second: the kind of the first fd; 0x80: a kernel has keys for it; 0x40:
 * what was taken is given on. Third: the kind of the second fd; 0x80: there is one too many, or too
 * few. Two bytes: how much of the input is the memory file; the rest is the body.
 */
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/internal.h"
#include "protocol/move.h"
#include "protocol/wire.h"
#include "tests/fuzz/played_kernel.h"

#define FUZZ_MOVE_SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

/* The first fd, and what has to be closed with it. */
static void
fuzz_move_socket(uint8_t kind, int pair[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    pair[1] = -1;
    switch (kind % 64 % 6) {
    case 0:
    case 1:
        FUZZ_REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
        break;
    case 2:
        pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        break;
    case 3:
        pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        FUZZ_REQUIRE(bind(pair[0], (struct sockaddr *)&address, sizeof(address)) == 0 &&
                     listen(pair[0], 1) == 0);
        break;
    case 4:
        FUZZ_REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
        break;
    default:
        FUZZ_REQUIRE(pipe2(pair, O_CLOEXEC) == 0);
        break;
    }
    FUZZ_REQUIRE(pair[0] != -1);
}

static int
fuzz_move_file(uint8_t kind, const uint8_t *data, size_t size)
{
    int fd = memfd_create("move", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    FUZZ_REQUIRE(fd != -1 && write(fd, data, size) == (ssize_t)size);
    if (kind % 4 < 2)
        FUZZ_REQUIRE(fcntl(fd, F_ADD_SEALS, FUZZ_MOVE_SEALS) == 0);
    else if (kind % 4 == 2)
        FUZZ_REQUIRE(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
    return fd;
}

/* What left a sender and what leaves the receiver are the same, byte for byte. */
static void
fuzz_move_same(const struct channel_message *sent, int carrier)
{
    static uint8_t buffer[CHANNEL_BUFFER_SIZE];
    struct channel_message message;
    struct error error = {""};
    struct move_connection one, other;

    FUZZ_REQUIRE(channel_receive(carrier, move_rules, move_rule_count, buffer, sizeof(buffer),
                                 &message, &error) == CHANNEL_OK);
    FUZZ_REQUIRE(
        move_get_connection(&one, sent->type == MOVE_CONNECTION_LARGE, sent->body, sent->size));
    FUZZ_REQUIRE(move_get_connection(&other, message.type == MOVE_CONNECTION_LARGE, message.body,
                                     message.size));
    FUZZ_REQUIRE(one.flags == other.flags && one.form == other.form);
    FUZZ_REQUIRE(memcmp(&one.state, &other.state, sizeof(one.state)) == 0);
    FUZZ_REQUIRE(one.plain_size == other.plain_size && one.received_size == other.received_size &&
                 one.unsent_size == other.unsent_size);
    /* What reading had come to is dropped once it has failed. */
    if (sent->type == message.type && one.read_failure.kind == MOVE_NO_FAILURE)
        FUZZ_REQUIRE(sent->size == message.size &&
                     memcmp(sent->body, message.body, message.size) == 0);
    channel_message_clear(&message);
}

/* Used as its owner would, then given on: a second message is sent only if the first one was. */
static void
fuzz_move_use(struct tlsagent_conn *conn)
{
    static uint8_t plain[20000];

    if (strcmp(tlsagent_conn_form(conn), "stream") == 0)
        return; /* a plain descriptor, and no business of ours */
    FUZZ_REQUIRE(tlsagent_conn_version(conn) != NULL && tlsagent_conn_cipher(conn) != NULL);
    FUZZ_REQUIRE(strlen(tlsagent_conn_context(conn)) < SERVICE_NAME_MAX);
    FUZZ_REQUIRE(tlsagent_conn_servername(conn) == NULL || tlsagent_conn_servername(conn)[0] != 0);
    FUZZ_REQUIRE(tlsagent_conn_alpn(conn) == NULL || tlsagent_conn_alpn(conn)[0] != 0);
    (void)tlsagent_conn_agent_pid(conn);
    (void)tlsagent_pending(conn);
    (void)tlsagent_peek(conn, plain, 10);
    for (int i = 0; i < 5 && tlsagent_read(conn, plain, sizeof(plain)) > 0; i++)
        continue;
    (void)tlsagent_write(conn, "hello", 5);
    (void)tlsagent_flush(conn);
    (void)tlsagent_stop(conn);
    for (size_t i = 0, size; i < tlsagent_conn_peer_count(conn); i++)
        FUZZ_REQUIRE(tlsagent_conn_peer_der(conn, i, &size) != NULL && size > 0);
}

/* A kernel with keys that fit the message, for the descriptor that will be received next. */
static void
fuzz_move_kernel(const uint8_t *body, size_t size)
{
    struct wire_reader reader;
    const struct traffic_suite *suite;

    wire_reader_init(&reader, body, size);
    for (int i = 0; i < 9; i++) /* the suite comes behind format, flags, form and pid */
        (void)wire_get_u8(&reader);
    suite = traffic_suite_find(wire_get_u16(&reader));
    if (suite != NULL)
        played_start(fuzz_lowest_fd(), suite);
}

static void
fuzz_receive(const struct channel_message *sent, const int fds[2], size_t count, uint8_t how)
{
    struct tlsagent_conn *conn;
    int carrier[2];

    FUZZ_REQUIRE(channel_pair(carrier) == 0);
    if (channel_send(carrier[1], sent->type, sent->body, sent->size, fds, count) == CHANNEL_OK) {
        if ((how & 0x80) != 0)
            fuzz_move_kernel(sent->body, sent->size);
        conn = tlsagent_conn_receive(carrier[0]);
        FUZZ_REQUIRE(conn != NULL);
        if (tlsagent_handshake(conn) == -1) {
            FUZZ_REQUIRE(tlsagent_error(conn)[0] != '\0');
            tlsagent_abandon(conn);
        } else if ((how & 0x40) != 0 && tlsagent_conn_send(conn, carrier[1]) == 0) {
            fuzz_move_same(sent, carrier[0]);
            (void)tlsagent_close(conn);
        } else {
            fuzz_move_use(conn);
            if (tlsagent_close(conn) == TLSAGENT_WANT_POLLOUT)
                tlsagent_abandon(conn);
        }
        played.fd = -1;
    }
    close(carrier[0]);
    close(carrier[1]);
}

static void
fuzz_move(const uint8_t *data, size_t size)
{
    struct channel_message sent = {0};
    size_t file_size;
    uint8_t *body;
    int pair[2], fds[2], lowest = fuzz_lowest_fd();

    if (size < 6)
        return;
    file_size = (size_t)(data[3] << 8 | data[4]);
    file_size = file_size < size - 6 ? file_size : size - 6;
    sent.type = data[0] % 3;
    sent.size = size - 5 - file_size;
    if (sent.size > CHANNEL_BODY_MAX)
        return;
    fuzz_move_socket(data[1], pair);
    fds[0] = pair[0];
    fds[1] = fuzz_move_file(data[2], data + 5, file_size);
    sent.body = body = fuzz_copy(data + 5 + file_size, sent.size);
    fuzz_receive(&sent, fds, (sent.type == MOVE_CONNECTION) == (data[2] < 0x80) ? 1 : 2, data[1]);
    free(body);
    close(fds[0]);
    close(fds[1]);
    if (pair[1] != -1)
        close(pair[1]);
    FUZZ_REQUIRE(fuzz_lowest_fd() == lowest); /* nothing that came is kept */
}

FUZZ_TARGET(fuzz_move)
