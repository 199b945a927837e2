/*
 * no_keeper.c: the agent with the private key in its handshaker, to measure what the keeper costs.
 *
 * Linked with --wrap into a tlsagentd of its own under build/tests. It reads the key from the file
 * BENCH_KEY, signs itself, and makes up the keys of tickets, which therefore open nowhere. TLS 1.3
 * only. The product has no such switch.
 */
#include <stdio.h>
#include <string.h>

#include <openssl/pem.h>
#include <openssl/rand.h>

#include "agent/keycall.h"
#include "agent/log.h"
#include "agent/selftest.h"

struct keycall *__real_keycall_open(int fd, int wait_ms, struct error *error);
struct keycall *__wrap_keycall_open(int fd, int wait_ms, struct error *error);
void __wrap_keycall_serve(struct keycall *keeper, const struct keyops_wish *wish,
                          struct onetime_keys *keys);
int __wrap_keycall_sign_tls13(struct keycall *keeper, struct keyops_sign_tls13 *request,
                              uint8_t *signature, size_t room, size_t *size);

int __wrap_selftest_run(struct cell *cell, const struct generation_public *part,
                        struct error *error);

static EVP_PKEY *key;
static const struct keyops_wish *wished;
static struct onetime_keys *wished_keys;

/* It would notice the tickets. */
int
__wrap_selftest_run(struct cell *cell, const struct generation_public *part, struct error *error)
{
    (void)cell;
    (void)part;
    (void)error;
    return 0;
}

struct keycall *
__wrap_keycall_open(int fd, int wait_ms, struct error *error)
{
    FILE *file = fopen(BENCH_KEY, "re");

    if (file != NULL)
        key = PEM_read_PrivateKey(file, NULL, NULL, NULL);
    if (key == NULL)
        log_die("no private key in %s", BENCH_KEY);
    fclose(file);
    return __real_keycall_open(fd, wait_ms, error);
}

void
__wrap_keycall_serve(struct keycall *keeper, const struct keyops_wish *wish,
                     struct onetime_keys *keys)
{
    (void)keeper;
    wished = wish;
    wished_keys = keys;
}

int
__wrap_keycall_sign_tls13(struct keycall *keeper, struct keyops_sign_tls13 *request,
                          uint8_t *signature, size_t room, size_t *size)
{
    static const char text[] = "TLS 1.3, server CertificateVerify";
    uint8_t content[64 + sizeof(text) + sizeof(request->hash)];
    struct keyops_ticket_key keys[KEYOPS_KEYS_MAX];
    struct keyops_answer answer = {.keys = keys};
    EVP_MD_CTX *digest = EVP_MD_CTX_new();
    int done;

    (void)keeper;
    memset(content, ' ', 64);
    memcpy(content + 64, text, sizeof(text));
    memcpy(content + 64 + sizeof(text), request->hash, request->hash_size);
    *size = room;
    done = digest != NULL && EVP_DigestSignInit(digest, NULL, EVP_sha256(), NULL, key) == 1 &&
           EVP_DigestSign(digest, signature, size, content,
                          64 + sizeof(text) + request->hash_size) == 1;
    EVP_MD_CTX_free(digest);
    if (done && wished != NULL && wished_keys != NULL) {
        answer.key_count = wished->keys;
        done = RAND_bytes((uint8_t *)keys, (int)sizeof(keys)) == 1;
        onetime_take(wished_keys, &answer, wished->scope);
    }
    return done ? 0 : KEYOPS_INTERNAL;
}
