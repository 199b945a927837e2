/*
 * generation.c: see generation.h.
 *
 * Role: the writer runs in the loader, the readers in handshakers and keepers, put_context and
 * seal in the supervisor. Trust: a reader takes nothing for granted. Its arrays are sized by counts
 * that the part's own length must be able to hold, every offset stays inside the mapping, and
 * a byte left over is an error.
 *
 * Layout (integers big-endian; <n> is a byte string with an n-byte length):
 *
 *   public:  "TLSAPUB1", generation u32, build <1>, tag 16, key count u32, context count u16,
 *            identity count u32,
 *            contexts:   parameters <2>, client CAs <4>
 *            identities: context u16, key u32, key type u8, default u8, explicit names u16,
 *                        names <4>, chain <4>
 *   secret:  "TLSASEC1", generation u32, build <1>, ticket secret 32, key count u32,
 *            keys: type u8, PKCS#8 <2>
 */
#include "agent/generation.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "agent/roles.h"
#include "protocol/traffic.h"
#include "protocol/wire.h"

#define MAGIC_SIZE    8
#define MAGIC_PUBLIC  "TLSAPUB1"
#define MAGIC_SECRET  "TLSASEC1"
#define HEADER_MAX    (MAGIC_SIZE + 4 + 1 + SERVICE_BUILD_MAX + 64)
#define CONTEXT_MIN   (2 + 4)
#define IDENTITY_MIN  (2 + 4 + 1 + 1 + 2 + 4 + 4)
#define KEY_MIN       (1 + 2)
#define SEALS         (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)
#define CHUNK_PUBLIC  (256 * 1024)
#define CHUNK_SECRET  (16 * 1024)
#define DIGEST_SIZE   32
#define TICKETS_MAX   8
#define KEYS_MAX      (1U << 20)
#define PART_SIZE_MAX ((size_t)1 << 32) /* offsets and lengths are 32 bits */

/* ---- what well-formed means, for writer and reader ---- */

/* Certificates, each preceded by its size in 24 bits: at least `minimum` of them, nothing else. */
static bool
check_certificates(const uint8_t *bytes, size_t size, size_t minimum)
{
    size_t count = 0;

    while (size > 0) {
        size_t length;

        if (size < 3)
            return false;
        length = (size_t)bytes[0] << 16 | (size_t)bytes[1] << 8 | bytes[2];
        if (length < 2 || length > size - 3 || bytes[3] != 0x30) /* a DER SEQUENCE */
            return false;
        bytes += 3 + length;
        size -= 3 + length;
        count++;
    }
    return count >= minimum;
}

static bool
check_name(const uint8_t *name, size_t length)
{
    if (length == 0 || length >= SERVICE_HOST_MAX)
        return false;
    if (length > 2 && name[0] == '*' && name[1] == '.') {
        name += 2;
        length -= 2;
    }
    for (size_t i = 0; i < length; i++)
        if (!((name[i] >= 'a' && name[i] <= 'z') || (name[i] >= '0' && name[i] <= '9') ||
              name[i] == '-' || name[i] == '_' || name[i] == '.'))
            return false;
    return true;
}

static bool
check_names(const uint8_t *names, size_t size, size_t explicit_names)
{
    size_t count = 0;

    while (size > 0) {
        size_t length = names[0];

        if (length > size - 1 || !check_name(names + 1, length))
            return false;
        names += 1 + length;
        size -= 1 + length;
        count++;
    }
    return explicit_names <= count;
}

/* ALPN names in the format of SSL_CTX_set_alpn_protos. */
static bool
check_alpn(const uint8_t *alpn, size_t size)
{
    while (size > 0) {
        size_t length = alpn[0];

        if (length == 0 || length > size - 1)
            return false;
        alpn += 1 + length;
        size -= 1 + length;
    }
    return true;
}

static bool
check_version(uint16_t version)
{
    return version == TRAFFIC_TLS_1_2 || version == TRAFFIC_TLS_1_3;
}

