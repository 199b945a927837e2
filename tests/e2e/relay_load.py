#!/usr/bin/env python3
"""(run alone) The relay under load: 2,000 connections with stalls, resets and half-closes; the agent dies in the middle."""
import os
import pathlib
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import *  # noqa: E402,F403
from serve_lib import *  # noqa: E402,F403

CONNECTIONS = 300 if SANITIZED else 2000


def test_unruly_connections_lose_nothing_and_leave_nothing():
    with Scene() as scene:
        agent = scene.agent(context("www", deadline=60))
        echo = Process(scene, "echo", [BUILD / "tests/peers/relay_load", "echo"])
        port = int(echo.wait_for(r"^port (\d+)$").group(1))
        before = relays()
        serve = start_serve(scene, agent, "--to", f"127.0.0.1:{port}", options=("--max", 3000, "--relays", 2))
        mine = [pid for pid in relays() if pid not in before]
        check(len(mine) == 2, mine)
        idle_fds = [process_fds(pid) for pid in mine] if ROOT else None
        idle_rss = [process_rss(pid) for pid in mine]
        run_ = Process(scene, "run", [BUILD / "tests/peers/relay_load", "run", serve.port, ca(), CONNECTIONS, 4711])
        run_.wait_for("^running$", 120)
        most = [0, 0]
        agent.kill()  # kill -9 of every process of the agent: established connections must not notice

        def look():
            for i, pid in enumerate(mine):
                most[i] = max(most[i], process_rss(pid))
            return not run_.alive()
        wait_until(look, 200, "all connections have met their fate")
        check(run_.process.returncode == 0, run_.text())
        print("   ", run_.lines()[-1])
        wait_until(lambda: not ROOT or [process_fds(pid) for pid in mine] == idle_fds, 30, "the relays' fds are closed")
        rest = [process_rss(pid) for pid in mine]
        print(f"    memory of two relays: idle {[r >> 10 for r in idle_rss]} KB, at most {[r >> 10 for r in most]} KB, "
              f"afterwards {[r >> 10 for r in rest]} KB")
        check(sum(most) < CONNECTIONS * 100000, "memory of the relays", most)
        check(sum(rest) < sum(idle_rss) + (32 << 20), "memory that is left", rest)
        serve.stop()
        wait_until(lambda: not any(pid in relays() for pid in mine), 10, "the relays end with their last connection")


if __name__ == "__main__":
    main()
