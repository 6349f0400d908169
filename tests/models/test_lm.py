"""The language model: causal, indifferent to padding, the same with a cache, in both styles."""

from dataclasses import replace

import numpy as np
import pytest

from scratch_vlm.cases import random_parameters
from scratch_vlm.gradcheck import check
from scratch_vlm.layers.embedding import embedding_forward
from scratch_vlm.models.lm import (
    LMConfig,
    lm_backward,
    lm_cache,
    lm_forward,
    lm_head_forward,
    lm_init,
    lm_loss_backward,
    lm_loss_forward,
    lm_trunk_backward,
    lm_trunk_forward,
    next_token_backward,
    next_token_forward,
    reading_order,
)
from scratch_vlm.ops.losses import cross_entropy_forward
from scratch_vlm.tree import leaves, tree_map, zeros_like

RNG = np.random.default_rng
STYLES = {
    "gpt": LMConfig.gpt(11, 9, width=8, heads=2, depth=2),
    "llama": LMConfig.llama(11, 9, width=8, heads=4, kv_heads=2, depth=2),
    "llama-tied": LMConfig.llama(11, 9, width=8, heads=2, depth=2, tied=True, rotary_base=50.0),
}
STYLE = pytest.mark.parametrize("style", STYLES)
IDS = RNG(9).integers(0, 11, (3, 6))


def make(style):
    config = STYLES[style]
    return random_parameters(RNG(0), lm_init(RNG(0), config)), config


def logits_of(ids, p, config, **options):
    return lm_forward(ids, p, config=config, **options)[0]


def test_the_two_styles_are_made_of_the_parts_their_names_promise():
    gpt, llama = make("gpt")[0], make("llama")[0]
    assert set(gpt) == {"tokens", "positions", "blocks", "ln"}
    assert set(gpt["ln"]) == {"gamma", "beta"} and set(gpt["blocks"]["0"]["mlp"]) == {"fc", "proj"}
    assert set(llama) == {"tokens", "blocks", "ln", "head"}
    assert not [name for name, _ in leaves(llama) if name.endswith(("/b", "/beta"))]
    assert llama["blocks"]["0"]["attn"]["qkv"]["w"].shape == (8, 4 * 2 + 2 * 2 * 2)


@STYLE
def test_at_the_start_every_token_is_about_as_likely(style):
    config = replace(STYLES[style], vocabulary=500)
    ids = RNG(0).integers(0, 500, (8, 9))
    loss, _ = lm_loss_forward(ids, ids, lm_init(RNG(0), config), config=config)
    assert abs(loss - np.log(500)) < 0.05


@STYLE
def test_a_token_changes_nothing_before_it(style):
    p, config = make(style)
    y = logits_of(IDS, p, config)
    for t in range(6):
        other = IDS.copy()
        other[:, t] = (other[:, t] + 1) % 11
        changed = np.abs(logits_of(other, p, config) - y).max((0, 2)) > 0
        assert not changed[:t].any() and changed[t:].all()


@STYLE
def test_gradients_reach_no_token_behind(style):
    p, config = make(style)
    x = RNG(1).standard_normal((2, 6, 8))
    for t in range(6):
        y, saved = lm_trunk_forward(x, p, config=config)
        dy = np.zeros_like(y)
        dy[:, t] = RNG(2).standard_normal((2, 8))
        reached = np.abs(lm_trunk_backward(dy, saved, zeros_like(p))).max((0, 2)) > 0
        assert reached[: t + 1].all() and not reached[t + 1 :].any()


@STYLE
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_real_token(style, side):
    p, config = make(style)
    right = logits_of(IDS, p, config)
    padded, real = np.full((3, 9), 4), np.ones((3, 9), bool)
    where = slice(3, 9) if side == "left" else slice(0, 6)
    padded[:, where] = IDS
    real[:] = False
    real[:, where] = True
    np.testing.assert_allclose(logits_of(padded, p, config, real=real)[:, where], right, atol=1e-12)