/* ---- a context's parameters ---- */

size_t
generation_put_context(const struct config *config, const struct config_context *context,
                       uint16_t index, void *buffer, size_t size)
{
    struct wire_writer writer;
    size_t alpn_size = 0;

    wire_writer_init(&writer, buffer, size);
    wire_put_text(&writer, context->name);
    wire_put_u16(&writer, index);
    wire_put_u16(&writer, context->min_version);
    wire_put_u16(&writer, context->max_version);
    wire_put_u8(&writer, context->forms);
    wire_put_u8(&writer, (uint8_t)context->verify);
    wire_put_u8(&writer, (uint8_t)context->tickets);
    wire_put_u8(&writer, context->prefer_server_ciphers);
    wire_put_u32(&writer, context->deadline_ms);
    wire_put_u32(&writer, context->backlog);
    wire_put_u32(&writer, config->max_handshakes);
    wire_put_text(&writer, context->ciphers);
    wire_put_text(&writer, context->ciphersuites);
    wire_put_text(&writer, context->groups);
    for (size_t i = 0; i < context->alpn_count; i++)
        alpn_size += 1 + strlen(context->alpn[i]);
    if (alpn_size > UINT16_MAX || context->user_count > UINT16_MAX ||
        context->group_allowed_count > UINT16_MAX)
        return 0;
    wire_put_u16(&writer, (uint16_t)alpn_size);
    for (size_t i = 0; i < context->alpn_count; i++)
        wire_put_text(&writer, context->alpn[i]);
    wire_put_u16(&writer, (uint16_t)context->user_count);
    for (size_t i = 0; i < context->user_count; i++)
        wire_put_u32(&writer, context->users[i]);
    wire_put_u16(&writer, (uint16_t)context->group_allowed_count);
    for (size_t i = 0; i < context->group_allowed_count; i++)
        wire_put_u32(&writer, context->groups_allowed[i]);
    return wire_size(&writer);
}

/* A counted list of 32-bit numbers, left where it is. */
static const uint8_t *
get_ids(struct wire_reader *reader, size_t *count)
{
    const uint8_t *ids;

    *count = wire_get_u16(reader);
    ids = reader->next;
    if (*count * 4 > (size_t)(reader->end - reader->next))
        reader->failed = true;
    if (reader->failed) {
        *count = 0;
        return NULL;
    }
    reader->next += *count * 4;
    return ids;
}

static bool
get_context(struct generation_context *context, const uint8_t *blob, size_t size)
{
    struct wire_reader reader;

    memset(context, 0, sizeof(*context));
    wire_reader_init(&reader, blob, size);
    wire_get_text(&reader, context->name, sizeof(context->name));
    context->index = wire_get_u16(&reader);
    context->min_version = wire_get_u16(&reader);
    context->max_version = wire_get_u16(&reader);
    context->forms = wire_get_u8(&reader);
    context->verify = wire_get_u8(&reader);
    context->tickets = wire_get_u8(&reader);
    context->prefer_server_ciphers = wire_get_u8(&reader);
    context->deadline_ms = wire_get_u32(&reader);
    context->backlog = wire_get_u32(&reader);
    context->max_handshakes = wire_get_u32(&reader);
    wire_get_text(&reader, context->ciphers, sizeof(context->ciphers));
    wire_get_text(&reader, context->ciphersuites, sizeof(context->ciphersuites));
    wire_get_text(&reader, context->groups, sizeof(context->groups));
    context->alpn = wire_get_string(&reader, 2, UINT16_MAX, &context->alpn_size);
    context->uids = get_ids(&reader, &context->uid_count);
    context->gids = get_ids(&reader, &context->gid_count);
    return wire_done(&reader) && context->name[0] != '\0' &&
           context->index < CONTROL_CONTEXTS_MAX && check_version(context->min_version) &&
           check_version(context->max_version) && context->min_version <= context->max_version &&
           context->verify <= CONFIG_VERIFY_REQUIRED && context->tickets <= TICKETS_MAX &&
           context->prefer_server_ciphers <= 1 && check_alpn(context->alpn, context->alpn_size);
}

