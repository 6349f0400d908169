"""Launch the kernels of `column_sums.cu`."""

from scratch_vlm.backend import namespace
from scratch_vlm.backend.launch import can_launch, launch

THREADS = 256
COLUMNS = 128  # of a block
BLOCKS = 1056  # eight for each multiprocessor of an H100 or H200
ROWS = 32  # that a block should have at least


def add_sum(target, x):
    """Do the work of `backend.primitives.add_sum`.

    Parameters
    ----------
    target : array of shape (D,)
        Changed in place.
    x : array of shape (..., D)
        Tokens.

    Returns
    -------
    None
    """
    width = target.size
    takes = (
        can_launch(x)
        and target.dtype == "float32"
        and target.flags.c_contiguous
        and x.flags.c_contiguous
        and x.size
        and x.shape[-1:] == target.shape
        and x.size // width < 2**31 - BLOCKS
    )
    if not takes:
        return NotImplemented
    rows, across = x.size // width, -(-width // COLUMNS)
    down = max(1, min(-(-rows // ROWS), BLOCKS // across))
    parts = namespace(x).empty((down, width), "float32")
    launch(
        *("column_sums.cu", "column_parts", (across, down), THREADS),
        *(x, parts, rows, width),
        number=x.dtype,
    )
    launch(
        *("column_sums.cu", "add_parts", -(-width // 32), THREADS),
        *(parts, target, down, width),
        number=x.dtype,
    )
    return None
