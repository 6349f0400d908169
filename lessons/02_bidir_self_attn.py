r"""
How does one token read all the others?
=======================================

A *token* is a row of numbers that stands for something: a word, a patch of an image. Alone it knows
only itself. Self-attention lets each token look at all tokens, decide how much each of them matters
to it, and take home a mixture. *Bidirectional* means that it looks both ways, to what comes before
it and to what comes after.

This lesson computes that mixture by hand, finds its gradient, and looks at what the patches of a
real handwritten digit see in each other.
"""

# %%
# Three tokens
# ------------
#
# Each token plays three parts. Its *query* says what it looks for, its *key* what it can be found
# by, its *value* what it hands over. The *score* of a query and a key is their dot product. Here
# are three tokens of two numbers each. Keys and values are the tokens themselves, and the queries
# are the tokens times the logarithm of two, so that the exponentials below come out whole.

import math

import numpy as np

x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
k = v = x
q = math.log(2) * x
scores = q @ k.T
print(np.exp(scores).round())
assert np.allclose(np.exp(scores), [[2, 1, 2], [1, 2, 2], [2, 2, 4]])

# %%
# Row t holds the scores of token t with every token. The *softmax* of a row, its exponentials
# divided by their sum, turns them into weights that are positive and add up to one. The first token
# finds 2, 1, 2, which makes weights 0.4, 0.2, 0.4, so it takes 0.4 of the first value, 0.2 of the
# second and 0.4 of the third:

weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
y = weights @ v
print("weights of the first token:", weights[0].round(3), " it reads:", y[0].round(3))
assert np.allclose(weights[0], [0.4, 0.2, 0.4])
assert np.allclose(y[0], [0.8, 0.6])

# %%
# In one line, with one row for each token in :math:`Q`, :math:`K` and :math:`V`:
#
# .. math:: Y = P V, \qquad P = \mathrm{softmax}\!\left(\frac{Q K^\top}{\sqrt{d}}\right)
#
# Here :math:`d` is the length of a query. Our three tokens did without the division. Long ones
# cannot:
#
# Why divide?
# -----------
#
# Let a query and a key have :math:`d` independent numbers of mean zero and variance one. Each of
# the products has variance one, too, and variances add up: their sum, the score, has variance
# :math:`d`. The longer the vectors, the farther apart the scores, until the softmax gives
# everything to one token, whatever the others say, and there is no slope left to learn from.
# Dividing by :math:`\sqrt{d}` keeps the scores where they were. For a thousand queries with ten
# keys each:

rng = np.random.default_rng(0)


def largest_weight(scores):
    e = np.exp(scores)
    return (e / e.sum(axis=1, keepdims=True)).max(axis=1).mean()


for d in (4, 64, 1024):
    dots = np.einsum("nd,nsd->ns", rng.normal(size=(1000, d)), rng.normal(size=(1000, 10, d)))
    spread, large, divided = dots.std(), largest_weight(dots), largest_weight(dots / d**0.5)
    print(f"d = {d:4}: spread {spread:4.1f}, largest weight {large:.2f}, divided {divided:.2f}")
    assert abs(spread / d**0.5 - 1) < 0.05 and divided < 0.4
assert large > 0.95

# %%
# Why subtract?
# -------------
#
# The exponential of 1000 is more than a computer can hold. But a softmax does not change when the
# same number is taken from all scores of a row, so we take away the largest. The largest
# exponential is then 1, and none overflows:

large = np.array([1000.0, 999.0, 998.0])
with np.errstate(over="ignore"):
    assert np.isinf(np.exp(large)).all()
shifted = np.exp(large - large.max())
print("softmax of 1000, 999, 998:", (shifted / shifted.sum()).round(3))
assert np.allclose(shifted, [1, math.exp(-1), math.exp(-2)])

# %%
# The whole forward, and a mask
# -----------------------------
#
# A *mask* says who may look at whom: True where row t may read column s. A forbidden score becomes
# minus infinity, whose exponential is exactly zero. One trap is left. In a row without any True all
# scores are minus infinity, and a softmax would divide zero by zero. Such a token has nothing to
# read, so it reads zero:


