r"""
Can patches be words?
=====================

A language model never sees words. Its first layer turns each token into a vector, and from there on
there are only vectors. So why should they all come from words? Make vectors of the patches of an
image, as wide as those of words, lay them into the row, and let the model read on: a *unified
embedding*, the architecture of LLaVA.

We lay the row by hand, find out what may be learned from it, and train a model in two stages until
it answers questions about real handwriting.
"""

# %%
# A row with gaps
# ---------------
#
# The text keeps a place for each visual token, filled with the id of a special token, ``<image>``.
# Its vector is looked up like all others and then overwritten: that is the *splice*. Below, vectors
# are single numbers, a tenth of the id, and the id 9 keeps a place. What stood there, 0.9, is gone;
# the words 0.4 and 0.7 stay.

import numpy as np

from scratch_vlm.gradcheck import check
from scratch_vlm.ops.splice import splice_backward, splice_forward


def lay_forward(x, visual, at):
    y = x.copy()
    y[at] = visual
    return y, at


def lay_backward(dy, at):
    dx = dy.copy()
    dx[at] = 0
    return dx, dy[at]  # dwords, dvisual


ids = np.array([[4, 9, 9, 7]])
words, visual = ids[..., None] / 10, np.array([[5.0], [6.0]])
y, saved = lay_forward(words, visual, ids == 9)
print(words[0, :, 0], "becomes", y[0, :, 0])
assert y[0, :, 0].tolist() == [0.4, 5, 6, 0.7]

# %%
# The way back is the same walk. Whatever stands in the row receives its slope: a visual token that
# of its place, a word that of its place. What was overwritten had no part in the loss, so it gets
# zero.

dwords, dvisual = lay_backward(np.array([[[1.0], [2.0], [3.0], [4.0]]]), saved)
assert dwords[0, :, 0].tolist() == [1, 0, 0, 4] and dvisual[:, 0].tolist() == [2, 3]

rng = np.random.default_rng(0)
at = np.array([[True, True, False, False], [False, True, False, True]])
(x, dy), visual = rng.normal(size=(2, 2, 4, 3)), rng.normal(size=(4, 3))
print(check(lay_forward, lay_backward, [x, visual, at]))
y, saved = lay_forward(x, visual, at)
theirs, kept = splice_forward(x, visual, at=at)
assert (theirs == y).all()
for mine, library in zip(lay_backward(dy, saved), splice_backward(dy, kept), strict=True):
    assert (mine == library).all()

# %%
# Visual tokens come in reading order: those of the first text, then those of the second. If places
# and tokens do not match in number, an image would slide into the wrong text. The library refuses:

try:
    splice_forward(x, visual[:3], at=at)
    raise AssertionError("one visual token is missing")
except ValueError as error:
    print(error)

# %%
# What is to be learned
# ---------------------
#
# Here is a conversation about a *board*, a picture of 3 x 3 cells with a few coloured digits, as
# the model reads it: a visual token for each cell, then the words. Beside it stand the *labels*:
# the tokens that are to be predicted, each from all that stands before it. Only the answer and the
# end behind it have one. Nobody wants the model to predict the question or the image; there the
# label is -100, which the cross-entropy leaves out.

from scratch_vlm.data.chat import Turn, encode_chat
from scratch_vlm.experiments import chats, scenes, vqa

bpe, model = chats.tokenizer(), vqa.model_of("unified")
turn = Turn("what colour is seven", "red", media=1)
ids, labels = encode_chat(bpe, [turn], placeholders=9)
for i, label in zip(ids, labels, strict=True):
    print(f"{bpe.text([i]):10} {'' if label == -100 else bpe.text([label])}")
assert ids.count(model.image) == 9 == model.sight.tokens()
assert [bpe.text([i]) for i in labels if i != -100] == [" red", "<eos>"]

# %%
# The parts
# ---------
#
# *The tower* is the image encoder of a CLIP, lesson 07: it makes a vector of each patch. We take
# them from its last block but one, as LLaVA does; the last one serves the summary that CLIP
# compares with captions. *The projector*, a *connector* in the library, makes these vectors as wide
# as words: here a linear layer, a GELU, another linear layer. *The language model* is that of
# lesson 12, but its head is a matrix of its own. Here is all of it, with the 7 tokens of text in
# the conversation above:

from scratch_vlm.viz import diagrams
from scratch_vlm.viz.show import show

figure = diagrams.unified(model, len(ids) - 9)
show(figure, "13_unified_embedding_diagram")
assert len(ids) - 9 == 7

# %%
# Tower and language model are trained a little first. The language model reads many such
# conversations without images: it learns what is asked, and can only guess.

