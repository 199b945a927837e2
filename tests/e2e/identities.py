#!/usr/bin/env python3
"""Which identity, version and suite a client gets, as the configuration says."""
import pathlib
import shutil
import ssl
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from e2e import WORKER_USER, Scene, ca, check, facts, identity, main, tls_connect  # noqa: E402

WORKERS = f'    workers {{ users = {{"{WORKER_USER}"}} }}\n'


def block(label, files, *lines):
    certificate, key = files
    return (f'    identity "{label}" {{\n        certificate = "{certificate}"\n        key = "{key}"\n'
            + "".join(f"        {line}\n" for line in lines) + "    }\n")


def context(*lines):
    return 'context "www" {\n' + "".join(lines) + WORKERS + "}\n"


def first():
    return identity("sni-first", "p256", "first.example", "*.wild.example")


def twins():
    return identity("sni-rsa", "rsa", "twin.example"), identity("sni-ecdsa", "p256", "twin.example")


def names(port, name):
    """The names in the certificate that a client gets who asks for name (None: no SNI)."""
    def anyone(settings):
        settings.check_hostname = False

    with tls_connect(port, name, setting=anyone) as connection:
        return {value for kind, value in connection.getpeercert()["subjectAltName"] if kind == "DNS"}


def alert(port, name):
    try:
        names(port, name)
    except ssl.SSLError as error:
        return error.reason
    return None


def echo(scene, text):
    """A worker that echoes, whatever its identities are: its port."""
    return scene.worker(scene.agent(text), "echo").port


def test_certificate_by_sni_name():
    rsa, ecdsa = twins()
    with Scene() as scene:
        port = echo(scene, context(
            block("first.example", first(), 'names = {"only.configured.example"}'),
            block("twin.example", rsa), block("twin.example", ecdsa)))
        check(names(port, "first.example") == {"first.example", "*.wild.example"}, "exact")
        check(names(port, "FIRST.Example") == {"first.example", "*.wild.example"}, "upper case")
        check("*.wild.example" in names(port, "any.wild.example"), "wildcard")
        check("first.example" in names(port, "only.configured.example"), "a name of the configuration")
        check(names(port, "twin.example") == {"twin.example"}, "the other one")
        for name in ("wild.example", "a.b.wild.example", "nobody.example", None):
            reason = alert(port, name)
            check(reason == "TLSV1_UNRECOGNIZED_NAME", name, "without a default:", reason)


def test_default_identity():
    rsa, _ = twins()
    with Scene() as scene:
        port = echo(scene, context(
            block("first", first(), "default = true"), block("twin.example", rsa)))
        for name in ("nobody.example", None):
            check("first.example" in names(port, name), name)
        check(names(port, "twin.example") == {"twin.example"}, "the named one")
    with Scene() as scene:  # a single one serves all
        port = echo(scene, context(block("first", first())))
        for name in ("nobody.example", None):
            check("first.example" in names(port, name), name)


def test_rsa_or_ecdsa_by_the_clients_ability():
    rsa, ecdsa = twins()
    with Scene() as scene:
        port = echo(scene, context(block("twin", rsa), block("twin", ecdsa)))
        for version in ("-tls1_3", "-tls1_2"):
            for schemes, expected in (("RSA-PSS+SHA256", "RSA"), ("ECDSA+SHA256", "ECDSA")):
                done = subprocess.run(
                    ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "twin.example", "-CAfile",
                     ca(), version, "-sigalgs", schemes], input="", text=True, stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT, timeout=20)
                line = next((line for line in done.stdout.splitlines() if line.startswith("Peer signature type")), "")
                check(line.split(": ")[-1].startswith(expected), version, schemes, line, done.stdout[-800:])
                check("Verify return code: 0" in done.stdout, version, schemes)


