/*
 * test_loader.c: the loader as a process, in its real sandbox, with the test as its supervisor.
 *
 * The loader must be a fresh exec (it takes libcrypto's memory over before the first allocation),
 * so this program starts itself again with an argument.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/generation.h"
#include "agent/roles.h"
#include "protocol/traffic.h"
#include "tests/unit/credential_fixture.h"

#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif

#define NOBODY 65534
#define PASS   "correct horse"
#ifdef SANITIZED
#define CROWD 200
#else
#define CROWD 2000
#endif

static EVP_PKEY *rsa_key, *ec_key, *ed_key, *ca_key;
static X509 *rsa_leaf, *ec_leaf, *ed_leaf, *expired_leaf, *ca;

static struct {
    int channel;
    pid_t pid;
    int public_fd;
    int secret_fd;
    uint8_t buffer[CHANNEL_BUFFER_SIZE];
    struct channel_message message;
    char warnings[4096];
} run;

static void
start_loader(void)
{
    int pair[2];

    memset(&run, 0, sizeof(run));
    ck_assert_int_eq(channel_pair(pair), 0);
    run.pid = fork();
    ck_assert_int_ge(run.pid, 0);
    if (run.pid == 0) {
        if (dup2(pair[1], ROLE_FD_CONTROL) != ROLE_FD_CONTROL ||
            fcntl(ROLE_FD_CONTROL, F_SETFD, 0) == -1)
            _exit(99);
        execl("/proc/self/exe", "test_loader", "--loader", (char *)NULL);
        _exit(99);
    }
    close(pair[1]);
    run.channel = pair[0];
    run.public_fd = memfd_create("public", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    run.secret_fd = (int)syscall(SYS_memfd_secret, O_CLOEXEC);
    if (run.secret_fd == -1)
        run.secret_fd = memfd_create("secret", MFD_CLOEXEC);
    ck_assert_int_ge(run.public_fd, 0);
    ck_assert_int_ge(run.secret_fd, 0);
}

/* The loader's exit status; a signal (a system call that the sandbox does not know) fails. */
static int
end_loader(void)
{
    int status;

    close(run.channel);
    ck_assert_int_eq(waitpid(run.pid, &status, 0), run.pid);
    ck_assert_msg(WIFEXITED(status), "the loader was killed by signal %d", WTERMSIG(status));
    return WEXITSTATUS(status);
}

/* The next message that is no warning: its type, 0 if the channel was closed. */
static int
answer(void)
{
    for (;;) {
        struct error error = {""};
        struct load_text text;
        enum channel_result result =
            channel_receive_wait(run.channel, load_supervisor_rules, load_supervisor_rule_count,
                                 run.buffer, sizeof(run.buffer), &run.message, &error, 20000);

        if (result == CHANNEL_CLOSED)
            return 0;
        ck_assert_msg(result == CHANNEL_OK, "receive: %d %s", result, error.text);
        if (run.message.type != LOAD_WARNING)
            return run.message.type;
        ck_assert(load_get_text(&text, run.message.body, run.message.size));
        ck_assert_ptr_null(strchr(text.text, '\n'));
        snprintf(run.warnings + strlen(run.warnings), sizeof(run.warnings) - strlen(run.warnings),
                 "%s\n", text.text);
    }
}

static int
tell(uint16_t type, const void *body, size_t size, const int *fds, size_t fd_count)
{
    ck_assert_int_eq(channel_send_wait(run.channel, type, body, size, fds, fd_count, 5000),
                     CHANNEL_OK);
    return answer();
}

static void
expect_failure(int type, const char *expected)
{
    struct load_text text;

    ck_assert_int_eq(type, LOAD_FAILED);
    ck_assert(load_get_text(&text, run.message.body, run.message.size));
    ck_assert_msg(strstr(text.text, expected) != NULL, "%s", text.text);
    ck_assert_ptr_null(strchr(text.text, '\n'));
    ck_assert_int_eq(answer(), 0);
    ck_assert_int_eq(end_loader(), 1);
}

static void
expect_hello(void)
{
    struct control_hello hello;

    ck_assert_int_eq(answer(), LOAD_HELLO);
    ck_assert(control_get_hello(&hello, run.message.body, run.message.size));
    ck_assert_str_eq(hello.build, role_build_id);
    ck_assert_uint_eq(hello.role, CONTROL_LOADER);
}

static int
begin(void)
{
    struct load_begin message = {.generation = 9};
    int fds[] = {run.public_fd, run.secret_fd};
    uint8_t body[16];

    return tell(LOAD_BEGIN, body, load_put_begin(&message, body, sizeof(body)), fds, 2);
}

