r"""
Would you have seen it?
=======================

The most dangerous mistake in a model is one that does not crash. The loss falls, the answers look
reasonable, and nobody finds out that tokens see images they must not see. This lesson shows eight
mistakes of good people, taken from the public threads of well-known implementations. Read each one
and look for the mistake before you read on. Then see the *property* that catches it: a statement
about what must not change, which needs no right answer to compare with.
"""

# %%
# A property is a sentence
# ------------------------
#
# "Shuffle the patches, and nothing changes." "Add an image that the text may not see, and nothing
# changes." Such a sentence can be tested on random numbers, for every size, in a few lines. Each is
# a function below, which takes the part that may be wrong and says whether the sentence holds.

import math

import numpy as np

from scratch_vlm.ops.attend import attend_forward

rng = np.random.default_rng(0)
caught = []


def record(name, holds, right, wrong):
    """The sentence must hold for the right version and fail for the wrong one."""
    assert holds(right), f"{name}: the sentence is false for the right version"
    assert not holds(wrong), f"{name}: the sentence does not catch the mistake"
    caught.append(name)


# %%
# 1. The last image before each word
# ----------------------------------
#
# Flamingo's rule: each word sees the last image before it. Count the images up to each word, number
# the images from one, and compare. Where is the mistake?

from scratch_vlm.ops.masks import media_mask

at = np.array([[0, 0, 1, 0, 0, 1, 0]]) > 0  # an image stands at words 2 and 5


def sees_wrong(at):
    count = at.cumsum(axis=1)[..., None]  # images up to each word
    return count >= np.arange(1, at.sum() + 1)


# %%
# With ``>=`` a word sees *all* images before it, not only the last. The sentence: *each word sees
# one image at most*. (flamingo-pytorch, issue 6)

record(
    "sees too much",
    lambda sees: sees(at).sum(axis=-1).max() <= 1,
    lambda at: media_mask(at, 2, rule="last"),
    sees_wrong,
)

# %%
# 2. A very large negative number
# -------------------------------
#
# What is forbidden gets a score of minus a billion instead of minus infinity, "which is numerically
# safer". What happens to a word that may see nothing?


def attend_wrong(q, k, v, mask):
    z = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    z = np.where(mask, z, -1e9)
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True) @ v


# %%
# All its scores are equal, so it reads the mean of everything that it must not see. The sentence:
# *values that nobody may see change nothing*. (transformers, issue 39379)


def unseen_values_change_nothing(attend):
    q, k, v = rng.normal(size=(3, 1, 1, 4, 8))
    mask = np.zeros((4, 4), bool)
    mask[1:, :2] = True  # the first word sees nothing, nobody sees values 2 and 3
    other = v.copy()
    other[:, :, 2:] += 100
    return np.allclose(attend(q, k, v, mask), attend(q, k, other, mask))


record(
    "large negative number",
    unseen_values_change_nothing,
    lambda q, k, v, mask: attend_forward(q, k, v, mask=mask)[0],
    attend_wrong,
)

# %%
# 3. The same softmax twice
# -------------------------
#
# CLIP's loss asks each image for its text and each text for its image, and takes the mean:

from scratch_vlm.ops.losses import contrastive_forward


def log_softmax(z, axis):
    z = z - z.max(axis=axis, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=axis, keepdims=True))


def clip_loss_wrong(images, texts):
    z = 10 * images @ texts.T
    by_image = -np.diag(log_softmax(z, axis=1)).mean()
    by_text = -np.diag(log_softmax(z.T, axis=0)).mean()
    return (by_image + by_text) / 2


# %%
# Transposing *and* changing the axis undo each other: both halves ask the images. The loss still
# falls. The sentence: *swap images and texts, and the loss is the same*. (openai/CLIP, issue 83,
# where the two terms are asked about)


def swapping_changes_nothing(loss):
    images, texts = rng.normal(size=(2, 6, 8))
    return np.isclose(loss(images, texts), loss(texts, images))


record(
    "same softmax twice",
    swapping_changes_nothing,
    lambda images, texts: contrastive_forward(images, texts, np.log(10.0))[0],
    clip_loss_wrong,
)

# %%
# 4. The largest number is the last word
# --------------------------------------
#
# A text is summed up by its end token. CLIP's end token has the largest id of its vocabulary, so it
# can be found by ``argmax``. Then somebody adds a token for a new word, with a larger id:


