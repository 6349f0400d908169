"""What models check of their configs and of the parameters given beside them."""

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import get_args, get_type_hints


def from_dict(cls, mapping):
    """Build a config from plain data, as JSON keeps it: the inverse of `dataclasses.asdict`.

    Parameters
    ----------
    cls : type
        A dataclass, such as `BlockConfig`.
    mapping : mapping of str to object
        A value for each field, configs inside it as mappings; lists become tuples.

    Returns
    -------
    config : cls

    Raises
    ------
    TypeError
        If `mapping` is not a mapping.
    ValueError
        If a key is no field of the config, or a field without a default has no key.

    Examples
    --------
    >>> from scratch_vlm.layers.block import BlockConfig
    >>> from_dict(BlockConfig, {"width": 64, "heads": 4, "hidden": 256}).heads
    4
    >>> from_dict(BlockConfig, {"width": 64, "haeds": 4, "hidden": 256})
    ... # doctest: +NORMALIZE_WHITESPACE
    Traceback (most recent call last):
        ...
    ValueError: BlockConfig: unknown 'haeds' (did you mean 'heads'?); missing 'heads'; its keys are
    width, heads, hidden, kv_heads, order, norm, eps, mlp, bias, dropout, rotary_base,
    rotary_scaling, head_width, value_width, scale, depth_scale, blind
    """
    if not isinstance(mapping, Mapping):
        raise TypeError(f"{cls.__name__} is built from a mapping, got {mapping!r}")
    known = {f.name: f for f in fields(cls)}
    problems = [_unknown(key, known) for key in mapping if key not in known]
    problems += [
        f"missing {name!r}"
        for name, f in known.items()
        if name not in mapping and f.default is MISSING and f.default_factory is MISSING
    ]
    if problems:
        raise ValueError(f"{cls.__name__}: {'; '.join(problems)}; its keys are {', '.join(known)}")
    kinds = get_type_hints(cls)
    return cls(**{name: _value(kinds[name], value) for name, value in mapping.items()})


def _unknown(key, known):
    near = difflib.get_close_matches(str(key), known, 1)
    return f"unknown {key!r}" + (f" (did you mean {near[0]!r}?)" if near else "")


def _value(kind, value):
    if isinstance(value, list):
        return tuple(_value(kind, item) for item in value)
    configs = [k for k in (kind, *get_args(kind)) if is_dataclass(k)]  # in "BlockConfig | None" too
    return from_dict(configs[0], value) if configs and isinstance(value, Mapping) else value


def check_type(kind, **values):
    """Refuse values that are not of a class, such as a dict in the place of a config.

    Parameters
    ----------
    kind : type
        What each should be.
    **values : object
        The values, by the names that an error should use.

    Raises
    ------
    TypeError
        If one is something else.
    """
    for name, value in values.items():
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__name__}, got {value!r}")


def check_keys(p, *names):
    """Refuse the parameters of something else: those that lack what is going to be read.

    Parameters
    ----------
    p : dict
        Parameters.
    *names : str
        Keys that must be there; those of inner dicts after a slash, as in ``"head/w"``.

    Raises
    ------
    TypeError
        If `p` is not a dict.
    ValueError
        If keys are missing; the message names them.

    Examples
    --------
    >>> check_keys({"patch": {"w": 1}}, "patch/w", "head/w")
    Traceback (most recent call last):
        ...
    ValueError: the parameters lack head/w; they hold patch
    """
    if not isinstance(p, dict):
        raise TypeError(f"parameters must be a dict of arrays and dicts, got {type(p).__name__}")
    missing = [name for name in names if not _holds(p, name)]
    if missing:
        raise ValueError(f"the parameters lack {', '.join(missing)}; they hold {', '.join(p)}")


def _holds(p, name):
    for key in name.split("/"):
        if not isinstance(p, dict) or key not in p:
            return False
        p = p[key]
    return True
