#!/usr/bin/env python3
# run alone: it measures memory.
"""What an idle established connection costs: nothing in the agent, under 1 KiB of heap in the worker."""
import pathlib
import resource
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import SANITIZED, Scene, Skip, check, main, root_only  # noqa: E402


def test_10000_idle_connections():
    count = 1000 if SANITIZED else 10000
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < count + 100:
        raise Skip(f"only {resource.getrlimit(resource.RLIMIT_NOFILE)[1]} descriptors are allowed here")
    with Scene() as scene:
        agent = scene.agent()
        worker = scene.worker(agent, "heap", count)
        names = {**agent.roles(), agent.pid: "supervisor"}

        # In five parts. The first warms the allocators up; a cost of each connection would show in
        # every other one, noise of the allocators only in some: so the smallest growth counts.
        look = root_only("fds_of_the_agent_with_10000_idle_connections")
        fds = agent.fds() if look else {}
        loads, rss = [], []
        for _ in range(5):
            load = scene.load(worker.port, "idle", count // 5, stdin=subprocess.PIPE)
            load.wait_for("^idle$", 100)
            loads.append(load)
            rss.append(agent.rss())
        cost = worker.wait_for(r"^heap (-?\d+) memory (-?\d+)$", 20)
        print(f"{count} idle connections: {cost.group(1)} bytes of heap each in the worker, "
              f"{cost.group(2)} bytes of private memory in all")
        for pid, name in names.items():
            growth = [(later[pid] - earlier[pid]) / (count // 5) for earlier, later in zip(rss, rss[1:])]
            print(f"{name}: {fds.get(pid, '?')} fds without, {agent.fds()[pid] if look else '?'} with them; resident "
                  f"{', '.join(str(part[pid] // 1024) for part in rss)} KiB; at least {min(growth):.1f} bytes each")
            check(SANITIZED or min(growth) < 8, f"{name} grows with each connection: {growth}")
        check(not look or agent.fds() == fds, "fds of the agent grew")
        check(SANITIZED or (0 <= int(cost.group(1)) < 1024 and int(cost.group(2)) < 1024), cost.group(0))
        for load in loads:
            load.process.stdin.close()
        for load in loads:
            check(load.process.wait(100) == 0, load.text()[-3000:])
        worker.wait_for("^answered$", 60)
        check(" error " not in worker.text(), worker.text())


main()