from functools import partial
from tempfile import TemporaryDirectory

from scratch_vlm.data.boards import evaluation_boards, question_only_answers, training_boards
from scratch_vlm.data.chat import chat_batch
from scratch_vlm.data.digits import split
from scratch_vlm.data.scenes import DigitPool
from scratch_vlm.data.tokens import PAD
from scratch_vlm.models.lm import lm_init, lm_loss_backward, lm_loss_forward
from scratch_vlm.models.unified import unified_init
from scratch_vlm.ops.losses import IGNORE
from scratch_vlm.training.loop import TrainConfig, train

KINDS = {"colour": 0.5, "position": 0.5}  # "what colour is seven", "what digit is top-left"
POOL = DigitPool(split("train"))
fast = {"batch_size": 32, "peak_rate": 3e-3, "warmup": 30, "betas": (0.9, 0.98)}


def boards(step, turns=6):
    rng = np.random.default_rng([0, step])
    images, asked = training_boards(rng, 32, POOL, turns=turns, shares=KINDS, warp=scenes.WARP)
    return scenes.prepare(images)[:, None], asked  # an image is a clip of one frame


def texts(step):
    ids, _ = chat_batch(bpe, chats.conversations(boards(step, turns=2)[1], media=0))
    return ids, np.where(ids == PAD, IGNORE, ids)


with TemporaryDirectory() as folder:
    clip = scenes.train_model(f"{folder}/clip", steps=300, progress=False)
    lm = train(
        partial(lm_loss_forward, config=model.lm),
        lm_loss_backward,
        lm_init(np.random.default_rng(0), model.lm),
        texts,
        TrainConfig(steps=120, **fast),
        f"{folder}/lm",
        progress=False,
    )
p = unified_init(np.random.default_rng(0), model, vit=clip["image"], lm=lm)

# %%
# From a word to the pixels
# -------------------------
#
# Put together, it is one long function, and every part of it has a backward that we have read. So
# the surprise of the model at its answers reaches the pixels of the image:

from scratch_vlm.models.unified import unified_loss_backward, unified_loss_forward
from scratch_vlm.tree import leaves, zeros_like

media, asked = boards(0)
ids, labels = chat_batch(bpe, chats.conversations(asked[:1]), placeholders=9)
loss, saved = unified_loss_forward(ids, labels, media[:1], p, config=model)
g = zeros_like(p)
dmedia = unified_loss_backward(1.0, saved, g)
assert dmedia.shape == (1, 1, 24, 24, 3) and np.abs(dmedia).max() > 0

# %%
# Two stages
# ----------
#
# The projector knows nothing yet. Train everything at once, and the language model would first
# learn from its noise. So *stage one* trains the projector alone: it learns to speak the language
# of the model, which is frozen. *Stage two* trains projector and language model together. The tower
# stays frozen in both. Freezing is a rule over names, see lesson 08.

PARTS = ("sight/tower", "sight/connector", "lm")
stages = {
    "stage one": (200, "sight/connector/.*"),
    "stage two": (500, "sight/connector/.*|lm/.*"),
}
test = evaluation_boards("test", 256)
pixels = scenes.prepare(test.images)[:, None]


def measure(p):
    accuracy = {}
    for kind in KINDS:
        asked = test.questions[kind]
        said = chats.answers(p, model, pixels, [q.text for q in asked])
        accuracy[kind] = chats.accuracy(said, asked)
    return accuracy


guess = {
    kind: chats.accuracy(question_only_answers(test.questions[kind]), test.questions[kind])
    for kind in KINDS
}
results = {"at first": measure(p)}
with TemporaryDirectory() as folder:
    for stage, (steps, learns) in stages.items():
        before = {name: leaf.copy() for name, leaf in leaves(p)}
        config = TrainConfig(steps=steps, trained=((learns, True), (".*", False)), **fast)
        p = chats.train_fusion(
            f"{folder}/{steps}", model, p, boards, config, identity={}, progress=False
        )
        changed = [name for name, leaf in leaves(p) if (leaf != before[name]).any()]
        moved = [part for part in PARTS if any(name.startswith(part) for name in changed)]
        print(f"{stage} moved", *moved)
        results[stage] = measure(p)
for name, row in (results | {"question only": guess}).items():
    print(f"{name:13}", *(f"{kind} {share:.2f}" for kind, share in row.items()))
assert moved == ["sight/connector", "lm"]
*earlier, last = results.values()
for kind in KINDS:
    assert all(row[kind] < guess[kind] + 0.1 for row in earlier)
    assert last[kind] > guess[kind] + 0.3

