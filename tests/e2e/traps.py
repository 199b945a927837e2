#!/usr/bin/env python3
"""The traps of handing a TLS connection over between two processes, each with a test of its own."""
import os
import pathlib
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import FORM, Process, Scene, BUILD, ca, check, client, context, facts, identity, main, root_only, wait_until  # noqa: E402


def test_form_is_the_one_whose_traps_these_are():
    with Scene() as scene:
        form = facts(scene.server(scene.agent()).port)["hand-back form"]
        check(form == FORM if FORM else form in ("records", "kernel"), form)


# How many seconds others may have to wait beside a slow handshake; milliseconds that it takes for each of some 400 bytes.
WAIT, SLOW, DEADLINE = (2, 8, 10) if FORM == "kernel" else (1, 2, 3)


def tickets(count):
    with Scene() as scene:
        agent = scene.agent(context("www", tickets=count))
        server = scene.server(agent)
        client("tickets", server.port, 13, count)
        client("tickets", server.port, 12, min(count, 1))


def test_no_tickets():
    tickets(0)


def test_one_ticket_full_and_resumed():
    tickets(1)


def test_two_tickets_full_and_resumed():
    tickets(2)


def test_five_tickets_full_and_resumed():
    tickets(5)


# Names that make a session, and so its ticket, large: label of the identity -> host name. And a protocol that does.
LARGE = {"longname": ".".join(["a" * 48] * 5 + ["org"]), "longername": ".".join(["a" * 60] * 4 + ["org"])}
PROTOCOL = "p" * 200


def large_context():
    identity("longername", "p256", "localhost", LARGE["longername"])
    return context("www", "longername", tickets=8, alpn=f'{{"{PROTOCOL}"}}')


def test_ticket_blocked_by_full_send_buffer():
    """The agent cannot write its tickets until the peer reads: the hand-back must wait for that."""
    with Scene() as scene:
        name = LARGE["longname"]
        identity("longname", "p256", "localhost", name)
        agent = scene.agent(context("www", "longname", tickets=8))
        worker = scene.worker(agent, "sndbuf")
        client("tiny", worker.port, 700, name)
        took = float(worker.wait_for(r"^done .* full in ([0-9.]+)$").group(1))
        check(took > 0.6, f"the tickets were not blocked: the handshake took only {took} s")


def test_large_tickets_blocked_in_small_records():
    """They do not fit into the agent's own buffer either; and a message that goes in several records is never cut."""
    with Scene() as scene:
        name = LARGE["longername"]
        agent = scene.agent(large_context())
        worker = scene.worker(agent, "sndbuf")
        client("tiny", worker.port, 700, name, PROTOCOL)
        took = float(worker.wait_for(r"^done .* full in ([0-9.]+)$").group(1))
        check(took > 0.6, f"the tickets were not blocked: the handshake took only {took} s")


def glue(form, *identities):
    with Scene() as scene:
        server = scene.server(scene.agent(context("www", *identities)))
        print(form, client("glue", server.port, form).strip())


def test_request_glued_to_finished_tls13():
    glue("13")


def test_request_glued_to_finished_tls13_resumed():
    glue("13resumed")


def test_request_glued_to_finished_tls12_false_start():
    glue("12")


def test_request_glued_to_finished_tls12_abbreviated():
    glue("12resumed")


def test_tls12_gcm_nonces_unique_on_the_wire():
    with Scene() as scene:
        server = scene.server(scene.agent())
        for cipher in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384",
                       "ECDHE-RSA-AES128-GCM-SHA256"):
            print(cipher, client("nonces", server.port, cipher).split())


def test_change_cipher_spec_is_no_record():
    with Scene() as scene:
        server = scene.server(scene.agent())
        client("compatibility", server.port, "on")
        client("compatibility", server.port, "off")


def test_hello_retry_request():
    with Scene() as scene:
        server = scene.server(scene.agent(context("www", groups='"P-256"')))
        client("retry", server.port, "X25519:P-256")


def test_session_resumes_after_export_in_any_cell():
    with Scene() as scene:
        agent = scene.agent(cells=3)
        server = scene.server(agent, workers=3)
        for version in (12, 13):
            for _ in range(5):
                client("tickets", server.port, version, 2 if version == 13 else 1)
        seen = {facts(server.port)["agent pid"] for _ in range(60)}
        check(len(seen) > 1, "only one cell was used")


def test_keyupdate_glued_to_finished():
    with Scene() as scene:
        client("keyupdate_first", scene.server(scene.agent()).port)


def test_keyupdate_storm_in_both_directions():
    with Scene() as scene:
        client("keyupdate_storm", scene.server(scene.agent()).port)


def test_keyupdate_sharing_a_record_is_refused():
    with Scene() as scene:
        client("keyupdate_shared", scene.server(scene.agent()).port)


