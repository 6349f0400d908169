r"""
Can a language model look aside?
================================

In lesson 13 images stood among the words, and the language model had to change to read them. There
is another way. Leave the model as it is, to the last bit. Between its blocks put new ones, in which
the words *ask* and the image *answers*: the cross-attention of lesson 03. And put a valve behind
each of them, closed at first, so that nothing breaks on the first day.

This lesson builds the valve, finds out who may see which image, and lets a frozen language model
learn from examples in its prompt.
"""

# %%
# A gate
# ------
#
# Let :math:`x` be what a word is and :math:`h` what it saw. The *gate* adds some of it, and
# :math:`\alpha` is learned:
#
# .. math:: y = x + \tanh(\alpha)\, h
#
# The hyperbolic tangent stays between -1 and 1, and is 0 at 0: closed. With x = 1, h = 2 and a gate
# that is half open, :math:`\tanh(\alpha) = 0.5`, y is 2.
#
# The slope of the tangent is one minus its square, so for all numbers of :math:`h` together
#
# .. math:: d\alpha = \left(1 - \tanh(\alpha)^2\right) \sum h\, dy, \qquad dh = \tanh(\alpha)\, dy,
#    \qquad dx = dy
#
# Half open, with dy = 1, the gate has the slope 0.75 times 2, 1.5, and h has 0.5. *Closed*, the
# gate itself has the slope 2, but h has none: whatever made h cannot learn yet.

import math

import numpy as np

from scratch_vlm.gradcheck import check


def gate_forward(x, h, p):
    t = np.tanh(p["alpha"])
    return x + t * h, (h, t)


def gate_backward(dy, saved, g):
    h, t = saved
    g["alpha"] += (1 - t * t) * (h * dy).sum()
    return dy, t * dy


x, h, dy = np.array([1.0]), np.array([2.0]), np.array([1.0])
for opening, y_wanted, slopes in ((0.5, 2, (1.5, 0.5)), (0.0, 1, (2, 0))):
    p, g = {"alpha": np.arctanh(opening)}, {"alpha": np.zeros(())}
    y, saved = gate_forward(x, h, p)
    _, dh = gate_backward(dy, saved, g)
    print(f"gate {opening}: y {y[0]:.1f}, slope of alpha {g['alpha']:.2f}, of h {dh[0]:.2f}")
    assert np.isclose(y[0], y_wanted) and np.allclose([g["alpha"], dh[0]], slopes)

rng = np.random.default_rng(0)
x, h, dy = rng.normal(size=(3, 5, 4))
print(check(gate_forward, gate_backward, [x, h], {"alpha": np.array(0.3)}))

# %%
# The library's block has two such gates, one behind cross-attention and one behind an MLP. Close
# the second, and what is left is ours, with what the words read for h:

from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.layers.gated import (
    GatedConfig,
    gated_block_backward,
    gated_block_forward,
    gated_block_init,
)
from scratch_vlm.tree import leaves, tree_map, zeros_like

config = GatedConfig(BlockConfig(4, 2, 8), source=6, gate=0.5)
block = tree_map(lambda w: w.astype(float), gated_block_init(rng, config))
block["mlp_gate"] = np.zeros(())
z = rng.normal(size=(1, 7, 6))  # 7 visual tokens
theirs, kept = gated_block_forward(x[None], z, block, config=config)
read = kept["attn_gate"][0][0]
mine, saved = gate_forward(x, read, {"alpha": block["attn_gate"]})
assert np.allclose(theirs[0], mine)
g, library = {"alpha": np.zeros(())}, zeros_like(block)
gate_backward(dy, saved, g)
gated_block_backward(dy[None], kept, library)
assert np.isclose(library["attn_gate"], g["alpha"])

# %%
# The whole block, as Flamingo puts it before a block of the frozen language model (hatched). Our
# gates start half open here, those of Flamingo closed:

from scratch_vlm.viz import diagrams
from scratch_vlm.viz.show import show

figure = diagrams.flamingo(config, len(x), z.shape[1])
show(figure, "14_cross_modality_attention_diagram")

# %%
# Which image?
# ------------
#
# A prompt may hold several images. In the text one token, ``<image>``, marks where each stands. A
# word sees only images before it, else the model could not write. Of those it sees the last
# (Flamingo), or all. A word before the first image sees none: an empty row, which reads zero, as in
# lesson 02.

from scratch_vlm.ops.masks import media_mask

