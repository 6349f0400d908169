r"""
How does a model write?
=======================

A language model does one thing: it reads a text and gives every token a probability of coming next.
Writing is that, over and over: look at the probabilities, draw a token, append it, look again.

This lesson makes tokens out of letters, finds the gradient of a matrix that is used at both ends of
the model, lets a model learn captions until it writes new ones, and makes it write without ever
reading a token twice.
"""

# %%
# From letters to tokens
# ----------------------
#
# Letters make long sequences, and whole words leave the model speechless before a new one. *Byte
# pair encoding* (BPE) stands between: begin with letters (in truth bytes, so that any text can be
# written), find the pair of neighbours that occurs most often, make it one token, repeat. Three
# words, two merges, and "red" is a token:

from collections import Counter
from itertools import pairwise

import numpy as np

words = ["r e d", "r e d", "r e s t"]
for _ in range(2):
    (a, b), count = Counter(p for w in words for p in pairwise(w.split())).most_common(1)[0]
    print(f"{a} and {b} stand side by side {count} times; the most frequent pair")
    words = [word.replace(f"{a} {b}", f"{a}{b}") for word in words]
assert words == ["red", "red", "re s t"] and count == 2

# %%
# The library's tokenizer did the same to all captions that the model below will learn. Words that
# it saw became single tokens, with the space before them; one that it never saw falls into pieces,
# and nothing is lost, for each of the 256 bytes remains a token, too:

from scratch_vlm.experiments import language

bpe = language.tokenizer()
known, unknown = "red seven above blue three", "red zebra"
for text in (known, unknown):
    print([bpe.text([i]) for i in bpe.tokens(text)])
    assert bpe.text(bpe.tokens(text)) == text
assert len(bpe.tokens(known)) == 5 < len(bpe.tokens(unknown))

# %%
# One matrix at both ends
# -----------------------
#
# Every token has a vector, its row of the *embedding* :math:`E`. The model reads those vectors, and
# at the end turns its own last vector :math:`x` into a score for each token: the product with the
# row of that token. The *head* that scores and the embedding that reads are *tied*: they are the
# same matrix. That saves a large matrix, and what a token means is learned once.
#
# What is its gradient? Take one token, the vector (1, 2), and no model between: its score for
# itself is :math:`e \cdot e`, 5, and the slope is :math:`2e`, (2, 4). One :math:`e` comes through
# the head, where :math:`e` is the row, and one through the embedding, where :math:`e` was read.
# So it is in general: a matrix used twice gains the slopes of both uses. With :math:`i_t` the id of
# the token at place t and :math:`z_t` the scores there,
#
# .. math:: x_t = E_{i_t}, \quad z = x E^\top \qquad\Longrightarrow\qquad
#    dE_j = (dz^\top x)_j + \sum_{t:\, i_t = j} (dz\, E)_t
#
# In the second part lies a trap: a token that occurs three times gains three times. NumPy's
# ``g[ids] += ...`` counts repeated rows once; ``np.add.at`` counts all.

from scratch_vlm.gradcheck import check
from scratch_vlm.layers.embedding import embedding_backward, embedding_forward
from scratch_vlm.models.lm import lm_head_backward, lm_head_forward


def tied_forward(ids, p):
    x = p["w"][ids]  # (T, D)
    return x @ p["w"].T, (ids, x, p["w"])  # (T, V)


def tied_backward(dz, saved, g):
    ids, x, w = saved
    g["w"] += dz.T @ x
    np.add.at(g["w"], ids, dz @ w)


g = {"w": np.zeros((1, 2))}
z, saved = tied_forward(np.array([0]), {"w": np.array([[1.0, 2.0]])})
tied_backward(np.ones((1, 1)), saved, g)
assert z[0, 0] == 5 and (g["w"] == [[2, 4]]).all()

rng = np.random.default_rng(0)
ids, p = np.array([3, 1, 3, 3]), {"w": rng.normal(size=(5, 4))}
print(check(tied_forward, tied_backward, [ids], p))

dz = rng.normal(size=(1, 4, 5))
mine, library = {"w": np.zeros((5, 4))}, {"tokens": {"w": np.zeros((5, 4))}}
z, saved = tied_forward(ids, p)
tied_backward(dz[0], saved, mine)
x, s_embedding = embedding_forward(ids[None], p)
logits, s_head = lm_head_forward(x, {"tokens": p})  # no head of its own: tied
assert np.allclose(logits[0], z)
embedding_backward(lm_head_backward(dz, s_head, library), s_embedding, library["tokens"])
assert np.allclose(library["tokens"]["w"], mine["w"])

# %%
# Nobody reads ahead
# ------------------
#
# Between the two ends stand the blocks of lesson 04 with the *causal mask* of lesson 02: a token
# reads itself and those before it. That is why a language model learns so much from a text: one
# pass predicts the second token from one, the third from two, and so on, and none of these
# predictions has seen its answer. Change the last token, and all scores before it stay what they
# were, to the bit. Without the mask they would not. The model is a small GPT-2, in which each place
# has a learned vector that is added to its token; its *trunk* is all of it but the two ends:

