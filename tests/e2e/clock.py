#!/usr/bin/env python3
"""Ticket keys follow the clock: over hours, when it is set back, and when the hosts of a fleet disagree."""
import os
import pathlib
import shutil
import struct
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import BUILD, Scene, check, context, main, wait_until  # noqa: E402
from redis import Redis  # noqa: E402
from sessions import at_least, make_sessions, not_resumed, resume  # noqa: E402

HOUR = 3600
PERIOD = 3 * HOUR  # ticket_period's default; ticket_life's is 12 hours
TICKETS = ("13", "12")
ALL = (*TICKETS, "id")


class Clock:
    """A tlsagentd of its own, whose clock is so many seconds ahead of ours (tests/e2e/clock.c)."""

    def __init__(self, scene, ahead=0):
        self.program = scene.directory / "tlsagentd"
        self.file = scene.directory / "tlsagentd.clock"
        shutil.copy(BUILD / "tests/e2e/tlsagentd-clock", self.program)
        self.file.write_bytes(struct.pack("l", ahead))

    def set(self, ahead):
        with open(self.file, "r+b") as file:
            file.write(struct.pack("l", ahead))


def made(port, count=20, kinds=ALL):
    return {kind: make_sessions(port, kind, count) for kind in kinds}


def all_resume(port, sessions, what):
    for kind, (ctx, some) in sessions.items():
        at_least(0.99, resume(port, ctx, some), len(some), f"{what}, {kind}")


def none_resumes(port, sessions, what):
    for kind, (ctx, some) in sessions.items():
        check(resume(port, ctx, some) == 0, f"{what}: resumed ({kind})")
    print(f"{what}: full handshakes")


def until_boundary():
    """Seconds of our clock to the next period."""
    return PERIOD - int(time.time()) % PERIOD


def test_rotation_in_both_directions_of_time():
    with Scene() as scene:
        clock = Clock(scene, until_boundary() + 10)  # the beginning of a period, so that the hours below are clear
        start = until_boundary() + 10
        agent = scene.agent(context("www"), program=clock.program)
        port = scene.server(agent).port
        first = made(port)
        clock.set(start + PERIOD)  # other keys
        second = made(port)
        all_resume(port, first, "3 hours later")
        all_resume(port, second, "new keys")
        clock.set(start)  # back: the second ones are of keys that are not yet in use
        before = not_resumed(agent)["ticket_future"]
        all_resume(port, first, "the clock set back by 3 hours, older tickets")
        none_resumes(port, second, "tickets of the future")
        check(not_resumed(agent)["ticket_future"] - before == 40, "not counted", not_resumed(agent))
        all_resume(port, made(port), "the clock set back, new tickets")
        clock.set(start + PERIOD)
        all_resume(port, second, "forward again")
        clock.set(start + 11 * HOUR)
        all_resume(port, first, "11 hours later")
        clock.set(start + 20 * HOUR)
        before = not_resumed(agent)["ticket_expired"]
        none_resumes(port, first, "20 hours later")
        check(not_resumed(agent)["ticket_expired"] - before >= 20, "not counted", not_resumed(agent))
        all_resume(port, made(port), "20 hours later, new tickets")
        clock.set(start)  # keys that were forgotten do not come back; the agent serves
        none_resumes(port, first, "back by 20 hours, forgotten keys")
        all_resume(port, made(port, 5), "back by 20 hours, new tickets")
        clock.set(start + 20 * HOUR)
        all_resume(port, made(port), "forward by 20 hours")


def test_hosts_of_a_fleet_whose_clocks_disagree():
    """Four minutes apart, with a new period between them: no client notices."""
    with Scene() as behind, Scene() as before:
        start = until_boundary()
        clocks = Clock(behind, start - 120), Clock(before, start + 120)
        ports = []
        for scene, clock in zip((behind, before), clocks):
            (scene.directory / "secret").write_text("the secret of a fleet whose clocks disagree\n")
            agent = scene.agent(context("www"), f'fleet {{ secret_file = "{scene.directory}/secret" }}\n',
                                program=clock.program)
            ports.append(scene.server(agent).port)
        old, new = (made(port, kinds=TICKETS) for port in ports)
        all_resume(ports[1], old, "a ticket of the host behind")
        all_resume(ports[0], new, "a ticket of the host before, of keys that are not yet in use here")
        for clock, ahead in zip(clocks, (start + PERIOD - 120, start + PERIOD + 120)):
            clock.set(ahead)
        all_resume(ports[1], old, "3 hours later, a ticket of the host behind")
        all_resume(ports[0], new, "3 hours later, a ticket of the host before")
        clocks[1].set(start + 2 * PERIOD + HOUR)  # an hour and more before: that is no skew any more
        none_resumes(ports[0], made(ports[1], kinds=TICKETS), "a host more than an hour before")


def test_a_store_that_gives_back_what_is_too_old():
    """Its own clock is ours, so that the entries do not expire there."""
    with Scene() as place, Scene() as one, Scene() as other:
        redis = Redis(place)
        start = until_boundary() + 10
        clocks = Clock(one, start), Clock(other, start)
        agents, ports = [], []
        for scene, clock in zip((one, other), clocks):
            (scene.directory / "secret").write_text("the secret of a fleet whose clocks disagree\n")
            agents.append(scene.agent(context("www"), f'fleet {{ secret_file = "{scene.directory}/secret" '
                                      f'store = "redis://127.0.0.1:{redis.port}" store_wait = 1000 }}\n',
                                      program=clock.program, cells=1))
            ports.append(scene.server(agents[-1]).port)
        for agent in agents:
            wait_until(lambda: any(process.get("store", {}).get("usable") for process in agent.status()["processes"]
                                   if process["role"] == "fetcher"), 10, "the store is connected")
        ctx, sessions = make_sessions(ports[0], "id", 20)
        wait_until(lambda: len(redis.keys()) == 20, 10, "all are in the store")
        clocks[1].set(start + 11 * HOUR)
        at_least(0.99, resume(ports[1], ctx, sessions[:6]), 6, "11 hours later, from the store")
        for hours, reason in ((12, "ticket_expired"), (20, "session_bad")):  # the session is over; its key is forgotten
            clocks[1].set(start + hours * HOUR + 60)
            before = not_resumed(agents[1])[reason]
            check(resume(ports[1], ctx, sessions[6:12]) == 0, f"{hours} hours later: resumed")
            check(not_resumed(agents[1])[reason] - before == 6, "not counted", not_resumed(agents[1]))
            print(f"{hours} hours later, from the store: full handshakes ({reason})")
        check(len(redis.keys()) >= 20, "the store has lost them")


main()
