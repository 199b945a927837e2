/*
 * fetcher_settings.h: what the fetcher must know about the store: its first message, and the files
 * that come with it.
 *
 * Role: fetcher, before it enters its sandbox. The files are the administrator's: a mistake in one
 * ends the process with a line in the log that names the option.
 */
#ifndef AGENT_FETCHER_SETTINGS_H
#define AGENT_FETCHER_SETTINGS_H

#include <openssl/ssl.h>
#include <stdint.h>

#include "protocol/channel.h"
#include "protocol/control.h"

#define FETCHER_PASSWORD_MAX 512

struct fetcher_settings {
    struct control_store store;
    char password[FETCHER_PASSWORD_MAX + 1]; /* "": none is wanted */
    SSL_CTX *tls;                            /* NULL: the store is spoken to without */
};

/* Wait for the message and read the files. Dies if there is anything wrong. */
void fetcher_settings_receive(struct fetcher_settings *settings,
                              uint8_t buffer[CHANNEL_BUFFER_SIZE]);

#endif
