"""Who is timed: this library on NumPy and on CuPy, and PyTorch, each in several precisions.

On the host, ops, blocks and generation have one core each, and training steps as many as are given:
here the batch is shared out to as many threads, each with a BLAS of one thread.
"""

import importlib
import importlib.util
import os
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import numpy as np

from scratch_vlm.backend import (
    Graphs,
    cupy_problem,
    load,
    namespace,
    product,
    products_in,
    to_device,
    to_host,
)
from scratch_vlm.backend.graph import WARMUP
from scratch_vlm.bench.clock import by_events, on_host
from scratch_vlm.inference.generate import generate
from scratch_vlm.recompute import add_trees
from scratch_vlm.training.loop import add_gradients, halves
from scratch_vlm.training.optimizer import AdamW
from scratch_vlm.tree import leaves, tree_map, zeros_like

RATE, DECAY, CLIP = 1e-4, 0.01, 1.0  # of AdamW
PRECISIONS = ("float32", "tf32", "bf16")  # on a device


def cotangent(shape):
    """Draw what goes into a backward, the same for all.

    Parameters
    ----------
    shape : tuple of int
        Of the output.

    Returns
    -------
    array of shape (...)
    """
    return np.asarray(np.random.default_rng(1).standard_normal(shape, dtype="float32"))


def factors(n):
    """Draw two matrices, for a GPU is faster where bits are all the same, and draws less power.

    Parameters
    ----------
    n : int
        Rows and columns.

    Returns
    -------
    list of array of shape (n, n)
    """
    rng, rows = np.random.default_rng(2), min(n, 512)
    drawn = (rng.standard_normal((rows, n), dtype="float32") for _ in range(2))
    return [np.resize(x, (n, n)) for x in drawn]


class Contender:
    """One who does the work.

    Parameters
    ----------
    name : str
        Of the library.
    precision : {"float32", "tf32", "bf16"}
        Of matrix products.
    on_device : bool
        Whether on a GPU.
    cores : int
        Of the host, in training steps.
    only : {"", "compiled", "graph"}
        How it does training steps, if it does nothing else.

    Attributes
    ----------
    name, maker : str
        With precision and `only`, and without.
    clock : callable
        What measures it, see `clock.on_host`.
    """

    def __init__(self, name, precision, on_device, cores, only=""):
        self.maker = name
        words = (name, "" if precision == "float32" else precision, only)
        self.name = " ".join(filter(None, words))
        self.precision, self.on_device, self.only = precision, on_device, only
        self.cores, self.clock = cores, on_host

    def takes_part(self, subject):
        """Whether it is worth timing: whether it differs from others, and compiling is worth it."""
        if self.only == "compiled":
            return self.precision in subject.compiled
        if self.only == "graph":
            return subject.kind == "step"
        return subject.products or self.precision == "float32"

    def cores_for(self, subject):
        """How many cores of the host it has."""
        return self.cores if subject.kind == "step" else 1

    def place(self, cores):
        """Name the ceilings that hold for it there, such as ``"GPU bf16"`` or ``"2 cores"``."""
        if self.on_device:
            return f"GPU {self.precision}"
        return f"{cores} core" + "s" * (cores > 1)

    def run(self, work):
        """Do a piece of work once; return what came of it."""
        with self.settings():
            return work()

    def measure(self, work, times=1):
        """Seconds of one call, as the mean of some in a row."""
        with self.settings():
            return self.clock(work, times)

    def remark(self):
        """What readers of its times should know, after a first piece of work; None if nothing."""

    def forget(self):
        """Let go of what was kept for the work that was prepared."""


