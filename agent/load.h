/*
 * load.h: run the loader for one cell group and take the generation that it wrote.
 *
 * Role: supervisor. It opens the files and passes them on; it reads none of them.
 */
#ifndef AGENT_LOAD_H
#define AGENT_LOAD_H

#include "agent/config.h"
#include "protocol/control.h"
#include "protocol/error.h"

#define LOAD_DEADLINE_S 60

/* A generation of one cell group. Both fds are the holder's; the secret one is never mapped. */
struct load_result {
    uint32_t generation;
    int public_fd; /* sealed */
    int secret_fd;
    struct load_done done;
};

/* Load one cell group's contexts. Blocks until the loader has ended, at most LOAD_DEADLINE_S.
 * Returns 0, or -1 with an error that names file and context; then there is nothing to close. */
int load_group(const struct config *config, unsigned group, uint32_t generation,
               struct load_result *result, struct error *error);

void load_result_clear(struct load_result *result); /* closes both fds */

#endif
