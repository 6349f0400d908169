"""Seeing: the half that both kinds of vision language model share.

A vision tower turns images, or frames of videos, into features of chosen layers, and a connector
turns these into visual tokens as wide as those of a language model.
"""

from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np

from scratch_vlm.backend import namespace
from scratch_vlm.layers.block import BLOCKS, check_blocks
from scratch_vlm.layers.config import check_keys, check_type
from scratch_vlm.layers.connector import (
    ConnectorConfig,
    connector_backward,
    connector_forward,
    connector_init,
)
from scratch_vlm.models.lm import LMConfig
from scratch_vlm.models.video import encode_frames_backward, encode_frames_forward
from scratch_vlm.models.vit import ViTConfig, vit_embed_backward, vit_embed_forward, vit_init
from scratch_vlm.ops.masks import padding_mask
from scratch_vlm.recompute import forward_only, plain


@dataclass(frozen=True)
class TowerConfig:
    """A vision tower: a ViT of which the tokens of some layers are used.

    Attributes
    ----------
    vit : ViTConfig
        The whole ViT, as it was trained.
    layers : tuple of int
        Whose outputs to use, side by side in the channels: 0 for what the first block reads,
        i for what block i - 1 makes of it, negative from the end. -2, the last but one, is
        LLaVA's choice [1]_; Llama 3.2 Vision takes several.
    cls : bool
        Whether to keep the CLS token beside the patches.

    References
    ----------
    .. [1] H. Liu et al., "Visual Instruction Tuning", 2023, arXiv:2304.08485, section 4.1.
    """

    vit: ViTConfig
    layers: tuple[int, ...] = (-2,)
    cls: bool = False

    def __post_init__(self):
        check_type(ViTConfig, vit=self.vit)
        count = self.vit.depth + 1
        if not self.layers:
            raise ValueError("layers must name at least one layer")
        for layer in self.layers:
            if not -count <= layer < count:
                raise ValueError(
                    f"layer {layer} is none of the {count} of a ViT of depth {self.vit.depth}, "
                    f"{-count} to {count - 1}"
                )
        if self.cls and not self.vit.extra:
            raise ValueError(f"cls asks for a CLS token; pool {self.vit.pool!r} has none")

    @property
    def outputs(self):
        """E, channels of a feature."""
        return len(self.layers) * self.vit.block.width

    @property
    def patches(self):
        """N, tokens of an image."""
        return self.vit.tokens - self.vit.extra + self.cls

    @property
    def used(self):
        """The layers, each as a number from 0."""
        return tuple(layer % (self.vit.depth + 1) for layer in self.layers)


def tower_of(vit, config):
    """Take from a ViT the parameters that a vision tower uses.

    Parameters
    ----------
    vit : dict
        Parameters of the ViT, such as those of a trained CLIP's image encoder.
    config : TowerConfig
        The tower.

    Returns
    -------
    p : dict
        The same arrays without head, final norm, and blocks behind the last layer that is used;
        no ``blocks`` at all if none is.
    """
    check_blocks(vit, config.vit.depth)
    kept = {name: vit[name] for name in ("patch", "cls", "positions", "ln_pre") if name in vit}
    blocks = {str(i): vit["blocks"][str(i)] for i in range(max(config.used))}
    return {**kept, "blocks": blocks} if blocks else kept


def features_forward(images, p, *, config, rng=None):
    """Turn images into the features of the chosen layers.

    Parameters
    ----------
    images : array of shape (B, H, W, C)
        Normalised images.
    p : dict
        As `tower_of` takes it from a ViT.
    config : TowerConfig
        The tower.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.

    Returns
    -------
    y : array of shape (B, N, E)
        A row for each patch, and for CLS before them if it is kept.
    saved : dict
        For `features_backward`.

    Raises
    ------
    ValueError
        If the images or the parameters do not fit the config.

    See Also
    --------
    features_backward : The gradient of this function.
    """
    vit, used = config.vit, config.used
    check_blocks(p, max(used))
    s = {"config": config, "blocks": {}}
    x, s["embed"] = vit_embed_forward(images, p, config=vit)  # (B, T, D)
    hidden = [x]
    for i in range(max(used)):
        name = str(i)
        x, s["blocks"][name] = BLOCKS[vit.block.order][0](
            x, p["blocks"][name], config=vit.block.at(i), rng=rng
        )
        hidden.append(x)
    y = namespace(x).concatenate([hidden[layer] for layer in used], axis=2)
    s["shape"] = y.shape
    return y[:, vit.extra - config.cls :], s


def features_backward(dy, s, g):
    """Gradient of `features_forward`, which it reads from the bottom up.

    Parameters
    ----------
    dy : array of shape (B, N, E)
        dL/dy.
    s : dict
        As `features_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dimages : array of shape (B, H, W, C)
    """
    config, xp = s["config"], namespace(dy)
    vit, used = config.vit, config.used
    dhidden = xp.zeros(s["shape"], dy.dtype)
    dhidden[:, vit.extra - config.cls :] = dy
    width = vit.block.width

    def read(layer):  # what the features gained from this layer
        return sum(
            dhidden[:, :, i * width : (i + 1) * width] for i, at in enumerate(used) if at == layer
        )

    dx = read(max(used))
    for name in reversed(s["blocks"]):
        dx = BLOCKS[vit.block.order][1](dx, s["blocks"][name], g["blocks"][name])
        if int(name) in used:
            dx = dx + read(int(name))
    return vit_embed_backward(dx, s["embed"], g)


