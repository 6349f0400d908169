r"""
And on many machines?
=====================

CLIP was trained on batches of 32,768 pairs, by hundreds of GPUs at once. What changes when a batch
is cut into pieces that live on different machines? For most losses nothing but the bookkeeping. For
CLIP's loss the pieces must meet. The library trains on one machine; here the workers are plain
arrays, so that every number can be compared with the batch in one piece.
"""

# %%
# A mean of means
# ---------------
#
# A loss that is a mean over samples has a gradient that is a mean over samples. Cut the batch into
# equal pieces, let each worker take the mean of its own, and the mean of those is the gradient of
# the whole batch. The numbers 1, 3, 5, 7 have mean 4; their halves have means 2 and 6, which have
# mean 4. So *data parallelism* is: copy the weights to all workers, cut the batch, average the
# gradients. On real digits, with a linear layer and four workers:

import numpy as np

from scratch_vlm.data.digits import split
from scratch_vlm.layers.linear import linear_backward, linear_forward, linear_init
from scratch_vlm.ops.losses import cross_entropy_backward, cross_entropy_forward
from scratch_vlm.tree import tree_map

assert np.mean([1, 3, 5, 7]) == np.mean([2, 6]) == 4

rng = np.random.default_rng(0)
digits = split("train")
x, labels = digits.images[:256].reshape(256, 64).astype(float), digits.labels[:256]
p = tree_map(lambda w: w.astype(float), linear_init(rng, 64, 10))


def gradient(x, labels):
    g = tree_map(np.zeros_like, p)
    logits, s_linear = linear_forward(x, p)
    loss, s_loss = cross_entropy_forward(logits, labels)
    linear_backward(cross_entropy_backward(1.0, s_loss), s_linear, g)
    return loss, g


WORKERS = 4
whole_loss, whole = gradient(x, labels)
pieces = zip(np.split(x, WORKERS), np.split(labels, WORKERS), strict=True)
losses, gradients = zip(*(gradient(*piece) for piece in pieces), strict=True)
averaged = sum(g["w"] for g in gradients) / WORKERS
print(f"loss of the batch {whole_loss:.6f}, mean of four workers {np.mean(losses):.6f}")
assert np.allclose(averaged, whole["w"]) and np.isclose(np.mean(losses), whole_loss)

# %%
# Around the ring
# ---------------
#
# How do workers add up their gradients? If all send to one, its cable carries everything. In a
# *ring* each worker sends to its neighbour only. Cut the gradient into as many chunks as there are
# workers, N. First round: each sends a chunk on, and the receiver adds its own; after N - 1 steps
# every worker holds one chunk that is complete. Second round: the complete chunks travel once
# around. Each worker sends 2 (N - 1) chunks, less than twice the gradient, however many workers
# there are. Three workers hold 1, 10 and 100 in all chunks; watch the sums 111 appear:


def ring_all_reduce(arrays, tell=False):
    """Sum arrays that live on N workers; returns the sum of each, and the bytes each one sent."""
    n = len(arrays)
    chunks = [np.array_split(a.ravel().copy(), n) for a in arrays]
    sent = 0
    for added in (True, False):
        for step in range(n - 1):
            for worker in range(n):
                place = (worker - step + (0 if added else 1)) % n
                mine, theirs = chunks[worker][place], chunks[(worker + 1) % n]
                theirs[place] = theirs[place] + mine if added else mine
                sent += mine.nbytes
            if tell:
                print("add " if added else "copy", *(np.concatenate(c) for c in chunks))
    return [np.concatenate(c).reshape(arrays[0].shape) for c in chunks], sent / n


sums, _ = ring_all_reduce([np.full(3, n) for n in (1, 10, 100)], tell=True)
assert (np.array(sums) == 111).all()

sums, sent = ring_all_reduce([g["w"] for g in gradients])
print(f"gradient {whole['w'].nbytes} bytes, sent by each worker {sent:.0f}")
for total in sums:
    assert np.allclose(total / WORKERS, whole["w"])
