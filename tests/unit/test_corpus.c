/*
 * test_corpus.c: every input in tests/fuzz/corpus goes through its fuzz target: what the fuzzers
 * (`make fuzz`) have found interesting, and every crash that was found and mended. The agent's.
 */
#include "tests/fuzz/fuzz_config.c"
#include "tests/fuzz/fuzz_control.c"
#include "tests/fuzz/fuzz_credential.c"
#include "tests/fuzz/fuzz_generation.c"
#include "tests/fuzz/fuzz_keyops.c"
#include "tests/fuzz/fuzz_store.c"
#include "tests/fuzz/fuzz_worker.c"

static const struct {
    const char *name;
    void (*run)(const uint8_t *data, size_t size);
} targets[] = {
    {"config", fuzz_config},         {"control", fuzz_control}, {"credential", fuzz_credential},
    {"generation", fuzz_generation}, {"keyops", fuzz_keyops},   {"store", fuzz_store},
    {"worker", fuzz_worker},
};

#include "tests/fuzz/replay.h"
