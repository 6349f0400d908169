"""The Perceiver Resampler: any number of frames in, the same few visual tokens out."""

from dataclasses import dataclass

import numpy as np

from scratch_vlm.backend import floating, namespace, product, to_device, to_host
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.layers.counts import check_counts
from scratch_vlm.layers.norm import NORMS
from scratch_vlm.layers.perceiver import (
    check_cross_block,
    cross_block_backward,
    cross_block_forward,
    cross_block_init,
)
from scratch_vlm.ops.masks import padding_mask
from scratch_vlm.ops.resize import resize_matrix

STRETCHES = ("longer", "always", "never")


@dataclass(frozen=True)
class ResamplerConfig:
    """A Perceiver Resampler.

    Attributes
    ----------
    block : BlockConfig
        The kind of block; its width D is that of the features, too.
    latents : int
        R, visual tokens that come out.
    depth : int
        L, blocks; each has weights of its own.
    frames : int
        Time embeddings to learn, one for each frame of the clips it is trained on; 0 for none,
        as for single images.
    stretch : {"longer", "always", "never"}
        Clips of another length take linearly interpolated time embeddings: longer ones only,
        while shorter ones take the first; longer and shorter ones alike; or none, and longer
        ones are refused.
    head_width : int or None
        K, channels of a head; None for D over the heads.
    qk_norm : {"rms", "layer"} or None
        How the queries and keys of each head are normalised, as in some of Idefics.
    latent_std, time_std : float
        Standard deviations that the latents and the time embeddings start with.

    Notes
    -----
    Flamingo's is ``ResamplerConfig(BlockConfig(1536, 16, 6144, mlp="squared_relu", bias=False))``
    [1]_, but for what the paper leaves open: norms on inputs and on latents, one at the end and
    a start of deviation 1 are those of its open reimplementations, which take GELU.

    References
    ----------
    .. [1] J.-B. Alayrac et al., "Flamingo: a Visual Language Model for Few-Shot Learning", 2022,
       arXiv:2204.14198, appendix A.1.1 and table 4.
    """

    block: BlockConfig
    latents: int = 64
    depth: int = 6
    frames: int = 8
    stretch: str = "longer"
    head_width: int | None = None
    qk_norm: str | None = None
    latent_std: float = 1.0
    time_std: float = 1.0

    def __post_init__(self):
        check_counts(latents=self.latents, depth=self.depth)
        if self.frames:  # 0 is for none
            check_counts(frames=self.frames)
        if self.head_width is not None:
            check_counts(head_width=self.head_width)
        if self.qk_norm is not None and self.qk_norm not in NORMS:
            raise ValueError(f"qk_norm must be one of {', '.join(NORMS)}, got {self.qk_norm!r}")
        _check_stretch(self.stretch)
        check_cross_block(self.block)


def resampler_init(rng, config):
    """Draw the parameters of a Resampler.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    config : ResamplerConfig
        Its configuration.

    Returns
    -------
    p : dict
        ``latents`` of shape (R, D), perhaps ``time``, ``blocks`` under their numbers, and ``ln``.
    """
    width = config.block.width
    latents = config.latent_std * rng.standard_normal((config.latents, width))
    p = {"latents": latents.astype("float32")}
    if config.frames:
        p["time"] = time_embedding_init(rng, config.frames, width, std=config.time_std)
    p["blocks"] = {
        str(i): cross_block_init(
            rng,
            config.block,
            width,
            head_width=config.head_width,
            qk_norm=config.qk_norm,
            depth=config.depth,
        )
        for i in range(config.depth)
    }
    p["ln"] = NORMS[config.block.norm][0](width)
    return p