from scratch_vlm.models.lm import lm_forward, lm_init, lm_trunk_forward

config = language.model_of("gpt")
p = lm_init(rng, config)
ids = bpe.encode([known], length=7)
other = ids.copy()
other[0, -1] = 5
before, after = (lm_forward(i, p, config=config)[0] for i in (ids, other))
assert (before[:, :-1] == after[:, :-1]).all()

peeking = np.ones((1, 1, 7, 7), bool)
before, after = (
    lm_trunk_forward(p["tokens"]["w"][i], p, config=config, mask=peeking)[0] for i in (ids, other)
)
assert not np.allclose(before[:, :-1], after[:, :-1])

# %%
# Learning captions
# -----------------
#
# The loss is the cross-entropy of lesson 06, one choice among all tokens at each place. The right
# choice is the token that stands at the *next* place, so scores and text are shifted by one. The
# last scores have nothing to predict, and nothing predicts the first token:

from scratch_vlm.models.lm import lm_loss_forward
from scratch_vlm.ops.losses import cross_entropy_forward

logits, _ = lm_forward(ids, p, config=config)
shifted, _ = cross_entropy_forward(logits[0, :-1], ids[0, 1:])
assert np.isclose(lm_loss_forward(ids, ids, p, config=config)[0], shifted)

# %%
# A model that knows nothing pays the logarithm of the number of tokens. This one reads batches of
# captions of one or two coloured digits, and learns what follows what:

import math
from tempfile import TemporaryDirectory

from scratch_vlm.training.run import RunFolder

with TemporaryDirectory() as folder:
    p = language.train_model(folder, steps=500, progress=False)
    losses = RunFolder(folder).read_curve()["loss"]
print(f"guessing one of {len(bpe)} tokens costs {math.log(len(bpe)):.2f}")
print(f"loss at first {losses[0]:.2f}, after {len(losses)} steps {losses[-1]:.2f}")
assert abs(losses[0] - math.log(len(bpe))) < 0.2
assert losses[-1] < losses[0] / 3

# %%
# What does it think comes next? One column for each word read, one row for each word that may come,
# framed the one that did. Every caption begins with ``<bos>`` and ends with ``<eos>``:

from scratch_vlm.data.scenes import COLOUR_NAMES, DIGIT_NAMES, RELATIONS
from scratch_vlm.data.tokens import END
from scratch_vlm.inference.generate import choice_probabilities
from scratch_vlm.viz.sequences import next_words
from scratch_vlm.viz.show import show

logits, _ = lm_forward(ids, p, config=config)
probabilities = choice_probabilities(logits[0].astype(float))  # (T, V), a softmax
candidates = [*COLOUR_NAMES, *DIGIT_NAMES, *RELATIONS]


def share(word):  # probability of a word, at the beginning or after a space
    spellings = [bpe.tokens(text) for text in (word, f" {word}")]
    return sum(probabilities[:, ids[0]] for ids in spellings if len(ids) == 1)


shares = np.stack([*map(share, candidates), probabilities[:, END]], axis=1)  # (T, words)
read = ["<bos>", *known.split()]
figure = next_words(read, [*candidates, "<eos>"], shares[: len(read)])
show(figure, "12_decoder_lm")

after_relation = dict(zip(candidates, shares[3], strict=False))
assert read[3] == "above" and shares[0, :4].sum() > 0.9, "a caption begins with a colour"
assert after_relation["red"] < 0.05, "no caption names a colour twice"
assert shares[1, candidates.index("one")] < 0.02 < shares[1, candidates.index("two")]

# %%
# It has found the grammar: a colour, a digit, a relation or the end, a colour, a digit, the end.
# And more than grammar: after "above" it leaves out "red", which it can only know from the first
# word. That is attention at work. It also takes "red one" for impossible: no caption that it
# learned from had one, and nobody told it that there are others.
#
# Choosing
# --------
#
# Taking the most probable token each time, *greedily*, gives one text, the same every time.
# *Sampling* draws a token with its probability. Three knobs stand between. *Temperature* divides
# the logits: at one half the probabilities are squared, so that 0.5, 0.3, 0.2 become 25, 9 and 4
# parts of 38. *Top-k* keeps the k most probable, *top-p* the fewest that together reach p; what is
# left is scaled to one.

z = np.log([[0.5, 0.3, 0.2]])
assert np.allclose(choice_probabilities(z, temperature=0.5), np.array([[25, 9, 4]]) / 38)
assert np.allclose(choice_probabilities(z, top_k=2), [[5 / 8, 3 / 8, 0]])
assert np.allclose(choice_probabilities(z, top_p=0.75), [[5 / 8, 3 / 8, 0]])
assert np.allclose(choice_probabilities(z, top_p=0.5), [[1, 0, 0]])

