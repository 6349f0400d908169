r"""
Which fusion, and when?
=======================

Two ways lead an image into a language model. *Unified embedding* (lesson 13) puts visual tokens
among the words. *Cross-modality attention* (lesson 14) lets the words look aside. Trained alike,
which one answers better? What does each cost, and how does that change with the number of images?
"""

# %%
# The same answers
# ----------------
#
# Both models start from the same tower and the same language model, read the same batches and take
# the same steps. The command ``scratch-vlm compare`` trains them. It was run with three seeds; here
# are the means. No difference between the two is larger than a hundredth.

import json
from pathlib import Path

import numpy as np

import scratch_vlm

ROOT = Path(scratch_vlm.__file__).parents[1]
results = json.loads((ROOT / "benchmarks/results/compare.json").read_text())["results"]
questions = {
    "colour": "what colour is seven",
    "digit": "what digit is red",
    "position": "what digit is top-left",
    "relation": "what digit is left of seven",
    "relation_heldout": "... of a digit not asked so in training",
}
print(f"{'':39}  unified  cross-modal  chance")
for kind, question in questions.items():
    unified, cross = (results[f"vqa.{arm}.{kind}"] for arm in ("unified", "cross_modal"))
    print(f"{question:39}  {unified['mean']:7.3f}  {cross['mean']:11.3f}  {unified['chance']:6.3f}")
    assert abs(unified["mean"] - cross["mean"]) < 0.01

# %%
# They answer alike, small as they are and with language models that learn. Between models of
# billions of weights a difference was found (H. Laurençon et al., below): while the language model
# is frozen, looking aside is better; once it learns, patches among its words are. So neither is
# always better. Choose by what they cost, too.
#
# Counting
# --------
#
# A product of a matrix of weights with one token costs two operations for each weight: one
# multiplication, one addition. A block of width D has 4 D² weights in its attention and 8 D² in its
# MLP, which makes 24 D² operations for each token. Attention of T tokens to S others adds 4 T S D:
# scores, and reading. In a gated block (lesson 14) a word needs a query, an output and the MLP, 20
# D² operations; a visual token needs a key and a value, 4 D². The library knows these formulas
# (`scratch_vlm.costs`), and its tests hold them against counted products. Our models have width 64;
# a question has 8 tokens, an image 9:

from scratch_vlm.costs import block_cost, gated_block_cost
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.layers.gated import GatedConfig

D, T, N = 64, 8, 9
block = BlockConfig(width=D, heads=4, hidden=4 * D)


def by_hand(tokens, others):
    return 24 * tokens * D**2 + 4 * tokens * others * D


assert block_cost(block, T).flops == by_hand(T, T)
assert block_cost(block, T + N).flops == by_hand(T + N, T + N)
looking = gated_block_cost(GatedConfig(block, D), T, N).flops
assert looking == 20 * T * D**2 + 4 * N * D**2 + 4 * T * N * D
print(f"words alone                 {by_hand(T, T):9,}")
print(f"with an image among them    {by_hand(T + N, T + N):9,}")
print(f"with a look aside           {by_hand(T, T) + looking:9,}")

# %%
# Both in one picture; unified at the left, cross-modal at the right, where one token more marks the
# place of the image in the text (lesson 14):

from scratch_vlm.experiments.vqa import model_of
from scratch_vlm.viz import diagrams
from scratch_vlm.viz.show import show

figure = diagrams.fusions(model_of("unified"), model_of("cross_modal"), T)
show(figure, "15_which_fusion_diagram")

# %%
# With one small image they cost about the same. With I images:
#
# *Unified*: the block reads T + I N tokens, so its attention grows with the square of I. And every
# block carries every visual token through its MLP.
#
# *Cross-modal*: the words stay T tokens. Looking costs keys and values of I N tokens, in the layers
# that look, and 4 T I N D for the attention: linear in I. But it takes new weights, and the layers
# that look run a second MLP.
#
# Real sizes
# ----------
#
# Take a language model of seven billion weights: 32 blocks of width 4096, with an MLP of 11008 in
# three matrices (*SwiGLU*). An image has 576 tokens, as in LLaVA. The cross-modal one looks aside
# before every fourth block, as Llama 3.2 Vision does. A question of 64 words, with 1 to 64 images:

from scratch_vlm.costs import kv_cache_numbers
from scratch_vlm.models.lm import LMConfig

big = BlockConfig(4096, 32, 11008, mlp="swiglu", norm="rms", bias=False)
lm = LMConfig(32_000, 65_536, big, depth=32, tied=False)
words, per_image, looks = 64, 576, 8
images = np.arange(0, 65)
gated = GatedConfig(big, 4096)


def reads(images):
    """Operations: all visual tokens in every block, or eight looks aside."""
    visual = int(images) * per_image
    unified = 32 * block_cost(big, words + visual).flops
    aside = gated_block_cost(gated, words, visual).flops if visual else 0
    return unified, 32 * block_cost(big, words).flops + looks * aside


def remembers(images):
    """Bytes of the KV cache (lesson 12), in 16 bits."""
    visual = int(images) * per_image
    own = 2 * kv_cache_numbers(lm)  # of a token, in all blocks
    return own * (words + visual), own * words + own * looks / 32 * visual


flops = np.array([reads(i) for i in images], float).T
cache = np.array([remembers(i) for i in images]).T
print("images  10¹² operations to read  GiB of cache")
print("        unified  cross-modal      unified  cross-modal")
for i in (1, 8, 64):
    tera, gib = flops[:, i] / 1e12, cache[:, i] / 2**30
    print(f"{i:6}  {tera[0]:7.0f}  {tera[1]:11.1f}      {gib[0]:7.2f}  {gib[1]:11.2f}")
