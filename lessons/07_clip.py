r"""
How do images and words come to share a space?
==============================================

Lesson 06 needed somebody to decide what the classes are, and to label every image. The world is
full of images that come with a sentence, and nobody has to be paid for them. CLIP learns from
these. One transformer turns the image into an *arrow*, a vector of length one, another one turns
the sentence into an arrow, and the two should point the same way.

This lesson derives the loss that makes them, and trains a small CLIP on real handwriting.
"""

# %%
# Find your partner
# -----------------
#
# If that were all, every arrow could point the same way. So there is a second demand: what does not
# belong together must be told apart. Take N images with their N texts. Each image must find its own
# text among all N, which is the classification of lesson 06 with the texts of the batch as classes;
# and each text must find its image.
#
# The *score* of an image and a text is their dot product, which for arrows of length one is the
# cosine of the angle between them, times a number, the *scale*, which is learned and kept as its
# logarithm, s, so that it stays positive wherever training takes s. Here are two images and two
# texts. In each pair the arrows are the same, at right angles to those of the other pair, and the
# scale is ln 3:

import math

import numpy as np

images = texts = np.eye(2)
log_scale = math.log(math.log(3))  # s
scores = np.exp(log_scale) * images @ texts.T
print(np.exp(scores))
assert np.allclose(np.exp(scores), [[3, 1], [1, 3]])

# %%
# By the softmax each image gives 3/4 to its text, and each text 3/4 to its image. The loss is the
# mean of the cross-entropy of the rows (images choose texts) and that of the columns (texts choose
# images), here :math:`-\ln(3/4)`. With images as the rows of I and texts as the rows of T,
#
# .. math:: Z = e^s I T^\top, \qquad
#           L = -\frac{1}{2N} \sum_i \left( \ln P_{ii} + \ln Q_{ii} \right)
#
# P is the softmax of each row of Z and Q that of each column. Lesson 06 knows the gradient of each:
# what was said minus what should have been said, which is the identity matrix, ones on the
# diagonal.
#
# .. math:: dZ = \frac{(P - \mathbf{1}) + (Q - \mathbf{1})}{2N}
#
# The rest is a product with a factor in front, and the slope of Z with respect to s is Z itself:
#
# .. math:: dI = e^s\, dZ\, T, \qquad dT = e^s\, dZ^\top I, \qquad
#           ds = \sum_{ij} dZ_{ij} Z_{ij}
#
# In words, downhill: an image moves towards its own text and away from the others, from each as far
# as it is mistaken for it.

from scratch_vlm.gradcheck import check
from scratch_vlm.ops.losses import contrastive_backward, contrastive_forward


def pairs_forward(images, texts, log_scale):
    z = np.exp(log_scale) * images @ texts.T
    e = np.exp(z)
    by_row, by_column = e / e.sum(axis=1, keepdims=True), e / e.sum(axis=0)
    own = np.arange(len(z))
    loss = -(np.log(by_row[own, own]) + np.log(by_column[own, own])).mean() / 2
    return loss, (images, texts, log_scale, z, by_row, by_column)


def pairs_backward(dloss, saved):
    images, texts, log_scale, z, by_row, by_column = saved
    n = len(z)
    dz = dloss * (by_row + by_column - 2 * np.eye(n)) / (2 * n)
    scale = np.exp(log_scale)
    return scale * dz @ texts, scale * dz.T @ images, (dz * z).sum()


loss, saved = pairs_forward(images, texts, log_scale)
assert np.isclose(loss, -math.log(3 / 4))

rng = np.random.default_rng(0)
example = [rng.normal(size=(5, 4)), rng.normal(size=(5, 4)), np.array(0.3)]
print(check(pairs_forward, pairs_backward, example))
loss, saved = pairs_forward(*example)
theirs, kept = contrastive_forward(*example)
assert np.isclose(loss, theirs)
gradients = pairs_backward(1.0, saved), contrastive_backward(1.0, kept)
assert all(np.allclose(*both) for both in zip(*gradients, strict=True))

# %%
# Watch it work on three pairs in the plane. There an arrow is an angle a: it is (cos a, sin a), and
# if a grows, it moves by (-sin a, cos a). The angles start at random and go downhill, by the
# gradient descent of lesson 06:

