"""Llama 3.2 Vision: an image in tiles, a tower that keeps what its layers saw, words that look.

The architecture as the Transformers library has it, to the last detail: a tiled Vision
Transformer with gated positions, whose features are those of its end beside those of some layers
on the way, and a language model some of whose blocks are gated cross-attention.
"""

import math
from dataclasses import dataclass

import numpy as np

from scratch_vlm.backend import namespace, product
from scratch_vlm.layers.block import (
    BLOCKS,
    BlockConfig,
    check_blocks,
    tower_init,
)
from scratch_vlm.layers.cache import KVCache
from scratch_vlm.layers.config import check_keys, check_type
from scratch_vlm.layers.counts import check_counts
from scratch_vlm.layers.embedding import check_ids, embedding_init
from scratch_vlm.layers.gated import (
    GatedConfig,
    gated_block_backward,
    gated_block_forward,
    gated_block_init,
    gated_self_backward,
    gated_self_forward,
    gated_self_init,
)
from scratch_vlm.layers.linear import linear_backward, linear_forward, linear_init
from scratch_vlm.layers.norm import (
    NORMS,
    layer_norm_backward,
    layer_norm_forward,
    layer_norm_init,
)
from scratch_vlm.models.lm import LMConfig, trunk_order
from scratch_vlm.ops.patches import patch_grid, patchify_backward, patchify_forward

ALIGN = 8  # tokens of a tile are filled up to a multiple of this


