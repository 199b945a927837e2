#!/usr/bin/env python3
# run alone: it measures memory.
"""What an idle established connection costs: nothing in the agent, under 1 KiB of heap in the worker."""
import pathlib
import re
import resource
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import ROOT, SANITIZED, Scene, Skip, check, context, main  # noqa: E402


def test_10000_idle_connections():
    count = 1000 if SANITIZED else 10000
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < count + 100:
        raise Skip(f"only {resource.getrlimit(resource.RLIMIT_NOFILE)[1]} descriptors are allowed here")
    with Scene() as scene:
        agent = scene.agent(context("www", "p256"))
        worker = scene.worker(agent, "heap", count)
        warm = scene.worker(agent, "heap", 1000)
        load = scene.load(warm.port, "idle", 1000, stdin=subprocess.PIPE)
        load.wait_for("^idle$", 60)
        load.process.stdin.close()
        check(load.process.wait(60) == 0, load.text())
        warm.wait_for("^answered$", 60)
        warm.stop()

        fds, rss = agent.fds() if ROOT else {}, agent.rss()
        load = scene.load(worker.port, "idle", count, stdin=subprocess.PIPE)
        load.wait_for("^idle$", 200)
        cost = worker.wait_for(r"^heap (-?\d+) memory (-?\d+)$", 20)
        print(f"{count} idle connections: {cost.group(1)} bytes of heap each in the worker, "
              f"{cost.group(2)} bytes of private memory in all")
        names = {**agent.roles(), agent.pid: "supervisor"}
        for pid, name in names.items():
            now = agent.rss()[pid]
            print(f"{name}: fds {fds.get(pid, '?')} -> {agent.fds()[pid] if ROOT else '?'}, resident "
                  f"{rss[pid] // 1024} KiB -> {now // 1024} KiB")
            check(SANITIZED or now - rss[pid] < 512 * 1024, f"{name} grew by {now - rss[pid]} bytes")
        check(not ROOT or agent.fds() == fds, "fds of the agent grew")
        check(SANITIZED or (0 <= int(cost.group(1)) < 1024 and int(cost.group(2)) < 1024), cost.group(0))
        load.process.stdin.close()
        check(load.process.wait(100) == 0, load.text()[-3000:])
        worker.wait_for("^answered$", 60)
        check(re.search(r"failed=0 ", load.text()), load.text())
        check(" error " not in worker.text(), worker.text())


main()
