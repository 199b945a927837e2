/* handshake.c: see handshake.h. */
#include "agent/handshake.h"

#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "agent/log.h"
#include "agent/sessions.h"
#include "protocol/kernel_tls.h"
#include "sandbox/wipe.h"

#define NO_ALERT 255

/* More handshakes than that, and those that wait have no record buffers (20 KiB each). */
#define CROWD 64

static struct export_state *
export_of(const SSL *ssl)
{
    struct handshake *handshake = SSL_get_app_data(ssl);

    return handshake != NULL ? &handshake->collected : NULL;
}

static bool
choose(SSL *ssl, const char *sni)
{
    struct handshake *handshake = SSL_get_app_data(ssl);
    struct cell *cell = handshake->cell;
    struct identity_set *set = identity_find(cell->identities, handshake->context, sni);
    struct error error = {""};

    snprintf(handshake->sni, sizeof(handshake->sni), "%s", sni);
    if (set == NULL)
        return false;
    if (identity_apply(cell->identities, set, ssl, &error) == -1 ||
        proxyticket_bind(ssl, cell->tickets, identity_scope(set)) == -1) {
        log_error("%s", error.text[0] != '\0' ? error.text : "out of memory for a handshake");
        return false;
    }
    proxyticket_count_into(ssl, cell->contexts[handshake->context].counters.not_resumed);
    newticket_take_over(ssl, &handshake->tickets);
    return true;
}

const struct identity_hooks handshake_hooks = {export_of, choose};

struct store_lookup *
handshake_lookup(const SSL *ssl)
{
    struct handshake *handshake = SSL_get_app_data(ssl);

    return handshake != NULL ? &handshake->lookup : NULL;
}

void
handshake_answered(struct store_lookup *lookup)
{
    struct handshake *handshake =
        (struct handshake *)((char *)lookup - offsetof(struct handshake, lookup));
    struct serving *serving = handshake->cell->serving;
    uint64_t before = serving_set(serving, handshake->blame);

    handshake_run(handshake);
    serving_set(serving, before);
}

void
handshake_go_on(SSL *ssl)
{
    struct handshake *handshake = SSL_get_app_data(ssl);

    serving_set(handshake->cell->serving, handshake->blame);
    handshake_run(handshake);
    serving_set(handshake->cell->serving, 0);
}

/* OpenSSL's part ends here, in every outcome. The session is marked as properly closed first:
 * SSL_free() would make it not resumable. Nothing is written to the peer. */
