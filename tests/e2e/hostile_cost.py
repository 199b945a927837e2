#!/usr/bin/env python3
# run alone: it measures CPU time.
"""What hostile workers cost the others, in short: the kinds that are all work, a few short pairs each beside a bystander
who is as busy. tests/soak/hostile_cost.py has every kind, and judges by 0.90: what is found here is a defence that is
gone, whatever else the machine does."""
import os
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import ROOT, SANITIZED, WORKER_USER, Scene, Skip, check, context, main  # noqa: E402
from cost import HOSTILE_USER, Beside, rate  # noqa: E402

HANDSHAKES = int(os.environ.get("HANDSHAKES", 200))
PAIRS = int(os.environ.get("PAIRS", 5))
WANTED = 0.7


def test_honest_handshakes_cost_little_more_beside_hostile_workers():
    if SANITIZED:
        raise Skip("built with a sanitizer")
    if not ROOT:
        raise Skip("needs two users")
    ratios = {}
    with Scene() as scene:
        agent = scene.agent(context("www", users=[WORKER_USER, HOSTILE_USER]), cells=2)
        server = scene.server(agent)
        rate(scene, agent, server, HANDSHAKES)
        sides = {}
        for kind in ("bystander", "connection_bomb", "refused_flood"):
            sides[kind] = Beside(scene, kind, agent)
            time.sleep(0.5)  # what it may do at once is done
            sides[kind].halt()

        def beside(kind):
            sides[kind].go_on()
            time.sleep(0.2)
            result = rate(scene, agent, server, HANDSHAKES)
            sides[kind].halt()
            return result
        for kind in ("connection_bomb", "refused_flood"):
            pairs = []
            for turn in range(PAIRS):
                order = ["bystander", kind][:: 1 if turn % 2 == 0 else -1]
                result = {side: beside(side) for side in order}
                pairs.append(result[kind] / result["bystander"])
            ratios[kind] = statistics.median(pairs)
            print(f"{kind}: " + ", ".join(f"{ratio:.2f}" for ratio in pairs) + f": median {ratios[kind]:.2f}")
        for side in sides.values():
            side.go_on()
            side.end()
    for kind, ratio in ratios.items():
        check(ratio >= WANTED, f"{kind} costs the others more than it may: {ratio:.2f}")


main()
