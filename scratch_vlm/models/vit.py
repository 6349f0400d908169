"""The Vision Transformer: an image is cut into patches, and the patches are read like words.

Also the image tower of CLIP and SigLIP, by configuration.
"""

from dataclasses import dataclass, replace

import numpy as np

from scratch_vlm.backend import namespace, to_device
from scratch_vlm.layers.block import (
    BlockConfig,
    check_blocks,
    tower_backward,
    tower_forward,
    tower_init,
)
from scratch_vlm.layers.config import check_keys, check_type
from scratch_vlm.layers.counts import check_counts
from scratch_vlm.layers.embedding import (
    grid_positions_backward,
    grid_positions_forward,
    grid_positions_init,
)
from scratch_vlm.layers.linear import check_outputs, linear_backward, linear_forward, linear_init
from scratch_vlm.layers.mlp import GATED
from scratch_vlm.layers.norm import NORMS
from scratch_vlm.layers.pool import (
    attention_pool_backward,
    attention_pool_forward,
    attention_pool_init,
    mean_pool_backward,
    mean_pool_forward,
    pick_backward,
    pick_forward,
)
from scratch_vlm.ops.patches import patch_grid, patchify_backward, patchify_forward
from scratch_vlm.ops.positions import sincos_positions_2d
from scratch_vlm.ops.resize import METHODS


@dataclass(frozen=True)
class ViTConfig:
    """A Vision Transformer.

    Attributes
    ----------
    image : tuple of int
        Height, width and channels of the images it is made for. Other heights and widths work
        if the patch divides them: learned positions are then interpolated.
    patch : tuple of int
        Height and width of a patch in pixels.
    outputs : int
        Classes, or the width of an embedding; 0 for the pooled token itself.
    block : BlockConfig
        The kind of block.
    depth : int
        L, blocks.
    pool : {"cls", "mean", "attention"}
        What stands for the image: a learned extra token, the mean of the patches, or a learned
        query that reads them.
    positions : {"learned", "axial", "sincos"}
        A learned vector for each token, one for each row and column, or fixed sines and cosines.
    position_std : float
        Standard deviation that learned positions start with.
    patch_bias, head_bias : bool
        Whether the two linear layers have biases; CLIP's have none.
    norm_first : bool
        Normalise the tokens before the first block, as CLIP does.
    stretch : {"bicubic", "bilinear", "bicubic_repeat"}
        How learned positions are interpolated for images of another size, see `resize_matrix`.

    Notes
    -----
    The published ViT-B/16 is ``ViTConfig((224, 224, 3), (16, 16), 1000, BlockConfig(768, 12,
    3072, eps=1e-6), 12)``.
    """

    image: tuple[int, int, int]
    patch: tuple[int, int]
    outputs: int
    block: BlockConfig
    depth: int
    pool: str = "cls"
    positions: str = "learned"
    position_std: float = 0.02
    patch_bias: bool = True
    head_bias: bool = True
    norm_first: bool = False
    stretch: str = "bicubic"

    def __post_init__(self):
        if not isinstance(self.image, tuple | list) or len(self.image) != 3:
            raise ValueError(f"image must be (height, width, channels), got {self.image}")
        height, width, channels = self.image
        check_counts(height=height, width=width, channels=channels, depth=self.depth)
        patch_grid(self.image, self.patch)
        check_type(BlockConfig, block=self.block)
        if self.outputs != 0:  # 0 is for none
            check_counts(outputs=self.outputs)
        if self.pool not in ("cls", "mean", "attention"):
            raise ValueError(f"pool must be 'cls', 'mean' or 'attention', got {self.pool!r}")
        if self.positions not in ("learned", "axial", "sincos"):
            raise ValueError(
                f"positions must be 'learned', 'axial' or 'sincos', got {self.positions!r}"
            )
        if self.stretch not in METHODS:
            raise ValueError(f"stretch must be one of {', '.join(METHODS)}, got {self.stretch!r}")
        if not self.position_std >= 0:
            raise ValueError(f"position_std must be at least 0, got {self.position_std}")
        if self.positions == "sincos" and self.block.width % 4:
            raise ValueError(
                f"sincos positions need a width that 4 divides, got {self.block.width}"
            )

    @property
    def grid(self):
        """Rows and columns of patches."""
        return patch_grid(self.image, self.patch)

    @property
    def extra(self):
        """Tokens that are no patches: 1 with a CLS token, else 0."""
        return int(self.pool == "cls")

    @property
    def tokens(self):
        """Tokens of an image, CLS included."""
        return self.extra + self.grid[0] * self.grid[1]

    def at(self, height, width):
        """Return the same model for images of another size."""
        return replace(self, image=(height, width, self.image[2]))


