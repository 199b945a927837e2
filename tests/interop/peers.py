#!/usr/bin/env python3
"""Peers that nobody here wrote: openssl s_client, curl and gnutls-cli against the example server."""
import hashlib
import pathlib
import shutil
import socket
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import (BUILD, Process, Scene, ca, check, context, facts_of, free_port, main, pattern, run,  # noqa: E402
                 wait_until)

IDENTITIES = ("rsa", "p256", "p384", "ed25519")
GROUPS = ("X25519", "P-256")
# AEAD: TLS 1.3 suite, TLS 1.2 suite for RSA and for the others, GnuTLS's cipher names.
AEADS = {
    "aes128": ("TLS_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256", "AES-128-GCM"),
    "aes256": ("TLS_AES_256_GCM_SHA384", "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384", "AES-256-GCM"),
    "chacha": ("TLS_CHACHA20_POLY1305_SHA256", "ECDHE-RSA-CHACHA20-POLY1305", "ECDHE-ECDSA-CHACHA20-POLY1305",
               "CHACHA20-POLY1305"),
}


def suite(version, aead, kind):
    return AEADS[aead][0 if version == "1.3" else 1 if kind == "rsa" else 2]


def groups(version, kind, group):
    """What the client offers. In TLS 1.2 an ECDSA certificate's own curve must be among them."""
    curve = {"p256": "P-256", "p384": "P-384"}.get(kind) if version == "1.2" else None
    return [group] if curve in (None, group) else [group, curve]


def combinations():
    for version in ("1.2", "1.3"):
        for aead in AEADS:
            for kind in IDENTITIES:
                for group in GROUPS:
                    yield version, aead, kind, group


class Servers:
    """One agent with a context for each kind of identity, and a server for each."""

    def __init__(self, scene, *options, listeners=False):
        ports = {kind: free_port() for kind in IDENTITIES}
        self.agent = scene.agent(*(
            context(kind, kind, **({"listen": f'{{"127.0.0.1:{ports[kind]}"}}'} if listeners else {}))
            for kind in IDENTITIES))
        self.ports = {}
        for kind in IDENTITIES:
            server = scene.server(self.agent, *options, name=kind, workers=1,
                                  listener=ports[kind] if listeners else None)
            self.ports[kind] = server.port


def judge(output, version, cipher, combination):
    page = facts_of(output.replace("\r", ""))
    check(page.get("TLS version") == f"TLSv{version}" and page.get("cipher") == cipher, combination, cipher, output[-1500:])


def s_client(port, version, aead, kind, group, *options):
    return ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost", "-CAfile", ca(),
            "-verify_return_error", "-verify_hostname", "localhost", "-tls1_" + version[2], "-groups", ":".join(groups(version, kind, group)),
            "-ciphersuites" if version == "1.3" else "-cipher", suite(version, aead, kind), *options]


REQUEST = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def each_combination(command, listeners=False):
    count = 0
    with Scene() as scene:
        servers = Servers(scene, listeners=listeners)
        for combination in combinations():
            version, aead, kind, group = combination
            done = subprocess.run(command(servers.ports[kind], *combination), input=REQUEST, text=True, timeout=30, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT)
            check(done.returncode == 0, combination, f"status {done.returncode}", done.stdout[-1500:])
            judge(done.stdout, version, suite(version, aead, kind), combination)
            count += 1
    print(f"{count} combinations")
    check(count >= 40, "combinations are missing")


def test_openssl_s_client():
    each_combination(lambda *a: s_client(*a, "-quiet"))


def test_openssl_s_client_when_the_agent_accepts():
    each_combination(lambda *a: s_client(*a, "-quiet"), listeners=True)


def curl(port, version, aead, kind, group, *options):
    return ["curl", "--silent", "--show-error", "--noproxy", "*", "--cacert", ca(), "--resolve",
            f"localhost:{port}:127.0.0.1", f"--tlsv{version}", "--tls-max", version, "--curves", ":".join(groups(version, kind, group)),
            "--tls13-ciphers" if version == "1.3" else "--ciphers", suite(version, aead, kind), *options]


def test_curl():
    each_combination(lambda port, *a: [*curl(port, *a), f"https://localhost:{port}/"])


def gnutls(port, version, aead, kind, group, *options):
    priority = ("NONE:+VERS-TLS{version}:+{cipher}:+AEAD:+SHA256:+SHA384:+ECDHE-RSA:+ECDHE-ECDSA:+COMP-NULL:"
                "+SIGN-ALL:+CTYPE-X509:{groups}").format(
                    version=version, cipher=AEADS[aead][3], groups=":".join(
                        "+GROUP-" + {"P-256": "SECP256R1", "P-384": "SECP384R1"}.get(name, name)
                        for name in groups(version, kind, group)))
    return ["gnutls-cli", "--port", str(port), "--priority", priority, "--x509cafile", ca(), "--verify-hostname",
            "localhost", "--sni-hostname", "localhost", *options, "127.0.0.1"]


def test_gnutls_cli():
    each_combination(lambda *a: gnutls(*a))


def test_gnutls_cli_resumes():
    with Scene() as scene:
        servers = Servers(scene)
        for version in ("1.2", "1.3"):
            for kind in IDENTITIES:
                done = subprocess.run(gnutls(servers.ports[kind], version, "aes128", kind, "X25519", "--resume"),
                                      input=REQUEST, text=True, timeout=30, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT)
                check(done.returncode == 0 and "This is a resumed session" in done.stdout, version, kind, done.stdout)


