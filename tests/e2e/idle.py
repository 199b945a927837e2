#!/usr/bin/env python3
# run alone: it measures memory.
"""What an idle established connection costs: nothing in the agent, under 1 KiB of heap in the worker."""
import pathlib
import resource
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import ROOT, SANITIZED, Scene, Skip, check, main  # noqa: E402


def test_10000_idle_connections():
    count = 1000 if SANITIZED else 10000
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < count + 100:
        raise Skip(f"only {resource.getrlimit(resource.RLIMIT_NOFILE)[1]} descriptors are allowed here")
    with Scene() as scene:
        agent = scene.agent()
        worker = scene.worker(agent, "heap", count)
        names = {**agent.roles(), agent.pid: "supervisor"}

        def more():
            """Half of the connections, then what the agent has."""
            load = scene.load(worker.port, "idle", count // 2, stdin=subprocess.PIPE)
            load.wait_for("^idle$", 200)
            return load, agent.rss()

        fds = agent.fds() if ROOT else {}
        # The first half warms the allocators up: after it, what grows is what a connection costs.
        first, rss_half = more()
        second, rss = more()
        cost = worker.wait_for(r"^heap (-?\d+) memory (-?\d+)$", 20)
        print(f"{count} idle connections: {cost.group(1)} bytes of heap each in the worker, "
              f"{cost.group(2)} bytes of private memory in all")
        for pid, name in names.items():
            grown = rss[pid] - rss_half[pid]
            print(f"{name}: {fds.get(pid, '?')} fds without, {agent.fds()[pid] if ROOT else '?'} with them; resident "
                  f"{rss_half[pid] // 1024} KiB with {count // 2}, {rss[pid] // 1024} KiB with {count}: "
                  f"{grown / (count // 2):.1f} bytes each")
            check(SANITIZED or grown < 100 * 1024, f"{name} grew by {grown} bytes")
        check(not ROOT or agent.fds() == fds, "fds of the agent grew")
        check(SANITIZED or (0 <= int(cost.group(1)) < 1024 and int(cost.group(2)) < 1024), cost.group(0))
        for load in (first, second):
            load.process.stdin.close()
        for load in (first, second):
            check(load.process.wait(100) == 0, load.text()[-3000:])
        worker.wait_for("^answered$", 60)
        check(" error " not in worker.text(), worker.text())


main()
