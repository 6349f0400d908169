"""No kernel reads or writes outside its arrays."""

import os
import subprocess
import sys
from pathlib import Path

import emulator
import pytest


def run(*options):
    if problem := emulator.missing():
        pytest.skip(problem)
    libraries = []
    for name in ("libasan.so", "libubsan.so"):
        done = subprocess.run(
            ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        )
        libraries.append(done.stdout.strip())
    if not all(map(os.path.isabs, libraries)):
        pytest.skip("g++ came without its sanitizers, libasan and libubsan")
    return subprocess.run(
        [sys.executable, str(Path(__file__).with_name("sanitized.py")), *options],
        env=os.environ
        | {
            "LD_PRELOAD": ":".join(libraries),
            "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
            "OPENBLAS_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
    )


def test_kernels_stay_within_their_arrays():
    done = run()
    assert done.returncode == 0 and done.stdout == "clean\n", done.stderr[-3000:]


def test_a_row_too_few_is_noticed_and_named():
    done = run("too short")
    assert done.returncode
    assert "heap-buffer-overflow" in done.stderr and "norm.cu" in done.stderr
