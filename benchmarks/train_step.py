"""Time one training step here and in PyTorch: same model, same weights, same batch, in turn.

    python benchmarks/train_step.py --out benchmarks/results/train_step.json

Two models: the ViT of the lessons (4 blocks, width 128, 65 tokens, batch 128) and the CLIP of the
demo (batch 128). A step is forward, loss, backward, clipping and AdamW, in float32. Before anything
is timed, both implementations must agree on the loss and on the norm of the gradient. PyTorch runs
eagerly, with as many threads as there are cores. Here the ViT's batch is shared out to as many
threads, with one BLAS thread each; the CLIP's steps are so short that one thread does them all.
Without PyTorch only our own time is measured (install torch to compare).

The floor is the FLOPs of the step's matrix products divided by the speed of a large matrix product
on the same cores, measured in the same run.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy: each of our threads multiplies by itself

import argparse
import json
import platform
import re
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from scratch_vlm.backend import keep_freed_memory
from scratch_vlm.experiments import scenes
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.clip import clip_backward, clip_forward, clip_init
from scratch_vlm.models.vit import ViTConfig, vit_backward, vit_forward, vit_init
from scratch_vlm.ops.losses import cross_entropy_backward, cross_entropy_forward
from scratch_vlm.recompute import chunked
from scratch_vlm.training.optimizer import AdamW
from scratch_vlm.tree import leaves

BATCH = 128
RATE = 1e-3
LESSON_VIT = ViTConfig((32, 32, 3), (4, 4), 10, BlockConfig(128, 4, 512, mlp="gelu_tanh"), depth=4)


def vit_problem(rng, threads):
    """Weights, batch and objective of the lesson-size ViT."""
    forward, backward = chunked(vit_forward, vit_backward, size=BATCH // 8, threads=threads)

    def objective(images, labels, p):
        scores, s_model = forward(images, p, config=LESSON_VIT)
        loss, s_loss = cross_entropy_forward(scores, labels)
        return loss, (s_model, s_loss)

    def gradient(saved, g):
        s_model, s_loss = saved
        backward(cross_entropy_backward(1.0, s_loss), s_model, g)

    images = rng.standard_normal((BATCH, *LESSON_VIT.image), dtype="float32")
    batch = (images, rng.integers(0, 10, BATCH))
    return vit_init(rng, LESSON_VIT), batch, objective, gradient


def clip_problem(rng, threads):
    """Weights, batch and objective of the demo's CLIP, which is too small to share out."""
    config = scenes.MODEL
    objective = partial(clip_forward, config=config)

    def gradient(saved, g):
        clip_backward(1.0, saved, g)

    images = rng.standard_normal((BATCH, *config.image.image), dtype="float32")
    ids = rng.integers(3, config.text.vocabulary, (BATCH, config.text.context))
    ids[:, -1] = config.text.end
    return clip_init(rng, config), (images, ids), objective, gradient


def our_step(p, batch, objective, gradient):
    """Return a function that takes one step and returns the loss and the gradient's norm."""
    optimizer = AdamW(p, decay=0.1, clip=1.0)

    def step():
        loss, saved = objective(*batch, optimizer.p)
        gradient(saved, optimizer.g)
        norm = optimizer.gradient_norm()
        optimizer.step(RATE, norm)
        return float(loss), float(norm)

    return step


def torch_step(p, batch, model):
    """Return the same in PyTorch, on copies of the same weights."""
    import torch

    tensors = {name: torch.tensor(x, requires_grad=True) for name, x in leaves(p)}
    optimizer = torch.optim.AdamW(tensors.values(), RATE, weight_decay=0.1)
    batch = tuple(map(torch.from_numpy, batch))

    def step():
        optimizer.zero_grad()
        loss = model(tensors, *batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(tensors.values(), 1.0)
        optimizer.step()
        return loss.item(), norm.item()

    return step


def torch_vit(t, images, config, prefix=""):
    """Run our ViT in PyTorch, from the names of our tree."""
    import torch
    import torch.nn.functional as F

    (h, w), (rows, columns) = config.patch, config.grid
    x = images.reshape(len(images), rows, h, columns, w, -1).permute(0, 1, 3, 2, 4, 5)
    x = x.reshape(len(images), rows * columns, -1)
    x = F.linear(x, t[prefix + "patch/w"].T, t[prefix + "patch/b"])
    cls = t[prefix + "cls"].expand(len(x), 1, -1)
    if config.positions == "axial":
        place = t[prefix + "positions/rows"][:, None] + t[prefix + "positions/columns"]
        place = torch.cat([t[prefix + "positions/extra"], place.reshape(rows * columns, -1)])
    else:
        place = t[prefix + "positions/w"]
    x = torch.cat([cls, x], 1) + place
    x = torch_blocks(t, x, config.block, config.depth, prefix, causal=False)[:, 0]
    return torch_head(t, x, prefix)


def torch_text(t, ids, config, prefix):
    """Run our text tower in PyTorch."""
    x = t[prefix + "tokens/w"][ids] + t[prefix + "positions/w"][: ids.shape[1]]
    x = torch_blocks(t, x, config.block, config.depth, prefix, causal=config.causal)
    ends = (ids == config.end).int().argmax(1)
    return torch_head(t, x[range(len(x)), ends], prefix)


def torch_blocks(t, x, config, depth, prefix, *, causal):
    """Run a tower of pre-norm blocks in PyTorch, with its fused attention."""
    import torch.nn.functional as F

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], t[name + "/gamma"], t[name + "/beta"], config.eps)

    def linear(x, name):
        return F.linear(x, t[name + "/w"].T, t[name + "/b"])

    for i in range(depth):
        at = f"{prefix}blocks/{i}/"
        qkv = linear(norm(x, at + "ln1"), at + "attn/qkv")
        q, k, v = qkv.unflatten(-1, (3, config.heads, -1)).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        x = x + linear(h.transpose(1, 2).flatten(2), at + "attn/out")
        h = F.gelu(linear(norm(x, at + "ln2"), at + "mlp/fc"), approximate="tanh")
        x = x + linear(h, at + "mlp/proj")
    return x


