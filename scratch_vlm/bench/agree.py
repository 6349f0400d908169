"""Whether two have computed the same."""

import numpy as np

from scratch_vlm.backend import to_host
from scratch_vlm.tree import leaves

CLOSE = {"float32": 2e-3, "tf32": 2e-2, "bf16": 0.1}  # of the largest number of an array
TEXTS = 0.05  # of all texts may be others


def host_arrays(found):
    """List what a piece of work gave.

    Parameters
    ----------
    found : array, tensor, list of numbers, None, or dict or tuple of these
        Nested.

    Returns
    -------
    list of array
        Of the host; a list of numbers is one.
    """
    if isinstance(found, dict):
        found = tuple(x for _, x in leaves(found))
    if isinstance(found, tuple):
        return [x for part in found for x in host_arrays(part)]
    if found is None:
        return []
    if hasattr(found, "detach"):
        return [found.detach().float().cpu().numpy()]
    return [to_host(found) if hasattr(found, "dtype") else np.asarray(found)]


def difference(values, right):
    """Say how far results are apart, as a share of the largest number of each array.

    Parameters
    ----------
    values, right : list of array
        Results.

    Returns
    -------
    float
        Infinite if shapes differ, or a number is not finite. Of an array that is small beside
        the others, which may be a difference of large numbers, as a share of a hundredth of
        theirs.

    Examples
    --------
    >>> difference([np.array([1.0, 2.5])], [np.array([1.0, 2.0])])
    0.25
    """
    if [x.shape for x in values] != [x.shape for x in right]:
        return np.inf
    sizes = [np.abs(y).max(initial=0) for y in right]
    least = max(0.01 * max(sizes, default=0), 1e-9)
    found = [
        float(np.abs(x - y).max(initial=0) / max(size, least))
        for x, y, size in zip(values, right, sizes, strict=True)
    ]
    return max(found, default=0.0) if np.isfinite(found).all() else np.inf


def texts_apart(values, right):
    """Say how many texts are others; a word that was almost as likely makes all after it others.

    Parameters
    ----------
    values, right : list of array of shape (B, T)
        Tokens, one array in each.

    Returns
    -------
    float
        Share of the texts; infinite if shapes differ.

    Examples
    --------
    >>> texts_apart([np.array([[1, 2], [3, 4]])], [np.array([[1, 2], [3, 5]])])
    0.5
    """
    (x,), (y,) = values, right
    return float((x != y).any(1).mean()) if x.shape == y.shape else np.inf
