"""The connector: features of a vision tower become tokens that a language model can read."""

from dataclasses import dataclass, fields

import numpy as np

from scratch_vlm.backend import floating, to_host
from scratch_vlm.layers.config import check_keys, check_type
from scratch_vlm.layers.counts import check_counts
from scratch_vlm.layers.linear import linear_backward, linear_forward, linear_init
from scratch_vlm.layers.mlp import mlp_backward, mlp_forward, mlp_init
from scratch_vlm.layers.resampler import (
    ResamplerConfig,
    resampler_backward,
    resampler_forward,
    resampler_init,
)
from scratch_vlm.ops.activations import activation
from scratch_vlm.ops.masks import padding_mask
from scratch_vlm.ops.pixel_shuffle import (
    pixel_shuffle_backward,
    pixel_shuffle_forward,
    shuffled_grid,
)

OPTIONS = {  # what a kind can be told besides its widths and biases
    "none": (),
    "linear": (),
    "mlp": ("hidden", "activation"),
    "pixel_shuffle": ("hidden", "activation", "grid", "by"),
    "resampler": ("resampler",),
}


@dataclass(frozen=True)
class ConnectorConfig:
    """What stands between a vision tower and a language model.

    Attributes
    ----------
    kind : {"none", "linear", "mlp", "pixel_shuffle", "resampler"}
        Nothing, where features are visual tokens already; a linear layer for each feature; an MLP
        for each; an MLP for each square of neighbouring features; or a Perceiver Resampler, which
        makes as many tokens of a video as of an image.
    inputs : int
        E, channels of a feature.
    outputs : int
        D, width of the language model.
    hidden : int or None
        M, channels inside the MLP; None for as many as `outputs`.
    activation : str
        Of the MLP.
    bias : bool
        Whether linear layers have biases; those of a Resampler's blocks are up to its block.
    grid : tuple of int or None
        Rows and columns of a frame's patches, for the pixel shuffle.
    by : int
        Patches along a side of a square that becomes one token; divides rows and columns.
    resampler : ResamplerConfig or None
        The Resampler. If features or tokens are not as wide as its block, a linear layer stands
        in front of it or behind it.

    Raises
    ------
    TypeError
        If the Resampler is not a ResamplerConfig.
    ValueError
        If a number is out of range, a kind lacks what it needs, or is told what it does not use.

    Notes
    -----
    LLaVA has the linear layer [1]_, LLaVA-1.5 the MLP, in which `hidden` is `outputs` [2]_, and
    Flamingo the Resampler [3]_. InternVL 1.5 [4]_ and Idefics3 [5]_ shuffle pixels, by 2 each,
    and differ in what follows: in their released code the MLP of the former begins with a layer
    norm, and the latter has one linear layer. Here the MLP of LLaVA-1.5 follows.

    References
    ----------
    .. [1] H. Liu et al., "Visual Instruction Tuning", 2023, arXiv:2304.08485, section 4.1.
    .. [2] H. Liu et al., "Improved Baselines with Visual Instruction Tuning", 2023,
       arXiv:2310.03744, section 3.3.
    .. [3] J.-B. Alayrac et al., "Flamingo: a Visual Language Model for Few-Shot Learning", 2022,
       arXiv:2204.14198, section 2.1.
    .. [4] Z. Chen et al., "How Far Are We to GPT-4V? Closing the Gap to Commercial Multimodal
       Models with Open-Source Suites", 2024, arXiv:2404.16821.
    .. [5] H. Laurençon et al., "Building and better understanding vision-language models:
       insights and future directions", 2024, arXiv:2408.12637.
    """

    kind: str
    inputs: int
    outputs: int
    hidden: int | None = None
    activation: str = "gelu"
    bias: bool = True
    grid: tuple[int, int] | None = None
    by: int = 2
    resampler: ResamplerConfig | None = None

    def __post_init__(self):
        if self.kind not in OPTIONS:
            raise ValueError(f"kind must be one of {', '.join(OPTIONS)}, got {self.kind!r}")
        optional = {name for names in OPTIONS.values() for name in names}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in optional.difference(OPTIONS[self.kind]) and value != f.default:
                users = " or ".join(kind for kind, names in OPTIONS.items() if f.name in names)
                raise ValueError(
                    f"a connector of kind {self.kind} has no use for {f.name}, got {value!r}; "
                    f"it is for {users}"
                )
        for name in {"grid", "resampler"}.intersection(OPTIONS[self.kind]):
            if getattr(self, name) is None:
                raise ValueError(f"a connector of kind {self.kind} needs a {name}")
        check_counts(inputs=self.inputs, outputs=self.outputs)
        if self.kind == "none" and self.inputs != self.outputs:
            raise ValueError(
                f"a connector of kind none leaves features of {self.inputs} channels as they are; "
                f"outputs are to be {self.outputs}"
            )
        if self.hidden is not None:
            check_counts(hidden=self.hidden)
        activation(self.activation)
        if self.grid is not None:
            shuffled_grid(self.grid, self.by)
        if self.resampler is not None:
            check_type(ResamplerConfig, resampler=self.resampler)

    def tokens(self, frames, patches):
        """Count the visual tokens that a medium becomes.

        Parameters
        ----------
        frames, patches : int
            F and N: frames of the medium, 1 for an image, and features of each frame.

        Returns
        -------
        int
            S.

        Raises
        ------
        ValueError
            If there are no frames or patches, or not as many patches as the grid has.

        Examples
        --------
        >>> ConnectorConfig("mlp", 1024, 4096).tokens(1, 576)
        576
        >>> ConnectorConfig("pixel_shuffle", 1024, 4096, grid=(24, 24)).tokens(8, 576)
        1152
        """
        check_counts(frames=frames, patches=patches)
        if self.kind == "resampler":
            return self.resampler.latents
        if self.kind == "pixel_shuffle":
            rows, columns = self.grid
            if patches != rows * columns:
                raise ValueError(
                    f"{patches} patches a frame do not fill the grid {rows} x {columns} of "
                    f"{rows * columns}, class tokens not among them"
                )
            patches //= self.by**2
        return frames * patches


