#!/usr/bin/env python3
# run alone: it measures memory under load.
"""Rounds of handshakes for SOAK_MINUTES (default 10) while cells die and connections change their keys."""
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import ROOT, SANITIZED, Scene, check, children, main, process_fds, process_rss, wait_until  # noqa: E402

MINUTES = float(os.environ.get("SOAK_MINUTES", "10"))
ROUND = 20000 if MINUTES >= 10 and not SANITIZED else 3000
AT_ONCE = 64
# A cell that dies takes the handshakes with it that have begun: of a TLS 1.3 client's view also those
# where only the end of its own handshake, and so the first answer, is missing. Never data that flowed.
EXPLAINED = re.compile(r"^connection (handshake failed in phase [01]|(write failed|read of the head failed) "
                       r"in phase [34]), round 0: ")


class Killer(threading.Thread):
    """Kills a keeper or a handshaker, waits until its cell is replaced, and some seconds more; again."""

    def __init__(self, agent):
        super().__init__(daemon=True)
        self.agent = agent
        self.names = sorted(agent.roles().values())
        self.over = threading.Event()
        self.kills = []
        self.slowest = 0
        self.error = None

    def cells_are_up(self):
        """All of them, says the agent's log."""
        events = re.findall(r": (?:cell (\S+) is up|\w+ (\S+) \(pid \d+\) .*the cell is replaced)",
                            self.agent.process.text())
        return all({up or down: up for up, down in events}.values()) and \
            sorted(self.agent.roles().values()) == self.names

    def run(self):
        try:
            while not self.over.wait(random.uniform(2, 5)):
                wait_until(self.cells_are_up, 10, "all cells are up")
                victim, name = random.choice([item for item in self.agent.roles().items()
                                              if item[1].startswith(("keeper", "handshaker"))])
                os.kill(victim, signal.SIGKILL)
                start = time.monotonic()
                wait_until(lambda: victim not in self.agent.roles() and self.cells_are_up(), 10,
                           f"{name} is replaced")
                self.slowest = max(self.slowest, time.monotonic() - start)
                self.kills.append(name)
        except Exception as error:  # the test itself shows it
            self.error = error

    def stop(self):
        self.over.set()
        self.join()
        if self.error:
            raise self.error


def one_round(scene, server):
    """Handshakes; returns how many failed, all of them as those of a dead cell do."""
    load = scene.load(server.port, "handshakes", ROUND, AT_ONCE)
    load.process.wait(1200)
    lines = load.lines()
    load.file.close()
    scene.processes.remove(load)
    numbers = {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", lines[-1])}
    check(numbers.get("connections") == ROUND, lines[-10:])
    failures = [line for line in lines if line.startswith("connection ")]
    strange = [line for line in failures if not EXPLAINED.match(line)]
    check(not strange and len(failures) == numbers["failed"], lines[-1], strange[:5])
    check(numbers["resumed"] > ROUND * 0.4, "hardly any was resumed:", lines[-1])
    print(lines[-1])
    return numbers["failed"]


def carry(scene, server, mode):
    load = scene.load(server.port, mode, 20, stdin=subprocess.PIPE)
    load.wait_for("^running$", 60)
    return load


def test_long_load_while_cells_are_killed():
    with Scene() as scene:
        agent = scene.agent(cells=2)
        server = scene.server(agent, workers=4)
        workers = children(server.pid)
        lasting = (agent.pid, *workers)
        streams = [carry(scene, server, mode) for mode in ("stream", "rekey")]

        def fds():
            """By name where processes are replaced."""
            roles = agent.roles() if ROOT else {}
            return sorted([(str(pid), process_fds(pid)) for pid in (lasting if ROOT else workers)] +
                          [(name, process_fds(pid)) for pid, name in roles.items()])

        def rss():
            return {pid: process_rss(pid) for pid in lasting}
        check(one_round(scene, server) == 0, "failures before anything was killed")
        before, first = wait_until(fds, 1, "fds"), rss()
        largest = max(process_rss(pid) for pid in agent.roles())
        end = time.monotonic() + MINUTES * 60
        rounds = kills = failed = 0
        while rounds < 2 or time.monotonic() < end:
            killer = Killer(agent)
            killer.start()
            lost = one_round(scene, server)
            killer.stop()
            silent = agent.process.text().count("has not answered for")
            check(lost <= AT_ONCE * len(killer.kills), lost, "failures, and killed were", killer.kills,
                  f"; {silent} times the agent replaced a cell that did not answer: is the machine overloaded?")
            rounds, kills, failed = rounds + 1, kills + len(killer.kills), failed + lost
            print(f"round {rounds}: {lost} lost to {killer.kills}, replaced within {killer.slowest:.2f} s")
            wait_until(lambda: fds() == before, 10, f"fds are as before: {before}")
            check(sorted(children(server.pid)) == sorted(workers), "workers were replaced")
            check(max(process_rss(pid) for pid in agent.roles()) < largest * 1.5, "a cell has grown:", agent.rss())
        check(kills > 0, "nothing was killed")
        check(one_round(scene, server) == 0, "failures after the last kill")
        for load in streams:
            check(load.alive(), load.text())
            load.process.stdin.close()
            check(load.process.wait(60) == 0 and "failed=0" in load.lines()[-1], load.text())
            print(load.lines()[-1])
        for pid, size in rss().items():
            print(f"{'supervisor' if pid == agent.pid else 'worker'}: {first[pid] // 1024} KiB, then {size // 1024}")
            check(SANITIZED or size < first[pid] * 1.05 + (1 << 20), "memory grows")
        print(f"{rounds} rounds of {ROUND}, {kills} kills, {failed} handshakes lost to them, {silent} cells replaced "
              "because they did not answer")


main()
