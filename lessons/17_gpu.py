r"""
What changes on a GPU?
======================

In the code: nothing but the arrays. In what is fast: nearly everything. A graphics card multiplies
hundreds of times faster than it can fetch numbers, works while Python is already elsewhere, and is
fastest with numbers of 16 bits. This lesson runs without one. It computes what a card could do at
best, imitates what it does, and runs on the card where there is one. No measurement of a GPU is
committed yet, so no speed of one is claimed here.
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
    print(xp.__name__, type(logits).__module__, logits.shape)
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
# Hence three rules. *Time* from one synchronisation to the next, after a warm-up. *Never look*
# inside a training step: ``float(loss)``, ``if x.any()``, printing, each stops everything until the
# queue is empty. And *ask less often*: a request takes microseconds, whatever it asks for, so that
# a model of many small operations is bound by asking.
#
# Two ceilings
# ------------
#
# An operation needs so many multiplications, and must move so many bytes. The card has a limit for
# each, and the slower of the two decides:
#
# .. math:: \text{speed} = \min(\text{peak},\ \text{bandwidth} \times \text{intensity}),
#    \qquad \text{intensity} = \frac{\text{operations}}{\text{bytes moved}}
#
# On a double logarithmic scale that is a slope and a flat part, a *roofline*. The figures are those
# of the data sheet of an H100 (SXM): 989 TFLOP/s in 16 bits, 67 in 32, and 3.35 TB/s.

TERA = 1e12
PEAK, PEAK32, BANDWIDTH = 989 * TERA, 67 * TERA, 3.35 * TERA


def intensity_of_product(n, size):
    return 2 * n**3 / (3 * n**2 * size)  # read two matrices, write one


operations = {  # operations for each number, and how often it is moved (2 bytes each time)
    "add two arrays": (1, 3),
    "layer norm": (8, 2),
    "softmax": (5, 2),
    "GELU": (10, 2),
}
for name, (work, moves) in operations.items():
    intensity = work / (2 * moves)
    share = min(1, BANDWIDTH * intensity / PEAK)
    print(f"{name:18} {intensity:6.2f} operations a byte, at most {share:.1%} of the peak")
    assert share < 0.02
for n in (64, 1024, 8192):
    intensity = intensity_of_product(n, 2)
    share = min(1, BANDWIDTH * intensity / PEAK)
    print(f"product of {n:5}     {intensity:6.0f} operations a byte, at most {share:.1%}")
ridge = PEAK / BANDWIDTH
assert intensity_of_product(64, 2) < ridge < intensity_of_product(1024, 2)
print(f"the roof begins at {ridge:.0f} operations a byte")

from scratch_vlm.viz.lines import lines
from scratch_vlm.viz.show import show

intensity = 2.0 ** np.arange(-2, 13)
figure = lines(
    intensity,
    {
        "16 bits": np.minimum(PEAK, BANDWIDTH * intensity) / TERA,
        "32 bits": np.minimum(PEAK32, BANDWIDTH * intensity) / TERA,
    },
    across="operations for each byte moved",
    up="TFLOP/s at best",
    log="xy",
)
show(figure, "17_gpu")

# %%
# Only large products reach the roof. All else waits for memory, and there is only one remedy: move
# fewer bytes.
#
# One kernel instead of six
# -------------------------
#
# Layer norm written with arrays (lesson 04) takes the mean, subtracts, squares, takes the mean
# again, multiplies, scales, shifts. Each step reads an array from memory and writes one. A *kernel*
# is a function that runs on the card as thousands of threads, and it can do all of it while a row
# is at hand: read once, write once. Threads of a *block* share a row; each adds up every 32nd
# number, and then their sums are added in a tree, half of them at a time. Between two rounds all
# must have finished: a *barrier*. Here the threads of one block are one axis of an array:

THREADS = 32


def block_sum(partial):
    half = THREADS // 2
    while half:
        partial[:half] += partial[half : 2 * half]  # barrier: all have added
        half //= 2
    return partial[0]


def layer_norm_kernel(row, gamma, beta, eps):
    mine = row.reshape(-1, THREADS)  # thread t has numbers t, t + 32, t + 64, ...
    mean = block_sum(mine.sum(axis=0)) / row.size
    centred = mine - mean
    rstd = (block_sum((centred**2).sum(axis=0)) / row.size + eps) ** -0.5
    return (centred * rstd).reshape(-1) * gamma + beta


# %%
# In CUDA C++ the same lines say what *one* thread does. Where there is a card, CuPy compiles them.

SOURCE = r"""
__device__ float block_sum(float mine) {
    __shared__ float partial[32];               // memory that the threads of a block share
    partial[threadIdx.x] = mine;
    __syncthreads();                            // the barrier
    for (int half = 16; half; half /= 2) {
        if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
        __syncthreads();
    }
    float total = partial[0];
    __syncthreads();                            // nobody overwrites it before all have read
    return total;
}
extern "C" __global__ void layer_norm(
    const float* x, const float* gamma, const float* beta, float* y, int d, float eps) {
    x += blockIdx.x * d;                        // one block for each row
    y += blockIdx.x * d;
    float sum = 0, squares = 0;
    for (int i = threadIdx.x; i < d; i += 32) sum += x[i];
    float mean = block_sum(sum) / d;
    for (int i = threadIdx.x; i < d; i += 32) squares += (x[i] - mean) * (x[i] - mean);
    float rstd = rsqrtf(block_sum(squares) / d + eps);
    for (int i = threadIdx.x; i < d; i += 32)
        y[i] = (x[i] - mean) * rstd * gamma[i] + beta[i];
}
"""
from scratch_vlm.layers.norm import layer_norm_forward

x = rng.normal(size=(4, 96)).astype("float32")
gamma, beta = rng.normal(size=(2, 96)).astype("float32")
expected, _ = layer_norm_forward(x, {"gamma": gamma, "beta": beta})
imitated = np.stack([layer_norm_kernel(row, gamma, beta, 1e-5) for row in x])
assert np.allclose(imitated, expected, atol=1e-5)
if not problem:
    cupy = load("cupy")
    kernel, y = cupy.RawKernel(SOURCE, "layer_norm"), cupy.empty_like(cupy.asarray(x))
    on_card = [cupy.asarray(array) for array in (x, gamma, beta)]
    kernel((4,), (THREADS,), (*on_card, y, np.int32(96), np.float32(1e-5)))
    assert np.allclose(to_host(y), expected, atol=1e-5)

# %%
# Six steps with arrays read and write each number six times, the kernel once.
#
# Sixteen bits
# ------------
#
# *bfloat16* is the upper half of a float32: the same range, and 8 bits of precision. Products are
# many times faster with it. But near 1 its numbers lie 1/128 apart, and 256 + 1 is 256:


def bfloat16(x):
    bits = np.asarray(x, "float32").view("uint32")
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)  # to nearest, ties to even
    return (rounded & 0xFFFF0000).astype("uint32").view("float32")


assert bfloat16(256.0) + bfloat16(1.0) == 257 and bfloat16(257.0) == 256
assert bfloat16(1 + 1 / 128) > 1 == bfloat16(1 + 1 / 512)

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
        logits = bfloat16(bfloat16(x) @ bfloat16(w))
        _, saved = cross_entropy_forward(logits, train.labels)
        dw = x.T @ cross_entropy_backward(np.float32(1), saved)
        w = keep(w - np.float32(0.02) * dw)
    return float(((x_test @ w).argmax(axis=1) == test.labels).mean())


kept32, kept16 = accuracy_after(1500, lambda w: w), accuracy_after(1500, bfloat16)
print(f"weights kept in 32 bits: {kept32:.3f} right, in 16 bits: {kept16:.3f}")
assert kept32 > 0.7 and kept32 - kept16 > 0.1

# %%
# Exercises
# ---------
#
# **1. Where the roof begins.** How large must a square product of 32-bit numbers be to reach the
# peak of 67 TFLOP/s? Give the smallest n.


def check_size(n):
    def bound(n):
        return BANDWIDTH * intensity_of_product(n, 4)

    assert bound(n) >= PEAK32, "still bound by memory"
    assert bound(n - 1) < PEAK32, "a smaller one will do"


# %%
# **2. A fused softmax.** Write a softmax of one row as a kernel would: 32 threads, a tree for the
# maximum and one for the sum.


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
# * NVIDIA, *H100 Tensor Core GPU*, data sheet, 2023: peaks without sparsity, and bandwidth.
# * P. Micikevicius et al., *Mixed Precision Training*, 2017, arXiv:1710.03740.
# * T. Dao et al., *FlashAttention*, 2022, arXiv:2205.14135: the largest gain from moving less.
