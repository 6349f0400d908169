r"""
5. Patches and the Vision Transformer
=====================================

**How does an image become tokens?**

The block of lesson 4 reads a row of vectors and does not care what they stand for. A sentence is
such a row already: one vector for each word. An image is a grid of pixels. This lesson turns the
one into the other, and nothing else is needed to let a language model's architecture see.
"""

# %%
# A pixel is too small a word
# ---------------------------
# The first idea would be one token for each pixel. But in attention every token reads every other,
# so T tokens make T × T scores, and an image has many pixels.
import numpy as np
from scipy.signal import correlate


from scratch_vlm.costs import vit_cost
from scratch_vlm.data.digits import split
from scratch_vlm.data.scenes import DigitPool, Item, Scene, render
from scratch_vlm.gradcheck import check
from scratch_vlm.layers.block import BlockConfig, tower_forward
from scratch_vlm.layers.linear import linear_forward, linear_init
from scratch_vlm.models.bert import BERTConfig, bert_forward
from scratch_vlm.models.vit import (
    ViTConfig,
    vit_backward,
    vit_features_forward,
    vit_forward,
    vit_init,
)
from scratch_vlm.ops.patches import patchify_backward, patchify_forward
from scratch_vlm.tree import tree_map, zeros_like
from scratch_vlm.viz.figures import patches

