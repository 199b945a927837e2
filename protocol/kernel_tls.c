/* kernel_tls.c: see kernel_tls.h. */
#include "protocol/kernel_tls.h"

#include <errno.h>
#include <linux/tcp.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include <openssl/crypto.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

#define SALT_SIZE  4 /* of GCM: the part of the nonce that both sides keep */
#define NONCE_SIZE 8 /* ... and the rest of it */

/* What setsockopt() is given: the kernel tells them apart by the first member. */
union info {
    struct tls_crypto_info common;
    struct tls12_crypto_info_aes_gcm_128 gcm128;
    struct tls12_crypto_info_aes_gcm_256 gcm256;
    struct tls12_crypto_info_chacha20_poly1305 chacha;
};

/* In the order of the bits. */
static const char *const bit_names[] = {
    "TLSv1.2 AES-128-GCM",
    "TLSv1.2 AES-256-GCM",
    "TLSv1.2 CHACHA20-POLY1305",
    "TLSv1.3 AES-128-GCM",
    "TLSv1.3 AES-256-GCM",
    "TLSv1.3 CHACHA20-POLY1305",
    "new keys",
};

uint16_t
kernel_tls_bit(const struct traffic_suite *suite)
{
    return (uint16_t)(1U << ((suite->version == TRAFFIC_TLS_1_3 ? 3 : 0) + suite->aead -
                             TRAFFIC_AES_128_GCM));
}

const char *
kernel_tls_bit_name(uint16_t bit)
{
    for (size_t i = 0; i < sizeof(bit_names) / sizeof(bit_names[0]); i++) {
        if (bit == 1U << i)
            return bit_names[i];
    }
    return NULL;
}

void
kernel_tls_describe(uint16_t bits, char *text, size_t size)
{
    size_t used = 0;

    snprintf(text, size, "none");
    for (unsigned bit = 1; bit <= KERNEL_TLS_REKEY && used < size; bit <<= 1) {
        if ((bits & bit) != 0)
            used += (size_t)snprintf(text + used, size - used, "%s%s", used > 0 ? ", " : "",
                                     kernel_tls_bit_name((uint16_t)bit));
    }
}

static void
put_u64(uint8_t *out, uint64_t value)
{
    for (int i = 7; i >= 0; i--, value >>= 8)
        out[i] = (uint8_t)value;
}

/* GCM has its nonce in two parts. In TLS 1.3 they are the iv's; in TLS 1.2 the salt is the iv's
 * and the rest is what the next record to be sent carries (RFC 5288 section 3). */
static void
put_gcm_nonce(const struct traffic_suite *suite, const struct traffic_keys *keys, uint8_t *salt,
              uint8_t *nonce)
{
    memcpy(salt, keys->iv, SALT_SIZE);
    if (suite->version == TRAFFIC_TLS_1_3)
        memcpy(nonce, keys->iv + SALT_SIZE, NONCE_SIZE);
    else
        put_u64(nonce, keys->explicit_nonce);
}

/* Returns the size of what is filled in. */
static socklen_t
put_info(union info *info, const struct traffic_suite *suite, const struct traffic_keys *keys)
{
    memset(info, 0, sizeof(*info));
    info->common.version = suite->version;
    switch (suite->aead) {
    case TRAFFIC_AES_128_GCM:
        info->common.cipher_type = TLS_CIPHER_AES_GCM_128;
        put_gcm_nonce(suite, keys, info->gcm128.salt, info->gcm128.iv);
        memcpy(info->gcm128.key, keys->key, sizeof(info->gcm128.key));
        put_u64(info->gcm128.rec_seq, keys->sequence);
        return sizeof(info->gcm128);
    case TRAFFIC_AES_256_GCM:
        info->common.cipher_type = TLS_CIPHER_AES_GCM_256;
        put_gcm_nonce(suite, keys, info->gcm256.salt, info->gcm256.iv);
        memcpy(info->gcm256.key, keys->key, sizeof(info->gcm256.key));
        put_u64(info->gcm256.rec_seq, keys->sequence);
        return sizeof(info->gcm256);
    case TRAFFIC_CHACHA20_POLY1305:
        info->common.cipher_type = TLS_CIPHER_CHACHA20_POLY1305;
        memcpy(info->chacha.iv, keys->iv, sizeof(info->chacha.iv));
        memcpy(info->chacha.key, keys->key, sizeof(info->chacha.key));
        put_u64(info->chacha.rec_seq, keys->sequence);
        return sizeof(info->chacha);
    }
    return 0;
}

int
kernel_tls_set_keys(int fd, bool sending, const struct traffic_suite *suite,
                    const struct traffic_keys *keys)
{
    union info info;
    socklen_t size = put_info(&info, suite, keys);
    int result = setsockopt(fd, SOL_TLS, sending ? TLS_TX : TLS_RX, &info, size), saved = errno;

    OPENSSL_cleanse(&info, sizeof(info));
    errno = saved;
    return result;
}

int
kernel_tls_check(int fd, const struct traffic_suite *suite)
{
    static const struct traffic_keys none;
    static const int directions[] = {TLS_TX, TLS_RX};
    union info expected;

    (void)put_info(&expected, suite, &none);
    for (size_t i = 0; i < 2; i++) {
        struct tls_crypto_info there = {0};
        socklen_t size = sizeof(there); /* the keys are not told with this size */

        if (getsockopt(fd, SOL_TLS, directions[i], &there, &size) == -1)
            return -1;
        if (size != sizeof(there) || there.version != expected.common.version ||
            there.cipher_type != expected.common.cipher_type) {
            errno = EPROTO;
            return -1;
        }
    }
    return 0;
}

uint64_t
kernel_tls_bytes_sent(int fd)
{
    struct tcp_info info;
    socklen_t size = sizeof(info);

    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == -1 ||
        size < offsetof(struct tcp_info, tcpi_bytes_acked) + sizeof(info.tcpi_bytes_acked))
        return 0;
    return info.tcpi_bytes_acked;
}

enum kernel_tls_result
kernel_tls_install(int fd, const struct traffic_state *state, struct error *error)
{
    const struct traffic_suite *suite = traffic_suite_find(state->suite);

    if (suite == NULL) {
        error_set(error, "kernel TLS: not a suite of ours");
        return KERNEL_TLS_REFUSED;
    }
    /* Without keys the protocol passes bytes through: no harm if it stays. */
    if (setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) == -1) {
        error_set(error, "kernel TLS: %s",
                  errno == ENOENT ? "the kernel has no module \"tls\"" : strerror(errno));
        return KERNEL_TLS_REFUSED;
    }
    if (kernel_tls_set_keys(fd, true, suite, &state->send) == -1) {
        error_set(error, "kernel TLS: %s to send: %s", suite->name, strerror(errno));
        return KERNEL_TLS_REFUSED;
    }
    if (kernel_tls_set_keys(fd, false, suite, &state->receive) == -1) {
        error_set(error, "kernel TLS: %s to receive: %s", suite->name, strerror(errno));
        return KERNEL_TLS_BROKEN;
    }
    return KERNEL_TLS_INSTALLED;
}
