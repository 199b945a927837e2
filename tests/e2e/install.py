#!/usr/bin/env python3
"""make install: what it puts where, and that the README's server builds and runs with it."""
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import (BUILD, ROOT, SANITIZED, TOP, WORKER_USER, Process, Scene, ca, check, context,  # noqa: E402
                 free_port, main, run, wait_until)

FILES = """
    bin/tlsagent
    include/tlsagent.h
    lib/libtlsagent.a lib/libtlsagent.so lib/libtlsagent.so.0 lib/pkgconfig/tlsagent.pc
    libexec/tlsagent/tlsagent-relay
    sbin/tlsagentd
    share/man/man1/tlsagent.1 share/man/man3/libtlsagent.3 share/man/man5/tlsagentd.conf.5 share/man/man8/tlsagentd.8
""".split()


def files_below(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir())


def install(scene, prefix, destination="", sysconfdir="/etc"):
    """With a copy of the objects: the other tests go on using theirs. True if it ran ldconfig."""
    build = scene.directory / "build"
    ran = scene.directory / "ldconfig-ran"
    if not build.exists():
        shutil.copytree(BUILD, build, symlinks=True, ignore=lambda where, names: [
            name for name in names if name in ("tests", "vm", "bench", "unconfined", "demo") or
            name.startswith(("test-", "libtested"))])
    ran.unlink(missing_ok=True)
    run(["make", "-s", "-C", TOP, "install", f"BUILD={build}", f"DESTDIR={destination}", f"PREFIX={prefix}",
         f"SYSCONFDIR={sysconfdir}", f"LDCONFIG=touch {ran}", *(["SAN=1"] if SANITIZED else [])], timeout=250)
    return ran.exists()


def test_install_puts_every_file_in_its_place_for_each_prefix():
    with Scene() as scene:
        one, two = scene.directory / "one", scene.directory / "two"
        check(install(scene, one, sysconfdir=one / "etc") == ROOT, "ldconfig: by root, and only by root")
        check(files_below(one) == sorted(FILES), files_below(one))
        check((one / "etc/tlsagent").is_dir(), "no directory for the configuration")
        check(f"prefix={one}\n" in (one / "lib/pkgconfig/tlsagent.pc").read_text(), "the prefix in tlsagent.pc")
        check(str(one / "etc/tlsagent/tlsagentd.conf") in run([one / "sbin/tlsagentd", "--help"]).stdout, "SYSCONFDIR")

        check(not install(scene, "/opt/other", destination=two), "ldconfig in spite of DESTDIR")
        there = pathlib.Path(f"{two}/opt/other")
        check(files_below(there) == sorted(FILES), files_below(there))
        check("prefix=/opt/other\n" in (there / "lib/pkgconfig/tlsagent.pc").read_text(), "a stale prefix")
        for program in ("lib/libtlsagent.so.0", "lib/libtlsagent.a"):
            content = (there / program).read_bytes()
            check(b"/opt/other/libexec/tlsagent/tlsagent-relay" in content and bytes(one) not in content,
                  f"{program} looks for the relay under another prefix")
        check("/etc/tlsagent/tlsagentd.conf" in run([there / "sbin/tlsagentd", "--help"]).stdout and
              str(one) not in run([there / "sbin/tlsagentd", "--help"]).stdout, "a stale SYSCONFDIR")


def test_server_of_the_readme_builds_and_runs_with_what_is_installed():
    with Scene() as scene:
        prefix = scene.directory / "prefix"
        install(scene, prefix, sysconfdir=prefix / "etc")
        port = free_port()
        source = re.search(r"```c\n(.*?)```", (TOP / "README.md").read_text(), re.S).group(1)
        check(source.count("htons(8443)") == 1 and source.count("INADDR_ANY") == 0, "another server in the README")
        (scene.directory / "server.c").write_text(source.replace("htons(8443)", f"htons({port})"))
        command = re.search(r"^cc server\.c .*$", (TOP / "README.md").read_text(), re.M).group(0)
        run(["sh", "-ec", command + " -Wall -Werror -o server" + " -fsanitize=address,undefined" * SANITIZED],
            cwd=scene.directory, env={**os.environ, "PKG_CONFIG_PATH": str(prefix / "lib/pkgconfig")})
        environment = {**os.environ, "LD_LIBRARY_PATH": str(prefix / "lib")}
        loaded = run(["ldd", scene.directory / "server"], env=environment).stdout
        check(f"libtlsagent.so.0 => {prefix}/lib/libtlsagent.so.0" in loaded and "libssl" not in loaded, loaded)

        agent = scene.agent(context("www"), program=prefix / "sbin/tlsagentd")
        Process(scene, "server", [
            "setpriv", *(["--reuid", WORKER_USER, "--regid", WORKER_USER, "--clear-groups"] if ROOT else []),
            "env", f"LD_LIBRARY_PATH={prefix}/lib", f"TLSAGENT_SOCK={agent.socket}", scene.directory / "server"])

        def listens():
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0
        wait_until(listens, 10, "the server listens")
        s_client = subprocess.Popen(["openssl", "s_client", "-quiet", "-connect", f"127.0.0.1:{port}", "-servername",
                                     "localhost", "-CAfile", ca(), "-verify_return_error", "-verify_hostname",
                                     "localhost"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE)
        try:
            s_client.stdin.write(b"hello\n")
            s_client.stdin.flush()
            line = s_client.stdout.readline()
        finally:
            s_client.kill()
            s_client.wait()
        check(line == b"hello\n", line, s_client.stderr.read())


main()