from scratch_vlm.viz.circle import pairs_on_circle
from scratch_vlm.viz.show import show

angles, panels = rng.uniform(0, 2 * np.pi, size=(2, 3)), {}  # of three images and of their texts
for step in range(201):
    arrows = np.stack([np.cos(angles), np.sin(angles)], axis=-1)  # (2, 3, 2)
    if step in (0, 5, 200):
        panels[f"after {step} steps"] = arrows
    loss, saved = pairs_forward(*arrows, log_scale)
    darrows = np.stack(pairs_backward(1.0, saved)[:2])
    across = np.stack([-np.sin(angles), np.cos(angles)], axis=-1)
    angles = angles - 0.5 * (darrows * across).sum(axis=-1)

show(pairs_on_circle(panels), "07_circle")
assert np.allclose(arrows[0] @ arrows[1].T, 1.5 * np.eye(3) - 0.5, atol=1e-3)

# %%
# Each image ends upon its text, and the three pairs a third of a turn apart, with cosines of -1/2.
# Three arrows cannot be farther from each other.

# %%
# A loss to know: ln N
# --------------------
#
# Arrows that all point the same way find nothing: all texts get 1/N, and the loss is ln N. A loss
# that hangs there has not begun to learn. And one pair alone has nobody to be mistaken for: its
# loss is zero whatever it says, so a batch of one teaches nothing.

same = np.ones((32, 4)) / 2
assert np.isclose((same * same).sum(axis=1), 1).all()
assert np.isclose(contrastive_forward(same, same, np.array(2.0))[0], math.log(32))
assert contrastive_forward(same[:1], same[:1], np.array(2.0))[0] == 0
print(f"ln 32 = {math.log(32):.2f}")

# %%
# Why a scale?
# ------------
#
# Cosines lie between -1 and 1. If every image had a cosine of 1 with its text and -1 with all other
# texts, better than can be, the softmax of the bare cosines would still be far from sure. CLIP
# starts the scale at 1/0.07, about 14, and holds it at 100 at most. (Its inverse, 0.07, is called
# the *temperature*.)

best = 2 * np.eye(32) - 1
for scale in (1, 1 / 0.07, 100):
    e = np.exp(scale * best)
    least = -np.log(np.diag(e / e.sum(axis=1, keepdims=True))).mean()
    print(f"scale {scale:3.0f}: the loss of 32 perfect pairs is {abs(least):.2f}")
    assert least > 1 if scale == 1 else least < 1e-9

# %%
# Real handwriting
# ----------------
#
# An image shows a digit in one of four colours, somewhere; its caption says "red seven". Of the 40
# pairs of colour and digit, 8 are kept for the test, so a batch has 32 captions, all different. The
# image tower is the ViT of lesson 05, and CLS stands for the image. The text tower is the same kind
# of transformer, in which a word reads itself and the words before it, so that the last token,
# which ends the text, has read it all and stands for it. A linear layer brings both to the same
# width, and both are divided by their length (whose backward is for lesson 08).

from scratch_vlm.data.augment import Affine
from scratch_vlm.data.digits import split
from scratch_vlm.data.images import normalize
from scratch_vlm.data.scenes import VOCABULARY, DigitPool, Item, Scene, render
from scratch_vlm.data.tokens import END
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.clip import CLIPConfig, clip_backward, clip_clamp, clip_forward, clip_init
from scratch_vlm.models.text import TextConfig
from scratch_vlm.models.vit import ViTConfig

every = [Scene((Item(colour, digit),)) for colour in range(4) for digit in range(10)]
every = [every[i] for i in rng.permutation(40)]
known = [scene for scene in every if not scene.held_out]
new = [scene for scene in every if scene.held_out]
assert (len(known), len(new)) == (32, 8)

block = BlockConfig(width=64, heads=4, hidden=256, mlp="gelu_tanh")
towers = {"outputs": 64, "block": block, "depth": 1, "head_bias": False}
config = CLIPConfig(  # "axial": a position vector for each row and one for each column of patches
    ViTConfig((24, 24, 3), (8, 8), positions="axial", position_std=0.5, **towers),
    TextConfig(len(VOCABULARY), context=4, end=END, **towers),
)


