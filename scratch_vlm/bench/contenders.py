"""Who is timed: this library on NumPy and on CuPy, and PyTorch, each in several precisions."""

import contextlib
import importlib.util
import os
import tracemalloc

import numpy as np

from scratch_vlm.backend import (
    cupy_problem,
    in_precision,
    load,
    product,
    products_in,
    to_device,
    to_host,
)
from scratch_vlm.bench.clock import EventClock, HostClock
from scratch_vlm.inference.generate import generate
from scratch_vlm.training.loop import add_gradients
from scratch_vlm.training.optimizer import AdamW
from scratch_vlm.tree import leaves, tree_map, zeros_like

RATE = 1e-4
GIB = 1 << 30


class Ours:
    """This library.

    Parameters
    ----------
    xp : module
        `numpy` or `cupy`.
    precision : {"float32", "tf32", "bf16", "fp16"}
        Of the products.
    """

    def __init__(self, xp, precision="float32"):
        self.xp, self.precision, self.on_device = xp, precision, xp.__name__ == "cupy"
        self.name = xp.__name__ + ("" if precision == "float32" else f" {precision}")
        self.clock = HostClock()
        if self.on_device:
            self.clock = EventClock(xp.cuda.Event, xp.cuda.get_elapsed_time)

    def prepare(self, subject):
        """Make the work of a subject ready to be timed.

        Parameters
        ----------
        subject : Subject
            What is timed.

        Returns
        -------
        callable
            Does it once, and gives what can be compared.
        """
        inputs, p = subject.draw(np.random.default_rng(0))
        move = lambda x: to_device(x, self.xp)  # noqa: E731
        p = None if p is None else tree_map(move, p)
        if subject.kind == "generation":
            return lambda: generate(inputs[0].tolist(), p, **subject.options).ids
        inputs = tuple(map(move, inputs))
        pair = in_precision(subject.forward, subject.backward, self.precision)
        if subject.kind == "pair":
            return _pair(*pair, inputs, p, subject.options)
        return _step(*pair, inputs, p)

    def compare(self, found):
        """Bring results to the host, as a list of arrays.

        Parameters
        ----------
        found : tuple or list
            What the work gave.

        Returns
        -------
        list of numpy.ndarray
        """
        return [to_host(x) if hasattr(x, "dtype") else np.asarray(x) for x in _flat(found)]

    def peak(self):
        """Speed of a large product.

        Returns
        -------
        float
            FLOPs a second; the best of five.
        """
        n = 8192 if self.on_device else 1024
        a, b, c = (self.xp.ones((n, n), "float32") for _ in range(3))

        def work():
            with products_in(self.precision):
                product(a, b, out=c)

        return 2 * n**3 / _best(self.clock, work)

    def bandwidth(self):
        """Speed of a large copy.

        Returns
        -------
        float
            Bytes read and written a second; the best of five.
        """
        size = GIB if self.on_device else GIB // 16
        a, b = (self.xp.zeros(size // 4, "float32") for _ in range(2))
        return 2 * a.nbytes / _best(self.clock, lambda: self.xp.copyto(b, a))

    def memory(self, work):
        """Most memory that the work holds, beside what there was before.

        Parameters
        ----------
        work : callable
            As `prepare` gave it.

        Returns
        -------
        int
            Bytes.
        """
        if self.on_device:
            pool = self.xp.get_default_memory_pool()
            pool.free_all_blocks()
            before = pool.total_bytes()
            work()
            return pool.total_bytes() - before
        tracemalloc.start()
        try:
            work()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


class Torch:
    """PyTorch.

    Parameters
    ----------
    precision : {"float32", "tf32", "bf16"}
        Of the products; bf16 by autocast.
    compiled : bool
        Whether training steps are compiled and replayed as a CUDA graph.
    """

    def __init__(self, precision="float32", compiled=False):
        import torch

        self._torch, self.precision, self.compiled = torch, precision, compiled
        self.on_device = torch.cuda.is_available()
        self.device = "cuda" if self.on_device else "cpu"
        self.name = "torch" + ("" if precision == "float32" else f" {precision}")
        self.name += " compiled" if compiled else ""
        torch.set_num_threads(int(os.environ.get("OPENBLAS_NUM_THREADS", os.cpu_count())))
        self.clock = HostClock()
        if self.on_device:
            event = lambda: torch.cuda.Event(enable_timing=True)  # noqa: E731
            self.clock = EventClock(event, lambda first, last: first.elapsed_time(last))

    def prepare(self, subject):
        """Make the work of a subject ready to be timed.

        Parameters
        ----------
        subject : Subject
            What is timed.

        Returns
        -------
        callable
            Does it once, and gives what can be compared.
        """
        from scratch_vlm.bench import torch_twin

        inputs, p = subject.draw(np.random.default_rng(0))
        if subject.kind == "step":
            run = torch_twin.step(subject, inputs, p, self.device, RATE, self.compiled)
        else:
            run = getattr(torch_twin, subject.kind)(subject, inputs, p, self.device)
        return lambda: self._precisely(run)

    def _precisely(self, run):
        self._torch.backends.cuda.matmul.allow_tf32 = self.precision == "tf32"
        if self.precision != "bf16":
            return run()
        with self._torch.autocast(self.device, self._torch.bfloat16):
            return run()

    def compare(self, found):
        """Bring results to the host, as a list of arrays.

        Parameters
        ----------
        found : tuple or list
            What the work gave.

        Returns
        -------
        list of numpy.ndarray
        """
        tensors = (x.detach().float().cpu() if hasattr(x, "detach") else x for x in _flat(found))
        return [np.asarray(x) for x in tensors]

    def peak(self):
        """Speed of a large product.

        Returns
        -------
        float
            FLOPs a second; the best of five.
        """
        n = 8192 if self.on_device else 1024
        a, b = (self._torch.ones((n, n), device=self.device) for _ in range(2))
        if self.precision == "bf16":
            a, b = a.bfloat16(), b.bfloat16()
        return 2 * n**3 / _best(self.clock, lambda: self._precisely(lambda: a @ b))

    def bandwidth(self):
        """Speed of a large copy.

        Returns
        -------
        float
            Bytes read and written a second; the best of five.
        """
        size = GIB if self.on_device else GIB // 16
        a, b = (self._torch.zeros(size // 4, device=self.device) for _ in range(2))
        return 2 * size / _best(self.clock, lambda: b.copy_(a))

    def memory(self, work):
        """Most memory that the work holds, beside what there was before.

        Parameters
        ----------
        work : callable
            As `prepare` gave it.

        Returns
        -------
        int or None
            Bytes; None on the host, where PyTorch does not say.
        """
        if not self.on_device:
            return None
        cuda = self._torch.cuda
        before = cuda.memory_allocated()
        cuda.reset_peak_memory_stats()
        work()
        return cuda.max_memory_allocated() - before


def contenders():
    """Find out who can take part on this machine.

    Returns
    -------
    found : list of Ours or Torch
        NumPy first.
    missing : dict of str to str
        Why others cannot, by name.
    """
    found, missing = [Ours(np)], {}
    problem = cupy_problem()
    if problem:
        missing["cupy"] = problem
    else:
        found += [Ours(load("cupy"), precision) for precision in ("float32", "tf32", "bf16")]
    if importlib.util.find_spec("torch") is None:
        missing["torch"] = "PyTorch is not installed: python -m pip install torch"
        return found, missing
    found.append(Torch())
    if found[-1].on_device:
        found += [Torch("tf32"), Torch("bf16"), Torch("tf32", True), Torch("bf16", True)]
    else:
        missing["torch tf32, bf16, compiled"] = "PyTorch finds no GPU"
    return found, missing


def _pair(forward, backward, inputs, p, options):
    given, g = (inputs, None) if p is None else ((*inputs, p), zeros_like(p))
    xp = None

    def run():
        nonlocal xp
        y, saved = forward(*given, **options)
        if xp is None:
            xp = _ones_like(y)
        dx = backward(xp, saved) if g is None else backward(xp, saved, g)
        return y, dx, dict(leaves(g or {}))

    return run


def _ones_like(y):
    from scratch_vlm.backend import namespace

    return namespace(y).ones_like(y)


def _step(forward, backward, inputs, p):
    optimizer = AdamW(p, decay=0.01, clip=1.0)

    def run():
        loss = add_gradients(forward, backward, inputs, optimizer.p, optimizer.g)
        norm = float(optimizer.gradient_norm())
        optimizer.step(RATE, norm)
        return float(loss), norm

    return run


def _best(clock, work):
    work()
    return min(clock.measure(work, 1) for _ in range(5))


def _flat(found):
    with contextlib.suppress(AttributeError):
        found = list(found.values())
    if isinstance(found, tuple | list) and not all(isinstance(x, int) for x in found):
        for part in found:
            yield from _flat(part)
    elif found is not None:
        yield found
