"""Launch the kernel of `adamw.cu`."""

from scratch_vlm.backend import namespace
from scratch_vlm.backend.launch import can_launch, launch

THREADS = 256
BLOCKS = 1056  # eight for each multiprocessor of an H100 or H200


def adamw_update(vectors, now, *, betas, eps, chunks, coupled=False):
    """Do the work of `training.optimizer.adamw_update`.

    Parameters
    ----------
    vectors : tuple of array
        ``p, g, m, v`` of shape (rows, ALIGN), ``factor`` and ``decay`` of shape (rows, 1).
    now : tuple of float, or array of shape (4,)
        Rate, rate over 1 - beta1^t, 1 over the root of 1 - beta2^t, and what to multiply the
        gradient with. An array is read when the kernel runs, so that a captured graph can be
        replayed with other numbers in it.
    betas : (float, float)
        How much of the two running means a step keeps.
    eps : float
        Added to the root of the second moment.
    chunks : list of tuple
        Not needed here.
    coupled : bool, default False
        Whether the decay is added to the gradient; left to the lines of the op.

    Returns
    -------
    None
    """
    p, *_ = vectors
    if coupled or not can_launch(p) or p.dtype != "float32":
        return NotImplemented
    if isinstance(now, tuple):
        now = namespace(p).asarray(now, "float32")
    beta1, beta2 = betas
    launch(
        "adamw.cu",
        "adamw",
        min(-(-p.size // THREADS), BLOCKS),
        THREADS,
        *(*vectors, now, beta1, 1 - beta1, beta2, 1 - beta2, eps, p.size, p.shape[1]),
        number=p.dtype,
    )
    return None
