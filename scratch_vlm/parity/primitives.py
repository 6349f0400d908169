"""Runs of what PyTorch has by itself: attention, losses, activations, norms, resizing, AdamW.

The case has no model. Its arrays are named by a group of their own, such as ``layer_norm/in/x``,
``layer_norm/out/y`` and ``layer_norm/grad/x``; the loss of a group is the sum of its outputs,
weighted by its probes.
"""

import ast
import re

import numpy as np

from scratch_vlm.layers.linear import linear_backward, linear_forward
from scratch_vlm.layers.norm import NORMS
from scratch_vlm.ops.activations import ACTIVATIONS
from scratch_vlm.ops.attend import attend_backward, attend_forward
from scratch_vlm.ops.losses import IGNORE, cross_entropy_backward, cross_entropy_forward
from scratch_vlm.ops.patches import patchify_backward, patchify_forward
from scratch_vlm.ops.resize import resize_backward, resize_forward
from scratch_vlm.parity.parts import to_images, to_pixels
from scratch_vlm.pretrained.layout import kernel
from scratch_vlm.pretrained.options import ACTIVATIONS as PUBLISHED
from scratch_vlm.training.optimizer import AdamW
from scratch_vlm.tree import zeros_like

METHODS = {"bicubic": "bicubic_repeat", "bilinear": "bilinear"}
GIVEN = ("optim_adamw/out/lr",)  # the rates of its schedule are read, and not computed


def run_primitives(case):
    """Run the groups of a case that have a counterpart here.

    Parameters
    ----------
    case : Case
        Without a model.

    Returns
    -------
    found : dict of str to array
        Our arrays, by the reference's names.
    left_out : list of str
        Groups, or single arrays, that have no counterpart: other optimizers and schedules.
    """
    found, left_out = {}, list(GIVEN)
    for group, text in case.info["groups"].items():
        run = next((run for start, run in RUNS.items() if group.startswith(start)), None)
        if run is None:
            left_out.append(group)
            continue
        given = _part(case.inputs, f"{group}/in/")
        expected = _part(case.expected, f"{group}/out/")
        found |= {f"{group}/{name}": x for name, x in run(group, text, given, expected).items()}
    return found, left_out


def _part(arrays, start):
    return {name.removeprefix(start): x for name, x in arrays.items() if name.startswith(start)}


