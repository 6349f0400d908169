#!/usr/bin/env bash
# Everything that only a GPU can show, in one command that writes one folder to commit:
#
#   benchmarks/gpu_all.sh [FOLDER] [--minutes N] [--again] [OPTIONS OF scratch-vlm bench]
#
# about.txt       commit, device, driver, versions, for each run
# bench.*         NumPy, CuPy and PyTorch in turn, and whether the targets are met
# tests.txt       the tests marked gpu: every pair, kernels, training, generation beside NumPy
# gradcheck-*     every gradient on the device, in float64 and in float32, in PARTS parts each
# memcheck.txt    every kernel under compute-sanitizer: accesses out of bounds; races in
#                 racecheck.txt
# profile.txt     the kernels of training steps, and how long each takes
# summary.txt     a line for each of these: ok, FAILED, STOPPED at its limit, or skipped and why;
#                 with its seconds, commit and date
#
# All is done within --minutes (default 9), so that it fits into ten. What matters most comes
# first: the benchmark alone on the machine, what targets speak of before the rest; then the
# checks side by side; then what is left of the benchmark; then the profile. Every part writes as
# it goes. Whatever was cut off, the same command goes on: parts that are ok are kept, those that
# are missing, failed or stopped are done again, and the benchmark measures what it lacks. --again
# does all anew.
#
# The folder is benchmarks/results/gpu-DATE unless another is named. Without a GPU the benchmark
# still runs, on the host, and goes to cpu-DATE. Exit status: 0 if everything ran and passed, 1 if
# something failed, 3 if nothing failed but something was skipped or stopped, 130 after Ctrl-C.
set -uo pipefail
cd "$(dirname "$0")/.."
export MPLBACKEND=Agg OPENBLAS_NUM_THREADS=1 PYTHONUNBUFFERED=1

PARTS=4     # of the gradient checks, each a process
FIRST=65    # percent of the time in which the benchmark comes before the checks
CHECKS=150  # seconds at most
PROFILE=40  # seconds kept for it
CLOSING=20  # seconds after its time in which the benchmark may write what it knows
ATLEAST=10  # seconds; nothing begins in less

out='' minutes=9 again='' options=()
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$PWD/benchmarks/gpu_all.sh"; exit ;;
    --minutes) minutes=${2:?--minutes needs a number}; shift ;;
    --again) again=--again ;;
    -*) options+=("$1") ;;
    *) if [ -z "$out" ] && [ ${#options[@]} -eq 0 ]; then out=$1; else options+=("$1"); fi ;;
    esac
    shift
done
[[ $minutes =~ ^[1-9][0-9]*$ ]] || { echo "--minutes must be a whole number, got $minutes" >&2; exit 2; }

problem=$(python -c 'from scratch_vlm.backend import cupy_problem; print(cupy_problem() or "")') ||
    { echo "scratch_vlm cannot be imported: python -m pip install -e '.[test]'" >&2; exit 1; }
code=$(python -c 'from scratch_vlm.bench.machine import code_version; print(code_version())')
[ -n "$out" ] || out=benchmarks/results/$([ -z "$problem" ] && echo gpu || echo cpu)-$(date +%F)
mkdir -p "$out" || exit 1
summary=$out/summary.txt
if [ -z "$again" ] && [ -s "$summary" ]; then # what is finished stays
    echo "going on in $out: what is ok there is kept (--again does all anew)"
    sed -i -E '/^bench /d; /^[^ ]+ +ok,/!d' "$summary"
else
    : >"$summary"
fi

left() { echo $((60 * minutes - SECONDS)); }
least() { echo $(($1 < $2 ? $1 : $2)); }
say() { printf '%-12s %s\n' "$1" "$2" | tee -a "$summary"; }
skip() { say "$1" "skipped: $2"; }
no_time="no time left; the same command goes on, and --minutes gives more"

part() { # NAME FILE LIMIT COMMAND...: run it, keep what it prints, and say how it ended
    local name=$1 file=$out/$2 limit=$3 began=$SECONDS job status of
    shift 3
    if grep -q "^$name " "$summary"; then
        echo "$name is done already"
        return
    fi
    if [ "$limit" -lt "$ATLEAST" ]; then
        skip "$name" "$no_time"
        return
    fi
    timeout -k 15 "$limit" "$@" >"$file" 2>&1 &
    job=$!
    trap 'kill -TERM $job 2>/dev/null' TERM
    wait $job
    status=$?
    while kill -0 $job 2>/dev/null; do # a signal ended the wait, not the part
        wait $job
        status=$?
    done
    trap - TERM
    of="$((SECONDS - began)) s, commit $code, $(date -u +'%F %R') UTC"
    case $status in
    0) say "$name" "ok, $of" ;;
    124 | 130 | 137 | 143) say "$name" "STOPPED after $of, see ${file##*/}" ;;
    *) say "$name" "FAILED with status $status, $of, see ${file##*/}" ;;
    esac
}
beside() { part "$@" & } # with others at the same time, until `all`
all() { wait; }
alone() { part "$@" & wait; } # in the background, too, where a signal can reach it

