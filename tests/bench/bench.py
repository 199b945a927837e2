#!/usr/bin/env python3
"""bench.py [--quick] [--only MEASURE,...] [--rounds N] [--results DIR]: ours against the peers, side by side.

In each round every side does the same batch, in an order that rotates; a round gives one ratio for each
pair. What is reported is the median of these ratios with its 95 % interval (order statistics, the sign test), never a time:
on a shared machine only what was done side by side means something. The server's CPU is user and system time of
all processes of its side; the load program's and the backends' is not counted. All servers are pinned to one
CPU, the load program to the others. What the load program did not find as it was asked for (suite, group, resumed or
not, number of tickets, bytes) is a failure, and a round with a failure is an error.
"""
import argparse
import contextlib
import datetime
import json
import os
import pathlib
import platform
import signal
import statistics
import subprocess
import sys
import threading
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parents[1] / "lib")]
import plots  # noqa: E402
from ratios import interval  # noqa: E402
from sides import (CONNECTIONS, DESCRIPTORS, GROUP, LARGE, LOAD_CPUS, OURS, PEERS, PIECES, SERVER_CPUS, SMALL, Load, Scene,
                   on_cpus, share_of_cpus, start, suite)  # noqa: E402

EVERYBODY = (*OURS, "in-process", *PEERS)
CONCURRENCY = 16
SHARE = 0.3  # of the servers' CPU, where the server is to be what limits: our client needs more CPU than any server


def say(*words):
    print(*words, file=sys.stderr, flush=True)


# ---- numbers ----

def noise(values):
    """The middle half's width, relative to the median."""
    quarter = statistics.quantiles(values, n=4) if len(values) > 3 else [min(values), 0, max(values)]
    return (quarter[2] - quarter[0]) / statistics.median(values)


# ---- one batch ----

def run_batch(load, count, per, share=None):
    """Returns {"cost": CPU microseconds per unit, "roles": {name: the same}, and what the load program said}. share: of the
    servers' CPU; then also {"busy": how much of that the server used}."""
    spent = share.spent() if share else 0
    before = load.side.cpu()
    said = load.batch(count)
    after = load.side.cpu()
    spent = share.spent() - spent if share else 0
    if said["failed"]:
        raise AssertionError(f"{load.side.name}: {said['failed']} of {said['done']} failed: {said['failure']}")
    units = per(said)
    roles = {}
    for pid, seconds in after.items():
        name = load.side.processes[pid]
        roles[name] = roles.get(name, 0) + (seconds - before[pid]) * 1e6 / units
    busy = (sum(after.values()) - sum(before.values())) / (said["seconds"] - spent)
    return {**said, "cost": sum(roles.values()), "roles": roles, "busy": busy}


def rounds_of(loads, count, rounds, per, share=None):
    """{name: [batch, ...]}, round by round."""
    names = list(loads)
    batches = {name: [] for name in names}
    for number in range(rounds):
        for name in names[number % len(names):] + names[:number % len(names)]:
            batches[name].append(run_batch(loads[name], count, per, share))
    return batches


def ratios(batches, ours, others, value="cost"):
    """Ours divided by each other."""
    result = {}
    for other in others:
        if other not in batches or other == ours:
            continue
        values = [mine[value] / theirs[value] for mine, theirs in zip(batches[ours], batches[other])]
        median, low, high = interval(values)
        result[other] = {"median": median, "low": low, "high": high, "pairs": len(values)}
    return result


def report(batches, value="cost"):
    """What is kept of a measure."""
    result = {"ratios": {ours: ratios(batches, ours, ("in-process", *PEERS), value) for ours in (*OURS, "tlsagent-stream", "tlsagent-kernel")
                         if ours in batches},
              "noise": {name: noise([batch[value] for batch in list_]) for name, list_ in batches.items()},
              "negotiated": {name: {key: list_[-1][key] for key in ("version", "suite", "group")}
                             for name, list_ in batches.items()},
              "roles": {}}
    for name, list_ in batches.items():
        total = sum(batch["cost"] for batch in list_)
        roles = {}
        for batch in list_:
            for role, cost in batch["roles"].items():
                roles[role] = roles.get(role, 0) + cost
        result["roles"][name] = {role: cost / total for role, cost in roles.items()}
    return result


