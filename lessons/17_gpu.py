r"""
What changes on a GPU?
======================

In the code: nothing but the arrays. In what is fast: nearly everything. A graphics card multiplies
hundreds of times faster than it can fetch numbers, works while Python is already elsewhere, and is
fastest with numbers of 16 bits. This lesson needs none. It imitates what a card does, computes what
it can do at best, and ends with what one did, an NVIDIA H200, when it was measured.
"""

# %%
# The same source
# ---------------
#
# Every function of the library asks its arrays where they live (lesson 01). So a whole model moves
# to the card by moving its parameters and its images:

import numpy as np

from scratch_vlm.backend import cupy_problem, load, to_device, to_host
from scratch_vlm.data.digits import split
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.vit import ViTConfig, vit_forward, vit_init
from scratch_vlm.tree import tree_map

rng = np.random.default_rng(0)
config = ViTConfig((8, 8, 1), (2, 2), 10, BlockConfig(32, 4, 64), depth=2)
p = vit_init(rng, config)
images = split("train").images[:16, :, :, None]
expected, _ = vit_forward(images, p, config=config)

problem = cupy_problem()
print(problem or "CuPy and a GPU are here")
for xp in [np] if problem else [np, load("cupy")]:
    there = tree_map(lambda w, xp=xp: to_device(w, xp), p)
    logits, _ = vit_forward(to_device(images, xp), there, config=config)
    print(f"the scores {logits.shape} are an array of {type(logits).__module__}")
    assert np.allclose(to_host(logits), expected, atol=1e-4)

# %%
# It answers before it has worked
# -------------------------------
#
# Python only *asks* the card. The request goes into a queue, and the call returns at once, with an
# array whose numbers are not there yet. Who looks at the clock now has timed the asking. A queue
# with one worker behaves alike; here the worker may begin only when we let it:

from concurrent.futures import ThreadPoolExecutor
from threading import Event

card, may_begin = ThreadPoolExecutor(1), Event()


def product(a, b):
    may_begin.wait()
    return a @ b


a = rng.normal(size=(200, 200))
promise = card.submit(product, a, a)  # "a @ a" on a card
assert not promise.done(), "the call returned, and nothing has been computed"
may_begin.set()
assert np.allclose(promise.result(), a @ a)  # looking at the numbers waits for them
card.shutdown()

# %%
# Hence three rules. *Time* from one synchronisation to the next, after a few calls that do not
# count, for the first ones compile. *Never look* inside a training step: ``float(loss)``,
# ``if x.any()``, printing, each stops everything until the queue is empty. And *ask less often*: a
# request takes microseconds, whatever it asks for, so that a model of many small operations is
# bound by asking.
#
# A training step asks for the same things each time. So its requests can be written down once, with
# the places of their arrays, and sent all together: a *CUDA graph*, ``--graph`` in the commands.
# What is new has to be copied to where the old was read, and no ``if`` of Python is asked again.
# Here two requests are written down, y = 2 x and y = y + 1:

x, y = np.zeros(3), np.zeros(3)
graph = [(np.multiply, x, 2, y), (np.add, y, 1, y)]  # the result goes into the last array


def replay(new):
    x[:] = new
    for operation, *places in graph:
        operation(*places)
    return y.tolist()


assert replay([1, 2, 3]) == [3, 5, 7] and replay([0, 0, 5]) == [1, 1, 11]

# %%
# Copies wait in queues, too. In the queue that computes, the next batch would keep all the rest
# waiting, so the training loop copies it on a second one, while a step computes. A step then waits
# for its own copy alone, and a copy for the step that read what it writes over
# (`scratch_vlm.backend.Feed`).
#
# Two ceilings
# ------------
#
# An operation computes so much, and must move so many bytes. The card has a limit for each, and the
# slower of the two decides:
#
# .. math:: \text{speed} = \min(\text{peak},\ \text{bandwidth} \times \text{intensity}),
#    \qquad \text{intensity} = \frac{\text{operations}}{\text{bytes moved}}
#
# On a double logarithmic scale that is a slope and a flat part, a *roofline*. The data sheet of an
# H200 promises 989 TFLOP/s, 10¹² operations a second, in 16 bits, 67 in 32, and 4.8 TB/s. This is
# what large products and large copies reached on one; the file holds all that was measured:

import json
from pathlib import Path

import scratch_vlm