bench() { # SECONDS OPTIONS...: as much of the benchmark as fits
    local seconds=$1
    shift
    if [ "$seconds" -lt "$ATLEAST" ]; then
        skip bench "$no_time"
        return
    fi
    sed -i '/^bench /d' "$summary"
    alone bench bench.log $((seconds + CLOSING)) python -m scratch_vlm bench "${backend[@]}" \
        --out "$out" --minutes "$((seconds / 60)).$((seconds % 60 * 10 / 60))" "$@" "${options[@]}"
}
finish() {
    if grep -qs 'the same command goes on' "$out/bench.txt"; then
        skip bench-rest "see bench.txt; the same command goes on, and --minutes gives more"
    fi
    cat "$out/bench.txt" 2>/dev/null
    echo
    echo "$out, after $SECONDS s"
    cat "$summary"
}
stop() {
    trap '' INT TERM
    echo "stopping; the same command goes on" >&2
    kill -TERM $(jobs -p) 2>/dev/null
    wait
    finish
    exit 130
}
about() {
    date -u +'%F %T UTC'
    echo "commit $code"
    if [ -z "$problem" ]; then
        nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv
        nvcc --version | tail -2
    fi
    python -m scratch_vlm info
    echo
}
# Without CuPy's pool every array is an allocation of its own, whose ends the sanitizer knows.
unpooled='import sys, cupy, pytest; cupy.cuda.set_allocator(None); sys.exit(pytest.main(sys.argv[1:]))'

trap stop INT TERM
about >>"$out/about.txt" 2>&1
backend=()
if [ -z "$problem" ]; then
    backend=(--backend cupy)
    bench $((60 * minutes * FIRST / 100 - CLOSING)) $again

    limit=$(least "$CHECKS" $(($(left) - CLOSING)))
    beside tests tests.txt "$limit" python -m pytest -m gpu -n auto -rs
    for dtype in float64 float32; do
        for i in $(seq $PARTS); do
            name=gradcheck-$dtype-$i
            beside "$dtype-$i" "$name.txt" "$limit" python -m scratch_vlm gradcheck \
                --backend cupy --examples 1 --dtype "$dtype" --part "$i/$PARTS" \
                --json "$out/$name.json"
        done
    done
    if command -v compute-sanitizer >/dev/null; then
        for tool in memcheck racecheck; do
            beside "$tool" "$tool.txt" "$limit" compute-sanitizer --tool "$tool" \
                --error-exitcode 9 python -c "$unpooled" -m gpu -x tests/kernels/test_twins.py
        done
    else
        skip sanitizer "there is no compute-sanitizer; it comes with the CUDA toolkit"
    fi
    all

    bench $(($(left) - 2 * CLOSING - PROFILE))
    if python -c 'import torch' 2>/dev/null; then
        alone profile profile.txt $(($(left) - ATLEAST)) python benchmarks/gpu_profile.py
    else
        skip profile "PyTorch, whose profiler it is, is not installed"
    fi
else
    for name in tests gradcheck sanitizer profile; do skip "$name" "$problem"; done
    bench $(($(left) - CLOSING)) $again
fi
finish
! grep -q FAILED "$summary" || exit 1
! grep -Eq 'skipped:|STOPPED' "$summary" || exit 3