def pool_wrong(ids, tokens, end):
    return tokens[np.arange(len(ids)), ids.argmax(axis=1)]


def pool_right(ids, tokens, end):
    return tokens[np.arange(len(ids)), (ids == end).argmax(axis=1)]


# %%
# The sentence: *ids are names; rename them, and nothing changes*. (transformers, issues 21029 and
# 24650)


def renaming_changes_nothing(pool):
    ids, tokens = np.array([[5, 2, 9, 0], [7, 9, 0, 0]]), rng.normal(size=(2, 4, 8))
    names = rng.permutation(10)
    while names[9] > 5:  # until the end token is no longer the largest
        names = rng.permutation(10)
    return np.allclose(pool(ids, tokens, 9), pool(names[ids], tokens, names[9]))


record("end by argmax", renaming_changes_nothing, pool_right, pool_wrong)

# %%
# 5. Small batches that add up
# ----------------------------
#
# A batch does not fit into memory, so it is cut into pieces, and the mean of their losses is taken,
# piece by piece. For most losses that is exact. And for this one?


def accumulated_wrong(images, texts, pieces):
    cut = zip(np.split(images, pieces), np.split(texts, pieces), strict=True)
    return np.mean([contrastive_forward(i, t, np.log(10.0))[0] for i, t in cut])


# %%
# In a contrastive loss the other samples of the batch *are the question*. Half a batch asks an
# easier one: guessing costs the logarithm of 4 instead of that of 8. All embeddings must be there
# before the first piece asks (lesson 07). The sentence: *cutting a batch changes nothing*.
# (open_clip, pull request 267)


def accumulated_right(images, texts, pieces):
    losses = []
    for own in np.split(np.arange(len(images)), pieces):
        for asking, answering in ((images, texts), (texts, images)):
            z = 10 * asking[own] @ answering.T  # a piece asks, and all answer
            losses.append(-log_softmax(z, axis=1)[:, own].diagonal().mean())
    return np.mean(losses)


def cutting_changes_nothing(loss):
    images, texts = rng.normal(size=(2, 8, 16))
    return np.isclose(loss(images, texts, 1), loss(images, texts, 2))


record("accumulated contrast", cutting_changes_nothing, accumulated_right, accumulated_wrong)

# %%
# 6. A prompt that reads ahead
# ----------------------------
#
# With a cache of keys and values, a new word reads everything before it, so it needs no mask. The
# cache is filled by the prompt, many words at once:


def continue_wrong(q, k, v):
    prompt = attend_forward(q[:, :, :3], k[:, :, :3], v[:, :, :3])[0]
    new = attend_forward(q[:, :, 3:], k, v)[0]
    return np.concatenate([prompt, new], axis=2)


def continue_right(q, k, v):
    causal = np.tril(np.ones((3, 3), bool))
    prompt = attend_forward(q[:, :, :3], k[:, :, :3], v[:, :, :3], mask=causal)[0]
    new = attend_forward(q[:, :, 3:], k, v)[0]
    return np.concatenate([prompt, new], axis=2)


# %%
# The new word is right; the words of the prompt have read ahead, as they never did in training. The
# sentence: *with a cache and without, the same numbers*. (TinyLLM, pull request 18)


def cache_changes_nothing(with_cache):
    q, k, v = rng.normal(size=(3, 1, 2, 4, 8))
    whole = attend_forward(q, k, v, mask=np.tril(np.ones((4, 4), bool)))[0]
    return np.allclose(with_cache(q, k, v), whole)


record("prompt reads ahead", cache_changes_nothing, continue_right, continue_wrong)

# %%
# 7. Nothing to learn here
# ------------------------
#
# Only answers are learned; all other labels are -100 and do not count. The mean over what counts:

from scratch_vlm.ops.losses import cross_entropy_forward


def mean_loss_wrong(logits, labels):
    counts = labels != -100
    picked = log_softmax(logits, axis=-1)[np.arange(len(labels)), np.where(counts, labels, 0)]
    with np.errstate(invalid="ignore"):
        return -(picked * counts).sum() / counts.sum()


