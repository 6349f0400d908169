"""A case for every kernel: run an op on few bits, by kernels, and on float64, by NumPy.

No kernel takes float64, so one and the same call is the kernel's and its twin's. A case yields
what is compared: a name, the kernel's result, and the twin's.
"""

from functools import partial
from typing import NamedTuple

import ml_dtypes
import numpy as np

from scratch_vlm.backend import add_at, add_sum, products_in
from scratch_vlm.backend.dispatch import Saved
from scratch_vlm.backend.factors import lowered
from scratch_vlm.kernels import activation, contrastive
from scratch_vlm.layers import norm as norms
from scratch_vlm.ops import activations, attend, losses, masks
from scratch_vlm.training.optimizer import AdamW

NUMBERS = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
PRECISIONS = {"bfloat16": "bf16", "float16": "fp16"}
ROUNDING = {"float32": 1e-5, "bfloat16": 6e-3, "float16": 1e-3}  # relative, of a whole array


class Compared(NamedTuple):
    """What a kernel made of an array and what its twin made of it."""

    what: str
    got: np.ndarray
    want: np.ndarray
    size: float = 0.01  # of a number; smaller ones are judged as if they had it

    def error(self):
        """Length of the difference over the length of what is wanted."""
        got, want = np.asarray(self.got, "float64"), np.asarray(self.want, "float64")
        assert got.shape == want.shape
        length = max(np.linalg.norm(want), self.size * want.size**0.5)
        return np.linalg.norm(got - want) / length if want.size else 0.0


def _draw(rng, number, *shape):  # rounded to the number's type, so that both start alike
    return rng.standard_normal(shape).astype(NUMBERS[number])


def _double(x):
    return x.astype("float64")


def _gradients(p, dtype):
    return {name: np.ones(leaf.shape, dtype) for name, leaf in p.items()}  # += is what counts


def _shifted(x, by):  # a copy that begins so many numbers beside where arrays begin
    place = np.empty(x.size + by, x.dtype)[by:].reshape(x.shape)
    place[...] = x
    return place


def norm_case(rng, number, kind="layer", rows=5, width=40, out=False, shift=0, of=None):
    """Layer norm or RMS norm, forward and backward; perhaps written where told.

    Perhaps also of another type than `number`, that of y and dy, and then dx is of that type.
    """
    forward, backward = norms.NORMS[kind][1:]
    x, dy = _draw(rng, of or number, rows, 1, width), _draw(rng, number, rows, 1, width)
    x = _shifted(x, shift)
    p = {"gamma": _draw(rng, "float32", width), "beta": _draw(rng, "float32", width)}
    p = p if kind == "layer" else {"gamma": p["gamma"]}
    g, g_twin = _gradients(p, "float32"), _gradients(p, "float64")
    place = np.empty_like(dy) if out or of else None
    y, saved = forward(x, p, eps=1e-3, out=place)
    assert isinstance(saved, Saved) and y.dtype == dy.dtype
    place = dy.copy()
    dx = backward(place, saved, g, out=place if out else None)
    frozen = backward(dy, saved, {})
    assert dx.dtype == frozen.dtype == x.dtype
    y_twin, saved = forward(_double(x), {k: _double(v) for k, v in p.items()}, eps=1e-3)
    dx_twin = backward(_double(dy), saved, g_twin)
    yield Compared("y", y, y_twin)
    gradients = [
        Compared("dx", dx, dx_twin),
        Compared("dx of frozen parameters", frozen, dx_twin),
        *(Compared(name, g[name], g_twin[name]) for name in p),
    ]
    assert all(one.error() <= ROUNDING[of or number] for one in gradients)
    yield from gradients


