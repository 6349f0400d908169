"""A random case for every pair.

Each function draws one of the ways in which its pair can be called. Whole models with everything
that can be built into them are cases of their own, at the end.
"""

from functools import partial

import numpy as np

from scratch_vlm.cases.case import Case, Sizes, random_mask, random_parameters
from scratch_vlm.layers import (
    attention,
    block,
    connector,
    embedding,
    gated,
    linear,
    lora,
    mlp,
    norm,
    perceiver,
    pool,
    resampler,
)
from scratch_vlm.models import (
    bert,
    clip,
    cross_modal,
    lm,
    mllama,
    text,
    unified,
    video,
    vision,
    vit,
)
from scratch_vlm.models import perceiver as perceivers
from scratch_vlm.ops import activations, resize, rotary
from scratch_vlm.recompute import chunked

CASES = {}
WHOLE_MODELS = {}  # name to the name of the pair and what makes a case


def _case(name):
    def register(make):
        CASES[name] = make
        return make

    return register


def _normal(rng, *shape):
    return rng.standard_normal(shape)


def _either(rng, *choices):
    return choices[rng.integers(len(choices))]


def _maybe_mask(rng, n, answers):
    shape = (_either(rng, 1, n.B), _either(rng, 1, n.A), n.T, answers)
    return _either(rng, None, random_mask(rng, shape), np.tri(n.T, answers, dtype=bool))


def _kv_heads(rng, heads):
    return int(_either(rng, *[g for g in range(1, heads + 1) if heads % g == 0]))


def _positions(rng, n):
    return _either(rng, rng.integers(0, 9, n.T), rng.integers(0, 9, (n.B, n.T)))


def _dice(rng):  # a generator that starts alike for every call, as dropout needs
    return partial(np.random.default_rng, int(rng.integers(2**32)))


def _maybe_dice(rng):
    return {"rng": None if rng.random() < 0.25 else _dice(rng)}


def _block_config(rng, n, **fixed):
    options = {
        "kv_heads": _kv_heads(rng, n.A),
        "norm": _either(rng, "layer", "rms"),
        "mlp": _either(rng, "gelu", "gelu_tanh", "quick_gelu", "squared_relu", "swiglu", "geglu"),
        "bias": _either(rng, True, False, ("qkv", "kv", "fc"), ("q", "out", "proj")),
        "dropout": _either(rng, 0.0, 0.2),
        "eps": 1e-2,
        "rotary_base": _either(rng, None, 20.0) if n.K % 2 == 0 else None,
        "scale": _either(rng, None, 0.7),
        "depth_scale": _either(rng, True, False),
        "blind": _either(rng, "zero", "mean"),
    }
    return block.BlockConfig(n.D, n.A, n.M, **{**options, **fixed})


_SPREAD = {"clipped_gelu": 6, "relu6": 4, "hardswish": 4, "laplace": 0.4}  # where they bend
for _name, (_forward, _) in activations.ACTIVATIONS.items():
    _where = _forward.__module__.removeprefix("scratch_vlm.")
    _spread = _SPREAD.get(_name, 2)
    CASES[f"{_where}.{_name}"] = lambda rng, n, by=_spread: Case((by * _normal(rng, n.B, n.T),))

for _name in ("softmax", "l2_normalize"):
    CASES[f"ops.normalize.{_name}"] = lambda rng, n: Case((_normal(rng, n.B, n.T, n.E),))


@_case("ops.attend.attend")
def _(rng, n):
    groups = _kv_heads(rng, n.A)
    q, k, v = (
        _normal(rng, n.B, n.A, n.T, n.K),
        _normal(rng, n.B, groups, n.S, n.K),
        _normal(rng, n.B, groups, n.S, n.E),
    )
    options = {
        "mask": _maybe_mask(rng, n, n.S),
        "scale": _either(rng, None, 0.3),
        "blind": _either(rng, "zero", "mean"),
    }
    return Case((q, k, v), options=options)


@_case("ops.dropout.dropout")
def _(rng, n):
    options = {"rate": _either(rng, 0.0, 0.3), **_maybe_dice(rng)}
    return Case((_normal(rng, n.B, n.T),), options=options)


@_case("ops.losses.cross_entropy")
def _(rng, n):
    labels = rng.integers(0, n.V, (n.B, n.T))
    labels[rng.random(labels.shape) < 0.2] = -100
    options = {"smoothing": _either(rng, 0.0, 0.1)}
    return Case((_normal(rng, n.B, n.T, n.V), labels), options=options)


@_case("ops.losses.contrastive")
def _(rng, n):
    return Case((_normal(rng, n.B, n.E), _normal(rng, n.B, n.E), _normal(rng)))


@_case("ops.losses.sigmoid_contrastive")
def _(rng, n):
    return Case((_normal(rng, n.B, n.E), _normal(rng, n.B, n.E), _normal(rng), _normal(rng)))


def _images(rng, n, patch):
    return _normal(rng, n.B, n.rows * patch[0], n.columns * patch[1], n.C)


