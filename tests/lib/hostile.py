#!/usr/bin/env python3
"""Hostile workers, one kind each, as a program: hostile.py KIND SOCKET USER. Says "attacking", goes on until it is killed."""
import ctypes
import os
import pwd
import socket
import struct
import sys
import time

SERVICE_CHANNEL, SERVICE_ACCEPT = 3, 32


def accept_message(number, name=b"www"):
    return struct.pack(">HIBIB", SERVICE_ACCEPT, number, 1, 0, len(name)) + name


def greeted(path):
    """Connect as a worker: the first connection, and a channel to the first cell. None: refused."""
    first = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    first.settimeout(5)
    try:
        first.connect(path)
        while True:
            data, fds, _, _ = socket.recv_fds(first, 70000, 4)
            if data and struct.unpack(">H", data[:2])[0] == SERVICE_CHANNEL:
                return first, socket.socket(fileno=fds[0])
            if not data or fds == []:
                if not data or struct.unpack(">H", data[:2])[0] == 4:
                    return None
    except OSError:
        return None


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
    _first, channel = greeted(path)
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
    _first, channel = greeted(path)
    fd, _peer = socket.socketpair()
    attacking()
    number = 0
    while True:
        number += 1
        socket.send_fds(channel, [accept_message(number % (1 << 32), b"no-such")], [fd.fileno()])
        channel.recv(70000)


def connection_bomb(path, said=None):
    """Four processes that connect and leave."""
    for _ in range(3):
        if os.fork() == 0:
            ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
            break
    else:
        attacking()
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
    kind, path, user = sys.argv[1:]
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    globals()[kind](path)


if __name__ == "__main__":
    main()