def _attention(group, text, given, expected):
    """Multi-head attention, whose weights are an output, too.

    They are read as values are: where the values of a head stand beside the identity, what the
    head reads is its answer beside its weights.
    """
    heads = int(re.search(r"MultiheadAttention\(\d+, (\d+)", text)[1])
    query = given["query"]
    sources = {name: given.get(name, query) for name in ("query", "key", "value")}
    width = query.shape[2]
    k = width // heads
    if "in_proj_weight" in given:
        weights = np.split(given["in_proj_weight"], 3)
    else:
        weights = [given[f"{name}_proj_weight"] for name in "qkv"]
    biases = np.split(given["in_proj_bias"], 3) if "in_proj_bias" in given else [None] * 3
    inner = [_linear(w, b) for w, b in zip(weights, biases, strict=True)]
    outer = _linear(given["out_proj.weight"], given.get("out_proj.bias"))

    def split(x):  # (B, T, D) -> (B, A, T, K)
        return x.reshape(*x.shape[:2], heads, k).swapaxes(1, 2)

    def join(x):
        return x.swapaxes(1, 2).reshape(len(x), -1, width)

    projected = [linear_forward(x, p) for x, p in zip(sources.values(), inner, strict=True)]
    q, keys, values = (split(y) for y, _ in projected)
    b, t, s = len(q), q.shape[2], keys.shape[2]
    identity = np.broadcast_to(np.eye(s, dtype=q.dtype), (b, heads, s, s))
    mask = np.ones((b, 1, t, s), bool)
    for name, axes in (("attn_mask", (None, None)), ("key_padding_mask", ())):
        if name in given:  # True where nothing may be read
            blocked = given[name][axes] if axes else given[name][:, None, None]
            mask = mask & ~blocked
    read, s_attend = attend_forward(q, keys, np.concatenate([values, identity], -1), mask=mask)
    y, s_out = linear_forward(join(read[..., :k]), outer)
    maps, dmaps = read[..., k:], given["probe_weights"]
    if expected["weights"].ndim == 3:
        maps, dmaps = maps.mean(1), np.broadcast_to(dmaps[:, None] / heads, maps.shape)

    g_outer, g_inner = zeros_like(outer), [zeros_like(p) for p in inner]
    dread = split(linear_backward(given["probe_output"], s_out, g_outer))
    dq, dkeys, dvalues = attend_backward(np.concatenate([dread, dmaps], -1), s_attend)
    gradients = (dq, dkeys, dvalues[..., :k])
    dsources = [
        linear_backward(join(dy), s, g)
        for dy, (_, s), g in zip(gradients, projected, g_inner, strict=True)
    ]
    found = {"out/output": y, "out/weights": maps, "grad/out_proj.weight": g_outer["w"].T}
    learned = [g["w"].T for g in g_inner]
    if "key" in given:
        found |= {f"grad/{name}": dx for name, dx in zip(sources, dsources, strict=True)}
        found |= {f"grad/{n}_proj_weight": dw for n, dw in zip("qkv", learned, strict=True)}
    else:
        found |= {"grad/query": sum(dsources), "grad/in_proj_weight": np.concatenate(learned)}
    if "in_proj_bias" in given:
        found["grad/in_proj_bias"] = np.concatenate([g["b"] for g in g_inner])
        found["grad/out_proj.bias"] = g_outer["b"]
    return found


def _linear(weight, bias):
    return {"w": weight.T} if bias is None else {"w": weight.T, "b": bias}


def _losses(group, text, given, expected):
    """Cross-entropy, reduced and smoothed in several ways, of which ours has the usual one.

    The others are put together of -log p of each class in each row, each of which is a loss of
    its own, with its gradient.
    """
    logits, weight = given["logits"], given["weight"]
    classes = logits.shape[-1]
    rows, target = logits.reshape(-1, classes), given["target"].reshape(-1)
    live = target != IGNORE
    surprise, slope = np.empty_like(rows), np.empty((*rows.shape, classes), rows.dtype)
    for c in range(classes):
        for i, row in enumerate(rows):
            surprise[i, c], saved = cross_entropy_forward(row[None], np.array([c]))
            slope[i, c] = cross_entropy_backward(1.0, saved)[0]
    found, drows = {}, np.zeros_like(rows)
    for name in expected:
        reduction, smoothing, weighted = re.fullmatch(r"(\w+)_ls([\d.]+?)(_w)?", name).groups()
        smoothing, probe = float(smoothing), given[f"probe_{name}"]
        scale = weight if weighted else np.ones_like(weight)
        share = np.full(rows.shape, smoothing / classes, rows.dtype) * scale  # of each class
        right = np.where(live, target, 0)
        share[np.arange(len(rows)), right] += (1 - smoothing) * scale[right]
        share *= live[:, None]
        row_loss = (share * surprise).sum(1)
        if reduction == "none":
            found[f"out/{name}"], drow = row_loss, probe
        else:
            count = scale[right][live].sum() if reduction == "mean" else 1.0
            found[f"out/{name}"], drow = row_loss.sum() / count, np.full(len(rows), probe / count)
        drows += np.einsum("i,ic,icv->iv", drow, share, slope)
        if reduction == "mean" and not weighted:  # and as we reduce and smooth it ourselves
            loss, saved = cross_entropy_forward(logits, given["target"], smoothing=smoothing)
            found[f"out/{name}"] = loss
            own = cross_entropy_backward(probe, saved).reshape(rows.shape)
            drows += own - np.einsum("i,ic,icv->iv", drow, share, slope)
    return {**found, "grad/logits": drows.reshape(logits.shape)}