ROOT = Path(scratch_vlm.__file__).parents[1]
measured = json.loads((ROOT / "benchmarks/results/gpu-2026-11-26/bench.json").read_text())
TERA = 1e12
low, high = measured["ceilings"]["GPU bf16"], measured["ceilings"]["GPU float32"]
PEAK, PEAK32, BANDWIDTH = low["flops"], high["flops"], max(speed for _, speed in low["bytes"])
sheet = {"16 bits": (989, "TFLOP/s"), "32 bits": (67, "TFLOP/s"), "memory": (4.8, "TB/s")}
for (name, (promised, unit)), found in zip(sheet.items(), (PEAK, PEAK32, BANDWIDTH), strict=True):
    print(f"{name}: {found / TERA:.3g} of {promised} {unit}")
    assert 0.7 < found / TERA / promised < 1
assert PEAK > 15 * PEAK32

# %%
# So how fast can the operations of a model be, in 16 bits?


def intensity_of_product(n, size):
    return 2 * n**3 / (3 * n**2 * size)  # read two matrices, write one


SIX, ONE = "layer norm in six steps", "layer norm in one"
intensities = {  # operations for each number, over bytes: 2 each time that it is moved
    "adding two arrays": 1 / (2 * 3),
    SIX: 8 / (2 * 11),
    ONE: 8 / (2 * 2),
    **{f"product of {n}": intensity_of_product(n, 2) for n in (64, 1024)},
}
reached = {name: min(PEAK, BANDWIDTH * i) for name, i in intensities.items()}
for name, i in intensities.items():
    print(f"{name:23} {i:6.2f} operations a byte, at most {reached[name] / PEAK:6.1%} of the peak")
ridge = PEAK / BANDWIDTH
print(f"the roof begins at {ridge:.0f} operations a byte")
assert intensities["product of 64"] < ridge < intensities["product of 1024"]

from scratch_vlm.viz.lines import lines
from scratch_vlm.viz.show import show

ridge32 = PEAK32 / BANDWIDTH
intensity = np.sort([*2.0 ** np.arange(-4, 13), ridge, ridge32])
figure = lines(
    intensity,
    {
        "16 bits": np.minimum(PEAK, BANDWIDTH * intensity) / TERA,
        "32 bits": np.minimum(PEAK32, BANDWIDTH * intensity) / TERA,
    },
    across="operations for each byte moved",
    up="TFLOP/s at best",
    log="xy",
    points={name: (i, reached[name] / TERA) for name, i in intensities.items()},
)
show(figure, "17_gpu")

# %%
# Only large products reach the roof. All else waits for memory, and there is only one remedy: move
# fewer bytes. Layer norm stands there twice, with the same arithmetic.
#
# One kernel instead of six
# -------------------------
#
# Layer norm written with arrays (lesson 04) takes six steps, and each walks through memory once for
# every array that it reads or writes. A *kernel* is a function that runs on the card as thousands
# of threads, and it can do all six while a row is at hand: the row comes from memory once, stays in
# *registers*, the processor's own few places for numbers, and the result is written once.

walks = {"mean": 1, "subtract": 2, "mean of squares": 2, "divide": 2, "scale": 2, "shift": 2}
print(f"{sum(walks.values())} walks in {len(walks)} steps, or 2 in one")
assert sum(walks.values()) == 11 and len(walks) == 6
assert intensities[ONE] > 5 * intensities[SIX]

# %%
# (A mean of squares multiplies an array with itself, so it reads two.) Done in one step, layer norm
# stands more than 5 times as far to the right in the picture, and as far up.
#
# 32 threads make a *warp*, which goes in step. In the library's kernel a warp has a row, if it is
# not too long: each of its *lanes* adds up every 32nd piece, and then lanes hand their sums around.
# First each adds that of the lane 16 away, then of the one 8 away, and so on to 1. After five
# rounds every lane has the sum of all. Here the lanes are one axis of an array:

LANES = 32


def warp_sum(mine):
    lane, apart = np.arange(LANES), LANES // 2
    while apart:
        mine = mine + mine[lane ^ apart]  # ^ turns one bit: 16 away, then 8, 4, 2, 1
        apart //= 2
    return mine


def layer_norm_warp(row, gamma, beta, eps):
    mine = row.reshape(-1, LANES)  # pieces of one: lane i has numbers i, i + 32, i + 64, ...
    centre = warp_sum(mine.sum(axis=0)) / row.size
    square = ((mine - centre) ** 2).sum(axis=0)
    scale = 1 / np.sqrt(warp_sum(square) / row.size + eps)
    return ((mine - centre) * scale).reshape(-1) * gamma + beta


