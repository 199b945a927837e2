/* fuzz_generation.c: the readers of a generation's public and secret parts, as handshakers and
 * keepers map them. First byte: which; then what comes behind magic, number and build id.
 * Everything that was accepted is looked at. */
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent/generation.h"
#include "agent/generation_format.h"
#include "agent/roles.h"

static volatile unsigned fuzz_sum;

static void
fuzz_touch(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        fuzz_sum += data[i];
}

static void
fuzz_public(int fd)
{
    struct error error = {""};
    struct generation_public *part = generation_public_map(fd, &error);

    if (part == NULL) {
        FUZZ_REQUIRE(error.text[0] != '\0');
        return;
    }
    for (size_t i = 0; i < part->context_count; i++) {
        const struct generation_context *context = &part->contexts[i];

        fuzz_touch(context->alpn, context->alpn_size);
        fuzz_touch(context->uids, 4 * context->uid_count);
        fuzz_touch(context->gids, 4 * context->gid_count);
        fuzz_touch(part->client_cas[i].certificates, part->client_cas[i].size);
    }
    for (size_t i = 0; i < part->identity_count; i++) {
        const struct generation_identity *identity = &part->identities[i];

        FUZZ_REQUIRE(identity->context < part->context_count);
        fuzz_touch(identity->names, identity->names_size);
        fuzz_touch(identity->chain, identity->chain_size);
    }
    generation_public_unmap(part);
}

static void
fuzz_secret(int fd)
{
    struct error error = {""};
    struct generation_secret *part = generation_secret_map(fd, &error);

    if (part == NULL) {
        FUZZ_REQUIRE(error.text[0] != '\0');
        return;
    }
    for (size_t i = 0; i < part->key_count; i++)
        fuzz_touch(part->keys[i].pkcs8, part->keys[i].pkcs8_size);
    generation_secret_unmap(part);
}

static void
fuzz_generation(const uint8_t *data, size_t size)
{
    uint8_t head[GENERATION_MAGIC_SIZE + 5] = {0};
    int fd;

    if (size == 0)
        return;
    memcpy(head, data[0] % 2 == 0 ? GENERATION_MAGIC_PUBLIC : GENERATION_MAGIC_SECRET,
           GENERATION_MAGIC_SIZE);
    head[GENERATION_MAGIC_SIZE + 3] = 1;
    head[GENERATION_MAGIC_SIZE + 4] = (uint8_t)strlen(role_build_id);
    fd = memfd_create("part", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    FUZZ_REQUIRE(fd != -1 && write(fd, head, sizeof(head)) == sizeof(head));
    FUZZ_REQUIRE(write(fd, role_build_id, strlen(role_build_id)) == (ssize_t)strlen(role_build_id));
    FUZZ_REQUIRE(write(fd, data + 1, size - 1) == (ssize_t)size - 1);
    if (data[0] % 2 == 0) {
        FUZZ_REQUIRE(
            fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) == 0);
        fuzz_public(fd);
    } else {
        fuzz_secret(fd);
    }
    close(fd);
}

FUZZ_TARGET(fuzz_generation)
