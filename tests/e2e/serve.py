#!/usr/bin/env python3
"""tlsagent serve: programs that know nothing of TLS, plaintext servers, UCSPI-TLS; and the relay behind it."""
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import *  # noqa: E402,F403
from serve_lib import *  # noqa: E402,F403


def talk(port, data, half_close=True, **options):
    """Send data, then close_notify if half_close; returns all that comes."""
    with tls_connect(port, **options) as connection:
        connection.sendall(data)
        answer = b""
        while True:
            more = connection.recv(65536)
            if not more:
                return answer
            answer += more
            if not half_close and answer.endswith(b"\n"):
                return answer


SHELL_HTTP = r"""read -r request; while read -r line; do [ "$line" = "$(printf '\r')" ] && break; done
body="$SSL_PROTOCOL $TCPREMOTEIP ${request%% HTTP*}"
printf 'HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s' ${#body} "$body" """


def test_shell_script_answers_curl():
    with Scene() as scene:
        serve = start_serve(scene, scene.agent(), "--", "/bin/sh", "-c", SHELL_HTTP)
        for version in ("--tlsv1.2", "--tlsv1.3"):
            page = run(["curl", "-sS", "--cacert", ca(), version, f"https://localhost:{serve.port}/x"]).stdout
            check("127.0.0.1 GET /x" in page, page)


def test_python_and_c_programs_have_the_connection_as_stdin_and_stdout():
    program = "import sys\nfor line in sys.stdin: print(line.strip()[::-1], flush=True)\n"
    source = """#include <stdio.h>
int main(void) { int c; unsigned long n = 0; while ((c = getchar()) != EOF) n += c; printf("%lu\\n", n); return 0; }"""
    with Scene() as scene:
        agent = scene.agent()
        serve = start_serve(scene, agent, "--", "python3", "-c", program)
        with tls_connect(serve.port) as connection:
            for word in (b"one", b"two", b"three"):
                connection.sendall(word + b"\n")
                got = b""
                while not got.endswith(b"\n"):
                    got += connection.recv(100)
                check(got == word[::-1] + b"\n", got)
        binary = scene.directory / "sum"
        run(["cc", "-x", "c", "-o", binary, "-"], input=source)
        serve = start_serve(scene, agent, "--", binary)
        data = pattern(3000000)
        # The sum comes when the program has seen the end: s_client sends close_notify with EOF on stdin.
        done = openssl_talk(serve.port, data)
        check(done == b"%d\n" % sum(data), done[:200], sum(data))


def openssl_talk(port, data):
    """All that a server answers to data and close_notify (tests/peers/client cannot half-close; OpenSSL's API can)."""
    context = ssl.create_default_context(cafile=ca())
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
        def pump(call):
            while True:
                try:
                    return call()
                except ssl.SSLWantReadError:
                    raw.sendall(outgoing.read())
                    more = raw.recv(65536)
                    incoming.write(more) if more else incoming.write_eof()
                finally:
                    raw.sendall(outgoing.read())
        pump(tls.do_handshake)
        for at in range(0, len(data), 16384):
            pump(lambda: tls.write(data[at:at + 16384]))
        try:
            tls.unwrap()
        except ssl.SSLWantReadError:
            raw.sendall(outgoing.read())  # our close_notify; now read on
        answer = b""
        while True:
            try:
                more = tls.read(65536)
            except ssl.SSLWantReadError:
                data = raw.recv(65536)
                if not data:
                    raise AssertionError("no close_notify from the server")
                incoming.write(data)
                continue
            except (ssl.SSLZeroReturnError, ssl.SSLError):
                return answer
            if not more:
                return answer
            answer += more



def read_line(connection):
    line = b""
    while not line.endswith(b"\n"):
        more = connection.recv(4096)
        check(more, "ended early:", line)
        line += more
    return line


def test_library_callers_exec_a_program_on_a_plain_descriptor():
    with Scene() as scene:
        agent = scene.agent()
        for when in ("early", "late"):
            worker = Process(scene, f"execer-{when}", [BUILD / "tests/peers/execer", agent.socket, "www", WORKER_USER,
                                                       when, "/bin/sh", "-c", "while read -r l; do echo \"<$l>\"; done"])
            port = int(worker.wait_for(r"^port (\d+)$").group(1))
            with tls_connect(port) as connection:
                # In late mode this arrives in one record: the rest of it was decrypted before the hand-over.
                connection.sendall(b"first\nsecond\nthird\n")
                lines = b"".join(read_line(connection) for _ in range(1))
                while lines.count(b"\n") < 3:
                    lines += connection.recv(4096)
            check(lines == (b"first\n" if when == "late" else b"<first>\n") + b"<second>\n<third>\n", lines)
            worker.wait_for("^form stream$")


