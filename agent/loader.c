/*
 * loader.c: the process that reads certificate and key files, writes one generation, and exits.
 *
 * Role: loader, throw-away. It holds every key of a cell group for a moment and nothing else: no
 * network, no worker, no path; the supervisor opens the files and sends fds, one message at a
 * time. Trust: the supervisor is believed, the files are not. Any error ends the load with one
 * line; what runs already goes on as before.
 *
 * All of libcrypto's memory is wiped when it is freed (wipe.h), and so are the buffers here.
 */
#include "agent/roles.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include "agent/credential.h"
#include "agent/generation.h"
#include "agent/log.h"
#include "protocol/channel.h"
#include "agent/ticket_state.h"
#include "protocol/control.h"
#include "protocol/load.h"
#include "sandbox/sandbox.h"
#include "sandbox/wipe.h"

#define SEND_TIMEOUT_MS 10000 /* a supervisor that takes nothing for so long is not there */

/* A file that has come, until its identity does. */
struct pending_file {
    uint8_t *data; /* NULL: none */
    size_t size;
    char path[CREDENTIAL_PATH_SHOWN_MAX + 1]; /* printable */
};

struct loader {
    int channel;
    struct generation_writer *writer; /* NULL before BEGIN */
    int public_fd;
    int secret_fd;
    char context[SERVICE_NAME_MAX]; /* "" before the first one */
    const char *label;              /* of the identity that is made now, or NULL */
    struct pending_file certificate;
    struct pending_file key;
    struct pending_file passphrase;
    uint8_t names[CREDENTIAL_NAMES_MAX];
    uint8_t message[CHANNEL_BUFFER_SIZE];
};

/* ---- what the supervisor is told ---- */

static void
send_to_supervisor(struct loader *loader, enum load_type type, const void *body, size_t size)
{
    enum channel_result result =
        channel_send_wait(loader->channel, (uint16_t)type, body, size, NULL, 0, SEND_TIMEOUT_MS);

    if (result != CHANNEL_OK)
        log_die("the supervisor does not take messages any more");
}

/* One line about the identity or context that is at hand. */
static void
send_line(struct loader *loader, enum load_type type, const char *line)
{
    char text[ERROR_TEXT_MAX * 2], printable[ERROR_TEXT_MAX];
    uint8_t body[2 + ERROR_TEXT_MAX];
    struct load_text message;
    int length = 0;
    size_t size;

    if (loader->context[0] != '\0')
        length = snprintf(text, sizeof(text), "context \"%s\": ", loader->context);
    if (loader->label != NULL && loader->label[0] != '\0')
        length = snprintf(text, sizeof(text), "context \"%s\", identity \"%s\": ", loader->context,
                          loader->label);
    snprintf(text + length, sizeof(text) - (size_t)length, "%s", line);
    error_printable(printable, sizeof(printable), text, strlen(text));
    memcpy(message.text, printable, sizeof(printable));
    size = load_put_text(&message, body, sizeof(body));
    send_to_supervisor(loader, type, body, size);
}

static void
tell_warning(void *argument, const char *text)
{
    send_line(argument, LOAD_WARNING, text);
}

/* ---- files ---- */

static void
clear_file(struct pending_file *file)
{
    if (file->data != NULL)
        explicit_bzero(file->data, file->size);
    free(file->data);
    memset(file, 0, sizeof(*file));
}

/* A path as messages show it: printable, its end if it is long. */
static void
show_path(char shown[CREDENTIAL_PATH_SHOWN_MAX + 1], const char *path)
{
    size_t size = strlen(path);

    if (size <= CREDENTIAL_PATH_SHOWN_MAX) {
        error_printable(shown, CREDENTIAL_PATH_SHOWN_MAX + 1, path, size);
        return;
    }
    memcpy(shown, "...", 3);
    error_printable(shown + 3, CREDENTIAL_PATH_SHOWN_MAX - 2,
                    path + size - (CREDENTIAL_PATH_SHOWN_MAX - 3), CREDENTIAL_PATH_SHOWN_MAX - 3);
}

