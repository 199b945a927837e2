#!/usr/bin/env python3
# run alone: it measures CPU time.
"""What hostile workers cost the others: honest handshakes per second of the agent's CPU time, with each kind of hostile
worker beside them, with a bystander, and with nobody, in turn. The bystander is as busy and has nothing to do with the
agent. Judged is the ratio to the bystander: a second busy process takes from caches, and from a core that hyperthreads
share, whatever it does, and what it takes is not the attack's. The ratio to nobody, printed beside it, has both."""
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import (BUILD, ROOT, SANITIZED, WORKER_USER, Process, Scene, Skip, check, context, free_port, main,  # noqa: E402
                 wait_until)
from cost import HOSTILE_USER, Beside, rate  # noqa: E402

HANDSHAKES = int(os.environ.get("HANDSHAKES", 2000))
ROUNDS = int(os.environ.get("ROUNDS", 5))
WANTED = 0.90
IN_FLIGHT = 32  # handshakes at once


def scene_of(scene):
    if SANITIZED:
        raise Skip("built with a sanitizer")
    if not ROOT:
        raise Skip("needs two users")
    port = free_port()
    agent = scene.agent(context("www", users=[WORKER_USER, HOSTILE_USER]),
                        context("sink", "p256", users=[HOSTILE_USER], listen=f'{{"127.0.0.1:{port}"}}'), cells=2)
    server = scene.server(agent)
    rate(scene, agent, server, HANDSHAKES)
    return agent, server, port


def rate_beside(kind, scene, agent, server, more):
    if kind == "nobody":
        time.sleep(1)
        return rate(scene, agent, server, HANDSHAKES)
    beside = Beside(scene, kind, agent, *more)
    time.sleep(2)  # what it may do at once is done
    result = rate(scene, agent, server, HANDSHAKES)
    beside.end()
    return result


def measure(kind, scene, agent, server, *more):
    rows = []
    for turn in range(ROUNDS):
        order = ["nobody", "bystander", kind][:: 1 if turn % 2 == 0 else -1]
        row = {side: rate_beside(side, scene, agent, server, more if side == kind else ()) for side in order}
        print("handshakes per CPU second: " + ", ".join(f"{side} {row[side]:.0f}" for side in order))
        rows.append(row)
    to_bystander, to_nobody = (statistics.median(row[kind] / row[side] for row in rows) for side in ("bystander", "nobody"))
    print(f"{kind}: median ratio to a bystander {to_bystander:.3f}, to nobody {to_nobody:.3f}, of {ROUNDS} rounds")
    check(to_bystander >= WANTED, f"{kind} costs the others more than it may: {to_bystander:.3f}")


def ratio_under(kind, uses_port=False):
    with Scene() as scene:
        agent, server, port = scene_of(scene)
        measure(kind, scene, agent, server, *([port] if uses_port else []))


def test_held_channels():
    ratio_under("held_channels")


def test_silent_peers():
    ratio_under("silent_peers")


def test_broken_messages():
    ratio_under("broken_messages")


def test_refused_requests():
    ratio_under("refused_requests")


def test_refused_flood():
    ratio_under("refused_flood")


def test_unread_answers():
    ratio_under("unread_answers")


def test_unread_deliveries():
    ratio_under("unread_deliveries", uses_port=True)


def test_wrong_descriptors():
    ratio_under("wrong_descriptors")


def test_fd_floods():
    ratio_under("fd_floods")


def test_connection_bomb():
    ratio_under("connection_bomb")


def test_talking_bomb():
    ratio_under("talking_bomb")


def freeze(scene, agent):
    """A worker that has frozen a cell (its process is still there, and cannot end), once the cell is replaced."""
    ups = agent.process.text().count(" is up: keeper")
    worker = Process(scene, "hostile", [BUILD / "tests/peers/hostile_worker", agent.socket, "www", "www", HOSTILE_USER,
                                        "freeze"], stdin=subprocess.PIPE)
    wait_until(lambda: "frozen" in worker.text() or not worker.alive(), 10, "the descriptor is sent")
    if worker.process.poll() == 77:
        raise Skip(worker.text().strip())
    wait_until(lambda: agent.process.text().count(" is up: keeper") > ups, 10, "the cell is replaced")
    return worker


def thaw(worker):
    worker.process.stdin.close()
    for pid in re.findall(r"^server (\d+)", worker.text(), re.M):
        os.kill(int(pid), signal.SIGKILL)  # the kernel lets everybody go


def test_a_freezing_descriptor():
    """It ends a cell and keeps its user out. The handshakes that the cell had are lost: they are counted. The rate is the
    one after, with the frozen process still there, and its user connecting as often as it can."""
    with Scene() as scene:
        agent, server, _ = scene_of(scene)
        load = scene.load(server.port, "handshakes", 5 * HANDSHAKES, IN_FLIGHT)
        time.sleep(0.5)
        start = time.monotonic()
        worker = freeze(scene, agent)
        took = time.monotonic() - start
        try:
            load.process.wait(120)
            failed = int(re.search(r"failed=(\d+)", load.lines()[-1]).group(1))
            print(f"frozen in the middle of {5 * HANDSHAKES} handshakes: replaced after {took:.1f} s, {failed} failed")
            check(failed <= IN_FLIGHT, "more than were in flight:", load.text()[-2000:])
            measure("connection_bomb", scene, agent, server)
        finally:
            thaw(worker)


main()