def test_facts_are_in_the_environment_and_nothing_else_is_taken_for_them():
    with Scene() as scene:
        agent = scene.agent(context("www", alpn='{"http/1.1"}'))
        os.environ["SSL_CLIENT_S_DN"] = "CN=forged by the environment"
        try:
            serve = start_serve(scene, agent, "--", "/usr/bin/env", "-0")
        finally:
            del os.environ["SSL_CLIENT_S_DN"]
        text = talk(serve.port, b"", setting=lambda c: c.set_alpn_protocols(["http/1.1"])).decode()
        facts = dict(item.split("=", 1) for item in text.split("\0") if item)
        check(facts["HTTPS"] == "on" and facts["SSL_PROTOCOL"] == "TLSv1.3" and facts["SSL_TLS_SNI"] == "localhost", text)
        check(facts["TCPREMOTEIP"] == facts["REMOTE_ADDR"] == "127.0.0.1" and facts["PROTO"] == "SSL", text)
        check(facts["TCPLOCALPORT"] == str(serve.port) and int(facts["TCPREMOTEPORT"]) > 0, text)
        check(facts["SSL_SESSION_RESUMED"] == "Initial" and facts["SSL_CLIENT_VERIFY"] == "NONE", text)
        check(facts["TLSAGENT_ALPN"] == "http/1.1" and "SSL_CIPHER" in facts, text)
        check("SSL_CLIENT_S_DN" not in facts, text)


def test_client_certificate_is_told():
    certificate, key = identity("client", "p256", "alice.example")
    with Scene() as scene:
        agent = scene.agent(context("www", verify='"required"', client_ca_file=f'"{ca()}"'))
        serve = start_serve(scene, agent, "--", "/usr/bin/env", "-0")
        text = talk(serve.port, b"", setting=lambda c: c.load_cert_chain(certificate, key)).decode()
        facts = dict(item.split("=", 1) for item in text.split("\0") if item)
        check(facts["SSL_CLIENT_VERIFY"] == "SUCCESS" and facts["SSL_CLIENT_S_DN"].startswith("CN="), text)
        check(facts["SSL_CLIENT_I_DN"] and facts["SSL_CLIENT_M_SERIAL"] and facts["SSL_CLIENT_V_END"], text)
        check(ssl.PEM_cert_to_DER_cert(facts["SSL_CLIENT_CERT"]) ==
              ssl.PEM_cert_to_DER_cert(pathlib.Path(certificate).read_text().split("-----END CERTIFICATE-----")[0] +
                                       "-----END CERTIFICATE-----\n"), text)


def test_ucspi_programs_find_fds_6_and_7():
    with Scene() as scene:
        serve = start_serve(scene, scene.agent(), "--", "/bin/sh", "-c", "read -r line <&6; echo \"got $line\" >&7",
                            options=("--ucspi",))
        check(talk(serve.port, b"hello\n") == b"got hello\n")


