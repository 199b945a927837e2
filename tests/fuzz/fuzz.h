/*
 * fuzz.h: what the fuzz targets share. A target is a file fuzz_NAME.c with one function
 * fuzz_NAME(data, size); its corpus is corpus/NAME/. Built by clang it is a libFuzzer program
 * (`make fuzz`); included by tests/unit/test_corpus.c it is replayed in `make check`.
 */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What must be true of our answer, whatever came in. */
#define FUZZ_REQUIRE(condition)                                                                    \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#ifdef FUZZING
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
#define FUZZ_TARGET(function)                                                                      \
    int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)                                   \
    {                                                                                              \
        function(data, size);                                                                      \
        return 0;                                                                                  \
    }
#else
#define FUZZ_TARGET(function)
#endif

/* Decoders take a body that ends where memory ends: a copy of exact size shows a read beyond it. */
static inline uint8_t *
fuzz_copy(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);

    FUZZ_REQUIRE(copy != NULL);
    if (size > 0)
        memcpy(copy, data, size);
    return copy;
}

/* The next descriptor to be opened: the same as before if nothing was left open. */
static inline int
fuzz_lowest_fd(void)
{
    int fd = dup(STDERR_FILENO);

    close(fd);
    return fd;
}

#endif
