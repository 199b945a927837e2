#!/usr/bin/env python3
"""Who may use a context, and what the others are told."""
import grp
import os
import pathlib
import pwd
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import AGENT_USER, BUILD, ROOT, WORKER_USER, Scene, check, client, context, facts, identity, main, run, wait_until  # noqa: E402

STRANGER = "games"


def refused(worker, expected):
    """A connection to the worker ends, and the worker was told why."""
    client("refused", worker.port)
    line = worker.wait_for("^failed.*$").group(0)
    print(line)
    check(line.startswith("failed 4 "), "not the code TLSAGENT_E_NOT_PERMITTED:", line)
    check("not permitted" in line, line)
    for word in expected:
        check(word in line, f"{word!r} is not in: {line}")


def test_wrong_context_name():
    with Scene() as scene:
        agent = scene.agent()
        refused(scene.worker(agent, "echo", name="wwww"), ["wwww"])


def test_context_of_another_user():
    with Scene() as scene:
        agent = scene.agent(context("www"), context("other", "p256", users=["root" if ROOT else "daemon"]))
        refused(scene.worker(agent, "echo", name="other"), ["other"])


def test_user_in_no_context():
    with Scene() as scene:
        agent = scene.agent(context("www", users=[STRANGER if ROOT else "daemon"]))
        refused(scene.worker(agent, "echo"), ["www"])


def test_group_opens_a_context():
    group = grp.getgrgid(pwd.getpwnam(WORKER_USER).pw_gid).gr_name if ROOT else grp.getgrgid(os.getegid()).gr_name
    with Scene() as scene:
        agent = scene.agent(context("www", "p256", users=[STRANGER if ROOT else "daemon"]).replace(
            "workers {", f'workers {{ groups = {{"{group}"}} '))
        worker = scene.worker(agent, "echo")
        client("echo", worker.port, 13, 3)



def exposed(scene, body):
    """What `tlsagentd -t` warns of, by the path of the file."""
    file = scene.directory / "exposed.conf"
    file.write_text(f'socket = "{scene.directory}/tlsagent.sock"\ncontrol_socket = "{scene.directory}/control.sock"\n'
                    f'{"user = " + chr(34) + AGENT_USER + chr(34) if ROOT else ""}\n{body}')
    output = run([BUILD / "tlsagentd", "-t", "-c", file]).stdout
    return dict(re.findall(r"warning: \w+ (\S+) can be read by ([^:]*)", output))


def test_secrets_that_workers_can_read_are_told():
    certificate, key = identity("p256", "p256")
    with Scene() as scene:
        place = scene.directory
        place.chmod(0o755)
        hidden = place / "hidden"
        hidden.mkdir(0o700)
        user = pwd.getpwnam(WORKER_USER)
        files = {name: place / name for name in ("key", "combined", "secret", "password", "hidden/key")}
        for name, file in files.items():
            file.touch(0o600)
        for name in ("key", "hidden/key"):
            files[name].write_bytes(key.read_bytes())
        files["combined"].write_bytes(key.read_bytes() + certificate.read_bytes())
        files["secret"].write_bytes(os.urandom(64))
        files["password"].write_text("secret\n")
        (place / "link").symlink_to("key")
        body = context("www", "p256")
        body = re.sub(r'    identity.*?}\n', "", body, count=1, flags=re.S)
        body = body.replace("{\n", f"""{{
    identity "a.example" {{ certificate = "{certificate}" key = "{place}/link" }}
    identity "b.example" {{ certificate = "{files['combined']}" }}
    identity "c.example" {{ certificate = "{certificate}" key = "{files['hidden/key']}" }}
""", 1) + f"""fleet {{ secret_file = "{files['secret']}" store = "redis://127.0.0.1:1"
    store_password_file = "{files['password']}" }}\n"""

        def told(*names):
            return {str(place / "link" if name == "key" else files[name]) for name in names}

        check(exposed(scene, body) == {}, "nobody else can read them")
        for name in files:
            files[name].chmod(0o644)
        found = exposed(scene, body)
        print(found)
        check(set(found) == told("key", "combined", "secret", "password"), found)
        check(set(found.values()) == {"everybody on this machine"}, found)
        for name in files:
            files[name].chmod(0o640)
        check(exposed(scene, body) == {}, "a group in which no worker is")
        if not ROOT:
            return
        os.chown(files["key"], -1, user.pw_gid)
        os.chown(files["secret"], user.pw_uid, -1)
        os.chown(files["hidden/key"], user.pw_uid, -1)  # its directory is closed to it
        found = exposed(scene, body)
        print(found)
        check(set(found) == told("key", "secret") and all(str(user.pw_uid) in who for who in found.values()), found)


