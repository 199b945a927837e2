/*
 * test_config.c: tlsagentd.conf: what is understood, and the exact line that each mistake gives.
 *
 * Each case runs in a directory of its own that holds a.pem, a.key, an empty directory "empty" and
 * a file "conf". "~" in a text stands for that directory, so messages are golden lines.
 */
#include <check.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>

#include "agent/config.h"
#include "agent/log.h"
#include "protocol/control.h"
#include "protocol/load.h"
#include "protocol/traffic.h"
#include "sandbox/sandbox.h"

/* A context that is complete, around what a case is about. */
#define ID          "identity \"a\" { certificate = \"a.pem\" key = \"a.key\" }\n"
#define CONTEXT(x)  "context \"www\" {\n" x "\n" ID "}\n"                /* x begins in line 2 */
#define IDENTITY(x) "context \"www\" {\nidentity \"a\" {\n" x "\n}\n}\n" /* x: line 3 */

static char directory[64];

static void
write_file(const char *name, const char *text)
{
    char path[512];
    FILE *stream;

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    stream = fopen(path, "w");
    ck_assert_ptr_nonnull(stream);
    fputs(text, stream);
    ck_assert_int_eq(fclose(stream), 0);
}

static void
make_directory(const char *name)
{
    char path[512];

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    ck_assert_int_eq(mkdir(path, 0700), 0);
}