static int
add_context(char *name, uint16_t index)
{
    struct config configuration = {.max_handshakes = 10};
    struct config_context context = {
        .name = name, .min_version = TRAFFIC_TLS_1_2, .max_version = TRAFFIC_TLS_1_3, .forms = 1};
    uint8_t blob[LOAD_BLOB_MAX], body[LOAD_BLOB_MAX + 2];
    struct load_context message = {.blob = blob};

    message.blob_size = generation_put_context(&configuration, &context, index, blob, sizeof(blob));
    return tell(LOAD_CONTEXT, body, load_put_context(&message, body, sizeof(body)), NULL, 0);
}

static int
add_file_fd(enum load_file kind, const char *path, int fd)
{
    struct load_file_message message = {.kind = (uint8_t)kind, .path = path};
    uint8_t body[LOAD_PATH_MAX + 3];
    int type = tell(LOAD_FILE, body, load_put_file_message(&message, body, sizeof(body)), &fd, 1);

    close(fd);
    return type;
}

static int
add_file(enum load_file kind, const char *path, struct blob blob)
{
    int fd = memfd_create("file", MFD_CLOEXEC);

    ck_assert_int_eq(write(fd, blob.data, blob.size), (ssize_t)blob.size);
    ck_assert_int_eq(lseek(fd, 0, SEEK_SET), 0);
    return add_file_fd(kind, path, fd);
}

static int
add_identity(const char *label, bool is_default, const char *name)
{
    static struct load_identity message;
    static uint8_t body[CHANNEL_BODY_MAX];

    memset(&message, 0, sizeof(message));
    snprintf(message.label, sizeof(message.label), "%s", label);
    message.is_default = is_default;
    if (name != NULL) {
        message.name_count = 1;
        snprintf(message.names[0], sizeof(message.names[0]), "%s", name);
    }
    return tell(LOAD_IDENTITY, body, load_put_identity(&message, body, sizeof(body)), NULL, 0);
}

static void
start_context(void)
{
    start_loader();
    expect_hello();
    ck_assert_int_eq(begin(), LOAD_NEXT);
    ck_assert_int_eq(add_context((char[]){"www"}, 4), LOAD_NEXT);
}

/* The key of an identity in the parts must be this one. */
static void
check_key(const struct generation_public *part, const struct generation_secret *secret, size_t i,
          EVP_PKEY *expected)
{
    const struct generation_secret_key *key = &secret->keys[part->identities[i].key];
    const unsigned char *next = key->pkcs8;
    EVP_PKEY *stored = d2i_AutoPrivateKey(NULL, &next, (long)key->pkcs8_size);

    ck_assert_ptr_nonnull(stored);
    ck_assert_int_eq(EVP_PKEY_eq(stored, expected), 1);
    ck_assert_uint_eq(part->identities[i].key_type, key->type);
    EVP_PKEY_free(stored);
}

