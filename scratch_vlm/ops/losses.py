"""Losses: one number to make small, and its gradient."""

import math
from functools import partial

import numpy as np

from scratch_vlm.backend import floating, fused, namespace, product, to_device

IGNORE = -100  # a label that stands for "no label here", as in PyTorch and LLaVA
_exact = partial(product, precision="float32")  # a loss has all its bits in every precision


@fused
def cross_entropy_forward(logits, labels, *, smoothing=0.0, ignore=IGNORE, overwrite=False):
    r"""Mean negative log-probability of the right class.

    Parameters
    ----------
    logits : array of shape (..., V)
        Scores of V classes.
    labels : integer array of shape (...)
        The right class, 0 to V - 1, or `ignore`. Checked where they are on the host.
    smoothing : float, default 0.0
        Share of the target spread evenly over all classes, from 0 to below 1.
    ignore : int, default -100
        Rows with this label count neither in the loss nor in the mean.
    overwrite : bool, default False
        Whether the memory of the logits may be used for what is saved: nobody reads them again.

    Returns
    -------
    loss : array of shape ()
        In nats. Zero when every label is `ignore`.
    saved : tuple
        For `cross_entropy_backward`.

    Raises
    ------
    TypeError
        If the labels are not integers or the logits not floating point.
    ValueError
        If shapes do not fit or a label is not a class.

    See Also
    --------
    cross_entropy_backward : The gradient of this function.

    Notes
    -----
    With smoothing :math:`\epsilon` [1]_ the target is
    :math:`t_i = (1 - \epsilon) [i = c] + \epsilon / V` and
    :math:`L = \frac 1 n \sum_{rows} (\log \sum_j e^{z_j} - \sum_i t_i z_i)`. Guessing gives ln V.

    References
    ----------
    .. [1] C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2015,
       arXiv:1512.00567, section 7.

    Examples
    --------
    >>> loss, _ = cross_entropy_forward(np.zeros((2, 4)), np.array([0, 3]))
    >>> bool(np.isclose(loss, np.log(4)))
    True
    """
    xp, classes = floating(logits, "logits"), logits.shape[-1]
    namespace(labels)  # refuses a list
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be at least 0 and below 1, got {smoothing}")
    if labels.shape != logits.shape[:-1]:
        raise ValueError(f"labels {labels.shape} must have the shape {logits.shape[:-1]}")
    _check_classes(labels, classes, ignore)
    z = logits.reshape(-1, classes)
    labels = to_device(labels, xp).reshape(-1)
    counted = labels != ignore
    target = xp.where(counted, labels, 0)
    # No synchronisation: the number of counted rows stays an array.
    weight = counted / xp.maximum(counted.sum(), 1)  # (n,)
    weight = weight.astype(logits.real.dtype)
    z = xp.subtract(z, z.real.max(-1, keepdims=True), out=z if overwrite else None)
    right = z[xp.arange(len(z)), target]  # (n,)
    mean = z.mean(-1) if smoothing else 0
    exps = xp.exp(z, out=z)
    total = exps.sum(-1)  # (n,)
    row_loss = xp.log(total) - (1 - smoothing) * right - smoothing * mean
    loss = (xp.where(counted, row_loss, 0) * weight).sum()  # what is ignored may be infinite
    exps /= total[:, None]
    return xp.asarray(loss), (exps, target, weight, smoothing, logits.shape)


@fused
def cross_entropy_backward(dloss, saved):
    r"""Gradient of `cross_entropy_forward`.

    Parameters
    ----------
    dloss : float or array of shape ()
        dL/dloss, usually 1.
    saved : tuple
        As `cross_entropy_forward` saved it.

    Returns
    -------
    dlogits : array of shape (..., V)

    Notes
    -----
    In the forward each row was :math:`\log \sum_j e^{z_j} - \sum_i t_i z_i`, whose gradient is
    :math:`\mathrm{softmax}(z) - t`: what the model said minus what it should have said.
    """
    probs, target, weight, smoothing, shape = saved
    xp = namespace(probs)
    dz = probs - smoothing / shape[-1]
    dz[xp.arange(len(dz)), target] -= 1 - smoothing
    dz *= (dloss * weight)[:, None]
    return dz.reshape(shape)