@_case("ops.patches.patchify")
def _(rng, n):
    patch = _either(rng, (1, 6), (7, 6))
    return Case((_images(rng, n, patch),), options={"patch": patch})


@_case("ops.patches.unpatchify")
def _(rng, n):
    patch = _either(rng, (1, 6), (7, 6))
    patches = _normal(rng, n.B, n.rows * n.columns, patch[0] * patch[1] * n.C)
    size = (n.rows * patch[0], n.columns * patch[1])
    return Case((patches,), options={"size": size, "patch": patch})


@_case("ops.pixel_shuffle.pixel_shuffle")
def _(rng, n):
    by = _either(rng, 1, 2, 3)
    grid = (n.rows * by, n.columns * by)
    leading = _either(rng, (n.B,), (n.B, n.T))
    x = _normal(rng, *leading, grid[0] * grid[1], n.E)
    return Case((x,), options={"grid": grid, "by": by})


@_case("ops.positions.interpolate_positions")
def _(rng, n):
    new = _either(rng, (n.rows, n.columns), (n.rows + 2, n.columns + 1), (1, n.columns))
    options = {
        "old": (n.rows, n.columns),
        "new": new,
        "method": _either(rng, *resize.METHODS),
    }
    extra = _either(rng, 0, 1)
    return Case((_normal(rng, extra + n.rows * n.columns, n.D),), options=options)


@_case("ops.rotary.rotary")
def _(rng, n):
    scaling = _either(
        rng,
        None,
        rotary.RotaryScaling("linear", 2.0),
        rotary.RotaryScaling("llama3", 8.0, trained=16),
        rotary.RotaryScaling("yarn", 4.0, trained=64, low=1, high=32, size=1.1),
    )
    options = {"positions": _positions(rng, n), "base": 20.0, "scaling": scaling}
    return Case((_normal(rng, n.B, n.A, n.T, 2 * n.K),), options=options)


@_case("ops.resize.resize")
def _(rng, n):
    options = {
        "size": (int(rng.integers(1, 9)), int(rng.integers(1, 9))),
        "method": _either(rng, *resize.METHODS),
        "antialias": _either(rng, True, False),
    }
    return Case((_normal(rng, n.B, n.T, n.S, n.C),), options=options)


@_case("layers.linear.linear")
def _(rng, n):
    p = linear.linear_init(rng, n.D, n.M, bias=_either(rng, True, False))
    if rng.random() < 0.5:
        p["lora"] = lora.lora_init(rng, n.D, n.M, rank=min(2, n.D, n.M))
    return Case((_normal(rng, n.B, n.T, n.D),), random_parameters(rng, p))


@_case("layers.lora.lora")
def _(rng, n):
    p = lora.lora_init(rng, n.D, n.M, rank=int(rng.integers(1, min(n.D, n.M) + 1)))
    return Case((_normal(rng, n.B, n.T, n.D),), random_parameters(rng, p))


@_case("layers.norm.layer_norm")
def _(rng, n):
    p = random_parameters(rng, norm.layer_norm_init(n.D))
    return Case((_normal(rng, n.B, n.T, n.D),), p, {"eps": 0.1})


@_case("layers.norm.rms_norm")
def _(rng, n):
    p = random_parameters(rng, norm.rms_norm_init(n.D))
    return Case((_normal(rng, n.B, n.T, n.D),), p, {"eps": 0.1})


@_case("layers.embedding.embedding")
def _(rng, n):
    vocabulary = _either(rng, n.V, 1025 + n.V)  # gradients of large tables add up in another way
    p = random_parameters(rng, embedding.embedding_init(rng, vocabulary, n.D))
    return Case((rng.integers(0, vocabulary, (n.B, n.T)),), p)


@_case("layers.embedding.positions")
def _(rng, n):
    places = n.T + _either(rng, 0, 2, 1025)  # gradients of large tables add up in another way
    p = random_parameters(rng, embedding.embedding_init(rng, places, n.D))
    options = {"places": _either(rng, None, rng.integers(0, places, (n.B, n.T)))}
    return Case((_normal(rng, n.B, n.T, n.D),), p, options)


@_case("layers.embedding.grid_positions")
def _(rng, n):
    extra = _either(rng, 0, 1)
    trained = (n.rows, n.columns)
    grid = _either(rng, trained, (n.rows + 1, n.columns + 2))
    p = embedding.grid_positions_init(
        rng, trained, n.D, extra=extra, axial=_either(rng, True, False)
    )
    x = _normal(rng, n.B, extra + grid[0] * grid[1], n.D)
    options = {"grid": grid, "trained": trained, "method": _either(rng, *resize.METHODS)}
    return Case((x,), random_parameters(rng, p), options)


@_case("layers.attention.self_attention")
def _(rng, n):
    options = {"heads": n.A, "kv_heads": _kv_heads(rng, n.A)}
    width = _either(rng, n.K, 2 * n.K)  # of a head, perhaps not D / A
    p = attention.self_attention_init(
        rng,
        n.D,
        **options,
        head_width=width,
        value_width=_either(rng, None, n.K + 1),
        bias=_either(rng, True, False, ("qkv",), ("out",)),
    )
    options |= {"mask": _maybe_mask(rng, n, n.T), "scale": _either(rng, None, 0.3)}
    options["blind"] = _either(rng, "zero", "mean")
    if width % 2 == 0 and rng.random() < 0.5:
        options |= {"rotary_base": 20.0, "positions": _either(rng, None, _positions(rng, n))}
    return Case((_normal(rng, n.B, n.T, n.D),), random_parameters(rng, p), options)


