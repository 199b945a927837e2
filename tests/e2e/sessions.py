#!/usr/bin/env python3
"""Sessions resume in every worker and cell, over restarts and rotation, and on the other hosts of a fleet."""
import os
import pathlib
import re
import signal
import socket
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import BUILD, Scene, answers, ca, check, context, fetch, main, run, wait_until  # noqa: E402
from sessions import StoredAgent, at_least, gnutls, make_sessions, not_resumed, resume, settings  # noqa: E402

CLIENTS = int(os.environ.get("CLIENTS", "1000"))  # per way of resuming


def many(port, kind, count):
    """count clients in threads, each a full handshake and then one resumption."""
    done = []
    lock = threading.Lock()

    def work(share):
        ctx, sessions = make_sessions(port, kind, share)
        resumed = resume(port, ctx, sessions)
        with lock:
            done.append(resumed)
    threads = [threading.Thread(target=work, args=(count // 8,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(len(done) == 8, "some clients failed")
    return sum(done), count // 8 * 8


def test_all_workers_and_cells_resume():
    with Scene() as scene:
        agent = scene.agent(cells=2)
        server = scene.server(agent, workers=4)
        for kind in ("13", "12", "id"):
            resumed, count = many(server.port, kind, CLIENTS)
            at_least(0.99, resumed, count, f"4 workers, 2 cells, {kind}")
        cells = {process["cell"] for process in agent.status()["processes"]
                 if process["role"] == "keeper" and process["tickets_opened"] > 0}
        check(len(cells) == 2, "not both cells opened tickets:", cells)


def test_gnutls_clients_resume():
    with Scene() as scene:
        server = scene.server(scene.agent(cells=2), workers=4)
        for name, priority in (("13", "NORMAL:-VERS-ALL:+VERS-TLS1.3"), ("12", "NORMAL:-VERS-ALL:+VERS-TLS1.2"),
                               ("id", "NORMAL:-VERS-ALL:+VERS-TLS1.2:%NO_TICKETS")):
            count = 25
            at_least(0.99, sum(gnutls(server.port, priority) for _ in range(count)), count, f"gnutls, {name}")


def tls13_client(port, *options):
    """An s_client that asks once; returns how many tickets it was given, and whether it resumed."""
    shown = run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3", "-msg", "-ign_eof", *options],
                input="GET / HTTP/1.0\r\nConnection: close\r\n\r\n")
    check("HTTP/1.1 200" in shown.stdout, options, "no answer:", shown.stdout[-2000:])
    return shown.stdout.count("NewSessionTicket"), "Reused, " in shown.stdout


def ticket_client(scene, port, number, suite, *more):
    """A full handshake, one resumed, and one resumed with what that one was given."""
    kept = scene.directory / "kept"
    options = ("-ciphersuites", suite, *more)
    check(tls13_client(port, *options, "-sess_out", kept) == (number, False), number, options)
    for _ in range(2):
        check(tls13_client(port, *options, "-sess_in", kept, "-sess_out", kept) == (1, True), number, options)


def test_tls13_tickets_of_all_suites_and_sizes():
    """Any number of tickets, in records as small as the client wants them; and what comes behind them is in order."""
    protocol = "p" * 200
    names = ("-servername", ".".join(["x" * 60] * 4) + ".localhost", "-alpn", protocol)
    small = ("-maxfraglen", "512")
    for number in (1, 2, 8):
        with Scene() as scene:
            agent = scene.agent(context("www", "p256", tickets=number, alpn=f'{{"{protocol}", "http/1.1"}}'))
            port = scene.server(agent, workers=1).port
            for suite in ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"):
                ticket_client(scene, port, number, suite, *names, *small)
            for more in ((), small, names):
                ticket_client(scene, port, number, "TLS_AES_128_GCM_SHA256", *more)


def test_sessions_survive_the_death_of_a_cell():
    with Scene() as scene:
        agent = scene.agent(cells=2)
        server = scene.server(agent, workers=2)
        made = {kind: make_sessions(server.port, kind, 50) for kind in ("13", "12", "id")}
        before = agent.roles()
        for kind in ("handshaker", "keeper"):
            os.kill(agent.pids(kind)[0], signal.SIGKILL)
            wait_until(lambda: len(agent.roles().keys() - before.keys()) > 0 and len(agent.roles()) == len(before), 5, "replaced")
            time.sleep(1.5)
        for kind, (ctx, sessions) in made.items():
            at_least(0.99, resume(server.port, ctx, sessions), len(sessions), f"after the death of two cells, {kind}")


def keys_rotate():
    """Keys of two seconds: a session resumes all through its life, and not after it. False: it grew too old meanwhile."""
    with Scene() as scene:
        agent = scene.agent(ticket_period=2, ticket_life=10)
        server = scene.server(agent)
        start = time.monotonic()
        made = {kind: make_sessions(server.port, kind, 40) for kind in ("13", "12", "id")}
        youngest = time.monotonic()
        for age in (3, 6):
            time.sleep(max(0, start + age - time.monotonic()))
            for kind, (ctx, sessions) in made.items():
                resumed = resume(server.port, ctx, sessions[:20] if age == 3 else sessions[20:])
                if time.monotonic() - start > 9:  # a session's age is counted in whole seconds
                    return False
                at_least(0.99, resumed, 20, f"{age} s old, keys of 2 s, {kind}")
        ctx, sessions = made["12"]
        _, old = made["13"]
        time.sleep(max(0, youngest + 15 - time.monotonic()))
        check(resume(server.port, ctx, sessions) == 0, "a session outlived ticket_life")
        check(resume(server.port, made["13"][0], old) == 0, "a TLS 1.3 session outlived ticket_life")
        ctx, sessions = made["id"]
        check(resume(server.port, ctx, sessions) == 0, "a session by id outlived ticket_life")
        counted = not_resumed(agent)
        print("not resumed:", counted)
        check(counted["ticket_expired"] >= 40, "expired tickets are not counted")
        return True


def test_key_rotation():
    check(any(keys_rotate() for _ in range(3)), "three times this machine was too slow for sessions of ten seconds")


def test_off_means_off():
    """No TLS 1.2 tickets, no cache, no early data."""
    with Scene() as scene:
        agent = scene.agent(context("www", tickets_tls12="off"))
        port = scene.server(agent).port
        ctx, sessions = make_sessions(port, "12", 5)
        check(not any(session.has_ticket for session in sessions), "a TLS 1.2 ticket was sent")
        check(resume(port, ctx, sessions) == 5, "the same clients resume by session id")
        ctx, sessions = make_sessions(port, "13", 5)
        check(resume(port, ctx, sessions) == 5, "TLS 1.3 tickets are not affected")
    with Scene() as scene:
        agent = scene.agent(session_cache_size=0)
        port = scene.server(agent).port
        ctx, sessions = make_sessions(port, "id", 5)
        check(resume(port, ctx, sessions) == 0, "resumed by id without a cache")
        shown = run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost", "-tls1_3",
                     "-CAfile", ca(), "-ign_eof"], input="GET / HTTP/1.0\r\nConnection: close\r\n\r\n")
        offered = re.findall(r"Max Early Data: (\d+)", shown.stdout)
        check(offered and set(offered) == {"0"}, "early data is offered, or no ticket came:", shown.stdout[-1500:])


