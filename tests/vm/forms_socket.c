/* forms_socket.c: what programs do to the socket itself: flags of send(), splice(), many processes,
 * socket options, shutdown(). In the kernel form all of it is TLS. Names as in Linux's selftest. */
#include <endian.h>
#include <linux/tls.h>
#include <pthread.h>
#include <sys/sendfile.h>

#include "protocol/traffic.h"
#include "tests/vm/forms.h"

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

#define RECORD 16384

static const uint8_t canceled[] = {1, 90}; /* an alert that is passed over */

static ssize_t
send_control(int fd, uint8_t type, const void *content, size_t size, int flags)
{
    union {
        struct cmsghdr header;
        uint8_t bytes[CMSG_SPACE(1)];
    } control = {.header = {CMSG_LEN(1), SOL_TLS, TLS_SET_RECORD_TYPE}};
    struct iovec part = {(void *)content, size};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};

    *CMSG_DATA(&control.header) = type;
    return sendmsg(fd, &message, flags);
}

/* ---- flags ---- */

static void
msg_more(void)
{
    uint8_t bytes[300];
    struct pollfd ready;
    struct pair pair;

    pair_open(&pair);
    pattern_fill(bytes, sizeof(bytes), 0);
    CHECK(send(pair.fd, bytes, 100, MSG_MORE) == 100, "send: %s", strerror(errno));
    ready = (struct pollfd){.fd = pair.peer.fd, .events = POLLIN};
    if (setup.version == 12) /* in 1.3 a ticket may be there */
        CHECK(poll(&ready, 1, 200) == 0, "sent although more was to come");
    CHECK(send(pair.fd, bytes + 100, 100, MSG_MORE) == 100, "send: %s", strerror(errno));
    CHECK(tlsagent_write(pair.conn, bytes + 200, 100) == 100, "%s", tlsagent_error(pair.conn));
    client_read(&pair, 300, 0);
    pair_close(&pair);
}

static void
msg_more_unsent(void)
{
    uint8_t bytes[100];
    struct pair pair;

    pair_open(&pair);
    pattern_fill(bytes, sizeof(bytes), 0);
    CHECK(send(pair.fd, bytes, 100, MSG_MORE) == 100, "send: %s", strerror(errno));
    CHECK(tlsagent_close(pair.conn) == 0, "close");
    client_read(&pair, 100, 0);
    CHECK(peer_read(&pair.peer, bytes, 1) == 0, "the close_notify comes behind it");
}

static void
cmsg_msg_more(void)
{
    struct pair pair;

    pair_open(&pair);
    CHECK(send_control(pair.fd, 21, canceled, sizeof(canceled), MSG_MORE) == -1 && errno == EINVAL,
          "an alert of which more is to come: %s", strerror(errno));
    pair_echo(&pair);
    pair_close(&pair);
}

static void
msg_eor(void)
{
    struct pair pair;
    uint8_t bytes[10];
    ssize_t n;

    pair_open(&pair);
    pattern_fill(bytes, sizeof(bytes), 0);
    n = send(pair.fd, bytes, sizeof(bytes), MSG_EOR); /* since Linux 6.6 */
    CHECK(n == sizeof(bytes) || (n == -1 && errno == EOPNOTSUPP), "send: %s", strerror(errno));
    if (n == -1)
        worker_write(&pair, sizeof(bytes), 0); /* nothing was sent, nothing is broken */
    client_read(&pair, sizeof(bytes), 0);
    pair_close(&pair);
}

/* MSG_WAITALL: over several records, and peeking. */
static void
recv_waitall(void)
{
    struct pair pair;
    uint8_t bytes[60];

    pair_open(&pair);
    for (uint64_t i = 0; i < 3; i++)
        client_write(&pair, 20, i * 20);
    CHECK(recv(pair.fd, bytes, 50, MSG_PEEK | MSG_WAITALL) == 50, "peek: %s", strerror(errno));
    pattern_check(bytes, 50, 0);
    CHECK(recv(pair.fd, bytes, 60, MSG_WAITALL) == 60, "recv: %s", strerror(errno));
    pattern_check(bytes, 60, 0);
    pair_close(&pair);
}

/* ---- splice: in the kernel form the fd itself takes and gives plaintext ---- */