assert sent == 2 * (WORKERS - 1) / WORKERS * whole["w"].nbytes

# %%
# Where the pieces must meet
# --------------------------
#
# In CLIP's loss the other pairs of the batch are the question (lesson 07). Cut the batch in four,
# and each worker asks an easier one. If all arrows are the same, so that one can only guess, the
# loss among 64 is ln 64, among 16 only ln 16:

from scratch_vlm.ops.losses import contrastive_backward, contrastive_forward

PAIRS, WIDTH = 64, 32
log_scale = np.array(np.log(10.0))


def arrows(count):
    a = rng.normal(size=(count, WIDTH))
    return a / np.linalg.norm(a, axis=1, keepdims=True)


same = np.ones((PAIRS, 1))
pieces = np.split(same, WORKERS)
alone = np.mean([contrastive_forward(a, a, log_scale)[0] for a in pieces])
together = contrastive_forward(same, same, log_scale)[0]
print(f"guessing: together {together:.3f} = ln 64, each worker alone {alone:.3f} = ln 16")
assert np.isclose(together, np.log(64)) and np.isclose(alone, np.log(16))

# %%
# The arrows are small, the scores are many. So the workers exchange *arrows*: each sends its own to
# all others (*gather*), and then computes only its own rows of the scores, its images against all
# texts and its texts against all images. Gathering is a pair like any other. Its forward copies the
# piece of each of the N workers to everybody. So its backward *sums*, for each piece, the slopes
# that it has on all workers w:
#
# .. math:: \mathrm{all}_w = [x_1, \ldots, x_N] \quad\Rightarrow\quad
#    dx_j = \sum_w \left(d\,\mathrm{all}_w\right)_j
#
# Forgetting that sum is the classical mistake: an arrow then hears only from the rows of its own
# worker.


def gather_forward(pieces):
    return [np.concatenate(pieces) for _ in pieces]  # the same array on every worker


def gather_backward(dalls):
    return np.split(sum(dalls), len(dalls))


def rows(asking, answering, first):
    """Own rows of the scores: their loss, and the slopes of both sides and of log_scale."""
    z = np.exp(log_scale) * asking @ answering.T  # (b, B), never (B, B)
    loss, saved = cross_entropy_forward(z, first + np.arange(len(asking)))
    dz = cross_entropy_backward(1.0, saved)
    scale = np.exp(log_scale)
    return loss, scale * dz @ answering, scale * dz.T @ asking, (dz * z).sum()


def sharded(images, texts):
    """CLIP's loss over workers, each with its own images and texts: loss and gradients."""
    n, b = len(images), len(images[0])
    all_images, all_texts = gather_forward(images), gather_forward(texts)
    by_image = [rows(images[w], all_texts[w], w * b) for w in range(n)]
    by_text = [rows(texts[w], all_images[w], w * b) for w in range(n)]
    loss = sum(r[0] for r in by_image + by_text) / (2 * n)
    far_texts = gather_backward([r[2] for r in by_image])
    far_images = gather_backward([r[2] for r in by_text])
    dimages = [(by_image[w][1] + far_images[w]) / (2 * n) for w in range(n)]
    dtexts = [(by_text[w][1] + far_texts[w]) / (2 * n) for w in range(n)]
    return loss, dimages, dtexts, sum(r[3] for r in by_image + by_text) / (2 * n)


images, texts = arrows(PAIRS), arrows(PAIRS)
loss, saved = contrastive_forward(images, texts, log_scale)
right = contrastive_backward(1.0, saved)
ours = sharded(np.split(images, WORKERS), np.split(texts, WORKERS))
assert np.isclose(ours[0], loss)
assert np.allclose(np.concatenate(ours[1]), right[0])
assert np.allclose(np.concatenate(ours[2]), right[1])
assert np.isclose(ours[3], right[2])
print(f"loss in one piece {loss:.6f}, over four workers {ours[0]:.6f}; all gradients agree")