def attention_forward(q, k, v, mask):
    z = np.where(mask, q @ k.T / math.sqrt(q.shape[1]), -math.inf)
    top = np.maximum(z.max(axis=1, keepdims=True), np.finfo(z.dtype).min)  # never minus infinity
    e = np.exp(z - top)
    total = e.sum(axis=1, keepdims=True)
    p = np.divide(e, total, out=np.zeros_like(e), where=total > 0)
    return p @ v, (q, k, v, p)


mask = np.array([[True, True, False], [True, True, True], [False, False, False]])
y, saved = attention_forward(q, k, v, mask)
print(y.round(3))
assert saved[3][0, 2] == 0, "the first token may not read the third"
assert (y[2] == 0).all(), "a token with nothing to read reads zero"

# %%
# The way back
# ------------
#
# Let ``dy`` hold the slope of a loss with respect to each number of :math:`Y` (lesson 01). Which
# slopes follow for what went in? Read the forward from the bottom up.
#
# *The mixture*, :math:`Y = P V`, is a product of two matrices:
# :math:`Y_{tj} = \sum_s P_{ts} V_{sj}`. The weight :math:`P_{ts}` is found in row :math:`t` of
# :math:`Y` alone, each time beside a number of row :math:`s` of :math:`V`. So its slope is
# :math:`\sum_j dY_{tj} V_{sj}`, and as matrices
#
# .. math:: dP = dY\, V^\top, \qquad dV = P^\top dY
#
# A product hands each factor the slope, times the other factor. That holds for every product to
# come.
#
# *The softmax*, one row at a time: :math:`p_i = e^{z_i} / \sum_k e^{z_k}`. By the quotient rule
#
# .. math:: \frac{\partial p_i}{\partial z_j} = p_i ([i = j] - p_j)
#
# where :math:`[i = j]` is 1 if it is true and 0 if not: raising one score raises its own weight and
# lowers all others, for they share one total. Summed over all weights of the row,
#
# .. math:: dz_j = \sum_i dp_i\, p_i ([i = j] - p_j) = p_j \Big(dp_j - \sum_i p_i\, dp_i\Big)
#
# In words: what counts is how far the slope of a weight lies above the average of its row.
#
# *The scores*, :math:`Z = Q K^\top / \sqrt{d}`, are again a product:
#
# .. math:: dQ = dZ\, K / \sqrt{d}, \qquad dK = dZ^\top Q / \sqrt{d}
#
# That is all of it:


def attention_backward(dy, saved):
    q, k, v, p = saved
    dv = p.T @ dy
    dp = dy @ v.T
    dz = p * (dp - (p * dp).sum(axis=1, keepdims=True))
    root = math.sqrt(q.shape[1])
    return dz @ k / root, dz.T @ q / root, dv


# %%
# Is it right? Two witnesses. The first measures (lesson 01). The second is the library, whose
# attention has two more axes in front, for the images of a batch and for *heads*, which lesson 04
# adds.

from scratch_vlm.gradcheck import check
from scratch_vlm.ops.attend import attend_backward, attend_forward, attention_weights

q, k, v = rng.normal(size=(3, 3, 2))
print(check(lambda *x: attention_forward(*x, mask), attention_backward, [q, k, v]))

dy = rng.normal(size=(3, 2))
y, saved = attention_forward(q, k, v, mask)
theirs, kept = attend_forward(*(a[None, None] for a in (q, k, v)), mask=mask)
assert np.allclose(theirs[0, 0], y)
gradients = attend_backward(dy[None, None], kept)
for mine, library in zip(attention_backward(dy, saved), gradients, strict=True):
    assert np.allclose(library[0, 0], mine)

# %%
# No order
# --------
#
# Nothing above asks where a token stands. Shuffle the tokens, and the outputs are shuffled alike
# and otherwise the same; one says that attention is *equivariant* to permutations. It reads a set,
# not a sequence. If order matters, somebody has to write it into the tokens: lesson 05 does.

