"""serve_lib.py: what the tests of `tlsagent serve` share."""
import os
import socket

from e2e import *  # noqa: F403


def start_serve(scene, agent, *arguments, options=(), name="www", port=None, user=WORKER_USER):
    """tlsagent serve; returns its Process with .port."""
    port = port or free_port()
    serve = Process(scene, "serve", [BUILD / "tlsagent", "serve", "--context", name, "--socket", agent.socket, "--listen",
                                     f"127.0.0.1:{port}", "--user", user, *options, *arguments])
    serve.port = port

    def listens():
        check(serve.alive(), "serve ended:", serve.text())
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0
    wait_until(listens, 20, "serve listens")
    return serve


def relays():
    """Pids of the relays that run now; as root only those of this build."""
    result = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/comm") as file:
                    if file.read().strip() != "tlsagent-relay":
                        continue
                if not ROOT or os.readlink(f"/proc/{name}/exe") == str(BUILD / "tlsagent-relay"):  # noqa: F405
                    result.append(int(name))
            except OSError:
                pass
    return result
