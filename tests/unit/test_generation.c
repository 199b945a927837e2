/* test_generation.c: what is written is what is read; what is damaged is refused or harmless. */
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "agent/generation.h"
#include "agent/roles.h"
#include "protocol/traffic.h"

#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif

#define MANY 10000

static uid_t users[] = {0, 33, 4000000000U};
static gid_t groups[] = {100};
static char *alpn[] = {(char[]){"h2"}, (char[]){"http/1.1"}};
static char groups_text[] = "X25519:P-256";
static struct config configuration = {.max_handshakes = 5000};

static struct config_context
sample_context(char *name)
{
    return (struct config_context){
        .name = name,
        .alpn = alpn,
        .alpn_count = 2,
        .min_version = TRAFFIC_TLS_1_2,
        .max_version = TRAFFIC_TLS_1_3,
        .groups = groups_text,
        .prefer_server_ciphers = true,
        .forms = 5,
        .deadline_ms = 10000,
        .tickets = 2,
        .verify = CONFIG_VERIFY_OPTIONAL,
        .users = users,
        .user_count = 3,
        .groups_allowed = groups,
        .group_allowed_count = 1,
        .backlog = 64,
    };
}

/* Certificates are opaque here: a size and a SEQUENCE. */
static const uint8_t chain[] = {0, 0, 4, 0x30, 2, 5, 0, 0, 0, 3, 0x30, 1, 5};
static const uint8_t client_ca[] = {0, 0, 3, 0x30, 1, 9};
static const uint8_t names[] = "\x05"
                               "a.org"
                               "\x07"
                               "*.b.org";

static int
new_memfd(void)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    ck_assert_int_ge(fd, 0);
    return fd;
}

static void
add_context(struct generation_writer *writer, char *name, uint16_t index)
{
    struct config_context context = sample_context(name);
    uint8_t blob[LOAD_BLOB_MAX];
    struct error error = {""};
    size_t size = generation_put_context(&configuration, &context, index, blob, sizeof(blob));

    ck_assert_uint_gt(size, 0);
    ck_assert_msg(generation_add_context(writer, blob, size, &error) == 0, "%s", error.text);
}

static void
add_identity(struct generation_writer *writer, const uint8_t *pkcs8, size_t size, uint8_t type,
             bool is_default)
{
    struct generation_identity identity = {.key = 77, /* not read */
                                           .key_type = type,
                                           .is_default = is_default,
                                           .names = names,
                                           .names_size = sizeof(names) - 1,
                                           .explicit_names = 1,
                                           .chain = chain,
                                           .chain_size = sizeof(chain)};
    struct error error = {""};

    ck_assert_msg(generation_add_identity(writer, &identity, pkcs8, size, &error) == 0, "%s",
                  error.text);
}

static struct generation_writer *
sample(void)
{
    struct generation_writer *writer = generation_writer_new(42);
    struct error error = {""};

    add_context(writer, (char[]){"www"}, 3);
    ck_assert_int_eq(generation_add_client_ca(writer, client_ca, sizeof(client_ca), &error), 0);
    add_identity(writer, (const uint8_t *)"first key", 9, GENERATION_KEY_P256, true);
    add_identity(writer, (const uint8_t *)"second key", 10, GENERATION_KEY_RSA, false);
    add_context(writer, (char[]){"mail"}, 7);
    add_identity(writer, (const uint8_t *)"first key", 9, GENERATION_KEY_P256, false);
    return writer;
}

