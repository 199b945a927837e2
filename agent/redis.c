/* redis.c: see redis.h. */
#include "agent/redis.h"

#include <errno.h>
#include <hiredis/hiredis.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "protocol/channel.h"

#define CHUNK  16384
#define ROUNDS 16 /* chunks that are read before others have their turn */

/* ---- the decoder ---- */

struct redis_decoder {
    redisReader *reader;
    struct redis_reply reply; /* the one that is being read */
    uint8_t text[REDIS_VALUE_MAX];
};

static struct redis_reply *
reply_of(const redisReadTask *task)
{
    return &((struct redis_decoder *)task->privdata)->reply;
}

/* The reader moves its buffer before it returns, so what may be of use is copied. */
static void *
make_string(const redisReadTask *task, char *text, size_t size)
{
    struct redis_decoder *decoder = task->privdata;
    struct redis_reply *reply = &decoder->reply;

    reply->type = task->type == REDIS_REPLY_ERROR    ? REDIS_REFUSAL
                  : task->type == REDIS_REPLY_STATUS ? REDIS_STATUS
                                                     : REDIS_VALUE;
    memcpy(decoder->text, text, size < sizeof(decoder->text) ? size : sizeof(decoder->text));
    reply->data = decoder->text;
    reply->size = size;
    return reply;
}

static void *
make_array(const redisReadTask *task, int elements)
{
    (void)task;
    (void)elements;
    return NULL; /* the reader gives up */
}

static void *
make_number(const redisReadTask *task, long long number)
{
    (void)number;
    *reply_of(task) = (struct redis_reply){.type = REDIS_NUMBER};
    return reply_of(task);
}

static void *
make_nil(const redisReadTask *task)
{
    *reply_of(task) = (struct redis_reply){.type = REDIS_NIL};
    return reply_of(task);
}

static void
free_nothing(void *reply)
{
    (void)reply;
}

/* Later versions of hiredis know more types, in between. */
static redisReplyObjectFunctions functions = {.createString = make_string,
                                              .createArray = make_array,
                                              .createInteger = make_number,
                                              .createNil = make_nil,
                                              .freeObject = free_nothing};

struct redis_decoder *
redis_decoder_new(void)
{
    struct redis_decoder *decoder = calloc(1, sizeof(*decoder));

    if (decoder == NULL)
        return NULL;
    decoder->reader = redisReaderCreateWithFunctions(&functions);
    if (decoder->reader == NULL) {
        free(decoder);
        return NULL;
    }
    decoder->reader->privdata = decoder;
    return decoder;
}

void
redis_decoder_free(struct redis_decoder *decoder)
{
    if (decoder == NULL)
        return;
    redisReaderFree(decoder->reader);
    free(decoder);
}

int
redis_decoder_feed(struct redis_decoder *decoder, const void *data, size_t size,
                   struct error *error)
{
    redisReader *reader = decoder->reader;

    if (reader->len - reader->pos + size > REDIS_REPLY_MAX)
        return error_set(error, "a reply is longer than %d bytes", REDIS_REPLY_MAX);
    if (redisReaderFeed(reader, data, size) != REDIS_OK)
        return error_set(error, "%s", reader->errstr);
    return 0;
}

int
redis_decoder_next(struct redis_decoder *decoder, struct redis_reply *reply, struct error *error)
{
    void *read = NULL;

    /* What comes of a type that none of the functions makes must not look like the reply before. */
    decoder->reply = (struct redis_reply){.type = REDIS_NUMBER};
    if (redisReaderGetReply(decoder->reader, &read) != REDIS_OK)
        return error_set(error, "what it sends is no answer to us");
    if (read == NULL)
        return 0;
    *reply = decoder->reply;
    return 1;
}

/* ---- the connection ---- */

/* Bytes that wait: start <= end <= room. */
struct queue {
    uint8_t *data;
    size_t start;
    size_t end;
    size_t room;
};

struct redis {
    int fd;
    bool connected;
    SSL *ssl;            /* NULL: none; its BIOs are memory */
    struct queue plain;  /* commands */
    struct queue sealed; /* with TLS: records */
    struct redis_decoder *decoder;
};

static size_t
queue_size(const struct queue *queue)
{
    return queue->end - queue->start;
}

