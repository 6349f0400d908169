"""The KV cache: keys and values of tokens that were read once and need not be read again."""

import numpy as np

from scratch_vlm.backend import namespace
from scratch_vlm.layers.counts import check_counts


class KVCache:
    """Keys and values of one attention layer, in memory that is reserved once.

    A new token costs one row each; nothing that was written is moved or copied again.

    Parameters
    ----------
    batch : int
        B.
    heads : int
        G, heads of keys and values.
    length : int
        S, tokens that fit.
    width : int
        K, channels of a head.
    dtype : str or dtype, default "float32"
        Of keys and values.
    xp : module, default numpy
        Where to keep them.

    Attributes
    ----------
    k, v : array of shape (B, G, S, K)
        The first `length` places are filled.
    length : int
        Tokens held.

    Examples
    --------
    >>> cache = KVCache(batch=1, heads=2, length=8, width=4)
    >>> k, v = cache.extend(np.ones((1, 2, 3, 4)), np.ones((1, 2, 3, 4)))
    >>> k.shape, cache.length
    ((1, 2, 3, 4), 3)
    """

    def __init__(self, batch, heads, length, width, dtype="float32", xp=np):
        check_counts(batch=batch, heads=heads, length=length, width=width)
        self.k = xp.zeros((batch, heads, length, width), dtype)
        self.v = xp.zeros((batch, heads, length, width), dtype)
        self.length = 0

    def extend(self, k, v):
        """Write the keys and values of new tokens behind those of the old.

        Parameters
        ----------
        k, v : array of shape (B, G, T, K)
            Of T new tokens.

        Returns
        -------
        k, v : array of shape (B, G, S, K)
            Views of all that is held now.

        Raises
        ------
        ValueError
            If they do not fit, in shape or in number.
        """
        namespace(k)  # refuses a list
        b, g, capacity, width = self.k.shape
        new = k.shape[2] if k.ndim == 4 else 0
        if k.shape != v.shape or k.shape != (b, g, new, width):
            raise ValueError(f"the cache takes ({b}, {g}, T, {width}), got {k.shape} and {v.shape}")
        end = self.length + new
        if end > capacity:
            raise ValueError(
                f"the cache holds {self.length} of {capacity} tokens; {new} more do not fit"
            )
        self.k[:, :, self.length : end] = k
        self.v[:, :, self.length : end] = v
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]
