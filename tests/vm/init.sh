#!/bin/busybox sh
# init.sh: the first program of the emulated machine (kernel.py): what is to be seen under Debian's
# own kernel. Lines "ok NAME (SECONDS)" and "FAIL NAME" are results, by tests/run.sh's rules.
#
# On the kernel's command line: VM_ONLY=cases,traps,store,cores,attacks and VM_WORD=word, to run less.

# The first root cannot be left behind, which the sandbox of the agent's processes wants to do. So the
# same files once more, as a mount of its own, and that becomes the root.
if [ "$1" != again ]; then
    /bin/busybox mkdir -p /again
    /bin/busybox mount --bind / /again
    cd /again || exit 1
    /bin/busybox mount --move . /
    exec /bin/busybox chroot . /init again
fi

/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
chmod 1777 /tmp
ifconfig lo 127.0.0.1 up
for module in $(cat /modules/order); do
    insmod /modules/$module.ko || echo "FAIL machine: insmod $module"
done
ulimit -n 8192
cd /tlsagent || exit 1
export BUILD=/tlsagent/build TEST=$VM_WORD
export FORMS_CA=$BUILD/test-identities/ca.pem TLSAGENT_SOCK=/run/agent.sock

# Cores go to a program, which the limit of cores does not hold back; it sees the first root only. The
# kernel waits for it to end.
mkdir -p /cores
printf '#!/bin/busybox sh\n/bin/busybox cat >/cores/$1.$2\n' >/core-handler
chmod 755 /core-handler
echo '|/core-handler %P %e' >/proc/sys/kernel/core_pattern
echo 8 >/proc/sys/kernel/core_pipe_limit

seconds() { cut -d. -f1 /proc/uptime; }

# A part of the whole, if it is wanted.
part() {
    case ",${VM_ONLY:-cases,traps,store,cores,attacks}," in *",$1,"*) echo "# $1, after $(seconds) s" ;; *) false ;; esac
}

# result NAME STARTED STATUS
result() {
    if [ "$3" = 0 ]; then echo "ok $1 ($(($(seconds) - $2)).0)"; else echo "FAIL $1"; fi
}

# An agent for the cases. On a busy host the emulated machine misses the limits of a start: again, then.
start_agent() {
    : >/tmp/agent.log # the last one's must not count, should the child be slow to open it
    $BUILD/tlsagentd --foreground -c /tlsagent/conf >/tmp/agent.log 2>&1 &
    agent=$!
    while [ -d /proc/$agent ]; do
        grep -q ' is up: ' /tmp/agent.log && return 0
        sleep 0.2
    done
    return 1
}

if part cases; then
    start_agent || start_agent || start_agent || { cat /tmp/agent.log; echo "FAIL agent_starts"; }
    $BUILD/tlsagent status --socket /run/control.sock 2>&1 | sed 's/^/status: /'
    $BUILD/tests/vm/forms table
    FORMS_BULK=8 $BUILD/tests/vm/forms kernel $VM_WORD

    # What Linux 6.1 lacks, and no more than that, is missing from the sandbox.
    $BUILD/tlsagent sandbox --socket /run/control.sock >/tmp/sandbox 2>&1
    status=$?
    sed 's/^/sandbox: /' /tmp/sandbox
    [ $status = 0 ] && [ "$(grep -c 'namespaces landlock' /tmp/sandbox)" = 2 ]
    result sandbox_on_this_kernel "$(seconds)" $?
    kill $agent
    wait $agent
    sed 's/^/agent: /' /tmp/agent.log
fi
if part traps; then
    python3 tests/vm/traps.py || echo "FAIL traps"
fi
if part store; then
    FORM=kernel TEST=restarts_through_the_fd_store python3 tests/e2e/moving.py || echo "FAIL store"
fi
# kill_role SIGNAL ROLE: the first of its processes, and wait for its end.
kill_role() {
    pid=$($BUILD/tlsagent sandbox --socket /run/control.sock | awk -v role="$2" '$1 == role { print $3; exit }')
    [ -n "$pid" ] && kill -"$1" "$pid" || return 1
    while [ -d "/proc/$pid" ] && ! grep -q '^State:.Z' "/proc/$pid/status"; do sleep 0.1; done
    echo "# $2 ($pid) is killed by $1; cores: $(ls /cores | tr '\n' ' ')"
}

if part cores; then
    started=$(seconds)
    rm -f /cores/*
    NEEDLE=the-needle sh -c 'kill -SEGV $$'
    grep -q the-needle /cores/*.sh # the program is called, and gets everything
    result core_program_is_called "$started" $?
    rm -f /cores/*
    status=0
    for signal in SEGV ABRT; do
        start_agent || start_agent || status=1
        for role in keeper handshaker supervisor; do
            kill_role $signal $role || status=1
        done
        wait $agent
    done
    [ $status = 0 ] && [ -z "$(ls /cores)" ]
    result core_program_gets_nothing_of_the_agent "$started" $?
fi
if part attacks; then
    mkdir -p /mnt
    rm -f /cores/*
    started=$(seconds)
    $BUILD/tests/sandbox/test_attacks
    result attacks "$started" $?
    # Of all that crashed there, the two processes without a sandbox: see try_cores().
    echo "# cores: $(ls /cores | tr '\n' ' ')"
    [ "$(ls /cores | wc -l)" = 2 ] && [ "$(grep -l crash-needle /cores/* | wc -l)" = 2 ]
    result core_program_gets_nothing_of_any_role "$started" $?
fi
echo "VM-DONE after $(seconds) s"
sync
reboot -f