def made_by_all(port, count=40):
    return {kind: make_sessions(port, kind, count) for kind in ("13", "12", "id")}


def all_resume(port, made, what):
    for kind, (ctx, sessions) in made.items():
        at_least(0.99, resume(port, ctx, sessions), len(sessions), f"{what}, {kind}")


def test_sessions_survive_a_restart():
    """Through the fd store of a service manager, after a clean end and after kill -9."""
    with Scene() as scene:
        agent = StoredAgent(scene)
        server = scene.server(agent)
        made = made_by_all(server.port)
        for how in (signal.SIGTERM, signal.SIGKILL):
            said = agent.listen()
            check(set(agent.store) == {"tickets.", "sessions"}, "in the store:", sorted(agent.store))
            check(how == signal.SIGKILL or {"READY": "1"} in said, "no READY=1", said)
            if how == signal.SIGTERM:
                agent.process.stop()
            else:
                agent.kill()
            agent.start()
            wait_until(lambda: answers(server.port), 5, "the workers find the new agent")
            all_resume(server.port, made, f"after a restart ({how.name})")
        # Without the store the next agent knows nothing of them: full handshakes, and no error.
        agent.listen()
        agent.process.stop()
        agent.store.clear()
        agent.start()
        wait_until(lambda: answers(server.port), 5, "the workers find the new agent")
        for kind, (ctx, sessions) in made.items():
            check(resume(server.port, ctx, sessions) == 0, f"{kind} resumed from nowhere")
        counted = not_resumed(agent)
        print("a new agent:", counted)
        check(counted["ticket_unknown"] == 80 and counted["session_unknown"] == 40, counted)


