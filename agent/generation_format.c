/*
 * generation_format.c: see generation_format.h; and the parameters of a context, both ways.
 *
 * Role: put_context in the supervisor, the rest wherever a generation is written or read.
 */
#include "agent/generation_format.h"

#include <string.h>

#include "protocol/traffic.h"
#include "protocol/wire.h"

#define TICKETS_MAX 8

/* ---- what well-formed means, for writer and reader ---- */

/* Certificates, each preceded by its size in 24 bits: at least `minimum` of them, nothing else. */
bool
generation_check_certificates(const uint8_t *bytes, size_t size, size_t minimum)
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

bool
generation_check_names(const uint8_t *names, size_t size, size_t explicit_names)
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
    wire_put_u8(&writer, context->prefer_rekey);
    wire_put_u8(&writer, (uint8_t)context->verify);
    wire_put_u8(&writer, (uint8_t)context->tickets);
    wire_put_u8(&writer, context->tickets_tls12);
    wire_put_u8(&writer, config->session_cache_size > 0 || config->fleet_store != NULL);
    wire_put_u32(&writer, config->ticket_life);
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

bool
generation_get_context(struct generation_context *context, const uint8_t *blob, size_t size)
{
    struct wire_reader reader;

    memset(context, 0, sizeof(*context));
    wire_reader_init(&reader, blob, size);
    wire_get_text(&reader, context->name, sizeof(context->name));
    context->index = wire_get_u16(&reader);
    context->min_version = wire_get_u16(&reader);
    context->max_version = wire_get_u16(&reader);
    context->forms = wire_get_u8(&reader);
    context->prefer_rekey = wire_get_u8(&reader);
    context->verify = wire_get_u8(&reader);
    context->tickets = wire_get_u8(&reader);
    context->tickets_tls12 = wire_get_u8(&reader);
    context->session_ids = wire_get_u8(&reader);
    context->ticket_life = wire_get_u32(&reader);
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
           context->tickets_tls12 <= 1 && context->session_ids <= 1 &&
           context->prefer_server_ciphers <= 1 && context->prefer_rekey <= 1 &&
           check_alpn(context->alpn, context->alpn_size);
}

void
generation_context_name(const uint8_t *blob, size_t size, char name[SERVICE_NAME_MAX])
{
    struct generation_context context;

    name[0] = '\0';
    if (generation_get_context(&context, blob, size))
        memcpy(name, context.name, SERVICE_NAME_MAX);
}
