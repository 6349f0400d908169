"""What a check found: a line for each input and parameter, and what else is wrong with the pair."""

from dataclasses import dataclass, field

import numpy as np


class GradientError(AssertionError):
    """A backward disagrees with its forward, or breaks the contract; the message says where.

    Parameters
    ----------
    message : str
        What is wrong, with the table.
    report : Report, optional
        The same for programs.
    """

    def __init__(self, message, report=None):
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class Fault:
    """Something wrong with a pair that is not the number in a gradient.

    Attributes
    ----------
    kind : str
        ``"count"``, ``"shape"``, ``"none"`` or ``"nan"``: what the backward gave back;
        ``"output"``: the forward gives NaN or infinity; ``"mutation"``: something given was
        changed; ``"state"``: a second call gives something else; ``"accumulation"``: gradients of
        parameters are not added to what is there; ``"linearity"``: the backward is not linear
        in dy; ``"smoothness"``: there is no derivative at this point; ``"complex"``: an operation
        drops the imaginary part, so the complex step that was asked for sees nothing.
    message : str
        What is wrong, with names and numbers.
    """

    kind: str
    message: str


@dataclass(frozen=True)
class Entry:
    """What was found for one input or parameter.

    Attributes
    ----------
    name : str
        ``input 0``, ``input 1/w`` of a tree, or the name of a parameter.
    kind : {"input", "parameter"}
        Which of the two.
    shape : tuple of int
        Its shape.
    method : {"complex", "central", "longdouble"}
        How the forward's slope was measured.
    error : float
        Relative difference of the two slopes, the worst of all directions; nan counts as wrong.
    analytic, numeric : float
        The slope by the backward and by the forward: along the worst direction, or along one
        entry if `index` is given.
    directions : int
        Random directions along which the whole array was moved.
    uncertainty : float
        How exactly the forward's slope is known, relative like `error`; 0 for the complex step.
    verdict : {"right", "wrong", "coarse", "rounding"}
        ``"coarse"``: the forward's slope is not known well enough to tell. ``"rounding"``: the
        slopes differ by no more than the last digit of the inputs changes them.
    index : tuple of int, optional
        Of a wrong entry; None if nothing is wrong or it was not looked for.
    stepped : int
        Entries, or halves of them, moved by themselves to find it.
    wrong : int, optional
        How many entries are wrong, where all were moved.
    guess : str
        What may be the reason.
    rounding : float, optional
        Relative difference between the gradient in the precision that was given and in float64.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    method: str
    error: float
    analytic: float
    numeric: float
    directions: int = 1
    uncertainty: float = 0.0
    verdict: str = "right"
    index: tuple[int, ...] | None = None
    stepped: int = 0
    wrong: int | None = None
    guess: str = ""
    rounding: float | None = None

    @property
    def size(self):
        """Numbers in it."""
        return int(np.prod(self.shape))


MARKS = {
    "right": "",
    "wrong": "  <- wrong",
    "coarse": "  <- step too coarse to tell",
    "rounding": "  <- rounding: ill-conditioned",
}

WORDS = {
    "complex": "the complex step",
    "central": "central differences",
    "longdouble": "central differences in longdouble",
}


@dataclass(frozen=True)
class Report:
    """The verdict about one pair.

    Attributes
    ----------
    entries : tuple of Entry
        One for each input and parameter.
    method : {"complex", "central", "longdouble"}
        How the forward's slope was measured.
    tolerance : float
        Largest error that passes.
    seconds : float
        How long it took.
    faults : tuple of Fault
        What is wrong beside the numbers.
    note : str
        Why the complex step could not be used, if so.
    """

    entries: tuple[Entry, ...]
    method: str
    tolerance: float
    seconds: float
    faults: tuple[Fault, ...] = ()
    note: str = field(default="")

    @property
    def worst(self):
        """Largest error; nan if any is."""
        return float(np.max([entry.error for entry in self.entries], initial=0.0))

    @property
    def passed(self):
        """Whether every gradient is right and nothing else is wrong."""
        return not self.faults and all(entry.verdict == "right" for entry in self.entries)

    def __str__(self):
        worst_first = sorted(self.entries, key=lambda e: -np.nan_to_num(e.error, nan=9e99))
        narrow = any(entry.rounding is not None for entry in self.entries)
        rows = [["name", "size", "error", "at", "backward", "forward"] + ["rounding"] * narrow]
        for entry in worst_first:
            at = "direction" if entry.index is None else str(list(entry.index))
            row = [entry.name, str(entry.size), f"{entry.error:.1e}", at]
            row += [f"{entry.analytic:.5e}", f"{entry.numeric:.5e}"]
            if narrow:
                row.append("" if entry.rounding is None else f"{entry.rounding:.1e}")
            rows.append(row)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        marks = ["", *(MARKS[entry.verdict] for entry in worst_first)]
        lines = [
            "  ".join(f"{cell:<{w}}" if i in (0, 3) else f"{cell:>{w}}" for i, (cell, w) in cells)
            + mark
            for row, mark in zip(rows, marks, strict=True)
            for cells in [list(enumerate(zip(row, widths, strict=True)))]
        ]
        lines = [*lines, self._how()] if self.entries else []
        lines += [f"{entry.name}: {entry.guess}" for entry in worst_first if entry.guess]
        lines += [fault.message for fault in self.faults]
        return "\n".join(lines + [self.note] * bool(self.note))

    def _how(self):
        """Say in a line what was measured, and how."""
        count = max(entry.directions for entry in self.entries)
        directions = "1 random direction" if count == 1 else f"{count} random directions"
        total = sum(entry.size for entry in self.entries)
        stepped = sum(entry.stepped for entry in self.entries)
        line = f"{total} numbers by {WORDS[self.method]}, each array along {directions}"
        return line + (f", {stepped} steps to locate" if stepped else "")
