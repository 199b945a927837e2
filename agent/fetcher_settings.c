/* fetcher_settings.c: see fetcher_settings.h. */
#include "agent/fetcher_settings.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "agent/log.h"
#include "agent/role_control.h"
#include "agent/roles.h"

#define FILE_MAX (256 * 1024) /* CAs */

/* The whole of a small file. */
static size_t
read_file(int fd, void *buffer, size_t room, const char *what)
{
    size_t size = 0;
    ssize_t got = 1;

    while (got > 0 && size < room) {
        got = pread(fd, (char *)buffer + size, room - size, (off_t)size);
        if (got > 0)
            size += (size_t)got;
    }
    if (got == -1)
        log_die("%s: %s", what, strerror(errno));
    if (size == room)
        log_die("%s has more than %zu bytes", what, room - 1);
    close(fd);
    return size;
}

static void
read_password(struct fetcher_settings *settings, int fd)
{
    char *password = settings->password;
    size_t size = read_file(fd, password, sizeof(settings->password), "store_password_file");

    password[size] = '\0';
    password[strcspn(password, "\r\n")] = '\0';
    if (password[0] == '\0')
        log_die("store_password_file has no password in its first line");
}

/* Certificates are for this store only, so the system's CAs are not asked. */
static void
prepare_tls(struct fetcher_settings *settings, int fd)
{
    static char text[FILE_MAX];
    size_t size = read_file(fd, text, sizeof(text), "store_ca_file");
    BIO *bio = BIO_new_mem_buf(text, (int)size);
    X509 *certificate;
    unsigned count = 0;

    settings->tls = SSL_CTX_new(TLS_client_method());
    if (bio == NULL || settings->tls == NULL ||
        SSL_CTX_set_min_proto_version(settings->tls, TLS1_2_VERSION) != 1)
        log_die("out of memory");
    while ((certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL)) != NULL) {
        count += X509_STORE_add_cert(SSL_CTX_get_cert_store(settings->tls), certificate) == 1;
        X509_free(certificate);
    }
    BIO_free(bio);
    ERR_clear_error();
    if (count == 0)
        log_die("store_ca_file has no certificate in PEM form");
    SSL_CTX_set_verify(settings->tls, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_session_cache_mode(settings->tls, SSL_SESS_CACHE_OFF);
}

void
fetcher_settings_receive(struct fetcher_settings *settings, uint8_t buffer[CHANNEL_BUFFER_SIZE])
{
    struct channel_message message;
    struct error error = {""};
    int password, ca;

    if (channel_receive_wait(ROLE_FD_CONTROL, control_fetcher_rules, control_fetcher_rule_count,
                             buffer, CHANNEL_BUFFER_SIZE, &message, &error,
                             ROLE_CONTROL_MS) != CHANNEL_OK ||
        message.type != CONTROL_STORE ||
        !control_get_store(&settings->store, message.body, message.size))
        log_die("the supervisor's first message does not tell what the store is: %s", error.text);
    password = channel_take_fd(&message, 0);
    ca = channel_take_fd(&message, 1);
    if (settings->store.has_password != 0)
        read_password(settings, password);
    else
        close(password);
    if (settings->store.tls != 0)
        prepare_tls(settings, ca);
    else
        close(ca);
}
