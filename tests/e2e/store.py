#!/usr/bin/env python3
"""Session ids in the fleet's store: hosts share them, and nothing that a store does fails a handshake."""
import contextlib
import itertools
import json
import os
import pathlib
import signal
import socket
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import BUILD, ROOT, SANITIZED, Scene, answers, ca, check, context, free_port, identity, main, run, wait_until  # noqa: E402
from redis import Playing, Redis  # noqa: E402
from sessions import at_least, connect, gnutls, make_sessions, not_resumed, resume, settings  # noqa: E402

CLIENTS = int(os.environ.get("CLIENTS", "200"))
SECRET = "the secret of a fleet, which must be long\n"


def fleet(scene, store, *more, secret=SECRET, wait=1000):
    (scene.directory / "secret").write_text(secret)
    text = f'fleet {{\n    secret_file = "{scene.directory}/secret"\n    store = "{store}"\n'
    text += "".join(f"    {line}\n" for line in more)
    text += f"    store_wait = {wait}\n"  # the default of 50 is for machines with time
    return text + "}\n"


def host(scene, store, *more, **options):
    """(agent, port) of a host of the fleet whose store is connected (unless connected=False)."""
    connected = options.pop("connected", True)
    cells = options.pop("cells", 2)
    agent = scene.agent(context("www"), fleet(scene, store, *more, **options), cells=cells)
    if connected:
        wait_until(lambda: fetcher(agent)["store"]["usable"], 10, "the store is connected")
    return agent, scene.server(agent).port


def fetcher(agent):
    return next(process for process in agent.status()["processes"] if process["role"] == "fetcher")


def uses(agent, what):
    """The sum of a counter over all handshakers."""
    return sum(process["store"][what] for process in agent.status()["processes"] if process["role"] == "handshaker")


def stored(agent, count):
    wait_until(lambda: fetcher(agent)["store"]["stored"] >= count, 10, f"{count} sessions are in the store")


@contextlib.contextmanager
def two_hosts(store, *more, **options):
    with Scene() as one, Scene() as other:
        yield *host(one, store, *more, **options), *host(other, store, *more, **options)


def test_hosts_share_session_ids():
    with Scene() as place, Scene() as stranger_place:
        redis = Redis(place)
        with two_hosts(f"redis://127.0.0.1:{redis.port}/3") as (one, port, other, other_port):
            ctx, sessions = make_sessions(port, "id", CLIENTS)
            stored(one, CLIENTS)
            at_least(0.99, resume(other_port, ctx, sessions), CLIENTS, "the other host, by session id")
            found = uses(other, "found")
            check(found >= 0.99 * CLIENTS and uses(one, "lookups") == 0, "not from the store:", found)
            # Now the other host has them itself.
            again = sessions[:50]
            at_least(0.99, resume(other_port, ctx, again), len(again), "the other host once more")
            check(uses(other, "found") == found, "the store was asked for what is in the cache")
            # In the database that was named, for as long as a session lives, under names that say nothing.
            keys = redis.ask("KEYS", "*")
            check(keys == [], "in database 0:", keys[:2])
            info = redis.ask("INFO", "keyspace").decode()
            print(info.strip())
            check(f"db3:keys={CLIENTS},expires={CLIENTS}," in info, "keys or expiry")
            check(not any(session.id.hex().encode() in redis.process.log.read_bytes() for session in sessions), "log")
            # A host of another fleet finds entries that do not open.
            stranger, stranger_port = host(stranger_place, f"redis://127.0.0.1:{redis.port}/3",
                                           secret="another secret of a fleet, long enough too\n")
            check(resume(stranger_port, ctx, sessions[:20]) == 0, "resumed in another fleet")
            check(not_resumed(stranger)["session_bad"] == 20, not_resumed(stranger))
            # TLS 1.3 and tickets have nothing to ask.
            before = uses(other, "lookups")
            for kind in ("13", "12"):
                at_least(0.99, resume(other_port, *make_sessions(port, kind, 10)), 10, f"the other host, {kind}")
            check(uses(other, "lookups") == before, "the store was asked for a client with a ticket")


