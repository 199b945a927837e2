/*
 * load.h: run the loader for one cell group and take the generation that it wrote.
 *
 * Role: supervisor. It opens the files and passes them on; it reads none of them.
 */
#ifndef AGENT_LOAD_H
#define AGENT_LOAD_H

#include "agent/config.h"
#include "protocol/load.h"
#include "protocol/error.h"

#define LOAD_DEADLINE_S 60

/* A generation of one cell group. Both fds are the holder's; the secret one is never mapped. */
struct load_result {
    uint32_t generation;
    int public_fd; /* sealed */
    int secret_fd;
    struct load_done done;
    int tickets_fd; /* the page of ticket keys (ticket_state.h), load_tickets(); -1: none yet */
};

/* Load one cell group's contexts. Blocks until the loader has ended, at most LOAD_DEADLINE_S.
 * Returns 0, or -1 with an error that names file and context; then there is nothing to close. */
int load_group(const struct config *config, unsigned group, uint32_t generation,
               struct load_result *result, struct error *error);

/* Have a cell group's page of ticket keys made, going on from old_fd (-1: from nothing). Returns
 * its fd, which is the caller's, or -1 with an error. old_fd stays the caller's. */
int load_tickets(const struct config *config, unsigned group, int old_fd, struct error *error);

/* What a cell group is called: where others than this configuration must know it again. */
const char *load_group_name(const struct config *config, unsigned group);

void load_result_clear(struct load_result *result); /* closes its fds */

#endif