static void
drop_ssl(struct handshake *handshake)
{
    if (handshake->ssl == NULL)
        return;
    SSL_set_shutdown(handshake->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(handshake->ssl);
    handshake->ssl = NULL;
    export_wipe(&handshake->collected);
    wipe_stack();
}

/* RUNNING is over: no event and no deadline any more. */
static void
leave_running(struct handshake *handshake, enum handshake_state state)
{
    loop_watch_set(handshake->cell->loop, &handshake->watch, 0);
    loop_timer_stop(handshake->cell->loop, &handshake->deadline);
    if (handshake->cell->store != NULL)
        store_cancel(handshake->cell->store, &handshake->lookup);
    drop_ssl(handshake);
    handshake->state = state;
    handshake->cell->in_flight--;
}

static void fail(struct handshake *handshake, enum service_failure reason, int alert,
                 const char *format, ...) __attribute__((format(printf, 4, 5)));

static void
fail(struct handshake *handshake, enum service_failure reason, int alert, const char *format, ...)
{
    struct service_failed *failed = &handshake->failed;
    struct control_context_counters *counters =
        &handshake->cell->contexts[handshake->context].counters;
    va_list args;

    failed->reason = (uint8_t)reason;
    failed->alert = alert >= 0 ? (uint8_t)alert : NO_ALERT;
    failed->retryable = handshake->transport.received == 0 && handshake->transport.sent == 0 &&
                        reason == SERVICE_INTERNAL;
    va_start(args, format);
    vsnprintf(failed->text, sizeof(failed->text), format, args);
    va_end(args);
    counters->failed[reason]++;
    log_debug("context \"%s\": %s",
              identity_context(handshake->cell->identities, handshake->context)->name,
              failed->text);
    leave_running(handshake, HANDSHAKE_FAILED);
    handshake->done(handshake);
}

/* OpenSSL gave up: find the words. */
static void
fail_by_ssl(struct handshake *handshake)
{
    const struct export_state *collected = &handshake->collected;
    long verified = SSL_get_verify_result(handshake->ssl);
    unsigned long code = ERR_peek_last_error();
    const char *reason = ERR_reason_error_string(code);

    if (collected->alert_received >= 0)
        fail(handshake, SERVICE_PEER_ALERT, collected->alert_received,
             "the peer refused the handshake with alert %d (%s)", collected->alert_received,
             SSL_alert_desc_string_long(collected->alert_received));
    else if (collected->alert_sent == SSL_AD_INTERNAL_ERROR)
        fail(handshake, SERVICE_INTERNAL, collected->alert_sent, "the agent failed: %s",
             reason != NULL ? reason : "unknown reason");
    else if (collected->alert_sent == SSL_AD_UNRECOGNIZED_NAME)
        fail(handshake, SERVICE_HANDSHAKE, collected->alert_sent,
             "no identity for the name \"%s\" and no default identity", handshake->sni);
    else if (handshake->transport.closed)
        fail(handshake, SERVICE_PEER_CLOSED, -1,
             "the peer closed the connection during the handshake, after %llu bytes",
             (unsigned long long)handshake->transport.received);
    else if (verified != X509_V_OK)
        fail(handshake, SERVICE_HANDSHAKE, collected->alert_sent,
             "the peer's certificate is refused: %s", X509_verify_cert_error_string(verified));
    else
        fail(handshake, SERVICE_HANDSHAKE, collected->alert_sent, "the handshake is refused: %s",
             reason != NULL ? reason : "protocol error");
}

/* Append one certificate as size (24 bits) and DER. Returns false if it does not fit. */
static bool
append_certificate(uint8_t *chain, size_t *size, X509 *certificate)
{
    int length = i2d_X509(certificate, NULL);
    uint8_t *next = chain + *size + 3;

    if (length <= 0 || *size + 3 + (size_t)length > SERVICE_CHAIN_MAX)
        return false;
    chain[*size] = (uint8_t)(length >> 16);
    chain[*size + 1] = (uint8_t)(length >> 8);
    chain[*size + 2] = (uint8_t)length;
    i2d_X509(certificate, &next);
    *size += 3 + (size_t)length;
    return true;
}

/* The certificates that the peer sent, leaf first. Returns false if they do not fit. */
static bool
take_chain(struct handshake *handshake)
{
    X509 *leaf = SSL_get0_peer_certificate(handshake->ssl);
    size_t others;

    if (leaf == NULL)
        return true;
    handshake->chain = malloc(SERVICE_CHAIN_MAX);
    if (handshake->chain == NULL)
        return false;
    if (!append_certificate(handshake->chain, &handshake->chain_size, leaf) ||
        !sessions_peer_chain(handshake->ssl, handshake->chain + handshake->chain_size,
                             SERVICE_CHAIN_MAX - handshake->chain_size, &others))
        return false;
    handshake->chain_size += others;
    return true;
}

/* OpenSSL is done; perhaps we were here before, and the peer had to read first. Returns false if it
 * has failed. */
static bool
take_state(struct handshake *handshake)
{
    struct error error = {""};

    if (!handshake->exported &&
        export_take(handshake->ssl, &handshake->collected, &handshake->transport,
                    &handshake->traffic, &error) == -1) {
        fail(handshake, SERVICE_INTERNAL, -1, "hand-back failed: %s", error.text);
        return false;
    }
    handshake->exported = true;
    if (SSL_version(handshake->ssl) == TLS1_3_VERSION)
        newticket_write(handshake->ssl, &handshake->tickets, &handshake->collected,
                        &handshake->traffic, &handshake->transport);
    return true;
}

static void
finish(struct handshake *handshake)
{
    struct control_context_counters *counters =
        &handshake->cell->contexts[handshake->context].counters;
    const unsigned char *alpn;
    unsigned alpn_size;

    if (!transport_settle(&handshake->transport)) {
        fail(handshake, SERVICE_INTERNAL, -1,
             "hand-back failed: somebody else has read from the socket during the handshake");
        return;
    }
    if (!take_chain(handshake)) {
        fail(handshake, SERVICE_INTERNAL, -1, "the peer's certificates do not fit into %d bytes",
             SERVICE_CHAIN_MAX);
        return;
    }
    SSL_get0_alpn_selected(handshake->ssl, &alpn, &alpn_size);
    if (alpn_size > 0 && alpn_size < sizeof(handshake->alpn))
        memcpy(handshake->alpn, alpn, alpn_size);
    handshake->resumed = SSL_session_reused(handshake->ssl) != 0;
    if (handshake->resumed)
        counters->resumed++;
    else
        counters->full++;
    leave_running(handshake, HANDSHAKE_FINISHED);
    handshake->done(handshake);
}

static void
wait_for(struct handshake *handshake, uint32_t events)
{
    if (loop_watch_set(handshake->cell->loop, &handshake->watch, events) == -1)
        fail(handshake, SERVICE_INTERNAL, -1, "the agent cannot watch the socket");
}

void
handshake_start(struct handshake *handshake)
{
    wait_for(handshake, EPOLLIN);
}

void
handshake_run(struct handshake *handshake)
{
    uint32_t wanted = 0;
    int result = 1, flushed;

    export_resume(handshake->ssl, &handshake->collected);
    if (!SSL_is_init_finished(handshake->ssl)) {
        proxyticket_enter(handshake->cell->tickets, handshake->ssl);
        result = SSL_accept(handshake->ssl);
        proxyticket_leave(handshake->cell->tickets);
    }
    if (result == 1 && !take_state(handshake))
        return;
    flushed = transport_flush(&handshake->transport);
    if (result == 1 && flushed == 0) {
        finish(handshake);
        return;
    }
    switch (result == 1 ? SSL_ERROR_WANT_WRITE : SSL_get_error(handshake->ssl, result)) {
    case SSL_ERROR_WANT_READ:
        wanted = EPOLLIN;
        break;
    case SSL_ERROR_WANT_WRITE:
        wanted = EPOLLOUT;
        break;
    case SSL_ERROR_WANT_CLIENT_HELLO_CB:
        if (proxyticket_waits(handshake->ssl))
            return; /* until the end of this round: handshake_go_on() */
        break;      /* the fleet's store is being asked */
    default:
        fail_by_ssl(handshake);
        return;
    }
    if (flushed == -1 && handshake->transport.closed) {
        fail_by_ssl(handshake);
        return;
    }
    if (flushed == -1)
        wanted |= EPOLLOUT;
    if (handshake->cell->in_flight > CROWD)
        (void)SSL_free_buffers(handshake->ssl); /* with bytes in them they stay */
    wait_for(handshake, wanted);
}

static void
socket_ready(struct loop_watch *watch, uint32_t events)
{
    struct handshake *handshake =
        (struct handshake *)((char *)watch - offsetof(struct handshake, watch));
    struct serving *serving = handshake->cell->serving;

    (void)events;
    serving_set(serving, handshake->blame);
    handshake_run(handshake);
    serving_set(serving, 0);
}

static void
deadline_expired(struct loop_timer *timer)
{
    struct handshake *handshake =
        (struct handshake *)((char *)timer - offsetof(struct handshake, deadline));
    struct serving *serving = handshake->cell->serving;

    serving_set(serving, handshake->blame);
    fail(handshake, SERVICE_DEADLINE, -1,
         "the peer did not finish the handshake within %u ms (%llu bytes received)",
         handshake->deadline_ms, (unsigned long long)handshake->transport.received);
    serving_set(serving, 0);
}

bool
handshake_kernel_possible(const struct cell *cell, int fd)
{
    int protocol = 0;
    socklen_t size = sizeof(protocol);

    return (cell->kernel & KERNEL_TLS_CIPHERS) != 0 &&
           getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) == 0 &&
           protocol == IPPROTO_TCP;
}

