"""Launch the kernels of `cross_entropy.cu`."""

from scratch_vlm.backend import namespace
from scratch_vlm.backend.dispatch import Saved
from scratch_vlm.backend.launch import can_launch, launch, one_number

THREADS = 256


def cross_entropy_forward(logits, labels, *, smoothing=0.0, ignore=-100, overwrite=False):
    """Do the work of `ops.losses.cross_entropy_forward`.

    Parameters
    ----------
    logits : array of shape (..., V)
        Scores of V classes.
    labels : integer array of shape (...)
        The right class, 0 to V - 1, or `ignore`. Another number makes the loss NaN.
    smoothing : float, default 0.0
        Share of the target spread evenly over all classes.
    ignore : int, default -100
        Rows with this label do not count.
    overwrite : bool, default False
        Let the backward, which can then be called only once, write the gradient where the logits
        were; otherwise they are copied first.

    Returns
    -------
    loss : array of shape ()
        In nats.
    saved : Saved
        For `ops.losses.cross_entropy_backward`.
    """
    fits = (
        can_launch(logits)
        and logits.size
        and logits.flags.c_contiguous
        and labels.dtype.kind in "iu"
        and labels.shape == logits.shape[:-1]
        and 0 <= smoothing < 1
    )
    if not fits:
        return NotImplemented
    xp, classes = namespace(logits), logits.shape[-1]
    z = logits if overwrite else logits.copy()
    labels = labels.reshape(-1)
    counted = labels != ignore
    weights = (counted / xp.maximum(counted.sum(), 1)).astype("float32")
    labels = xp.where(counted, labels, 0).astype("int32")
    tops, sums, losses = (xp.empty(labels.size, "float32") for _ in range(3))
    launch(
        "cross_entropy.cu",
        "cross_entropy_rows",
        labels.size,
        THREADS,
        *(z, labels, weights, tops, sums, losses, classes, float(smoothing)),
        number=z.dtype,
    )
    rows = (labels, weights, tops, sums)
    saved = Saved(_backward, logits=z, rows=rows, smoothing=float(smoothing), overwrite=overwrite)
    return xp.asarray(losses.sum()), saved


def _backward(dloss, saved):
    z = saved["logits"]
    if z is None:
        raise ValueError(
            "the logits were overwritten by their gradient; for a second backward call the "
            "forward again, or call it with overwrite=False"
        )
    xp = namespace(z)
    dz = z if saved["overwrite"] else xp.empty_like(z)
    launch(
        "cross_entropy.cu",
        "cross_entropy_gradient",
        saved["rows"][0].size,
        THREADS,
        *(z, dz, *saved["rows"], one_number(dloss, xp), z.shape[-1], saved["smoothing"]),
        number=z.dtype,
    )
    if saved["overwrite"]:
        saved["logits"] = None
    return dz
