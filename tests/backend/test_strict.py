"""The strict backend raises at each mistake that NumPy forgives and CuPy does not."""

import math

import numpy as np
import pytest

from scratch_vlm.backend import load, namespace, to_device, to_host

xp = load("strict")
HOST = np.arange(6, dtype="float32").reshape(2, 3)
X = xp.asarray(HOST)

MISTAKES = {
    "a function of NumPy": (lambda: np.exp(X), TypeError, "call xp.exp"),
    "another function of NumPy": (lambda: np.concatenate([X, X]), TypeError, "call xp.concat"),
    "a silent copy to the host": (lambda: np.asarray(X), TypeError, "without being asked"),
    "an array of NumPy on the right": (lambda: X + HOST, TypeError, "xp.asarray"),
    "an array of NumPy on the left": (lambda: HOST + X, TypeError, "call xp.add"),
    "an array of NumPy added in place": (lambda: X.__iadd__(HOST), TypeError, "xp.asarray"),
    "an array of NumPy assigned": (lambda: X.__setitem__(0, HOST[0]), TypeError, "xp.asarray"),
    "an array of NumPy as an argument": (lambda: xp.exp(HOST), TypeError, "xp.asarray"),
    "an array of NumPy in a list": (lambda: xp.stack([X, HOST]), TypeError, "xp.asarray"),
    "an array of NumPy as an index": (lambda: X[np.array([0, 1])], TypeError, "xp.asarray"),
    "an array of NumPy to a method": (lambda: X.dot(HOST.T), TypeError, "xp.asarray"),
    "a list as an index": (lambda: X[[0, 1]], TypeError, "make it an array"),
    "a list to a ufunc": (lambda: xp.add(X, [1, 2, 3]), TypeError, "takes no lists"),
    "where= in a ufunc": (lambda: xp.add(X, X, where=X > 0), TypeError, "has no where"),
    "where= in a reduction": (lambda: xp.sum(X, where=X > 0), TypeError, "has no where"),
    "where= in a method": (lambda: X.sum(where=X > 0), TypeError, "has no where"),
    "initial=": (lambda: X.max(initial=0), TypeError, "has no initial"),
    "correction=": (lambda: xp.var(X, correction=1), TypeError, "has no correction"),
    "stable=": (lambda: xp.argsort(X, stable=True), TypeError, "has no stable"),
    "maximum.reduce": (lambda: xp.maximum.reduce(X), NotImplementedError, "no maximum.reduce"),
    "vecdot": (lambda: xp.vecdot(X, X), AttributeError, "CuPy has no vecdot"),
    "errstate": (lambda: xp.errstate(all="ignore"), AttributeError, "CuPy has no errstate"),
    "a method CuPy has not": (lambda: X.ctypes, AttributeError, "has no ctypes"),
    "a number of float64": (lambda: X / np.sqrt(16), TypeError, "became float64"),
    "a number of float64 in place": (lambda: X.__imul__(np.sqrt(16)), TypeError, "became float64"),
    "an array of float64": (lambda: X * xp.zeros(3), TypeError, "became float64"),
    "adding float64 in place": (lambda: X.__iadd__(xp.zeros(3)), TypeError, "became float64"),
    "assigning float64": (lambda: X.__setitem__(0, xp.ones(3)), TypeError, "became float64"),
    "add.at of float64": (
        lambda: xp.add.at(X, xp.asarray([0]), xp.ones((1, 3))),
        TypeError,
        "became float64",
    ),
    "integers that widen": (lambda: X * xp.arange(3), TypeError, "became float64, .*integers"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_raises(name):
    mistake, error, message = MISTAKES[name]
    before = to_host(X)
    with pytest.raises(error, match=message):
        mistake()
    np.testing.assert_array_equal(to_host(X), before)


WAITS = {
    "float": lambda: float(X[0, 0]),
    "int": lambda: int(X[0, 0]),
    "if": lambda: bool(X.sum() > 0),
    "item": lambda: X[0, 0].item(),
    "tolist": lambda: X.tolist(),
    "as an index": lambda: [1, 2][xp.asarray(0)],
    "in a slice": lambda: X[: xp.asarray(1)],
    "in a range": lambda: range(xp.asarray(3)),
    "in a shape": lambda: xp.zeros(int(X.sum())),
    "format": lambda: f"{X.sum():.3f}",
    "print": lambda: str(X),
    "a boolean index": lambda: X[X > 1],
    "nonzero": lambda: xp.nonzero(X),
    "the method nonzero": lambda: X.nonzero(),
    "where of one argument": lambda: xp.where(X > 1),
    "unique": lambda: xp.unique(X),
    "max of Python": lambda: max(X[0]),
    "copying to the host": lambda: xp.asnumpy(X),
}


@pytest.mark.parametrize("name", WAITS)
def test_waiting_is_listed_and_where_it_is_forbidden_raises(name):
    xp.waits.clear()
    WAITS[name]()
    assert xp.waits and __file__ in xp.waits[0]
    with pytest.raises(RuntimeError, match="makes the host wait"), xp.no_waiting():
        WAITS[name]()
    WAITS[name]()  # allowed again


def block(xp, x, w, ids):
    mean = x.mean(-1, keepdims=True)
    h = (x - mean) / xp.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-5)
    scores = xp.matmul(h @ w, h.swapaxes(-1, -2)) * (1 / math.sqrt(4))
    mask = xp.triu(xp.full(scores.shape[-2:], -math.inf, xp.float32), 1)
    scores = xp.exp(scores + mask - (scores + mask).max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    y = xp.einsum("bts,bsd->btd", scores, h)
    table = xp.zeros((9, 4), xp.float32)
    xp.add.at(table, ids, y)
    table[xp.arange(3)] += 1
    return y, table, xp.where(table > 0, table, 0.5), -y[:, ::2].copy(), xp.concatenate([y, y])


def test_what_cupy_can_do_gives_the_bits_of_numpy():
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(n).astype("float32") for n in ((2, 5, 4), (4, 4)))
    ids = rng.integers(0, 9, (2, 5))
    with xp.no_waiting():
        found = block(xp, *(to_device(a, xp) for a in (x, w, ids)))
    for a, b in zip(found, block(np, x, w, ids), strict=True):
        assert isinstance(a, xp.ndarray) and a.dtype == b.dtype and a.strides == b.strides
        np.testing.assert_array_equal(to_host(a), b)


def test_a_reduction_is_an_array_and_no_number_of_numpy():
    for total in (X.sum(), xp.sum(X), X[0] @ X[1], X[0, 0] + X[0, 1]):
        assert isinstance(total, xp.ndarray) and total.shape == ()


def test_its_arrays_know_their_module_and_are_views_where_those_of_numpy_are():
    x = xp.asarray(HOST)
    assert namespace(x) is xp and x.flags.c_contiguous and not x.T.flags.c_contiguous
    view = x.reshape(-1)[2:4]
    view += 1
    assert to_host(x)[0, 2] == HOST[0, 2] + 1
    assert xp.exp(x, out=x) is x
    assert HOST[0, 2] == 2, "asarray copies what was on the host"


def test_single_numbers_of_python_do_not_widen():
    for y in (X * 2.0, 2.0 * X, X / math.sqrt(16), xp.where(X > 1, X, math.inf), X**2, X + True):
        assert y.dtype == "float32"
    assert X.astype("float64").dtype == X.sum(dtype="float64").dtype == "float64"


def test_the_list_is_what_cupy_says_of_itself(monkeypatch):
    cupy = pytest.importorskip("cupy", reason="needs CuPy, not a GPU")
    if cupy.__version__ != xp.API["cupy"]:
        pytest.skip(f"the list is of CuPy {xp.API['cupy']}, here is {cupy.__version__}")
    names = {*xp.API["ufuncs"], *xp.API["functions"], *xp.API["values"]}
    assert {name for name in dir(cupy) if name in names} == names
    assert not hasattr(cupy, "vecdot") and not hasattr(cupy, "errstate")
