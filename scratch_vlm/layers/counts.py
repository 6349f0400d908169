"""What the numbers of a config have in common: they count something."""

from numbers import Integral


def check_counts(**counts):
    """Refuse numbers that cannot count channels, heads or blocks.

    Parameters
    ----------
    **counts : int
        The numbers, by the names that an error should use.

    Raises
    ------
    ValueError
        If one is not a whole number of at least 1.

    Examples
    --------
    >>> check_counts(width=64, heads=4)
    >>> check_counts(width=64, heads=0)
    Traceback (most recent call last):
        ...
    ValueError: heads must be a positive whole number, got 0
    """
    for name, count in counts.items():
        if not isinstance(count, Integral) or count < 1:
            raise ValueError(f"{name} must be a positive whole number, got {count!r}")