static void
setup(void)
{
    snprintf(directory, sizeof(directory), "/tmp/test_config.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    write_file("a.pem", "x");
    write_file("a.key", "x");
    make_directory("empty");
}

static void
teardown(void)
{
    pid_t child = fork();

    if (child == 0) {
        execlp("rm", "rm", "-rf", directory, (char *)NULL);
        _exit(127);
    }
    waitpid(child, NULL, 0);
}

/* text with every "~" replaced by the directory. */
static char *
expand(const char *text)
{
    size_t size = strlen(text) * 2 + 64 * sizeof(directory), used = 0;
    char *result = malloc(size);

    ck_assert_ptr_nonnull(result);
    for (; *text != '\0'; text++) {
        if (*text == '~')
            used += (size_t)snprintf(result + used, size - used, "%s", directory);
        else
            result[used++] = *text;
        ck_assert_uint_lt(used, size - 1);
    }
    result[used] = '\0';
    return result;
}

static struct config *
read_text(const char *text, bool as_root, struct error *error)
{
    char path[128];
    char *expanded = expand(text);

    write_file("conf", expanded);
    free(expanded);
    snprintf(path, sizeof(path), "%s/conf", directory);
    error_clear(error);
    return config_read(path, as_root, error);
}

/* A text that must be right. */
static struct config *
read_good(const char *text)
{
    struct error error;
    struct config *config = read_text(text, false, &error);

    ck_assert_msg(config != NULL, "%s", error.text);
    ck_assert_str_eq(error.text, "");
    return config;
}

static const struct {
    const char *text;
    const char *message;
} mistakes[] = {
    /* the file as a whole */
    {"",
     "~/conf: has no context; add context \"NAME\" { identities = \"DIRECTORY\" workers { users "
     "= {\"NAME\"} } }"},
    {"context \"www\" {\n" ID, "~/conf:1: the block that opens here is not closed; add }"},
    {CONTEXT("") "}", "~/conf:5: this } closes nothing; remove it"},
    {"user = \"tls\nagent\"", "~/conf:1: this string is not closed; add \""},
    {"user = 'tls", "~/conf:1: this string is not closed; add '"},
    {"\n/* user\n\n", "~/conf:2: this comment is not closed; add */"},
    {"socket = ${TLSAGENT_TEST_UNSET}/s",
     "~/conf:1: the environment variable TLSAGENT_TEST_UNSET is not set; set it, or write "
     "${TLSAGENT_TEST_UNSET:-default}"},
    {"socket = \"${}\"", "~/conf:1: \"${\" without a variable's name and \"}\"; write ${NAME} or "
                         "${NAME:-default}, or \\$ in quotes"},
    {CONTEXT("listen = *:443"), "~/conf:2: a bare '*'; put the value in quotes"},
    {"user + x", "~/conf:1: a bare '+'; put the value in quotes"},
    {"\001", "~/conf:1: a control character; is this a text file?"},
    {"user = \"a\\nb\"", "~/conf:1: user: holds a control character; remove it"},
    {"usr = x", "~/conf:1: usr: there is no such option here; see tlsagentd.conf(5)"},
    {CONTEXT("\n\ncertificate = x"),
     "~/conf:4: certificate: there is no such option in a block context; see tlsagentd.conf(5)"},
    {"/* a\n comment */ // b\n//c\n#\nusr = x",
     "~/conf:5: usr: there is no such option here; see tlsagentd.conf(5)"},
    {"user x", "~/conf:1: missing equal sign after option 'user'; see tlsagentd.conf(5)"},
    {"user = {a}", "~/conf:1: unexpected token '{'; see tlsagentd.conf(5)"},
    {"user =", "~/conf:2: premature end of file; see tlsagentd.conf(5)"},
    {"context {\n}", "~/conf:1: missing title for section 'context'; see tlsagentd.conf(5)"},
    {"user += a", "~/conf:1: attempt to append to non-list option 'user'; see tlsagentd.conf(5)"},
    {"user = a\nuser = b", "~/conf:2: user: is given twice; keep one"},
    {CONTEXT("alpn = {a}\nalpn = {b}"),
     "~/conf:3: alpn: is given twice; keep one, or add to it with +="},
    {"include(\"none\")", "~/conf:1: include: ~/none: No such file or directory; correct the path"},
    {"\ninclude(\"conf\")", "~/conf:2: include: more than 8 files inside each other; does a file "
                            "include itself?"},
    {"include()", "~/conf:1: include: takes one file; write include(\"FILE\")"},
    {"include(\"a.pem\")\n", "~/a.pem:1: x: there is no such option here; see tlsagentd.conf(5)"},
    /* top level */
    {"cells = many", "~/conf:1: cells: \"many\" is not a number from 0 to 64"},
    {"cells = -1", "~/conf:1: cells: \"-1\" is not a number from 0 to 64"},
    {"cells = 65", "~/conf:1: cells: \"65\" is not a number from 0 to 64"},
    {"max_handshakes = 0", "~/conf:1: max_handshakes: \"0\" is not a number from 1 to 1000000"},
    {"max_channels = 99999999999999999999",
     "~/conf:1: max_channels: \"99999999999999999999\" is not a number from 1 to 65535"},
    {"log = \"sytem\"",
     "~/conf:1: log: \"sytem\" is neither stderr, syslog nor a path that begins with /"},
    {"log_level = loud",
     "~/conf:1: log_level: \"loud\" is not one of: error, warning, info, debug"},
    {"sandbox {\n require = {\"landlock\", \"magic\"} }",
     "~/conf:2: require: there is no layer \"magic\"; known are namespaces, landlock, "
     "landlock_network, landlock_scopes, mdwe, speculation and memfd_secret"},
    {"socket = \"\"", "~/conf:1: socket: is empty; name a file, or leave it out"},
    {"socket = \"/r/s\"\ncontrol_socket = \"/r/s\"",
     "~/conf:2: control_socket: /r/s is the workers' socket already; choose another path"},
    {"socket = \"/r/control.sock\"",
     "~/conf:1: control_socket: /r/control.sock is the workers' socket already; choose another "
     "path"},
    /* contexts */
    {"context \"\" {\n" ID "}", "~/conf:1: context: the name must have 1 to 63 bytes"},
    {"\ncontext \"w w\" {\n" ID "}",
     "~/conf:2: context: the name \"w w\" may have only letters, digits, \".\", \"_\" and \"-\""},
    {CONTEXT("") CONTEXT(""),
     "~/conf:5: context: \"www\" is in line 1 already; rename or remove one"},
    {"\ncontext \"www\"\n{\n}\n",
     "~/conf:3: context: \"www\" has no identity; add identities = \"DIRECTORY\" or a block "
     "identity \"NAME\" { certificate = ... key = ... }"},
    {"fleet { secret_file = a.key store = \"redis://:word@10.0.0.1\"  }\n" CONTEXT(""),
     "~/conf:1: store: a password in this file can be read by others; put it into a file of its "
     "own: store_password_file = \"FILE\""},
    {"fleet { secret_file = a.key store = \"redis://store.example:6379\"  }\n" CONTEXT(""),
     "~/conf:1: store: \"store.example\" is not a numeric address with a port; names are not "
     "looked up, because no process here talks to name servers"},
    {"fleet { secret_file = a.key store = \"redis://10.0.0.1:99999\"  }\n" CONTEXT(""),
     "~/conf:1: store: \"10.0.0.1\" is not a numeric address with a port; names are not looked up, "
     "because no process here talks to name servers"},
    {"fleet { secret_file = a.key store = \"redis://10.0.0.1/x\"  }\n" CONTEXT(""),
     "~/conf:1: store: \"x\" is not a number of a database"},
    {"fleet { secret_file = a.key store = \"http://10.0.0.1\"  }\n" CONTEXT(""),
     "~/conf:1: store: \"http://10.0.0.1\" is not an address; write redis://ADDRESS:PORT, "
     "rediss://ADDRESS:PORT or unix:PATH"},
    {"fleet { secret_file = a.key store = \"redis://[::1\"  }\n" CONTEXT(""),
     "~/conf:1: store: \"redis://[::1\" is not an address; write redis://ADDRESS:PORT, "
     "rediss://ADDRESS:PORT or unix:PATH"},
    {"fleet { secret_file = a.key store = \"unix:redis.sock\"  }\n" CONTEXT(""),
     "~/conf:1: store: \"redis.sock\" is not a path that begins with \"/\" and has at most 107 "
     "bytes"},
    {"fleet { secret_file = a.key store = \"unix:/redis.sock?x\"  }\n" CONTEXT(""),
     "~/conf:1: store: \"?x\" is not \"?db=NUMBER\""},
    {"fleet { secret_file = a.key store = \"rediss://10.0.0.1\"  }\n" CONTEXT(""),
     "~/conf:1: store: TLS needs to know whom to trust; add store_ca_file = \"FILE\""},
    {"fleet { secret_file = a.key store = \"redis://10.0.0.1\" store_ca_file = a.pem }\n" CONTEXT(
         ""),
     "~/conf:1: store_ca_file: is of no use without TLS; write store = \"rediss://...\""},
    {"fleet { secret_file = a.key store = \"redis://me@10.0.0.1\"  }\n" CONTEXT(""),
     "~/conf:1: store: the user \"me\" needs a password; add store_password_file = \"FILE\""},
    {"fleet { secret_file = a.key store = \"redis://10.0.0.1\" store_wait = 3000 }\n" CONTEXT(""),
     "~/conf:1: store_wait: \"3000\" is not a number from 5 to 1000"},
    {"fleet { store = \"redis://10.0.0.1\" }\n" CONTEXT(""),
     "~/conf:1: store: only hosts that share a secret can use each other's sessions; add "
     "secret_file = \"FILE\""},
    {"fleet { secret_file = a.key store_wait = 5 }\n" CONTEXT(""),
     "~/conf:1: store_wait: is of no use without a store; add one"},
    {CONTEXT("deadline = 0"), "~/conf:2: deadline: \"0\" is not a number from 1 to 300"},
    {CONTEXT("deadline = 10s"), "~/conf:2: deadline: \"10s\" is not a number from 1 to 300"},
    {CONTEXT("tickets = 9"), "~/conf:2: tickets: \"9\" is not a number from 0 to 8"},
    {CONTEXT("backlog = 0"), "~/conf:2: backlog: \"0\" is not a number from 1 to 4096"},
    {CONTEXT("cells = own"), "~/conf:2: cells: \"own\" is not one of: shared, dedicated"},
    {CONTEXT("alpn = {\"h2\",\n\"h2\"}"), "~/conf:3: alpn: \"h2\" is named twice"},
    {CONTEXT("alpn = {\"\"}"), "~/conf:2: alpn: a protocol name has 1 to 255 bytes, all together "
                               "at most 1024"},
    {CONTEXT("hand_back = {\"records\", \"fd\"}"),
     "~/conf:2: hand_back: \"fd\" is not one of: records, kernel, stream"},
    {CONTEXT("prefer_rekey = maybe"),
     "~/conf:2: prefer_rekey: \"maybe\" is neither true nor false"},
    {CONTEXT("versions = \"TLSv1\""), "~/conf:2: versions: \"TLSv1\" leaves no version; this agent "
                                      "speaks TLSv1_2 and TLSv1_3"},
    {CONTEXT("versions = \"SSLv23:!TLSv12:!TLSv13\""),
     "~/conf:2: versions: \"SSLv23:!TLSv12:!TLSv13\" leaves no version; this agent speaks TLSv1_2 "
     "and TLSv1_3"},
    {CONTEXT("versions = \"TLSv1_4\""),
     "~/conf:2: versions: \"TLSv1_4\" is not a version; write for instance \"TLSv1_2:TLSv1_3\" or "
     "\"SSLv23:!TLSv1_2\""},
    {CONTEXT("ciphers = \"aNULL:eNULL:AES128-GCM-SHA256:DHE+AESGCM:ECDHE+SHA\""),
     "~/conf:2: ciphers: \"aNULL:eNULL:AES128-GCM-SHA256:DHE+AESGCM:ECDHE+SHA\" leaves no TLS 1.2 "
     "suite with ECDHE and AES-GCM or ChaCha20-Poly1305; for instance \"ECDHE+AESGCM\""},
    {CONTEXT("ciphersuites = \"TLS_AES_128_CCM_SHA256\""),
     "~/conf:2: ciphersuites: \"TLS_AES_128_CCM_SHA256\" is not a TLS 1.3 suite of this agent; it "
     "has TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384 and TLS_CHACHA20_POLY1305_SHA256"},
    {CONTEXT("ciphersuites = \"\""),
     "~/conf:2: ciphersuites: an empty list; name a suite, or leave it out"},
    {CONTEXT("groups = \"X25519:X25520\""),
     "~/conf:2: groups: \"X25520\" is not a group of this libssl; correct it, or write \"?X25520\" "
     "to skip it where it is unknown"},
    {CONTEXT("groups = \"?X25520\""),
     "~/conf:2: groups: \"?X25520\" leaves no group; for instance \"X25519:P-256\""},
    {CONTEXT("prefer_server_ciphers = perhaps"),
     "~/conf:2: prefer_server_ciphers: \"perhaps\" is neither true nor false"},
    {CONTEXT("verify = required"),
     "~/conf:2: verify: \"required\" needs to know whom to trust; add "
     "client_ca_file = \"FILE\""},
    {CONTEXT("client_ca_file = a.pem"), "~/conf:2: client_ca_file: is of no use without verify = "
                                        "\"required\" or \"optional\"; add one "
                                        "of them"},
    {CONTEXT("verify = maybe"),
     "~/conf:2: verify: \"maybe\" is not one of: none, optional, required"},
    /* addresses */
    {CONTEXT("listen = {\"127.0.0.1\"}"), "~/conf:2: listen: \"127.0.0.1\" has no port from 1 to "
                                          "65535; write ADDRESS:PORT, [ADDRESS]:PORT or *:PORT"},
    {CONTEXT("listen = {\"127.0.0.1:0\"}"),
     "~/conf:2: listen: \"127.0.0.1:0\" has no port from 1 to 65535; write ADDRESS:PORT, "
     "[ADDRESS]:PORT or *:PORT"},
    {CONTEXT("listen = {\"127.0.0.1:65536\"}"),
     "~/conf:2: listen: \"127.0.0.1:65536\" has no port from 1 to 65535; write ADDRESS:PORT, "
     "[ADDRESS]:PORT or *:PORT"},
    {CONTEXT("listen = {\"localhost:443\"}"),
     "~/conf:2: listen: \"localhost:443\" has no numeric address; write ADDRESS:PORT, "
     "[ADDRESS]:PORT or *:PORT"},
    {CONTEXT("listen = {\"::1:443\"}"), "~/conf:2: listen: \"::1:443\" has no numeric address; "
                                        "write ADDRESS:PORT, [ADDRESS]:PORT or *:PORT"},
    {CONTEXT("listen = {\":443\"}"), "~/conf:2: listen: \":443\" has no numeric address; write "
                                     "ADDRESS:PORT, [ADDRESS]:PORT or *:PORT"},
    {CONTEXT("listen = {\"[127.0.0.1]:443\"}"),
     "~/conf:2: listen: \"[127.0.0.1]:443\": brackets are for IPv6 addresses"},
    {CONTEXT("listen = {\"127.0.0.1:443\"}") "context \"b\" {\n" ID
                                             "listen = {\"*:444\", \"127.0.0.1:443\"}\n}",
     "~/conf:7: listen: \"127.0.0.1:443\" is listened on by context \"www\" (line 1) already; "
     "remove one"},
    {CONTEXT("listen = {\"*:443\", \"[::]:443\"}"),
     "~/conf:2: listen: \"[::]:443\" is listened on by context \"www\" (line 1) already; remove "
     "one"},
    /* workers */
    {CONTEXT("workers { users = {\"nobody-here\"} }"),
     "~/conf:2: users: there is no user \"nobody-here\"; correct the name or create the user"},
    {CONTEXT("workers {\ngroups = {\"nobody-here\"} }"),
     "~/conf:3: groups: there is no group \"nobody-here\"; correct the name or create the group"},
    {CONTEXT("workers { users = {nobody} }"), "~/conf:2: users: \"nobody\" is uid 65534, which the "
                                              "kernel also shows for users that it cannot "
                                              "name: it is never let in; choose another"},
    {CONTEXT("workers { groups = {65534} }"),
     "~/conf:2: groups: \"65534\" is gid 65534, which the kernel also shows for groups that it "
     "cannot name: it is never let in; choose another"},
    {CONTEXT("workers { users = {4294967295} }"),
     "~/conf:2: users: there is no user \"4294967295\"; correct the name or create the user"},
    /* identities */
    {IDENTITY("key = a.key"),
     "~/conf:2: identity: \"a\" has no certificate; add certificate = \"FILE\""},
    {IDENTITY("certificate = b.pem"),
     "~/conf:3: certificate: ~/b.pem: No such file or directory; correct the path"},
    {IDENTITY("certificate = a.pem\nkey = empty"),
     "~/conf:4: key: ~/empty is not a file; correct the path"},
    {IDENTITY("certificate = a.pem\npassphrase_file = \"/none\""),
     "~/conf:4: passphrase_file: /none: No such file or directory; correct the path"},
    {IDENTITY("certificate = a.pem\nnames = {\"good.org\", \"not good\"}"),
     "~/conf:4: names: \"not good\" is not a host name; write for instance \"www.example.org\" or "
     "\"*.example.org\""},
    {IDENTITY("certificate = a.pem\nnames = {\"www.*.org\"}"),
     "~/conf:4: names: \"www.*.org\" is not a host name; write for instance \"www.example.org\" or "
     "\"*.example.org\""},
    {IDENTITY("certificate = a.pem\nnames = {\"192.0.2.1\"}"),
     "~/conf:4: names: \"192.0.2.1\" is not a host name; write for instance \"www.example.org\" or "
     "\"*.example.org\""},
    {IDENTITY("certificate = a.pem\nnames = {\"-a.org\"}"),
     "~/conf:4: names: \"-a.org\" is not a host name; write for instance \"www.example.org\" or "
     "\"*.example.org\""},
    {IDENTITY("certificate = a.pem\ndefault = 1"),
     "~/conf:4: default: \"1\" is neither true nor false"},
    {"context \"www\" { identity \"\" { certificate = a.pem } }",
     "~/conf:1: identity: the title must have 1 to 255 bytes"},
    {"context \"www\" {\nidentity \"a\\nb\" {\n}\n}",
     "~/conf:2: context: the title holds a control character; remove it"},
    {CONTEXT("default_identity = b"),
     "~/conf:2: default_identity: there is no identity \"b\" here"},
    {CONTEXT("default_identity = b\nidentity \"b\" { certificate = a.pem default = true }"),
     "~/conf:2: default_identity: an identity block says default = ... already; keep one of the "
     "two"},
    {CONTEXT("identities = \"none\""),
     "~/conf:2: identities: ~/none: No such file or directory; name a directory of identities"},
    {CONTEXT("identities = \"a.pem\""),
     "~/conf:2: identities: ~/a.pem: Not a directory; name a directory of identities"},
    {CONTEXT("identities = \"empty\""), "~/conf:2: identities: ~/empty holds no identity; put "
                                        "NAME/fullchain.pem and NAME/privkey.pem, "
                                        "NAME.crt and NAME.key, or NAME.pem into it"},
};

START_TEST(a_mistake_gives_one_line_with_its_place)
{
    struct error error;
    struct config *config;
    char *message = expand(mistakes[_i].message);

    write_file("a.pem", "x = y");
    config = read_text(mistakes[_i].text, false, &error);
    ck_assert_msg(config == NULL, "accepted, expected: %s", message);
    ck_assert_str_eq(error.text, message);
    ck_assert_ptr_null(strchr(error.text, '\n'));
    free(message);
    /* A mistake leaves nothing behind in libconfuse that would spoil the next reading. */
    config_free(read_good(CONTEXT("")));
}
END_TEST

START_TEST(a_missing_file_is_named)
{
    struct error error = {""};

    ck_assert_ptr_null(config_read("/none/tlsagentd.conf", false, &error));
    ck_assert_str_eq(error.text,
                     "/none/tlsagentd.conf: cannot be opened: No such file or directory; "
                     "name another one with -c FILE");
    error_clear(&error);
    ck_assert_ptr_null(config_read("/tmp", false, &error));
    ck_assert_str_eq(error.text, "/tmp: is not a file of at most 4194304 bytes; name another one "
                                 "with -c FILE");
    config_free(NULL);
}
END_TEST

START_TEST(as_root_users_must_be_named)
{
    struct error error;
    char *message = expand("~/conf:2: workers: context \"www\" does not say who may use it; add "
                           "workers { users = {\"NAME\"} } or workers { groups = {\"NAME\"} }");
    struct config *config;

    ck_assert_ptr_null(read_text("user = daemon " CONTEXT(""), true, &error));
    message[strlen(directory) + 6] = '1'; /* the context begins in line 1 here */
    ck_assert_str_eq(error.text, message);
    free(message);

    message =
        expand("~/conf:1: user: \"root\" is the superuser; name a user who owns nothing else");
    ck_assert_ptr_null(read_text("user = root", true, &error));
    ck_assert_str_eq(error.text, message);
    free(message);

    ck_assert_ptr_null(read_text("user = nobody-here", true, &error));
    ck_assert_ptr_nonnull(strstr(error.text, "there is no user \"nobody-here\""));

    config =
        read_text("user = daemon " CONTEXT("workers { groups = {daemon, 4711} }"), true, &error);
    ck_assert_msg(config != NULL, "%s", error.text);
    ck_assert_uint_eq(config->uid, getpwnam("daemon")->pw_uid);
    ck_assert_uint_eq(config->contexts[0].user_count, 0);
    ck_assert_uint_eq(config->contexts[0].group_allowed_count, 2);
    ck_assert_uint_eq(config->contexts[0].groups_allowed[1], 4711);
    config_free(config);
}
END_TEST

START_TEST(defaults_are_the_secure_ones)
{
    struct config *config = read_good(CONTEXT(""));
    const struct config_context *context = &config->contexts[0];

    ck_assert_str_eq(config->user, "tlsagent");
    ck_assert_str_eq(config->socket, CONFIG_DEFAULT_SOCKET);
    ck_assert_str_eq(config->control_socket, "/run/tlsagent/control.sock");
    ck_assert_int_eq(config->log, CONFIG_LOG_STDERR);
    ck_assert_int_eq(config->log_level, LOG_LEVEL_INFO);
    ck_assert_uint_ge(config->cells, 1);
    ck_assert_uint_eq(config->max_handshakes, 10000);
    ck_assert_uint_eq(config->max_channels, 256);
    ck_assert_uint_eq(config->max_greetings, 50);
    ck_assert_uint_eq(config->sandbox_require, 0);
    ck_assert_uint_eq(config->cell_group_count, 1);
    ck_assert_uint_eq(config->context_count, 1);
    ck_assert_str_eq(context->name, "www");
    ck_assert_uint_eq(context->line, 1);
    ck_assert_uint_eq(context->min_version, TRAFFIC_TLS_1_2);
    ck_assert_uint_eq(context->max_version, TRAFFIC_TLS_1_3);
    ck_assert_ptr_null(context->ciphers);
    ck_assert_ptr_null(context->ciphersuites);
    ck_assert_ptr_null(context->groups);
    ck_assert(context->prefer_server_ciphers);
    ck_assert_uint_eq(context->forms,
                      SERVICE_FORM_RECORDS | SERVICE_FORM_KERNEL | SERVICE_FORM_STREAM);
    ck_assert(!context->prefer_rekey);
    ck_assert_uint_eq(context->deadline_ms, 10000);
    ck_assert_uint_eq(context->tickets, 2);
    ck_assert_int_eq(context->verify, CONFIG_VERIFY_NONE);
    ck_assert_uint_eq(context->alpn_count, 0);
    ck_assert_uint_eq(context->listen_count, 0);
    ck_assert_uint_eq(context->cell_group, 0);
    ck_assert_uint_eq(context->user_count, 1);
    ck_assert_uint_eq(context->users[0], getuid());
    ck_assert_uint_eq(context->identity_count, 1);
    ck_assert(context->identities[0].is_default);
    ck_assert_uint_eq(context->identities[0].line, 3);
    config_free(config);
}
END_TEST

START_TEST(the_store_of_a_fleet)
{
    struct config *config = read_good(
        "fleet { secret_file = a.key store = \"rediss://me@[::1]/12\" store_ca_file = a.pem\n"
        "store_password_file = a.key store_name = store.example store_wait = 70 }\n" CONTEXT(""));
    const struct config_store *store = config->fleet_store;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&store->address;
    const struct sockaddr_un *local;

    ck_assert(store->tls && store->database == 12 && store->wait_ms == 70);
    ck_assert_str_eq(store->user, "me");
    ck_assert_str_eq(store->name, "store.example");
    ck_assert(v6->sin6_family == AF_INET6 && v6->sin6_port == htons(6379));
    config_free(config);
    config =
        read_good("fleet { secret_file = a.key store = \"redis://10.1.2.3:99\" }\n" CONTEXT(""));
    store = config->fleet_store;
    ck_assert(!store->tls && store->database == 0 && store->user == NULL && store->wait_ms == 50);
    ck_assert_uint_eq(((const struct sockaddr_in *)&store->address)->sin_port, htons(99));
    ck_assert_str_eq(store->name, "10.1.2.3");
    config_free(config);
    config = read_good("fleet { secret_file = a.key store = \"unix:/r.sock?db=3\" }\n" CONTEXT(""));
    local = (const struct sockaddr_un *)&config->fleet_store->address;
    ck_assert(local->sun_family == AF_UNIX && config->fleet_store->database == 3);
    ck_assert_str_eq(local->sun_path, "/r.sock");
    config_free(config);
}
END_TEST

START_TEST(every_option_arrives)
{
    struct config *config = read_good(
        "user = \"agent\"\ncells = 3\nsocket = run/s\ncontrol_socket = \"/run/c\"\n"
        "log = \"/var/log/tlsagent\"\nlog_level = debug\nmax_handshakes = 5\nmax_channels = 6\n"
        "max_greetings = 7\n"
        "context \"a\" { " ID " cells = dedicated deadline = 300 tickets = 0\n"
        "alpn = {\"h2\", 'http/1.1'} alpn += {x}\n"
        "versions = \"sslv23:!tlsv1_2\" ciphers = \"ECDHE+CHACHA20:@SECLEVEL=1\"\n"
        "ciphersuites = \"TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256\"\n"
        "groups = \"?X25519MLKEM768:X25519:P-256:X25519\" prefer_server_ciphers = off\n"
        "hand_back = {\"records\"} verify = required client_ca_file = a.pem\n"
        "listen = {\"127.0.0.1:443\", \"[::1]:8443\", \"*:80\"} backlog = 7\n"
        "workers { users = {0, daemon} groups = {daemon} } }\n"
        "context \"b\" { " ID " cells = dedicated }\ncontext \"c\" { " ID " }\n");
    const struct config_context *context = &config->contexts[0];
    char *path = expand("~/run/s");
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)&context->listens[0].address;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&context->listens[1].address;

    ck_assert_str_eq(config->user, "agent");
    ck_assert_uint_eq(config->cells, 3);
    ck_assert_str_eq(config->socket, path);
    free(path);
    ck_assert_str_eq(config->control_socket, "/run/c");
    ck_assert_int_eq(config->log, CONFIG_LOG_FILE);
    ck_assert_str_eq(config->log_file, "/var/log/tlsagent");
    ck_assert_int_eq(config->log_level, LOG_LEVEL_DEBUG);
    ck_assert_uint_eq(config->max_handshakes, 5);
    ck_assert_uint_eq(config->max_channels, 6);
    ck_assert_uint_eq(config->max_greetings, 7);
    ck_assert_uint_eq(context->deadline_ms, 300000);
    ck_assert_uint_eq(context->tickets, 0);
    ck_assert_uint_eq(context->alpn_count, 3);
    ck_assert_str_eq(context->alpn[0], "h2");
    ck_assert_str_eq(context->alpn[1], "http/1.1");
    ck_assert_str_eq(context->alpn[2], "x");
    ck_assert_uint_eq(context->min_version, TRAFFIC_TLS_1_3);
    ck_assert_str_eq(context->ciphers, "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305");
    ck_assert_str_eq(context->ciphersuites, "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256");
    ck_assert_ptr_nonnull(strstr(context->groups, "X25519:P-256"));
    ck_assert(!context->prefer_server_ciphers);
    ck_assert_int_eq(context->verify, CONFIG_VERIFY_REQUIRED);
    ck_assert_ptr_nonnull(context->client_ca_file);
    ck_assert_uint_eq(context->listen_count, 4);
    ck_assert_int_eq(v4->sin_family, AF_INET);
    ck_assert_uint_eq(ntohs(v4->sin_port), 443);
    ck_assert_uint_eq(ntohl(v4->sin_addr.s_addr), INADDR_LOOPBACK);
    ck_assert_int_eq(v6->sin6_family, AF_INET6);
    ck_assert_uint_eq(ntohs(v6->sin6_port), 8443);
    ck_assert_int_eq(context->listens[2].address.ss_family, AF_INET);
    ck_assert_int_eq(context->listens[3].address.ss_family, AF_INET6);
    ck_assert_str_eq(context->listens[3].text, "*:80");
    ck_assert_uint_eq(context->backlog, 7);
    ck_assert_uint_eq(context->user_count, 2);
    ck_assert_uint_eq(context->users[0], 0);
    ck_assert_uint_eq(context->group_allowed_count, 1);
    ck_assert_uint_eq(config->cell_group_count, 3);
    ck_assert_uint_eq(context->cell_group, 1);
    ck_assert_uint_eq(config->contexts[1].cell_group, 2);
    ck_assert_uint_eq(config->contexts[2].cell_group, 0);
    config_free(config);
}
END_TEST