def _activation(group, text, given, expected):
    forward, backward = ACTIVATIONS[PUBLISHED[group.removeprefix("act_")]]
    y, saved = forward(given["x"])
    return {"out/y": y, "grad/x": backward(given["probe_y"], saved)}


def _norm(group, text, given, expected):
    kind, eps = ("layer", 1e-5) if group == "layer_norm" else ("rms", 1e-6)
    p = {"gamma": given["weight"]} | ({"beta": given["bias"]} if kind == "layer" else {})
    y, saved = NORMS[kind][1](given["x"], p, eps=eps)
    g = zeros_like(p)
    found = {"out/y": y, "grad/x": NORMS[kind][2](given["probe_y"], saved, g)}
    return found | {"grad/weight": g["gamma"]} | ({"grad/bias": g["beta"]} if "beta" in g else {})


def _patches(group, text, given, expected):
    patch, channels = given["weight"].shape[2:], given["weight"].shape[1]
    w = np.empty((channels * patch[0] * patch[1], len(given["bias"])), given["x"].dtype)
    view = kernel(patch, channels)
    view(w)[...] = given["weight"]
    p = {"w": w, "b": given["bias"]}
    g = zeros_like(p)
    x, s_patchify = patchify_forward(to_images(given["x"], patch), patch=patch)
    y, s_linear = linear_forward(x, p)
    probe = given["probe_y"]
    dy = np.moveaxis(probe, 1, -1).reshape(y.shape)
    dx = patchify_backward(linear_backward(dy, s_linear, g), s_patchify)
    return {
        "out/y": y.swapaxes(1, 2).reshape(probe.shape),
        "grad/x": to_pixels(dx, given["x"]),
        "grad/weight": view(g["w"]),
        "grad/bias": g["b"],
    }


def _resize(group, text, given, expected):
    size = ast.literal_eval(re.search(r"size=(\([\d, ]+\))", text)[1])
    x = np.moveaxis(given["x"], 1, -1)
    method = METHODS[group.partition("_")[0]]
    y, saved = resize_forward(x, size=size, method=method, antialias=False)
    dx = resize_backward(np.moveaxis(given["probe_y"], 1, -1), saved)
    return {"out/y": np.moveaxis(y, -1, 1), "grad/x": np.moveaxis(dx, -1, 1)}


def _adamw(group, text, given, expected):
    how = ast.literal_eval(re.search(r"AdamW\((\{.*?\})\)", text)[1])
    clip = float(re.search(r"clip_grad_norm_\(all, ([\d.]+)\)", text)[1])
    start = _part(given, "start_")
    decay = (("w", how["weight_decay"]), (".*", 0.0))
    optimizer = AdamW(start, decay=decay, betas=how["betas"], eps=how["eps"])
    found = {name: [] for name in (*start, "grad_norm")}
    for step, rate in enumerate(expected["lr"]):
        for name in start:
            optimizer.g[name] += given[f"grad_{name}"][step]
        norm = float(optimizer.gradient_norm())
        for leaf in optimizer.g.values():  # PyTorch adds 1e-6 to the length, and ours nothing
            leaf *= min(1.0, clip / (norm + 1e-6))
        optimizer.step(float(rate))
        found["grad_norm"].append(norm)
        for name in start:
            found[name].append(optimizer.p[name].copy())
    return {f"out/{name}": np.array(x) for name, x in found.items()}


RUNS = {  # by how the name of a group starts
    "mha_": _attention,
    "cross_entropy": _losses,
    "act_": _activation,
    "layer_norm": _norm,
    "rms_norm": _norm,
    "patch_conv": _patches,
    "bicubic_": _resize,
    "bilinear_": _resize,
    "optim_adamw": _adamw,
}
