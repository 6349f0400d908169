"""The block of the Perceiver: a few latents read any number of inputs, then think."""

from scratch_vlm.backend import namespace
from scratch_vlm.layers.attention import (
    cross_attention_backward,
    cross_attention_forward,
    cross_attention_init,
)
from scratch_vlm.layers.mlp import feed
from scratch_vlm.layers.norm import NORMS
from scratch_vlm.ops.dropout import dropout_backward, dropout_forward


def cross_block_init(rng, config, source_width, *, head_width=None, qk_norm=None, depth=1):
    """Draw the parameters of `cross_block_forward`.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the weights come from.
    config : BlockConfig
        The kind of block; width, heads and MLP are those of the latents.
    source_width : int
        E, channels of the inputs.
    head_width : int, optional
        K, channels of a head. Default that of the config.
    qk_norm : {"rms", "layer"}, optional
        How the queries and keys of each head are normalised. Default not at all.
    depth : int, default 1
        Blocks that add to the same latents; each starts smaller by sqrt(2 depth).

    Returns
    -------
    p : dict
        ``ln_z`` for the inputs, ``ln1``, ``attn``, ``ln2`` and ``mlp``.

    Raises
    ------
    ValueError
        If the config asks for norms after the sums, or for rotary positions.
    """
    check_cross_block(config)
    norm_init = NORMS[config.norm][0]
    shrink = (2 * depth) ** -0.5
    head_width = config.head_width if head_width is None else head_width
    inside = config.width if head_width is None else config.heads * head_width
    return {
        "ln_z": norm_init(source_width),
        "ln1": norm_init(config.width),
        "attn": cross_attention_init(
            rng,
            config.width,
            source_width,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_width=head_width,
            value_width=config.value_width,
            bias=config.bias,
            out_std=shrink * inside**-0.5,
            qk_norm=qk_norm,
        ),
        "ln2": norm_init(config.width),
        "mlp": feed(config.mlp)[0](
            rng,
            config.width,
            config.hidden,
            bias=config.bias,
            out_std=shrink * config.hidden**-0.5,
        ),
    }


def cross_block_forward(x, z, p, *, config, mask=None, residual=True, with_latents=False, rng=None):
    """Let latents read inputs, then think; both are normalised before.

    Parameters
    ----------
    x : array of shape (B, R, D)
        Latents, which ask.
    z : array of shape (B, S, E)
        Inputs, which answer.
    p : dict
        As `cross_block_init` makes it.
    config : BlockConfig
        The kind of block.
    mask : boolean array broadcastable to (B, A, R, S), optional
        True where a latent may attend; one that may attend to nothing reads zeros. The last
        axis is S + R where the latents are read, too.
    residual : bool, default True
        Add what was read to the latents, instead of putting it in their place.
    with_latents : bool, default False
        Let the latents read each other beside the inputs, as in the Resampler; E is D then.
    rng : numpy.random.Generator, optional
        Draws the dropout; None for none.

    Returns
    -------
    y : array of shape (B, R, D)
    saved : dict
        For `cross_block_backward`; ``attention_weights(saved["attn"]["attend"])`` shows what each
        latent read.

    Raises
    ------
    ValueError
        If shapes do not fit, or the config asks for norms after the sums or rotary positions.

    See Also
    --------
    cross_block_backward : The gradient of this function.

    Notes
    -----
    ``x = x + attn(ln1(x), ln_z(z)); y = x + mlp(ln2(x))`` [1]_: with R latents the cost grows
    with S, not with its square. The residual of the queries is a choice of Perceiver IO [2]_;
    its decoder goes without. The Resampler [3]_ reads ``concat([ln_z(z), ln1(x)])``.

    References
    ----------
    .. [1] A. Jaegle et al., "Perceiver: General Perception with Iterative Attention", 2021,
       arXiv:2103.03206, section 3.1.
    .. [2] A. Jaegle et al., "Perceiver IO: A General Architecture for Structured Inputs &
       Outputs", 2021, arXiv:2107.14795, appendix (architectural details).
    .. [3] J.-B. Alayrac et al., "Flamingo: a Visual Language Model for Few-Shot Learning", 2022,
       arXiv:2204.14198, figure 5.
    """
    check_cross_block(config)
    _check_inputs(x, z, with_latents)
    s = {"config": config, "residual": residual, "with_latents": with_latents}
    norm = NORMS[config.norm][1]
    q, s["ln1"] = norm(x, p["ln1"], eps=config.eps)
    kv, s["ln_z"] = norm(z, p["ln_z"], eps=config.eps)
    s["inputs"] = z.shape[1]
    if with_latents:
        kv = namespace(x).concatenate([kv, q], axis=1)  # (B, S + R, D)
    h, s["attn"] = cross_attention_forward(
        q,
        kv,
        p["attn"],
        heads=config.heads,
        kv_heads=config.kv_heads,
        mask=mask,
        eps=config.eps,
        blind=config.blind,
    )
    h, s["drop1"] = dropout_forward(h, rate=config.dropout, rng=rng)
    x = x + h if residual else h
    h, s["ln2"] = norm(x, p["ln2"], eps=config.eps)
    h, s["mlp"] = feed(config.mlp)[1](h, p["mlp"])
    h, s["drop2"] = dropout_forward(h, rate=config.dropout, rng=rng)
    h += x
    return h, s


