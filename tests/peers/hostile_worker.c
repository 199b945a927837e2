/*
 * hostile_worker.c: a worker that breaks the rules of the channel, one way after the other.
 *
 *   hostile_worker SOCKET CONTEXT OTHER_CONTEXT USER
 *
 *   hostile_worker SOCKET CONTEXT OTHER_CONTEXT USER freeze
 *                             only a descriptor whose close() never returns (frozen.h), to the
 *                             first cell; "server PID" at first: the process to kill at last, then
 *                             "frozen" when it is sent, then until stdin ends.
 *   hostile_worker SOCKET CONTEXT OTHER_CONTEXT USER lock
 *                             the same with a good TCP connection, whose lock in the kernel is held
 *                             by a read() of ours into memory that never comes.
 *   hostile_worker SOCKET CONTEXT OTHER_CONTEXT USER flood
 *                             requests without end whose answers it does not read; "flooding" when
 *                             1,000 are sent, then until stdin ends.
 * Exit status 77: this kernel has no FUSE
 *
 * Each case gets a fresh connection to the agent, does its one wrong thing, and sees what it gets:
 * the channel is lost, or the request is refused and the channel lives. Prints "ok CASE" or "FAIL
 * CASE: why"; exit status 1 if any failed. That nobody else noticed is for the caller to see.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "protocol/control.h"
#include "protocol/service.h"
#include "tests/peers/frozen.h"

#define TIMEOUT 5000 /* milliseconds */

enum outcome {
    LOST,          /* the channel is closed by the agent */
    BAD_REQUEST,   /* FAILED, and the channel lives */
    NOT_PERMITTED, /* the same, naming the context */
    ALIVE,         /* no answer; the channel lives */
};

/* The agent as this worker sees it. */
struct view {
    int greeting;
    int channel; /* to the first cell */
};

static const char *socket_path, *context, *other_context;
static uint8_t buffer[CHANNEL_BUFFER_SIZE];

static void __attribute__((noreturn)) fail(const char *what)
{
    printf("FAIL hostile_worker: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void
view_open(struct view *view)
{
    struct sockaddr_un {
        sa_family_t family;
        char path[108];
    } address = {.family = AF_UNIX};
    struct channel_message message;
    struct error error;

    error_clear(&error);
    snprintf(address.path, sizeof(address.path), "%s", socket_path);
    view->greeting = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    view->channel = -1;
    if (connect(view->greeting, (struct sockaddr *)&address, sizeof(address)) == -1)
        fail("connect");
    while (view->channel == -1) {
        enum channel_result result = channel_receive_wait(
            view->greeting, service_greeting_rules, service_greeting_rule_count, buffer,
            sizeof(buffer), &message, &error, TIMEOUT);

        if (result != CHANNEL_OK) {
            errno = 0;
            fail(error.text[0] != '\0' ? error.text : "no channel came");
        }
        if (message.type == SERVICE_DENIED)
            fail("denied");
        if (message.type == SERVICE_CHANNEL)
            view->channel = channel_take_fd(&message, 0);
        channel_message_clear(&message);
    }
}

static void
view_close(struct view *view)
{
    close(view->greeting);
    close(view->channel);
}

/* Send a raw packet with fds; no rule of ours in between. A channel that is already closed is no
 * failure of this function. */
static void
send_raw(int channel, const void *bytes, size_t size, const int *fds, size_t fd_count)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * 253)];
    } control;
    struct iovec part = {(void *)(uintptr_t)bytes, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

    memset(&control, 0, sizeof(control));
    if (fd_count > 0) {
        struct cmsghdr *rights;

        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
        rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
        memcpy(CMSG_DATA(rights), fds, sizeof(int) * fd_count);
    }
    if (sendmsg(channel, &message, MSG_NOSIGNAL) == -1 && errno != EPIPE && errno != ECONNRESET)
        fail("sendmsg");
}

/* A packet with a type in front of its body. */
static void
send_typed(int channel, uint16_t type, const void *body, size_t size, const int *fds,
           size_t fd_count)
{
    static uint8_t packet[100000];

    if (size + 2 > sizeof(packet))
        fail("too long");
    packet[0] = (uint8_t)(type >> 8);
    packet[1] = (uint8_t)type;
    if (size > 0)
        memcpy(packet + 2, body, size);
    send_raw(channel, packet, size + 2, fds, fd_count);
}

