/*
 * log.c: see log.h.
 *
 * Role: every one. One write(2) per line on fd 2, built on the stack: no allocation, no stdio, no
 * file that the sandbox would have to let through (gmtime_r() reads the time zone file the first
 * time, so the date is computed here). Control bytes become '?', whatever the caller passed.
 */
#include "agent/log.h"

#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_SIZE   1024 /* with its newline; far below PIPE_BUF, so a line is never torn */
#define FACILITY_DAEMON (3 << 3)

static const struct {
    const char *word;
    int severity; /* of syslog, RFC 5424 section 6.2.1 */
} levels[] = {
    [LOG_LEVEL_ERROR] = {"error", 3},
    [LOG_LEVEL_WARNING] = {"warning", 4},
    [LOG_LEVEL_INFO] = {"info", 6},
    [LOG_LEVEL_DEBUG] = {"debug", 7},
};

static struct {
    const char *role;
    enum log_level level;
    int syslog_format;
    unsigned long lost; /* lines since the last one that fitted */
} state = {.role = "start", .level = LOG_LEVEL_INFO};

void
log_init(const char *role, enum log_level level, int syslog_format)
{
    state.role = role;
    state.level = level;
    state.syslog_format = syslog_format;
}

/* Seconds since 1970 as "2026-01-31T12:00:00Z" (proleptic Gregorian calendar; years start in March
 * so that the leap day is the last of one). */
static void
format_time(int64_t now, char *text, size_t size)
{
    int64_t days = now / 86400;
    int64_t second = now % 86400;
    int64_t era, day, year, month;

    if (second < 0) {
        second += 86400;
        days--;
    }
    days += 719468; /* from 0000-03-01 to 1970-01-01 */
    era = (days >= 0 ? days : days - 146096) / 146097;
    day = days - era * 146097;
    year = (day - day / 1460 + day / 36524 - day / 146096) / 365;
    day -= 365 * year + year / 4 - year / 100;
    month = (5 * day + 2) / 153;
    day -= (153 * month + 2) / 5;
    year += era * 400 + (month >= 10);
    month += month < 10 ? 3 : -9;
    snprintf(text, size, "%04d-%02d-%02dT%02d:%02d:%02dZ", (int)year, (int)month, (int)day + 1,
             (int)(second / 3600), (int)(second / 60 % 60), (int)(second % 60));
}

/* Append to the line, which keeps room for its newline. Returns the new length. */
static size_t
append(char *line, size_t length, const char *format, va_list args)
{
    int added = vsnprintf(line + length, LINE_MAX_SIZE - length, format, args);

    if (added < 0)
        return length;
    return length + (size_t)added < LINE_MAX_SIZE - 1 ? length + (size_t)added : LINE_MAX_SIZE - 1;
}

static size_t __attribute__((format(printf, 3, 4)))
append_text(char *line, size_t length, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    length = append(line, length, format, args);
    va_end(args);
    return length;
}

/* True if the line was taken whole. A log that is full or that nobody reads must not stop us, and
 * writing to a pipe without a reader would raise SIGPIPE. */
static int
write_line(const char *line, size_t size)
{
    struct pollfd entry = {.fd = STDERR_FILENO, .events = POLLOUT};

    if (poll(&entry, 1, 0) != 1 || (entry.revents & POLLOUT) == 0 ||
        (entry.revents & (POLLERR | POLLNVAL)) != 0)
        return 0;
    return write(STDERR_FILENO, line, size) == (ssize_t)size;
}

static int
emit(enum log_level level, const char *prefix, const char *format, va_list args)
{
    char line[LINE_MAX_SIZE];
    size_t length = 0;

    if (state.syslog_format) {
        length = append_text(line, 0, "<%d>", FACILITY_DAEMON | levels[level].severity);
    } else {
        char when[32];

        format_time(time(NULL), when, sizeof(when));
        length = append_text(line, 0, "%s ", when);
    }
    length = append_text(line, length, "tlsagentd[%ld]: %s: %s: %s", (long)getpid(), state.role,
                         levels[level].word, prefix);
    length = append(line, length, format, args);
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';
    line[length++] = '\n';
    return write_line(line, length);
}

static int __attribute__((format(printf, 2, 3)))
emit_text(enum log_level level, const char *format, ...)
{
    va_list args;
    int written;

    va_start(args, format);
    written = emit(level, "", format, args);
    va_end(args);
    return written;
}

static void
log_line(enum log_level level, const char *prefix, const char *format, va_list args)
{
    if (level > state.level)
        return;
    if (state.lost > 0) {
        if (!emit_text(LOG_LEVEL_WARNING, "%lu lines were lost here: the log could not take them",
                       state.lost)) {
            state.lost++;
            return;
        }
        state.lost = 0;
    }
    if (!emit(level, prefix, format, args))
        state.lost++;
}

void
log_error(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    log_line(LOG_LEVEL_ERROR, "", format, args);
    va_end(args);
}

void
log_warning(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    log_line(LOG_LEVEL_WARNING, "", format, args);
    va_end(args);
}

void
log_info(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    log_line(LOG_LEVEL_INFO, "", format, args);
    va_end(args);
}

void
log_debug(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    log_line(LOG_LEVEL_DEBUG, "", format, args);
    va_end(args);
}

static void (*last_act)(void);

void
log_at_death(void (*act)(void))
{
    last_act = act;
}

/* _exit: exit handlers of libraries need system calls that the sandbox does not give. */
void
log_die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    log_line(LOG_LEVEL_ERROR, "", format, args);
    va_end(args);
    if (last_act != NULL) {
        void (*act)(void) = last_act;

        last_act = NULL; /* it may die too */
        act();
    }
    _exit(1);
}

void
log_bug(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    log_line(LOG_LEVEL_ERROR, "bug, please report: ", format, args);
    va_end(args);
    abort();
}
