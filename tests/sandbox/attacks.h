/*
 * attacks.h: what the programs that attack the sandbox share.
 *
 * Everything happens in mount, pid, net, ipc and uts namespaces of its own, and scene_run() has
 * verified that it does: some attacks would do real harm. The sandbox is the real sandbox_enter();
 * linked with --wrap, so that these programs alone can leave a layer out (leave_out.c).
 */
#ifndef TESTS_SANDBOX_ATTACKS_H
#define TESTS_SANDBOX_ATTACKS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/un.h>

#include "sandbox/sandbox.h"

#define SOME_UID 12345
#define SOME_GID 12346

enum { SUPERVISOR, LOADER, KEEPER, HANDSHAKER, RELAY, FETCHER, ROLES };
extern const char *const role_names[ROLES];
extern const enum sandbox_role roles[ROLES];

/* ---- layers that are left out ---- */

enum layer {
    LAYER_SECCOMP = 1 << 0,
    LAYER_FILES = 1 << 1, /* of landlock, and the next three */
    LAYER_NETWORK = 1 << 2,
    LAYER_SIGNALS = 1 << 3,
    LAYER_ABSTRACT = 1 << 4,
    LAYER_NAMESPACES = 1 << 5,
    LAYER_USER = 1 << 6,
    LAYER_BOUNDING = 1 << 7,
    LAYER_CAPABILITIES = 1 << 8,
    LAYER_SECUREBITS = 1 << 9,
    LAYER_NO_NEW_PRIVS = 1 << 10,
    LAYER_NOT_DUMPABLE = 1 << 11,
    LAYER_PARENT_DEATH = 1 << 12,
    LAYER_LIMIT_CORE = 1 << 13,
    LAYER_LIMIT_FILES = 1 << 14,
    LAYER_LIMIT_PROCESSES = 1 << 15,
    LAYER_LIMIT_MEMORY = 1 << 16,
    LAYER_MDWE = 1 << 17,
    LAYER_SPECULATION = 1 << 18,
};

extern unsigned left_out; /* enum layer, or-ed: what the next sandbox_enter() lacks */

/* sandbox_enter() of a role without what is left out. */
int leave_out_enter(int role, pid_t parent, struct error *error);

/* ---- the attacks ---- */

#define FAMILIES 46 /* of sockets: AF_UNSPEC to AF_MCTP */

/* What must come out of an attack: KILL, the errno, or that it is not denied. */
#define KILL   (-1)
#define DENIED (-2) /* by some errno */
#define MAY    (-3) /* not denied: the role needs it, or this layer does not see it */
#define MIXED  (-4) /* an outcome only: some of its parts kill and some do not */

/* All layers: the supervisor's, the others'. Without seccomp: the same. control_root: the attack
 * needs root to succeed without a sandbox; else it is made as the roles' own user. */
struct attack {
    const char *name;
    int (*run)(void); /* returns 0 if it succeeded, or the errno that it met */
    int supervisor, others, supervisor_bare, others_bare;
    bool control_root;
    int loader;     /* all layers, where the loader differs; 0: it does not */
    int keeper;     /* the same for the keeper */
    unsigned layer; /* what denies it beside seccomp; where it is lacking DENIED is MAY */
    int parts;      /* it is made so often, with scene.part from 0 on */
};

extern const struct attack attacks[];
extern const size_t attack_count;

/* ---- the scene: other processes and fds that the roles have ---- */

struct attack_scene {
    pid_t victim;                /* a worker: same uid as the role, dumpable, holds a secret */
    pid_t keeper;                /* another role, in its sandbox */
    char *victim_memory;         /* in both: made before the fork */
    int directory_fd, device_fd; /* passed by a worker */
    struct sockaddr_in tcp_target;
    struct sockaddr_un abstract_target, named_target;
    socklen_t abstract_size;
    uint64_t files; /* how many a role may have open */
    int part;
};
extern struct attack_scene scene;

void need(bool good, const char *what);

/* Be root's worker, with nothing taken away; or root itself. */
void enter_control(bool root);
void enter_role(int role, pid_t parent);

/* Run it in a child: role -1 is the control. Returns KILL, MIXED, 0 or an errno. */
int attempt(int role, const struct attack *attack);
const char *outcome_text(int outcome);

/* Make the namespaces and what there is to attack, and call run in there; lacking: layers that this
 * kernel does not have (enum sandbox_layer). Returns the exit status of the program. */
int scene_run(int (*run)(unsigned lacking));

/* Of every such program, first thing: as the program that an attack becomes, it tells what it has
 * gained, and does not return. */
#define GAIN_USER       "gain-user"
#define GAIN_CAPABILITY "gain-capability"
void scene_answer_as_gain(const char *name);

#endif
