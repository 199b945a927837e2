#!/usr/bin/env python3
"""Live connections change hands: a server that replaces its own program, and systemd's fd store."""
import array
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import (BUILD, FORM, ROOT, SANITIZED, WORKER_USER, Process, Scene, ca, check, free_port, main,  # noqa: E402
                 process_fds, tls_connect, wait_until)
from serve_lib import relays  # noqa: E402

AS_WORKER = ["setpriv", f"--reuid={WORKER_USER}", f"--regid={WORKER_USER}", "--clear-groups"] if ROOT else []


class Server:
    """self-replacing-server, through all its processes."""

    def __init__(self, scene, agent, form="auto"):
        self.scene = scene
        self.agent = agent
        self.form = form
        self.file = scene.directory / "server"
        self.port = free_port()
        self.install()
        self.start()

    def install(self):
        """The program file anew, as a package manager does it."""
        new = self.file.with_suffix(".new")
        shutil.copy(BUILD / "examples/self-replacing-server", new)
        new.rename(self.file)

    def command(self):
        return [self.file, "--context", "www", "--listen", f"127.0.0.1:{self.port}", "--socket", self.agent.socket,
                "--form", self.form]

    def start(self):
        self.process = Process(self.scene, "self-replacing-server", [*AS_WORKER, *self.command()])
        self.process.wait_for(r"ready$")

    def pids(self):
        return [int(pid) for pid in re.findall(r"^self-replacing-server\[(\d+)\]: ready$", self.process.text(), re.M)]

    def replace(self):
        """kill -HUP; returns when the old process has given everything away and is gone."""
        old = self.pids()[-1]
        count = len(self.pids())
        os.kill(old, signal.SIGHUP)
        wait_until(lambda: len(self.pids()) > count, 30, "the new process is ready")
        given = wait_until(lambda: re.search(rf"^self-replacing-server\[{old}\]: gave (\d+) connections away: done$",
                                             self.process.text(), re.M), 60, "the old process has given all away")
        wait_until(lambda: not alive(old), 10, "the old process is gone")
        return int(given.group(1))

    def stop(self):
        last = self.pids()[-1]
        if alive(last):
            os.kill(last, signal.SIGTERM)
        wait_until(lambda: not alive(last), 10, "the last process is gone")


def alive(pid):
    """Not gone, and not a zombie of whoever should have waited."""
    try:
        return ") Z " not in pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def talkers(scene, port, count):
    process = Process(scene, "moving", [BUILD / "tests/peers/moving", port, ca(), count], stdin=subprocess.PIPE)
    process.wait_for("^running$", 100)
    return process


def finish(process, count):
    process.process.stdin.close()
    check(process.process.wait(100) == 0, process.text()[-3000:])
    line = process.wait_for(rf"^{count} connections, .*$").group(0)
    print(line)
    return line


class Newcomers(threading.Thread):
    """Clients that come, say something, hear it and go, one after the other: none may be refused."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port = port
        self.stop = False
        self.served = 0
        self.failure = None
        self.start()

    def run(self):
        try:
            while not self.stop:
                with tls_connect(self.port, timeout=30) as connection:
                    word = b"number %d" % self.served
                    connection.sendall(word)
                    back = b""
                    while len(back) < len(word):
                        more = connection.recv(100)
                        check(more, "ended early")
                        back += more
                    check(back == word, back)
                    connection.settimeout(30)
                    connection.unwrap().close()
                self.served += 1
        except Exception as error:  # for the main thread
            self.failure = error

    def wait_for_more(self):
        """Somebody who came after this call was served, or somebody was not."""
        enough = self.served + 2
        wait_until(lambda: self.failure is not None or self.served >= enough, 60, "newcomers are served")
        check(self.failure is None, repr(self.failure))


def new_relays(before):
    return [pid for pid in relays() if pid not in before]


def wait_for_relays(before):
    wait_until(lambda: not new_relays(before), 20, "every relay has ended with its last connection")


def ten_replacements(form, count):
    before = relays()
    with Scene() as scene:
        server = Server(scene, scene.agent(), form)
        process = talkers(scene, server.port, count)
        newcomers = Newcomers(server.port)
        given = []
        for _ in range(10):
            server.install()
            given.append(server.replace())
            newcomers.wait_for_more()
            check(process.alive(), process.text()[-3000:])
        newcomers.stop = True
        newcomers.join(60)
        check(newcomers.failure is None, repr(newcomers.failure), server.process.text()[-2000:])
        finish(process, count)
        print(f"{len(given)} replacements gave {given} connections away; {newcomers.served} newcomers were served")
        check(min(given) >= count, "not all connections were given away:", given)
        check(len(set(server.pids())) == 11, server.pids())
        last = server.pids()[-1]
        most = 12 + (form == "stream")  # the channel to its own relay
        wait_until(lambda: process_fds(last) <= most, 10, f"no descriptor is left over: {process_fds(last)}")
        server.stop()
        odd = [line for line in server.process.lines() if not re.search("ready$|gave [0-9]+ connections", line)]
        check(not odd, odd)
    wait_for_relays(before)


def test_500_live_connections_through_ten_replacements():
    ten_replacements("auto", 100 if SANITIZED else 500)


def test_500_live_plain_descriptors_through_ten_replacements():
    """The stream form: the first process's relay carries them all to the end."""
    ten_replacements("stream", 100 if SANITIZED else 500)


