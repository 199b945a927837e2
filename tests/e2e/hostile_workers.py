#!/usr/bin/env python3
"""Workers that break the rules lose their own channel; nobody else notices."""
import pathlib
import sys
import textwrap
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import BUILD, ROOT, WORKER_USER, Process, Scene, check, context, facts, free_port, main, wait_until  # noqa: E402


def test_table_of_hostile_messages():
    with Scene() as scene:
        others = ["root"] if ROOT else []
        agent = scene.agent(context("www", listen=f'{{"127.0.0.1:{free_port()}"}}'), context("other", "p256", users=others or ["root"]), max_channels=1000)
        server = scene.server(agent)
        facts(server.port)
        roles = agent.roles()
        before = agent.fds() if ROOT else None
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
        check(longest < 2, f"an honest worker had to wait for {longest:.1f} s")
        check(agent.roles() == roles, "processes were replaced:", roles, agent.roles())
        if ROOT:
            wait_until(lambda: agent.fds() == before, 5, f"the agent's fds are as before: {before}, {agent.fds()}")


main()