def test_sessions_survive_an_upgrade():
    with Scene() as scene:
        agent = scene.agent()
        server = scene.server(agent)
        made = made_by_all(server.port)
        before = agent.roles()
        with socket.create_connection(("127.0.0.1", server.port)) as raw, \
                settings("13").wrap_socket(raw, server_hostname="localhost") as connection:
            run([BUILD / "tlsagent", "upgrade", "--socket", agent.control])
            wait_until(lambda: len(agent.roles().keys() - before.keys()) == len(before), 10,
                       "all roles are new")
            wait_until(lambda: answers(server.port), 5, "the workers find the new agent")
            check(b"TLS version" in fetch(connection), "an open connection is lost")
        check(agent.process.alive(), "the process id has changed")
        all_resume(server.port, made, "after an upgrade")
        # What would not start is not become.
        text = agent.file.read_text()
        agent.file.write_text(text + "nonsense = 1\n")
        roles = agent.roles()
        refused = run([BUILD / "tlsagent", "upgrade", "--socket", agent.control], check_status=False)
        check(refused.returncode == 1 and "nothing was changed" in refused.stdout, refused.stdout)
        check(agent.roles() == roles, "roles were replaced")
        all_resume(server.port, made, "after an upgrade that was refused")


def test_a_fleet_shares_tickets():
    """Two agents with one secret; it is replaced while they run; a third has another one."""
    with Scene() as scene, Scene() as other, Scene() as stranger:
        files = []
        for place, text in ((scene, "one"), (other, "one"), (stranger, "another")):
            files.append(place.directory / "secret")
            files[-1].write_text(f"{text} secret of a fleet, which must be long\n")
        agents, ports = [], []
        for place in (scene, other, stranger):
            agent = place.agent(context("www"), f'fleet {{ secret_file = "{place.directory}/secret" }}\n')
            agents.append(agent)
            ports.append(place.server(agent).port)
        kinds = ("13", "12")
        made = {kind: make_sessions(ports[0], kind, 40) for kind in kinds}
        for kind, (ctx, sessions) in made.items():
            at_least(0.99, resume(ports[1], ctx, sessions), 40, f"the other host of the fleet, {kind}")
            check(resume(ports[2], ctx, sessions[:10]) == 0, "resumed on a host of no fleet of ours")
        check(not_resumed(agents[2])["ticket_unknown"] == 20, "not counted")
        # The secret is replaced: old tickets are good, new ones are of the new secret.
        for file in files[:2]:
            (file.parent / "new").write_text("two secret of a fleet, which must be long\n")
            os.rename(file.parent / "new", file)
        for agent in agents[:2]:
            agent.process.wait_for("new tickets are of the new secret", 10)
        time.sleep(1.2)
        for kind, (ctx, sessions) in made.items():
            at_least(0.99, resume(ports[1], ctx, sessions), 40, f"after a new secret, old ticket, {kind}")
        made = {kind: make_sessions(ports[0], kind, 40) for kind in kinds}
        for kind, (ctx, sessions) in made.items():
            at_least(0.99, resume(ports[1], ctx, sessions), 40, f"after a new secret, new ticket, {kind}")
        # One that is too short changes nothing.
        files[0].write_text("short")
        agents[0].process.wait_for("the ticket keys stay as they are", 10)
        for kind, (ctx, sessions) in made.items():
            check(resume(ports[0], ctx, sessions) == 40, "keys were lost")
        # A restart of a host makes its keys again from the secret.
        agents[1].process.stop()
        agents[1].start()
        wait_until(lambda: answers(ports[1]), 5, "the workers find the new agent")
        for kind, (ctx, sessions) in made.items():
            at_least(0.99, resume(ports[1], ctx, sessions), 40, f"after a restart of the other host, {kind}")


main()
