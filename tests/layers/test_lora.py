"""Low-rank adapters: what they leave as it is, what they learn, and the way into the weights."""

from itertools import combinations

import numpy as np
import pytest

from scratch_vlm.cases import find_pairs, make_case, random_parameters
from scratch_vlm.gradcheck import check
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.layers.linear import linear_backward, linear_forward, linear_init
from scratch_vlm.layers.lora import LORA_ONLY, lora_add, lora_init, lora_merge, lora_unmerge
from scratch_vlm.layers.mlp import mlp_backward, mlp_forward, mlp_init
from scratch_vlm.models.lm import LMConfig, lm_backward, lm_forward, lm_init
from scratch_vlm.models.vit import ViTConfig, vit_backward, vit_forward, vit_init
from scratch_vlm.training.optimizer import AdamW
from scratch_vlm.tree import FROZEN, freeze, leaves, tree_map, zeros_like

ALL = ((".*", True),)


def language_model(rng):
    config = LMConfig.llama(11, 6, width=8, heads=2, kv_heads=1, depth=2)
    return (lm_forward, lm_backward, config), rng.integers(0, 11, (2, 5)), lm_init(rng, config)


def vision_model(rng):
    config = ViTConfig((4, 6, 3), (2, 3), 5, BlockConfig(8, 2, 12), depth=2)
    return (vit_forward, vit_backward, config), rng.random((2, 4, 6, 3)), vit_init(rng, config)


def adapted(rng, *, rank=2, bias=True, inputs=5, outputs=4):
    p = lora_add(rng, linear_init(rng, inputs, outputs, bias=bias), ALL, rank=rank, alpha=3)
    return random_parameters(rng, p)


def test_the_output_is_that_of_equation_3():
    rng = np.random.default_rng(0)
    p, x = adapted(rng), rng.standard_normal((2, 3, 5))
    a, b, scale = p["lora"].values()
    np.testing.assert_allclose(
        linear_forward(x, p)[0], x @ p["w"] + p["b"] + scale * (x @ (a @ b)), rtol=1e-12
    )


def test_an_adapter_starts_random_in_a_zero_in_b_and_scaled_by_alpha_over_rank():
    p = lora_init(np.random.default_rng(0), 400, 30, rank=8, alpha=2)
    assert [x.shape for x in p.values()] == [(400, 8), (8, 30), ()]
    assert abs(p["a"].std() * 400**0.5 - 1) < 0.05
    assert not p["b"].any()
    assert p["scale"] == 0.25
    assert lora_init(np.random.default_rng(0), 4, 3, rank=2)["scale"] == 1
    assert {x.dtype.name for x in p.values()} == {"float32"}


@pytest.mark.parametrize("model", [language_model, vision_model])
def test_a_model_with_fresh_adapters_computes_the_same_bits(model):
    rng = np.random.default_rng(0)
    (forward, _, config), x, p = model(rng)
    x = x.astype("float32") if x.dtype.kind == "f" else x
    with_adapters = lora_add(rng, p, ALL, rank=2)
    y, _ = forward(x, with_adapters, config=config)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, forward(x, p, config=config)[0])


@pytest.mark.parametrize("model", [language_model, vision_model])
def test_the_backward_of_a_model_with_adapters_is_its_slope(model):
    rng = np.random.default_rng(0)
    (forward, backward, config), x, p = model(rng)
    p = random_parameters(rng, lora_add(rng, p, ALL, rank=2, alpha=3))
    report = check(forward, backward, [x], p, options={"config": config}, rng=rng)
    assert report.method == "complex"
    checked = [entry for entry in report.entries if "lora/" in entry.name]
    assert len(checked) >= 3 * 9
    assert all(entry.analytic for entry in checked)


@pytest.mark.parametrize("bias", [True, False])
def test_every_choice_of_frozen_leaves_leaves_the_others_their_gradient(bias):
    rng = np.random.default_rng(0)
    p, x = adapted(rng, bias=bias), rng.standard_normal((2, 3, 5))
    y, saved = linear_forward(x, p)
    dy, full = rng.standard_normal(y.shape), zeros_like(p)
    dx, full = linear_backward(dy, saved, full), dict(leaves(full))
    for count in range(len(full) + 1):
        for frozen in combinations(full, count):
            g = freeze(zeros_like(p), [(name, name not in frozen) for name in full])
            np.testing.assert_array_equal(linear_backward(dy, saved, g), dx)
            left = dict(leaves(g))
            assert set(left) == set(full) - set(frozen)
            for name, gradient in left.items():
                np.testing.assert_array_equal(gradient, full[name], err_msg=name)


