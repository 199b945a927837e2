/* role_control.c: see role_control.h. */
#include "agent/role_control.h"

#include "agent/log.h"
#include "agent/roles.h"

enum channel_result
role_control_receive(const struct channel_rule *rules, size_t count, uint8_t *buffer,
                     struct channel_message *message)
{
    struct error error = {""};
    enum channel_result result = channel_receive(ROLE_FD_CONTROL, rules, count, buffer,
                                                 CHANNEL_BUFFER_SIZE, message, &error);

    if (result == CHANNEL_REFUSED || result == CHANNEL_FAILED)
        log_die("control channel: %s", error.text);
    return result;
}

void
role_control_send(uint16_t type, const uint8_t *body, size_t size)
{
    if (channel_send_wait(ROLE_FD_CONTROL, type, body, size, NULL, 0, ROLE_CONTROL_MS) !=
        CHANNEL_OK)
        log_die("the supervisor does not listen");
}
