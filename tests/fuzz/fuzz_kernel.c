/*
 * fuzz_kernel.c: the kernel form: the agent puts keys into a kernel that may refuse, and the
 * library goes on with what the kernel gives it of a hostile peer's records. The kernel is played
 * by the input (played_kernel.h).
 *
 * First byte: the suite; 0x40: server; 0x80: keys can be changed. Second: what the kernel refuses
 * at the start. Then steps: a byte that says what happens, two bytes of size or number, and for a
 * record its bytes, the type first.
 */
#include "tests/fuzz/fuzz.h"

#include <sys/mman.h>
#include <unistd.h>

#include "client/ktls.h"
#include "client/stream_move.h"
#include "protocol/service.h"
#include "tests/fuzz/played_kernel.h"

#define FUZZ_KERNEL_STEPS 60

enum fuzz_kernel_step {
    FUZZ_RECORD,
    FUZZ_RECORD_OPEN, /* and the next one goes on with it */
    FUZZ_ERROR,
    FUZZ_END,
    FUZZ_READ,
    FUZZ_PEEK,
    FUZZ_WRITE,
    FUZZ_SENDFILE,
    FUZZ_FLUSH,
    FUZZ_UPDATE,
    FUZZ_SHUTDOWN,
    FUZZ_STOP,
    FUZZ_REFUSE_SEND,
    FUZZ_REFUSE_KEYS,
    FUZZ_WEAR,
    FUZZ_MOVE,
    FUZZ_KERNEL_STEP_COUNT
};

static const int fuzz_errors[] = {0,           EAGAIN,     EBADMSG, EMSGSIZE, EINVAL,
                                  EKEYEXPIRED, ECONNRESET, EPIPE,   EIO,      ENOMEM};

static int
fuzz_errno(size_t number)
{
    return fuzz_errors[number % (sizeof(fuzz_errors) / sizeof(fuzz_errors[0]))];
}

static const uint16_t fuzz_kernel_suites[] = {0x1301, 0x1302, 0x1303, 0xc02b, 0xc02c, 0xcca8};

/* The agent's side: each of the steps may be refused. */
static void
fuzz_install(int fd, const struct traffic_state *state, uint8_t refused)
{
    struct error error = {""};
    enum kernel_tls_result result;
    char text[256];
    uint16_t bit = kernel_tls_bit(traffic_suite_find(state->suite));

    played.refuse_protocol = refused & 1 ? ENOENT : refused & 2 ? EEXIST : 0;
    played.refuse_send_keys = refused & 4 ? EINVAL : 0;
    played.refuse_receive_keys = refused & 8 ? ENOMEM : 0;
    result = kernel_tls_install(fd, state, &error);
    FUZZ_REQUIRE(result == ((refused & 7) != 0   ? KERNEL_TLS_REFUSED
                            : (refused & 8) != 0 ? KERNEL_TLS_BROKEN
                                                 : KERNEL_TLS_INSTALLED));
    FUZZ_REQUIRE((result == KERNEL_TLS_INSTALLED) == (error.text[0] == '\0'));
    kernel_tls_describe(refused | bit, text, sizeof(text));
    FUZZ_REQUIRE(kernel_tls_bit_name(bit) != NULL && strstr(text, kernel_tls_bit_name(bit)));
    played.refuse_protocol = played.refuse_send_keys = played.refuse_receive_keys = 0;
}

/* To another process, as far as the message goes: it may not be refused, and loses nothing. */
static void
fuzz_move_stream(struct stream *stream)
{
    static uint8_t body[CHANNEL_BODY_MAX], again[CHANNEL_BODY_MAX];
    struct move_connection m = {.form = SERVICE_FORM_KERNEL, .context = "www"}, came;
    struct error error = {""};
    int fd = stream->fd;
    size_t size;

    if (stream->record == NULL)
        return;
    FUZZ_REQUIRE(stream_describe(stream, &m, &error) == 0);
    size = move_put_connection(&m, false, body, sizeof(body));
    FUZZ_REQUIRE(size > 0 && move_get_connection(&came, false, body, size));
    stream_clear(stream);
    FUZZ_REQUIRE(stream_restore(stream, fd, &came, &error) == 0);
    memset(&m, 0, sizeof(m));
    m.form = SERVICE_FORM_KERNEL;
    memcpy(m.context, "www", 4);
    FUZZ_REQUIRE(stream_describe(stream, &m, &error) == 0);
    FUZZ_REQUIRE(move_put_connection(&m, false, again, sizeof(again)) == size);
    FUZZ_REQUIRE(memcmp(body, again, size) == 0);
}

static void
fuzz_check_result(const struct stream *stream, ssize_t got, const struct error *error)
{
    FUZZ_REQUIRE(got >= -1 || got == STREAM_WANT_POLLIN || got == STREAM_WANT_POLLOUT);
    FUZZ_REQUIRE(got != -1 || (error->text[0] != '\0' && stream->code != TLSAGENT_OK));
}