assert flops[0, 8] / flops[1, 8] > 10 and flops[0, 64] / flops[0, 8] > 12
assert np.isclose(cache[0, 64] / cache[1, 64], 4, rtol=0.02)

from scratch_vlm.viz.lines import lines

figure = lines(
    images[1:],
    {"unified": flops[0, 1:] / 1e12, "cross-modal": flops[1, 1:] / 1e12},
    across="images in the prompt",
    up="10¹² operations to read it",
    log="xy",
)
show(figure, "15_which_fusion")

# %%
# One image is nine times as long as the question, and the unified model takes it through every
# block. With dozens, as in a video or a long document, the square in its attention begins to tell:
# 8 times the images cost more than 12 times as much. Its cache is about 4 times as large, for it
# keeps every visual token in 32 blocks and not in 8.
#
# Is it true of the running model?
# --------------------------------
#
# Formulas are claims. Here are both small models with real boards in front of them, and what their
# forwards save for the backwards, counted array by array as in lesson 04:

from scratch_vlm.data.boards import evaluation_boards
from scratch_vlm.data.chat import Turn, chat_batch
from scratch_vlm.experiments.chats import placeholders, tokenizer
from scratch_vlm.experiments.scenes import prepare
from scratch_vlm.models.cross_modal import cross_modal_init, cross_modal_loss_forward
from scratch_vlm.models.unified import unified_init, unified_loss_forward
from scratch_vlm.tree import nbytes

rng = np.random.default_rng(0)
boards = prepare(evaluation_boards("test", 8).images)[:, None]  # clips of one frame each

grown = {}
for arm, init, forward in (
    ("unified", unified_init, unified_loss_forward),
    ("cross_modal", cross_modal_init, cross_modal_loss_forward),
):
    config = model_of(arm)
    p = init(rng, config)
    kept = []
    for count in (1, 2, 4, 8):
        chat = [Turn("what digit is red", "two", media=count)]
        ids, labels = chat_batch(tokenizer(), [chat], placeholders=placeholders(config))
        _, saved = forward(ids, labels, boards[:count], p, config=config)
        kept.append(nbytes(saved) - nbytes(p))
    steps = np.diff(kept) / (1, 2, 4)
    grown[arm] = steps[-1] / steps[0]
    print(f"{arm:12} KiB for each further image:", *(f"{step / 1024:.0f}" for step in steps))
assert grown["unified"] > 1.1 > 1.05 > grown["cross_modal"]

# %%
# Each further image costs the cross-modal model about the same, and the unified one more than the
# last.
#
# What stays as it was
# --------------------
#
# One more difference can decide. A cross-modal model whose gates are closed *is* the language model
# it was made from, to the last bit; freeze the language model, and on texts without images it
# stays so, if words that see nothing skip the second MLP (lesson 14). In a unified model every
# weight is used for words and images alike, and training on one changes the other. In the
# comparison above the language models were *not* frozen, and learned from images alone. This is
# what each pays for a token of a text without images, before and after:

text_only = {
    name: results[f"text_only.{name}"]["mean"] for name in ("lm", "unified", "cross_modal")
}
for name, loss in text_only.items():
    print(f"{name:12} {loss:5.2f}")
assert text_only["lm"] < 1 and min(text_only["unified"], text_only["cross_modal"]) > 5

# %%
# Both have forgotten how to talk without an image. So: few images, simple code, one kind of token:
# unified. Many images or long videos, or a language model that must not change: cross-modal, with
# that model frozen. And a Resampler (lesson 11) in front of either makes N small, and images
# cheap.
#
# Exercises
# ---------
#
# **1. Where it begins to hurt.** From how many images on does the large unified model above need
# more than a hundred times the operations of its question alone? Give the number.


def check_hundred(answer):
    alone = reads(0)[0]
    assert reads(answer)[0] > 100 * alone, "not yet"
    assert reads(answer - 1)[0] <= 100 * alone, "sooner"


# %%
# **2. A Resampler.** It turns each image into 64 tokens instead of 576. By what factor does the
# cache of the unified model shrink, with many images? Give the factor.


def check_factor(factor):
    assert np.isclose(factor, 576 / 64), "count what grows with the images"


# %%
# **3. Write, don't read.** While an answer is written, each new token reads the whole cache, and
# itself. Give the operations of one new token in all blocks of the large unified model, as a
# function of the number of tokens in the cache. (Count the three matrices of its MLP.)


def check_writing(flops_of):
    for past in (0, 100, 10_000):
        truth = 32 * block_cost(big, 1, past=past).flops
        assert flops_of(past) == truth, f"{past} in the cache: {truth:,}, not {flops_of(past):,}"


# %%
# Sources
# -------
#
# * H. Liu et al., *Visual Instruction Tuning*, 2023, arXiv:2304.08485: unified embedding.
# * J.-B. Alayrac et al., *Flamingo*, 2022, arXiv:2204.14198: cross-modality attention, and what
#   freezing keeps.
# * H. Laurençon et al., *What Matters when Building Vision-Language Models?*, 2024,
#   arXiv:2405.02246, section 3.2: both made of the same parts, frozen and trained.
# * Llama Team, *The Llama 3 Herd of Models*, 2024, arXiv:2407.21783, section 7.
# * J. Kaplan et al., *Scaling Laws for Neural Language Models*, 2020, arXiv:2001.08361, table 1:
#   counting.
