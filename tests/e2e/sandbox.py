#!/usr/bin/env python3
"""The sandbox of the running agent, as the kernel tells; layers that are required; containers without rights."""
import json
import pathlib
import re
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import BUILD, ROOT, SANITIZED, Process, Scene, Skip, check, identity, main, run  # noqa: E402

PLAIN_USER = ["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups", "--inh-caps=-all", "--no-new-privs"]
# A user namespace in which one more may be made, and inside that one the command: it can make none.
CONTAINER = ["unshare", "--user", "--map-root-user", "sh", "-c",
             'echo 1 >/proc/sys/user/max_user_namespaces && exec unshare --user --map-user=65533 --map-group=65533 "$@"', "sh"]


def sandbox(agent, *words, status=0):
    done = run([BUILD / "tlsagent", "sandbox", "--socket", agent.control, *words], check_status=False)
    print(done.stdout)
    check(done.returncode == status, f"exit status {done.returncode}")
    return done.stdout


def needs_a_sandbox():
    if SANITIZED:
        raise Skip("built with a sanitizer: there is no sandbox")


def test_all_processes_are_as_the_policy_says():
    needs_a_sandbox()
    with Scene() as scene:
        agent = scene.agent(cells=2)
        sandbox(agent)
        told = json.loads(sandbox(agent, "--json"))
        check(told["differences"] == 0 and told["started_as_root"] == ROOT, told)
        check(sorted(each["role"] for each in told["processes"]) ==
              ["handshaker", "handshaker", "keeper", "keeper", "supervisor"], told)
        for each in told["processes"]:
            if each["role"] == "supervisor":
                continue
            check(each["capabilities"] == "0" and each["no_new_privs"] == 1 and each["seccomp"] == 2, each)
            check(each["core"] == 0 and each["processes"] == 0 and each["dumpable"] == "no", each)
            check(not ROOT or (each["uid"] != 0 and each["groups"] == "" and each["bounding"] == "0"), each)
            if ROOT and "namespaces" in each["layers"]:
                check(each["own_namespaces"] == "yes" and each["empty_root"] == "yes", each)


def test_status_tells_the_layers_in_force():
    needs_a_sandbox()
    with Scene() as scene:
        agent = scene.agent(cells=1)
        told = {each["pid"]: each for each in json.loads(sandbox(agent, "--json"))["processes"]}
        status = agent.status()["processes"]
        check(len(status) == len(told) == 3, status)
        for each in status:
            check(each["layers"] == told[each["pid"]]["layers"], each)
            check(each["layers_missing"] == told[each["pid"]]["missing"], each)
            check(each["layers"] or each["role"] == "supervisor", each)
        lines = run([BUILD / "tlsagent", "status", "--socket", agent.control]).stdout.splitlines()
        for each in status:
            wanted = " ".join(each["layers"]) or "-"
            if each["layers_missing"]:
                wanted += "; not to be had here: " + " ".join(each["layers_missing"])
            check(any(line.startswith(each["role"] + " ") and line.endswith("  " + wanted) for line in lines), wanted, lines)


def test_what_differs_is_found():
    """A process of another kind under a role's name: the comparison is not a mere formality."""
    needs_a_sandbox()
    if not ROOT:
        raise Skip("only root can put another process in a role's place")
    with Scene() as scene:
        agent = scene.agent(cells=1, program=BUILD / "tests/sandbox/tlsagentd-open")
        text = sandbox(agent, status=1)
        for difference in ("it is still root", "it has capabilities", "it may gain privileges by exec",
                           "it has no filter of system calls", "it may start"):
            check(difference in text, difference)


def test_self_test_finds_a_missing_system_call():
    """As after an update of libcrypto: the start fails in one line, and no user meets it."""
    needs_a_sandbox()
    with Scene() as scene:
        agent = scene.agent()
        agent.process.stop()
        done = run([BUILD / "tests/sandbox/tlsagentd-short", "--foreground", "-c", agent.file], check_status=False)
        print(done.stdout)
        check(done.returncode == 1 and re.search(r"^tlsagentd: handshaker \d\.\d \(pid \d+\) was killed by signal 31",
                                                 done.stdout, re.M), done.stdout)


