"""All who are timed do the same work."""

import tracemalloc
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from bench_cases import SMALL, STEPS

from scratch_vlm.backend import BackendError, cupy_problem
from scratch_vlm.backend.graph import WARMUP
from scratch_vlm.bench import contenders as module
from scratch_vlm.bench.agree import CLOSE, difference, host_arrays
from scratch_vlm.bench.contenders import Contender, Ours, Recorded, Torch, contenders

NAMES = [subject.name for subject in SMALL]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def results(contender, subject, times=3):
    """Let a contender do its work, and list what came of it each time."""
    work = contender.prepare(subject, *subject.draw(np.random.default_rng(0)))
    times = times if subject.kind == "step" else 1  # pairs add to their gradients
    return [x for _ in range(times) for x in host_arrays(contender.run(work))]


@pytest.mark.parametrize("subject", SMALL, ids=NAMES)
def test_twin_in_torch_computes_the_same(subject, torch):
    ours, theirs = results(Ours(np), subject), results(Torch(), subject)
    assert difference(theirs, ours) < 2e-5
    if subject.kind == "pair" and subject.size > 16:
        other = replace(subject, draw=lambda rng: subject.draw(np.random.default_rng(7)))
        assert difference(results(Torch(), other), ours) > 1e-3  # not that anything would do


@pytest.mark.parametrize("subject", SMALL, ids=NAMES)
def test_twin_in_bf16_computes_about_the_same(subject, torch):
    exact, rounded = results(Torch(), subject, 1), results(Torch("bf16"), subject, 1)
    if subject.kind == "generation":  # the likeliest word may be another
        assert rounded[0].shape == exact[0].shape
    elif subject.products:
        assert 0 < difference(rounded, exact) < CLOSE["bf16"]


@pytest.mark.parametrize("subject", STEPS, ids=[subject.name for subject in STEPS])
def test_compiled_step_computes_the_same(subject, torch):
    compiled = Torch(compiled=True)
    torch.compiler.reset()
    original, torch.compile = torch.compile, lambda f, **_: original(f, backend="aot_eager")
    try:
        found = results(compiled, subject)
    finally:
        torch.compile = original
    assert difference(found, results(Ours(np), subject)) < 2e-5


