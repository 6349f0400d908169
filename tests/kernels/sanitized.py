"""Run cases under AddressSanitizer and UndefinedBehaviorSanitizer; `test_sanitizer.py` starts it.

Given ``too short``, the output of a kernel lacks its last row, which must not go unnoticed.
"""

import sys

import emulator
import kernel_cases
import numpy as np

from scratch_vlm import kernels
from scratch_vlm.backend import launch

ATTENTION = {"heads": 1, "queries": 5, "keys": 71, "width": 24, "mask": "random"}
CASES = (
    ("norm", {"number": "float32", "rows": 3, "width": 36, "shift": 1}),
    ("add_norm", {"number": "float32", "rows": 3, "width": 36}),
    ("cross_entropy", {"number": "float32", "classes": 301, "rows": 2}),
    ("add_at", {"number": "float32", "count": 5, "width": 131}),
    ("contrastive", {"number": "float32", "pairs": 17, "width": 33}),
    ("adamw", {"number": "float32", "size": 65}),
    ("attention", ATTENTION),
    ("attention", ATTENTION | {"number": "float16", "width": 72}),
)


def main(*options):
    """Run every case, or the one that writes where nothing is."""
    launch.set_compiler(np, emulator.EmulatedModule)
    kernels.use_kernels(np)
    with emulator.running(flags=emulator.SANITIZE):
        if options == ("too short",):
            x, gamma = np.ones((3, 64), "float32"), np.ones(64, "float32")
            y, rstd = np.empty((2, 64), "float32"), np.empty(3, "float32")
            arguments = (x, None, None, gamma, None, y, None, rstd, 3, 1e-5, 0)
            options = {"number": "float32", "WIDTH": 64, "VECTOR": 4, "LANES": 32}
            launch.launch("norm.cu", "norm_forward", 1, 96, *arguments, **options)
            return
        for name, sizes in CASES:
            for one in kernel_cases.CASES[name](np.random.default_rng(0), **sizes):
                assert one.error() < kernel_cases.ROUNDING["bfloat16"], (name, one.what)
    print("clean")


if __name__ == "__main__":
    main(*sys.argv[1:])
