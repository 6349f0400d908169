"""The stand-in for CuPy refuses what CuPy refuses; what is planted here must never pass."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import strict as xp

import scratch_vlm
from scratch_vlm.backend import floating, namespace, to_device, to_host

HOST = np.linspace(-1, 1, 12, dtype="float32").reshape(3, 4)


@pytest.fixture
def x():
    return to_device(HOST, xp)


MISUSE = {
    "a function of NumPy": lambda x: np.exp(x),
    "a function of NumPy that is no ufunc": lambda x: np.concatenate([x, x]),
    "conversion to NumPy": lambda x: np.asarray(x),
    "an operand of NumPy": lambda x: x + HOST,
    "an operand of NumPy on the left": lambda x: HOST + x,
    "an operand of NumPy in place": lambda x: x.__iadd__(HOST),
    "an argument of NumPy": lambda x: xp.maximum(x, HOST),
    "a keyword argument of NumPy": lambda x: xp.exp(x, out=HOST.copy()),
    "a list with one of NumPy": lambda x: xp.concatenate([x, HOST]),
    "a method's argument of NumPy": lambda x: x.dot(HOST.T),
    "assigning one of NumPy": lambda x: x.__setitem__(..., HOST),
    "an index of NumPy": lambda x: x[np.array([0, 1])],
    "an index of NumPy beside another": lambda x: x[xp.arange(2), np.array([0, 1])],
    "a list as an index": lambda x: x[[0, 1]],
    "a slice up to a device array": lambda x: x[: xp.arange(3).max()],
    "range of a device array": lambda x: range(xp.arange(3).max()),
    "a list in a ufunc": lambda x: xp.add(xp.arange(2), [1, 2]),
    "where= of a ufunc": lambda x: xp.exp(x, where=x > 0),
    "where= of a reduction": lambda x: xp.sum(x, where=x > 0),
    "where= of a method": lambda x: x.sum(where=x > 0),
    "initial= of a method": lambda x: x.max(initial=0),
    "a keyword that only NumPy has": lambda x: xp.clip(x, min=0),
    "an argument that CuPy wants": lambda x: xp.clip(x, 0),
    "too many arguments": lambda x: xp.swapaxes(x, 0, 1, 0),
    "the correction of a variance": lambda x: xp.var(x, correction=1),
    "a stable sort by keyword": lambda x: xp.argsort(x, stable=True),
    "a scalar of NumPy": lambda x: x / np.sqrt(16),
    "a scalar of NumPy on the left": lambda x: np.sqrt(16) * x,
    "zeros of the default dtype": lambda x: x + xp.zeros(4),
    "writing into zeros of it": lambda x: xp.zeros((3, 4)).__setitem__(..., x),
    "adding into zeros of it": lambda x: xp.zeros((3, 4)).__iadd__(x),
    "integers and float32": lambda x: x * xp.arange(4),
    "dividing by a count": lambda x: x / (x > 0).sum(),
    "a product of two precisions": lambda x: xp.matmul(x, x.T.astype("float64")),
    "at of a ufunc but add": lambda x: xp.maximum.at(x, xp.arange(3), x),
    "add.at with an index of NumPy": lambda x: xp.add.at(x, np.arange(3), x),
    "add.at of another precision": lambda x: xp.add.at(x, xp.arange(3), xp.zeros((3, 4))),
    "a copy on the side of another precision": lambda x: x.set(HOST > 1, xp.cuda.Stream()),
    "an integer outside the axis": lambda x: x[xp.asarray([5])],
}
MISSING = {
    "a function that CuPy lacks": lambda x: xp.vecdot(x, x),
    "errstate": lambda x: xp.errstate(all="ignore"),
    "a method that CuPy lacks": lambda x: x.searchsorted_,
    "an attribute that CuPy lacks": lambda x: x.ctypes,
    "reduce of a ufunc": lambda x: xp.maximum.reduce(x),
    "in-place matrix product": lambda x: getattr(x, "__imatmul__"),  # noqa: B009
}
WAITS = {
    "float": lambda x: float(x[0, 0]),
    "int": lambda x: int(x[0, 0]),
    "bool": lambda x: bool(x[0, 0]),
    "if": lambda x: 1 if x.sum() > 0 else 0,
    "complex": lambda x: complex(x[0, 0]),
    "a number in a text": lambda x: f"{x.sum():.3f}",
    "a text": lambda x: str(x),
    "math": lambda x: math.sqrt(x.max()),
    "max of Python": lambda x: max(x[0]),
    "item": lambda x: x[0, 0].item(),
    "tolist": lambda x: x.tolist(),
    "get": lambda x: x.get(),
    "to_host": lambda x: to_host(x),
    "reading through a mask": lambda x: x[x > 0],
    "reading through a mask of rows": lambda x: x[(x > 0).any(1), 0],
    "writing an array through a mask": lambda x: x.__setitem__(x > 9, x[0, :0]),
    "writing through a mask of rows": lambda x: x.__setitem__((x > 9).any(1), 0),
    "nonzero": lambda x: xp.nonzero(x),
    "nonzero as a method": lambda x: x.nonzero(),
    "where of one argument": lambda x: xp.where(x > 0),
    "unique": lambda x: xp.unique(x),
    "flatnonzero": lambda x: xp.flatnonzero(x),
    "a copy on the side from memory that may move": lambda x: x.set(HOST + 1, xp.cuda.Stream()),
}


@pytest.mark.parametrize("name", MISUSE)
def test_what_cupy_refuses_or_does_slowly_is_refused(name, x):
    with pytest.raises((TypeError, IndexError)):
        MISUSE[name](x)
    np.testing.assert_array_equal(to_host(x), HOST)


@pytest.mark.parametrize("name", MISSING)
def test_what_cupy_lacks_is_missing(name, x):
    with pytest.raises(AttributeError):
        MISSING[name](x)


@pytest.mark.parametrize("name", WAITS)
def test_nothing_waits_for_the_device_where_that_is_forbidden(name, x):
    WAITS[name](x)
    with xp.no_sync(), pytest.raises(xp.HiddenSync, match="waits for the device"):
        WAITS[name](x)
    WAITS[name](x)


def test_the_errors_say_what_met_what(x):
    for name, words in {
        "a function of NumPy": r"np\.exp, or a NumPy operand, met a device array",
        "an index of NumPy": "an index: a NumPy array among those of the device",
        "where= of a method": "CuPy's sum: got an unexpected keyword argument 'where'",
        "an argument that CuPy wants": "CuPy's clip: missing a required argument: 'a_max'",
        "integers and float32": "__mul__ mixes float32 and float64; give the dtype",
    }.items():
        with pytest.raises(TypeError, match=words):
            MISUSE[name](x)


USES = {
    "operators": lambda xp, x: 2 * -(x**2) / 3 - (1 - x) @ x.T @ x,
    "in place": lambda xp, x: x.copy().__iadd__(x).__imul__(0.5),
    "methods": lambda xp, x: (
        x.reshape(2, 6).T.swapaxes(0, 1).astype("float64").sum(1, keepdims=True)
    ),
    "reductions": lambda xp, x: x.mean(-1, keepdims=True) + x.max(),
    "where of three": lambda xp, x: xp.where(x > 0, x, 0.0),
    "indices": lambda xp, x: x[xp.arange(2), xp.asarray([3, 1])][::-1, None],
    "asked for float64": lambda xp, x: xp.sum(x, dtype="float64") + xp.arange(2) / 2,
    "out": lambda xp, x: xp.matmul(x, x.T, out=xp.empty((3, 3), x.dtype)),
    "lists": lambda xp, x: xp.concatenate([x, xp.stack([x[0], x[1]])], axis=0),
    "splitting": lambda xp, x: xp.split(x, 2, axis=1)[1],
    "booleans": lambda xp, x: ~(x > 0) & (x != x[0]),
    "a value through a mask": lambda xp, x: [y := x.copy(), y.__setitem__(x > 0, 7.0)][0],
}


@pytest.mark.parametrize("name", USES)
def test_what_cupy_can_do_gives_what_numpy_gives(name, x):
    right = USES[name](np, HOST)
    with xp.no_sync():
        y = USES[name](xp, x)
    assert type(y) is xp.ndarray and y.dtype == right.dtype and y.shape == right.shape
    np.testing.assert_array_equal(to_host(y), right)


def test_it_is_a_namespace_like_any_other(x):
    assert namespace(x) is xp and floating(x) is xp
    assert not isinstance(x, np.ndarray)
    assert type(x.sum()) is xp.ndarray and x.sum().shape == ()


def test_a_device_has_its_own_memory(x):
    host = HOST.copy()
    there = to_device(host, xp)
    host[...] = 0
    back = to_host(there)
    back[...] = 5
    np.testing.assert_array_equal(to_host(there), HOST)


def test_a_stream_copies_when_somebody_waits_for_it(x):
    pinned = np.frombuffer(xp.cuda.alloc_pinned_memory(x.nbytes), "float32").reshape(x.shape)
    pinned[...] = 5
    stream, event = xp.cuda.Stream(non_blocking=True), xp.cuda.Event()
    x.set(pinned, stream)
    event.record(stream)
    np.testing.assert_array_equal(to_host(x), HOST)
    xp.cuda.get_current_stream().wait_event(event)
    np.testing.assert_array_equal(to_host(x), pinned)


def test_what_is_written_into_comes_back(x):
    out = xp.empty_like(x)
    assert xp.exp(x, out=out) is out
    y = x
    y += 1
    assert y is x


def test_the_names_are_those_of_the_cupy_that_is_installed():
    cupy = pytest.importorskip("cupy", exc_type=ImportError)
    if cupy.__version__ != xp.API["cupy"]:
        pytest.skip(f"api.json is of CuPy {xp.API['cupy']}; {cupy.__version__} is installed")
    from strict import make_api

    assert make_api.describe_all() == xp.API


OWN = {  # what the stand-in has for tests, or for itself
    "Event": {"mark"},
    "MemoryPool": {"arrays", "memory", "take"},
    "Memory": {"room"},
    "PinnedMemory": {"error", *dir(bytearray)},
    "Stream": {"follow", "late", "put", "run"},
}


def test_what_the_library_takes_from_cuda_is_in_cupy():
    used = set()
    for file in Path(scratch_vlm.__file__).parent.rglob("*.py"):
        source = file.read_text(encoding="utf-8")
        used |= set(re.findall(r"(?<!torch)\.cuda\.(\w+)(?:\.(\w+))?", source))
    assert ("runtime", "CUDARuntimeError") in used and ("Stream", "") in used
    for name, inner in used - {("Event", "")}:
        assert name in xp.API["cuda"], name
        assert not inner or inner in xp.API["cuda"][name].split(), (name, inner)


def test_what_the_stand_in_has_of_cuda_is_in_cupy():
    kinds = {name: x for name, x in vars(xp.cuda).items() if name in xp.API["cuda"]}
    assert {"Stream", "Event", "MemoryPool", "runtime", "using_allocator"} <= kinds.keys()
    for name, x in kinds.items():
        names = {inner for inner in dir(x) if inner[0] != "_"} if isinstance(x, type) else set()
        names = set(vars(x)) if name == "runtime" else names
        assert names - OWN.get(name, set()) <= set(xp.API["cuda"][name].split()), name
