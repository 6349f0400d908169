"""The checks of the pairs can fail: errors planted in every backward are caught.

One in five is planted here; all of them by ``python benchmarks/planted_errors.py``, whose results
are committed.
"""

import json
from pathlib import Path

import pytest
from planting import find_subjects, try_all

SHARE = 5
SUBJECTS = {subject.name: subject for subject in find_subjects()}
MODULES = sorted({subject.module for subject in SUBJECTS.values()})
FILE = Path(__file__).parents[1] / "benchmarks" / "results" / "planted_errors.json"
RESULTS = json.loads(FILE.read_text(encoding="utf-8"))

SKIPS = "FROZEN swallows what is added to it; skipping it only saves time"
ANY_NEGATIVE = "reshape takes every negative number for the length that is left"
PRODUCT = "the backward of an activation is a product, in either order"
MERGED = "the two axes lie side by side before and after and are merged again"
ALL_BITS = "a factor of float64 is the array itself; tests of precisions watch the others"
SPEED = "how the product is folded or gathered is a matter of speed"
SUMMED_ALIKE = "a product with ones is the same sum; it is faster"
OF_DEVICES = "for arrays on devices, or of 16 bits; the tests of kernels watch it"
ADDED_ALIKE = "all ways of adding give the same; the size of the table decides which is fastest"
SCALAR = "0-d array or scalar: the same number"
ALIAS = "another name of the same array"
IDLE = "more workers or more sums than needed idle, at zero"
ZERO = "zero it stays"
TWO_AXES = "patches are counted in two directions"
NOTHING = "of no media there is no number to change"
FOUR_AXES = "of four axes 2 is the last but one"
BOTH_AXES = "a sum over both axes, in either order"
MATRIX = "the last axis but one of a matrix is its first"
NO_TOWER = "what does not learn gives no gradient to judge; the tests of the module watch it"