text = ["look", "<image>", "red", "<image>", "blue"]
at = np.array([[word == "<image>" for word in text]])
last, every = (media_mask(at, 2, rule=rule)[0].astype(int) for rule in ("last", "all"))
print("         last   all")
for word, row, all_row in zip(text, last, every, strict=True):
    print(f"{word:8} {row}  {all_row}")
assert last.tolist() == [[0, 0], [1, 0], [1, 0], [0, 1], [0, 1]]
assert every.tolist() == [[0, 0], [1, 0], [1, 0], [1, 1], [1, 1]]

# %%
# Each pair stands for the two images. If a word sees the last one only, how can it know the first?
# Through the words: "red", which saw the first image, is read by "blue" in the language model's own
# attention.
#
# A language model that has never seen
# ------------------------------------
#
# Now the whole. First a vision tower, from a short CLIP training as in lesson 07. Then a language
# model that learns from *text alone*. Its texts, *episodes*, are four answers to the question "what
# is": four colours, or four digits, or four places. The question does not say which kind. One
# has to learn it from the first answers, the *shots*. ``<image>`` is a token like any other here:

from functools import partial
from tempfile import TemporaryDirectory

from scratch_vlm.data.chat import chat_batch
from scratch_vlm.data.episodes import (
    ANSWERS,
    CHANCE,
    PLACES,
    RULES,
    chats_under,
    evaluation_episodes,
    training_episodes,
)
from scratch_vlm.data.tokens import PAD
from scratch_vlm.experiments import chats, scenes, shots, vqa
from scratch_vlm.models.lm import lm_forward, lm_init, lm_loss_backward, lm_loss_forward
from scratch_vlm.ops.losses import IGNORE
from scratch_vlm.training.loop import TrainConfig, train

IMAGES = 4  # in an episode
bpe, language = chats.tokenizer(), chats.language()
fast = {"batch_size": 32, "peak_rate": 3e-3, "warmup": 30, "betas": (0.9, 0.98)}


def texts(step):
    rng = np.random.default_rng([0, step])
    answers = np.stack([rng.choice(ANSWERS[rule], size=(32, IMAGES)) for rule in RULES], axis=-1)
    ids, _ = chat_batch(bpe, chats_under(answers, rng.integers(len(RULES), size=32)))
    return ids, np.where(ids == PAD, IGNORE, ids)


for row in texts(0)[0][:2]:
    print(bpe.text(row[row != PAD]).replace("<eos>", "<eos>\n"))

with TemporaryDirectory() as folder:
    clip = scenes.train_model(f"{folder}/clip", steps=300, progress=False)
    lm = train(
        partial(lm_loss_forward, config=language),
        lm_loss_backward,
        lm_init(np.random.default_rng(0), language),
        texts,
        TrainConfig(steps=100, **fast),
        f"{folder}/lm",
        progress=False,
    )

# %%
# Closed gates
# ------------
#
# Put a gated block before each of its two blocks, with closed gates. Whatever the image, every
# score is what it was, bit for bit. And of all new parameters the first step can move the gates
# alone.

from dataclasses import replace

from scratch_vlm.data.digits import split
from scratch_vlm.data.scenes import DigitPool
from scratch_vlm.models.cross_modal import (
    cross_modal_forward,
    cross_modal_init,
    cross_modal_loss_backward,
    cross_modal_loss_forward,
)

POOL = DigitPool(split("train"))
model = replace(shots.MODEL, gated=replace(shots.MODEL.gated, gate=0.0))
p = cross_modal_init(np.random.default_rng(0), model, vit=clip["image"], lm=lm)


def episodes(step):
    rng = np.random.default_rng([0, step])
    images, talks = training_episodes(rng, 32, POOL, IMAGES - 1, scenes.WARP)
    ids, labels = chat_batch(bpe, talks)
    return ids, labels, scenes.prepare(images)[:, None]  # an image is a clip of one frame


ids, labels, media = episodes(0)
blind, _ = lm_forward(ids, lm, config=language)
closed, _ = cross_modal_forward(ids, media, p, config=model)
assert (closed == blind).all()

loss, saved = cross_modal_loss_forward(ids, labels, media, p, config=model)
g = zeros_like(p)
cross_modal_loss_backward(1.0, saved, g)
moving = [name for name, leaf in leaves({k: g[k] for k in ("gated", "sight")}) if leaf.any()]
print("what can learn:", *moving)
assert moving == [f"gated/{i}/{half}_gate" for i in (0, 1) for half in ("attn", "mlp")]