def resampler_forward(features, p, *, config, lengths=None, rng=None):
    """Turn the features of any number of frames into R tokens.

    Parameters
    ----------
    features : array of shape (B, F, N, D)
        N tokens of each of F frames; an image is a clip of one frame.
    p : dict
        As `resampler_init` makes it.
    config : ResamplerConfig
        Its configuration.
    lengths : integer array of shape (B,), optional
        Real frames of each clip, from 0 to F, on the host; what stands behind them is not looked
        at, but must be finite. Default F for all. A clip without any gives what the latents make
        of each other.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.

    Returns
    -------
    y : array of shape (B, R, D)
    saved : dict
        For `resampler_backward`; ``attention_weights(saved["blocks"]["0"]["attn"]["attend"])``
        shows what each token read: F N features, frame by frame, then the R latents.

    Raises
    ------
    TypeError
        If the features are not floating point numbers, or the lengths no integers.
    ValueError
        If there are no frames or no tokens in them, or more frames than may be, or shapes or
        parameters do not fit the config.

    See Also
    --------
    resampler_backward : The gradient of this function.
    time_embedding_forward : How frames are told apart.

    Notes
    -----
    ``x = latents``, then L times ``x = x + attn(x, concat([features + time, x]));
    x = x + mlp(x)`` [1]_: tokens cost as much to a language model after them for a long video as
    for an image. Positions inside a frame are for the vision tower to tell; the Resampler reads
    each frame as a set.

    References
    ----------
    .. [1] J.-B. Alayrac et al., "Flamingo: a Visual Language Model for Few-Shot Learning", 2022,
       arXiv:2204.14198, figure 5.
    """
    xp = floating(features, "features")
    _check_features(features, p, config)
    b, frames, tokens, width = features.shape
    s = {"config": config, "shape": features.shape, "blocks": {}}
    z, mask = features, None
    if config.frames:
        z, s["time"] = time_embedding_forward(z, p["time"], lengths=lengths, stretch=config.stretch)
    if lengths is not None:
        real = to_device(_frame_mask(lengths, b, frames), xp).repeat(tokens, axis=3)
        latents = xp.ones((b, 1, 1, config.latents), bool)
        mask = xp.concatenate([real, latents], axis=3)  # (B, 1, 1, F N + R)
    z = z.reshape(b, frames * tokens, width)
    x = xp.ascontiguousarray(xp.broadcast_to(p["latents"], (b, config.latents, width)))
    for name in map(str, range(config.depth)):
        x, s["blocks"][name] = cross_block_forward(
            x, z, p["blocks"][name], config=config.block, mask=mask, with_latents=True, rng=rng
        )
    x, s["ln"] = NORMS[config.block.norm][1](x, p["ln"], eps=config.block.eps)
    return x, s


def resampler_backward(dy, s, g):
    """Gradient of `resampler_forward`, which it reads from the bottom up.

    Parameters
    ----------
    dy : array of shape (B, R, D)
        dL/dy.
    s : dict
        As `resampler_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dfeatures : array of shape (B, F, N, D)

    Notes
    -----
    The features were read by every block and gain from each; the latents were handed on from
    block to block, and are the same for all samples.
    """
    config, dz = s["config"], 0
    dx = NORMS[config.block.norm][2](dy, s["ln"], g["ln"])
    for name in reversed(s["blocks"]):
        dx, dz_here = cross_block_backward(dx, s["blocks"][name], g["blocks"][name])
        dz += dz_here  # (B, F N, D)
    if g:
        g["latents"] += dx.sum(0)
    dz = dz.reshape(s["shape"])
    return time_embedding_backward(dz, s["time"], g["time"]) if config.frames else dz


def time_embedding_init(rng, frames, width, *, std=1.0):
    """Draw the parameters of `time_embedding_forward`.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the vectors come from.
    frames, width : int
        M, frames of the clips to train on, and D.
    std : float, default 1
        Standard deviation of each number.

    Returns
    -------
    p : dict
        ``w`` of shape (M, D), in float32.
    """
    return {"w": (std * rng.standard_normal((frames, width))).astype("float32")}


