/*
 * selftest.h: real handshakes inside the finished sandbox, before the first user's.
 *
 * Role: handshaker. An update of libcrypto that needs one more system call, or an algorithm that
 * it no longer has, is found here, at start: the cell does not become ready. Every cipher suite,
 * group and signature scheme that the contexts use is used once, with one key of each type, in
 * every version, the keeper really signing and sealing tickets; and a ticket is resumed.
 */
#ifndef AGENT_SELFTEST_H
#define AGENT_SELFTEST_H

#include "agent/cell.h"
#include "agent/generation.h"

/* The two ends of a connection to ourselves; before the sandbox is entered. Dies if there are no
 * sockets. */
void selftest_prepare(void);

/* Run. Returns the number of handshakes, or -1 with an error that names the context, the version,
 * the algorithms and the reason. The contexts' counters are as before. */
int selftest_run(struct cell *cell, const struct generation_public *part, struct error *error);

#endif
