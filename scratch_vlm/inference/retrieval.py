"""Retrieval: find the image that a text describes, and the text that describes an image."""

import numpy as np

from scratch_vlm.backend import namespace


def ranks(similarity):
    """Find at which place each query finds its partner.

    Parameters
    ----------
    similarity : numpy.ndarray of shape (B, B)
        Row i holds the scores of query i; its partner is column i.

    Returns
    -------
    ranks : integer array of shape (B,)
        0 for the first place. Candidates that score the same as the partner rank before it: a
        model that gives everything one score, or NaN, finds nothing.

    Raises
    ------
    TypeError
        If the matrix is not an array.
    ValueError
        If it is not square.

    Examples
    --------
    >>> ranks(np.array([[0.9, 0.1], [0.8, 0.3]]))
    array([0, 1])
    """
    namespace(similarity)  # refuses a list
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ValueError(
            f"similarity must be square, query i beside partner i; got {similarity.shape}"
        )
    partner = np.diagonal(similarity)[:, None]
    return (~(similarity < partner)).sum(1) - 1  # not ">=", which is False for NaN


def recall_at_k(similarity, k):
    """Share of queries whose partner is among the k best candidates.

    Parameters
    ----------
    similarity : numpy.ndarray of shape (B, B)
        Row i holds the scores of query i; its partner is column i.
    k : int
        From 1 to B.

    Returns
    -------
    float
        From 0 to 1; guessing reaches k / B.

    Raises
    ------
    TypeError
        If the matrix is not an array.
    ValueError
        If it is not square or `k` is out of range.
    """
    places = ranks(similarity)
    if not 1 <= k <= len(similarity):
        raise ValueError(f"k must be from 1 to {len(similarity)}, got {k}")
    return float((places < k).mean())
