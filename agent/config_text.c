/*
 * config_text.c: libconfuse, wrapped. See config_parts.h.
 *
 * libconfuse 3.3 is used for the syntax only. What it does in silence is checked here before
 * it sees the text, since a dropped character in a security policy must not go unnoticed: it skips
 * characters that it does not know (a bare "*"), expands unset variables to nothing, counts lines
 * wrongly after C comments, takes the last of two assignments, replaces a block by a later one
 * with the same title, and after an error in an included file it leaves that file open.
 */
#include "agent/config_parts.h"

#include <errno.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX    (4L << 20) /* bytes of one file */
#define DEPTH_MAX   8          /* blocks inside blocks */
#define INCLUDE_MAX 8          /* files inside files */

/* libconfuse's callbacks carry no pointer of ours, and its lexer is one per process anyway. */
static struct {
    struct error *error;
    const char *file;  /* the first one: its directory is where relative paths start */
    unsigned includes; /* files open inside it */
    void *assigned;    /* tsearch() tree of the options that have got a value */
} parse;

cfg_opt_t config_text_nothing[] = {CFG_END()};

int
config_fail(struct error *error, const char *file, unsigned line, const char *key,
            const char *format, ...)
{
    char reason[ERROR_TEXT_MAX];
    va_list args;

    va_start(args, format);
    vsnprintf(reason, sizeof(reason), format, args);
    va_end(args);
    for (char *p = reason; *p != '\0'; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    }
    if (key == NULL)
        return error_set(error, "%s:%u: %s", file, line, reason);
    return error_set(error, "%s:%u: %s: %s", file, line, key, reason);
}

/* ---- the check before libconfuse ---- */

struct scan {
    const char *file;
    char *next;
    unsigned line;
    unsigned depth;
    unsigned opened[DEPTH_MAX]; /* lines of the braces that are open */
    struct error *error;
};

#define SCAN_FAIL(scan, at, ...) config_fail((scan)->error, (scan)->file, at, NULL, __VA_ARGS__)

/* Blank a comment up to its end. */
static int
scan_comment(struct scan *scan)
{
    char *end;

    if (scan->next[0] == '#' || scan->next[1] == '/') {
        while (*scan->next != '\0' && *scan->next != '\n')
            *scan->next++ = ' ';
        return 0;
    }
    end = strstr(scan->next + 2, "*/");
    if (end == NULL)
        return SCAN_FAIL(scan, scan->line, "this comment is not closed; add */");
    while (scan->next < end + 2) {
        if (*scan->next == '\n')
            scan->line++;
        else
            *scan->next = ' ';
        scan->next++;
    }
    return 0;
}

/* next is at "${": the variable must be set or have a default ("${NAME:-default}"). */
static int
scan_variable(struct scan *scan)
{
    char name[128];
    size_t length = strcspn(scan->next + 2, "}:\n");
    char stop = scan->next[2 + length];
    size_t rest = strcspn(scan->next, "}\n");

    if (scan->next[rest] != '}' || length == 0 || length >= sizeof(name))
        return SCAN_FAIL(scan, scan->line,
                         "\"${\" without a variable's name and \"}\"; write "
                         "${NAME} or ${NAME:-default}, or \\$ in quotes");
    memcpy(name, scan->next + 2, length);
    name[length] = '\0';
    if (stop == '}' && getenv(name) == NULL)
        return SCAN_FAIL(scan, scan->line,
                         "the environment variable %s is not set; set it, or write ${%s:-default}",
                         name, name);
    scan->next += rest + 1;
    return 0;
}

static int
scan_string(struct scan *scan)
{
    char quote = *scan->next++;

    while (*scan->next != quote) {
        if (*scan->next == '\\' && scan->next[1] != '\0' && scan->next[1] != '\n')
            scan->next++;
        else if (*scan->next == '\0' || *scan->next == '\n')
            return SCAN_FAIL(scan, scan->line, "this string is not closed; add %c", quote);
        else if (quote == '"' && scan->next[0] == '$' && scan->next[1] == '{') {
            if (scan_variable(scan) == -1)
                return -1;
            continue;
        }
        scan->next++;
    }
    scan->next++;
    return 0;
}

static int
scan_brace(struct scan *scan)
{
    if (*scan->next++ == '{') {
        if (scan->depth == DEPTH_MAX)
            return SCAN_FAIL(scan, scan->line, "too many blocks inside each other");
        scan->opened[scan->depth++] = scan->line;
    } else if (scan->depth-- == 0)
        return SCAN_FAIL(scan, scan->line, "this } closes nothing; remove it");
    return 0;
}

