/*
 * worker.c: a worker that does what a careless or unlucky program does. For the end-to-end tests.
 *
 *   worker MODE SOCKET CONTEXT USER [ARGUMENT]
 *
 *   echo      one connection after the other, blocking: reads and writes back
 *   sndbuf    as echo, with the smallest send buffer, and says "hello" first
 *   silent    says nothing until it gets a line on stdin, then "hello", then as echo
 *   flip      as echo, but a thread flips O_NONBLOCK during the handshake
 *   steal     reads from the fd during the handshake, too
 *   fork      as echo, but after each message a child tries to use the connection
 *   heap N    takes N connections at once and prints what one costs; then answers one request each
 *
 * Says on stdout "port N", then what happens: "done ...", "failed CODE TEXT", "eof", "error CODE
 * TEXT". As root it becomes USER first ("-": stay).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <malloc.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <pwd.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client/tlsagent.h"

static const char *mode;
static atomic_bool meddling; /* the thread of flip and steal goes on */

static void __attribute__((noreturn)) fail(const char *what)
{
    fprintf(stderr, "worker: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double
seconds(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int
listen_anywhere(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd == -1 || bind(fd, (struct sockaddr *)&address, size) == -1 || listen(fd, 1024) == -1 ||
        getsockname(fd, (struct sockaddr *)&address, &size) == -1)
        fail("listen");
    printf("port %d\n", ntohs(address.sin_port));
    return fd;
}

static void
become(const char *name)
{
    const struct passwd *user;

    if (geteuid() != 0 || strcmp(name, "-") == 0)
        return;
    user = getpwnam(name);
    if (user == NULL || setgroups(0, NULL) == -1 || setgid(user->pw_gid) == -1 ||
        setuid(user->pw_uid) == -1)
        fail(name);
}

/* The fd is shared with the agent: what is done to it here is done to it there. */
static void *
meddle(void *data)
{
    int fd = *(int *)data;
    bool steal = strcmp(mode, "steal") == 0;
    char byte;

    while (meddling) {
        int flags = fcntl(fd, F_GETFL);

        fcntl(fd, F_SETFL, flags ^ O_NONBLOCK);
        if (steal)
            recv(fd, &byte, 1, MSG_DONTWAIT);
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    return NULL;
}

static int
handshake(struct tlsagent *agent, struct tlsagent_conn *conn, int fd)
{
    pthread_t thread;
    int result;

    if (strcmp(mode, "flip") != 0 && strcmp(mode, "steal") != 0)
        return tlsagent_handshake(conn);
    meddling = true;
    if (pthread_create(&thread, NULL, meddle, &fd) != 0)
        fail("pthread_create");
    while ((result = tlsagent_handshake(conn)) == TLSAGENT_WANT_POLLIN)
        poll(&(struct pollfd){.fd = tlsagent_fd(agent), .events = POLLIN}, 1, 1000);
    meddling = false;
    pthread_join(thread, NULL);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    return result;
}

/* A child that goes on as if the connection were its own: every call must say no. */
static void
try_in_child(struct tlsagent_conn *conn)
{
    char bytes[16];
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        int wrong = 0;

        wrong |= tlsagent_write(conn, "child", 5) != -1 ? 1 : 0;
        wrong |= tlsagent_error_code(conn) != TLSAGENT_E_FORKED ? 2 : 0;
        wrong |= tlsagent_read(conn, bytes, sizeof(bytes)) != -1 ? 4 : 0;
        wrong |= tlsagent_error_code(conn) != TLSAGENT_E_FORKED ? 8 : 0;
        wrong |= strlen(tlsagent_error(conn)) == 0 ? 16 : 0;
        wrong |= tlsagent_shutdown(conn) != -1 ? 32 : 0;
        tlsagent_close(conn);
        _exit(wrong);
    }
    if (pid == -1 || waitpid(pid, &status, 0) != pid)
        fail("fork");
    printf("child 0x%x\n", (unsigned)status);
}

/* Tell the peer which certificates of it the agent tells us: a line of hexadecimal for each. */
static void
tell_peer(struct tlsagent_conn *conn)
{
    char text[20000];

    for (size_t i = 0; i < tlsagent_conn_peer_count(conn); i++) {
        size_t size, length = 0;
        const uint8_t *der = tlsagent_conn_peer_der(conn, i, &size);

        for (size_t j = 0; j < size && length + 4 < sizeof(text); j++)
            length += (size_t)snprintf(text + length, sizeof(text) - length, "%02x", der[j]);
        text[length++] = '\n';
        tlsagent_write(conn, text, length);
    }
    tlsagent_write(conn, "end\n", 4);
}

static void
talk(struct tlsagent_conn *conn)
{
    char buffer[16384];
    ssize_t size;

    if (strcmp(mode, "peer") == 0)
        tell_peer(conn);

    if (strcmp(mode, "silent") == 0 && fgets(buffer, sizeof(buffer), stdin) == NULL)
        fail("stdin");
    if (strcmp(mode, "silent") == 0 || strcmp(mode, "sndbuf") == 0)
        tlsagent_write(conn, "hello", 5);
    while ((size = tlsagent_read(conn, buffer, sizeof(buffer))) > 0) {
        if (strcmp(mode, "fork") == 0)
            try_in_child(conn);
        for (ssize_t done = 0, n; done < size; done += n)
            if ((n = tlsagent_write(conn, buffer + done, (size_t)(size - done))) < 0)
                break;
    }
    if (size == 0)
        puts("eof");
    else
        printf("error %d %s\n", tlsagent_error_code(conn), tlsagent_error(conn));
}

static void
serve_one(struct tlsagent *agent, const char *context, int listener)
{
    struct tlsagent_conn *conn;
    double start;
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

    if (fd == -1)
        fail("accept");
    if (strcmp(mode, "sndbuf") == 0)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){1}, sizeof(int));
    start = seconds();
    conn = tlsagent_accept_fd(agent, context, fd);
    if (conn == NULL)
        fail(tlsagent_agent_error(agent));
    if (handshake(agent, conn, fd) == 0) {
        printf("done %s %s %s in %.3f\n", tlsagent_conn_version(conn), tlsagent_conn_cipher(conn),
               tlsagent_conn_resumed(conn) ? "resumed" : "full", seconds() - start);
        talk(conn);
    } else {
        printf("failed %d %s\n", tlsagent_error_code(conn), tlsagent_error(conn));
    }
    tlsagent_close(conn);
    close(fd);
}