def add_norm_case(rng, number, kind="layer", rows=5, width=40):
    """A norm of a sum, which goes on as the residual stream."""
    x, added, dtotal, dy = (_draw(rng, number, rows, width) for _ in range(4))
    p = {"gamma": _draw(rng, "float32", width), "beta": _draw(rng, "float32", width)}
    p = p if kind == "layer" else {"gamma": p["gamma"]}
    g, g_twin = _gradients(p, "float32"), _gradients(p, "float64")
    forward, backward = norms.NORMS[kind][1:]
    total, y, saved = norms.add_norm(x, added, p, norm=kind)
    assert isinstance(saved, Saved)
    dx = backward(dy, saved, g, past=dtotal)
    # the sum is rounded before it is normalised, here and there
    total_twin = _double((x.astype("float32") + added.astype("float32")).astype(x.dtype))
    y_twin, saved = forward(total_twin, {k: _double(v) for k, v in p.items()})
    dx_twin = _double(dtotal) + backward(_double(dy), saved, g_twin)
    yield Compared("total", total, total_twin)
    yield Compared("y", y, y_twin)
    yield Compared("dx", dx, dx_twin)
    yield from (Compared(name, g[name], g_twin[name]) for name in p)


def activation_case(
    rng, number, kind="gelu", rows=5, width=40, bias=False, out=False, fewer="bfloat16"
):
    """An activation, its slope and its gradient: in place, with a bias, or in fewer bits."""
    x = 3 * _draw(rng, "float32", rows, width)
    x = x.astype(NUMBERS[number])
    given = x.copy()
    forward = getattr(activations, f"{kind}_forward")
    b = _draw(rng, "float32", width) if bias else np.zeros(width, "float32")
    y_twin, slope_twin = forward(_double(x) + b)
    if bias:
        y, slope = getattr(activation, f"{kind}_forward")(x, bias=b)
    else:
        y, slope = forward(x.copy(), out=np.empty_like(x) if out else None)
    yield Compared("y", y, y_twin)
    yield Compared("slope", slope, slope_twin)
    if number == "float32":
        place = np.empty(x.shape, NUMBERS[fewer])
        forward(x, out=place)
        yield Compared("y in fewer bits", place, forward(_double(x))[0].astype(place.dtype), 1)
        dy, place = _draw(rng, number, rows, width), np.empty(x.shape, NUMBERS[fewer])
        backward = getattr(activations, f"{kind}_backward")
        assert backward(dy, slope, out=place) is place
        twin = backward(_double(dy), _double(slope)).astype(place.dtype)
        yield Compared("dx in fewer bits", place, twin, 1)
    else:
        dy = _draw(rng, number, rows, width)
        twin = _double(dy) * _double(slope)
        assert getattr(activations, f"{kind}_backward")(dy, slope, out=dy) is dy
        yield Compared("dx in place", dy, twin)
    if out:
        y, _ = forward(x, out=x)
        assert y is x
        yield Compared("y in place", y, forward(_double(given))[0])


def cross_entropy_case(
    rng, number, rows=7, classes=50, smoothing=0.0, overwrite=True, dloss=1.0, ruled_out=0.0
):
    """The loss and its gradient; a third of the rows have no label, some words are impossible."""
    logits = (4 * _draw(rng, "float32", rows, classes)).astype(NUMBERS[number])
    labels = rng.integers(0, classes, rows)
    # With smoothing the loss of an impossible word is infinite, for kernel and twin.
    impossible = rng.random((rows, classes)) < (0 if smoothing else ruled_out)
    impossible[np.arange(rows), labels] = impossible[:, 0] = False
    logits[impossible] = -np.inf
    labels[rng.random(rows) < 0.3] = losses.IGNORE
    options = {"smoothing": smoothing, "overwrite": overwrite}
    twin, saved_twin = losses.cross_entropy_forward(_double(logits), labels, smoothing=smoothing)
    given = logits.copy()
    loss, saved = losses.cross_entropy_forward(given, labels, **options)
    dlogits = losses.cross_entropy_backward(dloss, saved)
    assert (dlogits is given) == overwrite and (overwrite or np.array_equal(given, logits))
    dlogits_twin = losses.cross_entropy_backward(dloss, saved_twin)
    assert not dlogits[labels == losses.IGNORE].any()
    yield Compared("loss", loss, twin)
    yield Compared("dlogits", dlogits, dlogits_twin)