def test_program_that_does_not_start_changes_nothing():
    with Scene() as scene:
        server = Server(scene, scene.agent())
        process = talkers(scene, server.port, 20)
        pid = server.pids()[-1]
        for broken in ("#!/bin/sh\nexit 1\n", "no program\n"):
            server.file.unlink()
            server.file.write_text(broken)
            server.file.chmod(0o755)
            before = server.process.text().count("did not start")
            os.kill(pid, signal.SIGHUP)
            wait_until(lambda: server.process.text().count("did not start") > before, 20, "the failure is noticed")
        check(alive(pid) and process.alive(), process.text())
        with tls_connect(server.port) as connection:
            connection.sendall(b"still here")
            check(connection.recv(100) == b"still here")
        server.install()
        server.replace()
        finish(process, 20)
        server.stop()


def test_new_process_that_dies_half_way_costs_only_what_it_was_given():
    with Scene() as scene:
        server = Server(scene, scene.agent())
        pid = server.pids()[-1]
        connections = [tls_connect(server.port, timeout=20) for _ in range(250)]
        # It says that it is ready, takes nothing and ends: what fits in the socket's queue is lost with it.
        server.file.unlink()
        server.file.write_text("#!/usr/bin/python3\nimport os, time\nos.write(3, b'r')\ntime.sleep(0.5)\n")
        server.file.chmod(0o755)
        os.kill(pid, signal.SIGHUP)
        given = int(server.process.wait_for(r"is gone: (\d+) connections were given").group(1))
        alive_ones = 0
        for connection in connections:
            try:
                connection.sendall(b"still here")
                alive_ones += connection.recv(100) == b"still here"
            except OSError:
                pass  # an end without close_notify
            connection.close()
        print(f"{given} of {len(connections)} connections were given, {alive_ones} go on in the old process")
        # (One more may be lost: its connection went, and what belongs to it did not.)
        check(0 < given < len(connections) and len(connections) - given - 1 <= alive_ones <= len(connections) - given)
        with tls_connect(server.port) as connection:
            connection.sendall(b"new one")
            check(connection.recv(100) == b"new one", "the old process accepts again")
        server.stop()


# ---- systemd's fd store ----

class Manager:
    """What systemd does for a service with Type=notify and FileDescriptorStoreMax=: keeps the fds that the
    service stores, drops those whose other end is closed unless FDPOLL=0, and passes them to the next start."""

    def __init__(self, directory):
        self.path = directory / "notify.sock"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.path.chmod(0o777)
        self.store = []  # (name, fd)
        self.said = []
        self.poll = select.poll()
        self.stop = False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        self.socket.settimeout(0.1)
        while not self.stop:
            for fd, _ in self.poll.poll(0):
                self.poll.unregister(fd)
                self.store = [(name, other) for name, other in self.store if other != fd]
                os.close(fd)
            try:
                data, control, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(4 * 16))
            except TimeoutError:
                continue
            fds = array.array("i")
            for _, kind, payload in control:
                if kind == socket.SCM_RIGHTS:
                    fds.frombytes(payload[:len(payload) - len(payload) % 4])
            self.handle(dict(line.split("=", 1) for line in data.decode().splitlines()), list(fds))

    def handle(self, message, fds):
        self.said.append(message)
        if message.get("FDSTORE") == "1":
            for fd in fds:
                self.store.append((message.get("FDNAME", "stored"), fd))
                if message.get("FDPOLL") != "0":
                    self.poll.register(fd, 0)
            return
        if message.get("FDSTOREREMOVE") == "1":
            for name, fd in [entry for entry in self.store if entry[0] == message["FDNAME"]]:
                os.close(fd)
            self.store = [entry for entry in self.store if entry[0] != message["FDNAME"]]
        for fd in fds:  # BARRIER=1: to be closed
            os.close(fd)

    def spawn(self, scene, command):
        """Start the service with what is in the store. Returns its Process."""
        names = ":".join(name for name, _ in self.store)
        fds = [fd for _, fd in self.store]
        script = ("import os, sys\n"
                  "fds = [int(word) for word in sys.argv[1].split(',') if word]\n"
                  "high = [os.dup2(fd, 500 + i) for i, fd in enumerate(fds)]\n"
                  "for i, fd in enumerate(high): os.dup2(fd, 3 + i)\n"
                  "os.closerange(3 + len(high), 1000)\n"
                  "os.environ['LISTEN_PID'] = str(os.getpid())\n"
                  "os.execvp(sys.argv[2], sys.argv[2:])\n")
        environment = {"NOTIFY_SOCKET": str(self.path), "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": names}
        for fd in fds:
            os.set_inheritable(fd, True)
        process = Service(scene, [sys.executable, "-c", script, ",".join(str(fd) for fd in fds),
                                  *AS_WORKER, *command], environment, fds)
        process.wait_for("ready$")
        return process