/* A bare word, or punctuation that libconfuse knows. */
static int
scan_word(struct scan *scan)
{
    char c;

    for (;; scan->next++) {
        c = *scan->next;
        if (c == '*' || (c == '+' && scan->next[1] != '='))
            return SCAN_FAIL(scan, scan->line, "a bare '%c'; put the value in quotes", c);
        if ((unsigned char)c < 0x20 && strchr("\t\n\r", c) == NULL)
            return SCAN_FAIL(scan, scan->line, "a control character; is this a text file?");
        if (strchr(" \t\r\n{}()=,+#\"'", c) != NULL)
            break;
    }
    return 0;
}

/* Check the text and blank the comments in it. */
static int
scan_text(struct scan *scan)
{
    while (*scan->next != '\0') {
        char c = *scan->next;
        int result = 0;

        if (c == '#' || (c == '/' && (scan->next[1] == '/' || scan->next[1] == '*')))
            result = scan_comment(scan);
        else if (c == '"' || c == '\'')
            result = scan_string(scan);
        else if (c == '{' || c == '}')
            result = scan_brace(scan);
        else if (c == '$' && scan->next[1] == '{')
            result = scan_variable(scan);
        else if (c == '\n') {
            scan->line++;
            scan->next++;
        } else if (strchr(" \t\r()=,", c) != NULL || (c == '+' && scan->next[1] == '='))
            scan->next++;
        else
            result = scan_word(scan);
        if (result == -1)
            return -1;
    }
    if (scan->depth > 0)
        return SCAN_FAIL(scan, scan->opened[scan->depth - 1],
                         "the block that opens here is not closed; add }");
    return 0;
}

/* The file's text, checked, without comments. NULL with an error. */
static char *
load_text(const char *file, struct error *error)
{
    struct stat facts;
    struct scan scan = {.file = file, .line = 1, .error = error};
    FILE *stream = fopen(file, "re");
    char *text = NULL;
    size_t size;

    if (stream == NULL) {
        error_set(error, "%s: cannot be opened: %s; name another one with -c FILE", file,
                  strerror(errno));
        return NULL;
    }
    if (fstat(fileno(stream), &facts) == -1 || !S_ISREG(facts.st_mode) ||
        facts.st_size > FILE_MAX) {
        error_set(error, "%s: is not a file of at most %ld bytes; name another one with -c FILE",
                  file, FILE_MAX);
        fclose(stream);
        return NULL;
    }
    text = malloc(FILE_MAX < facts.st_size + 2 ? FILE_MAX + 2 : (size_t)facts.st_size + 2);
    if (text == NULL) {
        error_set(error, "%s: out of memory", file);
        fclose(stream);
        return NULL;
    }
    size = fread(text, 1, (size_t)facts.st_size, stream);
    fclose(stream);
    text[size] = '\n'; /* fmemopen() of nothing fails on old systems */
    text[size + 1] = '\0';
    scan.next = text;
    if (strlen(text) != size + 1)
        error_set(error, "%s: holds a NUL byte; is this a text file?", file);
    else if (scan_text(&scan) == 0)
        return text;
    free(text);
    return NULL;
}

/* ---- libconfuse's callbacks ---- */

static void
take_error(cfg_t *cfg, const char *format, va_list args)
{
    const char *file = cfg->filename != NULL ? cfg->filename : parse.file;
    char reason[256];

    vsnprintf(reason, sizeof(reason), format, args);
    if (strncmp(reason, "no such option '", 16) == 0) {
        reason[strlen(reason) - 1] = '\0';
        config_fail(parse.error, file, (unsigned)cfg->line, reason + 16,
                    "there is no such option %s%s; see tlsagentd.conf(5)",
                    cfg->title != NULL || strcmp(cfg->name, "root") != 0 ? "in a block " : "here",
                    strcmp(cfg->name, "root") != 0 ? cfg->name : "");
        return;
    }
    config_fail(parse.error, file, (unsigned)cfg->line, NULL, "%s; see tlsagentd.conf(5)", reason);
}

static int
compare_pointers(const void *a, const void *b)
{
    return (a > b) - (a < b);
}

static void
forget_nothing(void *key)
{
    (void)key;
}

