"""Trees of arrays: nested dicts, the one container of parameters, gradients and saved state."""

import re

from scratch_vlm.backend import namespace

ALIGN = 64  # elements; the leaves of an arena start whole cache lines apart


class _Frozen(dict):
    """A gradient tree without leaves: falsy, every branch of it is itself, it swallows ``+=``."""

    def __missing__(self, key):
        return self

    def __setitem__(self, key, value):
        pass

    def __iadd__(self, other):
        return self

    def __repr__(self):
        return "FROZEN"

    def __reduce__(self):
        return "FROZEN"  # by name, so that copies and pickles of a tree hold the one there is


FROZEN = _Frozen()


def leaves(tree, path=""):
    """Walk over the arrays of a tree.

    Parameters
    ----------
    tree : dict, tuple, list or array
        A tree; entries of a tuple or list are named by their position. None has no leaves.
    path : str, optional
        Put in front of every name.

    Yields
    ------
    name : str
        The keys on the way, such as ``"vit/blocks/3/attn/qkv/w"``.
    leaf : array
        Anything that is not a dict, tuple, list or None.

    Examples
    --------
    >>> [name for name, _ in leaves({"fc": {"w": 1.0, "b": 2.0}, "scale": 3.0})]
    ['fc/w', 'fc/b', 'scale']
    """
    if isinstance(tree, dict):
        children = tree.items()
    elif isinstance(tree, tuple | list):
        children = enumerate(tree)
    else:
        if tree is not None:
            yield path, tree
        return
    for key, child in children:
        yield from leaves(child, f"{path}/{key}" if path else str(key))


def tree_map(f, tree, *others):
    """Apply a function to every array of a tree.

    Parameters
    ----------
    f : callable
        Takes the leaf of `tree` and the leaves of `others` at the same place.
    tree : dict or array
        Nested dicts.
    *others : dict or array
        Trees with the keys of `tree`.

    Returns
    -------
    dict or array
        A new tree with the keys of `tree`; a frozen branch stays frozen.
    """
    if tree is FROZEN:
        return FROZEN
    if isinstance(tree, dict):
        return {k: tree_map(f, v, *(other[k] for other in others)) for k, v in tree.items()}
    return f(tree, *others)


def zeros_like(tree):
    """Return a tree of zeros beside `tree`: an empty gradient tree.

    Parameters
    ----------
    tree : dict or array
        Parameters.

    Returns
    -------
    dict or array
        The same keys, shapes and dtypes.
    """
    return tree_map(lambda x: namespace(x).zeros_like(x), tree)


