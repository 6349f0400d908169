"""cuBLAS and cublasLt without a GPU: NumPy multiplies what it finds at the addresses of a call.

They do what the documentation of cublasGemmStridedBatchedEx and cublasLtMatmul says, column by
column, so that plan, call and copies are tested together.
"""

import ctypes
from types import SimpleNamespace

import numpy as np
from numpy.lib.stride_tricks import as_strided

from scratch_vlm.backend import cublas, cublaslt

NAMES = {number: name for name, number in cublas.TYPES.items()}


class Library:
    """The few functions of the library that are called, the product as a function of C.

    Attributes
    ----------
    status : int
        What every function returns; 0 for success.
    calls : list
        The products so far.
    record : callable, optional
        Called with each product and its arguments: what a capture keeps, to do it again. Then
        memory of their own is needed, that a stream forgets when it is set.
    """

    def __init__(self, status=0, record=None):
        self.status, self.calls, self.record, self._room = status, [], record, None
        kind = ctypes.CFUNCTYPE(ctypes.c_int, *cublas.ARGUMENTS)
        self.cublasGemmStridedBatchedEx = kind(self._call)

    def cublasCreate_v2(self, handle):
        return self.status

    def cublasSetPointerMode_v2(self, handle, mode):
        assert mode == 0
        return self.status

    def cublasSetStream_v2(self, handle, stream):
        self._room = None
        return self.status

    def cublasSetWorkspace_v2(self, handle, workspace, size):
        self._room = workspace.value
        return self.status

    def _call(self, *arguments):
        if self.status:
            return self.status
        assert self._room or not self.record, "the memory between products is the library's own"
        _, opa, opb, m, n, k, alpha, *rest = arguments
        a, b, (beta, *c) = rest[:4], rest[4:8], rest[8:13]
        batch, compute, _ = rest[13:]
        self.calls.append(SimpleNamespace(batch=batch, compute=compute, types=(a[1], b[1])))
        number = ctypes.c_double if compute == cublas.COMPUTE["float64"] else ctypes.c_float
        alpha, beta = (number.from_address(x).value for x in (alpha, beta))
        assert a[2] >= (k if opa else m) and b[2] >= (n if opb else k) and c[2] >= m
        product = _multiply, (batch, m, n, k), (*a, opa), (*b, opb), (*c, False), alpha, beta
        product[0](*product[1:])
        if self.record:
            self.record(*product)
        return 0