# %%
# 32,768 pairs, on paper
# ----------------------
#
# What does it cost? B pairs have B² scores, of four bytes each. Their images become arrows of width
# 512, and so do their texts. With 256 workers each has 128 pairs:

B, E, N = 32_768, 512, 256
b = B // N
square, own_rows, gathered = 4 * B * B, 4 * b * B, 4 * B * E
print(f"all scores            {square / 2**20:4.0f} MiB")
print(f"own rows of them      {own_rows / 2**20:4.0f} MiB")
print(f"arrows of all images  {gathered / 2**20:4.0f} MiB")
assert (square / 2**30, own_rows / 2**20, gathered / 2**20, b) == (4, 16, 64, 128)

# %%
# In one piece the scores alone fill 4 GiB, and their gradient another 4. In own rows they are 16
# MiB, less than the arrows themselves. That is why nobody holds the square. In larger batches the
# rows catch up, for they grow with B²:

from scratch_vlm.viz.lines import lines
from scratch_vlm.viz.show import show

batch = 2.0 ** np.arange(8, 18)
figure = lines(
    batch,
    {
        "all scores": 4 * batch**2,
        "own rows of 256 workers": 4 * batch**2 / 256,
        "arrows of all images": 4 * batch * 512,
    },
    across="pairs in the batch",
    up="bytes on one worker",
    log="xy",
)
show(figure, "18_at_scale")

# %%
# This is where the course ends. Lesson 01 said that from a pair to a vision language model there is
# no other idea. Now change one: write a layer and let `scratch_vlm.gradcheck.check` judge it, train
# both fusions with ``scratch-vlm compare``, or train a published model further, as the page on
# published models shows.
#
# Exercises
# ---------
#
# **1. Unequal pieces.** The last worker often gets fewer samples. Average gradients of pieces of
# any sizes so that the result is that of the whole batch.


def check_unequal(average):
    cuts = [100, 130]
    pieces = zip(np.split(x, cuts), np.split(labels, cuts), strict=True)
    found = [gradient(*piece)[1]["w"] for piece in pieces]
    mean = average(found, [100, 30, 126])
    assert np.allclose(mean, whole["w"]), "not the gradient of the whole batch"


# %%
# **2. What was forgotten.** Give the gradient of the images without what the backward of the gather
# brings: only what each worker's images learn from their own rows, ``by_image``. Take the pieces of
# images and texts, return the pieces of the gradient. How long is it, compared with the right one?


def check_forgotten(forgotten):
    dimages = forgotten(np.split(images, WORKERS), np.split(texts, WORKERS))
    wrong = np.concatenate(dimages)
    assert not np.allclose(wrong, right[0])
    by_hand = [rows(i, texts, w * 16)[1] / 8 for w, i in enumerate(np.split(images, WORKERS))]
    assert np.allclose(wrong, np.concatenate(by_hand))


# %%
# **3. No gather at all.** SigLIP (lesson 07) judges each pair by itself, so a worker can ask one
# piece of texts after the other, as they travel around the ring. Add up the loss that way, from the
# pieces. Only where a worker asks its own texts does the diagonal hold pairs that belong together.


def check_ring(loss_of):
    from scratch_vlm.ops.losses import sigmoid_contrastive_forward

    bias = np.array(-5.0)
    whole = sigmoid_contrastive_forward(images, texts, log_scale, bias)[0]
    split_images, split_texts = np.split(images, WORKERS), np.split(texts, WORKERS)
    assert np.isclose(loss_of(split_images, split_texts, log_scale, bias), whole)


# %%
# Sources
# -------
#
# * A. Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*,
#   2021, arXiv:2103.00020, section 2.5: the batch, and how the scores were sharded.
# * A. Gibiansky, *Bringing HPC Techniques to Deep Learning*, 2017: the ring.
# * X. Zhai et al., *Sigmoid Loss for Language Image Pre-Training*, 2023, arXiv:2303.15343, section
#   3.3: around the ring without a gather.
