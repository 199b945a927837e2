/*
 * wire.h: the cursor codec for every message of every channel.
 *
 * Integers are big-endian, as on the network. A byte string is preceded by its length
 * (one, two or four bytes). There is no nesting beyond a counted list and no recursion.
 *
 * Errors stick: after the first read past the end (or write past the room) every further
 * call does nothing and returns zeros, so a decoder is a straight list of reads with one
 * check at its end. wire_done() is that check and demands that nothing is left over:
 * trailing bytes are an error.
 *
 * Trust: the bytes are hostile. The codec only promises never to read or write outside
 * its buffer; what the values mean is checked by the caller.
 */
#ifndef PROTOCOL_WIRE_H
#define PROTOCOL_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct wire_reader {
    const uint8_t *next; /* does not own */
    const uint8_t *end;
    bool failed;
};

struct wire_writer {
    uint8_t *start; /* does not own */
    uint8_t *next;
    uint8_t *end;
    bool failed;
};

void wire_reader_init(struct wire_reader *reader, const void *data, size_t size);
uint8_t wire_get_u8(struct wire_reader *reader);
uint16_t wire_get_u16(struct wire_reader *reader);
uint32_t wire_get_u32(struct wire_reader *reader);
uint64_t wire_get_u64(struct wire_reader *reader);

/* Copy exactly size bytes. On error dst is zeroed. */
void wire_get_bytes(struct wire_reader *reader, void *dst, size_t size);

/* A byte string with a length prefix of prefix bytes (1, 2 or 4), at most max bytes long.
 * Returns a pointer into the message (valid as long as it is) and sets *size; on error
 * returns NULL and sets *size to 0. An empty string is a non-NULL pointer with size 0. */
const uint8_t *wire_get_string(struct wire_reader *reader, unsigned prefix, size_t max,
                               size_t *size);

/* A text: a byte string with a one-byte length prefix, without NUL bytes, that fits into
 * dst (dst_size bytes) with its terminator. On error dst is "". */
void wire_get_text(struct wire_reader *reader, char *dst, size_t dst_size);

/* The same with a two-byte length prefix, for paths and messages to people. */
void wire_get_long_text(struct wire_reader *reader, char *dst, size_t dst_size);

/* True if no read failed and every byte was consumed. */
bool wire_done(const struct wire_reader *reader);

void wire_writer_init(struct wire_writer *writer, void *buffer, size_t size);
void wire_put_u8(struct wire_writer *writer, uint8_t value);
void wire_put_u16(struct wire_writer *writer, uint16_t value);
void wire_put_u32(struct wire_writer *writer, uint32_t value);
void wire_put_u64(struct wire_writer *writer, uint64_t value);
void wire_put_bytes(struct wire_writer *writer, const void *src, size_t size);
void wire_put_string(struct wire_writer *writer, unsigned prefix, const void *src, size_t size);
void wire_put_text(struct wire_writer *writer, const char *text); /* NULL counts as "" */
void wire_put_long_text(struct wire_writer *writer, const char *text);

/* Bytes written, or 0 if anything did not fit. */
size_t wire_size(const struct wire_writer *writer);

#endif