@_case("layers.attention.cross_attention")
def _(rng, n):
    options = {"heads": n.A, "kv_heads": _kv_heads(rng, n.A)}
    p = attention.cross_attention_init(
        rng,
        n.D,
        n.E,
        **options,
        head_width=n.K + 1,
        value_width=_either(rng, None, n.K),
        bias=_either(rng, True, False, ("q",), ("kv", "out")),
        qk_norm=_either(rng, None, "rms", "layer"),
    )
    options |= {"mask": _maybe_mask(rng, n, n.S), "eps": 1e-2}
    options["blind"] = _either(rng, "zero", "mean")
    inputs = (_normal(rng, n.B, n.T, n.D), _normal(rng, n.B, n.S, n.E))
    return Case(inputs, random_parameters(rng, p), options)


@_case("layers.mlp.mlp")
def _(rng, n):
    outputs = _either(rng, None, n.E)
    p = mlp.mlp_init(rng, n.D, n.M, outputs=outputs, bias=_either(rng, True, False))
    kind = _either(rng, *activations.ACTIVATIONS)
    return Case((_normal(rng, n.B, n.T, n.D),), random_parameters(rng, p), {"kind": kind})


@_case("layers.mlp.swiglu")
def _(rng, n):
    p = mlp.swiglu_init(rng, n.D, n.M, bias=_either(rng, True, False))
    options = {"kind": _either(rng, *mlp.GATED.values())}
    return Case((_normal(rng, n.B, n.T, n.D),), random_parameters(rng, p), options)


def _block_case(order, rng, n, init=block.block_init, **init_options):
    config = _block_config(rng, n, order=order)
    p = random_parameters(rng, init(rng, config, **init_options))
    options = {"config": config, "mask": _maybe_mask(rng, n, n.T), **_maybe_dice(rng)}
    options["positions"] = _either(rng, None, _positions(rng, n))
    return Case((_normal(rng, n.B, n.T, n.D),), p, options)


CASES["layers.block.pre_block"] = partial(_block_case, "pre")
CASES["layers.block.post_block"] = partial(_block_case, "post")
CASES["layers.block.tower"] = lambda rng, n: _block_case(
    _either(rng, "pre", "post"), rng, n, block.tower_init, depth=2
)


@_case("layers.pool.pick")
def _(rng, n):
    index = _either(rng, 0, rng.integers(0, n.T, n.B))
    return Case((_normal(rng, n.B, n.T, n.D),), options={"index": index})


@_case("layers.pool.mean_pool")
def _(rng, n):
    mask = _either(rng, None, random_mask(rng, (n.B, n.T)))
    return Case((_normal(rng, n.B, n.T, n.D),), options={"mask": mask})


@_case("layers.pool.attention_pool")
def _(rng, n):
    p = pool.attention_pool_init(rng, n.D, n.M, heads=n.A)
    options = {"heads": n.A, "eps": 0.1}
    return Case((_normal(rng, n.B, n.T, n.D),), random_parameters(rng, p), options)


def _vit_config(rng, n, **fixed):
    patch = (2, 3)
    options = {
        "outputs": _either(rng, 0, n.E),
        "pool": _either(rng, "cls", "mean", "attention"),
        "positions": _either(rng, "learned", "axial", "sincos") if n.D % 4 == 0 else "axial",
        "patch_bias": _either(rng, True, False),
        "head_bias": _either(rng, True, False),
        "norm_first": _either(rng, True, False),
        "ends": _either(rng, None, "tanh"),
        "stretch": _either(rng, *resize.METHODS),
    }
    return vit.ViTConfig(
        image=(n.rows * patch[0], n.columns * patch[1], n.C),
        patch=patch,
        block=_block_config(rng, n),
        depth=2,
        **{**options, **fixed},
    )


def _vit_case(rng, n, **fixed):
    config = _vit_config(rng, n, **fixed)
    p = random_parameters(rng, vit.vit_init(rng, config))
    return Case((_images(rng, n, config.patch),), p, {"config": config, **_maybe_dice(rng)})


@_case("models.vit.vit")
def _(rng, n):
    config = _vit_config(rng, n)
    p = random_parameters(rng, vit.vit_init(rng, config))
    grow = 0 if config.positions == "axial" else _either(rng, 0, 1)
    larger = Sizes(**{**n.__dict__, "rows": n.rows + grow})
    return Case((_images(rng, larger, config.patch),), p, {"config": config, **_maybe_dice(rng)})


CASES["models.vit.vit_features"] = _vit_case


@_case("models.vit.vit_embed")
def _(rng, n):
    case = _vit_case(rng, n)
    return Case(case.inputs, case.p, {"config": case.options["config"]})


