/*
 * scene.c: where the attacks happen, and one attempt of one of them; see attacks.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sandbox/policy.h"
#include "sandbox/secret.h"
#include "tests/sandbox/attacks.h"

#define SOME_FILES 64 /* for who has no limit of its own */

struct attack_scene scene = {.files = SOME_FILES};

const char *const role_names[ROLES] = {"supervisor", "loader", "keeper",
                                       "handshaker", "relay",  "fetcher"};
const enum sandbox_role roles[ROLES] = {SANDBOX_SUPERVISOR, SANDBOX_LOADER, SANDBOX_KEEPER,
                                        SANDBOX_HANDSHAKER, SANDBOX_RELAY,  SANDBOX_FETCHER};

/* ---- one attempt ---- */

void
need(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "attacks: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* The role's way in. The relay runs as its worker from the start. */
void
enter_role(int role, pid_t parent)
{
    const struct policy_row *row = policy_find(roles[role]);
    struct error error = {""};

    scene.files = row->files < POLICY_UNLIMITED ? row->files : SOME_FILES;
    if (role == KEEPER)
        (void)secret_init(65536, &error);
    if (role == RELAY &&
        (setresgid(SOME_GID, SOME_GID, SOME_GID) == -1 ||
         setresuid(SOME_UID, SOME_UID, SOME_UID) == -1 || prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == -1))
        _exit(98);
    if (leave_out_enter(role, parent, &error) == -1) {
        fprintf(stderr, "sandbox_enter(%s): %s\n", role_names[role], error.text);
        _exit(99);
    }
}

void
enter_control(bool root)
{
    if (!root &&
        (setgroups(0, NULL) == -1 || setresgid(SOME_GID, SOME_GID, SOME_GID) == -1 ||
         setresuid(SOME_UID, SOME_UID, SOME_UID) == -1 || prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == -1))
        _exit(98);
}

static int
attempt_once(int role, const struct attack *attack)
{
    int ends[2], met = 0, status = 0;
    ssize_t got;
    pid_t pid;

    need(pipe2(ends, O_CLOEXEC) == 0, "pipe");
    pid = fork();
    need(pid != -1, "fork");
    if (pid == 0) {
        /* Before: dup3() would be what is killed, and every attack would look denied. */
        (void)dup3(ends[1], STDERR_FILENO, O_CLOEXEC);
        if (role == -1)
            enter_control(attack->control_root);
        else
            enter_role(role, 0);
        met = attack->run();
        _exit(write(STDERR_FILENO, &met, sizeof(met)) == sizeof(met) ? 0 : 97);
    }
    close(ends[1]);
    got = read(ends[0], &met, sizeof(met));
    close(ends[0]);
    need(waitpid(pid, &status, 0) == pid, "waitpid");
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
        return KILL;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return got == sizeof(met) ? met : 0; /* no word: it has become another program */
    fprintf(stderr, "attacks: %s as %s: wait status %#x\n", attack->name,
            role == -1 ? "control" : role_names[role], (unsigned)status);
    exit(1);
}

int
attempt(int role, const struct attack *attack)
{
    int together = 0;

    for (scene.part = 0; scene.part < attack->parts; scene.part++) {
        int outcome = attempt_once(role, attack);

        if (scene.part == 0)
            together = outcome;
        else if ((outcome == KILL) != (together == KILL))
            return MIXED;
        else if (outcome == 0)
            together = 0;
    }
    return together;
}

const char *
outcome_text(int outcome)
{
    if (outcome == KILL)
        return "killed";
    if (outcome == MIXED)
        return "mixed";
    return outcome == 0 ? "DONE" : strerrorname_np(outcome);
}

/* ---- what there is to attack ---- */

static void
loopback_up(void)
{
    struct ifreq request = {.ifr_name = "lo"};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    request.ifr_flags = IFF_UP | IFF_RUNNING;
    need(fd != -1 && ioctl(fd, SIOCSIFFLAGS, &request) == 0, "loopback device");
    close(fd);
}

static void
make_targets(void)
{
    int tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int abstract = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int named = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    scene.tcp_target.sin_family = AF_INET;
    scene.tcp_target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    scene.tcp_target.sin_port = htons(1234);
    need(bind(tcp, (struct sockaddr *)&scene.tcp_target, sizeof(scene.tcp_target)) == 0 &&
             listen(tcp, 128) == 0,
         "TCP target");
    scene.abstract_target.sun_family = scene.named_target.sun_family = AF_UNIX;
    memcpy(scene.abstract_target.sun_path, "\0attack", 7);
    scene.abstract_size = offsetof(struct sockaddr_un, sun_path) + 7;
    need(bind(abstract, (struct sockaddr *)&scene.abstract_target, scene.abstract_size) == 0 &&
             listen(abstract, 128) == 0,
         "abstract target");
    memcpy(scene.named_target.sun_path, "/tmp/target", sizeof("/tmp/target"));
    need(bind(named, (struct sockaddr *)&scene.named_target, sizeof(scene.named_target)) == 0 &&
             listen(named, 128) == 0 && chmod("/tmp/target", 0777) == 0,
         "named target");
    scene.directory_fd = open("/etc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    scene.device_fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    scene.victim_memory =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    need(scene.directory_fd != -1 && scene.device_fd != -1 && scene.victim_memory != MAP_FAILED,
         "targets");
}

static void
start_targets(void)
{
    struct pollfd nothing = {.fd = -1};
    char byte;
    int ready[2];

    need(pipe2(ready, O_CLOEXEC) == 0, "pipe");
    scene.victim = fork();
    if (scene.victim == 0) {
        enter_control(false);
        (void)!write(ready[1], "x", 1);
        for (;;)
            (void)poll(&nothing, 1, -1);
    }
    need(read(ready[0], &byte, 1) == 1, "the worker");
    scene.keeper = fork();
    if (scene.keeper == 0) {
        (void)dup2(ready[1], STDERR_FILENO);
        enter_role(KEEPER, 0);
        (void)!write(STDERR_FILENO, "x", 1);
        for (;;)
            (void)poll(&nothing, 1, -1);
    }
    need(read(ready[0], &byte, 1) == 1, "the keeper");
    close(ready[0]);
    close(ready[1]);
}

/* The namespaces that every attack stays in: ours must not be those of whoever started us. */
static const char *const namespace_names[] = {"mnt", "net", "ipc", "uts", "pid"};

#define NAMESPACES 5

static void
read_namespaces(char links[NAMESPACES][64])
{
    for (size_t i = 0; i < NAMESPACES; i++) {
        char path[64];
        ssize_t size;

        snprintf(path, sizeof(path), "/proc/self/ns/%s", namespace_names[i]);
        size = readlink(path, links[i], sizeof(links[i]) - 1);
        need(size > 0, path);
        links[i][size] = '\0';
    }
}

/* Copies of ourselves for exec: as it is, and set-uid root. */
static void
make_programs(void)
{
    static const struct {
        const char *path;
        mode_t mode;
    } programs[] = {{"/tmp/gain", 0755}, {"/tmp/gain-suid", 04755}};

    for (size_t i = 0; i < 2; i++) {
        int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        int to = open(programs[i].path, O_WRONLY | O_CREAT | O_CLOEXEC, 0700);
        struct stat facts;

        need(from != -1 && to != -1 && fstat(from, &facts) == 0 &&
                 sendfile(to, from, NULL, (size_t)facts.st_size) == facts.st_size &&
                 fchmod(to, programs[i].mode) == 0,
             "programs to become");
        close(from);
        close(to);
    }
}

void
scene_answer_as_gain(const char *name)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {{0}};
    int met = EPERM;

    if (strcmp(name, GAIN_USER) == 0) {
        met = geteuid() == 0 ? 0 : EPERM;
    } else if (strcmp(name, GAIN_CAPABILITY) == 0) {
        if (syscall(SYS_capget, &header, sets) == 0 &&
            (sets[0].permitted >> CAP_SYS_CHROOT & 1) != 0)
            met = 0;
    } else {
        return;
    }
    _exit(write(STDERR_FILENO, &met, sizeof(met)) == sizeof(met) ? 0 : 97);
}

