"""Launch the kernels of `attention_forward.cu` and `attention_backward.cu`."""

import math

from scratch_vlm.backend import namespace
from scratch_vlm.backend.arrays import name_of
from scratch_vlm.backend.dispatch import Saved
from scratch_vlm.backend.factors import half_type, lowered
from scratch_vlm.backend.launch import MOST_BLOCKS, View, address, can_launch, launch
from scratch_vlm.backend.precision import product_precision
from scratch_vlm.ops.masks import check_mask

TILE = 64  # tokens of a tile, as in tiles.cuh
THREADS = 128
WIDTHS = (32, 64, 128)  # that the files are compiled for


def attend_forward(q, k, v, *, mask=None, scale=None, blind="zero", out=None):
    """Do the work of `ops.attend.attend_forward` without its T x S matrix.

    Parameters
    ----------
    q : array of shape (B, A, T, K)
        Queries in bfloat16 or float16, or in float32 where products are to be computed in bf16 or
        fp16; K a multiple of 8, at most 128.
    k : array of shape (B, G, S, K)
        Keys.
    v : array of shape (B, G, S, K)
        Values.
    mask : boolean array broadcastable to (B, A, T, S), optional
        True where a token may attend; a row without any True gives exactly zero.
    scale : float, optional
        What scores are multiplied by, positive. Default 1 / sqrt(K).
    blind : {"zero", "mean"}
        What a row without any True gives; a mean under a mask is left to the lines of the op.
    out : array of shape (B, A, T, K), optional
        Where to write `y`.

    Returns
    -------
    y : array of shape (B, A, T, K)
    saved : Saved
        For `ops.attend.attend_backward`. In place of the weights it holds the logarithm of their
        sum for each query.
    """
    half = half_type(product_precision())
    if half is not None and q.dtype == "float32" and can_launch(q):
        return _from_float32(q, k, v, half, out, {"mask": mask, "scale": scale, "blind": blind})
    if not _takes(q, k, v, out) or (blind != "zero" and mask is not None):
        return NotImplemented
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    if not scale > 0:
        return NotImplemented  # the largest score is taken before it is scaled
    xp = namespace(q)
    images, heads, queries, width = q.shape
    groups, keys = k.shape[1:3]
    if mask is not None:
        check_mask(mask, (images, heads, queries, keys))
        if _reach(mask) >= 2**31:
            return NotImplemented
    y = _heads_in_tokens(xp, q.shape, q.dtype) if out is None else out
    log_sum = xp.empty((images, heads, queries), "float32")
    kinds, bits, of_mask = _kinds(xp, mask, (images, heads, queries, keys), q.dtype)
    launch(
        "attention_forward.cu",
        "attention_forward",
        (-(-queries // TILE), heads, images),
        THREADS,
        *(View(q), View(k), View(v), View(y), log_sum, kinds, bits),
        *(heads, heads // groups, queries, keys, width),
        *(*_steps(q), *_steps(k), *_steps(v), *_steps(y), *of_mask, scale),
        number=q.dtype,
        shared=_shared(4, width),
        WIDTH=_padded(width),
    )
    saved = {"q": q, "k": k, "v": v, "y": y, "log_sum": log_sum, "mask": mask, "scale": scale}
    return y, Saved(_backward, **saved, kinds=kinds, bits=bits, of_mask=of_mask)


def _from_float32(q, k, v, half, out, options):
    # Tensor cores take 16 bits: copies go in, and what comes out is float32 again.
    if not q.ndim == k.ndim == v.ndim == 4:
        return NotImplemented
    result = attend_forward(*(_lowered(x, half) for x in (q, k, v)), **options)
    if result is NotImplemented or (out is not None and out.shape != q.shape):
        return NotImplemented
    (y, saved), out = result, namespace(q).empty_like(q) if out is None else out
    out[...] = y

    def backward(dy, _, *, out=None):
        found = _backward(dy, saved)
        return tuple(dx.astype("float32") for dx in found) if out is None else _copied(found, out)

    return out, Saved(backward, **saved)


def _copied(found, out):
    for place, x in zip(out, found, strict=True):
        if place is not x:
            place[...] = x
    return out


def _backward(dy, saved, *, out=None):
    q, k, v, y = (saved[name] for name in ("q", "k", "v", "y"))
    xp = namespace(q)
    images, heads, queries, width = q.shape
    groups, keys = k.shape[1:3]
    if dy.shape != q.shape:
        raise ValueError(f"dy is {dy.shape} and must be {q.shape}, like q")
    if dy.dtype != q.dtype:
        dy = _lowered(dy, q.dtype)
    if not _aligned(dy):
        dy = xp.ascontiguousarray(dy)
    delta = xp.empty(saved["log_sum"].shape, "float32")
    places = (None,) * 3 if out is None else out
    dq, dk, dv = (
        place if _side_by_side(place, x) else _heads_in_tokens(xp, x.shape, x.dtype)
        for place, x in zip(places, (q, k, v), strict=True)
    )
    if dk.strides != dv.strides:  # one step for both
        dk, dv = (_heads_in_tokens(xp, x.shape, x.dtype) for x in (k, v))
    options = {"number": q.dtype, "WIDTH": _padded(width)}
    launch(
        "attention_backward.cu",
        "attention_delta",
        -(-delta.size // (THREADS * 8 // _padded(width))),  # a thread takes eight channels
        THREADS,
        *(View(dy), View(y), delta, heads, queries, width, delta.size, *_steps(dy), *_steps(y)),
        **options,
    )
    before = (View(q), View(k), View(v), View(dy), saved["log_sum"], delta)
    after = (
        *(saved["kinds"], saved["bits"]),
        *(heads, heads // groups, queries, keys, width),
        *(*_steps(q), *_steps(k), *_steps(v), *_steps(dy)),
    )
    last = (*saved["of_mask"], saved["scale"])
    grid = (-(-keys // TILE), groups, images)
    arguments = (*before, View(dk), View(dv), *after, _steps(dk)[-1], *last)
    place = {"shared": _shared(5, width)}
    launch("attention_backward.cu", "attention_dkdv", grid, THREADS, *arguments, **place, **options)
    grid = (-(-queries // TILE), heads, images)
    arguments = (*before, View(dq), *after, _steps(dq)[-1], *last)
    place = {"shared": _shared(4, width)}
    launch("attention_backward.cu", "attention_dq", grid, THREADS, *arguments, **place, **options)
    if out is None:
        return dq, dk, dv
    return _copied((dq, dk, dv), out)


def _side_by_side(place, x):  # whether a kernel can write gradients of `x` there
    if place is None or (place.shape, place.dtype) != (x.shape, x.dtype) or not _aligned(place):
        return False
    image, head, token = _steps(place)
    return head == x.shape[3] and image == token * x.shape[2]


def _lowered(x, dtype):  # heads lie side by side in tokens: those are contiguous, perhaps
    return lowered(x.swapaxes(1, 2), dtype).swapaxes(1, 2)


def _takes(q, k, v, out):
    arrays = (q, k, v) if out is None else (q, k, v, out)
    return (
        can_launch(q)
        and name_of(q.dtype) in ("bfloat16", "float16")
        and all(x.ndim == 4 and x.size and x.dtype == q.dtype and _aligned(x) for x in arrays)
        and max(q.shape[:2]) <= MOST_BLOCKS
        and q.size // q.shape[3] < 2**31
        and k.shape == v.shape
        and (q.shape[0], q.shape[3]) == (k.shape[0], k.shape[3])
        and q.shape[1] % k.shape[1] == 0
        and q.shape[3] % 8 == 0
        and q.shape[3] <= WIDTHS[-1]
        and (out is None or out.shape == q.shape)
    )


def _aligned(x):  # rows of 16 bytes that an asynchronous copy can take
    rows = all(step % 16 == 0 for step in x.strides[:-1])
    near = (x.shape[2] + TILE) * abs(x.strides[2]) < 2**31  # tokens of a head are counted by int
    return rows and near and x.strides[-1] == x.itemsize and address(x) % 16 == 0


def _padded(width):
    return next(padded for padded in WIDTHS if width <= padded)


def _shared(tiles, width):
    return tiles * TILE * (_padded(width) + 8) * 2


def _heads_in_tokens(xp, shape, dtype):  # (B, A, T, K) whose heads lie side by side in a token
    images, heads, tokens, width = shape
    return xp.empty((images, tokens, heads, width), dtype).swapaxes(1, 2)


def _steps(x):  # between images, heads and tokens, in numbers
    return tuple(step // x.itemsize for step in x.strides[:-1])


def _reach(mask):  # bytes from the first pair of tokens to the last, which the kernel counts by int
    sides = zip(mask.shape[-2:], mask.strides[-2:], strict=True)
    return sum(abs(step) * (n - 1) for n, step in sides)


def _kinds(xp, mask, shape, dtype):
    # The kind of each tile, its bits, and the tiles between images and between heads.
    if mask is None:
        return None, None, (0, 0)
    queries, keys = shape[2:]
    mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    own_images, own_heads = mask.shape[:2]
    steps = tuple(
        0 if n == 1 else step for n, step in zip(mask.shape, mask.strides, strict=True)
    )  # booleans take one byte
    tiles = (-(-queries // TILE), -(-keys // TILE))
    kinds = xp.empty((own_images, own_heads, *tiles), "uint8")
    bits = xp.empty((*kinds.shape, 2 * TILE), "int64")
    launch(
        "attention_forward.cu",
        "attention_kinds",
        (own_images * own_heads * tiles[1], tiles[0]),
        THREADS,
        *(View(mask), kinds, bits, own_heads, queries, keys, *steps),
        number=dtype,
        WIDTH=WIDTHS[0],
    )
    image = 0 if own_images == 1 else own_heads * tiles[0] * tiles[1]
    head = 0 if own_heads == 1 else tiles[0] * tiles[1]
    return kinds, bits, (image, head)
