/*
 * generation.c: the readers of generation.h, and the seal.
 *
 * Role: the readers run in handshakers and keepers, the seal in the supervisor. Trust: a reader
 * takes nothing for granted. Its arrays are sized by counts that the part's own length must be able
 * to hold, every offset stays inside the mapping, and a byte left over is an error.
 */
#include "agent/generation_format.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "agent/roles.h"
#include "protocol/wire.h"

#define SEALS (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)

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
    char found[GENERATION_MAGIC_SIZE];
    char build[SERVICE_BUILD_MAX];

    wire_get_bytes(reader, found, sizeof(found));
    *generation = wire_get_u32(reader);
    wire_get_text(reader, build, sizeof(build));
    if (reader->failed || memcmp(found, magic, GENERATION_MAGIC_SIZE) != 0)
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
        (uintmax_t)status.st_size >= GENERATION_PART_SIZE_MAX)
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
        if (reader->failed || !generation_get_context(&part->contexts[i], blob, size) ||
            !generation_check_certificates(ca->certificates, ca->size, 0))
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
            !generation_check_names(identity->names, identity->names_size,
                                    identity->explicit_names) ||
            !generation_check_certificates(identity->chain, identity->chain_size, 1))
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
    if (check_start(&reader, GENERATION_MAGIC_PUBLIC, "public", &part->generation, error) == -1)
        return -1;
    key_count = wire_get_u32(&reader);
    part->context_count = wire_get_u16(&reader);
    part->identity_count = wire_get_u32(&reader);
    left = (size_t)(reader.end - reader.next);
    if (reader.failed || part->context_count > CONTROL_CONTEXTS_MAX ||
        key_count > GENERATION_KEYS_MAX || part->context_count > left / GENERATION_CONTEXT_MIN ||
        part->identity_count > left / GENERATION_IDENTITY_MIN)
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
    void *mapping = NULL;
    size_t size = 0;
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
    if (check_start(&reader, GENERATION_MAGIC_SECRET, "secret", &part->generation, error) == -1)
        return -1;
    part->key_count = wire_get_u32(&reader);
    if (reader.failed || part->key_count > GENERATION_KEYS_MAX ||
        part->key_count > (size_t)(reader.end - reader.next) / GENERATION_KEY_MIN)
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
    void *mapping = NULL;
    size_t size = 0;

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
