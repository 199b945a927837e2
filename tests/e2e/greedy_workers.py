#!/usr/bin/env python3
"""Workers that are permitted and want too much: others must not notice."""
import ctypes
import os
import pathlib
import signal
import socket
import struct
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import (BUILD, ROOT, SANITIZED, WORKER_USER, Process, Scene, Skip, check, context, facts, free_port,  # noqa: E402
                 main, tls_connect)
import hostile  # noqa: E402

SERVICE_WELCOME, SERVICE_DENIED, SERVICE_CHANNEL, SERVICE_ACCEPT, SERVICE_PULL, SERVICE_DELIVERED, SERVICE_BATCH = 1, 4, 3, 32, 33, 66, 67
OURS = ["root"] if ROOT else []


def accept_message(number, name=b"www"):
    return struct.pack(">HIBIB", SERVICE_ACCEPT, number, 1, 0, len(name)) + name


def greeted(path):
    """Connect as a worker: the first connection, and the channel to the (one) cell."""
    first = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    first.settimeout(5)
    first.connect(str(path))
    while True:
        data, fds, _, _ = socket.recv_fds(first, 70000, 4)
        check(data, "greeted")
        if struct.unpack(">H", data[:2])[0] == SERVICE_CHANNEL:
            return first, socket.socket(fileno=fds[0])


def lingering():
    """A socket whose last close() blocks for a minute, and its peer, which never reads."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        ours = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
    ours.setblocking(False)
    try:
        while True:
            ours.send(b"x" * 65536)
    except BlockingIOError:
        pass
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
    return ours, peer


def scene_of(scene):
    agent = scene.agent(context("www", users=[WORKER_USER] + OURS), cells=1)
    return agent, scene.server(agent, workers=1)


def honest(port, seconds):
    """Handshakes of an honest worker's clients; none may take long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        facts(port, timeout=10)
        time.sleep(0.05)


def linger(send, count=1, whom=lambda agent: agent.pids("handshaker")[0]):
    """The receiver is stopped while the message is sent and our copies are closed: it closes last."""
    with Scene() as scene:
        agent, server = scene_of(scene)
        before = agent.roles()
        first, channel = greeted(agent.socket)
        sockets = [lingering() for _ in range(count)]
        stopped = whom(agent)
        os.kill(stopped, signal.SIGSTOP)
        send(first, channel, [ours.fileno() for ours, _ in sockets])
        for ours, _ in sockets:
            ours.close()
        os.kill(stopped, signal.SIGCONT)
        honest(server.port, 4)
        check(greeted(agent.socket), "newcomers are greeted")
        check(agent.roles() == before, "every process is the same as before")


def test_surplus_fd_that_lingers():
    linger(lambda first, channel, fds: socket.send_fds(channel, [accept_message(1)], fds), 2)


def test_malformed_message_with_an_fd_that_lingers():
    linger(lambda first, channel, fds: socket.send_fds(channel, [accept_message(1) + b"X"], fds))


def test_fd_that_lingers_queued_behind_garbage():
    def send(first, channel, fds):
        channel.send(b"\xff\xff")
        socket.send_fds(channel, [accept_message(1)], fds)
    linger(send)


def test_fd_that_lingers_on_the_first_connection():
    def send(first, channel, fds):
        socket.send_fds(first, [b"said"], fds)
        socket.send_fds(first, [b"and more"], fds)
    linger(send, whom=lambda agent: agent.pid)


def test_fd_that_lingers_before_the_supervisor_has_accepted():
    with Scene() as scene:
        agent, server = scene_of(scene)
        before = agent.roles()
        ours, peer = lingering()
        os.kill(agent.process.pid, signal.SIGSTOP)
        first = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        first.connect(str(agent.socket))
        socket.send_fds(first, [b"said"], [ours.fileno()])
        ours.close()
        first.close()
        os.kill(agent.process.pid, signal.SIGCONT)
        started = time.monotonic()
        second, channel = greeted(agent.socket)
        check(time.monotonic() - started < 2, "the supervisor does not wait for it")
        honest(server.port, 3)
        check(agent.roles() == before, "every process is the same as before")
        peer.close()


def test_channels_beyond_the_limit_of_a_uid():
    with Scene() as scene:
        agent = scene.agent(context("www", users=[WORKER_USER] + OURS), cells=1, max_channels=20)
        kept = []
        for _ in range(60):  # the first connection closed, the channel kept
            first, channel = greeted(agent.socket)
            first.close()
            kept.append(channel)
        open_ones = 0
        for channel in kept:
            channel.settimeout(0.2)
            try:
                while channel.recv(70000):
                    pass
            except TimeoutError:
                open_ones += 1
        print(f"{open_ones} of {len(kept)} channels are open")
        check(open_ones == 20, "as many as max_channels")
        if OURS:
            server = scene.server(agent, workers=1)  # another uid
            check(facts(server.port), "another user is served")
            for channel in kept:
                channel.close()


def test_slots_of_one_uid_leave_room_for_others():
    if not OURS:
        print("SKIP slots_of_one_uid_leave_room_for_others: needs two users")
        return
    with Scene() as scene:
        agent = scene.agent(context("www", users=[WORKER_USER] + OURS), cells=1, max_handshakes=1000)
        server = scene.server(agent, workers=1)
        first, channel = greeted(agent.socket)
        silent = []
        for number in range(1, 1201):  # peers that say nothing hold their slot until the deadline
            ours, peer = socket.socketpair()
            socket.send_fds(channel, [accept_message(number)], [ours.fileno()])
            ours.close()
            silent.append(peer)
        time.sleep(0.5)
        in_flight = sum(p.get("in_flight", 0) for p in agent.status()["processes"])
        print(f"{in_flight} of 1000 slots are taken")
        check(400 <= in_flight <= 500, "half of them")
        honest(server.port, 2)