class LtLibrary:
    """The same of cublasLt: what it is told is kept under numbers, which stand for addresses.

    Attributes
    ----------
    able : bool
        Whether there is an algorithm for what is asked.
    calls : list
        The products so far.
    record : callable, optional
        As for `Library`.
    """

    def __init__(self, able=True, record=None):
        self.able, self.calls, self.record, self._made = able, [], record, {}

    def _make(self, to, what):
        to._obj.value = len(self._made) + 1
        self._made[to._obj.value] = what
        return 0

    def _look_up(self, number):
        return self._made[number.value]

    def cublasLtCreate(self, handle):
        return self._make(handle, "handle")

    def cublasLtMatmulDescCreate(self, description, compute, scale):
        assert scale == cublaslt.FLOAT
        return self._make(description, {"compute": compute})

    def cublasLtMatmulDescSetAttribute(self, description, attribute, value, size):
        assert size.value == ctypes.sizeof(value._obj)
        self._look_up(description)[attribute] = value._obj.value
        return 0

    def cublasLtMatrixLayoutCreate(self, matrix, kind, rows, columns, leading):
        return self._make(matrix, (kind, rows.value, columns.value, leading.value))

    def cublasLtMatmulPreferenceCreate(self, preference):
        return self._make(preference, {})

    def cublasLtMatmulPreferenceSetAttribute(self, preference, attribute, value, size):
        assert size.value == ctypes.sizeof(value._obj)
        self._look_up(preference)[attribute] = value._obj.value
        return 0

    def cublasLtMatmulPreferenceDestroy(self, preference):
        return 0

    def cublasLtMatmulAlgoGetHeuristic(
        self, handle, description, a, b, c, d, preference, wanted, found, count
    ):
        self._check(description, a, b, c)
        assert c is d and wanted == 1
        assert self._look_up(preference)[cublaslt.MOST_WORKSPACE] == cublas.WORKSPACE
        count._obj.value = int(self.able)
        found._obj.algorithm[:2] = description.value, preference.value
        return 0

    def cublasLtMatmul(
        self, handle, description, alpha, a, a_is, b, b_is, beta, c, c_is, d, d_is, algorithm, *more
    ):
        assert c.value == d.value and c_is is d_is
        assert algorithm._obj.algorithm[0] == description.value
        m, n, k, told = self._check(description, a_is, b_is, c_is)
        promised = self._made[algorithm._obj.algorithm[1]]
        for attribute, x in zip(cublaslt.ALIGNMENTS, (a, b, c, d), strict=True):
            assert x.value % promised[attribute] == 0, "less aligned than the algorithm needs"
        assert told[cublaslt.BIAS] % promised[cublaslt.ALIGNMENTS[0]] == 0
        operands = []
        for address, matrix, name in (
            (a, a_is, cublaslt.FIRST_TRANSPOSED),
            (b, b_is, cublaslt.SECOND_TRANSPOSED),
            (c, c_is, None),
        ):
            kind, _, _, leading = self._look_up(matrix)
            operands.append((address.value, kind, leading, 0, told.get(name, 0)))
        bias = told[cublaslt.BIAS], self._look_up(c_is)[0], m, 0, 0
        product = _multiply_and_add, (1, m, n, k), *operands, bias
        self.calls.append(SimpleNamespace(compute=told["compute"]))
        product[0](*product[1:])
        if self.record:
            self.record(*product)
        return 0

    def _check(self, description, a, b, c):  # that the sizes of the matrices fit together
        told = self._look_up(description)
        assert told[cublaslt.EPILOGUE] == cublaslt.ADD_BIAS and told[cublaslt.BIAS]
        (m, k), (k_again, n) = (
            self._look_up(matrix)[1:3][:: -1 if told[name] else 1]
            for matrix, name in (
                (a, cublaslt.FIRST_TRANSPOSED),
                (b, cublaslt.SECOND_TRANSPOSED),
            )
        )
        assert k == k_again and self._look_up(c)[1:3] == (m, n)
        return m, n, k, told


def _multiply_and_add(sizes, a, b, c, bias):
    bias = _column_major(bias, 1, sizes[1], 1)
    _multiply(sizes, a, b, c, 1, 0, bias.astype(_type_of_sums(bias)))


def _multiply(sizes, a, b, c, alpha, beta, bias=0):
    batch, m, n, k = sizes
    x, y, z = (
        _column_major(operand, batch, *shape)
        for operand, shape in ((a, (m, k)), (b, (k, n)), (c, (m, n)))
    )
    x, y = (_widened(x, _type_of_sums(z)) for x in (x, y))
    z[...] = alpha * (x @ y) + bias + (beta * z if beta else 0)


def _type_of_sums(x):
    return np.dtype("float32") if x.dtype.itemsize == 2 else x.dtype


def _column_major(operand, batch, rows, columns):
    address, kind, leading, step, transposed = operand
    dtype = np.dtype(NAMES[kind])
    shape = (columns, rows) if transposed else (rows, columns)
    size = (batch - 1) * step + (shape[1] - 1) * leading + shape[0]
    memory = (ctypes.c_char * (size * dtype.itemsize)).from_address(address)
    strides = (step * dtype.itemsize, dtype.itemsize, leading * dtype.itemsize)
    x = as_strided(np.frombuffer(memory, dtype), (batch, *shape), strides)
    return x.swapaxes(-1, -2) if transposed else x


def _widened(x, dtype):
    assert x.dtype == dtype or x.dtype.itemsize == 2
    return x.astype(dtype)