void
generation_context_name(const uint8_t *blob, size_t size, char name[SERVICE_NAME_MAX])
{
    struct generation_context context;

    name[0] = '\0';
    if (get_context(&context, blob, size))
        memcpy(name, context.name, SERVICE_NAME_MAX);
}

/* ---- the writer ---- */

/* Bytes collected in chunks that never move: no copy is left behind by a realloc(), and the peak is
 * not twice the size. */
struct chunk {
    struct chunk *next;
    size_t used;
    size_t size;
    uint8_t bytes[];
};

struct chunks {
    struct chunk *first;
    struct chunk *last;
    size_t total;
    size_t chunk_size;
};

struct writer_context {
    uint8_t *blob;
    size_t blob_size;
    uint8_t *client_ca;
    size_t client_ca_size;
};

/* An open-addressing table from the digest of a key to its number; digest and number only. */
struct key_slot {
    uint8_t digest[DIGEST_SIZE];
    uint32_t number_plus_1; /* 0: empty */
};

struct generation_writer {
    uint32_t generation;
    struct writer_context contexts[CONTROL_CONTEXTS_MAX];
    size_t context_count;
    size_t contexts_size; /* encoded */
    struct chunks identities;
    uint32_t identity_count;
    struct chunks keys; /* secret */
    uint32_t key_count;
    struct key_slot *slots; /* digests of secrets: wiped too */
    size_t slot_count;      /* a power of two */
};

/* Room for size contiguous bytes, or NULL. */
static uint8_t *
chunks_reserve(struct chunks *chunks, size_t size)
{
    struct chunk *chunk = chunks->last;

    if (chunk == NULL || size > chunk->size - chunk->used) {
        size_t room = size > chunks->chunk_size ? size : chunks->chunk_size;

        chunk = malloc(sizeof(*chunk) + room);
        if (chunk == NULL)
            return NULL;
        chunk->next = NULL;
        chunk->used = 0;
        chunk->size = room;
        if (chunks->last != NULL)
            chunks->last->next = chunk;
        else
            chunks->first = chunk;
        chunks->last = chunk;
    }
    chunk->used += size;
    chunks->total += size;
    return chunk->bytes + chunk->used - size;
}

static void
chunks_free(struct chunks *chunks)
{
    struct chunk *next;

    for (struct chunk *chunk = chunks->first; chunk != NULL; chunk = next) {
        next = chunk->next;
        OPENSSL_cleanse(chunk->bytes, chunk->used);
        free(chunk);
    }
}

static void
chunks_put(const struct chunks *chunks, struct wire_writer *writer)
{
    for (const struct chunk *chunk = chunks->first; chunk != NULL; chunk = chunk->next)
        wire_put_bytes(writer, chunk->bytes, chunk->used);
}

struct generation_writer *
generation_writer_new(uint32_t generation)
{
    struct generation_writer *writer = calloc(1, sizeof(*writer));

    if (writer == NULL)
        return NULL;
    writer->generation = generation;
    writer->identities.chunk_size = CHUNK_PUBLIC;
    writer->keys.chunk_size = CHUNK_SECRET;
    return writer;
}

void
generation_writer_free(struct generation_writer *writer)
{
    if (writer == NULL)
        return;
    for (size_t i = 0; i < writer->context_count; i++) {
        free(writer->contexts[i].blob);
        free(writer->contexts[i].client_ca);
    }
    chunks_free(&writer->identities);
    chunks_free(&writer->keys);
    if (writer->slots != NULL)
        OPENSSL_cleanse(writer->slots, writer->slot_count * sizeof(*writer->slots));
    free(writer->slots);
    free(writer);
}