/* Private memory of this process, bytes: heap and everything else that it has written to. */
static long
private_memory(void)
{
    FILE *file = fopen("/proc/self/smaps_rollup", "re");
    char line[256];
    long total = 0, kilobytes;

    if (file == NULL)
        fail("/proc/self/smaps_rollup");
    while (fgets(line, sizeof(line), file) != NULL)
        if (sscanf(line, "Private_Dirty: %ld kB", &kilobytes) == 1)
            total = kilobytes * 1024;
    fclose(file);
    return total;
}

static void
answer_one(struct tlsagent_conn *conn)
{
    char answer[256], request[1024];
    int size = snprintf(answer, sizeof(answer), "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n");

    for (unsigned k = 0; k < 100; k++)
        answer[size++] = (char)(k * k >> 5);
    if (tlsagent_read(conn, request, sizeof(request)) <= 0 ||
        tlsagent_write(conn, answer, (size_t)size) != size)
        printf("error %d %s\n", tlsagent_error_code(conn), tlsagent_error(conn));
    tlsagent_shutdown(conn);
}

/* heap N: a first tenth of them warms up what is shared (pools, tables); the rest is measured. */
static void
serve_heap(struct tlsagent *agent, const char *context, int listener, size_t count)
{
    struct tlsagent_conn **all = calloc(count, sizeof(struct tlsagent_conn *));
    struct pollfd entries[2] = {{.fd = listener, .events = POLLIN},
                                {.fd = tlsagent_fd(agent), .events = POLLIN}};
    size_t accepted = 0, finished = 0, warm = count / 10;
    long heap = 0, memory = 0;

    if (all == NULL)
        fail("calloc");
    while (finished < count) {
        struct tlsagent_conn *conn;

        entries[0].events = accepted < (finished < warm ? warm : count) ? POLLIN : 0;
        if (poll(entries, 2, 60000) <= 0)
            fail("no connections");
        if (entries[0].revents != 0) {
            int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

            conn = fd == -1 ? NULL : tlsagent_accept_fd(agent, context, fd);
            if (conn == NULL)
                fail("accept");
            if (tlsagent_handshake(conn) == -1)
                fail(tlsagent_error(conn));
            accepted++;
        }
        while ((conn = tlsagent_next(agent)) != NULL) {
            if (tlsagent_handshake(conn) != 0)
                fail(tlsagent_error(conn));
            all[finished++] = conn;
            if (finished == warm) {
                heap = (long)mallinfo2().uordblks + (long)mallinfo2().hblkhd;
                memory = private_memory();
            }
        }
    }
    printf("heap %ld memory %ld\n",
           ((long)mallinfo2().uordblks + (long)mallinfo2().hblkhd - heap) / (long)(count - warm),
           (private_memory() - memory) / (long)(count - warm));
    for (size_t i = 0; i < count; i++) {
        int fd = tlsagent_conn_fd(all[i]);

        fcntl(fd, F_SETFL, 0);
        answer_one(all[i]);
        tlsagent_close(all[i]);
        close(fd);
    }
    puts("answered");
}

int
main(int argc, char **argv)
{
    struct rlimit files;
    struct tlsagent *agent;
    int listener;

    if (argc < 5) {
        fputs("usage: worker MODE SOCKET CONTEXT USER [ARGUMENT]\n", stderr);
        return 2;
    }
    mode = argv[1];
    setvbuf(stdout, NULL, _IOLBF, 0);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    listener = listen_anywhere();
    become(argv[4]);
    agent = tlsagent_open(argv[2]);
    if (agent == NULL)
        fail("tlsagent_open");
    if (strcmp(mode, "heap") == 0 && argc > 5) {
        serve_heap(agent, argv[3], listener, strtoull(argv[5], NULL, 10));
        return 0;
    }
    for (;;)
        serve_one(agent, argv[3], listener);
}