# %%
# Let the model write, by sampling. Is what it writes a caption, and is it new? All captions that
# could be can be listed, and many were kept from it:

said = language.write_captions(p, config, count=256)
print("\n".join(said[:5]))
possible = set(language.captions("all"))
trained = {*language.captions("train"), *language.captions("single")}
right = np.mean([text in possible for text in said])
new = np.mean([text in possible - trained for text in said])
print(f"it learned from {len(trained)} of {len(possible)} captions")
print(f"{right:.0%} of what it writes are captions, {new:.0%} are captions that it never read")
assert right > 0.8 and new > 0.05

# %%
# Reading every token once
# ------------------------
#
# To write the next token, all tokens before it must be read. But thanks to the causal mask nothing
# that was computed for them can change any more: later tokens ask for their keys and values, and
# nothing else. So keep those, in a *KV cache*, and let each new token pass through the model alone.
# Its query reads all that is in the cache, without a mask, for all of it was written before:

from scratch_vlm.ops.attend import attend_forward

q, k, v = rng.normal(size=(3, 1, 1, 5, 4))  # five tokens, of which the last is new
whole, _ = attend_forward(q, k, v, mask=np.tri(5, dtype=bool))
alone, _ = attend_forward(q[:, :, -1:], k, v)
assert np.allclose(alone, whole[:, :, -1:])

# %%
# So the texts are the same, and the work is not: to write 200 tokens without a cache, 1, 2, 3 and
# so on up to 200 tokens are read.

from time import perf_counter

from scratch_vlm.inference.generate import generate
from scratch_vlm.models.lm import LMConfig
from scratch_vlm.tree import tree_map

config = LMConfig.gpt(len(bpe), 256, width=64, heads=4, depth=2)
p = tree_map(lambda w: w.astype(float), lm_init(rng, config))


def without_cache(new):
    text, tokens_read = [1], 0  # <bos>
    for _ in range(new):
        logits, _ = lm_forward(np.array([text]), p, config=config)
        tokens_read += len(text)
        text.append(int(logits[0, -1].argmax()))
    return text[1:], tokens_read


start = perf_counter()
slow, tokens_read = without_cache(200)
middle = perf_counter()
fast = generate([[1]], p, config, new=200)
end = perf_counter()
print(f"without {1000 * (middle - start):.0f} ms, with a cache {1000 * (end - middle):.0f} ms")
assert fast.ids[0].tolist() == slow
assert tokens_read == sum(range(1, 201)) == 20_100

# %%
# With the cache 200 were read, and not 20,100. The price is memory: a key and a value for each
# token, in each block. Lesson 13 puts patches of images among these tokens, and nothing else
# changes.
#
# Exercises
# ---------
#
# **1. One merge by hand.** Write the function that takes words as lists of tokens and a pair, and
# merges the pair wherever it stands.


def check_merge(merge):
    assert merge([list("rere"), list("er")], ("r", "e")) == [["re", "re"], ["e", "r"]]
    assert merge([["a", "a", "a"]], ("a", "a")) == [["aa", "a"]], "from left to right, no overlap"


# %%
# **2. Hot and cold.** Two tokens have the probabilities 0.8 and 0.2. At which
# temperature are they drawn with 0.5 and 0.5, up to a hundredth? And with 16/17 and 1/17?


def check_temperature(even, sharp):
    z = np.log([[0.8, 0.2]])
    assert np.allclose(choice_probabilities(z, temperature=even), 0.5, atol=0.01), even
    assert np.allclose(choice_probabilities(z, temperature=sharp), np.array([[16, 1]]) / 17), sharp


# %%
# **3. How surprised?** *Perplexity* is the exponential of the mean loss: the number of equally
# probable tokens among which the model hesitates. Compute it for logits of shape (T, V) and the T
# tokens that came.


def check_perplexity(perplexity):
    even = np.zeros((3, 7))
    assert np.isclose(perplexity(even, np.array([0, 5, 6])), 7), "seven equal tokens: seven"
    sure = np.log([[0.5, 0.25, 0.25]])
    assert np.isclose(perplexity(sure, np.array([0])), 2)
    assert np.isclose(perplexity(np.repeat(sure, 2, axis=0), np.array([0, 1])), math.sqrt(8))


# %%
# Sources
# -------
#
# * R. Sennrich et al., *Neural Machine Translation of Rare Words with Subword Units*, 2016,
#   arXiv:1508.07909, section 3.2: byte pair encoding.
# * A. Radford et al., *Language Models are Unsupervised Multitask Learners*, 2019, section 2:
#   bytes, and the architecture used here.
# * O. Press and L. Wolf, *Using the Output Embedding to Improve Language Models*, 2017,
#   arXiv:1608.05859: tied weights.
# * A. Holtzman et al., *The Curious Case of Neural Text Degeneration*, 2019, arXiv:1904.09751,
#   section 3.1: top-p.
