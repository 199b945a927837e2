#!/usr/bin/env python3
"""A session is good for the policy and the peer that it was made for, and for nothing else."""
import os
import pathlib
import re
import socket
import ssl
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import IDENTITIES, Scene, ca, check, context, identity, main, run  # noqa: E402
from sessions import StoredAgent, not_resumed, settings  # noqa: E402

def ask_peer(port, ctx, session=None):
    """A connection to a worker of mode "peer": (session, resumed, the client's certificates as DER)."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
        with ctx.wrap_socket(raw, server_hostname="localhost", session=session) as connection:
            data = b""
            while not data.endswith(b"end\n"):
                more = connection.recv(65536)
                check(more, "the connection ended early")
                data += more
            chain = [bytes.fromhex(line.decode()) for line in data.split(b"\n")[:-2]]
            return connection.session, connection.session_reused, chain


def refused(port, ctx, session=None):
    try:
        ask_peer(port, ctx, session)
    except (OSError, AssertionError):
        return True
    return False


def client_context(name, verify="required", file=None, **more):
    return context(name, verify=f'"{verify}"', client_ca_file=f'"{file or ca()}"', **more)


def der_of(path):
    text = pathlib.Path(path).read_text()
    parts = re.findall(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", text, re.S)
    return [ssl.PEM_cert_to_DER_cert(part) for part in parts]


def test_resumed_clients_show_the_same_certificates():
    own = identity("client", "rsa", "somebody")
    with Scene() as scene:
        agent = scene.agent(client_context("needs"), client_context("may", verify="optional"))
        ports = {name: scene.worker(agent, "peer", name=name).port for name in ("needs", "may")}
        for kind in ("13", "12", "id"):
            ctx = settings(kind, own)
            for name, port in ports.items():
                session, resumed, chain = ask_peer(port, ctx)
                check(not resumed and chain == der_of(own[0]) and len(chain) == 2, "not the certificates of the client")
                for _ in range(3):  # each time with what the last one gave
                    session, resumed, chain = ask_peer(port, ctx, session)
                    check(resumed, f"{kind} does not resume in {name}")
                    check(chain == der_of(own[0]), f"other certificates after resuming ({kind}, {name}):", len(chain))
            anonymous = settings(kind)
            session, _, chain = ask_peer(ports["may"], anonymous)
            session, resumed, again = ask_peer(ports["may"], anonymous, session)
            check(resumed and chain == again == [], "certificates from nowhere")
            check(refused(ports["needs"], anonymous), "let in without a certificate")


def test_sessions_do_not_cross_contexts():
    """Neither into a context that demands certificates nor out of it."""
    own = identity("client", "rsa", "somebody")
    with Scene() as scene:
        agent = scene.agent(context("www"), client_context("needs"), client_context("may", verify="optional"))
        ports = {name: scene.worker(agent, "peer", name=name).port for name in ("www", "needs", "may")}
        for kind in ("13", "12", "id"):
            ctx = settings(kind, own)
            for origin, from_port in ports.items():
                for target, to_port in ports.items():
                    session = ask_peer(from_port, ctx)[0]
                    _, resumed, chain = ask_peer(to_port, ctx, session)
                    check(resumed == (origin == target), f"{kind}: session of {origin} in {target}: resumed {resumed}")
                    check(len(chain) == (0 if target == "www" else 2), f"{origin} to {target}: {len(chain)} certificates")
            anonymous = settings(kind)
            for origin in ("www", "may"):
                session = ask_peer(ports[origin], anonymous)[0]
                check(refused(ports["needs"], anonymous, session), f"{kind}: {origin}'s session opens the door")
        for name in ports:
            print(name, not_resumed(agent, name))
            counted = not_resumed(agent, name)
            check(counted["ticket_bad"] >= 4 and counted["session_bad"] >= 2, "not counted")


def test_scope_changes_mean_full_handshakes():
    """One change of the policy each, over a restart that keeps the keys; then back."""
    own = identity("client", "rsa", "somebody")
    IDENTITIES.mkdir(parents=True, exist_ok=True)
    with Scene() as scene:
        two = scene.directory / "two-cas.pem"
        run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
             "/CN=another", "-keyout", scene.directory / "k", "-out", scene.directory / "c"])
        two.write_text(pathlib.Path(ca()).read_text() + (scene.directory / "c").read_text())
        identity("second", "p256", "second.example")
        first = ("p256", "second")
        base = dict(verify='"required"', client_ca_file=f'"{ca()}"', alpn='{"one", "two"}', default_identity='"p256"')

        def text(*labels, **changes):
            return context("www", *(labels or first), **{**base, **changes})
        cases = {
            "CA set": text(client_ca_file=f'"{two}"'),
            "verify mode": text(verify='"optional"'),
            "identity removed": text("second", default_identity='"second"'),
            "ALPN": text(alpn='{"one"}'),
            "versions": text(versions='"TLSv1.2"'),
            "ciphers": text(ciphers='"ECDHE-ECDSA-CHACHA20-POLY1305"'),
        }
        agent = StoredAgent(scene, text())
        original = agent.file.read_text()
        worker = scene.worker(agent, "peer")

        def restart(configuration):
            agent.listen()
            agent.process.stop()
            agent.file.write_text(configuration)
            agent.start()
        for what, changed in cases.items():
            kinds = [kind for kind in ("13", "12", "id") if not (what == "versions" and kind == "13")]
            contexts = {kind: settings(kind, own) for kind in kinds}
            for ctx in contexts.values():
                ctx.check_hostname = what != "identity removed"
                ctx.set_alpn_protocols(["one"])
            sessions = {kind: ask_peer(worker.port, ctx)[0] for kind, ctx in contexts.items()}
            restart(original.replace(text(), changed))
            for kind in kinds:
                _, resumed, chain = ask_peer(worker.port, contexts[kind], sessions[kind])
                check(not resumed and len(chain) == 2, f"{what} changed, and a session was resumed ({kind})")
            restart(original)
            for kind in kinds:
                check(ask_peer(worker.port, contexts[kind], sessions[kind])[1], f"{what} changed back: {kind} is lost")
            print(f"{what}: full handshakes ({', '.join(kinds)}); changed back: resumed")


def short_lived(directory, seconds):
    """A client's certificate that expires soon."""
    (directory / "db").write_text("")
    (directory / "serial").write_text("4D2A\n")
    (directory / "ca.cnf").write_text(f"[ca]\ndefault_ca = x\n[x]\ndatabase = {directory}/db\nnew_certs_dir = {directory}\n"
                                      f"serial = {directory}/serial\ndefault_md = sha256\npolicy = p\n[p]\ncommonName = supplied\n")
    key, csr, out = directory / "short.key", directory / "short.csr", directory / "short.pem"
    run(["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=short",
         "-keyout", key, "-out", csr])
    start, end = (time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + at)) for at in (-60, seconds))
    run(["openssl", "ca", "-batch", "-notext", "-config", directory / "ca.cnf", "-in", csr, "-cert", ca(), "-keyfile",
         IDENTITIES / "ca.key", "-out", out, "-startdate", start, "-enddate", end])
    return out, key


