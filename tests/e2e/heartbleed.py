#!/usr/bin/env python3
# run alone: it stops processes for a moment.
"""After thousands of handshakes the memory of no process holds what it must not: all of it is read, as root.

Needles: every number of every private key (big-endian, and little-endian, which is how libcrypto's limbs lie in
memory), its DER and PEM, what Montgomery's method makes of its primes, everything in the generation's secret part,
the ticket keys, those of single tickets while their handshakes were in flight; and for the handshaker the secrets of every connection that was finished, from the clients' side.
That the needles are the right ones is seen in the keeper's secret memory (read by a trick, tests/peers/scan.c), that
the scan finds them by planting one in each process.
"""
import collections
import hashlib
import hmac
import os
import pathlib
import re
import struct
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import BUILD, ROOT, SANITIZED, Process, Scene, Skip, ca, check, children, context, identity, main, run, tls_connect  # noqa: E402
from serve_lib import relays, start_serve  # noqa: E402

SCAN = BUILD / "tests/peers/scan"
KINDS = ("rsa", "p256", "p384", "ed25519")
HANDSHAKES = int(os.environ.get("HEARTBLEED_HANDSHAKES", 5000))
MAGIC = b"TLSASEC1"  # of agent/generation_format.h
TICKETS_MAGIC = b"TLSATKT1"  # of agent/ticket_state.c
KEYOPS = (pathlib.Path(__file__).resolve().parents[2] / "protocol/keyops.h").read_text()
P256_ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551
P384_ORDER = 0xffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973


# ---- needles of keys ----

def both_orders(name, number, size):
    return {f"{name}-be": number.to_bytes(size, "big"), f"{name}-le": number.to_bytes(size, "little")}


def numbers_of(key):
    """{"prime1": number, ...} of `openssl pkey -text`."""
    text = run(["openssl", "pkey", "-in", key, "-noout", "-text"]).stdout
    return {name: int(digits.replace(":", "").replace("\n", "").replace(" ", ""), 16)
            for name, digits in re.findall(r"^(\w+):\n((?:    [0-9a-f:]+\n)+)", text, re.M)}


def rsa_needles(label, key):
    numbers = numbers_of(key)
    needles = both_orders(f"{label}-d", numbers["privateExponent"], 256)
    for name in ("prime1", "prime2", "exponent1", "exponent2", "coefficient"):
        needles |= both_orders(f"{label}-{name}", numbers[name], 128)
    for name in ("prime1", "prime2"):
        radix = 1 << 1024
        needles |= both_orders(f"{label}-{name}-R", radix % numbers[name], 128)
        needles |= both_orders(f"{label}-{name}-RR", radix * radix % numbers[name], 128)
    return needles


def ec_needles(label, key, order, size):
    secret = numbers_of(key)["priv"]
    needles = both_orders(f"{label}-d", secret, size)
    needles |= both_orders(f"{label}-d-montgomery", secret * (1 << 8 * size) % order, size)
    return needles


def ed25519_needles(label, key):
    seed = numbers_of(key)["priv"].to_bytes(32, "big")
    expanded = bytearray(hashlib.sha512(seed).digest())
    expanded[0] &= 248
    expanded[31] = expanded[31] & 63 | 64
    return {f"{label}-seed-be": seed, f"{label}-seed-le": seed[::-1], f"{label}-scalar": bytes(expanded[:32]),
            f"{label}-prefix": bytes(expanded[32:])}


def der(pem):
    return [subprocess.run(["base64", "-d", "-i"], input=body.encode(), stdout=subprocess.PIPE, check=True).stdout
            for body in re.findall(r"-----BEGIN CERTIFICATE-----(.*?)-----END", pem, re.S)]