START_TEST(whole_load)
{
    struct blob rsa_certificate = fixture_pem(&rsa_leaf, 1);
    struct blob ca_file = fixture_pem(&ca, 1);
    struct error error = {""};
    struct generation_public *part;
    struct generation_secret *secret;
    struct load_done done;

    start_context();
    ck_assert_int_eq(add_file(LOAD_CLIENT_CA, "/etc/ca.pem", ca_file), LOAD_NEXT);
    ck_assert_int_eq(add_file(LOAD_CERTIFICATE, "/etc/rsa.pem", rsa_certificate), LOAD_NEXT);
    ck_assert_int_eq(add_file(LOAD_KEY, "/etc/rsa.key",
                              fixture_key_file(rsa_key, KEY_PKCS8_PEM_ENCRYPTED, PASS)),
                     LOAD_NEXT);
    ck_assert_int_eq(add_file(LOAD_PASSPHRASE, "/etc/rsa.pass", fixture_text(PASS "\n")),
                     LOAD_NEXT);
    ck_assert_int_eq(add_identity("rsa.org", true, "*.rsa.org"), LOAD_NEXT);
    ck_assert_int_eq(
        add_file(LOAD_CERTIFICATE, "/etc/ec.p12", fixture_pkcs12(ec_key, ec_leaf, ca, "")),
        LOAD_NEXT);
    ck_assert_int_eq(add_identity("ec.org", false, NULL), LOAD_NEXT);
    ck_assert_int_eq(add_context((char[]){"mail"}, 5), LOAD_NEXT);
    ck_assert_int_eq(add_file(LOAD_CERTIFICATE, "/etc/ed.pem",
                              fixture_join(fixture_key_file(ed_key, KEY_PKCS8_PEM, NULL),
                                           fixture_pem(&ed_leaf, 1))),
                     LOAD_NEXT);
    ck_assert_int_eq(add_identity("ed.org", false, NULL), LOAD_NEXT);
    ck_assert_int_eq(add_file(LOAD_CERTIFICATE, "/etc/rsa.pem", rsa_certificate), LOAD_NEXT);
    ck_assert_int_eq(
        add_file(LOAD_KEY, "/etc/rsa.der", fixture_key_file(rsa_key, KEY_TRADITIONAL_DER, NULL)),
        LOAD_NEXT);
    ck_assert_int_eq(add_identity("rsa.org", false, NULL), LOAD_NEXT);
    ck_assert_int_eq(tell(LOAD_END, NULL, 0, NULL, 0), LOAD_DONE);
    ck_assert(load_get_done(&done, run.message.body, run.message.size));
    ck_assert_int_eq(answer(), 0);
    ck_assert_int_eq(end_loader(), 0);
    ck_assert_str_eq(run.warnings, "");
    ck_assert_uint_eq(done.identities, 4);
    ck_assert_uint_eq(done.keys, 3); /* the RSA key came twice, in two formats */

    ck_assert_int_eq(generation_seal(run.public_fd, &error), 0);
    part = generation_public_map(run.public_fd, &error);
    ck_assert_msg(part != NULL, "%s", error.text);
    secret = generation_secret_map(run.secret_fd, &error);
    ck_assert_msg(secret != NULL, "%s", error.text);
    ck_assert_uint_eq(part->mapping_size, done.public_size);
    ck_assert_uint_eq(secret->mapping_size, done.secret_size);
    ck_assert_uint_eq(part->generation, 9);
    ck_assert_uint_eq(secret->generation, 9);
    ck_assert_uint_eq(part->context_count, 2);
    ck_assert_str_eq(part->contexts[1].name, "mail");
    ck_assert_uint_eq(part->client_cas[0].size, 3 + (size_t)i2d_X509(ca, NULL));
    ck_assert_uint_eq(part->identity_count, 4);
    check_key(part, secret, 0, rsa_key);
    check_key(part, secret, 1, ec_key);
    check_key(part, secret, 2, ed_key);
    check_key(part, secret, 3, rsa_key);
    ck_assert_uint_eq(part->identities[0].is_default, 1);
    ck_assert_uint_eq(part->identities[0].explicit_names, 2);
    ck_assert_uint_eq(part->identities[0].names_size, 8 + 10);
    ck_assert_mem_eq(part->identities[0].names, "\x07rsa.org\x09*.rsa.org", 18);
    ck_assert_uint_eq(part->identities[2].context, 1);
    generation_public_unmap(part);
    generation_secret_unmap(secret);
}
END_TEST

START_TEST(warnings_are_told)
{
    start_context();
    ck_assert_int_eq(add_file(LOAD_CERTIFICATE, "/etc/old.pem", fixture_pem(&expired_leaf, 1)),
                     LOAD_NEXT);
    ck_assert_int_eq(
        add_file(LOAD_KEY, "/etc/old.key", fixture_key_file(ec_key, KEY_PKCS8_PEM, NULL)),
        LOAD_NEXT);
    ck_assert_int_eq(add_identity("old", false, NULL), LOAD_NEXT);
    ck_assert_str_eq(run.warnings, "context \"www\", identity \"old\": /etc/old.pem: the "
                                   "certificate expired 2 days ago; renew it\n");
    ck_assert_int_eq(tell(LOAD_END, NULL, 0, NULL, 0), LOAD_DONE);
    ck_assert_int_eq(end_loader(), 0);
}
END_TEST

/* Fds that are no file to read. */
static int
odd_fd(const char *what)
{
    int pair[2];
    int fd = -1;

    if (strcmp(what, "pipe") == 0) {
        ck_assert_int_eq(pipe2(pair, O_CLOEXEC), 0);
        close(pair[1]);
        fd = pair[0];
    } else if (strcmp(what, "directory") == 0) {
        fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    } else if (strcmp(what, "device") == 0) {
        fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    } else if (strcmp(what, "socket") == 0) {
        ck_assert_int_eq(channel_pair(pair), 0);
        close(pair[1]);
        fd = pair[0];
    } else if (strcmp(what, "empty") == 0) {
        fd = memfd_create("empty", MFD_CLOEXEC);
    } else if (strcmp(what, "huge") == 0) {
        fd = memfd_create("huge", MFD_CLOEXEC);
        ck_assert_int_eq(ftruncate(fd, 1 << 30), 0);
    } else if (strcmp(what, "write-only") == 0) {
        char path[] = "/tmp/test_loader.XXXXXX";
        int made = mkstemp(path);

        ck_assert_int_eq(write(made, "x", 1), 1);
        close(made);
        fd = open(path, O_WRONLY | O_CLOEXEC);
        unlink(path);
    } else if (strcmp(what, "at its end") == 0) {
        fd = memfd_create("end", MFD_CLOEXEC);
        ck_assert_int_eq(write(fd, "text", 4), 4);
    }
    ck_assert_int_ge(fd, 0);
    return fd;
}