from scratch_vlm.layers.norm import layer_norm_forward

x = rng.normal(size=(4, 96)).astype("float32")
gamma, beta = rng.normal(size=(2, 96)).astype("float32")
expected, _ = layer_norm_forward(x, {"gamma": gamma, "beta": beta})
imitated = np.stack([layer_norm_warp(row, gamma, beta, 1e-5) for row in x])
assert np.allclose(imitated, expected, atol=1e-5)
everywhere = warp_sum(np.arange(LANES))
assert (everywhere == 31 * 32 / 2).all(), "one lane lacks a number"

# %%
# In CUDA C++ the same lines say what *one* lane does: ``held`` are its pieces of the row, of four
# numbers each, as many as one instruction fetches, and ``row_sum`` are the five rounds. The kernel
# does more than ours: it can first add the residual stream (``added``), and leave out the mean, for
# RMS norm (``centred``). This is the library's file. It is compiled on the card as it stands here,
# and on any machine by its tests, which run it on the processor:

from scratch_vlm.backend.launch import source

lines_of_file = source("norm.cu").splitlines()
first = next(i for i, line in enumerate(lines_of_file) if "void norm_forward(" in line)
last = lines_of_file.index("}", first)
print("\n".join(lines_of_file[first : last + 1]))

# %%
# Where there is a card, ``use_kernels`` puts it in the place of the lines of
# ``layer_norm_forward``, which stay what they are: the text that says what the kernel computes.

from scratch_vlm.kernels import use_kernels

if not problem:
    cupy = load("cupy")
    use_kernels(cupy, ["layer_norm_forward"])
    on_card = {"gamma": cupy.asarray(gamma), "beta": cupy.asarray(beta)}
    y, _ = layer_norm_forward(cupy.asarray(x), on_card)
    assert np.allclose(to_host(y), expected, atol=1e-5)
    use_kernels(cupy, [])

# %%
# The page on kernels shows the same for cross-entropy, attention and the optimizer, and tells how
# they are tested without a card, and what one said about them.
#
# Sixteen bits
# ------------
#
# *bfloat16* is the upper half of a float32: the same range, and 8 bits of precision. Large products
# are more than 15 times as fast with it, say the ceilings above. But near 1 its numbers lie 1/128
# apart, and 256 + 1 is 256:


def bfloat16(x):
    bits = np.asarray(x, "float32").view("uint32")
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)  # to nearest, ties to even
    return (rounded & 0xFFFF0000).astype("uint32").view("float32")


assert bfloat16(256.0) + bfloat16(1.0) == 257 and bfloat16(257.0) == 256
assert bfloat16(1 + 1 / 128) > 1 == bfloat16(1 + 1 / 512)

# %%
# The library computes the products of a whole training so, forward and backward, with
# ``scratch-vlm train vit --precision bf16``, or within ``products_in``. On the card its *tensor
# cores* do it, which can do nothing but multiply small matrices; NumPy rounds the factors and adds
# up the products in 32 bits, as they do:

from scratch_vlm.backend import product, products_in

a, b = rng.normal(size=(2, 64, 64)).astype("float32")
with products_in("bf16"):
    low = product(a, b)
assert (low == bfloat16(a) @ bfloat16(b)).all()
off = np.linalg.norm(low - a @ b) / np.linalg.norm(a @ b)
print(f"a product in bfloat16 is off by {off:.2%}")
assert 0.001 < off < 0.005

# %%
# A training adds many small steps to a weight. If the weight is kept in 16 bits, a step of less
# than half the distance to the next number does nothing at all. *Mixed precision* computes in 16
# bits and keeps the weights, the sums and the loss in 32 (*master weights*). A linear layer on real
# digits, trained both ways with the same small steps:

from scratch_vlm.ops.losses import cross_entropy_backward, cross_entropy_forward

train, test = split("train"), split("val")
x, x_test = (part.images.reshape(-1, 64) for part in (train, test))


def accuracy_after(steps, keep):
    w = keep(rng.normal(size=(64, 10)).astype("float32") * 0.5)
    for _ in range(steps):
        with products_in("bf16"):
            logits = product(x, w)
        _, saved = cross_entropy_forward(logits, train.labels)
        dw = x.T @ cross_entropy_backward(np.float32(1), saved)
        w = keep(w - np.float32(0.02) * dw)
    return float(((x_test @ w).argmax(axis=1) == test.labels).mean())