static bool
queue_put(struct queue *queue, const void *data, size_t size)
{
    if (queue->start == queue->end)
        queue->start = queue->end = 0;
    if (queue->room - queue->end < size && queue->start > 0) {
        memmove(queue->data, queue->data + queue->start, queue_size(queue));
        queue->end -= queue->start;
        queue->start = 0;
    }
    if (queue->room - queue->end < size) {
        size_t room = 2 * (queue->end + size);
        uint8_t *larger = malloc(room);

        if (larger == NULL)
            return false;
        if (queue->data != NULL) {
            memcpy(larger, queue->data, queue->end);
            OPENSSL_cleanse(queue->data, queue->room); /* a password may be in it */
            free(queue->data);
        }
        queue->data = larger;
        queue->room = room;
    }
    memcpy(queue->data + queue->end, data, size);
    queue->end += size;
    return true;
}

static void
queue_clear(struct queue *queue)
{
    if (queue->data != NULL)
        OPENSSL_cleanse(queue->data, queue->room);
    free(queue->data);
    memset(queue, 0, sizeof(*queue));
}

/* Certificates are for names or for addresses. */
static bool
set_name(SSL *ssl, const char *name)
{
    X509_VERIFY_PARAM *verify = SSL_get0_param(ssl);

    if (X509_VERIFY_PARAM_set1_ip_asc(verify, name) == 1)
        return true;
    ERR_clear_error();
    return SSL_set1_host(ssl, name) == 1 && SSL_set_tlsext_host_name(ssl, name) == 1;
}

static bool
start_tls(struct redis *redis, SSL_CTX *tls, const char *name)
{
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());

    redis->ssl = SSL_new(tls);
    if (redis->ssl == NULL || in == NULL || out == NULL || !set_name(redis->ssl, name)) {
        BIO_free(in);
        BIO_free(out);
        return false;
    }
    SSL_set_bio(redis->ssl, in, out);
    SSL_set_connect_state(redis->ssl);
    return true;
}

struct redis *
redis_new(int fd, SSL_CTX *tls, const char *name, struct error *error)
{
    struct redis *redis = calloc(1, sizeof(*redis));

    if (redis != NULL) {
        redis->fd = fd;
        redis->decoder = redis_decoder_new();
        if (redis->decoder != NULL && (tls == NULL || start_tls(redis, tls, name)))
            return redis;
        redis_free(redis);
    } else {
        channel_close_fd(fd);
    }
    ERR_clear_error();
    error_set(error, "out of memory");
    return NULL;
}

void
redis_free(struct redis *redis)
{
    if (redis == NULL)
        return;
    SSL_free(redis->ssl);
    redis_decoder_free(redis->decoder);
    queue_clear(&redis->plain);
    queue_clear(&redis->sealed);
    channel_close_fd(redis->fd);
    free(redis);
}

bool
redis_command(struct redis *redis, int count, const char *const *words, const size_t *sizes)
{
    char *text = NULL;
    int size = redisFormatCommandArgv(&text, count, (const char **)(uintptr_t)words, sizes);
    bool queued = false;

    if (size <= 0)
        return false;
    if (queue_size(&redis->plain) + queue_size(&redis->sealed) + (size_t)size <= REDIS_OUT_MAX)
        queued = queue_put(&redis->plain, text, (size_t)size);
    OPENSSL_cleanse(text, (size_t)size);
    redisFreeCommand(text);
    return queued;
}

/* Why TLS failed: the certificate, if it was that. */
static int
fail_tls(struct redis *redis, struct error *error)
{
    long verified = SSL_get_verify_result(redis->ssl);
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());

    if (verified != X509_V_OK)
        error_set(error, "TLS: its certificate is refused: %s",
                  X509_verify_cert_error_string(verified));
    else
        error_set(error, "TLS: %s", reason != NULL ? reason : "the connection was closed");
    ERR_clear_error();
    return -1;
}