# Planted errors that change no number, with the reason: by statement before, then after. Where
# the reason stands for a whole statement, nothing that is done to the statement changes a number.
# Each must survive in some backward, or it is struck off.
EQUIVALENT = {
    # backend.primitives
    "row_dot: if namespace(a) is np and a.dtype.kind == 'f':": (
        "both ways give the same for real numbers, and gradients are real"
    ),
    "row_dot: return (a * b).sum(-1, keepdims=True)": (
        "for complex numbers and devices; judged by the complex steps of the forwards"
    ),
    "rows: return x.reshape(-1, x.shape[-1])": {"return x.reshape(-2, x.shape[-1])": ANY_NEGATIVE},
    "project: return product(rows(x), w, bias=bias).reshape(shape)": {
        "return product(x, w, bias=bias).reshape(shape)": SPEED
    },
    "_by_blas: return namespace(x) is np and x.dtype.char in 'fdFD'": SUMMED_ALIKE,
    "column_sum: if _by_blas(x):": SUMMED_ALIKE,
    "column_sum: return x.sum(0, dtype=dtype)": OF_DEVICES,
    "add_at: index, values = (index.reshape(-1), rows(values))": {
        "index, values = (index.reshape(-2), rows(values))": ANY_NEGATIVE
    },
    "add_at: few = 256 if xp is np else 1024": ADDED_ALIKE,
    "add_at: if len(target) <= few:": ADDED_ALIKE,
    "add_at: if xp is np:": ADDED_ALIKE,
    "add_at: xp.add.at(target, index, values)": OF_DEVICES,
    "add_at: for number, value in zip(index.tolist(), values, strict=True):": {
        "for number, value in zip(index, values, strict=True):": "NumPy's whole numbers do as well"
    },
    # ops
    "_over_sharers: if a.shape[2] == 1:": {
        "if False:": "the sum of one is that one",
        "if a.shape[2] == 0:": "the sum of one is that one",
    },
    "_over_sharers: return product(a[:, :, 0], b[:, :, 0], out=out)": {
        "return product(a[:, :, -1], b[:, :, 0], out=out)": "the first of one is the last",
        "return product(a[:, :, 0], b[:, :, -1], out=out)": "the first of one is the last",
    },
    "contrastive_backward: dlog_scale = namespace(z).asarray((dz * z).sum())": {
        "dlog_scale = (dz * z).sum()": SCALAR
    },
    "sigmoid_contrastive_backward: dz[i, i] *= -1": {"dz[i, i] /= -1": "1 / -1 is -1"},
    "sigmoid_contrastive_backward: dbias = xp.asarray(dz.sum())": {"dbias = dz.sum()": SCALAR},
    "sigmoid_contrastive_backward: dlog_scale = xp.asarray((dz * cosine).sum())": {
        "dlog_scale = (dz * cosine).sum()": SCALAR
    },
    "deal_backward: slots = dz.reshape(-1, *dz.shape[2:])": {
        "slots = dz.reshape(-2, *dz.shape[2:])": ANY_NEGATIVE
    },
    "unpatchify_forward: rows, columns = patch_grid((*size, 1), patch)": {
        "rows, columns = patch_grid((*size, 2), patch)": TWO_AXES,
        "rows, columns = patch_grid((*size, 0), patch)": TWO_AXES,
    },
    "unpatchify_forward: x = patches.reshape(b, rows, columns, h, w, numbers // (h * w))"
    ".transpose(0, 1, 3, 2, 4, 5)": {
        "x = patches.reshape(rows, b, columns, h, w, numbers // (h * w))"
        ".transpose(0, 1, 3, 2, 4, 5)": MERGED,
        "x = patches.reshape(b, rows, columns, h, numbers // (h * w), w)"
        ".transpose(0, 1, 3, 2, 4, 5)": MERGED,
    },
    "patchify_forward: x = images.reshape(b, rows, h, columns, w, c).transpose(0, 1, 3, 2, 4, 5)": {
        "x = images.reshape(rows, b, h, columns, w, c).transpose(0, 1, 3, 2, 4, 5)": MERGED,
        "x = images.reshape(b, rows, h, columns, c, w).transpose(0, 1, 3, 2, 4, 5)": MERGED,
    },
    "patchify_forward: return (x.reshape(b, rows * columns, h * w * c), (images.shape, patch))": {
        "return (x.reshape(b, rows * columns, h * w * c), (patch, images.shape))": (
            "the backward of unpatchify does not read what this saves"
        )
    },
    "tubelets_backward: dx = dboxes.reshape(b, f // t, height // h, width // w, t, h, w, c)": {
        "dx = dboxes.reshape(f // t, b, height // h, width // w, t, h, w, c)": MERGED,
        "dx = dboxes.reshape(b, f // t, height // h, width // w, t, h, c, w)": MERGED,
    },
    "interpolate_positions_backward: "
    "dgrid = resize_backward(dtable[extra:].reshape(1, *new, -1), resized)": {
        "dgrid = resize_backward(dtable[extra:].reshape(1, *new, -2), resized)": ANY_NEGATIVE
    },
    "interpolate_positions_backward: dgrid = dgrid.reshape(-1, dtable.shape[1])": {
        "dgrid = dgrid.reshape(-2, dtable.shape[1])": ANY_NEGATIVE
    },
    "_apply: x = product(down, x.reshape(b, h, w * c), precision='float32').reshape(-1, w, c)": {
        "x = product(down, x.reshape(b, h, w * c), precision='float32').reshape(-2, w, c)": (
            ANY_NEGATIVE
        )
    },
    # layers
    "_project_back: b, a, t, j = s['attend']['y'].shape": {
        "t, a, b, j = s['attend']['y'].shape": OF_DEVICES
    },
    "_project_back: room = None if s['out'][-1] is not None else "
    "room_back(s['attend'], (b, t, a * j))": OF_DEVICES,
    "mlp_backward: room = namespace(dy).empty_like(s['act']) if s['act'].dtype.itemsize == 2 "
    "else None": OF_DEVICES,
    "linear_backward: if g['w'] is not FROZEN:": {"if True:": SKIPS},
    "linear_backward: dy = as_factor(dy)": {"dy = dy": ALL_BITS},
    "lora_backward: if g['scale'] is not FROZEN:": {"if True:": SKIPS},
    "lora_backward: if g['a'] is not FROZEN:": {"if True:": SKIPS},
    "lora_backward: if g['b'] is not FROZEN:": {"if True:": SKIPS},
    "layer_norm_backward: if g:": {"if True:": SKIPS},
    "rms_norm_backward: if g:": {"if True:": SKIPS},
    "grid_positions_backward: if g:": {"if True:": SKIPS},
    "attention_pool_backward: if g:": {"if True:": SKIPS},
    "_mean_times: "
    "return product(rows(x), weights, precision='float32').reshape(*x.shape[:-1], 1)": {
        "return product(x, weights, precision='float32').reshape(*x.shape[:-1], 1)": SPEED
    },
    "self_attention_backward: dq, dk, _ = attend_backward(dy, s['attend'], out=out)": {
        "dk, dq, _ = attend_backward(dy, s['attend'], out=out)": "both turn alike, where they are"
    },
    "_room: columns = sum((count * width for count, width in heads))": {
        "columns = sum((count * width for width, count in heads))": "a product, in either order"
    },
    "pre_block_backward: dh = dropout_backward(dx, s['drop1'])": {
        "dh = dropout_backward(dh, s['drop1'])": ALIAS
    },
    "grid_positions_backward: dpatches = dtable[extra:].reshape(*trained, -1)": {
        "dpatches = dtable[extra:].reshape(*trained, -2)": ANY_NEGATIVE
    },
    "places_backward: if g['positions']:": {"if True:": SKIPS},
    "bert_words_backward: dh = activation(block.mlp)[1](dh, s['act'], out=dh)": {
        "dh = activation(block.mlp)[1](s['act'], dh, out=dh)": PRODUCT
    },
    "mlp_backward: "
    "dh = activation(s['kind'])[1](dh, s['act'], out=factor_room(dh, otherwise=dh))": {
        "dh = activation(s['kind'])[1](s['act'], dh, out=factor_room(dh, otherwise=dh))": PRODUCT,
        "dh = activation(s['kind'])[1](dh, s['act'], out=dh)": ALL_BITS,
        "dh = activation(s['kind'])[1](dh, s['act'], out=factor_room(dy, otherwise=dh))": ALL_BITS,
    },
    "swiglu_backward: dgate = activation(s['kind'])[1](dh * s['up'], s['act'])": {
        "dgate = activation(s['kind'])[1](s['act'], dh * s['up'])": PRODUCT
    },
    "pick_backward: dx = namespace(dy).zeros(shape, dy.dtype)": {
        "dx = -namespace(dy).zeros(shape, dy.dtype)": ZERO,
        "dx = 2.0 * namespace(dy).zeros(shape, dy.dtype)": ZERO,
    },
    "_through_gate: if g:": {"if True:": SKIPS},
    "resampler_backward: if g:": {"if True:": SKIPS},
    "time_embedding_backward: if g:": {"if True:": SKIPS},
    "perceiver_features_backward: if g:": {"if True:": SKIPS},
    "perceiver_backward: if g:": {"if True:": SKIPS},
    "perceiver_backward: dx = linear_backward(dx, s['head'], g['head'])": {
        "dx = linear_backward(dy, s['head'], g['head'])": ALIAS
    },
    "perceiver_backward: g['query'] += dquery[:, 0].sum(0)": {
        "g['query'] += dquery[:, 0].sum(-2)": MATRIX,
        "g['query'] += dquery[:, -1].sum(0)": "one query is the first and the last",
    },
    "patch_features_backward: dtokens = namespace(dx).zeros(shape, dx.dtype)": {
        "dtokens = -namespace(dx).zeros(shape, dx.dtype)": ZERO,
        "dtokens = 2.0 * namespace(dx).zeros(shape, dx.dtype)": ZERO,
    },
    "attention_pool_backward: g['probe'] += dprobe[:, 0].sum(0)": {
        "g['probe'] += dprobe[:, 0].sum(-2)": MATRIX,
        "g['probe'] += dprobe[:, -1].sum(0)": "one probe is the first and the last",
    },
    "patchify_forward: rows, columns = patch_grid(images.shape[1:], patch)": {
        "rows, columns = patch_grid(images.shape[1:-1], patch)": TWO_AXES
    },
    "grid_positions_backward: g['rows'] += dpatches.sum(1)": {
        "g['rows'] += dpatches.sum(-2)": "of three axes 1 is the last but one"
    },
    "_through_gate: total = rows(dy * h).sum(0)": {"total = rows(dy * h).sum(-2)": MATRIX},
    "time_embedding_backward: g['w'] += product(matrix.swapaxes(1, 2), dy.sum(2)).sum(0)": {
        "g['w'] += product(matrix.swapaxes(1, 2), dy.sum(-2)).sum(0)": FOUR_AXES
    },
    "vit_embed_backward: g['cls'] += dx[:, 0].sum(0)": {"g['cls'] += dx[:, 0].sum(-2)": MATRIX},
    # models
    "vit_backward: dx = activation(config.ends)[1](dy, s['ends']) if config.ends else dy": {
        "dx = activation(config.ends)[1](s['ends'], dy) if config.ends else dy": PRODUCT
    },
    "vit_embed_backward: if g:": {"if True:": SKIPS},
    "vit_embed_backward: dx = namespace(dx).ascontiguousarray(dx[:, 1:])": {
        "dx = dx[:, 1:]": SPEED
    },
    "clip_backward: if g['text']:": {"if True:": SKIPS},
    "encode_images_forward: return (x, s)": {
        "return (2.0 * x, s)": "run again in the backward for what it saves, not for the output"
    },
    "encode_texts_forward: return (x, s)": {
        "return (2.0 * x, s)": "run again in the backward for what it saves, not for the output"
    },
    "features_backward: if int(name) in used:": {
        "if True:": "the sum over no layer is 0, which adding costs time"
    },
    "features_backward: dhidden = xp.zeros(s['shape'], dy.dtype)": {
        "dhidden = -xp.zeros(s['shape'], dy.dtype)": ZERO,
        "dhidden = 2.0 * xp.zeros(s['shape'], dy.dtype)": ZERO,
    },
    "sight_backward: return None if s['tower'] is None "
    "else encode_frames_backward(dx, s['tower'], g['tower'])": {
        "return None if False else encode_frames_backward(dx, s['tower'], g['tower'])": NO_TOWER,
        "return None if s['connector'] is None "
        "else encode_frames_backward(dx, s['tower'], g['tower'])": NO_TOWER,
    },
    "unified_embed_backward: dkept, dy = (dy, namespace(dy).zeros("
    "(s['visual'][0] * s['visual'][1], dy.shape[1]), dy.dtype))": {
        "dkept, dy = (dy, namespace(dy).zeros("
        "(s['visual'][0] * s['visual'][1], dy.shape[1]), dx.dtype))": (
            "words and visual tokens have one dtype"
        )
    },
    "unified_embed_backward: "
    "dmedia = sight_backward(dy.reshape(s['visual']), s['sight'], g['sight'])": {
        "dmedia = sight_backward(dy, s['sight'], g['sight'])": (
            "the connector gives it the same shape again"
        )
    },
    "look_backward: return s['nothing']": {
        "return -s['nothing']": NOTHING,
        "return 2.0 * s['nothing']": NOTHING,
    },
    "tile_embedding_backward: if g:": {"if True:": SKIPS},
    "tile_embedding_backward: dvectors = dy.sum(2)": {"dvectors = dy.sum(-2)": FOUR_AXES},
    "tile_positions_backward: if g:": {"if True:": SKIPS},
    "tile_positions_backward: g['w'] += (1 - gate) * dy.sum((0, 1))": {
        "g['w'] += (1 - gate) * dy.sum((1, 0))": BOTH_AXES
    },
    "_by_ratio: "
    "sums = product(chosen.astype(x.dtype).T, x.reshape(len(x), math.prod(x.shape[1:])), "
    "precision='float32')": {
        "sums = product(chosen.T, x.reshape(len(x), math.prod(x.shape[1:])), "
        "precision='float32')": SPEED,
    },
    "tiles_embed_backward: dx = xp.ascontiguousarray(dx[:, :, :config.tokens])": {
        "dx = dx[:, :, :config.tokens]": SPEED
    },
    "tiles_embed_backward: if g:": {"if True:": SKIPS},
    "tiles_embed_backward: g['cls'] += dx[:, :, 0].sum((0, 1))": {
        "g['cls'] += dx[:, :, 0].sum((1, 0))": BOTH_AXES
    },
    "tiles_embed_backward: "
    "dx = xp.ascontiguousarray(dx).reshape(b * config.tiles, config.tokens - 1, width)": {
        "dx = dx.reshape(b * config.tiles, config.tokens - 1, width)": SPEED,
    },
    # recompute
    "chunked: if count == 1 or _in_pool():": (
        "who works changes no number; chunks of chunks have a test of their own"
    ),
    "chunked: workers = min(threads, len(dys))": {
        "workers = threads": IDLE,
        "workers = len(dys)": IDLE,
    },
    "chunked: sums = [g] + [zeros_like(g) for _ in range(workers - 1)]": {
        "sums = [g] + [zeros_like(g) for _ in range(workers + 1)]": IDLE,
        "sums = [g] + [zeros_like(g) for _ in range(workers - 0)]": IDLE,
        "sums = [g] + [zeros_like(g) for _ in range(workers)]": IDLE,
        "sums = [g] + [zeros_like(g) for _ in range(1)]": "the sum of a second worker, of two",
    },
    "chunked: for i in range(worker, len(dys), workers):": {
        "for i in range(worker, len(dxs), workers):": "one dx for each dy"
    },
    "chunked: return None if dxs[0] is None else namespace(dy).concatenate(dxs)": {
        "return None if dxs[-1] is None else namespace(dy).concatenate(dxs)": (
            "all pieces have a dx, or none has"
        )
    },
    "recomputed: options = {**options, 'rng': deepcopy(before)}": {
        "options = {**options, 'rng': before}": (
            "only a second backward from the same saved would draw another dropout"
        )
    },
}


