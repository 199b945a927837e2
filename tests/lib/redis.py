"""redis.py: a redis-server of the test's own, a small client for it, and servers that play a broken one."""
import os
import pathlib
import signal
import socket
import threading

from e2e import Process, Skip, check, free_port, wait_until


class Redis:
    """A redis-server on a free port of 127.0.0.1, with nothing on disk but what a test asks for."""

    def __init__(self, scene, *options, password=None):
        if not pathlib.Path("/usr/bin/redis-server").exists():
            raise Skip("there is no redis-server: contrib/debian/install-deps check")
        self.scene, self.options, self.password = scene, options, password
        self.port = free_port()
        self.start()

    def start(self):
        self.process = Process(self.scene, "redis", [
            "redis-server", "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--dir", self.scene.directory, "--dbfilename", "dump.rdb", *self.options])
        self.process.wait_for("Ready to accept connections")
        wait_until(lambda: self.ask("PING") == b"PONG", 10, "redis answers")

    def ask(self, *words):
        """One command on a connection of its own; the answer, an error as an AssertionError."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as raw, raw.makefile("rwb") as stream:
            if self.password:
                send(stream, "AUTH", self.password)
                check(receive(stream) == b"OK", "AUTH")
            send(stream, *words)
            return receive(stream)

    def keys(self):
        return self.ask("KEYS", "*")

    def pause(self):
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self):
        self.process.process.kill()
        self.process.process.wait()


def send(stream, *words):
    words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    stream.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
    stream.flush()


def receive(stream):
    line = stream.readline().rstrip(b"\r\n")
    check(line[:1] != b"-", line)
    if line[:1] == b"$":
        size = int(line[1:])
        return None if size < 0 else stream.read(size + 2)[:-2]
    if line[:1] == b"*":
        return [receive(stream) for _ in range(int(line[1:]))]
    return line[1:] if line[:1] == b"+" else int(line[1:])


class Playing:
    """A server that plays a store: answer(words) gives the bytes that it says to each command."""

    def __init__(self, answer):
        self.answer = answer
        self.commands = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection):
        try:
            with connection, connection.makefile("rwb") as stream:
                while True:
                    words = receive(stream)
                    self.commands += 1
                    stream.write(self.answer(words))
                    stream.flush()
        except (OSError, ValueError, AssertionError, IndexError):
            pass

    def close(self):
        self.listener.close()
