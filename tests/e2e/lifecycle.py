#!/usr/bin/env python3
# run alone: it measures how soon dead processes are replaced.
"""What happens to connections when the agent, or a part of it, dies."""
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import (Scene, answers, check, children, client, context, facts, fetch, free_port, main,  # noqa: E402
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
