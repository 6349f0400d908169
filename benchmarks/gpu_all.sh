#!/usr/bin/env bash
# Everything that only a GPU can show, in one command that writes one folder to commit:
#
#   benchmarks/gpu_all.sh [FOLDER] [OPTIONS OF scratch-vlm bench]
#
# about.txt       commit, device, driver, versions
# tests.txt       the tests marked gpu: every pair, kernels, training, generation beside NumPy
# gradcheck-*     every gradient on the device, in float64 and in float32
# memcheck.txt    every kernel under compute-sanitizer: accesses out of bounds; races in
#                 racecheck.txt
# profile.txt     the kernels of training steps, and how long each takes
# bench.json/png  NumPy, CuPy and PyTorch in turn, and whether the targets are met
# summary.txt     a line for each of these: ok, FAILED, or skipped and why
#
# The checks run side by side, then the benchmark alone.
#
# The folder is benchmarks/results/gpu-DATE unless another is named. Without a GPU the benchmark
# still runs, on the host, and goes to cpu-DATE. Exit status: 0 if everything ran and passed, 1 if
# something failed, 3 if nothing failed but something was skipped.
set -uo pipefail
cd "$(dirname "$0")/.."
export MPLBACKEND=Agg OPENBLAS_NUM_THREADS=1

problem=$(python -c 'from scratch_vlm.backend import cupy_problem; print(cupy_problem() or "")') ||
    { echo "scratch_vlm cannot be imported: python -m pip install -e '.[test]'" >&2; exit 1; }
out=benchmarks/results/$([ -z "$problem" ] && echo gpu || echo cpu)-$(date +%F)
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
    out=$1
    shift
fi
mkdir -p "$out" || exit 1
: >"$out/summary.txt"

say() { printf '%-12s %s\n' "$1" "$2" | tee -a "$out/summary.txt"; }
skip() { say "$1" "skipped: $2"; }
step() { # NAME FILE COMMAND...: run it, keep what it prints, and say how it ended
    local name=$1 file=$out/$2 status
    shift 2
    "$@" >"$file" 2>&1
    status=$?
    if [ "$status" -eq 0 ]; then
        say "$name" ok
    else
        say "$name" "FAILED with status $status, see ${file##*/}"
    fi
}
about() {
    date -u +'%F %T UTC'
    git log -1 --format='commit %H, %cs' && git status --short
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv
    nvcc --version | tail -2
    python -m scratch_vlm info
}
# Without CuPy's pool every array is an allocation of its own, whose ends the sanitizer knows.
unpooled='import sys, cupy, pytest; cupy.cuda.set_allocator(None); sys.exit(pytest.main(sys.argv[1:]))'

about >"$out/about.txt" 2>&1
if [ -z "$problem" ]; then
    step tests tests.txt python -m pytest -m gpu -n auto -rs &
    for dtype in float64 float32; do
        step "$dtype" "gradcheck-$dtype.txt" python -m scratch_vlm gradcheck --backend cupy \
            --examples 1 --dtype "$dtype" --json "$out/gradcheck-$dtype.json" &
    done
    if command -v compute-sanitizer >/dev/null; then
        for tool in memcheck racecheck; do
            step "$tool" "$tool.txt" timeout 300 compute-sanitizer --tool "$tool" \
                --error-exitcode 9 python -c "$unpooled" -m gpu -x tests/kernels/test_twins.py &
        done
    else
        skip sanitizer "there is no compute-sanitizer; it comes with the CUDA toolkit"
    fi
    wait
    if python -c 'import torch' 2>/dev/null; then
        step profile profile.txt python benchmarks/gpu_profile.py
    else
        skip profile "PyTorch, whose profiler it is, is not installed"
    fi
    step bench bench.txt python -m scratch_vlm bench --backend cupy --out "$out" "$@"
    cat "$out/bench.txt"
else
    for name in tests gradcheck sanitizer; do skip "$name" "$problem"; done
    step bench bench.txt python -m scratch_vlm bench --out "$out" "$@"
    cat "$out/bench.txt"
fi

echo
echo "$out"
cat "$out/summary.txt"
! grep -q FAILED "$out/summary.txt" || exit 1
! grep -q skipped: "$out/summary.txt" || exit 3