static const struct {
    const char *what;
    const char *expected;
} odd_fds[] = {
    {"pipe", "context \"www\": /etc/x.pem: not a regular file; name one"},
    {"directory", "context \"www\": /etc/x.pem: not a regular file; name one"},
    {"device", "context \"www\": /etc/x.pem: not a regular file; name one"},
    {"socket", "context \"www\": /etc/x.pem: not a regular file; name one"},
    {"empty", "context \"www\": /etc/x.pem: the file is empty"},
    {"huge", "context \"www\": /etc/x.pem: larger than 1048576 bytes"},
    {"write-only", "context \"www\": /etc/x.pem: read: Bad file descriptor"},
    {"at its end", "context \"www\": /etc/x.pem: became shorter while it was read"},
};

START_TEST(odd_files)
{
    start_context();
    expect_failure(add_file_fd(LOAD_CERTIFICATE, "/etc/x.pem", odd_fd(odd_fds[_i].what)),
                   odd_fds[_i].expected);
}
END_TEST

START_TEST(mismatch_names_all)
{
    start_context();
    ck_assert_int_eq(add_file(LOAD_CERTIFICATE, "/etc/a.pem", fixture_pem(&ec_leaf, 1)), LOAD_NEXT);
    ck_assert_int_eq(
        add_file(LOAD_KEY, "/etc/b.key", fixture_key_file(rsa_key, KEY_PKCS8_PEM, NULL)),
        LOAD_NEXT);
    expect_failure(add_identity("a\nb", false, NULL),
                   "context \"www\", identity \"a?b\": /etc/a.pem: the certificate (/CN=ec.org) "
                   "does not belong to the key in /etc/b.key; use the files of one pair");
}
END_TEST

START_TEST(long_path_is_shortened)
{
    char path[LOAD_PATH_MAX];

    memset(path, 'p', sizeof(path));
    memcpy(path + sizeof(path) - 10, "/last.pem", 10);
    start_context();
    expect_failure(add_file(LOAD_CERTIFICATE, path, fixture_text("hello")) == LOAD_NEXT
                       ? add_identity("x", false, NULL)
                       : 0,
                   "pppp/last.pem: neither PEM, DER nor PKCS#12; is it the right file?");
}
END_TEST

/* Messages that are well-formed and come at the wrong time. */
START_TEST(out_of_order)
{
    start_loader();
    expect_hello();
    switch (_i) {
    case 0:
        expect_failure(tell(LOAD_END, NULL, 0, NULL, 0), "a message out of order");
        return;
    case 1:
        expect_failure(add_context((char[]){"www"}, 0), "a message out of order");
        return;
    case 2:
        ck_assert_int_eq(begin(), LOAD_NEXT);
        expect_failure(begin(), "a message out of order");
        return;
    case 3:
        ck_assert_int_eq(begin(), LOAD_NEXT);
        expect_failure(add_file(LOAD_KEY, "x", fixture_text("x")), "a FILE before a CONTEXT");
        return;
    default:
        break;
    }
    ck_assert_int_eq(begin(), LOAD_NEXT);
    ck_assert_int_eq(add_context((char[]){"www"}, 0), LOAD_NEXT);
    if (_i == 4)
        expect_failure(add_identity("x", false, NULL), "an IDENTITY without a certificate FILE");
    if (_i == 5)
        expect_failure(add_file((enum load_file)9, "x", fixture_text("x")), "FILE of unknown kind");
    if (_i < 6)
        return;
    ck_assert_int_eq(add_file(LOAD_KEY, "x", fixture_text("x")), LOAD_NEXT);
    if (_i == 6)
        expect_failure(add_file(LOAD_KEY, "x", fixture_text("x")), "two FILEs of one kind");
    if (_i == 7)
        expect_failure(tell(LOAD_END, NULL, 0, NULL, 0), "an END where an IDENTITY was due");
    if (_i == 8)
        expect_failure(add_context((char[]){"www"}, 0), "a CONTEXT where an IDENTITY was due");
}
END_TEST

