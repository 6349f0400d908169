"""The layout of a checkpoint: which tensor of a file is which part of which of our leaves.

A layout is a list of rules. Each says that a tensor under its published name *is a view* of one of
our arrays: its transpose, some of its columns, its patches cut otherwise. One direction is enough
for three uses: a weight is loaded by writing into the view, saved by reading it, and a gradient is
named as the reference names it by taking the same view of the tree of gradients.
"""

import math
import mmap
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from scratch_vlm.pretrained.tensors import FileError
from scratch_vlm.tree import leaves, tree_map

LARGE = 2**22  # bytes from which on NumPy asks for huge pages


def same(x):
    """View of an array that is published as it is.

    Parameters
    ----------
    x : array of shape (...)
        A leaf.

    Returns
    -------
    array of shape (...)
    """
    return x


def transposed(x):
    """View of weights that are published as (out, in); ours are (in, out).

    Parameters
    ----------
    x : array of shape (D, M) or of shape (D,)
        A leaf; a bias stays as it is.

    Returns
    -------
    array of shape (M, D) or of shape (D,)
    """
    return x.T


def columns(start, stop):
    """Make the view of some outputs of a linear layer, published on their own as (out, in).

    Parameters
    ----------
    start, stop : int
        The first output, and the one behind the last.

    Returns
    -------
    callable
    """
    return lambda x: x[..., start:stop].T


def rows_of(start, stop):
    """Make the view of some rows of a table, published on their own.

    Parameters
    ----------
    start, stop : int
        The first row, and the one behind the last.

    Returns
    -------
    callable
    """
    return lambda x: x[start:stop]


def leading(axes):
    """Make the view of an array that is published with axes of length 1 in front.

    Parameters
    ----------
    axes : int
        How many.

    Returns
    -------
    callable
    """
    return lambda x: x[(None,) * axes]


def kernel(patch, channels):
    """Make the view of patch weights that are published as the kernel of a convolution.

    Parameters
    ----------
    patch : tuple of int
        Height and width of a patch.
    channels : int
        C.

    Returns
    -------
    callable
        Our rows are in the order (row, column, channel); a kernel is (out, channel, row, column).
    """
    return lambda x: x.reshape(*patch, channels, -1).transpose(3, 2, 0, 1)


@dataclass(frozen=True)
class Rule:
    """A tensor of a file, or some of its rows, is a view of one of our leaves.

    Attributes
    ----------
    published : str
        Name in the file.
    ours : str
        Name of the leaf.
    view : callable
        From the leaf to the tensor.
    rows : tuple of int or None
        Which rows of the tensor these are, first and behind the last; None for all.
    optional : bool
        Whether there is no such tensor where the model has no such leaf.
    """

    published: str
    ours: str
    view: Callable = same
    rows: tuple[int, int] | None = None
    optional: bool = False


def linear(published, ours, view=transposed):
    """Rules of a linear layer, of whose bias our tree says whether there is one.

    Parameters
    ----------
    published, ours : str
        Names without ``.weight`` and ``/w``.
    view : callable, default `transposed`
        Of the weights; a bias is the same in both.

    Returns
    -------
    list of Rule
    """
    return [
        Rule(f"{published}.weight", f"{ours}/w", view),
        Rule(f"{published}.bias", f"{ours}/b", optional=True),
    ]


def norm(published, ours):
    """Rules of a layer norm, or of an RMS norm, which has no ``beta``.

    Parameters
    ----------
    published, ours : str
        Names without ``.weight`` and ``/gamma``.

    Returns
    -------
    list of Rule
    """
    return [
        Rule(f"{published}.weight", f"{ours}/gamma"),
        Rule(f"{published}.bias", f"{ours}/beta", optional=True),
    ]


def fused(published, ours, widths):
    """Rules of linear layers that are one in our tree, their outputs side by side.

    Parameters
    ----------
    published : sequence of str
        Their names, in the order of the columns.
    ours : str
        Name of the one.
    widths : sequence of int
        Outputs of each.

    Returns
    -------
    list of Rule
    """
    rules, start = [], 0
    for name, width in zip(published, widths, strict=True):
        view = columns(start, start + width)
        rules += [
            Rule(f"{name}.weight", f"{ours}/w", view),
            Rule(f"{name}.bias", f"{ours}/b", view, optional=True),
        ]
        start += width
    return rules


