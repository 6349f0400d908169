"""Launch the kernel of `lowered.cu`."""

from scratch_vlm.backend import namespace
from scratch_vlm.backend.arrays import name_of
from scratch_vlm.backend.launch import NUMBERS, address, can_launch, launch

THREADS = 256
BLOCKS = 1056  # eight for each multiprocessor of an H100 or H200


def lowered(x, dtype):
    """Do the work of `backend.factors.lowered`.

    Parameters
    ----------
    x : array of shape (...)
        Of float32, contiguous, or a matrix whose transpose is.
    dtype : dtype
        bfloat16 or float16.

    Returns
    -------
    array of shape (...)
    """
    if x.ndim == 2 and x.flags.f_contiguous and not x.flags.c_contiguous:
        y = lowered(x.T, dtype)  # such as the table of words, which scores them, too
        return y if y is NotImplemented else y.T
    if not can_launch(x) or x.dtype != "float32" or not x.flags.c_contiguous or address(x) % 16:
        return NotImplemented
    if name_of(dtype) not in NUMBERS:
        return NotImplemented
    y = namespace(x).empty(x.shape, dtype)
    blocks = min(-(-x.size // (8 * THREADS)), BLOCKS)
    launch("lowered.cu", "lowered", blocks, THREADS, x, y, x.size, number=x.dtype, output=dtype)
    return y