/* A well-formed ACCEPT body for the context; returns its size. */
static size_t
accept_body(uint8_t *body, uint32_t id, const char *name)
{
    struct service_accept request = {.id = id, .forms = SERVICE_FORM_RECORDS};

    snprintf(request.context, sizeof(request.context), "%s", name);
    return service_put_accept(&request, body, 256);
}

/* A TCP connection to ourselves whose other end says nothing. */
static int
tcp_connected(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (bind(listener, (struct sockaddr *)&address, size) == -1 || listen(listener, 1) == -1 ||
        getsockname(listener, (struct sockaddr *)&address, &size) == -1 ||
        connect(fd, (struct sockaddr *)&address, size) == -1)
        fail("connect to ourselves");
    /* listener stays open: its queue holds the other end, which must not reset. */
    return fd;
}

/* ---- the fds that are no connection ---- */

static int
open_wrong_fd(const char *kind, struct view *view)
{
    int pair[2];

    if (strcmp(kind, "pipe read end") == 0 || strcmp(kind, "pipe write end") == 0) {
        if (pipe(pair) == -1)
            fail(kind);
        return pair[kind[5] == 'r' ? 0 : 1];
    }
    if (strcmp(kind, "file") == 0)
        return open("/etc/passwd", O_RDONLY | O_CLOEXEC);
    if (strcmp(kind, "directory") == 0)
        return open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (strcmp(kind, "O_PATH") == 0)
        return open("/etc/passwd", O_PATH | O_CLOEXEC);
    if (strcmp(kind, "/dev/zero") == 0)
        return open("/dev/zero", O_RDWR | O_CLOEXEC);
    if (strcmp(kind, "listening socket") == 0) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);

        return listen(fd, 1) == 0 ? fd : -1;
    }
    if (strcmp(kind, "unconnected socket") == 0)
        return socket(AF_INET, SOCK_STREAM, 0);
    if (strcmp(kind, "UDP socket") == 0) {
        struct sockaddr_in address = {
            .sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int fd = socket(AF_INET, SOCK_DGRAM, 0);

        return connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 ? fd : -1;
    }
    if (strcmp(kind, "unix datagram socket") == 0)
        return socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0 ? pair[0] : -1;
    if (strcmp(kind, "unix seqpacket socket") == 0)
        return socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0 ? pair[0] : -1;
    if (strcmp(kind, "netlink socket") == 0)
        return socket(AF_NETLINK, SOCK_RAW, 0);
    if (strcmp(kind, "epoll") == 0)
        return epoll_create1(0);
    if (strcmp(kind, "eventfd") == 0)
        return eventfd(0, 0);
    if (strcmp(kind, "memfd") == 0)
        return memfd_create("x", 0);
    if (strcmp(kind, "pidfd") == 0)
        return (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (strcmp(kind, "inotify") == 0)
        return inotify_init1(0);
    if (strcmp(kind, "signalfd") == 0) {
        sigset_t none;

        sigemptyset(&none);
        return signalfd(-1, &none, 0);
    }
    if (strcmp(kind, "timerfd") == 0)
        return timerfd_create(CLOCK_MONOTONIC, 0);
    if (strcmp(kind, "io_uring") == 0) {
        struct io_uring_params parameters;
        int ring;

        memset(&parameters, 0, sizeof(parameters));
        ring = (int)syscall(SYS_io_uring_setup, 1, &parameters);
        if (ring != -1 && channel_pair(pair) == 0 &&
            channel_send(pair[0], 1, NULL, 0, &ring, 1) == CHANNEL_FAILED)
            return -1; /* since Linux 6.7 it cannot be passed: EINVAL */
        return ring;
    }
    if (strcmp(kind, "its own channel") == 0)
        return view->channel;
    if (strcmp(kind, "its own greeting") == 0)
        return view->greeting;
    return -1;
}

static const char *const wrong_fds[] = {
    "pidfd",
    "inotify",
    "signalfd",
    "pipe read end",
    "pipe write end",
    "file",
    "directory",
    "O_PATH",
    "/dev/zero",
    "listening socket",
    "unconnected socket",
    "UDP socket",
    "unix datagram socket",
    "unix seqpacket socket",
    "netlink socket",
    "epoll",
    "eventfd",
    "memfd",
    "timerfd",
    "io_uring",
    "its own channel",
    "its own greeting",
};

/* ---- what comes of it ---- */

/* Whether the agent has closed this, once all that is still in it has been read. */
static bool
is_lost(int channel, int timeout)
{
    struct pollfd entry = {.fd = channel, .events = POLLIN};
    char byte;

    while (poll(&entry, 1, timeout) == 1)
        if (recv(channel, &byte, 1, MSG_DONTWAIT) <= 0)
            return true;
    return false;
}

/* Whether the channel still answers: ask for a context that does not exist. */
static bool
is_alive(int channel)
{
    struct channel_message message;
    uint8_t body[256];
    struct error error;
    size_t size = accept_body(body, 4000000000u, "no-such-context");
    int fd = tcp_connected();
    enum channel_result result;
    bool alive = false;

    error_clear(&error);
    send_typed(channel, SERVICE_ACCEPT, body, size, &fd, 1);
    close(fd);
    do {
        struct service_failed failed;

        result = channel_receive_wait(channel, service_worker_rules, service_worker_rule_count,
                                      buffer, sizeof(buffer), &message, &error, TIMEOUT);
        alive = result == CHANNEL_OK && message.type == SERVICE_FAILED &&
                service_get_failed(&failed, message.body, message.size) &&
                failed.id == 4000000000u && failed.reason == SERVICE_NOT_PERMITTED;
        if (result == CHANNEL_OK)
            channel_message_clear(&message);
    } while (result == CHANNEL_OK && !alive);
    return alive;
}

/* Returns NULL if the outcome is the expected one, else what is wrong. */
static const char *
judge(int channel, enum outcome expected, const char *name)
{
    struct channel_message message;
    struct service_failed failed;
    struct error error;

    error_clear(&error);
    if (expected == LOST)
        return is_lost(channel, TIMEOUT) ? NULL : "the channel was not closed";
    if (expected != ALIVE) {
        if (channel_receive_wait(channel, service_worker_rules, service_worker_rule_count, buffer,
                                 sizeof(buffer), &message, &error, TIMEOUT) != CHANNEL_OK)
            return "no answer";
        if (message.type != SERVICE_FAILED ||
            !service_get_failed(&failed, message.body, message.size))
            return "the answer is not FAILED";
        if (expected == BAD_REQUEST && failed.reason != SERVICE_BAD_REQUEST)
            return "the answer is not BAD_REQUEST";
        if (expected == NOT_PERMITTED &&
            (failed.reason != SERVICE_NOT_PERMITTED || strstr(failed.text, name) == NULL))
            return "the answer is not NOT_PERMITTED with the context's name";
        if (failed.text[0] == '\0')
            return "the answer has no text";
    }
    return is_alive(channel) ? NULL : "the channel no longer answers";
}

static int failures;

static void
report(const char *name, const char *wrong)
{
    if (wrong == NULL) {
        printf("ok %s\n", name);
    } else {
        printf("FAIL %s: %s\n", name, wrong);
        failures++;
    }
}

/* ---- messages that break the rules ---- */

struct packet {
    const char *name;
    enum outcome outcome;
    uint16_t type;
    uint8_t fds; /* TCP connections that come with it */
    size_t body_size;
    const char *body;
};

#define BODY(text) sizeof(text) - 1, text

/* A body of ACCEPT: id, forms, deadline, length of the name, name. */
static const struct packet packets[] = {
    {"type 0", LOST, 0, 0, BODY("")},
    {"type 65535", LOST, 65535, 0, BODY("garbage")},
    {"a supervisor's message", LOST, SERVICE_WELCOME, 0, BODY("\0\1\0")},
    {"a handshaker's own message", LOST, SERVICE_FINISHED, 0, BODY("\0\0\0\0\0\0\0\0\0\0")},
    {"a control message", LOST, CONTROL_WORKER, 1, BODY("\0\0\0\0\0\0\0\0\0\0\0\0\0\0")},
    {"ACCEPT without an fd", LOST, SERVICE_ACCEPT, 0, BODY("\0\0\0\1\1\0\0\0\0\3www")},
    {"ACCEPT with two fds", LOST, SERVICE_ACCEPT, 2, BODY("\0\0\0\1\1\0\0\0\0\3www")},
    {"ACCEPT with four fds", LOST, SERVICE_ACCEPT, 4, BODY("\0\0\0\1\1\0\0\0\0\3www")},
    {"ACCEPT with 253 fds", LOST, SERVICE_ACCEPT, 253, BODY("\0\0\0\1\1\0\0\0\0\3www")},
    {"ACCEPT cut short", LOST, SERVICE_ACCEPT, 1, BODY("\0\0\0\1\1\0\0\0\0")},
    {"ACCEPT with half a name", LOST, SERVICE_ACCEPT, 1, BODY("\0\0\0\1\1\0\0\0\0\3ww")},
    {"ACCEPT with a byte too many", LOST, SERVICE_ACCEPT, 1, BODY("\0\0\0\1\1\0\0\0\0\3wwwX")},
    {"ACCEPT with no form", LOST, SERVICE_ACCEPT, 1, BODY("\0\0\0\1\0\0\0\0\0\3www")},
    {"ACCEPT with an unknown form", LOST, SERVICE_ACCEPT, 1, BODY("\0\0\0\1\x81\0\0\0\0\3www")},
    {"ACCEPT with NUL in the name", LOST, SERVICE_ACCEPT, 1, BODY("\0\0\0\1\1\0\0\0\0\3w\0w")},
    {"ACCEPT with a name of 64 bytes", LOST, SERVICE_ACCEPT, 1,
     BODY("\0\0\0\1\1\0\0\0\0\x40"
          "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")},
    {"ACCEPT with a name of 255 bytes that are not there", LOST, SERVICE_ACCEPT, 1,
     BODY("\0\0\0\1\1\0\0\0\0\xff"
          "a")},
    {"PULL with an fd", LOST, SERVICE_PULL, 1, BODY("\0\1\1\3www")},
    {"PULL cut short", LOST, SERVICE_PULL, 0, BODY("\0\1\1")},
    {"PULL with a byte too many", LOST, SERVICE_PULL, 0, BODY("\0\1\1\3wwwX")},
    {"CANCEL with an fd", LOST, SERVICE_CANCEL, 1, BODY("\0\0\0\1")},
    {"CANCEL cut short", LOST, SERVICE_CANCEL, 0, BODY("\0\0\0")},
    {"CANCEL too long", LOST, SERVICE_CANCEL, 0, BODY("\0\0\0\1\1")},
    {"CANCEL of nothing", ALIVE, SERVICE_CANCEL, 0, BODY("\xff\xff\xff\xff")},
};

static void
try_packets(void)
{
    int fds[253];

    for (size_t i = 0; i < 253; i++)
        fds[i] = -1;
    fds[0] = tcp_connected();
    for (size_t i = 1; i < 253; i++)
        fds[i] = dup(fds[0]);
    for (size_t i = 0; i < sizeof(packets) / sizeof(packets[0]); i++) {
        const struct packet *packet = &packets[i];
        struct view view;

        view_open(&view);
        send_typed(view.channel, packet->type, packet->body, packet->body_size, fds, packet->fds);
        report(packet->name, judge(view.channel, packet->outcome, context));
        view_close(&view);
    }
    for (size_t i = 0; i < 253; i++)
        close(fds[i]);
}

/* A packet whose length is the point. */
static void
try_sizes(void)
{
    static const size_t sizes[] = {1, 3, 1000, 65537, 65538, 65539, 90000};
    static uint8_t bytes[100000] = {0, SERVICE_ACCEPT};

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        char name[64];
        struct view view;
        int fd = tcp_connected();

        view_open(&view);
        snprintf(name, sizeof(name), "a message of %zu bytes", sizes[i]);
        send_raw(view.channel, bytes, sizes[i], &fd, 1);
        report(name, judge(view.channel, LOST, context));
        view_close(&view);
        close(fd);
    }
}

