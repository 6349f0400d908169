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
# Its vector is looked up like all others and then overwritten: that is the *splice*. Below the id 9
# keeps a place. What stood there, 0.9, is gone; the words 0.4 and 0.7 stay.

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
print(y[0, :, 0])
assert y[0, :, 0].tolist() == [0.4, 5, 6, 0.7]

# %%
# The way back is the same walk. Whatever stands in the row receives its slope: a visual token that
# of its place, a word that of its place. What was overwritten had no part in the loss, so it gets
# zero.

dwords, dvisual = lay_backward(np.array([[[1.0], [2.0], [3.0], [4.0]]]), saved)
assert dwords[0, :, 0].tolist() == [1, 0, 0, 4] and dvisual[:, 0].tolist() == [2, 3]

rng = np.random.default_rng(0)
at = np.array([[True, True, False, False], [False, True, False, True]])
x, visual, dy = rng.normal(size=(2, 4, 3)), rng.normal(size=(4, 3)), rng.normal(size=(2, 4, 3))
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
# Here is a conversation about a board of nine patches, as the model reads it, and under it the
# *labels*. The loss counts only where a label stands: on the answer and the end behind it. Nobody
# wants the model to foretell the question or the image. Elsewhere the label is -100, which the
# cross-entropy leaves out.

from scratch_vlm.data.chat import Turn, encode_chat
from scratch_vlm.experiments import chats, scenes, vqa

bpe, model = chats.tokenizer(), vqa.model_of("unified")
ids, labels = encode_chat(bpe, [Turn("what colour is seven", "red", media=1)], placeholders=9)
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
# compares with captions. *The projector* makes these vectors as wide as words: here a linear layer,
# a GELU, another linear layer. *The language model* is that of lesson 12; it has read many such
# conversations without images, knows what is asked, and can but guess. Both are trained a little,
# right here:

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

KINDS = {"colour": 0.5, "position": 0.5}  # what colour is seven; what digit is top-left
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
# the surprise of the model at one word reaches the pixels of the image:

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
# The projector knows nothing yet. Train everything at once, and its noise would first wreck what
# the language model knows. So *stage one* trains the projector alone: it learns to speak the
# language of the model, which is frozen, as is the tower. *Stage two* trains projector and language
# model together. The tower stays frozen in both. Freezing is a rule over names, as in lesson 07.

stages = [(200, "sight/connector/.*"), (500, "sight/connector/.*|lm/.*")]
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
results = [measure(p)]
with TemporaryDirectory() as folder:
    for steps, learns in stages:
        before = {name: leaf.copy() for name, leaf in leaves(p)}
        config = TrainConfig(steps=steps, trained=((learns, True), (".*", False)), **fast)
        p = chats.train_fusion(
            f"{folder}/{steps}", model, p, boards, config, identity={}, progress=False
        )
        moved = {name.split("/")[0] for name, leaf in leaves(p) if (leaf != before[name]).any()}
        print("parts that moved:", *sorted(moved))
        results.append(measure(p))
for name, row in zip(("nothing", "stage one", "stage two"), results, strict=True):
    print(f"after {name:10}", *(f"{kind} {share:.2f}" for kind, share in row.items()))
print(f"{'question only':16}", *(f"{kind} {share:.2f}" for kind, share in guess.items()))
assert moved == {"sight", "lm"}
for kind in KINDS:
    assert results[2][kind] > results[1][kind] + 0.2
    assert results[2][kind] > guess[kind] + 0.3
