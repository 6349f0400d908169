r"""
How does one sequence read another?
===================================

In lesson 02 all tokens read each other. Now there are two sequences: one that *asks* and one that
*answers*. A word asks an image, a translation asks its original, a latent asks ten thousand pixels.
This is *cross-attention*, and every model of this course that joins words and images needs it. We
build it, find its two input gradients, and let colour words read real handwriting.
"""

# %%
# A dictionary that may hesitate
# ------------------------------
#
# Three entries answer. Their keys are three directions, their values the numbers 1, 5 and 3. One
# token asks for the second direction, with a query of length log 8. The exponentials of its scores
# are 1, 8, 1, so the weights are 0.1, 0.8, 0.1, and it reads 0.1 + 4 + 0.3 = 4.4: nearly the value
# of the entry it asked for. The longer the query, the closer to 5.

import math

import numpy as np

keys, values = np.eye(3), np.array([1.0, 5.0, 3.0])


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


for factor in (8, 1000):
    query = math.log(factor) * keys[1]
    weights = softmax(query @ keys.T)
    print(f"log {factor}: weights {weights.round(3)}, reads {weights @ values:.3f}")
assert np.allclose(softmax(math.log(8) * keys[1]), [0.1, 0.8, 0.1])
assert np.isclose(softmax(math.log(8) * keys[1]) @ values, 0.1 + 4 + 0.3)
assert abs(weights @ values - 5) < 0.01

# %%
# Attention is a dictionary whose look-up has a slope. That is why it can *learn* what to ask.
#
# Two sequences
# -------------
#
# Let :math:`x` be T tokens that ask and :math:`z` be S tokens that answer. Three matrices, which
# are learned, turn them into queries, keys and values; a fourth turns what was read back into a
# token. In the library keys and values share one, :math:`W_{kv}`, half of its columns each:
#
# .. math:: Q = x W_q, \quad [K, V] = z W_{kv}, \quad
#    Y = \mathrm{softmax}\!\left(\frac{Q K^\top}{\sqrt d}\right) V\, W_o
#
# The weights are a matrix of T rows and S columns, no longer a square, and each row adds up to one.
# There are as many outputs as tokens that *ask*: however long the other sequence is, what comes out
# fits to :math:`x` and can be added to it. :math:`x + Y` is the *fused representation*: each token
# is still what it was, and knows what it saw.
#
# All of it in one picture, with the shapes of the arrays below: 3 tokens of 4 channels ask, 5 of 6
# channels answer; a *channel* is one of the numbers of a token. The line at the left is the sum
# :math:`x + Y`; B counts the images of a batch. All this is one *head*; lesson 04 has several.

from scratch_vlm.viz import diagrams
from scratch_vlm.viz.show import show

asking, answering = (3, 4), (5, 6)
figure = diagrams.cross_attention(asking, answering, heads=1)
show(figure, "03_cross_attention_diagram")

# %%
# For the way back, every arrow of the picture is walked against its direction. Where :math:`z` went
# two ways, into keys and into values, its slopes come back two ways and are added: here by the one
# product with :math:`W_{kv}`. So one backward has *two* input gradients, one for each sequence: a
# loss on the words also teaches whatever made the image tokens. The weights are the tree ``p`` and
# their gradients the tree ``g`` of lesson 01; the ``einsum`` of a weight is :math:`x^\top dq`,
# summed over the images.

from scratch_vlm.gradcheck import check
from scratch_vlm.ops.attend import attend_backward, attend_forward


def cross_forward(x, z, p):
    q, kv = x @ p["q"]["w"], z @ p["kv"]["w"]
    k, v = kv[..., : q.shape[-1]], kv[..., q.shape[-1] :]
    read, saved = attend_forward(q[:, None], k[:, None], v[:, None])  # one head
    return read[:, 0] @ p["out"]["w"], (x, z, p, read[:, 0], saved)


def cross_backward(dy, saved, g):
    x, z, p, read, attended = saved
    g["out"]["w"] += np.einsum("btk,btd->kd", read, dy)
    dread = dy @ p["out"]["w"].T
    dq, dk, dv = (d[:, 0] for d in attend_backward(dread[:, None], attended))
    dkv = np.concatenate([dk, dv], axis=-1)
    g["q"]["w"] += np.einsum("btd,btk->dk", x, dq)
    g["kv"]["w"] += np.einsum("bsd,bsk->dk", z, dkv)
    return dq @ p["q"]["w"].T, dkv @ p["kv"]["w"].T  # dx, dz


