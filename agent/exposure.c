/* exposure.c: see exposure.h. */
#include "agent/exposure.h"

#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/log.h"

#define NOBODY_SPECIAL UINT32_MAX /* a uid or gid that owns nothing */

#define MAY_READ   4U
#define MAY_SEARCH 1U

static bool
may(const struct stat *facts, uint32_t uid, uint32_t gid, unsigned right)
{
    unsigned shift = facts->st_uid == uid ? 6 : facts->st_gid == gid ? 3 : 0;

    return (facts->st_mode >> shift & right) != 0;
}

/* path: without symbolic links, from the root on. */
static bool
can_read(char *path, uint32_t uid, uint32_t gid)
{
    struct stat facts;

    if (stat("/", &facts) == -1 || !may(&facts, uid, gid, MAY_SEARCH))
        return false;
    for (char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        bool passes;

        *slash = '\0';
        passes = stat(path, &facts) == 0 && may(&facts, uid, gid, MAY_SEARCH);
        *slash = '/';
        if (!passes)
            return false;
    }
    return stat(path, &facts) == 0 && may(&facts, uid, gid, MAY_READ);
}

/* Who can; false: nobody. */
static bool
find_reader(const struct config *config, char *path, char *who, size_t size)
{
    if (can_read(path, NOBODY_SPECIAL, NOBODY_SPECIAL)) {
        snprintf(who, size, "everybody on this machine");
        return true;
    }
    for (size_t i = 0; i < config->context_count; i++) {
        const struct config_context *context = &config->contexts[i];

        for (size_t j = 0; j < context->user_count; j++) {
            uint32_t uid = context->users[j];
            const struct passwd *entry = getpwuid(uid);

            if (uid == geteuid() || uid == 0 ||
                !can_read(path, uid, entry != NULL ? entry->pw_gid : NOBODY_SPECIAL))
                continue;
            snprintf(who, size, "uid %u, a worker of context \"%s\"", uid, context->name);
            return true;
        }
        for (size_t j = 0; j < context->group_allowed_count; j++) {
            if (!can_read(path, NOBODY_SPECIAL, context->groups_allowed[j]))
                continue;
            snprintf(who, size, "group %u, workers of context \"%s\"", context->groups_allowed[j],
                     context->name);
            return true;
        }
    }
    return false;
}

void
exposure_tell(const struct config *config, const char *path, const char *what)
{
    static unsigned told;
    char who[128], *real = told < EXPOSURE_TOLD ? realpath(path, NULL) : NULL;

    if (real != NULL && find_reader(config, real, who, sizeof(who))) {
        told++;
        log_warning("%s %s can be read by %s: take the right away (chmod, chown)%s", what, path,
                    who, told == EXPOSURE_TOLD ? "; of other files this is not told" : "");
    }
    free(real);
}