def test_a_session_ends_with_the_clients_certificate():
    ca()
    with Scene() as scene:
        agent = scene.agent(client_context("www"))
        worker = scene.worker(agent, "peer")
        own = short_lived(scene.directory, 5)
        start = time.monotonic()
        made = {}
        for kind in ("13", "12", "id"):
            ctx = settings(kind, own)
            session = ask_peer(worker.port, ctx)[0]
            session, resumed, _ = ask_peer(worker.port, ctx, session)
            check(resumed, "does not resume while the certificate is valid", kind)
            made[kind] = ctx, session
        time.sleep(max(0, start + 6 - time.monotonic()))
        for kind, (ctx, session) in made.items():
            check(refused(worker.port, ctx, session), f"an expired certificate was let in ({kind})")
        counted = not_resumed(agent)
        print(counted)
        check(counted["peer_expired"] == 3, counted)


# ---- tickets that somebody changed ----

def parts(der):
    """The members of a DER SEQUENCE as [(tag, value)]."""
    def one(data):
        tag, size, at = data[0], data[1], 2
        if size & 0x80:
            at += size & 0x7f
            size = int.from_bytes(data[2:at], "big")
        return tag, data[at:at + size], data[at + size:]
    _, rest, _ = one(der)
    result = []
    while rest:
        tag, value, rest = one(rest)
        result.append((tag, value))
    return result