struct handshake *
handshake_new(struct cell *cell, size_t context, int fd, uint8_t forms, uint32_t deadline_ms,
              void (*done)(struct handshake *handshake))
{
    struct handshake *handshake = malloc(sizeof(*handshake));
    struct error error = {""};
    BIO *bio = NULL;

    if (handshake != NULL) {
        memset(handshake, 0, offsetof(struct handshake, transport));
        memset((char *)handshake + offsetof(struct handshake, collected), 0,
               sizeof(*handshake) - offsetof(struct handshake, collected));
        transport_init(&handshake->transport, fd);
        if ((forms & SERVICE_FORM_KERNEL) != 0 && handshake_kernel_possible(cell, fd))
            transport_set_exact(&handshake->transport);
        export_init(&handshake->collected);
        handshake->ssl = identity_ssl_new(cell->identities, context, &error);
        bio = transport_bio(&handshake->transport);
    }
    if (handshake == NULL || handshake->ssl == NULL || bio == NULL) {
        log_error("%s", error.text[0] != '\0' ? error.text : "out of memory for a handshake");
        if (handshake != NULL)
            SSL_free(handshake->ssl);
        BIO_free(bio);
        free(handshake);
        channel_close_fd(fd);
        return NULL;
    }
    SSL_set_bio(handshake->ssl, bio, bio);
    SSL_set_app_data(handshake->ssl, handshake);
    handshake->cell = cell;
    handshake->context = context;
    handshake->state = HANDSHAKE_RUNNING;
    handshake->fd = fd;
    handshake->forms = forms;
    handshake->deadline_ms = deadline_ms;
    handshake->done = done;
    handshake->started = loop_now(cell->loop);
    loop_watch_init(&handshake->watch, fd, socket_ready);
    loop_timer_init(&handshake->deadline, deadline_expired);
    loop_timer_set(cell->loop, &handshake->deadline, deadline_ms);
    cell->in_flight++;
    cell->contexts[context].counters.started++;
    return handshake;
}