CASES["models.clip.encode_images"] = lambda rng, n: _vit_case(rng, n, outputs=n.E)


def _text_config(rng, n, outputs=None):
    return text.TextConfig(
        vocabulary=n.V,
        context=n.T + 1,
        end=n.V - 1,
        outputs=_either(rng, 0, n.E) if outputs is None else outputs,
        block=_block_config(rng, n),
        depth=2,
        causal=_either(rng, True, False),
        head_bias=_either(rng, True, False),
        pool=_either(rng, *text.POOLS),
    )


def _texts(rng, n):
    ids = rng.integers(0, n.V - 1, (n.B, n.T))
    ids[np.arange(n.B), rng.integers(0, n.T, n.B)] = n.V - 1
    return ids


def _text_case(rng, n):
    config = _text_config(rng, n)
    p = random_parameters(rng, text.text_init(rng, config))
    return Case((_texts(rng, n),), p, {"config": config, **_maybe_dice(rng)})


@_case("models.text.text")
def _(rng, n):
    case = _text_case(rng, n)
    real = _either(rng, None, random_mask(rng, (n.B, n.T)))
    return Case(case.inputs, case.p, {**case.options, "real": real})


CASES["models.text.text_features"] = CASES["models.text.text"]
CASES["models.clip.encode_texts"] = _text_case


@_case("models.clip.clip")
def _(rng, n):
    config = clip.CLIPConfig(
        _vit_config(rng, n, outputs=n.E),
        _text_config(rng, n, n.E),
        _either(rng, "softmax", "sigmoid"),
    )
    p = random_parameters(rng, clip.clip_init(rng, config))
    options = {"config": config, **_maybe_dice(rng)}
    if rng.random() < 0.5:
        options["wrap"] = partial(chunked, size=2, recompute=True)
    return Case((_images(rng, n, config.image.patch), _texts(rng, n)), p, options)


@_case("models.bert.bert")
def _(rng, n):
    config = bert.BERTConfig(n.V, n.T + 1, _block_config(rng, n, order="post"), depth=2)
    p = random_parameters(rng, bert.bert_init(rng, config))
    options = {
        "config": config,
        "segments": _either(rng, None, rng.integers(0, 2, (n.B, n.T))),
        "lengths": _either(rng, None, rng.integers(0, n.T + 1, n.B)),
        **_maybe_dice(rng),
    }
    return Case((rng.integers(0, n.V, (n.B, n.T)),), p, options)


@_case("models.bert.bert_words")
def _(rng, n):
    block = _block_config(rng, n, order="post", mlp=_either(rng, "gelu", "tanh"))
    tied = _either(rng, True, False)
    config = bert.BERTConfig(n.V, n.T, block, depth=1, head="words", tied=tied)
    p = random_parameters(rng, bert.bert_init(rng, config))
    p = {name: p[name] for name in ["tokens"] * tied + ["words"]}
    return Case((_normal(rng, n.B, n.T, n.D),), p, {"config": config})


@_case("models.bert.bert_classes")
def _(rng, n):
    block, head = _block_config(rng, n, order="post"), _either(rng, "classes", "tokens", "both")
    config = bert.BERTConfig(n.V, n.T, block, depth=1, head=head, outputs=n.V)
    p = random_parameters(rng, bert.bert_init(rng, config))
    p = {name: p[name] for name in config.parts if name != "words"}
    return Case((_normal(rng, n.B, n.T, n.D),), p, {"config": config})


@_case("models.bert.bert_pool")
def _(rng, n):
    p = random_parameters(rng, linear.linear_init(rng, n.D, n.D))
    return Case((_normal(rng, n.B, n.T, n.D),), p)


def _lm(rng, n):
    config = lm.LMConfig(n.V, n.T + 1, _block_config(rng, n), 2, tied=_either(rng, True, False))
    return config, random_parameters(rng, lm.lm_init(rng, config))


def _real(rng, n):  # padding before a text, behind it, or both; perhaps nothing else
    start, end = np.sort(rng.integers(0, n.T + 1, (2, n.B, 1)), axis=0)
    places = np.arange(n.T)
    return _either(rng, None, (start <= places) & (places < end))


def _labels(rng, n):
    labels = rng.integers(0, n.V, (n.B, n.T))
    labels[rng.random(labels.shape) < 0.2] = -100
    return labels


@_case("models.lm.lm")
def _(rng, n):
    config, p = _lm(rng, n)
    options = {"config": config, "real": _real(rng, n), **_maybe_dice(rng)}
    return Case((rng.integers(0, n.V, (n.B, n.T)),), p, options)


@_case("models.lm.lm_loss")
def _(rng, n):
    config, p = _lm(rng, n)
    options = {"config": config, "real": _real(rng, n), **_maybe_dice(rng)}
    return Case((rng.integers(0, n.V, (n.B, n.T)), _labels(rng, n)), p, options)


@_case("models.lm.lm_trunk")
def _(rng, n):
    config, p = _lm(rng, n)
    options = {"config": config, "mask": _maybe_mask(rng, n, n.T), **_maybe_dice(rng)}
    options["positions"] = _either(rng, None, rng.integers(0, config.context, (n.B, n.T)))
    return Case((_normal(rng, n.B, n.T, n.D),), p, options)