static void
splice_from_pipe(void)
{
    struct pair pair;
    uint8_t bytes[30000];
    int ends[2];

    pair_open(&pair);
    CHECK(pipe(ends) == 0, "pipe");
    pattern_fill(bytes, sizeof(bytes), 0);
    CHECK(write(ends[1], bytes, sizeof(bytes)) == sizeof(bytes), "write");
    for (size_t done = 0; done < sizeof(bytes);) {
        ssize_t n = splice(ends[0], NULL, pair.fd, NULL, sizeof(bytes) - done, 0);

        CHECK(n > 0, "splice: %s", strerror(errno));
        done += (size_t)n;
    }
    client_read(&pair, sizeof(bytes), 0);
    pair_close(&pair);
}

static void
send_and_splice(void)
{
    struct pair pair;
    uint8_t bytes[8000];
    int ends[2];

    pair_open(&pair);
    CHECK(pipe(ends) == 0, "pipe");
    worker_write(&pair, 77, 5);
    pattern_fill(bytes, sizeof(bytes), 0);
    CHECK(write(ends[1], bytes, sizeof(bytes)) == sizeof(bytes), "write");
    CHECK(splice(ends[0], NULL, pair.fd, NULL, sizeof(bytes), 0) == sizeof(bytes), "splice: %s",
          strerror(errno));
    client_read(&pair, 77, 5);
    client_read(&pair, sizeof(bytes), 0);
    pair_close(&pair);
}

static void
splice_to_pipe(void)
{
    struct pair pair;
    uint8_t bytes[12000];
    int ends[2];

    pair_open(&pair);
    CHECK(pipe(ends) == 0, "pipe");
    client_write(&pair, sizeof(bytes), 0);
    for (size_t done = 0; done < sizeof(bytes);) {
        ssize_t n = splice(pair.fd, NULL, ends[1], NULL, sizeof(bytes) - done, 0);

        CHECK(n > 0 && read(ends[0], bytes + done, (size_t)n) == n, "splice: %s", strerror(errno));
        done += (size_t)n;
    }
    pattern_check(bytes, sizeof(bytes), 0);
    pair_close(&pair);
}

/* Bulk through the kernel both ways: the worker splices what comes back to where it came from. */
static void *
splice_echo(void *argument)
{
    struct pair *pair = argument;
    int ends[2];
    ssize_t n;

    CHECK(pipe(ends) == 0, "pipe");
    while ((n = splice(pair->fd, NULL, ends[1], NULL, 65536, 0)) > 0) {
        for (ssize_t m; n > 0; n -= m) {
            m = splice(ends[0], NULL, pair->fd, NULL, (size_t)n, 0);
            CHECK(m > 0, "splice out: %s", strerror(errno));
        }
    }
    CHECK(n == -1 && (errno == EINVAL || errno == EIO), "splice of a close_notify: %zd %s", n,
          strerror(errno));
    return NULL;
}

static void
splice_echo_bulk(void)
{
    struct pair pair;
    size_t size = bulk_size() / 8;
    pthread_t thread;

    pair_open(&pair);
    pthread_create(&thread, NULL, splice_echo, &pair);
    for (size_t done = 0; done < size; done += 32768) {
        client_write(&pair, 32768, done);
        client_read(&pair, 32768, done);
    }
    printf("# %zu MB spliced both ways, every byte checked\n", size / 1048576);
    SSL_shutdown(pair.peer.ssl);
    peer_flush(&pair.peer);
    pthread_join(thread, NULL);
    expect_clean_end(&pair); /* the library reads what splice() could not */
    pair_close(&pair);
}

static void
splice_cmsg_to_pipe(void)
{
    struct pair pair;
    int ends[2];

    pair_open(&pair);
    CHECK(pipe(ends) == 0, "pipe");
    client_craft(&pair, 21, canceled, sizeof(canceled));
    CHECK(splice(pair.fd, NULL, ends[1], NULL, 100, 0) == -1 && (errno == EINVAL || errno == EIO),
          "splice of an alert: %s", strerror(errno));
    client_craft(&pair, 23, (uint8_t[]){peer_pattern(0)}, 1);
    worker_read(&pair, 1, 0);
    pair_close(&pair);
}

static void
recv_and_splice(void)
{
    struct pair pair;
    uint8_t bytes[1000];
    int ends[2];

    pair_open(&pair);
    CHECK(pipe(ends) == 0, "pipe");
    client_write(&pair, sizeof(bytes), 0);
    worker_read(&pair, 300, 0);
    CHECK(splice(pair.fd, NULL, ends[1], NULL, 700, 0) == 700 && read(ends[0], bytes, 700) == 700,
          "splice: %s", strerror(errno));
    pattern_check(bytes, 700, 300);
    pair_close(&pair);
}

