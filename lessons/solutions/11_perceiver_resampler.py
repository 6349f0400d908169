"""Answers to the exercises of lesson 11; running them runs the lesson."""

from pathlib import Path
from runpy import run_path

import numpy as np

lesson = run_path(str(Path(__file__).parents[1] / Path(__file__).name))


# 1. R rows ask F N features and the R latents themselves; or F N rows ask F N.
def resampler_scores(latents, frames, patches):
    return latents * (frames * patches + latents)


def self_attention_scores(frames, patches):
    return (frames * patches) ** 2


lesson["check_price"](resampler_scores, self_attention_scores)

# 2. It stands at 0.5 * 8 / 1 - 0.5 = 3.5, half way between the fourth moment and the fifth.
lesson["check_single"]([0, 0, 0, 0.5, 0.5, 0, 0, 0])


# 3. What stands behind the end of a clip is masked; zeros will do.
def batch(three, five):
    features = np.zeros((2, *five.shape))
    features[0, :3], features[1] = three, five
    return features, np.array([3, 5])


lesson["check_lengths"](batch)
print("all three exercises are solved")