START_TEST(round_trip)
{
    struct generation_writer *writer = sample();
    int public_fd = new_memfd(), secret_fd = new_memfd();
    struct error error = {""};
    struct load_done done;
    struct generation_public *part;
    struct generation_secret *secret;

    ck_assert_msg(generation_write(writer, public_fd, secret_fd, &done, &error) == 0, "%s",
                  error.text);
    generation_writer_free(writer);
    ck_assert_uint_eq(done.identities, 3);
    ck_assert_uint_eq(done.keys, 2);
    ck_assert_uint_eq(done.public_size, (uint64_t)lseek(public_fd, 0, SEEK_END));
    ck_assert_uint_eq(done.secret_size, (uint64_t)lseek(secret_fd, 0, SEEK_END));

    ck_assert_ptr_null(generation_public_map(public_fd, &error)); /* not sealed yet */
    ck_assert_str_eq(error.text, "public part of the generation: not a sealed memfd");
    error_clear(&error);
    ck_assert_int_eq(generation_seal(public_fd, &error), 0);
    ck_assert_int_eq(write(public_fd, "x", 1), -1);
    ck_assert_int_eq(ftruncate(public_fd, 1), -1);
    part = generation_public_map(public_fd, &error);
    ck_assert_msg(part != NULL, "%s", error.text);
    ck_assert_uint_eq(part->generation, 42);
    ck_assert_uint_eq(part->context_count, 2);
    ck_assert_uint_eq(part->identity_count, 3);
    ck_assert_str_eq(part->contexts[0].name, "www");
    ck_assert_uint_eq(part->contexts[0].index, 3);
    ck_assert_uint_eq(part->contexts[0].max_handshakes, 5000);
    ck_assert_uint_eq(part->contexts[0].deadline_ms, 10000);
    ck_assert_uint_eq(part->contexts[0].backlog, 64);
    ck_assert_uint_eq(part->contexts[0].verify, CONFIG_VERIFY_OPTIONAL);
    ck_assert_uint_eq(part->contexts[0].tickets, 2);
    ck_assert_uint_eq(part->contexts[0].forms, 5);
    ck_assert_uint_eq(part->contexts[0].prefer_server_ciphers, 1);
    ck_assert_uint_eq(part->contexts[0].min_version, TRAFFIC_TLS_1_2);
    ck_assert_uint_eq(part->contexts[0].max_version, TRAFFIC_TLS_1_3);
    ck_assert_str_eq(part->contexts[0].ciphers, "");
    ck_assert_str_eq(part->contexts[0].groups, "X25519:P-256");
    ck_assert_uint_eq(part->contexts[0].alpn_size, 12);
    ck_assert_mem_eq(part->contexts[0].alpn, "\x02h2\x08http/1.1", 12);
    ck_assert_uint_eq(part->contexts[0].uid_count, 3);
    ck_assert_mem_eq(part->contexts[0].uids, "\0\0\0\0\0\0\0\x21\xee\x6b\x28\0", 12);
    ck_assert_uint_eq(part->contexts[0].gid_count, 1);
    ck_assert_mem_eq(part->contexts[0].gids, "\0\0\0\x64", 4);
    ck_assert_str_eq(part->contexts[1].name, "mail");
    ck_assert_uint_eq(part->client_cas[0].size, sizeof(client_ca));
    ck_assert_mem_eq(part->client_cas[0].certificates, client_ca, sizeof(client_ca));
    ck_assert_uint_eq(part->client_cas[1].size, 0);
    for (size_t i = 0; i < 3; i++) {
        ck_assert_uint_eq(part->identities[i].context, i == 2);
        ck_assert_uint_eq(part->identities[i].key, i == 1); /* equal keys are one */
        ck_assert_uint_eq(part->identities[i].is_default, i == 0);
        ck_assert_uint_eq(part->identities[i].explicit_names, 1);
        ck_assert_uint_eq(part->identities[i].names_size, sizeof(names) - 1);
        ck_assert_mem_eq(part->identities[i].names, names, sizeof(names) - 1);
        ck_assert_uint_eq(part->identities[i].chain_size, sizeof(chain));
        ck_assert_mem_eq(part->identities[i].chain, chain, sizeof(chain));
    }
    ck_assert_ptr_null(memmem(part->mapping, part->mapping_size, "first key", 9));
    generation_public_unmap(part);

    secret = generation_secret_map(secret_fd, &error);
    ck_assert_msg(secret != NULL, "%s", error.text);
    ck_assert_uint_eq(secret->generation, 42);
    ck_assert_uint_eq(secret->key_count, 2);
    ck_assert_uint_eq(secret->keys[0].type, GENERATION_KEY_P256);
    ck_assert_uint_eq(secret->keys[0].pkcs8_size, 9);
    ck_assert_mem_eq(secret->keys[0].pkcs8, "first key", 9);
    ck_assert_uint_eq(secret->keys[1].type, GENERATION_KEY_RSA);
    ck_assert_mem_eq(secret->keys[1].pkcs8, "second key", 10);
    generation_secret_unmap(secret);
    close(public_fd);
    close(secret_fd);
}
END_TEST

