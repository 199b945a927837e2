/* fuzz_config.c: the configuration file's text. Whatever it is: a configuration, or one line that
 * says what is wrong. */
#include "tests/fuzz/fuzz.h"

#include <sys/mman.h>
#include <unistd.h>

#include "agent/config.h"

static void
fuzz_config(const uint8_t *data, size_t size)
{
    char path[64];
    struct error error = {""};
    struct config *config;
    int fd;

    /* An include would read the machine's own files. */
    if (size > 8192 || (size >= 7 && memmem(data, size, "include", 7) != NULL))
        return;
    fd = memfd_create("config", MFD_CLOEXEC);
    FUZZ_REQUIRE(fd != -1 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    config = config_read(path, false, &error);
    FUZZ_REQUIRE(config != NULL || (error.text[0] != '\0' && strchr(error.text, '\n') == NULL));
    FUZZ_REQUIRE(config == NULL || (config->context_count > 0 && config->cells > 0));
    config_free(config);
    close(fd);
}

FUZZ_TARGET(fuzz_config)
