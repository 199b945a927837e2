/*
 * proxycipher.h: the cipher behind proxyticket.h, as our provider (proxykey.c) offers it. Nobody
 * else needs this.
 */
#ifndef AGENT_PROXYCIPHER_H
#define AGENT_PROXYCIPHER_H

#include <openssl/core.h>

#define PROXYCIPHER_NAME "TLSAGENT-TICKET"

/* A parameter: the struct binding of the connection, by address. In-process only. */
#define PROXYCIPHER_BINDING "tlsagent-binding"

extern const OSSL_DISPATCH proxycipher_functions[];

#endif
