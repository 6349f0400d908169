"""The matrix product of a device: cuBLAS, called as `gemm` plans it.

CuPy's own matmul copies transposed operands, is slow above two dimensions, has no bfloat16 there,
and cannot be recorded in a CUDA graph. It has been run on an H200; tests without a GPU hand it a
stand-in, which multiplies with NumPy what it finds at the addresses that it is given.
"""

import ctypes
from functools import cache

from scratch_vlm.backend.arrays import name_of
from scratch_vlm.backend.cublaslt import CublasLt
from scratch_vlm.backend.factors import half_type, lowered
from scratch_vlm.backend.gemm import Layout, Refused, check_shapes, plan

# cudaDataType and cublasComputeType_t, from library_types.h and cublas_api.h
TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
COMPUTE = {"float32": 68, "tf32": 77, "float64": 70}
NO_MEMORY = (1, 3)  # CUBLAS_STATUS_NOT_INITIALIZED, of a new handle, and CUBLAS_STATUS_ALLOC_FAILED
HOST_POINTERS = 0  # alpha and beta are read when the function is called
DEFAULT_ALGORITHM = -1
WORKSPACE = 32 << 20  # bytes, what NVIDIA recommends for Hopper
_WHOLE, _ADDRESS, _LONG = ctypes.c_int, ctypes.c_void_p, ctypes.c_longlong
_OPERAND = (_ADDRESS, _WHOLE, _WHOLE, _LONG)  # where, type, leading dimension, batch stride
ARGUMENTS = (  # of cublasGemmStridedBatchedEx
    *(_ADDRESS, _WHOLE, _WHOLE, _WHOLE, _WHOLE, _WHOLE),  # handle, two transpositions, m, n, k
    *(_ADDRESS, *_OPERAND, *_OPERAND),  # alpha, A, B
    *(_ADDRESS, *_OPERAND),  # beta, C
    *(_WHOLE, _WHOLE, _WHOLE),  # products, type of the sums, algorithm
)


class CublasError(RuntimeError):
    """CuBLAS refused a call; the message has its status."""


class Cublas:
    """One handle of cuBLAS.

    Parameters
    ----------
    library : ctypes.CDLL
        The library, or what behaves like it.
    """

    def __init__(self, library):
        self._library = library
        self._handle = ctypes.c_void_p()
        self._call("cublasCreate_v2", ctypes.byref(self._handle))
        self._call("cublasSetPointerMode_v2", self._handle, HOST_POINTERS)
        self.lt = None  # what can add a bias, too
        self._multiply = library.cublasGemmStridedBatchedEx
        self._multiply.argtypes = ARGUMENTS

    def _call(self, name, *arguments):
        status = getattr(self._library, name)(*arguments)
        if status:
            full = "; the memory of the GPU may be full" if status in NO_MEMORY else ""
            raise CublasError(f"{name} failed with status {status}{full}")

    def use(self, stream, workspace, size):
        """Compute on a stream from here on, with memory of its own.

        Parameters
        ----------
        stream : int
            Address of the stream.
        workspace, size : int
            Address and bytes of memory on the device that nobody else uses.
        """
        self._call("cublasSetStream_v2", self._handle, ctypes.c_void_p(stream))
        self._call(
            "cublasSetWorkspace_v2",
            self._handle,
            ctypes.c_void_p(workspace),
            ctypes.c_size_t(size),
        )

    def multiply(self, planned, a, b, c, *, compute, add):
        """Compute C = A B, or C += A B.

        Parameters
        ----------
        planned : Plan
            How.
        a, b, c : (int, int)
            Address and type, of ``TYPES``, of each.
        compute : int
            Of ``COMPUTE``.
        add : bool
            Add to what C holds.
        """
        number = ctypes.c_double if compute == COMPUTE["float64"] else ctypes.c_float
        one, beta = number(1), number(add)
        operands = [
            (*x, leading, step)
            for x, leading, step in zip((b, a, c), planned.leading, planned.step, strict=True)
        ]
        status = self._multiply(
            self._handle,
            *map(int, planned.transposed),
            planned.m,
            planned.n,
            planned.k,
            ctypes.addressof(one),
            *operands[0],
            *operands[1],
            ctypes.addressof(beta),
            *operands[2],
            planned.batch,
            compute,
            DEFAULT_ALGORITHM,
        )
        if status:
            raise CublasError(f"cublasGemmStridedBatchedEx failed with status {status}: {planned}")