def torch_head(t, x, prefix):
    """Final norm and projection in PyTorch."""
    import torch.nn.functional as F

    x = F.layer_norm(x, x.shape[-1:], t[prefix + "ln/gamma"], t[prefix + "ln/beta"])
    return F.linear(x, t[prefix + "head/w"].T, t.get(prefix + "head/b"))


def torch_vit_loss(t, images, labels):
    """Loss of the lesson ViT in PyTorch."""
    import torch.nn.functional as F

    return F.cross_entropy(torch_vit(t, images, LESSON_VIT), labels)


def torch_clip_loss(t, images, ids):
    """Loss of the demo's CLIP in PyTorch."""
    import torch
    import torch.nn.functional as F

    image = F.normalize(torch_vit(t, images, scenes.MODEL.image, "image/"), dim=-1)
    text = F.normalize(torch_text(t, ids, scenes.MODEL.text, "text/"), dim=-1)
    z = t["log_scale"].exp() * image @ text.T
    i = torch.arange(len(z))
    return (F.cross_entropy(z, i) + F.cross_entropy(z.T, i)) / 2


def floor_flops(p, batch, name):
    """Count the FLOPs of the matrix products of a step: all that the algorithm cannot leave out.

    A weight costs 2 FLOPs a token forward and 4 backward, but only 2 backward at the patches,
    whose own gradient nobody needs; attention 12 for each pair of tokens and channel.
    """
    config = LESSON_VIT if name == "vit" else scenes.MODEL.image
    prefix = "" if name == "vit" else "image/"
    tokens = BATCH * config.tokens
    total = 4 * BATCH * config.grid[0] * config.grid[1] * p_size(p, prefix + "patch/w")
    total += tower_flops(p, prefix, tokens, config.tokens, config)
    if name == "clip":
        text = scenes.MODEL.text
        total += tower_flops(p, "text/", batch[1].size, text.context, text)
    return total


def tower_flops(p, prefix, tokens, length, config):
    """Count those of a tower of blocks and of the head behind it."""
    weights = sum(p_size(p, n) for n, _ in leaves(p) if re.match(rf"{prefix}blocks/.*/w$", n))
    attention = 12 * config.depth * tokens * length * config.block.width
    return 6 * tokens * weights + attention + 6 * BATCH * p_size(p, prefix + "head/w")


def p_size(p, name):
    """Count the numbers of one parameter."""
    return dict(leaves(p))[name].size


def peak_flops(threads):
    """Speed of a 1024-cubed product on every core at once, in FLOPs a second; best of five."""
    a, b = np.ones((2, 1024, 1024), "float32")
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            started = time.perf_counter()
            list(pool.map(lambda _: a @ b, range(threads)))
            best = max(best, threads * 2 * 1024**3 / (time.perf_counter() - started))
    return best


def timed(steps, rounds):
    """Run each step in turn, `rounds` times; return the times of each in seconds."""
    times = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - started)
    return times


def compare(name, rounds, threads):
    """Measure one model; return its entry of the results."""
    problem = {"vit": vit_problem, "clip": clip_problem}[name]
    p, batch, objective, gradient = problem(np.random.default_rng(0), threads)
    steps = {"scratch_vlm": our_step(p, batch, objective, gradient)}
    try:
        import torch

        torch.set_num_threads(threads)
        loss = {"vit": torch_vit_loss, "clip": torch_clip_loss}[name]
        steps["torch"] = torch_step(p, batch, loss)
        ours, theirs = (step() for step in steps.values())
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    except ImportError:
        print("torch is not installed: no comparison")
    times = timed(steps, rounds)
    flops = floor_flops(p, batch, name)
    floor = flops / peak_flops(threads)
    result = {
        "parameters": sum(x.size for _, x in leaves(p)),
        "gflop": round(flops / 1e9, 2),
        "floor_ms": round(1e3 * floor, 1),
        "median_ms": {k: round(1e3 * statistics.median(v), 1) for k, v in times.items()},
    }
    result["share_of_floor"] = round(floor / statistics.median(times["scratch_vlm"]), 2)
    if "torch" in times:
        ratios = [a / b for a, b in zip(times["scratch_vlm"], times["torch"], strict=True)]
        result["ratio_to_torch"] = round(statistics.median(ratios), 3)
        result["ratio_min_max"] = [round(min(ratios), 3), round(max(ratios), 3)]
    print(name, json.dumps(result))
    return result


def main():
    """Run the comparison and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="timed steps of each (default 15)")
    parser.add_argument("--threads", type=int, default=2, help="cores to use (default 2)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the results here as JSON")
    options = parser.parse_args()
    keep_freed_memory()
    results = {name: compare(name, options.rounds, options.threads) for name in ("vit", "clip")}
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    try:
        import torch

        versions["torch"] = torch.__version__
    except ImportError:
        pass
    report = {"date": time.strftime("%Y-%m-%d"), "versions": versions, "threads": options.threads}
    report |= {"rounds": options.rounds, "batch": BATCH, "models": results}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