static const struct {
    const char *text;
    unsigned minimum, maximum;
} versions[] = {
    {"SSLv23", TRAFFIC_TLS_1_2, TRAFFIC_TLS_1_3},
    {"SSLv23:!SSLv3:!SSLv2", TRAFFIC_TLS_1_2, TRAFFIC_TLS_1_3},
    {"SSLv23:!SSLv3:!TLSv1_1", TRAFFIC_TLS_1_2, TRAFFIC_TLS_1_3},
    {"SSLv23:!SSLv2:!SSLv3:!TLSv1_1:!TLSv1_2", TRAFFIC_TLS_1_3, TRAFFIC_TLS_1_3},
    {"TLSv1_2", TRAFFIC_TLS_1_2, TRAFFIC_TLS_1_2},
    {"tlsv12", TRAFFIC_TLS_1_2, TRAFFIC_TLS_1_2},
    {"TLSv1.2", TRAFFIC_TLS_1_2, TRAFFIC_TLS_1_2},
    {"TLSV13", TRAFFIC_TLS_1_3, TRAFFIC_TLS_1_3},
    {"TLSv1_1:TLSv1_2", TRAFFIC_TLS_1_2, TRAFFIC_TLS_1_2},
    {"!TLSv1_3", TRAFFIC_TLS_1_2, TRAFFIC_TLS_1_2},
};

