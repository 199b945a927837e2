#!/bin/bash
# run.sh fuzz|fuzz-coverage: called by make.
#
#   fuzz           build the targets with clang and run each for FUZZ_SECONDS (default 60), in turn,
#                  from tests/fuzz/corpus/NAME. New inputs: BUILD-fuzz/corpus/NAME. Crashes:
#                  BUILD-fuzz/crashes/NAME-*; mend the code, then move the file into tests/fuzz/corpus/NAME.
#   fuzz-coverage  how much of each decoder the committed corpora reach (lines, by llvm-cov).
#
# TEST=word: only targets whose name has the word in it.
set -eu -o pipefail
cd "$(dirname "$0")/../.."

build=$(realpath -m "${BUILD:-build}")
seconds=${FUZZ_SECONDS:-60}
export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1

targets() {
    for file in tests/fuzz/fuzz_*.c; do
        name=$(basename "$file" .c)
        case ${name#fuzz_} in *"${TEST:-}"*) echo "${name#fuzz_}" ;; esac
    done
}

run_fuzz() {
    local out=$build-fuzz failed=0
    make --no-print-directory -s -j"$(nproc)" FUZZ=1 CC=clang BUILD="$out" fuzz-programs
    mkdir -p "$out/crashes" "$out/logs"
    for name in $(targets); do
        mkdir -p "$out/corpus/$name"
        if "$out/tests/fuzz/fuzz_$name" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=20000 \
            -print_final_stats=1 -artifact_prefix="$out/crashes/$name-" "$out/corpus/$name" \
            "tests/fuzz/corpus/$name" >"$out/logs/$name" 2>&1; then
            awk -v name="$name" '/cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") cov = $(i + 1) }
                /number_of_executed_units/ { runs = $2 }
                END { printf "ok fuzz/%s: %d runs, %d edges\n", name, runs, cov }' "$out/logs/$name"
        else
            failed=1
            grep -E 'ERROR|SUMMARY|runtime error|Test unit written|fuzz_.*:' "$out/logs/$name" | head -n 8 || true
            echo "FAIL fuzz/$name: see $out/logs/$name"
        fi
    done
    return $failed
}

run_coverage() {
    local out=$build-coverage objects=()
    make --no-print-directory -s -j"$(nproc)" FUZZ=1 CC=clang BUILD="$out" \
        FUZZ_FLAGS='-fprofile-instr-generate -fcoverage-mapping' fuzz-programs
    for name in $(targets); do
        LLVM_PROFILE_FILE=$out/$name.profraw "$out/tests/fuzz/fuzz_$name" -runs=0 "tests/fuzz/corpus/$name" \
            >/dev/null 2>&1
        objects+=(${objects:+-object} "$out/tests/fuzz/fuzz_$name") # the first one stands alone
    done
    llvm-profdata merge -sparse "$out"/*.profraw -o "$out/all.profdata"
    llvm-cov report "${objects[@]}" -instr-profile="$out/all.profdata" protocol/*.c agent/generation.c \
        agent/generation_format.c agent/shape.c agent/keyring.c agent/ticket.c agent/workers.c agent/handshake.c \
        agent/transport.c agent/credential*.c agent/config*.c agent/redis.c client/record*.c client/stream*.c \
        client/ktls.c client/move.c client/facts.c client/greeting.c client/cell.c client/accept.c |
        awk 'NR == 1 { printf "%-32s %8s %8s %8s\n", "file", "lines", "missed", "covered" }
            /\.c |^TOTAL/ { printf "%-32s %8s %8s %8s\n", $1, $8, $9, $10 }'
}

case ${1:-} in
fuzz) run_fuzz ;;
fuzz-coverage) run_coverage ;;
*) sed -n '2,11p' "$0" >&2; exit 2 ;;
esac
