/*
 * scan.c: look for needles in the memory of a process, as root. For the memory tests.
 *
 *   scan find NEEDLES PID...        every mapping of each process, whatever its protection
 *   scan plant HEX PID              write HEX into a part of its stack that is not in use
 *   scan unplant SIZE PID           take it away again
 *   scan dump PID                   hex of each memfd_secret mapping, one a line, read by the
 *                                   process itself: nobody else can (see dump_secret())
 *
 * NEEDLES has lines "NAME HEX". A needle counts as found when any aligned piece of PIECE bytes of
 * it is there: half a key is too much as well. "find" prints "hit PID NAME+OFFSET ADDRESS MAPPING"
 * for each, "secret PID SIZE MAPPING" for what not even root can read, and "scanned PID BYTES".
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define PIECE     16
#define CHUNK     ((size_t)1 << 20)
#define HASH_BITS 22
#define HITS_MAX  200 /* shown, of one process */

struct piece {
    uint8_t bytes[PIECE];
    uint32_t needle;
    uint32_t offset;
    uint32_t next; /* in the same bucket; 0: none */
};

static struct {
    char **names;
    uint32_t name_count;
    struct piece *pieces; /* from 1 */
    uint32_t piece_count;
    uint32_t *buckets;
    uint64_t hits, shown;
} scan;