@_case("models.lm.lm_start")
def _(rng, n):
    config, p = _lm(rng, n)
    options = {"config": config, **_maybe_dice(rng)}
    options["positions"] = _either(rng, None, rng.integers(0, config.context, (n.B, n.T)))
    return Case((_normal(rng, n.B, n.T, n.D),), p, options)


@_case("models.lm.lm_head")
def _(rng, n):
    _, p = _lm(rng, n)
    return Case((_normal(rng, n.B, n.T, n.D),), p)


@_case("models.lm.next_token")
def _(rng, n):
    return Case((_normal(rng, n.B, n.T, n.V), _labels(rng, n)))


def _videos(rng, n, box=(1, 2, 3)):
    shape = (n.B, n.S * box[0], n.rows * box[1], n.columns * box[2], n.C)
    return _normal(rng, *shape)


@_case("ops.frames.fold_frames")
def _(rng, n):
    return Case((_videos(rng, n),))


@_case("ops.frames.unfold_frames")
def _(rng, n):
    return Case((_normal(rng, n.B * n.S, n.T, n.D),), options={"frames": n.S})


@_case("ops.frames.tubelets")
def _(rng, n):
    box = _either(rng, (1, 2, 3), (2, 3, 1))
    return Case((_videos(rng, n, box),), options={"tubelet": box})


CASES["models.video.patch_features"] = _vit_case


@_case("models.video.encode_frames")
def _(rng, n):
    encoder = _either(
        rng,
        video.PATCHES,
        video.EMBEDDING,
        (clip.encode_images_forward, clip.encode_images_backward),
    )
    case = _vit_case(rng, n, outputs=n.E)
    options = {**case.options, "encoder": encoder}
    options["mask"] = _either(rng, None, random_mask(rng, (n.B, n.S)))
    if rng.random() < 0.5:
        options["wrap"] = partial(chunked, size=2, recompute=True)
    images = _videos(rng, n, (1, *case.options["config"].patch))
    return Case((images,), case.p, options, on_host=("mask",))


@_case("models.video.tubelet_embedding")
def _(rng, n):
    box = _either(rng, (1, 2, 3), (2, 3, 1))
    p = video.tubelet_embedding_init(rng, box, n.C, n.D, bias=_either(rng, True, False))
    return Case((_videos(rng, n, box),), random_parameters(rng, p), {"tubelet": box})


@_case("layers.perceiver.cross_block")
def _(rng, n):
    config = _block_config(rng, n, rotary_base=None)
    beside = _either(rng, True, False)  # whether the latents are read, too
    width, answers = (n.D, n.S + n.T) if beside else (n.E, n.S)
    p = perceiver.cross_block_init(
        rng,
        config,
        width,
        head_width=_either(rng, None, n.K + 1),
        qk_norm=_either(rng, None, "rms", "layer"),
    )
    options = {
        "config": config,
        "mask": _maybe_mask(rng, n, answers),
        "residual": _either(rng, True, False),
        "with_latents": beside,
        **_maybe_dice(rng),
    }
    inputs = (_normal(rng, n.B, n.T, n.D), _normal(rng, n.B, n.S, width))
    return Case(inputs, random_parameters(rng, p), options)


@_case("layers.gated.gated_block")
def _(rng, n):
    config = gated.GatedConfig(
        _block_config(rng, n, order="pre", rotary_base=None),
        n.E,
        head_width=_either(rng, None, n.K + 1),
        qk_norm=_either(rng, True, False),
        gate=0.5,
        gate_width=_either(rng, "one", "channel"),
        skip_blind=_either(rng, True, False),
        blind=_either(rng, "zero", *gated.BLIND),
    )
    p = random_parameters(rng, gated.gated_block_init(rng, config))
    options = {"config": config, "mask": _maybe_mask(rng, n, n.S), **_maybe_dice(rng)}
    inputs = (_normal(rng, n.B, n.T, n.D), _normal(rng, n.B, n.S, n.E))
    return Case(inputs, p, options)


@_case("layers.gated.gated_self")
def _(rng, n):
    config = _block_config(rng, n, rotary_base=None)
    gates = gated.gated_self_init(rng, config)
    if rng.random() < 0.5:  # one for each channel
        gates |= {name: np.zeros(n.D) for name in ("attn_gate", "mlp_gate")}
    p = random_parameters(rng, gates)
    options = {"config": config, "mask": _maybe_mask(rng, n, n.T)}
    return Case((_normal(rng, n.B, n.T, n.D),), p, options)


def _tiled_case(rng, n, name):
    patch, tiles = (2, 3), _either(rng, 1, 2)
    image = (n.rows * patch[0], n.columns * patch[1], n.C)
    block = _block_config(rng, n, rotary_base=None, dropout=0.0)
    layers = _either(rng, (), (1,), (0, 1, 1))
    config = mllama.TiledConfig(image, patch, tiles, 3, block, 2, 3, layers)
    p = random_parameters(rng, mllama.tiled_vit_init(rng, config))
    options = {"config": config, "ratios": rng.integers(0, 3, n.B)}
    if name == "tiled_vit":
        options["real"] = np.arange(tiles) < rng.integers(1, tiles + 1, (n.B, 1))
    return Case((_normal(rng, n.B, tiles, *image),), p, options)


