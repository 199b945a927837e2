#!/usr/bin/env python3
"""Kernel TLS for real: boots Debian's own kernel under qemu and runs tests/vm/forms.c inside.

The machine has no disk and no network: an initramfs with the programs of this build, the shared
libraries that they need, the kernel's TLS and cipher modules, and busybox. The agent runs in it as
it does anywhere; what forms.c reports there, by name, is reported here. Emulated (-accel tcg), so
neither root nor /dev/kvm is needed. The kernel's package comes from Debian's archive once and
stays in BUILD/vm.
"""
import glob
import gzip
import os
import re
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("BUILD", os.path.join(ROOT, "build"))
CACHE = os.path.join(BUILD, "vm")
DEADLINE = 370  # seconds for the machine, emulated and beside other tests
VERSION = "6.1."

# In the order in which they must be loaded.
MODULES = """tls gf128mul ghash-generic gcm ctr ccm cmac seqiv libchacha chacha_generic libpoly1305
poly1305_generic chacha20poly1305""".split()

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /bin /proc /sys /dev /tmp /run /etc /var
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
chmod 1777 /tmp
ifconfig lo 127.0.0.1 up
for module in {modules}; do insmod /modules/$module.ko || echo "FAIL machine: insmod $module"; done
ulimit -n 8192
{body}
echo VM-DONE
sync
reboot -f
"""

BODY = """
/agent/tlsagentd --foreground -c /agent/conf >/tmp/agent.log 2>&1 &
for i in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19; do
    [ -S /run/agent.sock ] && break
    sleep 0.5
done
/agent/tlsagent status --socket /run/control.sock 2>&1 | sed 's/^/status: /'
export FORMS_CA=/agent/ca.pem TLSAGENT_SOCK=/run/agent.sock
FORMS_BULK=16 /agent/forms kernel
for word in every_suite glued sendfile_bulk; do FORMS_BULK=4 /agent/forms records $word; done

# The traps, as on the host (tests/e2e/traps.py), with programs that let libtlsagent choose the form.
try() {
    name=$1; shift
    if /agent/client "$@" >/tmp/try.log 2>&1; then
        echo "ok trap_$name (0)"
    else
        sed 's/^/    /' /tmp/try.log; echo "FAIL trap_$name"
    fi
}
/agent/https-server --context www --listen 127.0.0.1:4430 --workers 1 >/tmp/server.log 2>&1 &
/agent/https-server --context fixed --listen 127.0.0.1:4431 --workers 1 >>/tmp/server.log 2>&1 &
/agent/worker echo $TLSAGENT_SOCK www - >/tmp/worker.log 2>&1 &
sleep 1
for i in 0 1 2 3 4 5 6 7 8 9; do
    port=$(sed -n "s/^port //p" /tmp/worker.log)
    [ -n "$port" ] && break
    sleep 0.5
done
ca=/agent/ca.pem
installed() { sed -n 's/^TlsTxSw[^0-9]*//p' /proc/net/tls_stat; }
before=$(installed)
try tickets_tls13 tickets 4430 $ca 13 2
try tickets_tls12 tickets 4430 $ca 12 1
try nonces_aes128 nonces 4430 $ca ECDHE-ECDSA-AES128-GCM-SHA256
try nonces_aes256 nonces 4430 $ca ECDHE-ECDSA-AES256-GCM-SHA384
try glued_tls12_false_start glue 4430 $ca 12
try glued_tls12_abbreviated glue 4430 $ca 12resumed
try compatibility_on compatibility 4430 $ca on
try compatibility_off compatibility 4430 $ca off
try renegotiation renegotiate 4430 $ca
try fragment_tls12 fragment 4430 $ca 12
try fragment_tls13 fragment 4430 $ca 13
try handshake_message after_handshake 4430 $ca 1
try key_update_shares_a_record keyupdate_shared 4430 $ca
try key_update_first_where_rekey_is_preferred keyupdate_first 4431 $ca
try key_update_storm_where_rekey_is_preferred keyupdate_storm 4431 $ca
try fin_none_tls12 fin $port $ca 12 none
try fin_record_tls12 fin $port $ca 12 record
try fin_clean_tls12 fin $port $ca 12 clean
try fin_none_tls13 fin $port $ca 13 none
try fin_record_tls13 fin $port $ca 13 record
try fin_clean_tls13 fin $port $ca 13 clean
[ $(installed) -gt $before ] && echo "ok trap_form_is_kernel (0)" || echo "FAIL trap_form_is_kernel"
sleep 0.5
sed 's/^/worker: /' /tmp/worker.log
sed 's/^/server: /' /tmp/server.log
sed 's/^/agent: /' /tmp/agent.log
"""

CONF = """
user = "daemon"
cells = 1
socket = "/run/agent.sock"
control_socket = "/run/control.sock"
log_level = debug
context "www" {
    identity "localhost" {
        certificate = "/agent/localhost.pem"
        key = "/agent/localhost.key"
    }
    workers { users = {"root", "www-data"} }
    deadline = 60
}
context "fixed" {
    identity "localhost" {
        certificate = "/agent/localhost.pem"
        key = "/agent/localhost.key"
    }
    prefer_rekey = true
    workers { users = {"root", "www-data"} }
    deadline = 60
}
"""


def skip(reason):
    print(reason)
    sys.exit(77)


def run(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


def package_name():
    """The newest kernel 6.1 in Debian's archive, as apt knows it."""
    listed = run("apt-cache", "search", "--names-only", r"^linux-image-6\.1\.0-[0-9]+-cloud-amd64$")
    names = [line.split()[0] for line in listed.splitlines()]
    return max(names, key=lambda name: int(name.split("-")[3]), default=None)


