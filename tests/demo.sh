#!/bin/sh
# demo.sh (make run): a demo CA and two identities, an agent, an HTTPS server whose workers have no
# key, one page fetched from it. Then it waits for Ctrl-C and cleans up behind itself.
#
#   DEMO_PORT=8443   another port
#   RUN_ONCE=1       stop after the page, with the status of the fetch
set -eu

build=${BUILD:-build}
port=${DEMO_PORT:-8443}
here=$(cd "$(dirname "$0")/.." && pwd)
case "$build" in /*) ;; *) build=$here/$build ;; esac
demo=$build/demo

fail() {
    echo "demo: $*" >&2
    exit 1
}

agent= server=
cleanup() {
    trap - EXIT INT TERM
    [ -z "$server" ] || kill "$server" 2>/dev/null || :
    [ -z "$agent" ] || kill "$agent" 2>/dev/null || :
    wait
    rm -rf "$run"
}

# The socket's directory is short-lived and short-named: a socket's path has 107 bytes at most.
run=$(mktemp -d "${TMPDIR:-/tmp}/tlsagent-demo.XXXXXX")
chmod 755 "$run"
trap cleanup EXIT
trap 'cleanup; exit 0' INT TERM

# A private directory for the demo's files, kept for the next time.
mkdir -p "$demo"
if [ ! -s "$demo/rsa.pem" ] || ! openssl x509 -checkend 86400 -noout -in "$demo/rsa.pem" >/dev/null; then
    echo "demo: making a CA and two identities in $demo"
    rm -f "$demo/ca.pem"
    "$here/tests/lib/make-identity" "$demo" ecdsa p256 localhost 127.0.0.1
    "$here/tests/lib/make-identity" "$demo" rsa rsa localhost 127.0.0.1
fi

# Started as root, the agent's processes run as one unprivileged user and the server's workers as
# another; nothing is created on this system for that.
if [ "$(id -u)" -eq 0 ]; then
    agent_user=daemon worker_user=www-data
else
    agent_user=$(id -un) worker_user=$(id -un)
fi
cat >"$demo/tlsagentd.conf" <<END
user   = "$agent_user"
socket = "$run/tlsagent.sock"

context "www" {
    identity "ecdsa" {
        certificate = "$demo/ecdsa.pem"
        key         = "$demo/ecdsa.key"
    }
    identity "rsa" {
        certificate = "$demo/rsa.pem"
        key         = "$demo/rsa.key"
    }
    alpn = {"http/1.1"}
    workers { users = {"$worker_user"} }
}
END

"$build/tlsagentd" --foreground -c "$demo/tlsagentd.conf" 2>"$demo/tlsagentd.log" &
agent=$!
tries=0
until "$build/tlsagent" status --socket "$run/control.sock" >/dev/null 2>&1; do
    tries=$((tries + 1))
    kill -0 "$agent" 2>/dev/null || { cat "$demo/tlsagentd.log" >&2; fail "the agent did not start"; }
    [ $tries -lt 100 ] || { cat "$demo/tlsagentd.log" >&2; fail "the agent was not ready in 10 seconds"; }
    sleep 0.1
done

"$build/examples/https-server" --context www --listen "127.0.0.1:$port" --workers 2 \
    --socket "$run/tlsagent.sock" --user "$worker_user" 2>"$demo/https-server.log" &
server=$!

echo
echo "$ curl --cacert $demo/ca.pem https://localhost:$port/"
echo
tries=0
until page=$(curl --silent --show-error --noproxy '*' --max-time 10 --resolve "localhost:$port:127.0.0.1" \
    --cacert "$demo/ca.pem" "https://localhost:$port/" 2>"$run/curl.log"); do
    tries=$((tries + 1))
    if ! kill -0 "$server" 2>/dev/null; then
        cat "$demo/https-server.log" >&2
        server=
        fail "the server did not start; for another port: DEMO_PORT=8444 make run"
    fi
    if [ $tries -ge 20 ]; then
        tail -n 5 "$run/curl.log" "$demo/https-server.log" "$demo/tlsagentd.log" >&2
        fail "the page could not be fetched"
    fi
    sleep 0.1
done
printf '%s\n' "$page"
case "$page" in *"TLS version:"*) ;; *) fail "this is not our server's page: is port $port taken?" ;; esac
[ -z "${RUN_ONCE:-}" ] || exit 0

cat <<END

The agent (pid $agent) and the server (pid $server) are running. Try in another terminal:

  curl --cacert $demo/ca.pem https://localhost:$port/
  curl --cacert $demo/ca.pem --tls-max 1.2 https://localhost:$port/
  curl --cacert $demo/ca.pem -o /dev/null https://localhost:$port/bytes/100000000
  curl --cacert $demo/ca.pem --data-binary @README.md https://localhost:$port/echo
  openssl s_client -connect localhost:$port -CAfile $demo/ca.pem -sigalgs RSA-PSS+SHA256
  $build/tlsagent status --socket $run/control.sock
  kill -9 $agent    # the agent dies; connections that are open go on

Configuration: $demo/tlsagentd.conf   Logs: $demo/*.log
Ctrl-C stops everything.
END
wait "$server" || :
cat "$demo/https-server.log" >&2
fail "the server has ended"