static void
splice_from_pipe2(void)
{
    struct pair pair;
    uint8_t bytes[16000];
    int ends[2][2];

    pair_open(&pair);
    pattern_fill(bytes, sizeof(bytes), 0);
    for (size_t i = 0; i < 2; i++) {
        CHECK(pipe(ends[i]) == 0, "pipe");
        CHECK(write(ends[i][1], bytes + 8000 * i, 8000) == 8000, "write");
        CHECK(splice(ends[i][0], NULL, pair.fd, NULL, 8000, 0) == 8000, "splice: %s",
              strerror(errno));
    }
    client_read(&pair, sizeof(bytes), 0);
    pair_close(&pair);
}

static void
splice_more(void)
{
    static const unsigned flags = SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT;
    struct pair pair;
    uint8_t bytes[32];
    int ends[2];

    pair_open(&pair);
    CHECK(pipe(ends) == 0, "pipe");
    pattern_fill(bytes, sizeof(bytes), 0);
    CHECK(write(ends[1], bytes, sizeof(bytes)) == sizeof(bytes), "write");
    for (size_t i = 0; i < sizeof(bytes); i++)
        CHECK(splice(ends[0], NULL, pair.fd, NULL, 1, flags) == 1, "splice: %s", strerror(errno));
    worker_write(&pair, 10, sizeof(bytes));
    client_read(&pair, sizeof(bytes) + 10, 0);
    pair_close(&pair);
}

/* Many small pieces, more than one record of the kernel's list holds, and then a longer one. */
static void
splice_short(void)
{
    enum { PIECES = 48 };
    struct pair pair;
    uint8_t bytes[PIECES + 256];
    int ends[2];

    pair_open(&pair);
    CHECK(pipe(ends) == 0 && fcntl(ends[0], F_SETPIPE_SZ, (PIECES + 1) * 4096) != -1, "pipe");
    pattern_fill(bytes, sizeof(bytes), 0);
    for (size_t i = 0; i < PIECES; i++)
        CHECK(vmsplice(ends[1], &(struct iovec){bytes + i, 1}, 1, 0) == 1, "vmsplice: %s",
              strerror(errno));
    CHECK(write(ends[1], bytes + PIECES, 256) == 256, "write");
    for (size_t done = 0; done < sizeof(bytes);) {
        ssize_t n = splice(ends[0], NULL, pair.fd, NULL, sizeof(bytes) - done, 0);

        CHECK(n > 0, "splice: %zd %s", n, strerror(errno));
        done += (size_t)n;
    }
    client_read(&pair, sizeof(bytes), 0);
    pair_close(&pair);
}

/* A pipe of one page: a record leaves the socket in several pieces. */
static void
splice_to_pipe_small(void)
{
    struct pair pair;
    uint8_t bytes[RECORD];
    int ends[2];

    pair_open(&pair);
    CHECK(pipe(ends) == 0 && fcntl(ends[1], F_SETPIPE_SZ, 4096) != -1, "pipe");
    client_write(&pair, sizeof(bytes), 0);
    for (size_t done = 0; done < sizeof(bytes);) {
        ssize_t n = splice(pair.fd, NULL, ends[1], NULL, sizeof(bytes) - done, 0);

        CHECK(n > 0 && read(ends[0], bytes + done, (size_t)n) == n, "splice: %s", strerror(errno));
        done += (size_t)n;
    }
    pattern_check(bytes, sizeof(bytes), 0);
    pair_close(&pair);
}

static void
peek_and_splice(void)
{
    enum { CHUNK = RECORD / 4 };
    struct pair pair;
    uint8_t bytes[RECORD];
    int ends[2];

    pair_open(&pair);
    CHECK(pipe(ends) == 0, "pipe");
    for (uint64_t i = 0; i < 4; i++)
        client_write(&pair, CHUNK, i * CHUNK);
    CHECK(recv(pair.fd, bytes, CHUNK * 5 / 2, MSG_WAITALL | MSG_PEEK) == CHUNK * 5 / 2, "peek: %s",
          strerror(errno));
    pattern_check(bytes, CHUNK * 5 / 2, 0);
    for (size_t done = 0; done < sizeof(bytes);) {
        ssize_t n = splice(pair.fd, NULL, ends[1], NULL, sizeof(bytes) - done, 0);

        CHECK(n > 0 && read(ends[0], bytes + done, (size_t)n) == n, "splice: %s", strerror(errno));
        done += (size_t)n;
    }
    pattern_check(bytes, sizeof(bytes), 0);
    pair_close(&pair);
}