/* What does not fit the table ends the loader without an answer. */
START_TEST(broken_message)
{
    start_loader();
    expect_hello();
    ck_assert_int_eq(channel_send(run.channel, LOAD_BEGIN, "1234", 4, &run.public_fd, 1),
                     CHANNEL_OK);
    ck_assert_int_eq(answer(), 0);
    ck_assert_int_eq(end_loader(), 1);
}
END_TEST

START_TEST(supervisor_goes_away)
{
    start_context();
    ck_assert_int_eq(end_loader(), 1);
}
END_TEST

START_TEST(parts_that_are_not_empty)
{
    start_loader();
    ck_assert_int_eq(ftruncate(run.public_fd, 10), 0);
    expect_hello();
    ck_assert_int_eq(begin(), LOAD_NEXT);
    expect_failure(tell(LOAD_END, NULL, 0, NULL, 0), "the file for the public part is not empty");
}
END_TEST

/* Many identities with few keys: the fds in flight stay one, the time is told. */
START_TEST(crowd)
{
    struct blob certificate = fixture_pem(&ec_leaf, 1);
    struct blob key = fixture_key_file(ec_key, KEY_PKCS8_PEM, NULL);
    struct timespec from, to;
    struct load_done done;

    start_context();
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (unsigned i = 0; i < CROWD; i++) {
        char label[32];

        snprintf(label, sizeof(label), "h%u.example", i);
        ck_assert_int_eq(add_file(LOAD_CERTIFICATE, "c", certificate), LOAD_NEXT);
        ck_assert_int_eq(add_file(LOAD_KEY, "k", key), LOAD_NEXT);
        ck_assert_int_eq(add_identity(label, false, NULL), LOAD_NEXT);
    }
    ck_assert_int_eq(tell(LOAD_END, NULL, 0, NULL, 0), LOAD_DONE);
    clock_gettime(CLOCK_MONOTONIC, &to);
    ck_assert(load_get_done(&done, run.message.body, run.message.size));
    ck_assert_uint_eq(done.identities, CROWD);
    ck_assert_uint_eq(done.keys, 1);
    ck_assert_int_eq(end_loader(), 0);
    printf("loader: %d identities with one P-256 key in %ld ms, public part %llu KiB\n", CROWD,
           (long)((to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000),
           (unsigned long long)done.public_size / 1024);
}
END_TEST

static void
make_all(void)
{
    ca_key = fixture_key("P-256");
    rsa_key = fixture_key("RSA2048");
    ec_key = fixture_key("P-256");
    ed_key = fixture_key("ED25519");
    ca = fixture_certificate(&(struct certificate_plan){.cn = "Test Root", .is_ca = true}, ca_key,
                             NULL, NULL);
    rsa_leaf = fixture_certificate(
        &(struct certificate_plan){.cn = "rsa.org", .san = "DNS:rsa.org"}, rsa_key, ca, ca_key);
    ec_leaf = fixture_certificate(&(struct certificate_plan){.cn = "ec.org", .san = "DNS:ec.org"},
                                  ec_key, ca, ca_key);
    ed_leaf = fixture_certificate(&(struct certificate_plan){.cn = "ed.org", .san = "DNS:ed.org"},
                                  ed_key, ca, ca_key);
    expired_leaf = fixture_certificate(&(struct certificate_plan){.cn = "old.org",
                                                                  .from = -90 * FIXTURE_DAY,
                                                                  .to = -2 * FIXTURE_DAY - 3600},
                                       ec_key, ca, ca_key);
}

int
main(int argc, char **argv)
{
    Suite *suite = suite_create("loader");
    TCase *tcase = tcase_create("process");
    SRunner *runner;
    int failed;

    if (argc == 2 && strcmp(argv[1], "--loader") == 0)
        loader_main(&(struct role_args){
            .name = "loader", .log_level = 1, .uid = NOBODY, .gid = NOBODY, .cpu = -1});
    signal(SIGPIPE, SIG_IGN);
    make_all();
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, whole_load);
    tcase_add_test(tcase, warnings_are_told);
    tcase_add_loop_test(tcase, odd_files, 0, sizeof(odd_fds) / sizeof(odd_fds[0]));
    tcase_add_test(tcase, mismatch_names_all);
    tcase_add_test(tcase, long_path_is_shortened);
    tcase_add_loop_test(tcase, out_of_order, 0, 9);
    tcase_add_test(tcase, broken_message);
    tcase_add_test(tcase, supervisor_goes_away);
    tcase_add_test(tcase, parts_that_are_not_empty);
    tcase_add_test(tcase, crowd);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
