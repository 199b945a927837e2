/*
 * prefork.h: a parent that opens the listening socket, and workers that do the work without root.
 *
 * Nothing here knows of TLS.
 */
#ifndef EXAMPLES_PREFORK_H
#define EXAMPLES_PREFORK_H

#define PREFORK_WORKERS_MAX 256

/* One line to stderr, with the process id in front; die() then exits with status 1. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* A non-blocking listening socket for "ADDR:PORT" or "[ADDR]:PORT"; dies if there can be none. */
int prefork_listen(const char *text);

/* Run worker(argument) in so many processes, each as user if we are root. Restarts those that end,
 * until SIGTERM or SIGINT: then all are ended, and this returns. */
void prefork_run(unsigned workers, const char *user, void (*worker)(void *), void *argument);

#endif
