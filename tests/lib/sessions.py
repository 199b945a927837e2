"""sessions.py: TLS clients that resume, and an agent whose service manager keeps its files."""
import os
import socket
import ssl
import subprocess

from e2e import BUILD, Agent, Process, ca, check, facts_of, fetch, run, wait_until


def settings(kind, certificate=None):
    """An SSL context of a client that resumes by "13" (tickets), "12" (tickets) or "id"."""
    result = ssl.create_default_context(cafile=ca())
    result.maximum_version = result.minimum_version = \
        ssl.TLSVersion.TLSv1_3 if kind == "13" else ssl.TLSVersion.TLSv1_2
    if kind == "id":
        result.options |= ssl.OP_NO_TICKET
    if certificate:
        result.load_cert_chain(*certificate)
    return result


def connect(port, ctx, session=None, name="localhost"):
    """One connection to a port of ours, or to (address, port); returns (its session, whether it was resumed, the facts
    page)."""
    with socket.create_connection(port if isinstance(port, tuple) else ("127.0.0.1", port), timeout=20) as raw:
        with ctx.wrap_socket(raw, server_hostname=name, session=session) as connection:
            page = facts_of(fetch(connection))
            return connection.session, connection.session_reused, page


def make_sessions(port, kind, count, certificate=None):
    """count sessions, each of a full handshake."""
    ctx = settings(kind, certificate)
    sessions = []
    for _ in range(count):
        session, resumed, _ = connect(port, ctx)
        check(not resumed, "resumed without a session")
        sessions.append(session)
    return ctx, sessions


def resume(port, ctx, sessions):
    """Reconnect with each; returns how many were resumed."""
    return sum(connect(port, ctx, session)[1] for session in sessions)


def gnutls(port, priority, *options):
    """gnutls-cli connects, and again with the first session: was that resumed?"""
    done = run(["gnutls-cli", "--resume", "--x509cafile", ca(), "--priority", priority, *options, "-p", port,
                "localhost"], check_status=False, input="GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    check(done.stdout.count("Handshake was completed") >= 1, done.stdout[-2000:])
    return "This is a resumed session" in done.stdout


def at_least(share, resumed, count, what):
    print(f"{what}: {resumed} of {count} resumed ({100 * resumed / count:.2f} %)")
    check(resumed >= share * count, f"{what}: only {resumed} of {count} resumed")


def not_resumed(agent, name="www"):
    return next(one for one in agent.status()["contexts"] if one["name"] == name)["not_resumed"]


class StoredAgent(Agent):
    """An agent with a service manager's fd store: what it stores, its next instance gets."""

    def __init__(self, scene, *contexts, **options):
        self.path = scene.directory / "notify"
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(self.path))
        self.manager.setblocking(False)
        self.store = {}
        super().__init__(scene, *contexts, **options)

    def listen(self):
        """Take what the agent said since the last time."""
        said = []
        while True:
            try:
                text, fds, _, _ = socket.recv_fds(self.manager, 4096, 4)
            except BlockingIOError:
                return said
            words = dict(line.split("=", 1) for line in text.decode().splitlines())
            if "FDSTOREREMOVE" in words and words["FDNAME"] in self.store:
                os.close(self.store.pop(words["FDNAME"]))
            if "FDSTORE" in words:
                self.store[words["FDNAME"]] = fds[0]
            said.append(words)

    def start(self):
        places = " ".join(f"{3 + i}<&{fd}" for i, fd in enumerate(self.store.values()))
        for fd in self.store.values():
            os.set_inheritable(fd, True)
        os.environ.update(NOTIFY_SOCKET=str(self.path), LISTEN_FDS=str(len(self.store)),
                          LISTEN_FDNAMES=":".join(self.store))
        popen = subprocess.Popen
        try:
            subprocess.Popen = lambda *words, **named: popen(*words, close_fds=False, **named)
            self.process = Process(self.scene, "tlsagentd", [
                "bash", "-c", f"exec {places}; LISTEN_PID=$$ exec {BUILD}/tlsagentd --foreground -c {self.file}"])
        finally:
            subprocess.Popen = popen
            for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_FDNAMES"):
                del os.environ[name]
        wait_until(self.ready, 30, "the agent answers `tlsagent status`")

    def kill(self):
        self.listen()
        super().kill()