def paint(rng, scenes, pool, warp=None):
    pixels, _ = render(rng, scenes, pool, warp)
    return pixels, VOCABULARY.encode([scene.caption for scene in scenes], length=4)


def prepare(pixels):
    return normalize(pixels, 0.0, 0.5)


train_digits, test_digits = DigitPool(split("train")), DigitPool(split("test"))
p = clip_init(rng, config)
pixels, ids = paint(rng, known, train_digits)
loss, _ = clip_forward(prepare(pixels), ids, p, config=config)
print(f"{known[0].caption!r} and 31 others: loss before training {loss:.2f}")
assert abs(loss - math.log(32)) < 0.5

# %%
# That is near ln 32. All that CLIP asks for are images and texts that belong together, and the loop
# is that of lesson 06. After each step the scale is held at its limit (``clip_clamp``).

import tempfile
from functools import partial

from scratch_vlm.training.loop import TrainConfig, train
from scratch_vlm.training.run import RunFolder

settings = TrainConfig(1000, batch_size=32, peak_rate=2e-3, warmup=30, betas=(0.9, 0.98))
warp = Affine(degrees=15, scale=0.15, shift=0.8, shear=0.2)


def batch(step):
    pixels, ids = paint(np.random.default_rng(step), known, train_digits, warp)
    return prepare(pixels), ids


forward = partial(clip_forward, config=config)
with tempfile.TemporaryDirectory() as folder:
    p = train(forward, clip_backward, p, batch, settings, folder, after_step=clip_clamp)
    losses = RunFolder(folder).read_curve()["loss"]
print(f"loss at last {losses[-20:].mean():.2f}, scale {math.exp(p['log_scale']):.0f}")
assert losses[-20:].mean() < math.log(32) / 4

# %%
# The test shows hands that were never seen, and with them the 8 pairs that were never shown, though
# each colour and each digit was. Each of 40 images must find its caption, ten times over; guessing
# finds one in 40. The figure shows cosines, and its last four captions are new ones.

from scratch_vlm.inference.embed import embed_images, embed_texts
from scratch_vlm.viz.figures import similarity_matrix


def cosines(pixels, ids):
    return embed_images(prepare(pixels), p, config) @ embed_texts(ids, p, config).T


few = known[:4] + new[:4]
pictures, words = paint(rng, few, test_digits)
captions = [scene.caption for scene in few]
figure = similarity_matrix(cosines(pictures, words), pictures, captions, title="Who is like whom?")
show(figure, "07_clip")

found = [cosines(*paint(rng, known + new, test_digits)).argmax(axis=1) for _ in range(10)]
right = np.array(found) == range(40)
old_pairs, new_pairs = right[:, :32].mean(), right[:, 32:].mean()
print(f"caption found: of known pairs {old_pairs:.2f}, of new pairs {new_pairs:.2f}")
assert old_pairs > 0.8 and new_pairs > 0.5

# %%
# Is a large batch many small ones?
# ---------------------------------
#
# In lesson 06 it was. The loss was a mean over samples, so the gradients of the pieces of a batch
# add up to that of the batch, and where memory is short one *accumulates* them. Here they do not.
# In a piece of 4 an image meets 3 foreign texts instead of 31: an easier question, whose chance is
# ln 4, and another gradient. How far it points from the true one is said by their cosine:

from scratch_vlm.recompute import chunked
from scratch_vlm.training.loop import add_gradients
from scratch_vlm.tree import leaves, tree_map, zeros_like

p64 = tree_map(lambda x: x.astype(float), p)
pairs = prepare(pixels.astype(float)), ids


def gradient(pieces=1, **options):
    g = zeros_like(p64)
    loss = add_gradients(partial(forward, **options), clip_backward, pairs, p64, g, pieces)
    return loss, np.concatenate([leaf.ravel() for _, leaf in leaves(g)])


