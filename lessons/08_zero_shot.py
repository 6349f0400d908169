r"""
How to classify without labels?
===============================

A classifier has a fixed list of classes and needs labelled images for each of them. CLIP was asked
another question, which sentence goes with which image, and that is enough to make classifiers on
the spot: write a sentence for each class and take the one that goes best with the image. This is
called *zero-shot*, for the number of labelled examples that it needs.

This lesson makes such classifiers out of the CLIP of lesson 07, counts how many labels a sentence
is worth, and teaches a finished image tower another language.
"""

# %%
# Only the direction counts
# -------------------------
#
# What CLIP compares are arrows, of length one. A vector becomes one when it is divided by its
# length. That of (3, 4) is 5, so its arrow is (0.6, 0.8). Lesson 07 left out the backward of this
# step.
#
# .. math:: y = \frac{x}{\lVert x \rVert}
#
# How does the arrow move when x does? If :math:`x_j` grows, the length grows :math:`y_j` times as
# much. So by the quotient rule, with :math:`\langle y, dy \rangle` for the dot product,
#
# .. math:: \frac{\partial y_i}{\partial x_j} = \frac{[i = j] - y_i\, y_j}{\lVert x \rVert}
#    \quad\Longrightarrow\quad dx = \frac{dy - y\, \langle y, dy \rangle}{\lVert x \rVert}
#
# In words: a step along x makes x longer, and the arrow stays. A step across it turns the arrow,
# the less the longer x is. So of what comes back, the part along the arrow is taken out, and the
# rest divided by the length.
#
# For ``dy`` = (5, 0) the part along the arrow is 3 times (0.6, 0.8). What is left is (3.2, -2.4), a
# fifth of it (0.64, -0.48), and that stands at a right angle to x: 3 times 0.64 is 4 times 0.48.

import numpy as np

from scratch_vlm.gradcheck import check
from scratch_vlm.ops.normalize import l2_normalize_backward, l2_normalize_forward


def arrow_forward(x):
    length = np.sqrt((x * x).sum(axis=1, keepdims=True))
    return x / length, (x / length, length)


def arrow_backward(dy, saved):
    y, length = saved
    return (dy - y * (y * dy).sum(axis=1, keepdims=True)) / length


y, saved = arrow_forward(np.array([[3.0, 4.0]]))
dx = arrow_backward(np.array([[5.0, 0.0]]), saved)
print("arrow", y[0], "gradient", dx[0].round(2))
assert np.allclose(y, [[0.6, 0.8]]) and np.allclose(dx, [[0.64, -0.48]])
assert np.allclose(5 * dx, [[3.2, -2.4]]) and np.isclose(dx[0] @ [3, 4], 0)

rng = np.random.default_rng(1)
x, dy = rng.normal(size=(2, 6, 4))
print(check(arrow_forward, arrow_backward, [x]))
theirs, kept = l2_normalize_forward(x)
assert np.allclose(theirs, arrow_forward(x)[0])
assert np.allclose(l2_normalize_backward(dy, kept), arrow_backward(dy, arrow_forward(x)[1]))

# %%
# The CLIP of lesson 07
# ---------------------
#
# Here it is once more, in one piece: images of one digit in one colour, captions such as "red
# seven", 8 of the 40 pairs of colour and digit never shown.

import math
import tempfile
from functools import partial

from scratch_vlm.data.augment import Affine
from scratch_vlm.data.digits import split
from scratch_vlm.data.images import normalize
from scratch_vlm.data.scenes import (
    COLOUR_NAMES,
    DIGIT_NAMES,
    VOCABULARY,
    DigitPool,
    Item,
    Scene,
    render,
)
from scratch_vlm.data.tokens import END, Vocabulary
from scratch_vlm.inference.embed import embed_images, embed_texts
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.clip import CLIPConfig, clip_backward, clip_clamp, clip_forward, clip_init
from scratch_vlm.models.text import TextConfig
from scratch_vlm.models.vit import ViTConfig
from scratch_vlm.training.loop import TrainConfig, train

every = [Scene((Item(colour, digit),)) for colour in range(4) for digit in range(10)]
known = [scene for scene in every if not scene.held_out]
assert (len(every), len(known)) == (40, 32)
train_digits, test_digits = DigitPool(split("train")), DigitPool(split("test"))
warp = Affine(degrees=15, scale=0.15, shift=0.8, shear=0.2)

block = BlockConfig(width=64, heads=4, hidden=256, mlp="gelu_tanh")
towers = {"outputs": 64, "block": block, "depth": 1, "head_bias": False}
config = CLIPConfig(
    ViTConfig((24, 24, 3), (8, 8), positions="axial", position_std=0.5, **towers),
    TextConfig(len(VOCABULARY), context=4, end=END, **towers),
)


def paint(rng, scenes, pool, warp=None):
    pixels, _ = render(rng, scenes, pool, warp)
    return pixels, normalize(pixels, 0.0, 0.5)


