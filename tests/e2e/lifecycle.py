#!/usr/bin/env python3
# run alone: it measures how soon dead processes are replaced.
"""What happens to connections when the agent, or a part of it, dies."""
import os
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import (BUILD, SANITIZED, Scene, answers, ca, check, children, client, context, facts, fetch, free_port, main,  # noqa: E402
                 tls_connect, wait_until)


def streams(scene, server, count):
    """count connections that carry data all the time."""
    load = scene.load(server.port, "stream", count, stdin=subprocess.PIPE)
    load.wait_for("^running$", 60)
    return load


def end_streams(load):
    """They must all have been whole until now; returns the bytes carried."""
    check(load.alive(), load.text())
    load.process.stdin.close()
    check(load.process.wait(60) == 0, load.text())
    line = load.lines()[-1]
    check("failed=0" in line, line)
    print(line)
    return int(re.search(r"bytes=(\d+)", line).group(1))


def test_kill_of_the_whole_agent_loses_no_byte():
    with Scene() as scene:
        agent = scene.agent()
        server = scene.server(agent, workers=4)
        workers = sorted(children(server.pid))
        load = streams(scene, server, 200)
        agent.kill()
        start = time.monotonic()
        client("refused", server.port)
        print(f"without an agent a new connection was refused after {time.monotonic() - start:.2f} s")
        time.sleep(2)
        check(load.alive(), load.text())
        agent.start()
        wait_until(lambda: answers(server.port), 5, "the workers find the new agent")
        time.sleep(1)
        end_streams(load)
        check(sorted(children(server.pid)) == workers, "workers were restarted")
        message = [line for line in server.lines() if "cannot reach the agent" in line]
        check(message and str(agent.socket) in message[0], "no clear error:", server.text())
        print(message[0])


def test_workers_of_agent_listener_survive_a_restart():
    with Scene() as scene:
        port = free_port()
        agent = scene.agent(context("www", listen=f'{{"127.0.0.1:{port}"}}'))
        server = scene.server(agent, listener=port)
        workers = sorted(children(server.pid))
        with tls_connect(port) as connection:
            agent.kill()
            agent.start()
            check(b"TLS version" in fetch(connection), "the open connection is lost")
        wait_until(lambda: answers(port), 10, "the same workers take connections again")
        check(sorted(children(server.pid)) == workers, "workers were restarted")


def test_agent_listener_without_an_agent_refuses_at_once():
    """Nobody holds the listening socket open when the agent is dead: a peer is told so, and does not wait."""
    with Scene() as scene:
        port = free_port()
        agent = scene.agent(context("www", listen=f'{{"127.0.0.1:{port}"}}'))
        server = scene.server(agent, listener=port)
        workers = sorted(children(server.pid))
        half = HalfHandshake(port)
        half.begin()
        agent.kill()
        check(half.ended(), "a handshake in progress is not ended")
        half.close()
        if SANITIZED:  # the leak checker takes its time before a process ends
            time.sleep(3)
        for _ in range(10):
            start = time.monotonic()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=10).close()
                check(False, "somebody took the connection")
            except ConnectionRefusedError:
                check(time.monotonic() - start < 1, "refused, but late")
        time.sleep(1)
        check(sorted(children(server.pid)) == workers, "workers ended without an agent:", server.text()[-1000:])
        agent.start()
        wait_until(lambda: answers(port), 10, "the same workers take connections again")
        check(sorted(children(server.pid)) == workers, "workers were restarted")


