/*
 * role_control.h: a role's channel to the supervisor, ROLE_FD_CONTROL.
 *
 * Role: handshaker and fetcher, which serve others beside it. The supervisor is trusted: what it
 * sends against the rules is a bug; when it stops us, or is gone, it has closed the channel.
 */
#ifndef AGENT_ROLE_CONTROL_H
#define AGENT_ROLE_CONTROL_H

#include <stddef.h>
#include <stdint.h>

#include "protocol/channel.h"

#define ROLE_CONTROL_MS 10000 /* for the supervisor's first words, and to take ours */

/* The next message, in a buffer of CHANNEL_BUFFER_SIZE: CHANNEL_OK; CHANNEL_AGAIN: there is none
 * now; CHANNEL_CLOSED: our end has come. */
enum channel_result role_control_receive(const struct channel_rule *rules, size_t count,
                                         uint8_t *buffer, struct channel_message *message);

void role_control_send(uint16_t type, const uint8_t *body, size_t size);

#endif