def qkv(published, ours, block):
    """Rules of queries, keys and values, for the linear layer that makes all of them at once.

    Parameters
    ----------
    published : sequence of str
        Names of the three.
    ours : str
        Name of the one.
    block : BlockConfig
        Says how many heads there are, and how wide.

    Returns
    -------
    list of Rule
    """
    k = block.per_head
    j = k if block.value_width is None else block.value_width
    kv_heads = block.heads if block.kv_heads is None else block.kv_heads
    return fused(published, ours, (block.heads * k, kv_heads * k, kv_heads * j))


def under(published, ours, rules):
    """Put names in front of those of rules.

    Parameters
    ----------
    published, ours : str
        With their separators: ``"vision_model."`` and ``"image/"``.
    rules : list of Rule
        Rules.

    Returns
    -------
    list of Rule
    """
    return [
        replace(rule, published=published + rule.published, ours=ours + rule.ours) for rule in rules
    ]


def repeated(published, ours, count, rules):
    """Rules of a tower, of which `rules` are those of one block.

    Parameters
    ----------
    published, ours : str
        Put in front, with ``{}`` in the place of the number.
    count : int or sequence of int
        How many, or the numbers.
    rules : list of Rule
        Those of one.

    Returns
    -------
    list of Rule
    """
    numbers = range(count) if isinstance(count, int) else count
    return [rule for i in numbers for rule in under(published.format(i), ours.format(i), rules)]


@dataclass(frozen=True)
class Layout:
    """How the checkpoint of a model is laid out.

    Attributes
    ----------
    shapes : dict
        Our tree, of arrays that have shapes and take no memory, see `blank`.
    rules : tuple of Rule
        One or more for each leaf. Of a tensor that is several leaves there is one for each.
    aliases : tuple of (str, str)
        Pairs of a regular expression and what to put in its place: names that the same tensors
        have in other files.
    buffers : str
        Regular expression of names in files that are no parameters, and are not read.
    tied : dict of str to str
        Tensors that a file may repeat under another name: that name, and the one of the rules.
    """

    shapes: dict
    rules: tuple[Rule, ...]
    aliases: tuple[tuple[str, str], ...] = ()
    buffers: str = ""
    tied: Mapping[str, str] = None

    def __post_init__(self):
        own = dict(leaves(self.shapes))
        kept = tuple(r for r in self.rules if r.ours in own or not r.optional)
        object.__setattr__(self, "rules", kept)
        object.__setattr__(self, "tied", dict(self.tied or {}))
        unknown = sorted({rule.ours for rule in kept} - set(own))
        forgotten = sorted(set(own) - {rule.ours for rule in kept})
        if unknown or forgotten:
            raise ValueError(f"rules name {unknown}, which are no leaves, and forget {forgotten}")

    @property
    def published(self):
        """Shape of every tensor of a file, by its name in the rules."""
        own, shapes = dict(leaves(self.shapes)), {}
        for rule in self.rules:
            shape = rule.view(own[rule.ours]).shape
            if rule.rows is not None:
                before = shapes.get(rule.published, (0,))[0]
                shape = (max(before, rule.rows[1]), *shape[1:])
            shapes[rule.published] = shape
        return shapes

    def names(self, files):
        """Find out under which name each tensor is in a file.

        Parameters
        ----------
        files : mapping of str to tuple of int
            Shapes of the tensors of a file.

        Returns
        -------
        dict of str to str
            From the name in the rules to the one in the file.

        Raises
        ------
        FileError
            If tensors are missing, unexpected or of another shape: all of them are listed.
        """
        wanted, found, problems = self.published, {}, []
        for name, shape in files.items():
            if self.buffers and re.fullmatch(self.buffers, name):
                continue
            known = name
            for pattern, instead in self.aliases:
                known = re.sub(pattern, instead, known)
            if known in self.tied and known not in wanted:
                continue
            if known not in wanted:
                problems.append(f"unexpected: {name} {shape}")
            elif known in found:
                problems.append(f"twice: {name} and {found[known]} are the same")
            elif shape != wanted[known]:
                problems.append(
                    f"misshapen: {name} is {shape}, the config asks for {wanted[known]}"
                )
                found[known] = name
            else:
                found[known] = name
        problems += [f"missing: {n} {shape}" for n, shape in wanted.items() if n not in found]
        if problems:
            raise FileError("the weights do not fit the config:\n  " + "\n  ".join(problems))
        return found

    def load(self, tensors, *, dtype="float32", on_tensor=None):
        """Read parameters.

        Parameters
        ----------
        tensors : Tensors
            The file; `names` has found nothing to complain about.
        dtype : str, default "float32"
            Of our arrays.
        on_tensor : callable, optional
            Called with the name of each tensor that was read; for a progress bar.

        Returns
        -------
        dict
            Our tree.

        Raises
        ------
        FileError
            If the tensors do not fit, or one that is tied differs from what it is tied to.
        """
        names = self.names(tensors.shapes)
        p = self._room(dtype)
        own = dict(leaves(p))
        for rule in self.rules:
            tensors.copy(names[rule.published], rule.view(own[rule.ours]), rule.rows)
            tensors.forget()
            if on_tensor:
                on_tensor(names[rule.published])
        for name in tensors:
            known = name
            for pattern, instead in self.aliases:
                known = re.sub(pattern, instead, known)
            if known in self.tied and known not in names:
                other = names[self.tied[known]]
                if not np.array_equal(tensors[name], tensors[other]):
                    raise FileError(
                        f"the config ties {name} to {other}, but the file has other numbers there"
                    )
        return p

    def _room(self, dtype):
        # Memory for the tree, in the order of the file: a weight that is published as (out, in)
        # stays so under our (in, out), a transposed array, and is copied seven times as fast.
        own, turned = dict(leaves(self.shapes)), set()
        for rule in self.rules:
            leaf = own[rule.ours]
            view = rule.view(np.empty(leaf.shape, dtype))  # of memory that is never touched
            if leaf.ndim == view.ndim == 2 and view.strides[0] < view.strides[1]:
                turned.add(id(leaf))
        order = {True: "F", False: "C"}
        return tree_map(lambda x: _room_for(x.shape, dtype, order[id(x) in turned]), self.shapes)

    def take(self, tree, names=None):
        """Name the arrays of a tree as they are published.

        Parameters
        ----------
        tree : dict
            Parameters, or gradients.
        names : dict of str to str, optional
            As `names` returns it. Default the names of the rules.

        Returns
        -------
        dict of str to array
            Views where a tensor is one leaf.
        """
        own, taken = dict(leaves(tree)), {}
        shapes = self.published
        for rule in self.rules:
            name = rule.published if names is None else names[rule.published]
            view = rule.view(own[rule.ours])
            if rule.rows is None:
                taken[name] = view
            else:
                if name not in taken:
                    taken[name] = np.empty(shapes[rule.published], view.dtype)
                taken[name][slice(*rule.rows)] = view
        return taken


