/*
 * random.h: random numbers for libcrypto, straight from the kernel.
 *
 * OpenSSL's own generator encrypts a counter twice for each request, behind locks, and asks
 * getpid() whether it has been forked; a handshake makes half a dozen small requests. Ours hands
 * out what one getrandom() brought, a few handshakes' worth, and forgets each byte as it is given.
 * No process that uses it forks.
 *
 * Role: handshaker and keeper. What has been fetched and not given out yet is in libcrypto's memory
 * (secret.h, wipe.h), as the state of OpenSSL's generator would be, which gives away more: all
 * numbers up to its next seed.
 */
#ifndef AGENT_RANDOM_H
#define AGENT_RANDOM_H

#include "protocol/error.h"

/* Make it the generator of the default context; before the first use of random numbers. Idempotent.
 * Returns 0, or -1 with an error: also if libcrypto would take its own all the same. */
int random_load(struct error *error);

#endif
