"""Launch the kernels of `activation.cu`: GELU, its tanh approximation, QuickGELU."""

from scratch_vlm.backend import namespace
from scratch_vlm.backend.launch import can_launch, launch

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
        Where to write `y`; may be `x`.

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
        Where to write `y`; may be `x`.

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
        Where to write `y`; may be `x`.

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
    if y.dtype != x.dtype or y.shape != x.shape or not y.flags.c_contiguous:
        return NotImplemented
    slope = xp.empty_like(x)
    launch(
        "activation.cu",
        "activation_forward",
        min(-(-x.size // THREADS), BLOCKS),
        THREADS,
        *(x, bias, y, slope, x.size, 1 if bias is None else bias.size),
        number=x.dtype,
        ACTIVATION=kind,
    )
    return y, slope
