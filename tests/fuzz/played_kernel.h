/*
 * played_kernel.h: a kernel with TLS, played by the fuzz input, for the kernel form. Linked with
 * --wrap=setsockopt,getsockopt,sendmsg,recvmsg: calls on the descriptor `played.fd`, and those that
 * only a kernel with TLS knows, come here; every other one goes to the real kernel.
 *
 * What must be true of those who use it is required here: nothing follows our close_notify or fatal
 * alert, and nothing but its key follows our KeyUpdate.
 */
#ifndef TESTS_FUZZ_PLAYED_KERNEL_H
#define TESTS_FUZZ_PLAYED_KERNEL_H

#include <errno.h>
#include <linux/tcp.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "client/record.h"
#include "protocol/kernel_tls.h"
#include "tests/fuzz/fuzz.h"

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

#define PLAYED_ITEMS 64

/* What the next recvmsg() gives. */
struct played_item {
    int error;    /* errno, 0: none */
    uint8_t type; /* of the record; 0: the end of TCP */
    bool open;    /* it goes on in the next item */
    size_t size, at;
    const uint8_t *bytes;
};

static struct {
    int fd; /* -1: none has keys here */
    struct played_item items[PLAYED_ITEMS];
    size_t first, count;
    int refuse_protocol, refuse_send_keys, refuse_receive_keys; /* errno, 0: take */
    int refuse_send;  /* errno of the next sends, 0: none */
    size_t room;      /* bytes that one send takes at most */
    uint64_t acked;   /* bytes that TCP has sent */
    uint16_t version; /* that the kernel says it has */
    uint16_t cipher;
    bool has_keys;
    bool key_due; /* our KeyUpdate has gone */
    bool closed;  /* our last word has gone */
} played = {.fd = -1};

int __real_setsockopt(int fd, int level, int name, const void *value, socklen_t size);
int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t size);
int __real_getsockopt(int fd, int level, int name, void *value, socklen_t *size);
int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *size);
ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __real_recvmsg(int fd, struct msghdr *message, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags);

static int
played_answer(int error)
{
    errno = error;
    return error == 0 ? 0 : -1;
}

int
__wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    if (fd == played.fd && level == IPPROTO_TCP && name == TCP_ULP)
        return played_answer(played.refuse_protocol);
    if (fd != played.fd || level != SOL_TLS)
        return __real_setsockopt(fd, level, name, value, size);
    FUZZ_REQUIRE(name == TLS_TX || name == TLS_RX);
    FUZZ_REQUIRE(size >= sizeof(struct tls12_crypto_info_aes_gcm_128));
    if (name == TLS_RX)
        return played_answer(played.refuse_receive_keys);
    if (played.refuse_send_keys == 0)
        played.key_due = false;
    return played_answer(played.refuse_send_keys);
}

int
__wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    if (fd == played.fd && level == IPPROTO_TCP && name == TCP_INFO) {
        struct tcp_info info = {.tcpi_bytes_acked = played.acked};

        FUZZ_REQUIRE(*size <= sizeof(info));
        memcpy(value, &info, *size);
        return 0;
    }
    if (fd == played.fd && level == SOL_TLS) {
        struct tls_crypto_info info = {played.version, played.cipher};

        FUZZ_REQUIRE(*size == sizeof(info)); /* or the keys would come out of the kernel again */
        memcpy(value, &info, sizeof(info));
        return played_answer(played.has_keys ? 0 : EBUSY);
    }
    return __real_getsockopt(fd, level, name, value, size);
}

/* A control record: of a kind that we may send, and in its place. */
static void
played_control(const struct msghdr *message, size_t size)
{
    const struct cmsghdr *header = CMSG_FIRSTHDR(message);
    const uint8_t *content = message->msg_iov[0].iov_base;

    FUZZ_REQUIRE(header != NULL && header->cmsg_level == SOL_TLS &&
                 header->cmsg_type == TLS_SET_RECORD_TYPE && message->msg_iovlen == 1);
    if (*CMSG_DATA(header) == RECORD_ALERT) {
        FUZZ_REQUIRE(size == 2 && (content[0] == 1 || content[0] == 2));
        played.closed = content[0] == 2 || content[1] == RECORD_CLOSE_NOTIFY;
    } else {
        FUZZ_REQUIRE(*CMSG_DATA(header) == RECORD_HANDSHAKE && size == 5 && content[0] == 24 &&
                     content[4] <= 1);
        FUZZ_REQUIRE(played.version == TRAFFIC_TLS_1_3);
        played.key_due = true;
    }
}

ssize_t
__wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
    size_t size = 0;

    if (fd != played.fd)
        return __real_sendmsg(fd, message, flags);
    FUZZ_REQUIRE((flags & MSG_NOSIGNAL) != 0 && message->msg_iovlen > 0);
    FUZZ_REQUIRE(!played.key_due && !played.closed);
    if (played.refuse_send != 0)
        return played_answer(played.refuse_send);
    for (size_t i = 0; i < message->msg_iovlen; i++)
        size += message->msg_iov[i].iov_len;
    if (size > played.room)
        return (ssize_t)(played.room > 0 ? played.room : 1);
    if (message->msg_controllen > 0)
        played_control(message, size);
    return (ssize_t)size;
}

ssize_t
__wrap_recvmsg(int fd, struct msghdr *message, int flags)
{
    struct played_item *item = &played.items[played.first];
    struct cmsghdr *header;
    size_t size;
    bool taken = (flags & MSG_PEEK) == 0;

    if (fd != played.fd)
        return __real_recvmsg(fd, message, flags);
    if (played.first == played.count)
        return played_answer(EAGAIN);
    size = item->size - item->at;
    if (size > message->msg_iov[0].iov_len)
        size = message->msg_iov[0].iov_len;
    message->msg_flags = item->at + size < item->size || item->open ? 0 : MSG_EOR;
    if (size > 0)
        memcpy(message->msg_iov[0].iov_base, item->bytes + item->at, size);
    if (taken && item->type != 0) /* the end stays */
        item->at += size;
    if (taken && item->at == item->size && (item->type != 0 || item->error != 0))
        played.first++;
    if (item->error != 0)
        return played_answer(item->error);
    if (item->type == 0) {
        message->msg_controllen = 0;
        return 0;
    }
    FUZZ_REQUIRE(message->msg_controllen >= CMSG_SPACE(1)); /* else a real kernel says EIO */
    header = CMSG_FIRSTHDR(message);
    header->cmsg_level = SOL_TLS;
    header->cmsg_type = TLS_GET_RECORD_TYPE;
    header->cmsg_len = CMSG_LEN(1);
    *CMSG_DATA(header) = item->type;
    return (ssize_t)size;
}

/* A kernel that has keys of the suite for fd. */
static inline void
played_start(int fd, const struct traffic_suite *suite)
{
    static const uint16_t ciphers[] = {[TRAFFIC_AES_128_GCM] = TLS_CIPHER_AES_GCM_128,
                                       [TRAFFIC_AES_256_GCM] = TLS_CIPHER_AES_GCM_256,
                                       [TRAFFIC_CHACHA20_POLY1305] = TLS_CIPHER_CHACHA20_POLY1305};

    memset(&played, 0, sizeof(played));
    played.fd = fd;
    played.room = SIZE_MAX;
    played.has_keys = true;
    played.version = suite->version;
    played.cipher = ciphers[suite->aead];
}

static inline void
played_add(const struct played_item *item)
{
    if (played.count < PLAYED_ITEMS)
        played.items[played.count++] = *item;
}

#endif