class Service(Process):
    def __init__(self, scene, command, environment, fds):
        self.scene = scene
        self.name = "service"
        self.log = scene.directory / f"service.{len(scene.processes)}.log"
        self.file = open(self.log, "wb")
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=self.file,
                                        stderr=self.file, pass_fds=fds, env={**os.environ, **environment})
        self.pid = self.process.pid
        scene.processes.append(self)


def restarts_through_the_store(form, count):
    before = relays()
    with Scene() as scene:
        agent = scene.agent()
        manager = Manager(scene.directory)
        port = free_port()
        command = [BUILD / "examples/self-replacing-server", "--context", "www", "--listen", f"127.0.0.1:{port}",
                   "--socket", agent.socket, "--form", form]
        service = manager.spawn(scene, command)
        process = talkers(scene, port, count)
        newcomers = Newcomers(port)
        if FORM == "kernel":
            sockets = pathlib.Path("/proc/net/tls_stat").read_text()
            check(int(re.search(r"TlsCurrTxSw\s+(\d+)", sockets).group(1)) >= count, sockets)
        for _ in range(3):
            service.process.send_signal(signal.SIGTERM)
            check(service.process.wait(60) == 0, service.text())
            given = int(service.wait_for(r"gave (\d+) connections away: done$").group(1))
            names = [name for name, _ in manager.store]
            print(f"stopped: {given} connections are in {names.count('connections')} stored queues")
            check(given >= count and "listener" in names and "connections" in names, given, names)
            check(process.alive(), process.text()[-3000:])
            if form == "stream":
                check(new_relays(before), "the relay goes on while there is no service (KillMode=process)")
            service = manager.spawn(scene, command)
            wait_until(lambda: manager.said[-1].get("FDSTOREREMOVE") == "1", 10, "the store is emptied")
            newcomers.wait_for_more()
        newcomers.stop = True
        newcomers.join(60)
        check(newcomers.failure is None, repr(newcomers.failure), service.text()[-2000:])
        finish(process, count)
        wait_until(lambda: process_fds(service.pid) < 14, 10, "no descriptor is left over")
        service.stop()
        manager.stop = True
        manager.thread.join()
        for _, fd in manager.store:
            os.close(fd)
        manager.socket.close()
    wait_for_relays(before)


def test_restarts_through_the_fd_store_of_systemd():
    restarts_through_the_store("auto", 50 if SANITIZED else 16 if FORM == "kernel" else 300)


def test_restarts_of_the_stream_form_through_the_fd_store_of_systemd():
    restarts_through_the_store("stream", 50 if SANITIZED else 150)


def no_ragged_ends(settings):
    """An end without close_notify is an error, as it is not by Python's default."""
    settings.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF


def test_a_manager_that_kills_the_relay_cuts_and_never_ends_cleanly():
    """What KillMode=control-group does: SIGTERM to all, and SIGKILL to who is left."""
    before = relays()
    with Scene() as scene:
        server = Server(scene, scene.agent(), "stream")
        connections = [tls_connect(server.port, setting=no_ragged_ends) for _ in range(20)]
        for connection in connections:
            connection.sendall(b"hello")
            check(connection.recv(100) == b"hello")
        for pid in new_relays(before):
            os.kill(pid, signal.SIGTERM)
        for connection in connections:  # it was not meant
            connection.sendall(b"still here")
            check(connection.recv(100) == b"still here")
        for pid in new_relays(before):
            os.kill(pid, signal.SIGKILL)
        for connection in connections:
            connection.suppress_ragged_eofs = False
            try:
                check(connection.recv(100) and False, "a cut connection looks as if it had ended")
            except (ConnectionResetError, ssl.SSLError) as error:  # SSLEOFError: no close_notify
                check(not isinstance(error, ssl.SSLZeroReturnError), error)
            connection.close()
        wait_until(lambda: server.process.text().count("Connection reset by peer") == 20, 10, "the server is told, too")
        server.stop()


main()