def reason(planted):
    """Say why a planted error changes no number; None if it should."""
    why = EQUIVALENT.get(planted.before)
    return why.get(planted.after) if isinstance(why, dict) else why


def listed_equivalents():
    """List the errors, before and after, that are said to change no number."""
    return {
        f"{before}  ->  {after}"
        for before, why in EQUIVALENT.items()
        for after in (why if isinstance(why, dict) else ())
    }


@pytest.mark.parametrize("name", SUBJECTS)
def test_planted_errors_are_caught(name):
    survived = [planted for planted, how in try_all(SUBJECTS[name], SHARE) if how is None]
    assert not [str(planted) for planted in survived if not reason(planted)]


def test_in_the_committed_run_every_error_was_caught_or_explained():
    total = RESULTS["total"]
    assert total["survived"] == 0 and not RESULTS["survived"]
    assert total["planted"] == sum(n for kind, n in total.items() if kind != "planted")
    assert total["planted"] > 5000


@pytest.mark.parametrize("module", MODULES)
def test_ten_errors_or_more_were_caught_by_their_results(module):
    # An exception would be noticed without any check.
    caught = RESULTS["by_module"][module]
    assert caught["numbers"] + caught["contract"] >= 10


def test_every_listed_equivalent_survived_the_committed_run():
    assert listed_equivalents() <= set(RESULTS["equivalent"])
    assert all(RESULTS["equivalent"].values())
