/*
 * test_corpus_client.c: every input in tests/fuzz/corpus goes through its fuzz target: what the
 * fuzzers (`make fuzz`) have found interesting, and every crash that was found and mended. The
 * library's.
 */
#include "tests/fuzz/fuzz_library.c"
#include "tests/fuzz/fuzz_record.c"
#include "tests/fuzz/fuzz_relay.c"
#include "tests/fuzz/fuzz_service.c"
#include "tests/fuzz/fuzz_state.c"

static const struct {
    const char *name;
    void (*run)(const uint8_t *data, size_t size);
} targets[] = {
    {"library", fuzz_library}, {"record", fuzz_record}, {"relay", fuzz_relay},
    {"service", fuzz_service}, {"state", fuzz_state},
};

#include "tests/fuzz/replay.h"