everything = np.ones((3, 3), bool)
order = np.array([2, 0, 1])
y, _ = attention_forward(q, k, v, everything)
shuffled, _ = attention_forward(q[order], k[order], v[order], everything)
assert np.allclose(shuffled, y[order])

# %%
# What the patches of a digit see in each other
# ---------------------------------------------
#
# Now real pixels: a handwritten digit of 8 x 8, ink white on black paper. We cut it into patches of
# 2 x 2, which makes a row of 16 tokens, and take away the mean patch, so that paper and ink point
# in opposite directions. Nothing is learned yet: query, key and value are the patch itself, four
# times as large in the query, so that the weights are clear. Whom does the framed patch read?

from scratch_vlm.data.digits import split
from scratch_vlm.ops.patches import patchify_forward
from scratch_vlm.viz.attention import attention_maps
from scratch_vlm.viz.show import show

digits = split("train")
image = digits.images[(digits.labels == 8).argmax()]
tokens, _ = patchify_forward(image[None, :, :, None], patch=(2, 2))
tokens = tokens[0].astype(float)  # (16, 4)
assert tokens.shape == (16, 4)
ink = tokens.mean(axis=1)
centred = tokens - tokens.mean(axis=0)
_, kept = attend_forward(*(a[None, None] for a in (4 * centred, centred, centred)))
weights = attention_weights(kept)[0, 0]

inked, blank = ink.argmax(), ink.argmin()
to_ink = [weights[t] @ (ink > ink.mean()) for t in (inked, blank)]
print(f"weight on patches with ink: from ink {to_ink[0]:.2f}, from paper {to_ink[1]:.2f}")
assert to_ink[0] > 2 * to_ink[1]
names = ["the patch with most ink", "the emptiest patch"]
seen = weights[[inked, blank]]
figure = attention_maps(image, seen, grid=(4, 4), labels=names, asking=[inked, blank], mean=False)
show(figure, "02_bidir_self_attn")

# %%
# Like finds like, ink reads ink and paper reads paper: without any training, attention already
# groups what belongs together. What training adds are three matrices that make queries, keys and
# values out of a token, so that it can look for something *unlike* itself: lesson 03.
#
# Exercises
# ---------
#
# **1. Only backwards.** Make the mask for n tokens of which each reads itself and those before it,
# as the words of a language model do.


def check_causal(make_mask):
    mask = make_mask(3)
    y, _ = attention_forward(q, k, v, mask)
    assert np.allclose(y[0], v[0]), "the first token can only read itself"
    assert np.array_equal(mask, [[1, 0, 0], [1, 1, 0], [1, 1, 1]]), f"this is your mask:\n{mask}"


# %%
# **2. An average.** Find queries with which every token reads the mean of all values, whatever the
# keys are.


def check_average(make_queries):
    y, _ = attention_forward(make_queries(k), k, v, everything)
    assert np.allclose(y, v.mean(axis=0)), f"the mean is {v.mean(axis=0)} and you read\n{y}"


# %%
# **3. A row of slopes.** Adding the same number to all scores of a row changes nothing. So what is
# the sum of each row of ``dz``? Give the function that proves it: from ``dp`` and ``p`` to ``dz``.


def check_rows(softmax_backward):
    p = saved[3]
    dp = dy @ v.T
    dz = softmax_backward(dp, p)
    assert np.allclose(dz @ k / math.sqrt(2), attention_backward(dy, saved)[0]), "not the slope"
    assert np.allclose(dz.sum(axis=1), 0), f"the rows of dz add up to {dz.sum(axis=1)}"


# %%
# Sources
# -------
#
# * A. Vaswani et al., *Attention Is All You Need*, 2017, arXiv:1706.03762: equation 1, and footnote
#   4 on the division.
# * J. Devlin et al., *BERT*, 2018, arXiv:1810.04805: what a bidirectional stack of it can do.
# * T. Dao et al., *FlashAttention*, 2022, arXiv:2205.14135, appendix B: the same gradient without
#   keeping the matrix of weights; our `attend_backward` uses its first step.