static uint8_t *
duplicate(const uint8_t *bytes, size_t size)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);

    if (copy != NULL && size > 0)
        memcpy(copy, bytes, size);
    return copy;
}

static int
out_of_memory(struct error *error)
{
    return error_set(error, "out of memory: give the loader more, or load fewer identities");
}

int
generation_add_context(struct generation_writer *writer, const uint8_t *blob, size_t size,
                       struct error *error)
{
    struct generation_context context;
    uint8_t *copy;

    if (size > UINT16_MAX || !get_context(&context, blob, size))
        return error_set(error, "internal error: a context's parameters are not well-formed");
    if (writer->context_count == CONTROL_CONTEXTS_MAX)
        return error_set(error, "more than %d contexts; use fewer", CONTROL_CONTEXTS_MAX);
    copy = duplicate(blob, size);
    if (copy == NULL)
        return out_of_memory(error);
    writer->contexts[writer->context_count++] =
        (struct writer_context){.blob = copy, .blob_size = size};
    writer->contexts_size += CONTEXT_MIN + size;
    return 0;
}

int
generation_add_client_ca(struct generation_writer *writer, const uint8_t *der, size_t size,
                         struct error *error)
{
    struct writer_context *context;

    if (writer->context_count == 0)
        return error_set(error, "internal error: client CAs without a context");
    context = &writer->contexts[writer->context_count - 1];
    if (context->client_ca != NULL)
        return error_set(error, "internal error: client CAs of one context came twice");
    if (size > GENERATION_CHAIN_MAX || !check_certificates(der, size, 1))
        return error_set(error, "internal error: client CAs are not well-formed");
    context->client_ca = duplicate(der, size);
    if (context->client_ca == NULL)
        return out_of_memory(error);
    context->client_ca_size = size;
    writer->contexts_size += size;
    return 0;
}

/* The slot of a digest: its own, or the empty one where it belongs. */
static struct key_slot *
find_slot(struct key_slot *slots, size_t slot_count, const uint8_t *digest)
{
    size_t i;

    memcpy(&i, digest, sizeof(i));
    for (;; i++) {
        struct key_slot *slot = &slots[i & (slot_count - 1)];

        if (slot->number_plus_1 == 0 || memcmp(slot->digest, digest, DIGEST_SIZE) == 0)
            return slot;
    }
}

/* Keep the table at most half full. */
static int
grow_slots(struct generation_writer *writer)
{
    size_t count = writer->slot_count > 0 ? writer->slot_count * 2 : 64;
    struct key_slot *slots;

    if ((size_t)writer->key_count * 2 < writer->slot_count)
        return 0;
    slots = calloc(count, sizeof(*slots));
    if (slots == NULL)
        return -1;
    for (size_t i = 0; i < writer->slot_count; i++)
        if (writer->slots[i].number_plus_1 != 0)
            *find_slot(slots, count, writer->slots[i].digest) = writer->slots[i];
    if (writer->slots != NULL)
        OPENSSL_cleanse(writer->slots, writer->slot_count * sizeof(*slots));
    free(writer->slots);
    writer->slots = slots;
    writer->slot_count = count;
    return 0;
}

