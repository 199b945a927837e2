/*
 * exposure.h: who else can read a file with a secret.
 *
 * Role: supervisor, when it opens key files and the like. What the agent does for a key is worth
 * nothing if its workers can read the file, or everybody can. That is told in the log and by
 * `tlsagentd -t`, not refused: who runs all as one user has no other way.
 *
 * Permissions are taken as the mode bits of the file and of the directories above it tell them.
 */
#ifndef AGENT_EXPOSURE_H
#define AGENT_EXPOSURE_H

#include "agent/config.h"

#define EXPOSURE_TOLD 10 /* warnings; more are the same mistake again */

/* Warn if everybody, or a worker of any context, can read the file. what: its key in the
 * configuration. */
void exposure_tell(const struct config *config, const char *path, const char *what);

#endif