def put(tag, value):
    size = len(value)
    return bytes([tag]) + (bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2, "big")) + value


def with_ticket(der, change):
    """The session with its ticket (member [10], an OCTET STRING in it) changed."""
    members = []
    for tag, value in parts(der):
        if tag == 0xaa:
            ticket = parts(put(0x30, value))[0][1]
            value = put(0x04, change(ticket))
        members.append(put(tag, value))
    return put(0x30, b"".join(members))


def s_client(scene, port, version, *options):
    shown = run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost", version,
                 "-CAfile", ca(), "-ign_eof", *options], input="GET / HTTP/1.0\r\nConnection: close\r\n\r\n")
    check("HTTP/1.1 200" in shown.stdout, "no answer:", shown.stdout[-2000:])
    return "Reused, " in shown.stdout


def flip(at):
    return lambda ticket: ticket[:at] + bytes([ticket[at] ^ 1]) + ticket[at + 1:] if at >= 0 else \
        ticket[:at] + bytes([ticket[at] ^ 1]) + (ticket[at + 1:] if at < -1 else b"")


CHANGES = {
    "unchanged": (lambda ticket: ticket, None),
    "key name": (flip(3), "ticket_unknown"),
    "nonce": (flip(20), "ticket_bad"),
    "ciphertext": (flip(40), "ticket_bad"),
    "period": (flip(-32 - 16 - 1), "ticket_bad"),
    "tag": (flip(-33), "ticket_bad"),
    "HMAC": (flip(-1), "ticket_bad"),
    "one byte short": (lambda ticket: ticket[:-1], "ticket_bad"),
    "cut to its head": (lambda ticket: ticket[:40], "ticket_bad"),
    "longer": (lambda ticket: ticket + b"x", "ticket_bad"),
    "somebody else's": (lambda ticket: os.urandom(len(ticket)), "ticket_unknown"),
}


def test_changed_tickets_mean_full_handshakes():
    with Scene() as scene:
        agent = scene.agent()
        port = scene.server(agent).port
        kept, changed = scene.directory / "kept", scene.directory / "changed"
        for version in ("-tls1_2", "-tls1_3"):
            for what, (change, reason) in CHANGES.items():
                s_client(scene, port, version, "-sess_out", kept)
                text = kept.read_text()
                der = ssl.PEM_cert_to_DER_cert(text.replace("SSL SESSION PARAMETERS", "CERTIFICATE"))
                pem = ssl.DER_cert_to_PEM_cert(with_ticket(der, change))
                changed.write_text(pem.replace("CERTIFICATE", "SSL SESSION PARAMETERS"))
                before = not_resumed(agent)
                reused = s_client(scene, port, version, "-sess_in", changed)
                after = not_resumed(agent)
                check(reused == (reason is None), f"{version} {what}: reused {reused}")
                if reason:
                    rise = {name: after[name] - before[name] for name in after if after[name] != before[name]}
                    check(sum(rise.values()) >= 1 and set(rise) <= {"ticket_bad", "ticket_unknown"} and
                          (reason in rise), f"{version} {what}: counted as {rise}")
        print(f"{len(CHANGES) - 1} changes in two versions: full handshakes without an error; {not_resumed(agent)}")


main()
