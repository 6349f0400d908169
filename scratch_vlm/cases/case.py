"""What a case is: one call of a forward, with random numbers, of axes that differ in length."""

from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from scratch_vlm.backend import to_device
from scratch_vlm.tree import tree_map


@dataclass(frozen=True)
class Sizes:
    """Axis lengths that cases are made of; the letters are those of the shapes in docstrings.

    Attributes
    ----------
    B, T, S : int
        Samples, tokens that ask, tokens that answer.
    A, K : int
        Heads and head width.
    M, E, V : int
        MLP width, embedding width, vocabulary or classes.
    C : int
        Channels of an image.
    rows, columns : int
        Patches of an image.
    """

    B: int = 3
    T: int = 5
    S: int = 7
    A: int = 2
    K: int = 4
    M: int = 9
    E: int = 6
    V: int = 11
    C: int = 4
    rows: int = 2
    columns: int = 5

    @property
    def D(self):
        """Model width."""
        return self.A * self.K


@dataclass(frozen=True)
class Case:
    """One call of a forward.

    Attributes
    ----------
    inputs : tuple of array
        Positional arguments; float64 ones are differentiated.
    p : dict or None
        Parameters, random throughout: at initialisation, with gains of one and biases of zero,
        wrong backwards pass.
    options : dict
        Keyword arguments. A callable is called for a fresh value on each use.
    on_host : tuple of str
        Options that stay on the host wherever the others live: what decides about shapes.
    """

    inputs: tuple
    p: dict | None = None
    options: dict = field(default_factory=dict)
    on_host: tuple = ("lengths",)

    def fresh_options(self):
        """Return the keyword arguments of one call."""
        return {
            k: v() if isinstance(v, partial) and k == "rng" else v for k, v in self.options.items()
        }

    def astype(self, dtype):
        """Return the case with its floating point numbers in another precision.

        Parameters
        ----------
        dtype : dtype

        Returns
        -------
        Case
        """

        def cast(x):
            return x.astype(dtype) if x.dtype.kind == "f" else x

        p = None if self.p is None else tree_map(cast, self.p)
        return replace(self, inputs=tuple(map(cast, self.inputs)), p=p)

    def to(self, xp):
        """Return the case with its arrays, those among the options too, on a device.

        Those that `on_host` names stay.

        Parameters
        ----------
        xp : module
            `numpy` or `cupy`.

        Returns
        -------
        Case
        """

        def move(x):
            return to_device(x, xp) if isinstance(x, np.ndarray) else x

        p = None if self.p is None else tree_map(move, self.p)
        options = {
            name: option if name in self.on_host else move(option)
            for name, option in self.options.items()
        }
        return replace(self, inputs=tuple(map(move, self.inputs)), p=p, options=options)


def random_parameters(rng, tree):
    """Replace every parameter by random numbers of a size that keeps signals alive.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where they come from.
    tree : dict
        As an init returns it.

    Returns
    -------
    dict
        The same keys and shapes, in float64.
    """

    def draw(x):
        if x.ndim > 1:
            return rng.standard_normal(x.shape) / np.sqrt(len(x))
        return np.asarray(0.5 * x + 0.5 * rng.standard_normal(x.shape))

    return tree_map(draw, tree)


def random_mask(rng, shape):
    """Draw a boolean mask of which some rows are empty and some full.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where it comes from.
    shape : tuple of int
        (B, A, T, S), any of them perhaps 1.

    Returns
    -------
    boolean array
    """
    density = rng.choice([0.0, 0.5, 1.0], size=(*shape[:-1], 1), p=[0.2, 0.6, 0.2])
    return rng.random(shape) < density
