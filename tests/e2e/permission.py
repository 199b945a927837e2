#!/usr/bin/env python3
"""Who may use a context, and what the others are told."""
import grp
import os
import pathlib
import pwd
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import ROOT, WORKER_USER, Scene, check, client, context, main  # noqa: E402

STRANGER = "games"


def refused(worker, expected):
    """A connection to the worker ends, and the worker was told why."""
    client("refused", worker.port)
    line = worker.wait_for("^failed.*$").group(0)
    print(line)
    check(line.startswith("failed 4 "), "not the code TLSAGENT_E_NOT_PERMITTED:", line)
    check("not permitted" in line, line)
    for word in expected:
        check(word in line, f"{word!r} is not in: {line}")


def test_wrong_context_name():
    with Scene() as scene:
        agent = scene.agent()
        refused(scene.worker(agent, "echo", name="wwww"), ["wwww"])


def test_context_of_another_user():
    with Scene() as scene:
        agent = scene.agent(context("www"), context("other", "p256", users=["root" if ROOT else "daemon"]))
        refused(scene.worker(agent, "echo", name="other"), ["other"])


def test_user_in_no_context():
    with Scene() as scene:
        agent = scene.agent(context("www", users=[STRANGER if ROOT else "daemon"]))
        refused(scene.worker(agent, "echo"), ["www"])


def test_group_opens_a_context():
    group = grp.getgrgid(pwd.getpwnam(WORKER_USER).pw_gid).gr_name if ROOT else grp.getgrgid(os.getegid()).gr_name
    with Scene() as scene:
        agent = scene.agent(context("www", "p256", users=[STRANGER if ROOT else "daemon"]).replace(
            "workers {", f'workers {{ groups = {{"{group}"}} '))
        worker = scene.worker(agent, "echo")
        client("echo", worker.port, 13, 3)


main()
