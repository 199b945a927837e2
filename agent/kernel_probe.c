/* kernel_probe.c: see kernel_probe.h. */
#include "agent/kernel_probe.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define WAIT_MS 1000 /* for what has been sent over the loopback interface */

const char kernel_probe_text[] = "one record of kernel TLS";

/* tests/unit/test_kernel_tls.c seals the same with libtlsagent's record layer. */
const struct kernel_probe_answer kernel_probe_answers[] = {
    {0xc02f, 53, {0x17, 0x03, 0x03, 0x00, 0x30, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15,
                  0x16, 0x17, 0x4e, 0x17, 0x84, 0xcc, 0x6f, 0xe5, 0x44, 0x90, 0x31,
                  0x1c, 0xc4, 0x43, 0x1b, 0x60, 0x47, 0xbf, 0x98, 0xf1, 0x7b, 0x34,
                  0xed, 0x8f, 0xd4, 0x74, 0x03, 0x1c, 0x14, 0xed, 0x4a, 0x70, 0xdc,
                  0xc8, 0x07, 0x4d, 0xed, 0x17, 0xf0, 0xb3, 0x64, 0x12}},
    {0xc030, 53, {0x17, 0x03, 0x03, 0x00, 0x30, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15,
                  0x16, 0x17, 0x0e, 0xf7, 0x89, 0x85, 0x9d, 0xad, 0x97, 0x47, 0x9c,
                  0x03, 0x26, 0x9b, 0x91, 0x24, 0x4e, 0x0e, 0x08, 0xbd, 0xd4, 0x69,
                  0x59, 0x54, 0x90, 0xf3, 0xd2, 0x35, 0xa0, 0x45, 0x44, 0xde, 0xbb,
                  0xe6, 0x07, 0xb7, 0x66, 0xc7, 0x8e, 0xda, 0xca, 0xe0}},
    {0xcca8, 45, {0x17, 0x03, 0x03, 0x00, 0x28, 0x94, 0x55, 0xe0, 0x71, 0x96, 0x3d, 0x4b,
                  0x3b, 0x21, 0xc1, 0xa6, 0xac, 0xfb, 0xf8, 0xef, 0x51, 0xcc, 0xf2, 0xe9,
                  0x13, 0x66, 0xdc, 0x8d, 0x6b, 0xaf, 0x08, 0x8b, 0xf5, 0x48, 0x8b, 0x69,
                  0x1b, 0x51, 0xf9, 0xde, 0x46, 0xfa, 0x27, 0xb2, 0x7c}},
    {0x1301, 46, {0x17, 0x03, 0x03, 0x00, 0x29, 0x0e, 0x6c, 0x97, 0x20, 0xe4, 0x9a, 0x9c,
                  0xc4, 0x1e, 0x5f, 0xbf, 0xb2, 0xa2, 0xae, 0xf8, 0xac, 0xa7, 0xa8, 0xb2,
                  0x4f, 0xe4, 0xe5, 0xba, 0x24, 0x9f, 0x94, 0xaa, 0x3e, 0x76, 0xf8, 0xa3,
                  0x88, 0xc1, 0xdd, 0x63, 0xac, 0x64, 0x05, 0xae, 0x7e, 0xe4}},
    {0x1302, 46, {0x17, 0x03, 0x03, 0x00, 0x29, 0x50, 0x60, 0x3b, 0x51, 0xe8, 0xc0, 0x41,
                  0xe9, 0xc6, 0x5d, 0x72, 0x97, 0x0f, 0xb7, 0xfd, 0x8f, 0xff, 0x0f, 0xa3,
                  0xa7, 0xc7, 0x26, 0xc8, 0xf2, 0xfa, 0xe3, 0x29, 0xc7, 0x80, 0xfc, 0x85,
                  0xfe, 0x94, 0x09, 0xeb, 0x2b, 0x15, 0x01, 0xa7, 0x18, 0x1d}},
    {0x1303, 46, {0x17, 0x03, 0x03, 0x00, 0x29, 0x94, 0x55, 0xe0, 0x71, 0x96, 0x3d, 0x4b,
                  0x3b, 0x21, 0xc1, 0xa6, 0xac, 0xfb, 0xf8, 0xef, 0x51, 0xcc, 0xf2, 0xe9,
                  0x13, 0x66, 0xdc, 0x8d, 0x6b, 0xd7, 0xa1, 0xac, 0x79, 0xea, 0xc2, 0x33,
                  0x67, 0xa8, 0x69, 0xf9, 0x05, 0x0f, 0x20, 0xe9, 0x62, 0x9e}},
};
const size_t kernel_probe_answer_count =
    sizeof(kernel_probe_answers) / sizeof(kernel_probe_answers[0]);

