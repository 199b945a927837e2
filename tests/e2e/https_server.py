#!/usr/bin/env python3
"""The example server: what it answers, and what it refuses."""
import hashlib
import os
import pathlib
import select
import signal
import socket
import ssl
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import (BUILD, ROOT, Process, Scene, ca, check, children, client, context, facts, fetch, free_port, main,  # noqa: E402
                 pattern, tls_connect, wait_until)


def raw_answer(port, request):
    """Send bytes, return everything until the server closes."""
    with tls_connect(port) as connection:
        connection.sendall(request)
        data = b""
        while True:
            more = connection.recv(65536)
            if not more:
                return data
            data += more


def test_facts_page():
    with Scene() as scene:
        agent = scene.agent(context("www", alpn='{"h2", "http/1.1"}'))
        server = scene.server(agent)
        page = facts(server.port, setting=lambda settings: settings.set_alpn_protocols(["http/1.1"]))
        check(page["TLS version"] == "TLSv1.3" and page["ALPN"] == "http/1.1" and page["SNI"] == "localhost", page)
        check(page["hand-back form"] == "records" and page["resumed"] == "no" and page["context"] == "www", page)
        check(int(page["worker pid"].split()[0]) in children(server.pid), page)
        check(int(page["agent pid"].split()[0]) in agent.pids("handshaker"), page)
        check(facts(server.port)["ALPN"] == "none", "ALPN nobody asked for")


def test_workers_gave_up_root():
    with Scene() as scene:
        agent = scene.agent()
        server = scene.server(agent)
        for pid in (*children(server.pid), *agent.roles()):
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
            uids = next(line.split()[1:] for line in status.splitlines() if line.startswith("Uid:"))
            check(len(set(uids)) == 1 and (not ROOT or uids[0] != "0"), pid, uids)


def test_keep_alive_and_pipelining():
    with Scene() as scene:
        server = scene.server(scene.agent())
        with tls_connect(server.port) as connection:
            for size in (0, 1, 100, 16384, 16385, 1000000):
                check(fetch(connection, f"/bytes/{size}") == pattern(size), size)
            body = os.urandom(300000)
            check(fetch(connection, "/echo", body) == body, "echo")
            check(b"TLS version" in fetch(connection), "facts")
        request = b"GET /bytes/5 HTTP/1.1\r\nHost: x\r\n\r\n"
        echo = b"POST /echo HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"
        last = b"GET /bytes/7 HTTP/1.1\r\nConnection: close\r\n\r\n"
        answer = raw_answer(server.port, request * 50 + echo + request + last)
        check(answer.count(b"HTTP/1.1 200 OK") == 53 and answer.count(b"\r\n\r\nabc") == 1, answer[-300:])
        check(answer.endswith(pattern(7)), "last answer")