void
handshake_free(struct handshake *handshake)
{
    if (handshake == NULL)
        return;
    if (handshake->state == HANDSHAKE_RUNNING)
        leave_running(handshake, HANDSHAKE_FAILED);
    loop_timer_stop(handshake->cell->loop, &handshake->deadline);
    if (handshake->fd != -1)
        channel_close_fd(handshake->fd);
    free(handshake->chain);
    OPENSSL_cleanse(&handshake->traffic, sizeof(handshake->traffic));
    explicit_bzero(handshake->transport.buffer, sizeof(handshake->transport.buffer));
    /* The round in progress may still hold an event of its watch. */
    loop_free_later(handshake->cell->loop, handshake);
}

/* True if the kernel form is the one to try. */
static bool
wants_kernel(const struct handshake *handshake, uint8_t forms)
{
    const struct generation_context *facts =
        identity_context(handshake->cell->identities, handshake->context);
    const struct traffic_suite *suite = traffic_suite_find(handshake->traffic.suite);
    bool fixed_keys =
        suite->version == TRAFFIC_TLS_1_3 && (handshake->cell->kernel & KERNEL_TLS_REKEY) == 0;

    return (forms & SERVICE_FORM_KERNEL) != 0 && handshake->transport.exact &&
           (handshake->cell->kernel & kernel_tls_bit(suite)) != 0 &&
           /* the kernel's records are as large as it likes */
           handshake->traffic.max_fragment == TRAFFIC_PLAINTEXT_MAX &&
           !(facts->prefer_rekey && fixed_keys && forms != SERVICE_FORM_KERNEL);
}

