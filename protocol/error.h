/*
 * error.h: one line of text that says what went wrong.
 *
 * Every function that can fail for a reason worth telling takes a struct error.
 * The first, most specific message wins; a message says what failed, on which
 * object, and what to do about it.
 */
#ifndef PROTOCOL_ERROR_H
#define PROTOCOL_ERROR_H

#include <stddef.h>

#define ERROR_TEXT_MAX 512

struct error {
    char text[ERROR_TEXT_MAX]; /* "" when there is none; always NUL-terminated */
};

/* Forget the message. */
void error_clear(struct error *error);

/* Set the message if there is none yet. Always returns -1, so that callers can
 * write: return error_set(error, "..."). error may be NULL. */
int error_set(struct error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Copy src to dst (dst_size bytes with the NUL) so that it is safe in a log or on a
 * terminal: bytes outside printable ASCII become '?'. src need not be terminated. */
void error_printable(char *dst, size_t dst_size, const void *src, size_t src_size);

#endif
