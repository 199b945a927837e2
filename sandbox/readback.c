/* readback.c: see readback.h. */
#include "sandbox/readback.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "sandbox/policy.h"

#define LINE_MAX_SIZE 512

static FILE *
open_fact(pid_t pid, const char *name)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    return fopen(path, "re");
}

static void
copy_word(char *dst, size_t size, const char *src)
{
    snprintf(dst, size, "%.*s", (int)strcspn(src, "\n"), src);
}

static void
read_status_line(struct readback *facts, const char *line)
{
    const struct {
        const char *key;
        uint64_t *value;
        int base;
    } numbers[] = {
        {"CapInh:", &facts->inheritable, 16}, {"CapPrm:", &facts->permitted, 16},
        {"CapEff:", &facts->effective, 16},   {"CapBnd:", &facts->bounding, 16},
        {"CapAmb:", &facts->ambient, 16},     {"NoNewPrivs:", &facts->no_new_privs, 10},
        {"Seccomp:", &facts->seccomp, 10},    {"Seccomp_filters:", &facts->filters, 10},
    };
    const char *value = strchr(line, ':');

    if (value == NULL)
        return;
    value += 1 + strspn(value + 1, " \t");
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        if (strncmp(line, numbers[i].key, strlen(numbers[i].key)) == 0)
            *numbers[i].value = strtoull(value, NULL, numbers[i].base);
    }
    if (strncmp(line, "Uid:", 4) == 0)
        (void)sscanf(value, "%" SCNu32 "%" SCNu32 "%" SCNu32 "%" SCNu32, &facts->uids[0],
                     &facts->uids[1], &facts->uids[2], &facts->uids[3]);
    else if (strncmp(line, "Gid:", 4) == 0)
        (void)sscanf(value, "%" SCNu32 "%" SCNu32 "%" SCNu32 "%" SCNu32, &facts->gids[0],
                     &facts->gids[1], &facts->gids[2], &facts->gids[3]);
    else if (strncmp(line, "Groups:", 7) == 0)
        copy_word(facts->groups, sizeof(facts->groups), value);
    else if (strncmp(line, "Speculation_Store_Bypass:", 25) == 0)
        copy_word(facts->store_bypass, sizeof(facts->store_bypass), value);
    else if (strncmp(line, "SpeculationIndirectBranch:", 26) == 0)
        copy_word(facts->indirect_branch, sizeof(facts->indirect_branch), value);
}

static void
read_limit_line(struct readback *facts, const char *line)
{
    const struct {
        const char *key;
        uint64_t *value;
    } limits[] = {
        {"Max core file size", &facts->core},  {"Max open files", &facts->files},
        {"Max processes", &facts->processes},  {"Max address space", &facts->memory},
        {"Max locked memory", &facts->locked},
    };
    char soft[32], hard[32];

    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        size_t size = strlen(limits[i].key);

        if (strncmp(line, limits[i].key, size) == 0 &&
            sscanf(line + size, "%31s %31s", soft, hard) == 2 && strcmp(hard, "unlimited") != 0)
            *limits[i].value = strtoull(hard, NULL, 10);
    }
}

static int
read_lines(pid_t pid, const char *name, struct readback *facts,
           void (*read_line)(struct readback *facts, const char *line))
{
    char line[LINE_MAX_SIZE];
    FILE *file = open_fact(pid, name);

    if (file == NULL)
        return -1;
    while (fgets(line, sizeof(line), file) != NULL)
        read_line(facts, line);
    fclose(file);
    return 0;
}

static void
read_uid_map(pid_t pid, char *map, size_t size)
{
    char line[LINE_MAX_SIZE] = "";
    unsigned inside = 0, outside = 0, count = 0;
    FILE *file = open_fact(pid, "uid_map");

    if (file != NULL && fgets(line, sizeof(line), file) != NULL &&
        sscanf(line, "%u %u %u", &inside, &outside, &count) == 3)
        snprintf(map, size, "%u %u %u", inside, outside, count);
    if (file != NULL)
        fclose(file);
}

static enum readback_answer
compare_namespaces(pid_t pid, pid_t reference)
{
    static const char *const names[] = {"mnt", "net", "ipc", "uts"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char path[64], ours[64], theirs[64];
        ssize_t size, other;

        snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int)pid, names[i]);
        size = readlink(path, ours, sizeof(ours));
        snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int)reference, names[i]);
        other = readlink(path, theirs, sizeof(theirs));
        if (size <= 0 || other <= 0)
            return READBACK_UNKNOWN;
        if (size == other && memcmp(ours, theirs, (size_t)size) == 0)
            return READBACK_NO;
    }
    return READBACK_YES;
}

static enum readback_answer
look_at_root(pid_t pid)
{
    enum readback_answer answer = READBACK_YES;
    struct statvfs facts;
    struct dirent *entry;
    char path[64];
    DIR *root;

    snprintf(path, sizeof(path), "/proc/%d/root/", (int)pid);
    root = opendir(path);
    if (root == NULL || statvfs(path, &facts) == -1) {
        if (root != NULL)
            closedir(root);
        return READBACK_UNKNOWN;
    }
    while ((entry = readdir(root)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            answer = READBACK_NO;
    }
    closedir(root);
    return (facts.f_flag & ST_RDONLY) != 0 ? answer : READBACK_NO;
}

static enum readback_answer
look_for_secret_memory(pid_t pid)
{
    enum readback_answer answer = READBACK_UNKNOWN;
    char line[LINE_MAX_SIZE];
    FILE *file = open_fact(pid, "maps");

    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        if (answer == READBACK_UNKNOWN)
            answer = READBACK_NO;
        if (strstr(line, "/secretmem") != NULL)
            answer = READBACK_YES;
    }
    if (file != NULL)
        fclose(file);
    return answer;
}