static void __attribute__((noreturn)) fail(const char *what)
{
    fprintf(stderr, "scan: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void *
grow(void *memory, size_t count, size_t size)
{
    if ((count & (count - 1)) != 0)
        return memory;
    memory = realloc(memory, (count > 0 ? 2 * count : 1) * size);
    if (memory == NULL)
        fail("memory");
    return memory;
}

static uint32_t
hash(const uint8_t *bytes)
{
    uint64_t word;

    memcpy(&word, bytes, sizeof(word));
    return (uint32_t)(word * UINT64_C(0x9e3779b97f4a7c15) >> (64 - HASH_BITS));
}

/* Zeros, padding and the like are everywhere. */
static bool
is_telling(const uint8_t *bytes)
{
    unsigned different = 0;

    for (size_t i = 0; i < PIECE; i++)
        different += memchr(bytes, bytes[i], i) == NULL;
    return different >= 8;
}

static void
add_piece(const uint8_t *bytes, uint32_t needle, size_t offset)
{
    struct piece *piece;
    uint32_t bucket = hash(bytes);

    if (!is_telling(bytes))
        return;
    scan.pieces = grow(scan.pieces, scan.piece_count + 1, sizeof(*scan.pieces));
    piece = &scan.pieces[++scan.piece_count];
    memcpy(piece->bytes, bytes, PIECE);
    piece->needle = needle;
    piece->offset = (uint32_t)offset;
    piece->next = scan.buckets[bucket];
    scan.buckets[bucket] = scan.piece_count;
}

static size_t
unhex(const char *text, uint8_t *bytes, size_t room)
{
    size_t size = 0;
    unsigned value;

    while (size < room && sscanf(text + 2 * size, "%2x", &value) == 1 && text[2 * size] > ' ')
        bytes[size++] = (uint8_t)value;
    return size;
}

static void
read_needles(const char *path)
{
    static char line[65536], name[256], hex[65536];
    uint8_t bytes[sizeof(hex) / 2];
    FILE *file = fopen(path, "re");

    if (file == NULL)
        fail(path);
    scan.buckets = calloc((size_t)1 << HASH_BITS, sizeof(*scan.buckets));
    scan.pieces = calloc(1, sizeof(*scan.pieces));
    if (scan.buckets == NULL || scan.pieces == NULL)
        fail("memory");
    while (fgets(line, sizeof(line), file) != NULL) {
        size_t size;

        if (sscanf(line, "%255s %65535s", name, hex) != 2)
            continue;
        size = unhex(hex, bytes, sizeof(bytes));
        scan.names = grow(scan.names, scan.name_count, sizeof(*scan.names));
        scan.names[scan.name_count] = strdup(name);
        for (size_t at = 0; at + PIECE <= size; at += PIECE)
            add_piece(bytes + at, scan.name_count, at);
        scan.name_count++;
    }
    fclose(file);
    printf("needles %u pieces %u\n", scan.name_count, scan.piece_count);
}

static void
look(const uint8_t *bytes, size_t size, uint64_t address, int pid, const char *mapping)
{
    for (size_t at = 0; at + PIECE <= size; at++) {
        for (uint32_t i = scan.buckets[hash(bytes + at)]; i != 0; i = scan.pieces[i].next) {
            const struct piece *piece = &scan.pieces[i];

            if (memcmp(piece->bytes, bytes + at, PIECE) != 0)
                continue;
            scan.hits++;
            if (scan.shown++ < HITS_MAX)
                printf("hit %d %s+%u %llx %s\n", pid, scan.names[piece->needle], piece->offset,
                       (unsigned long long)(address + at), mapping);
        }
    }
}

static int
open_of(int pid, const char *name, int flags)
{
    char path[64];
    int fd;

    snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
    fd = open(path, flags | O_CLOEXEC);
    if (fd == -1)
        fail(path);
    return fd;
}

struct mapping {
    unsigned long start, end;
    char protection[8], name[256];
};

static bool
next_mapping(FILE *maps, struct mapping *mapping)
{
    char line[512];

    if (fgets(line, sizeof(line), maps) == NULL)
        return false;
    mapping->name[0] = '\0';
    sscanf(line, "%lx-%lx %7s %*s %*s %*s %255[^\n]", &mapping->start, &mapping->end,
           mapping->protection, mapping->name);
    if (mapping->name[0] == '\0')
        snprintf(mapping->name, sizeof(mapping->name), "anonymous");
    return true;
}

static void
scan_process(int pid)
{
    static uint8_t bytes[CHUNK + PIECE];
    int memory = open_of(pid, "mem", O_RDONLY);
    FILE *maps = fdopen(open_of(pid, "maps", O_RDONLY), "r");
    struct mapping mapping;
    uint64_t total = 0;

    scan.shown = 0;
    while (next_mapping(maps, &mapping)) {
        size_t unread = 0, carried = 0;

        if (strcmp(mapping.name, "[vsyscall]") == 0 || strncmp(mapping.name, "[vvar", 5) == 0 ||
            strncmp(mapping.protection, "---", 3) == 0)
            continue;
        for (unsigned long at = mapping.start; at < mapping.end;) {
            size_t wanted = mapping.end - at < CHUNK ? mapping.end - at : CHUNK;
            ssize_t got = pread(memory, bytes + carried, wanted, (off_t)at);

            if (got <= 0) { /* a page at a time: memory beyond the end of a file is unreadable */
                unread += 4096;
                at += 4096;
                carried = 0;
                continue;
            }
            look(bytes, carried + (size_t)got, at - carried, pid, mapping.name);
            total += (uint64_t)got;
            at += (size_t)got;
            carried += (size_t)got;
            if (carried >= PIECE) { /* what lies across two chunks */
                memmove(bytes, bytes + carried - (PIECE - 1), PIECE - 1);
                carried = PIECE - 1;
            }
        }
        if (unread > 0)
            printf("secret %d %zu %s\n", pid, unread, mapping.name);
    }
    printf("scanned %d %llu\n", pid, (unsigned long long)total);
    fclose(maps);
    close(memory);
}

static struct mapping
find_mapping(int pid, const char *name, const char *protection)
{
    FILE *maps = fdopen(open_of(pid, "maps", O_RDONLY), "r");
    struct mapping mapping;

    while (next_mapping(maps, &mapping)) {
        if (strstr(mapping.name, name) != NULL &&
            strncmp(mapping.protection, protection, strlen(protection)) == 0) {
            fclose(maps);
            return mapping;
        }
    }
    errno = ENOENT;
    fail(name);
}

/* The far end of the stack: mapped, and not in use. */
static void
plant(int pid, const uint8_t *bytes, size_t size)
{
    struct mapping stack = find_mapping(pid, "[stack]", "rw");
    int memory = open_of(pid, "mem", O_RDWR);

    if (pwrite(memory, bytes, size, (off_t)stack.start + 64) != (ssize_t)size)
        fail("write");
    close(memory);
}

/* memfd_secret can be read by none but who has it mapped. So let it: put a piece of code in its
 * way that copies the bytes to its own stack, 4 KiB at a time, and put all back as it was. This
 * is what somebody can do who owns the machine; nothing in the product is there for it. */
static void
dump_secret(int pid)
{
    /* rep movsb; int3 */
    static const uint8_t code[] = {0xf3, 0xa4, 0xcc};
    FILE *maps = fdopen(open_of(pid, "maps", O_RDONLY), "r");
    struct mapping from, stack = find_mapping(pid, "[stack]", "rw");
    struct mapping text = find_mapping(pid, "tlsagentd", "r-x");
    struct user_regs_struct before, now;
    uint8_t saved[sizeof(code)], page[4096];
    int status, memory = open_of(pid, "mem", O_RDWR);

    if (ptrace(PTRACE_ATTACH, pid, 0, 0) == -1 || waitpid(pid, &status, 0) != pid ||
        ptrace(PTRACE_GETREGS, pid, 0, &before) == -1)
        fail("ptrace");
    if (pread(memory, saved, sizeof(saved), (off_t)text.start) != sizeof(saved) ||
        pwrite(memory, code, sizeof(code), (off_t)text.start) != sizeof(code))
        fail("code");
    now = before;
    now.orig_rax = (unsigned long long)-1; /* no system call to be taken up again */
    now.eflags &= ~0x400ULL;
    while (next_mapping(maps, &from)) {
        if (strstr(from.name, "secretmem") == NULL)
            continue;
        for (unsigned long at = from.start; at < from.end; at += sizeof(page)) {
            now.rip = text.start;
            now.rsi = at;
            now.rdi = stack.start;
            now.rcx = sizeof(page);
            if (ptrace(PTRACE_SETREGS, pid, 0, &now) == -1 ||
                ptrace(PTRACE_CONT, pid, 0, 0) == -1 || waitpid(pid, &status, 0) != pid ||
                !WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP)
                fail("the copy");
            if (pread(memory, page, sizeof(page), (off_t)stack.start) != sizeof(page))
                fail("read");
            for (size_t i = 0; i < sizeof(page); i++)
                printf("%02x", page[i]);
        }
        printf("\n");
    }
    fclose(maps);
    memset(page, 0, sizeof(page));
    if (pwrite(memory, page, sizeof(page), (off_t)stack.start) != sizeof(page) ||
        pwrite(memory, saved, sizeof(saved), (off_t)text.start) != sizeof(saved) ||
        ptrace(PTRACE_SETREGS, pid, 0, &before) == -1 || ptrace(PTRACE_DETACH, pid, 0, 0) == -1)
        fail("restore");
    close(memory);
}

int
main(int argc, char **argv)
{
    uint8_t bytes[4096] = {0};
    size_t size;

    if (argc == 3 && strcmp(argv[1], "dump") == 0) {
        dump_secret(atoi(argv[2]));
        return 0;
    }
    if (argc < 4) {
        fputs("usage: scan find NEEDLES PID... | plant HEX PID | unplant SIZE PID | dump PID\n",
              stderr);
        return 2;
    }
    if (strcmp(argv[1], "plant") == 0) {
        size = unhex(argv[2], bytes, sizeof(bytes));
        plant(atoi(argv[3]), bytes, size);
        return 0;
    }
    if (strcmp(argv[1], "unplant") == 0) {
        size = strtoul(argv[2], NULL, 10);
        plant(atoi(argv[3]), bytes, size < sizeof(bytes) ? size : sizeof(bytes));
        return 0;
    }
    read_needles(argv[2]);
    for (int i = 3; i < argc; i++)
        scan_process(atoi(argv[i]));
    printf("hits %llu\n", (unsigned long long)scan.hits);
    return scan.hits > 0;
}