START_TEST(versions_are_written_as_in_the_seed)
{
    char text[256];
    struct config *config;

    snprintf(text, sizeof(text), CONTEXT("versions = \"%s\""), versions[_i].text);
    config = read_good(text);
    ck_assert_uint_eq(config->contexts[0].min_version, versions[_i].minimum);
    ck_assert_uint_eq(config->contexts[0].max_version, versions[_i].maximum);
    config_free(config);
}
END_TEST

START_TEST(ciphers_that_cannot_be_handed_back_fall_out)
{
    struct config *config = read_good(CONTEXT("ciphers = \"ALL:aNULL:eNULL:@SECLEVEL=0\""));
    const char *ciphers = config->contexts[0].ciphers;

    ck_assert_uint_lt(strlen(ciphers), 256);
    for (const char *next = ciphers; next != NULL; next = strchr(next, ':')) {
        next += *next == ':';
        ck_assert_msg(strncmp(next, "ECDHE-RSA-", 10) == 0 ||
                          strncmp(next, "ECDHE-ECDSA-", 12) == 0,
                      "%s", next);
        ck_assert(strcspn(next, ":") > 20);
    }
    ck_assert_ptr_nonnull(strstr(ciphers, "ECDHE-RSA-AES128-GCM-SHA256"));
    ck_assert_ptr_null(strstr(ciphers, "CCM"));
    ck_assert_ptr_null(strstr(ciphers, "SECLEVEL"));
    config_free(config);
}
END_TEST