def test_openssl_s_client_resumes():
    with Scene() as scene:
        servers = Servers(scene)
        for version in ("1.2", "1.3"):
            for kind in IDENTITIES:
                session = scene.directory / "session"
                for word, option in (("no", "-sess_out"), ("yes", "-sess_in")):
                    done = subprocess.run(s_client(servers.ports[kind], version, "aes256", kind, "X25519", "-ign_eof",
                                                   option, str(session)), input=REQUEST, text=True, timeout=30,
                                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                    check(facts_of(done.stdout).get("resumed") == word, version, kind, option, done.stdout[-1500:])


def bulk(size, directions):
    """curl downloads and uploads, byte-exact, with each version and AEAD."""
    with Scene() as scene:
        servers = Servers(scene)
        expected = hashlib.sha256(pattern(size)).hexdigest()
        file = scene.directory / "body"
        file.write_bytes(pattern(size))
        for version in ("1.2", "1.3"):
            for aead in AEADS:
                for direction in directions:
                    port = servers.ports["p256"]
                    options = [] if direction == "down" else ["--data-binary", f"@{file}"]
                    path = f"bytes/{size}" if direction == "down" else "echo"
                    got = scene.directory / "got"
                    run([*curl(port, version, aead, "p256", "X25519", "--max-time", "60", "--output", got, *options),
                         f"https://localhost:{port}/{path}"])
                    digest = hashlib.sha256()
                    with open(got, "rb") as stream:
                        while block := stream.read(1 << 20):
                            digest.update(block)
                    check(digest.hexdigest() == expected, version, aead, direction, got.stat().st_size)


def test_one_byte_each_way():
    bulk(1, ("down", "both"))


def test_100_megabytes_down():
    bulk(100_000_000, ("down",))


def test_100_megabytes_both_ways():
    bulk(100_000_000, ("both",))


def echo_by(command, body):
    """Send the body with a program that copies its stdin to the connection; it must come back whole."""
    peer = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL)
    limit = threading.Timer(100, peer.kill)
    limit.start()

    def write():
        try:
            peer.stdin.write(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            peer.stdin.flush()  # and it stays open: some programs take its end for the connection's
        except BrokenPipeError:
            pass
    writer = threading.Thread(target=write)
    writer.start()
    try:
        for line in peer.stdout:  # what the program itself says comes first
            if line.startswith(b"HTTP/1.1 "):
                break
        else:
            raise AssertionError(f"no answer: {command}")
        check(line.startswith(b"HTTP/1.1 200 "), line, command)
        while peer.stdout.readline() not in (b"\r\n", b""):
            pass
        got = peer.stdout.read(len(body))
        check(got == body, f"{len(got)} bytes came back, not the same: {command}")
    finally:
        limit.cancel()
        peer.kill()
        peer.wait()
        writer.join()


def test_20_megabytes_each_way_by_other_clients():
    """What curl does above, by the other two; and all three where the agent accepts. gnutls-cli carries less: it
    writes what it receives byte by byte."""
    body = pattern(20_000_000)
    for listeners, versions in ((False, ("1.2", "1.3")), (True, ("1.3",))):
        with Scene() as scene:
            port = Servers(scene, listeners=listeners).ports["p256"]
            for version in versions:
                echo_by(s_client(port, version, "aes256", "p256", "X25519", "-quiet", "-nocommands"), body)
                echo_by(gnutls(port, version, "aes128", "p256", "X25519", "--logfile", scene.directory / "gnutls.log"),
                        body[:2_000_000])
            if listeners:
                sent, got = scene.directory / "sent", scene.directory / "got"
                sent.write_bytes(body)
                run([*curl(port, "1.3", "chacha", "p256", "X25519", "--max-time", "60", "--output", got, "--data-binary",
                           f"@{sent}"), f"https://localhost:{port}/echo"])
                check(got.read_bytes() == body, "curl", got.stat().st_size)


def test_server_speaks_first():
    with Scene() as scene:
        greeting = "220 mail.example ready"
        agent = scene.agent(*(context(kind, kind) for kind in IDENTITIES))
        for kind in ("rsa", "p256"):
            port = free_port()
            server = Process(scene, f"greeter-{kind}", [
                BUILD / "examples/https-server", "--context", kind, "--listen", f"127.0.0.1:{port}", "--workers", "1",
                "--socket", agent.socket, "--greet", greeting])
            wait_until(lambda: server.alive() and listens(port), 5, "listens")
            for version in ("1.2", "1.3"):
                for command in (s_client(port, version, "aes128", kind, "X25519", "-quiet"),
                                gnutls(port, version, "aes128", kind, "X25519")):
                    peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=subprocess.STDOUT, text=True)
                    try:
                        for line in peer.stdout:  # until the greeting; nothing was said to the server
                            if greeting in line:
                                break
                        else:
                            raise AssertionError(f"no greeting: {command}")
                        rest, _ = peer.communicate(REQUEST, timeout=20)
                        check(f"TLSv{version}" in rest, rest[-1000:])
                    finally:
                        peer.kill()
                        peer.wait()


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


for program in ("openssl", "curl", "gnutls-cli"):
    if shutil.which(program) is None:
        print(f"SKIP peers: {program} is not installed")
        sys.exit(1)
main()