def key_needles():
    needles, public = {}, b""
    for label in KINDS:
        certificate, key = identity(label, label)
        public += b"".join(der(certificate.read_text()))
        if label == "rsa":
            needles |= rsa_needles(label, key)
        elif label == "ed25519":
            needles |= ed25519_needles(label, key)
        else:
            needles |= ec_needles(label, key, *((P256_ORDER, 32) if label == "p256" else (P384_ORDER, 48)))
        body = key.read_text().split("-----")[2].strip()
        needles |= {f"{label}-pem-{i}": line.encode() for i, line in enumerate(body.split("\n")) if len(line) == 64}
    return needles, public


def hkdf_sha256(secret, info, size):
    block = hmac.new(bytes(32), secret, "sha256").digest()
    out, previous, count = b"", b"", 1
    while len(out) < size:
        previous = hmac.new(block, previous + info + bytes([count]), "sha256").digest()
        out, count = out + previous, count + 1
    return out[:size]


def generation_needles(part, public):
    """What lies in the generation's secret part (behind magic, number and build id), but for what is public."""
    start = len(MAGIC) + 4
    start += 1 + part[start]
    part = part.rstrip(b"\0")
    return {f"generation-{at}": part[at:at + 16] for at in range(start, len(part) - 16, 16)
            if part[at:at + 16] not in public}


