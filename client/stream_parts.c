/* stream_parts.c: errors and buffers of the data stream; see stream_parts.h. */
#include "client/stream_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/pool.h"

int
stream_report(struct stream *stream, const struct stream_failure *failure, struct error *error)
{
    stream->code = failure->code;
    stream->alert = failure->alert;
    error_clear(error);
    if (failure->number != 0)
        return error_set(error, "%s: %s", failure->text, strerror(failure->number));
    if (failure->code == TLSAGENT_E_ALERT)
        return error_set(error, "%s with alert %d (%s)", failure->text, failure->alert,
                         record_alert_name(failure->alert));
    if (failure->alert != STREAM_NO_ALERT)
        return error_set(error, "%s; answered with alert %d (%s)", failure->text, failure->alert,
                         record_alert_name(failure->alert));
    return error_set(error, "%s", failure->text);
}

int
stream_refuse(struct stream *stream, enum tlsagent_error_code code, const char *text,
              struct error *error)
{
    struct stream_failure failure = {text, 0, STREAM_NO_ALERT, (uint8_t)code};

    return stream_report(stream, &failure, error);
}

void
stream_set_failure(struct stream_failure *failure, enum tlsagent_error_code code, const char *text,
                   int number)
{
    if (failure->text == NULL)
        *failure = (struct stream_failure){text, number, STREAM_NO_ALERT, (uint8_t)code};
}

enum tlsagent_error_code
stream_code_of_errno(int number)
{
    switch (number) {
    case EPIPE:
    case ECONNRESET:
    case ECONNABORTED:
    case ENOTCONN:
    case ESHUTDOWN:
        return TLSAGENT_E_CLOSED;
    case ENOMEM:
    case ENOBUFS:
        return TLSAGENT_E_MEMORY;
    default:
        return TLSAGENT_E_SYSTEM;
    }
}

int
stream_enter(struct stream *stream, struct error *error)
{
    if (stream->record == NULL)
        return stream_refuse(stream, TLSAGENT_E_ARGUMENT, "the connection has no TLS stream",
                             error);
    if (stream->record->id != stream->id)
        return stream_refuse(
            stream, TLSAGENT_E_FORKED,
            "the connection belongs to the parent process: a forked child cannot use it", error);
    return 0;
}

bool
buffer_is_empty(const struct stream_buffer *buffer)
{
    return buffer->start == buffer->end;
}

void
buffer_free(struct stream_buffer *buffer)
{
    if (buffer->data != NULL) {
        if (buffer->capacity == POOL_SCRATCH_SIZE)
            pool_give_scratch(buffer->data);
        else
            free(buffer->data);
    }
    *buffer = (struct stream_buffer){0};
}

bool
buffer_move(struct stream_buffer *buffer, size_t capacity)
{
    size_t size = buffer->end - buffer->start;
    uint8_t *data = capacity == POOL_SCRATCH_SIZE ? pool_take_scratch() : malloc(capacity);

    if (data == NULL)
        return false;
    if (buffer->data != NULL)
        memcpy(data, buffer->data + buffer->start, size);
    buffer_free(buffer);
    *buffer = (struct stream_buffer){data, (uint32_t)capacity, 0, (uint32_t)size};
    return true;
}

bool
buffer_reserve(struct stream_buffer *buffer, size_t size)
{
    size_t waiting = buffer->end - buffer->start;

    if (buffer->data != NULL && buffer->capacity - buffer->end >= size)
        return true;
    if (waiting + size <= POOL_SCRATCH_SIZE && buffer->capacity != POOL_SCRATCH_SIZE)
        return buffer_move(buffer, POOL_SCRATCH_SIZE);
    return buffer_move(buffer, waiting + size);
}

void
buffer_settle(struct stream_buffer *buffer)
{
    size_t size = buffer->end - buffer->start;

    if (size == 0)
        buffer_free(buffer);
    else if (size <= buffer->capacity / 2)
        buffer_move(buffer, size);
}
