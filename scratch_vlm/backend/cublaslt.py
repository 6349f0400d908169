"""A matrix product that adds a bias on its way out: cublasLt, called as `gemm` plans it.

The sums of a product are in registers when it ends. A bias that is added there costs nothing; added
by a kernel of its own it takes two walks over the result. The plain interface of cuBLAS has no
place for it, and this one has, for more words: a description of the product, one of each matrix,
and a list of algorithms to choose from. All that is made once for each shape.
"""

import ctypes
from functools import lru_cache

# cublasLtMatmulDescAttributes_t, cublasLtEpilogue_t and cublasLtMatmulPreferenceAttributes_t, from
# cublasLt.h
FIRST_TRANSPOSED, SECOND_TRANSPOSED, EPILOGUE, BIAS = 3, 4, 7, 8
ADD_BIAS = 4
MOST_WORKSPACE, ALIGNMENTS = 1, (5, 6, 7, 8)
FLOAT = 0  # CUDA_R_32F


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
            Address of as many numbers as C has columns, of its type.
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
        description, (first, second, result), algorithm = how
        self._set("MatmulDesc", description, BIAS, ctypes.c_void_p(bias))
        one, zero = ctypes.c_float(1), ctypes.c_float(0)
        status = self._call(  # our B is the first operand of cuBLAS, see `gemm`
            *("Matmul", self._handle, description),
            *(ctypes.byref(one), ctypes.c_void_p(b[0]), first, ctypes.c_void_p(a[0]), second),
            *(ctypes.byref(zero), ctypes.c_void_p(c[0]), result, ctypes.c_void_p(c[0]), result),
            *(ctypes.byref(algorithm), ctypes.c_void_p(self._workspace)),
            *(ctypes.c_size_t(self._size), ctypes.c_void_p(self._stream)),
        )
        return not status

    def _prepare(self, planned, types, compute, aligned):
        # Its objects live as long as the process, as the shapes of a model do.
        description, preference = ctypes.c_void_p(), ctypes.c_void_p()
        if self._call("MatmulDescCreate", ctypes.byref(description), compute, FLOAT):
            return None
        told = zip((FIRST_TRANSPOSED, SECOND_TRANSPOSED), planned.transposed, strict=True)
        for attribute, transposed in told:
            self._set("MatmulDesc", description, attribute, ctypes.c_int(transposed))
        self._set("MatmulDesc", description, EPILOGUE, ctypes.c_int(ADD_BIAS))
        # There is no bias yet, but one as well aligned.
        self._set("MatmulDesc", description, BIAS, ctypes.c_void_p(aligned))
        m, n, k = planned.m, planned.n, planned.k
        shapes, matrices = ((m, k), (k, n), (m, n)), []
        for i, turned in enumerate((*planned.transposed, False)):
            rows, columns = reversed(shapes[i]) if turned else shapes[i]
            matrices.append(ctypes.c_void_p())
            self._call(
                *("MatrixLayoutCreate", ctypes.byref(matrices[i]), types[i]),
                *(ctypes.c_uint64(rows), ctypes.c_uint64(columns)),
                ctypes.c_int64(planned.leading[i]),
            )
        self._call("MatmulPreferenceCreate", ctypes.byref(preference))
        self._set("MatmulPreference", preference, MOST_WORKSPACE, ctypes.c_size_t(self._size))
        for attribute in ALIGNMENTS:
            self._set("MatmulPreference", preference, attribute, ctypes.c_uint32(aligned))
        found, count = Heuristic(), ctypes.c_int()
        status = self._call(
            *("MatmulAlgoGetHeuristic", self._handle, description, *matrices, matrices[2]),
            *(preference, 1, ctypes.byref(found), ctypes.byref(count)),
        )
        self._call("MatmulPreferenceDestroy", preference)
        if status or not count.value or found.status:
            return None
        return description, matrices, found

    def _set(self, kind, told, attribute, value):
        self._call(
            *(f"{kind}SetAttribute", told, attribute),
            *(ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value))),
        )

    def _call(self, name, *arguments):
        return getattr(self._library, f"cublasLt{name}")(*arguments)