def test_1000_concurrent_curl_clients_of_a_shell_script():
    with Scene() as scene:
        serve = start_serve(scene, scene.agent(context("www", deadline=120), cells=2), "--", "/bin/sh", "-c", SHELL_HTTP,
                            options=("--max", "2000"))
        started = time.monotonic()
        clients = [subprocess.Popen(["curl", "-sS", "--cacert", ca(), "--max-time", "120", f"https://localhost:{serve.port}/{n}"],
                                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for n in range(1000)]
        wrong = []
        for n, process in enumerate(clients):
            page = process.communicate(timeout=150)[0].decode()
            if process.returncode != 0 or not page.endswith(f"GET /{n}"):
                wrong.append((n, process.returncode, page[:100]))
        check(not wrong, len(wrong), wrong[:5])
        print(f"    1000 curl clients in {time.monotonic() - started:.1f} s")
        wait_until(lambda: not children(serve.pid), 10, "no child is left, dead or alive")


def test_more_connections_than_max_wait_their_turn():
    with Scene() as scene:
        serve = start_serve(scene, scene.agent(context("www", deadline=60)), "--", "/bin/sh", "-c", "read -r l; echo $l",
                            options=("--max", "2"))
        first, second = tls_connect(serve.port), tls_connect(serve.port)
        third = socket.create_connection(("127.0.0.1", serve.port), timeout=10)  # the kernel's queue takes it
        time.sleep(0.3)
        check(len(children(serve.pid)) == 2, children(serve.pid))
        first.sendall(b"bye\n")
        check(read_line(first) == b"bye\n")
        settings = ssl.create_default_context(cafile=ca())
        with settings.wrap_socket(third, server_hostname="localhost") as late:
            late.sendall(b"late\n")
            check(read_line(late) == b"late\n")
        first.close()
        second.close()


NGINX = """daemon off; worker_processes 1; master_process off; pid {dir}/nginx.pid; error_log {dir}/nginx.err;
events {{ worker_connections 256; }}
http {{ access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
  uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  server {{ listen 127.0.0.1:{port} {proxy}; listen unix:{dir}/nginx.sock {proxy};
    location / {{ root {dir}/site; }}
    location /who {{ return 200 "$proxy_protocol_addr $proxy_protocol_port\\n"; }} }} }}
"""


def test_nginx_in_the_clear_behind_it_serves_a_site_and_knows_the_client():
    if not shutil.which("nginx"):
        raise Skip("nginx is not installed")
    with Scene() as scene:
        agent = scene.agent()
        (scene.directory / "site").mkdir()
        (scene.directory / "site/big").write_bytes(pattern(20_000_000))
        port = free_port()
        (scene.directory / "nginx.conf").write_text(NGINX.format(dir=scene.directory, port=port, proxy="proxy_protocol"))
        Process(scene, "nginx", ["nginx", "-c", scene.directory / "nginx.conf", "-e", scene.directory / "nginx.err"])
        wait_until(lambda: (scene.directory / "nginx.sock").exists(), 10, "nginx listens")
        (scene.directory / "nginx.sock").chmod(0o777)
        for to in (f"127.0.0.1:{port}", scene.directory / "nginx.sock"):
            serve = start_serve(scene, agent, "--to", to, options=("--proxy-protocol",))
            curl = ["curl", "-sS", "--cacert", ca(), "--local-port", "20000-40000", "-w", "%{local_port}\n"]
            lines = run([*curl, f"https://localhost:{serve.port}/who"]).stdout.split("\n")
            check(lines[0].split() == ["127.0.0.1", lines[1]], lines)
            got = scene.directory / "got"
            run([*curl, "-o", got, f"https://localhost:{serve.port}/big", "-o", "/dev/null", f"https://localhost:{serve.port}/who"])
            check(got.read_bytes() == pattern(20_000_000), "20 MB from nginx")


def test_a_server_with_a_short_queue_gets_all_connections():
    with Scene() as scene, socket.socket(socket.AF_UNIX) as listener:
        path = scene.directory / "backend.sock"
        listener.bind(str(path))
        path.chmod(0o777)
        listener.listen(1)
        listener.settimeout(20)
        serve = start_serve(scene, scene.agent(), "--to", path)
        lines = [tls_connect(serve.port) for _ in range(20)]  # two fit in its queue
        time.sleep(0.3)
        for _ in lines:
            server = listener.accept()[0]
            server.sendall(b"welcome\n")
            server.close()
        for line in lines:
            check(read_line(line) == b"welcome\n")
            line.close()
        check("backend.sock" not in serve.text(), serve.text())


def test_python_http_server_behind_it():
    with Scene() as scene:
        port = free_port()
        Process(scene, "http", ["python3", "-m", "http.server", "--bind", "127.0.0.1", "-d", IDENTITIES, port])
        wait_until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, 10, "http.server listens")
        serve = start_serve(scene, scene.agent(), "--to", f"127.0.0.1:{port}")
        page = run(["curl", "-sS", "--cacert", ca(), f"https://localhost:{serve.port}/ca.pem"]).stdout
        check(page == pathlib.Path(ca()).read_text(), page[:300])


CGI = """#!/bin/sh
body=$(head -c "${CONTENT_LENGTH:-0}")
printf 'Content-Type: text/plain\\r\\n\\r\\n%s %s %s %s %s' "$HTTPS" "$SSL_PROTOCOL" "$REQUEST_METHOD" "$QUERY_STRING" "$body"
"""


def test_cgi_programs_of_a_web_server_that_runs_for_each_connection():
    if not shutil.which("busybox"):
        raise Skip("busybox is not installed")
    with Scene() as scene:
        site = scene.directory / "site"
        (site / "cgi-bin").mkdir(parents=True)
        (site / "page.html").write_bytes(pattern(300_000))
        (site / "cgi-bin/form").write_text(CGI)
        (site / "cgi-bin/form").chmod(0o755)
        serve = start_serve(scene, scene.agent(), "--", "busybox", "httpd", "-i", "-h", site, options=("--fork",))
        curl = ["curl", "-sS", "--cacert", ca()]
        got = scene.directory / "got"
        run([*curl, "-o", got, f"https://localhost:{serve.port}/page.html"])
        check(got.read_bytes() == pattern(300_000), "300,000 bytes of a page")
        answer = run([*curl, f"https://localhost:{serve.port}/cgi-bin/form?a=b"]).stdout
        check(answer == "on TLSv1.3 GET a=b ", answer)
        answer = run([*curl, "--tlsv1.2", "--tls-max", "1.2", "-d", "said=this",
                      f"https://localhost:{serve.port}/cgi-bin/form"]).stdout
        check(answer == "on TLSv1.2 POST  said=this", answer)