/* The number of a key, stored now if it is new. */
static int
add_key(struct generation_writer *writer, uint8_t type, const uint8_t *pkcs8, size_t size,
        uint32_t *number, struct error *error)
{
    uint8_t digest[DIGEST_SIZE];
    struct wire_writer out;
    struct key_slot *slot;
    uint8_t *room;

    if (size == 0 || size > GENERATION_PKCS8_MAX || type < GENERATION_KEY_RSA ||
        type > GENERATION_KEY_ED25519)
        return error_set(error, "internal error: a private key is not well-formed");
    if (EVP_Digest(pkcs8, size, digest, NULL, EVP_sha256(), NULL) != 1)
        return error_set(error, "internal error: libcrypto has no SHA-256");
    if (grow_slots(writer) == -1)
        return out_of_memory(error);
    slot = find_slot(writer->slots, writer->slot_count, digest);
    if (slot->number_plus_1 == 0) {
        if (writer->key_count == KEYS_MAX)
            return error_set(error, "more than %u different keys; use fewer", KEYS_MAX);
        room = chunks_reserve(&writer->keys, KEY_MIN + size);
        if (room == NULL)
            return out_of_memory(error);
        wire_writer_init(&out, room, KEY_MIN + size);
        wire_put_u8(&out, type);
        wire_put_string(&out, 2, pkcs8, size);
        memcpy(slot->digest, digest, DIGEST_SIZE);
        slot->number_plus_1 = ++writer->key_count;
    }
    *number = slot->number_plus_1 - 1;
    OPENSSL_cleanse(digest, sizeof(digest));
    return 0;
}

int
generation_add_identity(struct generation_writer *writer,
                        const struct generation_identity *identity, const uint8_t *pkcs8,
                        size_t pkcs8_size, struct error *error)
{
    size_t size = IDENTITY_MIN + identity->names_size + identity->chain_size;
    struct wire_writer out;
    uint32_t key = 0;
    uint8_t *room;

    if (writer->context_count == 0)
        return error_set(error, "internal error: an identity without a context");
    if (identity->names_size > GENERATION_NAMES_MAX ||
        identity->chain_size > GENERATION_CHAIN_MAX ||
        !check_names(identity->names, identity->names_size, identity->explicit_names) ||
        !check_certificates(identity->chain, identity->chain_size, 1) || identity->is_default > 1)
        return error_set(error, "internal error: an identity is not well-formed");
    if (add_key(writer, identity->key_type, pkcs8, pkcs8_size, &key, error) == -1)
        return -1;
    room = chunks_reserve(&writer->identities, size);
    if (room == NULL)
        return out_of_memory(error);
    wire_writer_init(&out, room, size);
    wire_put_u16(&out, (uint16_t)(writer->context_count - 1));
    wire_put_u32(&out, key);
    wire_put_u8(&out, identity->key_type);
    wire_put_u8(&out, identity->is_default);
    wire_put_u16(&out, identity->explicit_names);
    wire_put_string(&out, 4, identity->names, identity->names_size);
    wire_put_string(&out, 4, identity->chain, identity->chain_size);
    writer->identity_count++;
    return 0;
}

static void
put_start(struct wire_writer *out, const char *magic, uint32_t generation)
{
    wire_put_bytes(out, magic, MAGIC_SIZE);
    wire_put_u32(out, generation);
    wire_put_text(out, role_build_id);
}

/* Give the empty file its exact size (memfd_secret takes one only once) and write header, then
 * what put_body() writes. */
static int
write_part(const struct generation_writer *writer, int fd, const char *what, const uint8_t *header,
           size_t header_size, size_t body_size,
           void (*put_body)(const struct generation_writer *, struct wire_writer *),
           struct error *error)
{
    size_t size = header_size + body_size;
    struct wire_writer out;
    struct stat status;
    void *mapping;

    if (size >= PART_SIZE_MAX)
        return error_set(error, "the %s part of the generation would be %zu bytes; load less", what,
                         size);
    if (fstat(fd, &status) == -1 || status.st_size != 0)
        return error_set(error, "internal error: the file for the %s part is not empty", what);
    if (ftruncate(fd, (off_t)size) == -1)
        return error_set(error, "%zu bytes for the %s part of the generation: %s; free some memory",
                         size, what, strerror(errno));
    mapping = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapping == MAP_FAILED)
        return error_set(error,
                         "mapping %zu bytes for the %s part of the generation: %s; raise the "
                         "limit on locked memory (ulimit -l, LimitMEMLOCK=)",
                         size, what, strerror(errno));
    wire_writer_init(&out, mapping, size);
    wire_put_bytes(&out, header, header_size);
    put_body(writer, &out);
    munmap(mapping, size);
    if (wire_size(&out) != size)
        return error_set(error, "internal error: the %s part has another size", what);
    return 0;
}

