/*
 * execer.c: a worker that uses the stream form of libtlsagent: it accepts TLS connections and runs
 * a program for each, with the plain descriptor as its stdin and stdout.
 *
 *   execer AGENT-SOCKET CONTEXT USER early|late PROGRAM [ARG...]
 *
 * late: a line is read through the library first, and given back to the peer.
 */
#include <arpa/inet.h>
#include <err.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/tlsagent.h"

static void
serve(struct tlsagent *agent, const char *context, int fd, int late, char **program)
{
    struct tlsagent_conn *conn = tlsagent_accept_fd(agent, context, fd);
    char byte = 0;
    int plain;

    if (tlsagent_handshake(conn) == -1)
        errx(1, "handshake: %s", tlsagent_error(conn));
    while (late && byte != '\n') {
        if (tlsagent_read(conn, &byte, 1) != 1 || tlsagent_write(conn, &byte, 1) != 1)
            errx(1, "%s", tlsagent_error(conn));
    }
    plain = tlsagent_stream_fd(conn);
    if (plain == -1)
        errx(1, "stream: %s", tlsagent_error(conn));
    printf("form %s\n", tlsagent_conn_form(conn));
    fflush(stdout);
    if (tlsagent_read(conn, &byte, 1) != -1 || tlsagent_close(conn) != 0)
        errx(1, "a connection that was given away can still be used");
    close(fd);
    if (fork() == 0) {
        signal(SIGCHLD, SIG_DFL);
        dup2(plain, 0);
        dup2(plain, 1);
        execvp(program[0], program);
        err(127, "%s", program[0]);
    }
    close(plain);
}

int
main(int argc, char **argv)
{
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t size = sizeof(here);
    const struct passwd *user;
    struct tlsagent *agent;

    if (argc < 6)
        errx(2, "usage: execer AGENT-SOCKET CONTEXT USER early|late PROGRAM [ARG...]");
    user = getpwnam(argv[3]);
    if (geteuid() == 0 && (user == NULL || initgroups(argv[3], user->pw_gid) == -1 ||
                           setgid(user->pw_gid) == -1 || setuid(user->pw_uid) == -1))
        err(1, "%s", argv[3]);
    signal(SIGCHLD, SIG_IGN);
    agent = tlsagent_open(argv[1]);
    if (agent == NULL || bind(listener, (struct sockaddr *)&here, sizeof(here)) == -1 ||
        listen(listener, 16) == -1 || getsockname(listener, (struct sockaddr *)&here, &size) == -1)
        err(1, "start");
    printf("port %d\n", ntohs(here.sin_port));
    fflush(stdout);
    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) != -1)
        serve(agent, argv[2], fd, strcmp(argv[4], "late") == 0, argv + 5);
    return 1;
}