def replaced(kind, how, within):
    """Kill one process of a kind while connections carry data; a new one must take its place."""
    with Scene() as scene:
        agent = scene.agent(cells=2)
        server = scene.server(agent, workers=4)
        load = streams(scene, server, 50)
        before = agent.roles()
        victim = agent.pids(kind)[0]
        os.kill(victim, how)
        start = time.monotonic()

        def look():
            now = agent.roles()
            return victim not in now and len(now) == len(before) and \
                sorted(now.values()) == sorted(before.values()) and now
        now = wait_until(look, within, f"{before[victim]} is replaced")
        took = time.monotonic() - start
        wait_until(lambda: all(process["pid"] in now for process in agent.status()["processes"]
                               if process["role"] in ("keeper", "handshaker")), 3, "status shows it")
        print(f"{before[victim]} replaced after {took:.2f} s")
        for pid, name in now.items():
            cell = before[victim].split()[1]
            if not name.endswith(cell):
                check(before.get(pid) == name, f"{name} was disturbed")
        seen = set()

        def both_serve():
            seen.add(facts(server.port)["agent pid"].split()[0])
            return len(seen) == 2
        wait_until(both_serve, 10, "both cells are used afterwards")
        print(f"it serves again after {time.monotonic() - start:.2f} s")
        end_streams(load)


def test_killed_handshaker_is_replaced():
    replaced("handshaker", signal.SIGKILL, 1)


def test_killed_keeper_is_replaced():
    replaced("keeper", signal.SIGKILL, 1)


def test_stopped_handshaker_is_replaced_by_the_watchdog():
    replaced("handshaker", signal.SIGSTOP, 10)


def test_stopped_keeper_is_replaced():
    replaced("keeper", signal.SIGSTOP, 10)


def test_handshakes_in_flight_get_a_clear_error_or_are_retried():
    with Scene() as scene:
        agent = scene.agent(cells=1)
        worker = scene.worker(agent, "echo")
        with socket.create_connection(("127.0.0.1", worker.port)) as silent:
            time.sleep(0.3)
            os.kill(agent.pids("handshaker")[0], signal.SIGKILL)
            # No byte was exchanged: the library goes to the next cell, and the peer never knows.
            time.sleep(1.5)
            check(worker.alive() and "failed" not in worker.text(), worker.text())
            silent.close()
        worker.wait_for("^failed")
        client("echo", worker.port, 13, 3)


class HalfHandshake:
    """A client that stops where the test wants it to: nothing sent, or ClientHello sent and answered."""

    def __init__(self, port):
        self.raw = socket.create_connection(("127.0.0.1", port), timeout=15)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = ssl.create_default_context(cafile=ca()).wrap_bio(self.incoming, self.outgoing,
                                                                    server_hostname="localhost")

    def flush(self):
        self.raw.sendall(self.outgoing.read())

    def receive(self):
        data = self.raw.recv(65536)
        check(data, "the server closed the connection")
        self.incoming.write(data)

    def step(self):
        """Send what is due; True when the handshake is done."""
        try:
            self.tls.do_handshake()
            return True
        except ssl.SSLWantReadError:
            return False
        finally:
            self.flush()

    def begin(self):
        """ClientHello out, the beginning of the server's flight in: not read further."""
        check(not self.step(), "finished too early")
        self.receive()

    def finish(self):
        while not self.step():
            self.receive()

    def ask(self, data):
        """Send; returns the beginning of the answer."""
        self.tls.write(data)
        self.flush()
        while True:
            try:
                return self.tls.read(100)
            except ssl.SSLWantReadError:
                self.receive()

    def ended(self):
        """True if the server ends the connection (and says nothing more in TLS)."""
        try:
            while self.raw.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return True

    def close(self):
        self.raw.close()


def in_flight(agent):
    """{pid of a handshaker: its handshakes in progress}"""
    return {process["pid"]: process["in_flight"] for process in agent.status()["processes"]
            if process["role"] == "handshaker"}


def busy(agent):
    """The handshakers with a handshake in progress; in_flight is as old as the last ping."""
    return {pid for pid, count in in_flight(agent).items() if count}


def test_handshake_killed_after_bytes_were_exchanged_fails_for_good():
    """The peer has the server's flight of a process that is dead: the worker is told to let the peer try again."""
    with Scene() as scene:
        agent = scene.agent(cells=1)
        worker = scene.worker(agent, "echo")
        half = HalfHandshake(worker.port)
        half.begin()
        os.kill(agent.pids("handshaker")[0], signal.SIGKILL)
        line = worker.wait_for("^failed.*$").group(0)
        print(line)
        check(line.startswith("failed 14 ") and "may connect again" in line, "not TLSAGENT_E_RETRY:", line)
        check(half.ended(), "the connection stays open")
        half.close()
        client("echo", worker.port, 13, 3)  # and it can