/* The files (not the directory) in /proc of a process that is not dumpable belong to root. */
static enum readback_answer
look_at_owner(pid_t pid, const struct readback *facts)
{
    struct stat entry;
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    if (facts->uids[1] == 0 || stat(path, &entry) == -1)
        return READBACK_UNKNOWN;
    return entry.st_uid == facts->uids[1] ? READBACK_YES : READBACK_NO;
}

int
readback_read(pid_t pid, pid_t reference, struct readback *facts, struct error *error)
{
    char outside[64] = "";

    memset(facts, 0, sizeof(*facts));
    facts->core = facts->files = facts->processes = facts->memory = facts->locked = UINT64_MAX;
    facts->filters = UINT64_MAX;
    if (read_lines(pid, "status", facts, read_status_line) == -1 ||
        read_lines(pid, "limits", facts, read_limit_line) == -1)
        return error_set(error, "/proc/%d: %s", (int)pid, strerror(errno));
    read_uid_map(pid, facts->uid_map, sizeof(facts->uid_map));
    read_uid_map(reference, outside, sizeof(outside));
    facts->user_namespace = strcmp(facts->uid_map, outside) != 0;
    facts->namespaces = compare_namespaces(pid, reference);
    facts->empty_root = look_at_root(pid);
    facts->memfd_secret = look_for_secret_memory(pid);
    facts->dumpable = look_at_owner(pid, facts);
    return 0;
}

unsigned
readback_layers(const struct readback *facts, unsigned said)
{
    unsigned layers = said;

    if (facts->namespaces != READBACK_UNKNOWN && facts->empty_root != READBACK_UNKNOWN)
        layers = facts->namespaces == READBACK_YES && facts->empty_root == READBACK_YES
                     ? layers | SANDBOX_NAMESPACES
                     : layers & ~(unsigned)SANDBOX_NAMESPACES;
    if (facts->memfd_secret != READBACK_UNKNOWN)
        layers = facts->memfd_secret == READBACK_YES ? layers | SANDBOX_MEMFD_SECRET
                                                     : layers & ~(unsigned)SANDBOX_MEMFD_SECRET;
    return layers;
}

struct teller {
    void (*tell)(const char *text, void *data);
    void *data;
    unsigned count;
};

static void __attribute__((format(printf, 3, 4)))
expect(struct teller *teller, bool good, const char *format, ...)
{
    char text[200];
    va_list args;

    if (good)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    teller->count++;
    teller->tell(text, teller->data);
}

static bool
within(uint64_t value, uint64_t limit)
{
    return limit >= POLICY_UNLIMITED || value <= limit;
}

static void
compare_ids(struct teller *teller, const struct policy_row *row, const struct readback *facts,
            bool root)
{
    uint64_t held = facts->inheritable | facts->permitted | facts->effective | facts->ambient;

    if (row->drops_root) {
        expect(teller, facts->uids[0] != 0 && facts->gids[0] != 0, "it is still root");
        expect(teller, !root || facts->groups[0] == '\0', "it is still in groups %s",
               facts->groups);
    }
    for (size_t i = 1; i < 4; i++)
        expect(teller, facts->uids[i] == facts->uids[0] && facts->gids[i] == facts->gids[0],
               "its uids or gids are not all the same");
    expect(teller, (held & ~row->capabilities) == 0, "it has capabilities %" PRIx64,
           held & ~row->capabilities);
    expect(teller, !root || (facts->bounding & ~row->capabilities) == 0,
           "its capability bounding set has %" PRIx64, facts->bounding & ~row->capabilities);
}

unsigned
readback_compare(enum sandbox_role role, const struct readback *facts, unsigned said,
                 unsigned required, bool root, void (*tell)(const char *text, void *data),
                 void *data)
{
    const struct policy_row *row = policy_find(role);
    struct teller teller = {tell, data, 0};
    unsigned layers = readback_layers(facts, said), wanted = sandbox_wanted(role);

    if (row == NULL) {
        expect(&teller, false, "there is no policy for this role");
        return teller.count;
    }
    compare_ids(&teller, row, facts, root);
    expect(&teller, facts->no_new_privs == 1, "it may gain privileges by exec");
    expect(&teller, facts->seccomp == 2, "it has no filter of system calls");
    expect(&teller, role == SANDBOX_SUPERVISOR || role == SANDBOX_RELAY || facts->filters > 1,
           "it has only the supervisor's filter of system calls");
    expect(&teller, facts->dumpable != READBACK_YES, "it is dumpable");
    expect(&teller, facts->core == 0, "it may leave a core of %" PRIu64 " bytes", facts->core);
    expect(&teller, within(facts->files, row->files), "it may open %" PRIu64 " files",
           facts->files);
    expect(&teller, within(facts->processes, row->children), "it may start %" PRIu64 " processes",
           facts->processes);
    expect(&teller, within(facts->memory, row->memory), "it may have %" PRIu64 " bytes of memory",
           facts->memory);
    for (size_t i = 0; sandbox_layer_name(i) != NULL; i++) {
        unsigned layer = 1U << i;

        expect(&teller, (layers & layer) != 0 || (said & layer) == 0,
               "it says that %s is in force, and the kernel says it is not", sandbox_layer_name(i));
        expect(&teller, (layers & layer) != 0 || (required & wanted & layer) == 0,
               "%s is required and not in force", sandbox_layer_name(i));
    }
    return teller.count;
}