@STYLE
def test_padding_gets_no_gradient_and_gives_none(style):
    p, config = make(style)
    ids = np.where(IDS == 10, 0, IDS)
    real = np.ones((3, 6), bool)
    real[0, :2] = real[1, 4:] = False
    labels = np.where(real, ids, -100)
    # The first real token of row 0 would be foretold by padding.
    labels[0, 2] = -100

    def gradients(fill):
        g = zeros_like(p)
        ids_ = np.where(real, ids, fill)
        _, saved = lm_loss_forward(ids_, labels, p, config=config, real=real)
        lm_loss_backward(1.0, saved, g)
        return g

    for (name, a), (_, b) in zip(leaves(gradients(10)), leaves(gradients(3)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-13, err_msg=name)


@STYLE
def test_a_row_of_nothing_but_padding_is_finite(style):
    p, config = make(style)
    real = np.ones((3, 6), bool)
    real[1] = False
    y = logits_of(IDS, p, config, real=real)
    assert np.isfinite(y).all()
    np.testing.assert_allclose(y[[0, 2]], logits_of(IDS[[0, 2]], p, config), atol=1e-12)


@STYLE
@pytest.mark.parametrize("pieces", [(6,), (1,) * 6, (3, 3), (1, 4, 1)])
def test_through_a_cache_tokens_come_out_as_at_once(style, pieces):
    p, config = make(style)
    x, _ = embedding_forward(IDS, p["tokens"])
    right, _ = lm_trunk_forward(x, p, config=config)
    cache, start, ys = lm_cache(p, config, 3, 6), 0, []
    for count in pieces:
        piece = x[:, start : start + count]
        ys.append(lm_trunk_forward(piece, p, config=config, cache=cache)[0])
        start += count
    np.testing.assert_allclose(np.concatenate(ys, 1), right, atol=1e-12)


@STYLE
def test_a_cache_is_of_the_dtype_of_the_parameters(style):
    p, config = make(style)
    p = tree_map(lambda x: x.astype("float32"), p)
    cache = lm_cache(p, config, 2)
    assert cache["1"].k.dtype == np.float32
    groups = config.block.kv_heads or config.block.heads
    assert cache["1"].k.shape == (2, groups, 9, 8 // config.block.heads)


@STYLE
def test_the_order_of_words_matters(style):
    p, config = make(style)
    a, b = (logits_of(np.array([ids]), p, config)[0, -1] for ids in ([1, 2, 3], [2, 1, 3]))
    assert np.abs(a - b).max() > 1e-3


@pytest.mark.parametrize("style", ["llama", "llama-tied"])
def test_rotary_positions_may_begin_anywhere(style):
    p, config = make(style)
    x = RNG(3).standard_normal((2, 4, 8))
    y, _ = lm_trunk_forward(x, p, config=config)
    later = np.arange(4) + np.array([[3], [70]])
    np.testing.assert_allclose(
        lm_trunk_forward(x, p, config=config, positions=later)[0], y, atol=1e-12
    )


def test_a_tied_head_sums_the_gradients_of_both_its_uses():
    p, config = make("gpt")
    untied = {**p, "head": {"w": p["tokens"]["w"].T.copy()}}
    y, saved = lm_forward(IDS, p, config=config)
    again, saved_untied = lm_forward(IDS, untied, config=replace(config, tied=False))
    np.testing.assert_array_equal(again, y)
    dy = RNG(4).standard_normal(y.shape)
    g, g_untied = zeros_like(p), zeros_like(untied)
    lm_backward(dy, saved, g)
    lm_backward(dy, saved_untied, g_untied)
    both = g_untied["tokens"]["w"] + g_untied["head"]["w"].T
    np.testing.assert_allclose(g["tokens"]["w"], both, atol=1e-12)
    assert np.abs(g_untied["tokens"]["w"]).max() > 1e-3  # neither use is the whole
    assert np.abs(g_untied["head"]["w"]).max() > 1e-3


def test_a_prefix_may_be_read_in_both_directions():
    p, config = make("llama")
    x = RNG(5).standard_normal((1, 5, 8))
    mask = np.tri(5, dtype=bool)
    mask[:3, :3] = True
    y, _ = lm_trunk_forward(x, p, config=config, mask=mask)
    other = x.copy()
    other[:, 2] += 1
    changed = np.abs(lm_trunk_forward(other, p, config=config, mask=mask)[0] - y).max((0, 2)) > 0
    assert changed.all()


def test_labels_stand_where_their_tokens_stand():
    logits = RNG(6).standard_normal((2, 4, 5))
    labels = np.array([[0, 1, -100, 3], [4, -100, -100, 2]])
    rows = np.array([logits[0, 0], logits[0, 2], logits[1, 2]])
    right, _ = cross_entropy_forward(rows, np.array([1, 3, 2]))
    loss, saved = next_token_forward(logits, labels)
    np.testing.assert_allclose(loss, right)
    counted = np.abs(next_token_backward(1.0, saved)).max(-1) > 0
    np.testing.assert_array_equal(counted, [[1, 0, 1, 0], [0, 0, 1, 0]])


@pytest.mark.parametrize("tokens", [1, 4])
def test_nothing_to_learn_is_a_loss_of_zero_without_gradient(tokens):
    logits = RNG(7).standard_normal((2, tokens, 5))
    loss, saved = next_token_forward(logits, np.full((2, tokens), -100))
    assert loss == 0
    assert not next_token_backward(1.0, saved).any()


def test_the_gradient_of_the_whole_objective_is_exact():
    p, config = make("llama")
    report = check(
        lm_loss_forward, lm_loss_backward, [IDS, IDS], p, options=lambda: {"config": config}
    )
    assert report.method == "complex" and report.worst < 1e-12


@STYLE
def test_an_empty_batch_passes_through(style):
    p, config = make(style)
    y, saved = lm_forward(IDS[:0], p, config=config)
    assert y.shape == (0, 6, 11)
    g = zeros_like(p)
    lm_backward(y, saved, g)
    assert not any(x.any() for _, x in leaves(g))


def test_head_alone_scores_by_the_vectors_of_the_tokens():
    p, _ = make("gpt")
    x = RNG(8).standard_normal((1, 2, 8))
    np.testing.assert_allclose(lm_head_forward(x, p)[0], x @ p["tokens"]["w"].T)


def test_reading_order_counts_real_tokens_only():
    real = np.array([[False, True, True, True], [True, True, False, False]])
    mask, positions = reading_order(real)
    assert positions[0, 1:].tolist() == [0, 1, 2] and positions[1, :2].tolist() == [0, 1]
    np.testing.assert_array_equal(mask[0, 0], np.tri(4, dtype=bool) & real[0])
    later_mask, later = reading_order(real, past=3)
    np.testing.assert_array_equal(later_mask, mask[:, :, 3:])
    np.testing.assert_array_equal(later, positions[:, 3:])


@STYLE
def test_a_text_longer_than_the_context_is_refused(style):
    p, config = make(style)
    with pytest.raises(ValueError, match="10 tokens do not fit the context of 9"):
        lm_forward(np.zeros((1, 10), int), p, config=config)
    cache = lm_cache(p, config, 1)
    x = np.zeros((1, 5, 8))
    lm_trunk_forward(x, p, config=config, cache=cache)
    with pytest.raises(ValueError, match="10 tokens do not fit the context of 9"):
        lm_trunk_forward(x, p, config=config, cache=cache)
    with pytest.raises(ValueError, match="a cache of 10 tokens is more than the context 9"):
        lm_cache(p, config, 1, 10)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([[0, 9]], "place 9 is none of the 9"),
        ([[-1, 0]], "place -1 is none of the 9"),
        ([[0, 1, 2]], r"places \(1, 3\) must be one for each token, \(1, 2\)"),
    ],
)
def test_a_position_that_was_never_learned_is_refused(positions, message):
    p, config = make("gpt")
    with pytest.raises(ValueError, match=message):
        lm_trunk_forward(np.ones((1, 2, 8)), p, config=config, positions=np.array(positions))


