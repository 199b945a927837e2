/*
 * trial.c: try the strictest sandbox in a child, to know before the start what this system offers;
 * see sandbox.h.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sandbox/sandbox.h"
#include "sandbox/secret.h"

/* What the child writes to fd 2, the only one that its filter lets it write to. */
struct verdict {
    struct sandbox_trial trial;
    struct error error;
};

static void __attribute__((noreturn)) try_and_tell(uid_t uid, gid_t gid, int out)
{
    struct verdict verdict = {.error = {""}};

    if (dup2(out, STDERR_FILENO) == -1)
        _exit(2);
    (void)secret_init(1, &verdict.error);
    error_clear(&verdict.error);
    if (sandbox_enter(SANDBOX_KEEPER, uid, gid, 0, &verdict.error) == 0) {
        verdict.trial.in_force = sandbox_in_force();
        memcpy(verdict.trial.missing, sandbox_missing(),
               strnlen(sandbox_missing(), sizeof(verdict.trial.missing) - 1));
    }
    _exit(write(STDERR_FILENO, &verdict, sizeof(verdict)) == sizeof(verdict) ? 0 : 2);
}

int
sandbox_try(uid_t uid, gid_t gid, struct sandbox_trial *trial, struct error *error)
{
    struct verdict verdict = {.error = {""}};
    int ends[2], status = 0;
    ssize_t got;
    pid_t pid;

    memset(trial, 0, sizeof(*trial));
    if (pipe(ends) == -1)
        return error_set(error, "pipe: %s", strerror(errno));
    pid = fork();
    if (pid == 0)
        try_and_tell(uid, gid, ends[1]);
    close(ends[1]);
    got = pid != -1 ? read(ends[0], &verdict, sizeof(verdict)) : -1; /* one write: one read */
    close(ends[0]);
    if (pid == -1 || waitpid(pid, &status, 0) != pid)
        return error_set(error, "cannot try the sandbox: %s", strerror(errno));
    if (got != sizeof(verdict))
        return error_set(error, "the sandbox cannot be tried: its process ended with status %#x",
                         status);
    if (verdict.error.text[0] != '\0') {
        verdict.error.text[sizeof(verdict.error.text) - 1] = '\0';
        return error_set(error, "%s", verdict.error.text);
    }
    *trial = verdict.trial;
    return 0;
}