FEATURES = (features_forward, features_backward)


@dataclass(frozen=True)
class SightConfig:
    """From pixels to visual tokens.

    Attributes
    ----------
    tower : TowerConfig
        The vision tower.
    connector : ConnectorConfig
        What makes visual tokens of its features.
    """

    tower: TowerConfig
    connector: ConnectorConfig

    def __post_init__(self):
        check_type(TowerConfig, tower=self.tower)
        check_type(ConnectorConfig, connector=self.connector)
        if self.connector.inputs != self.tower.outputs:
            raise ValueError(
                f"the tower gives features of {self.tower.outputs} channels; the connector takes "
                f"{self.connector.inputs}"
            )

    def tokens(self, frames=1):
        """Visual tokens of an image, or of a video of that many frames."""
        return self.connector.tokens(frames, self.tower.patches)


def sight_init(rng, config, *, vit=None):
    """Draw the parameters of a vision tower and its connector.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    config : SightConfig
        The configuration.
    vit : dict, optional
        A trained ViT to start from, such as the image encoder of a CLIP. Default a new one.

    Returns
    -------
    p : dict
        ``tower`` and ``connector``.
    """
    if vit is None:
        vit = vit_init(rng, replace(config.tower.vit, outputs=0))
    return {
        "tower": tower_of(vit, config.tower),
        "connector": connector_init(rng, config.connector),
    }


def sight_forward(media, p, *, config, lengths=None, learn_tower=True, wrap=plain, rng=None):
    """Turn images or videos into visual tokens.

    Parameters
    ----------
    media : array of shape (M, F, H, W, C)
        Normalised images or videos; an image is a video of one frame.
    p : dict
        As `sight_init` makes it.
    config : SightConfig
        The configuration.
    lengths : integer array of shape (M,), optional
        Real frames of each, on the host; the others are not looked at. Default F for all.
    learn_tower : bool, default True
        False for a tower that is frozen: nothing is kept for its backward, which costs neither
        time nor memory then, and the media get no gradient.
    wrap : callable, default recompute.plain
        For the tower, see `encode_frames_forward`.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.

    Returns
    -------
    y : array of shape (M, S, D)
        Visual tokens; those of frames that are not real mean nothing, see `real_tokens`.
    saved : dict
        For `sight_backward`.

    Raises
    ------
    ValueError
        If media, lengths or parameters do not fit the config, or the images are of another size
        and become more or fewer visual tokens than texts keep places for.

    See Also
    --------
    sight_backward : The gradient of this function.
    """
    check_media(media, lengths)
    check_keys(p, "tower", "connector")
    real = None if lengths is None else padding_mask(lengths, media.shape[1])[:, 0, 0]
    with nullcontext() if learn_tower else forward_only():
        x, tower = encode_frames_forward(
            media, p["tower"], config=config.tower, encoder=FEATURES, mask=real, wrap=wrap, rng=rng
        )  # (M, F, N, E)
    s = {"tower": tower if learn_tower else None}
    y, s["connector"] = connector_forward(
        x, p["connector"], config=config.connector, lengths=lengths, rng=rng
    )  # (M, S, D)
    if y.shape[1] != config.tokens(media.shape[1]):
        raise ValueError(
            f"media {media.shape} become {y.shape[1]} visual tokens each, and texts keep places "
            f"for {config.tokens(media.shape[1])}, those of images {config.tower.vit.image}"
        )
    return y, s


def sight_backward(dy, s, g):
    """Gradient of `sight_forward`, which it reads from the bottom up.

    Parameters
    ----------
    dy : array of shape (M, S, D)
        dL/dy.
    s : dict
        As `sight_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dmedia : array of shape (M, F, H, W, C)
        None if the tower was not to learn.
    """
    dx = connector_backward(dy, s["connector"], g["connector"])
    return None if s["tower"] is None else encode_frames_backward(dx, s["tower"], g["tower"])


def check_media(media, lengths=None):
    """Refuse what is no batch of images or videos.

    Parameters
    ----------
    media : array of shape (M, F, H, W, C)
        Images or videos.
    lengths : integer array of shape (M,), optional
        Real frames of each, on the host.

    Raises
    ------
    TypeError
        If it is a list.
    ValueError
        If it has other axes, or no frames, or not as many lengths.
    """
    namespace(media)  # refuses a list
    if media.ndim != 5:
        hint = "; an image is a video of one frame: images[:, None]" if media.ndim == 4 else ""
        raise ValueError(f"media must be (M, F, H, W, C), got {media.shape}{hint}")
    if not media.shape[1]:
        raise ValueError(f"media {media.shape} have no frames")
    if lengths is not None and np.shape(lengths) != (len(media),):
        raise ValueError(
            f"lengths {np.shape(lengths)} must be one for each of the {len(media)} media"
        )


def check_fusion(config):
    """Refuse a model whose parts do not fit together.

    Parameters
    ----------
    config : UnifiedConfig or CrossModalConfig
        With ``sight``, ``lm`` and ``image``.

    Raises
    ------
    TypeError
        If a part is of another type.
    ValueError
        If widths differ, or the placeholder is outside the vocabulary.
    """
    check_type(SightConfig, sight=config.sight)
    check_type(LMConfig, lm=config.lm)
    if not 0 <= config.image < config.lm.vocabulary:
        raise ValueError(
            f"the id of the placeholder, {config.image}, is outside the vocabulary of "
            f"{config.lm.vocabulary}"
        )
