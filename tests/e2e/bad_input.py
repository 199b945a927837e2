#!/usr/bin/env python3
"""Bad input gives one line that says what, where and what to do."""
import os
import pathlib
import pwd
import shutil
import socket
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import (AGENT_USER, BUILD, ROOT, WORKER_USER, Process, Scene, ca, check, identity, main, run)  # noqa: E402


def configuration(scene, body):
    file = scene.directory / "tlsagentd.conf"
    file.write_text(f'user = "{AGENT_USER}"\nsocket = "{scene.directory}/tlsagent.sock"\n{body}\n')
    return file


def www(certificate, key, more=""):
    return (f'context "www" {{\n    identity "one" {{\n        certificate = "{certificate}"\n'
            f'        key = "{key}"\n    }}\n    workers {{ users = {{"{WORKER_USER}"}} }}\n{more}}}\n')


def fails(scene, body, *words, start=True, program=BUILD / "tlsagentd"):
    """`tlsagentd -t` and a start must both fail, with one line that has all the words."""
    file = configuration(scene, body)
    prefix = program if isinstance(program, list) else [program]
    commands = [[*prefix, "-t", "-c", file]]
    if start:
        commands.append([*prefix, "--foreground", "-c", file])
    for command in commands:
        done = run(command, timeout=20, check_status=False)
        lines = [line for line in done.stdout.splitlines() if all(str(word) in line for word in words)]
        check(done.returncode not in (0, None) and done.returncode > 0, f"status {done.returncode}: {done.stdout}")
        check(len(lines) == 1, f"{words} in one line of: {done.stdout}")
        errors = [line for line in done.stdout.splitlines() if "error" in line.lower() or "tlsagentd.conf:" in line]
        check(len(errors) <= 2, f"not one line but: {done.stdout}")
    print(lines[0])


def test_missing_configuration():
    done = run([BUILD / "tlsagentd", "-t", "-c", "/nonexistent/tlsagentd.conf"], check_status=False)
    check(done.returncode > 0 and "/nonexistent/tlsagentd.conf" in done.stdout and "No such file" in done.stdout,
          done.stdout)


def test_configuration_without_sense():
    certificate, key = identity("p256", "p256")
    table = (
        ("context {", ["tlsagentd.conf:"]),
        ('context "www" {', ["tlsagentd.conf:"]),
        ('colour = "red"', ["tlsagentd.conf:3", "colour"]),
        ('cells = "many"', ["tlsagentd.conf:3", "cells", "many"]),
        ("cells = 100000", ["tlsagentd.conf:3", "cells"]),
        ('user = "nobody-knows-me"' if ROOT else 'cells = "-1"', ["tlsagentd.conf:3"]),
        (www(certificate, key, '    deadline = "soon"\n'), ["tlsagentd.conf:9", "deadline", "soon"]),
        (www(certificate, key, '    versions = "SSLv3"\n'), ["tlsagentd.conf:9", "versions", "SSLv3"]),
        (www(certificate, key, '    ciphers = "NOTHING"\n'), ["tlsagentd.conf:9", "ciphers", "NOTHING"]),
        (www(certificate, key, '    groups = "X448x"\n'), ["tlsagentd.conf:9", "groups", "X448x"]),
        (www(certificate, key, '    hand_back = {"carrier pigeon"}\n'), ["tlsagentd.conf:9", "hand_back"]),
        (www(certificate, key, '    listen = {"somewhere"}\n'), ["tlsagentd.conf:9", "listen", "somewhere"]),
        (www(certificate, key).replace(f'"{WORKER_USER}"', '"nobody-knows-me"'), ["tlsagentd.conf:8", "nobody-knows-me"]),
        (www(certificate, key) + www(certificate, key), ["tlsagentd.conf:", "www"]),
        ("", ["tlsagentd.conf", "context"]),
    )
    with Scene() as scene:
        for body, words in table:
            fails(scene, body, *words, start=False)


def test_missing_key_file():
    with Scene() as scene:
        certificate, _ = identity("p256", "p256")
        fails(scene, www(certificate, "/nonexistent/www.key"), "/nonexistent/www.key", "No such file")


def test_missing_certificate_file():
    with Scene() as scene:
        _, key = identity("p256", "p256")
        fails(scene, www("/nonexistent/www.pem", key), "/nonexistent/www.pem", "No such file")


