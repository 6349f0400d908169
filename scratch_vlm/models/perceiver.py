"""The Perceiver and Perceiver IO: a fixed number of latents read any number of inputs.

An image is here an array of bytes, each with its position beside it: nothing in the model knows
what a patch is, or which pixels are neighbours.
"""

from dataclasses import dataclass, replace

import numpy as np

from scratch_vlm.backend import floating, namespace, to_device
from scratch_vlm.layers.block import BlockConfig, tower_backward, tower_forward, tower_init
from scratch_vlm.layers.counts import check_counts
from scratch_vlm.layers.linear import linear_backward, linear_forward, linear_init
from scratch_vlm.layers.norm import NORMS
from scratch_vlm.layers.perceiver import (
    check_cross_block,
    cross_block_backward,
    cross_block_forward,
    cross_block_init,
)
from scratch_vlm.layers.pool import mean_pool_backward, mean_pool_forward
from scratch_vlm.ops.fourier import check_axes, fourier_positions

VARIANTS = ("original", "io")
DECODERS = ("mean", "query")


@dataclass(frozen=True)
class PerceiverConfig:
    """A Perceiver.

    Attributes
    ----------
    shape : tuple of int
        Length of each axis of the inputs that it is made for, such as (224, 224). Other lengths
        work if they are said: positions are then more or less dense between the same ends.
    channels : int
        C, numbers at each place, such as 3 for colours.
    outputs : int
        Classes, or the width of an embedding; 0 for the decoded vector itself.
    block : BlockConfig
        The kind of block of the latent transformer; its width is D.
    latents : int
        R.
    depth : int
        L, blocks of one latent transformer.
    repeats : int
        How often the latent transformer runs.
    variant : {"original", "io"}
        Whether the latents read the inputs before each latent transformer, or once, before the
        first.
    crosses, towers : int
        Different cross-attentions and latent transformers. Repeat i takes number i, or the last
        one: 1 shares its weights over all repeats, 2 keeps the first apart, and as many as there
        are repeats share nothing.
    bands : int or None
        K, Fourier frequencies for each axis, see `fourier_positions`; None for inputs that carry
        their positions already, or have none.
    cross_heads : int
        Heads of the cross-attentions.
    cross_head_width : int or None
        Channels of such a head; None for D over their number.
    cross_hidden : int or None
        Channels inside the MLP after a cross-attention; None for those of `block`.
    query_residual : bool
        Whether the latents stay and add what they read.
    decoder : {"mean", "query"}
        What stands for the input: the mean of the latents, or a learned query that reads them.
    latent_std : float
        Standard deviation that the latents start with.

    Notes
    -----
    The published ImageNet models are ``PerceiverConfig((224, 224), 3, 1000, BlockConfig(1024, 8,
    1024), latents=512, depth=6, repeats=8, crosses=2, bands=64, cross_head_width=261)`` [1]_ and
    the same with ``variant="io", crosses=1, decoder="query"`` [2]_. The truncation of the latents
    at 2 lies a hundred of their standard deviations out and is left away.

    References
    ----------
    .. [1] A. Jaegle et al., "Perceiver: General Perception with Iterative Attention", 2021,
       arXiv:2103.03206, section 4.1 and appendix.
    .. [2] A. Jaegle et al., "Perceiver IO: A General Architecture for Structured Inputs &
       Outputs", 2021, arXiv:2107.14795, appendix.
    """

    shape: tuple[int, ...]
    channels: int
    outputs: int
    block: BlockConfig
    latents: int
    depth: int
    repeats: int = 1
    variant: str = "original"
    crosses: int = 1
    towers: int = 1
    bands: int | None = 64
    cross_heads: int = 1
    cross_head_width: int | None = None
    cross_hidden: int | None = None
    query_residual: bool = True
    decoder: str = "mean"
    latent_std: float = 0.02

    def __post_init__(self):
        for name, known in (("variant", VARIANTS), ("decoder", DECODERS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be {' or '.join(map(repr, known))}, got {getattr(self, name)!r}"
                )
        counts = ("channels", "latents", "depth", "repeats", "crosses", "towers", "cross_heads")
        check_counts(**{name: getattr(self, name) for name in counts})
        if self.outputs:  # 0 is for none
            check_counts(outputs=self.outputs)
        for name in ("cross_hidden", "cross_head_width"):
            if getattr(self, name) is not None:
                check_counts(**{name: getattr(self, name)})
        check_axes(self.shape, "shape")
        if self.bands is not None:
            fourier_positions((1,), self.bands)  # refuses what is no number of bands
        if self.crosses > self.reads:
            raise ValueError(
                f"{self.crosses} cross-attentions are more than the {self.reads} times that the "
                f"{self.variant!r} variant reads in {self.repeats} repeats"
            )
        if self.towers > self.repeats:
            raise ValueError(
                f"{self.towers} latent transformers are more than the {self.repeats} repeats"
            )
        if self.block.width % self.cross_heads:
            raise ValueError(
                f"width {self.block.width} must be a multiple of cross_heads {self.cross_heads}"
            )
        check_cross_block(self.cross)

    @property
    def reads(self):
        """How often the latents read the inputs."""
        return self.repeats if self.variant == "original" else 1

    @property
    def input_width(self):
        """E, channels of an input with its position."""
        positions = 0 if self.bands is None else len(self.shape) * (2 * self.bands + 1)
        return self.channels + positions

    @property
    def cross(self):
        """The kind of block of the cross-attentions."""
        return replace(
            self.block,
            heads=self.cross_heads,
            kv_heads=None,
            hidden=self.cross_hidden or self.block.hidden,
            rotary_base=None,
        )

    def cross_name(self, repeat):
        """Key of the cross-attention of a repeat."""
        return str(min(repeat, self.crosses - 1))

    def tower_name(self, repeat):
        """Key of the latent transformer of a repeat."""
        return str(min(repeat, self.towers - 1))


def perceiver_init(rng, config):
    """Draw the parameters of a Perceiver.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    config : PerceiverConfig
        The model.

    Returns
    -------
    p : dict
        ``latents``, ``crosses`` and ``towers``, each under its number, ``query`` and ``decode``
        or ``ln``, and perhaps ``head``.
    """
    width, block = config.block.width, config.block
    added = config.reads + config.repeats * config.depth  # blocks that add to the same latents
    options = {"head_width": config.cross_head_width, "depth": added}

    def draw(*shape):
        return (config.latent_std * rng.standard_normal(shape)).astype("float32")

    p = {
        "latents": draw(config.latents, width),
        "crosses": {
            str(i): cross_block_init(rng, config.cross, config.input_width, **options)
            for i in range(config.crosses)
        },
        "towers": {
            str(i): tower_init(rng, block, depth=config.depth) for i in range(config.towers)
        },
    }
    if config.decoder == "query":
        p["query"] = draw(width)
        p["decode"] = cross_block_init(rng, config.cross, width)
    else:
        p["ln"] = NORMS[block.norm][0](width)
    if config.outputs:
        p["head"] = linear_init(rng, width, config.outputs)
    return p


def perceiver_forward(inputs, p, *, config, shape=None, real=None, rng=None):
    """Turn inputs of any kind into class scores, or into embeddings.

    Parameters
    ----------
    inputs : array of shape (B, N, C)
        One input for each place in reading order: ``images.reshape(B, H * W, C)``, normalised.
    p : dict
        As `perceiver_init` makes it.
    config : PerceiverConfig
        The model.
    shape : tuple of int, optional
        Length of each axis whose places these are, default the config's; where the config has no
        bands, N is free and this is not looked at.
    real : boolean array of shape (B, N), optional
        False where an input is padding, which nobody reads. Default all are real. A sample
        without any gives what the latents alone lead to.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.

    Returns
    -------
    y : array of shape (B, V)
        Scores of V classes or an embedding of V numbers; the decoded vector where the config has
        no outputs.
    saved : dict
        For `perceiver_backward`.

    Raises
    ------
    TypeError
        If the inputs are not floating point numbers, or `real` is not boolean.
    ValueError
        If the inputs, the mask or the parameters do not fit the config.

    See Also
    --------
    perceiver_backward : The gradient of this function.
    perceiver_features_forward : All latents instead of one vector.

    Notes
    -----
    The decoder with a query is that of Perceiver IO for classification [2]_: one query, without a
    residual. The mean is over normalised latents.

    References
    ----------
    .. [1] A. Jaegle et al., "Perceiver: General Perception with Iterative Attention", 2021,
       arXiv:2103.03206, section 3.
    .. [2] A. Jaegle et al., "Perceiver IO: A General Architecture for Structured Inputs &
       Outputs", 2021, arXiv:2107.14795, section 3.2.
    """
    s = {"config": config}
    x, s["features"] = perceiver_features_forward(
        inputs, p, config=config, shape=shape, real=real, rng=rng
    )  # (B, R, D)
    if config.decoder == "query":
        query = _for_each_sample(p["query"][None], x)  # (B, 1, D)
        x, s["decode"] = cross_block_forward(
            query, x, p["decode"], config=config.cross, residual=False, rng=rng
        )
        x = x[:, 0]  # (B, D)
    else:
        x, s["ln"] = NORMS[config.block.norm][1](x, p["ln"], eps=config.block.eps)
        x, s["pool"] = mean_pool_forward(x)  # (B, D)
    if config.outputs:
        x, s["head"] = linear_forward(x, p["head"])  # (B, V)
    return x, s


def perceiver_backward(dy, s, g):
    """Gradient of `perceiver_forward`, which it reads from the bottom up.

    Parameters
    ----------
    dy : array of shape (B, V)
        dL/dy.
    s : dict
        As `perceiver_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dinputs : array of shape (B, N, C)
    """
    config = s["config"]
    dx = dy
    if config.outputs:
        dx = linear_backward(dx, s["head"], g["head"])
    if config.decoder == "query":
        dquery, dx = cross_block_backward(dx[:, None], s["decode"], g["decode"])
        if g:
            g["query"] += dquery[:, 0].sum(0)
    else:
        dx = mean_pool_backward(dx, s["pool"])
        dx = NORMS[config.block.norm][2](dx, s["ln"], g["ln"])
    return perceiver_features_backward(dx, s["features"], g)


def perceiver_features_forward(inputs, p, *, config, shape=None, real=None, rng=None):
    """Turn inputs of any kind into latents, without the decoder.

    Parameters
    ----------
    inputs : array of shape (B, N, C)
        One input for each place in reading order.
    p : dict
        As `perceiver_init` makes it.
    config : PerceiverConfig
        The model.
    shape : tuple of int, optional
        Length of each axis whose places these are, default the config's.
    real : boolean array of shape (B, N), optional
        False where an input is padding.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.

    Returns
    -------
    x : array of shape (B, R, D)
        Latents, before any final norm.
    saved : dict
        For `perceiver_features_backward`; ``saved["repeats"]["0"]["cross"]["attn"]["attend"]``
        holds what the latents read first.

    Raises
    ------
    TypeError
        If the inputs are not floating point numbers, or `real` is not boolean.
    ValueError
        If the inputs, the mask or the parameters do not fit the config.

    See Also
    --------
    perceiver_features_backward : The gradient of this function.
    """
    _check_parameters(p, config)
    _check_inputs(inputs, real, config)
    s = {"config": config, "repeats": {}}
    z = _with_positions(inputs, config, config.shape if shape is None else shape)  # (B, N, E)
    mask = None if real is None else real[:, None, None]  # (B, 1, 1, N)
    x = _for_each_sample(p["latents"], inputs)  # (B, R, D)
    for i in range(config.repeats):
        saved = s["repeats"][str(i)] = {}
        if i < config.reads:
            x, saved["cross"] = cross_block_forward(
                x,
                z,
                p["crosses"][config.cross_name(i)],
                config=config.cross,
                mask=mask,
                residual=config.query_residual,
                rng=rng,
            )
        tower = p["towers"][config.tower_name(i)]
        x, saved["tower"] = tower_forward(x, tower, config=config.block, rng=rng)
    return x, s


def perceiver_features_backward(dx, s, g):
    """Gradient of `perceiver_features_forward`, which it reads from the bottom up.

    Parameters
    ----------
    dx : array of shape (B, R, D)
        dL/dx.
    s : dict
        As `perceiver_features_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dinputs : array of shape (B, N, C)

    Notes
    -----
    Repeats that share weights pass the same branch of `g`, whose leaves only ever gain: their
    gradients sum. The inputs were read in every repeat and gain from each, too.
    """
    config, dz = s["config"], 0
    for i in reversed(range(config.repeats)):
        saved = s["repeats"][str(i)]
        dx = tower_backward(dx, saved["tower"], g["towers"][config.tower_name(i)])
        if i < config.reads:
            dx, dz_here = cross_block_backward(
                dx, saved["cross"], g["crosses"][config.cross_name(i)]
            )
            dz += dz_here  # (B, N, E)
    if g:
        g["latents"] += dx.sum(0)
    return dz[..., : config.channels]


def _for_each_sample(x, batch):  # (R, D) -> (B, R, D)
    xp = namespace(x)
    return xp.ascontiguousarray(xp.broadcast_to(x, (len(batch), *x.shape)))


def _with_positions(inputs, config, shape):  # (B, N, C) -> (B, N, E)
    if config.bands is None:
        return inputs
    xp = namespace(inputs)
    table = fourier_positions(shape, config.bands, trained=config.shape)
    if len(table) != inputs.shape[1]:
        raise ValueError(
            f"{inputs.shape[1]} inputs are not one for each place of {tuple(shape)}, "
            f"{len(table)}; name the lengths of other axes with shape="
        )
    table = to_device(table.astype(inputs.real.dtype), xp)
    table = xp.broadcast_to(table, (len(inputs), *table.shape))
    return xp.concatenate([inputs, table], axis=2)


def _check_inputs(inputs, real, config):
    floating(inputs, "inputs")
    if inputs.ndim != 3 or inputs.shape[2] != config.channels or not inputs.shape[1]:
        raise ValueError(
            f"inputs must be (B, N, {config.channels}) with N at least 1, got {inputs.shape}; "
            f"for images write images.reshape(len(images), -1, {config.channels})"
        )
    if real is None:
        return
    if real.dtype != bool:
        raise TypeError(f"real must be boolean, True = not padding; got dtype {real.dtype}")
    if real.shape != inputs.shape[:2]:
        raise ValueError(f"real {real.shape} must be one for each input, {inputs.shape[:2]}")


def _check_parameters(p, config):
    found = {
        "latents": np.shape(p.get("latents", ())),
        "cross-attentions": len(p.get("crosses", ())),
        "latent transformers": [len(tower) for tower in p.get("towers", {}).values()],
    }
    wanted = {
        "latents": (config.latents, config.block.width),
        "cross-attentions": config.crosses,
        "latent transformers": [config.depth] * config.towers,
    }
    for name, value in wanted.items():
        if found[name] != value:
            raise ValueError(
                f"the config asks for {name} {value}; the parameters, {', '.join(p)}, hold "
                f"{found[name]}"
            )
