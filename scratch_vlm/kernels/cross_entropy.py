"""Launch the kernel of `cross_entropy.cu`."""

from scratch_vlm.backend import namespace
from scratch_vlm.backend.fused import Saved
from scratch_vlm.backend.launch import can_launch, launch

THREADS = 256


def cross_entropy_forward(logits, labels, *, smoothing=0.0, ignore=-100, overwrite=False):
    """Do the work of `ops.losses.cross_entropy_forward`, and that of its backward.

    Parameters
    ----------
    logits : array of shape (..., V)
        Scores of V classes.
    labels : integer array of shape (...)
        The right class, 0 to V - 1, or `ignore`.
    smoothing : float, default 0.0
        Share of the target spread evenly over all classes.
    ignore : int, default -100
        Rows with this label do not count.
    overwrite : bool, default False
        Write the gradient where the logits were; otherwise they are copied first.

    Returns
    -------
    loss : array of shape ()
        In nats.
    saved : Saved
        For `ops.losses.cross_entropy_backward`.
    """
    fits = can_launch(logits) and logits.size and logits.flags.c_contiguous
    if not fits or labels.dtype.kind not in "iu" or labels.shape != logits.shape[:-1]:
        return NotImplemented
    xp, classes = namespace(logits), logits.shape[-1]
    dz = logits if overwrite else logits.copy()
    labels = xp.asarray(labels).reshape(-1)
    counted = labels != ignore
    weights = (counted / xp.maximum(counted.sum(), 1)).astype("float32")
    labels = xp.where(counted, labels, 0).astype("int32")
    losses = xp.empty(labels.size, "float32")
    launch(
        "cross_entropy.cu",
        "cross_entropy",
        labels.size,
        THREADS,
        *(dz, labels, weights, losses, classes, float(smoothing)),
        number=logits.dtype,
    )
    return xp.asarray(losses.sum()), Saved(_backward, dlogits=dz)


def _backward(dloss, saved):
    dz = saved["dlogits"]
    if isinstance(dloss, int | float):
        return dz if dloss == 1 else dz * dloss  # a Python number keeps the dtype
    return dz * dloss.astype(dz.dtype)