class Ours(Contender):
    """This library.

    Parameters
    ----------
    xp : module
        `numpy` or `cupy`.
    precision : {"float32", "tf32", "bf16"}
        Of matrix products.
    cores : int, default 1
        Of the host, in training steps.
    kernels : callable, optional
        `kernels.use_kernels`, for ops to be done by kernels of the project.
    only : {"", "graph"}
        See `Contender`.
    """

    def __init__(self, xp, precision="float32", cores=1, kernels=None, only=""):
        cores = cores if xp is np else 1
        super().__init__(xp.__name__, precision, hasattr(xp, "cuda"), cores, only)
        self.xp, self._use_kernels = xp, kernels
        if self.on_device:
            self.clock = by_events(xp.cuda.Event, xp.cuda.get_elapsed_time)

    @contextmanager
    def settings(self):
        """Enter a context in which products have their precision, and ops their kernels."""
        with products_in(self.precision):
            if self._use_kernels:
                self._use_kernels(self.xp)
            try:
                yield
            finally:
                if self._use_kernels:
                    self._use_kernels(self.xp, ())

    def prepare(self, subject, inputs, p):
        """Return what does the work once, and returns what can be compared with others."""
        p = None if p is None else tree_map(self._move, p)
        if subject.kind == "generation":
            prompts = inputs[0].tolist()
            return lambda: generate(prompts, p, **subject.options).ids
        inputs = tuple(map(self._move, inputs))
        if subject.kind == "update":
            return _update(*inputs, p)
        options = {name: self._move(x) for name, x in subject.options.items()}

        def forward(*arguments):
            return subject.forward(*arguments, **options)

        if subject.kind == "pair":
            return _pair(forward, subject.backward, inputs, p, self._move)
        return self._prepare_step(subject, forward, inputs, p)

    def _prepare_step(self, subject, forward, inputs, p):
        pieces = subject.pieces  # so small that they stay in a cache, or one for each thread
        if self.xp is not np or (self.cores == 1 and subject.size < 4 * pieces):
            pieces = 1
        return _step(forward, subject.backward, inputs, p, pieces, self.cores)

    def _move(self, x):
        return to_device(x, self.xp) if isinstance(x, np.ndarray) else x

    def multiply(self, n, cores):
        """Return what multiplies square matrices, a pair on each core, and its FLOPs."""
        a, b = (to_device(x, self.xp) for x in factors(n))
        out = [self.xp.empty_like(a) for _ in range(cores)]
        return _on_all(lambda i: product(a, b, out=out[i]), cores), cores * 2 * n**3

    def copy(self, size, cores):
        """Return what copies `size` bytes on each core, and the bytes that it reads and writes."""
        arrays = [[self.xp.ones(size // 4, "float32") for _ in range(2)] for _ in range(cores)]
        return _on_all(lambda i: self.xp.copyto(*arrays[i]), cores), 2 * size * cores

    def held(self):
        """Bytes that are held now; on the host, where nobody knows, those are counted from here."""
        if not self.on_device:
            tracemalloc.start()
            return 0
        self.rest()
        return self.xp.get_default_memory_pool().total_bytes()

    def memory(self, work, before):
        """Most bytes taken since `held`: a model, its gradients and moments, and a step."""
        if not self.on_device:
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return most
        return self.xp.get_default_memory_pool().total_bytes() - before

    def free(self):
        """Bytes of memory that there are."""
        if self.on_device:
            self.rest()
            return self.xp.cuda.runtime.memGetInfo()[0]
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def rest(self):
        """Give back memory that nobody uses, and count no more."""
        if self.on_device:
            self.xp.get_default_memory_pool().free_all_blocks()
        else:
            tracemalloc.stop()


class Recorded(Ours):
    """Training steps of this library, recorded as CUDA graphs as the training loop does it.

    Parameters
    ----------
    xp : module
        `cupy`.
    precision : {"float32", "tf32", "bf16"}
        Of matrix products.
    kernels : callable, optional
        As for `Ours`.
    """

    def __init__(self, xp, precision="float32", kernels=None):
        super().__init__(xp, precision, kernels=kernels, only="graph")

    def _prepare_step(self, subject, forward, inputs, p):
        step = _RecordedStep(forward, subject.backward, inputs, p, self.xp)
        for _ in range(WARMUP + 1):
            self.run(step)
        step.begin_again(p)  # so that what is compared with others comes from the graphs
        return step

    def run(self, work):
        """Do a piece of work once; return what came of it."""
        with work.graphs.in_use():
            return super().run(work)

    def measure(self, work, times=1):
        """Seconds of one call, as the mean of some in a row."""
        with work.graphs.in_use():
            return super().measure(work, times)

    def memory(self, work, before):
        """The same, in the pool of all and in that of the graphs."""
        return super().memory(work, before) + work.graphs.nbytes


class Torch(Contender):
    """PyTorch, eager or compiled.

    Parameters
    ----------
    precision : {"float32", "tf32", "bf16"}
        Of matrix products; bf16 as `torch_twin` says.
    device : {"cpu", "cuda"}
        Where.
    cores : int
        Of the host, in training steps.
    compiled : bool, default False
        Whether losses are compiled, on a GPU with a recorded graph.
    """

    def __init__(self, precision="float32", device="cpu", cores=1, compiled=False):
        import torch

        only = "compiled" if compiled else ""
        super().__init__("torch", precision, device == "cuda", cores, only)
        self._torch, self.device = torch, device
        if self.on_device:
            event = partial(torch.cuda.Event, enable_timing=True)
            self.clock = by_events(event, lambda first, last: first.elapsed_time(last))

    @contextmanager
    def settings(self):
        """Enter a context in which products have their precision; bf16 is that of the twin."""
        before = self._torch.get_float32_matmul_precision()
        self._torch.set_float32_matmul_precision("high" if self.precision == "tf32" else "highest")
        try:
            yield
        finally:
            self._torch.set_float32_matmul_precision(before)

    def prepare(self, subject, inputs, p):
        """Return what does the work once, and returns what can be compared with others."""
        from scratch_vlm.bench import torch_twin

        make = getattr(torch_twin, subject.kind)
        more = {"compiled": True} if self.only else {}
        if self.only:
            self._skips = self._torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]
        work = make(subject, inputs, p, self.device, bf16=self.precision == "bf16", **more)
        return self._on_cores(work, self.cores_for(subject))

    def remark(self):
        """Whether PyTorch recorded no graph though it was asked to, as it does silently."""
        if not (self.only and self.on_device):
            return None
        skips = self._torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] - self._skips
        return f"PyTorch ran {skips} of its parts without a CUDA graph" if skips else None

    def forget(self):
        """Let go of what is compiled, and of its graphs' memory."""
        if self.only:
            self._torch.compiler.reset()

    def _on_cores(self, work, cores):
        if self.on_device:
            return work

        def run():
            self._torch.set_num_threads(cores)
            return work()

        return run

    def multiply(self, n, cores):
        """Return what multiplies two square matrices on all cores, and its FLOPs."""
        dtype = self._torch.bfloat16 if self.precision == "bf16" else self._torch.float32
        a, b = (self._torch.tensor(x, device=self.device, dtype=dtype) for x in factors(n))
        return self._on_cores(lambda: a @ b, cores), 2 * n**3

    def copy(self, size, cores):
        """Return what copies `size` bytes for each core, and the bytes that it reads and writes."""
        a, b = (self._torch.ones(cores * size // 4, device=self.device) for _ in range(2))
        return self._on_cores(lambda: b.copy_(a), cores), 2 * size * cores

    def held(self):
        """Bytes that are held now, or None on the host, where PyTorch keeps quiet."""
        if not self.on_device:
            return None
        self.rest()
        self._torch.cuda.reset_peak_memory_stats()
        return self._torch.cuda.memory_reserved()

    def memory(self, work, before):
        """Most bytes taken from the device since `held`, whether in use or kept for later."""
        return None if before is None else self._torch.cuda.max_memory_reserved() - before

    def free(self):
        """Bytes of memory that there are."""
        if self.on_device:
            self.rest()
            return self._torch.cuda.mem_get_info()[0]
        return Ours(np).free()

    def rest(self):
        """Give back memory that nobody uses."""
        if self.on_device:
            self._torch.cuda.empty_cache()


def contenders(backend=None, *, cores=2):
    """Find out who can take part on this machine.

    Parameters
    ----------
    backend : str, optional
        ``"numpy"`` for the host alone; ``"cupy"`` for an error where CuPy does not work. Default
        whatever is here.
    cores : int, default 2
        Of the host, in training steps.

    Returns
    -------
    found : list of Contender
        NumPy first.
    missing : dict of str to str
        Why others take no part, by name.

    Raises
    ------
    BackendError
        If a backend was asked for that does not work here.
    """
    found, missing = [Ours(np, cores=cores)], {}
    load(backend or "auto")  # an explicit request never falls back
    problem = "left out by --backend numpy" if backend == "numpy" else cupy_problem()
    if problem:
        missing["cupy"] = problem
    else:
        found += _on_gpu(load("cupy"))
    if importlib.util.find_spec("torch") is None:
        missing["torch"] = "PyTorch is not installed: python -m pip install torch"
        return found, missing
    import torch

    if torch.cuda.is_available() and backend != "numpy":
        found += [Torch(precision, "cuda") for precision in PRECISIONS]
        found += [Torch(precision, "cuda", compiled=True) for precision in PRECISIONS[1:]]
        return found, missing
    missing["torch tf32, torch bf16"] = "these are for a GPU"
    return [*found, *(Torch(cores=cores, compiled=compiled) for compiled in (False, True))], missing


def _on_gpu(xp):  # with kernels if the project has them, and then once more without
    kernels, found = None, []
    if importlib.util.find_spec("scratch_vlm.kernels") is not None:
        kernels = importlib.import_module("scratch_vlm.kernels").use_kernels
        found.append(Ours(xp))
        found[0].name += " without kernels"
    found += [Ours(xp, precision, kernels=kernels) for precision in PRECISIONS]
    return found + [Recorded(xp, precision, kernels) for precision in PRECISIONS[1:]]


def _pair(forward, backward, inputs, p, move):
    given, g = (inputs, ()) if p is None else ((*inputs, p), (zeros_like(p),))
    dy = None

    def run():
        nonlocal dy
        y, saved = forward(*given)
        dy = move(cotangent(y.shape)) if dy is None else dy
        return y, backward(dy, saved, *g), *g

    return run


def _update(gradient, p):
    optimizer = AdamW(p, decay=DECAY)

    def run():
        if optimizer.steps % 256 == 0:  # zeros take as long, until the mean of them is denormal
            optimizer.g["w"][...] = gradient
        optimizer.step(RATE, norm=1.0)
        return optimizer.p

    return run


def _step(forward, backward, inputs, p, pieces, threads):
    optimizer = AdamW(p, decay=DECAY, clip=CLIP)
    p, g = optimizer.p, optimizer.g
    parts = [inputs]
    if pieces > 1:
        parts = list(zip(*(np.split(x, pieces) for x in inputs), strict=True))
    threads = min(threads, pieces)
    sums = [g] * threads  # a tree of gradients for each thread

    def add_up(i):
        return [
            add_gradients(forward, backward, part, p, sums[i], scale=1 / pieces)
            for part in parts[i::threads]
        ]

    add_up_all = _on_all(add_up, threads)

    def run():
        sums[1:] = [zeros_like(g) for _ in sums[1:]]
        loss = sum(loss for some in add_up_all() for loss in some) / pieces
        for other in sums[1:]:
            add_trees(g, other)
        numbers = namespace(loss).stack([loss, optimizer.gradient_norm()])
        loss, norm = to_host(numbers).tolist()  # the one wait for a device
        optimizer.step(RATE, norm)
        return loss, norm

    return run


class _RecordedStep:
    def __init__(self, forward, backward, inputs, p, xp):
        self.graphs, self._inputs = Graphs(xp), inputs
        self._optimizer = AdamW(p, decay=DECAY, clip=CLIP)
        self._gradients, self._update = halves(
            forward, backward, self._optimizer, graphs=self.graphs
        )

    def __call__(self):
        numbers = self._gradients(1.0, *self._inputs)
        loss, norm = to_host(numbers).tolist()  # the one wait for a device
        self._update(self._optimizer.plan(RATE, norm))
        return loss, norm

    def begin_again(self, p):
        """Forget all steps; parameters are those of `p` again."""
        start = dict(leaves(p))
        for name, x in leaves(self._optimizer.p):
            x[...] = start[name]
        zeros = tree_map(lambda x: np.zeros(x.shape, x.dtype), self._optimizer.state)
        self._optimizer.load_state(zeros)


def _on_all(work, cores):  # work(0), work(1), ... at once
    if cores == 1:
        return lambda: [work(0)]
    pool = ThreadPoolExecutor(cores)
    return lambda: list(pool.map(work, range(cores)))
