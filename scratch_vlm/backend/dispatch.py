"""How an op lets a kernel do its work: only where the user asked for kernels, and one fits.

An op that has a kernel is marked by `fused`; the NumPy lines under the mark say what the kernel
computes. Nothing else in ops, layers or models knows about kernels.
"""

import functools

_kernels = {}  # name of an op -> its kernel; empty unless the user asked


class Saved(dict):
    """What the forward of a kernel saved: arrays, and the backward that reads them.

    Parameters
    ----------
    backward : callable
        Called with the arguments of the op's backward.
    **arrays : array, number or None
        What it needs.
    """

    def __init__(self, backward, **arrays):
        super().__init__(arrays)
        self.backward = backward


def fused(op):
    """Mark an op, or its backward, that a kernel can do in fewer passes over memory.

    Parameters
    ----------
    op : callable
        The specification. It does the work unless `set_kernels` has put a kernel in its place.
        A kernel has the signature of its op, and returns NotImplemented for what it does not
        take: a dtype, a layout, or an array that lives elsewhere.

    Returns
    -------
    callable
        Of the same signature. A backward follows what its forward saved, whatever is in use by
        then.
    """
    name = op.__name__

    @functools.wraps(op)
    def chosen(*args, **options):
        if len(args) > 1 and isinstance(args[1], Saved):
            return args[1].backward(*args, **options)
        if name in _kernels:
            result = _kernels[name](*args, **options)
            if result is not NotImplemented:
                return result
        return op(*args, **options)

    return chosen


def set_kernels(kernels):
    """Put kernels in the place of ops.

    Parameters
    ----------
    kernels : dict of str to callable
        By the names of the ops; empty to let NumPy lines do everything.
    """
    _kernels.clear()
    _kernels.update(kernels)


def kernels_in_use():
    """Tell which ops are done by kernels.

    Returns
    -------
    tuple of str
        Names of ops, sorted.
    """
    return tuple(sorted(_kernels))
