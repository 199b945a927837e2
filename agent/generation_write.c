/*
 * generation_write.c: the writer of generation.h.
 *
 * Role: the loader. It collects what the loader digested and writes both parts at its end, when
 * their sizes are known. Everything collected is wiped when it is freed.
 */
#include "agent/generation_format.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "agent/roles.h"
#include "protocol/wire.h"

#define HEADER_MAX   (GENERATION_MAGIC_SIZE + 4 + 1 + SERVICE_BUILD_MAX + 64)
#define CHUNK_PUBLIC (256 * 1024)
#define CHUNK_SECRET (16 * 1024)
#define DIGEST_SIZE  32

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

    if (size > UINT16_MAX || !generation_get_context(&context, blob, size))
        return error_set(error, "internal error: a context's parameters are not well-formed");
    if (writer->context_count == CONTROL_CONTEXTS_MAX)
        return error_set(error, "more than %d contexts; use fewer", CONTROL_CONTEXTS_MAX);
    copy = duplicate(blob, size);
    if (copy == NULL)
        return out_of_memory(error);
    writer->contexts[writer->context_count++] =
        (struct writer_context){.blob = copy, .blob_size = size};
    writer->contexts_size += GENERATION_CONTEXT_MIN + size;
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
    if (size > GENERATION_CHAIN_MAX || !generation_check_certificates(der, size, 1))
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
        if (writer->key_count == GENERATION_KEYS_MAX)
            return error_set(error, "more than %u different keys; use fewer", GENERATION_KEYS_MAX);
        room = chunks_reserve(&writer->keys, GENERATION_KEY_MIN + size);
        if (room == NULL)
            return out_of_memory(error);
        wire_writer_init(&out, room, GENERATION_KEY_MIN + size);
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
    size_t size = GENERATION_IDENTITY_MIN + identity->names_size + identity->chain_size;
    struct wire_writer out;
    uint32_t key = 0;
    uint8_t *room;

    if (writer->context_count == 0)
        return error_set(error, "internal error: an identity without a context");
    if (identity->names_size > GENERATION_NAMES_MAX ||
        identity->chain_size > GENERATION_CHAIN_MAX ||
        !generation_check_names(identity->names, identity->names_size, identity->explicit_names) ||
        !generation_check_certificates(identity->chain, identity->chain_size, 1) ||
        identity->is_default > 1)
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
    wire_put_bytes(out, magic, GENERATION_MAGIC_SIZE);
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

    if (size >= GENERATION_PART_SIZE_MAX)
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
    uint8_t header[HEADER_MAX];
    struct wire_writer out;
    size_t size;
    int result;

    wire_writer_init(&out, header, sizeof(header));
    put_start(&out, GENERATION_MAGIC_SECRET, writer->generation);
    wire_put_u32(&out, writer->key_count);
    size = wire_size(&out);
    result = write_part(writer, secret_fd, "secret", header, size, writer->keys.total,
                        put_secret_body, error);
    if (result == -1)
        return -1;
    done->secret_size = size + writer->keys.total;

    wire_writer_init(&out, header, sizeof(header));
    put_start(&out, GENERATION_MAGIC_PUBLIC, writer->generation);
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