START_TEST(blocks_with_one_title_are_twins)
{
    struct config *config =
        read_good(CONTEXT("identity \"Www.Example.org\" { certificate = a.pem key = a.key }\n"
                          "identity \"Www.Example.org\" { certificate = a.pem names = {\"B.org\", "
                          "localhost, \"*.b.org\"} }\n"
                          "identity \"Www.Example.org\" { certificate = a.key }"));
    const struct config_context *context = &config->contexts[0];

    ck_assert_uint_eq(context->identity_count, 4);
    for (size_t i = 0; i < 3; i++) {
        ck_assert_str_eq(context->identities[i].label, "Www.Example.org");
        ck_assert_uint_eq(context->identities[i].line, i + 2);
        ck_assert(!context->identities[i].is_default); /* "a" has another label */
    }
    ck_assert_ptr_nonnull(context->identities[0].key);
    ck_assert_ptr_null(context->identities[1].key);
    ck_assert_uint_eq(context->identities[0].name_count, 0); /* the loader adds the title */
    ck_assert_uint_eq(context->identities[1].name_count, 3);
    ck_assert_str_eq(context->identities[1].names[0], "b.org");
    ck_assert_str_eq(context->identities[1].names[1], "localhost");
    ck_assert_str_eq(context->identities[1].names[2], "*.b.org");
    config_free(config);

    config = read_good("context \"w\" { " ID ID "}");
    ck_assert(config->contexts[0].identities[0].is_default);
    ck_assert(config->contexts[0].identities[1].is_default);
    config_free(config);

    config = read_good("context \"w\" { identity \"a\" { certificate = a.pem default = no } }");
    ck_assert(!config->contexts[0].identities[0].is_default);
    config_free(config);

    config = read_good(CONTEXT("identity \"b\" { certificate = a.pem default = true }"));
    ck_assert(config->contexts[0].identities[0].is_default);
    ck_assert(!config->contexts[0].identities[1].is_default);
    config_free(config);
}
END_TEST