static void
put_public_body(const struct generation_writer *writer, struct wire_writer *out)
{
    for (size_t i = 0; i < writer->context_count; i++) {
        const struct writer_context *context = &writer->contexts[i];

        wire_put_string(out, 2, context->blob, context->blob_size);
        wire_put_string(out, 4, context->client_ca, context->client_ca_size);
    }
    chunks_put(&writer->identities, out);
}

static void
put_secret_body(const struct generation_writer *writer, struct wire_writer *out)
{
    chunks_put(&writer->keys, out);
}

int
generation_write(struct generation_writer *writer, int public_fd, int secret_fd,
                 struct load_done *done, struct error *error)
{
    uint8_t header[HEADER_MAX], random[GENERATION_TICKET_SECRET];
    struct wire_writer out;
    size_t size;
    int result;

    if (RAND_priv_bytes(random, GENERATION_TICKET_SECRET) != 1)
        return error_set(error, "internal error: libcrypto has no random numbers");
    wire_writer_init(&out, header, sizeof(header));
    put_start(&out, MAGIC_SECRET, writer->generation);
    wire_put_bytes(&out, random, GENERATION_TICKET_SECRET);
    wire_put_u32(&out, writer->key_count);
    size = wire_size(&out);
    result = write_part(writer, secret_fd, "secret", header, size, writer->keys.total,
                        put_secret_body, error);
    OPENSSL_cleanse(random, sizeof(random));
    OPENSSL_cleanse(header, sizeof(header));
    if (result == -1)
        return -1;
    done->secret_size = size + writer->keys.total;

    if (RAND_bytes(random, GENERATION_TAG) != 1)
        return error_set(error, "internal error: libcrypto has no random numbers");
    wire_writer_init(&out, header, sizeof(header));
    put_start(&out, MAGIC_PUBLIC, writer->generation);
    wire_put_bytes(&out, random, GENERATION_TAG);
    wire_put_u32(&out, writer->key_count);
    wire_put_u16(&out, (uint16_t)writer->context_count);
    wire_put_u32(&out, writer->identity_count);
    size = wire_size(&out);
    if (write_part(writer, public_fd, "public", header, size,
                   writer->contexts_size + writer->identities.total, put_public_body, error) == -1)
        return -1;
    done->public_size = size + writer->contexts_size + writer->identities.total;
    done->identities = writer->identity_count;
    done->keys = writer->key_count;
    return 0;
}

/* ---- the readers ---- */

int
generation_seal(int public_fd, struct error *error)
{
    if (fcntl(public_fd, F_ADD_SEALS, SEALS | F_SEAL_SEAL) == -1)
        return error_set(error, "sealing the public part of a generation: %s", strerror(errno));
    return 0;
}

static int
check_start(struct wire_reader *reader, const char *magic, const char *what, uint32_t *generation,
            struct error *error)
{
    char found[MAGIC_SIZE];
    char build[SERVICE_BUILD_MAX];

    wire_get_bytes(reader, found, sizeof(found));
    *generation = wire_get_u32(reader);
    wire_get_text(reader, build, sizeof(build));
    if (reader->failed || memcmp(found, magic, MAGIC_SIZE) != 0)
        return error_set(error, "not the %s part of a generation", what);
    if (strcmp(build, role_build_id) != 0)
        return error_set(error, "the %s part of the generation was written by another build", what);
    return 0;
}