# %%
# *Question only* never looks and gives the likeliest answer. After stage one the model is hardly
# better: so small a language model, trained so briefly, cannot make much of what it sees while it
# is frozen. Seeing comes when it learns, too. Was stage one worth its time? Leave its entry of
# ``stages`` out and compare.
#
# The row, looked at
# ------------------
#
# Here is what the model reads and what it learns, for a board of the test. The bars show how the
# last word of the question divides its attention in the first block. It must find its digit among
# the patches, for the next word is the colour of that one.

from scratch_vlm.data.scenes import DIGIT_NAMES
from scratch_vlm.models.unified import unified_forward
from scratch_vlm.ops.attend import attention_weights
from scratch_vlm.ops.patches import patchify_forward
from scratch_vlm.viz.sequences import token_row

asked = test.questions["colour"]
ids = [encode_chat(bpe, [Turn(q.text, media=1)], placeholders=9)[0] for q in asked]
_, saved = unified_forward(np.array(ids), pixels, p, config=model)
heads = attention_weights(saved["trunk"]["blocks"]["0"]["attn"]["attend"])  # (B, A, T, T)
reads = heads[:, :, -1].mean(axis=1)  # (B, T), of the last word

digits = [DIGIT_NAMES.index(q.text.split()[-1]) for q in asked]
cells = [
    board.cells[[item.digit for item in board.items].index(digit)]
    for board, digit in zip(test.boards, digits, strict=True)
]
found = np.mean(reads[:, 1:10].argmax(axis=1) == cells)
print(f"the patch that is read most shows the digit that is asked for in {found:.0%} of the boards")
assert found > 0.75

cut, _ = patchify_forward(test.images[:1], patch=(8, 8))
row, labels = encode_chat(bpe, [Turn(asked[0].text, asked[0].answer, media=1)], placeholders=9)
tokens = [bpe.text([i]).strip() for i in row]
tokens[1:10] = cut[0].reshape(9, 8, 8, 3)
labels = [None if label == -100 else bpe.text([label]).strip() for label in labels]
shares = np.pad(reads[0], (0, len(tokens) - len(reads[0])))  # the answer is not there yet
figure = token_row(tokens, labels, shares, names=("it reads", "it learns"))
show(figure, "13_unified_embedding")

# %%
# Patches can be words. The price: each of them takes a place in the row, in every block and in the
# KV cache. Lesson 14 keeps them out of the row.
#
# Exercises
# ---------
#
# **1. How long is the row?** An image is cut into patches; ``by`` x ``by`` neighbouring patches are
# joined into one token (*pixel shuffle*); a video has several frames. How many visual tokens?


def check_tokens(tokens):
    assert tokens(side=336, patch=14, frames=1, by=1) == 576, "LLaVA-1.5"
    assert tokens(side=336, patch=14, frames=1, by=2) == 144
    assert tokens(side=24, patch=8, frames=5, by=3) == 5


# %%
# **2. The vector of the gap.** The token ``<image>`` has a row in the embedding, like every word.
# What is its gradient, whatever the loss? (If the head were tied to the embedding, as in lesson 12,
# would that still be so?)


def check_gap(gradient):
    row = g["lm"]["tokens"]["w"][model.image]
    assert g["lm"]["tokens"]["w"].any(), "other words do learn"
    assert np.array_equal(np.broadcast_to(gradient, row.shape), row), "it is overwritten"


# %%
# **3. Patches are no sequence.** A causal mask lets the last patch see the first, and not the other
# way round. Under a *prefix mask* all patches of an image see each other; the rest stays causal.
# Write it for one row with one image, from a boolean array that is True at the visual tokens.


def check_prefix(prefix_mask):
    at = np.array([False, True, True, True, False, False])
    mask = np.asarray(prefix_mask(at))
    assert mask.shape == (6, 6) and mask[1:4, 1:4].all(), "all patches see each other"
    words = ~at[:, None] | ~at
    assert np.array_equal(mask[words], np.tri(6, dtype=bool)[words]), "the rest stays causal"


# %%
# Sources
# -------
#
# * H. Liu et al., *Visual Instruction Tuning*, 2023, arXiv:2304.08485, section 4: the architecture
#   and its two stages.
# * H. Liu et al., *Improved Baselines with Visual Instruction Tuning*, 2023, arXiv:2310.03744,
#   section 3: the projector used here.
# * M. Tsimpoukelli et al., *Multimodal Few-Shot Learning with Frozen Language Models*, 2021,
#   arXiv:2106.13884: images as vectors in front of the words of a frozen model.