def test_long_uploads_are_answered_when_their_last_byte_is_there():
    """The worker sleeps until 64 KB have come, but never for bytes that need not come."""
    with Scene() as scene:
        server = scene.server(scene.agent())
        with tls_connect(server.port, timeout=5) as connection:
            for size in (0, 1, 65536, 131072, 131073, 147456, 147457, 1000000):
                check(fetch(connection, "/discard", bytes(size)) == b"%d\n" % size, size)
            for size in (131073, 150000, 163841, 300000):  # the end comes alone, behind a rest
                for last in (1, 16385, 70000):
                    connection.sendall(b"POST /discard HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size + bytes(size - last))
                    time.sleep(0.02)
                    connection.sendall(bytes(last))
                    check(connection.recv(1000).endswith(b"\r\n\r\n%d\n" % size), size, last)
        with tls_connect(server.port, timeout=5) as connection:  # one that goes away in the middle
            connection.sendall(b"POST /discard HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + bytes(1000))
            with socket.socket(fileno=os.dup(connection.fileno())) as raw:  # (SSLSocket.shutdown() forgets its TLS)
                raw.shutdown(socket.SHUT_WR)
            try:
                check(connection.recv(1000) == b"", "an answer to half a request")
            except (ssl.SSLError, ConnectionResetError):
                pass
        check(raw_answer(server.port, b"POST /discard HTTP/1.1\r\nContent-Length: 200000\r\n\r\n" + bytes(200000)
                         + b"GET /bytes/7 HTTP/1.1\r\nConnection: close\r\n\r\n").endswith(pattern(7)), "the request behind it")


def test_long_upload_that_stops_within_a_record():
    """What the library holds of a record is not waited for a second time."""
    with Scene() as scene:
        server = scene.server(scene.agent())
        wire, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = ssl.create_default_context(cafile=ca()).wrap_bio(wire, out, server_hostname="localhost")
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as raw:
            def until(call):
                while True:
                    try:
                        return call()
                    except ssl.SSLWantReadError:
                        raw.sendall(out.read())
                        wire.write(raw.recv(65536))
            until(tls.do_handshake)
            for size in range(70000, 170000, 20000):
                tls.write(b"POST /discard HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size)
                tls.write(bytes(size))
                records = out.read()
                stop = len(records) - size + 16000  # within the first record of the body, or the next
                raw.sendall(records[:stop])
                time.sleep(0.05)
                for at in range(stop, len(records), 4000):  # (Linux tells earlier if few bytes fit the window)
                    raw.sendall(records[at:at + 4000])
                check(until(lambda: tls.read(1000)).endswith(b"\r\n\r\n%d\n" % size), size)  # noqa: B023


def test_refusals():
    with Scene() as scene:
        server = scene.server(scene.agent())
        table = (
            (b"\x00\x01\x02\r\n\r\n", b"400"),
            (b"GET / HTTP/2.0\r\n\r\n", b"400"),
            (b"GET /bytes/ten HTTP/1.1\r\n\r\n", b"400"),
            (b"GET /bytes/-1 HTTP/1.1\r\n\r\n", b"400"),
            (b"GET /bytes/99999999999999999999999 HTTP/1.1\r\n\r\n", b"400"),
            (b"DELETE / HTTP/1.1\r\n\r\n", b"405"),
            (b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"411"),
            (b"POST /echo HTTP/1.1\r\nContent-Length: 1x\r\n\r\n", b"400"),
            (b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100000, b"413"),
            (b"GET / HTTP/1.1\r\nX: " + b"x" * 20000 + b"\r\n\r\n", b"431"),
        )
        for request, status in table:
            answer = raw_answer(server.port, request)
            check(answer.startswith(b"HTTP/1.1 " + status + b" "), request[:60], answer[:100])
        check(facts(server.port), "the server goes on")


def test_http_1_0_and_head():
    with Scene() as scene:
        server = scene.server(scene.agent())
        check(raw_answer(server.port, b"GET /bytes/9 HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\n" + pattern(9)), "1.0")
        answer = raw_answer(server.port, b"HEAD /bytes/9 HTTP/1.1\r\nConnection: close\r\n\r\n")
        check(b"Content-Length: 9\r\n" in answer and answer.endswith(b"\r\n\r\n"), answer)


def test_large_bodies_are_not_collected():
    with Scene() as scene:
        server = scene.server(scene.agent(), workers=1)
        worker = children(server.pid)[0]
        body = pattern(50_000_000)
        request = b"POST /echo HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
        unsent = memoryview(request + body)
        got, head, left, peak = hashlib.sha256(), b"", None, 0
        with tls_connect(server.port, timeout=60) as connection:
            # One thread: an SSL object is not to be used by two at once.
            connection.setblocking(False)
            while left is None or left > 0:
                readable, _, _ = select.select([connection], [connection] if unsent else [], [], 60)
                check(readable or unsent, "the echo stalls")
                try:
                    if unsent:
                        unsent = unsent[connection.send(unsent[:1 << 18]):]
                except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    pass
                try:
                    while left is None or left > 0:
                        more = connection.recv(1 << 16)
                        check(more, "the server ended the echo early")
                        if left is None:
                            head += more
                            if b"\r\n\r\n" not in head:
                                continue
                            more = head.split(b"\r\n\r\n", 1)[1]
                            left = len(body)
                        got.update(more)
                        left -= len(more)
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    pass
                status = pathlib.Path(f"/proc/{worker}/status").read_text()
                peak = max(peak, int(next(line.split()[1] for line in status.splitlines() if "VmRSS" in line)))
        check(got.hexdigest() == hashlib.sha256(body).hexdigest(), "the echo is wrong")
        print(f"the worker had at most {peak} KiB resident")
        check(peak < 60000, "the body was collected")


def test_dead_worker_is_restarted():
    with Scene() as scene:
        server = scene.server(scene.agent())
        before = children(server.pid)
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: len(children(server.pid)) == 2 and before[0] not in children(server.pid), 5, "restarted")
        check(facts(server.port), "serves")


def test_agent_accepts_for_the_records_form():
    with Scene() as scene:
        port = free_port()
        agent = scene.agent(context("www", listen=f'{{"127.0.0.1:{port}"}}'))
        scene.server(agent, "--form", "records", listener=port)
        check(facts(port)["hand-back form"] == "records", facts(port))


def test_agent_accepts():
    with Scene() as scene:
        port = free_port()
        agent = scene.agent(context("www", listen=f'{{"127.0.0.1:{port}"}}'))
        server = scene.server(agent, listener=port, workers=3)
        with tls_connect(port) as connection:
            body = os.urandom(500000)
            check(fetch(connection, "/echo", body) == body, "echo")
        for version in (12, 13):
            client("tickets", port, version, 2 if version == 13 else 1)
            client("glue", port, f"{version}resumed")
        check(facts(port)["hand-back form"] in ("records", "kernel"), "form")
        seen = {facts(port)["worker pid"].split()[0] for _ in range(100)}
        print(f"{len(seen)} of 3 workers were given connections")
        check(len(seen) >= 2 and len(children(server.pid)) == 3, seen)


def test_idle_client_of_the_agent_blocks_nobody():
    with Scene() as scene:
        port = free_port()
        agent = scene.agent(context("www", listen=f'{{"127.0.0.1:{port}"}}'))
        scene.server(agent, listener=port, workers=1)
        with tls_connect(port) as kept:
            fetch(kept)
            for _ in range(20):
                check(facts(port, timeout=5), "the other clients are served")
            check(b"TLSv1.3" in fetch(kept), "and the first one again")


def test_server_speaks_first():
    with Scene() as scene:
        agent = scene.agent()
        port = free_port()
        Process(scene, "greeter", [BUILD / "examples/https-server", "--context", "www", "--listen",
                                            f"127.0.0.1:{port}", "--socket", agent.socket, "--greet", "220 ready"])
        wait_until(lambda: port_open(port), 5, "listens")
        for version in (12, 13):
            client("greeted", port, version, "220 ready")


def port_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_options_and_port_in_use():
    with Scene() as scene:
        server = scene.server(scene.agent())
        taken = Process(scene, "second", [BUILD / "examples/https-server", "--context", "www", "--listen",
                                          f"127.0.0.1:{server.port}"])
        check(taken.process.wait(5) == 1, "status")
        check("Address already in use" in taken.text() and str(server.port) in taken.text() and
              "another port" in taken.text(), taken.text())
        for number, options in enumerate(([], ["--context", "www"], ["--context", "www", "--listen", "nowhere"],
                                          ["--context", "www", "--listen", "127.0.0.1:1", "--form", "paper"],
                                          ["--context", "www", "--listen", "127.0.0.1:1", "--workers", "0"])):
            wrong = Process(scene, f"wrong{number}", [BUILD / "examples/https-server", *options])
            check(wrong.process.wait(5) != 0 and wrong.text(), options)


def test_without_an_agent_at_the_start():
    """The server starts before the agent: it says so, and serves when the agent is there."""
    with Scene() as scene:
        agent = scene.agent()
        agent.process.stop()
        port = free_port()
        server = Process(scene, "early", [BUILD / "examples/https-server", "--context", "www", "--listen",
                                          f"127.0.0.1:{port}", "--socket", agent.socket])
        line = server.wait_for("warning: .*").group(0)
        check(str(agent.socket) in line, line)
        print(line)
        agent.start()
        time.sleep(0.2)
        check(facts(port), "serves")


main()