/* A plain read() has already met it when splice() does. */
static void
splice_dec_cmsg_to_pipe(void)
{
    struct pair pair;
    uint8_t byte;
    int ends[2];

    pair_open(&pair);
    CHECK(pipe(ends) == 0, "pipe");
    client_craft(&pair, 21, canceled, sizeof(canceled));
    client_craft(&pair, 23, (uint8_t[]){peer_pattern(0)}, 1);
    CHECK(recv(pair.fd, &byte, 1, 0) == -1 && errno == EIO, "recv: %s", strerror(errno));
    CHECK(splice(pair.fd, NULL, ends[1], NULL, 100, 0) == -1 && errno == EINVAL,
          "splice of an alert: %s", strerror(errno));
    worker_read(&pair, 1, 0);
    pair_close(&pair);
}

/* On Linux 6.1 an empty record looks like an end to splice(): it is not, the data comes after. */
static void
zero_length_record_and_splice(void)
{
    struct pair pair;
    uint8_t byte = 0;
    int ends[2], zeros = 0;
    ssize_t n;

    pair_open(&pair);
    CHECK(pipe(ends) == 0, "pipe");
    client_craft(&pair, 23, "", 0);
    client_craft(&pair, 23, "", 0);
    client_craft(&pair, 23, (uint8_t[]){peer_pattern(0)}, 1);
    while ((n = splice(pair.fd, NULL, ends[1], NULL, 100, 0)) == 0 && zeros < 2)
        zeros++;
    CHECK(n == 1 && read(ends[0], &byte, 1) == 1, "splice: %zd %s", n, strerror(errno));
    pattern_check(&byte, 1, 0);
    printf("# splice() returned 0 for %d of 2 empty records\n", zeros);
    pair_close(&pair);
}

/* ---- many processes: the kernel keeps order and whole records, whoever reads and writes ---- */

#define FILLING 0xac

static void
read_in_child(int fd, size_t left)
{
    uint8_t bytes[8001];

    while (left > 0) {
        ssize_t n = recv(fd, bytes, left < sizeof(bytes) ? left : sizeof(bytes), 0);

        CHECK(n > 0, "recv: %zd %s", n, strerror(errno));
        for (ssize_t i = 0; i < n; i++)
            CHECK(bytes[i] == FILLING, "a wrong byte");
        left -= (size_t)n;
    }
}

static void
write_in_child(int fd, size_t left, int file)
{
    uint8_t bytes[6000];

    memset(bytes, FILLING, sizeof(bytes));
    while (left > 0) {
        size_t size = left < sizeof(bytes) ? left : sizeof(bytes);
        ssize_t n = file != -1 ? sendfile(fd, file, &(off_t){0}, size) : send(fd, bytes, size, 0);

        CHECK(n > 0, "send: %zd %s", n, strerror(errno));
        left -= (size_t)n;
    }
}

/* As many bytes for each child; the client writes and reads what they read and write. */
static void
multiproc(bool by_file, size_t readers, size_t writers)
{
    enum { EACH = 40000 };
    struct pair pair;
    uint8_t bytes[6000];
    size_t unsent = readers * EACH, unread = writers * EACH;
    int file = -1, status;

    pair_open(&pair);
    memset(bytes, FILLING, sizeof(bytes));
    if (by_file) {
        file = file_make(0);
        CHECK(write(file, bytes, sizeof(bytes)) == sizeof(bytes), "write");
    }
    for (size_t i = 0; i < readers + writers; i++) {
        if (fork() == 0) {
            if (i < readers)
                read_in_child(pair.fd, EACH);
            else
                write_in_child(pair.fd, EACH, file);
            _exit(0);
        }
    }
    while (unsent > 0 || unread > 0) {
        size_t size = unsent < sizeof(bytes) ? unsent : sizeof(bytes);

        if (size > 0) {
            memset(bytes, FILLING, size);
            peer_write(&pair.peer, bytes, size);
            unsent -= size;
        }
        if (unread > 0) {
            int n = peer_read(&pair.peer, bytes, unread < sizeof(bytes) ? unread : sizeof(bytes));

            CHECK(n > 0, "the end, %zu bytes too early", unread);
            for (int i = 0; i < n; i++)
                CHECK(bytes[i] == FILLING, "a wrong byte");
            unread -= (size_t)n;
        }
    }
    for (size_t i = 0; i < readers + writers; i++)
        CHECK(wait(&status) > 0 && status == 0, "a child failed");
    pair_echo(&pair);
    pair_close(&pair);
}