def cross_block_backward(dy, s, g):
    """Gradient of `cross_block_forward`, which it reads from the bottom up.

    Parameters
    ----------
    dy : array of shape (B, R, D)
        dL/dy.
    s : dict
        As `cross_block_forward` saved it.
    g : dict
        Gains the gradients of the parameters; empty if they are frozen.

    Returns
    -------
    dx : array of shape (B, R, D)
        Of the latents.
    dz : array of shape (B, S, E)
        Of the inputs.

    Notes
    -----
    A gradient comes back to the latents on every path that they took: past the attention, as
    queries and, in the Resampler, as keys and values.
    """
    config = s["config"]
    norm = NORMS[config.norm][2]
    dh = dropout_backward(dy, s["drop2"])
    dh = feed(config.mlp)[2](dh, s["mlp"], g["mlp"])
    dx = norm(dh, s["ln2"], g["ln2"], past=dy)
    dh = dropout_backward(dx, s["drop1"])
    dq, dkv = cross_attention_backward(dh, s["attn"], g["attn"])
    if s["with_latents"]:
        dq += dkv[:, s["inputs"] :]
        dkv = dkv[:, : s["inputs"]]  # (B, S, D)
    dz = norm(dkv, s["ln_z"], g["ln_z"])
    dlatents = norm(dq, s["ln1"], g["ln1"], past=dx if s["residual"] else None)
    return dlatents, dz


def check_cross_block(config):
    """Refuse a kind of block that latents cannot read inputs with.

    Parameters
    ----------
    config : BlockConfig
        The kind of block.

    Raises
    ------
    ValueError
        If its norms come after the sums, or its positions are rotary: latents and inputs do not
        stand in one line.
    """
    if config.order != "pre" or config.rotary_base is not None:
        raise ValueError(
            "latents read inputs with norms before the sublayers and without rotary positions; "
            f"got order {config.order!r} and rotary_base {config.rotary_base}"
        )


def _check_inputs(x, z, with_latents):
    if x.ndim != 3 or z.ndim != 3 or len(x) != len(z):
        raise ValueError(
            f"latents must be (B, R, D) and inputs (B, S, E), with one B; got {x.shape}, {z.shape}"
        )
    if with_latents and x.shape[2] != z.shape[2]:
        raise ValueError(
            f"inputs that are read beside the latents must be as wide: {z.shape[2]} channels "
            f"beside {x.shape[2]}"
        )