def vit_init(rng, config):
    """Draw the parameters of a Vision Transformer.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    config : ViTConfig
        The model.

    Returns
    -------
    p : dict
        ``patch``, ``cls``, ``positions``, ``ln_pre``, ``blocks``, ``pool``, ``ln``, ``head``; the
        ones that the config asks for.
    """
    width = config.block.width
    norm_init = NORMS[config.block.norm][0]
    numbers = config.patch[0] * config.patch[1] * config.image[2]
    p = {"patch": linear_init(rng, numbers, width, bias=config.patch_bias)}
    if config.pool == "cls":
        p["cls"] = (0.02 * rng.standard_normal(width)).astype("float32")
    if config.positions != "sincos":
        p["positions"] = grid_positions_init(
            rng,
            config.grid,
            width,
            extra=config.extra,
            axial=config.positions == "axial",
            std=config.position_std,
        )
    if config.norm_first:
        p["ln_pre"] = norm_init(width)
    p["blocks"] = tower_init(rng, config.block, depth=config.depth)
    p["ln"] = norm_init(width)
    if config.pool == "attention":
        p["pool"] = attention_pool_init(rng, width, config.block.hidden, heads=config.block.heads)
    if config.outputs:
        p["head"] = linear_init(rng, width, config.outputs, bias=config.head_bias)
    return p


def vit_forward(images, p, *, config, rng=None):
    """Turn images into class scores, or into embeddings.

    Parameters
    ----------
    images : array of shape (B, H, W, C)
        Normalised images; H and W may differ from the config's if the patch divides them.
    p : dict
        As `vit_init` makes it.
    config : ViTConfig
        The model.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.

    Returns
    -------
    y : array of shape (B, V)
        Scores of V classes or an embedding of V numbers; the pooled token where the config has
        no outputs.
    saved : dict
        For `vit_backward`; ``saved["features"]["blocks"]["0"]["attn"]["attend"]`` holds the first
        block's attention maps, see `attention_weights`.

    Raises
    ------
    TypeError
        If the images are not an array of floating point numbers.
    ValueError
        If the images or the parameters do not fit the config.

    See Also
    --------
    vit_backward : The gradient of this function.
    vit_features_forward : All tokens instead of one.

    References
    ----------
    .. [1] A. Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, arXiv:2010.11929,
       equations 1 to 4.
    """
    check_blocks(p, config.depth)
    check_keys(p, "ln", *_feature_keys(config), *_head_keys(config))
    if config.outputs:
        check_outputs(p["head"], config.outputs)
    s = {"config": config}
    norm = NORMS[config.block.norm][1]
    x, s["features"] = vit_features_forward(images, p, config=config, rng=rng)  # (B, T, D)
    if config.pool == "cls":  # the final norm works on each token alone: only this one needs it
        x, s["pool"] = pick_forward(x, index=0)  # (B, D)
    x, s["ln"] = norm(x, p["ln"], eps=config.block.eps)
    if config.pool == "mean":
        x, s["pool"] = mean_pool_forward(x)
    elif config.pool == "attention":
        kind = "gelu" if config.block.mlp in GATED else config.block.mlp
        x, s["pool"] = attention_pool_forward(
            x, p["pool"], heads=config.block.heads, kind=kind, eps=config.block.eps
        )
    if config.outputs:
        x, s["head"] = linear_forward(x, p["head"])  # (B, V)
    return x, s


def vit_backward(dy, s, g):
    """Gradient of `vit_forward`, which it reads from the bottom up.

    Parameters
    ----------
    dy : array of shape (B, V)
        dL/dy.
    s : dict
        As `vit_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dimages : array of shape (B, H, W, C)
    """
    config = s["config"]
    norm = NORMS[config.block.norm][2]
    dx = dy
    if config.outputs:
        dx = linear_backward(dx, s["head"], g["head"])
    if config.pool == "attention":
        dx = attention_pool_backward(dx, s["pool"], g["pool"])
    elif config.pool == "mean":
        dx = mean_pool_backward(dx, s["pool"])
    dx = norm(dx, s["ln"], g["ln"])
    if config.pool == "cls":
        dx = pick_backward(dx, s["pool"])
    return vit_features_backward(dx, s["features"], g)


def vit_features_forward(images, p, *, config, rng=None):
    """Turn images into tokens: patches, positions and blocks, without the head.

    Parameters
    ----------
    images : array of shape (B, H, W, C)
        Normalised images.
    p : dict
        As `vit_init` makes it.
    config : ViTConfig
        The model.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.

    Returns
    -------
    x : array of shape (B, T, D)
        CLS first if there is one, then the patches in reading order, before the final norm.
    saved : dict
        For `vit_features_backward`.

    Raises
    ------
    TypeError
        If the images are not an array of floating point numbers.
    ValueError
        If the images or the parameters do not fit the config.

    See Also
    --------
    vit_features_backward : The gradient of this function.
    """
    check_blocks(p, config.depth)
    s = {}
    x, s["embed"] = vit_embed_forward(images, p, config=config)  # (B, T, D)
    x, s["blocks"] = tower_forward(x, p["blocks"], config=config.block, rng=rng)
    return x, s