# %%
# For two images the measured slopes agree, and so does the library. (Trainings run in float32. What
# is to be compared to the last digit is turned into float64, as here.)

from scratch_vlm.layers.attention import (
    cross_attention_backward,
    cross_attention_forward,
    cross_attention_init,
)
from scratch_vlm.tree import tree_map

rng = np.random.default_rng(0)
p = cross_attention_init(rng, 4, 6, heads=1, bias=False)
p = tree_map(lambda w: w.astype(float), p)
x, z, dy = (rng.normal(size=(2, *shape)) for shape in (asking, answering, asking))
print(check(cross_forward, cross_backward, [x, z], p))

g, library_g = tree_map(np.zeros_like, p), tree_map(np.zeros_like, p)
y, saved = cross_forward(x, z, p)
library_y, library_saved = cross_attention_forward(x, z, p, heads=1)
assert np.allclose(y, library_y) and y.shape == x.shape
mine = cross_backward(dy, saved, g)
library = cross_attention_backward(dy, library_saved, library_g)
for a, b in zip(mine, library, strict=True):
    assert np.allclose(a, b)
for name in ("q", "kv", "out"):
    assert np.allclose(g[name]["w"], library_g[name]["w"])

# %%
# Turn around the row of tokens that answer, and nothing changes. Turn around that of those that
# ask, and the outputs turn around alike.

assert np.allclose(cross_forward(x, z[:, ::-1], p)[0], y)
assert np.allclose(cross_forward(x[:, ::-1], z, p)[0], y[:, ::-1])

# %%
# A colour reads a board
# ----------------------
#
# Now real handwriting. A board has nine cells, with three or four digits in different colours. One
# word asks, a colour: a learned vector out of a table with a row for each word, an *embedding*. The
# nine cells answer; each is a token of 8 x 8 x 3 numbers, its pixels. The model adds what the word
# read to the word, and a *linear layer*, a matrix and a bias, makes ten scores of it, one for each
# digit. It is never told which cell has the colour, nor what a colour is: all it hears is a loss
# that is small if the right digit has the highest score (*cross-entropy*; lesson 06 derives it).

from scratch_vlm.data.boards import draw_boards, paint_boards
from scratch_vlm.data.digits import split
from scratch_vlm.data.scenes import COLOUR_NAMES, DigitPool
from scratch_vlm.layers.embedding import embedding_backward, embedding_forward, embedding_init
from scratch_vlm.layers.linear import linear_backward, linear_forward, linear_init
from scratch_vlm.ops.losses import cross_entropy_backward, cross_entropy_forward
from scratch_vlm.ops.patches import patchify_forward, unpatchify_forward

WIDTH = 64


def boards(rng, count, name):
    """Colours asked for, the cells of each board, the right digits, where they are, the boards."""
    source = draw_boards(rng)
    drawn = [next(source) for _ in range(count)]
    images = paint_boards(rng, drawn, DigitPool(split(name)))
    cells, _ = patchify_forward(images, patch=(8, 8))  # (B, 9, 192)
    at = rng.integers(3, size=count)  # which of the digits of a board is asked for
    items = [board.items[i] for board, i in zip(drawn, at, strict=True)]
    where = [board.cells[i] for board, i in zip(drawn, at, strict=True)]
    colours, digits = np.array(items).T
    return colours, cells, digits, np.array(where), drawn


def reader_init(rng):
    return {
        "words": embedding_init(rng, len(COLOUR_NAMES), WIDTH, std=0.5),
        "cross": cross_attention_init(rng, WIDTH, 192, heads=1, bias=False),
        "head": linear_init(rng, WIDTH, 10),
    }


def reader_forward(colours, cells, digits, p):
    s = {}
    x, s["words"] = embedding_forward(colours[:, None], p["words"])  # (B, 1, D)
    h, s["cross"] = cross_attention_forward(x, cells, p["cross"], heads=1)
    logits, s["head"] = linear_forward((x + h)[:, 0], p["head"])  # (B, 10)
    loss, s["loss"] = cross_entropy_forward(logits, digits)
    s["logits"] = logits
    return loss, s


def reader_backward(dloss, s, g):
    dlogits = cross_entropy_backward(dloss, s["loss"])
    dh = linear_backward(dlogits, s["head"], g["head"])[:, None]
    dx, _ = cross_attention_backward(dh, s["cross"], g["cross"])
    embedding_backward(dh + dx, s["words"], g["words"])