# %%
# Learning to look
# ----------------
#
# Now an image stands before each question, one coloured digit somewhere on a grid of 3 x 3. Train
# the gated blocks and the connector (lesson 13), and nothing else: tower and language model are
# frozen. Every answer of an episode is learned, after no, one, two and three shots.

new = "gated/.*|sight/connector/.*"
config = TrainConfig(steps=400, trained=((new, True), (".*", False)), **fast)
with TemporaryDirectory() as folder:
    q = train(
        partial(cross_modal_loss_forward, config=model),
        cross_modal_loss_backward,
        p,
        episodes,
        config,
        folder,
        progress=False,
    )
for (name, now), (_, before) in zip(leaves(q["lm"]), leaves(lm), strict=True):
    assert (now == before).all(), name
for name, gate in vqa.gates(q).items():
    print(f"{name:11} {gate:6.3f}")
assert all(gate != 0 for gate in vqa.gates(q).values())
assert abs(vqa.gates(q)["gate_1_attn"]) > 0.1

# %%
# The second block has opened its gates; the first hardly looks. Does the model use the shots? We
# ask about images in handwriting that was not trained on, after 0 to 6 shots, the language model
# alone (closed gates) and the one that looks. Without looking one can learn from the shots which
# kind of word is wanted, and guess.

from scratch_vlm.data.chat import answer_text, encode_chat
from scratch_vlm.data.tokens import END
from scratch_vlm.inference.answer import answer

test = evaluation_episodes("test", 256, shots=6)


def ask(p, shown):
    talks = chats_under(shown.answers, shown.rules, asked=True)
    prompts = [encode_chat(bpe, turns)[0] for turns in talks]
    media = scenes.prepare(shown.images.reshape(-1, 1, *shown.images.shape[2:]))
    said = answer(prompts, media, p, model, new=2, stop=(END,))
    return np.array([answer_text(bpe, written) for written in said.ids])


right = test.answers[np.arange(256), -1, test.rules]
accuracy = {"blind": [], "looking": []}
for count in (0, 1, 2, 3, 6):
    for name, parameters in (("blind", p), ("looking", q)):
        accuracy[name].append(np.mean(ask(parameters, test.shortened(count)) == right))
    blind, looking = (accuracy[name][-1] for name in ("blind", "looking"))
    print(f"shots: {count}, blind {blind:.2f}, looking {looking:.2f}")
print(f"chance, the kind of word known: {CHANCE:.2f}")
hits = ask(q, test) == right
for rule, name in enumerate(RULES):
    print(f"after 6 shots, {name}: {hits[test.rules == rule].mean():.2f} right")
assert accuracy["looking"][1] > 0.6 > 0.45 > accuracy["looking"][0]
assert max(accuracy["blind"]) < 0.25
assert accuracy["looking"][4] > 0.6, "more shots than it was trained with"
colour, digit, place = (hits[test.rules == rule].mean() for rule in range(3))
assert min(colour, place) > 0.9 and digit < 0.5

# %%
# One shot is enough to know what is asked for, and more of them than in training do no harm. No
# weight changed for the single episode: its rule is nowhere but in its prompt. This is *few-shot
# learning*. Colours and places are named almost always, digits seldom: so briefly trained, this
# tower hardly tells them apart. ``scratch-vlm compare`` trains longer.
#
# What is a gate worth? Close one, and ask again, after two shots:

two = test.shortened(2)
worth = {}
for i in ("0", "1"):
    shut = tree_map(np.copy, q)
    shut["gated"][i]["attn_gate"] *= 0
    worth[i] = np.mean(ask(shut, two) == right)
    print(f"attention of gated block {i} closed: {worth[i]:.2f} right")
assert worth["0"] > 0.6 and worth["1"] < 0.25

# %%
# So it is in block 1 that this model looks. Where? Each row is a word, each column one of the nine
# patches of an image, and what is hatched the mask forbids. Look at "is", behind which the answer
# is written:

from scratch_vlm.ops.attend import attention_weights
from scratch_vlm.viz.sequences import seen_images

