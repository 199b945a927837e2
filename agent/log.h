/*
 * log.h: one line per event, written by each role to the log fd that it inherited (fd 2).
 *
 * Lines never hold secrets; bytes from workers and peers go through error_printable() first.
 * A log that nobody reads must not stop a role: a line that would block is dropped and counted,
 * and the count is told with the next line that fits.
 */
#ifndef AGENT_LOG_H
#define AGENT_LOG_H

#include <stdarg.h>

enum log_level {
    LOG_LEVEL_ERROR,
    LOG_LEVEL_WARNING,
    LOG_LEVEL_INFO,
    LOG_LEVEL_DEBUG,
};

/* role: a static string, e.g. "handshaker 0.1"; syslog: prefix lines with <priority>. */
void log_init(const char *role, enum log_level level, int syslog_format);

void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_warning(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_debug(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* What log_die() does before it ends the process: what others must not lose. */
void log_at_death(void (*act)(void));

/* The world failed (a missing file, a limit): say so and exit with status 1. */
void log_die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* We failed (an invariant does not hold): say so and abort. */
void log_bug(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
