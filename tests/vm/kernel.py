#!/usr/bin/env python3
"""Kernel TLS for real, and the sandbox under an older kernel: boots Debian's own under qemu; init.sh says what runs.

The machine has no disk and no network: an initramfs with the programs of this build, the shared
libraries that they need, the kernel's TLS and cipher modules, busybox, and Python with those tests
of tests/e2e that are about the kernel form. The agent runs in it as it does anywhere; what is
reported there, by name, is reported here. Emulated (-accel tcg), so neither root nor /dev/kvm is
needed. The kernel's package comes from Debian's archive once and stays in BUILD/vm.

VM_OPTIONS="VM_ONLY=cases VM_WORD=splice": less of it.
"""
import glob
import os
import re
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("BUILD", os.path.join(ROOT, "build"))
CACHE = os.path.join(BUILD, "vm")
DEADLINE = 700  # seconds for the machine, emulated and beside other tests
VERSION = "6.1."

# What is taken along: of the build, of this host, of the tests; and what the latter import.
PROGRAMS = """tlsagentd tlsagent tests/vm/forms tests/peers/client tests/peers/worker tests/peers/moving
tests/sandbox/test_attacks examples/https-server examples/self-replacing-server""".split()
TOOLS = ["setpriv"]
IDENTITIES = [("p256", "p256"), ("rsa", "rsa"), ("longname", "p256", "localhost", ".".join(["a" * 48] * 5 + ["org"])),
              ("longername", "p256", "localhost", ".".join(["a" * 60] * 4 + ["org"]))]  # those of traps.LARGE
SCRIPTS = ["tests/lib/e2e.py", "tests/lib/serve_lib.py", "tests/lib/make-identity", "tests/vm/traps.py", "tests/e2e/traps.py", "tests/e2e/moving.py", "tests/e2e/sandbox.py"]
PYTHON_MODULES = "e2e, array, encodings.idna, runpy, select, serve_lib, threading"

# In the order in which they must be loaded.
MODULES = """cryptd crypto_simd aesni-intel tls gf128mul ghash-generic gcm ctr ccm cmac seqiv libchacha chacha_generic libpoly1305
poly1305_generic chacha20poly1305""".split()

CONF = """
user = "daemon"
cells = 1
socket = "/run/agent.sock"
control_socket = "/run/control.sock"
log_level = debug
context "www" {
    identity "localhost" {
        certificate = "/tlsagent/build/test-identities/p256.pem"
        key = "/tlsagent/build/test-identities/p256.key"
    }
    workers { users = {"root", "www-data"} }
    deadline = 60
}
context "fixed" {
    identity "localhost" {
        certificate = "/tlsagent/build/test-identities/p256.pem"
        key = "/tlsagent/build/test-identities/p256.key"
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


def add_libraries(source, root):
    """The shared libraries that a program needs, where its dynamic linker looks for them."""
    for path in re.findall(r"(/\S+) \(0x", run("ldd", source)):
        if not os.path.exists(root + path):
            copy(os.path.realpath(path), root, path)


def add_program(source, root, target):
    copy(source, root, target, 0o755)
    add_libraries(source, root)


def add_python(root):
    """The interpreter, and of its library what the end-to-end tests load."""
    add_program(os.path.realpath(sys.executable), root, "/usr/bin/python3")
    listed = run(sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv[1]); import " + PYTHON_MODULES +
                 "; print('\\n'.join(m.__file__ for m in list(sys.modules.values()) if getattr(m, '__file__', None)))",
                 os.path.join(ROOT, "tests/lib"))
    library = os.path.dirname(os.__file__)
    for path in {*listed.split(), *glob.glob(library + "/encodings/*.py")}:
        if path.startswith(library):
            copy(path, root, path)
            if path.endswith(".so"):
                add_libraries(path, root)
            for compiled in glob.glob(os.path.join(os.path.dirname(path), "__pycache__",
                                                   os.path.basename(path)[:-3] + ".cpython-3??.pyc")):
                copy(compiled, root, compiled)


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
    write(root, "/modules/order", "\n".join(MODULES) + "\n")
    for program in PROGRAMS:
        add_program(os.path.join(BUILD, program), root, "/tlsagent/build/" + program)
    for program in TOOLS:
        add_program(shutil.which(program), root, "/usr/bin/" + program)
    add_python(root)
    for path in re.findall(r"libgcc_s.so.1 .*=> (/\S+)", run("/sbin/ldconfig", "-p"))[:1]:
        copy(os.path.realpath(path), root, path)  # loaded when the first thread ends
    for script in SCRIPTS:
        copy(os.path.join(ROOT, script), root, "/tlsagent/" + script, 0o755)
    sys.path.insert(0, os.path.join(ROOT, "tests/lib"))
    import e2e
    for label, kind, *names in IDENTITIES:
        e2e.identity(label, kind, *names)
    for path in glob.glob(os.path.join(BUILD, "test-identities", "*.*")):
        copy(path, root, "/tlsagent/build/test-identities/" + os.path.basename(path))
        os.utime(root + "/tlsagent/build/test-identities/" + os.path.basename(path))
    write(root, "/tlsagent/conf", CONF)
    write(root, "/etc/passwd", "root:x:0:0::/:/bin/sh\ndaemon:x:1:1::/:/bin/sh\nwww-data:x:33:33::/:/bin/sh\n")
    write(root, "/etc/group", "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\n")
    copy(os.path.join(ROOT, "tests/vm/init.sh"), root, "/init", 0o755)
    for directory in ("proc", "sys", "dev", "tmp", "run", "var"):
        os.makedirs(os.path.join(root, directory), exist_ok=True)
    names = subprocess.run(["find", "."], cwd=root, check=True, capture_output=True).stdout
    image = os.path.join(scratch, "initramfs")
    with open(image, "wb") as file:
        subprocess.run(["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"], cwd=root, check=True, input=names,
                       stdout=file)
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
               "-append", "console=ttyS0 quiet panic=-1 " + os.environ.get("VM_OPTIONS", "")]
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
        if "# cases" not in output and "VM_OPTIONS" not in os.environ:
            skip("qemu cannot run Debian's kernel here: " + (output.strip().splitlines() or ["no output"])[-1])
        print("FAIL machine_reaches_its_end")
        return 1
    print("ok machine_reaches_its_end (%.1f)" % (time.monotonic() - started))
    return 1 if re.search(r"^FAIL ", output, re.M) else 0


sys.exit(main())
