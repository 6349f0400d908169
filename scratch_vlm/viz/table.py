"""Results as a table of plain text: what was measured beside what chance and simple means give."""

import re
from numbers import Integral, Real

COLUMNS = ("metric", "value", "chance", "baseline")
BLIND = ("question_only", "image_only")  # the same model, but it is shown a part of the input
DASH = "–"

FAMILIES = {  # of metrics that have names to read; all others keep the dots of metrics.json
    "vit": "ViT",
    "clip": "CLIP",
    "vqa": "VQA",
    "video": "video",
    "captions": "captions",
    "few_shot": "few-shot",
    "text_only": "text alone, nats a token",
}
WORDS = {
    "lm": "language model",
    "cross_modal": "cross-modal",
    "test_accuracy": "single digits",
    "val_accuracy": "single digits, validation",
    "zero_shot_8way": "one of eight captions",
    "zero_shot_digit": "digits by words alone",
    "linear_probe_digit": "digits by a linear probe",
    "test": "new handwriting",
    "val": "validation",
    "heldout_combinations": "unseen combinations",
    "relation_heldout": "relation, held out",
    "exact": "every word right",
    "words": "words right",
    "clips": "whole clips",
    "one_frame": "one frame alone",
    "by_shots": "examples shown",
    "other_rule": "follows the examples to another rule",
    "strange_images": "examples with images of others",
    "any_rule": "no example, right by any rule",
}


def readable(key):
    """Say a key of the results in words.

    Parameters
    ----------
    key : str
        One key, without dots.

    Returns
    -------
    str

    Examples
    --------
    >>> readable("cross_modal"), readable("which_digit"), readable("length_12"), readable("4")
    ('cross-modal', 'which digit', '12 frames', '4')
    """
    key = str(key)
    count = re.fullmatch(r"(?:length_(\d+)|shots?_(\d+)|(\d+)_shots?)", key)
    if candidates := re.fullmatch(r"retrieval_r_at_1_of_(\d+)", key):
        return f"finding one of {candidates[1]} captions"
    if count:
        noun = "frame" if count[1] else "shot"
        number = count[1] or count[2] or count[3]
        return f"{number} {noun}" + "s" * (int(number) != 1)
    return WORDS.get(key, key.replace("_", " "))


def metric_name(path):
    """Name a metric for readers.

    Parameters
    ----------
    path : str
        Its keys, joined by dots.

    Returns
    -------
    str
        In words if the first key is one of `FAMILIES`; else the path as it is.

    Examples
    --------
    >>> metric_name("vqa.cross_modal.relation_heldout")
    'VQA, cross-modal: relation, held out'
    >>> metric_name("costs.seconds")
    'costs.seconds'
    """
    family, *keys = path.split(".")
    if family not in FAMILIES or not keys:
        return path
    *middle, last = map(readable, keys)
    return f"{', '.join([FAMILIES[family], *middle])}: {last}"


def result_rows(metrics):
    """Flatten nested results into the cells of a table.

    Parameters
    ----------
    metrics : dict
        Nested. A leaf is a number or a dict of ``value`` and optionally ``chance`` and
        ``baseline``, and of ``question_only`` and ``image_only``: what the model reaches without
        the rest of its input. Each is a number or None.

    Returns
    -------
    list of tuple of str
        Metric, value, chance, baseline; metrics are named by `metric_name`, and what is missing
        is a dash. A baseline that was given a part of the input says which.

    Raises
    ------
    ValueError
        If there are no metrics, or a leaf has unknown keys.
    TypeError
        If a leaf is neither a number nor a dict.

    Examples
    --------
    >>> result_rows({"vit": {"accuracy": {"value": 0.955, "chance": 0.1}, "epochs": 30}})
    [('ViT: accuracy', '0.955', '0.100', '–'), ('ViT: epochs', '30', '–', '–')]
    >>> result_rows({"vqa": {"unified": {"colour": {"value": 0.9, "question_only": 0.3}}}})
    [('VQA, unified: colour', '0.900', '–', 'question only 0.300')]
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
    metric         value  chance  baseline
    --------------------------------------
    ViT: accuracy  0.955   0.100         –
    ViT: epochs       30       –         –
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
            yield metric_name(name), _number(child, name), DASH, DASH
        elif "value" not in child:
            yield from _rows(child, name)
        elif unknown := set(child) - {*COLUMNS[1:], *BLIND}:
            raise ValueError(
                f"{name} has {', '.join(sorted(map(str, unknown)))} beside its value; "
                f"a result holds value, chance, baseline, {' and '.join(BLIND)}"
            )
        else:
            value, chance, baseline = (_number(child.get(key), name) for key in COLUMNS[1:])
            blind = {readable(key): _number(child.get(key), name) for key in BLIND}
            baselines = [baseline, *(f"{k} {x}" for k, x in blind.items() if x != DASH)]
            if len(baselines) > 1 and baseline == DASH:
                del baselines[0]
            yield metric_name(name), value, chance, ", ".join(baselines)


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