class Crossing:
    """A port whose connections go to two hosts in turn; to the second when before() has returned."""

    def __init__(self, ports, before):
        self.ports, self.before = ports, before
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        for number in itertools.count():
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if number % 2 == 1:
                self.before()
            far = socket.create_connection(("127.0.0.1", self.ports[number % 2]), timeout=20)
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self.carry, args=ends, daemon=True).start()

    @staticmethod
    def carry(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self):
        self.listener.close()


def test_gnutls_clients():
    """Each makes its session on one host and comes back on the other."""
    count = 10
    with Scene() as place:
        redis = Redis(place)
        with two_hosts(f"redis://127.0.0.1:{redis.port}") as (one, port, other, other_port):
            crossing = Crossing((port, other_port), lambda: stored(one, len(resumed) + 1))
            resumed = []
            for _ in range(count):
                resumed.append(gnutls(crossing.port, "NORMAL:-VERS-ALL:+VERS-TLS1.2:%NO_TICKETS"))
            crossing.close()
            at_least(0.99, sum(resumed), count, "gnutls, by session id, the other host")
            check(uses(other, "found") == count and uses(one, "lookups") == 0, "not from the store")


def test_tls_password_and_user():
    certificate, key = identity("p256", "p256")
    with Scene() as place:
        tls_port = free_port()
        redis = Redis(place, "--user", "fleet", "on", ">correct+horse", "~tlsagent:*", "+get", "+set", "--tls-port", tls_port,
                      "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", ca(),
                      "--tls-auth-clients", "no", "--requirepass", "default+password", password="default+password")
        (place.directory / "default").write_text("default+password")
        (place.directory / "password").write_text("correct+horse\n")
        (place.directory / "password").chmod(0o600)
        (place.directory / "wrong").write_text("battery\n")
        run(["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-keyout", "/dev/null", "-subj", "/CN=other",
             "-out", place.directory / "other.pem"])
        url = f"rediss://fleet@127.0.0.1:{tls_port}"
        authority = f'store_ca_file = "{ca()}"'
        password = f'store_password_file = "{place.directory}/password"'
        for name in ("", 'store_name = "localhost"'):
            with two_hosts(url, authority, password, name) as (one, port, other, other_port):
                ctx, sessions = make_sessions(port, "id", 20)
                stored(one, 20)
                at_least(0.99, resume(other_port, ctx, sessions), 20, f"store with TLS and a user {name}")
        with Scene() as scene:  # the default user has a password too
            host(scene, f"redis://127.0.0.1:{redis.port}", f'store_password_file = "{place.directory}/default"')
        # What is not as it must be is told, and costs nothing but resumption.
        for store, lines, words in (
                (url, (authority, f'store_password_file = "{place.directory}/wrong"'), "it refuses: WRONGPASS"),
                (url, (authority, password, 'store_name = "other.example"'), "certificate is refused"),
                (url, (f'store_ca_file = "{place.directory}/other.pem"', password), "certificate is refused"),
                (f"redis://127.0.0.1:{tls_port}", (), "the store is away"),
                (f"redis://127.0.0.1:{redis.port}", (), "it refuses: NOAUTH"),
                (f"rediss://127.0.0.1:{redis.port}", (authority,), "the store is away")):
            with Scene() as scene:
                agent, port = host(scene, store, *lines, connected=False)
                said = agent.process.wait_for("fetcher: warning: the store is away: .*", 10).group(0)
                print(said)
                check(words in said, "not told:", words)
                ctx, sessions = make_sessions(port, "id", 3)
                check(resume(port, ctx, sessions) == 3, "the host's own cache")
                check("correct+horse" not in agent.process.text(), "the password is in the log")


def test_a_bad_file_is_told_before_the_start():
    with Scene() as scene:
        agent, port = host(scene, f"redis://127.0.0.1:{free_port()}", connected=False)
        text = agent.file.read_text()
        agent.file.write_text(text.replace("redis://", "rediss://").replace(
            "    store_wait", f'    store_ca_file = "{scene.directory}/secret"\n    store_wait'))
        tried = run([BUILD / "tlsagentd", "-t", "-c", agent.file], check_status=False)
        print(tried.stdout)
        check(tried.returncode == 1 and "store_ca_file has no certificate in PEM form" in tried.stdout, "not told")
        refused = run([BUILD / "tlsagent", "upgrade", "--socket", agent.control], check_status=False)
        check(refused.returncode == 1 and "nothing was changed" in refused.stdout, refused.stdout)
        check(resume(port, *make_sessions(port, "id", 2)) == 2, "it goes on as it was")