class Bench:
    def __init__(self, quick, rounds):
        self.quick = quick
        self.rounds = rounds or (5 if quick else 11)
        self.results = {}

    def sides(self):
        return ("tlsagent", "tlsagent-listener", "in-process", "nginx", "haproxy") if self.quick else EVERYBODY

    def measure(self, title, key, options, count, per=lambda said: said["done"], names=None, tickets=2):
        """Start the sides, run the rounds, keep the report under its title."""
        say(f"{title} ...")
        with Scene() as scene:
            loads = {}
            for name in names or self.sides():
                loads[name] = Load(start(scene, name, key, tickets=tickets), *options)
            batches = rounds_of(loads, count, self.rounds, per)
            for load in loads.values():
                load.side.check_processes()
                load.stop()
        self.results[title] = report(batches)
        for ours, others in self.results[title]["ratios"].items():
            say(f"   {ours}: " + ", ".join(f"{name} {ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"
                                          for name, ratio in others.items()))
        return batches

    # (a)
    def full(self):
        kinds = [("p256", 13), ("rsa", 13), ("p256", 12), ("rsa", 12)]
        for key, version in kinds[:2] if self.quick else kinds:
            title = f"full handshake, TLS 1.{version - 10}, {KEY_NAMES[key]}"
            self.measure(title, key, handshake_options(key, version), 150 if key == "rsa" else 300)

    def defaults(self):
        """Each side with the suite, the group and the number of tickets that it chooses if nobody says."""
        if not self.quick:
            self.measure("full handshake, each side's own defaults, P-256", "p256",
                         ["--concurrency", CONCURRENCY], 300, tickets=None)

    # (c)
    def capacity(self):
        """The time of many handshakes, the inverse of handshakes per second, where the server is what limits: all processes of
        a side on one CPU, of which they have a share, so that the client keeps up. The results say how busy they were."""
        title = "time of many full handshakes, TLS 1.3, P-256, the servers' CPU saturated"
        say(f"{title} ...")
        options = [*handshake_options("p256", 13), "--concurrency", 64]
        with Scene() as scene, contextlib.ExitStack() as stack:
            loads = {name: Load(start(scene, name, "p256"), *options) for name in self.sides()}
            try:
                share = stack.enter_context(share_of_cpus(SHARE))
            except PermissionError as error:
                self.results["capacity"] = {"not measured": str(error)}
                say(f"   {error}")
                return
            batches = rounds_of(loads, 300, self.rounds, lambda said: said["done"], share)
            for load in loads.values():
                load.stop()
        busy = {name: statistics.median(batch["busy"] for batch in list_) for name, list_ in batches.items()}
        self.results[title] = {**report(batches, "seconds"), "busy": busy, "share": SHARE}
        for ours in OURS:
            say(f"   {ours}: " + ", ".join(f"{name} {ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"
                                          for name, ratio in self.results[title]["ratios"][ours].items()))
        say("   busy: " + ", ".join(f"{name} {value:.2f}" for name, value in busy.items()))

    # (b)
    def resumed(self):
        for version in (13,) if self.quick else (13, 12):
            options = [*handshake_options("p256", version), "--resume"]
            able = [name for name in self.sides() if self.resumes(name, options)]
            title = f"resumed handshake, TLS 1.{version - 10}, P-256"
            self.measure(title, "p256", options, 300, names=able)
            self.results[title]["does not resume"] = [name for name in self.sides() if name not in able]

    @staticmethod
    def resumes(name, options):
        """Whether a side resumes at all as it is configured: of a peer that is told, of ours it is an error."""
        with Scene() as scene:
            load = Load(start(scene, name, "p256"), *options)
            said = load.batch(50)
            load.stop()
        if said["failed"] and name in OURS:
            raise AssertionError(f"{name}: {said['failure']}")
        return said["failed"] == 0

    # (d)
    def latency(self):
        say("latency of one handshake ...")
        options = ["--mode", "latency", "--size", SMALL, "--version", 13, "--suite", suite(13, "p256"), "--group", GROUP]
        for where, cpus in (("one CPU", SERVER_CPUS), ("agent and worker on different CPUs", SERVER_CPUS), ("any CPU", None)):
            apart = where.startswith("agent")
            if apart and LOAD_CPUS == SERVER_CPUS:
                continue
            with Scene() as scene:
                loads = {name: Load(start(scene, name, "p256", cpus=cpus or sorted(os.sched_getaffinity(0)), apart=apart), *options)
                         for name in self.sides()}
                batches = rounds_of(loads, 60 if self.quick else 120, self.rounds, lambda said: said["done"])
                for load in loads.values():
                    load.stop()
            for what in ("handshake", "answer"):
                for point in ("p50", "p99"):
                    value = f"{what}_{point}_us"
                    self.results[f"latency to the {'end of the handshake' if what == 'handshake' else 'first answer'}, "
                                 f"{point}, {where}"] = report(batches, value)

    # (e)
    def bulk(self):
        per = lambda said: said["bytes"] / 1e9  # noqa: E731
        common = ["--version", 13, "--suite", suite(13, "p256"), "--group", GROUP, "--concurrency", 4]
        self.measure("download of 1 MB responses, per GB", "p256", ["--mode", "request", "--size", LARGE, *common],
                     60 if self.quick else 150, per)
        self.measure("upload of 1 MB in 16 KB pieces, per GB", "p256", ["--mode", "upload", "--size", LARGE, *common],
                     60 if self.quick else 150, per)

    def kernel(self):
        """The kernel form, where this kernel has TLS; elsewhere the results say so."""
        if not kernel_has_tls():
            self.results["kernel form"] = {"offered": False}
            say("kernel form: this kernel has no TLS")
            return
        per = lambda said: said["bytes"] / 1e9  # noqa: E731
        common = ["--size", LARGE, "--version", 13, "--suite", suite(13, "p256"), "--group", GROUP, "--concurrency", 4]
        for mode in ("download", "upload"):
            self.measure(f"kernel form, {mode}, per GB", "p256",
                         ["--mode", "request" if mode == "download" else mode, *common], 60 if self.quick else 150, per,
                         names=("tlsagent-kernel", "in-process", "nginx"))

    def relayed(self):
        """The stream form against those that stand before a plain server too; the server's CPU is not counted."""
        per = lambda said: said["bytes"] / 1e9  # noqa: E731
        common = ["--size", LARGE, "--version", 13, "--suite", suite(13, "p256"), "--group", GROUP, "--concurrency", 4]
        for mode in ("download", "upload"):
            self.measure(f"stream form before a plain server, {mode}, per GB", "p256",
                         ["--mode", "request" if mode == "download" else mode, *common], 60 if self.quick else 150, per,
                         names=("tlsagent-stream", "haproxy", "hitch", "stunnel"))

    # (f)
    def requests(self):
        self.measure("small request on a kept connection", "p256",
                     ["--mode", "request", "--size", SMALL, "--concurrency", CONCURRENCY, "--version", 13, "--suite",
                      suite(13, "p256"), "--group", GROUP], 3000)

    # (g)
    def memory(self):
        """Two processes each: hitch and stunnel have two descriptors for a connection, and one process not enough."""
        count = 1000 if self.quick else min(CONNECTIONS, DESCRIPTORS * 3 // 4)
        title = f"memory of {count} idle connections"
        say(f"{title} ...")
        result = {}
        for name in self.sides():
            with Scene() as scene:
                side = start(scene, name, "p256", count=2)
                warm = Load(side, "--mode", "handshake", "--version", 13, "--concurrency", 64)
                warm.batch(500)
                warm.stop()
                time.sleep(0.3)
                before = side.resident()
                load = Load(side, "--mode", "idle", "--version", 13, "--concurrency", 32)
                said = load.batch(count)
                time.sleep(0.3)
                after = side.resident()
                load.stop()
            if said["failed"]:
                if name in OURS:
                    raise AssertionError(f"{name}: {said}")
                result[name] = {"failed": f"{said['failed']} of {said['done']}: {said['failure']}"}
                say(f"   {name}: {result[name]['failed']}")
                continue
            roles = {}
            for pid, size in after.items():
                roles[side.processes[pid]] = roles.get(side.processes[pid], 0) + (size - before[pid]) / count
            result[name] = {"bytes": sum(roles.values()), "roles": roles}
            say(f"   {name}: " + ", ".join(f"{role} {size:.0f}" for role, size in roles.items()))
        self.results["memory"] = {"connections": count, "bytes per connection": result}

    # (h)
    def killed(self):
        """kill -9 of the process that does handshakes, under load and with connections that rest."""
        result = {}
        for name, victim in (("tlsagent", "handshaker"), ("tlsagent-listener", "handshaker"), ("nginx", "nginx: worker")):
            say(f"kill -9 of {victim} ({name}) ...")
            with Scene() as scene:
                side = start(scene, name, "p256")
                idle = Load(side, "--mode", "request", "--size", SMALL, "--version", 13, "--concurrency", 50)
                idle.batch(50)
                load = Load(side, "--mode", "handshake", "--version", 13, "--concurrency", 8)
                pid = next(pid for pid, process in side.processes.items() if process.startswith(victim))
                said = {}
                thread = threading.Thread(target=lambda: said.update(load.batch(2000)))
                thread.start()
                time.sleep(0.3)
                os.kill(pid, signal.SIGKILL)
                killed = time.monotonic()
                back = None
                probe = None
                while back is None and time.monotonic() - killed < 20:
                    probe = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{side.port}", "-brief"],
                                           stdin=subprocess.DEVNULL, capture_output=True, timeout=20)
                    if probe.returncode == 0:
                        back = time.monotonic() - killed
                thread.join()
                alive = idle.batch(50)
                idle.stop()
                load.stop()
            result[name] = {"handshakes": said["done"], "failed": said["failed"], "first good one after, ms":
                            None if back is None else round(back * 1000), "established": 50,
                            "established lost": alive["failed"]}
            say(f"   {result[name]}")
        self.results["kill -9"] = result

    def generator(self):
        """The load program against openssl s_time and h2load: the same server must have the same work with both."""
        # TLS 1.2, where tickets are within the handshake: s_time does not wait for those of TLS 1.3
        name = suite(12, "p256")
        self.compare_generators(
            "openssl s_time, TLS 1.2 handshakes", ("--version", 12, "--suite", name, "--concurrency", 1), 300,
            lambda port: ["openssl", "s_time", "-connect", f"127.0.0.1:{port}", "-new", "-time", "2", "-tls1_2", "-cipher", name],
            lambda out: int(out.split(" connections in")[0].split()[-1]))
        # its 16 handshakes are among 20,000 requests
        self.compare_generators(
            "h2load, small requests", ("--mode", "request", "--size", SMALL, "--concurrency", CONCURRENCY), 3000,
            lambda port: ["h2load", "--h1", "-n", 20000, "-c", CONCURRENCY, f"https://127.0.0.1:{port}/bytes/{SMALL}"],
            lambda out: int(out.split(" succeeded")[0].split()[-1]))

    def compare_generators(self, title, options, count, command, done_of):
        say(f"the load program against {title} ...")
        with Scene() as scene:
            side = start(scene, "in-process", "p256")
            load = Load(side, *options)
            values = []
            for _ in range(self.rounds):
                before = side.cpu()
                said = load.batch(count)
                if said["failed"]:
                    raise AssertionError(f"{title}: {said['failure']}")
                own = (sum(side.cpu().values()) - sum(before.values())) / said["done"]
                before = side.cpu()
                with on_cpus(LOAD_CPUS):
                    out = subprocess.run([str(word) for word in command(side.port)], capture_output=True, text=True)
                done = done_of(out.stdout)
                if done == 0:
                    raise AssertionError(f"{title}: {out.stdout[-300:]} {out.stderr[-300:]}")
                values.append(own / ((sum(side.cpu().values()) - sum(before.values())) / done))
            load.stop()
        median, low, high = interval(values)
        self.results.setdefault("load program", {})[title] = {"median": median, "low": low, "high": high, "pairs": len(values)}
        say(f"   {median:.2f} ({low:.2f}-{high:.2f})")

    # (i)
    def pieces(self):
        """What each piece costs: the same agent without it. The sandbox (namespaces, landlock, seccomp); the keeper (the
        key in the handshaker); the transfer (the agent that accepts closes what it would hand to a worker)."""
        for without in PIECES:
            ours = "tlsagent-listener" if without == "tlsagent-no-transfer" else "tlsagent"
            say(f"full handshake, TLS 1.3, P-256: {ours} to {without} ...")
            with Scene() as scene:
                loads = {name: Load(start(scene, name, "p256"), *handshake_options("p256", 13)) for name in (ours, without)}
                batches = rounds_of(loads, 300, self.rounds, lambda said: said["done"])
                for load in loads.values():
                    load.stop()
            self.results.setdefault("pieces", {})[without] = ratios(batches, ours, [without])[without]
            say(f"   {self.results['pieces'][without]}")


