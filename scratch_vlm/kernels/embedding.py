"""Launch the kernel of `embedding.cu`."""

from scratch_vlm.backend import namespace
from scratch_vlm.backend.launch import can_launch, launch

THREADS = 128


def add_at(target, index, values):
    """Do the work of `backend.add_at`, in the same order in every run.

    Parameters
    ----------
    target : array of shape (V, D)
        Changed in place; float32.
    index : integer array of shape (...)
        Row numbers from 0 to V - 1.
    values : array of shape (..., D)
        What to add.

    Returns
    -------
    None
    """
    fits = can_launch(values) and target.dtype == "float32" and target.flags.c_contiguous
    if not fits or target.ndim != 2 or index.size >= 2**31:
        return NotImplemented
    xp = namespace(target)
    count, width = index.size, target.shape[1]
    # Unique keys: an argsort need not be stable then. The number of a token is the low part.
    keys = index.reshape(-1).astype("int64") * count + xp.arange(count)
    keys.sort()
    launch(
        "embedding.cu",
        "add_rows",
        (count, -(-width // THREADS)),
        THREADS,
        *(xp.ascontiguousarray(values), (keys // count).astype("int32")),
        *((keys % count).astype("int32"), target, count, width),
        number=values.dtype,
    )
    return None
