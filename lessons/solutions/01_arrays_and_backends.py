"""Answers to the exercises of lesson 01; running them runs the lesson."""

from pathlib import Path
from runpy import run_path

import numpy as np

lesson = run_path(str(Path(__file__).parents[1] / Path(__file__).name))


# 1. A negative step walks the same memory from the last row up.
def flip(image):
    return image[::-1]


lesson["check_upside_down"](flip)


# 2. The product rule: (x exp(x))' = exp(x) + x exp(x).
def forward(x):
    e = np.exp(x)
    return x * e, (x, e)


def backward(dy, saved):
    x, e = saved
    return dy * (1 + x) * e


lesson["check_pair"](forward, backward)


# 3. The absolute value of a complex number forgets its angle, and so the imaginary step.
def blind(x):
    return np.abs(x) ** 2


lesson["check_blind"](blind)
print("all three exercises are solved")
