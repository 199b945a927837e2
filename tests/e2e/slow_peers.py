#!/usr/bin/env python3
"""Silent and slow clients meet the deadline and cost nobody else anything."""
import pathlib
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import BUILD, SANITIZED, Process, Scene, Skip, ca, check, context, facts, free_port, main, root_only, tls_connect, wait_until  # noqa: E402

DEADLINE = 2


def others_do_not_wait(port, until):
    longest = 0
    while not until():
        start = time.monotonic()
        facts(port)
        longest = max(longest, time.monotonic() - start)
    check(longest < 1, f"an honest client had to wait for {longest:.2f} s")


def silent_clients(scene, agent, port, count=200):
    agent.wait_for_channels(2)
    before = agent.fds() if root_only("fds_of_the_agent_after_silent_clients") else None
    facts(port)
    start = time.monotonic()
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    half = silent[:count // 2]
    for connection in half:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
    for connection in silent:
        connection.settimeout(0)
    others_do_not_wait(port, lambda: time.monotonic() - start > DEADLINE - 1)
    ended = 0
    for connection in silent:
        connection.settimeout(DEADLINE + 3)
        try:
            while connection.recv(1000):
                pass
            ended += 1
        except ConnectionResetError:
            ended += 1
        connection.close()
    took = time.monotonic() - start
    print(f"{ended} silent clients were gone after {took:.2f} s")
    check(ended == count and DEADLINE * 0.9 < took < DEADLINE + 2, "deadline")
    facts(port)
    if before:
        wait_until(lambda: agent.fds() == before, 5, f"the agent's fds are as before: {before} {agent.fds()}")


def test_silent_clients_of_a_worker():
    with Scene() as scene:
        agent = scene.agent(context("www", deadline=DEADLINE))
        server = scene.server(agent)
        silent_clients(scene, agent, server.port)
        check(f"did not finish the handshake within {DEADLINE * 1000} ms" in server.text(), "no clear error:", server.text()[-300:])


def test_silent_clients_of_the_agent():
    with Scene() as scene:
        port = free_port()
        agent = scene.agent(context("www", deadline=DEADLINE, listen=f'{{"127.0.0.1:{port}"}}'))
        scene.server(agent, listener=port)
        silent_clients(scene, agent, port)


def cost_of_clients_that_send(first, count=150):
    """In bytes of the agent's memory."""
    with Scene() as scene:
        port = free_port()
        agent = scene.agent(context("www", listen=f'{{"127.0.0.1:{port}"}}'))
        scene.server(agent, listener=port)
        facts(port)
        before = agent.rss()
        waiting = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
        for connection in waiting:
            connection.sendall(first)
        facts(port)  # accepted after all of them
        cost = (sum(agent.rss().values()) - sum(before.values())) / count
        for connection in waiting:
            connection.close()
        return cost


def test_silent_clients_cost_no_buffers():
    if SANITIZED:
        raise Skip("it measures memory")
    silent, begun = cost_of_clients_that_send(b""), cost_of_clients_that_send(b"\x16")
    print(f"a client that sends nothing costs {silent:.0f} bytes, one that sends a byte {begun:.0f}")
    check(silent < begun / 2, "libssl's buffers are there before there is anything to read")


def test_byte_by_byte_client_in_time():
    with Scene() as scene:
        agent = scene.agent(context("www", deadline=10), cells=1)
        server = scene.server(agent)
        worker = scene.worker(agent, "echo")
        for version in (12, 13):
            slow = Process(scene, "slow", [BUILD / "tests/peers/client", "slow", worker.port, ca(), version, 2])
            others_do_not_wait(server.port, lambda: not slow.alive())
            check(slow.process.returncode == 0, slow.text())


def test_byte_by_byte_client_beyond_the_deadline():
    with Scene() as scene:
        agent = scene.agent(context("www", deadline=1), cells=1)
        server = scene.server(agent)
        worker = scene.worker(agent, "echo")
        slow = Process(scene, "slow", [BUILD / "tests/peers/client", "slow", worker.port, ca(), 13, 50])
        others_do_not_wait(server.port, lambda: not slow.alive())
        check(slow.process.returncode != 0, "the deadline was not kept")
        check(worker.wait_for("^failed (\\d+) ").group(1) == "6", worker.text())


def test_slow_request_costs_no_one_else():
    """A client that is slow after the handshake is the server's business; others go on."""
    with Scene() as scene:
        server = scene.server(scene.agent(), workers=1)
        raw = socket.create_connection(("127.0.0.1", server.port))
        slow = tls_connect(server.port)
        slow.sendall(b"GET / HT")
        stuck = tls_connect(server.port)
        stuck.sendall(b"GET /bytes/100000000 HTTP/1.1\r\nHost: x\r\n\r\n")  # and does not read
        start = time.monotonic()
        others_do_not_wait(server.port, lambda: time.monotonic() - start > 2)
        raw.close()
        slow.close()
        stuck.close()


main()
