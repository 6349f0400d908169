"""Every kernel computes what its NumPy twin computes, in every order that threads may run in."""

import inspect

import emulator
import kernel_cases
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_cases import CASES, ROUNDING, WITH_BARRIERS, agrees

from scratch_vlm import kernels
from scratch_vlm.backend import factors, primitives
from scratch_vlm.backend.launch import FOLDER, signatures, source
from scratch_vlm.layers import norm as norms
from scratch_vlm.ops import activations, attend, losses
from scratch_vlm.training import optimizer

numbers = st.sampled_from(["float32", "bfloat16", "float16"])
ROWS = st.sampled_from([1, 2, 5, 20, 200])  # of one, some and all warps, and of warps twice
WIDTHS = st.sampled_from([2, 7, 8, 128, 132, 300, 1028, 1029])  # in pieces or not, wide or not
SIZES = {
    "norm": {
        "number": numbers,
        "kind": st.sampled_from(["layer", "rms"]),
        "rows": ROWS,
        "width": WIDTHS,
        "out": st.booleans(),
        "shift": st.sampled_from([0, 1]),
    },
    "rounded_norm": {
        "number": st.sampled_from(["bfloat16", "float16"]),
        "kind": st.sampled_from(["layer", "rms"]),
        "rows": ROWS,
        "width": st.sampled_from([7, 8, 300]),
        "out": st.booleans(),
    },
    "add_norm": {
        "number": numbers,
        "kind": st.sampled_from(["layer", "rms"]),
        "rows": ROWS,
        "width": WIDTHS,
    },
    "activation": {
        "number": st.sampled_from(["float32", "bfloat16"]),
        "kind": st.sampled_from(["gelu", "gelu_tanh", "quick_gelu"]),
        "rows": st.integers(1, 9),
        "width": st.integers(1, 70),
        "bias": st.booleans(),
        "out": st.booleans(),
        "fewer": st.sampled_from(["bfloat16", "float16"]),
    },
    "cross_entropy": {
        "number": numbers,
        "rows": st.integers(1, 9),
        "classes": st.integers(1, 700),
        "smoothing": st.sampled_from([0.0, 0.1]),
        "overwrite": st.booleans(),
        "dloss": st.sampled_from([1.0, 0.3, np.array(0.3), np.array(2, "float32")]),
        "ruled_out": st.sampled_from([0.0, 0.5]),
    },
    "adamw": {
        "number": st.just("float32"),
        "size": st.integers(1, 700),
        "clip": st.sampled_from([None, 0.5]),
    },
    "add_at": {
        "number": st.sampled_from(["float32", "bfloat16"]),
        "count": st.integers(1, 40),
        "vocabulary": st.integers(1, 30),
        "width": st.integers(1, 150),
    },
    "add_sum": {
        "number": numbers,
        "rows": st.integers(1, 300),
        "width": st.integers(1, 300),
    },
    "lowered": {
        "number": st.just("float32"),
        "count": st.integers(1, 3000),
        "fewer": st.sampled_from(["bfloat16", "float16"]),
    },
    "contrastive": {
        "number": st.just("float32"),
        "pairs": st.integers(1, 70),
        "width": st.integers(1, 300),
    },
    "attention": {
        "number": st.sampled_from(["bfloat16", "float16"]),
        "of": st.sampled_from([None, "float32"]),
        "images": st.integers(1, 2),
        "heads": st.sampled_from([2, 4]),
        "sharers": st.sampled_from([1, 2]),
        "queries": st.integers(1, 140),
        "keys": st.integers(1, 140),
        "width": st.sampled_from([8, 24, 32, 40, 64, 72, 128]),
        "mask": st.sampled_from(["none", "causal", "padding", "both", "media", "random", "heads"]),
        "scale": st.sampled_from([None, 0.3]),
        "out": st.booleans(),
    },
}
EXAMPLES = {"attention": 12, "contrastive": 8}


def test_every_case_has_sizes():
    assert set(SIZES) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_kernel_equals_its_twin(compiled, name):
    kernels.use_kernels(np)

    @settings(
        max_examples=EXAMPLES.get(name, 15),
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(
        seed=st.integers(0, 2**32 - 1),
        schedule=st.sampled_from(emulator.SCHEDULES),
        sizes=st.fixed_dictionaries(SIZES[name]),
    )
    def compare(seed, schedule, sizes):
        with emulator.running(schedule=schedule, seed=seed):
            for one in CASES[name](np.random.default_rng(seed), **sizes):
                assert one.error() <= ROUNDING[sizes["number"]], one.what

    compare()


@pytest.mark.parametrize("name", WITH_BARRIERS)
def test_every_order_of_threads_gives_the_same_bits(emulated, name):
    kernels.use_kernels(np)
    first = None
    for schedule in emulator.SCHEDULES:
        with emulator.running(schedule=schedule):
            results = [one.got for one in WITH_BARRIERS[name](np.random.default_rng(0))]
        first = first or results
        assert all(np.array_equal(a, b) for a, b in zip(first, results, strict=True)), schedule


def test_a_missing_barrier_is_noticed(emulated):
    """Each `__syncthreads()` and `copy_wait` left out alone; none is there for nothing."""
    kernels.use_kernels(np)
    noticed = {}
    for case in WITH_BARRIERS.values():
        with emulator.running(schedule="random warps", record={}) as run:
            assert not fails(case)
        for barrier, where in run["record"].items():
            noticed[where] = noticed.get(where, False) or any(
                fails(case, schedule="random warps", seed=seed, skip=barrier) for seed in range(8)
            )
    assert len(noticed) > 15
    assert all(noticed.values()), [where for where in noticed if not noticed[where]]


def fails(case, **run):
    with emulator.running(**run):
        return not agrees(case)


def test_every_kernel_is_launched_by_a_case(emulated):
    kernels.use_kernels(np)
    declared = {name for path in FOLDER.glob("*.cu") for name in signatures(source(path.name))}
    with emulator.running(launched=set()) as run:
        for case in CASES.values():
            number = "bfloat16" if case is kernel_cases.attention_case else "float32"
            options = {"mask": "causal"} if case is kernel_cases.attention_case else {}
            list(case(np.random.default_rng(0), number, **options))
    assert run["launched"] == declared


@pytest.mark.parametrize("name", kernels.KERNELS)
def test_kernel_has_the_signature_of_its_op(name):
    (op,) = {
        vars(module)[name]
        for module in (norms, activations, attend, losses, optimizer, primitives, factors)
        if name in vars(module)
    }
    of_op = inspect.signature(op).parameters
    of_kernel = inspect.signature(kernels.KERNELS[name]).parameters
    assert [n for n in of_kernel if n in of_op] == list(of_op)
    for parameter in of_kernel.values():
        same = of_op.get(parameter.name)
        assert same is None or (same.kind, same.default) == (parameter.kind, parameter.default)
        assert same is not None or parameter.default is not parameter.empty
