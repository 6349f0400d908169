"""Measure what grows linearly and what with the square, beside what the formulas foretell.

    python benchmarks/scaling.py --out benchmarks/results/scaling.json

Four questions, each a panel of the picture that is written beside the JSON file:

resampler   A training step on a clip: peak memory over its frames, when a Resampler reads them and
            when a block of self-attention does. The first should grow by as much for each frame.
attention   Peak memory of one attention layer over T tokens, in units of the heads' T x T matrices:
            how many are there at once, and how many are held between forward and backward.
tower       Peak memory of a training step of L blocks, plain and with blocks recomputed: plain
            holds what every block saved, recomputed what one did and the inputs of the others.
cache       Work of the next token over the length before it, with a KV cache and without.

Predictions are the formulas of `scratch_vlm.costs`, from the configs alone. Measured are memory, as
NumPy reports it to tracemalloc, without parameters and their gradients, and work, by counting the
matrix products that run. Memory has two numbers: what a forward keeps for its backward, which the
formulas foretell, and the peak of both, which has the backward's own arrays on top: for attention
another T x T matrix of each head. Times are written, too, but belong to the machine.

Takes ten to thirty seconds; --quick takes smaller sizes and a few seconds.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: steadier times

import argparse
import gc
import json
import math
import platform
import time
import tracemalloc
from pathlib import Path

import numpy as np

from scratch_vlm import costs
from scratch_vlm.inference.generate import generate
from scratch_vlm.layers.attention import (
    self_attention_backward,
    self_attention_forward,
    self_attention_init,
)
from scratch_vlm.layers.block import (
    BlockConfig,
    block_init,
    pre_block_backward,
    pre_block_forward,
    tower_forward,
    tower_init,
)
from scratch_vlm.layers.resampler import (
    ResamplerConfig,
    resampler_backward,
    resampler_forward,
    resampler_init,
)
from scratch_vlm.models.lm import LMConfig, lm_forward, lm_init
from scratch_vlm.recompute import plain, recomputed
from scratch_vlm.tree import zeros_like
from scratch_vlm.viz.style import MARGIN, SMALL, WIDTH, Sheet, styled

BLOCK = BlockConfig(128, 4, 512, mlp="gelu_tanh")
RESAMPLER = ResamplerConfig(BLOCK, latents=32, depth=2, frames=8)
PATCHES = 64  # of a frame
TOWER_TOKENS = 1024
FLOAT = 4  # bytes of a float32
MIB = 2**20


def peak(work):
    """Run something; return the most bytes it held at once beyond those from before."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    work()
    after = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return after - before


