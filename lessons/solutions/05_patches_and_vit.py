"""Answers to the exercises of lesson 05; running them runs the lesson."""

from pathlib import Path
from runpy import run_path

from scratch_vlm.ops.positions import interpolate_positions_forward

lesson = run_path(str(Path(__file__).parents[1] / Path(__file__).name))

# 1. Half the side makes 4 times the patches, and 4 x 4 times the pairs of them.
lesson["check_scores"](16)


# 2. Cut, take the mean over the pixels of a patch, and let the backward put the patches back.
def mosaic(images, side):
    pieces, saved = lesson["cut_forward"](images, side)
    b, n, _ = pieces.shape
    pixels = pieces.reshape(b, n, side * side, -1)
    pixels = 0 * pixels + pixels.mean(axis=2, keepdims=True)
    return lesson["cut_backward"](pixels.reshape(pieces.shape), saved)


lesson["check_mosaic"](mosaic)


# 3. The table of the patches is stretched like an image; the row of CLS before it stays.
def stretch(table):
    return interpolate_positions_forward(table, old=(6, 6), new=(12, 12))[0]


lesson["check_positions"](stretch)
print("all three exercises are solved")
