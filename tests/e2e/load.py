#!/usr/bin/env python3
# run alone: it measures memory under load.
"""20,000 handshakes of mixed clients: none fails, and nothing grows."""
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import SANITIZED, Scene, check, children, main, process_fds, process_rss, root_only, wait_until  # noqa: E402

HALF = 1000 if SANITIZED else 10000


def handshakes(scene, server, count):
    load = scene.load(server.port, "handshakes", count, 64)
    check(load.process.wait(280) == 0, load.text()[-3000:])
    line = load.lines()[-1]
    load.file.close()
    scene.processes.remove(load)
    print(line)
    numbers = {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", line)}
    check(numbers["connections"] == count and numbers["failed"] == 0 and numbers["missed"] == 0, line)
    check(count < 1000 or numbers["resumed"] > count * 0.4, "hardly any was resumed:", line)


def test_20000_mixed_handshakes():
    with Scene() as scene:
        agent = scene.agent()
        server = scene.server(agent, workers=8)
        workers = children(server.pid)
        look = root_only("fds_of_the_agent_after_20000_handshakes")

        def fds():
            return {**(agent.fds() if look else {}), **{pid: process_fds(pid) for pid in workers}}

        def rss():
            return {**agent.rss(), **{pid: process_rss(pid) for pid in workers}}
        names = {**agent.roles(), agent.pid: "supervisor", **{pid: "worker" for pid in workers}}
        handshakes(scene, server, 200)
        agent.wait_for_channels(8)
        before = wait_until(fds, 1, "fds")
        handshakes(scene, server, HALF)
        wait_until(lambda: fds() == before, 5, f"fds are as before: {before}")
        first = rss()
        handshakes(scene, server, HALF)
        wait_until(lambda: fds() == before, 5, f"fds are as before: {before}")
        second = rss()
        check(set(first) == set(second) and {*agent.roles(), agent.pid, *workers} == set(first),
              "processes were replaced")
        grown = []
        for pid, name in sorted(names.items(), key=lambda item: item[1]):
            growth = (second[pid] - first[pid]) / first[pid] * 100
            print(f"{name}: fds {before.get(pid, '?')}, resident {first[pid] // 1024} KiB after the first half, "
                  f"{second[pid] // 1024} KiB after the second ({growth:+.2f} %)")
            if growth > 2:
                grown.append(name)
        total = (sum(second.values()) - sum(first.values())) / sum(first.values()) * 100
        print(f"all: {sum(first.values()) // 1024} KiB, then {sum(second.values()) // 1024} KiB ({total:+.2f} %)")
        check(SANITIZED or (not grown and total <= 2), "memory grows:", grown)


main()