static void
mutliproc_even(void)
{
    multiproc(false, 6, 6);
}

static void
mutliproc_readers(void)
{
    multiproc(false, 4, 12);
}

static void
mutliproc_writers(void)
{
    multiproc(false, 10, 2);
}

static void
mutliproc_sendpage_even(void)
{
    multiproc(true, 6, 6);
}

static void
mutliproc_sendpage_readers(void)
{
    multiproc(true, 4, 12);
}

static void
mutliproc_sendpage_writers(void)
{
    multiproc(true, 10, 2);
}

/* ---- options and states of the socket ---- */

static void
non_established(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct pair pair;

    CHECK(setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) == -1 && errno == ENOTCONN,
          "a socket that is not connected: %s", strerror(errno));
    CHECK(listen(fd, 1) == 0 && setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) == -1 &&
              errno == ENOTCONN,
          "a listening socket: %s", strerror(errno));
    pair_open(&pair);
    CHECK(setsockopt(pair.fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) == -1 && errno == EEXIST,
          "a second time: %s", strerror(errno));
    pair_close(&pair);
}

/* Refused keys leave a socket that carries bytes as before. */
static void
bad_cipher(void)
{
    static const struct tls_crypto_info wrong[] = {
        {0, TLS_CIPHER_AES_GCM_128},
        {0x0302, TLS_CIPHER_AES_GCM_128},
        {TLS_1_2_VERSION, 0},
        {TLS_1_3_VERSION, 0xffff},
        {TLS_1_3_VERSION, TLS_CIPHER_AES_GCM_128}, /* of the wrong size */
    };
    struct pair pair;

    pair_open_with(&pair, &(struct options){.forms = TLSAGENT_FORM_RECORDS, .protocol = true});
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        CHECK(setsockopt(pair.fd, SOL_TLS, TLS_TX, &wrong[i], sizeof(wrong[i])) == -1, "TLS_TX");
        CHECK(setsockopt(pair.fd, SOL_TLS, TLS_RX, &wrong[i], sizeof(wrong[i])) == -1, "TLS_RX");
    }
    pair_echo(&pair);
    pair_close(&pair);
}

/* Keys for sending only, or for receiving only, are no kernel form. */
static void
one_direction_is_refused(void)
{
    uint16_t id = setup.version == 12 ? 0xc02b : 0x1301;
    const struct traffic_suite *suite = traffic_suite_find(id);

    for (int sending = 0; sending <= 1; sending++) {
        const struct traffic_keys keys = {.sequence = 1};
        struct pair pair;

        pair_open_with(&pair, &(struct options){.forms = TLSAGENT_FORM_RECORDS, .protocol = true});
        CHECK(kernel_tls_check(pair.fd, suite) == -1, "no keys at all");
        CHECK(kernel_tls_set_keys(pair.fd, sending == 1, suite, &keys) == 0, "keys: %s",
              strerror(errno));
        CHECK(kernel_tls_check(pair.fd, suite) == -1, "%s only",
              sending == 1 ? "sending" : "receiving");
        pair_close(&pair);
    }
}