for side in (1, 16):
    tokens = (224 // side) ** 2
    print(f"224 × 224 px in squares of {side:2} px: {tokens:6,} tokens, {tokens**2:13,} scores")

# %%
# The Vision Transformer [1]_ cuts the image into squares, *patches*, and calls each a word.
#
# Cutting, by hand
# ----------------
# Number the pixels of a 4 × 4 image from 0 to 15 and cut it into patches of 2 × 2. The first patch
# holds the pixels 0 and 1 of the first row and 4 and 5 of the second.
#
# In NumPy this is a change of the point of view. A row index is "which row of patches, which row
# inside the patch", a column index likewise; the axes are split in two and then sorted, the
# "which patch" ones first. C counts the channels, such as red, green and blue.


def cut_forward(images, side):
    b, h, w, c = images.shape
    x = images.reshape(b, h // side, side, w // side, side, c)  # (B, rows, P, columns, P, C)
    return x.swapaxes(2, 3).reshape(b, -1, side * side * c), images.shape  # (B, N, P P C)


def cut_backward(dpatches, shape, side):
    b, h, w, c = shape
    x = dpatches.reshape(b, h // side, w // side, side, side, c)  # (B, rows, columns, P, P, C)
    return x.swapaxes(2, 3).reshape(shape)


numbered = np.arange(16.0).reshape(1, 4, 4, 1)
rows, shape = cut_forward(numbered, 2)
print(rows[0])
assert rows[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]

# %%
# The backward needs no calculus. Each number of a patch *is* one pixel, so its slope by that pixel
# is 1 and by all others 0. What the loss says about a place in a patch, it says about the pixel
# that came from there:
#
# .. math:: y_{nk} = x_{\pi(n, k)} \quad\Rightarrow\quad
#           \frac{\partial L}{\partial x_{\pi(n, k)}} = \frac{\partial L}{\partial y_{nk}}
#
# where :math:`\pi(n, k)` is the pixel that went to place k of patch n. The gradient goes home the
# way that the pixel came: the backward is also the inverse.
rng = np.random.default_rng(0)
images = rng.normal(size=(2, 6, 9, 3))
rows, shape = cut_forward(images, 3)
assert (cut_backward(rows, shape, 3) == images).all()

ours, theirs = rows, patchify_forward(images, patch=(3, 3))[0]
assert (ours == theirs).all()
dy = rng.normal(size=rows.shape)
assert (cut_backward(dy, shape, 3) == patchify_backward(dy, (shape, (3, 3)))).all()

# %%
# From patch to token: a linear layer, or a convolution?
# ------------------------------------------------------
# A patch of P × P pixels is a row of P · P · C numbers, and a token must have D. One linear layer,
# the same for all patches, brings the one to the other. Published code does it with a
# *convolution*: a kernel of P × P weights slides over the image, at every place its weights are
# multiplied with the pixels below and summed; D kernels give D numbers. The *stride* is how far it
# moves at a time. With a stride of P the kernel never covers a pixel twice: it steps from patch to
# patch and meets each with the same weights. Column d of the matrix is kernel d, laid out flat.
p = linear_init(rng, 3 * 3 * 3, 5)  # patches of 3 × 3 pixels, 3 channels; D = 5
tokens, _ = linear_forward(rows, p)  # (2, 6, 5)
kernels = p["w"].T.reshape(5, 3, 3, 3)
for image, expected in zip(images, tokens, strict=True):
    for d, kernel in enumerate(kernels):
        everywhere = correlate(image, kernel, mode="valid")[..., 0]  # (4, 7), at a stride of 1
        assert np.allclose(everywhere[::3, ::3].ravel() + p["b"][d], expected[:, d])

# %%
# Real pixels
# -----------
# Two digits in somebody's handwriting, 24 × 24 pixels in three channels, cut into patches of 8 × 8.
# The table at the right is all that the model gets.
scene = Scene((Item(0, 7), Item(2, 3)), "above")
image = render(np.random.default_rng(3), [scene], DigitPool(split("train")))[0]  # (1, 24, 24, 3)
figure = patches(image[0], 8, title=scene.caption)

# %%
# Where was that patch? Positions
# -------------------------------
# In a table of patches nothing says which lay above which, and attention does not look at the order
# of its tokens (lesson 2). So a ViT adds a vector to each token that depends on its place alone,
# learned like any weight. And because somebody has to speak for the whole image, it puts one more
# learned vector in front of the patches, named CLS after the "class" that is read from it. CLS
# starts the same for all images, and learns from the patches by attention what this one shows.
config = ViTConfig((24, 24, 3), (8, 8), 10, BlockConfig(32, 4, 64), depth=2)
p = tree_map(lambda x: x.astype(float), vit_init(rng, config))
print({name: x["w"].shape for name, x in p.items() if "w" in x}, "cls:", p["cls"].shape)

pieces, _ = patchify_forward(image, patch=(8, 8))  # (1, 9, 192)
words = pieces @ p["patch"]["w"] + p["patch"]["b"]  # (1, 9, 32)
x = np.concatenate([p["cls"][None, None], words], axis=1) + p["positions"]["w"]  # (1, 10, 32)
y, _ = tower_forward(x, p["blocks"], config=config.block)
assert np.allclose(y, vit_features_forward(image, p, config=config)[0])

# %%
# That was a whole Vision Transformer, but for the norm and the linear layer that turn CLS into class
# scores. Its backward has two things to say that are new, and they are the same thing. A position
# vector was added to the token at its place in *every* image of the batch, and CLS was put in front
# of every image, so their gradients are sums over the batch:
#
# .. math:: \frac{\partial L}{\partial \mathrm{pos}_t} = \sum_b \frac{\partial L}{\partial x_{bt}},
#           \qquad \frac{\partial L}{\partial \mathrm{cls}}
#           = \sum_b \frac{\partial L}{\partial x_{b0}}
#
# CLS stands at place 0, so the two gradients must agree there.
batch = rng.normal(size=(3, 24, 24, 3))
scores, saved = vit_forward(batch, p, config=config)
g = zeros_like(p)
vit_backward(rng.normal(size=scores.shape), saved, g)
assert np.allclose(g["positions"]["w"][0], g["cls"])
report = check(vit_forward, vit_backward, [batch], p, options={"config": config})
print(report)

# %%
# What if there were no positions? Shuffle the patches of the scene: the seven is no longer above the
# three. Without positions the model gives the very same scores to both images.
order = rng.permutation(9)
shuffled = patchify_backward(pieces[:, order], (image.shape, (8, 8)))
blind = p | {"positions": zeros_like(p["positions"])}


def scores_of(image, p):
    return vit_forward(image, p, config=config)[0]


assert np.allclose(scores_of(image, blind), scores_of(shuffled, blind))
assert not np.allclose(scores_of(image, p), scores_of(shuffled, p))

# %%
# Is this still BERT?
# -------------------
# BERT [2]_ is the model that made this architecture famous, for text. It looks words up in a table,
# adds a position vector and one for the sentence that the word belongs to, normalises, and lets
# blocks without a causal mask read the whole text; a token called [CLS] comes first.
#
# The claim that an image is just a text in patches can be put to the test. Write the nine projected
# patches into the word table of a BERT, CLS as its word 0, and let BERT read the "sentence"
# 0 1 2 ... 9. (One switch each: BERT's block normalises after the sublayers, ViT's before, see
# lesson 4; and ViT as CLIP uses it normalises before the first block, as BERT does.)
norm_first = ViTConfig(config.image, config.patch, 10, config.block, 2, norm_first=True)
p["ln_pre"] = {"gamma": rng.normal(size=32), "beta": rng.normal(size=32)}
as_bert = {
    "tokens": {"w": np.concatenate([p["cls"][None], words[0]])},
    "positions": p["positions"],
    "segments": {"w": np.zeros((1, 32))},
    "ln": p["ln_pre"],
    "blocks": p["blocks"],
}
sentence = np.arange(10)[None]
bert = BERTConfig(vocabulary=10, context=10, block=config.block, depth=2, segments=1)
read = bert_forward(sentence, as_bert, config=bert)[0]
seen = vit_features_forward(image, p, config=norm_first)[0]
assert np.allclose(read, seen)

# %%
# BERT read the image, and no number differs. What differs is the vocabulary: a text has a finite
# one, so a table will do; patches never repeat, so their table is replaced with a linear layer.
#
# In full size
# ------------
# ViT-B/16 cuts 224 × 224 pixels into patches of 16 × 16.
base = ViTConfig((224, 224, 3), (16, 16), 1000, BlockConfig(768, 12, 3072, eps=1e-6), 12)
cost = vit_cost(base)
print(f"grid {base.grid}, {base.tokens} tokens, {cost.parameters:,} parameters")
assert base.tokens == 14 * 14 + 1 and 86e6 < cost.parameters < 87e6
