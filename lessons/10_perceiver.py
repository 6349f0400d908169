r"""
How to read 10,000 inputs?
==========================

In a Vision Transformer every patch reads every other. Without patches, on bare pixels, that is
hopeless: a picture of 100 x 100 pixels has 10,000 of them. The *Perceiver* has a way out that is
so simple that half of all vision language models use it today. A few learned tokens, the *latents*,
read the pixels; the pixels read nobody.

We measure what that saves, find the gradient of weights that are used again and again, and shuffle
the pixels of real digits to see what the Perceiver makes of them.
"""

# %%
# The price of everybody
# ----------------------
#
# In self-attention N inputs ask and N answer: N times N scores. With R latents that ask, it is R
# times N. For 10,000 pixels and 32 latents:

from time import perf_counter

import numpy as np

from scratch_vlm.ops.attend import attend_forward

inputs, latents = 100 * 100, 32
assert inputs * inputs == 100_000_000 and latents * inputs == 320_000
print(f"scores: {inputs * inputs:,} or {latents * inputs:,}")

# %%
# Counted is not yet measured. So let tokens read each other, and let 32 latents read them. Twice the
# inputs should take about four times and twice as long:

rng = np.random.default_rng(0)
counts, seconds = [512, 1024, 2048, 4096], {"everybody reads": [], "32 latents read": []}
for count in counts:
    x = rng.normal(size=(1, 1, count, 16)).astype("float32")
    asking = {"everybody reads": x, "32 latents read": x[:, :, :latents]}
    for name, q in asking.items():
        took = []
        for _ in range(3):
            start = perf_counter()
            attend_forward(q, x, x)
            took.append(perf_counter() - start)
        seconds[name].append(min(took))
    print(f"{count:5} inputs:", *(f"{name} {1000 * s[-1]:.2f} ms" for name, s in seconds.items()))
assert seconds["everybody reads"][-1] > 10 * seconds["32 latents read"][-1]

from scratch_vlm.viz.lines import lines
from scratch_vlm.viz.show import show

milliseconds = {name: 1000 * np.array(took) for name, took in seconds.items()}
figure = lines(np.array(counts), milliseconds, across="inputs", up="milliseconds", log="xy")
show(figure, "10_perceiver_cost")

# %%
# Reading again with the same eyes
# --------------------------------
#
# One look is little. So the latents think about what they read (a transformer among themselves,
# lesson 04) and look again, several times. If every look had weights of its own, a deep Perceiver
# would be large. The looks *share* their weights, and depth is free.
#
# What is the gradient of a weight that is used twice? Take one latent of one number, 1, one input,
# 2, and one weight, 3. With a single input the softmax is 1, so each look adds the value 3 times 2:
# 1, then 7, then 13. In the weight :math:`w` that is :math:`1 + 2w + 2w`, of slope 4: *each use gives
# its part, and the parts are added*. That is why every gradient of this library is filled by ``+=``.

from scratch_vlm.gradcheck import check
from scratch_vlm.ops.attend import attend_backward


def look_forward(x, z, p, repeats=2):
    y = (z @ p["w"])[None, None]  # keys and values of the inputs, made once
    saved = []
    for _ in range(repeats):
        read, s = attend_forward(x[None, None], y, y)
        x = x + read[0, 0]
        saved.append(s)
    return x, (z, p["w"], saved)


def look_backward(dx, saved, g):
    z, w, saved = saved
    dy = 0
    for s in reversed(saved):
        dq, dk, dv = attend_backward(dx[None, None], s)
        dx = dx + dq[0, 0]
        dy = dy + (dk + dv)[0, 0]  # the inputs were read in every look, and gain from each
    g["w"] += z.T @ dy
    return dx, dy @ w.T


p, g = {"w": np.array([[3.0]])}, {"w": np.zeros((1, 1))}
y, saved = look_forward(np.array([[1.0]]), np.array([[2.0]]), p)
look_backward(np.array([[1.0]]), saved, g)
assert y == 13 and g["w"] == 4

x, z, p = rng.normal(size=(3, 4)), rng.normal(size=(20, 5)), {"w": rng.normal(size=(5, 4))}
print(check(look_forward, look_backward, [x, z], p))

# %%
# The library's Perceiver keeps the same promise. Give it shared weights, and then the same numbers as
# separate weights for each look: the output is one, and the shared gradient is the sum.

from dataclasses import replace

from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.perceiver import (
    PerceiverConfig,
    perceiver_backward,
    perceiver_forward,
    perceiver_init,
)
from scratch_vlm.tree import leaves, tree_map, zeros_like

shared = PerceiverConfig((8, 8), 1, 10, BlockConfig(16, 2, 32), latents=4, depth=1, repeats=3)
apart = replace(shared, crosses=3, towers=3)
p = tree_map(lambda w: w.astype(float), perceiver_init(rng, shared))
looks = ("crosses", "towers")
q = {**p, **{part: {str(i): p[part]["0"] for i in range(3)} for part in looks}}
pixels, dy = rng.normal(size=(2, 64, 1)), rng.normal(size=(2, 10))
y, saved = perceiver_forward(pixels, p, config=shared)
y_apart, saved_apart = perceiver_forward(pixels, q, config=apart)
assert np.allclose(y, y_apart)
g, g_apart = zeros_like(p), zeros_like(q)
perceiver_backward(dy, saved, g)
perceiver_backward(dy, saved_apart, g_apart)
for part in looks:
    branches = (leaves(g_apart[part][str(i)]) for i in range(3))
    for (name, total), *uses in zip(leaves(g[part]["0"]), *branches, strict=True):
        assert np.allclose(total, sum(leaf for _, leaf in uses)), name