/* Bytes without any sense, each on a channel of its own. */
static void
try_garbage(void)
{
    const char *wrong = NULL;

    srandom(1);
    for (int round = 0; round < 60 && wrong == NULL; round++) {
        uint8_t bytes[512];
        size_t size = (size_t)random() % sizeof(bytes) + 1;
        struct view view;

        for (size_t i = 0; i < size; i++)
            bytes[i] = (uint8_t)random();
        if (size >= 2) {
            bytes[0] = 0;
            bytes[1] = (uint8_t)(SERVICE_ACCEPT + round % 3); /* a type that is allowed */
        }
        view_open(&view);
        send_raw(view.channel, bytes, size, NULL, 0);
        wrong = judge(view.channel, LOST, context);
        view_close(&view);
    }
    report("garbage, 60 times", wrong);
}

static void
try_wrong_fds(void)
{
    for (size_t i = 0; i < sizeof(wrong_fds) / sizeof(wrong_fds[0]); i++) {
        uint8_t body[256];
        char name[64];
        struct view view;
        size_t size = accept_body(body, 1, context);
        int fd;

        view_open(&view);
        fd = open_wrong_fd(wrong_fds[i], &view);
        if (fd == -1 && (errno == ENOSYS || errno == EPERM || errno == EINVAL)) {
            /* io_uring: not everywhere */
            printf("note: no %s here: %s\n", wrong_fds[i], strerror(errno));
            view_close(&view);
            continue;
        }
        if (fd == -1)
            fail(wrong_fds[i]);
        snprintf(name, sizeof(name), "ACCEPT with a %s", wrong_fds[i]);
        send_typed(view.channel, SERVICE_ACCEPT, body, size, &fd, 1);
        report(name, judge(view.channel, BAD_REQUEST, context));
        if (fd != view.channel && fd != view.greeting)
            close(fd);
        view_close(&view);
    }
}