/* Handshake, commands into records, records into the queue. */
static int
seal(struct redis *redis, struct error *error)
{
    BIO *out = SSL_get_wbio(redis->ssl);
    uint8_t record[CHUNK];
    int size;

    ERR_clear_error();
    if (!SSL_is_init_finished(redis->ssl)) {
        int result = SSL_do_handshake(redis->ssl);

        if (result != 1 && SSL_get_error(redis->ssl, result) != SSL_ERROR_WANT_READ)
            return fail_tls(redis, error);
    }
    while (SSL_is_init_finished(redis->ssl) && queue_size(&redis->plain) > 0) {
        size_t left = queue_size(&redis->plain);

        size = SSL_write(redis->ssl, redis->plain.data + redis->plain.start,
                         left < CHUNK ? (int)left : CHUNK);
        if (size <= 0)
            return fail_tls(redis, error);
        OPENSSL_cleanse(redis->plain.data + redis->plain.start, (size_t)size);
        redis->plain.start += (size_t)size;
    }
    while ((size = BIO_read(out, record, sizeof(record))) > 0) {
        if (!queue_put(&redis->sealed, record, (size_t)size))
            return error_set(error, "out of memory");
    }
    return 0;
}

static int
flush(struct redis *redis, struct error *error)
{
    struct queue *queue = redis->ssl != NULL ? &redis->sealed : &redis->plain;

    if (redis->ssl != NULL && seal(redis, error) == -1)
        return -1;
    while (queue_size(queue) > 0) {
        ssize_t sent = send(redis->fd, queue->data + queue->start, queue_size(queue),
                            MSG_DONTWAIT | MSG_NOSIGNAL);

        if (sent == -1 && (errno == EAGAIN || errno == EINTR))
            return 0;
        if (sent == -1)
            return error_set(error, "sending: %s", strerror(errno));
        OPENSSL_cleanse(queue->data + queue->start, (size_t)sent);
        queue->start += (size_t)sent;
    }
    return 0;
}

static int
take_plain(struct redis *redis, const uint8_t *data, size_t size,
           bool (*replied)(void *data, const struct redis_reply *reply, struct error *error),
           void *context, struct error *error)
{
    struct redis_reply reply;
    int more = redis_decoder_feed(redis->decoder, data, size, error);

    if (more == -1)
        return -1;
    while ((more = redis_decoder_next(redis->decoder, &reply, error)) == 1) {
        if (!replied(context, &reply, error))
            return -1;
    }
    return more;
}

/* Records in, commands' replies out. */
static int
take_sealed(struct redis *redis, const uint8_t *data, size_t size,
            bool (*replied)(void *data, const struct redis_reply *reply, struct error *error),
            void *context, struct error *error)
{
    uint8_t plain[CHUNK];
    int got;

    if (BIO_write(SSL_get_rbio(redis->ssl), data, (int)size) != (int)size)
        return error_set(error, "out of memory");
    ERR_clear_error();
    while ((got = SSL_read(redis->ssl, plain, sizeof(plain))) > 0) {
        if (take_plain(redis, plain, (size_t)got, replied, context, error) == -1)
            return -1;
    }
    return SSL_get_error(redis->ssl, got) == SSL_ERROR_WANT_READ ? 0 : fail_tls(redis, error);
}

static int
check_connected(struct redis *redis, struct error *error)
{
    int reason = 0;
    socklen_t size = sizeof(reason);

    if (redis->connected)
        return 0;
    if (getsockopt(redis->fd, SOL_SOCKET, SO_ERROR, &reason, &size) == -1 || reason != 0)
        return error_set(error, "%s", strerror(reason != 0 ? reason : errno));
    redis->connected = true;
    return 0;
}

int
redis_work(struct redis *redis,
           bool (*replied)(void *data, const struct redis_reply *reply, struct error *error),
           void *data, struct error *error)
{
    uint8_t chunk[CHUNK];

    if (check_connected(redis, error) == -1)
        return -1;
    for (int i = 0; i < ROUNDS; i++) {
        ssize_t size = recv(redis->fd, chunk, sizeof(chunk), MSG_DONTWAIT);

        if (size == 0)
            return error_set(error, "it closed the connection");
        if (size == -1 && (errno == EAGAIN || errno == EINTR))
            break;
        if (size == -1)
            return error_set(error, "%s", strerror(errno));
        if ((redis->ssl != NULL ? take_sealed : take_plain)(redis, chunk, (size_t)size, replied,
                                                            data, error) == -1)
            return -1;
    }
    return flush(redis, error);
}

uint32_t
redis_events(const struct redis *redis)
{
    size_t left = queue_size(redis->ssl != NULL ? &redis->sealed : &redis->plain);

    return EPOLLIN | (left > 0 || !redis->connected ? (uint32_t)EPOLLOUT : 0);
}

int
redis_fd(const struct redis *redis)
{
    return redis->fd;
}