/* One step that is the worker's. */
static void
fuzz_use(struct stream *stream, enum fuzz_kernel_step step, size_t number)
{
    static uint8_t plain[20000];
    struct iovec parts[3] = {{plain, number % 20}, {plain, number % 5000}, {plain, number % 3}};
    struct error error = {""};
    off_t at = 0;
    ssize_t got = 0;
    int file;

    switch (step) {
    case FUZZ_READ:
        got = stream_read(stream, plain, 1 + number % sizeof(plain), &error);
        break;
    case FUZZ_PEEK:
        got = stream_peek(stream, plain, 1 + number % sizeof(plain), &error);
        break;
    case FUZZ_WRITE:
        got = stream_writev(stream, parts, 3, &error);
        break;
    case FUZZ_SENDFILE:
        file = memfd_create("file", MFD_CLOEXEC);
        FUZZ_REQUIRE(file != -1 && write(file, plain, number % 300) != -1);
        got = stream_sendfile(stream, number % 7 == 0 ? -1 : file, &at, number % 400, &error);
        close(file);
        break;
    case FUZZ_FLUSH:
        got = stream_flush(stream, &error);
        break;
    case FUZZ_UPDATE:
        got = stream_update_keys(stream, number % 2 == 1, &error);
        break;
    case FUZZ_SHUTDOWN:
        got = number % 2 == 1 ? stream_shutdown_send(stream, &error)
                              : stream_shutdown(stream, &error);
        break;
    default:
        got = stream_stop(stream, &error);
        FUZZ_REQUIRE(got == -1);
        break;
    }
    fuzz_check_result(stream, got, &error);
}

/* One step; returns the size of what it took of the input. */
static size_t
fuzz_step(struct stream *stream, const uint8_t *data, size_t size)
{
    enum fuzz_kernel_step step = data[0] % FUZZ_KERNEL_STEP_COUNT;
    size_t number = (size_t)(data[1] << 8 | data[2]), taken = 0;
    struct played_item item = {.type = RECORD_APPLICATION_DATA};

    switch (step) {
    case FUZZ_RECORD:
    case FUZZ_RECORD_OPEN:
        taken = number % (TRAFFIC_PLAINTEXT_MAX + 1) < size - 3
                    ? number % (TRAFFIC_PLAINTEXT_MAX + 1)
                    : size - 3;
        item.open = step == FUZZ_RECORD_OPEN;
        if (taken > 0) {
            item.type = data[3] != 0 ? data[3] : RECORD_HANDSHAKE;
            item.bytes = data + 4;
            item.size = taken - 1;
        }
        played_add(&item);
        break;
    case FUZZ_ERROR:
        item.error = fuzz_errno(number);
        played_add(&item);
        break;
    case FUZZ_END:
        item.type = 0;
        played_add(&item);
        break;
    case FUZZ_REFUSE_SEND:
        played.refuse_send = fuzz_errno(number);
        played.room = number < 0x8000 ? SIZE_MAX : number % 64;
        break;
    case FUZZ_REFUSE_KEYS:
        played.refuse_send_keys = number & 1 ? EBUSY : 0;
        played.refuse_receive_keys = number & 2 ? EBUSY : 0;
        break;
    case FUZZ_WEAR: /* others have sent so much */
        played.acked += (uint64_t)number << 24;
        break;
    case FUZZ_MOVE:
        fuzz_move_stream(stream);
        break;
    default:
        fuzz_use(stream, step, number);
    }
    return 3 + taken;
}

static void
fuzz_kernel(const uint8_t *data, size_t size)
{
    struct traffic_state state = {.max_fragment = TRAFFIC_PLAINTEXT_MAX};
    const struct traffic_suite *suite;
    struct error error = {""};
    struct stream stream;
    int pair[2];

    if (size < 2)
        return;
    state.suite = fuzz_kernel_suites[data[0] % 6];
    suite = traffic_suite_find(state.suite);
    FUZZ_REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    played_start(pair[0], suite);
    fuzz_install(pair[0], &state, data[1]);
    if ((data[0] & 0x80) != 0 && suite->version == TRAFFIC_TLS_1_3) {
        memset(state.send.secret, 1, suite->hash_size);
        memset(state.receive.secret, 2, suite->hash_size);
    }
    played.has_keys = (data[1] & 0x10) == 0;
    played.version ^= (data[1] & 0x20) != 0;
    memset(&stream, 0, sizeof(stream));
    if (ktls_start(&stream, pair[0], &state, (data[0] & 0x40) != 0, &error) == 0) {
        FUZZ_REQUIRE((data[1] & 0x30) == 0);
        data += 2;
        size -= 2;
        for (int steps = 0; steps < FUZZ_KERNEL_STEPS && size >= 3; steps++) {
            size_t taken = fuzz_step(&stream, data, size);

            data += taken;
            size -= taken;
        }
    } else {
        FUZZ_REQUIRE((data[1] & 0x30) != 0 && error.text[0] != '\0');
    }
    stream_clear(&stream);
    played.fd = -1;
    close(pair[0]);
    close(pair[1]);
}

FUZZ_TARGET(fuzz_kernel)