START_TEST(included_files_count_their_own_lines)
{
    struct error error;
    char *message = expand("~/sub/two:3: deadline: \"x\" is not a number from 1 to 300");
    struct config *config;

    make_directory("sub");
    write_file("sub/one", "log_level = error\ninclude(\"sub/three\")");
    write_file("sub/three", "cells = 2 # end");
    write_file("sub/two", "\n\ndeadline = x");
    config = read_good("include(\"sub/one\")\nmax_channels = 9 "
                       "sandbox { require = {\"landlock\", \"memfd_secret\"} }\n" CONTEXT(""));
    ck_assert_uint_eq(config->sandbox_require, SANDBOX_LANDLOCK | SANDBOX_MEMFD_SECRET);
    ck_assert_int_eq(config->log_level, LOG_LEVEL_ERROR);
    ck_assert_uint_eq(config->cells, 2);
    ck_assert_uint_eq(config->max_channels, 9);
    ck_assert_uint_eq(config->contexts[0].line, 3);
    config_free(config);

    ck_assert_ptr_null(read_text(CONTEXT("include(\"sub/two\")"), false, &error));
    ck_assert_str_eq(error.text, message);
    free(message);
    write_file("sub/two", "}");
    ck_assert_ptr_null(read_text(CONTEXT("include(\"sub/two\")"), false, &error));
    ck_assert_ptr_nonnull(strstr(error.text, "/sub/two:1: this } closes nothing"));
}
END_TEST

