#!/usr/bin/env python3
"""A fleet of two hosts, each an agent and a server in a network namespace of its own, without a way to each other."""
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import BUILD, ROOT, WORKER_USER, Agent, Process, Scene, Skip, check, context, main, run, wait_until  # noqa: E402
from redis import Redis  # noqa: E402
from sessions import at_least, connect, make_sessions, not_resumed, resume, settings  # noqa: E402

CLIENTS = int(os.environ.get("CLIENTS", "100"))
SECRET = "the secret of a fleet, which must be long\n"


def needs_networks():
    if not ROOT:
        raise Skip("only root can make network namespaces and connect them")
    made = run(["ip", "link", "add", "probe0", "type", "veth", "peer", "name", "probe1"], check_status=False)
    if made.returncode != 0:
        raise Skip(f"this kernel makes no pair of network devices: {made.stdout.strip()}")
    run(["ip", "link", "delete", "probe0"])


class HostAgent(Agent):
    """An agent in another network."""

    def __init__(self, scene, inside, *contexts):
        self.inside = inside
        super().__init__(scene, *contexts)

    def start(self):
        self.process = Process(self.scene, "tlsagentd", [*self.inside, self.program, "--foreground", "-c", self.file])
        self.process.wait_for(r"supervisor: info: tlsagentd \S+ is up:", 30)
        wait_until(self.ready, 30, "the agent answers `tlsagent status`")


class Host:
    """Network 10.77.NUMBER.0/24: we are .1, the host is .2 and knows no other way out."""

    def __init__(self, scene, number, secret, store=None):
        network = Process(scene, "network", ["unshare", "--net", "sleep", "infinity"])
        ours = os.readlink("/proc/self/ns/net")
        wait_until(lambda: os.readlink(f"/proc/{network.pid}/ns/net") != ours, 10, "a network of its own")
        self.inside = ["nsenter", f"--net=/proc/{network.pid}/ns/net", "--"]
        device = f"host{number}"
        run(["ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", network.pid])
        run(["ip", "address", "add", f"10.77.{number}.1/24", "dev", device])
        run(["ip", "link", "set", device, "up"])
        for words in (["address", "add", f"10.77.{number}.2/24", "dev", "eth0"], ["link", "set", "eth0", "up"],
                      ["link", "set", "lo", "up"]):
            run([*self.inside, "ip", *words])
        (scene.directory / "secret").write_text(secret)
        lines = f'    secret_file = "{scene.directory}/secret"\n'
        if store:
            lines += f'    store = "redis://10.77.{number}.1:{store.port}"\n    store_wait = 1000\n'
        self.agent = HostAgent(scene, self.inside, context("www"), f"fleet {{\n{lines}}}\n")
        self.port = (f"10.77.{number}.2", 8443)
        Process(scene, "https-server", [
            *self.inside, BUILD / "examples/https-server", "--context", "www", "--listen", "%s:%d" % self.port,
            "--workers", 2, "--socket", self.agent.socket, "--user", WORKER_USER])
        wait_until(self.answers, 20, "the server answers")

    def answers(self):
        try:
            return connect(self.port, settings("13"))
        except OSError:
            return None

    def reaches(self, address):
        code = f"import socket; socket.create_connection({address!r}, 2)"
        return run([*self.inside, sys.executable, "-c", code], check_status=False).returncode == 0


def test_tickets_without_a_word_between_hosts():
    needs_networks()
    with Scene() as first, Scene() as second, Scene() as stranger:
        one, two = Host(first, 1, SECRET), Host(second, 2, SECRET)
        other = Host(stranger, 3, "another secret, of another fleet, long\n")
        check(one.reaches(one.port) and not one.reaches(two.port) and not two.reaches(one.port), "they can talk")
        for kind in ("13", "12"):
            for here, there in ((one, two), (two, one)):
                ctx, sessions = make_sessions(here.port, kind, CLIENTS // 2)
                at_least(0.99, resume(there.port, ctx, sessions), CLIENTS // 2, f"{here.port[0]} to {there.port[0]}, {kind}")
            check(resume(other.port, ctx, sessions[:5]) == 0, "resumed in another fleet")
        check(not_resumed(other.agent)["ticket_unknown"] == 10, not_resumed(other.agent))


def test_session_ids_through_the_store():
    needs_networks()
    with Scene() as place, Scene() as first, Scene() as second:
        store = Redis(place, "--bind", "0.0.0.0", "--protected-mode", "no")
        one, two = Host(first, 1, SECRET, store), Host(second, 2, SECRET, store)
        check(one.reaches(("10.77.1.1", store.port)) and not one.reaches(two.port), "they can talk")
        for here, there in ((one, two), (two, one)):
            before = len(store.keys())
            ctx, sessions = make_sessions(here.port, "id", CLIENTS)
            wait_until(lambda: len(store.keys()) == before + CLIENTS, 10, "all are in the store")
            at_least(0.99, resume(there.port, ctx, sessions), CLIENTS, f"{here.port[0]} to {there.port[0]}, id")


# In a network of our own, so that no name and no address is anybody else's.
if ROOT and os.environ.get("TLSAGENT_TEST_NETWORK") != str(os.getpid()):
    os.environ["TLSAGENT_TEST_NETWORK"] = str(os.getpid())  # unshare keeps the pid
    os.execvp("unshare", ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, *sys.argv])
main()