def test_keyupdate_fragmented_never_bad_mac():
    with Scene() as scene:
        print(client("keyupdate_fragmented", scene.server(scene.agent()).port))


def test_handshake_message_after_handshake_is_refused():
    with Scene() as scene:
        server = scene.server(scene.agent())
        for kind in (1, 2, 4, 11, 20, 254):
            client("after_handshake", server.port, kind)


def test_renegotiation_is_refused_with_a_warning():
    with Scene() as scene:
        client("renegotiate", scene.server(scene.agent()).port)


def test_truncation_is_told_from_a_clean_close():
    with Scene() as scene:
        worker = scene.worker(scene.agent(), "echo")
        for version in (12, 13):
            for how, expected in (("none", "error 8 "), ("record", "error 8 "), ("clean", "eof")):
                before = len(worker.lines())
                client("fin", worker.port, version, how)
                wait_until(lambda: len(worker.lines()) == before + 2, 5, "the worker notices the end")
                check(worker.lines()[-1].startswith(expected), version, how, worker.lines()[-1])


def test_maximum_fragment_length():
    with Scene() as scene:
        server = scene.server(scene.agent())
        client("fragment", server.port, 12)
        client("fragment", server.port, 13)


def longest_wait(slow, server):
    """Of others, while a slow handshake goes on."""
    longest = 0
    while slow.alive():
        start = time.monotonic()
        facts(server.port)
        longest = max(longest, time.monotonic() - start)
    return longest


def nobody_waited(waits):
    """The agent blocks for nobody. (An emulated machine on a busy host may stand still for as long, but not each time.)"""
    check((min if FORM == "kernel" else max)(waits) < WAIT, "others had to wait:", waits)


def test_nonblocking_flag_flipped_during_handshake():
    with Scene() as scene:
        agent = scene.agent(cells=1)
        server = scene.server(agent)
        worker = scene.worker(agent, "flip")
        waits = []
        for version in (12, 13):
            slow = Process(scene, "slow", [BUILD / "tests/peers/client", "slow", worker.port, ca(), version, SLOW + 1])
            waits.append(longest_wait(slow, server))
            check(slow.process.wait() == 0, slow.text())
        nobody_waited(waits)
        wait_until(lambda: worker.text().count("eof") == 2, 5, "two connections end cleanly")


def test_worker_that_reads_during_the_handshake():
    """It breaks its own connection and nothing else; no fd stays behind in the agent."""
    with Scene() as scene:
        agent = scene.agent(context("www", deadline=DEADLINE), cells=1)
        server = scene.server(agent)
        worker = scene.worker(agent, "steal")
        waits = []
        facts(server.port)
        agent.wait_for_channels(3)
        before = agent.fds() if root_only("fds_of_the_agent_after_stolen_bytes") else None
        for _ in range(4):
            slow = Process(scene, "slow", [BUILD / "tests/peers/client", "slow", worker.port, ca(), 13, SLOW])
            waits.append(longest_wait(slow, server))
        nobody_waited(waits)
        wait_until(lambda: worker.text().count("failed") + worker.text().count("eof") == 4, 10, "four ends")
        if before:
            wait_until(lambda: agent.fds() == before, 5, f"the agent's fds are as before: {before}")


def test_fork_in_records_form():
    with Scene() as scene:
        worker = scene.worker(scene.agent(), "fork")
        for version in (12, 13):
            client("echo", worker.port, version, 20)
        wait_until(lambda: worker.text().count("eof") == 2, 5, "two clean ends")
        children = [line for line in worker.lines() if line.startswith("child")]
        check(len(children) >= 40 and set(children) == {"child 0x0"}, set(children))


def silence(version, what_happens):
    with Scene() as scene:
        agent = scene.agent()
        worker = scene.worker(agent, "silent", stdin=subprocess.PIPE)
        peer = Process(scene, "peer", [BUILD / "tests/peers/client", "silent", worker.port, ca(), version],
                       stdin=subprocess.PIPE)
        peer.wait_for("^quiet$")
        what_happens(agent)
        peer.say("go on\n")
        peer.wait_for("^still quiet$")
        worker.say("speak\n")
        peer.say("go on\n")
        check(peer.process.wait(10) == 0, peer.text())
        if agent.process.alive():
            for pid in (agent.pid, *agent.roles()):
                os.kill(pid, signal.SIGCONT)


def stop_all(agent):
    for pid in (agent.pid, *agent.roles()):
        os.kill(pid, signal.SIGSTOP)


def test_no_agent_write_after_export():
    silence(13, lambda agent: time.sleep(0.5))
    silence(12, lambda agent: time.sleep(0.5))


def test_no_agent_write_after_export_when_stopped():
    silence(13, stop_all)
    silence(12, stop_all)


def test_no_agent_write_after_export_when_killed():
    silence(13, lambda agent: agent.kill())
    silence(12, lambda agent: agent.kill())


if __name__ == "__main__":
    main()
