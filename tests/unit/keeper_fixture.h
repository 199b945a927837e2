/*
 * keeper_fixture.h: a generation with one key of each type, and a real keeper to talk to: this
 * test program, executed again in the keeper's role. For test_keyring, test_ticket, test_proxykey
 * and tests/hostile/test_keeper.
 */
#ifndef TESTS_UNIT_KEEPER_FIXTURE_H
#define TESTS_UNIT_KEEPER_FIXTURE_H

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent/generation.h"
#include "agent/roles.h"
#include "agent/ticket_state.h"
#include "protocol/channel.h"
#include "protocol/control.h"
#include "protocol/load.h"
#include "protocol/keyops.h"
#include "tests/unit/credential_fixture.h"

#define KEEPER_GENERATION 7

enum {
    KEY_RSA,
    KEY_P256,
    KEY_P384,
    KEY_P521,
    KEY_ED25519,
    KEY_COUNT,
};

static const struct {
    const char *kind;
    uint8_t type;
} keeper_kinds[KEY_COUNT] = {
    {"RSA2048", GENERATION_KEY_RSA},     {"P-256", GENERATION_KEY_P256},
    {"P-384", GENERATION_KEY_P384},      {"P-521", GENERATION_KEY_P521},
    {"ED25519", GENERATION_KEY_ED25519},
};

static EVP_PKEY *keeper_keys[KEY_COUNT];
static X509 *keeper_certificates[KEY_COUNT];

static inline struct blob
keeper_pkcs8(EVP_PKEY *key)
{
    PKCS8_PRIV_KEY_INFO *info = EVP_PKEY2PKCS8(key);
    struct blob der = {NULL, 0};

    REQUIRE(info != NULL);
    der.size = (size_t)i2d_PKCS8_PRIV_KEY_INFO(info, &der.data);
    PKCS8_PRIV_KEY_INFO_free(info);
    REQUIRE(der.data != NULL);
    fixture_keep(der.data);
    return der;
}

/* The keys and certificates, once per test program. */
static inline void
keeper_make_keys(void)
{
    for (size_t i = 0; i < KEY_COUNT && keeper_keys[i] == NULL; i++) {
        const struct certificate_plan plan = {.cn = keeper_kinds[i].kind, .san = "DNS:localhost"};

        keeper_keys[i] = fixture_key(keeper_kinds[i].kind);
        REQUIRE(keeper_keys[i] != NULL);
        keeper_certificates[i] = fixture_certificate(&plan, keeper_keys[i], NULL, NULL);
    }
}

/* A secret part in this process's memory, for tests without a keeper: key number i is of kind
 * i % KEY_COUNT. */
static inline struct generation_secret *
keeper_secret_part(size_t count)
{
    struct generation_secret *secret = fixture_keep(calloc(1, sizeof(*secret)));

    keeper_make_keys();
    secret->generation = KEEPER_GENERATION;
    secret->keys = fixture_keep(calloc(count, sizeof(secret->keys[0])));
    secret->key_count = count;
    for (size_t i = 0; i < count; i++) {
        struct blob der = keeper_pkcs8(keeper_keys[i % KEY_COUNT]);

        secret->keys[i].type = keeper_kinds[i % KEY_COUNT].type;
        secret->keys[i].pkcs8 = der.data;
        secret->keys[i].pkcs8_size = der.size;
    }
    return secret;
}

