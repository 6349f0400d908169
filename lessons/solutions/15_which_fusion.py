"""Answers to the exercises of lesson 15; running them runs the lesson."""

from pathlib import Path
from runpy import run_path

lesson = run_path(str(Path(__file__).parents[1] / Path(__file__).name))
reads, block_cost = lesson["reads"], lesson["block_cost"]


# 1. Counted up from one image: linear terms alone would need 11 (100 x 64 / 576), the square less.
first = next(i for i in range(1, 65) if reads(i)[0] > 100 * reads(0)[0])
lesson["check_hundred"](first)

# 2. Visual tokens fill the cache when images are many, and there are so many times fewer.
lesson["check_factor"](576 / 64)


# 3. One token through all weights, and scores and reading for itself and all before it.
def flops_of(past):
    weights = 4 * 4096**2 + 3 * 4096 * 11008
    return 32 * (2 * weights + 4 * (past + 1) * 4096)


lesson["check_writing"](flops_of)
print("all three exercises are solved")