START_TEST(variables_of_the_environment_are_expanded)
{
    struct config *config;

    setenv("TLSAGENT_TEST_DIR", directory, 1);
    config = read_good(
        "socket = \"${TLSAGENT_TEST_DIR}/s\" control_socket = "
        "'/not/${TLSAGENT_TEST_UNSET}'\nlog = ${TLSAGENT_TEST_UNSET:-syslog}\n" CONTEXT(""));
    ck_assert_ptr_eq(strstr(config->socket, directory), config->socket);
    ck_assert_str_eq(config->control_socket, "/not/${TLSAGENT_TEST_UNSET}");
    ck_assert_int_eq(config->log, CONFIG_LOG_SYSLOG);
    ck_assert_uint_eq(config->contexts[0].line, 3);
    config_free(config);
}
END_TEST

START_TEST(layouts_of_directories_are_known)
{
    static const struct {
        const char *label, *certificate, *key;
    } expected[] = {
        {"acme.org", "~/ids/acme.org/fullchain.cer", "~/ids/acme.org/acme.org.key"},
        {"certbot.org", "~/ids/certbot.org/fullchain.pem", "~/ids/certbot.org/privkey.pem"},
        {"combined.org", "~/ids/combined.org.pem", NULL},
        {"kube.org", "~/ids/kube.org/tls.crt", "~/ids/kube.org/tls.key"},
        {"lego.org", "~/ids/lego.org.crt", "~/ids/lego.org.key"},
        {"mkcert.org", "~/ids/mkcert.org.pem", "~/ids/mkcert.org-key.pem"},
        {"pem.org", "~/ids/pem.org.pem", "~/ids/pem.org.key"},
    };
    static const char *const files[] = {
        "ids/README",
        "ids/acme.org/fullchain.cer",
        "ids/acme.org/acme.org.key",
        "ids/combined.org.pem",
        "ids/kube.org/tls.crt",
        "ids/kube.org/tls.key",
        "ids/lego.org.crt",
        "ids/lego.org.issuer.crt",
        "ids/lego.org.json",
        "ids/lego.org.key",
        "ids/mkcert.org.pem",
        "ids/mkcert.org-key.pem",
        "ids/pem.org.pem",
        "ids/pem.org.key",
        "ids/.hidden.pem",
        "archive/cert1.pem",
        "archive/key1.pem",
    };
    struct config *config;
    char path[512];

    make_directory("archive");
    make_directory("ids");
    make_directory("ids/acme.org");
    make_directory("ids/kube.org");
    make_directory("ids/certbot.org");
    make_directory("ids/other");
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
        write_file(files[i], "x");
    snprintf(path, sizeof(path), "%s/ids/certbot.org/fullchain.pem", directory);
    ck_assert_int_eq(symlink("../../archive/cert1.pem", path), 0);
    snprintf(path, sizeof(path), "%s/ids/certbot.org/privkey.pem", directory);
    ck_assert_int_eq(symlink("../../archive/key1.pem", path), 0);

    config = read_good("context \"w\" { identities = \"ids/\" default_identity = lego.org }");
    ck_assert_uint_eq(config->contexts[0].identity_count, sizeof(expected) / sizeof(expected[0]));
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        const struct config_identity *identity = &config->contexts[0].identities[i];
        char *certificate = expand(expected[i].certificate);
        char *key = expected[i].key != NULL ? expand(expected[i].key) : NULL;

        ck_assert_str_eq(identity->label, expected[i].label);
        ck_assert_str_eq(identity->certificate, certificate);
        ck_assert_pstr_eq(identity->key, key);
        ck_assert_uint_eq(identity->name_count, 0);
        ck_assert_uint_eq(identity->line, 0);
        ck_assert(identity->is_default == (strcmp(identity->label, "lego.org") == 0));
        free(certificate);
        free(key);
    }
    config_free(config);

    /* The directory of one identity itself; two directories in one list. */
    config = read_good("context \"w\" { identities = {\"ids/certbot.org\", \"ids/kube.org\"} }");
    ck_assert_uint_eq(config->contexts[0].identity_count, 2);
    ck_assert_str_eq(config->contexts[0].identities[0].label, "certbot.org");
    ck_assert(!config->contexts[0].identities[0].is_default);
    config_free(config);
    config = read_good("context \"w\" { identities = \"ids/kube.org\" }");
    ck_assert(config->contexts[0].identities[0].is_default);
    config_free(config);
}
END_TEST