talks = chats_under(two.answers, two.rules, asked=True)
ids = np.array([encode_chat(bpe, turns)[0] for turns in talks])
media = scenes.prepare(two.images.reshape(-1, 1, *two.images.shape[2:]))
_, saved = cross_modal_forward(ids, media, q, config=model)
looks = attention_weights(saved["trunk"]["gated"]["1"]["attn"]["attend"]).mean(1)  # (B, T, S)
looks = looks.reshape(*looks.shape[:2], 3, 9)  # of 3 images, 9 patches each
seen = media_mask(ids == model.image, 3, rule="last")
assert (looks[~seen] == 0).all()

patch = [PLACES.index(place) for place in two.answers[:, -1, 2]]  # of the last digit
found = looks[:, -1, -1].argmax(axis=-1) == patch
print(f"the last word looks most at the digit in {found.mean():.0%} of the episodes")
assert found.mean() > 0.5 > 3 / 9

shown = (test.rules == 2) & (ask(q, two) == right)  # asked for the place, and right
i = int(shown.argmax())
words = [bpe.text([token]).strip() for token in ids[i]]
figure = seen_images(words, two.images[i], looks[i], seen[i])
show(figure, "14_cross_modality_attention")

# %%
# Only "is" looks straight at the digit. The other words have nothing to answer.
#
# A text without images
# ---------------------
#
# The gates are open now. Does the model still say what it said when there is nothing to see? The
# attention reads zero, but Flamingo's MLP behind the second gate acts on every word. Llama 3.2
# Vision lets words that see nothing skip it, and remains, for text, the model that it was:

ids = np.array([[1, *bpe.tokens(" what is red")]])
before, _ = lm_forward(ids, lm, config=language)
for name, skip in (("Flamingo's rule", False), ("Llama's rule", True)):
    ruled = replace(model, gated=replace(model.gated, skip_blind=skip))
    after, _ = cross_modal_forward(ids, None, q, config=ruled)
    print(f"{name}: scores of a text move by {np.abs(after - before).max():.2f} at most")
    assert (after == before).all() == skip

# %%
# What does looking aside cost, and when is it better than lesson 13? Lesson 15 compares.
#
# Exercises
# ---------
#
# **1. Neighbours.** Llama 3.2 Vision lets a word see the last image and those directly before it,
# with no word between. Write that mask for one text of T tokens: from a boolean row ``at`` and the
# number of images to booleans of shape (T, images).


def check_run(run_mask):
    for text in ("01011", "110100", "0000", "11011010"):
        at = np.array([letter == "1" for letter in text])
        count = max(int(at.sum()), 1)
        wanted = media_mask(at[None], count, rule="run")[0]
        found = np.asarray(run_mask(at, count))
        assert np.array_equal(found, wanted), f"{text}: {found.astype(int)}, not\n{wanted * 1}"


# %%
# **2. Stuck.** Somebody starts with closed gates and, for safety, with an attention whose output
# matrix is zero. Which slope does alpha have then? Give the number, and say to yourself why such a
# model never learns.


def check_stuck(slope):
    p, g = {"alpha": np.zeros(())}, {"alpha": np.zeros(())}
    silent = x @ np.zeros((4, 4))
    _, saved = gate_forward(x, silent, p)
    _, dh = gate_backward(dy, saved, g)
    assert slope == g["alpha"], "h is zero: what can the gate gain by opening?"
    assert not dh.any()


# %%
# **3. The first step.** A closed gate of slope :math:`\sum h\, dy = -4` takes one step of gradient
# descent. How much of h is let through afterwards? Give it as a function of the rate.


def check_step(opening):
    for rate in (0.1, 0.3):
        p, g = {"alpha": np.zeros(())}, {"alpha": np.zeros(())}
        _, saved = gate_forward(np.zeros(2), np.array([1.0, 3.0]), p)
        gate_backward(np.array([-1.0, -1.0]), saved, g)
        moved = p["alpha"] - rate * g["alpha"]
        assert np.isclose(opening(rate), math.tanh(moved)), f"{opening(rate)} at rate {rate}"


# %%
# Sources
# -------
#
# * J.-B. Alayrac et al., *Flamingo: a Visual Language Model for Few-Shot Learning*, 2022,
#   arXiv:2204.14198: figure 4, the gated block; section 2.3, which image a word sees; section 3.1,
#   learning from few examples.
# * Llama Team, *The Llama 3 Herd of Models*, 2024, arXiv:2407.21783, section 7: the same idea at
#   scale. That blind words skip the MLP stands in its released code.
# * M. Tsimpoukelli et al., *Multimodal Few-Shot Learning with Frozen Language Models*, 2021,
#   arXiv:2106.13884: a frozen model, read through its input instead.