def test_the_large_product_is_not_made_for_a_frozen_matrix(monkeypatch):
    matmul, products = np.matmul, []

    def watched(a, b, **options):
        products.append((len(a), b.shape[1]))
        return matmul(a, b, **options)

    rng = np.random.default_rng(0)
    p, x = adapted(rng), rng.standard_normal((7, 5))
    y, saved = linear_forward(x, p)
    monkeypatch.setattr(np, "matmul", watched)
    linear_backward(np.ones(y.shape), saved, freeze(zeros_like(p), LORA_ONLY))
    # dx; dy times b, da, db, and the adapter's part of dx
    assert products == [(7, 5), (7, 2), (5, 2), (2, 4), (7, 5)]
    linear_backward(np.ones(y.shape), saved, zeros_like(p))
    assert products[5] == (5, 4) and len(products) == 11


def test_out_takes_the_adapter_in():
    rng = np.random.default_rng(0)
    p, x = adapted(rng), rng.standard_normal((3, 5))
    y, saved = linear_forward(x, p)
    out = np.empty((3, 4))
    assert linear_forward(x, p, out=out)[0] is out
    np.testing.assert_array_equal(out, y)
    dx = linear_backward(y, saved, FROZEN)
    out = np.empty((3, 5))
    assert linear_backward(y, saved, FROZEN, out=out) is out
    np.testing.assert_array_equal(out, dx)


def test_training_moves_the_adapters_and_nothing_else():
    rng = np.random.default_rng(0)
    p = tree_map(lambda x: x.astype(float), mlp_init(rng, 6, 8))
    x = rng.standard_normal((64, 6))
    wanted, _ = mlp_forward(x, lora_like(rng, p), kind="gelu")
    p = lora_add(rng, p, ALL, rank=2, alpha=1)
    optimizer = AdamW(p, trained=LORA_ONLY, decay=0.1)
    losses = []
    for _ in range(200):
        y, saved = mlp_forward(x, optimizer.p, kind="gelu")
        losses.append(((y - wanted) ** 2).mean())
        mlp_backward(2 / y.size * (y - wanted), saved, optimizer.g)
        optimizer.step(0.02)
    assert losses[-1] < 0.1 * losses[0]
    trained = {name for name, _ in leaves(optimizer.g)}
    assert trained == {f"{layer}/lora/{name}" for layer in ("fc", "proj") for name in "ab"}
    for (name, before), (_, after) in zip(leaves(p), leaves(optimizer.p), strict=True):
        assert np.array_equal(before, after) == (name not in trained), name


def lora_like(rng, p):
    """Return parameters that differ from `p` by matrices of rank 2."""
    return lora_merge(random_adapters(rng, lora_add(rng, p, ALL, rank=2)))[0]


def random_adapters(rng, p):
    for name, x in leaves(p):
        if name.endswith("lora/b"):
            x[...] = 0.5 * rng.standard_normal(x.shape)
    return p


def test_adapters_of_a_single_layer_can_be_trained_alone():
    g = zeros_like(adapted(np.random.default_rng(0)))
    assert [name for name, _ in leaves(freeze(g, LORA_ONLY))] == ["lora/a", "lora/b"]


@pytest.mark.parametrize("model", [language_model, vision_model])
def test_a_merged_model_computes_what_the_adapted_one_does(model):
    rng = np.random.default_rng(0)
    (forward, _, config), x, p = model(rng)
    names = {name for name, _ in leaves(p)}
    p = random_parameters(rng, lora_add(rng, p, ALL, rank=2, alpha=3))
    merged, kept = lora_merge(p)
    assert {name for name, _ in leaves(merged)} == names
    assert {name.rpartition("/")[2] for name, _ in leaves(kept)} == {"w", "a", "b", "scale"}
    y, again = (forward(x, q, config=config)[0] for q in (p, merged))
    assert np.abs(y - again).max() < 1e-12 * np.abs(y).max()