/* Read all of a regular file with read(): stdio would leave a copy in its buffer. */
static int
read_file(struct pending_file *file, int fd, struct error *error)
{
    struct stat status;
    uint8_t extra;
    size_t size;

    if (fstat(fd, &status) == -1)
        return error_set(error, "%s: %s", file->path, strerror(errno));
    if (!S_ISREG(status.st_mode))
        return error_set(error, "%s: not a regular file; name one", file->path);
    if (status.st_size == 0)
        return error_set(error, "%s: the file is empty", file->path);
    if (status.st_size > CREDENTIAL_FILE_MAX)
        return error_set(error, "%s: larger than %d bytes; this is no certificate or key file",
                         file->path, CREDENTIAL_FILE_MAX);
    size = (size_t)status.st_size;
    file->data = malloc(size);
    if (file->data == NULL)
        return error_set(error, "%s: out of memory", file->path);
    file->size = size;
    for (size_t at = 0; at < size;) {
        ssize_t got = read(fd, file->data + at, size - at);

        if (got == -1 && errno == EINTR)
            continue;
        if (got == -1)
            return error_set(error, "%s: read: %s", file->path, strerror(errno));
        if (got == 0)
            return error_set(error, "%s: became shorter while it was read; reload when it is whole",
                             file->path);
        at += (size_t)got;
    }
    if (read(fd, &extra, 1) != 0)
        return error_set(error, "%s: became longer while it was read; reload when it is whole",
                         file->path);
    return 0;
}

static struct credential_file
as_credential_file(const struct pending_file *file)
{
    return (struct credential_file){.path = file->path, .data = file->data, .size = file->size};
}

/* ---- messages ---- */

static int
malformed(const char *what, struct error *error)
{
    return error_set(error, "internal error: the supervisor sent %s", what);
}

static int
handle_begin(struct loader *loader, struct channel_message *message, struct error *error)
{
    struct load_begin begin;

    if (!load_get_begin(&begin, message->body, message->size))
        return malformed("a malformed BEGIN", error);
    loader->writer = generation_writer_new(begin.generation);
    if (loader->writer == NULL)
        return error_set(error, "out of memory");
    loader->public_fd = channel_take_fd(message, 0);
    loader->secret_fd = channel_take_fd(message, 1);
    return 0;
}

static bool
files_are_pending(const struct loader *loader)
{
    return loader->certificate.data != NULL || loader->key.data != NULL ||
           loader->passphrase.data != NULL;
}

/* The blob is copied through; only its name is looked at, for messages (the first text in it). */
static int
handle_context(struct loader *loader, struct channel_message *message, struct error *error)
{
    struct load_context context;

    if (!load_get_context(&context, message->body, message->size))
        return malformed("a malformed CONTEXT", error);
    if (files_are_pending(loader))
        return malformed("a CONTEXT where an IDENTITY was due", error);
    if (generation_add_context(loader->writer, context.blob, context.blob_size, error) == -1)
        return -1;
    generation_context_name(context.blob, context.blob_size, loader->context);
    return 0;
}

static int
add_client_ca(struct loader *loader, const struct pending_file *file, struct error *error)
{
    struct credential_warnings warnings = {tell_warning, loader};
    struct credential_file source = as_credential_file(file);
    uint8_t *der = NULL;
    size_t size;
    int result;

    if (credential_parse_client_ca(&source, time(NULL), &warnings, &der, &size, error) == -1)
        return -1;
    result = generation_add_client_ca(loader->writer, der, size, error);
    free(der);
    return result;
}

static int
handle_file(struct loader *loader, struct channel_message *message, struct error *error)
{
    struct load_file_message request;
    struct pending_file client_ca = {0};
    struct pending_file *file;
    int fd, result;

    if (!load_get_file_message(&request, message->body, message->size))
        return malformed("a malformed FILE", error);
    if (loader->context[0] == '\0')
        return malformed("a FILE before a CONTEXT", error);
    switch (request.kind) {
    case LOAD_CERTIFICATE:
        file = &loader->certificate;
        break;
    case LOAD_KEY:
        file = &loader->key;
        break;
    case LOAD_PASSPHRASE:
        file = &loader->passphrase;
        break;
    case LOAD_CLIENT_CA:
        file = &client_ca;
        break;
    default:
        return malformed("a FILE of unknown kind", error);
    }
    if (file->data != NULL)
        return malformed("two FILEs of one kind for one identity", error);
    show_path(file->path, request.path);
    fd = channel_take_fd(message, 0);
    result = read_file(file, fd, error);
    close(fd);
    if (result == 0 && request.kind == LOAD_CLIENT_CA)
        result = add_client_ca(loader, file, error);
    clear_file(&client_ca);
    return result;
}