def time_embedding_forward(x, p, *, lengths=None, stretch="longer"):
    r"""Add to all tokens of a frame a learned vector for its place in time.

    Parameters
    ----------
    x : array of shape (B, F, N, D)
        N tokens of each of F frames.
    p : dict
        ``w`` of shape (M, D), for clips of M frames.
    lengths : integer array of shape (B,), optional
        Real frames of each clip; to the others nothing is added. Default F for all.
    stretch : {"longer", "always", "never"}
        Which clips of other than M frames take interpolated vectors, see `ResamplerConfig`.

    Returns
    -------
    y : array of shape (B, F, N, D)
    saved : array
        For `time_embedding_backward`.

    Raises
    ------
    ValueError
        If shapes do not fit, or clips are longer than M and may not stretch.

    See Also
    --------
    time_embedding_backward : The gradient of this function.

    Notes
    -----
    :math:`y_f = x_f + (R w)_f`, with a matrix R for each length: rows of the identity for the
    first frames, or linear interpolation [1]_. In that a frame stands in the middle of its share
    of the clip, as a pixel does in an image that is resized: 30 frames over the time of 8.
    What is added to a clip depends on its own length, not on the longest clip of its batch.

    References
    ----------
    .. [1] J.-B. Alayrac et al., "Flamingo: a Visual Language Model for Few-Shot Learning", 2022,
       arXiv:2204.14198, appendix B.1.2.
    """
    xp, w = namespace(x), p["w"]
    if x.ndim != 4 or x.shape[3] != w.shape[1]:
        raise ValueError(
            f"x must be (B, F, N, {w.shape[1]}), like the time embeddings; got {x.shape}"
        )
    _check_stretch(stretch)
    b, frames = x.shape[:2]
    if lengths is None:
        counts = [frames]
    else:
        _frame_mask(lengths, b, frames)  # refuses what are no lengths
        counts = to_host(lengths).tolist()
    matrix = _time_matrix(counts, frames, len(w), stretch)
    matrix = to_device(matrix.astype(x.real.dtype), xp)  # (B or 1, F, M)
    return x + product(matrix, w)[:, :, None], matrix


def time_embedding_backward(dy, matrix, g):
    r"""Gradient of `time_embedding_forward`.

    Parameters
    ----------
    dy : array of shape (B, F, N, D)
        dL/dy.
    matrix : array
        As `time_embedding_forward` saved it.
    g : dict
        Gains the gradient of ``w``; empty if it is frozen.

    Returns
    -------
    dx : array of shape (B, F, N, D)
        `dy` itself.

    Notes
    -----
    In the forward this was :math:`y_{fn} = x_{fn} + (R w)_f`, so
    :math:`dw = R^\top \sum_n dy_n`, summed over clips.
    """
    if g:
        g["w"] += product(matrix.swapaxes(1, 2), dy.sum(2)).sum(0)
    return dy


def _time_matrix(counts, frames, trained, stretch):  # (B, F, M), rows of zeros for padding
    matrix = np.zeros((len(counts), frames, trained))
    for rows, count in zip(matrix, counts, strict=True):
        if count > trained and stretch == "never":
            raise ValueError(
                f"{count} frames are more than the {trained} that have a time embedding; "
                "stretch='longer' interpolates between them"
            )
        if count > trained or (count and stretch == "always"):
            rows[:count] = resize_matrix(trained, count, "bilinear", antialias=False)
        else:
            rows[:count] = np.eye(count, trained)
    return matrix


def _frame_mask(lengths, b, frames):  # (B, 1, 1, F)
    if np.shape(lengths) != (b,):
        raise ValueError(f"lengths {np.shape(lengths)} must be one for each of the {b} clips")
    return padding_mask(to_host(lengths), frames)


def _check_stretch(stretch):
    if stretch not in STRETCHES:
        raise ValueError(f"stretch must be one of {', '.join(STRETCHES)}, got {stretch!r}")


def _check_features(features, p, config):
    width = config.block.width
    if features.ndim != 4 or features.shape[3] != width:
        raise ValueError(
            f"features must be (B, F, N, {width}), got {features.shape}; an image is a clip of one "
            "frame, and features of another width go through a linear layer first"
        )
    if not features.shape[1] or not features.shape[2]:
        raise ValueError(f"features {features.shape} must have at least one frame and one token")
    found = (
        np.shape(p.get("latents", ())),
        len(p.get("blocks", ())),
        len(p["time"]["w"]) if "time" in p else 0,
    )
    wanted = ((config.latents, width), config.depth, config.frames)
    if found != wanted:
        raise ValueError(
            f"the config asks for latents, blocks and time embeddings {wanted}; the parameters, "
            f"{', '.join(p)}, hold {found}"
        )