def held(work):
    """Run something; return the bytes that what it returns keeps alive."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    result = work()
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del result
    return after - before


def normal(*shape):
    """Draw an array, the same each time."""
    return np.random.default_rng(0).standard_normal(shape, dtype="float32")


def training_memory(forward, backward, x, p):
    """Return what is held between a forward and its backward, and the peak of both together.

    The gradients of the parameters are there before.
    """
    g = zeros_like(p)

    def step():
        y, saved = forward(x, p)
        backward(y, saved, g)

    return {"kept": held(lambda: forward(x, p)), "peak": peak(step)}


def with_config(pair, config):
    """Bind a config to the forward of a pair."""
    forward, backward = pair
    return (lambda x, p: forward(x, p, config=config)), backward


def growth(points):
    """Exponent with which y grew between the last two x: 1 is linear, 2 is the square."""
    (x, y), (later, grown) = points[-2:]
    return round(math.log(grown / y) / math.log(later / x), 3)


def measure_resampler(quick):
    """Peak memory over frames: a Resampler, and self-attention over all tokens of all frames."""
    rng, rows = np.random.default_rng(0), []
    p, q = resampler_init(rng, RESAMPLER), block_init(rng, BLOCK)
    read = with_config((resampler_forward, resampler_backward), RESAMPLER)
    attend = with_config((pre_block_forward, pre_block_backward), BLOCK)
    for frames in (1, 2, 4, 8, 16, 32, 64)[: 5 if quick else 7]:
        x = normal(1, frames, PATCHES, BLOCK.width)
        cost = costs.resampler_cost(RESAMPLER, frames=frames, patches=PATCHES)
        row = {"frames": frames, "flops": cost.flops}
        row["resampler"] = {"predicted": cost.bytes(), **training_memory(*read, x, p)}
        if frames <= 32:  # 64 would take half a GiB
            tokens = x.reshape(1, -1, BLOCK.width)
            cost = costs.block_cost(BLOCK, frames * PATCHES)
            row["attention"] = {"predicted": cost.bytes(), **training_memory(*attend, tokens, q)}
        rows.append(row)
    exponents = {
        name: growth([(row["frames"], row[name]["peak"]) for row in rows if name in row])
        for name in ("resampler", "attention")
    }
    return {"rows": rows, "exponents_of_the_peak": exponents}


def measure_attention(quick):
    """Count the T x T matrices of an attention layer that are alive at once."""
    heads, rows = BLOCK.heads, []
    p = self_attention_init(np.random.default_rng(0), BLOCK.width, heads=heads)

    def forward(x, p):
        return self_attention_forward(x, p, heads=heads)

    pairs = {wrap.__name__: wrap(forward, self_attention_backward) for wrap in (plain, recomputed)}
    for tokens in (128, 256, 512, 1024, 2048)[: 4 if quick else 5]:
        x = normal(1, tokens, BLOCK.width)
        matrix = FLOAT * heads * tokens**2
        row = {"tokens": tokens, "matrix_bytes": matrix}
        row["forward_peak"] = round(peak(lambda x=x: forward(x, p)) / matrix, 3)
        for name, pair in pairs.items():
            memory = training_memory(*pair, x, p)
            row[name] = {k: round(v / matrix, 3) for k, v in memory.items()}
        predicted = costs.self_attention_cost(BLOCK, tokens).bytes()
        row["plain"]["predicted"] = round(predicted / matrix, 3)
        row["recomputed"]["predicted"] = round(FLOAT * x.size / matrix, 3)  # y, as long as x
        rows.append(row)
    return {"rows": rows}


def measure_tower(quick):
    """Peak memory of a training step over depth, plain and with every block recomputed."""
    rows, tokens = [], TOWER_TOKENS // (4 if quick else 1)
    x = normal(1, tokens, BLOCK.width)
    block, stream = costs.block_cost(BLOCK, tokens).bytes(), FLOAT * x.size
    for depth in (1, 2, 4, 8):
        p = tower_init(np.random.default_rng(0), BLOCK, depth=depth)
        row = {"depth": depth}
        for wrap, predicted in ((plain, depth * block), (recomputed, depth * stream)):
            memory = tower_memory(wrap, x, p)
            row[wrap.__name__] = {"predicted": predicted, **memory}
        # A tower returns what it saved, so that even at inference all of it is there at its end.
        row["forward_only"] = peak(lambda p=p: tower_forward(x, p, config=BLOCK))
        rows.append(row)
    matrix = FLOAT * BLOCK.heads * tokens**2
    return {"rows": rows, "tokens": tokens, "matrix_bytes": matrix}


def tower_memory(wrap, x, p):
    """Memory of a training step of a tower whose blocks are wrapped."""
    pair = wrap(pre_block_forward, pre_block_backward)

    def forward(x, p):
        saved = {}
        for name in p:
            x, saved[name] = pair[0](x, p[name], config=BLOCK)
        return x, saved

    def backward(dy, saved, g):
        for name in reversed(list(saved)):
            dy = pair[1](dy, saved.pop(name), g[name])  # what was used is let go

    return training_memory(forward, backward, x, p)


class Products:
    """Count the FLOPs of the matrix products that run inside a ``with`` block."""

    def __enter__(self):
        self.flops, self.matmul = 0, np.matmul
        np.matmul = self.count
        return self

    def __exit__(self, *_):
        np.matmul = self.matmul

    def count(self, a, b, **options):
        """Multiply, and count."""
        y = self.matmul(a, b, **options)
        self.flops += 2 * y.size * a.shape[-1]
        return y


def measure_cache(quick):
    """Work and time of the next token over the length before it, with a cache and without."""
    lengths = (64, 128, 256) if quick else (64, 128, 256, 512, 1024)
    start, context = 8, lengths[-1] + 2
    # An RMS norm: the mean in a layer norm is a product, too, and no formula counts it.
    config = LMConfig.llama(256, context, width=128, heads=4, kv_heads=2, depth=4)
    p, rows, marks = lm_init(np.random.default_rng(0), config), [], []

    def mark(*_):
        marks.append((products.flops, time.perf_counter()))

    with Products() as products:
        generate([[1] * start], p, config, new=context - start, on_token=mark)
    steps = np.diff(np.array(marks), axis=0)  # work and time of the token after each length
    for length in lengths:
        i = length - start
        near = steps[i - length // 4 : i + length // 4, 1]
        with Products() as products:
            started = time.perf_counter()
            lm_forward(np.ones((1, length + 1), int), p, config=config)
            seconds = time.perf_counter() - started
        rows.append(
            {
                "length": length,
                "predicted_with_cache": costs.language_model_cost(
                    config, tokens=1, past=length
                ).flops,
                "with_cache": int(steps[i, 0]),
                "predicted_without": costs.language_model_cost(config, tokens=length + 1).flops,
                "without": products.flops,
                "ms_with_cache": round(1e3 * float(np.median(near)), 3),
                "ms_without": round(1e3 * seconds, 3),
                "cache_bytes": FLOAT * length * costs.kv_cache_numbers(config),
            }
        )
    work = steps[:, 0]
    return {
        "rows": rows,
        "work_of_a_token_is_linear": bool((np.diff(work) == work[1] - work[0]).all()),
        "exponents": {
            name: growth([(row["length"], row[name]) for row in rows])
            for name in ("with_cache", "without", "ms_with_cache", "ms_without")
        },
    }


def draw(results):
    """Draw the four panels; return a figure."""
    with styled("light") as look:
        wide, tall, top, left = 2.85, 1.8, 0.6, 0.55
        right, below = left + wide + 0.95, top + tall + 1.2
        sheet = Sheet(WIDTH, below + tall + 1.05, look, "What grows, and how fast")
        panels = (
            (left, top, "Frames: a Resampler is linear", "MiB, a training step"),
            (right, top, "One attention layer: T × T matrices", "matrices of all heads, at once"),
            (left, below, "Depth: recomputed, one block at a time", "MiB, a training step"),
            (right, below, "Length: a KV cache spares the square", "MFLOP for the next token"),
        )
        draws = draw_resampler, draw_attention, draw_tower, draw_cache
        for (x, y, head, unit), draw_panel, name in zip(panels, draws, results, strict=True):
            sheet.text(x - 0.45, y - 0.4, head, weight="bold")
            sheet.text(x - 0.45, y - 0.18, unit, size=SMALL, color=look.muted)
            draw_panel(sheet.axes(x, y, wide, tall), results[name]["rows"], look)
        note = (
            "Lines: formulas, from the configs alone. Dots: measured. For memory, full dots "
            "are what\nis kept between forward and backward, open ones the most held at any time."
        )
        sheet.text(MARGIN, below + tall + 0.75, note, size=SMALL, color=look.muted)
        return sheet.figure


def curve(axes, points, colour, label, at, look):
    """Draw a prediction as a line, what was kept as full dots and the peak as open ones.

    The label stands at a point of the axes.
    """
    xs, rows = zip(*points, strict=True)
    axes.plot(xs, [row["predicted"] for row in rows], color=colour, linewidth=1.6)
    marks = {"color": colour, "markersize": 5, "linestyle": "none", "marker": "o"}
    axes.plot(xs, [row["kept"] for row in rows], **marks, markeredgecolor=look.paper)
    if "peak" in rows[0]:
        axes.plot(xs, [row["peak"] for row in rows], **marks, markerfacecolor=look.paper)
    axes.text(*at, label, transform=axes.transAxes, color=colour, size=SMALL, va="center")


def in_mib(row):
    """Return the numbers of a row in MiB."""
    return {name: value / MIB for name, value in row.items()}


def doubling(axes, xs):
    """Make x logarithmic, with a mark at each point."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(xs, [str(x) for x in xs])
    axes.minorticks_off()