/* memfd_secret: sized once, mapped shared, no seals. Only where the kernel has it. */
START_TEST(memfd_secret_as_carrier)
{
    struct generation_writer *writer = sample();
    int public_fd = new_memfd(), secret_fd = (int)syscall(SYS_memfd_secret, O_CLOEXEC);
    struct error error = {""};
    struct load_done done;
    struct generation_secret *secret;

    if (secret_fd == -1) {
        printf("memfd_secret: not on this kernel\n");
    } else {
        ck_assert_msg(generation_write(writer, public_fd, secret_fd, &done, &error) == 0, "%s",
                      error.text);
        secret = generation_secret_map(secret_fd, &error);
        ck_assert_msg(secret != NULL, "%s", error.text);
        ck_assert_mem_eq(secret->keys[1].pkcs8, "second key", 10);
        generation_secret_unmap(secret);
        printf("memfd_secret: used\n");
        close(secret_fd);
    }
    generation_writer_free(writer);
    close(public_fd);
}
END_TEST

static struct {
    uint8_t *bytes[2]; /* public, secret */
    size_t size[2];
} written;

static void
write_sample(void)
{
    struct generation_writer *writer = sample();
    int fds[2] = {new_memfd(), new_memfd()};
    struct error error = {""};
    struct load_done done;

    ck_assert_int_eq(generation_write(writer, fds[0], fds[1], &done, &error), 0);
    generation_writer_free(writer);
    for (int i = 0; i < 2; i++) {
        written.size[i] = (size_t)lseek(fds[i], 0, SEEK_END);
        written.bytes[i] = malloc(written.size[i]);
        ck_assert_int_eq(pread(fds[i], written.bytes[i], written.size[i], 0),
                         (ssize_t)written.size[i]);
        close(fds[i]);
    }
}

static void
free_sample(void)
{
    free(written.bytes[0]);
    free(written.bytes[1]);
}

static volatile unsigned checksum;

static void
touch(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        checksum += bytes[i];
}

/* Map these bytes; if they are accepted, touch all that they promise. True if accepted. */
static bool
map_bytes(int which, const uint8_t *bytes, size_t size)
{
    struct error error = {""};
    int fd = new_memfd();
    bool accepted;

    ck_assert_int_eq(write(fd, bytes, size), (ssize_t)size);
    if (which == 0) {
        struct generation_public *part;

        ck_assert_int_eq(generation_seal(fd, &error), 0);
        part = generation_public_map(fd, &error);
        accepted = part != NULL;
        for (size_t i = 0; accepted && i < part->identity_count; i++) {
            ck_assert_uint_lt(part->identities[i].context, part->context_count);
            touch(part->identities[i].names, part->identities[i].names_size);
            touch(part->identities[i].chain, part->identities[i].chain_size);
        }
        for (size_t i = 0; accepted && i < part->context_count; i++) {
            touch(part->contexts[i].alpn, part->contexts[i].alpn_size);
            touch(part->contexts[i].uids, part->contexts[i].uid_count * 4);
            touch(part->contexts[i].gids, part->contexts[i].gid_count * 4);
            touch(part->client_cas[i].certificates, part->client_cas[i].size);
        }
        generation_public_unmap(part);
    } else {
        struct generation_secret *part = generation_secret_map(fd, &error);

        accepted = part != NULL;
        for (size_t i = 0; accepted && i < part->key_count; i++)
            touch(part->keys[i].pkcs8, part->keys[i].pkcs8_size);
        generation_secret_unmap(part);
    }
    if (!accepted) {
        ck_assert_str_ne(error.text, "");
        ck_assert_ptr_null(strchr(error.text, '\n'));
    }
    close(fd);
    return accepted;
}