CASES["models.mllama.tiled_vit"] = partial(_tiled_case, name="tiled_vit")
CASES["models.mllama.tiles_embed"] = partial(_tiled_case, name="tiles_embed")


@_case("models.mllama.tile_embedding")
def _(rng, n):
    p = {"w": _normal(rng, n.V, n.S, n.D), "gate": _normal(rng)}
    options = {"ratios": rng.integers(0, n.V, n.B)}
    return Case((_normal(rng, n.B, n.S, n.T, n.D),), random_parameters(rng, p), options)


@_case("models.mllama.tile_positions")
def _(rng, n):
    p = {"w": _normal(rng, n.T, n.D), "tiles": _normal(rng, n.V, n.S, n.T, n.D)}
    p["gate"] = _normal(rng)
    options = {"ratios": rng.integers(0, n.V, n.B)}
    return Case((_normal(rng, n.B, n.S, n.T, n.D),), random_parameters(rng, p), options)


@_case("models.mllama.interleaved_trunk")
def _(rng, n):
    fixed = {"order": "pre", "dropout": 0.0, "depth_scale": False}
    language = lm.LMConfig(n.V, n.T + 1, _block_config(rng, n, rotary_base=None, **fixed), 3)
    config = mllama.InterleavedConfig(
        language,
        gated.GatedConfig(
            _block_config(rng, n, rotary_base=None, **fixed),
            n.E,
            qk_norm=_either(rng, True, False),
            skip_blind=True,
            blind=_either(rng, *gated.BLIND),
        ),
        _either(rng, (0,), (2,), (0, 1), (1, 2)),
    )
    p = random_parameters(rng, mllama.interleaved_init(rng, config))
    options = {
        "config": config,
        "seen": _either(rng, None, random_mask(rng, (n.B, 1, n.T, n.S))),
        "mask": _either(rng, None, random_mask(rng, (n.B, 1, n.T, n.T))),
    }
    inputs = (_normal(rng, n.B, n.T, n.D), _normal(rng, n.B, n.S, n.E))
    return Case(inputs, p, options)


def _lengths(rng, n):
    return _either(rng, None, rng.integers(0, n.T + 1, n.B))


@_case("layers.resampler.time_embedding")
def _(rng, n):
    trained = int(rng.integers(1, 2 * n.T + 1))
    p = resampler.time_embedding_init(rng, trained, n.D)
    options = {"lengths": _lengths(rng, n), "stretch": _either(rng, "longer", "always")}
    return Case((_normal(rng, n.B, n.T, n.S, n.D),), random_parameters(rng, p), options)


@_case("layers.resampler.resampler")
def _(rng, n):
    config = resampler.ResamplerConfig(
        _block_config(rng, n, rotary_base=None),
        latents=n.V,
        depth=2,
        frames=int(rng.integers(0, 2 * n.T + 1)),
        stretch=_either(rng, "longer", "always"),
        head_width=_either(rng, None, n.K + 1),
        qk_norm=_either(rng, None, "rms", "layer"),
    )
    p = random_parameters(rng, resampler.resampler_init(rng, config))
    options = {"config": config, "lengths": _lengths(rng, n), **_maybe_dice(rng)}
    return Case((_normal(rng, n.B, n.T, n.S, n.D),), p, options)


@_case("layers.connector.connector")
def _(rng, n):
    kind = _either(rng, *(kind for kind in connector.OPTIONS if kind != "none"))  # has no pair
    by = _either(rng, 1, 2)
    grid = (n.rows * by, n.columns * by)
    options = {
        "hidden": _either(rng, None, n.M),
        "activation": _either(rng, "gelu", "squared_relu"),
        "grid": grid,
        "by": by,
        "resampler": resampler.ResamplerConfig(
            _block_config(rng, n, rotary_base=None), latents=n.T, depth=1, frames=n.S - 1
        ),
    }
    config = connector.ConnectorConfig(
        kind,
        inputs=_either(rng, n.E, n.D),  # D is the width of the block
        outputs=_either(rng, n.V, n.D),
        bias=_either(rng, True, False),
        **{name: options[name] for name in connector.OPTIONS[kind]},
    )
    p = random_parameters(rng, connector.connector_init(rng, config))
    options = {"config": config, **_maybe_dice(rng)}
    options["lengths"] = _either(rng, None, rng.integers(0, n.S + 1, n.B))
    return Case((_normal(rng, n.B, n.S, grid[0] * grid[1], config.inputs),), p, options)