def ticket_needles(page):
    """The secrets in the page of ticket keys (struct ticket_state), and the key of now that follows from them."""
    now, needles = int(time.time()), {}
    source = 16
    period = struct.unpack_from("=I", page, source + 4)[0]
    filter_size = sum(int(re.search(rf"#define KEYOPS_{name}_SIZE\s+(\d+)", KEYOPS).group(1))
                      for name in ("KEY_NAME", "HMAC"))
    slots = source + 16 + (filter_size + 7) // 8 * 8
    for i in range(2):
        number, secret = struct.unpack_from("=Q32s", page, slots + 72 * i)
        if any(secret):
            needles[f"ticket-secret-{i}"] = secret
            for _ in range(max(0, now // period - number)):
                secret = hashlib.sha256(b"tlsagent ticket ratchet" + secret).digest()
            needles["ticket-secret-now"] = secret
            needles["ticket-key-now"] = hkdf_sha256(secret, b"tlsagent ticket key", 32)
    return needles


# ---- needles of connections ----

def expand_label(secret, label, size):
    digest = "sha256" if len(secret) == 32 else "sha384"
    label = b"tls13 " + label
    info = struct.pack(">HB", size, len(label)) + label + b"\0"
    return hmac.new(secret, info + b"\1", digest).digest()[:size]


def prf_sha(secret, seed, size, digest):
    out, a = b"", seed
    while len(out) < size:
        a = hmac.new(secret, a, digest).digest()
        out += hmac.new(secret, a + seed, digest).digest()
    return out[:size]


def connection_needles(keylog):
    needles, masters = {}, {}
    for number, line in enumerate(keylog.read_text().splitlines()):
        words = line.split()
        if words[0] == "SESSION":
            needles[f"session-{number}"] = bytes.fromhex(words[1])
        elif words[0] == "CLIENT_RANDOM":
            masters[words[1]] = bytes.fromhex(words[2])
            needles[f"master-{number}"] = masters[words[1]]
        elif words[0] == "SERVER_RANDOM":
            seed = b"key expansion" + bytes.fromhex(words[2]) + bytes.fromhex(words[1])
            for digest in ("sha256", "sha384"):
                block = prf_sha(masters[words[1]], seed, 64, digest)
                needles[f"tls12-{digest}-{number}"] = block
        else:
            secret = bytes.fromhex(words[2])
            needles[f"{words[0].lower()}-{number}"] = secret
            if "TRAFFIC_SECRET_0" in words[0]:
                for size in (16, 32):
                    needles[f"tls13-key-{size}-{number}"] = expand_label(secret, b"key", size)
    return needles


# ---- the scan ----

def scan(directory, needles, *pids):
    """Output lines of the scan, and what it found."""
    path = directory / "needles"
    path.write_text("".join(f"{name} {value.hex()}\n" for name, value in needles.items()))
    lines = run([SCAN, "find", path, *pids], check_status=False, timeout=200).stdout.splitlines()
    check(lines and lines[-1].startswith("hits "), lines)
    return lines, [line for line in lines if line.startswith("hit ")]


def processes(agent, server, serve):
    names = {agent.pid: "supervisor", **agent.roles(), serve.pid: "serve"}
    names |= {pid: "relay" for pid in relays() if pid not in serve.relays_of_others}
    names |= {pid: "worker" for pid in children(server.pid)}
    return names


def secret_memory(pid):
    lines = run([SCAN, "dump", pid]).stdout.split()
    check(len(lines) >= 2, "the keeper has no memfd_secret: this kernel has none?", len(lines))
    return [bytes.fromhex(line) for line in lines]


def test_after_5000_handshakes_no_memory_holds_a_key():
    if not ROOT:
        raise Skip("only root may read the memory of others")
    if SANITIZED:
        raise Skip("the sanitizers keep freed memory")
    with Scene() as scene:
        agent = scene.agent(context("www", *KINDS))
        server = scene.server(agent, workers=2)
        os.environ["SSLKEYLOGFILE"] = str(scene.directory / "keylog")
        load = scene.load(server.port, "all", HANDSHAKES, 32)
        del os.environ["SSLKEYLOGFILE"]
        check(load.process.wait(250) == 0, load.text()[-3000:])
        others = relays()
        serve = start_serve(scene, agent, "cat")
        serve.relays_of_others = others
        kept = [tls_connect(serve.port) for _ in range(20)]
        for connection in kept:
            connection.sendall(b"x" * 5000)
            while len(connection.recv(5000)) == 0:
                pass
        check(len(relays()) > len(others), "there is a relay")
        print(load.lines()[-1])
        names = processes(agent, server, serve)

        keys, public = key_needles()
        keeper = agent.pids("keeper")[0]
        parts = secret_memory(keeper)
        keys |= generation_needles(next(part for part in parts if part.startswith(MAGIC)), public)
        keys |= ticket_needles(next(part for part in parts if part.startswith(TICKETS_MAGIC)))
        inside = {name for name, value in keys.items() if any(value in part for part in parts)}
        expected = {"rsa-d-le", "rsa-d-be", "rsa-prime1-le", "rsa-prime2-le", "rsa-coefficient-le", "rsa-prime1-RR-le",
                    "rsa-prime2-RR-le", "p256-d-le", "p384-d-le", "p256-d-be", "ed25519-seed-be",
                    "ticket-secret-0", "ticket-key-now"}
        print(f"{len(keys)} needles of keys, {len(inside)} of them seen in the keeper's secret memory")
        check(expected <= inside, "needles that are not in the keeper, so they are wrong:", expected - inside)

        connections = connection_needles(scene.directory / "keylog")
        lines, hits = scan(scene.directory, keys | connections, *names)
        for line in lines:
            words = line.split()
            if words[0] in ("scanned", "secret"):
                print(f"{names[int(words[1])]} (pid {words[1]}): {words[0]} {int(words[2]) // 1024} KiB "
                      f"{' '.join(words[3:])}")
        print(f"{len(keys | connections)} needles: {len(hits)} hits")
        found = collections.Counter((names[int(line.split()[1])], re.sub(r"-\d+\+\d+$", "", line.split()[2]),
                                     line.split()[4]) for line in hits)
        check(not hits, "\n".join(f"{count} times {key}" for key, count in found.most_common()))
        scanned = {int(line.split()[1]) for line in lines if line.startswith("scanned ")}
        check(scanned == set(names), "not all were scanned")
        check(any(line.startswith(f"secret {keeper} ") for line in lines), "root can read the keeper's keys")

        # The same scan finds what is there.
        for pid, name in names.items():
            for needle in ("rsa-prime1-le", "ed25519-seed-be"):
                run([SCAN, "plant", keys[needle].hex(), pid])
                _, hits = scan(scene.directory, keys, pid)
                check(any(needle in line for line in hits), f"a planted {needle} was not found in {name}")
                run([SCAN, "unplant", len(keys[needle]), pid])
        _, hits = scan(scene.directory, keys, *names)
        check(not hits, hits)
        print(f"planted copies were found in all {len(names)} processes")
        check(processes(agent, server, serve) == names, "a process was replaced")
        for connection in kept:
            connection.close()


# ---- keys of single tickets ----

# struct onetime_keys (agent/onetime.h): scope (32), period (4), padding (4), count (8), KEYS times nonce (16) and key (32)
KEYS = int(re.search(r"#define KEYOPS_KEYS_MAX\s+(\d+)", KEYOPS).group(1))
HEAD, EACH = 48, 48


def memory_of(pid):
    """All that can be read of it, mapping by mapping."""
    parts = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb") as memory:
        for line in maps:
            start, end = (int(number, 16) for number in line.split()[0].split("-"))
            try:
                memory.seek(start)
                parts.append(memory.read(end - start))
            except (OSError, ValueError, OverflowError):
                continue
    return parts


def places(part, needle):
    return [match.start() for match in re.finditer(re.escape(needle), part)]


def keys_in_hand(parts, nonces):
    """{nonce: key} of all connections in flight with the scope and period of these nonces' ones."""
    heads = set()
    for part in parts:
        for start in [at - HEAD - slot * EACH for nonce in nonces for at in places(part, nonce) for slot in range(KEYS)]:
            if start >= 0 and any(part[start:start + 32]) and 1 <= struct.unpack_from("=Q", part, start + 40)[0] <= KEYS:
                heads.add(part[start:start + 36])
    found = {}
    for part in parts:
        for start in [at for head in heads for at in places(part, head) if at + HEAD + KEYS * EACH <= len(part)]:
            for slot in range(min(KEYS, struct.unpack_from("=Q", part, start + 40)[0])):
                place = start + HEAD + slot * EACH
                found[part[place:place + 16]] = part[place + 16:place + EACH]
    return found


def test_keys_of_tickets_are_there_in_mid_handshake_and_gone_after_it():
    if not ROOT:
        raise Skip("only root may read the memory of others")
    if SANITIZED:
        raise Skip("the sanitizers keep freed memory")
    with Scene() as scene:
        agent = scene.agent(context("www", "p256"))
        server = scene.server(agent)
        stalled = [Process(scene, f"stalled-{version}", [BUILD / "tests/peers/client", "stalled", server.port, ca(), version],
                           stdin=subprocess.PIPE) for version in (13, 12) for _ in range(8)]
        for client in stalled:
            client.wait_for("^stalled$")
        snapshot = [part for pid in agent.pids("handshaker") for part in memory_of(pid)]
        # Half of them go on, the others break off.
        for number, client in enumerate(stalled):
            if number % 2 == 0:
                client.say("on\n")
            client.process.stdin.close()
            check(client.process.wait(20) == 0, client.text())
        tickets = [bytes.fromhex(line.split()[1]) for client in stalled for line in client.lines()
                   if line.startswith("ticket ")]
        check(len(tickets) == 4 * 2 + 4, "not all the tickets:", len(tickets))
        nonces = [ticket[16:32] for ticket in tickets]
        keys = keys_in_hand(snapshot, nonces)
        print(f"{len(stalled)} handshakes in flight: {len(keys)} keys of tickets in the handshakers' memory")
        check(set(nonces) <= set(keys), "the key of a ticket was not where it was looked for")
        check(len(keys) >= 8 * 2 + 8, "keys of those that broke off are not among them:", len(keys))
        needles = {f"ticket-key-{number}": key for number, key in enumerate(keys.values())}
        names = {agent.pid: "supervisor", **agent.roles(), **{pid: "worker" for pid in children(server.pid)}}
        lines, hits = scan(scene.directory, needles, *names)
        check(not hits, "\n".join(f"{names[int(line.split()[1])]}: {line}" for line in hits))
        for keeper in agent.pids("keeper"):
            for part in secret_memory(keeper):
                check(not any(key in part for key in keys.values()), "a key is still in a keeper")


main()
