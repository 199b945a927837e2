/*
 * test_corpus_kernel.c: every input in tests/fuzz/corpus goes through its fuzz target: those that
 * need a kernel that the input plays (tests/fuzz/played_kernel.h).
 */
#include "tests/fuzz/fuzz_kernel.c"
#include "tests/fuzz/fuzz_move.c"

static const struct {
    const char *name;
    void (*run)(const uint8_t *data, size_t size);
} targets[] = {
    {"kernel", fuzz_kernel},
    {"move", fuzz_move},
};

#include "tests/fuzz/replay.h"