def test_silent_handshake_finishes_on_another_cell():
    """No byte was exchanged when the cell died: the peer never knows."""
    for cells in (1, 2):
        with Scene() as scene:
            agent = scene.agent(cells=cells)
            worker = scene.worker(agent, "echo")
            half = HalfHandshake(worker.port)
            victim = wait_until(lambda: busy(agent), 5, "the handshake has begun").pop()
            os.kill(victim, signal.SIGKILL)
            # It goes to the other cell at once, or to the new one in the dead one's place.
            wait_until(lambda: busy(agent) - {victim}, 10, "another process has the handshake")
            half.finish()
            check(half.ask(b"hello") == b"hello", "no echo")
            half.close()
            worker.wait_for("^eof|^error")
            check("failed" not in worker.text(), worker.text())
            done = worker.wait_for("^done.*$").group(0)
            print(f"{cells} cells: {done}")


def test_handshake_of_the_other_cell_is_not_disturbed():
    """Handshakes whose peers have the server's flight, on two cells; one cell dies, and only its own are lost."""
    with Scene() as scene:
        agent = scene.agent(cells=2)
        server = scene.server(agent, workers=1)
        wait_until(lambda: not busy(agent), 5, "no handshake is in progress")
        first = HalfHandshake(server.port)
        first.begin()
        victim = wait_until(lambda: busy(agent), 5, "a cell has the first handshake").pop()
        second = HalfHandshake(server.port)  # only now: a connection alone is a handshake in progress
        second.begin()                       # goes to the cell with less to do
        wait_until(lambda: len(busy(agent)) == 2, 5, "the other cell has the second handshake")
        os.kill(victim, signal.SIGKILL)
        check(first.ended(), "the connection stays open")
        server.wait_for("process died during the handshake; the peer may connect again")
        second.finish()
        answer = second.ask(b"GET /bytes/5 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        check(answer.startswith(b"HTTP/1.1 200 "), answer)
        check(len(re.findall("during the handshake", server.text())) == 1, "another one failed, too:", server.text())
        first.close()
        second.close()


def test_upgrade_refuses_no_connection():
    """The agent's own listening socket is handed on: who connects in the middle of an upgrade waits, and is served."""
    with Scene() as scene:
        port = free_port()
        agent = scene.agent(context("www", listen=f'{{"127.0.0.1:{port}"}}'), cells=2)
        scene.server(agent, listener=port)
        before = set(agent.roles())
        upgrade = subprocess.Popen([BUILD / "tlsagent", "upgrade", "--socket", agent.control])
        verified = ssl.create_default_context(cafile=ca())
        served, cut, end = 0, [], None
        while end is None or time.monotonic() < end:
            raw = socket.create_connection(("127.0.0.1", port), timeout=15)  # a refusal ends the test
            try:
                with verified.wrap_socket(raw, server_hostname="localhost") as connection:
                    fetch(connection)
                served += 1
            except (OSError, AssertionError) as reason:
                cut.append(reason)
            if end is None and upgrade.poll() is not None and not before & set(agent.roles() or before):
                end = time.monotonic() + 0.5
        print(f"{served} connections served during the upgrade, cut: {cut}")
        check(upgrade.wait() == 0, "the upgrade failed")
        check(served > 20 and len(cut) <= 1, "more than the one in progress when the old cells ended:", cut)


def test_agent_ends_cleanly_on_sigterm():
    """SIGTERM to the agent ends it cleanly, with all its processes, while connections go on."""
    with Scene() as scene:
        agent = scene.agent()
        server = scene.server(agent)
        with tls_connect(server.port) as connection:
            roles = agent.roles()
            agent.process.stop()
            check(agent.process.process.returncode == 0, agent.process.process.returncode)
            wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in roles), 3, "all roles end")
            check(not agent.socket.exists(), "the socket stays behind")
            check(len(fetch(connection, "/bytes/1000000")) == 1000000, "short")


main()
