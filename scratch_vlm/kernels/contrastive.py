"""Launch the kernels of `contrastive.cu`."""

from scratch_vlm.backend import namespace
from scratch_vlm.backend.dispatch import Saved
from scratch_vlm.backend.launch import can_launch, launch, one_number

ROWS, THREADS = 16, 256
LARGEST = 1024  # channels of an embedding
MATRIX_FITS = 8192  # pairs; up to here the B x B matrix takes 0.3 GB, and is faster to keep


def contrastive_forward(images, texts, log_scale, *, matrix_fits=MATRIX_FITS):
    """Do the work of `ops.losses.contrastive_forward` without its B x B matrix.

    Parameters
    ----------
    images, texts : array of shape (B, E)
        Embeddings of length one; E at most 1024.
    log_scale : array of shape ()
        Logarithm of the scale of the scores; float32.
    matrix_fits : int, default 8192
        Up to how many pairs the lines with the matrix are left to do it.

    Returns
    -------
    loss : array of shape ()
        In nats.
    saved : Saved
        For `ops.losses.contrastive_backward`.
    """
    fits = (
        can_launch(images)
        and images.ndim == 2
        and images.shape == texts.shape
        and images.dtype == texts.dtype
        and len(images) > matrix_fits
        and images.shape[1] <= LARGEST
        and getattr(log_scale, "dtype", None) == "float32"
        and log_scale.ndim == 0
    )
    if not fits:
        return NotImplemented
    xp, count = namespace(images), len(images)
    images, texts = xp.ascontiguousarray(images), xp.ascontiguousarray(texts)
    image_logs, text_logs, rights = (xp.empty(count, "float32") for _ in range(3))
    _launch("contrastive_rows", images, texts, log_scale, image_logs, rights)
    _launch("contrastive_rows", texts, images, log_scale, text_logs, rights)  # the same diagonal
    loss = ((image_logs + text_logs) / 2 - rights).sum() / count
    return xp.asarray(loss), Saved(
        _backward, images=images, texts=texts, log_scale=log_scale, logs=(image_logs, text_logs)
    )


def _backward(dloss, saved):
    images, texts, log_scale = saved["images"], saved["texts"], saved["log_scale"]
    xp, (image_logs, text_logs) = namespace(images), saved["logs"]
    dloss = one_number(dloss, xp)
    dimages, dtexts = xp.empty_like(images), xp.empty_like(texts)
    with_z, again = (xp.empty(len(images), "float32") for _ in range(2))
    name = "contrastive_gradient"
    _launch(name, images, texts, log_scale, dloss, image_logs, text_logs, dimages, with_z)
    _launch(name, texts, images, log_scale, dloss, text_logs, image_logs, dtexts, again)
    return dimages, dtexts, xp.asarray(with_z.sum())


def _launch(kernel, a, b, *arguments):
    launch(
        "contrastive.cu",
        kernel,
        -(-len(a) // ROWS),
        THREADS,
        *(a, b, *arguments, *a.shape),
        number=a.dtype,
        SLICES=-(-a.shape[1] // THREADS),
    )