def kernel():
    """Directory with the unpacked package."""
    unpacked = sorted(glob.glob(os.path.join(CACHE, "linux-image-*", "boot", "vmlinuz-" + VERSION + "*")))
    if not unpacked:
        os.makedirs(CACHE, exist_ok=True)
        try:
            name = package_name()
            if name is None:
                run("apt-get", "-qq", "update")
                name = package_name()
            if name is None:
                skip("Debian's archive has no linux-image-6.1.0-*-cloud-amd64")
            run("apt-get", "-qq", "download", name, cwd=CACHE)
        except (OSError, subprocess.CalledProcessError) as error:
            detail = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
            skip("Debian's kernel package cannot be had: " + (detail[-1] if detail else str(error)))
        target = os.path.join(CACHE, name)
        run("dpkg", "-x", glob.glob(os.path.join(CACHE, name + "_*.deb"))[0], target + ".new")
        os.rename(target + ".new", target)
        unpacked = glob.glob(os.path.join(target, "boot", "vmlinuz-*"))
    image = unpacked[-1]
    return image, os.path.dirname(os.path.dirname(image))


def copy(source, root, target, mode=None):
    path = root + target
    os.makedirs(os.path.dirname(path), exist_ok=True)
    shutil.copy(source, path)
    if mode is not None:
        os.chmod(path, mode)


def add_program(source, root, target):
    """A program and the shared libraries that it needs, where its dynamic linker looks for them."""
    copy(source, root, target, 0o755)
    for path in re.findall(r"(/\S+) \(0x", run("ldd", source)):
        if not os.path.exists(root + path):
            copy(os.path.realpath(path), root, path)


def write(root, target, text, mode=0o644):
    os.makedirs(os.path.dirname(root + target), exist_ok=True)
    with open(root + target, "w") as file:
        file.write(text)
    os.chmod(root + target, mode)


def make_initramfs(modules_root, scratch):
    root = os.path.join(scratch, "root")
    shutil.rmtree(scratch, ignore_errors=True)
    os.makedirs(root)
    copy("/bin/busybox", root, "/bin/busybox", 0o755)
    for name in MODULES:
        found = glob.glob(os.path.join(modules_root, "lib/modules/*/kernel/**", name + ".ko"), recursive=True)
        copy(found[0], root, "/modules/" + name + ".ko")
    for program in ("tlsagentd", "tlsagent"):
        add_program(os.path.join(BUILD, program), root, "/agent/" + program)
    for program in ("tests/vm/forms", "tests/peers/client", "tests/peers/worker", "examples/https-server"):
        add_program(os.path.join(BUILD, program), root, "/agent/" + os.path.basename(program))
    run(os.path.join(ROOT, "tests/lib/make-identity"), root + "/agent", "localhost", "p256", "localhost")
    write(root, "/agent/conf", CONF)
    write(root, "/etc/passwd", "root:x:0:0::/:/bin/sh\ndaemon:x:1:1::/:/bin/sh\nwww-data:x:33:33::/:/bin/sh\n")
    write(root, "/etc/group", "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\n")
    write(root, "/init", INIT.format(modules=" ".join(MODULES), body=BODY), 0o755)
    for directory in ("proc", "sys", "dev", "tmp", "run"):
        os.makedirs(os.path.join(root, directory), exist_ok=True)
    names = subprocess.run(["find", "."], cwd=root, check=True, capture_output=True).stdout
    image = os.path.join(scratch, "initramfs.gz")
    archive = subprocess.run(["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"], cwd=root, check=True,
                             input=names, capture_output=True).stdout
    with gzip.open(image, "wb", compresslevel=1) as file:
        file.write(archive)
    return image


def main():
    if os.environ.get("SANITIZED"):
        skip("the virtual machine is too small for sanitizer builds")
    if os.uname().machine != "x86_64":
        skip("the virtual machine is made for x86_64 only")
    for program, package in (("qemu-system-x86_64", "qemu-system-x86"), ("cpio", "cpio"),
                             ("/bin/busybox", "busybox-static"), ("dpkg", "dpkg")):
        if shutil.which(program) is None:
            skip("%s is not installed (Debian package %s)" % (program, package))
    started = time.monotonic()
    image, modules_root = kernel()
    scratch = os.path.join(CACHE, "machine.%d" % os.getpid())
    initramfs = make_initramfs(modules_root, scratch)
    command = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "768", "-nographic", "-no-reboot",
               "-nic", "none", "-kernel", image, "-initrd", initramfs,
               "-append", "console=ttyS0 quiet panic=-1"]
    output = ""
    console = os.path.join(CACHE, "console.log")
    try:
        with open(console, "wb") as file:
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                           timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        print("# the machine was not done within %d seconds" % DEADLINE)
    finally:
        with open(console, "rb") as file:
            output = file.read().decode(errors="replace")
        shutil.rmtree(scratch, ignore_errors=True)
    output = output.replace("\r", "")
    print("# " + os.path.basename(image))
    print(output)
    if "VM-DONE" not in output:
        if "Linux version" not in output and "forms" not in output and "status:" not in output:
            skip("qemu cannot run Debian's kernel here: " + (output.strip().splitlines() or ["no output"])[-1])
        print("FAIL machine_reaches_its_end")
        return 1
    print("ok machine_reaches_its_end (%.1f)" % (time.monotonic() - started))
    return 1 if re.search(r"^FAIL ", output, re.M) else 0


sys.exit(main())
