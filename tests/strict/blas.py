"""cuBLAS without a GPU: NumPy multiplies what it finds at the addresses that a call names.

It does what the documentation of cublasGemmStridedBatchedEx says, column by column, so that plan,
call and copies are tested together.
"""

import ctypes
from types import SimpleNamespace

import numpy as np
from numpy.lib.stride_tricks import as_strided

from scratch_vlm.backend import cublas

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
        Called with each product and its arguments: what a capture keeps, to do it again.
    """

    def __init__(self, status=0, record=None):
        self.status, self.calls, self.record = status, [], record
        kind = ctypes.CFUNCTYPE(ctypes.c_int, *cublas.ARGUMENTS)
        self.cublasGemmStridedBatchedEx = kind(self._call)

    def cublasCreate_v2(self, handle):
        return self.status

    def cublasSetPointerMode_v2(self, handle, mode):
        assert mode == 0
        return self.status

    def cublasSetStream_v2(self, handle, stream):
        return self.status

    def cublasSetWorkspace_v2(self, handle, workspace, size):
        return self.status

    def _call(self, *arguments):
        if self.status:
            return self.status
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

    def cublasLtCreate(self, handle):
        return 1  # products that add a bias on their way out are for a GPU


def _multiply(sizes, a, b, c, alpha, beta):
    batch, m, n, k = sizes
    x, y, z = (
        _column_major(operand, batch, *shape)
        for operand, shape in ((a, (m, k)), (b, (k, n)), (c, (m, n)))
    )
    x, y = (_widened(x, z.dtype) for x in (x, y))
    z[...] = alpha * (x @ y) + (beta * z if beta else 0)


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