def test_a_password_that_becomes_a_pipe():
    """Whoever may replace the file must not stop the supervisor with it."""
    with Scene() as place, Scene() as scene:
        redis = Redis(place, "--requirepass", "some+password", password="some+password")
        password = place.directory / "password"
        password.write_text("some+password")
        agent, port = host(scene, f"redis://127.0.0.1:{redis.port}", f'store_password_file = "{password}"')
        os.mkfifo(place.directory / "pipe")  # nobody will ever write into it
        os.rename(place.directory / "pipe", password)
        os.kill(fetcher(agent)["pid"], signal.SIGKILL)
        agent.process.wait_for("store_password_file .* is not a regular file", 10)
        check(resume(port, *make_sessions(port, "id", 2)) == 2, "it does not go on")
        (place.directory / "again").write_text("some+password")
        os.rename(place.directory / "again", password)
        wait_until(lambda: fetcher(agent)["store"]["usable"], 20, "the store is connected again")


def test_unix_socket():
    with Scene() as place:
        path = place.directory / "redis.sock"
        Redis(place, "--unixsocket", path, "--unixsocketperm", "700")
        with two_hosts(f"unix:{path}?db=1") as (one, port, other, other_port):
            ctx, sessions = make_sessions(port, "id", 20)
            stored(one, 20)
            at_least(0.99, resume(other_port, ctx, sessions), 20, "store behind a Unix socket")
            if not SANITIZED:
                told = json.loads(run([BUILD / "tlsagent", "sandbox", "--json", "--socket", one.control]).stdout)
                role = next(process for process in told["processes"] if process["role"] == "fetcher")
                check(told["differences"] == 0 and role["seccomp"] == 2 and role["capabilities"] == "0", role)
                check(not ROOT or "namespaces" not in role["layers"] or role["own_namespaces"] == "yes", role)