/* The same as a real generation: one context "www" for uid 4242, one identity for each key. */
static inline void
keeper_parts(int *public_part, int *secret_part)
{
    static char name[] = "www";
    static uid_t user = 4242;
    struct config config = {.max_handshakes = 100};
    struct config_context context = {.name = name,
                                     .min_version = 0x0303,
                                     .max_version = 0x0304,
                                     .forms = SERVICE_FORM_RECORDS,
                                     .deadline_ms = 10000,
                                     .tickets = 2,
                                     .users = &user,
                                     .user_count = 1};
    struct generation_writer *writer = generation_writer_new(KEEPER_GENERATION);
    int public_fd = memfd_create("public", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int secret_fd = memfd_create("secret", MFD_CLOEXEC);
    struct load_done done;
    struct error error = {""};
    uint8_t blob[4096];
    size_t size;

    keeper_make_keys();
    size = generation_put_context(&config, &context, 0, blob, sizeof(blob));
    REQUIRE(size > 0 && generation_add_context(writer, blob, size, &error) == 0);
    for (size_t i = 0; i < KEY_COUNT; i++) {
        struct generation_identity identity = {.key_type = keeper_kinds[i].type,
                                               .names = (const uint8_t *)"\tlocalhost",
                                               .names_size = 10,
                                               .explicit_names = 1};
        struct blob der = keeper_pkcs8(keeper_keys[i]);
        unsigned char *leaf = NULL;
        int leaf_size = i2d_X509(keeper_certificates[i], &leaf);
        uint8_t *chain = malloc((size_t)leaf_size + 3);

        chain[0] = 0;
        chain[1] = (uint8_t)(leaf_size >> 8);
        chain[2] = (uint8_t)leaf_size;
        memcpy(chain + 3, leaf, (size_t)leaf_size);
        identity.chain = chain;
        identity.chain_size = (size_t)leaf_size + 3;
        REQUIRE(generation_add_identity(writer, &identity, der.data, der.size, &error) == 0);
        free(chain);
        OPENSSL_free(leaf);
    }
    REQUIRE(generation_write(writer, public_fd, secret_fd, &done, &error) == 0);
    REQUIRE(done.keys == KEY_COUNT);
    generation_writer_free(writer);
    *public_part = public_fd;
    *secret_part = secret_fd;
}

/* Its secret part only. */
static inline int
keeper_secret_fd(void)
{
    int public_fd, secret_fd;

    keeper_parts(&public_fd, &secret_fd);
    close(public_fd);
    return secret_fd;
}

struct keeper_run {
    pid_t pid;
    int control; /* we are the supervisor */
    int peer;    /* and the handshaker */
};

/* Receive one message of the keeper on its control channel. */
static inline bool
keeper_control(const struct keeper_run *run, struct channel_message *message, int wait_ms)
{
    static uint8_t buffer[CHANNEL_BUFFER_SIZE];
    struct error error = {""};

    return channel_receive_wait(run->control, control_supervisor_rules,
                                control_supervisor_rule_count, buffer, sizeof(buffer), message,
                                &error, wait_ms) == CHANNEL_OK;
}

/* A page of ticket keys. */
static inline int
keeper_tickets_fd(void)
{
    const struct ticket_plan plan = {
        .now = (uint64_t)time(NULL), .period = 10800, .life = 43200, .group = ""};
    int fd = memfd_create("tickets", MFD_CLOEXEC);
    struct error error = {""};

    REQUIRE(ticket_state_make(fd, -1, &plan, &error) == 0);
    return fd;
}

/* Start a keeper and give it the generation. Its log goes to log_fd (-1: to our stderr). */
static inline struct keeper_run
keeper_start(int secret_fd, int log_fd)
{
    struct control_generation generation = {.generation = KEEPER_GENERATION};
    struct keeper_run run;
    struct channel_message message;
    struct control_hello hello;
    struct control_ready ready;
    int control[2], peer[2], tickets = keeper_tickets_fd();
    uint8_t body[16];

    REQUIRE(channel_pair(control) == 0 && channel_pair(peer) == 0);
    run.pid = fork();
    REQUIRE(run.pid != -1);
    if (run.pid == 0) {
        /* Above the fixed numbers first, so that none of them is overwritten too early. */
        int from_control = fcntl(control[1], F_DUPFD, 10), from_peer = fcntl(peer[1], F_DUPFD, 10);

        if (log_fd != -1)
            dup2(log_fd, ROLE_FD_LOG);
        dup2(from_control, ROLE_FD_CONTROL);
        dup2(from_peer, ROLE_FD_PEER);
        close_range(ROLE_FD_PEER + 1, ~0U, 0);
        execl("/proc/self/exe", "test", "keeper", (char *)NULL);
        _exit(127);
    }
    close(control[1]);
    close(peer[1]);
    run.control = control[0];
    run.peer = peer[0];
    REQUIRE(keeper_control(&run, &message, 10000) && message.type == CONTROL_HELLO);
    REQUIRE(control_get_hello(&hello, message.body, message.size) && hello.role == CONTROL_KEEPER);
    REQUIRE(strcmp(hello.build, role_build_id) == 0);
    REQUIRE(channel_send(run.control, CONTROL_SECRET, body,
                         control_put_generation(&generation, body, sizeof(body)), &secret_fd,
                         1) == CHANNEL_OK);
    REQUIRE(channel_send(run.control, CONTROL_TICKETS, NULL, 0, &tickets, 1) == CHANNEL_OK);
    close(tickets);
    REQUIRE(keeper_control(&run, &message, 20000) && message.type == CONTROL_READY);
    REQUIRE(control_get_ready(&ready, message.body, message.size) &&
            ready.generation == KEEPER_GENERATION);
    return run;
}

/* What the keeper counted. */
static inline struct control_pong
keeper_totals(const struct keeper_run *run)
{
    struct control_ping ping = {.number = 99};
    struct channel_message message;
    struct control_pong pong;
    uint8_t body[16];

    REQUIRE(channel_send(run->control, CONTROL_PING, body,
                         control_put_ping(&ping, body, sizeof(body)), NULL, 0) == CHANNEL_OK);
    REQUIRE(keeper_control(run, &message, 10000) && message.type == CONTROL_PONG);
    REQUIRE(control_get_pong(&pong, message.body, message.size) && pong.number == 99);
    return pong;
}

/* Wait for its end; returns the status of waitpid(). */
static inline int
keeper_wait(struct keeper_run *run)
{
    int status = -1;

    REQUIRE(waitpid(run->pid, &status, 0) == run->pid);
    return status;
}

/* Close both channels (peer may be -1: somebody else closed it) and expect a clean end. */
static inline void
keeper_stop(struct keeper_run *run)
{
    int status;

    close(run->control);
    if (run->peer != -1)
        close(run->peer);
    status = keeper_wait(run);
    REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* First thing in main(): does not return in the role of the keeper. */
static inline void
keeper_fixture_main(int argc, char **argv)
{
    const struct role_args args = {.name = "keeper 0.0",
                                   .log_level = 1,
                                   .cpu = -1,
                                   .uid = getuid() == 0 ? 65534 : getuid(),
                                   .gid = getuid() == 0 ? 65534 : getgid()};

    if (argc == 2 && strcmp(argv[1], "keeper") == 0)
        keeper_main(&args);
}

#endif