void
kernel_probe_state(uint16_t suite, struct traffic_state *state)
{
    const struct traffic_suite *found = traffic_suite_find(suite);
    bool gcm12 = found->version == TRAFFIC_TLS_1_2 && found->aead != TRAFFIC_CHACHA20_POLY1305;

    memset(state, 0, sizeof(*state));
    state->suite = suite;
    state->max_fragment = TRAFFIC_PLAINTEXT_MAX;
    for (size_t i = 0; i < found->key_size; i++)
        state->send.key[i] = (uint8_t)(0x20 + i);
    for (size_t i = 0; i < (gcm12 ? 4 : TRAFFIC_IV_SIZE); i++)
        state->send.iv[i] = (uint8_t)(0xa0 + i);
    state->send.sequence = 0x030405;
    state->send.explicit_nonce = gcm12 ? UINT64_C(0x1011121314151617) : 0;
    state->receive = state->send;
    state->receive.explicit_nonce = 0;
}

/* A TCP connection with ourselves. */
static int
connect_pair(int pair[2], struct error *error)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    pair[1] = -1;
    if (listener != -1 && pair[0] != -1 &&
        bind(listener, (struct sockaddr *)&address, sizeof(address)) == 0 &&
        listen(listener, 1) == 0 &&
        getsockname(listener, (struct sockaddr *)&address, &size) == 0 &&
        connect(pair[0], (struct sockaddr *)&address, sizeof(address)) == 0)
        pair[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (pair[1] == -1) {
        error_set(error, "no connection over the loopback interface: %s", strerror(errno));
        if (pair[0] != -1)
            close(pair[0]);
    }
    if (listener != -1)
        close(listener);
    return pair[1] != -1 ? 0 : -1;
}

/* Read exactly size bytes within the time; they must be these. */
static bool
expect(int fd, const void *bytes, size_t size)
{
    uint8_t got[KERNEL_PROBE_RECORD_MAX] = {0};
    size_t have = 0;
    struct pollfd ready = {fd, POLLIN, 0};

    while (have < size) {
        ssize_t n;

        if (poll(&ready, 1, WAIT_MS) != 1)
            return false;
        n = recv(fd, got + have, size - have, MSG_DONTWAIT);
        if (n <= 0)
            return false;
        have += (size_t)n;
    }
    return memcmp(got, bytes, size) == 0;
}

/* Install on one end; what it sends must be the known record, and what it makes of the known record
 * must be the text. Returns the bits of this suite. */
static uint16_t
probe_suite(const struct kernel_probe_answer *answer, struct error *error)
{
    const struct traffic_suite *suite = traffic_suite_find(answer->suite);
    size_t text_size = strlen(kernel_probe_text);
    struct traffic_state state;
    uint16_t bits = 0;
    int pair[2];

    if (connect_pair(pair, error) == -1)
        return 0;
    kernel_probe_state(answer->suite, &state);
    if (kernel_tls_install(pair[0], &state, error) == KERNEL_TLS_INSTALLED) {
        if (send(pair[0], kernel_probe_text, text_size, MSG_NOSIGNAL) != (ssize_t)text_size ||
            send(pair[1], answer->record, answer->size, MSG_NOSIGNAL) != answer->size ||
            !expect(pair[1], answer->record, answer->size) ||
            !expect(pair[0], kernel_probe_text, text_size))
            error_set(error, "kernel TLS: %s: the kernel makes other records than we expect",
                      suite->name);
        else
            bits = kernel_tls_bit(suite);
        if (bits != 0 && suite->version == TRAFFIC_TLS_1_3 &&
            kernel_tls_set_keys(pair[0], true, suite, &state.send) == 0)
            bits |= KERNEL_TLS_REKEY;
    }
    close(pair[0]);
    close(pair[1]);
    return bits;
}

uint16_t
kernel_probe(struct error *error)
{
    uint16_t bits = 0;

    error_clear(error);
    for (size_t i = 0; i < kernel_probe_answer_count; i++) {
        bits |= probe_suite(&kernel_probe_answers[i], error);
        if (bits == 0)
            break; /* no kernel TLS at all: the other suites would say the same */
    }
    return bits;
}
