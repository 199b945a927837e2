/* callers.c: see callers.h. */
#include "agent/callers.h"

#include <stdlib.h>

#include "agent/log.h"

void
callers_init(struct callers *callers, const struct config *config)
{
    size_t most = CALLERS_PLACES;

    for (size_t i = 0; i < config->context_count; i++)
        most += config->contexts[i].user_count;
    callers->named = 0;
    callers->list = calloc(most, sizeof(*callers->list));
    if (callers->list == NULL)
        log_die("out of memory");
    for (size_t i = 0; i < config->context_count; i++) {
        const struct config_context *context = &config->contexts[i];

        for (size_t j = 0; j < context->user_count; j++) {
            if (!callers_is_named(callers, context->users[j]))
                callers->list[callers->named++] =
                    (struct caller){.uid = context->users[j], .taken = true};
        }
    }
    callers->count = callers->named + CALLERS_PLACES;
}

bool
callers_is_named(const struct callers *callers, uint32_t uid)
{
    for (size_t i = 0; i < callers->named; i++) {
        if (callers->list[i].uid == uid)
            return true;
    }
    return false;
}

struct pace *
callers_pace(struct callers *callers, uint32_t uid)
{
    struct caller *spare = &callers->list[callers->named];

    for (size_t i = 0; i < callers->count; i++) {
        struct caller *caller = &callers->list[i];

        if (caller->taken && caller->uid == uid)
            return &caller->pace;
        if (i >= callers->named && caller->pace.owed < spare->pace.owed)
            spare = caller;
    }
    spare->uid = uid;
    spare->taken = true;
    return &spare->pace;
}