@dataclass(frozen=True)
class TiledConfig:
    """A Vision Transformer that sees an image as a few tiles at once.

    Attributes
    ----------
    image : tuple of int
        Height, width and channels of a tile.
    patch : tuple of int
        Height and width of a patch in pixels.
    tiles : int
        I, most tiles of an image.
    ratios : int
        Ways to lay them out, with that of no image at 0.
    block : BlockConfig
        The kind of block.
    depth, global_depth : int
        Blocks, and gated blocks behind them.
    layers : tuple of int
        The blocks whose outputs are features, too, in this order.
    eps : float
        Of the norms in front of the blocks and behind them.
    """

    image: tuple[int, int, int]
    patch: tuple[int, int]
    tiles: int
    ratios: int
    block: BlockConfig
    depth: int
    global_depth: int
    layers: tuple[int, ...]
    eps: float = 1e-5

    def __post_init__(self):
        check_type(BlockConfig, block=self.block)
        check_counts(tiles=self.tiles, ratios=self.ratios, depth=self.depth)
        check_counts(global_depth=self.global_depth)
        patch_grid(self.image, self.patch)
        if not all(0 <= layer < self.depth for layer in self.layers):
            raise ValueError(f"layers must be from 0 to {self.depth - 1}, got {self.layers}")

    @property
    def tokens(self):
        """N, tokens of a tile, CLS included."""
        rows, columns = patch_grid(self.image, self.patch)
        return 1 + rows * columns

    @property
    def padded(self):
        """Tokens of a tile, filled up."""
        return -(-self.tokens // ALIGN) * ALIGN

    @property
    def outputs(self):
        """E, channels of a feature."""
        return self.block.width * (1 + len(self.layers))


def tiled_vit_init(rng, config):
    """Draw the parameters of a tiled Vision Transformer.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    config : TiledConfig
        The model.

    Returns
    -------
    p : dict
        ``patch``, ``pre_tile``, ``cls``, ``positions``, ``ln_pre``, ``blocks``, ``ln_post``,
        ``post_tile`` and ``global``. Gates start closed, but for those of the global blocks.
    """
    width, c = config.block.width, config

    def draw(*shape):
        return (width**-0.5 * rng.standard_normal(shape)).astype("float32")

    def tile():
        return {"w": draw(c.ratios, c.tiles, width), "gate": np.zeros((), "float32")}

    return {
        "patch": linear_init(rng, c.patch[0] * c.patch[1] * c.image[2], width, bias=False),
        "pre_tile": tile(),
        "cls": draw(width),
        "positions": {
            "w": draw(c.tokens, width),
            "tiles": draw(c.ratios, c.tiles, c.tokens, width),
            "gate": np.zeros((), "float32"),
        },
        "ln_pre": layer_norm_init(width),
        "blocks": tower_init(rng, c.block, depth=c.depth),
        "ln_post": layer_norm_init(width),
        "post_tile": tile(),
        "global": {
            str(i): gated_self_init(rng, c.block, depth=c.global_depth)
            for i in range(c.global_depth)
        },
    }


def tiled_vit_forward(images, p, *, config, ratios, real):
    """Turn images in tiles into features.

    Parameters
    ----------
    images : array of shape (B, I, H, W, C)
        I tiles of each image.
    p : dict
        As `tiled_vit_init` makes it.
    config : TiledConfig
        The model.
    ratios : integer array of shape (B,)
        How the tiles of each image are laid out.
    real : boolean array of shape (B, I)
        False where an image has fewer tiles.

    Returns
    -------
    y : array of shape (B, I, N, E)
        Of each token the D features of the end, then those of the layers, channel by channel.
    saved : dict
        For `tiled_vit_backward`.

    Raises
    ------
    ValueError
        If images, ratios or parameters do not fit the config.

    See Also
    --------
    tiled_vit_backward : The gradient of this function.

    References
    ----------
    .. [1] Llama Team, "The Llama 3 Herd of Models", 2024, arXiv:2407.21783, section 7.2.
    """
    check_blocks(p, config.depth)
    xp, width = namespace(images), config.block.width
    s = {"config": config, "blocks": {}, "global": {}}
    x, s["embed"] = tiles_embed_forward(images, p, config=config, ratios=ratios)  # (B, S, D)
    mask = tile_mask(real, config)
    kept = {}
    for i in range(config.depth):
        x, s["blocks"][str(i)] = BLOCKS["pre"][0](
            x, p["blocks"][str(i)], config=config.block, mask=mask
        )
        kept[i] = x
    x, s["ln_post"] = layer_norm_forward(x, p["ln_post"], eps=config.eps)
    shape = (len(x), config.tiles, config.padded, width)
    x, s["post_tile"] = tile_embedding_forward(x.reshape(shape), p["post_tile"], ratios=ratios)
    x = x.reshape(len(x), config.tiles * config.padded, width)
    for name in map(str, range(config.global_depth)):
        x, s["global"][name] = gated_self_forward(
            x, p["global"][name], config=config.block, mask=mask
        )
    if config.layers:
        between = xp.stack([kept[i] for i in config.layers], axis=-1)  # (B, S, D, layers)
        x = xp.concatenate([x, between.reshape(*x.shape[:2], len(config.layers) * width)], axis=2)
    y = x.reshape(*shape[:3], config.outputs)[:, :, : config.tokens]
    return xp.ascontiguousarray(y), s


def tiled_vit_backward(dy, s, g):
    """Gradient of `tiled_vit_forward`, which it reads from the bottom up.

    Parameters
    ----------
    dy : array of shape (B, I, N, E)
        dL/dy.
    s : dict
        As `tiled_vit_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dimages : array of shape (B, I, H, W, C)
    """
    config, xp = s["config"], namespace(dy)
    b, tiles, _, outputs = dy.shape
    width = config.block.width
    padded = xp.zeros((b, tiles, config.padded, outputs), dy.dtype)
    padded[:, :, : config.tokens] = dy
    padded = padded.reshape(b, tiles * config.padded, outputs)  # (B, S, E)
    dx = padded[..., :width]
    dbetween = padded[..., width:].reshape(*dx.shape, len(config.layers))  # (B, S, D, layers)
    for name in reversed(s["global"]):
        dx = gated_self_backward(dx, s["global"][name], g["global"][name])
    dx = dx.reshape(b, tiles, config.padded, width)
    dx = tile_embedding_backward(dx, s["post_tile"], g["post_tile"])
    dx = layer_norm_backward(dx.reshape(*padded.shape[:2], width), s["ln_post"], g["ln_post"])
    for i in reversed(range(config.depth)):
        dx = dx + sum(dbetween[..., n] for n, layer in enumerate(config.layers) if layer == i)
        dx = BLOCKS["pre"][1](dx, s["blocks"][str(i)], g["blocks"][str(i)])
    return tiles_embed_backward(dx, s["embed"], g)


def tiles_embed_forward(images, p, *, config, ratios):
    """Cut tiles into tokens that know where they stand, and fill each tile up.

    Parameters
    ----------
    images : array of shape (B, I, H, W, C)
        I tiles of each image.
    p : dict
        As `tiled_vit_init` makes it.
    config : TiledConfig
        The model.
    ratios : integer array of shape (B,)
        How the tiles of each image are laid out.

    Returns
    -------
    x : array of shape (B, S, D)
        All tokens of an image, tile by tile; zeros where a tile was filled up.
    saved : dict
        For `tiles_embed_backward`.

    Raises
    ------
    ValueError
        If images, ratios or parameters do not fit the config.

    See Also
    --------
    tiles_embed_backward : The gradient of this function.
    """
    _check_images(images, ratios, p, config)
    xp, width, s = namespace(images), config.block.width, {"config": config}
    b, tiles = images.shape[:2]
    x, s["patchify"] = patchify_forward(
        images.reshape(b * tiles, *images.shape[2:]), patch=config.patch
    )
    x, s["patch"] = linear_forward(x, p["patch"])
    x, s["pre_tile"] = tile_embedding_forward(
        x.reshape(b, tiles, config.tokens - 1, width), p["pre_tile"], ratios=ratios
    )
    cls = xp.broadcast_to(p["cls"], (b, tiles, 1, width))
    x = xp.concatenate([cls, x], axis=2)  # (B, I, N, D)
    x, s["positions"] = tile_positions_forward(x, p["positions"], ratios=ratios)
    x, s["ln_pre"] = layer_norm_forward(x, p["ln_pre"], eps=config.eps)
    y = xp.zeros((b, tiles, config.padded, width), x.dtype)
    y[:, :, : config.tokens] = x
    return y.reshape(b, tiles * config.padded, width), s


def tiles_embed_backward(dx, s, g):
    """Gradient of `tiles_embed_forward`, which it reads from the bottom up.

    Parameters
    ----------
    dx : array of shape (B, S, D)
        dL/dx.
    s : dict
        As `tiles_embed_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dimages : array of shape (B, I, H, W, C)
    """
    config, xp = s["config"], namespace(dx)
    b, _, width = dx.shape
    dx = dx.reshape(b, config.tiles, config.padded, width)
    dx = xp.ascontiguousarray(dx[:, :, : config.tokens])
    dx = layer_norm_backward(dx, s["ln_pre"], g["ln_pre"])
    dx = tile_positions_backward(dx, s["positions"], g["positions"])
    if g:
        g["cls"] += dx[:, :, 0].sum((0, 1))
    dx = tile_embedding_backward(dx[:, :, 1:], s["pre_tile"], g["pre_tile"])
    dx = xp.ascontiguousarray(dx).reshape(b * config.tiles, config.tokens - 1, width)
    dx = linear_backward(dx, s["patch"], g["patch"])
    dx = patchify_backward(dx, s["patchify"])
    return dx.reshape(b, config.tiles, *dx.shape[1:])


def tile_embedding_forward(x, p, *, ratios):
    r"""Add to all tokens of a tile a learned vector for its place among the tiles.

    Parameters
    ----------
    x : array of shape (B, I, N, D)
        Tokens of I tiles.
    p : dict
        ``w`` of shape (R, I, D), one vector for each tile of each layout, and ``gate``, of which
        the tanh is taken.
    ratios : integer array of shape (B,)
        The layout of each image, from 0 to R - 1.

    Returns
    -------
    y : array of shape (B, I, N, D)
    saved : tuple
        For `tile_embedding_backward`.

    Raises
    ------
    ValueError
        If a layout is unknown.

    See Also
    --------
    tile_embedding_backward : The gradient of this function.

    Notes
    -----
    :math:`y_{bin} = x_{bin} + \tanh(\alpha)\, w_{r(b) i}`.
    """
    check_ids(ratios, len(p["w"]), "ratio")
    gate, vectors = namespace(x).tanh(p["gate"]), p["w"][ratios]  # (B, I, D)
    return x + gate * vectors[:, :, None], (gate, vectors, ratios)


def tile_embedding_backward(dy, saved, g):
    r"""Gradient of `tile_embedding_forward`.

    Parameters
    ----------
    dy : array of shape (B, I, N, D)
        dL/dy.
    saved : tuple
        As `tile_embedding_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dx : array of shape (B, I, N, D)
        `dy` itself.

    Notes
    -----
    In the forward this was :math:`y = x + \tanh(\alpha)\, w`, so
    :math:`dw = \tanh(\alpha) \sum_n dy_n` where the layout stands, and
    :math:`d\alpha = (1 - \tanh^2 \alpha) \sum dy \circ w`.
    """
    gate, vectors, ratios = saved
    if g:
        dvectors = dy.sum(2)  # of w times the gate, (B, I, D)
        g["gate"] += (1 - gate * gate) * (dvectors * vectors).sum()
        g["w"] += gate * _by_ratio(dvectors, ratios, len(g["w"]))
    return dy


def tile_positions_forward(x, p, *, ratios):
    r"""Add learned positions, of the tile alone and of the tile among others, as a gate says.

    Parameters
    ----------
    x : array of shape (B, I, N, D)
        Tokens of I tiles.
    p : dict
        ``w`` of shape (N, D), ``tiles`` of shape (R, I, N, D) for R layouts, and ``gate``.
    ratios : integer array of shape (B,)
        The layout of each image, from 0 to R - 1.

    Returns
    -------
    y : array of shape (B, I, N, D)
    saved : tuple
        For `tile_positions_backward`.

    Raises
    ------
    ValueError
        If a layout is unknown.

    See Also
    --------
    tile_positions_backward : The gradient of this function.

    Notes
    -----
    :math:`y = x + (1 - \tanh \alpha)\, w + \tanh(\alpha)\, t_r`: a tower that was trained on
    whole images starts with a closed gate.
    """
    check_ids(ratios, len(p["tiles"]), "ratio")
    gate, tiles = namespace(x).tanh(p["gate"]), p["tiles"][ratios]  # (B, I, N, D)
    return x + (1 - gate) * p["w"] + gate * tiles, (gate, p["w"], tiles, ratios)


def tile_positions_backward(dy, saved, g):
    r"""Gradient of `tile_positions_forward`.

    Parameters
    ----------
    dy : array of shape (B, I, N, D)
        dL/dy.
    saved : tuple
        As `tile_positions_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dx : array of shape (B, I, N, D)
        `dy` itself.

    Notes
    -----
    In the forward this was :math:`y = x + (1 - \tanh \alpha)\, w + \tanh(\alpha)\, t`, so
    :math:`dw = (1 - \tanh \alpha) \sum dy`, :math:`dt = \tanh(\alpha)\, dy` where the layout
    stands, and :math:`d\alpha = (1 - \tanh^2 \alpha) \sum dy \circ (t - w)`.
    """
    gate, w, tiles, ratios = saved
    if g:
        g["gate"] += (1 - gate * gate) * (dy * (tiles - w)).sum()
        g["w"] += (1 - gate) * dy.sum((0, 1))
        g["tiles"] += gate * _by_ratio(dy, ratios, len(g["tiles"]))
    return dy


def tile_mask(real, config):
    """Say which tokens of an image read which.

    Parameters
    ----------
    real : boolean array of shape (B, I)
        False where an image has fewer tiles.
    config : TiledConfig
        The model.

    Returns
    -------
    mask : boolean array of shape (B, 1, S, S)
        As in the reference, only tokens that are filling or of missing tiles do not read each
        other; the others read them.
    """
    xp = namespace(real)
    live = real[:, :, None] & (xp.arange(config.padded) < config.tokens)  # (B, I, padded)
    live = live.reshape(len(real), config.tiles * config.padded)
    return (live[:, :, None] | live[:, None])[:, None]


@dataclass(frozen=True)
class InterleavedConfig:
    """A language model some of whose blocks are gated cross-attention, in the place of others.

    Attributes
    ----------
    lm : LMConfig
        The language model; its depth counts both kinds of blocks.
    gated : GatedConfig
        The kind of those that look at images.
    crosses : tuple of int
        Their places among the blocks.
    added : int
        Token ids that are read and never scored, behind the vocabulary: that of an image is the
        first.
    """

    lm: LMConfig
    gated: GatedConfig
    crosses: tuple[int, ...]
    added: int = 8

    def __post_init__(self):
        check_type(LMConfig, lm=self.lm)
        check_type(GatedConfig, gated=self.gated)
        if not all(0 <= i < self.lm.depth for i in self.crosses):
            raise ValueError(f"crosses must be from 0 to {self.lm.depth - 1}, got {self.crosses}")
        if len(set(self.crosses)) == self.lm.depth:
            raise ValueError("some blocks must read the words; all of them are cross-attention")

    @property
    def first(self):
        """Key of the first block that reads the words."""
        return str(min(set(range(self.lm.depth)) - set(self.crosses)))


def interleaved_init(rng, config):
    """Draw the parameters of an interleaved language model.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    config : InterleavedConfig
        The model.

    Returns
    -------
    p : dict
        ``tokens``, ``blocks``, each of one kind or the other, ``ln`` and ``head``.
    """
    lm = config.lm
    width, depth = lm.block.width, lm.depth
    blocks = tower_init(rng, lm.block, depth=depth)
    for i in config.crosses:
        blocks[str(i)] = gated_block_init(rng, config.gated, depth=depth)
    return {
        "tokens": embedding_init(rng, lm.vocabulary + config.added, width, std=lm.token_std),
        "blocks": blocks,
        "ln": NORMS[lm.block.norm][0](width),
        "head": linear_init(rng, width, lm.vocabulary, bias=False, std=0.02),
    }


def interleaved_trunk_forward(
    x, z, p, *, config, seen=None, mask=None, positions=None, cache=None, kept=None
):
    """Let words read the words before them and, in some blocks, what they may see.

    Parameters
    ----------
    x : array of shape (B, T, D)
        Tokens of the texts.
    z : array of shape (B, S, E)
        Visual tokens beside each text; None for texts without images, which skip the blocks that
        look at them, or where `kept` holds their keys and values.
    p : dict
        As `interleaved_init` makes it.
    config : InterleavedConfig
        The model.
    seen : boolean array broadcastable to (B, A, T, S), optional
        True where a word may see a visual token. Default everywhere.
    mask : boolean array broadcastable to (B, A, T, T), optional
        True where a word may attend to a word. Default the causal mask.
    positions : integer array of shape (B, T), optional
        Where each token stands. Default one after another, behind the cache.
    cache : dict of str to KVCache, optional
        Of the words before, for the blocks that read words.
    kept : dict of str to dict, optional
        Keys and values of the visual tokens, one dict for each block that looks at them. For
        generation.

    Returns
    -------
    y : array of shape (B, T, D)
        Normalised tokens, for the head.
    saved : dict
        For `interleaved_trunk_backward`.

    Raises
    ------
    ValueError
        If there are more tokens than the context has places, or shapes do not fit.

    See Also
    --------
    interleaved_trunk_backward : The gradient of this function.
    """
    lm, s = config.lm, {"config": config, "blocks": {}}
    check_blocks(p, lm.depth)
    past = None if cache is None else {"0": cache[config.first]}
    mask, positions = trunk_order(x, lm, mask=mask, positions=positions, cache=past)
    for i in range(lm.depth):
        name = str(i)
        if i not in config.crosses:
            x, s["blocks"][name] = BLOCKS["pre"][0](
                x,
                p["blocks"][name],
                config=lm.block,
                mask=mask,
                positions=positions,
                cache=None if cache is None else cache[name],
            )
        elif z is not None or kept:
            x, s["blocks"][name] = gated_block_forward(
                x,
                z,
                p["blocks"][name],
                config=config.gated,
                mask=seen,
                kept=None if kept is None else kept[name],
            )
    x, s["ln"] = NORMS[lm.block.norm][1](x, p["ln"], eps=lm.block.eps)
    return x, s


def interleaved_trunk_backward(dy, s, g):
    """Gradient of `interleaved_trunk_forward`, which it reads from the bottom up.

    Parameters
    ----------
    dy : array of shape (B, T, D)
        dL/dy.
    s : dict
        As `interleaved_trunk_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dx : array of shape (B, T, D)
        Of the words.
    dz : array of shape (B, S, E)
        Of the visual tokens, summed over all blocks that looked at them; None for texts without
        images.
    """
    config, dz = s["config"], None
    dx = NORMS[config.lm.block.norm][2](dy, s["ln"], g["ln"])
    for name in reversed(s["blocks"]):
        saved, learn = s["blocks"][name], g["blocks"][name]
        if int(name) in config.crosses:
            dx, dz_here = gated_block_backward(dx, saved, learn)
            dz = dz_here if dz is None else dz + dz_here
        else:
            dx = BLOCKS["pre"][1](dx, saved, learn)
    return dx, dz


def interleaved_cache(p, config, batch, length):
    """Reserve the KV cache of the blocks that read words.

    Parameters
    ----------
    p : dict
        As `interleaved_init` makes it.
    config : InterleavedConfig
        The model.
    batch, length : int
        B, and tokens that fit.

    Returns
    -------
    dict of str to KVCache
    """
    block, w = config.lm.block, p["ln"]["gamma"]
    kv_heads = block.heads if block.kv_heads is None else block.kv_heads
    sizes = (batch, kv_heads, length, block.per_head, w.dtype, namespace(w))
    own = [str(i) for i in range(config.lm.depth) if i not in config.crosses]
    return {name: KVCache(*sizes) for name in own}


def _by_ratio(x, ratios, count):  # (B, ...) -> (count, ...), sums over the images of each layout
    xp = namespace(x)
    chosen = ratios[:, None] == xp.arange(count)  # (B, count)
    sums = product(
        chosen.astype(x.dtype).T, x.reshape(len(x), math.prod(x.shape[1:])), precision="float32"
    )
    return sums.reshape(count, *x.shape[1:])


def _check_images(images, ratios, p, config):
    check_keys(p, "patch/w", "pre_tile", "cls", "positions", "ln_pre")
    wanted = (config.tiles, *config.image)
    if images.ndim != 5 or images.shape[1:] != wanted:
        raise ValueError(
            f"images must be (B, {', '.join(map(str, wanted))}), tiles of images; "
            f"got {images.shape}"
        )
    if ratios.shape != (len(images),):
        raise ValueError(f"ratios {ratios.shape} must be one for each of {len(images)} images")
