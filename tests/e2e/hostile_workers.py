#!/usr/bin/env python3
"""Workers that break the rules lose their own channel; nobody else notices."""
import os
import pathlib
import pwd
import re
import signal
import subprocess
import sys
import textwrap
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import (BUILD, ROOT, WORKER_USER, Process, Scene, Skip, check, context, facts, free_port, main,  # noqa: E402
                 root_only, run, wait_until)

IN_FLIGHT = 32  # handshakes at once


def test_table_of_hostile_messages():
    with Scene() as scene:
        others = ["root"] if ROOT else []
        agent = scene.agent(context("www", listen=f'{{"127.0.0.1:{free_port()}"}}'), context("other", "p256", users=others or ["root"]), max_channels=1000)
        server = scene.server(agent)
        facts(server.port)
        agent.wait_for_channels(2)
        roles = agent.roles()
        before = agent.fds() if root_only("fds_of_the_agent_after_hostile_messages") else None
        hostile = Process(scene, "hostile", [BUILD / "tests/peers/hostile_worker", agent.socket, "www", "other",
                                             WORKER_USER])
        longest = requests = 0
        while hostile.alive():  # an honest worker goes on beside it
            start = time.monotonic()
            facts(server.port)
            requests += 1
            longest = max(longest, time.monotonic() - start)
        print(textwrap.indent(hostile.text(), "    "))
        print(f"{requests} honest requests meanwhile; the longest took {longest:.3f} s")
        check(hostile.process.returncode == 0, hostile.text())
        check(hostile.text().count("ok ") > 50, "cases are missing")
        check(longest < 5, f"an honest worker had to wait for {longest:.1f} s")
        check(agent.roles() == roles, "processes were replaced:", roles, agent.roles())
        if before:
            wait_until(lambda: agent.fds() == before, 5, f"the agent's fds are as before: {before}, {agent.fds()}")


def test_flood_of_requests_whose_answers_nobody_reads():
    """It meets the only cell, where an honest worker's handshakes go on; afterwards nothing is left of it."""
    with Scene() as scene:
        agent = scene.agent(context("www"), cells=1)
        server = scene.server(agent)
        for _ in range(3):
            facts(server.port)
        agent.wait_for_channels(2)
        roles = agent.roles()
        before = agent.fds() if root_only("fds_of_the_agent_after_a_flood") else None
        hostile = Process(scene, "hostile", [BUILD / "tests/peers/hostile_worker", agent.socket, "www", "www",
                                             WORKER_USER, "flood"], stdin=subprocess.PIPE)
        hostile.wait_for("^flooding$")
        longest = 0
        for _ in range(30):
            start = time.monotonic()
            facts(server.port)
            longest = max(longest, time.monotonic() - start)
        check(hostile.alive(), "the flood ended too early:", hostile.text())
        hostile.process.stdin.close()
        requests, channels = map(int, hostile.wait_for(r"^flooded (\d+) requests, (\d+) channels$").groups())
        print(f"30 honest requests beside {requests} of a flood on {channels} channels; the longest took {longest:.3f} s")
        check(hostile.process.wait(10) == 0, hostile.text())
        check(longest < 3, f"an honest worker had to wait for {longest:.1f} s")
        check(agent.roles() == roles, "processes were replaced:", roles, agent.roles())
        if before:
            wait_until(lambda: agent.fds() == before, 10, f"the agent's fds are as before: {before}, {agent.fds()}")


def froze(how):
    """Something that freezes who touches it, and that SIGKILL does not end, costs its cell once and its user its
    place; nobody else anything."""
    if not ROOT:
        raise Skip("only root may mount the file system that freezes")
    culprit = "games"
    with Scene() as scene:
        agent = scene.agent(context("www", users=[WORKER_USER, culprit]), cells=2)
        server = scene.server(agent)

        def attack():
            return Process(scene, "hostile", [BUILD / "tests/peers/hostile_worker", agent.socket, "www", "www",
                                              culprit, how], stdin=subprocess.PIPE)
        load = scene.load(server.port, "handshakes", 2000, IN_FLIGHT)
        time.sleep(0.3)  # some are in the cell
        hostile = attack()
        try:
            wait_until(lambda: "frozen" in hostile.text() or not hostile.alive(), 10, "the descriptor is sent")
            if hostile.process.poll() == 77:
                raise Skip(hostile.text().strip())
            start, longest = time.monotonic(), 0

            def replaced():
                nonlocal longest
                begin = time.monotonic()
                facts(server.port, timeout=10)
                longest = max(longest, time.monotonic() - begin)
                return len(re.findall(r"cell \S+ is up", agent.process.text())) == 3
            wait_until(replaced, 10, "the cell is replaced")
            took = time.monotonic() - start
            check(hostile.alive(), "the hostile worker is gone, so nothing is frozen")
            print(f"replaced after {took:.1f} s; the longest of the honest requests meanwhile took {longest:.1f} s")
            check(took < 5, f"the cell was replaced only after {took:.1f} s")
            check(longest < 5, f"an honest request took {longest:.1f} s")
            roles = agent.roles()
            uid = pwd.getpwnam(culprit).pw_uid
            bans = agent.status()["bans"]
            check(len(bans) == 1 and bans[0]["uid"] == uid and bans[0]["pid"] == hostile.pid and
                  bans[0]["times"] == 1 and 5 <= bans[0]["seconds"] <= 10, "the user is kept out:", bans)
            check(f"uid {uid} (pid {hostile.pid}) froze a cell" in agent.process.text(), "the log says so")
            table = run([BUILD / "tlsagent", "status", "--socket", agent.control]).stdout
            check(f"uid {uid} is kept out" in table, "so does the command:", table)
            again = attack()
            try:
                wait_until(lambda: "denied" in again.text(), 10, f"it is refused: {again.text()}")
            finally:
                end_freeze(again)
            for _ in range(20):
                facts(server.port, timeout=2)
            time.sleep(2.5)
            check(agent.roles() == roles, "no other cell has suffered")
            load.process.wait(60)  # also those whose sockets the frozen process still has
            failed = re.search(r"^connections=2000 failed=(\d+) ", load.text(), re.M)
            check(failed and int(failed.group(1)) <= IN_FLIGHT, "handshakes beside it:", load.text()[-1000:])
            print(f"{failed.group(1)} of 2000 handshakes beside it failed")
        finally:
            end_freeze(hostile)


def end_freeze(hostile):
    hostile.process.stdin.close()
    for pid in re.findall(r"^server (\d+)", hostile.text(), re.M):
        os.kill(int(pid), signal.SIGKILL)  # the kernel lets everybody go


def test_a_file_whose_close_never_returns():
    froze("freeze")


def test_a_socket_whose_lock_is_held_for_ever():
    froze("lock")


main()
