/*
 * hmac.h: HMAC with SHA-256 and SHA-384 as libssl asks for it: for Finished messages, binders and
 * tickets. libcrypto's own makes and frees three digest contexts and a dozen parameters each time;
 * this is hkdf.h's with nothing around it. Part of keyschedule.c's provider; nobody else needs it.
 */
#ifndef AGENT_HMAC_H
#define AGENT_HMAC_H

#include <openssl/core.h>

extern const OSSL_DISPATCH hmac_functions[];

#endif