/* Make an identity of the files that came. */
static int
add_identity(struct loader *loader, const struct load_identity *request, struct error *error)
{
    struct credential_warnings warnings = {tell_warning, loader};
    struct credential_input input = {
        .certificate = as_credential_file(&loader->certificate),
        .key = as_credential_file(&loader->key),
        .passphrase = as_credential_file(&loader->passphrase),
    };
    struct generation_identity identity = {.is_default = request->is_default != 0};
    struct credential credential;
    int result;

    if (credential_parse(&credential, &input, time(NULL), &warnings, error) == -1)
        return -1;
    credential_names(&credential, request, &warnings, loader->names, &identity.names_size,
                     &identity.explicit_names);
    identity.key_type = credential.key_type;
    identity.names = loader->names;
    identity.chain = credential.chain;
    identity.chain_size = credential.chain_size;
    result = generation_add_identity(loader->writer, &identity, credential.pkcs8,
                                     credential.pkcs8_size, error);
    credential_clear(&credential);
    return result;
}

static int
handle_identity(struct loader *loader, struct channel_message *message, struct error *error)
{
    struct load_identity request;

    if (!load_get_identity(&request, message->body, message->size))
        return malformed("a malformed IDENTITY", error);
    if (loader->certificate.data == NULL)
        return malformed("an IDENTITY without a certificate FILE", error);
    loader->label = request.label;
    if (add_identity(loader, &request, error) == -1) {
        send_line(loader, LOAD_FAILED, error->text); /* while the label is there */
        _exit(1);
    }
    loader->label = NULL;
    clear_file(&loader->certificate);
    clear_file(&loader->key);
    clear_file(&loader->passphrase);
    return 0;
}

static int
handle_end(struct loader *loader, struct channel_message *message, struct error *error)
{
    struct load_done done;
    uint8_t body[64];
    size_t size;

    (void)message;
    if (files_are_pending(loader))
        return malformed("an END where an IDENTITY was due", error);
    loader->context[0] = '\0'; /* errors from here on are of no context */
    if (generation_write(loader->writer, loader->public_fd, loader->secret_fd, &done, error) == -1)
        return -1;
    generation_writer_free(loader->writer);
    size = load_put_done(&done, body, sizeof(body));
    send_to_supervisor(loader, LOAD_DONE, body, size);
    _exit(0);
}

/* The page of ticket keys: nothing else is loaded in such a run. */
static int
handle_tickets(struct loader *loader, struct channel_message *message, struct error *error)
{
    struct ticket_plan plan = {.now = (uint64_t)time(NULL)};
    struct load_done done = {0};
    struct load_tickets request;
    struct pending_file secret = {.path = "secret_file"};
    uint8_t body[64];
    int page, old, fd, result = 0;

    if (!load_get_tickets(&request, message->body, message->size))
        return malformed("a malformed TICKETS", error);
    page = channel_take_fd(message, 0);
    old = channel_take_fd(message, 1);
    fd = channel_take_fd(message, 2);
    plan.period = request.period;
    plan.life = request.life;
    plan.group = request.group;
    if (request.fleet != 0) {
        result = read_file(&secret, fd, error);
        if (result == 0 && secret.data[secret.size - 1] == '\n')
            secret.size--; /* editors end a file with one, programs do not */
        plan.fleet = secret.data;
        plan.fleet_size = secret.size;
        if (result == 0 && (secret.size < TICKET_FLEET_MIN || secret.size > TICKET_FLEET_MAX))
            result = error_set(error,
                               "secret_file: has %zu bytes; a secret has %d to %d (openssl rand "
                               "-hex 32)",
                               secret.size, TICKET_FLEET_MIN, TICKET_FLEET_MAX);
    }
    if (result == 0)
        result = ticket_state_make(page, old, &plan, error);
    clear_file(&secret);
    close(page);
    close(old);
    close(fd);
    if (result == -1)
        return -1;
    send_to_supervisor(loader, LOAD_DONE, body, load_put_done(&done, body, sizeof(body)));
    _exit(0);
}

