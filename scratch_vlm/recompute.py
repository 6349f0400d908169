"""Pairs made from pairs: the same function, computed with less memory or on more cores."""

import threading
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from copy import deepcopy

import numpy as np

from scratch_vlm.backend import namespace
from scratch_vlm.backend.blocks import POOL, pool
from scratch_vlm.tree import leaves, zeros_like

_forward_only = ContextVar("forward_only", default=False)


class Nothing(dict):
    """Stands for what a forward would have saved, and says so to whoever looks for it."""

    def __missing__(self, key):
        """Refuse: nothing is here."""
        raise ValueError(
            "nothing goes backward through a KV cache, kept keys and values, or `forward_only`: "
            f"run the forward without them ({key!r} was not saved)"
        )


@contextmanager
def forward_only():
    """Save nothing for a backward that will not come: blocks forget at once what they computed.

    Memory then holds the activations of one block, not of all, and every block finds those of the
    one before still in the cache. Values stay the same to the bit.

    Examples
    --------
    >>> import numpy as np
    >>> from scratch_vlm.layers.block import BlockConfig, tower_forward, tower_init
    >>> config = BlockConfig(8, heads=2, hidden=16)
    >>> p = tower_init(np.random.default_rng(0), config, depth=3)
    >>> with forward_only():
    ...     y, saved = tower_forward(np.ones((1, 4, 8), "f"), p, config=config)
    >>> saved["0"]
    {}
    """
    token = _forward_only.set(True)
    try:
        yield
    finally:
        _forward_only.reset(token)


def for_backward(saved, *, cache=None):
    """Return what a block saved, or nothing where no backward will come.

    Parameters
    ----------
    saved : dict
        What the block saved.
    cache : object, optional
        A KV cache, or kept keys and values: whoever generates with them does not go back.

    Returns
    -------
    dict
        `saved`, or an empty one that says why it is empty.
    """
    return saved if cache is None and not _forward_only.get() else Nothing()


def recomputed(forward, backward):
    """Trade time for memory: save only the inputs and run the forward again in the backward.

    Parameters
    ----------
    forward, backward : callable
        A pair of this project's contract, with parameters.

    Returns
    -------
    forward, backward : callable
        A pair with the same values and gradients, to the bit.

    Notes
    -----
    Activation checkpointing [1]_. A generator in the option `rng` is copied before the first run,
    so that the second draws the same dropout.

    References
    ----------
    .. [1] T. Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016,
       arXiv:1604.06174.
    """

    def forward_(*inputs_and_p, **options):
        before = deepcopy(options.get("rng"))
        y, _ = forward(*inputs_and_p, **options)
        return y, (inputs_and_p, options, before)

    def backward_(dy, saved, g):
        inputs_and_p, options, before = saved
        if before is not None:
            options = {**options, "rng": deepcopy(before)}
        return backward(dy, forward(*inputs_and_p, **options)[1], g)

    return forward_, backward_


def plain(forward, backward):
    """Leave a pair as it is: the default of options that take a wrapper.

    Parameters
    ----------
    forward, backward : callable
        A pair of this project's contract.

    Returns
    -------
    forward, backward : callable
        The same two functions.
    """
    return forward, backward


def chunked(forward, backward, *, size, threads=1, recompute=False):
    """Run a pair on pieces of the batch, whose outputs and gradients are those of the whole.

    Parameters
    ----------
    forward, backward : callable
        A pair with one input and one output, both with the batch as their first axis, that
        treats samples independently: an encoder, not a loss. A generator in the option `rng`
        is split into one for each piece.
    size : int
        Samples in a piece; the last piece may be smaller. Pieces that fit the cache of a core
        are faster than one large batch.
    threads : int, default 1
        Pieces in flight at once. NumPy lets go of the interpreter in its loops and products, so
        threads make elementwise work parallel; give BLAS one thread then
        (``OPENBLAS_NUM_THREADS=1``). Every thread sums into a gradient tree of its own. Of a
        device each would also have a stream of its own, so there it must be 1.
    recompute : bool, default False
        Save only the pieces' inputs and run each forward again in the backward, so that memory
        holds the activations of `threads` pieces however large the batch is.

    Returns
    -------
    forward, backward : callable
        A pair with the same contract; equal to the plain pair up to the order of summation, and
        to the bit from run to run.

    Raises
    ------
    ValueError
        If `size` or `threads` is less than 1; by the forward, if there are threads for a device.

    Notes
    -----
    This is how a contrastive loss is trained on more pairs than fit in memory. Accumulating the
    gradients of small contrastive batches is another, easier loss, because each pair then meets
    fewer negatives; encoding in pieces and computing the loss on all embeddings is exact [1]_.

    References
    ----------
    .. [1] L. Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited
       Setup", 2021, arXiv:2101.06983.
    """
    if size < 1 or threads < 1:
        raise ValueError(f"size and threads must be at least 1; got {size} and {threads}")
    if recompute:
        forward, backward = recomputed(forward, backward)

    def pieces_of(x):
        return [x[start : start + size] for start in range(0, len(x), size)]

    def run(work, count):  # work(worker) for each worker
        if count == 1 or _in_pool():  # whose threads would wait for each other
            return [work(worker) for worker in range(count)]
        tasks = [pool(threads).submit(copy_context().run, work, i) for i in range(count)]
        return [task.result() for task in tasks]

    def forward_(x, p, *, rng=None, **options):
        if threads > 1 and namespace(x) is not np:
            raise ValueError(f"threads share out work of the host; for a device 1, not {threads}")
        pieces = pieces_of(x) or [x]
        workers = min(threads, len(pieces))
        rngs = [None] * len(pieces) if rng is None else rng.spawn(len(pieces))
        results = [None] * len(pieces)

        def work(worker):
            for i in range(worker, len(pieces), workers):
                dice = {} if rngs[i] is None else {"rng": rngs[i]}
                results[i] = forward(pieces[i], p, **options, **dice)

        run(work, workers)
        y = namespace(results[0][0]).concatenate([y for y, _ in results])
        return y, {str(i): saved for i, (_, saved) in enumerate(results)}

    def backward_(dy, saved, g):
        dys = pieces_of(dy) or [dy]
        workers = min(threads, len(dys))
        sums = [g] + [zeros_like(g) for _ in range(workers - 1)]
        dxs = [None] * len(dys)

        def work(worker):
            for i in range(worker, len(dys), workers):
                dxs[i] = backward(dys[i], saved[str(i)], sums[worker])

        run(work, workers)
        for other in sums[1:]:
            add_trees(g, other)
        return None if dxs[0] is None else namespace(dy).concatenate(dxs)

    return forward_, backward_


def _in_pool():
    return threading.current_thread().name.startswith(POOL)


def add_trees(target, other):
    """Add the leaves of one tree to those of another, in place.

    Parameters
    ----------
    target : dict
        Changed in place; frozen branches stay frozen.
    other : dict
        The same keys.
    """
    for (_, x), (_, y) in zip(leaves(target), leaves(other), strict=True):
        x += y
