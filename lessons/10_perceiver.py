r"""
How to read 10,000 inputs?
==========================

In a Vision Transformer every patch reads every other. Ten seconds of film have more than 10,000
patches (lesson 09), and a picture of 100 x 100 pixels, without patches, has 10,000 inputs. The
*Perceiver* has a way out: a few learned tokens, the *latents*, read the inputs, and the inputs read
nobody.

We measure what that saves, find the gradient of weights that are used again and again, and shuffle
the pixels of real digits to see what the Perceiver makes of them.
"""

# %%
# What reading everybody costs
# ----------------------------
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
# Counted is not yet measured. So let tokens read each other, and let 32 latents read them. Twice
# the inputs are four times the scores if everybody reads, and twice if the latents do. (The clock
# says even more once the scores no longer fit into the processor's cache. So everybody reads 2,500
# inputs at most.)

rng = np.random.default_rng(0)


def milliseconds(q, x):
    took = []
    for _ in range(3):
        start = perf_counter()
        y, _ = attend_forward(q, x, x)
        took.append(1000 * (perf_counter() - start))
    assert y.shape == q.shape
    return min(took)


counts = [312, 625, 1250, 2500, 5000, 10_000]
took = {"everybody reads": [], "32 latents read": []}
for count in counts:
    x = rng.normal(size=(1, 1, count, 16)).astype("float32")
    took["everybody reads"].append(milliseconds(x, x) if count <= 2500 else np.nan)
    took["32 latents read"].append(milliseconds(x[:, :, :latents], x))
    said = (f" {name} {ms[-1]:.2f} ms" for name, ms in took.items() if np.isfinite(ms[-1]))
    print(f"{count:6} inputs:", *said)

from scratch_vlm.viz.lines import lines
from scratch_vlm.viz.show import show

figure = lines(counts, took, across="inputs", up="milliseconds", log="xy")
show(figure, "10_perceiver_cost")

# %%
# Reading again with the same eyes
# --------------------------------
#
# One look is little. So the latents think about what they read (a transformer among themselves,
# lesson 04) and look again, several times. If every look had weights of its own, a deep Perceiver
# would be large. The looks *share* their weights, and depth costs none. (In the published model all
# looks but the first do.)
#
# What is the gradient of a weight that is used twice? Take one latent of one number, 1, one input,
# 2, and one weight, 3, that makes key and value of the input; the latent itself is the query. With
# a single input the softmax is 1, so each look adds the value 3 times 2: 1, then 7, then 13. In the
# weight :math:`w` that is :math:`1 + 2w + 2w`, of slope 4: *each use gives its part, and the parts
# are added*. That is why every gradient of this library is filled by ``+=``.

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
once, _ = look_forward(np.array([[1.0]]), np.array([[2.0]]), p, repeats=1)
twice, saved = look_forward(np.array([[1.0]]), np.array([[2.0]]), p)
look_backward(np.array([[1.0]]), saved, g)
assert once == 7 and twice == 13 and g["w"] == 4

x, z, p = rng.normal(size=(3, 4)), rng.normal(size=(20, 5)), {"w": rng.normal(size=(5, 4))}
print(check(look_forward, look_backward, [x, z], p))

# %%
# The whole model, with the shapes of the one that reads digits below. A cross-attention block is a
# block of lesson 04 in which the latents ask and the inputs answer. The next section explains the
# positions.

from scratch_vlm.experiments import perceiver
from scratch_vlm.viz import diagrams

figure = diagrams.perceiver(perceiver.MODEL)
show(figure, "10_perceiver_diagram")

# %%
# The library's Perceiver adds, too. Give it shared weights, and then the same numbers as separate
# weights for each look: the output is the same, and the shared gradient is the sum of the others.

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
looks = ("crosses", "towers")  # what reads the inputs, and what thinks
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

# %%
# Where does a pixel stand?
# -------------------------
#
# The latents read a set, so a pixel must say where it stands, and say it clearly: its coordinates
# beside its colour would be two small numbers, nearly the same for neighbours. So behind each
# coordinate :math:`x`, from -1 to 1, the Perceiver appends *Fourier features*,
#
# .. math:: \sin(\pi f x), \qquad \cos(\pi f x)
#
# at several frequencies :math:`f` (*bands*), from one wave over the picture, :math:`f = 1`, to one
# every two pixels. Three places in a row and one frequency, by hand: the coordinates are -1, 0, 1,
# their sines 0, 0, 0 and their cosines -1, 1, -1. With four frequencies a coordinate becomes 1 + 4
# + 4 numbers. Two coordinates are 18, and with the ink of the pixel the 19 of the picture above.

from scratch_vlm.ops.fourier import fourier_positions

assert np.allclose(fourier_positions((3,), 1), [[-1, 0, -1], [0, 0, 1], [1, 0, -1]])

for bands in (0, 1, 4):
    table = fourier_positions((8, 8), bands)
    near, far = np.linalg.norm(table[0] - table[1]), np.linalg.norm(table[0] - table[63])
    print(
        f"frequencies: {bands}, numbers: {table.shape[1]:2}, "
        f"neighbours are {near / far:.2f} times as far apart as opposite corners"
    )
    assert near / far < 0.11 if bands == 0 else near / far > 0.2
assert table.shape[1] + 1 == 19

# %%
# Digits, pixel by pixel
# ----------------------
#
# Real handwriting, 64 pixels each, nothing cut into patches. Eight latents with eight heads read it
# twice, with shared weights. A short training, then handwriting that it has not seen (lesson 06):

from tempfile import TemporaryDirectory

from scratch_vlm.data.digits import split

