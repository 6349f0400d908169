r"""
What makes depth trainable?
===========================

One layer of attention lets each token read the others once. Models stack dozens of them. A stack
only learns if a slope that enters at the top still says something at the bottom. The *transformer
block* is built around that: heads, layer norm, an MLP, and two sums that nothing interrupts. We
take it apart, build it, stack it forty times, and count what it costs.
"""

# %%
# Heads
# -----
#
# A softmax makes one mixture. A token that wants to know what stands on its left *and* what stands
# on its right gets the average of both, and cannot tell them apart. So the channels are split into
# *heads*, each of which asks its own question with its own share of the channels. The middle one of
# three tokens looks left with its first head and right with its second:

import numpy as np

from scratch_vlm.ops.attend import attend_forward

v = np.array([[10.0, 10.0], [0.0, 0.0], [30.0, 30.0]])  # three tokens, two channels
left, right = np.array([[1.0, 0, 0]]), np.array([[0, 0, 1.0]])  # weights on the three
one = (left + right) / 2 @ v
two = np.concatenate([left @ v[:, :1], right @ v[:, 1:]], axis=1)
print("one head:", one[0], " two heads:", two[0])
assert (one == [20, 20]).all() and (two == [10, 30]).all()

# %%
# Two heads of half the width take as many multiplications as one of the full width, and a split is
# only another way to walk through the same memory (lesson 01). Heads are one more axis of the same
# attention:

rng = np.random.default_rng(0)
q, k, v = rng.normal(size=(3, 1, 5, 8))  # one image, 5 tokens, 8 channels