/* The size of the file behind fd, mapped read-only at *mapping. */
static int
map_part(int fd, int flags, const char *what, void **mapping, size_t *size, struct error *error)
{
    struct stat status;

    if (fstat(fd, &status) == -1)
        return error_set(error, "%s part of the generation: %s", what, strerror(errno));
    if (!S_ISREG(status.st_mode) || status.st_size <= 0 ||
        (uintmax_t)status.st_size >= PART_SIZE_MAX)
        return error_set(error, "%s part of the generation: not a file of a possible size", what);
    *size = (size_t)status.st_size;
    *mapping = mmap(NULL, *size, PROT_READ, flags, fd, 0);
    if (*mapping == MAP_FAILED)
        return error_set(error,
                         "mapping %zu bytes, the %s part of the generation: %s; raise the limit on "
                         "locked memory (ulimit -l, LimitMEMLOCK=)",
                         *size, what, strerror(errno));
    return 0;
}

static bool
read_contexts(struct generation_public *part, struct wire_reader *reader)
{
    for (size_t i = 0; i < part->context_count; i++) {
        struct generation_client_ca *ca = &part->client_cas[i];
        size_t size;
        const uint8_t *blob = wire_get_string(reader, 2, UINT16_MAX, &size);

        ca->certificates = wire_get_string(reader, 4, GENERATION_CHAIN_MAX, &ca->size);
        if (reader->failed || !get_context(&part->contexts[i], blob, size) ||
            !check_certificates(ca->certificates, ca->size, 0))
            return false;
    }
    return true;
}

static bool
read_identities(struct generation_public *part, struct wire_reader *reader, uint32_t key_count)
{
    for (size_t i = 0; i < part->identity_count; i++) {
        struct generation_identity *identity = &part->identities[i];

        identity->context = wire_get_u16(reader);
        identity->key = wire_get_u32(reader);
        identity->key_type = wire_get_u8(reader);
        identity->is_default = wire_get_u8(reader);
        identity->explicit_names = wire_get_u16(reader);
        identity->names = wire_get_string(reader, 4, GENERATION_NAMES_MAX, &identity->names_size);
        identity->chain = wire_get_string(reader, 4, GENERATION_CHAIN_MAX, &identity->chain_size);
        if (reader->failed || identity->context >= part->context_count ||
            (i > 0 && identity->context < part->identities[i - 1].context) ||
            identity->key >= key_count || identity->key_type < GENERATION_KEY_RSA ||
            identity->key_type > GENERATION_KEY_ED25519 || identity->is_default > 1 ||
            !check_names(identity->names, identity->names_size, identity->explicit_names) ||
            !check_certificates(identity->chain, identity->chain_size, 1))
            return false;
    }
    return true;
}

static int
read_public(struct generation_public *part, struct error *error)
{
    struct wire_reader reader;
    uint32_t key_count;
    size_t left;

    wire_reader_init(&reader, part->mapping, part->mapping_size);
    if (check_start(&reader, MAGIC_PUBLIC, "public", &part->generation, error) == -1)
        return -1;
    wire_get_bytes(&reader, part->tag, sizeof(part->tag));
    key_count = wire_get_u32(&reader);
    part->context_count = wire_get_u16(&reader);
    part->identity_count = wire_get_u32(&reader);
    left = (size_t)(reader.end - reader.next);
    if (reader.failed || part->context_count > CONTROL_CONTEXTS_MAX || key_count > KEYS_MAX ||
        part->context_count > left / CONTEXT_MIN || part->identity_count > left / IDENTITY_MIN)
        return error_set(error, "public part of the generation: impossible counts");
    part->contexts = calloc(part->context_count + 1, sizeof(*part->contexts));
    part->client_cas = calloc(part->context_count + 1, sizeof(*part->client_cas));
    part->identities = calloc(part->identity_count + 1, sizeof(*part->identities));
    if (part->contexts == NULL || part->client_cas == NULL || part->identities == NULL)
        return error_set(error, "public part of the generation: out of memory");
    if (!read_contexts(part, &reader))
        return error_set(error, "public part of the generation: a context is not well-formed");
    if (!read_identities(part, &reader, key_count))
        return error_set(error, "public part of the generation: an identity is not well-formed");
    if (!wire_done(&reader))
        return error_set(error, "public part of the generation: bytes after its end");
    return 0;
}

