#!/usr/bin/env python3
"""Hostile workers, one kind each, as a program: hostile.py KIND SOCKET USER [PORT]. Says "attacking", goes on until it is
killed, or its parent ends. It leads a process group of its own."""
import ctypes
import encodings.idna  # noqa: F401: whom Python belongs to may not let the hostile user read it later
import os
import pwd
import signal
import socket
import ssl
import struct
import sys
import time

SERVICE_CHANNEL, SERVICE_ACCEPT, SERVICE_PULL = 3, 32, 33
FDS_MAX = 253  # that one message can carry


def accept_message(number, name=b"www"):
    return struct.pack(">HIBIB", SERVICE_ACCEPT, number, 1, 0, len(name)) + name


def greeted(path):
    """Connect as a worker: the first connection, and a channel to the first cell. None: refused."""
    first = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        first.connect(path)  # in turn, however long the queue is
        first.settimeout(5)
        while True:
            data, fds, _, _ = socket.recv_fds(first, 70000, 4)
            if data and struct.unpack(">H", data[:2])[0] == SERVICE_CHANNEL:
                return first, socket.socket(fileno=fds[0])
            if not data or fds == []:
                if not data or struct.unpack(">H", data[:2])[0] == 4:
                    return None
    except OSError:
        return None


def surely_greeted(path):
    """The same, as often as it takes: who came too often before is let in a little later."""
    while (both := greeted(path)) is None:
        time.sleep(0.1)
    return both


def end_with_parent():
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL


def attacking():
    print("attacking", flush=True)


def held_channels(path):
    """Ten thousand channels, or as many as it gets; the rest is refused."""
    held, refused = [], 0
    attacking()
    while len(held) + refused < 10000:
        both = greeted(path)
        if both is not None:
            held.append(both)
        else:
            refused += 1
    time.sleep(1000)


def silent_peers(path):
    """Handshakes with peers that say nothing, as many as it gets."""
    _first, channel = surely_greeted(path)
    peers, number = [], 0
    for _ in range(1000):
        ours, peer = socket.socketpair()
        number += 1
        socket.send_fds(channel, [accept_message(number)], [ours.fileno()])
        ours.close()
        peers.append(peer)
        if number == 500:
            attacking()
    while True:
        channel.recv(70000)


def broken_messages(path):
    """A message that breaks the rules, on one channel after the other."""
    attacking()
    while True:
        both = greeted(path)
        if both is None:
            continue
        try:
            both[1].send(b"\xff\xffgarbage")
            both[1].recv(70000)
        except OSError:
            pass
        for end in both:
            end.close()


def refused_requests(path):
    """Requests that are refused, as fast as the answers come."""
    _first, channel = surely_greeted(path)
    fd, _peer = socket.socketpair()
    attacking()
    number = 0
    while True:
        number += 1
        socket.send_fds(channel, [accept_message(number % (1 << 32), b"no-such")], [fd.fileno()])
        channel.recv(70000)


def wrong_descriptors(path):
    """Requests with a descriptor that is no connection, as fast as the answers come."""
    _first, channel = surely_greeted(path)
    fds = [os.eventfd(0), os.memfd_create("x"), os.open("/", os.O_RDONLY), os.pipe()[0]]
    attacking()
    number = 0
    while True:
        number += 1
        socket.send_fds(channel, [accept_message(number % (1 << 32))], [fds[number % len(fds)]])
        channel.recv(70000)


def fd_floods(path):
    """As many descriptors as a message can carry, on one channel after the other and on the first connections."""
    fds = [os.eventfd(0), os.memfd_create("x"), os.open("/", os.O_RDONLY)]
    fds = (fds * FDS_MAX)[:FDS_MAX]
    attacking()
    while True:
        both = greeted(path)
        if both is None:
            continue
        for end in both:
            try:
                socket.send_fds(end, [accept_message(1)], fds)
            except OSError:  # too many are on their way
                pass
        try:
            both[1].recv(70000)
        except OSError:
            pass
        for end in both:
            end.close()


def unread_answers(path):
    """Requests that are refused, and nobody reads the answers."""
    fd, _peer = socket.socketpair()
    attacking()
    number = 0
    while True:
        both = greeted(path)
        while both is not None:
            number += 1
            try:
                socket.send_fds(both[1], [accept_message(number % (1 << 32), b"no-such")], [fd.fileno()])
            except OSError:  # it has been closed
                both = None


def handshake_with(port):
    """True if a client's handshake was done."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as raw:
            context.wrap_socket(raw, server_hostname="localhost").close()
            return True
    except OSError:
        return False


def unread_deliveries(path, port):
    """Connections that the agent accepted for it, and that it never reads; more clients wait in the queue."""
    both = [surely_greeted(path) for _ in range(40)]
    for _, channel in both:
        channel.send(struct.pack(">HHBB", SERVICE_PULL, 16, 1, 4) + b"sink")
    for _ in range(2000):
        if not handshake_with(int(port)):
            break
    attacking()
    while True:
        handshake_with(int(port))


def become_four():
    """Four processes. What it returns each of them calls when it is at work, and the first one waits for the others and
    says so; it ends if one of them does."""
    read_end, write_end = os.pipe()
    for _ in range(3):
        if os.fork() == 0:
            end_with_parent()
            return lambda: os.write(write_end, b"1")

    def one_ended(*_):  # or was stopped, or goes on
        if os.waitpid(-1, os.WNOHANG)[0] != 0:
            sys.exit("one of the four has ended")

    def all_are_at_work():
        for _ in range(3):
            os.read(read_end, 1)
        attacking()
    signal.signal(signal.SIGCHLD, one_ended)
    return all_are_at_work


def refused_flood(path):
    """Requests that are refused, of four processes, each with several on the way."""
    at_work = become_four()
    _first, channel = surely_greeted(path)
    at_work()
    fd, _peer = socket.socketpair()
    number = 0
    while True:
        for _ in range(8):
            number += 1
            socket.send_fds(channel, [accept_message(number % (1 << 32), b"no-such")], [fd.fileno()])
        for _ in range(8):
            channel.recv(70000)


def connection_bomb(path, said=None):
    """Four processes that connect and leave."""
    become_four()()
    while True:
        first = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            first.connect(path)
            if said is not None:
                first.send(said)
        except OSError:
            pass
        first.close()


def talking_bomb(path):
    """The same, but each leaves something in the queue, that nobody may read."""
    connection_bomb(path, b"said")


def bystander(_path):
    """Harms nobody: as much work as the others, on a socket of its own. What it costs is the machine's."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind("")
    listener.listen(8)
    attacking()
    while True:
        first = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        first.connect(listener.getsockname())
        listener.accept()[0].close()
        first.close()


def main():
    kind, path, user, *more = sys.argv[1:]
    entry = pwd.getpwnam(user)
    os.setsid()
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    end_with_parent()
    globals()[kind](path, *more)


if __name__ == "__main__":
    main()