def connector_init(rng, config):
    """Draw the parameters of a connector.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    config : ConnectorConfig
        Its configuration.

    Returns
    -------
    p : dict
        ``out``, a linear layer, or ``mlp``, or ``resampler``, perhaps between the linear layers
        ``into`` and ``out``.
    """
    layers, bias = _layers(config), config.bias
    p = {}
    if "into" in layers:
        p["into"] = linear_init(rng, *layers["into"], bias=bias)
    if config.kind == "resampler":
        p["resampler"] = resampler_init(rng, config.resampler)
    if "mlp/fc" in layers:
        p["mlp"] = mlp_init(rng, *layers["mlp/fc"], outputs=config.outputs, bias=bias)
    if "out" in layers:
        p["out"] = linear_init(rng, *layers["out"], bias=bias)
    return p


def connector_forward(features, p, *, config, lengths=None, rng=None):
    """Turn the features of images or clips into visual tokens.

    Parameters
    ----------
    features : array of shape (M, F, N, E)
        N features of each of F frames of M media; an image is a clip of one frame. Class tokens
        are left out or counted among the N, but for the pixel shuffle.
    p : dict
        As `connector_init` makes it.
    config : ConnectorConfig
        Its configuration.
    lengths : integer array of shape (M,), optional
        Real frames of each medium, from 0 to F, on the host; default F for all. A Resampler does
        not look at what stands behind them, but it must be finite. The other kinds make tokens
        of it, too: `real_tokens` says which to leave out.
    rng : numpy.random.Generator, optional
        Draws the dropout of a Resampler; None for none.

    Returns
    -------
    y : array of shape (M, S, D)
        S = ``config.tokens(F, N)`` visual tokens of each medium, frame by frame.
    saved : dict
        For `connector_backward`.

    Raises
    ------
    TypeError
        If the features are not floating point numbers, or the lengths no integers.
    ValueError
        If shapes, lengths or parameters do not fit the config.

    See Also
    --------
    connector_backward : The gradient of this function.
    real_tokens : Which of the tokens are not padding.
    """
    floating(features, "features")
    _check_features(features, config)
    _check_parameters(p, config)
    m, frames, patches, _ = features.shape
    tokens = config.tokens(frames, patches)
    if lengths is not None:
        _check_lengths(lengths, m, frames)
    h, s = features, {}
    if config.kind == "pixel_shuffle":
        h, s["shuffle"] = pixel_shuffle_forward(h, grid=config.grid, by=config.by)
    if "into" in p:
        h, s["into"] = linear_forward(h, p["into"])
    if "resampler" in p:
        h, s["resampler"] = resampler_forward(
            h, p["resampler"], config=config.resampler, lengths=lengths, rng=rng
        )
    if "mlp" in p:
        h, s["mlp"] = mlp_forward(h, p["mlp"], kind=config.activation)
    if "out" in p:
        h, s["out"] = linear_forward(h, p["out"])
    s["shape"] = h.shape
    return h.reshape(m, tokens, config.outputs), s


