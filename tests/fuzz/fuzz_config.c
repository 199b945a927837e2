/* fuzz_config.c: the configuration file's text. Whatever it is: a configuration, or one line that
 * says what is wrong. "~" in it is a directory with files and certificates' directories in it. */
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/config.h"

static char fuzz_config_top[64];

/* What is there, files behind their directories. */
static const char *const fuzz_config_tree[] = {"a.pem",
                                               "a.key",
                                               "live/",
                                               "live/one/",
                                               "live/one/fullchain.pem",
                                               "live/one/privkey.pem",
                                               "k8s/",
                                               "k8s/two/",
                                               "k8s/two/tls.crt",
                                               "k8s/two/tls.key",
                                               "empty/"};
#define FUZZ_CONFIG_TREE (sizeof(fuzz_config_tree) / sizeof(fuzz_config_tree[0]))

static void
fuzz_config_path(size_t i, char *path, size_t size)
{
    snprintf(path, size, "%s/%s", fuzz_config_top, fuzz_config_tree[i]);
}

static void
fuzz_config_remove(void)
{
    char path[160];

    for (size_t i = FUZZ_CONFIG_TREE; i-- > 0;) {
        fuzz_config_path(i, path, sizeof(path));
        remove(path);
    }
    remove(fuzz_config_top);
}

static void
fuzz_config_start(void)
{
    char path[160];
    int fd;

    if (fuzz_config_top[0] != '\0')
        return;
    snprintf(fuzz_config_top, sizeof(fuzz_config_top), "/tmp/tlsagent-fuzz-XXXXXX");
    FUZZ_REQUIRE(mkdtemp(fuzz_config_top) != NULL);
    for (size_t i = 0; i < FUZZ_CONFIG_TREE; i++) {
        fuzz_config_path(i, path, sizeof(path));
        if (path[strlen(path) - 1] == '/') {
            FUZZ_REQUIRE(mkdir(path, 0700) == 0);
        } else {
            fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
            FUZZ_REQUIRE(fd != -1 && write(fd, "x", 1) == 1);
            close(fd);
        }
    }
    atexit(fuzz_config_remove);
}

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
    fuzz_config_start();
    fd = memfd_create("config", MFD_CLOEXEC);
    FUZZ_REQUIRE(fd != -1);
    while (size > 0) {
        const uint8_t *home = memchr(data, '~', size);
        size_t length = home != NULL ? (size_t)(home - data) : size;

        FUZZ_REQUIRE(write(fd, data, length) == (ssize_t)length);
        if (home != NULL) {
            FUZZ_REQUIRE(write(fd, fuzz_config_top, strlen(fuzz_config_top)) > 0);
            length++;
        }
        data += length;
        size -= length;
    }
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    config = config_read(path, false, &error);
    FUZZ_REQUIRE(config != NULL || (error.text[0] != '\0' && strchr(error.text, '\n') == NULL));
    FUZZ_REQUIRE(config == NULL || (config->context_count > 0 && config->cells > 0));
    config_free(config);
    close(fd);
}

FUZZ_TARGET(fuzz_config)