class _Blank(np.ndarray):
    """An array of shape and no memory, of which every product is another one."""

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        shape = np.broadcast_shapes(*(np.shape(x) for x in inputs))
        return _blank_array(shape)

    def astype(self, dtype, **options):
        return self

    def copy(self, order="C"):
        return self


def _blank_array(shape):
    return np.broadcast_to(np.float32(0), shape).view(_Blank)


class _Dice:
    """In the place of a generator: numbers that are all shape."""

    def standard_normal(self, shape=()):
        return _blank_array(shape if isinstance(shape, tuple) else (shape,))


def blank(init, *arguments, **options):
    """Call an init for the shapes of its parameters, drawing and keeping nothing.

    Parameters
    ----------
    init : callable
        Such as `vit_init`; its first argument is the generator.
    *arguments, **options : object
        Its other arguments.

    Returns
    -------
    dict
        The tree; its arrays have shapes, and share one number.

    Examples
    --------
    >>> from scratch_vlm.layers.linear import linear_init
    >>> blank(linear_init, 100_000, 100_000)["w"].shape
    (100000, 100000)
    """
    tree = init(_Dice(), *arguments, **options)
    return tree_map(lambda x: np.broadcast_to(np.float32(0), x.shape), tree)


def _room_for(shape, dtype, order):
    # For large arrays NumPy asks the system for huge pages. Where memory is in pieces, finding them
    # takes several times as long as reading the file; a map of our own is made of plain pages.
    count = math.prod(shape)
    nbytes = count * np.dtype(dtype).itemsize
    if nbytes < LARGE:
        return np.empty(shape, dtype, order)
    return np.frombuffer(mmap.mmap(-1, nbytes), dtype, count).reshape(shape, order=order)