def test_required_layers():
    needs_a_sandbox()
    with Scene() as scene:
        agent = scene.agent()
        told = json.loads(sandbox(agent, "--json"))
        keeper = next(each for each in told["processes"] if each["role"] == "keeper")
        check(keeper["layers"], "this kernel offers no layer at all")
        agent.process.stop()
        text = agent.file.read_text()
        words = ", ".join(f'"{layer}"' for layer in keeper["layers"])
        agent.file.write_text(text + f"\nsandbox {{ require = {{{words}}} }}\n")
        agent.start()
        sandbox(agent)
        agent.process.stop()
        for layer in keeper["missing"]:
            agent.file.write_text(text + f'\nsandbox {{ require = {{"{layer}"}} }}\n')
            for words in (["--foreground"], ["-t"]):
                done = run([BUILD / "tlsagentd", *words, "-c", agent.file], check_status=False)
                lines = [line for line in done.stdout.splitlines() if line.startswith("tlsagentd: ")]
                print(done.stdout)
                check(done.returncode == 1 and len(lines) == 1, done.stdout)
                check(f'sandbox: "{layer}" is required by the configuration and not to be had' in lines[0], lines)


def start_as_plain_user(scene, *container):
    """Returns its Process and its directory. container: a command that runs the agent inside one."""
    directory = pathlib.Path(scene.directory) / "container"
    directory.mkdir()
    for path in (BUILD / "tlsagentd", BUILD / "tlsagent", *identity("p256", "p256")):
        shutil.copy(path, directory)
    configuration = directory / "conf"
    configuration.write_text(f'socket = "{directory}/s"\ncells = 1\ncontext "www" {{ identity "a" {{\n'
                             'certificate = "p256.pem" key = "p256.key" } }\n')
    subprocess.run(["chown", "-R", "65533:65533", directory], check=True)
    command = [*PLAIN_USER, *container, directory / "tlsagentd", "--foreground", "-c", configuration]
    agent = Process(scene, "tlsagentd-container", command)
    agent.wait_for(r"supervisor: info: tlsagentd \S+ is up:", 30)
    return agent, directory


def test_container_without_namespaces():
    """No user namespaces, no root, no capability: the agent starts, with less, and says so."""
    needs_a_sandbox()
    if not ROOT:
        raise Skip("only root can make such a container")
    with Scene() as scene:
        agent, directory = start_as_plain_user(scene, *CONTAINER)
        check(re.search(r"the sandbox is weaker than it could be; not to be had here: namespaces \(user namespace: ", agent.text()),
              agent.text())
        check("started as a plain user" in agent.text(), agent.text())
        done = run([*PLAIN_USER, directory / "tlsagent", "sandbox", "--json", "--socket", directory / "control.sock"])
        told = json.loads(done.stdout)
        for each in told["processes"]:
            if each["role"] != "supervisor":
                check("namespaces" in each["missing"] and each["seccomp"] == 2 and each["dumpable"] == "no", each)


def test_plain_user():
    """A plain user who may make user namespaces loses nothing but the other uid."""
    needs_a_sandbox()
    if not ROOT:
        raise Skip("every other test runs as a plain user already")
    with Scene() as scene:
        agent, directory = start_as_plain_user(scene)
        done = run([*PLAIN_USER, directory / "tlsagent", "sandbox", "--json", "--socket", directory / "control.sock"])
        told = json.loads(done.stdout)
        check(not told["started_as_root"] and told["differences"] == 0, told)
        for each in told["processes"]:
            if each["role"] != "supervisor":
                check("namespaces" in each["layers"] and each["uid"] != 0, each)


main()