# %%
# ``dh + dx``: the token went two ways, around the attention and through it. The sum goes to the row
# of the table that was looked up. Training shows the model batch after batch and moves every weight
# a little against its slope; how, is for lesson 06.

import tempfile

from scratch_vlm.ops.attend import attention_weights
from scratch_vlm.training.loop import TrainConfig, train


def batch(step):
    return boards(np.random.default_rng([0, step]), 64, "train")[:3]


config = TrainConfig(steps=600, batch_size=64, peak_rate=3e-3, warmup=50)
start = reader_init(np.random.default_rng(0))
with tempfile.TemporaryDirectory() as folder:
    p = train(reader_forward, reader_backward, start, batch, config, folder, progress=False)

colours, cells, digits, where, drawn = boards(np.random.default_rng(1), 512, "test")
_, s = reader_forward(colours, cells, digits, p)
found = attention_weights(s["cross"]["attend"])[:, 0, 0]  # (B, 9)
right = (s["logits"].argmax(axis=1) == digits).mean()
looked = (found.argmax(axis=1) == where).mean()
print(f"looks at the right cell {looked:.3f}, names the digit {right:.3f} (chance 0.100)")
assert looked > 0.97 and right > 0.75

# %%
# It has found the cell although nobody told it where to look: only who looks there can name the
# digit. What limits it is the naming, which a single linear layer does from raw pixels; the next
# lessons give it a better eye. Here each of the four colours asks the same board:

from scratch_vlm.viz.attention import attention_maps

asked = np.arange(len(COLOUR_NAMES))
full = next(i for i, board in enumerate(drawn) if len(board.items) == len(asked))
_, s = reader_forward(asked, cells[[full] * len(asked)], asked, p)
seen = attention_weights(s["cross"]["attend"])[:, 0, 0]
image = unpatchify_forward(cells[full][None], size=(24, 24), patch=(8, 8))[0][0]
figure = attention_maps(image, seen, grid=(3, 3), labels=COLOUR_NAMES, mean=False)
show(figure, "03_cross_attention")

# %%
# Exercises
# ---------
#
# **1. One entry.** If only one token answers, what are the weights, and what is the slope with
# respect to the query? Give both for any query, key and value.


def check_single(answer):
    q, k, v, dy = rng.normal(size=(4, 1, 1, 1, 3))
    weight, dq = answer(q, k, v, dy)
    _, saved = attend_forward(q, k, v)
    assert np.allclose(weight, attention_weights(saved)), "not the weight"
    assert np.allclose(dq, attend_backward(dy, saved)[0]), "not the slope"


# %%
# **2. Ask yourself.** With which arguments does cross-attention do what self-attention does, and
# what then is the slope with respect to the one input? Build the pair from ``cross_forward`` and
# ``cross_backward``.


def check_self(forward, backward):
    p = tree_map(lambda w: w.astype(float), cross_attention_init(rng, 4, 4, heads=1, bias=False))
    assert np.allclose(forward(x, p)[0], cross_forward(x, x, p)[0]), "not what tokens read"
    check(forward, backward, [x], p)


# %%
# **3. Nobody there.** A board with three digits lacks one of the four colours. Whoever is asked for
# that one should say so. Find a number, made of the nine weights alone, that is larger where the
# colour is missing. Below, ``found`` holds the weights for colours that are there, and ``lost`` for
# colours that are not.

short = [i for i, board in enumerate(drawn) if len(board.items) == 3]
lacking = [set(asked.tolist()).difference(item.colour for item in drawn[i].items) for i in short]
_, s = reader_forward(np.concatenate([list(c) for c in lacking]), cells[short], digits[short], p)
lost = attention_weights(s["cross"]["attend"])[:, 0, 0]


def check_absent(score):
    there, missing = ([score(weights) for weights in rows] for rows in (found[short], lost))
    share = np.mean([m > t for m, t in zip(missing, there, strict=True)])
    assert share > 0.8, f"larger where the colour is missing in {share:.2f} of the boards"


# %%
# Sources
# -------
#
# * D. Bahdanau, K. Cho and Y. Bengio, *Neural Machine Translation by Jointly Learning to Align and
#   Translate*, 2014, arXiv:1409.0473: the first cross-attention, section 3.1.
# * A. Vaswani et al., *Attention Is All You Need*, 2017, arXiv:1706.03762, section 3.2.3.
