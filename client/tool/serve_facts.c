/*
 * serve_facts.c: what `tlsagent serve` tells a program about its connection: environment variables
 * named as Apache's mod_ssl (SSL_...) and UCSPI (TCP...) name them.
 */
#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "client/tool/serve.h"

#define FACTS_MAX 48

struct facts {
    char **list;
    size_t count;
    bool failed;
};

static void add(struct facts *facts, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void
add(struct facts *facts, const char *name, const char *format, ...)
{
    char *value = NULL, *text = NULL;
    va_list list;
    int size;

    va_start(list, format);
    size = vasprintf(&value, format, list);
    va_end(list);
    if (size == -1 || asprintf(&text, "%s=%s", name, value) == -1 || facts->count == FACTS_MAX)
        facts->failed = true;
    else
        facts->list[facts->count++] = text;
    if (size != -1)
        free(value);
}

/* What a memory BIO holds, as a value. */
static void
add_bio(struct facts *facts, const char *name, BIO *bio)
{
    char *data;
    long size = BIO_get_mem_data(bio, &data);

    if (size > 0 && memchr(data, '\0', (size_t)size) == NULL)
        add(facts, name, "%.*s", (int)size, data);
    (void)BIO_reset(bio);
}

static void
add_time(struct facts *facts, const char *name, BIO *bio, const ASN1_TIME *when)
{
    if (ASN1_TIME_print(bio, when) == 1)
        add_bio(facts, name, bio);
}

static void
add_certificate(struct facts *facts, const struct tlsagent_conn *conn)
{
    size_t size;
    const uint8_t *der = tlsagent_conn_peer_der(conn, 0, &size);
    X509 *certificate = der != NULL ? d2i_X509(NULL, &der, (long)size) : NULL;
    BIO *bio = BIO_new(BIO_s_mem());

    add(facts, "SSL_CLIENT_VERIFY", "%s", certificate != NULL ? "SUCCESS" : "NONE");
    if (bio == NULL)
        facts->failed = true;
    if (certificate != NULL && bio != NULL) {
        if (X509_NAME_print_ex(bio, X509_get_subject_name(certificate), 0, XN_FLAG_RFC2253) >= 0)
            add_bio(facts, "SSL_CLIENT_S_DN", bio);
        if (X509_NAME_print_ex(bio, X509_get_issuer_name(certificate), 0, XN_FLAG_RFC2253) >= 0)
            add_bio(facts, "SSL_CLIENT_I_DN", bio);
        if (i2a_ASN1_INTEGER(bio, X509_get0_serialNumber(certificate)) > 0)
            add_bio(facts, "SSL_CLIENT_M_SERIAL", bio);
        add_time(facts, "SSL_CLIENT_V_START", bio, X509_get0_notBefore(certificate));
        add_time(facts, "SSL_CLIENT_V_END", bio, X509_get0_notAfter(certificate));
        if (PEM_write_bio_X509(bio, certificate) == 1)
            add_bio(facts, "SSL_CLIENT_CERT", bio);
    }
    BIO_free(bio);
    X509_free(certificate);
}

void
serve_facts_address(const struct sockaddr_storage *address, char *text, size_t size, unsigned *port)
{
    const struct sockaddr_in *four = (const struct sockaddr_in *)address;
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)address;

    text[0] = '\0';
    *port = 0;
    if (address->ss_family == AF_INET) {
        inet_ntop(AF_INET, &four->sin_addr, text, (socklen_t)size);
        *port = ntohs(four->sin_port);
    } else if (address->ss_family == AF_INET6) {
        if (IN6_IS_ADDR_V4MAPPED(&six->sin6_addr))
            inet_ntop(AF_INET, six->sin6_addr.s6_addr + 12, text, (socklen_t)size);
        else
            inet_ntop(AF_INET6, &six->sin6_addr, text, (socklen_t)size);
        *port = ntohs(six->sin6_port);
    }
}

static void
add_addresses(struct facts *facts, const struct serve_conn *conn)
{
    char text[INET6_ADDRSTRLEN];
    unsigned port;

    serve_facts_address(&conn->peer, text, sizeof(text), &port);
    add(facts, "TCPREMOTEIP", "%s", text);
    add(facts, "TCPREMOTEPORT", "%u", port);
    add(facts, "REMOTE_ADDR", "%s", text);
    add(facts, "REMOTE_PORT", "%u", port);
    serve_facts_address(&conn->local, text, sizeof(text), &port);
    add(facts, "TCPLOCALIP", "%s", text);
    add(facts, "TCPLOCALPORT", "%u", port);
    add(facts, "SERVER_ADDR", "%s", text);
    add(facts, "SERVER_PORT", "%u", port);
}

static void
add_tls(struct facts *facts, const struct tlsagent_conn *conn)
{
    const char *sni = tlsagent_conn_servername(conn), *alpn = tlsagent_conn_alpn(conn);

    add(facts, "HTTPS", "on");
    add(facts, "SSL_PROTOCOL", "%s", tlsagent_conn_version(conn));
    add(facts, "SSL_CIPHER", "%s", tlsagent_conn_cipher(conn));
    add(facts, "SSL_SESSION_RESUMED", "%s",
        tlsagent_conn_resumed(conn) == 1 ? "Resumed" : "Initial");
    if (sni != NULL)
        add(facts, "SSL_TLS_SNI", "%s", sni);
    if (alpn != NULL)
        add(facts, "TLSAGENT_ALPN", "%s", alpn);
    add(facts, "TLSAGENT_CONTEXT", "%s", tlsagent_conn_context(conn));
    add_certificate(facts, conn);
}

char **
serve_facts_new(const struct serve_conn *conn, bool with_tls, bool with_address)
{
    struct facts facts = {.list = calloc(FACTS_MAX + 1, sizeof(char *))};

    if (facts.list == NULL)
        return NULL;
    if (with_address) {
        add(&facts, "PROTO", "%s", with_tls ? "SSL" : "TCP");
        add_addresses(&facts, conn);
    }
    if (with_tls)
        add_tls(&facts, conn->conn);
    if (!facts.failed)
        return facts.list;
    serve_facts_free(facts.list);
    return NULL;
}

void
serve_facts_free(char **facts)
{
    for (size_t i = 0; facts != NULL && facts[i] != NULL; i++)
        free(facts[i]);
    free(facts);
}

bool
serve_facts_owns(const char *variable)
{
    static const char *const prefixes[] = {
        "SSL_",         "SSLCTLFD=",    "SSLREADFD=",     "SSLWRITEFD=",      "HTTPS=",
        "PROTO=",       "TCPREMOTE",    "TCPLOCAL",       "REMOTE_ADDR=",     "REMOTE_PORT=",
        "SERVER_ADDR=", "SERVER_PORT=", "TLSAGENT_ALPN=", "TLSAGENT_CONTEXT="};

    /* These are settings of OpenSSL, not facts. */
    if (strncmp(variable, "SSL_CERT_FILE=", 14) == 0 || strncmp(variable, "SSL_CERT_DIR=", 13) == 0)
        return false;
    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
        if (strncmp(variable, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    }
    return false;
}