STARTTLS = r"""
import os, socket
def line():
    data = b""
    while not data.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte: raise SystemExit
        data += byte
    return data.strip()
os.write(1, b"220 ready\n")
while True:
    word = line()
    if word == b"STARTTLS":
        os.write(1, b"220 go ahead\n")
        control = int(os.environ["SSLCTLFD"])
        os.write(control, b"Y")
        facts = b""
        while not facts.endswith(b"\0\0"):
            more = os.read(control, 4096)
            if not more: raise SystemExit("no TLS")
            facts += more
        for number, name in enumerate(("SSLREADFD", "SSLWRITEFD")):  # as mail servers do it: move one, then the other
            os.dup2(int(os.environ[name]), number)
            os.close(int(os.environ[name]))
        os.write(1, b"facts " + [f for f in facts.split(b"\0") if f.startswith(b"SSL_PROTOCOL")][0] + b"\n")
    elif word == b"QUIT":
        os.write(1, b"221 bye\n"); raise SystemExit
    else:
        os.write(1, b"250 " + word + b"\n")
"""


def starttls(port, extra=b""):
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    file = raw.makefile("rb", buffering=0)
    check(file.readline() == b"220 ready\n")
    raw.sendall(b"HELO\n")
    check(file.readline() == b"250 HELO\n")
    raw.sendall(b"STARTTLS\n" + extra)
    check(file.readline() == b"220 go ahead\n")
    settings = ssl.create_default_context(cafile=ca())
    return settings.wrap_socket(raw, server_hostname="localhost")


def test_ucspi_tls_programs_start_tls_when_they_want():
    with Scene() as scene:
        serve = start_serve(scene, scene.agent(), "--", "python3", "-c", STARTTLS, options=("--starttls",))
        with starttls(serve.port) as connection:
            check(read_line(connection) == b"facts SSL_PROTOCOL=TLSv1.3\n")
            connection.sendall(b"MAIL\n")
            check(read_line(connection) == b"250 MAIL\n")
            connection.sendall(b"QUIT\n")
            check(read_line(connection) == b"221 bye\n")
        with socket.create_connection(("127.0.0.1", serve.port), timeout=10) as raw:  # one that never asks
            raw.sendall(b"QUIT\n")
            check(raw.makefile("rb").read() == b"220 ready\n221 bye\n")
        wait_until(lambda: not children(serve.pid), 10, "all programs are gone")


def test_plaintext_that_comes_with_starttls_is_refused():
    with Scene() as scene:
        serve = start_serve(scene, scene.agent(), "--", "python3", "-c", STARTTLS, options=("--starttls",))
        try:
            version = starttls(serve.port, b"INJECTED\n").version()
        except (OSError, ssl.SSLError):
            version = None  # (Debian 12's Python wraps a socket that was already cut, without a handshake)
        check(version is None, "TLS began although plaintext was injected")
        serve.wait_for("refused: plaintext came with the command")


def test_the_agent_may_accept():
    port = free_port()
    with Scene() as scene:
        agent = scene.agent(context("www", listen=f'{{"127.0.0.1:{port}"}}'))
        serve = Process(scene, "serve", [BUILD / "tlsagent", "serve", "--context", "www", "--socket", agent.socket,
                                         "--agent-listener", "--user", WORKER_USER, "--max", 3, "--", "/bin/sh", "-c",
                                         SHELL_HTTP])
        for n in range(10):
            page = run(["curl", "-sS", "--cacert", ca(), f"https://localhost:{port}/{n}"]).stdout
            check(page.endswith(f"127.0.0.1 GET /{n}"), page)
        check(serve.alive())


def test_term_lets_connections_end():
    with Scene() as scene:
        serve = start_serve(scene, scene.agent(), "--", "/bin/sh", "-c", "while read -r l; do echo $l; done")
        with tls_connect(serve.port) as connection:
            connection.sendall(b"one\n")
            check(read_line(connection) == b"one\n")
            os.kill(serve.pid, signal.SIGTERM)
            wait_until(lambda: socket.socket().connect_ex(("127.0.0.1", serve.port)) != 0, 5, "it no longer listens")
            connection.sendall(b"two\n")
            check(read_line(connection) == b"two\n")
            check(serve.alive())
        wait_until(lambda: not serve.alive(), 10, "it ends with the last connection")
        check(serve.process.returncode == 0, serve.process.returncode)