static void
try_context(const char *title, const char *name)
{
    uint8_t body[256];
    struct view view;
    size_t size = accept_body(body, 1, name);
    int fd = tcp_connected();

    view_open(&view);
    send_typed(view.channel, SERVICE_ACCEPT, body, size, &fd, 1);
    report(title, judge(view.channel, NOT_PERMITTED, name));
    view_close(&view);
    close(fd);
}

/* Order: an id that is in use, and more credits than there may be. */
static void
try_order(void)
{
    struct service_pull pull = {.credits = 65535, .forms = SERVICE_FORM_RECORDS};
    uint8_t body[256];
    struct view view, second;
    size_t size;
    int fd = tcp_connected(), other = tcp_connected();

    view_open(&view);
    size = accept_body(body, 7, context);
    send_typed(view.channel, SERVICE_ACCEPT, body, size, &fd, 1);
    send_typed(view.channel, SERVICE_ACCEPT, body, size, &other, 1);
    report("ACCEPT with an id that is in use", judge(view.channel, LOST, context));
    view_close(&view);

    /* Both handshakes read from the one connection. */
    view_open(&view);
    view_open(&second);
    size = accept_body(body, 7, context);
    send_typed(view.channel, SERVICE_ACCEPT, body, size, &fd, 1);
    send_typed(second.channel, SERVICE_ACCEPT, body, size, &fd, 1);
    report("ACCEPT of a socket in the middle of another handshake",
           judge(second.channel, ALIVE, context));
    report("and of the other handshake", judge(view.channel, ALIVE, context));
    view_close(&second);
    view_close(&view);

    view_open(&view);
    snprintf(pull.context, sizeof(pull.context), "%s", context);
    size = service_put_pull(&pull, body, sizeof(body));
    send_typed(view.channel, SERVICE_PULL, body, size, NULL, 0);
    report("PULL with 65535 credits", judge(view.channel, LOST, context));
    view_close(&view);

    view_open(&view);
    send_typed(view.greeting, SERVICE_ACCEPT, body, size, NULL, 0);
    report("a word on the silent greeting", is_lost(view.greeting, TIMEOUT) ? NULL : "not closed");
    view_close(&view);
    close(fd);
    close(other);
}