def _check_classes(labels, classes, ignore):
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, got dtype {labels.dtype}")
    if namespace(labels) is not np:
        return  # looking at them would wait for the device; they were checked on the host
    wrong = (labels != ignore) & ((labels < 0) | (labels >= classes))
    if wrong.any():
        raise ValueError(
            f"label {labels[wrong].flat[0]} is not one of the {classes} classes "
            f"0 to {classes - 1}, nor {ignore} for none"
        )


@fused
def contrastive_forward(images, texts, log_scale):
    r"""CLIP's loss: each image must find its text among all texts, and each text its image.

    Parameters
    ----------
    images : array of shape (B, E)
        Image embeddings of length one; row i belongs to row i of `texts`.
    texts : array of shape (B, E)
        Text embeddings of length one.
    log_scale : array of shape ()
        Logarithm of the scale of the scores (the inverse temperature).

    Returns
    -------
    loss : array of shape ()
        In nats. About ln B for embeddings that say nothing; 0 for a batch of one.
    saved : tuple
        For `contrastive_backward`.

    Raises
    ------
    TypeError
        If the embeddings are not arrays of floating point numbers.
    ValueError
        If the two sets differ in shape, are empty, or the scale or bias is not one number.

    See Also
    --------
    contrastive_backward : The gradient of this function.
    sigmoid_contrastive_forward : The loss of SigLIP, which judges each pair by itself.

    Notes
    -----
    With :math:`z = e^s I T^\top`, the loss is the mean of the cross-entropy of the rows of z and
    that of its columns, the right answers on the diagonal [1]_.

    References
    ----------
    .. [1] A. Radford et al., "Learning Transferable Visual Models From Natural Language
       Supervision", 2021, arXiv:2103.00020, figure 3.
    """
    _check_paired(images, texts, log_scale)
    xp = namespace(images)
    scale = xp.exp(log_scale)
    z = scale * _exact(images, texts.T)  # (B, B)
    labels = xp.arange(len(z))
    by_image, s_image = cross_entropy_forward(z, labels)
    by_text, s_text = cross_entropy_forward(z.T, labels)
    return xp.asarray((by_image + by_text) / 2), (images, texts, scale, z, s_image, s_text)


@fused
def contrastive_backward(dloss, saved):
    r"""Gradient of `contrastive_forward`.

    Parameters
    ----------
    dloss : float or array of shape ()
        dL/dloss, usually 1.
    saved : tuple
        As `contrastive_forward` saved it.

    Returns
    -------
    dimages : array of shape (B, E)
    dtexts : array of shape (B, E)
    dlog_scale : array of shape ()

    Notes
    -----
    In the forward this was :math:`z = e^s I T^\top` and the mean of two cross-entropies, each of
    gradient softmax minus target over B, so
    :math:`dz = (P_{rows} + P_{columns} - 2 \cdot 1) / (2 B)` with the identity matrix 1, and
    :math:`dI = e^s dz\, T`, :math:`dT = e^s dz^\top I`, :math:`ds = \sum dz \circ z`.
    """
    images, texts, scale, z, s_image, s_text = saved
    dz = cross_entropy_backward(dloss / 2, s_image)
    dz += cross_entropy_backward(dloss / 2, s_text).T
    dlog_scale = namespace(z).asarray((dz * z).sum())
    dz *= scale
    return _exact(dz, texts), _exact(dz.T, images), dlog_scale