def test_death_of_a_relay_cuts_its_connections_and_no_others():
    with Scene() as scene:
        before = relays()
        serve = start_serve(scene, scene.agent(), "--", "/bin/sh", "-c",
                            "cat; echo \"status $?\" >&2", options=("--relays", "2"))
        mine = [pid for pid in relays() if pid not in before]
        check(len(mine) == 2, mine)
        lines = [tls_connect(serve.port) for _ in range(4)]
        for line in lines:
            line.sendall(b"x\n")
            check(read_line(line) == b"x\n")
        os.kill(mine[0], signal.SIGKILL)
        time.sleep(0.3)
        alive = cut = 0
        for line in lines:
            try:
                line.sendall(b"y\n")
                answer = line.recv(10)  # Python tells an end without close_notify as b""
                alive += answer == b"y\n"
                cut += answer == b""
            except (OSError, ssl.SSLError):
                cut += 1
        check((alive, cut) == (2, 2), alive, cut)
        serve.wait_for("Connection reset by peer")  # (two write at once) the programs are told of it as a cut, not as an end
        for _ in range(4):
            check(talk(serve.port, b"again\n", half_close=False) == b"again\n")
        for line in lines:
            line.close()


def test_a_server_behind_a_killed_relay_sees_a_reset_and_no_end():
    with Scene() as scene, socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        before = relays()
        serve = start_serve(scene, scene.agent(), "--to", f"127.0.0.1:{listener.getsockname()[1]}", options=("--relays", "1"))
        mine = [pid for pid in relays() if pid not in before]
        with tls_connect(serve.port) as line:
            line.sendall(b"half of an upl")
            server = listener.accept()[0]
            with server:
                server.settimeout(20)
                check(server.recv(100) == b"half of an upl")
                os.kill(mine[0], signal.SIGKILL)
                try:
                    check(False, "read as an end:", server.recv(100))
                except ConnectionResetError:
                    pass
        with tls_connect(serve.port) as line:  # with a new relay: an end is an end
            line.sendall(b"all of it")
            server = listener.accept()[0]
            with server:
                server.settimeout(20)
                check(server.recv(100) == b"all of it")
                threading.Thread(target=line.unwrap, daemon=True).start()
                check(server.recv(100) == b"")


def test_a_cut_client_is_told_to_the_program():
    with Scene() as scene:
        serve = start_serve(scene, scene.agent(), "--", "/bin/sh", "-c", "cat >&2; echo \"status $?\" >&2")
        with tls_connect(serve.port) as connection:
            connection.sendall(b"half of it\n")
            raw = socket.socket(fileno=os.dup(connection.fileno()))
            raw.shutdown(socket.SHUT_RDWR)  # a FIN, and no close_notify
        serve.wait_for("half of it")
        serve.wait_for("status 1")
        serve.wait_for("Connection reset by peer")


def test_wrong_command_lines_say_what_is_wrong():
    command = [BUILD / "tlsagent", "serve"]
    for arguments, text in (
            ([], "--context is missing"),
            (["--context", "w", "--", "x"], "--listen, or --agent-listener"),
            (["--context", "w", "--listen", ":1"], "-- PROGRAM, or --to"),
            (["--context", "w", "--listen", ":1", "--max", "0", "--", "x"], "must be a number from 1"),
            (["--context", "w", "--listen", "nonsense", "--", "x"], "must be ADDRESS:PORT"),
            (["--context", "w", "--listen", "127.0.0.1:0", "--to", "nowhere"], "must be HOST:PORT"),
            (["--context", "w", "--listen", ":1", "--to", "a:1", "--starttls"], "are for a PROGRAM"),
            (["--context", "w", "--listen", ":1", "--to", "a:1", "--fork"], "are for a PROGRAM"),
            (["--context", "w", "--listen", "127.0.0.1:0", "--user", "nobody-of-that-name", "--", "x"], "no such user")):
        done = run([*command, *arguments], check_status=False)
        check(done.returncode in (1, 2) and text in done.stdout and done.stdout.count("\n") == 1, arguments, done.stdout)
    if ROOT:
        done = run([*command, "--context", "w", "--listen", "127.0.0.1:0", "--", "x"], check_status=False)
        check("will not serve as root" in done.stdout, done.stdout)


if __name__ == "__main__":
    main()
