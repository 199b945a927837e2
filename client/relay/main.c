/*
 * main.c: the program tlsagent-relay: the relay of one process, for as long as it has connections.
 *
 * Role: started by libtlsagent or `tlsagent serve` with a channel as fd 3, under their user. It
 * makes itself a child of nobody in particular, so that a program that counts its children does
 * not see one it did not make, and so that it outlives its starter: what was exec'd on the plain
 * side may go on for long. It enters its sandbox before it takes the first connection.
 * Trust: see relay.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "client/pool.h"
#include "client/relay/relay.h"
#include "sandbox/sandbox.h"

#define CHANNEL_FD  3
#define FDS_RESERVE 16 /* not for connections */

static int
complain(const char *text)
{
    fprintf(stderr, "tlsagent-relay: %s\n", text);
    return 1;
}

/* The wish of those who press Ctrl-C or stop a service is for the workers: when their ends are
 * closed we end by ourselves, with everything delivered. */
static void
ignore_signals(void)
{
    static const int signals[] = {SIGINT,  SIGTERM, SIGHUP,  SIGQUIT, SIGPIPE,
                                  SIGTSTP, SIGUSR1, SIGUSR2, SIGALRM};
    sigset_t none;

    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        signal(signals[i], SIG_IGN);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* As many descriptors as we may have. Returns how many connections fit. */
static size_t
raise_limit(void)
{
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files) == -1)
        return 1;
    files.rlim_cur = files.rlim_max < 131072 ? files.rlim_max : 131072; /* as sandbox/policy.c */
    setrlimit(RLIMIT_NOFILE, &files);
    return files.rlim_cur > FDS_RESERVE + 2 ? (files.rlim_cur - FDS_RESERVE) / 2 : 1;
}

/* libcrypto looks things up and opens files at its first use: let that be now. */
static int
warm_up(void)
{
    static const uint8_t key[TRAFFIC_KEY_MAX];
    static const enum traffic_aead aeads[] = {TRAFFIC_AES_128_GCM, TRAFFIC_AES_256_GCM,
                                              TRAFFIC_CHACHA20_POLY1305};
    struct traffic_keys keys = {0};
    const struct traffic_suite *suites[] = {traffic_suite_find(0x1301), traffic_suite_find(0x1302)};

    for (size_t i = 0; i < sizeof(aeads) / sizeof(aeads[0]); i++) {
        for (int sealing = 0; sealing <= 1; sealing++) {
            bool made = pool_cipher(aeads[i], sealing == 1, 1, 0, key) != NULL;

            pool_release();
            pool_forget(aeads[i], 1);
            if (!made)
                return -1;
        }
    }
    for (size_t i = 0; i < 2; i++) { /* KeyUpdate: both hashes */
        if (traffic_keys_update(suites[i], &keys) == -1)
            return -1;
    }
    return 0;
}

int
main(int argc, char **argv)
{
    struct error error = {""};
    struct relay *relay;
    uint8_t body[2];
    size_t connections;

    if (argc != 2 || strcmp(argv[1], "--channel") != 0 || fcntl(CHANNEL_FD, F_GETFD) == -1)
        return complain("this is a part of libtlsagent and is started by it");
    switch (fork()) {
    case -1:
        return complain(strerror(errno));
    case 0:
        break;
    default:
        _exit(0);
    }
    ignore_signals();
    if (close_range(CHANNEL_FD + 1, ~0U, 0) == -1 || chdir("/") == -1)
        return complain(strerror(errno));
    connections = raise_limit();
    relay = relay_new(CHANNEL_FD, connections, &error);
    if (relay == NULL)
        return complain(error.text);
    if (warm_up() == -1)
        return complain("libcrypto cannot AES-GCM, ChaCha20-Poly1305 or HKDF");
    if (sandbox_enter(SANDBOX_RELAY, 0, 0, 0, &error) == -1)
        return complain(error.text);
    if (channel_send(CHANNEL_FD, RELAY_READY, body,
                     relay_put_ready(RELAY_PROTOCOL, body, sizeof(body)), NULL, 0) != CHANNEL_OK)
        return 0; /* nobody wants us any more */
    while (relay_run(relay, -1))
        continue;
    relay_free(relay);
    return 0;
}
