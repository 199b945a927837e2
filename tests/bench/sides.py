"""sides.py: the servers that the benchmark compares: ours, the peers, and an in-process OpenSSL server as the floor.

All listen on 127.0.0.1 with the same certificate, the same versions, suites and groups, and the same number of
processes, pinned to the same CPUs. Where tickets is None, suites, groups and tickets are each side's own choice. A side
knows all its processes: what it costs is the sum of their CPU time.
"""
import json
import os
import pathlib
import resource
import socket
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import e2e  # noqa: E402
from e2e import (BUILD, ROOT, Process, Scene, children, context, free_port, identity, wait_until)  # noqa: E402
from serve_lib import relays, start_serve  # noqa: E402

LOAD = BUILD / "tests/bench/load"
SERVER = BUILD / "tests/bench/server"
# Ours without one of its pieces.
PIECES = {"tlsagent-no-sandbox": BUILD / "tests/sandbox/tlsagentd-open",
          "tlsagent-no-keeper": BUILD / "tests/bench/tlsagentd-no-keeper",
          "tlsagent-no-transfer": BUILD / "tests/bench/tlsagentd-no-transfer"}
SMALL, LARGE = 100, 1 << 20
CONNECTIONS = 10000  # that a side must be able to hold


def descriptors():
    """Room for two descriptors each, if that is permitted."""
    wanted = 2 * CONNECTIONS + 4000
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    except (OSError, ValueError):
        pass  # not root
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


DESCRIPTORS = descriptors()

CPUS = sorted(os.sched_getaffinity(0))
SERVER_CPUS = CPUS[-1:]
LOAD_CPUS = CPUS[:-1] or CPUS

SUITES = {13: "TLS_AES_128_GCM_SHA256", "p256": "ECDHE-ECDSA-AES128-GCM-SHA256", "rsa": "ECDHE-RSA-AES128-GCM-SHA256"}
CIPHERS = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"
GROUP = "X25519"


def suite(version, key):
    return SUITES[13] if version == 13 else SUITES[key]


class on_cpus:
    """What is started inside runs on these CPUs."""

    def __init__(self, cpus):
        self.cpus = cpus

    def __enter__(self):
        self.before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cpus)

    def __exit__(self, *_):
        os.sched_setaffinity(0, self.before)


def hurry(nice):
    """All that we have started before or behind what else runs on this machine; among themselves nothing changes."""
    try:
        with open("/proc/self/autogroup", "w") as file:
            file.write(str(nice))
    except OSError:
        pass  # no such thing here, or not permitted: a quiet machine does not need it


class share_of_cpus:
    """Inside, the servers' CPUs are taken for all but this share of the time, by what no ordinary process can displace: one
    load program is then able to keep a server busy. spent: seconds that were taken."""

    SPIN = """
import os, sys, time
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
print("ready", flush=True)
start = time.monotonic()
while True:
    while time.monotonic() < start + {busy}:
        pass
    start += {period}
    time.sleep(max(start - time.monotonic(), 0))
"""

    def __init__(self, share, period=0.02):
        self.code = self.SPIN.format(busy=(1 - share) * period, period=period)

    def __enter__(self):
        hurry(-15)
        self.spinners = []
        for cpu in SERVER_CPUS:
            with on_cpus([cpu]):
                self.spinners.append(subprocess.Popen([sys.executable, "-c", self.code], stdout=subprocess.PIPE,
                                                      stderr=subprocess.DEVNULL, text=True))
        if any(spinner.stdout.readline() != "ready\n" for spinner in self.spinners):
            self.__exit__()
            raise PermissionError("real-time scheduling is not permitted")
        return self

    def __exit__(self, *_):
        for spinner in self.spinners:
            spinner.kill()
            spinner.wait()
        hurry(0)

    def spent(self):
        return sum(process_cpu(spinner.pid) for spinner in self.spinners)


def descendants(pid):
    found = [pid]
    for child in children(pid):
        found += descendants(child)
    return found