def vit_features_backward(dx, s, g):
    """Gradient of `vit_features_forward`.

    Parameters
    ----------
    dx : array of shape (B, T, D)
        dL/dx.
    s : dict
        As `vit_features_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dimages : array of shape (B, H, W, C)
    """
    dx = tower_backward(dx, s["blocks"], g["blocks"])
    return vit_embed_backward(dx, s["embed"], g)


def vit_embed_forward(images, p, *, config):
    """Cut images into tokens that know where they stand: what the first block reads.

    Parameters
    ----------
    images : array of shape (B, H, W, C)
        Normalised images.
    p : dict
        As `vit_init` makes it; ``patch``, ``cls``, ``positions`` and ``ln_pre`` are read, the
        ones that the config asks for.
    config : ViTConfig
        The model.

    Returns
    -------
    x : array of shape (B, T, D)
        CLS first if there is one, then the patches in reading order.
    saved : dict
        For `vit_embed_backward`.

    Raises
    ------
    TypeError
        If the images are not an array of floating point numbers.
    ValueError
        If the images or the parameters do not fit the config.

    See Also
    --------
    vit_embed_backward : The gradient of this function.
    """
    check_keys(p, *_feature_keys(config))
    _check_images(images, config)
    xp, s = namespace(images), {"config": config}
    grid = patch_grid(images.shape[1:], config.patch)
    x, s["patchify"] = patchify_forward(images, patch=config.patch)  # (B, N, P)
    x, s["patch"] = linear_forward(x, p["patch"])  # (B, N, D)
    if config.pool == "cls":
        cls = xp.broadcast_to(p["cls"], (len(x), 1, x.shape[2]))
        x = xp.concatenate([cls, x], axis=1)  # (B, T, D)
    if config.positions == "sincos":
        x = x + _fixed_positions(config, grid, x)
    else:
        x, s["positions"] = grid_positions_forward(
            x, p["positions"], grid=grid, trained=config.grid, method=config.stretch
        )
    if config.norm_first:
        x, s["ln_pre"] = NORMS[config.block.norm][1](x, p["ln_pre"], eps=config.block.eps)
    return x, s


def vit_embed_backward(dx, s, g):
    """Gradient of `vit_embed_forward`, which it reads from the bottom up.

    Parameters
    ----------
    dx : array of shape (B, T, D)
        dL/dx.
    s : dict
        As `vit_embed_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dimages : array of shape (B, H, W, C)
    """
    config = s["config"]
    if config.norm_first:
        dx = NORMS[config.block.norm][2](dx, s["ln_pre"], g["ln_pre"])
    if config.positions != "sincos":
        dx = grid_positions_backward(dx, s["positions"], g["positions"])
    if config.pool == "cls":
        if g:
            g["cls"] += dx[:, 0].sum(0)
        dx = namespace(dx).ascontiguousarray(dx[:, 1:])  # (B, N, D)
    dx = linear_backward(dx, s["patch"], g["patch"])
    return patchify_backward(dx, s["patchify"])


def _fixed_positions(config, grid, x):
    xp, width = namespace(x), config.block.width
    table = sincos_positions_2d(*grid, width)
    table = np.concatenate([np.zeros((config.extra, width)), table])
    return to_device(table.astype(x.real.dtype), xp)


def _feature_keys(config):  # the parameters that `vit_embed_forward` reads
    table = {"learned": ["w"], "axial": ["extra", "rows", "columns"], "sincos": []}
    return [
        "patch/w",
        *["patch/b"] * config.patch_bias,
        *["cls"] * (config.pool == "cls"),
        *[f"positions/{name}" for name in table[config.positions]],
        *["ln_pre"] * config.norm_first,
    ]


def _head_keys(config):  # those that only `vit_forward` reads, beside the norm
    bias = ["head/b"] * config.head_bias
    return ["pool"] * (config.pool == "attention") + ["head/w", *bias] * bool(config.outputs)


def _check_images(images, config):
    namespace(images)  # refuses a list
    channels = config.image[2]
    if images.ndim != 4 or images.shape[3] != channels:
        raise ValueError(
            f"images must be (B, H, W, C) with {channels} channels, got {images.shape}"
            + (
                "; add the channel axis with images[..., None]"
                if images.ndim == 3 and channels == 1
                else ""
            )
        )
    if images.dtype.kind not in "fc":
        raise TypeError(
            f"images must be floating point numbers, got {images.dtype}; "
            "scale them with images.astype('float32') / 255"
        )