@pytest.mark.parametrize("wrong", [11, -1])
def test_an_id_outside_the_vocabulary_is_refused(wrong):
    p, config = make("gpt")
    with pytest.raises(ValueError, match=f"token id {wrong} is none of the 11"):
        lm_forward(np.array([[wrong, 1]]), p, config=config)


def test_texts_of_another_shape_or_dtype_are_refused():
    p, config = make("gpt")
    for wrong in (IDS[0], IDS[:, :0]):
        with pytest.raises(ValueError, match=r"ids must be \(B, T\) with T at least 1"):
            lm_forward(wrong, p, config=config)
    with pytest.raises(TypeError, match="got list"):
        lm_forward(IDS.tolist(), p, config=config)
    with pytest.raises(TypeError, match="integers, got dtype float64"):
        lm_forward(IDS.astype(float), p, config=config)
    with pytest.raises(ValueError, match=r"real \(3, 5\) must have the shape of ids, \(3, 6\)"):
        lm_forward(IDS, p, config=config, real=np.ones((3, 5), bool))
    with pytest.raises(TypeError, match="got list"):
        lm_forward(IDS, p, config=config, real=(IDS > 0).tolist())
    with pytest.raises(TypeError, match="real must be boolean"):
        lm_forward(IDS, p, config=config, real=np.ones((3, 6)))
    with pytest.raises(ValueError, match=r"labels must be \(B, T\) and logits \(B, T, V\)"):
        lm_loss_forward(IDS, IDS[:, 1:], p, config=config)
    with pytest.raises(ValueError, match="label 11 is not one of the 11 classes"):
        lm_loss_forward(IDS, np.full((3, 6), 11), p, config=config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 3}, "asks for 3 blocks"),
        ({"vocabulary": 12}, r"asks for token vectors \(12, 8\); the parameters hold \(11, 8\)"),
        ({"tied": False}, "tied=False; the parameters have no branch 'head'"),
        ({"block": STYLES["llama-tied"].block}, "'rotary' .* have a branch 'positions'"),
    ],
)
def test_parameters_of_another_config_are_refused(changes, message):
    p, config = make("gpt")
    with pytest.raises(ValueError, match=message):
        lm_forward(IDS, p, config=replace(config, **changes))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 6, "heads": 2}, "width 6 over 2 heads makes 3 a head, an odd number"),
        ({"width": 8, "heads": 2, "rotary_base": 1.0}, "rotary_base must be above 1, got 1.0"),
        ({"width": 8, "heads": 4, "kv_heads": 3}, "heads a multiple of kv_heads 3"),
    ],
)
def test_a_config_refuses_bad_values_with_the_numbers(options, message):
    with pytest.raises(ValueError, match=message):
        LMConfig.llama(11, 9, depth=1, **options)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint64", "int8"])
def test_tokens_of_files_may_be_unsigned(dtype):
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((2, 5, 7)), rng.integers(7, size=(2, 5))
    loss, saved = next_token_forward(logits, labels.astype(dtype))
    right, expected = next_token_forward(logits, labels)
    assert loss == right
    np.testing.assert_array_equal(
        next_token_backward(1.0, saved), next_token_backward(1.0, expected)
    )