START_TEST(half_an_identity_in_a_directory_is_an_error)
{
    struct error error;
    char *message = expand("~/conf:2: identities: ~/ids/a.org/fullchain.pem has no privkey.pem "
                           "beside it; add it or remove the certificate");

    make_directory("ids");
    make_directory("ids/a.org");
    write_file("ids/a.org/fullchain.pem", "x");
    ck_assert_ptr_null(read_text(CONTEXT("identities = ids"), false, &error));
    ck_assert_str_eq(error.text, message);
    free(message);
}
END_TEST

#define MANY 10000

START_TEST(ten_thousand_identities_are_quick)
{
    struct timespec start, end;
    struct config *config;
    char name[64];
    double seconds;

    make_directory("ids");
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof(name), "ids/n%05d.example.org", (i * 7919) % MANY);
        make_directory(name);
        snprintf(name, sizeof(name), "ids/n%05d.example.org/fullchain.pem", (i * 7919) % MANY);
        write_file(name, "x");
        snprintf(name, sizeof(name), "ids/n%05d.example.org/privkey.pem", (i * 7919) % MANY);
        write_file(name, "x");
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &start);
    config = read_good("context \"w\" { identities = ids }");
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
    seconds = (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9;
    ck_assert_uint_eq(config->contexts[0].identity_count, MANY);
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(name, sizeof(name), "n%05u.example.org", i);
        ck_assert_str_eq(config->contexts[0].identities[i].label, name);
    }
    config_free(config);
    printf("%d identities read in %.0f ms of CPU time\n", MANY, seconds * 1000);
    ck_assert_double_lt(seconds, 5);
}
END_TEST

START_TEST(limits_of_contexts_and_names_hold)
{
    struct error error;
    char *text = NULL;
    size_t size;
    FILE *stream = open_memstream(&text, &size);
    struct config *config;

    for (int i = 0; i < CONTROL_CONTEXTS_MAX; i++)
        fprintf(stream, "context \"c%d\" { " ID "}\n", i);
    fflush(stream);
    config = read_good(text);
    ck_assert_uint_eq(config->context_count, CONTROL_CONTEXTS_MAX);
    config_free(config);
    fprintf(stream, "context \"more\" { " ID "}\n");
    fclose(stream);
    ck_assert_ptr_null(read_text(text, false, &error));
    ck_assert_ptr_nonnull(
        strstr(error.text, "/conf:513: context: more than 256 contexts; remove some"));
    free(text);

    stream = open_memstream(&text, &size);
    fprintf(stream, "context \"%064d\" { " ID "}", 0);
    fclose(stream);
    ck_assert_ptr_null(read_text(text, false, &error));
    ck_assert_ptr_nonnull(strstr(error.text, "/conf:1: context: the name must have 1 to 63 bytes"));
    free(text);

    stream = open_memstream(&text, &size);
    fprintf(stream, "socket = \"/%0107d\"\n" CONTEXT(""), 0);
    fclose(stream);
    ck_assert_ptr_null(read_text(text, false, &error));
    ck_assert_ptr_nonnull(strstr(error.text, "is too long for a Unix socket (107 bytes)"));
    free(text);

    stream = open_memstream(&text, &size);
    fprintf(stream, "context \"w\" { identity \"a\" { certificate = a.pem names = {a.org");
    for (int i = 0; i < LOAD_NAMES_MAX; i++)
        fprintf(stream, ", n%d.org", i);
    fprintf(stream, "} } }");
    fclose(stream);
    ck_assert_ptr_null(read_text(text, false, &error));
    ck_assert_ptr_nonnull(strstr(error.text, "names: more than 32 names in one identity"));
    free(text);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("config");
    TCase *tcase = tcase_create("config");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, a_mistake_gives_one_line_with_its_place, 0,
                        (int)(sizeof(mistakes) / sizeof(mistakes[0])));
    tcase_add_test(tcase, a_missing_file_is_named);
    tcase_add_test(tcase, as_root_users_must_be_named);
    tcase_add_test(tcase, defaults_are_the_secure_ones);
    tcase_add_test(tcase, the_store_of_a_fleet);
    tcase_add_test(tcase, every_option_arrives);
    tcase_add_loop_test(tcase, versions_are_written_as_in_the_seed, 0,
                        (int)(sizeof(versions) / sizeof(versions[0])));
    tcase_add_test(tcase, ciphers_that_cannot_be_handed_back_fall_out);
    tcase_add_test(tcase, blocks_with_one_title_are_twins);
    tcase_add_test(tcase, included_files_count_their_own_lines);
    tcase_add_test(tcase, variables_of_the_environment_are_expanded);
    tcase_add_test(tcase, layouts_of_directories_are_known);
    tcase_add_test(tcase, half_an_identity_in_a_directory_is_an_error);
    tcase_add_test(tcase, ten_thousand_identities_are_quick);
    tcase_add_test(tcase, limits_of_contexts_and_names_hold);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