def adamw_case(rng, number="float32", size=100, clip=0.5):
    """Three steps of the optimizer."""
    p = {"w": _draw(rng, "float32", size), "b": _draw(rng, "float32", 3)}
    options = {"decay": 0.1, "factors": (("b", 0.5), ("w", 3.0)), "clip": clip, "eps": 1e-3}
    one = AdamW(p, **options)
    two = AdamW({name: _double(leaf) for name, leaf in p.items()}, **options)
    for rate in (0.1, 0.2, 0.1):
        for name, leaf in p.items():
            gradient = _draw(rng, "float32", *leaf.shape)
            one.g[name] += gradient
            two.g[name] += gradient
        one.step(rate)
        two.step(rate)
    for name in p:
        assert not one.g[name].any()
        yield Compared(f"p/{name}", one.p[name], two.p[name])
        yield Compared(f"m/{name}", one.state["m"][name], two.state["m"][name])
        yield Compared(f"v/{name}", one.state["v"][name], two.state["v"][name])


def add_at_case(rng, number, count=40, vocabulary=9, width=20):
    """Rows added to a table, many of them to the same."""
    index = rng.integers(0, vocabulary, (2, count))
    values = _draw(rng, number, 2, count, width)
    table = _draw(rng, "float32", vocabulary, width)
    twin = _double(table)
    add_at(table, index, values)
    add_at(twin, index, _double(values))
    yield Compared("table", table, twin)


def add_sum_case(rng, number, rows=40, width=20):
    """Tokens summed up, and added to a vector."""
    x, target = _draw(rng, number, 1, rows, width), _draw(rng, "float32", width)
    twin = _double(target)
    add_sum(target, x)
    add_sum(twin, _double(x))
    yield Compared("target", target, twin)


def lowered_case(rng, number="float32", count=40, fewer="bfloat16"):
    """Numbers rounded to fewer bits: the same ones as NumPy's."""
    x = _draw(rng, number, count) * 10.0 ** rng.integers(-3, 3, count)
    x = x.astype(NUMBERS[number])
    dtype = np.dtype(NUMBERS[fewer])
    y, turned = lowered(x, dtype), lowered(np.stack([x, -x]).T, dtype)
    assert y.dtype == turned.dtype == dtype and turned.T.flags.c_contiguous
    yield Compared("y", y, x.astype(dtype), 0)
    yield Compared("y of a transposed matrix", turned, np.stack([x, -x], axis=1).astype(dtype), 0)


def contrastive_case(rng, number, pairs=40, width=50):
    """CLIP's loss, with a scale of about ten."""
    images, texts = (_draw(rng, number, pairs, width) / width**0.5 for _ in range(2))
    texts = (images * 0.5 + texts * 0.5).astype(NUMBERS[number])
    images = images.astype(NUMBERS[number])
    log_scale = np.array(2.3, "float32")
    loss, saved = contrastive.contrastive_forward(images, texts, log_scale, matrix_fits=0)
    twin = (_double(images), _double(texts), _double(log_scale))
    loss_twin, saved_twin = losses.contrastive_forward(*twin)
    yield Compared("loss", loss, loss_twin)
    grads = losses.contrastive_backward(0.7, saved)
    twins = losses.contrastive_backward(0.7, saved_twin)
    yield from map(Compared, ("dimages", "dtexts", "dlog_scale"), grads, twins)


