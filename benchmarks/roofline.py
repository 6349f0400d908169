"""Count the bytes that each op moves with and without its kernel, and draw them under the roof.

    python benchmarks/roofline.py --out benchmarks/results/roofline.json

Nothing here is a timing, and no GPU is needed. Without a kernel: the op's own lines run on small
arrays that count the bytes of whatever an operation reads and writes. With it: the arrays that the
kernel reads and writes, once each, by formula. FLOPs are those of the mathematics, by formula, the
same for both. The roof is what a GPU can do at most: its products a second, or its bytes a second
times the FLOPs for each byte.

Sizes are those of GPT-2 small on 32 texts of 1,024 tokens, in bfloat16; the contrastive loss has
32,768 pairs of 512 channels, and AdamW 124 million parameters, both in float32. A picture is
written beside the JSON file. Takes a few seconds.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
from pathlib import Path

import numpy as np

from scratch_vlm.layers.norm import layer_norm_backward, layer_norm_forward
from scratch_vlm.ops.activations import gelu_forward
from scratch_vlm.ops.attend import attend_backward, attend_forward
from scratch_vlm.ops.losses import (
    contrastive_backward,
    contrastive_forward,
    cross_entropy_backward,
    cross_entropy_forward,
)
from scratch_vlm.training.optimizer import AdamW
from scratch_vlm.viz.style import MARGIN, SMALL, WIDTH, Sheet, styled

TEXTS, TOKENS, CHANNELS, HEADS, HEAD = 32, 1024, 768, 12, 64
HIDDEN, WORDS, PARAMETERS, PAIRS, JOINT = 3072, 50257, 124_439_808, 32_768, 512
# NVIDIA H100 Tensor Core GPU Architecture, whitepaper, table 2 (SXM5; dense, without sparsity); the
# H200 has the same chip with faster memory: NVIDIA H200 Tensor Core GPU, datasheet.
TENSOR, VECTOR = 989.4e12, 66.9e12  # FLOP/s in bfloat16 on tensor cores, in float32 without them
MEMORY = {"H100": 3.35e12, "H200": 4.8e12}  # bytes a second


class Counted(np.ndarray):
    """An array that counts the bytes that operations read from arrays and write to them."""

    moved = 0

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        plain = [x.view(np.ndarray) if isinstance(x, Counted) else x for x in inputs]
        if out is not None:
            options["out"] = tuple(x.view(np.ndarray) if x is not None else None for x in out)
        result = getattr(ufunc, method)(*plain, **options)
        Counted.moved += sum(np.asarray(x).nbytes for x in (*plain, result))
        return result.view(Counted) if isinstance(result, np.ndarray) else result

    def __array_function__(self, function, types, arguments, options):
        result = super().__array_function__(function, types, arguments, options)
        if function is np.copyto:
            Counted.moved += arguments[0].nbytes
        return result


def moved(work):
    """Run something; return what it returns, and how many bytes it moved."""
    Counted.moved = 0
    return work(), Counted.moved


def normal(*shape):
    """Draw a counted array."""
    return np.random.default_rng(0).standard_normal(shape, dtype="float32").view(Counted)


def count():
    """Return for each op the bytes with and without a kernel, and the FLOPs."""
    rows = {}

    def add(name, flops, without, kernel):
        rows[name] = {"flops": int(flops), "without": int(without), "with": int(kernel)}

    tokens = TEXTS * TOKENS
    numbers, few = tokens * CHANNELS, 64 * CHANNELS
    x, dy = normal(64, CHANNELS), normal(64, CHANNELS)
    p = {"gamma": normal(CHANNELS), "beta": normal(CHANNELS)}
    g = {name: normal(CHANNELS) for name in p}
    (_, saved), forward = moved(lambda: layer_norm_forward(x, p))
    _, backward = moved(lambda: layer_norm_backward(dy, saved, g))
    # Half the bytes: counted in float32, done in bfloat16.
    add("layer norm forward", 8 * numbers, forward / few * numbers / 2, 2 * 2 * numbers)
    add("layer norm backward", 14 * numbers, backward / few * numbers / 2, 3 * 2 * numbers)

    numbers, few = tokens * HIDDEN, 8 * HIDDEN
    _, forward = moved(lambda: gelu_forward(normal(8, HIDDEN)))
    add("GELU forward", 20 * numbers, forward / few * numbers / 2, 3 * 2 * numbers)

    numbers, few = tokens * WORDS, 2 * WORDS
    logits, labels = normal(2, WORDS), np.arange(2)
    (_, saved), forward = moved(lambda: cross_entropy_forward(logits, labels))
    _, backward = moved(lambda: cross_entropy_backward(1.0, saved))
    without = (forward + backward) / few * numbers / 2
    add("cross-entropy, both ways", 8 * numbers, without, 3 * 2 * numbers)

    q, k, v, dy = (normal(1, 1, TOKENS, HEAD) for _ in range(4))
    (_, saved), forward = moved(lambda: attend_forward(q, k, v))
    _, backward = moved(lambda: attend_backward(dy, saved))
    heads, tensor = TEXTS * HEADS, 2 * tokens * HEADS * HEAD  # bytes of q, in bfloat16
    product = 2 * heads * TOKENS * TOKENS * HEAD
    add("attention forward", 2 * product, heads * forward / 2, 4 * tensor)
    add("attention backward", 5 * product, heads * backward / 2, 2 * tensor + 12 * tensor)

    optimizer = AdamW({"w": np.zeros(64 * 64, "float32")}, clip=1.0)
    (chunk,) = optimizer._chunks
    optimizer._chunks = [[x.view(Counted) if x.ndim else x for x in chunk]]
    optimizer.g["w"] += 1
    _, step = moved(lambda: optimizer.step(0.1, norm=1.0))
    step += 4 * 64 * 64  # g[...] = 0 is no operation that counts
    add("AdamW", 16 * PARAMETERS, step / 64**2 * PARAMETERS, 32 * PARAMETERS)

    few = 1024
    images, texts = normal(few, 8), normal(few, 8)
    (_, saved), forward = moved(lambda: contrastive_forward(images, texts, np.float32(0)))
    _, backward = moved(lambda: contrastive_backward(1.0, saved))
    inputs = 4 * PAIRS * JOINT
    without = (forward + backward) / few**2 * PAIRS**2
    # Each block of 16 rows reads all of the other side. Blocks that run at the same time share what
    # they read; 264 of the forward do and 132 of the backward, one or two for a multiprocessor.
    rounds = 2 * PAIRS / 16 / 264 + 2 * PAIRS / 16 / 132
    kernel = (rounds + 6) * inputs
    add("contrastive loss, both ways", 6 * PAIRS**2 * JOINT, without, kernel)
    return rows


def draw(rows, theme="light"):
    """Draw the roof, and under it how far each op goes to the right; return a figure."""
    left, ends = 1.95, np.array([0.05, 3000.0])
    with styled(theme) as look:
        sheet = Sheet(WIDTH, 5.35, look, "What a GPU can do with each byte that it fetches")
        sheet.text(MARGIN, 0.05, "TFLOP/s, at most", size=SMALL, color=look.muted)
        roof = sheet.axes(left, 0.25, WIDTH - left - MARGIN, 2.0)
        for speed, colour in zip(MEMORY.values(), (look.muted, look.ink), strict=True):
            bend = TENSOR / speed
            tera = [ends[0] * speed / 1e12, TENSOR / 1e12, TENSOR / 1e12]
            roof.plot([ends[0], bend, ends[1]], tera, color=colour, linewidth=1.4)
        for x, y, label, colour in (
            (0.45, 16.0, "H200: 4.8 TB/s", look.ink),
            (4.0, 3.2, "H100: 3.35 TB/s", look.muted),
            (13.0, 1500.0, "989 TFLOP/s on tensor cores", look.ink),
            (0.06, 90.0, "67 TFLOP/s without", look.muted),
        ):
            roof.text(x, y, label, size=SMALL, color=colour)
        roof.plot(ends, [VECTOR / 1e12] * 2, color=look.rule, linewidth=1.0, linestyle="--")
        roof.set(xscale="log", yscale="log", xlim=ends, ylim=(0.15, 4000))
        roof.tick_params(labelbottom=False)

        steps = sheet.axes(left, 2.45, WIDTH - left - MARGIN, 2.2)
        steps.axvspan(TENSOR / MEMORY["H200"], ends[1], color=look.rule, alpha=0.4, linewidth=0)
        steps.text(
            ends[1] * 0.85,
            -0.35,
            "products are\nthe limit",
            ha="right",
            va="top",
            size=SMALL,
            color=look.muted,
        )
        for i, (name, row) in enumerate(rows.items()):
            points = [row["flops"] / row[how] for how in ("without", "with")]
            steps.plot(points, [i, i], color=look.main, linewidth=1.2)
            marks = {"color": look.main, "marker": "o", "markersize": 6, "linestyle": "none"}
            steps.plot(points[:1], [i], **marks, markerfacecolor=look.paper)
            steps.plot(points[1:], [i], **marks)
            sheet.text(MARGIN, 2.45 + 2.2 * (i + 0.6) / (len(rows) + 0.2), name, size=SMALL)
        steps.set(xscale="log", xlim=ends, ylim=(len(rows) - 0.4, -0.6), yticks=[])
        steps.set_xlabel("FLOPs for each byte fetched from memory or written to it")
        note = "Open: the op's own lines. Full: its kernel. The mathematics is the same."
        sheet.text(MARGIN, 5.15, note, size=SMALL, color=look.muted)
        return sheet.figure


def main():
    """Count, write and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("roofline.json"), help="JSON file to write"
    )
    out = parser.parse_args().out
    rows = count()
    for name, row in rows.items():
        gigabytes = [row[how] / 1e9 for how in ("without", "with")]
        print(f"{name:28} {gigabytes[0]:8.2f} GB -> {gigabytes[1]:6.2f} GB", end="")
        print(f"   H200: at least {1e3 * row['with'] / MEMORY['H200']:.3f} ms for the bytes")
    result = {"ops": rows, "memory": MEMORY, "tensor": TENSOR, "vector": VECTOR}
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for theme, end in (("light", ""), ("dark", "_dark")):
        draw(rows, theme).savefig(out.with_name(f"{out.stem}{end}.png"), dpi=150)


if __name__ == "__main__":
    main()
