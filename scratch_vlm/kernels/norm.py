"""Launch the kernels of `norm.cu`: layer norm and RMS norm."""

from scratch_vlm.backend import namespace
from scratch_vlm.backend.arrays import name_of
from scratch_vlm.backend.dispatch import Saved
from scratch_vlm.backend.launch import NUMBERS, address, can_launch, launch

WARP = 32  # threads
WIDEST = 8192  # D; 16 warps then share a row
MULTIPROCESSORS = 132  # of an H100 or H200


def layer_norm_forward(x, p, *, eps=1e-5, out=None):
    """Do the work of `layers.norm.layer_norm_forward`.

    Parameters
    ----------
    x : array of shape (..., D)
        Tokens; saved, so not to be changed until the backward.
    p : dict
        ``gamma`` and ``beta`` of shape (D,).
    eps : float, default 1e-5
        Added to the variance.
    out : array of shape (..., D), optional
        Where to write `y`; not `x`, which is saved. In bfloat16 or float16 beside an `x` in
        float32 it gets `y` rounded; `dx` is float32 then, whatever `dy` is.

    Returns
    -------
    y : array of shape (..., D)
    saved : Saved
        For `layers.norm.layer_norm_backward`.
    """
    if not _takes(x, p, out, "gamma", "beta"):
        return NotImplemented
    _, y, saved = _forward(x, None, p, eps, out, centred=True)
    return y, saved


def rms_norm_forward(x, p, *, eps=1e-5, out=None):
    """Do the work of `layers.norm.rms_norm_forward`.

    Parameters
    ----------
    x : array of shape (..., D)
        Tokens; saved, so not to be changed until the backward.
    p : dict
        ``gamma`` of shape (D,).
    eps : float, default 1e-5
        Added to the mean square.
    out : array of shape (..., D), optional
        Where to write `y`; not `x`, which is saved. In bfloat16 or float16 beside an `x` in
        float32 it gets `y` rounded; `dx` is float32 then, whatever `dy` is.

    Returns
    -------
    y : array of shape (..., D)
    saved : Saved
        For `layers.norm.rms_norm_backward`.
    """
    if not _takes(x, p, out, "gamma"):
        return NotImplemented
    _, y, saved = _forward(x, None, p, eps, out, centred=False)
    return y, saved


def add_norm(x, added, p, *, norm="layer", eps=1e-5, out=None):
    """Do the work of `layers.norm.add_norm`.

    Parameters
    ----------
    x, added : array of shape (..., D)
        The stream, and what a sublayer adds to it.
    p : dict
        ``gamma`` and, for a layer norm, ``beta``, of shape (D,).
    norm : {"layer", "rms"}
        The kind of norm.
    eps : float, default 1e-5
        Of the norm.
    out : array of shape (..., D), optional
        Where to write `y`, perhaps in bfloat16 or float16.

    Returns
    -------
    total : array of shape (..., D)
        The stream from here on; saved, so not to be changed until the backward.
    y : array of shape (..., D)
        The norm of it.
    saved : Saved
        For the backward of the norm.
    """
    names = ("gamma", "beta") if norm == "layer" else ("gamma",)
    alike = (added.shape, added.dtype) == (x.shape, x.dtype) and added.flags.c_contiguous
    if norm not in ("layer", "rms") or not alike or not _takes(x, p, out, *names):
        return NotImplemented
    if out is not None and not _can_hold(out, added):
        return NotImplemented
    return _forward(x, added, p, eps, out, centred=norm == "layer")


def _takes(x, p, out, *names):
    return (
        can_launch(x)
        and x.flags.c_contiguous
        and x.size
        and x.ndim
        and all(name in p for name in names)
        and x.size // x.shape[-1] < 2**31
        and x.shape[-1] <= WIDEST
        and all(leaf.dtype == "float32" and leaf.shape == x.shape[-1:] for leaf in p.values())
        and (out is None or _can_hold(out, x))
    )


