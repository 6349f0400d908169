"""What launches and the emulator refuse, so that nothing is computed wrongly in silence."""

import emulator
import ml_dtypes
import numpy as np
import pytest

from scratch_vlm.backend import launch
from scratch_vlm.backend.launch import View, check_arguments, signatures, source

DECLARED = """
// extern "C" __global__ void not_this(const float* x) {}
extern "C" __global__ void __launch_bounds__(128) scale(const number* x, float* y,
    /* rows */ int rows, long long count, float factor) {}
"""
PARAMETERS = signatures(DECLARED)["scale"]
X = np.ones((3, 4), "float32")


def check(*arguments):
    return check_arguments("scale", PARAMETERS, arguments)


def test_declarations_are_read_and_comments_are_not():
    assert [p.name for p in PARAMETERS] == ["x", "y", "rows", "count", "factor"]
    assert [p.dtype for p in PARAMETERS] == ["float32", "float32", "int32", "int64", "float32"]
    assert [p.written for p in PARAMETERS] == [False, True, False, False, False]
    assert signatures(DECLARED, "__nv_bfloat16")["scale"][0].dtype == "bfloat16"
    with pytest.raises(TypeError, match="cannot read the parameter 'double x'"):
        signatures('extern "C" __global__ void f(double x) {}')


def test_numbers_get_the_declared_type():
    *_, rows, count, factor = check(X, X, 3, 12, 2.0)
    assert [type(n) for n in (rows, count, factor)] == [np.int32, np.int64, np.float32]
    assert check(None, X, 3, 12, 2)[0] is None


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((X, X, 3, 12), TypeError, r"takes 5 arguments \(x, y, rows, count, factor\), got 4"),
        ((X.astype("d"), X, 3, 12, 2.0), TypeError, "x must be float32, got float64"),
        ((X, X.astype(ml_dtypes.bfloat16), 3, 12, 2.0), TypeError, "y must be float32, got bfloat"),
        ((X.T, X, 3, 12, 2.0), ValueError, "x must be C-contiguous, got shape .4, 3. with strides"),
        ((3.0, X, 3, 12, 2.0), TypeError, "x must be an array, got float"),
        ((X, X, X, 12, 2.0), TypeError, "rows must be a Python number, got ndarray"),
        ((X, X, np.int64(3), 12, 2.0), TypeError, "rows must be a Python number, got int64"),
        ((X, X, 3.0, 12, 2.0), TypeError, "rows must be an integer, got 3.0"),
        ((X, X, True, 12, 2.0), TypeError, "rows must be a Python number, got bool"),
        ((X, X, 2**31, 12, 2.0), ValueError, "rows is 2147483648, and does not fit int32"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, says):
    with pytest.raises(error, match=says):
        check(*arguments)


def test_a_view_may_have_any_strides_but_not_any_type():
    assert check(View(X.T), X, 3, 12, 2.0)[0].base is X
    with pytest.raises(TypeError, match="x must be float32, got float64"):
        check(View(X.astype("d").T), X, 3, 12, 2.0)


def test_an_array_that_cannot_be_written_is_refused():
    fixed = X.copy()
    fixed.flags.writeable = False
    check(fixed, X, 3, 12, 2.0)
    with pytest.raises(ValueError, match="y is written to, but the array given is read-only"):
        check(X, fixed, 3, 12, 2.0)


def test_included_files_are_pasted_once_and_lines_keep_their_names(tmp_path):
    (tmp_path / "a.cu").write_text('#include "b.cuh"\n#include "c.cuh"\nint a;\n')
    (tmp_path / "b.cuh").write_text("#include <math.h>\nint b;\n")
    (tmp_path / "c.cuh").write_text('#include "b.cuh"\nint c;\n')
    text = source("a.cu", tmp_path)
    assert text.count("int b;") == 1 and "#include <math.h>" in text and '"b.cuh"' in text
    lines = text.splitlines()
    assert lines[lines.index("int a;") - 1] == '#line 3 "a.cu"'
    assert lines[lines.index("int c;") - 2 :][:2] == ['#line 1 "c.cuh"', ""]


