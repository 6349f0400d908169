"""A function that is recorded does what it did, and what no graph can hold is refused.

On the stand-in a capture refuses what CUDA's does, and a replay does again what was captured.
"""

import weakref
from copy import deepcopy

import numpy as np
import pytest

from scratch_vlm.backend import (
    BackendError,
    GraphError,
    Graphs,
    namespace,
    product,
    to_device,
    to_host,
)
from scratch_vlm.backend.graph import MOST, WARMUP
from scratch_vlm.ops.dropout import dropout_backward, dropout_forward
from scratch_vlm.recompute import chunked

RNG = np.random.default_rng


@pytest.fixture
def graphs(xp):
    graphs = Graphs(xp)
    with graphs.in_use():
        yield graphs


def batches(xp, count=WARMUP + 4, shape=(3, 4)):
    rng = RNG(0)
    return [to_device(rng.standard_normal(shape).astype("float32"), xp) for _ in range(count)]


def test_calls_of_a_graph_are_those_of_the_function(xp, graphs):
    runs = []
    w = to_device(RNG(1).standard_normal((4, 5)).astype("float32"), xp)

    def function(x, factor):
        runs.append(1)
        h = product(x, w)
        h -= h.max(-1, keepdims=True)
        h = xp.exp(h).T * factor
        h[::2] += 1
        return xp.concatenate([h, xp.zeros((2, 3), "float32")])

    recorded = graphs.recorded(function)
    for i, x in enumerate(batches(xp)):
        np.testing.assert_array_equal(to_host(recorded(x, 0.5 + i)), to_host(function(x, 0.5 + i)))
    assert len(runs) == WARMUP + 1 + len(batches(xp)), "Python runs no more once it is recorded"


def test_arrays_change_in_place_in_every_call_also_in_the_one_that_records(xp, graphs):
    total = xp.zeros((3, 4), "float32")

    def function(x):
        nonlocal total
        total += x

    recorded, expected = graphs.recorded(function), 0
    for x in batches(xp):
        assert recorded(x) is None
        expected = expected + to_host(x)
        np.testing.assert_array_equal(to_host(total), expected)


def test_every_set_of_shapes_has_a_graph_of_its_own_up_to_a_limit(xp, graphs):
    runs = []

    def function(x):
        runs.append(1)
        return 2 * x

    recorded = graphs.recorded(function)
    for _ in range(WARMUP + 3):
        for length in range(1, MOST + 2):
            x = xp.full(length, 1.5, "float32")
            np.testing.assert_array_equal(to_host(recorded(x)), np.full(length, 3.0))
    assert len(runs) == MOST * (WARMUP + 1) + WARMUP + 3


def test_threads_which_would_have_other_streams_are_refused(xp, graphs):
    forward, _ = chunked(lambda x, p: (2 * x, None), None, size=2, threads=2)
    recorded = graphs.recorded(lambda x: forward(x, {})[0])
    with pytest.raises(ValueError, match="threads share out work of the host; for a device 1, no"):
        recorded(batches(xp)[0])
    forward, _ = chunked(lambda x, p: (2 * x, None), None, size=2)
    recorded = graphs.recorded(lambda x: forward(x, {})[0])
    for x in batches(xp):
        np.testing.assert_array_equal(to_host(recorded(x)), 2 * to_host(x))


def test_constants_of_the_host_are_kept_and_may_be_overwritten(xp, graphs):
    table = np.arange(4, dtype="float32")

    def function(x):
        own = to_device(table, xp)
        own *= x
        return own

    recorded = graphs.recorded(function)
    for x in batches(xp, shape=(4,)):
        np.testing.assert_array_equal(to_host(recorded(x)), table * to_host(x))


@pytest.mark.parametrize("random", [False, True])
def test_what_one_graph_keeps_survives_the_launches_of_another(random, xp, graphs):
    # The second takes its memory from what the first left in the pool, and writes to again.
    def function(x, rng):
        table = np.arange(x.size, dtype="float32").reshape(x.shape)
        y = namespace(x).exp(x) * to_device(table, namespace(x))
        return dropout_forward(y, rate=0.5, rng=rng)[0] if random else y + 1

    here, there = RNG(3), RNG(3)
    recorded = graphs.recorded(lambda x: function(x, there))
    wide, long = batches(xp, shape=(3, 4)), batches(xp, shape=(5, 2))
    for x in (*wide, *(x for both in zip(long, wide, strict=True) for x in both)):
        np.testing.assert_allclose(to_host(recorded(x)), function(to_host(x), here), rtol=1e-6)