static int
run_inside(int (*run)(unsigned lacking), char outside[NAMESPACES][64])
{
    char inside[NAMESPACES][64];
    struct sandbox_trial trial = {0};
    struct error error = {""};

    need(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
             mount("proc", "/proc", "proc", 0, NULL) == 0 &&
             mount("none", "/tmp", "tmpfs", 0, "mode=1777") == 0,
         "private mounts");
    read_namespaces(inside);
    for (size_t i = 0; i < NAMESPACES; i++)
        need(strcmp(inside[i], outside[i]) != 0, "a namespace is not private");
    need(getpid() == 1, "we are not the first process of a pid namespace");
    loopback_up();
    make_targets();
    make_programs();
    start_targets();
    if (sandbox_try(SOME_UID, SOME_GID, &trial, &error) == -1) {
        fprintf(stderr, "attacks: %s\n", error.text);
        return 1;
    }
    printf("not to be had here: %s\n", trial.missing[0] != '\0' ? trial.missing : "nothing");
    return run(~trial.in_force);
}

int
scene_run(int (*run)(unsigned lacking))
{
    static char outside[NAMESPACES][64];
    int status = 0;
    pid_t pid;

#ifdef SANITIZED
    printf("built with a sanitizer: there is no sandbox to attack\n");
    return 77;
#endif
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (geteuid() != 0) {
        printf("only root can make the namespaces in which the attacks are tried\n");
        return 77;
    }
    read_namespaces(outside);
    need(unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID) == 0,
         "unshare");
    pid = fork();
    need(pid != -1, "fork");
    if (pid == 0)
        _exit(
            run_inside(run, outside)); /* the first of the pid namespace: all others die with it */
    need(waitpid(pid, &status, 0) == pid, "waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