def draw_resampler(axes, rows, look):
    """Memory over frames."""
    for name, colour, label, at in (
        ("attention", look.wrong, "self-attention\nover all frames", (0.56, 0.87)),
        ("resampler", look.main, "Resampler", (0.72, 0.32)),
    ):
        points = [(row["frames"], in_mib(row[name])) for row in rows if name in row]
        curve(axes, points, colour, label, at, look)
    xs = [row["frames"] for row in rows[2:]]
    axes.set_xticks(xs, [str(x) for x in xs])
    axes.set_xlabel("frames")
    axes.set_ylim(0, None)


def draw_attention(axes, rows, look):
    """Matrices over tokens."""
    rows = rows[1:]
    for name, colour, at in (
        ("plain", look.wrong, (0.62, 0.45)),
        ("recomputed", look.main, (0.62, 0.14)),
    ):
        points = [(row["tokens"], row[name]) for row in rows]
        curve(axes, points, colour, f"{name}, kept", at, look)
    axes.text(0.62, 0.78, "both, at the peak", transform=axes.transAxes, size=SMALL)
    doubling(axes, [row["tokens"] for row in rows])
    axes.set_ylim(-0.1, None)
    axes.set_yticks([0, 1, 2, 3])
    axes.grid(axis="y", color=look.rule, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_xlabel("tokens T")


def draw_tower(axes, rows, look):
    """Memory over depth."""
    for name, colour, at in (
        ("plain", look.wrong, (0.5, 0.78)),
        ("recomputed", look.main, (0.72, 0.32)),
    ):
        points = [(row["depth"], in_mib(row[name])) for row in rows]
        curve(axes, points, colour, name, at, look)
    xs = [row["depth"] for row in rows]
    axes.set_xticks(xs, [str(x) for x in xs])
    axes.set_xlabel("blocks")
    axes.set_ylim(-8, None)


def draw_cache(axes, rows, look):
    """Work of a token over length, both logarithmic."""
    for name, colour, label, at in (
        ("without", look.wrong, "reading all again", (0.08, 0.85)),
        ("with_cache", look.main, "with a KV cache", (0.5, 0.2)),
    ):
        points = [
            (row["length"], {"predicted": row[f"predicted_{name}"] / 1e6, "kept": row[name] / 1e6})
            for row in rows
        ]
        curve(axes, points, colour, label, at, look)
    doubling(axes, [row["length"] for row in rows])
    axes.set_yscale("log", base=10)
    axes.set_yticks([10, 100, 1000], ["10", "100", "1000"])
    axes.minorticks_off()
    axes.set_xlabel("tokens before it")


def main():
    """Measure, print, and write the results and their picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller sizes, for a first look")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the results here as JSON, and FILE.png"
    )
    options = parser.parse_args()
    started, results = time.perf_counter(), {}
    for name, measure in (
        ("resampler", measure_resampler),
        ("attention", measure_attention),
        ("tower", measure_tower),
        ("cache", measure_cache),
    ):
        results[name] = measure(options.quick)
        print(name)
        for row in results[name]["rows"]:
            print("   ", json.dumps(row))
        for key, value in results[name].items():
            if key != "rows":
                print(f"    {key}: {value}")
    print(f"{time.perf_counter() - started:.0f} s")
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    report = {"date": time.strftime("%Y-%m-%d"), "versions": versions, "quick": options.quick}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report | results, indent=2) + "\n")
        draw(results).savefig(options.out.with_suffix(".png"), dpi=144)


if __name__ == "__main__":
    main()