def arena(tree, names=None):
    """Copy leaves into one flat buffer and return views of it in the shape of the tree.

    The optimizer then sees one vector and the layers see names.

    Parameters
    ----------
    tree : dict
        Arrays of one dtype; frozen branches stay frozen.
    names : container of str, optional
        Leaves to place in the buffer; the others stay the arrays they are. Default all.

    Returns
    -------
    flat : array of shape (n,)
        The buffer. Leaves follow each other in the order of `leaves`, each padded with zeros to
        a multiple of 64 elements.
    views : dict
        The tree, its placed leaves views of `flat`.

    Raises
    ------
    ValueError
        If there is nothing to place, or the leaves differ in dtype.
    """
    placed = {name: x for name, x in leaves(tree) if names is None or name in names}
    if not placed:
        raise ValueError("the tree has no leaves to place: is every parameter frozen?")
    dtypes = {x.dtype for x in placed.values()}
    if len(dtypes) > 1:
        raise ValueError(f"an arena holds one dtype; the leaves have {sorted(map(str, dtypes))}")
    starts, total = {}, 0
    for name, x in placed.items():
        starts[name] = total
        total += -(-x.size // ALIGN) * ALIGN
    first = next(iter(placed.values()))
    flat = namespace(first).zeros(total, first.dtype)

    def place(branch, path):
        if branch is FROZEN:
            return FROZEN
        if isinstance(branch, dict):
            return {k: place(v, f"{path}/{k}" if path else str(k)) for k, v in branch.items()}
        if path not in placed:
            return branch
        view = flat[starts[path] : starts[path] + branch.size].reshape(branch.shape)
        view[...] = branch
        return view

    return flat, place(tree, "")


def by_rule(names, rules):
    """Give every name the value of the first rule that matches it.

    Parameters
    ----------
    names : iterable of str
        Names of leaves.
    rules : iterable of (str, object)
        Pairs of a regular expression, which must match a whole name, and a value.

    Returns
    -------
    dict
        Value by name, in the order of `names`.

    Raises
    ------
    ValueError
        If a pattern is not a regular expression, a name matches no rule, or a rule is the first
        to match no name: rules cover all parameters, and none is there for nothing.

    Examples
    --------
    >>> by_rule(["image/w", "text/w"], [("image/.*", "frozen"), (".*", "trained")])
    {'image/w': 'frozen', 'text/w': 'trained'}
    """
    rules = list(rules)
    for pattern, _ in rules:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"the rule {pattern!r} is not a regular expression: {error}") from None
    used, values, missing = set(), {}, []
    for name in names:
        for number, (pattern, value) in enumerate(rules):
            if re.fullmatch(pattern, name):
                used.add(number)
                values[name] = value
                break
        else:
            missing.append(name)
    if missing:
        raise ValueError(
            f"no rule matches {', '.join(missing[:5])}"
            + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            + "; end with a rule '.*' if the rest is meant to be treated alike"
        )
    idle = [pattern for number, (pattern, _) in enumerate(rules) if number not in used]
    if idle:
        raise ValueError(
            f"the rule {idle[0]!r} decides about no parameter: it matches none, or an earlier "
            f"rule takes them all; the parameters are {', '.join(list(values)[:8])}..."
        )
    return values


def freeze(g, rules):
    """Cut the frozen branches out of a gradient tree.

    Parameters
    ----------
    g : dict
        Gradient tree, as `zeros_like` makes it.
    rules : iterable of (str, bool)
        Pairs of a regular expression and whether the leaves it matches are trained. The first
        that matches decides; together they must cover every leaf.

    Returns
    -------
    dict
        The tree with every wholly frozen branch replaced by ``FROZEN``. Layers skip the weight
        gradient there; dx still flows.

    See Also
    --------
    by_rule : How rules are matched, and their errors.
    """
    trained = by_rule([name for name, _ in leaves(g)], rules)

    def cut(branch, path):
        if not isinstance(branch, dict):
            return branch if trained[path] else FROZEN
        kept = {k: cut(v, f"{path}/{k}" if path else str(k)) for k, v in branch.items()}
        return FROZEN if all(child is FROZEN for child in kept.values()) else kept

    return cut(g, "")


def nbytes(tree):
    """Bytes that the arrays of a tree hold, counting memory shared by views once.

    Parameters
    ----------
    tree : dict, tuple, list or array
        Parameters, or what a forward saved.

    Returns
    -------
    int
    """
    owners = {}
    for _, x in leaves(tree):
        if not hasattr(x, "nbytes"):
            continue
        owner = x
        while getattr(owner, "base", None) is not None and hasattr(owner.base, "nbytes"):
            owner = owner.base
        owners[id(owner)] = owner.nbytes
    return sum(owners.values())


def first_bad(tree, path=""):
    """Name the first array of a tree that holds a NaN or an infinity.

    Parameters
    ----------
    tree : dict, tuple, list or array
        Parameters, gradients, or what a forward saved.
    path : str, optional
        Put in front of the name.

    Returns
    -------
    str or None
        None when every number is finite.
    """
    for name, x in leaves(tree, path):
        dtype = getattr(x, "dtype", None)
        if dtype is not None and dtype.kind in "fc" and not namespace(x).isfinite(x).all():
            return name
    return None
