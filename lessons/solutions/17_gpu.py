"""Answers to the exercises of lesson 17; running them runs the lesson."""

from math import ceil
from pathlib import Path
from runpy import run_path

import numpy as np

lesson = run_path(str(Path(__file__).parents[1] / Path(__file__).name))
rng = np.random.default_rng(1)

# 1. Intensity of n / 6 times the bandwidth must be the peak.
lesson["check_size"](ceil(6 * lesson["PEAK32"] / lesson["BANDWIDTH"]))


# 2. The same tree with maximum in the place of the sum, and then the sum.
def softmax_kernel(row):
    mine = row.reshape(-1, 32)
    top, half = mine.max(axis=0), 16
    while half:
        top[:half] = np.maximum(top[:half], top[half : 2 * half])
        half //= 2
    e = np.exp(mine - top[0])
    return (e / lesson["block_sum"](e.sum(axis=0))).reshape(-1)


lesson["check_softmax"](softmax_kernel)


# 3. Add a random number below what would be cut off, then cut: up as often as the rest is large.
def stochastic(x):
    bits = x.view("uint32") + rng.integers(0, 1 << 16, x.shape, dtype="uint32")
    return (bits & np.uint32(0xFFFF0000)).view("float32")


lesson["check_stochastic"](stochastic)
print("all three exercises are solved")
