/* selftest.c: see selftest.h. */
#include "agent/selftest.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/config.h"
#include "agent/handshake.h"
#include "agent/log.h"
#include "agent/server_ctx.h"
#include "agent/shape.h"
#include "agent/transport.h"
#include "protocol/traffic.h"

#define ROUNDS_MAX  50 /* of taking turns; a handshake needs three */
#define LIST_MAX    64 /* suites, groups of one context */
#define DEADLINE_MS 5000

/* The names that libssl has for the schemes of shape.c. */
static const struct {
    uint16_t id;
    const char *name;
} scheme_names[] = {
    {0x0804, "rsa_pss_rsae_sha256"},    {0x0805, "rsa_pss_rsae_sha384"},
    {0x0806, "rsa_pss_rsae_sha512"},    {0x0401, "rsa_pkcs1_sha256"},
    {0x0501, "rsa_pkcs1_sha384"},       {0x0601, "rsa_pkcs1_sha512"},
    {0x0403, "ecdsa_secp256r1_sha256"}, {0x0503, "ecdsa_secp384r1_sha384"},
    {0x0603, "ecdsa_secp521r1_sha512"}, {0x0807, "ed25519"},
};

static int ends[2] = {-1, -1}; /* the server's, the client's */

struct run {
    struct cell *cell;
    const struct generation_public *part;
    SSL_CTX *client;
    SSL_SESSION *session; /* the last one that the client was given */
    int count;
};

/* What one handshake uses. */
struct plan {
    size_t context;
    const struct generation_identity *identity;
    uint16_t version;
    const char *suite, *group, *scheme;
    bool resume;
};

void
selftest_prepare(void)
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == -1)
        log_die("self-test: socketpair: %s", strerror(errno));
}

static int
keep_session(SSL *ssl, SSL_SESSION *session)
{
    struct run *run = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));

    SSL_SESSION_free(run->session);
    run->session = session;
    return 1; /* ours now */
}

/* Its first name; a wildcard's is made up. Returns false if no name leads to it. */
static bool
name_of(const struct generation_identity *identity, char name[SERVICE_HOST_MAX])
{
    size_t size = identity->names_size > 0 ? identity->names[0] : 0;

    name[0] = '\0';
    if (size == 0 || size >= SERVICE_HOST_MAX - 8 || size > identity->names_size - 1)
        return identity->is_default;
    if (identity->names[1] == '*')
        snprintf(name, SERVICE_HOST_MAX, "test%.*s", (int)size - 1, identity->names + 2);
    else
        snprintf(name, SERVICE_HOST_MAX, "%.*s", (int)size, identity->names + 1);
    return true;
}

/* The group that a TLS 1.2 client must offer for the certificate's own curve. */
static const char *
curve_of(const struct generation_identity *identity)
{
    switch ((enum generation_key_type)identity->key_type) {
    case GENERATION_KEY_P256:
        return "P-256";
    case GENERATION_KEY_P384:
        return "P-384";
    case GENERATION_KEY_P521:
        return "P-521";
    default:
        return "";
    }
}

/* Set the client up for the plan. Returns false if this library lacks one of the algorithms. */
static bool
set_client(SSL *ssl, const struct plan *plan, const char *name)
{
    bool tls13 = plan->version == TRAFFIC_TLS_1_3;
    const char *curve = tls13 ? "" : curve_of(plan->identity);
    char groups[128];

    if (strcasecmp(curve, plan->group) == 0)
        curve = ""; /* twice is refused */
    snprintf(groups, sizeof(groups), "%s%s%s", plan->group, curve[0] != '\0' ? ":" : "", curve);
    SSL_set_connect_state(ssl);
    return SSL_set_min_proto_version(ssl, plan->version) == 1 &&
           SSL_set_max_proto_version(ssl, plan->version) == 1 &&
           (tls13 ? SSL_set_ciphersuites(ssl, plan->suite)
                  : SSL_set_cipher_list(ssl, plan->suite)) == 1 &&
           SSL_set1_groups_list(ssl, groups) == 1 &&
           SSL_set1_sigalgs_list(ssl, plan->scheme) == 1 &&
           (name[0] == '\0' || SSL_set_tlsext_host_name(ssl, name) == 1);
}