/* One request without waiting. Returns 0, or -1 with errno. */
static int
send_now(int channel, const struct iovec *part, int fd)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *rights;

    memset(&control, 0, sizeof(control));
    rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(rights), &fd, sizeof(int));
    return sendmsg(channel, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == -1 ? -1 : 0;
}

/* Ask and ask and read no answer, until stdin ends. What happens to a channel is the agent's
 * choice: when it takes no more the flood goes on with a new one. */
static void
flood_agent(void)
{
    uint8_t packet[256] = {0, SERVICE_ACCEPT};
    const struct iovec part = {packet, 2 + accept_body(packet + 2, 1, "no-such-context")};
    struct pollfd end = {.fd = STDIN_FILENO, .events = POLLIN};
    int fd = tcp_connected(), sent = 0, channels = 0;

    while (poll(&end, 1, 0) == 0) {
        struct view view;
        int blocked = 0;

        view_open(&view);
        channels++;
        while (blocked < 20 && poll(&end, 1, 0) == 0) {
            if (send_now(view.channel, &part, fd) == 0) {
                blocked = 0;
                if (++sent == 1000)
                    puts("flooding");
            } else if (errno == EAGAIN || errno == ETOOMANYREFS) {
                poll(&(struct pollfd){.fd = view.channel, .events = POLLOUT}, 1, 10);
                blocked++;
            } else {
                break;
            }
        }
        view_close(&view);
    }
    close(fd);
    printf("flooded %d requests, %d channels\n", sent, channels);
}