whole_loss, whole = gradient()
print(f"one batch of 32: loss {whole_loss:.3f}")
for pieces in (4, 8, 16):
    loss, other = gradient(pieces)
    cosine = whole @ other / np.linalg.norm(whole) / np.linalg.norm(other)
    print(f"{pieces:2} pieces of {32 // pieces}: loss {loss:.3f}, cosine {cosine:.2f}")
    assert loss < whole_loss
assert cosine < 0.8

# %%
# What can be cut are the towers, which take each sample for itself. Encode 8 at a time and keep
# their arrows only, compute the loss of all 32, and run each piece again in the backward (lesson
# 04). That is the gradient of the large batch in the memory of a small one:

_, same = gradient(wrap=partial(chunked, size=8, recompute=True))
assert np.allclose(same, whole)

# %%
# SigLIP: each pair for itself
# ----------------------------
#
# Another loss does not couple the pairs at all. It asks of each image and each text: do you belong
# together? With y = 1 on the diagonal and -1 elsewhere, and a learned bias b,
#
# .. math:: L = \frac 1 N \sum_{ij} \ln\left(1 + e^{-y_{ij} Z_{ij}}\right), \qquad
#           Z = e^s I T^\top + b
#
# There is no softmax, so the sum may be cut anywhere, into blocks of images and texts on many
# machines. Almost all pairs do not belong together. If Z started at zero, an image would pay ln 2
# for each of the N texts, and the first thing to learn would be to say no. So b starts at -10,
# which says no to all.

from scratch_vlm.ops.losses import sigmoid_contrastive_backward, sigmoid_contrastive_forward

i, t = embed_images(prepare(pixels), p64, config), embed_texts(ids, p64, config)
s, b = np.array(math.log(10)), np.array(-10.0)
costs = np.log1p(np.exp(-(2 * np.eye(32) - 1) * (np.exp(s) * i @ t.T + b)))  # (32, 32)
loss, kept = sigmoid_contrastive_forward(i, t, s, b)
assert np.isclose(loss, costs.sum() / 32)
assert np.isclose(sigmoid_contrastive_forward(0 * i, t, s, 0 * b)[0], 32 * math.log(2))

# %%
# Exercises
# ---------
#
# **1. Twins.** Two of 32 captions are the same, all arrows are perfect and the scale is as large as
# you like. How small can the loss of CLIP be? (That is why our batches have no twins.)


def check_twins(least):
    arrows = np.eye(32)
    arrows[1] = arrows[0]
    loss, _ = contrastive_forward(arrows, arrows, np.array(math.log(100)))
    assert np.isclose(least, loss), f"it is {loss:.4f}; what does one of the twins pay?"


# %%
# **2. How sure?** CLIP's cosines are small: an image has 0.3 with the right caption and 0.2 with
# the only other one. With which scale does it give the right one a probability of 0.9?


def check_scale(scale):
    e = np.exp(scale * np.array([0.3, 0.2]))
    assert np.isclose(e[0] / e.sum(), 0.9), f"with {scale} it is {e[0] / e.sum():.2f}"


# %%
# **3. SigLIP backwards.** Write the gradient of its loss with respect to Z, from Z alone.


def check_siglip(backward):
    dz = backward(np.exp(s) * i @ t.T + b)
    di, dt, _, db = sigmoid_contrastive_backward(1.0, kept)
    assert np.isclose(dz.sum(), db), "db is the sum of dZ"
    assert np.allclose(np.exp(s) * dz @ t, di) and np.allclose(np.exp(s) * dz.T @ i, dt)


# %%
# Sources
# -------
#
# * A. Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*,
#   2021, arXiv:2103.00020: figure 3, the loss as code; section 2.5, the scale and its limit.
# * T. Wang and P. Isola, *Understanding Contrastive Representation Learning through Alignment and
#   Uniformity on the Hypersphere*, 2020, arXiv:2005.10242: partners meet, all others spread out.
# * L. Gao et al., *Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup*, 2021,
#   arXiv:2101.06983: encode in pieces, `scratch_vlm.recompute.chunked`.
# * X. Zhai et al., *Sigmoid Loss for Language Image Pre-Training*, 2023, arXiv:2303.15343:
#   algorithm 1, and section 3.3 on what this saves on many machines; lesson 18 comes back to it.
