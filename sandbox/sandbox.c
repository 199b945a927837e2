/*
 * sandbox.c: the one fixed order in which a role gives up what it does not need; see sandbox.h.
 *
 * The order matters. An empty root hides /proc, so what needs it comes before. Capabilities can be
 * taken out of reach only while one has CAP_SETPCAP, so before the uid changes. setresuid() clears
 * the parent-death signal and execve() makes a process dumpable again, so both are set after.
 * seccomp comes last because everything before needs calls that it forbids.
 */
#include "sandbox/sandbox.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "sandbox/policy.h"
#include "sandbox/secret.h"

/* One sandbox per process. */
static struct {
    unsigned required;
    unsigned in_force;
    char missing[400];
} state;

static const char *const layer_names[] = {
    "namespaces", "landlock",    "landlock_network", "landlock_scopes",
    "mdwe",       "speculation", "memfd_secret",     NULL,
};

_Static_assert(sizeof(layer_names) / sizeof(layer_names[0]) == SANDBOX_LAYER_COUNT + 1,
               "each layer has a name");

const char *
sandbox_layer_name(size_t number)
{
    return number < SANDBOX_LAYER_COUNT ? layer_names[number] : NULL;
}

unsigned
sandbox_layer_find(const char *name)
{
    for (size_t i = 0; layer_names[i] != NULL; i++) {
        if (strcmp(layer_names[i], name) == 0)
            return 1U << i;
    }
    return 0;
}

void
sandbox_require(unsigned layers)
{
    state.required = layers;
}

unsigned
sandbox_in_force(void)
{
    return state.in_force;
}

const char *
sandbox_missing(void)
{
    return state.missing;
}

unsigned
sandbox_wanted(enum sandbox_role role)
{
    const struct policy_row *row = policy_find(role);
    unsigned wanted = 0;

    if (row == NULL)
        return 0;
    if (row->isolated)
        wanted |= SANDBOX_NAMESPACES;
    if ((row->landlock & POLICY_LANDLOCK_FILES) != 0)
        wanted |= SANDBOX_LANDLOCK;
    if ((row->landlock & POLICY_LANDLOCK_NETWORK) != 0)
        wanted |= SANDBOX_LANDLOCK_NETWORK;
    if ((row->landlock & POLICY_LANDLOCK_SIGNALS) != 0)
        wanted |= SANDBOX_LANDLOCK_SCOPES;
    if (row->no_new_code)
        wanted |= SANDBOX_MDWE;
    if (row->no_speculation)
        wanted |= SANDBOX_SPECULATION;
    if (role == SANDBOX_KEEPER)
        wanted |= SANDBOX_MEMFD_SECRET;
    return wanted;
}

#ifndef SANITIZED
/* Remember whether a layer is in force, and why not. An error if it must be. */
static int
note_layer(const struct policy_row *row, unsigned layer, bool in_force, const char *why,
           struct error *error)
{
    size_t number = 0, used = strlen(state.missing);

    while ((layer >> number & 1) == 0)
        number++;
    if (in_force) {
        state.in_force |= layer;
        return 0;
    }
    if ((state.required & layer) != 0)
        return error_set(error,
                         "sandbox: \"%s\" is required by the configuration and not to be had for "
                         "the %s: %s",
                         layer_names[number], row->name, why);
    snprintf(state.missing + used, sizeof(state.missing) - used, "%s%s (%s)", used > 0 ? ", " : "",
             layer_names[number], why);
    return 0;
}

/* Namespaces as root; or as a plain user, or as one that root has become, in a user namespace. */
static int
enter_namespaces(const struct policy_row *row, bool last_try, struct error *error)
{
    struct error why = {""};
    int result;

    if (!row->isolated || (state.in_force & SANDBOX_NAMESPACES) != 0)
        return 0;
    if (!last_try)
        return geteuid() == 0 && namespace_enter(&why) == 0
                   ? note_layer(row, SANDBOX_NAMESPACES, true, "", error)
                   : 0;
    /* Who has changed its uid does not own its files in /proc; from here on it soon will again be
     * closed to others. It has handled nothing of theirs yet. */
    (void)prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    result = namespace_enter(&why);
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    return note_layer(row, SANDBOX_NAMESPACES, result == 0, why.text, error);
}

/* The supervisor that was here before us has left us its scopes: not even root may signal those who
 * are outside. A plain user cannot tell this from the usual. */
static bool
outside_is_closed(void)
{
    return getppid() != 0 && kill(getppid(), 0) == -1 && errno == EPERM;
}

