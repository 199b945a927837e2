/* error.c: see error.h. */
#include "protocol/error.h"

#include <stdarg.h>
#include <stdio.h>

void
error_clear(struct error *error)
{
    if (error != NULL)
        error->text[0] = '\0';
}

int
error_set(struct error *error, const char *format, ...)
{
    va_list args;

    if (error == NULL || error->text[0] != '\0')
        return -1;
    va_start(args, format);
    vsnprintf(error->text, sizeof(error->text), format, args);
    va_end(args);
    return -1;
}

void
error_printable(char *dst, size_t dst_size, const void *src, size_t src_size)
{
    const unsigned char *bytes = src;
    size_t i;

    if (dst_size == 0)
        return;
    for (i = 0; i < src_size && i + 1 < dst_size; i++)
        dst[i] = bytes[i] >= 0x20 && bytes[i] < 0x7f ? (char)bytes[i] : '?';
    dst[i] = '\0';
}