def _perceiver_case(rng, n):
    repeats = int(rng.integers(1, 4))
    variant = _either(rng, "original", "io")
    config = perceivers.PerceiverConfig(
        shape=(n.rows, n.columns),
        channels=n.C,
        outputs=_either(rng, 0, n.V),
        block=_block_config(rng, n),
        latents=n.T,
        depth=_either(rng, 1, 2),
        repeats=repeats,
        variant=variant,
        crosses=int(rng.integers(1, repeats + 1)) if variant == "original" else 1,
        towers=int(rng.integers(1, repeats + 1)),
        **_either(
            rng,
            {"bands": None},
            {"bands": 0},
            {"bands": 2, "order": "axes", "highest": 3.0},
            {"bands": None, "learned": n.E},
        ),
        cross_heads=_either(rng, 1, n.A),
        cross_head_width=_either(rng, None, n.K + 1),
        cross_value_width=_either(rng, None, n.K + 2),
        cross_hidden=_either(rng, None, n.M + 1),
        query_residual=_either(rng, True, False),
        decoder=_either(rng, *perceivers.DECODERS),
        decoder_heads=_either(rng, None, n.A),
        decoder_hidden=_either(rng, None, n.M + 2),
        decoder_residual=_either(rng, True, False),
    )
    p = random_parameters(rng, perceivers.perceiver_init(rng, config))
    shape = _either(rng, None, (n.rows + 1, n.columns))
    places = (n.rows + (shape is not None)) * n.columns
    real = _either(rng, None, random_mask(rng, (n.B, places)))
    options = {"config": config, "shape": shape, "real": real, **_maybe_dice(rng)}
    return Case((_normal(rng, n.B, places, n.C),), p, options)


@_case("models.perceiver.places")
def _(rng, n):
    shape = _either(rng, (n.rows, n.columns), (n.rows + 1, n.columns))
    p = {
        "input": linear.linear_init(rng, n.C, n.D),
        "positions": embedding.embedding_init(rng, n.rows * n.columns, n.D),
        "position": linear.linear_init(rng, n.D, n.D),
    }
    options = {"trained": (n.rows, n.columns), "shape": shape}
    x = _normal(rng, n.B, shape[0] * shape[1], n.C)
    return Case((x,), random_parameters(rng, p), options)


CASES["models.perceiver.perceiver"] = _perceiver_case
CASES["models.perceiver.perceiver_features"] = _perceiver_case


@_case("ops.splice.splice")
def _(rng, n):
    at = rng.random((n.B, n.T)) < 0.5
    return Case((_normal(rng, n.B, n.T, n.D), _normal(rng, at.sum(), n.D)), options={"at": at})


@_case("ops.splice.deal")
def _(rng, n):
    counts = rng.integers(0, n.T, n.B)
    options = {"counts": counts, "slots": int(counts.max()) + _either(rng, 0, 1)}
    return Case((_normal(rng, counts.sum(), n.S, n.D),), options=options)


def _tower_config(rng, n):
    config = _vit_config(rng, n, outputs=0)
    layers = _either(rng, (-2,), (-1,), (0,), (1, -1, 1))
    return vision.TowerConfig(config, layers, bool(config.extra) and _either(rng, True, False))


@_case("models.vision.features")
def _(rng, n):
    config = _tower_config(rng, n)
    p = random_parameters(rng, vision.tower_of(vit.vit_init(rng, config.vit), config))
    return Case((_images(rng, n, config.vit.patch),), p, {"config": config, **_maybe_dice(rng)})


def _sight_config(rng, n, kind=None):
    tower = _tower_config(rng, n)
    kind = kind or _either(rng, "linear", "mlp", "resampler")
    sampler = resampler.ResamplerConfig(
        _block_config(rng, n, rotary_base=None), latents=2, depth=1, frames=2
    )
    options = {"resampler": sampler} if kind == "resampler" else {}
    return vision.SightConfig(tower, connector.ConnectorConfig(kind, tower.outputs, n.D, **options))


def _media(rng, n, config, count):  # (M, F, H, W, C), and perhaps how many frames are real
    vit_config = config.tower.vit
    frames = int(rng.integers(1, 4))
    lengths = _either(rng, None, rng.integers(0, frames + 1, count))
    return _normal(rng, count, frames, *vit_config.image), lengths


@_case("models.vision.sight")
def _(rng, n):
    config = _sight_config(rng, n)
    p = random_parameters(rng, vision.sight_init(rng, config))
    media, lengths = _media(rng, n, config, n.B)
    options = {"config": config, "lengths": lengths, **_maybe_dice(rng)}
    if rng.random() < 0.5:
        options["wrap"] = partial(chunked, size=2, recompute=True)
    return Case((media,), p, options)


def _shown_texts(rng, n, image, spans, width=0):
    # (B, T) ids in which each medium has its places, one after another
    rows = [[] for _ in range(n.B)]
    for row, span in zip(np.sort(rng.integers(0, n.B, len(spans))), spans, strict=True):
        rows[row] += rng.integers(0, image, rng.integers(0, 3)).tolist() + [image] * int(span)
    width = max(n.T, *map(len, rows)) + 1
    return np.array([row + rng.integers(0, image, width - len(row)).tolist() for row in rows])