def test_unreadable_key_file():
    """Root can read everything: there the agent is started by a plain user, as somebody without systemd would."""
    with Scene() as scene:
        certificate, key = identity("p256", "p256")
        readable, secret = scene.directory / "readable.pem", scene.directory / "secret.key"
        shutil.copy(certificate, readable)  # all but the key can be read, and the program run
        readable.chmod(0o644)
        shutil.copy(key, secret)
        secret.chmod(0)
        program = BUILD / "tlsagentd"
        if ROOT:
            program = scene.directory / "tlsagentd"
            shutil.copy(BUILD / "tlsagentd", program)
            program.chmod(0o755)
            user = pwd.getpwnam(WORKER_USER)
            os.chown(scene.directory, user.pw_uid, user.pw_gid)  # its sockets are there
            program = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", program]
        fails(scene, www(readable, secret), secret, "Permission denied", program=program)
        secret.chmod(0o644)  # the same configuration is right, but for that
        prefix = program if isinstance(program, list) else [program]
        run([*prefix, "-t", "-c", scene.directory / "tlsagentd.conf"])


def test_directory_in_place_of_a_key():
    with Scene() as scene:
        certificate, _ = identity("p256", "p256")
        fails(scene, www(certificate, scene.directory), scene.directory)


def test_key_that_does_not_match():
    with Scene() as scene:
        certificate, _ = identity("p256", "p256")
        _, key = identity("rsa", "rsa")
        fails(scene, www(certificate, key), "p256.pem", "rsa.key", "does not belong")
        _, key = identity("p256other", "p256")
        fails(scene, www(certificate, key), "p256.pem", "p256other.key", "does not belong")


def test_garbage_in_place_of_a_key():
    with Scene() as scene:
        certificate, key = identity("p256", "p256")
        garbage = scene.directory / "garbage"
        for content in (b"", b"\x00" * 1000, b"hello\n", key.read_bytes()[:100], b"-----BEGIN PRIVATE KEY-----\n"):
            garbage.write_bytes(content)
            fails(scene, www(certificate, garbage), garbage)
            fails(scene, www(garbage, key), garbage)


def test_expired_certificate():
    """Not an error (a clock may be wrong, and a late renewal must not keep a server down): a warning
    that names the file and the day."""
    with Scene() as scene:
        certificate, key = identity("expired", "p256", "expired.example", days=-1)
        file = configuration(scene, www(certificate, key))
        done = run([BUILD / "tlsagentd", "-t", "-c", file], check_status=False)
        lines = [line for line in done.stdout.splitlines() if "expired" in line and str(certificate) in line]
        check(len(lines) == 1, done.stdout)
        print(lines[0])


def test_listening_port_in_use():
    with Scene() as scene, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        certificate, key = identity("p256", "p256")
        file = configuration(scene, www(certificate, key, f'    listen = {{"127.0.0.1:{port}"}}\n'))
        done = run([BUILD / "tlsagentd", "--foreground", "-c", file], timeout=20, check_status=False)
        lines = [line for line in done.stdout.splitlines() if f"127.0.0.1:{port}" in line]
        check(done.returncode > 0 and len(lines) == 1 and "in use" in lines[0], done.stdout)
        print(lines[0])


def test_second_agent_on_the_same_socket():
    with Scene() as scene:
        agent = scene.agent()
        done = run([BUILD / "tlsagentd", "--foreground", "-c", agent.file], timeout=20, check_status=False)
        check(done.returncode > 0 and str(agent.control) in done.stdout and "already running" in done.stdout,
              done.stdout)
        agent.status()
        print(done.stdout.strip())


def test_no_agent_running():
    with Scene() as scene:
        gone = scene.directory / "nothing.sock"
        done = run([BUILD / "tlsagent", "status", "--socket", gone], check_status=False)
        check(done.returncode > 0 and str(gone) in done.stdout and len(done.stdout.splitlines()) == 1, done.stdout)
        print(done.stdout.strip())
        worker = Process(scene, "worker", [BUILD / "tests/peers/worker", "echo", gone, "www", WORKER_USER])
        port = int(worker.wait_for(r"^port (\d+)$").group(1))
        run([BUILD / "tests/peers/client", "refused", port, ca()])
        line = worker.wait_for("^failed.*$").group(0)
        check(line.startswith("failed 3 ") and str(gone) in line, line)
        print(line)


main()