START_TEST(truncated_or_longer)
{
    uint8_t *longer = calloc(1, written.size[_i] + 1);

    memcpy(longer, written.bytes[_i], written.size[_i]);
    ck_assert(map_bytes(_i, written.bytes[_i], written.size[_i]));
    for (size_t size = 0; size < written.size[_i]; size++)
        ck_assert_msg(!map_bytes(_i, written.bytes[_i], size), "%zu bytes", size);
    ck_assert(!map_bytes(_i, longer, written.size[_i] + 1));
    ck_assert(!map_bytes(1 - _i, written.bytes[_i], written.size[_i]));
    free(longer);
}
END_TEST

START_TEST(every_byte_changed)
{
    static const uint8_t changes[] = {0x01, 0x80, 0xff, 0x30};
    size_t accepted = 0;

    for (size_t at = 0; at < written.size[_i]; at++) {
        for (size_t i = 0; i < sizeof(changes); i++) {
            bool ok;

            written.bytes[_i][at] ^= changes[i];
            ok = map_bytes(_i, written.bytes[_i], written.size[_i]);
            accepted += ok;
            /* magic and build id must be exact; the generation's number may be any */
            if (at < 8 || (at >= 12 && at < 13 + strlen(role_build_id)))
                ck_assert_msg(!ok, "byte %zu", at);
            written.bytes[_i][at] ^= changes[i];
        }
    }
    ck_assert_uint_gt(accepted, 0); /* random bytes are free */
    ck_assert_uint_lt(accepted, written.size[_i] * sizeof(changes));
}
END_TEST

static const struct {
    const char *what;
    struct generation_identity identity;
    size_t pkcs8_size;
} bad_identities[] = {
    {"no chain", {.key_type = 1, .names = names}, 5},
    {"cut chain", {.key_type = 1, .names = names, .chain = chain, .chain_size = 6}, 5},
    {"no SEQUENCE",
     {.key_type = 1, .names = names, .chain = (const uint8_t *)"\0\0\2xx", .chain_size = 5},
     5},
    {"cut names",
     {.key_type = 1, .names = names, .names_size = 4, .chain = chain, .chain_size = sizeof(chain)},
     5},
    {"upper-case name",
     {.key_type = 1,
      .names = (const uint8_t *)"\1A",
      .names_size = 2,
      .chain = chain,
      .chain_size = sizeof(chain)},
     5},
    {"more explicit names than names",
     {.key_type = 1,
      .names = names,
      .names_size = sizeof(names) - 1,
      .explicit_names = 3,
      .chain = chain,
      .chain_size = sizeof(chain)},
     5},
    {"no key type", {.names = names, .chain = chain, .chain_size = sizeof(chain)}, 5},
    {"key type 6", {.key_type = 6, .names = names, .chain = chain, .chain_size = sizeof(chain)}, 5},
    {"no key", {.key_type = 1, .names = names, .chain = chain, .chain_size = sizeof(chain)}, 0},
};

START_TEST(writer_refuses)
{
    struct generation_writer *writer = generation_writer_new(1);
    struct error error = {""};

    ck_assert_int_eq(generation_add_identity(writer, &bad_identities[_i].identity,
                                             (const uint8_t *)"12345", 5, &error),
                     -1); /* no context */
    error_clear(&error);
    add_context(writer, (char[]){"c"}, 0);
    ck_assert_msg(generation_add_identity(writer, &bad_identities[_i].identity,
                                          (const uint8_t *)"12345", bad_identities[_i].pkcs8_size,
                                          &error) == -1,
                  "%s", bad_identities[_i].what);
    generation_writer_free(writer);
}
END_TEST

