"""The matrix product of a device: planned and called here, carried out by a stand-in of cuBLAS."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from strict.blas import Library, LtLibrary

from scratch_vlm.backend import cublas, rounded
from scratch_vlm.backend.cublas import COMPUTE, TYPES, Cublas, CublasError, matmul
from scratch_vlm.backend.cublaslt import CublasLt
from scratch_vlm.backend.factors import half_type
from scratch_vlm.backend.gemm import Layout, Refused, plan


@pytest.fixture
def multiply(monkeypatch):
    """Return a function that multiplies arrays of NumPy as if they were on a device."""
    monkeypatch.setattr(cublas, "_address", lambda x: x.ctypes.data)
    library = Library()
    blas = Cublas(library)

    def multiply(a, b, out=None, **options):
        return matmul(a, b, out, xp=np, blas=blas, **options)

    multiply.calls, multiply.blas = library.calls, blas
    return multiply


def view(rng, batch, rows, columns, dtype="float64"):
    """Draw a matrix, or a batch, that may be transposed, sliced, strided or shared."""
    shape = batch if rng.random() < 0.7 else batch[rng.integers(len(batch) + 1) :]
    shape = tuple(1 if rng.random() < 0.2 else length for length in shape)
    transposed = rng.random() < 0.5
    rows, columns = (columns, rows) if transposed else (rows, columns)
    every = rng.choice([1, 1, 1, 2], len(shape))
    below, beside = rng.integers(0, 3, 2)
    whole = [n * s for n, s in zip(shape, every, strict=True)]
    x = rng.standard_normal((*whole, rows + below, columns + beside)).astype(dtype)
    x = x[(*(slice(None, None, s) for s in every), slice(below, None), slice(columns))]
    if len(shape) == 2 and rng.random() < 0.2:
        x = np.swapaxes(np.ascontiguousarray(np.swapaxes(x, 0, 1)), 0, 1)
    return x.swapaxes(-1, -2) if transposed else x


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_of_random_views_are_those_of_numpy(multiply, add, dtype):
    rng, tolerance = np.random.default_rng(add), 1e-4 if dtype == "float32" else 1e-12
    copied = 0
    for _ in range(1500):
        batch = tuple(rng.integers(1, 4, rng.integers(0, 4)))
        rows, inner, columns = rng.integers(1, 6, 3)
        a, b = view(rng, batch, rows, inner, dtype), view(rng, batch, inner, columns, dtype)
        wanted = a @ b
        out = rng.standard_normal((*wanted.shape[:-1], columns + 2)).astype(dtype)[..., :columns]
        before = (a.copy(), b.copy(), out.copy())
        try:
            plan(*(Layout(x.shape, tuple(s // x.itemsize for s in x.strides)) for x in (a, b, out)))
        except Refused:
            copied += 1
        found = multiply(a, b, out, add=add)
        assert found is out
        np.testing.assert_allclose(out, wanted + before[2] * add, rtol=0, atol=tolerance)
        np.testing.assert_array_equal(a, before[0])
        np.testing.assert_array_equal(b, before[1])
    assert len(multiply.calls) >= 1400, "nearly all are products of cuBLAS, if after a copy"
    assert copied < 500, "most views need no copy"


@pytest.mark.parametrize("add", [False, True])
def test_a_result_may_be_stored_by_columns(multiply, add):
    rng = np.random.default_rng(0)
    a, b, w = (rng.standard_normal(n) for n in ((4, 3), (3, 5), (5, 4)))
    wanted = a @ b + w.T * add
    assert multiply(a, b, w.T, add=add).base is w
    np.testing.assert_allclose(w.T, wanted)
    assert len(multiply.calls) == 1


@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_a_bias_is_added_where_the_product_ends(multiply, precision, able):
    rng = np.random.default_rng(0)
    library = LtLibrary(able)
    multiply.blas.lt = CublasLt(library, 0, 0, cublas.WORKSPACE)
    for _ in range(50):
        rows, inner, columns = rng.integers(1, 6, 3)
        a, b = view(rng, (), rows, inner, "float32"), view(rng, (), inner, columns, "float32")
        bias = rng.standard_normal(columns).astype("float32")
        out = np.empty((rows, columns + 2), "float32")[:, :columns]
        wanted = rounded(a, precision) @ rounded(b, precision) + bias
        found = multiply(a, b, out, bias=bias, precision=precision)
        exact = precision != "tf32"  # which the stand-in multiplies in float32
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 if exact else 1e-2)
    assert len(library.calls) == 50 * able and len(multiply.calls) == 50 * (not able)
    assert {call.compute for call in library.calls} <= {COMPUTE["tf32"], COMPUTE["float32"]}


@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_result_of_16_bits_is_the_sum_rounded_once(multiply, precision, able):
    rng, half = np.random.default_rng(0), half_type(precision)
    library = LtLibrary(able)
    multiply.blas.lt = CublasLt(library, 0, 0, cublas.WORKSPACE)
    a, b, bias = (rng.standard_normal(n).astype("float32") for n in ((40, 30), (30, 20), 20))
    for added in (None, bias):
        exact = rounded(a, precision) @ rounded(b, precision)
        if added is not None:
            exact = exact + bias.astype(half).astype("float32")
        found = multiply(a, b, np.empty(exact.shape, half), bias=added, precision=precision)
        assert found.dtype == half
        step = 2.0 ** (-8 if precision == "bf16" else -11)
        roundings = 1 if able or added is None else 2
        np.testing.assert_allclose(found.astype("float32"), exact, rtol=roundings * step, atol=1e-2)
    assert len(library.calls) == able and len(multiply.calls) == 2 - able


def test_a_bias_that_cublaslt_does_not_take_is_added_after(multiply):
    rng = np.random.default_rng(0)
    library = LtLibrary()
    multiply.blas.lt = CublasLt(library, 0, 0, cublas.WORKSPACE)
    for a, dtype in ((rng.random((2, 3, 4)), "float64"), (rng.random((3, 4)), "float64")):
        b, bias = rng.random((*a.shape[:-2], 4, 5)).astype(dtype), rng.random(5).astype(dtype)
        np.testing.assert_allclose(multiply(a.astype(dtype), b, bias=bias), a @ b + bias)
    a, b = rng.random((2, 3, 4), "float32"), rng.random((2, 4, 5), "float32")  # a batch
    np.testing.assert_allclose(multiply(a, b, bias=b[0, 0]), a @ b + b[0, 0], rtol=1e-6)
    assert not library.calls


def test_what_cublaslt_needs_is_prepared_once_for_each_shape(multiply):
    library = LtLibrary()
    multiply.blas.lt = CublasLt(library, 0, 0, cublas.WORKSPACE)
    for _ in range(3):
        for rows in (2, 3):
            a, b, bias = np.ones((rows, 4), "f4"), np.ones((4, 8), "f4"), np.ones(8, "f4")
            multiply(a, b, bias=bias)
    assert len(library.calls) == 6
    assert sum(isinstance(made, dict) and "compute" in made for made in library._made.values()) <= 4


STRANGE = {
    "a row for all": lambda x: np.broadcast_to(x[:1], x.shape),
    "a column for all": lambda x: np.broadcast_to(x[:, :1], x.shape),
    "a number for all": lambda x: np.broadcast_to(x[:1, :1], x.shape),
    "rows that overlap": lambda x: as_strided(np.tile(x, 2), x.shape, (16, 8)),
    "columns that overlap": lambda x: as_strided(np.tile(x, 2), x.shape, (8, 16)),
    "backwards": lambda x: x[::-1],
    "mirrored": lambda x: x[:, ::-1],
    "every other column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
}


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("size", [1, 4])
def test_views_that_no_leading_dimension_describes_are_copied(multiply, name, size):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((size, 4)), rng.standard_normal((4, size))
    strange = STRANGE[name](x)
    np.testing.assert_allclose(multiply(strange, y), strange @ y)
    strange = STRANGE[name](y)
    np.testing.assert_allclose(multiply(x, strange), x @ strange)
    assert len(multiply.calls) == 2


def layouts(*arrays):
    return [Layout(x.shape, tuple(s // x.itemsize for s in x.strides)) for x in arrays]


def test_the_products_of_a_linear_layer_are_single_ones_of_two_matrices():
    x, w, dy = np.zeros((3, 5, 8)), np.zeros((8, 6)), np.zeros((3, 5, 6))
    for a, b, c in ((x, w, dy), (dy, w.T, x), (x.reshape(-1, 8).T, dy.reshape(-1, 6), w)):
        planned = plan(*layouts(a, b, c))
        assert planned.batch == 1
        assert planned.m * planned.n == c.size


def test_the_products_of_attention_are_one_batch_without_copies():
    q, k, v = np.zeros((3, 2, 4, 5, 8))
    e = np.zeros((2, 4, 5, 5))
    kt, et = k.swapaxes(-1, -2), e.swapaxes(-1, -2)
    for a, b, c in ((q, kt, e), (e, v, q), (et, q, v), (q, v.swapaxes(-1, -2), e)):
        assert plan(*layouts(a, b, c)).batch == 8


def test_heads_that_share_keys_are_rows_of_one_product():
    q, k, e = np.zeros((2, 4, 3, 5, 8)), np.zeros((2, 4, 1, 7, 8)), np.zeros((2, 4, 3, 5, 7))
    planned = plan(*layouts(q, k.swapaxes(-1, -2), e))
    assert (planned.batch, planned.n) == (8, 15)


def test_views_of_packed_heads_have_two_batch_strides_and_are_copied(multiply):
    packed = np.random.default_rng(0).standard_normal((2, 5, 3, 4, 8))
    q, k, _ = packed.transpose(2, 0, 3, 1, 4)
    with pytest.raises(Refused, match=r"b: its batch axes \(2, 4\) have no common stride"):
        plan(*layouts(q, k.swapaxes(-1, -2), np.zeros((2, 4, 5, 5))))
    np.testing.assert_allclose(multiply(q, k.swapaxes(-1, -2)), q @ k.swapaxes(-1, -2))
    assert [call.batch for call in multiply.calls] == [8]


@pytest.mark.parametrize("add", [False, True])
def test_a_result_for_packed_heads_is_computed_elsewhere_and_copied(multiply, add):
    rng = np.random.default_rng(0)
    a, b, packed = (rng.random(n) for n in ((2, 4, 5, 7), (7, 8), (2, 5, 4, 8)))
    out, before = packed.swapaxes(1, 2), packed.swapaxes(1, 2).copy()
    with pytest.raises(Refused, match=r"c: its batch axes \(2, 4\) have no common stride"):
        plan(*layouts(a, b, out))
    assert multiply(a, b, out, add=add) is out
    np.testing.assert_allclose(out, a @ b + before * add)
    assert len(multiply.calls) == 1


@pytest.mark.parametrize("shapes", [((0, 3), (3, 2)), ((2, 0), (0, 3)), ((4, 2, 3), (4, 3, 0))])
def test_products_of_nothing_are_zeros(multiply, shapes):
    a, b = map(np.ones, shapes)
    np.testing.assert_array_equal(multiply(a, b), a @ b)
    out = np.ones((a @ b).shape)
    np.testing.assert_array_equal(multiply(a, b, out, add=True), 1 + a @ b)
    assert not multiply.calls


def test_other_dtypes_are_left_to_the_module(multiply):
    a = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(multiply(a, a.T), a @ a.T)
    np.testing.assert_array_equal(multiply(a + 1j, a.T + 0j), (a + 1j) @ a.T)
    assert not multiply.calls


@pytest.mark.parametrize(("precision", "kind"), [("fp16", "float16"), ("tf32", "float32")])
def test_factors_of_lower_precision_are_summed_in_float32(multiply, precision, kind):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(n).astype("float32") for n in ((3, 5, 7), (7, 4)))
    y = multiply(a, b.T.copy().T, precision=precision)
    (call,) = multiply.calls
    assert y.dtype == "float32" and call.types == (TYPES[kind],) * 2
    assert call.compute == COMPUTE["tf32" if precision == "tf32" else "float32"]
    if precision == "fp16":
        wanted = rounded(a, precision) @ rounded(b, precision)
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)


def test_matrices_that_do_not_fit_are_refused(multiply):
    with pytest.raises(ValueError, match=r"\(2, 3\) times \(2, 3\) does not fit"):
        multiply(np.ones((2, 3)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="do not fit together"):
        multiply(np.ones((2, 2, 3)), np.ones((4, 3, 2)))
    assert not multiply.calls


def test_a_status_of_the_library_is_an_error():
    with pytest.raises(
        CublasError, match="cublasCreate_v2 failed with status 1; the memory of the GPU may"
    ):
        Cublas(Library(status=1))
    library = Library()
    blas = Cublas(library)
    library.status = 13
    planned = plan(*layouts(np.ones((2, 2)), np.ones((2, 2)), np.ones((2, 2))))
    with pytest.raises(CublasError, match="status 13: Plan"):
        blas.multiply(planned, (0, 0), (0, 0), (0, 0), compute=68, add=False)