def operations(torch, work):
    """Count what PyTorch does in a second call, in its own names, and the largest copy."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Log(TorchDispatchMode):
        names, copied = [], 0

        def __torch_dispatch__(self, operation, types, arguments=(), options=None):
            found = operation(*arguments, **(options or {}))
            self.names.append(operation.name().removeprefix("aten::"))
            if self.names[-1] in ("clone", "copy_", "_to_copy"):
                Log.copied = max(self.copied, found.numel())
            return found

    work()
    with Log() as log:
        work()
    return log.names, log.copied


@pytest.mark.parametrize("subject", STEPS, ids=[subject.name for subject in STEPS])
def test_step_of_the_twin_is_what_an_expert_would_write(subject, torch):
    work = Torch().prepare(subject, *subject.draw(np.random.default_rng(0)))
    names, copied = operations(torch, work)
    assert "_local_scalar_dense" not in names  # which would wait for the device
    picked = subject.family == "CLIP"  # the token that ends a text, of each
    assert sum(name.startswith("index_put") for name in names) == picked
    assert names.count("_fused_adamw_") == 2 and "_foreach_norm.Scalar" in names  # of two groups
    flash = [name for name in names if name.startswith("_scaled_dot_product_flash")]
    assert len(flash) == 2 * subject.blocks  # forward and backward
    if "VLM" in subject.family:
        _, labels, _ = subject.draw(np.random.default_rng(0))[0]
        logits = labels.size * subject.options["config"].lm.vocabulary
        assert copied < logits and "embedding_dense_backward" in names


def test_twin_writes_with_weights_that_are_in_bf16_already(torch):
    subject = SMALL[-1]
    work = Torch("bf16").prepare(subject, *subject.draw(np.random.default_rng(0)))
    names, _ = operations(torch, work)
    assert "_to_copy" not in names and "embedding" in names


@pytest.mark.parametrize("subject", SMALL, ids=NAMES)
def test_device_computes_the_same(subject, xp):
    assert difference(results(Ours(xp), subject), results(Ours(np), subject)) < 1e-5


@pytest.mark.parametrize("subject", STEPS, ids=[subject.name for subject in STEPS])
@pytest.mark.parametrize("cores", [2, 3])
def test_batch_that_is_shared_out_gives_the_same_step(subject, cores):
    whole = replace(subject, pieces=1)
    alone = results(Ours(np), whole)
    assert difference(results(Ours(np, cores=cores), subject), alone) < 1e-5
    assert difference(results(Ours(np, cores=cores), whole), alone) == 0


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("subject", [STEPS[0], SMALL[0]], ids=lambda subject: subject.name)
def test_precision_changes_products_and_little_else(subject, precision):
    apart = difference(results(Ours(np, precision), subject), results(Ours(np), subject))
    assert 0 < apart < {"tf32": 1e-2, "bf16": 0.1}[precision]


@pytest.mark.parametrize("subject", STEPS, ids=[subject.name for subject in STEPS])
def test_recorded_steps_are_those_of_the_host_from_the_first_on(subject, xp):
    runs = []

    def forward(*arguments, **options):
        runs.append(1)
        return subject.forward(*arguments, **options)

    counted = replace(subject, forward=forward)
    assert difference(results(Recorded(xp), counted), results(Ours(np), subject)) < 1e-5
    assert len(runs) == WARMUP + 1


def test_recorded_step_is_timed_on_its_stream_and_leaves_nothing_behind(xp):
    contender = Recorded(xp)
    before = contender.held()
    work = contender.prepare(STEPS[0], *STEPS[0].draw(np.random.default_rng(0)))
    first = contender.run(work)
    assert contender.memory(work, before) >= STEPS[0].memory
    held = work.graphs.nbytes
    assert contender.measure(work, times=2) > 0
    contender.rest()
    assert contender.run(work)[0] < first[0] and work.graphs.nbytes == held
    graphs = weakref.ref(work.graphs)
    del work
    assert not graphs()


def test_graphs_are_for_steps(xp):
    contender = Recorded(xp, "tf32")
    assert contender.name == f"{xp.__name__} tf32 graph"
    assert [s.family for s in SMALL if contender.takes_part(s)] == [s.family for s in STEPS]


def test_precision_is_measured_only_where_it_matters():
    by_family = {subject.family: subject for subject in SMALL}
    bf16, compiled = Contender("x", "bf16", True, 1), Contender("x", "bf16", True, 1, "compiled")
    assert bf16.takes_part(by_family["linear"]) and not bf16.takes_part(by_family["GELU"])
    assert not any(compiled.takes_part(subject) for subject in SMALL)
    assert compiled.takes_part(replace(STEPS[0], compiled=("bf16",)))
    assert not compiled.takes_part(replace(STEPS[0], compiled=("tf32",)))


def test_cores_are_for_steps():
    by_kind = {subject.kind: subject for subject in SMALL}
    host = Ours(np, cores=2)
    cores = {kind: host.place(host.cores_for(subject)) for kind, subject in by_kind.items()}
    alone = dict.fromkeys(("pair", "update", "generation"), "1 core")
    assert cores == {**alone, "step": "2 cores"}


@pytest.mark.parametrize("cores", [1, 2])
def test_ceilings_are_of_as_much_as_they_say(cores):
    host = Ours(np, cores=cores)
    work, flops = host.multiply(8, cores)
    work()
    assert flops == cores * 2 * 8**3
    work, nbytes = host.copy(64, cores)
    work()
    assert nbytes == cores * 2 * 64


def test_memory_of_a_step_is_about_what_the_formula_says():
    drawn, host = STEPS[0].draw(np.random.default_rng(0)), Ours(np)
    before = host.held()
    work = host.prepare(replace(STEPS[0], pieces=1), *drawn)
    work()
    assert 0.8 * STEPS[0].memory < host.memory(work, before) < 4 * STEPS[0].memory
    assert not tracemalloc.is_tracing()


def test_nothing_is_counted_after_an_error():
    host = Ours(np)
    host.held()
    host.rest()
    assert not tracemalloc.is_tracing()


def test_whoever_is_missing_is_named_with_the_reason(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    found, missing = contenders("numpy")
    assert [contender.name for contender in found] == ["numpy"]
    assert "--backend" in missing["cupy"] and "not installed" in missing["torch"]
    found, missing = contenders()
    if cupy_problem():
        assert missing["cupy"] == cupy_problem()
        with pytest.raises(BackendError, match="cupy"):
            contenders("cupy")
    with pytest.raises(BackendError, match="'jax'"):
        contenders("jax")


@pytest.mark.gpu
@pytest.mark.skipif(cupy_problem() is not None, reason=str(cupy_problem()))
@pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS")  # PyTorch's, of its own threads
@pytest.mark.parametrize("subject", SMALL, ids=NAMES)
def test_everybody_on_a_gpu_computes_the_same(subject):
    right = results(Ours(np), subject)
    for contender in contenders("cupy")[0]:
        exact = contender.precision == "float32"
        if contender.takes_part(subject) and (exact or subject.kind != "generation"):
            tolerance = 1e-4 if exact else CLOSE[contender.precision]
            assert difference(results(contender, subject), right) < tolerance, contender.name


@pytest.fixture
def gpu(monkeypatch):
    """Make it look as if CuPy worked here."""
    cupy = SimpleNamespace(__name__="cupy", cuda=SimpleNamespace(Event=None, get_elapsed_time=None))
    monkeypatch.setattr(module, "load", lambda name: cupy)
    monkeypatch.setattr(module, "cupy_problem", lambda: None)
    monkeypatch.setattr(
        module.importlib.util, "find_spec", lambda name: None if name == "torch" else name
    )


def test_a_gpu_is_timed_in_every_precision_with_kernels_and_once_without(gpu, monkeypatch):
    used = []
    kernels = SimpleNamespace(use_kernels=lambda xp, names=None: used.append(names))
    monkeypatch.setattr(module.importlib, "import_module", lambda name: kernels)
    found, missing = contenders()
    names = ["numpy", "cupy without kernels", "cupy", "cupy tf32", "cupy bf16"]
    names += ["cupy tf32 graph", "cupy bf16 graph"]
    assert [contender.name for contender in found] == names and set(missing) == {"torch"}
    assert found[-1].place(1) == "GPU bf16"
    assert found[-3].run(lambda: list(used)) == [None]  # all that there are
    assert used == [None, ()]  # and none behind it
    assert found[1].run(lambda: list(used)) == [None, ()]


def test_torch_takes_part_where_it_is_installed(torch):
    found, missing = contenders("numpy", cores=3)
    assert [contender.name for contender in found] == ["numpy", "torch", "torch compiled"]
    assert {contender.cores for contender in found} == {3}
    assert "torch" not in missing
