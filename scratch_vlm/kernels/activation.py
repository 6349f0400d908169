"""Launch the kernels of `activation.cu`: GELU, its tanh approximation, QuickGELU."""

from scratch_vlm.backend import namespace
from scratch_vlm.backend.arrays import name_of
from scratch_vlm.backend.launch import NUMBERS, address, can_launch, launch

THREADS = 256
BLOCKS = 1056  # eight for each multiprocessor of an H100 or H200


def gelu_forward(x, *, bias=None, out=None):
    """Do the work of `ops.activations.gelu_forward`.

    Parameters
    ----------
    x : array of shape (..., M)
        Any numbers.
    bias : array of shape (M,), optional
        Added to `x` first, in the same pass.
    out : array of shape (..., M), optional
        Where to write `y`, perhaps in fewer bits than those of `x`; may be `x`.

    Returns
    -------
    y : array of shape (..., M)
    slope : array of shape (..., M)
        For `ops.activations.gelu_backward`.
    """
    return _forward(0, x, bias, out)


def gelu_tanh_forward(x, *, bias=None, out=None):
    """Do the work of `ops.activations.gelu_tanh_forward`.

    Parameters
    ----------
    x : array of shape (..., M)
        Any numbers.
    bias : array of shape (M,), optional
        Added to `x` first, in the same pass.
    out : array of shape (..., M), optional
        Where to write `y`, perhaps in fewer bits than those of `x`; may be `x`.

    Returns
    -------
    y : array of shape (..., M)
    slope : array of shape (..., M)
        For `ops.activations.gelu_tanh_backward`.
    """
    return _forward(1, x, bias, out)


def quick_gelu_forward(x, *, bias=None, out=None):
    """Do the work of `ops.activations.quick_gelu_forward`.

    Parameters
    ----------
    x : array of shape (..., M)
        Any numbers.
    bias : array of shape (M,), optional
        Added to `x` first, in the same pass.
    out : array of shape (..., M), optional
        Where to write `y`, perhaps in fewer bits than those of `x`; may be `x`.

    Returns
    -------
    y : array of shape (..., M)
    slope : array of shape (..., M)
        For `ops.activations.quick_gelu_backward`.
    """
    return _forward(2, x, bias, out)


def _forward(kind, x, bias, out):
    if not can_launch(x) or not x.size or not x.flags.c_contiguous:
        return NotImplemented
    if bias is not None and bias.shape != x.shape[-1:]:
        return NotImplemented
    xp = namespace(x)
    y = xp.empty_like(x) if out is None else out
    if not _can_hold(y, x):
        return NotImplemented
    slope = xp.empty_like(x)
    width = x.size if bias is None else bias.size
    several = _several(width, x, y)
    launch(
        "activation.cu",
        "activation_forward",
        min(-(-x.size // (THREADS * several)), BLOCKS),
        THREADS,
        *(x, bias, y, slope, x.size, 1 if bias is None else width),
        number=x.dtype,
        output=y.dtype,
        ACTIVATION=kind,
        AT_A_TIME=several,
    )
    return y, slope


def backward(dy, slope, *, out=None):
    """Do the work of each backward, such as `ops.activations.gelu_backward`: they are the same.

    Parameters
    ----------
    dy : array of shape (..., M)
        dL/dy.
    slope : array of shape (..., M)
        As the forward saved it.
    out : array of shape (..., M), optional
        Where to write `dx`; may be `dy`. In float32 the line of the op does as well.

    Returns
    -------
    dx : array of shape (..., M)
    """
    if not can_launch(dy) or out is None or out.dtype == "float32" or not _can_hold(out, dy):
        return NotImplemented
    alike = (slope.shape, slope.dtype) == (dy.shape, dy.dtype)
    if not alike or not dy.size or not dy.flags.c_contiguous or not slope.flags.c_contiguous:
        return NotImplemented
    several = _several(dy.size, dy, slope, out)
    launch(
        "activation.cu",
        "activation_backward",
        min(-(-dy.size // (THREADS * several)), BLOCKS),
        THREADS,
        *(dy, slope, out, dy.size),
        number=dy.dtype,
        output=out.dtype,
        AT_A_TIME=several,
    )
    return out


def _several(width, *arrays):  # numbers at a time: 16 bytes of the first array, if all lie so
    aligned = all(address(x) % 16 == 0 for x in arrays)
    sizes = (16 // arrays[0].itemsize, 4) if aligned else ()
    return next((several for several in sizes if width % several == 0), 1)


def _can_hold(out, x):
    fits = out.dtype == x.dtype or (x.dtype == "float32" and name_of(out.dtype) in NUMBERS)
    return fits and out.shape == x.shape and out.flags.c_contiguous