def fit(p, config, ids, steps, **options):
    def batch(step):
        return paint(np.random.default_rng([1, step]), known, train_digits, warp)[1], ids

    settings = TrainConfig(steps, 32, peak_rate=2e-3, warmup=30, betas=(0.9, 0.98), **options)
    forward = partial(clip_forward, config=config)
    with tempfile.TemporaryDirectory() as folder:
        return train(forward, clip_backward, p, batch, settings, folder, after_step=clip_clamp)


captions = [scene.caption for scene in known]
p = fit(clip_init(rng, config), config, VOCABULARY.encode(captions, length=4), steps=1000)

# %%
# A class is a sentence
# ---------------------
#
# Now unseen hands, all 40 pairs, eight times over. Which digit is it? Ten sentences make the
# classifier. Their arrows are the columns of the weight of a linear layer like the one that makes
# the scores in lesson 06, except that no label was needed to find it.

from scratch_vlm.inference.zero_shot import class_embeddings, zero_shot_probabilities

shown = 8 * every
pictures, pixels = paint(rng, shown, test_digits)
images = embed_images(pixels, p, config)  # (320, 64)
digit = np.array([scene.items[0].digit for scene in shown])
colour = np.array([scene.items[0].colour for scene in shown])


def say(*sentences):
    return embed_texts(VOCABULARY.encode(sentences, length=4), p, config)


def share_right(classes, truth):
    return ((images @ classes.T).argmax(axis=1) == truth).mean()


classes = say(*(f"red {name}" for name in DIGIT_NAMES))  # (10, 64)
odds = np.exp(math.exp(p["log_scale"]) * images @ classes.T)
probabilities = zero_shot_probabilities(images, classes, p["log_scale"])
assert np.allclose(odds / odds.sum(axis=1, keepdims=True), probabilities, atol=1e-5)

# %%
# How to ask
# ----------
#
# A sentence for a class is called a *prompt*. CLIP has read captions, so a prompt should look like
# one. A bare word, "seven", is nothing that it was trained on; "red seven" is, but a blue seven
# then has to be forgiven its colour. An *ensemble* takes the mean of the arrows of "red seven",
# "green seven" and so on, in which colours cancel. A mean is shorter than its arrows, the shorter
# the less they agree, so it is made an arrow again:

apart = np.array([[[1.0, 0.0], [0.0, 1.0]]])  # one class with two prompts at a right angle
assert np.allclose(class_embeddings(apart), [[math.sqrt(0.5), math.sqrt(0.5)]])

ensemble = class_embeddings(
    np.stack([say(*(f"{hue} {name}" for hue in COLOUR_NAMES)) for name in DIGIT_NAMES])
)
bare, one, four = (share_right(c, digit) for c in (say(*DIGIT_NAMES), classes, ensemble))
print(f"a bare word {bare:.3f}, one colour {one:.3f}, an ensemble {four:.3f}")
assert bare < four and abs(one - four) < 0.1

# %%
# Our captions are all of one make, so one colour does nearly as well as four. The sentences of the
# web are not, and there ensembles are worth some points of accuracy (see the sources).
#
# Other classes cost nothing but other sentences. The same arrows of the same images, asked for
# their colour, and for all 40 pairs at once, of which 8 were never shown:

hues = class_embeddings(
    np.stack([say(*(f"{hue} {name}" for name in DIGIT_NAMES)) for hue in COLOUR_NAMES])
)
pairs = say(*(scene.caption for scene in every))
which = np.tile(range(40), 8)  # of the 40 pairs
right = (images @ pairs.T).argmax(axis=1) == which
new = np.array([scene.held_out for scene in shown])
print(f"colour {share_right(hues, colour):.3f}")
print(f"which of 40 pairs {right.mean():.3f}, where the pair is a new one {right[new].mean():.3f}")
assert share_right(hues, colour) > 0.95 and right[new].mean() > 0.5

# %%
# *Retrieval* is the same table read along the other axis: for a sentence, which images go best with
# it?

from scratch_vlm.inference.retrieval import recall_at_k
from scratch_vlm.viz.figures import retrieval
from scratch_vlm.viz.show import show

scores = pairs @ images[:40].T  # row i is a sentence, and its image is column i
asked = np.array([7, 10, 29, 32])
sentences = [every[i].caption for i in asked]
figure = retrieval(sentences, pictures[:40], scores[asked], correct=asked, title="Found by words")
show(figure, "08_zero_shot")
first, among_three = recall_at_k(scores, 1), recall_at_k(scores, 3)
print(f"its image comes first: {first:.2f}, among the first three: {among_three:.2f}")
assert among_three >= first > 0.6

# %%
# How many labels is a sentence worth?
# ------------------------------------
#
# Whoever has labels can fit a linear layer to the same arrows, a *linear probe*. What it reaches
# with many labels says how much about digits is in the arrows. With few it has to compete with
# words. Which few is luck, so we draw them ten times:

from scratch_vlm.inference.linear_probe import fit_linear_probe
from scratch_vlm.viz.lines import lines

taught = [scene for scene in known for _ in range(40)]
arrows = embed_images(paint(rng, taught, train_digits)[1], p, config)
labels = np.array([scene.items[0].digit for scene in taught])
counts = [1, 2, 4, 8, 16, 32, 64]


def probe(count):
    order = rng.permutation(len(labels))
    chosen = np.concatenate([order[labels[order] == d][:count] for d in range(10)])
    return (fit_linear_probe(arrows[chosen], labels[chosen], 10).predict(images) == digit).mean()


probes = np.array([np.mean([probe(count) for _ in range(10)]) for count in counts])
print("labels for each digit, right:", dict(zip(counts, probes.round(3).tolist(), strict=True)))
curves = {"linear probe": probes, "sentences": np.full(len(counts), four)}
figure = lines(counts, curves, across="labels for each digit", up="share that is right", log="x")
figure.axes[1].set_xticks(counts, counts)
show(figure, "08_labels")
assert (probes[:3] < four).all() and abs(probes[-1] - four) < 0.1

# %%
# A sentence is worth more than four labels for each digit, and even with 64 the probe is only about
# as good. For the published CLIP it was worth about four, on the average of many data sets.
#
# Lock the image tower
# --------------------
#
# An image tower that sees well can learn to be spoken to in other words. LiT, *locked-image
# tuning*, freezes it and trains a new text tower alone, with the same loss. What is frozen gets no
# gradient tree, and the backward does not walk through the image tower at all. Not one bit of it
# moves, so that ``images``, the arrows from before, are still right. Let the words be Italian,
# where the colour stands behind:

from scratch_vlm.tree import leaves

ITALIAN = ("rosso", "verde", "blu", "giallo")
NUMBERS = ("zero", "uno", "due", "tre", "quattro", "cinque", "sei", "sette", "otto", "nove")
words = Vocabulary(ITALIAN + NUMBERS)


def in_italian(scene):
    return f"{NUMBERS[scene.items[0].digit]} {ITALIAN[scene.items[0].colour]}"


italian = CLIPConfig(config.image, TextConfig(len(words), context=4, end=END, **towers))
start = clip_init(rng, italian) | {"image": p["image"]}
ids = words.encode([in_italian(scene) for scene in known], length=4)
locked = fit(start, italian, ids, 300, trained=(("image/.*", False), (".*", True)))

every_id = words.encode([in_italian(scene) for scene in every], length=4)
pairs = embed_texts(every_id, locked, italian)
right = ((images @ pairs.T).argmax(axis=1) == which).mean()
print(f"{in_italian(every[7])!r} and the others: which of 40 pairs {right:.3f}")
assert right > 0.6
for (name, before), (_, after) in zip(leaves(p["image"]), leaves(locked["image"]), strict=True):
    assert np.array_equal(before, after), name

# %%
# Once the classes are chosen, their arrows are a matrix, and the text tower can go. A vision
# language model, from lesson 13 on, has a language model of its own: of CLIP it keeps the image
# tower only, and reads its patches instead of the one arrow.

assert np.array_equal(embed_images(pixels, {"image": p["image"]}, config), images)

# %%
# Exercises
# ---------
#
# **1. None of these.** Softmax divides all trust among the classes that it is given. CLIP looks at
# all digits from two on and is asked: "zero" or "one"? How sure is it on average, as the larger of
# its two probabilities?


def check_trust(trust):
    asked = zero_shot_probabilities(images[digit > 1], ensemble[:2], p["log_scale"])
    assert np.isclose(trust, asked.max(axis=1).mean()), "the mean of the larger of each two"


# %%
# **2. Two questions in one.** Make the classifier of all 40 pairs, one arrow each, from the four
# arrows of colours and the ten of digits alone, in this order.


def check_compose(compose):
    classes = compose(hues, ensemble)  # (4, 64) and (10, 64)
    assert classes.shape == (40, 64), "the pairs stand as in every: ten digits for each colour"
    right = (images @ classes.T).argmax(axis=1) == which
    assert right.mean() > 0.6, f"right {right.mean():.2f}"


# %%
# **3. Length.** Show that the gradient of an arrow never makes x longer to first order: give, from
# ``dx`` and x, the number that must be zero for each row.


def check_length(number):
    dx = arrow_backward(dy, arrow_forward(x)[1])
    rows = number(dx, x)
    assert rows.shape == (6,) and np.allclose(rows, 0)
    assert not np.allclose(number(dy, x), 0), "for any other gradient it must not be zero"


# %%
# Sources
# -------
#
# * A. Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*,
#   2021, arXiv:2103.00020: section 3.1 on zero-shot, prompts and ensembles, figure 6 on what they
#   are worth in labels, section 3.2 on linear probes.
# * X. Zhai et al., *LiT: Zero-Shot Transfer with Locked-image text Tuning*, 2021, arXiv:2111.07991.