def test_directory_of_identities():
    rsa, _ = twins()
    with Scene() as scene:
        for label, files in (("first.example", first()), ("twin.example", rsa)):
            place = scene.directory / "live" / label
            place.mkdir(parents=True)
            for source, name in zip(files, ("fullchain.pem", "privkey.pem")):
                shutil.copy(source, place / name)
                (place / name).chmod(0o600)  # the supervisor opens it; the roles cannot
        (scene.directory / "live/README").write_text("as certbot leaves it\n")
        port = echo(scene, context('    identities = "live"\n    default_identity = "twin.example"\n'))
        check("first.example" in names(port, "first.example"), "by name")
        check(names(port, "twin.example") == {"twin.example"}, "by name")
        check(names(port, None) == {"twin.example"}, "default")


def test_versions_of_a_context():
    for text, spoken in (("TLSv1_2", {"TLSv1.2"}), ("SSLv23:!TLSv12", {"TLSv1.3"}),
                         ("SSLv23:!SSLv3:!TLSv1_1", {"TLSv1.2", "TLSv1.3"})):
        with Scene() as scene:
            server = scene.server(scene.agent(context(f'    versions = "{text}"\n', block("all", identity("p256", "p256")))))
            for version, number in (("TLSv1.2", ssl.TLSVersion.TLSv1_2), ("TLSv1.3", ssl.TLSVersion.TLSv1_3)):
                def only(settings, chosen=number):
                    settings.minimum_version = settings.maximum_version = chosen

                try:
                    page = facts(server.port, setting=only)
                    check(page["TLS version"] == version and version in spoken, text, version)
                except ssl.SSLError as error:
                    check(version not in spoken, text, version, error)


def test_suites_and_their_order():
    suites = '    ciphersuites = "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256"\n    ciphers = "ECDHE+CHACHA20:ECDHE+AESGCM"\n'
    with Scene() as scene:
        server = scene.server(scene.agent(context(suites, block("all", identity("p256", "p256")))))
        for version, offered, name in (("-tls1_3", "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
                                       ("-tls1_2", "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305",
                                        "ECDHE-ECDSA-CHACHA20-POLY1305")):
            done = subprocess.run(
                ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-servername", "localhost", version,
                 "-ciphersuites" if version == "-tls1_3" else "-cipher", offered], input="", text=True, timeout=20,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            check(f"Cipher is {name}" in done.stdout, version, done.stdout[-800:])


def test_anonymous_and_old_suites_are_refused():
    with Scene() as scene:
        port = echo(scene, context(block("all", identity("sni-rsa", "rsa", "twin.example"))))
        for offered in ("aNULL:@SECLEVEL=0", "eNULL:@SECLEVEL=0", "AES128-GCM-SHA256", "ECDHE+SHA:@SECLEVEL=0", "DHE+AESGCM"):
            done = subprocess.run(
                ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "twin.example", "-tls1_2", "-cipher",
                 offered], input="", text=True, timeout=20, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            check("alert handshake failure" in done.stdout, offered, done.stdout[-800:])


def test_client_certificates_are_required():
    certificate, key = identity("p256", "p256")
    with Scene() as scene:
        port = echo(scene, context(
            f'    verify = "required"\n    client_ca_file = "{ca()}"\n', block("all", (certificate, key))))
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            def without(settings, chosen=version):
                settings.minimum_version = settings.maximum_version = chosen

            def with_one(settings, chosen=version):
                settings.minimum_version = settings.maximum_version = chosen
                settings.load_cert_chain(certificate, key)

            with tls_connect(port, setting=with_one) as connection:
                connection.sendall(b"ping")
                check(connection.recv(4) == b"ping", version)
            try:
                with tls_connect(port, setting=without) as connection:
                    connection.sendall(b"ping")
                    check(connection.recv(4) == b"", version, "was served")
                raise AssertionError(f"{version}: let in without a certificate")
            except (ssl.SSLError, ConnectionError) as error:
                print(version, error)


if __name__ == "__main__":
    main()