static int
enter_landlock(const struct policy_row *row, struct error *error)
{
    static const struct {
        unsigned denies, layer;
        const char *why;
    } parts[] = {
        {POLICY_LANDLOCK_FILES, SANDBOX_LANDLOCK, "too old"},
        {POLICY_LANDLOCK_NETWORK, SANDBOX_LANDLOCK_NETWORK, "Linux 6.7 has it"},
        {POLICY_LANDLOCK_SIGNALS, SANDBOX_LANDLOCK_SCOPES, "Linux 6.12 has it"},
    };
    struct error why = {""};
    unsigned in_force = 0;

    if (!row->isolated && prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 2 && outside_is_closed())
        in_force = row->landlock; /* an upgrade: the kernel takes 16 of these, one above another */
    else if (row->landlock != 0)
        (void)landlock_enter(row->landlock, &in_force, &why);
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        if ((row->landlock & parts[i].denies) != 0 &&
            note_layer(row, parts[i].layer, (in_force & parts[i].denies) != 0,
                       why.text[0] != '\0' ? why.text : parts[i].why, error) == -1)
            return -1;
    }
    return 0;
}

static int
enter_hardening(const struct policy_row *row, struct error *error)
{
    struct error why = {""};
    int result;

    if (row->no_new_code) {
        result = hardening_no_new_code(&why);
        if (note_layer(row, SANDBOX_MDWE, result == 0, why.text, error) == -1)
            return -1;
    }
    if (row->no_speculation) {
        error_clear(&why);
        result = hardening_no_speculation(&why);
        if (note_layer(row, SANDBOX_SPECULATION, result == 0, why.text, error) == -1)
            return -1;
    }
    return 0;
}
#else
static int
enter_namespaces(const struct policy_row *row, bool last_try, struct error *error)
{
    (void)row;
    (void)last_try;
    (void)error;
    return 0;
}
#endif

/* Nobody of the same uid may look into us, and we do not outlive our parent. */
static int
close_to_others(pid_t parent, struct error *error)
{
#ifndef SANITIZED /* the leak checker traces its own process */
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == -1 || prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0)
        return error_set(error, "cannot become non-dumpable: %s", strerror(errno));
#endif
    if (parent == 0)
        return 0;
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == -1)
        return error_set(error, "cannot set the parent-death signal: %s", strerror(errno));
    if (getppid() != parent)
        return error_set(error, "the supervisor (pid %d) is gone", (int)parent);
    return 0;
}

/* Capabilities and uid. A new user namespace gives every capability in it, so what comes after it
 * is done a second time. */
static int
give_up_privilege(const struct policy_row *row, uid_t uid, gid_t gid, struct error *error)
{
    bool gives_up = row->drops_root || row->isolated;
    unsigned before;

    if (enter_namespaces(row, false, error) == -1 || privilege_bound(row, error) == -1)
        return -1;
    if (row->drops_root && geteuid() == 0 && privilege_lock(error) == -1)
        return -1;
    if ((row->drops_root && privilege_become(row, uid, gid, error) == -1) ||
        privilege_drop(row, error) == -1)
        return -1;
    before = state.in_force;
    if (enter_namespaces(row, true, error) == -1)
        return -1;
    if (gives_up && state.in_force != before)
        return privilege_bound(row, error) == -1 || privilege_lock(error) == -1
                   ? -1
                   : privilege_drop(row, error);
    return 0;
}

int
sandbox_enter(enum sandbox_role role, uid_t uid, gid_t gid, pid_t parent, struct error *error)
{
    const struct policy_row *row = policy_find(role);

    if (row == NULL)
        return error_set(error, "no sandbox policy for role %d", (int)role);
    if (limits_raise(row, error) == -1 || give_up_privilege(row, uid, gid, error) == -1 ||
        limits_set(row, error) == -1 || close_to_others(parent, error) == -1)
        return -1;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == -1)
        return error_set(error, "cannot set no_new_privs: %s", strerror(errno));
#ifdef SANITIZED
    if (role == SANDBOX_SUPERVISOR) {
        static const char text[] = "SANDBOX OFF: built with a sanitizer, not for use\n";

        if (write(STDERR_FILENO, text, sizeof(text) - 1) == -1)
            return error_set(error, "cannot write to stderr: %s", strerror(errno));
    }
    return 0;
#else
    if (role == SANDBOX_KEEPER &&
        note_layer(row, SANDBOX_MEMFD_SECRET, secret_kind() == SECRET_MEMFD,
                   "memory for keys is ordinary or only locked", error) == -1)
        return -1;
    if (enter_hardening(row, error) == -1 || enter_landlock(row, error) == -1)
        return -1;
    return seccomp_enter(row, error);
#endif
}
