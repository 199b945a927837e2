#!/bin/bash
# run.sh check|unit|hostile|sandbox|e2e|interop|vm|soak...: build the test programs and run them, two at a
# time, each with a time limit. One line per test, then one line that counts them.
#
#   check      everything but soak; unit and hostile tests a second time under AddressSanitizer
#   TEST=word  only tests whose name has the word in it
#   JOBS=n     so many at a time (default 2)
#
# Programs in tests/unit, tests/hostile and tests/sandbox are one test each: exit status 0, or 77 for "skipped".
# Scripts in tests/e2e, tests/interop, tests/vm and tests/soak print a line for each of their tests:
# "ok NAME (SECONDS)", "FAIL NAME" or "SKIP NAME: REASON". A script that says "run alone" in its
# second line measures something: nothing else runs beside it. All output is in BUILD/test-logs.
set -u
cd "$(dirname "$0")/.." || exit 1

BUILD=${BUILD:-build}
case "$BUILD" in /*) ;; *) BUILD=$PWD/$BUILD ;; esac
export BUILD
logs=$BUILD/test-logs
jobs=${JOBS:-2}

# Run one program (PREFIX is what its name begins with) and print its lines in one piece.
run_one() {
    local build=$1 name=$2 program=$3 limit=$4
    local log=$logs/${name//\//.}.log started seconds status lines
    local command=("$program")
    case "$program" in *.py) command=(python3 "$program") ;; esac
    started=$(date +%s%N)
    BUILD=$build timeout --kill-after=10 "$limit" "${command[@]}" >"$log" 2>&1 </dev/null
    status=$?
    seconds=$(awk -v ns=$(($(date +%s%N) - started)) 'BEGIN { printf "%.1f", ns / 1e9 }')
    lines=$(grep -E '^(ok [a-z0-9_]+ \(|FAIL [a-z0-9_]+$|SKIP [a-z0-9_]+:)' "$log" | sed -E "s|^([a-zA-Z]+) |\1 $name/|")
    case "$program" in *.py) ;; *) lines= ;; esac
    case $status in
    0) [ -n "$lines" ] || lines="ok $name ($seconds)" ;;
    77) lines="SKIP $name: $(tail -n 1 "$log")" ;;
    124 | 137) lines="$lines${lines:+$'\n'}FAIL $name: not finished in $limit seconds" ;;
    *) grep -q '^FAIL ' <<<"$lines" || lines="$lines${lines:+$'\n'}FAIL $name: exit status $status" ;;
    esac
    printf '%s\n' "$lines" >"$logs/${name//\//.}.result"
    if grep -q '^FAIL ' <<<"$lines"; then
        printf '%s\n%s\n' "$lines" "$(tail -c 6000 "$log" | sed 's/^/    | /')"
    else
        printf '%s\n' "$lines"
    fi
}

# List "BUILD NAME PROGRAM LIMIT" for a kind of test, by PREFIX (asan/ or nothing).
list() {
    local kind=$1 build=$2 prefix=$3 file name limit=${4:-${SANITIZED:+400}}
    limit=${limit:-120}
    case $kind in
    unit | hostile | sandbox)
        for file in tests/"$kind"/test_*.c; do
            [ -e "$file" ] || continue
            name=$(basename "$file" .c)
            echo "$build $prefix$kind/${name#test_} $build/tests/$kind/$name $limit"
        done
        ;;
    *)
        limit=300
        [ "$kind" != soak ] || limit=$((${SOAK_MINUTES:-10} * 120 + 600))
        [ "$kind" != vm ] || limit=900 # an emulated machine
        for file in tests/"$kind"/*.py; do
            [ "$(head -c 2 "$file")" = "#!" ] || continue # a part of another one
            name=$(basename "$file" .py)
            echo "$build $prefix$kind/$name $PWD/$file $limit"
        done
        ;;
    esac
}

# Those whose name (or the name of a test inside) has $TEST in it.
select_tests() {
    local build name program limit
    while read -r build name program limit; do
        case $name in
        *"${TEST:-}"*) ;;
        *) case $program in *.py) grep -q "^def test_.*$TEST" "$program" || continue ;; *) continue ;; esac ;;
        esac
        echo "$build $name $program $limit"
    done
}

build_tests() {
    make --no-print-directory -s -j"$(nproc)" all "$@" >"$logs/make.log" 2>&1 || {
        cat "$logs/make.log" >&2
        echo "FAIL: the test programs do not build" >&2
        exit 1
    }
}

kinds=$*
[ -n "$kinds" ] || { sed -n '2,4p' "$0" >&2; exit 2; }
rm -rf "$logs"
mkdir -p "$logs"
[ -n "${SANITIZED:-}" ] && build_tests test-programs BUILD="$BUILD" SAN=1 || build_tests test-programs BUILD="$BUILD"
tests=
for kind in $kinds; do
    case $kind in
    check)
        tests+=$(list unit "$BUILD" ''; list hostile "$BUILD" ''; list sandbox "$BUILD" '')$'\n'
        if [ -z "${SANITIZED:-}" ]; then
            build_tests unit-programs BUILD="$BUILD-asan" SAN=1
            tests+=$(list unit "$BUILD-asan" asan/ 400; list hostile "$BUILD-asan" asan/ 400)$'\n'
        fi
        tests+=$(list vm "$BUILD" ''; list e2e "$BUILD" ''; list interop "$BUILD" '')$'\n'
        ;;
    unit | hostile | sandbox | e2e | interop | vm | soak) tests+=$(list "$kind" "$BUILD" '')$'\n' ;;
    *) echo "run.sh: unknown kind of test: $kind" >&2; exit 2 ;;
    esac
done

# make check may be run by another make: its job server is not ours to use.
unset MAKEFLAGS MAKELEVEL
export -f run_one
export logs
# The machine may be slow; what hangs is ended by run_one.
export CK_DEFAULT_TIMEOUT=60
# Check's own time limit of four seconds a test is meant for an idle machine and plain code.
export CK_TIMEOUT_MULTIPLIER=${CK_TIMEOUT_MULTIPLIER:-10}
tests=$(select_tests <<<"${tests//$'\n\n'/$'\n'}" | grep .)
alone() { while read -r b n p l; do if sed -n 2p "$p" 2>/dev/null | grep -aq 'run alone'; then echo "$b $n $p $l"; fi; done; }
beside() { while read -r b n p l; do if ! sed -n 2p "$p" 2>/dev/null | grep -aq 'run alone'; then echo "$b $n $p $l"; fi; done; }
beside <<<"$tests" | xargs -r -P "$jobs" -L 1 bash -c 'run_one "$@"' run_one
alone <<<"$tests" | xargs -r -L 1 bash -c 'run_one "$@"' run_one

off=$(grep -l 'SANDBOX OFF' "$logs"/*.log 2>/dev/null | wc -l)
[ "$off" -eq 0 ] || echo "note: $off of these ran with SANDBOX OFF (sanitizer builds)"
passed=$(cat "$logs"/*.result 2>/dev/null | grep -c '^ok ')
failed=$(cat "$logs"/*.result 2>/dev/null | grep -c '^FAIL ')
skipped=$(cat "$logs"/*.result 2>/dev/null | grep -c '^SKIP ')
if [ "$failed" -gt 0 ]; then
    cat "$logs"/*.result | grep '^FAIL '
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