def kernel_has_tls():
    with open("/proc/sys/net/ipv4/tcp_available_ulp") as file:
        return "tls" in file.read().split()


KEY_NAMES = {"p256": "P-256", "rsa": "RSA-2048"}


def handshake_options(key, version):
    return ["--mode", "handshake", "--version", version, "--suite", suite(version, key), "--group", GROUP,
            "--concurrency", CONCURRENCY, "--tickets", 2]


def versions():
    """What ran: machine and versions."""
    def first(*command):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return next((line.strip() for line in done.stdout.splitlines() if any(c.isdigit() for c in line)), "?")
    with open("/proc/cpuinfo") as file:
        cpu = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "?")
    packages = subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${Version}, ", "libssl3", "nginx", "nginx-light", "haproxy",
                               "hitch", "stunnel4"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return {"date": datetime.date.today().isoformat(), "machine": f"{os.cpu_count()} CPUs, {cpu}",
            "kernel": platform.release(), "openssl": first("openssl", "version"), "packages": packages.strip(", "),
            "cpus": {"servers": SERVER_CPUS, "load": LOAD_CPUS},
            "commit": first("git", "describe", "--always", "--dirty")}


MEASURES = ("generator", "full", "capacity", "defaults", "resumed", "latency", "bulk", "kernel", "relayed", "requests", "memory", "killed", "pieces")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer rounds, fewer sides, under 5 minutes")
    parser.add_argument("--only", default="", help="measures, with commas: " + " ".join(MEASURES))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--keep", action="store_true", help="keep the measures of earlier results that are not made anew")
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path(__file__).parent / "results")
    options = parser.parse_args()
    wanted = [name for name in MEASURES if not options.only or name in options.only.split(",")]
    bench = Bench(options.quick, options.rounds)
    about = {**versions(), "rounds": bench.rounds, "form": "quick" if options.quick else "full"}
    options.results.mkdir(parents=True, exist_ok=True)
    if options.keep:
        earlier = json.loads((options.results / "results.json").read_text())
        about, bench.results = earlier["about"], earlier["results"]
    broken = 0
    for name in wanted:
        try:
            getattr(bench, name)()
        except (AssertionError, OSError) as error:
            broken += 1
            say(f"FAIL {name}: {error}")
            bench.results[f"FAILED: {name}"] = {"error": str(error)}
        data = {"about": about, "results": bench.results}
        (options.results / "results.json").write_text(json.dumps(data, indent=1) + "\n")
        plots.write(data, options.results)
    print((options.results / "results.md").read_text())
    sys.exit(1 if broken else 0)


main()