START_TEST(blob_too_small_or_damaged)
{
    struct config_context context = sample_context((char[]){"www"});
    uint8_t blob[LOAD_BLOB_MAX];
    size_t size = generation_put_context(&configuration, &context, 1, blob, sizeof(blob));
    struct generation_writer *writer = generation_writer_new(1);
    char name[SERVICE_NAME_MAX];
    struct error error = {""};

    for (size_t room = 0; room < size; room++)
        ck_assert_uint_eq(generation_put_context(&configuration, &context, 1, blob, room), 0);
    ck_assert_uint_eq(generation_put_context(&configuration, &context, 1, blob, size), size);
    for (size_t cut = 0; cut < size; cut++)
        ck_assert_int_eq(generation_add_context(writer, blob, cut, &error), -1);
    generation_context_name(blob, size, name);
    ck_assert_str_eq(name, "www");
    generation_context_name(blob, size - 1, name);
    ck_assert_str_eq(name, "");
    context.min_version = TRAFFIC_TLS_1_3;
    context.max_version = TRAFFIC_TLS_1_2;
    size = generation_put_context(&configuration, &context, 1, blob, sizeof(blob));
    ck_assert_int_eq(generation_add_context(writer, blob, size, &error), -1);
    generation_writer_free(writer);
}
END_TEST

static double
seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* 10,000 identities, each with its own key of RSA-2048's size and a chain of 3,000 bytes. */
START_TEST(ten_thousand)
{
    static uint8_t big_chain[3003], key[1218];
    struct generation_writer *writer = generation_writer_new(1);
    int public_fd = new_memfd(), secret_fd = new_memfd();
    struct error error = {""};
    struct load_done done;
    struct generation_public *part;
    struct generation_secret *secret;
    double start = seconds(), mapped, ended;

    big_chain[1] = 3000 >> 8;
    big_chain[2] = 3000 & 0xff;
    big_chain[3] = 0x30;
    add_context(writer, (char[]){"www"}, 0);
    for (unsigned i = 0; i < MANY; i++) {
        char name[32];
        struct generation_identity identity = {.key_type = GENERATION_KEY_RSA,
                                               .names = (uint8_t *)name,
                                               .chain = big_chain,
                                               .chain_size = sizeof(big_chain)};

        identity.names_size = 1 + (size_t)snprintf(name + 1, sizeof(name) - 1, "h%u.example", i);
        name[0] = (char)(identity.names_size - 1);
        memcpy(key, &i, sizeof(i));
        ck_assert_int_eq(generation_add_identity(writer, &identity, key, sizeof(key), &error), 0);
    }
    ck_assert_int_eq(generation_write(writer, public_fd, secret_fd, &done, &error), 0);
    generation_writer_free(writer);
    ck_assert_int_eq(generation_seal(public_fd, &error), 0);
    mapped = seconds();
    part = generation_public_map(public_fd, &error);
    secret = generation_secret_map(secret_fd, &error);
    ended = seconds();
    ck_assert_msg(part != NULL && secret != NULL, "%s", error.text);
    ck_assert_uint_eq(done.keys, MANY);
    ck_assert_uint_eq(part->identity_count, MANY);
    ck_assert_uint_eq(secret->key_count, MANY);
    for (unsigned i = 0; i < MANY; i++) {
        ck_assert_uint_eq(part->identities[i].key, i);
        ck_assert_mem_eq(secret->keys[i].pkcs8, &i, sizeof(i));
    }
    printf("%d identities: public %zu KiB, secret %zu KiB, written in %.0f ms, mapped in %.0f ms\n",
           MANY, part->mapping_size / 1024, secret->mapping_size / 1024, (mapped - start) * 1e3,
           (ended - mapped) * 1e3);
    generation_public_unmap(part);
    generation_secret_unmap(secret);
    close(public_fd);
    close(secret_fd);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("generation");
    TCase *whole = tcase_create("whole");
    TCase *damaged = tcase_create("damaged");
    SRunner *runner;
    int failed;

    tcase_add_test(whole, round_trip);

    tcase_add_test(whole, memfd_secret_as_carrier);
    tcase_add_loop_test(whole, writer_refuses, 0,
                        sizeof(bad_identities) / sizeof(bad_identities[0]));
    tcase_add_test(whole, blob_too_small_or_damaged);
    tcase_add_test(whole, ten_thousand);
    tcase_set_timeout(whole, 60);
    suite_add_tcase(suite, whole);
    tcase_add_checked_fixture(damaged, write_sample, free_sample);
    tcase_add_loop_test(damaged, truncated_or_longer, 0, 2);
    tcase_add_loop_test(damaged, every_byte_changed, 0, 2);
    tcase_set_timeout(damaged, 60);
    suite_add_tcase(suite, damaged);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