kept32, kept16 = accuracy_after(1500, lambda w: w), accuracy_after(1500, bfloat16)
print(f"weights kept in 32 bits: {kept32:.3f} right, in 16 bits: {kept16:.3f}")
assert kept32 > 0.7 and kept32 - kept16 > 0.1

# %%
# What one did
# ------------
#
# The same file holds whole training steps: of a small ViT, 4 blocks of width 128, and of the
# ViT-B/16 of lesson 05, with 128 images each. From row to row one more thing of this lesson is
# done. PyTorch took turns with the library, in bfloat16: as it comes, and compiled, which makes
# kernels and graphs of its own:

steps = {r["family"]: r for r in measured["results"] if r["size"] == 128}
small, large = (
    {name: 1000 * time["seconds"] for name, time in steps[family]["times"].items()}
    for family in ("lesson ViT", "ViT-B/16")
)
rows = {
    "numpy": "NumPy, two cores",
    "cupy without kernels": "CuPy, the same source",
    "cupy": "and kernels",
    "cupy bf16": "and bfloat16",
    "cupy bf16 graph": "and a graph",
    "torch bf16": "PyTorch",
    "torch bf16 compiled": "PyTorch compiled",
}
print(f"{'ms a step':22} small ViT  ViT-B/16")
for key, name in rows.items():
    print(f"{name:22}", *(f"{t[key]:9.3g}" if key in t else f"{'-':>9}" for t in (small, large)))
least = 1000 * steps["ViT-B/16"]["flops"] / PEAK
print(f"the products of ViT-B/16 alone: {least:.3g}")
assert small["numpy"] > 10 * small["cupy without kernels"]
for times in (small, large):
    assert 0.6 < times["cupy"] / times["cupy without kernels"] < 0.75
assert small["cupy bf16"] > 0.9 * small["cupy"] and large["cupy bf16"] < large["cupy"] / 7
assert small["cupy bf16 graph"] < small["cupy bf16"] / 15
assert large["cupy bf16 graph"] > 0.9 * large["cupy bf16"] > 2 * least

# %%
# Kernels take about a third off both. In all else they are two worlds. The small model is bound by
# asking: bfloat16 gains next to nothing, for the card was idle anyway, and the graph makes the step
# 15 times as fast. The large one is bound by the card: bfloat16 makes it more than 7 times as fast,
# and the graph gains little, for the queue was never empty. And it is still more than 2 times as
# slow as its products would be alone. So before you make anything faster, find out what it waits
# for.
#
# That was one card on one day, and no language model has been timed on it yet.
#
# Exercises
# ---------
#
# **1. Where the roof begins.** How large must a square product of 32-bit numbers be to reach their
# peak, ``PEAK32``? Give the smallest n.


def check_size(n):
    def bound(n):
        return BANDWIDTH * intensity_of_product(n, 4)

    assert bound(n) >= PEAK32, "still bound by memory"
    assert bound(n - 1) < PEAK32, "a smaller one will do"


# %%
# **2. A fused softmax.** Write a softmax of one row as a kernel would: a warp that hands the
# maximum around, and then the sum.


def check_softmax(kernel):
    row = rng.normal(size=96) * 50
    e = np.exp(row - row.max())
    assert np.allclose(kernel(row), e / e.sum())


# %%
# **3. Rounding at random.** Master weights cost four bytes each. Keep weights in 16 bits, and round
# up or down at random, so that the *expected* value is right. Give a function of an array.


def check_stochastic(rounded):
    value = np.full(20_000, 1 + 1 / 512, "float32")
    out = rounded(value)
    assert set(np.unique(out)) <= {1.0, 1 + 1 / 128}, "not numbers of bfloat16 next to it"
    assert abs(out.mean() - value[0]) < 1e-3, f"the mean is {out.mean():.5f}"


# %%
# Sources
# -------
#
# * S. Williams, A. Waterman and D. Patterson, *Roofline*, Communications of the ACM 52 (4), 2009.
# * NVIDIA, *H200 Tensor Core GPU*, data sheet, 2023: peaks without sparsity, and bandwidth.
# * P. Micikevicius et al., *Mixed Precision Training*, 2017, arXiv:1710.03740.
# * T. Dao et al., *FlashAttention*, 2022, arXiv:2205.14135: the largest gain from moving less.