def _can_hold(out, x):
    known = out.dtype == x.dtype or (x.dtype == "float32" and name_of(out.dtype) in NUMBERS)
    fits = known and out.shape == x.shape and out.flags.c_contiguous
    return fits and not namespace(x).may_share_memory(out, x)


def _shape(width, *arrays):
    """Say how a row is spread over threads: by the constants that `norm.cu` is compiled with."""
    lanes = WARP if width <= 1024 else WARP * -(-width // 512)
    aligned = all(address(x) % (4 * x.dtype.itemsize) == 0 for x in arrays if x is not None)
    return {"WIDTH": width, "VECTOR": 4 if width % 4 == 0 and aligned else 1, "LANES": lanes}


def _warps_at_once(width, lanes):
    """Say for how many warps of the backward a multiprocessor has registers.

    A thread takes four for each channel that it holds, and some.
    """
    held = width / lanes
    return 32 if held <= 8 else 16 if held <= 24 else 12


def _forward(x, added, p, eps, out, *, centred):
    xp, width = namespace(x), x.shape[-1]
    count = x.size // width
    total = x if added is None else xp.empty_like(x)
    y = xp.empty_like(x) if out is None else out
    mean = xp.empty(count, "float32") if centred else None
    rstd = xp.empty(count, "float32")
    gamma, beta = p["gamma"], p["beta"] if centred else None
    shape = _shape(width, x, added, total, gamma, beta, y)
    lanes = shape["LANES"]
    threads = lanes if lanes > WARP else 8 * WARP  # a row for a block, or for each of its warps
    launch(
        "norm.cu",
        "norm_forward",
        -(-count // (threads // lanes)),
        threads,
        *(x, added, None if added is None else total, gamma, beta, y, mean, rstd),
        *(count, float(eps), int(centred)),
        number=x.dtype,
        output=y.dtype,
        **shape,
    )
    return total, y, Saved(_backward, x=total, gamma=gamma, mean=mean, rstd=rstd)


def _backward(dy, saved, g, *, past=None, out=None):
    x, gamma, mean = saved["x"], saved["gamma"], saved["mean"]
    xp, width = namespace(x), x.shape[-1]
    count = x.size // width
    if dy.shape != x.shape:
        raise ValueError(f"dy is {dy.shape} and must be {x.shape}, like x")
    if name_of(dy.dtype) not in NUMBERS:
        raise TypeError(f"dy is {dy.dtype}; the kernel reads {', '.join(NUMBERS)}")
    if past is not None and past.shape != x.shape:
        raise ValueError(f"past is {past.shape} and must be {x.shape}, like x")
    dy = xp.ascontiguousarray(dy)
    past = None if past is None else xp.ascontiguousarray(past)
    if out is not None and out.dtype != x.dtype:
        out = None  # dy of fewer bits: they would not do for what flows on
    dx = xp.empty_like(x) if out is None or not out.flags.c_contiguous else out
    shape = _shape(width, dy, x, gamma, past, dx)
    lanes = shape["LANES"]
    threads = lanes if lanes > WARP else 4 * WARP
    at_once = MULTIPROCESSORS * max(1, WARP * _warps_at_once(width, lanes) // threads)
    blocks = min(-(-count // (threads // lanes)), at_once)
    parts = xp.empty((blocks, 2, width), "float32")
    launch(
        "norm.cu",
        "norm_backward",
        blocks,
        threads,
        *(dy, x, gamma, mean, saved["rstd"], past, dx, parts),
        *(count, int(mean is not None)),
        number=x.dtype,
        output=dy.dtype,
        shared=8 * width if threads > lanes else 0,
        **shape,
    )
    if g:
        columns = width if mean is None else 2 * width
        launch(
            "norm.cu",
            "norm_gather",
            -(-columns // WARP),
            WARP * WARP,
            *(parts, g["gamma"], None if mean is None else g["beta"], blocks),
            number=x.dtype,
            **shape,
        )
    if out is not None and dx is not out:
        out[...] = dx
        return out
    return dx
