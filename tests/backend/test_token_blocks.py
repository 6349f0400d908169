"""A layer that runs block by block is the layer that runs at once, in numbers and in promises."""

import inspect

import numpy as np
import pytest

from scratch_vlm.backend import token_blocks
from scratch_vlm.backend.token_blocks import Blocks, row_by_row
from scratch_vlm.cases import check_case
from scratch_vlm.layers.norm import NORMS
from scratch_vlm.tree import FROZEN, zeros_like

SHAPE = (2, 5, 8)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(token_blocks, "LARGE", 24)
    monkeypatch.setattr(token_blocks, "BLOCK", 24)  # three tokens, and once one


def draw(name, dtype="float64"):
    rng = np.random.default_rng(0)
    x, dy, past = (rng.standard_normal(SHAPE).astype(dtype) for _ in range(3))
    p = {key: rng.standard_normal(SHAPE[-1:]).astype(dtype) for key in NORMS[name][0](1)}
    return x, dy, past, p


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("layout", ["new", "out", "by columns", "in place"])
@pytest.mark.parametrize("reads_on", [False, True])
def test_blocks_are_the_whole(name, layout, reads_on):
    _, forward, backward = NORMS[name]
    x, dy, past, p = draw(name)
    past = past if reads_on else None
    g, g_whole = zeros_like(p), zeros_like(p)
    y_whole, saved = inspect.unwrap(forward)(x, p)
    dx_whole = inspect.unwrap(backward)(dy, saved, g_whole, past=past)
    outs = {
        "new": (None, None),
        "out": (np.empty(SHAPE), np.empty(SHAPE)),
        "by columns": (None, np.empty(SHAPE[::-1]).T),
        "in place": (x.copy(), dy),
    }[layout]
    y, saved = forward(outs[0] if layout == "in place" else x, p, out=outs[0])
    assert isinstance(saved, Blocks) and [tokens.start for tokens, _ in saved] == [0, 3, 6, 9]
    dx = backward(dy, saved, g, past=past, out=outs[1])
    assert outs[0] is None or y is outs[0]
    assert outs[1] is None or dx is outs[1]
    np.testing.assert_allclose(y, y_whole, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(dx, dx_whole, rtol=1e-13, atol=1e-14)
    for key in p:
        np.testing.assert_allclose(g[key], g_whole[key], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", NORMS)
def test_frozen_parameters_leave_dx_as_it_is(name):
    _, forward, backward = NORMS[name]
    x, dy, _, p = draw(name)
    _, saved = forward(x, p)
    np.testing.assert_array_equal(backward(dy, saved, FROZEN), backward(dy, saved, zeros_like(p)))


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_the_backward_in_blocks_is_the_slope_of_the_forward(monkeypatch, name):
    monkeypatch.setattr(token_blocks, "LARGE", 0)
    monkeypatch.setattr(token_blocks, "BLOCK", 1)  # a token
    report = check_case(f"layers.norm.{name}", 0)
    assert report.method == "complex" and report.worst < 1e-12


@pytest.mark.parametrize("name", NORMS)
def test_what_is_small_strided_or_of_two_types_runs_at_once(name):
    forward = NORMS[name][1]
    x, *_, p = draw(name)
    assert not isinstance(forward(x[0, :3], p)[1], Blocks)
    assert not isinstance(forward(x.swapaxes(0, 1), p)[1], Blocks)
    assert not isinstance(forward(x.astype("float32"), p)[1], Blocks)
    assert not isinstance(forward(x, p, out=np.empty(SHAPE[::-1]).T)[1], Blocks)


def test_numpy_has_its_buffer_back_even_after_an_error():
    before = np.getbufsize()
    with pytest.raises(ValueError, match="agree"), row_by_row(1000):
        assert np.getbufsize() == 992
        raise ValueError("must agree")
    assert np.getbufsize() == before
