"""Launch the kernels of `norm.cu`: layer norm and RMS norm."""

from scratch_vlm.backend import namespace
from scratch_vlm.backend.dispatch import Saved
from scratch_vlm.backend.launch import BLOCK_BYTES, can_launch, launch

WARPS = 8  # tokens that a block of the forward takes side by side
THREADS = 256
BLOCKS = 264  # of the backward, two for each multiprocessor of an H100 or H200


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
        Where to write `y`; not `x`, which is saved.

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
        Where to write `y`; not `x`, which is saved.

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


def add_norm_forward(x, added, p, *, eps=1e-5):
    """Add to the residual stream and normalise the sum in one walk.

    Parameters
    ----------
    x, added : array of shape (..., D)
        The stream, and what a sublayer adds to it.
    p : dict
        ``gamma`` and, for a layer norm, ``beta``, of shape (D,).
    eps : float, default 1e-5
        Of the norm.

    Returns
    -------
    total : array of shape (..., D)
        The stream from here on.
    y : array of shape (..., D)
        The norm of it.
    saved : Saved
        For `add_norm_backward`.
    """
    alike = (added.shape, added.dtype) == (x.shape, x.dtype) and added.flags.c_contiguous
    if not alike or not _takes(x, p, None, "gamma"):
        return NotImplemented
    return _forward(x, added, p, eps, None, centred="beta" in p)


def add_norm_backward(dtotal, dy, saved, g):
    """Gradient of `add_norm_forward`, the same for both that were added.

    Parameters
    ----------
    dtotal : array of shape (..., D)
        dL/dtotal of all that reads the stream later.
    dy : array of shape (..., D)
        dL/dy.
    saved : Saved
        As `add_norm_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dx : array of shape (..., D)
    """
    return _backward(dy, saved, g, passed=dtotal)


def _takes(x, p, out, *names):
    return (
        can_launch(x)
        and x.flags.c_contiguous
        and x.size
        and x.ndim
        and all(name in p for name in names)
        and x.size // x.shape[-1] < 2**31
        and 8 * x.shape[-1] <= BLOCK_BYTES
        and all(leaf.dtype == "float32" and leaf.shape == x.shape[-1:] for leaf in p.values())
        and (out is None or _can_hold(out, x))
    )


def _can_hold(out, x):
    alike = (out.shape, out.dtype) == (x.shape, x.dtype) and out.flags.c_contiguous
    return alike and not namespace(x).may_share_memory(out, x)


def _forward(x, added, p, eps, out, *, centred):
    xp, width = namespace(x), x.shape[-1]
    count = x.size // width
    total = x if added is None else xp.empty_like(x)
    y = xp.empty_like(x) if out is None else out
    mean = xp.empty(count, "float32") if centred else None
    rstd = xp.empty(count, "float32")
    launch(
        "norm.cu",
        "norm_forward",
        -(-count // WARPS),
        32 * WARPS,
        *(x, added, None if added is None else total, p["gamma"], p["beta"] if centred else None),
        *(y, mean, rstd, count, width, float(eps), int(centred)),
        number=x.dtype,
    )
    return total, y, Saved(_backward, x=total, gamma=p["gamma"], mean=mean, rstd=rstd)


def _backward(dy, saved, g, *, out=None, passed=None):
    x, gamma, mean = saved["x"], saved["gamma"], saved["mean"]
    xp, width = namespace(x), x.shape[-1]
    count = x.size // width
    blocks = min(count, BLOCKS)
    if dy.shape != x.shape:
        raise ValueError(f"dy is {dy.shape} and must be {x.shape}, like x")
    dy = xp.ascontiguousarray(dy)
    dx = xp.empty_like(x) if out is None or not out.flags.c_contiguous else out
    parts = xp.empty((blocks, 2, width), "float32")
    launch(
        "norm.cu",
        "norm_backward",
        blocks,
        THREADS,
        *(dy, x, gamma, mean, saved["rstd"], passed, dx, parts),
        *(count, width, int(mean is not None)),
        number=x.dtype,
        shared=8 * width,
    )
    if g:
        launch(
            "norm.cu",
            "norm_gather",
            -(-width // THREADS),
            THREADS,
            *(parts, g["gamma"], None if mean is None else g["beta"], blocks, width),
            number=x.dtype,
        )
    if out is not None and dx is not out:
        out[...] = dx
        return out
    return dx