def matmul(a, b, out=None, *, bias=None, add=False, precision="float32", xp, blas=None):
    """Multiply matrices on a device.

    Parameters
    ----------
    a, b : array
        (..., T, K) and (..., K, N), of one dtype, or of float32 and what `precision` rounds it to;
        views are taken as they are where a single call of cuBLAS can, and copied where not.
    out : array, optional
        (..., T, N), where to write the product: of the dtype of `a` and `b`, float32, or what
        `precision` rounds to.
    bias : array, optional
        (N,), added to every row, rounded before if `out` has 16 bits; not together with `add`.
    add : bool, default False
        Add to `out` instead.
    precision : {"float32", "tf32", "bf16", "fp16"}
        Of products of float32, which are summed in float32 in any case.
    xp : module
        That of the arrays.
    blas : Cublas, optional
        Default one of this process.

    Returns
    -------
    array
        `out`, or a new array.
    """
    half, types = half_type(precision), {name_of(x.dtype) for x in (a, b)}
    dtype = "float64" if types == {"float64"} else "float32"
    if not types <= {dtype, half and name_of(half)} or a.ndim < 2 or b.ndim < 2:
        return _plus(_by_module(a, b, out, add, xp), bias)
    if out is None:
        batch = _broadcast(a.shape[:-2], b.shape[:-2])
        out = xp.empty((*batch, a.shape[-2], b.shape[-1]), dtype)
    if not (a.size and b.size):
        check_shapes(*map(_layout, (a, b, out)))
        if not add:
            out[...] = 0
        return _plus(out, bias)
    if out.strides[-2] == out.itemsize < out.strides[-1]:  # by columns: the transpose is by rows
        turned = (x.swapaxes(-1, -2) for x in (b, a, out))
        matmul(*turned, add=add, precision=precision, xp=xp, blas=blas)
        return _plus(out, bias)
    compute = COMPUTE["tf32" if (dtype, precision) == ("float32", "tf32") else dtype]
    if half is not None and dtype == "float32":
        a, b = (lowered(x, half) if x.dtype == "float32" else x for x in (a, b))
    while True:
        try:
            planned = plan(*map(_layout, (a, b, out)))
            break
        except Refused as refused:  # a view that has to be copied first
            if refused.operand == "a" and not _whole(a, out):
                a = xp.ascontiguousarray(xp.broadcast_to(a, (*out.shape[:-2], *a.shape[-2:])))
            elif refused.operand == "b" and not _whole(b, out):
                b = xp.ascontiguousarray(xp.broadcast_to(b, (*out.shape[:-2], *b.shape[-2:])))
            elif refused.operand == "c":
                fresh = matmul(a, b, precision=precision, xp=xp, blas=blas)
                out[...] = fresh + out if add else fresh
                return _plus(out, bias)
            else:
                return _plus(_by_module(a.astype(dtype), b.astype(dtype), out, add, xp), bias)
    blas = blas or handle(xp)
    if bias is not None and half is not None and out.dtype == half:
        bias = lowered(bias, half)
    # a, b and bias, perhaps copies, stay alive until the call
    where = [(_address(x), TYPES[name_of(x.dtype)]) for x in (a, b, out)]
    if blas.lt and bias is not None and bias.dtype == out.dtype and dtype == "float32":
        fits = bias.flags.c_contiguous
        if fits and blas.lt.multiply(planned, *where, _address(bias), compute=compute):
            return out
    blas.multiply(planned, *where, compute=compute, add=add)
    return _plus(out, bias)


def _plus(out, bias):
    if bias is not None:
        out += bias
    return out


def _by_module(a, b, out, add, xp):
    if not add:
        return xp.matmul(a, b, out=out)
    out += xp.matmul(a, b)
    return out


def _broadcast(a, b):
    width = max(len(a), len(b))
    a, b = (1,) * (width - len(a)) + a, (1,) * (width - len(b)) + b
    if any(x != y and 1 not in (x, y) for x, y in zip(a, b, strict=True)):
        raise ValueError(f"batches of {a} and {b} do not fit together")
    return tuple(y if x == 1 else x for x, y in zip(a, b, strict=True))


def _whole(x, out):
    return x.flags.c_contiguous and x.shape[:-2] == out.shape[:-2]


def _layout(x):
    return Layout(x.shape, tuple(step // x.itemsize for step in x.strides))


def _address(x):
    return x.data.ptr


def handle(xp):
    """Return the handle of the current stream, which keeps its workspace; made if there is none.

    Parameters
    ----------
    xp : module
        `cupy`, as `load` returns it.

    Returns
    -------
    Cublas
    """
    return _made(xp, xp.cuda.Device().id, xp.cuda.get_current_stream().ptr)


@cache
def _made(xp, device, stream):  # one for each stream: a handle is used by one at a time
    blas = Cublas(_library(xp, "cublas"))
    blas.workspace = xp.empty(WORKSPACE, "uint8")
    where = stream, _address(blas.workspace), WORKSPACE
    blas.use(*where)
    blas.lt = CublasLt(_library(xp, "cublasLt"), *where)  # cuBLAS itself has loaded it
    return blas


def _library(xp, name):
    version = xp.cuda.runtime.runtimeGetVersion() // 1000
    xp.cuda.get_cublas_handle()  # finds the library wherever CuPy does, and loads it
    return ctypes.CDLL(f"lib{name}.so.{version}")
