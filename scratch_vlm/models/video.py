"""From frames to tokens: every frame through an image encoder, or boxes of several frames."""

import math
from itertools import islice

import numpy as np

from scratch_vlm.backend import namespace, to_device
from scratch_vlm.layers.counts import check_counts
from scratch_vlm.layers.linear import linear_backward, linear_forward, linear_init
from scratch_vlm.models.vit import (
    vit_backward,
    vit_features_backward,
    vit_features_forward,
    vit_forward,
)
from scratch_vlm.ops.frames import (
    check_tubelet,
    fold_frames_backward,
    fold_frames_forward,
    tubelets_backward,
    tubelets_forward,
    unfold_frames_backward,
    unfold_frames_forward,
)
from scratch_vlm.recompute import plain
from scratch_vlm.tree import leaves


def patch_features_forward(images, p, *, config, rng=None):
    """Turn images into the tokens of their patches, without a CLS token.

    Parameters
    ----------
    images : array of shape (B, H, W, C)
        Normalised images.
    p : dict
        As `models.vit.vit_init` makes it.
    config : ViTConfig
        The encoder.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.

    Returns
    -------
    x : array of shape (B, N, D)
        Patches in reading order, before the final norm.
    saved : tuple
        For `patch_features_backward`.

    Raises
    ------
    ValueError
        If the images do not fit the config.

    See Also
    --------
    patch_features_backward : The gradient of this function.
    """
    x, saved = vit_features_forward(images, p, config=config, rng=rng)  # (B, T, D)
    return x[:, config.extra :], (x.shape, config.extra, saved)


def patch_features_backward(dx, saved, g):
    """Gradient of `patch_features_forward`; the CLS token, left out, has none.

    Parameters
    ----------
    dx : array of shape (B, N, D)
        dL/dx.
    saved : tuple
        As `patch_features_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dimages : array of shape (B, H, W, C)
    """
    shape, extra, saved = saved
    dtokens = namespace(dx).zeros(shape, dx.dtype)
    dtokens[:, extra:] = dx
    return vit_features_backward(dtokens, saved, g)


PATCHES = (patch_features_forward, patch_features_backward)
EMBEDDING = (vit_forward, vit_backward)


def encode_frames_forward(frames, p, *, config, encoder=PATCHES, mask=None, wrap=plain, rng=None):
    """Encode every frame of every video as an image.

    Parameters
    ----------
    frames : array of shape (B, F, H, W, C)
        Normalised videos.
    p : dict
        Parameters of the encoder.
    config : ViTConfig
        The encoder.
    encoder : tuple of callable, default PATCHES
        A pair that encodes a batch of images: ``PATCHES`` keeps the tokens of all patches,
        ``EMBEDDING`` one vector for each frame, and CLIP's ``(encode_images_forward,
        encode_images_backward)`` one of length 1.
    mask : boolean array of shape (B, F), optional
        True for real frames; on the host. The others are not looked at: they cost nothing, their
        tokens are zero and so is their gradient.
    wrap : callable, default recompute.plain
        Turns the encoder's pair into another, for example ``functools.partial(chunked, size=32,
        recompute=True)``: memory then holds the activations of 32 frames, whatever the length
        and number of the videos.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.

    Returns
    -------
    y : array of shape (..., D)
        (B, F, N, D) for patches, (B, F, E) for embeddings.
    saved : dict
        For `encode_frames_backward`.

    Raises
    ------
    TypeError
        If the mask is not a boolean array of NumPy.
    ValueError
        If the frames do not fit the config, or the mask does not fit the frames.

    See Also
    --------
    encode_frames_backward : The gradient of this function.
    encode_stream : The same for one long video, of which only a few frames are held.
    """
    _check_batch(frames, mask)
    xp, s = namespace(frames), {"encoder": encoder, "wrap": wrap}
    x, s["fold"] = fold_frames_forward(frames)  # (N, H, W, C)
    if mask is not None:
        s["real"] = to_device(np.flatnonzero(mask), xp)
        x = x[s["real"]]
    y, s["frames"] = wrap(*encoder)[0](x, p, config=config, rng=rng)
    if mask is not None:
        y = _spread(y, s["real"], mask.size)
    y, s["unfold"] = unfold_frames_forward(y, frames=frames.shape[1])
    return y, s


def encode_frames_backward(dy, s, g):
    """Gradient of `encode_frames_forward`, which it reads from the bottom up.

    Parameters
    ----------
    dy : array of shape (..., D)
        dL/dy.
    s : dict
        As `encode_frames_forward` saved it.
    g : dict
        Gains the gradients of the parameters, summed over all frames; empty if they are frozen.

    Returns
    -------
    dframes : array of shape (B, F, H, W, C)
    """
    dx = unfold_frames_backward(dy, s["unfold"])
    count = len(dx)
    if "real" in s:
        dx = dx[s["real"]]
    dx = s["wrap"](*s["encoder"])[1](dx, s["frames"], g)
    if "real" in s:
        dx = _spread(dx, s["real"], count)
    return fold_frames_backward(dx, s["fold"])