/* What may be said when. */
static const struct {
    enum load_type type;
    bool after_begin;
    int (*handle)(struct loader *, struct channel_message *, struct error *);
} handlers[] = {
    {LOAD_BEGIN, false, handle_begin}, {LOAD_CONTEXT, true, handle_context},
    {LOAD_FILE, true, handle_file},    {LOAD_IDENTITY, true, handle_identity},
    {LOAD_END, true, handle_end},      {LOAD_TICKETS, false, handle_tickets},
};

static int
dispatch(struct loader *loader, struct channel_message *message, struct error *error)
{
    for (size_t i = 0; i < sizeof(handlers) / sizeof(handlers[0]); i++)
        if (handlers[i].type == message->type &&
            handlers[i].after_begin == (loader->writer != NULL))
            return handlers[i].handle(loader, message, error);
    return malformed("a message out of order", error);
}

static void __attribute__((noreturn)) serve(struct loader *loader)
{
    for (;;) {
        struct channel_message message;
        struct error error;

        error_clear(&error);
        switch (channel_receive_wait(loader->channel, load_loader_rules, load_loader_rule_count,
                                     loader->message, sizeof(loader->message), &message, &error,
                                     -1)) {
        case CHANNEL_OK:
            break;
        case CHANNEL_AGAIN: /* a signal, or a wakeup for nothing */
            continue;
        case CHANNEL_CLOSED:
            _exit(1); /* the supervisor is gone, or has given the load up */
        case CHANNEL_REFUSED:
        case CHANNEL_FAILED:
            log_die("the supervisor's message: %s", error.text);
        }
        if (dispatch(loader, &message, &error) == -1) {
            send_line(loader, LOAD_FAILED, error.text);
            _exit(1);
        }
        channel_message_clear(&message);
        send_to_supervisor(loader, LOAD_NEXT, NULL, 0);
    }
}

/* Everything that is done only once, before the sandbox: libcrypto's configuration file is never
 * read, its random numbers are seeded; gmtime_r(), which it uses for certificates' dates, opens the
 * time zone file the first time. */
static void
warm_up(void)
{
    uint8_t seed[16];

    tzset();
    if (OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_LOAD_CRYPTO_STRINGS |
                                OPENSSL_INIT_ADD_ALL_CIPHERS | OPENSSL_INIT_ADD_ALL_DIGESTS,
                            NULL) != 1 ||
        RAND_bytes(seed, sizeof(seed)) != 1 || RAND_priv_bytes(seed, sizeof(seed)) != 1)
        log_die("libcrypto cannot be started");
}

static void
say_hello(struct loader *loader)
{
    struct control_hello hello = {.role = CONTROL_LOADER};
    uint8_t body[2 + SERVICE_BUILD_MAX];
    size_t size;

    snprintf(hello.build, sizeof(hello.build), "%s", role_build_id);
    size = control_put_hello(&hello, body, sizeof(body));
    send_to_supervisor(loader, LOAD_HELLO, body, size);
}

void
loader_main(const struct role_args *args)
{
    static struct loader loader = {.channel = ROLE_FD_CONTROL, .public_fd = -1, .secret_fd = -1};
    struct error error = {""};

    log_init(args->name, (enum log_level)args->log_level, args->log_syslog);
    signal(SIGPIPE, SIG_IGN);
    if (CRYPTO_set_mem_functions(wipe_malloc, wipe_realloc, wipe_free) != 1)
        log_bug("libcrypto has allocated memory before the loader could take it over");
    warm_up();
    if (sandbox_enter(SANDBOX_LOADER, args->uid, args->gid, getppid(), &error) == -1)
        log_die("%s", error.text);
    say_hello(&loader);
    serve(&loader);
}
