"""A matrix product that adds a bias on its way out: cublasLt, called as `gemm` plans it.

The sums of a product are in registers when it ends. A bias that is added there costs nothing; added
by a kernel of its own it takes two walks over the result. The plain interface of cuBLAS has no
place for it, and this one has, for more words: a description of the product, one of each matrix,
and a list of algorithms to choose from. All that is made once for each shape.
"""

import ctypes
from functools import lru_cache

from scratch_vlm.backend.gemm import Plan

# cublasLtMatmulDescAttributes_t, cublasLtEpilogue_t and cublasLtMatmulPreferenceAttributes_t, from
# cublasLt.h
FIRST_TRANSPOSED, SECOND_TRANSPOSED, EPILOGUE, BIAS = 3, 4, 7, 8
ADD_BIAS = 4
MOST_WORKSPACE, ALIGNMENTS = 1, (5, 6, 7, 8)
FLOAT = 0  # CUDA_R_32F
_OPERANDS = ("B", "A", "C")  # in the order in which cuBLAS takes ours


class Heuristic(ctypes.Structure):
    """One algorithm that can do the work (cublasLtMatmulHeuristicResult_t).

    Attributes
    ----------
    algorithm : array of 8 numbers
        Opaque.
    workspace : int
        Bytes that it needs.
    status : int
        0 if it can.
    waves : float
        How often it fills the device.
    """

    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("status", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


class CublasLt:
    """One handle of cublasLt, and the memory that its products may use.

    Parameters
    ----------
    library : ctypes.CDLL
        The library, or what behaves like it.
    stream : int
        Address of the stream that it computes on.
    workspace, size : int
        Address and bytes of memory on the device that only products of this stream use.
    """

    def __init__(self, library, stream, workspace, size):
        self._library = library
        self._handle = ctypes.c_void_p()
        self._stream, self._workspace, self._size = stream, workspace, size
        self._prepared = lru_cache(maxsize=4096)(self._prepare)
        if self._call("Create", ctypes.byref(self._handle)):
            self._handle = None

    def multiply(self, planned, a, b, c, bias, *, compute):
        """Compute C = A B + bias, the same for each row.

        Parameters
        ----------
        planned : Plan
            How; of one product, not of a batch.
        a, b, c : (int, int)
            Address and type, of ``cublas.TYPES``, of each.
        bias : int
            Address of as many float32 numbers as C has columns.
        compute : int
            Of ``cublas.COMPUTE``.

        Returns
        -------
        bool
            False if the library can not, and nothing was done.
        """
        if self._handle is None or planned.batch != 1:
            return False
        aligned = min(x & -x for x in (a[0], b[0], c[0], bias, 16))  # how, decides who can
        how = self._prepared(planned, (b[1], a[1], c[1]), compute, aligned)
        if how is None:
            return False
        description, matrices, algorithm = how
        self._set(description, BIAS, ctypes.c_void_p(bias))
        one, zero = ctypes.c_float(1), ctypes.c_float(0)
        status = self._call(
            "Matmul",
            self._handle,
            description,
            ctypes.byref(one),
            ctypes.c_void_p(b[0]),
            matrices["B"],
            ctypes.c_void_p(a[0]),
            matrices["A"],
            ctypes.byref(zero),
            ctypes.c_void_p(c[0]),
            matrices["C"],
            ctypes.c_void_p(c[0]),
            matrices["C"],
            ctypes.byref(algorithm),
            ctypes.c_void_p(self._workspace),
            ctypes.c_size_t(self._size),
            ctypes.c_void_p(self._stream),
        )
        return not status

    def _prepare(self, planned: Plan, types, compute, aligned):
        # Its objects live as long as the process, as the shapes of a model do.
        description = ctypes.c_void_p()
        if self._call("MatmulDescCreate", ctypes.byref(description), compute, FLOAT):
            return None
        for attribute, transposed in zip(
            (FIRST_TRANSPOSED, SECOND_TRANSPOSED), planned.transposed, strict=True
        ):
            self._set(description, attribute, ctypes.c_int(transposed))
        self._set(description, EPILOGUE, ctypes.c_int(ADD_BIAS))
        self._set(description, BIAS, ctypes.c_void_p(aligned))  # none yet, but as well aligned
        m, n, k = planned.m, planned.n, planned.k
        shapes = ((m, k), (k, n), (m, n))
        matrices = {}
        for i, name in enumerate(_OPERANDS):
            rows, columns = shapes[i]
            if i < 2 and planned.transposed[i]:
                rows, columns = columns, rows
            matrices[name] = ctypes.c_void_p()
            self._call(
                "MatrixLayoutCreate",
                ctypes.byref(matrices[name]),
                types[i],
                ctypes.c_uint64(rows),
                ctypes.c_uint64(columns),
                ctypes.c_int64(planned.leading[i]),
            )
        preference = ctypes.c_void_p()
        self._call("MatmulPreferenceCreate", ctypes.byref(preference))
        most = ctypes.c_size_t(self._size)
        self._call(
            *("MatmulPreferenceSetAttribute", preference, MOST_WORKSPACE),
            *(ctypes.byref(most), ctypes.c_size_t(ctypes.sizeof(most))),
        )
        for attribute in ALIGNMENTS:
            value = ctypes.c_uint32(aligned)
            self._call(
                *("MatmulPreferenceSetAttribute", preference, attribute),
                *(ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value))),
            )
        found, count = Heuristic(), ctypes.c_int()
        status = self._call(
            "MatmulAlgoGetHeuristic",
            *(self._handle, description, matrices["B"], matrices["A"], matrices["C"]),
            *(matrices["C"], preference, 1, ctypes.byref(found), ctypes.byref(count)),
        )
        self._call("MatmulPreferenceDestroy", preference)
        if status or not count.value or found.status:
            return None
        return description, matrices, found

    def _set(self, description, attribute, value):
        self._call(
            *("MatmulDescSetAttribute", description, attribute),
            *(ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value))),
        )

    def _call(self, name, *arguments):
        return getattr(self._library, f"cublasLt{name}")(*arguments)