def read_deliveries(channels):
    """How many connections are in the queues; closes them."""
    count = 0
    for channel in channels:
        channel.setblocking(False)
        try:
            while True:
                data, fds, _, _ = socket.recv_fds(channel, 70000, 16)
                kind = struct.unpack(">H", data[:2])[0] if data else 0
                check(kind == SERVICE_DELIVERED and len(fds) == 1 or kind == SERVICE_BATCH and len(fds) == data[2], "deliveries")
                for fd in fds:
                    os.close(fd)
                count += len(fds)
        except BlockingIOError:
            pass
    return count


def test_deliveries_that_nobody_reads():
    """The kernel counts the descriptors that our uid has on the way; a worker that reads none must not use them up."""
    if not OURS:
        raise Skip("needs two users")
    limit, port, sink = 512, free_port(), free_port()
    with Scene() as scene:
        program = scene.directory / "tlsagentd"
        program.write_text(f'#!/bin/sh\nulimit -n {limit}\nexec {BUILD}/tlsagentd "$@"\n')
        program.chmod(0o755)
        agent = scene.agent(context("www", listen=f'{{"127.0.0.1:{port}"}}'),
                            context("sink", "p256", users=OURS, listen=f'{{"127.0.0.1:{sink}"}}'), cells=1,
                            program=program)
        server = scene.server(agent, listener=port, workers=1)
        roles = agent.roles()
        greetings, channels = zip(*[greeted(agent.socket) for _ in range(40)])
        pull = struct.pack(">HHBB", SERVICE_PULL, 16, 1, 4) + b"sink"
        for channel in channels:
            channel.send(pull)
        done = 0
        for _ in range(limit + 200):
            try:
                tls_connect(sink, timeout=1).close()
                done += 1
            except OSError:  # no more are accepted
                break
        honest(server.port, 3)
        check(agent.roles() == roles, "every process is the same as before")
        check("channel closed" not in agent.process.text(), agent.process.text()[-2000:])
        unread = read_deliveries(channels)
        print(f"{done} handshakes were done for the worker that does not read; {unread} of them were on the way to it")
        check(20 < unread <= limit // 8, "an eighth of what the kernel allows at most")
        more, end = 0, time.monotonic() + 5
        while more < 20 and time.monotonic() < end:
            more += read_deliveries(channels)
            time.sleep(0.05)
        check(more >= 20, f"it gets the rest when it reads: {more}")
        check(all(greetings), "kept until here")


def test_newcomers_wait_in_turn():
    """Who connects too often is served in the order of coming, and is told when that would take too long."""
    burst, rate, surplus = 256, 20, 60
    with Scene() as scene:
        agent = scene.agent(context("www", users=[WORKER_USER] + OURS), cells=1, max_channels=1000, max_greetings=rate)
        waiting, order, denied, begin = {}, [], 0, time.monotonic()
        for number in range(burst + surplus):
            waiting[number] = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            waiting[number].connect(str(agent.socket))
            waiting[number].setblocking(False)
        while waiting and time.monotonic() < begin + 10:
            for number, first in list(waiting.items()):
                try:
                    data = first.recv(70000)
                except BlockingIOError:
                    continue
                if data[:2] == struct.pack(">H", SERVICE_DENIED):
                    check(b"max_greetings" in data, "it says what to change:", data)
                    denied += 1
                else:
                    check(data[:2] == struct.pack(">H", SERVICE_WELCOME), "a welcome:", data)
                    order.append((time.monotonic() - begin, number))
                del waiting[number]
            time.sleep(0.01)
        late = [(when, number) for when, number in order if number >= burst]
        print(f"{len(order)} were served, {denied} refused; the last one waited for {order[-1][0]:.2f} s")
        check(not waiting, "each gets an answer:", len(waiting))
        check(late and denied > 0, "both happened")
        check([number for _, number in order] == sorted(number for _, number in order), "in the order of coming:", order)


def test_others_come_in_beside_those_who_connect_and_leave():
    if SANITIZED:
        raise Skip("built with a sanitizer: Python cannot load the library")
    if not OURS:
        raise Skip("needs two users")
    library = ctypes.CDLL(str(BUILD / "libtlsagent.so"))
    library.tlsagent_open.restype = ctypes.c_void_p
    library.tlsagent_agent_error.restype = ctypes.c_char_p
    with Scene() as scene:
        agent = scene.agent(context("www", users=[WORKER_USER] + OURS), cells=1)
        attack = Process(scene, "hostile", [sys.executable, hostile.__file__, "connection_bomb", agent.socket, WORKER_USER])
        attack.wait_for("^attacking$")
        time.sleep(1)
        longest = 0
        for _ in range(20):
            begin = time.monotonic()
            handle = ctypes.c_void_p(library.tlsagent_open(str(agent.socket).encode()))
            check(library.tlsagent_check(handle) == 0, library.tlsagent_agent_error(handle))
            library.tlsagent_free(handle)
            longest = max(longest, time.monotonic() - begin)
        print(f"20 newcomers were served; the slowest within {longest:.2f} s")
        check(attack.alive(), "the attack ended:", attack.text())


main()