static void
get_options(void)
{
    struct tls12_crypto_info_aes_gcm_128 info;
    struct tls_crypto_info there;
    uint64_t before, after;
    socklen_t size = sizeof(there);
    struct pair pair;

    pair_open(&pair);
    CHECK(getsockopt(pair.fd, SOL_TLS, TLS_TX, &there, &size) == 0 && size == sizeof(there) &&
              there.version == (setup.version == 12 ? TLS_1_2_VERSION : TLS_1_3_VERSION) &&
              there.cipher_type == TLS_CIPHER_AES_GCM_128,
          "TLS_TX: %s", strerror(errno));
    size = sizeof(there) - 1;
    CHECK(getsockopt(pair.fd, SOL_TLS, TLS_TX, &there, &size) == -1 && errno == EINVAL, "short");
    size = sizeof(info) - 1;
    CHECK(getsockopt(pair.fd, SOL_TLS, TLS_TX, &info, &size) == -1 && errno == EINVAL, "short");
    size = sizeof(info);
    CHECK(getsockopt(pair.fd, SOL_TLS, TLS_TX, &info, &size) == 0, "TLS_TX: %s", strerror(errno));
    memcpy(&before, info.rec_seq, sizeof(before));
    worker_write(&pair, 10, 0);
    CHECK(getsockopt(pair.fd, SOL_TLS, TLS_TX, &info, &size) == 0, "TLS_TX: %s", strerror(errno));
    memcpy(&after, info.rec_seq, sizeof(after));
    CHECK(be64toh(after) == be64toh(before) + 1, "the record number after one record");
    pair_close(&pair);
}

/* What goes past the library is seen all the same: the limit of AES-GCM is counted by it. */
static void
spliced_bytes_are_counted(void)
{
    struct pair pair;
    uint8_t bytes[30000];
    uint64_t before, after;
    int ends[2];

    pair_open(&pair);
    CHECK(pipe(ends) == 0, "pipe");
    before = kernel_tls_bytes_sent(pair.fd);
    CHECK(before > 0 && before < 5000, "%llu bytes of a handshake", (unsigned long long)before);
    memset(bytes, 0, sizeof(bytes));
    for (int i = 0; i < 10; i++) {
        CHECK(write(ends[1], bytes, sizeof(bytes)) == sizeof(bytes) &&
                  splice(ends[0], NULL, pair.fd, NULL, sizeof(bytes), 0) == sizeof(bytes),
              "splice: %s", strerror(errno));
        peer_read_exactly(&pair.peer, bytes, sizeof(bytes));
    }
    for (int i = 0; i < 100; i++) {
        after = kernel_tls_bytes_sent(pair.fd);
        if (after - before >= 10 * sizeof(bytes))
            break;
        peer_sleep(10); /* an acknowledgement is on its way */
    }
    CHECK(after - before >= 10 * sizeof(bytes) && after - before < 11 * sizeof(bytes), "%llu bytes",
          (unsigned long long)(after - before));
    pair_close(&pair);
}

/* What tlsagent_stop() cannot do here: nothing takes TLS off a socket again. */
static void
tls_stays_on_the_socket(void)
{
    static const struct tls_crypto_info none;
    struct pair pair;

    pair_open(&pair);
    CHECK(setsockopt(pair.fd, IPPROTO_TCP, TCP_ULP, "", 1) == -1, "no protocol");
    CHECK(setsockopt(pair.fd, IPPROTO_TCP, TCP_ULP, "none", sizeof("none")) == -1, "another one");
    CHECK(setsockopt(pair.fd, SOL_TLS, TLS_TX, &none, sizeof(none)) == -1, "no keys to send");
    CHECK(setsockopt(pair.fd, SOL_TLS, TLS_RX, &none, sizeof(none)) == -1, "no keys to receive");
    CHECK(setsockopt(pair.fd, SOL_TLS, TLS_TX, NULL, 0) == -1, "nothing at all");
    pair_echo(&pair);
    pair_close(&pair);
}

static void
disconnect(void)
{
    struct sockaddr_in nowhere = {.sin_family = AF_UNSPEC};
    struct pair pair;
    int result;

    pair_open(&pair);
    client_write(&pair, 10, 0);
    peer_sleep(20);
    result = connect(pair.fd, (struct sockaddr *)&nowhere, sizeof(nowhere));
    printf("# connect(AF_UNSPEC): %s\n", result == 0 ? "done" : strerror(errno));
    if (result == -1) {
        worker_read(&pair, 10, 0);
        pair_echo(&pair);
    } else {
        CHECK(tlsagent_write(pair.conn, "x", 1) == -1, "it is still written to");
    }
    pair_close(&pair);
}

static void
shutdown_both(void)
{
    struct pair pair;
    uint8_t byte;

    pair_open(&pair);
    pair_echo(&pair);
    CHECK(shutdown(pair.fd, SHUT_RDWR) == 0, "shutdown");
    expect_read_error(&pair, TLSAGENT_E_TRUNCATED);
    /* Linux 6.1 goes on taking data here, which nobody gets: it is the caller who shut it down. */
    if (!setup.kernel)
        CHECK(tlsagent_write(pair.conn, "x", 1) == -1 &&
                  tlsagent_error_code(pair.conn) == TLSAGENT_E_CLOSED,
              "%s", tlsagent_error(pair.conn));
    else
        (void)tlsagent_write(pair.conn, "x", 1);
    CHECK(peer_read(&pair.peer, &byte, 1) == -1, "an end that looks clean");
    pair_close(&pair);
}