def sigmoid_contrastive_forward(images, texts, log_scale, bias):
    r"""SigLIP's loss: is this image described by this text, asked of every pair by itself.

    Parameters
    ----------
    images : array of shape (B, E)
        Image embeddings of length one; row i belongs to row i of `texts`.
    texts : array of shape (B, E)
        Text embeddings of length one.
    log_scale : array of shape ()
        Logarithm of the scale of the scores; SigLIP starts at ln 10.
    bias : array of shape ()
        Added to every score; SigLIP starts at -10, because most pairs do not match.

    Returns
    -------
    loss : array of shape ()
        In nats, summed over texts and averaged over images.
    saved : tuple
        For `sigmoid_contrastive_backward`.

    Raises
    ------
    TypeError
        If the embeddings are not arrays of floating point numbers.
    ValueError
        If the two sets differ in shape, are empty, or the scale or bias is not one number.

    See Also
    --------
    sigmoid_contrastive_backward : The gradient of this function.

    Notes
    -----
    :math:`L = \frac 1 B \sum_{ij} \ln(1 + e^{-y_{ij} z_{ij}})` with :math:`z = e^s I T^\top + b`
    and :math:`y_{ij}` = 1 on the diagonal, -1 elsewhere [1]_. No softmax couples the pairs.

    References
    ----------
    .. [1] X. Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023,
       arXiv:2303.15343, algorithm 1.
    """
    _check_paired(images, texts, log_scale, bias)
    xp, n = namespace(images), len(images)
    scale = xp.exp(log_scale)
    cosine = _exact(images, texts.T)
    z = scale * cosine + bias
    i = xp.arange(n)
    z[i, i] *= -1  # now the loss of each pair is softplus(z)
    # softplus, from whichever side does not overflow
    small = xp.exp(xp.where(z.real > 0, -z, z))
    loss = (xp.log1p(small) + xp.where(z.real > 0, z, 0)).sum() / n
    wrong = xp.where(z.real > 0, 1, small) / (1 + small)  # sigmoid(z), the slope of softplus
    return xp.asarray(loss), (images, texts, scale, cosine, wrong)


def sigmoid_contrastive_backward(dloss, saved):
    r"""Gradient of `sigmoid_contrastive_forward`.

    Parameters
    ----------
    dloss : float or array of shape ()
        dL/dloss, usually 1.
    saved : tuple
        As `sigmoid_contrastive_forward` saved it.

    Returns
    -------
    dimages : array of shape (B, E)
    dtexts : array of shape (B, E)
    dlog_scale : array of shape ()
    dbias : array of shape ()

    Notes
    -----
    In the forward this was :math:`L = \frac 1 B \sum \ln(1 + e^{-y z})`, so
    :math:`dz = -y\, \sigma(-y z) / B`, and z was :math:`e^s \cos + b`.
    """
    images, texts, scale, cosine, wrong = saved
    xp, n = namespace(cosine), len(cosine)
    dz = wrong * (dloss / n)
    i = xp.arange(n)
    dz[i, i] *= -1
    dbias = xp.asarray(dz.sum())
    dz *= scale
    dlog_scale = xp.asarray((dz * cosine).sum())
    return _exact(dz, texts), _exact(dz.T, images), dlog_scale, dbias


def _check_paired(images, texts, *scalars):
    floating(images, "images")
    floating(texts, "texts")
    if images.ndim != 2 or images.shape != texts.shape:
        raise ValueError(
            f"images and texts must both be (B, E), row i beside row i; "
            f"got {images.shape} and {texts.shape}"
        )
    if not len(images):
        raise ValueError("a contrastive loss needs at least one pair, got an empty batch")
    for scalar in scalars:
        if np.ndim(scalar):
            shape = np.shape(scalar)
            raise ValueError(f"scale and bias must be single numbers, got shape {shape}")


def chance_loss(candidates):
    """Loss of a guess among equally likely candidates.

    Parameters
    ----------
    candidates : int
        How many there are.

    Returns
    -------
    float
        ln of their number, in nats.

    Raises
    ------
    ValueError
        If there is none.
    """
    if candidates < 1:
        raise ValueError(f"a guess needs at least one candidate, got {candidates}")
    return math.log(candidates)
