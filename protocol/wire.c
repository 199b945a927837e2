/* wire.c: see wire.h. */
#include "protocol/wire.h"

#include <string.h>

void
wire_reader_init(struct wire_reader *reader, const void *data, size_t size)
{
    static const uint8_t empty[1];

    reader->next = data != NULL ? data : empty;
    reader->end = reader->next + (data != NULL ? size : 0);
    reader->failed = false;
}

/* The next size bytes, or NULL after setting the sticky error. */
static const uint8_t *
take(struct wire_reader *reader, size_t size)
{
    const uint8_t *bytes = reader->next;

    if (reader->failed || size > (size_t)(reader->end - reader->next)) {
        reader->failed = true;
        return NULL;
    }
    reader->next += size;
    return bytes;
}

static uint64_t
get_integer(struct wire_reader *reader, size_t size)
{
    const uint8_t *bytes = take(reader, size);
    uint64_t value = 0;

    if (bytes == NULL)
        return 0;
    while (size-- > 0)
        value = value << 8 | *bytes++;
    return value;
}

uint8_t
wire_get_u8(struct wire_reader *reader)
{
    return (uint8_t)get_integer(reader, 1);
}

uint16_t
wire_get_u16(struct wire_reader *reader)
{
    return (uint16_t)get_integer(reader, 2);
}

uint32_t
wire_get_u32(struct wire_reader *reader)
{
    return (uint32_t)get_integer(reader, 4);
}

uint64_t
wire_get_u64(struct wire_reader *reader)
{
    return get_integer(reader, 8);
}

void
wire_get_bytes(struct wire_reader *reader, void *dst, size_t size)
{
    const uint8_t *bytes = take(reader, size);

    if (bytes != NULL)
        memcpy(dst, bytes, size);
    else
        memset(dst, 0, size);
}

const uint8_t *
wire_get_string(struct wire_reader *reader, unsigned prefix, size_t max, size_t *size)
{
    size_t length = (size_t)get_integer(reader, prefix);
    const uint8_t *bytes;

    *size = 0;
    if (length > max)
        reader->failed = true;
    bytes = take(reader, length);
    if (bytes != NULL)
        *size = length;
    return bytes;
}

static void
get_text(struct wire_reader *reader, unsigned prefix, char *dst, size_t dst_size)
{
    size_t length;
    const uint8_t *bytes = wire_get_string(reader, prefix, dst_size - 1, &length);

    dst[0] = '\0';
    if (bytes == NULL)
        return;
    if (memchr(bytes, '\0', length) != NULL) {
        reader->failed = true;
        return;
    }
    memcpy(dst, bytes, length);
    dst[length] = '\0';
}

void
wire_get_text(struct wire_reader *reader, char *dst, size_t dst_size)
{
    get_text(reader, 1, dst, dst_size);
}

void
wire_get_long_text(struct wire_reader *reader, char *dst, size_t dst_size)
{
    get_text(reader, 2, dst, dst_size);
}

bool
wire_done(const struct wire_reader *reader)
{
    return !reader->failed && reader->next == reader->end;
}

void
wire_writer_init(struct wire_writer *writer, void *buffer, size_t size)
{
    writer->start = writer->next = buffer;
    writer->end = writer->start + size;
    writer->failed = false;
}

/* Room for size bytes, or NULL after setting the sticky error. */
static uint8_t *
room(struct wire_writer *writer, size_t size)
{
    uint8_t *bytes = writer->next;

    if (writer->failed || size > (size_t)(writer->end - writer->next)) {
        writer->failed = true;
        return NULL;
    }
    writer->next += size;
    return bytes;
}

static void
put_integer(struct wire_writer *writer, uint64_t value, size_t size)
{
    uint8_t *bytes = room(writer, size);

    if (bytes == NULL)
        return;
    while (size-- > 0) {
        bytes[size] = (uint8_t)value;
        value >>= 8;
    }
}

void
wire_put_u8(struct wire_writer *writer, uint8_t value)
{
    put_integer(writer, value, 1);
}

void
wire_put_u16(struct wire_writer *writer, uint16_t value)
{
    put_integer(writer, value, 2);
}

void
wire_put_u32(struct wire_writer *writer, uint32_t value)
{
    put_integer(writer, value, 4);
}

void
wire_put_u64(struct wire_writer *writer, uint64_t value)
{
    put_integer(writer, value, 8);
}

void
wire_put_bytes(struct wire_writer *writer, const void *src, size_t size)
{
    uint8_t *bytes = room(writer, size);

    if (bytes != NULL && size > 0)
        memcpy(bytes, src, size);
}

void
wire_put_string(struct wire_writer *writer, unsigned prefix, const void *src, size_t size)
{
    if (prefix < 4 && size >> (8 * prefix) != 0)
        writer->failed = true;
    put_integer(writer, size, prefix);
    wire_put_bytes(writer, src, size);
}

void
wire_put_text(struct wire_writer *writer, const char *text)
{
    wire_put_string(writer, 1, text, text != NULL ? strlen(text) : 0);
}

void
wire_put_long_text(struct wire_writer *writer, const char *text)
{
    wire_put_string(writer, 2, text, strlen(text));
}

size_t
wire_size(const struct wire_writer *writer)
{
    return writer->failed ? 0 : (size_t)(writer->next - writer->start);
}
