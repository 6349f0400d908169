"""The Perceiver and Perceiver IO: a fixed number of latents read any number of inputs.

An image is here an array of bytes, each with its position beside it: nothing in the model knows
what a patch is, or which pixels are neighbours.
"""

from dataclasses import dataclass, replace

import numpy as np

from scratch_vlm.backend import floating, namespace, to_device
from scratch_vlm.layers.block import BlockConfig, tower_backward, tower_forward, tower_init
from scratch_vlm.layers.config import check_keys
from scratch_vlm.layers.counts import check_counts
from scratch_vlm.layers.embedding import embedding_init
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
from scratch_vlm.ops.positions import (
    interpolate_positions_backward,
    interpolate_positions_forward,
)

VARIANTS = ("original", "io")
DECODERS = ("mean", "mean_first", "query")


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
    cross_head_width, cross_value_width : int or None
        Channels of such a head, and of its values; None for D over their number, and for as many
        as a head has.
    cross_hidden : int or None
        Channels inside the MLP after a cross-attention; None for those of `block`.
    query_residual : bool
        Whether the latents stay and add what they read.
    decoder : {"mean", "mean_first", "query"}
        What stands for the input: the mean of the normalised latents, their mean, which is
        normalised then [3]_, or a learned query that reads them.
    latent_std : float
        Standard deviation that the latents start with.
    highest : float or None
        Highest Fourier frequency, and
    order : {"kinds", "axes"}
        order of the features, see `fourier_positions`.
    learned : int or None
        Channels of learned positions, in the place of Fourier features; inputs become as wide by
        a linear layer. For images.
    decoder_heads, decoder_hidden : int or None
        Of the block of the query; None for those of the cross-attentions.
    decoder_residual : bool
        Whether the query stays and adds what it read.

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
    .. [3] lucidrains/perceiver-pytorch, perceiver_pytorch/perceiver_pytorch.py, class Perceiver.
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
    cross_value_width: int | None = None
    highest: float | None = None
    order: str = "kinds"
    learned: int | None = None
    decoder_heads: int | None = None
    decoder_hidden: int | None = None
    decoder_residual: bool = False

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
        optional = ("cross_hidden", "cross_head_width", "cross_value_width", "learned")
        for name in (*optional, "decoder_heads", "decoder_hidden"):
            if getattr(self, name) is not None:
                check_counts(**{name: getattr(self, name)})
        if self.learned is not None and (self.bands is not None or len(self.shape) != 2):
            raise ValueError(
                f"learned positions are for images, and in the place of Fourier features; got "
                f"shape {self.shape} and bands {self.bands}"
            )
        check_axes(self.shape, "shape")
        if self.bands is not None:
            # refuses what is no number of bands, or no order
            fourier_positions((1,), self.bands, order=self.order)
        if self.crosses > self.reads:
            raise ValueError(
                f"{self.crosses} cross-attentions are more than the {self.reads} times that the "
                f"{self.variant!r} variant reads in {self.repeats} repeats"
            )
        if self.towers > self.repeats:
            raise ValueError(
                f"{self.towers} latent transformers are more than the {self.repeats} repeats"
            )
        if self.cross_head_width is None and self.block.width % self.cross_heads:
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
        if self.learned is not None:
            return 2 * self.learned
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
            head_width=self.cross_head_width,
            value_width=self.cross_value_width,
            rotary_base=None,
        )

    @property
    def decoding(self):
        """The kind of block of the query."""
        if self.decoder_heads is None and self.decoder_hidden is None:
            return replace(self.cross, head_width=None, value_width=None)
        return replace(
            self.cross,
            heads=self.decoder_heads or self.cross_heads,
            hidden=self.decoder_hidden or self.cross.hidden,
            head_width=None,
            value_width=None,
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
        or ``ln``, and perhaps ``head`` and ``places``.
    """
    width, block = config.block.width, config.block
    added = config.reads + config.repeats * config.depth  # blocks that add to the same latents
    options = {"depth": added}

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
        p["decode"] = cross_block_init(rng, config.decoding, width)
    else:
        p["ln"] = NORMS[block.norm][0](width)
    if config.outputs:
        p["head"] = linear_init(rng, width, config.outputs)
    if config.learned is not None:
        p["places"] = {
            "input": linear_init(rng, config.channels, config.learned),
            "positions": embedding_init(rng, config.shape[0] * config.shape[1], config.learned),
            "position": linear_init(rng, config.learned, config.learned),
        }
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
            query,
            x,
            p["decode"],
            config=config.decoding,
            residual=config.decoder_residual,
            rng=rng,
        )
        x = x[:, 0]  # (B, D)
    elif config.decoder == "mean_first":
        x, s["pool"] = mean_pool_forward(x)  # (B, D)
        x, s["ln"] = NORMS[config.block.norm][1](x, p["ln"], eps=config.block.eps)
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
    elif config.decoder == "mean_first":
        dx = NORMS[config.block.norm][2](dx, s["ln"], g["ln"])
        dx = mean_pool_backward(dx, s["pool"])
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
    shape = config.shape if shape is None else shape
    if config.learned is None:
        z = with_positions(inputs, config, shape)  # (B, N, E)
    else:
        z, s["places"] = places_forward(inputs, p["places"], trained=config.shape, shape=shape)
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
    if config.learned is not None:
        return places_backward(dz, s["places"], g["places"])
    return dz[..., : config.channels]


def places_forward(inputs, p, *, trained, shape):
    """Put beside each pixel a learned vector for its place, both as wide as each other.

    Parameters
    ----------
    inputs : array of shape (B, N, C)
        Pixels in reading order.
    p : dict
        ``input``, a linear layer for the pixels, ``positions/w`` with a vector for each place of
        the images to train on, and ``position``, a linear layer for those.
    trained, shape : tuple of int
        Height and width of the images to train on, and of these. Where they differ the vectors
        are interpolated.

    Returns
    -------
    y : array of shape (B, N, E)
        What became of a pixel, then of its place.
    saved : dict
        For `places_backward`.

    Raises
    ------
    ValueError
        If there is not a pixel for each place, or the parameters are others.

    See Also
    --------
    places_backward : The gradient of this function.

    References
    ----------
    .. [1] A. Jaegle et al., "Perceiver IO: A General Architecture for Structured Inputs &
       Outputs", 2021, arXiv:2107.14795, appendix (ImageNet with learned position features).
    """
    check_keys(p, "input/w", "positions/w", "position/w")
    xp, s = namespace(inputs), {}
    x, s["input"] = linear_forward(inputs, p["input"])  # (B, N, E / 2)
    table, s["stretched"] = interpolate_positions_forward(
        p["positions"]["w"], old=trained, new=tuple(shape), method="bicubic_repeat"
    )
    if len(table) != x.shape[1]:
        raise ValueError(f"{x.shape[1]} inputs are not one for each place of {tuple(shape)}")
    places, s["position"] = linear_forward(table, p["position"])  # (N, E / 2)
    y = xp.concatenate([x, xp.broadcast_to(places, (len(x), *places.shape))], axis=2)
    return y, s


def places_backward(dy, s, g):
    """Gradient of `places_forward`, which it reads from the bottom up.

    Parameters
    ----------
    dy : array of shape (B, N, E)
        dL/dy.
    s : dict
        As `places_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dinputs : array of shape (B, N, C)

    Notes
    -----
    A place is the same in all images, so its gradient is the sum over them.
    """
    half = dy.shape[2] // 2
    dx, dplaces = dy[..., :half], dy[..., half:].sum(0)
    dtable = linear_backward(dplaces, s["position"], g["position"])
    if g["positions"]:
        g["positions"]["w"] += interpolate_positions_backward(dtable, s["stretched"])
    return linear_backward(dx, s["input"], g["input"])


def _for_each_sample(x, batch):  # (R, D) -> (B, R, D)
    xp = namespace(x)
    return xp.ascontiguousarray(xp.broadcast_to(x, (len(batch), *x.shape)))


def with_positions(inputs, config, shape):
    """Put beside each input the Fourier features of its place.

    Parameters
    ----------
    inputs : array of shape (B, N, C)
        One for each place in reading order.
    config : PerceiverConfig
        The model; without bands nothing is put there.
    shape : tuple of int
        Length of each axis.

    Returns
    -------
    array of shape (B, N, E)

    Raises
    ------
    ValueError
        If there is not an input for each place.
    """
    if config.bands is None:
        return inputs
    xp = namespace(inputs)
    table = fourier_positions(
        shape, config.bands, trained=config.shape, highest=config.highest, order=config.order
    )
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