/* With an open record: it comes whole or not at all. */
static void
shutdown_unsent(void)
{
    struct pair pair;
    uint8_t bytes[10];
    int n;

    pair_open(&pair);
    pattern_fill(bytes, sizeof(bytes), 0);
    CHECK(send(pair.fd, bytes, sizeof(bytes), MSG_MORE) == sizeof(bytes), "send: %s",
          strerror(errno));
    CHECK(shutdown(pair.fd, SHUT_RDWR) == 0, "shutdown");
    tlsagent_abandon(pair.conn);
    close(pair.fd);
    n = peer_read(&pair.peer, bytes, sizeof(bytes));
    CHECK(n == -1 || n == sizeof(bytes), "%d bytes of an open record", n);
}

static void
shutdown_reuse(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    struct pair pair;

    pair_open(&pair);
    CHECK(shutdown(pair.fd, SHUT_RDWR) == 0 && shutdown(pair.peer.fd, SHUT_RDWR) == 0, "shutdown");
    close(pair.peer.fd);
    (void)bind(pair.fd, (struct sockaddr *)&address, sizeof(address));
    CHECK(listen(pair.fd, 10) == -1 && errno == EINVAL, "a socket with TLS listens: %s",
          strerror(errno));
    CHECK(connect(pair.fd, (struct sockaddr *)&address, sizeof(address)) == -1,
          "a socket with TLS connects again");
}

const struct test_case socket_cases[] = {
    {"msg_more", msg_more, KERNEL},
    {"msg_more_unsent", msg_more_unsent, KERNEL},
    {"cmsg_msg_more", cmsg_msg_more, KERNEL},
    {"msg_eor", msg_eor, KERNEL},
    {"recv_waitall", recv_waitall, KERNEL},
    {"splice_from_pipe", splice_from_pipe, KERNEL},
    {"splice_from_pipe2", splice_from_pipe2, KERNEL},
    {"splice_more", splice_more, KERNEL},
    {"splice_short", splice_short, KERNEL},
    {"send_and_splice", send_and_splice, KERNEL},
    {"splice_to_pipe", splice_to_pipe, KERNEL},
    {"splice_to_pipe_small", splice_to_pipe_small, KERNEL},
    {"splice_echo_bulk", splice_echo_bulk, KERNEL},
    {"splice_cmsg_to_pipe", splice_cmsg_to_pipe, KERNEL | TLS13},
    {"splice_dec_cmsg_to_pipe", splice_dec_cmsg_to_pipe, KERNEL | TLS13},
    {"zero_length_record_and_splice", zero_length_record_and_splice, KERNEL | TLS13},
    {"recv_and_splice", recv_and_splice, KERNEL},
    {"peek_and_splice", peek_and_splice, KERNEL},
    {"mutliproc_even", mutliproc_even, KERNEL},
    {"mutliproc_readers", mutliproc_readers, KERNEL},
    {"mutliproc_writers", mutliproc_writers, KERNEL},
    {"mutliproc_sendpage_even", mutliproc_sendpage_even, KERNEL},
    {"mutliproc_sendpage_readers", mutliproc_sendpage_readers, KERNEL},
    {"mutliproc_sendpage_writers", mutliproc_sendpage_writers, KERNEL},
    {"non_established", non_established, KERNEL | ONCE},
    {"bad_cipher", bad_cipher, KERNEL},
    {"one_direction_is_refused", one_direction_is_refused, KERNEL},
    {"getsockopt", get_options, KERNEL},
    {"spliced_bytes_are_counted", spliced_bytes_are_counted, KERNEL},
    {"tls_stays_on_the_socket", tls_stays_on_the_socket, KERNEL},
    {"disconnect", disconnect, KERNEL},
    {"shutdown", shutdown_both, ALWAYS},
    {"shutdown_unsent", shutdown_unsent, KERNEL},
    {"shutdown_reuse", shutdown_reuse, KERNEL | ONCE},
    {NULL, NULL, 0},
};