def process_cpu(pid):
    """CPU seconds (user and system) of a process with all its threads, ended ones too: its CPU clock."""
    return time.clock_gettime((~pid << 3) | 2)


def process_name(pid):
    with open(f"/proc/{pid}/cmdline") as file:
        words = file.read().split("\0")
    for word in words:
        if word.startswith("--name="):
            return word[7:].split()[0]
    return os.path.basename(words[0])


def combined(scene, key):
    """One PEM file with key and chain, for those who want that."""
    file = scene.directory / f"combined-{key}.pem"
    if not file.exists():
        certificate, private = identity(key, key)
        file.write_bytes(certificate.read_bytes() + private.read_bytes())
        file.chmod(0o644)  # in the scene's private directory; hitch and nginx read it as other users
    return file


def port_open(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


class Side:
    """A running server. port: or several, with commas. roots: pids of its first processes."""

    def __init__(self, name, port, roots):
        self.name = name
        self.port = port
        self.roots = roots
        self.processes = {}
        self.find_processes()

    def find_processes(self):
        self.processes = {pid: process_name(pid) for root in self.roots for pid in descendants(root)}

    def cpu(self):
        """{pid: CPU seconds}. A process of ours that has died meanwhile is an error."""
        return {pid: process_cpu(pid) for pid in self.processes}

    def check_processes(self):
        """None has come that is not counted."""
        counted = set(self.processes)
        self.find_processes()
        if set(self.processes) != counted:
            raise AssertionError(f"{self.name}: its processes are not those that were counted: {self.processes}")

    def resident(self):
        """{pid: bytes} of memory that the process does not share with others."""
        result = {}
        for pid in self.processes:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                result[pid] = sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Private_"))
        return result


def started(scene, name, command):
    return Process(scene, name, command)


def start_backend(scene, cpus=None):
    """Plain HTTP for those that only pass on; not counted."""
    port = free_port()
    with on_cpus(cpus or LOAD_CPUS):
        started(scene, f"backend-{port}", [SERVER, port])
    wait_until(lambda: port_open(port), 10, "the backend listens")
    return port


def start_ours(scene, key, count, tickets, name="tlsagent", listen=False):
    port = free_port()
    settings = {} if tickets is None else {"tickets": tickets}
    if listen:
        settings["listen"] = f'{{"127.0.0.1:{port}"}}'
    if name == "tlsagent-kernel":
        settings["hand_back"] = '{"kernel"}'
    if name == "tlsagent-no-keeper":
        (BUILD / "tests/bench/key.pem").write_bytes(identity(key, key)[1].read_bytes())
        (BUILD / "tests/bench/key.pem").chmod(0o644)  # a test's key
    agent = scene.agent(context("www", key, **settings), cells=count, program=PIECES.get(name, BUILD / "tlsagentd"))
    if name == "tlsagent-no-transfer":  # its worker waits for ever
        server = started(scene, "https-server", [BUILD / "examples/https-server", "--context", "www", "--agent-listener", "www",
                                                 "--workers", count, "--socket", agent.socket, "--user", e2e.WORKER_USER])
        return Side(name, port, [agent.pid, server.pid])
    server = scene.server(agent, workers=count, listener=port if listen else None)
    return Side(name, server.port, [agent.pid, server.pid])


def start_stream(scene, key, count, tickets):
    """The stream form: `tlsagent serve --to` a plain server, as hitch and stunnel stand before one."""
    backend = start_backend(scene)
    agent = scene.agent(context("www", key, tickets=tickets), cells=count)
    before = relays()
    serve = start_serve(scene, agent, "--to", f"127.0.0.1:{backend}", options=("--relays", count))
    mine = [pid for pid in relays() if pid not in before]  # they are nobody's children
    if len(mine) != count:
        raise AssertionError(f"{len(mine)} relays instead of {count}")
    return Side("tlsagent-stream", serve.port, [agent.pid, serve.pid, *mine])


def start_in_process(scene, key, count, tickets):
    port = free_port()
    server = started(scene, "in-process", [SERVER, port, "--tls", combined(scene, key), "--workers", count,
                                           *(() if tickets is None else ("--tickets", tickets))])
    wait_until(lambda: port_open(port), 10, "the in-process server listens")
    return Side("in-process", port, [server.pid])


def start_nginx(scene, key, count, tickets):
    port = free_port()
    root = scene.directory / "nginx-root"
    (root / "bytes").mkdir(parents=True, exist_ok=True)
    for size in (SMALL, LARGE):
        (root / f"bytes/{size}").write_bytes(bytes(size))
    certificate, private = identity(key, key)
    same = "" if tickets is None else f"""ssl_ciphers {CIPHERS}; ssl_prefer_server_ciphers on;
    ssl_conf_command Ciphersuites {SUITES[13]}; ssl_ecdh_curve {GROUP}; ssl_conf_command NumTickets {tickets};"""
    file = scene.directory / "nginx.conf"
    file.write_text(f"""
daemon off; worker_processes {count}; error_log stderr error;
pid {scene.directory}/nginx.pid; {"user www-data;" if ROOT else ""}
events {{ worker_connections 18000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; open_file_cache max=100;
  client_body_temp_path {scene.directory}/nginx-b; proxy_temp_path {scene.directory}/nginx-p;
  fastcgi_temp_path {scene.directory}/nginx-f; uwsgi_temp_path {scene.directory}/nginx-u;
  scgi_temp_path {scene.directory}/nginx-s; client_max_body_size 0;
  server {{
    listen 127.0.0.1:{port} ssl; ssl_certificate {certificate}; ssl_certificate_key {private};
    ssl_protocols TLSv1.2 TLSv1.3; {same}
    ssl_session_tickets on; root {root};
    location = /discard {{ return 200 "ok"; }}
  }}
}}
""")
    server = started(scene, "nginx", ["/usr/sbin/nginx", "-c", file])
    wait_until(lambda: port_open(port), 10, "nginx listens")
    wait_until(lambda: len(children(server.pid)) == count, 10, "nginx has its workers")
    return Side("nginx", port, [server.pid])


def start_haproxy(scene, key, count, tickets):
    port, backend = free_port(), start_backend(scene)
    same = "" if tickets is None else f"""ssl-default-bind-ciphers {CIPHERS}
    ssl-default-bind-ciphersuites {SUITES[13]}
    ssl-default-bind-curves {GROUP}"""
    file = scene.directory / "haproxy.cfg"
    file.write_text(f"""
global
    nbthread {count}
    maxconn {CONNECTIONS + 500}
    no strict-limits  # it wants two descriptors for each, whether they are needed or not
    {same}
    ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
    mode http
    timeout client 1h
    timeout server 1h
    timeout connect 10s
    timeout http-keep-alive 1h
frontend www
    bind 127.0.0.1:{port} ssl crt {combined(scene, key)}
    http-request return status 200 content-type application/octet-stream string "{'0' * SMALL}" if {{ path /bytes/{SMALL} }}
    default_backend back
backend back
    server one 127.0.0.1:{backend}
""")
    server = started(scene, "haproxy", ["/usr/sbin/haproxy", "-db", "-f", file])
    wait_until(lambda: port_open(port), 10, "haproxy listens")
    return Side("haproxy", port, [server.pid])


def start_hitch(scene, key, count, tickets):
    port, backend = free_port(), start_backend(scene)
    same = "" if tickets is None else f"""ciphers = "{CIPHERS}"
ciphersuites = "{SUITES[13]}"
ecdh-curve = "{GROUP}\""""
    file = scene.directory / "hitch.conf"
    file.write_text(f"""
frontend = "[127.0.0.1]:{port}"
backend = "[127.0.0.1]:{backend}"
pem-file = "{combined(scene, key)}"
{same}
tls-protos = TLSv1.2 TLSv1.3
workers = {count}
daemon = off
syslog = off
log-level = 0
backlog = 4096
{'user = "_hitch"' if ROOT else ''}
""")
    server = started(scene, "hitch", ["/usr/sbin/hitch", f"--config={file}"])
    wait_until(lambda: port_open(port), 10, "hitch listens")
    wait_until(lambda: len(children(server.pid)) >= count, 10, "hitch has its workers")
    return Side("hitch", port, [server.pid])


def start_stunnel(scene, key, count, tickets):
    """One process has as many threads as connections, and admits 125 for each 256 descriptors: count are more processes."""
    backend = start_backend(scene)
    same = "" if tickets is None else f"""ciphers = {CIPHERS}
ciphersuites = {SUITES[13]}
curves = {GROUP}"""
    ports, servers = [], []
    for number in range(count):
        port = free_port()
        file = scene.directory / f"stunnel-{number}.conf"
        file.write_text(f"""
foreground = yes
pid =
debug = err
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
[www]
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{backend}
cert = {combined(scene, key)}
{same}
sslVersionMin = TLSv1.2
""")
        servers.append(started(scene, f"stunnel-{number}", ["/usr/bin/stunnel4", file]))
        wait_until(lambda: port_open(port), 10, "stunnel listens")  # noqa: B023
        ports.append(str(port))
    return Side("stunnel", ",".join(ports), [server.pid for server in servers])


STARTERS = {
    "tlsagent": start_ours,
    "tlsagent-listener": lambda *a: start_ours(*a, name="tlsagent-listener", listen=True),
    "tlsagent-stream": start_stream,
    "tlsagent-kernel": lambda *a: start_ours(*a, name="tlsagent-kernel"),
    "tlsagent-no-sandbox": lambda *a: start_ours(*a, name="tlsagent-no-sandbox"),
    "tlsagent-no-keeper": lambda *a: start_ours(*a, name="tlsagent-no-keeper"),
    "tlsagent-no-transfer": lambda *a: start_ours(*a, name="tlsagent-no-transfer", listen=True),
    "in-process": start_in_process,
    "nginx": start_nginx,
    "haproxy": start_haproxy,
    "hitch": start_hitch,
    "stunnel": start_stunnel,
}
OURS = ("tlsagent", "tlsagent-listener")
PEERS = ("nginx", "haproxy", "hitch", "stunnel")


class Place(Scene):
    """A directory of one side in the scene; what is started there ends with the scene."""

    def __init__(self, scene, name):  # not Scene's: no directory and no list of its own
        self.directory = scene.directory / name
        self.directory.mkdir(mode=0o755)
        self.processes = scene.processes


def start(scene, name, key, count=1, tickets=2, cpus=None, apart=False):
    """apart: of ours, the agent on the load program's CPUs, the workers on the servers'."""
    cpus = cpus or SERVER_CPUS
    with on_cpus(cpus):
        side = STARTERS[name](Place(scene, name), key, count, tickets)
    for pid in side.processes:
        for thread in os.listdir(f"/proc/{pid}/task"):
            if not os.sched_getaffinity(int(thread)) <= set(cpus):  # hitch's workers choose a CPU themselves
                os.sched_setaffinity(int(thread), cpus)
        if apart and name in OURS and side.processes[pid] != "https-server":
            os.sched_setaffinity(pid, LOAD_CPUS)
    return side


class Load:
    """The load program, connected to a side; batch() runs one batch."""

    def __init__(self, side, *options, cpus=None):
        with on_cpus(cpus or LOAD_CPUS):
            self.process = subprocess.Popen([str(word) for word in (LOAD, side.port, *options)], text=True,
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.side = side
        for line in self.process.stdout:
            if line == "ready\n":
                return
        raise AssertionError(f"{side.name}: the load program ended: status {self.process.wait()}")

    def batch(self, count):
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"{self.side.name}: the load program ended: status {self.process.wait()}")
        return json.loads(line)

    def stop(self):
        self.process.stdin.close()
        self.process.wait(60)