@pytest.mark.parametrize(
    "name",
    [
        "layers.resampler.resampler",
        "models.video.tubelet_embedding",
        "models.bert.bert",
        "models.clip.clip",
        "models.cross_modal.cross_modal",
        "models.lm.lm",
        "models.perceiver.perceiver",
        "models.text.text",
        "models.unified.unified",
        "models.vit.vit",
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_every_layer_that_a_rule_can_choose_reads_its_adapter(name, seed):
    rng = np.random.default_rng(seed)
    case, forward = make_case(name, rng), find_pairs()[name].forward
    p = random_parameters(rng, lora_add(rng, case.p, ALL, rank=1))
    y, again, plain = (
        forward(*case.inputs, q, **case.fresh_options())[0] for q in (p, lora_merge(p)[0], case.p)
    )
    np.testing.assert_allclose(y, again, rtol=1e-9, atol=1e-9)
    assert not np.allclose(y, plain)


@pytest.mark.parametrize("model", [language_model, vision_model])
def test_unmerging_gives_back_every_bit(model):
    rng = np.random.default_rng(0)
    _, _, p = model(rng)
    p = random_adapters(rng, lora_add(rng, p, ALL, rank=2, alpha=1e9))
    spare = tree_map(np.copy, p)
    merged, kept = lora_merge(p)
    head, lora = p["head"], p["head"]["lora"]
    subtracted = merged["head"]["w"] - lora["scale"] * (lora["a"] @ lora["b"])
    assert not np.allclose(subtracted, head["w"])  # why the weights are kept
    back = lora_unmerge(merged, kept)
    for tree in (p, back):
        assert [name for name, _ in leaves(tree)] == [name for name, _ in leaves(spare)]
        for (name, x), (_, y) in zip(leaves(tree), leaves(spare), strict=True):
            np.testing.assert_array_equal(x, y, err_msg=name)


def test_adapters_have_the_dtype_of_their_weights():
    p = tree_map(lambda x: x.astype(float), linear_init(np.random.default_rng(0), 4, 3))
    p = lora_add(np.random.default_rng(0), p, ALL, rank=2)
    assert {x.dtype.name for _, x in leaves(p)} == {"float64"}


def test_rules_choose_the_layers_and_the_tree_given_is_not_changed():
    rng = np.random.default_rng(0)
    _, _, p = language_model(rng)
    names = [name for name, _ in leaves(p)]
    rules = ((r"blocks/.*/attn/(qkv|out)", True), (".*", False))
    new = lora_add(rng, p, rules, rank=1)
    assert [name for name, _ in leaves(p)] == names
    found = {name for name, _ in leaves(new)} - set(names)
    assert found == {
        f"blocks/{block}/attn/{layer}/lora/{leaf}"
        for block in "01"
        for layer in ("qkv", "out")
        for leaf in ("a", "b", "scale")
    }
    assert new["tokens"]["w"] is p["tokens"]["w"]
    more = lora_add(rng, new, (("head", True), (".*", False)), rank=3)
    assert more["head"]["lora"]["a"].shape == (8, 3)
    assert (
        more["blocks"]["0"]["attn"]["qkv"]["lora"]["a"]
        is (new["blocks"]["0"]["attn"]["qkv"]["lora"]["a"])
    )


def test_what_cannot_be_added_is_refused():
    rng = np.random.default_rng(0)
    p = {"fc": linear_init(rng, 5, 4), "proj": linear_init(rng, 4, 3)}
    with pytest.raises(ValueError, match="rank must be a positive whole number, got 0"):
        lora_add(rng, p, ALL, rank=0)
    with pytest.raises(ValueError, match=r"rank of 4 is not low for a matrix \(4, 3\).* most 3"):
        lora_add(rng, p, ALL, rank=4)
    with pytest.raises(ValueError, match="alpha must be a finite number, got inf"):
        lora_add(rng, p, ALL, rank=2, alpha=float("inf"))
    with pytest.raises(ValueError, match="'head' decides about no parameter"):
        lora_add(rng, p, (("head", True), (".*", False)), rank=2)
    with pytest.raises(ValueError, match="'tokens' decides about no parameter"):  # a table
        lora_add(rng, {"tokens": p["fc"], **p}, (("tokens", True), (".*", False)), rank=2)
    with pytest.raises(ValueError, match="no rule matches proj"):
        lora_add(rng, p, (("fc", True),), rank=2)
    with pytest.raises(ValueError, match="choose none of the layers fc, proj"):
        lora_add(rng, p, ((".*", False),), rank=2)
    with pytest.raises(ValueError, match="fc has an adapter already; merge it first"):
        lora_add(rng, lora_add(rng, p, ALL, rank=2), ALL, rank=2)


def test_what_cannot_be_merged_or_unmerged_is_refused():
    rng = np.random.default_rng(0)
    p = {"fc": linear_init(rng, 5, 4)}
    with pytest.raises(ValueError, match="no adapter to merge"):
        lora_merge(p)
    merged, kept = lora_merge(lora_add(rng, p, ALL, rank=2))
    with pytest.raises(ValueError, match=r"kept has 'fc'.* are head"):
        lora_unmerge({"head": merged["fc"]}, kept)
    with pytest.raises(ValueError, match=r"kept has 'w' \(5, 4\).* are w \(5, 3\)"):
        lora_unmerge({"fc": linear_init(rng, 5, 3)}, kept)
    with pytest.raises(ValueError, match=r"kept has 'lora'.*the same merge"):
        lora_unmerge(lora_unmerge(merged, kept), kept)


def test_an_adapter_for_another_layer_is_refused():
    rng = np.random.default_rng(0)
    p = {**linear_init(rng, 5, 4), "lora": lora_init(rng, 6, 4, rank=2)}
    with pytest.raises(ValueError, match="5 channels and w takes 6"):
        linear_forward(np.ones((2, 5)), p)
    with pytest.raises(ValueError, match="lack scale; they hold a, b"):
        linear_forward(np.ones((2, 5)), {**p, "lora": {"a": p["w"], "b": p["w"]}})
