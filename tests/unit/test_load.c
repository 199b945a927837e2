/*
 * test_load.c: the supervisor's side of loading: from a configuration file, through the real loader
 * process in its sandbox, to the generation of each cell group.
 *
 * Loaders are started as in the agent: spawn_role() executes this very program.
 */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "agent/generation.h"
#include "agent/load.h"
#include "agent/log.h"
#include "agent/roles.h"
#include "agent/spawn.h"
#include "tests/unit/credential_fixture.h"

static void
write_file(const char *directory, const char *name, struct blob blob)
{
    char path[100];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    file = fopen(path, "we");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(blob.data, 1, blob.size, file), blob.size);
    ck_assert_int_eq(fclose(file), 0);
}

/* Whether a private key of the generation, in any place, is this one. */
static bool
holds_key(const struct generation_secret *secret, EVP_PKEY *key)
{
    bool found = false;

    for (size_t i = 0; i < secret->key_count; i++) {
        const unsigned char *next = secret->keys[i].pkcs8;
        EVP_PKEY *stored = d2i_AutoPrivateKey(NULL, &next, (long)secret->keys[i].pkcs8_size);

        ck_assert_ptr_nonnull(stored);
        found = found || EVP_PKEY_eq(stored, key) == 1;
        EVP_PKEY_free(stored);
    }
    return found;
}

#define GROUP_CONTEXT(name, label, more)                                                           \
    "context \"" name "\" {\n identity \"" label "\" {\n certificate = \"" label                   \
    ".pem\"\n key = \"" label ".key\"\n }\n workers { users = {\"root\"} }\n" more "}\n"

/* A cell group's generation, made by the real loader from the real configuration, holds the keys of
 * its own contexts and no other: what is not there cannot be asked for or stolen. */
START_TEST(a_cell_group_gets_its_own_keys_only)
{
    char directory[] = "/tmp/tlsagent-loader-XXXXXX", path[100], text[2000];
    EVP_PKEY *keys[] = {fixture_key("RSA2048"), fixture_key("ED25519"), fixture_key("P-256")};
    static const char *const names[] = {"rsa", "ed", "ec"};
    static const char *const contexts[] = {"shared", "own", "other"};
    struct config *config;
    struct error error = {""};

    ck_assert_ptr_nonnull(mkdtemp(directory));
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s.pem", names[i]);
        write_file(directory, path,
                   fixture_pem(&(X509 *){fixture_certificate(
                                   &(struct certificate_plan){.cn = "x.org", .san = "DNS:x.org"},
                                   keys[i], NULL, NULL)},
                               1));
        snprintf(path, sizeof(path), "%s.key", names[i]);
        write_file(directory, path, fixture_key_file(keys[i], KEY_PKCS8_PEM, NULL));
    }
    snprintf(text, sizeof(text), "user = \"%s\"\n%s%s%s", geteuid() == 0 ? "nobody" : "root",
             GROUP_CONTEXT("shared", "rsa", ""),
             GROUP_CONTEXT("own", "ed", "cells = \"dedicated\"\n"),
             GROUP_CONTEXT("other", "ec", "cells = \"dedicated\"\n"));
    write_file(directory, "conf", fixture_text(text));
    snprintf(path, sizeof(path), "%s/conf", directory);
    ck_assert_int_eq(chdir(directory), 0);
    config = config_read(path, geteuid() == 0, &error);
    ck_assert_msg(config != NULL, "%s", error.text);
    ck_assert_uint_eq(config->cell_group_count, 3);
    for (unsigned group = 0; group < 3; group++) {
        struct generation_public *part;
        struct generation_secret *secret;
        struct load_result result;

        ck_assert_msg(load_group(config, group, 7, &result, &error) == 0, "%s", error.text);
        ck_assert_uint_eq(result.done.keys, 1);
        ck_assert_uint_eq(result.done.identities, 1);
        part = generation_public_map(result.public_fd, &error);
        secret = generation_secret_map(result.secret_fd, &error);
        ck_assert_msg(part != NULL && secret != NULL, "%s", error.text);
        ck_assert_uint_eq(part->context_count, 1);
        ck_assert_str_eq(part->contexts[0].name, contexts[group]);
        ck_assert_uint_eq(secret->key_count, 1);
        for (size_t i = 0; i < 3; i++)
            ck_assert_msg(holds_key(secret, keys[i]) == (i == group), "group %u, key %s", group,
                          names[i]);
        generation_public_unmap(part);
        generation_secret_unmap(secret);
        load_result_clear(&result);
    }
    config_free(config);
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s.pem", names[i]);
        unlink(path);
        snprintf(path, sizeof(path), "%s.key", names[i]);
        unlink(path);
    }
    unlink("conf");
    rmdir(directory);
}
END_TEST

int
main(int argc, char **argv)
{
    Suite *suite = suite_create("load");
    TCase *tcase = tcase_create("cell groups");
    struct error error = {""};
    enum control_role role;
    struct role_args args;
    SRunner *runner;
    int failed;

    if (spawn_parse(argc, argv, &role, &args))
        loader_main(&args);
    signal(SIGPIPE, SIG_IGN);
    log_init("test", LOG_LEVEL_WARNING, 0);
    if (spawn_init(&error) == -1) {
        fprintf(stderr, "%s\n", error.text);
        return EXIT_FAILURE;
    }
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, a_cell_group_gets_its_own_keys_only);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