def split(x, heads):
    return x.reshape(1, 5, heads, 8 // heads).swapaxes(1, 2)  # (B, A, T, K)


together, _ = attend_forward(*(split(x, 2) for x in (q, k, v)))
for head in range(2):
    alone, _ = attend_forward(*(x[:, None, :, 4 * head : 4 * head + 4] for x in (q, k, v)))
    assert np.allclose(together[:, head], alone[:, 0])

# %%
# Layer norm, the long way
# ------------------------
#
# Layer norm takes each token by itself, moves the mean of its channels to 0 and their variance to
# 1, so that what the next layer reads has the same size at any depth. The token (1, 3) has mean 2
# and deviation 1; it becomes (-1, 1).
#
# .. math:: \hat x = \frac{x - \mu}{\sigma}, \qquad \sigma^2 = \frac1D \sum_i (x_i - \mu)^2
#
# (In the library a learned scale and shift for each channel follow, which start at 1 and 0 and are
# left out here, and a tiny ``eps`` is added to the variance, so that a token of equal numbers does
# not divide by zero.) The backward, one line of the forward at a time, from the bottom up:


def norm_forward(x):
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    rstd = variance**-0.5  # 1 / sigma
    return centred * rstd, (centred, rstd)


def norm_backward_long(dy, saved):
    centred, rstd = saved
    drstd = (dy * centred).sum(axis=-1, keepdims=True)
    dcentred = dy * rstd
    dvariance = -0.5 * rstd**3 * drstd
    dcentred += dvariance * 2 * centred / centred.shape[-1]
    return dcentred - dcentred.mean(axis=-1, keepdims=True)


assert np.allclose(norm_forward(np.array([1.0, 3.0]))[0], [-1, 1])

# %%
# The short way
# -------------
#
# Put the lines into each other. With :math:`c = x - \mu = \sigma \hat x`, what comes through the
# variance is
#
# .. math:: -\frac{\mathrm{sum}(d\hat x \circ c)}{2\sigma^3} \cdot \frac{2c}{D}
#    = -\frac{1}{\sigma}\, \hat x\; \mathrm{mean}(d\hat x \circ \hat x)
#
# with sums and means over the channels, and :math:`\circ` for products number by number. The last
# line of the backward takes the mean away, and this term has none. So all in all
#
# .. math:: dx = \frac{1}{\sigma} \left(d\hat x - \mathrm{mean}(d\hat x)
#    - \hat x\;\mathrm{mean}(d\hat x \circ \hat x)\right)
#
# It can be understood without the algebra. Normalising threw two things away: the mean and the size
# of the token. What was thrown away cannot matter, so no slope may come back along either: the
# second term removes what points along the mean, the third what points along the token itself.


def norm_backward(dy, saved):
    centred, rstd = saved
    y = centred * rstd
    along = (dy * y).mean(axis=-1, keepdims=True)
    return rstd * (dy - dy.mean(axis=-1, keepdims=True) - y * along)


from scratch_vlm.gradcheck import check
from scratch_vlm.layers.norm import layer_norm_backward, layer_norm_forward, layer_norm_init

x, dy = rng.normal(size=(2, 5, 8))
y, saved = norm_forward(x)
dx = norm_backward(dy, saved)
print(check(norm_forward, norm_backward, [x]))
assert np.allclose(dx, norm_backward_long(dy, saved))
assert np.allclose(dx.sum(axis=-1), 0) and np.allclose((dx * y).sum(axis=-1), 0)

library_y, library_saved = layer_norm_forward(x, layer_norm_init(8), eps=0.0)
assert np.allclose(library_y, y)
assert np.allclose(layer_norm_backward(dy, library_saved, {}), dx)  # {} for frozen parameters

# %%
# The block
# ---------
#
# A block is two steps. First tokens *read* each other: the attention of lesson 03, with one
# sequence that asks itself. Then each one *thinks* by itself: an *MLP* (multilayer perceptron),
# which is a linear layer to four times the width, a bend, and a linear layer back. The bend is the
# *GELU*, :math:`x\,\Phi(x)`, where :math:`\Phi(x)` is the chance that a normal random number is
# below x: a smooth ramp, flat on the left and :math:`x` on the right. Each step reads a normalised
# copy of the token, and what it finds is *added* to the token:
#
# .. math:: x \leftarrow x + \mathrm{attn}(\mathrm{ln}_1(x)), \qquad
#    x \leftarrow x + \mathrm{mlp}(\mathrm{ln}_2(x))
#
# The line of tokens that everything is added to is the *residual stream*. In the backward a sum
# hands its slope to both of its parts. So ``dy`` runs straight through both sums, past everything,
# and the branches only add to it. Read the backward against the forward, from the bottom up:

from scratch_vlm.layers.attention import self_attention_backward, self_attention_forward
from scratch_vlm.layers.block import (
    BlockConfig,
    block_init,
    pre_block_backward,
    pre_block_forward,
)
from scratch_vlm.layers.mlp import mlp_backward, mlp_forward
from scratch_vlm.tree import leaves, tree_map


def block_forward(x, p, heads):
    s = {}
    h, s["ln1"] = layer_norm_forward(x, p["ln1"])
    h, s["attn"] = self_attention_forward(h, p["attn"], heads=heads)
    x = x + h
    h, s["ln2"] = layer_norm_forward(x, p["ln2"])
    h, s["mlp"] = mlp_forward(h, p["mlp"])
    return x + h, s


def block_backward(dy, s, g):
    dh = mlp_backward(dy, s["mlp"], g["mlp"])
    dx = dy + layer_norm_backward(dh, s["ln2"], g["ln2"])
    dh = self_attention_backward(dx, s["attn"], g["attn"])
    return dx + layer_norm_backward(dh, s["ln1"], g["ln1"])


config = BlockConfig(width=64, heads=4, hidden=256)
p = tree_map(lambda w: w.astype(float), block_init(rng, config))
x, dy = rng.normal(size=(2, 2, 16, 64))
g, library_g = (tree_map(np.zeros_like, p) for _ in range(2))
y, s = block_forward(x, p, heads=4)
library_y, library_s = pre_block_forward(x, p, config=config)
assert np.allclose(library_y, y)
assert np.allclose(pre_block_backward(dy, library_s, library_g), block_backward(dy, s, g))
for (name, mine), (_, library) in zip(leaves(g), leaves(library_g), strict=True):
    assert np.allclose(library, mine), name
print("weights of a block:", *(name for name, _ in leaves(p)))

# %%
# Forty blocks
# ------------
#
# Real digits now, cut into 16 patches, each widened to 64 channels by a random matrix. We stack
# forty blocks that have learned nothing yet, with the sums and norms and without, send a slope in
# at the top, and look how large it is when it comes out of each block.

from functools import partial

from scratch_vlm.data.digits import load_digits
from scratch_vlm.ops.patches import patchify_forward

patches, _ = patchify_forward(load_digits().images[:8, :, :, None], patch=(2, 2))
tokens = (patches - patches.mean()) @ rng.normal(size=(4, 64))
blocks = [tree_map(lambda w: w.astype(float), block_init(rng, config)) for _ in range(40)]

PARTS = (
    ("ln1", "attn", partial(self_attention_forward, heads=4), self_attention_backward),
    ("ln2", "mlp", mlp_forward, mlp_backward),
)


def layer_forward(x, p, sums, norms):
    s = {}
    for norm, name, forward, _ in PARTS:
        h = x
        if norms:
            h, s[norm] = layer_norm_forward(h, p[norm])
        h, s[name] = forward(h, p[name])
        x = x + h if sums else h
    return x, s


def layer_backward(dy, s, g, sums, norms):
    for norm, name, _, backward in reversed(PARTS):
        dh = backward(dy, s[name], g[name])
        if norms:
            dh = layer_norm_backward(dh, s[norm], g[norm])
        dy = dy + dh if sums else dh
    return dy


def slopes_by_depth(**kind):
    x, saved = tokens, []
    for p in blocks:
        x, s = layer_forward(x, p, **kind)
        saved.append(s)
    dx = rng.normal(size=x.shape)
    sizes = [np.linalg.norm(dx)]
    for p, s in zip(reversed(blocks), reversed(saved), strict=True):
        dx = layer_backward(dx, s, tree_map(np.zeros_like, p), **kind)
        sizes.append(np.linalg.norm(dx))
    return np.array(sizes) / sizes[0], x.std() / tokens.std()  # slopes from top to bottom


kinds = {"neither": (False, False), "sums only": (True, False), "sums and norms": (True, True)}
curves, grown = {}, {}
for name, (sums, norms) in kinds.items():
    curves[name], grown[name] = slopes_by_depth(sums=sums, norms=norms)
    print(f"{name:14}: tokens times {grown[name]:.1e}, slope times {curves[name][-1]:.1e}")
assert curves["neither"][-1] < 1e-8 and (np.diff(curves["neither"]) < 0).all()
assert curves["sums only"][-1] > 1e8 and grown["sums only"] > 1e4
both = curves["sums and norms"]
assert 5 < both[-1] < 20 and grown["sums and norms"] < 10
assert both[40] / both[35] > both[35] / both[0], "the lowest five change it more than the others"

from scratch_vlm.viz.lines import lines
from scratch_vlm.viz.show import show

figure = lines(
    np.arange(40, -1, -1), curves, across="blocks below", up="slope, relative to the top", log="y"
)
show(figure, "04_transformer_block")

# %%
# Without the sums every block shrinks it. With sums but without norms it explodes: the larger the
# tokens that a branch reads, the more it adds, so the stream grows by a factor from block to block,
# and the slope on its way back by more.
#
# A norm ends this. However large the stream is, a branch reads tokens of size 1, and what it adds
# has about the same size in every block: the stream grows like a sum, not like a power. And the
# slope that comes back through a norm is divided by :math:`\sigma`, the size of the stream: the
# higher a block stands, the less its branches change the slope. So forty blocks change it about
# tenfold, the lowest five more than the other 35 together.
#
# What ``saved`` costs
# --------------------
#
# The price of a backward is memory: each forward keeps what its backward will read. ``saved`` is a
# tree of arrays, so it can be counted, without the weights, which are there anyway.

from scratch_vlm.tree import nbytes

weights = nbytes(blocks[0])
_, s = block_forward(tokens, blocks[0], heads=4)
kept = nbytes(s) - weights
print(f"tokens {tokens.nbytes / 1024:.0f} KiB, kept by one block {kept / 1024:.0f} KiB")
assert kept > 15 * tokens.nbytes

# %%
# The remedy is older than transformers: *forget, and compute again*. Keep only the input of a
# block; when its backward comes, run its forward once more. The gradients are the same to the last
# bit, and forty blocks keep forty inputs and, one at a time, what one block keeps. The price is a
# second forward: about a third more time, as a backward costs about two forwards (for a product of
# matrices it is two products, lesson 02). `scratch_vlm.recompute.recomputed` wraps any pair:

from scratch_vlm.recompute import recomputed

light_forward, light_backward = recomputed(block_forward, block_backward)
dy = rng.normal(size=tokens.shape)
g, light_g = (tree_map(np.zeros_like, blocks[0]) for _ in range(2))
_, light_s = light_forward(tokens, blocks[0], heads=4)
dx = block_backward(dy, s, g)
assert np.array_equal(light_backward(dy, light_s, light_g), dx)
assert np.array_equal(light_g["mlp"]["fc"]["w"], g["mlp"]["fc"]["w"])
assert nbytes(light_s) - weights == tokens.nbytes

# %%
# Exercises
# ---------
#
# **1. RMS norm.** Llama normalises without taking the mean away: :math:`y = x / r` with
# :math:`r^2 = \frac1D \sum_i x_i^2`. Give forward and backward. (Which of the three terms goes?)


def check_rms(forward, backward):
    x = rng.normal(size=(5, 8))
    y, _ = forward(x)
    assert np.allclose((y**2).mean(axis=-1), 1), "the mean square is not 1"
    check(forward, backward, [x])


# %%
# **2. A block that does nothing.** Which parameters must be zero for a block to hand on its input
# and its slope unchanged, whatever the others are? Take the parameters of a block, and return them
# with these four set to zero. (Many trainings start like this.)


def check_nothing(zeroed):
    p = zeroed(tree_map(lambda w: rng.normal(size=w.shape), blocks[0]))
    y, s = block_forward(tokens, p, heads=4)
    assert np.array_equal(y, tokens), "the input is changed"
    assert np.array_equal(block_backward(dy, s, tree_map(np.zeros_like, p)), dy)
    zeros = [name for name, w in leaves(p) if not w.any()]
    assert len(zeros) == 4, f"four will do, and these are zero: {zeros}"


# %%
# **3. The square.** How many bytes do the attention weights of one block take, for B images of T
# tokens, A heads, and numbers of a given size? They are what grows fastest with T.


def check_square(count):
    x = rng.normal(size=(2, 96, 64))
    _, s = block_forward(x, blocks[0], heads=4)
    assert count(2, 96, 4, 8) == s["attn"]["attend"]["e"].nbytes


# %%
# Sources
# -------
#
# * J. L. Ba, J. R. Kiros and G. E. Hinton, *Layer Normalization*, 2016, arXiv:1607.06450.
# * K. He et al., *Deep Residual Learning for Image Recognition*, 2015, arXiv:1512.03385.
# * R. Xiong et al., *On Layer Normalization in the Transformer Architecture*, 2020,
#   arXiv:2002.04745: why the norm stands inside the branch.
# * T. Chen et al., *Training Deep Nets with Sublinear Memory Cost*, 2016, arXiv:1604.06174.
