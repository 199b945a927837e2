#!/usr/bin/env python3
# run alone: it measures CPU time.
"""What hostile workers cost the others: honest handshakes per second of the agent's CPU time, with each kind of hostile
worker beside them and with a bystander, in turn. The bystander is as busy and has nothing to do with the agent: what it
takes from caches and shared cores would else be counted as the attack's."""
import os
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import BUILD, ROOT, SANITIZED, WORKER_USER, Process, Scene, Skip, check, context, main  # noqa: E402
import hostile  # noqa: E402

HANDSHAKES = int(os.environ.get("HANDSHAKES", 2000))
ROUNDS = int(os.environ.get("ROUNDS", 5))
WANTED = 0.90
USER = "games"


def cpu_seconds(agent):
    """Scheduled time of all the agent's processes; of those that were replaced meanwhile too (in ticks)."""
    pids = (agent.pid, *agent.roles())
    alive = sum(int(pathlib.Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e9
    stat = pathlib.Path(f"/proc/{agent.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return alive + (int(stat[13]) + int(stat[14])) / os.sysconf("SC_CLK_TCK")


def rate(scene, agent, server):
    before = cpu_seconds(agent)
    load = scene.load(server.port, "handshakes", HANDSHAKES, 32)
    check(load.process.wait(120) == 0, load.text()[-2000:])
    load.file.close()
    scene.processes.remove(load)
    return HANDSHAKES / (cpu_seconds(agent) - before)


def rate_beside(kind, scene, agent, server):
    attack = Process(scene, "hostile", [sys.executable, hostile.__file__, kind, agent.socket, USER])
    attack.wait_for("^attacking$")
    time.sleep(2)  # what it may do at once is done
    result = rate(scene, agent, server)
    check(attack.alive(), "the attack ended:", attack.text())
    attack.process.kill()
    attack.process.wait()
    attack.file.close()
    scene.processes.remove(attack)
    return result


def ratio_under(kind):
    if SANITIZED:
        raise Skip("built with a sanitizer")
    if not ROOT:
        raise Skip("needs two users")
    with Scene() as scene:
        agent = scene.agent(context("www", users=[WORKER_USER, USER]), cells=2)
        server = scene.server(agent)
        rate(scene, agent, server)
        ratios = []
        for turn in range(ROUNDS):
            order = ["bystander", kind] if turn % 2 == 0 else [kind, "bystander"]
            results = {side: rate_beside(side, scene, agent, server) for side in order}
            ratios.append(results[kind] / results["bystander"])
            print(f"handshakes per CPU second: beside a bystander {results['bystander']:.0f}, beside {kind} "
                  f"{results[kind]:.0f}: {ratios[-1]:.3f}")
        ratio = statistics.median(ratios)
        print(f"{kind}: median ratio {ratio:.3f} of {ROUNDS} pairs")
        check(ratio >= WANTED, f"{kind} costs the others more than it may: {ratio:.3f}")


def test_held_channels():
    ratio_under("held_channels")


def test_silent_peers():
    ratio_under("silent_peers")


def test_broken_messages():
    ratio_under("broken_messages")


def test_refused_requests():
    ratio_under("refused_requests")


def test_connection_bomb():
    ratio_under("connection_bomb")


def test_talking_bomb():
    ratio_under("talking_bomb")


main()
