"""Answers to the exercises of lesson 08; running them runs the lesson."""

from pathlib import Path
from runpy import run_path

from scratch_vlm.ops.normalize import l2_normalize_forward

lesson = run_path(str(Path(__file__).parents[1] / Path(__file__).name))

# 1. Very sure, and always wrong: no sentence says "neither", and the scale stretches differences.
probabilities = lesson["zero_shot_probabilities"](
    lesson["images"][lesson["digit"] > 1], lesson["ensemble"][:2], lesson["p"]["log_scale"]
)
trust = probabilities.max(axis=1).mean()
print(f"zero or one? {trust:.2f} sure, and always wrong")
lesson["check_trust"](trust)


# 2. A sum of arrows goes with an image as far as its parts do, made an arrow again.
def compose(colours, digits):
    return l2_normalize_forward(colours[:, None] + digits)[0].reshape(40, 64)


lesson["check_compose"](compose)


# 3. The dot product of dx and x: a step at a right angle to x does not change its length.
def number(dx, x):
    return (dx * x).sum(axis=1)


lesson["check_length"](number)
print("all three exercises are solved")
