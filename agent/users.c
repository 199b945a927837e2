/* users.c: see users.h. */
#include "agent/users.h"

#include <stdlib.h>

/* Requests that are refused, or mean nothing, of one uid; then its channels are not read for a
 * while: they cost us as much as others' handshakes. */
#define REFUSED_PER_SECOND 100
#define REFUSED_BURST      100
/* Those that may be tried again: an honest worker makes them too when there is much to do. */
#define BUSY_PER_SECOND 1000
#define BUSY_BURST      1000

struct user *
users_enter(struct user **users, uint32_t uid)
{
    struct user *user = *users;

    while (user != NULL && user->uid != uid)
        user = user->next;
    if (user == NULL && (user = calloc(1, sizeof(*user))) != NULL) {
        user->uid = uid;
        user->next = *users;
        *users = user;
    }
    if (user != NULL)
        user->channels++;
    return user;
}

void
users_leave(struct user **users, struct user *user)
{
    if (--user->channels > 0)
        return;
    while (*users != user)
        users = &(*users)->next;
    *users = user->next;
    free(user);
}

bool
users_bother(struct user *user, uint64_t now, bool retryable)
{
    return retryable ? pace_take(&user->busy, now, BUSY_PER_SECOND, BUSY_BURST)
                     : pace_take(&user->refused, now, REFUSED_PER_SECOND, REFUSED_BURST);
}