def test_a_change_in_an_included_file_is_another_source(tmp_path):
    (tmp_path / "a.cu").write_text('#include "b.cuh"\n')
    (tmp_path / "b.cuh").write_text("int b;\n")
    before = source("a.cu", tmp_path)
    (tmp_path / "b.cuh").write_text("int bb;\n")
    assert source("a.cu", tmp_path) != before


def test_without_a_compiler_nothing_can_be_launched():
    assert not launch.can_launch(X)


# The emulator itself, on kernels that are wrong.

BARE = """
extern "C" __global__ void reverse(const float* x, float* y, int barrier) {
  __shared__ float shared[64];
  shared[threadIdx.x] = x[threadIdx.x];
  if (barrier) __syncthreads();
  y[threadIdx.x] = shared[63 - threadIdx.x];
}
extern "C" __global__ void divergent(float* y) {
  if (threadIdx.x < 40) __syncthreads();
  else y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
  __syncthreads();
}
extern "C" __global__ void apart() {
  if (threadIdx.x < 32) __syncthreads();
  else
    __syncthreads();
}
extern "C" __global__ void unwritten(float* y) {
  __shared__ float shared[64];
  extern __shared__ __align__(16) float dynamic[];
  y[threadIdx.x] = threadIdx.x < 32 ? shared[threadIdx.x] : dynamic[threadIdx.x];
  shared[threadIdx.x] = dynamic[threadIdx.x] = 1.0f;
}
extern "C" __global__ void unwaited(const float* x, float* y, int wait) {
  __shared__ __align__(16) float shared[4];
  copy_16_bytes(shared, x, true);
  copy_commit();
  if (wait) copy_wait<0>();
  for (int i = 0; i < 4; i++) y[i] = shared[i];
}
extern "C" __global__ void shifted(const float* x, float* y) {
  __shared__ __align__(16) float shared[8];
  copy_16_bytes(shared + 1, x, true);
}
"""


@pytest.fixture
def bare(emulated):
    module = emulator.EmulatedModule(code=BARE, options=("-DNUMBER=float",))
    return lambda name, *arguments, **options: module.get_function(name)(
        (2,), (options.pop("threads", 64),), arguments, **options
    )


def test_a_missing_barrier_depends_on_the_schedule(bare):
    x = np.arange(64, dtype="float32")
    right = {0: set(), 1: set()}
    for schedule in emulator.SCHEDULES:
        for barrier in right:
            y = np.full_like(x, np.nan)
            with emulator.running(schedule=schedule):
                bare("reverse", x, y, np.int32(barrier))
            right[barrier].add(np.array_equal(y, x[::-1]))
    assert right[1] == {True} and False in right[0]


def test_a_barrier_that_some_threads_miss_is_an_error(bare):
    with pytest.raises(RuntimeError, match=r"divergent: thread \d+ waits at line \d+ for threads"):
        bare("divergent", np.zeros(64, "float32"))
    with pytest.raises(RuntimeError, match="apart: threads of a block meet at different barriers"):
        bare("apart")


def test_shared_memory_starts_undefined_in_every_block(bare):
    y = np.zeros(64, "float32")
    bare("unwritten", y, shared_mem=256)
    assert np.isnan(y).all()


def test_a_copy_has_not_come_before_it_was_waited_for(bare):
    x, y = np.arange(4, dtype="float32"), np.zeros(4, "float32")
    bare("unwaited", x, y, np.int32(1), threads=1)
    assert np.array_equal(y, x)
    bare("unwaited", x, y, np.int32(0), threads=1)
    assert np.isnan(y).all()


def test_what_the_hardware_refuses_is_refused(bare):
    y = np.zeros(64, "float32")
    with pytest.raises(RuntimeError, match="not aligned to 16 bytes"):
        bare("shifted", y, y, threads=1)
    with pytest.raises(RuntimeError, match="50000 bytes of shared memory were not allowed"):
        bare("unwritten", y, shared_mem=50_000)
    with pytest.raises(RuntimeError, match="cannot be launched"):
        bare("unwritten", y, threads=2048)