def some_mask(rng, kind, images, heads, queries, keys):
    """A mask of every kind that the models use, and some that they do not."""
    if kind == "none":
        return None
    if kind == "causal":
        return masks.causal_mask(queries, past=keys - queries) if keys >= queries else None
    if kind == "padding":
        return masks.padding_mask(rng.integers(0, keys + 1, images), keys)
    if kind == "both":
        lengths = rng.integers(0, keys + 1, images)
        return masks.padding_mask(lengths, keys) & np.tri(queries, keys, dtype=bool)
    if kind == "media":
        at = rng.random((images, queries)) < 0.1
        media = max(1, at.sum(1).max())
        seen = masks.media_mask(at, media, rule="last").repeat(-(-keys // media), axis=2)
        return seen[:, None, :, :keys]
    if kind == "stripes":  # of each tile just what one warp of attention_kinds looks at
        return (np.arange(queries)[:, None] % 2 == 0) & (np.arange(keys) % 64 >= 32)
    shape = {"random": (images, heads, queries, keys), "heads": (heads, 1, keys)}[kind]
    return rng.random(shape) < 0.3


def attention_case(
    rng,
    number="bfloat16",
    images=1,
    heads=2,
    sharers=1,
    queries=70,
    keys=70,
    width=32,
    mask="none",
    scale=None,
    out=False,
    of=None,
):
    """Attention whose q, k and v lie side by side in tokens, as layers hand them over.

    Perhaps of another type than `number`, that of products: float32, as behind a rotation.
    """
    groups = heads // sharers

    def draw(*shape):
        return _draw(rng, number, *shape).astype(NUMBERS[of or number]).swapaxes(1, 2)

    q = draw(images, queries, heads, width)
    kv = draw(images, keys, 2 * groups, width)
    k, v = kv[:, :groups], kv[:, groups:]
    dy = draw(images, queries, heads, width)
    mask = some_mask(rng, mask, images, heads, queries, keys)
    place = np.full((images, queries, heads, width), np.nan, q.dtype).swapaxes(1, 2)
    with products_in(PRECISIONS[number]):
        y, saved = attend.attend_forward(
            q, k, v, mask=mask, scale=scale, out=place if out else None
        )
    assert isinstance(saved, Saved) and (y is place) == out
    grads = attend.attend_backward(dy, saved)
    places = [
        np.full((x.shape[0], x.shape[2], 40 + x.shape[1] * width), np.nan, q.dtype)
        for x in (q, k, v)
    ]
    views = tuple(
        place[:, :, 8 : 8 + x.shape[1] * width]
        .reshape(x.shape[0], x.shape[2], -1, width)
        .swapaxes(1, 2)
        for place, x in zip(places, (q, k, v), strict=True)
    )
    assert attend.attend_backward(dy, saved, out=views) is views
    for place, view, grad in zip(places, views, grads, strict=True):
        assert np.array_equal(view, grad) and np.isnan(place).sum() == place.size - view.size
    assert {x.dtype for x in (y, *grads)} == {q.dtype}
    y_twin, s_twin = attend.attend_forward(*map(_double, (q, k, v)), mask=mask, scale=scale)
    twins = attend.attend_backward(_double(dy), s_twin)
    blind = (s_twin["norm"] == 0)[..., 0]
    assert not y[blind].any() and not grads[0][blind].any()
    # Of few keys one often takes all the weight: dq and dk are then differences of equal numbers.
    size = keys**-0.5
    yield Compared("y", y, y_twin, size)
    for what, got, want in zip(("dq", "dk", "dv"), grads, twins, strict=True):
        yield Compared(what, got, want, size)
    yield Compared("weights", attend.attention_weights(saved), attend.attention_weights(s_twin))


CASES = {
    "norm": norm_case,
    "rounded_norm": partial(norm_case, of="float32"),
    "add_norm": add_norm_case,
    "activation": activation_case,
    "cross_entropy": cross_entropy_case,
    "adamw": adamw_case,
    "add_at": add_at_case,
    "add_sum": add_sum_case,
    "lowered": lowered_case,
    "contrastive": contrastive_case,
    "attention": attention_case,
}
WITH_BARRIERS = {  # small, yet with enough tiles, slices and rows for a missing barrier to matter
    "norm": partial(norm_case, number="float32", rows=6, width=64),
    "wide": partial(norm_case, number="float32", rows=3, width=1028),
    "cross_entropy": partial(cross_entropy_case, number="float32", smoothing=0.1, classes=600),
    "add_at": partial(add_at_case, number="float32", count=100),
    "add_sum": partial(add_sum_case, number="float32", rows=100, width=140),
    "contrastive": partial(contrastive_case, number="float32", pairs=70, width=70),
    "attention": partial(attention_case, heads=1, queries=140, keys=140, mask="causal"),
    "stripes": partial(
        attention_case, number="float16", heads=1, queries=140, keys=140, mask="stripes"
    ),
}


def agrees(case, limit=ROUNDING["bfloat16"], **sizes):
    """Whether a kernel runs and all its results are those of its twin."""
    try:
        compared = list(case(np.random.default_rng(0), **sizes))
    except (RuntimeError, AssertionError):  # threads met at different barriers, or not quite zero
        return False
    return all(one.error() <= limit for one in compared)  # nan is not