def connector_backward(dy, s, g):
    """Gradient of `connector_forward`, which it reads from the bottom up.

    Parameters
    ----------
    dy : array of shape (M, S, D)
        dL/dy.
    s : dict
        As `connector_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dfeatures : array of shape (M, F, N, E)

    Notes
    -----
    Only what the kind has left in `s` is walked through.
    """
    dh = dy.reshape(s["shape"])
    if "out" in s:
        dh = linear_backward(dh, s["out"], g["out"])
    if "mlp" in s:
        dh = mlp_backward(dh, s["mlp"], g["mlp"])
    if "resampler" in s:
        dh = resampler_backward(dh, s["resampler"], g["resampler"])
    if "into" in s:
        dh = linear_backward(dh, s["into"], g["into"])
    if "shuffle" in s:
        dh = pixel_shuffle_backward(dh, s["shuffle"])
    return dh


def real_tokens(config, lengths, frames, patches):
    """Tell the visual tokens of real frames from those of padding.

    Parameters
    ----------
    config : ConnectorConfig
        Of the connector that makes the tokens.
    lengths : integer array of shape (M,)
        Real frames of each medium, from 0 to F.
    frames, patches : int
        F and N: frames of the longest medium, and features of each frame.

    Returns
    -------
    real : boolean array of shape (M, S)
        On the host. All tokens of a Resampler are real, even those of a medium without any
        frames: they say what the latents make of each other.

    Raises
    ------
    TypeError
        If the lengths are no integers.
    ValueError
        If a length is out of range, or the patches do not fit the config.

    Examples
    --------
    >>> config = ConnectorConfig("linear", 8, 16)
    >>> real_tokens(config, np.array([2, 1]), frames=2, patches=3).astype(int)
    array([[1, 1, 1, 1, 1, 1],
           [1, 1, 1, 0, 0, 0]])
    """
    tokens = config.tokens(frames, patches)
    real = padding_mask(to_host(lengths), frames)[:, 0, 0]  # (M, F)
    if config.kind == "resampler":
        return np.ones((len(real), tokens), bool)
    return real.repeat(tokens // frames, axis=1)


def _layers(config):  # channels in and out of every linear layer, by name
    inputs, outputs = config.inputs, config.outputs
    if config.kind == "none":
        return {}
    if config.kind == "linear":
        return {"out": (inputs, outputs)}
    if config.kind == "resampler":
        width = config.resampler.block.width
        around = {"into": (inputs, width), "out": (width, outputs)}
        return {name: ends for name, ends in around.items() if ends[0] != ends[1]}
    if config.kind == "pixel_shuffle":
        inputs *= config.by**2
    hidden = outputs if config.hidden is None else config.hidden
    return {"mlp/fc": (inputs, hidden), "mlp/proj": (hidden, outputs)}


def _check_features(features, config):
    if features.ndim != 4 or features.shape[3] != config.inputs:
        raise ValueError(
            f"features must be (M, F, N, {config.inputs}), got {features.shape}; an image is a "
            "clip of one frame"
        )


def _check_lengths(lengths, m, frames):
    if np.shape(lengths) != (m,):
        raise ValueError(f"lengths {np.shape(lengths)} must be one for each of the {m} media")
    padding_mask(to_host(lengths), frames)  # refuses what are no lengths


def _check_parameters(p, config):
    layers = _layers(config)
    wanted = {name.partition("/")[0] for name in layers}
    if config.kind == "resampler":
        wanted.add("resampler")
    check_keys(p)  # refuses what is no dict
    if set(p) != wanted:
        raise ValueError(
            f"a connector of kind {config.kind}, as the config has it, holds "
            f"{', '.join(sorted(wanted))}; the parameters hold {', '.join(sorted(p))}"
        )
    check_keys(p, *(f"{name}/w" for name in layers))
    for name, ends in layers.items():
        found = p
        for key in (*name.split("/"), "w"):
            found = found[key]
        if found.shape != ends:
            raise ValueError(
                f"the config asks for {name}/w of {ends}, channels in and out; "
                f"the parameters hold {found.shape}"
            )
