"""e2e.py: what the end-to-end tests share.

A test is a function test_...() in a script of tests/e2e, tests/interop or tests/soak; main() runs them and
prints one line for each. A test that fails raises an exception. Everything a test starts on is private to
it: a directory, ports of 127.0.0.1, processes; all of it is gone when the test is over.

As root (as in CI) the agent's processes become user daemon and workers become www-data; as a plain user
everything runs as that user.
"""
import atexit
import fcntl
import json
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import textwrap
import time
import traceback

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BUILD", TOP / "build")).resolve()
ROOT = os.geteuid() == 0
ME = pwd.getpwuid(os.geteuid()).pw_name
AGENT_USER = "daemon" if ROOT else ME
WORKER_USER = "www-data" if ROOT else ME
SANITIZED = bool(os.environ.get("SANITIZED"))
# "stream": the same programs in the stream form (tests/lib/as_stream.c); "kernel": in the emulated machine (tests/vm)
FORM = os.environ.get("FORM", "")
os.environ.setdefault("TLSAGENT_RELAY", str(BUILD / "tlsagent-relay"))

PATTERN = bytes((k * k >> 5) & 255 for k in range(65521))


def pattern(size):
    """What GET /bytes/SIZE must give."""
    return (PATTERN * (size // len(PATTERN) + 1))[:size]


class Skip(Exception):
    """The test cannot be run here; the text says why."""


def root_only(part):
    """True as root; else the part of a test that needs it (a name) is told as skipped, on a line of its own."""
    if not ROOT:
        print(f"SKIP {part}: only root may look at the fds of processes that are not dumpable")
    return ROOT


def check(condition, *texts):
    if not condition:
        raise AssertionError(" ".join(str(text) for text in texts))


def wait_until(condition, seconds, what):
    """Call condition until it is true; its last value is returned."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        check(time.monotonic() < end, f"not within {seconds} s: {what}")
        time.sleep(0.02)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# ---- identities: made once per build directory ----

IDENTITIES = BUILD / "test-identities"


def identity(label, kind, *names, days=30):
    """Paths of (certificate, key) of an identity for the names; made when it is not there."""
    IDENTITIES.mkdir(parents=True, exist_ok=True)
    with open(IDENTITIES / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        certificate = IDENTITIES / f"{label}.pem"
        if not certificate.exists() or time.time() - certificate.stat().st_mtime > 86400 * 20:
            run([TOP / "tests/lib/make-identity", IDENTITIES, label, kind, *(names or ("localhost", "127.0.0.1"))],
                env={**os.environ, "DAYS": str(days)})
    return certificate, IDENTITIES / f"{label}.key"


def ca():
    identity("p256", "p256")
    return str(IDENTITIES / "ca.pem")


# ---- processes ----

def run(command, timeout=60, check_status=True, **options):
    """Run a program to its end; returns its CompletedProcess with text output, stderr in stdout."""
    done = subprocess.run([str(word) for word in command], timeout=timeout, text=True, errors="replace",
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    if check_status and done.returncode != 0:
        raise AssertionError(f"{' '.join(str(word) for word in command)}: status {done.returncode}\n{done.stdout}")
    return done


def client(mode, port, *arguments, timeout=100):
    """Run tests/peers/client."""
    return run([BUILD / "tests/peers/client", mode, port, ca(), *arguments], timeout=timeout).stdout


def process_fds(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def process_rss(pid):
    """Resident memory, bytes."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def lives(pid):
    """Neither gone nor a zombie."""
    try:
        return "zombie" not in pathlib.Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid):
    result = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    if int(file.read().rsplit(")", 1)[1].split()[1]) == pid:
                        result.append(int(name))
            except (FileNotFoundError, ProcessLookupError):
                pass
    return result


class Process:
    """A program that goes on beside the test; its output is collected, and shown if the test fails."""

    def __init__(self, scene, name, command, stdin=subprocess.DEVNULL):
        self.scene = scene
        self.name = name
        self.log = scene.directory / f"{name}.{len(scene.processes)}.log"
        self.file = open(self.log, "wb")
        self.process = subprocess.Popen([str(word) for word in command], stdin=stdin, stdout=self.file,
                                        stderr=self.file)
        self.pid = self.process.pid
        scene.processes.append(self)

    def text(self):
        return self.log.read_text(errors="replace")

    def lines(self):
        return self.text().splitlines()

    def say(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def wait_for(self, expression, seconds=20):
        """Wait for a match in the output; returns it."""
        def look():
            match = re.search(expression, self.text(), re.M)
            if match is None and self.process.poll() is not None:
                match = re.search(expression, self.text(), re.M)
                check(match, f"{self.name} ended with status {self.process.returncode} before it said {expression!r}")
            return match
        return wait_until(look, seconds, f"{self.name} says {expression!r}")

    def alive(self):
        return self.process.poll() is None

    def stop(self, how=signal.SIGTERM):
        if self.alive():
            self.process.send_signal(how)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"{self.name} did not end within 10 seconds of signal {how}")
        self.file.close()


# ---- the agent ----

def block_identity(label, kind=None, *names):
    certificate, key = identity(label, kind or label, *names)
    return f'    identity "{label}" {{\n        certificate = "{certificate}"\n        key = "{key}"\n    }}\n'


def context(name, *identities, users=None, **settings):
    """The text of a context. Settings: text is taken as it is (numbers, lists), so quote strings."""
    users = [WORKER_USER] if users is None else users
    text = f'context "{name}" {{\n'
    text += "".join(block_identity(label) for label in identities or ("p256", "rsa"))
    text += "".join(f"    {key} = {value}\n" for key, value in settings.items())
    if users:
        text += "    workers { users = {" + ", ".join(f'"{user}"' for user in users) + "} }\n"
    return text + "}\n"


class Agent:
    def __init__(self, scene, *contexts, **settings):
        self.scene = scene
        self.socket = scene.directory / "tlsagent.sock"
        self.control = scene.directory / "control.sock"
        self.file = scene.directory / "tlsagentd.conf"
        settings.setdefault("cells", 2)
        self.program = settings.pop("program", BUILD / "tlsagentd")
        text = f'user = "{AGENT_USER}"\nsocket = "{self.socket}"\ncontrol_socket = "{self.control}"\n'
        text += "".join(f"{key} = {value}\n" for key, value in settings.items())
        self.file.write_text(text + "".join(contexts or (context("www"),)))
        self.process = None
        self.start()

    def start(self):
        for attempts_left in (2, 1, 0):
            self.process = Process(self.scene, "tlsagentd", [self.program, "--foreground", "-c", self.file])
            try:
                self.process.wait_for(r"supervisor: info: tlsagentd \S+ is up:", 30)
                break
            except AssertionError:  # an emulated machine on a busy host misses the limits of a start
                if FORM != "kernel" or attempts_left == 0:
                    raise
        wait_until(self.ready, 30, "the agent answers `tlsagent status`")

    def ready(self):
        check(self.process.alive(), "the agent ended:", self.process.text()[-2000:])
        return run([BUILD / "tlsagent", "status", "--socket", self.control], check_status=False).returncode == 0

    @property
    def pid(self):
        return self.process.pid

    def status(self):
        return json.loads(run([BUILD / "tlsagent", "status", "--json", "--socket", self.control]).stdout)

    def roles(self):
        """{pid: name} of the supervisor's children, for instance {123: "keeper 0.1"}."""
        result = {}
        for pid in children(self.pid):
            try:
                with open(f"/proc/{pid}/cmdline") as file:
                    words = file.read().split("\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            result[pid] = next((word[7:] for word in words if word.startswith("--name=")), "?")
        return result

    def pids(self, kind):
        """Pids of all "handshaker" or "keeper" processes."""
        return sorted(pid for pid, name in self.roles().items() if name.startswith(kind))

    def fds(self):
        """{pid: number of open fds} of all roles and the supervisor."""
        if not ROOT:
            raise Skip("only root may look at the fds of processes that are not dumpable")
        return {pid: process_fds(pid) for pid in (self.pid, *self.roles())}

    def wait_for_channels(self, count):
        """Until every handshaker has channels to so many workers: before that its fds still grow."""
        wait_until(lambda: all(process["workers"] == count for process in self.status()["processes"]
                               if process["role"] == "handshaker"), 20, f"{count} channels to every handshaker")

    def rss(self):
        return {pid: process_rss(pid) for pid in (self.pid, *self.roles())}

    def kill(self):
        """kill -9 of everything at once."""
        roles = self.roles()
        for pid in (self.pid, *roles):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.process.wait()
        wait_until(lambda: not any(lives(pid) for pid in roles), 5, "all roles are dead")


class Scene:
    """A private directory and what runs in it. Use with `with`."""

    def __init__(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="tlsagent-"))
        self.directory.chmod(0o755)
        self.processes = []
        atexit.register(shutil.rmtree, self.directory, True)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        complaint = None
        for process in reversed(self.processes):
            try:
                process.stop()
            except AssertionError as late:
                complaint = complaint or late
        texts = {process.log.name: process.text() for process in self.processes}
        shutil.rmtree(self.directory, True)
        if kind is Skip:
            return
        for name, text in texts.items():
            if kind is not None:
                print(f"---- output of {name} (its end):\n{textwrap.indent(text[-3000:], '    ')}")
            elif "AddressSanitizer" in text or "runtime error:" in text:
                complaint = AssertionError(f"{name}: {text[-5000:]}")
        if kind is None and complaint is not None:
            raise complaint

    def agent(self, *contexts, **settings):
        return Agent(self, *contexts, **settings)

    def server(self, agent, *options, name="www", workers=2, listener=None):
        """https-server; returns its Process with .port. listener: the agent accepts on that port."""
        port = listener or free_port()
        where = ["--agent-listener", name] if listener else ["--listen", f"127.0.0.1:{port}"]
        server = Process(self, "https-server",
                         [BUILD / ("tests/peers/https-server-stream" if FORM == "stream" else "examples/https-server"), "--context", name, *where, "--workers", workers, "--socket",
                          agent.socket, "--user", WORKER_USER, *options])
        server.port = port
        wait_until(lambda: server.alive() and answers(port), 20, f"https-server answers on port {port}")
        return server

    def worker(self, agent, mode, *arguments, name="www", stdin=subprocess.DEVNULL):
        """tests/peers/worker; returns its Process with .port."""
        worker = Process(self, f"worker-{mode}",
                         [BUILD / ("tests/peers/worker-stream" if FORM == "stream" else "tests/peers/worker"), mode, agent.socket, name, WORKER_USER, *arguments], stdin=stdin)
        worker.port = int(worker.wait_for(r"^port (\d+)$").group(1))
        return worker

    def load(self, port, *arguments, stdin=subprocess.DEVNULL):
        return Process(self, "load", [BUILD / "tests/peers/load", port, ca(), *arguments], stdin=stdin)


# ---- a small HTTPS client ----

def tls_connect(port, name="localhost", timeout=10, setting=None):
    """A verified TLS connection (Python's ssl). setting: called with the context first."""
    settings = ssl.create_default_context(cafile=ca())
    if setting:
        setting(settings)
    raw = socket.create_connection(("127.0.0.1", port), timeout=timeout)
    try:
        return settings.wrap_socket(raw, server_hostname=name)
    except BaseException:
        raw.close()
        raise


def fetch(connection, path="/", body=None):
    """One request on an open connection; returns the response's body."""
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: localhost\r\n"
    if body is not None:
        head += f"Content-Length: {len(body)}\r\n"
    connection.sendall(head.encode() + b"\r\n" + (body or b""))
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        check(more, f"connection ended in the response's head: {data!r}")
        data += more
    head, data = data.split(b"\r\n\r\n", 1)
    check(head.startswith(b"HTTP/1.1 200 "), head)
    size = int(re.search(rb"Content-Length: (\d+)", head).group(1))
    while len(data) < size:
        more = connection.recv(65536)
        check(more, f"connection ended {size - len(data)} bytes too early")
        data += more
    return data


def facts_of(page):
    """The facts page as {name: value}."""
    text = page.decode() if isinstance(page, bytes) else page
    return dict(re.findall(r"^([A-Za-z -]+):\s+(.*)$", text, re.M))


def facts(port, **options):
    with tls_connect(port, **options) as connection:
        return facts_of(fetch(connection))


def answers(port):
    try:
        return facts(port, timeout=2)
    except (OSError, AssertionError):
        return None


# ---- the runner ----

def main():
    """Run the test functions of the script, all or those whose name has $TEST in it."""
    module = sys.modules["__main__"]
    wanted = os.environ.get("TEST", "")
    if wanted in f"{pathlib.Path(sys.argv[0]).parent.name}/{pathlib.Path(sys.argv[0]).stem}":
        wanted = ""
    failed = count = 0
    sys.stdout.reconfigure(line_buffering=True)
    for name, function in list(vars(module).items()):
        if not name.startswith("test_") or wanted not in name:
            continue
        name = name[len("test_"):]
        start = time.monotonic()
        count += 1
        try:
            function()
            print(f"ok {name} ({time.monotonic() - start:.1f})")
        except Skip as reason:
            print(f"SKIP {name}: {reason}")
        except Exception:
            failed += 1
            traceback.print_exc(file=sys.stdout)
            print(f"FAIL {name}")
    sys.exit(1 if failed or not count else 0)
