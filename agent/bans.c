/* bans.c: see bans.h. */
#include "agent/bans.h"

/* Is ban a better to be spared than b? A free one comes first, as its time is 0. */
static bool
is_spared_before(const struct ban *a, const struct ban *b)
{
    return a->named != b->named ? !a->named : a->until < b->until;
}

/* The user's place, or the one that can best be spared. */
static struct ban *
place_of(struct bans *bans, uint32_t uid)
{
    struct ban *spare = &bans->list[0];

    for (size_t i = 0; i < BANS_MAX; i++) {
        struct ban *ban = &bans->list[i];

        if (ban->times > 0 && ban->uid == uid)
            return ban;
        if (is_spared_before(ban, spare))
            spare = ban;
    }
    return spare;
}

static bool
is_remembered(const struct ban *ban, uint64_t now)
{
    return ban->times > 0 &&
           (ban->until > now || now - ban->until < BANS_MEMORY_S * UINT64_C(1000));
}

const struct ban *
bans_add(struct bans *bans, uint32_t uid, uint32_t pid, bool named, uint64_t now)
{
    struct ban *ban = place_of(bans, uid);
    uint64_t seconds = BANS_FIRST_S;

    if (ban->times > 0 && ban->until > now) {
        if (ban->uid == uid)
            return NULL;
        if (ban->until > bans->others_until)
            bans->others_until = ban->until;
    }
    if (!is_remembered(ban, now))
        ban->times = 0;
    ban->uid = uid;
    ban->pid = pid;
    ban->named = named;
    ban->times++;
    for (uint32_t i = 1; i < ban->times && seconds < BANS_LONGEST_S; i++)
        seconds *= 2;
    if (seconds > BANS_LONGEST_S)
        seconds = BANS_LONGEST_S;
    ban->until = now + seconds * 1000;
    return ban;
}

static const struct ban *
find(const struct bans *bans, uint32_t uid)
{
    for (size_t i = 0; i < BANS_MAX; i++) {
        if (bans->list[i].times > 0 && bans->list[i].uid == uid)
            return &bans->list[i];
    }
    return NULL;
}

uint32_t
bans_left(const struct bans *bans, uint32_t uid, bool named, uint64_t now)
{
    const struct ban *ban = find(bans, uid);
    uint64_t until = ban != NULL ? ban->until : named ? 0 : bans->others_until;

    return until > now ? (uint32_t)((until - now + 999) / 1000) : 0;
}

bool
bans_remember(const struct bans *bans, uint32_t uid, uint64_t now)
{
    const struct ban *ban = find(bans, uid);

    return ban != NULL && is_remembered(ban, now);
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