def foreign_group():
    """A group that exists and that a worker is not in."""
    mine = {os.getegid(), *os.getgroups(), pwd.getpwnam(WORKER_USER).pw_gid}
    return next(group.gr_name for group in grp.getgrall() if group.gr_gid not in mine and WORKER_USER not in group.gr_mem)


def test_wrong_group_is_refused():
    groups = f'workers {{ groups = {{"{foreign_group()}"}} '
    stranger = STRANGER if ROOT else "daemon"
    with Scene() as scene:
        agent = scene.agent(context("other", "p256", users=[stranger]).replace("workers {", groups),
                            context("www", "p256"))
        refused(scene.worker(agent, "echo", name="other"), ["other"])
        worker = scene.worker(agent, "echo")  # the same user's own context is open all the while
        client("echo", worker.port, 13, 3)
        counters = {known["name"]: known["started"] for known in agent.status()["contexts"]}
        check(counters == {"other": 0, "www": 1}, counters)


def test_a_group_alone_that_the_worker_is_not_in():
    with Scene() as scene:
        only = context("www", "p256", users=["root" if ROOT else "daemon"])
        only = only.replace(re.search(r"workers \{.*\}", only).group(0), f'workers {{ groups = {{"{foreign_group()}"}} }}')
        refused(scene.worker(scene.agent(only), "echo"), ["www"])


def test_dedicated_cells_are_apart():
    """A context with cells of its own: other processes, and no channel for who may use only the other."""
    with Scene() as scene:
        agent = scene.agent(context("www", "p256"), context("own", "rsa", cells='"dedicated"'),
                            context("closed", "p384", users=["root" if ROOT else "daemon"], cells='"dedicated"'), cells=2)
        status = agent.status()
        groups = {known["name"]: known["group"] for known in status["contexts"]}
        check(sorted(groups.values()) == [0, 1, 2] and groups["www"] == 0, groups)
        pids = {}
        for process in status["processes"]:
            if process["role"] in ("keeper", "handshaker"):
                pids.setdefault((process["role"], process["group"]), set()).add(process["pid"])
        check(sorted(pids) == [(role, group) for role in ("handshaker", "keeper") for group in range(3)], pids)
        check(all(len(some) == 2 for some in pids.values()) and len(set.union(*pids.values())) == 12, pids)
        check(status["keys"] == 3, status["keys"])

        # Who may use two of the contexts gets channels to exactly their cells.
        server = scene.server(agent, name="www", workers=1)
        wanted = {group: int(group != groups["closed"]) for group in range(3)}

        def channels():
            counts = {}
            for process in agent.status()["processes"]:
                if process["role"] == "handshaker":
                    counts.setdefault(process["group"], set()).add(process["workers"])
            return counts
        wait_until(lambda: channels() == {group: {count} for group, count in wanted.items()}, 5,
                   "the worker has channels to the cells of its contexts only")

        def signatures():
            return {group: sum(process["signatures"] for process in agent.status()["processes"]
                               if process["role"] == "keeper" and process["group"] == group) for group in range(3)}
        before = signatures()
        for _ in range(4):
            check(int(facts(server.port)["agent pid"].split()[0]) in pids["handshaker", 0], "a cell of another group")
        wait_until(lambda: signatures()[0] >= before[0] + 4, 5, "the signatures are counted")
        after = signatures()
        check((after[1], after[2]) == (before[1], before[2]), "keepers of other groups signed:", before, after)
        own = scene.server(agent, name="own", workers=1)
        check(int(facts(own.port)["agent pid"].split()[0]) in pids["handshaker", groups["own"]], "a cell of another group")
        refused(scene.worker(agent, "echo", name="closed"), ["closed"])
        check(channels()[groups["closed"]] == {0}, channels())


main()
