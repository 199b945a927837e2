"""cost.py: what those beside honest workers cost them: honest handshakes per second of the agent's CPU time."""
import os
import pathlib
import signal
import sys

from e2e import Process, check
import hostile

HOSTILE_USER = "games"


def cpu_seconds(agent):
    """Scheduled time of all the agent's processes; of those that were replaced meanwhile too (in ticks)."""
    pids = (agent.pid, *agent.roles())
    alive = sum(int(pathlib.Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e9
    stat = pathlib.Path(f"/proc/{agent.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return alive + (int(stat[13]) + int(stat[14])) / os.sysconf("SC_CLK_TCK")


def rate(scene, agent, server, handshakes):
    """None of them may fail."""
    before = cpu_seconds(agent)
    load = scene.load(server.port, "handshakes", handshakes, 32)
    check(load.process.wait(120) == 0, "honest handshakes failed:", load.text()[-2000:])
    load.file.close()
    scene.processes.remove(load)
    return handshakes / (cpu_seconds(agent) - before)


class Beside:
    """Somebody of another user beside the honest workers: a kind of tests/lib/hostile.py, at work until it is ended."""

    def __init__(self, scene, kind, agent, *more):
        self.scene = scene
        self.process = Process(scene, kind, [sys.executable, hostile.__file__, kind, agent.socket, HOSTILE_USER, *more])
        self.process.wait_for("^attacking$", 60)

    def halt(self):
        os.killpg(self.process.pid, signal.SIGSTOP)

    def go_on(self):
        os.killpg(self.process.pid, signal.SIGCONT)

    def end(self):
        check(self.process.alive(), "it ended by itself:", self.process.text())
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.process.wait()
        self.process.file.close()
        self.scene.processes.remove(self.process)
