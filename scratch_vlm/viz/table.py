"""Results as a table of plain text: what was measured beside what chance and simple means give."""

from numbers import Integral, Real

COLUMNS = ("metric", "value", "chance", "baseline")
DASH = "–"


def result_rows(metrics):
    """Flatten nested results into the cells of a table.

    Parameters
    ----------
    metrics : dict
        Nested. A leaf is a number or a dict of ``value`` and optionally ``chance`` and
        ``baseline``, each a number or None.

    Returns
    -------
    list of tuple of str
        Metric, value, chance, baseline; the names of nested metrics are joined by dots, and what
        is missing is a dash.

    Raises
    ------
    ValueError
        If there are no metrics, or a leaf has unknown keys.
    TypeError
        If a leaf is neither a number nor a dict.

    Examples
    --------
    >>> result_rows({"vit": {"accuracy": {"value": 0.955, "chance": 0.1}, "epochs": 30}})
    [('vit.accuracy', '0.955', '0.100', '–'), ('vit.epochs', '30', '–', '–')]
    """
    if not isinstance(metrics, dict):
        raise TypeError(f"metrics must be a dict of results; got {type(metrics).__name__}")
    rows = list(_rows(metrics, ""))
    if not rows:
        raise ValueError("metrics is empty; there is nothing to tabulate")
    return rows


def results_table(metrics):
    """Lay results out as aligned text, one metric a line.

    Parameters
    ----------
    metrics : dict
        Nested; see `result_rows`.

    Returns
    -------
    str
        A header, a rule and a line per metric, without a final newline.

    Raises
    ------
    ValueError, TypeError
        As `result_rows` does.

    Examples
    --------
    >>> print(results_table({"vit": {"accuracy": {"value": 0.955, "chance": 0.1}, "epochs": 30}}))
    metric        value  chance  baseline
    -------------------------------------
    vit.accuracy  0.955   0.100         –
    vit.epochs       30       –         –
    """
    rows = [COLUMNS, *result_rows(metrics)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _rows(branch, path):
    for key, child in branch.items():
        name = f"{path}.{key}" if path else str(key)
        if not isinstance(child, dict):
            yield name, _number(child, name), DASH, DASH
        elif "value" not in child:
            yield from _rows(child, name)
        elif unknown := set(child) - set(COLUMNS):
            raise ValueError(
                f"{name} has {', '.join(sorted(map(str, unknown)))} beside its value; "
                "a result holds value, chance and baseline"
            )
        else:
            yield name, *(_number(child.get(column), name) for column in COLUMNS[1:])


def _number(x, name):
    if x is None:
        return DASH
    if isinstance(x, bool) or not isinstance(x, Real):
        raise TypeError(
            f"{name} is {x!r}; a result is a number or a dict of value, chance and baseline"
        )
    if isinstance(x, Integral):
        return str(int(x))
    return f"{x:.3f}" if x == 0 or 1e-3 <= abs(x) < 1e5 else f"{x:.3g}"
