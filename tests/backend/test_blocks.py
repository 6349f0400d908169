"""Work in blocks and in turns is the same work, on one core or on several."""

import inspect
import threading

import numpy as np
import pytest

from scratch_vlm.backend import blocks, in_blocks, in_turns
from scratch_vlm.ops.activations import ACTIVATIONS

LARGE = 3 * blocks.BLOCK + 17


@pytest.fixture(params=["1", "2"])
def threads(request, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", request.param)
    monkeypatch.setattr(blocks.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    return int(request.param)


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "quick_gelu", "silu"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize("layout", ["whole", "half", "out", "in place"])
def test_blocks_are_the_whole_to_the_bit(threads, name, dtype, layout):
    forward = ACTIVATIONS[name][0]
    x = np.random.default_rng(0).standard_normal((2, LARGE // 62, 62)).astype(dtype)
    x = x[..., :31] if layout == "half" else np.ascontiguousarray(x[..., :40])
    y, slope = inspect.unwrap(forward)(x)
    out = {"out": np.full_like(x, np.nan), "in place": x}.get(layout)
    y_blocks, slope_blocks = forward(x, out=out)
    assert np.array_equal(y_blocks, y) and np.array_equal(slope_blocks, slope)
    assert out is None or y_blocks is out


def test_blocks_are_small_and_cover_everything_once(threads):
    seen = []

    @in_blocks
    def double(x, *, out=None):
        seen.append(x.size)
        return np.multiply(x, 2, out=out), np.full(x.shape, 2.0)

    x = np.arange(float(LARGE))
    y, slope = double(x)
    assert np.array_equal(y, 2 * x) and (slope == 2).all()
    assert sum(seen) == LARGE and max(seen) == blocks.BLOCK
    seen.clear()
    double(x[:10])
    assert seen == [10]


def test_an_error_inside_a_turn_arrives(threads):
    def work(i):
        if i == 3:
            raise ValueError("the fourth")

    with pytest.raises(ValueError, match="the fourth"):
        in_turns(work, 5)


def test_turns_use_as_many_threads_as_the_environment_gives(threads):
    who = set()
    together = threading.Barrier(threads)

    def work(_):
        together.wait(timeout=30)  # comes back only if that many threads are here at once
        who.add(threading.current_thread().name)

    in_turns(work, threads)
    assert len(who) == threads


def test_a_thread_beside_others_works_alone(threads):
    found = []
    thread = threading.Thread(target=lambda: found.append(blocks.cores()))
    thread.start()
    thread.join()
    assert found == [1] and blocks.cores() == threads