int
config_text_value(cfg_t *cfg, cfg_opt_t *option, const char *text, void *result)
{
    struct config_value *value;
    const char *file = cfg->filename != NULL ? cfg->filename : parse.file;
    bool first = tfind(option, &parse.assigned, compare_pointers) == NULL;

    /* "=" has freed what was there before, so a second assignment finds no value. */
    if (!first && option->nvalues <= 1 &&
        (option->values == NULL || option->values[0]->ptr == NULL))
        return config_fail(parse.error, file, (unsigned)cfg->line, option->name,
                           "is given twice; keep one%s",
                           (option->flags & CFGF_LIST) != 0 ? ", or add to it with +=" : "");
    if (first && tsearch(option, &parse.assigned, compare_pointers) == NULL)
        return -1;
    for (const char *p = text; *p != '\0'; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return config_fail(parse.error, file, (unsigned)cfg->line, option->name,
                               "holds a control character; remove it");
    }
    value = calloc(1, sizeof(*value));
    if (value == NULL)
        return -1;
    value->text = strdup(text);
    value->file = strdup(file);
    value->line = (unsigned)cfg->line;
    if (value->text == NULL || value->file == NULL) {
        config_text_free(value);
        return -1;
    }
    *(void **)result = value;
    return 0;
}

void
config_text_free(void *value)
{
    struct config_value *v = value;

    if (v == NULL)
        return;
    free(v->text);
    free(v->file);
    free(v);
}

int
config_text_block_done(cfg_t *cfg, cfg_opt_t *option)
{
    cfg_t *block = option->values[option->nvalues - 1]->section;
    char *title;

    for (const char *p = block->title; *p != '\0'; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return config_fail(parse.error, block->filename, config_text_line(block), cfg->name,
                               "the title holds a control character; remove it");
    }
    /* No later block may be taken for this one: a newline cannot be in a title. */
    if (asprintf(&title, "\n%s", block->title) == -1)
        return -1;
    free(block->title);
    block->title = title;
    return 0;
}

/* Parse a file into cfg, whose filename (NULL now) and line are saved by the caller. */
static int
parse_file(cfg_t *cfg, const char *file)
{
    char *text = load_text(file, parse.error);
    FILE *stream;
    int result = -1;

    if (text == NULL)
        return -1;
    stream = fmemopen(text, strlen(text), "r");
    cfg->filename = strdup(file);
    if (stream != NULL && cfg->filename != NULL)
        result = cfg_parse_fp(cfg, stream);
    if (stream != NULL)
        fclose(stream);
    free(text);
    return result;
}

int
config_text_include(cfg_t *cfg, cfg_opt_t *option, int argc, const char **argv)
{
    char *file = cfg->filename;
    int line = cfg->line;
    char *path;
    int result;

    if (argc != 1)
        return config_fail(parse.error, file, (unsigned)line, option->name,
                           "takes one file; write include(\"FILE\")");
    if (parse.includes == INCLUDE_MAX)
        return config_fail(parse.error, file, (unsigned)line, option->name,
                           "more than %d files inside each other; does a file include itself?",
                           INCLUDE_MAX);
    path = config_value_path(parse.file, argv[0]);
    if (path == NULL)
        return -1;
    if (access(path, R_OK) == -1) {
        config_fail(parse.error, file, (unsigned)line, option->name, "%s: %s; correct the path",
                    path, strerror(errno));
        free(path);
        return -1;
    }
    parse.includes++;
    cfg->filename = NULL; /* kept in file */
    result = parse_file(cfg, path);
    parse.includes--;
    free(path);
    free(cfg->filename);
    cfg->filename = file;
    cfg->line = line;
    return result;
}

cfg_t *
config_text_read(cfg_opt_t *options, const char *file, struct error *error)
{
    cfg_t *cfg = cfg_init(options, CFGF_NONE);
    int result;

    if (cfg == NULL) {
        error_set(error, "%s: out of memory", file);
        return NULL;
    }
    parse.error = error;
    parse.file = file;
    parse.includes = 0;
    parse.assigned = NULL;
    cfg_set_error_function(cfg, take_error);
    result = parse_file(cfg, file);
    tdestroy(parse.assigned, forget_nothing);
    memset(&parse, 0, sizeof(parse));
    if (result == 0)
        return cfg;
    error_set(error, "%s: out of memory", file); /* if nothing more specific was said */
    cfg_free(cfg);
    return NULL;
}

/* ---- what was read ---- */

const struct config_value *
config_text_get_nth(cfg_t *block, const char *key, size_t i)
{
    const cfg_opt_t *option = cfg_getopt(block, key);

    return option != NULL && i < option->nvalues ? option->values[i]->ptr : NULL;
}

const struct config_value *
config_text_get(cfg_t *block, const char *key)
{
    return config_text_get_nth(block, key, 0);
}

const char *
config_text_title(const cfg_t *block)
{
    return block->title + (block->title[0] == '\n');
}

unsigned
config_text_line(cfg_t *block)
{
    /* The hidden block is made together with this one and takes its line, then is never parsed. */
    const cfg_t *opened = cfg_getsec(block, "{");

    return (unsigned)(opened != NULL ? opened->line : block->line);
}
