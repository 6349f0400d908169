"""The text tower reads up to the end token, and no further."""

from dataclasses import replace

import numpy as np
import pytest

from scratch_vlm.cases import random_parameters
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.text import TextConfig, text_backward, text_forward, text_init
from scratch_vlm.tree import leaves, zeros_like

END = 9
CONFIG = TextConfig(10, 6, END, 4, BlockConfig(8, 2, 12), 2)
IDS = np.array([[1, 2, END, 0, 0], [3, END, 4, 5, END], [1, 2, 3, 4, END]])
CAUSAL = pytest.mark.parametrize("causal", [True, False])


def make(config=CONFIG):
    rng = np.random.default_rng(0)
    return random_parameters(rng, text_init(rng, config))


def gradients(ids, p, config, dy):
    _, saved = text_forward(ids, p, config=config)
    g = zeros_like(p)
    text_backward(dy, saved, g)
    return g


@CAUSAL
def test_what_stands_behind_the_end_is_not_read(causal):
    config = replace(CONFIG, causal=causal)
    p = make(config)
    other = IDS.copy()
    other[0, 3:] = [7, END]
    other[1, 2:] = [8, 8, 8]
    y, _ = text_forward(IDS, p, config=config)
    np.testing.assert_allclose(text_forward(other, p, config=config)[0], y, atol=1e-13)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    for (name, a), (_, b) in zip(
        leaves(gradients(IDS, p, config, dy)), leaves(gradients(other, p, config, dy)), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-12, err_msg=name)


@CAUSAL
def test_padding_can_be_cut_off(causal):
    config = replace(CONFIG, causal=causal)
    p = make(config)
    y, _ = text_forward(IDS[:2], p, config=config)
    np.testing.assert_allclose(text_forward(IDS[:2, :3], p, config=config)[0], y, atol=1e-13)


@CAUSAL
def test_ids_behind_the_end_get_no_gradient(causal):
    config = replace(CONFIG, causal=causal)
    g = gradients(IDS[:2], make(config), config, np.ones((2, 4)))
    assert not g["tokens"]["w"][[0, 4, 5]].any()  # they stand only behind an end
    assert not g["positions"]["w"][3:].any()
    assert g["tokens"]["w"][[1, 2, 3, END]].any(1).all()


@CAUSAL
def test_other_texts_of_the_batch_change_nothing(causal):
    config = replace(CONFIG, causal=causal)
    p = make(config)
    y, _ = text_forward(IDS, p, config=config)
    for i in range(3):
        np.testing.assert_allclose(
            text_forward(IDS[i : i + 1], p, config=config)[0][0], y[i], atol=1e-13
        )


def test_the_order_of_words_matters():
    p = make()
    y, _ = text_forward(np.array([[1, 2, END], [2, 1, END]]), p, config=CONFIG)
    assert abs(y[0] - y[1]).max() > 1e-3


def test_a_text_without_an_end_is_refused_and_shown():
    with pytest.raises(ValueError, match=r"text 1 has no end token 9: \[1, 2, 3\]"):
        text_forward(np.array([[1, END, 0], [1, 2, 3]]), make(), config=CONFIG)


def test_a_text_longer_than_the_context_is_refused():
    with pytest.raises(ValueError, match="texts of 7 tokens do not fit the context of 6"):
        text_forward(np.full((1, 7), END), make(), config=CONFIG)


@pytest.mark.parametrize("wrong", [10, -1])
def test_an_id_outside_the_vocabulary_is_refused(wrong):
    with pytest.raises(ValueError, match=f"token id {wrong} is none of the 10"):
        text_forward(np.array([[wrong, END]]), make(), config=CONFIG)


def test_ids_of_another_shape_or_dtype_are_refused():
    p = make()
    with pytest.raises(ValueError, match=r"ids must be \(B, T\), got \(5,\)"):
        text_forward(IDS[0], p, config=CONFIG)
    with pytest.raises(TypeError, match="integers, got dtype float64"):
        text_forward(IDS.astype(float), p, config=CONFIG)
    with pytest.raises(TypeError, match="got list"):
        text_forward(IDS.tolist(), p, config=CONFIG)


def test_parameters_of_another_depth_are_refused():
    with pytest.raises(ValueError, match=r"asks for 3 blocks; .*hold 2"):
        text_forward(IDS, make(), config=replace(CONFIG, depth=3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"end": 10}, "end 10 is outside the vocabulary of 10"),
        ({"end": -1}, "end -1 is outside"),
        ({"context": 0}, "context must be a positive whole number, got 0"),
        ({"outputs": -1}, "outputs must be a positive whole number, got -1"),
        ({"depth": -1}, "depth must be a positive whole number, got -1"),
    ],
)
def test_a_config_refuses_bad_values_with_the_numbers(options, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **options)


@pytest.mark.parametrize("key", ["tokens", "positions", "ln", "head"])
def test_parameters_that_are_missing_are_named(key):
    p = make()
    del p[key]
    with pytest.raises(ValueError, match=rf"the parameters lack {key}\b"):
        text_forward(IDS, p, config=CONFIG)


def test_a_head_of_other_outputs_is_refused():
    with pytest.raises(ValueError, match="asks for 10 outputs; the head has 4"):
        text_forward(IDS, make(), config=replace(CONFIG, outputs=10))


def test_a_block_or_an_end_of_another_type_is_refused():
    with pytest.raises(TypeError, match="block must be a BlockConfig, got None"):
        replace(CONFIG, block=None)
    with pytest.raises(ValueError, match=r"end 9\.0 is outside"):
        replace(CONFIG, end=9.0)