# %%
# One long question whose answer was cut off, and nothing counts: zero divided by zero is not a
# number, and after one step no weight is. The sentence: *what does not count changes nothing*, also
# if that is everything. (NVIDIA-NeMo/Automodel, pull request 1985)


def nothing_costs_nothing(loss):
    return loss(rng.normal(size=(3, 5)), np.full(3, -100)) == 0


record(
    "no labels",
    nothing_costs_nothing,
    lambda logits, labels: cross_entropy_forward(logits, labels)[0],
    mean_loss_wrong,
)

# %%
# 8. Almost the same curve
# ------------------------
#
# OpenAI's CLIP was trained with a cheap form of the GELU, :math:`x\,\sigma(1.702\,x)`. Load its
# weights into a model with the exact one, and no shape complains. What sentence would you write?

from scratch_vlm.ops.activations import gelu_forward, quick_gelu_forward

x = np.linspace(-4, 4, 801)
exact, quick = gelu_forward(x)[0], quick_gelu_forward(x)[0]
print(f"largest difference of the two curves: {abs(exact - quick).max():.3f}")
assert 0.015 < abs(exact - quick).max() < 0.025

from scratch_vlm.viz.lines import lines
from scratch_vlm.viz.show import show

figure = lines(
    x,
    {"exact": exact, "quick": quick, "difference x 10": 10 * (quick - exact)},
    across="x",
    up="GELU(x)",
)
show(figure, "16_spot_the_bug")

# %%
# There is none. Both are smooth, both obey :math:`f(x) - f(-x) = x`, both train. Only a number from
# the original tells them apart; that is why this library is held against outputs that published
# implementations computed (``scratch-vlm parity``). Otherwise the accuracy is a little lower, and
# nobody knows why. (open_clip, issue 771)

for curve in (gelu_forward, quick_gelu_forward):
    assert np.allclose(curve(x)[0] - curve(-x)[0], x)


def equals_the_original(curve):
    return np.isclose(curve(np.ones(1))[0], 0.845796, atol=1e-6)  # CLIP's at 1


record("another GELU", equals_the_original, quick_gelu_forward, gelu_forward)
print("caught:", *caught, sep="\n  ")
assert len(caught) == 8

# %%
# None of the eight raises an error. Seven break a sentence, one needs a number.
#
# Exercises
# ---------
#
# **1. Heads in the wrong order.** This one splits channels into heads (lesson 04). Which sentence
# does it break, and how is it mended?


def split_heads(x, heads):
    b, t, d = x.shape
    return x.reshape(b, heads, t, d // heads)


def check_split(mended):
    x = rng.normal(size=(2, 5, 8))
    order = rng.permutation(5)
    assert mended(x, 2).shape == (2, 2, 5, 4)
    assert np.array_equal(mended(x[:, order], 2), mended(x, 2)[:, :, order]), "tokens are mixed"


# %%
# **2. A sentence for padding.** Texts of a batch are padded to the same length. Write the property
# that a mean over real tokens must have: a function of a pooling ``pool(tokens, lengths)``.


def check_sentence(holds):
    def right(tokens, lengths):
        real = np.arange(tokens.shape[1]) < lengths[:, None]
        return (tokens * real[..., None]).sum(axis=1) / lengths[:, None]

    assert holds(right), "false for a mean over real tokens"
    assert not holds(lambda tokens, lengths: tokens.mean(axis=1)), "a mean over padding passes"


# %%
# **3. A temperature that forgets.** The scale of CLIP's scores is learned as its logarithm. Here
# somebody forgot the exponential: ``z = log_scale * images @ texts.T``. Write a sentence about
# ``loss(images, texts, log_scale)`` that catches it. (What does adding to the logarithm do?)


def check_scale(holds):
    assert holds(lambda i, t, s: contrastive_forward(i, t, s)[0]), "false for the right loss"

    def forgot(images, texts, log_scale):
        return contrastive_forward(images, texts, np.log(log_scale))[0]

    assert not holds(forgot), "the forgotten exponential passes"


# %%
# Sources
# -------
#
# The public threads named in each section. On testing by properties:
#
# * K. Claessen and J. Hughes, *QuickCheck: A Lightweight Tool for Random Testing of Haskell
#   Programs*, ICFP 2000.
# * D. MacIver et al., *Hypothesis: A new approach to property-based testing*, JOSS 4 (43), 2019.
