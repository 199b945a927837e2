/*
 * config.h: tlsagentd.conf, parsed once, validated whole, then frozen.
 *
 * Role: read by the supervisor only (and by `tlsagentd -t`). Trust: the file belongs to the
 * administrator; mistakes are expected, attacks are not. No key file is read here.
 */
#ifndef AGENT_CONFIG_H
#define AGENT_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "protocol/error.h"
#include "protocol/service.h"

#define CONFIG_DEFAULT_FILE   "/etc/tlsagent/tlsagentd.conf"
#define CONFIG_DEFAULT_SOCKET "/run/tlsagent/tlsagent.sock"

enum config_log {
    CONFIG_LOG_STDERR,
    CONFIG_LOG_SYSLOG,
    CONFIG_LOG_FILE,
};

enum config_verify {
    CONFIG_VERIFY_NONE,
    CONFIG_VERIFY_OPTIONAL, /* ask for a client certificate, check one that comes */
    CONFIG_VERIFY_REQUIRED,
};

/* One identity: where a certificate and its key are. All strings are owned by the config. */
struct config_identity {
    char *label;           /* the block's title, or the name found in a directory */
    char *certificate;     /* path; PEM, DER, PKCS#12 or combined */
    char *key;             /* path, or NULL: the key is in the certificate's file */
    char *passphrase_file; /* path or NULL */
    char **names; /* written SNI names, in lower case; may be wildcards "*.example.org". The loader
                     adds those in the certificate, and the label if it is one */
    size_t name_count;
    bool is_default; /* used when no name matches and when the client sends none */
    unsigned line;   /* in the configuration file; 0 if found in a directory */
};

struct config_listen {
    char *text; /* as written, for messages; "*:443" is two of these: give the second V6ONLY */
    struct sockaddr_storage address;
    socklen_t address_size;
};

struct config_context {
    char *name;
    unsigned line;
    struct config_identity *identities; /* blocks and those found in directories */
    size_t identity_count;
    char **alpn; /* in order of preference; empty: ALPN is not negotiated */
    size_t alpn_count;
    uint16_t min_version; /* TRAFFIC_TLS_1_2 or _1_3 */
    uint16_t max_version;
    char *ciphers;              /* OpenSSL list for TLS 1.2, or NULL: our default */
    char *ciphersuites;         /* TLS 1.3, or NULL */
    char *groups;               /* key exchange groups in order, or NULL */
    bool prefer_server_ciphers; /* default true */
    uint8_t forms;              /* enum service_form, or-ed */
    bool prefer_rekey;          /* records rather than a kernel that cannot change keys */
    unsigned deadline_ms;
    unsigned tickets;   /* TLS 1.3 tickets after a full handshake, 0 to 8; 0 also switches TLS 1.2
                           tickets off */
    bool tickets_tls12; /* default true; false: TLS 1.2 clients resume by session id only */
    enum config_verify verify;
    char *client_ca_file; /* or NULL */
    uid_t *users;         /* who may use this context */
    size_t user_count;
    gid_t *groups_allowed;
    size_t group_allowed_count;
    struct config_listen *listens;
    size_t listen_count;
    unsigned backlog;    /* finished connections that may wait for a worker, per cell */
    unsigned cell_group; /* 0: the shared cells; else the context has cells of its own */
};

/* Where a fleet keeps session ids: Redis or Valkey. */
struct config_store {
    char *text; /* as written, for messages */
    struct sockaddr_storage address;
    socklen_t address_size;
    bool tls;
    unsigned database;
    char *user;          /* or NULL: the default one */
    char *name;          /* that its certificate must have: a host name or an address */
    char *password_file; /* or NULL */
    char *ca_file;       /* with tls */
    unsigned wait_ms;    /* that a handshake waits for it */
};

struct config {
    char *file; /* absolute path */
    char *user; /* to run as when started as root; default "tlsagent" */
    uid_t uid;  /* of user; meaningful only when started as root */
    gid_t gid;
    unsigned cells;       /* per cell group, at least 1; "0" in the file is already resolved */
    char *socket;         /* the well-known socket */
    char *control_socket; /* default: "control.sock" beside socket */
    enum config_log log;
    char *log_file;
    int log_level;                    /* 0 errors, 1 warnings, 2 information, 3 debug */
    unsigned max_handshakes;          /* in flight, per cell */
    unsigned max_channels;            /* worker connections per uid */
    unsigned max_greetings;           /* new ones of these per second */
    unsigned ticket_period;           /* seconds of one ticket key */
    unsigned ticket_life;             /* seconds for which a session can be resumed */
    unsigned session_cache_size;      /* sessions of TLS 1.2 clients without tickets; 0: none */
    char *fleet_secret_file;          /* or NULL: ticket keys are this host's own */
    struct config_store *fleet_store; /* or NULL */
    unsigned sandbox_require;         /* layers that are mandatory: enum sandbox_layer, or-ed */
    struct config_context *contexts;
    size_t context_count;
    unsigned cell_group_count; /* at least 1 */
};

/* Read and validate a file. Returns NULL with an error "FILE:LINE: KEY: reason; what to do" in one
 * line. as_root: whether user must exist and be resolved (getpwnam). */
struct config *config_read(const char *file, bool as_root, struct error *error);

void config_free(struct config *config); /* NULL-safe */

#endif