struct generation_public *
generation_public_map(int fd, struct error *error)
{
    struct generation_public *part;
    void *mapping;
    size_t size;
    int seals = fcntl(fd, F_GET_SEALS);

    if (seals == -1 || (seals & SEALS) != SEALS) {
        error_set(error, "public part of the generation: not a sealed memfd");
        return NULL;
    }
    /* Kernels before 6.7 refuse a shared mapping of a file that is sealed against writing. */
    if (map_part(fd, MAP_PRIVATE, "public", &mapping, &size, error) == -1)
        return NULL;
    part = calloc(1, sizeof(*part));
    if (part == NULL) {
        munmap(mapping, size);
        error_set(error, "public part of the generation: out of memory");
        return NULL;
    }
    part->mapping = mapping;
    part->mapping_size = size;
    if (read_public(part, error) == -1) {
        generation_public_unmap(part);
        return NULL;
    }
    return part;
}

void
generation_public_unmap(struct generation_public *part)
{
    if (part == NULL)
        return;
    munmap((void *)(uintptr_t)part->mapping, part->mapping_size);
    free(part->contexts);
    free(part->client_cas);
    free(part->identities);
    free(part);
}

static int
read_secret(struct generation_secret *part, struct error *error)
{
    struct wire_reader reader;

    wire_reader_init(&reader, part->mapping, part->mapping_size);
    if (check_start(&reader, MAGIC_SECRET, "secret", &part->generation, error) == -1)
        return -1;
    part->ticket_secret = reader.next;
    if ((size_t)(reader.end - reader.next) < GENERATION_TICKET_SECRET)
        return error_set(error, "secret part of the generation: cut off");
    reader.next += GENERATION_TICKET_SECRET;
    part->key_count = wire_get_u32(&reader);
    if (reader.failed || part->key_count > KEYS_MAX ||
        part->key_count > (size_t)(reader.end - reader.next) / KEY_MIN)
        return error_set(error, "secret part of the generation: impossible counts");
    part->keys = calloc(part->key_count + 1, sizeof(*part->keys));
    if (part->keys == NULL)
        return error_set(error, "secret part of the generation: out of memory");
    for (size_t i = 0; i < part->key_count; i++) {
        struct generation_secret_key *key = &part->keys[i];

        key->type = wire_get_u8(&reader);
        key->pkcs8 = wire_get_string(&reader, 2, GENERATION_PKCS8_MAX, &key->pkcs8_size);
        if (key->pkcs8_size == 0 || key->type < GENERATION_KEY_RSA ||
            key->type > GENERATION_KEY_ED25519)
            return error_set(error, "secret part of the generation: a key is not well-formed");
    }
    if (!wire_done(&reader))
        return error_set(error, "secret part of the generation: bytes after its end");
    return 0;
}

struct generation_secret *
generation_secret_map(int fd, struct error *error)
{
    struct generation_secret *part;
    void *mapping;
    size_t size;

    /* memfd_secret can only be mapped shared. */
    if (map_part(fd, MAP_SHARED, "secret", &mapping, &size, error) == -1)
        return NULL;
    /* Kernels refuse some of this for memfd_secret, which has it by nature. */
    (void)madvise(mapping, size, MADV_DONTDUMP);
    (void)madvise(mapping, size, MADV_DONTFORK);
    part = calloc(1, sizeof(*part));
    if (part == NULL) {
        munmap(mapping, size);
        error_set(error, "secret part of the generation: out of memory");
        return NULL;
    }
    part->mapping = mapping;
    part->mapping_size = size;
    if (read_secret(part, error) == -1) {
        generation_secret_unmap(part);
        return NULL;
    }
    return part;
}

void
generation_secret_unmap(struct generation_secret *part)
{
    if (part == NULL)
        return;
    munmap(part->mapping, part->mapping_size);
    free(part->keys);
    free(part);
}