def slowest(port, ctx, sessions):
    """Reconnect with each: (resumed, seconds of the slowest handshake, and of the median)."""
    times, resumed = [], 0
    for session in sessions:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
            start = time.monotonic()
            with ctx.wrap_socket(raw, server_hostname="localhost", session=session) as connection:
                times.append(time.monotonic() - start)
                resumed += connection.session_reused
    return resumed, max(times), sorted(times)[len(times) // 2]


def test_killed_and_back():
    """Full handshakes while it is away; then as before, with other processes on both sides."""
    with Scene() as place:
        redis = Redis(place)
        with two_hosts(f"redis://127.0.0.1:{redis.port}") as (one, port, other, other_port):
            ctx, sessions = make_sessions(port, "id", 60)
            stored(one, 60)
            at_least(0.99, resume(other_port, ctx, sessions[:20]), 20, "before")
            redis.kill()
            wait_until(lambda: not fetcher(other)["store"]["usable"], 5, "the fetcher has noticed")
            resumed, worst, median = slowest(other_port, ctx, sessions[20:])
            print(f"killed: {resumed} of 40 resumed, slowest {worst * 1000:.0f} ms, median {median * 1000:.1f} ms")
            check(resumed == 0, "resumed from a store that is dead")
            counted = not_resumed(other)
            check(counted["session_store"] == 40 and counted["session_unknown"] == 0, counted)
            make_sessions(port, "id", 10)
            check(fetcher(one)["restarts"] == 0, "the fetcher died")
            redis.start()
            for agent in (one, other):
                wait_until(lambda: fetcher(agent)["store"]["usable"], 10, "connected again")
            ctx, sessions = make_sessions(port, "id", 20)
            stored(one, 80)
            time.sleep(2.1)  # until it is asked again
            connect(other_port, ctx, sessions[0]), connect(other_port, ctx, sessions[1])
            at_least(0.99, resume(other_port, ctx, sessions[2:]), 18, "after its restart")
            # A fetcher that dies, and a cell that dies, are replaced, and find each other again.
            for role in ("fetcher", "handshaker"):
                before = set(other.pids(role))
                os.kill(min(before), signal.SIGKILL)
                wait_until(lambda: len(other.pids(role)) == len(before) and set(other.pids(role)) != before, 10, role)
                wait_until(lambda: fetcher(other)["store"]["usable"] and fetcher(other)["workers"] == 2, 10, "channels")
                ctx, sessions = make_sessions(port, "id", 20)
                time.sleep(0.7)
                at_least(0.99, resume(other_port, ctx, sessions), 20, f"after the death of a {role}")


def test_paused():
    """SIGSTOP: connections are accepted and nothing is answered. The wait is bounded, then there is none."""
    with Scene() as place:
        redis = Redis(place)
        with two_hosts(f"redis://127.0.0.1:{redis.port}", wait=100, cells=1) as (one, port, other, other_port):
            ctx, sessions = make_sessions(port, "id", 60)
            stored(one, 60)
            _, usual, usual_median = slowest(other_port, ctx, sessions[:20])
            redis.pause()
            try:
                resumed, worst, median = slowest(other_port, ctx, sessions[20:])
                print(f"slowest and median: {usual * 1000:.0f}, {usual_median * 1000:.1f} ms before; paused "
                      f"{worst * 1000:.0f}, {median * 1000:.1f} ms")
                check(resumed == 0, "resumed from a store that sleeps")
                late, skipped = uses(other, "late"), uses(other, "skipped")
                print(f"late {late}, skipped {skipped}, {not_resumed(other)}")
                check(1 <= late <= 12 and skipped >= 20, "the breaker")
                check(worst < usual + 1.0, "a handshake was made to wait too long")
                check(not_resumed(other)["session_store"] == 40, "counted")
            finally:
                redis.go_on()
            wait_until(lambda: fetcher(other)["store"]["usable"], 10, "connected again")
            wait_until(lambda: resume(other_port, ctx, sessions[20:21]) == 1, 10, "the breaker closes")
            # Everything that came while it was open has become a full handshake; now they resume.
            at_least(0.99, resume(other_port, ctx, sessions[21:]), 39, "after the pause")
            check(uses(other, "changes") == 1, "the breaker opened", uses(other, "changes"), "times")
            # The same with the fetcher, until the supervisor replaces it.
            ctx, sessions = make_sessions(port, "id", 40)
            stopped = fetcher(other)["pid"]
            os.kill(stopped, signal.SIGSTOP)
            resumed, worst, median = slowest(other_port, ctx, sessions[:20])
            print(f"fetcher paused: {resumed} of 20 resumed, slowest {worst * 1000:.0f} ms, median {median * 1000:.1f} ms")
            check(resumed == 0 and worst < usual + 1.0, "a handshake was made to wait too long")
            wait_until(lambda: fetcher(other)["pid"] not in (0, stopped) and fetcher(other)["store"]["usable"], 15,
                       "the fetcher is replaced")
            wait_until(lambda: resume(other_port, ctx, sessions[20:21]) == 1, 10, "the breaker closes")
            at_least(0.99, resume(other_port, ctx, sessions[21:]), 19, "with another fetcher")


def test_slow_store_costs_no_other():
    """Forty clients wait for a store that answers after 80 ms; others go on meanwhile."""
    def answer(words):
        if words[1] != b"tlsagent:1:probe":
            time.sleep(0.08)
        return b"$-1\r\n" if words[0] == b"GET" else b"+OK\r\n"
    playing = Playing(answer)
    with Scene() as scene, Scene() as alone:
        agent, port = host(scene, f"redis://127.0.0.1:{playing.port}", cells=1)
        ctx, sessions = make_sessions(host(alone, f"redis://127.0.0.1:{playing.port}", cells=1)[1], "id", 8)
        ends = []

        def wait_for_store(session):
            connect(port, ctx, session)
            ends.append(time.monotonic())
        start = time.monotonic()
        waiting = [threading.Thread(target=wait_for_store, args=(session,)) for session in sessions]
        for thread in waiting:
            thread.start()
        time.sleep(0.02)
        made = 0
        while len(ends) < 4:
            connect(port, settings("13"))
            made += 1
        for thread in waiting:
            thread.join()
        print(f"8 waited up to {max(ends) - start:.2f} s; {made} others were served until the fourth was")
        check(made >= 5, "others had to wait")
        check(uses(agent, "lookups") == 8, "lookups")
    playing.close()


def test_garbage():
    """Some of what tests/hostile/test_fetcher.c knows, with all the others around it."""
    long_value = b"$5000\r\n" + bytes(5000) + b"\r\n"
    broken = {
        "no protocol": lambda words: b"HTTP/1.1 400 Bad Request\r\n\r\n",
        "a huge array": lambda words: b"*1000000000\r\n",
        "a huge value": lambda words: b"$500000000\r\n" + bytes(200000),
        "two answers to one question": lambda words: b"$-1\r\n$-1\r\n",
        "nothing but an error": lambda words: b"-ERR no\r\n",
        "a value that is too long": lambda words: long_value,
        "random bytes": lambda words: b"$600\r\n" + os.urandom(600) + b"\r\n",
    }
    current = {"say": lambda words: b"$-1\r\n"}

    def answer(words):
        if words[1] == b"tlsagent:1:probe":
            return b"$-1\r\n"
        return current["say"](words) if words[0] == b"GET" else b"+OK\r\n"
    playing = Playing(answer)
    with Scene() as scene, Scene() as alone:
        agent, port = host(scene, f"redis://127.0.0.1:{playing.port}", cells=1, wait=200)
        _, other_port = host(alone, f"redis://127.0.0.1:{playing.port}", cells=1)
        ctx, sessions = make_sessions(other_port, "id", 3)

        def asked_and_answered():
            before = not_resumed(agent)["session_unknown"]
            connect(port, ctx, sessions[0])
            return not_resumed(agent)["session_unknown"] > before
        for name, say in broken.items():
            current["say"] = lambda words: b"$-1\r\n"
            wait_until(lambda: fetcher(agent)["store"]["usable"] and asked_and_answered(), 20, "the store is asked again")
            current["say"] = say
            before, asked = fetcher(agent), uses(agent, "lookups")
            resumed, worst, _ = slowest(port, ctx, sessions)
            check(resumed == 0, f"{name}: resumed")
            check(worst < 2, f"{name}: took {worst} s")
            after = fetcher(agent)
            check(after["pid"] == before["pid"], f"{name}: the fetcher died")
            check(uses(agent, "lookups") > asked, f"{name}: the store was not asked")
            print(f"{name}: slowest {worst * 1000:.0f} ms; {not_resumed(agent)}")
        counted = not_resumed(agent)
        check(counted["session_bad"] >= 2 and counted["session_store"] >= 8 and counted["session_unknown"] >= 1, counted)
        check(fetcher(agent)["restarts"] == 0 and agent.pids("handshaker"), "somebody died")
    playing.close()


def test_entries_of_others():
    """The store swaps its entries, or changes them: full handshakes, counted. For old ones see clock.py."""
    with Scene() as place:
        redis = Redis(place)
        with two_hosts(f"redis://127.0.0.1:{redis.port}", cells=1) as (one, port, other, other_port):
            ctx, sessions = make_sessions(port, "id", 6)
            stored(one, 6)
            keys = sorted(redis.keys())
            values = [redis.ask("GET", key) for key in keys]
            for key, value in zip(keys, values[1:] + values[:1]):
                check(redis.ask("SET", key, value) == b"OK", "SET")
            check(resume(other_port, ctx, sessions[:3]) == 0, "resumed with another's entry")
            check(not_resumed(other)["session_bad"] == 3, not_resumed(other))
            for key, value in zip(keys, values):
                redis.ask("SET", key, value[:-1] + bytes([value[-1] ^ 1]))
            check(resume(other_port, ctx, sessions[3:5]) == 0, "resumed with a changed entry")
            check(not_resumed(other)["session_bad"] == 5, not_resumed(other))
            for key, value in zip(keys, values):
                redis.ask("SET", key, value)
            check(resume(other_port, ctx, sessions[5:]) == 1, "they were good before")


def test_out_of_memory():
    with Scene() as place:
        redis = Redis(place)
        with two_hosts(f"redis://127.0.0.1:{redis.port}", cells=1) as (one, port, other, other_port):
            ctx, sessions = make_sessions(port, "id", 10)
            stored(one, 10)
            check(redis.ask("CONFIG", "SET", "maxmemory", "1") == b"OK", "CONFIG")
            other_ctx, more = make_sessions(port, "id", 10)
            one.process.wait_for("the store does not take a session: OOM", 5)
            wait_until(lambda: fetcher(one)["store"]["dropped"] == 10, 5, "refusals are counted")
            check(fetcher(one)["store"]["usable"], "a full store is no reason to leave it")
            at_least(0.99, resume(other_port, ctx, sessions), 10, "what is in it is still found")
            check(resume(other_port, other_ctx, more) == 0 and not_resumed(other)["session_unknown"] == 10, "not stored")


def scan(redis, needle):
    """Where the needle is in all that the store has: in its values, its keys, and its file on disk."""
    places = []
    for key in redis.keys():
        if needle in key or needle in redis.ask("GET", key) or needle in redis.ask("DUMP", key):
            places.append(key)
    redis.ask("SAVE")
    if needle in (redis.scene.directory / "dump.rdb").read_bytes():
        places.append("dump.rdb")
    return places


def memory_of_fetcher(place, pid, secrets):
    """Sessions have passed through it, sealed: none of their secrets is in its memory."""
    if not ROOT or SANITIZED:
        print("SKIP memory_of_fetcher: only root reads another process's memory, and no sanitizer may be in it")
        return
    file = place.directory / "needles"
    file.write_text("".join(f"secret{i} {secret.hex()}\n" for i, secret in enumerate(secrets)))
    words = [BUILD / "tests/peers/scan", "find", file, pid]
    said = run(words, check_status=False).stdout
    print(said)
    check(f"scanned {pid} " in said and "hit " not in said, "in the fetcher's memory")
    run([BUILD / "tests/peers/scan", "plant", secrets[3].hex(), pid])
    check(f"hit {pid} secret3" in run(words, check_status=False).stdout, "what was planted was not found")


def test_nothing_readable_is_in_the_store():
    with Scene() as place:
        redis = Redis(place, "--rdbcompression", "no")
        with Scene() as scene:
            agent, port = host(scene, f"redis://127.0.0.1:{redis.port}")
            ctx = settings("id")
            ctx.keylog_filename = str(place.directory / "keys")
            ids = [connect(port, ctx)[0].id for _ in range(20)]
            stored(agent, 20)
            secrets = [bytes.fromhex(line.split()[2]) for line in open(place.directory / "keys")
                       if line.startswith("CLIENT_RANDOM")]
            check(len(set(secrets)) == 20 and len(redis.keys()) == 20, len(secrets), len(redis.keys()))
            needles = secrets + [secret[:16] for secret in secrets] + ids + [each.hex().encode() for each in ids] + \
                [b"localhost", b"www", SECRET.strip().encode()]
            for needle in needles:
                check(scan(redis, needle) == [], "in the store:", needle)
            print(f"{len(needles)} needles, none in 20 entries")
            memory_of_fetcher(place, fetcher(agent)["pid"], secrets)
            # The scan finds what is there.
            redis.ask("SET", "planted", b"before" + secrets[7] + b"behind")
            check(scan(redis, secrets[7]) == [b"planted", "dump.rdb"], "the planted needle was not found")
            check(all(redis.ask("TTL", key) > 0 for key in redis.keys() if key != b"planted"), "without an end")


def test_restart_and_upgrade():
    """What the host has lost, the store has: an agent that starts with an empty cache resumes."""
    with Scene() as place:
        redis = Redis(place)
        with Scene() as scene:
            agent, port = host(scene, f"redis://127.0.0.1:{redis.port}")
            ctx, sessions = make_sessions(port, "id", 20)
            stored(agent, 20)
            agent.process.stop()
            agent.start()
            wait_until(lambda: fetcher(agent)["store"]["usable"], 10, "connected")
            wait_until(lambda: answers(port), 5, "the workers find the new agent")
            at_least(0.99, resume(port, ctx, sessions), 20, "after a restart without a cache")
            before = agent.roles()
            run([BUILD / "tlsagent", "upgrade", "--socket", agent.control])
            wait_until(lambda: len(agent.roles().keys() - before.keys()) == len(before), 10, "new")
            wait_until(lambda: fetcher(agent)["store"]["usable"], 10, "connected")
            wait_until(lambda: answers(port), 5, "the workers find the new agent")
            at_least(0.99, resume(port, ctx, sessions), 20, "after an upgrade")
            os.kill(agent.pid, signal.SIGHUP)
            at_least(0.99, resume(port, ctx, sessions), 20, "after SIGHUP")


main()
