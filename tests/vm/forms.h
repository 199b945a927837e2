/*
 * forms.h: a connection between a TLS client and a worker whose handshake a real agent has done, in
 * the form under test. For the cases in forms_*.c, each of which runs in a process of its own.
 */
#ifndef TESTS_VM_FORMS_H
#define TESTS_VM_FORMS_H

#include <fcntl.h>
#include <signal.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "client/tlsagent.h"
#include "protocol/kernel_tls.h"
#include "tests/peers/peer.h"

/* What is under test, set by main() before a case runs. */
extern struct setup {
    const char *form; /* "kernel" or "records" */
    bool kernel;
    int version;        /* 12 or 13 */
    const char *cipher; /* OpenSSL's name; NULL: AES-128-GCM */
} setup;

struct pair {
    struct peer peer;
    SSL_CTX *ctx;
    struct tlsagent *agent;
    struct tlsagent_conn *conn;
    int fd; /* the worker's, blocking */
};

/* How a pair differs from the usual one. */
struct options {
    const char *context;  /* NULL: "www" */
    unsigned forms;       /* 0: the one under test */
    bool ipv6;            /* instead of IPv4 */
    bool local;           /* a Unix socket instead of TCP */
    bool hold;            /* the client's last flight is kept in peer.out: pair_begin() only */
    bool protocol;        /* TCP_ULP "tls" is set before the handshake, by the worker */
    uint8_t fragment;     /* TLSEXT_max_fragment_length_*, 0: not asked for */
    SSL_SESSION *session; /* to resume */
    SSL_CTX *ctx;         /* to use, instead of a new one */
};

/* Connect, and take the client through its handshake; the agent's answer is not waited for. */
void pair_begin(struct pair *pair, const struct options *options);
/* Wait for the agent's answer. Fails if the handshake failed. */
void pair_finish(struct pair *pair);
/* Both, in the form under test, which is checked. */
void pair_open(struct pair *pair);
void pair_open_with(struct pair *pair, const struct options *options);
void pair_close(struct pair *pair); /* at once, nothing is said */

/* Bytes that say where they are. */
void pattern_fill(uint8_t *bytes, size_t size, uint64_t offset);
void pattern_check(const uint8_t *bytes, size_t size, uint64_t offset);

/* Whole transfers of the pattern; the worker's fd is blocking. */
void worker_write(struct pair *pair, size_t size, uint64_t offset);
void worker_read(struct pair *pair, size_t size, uint64_t offset);
void client_write(struct pair *pair, size_t size, uint64_t offset);
void client_read(struct pair *pair, size_t size, uint64_t offset);

/* The next call of tlsagent_read() must fail with this code, within the time of the case. */
void expect_read_error(struct pair *pair, int code);
void expect_clean_end(struct pair *pair);

/* TLS 1.3 with AES-128-GCM: a record of the client's that OpenSSL would not make, under its next
 * sequence numbers; OpenSSL must not write after the first. Returns its size on the wire. */
size_t craft(struct pair *pair, uint8_t type, const void *content, size_t size, uint8_t *record);
void client_craft(struct pair *pair, uint8_t type, const void *content, size_t size);

void pair_echo(struct pair *pair); /* some bytes in each direction */

int file_make(size_t size); /* an unlinked file with the pattern */
size_t bulk_size(void);     /* $FORMS_BULK megabytes */

enum when {
    ALWAYS = 0,
    KERNEL = 1,  /* only in the kernel form */
    RECORDS = 2, /* only in the records form */
    TLS13 = 4,   /* only in TLS 1.3 */
    ONCE = 8,    /* for one version */
};

struct test_case {
    const char *name;
    void (*run)(void);
    int when;
};
extern const struct test_case data_cases[], socket_cases[], end_cases[], form_cases[];

/* Linux's selftest, name by name, as lines of a comment. False: a name is missing. */
bool table_print(void);

#endif
