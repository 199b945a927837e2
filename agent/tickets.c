/* tickets.c: see tickets.h. */
#include "agent/tickets.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent/cell_control.h"
#include "agent/handover.h"
#include "agent/log.h"
#include "agent/session_cache.h"

#define CACHE_NAME "sessions"

/* What a cell group's page is called where it is handed on. */
static const char *
page_name(const struct config *config, unsigned group, char name[HANDOVER_NAME_MAX])
{
    snprintf(name, HANDOVER_NAME_MAX, "tickets.%s", load_group_name(config, group));
    return name;
}

/* Does it look the same? */
static bool
is_same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
           a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

static void
look(const struct config *config, struct stat *status)
{
    memset(status, 0, sizeof(*status));
    if (config->fleet_secret_file != NULL)
        (void)stat(config->fleet_secret_file, status); /* not there just now: all zero */
}

static int
load_pages(struct tickets *tickets, struct error *error)
{
    const struct config *config = tickets->config;
    char name[HANDOVER_NAME_MAX];

    for (unsigned group = 0; group < config->cell_group_count; group++) {
        int old = handover_take(page_name(config, group, name));
        int fd = load_tickets(config, group, old, error);

        if (old != -1)
            close(old);
        if (fd == -1)
            return -1;
        log_info("ticket keys of cell group %u: %s", group,
                 old != -1 ? "those of the instance before us" : "new");
        tickets->generations[group].tickets_fd = fd;
        handover_put(name, fd);
    }
    return 0;
}

static int
load_cache(struct tickets *tickets, struct error *error)
{
    size_t wanted = session_cache_bytes(tickets->config->session_cache_size);
    struct stat status;
    int fd;

    if (wanted == 0)
        return 0;
    fd = handover_take(CACHE_NAME);
    if (fd != -1 && (fstat(fd, &status) == -1 || (uintmax_t)status.st_size != wanted)) {
        close(fd); /* of another size now */
        fd = -1;
    }
    if (fd == -1) {
        fd = memfd_create("tlsagent-sessions", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd == -1 || ftruncate(fd, (off_t)wanted) == -1 ||
            fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == -1)
            return error_set(error, "memory for the session cache: %s", strerror(errno));
    }
    tickets->session_cache = fd;
    handover_put(CACHE_NAME, fd);
    return 0;
}

int
tickets_load(struct tickets *tickets, const struct config *config, struct load_result *generations,
             struct error *error)
{
    memset(tickets, 0, sizeof(*tickets));
    tickets->config = config;
    tickets->generations = generations;
    tickets->session_cache = -1;
    look(config, &tickets->loaded);
    tickets->seen = tickets->loaded;
    if (load_pages(tickets, error) == -1 || load_cache(tickets, error) == -1)
        return -1;
    handover_close_rest();
    return 0;
}

/* Other keys for all cell groups, or for none: they belong to one fleet. */
static void
replace_pages(struct tickets *tickets)
{
    const struct config *config = tickets->config;
    int pages[CONTROL_CONTEXTS_MAX + 1];
    struct error error = {""};
    unsigned count = 0;
    char name[HANDOVER_NAME_MAX];

    while (count < config->cell_group_count &&
           (pages[count] =
                load_tickets(config, count, tickets->generations[count].tickets_fd, &error)) != -1)
        count++;
    if (count < config->cell_group_count) {
        log_error("%s: the ticket keys stay as they are", error.text);
        while (count-- > 0)
            close(pages[count]);
        return;
    }
    for (unsigned group = 0; group < count; group++) {
        close(tickets->generations[group].tickets_fd);
        tickets->generations[group].tickets_fd = pages[group];
        handover_put(page_name(config, group, name), pages[group]);
        cell_control_pass_tickets(tickets->cells, group);
    }
    log_info("fleet: secret_file %s has changed: new tickets are of the new secret",
             config->fleet_secret_file);
}

static void
watch_expired(struct loop_timer *timer)
{
    struct tickets *tickets = (struct tickets *)timer;
    struct stat now;

    look(tickets->config, &now);
    /* A file that is being written, or not there for a moment, is left alone. */
    if (now.st_ino != 0 && is_same(&now, &tickets->seen) && !is_same(&now, &tickets->loaded)) {
        tickets->loaded = now;
        replace_pages(tickets);
    }
    tickets->seen = now;
    loop_timer_set(tickets->loop, &tickets->timer, TICKETS_WATCH_MS);
}

void
tickets_watch(struct tickets *tickets, struct loop *loop, struct cells *cells)
{
    tickets->loop = loop;
    tickets->cells = cells;
    loop_timer_init(&tickets->timer, watch_expired);
    if (tickets->config->fleet_secret_file != NULL)
        loop_timer_set(loop, &tickets->timer, TICKETS_WATCH_MS);
}