/* A descriptor that freezes who closes it. */
static void
freeze_cell(int fd)
{
    uint8_t body[256];
    struct view view;
    char byte;

    view_open(&view); /* "denied" if this user is kept out */
    send_typed(view.channel, SERVICE_ACCEPT, body, accept_body(body, 1, context), &fd, 1);
    puts("frozen");
    while (read(STDIN_FILENO, &byte, 1) > 0)
        continue;
    view_close(&view);
}

/* A connection that nobody can touch: a child of ours is in the middle of reading from it, with
 * the socket's lock held, into memory of the file that freezes. */
static int
locked_connection(int frozen)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int peer = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fd;
    void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, frozen, 0);

    if (memory == MAP_FAILED || bind(listener, (struct sockaddr *)&address, size) == -1 ||
        listen(listener, 1) == -1 ||
        getsockname(listener, (struct sockaddr *)&address, &size) == -1 ||
        connect(peer, (struct sockaddr *)&address, size) == -1 ||
        (fd = accept(listener, NULL, NULL)) == -1 || write(peer, "\26\3\1", 3) != 3)
        fail("a connection to lock");
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)!read(fd, memory, 3);
        _exit(0);
    }
    poll(NULL, 0, 300);
    return fd;
}

int
main(int argc, char **argv)
{
    const struct passwd *user;
    int frozen = -1, server = -1;

    if (argc != 5 && argc != 6) {
        fputs("usage: hostile_worker SOCKET CONTEXT OTHER_CONTEXT USER [freeze|lock|flood]\n",
              stderr);
        return 2;
    }
    socket_path = argv[1];
    context = argv[2];
    other_context = argv[3];
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 6 && (strcmp(argv[5], "freeze") == 0 || strcmp(argv[5], "lock") == 0)) {
        frozen = frozen_open(&server);
        if (frozen == -1) {
            printf("no FUSE here: %s\n", strerror(errno));
            return 77;
        }
        printf("server %d\n", server);
    }
    if (geteuid() == 0) {
        user = getpwnam(argv[4]);
        if (user == NULL || setgroups(0, NULL) == -1 || setgid(user->pw_gid) == -1 ||
            setuid(user->pw_uid) == -1)
            fail("cannot become the user");
    }
    if (frozen != -1 && strcmp(argv[5], "lock") == 0)
        frozen = locked_connection(frozen);
    if (frozen != -1) {
        freeze_cell(frozen);
        return 0;
    }
    if (argc == 6 && strcmp(argv[5], "flood") == 0) {
        flood_agent();
        return 0;
    }
    try_packets();
    try_sizes();
    try_garbage();
    try_wrong_fds();
    try_context("a context that does not exist", "no-such-context");
    try_context("a context of somebody else", other_context);
    try_order();
    return failures > 0;
}