def encode_stream(stream, p, *, config, encoder=PATCHES, size=32):
    """Encode the frames of a video as they come, without gradients.

    Parameters
    ----------
    stream : iterable of (frame, time)
        Normalised frames (H, W, C) on the host, as `data.files.stream_video` reads them.
    p : dict
        Parameters of the encoder; it runs where they are.
    config : ViTConfig
        The encoder.
    encoder : tuple of callable, default PATCHES
        As in `encode_frames_forward`.
    size : int, default 32
        Frames to encode, and to hold, at once.

    Yields
    ------
    y : array
        (N, D) or (E,): what `encode_frames_forward` makes of a frame.
    time : Fraction
        When the frame appears.

    Raises
    ------
    ValueError
        If `size` is not positive, or the frames do not fit the config.
    """
    check_counts(size=size)
    xp, stream = namespace(next(leaves(p))[1]), iter(stream)
    while piece := list(islice(stream, size)):
        frames, times = zip(*piece, strict=True)
        y, _ = encoder[0](to_device(np.stack(frames), xp), p, config=config)
        yield from zip(y, times, strict=True)


def tubelet_embedding_init(rng, tubelet, channels, width, *, bias=True):
    """Draw the parameters of a tubelet embedding.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    tubelet : tuple of int
        Frames, height and width of a box.
    channels : int
        C, channels of a frame.
    width : int
        D, width of a token.
    bias : bool, default True
        Whether to add a bias, which starts at zero.

    Returns
    -------
    p : dict
        ``w`` of shape (P, D) and perhaps ``b``, where P = frames x height x width x C.

    Raises
    ------
    ValueError
        If the tubelet is not three positive numbers, or another number is not positive.
    """
    check_tubelet(tubelet)
    check_counts(channels=channels)
    return linear_init(rng, math.prod(tubelet) * channels, width, bias=bias)


def tubelet_embedding_forward(frames, p, *, tubelet):
    """Turn boxes of several frames into tokens, which see motion from the first layer on.

    Parameters
    ----------
    frames : array of shape (B, F, H, W, C)
        Normalised videos.
    p : dict
        As `tubelet_embedding_init` or `inflate_patch_embedding` makes it.
    tubelet : tuple of int
        Frames, height and width of a box; they must divide F, H and W.

    Returns
    -------
    y : array of shape (B, G, N, D)
        G groups of frames, N tokens in each: a place where F frames of N patches could stand.
    saved : dict
        For `tubelet_embedding_backward`.

    Raises
    ------
    ValueError
        If the videos do not divide into boxes.

    See Also
    --------
    tubelet_embedding_backward : The gradient of this function.

    Notes
    -----
    A convolution over time, height and width whose stride is its kernel size [1]_.

    References
    ----------
    .. [1] A. Arnab et al., "ViViT: A Video Vision Transformer", 2021, arXiv:2103.15691,
       section 3.2.
    """
    s = {}
    x, s["cut"] = tubelets_forward(frames, tubelet=tubelet)  # (B, G, N, P)
    x, s["linear"] = linear_forward(x, p)  # (B, G, N, D)
    return x, s


def tubelet_embedding_backward(dy, s, g):
    """Gradient of `tubelet_embedding_forward`.

    Parameters
    ----------
    dy : array of shape (B, G, N, D)
        dL/dy.
    s : dict
        As `tubelet_embedding_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dframes : array of shape (B, F, H, W, C)
    """
    return tubelets_backward(linear_backward(dy, s["linear"], g), s["cut"])


def inflate_patch_embedding(p, frames, *, how="central"):
    """Make a tubelet embedding of the patch embedding of a trained image model.

    Parameters
    ----------
    p : dict
        ``w`` of shape (P, D) and perhaps ``b``: ``p["patch"]`` of a ViT.
    frames : int
        Frames of a box.
    how : {"central", "average"}
        Look at the middle frame only to begin with, or at the mean of all.

    Returns
    -------
    p : dict
        ``w`` of shape (frames x P, D), and ``b`` as it was.

    Raises
    ------
    ValueError
        If `frames` is not positive or `how` is unknown.

    References
    ----------
    .. [1] A. Arnab et al., "ViViT: A Video Vision Transformer", 2021, arXiv:2103.15691,
       equations 8 and 9.
    """
    check_counts(frames=frames)
    if how not in ("central", "average"):
        raise ValueError(f"how must be 'central' or 'average', got {how!r}")
    xp, w = namespace(p["w"]), p["w"]
    if how == "average":
        inflated = xp.concatenate([w / frames] * frames)
    else:
        inflated = xp.zeros((frames, *w.shape), w.dtype)
        inflated[frames // 2] = w
        inflated = inflated.reshape(-1, w.shape[1])
    return {name: inflated if name == "w" else x.copy() for name, x in p.items()}


def _spread(x, rows, count):
    """Put rows where they belong among zeros."""
    y = namespace(x).zeros((count, *x.shape[1:]), x.dtype)
    y[rows] = x
    return y


def _check_batch(frames, mask):
    if frames.ndim != 5:
        raise ValueError(
            f"videos must be (B, F, H, W, C), got {frames.shape}"
            + ("; add the batch axis with frames[None]" if frames.ndim == 4 else "")
            + ("; this looks like an image" if frames.ndim == 3 else "")
        )
    if not frames.shape[1]:
        raise ValueError(f"videos without frames: shape {frames.shape}")
    if mask is None:
        return
    if not isinstance(mask, np.ndarray) or mask.dtype != bool:
        kind = getattr(mask, "dtype", type(mask).__name__)
        raise TypeError(
            f"mask must be a boolean array of NumPy, True for real frames; got {kind} "
            f"({type(mask).__module__})"
        )
    if mask.shape != frames.shape[:2]:
        raise ValueError(f"mask {mask.shape} does not fit frames of {frames.shape[:2]}, (B, F)")