/* The kernel has the keys: what is left for the worker are the secrets that follow a KeyUpdate, and
 * those only if the kernel could use them. The present keys do not follow from them. */
static void
keep_next_secrets(struct handshake *handshake)
{
    const struct traffic_suite *suite = traffic_suite_find(handshake->traffic.suite);
    struct traffic_keys *directions[] = {&handshake->traffic.send, &handshake->traffic.receive};
    bool changes = suite->version == TRAFFIC_TLS_1_3 &&
                   (handshake->cell->kernel & KERNEL_TLS_REKEY) != 0 &&
                   traffic_keys_update(suite, directions[0]) == 0 &&
                   traffic_keys_update(suite, directions[1]) == 0;

    for (size_t i = 0; i < 2; i++) {
        struct traffic_keys *keys = directions[i];

        if (!changes)
            OPENSSL_cleanse(keys->secret, sizeof(keys->secret));
        OPENSSL_cleanse(keys->key, sizeof(keys->key));
        OPENSSL_cleanse(keys->iv, sizeof(keys->iv));
        keys->sequence = keys->explicit_nonce = 0;
    }
}

int
handshake_hand_back(struct handshake *handshake, uint8_t forms)
{
    struct service_failed *failed = &handshake->failed;
    struct error error = {"this kernel cannot do it for this connection"};

    forms &= handshake->forms;
    if (wants_kernel(handshake, forms)) {
        switch (kernel_tls_install(handshake->fd, &handshake->traffic, &error)) {
        case KERNEL_TLS_INSTALLED:
            handshake->form = SERVICE_FORM_KERNEL;
            keep_next_secrets(handshake);
            return 0;
        case KERNEL_TLS_REFUSED: /* nothing was done to the connection */
            log_debug("%s", error.text);
            break;
        case KERNEL_TLS_BROKEN: /* for whoever else holds the socket, too */
            (void)shutdown(handshake->fd, SHUT_RDWR);
            forms = 0;
            break;
        }
    }
    if ((forms & (SERVICE_FORM_RECORDS | SERVICE_FORM_STREAM)) != 0) {
        handshake->form = SERVICE_FORM_RECORDS; /* of which the worker makes the stream */
        return 0;
    }
    handshake->state = HANDSHAKE_FAILED;
    handshake->cell->contexts[handshake->context].counters.failed[SERVICE_INTERNAL]++;
    failed->reason = SERVICE_INTERNAL;
    failed->alert = NO_ALERT;
    failed->retryable = 0;
    snprintf(failed->text, sizeof(failed->text), "hand-back in the kernel form failed: %.180s",
             error.text);
    log_warning("context \"%s\": %s",
                identity_context(handshake->cell->identities, handshake->context)->name,
                failed->text);
    return -1;
}

void
handshake_describe(const struct handshake *handshake, struct service_finished *finished)
{
    const struct generation_context *facts =
        identity_context(handshake->cell->identities, handshake->context);

    memset(finished, 0, sizeof(*finished));
    finished->id = handshake->id;
    finished->form = handshake->form;
    finished->resumed = handshake->resumed;
    finished->agent_pid = handshake->cell->pid;
    finished->state = handshake->traffic;
    memcpy(finished->context, facts->name, sizeof(finished->context));
    memcpy(finished->sni, handshake->sni, sizeof(finished->sni));
    memcpy(finished->alpn, handshake->alpn, sizeof(finished->alpn));
    finished->early = transport_early(&handshake->transport, &finished->early_size);
    finished->chain = handshake->chain;
    finished->chain_size = handshake->chain_size;
}