def test_numbers_of_the_host_that_change_are_refused(xp, graphs):
    rng = RNG(0)

    def function(x):
        return x * to_device(rng.random(4, dtype="float32"), xp)

    recorded = graphs.recorded(function)
    with pytest.raises(GraphError, match=r"float32 of shape \(4,\), are others in each call"):
        for x in batches(xp):
            recorded(x)
    assert float((xp.ones(3, "float32") * 2).sum()) == 6, "the capture has ended"


def test_random_numbers_are_drawn_again_before_each_replay(xp, graphs):
    def function(x, rng):
        kept, saved = dropout_forward(x, rate=0.4, rng=rng)
        again, _ = dropout_forward(x, rate=0.2, rng=rng)
        return kept + 2 * again + dropout_backward(x, saved)

    here, there = RNG(3), RNG(3)
    recorded = graphs.recorded(lambda x: function(x, there))
    for x in batches(xp, shape=(5, 6)):
        np.testing.assert_allclose(to_host(recorded(x)), function(to_host(x), here), rtol=1e-6)
    assert here.random() == there.random(), "as many numbers were drawn"


def test_a_call_that_failed_is_not_one_to_learn_from(xp, graphs):
    calls, rng = [], RNG(0)

    def function(x):
        calls.append(1)
        if len(calls) == WARMUP:
            raise MemoryError
        return dropout_forward(x, rate=0.5, rng=rng)[0]

    recorded, refused = graphs.recorded(function), 0
    for x in batches(xp):
        try:
            y = to_host(recorded(x))
        except MemoryError:
            refused += 1
        else:
            assert np.isin(y / to_host(x), (0, 2)).all()
    assert refused == 1 and len(calls) == WARMUP + 2


def test_a_generator_that_is_copied_is_refused(xp, graphs):
    rng = RNG(0)
    recorded = graphs.recorded(lambda x: dropout_forward(x, rate=0.5, rng=deepcopy(rng))[0])
    with pytest.raises(GraphError, match=r"shape \(3, 4\) come from another generator"):
        for x in batches(xp):
            recorded(x)
    assert float((xp.ones(3, "float32") * 2).sum()) == 6, "the capture has ended"


def test_numbers_of_python_stay_what_they_were(xp, graphs):
    # Why learning rates are inputs: this is the mistake that the loop must not make.
    rate = 0.0

    def function(x):
        return x * rate

    recorded = graphs.recorded(function)
    for x in batches(xp):
        rate += 1
        y = recorded(x)
    np.testing.assert_allclose(to_host(y), (WARMUP + 1) * to_host(x), rtol=1e-6)


