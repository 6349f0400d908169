"""Batches arrive on a device as they were sent, however far behind it is with anything.

The stand-in for CuPy has the worst cases: copies that end when somebody waits for them, and steps
that have not begun when the next copies could already be done.
"""

import warnings

import numpy as np
import pytest
import strict

from scratch_vlm.backend import Feed, to_host
from scratch_vlm.backend.feed import OUT_OF_MEMORY

CASES = ("late copies", "late steps", "late copies and steps")


def make_batch(i):
    """Make a batch unlike those before: arrays of all kinds, of sizes that go up and down."""
    rng = np.random.default_rng(i)
    n = (3, 40, 7, 300, 300, 1)[i % 6]
    return (
        rng.integers(0, 256, (n, 5, 5, 3)).astype("uint8"),
        rng.standard_normal((2, n), dtype="float32").T,  # stored by columns
        rng.integers(0, 99, (2, 3)),
        rng.random(n) < 0.5,
        np.array(float(i)),
        np.empty((n, 0), bool),  # of which only the length of an axis is read
    )


def look(xp, arrays, stream, case):
    """Launch a step that keeps copies of its batch, and may begin long afterwards."""
    if "steps" not in case:
        return [x.copy() for x in arrays]
    if xp is not strict:
        busy = xp.ones((4096, 4096), "float32")
        for _ in range(10):
            busy = busy @ busy
        return [x.copy() for x in arrays]
    seen = []
    stream.launch_host_func(lambda _: seen.extend(x.copy() for x in arrays), None)
    return seen


def check(xp, case, monkeypatch, batches, padding=0):
    """Send batches, and compare what their steps see."""
    monkeypatch.setattr(strict.cuda.Stream, "late", "copies" in case)
    stream = xp.cuda.Stream(non_blocking=True)
    stream.late = True
    seen = []
    with Feed(xp) as feed, stream:
        sent = None
        for batch in [*batches, None]:
            arrays = feed.receive(sent) if sent else ()
            if batch:
                given = (*(x.copy(order="K") for x in batch), np.zeros(padding, "uint8"))
                sent = feed.send(given)
                for x in given:
                    x[...] = 0
            seen.append(look(xp, arrays, stream, case))
        stream.synchronize()
    for arrays, batch in zip(seen[1:], batches, strict=True):
        for x, right in zip(arrays, batch, strict=False):
            assert x.dtype == right.dtype and x.shape == right.shape
            np.testing.assert_array_equal(to_host(x), right)


@pytest.mark.parametrize("case", CASES)
def test_steps_see_their_own_batches(case, xp, monkeypatch):
    padding = 0 if xp is strict else 1 << 26  # bytes, so that a copy takes long
    check(xp, case, monkeypatch, [make_batch(i) for i in range(12)], padding)


FORGOTTEN = {
    "a step that does not wait for its copy": ("Stream", "wait_event", "late copies"),
    "a copy that does not wait for the step before": ("Stream", "wait_event", "late steps"),
    "memory written while it is copied": ("Event", "synchronize", "late copies and steps"),
    "an event from before the step": (None, None, "late steps"),
}


@pytest.mark.parametrize("name", FORGOTTEN)
def test_what_is_forgotten_is_found(name, monkeypatch):
    owner, method, case = FORGOTTEN[name]
    if owner:
        monkeypatch.setattr(getattr(strict.cuda, owner), method, lambda *args: None)
    else:
        receive = Feed.receive

        def too_early(feed, sent):
            arrays = receive(feed, sent)
            slot, stream = feed._given
            slot.read.record(stream)
            feed._given = None
            slot.taken = False
            return arrays

        monkeypatch.setattr(Feed, "receive", too_early)
    with pytest.raises(AssertionError):
        check(strict, case, monkeypatch, [make_batch(i) for i in range(12)])


def test_numpy_gets_the_arrays_themselves():
    batch = make_batch(0)
    with Feed(np) as feed:
        assert feed.receive(feed.send(batch)) is batch


def test_a_batch_may_be_of_nothing(xp):
    with Feed(xp) as feed:
        assert feed.receive(feed.send(())) == ()


def test_the_host_waits_for_nothing(no_sync, xp):
    with no_sync(), Feed(xp) as feed:
        for i in range(6):
            feed.receive(feed.send(make_batch(i)))


def test_a_batch_too_many_is_refused(xp):
    with Feed(xp) as feed:
        feed.receive(feed.send(make_batch(0)))
        feed.send(make_batch(1))
        with pytest.raises(RuntimeError, match="receive the batch that was sent before"):
            feed.send(make_batch(2))


def test_who_leaves_waits_for_the_batch_on_its_way():
    with Feed(strict) as feed:
        feed.send(make_batch(0))
        before = len(strict.waits)
    assert len(strict.waits) == before + 1


def test_who_leaves_waits_for_the_step():
    with strict.cuda.Stream() as stream, Feed(strict) as feed:
        seen = look(strict, feed.receive(feed.send(make_batch(0))), stream, "late steps")
        assert not seen
    assert seen


def test_arrays_begin_where_kernels_may_read_many_numbers_at_once():
    with Feed(strict) as feed:
        arrays = feed.receive(feed.send(make_batch(1)))
    begins = [x.host.ctypes.data - arrays[0].host.ctypes.data for x in arrays]
    assert not any(np.array(begins) % 512)


@pytest.mark.parametrize("case", CASES)
def test_without_pinned_memory_steps_see_their_own_batches_after_a_warning(case, monkeypatch):
    monkeypatch.setattr(strict.cuda.PinnedMemory, "error", OUT_OF_MEMORY)
    with pytest.warns(RuntimeWarning, match="CUDA found no memory of the host to pin for batches"):
        check(strict, case, monkeypatch, [make_batch(i) for i in range(12)])


def test_the_warning_is_shown_once(monkeypatch):
    monkeypatch.setattr(strict.cuda.PinnedMemory, "error", OUT_OF_MEMORY)
    with warnings.catch_warnings(record=True) as shown, Feed(strict) as feed:
        warnings.simplefilter("default")
        for i in range(6):
            feed.receive(feed.send(make_batch(i)))
    assert len(shown) == 1


def test_other_errors_of_the_device_are_not_taken_for_want_of_memory(monkeypatch):
    monkeypatch.setattr(strict.cuda.PinnedMemory, "error", 700)
    with pytest.raises(strict.cuda.CUDARuntimeError, match="700"), Feed(strict) as feed:
        feed.send(make_batch(0))