with TemporaryDirectory() as folder:
    p_digits = perceiver.train_model(folder, steps=300, progress=False)
test = split("test")
right = np.mean(perceiver.predict(p_digits, test.images) == test.labels)
print(f"{right:.3f} of the digits are named rightly")
assert right > 0.75

# %%
# Now shuffle the pixels, all images alike. If each pixel *carries* the position that it came from,
# the set of inputs is the same and so is every answer. If it is told the place that it was *moved*
# to, the model sees noise:

order = rng.permutation(64)
carried = perceiver.with_positions(test.images)[:, order]
moved = perceiver.prepare(test.images)[:, order]  # the model appends the new places
straight, saved = perceiver_forward(
    perceiver.prepare(test.images), p_digits, config=perceiver.MODEL
)
carry, _ = perceiver_forward(carried, p_digits, config=perceiver.CARRYING)
move, _ = perceiver_forward(moved, p_digits, config=perceiver.MODEL)
assert np.allclose(carry, straight, atol=1e-3)
named = {"carried": carry.argmax(axis=1), "moved": move.argmax(axis=1)}
for name, digits in named.items():
    print(f"positions {name}: {np.mean(digits == test.labels):.3f}")
assert np.mean(named["carried"] == test.labels) == right
assert np.mean(named["moved"] == test.labels) < 0.2

from scratch_vlm.viz.gallery import gallery

some = [int((test.labels == digit).argmax()) for digit in range(8)]
shuffled = test.images.reshape(-1, 64)[some][:, order].reshape(-1, 8, 8)
captions = [f"{digit}, named {straight[i].argmax()}" for digit, i in enumerate(some)]
captions += ["\n".join(f"{name}: {digits[i]}" for name, digits in named.items()) for i in some]
figure = gallery(np.concatenate([test.images[some], shuffled]), captions)
show(figure, "10_perceiver_shuffled")

# %%
# In the second row nothing has changed for the model that is told where each pixel came from: it
# names every digit as in the first, rightly or not. The Perceiver knows nothing of pictures. It
# reads sounds, clouds of points or words alike, if they say where they stand. A ViT would have to
# be trained anew, for its patches are torn apart.
#
# Which pixels do the latents look at? Here is the first look at the digit 3, in the eight heads of
# the latent that looks most closely:

from scratch_vlm.ops.attend import attention_weights
from scratch_vlm.viz.attention import attention_maps

i = some[3]
first = attention_weights(saved["features"]["repeats"]["0"]["cross"]["attn"]["attend"])[i]
closest = (first**2).sum(axis=2).mean(axis=0).argmax()  # of R latents
figure = attention_maps(test.images[i], first[:, closest], grid=(8, 8), mean=False)
show(figure, "10_perceiver")
top = np.sort(first[:, closest])[:, -5:].sum(axis=1)  # (A,)
print("read by each head in its five favourite places:", *(f"{share:.0%}" for share in top))
assert (top > 0.5).all()

# %%
# Each head has picked a few of the 64 places and spends most of its attention there.
#
# Exercises
# ---------
#
# **1. Cheaper still?** R latents read N inputs in each of L looks, and after each look read each
# other in B blocks. How many scores is that for each head? With how many inputs does reading cost
# as much as thinking?


def check_scores(scores, balance):
    assert scores(latents=512, inputs=50_176, looks=8, blocks=6) == 8 * 512 * (50_176 + 6 * 512)
    for latents, blocks in ((512, 6), (8, 1)):
        inputs = balance(latents, blocks)
        assert scores(latents, inputs, 1, blocks) == 2 * scores(latents, inputs, 1, 0)


# %%
# **2. Twice as deep.** The latent 1, the input 2 and the weight 3 again, but with n looks. What is
# the latent afterwards, and the slope of the weight?


def check_looks(latent, slope):
    for n in (1, 2, 5):
        p, g = {"w": np.array([[3.0]])}, {"w": np.zeros((1, 1))}
        y, saved = look_forward(np.array([[1.0]]), np.array([[2.0]]), p, repeats=n)
        look_backward(np.array([[1.0]]), saved, g)
        assert latent(n) == y[0, 0], f"after {n} looks it is {y[0, 0]}"
        assert slope(n) == g["w"][0, 0], f"after {n} looks the slope is {g['w'][0, 0]}"


# %%
# **3. Blind spots.** The Perceiver takes a mask ``real``, False at inputs that nobody may look at.
# Write the function that keeps a share of the pixels of each image at random, and see how many are
# enough.


def check_hidden(keep):
    for share in (0.75, 0.5, 0.25):
        mask = keep(np.random.default_rng(0), len(test), share=share)
        assert mask.dtype == bool and mask.shape == (len(test), 64)
        assert np.allclose(mask.mean(axis=1), share), "the same share of every image"
        assert len(np.unique(mask, axis=0)) > 1, "not the same pixels of every image"
        scores, _ = perceiver_forward(
            perceiver.prepare(test.images), p_digits, config=perceiver.MODEL, real=mask
        )
        hidden = np.mean(scores.argmax(axis=1) == test.labels)
        print(f"with {share:.0%} of the pixels: {hidden:.3f}")
        assert right > hidden > 0.1


# %%
# Sources
# -------
#
# * A. Jaegle et al., *Perceiver: General Perception with Iterative Attention*, 2021,
#   arXiv:2103.03206: section 3.1, latents and shared weights; 3.2, Fourier features; 4.1, permuted
#   pixels, where the ImageNet pictures have 50,176 of them.
# * A. Jaegle et al., *Perceiver IO*, 2021, arXiv:2107.14795: any outputs, too.
