/* bans.c: see bans.h. */
#include "agent/bans.h"

/* The user's place, or the one that can best be spared: a free one comes first, as its time is 0.
 */
static struct ban *
place_of(struct bans *bans, uint32_t uid)
{
    struct ban *spare = &bans->list[0];

    for (size_t i = 0; i < BANS_MAX; i++) {
        struct ban *ban = &bans->list[i];

        if (ban->times > 0 && ban->uid == uid)
            return ban;
        if (ban->until < spare->until)
            spare = ban;
    }
    spare->times = 0;
    return spare;
}

const struct ban *
bans_add(struct bans *bans, uint32_t uid, uint32_t pid, uint64_t now)
{
    struct ban *ban = place_of(bans, uid);
    uint64_t seconds = BANS_FIRST_S;

    if (ban->times > 0 && ban->until > now)
        return NULL;
    if (ban->times > 0 && now - ban->until >= BANS_MEMORY_S * UINT64_C(1000))
        ban->times = 0;
    ban->uid = uid;
    ban->pid = pid;
    ban->times++;
    for (uint32_t i = 1; i < ban->times && seconds < BANS_LONGEST_S; i++)
        seconds *= 2;
    if (seconds > BANS_LONGEST_S)
        seconds = BANS_LONGEST_S;
    ban->until = now + seconds * 1000;
    return ban;
}

uint32_t
bans_left(const struct bans *bans, uint32_t uid, uint64_t now)
{
    for (size_t i = 0; i < BANS_MAX; i++) {
        const struct ban *ban = &bans->list[i];

        if (ban->times > 0 && ban->uid == uid && ban->until > now)
            return (uint32_t)((ban->until - now + 999) / 1000);
    }
    return 0;
}

const struct ban *
bans_get(const struct bans *bans, size_t n, uint64_t now)
{
    for (size_t i = 0; i < BANS_MAX; i++) {
        if (bans->list[i].times > 0 && bans->list[i].until > now && n-- == 0)
            return &bans->list[i];
    }
    return NULL;
}