REFUSED = {
    "waiting": lambda xp, x: float(x.sum()),
    "a copy to the host": lambda xp, x: to_host(x),
    "a copy from the host": lambda xp, x: xp.asarray(np.ones(3)),
    "a boolean index": lambda xp, x: x[x > 0],
    "a product of CuPy": lambda xp, x: x @ x.T,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_graph_cannot_hold_is_an_error(name, xp, graphs):
    if not hasattr(xp, "tape"):
        pytest.skip("an error within a capture can leave CUDA unusable for all tests after it")
    recorded = graphs.recorded(lambda x: REFUSED[name](xp, x))
    with pytest.raises(GraphError, match=r"no graph can hold this, .*: .* while a graph"):
        for x in batches(xp):
            recorded(x)
    assert float((xp.ones(3, "float32") * 2).sum()) == 6, "the capture has ended"


@pytest.mark.parametrize("late", [False, True])
def test_ctrl_c_ends_the_recording(late, xp, graphs, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    recorded = graphs.recorded(lambda x: stop() if calls > WARMUP and not late else 2 * x)
    end = xp.cuda.Stream.end_capture
    with pytest.raises(KeyboardInterrupt):
        for calls, x in enumerate(batches(xp), 1):
            if calls > WARMUP and late:  # between the end of the capture and what follows
                monkeypatch.setattr(xp.cuda.Stream, "end_capture", lambda s: (end(s), stop()))
            recorded(x)
    monkeypatch.setattr(xp.cuda.Stream, "end_capture", end)
    late = True
    np.testing.assert_array_equal(to_host(recorded(x)), 2 * to_host(x))


def test_the_stand_in_refuses_what_the_graph_is_there_to_avoid(xp):
    if not hasattr(xp, "tape"):
        pytest.skip("asks what the stand-in refuses; CUDA refuses by itself")
    x, stream = xp.ones((2, 2), "float32"), xp.cuda.Stream(non_blocking=True)
    for mistake, said in (
        (lambda: x + 1, "outside of the graph's own pool"),
        (lambda: x @ x, "own cuBLAS"),
        (stream.synchronize, "waited for a stream"),
    ):
        stream.begin_capture()
        with pytest.raises(xp.tape.CaptureRefused, match=said):
            mistake()
        stream.end_capture()


def test_memory_between_replays_belongs_to_others(xp, graphs):
    if not hasattr(xp, "tape"):
        pytest.skip("what a GPU leaves in freed memory cannot be foretold; the stand-in puts NaN")
    kept = {}

    def function(x):
        if "y" in kept:
            y = kept["y"]  # of the call before: memory that has been given back
            kept["y"] = x + 0.0
            return y
        kept["y"] = x + 0.0
        return x

    recorded = graphs.recorded(function)
    for x in batches(xp):
        y = recorded(x)
    assert not np.array_equal(to_host(y), to_host(x))


def test_a_pool_that_gives_back_what_it_can_keeps_the_memory_of_graphs(xp, graphs):
    recorded = graphs.recorded(lambda x: 2 * (x + 1))
    for x in batches(xp):
        recorded(x)
    graphs._pool.free_all_blocks()  # as it does where memory runs short
    others = [xp.full(x.shape, np.nan, "float32") for _ in range(9)]
    np.testing.assert_array_equal(to_host(recorded(x)), 2 * (to_host(x) + 1))
    assert all(np.isnan(to_host(other)).all() for other in others)


@pytest.fixture
def small_device(xp, monkeypatch):
    """Limit the memory of graphs, to so many numbers more than there are."""
    if not hasattr(xp, "tape"):
        pytest.skip("a test cannot fill a GPU that others may use; the stand-in can be made small")

    def limit(numbers):
        memory = xp.cuda.Memory
        monkeypatch.setattr(memory, "room", memory._used + 4 * numbers)

    return limit


def test_memory_that_a_graph_uses_is_not_given_back_for_another(xp, graphs, small_device):
    recorded = graphs.recorded(lambda x: 2 * (x + 1))
    short, long = batches(xp, shape=(10,)), batches(xp, shape=(50,))
    for x in short:
        recorded(x)
    small_device(20)
    with pytest.raises(MemoryError):
        recorded(long[0])
    np.testing.assert_array_equal(to_host(recorded(short[0])), 2 * (to_host(short[0]) + 1))


def test_memory_that_runs_out_while_a_graph_is_recorded_is_an_error(xp, graphs, small_device):
    recorded = graphs.recorded(lambda x: 2 * (x + 1))
    for x in batches(xp, WARMUP):
        recorded(x)
    small_device(x.size)
    with pytest.raises(MemoryError):
        recorded(x)
    assert float((xp.ones(3, "float32") * 2).sum()) == 6, "the capture has ended"


def test_graphs_get_what_the_pool_of_all_does_not_need(xp, graphs, small_device, monkeypatch):
    small_device(30)
    monkeypatch.setattr(xp.cuda.COMMON, "unused", xp.cuda.Memory(4 * 25))
    recorded = graphs.recorded(lambda x: 2 * x)
    for x in batches(xp, 2):
        np.testing.assert_array_equal(to_host(recorded(x)), 2 * to_host(x))
    assert xp.cuda.COMMON.unused is None


def test_memory_and_stream_are_given_back_with_what_was_recorded(xp, graphs):
    other = Graphs(xp)
    with other.in_use():
        recorded = other.recorded(lambda x: 2 * x)
        for x in batches(xp):
            recorded(x)
    assert other.nbytes >= x.nbytes
    stream, gone = other._stream, weakref.ref(other)
    del other
    assert gone(), "what was recorded can still be launched"
    del recorded
    assert not gone()
    assert Graphs(xp)._stream is stream is not graphs._stream


def test_elsewhere_nothing_is_recorded(xp):
    recorded = Graphs(xp).recorded(lambda x: 2 * x)
    with pytest.raises(GraphError, match="call it in in_use"):
        recorded(xp.ones(3, "float32"))


def test_numpy_has_no_graphs():
    with pytest.raises(BackendError, match="graphs need a GPU: add --backend cupy"):
        Graphs(np)
