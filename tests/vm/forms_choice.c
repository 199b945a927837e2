/* forms_choice.c: which form a connection gets, with every suite, resumed or not, whatever the
 * client sends behind the handshake; and TLS stopped in the middle of a connection. */
#include <pthread.h>
#include <stdatomic.h>

#include "tests/vm/forms.h"

#define AUTO (TLSAGENT_FORM_RECORDS | TLSAGENT_FORM_KERNEL)

static void
expect_form(struct pair *pair, const char *form)
{
    CHECK(strcmp(tlsagent_conn_form(pair->conn), form) == 0, "the form is %s, not %s",
          tlsagent_conn_form(pair->conn), form);
}

static bool
kernel_has_tls(void)
{
    struct pair pair;
    bool has;

    pair_begin(&pair, &(struct options){.forms = TLSAGENT_FORM_RECORDS});
    has = setsockopt(pair.fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) == 0;
    pair_finish(&pair);
    pair_close(&pair);
    return has;
}

/* ---- suites ---- */

static void
every_suite(void)
{
    static const char *const suites[2][4] = {
        {"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384",
         "ECDHE-ECDSA-CHACHA20-POLY1305", NULL},
        {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", NULL}};

    for (int i = 0; suites[setup.version - 12][i] != NULL; i++) {
        struct pair pair;

        setup.cipher = suites[setup.version - 12][i];
        pair_open(&pair);
        CHECK(strcmp(tlsagent_conn_cipher(pair.conn), setup.cipher) == 0, "%s",
              tlsagent_conn_cipher(pair.conn));
        for (int round = 0; round < 3; round++) {
            client_write(&pair, 40000, 0);
            worker_read(&pair, 40000, 0);
            worker_write(&pair, 40000, 7);
            client_read(&pair, 40000, 7);
        }
        client_write(&pair, 1, 0);
        worker_read(&pair, 1, 0);
        SSL_shutdown(pair.peer.ssl);
        peer_flush(&pair.peer);
        expect_clean_end(&pair);
        CHECK(tlsagent_close(pair.conn) == 0, "close");
        CHECK(peer_read(&pair.peer, (uint8_t[1]){0}, 1) == 0, "no close_notify from the worker");
        printf("# %s\n", setup.cipher);
    }
}

/* ---- resumption ---- */

static void
full_and_resumed(void)
{
    struct options options = {0};

    for (int round = 0; round < 3; round++) {
        struct pair pair;

        pair_open_with(&pair, &options);
        options.ctx = pair.ctx;
        CHECK(tlsagent_conn_resumed(pair.conn) == (round > 0), "round %d: resumed is %d", round,
              tlsagent_conn_resumed(pair.conn));
        pair_echo(&pair);
        options.session = SSL_get1_session(pair.peer.ssl);
        pair_close(&pair);
    }
}

/* ---- bytes behind the handshake ---- */

/* The client's last flight and a request in one piece, cut at every place. */
static void
request_glued_to_finished(void)
{
    size_t total = 2;

    for (size_t cut = 1; cut < total; cut++) {
        struct pair pair;
        uint8_t bytes[10], *wire;

        pair_begin(&pair, &(struct options){.hold = true});
        if (setup.version == 12) { /* the client has finished only after the server: no glue */
            pair_finish(&pair);
            pair_echo(&pair);
            pair_close(&pair);
            return;
        }
        pattern_fill(bytes, sizeof(bytes), 0);
        CHECK(SSL_write(pair.peer.ssl, bytes, sizeof(bytes)) == sizeof(bytes), "SSL_write");
        wire = peer_take(&pair.peer, &total);
        peer_send(&pair.peer, wire, cut);
        peer_sleep(1);
        peer_send(&pair.peer, wire + cut, total - cut);
        pair_finish(&pair);
        if (setup.kernel)
            expect_form(&pair, "kernel");
        worker_read(&pair, 10, 0);
        worker_write(&pair, 10, 3);
        client_read(&pair, 10, 3);
        free(wire);
        pair_close(&pair);
    }
    printf("# %zu offsets\n", total - 1);
}

/* Much more than the handshake, before the agent could have installed anything. */
static void
prequeue(void)
{
    struct pair pair;
    uint8_t bytes[30000];

    pair_begin(&pair, &(struct options){.hold = true});
    pattern_fill(bytes, sizeof(bytes), 0);
    CHECK(SSL_write(pair.peer.ssl, bytes, sizeof(bytes)) == sizeof(bytes), "SSL_write");
    SSL_shutdown(pair.peer.ssl);
    peer_flush(&pair.peer);
    pair_finish(&pair);
    if (setup.kernel)
        expect_form(&pair, "kernel");
    worker_read(&pair, sizeof(bytes), 0);
    expect_clean_end(&pair);
}

static atomic_bool stealing;
static atomic_int stolen;

static void *
steal(void *argument)
{
    uint8_t bytes[4096];

    while (stealing) {
        if (recv(*(int *)argument, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
            stolen++;
    }
    return NULL;
}

/* A worker that reads during the handshake breaks its own connection at most. */
static void
data_steal(void)
{
    int ends[2] = {0};

    for (int round = 0; round < 10; round++) {
        struct pair pair;
        pthread_t thread;
        int result;

        pair_begin(&pair, &(struct options){.hold = true});
        stealing = true;
        pthread_create(&thread, NULL, steal, &pair.fd);
        peer_sleep(2);
        peer_flush(&pair.peer);
        peer_sleep(5);
        stealing = false;
        pthread_join(thread, NULL);
        shutdown(pair.peer.fd, SHUT_WR);
        fcntl(pair.fd, F_SETFL, 0);
        result = tlsagent_handshake(pair.conn);
        ends[result == 0]++;
        if (result == 0) { /* then all is right, or an error says so */
            CHECK(tlsagent_read(pair.conn, (uint8_t[1]){0}, 1) == -1, "data out of nothing");
        }
        pair_close(&pair);
    }
    printf("# %d of 10 times the worker was first; %d handshakes were broken by it\n", (int)stolen,
           ends[0]);
}

/* ---- the choice ---- */

static void
automatic(void)
{
    struct pair pair;

    pair_open_with(&pair, &(struct options){.forms = AUTO});
    expect_form(&pair, kernel_has_tls() ? "kernel" : "records");
    pair_echo(&pair);
}

static void
ipv6(void)
{
    struct sockaddr_in6 before = {0}, after = {0};
    socklen_t size = sizeof(before);
    struct pair pair;

    pair_begin(&pair, &(struct options){.ipv6 = true});
    CHECK(getsockname(pair.fd, (struct sockaddr *)&before, &size) == 0, "getsockname");
    pair_finish(&pair);
    expect_form(&pair, setup.form);
    CHECK(getsockname(pair.fd, (struct sockaddr *)&after, &size) == 0 &&
              before.sin6_family == AF_INET6 && memcmp(&before, &after, sizeof(before)) == 0,
          "another address");
    pair_echo(&pair);
    pair_close(&pair);
}

static void
unix_socket_gets_records(void)
{
    struct pair pair;

    pair_open_with(&pair, &(struct options){.forms = AUTO, .local = true});
    expect_form(&pair, "records");
    pair_echo(&pair);
}

static void
small_fragments_get_records(void)
{
    struct pair pair;

    pair_open_with(&pair,
                   &(struct options){.forms = AUTO, .fragment = TLSEXT_max_fragment_length_512});
    expect_form(&pair, "records");
    pair_echo(&pair);
}

/* What is left when ULP has succeeded and the keys were refused. */
static void
socket_with_the_protocol_and_no_keys_carries_records(void)
{
    struct pair pair;

    pair_open_with(&pair, &(struct options){.forms = AUTO, .protocol = true});
    expect_form(&pair, "records");
    pair_echo(&pair);
    client_write(&pair, 100000, 0);
    worker_read(&pair, 100000, 0);
    SSL_shutdown(pair.peer.ssl);
    peer_flush(&pair.peer);
    expect_clean_end(&pair);
}

static void
prefer_rekey(void)
{
    struct pair pair;

    pair_open_with(&pair, &(struct options){.forms = AUTO, .context = "fixed"});
    expect_form(&pair, setup.version == 12 ? "kernel" : "records");
    pair_echo(&pair);
    if (setup.version == 13) {
        SSL_key_update(pair.peer.ssl, SSL_KEY_UPDATE_REQUESTED);
        pair_echo(&pair);
    }
    pair_close(&pair);
    pair_open_with(&pair, &(struct options){.forms = TLSAGENT_FORM_KERNEL, .context = "fixed"});
    expect_form(&pair, "kernel");
}

static void
kernel_only_fails_where_it_cannot_be(void)
{
    struct pair pair;

    if (!setup.kernel && kernel_has_tls())
        return; /* the kernel form's run has this case */
    pair_begin(&pair, &(struct options){.forms = TLSAGENT_FORM_RECORDS, .local = true});
    pair_finish(&pair);
    pair_close(&pair);
    if (fork() == 0) { /* pair_begin() fails when the agent closes */
        int fds[2];
        struct tlsagent *agent = tlsagent_open(NULL);
        struct tlsagent_conn *conn;

        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0, "socketpair");
        conn = tlsagent_accept_fd(agent, "www", fds[0]);
        CHECK(tlsagent_set_forms(conn, TLSAGENT_FORM_KERNEL | TLSAGENT_FORM_KERNEL_PLAIN) == -1,
              "forms that cannot be combined");
        CHECK(tlsagent_set_forms(conn, TLSAGENT_FORM_KERNEL) == 0, "%s", tlsagent_error(conn));
        CHECK(tlsagent_handshake(conn) == -1, "handshake");
        CHECK(strstr(tlsagent_error(conn), "kernel") != NULL, "%s", tlsagent_error(conn));
        _exit(0);
    } else {
        int status;

        wait(&status);
        CHECK(status == 0, "child");
    }
}

/* ---- moved to another process (here: to another object) ---- */

static void
moved(void)
{
    struct pair pair;
    struct tlsagent_conn *there;
    int carrier[2];

    pair_open(&pair);
    pair_echo(&pair);
    client_write(&pair, 50, 9);
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, carrier) == 0, "socketpair");
    CHECK(tlsagent_conn_send(pair.conn, carrier[0]) == 0, "send: %s", tlsagent_error(pair.conn));
    CHECK(tlsagent_write(pair.conn, "x", 1) == -1, "the sender still writes");
    there = tlsagent_conn_receive(carrier[1]);
    CHECK(there != NULL && tlsagent_error_code(there) == 0, "receive: %s", tlsagent_error(there));
    tlsagent_abandon(pair.conn);
    pair.conn = there;
    expect_form(&pair, setup.form);
    worker_read(&pair, 50, 9);
    pair_echo(&pair);
    SSL_shutdown(pair.peer.ssl);
    peer_flush(&pair.peer);
    expect_clean_end(&pair);
    CHECK(tlsagent_close(pair.conn) == 0, "close");
    CHECK(peer_read(&pair.peer, (uint8_t[1]){0}, 1) == 0, "no close_notify from the worker");
}

/* ---- TLS is stopped ---- */

static void
stop_and_go_on_in_plaintext(void)
{
    for (size_t cut = 0; cut < 8; cut++) {
        uint8_t buffer[64], *wire;
        struct pair pair;
        size_t size;

        pair_open(&pair);
        pair_echo(&pair);
        fcntl(pair.fd, F_SETFL, O_NONBLOCK);
        CHECK(tlsagent_stop(pair.conn) == TLSAGENT_WANT_POLLIN, "stop: %s",
              tlsagent_error(pair.conn));
        CHECK(peer_read(&pair.peer, buffer, 1) == 0, "no close_notify from the worker");
        SSL_shutdown(pair.peer.ssl);
        wire = peer_take(&pair.peer, &size);
        /* close_notify and plaintext in one piece, after a first piece of it */
        CHECK(cut < size, "a short close_notify");
        memcpy(buffer, wire, size);
        memcpy(buffer + size, "plain", 5);
        peer_send(&pair.peer, buffer, cut);
        peer_sleep(5);
        if (cut > 0)
            CHECK(tlsagent_stop(pair.conn) == TLSAGENT_WANT_POLLIN, "stop: %s",
                  tlsagent_error(pair.conn));
        peer_send(&pair.peer, buffer + cut, size + 5 - cut);
        peer_sleep(5);
        CHECK(tlsagent_stop(pair.conn) == 0, "stop: %s", tlsagent_error(pair.conn));
        CHECK(recv(pair.fd, buffer, sizeof(buffer), 0) == 5 && memcmp(buffer, "plain", 5) == 0,
              "the plaintext behind it");
        CHECK(send(pair.fd, "answer", 6, 0) == 6, "send");
        CHECK(recv(pair.peer.fd, buffer, sizeof(buffer), 0) == 6 &&
                  memcmp(buffer, "answer", 6) == 0,
              "the worker's plaintext");
        CHECK(tlsagent_read(pair.conn, buffer, 1) == -1 &&
                  tlsagent_error_code(pair.conn) == TLSAGENT_E_ARGUMENT,
              "%s", tlsagent_error(pair.conn));
        CHECK(tlsagent_close(pair.conn) == 0, "close");
        CHECK(fcntl(pair.fd, F_GETFD) != -1, "the descriptor is the caller's");
        free(wire);
        close(pair.fd);
        close(pair.peer.fd);
    }
}

static void
stop_with_data_on_the_way(void)
{
    struct pair pair;

    pair_open(&pair);
    client_write(&pair, 5000, 0);
    CHECK(tlsagent_stop(pair.conn) == 1, "stop: %s", tlsagent_error(pair.conn));
    worker_read(&pair, 5000, 0);
    SSL_shutdown(pair.peer.ssl);
    peer_flush(&pair.peer);
    expect_clean_end(&pair);
    CHECK(tlsagent_stop(pair.conn) == 0, "stop: %s", tlsagent_error(pair.conn));
}

/* And TLS again on the same socket. */
static void
stop_and_start_again(void)
{
    struct pair pair;
    struct tlsagent_conn *second;
    struct peer again;

    pair_open(&pair);
    SSL_shutdown(pair.peer.ssl);
    peer_flush(&pair.peer);
    CHECK(tlsagent_stop(pair.conn) == 0, "stop: %s", tlsagent_error(pair.conn));
    CHECK(tlsagent_close(pair.conn) == 0, "close");
    while (peer_read(&pair.peer, (uint8_t[1]){0}, 1) > 0)
        ;
    second = tlsagent_accept_fd(pair.agent, "www", pair.fd);
    CHECK(second != NULL && tlsagent_set_forms(second, TLSAGENT_FORM_RECORDS) == 0, "accept");
    fcntl(pair.fd, F_SETFL, O_NONBLOCK);
    CHECK(tlsagent_handshake(second) == TLSAGENT_WANT_POLLIN, "%s", tlsagent_error(second));
    peer_start_on(&again, pair.ctx, pair.peer.fd);
    pair.peer = again;
    pair.conn = second;
    peer_handshake(&pair.peer, false);
    pair_finish(&pair);
    pair_echo(&pair);
}

static void
stop_is_refused(void)
{
    struct pair pair;

    pair_open(&pair);
    CHECK(tlsagent_stop(pair.conn) == -1 && tlsagent_error_code(pair.conn) == TLSAGENT_E_FORM, "%s",
          tlsagent_error(pair.conn));
    pair_echo(&pair); /* nothing happened */
}

const struct test_case form_cases[] = {
    {"every_suite", every_suite, ALWAYS},
    {"full_and_resumed", full_and_resumed, ALWAYS},
    {"request_glued_to_finished", request_glued_to_finished, ALWAYS},
    {"prequeue", prequeue, TLS13},
    {"data_steal", data_steal, TLS13},
    {"automatic", automatic, ONCE},
    {"ipv6", ipv6, ALWAYS},
    {"unix_socket_gets_records", unix_socket_gets_records, ONCE},
    {"small_fragments_get_records", small_fragments_get_records, ALWAYS},
    {"socket_with_the_protocol_and_no_keys_carries_records",
     socket_with_the_protocol_and_no_keys_carries_records, KERNEL},
    {"prefer_rekey", prefer_rekey, KERNEL},
    {"kernel_only_fails_where_it_cannot_be", kernel_only_fails_where_it_cannot_be, ONCE},
    {"moved", moved, ALWAYS},
    {"stop_and_go_on_in_plaintext", stop_and_go_on_in_plaintext, RECORDS},
    {"stop_with_data_on_the_way", stop_with_data_on_the_way, RECORDS},
    {"stop_and_start_again", stop_and_start_again, RECORDS},
    {"stop_is_refused", stop_is_refused, KERNEL},
    {NULL, NULL, 0},
};