def _fusion_parts(rng, n, kind):
    config = _sight_config(rng, n, kind)
    media, lengths = _media(rng, n, config, int(rng.integers(0, n.B + 2)))
    language = lm.LMConfig(n.V, 256, _block_config(rng, n), 2, tied=_either(rng, True, False))
    return config, language, media, lengths


def _unified_parts(rng, n, kind=None):
    sight, language, media, lengths = _fusion_parts(rng, n, kind)
    config = unified.UnifiedConfig(sight, language, n.V - 1, _either(rng, "causal", "prefix"))
    p = random_parameters(rng, unified.unified_init(rng, config))
    spans = unified.visual_spans(config, media, lengths)
    ids = _shown_texts(rng, n, config.image, spans)
    return ids, media, p, {"config": config, "lengths": lengths, **_maybe_dice(rng)}


@_case("models.unified.unified_embed")
def _(rng, n):
    ids, media, p, options = _unified_parts(rng, n)
    return Case((ids, media), p, options)


@_case("models.unified.unified")
def _(rng, n):
    ids, media, p, options = _unified_parts(rng, n)
    return Case((ids, media), p, {**options, **_rows(rng, ids)})


@_case("models.unified.unified_loss")
def _(rng, n):
    ids, media, p, options = _unified_parts(rng, n)
    return Case((ids, _some_labels(rng, ids, n), media), p, options)


def _rows(rng, ids):  # plain, padded at the end of some texts, or of turns that stand apart
    ends = rng.integers(1, ids.shape[1] + 1, (len(ids), 1))
    turns = np.sort(rng.integers(0, 3, ids.shape), axis=1)
    options = {}, {"real": np.arange(ids.shape[1]) < ends}, {"turns": turns}
    return options[rng.integers(3)]


def _some_labels(rng, ids, n):
    return np.where(rng.random(ids.shape) < 0.3, -100, ids)


def _gated_config(rng, n, source):
    return gated.GatedConfig(
        _block_config(rng, n, rotary_base=None),
        source,
        qk_norm=_either(rng, True, False),
        gate_width=_either(rng, "one", "channel"),
        skip_blind=_either(rng, True, False),
    )


def _cross_parts(rng, n, kind=None):
    sight, language, media, lengths = _fusion_parts(rng, n, kind)
    config = cross_modal.CrossModalConfig(
        sight,
        language,
        _gated_config(rng, n, n.D),
        _either(rng, (0,), (1,), (0, 1)),
        n.V - 1,
        _either(rng, "last", "all", "run"),
    )
    p = random_parameters(rng, cross_modal.cross_modal_init(rng, config))
    ids = _shown_texts(rng, n, config.image, [1] * len(media))
    most = int((ids == config.image).sum(1).max())
    options = {"config": config, "lengths": lengths, **_maybe_dice(rng)}
    return ids, media, p, {**options, "slots": _either(rng, None, most, most + 1)}


@_case("models.cross_modal.look")
def _(rng, n):
    ids, media, p, options = _cross_parts(rng, n)
    return Case((ids, media), p, options)


@_case("models.cross_modal.cross_trunk")
def _(rng, n):
    _, _, p, options = _cross_parts(rng, n)
    config = options["config"]
    del options["lengths"], options["slots"]
    options["seen"] = _either(rng, None, random_mask(rng, (n.B, 1, n.T, n.S)))
    options["mask"] = _either(rng, None, random_mask(rng, (n.B, 1, n.T, n.T)))
    options["positions"] = _either(rng, None, rng.integers(0, config.lm.context, (n.B, n.T)))
    return Case((_normal(rng, n.B, n.T, n.D), _normal(rng, n.B, n.S, n.D)), p, options)


@_case("models.cross_modal.cross_modal")
def _(rng, n):
    ids, media, p, options = _cross_parts(rng, n)
    return Case((ids, media), p, {**options, **_rows(rng, ids)})


@_case("models.cross_modal.cross_modal_loss")
def _(rng, n):
    ids, media, p, options = _cross_parts(rng, n)
    return Case((ids, _some_labels(rng, ids, n), media), p, options)


def _with_lora(rng, p):
    p = lora.lora_add(rng, p, ((".*", True),), rank=2)
    return random_parameters(rng, p)


def _whole(name, stem):
    def register(make):
        WHOLE_MODELS[name] = (stem, make)
        return make

    return register


@_whole("models.clip.clip + LoRA", "models.clip.clip")
def _(rng, n):
    case = CASES["models.clip.clip"](rng, n)
    return Case(case.inputs, _with_lora(rng, case.p), case.options)


@_whole("models.unified.unified_loss + Resampler + LoRA", "models.unified.unified_loss")
def _(rng, n):
    ids, media, p, options = _unified_parts(rng, n, "resampler")
    return Case((ids, _some_labels(rng, ids, n), media), _with_lora(rng, p), options)


@_whole(
    "models.cross_modal.cross_modal_loss + Resampler + LoRA",
    "models.cross_modal.cross_modal_loss",
)
def _(rng, n):
    ids, media, p, options = _cross_parts(rng, n, "resampler")
    return Case((ids, _some_labels(rng, ids, n), media), _with_lora(rng, p), options)