/* What is left in the sockets belongs to no other handshake. */
static void
drain(void)
{
    uint8_t bytes[1024];

    for (size_t i = 0; i < 2; i++) {
        while (recv(ends[i], bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
            continue;
    }
}

/* handshake.c tells its owner so; we look at its state. */
static void
ignore_done(struct handshake *handshake)
{
    (void)handshake;
}

/* Both sides in turn. Returns 0, or -1 with the reason in error. */
static int
take_turns(struct handshake *server, SSL *client, struct transport *transport, struct error *error)
{
    int result = -1, why = SSL_ERROR_NONE;
    uint8_t byte;

    for (int i = 0; i < ROUNDS_MAX && (result != 1 || server->state == HANDSHAKE_RUNNING); i++) {
        ERR_clear_error();
        if (result != 1 && (result = SSL_connect(client)) != 1) {
            why = SSL_get_error(client, result);
            if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE)
                break;
        }
        (void)transport_flush(transport);
        if (server->state == HANDSHAKE_RUNNING)
            handshake_run(server);
    }
    if (server->state == HANDSHAKE_FAILED)
        return error_set(error, "%s", server->failed.text);
    if (result != 1) {
        const char *reason = ERR_reason_error_string(ERR_peek_last_error());

        return error_set(error, "the client refuses: %s", reason != NULL ? reason : "no reason");
    }
    if (server->state != HANDSHAKE_FINISHED)
        return error_set(error, "it does not come to an end");
    (void)SSL_read(client, &byte, 1); /* tickets */
    return 0;
}

static int
try_plan(struct run *run, const struct plan *plan, struct error *error)
{
    static struct transport transport; /* too large for the stack */
    const struct generation_context *facts = identity_context(run->cell->identities, plan->context);
    struct handshake *server = NULL;
    char name[SERVICE_HOST_MAX];
    struct error why = {""};
    SSL *client = SSL_new(run->client);
    BIO *bio;
    int result = -1;

    transport_init(&transport, ends[1]);
    bio = transport_bio(&transport);
    (void)name_of(plan->identity, name);
    if (client == NULL || bio == NULL || !set_client(client, plan, name)) {
        BIO_free(bio);
        error_set(&why, "libssl refuses the client's settings");
    } else {
        SSL_set_bio(client, bio, bio);
        if (plan->resume && run->session != NULL)
            SSL_set_session(client, run->session);
        server = handshake_new(run->cell, plan->context, ends[0], SERVICE_FORM_RECORDS, DEADLINE_MS,
                               ignore_done);
        if (server == NULL)
            log_die("self-test: out of memory");
        /* Nobody here has a client's certificate. */
        SSL_set_verify(server->ssl, SSL_VERIFY_NONE, NULL);
        result = take_turns(server, client, &transport, &why);
        if (result == 0 && plan->resume && !server->resumed)
            result = error_set(&why, "the ticket is not resumed");
        server->fd = -1; /* stays ours */
        handshake_free(server);
        SSL_set_shutdown(client,
                         SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN); /* keeps tickets good */
    }
    SSL_free(client);
    drain();
    run->count++;
    if (result == -1)
        return error_set(error, "self-test: context \"%s\", %s, %s, group %s, scheme %s%s: %s",
                         facts->name, plan->version == TRAFFIC_TLS_1_3 ? "TLS 1.3" : "TLS 1.2",
                         plan->suite, plan->group, plan->scheme, plan->resume ? ", resumption" : "",
                         why.text);
    return 0;
}

/* ---- what to try ---- */

/* The suites of the context that a key of this type can serve in this version. */
static size_t
list_suites(uint16_t version, uint8_t key_type, const STACK_OF(SSL_CIPHER) * all,
            const char *names[LIST_MAX])
{
    int auth = key_type == GENERATION_KEY_RSA ? NID_auth_rsa : NID_auth_ecdsa;
    size_t count = 0;

    for (int i = 0; i < sk_SSL_CIPHER_num(all) && count < LIST_MAX; i++) {
        const SSL_CIPHER *suite = sk_SSL_CIPHER_value(all, i);
        bool tls13 = SSL_CIPHER_get_protocol_id(suite) >> 8 == 0x13;

        if (tls13 != (version == TRAFFIC_TLS_1_3) ||
            (!tls13 && SSL_CIPHER_get_auth_nid(suite) != auth))
            continue;
        names[count++] = SSL_CIPHER_get_name(suite);
    }
    return count;
}

/* The groups of the context; text is cut up. Finite fields and hybrids are for TLS 1.3 only. */
static size_t
list_groups(const struct generation_context *facts, uint16_t version, char *text, size_t size,
            const char *names[LIST_MAX])
{
    char *rest = NULL;
    size_t count = 0;

    snprintf(text, size, "%s", facts->groups[0] != '\0' ? facts->groups : server_ctx_groups());
    for (char *name = strtok_r(text, ":", &rest); name != NULL && count < LIST_MAX;
         name = strtok_r(NULL, ":", &rest)) {
        if (version == TRAFFIC_TLS_1_2 &&
            (strncasecmp(name, "ffdhe", 5) == 0 || strcasestr(name, "mlkem") != NULL))
            continue;
        names[count++] = name;
    }
    return count;
}

static size_t
list_schemes(uint16_t version, uint8_t key_type, const char *names[SHAPE_SLOTS])
{
    uint8_t bit = version == TRAFFIC_TLS_1_3 ? SHAPE_TLS13 : SHAPE_TLS12;
    size_t count = 0;

    for (const struct shape_scheme *scheme = shape_scheme_next(NULL, key_type);
         scheme != NULL && count < SHAPE_SLOTS; scheme = shape_scheme_next(scheme, key_type)) {
        if ((scheme->versions & bit) == 0 ||
            (bit == SHAPE_TLS13 && scheme->tls13_type != 0 && scheme->tls13_type != key_type))
            continue;
        for (size_t i = 0; i < sizeof(scheme_names) / sizeof(scheme_names[0]); i++) {
            if (scheme_names[i].id == scheme->id)
                names[count++] = scheme_names[i].name;
        }
    }
    return count;
}

/* Each suite, group and scheme once, side by side; then a resumption. */
static int
try_identity(struct run *run, size_t context, const struct generation_identity *identity,
             uint16_t version, const STACK_OF(SSL_CIPHER) * all, struct error *error)
{
    const struct generation_context *facts = identity_context(run->cell->identities, context);
    const char *suites[LIST_MAX], *groups[LIST_MAX], *schemes[SHAPE_SLOTS];
    struct plan plan = {.context = context, .identity = identity, .version = version};
    size_t suite_count = list_suites(version, identity->key_type, all, suites);
    size_t scheme_count = list_schemes(version, identity->key_type, schemes);
    char text[sizeof(facts->groups) + 64];
    size_t group_count = list_groups(facts, version, text, sizeof(text), groups);
    size_t count = suite_count > group_count ? suite_count : group_count;

    if (suite_count == 0 || group_count == 0 || scheme_count == 0)
        return 0; /* this key is not for this version */
    count = count > scheme_count ? count : scheme_count;
    SSL_SESSION_free(run->session);
    run->session = NULL;
    for (size_t i = 0; i < count; i++) {
        plan.suite = suites[i % suite_count];
        plan.group = groups[i % group_count];
        plan.scheme = schemes[i % scheme_count];
        if (try_plan(run, &plan, error) == -1)
            return -1;
    }
    /* The test's client brings tickets only, and no certificate. */
    plan.resume = facts->tickets > 0 && facts->verify == CONFIG_VERIFY_NONE &&
                  (version == TRAFFIC_TLS_1_3 || facts->tickets_tls12);
    return plan.resume ? try_plan(run, &plan, error) : 0;
}

/* Have an earlier context's keys of this type been through the same algorithms? */
static bool
tried_before(const struct generation_public *part, size_t context,
             const struct generation_identity *identity)
{
    const struct generation_context *ours = &part->contexts[context];

    for (size_t i = 0; &part->identities[i] < identity; i++) {
        const struct generation_identity *other = &part->identities[i];
        const struct generation_context *theirs = &part->contexts[other->context];
        char name[SERVICE_HOST_MAX];

        if (other->key_type != identity->key_type || !name_of(other, name))
            continue;
        if (other->context == context ||
            (strcmp(ours->ciphers, theirs->ciphers) == 0 &&
             strcmp(ours->ciphersuites, theirs->ciphersuites) == 0 &&
             strcmp(ours->groups, theirs->groups) == 0 &&
             ours->min_version >= theirs->min_version && ours->max_version <= theirs->max_version))
            return true;
    }
    return false;
}

static int
try_context(struct run *run, const struct generation_identity *identity, struct error *error)
{
    size_t context = identity->context;
    const struct generation_context *facts = &run->part->contexts[context];
    SSL *ssl = identity_ssl_new(run->cell->identities, context, error);
    int result = ssl != NULL ? 0 : -1;

    for (uint16_t version = TRAFFIC_TLS_1_2; version <= TRAFFIC_TLS_1_3 && result == 0; version++) {
        if (version >= facts->min_version && version <= facts->max_version)
            result = try_identity(run, context, identity, version, SSL_get_ciphers(ssl), error);
    }
    SSL_free(ssl);
    return result;
}

int
selftest_run(struct cell *cell, const struct generation_public *part, struct error *error)
{
    struct run run = {.cell = cell, .part = part, .client = SSL_CTX_new(TLS_client_method())};
    int result = 0;

    if (run.client == NULL)
        return error_set(error, "self-test: out of memory");
    SSL_CTX_set_app_data(run.client, &run);
    SSL_CTX_set_verify(run.client, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_session_cache_mode(run.client,
                                   SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL_STORE);
    SSL_CTX_sess_set_new_cb(run.client, keep_session);
    for (size_t i = 0; i < part->identity_count && result == 0; i++) {
        const struct generation_identity *identity = &part->identities[i];
        char name[SERVICE_HOST_MAX];

        if (name_of(identity, name) && !tried_before(part, identity->context, identity))
            result = try_context(&run, identity, error);
    }
    SSL_SESSION_free(run.session);
    SSL_CTX_free(run.client);
    for (size_t i = 0; i < 2; i++) {
        close(ends[i]);
        ends[i] = -1;
    }
    for (size_t i = 0; i < part->context_count; i++)
        cell->contexts[i].counters =
            (struct control_context_counters){.context = part->contexts[i].index};
    ERR_clear_error();
    return result == 0 ? run.count : -1;
}
