r"""
How does an image become tokens?
================================

The block of lesson 04 reads a row of vectors and does not ask what they stand for. A sentence is
such a row already, one vector for each word. An image is a grid of pixels.

This lesson makes a row of the grid. Nothing else is needed to let the architecture of a language
model see, and at the end BERT, a reader of texts, is shown an image to prove it.
"""

# %%
# A pixel is too small a word
# ---------------------------
#
# The first idea would be one token for each pixel. But every token reads every other, so the scores
# of attention grow with the square of their number, and an image has many pixels. The Vision
# Transformer, ViT for short, makes a word of a whole square of them, a *patch*:

for side in (1, 16):
    tokens = (224 // side) ** 2
    print(f"224 x 224 px in squares of {side:2} px: {tokens:6,} tokens, {tokens**2:13,} scores")

# %%
# Cutting
# -------
#
# Number the pixels of a 4 x 4 image from 0 to 15 and cut it into patches of 2 x 2. The first patch
# holds pixels 0 and 1 of the first row and 4 and 5 of the second.
#
# In NumPy this is a change of view (lesson 01). A row of pixels is named by two numbers, the row of
# patches and the row inside the patch, and columns likewise. So each of the two axes is split in
# two, and those that say *which patch* go to the front. C counts the channels, such as red, green
# and blue.

import numpy as np


def cut_forward(images, side):
    b, h, w, c = images.shape
    x = images.reshape(b, h // side, side, w // side, side, c)
    x = x.swapaxes(2, 3)  # (B, rows, columns, side, side, C)
    return x.reshape(b, -1, side * side * c), (images.shape, side)


numbered = np.arange(16.0).reshape(1, 4, 4, 1)
pieces, _ = cut_forward(numbered, 2)
print(pieces[0])
assert pieces[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]

# %%
# The way back needs no calculus. Each number of a patch *is* one pixel: its slope is one for that
# pixel and zero for all others. Let :math:`\pi(n, k)` be the pixel that went to place k of patch n:
#
# .. math:: y_{nk} = x_{\pi(n, k)} \quad\Rightarrow\quad dx_{\pi(n, k)} = dy_{nk}
#
# The gradient goes home the way that the pixel came, so the backward is also the inverse:

from scratch_vlm.gradcheck import check
from scratch_vlm.ops.patches import patchify_backward, patchify_forward


def cut_backward(dy, saved):
    (b, h, w, c), side = saved
    dx = dy.reshape(b, h // side, w // side, side, side, c)
    return dx.swapaxes(2, 3).reshape(b, h, w, c)


rng = np.random.default_rng(0)
images = rng.normal(size=(2, 6, 9, 3))
pieces, saved = cut_forward(images, 3)
assert (cut_backward(pieces, saved) == images).all()
print(check(lambda x: cut_forward(x, 3), cut_backward, [images]))

theirs, kept = patchify_forward(images, patch=(3, 3))
dy = rng.normal(size=pieces.shape)
assert np.array_equal(theirs, pieces)
assert np.array_equal(patchify_backward(dy, kept), cut_backward(dy, saved))

# %%
# A linear layer, or a convolution?
# ---------------------------------
#
# One linear layer, the same for all patches, makes tokens of D numbers out of them. Published code
# often writes this as a *convolution*: a *kernel*, weights as large as a patch, slides over the
# image, and wherever it stops, weights are multiplied with the pixels below them and summed. D
# kernels give D numbers. If it slides by the side of a patch at a time (its *stride*), it stops
# once on each patch and nowhere between, and the two are one thing. Here SciPy slides by one pixel,
# and we keep every third stop:

from scipy.signal import correlate

from scratch_vlm.layers.linear import linear_forward, linear_init

p = linear_init(rng, 3 * 3 * 3, 5)  # patches of 3 x 3 px with 3 channels to tokens of 5 numbers
tokens, _ = linear_forward(pieces, p)  # (2, 6, 5)
for image, expected in zip(images, tokens, strict=True):
    for d in range(5):
        kernel = p["w"][:, d].reshape(3, 3, 3)
        stops = correlate(image, kernel, mode="valid")[::3, ::3]
        assert np.allclose(stops.ravel() + p["b"][d], expected[:, d])

# %%
# Real pixels
# -----------
#
# Two digits in somebody's handwriting. The table at the right, one row for each patch, is all that
# the model will get:

from scratch_vlm.data.digits import split
from scratch_vlm.data.scenes import DigitPool, Item, Scene, render
from scratch_vlm.viz.figures import patches
from scratch_vlm.viz.show import show

scene = Scene((Item(0, 7), Item(2, 3)), "above")
image, _ = render(np.random.default_rng(110), [scene], DigitPool(split("train")))
image = image.astype(float)
figure = patches(image[0], 4, title=scene.caption)
show(figure, "05_patches_and_vit")

# %%
# Where was that patch?
# ---------------------
#
# Nothing in a table of patches says which lay above which, and attention does not look at the order
# of its tokens (lesson 02). So a ViT adds to each token a vector that belongs to its *position*,
# learned like any weight. And since somebody has to speak for the whole image, it puts one more
# learned vector in front of the patches, called CLS after the class that is read from it. It starts
# the same for every image, and by attention it collects what this one shows. All in all:

from scratch_vlm.layers.block import BlockConfig, tower_forward
from scratch_vlm.models.vit import ViTConfig, vit_features_forward, vit_init
from scratch_vlm.tree import tree_map

config = ViTConfig((24, 24, 3), (4, 4), outputs=10, block=BlockConfig(32, 4, 64), depth=2)
p = tree_map(lambda x: x.astype(float), vit_init(rng, config))

pieces, kept = patchify_forward(image, patch=(4, 4))  # (1, 36, 48)
words, _ = linear_forward(pieces, p["patch"])  # (1, 36, 32)
x = np.concatenate([p["cls"][None, None], words], axis=1)  # (1, 37, 32)
x = x + p["positions"]["w"]
y, _ = tower_forward(x, p["blocks"], config=config.block)  # one block after the other
assert x.shape == (1, 37, 32)
assert np.allclose(y, vit_features_forward(image, p, config=config)[0])

# %%
# That was a whole Vision Transformer; a norm and a linear layer on CLS make class scores of it.
# Here it is with the shapes of its arrays on the arrows, and one of its blocks (lesson 04) opened:

from scratch_vlm.viz import diagrams

figure = diagrams.vit(config)
show(figure, "05_patches_and_vit_diagram")

# %%
# In its backward one thing is new, twice. The same position vectors, and the same CLS, were used in
# every image of the batch, so their gradients are sums over the batch:
#
# .. math:: d\mathrm{pos}_t = \sum_b dx_{bt}, \qquad d\mathrm{cls} = \sum_b dx_{b0}
#
# CLS stands at position 0, so there both gradients are the same sum. And every gradient of the
# whole model agrees with what is measured:

from scratch_vlm.models.vit import vit_backward, vit_forward
from scratch_vlm.tree import zeros_like

batch = rng.normal(size=(3, 24, 24, 3))
scores, saved = vit_forward(batch, p, config=config)
g = zeros_like(p)
vit_backward(rng.normal(size=scores.shape), saved, g)
assert np.allclose(g["positions"]["w"][0], g["cls"])

report = check(vit_forward, vit_backward, [batch], p, options={"config": config})
print(f"{len(report.entries)} arrays, largest error {max(e.error for e in report.entries):.0e}")

# %%
# What if there were no positions? Shuffle the patches, and the picture falls to pieces. Without
# positions the model gives it the very same scores:

shuffled = patchify_backward(pieces[:, rng.permutation(36)], kept)
lost = p | {"positions": zeros_like(p["positions"])}


def scores_of(image, p):
    return vit_forward(image, p, config=config)[0]


assert np.allclose(scores_of(shuffled, lost), scores_of(image, lost))
assert not np.allclose(scores_of(shuffled, p), scores_of(image, p))

# %%
# Is this still BERT?
# -------------------
#
# BERT made this architecture famous, for text. It looks up words in a table, adds a vector for the
# position and one for the sentence, normalises, and sends all through blocks in which each token
# reads all others, a [CLS] token in front. So let it read our image. CLS becomes word 0 of its
# table, the projected patches words 1 to 36, and the text is 0, 1, 2 and so on. Two differences are
# switches: CLIP's kind of ViT normalises before the first block, as BERT does; and the blocks of
# our BERT normalise what they read (lesson 04), where those of the published one normalise the sum.

from scratch_vlm.models.bert import BERTConfig, bert_forward

as_bert = {
    "tokens": {"w": np.concatenate([p["cls"][None], words[0]])},
    "positions": p["positions"],
    "segments": {"w": np.zeros((1, 32))},
    "ln": p["ln"],
    "blocks": p["blocks"],
}
bert = BERTConfig(vocabulary=37, context=37, block=config.block, depth=2, segments=1)
read, _ = bert_forward(np.arange(1 + 36)[None], as_bert, config=bert)

clip_vit = ViTConfig((24, 24, 3), (4, 4), 10, config.block, depth=2, norm_first=True)
seen, _ = vit_features_forward(image, p | {"ln_pre": p["ln"]}, config=clip_vit)
assert np.allclose(read, seen)

# %%
# Not one number differs. What does differ is where words come from. A language has finitely many,
# so a table will do; patches never repeat, so a linear layer replaces the table.
#
# The ViT-B/16 that was published, B for base and 16 for its patch, is this and nothing more. (Of
# its floating point operations, FLOPs, a product and a sum count as two.)

from scratch_vlm.costs import vit_cost

base = ViTConfig((224, 224, 3), (16, 16), 1000, BlockConfig(768, 12, 3072, eps=1e-6), 12)
cost = vit_cost(base)
print(f"{base.tokens} tokens, {cost.parameters:,} weights, {cost.flops / 1e9:.0f} GFLOPs an image")
assert base.tokens == 1 + 14 * 14 and round(cost.parameters / 1e6) == 87

# %%
# Exercises
# ---------
#
# **1. Smaller words.** Halve the patch of ViT-B/16. How many times as many scores does a head of
# attention compute between the patches? Give the number.


def check_scores(times):
    coarse, fine = (224 // 16) ** 2, (224 // 8) ** 2
    assert times == (fine / coarse) ** 2, "count the patches first, then the pairs of them"


# %%
# **2. Mosaic.** Use ``cut_forward`` and ``cut_backward`` to paint each patch of an image in its
# mean colour.


def check_mosaic(mosaic):
    tiles = mosaic(images, 3)
    assert tiles.shape == images.shape
    for row in (0, 3):
        for column in (0, 3, 6):
            inside = np.s_[:, row : row + 3, column : column + 3]
            mean = images[inside].mean(axis=(1, 2), keepdims=True)
            assert np.allclose(tiles[inside], mean), f"patch at row {row}, column {column}"


# %%
# **3. A larger image.** Our ViT has positions for 6 x 6 patches. Stretch them, like an image of 6 x
# 6 pixels, so that it can read one twice as high and wide. What must stay as it is? (Look into
# `scratch_vlm.ops.positions`.)


def check_positions(stretch):
    table = stretch(p["positions"]["w"])
    assert table.shape == (1 + 12 * 12, 32), f"a vector for CLS and each patch, not {table.shape}"
    assert np.array_equal(table[0], p["positions"]["w"][0]), "CLS is no patch: leave it as it is"
    large = image.repeat(2, axis=1).repeat(2, axis=2)
    own = vit_forward(large, p | {"positions": {"w": table}}, config=config.at(48, 48))[0]
    assert np.allclose(own, scores_of(large, p)), "the library stretches them otherwise"


# %%
# Sources
# -------
#
# * A. Dosovitskiy et al., *An Image is Worth 16x16 Words*, 2020, arXiv:2010.11929: equations 1 to
#   4 are `vit_forward`, table 1 has the sizes, section 3.2 the stretching of positions.
# * J. Devlin et al., *BERT*, 2018, arXiv:1810.04805: section 3 and figure 2, the embeddings.
# * A. Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*,
#   2021, arXiv:2103.00020: section 2.4, the norm before the first block.
